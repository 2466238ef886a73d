/*
 * verify.c
 *	  Decides about a request, meters and records it: verify, verify_many and
 *	  complete.
 *
 * The protocol of a request, each step of which may be cancelled but the fifth:
 *
 * 1. read the arguments, make the checks that need no meters (policy.c)
 * 2. take the meters of account and key for where they were before; if that
 *    fails, pin them and load what they lack
 * 3. reserve room for the event in a queue that a writer serves; this may wait
 * 4. on the first use of a key, lock it against deletion (guard.c) and start
 *    again at 1
 * 5. with interrupts held: admit in all meters, append the event
 * 6. wait until the event is durable, if usage is synchronous or the key's
 *    first use is not durable yet
 *
 * All waits of a call end together, apikeys.queue_timeout after its start, in
 * the verdict overloaded: the deadlock detector cannot see them.  Locks on the
 * tables of keys and accounts are waited for as any SELECT does, before
 * anything is pinned: the detector sees that, and lock_timeout ends it.  An
 * event that was appended stays and counts.  The verdicts of verify_many share
 * their waits, but each depends on its own event alone.
 *
 * Pins and room are noted by their modules and given back by UsageRelease: at
 * the end of each call, at the abort of a (sub)transaction, at exit; the
 * locks of a first use go with the transaction.
 *
 * Denied requests wait neither for room (without it they are dropped, and
 * counted) nor for a writer: only its start, or a stop of the server, can be
 * in their way to the tables.  The first use of a key is never dropped, however
 * it is decided.
 */
#include "postgres.h"

#include <math.h>
#include <sys/socket.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "engine/directory.h"
#include "engine/engine.h"
#include "engine/meter.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "engine/waitpoint.h"
#include "pure/clock.h"
#include "pure/pattern.h"
#include "request/guard.h"
#include "request/lookup.h"
#include "request/policy.h"
#include "request/request.h"
#include "request/usage.h"
#include "request/verify.h"
#include "types/verdict.h"

/* of one request: their sums stay far from overflow */
#define CREDITS_MAX INT64CONST(1000000000000000)
/* how much later than now a request may seem to be made */
#define CLOCKS_APART_US INT64CONST(60000000)
/*
 * of one verify_many with one snapshot: what is revoked meanwhile is seen by
 * those after them
 */
#define MANY_LOOKUPS 100
/* of one verify_many; beyond that it waits for them in between */
#define MANY_FIRST_USES 64
#define GUARD_NAP_MS 1 /* between two attempts to lock a key that somebody deletes */

/* How a request that named a key was recorded. */
typedef enum Recorded
{
	RECORDED,
	RECORDED_NOT,	   /* the verdict says why */
	RECORDED_FIRST_USE /* not yet: the key's first use must be locked */
} Recorded;

/* One call of verify or verify_many. */
typedef struct Call
{
	int64 deadline;
	/* the position up to which the queue must be durable; 0: does not matter */
	uint64 durable_at;
	/*
	 * a wait for that was in vain: nothing more is recorded that would need one
	 */
	bool late;
	int first_use_count;
	int64 first_uses[MANY_FIRST_USES]; /* keys locked until theirs is durable */
} Call;

bool VerifySynchronous = false;
int VerifyOnOverload = OVERLOAD_DENY;

PG_FUNCTION_INFO_V1(apikeys_key_verify);
PG_FUNCTION_INFO_V1(apikeys_key_verify_many);
PG_FUNCTION_INFO_V1(apikeys_request_complete);

static void
beginCall(Call *call)
{
	EngineRequire();
	UsageBegin();
	UsageRelease(); /* what an error has left that nobody else cleaned up after */
	call->deadline = ClockNow() + QueueTimeout * NS_PER_MILLISECOND;
	call->durable_at = 0;
	call->late = false;
	call->first_use_count = 0;
}

/*
 * Waits for all that must be durable and unlocks the first uses; false: this
 * time or before, it was not in time.
 */
static bool
awaitDurable(Call *call)
{
	if (call->durable_at != 0)
	{
		WAIT_POINT("verify_wait");
		call->late |= !QueueWaitDurable(call->durable_at, call->deadline);
	}
	call->durable_at = 0;
	while (call->first_use_count > 0)
		GuardFirstUseUnlock(call->first_uses[--call->first_use_count]);
	return !call->late;
}

/*
 * Appends a text to the event, cut at a character to so many bytes; returns how
 * many it took.
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
 * Makes the event of a request, but for what the admission decides; the buffer
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
 * Appends an event that tells of limits that are nearly or all used; where
 * there is no room, the next request does.  Cannot throw.
 */
