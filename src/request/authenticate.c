/*
 * authenticate.c
 *	  The checks of a request, with nothing metered: authenticate, key_facts
 *	  and explain_key.
 *
 * They write to no table, so they work on a standby and without shared memory.
 * authenticate and key_facts leave the limits out.  Where there is shared
 * memory they count failures as verify does, so that nobody can guess keys by
 * them.  All wait for locks on tables as verify does, up to a deadline.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "engine/queue.h"
#include "engine/wait.h"
#include "pure/clock.h"
#include "request/authenticate.h"
#include "request/block.h"
#include "request/limitstatus.h"
#include "request/policy.h"
#include "request/request.h"
#include "tables/refuse.h"
#include "types/verdict.h"

PG_FUNCTION_INFO_V1(apikeys_key_authenticate);
PG_FUNCTION_INFO_V1(apikeys_key_recognize);
PG_FUNCTION_INFO_V1(apikeys_key_explain);

/* Returns when a call stops waiting for locks on tables. */
static int64
waitUntil(void)
{
	return ClockNow() + QueueTimeout * NS_PER_MILLISECOND;
}

/* Raises that it has stopped. */
static void
refuseLocked(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("tables of apikeys are locked by other sessions"),
			 errdetail("They could not be read within apikeys.queue_timeout."), errhidestmt(true)));
}

/*
 * Finds a key by its id; false: there is none.  The look-up is over: the row's
 * pointers are gone.
 */
bool
AuthenticateFind(int64 key_id, KeyRow *row)
{
	int64 deadline = waitUntil();
	long nap_ms = 1;
	Lookup lookup = {0};
	bool found;
	bool late;

	do
	{
		late = !LookupBegin(&lookup);
		found = !late && LookupById(&lookup, key_id, row);
		late |= lookup.late;
		LookupEnd(&lookup);
	} while (late && WaitBeforeRetry(WAIT_TABLE_LOCK, &nap_ms, deadline));
	if (late)
		refuseLocked();
	return found;
}

/*
 * Makes all checks but the meters.  The look-up stays open: the verdict and the
 * row point into it.
 */
void
Authenticate(FunctionCallInfo fcinfo, Lookup *lookup, KeyRow *row, Verdict *verdict)
{
	Request request;

	RequestRead(fcinfo, &request);
	if (!PG_ARGISNULL(REQUEST_KEY))
		RequestSetKey(&request, PG_GETARG_TEXT_PP(REQUEST_KEY));
	PolicyDecide(lookup, &request, row, verdict, waitUntil());
}

/* Returns the verdict of all checks but the meters; SQL: authenticate. */
Datum
apikeys_key_authenticate(PG_FUNCTION_ARGS)
{
	Verdict verdict;
	Lookup lookup = {0};
	KeyRow row;
	Datum result;

	Authenticate(fcinfo, &lookup, &row, &verdict);
	result = VerdictForm(&verdict, fcinfo);
	LookupEnd(&lookup);
	return result;
}

/*
 * Returns the id of the key that a text belongs to, if it is good for requests
 * from an address, else NULL; SQL: recognize_key.  Domain, product and scopes
 * are not asked: it is no request, and names none.
 */
Datum
apikeys_key_recognize(PG_FUNCTION_ARGS)
{
	Request request = {0};
	Verdict verdict;
	Lookup lookup = {0};
	KeyRow row;

	RequestSetKey(&request, PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0));
	request.ip = PG_ARGISNULL(1) ? NULL : PG_GETARG_INET_PP(1);
	PolicyDecide(&lookup, &request, &row, &verdict, waitUntil());
	LookupEnd(&lookup);
	switch (verdict.code)
	{
		case VERDICT_VALID:
		case VERDICT_DOMAIN_NOT_ALLOWED: /* the checks before have passed */
		case VERDICT_PRODUCT_NOT_ALLOWED:
			PG_RETURN_INT64(verdict.key_id);
		case VERDICT_OVERLOADED:
			refuseLocked();
			/* FALLTHROUGH */
		default:
			PG_RETURN_NULL();
	}
}

