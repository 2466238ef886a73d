/*
 * verdict.c
 *	  The answer to a request: its codes, texts and the SQL type
 *	  apikeys.verdict.
 *
 * The texts are published: clients show and compare them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "pure/clock.h"
#include "pure/ring.h"
#include "types/verdict.h"

StaticAssertDecl(VERDICT_NEVER == RING_NEVER, "a wait of the meters is a wait of the verdict");

#define OVERLOADED_RETRY_NS NS_PER_SECOND

int QuotaStatus = 401;

static const struct
{
	const char *name;
	int status;
	const char *message; /* NULL: it tells the limit */
} codes[VERDICT_CODES] = {
	[VERDICT_VALID] = {"valid", 200, "OK"},
	[VERDICT_MISSING] = {"missing", 401, "Invalid API Key"},
	[VERDICT_INVALID] = {"invalid", 401, "Invalid API Key"},
	[VERDICT_SUSPENDED] = {"suspended", 401, "Suspended API Key"},
	[VERDICT_INACTIVE] = {"inactive", 401, "Inactive API Key"},
	[VERDICT_EXPIRED] = {"expired", 401, "Expired API Key"},
	[VERDICT_QUOTA_EXCEEDED] = {"quota_exceeded", 0, NULL},
	[VERDICT_RATE_LIMITED] = {"rate_limited", 429, NULL},
	[VERDICT_IP_BLOCKED] = {"ip_blocked", 403, "IP temporarily blocked"},
	[VERDICT_IP_NOT_ALLOWED] = {"ip_not_allowed", 403,
								"This API Key may not be used from this IP address"},
	[VERDICT_DOMAIN_NOT_ALLOWED] = {"domain_not_allowed", 403,
									"This API Key may not be used from this domain"},
	[VERDICT_PRODUCT_NOT_ALLOWED] = {"product_not_allowed", 403,
									 "This API Key may not be used for this product"},
	[VERDICT_INSUFFICIENT_SCOPE] = {"insufficient_scope", 403,
									"This API Key lacks a scope that the request needs"},
	[VERDICT_OVERLOADED] = {"overloaded", 503, "API Keys cannot be checked now"}};

/* Returns the code as the SQL type has it. */
const char *
VerdictName(VerdictCode code)
{
	return codes[code].name;
}

/* Finds the code that the SQL type has under a name; false: there is none. */
bool
VerdictFind(const text *name, VerdictCode *code)
{
	for (int i = 0; i < VERDICT_CODES; i++)
		if (strlen(codes[i].name) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(codes[i].name, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) == 0)
		{
			*code = i;
			return true;
		}
	return false;
}

/* Returns the HTTP status of a code. */
int
VerdictStatus(VerdictCode code)
{
	return code == VERDICT_QUOTA_EXCEEDED ? QuotaStatus : codes[code].status;
}

/*
 * Makes it the verdict on a request that could not be decided, or not recorded,
 * in time.  Nobody knows when that changes: another attempt is worth while
 * soon.
 */
void
VerdictSetOverloaded(Verdict *verdict)
{
	verdict->code = VERDICT_OVERLOADED;
	verdict->recorded = verdict->limited = false;
	verdict->retry_after = OVERLOADED_RETRY_NS;
}

/* The windows whose limits of a key are called quotas. */
static const char *
quotaName(uint32 window)
{
	switch (window)
	{
		case LIMIT_WINDOW_TOTAL:
			return "total";
		case 86400:
			return "daily";
		case 7 * 86400:
			return "weekly";
		case 30 * 86400:
			return "monthly";
		default:
			return NULL;
	}
}

/*
 * Tells how a denial by a limit is called: the key's quotas have a code of
 * their own.
 */
VerdictCode
VerdictOfLimit(bool of_account, uint32 window)
{
	return !of_account && quotaName(window) ? VERDICT_QUOTA_EXCEEDED : VERDICT_RATE_LIMITED;
}

/*
 * Writes a window as one word, such as 10-minutes; out has
 * LIMIT_WINDOW_NAME_MAX bytes.
 */
void
VerdictWindowWord(uint32 window, char *out)
{
	LimitWindowFormat(window, out);
	for (char *c = out; *c; c++)
		if (*c == ' ')
			*c = '-';
}

/* Returns a constant as a text value, which is made once in a process. */
static Datum
constantText(text **made, const char *constant)
{
	if (unlikely(*made == NULL))
	{
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

		*made = cstring_to_text(constant);
		MemoryContextSwitchTo(caller);
	}
	return PointerGetDatum(*made);
}

