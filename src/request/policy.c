/*
 * policy.c
 *	  The checks of a request that need no meters, in their order.
 *
 * The first check is the block of the client's address (block.c), which needs
 * no key; then the key is looked up.  Each further check is a row of
 * PolicyChecks: verify stops at the first that fails, explain_key shows them
 * all.  Limits are not decided here: they need meters.
 *
 * An empty list of a key (addresses, domains, products) restricts nothing; one
 * with entries refuses a request that names nothing to compare.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "engine/wait.h"
#include "pure/clock.h"
#include "pure/pattern.h"
#include "request/block.h"
#include "request/policy.h"
#include "request/productlist.h"

#define SCOPES_UNSORTED 8 /* asked for at most: the key's are compared one by one */

static bool
notSuspended(const PolicyCase *c)
{
	return !c->row->suspended;
}

static bool
keyActive(const PolicyCase *c)
{
	return c->row->active;
}

static bool
accountActive(const PolicyCase *c)
{
	return c->row->account_active;
}

static bool
notExpired(const PolicyCase *c)
{
	return c->row->expires_at == DT_NOEND || ClockTimestamp(ClockWallNow()) < c->row->expires_at;
}

/* Tells whether a network of the key's list contains the request's address. */
static bool
addressAllowed(const PolicyCase *c)
{
	const inet *ip = c->request->ip;
	PatternAddress address;
	Datum *networks;
	int count;

	if (c->row->allowed_ips == NULL)
		return true;
	if (ip == NULL)
		return false;
	PatternAddressSet(&address, ip_addr(ip), ip_addrsize(ip));
	deconstruct_array(c->row->allowed_ips, CIDROID, -1, false, TYPALIGN_INT, &networks, NULL,
					  &count);
	for (int i = 0; i < count; i++)
	{
		inet *network = DatumGetInetPP(networks[i]);

		CHECK_FOR_INTERRUPTS();
		if (PatternNetworkContains(ip_addr(network), ip_addrsize(network), ip_bits(network),
								   &address))
			return true;
	}
	return false;
}

/*
 * Tells whether a pattern of the key's list matches the host that the request
 * comes from.
 */
static bool
domainAllowed(const PolicyCase *c)
{
	const text *origin = c->request->origin;
	const char *host;
	size_t host_len;
	Datum *patterns;
	int count;

	if (c->row->allowed_domains == NULL)
		return true;
	if (origin == NULL ||
		!PatternOriginHost(VARDATA_ANY(origin), VARSIZE_ANY_EXHDR(origin), &host, &host_len))
		return false;
	deconstruct_array(c->row->allowed_domains, TEXTOID, -1, false, TYPALIGN_INT, &patterns, NULL,
					  &count);
	for (int i = 0; i < count; i++)
	{
		text *pattern = DatumGetTextPP(patterns[i]);

		CHECK_FOR_INTERRUPTS();
		if (PatternMatchesHost(VARDATA_ANY(pattern), VARSIZE_ANY_EXHDR(pattern), host, host_len))
			return true;
	}
	return false;
}

static bool
productAllowed(const PolicyCase *c)
{
	return ProductListMatch(c->lookup, c->row->key_id, c->request->product) != PRODUCT_NOT_ASSIGNED;
}

/* Orders scopes for a search: the shorter one first. */
static int
compareScopes(const void *a, const void *b)
{
	const Scope *first = a;
	const Scope *second = b;

	if (first->len != second->len)
		return first->len < second->len ? -1 : 1;
	return memcmp(first->bytes, second->bytes, first->len);
}

/*
 * Tells whether the key has every scope that the request asks for.  There are
 * no wildcards.  Where many are asked for, those of the key are sorted first:
 * the work does not grow with the product of both.
 */
static bool
scopesGranted(const PolicyCase *c)
{
	const Request *request = c->request;
	bool sorted = (request->scope_count > SCOPES_UNSORTED);
	Scope *granted;
	Datum *values;
	int count;

	if (request->scope_count == 0 || c->row->scopes == NULL)
		return request->scope_count == 0;
	deconstruct_array(c->row->scopes, TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &count);
	granted = palloc_array(Scope, count);
	for (int i = 0; i < count; i++)
	{
		const text *scope = DatumGetTextPP(values[i]);

		CHECK_FOR_INTERRUPTS();
		granted[i] = (Scope){VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope)};
	}
	if (sorted)
		qsort(granted, count, sizeof(Scope), compareScopes);
	for (int i = 0; i < request->scope_count; i++)
	{
		const Scope *asked = &request->scopes[i];
		bool found = false;

		CHECK_FOR_INTERRUPTS();
		if (sorted)
			found = asked->bytes && bsearch(asked, granted, count, sizeof(Scope), compareScopes);
		for (int g = 0; g < count && asked->bytes && !sorted && !found; g++)
			found = compareScopes(asked, &granted[g]) == 0;
		if (!found)
			return false;
	}
	return true;
}

static void
describeSuspension(const PolicyCase *c, StringInfo out)
{
	if (c->row->suspended)
		appendStringInfo(out, "suspended: %s", text_to_cstring(c->row->suspended_reason));
}

static void
describeExpiry(const PolicyCase *c, StringInfo out)
{
	if (c->row->expires_at == DT_NOEND)
		appendStringInfoString(out, "never expires");
	else
		appendStringInfo(out, "%s %s", notExpired(c) ? "expires at" : "expired at",
						 timestamptz_to_str(c->row->expires_at));
}

