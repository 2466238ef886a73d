/*
 * verify.c
 *	  Decides about a request, meters and records it: verify, verify_many.
 *
 * The protocol of a request.  Each step but the fifth can be cancelled.
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
 * Whether step 3 waits depends on what step 5 would decide, so steps 2, 3 and 5
 * are tried without waiting at first.  A denied request needs no room: without
 * it, it is dropped and counted.  Nor does it need a writer; only the start of
 * one, or a stop of the server, can keep its event from the tables.  A request
 * that would be admitted is tried again, and waits for a writer and for room.
 * The first use of a key is never dropped, however it is decided: it waits.
 *
 * All waits of a call end together (call.c), in the verdict overloaded.  Locks
 * on the tables of keys and accounts are waited for as any SELECT does, before
 * anything is pinned: the deadlock detector sees that, and lock_timeout ends
 * it.  An event that was appended stays and counts.  The verdicts of
 * verify_many share their waits, but each depends on its own event alone.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "engine/meter.h"
#include "engine/queue.h"
#include "pure/clock.h"
#include "pure/pattern.h"
#include "request/call.h"
#include "request/lookup.h"
#include "request/metering.h"
#include "request/policy.h"
#include "request/request.h"
#include "request/verify.h"
#include "types/verdict.h"

/*
 * Requests of one verify_many that share a snapshot: what is revoked meanwhile
 * is seen by those after them.
 */
#define MANY_LOOKUPS 100

StaticAssertDecl(RING_NEVER == VERDICT_NEVER, "a verdict takes over the times of the meters");

/* A request that named a key, on its way through steps 2, 3 and 5. */
typedef struct Recording
{
	Call *call;
	const KeyRow *row;
	Verdict *verdict;
	Event *event;
	MeterRequest metering;
	bool places_known; /* of the meters, from before; good for one attempt */
} Recording;

/* How it went. */
typedef enum Recorded
{
	RECORDED,
	RECORDED_FIRST_USE,	 /* not yet: the key's first use must be locked */
	RECORDED_ADMISSIBLE, /* not yet: it would be admitted, and takes room */
	RECORDED_NO_METERS,	 /* not yet: the meters must be pinned (again) */
	RECORDED_LATE		 /* not in time: overloaded */
} Recorded;

/* What step 3 has found. */
typedef enum Room
{
	ROOM_NONE,
	ROOM_UNSERVED, /* there is room, and no writer now */
	ROOM_SERVED
} Room;

int VerifyOnOverload = OVERLOAD_DENY;

PG_FUNCTION_INFO_V1(apikeys_key_verify);
PG_FUNCTION_INFO_V1(apikeys_key_verify_many);

/*
 * Appends a text to the event, at most max bytes in whole characters; returns
 * how many bytes it took.
 */
static uint16
addText(Event *event, uint32 *size, const text *value, int max)
{
	int len = VARSIZE_ANY_EXHDR(value);

	if (len > max)
		len = pg_mbcliplen(VARDATA_ANY(value), len, max);
	memcpy((char *) event + *size, VARDATA_ANY(value), len);
	*size += len;
	return len;
}

/*
 * Makes the event of a request, without what the admission decides; the buffer
 * has EVENT_SIZE_MAX bytes.
 */
static void
makeEvent(Event *event, const Request *request, const KeyRow *row)
{
	uint32 size = offsetof(Event, texts);

	memset(event, 0, size);
	event->kind = EVENT_REQUEST;
	event->relation = LookupKeyRelation();
	event->key_id = row->key_id;
	event->account_id = row->account_id;
	event->cost = request->cost;
	if (request->ip)
	{
		PatternAddress address;

		PatternAddressSet(&address, ip_addr(request->ip), ip_addrsize(request->ip));
		event->address_len = address.len;
		memcpy(event->address, address.bytes, address.len);
	}
	if (request->endpoint)
	{
		event->has_endpoint = true;
		event->endpoint_len = addText(event, &size, request->endpoint, EVENT_ENDPOINT_MAX);
	}
	event->category_len = addText(event, &size, row->category, EVENT_CATEGORY_MAX);
	if (request->product)
		event->product_len = addText(event, &size, request->product, EVENT_PRODUCT_MAX);
	event->size = MAXALIGN(size);
	memset((char *) event + size, 0, event->size - size);
}