static void
appendRises(const MeterRequest *metering, const Event *request, const MeterDecision *decision)
{
	union
	{
		Event event;
		char space[MAXALIGN(offsetof(Event, texts) + sizeof(decision->rises))];
	} buffer;
	Event *event = &buffer.event;
	size_t rises_size = decision->rise_count * sizeof(MeterRise);

	memset(&buffer, 0, sizeof(buffer));
	event->kind = EVENT_RISES;
	event->size = MAXALIGN(offsetof(Event, texts) + rises_size);
	event->at = request->at;
	event->key_id = request->key_id;
	event->account_id = request->account_id;
	event->relation = request->relation;
	event->key_meter = event->account_meter = METER_NONE;
	event->rise_count = decision->rise_count;
	memcpy(event->texts, decision->rises, rises_size);
	if (QueueReserve(event->size, DEADLINE_NOW))
		(void) QueueAppend(event);
	else
	{
		MeterForgetLevels(&metering->account_subject);
		MeterForgetLevels(&metering->key_subject);
	}
}

/*
 * Admits (or denies by limits) and appends the event, for which room is
 * reserved if it is not NULL.
 */
static MeterOutcome
admit(MeterRequest *metering, Event *event, Verdict *verdict, Call *call)
{
	MeterDecision decision;
	MeterOutcome outcome;

	metering->now = ClockNow();
	metering->queued = (event != NULL);

	HOLD_INTERRUPTS();
	outcome = MeterAdmit(metering, &decision);
	if (outcome == METER_ADMITTED || outcome == METER_DENIED)
	{
		verdict->limited = decision.limited;
		verdict->of_account = decision.of_account;
		verdict->limit = decision.limit;
		verdict->remaining = decision.remaining;
		verdict->reset_after = decision.reset_after;
		verdict->retry_after = decision.retry_after;
		if (outcome == METER_DENIED && verdict->code == VERDICT_VALID)
			verdict->code = VerdictOfLimit(decision.of_account, decision.limit.window);
		if (event)
		{
			bool urgent = VerifySynchronous || !decision.use_durable;
			uint64 position;

			event->code = verdict->code;
			event->admitted = (outcome == METER_ADMITTED);
			event->status = VerdictStatus(verdict->code);
			event->urgent = urgent;
			event->at = decision.at / 1000;
			event->key_meter = metering->key;
			event->account_meter = metering->account;
			RequestIdEncode(&event->request_id, event->at, event->key_id, QueueNextSequence());
			position = QueueAppend(event);
			verdict->recorded = true;
			memcpy(&verdict->request_id, &event->request_id, sizeof(verdict->request_id));
			if (unlikely(decision.rise_count > 0))
				appendRises(metering, event, &decision);
			if (urgent)
				verdict->durable_at = call->durable_at = position;
		}
	}
	RESUME_INTERRUPTS();
	return outcome;
}

/*
 * Pins the meters of account and key, loaded for their limits, and remembers
 * where they are; false: not in time.
 */
static bool
pinMeters(MeterRequest *metering, const KeyRow *row, int64 deadline)
{
	metering->account = UsageMeter(&metering->account_subject, metering->account_limits, deadline);
	metering->key = metering->account == METER_NONE ?
						METER_NONE :
						UsageMeter(&metering->key_subject, metering->key_limits, deadline);
	*row->account_meter = metering->account;
	*row->meter = metering->key;
	return metering->key != METER_NONE;
}

/* Records a request that named a key: steps 2, 3 and 5. */
static Recorded
record(const Lookup *lookup, const Request *request, const KeyRow *row, bool first_use_locked,
	   Verdict *verdict, Call *call)
{
	static const LimitSet no_limits = {0};
	Oid relation = RelationGetRelid(lookup->key);
	bool denied = (verdict->code != VERDICT_VALID);
	MeterRequest metering = {.account = *row->account_meter,
							 .key = *row->meter,
							 .account_limits = denied ? &no_limits : &row->account_limits,
							 .key_limits = denied ? &no_limits : &row->limits,
							 .cost = request->cost,
							 .denied = denied,
							 .first_use_locked = first_use_locked};
	union
	{
		Event event;
		char space[EVENT_SIZE_MAX];
	} buffer;
	MeterOutcome outcome = METER_NOT_READY;
	bool tried = false; /* with the meters where they were before */

	/* The meters are on their way, that of the account last. */
	MeterPrefetchRings(metering.key);
	MeterSubjectSet(&metering.account_subject, relation, METER_ACCOUNT, row->account_id);
	MeterSubjectSet(&metering.key_subject, relation, METER_KEY, row->key_id);
	makeEvent(&buffer.event, request, row);
	MeterPrefetchRings(metering.account);
	DirectoryAttach();
	if (call->late && VerifySynchronous)
	{
		setOverloaded(verdict);
		return RECORDED_NOT;
	}
	while (outcome == METER_NOT_READY || outcome == METER_ADMISSIBLE)
	{
		bool admissible = (outcome == METER_ADMISSIBLE);

		/*
		 * Only a first use, and who would be admitted, waits for a writer and
		 * for room.
		 */
		int64 deadline = first_use_locked || admissible ? call->deadline : DEADLINE_NOW;
		bool room;
		bool served;
		bool queued;

		if ((tried || metering.account == METER_NONE || metering.key == METER_NONE) &&
			!pinMeters(&metering, row, call->deadline))
			break;
		tried = true;
		served = DirectoryIsServed(deadline);
		room = QueueReserve(buffer.event.size, served ? deadline : DEADLINE_NOW);
		if (!(room && served) &&
			(first_use_locked || (admissible && VerifyOnOverload == OVERLOAD_DENY)))
			break;
		metering.deny_only = !(room && served) && !admissible;
		queued = room && (served || metering.deny_only);
		outcome = admit(&metering, queued ? &buffer.event : NULL, verdict, call);
		UsageRelease();
		if (!queued && (outcome == METER_ADMITTED || outcome == METER_DENIED))
			QueueCount(outcome == METER_DENIED ? QUEUE_DROPPED : QUEUE_UNRECORDED, 1);
	}
	UsageRelease();
	switch (outcome)
	{
		case METER_ADMITTED:
		case METER_DENIED:
			return RECORDED;
		case METER_FIRST_USE:
			if (!first_use_locked)
				return RECORDED_FIRST_USE;
			break;
		case METER_NOT_READY:
		case METER_ADMISSIBLE:
			break;
	}
	setOverloaded(verdict);
	return RECORDED_NOT;
}

