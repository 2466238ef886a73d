/*
 * authenticate.c
 *	  The checks of a request that need no meters: authenticate and explain_key.
 *
 * They only read, so they work on a standby and without shared memory.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "policy.h"
#include "request.h"
#include "verdict.h"

PG_FUNCTION_INFO_V1(apikeys_key_authenticate);
PG_FUNCTION_INFO_V1(apikeys_key_explain);

/* Returns the verdict of all checks but the meters; SQL: authenticate. */
Datum
apikeys_key_authenticate(PG_FUNCTION_ARGS)
{
	Verdict		verdict = VERDICT_EMPTY;
	Request		request;
	Lookup		lookup;
	KeyRow		row;
	Datum		result;

	RequestRead(fcinfo, &request);
	if (!PG_ARGISNULL(REQUEST_KEY))
		request.key = PG_GETARG_TEXT_PP(REQUEST_KEY);

	LookupBegin(&lookup);
	if (request.key && LookupByText(&lookup, VARDATA_ANY(request.key), VARSIZE_ANY_EXHDR(request.key), &row))
	{
		PolicyCase	policy_case = {&lookup, &row, &request, ClockTimestamp(ClockWallNow())};

		verdict.key_id = row.key_id;
		verdict.account = row.account_name;
		verdict.code = PolicyDecide(&policy_case);
	}
	result = VerdictForm(&verdict, fcinfo);
	LookupEnd(&lookup);
	return result;
}

/* Returns a row for each check of a request with a key, known by its id; SQL: explain_key. */
Datum
apikeys_key_explain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	PolicyCase	policy_case;
	Request		request;
	Lookup		lookup;
	KeyRow		row;

	RequestRead(fcinfo, &request);
	InitMaterializedSRF(fcinfo, 0);
	LookupBegin(&lookup);
	if (PG_ARGISNULL(REQUEST_KEY) || !LookupById(&lookup, PG_GETARG_INT64(REQUEST_KEY), &row))
	{
		if (PG_ARGISNULL(REQUEST_KEY))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("key_id must not be null")));
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("key " INT64_FORMAT " does not exist", PG_GETARG_INT64(REQUEST_KEY))));
	}

	policy_case = (PolicyCase) {&lookup, &row, &request, ClockTimestamp(ClockWallNow())};
	for (const PolicyCheck *check = PolicyChecks; check->name; check++)
	{
		bool		passes = check->passes(&policy_case);
		StringInfoData detail;
		Datum		values[4];
		bool		nulls[4] = {false, false, passes, false};

		initStringInfo(&detail);
		if (check->describe)
			check->describe(&policy_case, &detail);
		values[0] = CStringGetTextDatum(check->name);
		values[1] = BoolGetDatum(passes);
		values[2] = passes ? (Datum) 0 : CStringGetTextDatum(VerdictName(check->failure));
		nulls[3] = (detail.len == 0);
		values[3] = nulls[3] ? (Datum) 0 : PointerGetDatum(cstring_to_text_with_len(detail.data, detail.len));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	LookupEnd(&lookup);
	return (Datum) 0;
}