/* Writes one check with its outcome; detail may be NULL. */
static void
putCheck(ReturnSetInfo *result, const char *name, bool passes, VerdictCode failure,
		 const char *detail)
{
	Datum values[4] = {CStringGetTextDatum(name), BoolGetDatum(passes),
					   CStringGetTextDatum(VerdictName(failure)),
					   detail ? CStringGetTextDatum(detail) : (Datum) 0};
	bool nulls[4] = {false, false, passes, detail == NULL};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * Writes the status of each limit of the key or its account, and whether it
 * leaves room for the request.
 */
static void
putLimits(ReturnSetInfo *result, const PolicyCase *c, MeterKind kind)
{
	bool of_account = (kind == METER_ACCOUNT);
	const LimitSet *limits = of_account ? &c->row->account_limits : &c->row->limits;
	LimitStatus statuses[LIMITS_MAX];

	LimitStatusRead(RelationGetRelid(c->lookup->key), kind,
					of_account ? c->row->account_id : c->row->key_id, limits, statuses);
	for (int i = 0; i < limits->count; i++)
	{
		const UsageLimit *limit = &limits->limits[i];
		char window[LIMIT_WINDOW_NAME_MAX];
		StringInfoData detail;

		LimitWindowFormat(limit->window, window);
		initStringInfo(&detail);
		appendStringInfo(&detail, INT64_FORMAT " of " INT64_FORMAT " units used", statuses[i].used,
						 statuses[i].cap);
		if (statuses[i].free_at != RING_NEVER)
			appendStringInfo(&detail, ", some come back at %s",
							 timestamptz_to_str(LimitStatusFreeAt(&statuses[i])));
		putCheck(result, psprintf("%s limit: %s", of_account ? "account" : "key", window),
				 Max(c->request->cost, 1) <= statuses[i].cap - statuses[i].used,
				 VerdictOfLimit(of_account, limit->window), detail.data);
	}
}

/*
 * Writes the checks of a request with a key, known by its id; false: a table
 * cannot be locked without waiting.
 */
static bool
explainNow(ReturnSetInfo *result, int64 key_id, const Request *request, Lookup *lookup)
{
	KeyRow row;
	PolicyCase policy_case = {lookup, &row, request};
	StringInfoData block_detail;
	BlockAnswer block;
	bool found;

	if (!LookupBegin(lookup))
		return false;
	found = LookupById(lookup, key_id, &row);
	if (lookup->late)
		return false;
	if (!found)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
						errmsg("key " INT64_FORMAT " does not exist", key_id),
						RefusePlace("key", "key_id", NULL)));
	initStringInfo(&block_detail);
	block = BlockExplain(request->ip, &block_detail);
	if (block == BLOCK_UNKNOWN)
		return false;
	putCheck(result, "address block", block == BLOCK_NONE, VERDICT_IP_BLOCKED,
			 block_detail.len > 0 ? block_detail.data : NULL);
	for (const PolicyCheck *check = PolicyChecks; check->name; check++)
	{
		StringInfoData detail;

		initStringInfo(&detail);
		if (check->describe)
			check->describe(&policy_case, &detail);
		putCheck(result, check->name, check->passes(&policy_case), check->failure,
				 detail.len > 0 ? detail.data : NULL);
	}
	if (lookup->late)
		return false;
	putLimits(result, &policy_case, METER_ACCOUNT);
	putLimits(result, &policy_case, METER_KEY);
	return true;
}

/*
 * Returns a row for each check of a request with a key, known by its id; SQL:
 * explain_checks.
 */
Datum
apikeys_key_explain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int64 deadline = waitUntil();
	long nap_ms = 1;
	Request request;
	Lookup lookup = {0};
	bool done;

	RequestRead(fcinfo, &request);
	InitMaterializedSRF(fcinfo, 0);
	do
	{
		tuplestore_clear(result->setResult); /* of an attempt before */
		done = explainNow(result, PG_GETARG_INT64(REQUEST_KEY), &request, &lookup);
		LookupEnd(&lookup);
	} while (!done && WaitBeforeRetry(WAIT_TABLE_LOCK, &nap_ms, deadline));
	if (!done)
		refuseLocked();
	return (Datum) 0;
}
