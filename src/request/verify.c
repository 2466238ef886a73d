/*
 * verify.c
 *	  Decides about a request, meters and records it: verify, verify_many,
 *	  begin_as.
 *
 * The protocol of a request.  Each step but the fifth can be cancelled.  Steps
 * 2, 3 and 5 are in record.c.
 *
 * 1. read the arguments, make the checks that need no meters (policy.c)
 * 2. take the meters of account and key from where they were before; if they
 *    are not there, pin them and load what they lack (metering.c)
 * 3. reserve room for the event in a queue that a writer serves
 * 4. on the first use of a key, lock it against deletion (guard.c) and start
 *    again at 1
 * 5. with interrupts held: admit in all meters, append the event
 * 6. wait until the event is durable, if usage is synchronous or the key's
 *    first use is not durable yet
 *
 * All waits of a call end together (call.c), in the verdict overloaded.  So
 * does the wait for locks on the tables that decide about a request: step 1
 * tries them again and again, and holds nothing meanwhile (lookup.c).  An event
 * that was appended stays and counts.  The verdicts of verify_many share their
 * waits, but each depends on its own event alone.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "engine/directory.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "request/authenticate.h"
#include "request/call.h"
#include "request/identity.h"
#include "request/lookup.h"
#include "request/policy.h"
#include "request/record.h"
#include "request/request.h"
#include "types/verdict.h"

/*
 * Requests of one verify_many that share a snapshot: what is revoked meanwhile
 * is seen by those after them.
 */
#define MANY_LOOKUPS 100

/* How many requests before it the memory that one needs is fetched. */
#define EXPECT_AHEAD 8
#define PREFETCH_AHEAD 4

PG_FUNCTION_INFO_V1(apikeys_key_verify);
PG_FUNCTION_INFO_V1(apikeys_key_verify_many);
PG_FUNCTION_INFO_V1(apikeys_identity_begin_as);

/*
 * Decides about one request and records it.  The look-up is begun if it is not
 * open, and stays open: the verdict points into it, and so does the row of an
 * admitted key.  What the verdict must wait for is noted in the call.
 */
static void
decide(const Request *request, Lookup *lookup, KeyRow *row, Verdict *verdict, Call *call)
{
	int64 locked_key = 0; /* whose first use is locked */
	Recorded recorded;

	for (;;)
	{
		if (!PolicyDecide(lookup, request, row, verdict, call->deadline) ||
			LookupMadeHere(lookup, row->key_id))
			return;
		recorded = RecordRequest(lookup, request, row, row->key_id == locked_key, verdict, call);
		if (recorded != RECORDED_FIRST_USE)
			break;

		/*
		 * Step 4.  Lock, then look again: the key may have been deleted
		 * meanwhile, even replaced by another with the same text.
		 */
		if (!CallLockFirstUse(call, row->key_id))
			break;
		locked_key = row->key_id;
		LookupEnd(lookup);
	}
	if (recorded != RECORDED)
		VerdictSetOverloaded(verdict);
}

/*
 * Finishes a verdict: it is overloaded if its event is not durable in time.
 * Counts it, unless its event does.
 */
static void
finishVerdict(Verdict *verdict)
{
	if (verdict->durable_at != 0 && !QueueWaitDurable(verdict->durable_at, DEADLINE_NOW))
		VerdictSetOverloaded(verdict);
	if (verdict->recorded && verdict->code != VERDICT_OVERLOADED)
		return;		   /* the writer counts it */
	DirectoryAttach(); /* a call that has named no key has no queue yet */
	QueueCount(QUEUE_VERDICTS + verdict->code, 1);
	if (verdict->code == VERDICT_OVERLOADED)
		QueueCount(QUEUE_OVERLOADED, 1);
}

/*
 * Ends the look-up before a wait: nobody who needs its tables then waits, too.
 * The verdict stays good.
 */
static void
endLookup(Lookup *lookup, Verdict *verdict)
{
	if (verdict->account)
		verdict->account = DatumGetTextPCopy(PointerGetDatum(verdict->account));
	LookupEnd(lookup);
}

/* Starts to fetch where prefetch() looks for a request. */
static inline void
expect(const Request *request)
{
	if (request->key)
		LookupExpect(&request->digest);
}

/* Starts to fetch what the decision about a request will read. */
static inline void
prefetch(const Request *request)
{
	if (request->key)
		LookupPrefetch(&request->digest);
}

/*
 * Decides about a request, meters and records it, and waits until that is
 * durable, if it must be.  The look-up stays open if the key's row is needed
 * afterwards.
 */
static void
verify(FunctionCallInfo fcinfo, Lookup *lookup, KeyRow *row, bool row_needed, Verdict *verdict)
{
	Request request;
	Call call;

	RequestRead(fcinfo, &request);
	if (!PG_ARGISNULL(REQUEST_KEY))
		RequestSetKey(&request, PG_GETARG_TEXT_PP(REQUEST_KEY));
	expect(&request);
	CallBegin(&call);
	prefetch(&request);
	decide(&request, lookup, row, verdict, &call);
	if (call.durable_at != 0 && !row_needed)
		endLookup(lookup, verdict);
	(void) CallAwaitDurable(&call);
	finishVerdict(verdict);
}

/* Decides about a request, meters and records it; SQL: verify. */
Datum
apikeys_key_verify(PG_FUNCTION_ARGS)
{
	Verdict verdict;
	Lookup lookup = {0};
	KeyRow row;
	Datum result;

	verify(fcinfo, &lookup, &row, false, &verdict);
	result = VerdictForm(&verdict, fcinfo);
	LookupEnd(&lookup);
	return result;
}