/* Writes a list of the key and what the request has to set against it. */
static void
describeList(StringInfo out, ArrayType *list, const char *unlisted, const char *given)
{
	Oid output;
	bool varlena;

	if (list == NULL)
	{
		appendStringInfoString(out, unlisted);
		return;
	}
	getTypeOutputInfo(ARR_ELEMTYPE(list) == CIDROID ? CIDRARRAYOID : TEXTARRAYOID, &output,
					  &varlena);
	appendStringInfo(out, "the key has %s, the request %s",
					 OidOutputFunctionCall(output, PointerGetDatum(list)), given ? given : "none");
}

static void
describeAddresses(const PolicyCase *c, StringInfo out)
{
	const inet *ip = c->request->ip;

	describeList(out, c->row->allowed_ips, "any address",
				 ip ? DatumGetCString(DirectFunctionCall1(inet_out, InetPGetDatum(ip))) : NULL);
}

static void
describeDomains(const PolicyCase *c, StringInfo out)
{
	describeList(out, c->row->allowed_domains, "any domain",
				 c->request->origin ? text_to_cstring(c->request->origin) : NULL);
}

static void
describeProduct(const PolicyCase *c, StringInfo out)
{
	const text *product = c->request->product;

	if (ProductListMatch(c->lookup, c->row->key_id, product) == PRODUCT_UNRESTRICTED)
		appendStringInfoString(out, "any product");
	else if (product)
		appendStringInfo(out, "the request is for %s", text_to_cstring(product));
	else
		appendStringInfoString(out, "the key is assigned to products, the request names none");
}

static void
describeScopes(const PolicyCase *c, StringInfo out)
{
	const Request *request = c->request;
	Datum *values = palloc_array(Datum, request->scope_count);
	bool *nulls = palloc_array(bool, request->scope_count);
	int lower = 1;
	Oid output;
	bool varlena;

	if (request->scopes == NULL)
	{
		appendStringInfoString(out, "the request asks for none");
		return;
	}
	for (int i = 0; i < request->scope_count; i++)
	{
		const Scope *scope = &request->scopes[i];

		nulls[i] = (scope->bytes == NULL);
		values[i] = nulls[i] ? (Datum) 0 :
							   PointerGetDatum(cstring_to_text_with_len(scope->bytes, scope->len));
	}
	getTypeOutputInfo(TEXTARRAYOID, &output, &varlena);
	describeList(out, c->row->scopes, "the key has none",
				 OidOutputFunctionCall(output, PointerGetDatum(construct_md_array(
												   values, nulls, 1, (int[]){request->scope_count},
												   &lower, TEXTOID, -1, false, TYPALIGN_INT))));
}

const PolicyCheck PolicyChecks[] = {
	{"suspended", VERDICT_SUSPENDED, notSuspended, describeSuspension},
	{"key active", VERDICT_INACTIVE, keyActive, NULL},
	{"account active", VERDICT_INACTIVE, accountActive, NULL},
	{"expiry", VERDICT_EXPIRED, notExpired, describeExpiry},
	{"address", VERDICT_IP_NOT_ALLOWED, addressAllowed, describeAddresses},
	{"domain", VERDICT_DOMAIN_NOT_ALLOWED, domainAllowed, describeDomains},
	{"product", VERDICT_PRODUCT_NOT_ALLOWED, productAllowed, describeProduct},
	{"scopes", VERDICT_INSUFFICIENT_SCOPE, scopesGranted, describeScopes},
	{NULL}};

/*
 * Decides as PolicyDecide does, without waiting: if the look-up is late then,
 * neither the result nor the verdict means anything.  A failure of the address
 * is not counted unless it is certain.
 */
static bool
decideNow(Lookup *lookup, const Request *request, KeyRow *row, Verdict *verdict)
{
	PolicyCase policy_case = {lookup, row, request};
	const PolicyCheck *check = PolicyChecks;
	BlockAnswer block = BlockApplies(request->ip, &verdict->retry_after);
	bool found;

	lookup->late = (block == BLOCK_UNKNOWN);
	if (block == BLOCK_IN_FORCE)
		verdict->code = VERDICT_IP_BLOCKED;
	if (block != BLOCK_NONE)
		return false;
	found = request->key && LookupByText(lookup, VARDATA_ANY(request->key),
										 VARSIZE_ANY_EXHDR(request->key), &request->digest, row);
	if (lookup->late)
		return false;
	if (!found)
	{
		if (!BlockCountFailure(request, &verdict->retry_after))
			verdict->code = VERDICT_IP_BLOCKED;
		else
			verdict->code = request->presented ? VERDICT_INVALID : VERDICT_MISSING;
		return false;
	}
	while (check->name && check->passes(&policy_case))
		check++;
	verdict->key_id = row->key_id;
	verdict->account = row->account_name;
	verdict->code = check->name ? check->failure : VERDICT_VALID;
	return true;
}

/*
 * Makes all checks but the meters: the block of the address, the look-up, and
 * those above.  True: the request names a key, and the row is filled; its
 * verdict's code is that of the first check that fails, VERDICT_VALID if none
 * does.  The look-up is begun if it is not open.  Where a table cannot be
 * locked before the deadline, the verdict is overloaded.  Can be cancelled
 * while it waits, and holds no locks then.
 */
bool
PolicyDecide(Lookup *lookup, const Request *request, KeyRow *row, Verdict *verdict, int64 deadline)
{
	long nap_ms = 1;

	do
	{
		*verdict = (Verdict) VERDICT_EMPTY;
		if (LookupBegin(lookup))
		{
			bool named = decideNow(lookup, request, row, verdict);

			if (likely(!lookup->late))
				return named;
		}
		LookupEnd(lookup);
	} while (WaitBeforeRetry(WAIT_TABLE_LOCK, &nap_ms, deadline));
	*verdict = (Verdict) VERDICT_EMPTY;
	VerdictSetOverloaded(verdict);
	return false;
}
