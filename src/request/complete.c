/*
 * complete.c
 *	  Records how a request ended: complete.
 *
 * The completion is an event as the request is.  The writer looks whether its
 * request is in the log; the first completion wins.  Where requests are not
 * logged, nothing is known of a request by itself: there it is enough that its
 * key was ever used.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/uuid.h"

#include "engine/directory.h"
#include "engine/engine.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "pure/clock.h"
#include "request/call.h"
#include "request/lookup.h"
#include "request/metering.h"

/* of one request: their sums stay far from overflow */
#define CREDITS_MAX INT64CONST(1000000000000000)
/* how much later than now a request may seem to be made */
#define CLOCKS_APART_US INT64CONST(60000000)

PG_FUNCTION_INFO_V1(apikeys_request_complete);

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

/* Reads what the caller says of the end of a request, or raises 22023. */
static void
readArguments(FunctionCallInfo fcinfo, Event *event)
{
	int32 status = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);

	if (status < 100 || status > 599)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("status must be an HTTP status, from 100 to 599")));
	event->status = status;
	event->has_duration = !PG_ARGISNULL(2);
	event->duration_ms = event->has_duration ? PG_GETARG_FLOAT4(2) : 0;
	event->has_credits = !PG_ARGISNULL(3);
	event->credits = event->has_credits ? PG_GETARG_INT64(3) : 0;
	if (isnan(event->duration_ms) || event->duration_ms < 0 || event->credits < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative",
							   event->credits < 0 ? "credits" : "duration_ms")));
	if (event->credits > CREDITS_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("credits must not be greater than %lld", (long long) CREDITS_MAX)));
}

/* Reads the key's id in the request's; false: verify never made such an id. */
static bool
readRequestId(const pg_uuid_t *id, Event *event)
{
	uint32 sequence;
	int64 requested_at;

	memcpy(&event->request_id, id, REQUESTID_LEN);
	return RequestIdDecode(&event->request_id, &requested_at, &event->key_id, &sequence) &&
		   requested_at <= ClockNow() / 1000 + CLOCKS_APART_US;
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
		char space[MAXALIGN(offsetof(Event, texts))];
	} buffer;
	Event *event = &buffer.event;
	Call call;

	CallBegin(&call);
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	memset(&buffer, 0, sizeof(buffer));
	event->kind = EVENT_COMPLETION;
	event->relation = LookupKeyRelation();
	event->size = MAXALIGN(offsetof(Event, texts));
	event->key_meter = event->account_meter = METER_NONE;
	event->urgent = CallSynchronous;
	readArguments(fcinfo, event);
	if (!readRequestId(PG_GETARG_UUID_P(0), event))
		PG_RETURN_BOOL(false);
	DirectoryAttach();
	if (!EngineLogRequests && !(findAccount(event->key_id, &event->account_id, call.deadline) &&
								keyIsUsed(event->key_id, call.deadline)))
		PG_RETURN_BOOL(false);
	if (!DirectoryIsServed(call.deadline) || !QueueReserve(event->size, call.deadline))
		PG_RETURN_BOOL(false);
	event->at = ClockNow() / 1000;
	HOLD_INTERRUPTS();
	call.durable_at = QueueAppend(event);
	RESUME_INTERRUPTS();
	if (!event->urgent)
		call.durable_at = 0;
	PG_RETURN_BOOL(CallAwaitDurable(&call));
}