static Datum
messageText(const Verdict *verdict)
{
	static text *made[VERDICT_CODES];
	char message[128];
	char window[LIMIT_WINDOW_NAME_MAX];

	if (codes[verdict->code].message)
		return constantText(&made[verdict->code], codes[verdict->code].message);
	if (verdict->code == VERDICT_QUOTA_EXCEEDED)
		snprintf(message, sizeof(message), "Rate limit exceeded: quota %s",
				 quotaName(verdict->limit.window));
	else
	{
		VerdictWindowWord(verdict->limit.window, window);
		snprintf(message, sizeof(message), "exceeded the %s%s rate limit %s",
				 verdict->limit.window == LIMIT_WINDOW_TOTAL ? "" : "per-", window,
				 verdict->of_account ? "on your subscription" : "of this key");
	}
	return CStringGetTextDatum(message);
}

/*
 * Returns as many nanoseconds in seconds, rounded up to microseconds: waiting
 * so long is enough.
 */
static Datum
formSeconds(int64 nanoseconds, bool *isnull)
{
	*isnull = (nanoseconds == VERDICT_NEVER);
	if (*isnull)
		return (Datum) 0;
	return Float8GetDatum((double) ((nanoseconds + 999) / 1000) / 1e6);
}

/* Gives the verdict's columns; both arrays have VERDICT_COLUMNS places. */
void
VerdictColumns(const Verdict *verdict, Datum *values, bool *nulls)
{
	static text *names[VERDICT_CODES];
	static text *subjects[2];
	char window[LIMIT_WINDOW_NAME_MAX];

	memset(nulls, true, VERDICT_COLUMNS * sizeof(bool));
	memset(values, 0, VERDICT_COLUMNS * sizeof(Datum));
	nulls[VERDICT_COLUMN_ALLOWED] = nulls[VERDICT_COLUMN_STATUS] = nulls[VERDICT_COLUMN_CODE] =
		nulls[VERDICT_COLUMN_MESSAGE] = false;
	values[VERDICT_COLUMN_ALLOWED] = BoolGetDatum(verdict->code == VERDICT_VALID);
	values[VERDICT_COLUMN_STATUS] = Int16GetDatum(VerdictStatus(verdict->code));
	values[VERDICT_COLUMN_CODE] = constantText(&names[verdict->code], VerdictName(verdict->code));
	values[VERDICT_COLUMN_MESSAGE] = messageText(verdict);
	if (verdict->key_id)
	{
		nulls[VERDICT_COLUMN_KEY_ID] = nulls[VERDICT_COLUMN_ACCOUNT] = false;
		values[VERDICT_COLUMN_KEY_ID] = Int64GetDatum(verdict->key_id);
		values[VERDICT_COLUMN_ACCOUNT] = PointerGetDatum(verdict->account);
	}
	if (verdict->recorded)
	{
		nulls[VERDICT_COLUMN_REQUEST_ID] = false;
		values[VERDICT_COLUMN_REQUEST_ID] = UUIDPGetDatum(&verdict->request_id);
	}
	if (verdict->limited)
	{
		nulls[VERDICT_COLUMN_LIMIT_SUBJECT] = nulls[VERDICT_COLUMN_LIMIT_WINDOW] =
			nulls[VERDICT_COLUMN_LIMIT_CAP] = nulls[VERDICT_COLUMN_REMAINING] = false;
		values[VERDICT_COLUMN_LIMIT_SUBJECT] =
			constantText(&subjects[verdict->of_account], verdict->of_account ? "account" : "key");
		values[VERDICT_COLUMN_LIMIT_WINDOW] = PointerGetDatum(
			cstring_to_text_with_len(window, LimitWindowFormat(verdict->limit.window, window)));
		values[VERDICT_COLUMN_LIMIT_CAP] = Int64GetDatum(verdict->limit.cap);
		values[VERDICT_COLUMN_REMAINING] = Int64GetDatum(verdict->remaining);
		values[VERDICT_COLUMN_RESET_AFTER_S] =
			formSeconds(verdict->reset_after, &nulls[VERDICT_COLUMN_RESET_AFTER_S]);
	}
	values[VERDICT_COLUMN_RETRY_AFTER_S] =
		formSeconds(verdict->retry_after, &nulls[VERDICT_COLUMN_RETRY_AFTER_S]);
}

/*
 * Returns the verdict as a value of the SQL type, for a function that returns
 * that type.
 */
Datum
VerdictForm(const Verdict *verdict, FunctionCallInfo fcinfo)
{
	TupleDesc desc = lookup_rowtype_tupdesc(get_func_rettype(fcinfo->flinfo->fn_oid), -1);
	Datum values[VERDICT_COLUMNS];
	bool nulls[VERDICT_COLUMNS];
	HeapTuple tuple;

	if (desc->natts != VERDICT_COLUMNS)
		elog(ERROR, "function does not return apikeys.verdict");
	VerdictColumns(verdict, values, nulls);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}
