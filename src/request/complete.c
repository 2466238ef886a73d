/*
 * complete.c
 *	  Records how requests ended: complete, complete_many.
 *
 * The completion is an event as the request is.  The writer looks whether its
 * request is in the log; the first completion wins.  Where requests are not
 * logged, nothing is known of a request by itself: there it is enough that its
 * key was ever used.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "engine/directory.h"
#include "engine/engine.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "pure/clock.h"
#include "request/call.h"
#include "request/lookup.h"
#include "request/metering.h"
#include "request/request.h"

/* of one request: their sums stay far from overflow */
#define CREDITS_MAX INT64CONST(1000000000)
/* of one request, 31 years */
#define DURATION_MAX_MS 1e12
/* how much later than now a request may seem to be made */
#define CLOCKS_APART_US INT64CONST(60000000)

#define COMPLETION_SIZE MAXALIGN(offsetof(Event, texts))

PG_FUNCTION_INFO_V1(apikeys_request_complete);
PG_FUNCTION_INFO_V1(apikeys_request_complete_many);
PG_FUNCTION_INFO_V1(apikeys_request_place);

/*
 * Finds whose key it is; false: there is none with that id, or the tables
 * cannot be locked in time.
 */
static bool
findAccount(int64 key_id, int64 *account_id, int64 deadline)
{
	Lookup lookup = {0};
	long nap_ms = 1;
	KeyRow row;

	do
	{
		bool known = false;
		bool found = false;

		if (LookupBegin(&lookup))
		{
			found = LookupById(&lookup, key_id, &row);
			known = !lookup.late;
		}
		LookupEnd(&lookup);
		if (known)
		{
			if (found)
				*account_id = row.account_id;
			return found;
		}
	} while (WaitBeforeRetry(WAIT_TABLE_LOCK, &nap_ms, deadline));
	return false;
}

/*
 * Tells whether a key was ever used, on record or in the queue; false: it was
 * not, or that cannot be told in time.
 */
static bool
keyIsUsed(int64 key_id, int64 deadline)
{
	static const LimitSet no_limits = {0};
	MeterSubject subject;
	MeterIndex meter;
	bool used;

	MeterSubjectSet(&subject, LookupKeyRelation(), METER_KEY, key_id);
	meter = MeteringPin(&subject, &no_limits, deadline);
	used = meter != METER_NONE && MeterIsUsed(meter);
	MeteringRelease();
	return used;
}

/*
 * Returns a duration as the log has it; raises 22023.  Clients bind it with
 * double precision, which the log has no use for.
 */
static float4
durationOf(float8 milliseconds)
{
	if (!isfinite(milliseconds))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("duration_ms must be a finite number")));
	if (milliseconds < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("duration_ms must not be negative")));
	if (milliseconds > DURATION_MAX_MS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("duration_ms must not be greater than %.0f", DURATION_MAX_MS)));
	return (float4) milliseconds;
}

/*
 * Starts the event of a completion with what the caller says of the end of the
 * request, or raises 22023.
 */
static void
makeEvent(Event *event, NullableDatum status, NullableDatum duration_ms, NullableDatum credits)
{
	memset(event, 0, COMPLETION_SIZE);
	event->kind = EVENT_COMPLETION;
	event->relation = LookupKeyRelation();
	event->size = COMPLETION_SIZE;
	event->key_meter = event->account_meter = METER_NONE;
	event->urgent = CallSynchronous;
	if (status.isnull || DatumGetInt32(status.value) < 100 || DatumGetInt32(status.value) > 599)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("status must be an HTTP status, from 100 to 599")));
	event->status = DatumGetInt32(status.value);
	event->has_duration = !duration_ms.isnull;
	event->duration_ms = event->has_duration ? durationOf(DatumGetFloat8(duration_ms.value)) : 0;
	event->has_credits = !credits.isnull;
	event->credits = event->has_credits ? DatumGetInt64(credits.value) : 0;
	if (event->credits < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("credits must not be negative")));
	if (event->credits > CREDITS_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("credits must not be greater than %lld", (long long) CREDITS_MAX)));
}

/*
 * Reads the key's id, and when the request was made, in the request's id;
 * false: verify never made such an id.
 */
static bool
readRequestId(const pg_uuid_t *id, Event *event, int64 *at_us)
{
	uint32 sequence;

	memcpy(&event->request_id, id, REQUESTID_LEN);
	return RequestIdDecode(&event->request_id, at_us, &event->key_id, &sequence) &&
		   *at_us <= ClockNow() / 1000 + CLOCKS_APART_US;
}

