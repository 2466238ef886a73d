/*
 * record.c
 *	  Meters and records a request that named a key: steps 2, 3 and 5 of the
 *	  protocol in verify.c.
 *
 * Whether step 3 waits depends on what step 5 would decide, so the steps
 * are tried without waiting at first.  A denied request needs no room: without
 * it, it is dropped and counted.  Nor does it need a writer; only the start of
 * one, or a stop of the server, can keep its event from the tables.  A request
 * that would be admitted is tried again, and waits for a writer and for room.
 * The first use of a key is never dropped, however it is decided: it waits.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/rel.h"

#include "engine/directory.h"
#include "engine/meter.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "pure/clock.h"
#include "pure/keytext.h"
#include "pure/pattern.h"
#include "request/metering.h"
#include "request/record.h"

/*
 * Bytes of a text in which keys are replaced once one is found.  At least 7 are
 * left of each 39, so what comes after them would be cut off anyway.
 */
#define REDACTED_MAX (8 * EVENT_ENDPOINT_MAX)

StaticAssertDecl(REDACTED_MAX / 39 * 7 > EVENT_ENDPOINT_MAX, "REDACTED_MAX is enough");

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

/* What step 3 has found. */
typedef enum Room
{
	ROOM_NONE,
	ROOM_UNSERVED, /* there is room, and no writer now */
	ROOM_SERVED
} Room;

PG_FUNCTION_INFO_V1(apikeys_record_endpoint);
PG_FUNCTION_INFO_V1(apikeys_record_product);

int RecordOnOverload = OVERLOAD_DENY;
bool RecordQueryString = false;

/*
 * Copies at most max bytes of a text, in whole characters; returns how many.
 */
static int
putText(char *out, const char *value, int len, int max)
{
	if (len > max)
		len = pg_mbcliplen(value, len, max);
	memcpy(out, value, len);
	return len;
}

/*
 * Copies a text that the client has sent, as putText does, with the hints of
 * the keys that are in it in their place.  A key text that the cut would
 * shorten is found, too.
 */
static int
putSentText(char *out, const char *value, int len, int max)
{
	size_t body;
	size_t body_len;
	char *copy;

	if (likely(!KeyTextFind(value, Min(len, max + KEYTEXT_MAX), 0, &body, &body_len)))
		return putText(out, value, len, max);
	len = Min(len, REDACTED_MAX);
	copy = pnstrdup(value, len);
	len = KeyTextRedact(copy, len, GetDatabaseEncoding() == PG_UTF8);
	len = putText(out, copy, len, max);
	pfree(copy);
	return len;
}

/*
 * Returns the length of an endpoint without its query string and fragment.
 * Characters of ASCII are no parts of others in any encoding of a database.
 */
static int
pathLength(const char *endpoint, int len)
{
	const char *end = memchr(endpoint, '?', len);

	if (end)
		len = end - endpoint;
	end = memchr(endpoint, '#', len);
	return end ? end - endpoint : len;
}

/*
 * Writes an endpoint in the form that is stored, at most max bytes; returns how
 * many.
 */
int
RecordEndpoint(const text *endpoint, char *out, int max)
{
	const char *value = VARDATA_ANY(endpoint);
	int len = VARSIZE_ANY_EXHDR(endpoint);

	if (!RecordQueryString)
		len = pathLength(value, Min(len, REDACTED_MAX));
	return putSentText(out, value, len, max);
}

/* Appends an endpoint to the event. */
static void
addEndpoint(Event *event, uint32 *size, const text *endpoint)
{
	event->has_endpoint = true;
	event->endpoint_len = RecordEndpoint(endpoint, (char *) event + *size, EVENT_ENDPOINT_MAX);
	*size += event->endpoint_len;
}

/* Appends a product to the event. */
static void
addProduct(Event *event, uint32 *size, const text *product)
{
	event->product_len = putSentText((char *) event + *size, VARDATA_ANY(product),
									 VARSIZE_ANY_EXHDR(product), EVENT_PRODUCT_MAX);
	*size += event->product_len;
}

/*
 * Returns a text that a request was given in the form that the log has; add is
 * addEndpoint or addProduct.
 */
static Datum
loggedForm(const text *given, void (*add)(Event *, uint32 *, const text *))
{
	union
	{
		Event event;
		char space[EVENT_SIZE_MAX];
	} buffer = {0};
	uint32 size = offsetof(Event, texts);

	add(&buffer.event, &size, given);
	return PointerGetDatum(
		cstring_to_text_with_len(buffer.event.texts, size - offsetof(Event, texts)));
}

/* SQL: logged_endpoint. */
Datum
apikeys_record_endpoint(PG_FUNCTION_ARGS)
{
	return loggedForm(PG_GETARG_TEXT_PP(0), addEndpoint);
}

/* SQL: logged_product. */
Datum
apikeys_record_product(PG_FUNCTION_ARGS)
{
	return loggedForm(PG_GETARG_TEXT_PP(0), addProduct);
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
	event->rotations = row->rotations;
	event->previous = row->previous;
	if (request->ip)
	{
		PatternAddress address;

		PatternAddressSet(&address, ip_addr(request->ip), ip_addrsize(request->ip));
		event->address_len = address.len;
		memcpy(event->address, address.bytes, address.len);
	}
	if (request->endpoint)
		addEndpoint(event, &size, request->endpoint);
	event->category_len = putText((char *) event + size, VARDATA_ANY(row->category),
								  VARSIZE_ANY_EXHDR(row->category), EVENT_CATEGORY_MAX);
	size += event->category_len;
	if (request->product)
		addProduct(event, &size, request->product);
	event->size = MAXALIGN(size);
	memset((char *) event + size, 0, event->size - size);
}

/*
 * Appends an event that tells of limits which are nearly or all used.  Where
 * there is no room for it, the next request will.  Cannot throw.
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
	if (unlikely(decision->rise_count > 0))
		appendRises(metering, event, decision);
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
	bool served = DirectoryIsServed(deadline);

	if (!QueueReserve(recording->event->size, served ? deadline : DEADLINE_NOW))
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
	room = reserveRoom(recording, wait ? recording->call->deadline : DEADLINE_NOW);
	if (room != ROOM_SERVED && wait &&
		(metering->first_use_locked || RecordOnOverload == OVERLOAD_DENY))
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

/*
 * Meters and records a request that named a key, in an open look-up.  The
 * verdict has what was decided without meters, and gets what they say; where
 * the request was not recorded its limits mean nothing.
 */
Recorded
RecordRequest(const Lookup *lookup, const Request *request, const KeyRow *row,
			  bool first_use_locked, Verdict *verdict, Call *call)
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
	DirectoryAttach();
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