/*
 * Decides about a request as verify does or, if it is not metered, as
 * authenticate does.  If it is admitted, the transaction acts for the key.
 * SQL: begin_as.
 */
Datum
apikeys_identity_begin_as(PG_FUNCTION_ARGS)
{
	Verdict verdict;
	Lookup lookup = {0};
	KeyRow row;
	Datum result;

	IdentityRequireOpen("begin_as");
	if (PG_ARGISNULL(REQUEST_METERED) || PG_GETARG_BOOL(REQUEST_METERED))
		verify(fcinfo, &lookup, &row, true, &verdict);
	else
		Authenticate(fcinfo, &lookup, &row, &verdict);
	if (verdict.code == VERDICT_VALID)
		IdentityBecomeKey(&row);
	result = VerdictForm(&verdict, fcinfo);
	LookupEnd(&lookup);
	return result;
}

/* Returns the element of an array of values with a header; NULL: none. */
static const void *
element(const RequestArray *array, int i)
{
	NullableDatum value = RequestArrayElement(array, i);

	return value.isnull ? NULL : PG_DETOAST_DATUM_PACKED(value.value);
}

/* Writes the verdicts of a batch, each behind its ordinal. */
static void
putVerdicts(ReturnSetInfo *result, const Verdict *verdicts, int count)
{
	for (int i = 0; i < count; i++)
	{
		Datum values[VERDICT_COLUMNS + 1];
		bool nulls[VERDICT_COLUMNS + 1];

		values[0] = Int32GetDatum(i + 1);
		nulls[0] = false;
		VerdictColumns(&verdicts[i], values + 1, nulls + 1);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/* The arguments of many requests, by RequestArgument. */
typedef struct ManyRequests
{
	RequestArray arguments[REQUEST_ARGUMENTS];
} ManyRequests;

/* Reads the arguments of verify_many; returns how many requests they make. */
static int
readMany(FunctionCallInfo fcinfo, ManyRequests *many)
{
	static const Oid types[] = {
		[REQUEST_KEY] = TEXTOID,	[REQUEST_ENDPOINT] = TEXTOID, [REQUEST_IP] = INETOID,
		[REQUEST_ORIGIN] = TEXTOID, [REQUEST_PRODUCT] = TEXTOID,  [REQUEST_SCOPES] = TEXTOID,
		[REQUEST_COST] = INT8OID};

	StaticAssertStmt(lengthof(types) == REQUEST_ARGUMENTS, "each argument has a type");
	for (int i = 0; i < lengthof(types); i++)
		RequestArrayRead(fcinfo, i, types[i], i == 0 ? NULL : &many->arguments[0],
						 &many->arguments[i]);
	return many->arguments[0].count;
}

/* Makes one of many requests; raises 22023 for what verify would. */
static void
takeRequest(const ManyRequests *many, int i, Request *request)
{
	const text *scopes = element(&many->arguments[REQUEST_SCOPES], i);
	NullableDatum cost = RequestArrayElement(&many->arguments[REQUEST_COST], i);

	*request = (Request){.endpoint = element(&many->arguments[REQUEST_ENDPOINT], i),
						 .ip = element(&many->arguments[REQUEST_IP], i),
						 .origin = element(&many->arguments[REQUEST_ORIGIN], i),
						 .product = element(&many->arguments[REQUEST_PRODUCT], i),
						 .cost = cost.isnull ? 1 : RequestCost(DatumGetInt64(cost.value))};
	RequestSetKey(request, element(&many->arguments[REQUEST_KEY], i));
	if (scopes)
		RequestSetScopes(request, scopes);
}

/* Starts to fetch what requests after one of many will need. */
static inline void
fetchAhead(const Request *requests, int count, int current)
{
	if (current + EXPECT_AHEAD < count)
		expect(&requests[current + EXPECT_AHEAD]);
	if (current + PREFETCH_AHEAD >= 0 && current + PREFETCH_AHEAD < count)
		prefetch(&requests[current + PREFETCH_AHEAD]);
}

/*
 * Decides about many requests, which share look-ups and one wait for
 * durability; SQL: verify_many.  All of them are read before the first is
 * decided: an error leaves nothing behind.
 */
Datum
apikeys_key_verify_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ManyRequests many;
	int count = readMany(fcinfo, &many);
	Request *requests = palloc_array(Request, count);
	Verdict *verdicts = palloc_array(Verdict, count);
	Lookup lookup = {0};
	KeyRow row;
	Call call;

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		takeRequest(&many, i, &requests[i]);
	}
	InitMaterializedSRF(fcinfo, 0);
	CallBegin(&call);
	for (int i = -EXPECT_AHEAD; i < 0; i++)
		fetchAhead(requests, count, i);
	for (int i = 0; i < count; i++)
	{
		fetchAhead(requests, count, i);
		CHECK_FOR_INTERRUPTS();
		if (i % MANY_LOOKUPS == 0)
			LookupEnd(&lookup);
		decide(&requests[i], &lookup, &row, &verdicts[i], &call);
		if (verdicts[i].account)
			verdicts[i].account = DatumGetTextPCopy(PointerGetDatum(verdicts[i].account));
	}
	LookupEnd(&lookup);
	(void) CallAwaitDurable(&call);
	for (int i = 0; i < count; i++)
		finishVerdict(&verdicts[i]);
	putVerdicts(result, verdicts, count);
	return (Datum) 0;
}