static void
setOverloaded(Verdict *verdict)
{
	verdict->code = VERDICT_OVERLOADED;
	verdict->recorded = verdict->limited = false;
	verdict->retry_after = VERDICT_NEVER;
}

/*
 * Appends an event that tells of limits which are nearly or all used.  Where
 * there is no room for it, the next request will.  Cannot throw.
 */
static void
appendMarks(const MeterRequest *metering, const Event *request, const MeterDecision *decision)
{
	union
	{
		Event event;
		char space[MAXALIGN(offsetof(Event, texts) + sizeof(decision->marks))];
	} buffer;
	Event *event = &buffer.event;
	size_t marks_size = decision->mark_count * sizeof(MeterMark);

	memset(&buffer, 0, sizeof(buffer));
	event->kind = EVENT_LIMITS;
	event->size = MAXALIGN(offsetof(Event, texts) + marks_size);
	event->at = request->at;
	event->key_id = request->key_id;
	event->account_id = request->account_id;
	event->relation = request->relation;
	event->key_meter = event->account_meter = METER_NONE;
	event->mark_count = decision->mark_count;
	memcpy(event->texts, decision->marks, marks_size);
	if (QueueReserve(event->size, QUEUE_NO_WAIT))
		(void) QueueAppend(event);
	else
	{
		MeterForgetLevels(&metering->account_subject);
		MeterForgetLevels(&metering->key_subject);
	}
}

/* Puts the decision of the meters into the verdict. */
static void
fillVerdict(Verdict *verdict, MeterOutcome outcome, const MeterDecision *decision)
{
	verdict->limited = decision->limited;
	verdict->of_account = decision->of_account;
	verdict->limit = decision->limit;
	verdict->remaining = decision->remaining;
	verdict->reset_after = decision->reset_after;
	verdict->retry_after = decision->retry_after;
	if (outcome == METER_DENIED && verdict->code == VERDICT_VALID)
		verdict->code = VerdictOfLimit(decision->of_account, decision->limit.window);
}

/* Completes the event and appends it.  Cannot throw. */
static void
appendEvent(Recording *recording, MeterOutcome outcome, const MeterDecision *decision)
{
	const MeterRequest *metering = &recording->metering;
	Verdict *verdict = recording->verdict;
	Event *event = recording->event;
	uint64 position;

	event->code = verdict->code;
	event->admitted = (outcome == METER_ADMITTED);
	event->status = VerdictStatus(verdict->code);
	event->urgent = CallSynchronous || !decision->use_durable;
	event->at = decision->at / 1000;
	event->key_meter = metering->key;
	event->account_meter = metering->account;
	RequestIdEncode(&event->request_id, event->at, event->key_id, QueueNextSequence());
	position = QueueAppend(event);
	verdict->recorded = true;
	memcpy(&verdict->request_id, &event->request_id, sizeof(verdict->request_id));
	if (unlikely(decision->mark_count > 0))
		appendMarks(metering, event, decision);
	if (event->urgent)
		verdict->durable_at = recording->call->durable_at = position;
}

/* Step 5.  Admits or denies, and appends the event if it is to be queued. */
static MeterOutcome
admit(Recording *recording)
{
	MeterDecision decision;
	MeterOutcome outcome;

	recording->metering.now = ClockNow();
	HOLD_INTERRUPTS();
	outcome = MeterAdmit(&recording->metering, &decision);
	if (outcome == METER_ADMITTED || outcome == METER_DENIED)
	{
		fillVerdict(recording->verdict, outcome, &decision);
		if (recording->metering.queued)
			appendEvent(recording, outcome, &decision);
	}
	RESUME_INTERRUPTS();
	return outcome;
}

/* Step 3.  Without a writer, room is not waited for. */
static Room
reserveRoom(const Recording *recording, int64 deadline)
{
	bool served = QueueIsServed(deadline);

	if (!QueueReserve(recording->event->size, served ? deadline : QUEUE_NO_WAIT))
		return ROOM_NONE;
	return served ? ROOM_SERVED : ROOM_UNSERVED;
}

/*
 * Step 2.  Takes the meters from where they were before, else pins and loads
 * them and remembers where they are; false: not in time.
 */