/*
 * Locks the key's first use against its deletion; false: not in time.  Who
 * deletes it may be waiting for the keys that this call has locked before, so
 * these are let go first.
 */
static bool
lockFirstUse(int64 key_id, Call *call)
{
	while (!GuardFirstUseTryLock(key_id))
	{
		CHECK_FOR_INTERRUPTS();
		if (!awaitDurable(call) || ClockMillisecondsUntil(call->deadline) == 0)
			return false;
		WaitNap(WAIT_FIRST_USE, GUARD_NAP_MS);
	}
	call->first_uses[call->first_use_count++] = key_id;
	return true;
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

	for (;;)
	{
		KeyRow row;

		*verdict = (Verdict) VERDICT_EMPTY;
		if (!PolicyDecide(lookup, request, &row, verdict) || LookupMadeHere(lookup, row.key_id))
			return;
		if (record(lookup, request, &row, row.key_id == locked_key, verdict, call) !=
			RECORDED_FIRST_USE)
			return;

		/*
		 * Lock, then look again: it may have been deleted meanwhile, even
		 * replaced by another with the same text.
		 */
		if (call->first_use_count == MANY_FIRST_USES)
			(void) awaitDurable(call);
		WAIT_POINT("verify_lock");
		if (call->late || !lockFirstUse(row.key_id, call))
		{
			setOverloaded(verdict);
			return;
		}
		locked_key = row.key_id;
		LookupEnd(lookup);
		LookupBegin(lookup);
	}
}

/* Ends a verdict: it is overloaded if what it waited for has not come. */
static void
settleVerdict(Verdict *verdict)
{
	if (verdict->durable_at != 0 && !QueueWaitDurable(verdict->durable_at, DEADLINE_NOW))
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
	beginCall(&call);
	LookupBegin(&lookup);
	decide(&request, &lookup, &verdict, &call);
	(void) awaitDurable(&call);
	settleVerdict(&verdict);
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
	beginCall(&call);
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
	(void) awaitDurable(&call);
	for (int i = 0; i < count; i++)
		settleVerdict(&verdicts[i]);
	putVerdicts(result, verdicts, count);
	return (Datum) 0;
}

/* Finds whose key it is; false: there is none with that id. */
static bool
findAccount(int64 key_id, int64 *account_id)
{
	Lookup lookup;
	KeyRow row;
	bool found;

	LookupBegin(&lookup);
	found = LookupById(&lookup, key_id, &row);
	if (found)
		*account_id = row.account_id;
	LookupEnd(&lookup);
	return found;
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
	meter = UsageMeter(&subject, &no_limits, deadline);
	used = meter != METER_NONE && MeterIsUsed(meter);
	UsageRelease();
	return used;
}

/*
 * Records how a request ended; SQL: complete.  The writer looks whether the
 * request is in the log.  Where not all are, all that can be known of another
 * is whether its key was ever used.  False: the id can be none that verify
 * gave, or the record cannot be taken now.
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
	uint32 sequence;
	int64 requested_at;
	int32 status;
	Call call;

	beginCall(&call);
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	status = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	if (status < 100 || status > 599)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("status must be an HTTP status, from 100 to 599")));
	memset(&buffer, 0, sizeof(buffer));
	event->kind = EVENT_COMPLETION;
	event->relation = LookupKeyRelation();
	event->size = MAXALIGN(offsetof(Event, texts));
	event->key_meter = event->account_meter = METER_NONE;
	event->urgent = VerifySynchronous;
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
	memcpy(&event->request_id, PG_GETARG_UUID_P(0), REQUESTID_LEN);
	if (!RequestIdDecode(&event->request_id, &requested_at, &event->key_id, &sequence) ||
		requested_at > ClockNow() / 1000 + CLOCKS_APART_US)
		PG_RETURN_BOOL(false);
	DirectoryAttach();
	if (!EngineLogRequests && !(findAccount(event->key_id, &event->account_id) &&
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
	PG_RETURN_BOOL(awaitDurable(&call));
}