/*
 * Reads the request's id; false: it can be none that verify gave, or of a
 * request that is not logged it cannot be told in time.
 */
static bool
acceptId(NullableDatum id, Event *event, int64 deadline)
{
	int64 at_us;

	if (id.isnull || !readRequestId(DatumGetUUIDP(id.value), event, &at_us))
		return false;
	return EngineLogRequests || (findAccount(event->key_id, &event->account_id, deadline) &&
								 keyIsUsed(event->key_id, deadline));
}

/*
 * Queues completions, which lie one behind the other, all or none of them, and
 * waits until they are durable if usage is synchronous; false: not in time.
 */
static bool
queueCompletions(const char *events, int count, Call *call)
{
	uint32 size = count * COMPLETION_SIZE;

	if (size > QueueSize * INT64CONST(1024))
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("the queue has no room for %d completions at once", count),
						errhint("Complete fewer in a call, or raise apikeys.queue_size."),
						errhidestmt(true)));
	if (!DirectoryIsServed(call->deadline) || !QueueReserve(size, call->deadline))
		return false;
	HOLD_INTERRUPTS();
	for (int i = 0; i < count; i++)
	{
		Event *event = (Event *) (events + i * COMPLETION_SIZE);

		event->at = ClockNow() / 1000;
		call->durable_at = QueueAppend(event);
	}
	RESUME_INTERRUPTS();
	if (!CallSynchronous)
		call->durable_at = 0;
	return CallAwaitDurable(call);
}

/*
 * Records how a request ended; SQL: complete.  False: the id can be none that
 * verify gave, or the record cannot be taken now.
 */
Datum
apikeys_request_complete(PG_FUNCTION_ARGS)
{
	union
	{
		Event event;
		char space[COMPLETION_SIZE];
	} buffer;
	Call call;

	CallBegin(&call);
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	makeEvent(&buffer.event, fcinfo->args[1], fcinfo->args[2], fcinfo->args[3]);
	DirectoryAttach();
	PG_RETURN_BOOL(acceptId(fcinfo->args[0], &buffer.event, call.deadline) &&
				   queueCompletions(buffer.space, 1, &call));
}

/*
 * Records how many requests ended; SQL: complete_many.  Returns how many were
 * taken: those with an id that verify can have given, or none of them if they
 * cannot be recorded now.  An error leaves nothing behind: all are read before
 * the first is queued, and they are queued together.
 */
Datum
apikeys_request_complete_many(PG_FUNCTION_ARGS)
{
	RequestArray ids;
	RequestArray statuses;
	RequestArray durations;
	RequestArray credits;
	char *events;
	int count = 0;
	Call call;

	CallBegin(&call);
	RequestArrayRead(fcinfo, 0, UUIDOID, NULL, &ids);
	RequestArrayRead(fcinfo, 1, INT4OID, &ids, &statuses);
	RequestArrayRead(fcinfo, 2, FLOAT8OID, &ids, &durations);
	RequestArrayRead(fcinfo, 3, INT8OID, &ids, &credits);
	events = palloc(ids.count * COMPLETION_SIZE);
	for (int i = 0; i < ids.count; i++)
		makeEvent((Event *) (events + i * COMPLETION_SIZE), RequestArrayElement(&statuses, i),
				  RequestArrayElement(&durations, i), RequestArrayElement(&credits, i));
	DirectoryAttach();
	for (int i = 0; i < ids.count; i++)
	{
		char *event = events + i * COMPLETION_SIZE;

		CHECK_FOR_INTERRUPTS();
		if (acceptId(RequestArrayElement(&ids, i), (Event *) event, call.deadline))
			memmove(events + count++ * COMPLETION_SIZE, event, COMPLETION_SIZE);
	}
	PG_RETURN_INT64(count > 0 && queueCompletions(events, count, &call) ? count : 0);
}

/*
 * Returns when a request was made and on which key, as its id says; SQL:
 * request_place.
 */
Datum
apikeys_request_place(PG_FUNCTION_ARGS)
{
	Event event;
	TupleDesc desc;
	Datum values[2] = {0};
	bool nulls[2] = {true, true};
	int64 at_us;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "request_place returns no row");
	if (readRequestId(PG_GETARG_UUID_P(0), &event, &at_us))
	{
		values[0] = TimestampTzGetDatum(ClockTimestamp(at_us * 1000));
		values[1] = Int64GetDatum(event.key_id);
		nulls[0] = nulls[1] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