static bool
takeMeters(Recording *recording)
{
	MeterRequest *metering = &recording->metering;
	int64 deadline = recording->call->deadline;

	if (recording->places_known)
	{
		recording->places_known = false;
		return true;
	}
	metering->account = MeteringPin(&metering->account_subject, metering->account_limits, deadline);
	metering->key = metering->account == METER_NONE ?
						METER_NONE :
						MeteringPin(&metering->key_subject, metering->key_limits, deadline);
	*recording->row->account_meter = metering->account;
	*recording->row->meter = metering->key;
	return metering->key != METER_NONE;
}

/*
 * Makes steps 2, 3 and 5 once; waits for a writer and for room if asked to.
 * What it has pinned and reserved is the caller's to release.
 */
static Recorded
attempt(Recording *recording, bool wait)
{
	MeterRequest *metering = &recording->metering;
	Room room;

	if (!takeMeters(recording))
		return RECORDED_LATE;
	room = reserveRoom(recording, wait ? recording->call->deadline : QUEUE_NO_WAIT);
	if (room != ROOM_SERVED && wait &&
		(metering->first_use_locked || VerifyOnOverload == OVERLOAD_DENY))
		return RECORDED_LATE;
	metering->deny_only = (room != ROOM_SERVED && !wait);
	metering->queued = (room == ROOM_SERVED || (room == ROOM_UNSERVED && metering->deny_only));
	switch (admit(recording))
	{
		case METER_ADMITTED:
			if (!metering->queued)
				QueueCount(QUEUE_UNRECORDED, 1);
			return RECORDED;
		case METER_DENIED:
			if (!metering->queued)
				QueueCount(QUEUE_DROPPED, 1);
			return RECORDED;
		case METER_FIRST_USE:
			return metering->first_use_locked ? RECORDED_LATE : RECORDED_FIRST_USE;
		case METER_ADMISSIBLE:
			return RECORDED_ADMISSIBLE;
		case METER_NOT_READY:
			break;
	}
	return RECORDED_NO_METERS;
}

/* Makes an attempt and releases what it has pinned and reserved. */
static Recorded
attemptAndRelease(Recording *recording, bool wait)
{
	Recorded recorded = attempt(recording, wait);

	MeteringRelease();
	return recorded;
}

/* Records a request that named a key: steps 2, 3 and 5. */
static Recorded
record(const Lookup *lookup, const Request *request, const KeyRow *row, bool first_use_locked,
	   Verdict *verdict, Call *call)
{
	static const LimitSet no_limits = {0};
	Oid relation = RelationGetRelid(lookup->key);
	bool denied = (verdict->code != VERDICT_VALID);
	union
	{
		Event event;
		char space[EVENT_SIZE_MAX];
	} buffer;
	Recording recording = {
		.call = call,
		.row = row,
		.verdict = verdict,
		.event = &buffer.event,
		.metering = {.account = *row->account_meter,
					 .key = *row->meter,
					 .account_limits = denied ? &no_limits : &row->account_limits,
					 .key_limits = denied ? &no_limits : &row->limits,
					 .cost = request->cost,
					 .denied = denied,
					 .first_use_locked = first_use_locked}};
	MeterRequest *metering = &recording.metering;
	Recorded recorded;

	/* Their cache lines come while the event is made, the account's last. */
	MeterPrefetchRings(metering->key);
	MeterSubjectSet(&metering->account_subject, relation, METER_ACCOUNT, row->account_id);
	MeterSubjectSet(&metering->key_subject, relation, METER_KEY, row->key_id);
	makeEvent(&buffer.event, request, row);
	MeterPrefetchRings(metering->account);
	QueueAttach();
	if (call->late && CallSynchronous)
		return RECORDED_LATE;

	recording.places_known = (metering->account != METER_NONE && metering->key != METER_NONE);
	do
	{
		recorded = attemptAndRelease(&recording, first_use_locked);
		if (recorded == RECORDED_ADMISSIBLE)
			recorded = attemptAndRelease(&recording, true);
	} while (recorded == RECORDED_NO_METERS);
	return recorded;
}

/*
 * Decides about one request and records it.  The look-up is open, and again on
 * return: the verdict points into it.  What the verdict must wait for is noted
 * in the call.
 */
static void
decide(const Request *request, Lookup *lookup, Verdict *verdict, Call *call)
{
	int64 locked_key = 0; /* whose first use is locked */
	Recorded recorded;

	for (;;)
	{
		KeyRow row;

		*verdict = (Verdict) VERDICT_EMPTY;
		if (!PolicyDecide(lookup, request, &row, verdict) || LookupMadeHere(lookup, row.key_id))
			return;
		recorded = record(lookup, request, &row, row.key_id == locked_key, verdict, call);
		if (recorded != RECORDED_FIRST_USE)
			break;

		/*
		 * Step 4.  Lock, then look again: the key may have been deleted
		 * meanwhile, even replaced by another with the same text.
		 */
		if (!CallLockFirstUse(call, row.key_id))
			break;
		locked_key = row.key_id;
		LookupEnd(lookup);
		LookupBegin(lookup);
	}
	if (recorded != RECORDED)
		setOverloaded(verdict);
}

/* Finishes a verdict: it is overloaded if its event is not durable in time. */
static void
finishVerdict(Verdict *verdict)
{
	if (verdict->durable_at != 0 && !QueueWaitDurable(verdict->durable_at, QUEUE_NO_WAIT))
		setOverloaded(verdict);
	if (verdict->code == VERDICT_OVERLOADED)
		QueueCount(QUEUE_OVERLOADED, 1);
}

/* Decides about a request, meters and records it; SQL: verify. */
Datum
apikeys_key_verify(PG_FUNCTION_ARGS)
{
	Verdict verdict;
	Request request;
	Lookup lookup;
	Call call;
	Datum result;

	RequestRead(fcinfo, &request);
	if (!PG_ARGISNULL(REQUEST_KEY))
		request.key = PG_GETARG_TEXT_PP(REQUEST_KEY);
	CallBegin(&call);
	LookupBegin(&lookup);
	decide(&request, &lookup, &verdict, &call);
	(void) CallAwaitDurable(&call);
	finishVerdict(&verdict);
	result = VerdictForm(&verdict, fcinfo);
	LookupEnd(&lookup);
	return result;
}

/*
 * Returns the element of an array of arguments, NULL if it is null or there is
 * no array.
 */
static const void *
element(const Datum *values, const bool *nulls, int i)
{
	return values == NULL || nulls[i] ? NULL : PG_DETOAST_DATUM_PACKED(values[i]);
}

/*
 * Reads an array argument as long as the first one (or NULL); count < 0: it is
 * the first one.
 */
static int
readArray(FunctionCallInfo fcinfo, int argument, Oid type, int count, Datum **values, bool **nulls)
{
	int16 len;
	bool by_value;
	char align;
	int found;

	*values = NULL;
	if (PG_ARGISNULL(argument))
		return 0;
	get_typlenbyvalalign(type, &len, &by_value, &align);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), type, len, by_value, align, values, nulls,
					  &found);
	if (count >= 0 && found != count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("the arrays must be equally long"),
				 errdetail("There are %d keys, and an array with %d elements.", count, found),
				 errhidestmt(true)));
	return found;
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

/*
 * Decides about many requests, which share one look-up and one wait for
 * durability; SQL: verify_many.
 */
Datum
apikeys_key_verify_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum *keys;
	Datum *endpoints;
	Datum *ips;
	Datum *costs;
	bool *key_nulls;
	bool *endpoint_nulls;
	bool *ip_nulls;
	bool *cost_nulls;
	int count = readArray(fcinfo, 0, TEXTOID, -1, &keys, &key_nulls);
	Verdict *verdicts;
	Lookup lookup;
	Call call;

	readArray(fcinfo, 1, TEXTOID, count, &endpoints, &endpoint_nulls);
	readArray(fcinfo, 2, INETOID, count, &ips, &ip_nulls);
	readArray(fcinfo, 3, INT4OID, count, &costs, &cost_nulls);
	for (int i = 0; costs && i < count; i++)
		if (!cost_nulls[i])
			RequestCheckCost(DatumGetInt32(costs[i]));

	InitMaterializedSRF(fcinfo, 0);
	CallBegin(&call);
	verdicts = palloc(count * sizeof(Verdict));
	LookupBegin(&lookup);
	for (int i = 0; i < count; i++)
	{
		Request request = {.key = element(keys, key_nulls, i),
						   .endpoint = element(endpoints, endpoint_nulls, i),
						   .ip = element(ips, ip_nulls, i),
						   .cost = (costs && !cost_nulls[i]) ? DatumGetInt32(costs[i]) : 1};

		CHECK_FOR_INTERRUPTS();
		if (i > 0 && i % MANY_LOOKUPS == 0)
		{
			LookupEnd(&lookup);
			LookupBegin(&lookup);
		}
		decide(&request, &lookup, &verdicts[i], &call);
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
