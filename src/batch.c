/*
 * batch.c
 *	  Events become rows.
 *
 * BatchWrite runs inside a transaction of the writer.  Requests become rows of
 * request_log; what they and their completions add to usage_bucket and
 * usage_total is summed first, so that each of these rows is touched once a
 * batch.  A completion whose request is in the same batch is merged into it;
 * one that comes later updates the logged row, unless that was completed
 * before: the first wins.  Without a log there is nothing to compare with, and
 * each completion that comes later counts.
 *
 * All is done by SPI with plans kept for the life of the writer; every name is
 * qualified and the search path holds nothing but pg_catalog.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inet.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "batch.h"
#include "clock.h"
#include "compat.h"
#include "verdict.h"

#define BUCKET_US	(INT64CONST(5) * 60 * USECS_PER_SEC)
#define ERROR_STATUS	400		/* from here on a completed request counts as an error */

/* What a subject used, in one bucket (usage_bucket) or in all (usage_total). */
typedef struct UsageKey
{
	int64		subject;		/* a MeterKind */
	int64		subject_id;
	TimestampTz bucket;			/* 0 for the total */
	int64		total;			/* 1 for the total: no bucket has it */
} UsageKey;

typedef struct Usage
{
	UsageKey	key;			/* hash key */
	int64		admitted;
	int64		denied;
	int64		units;
	int64		errors;
	int64		credits;
	int64		unlogged;		/* requests that apikeys.log_requests keeps out of the log */
	TimestampTz first_at;
	TimestampTz last_at;
} Usage;

/* A request of this batch and its completion. */
typedef struct BatchRequest
{
	const Event *event;
	const Event *completion;	/* NULL: none in this batch */
} BatchRequest;

/* Finds a request of this batch by its id. */
typedef struct RequestEntry
{
	RequestId	id;				/* hash key */
	BatchRequest *request;
} RequestEntry;

/* Columns of rows to be written, as arrays for unnest. */
#define COLUMNS_MAX	14

typedef struct Columns
{
	int			rows;
	int			count;
	Oid			types[COLUMNS_MAX];
	Datum	   *values[COLUMNS_MAX];
	bool	   *nulls[COLUMNS_MAX];
} Columns;

bool		BatchLogRequests = true;
int			BatchLogAddress = ADDRESS_FULL;

/* Returns the event behind another, or the first; NULL: there are no more. */
const Event *
BatchNext(const Batch *batch, const Event *event)
{
	const char *next = event ? (const char *) event + event->size : batch->events;

	return next < batch->events + batch->size ? (const Event *) next : NULL;
}

static HTAB *
makeTable(const char *name, size_t key_size, size_t entry_size)
{
	HASHCTL		ctl = {.keysize = key_size, .entrysize = entry_size, .hcxt = CurrentMemoryContext};

	return hash_create(name, 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static Usage *
findUsage(HTAB *usages, MeterKind kind, int64 id, bool total, TimestampTz at)
{
	UsageKey	key;
	Usage	   *usage;
	bool		found;

	memset(&key, 0, sizeof(key));
	key.subject = kind;
	key.subject_id = id;
	key.total = total;
	if (!total)
		key.bucket = at - ((at % BUCKET_US) + BUCKET_US) % BUCKET_US;
	usage = hash_search(usages, &key, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) usage + sizeof(key), 0, sizeof(*usage) - sizeof(key));
		usage->first_at = usage->last_at = at;
	}
	usage->first_at = Min(usage->first_at, at);
	usage->last_at = Max(usage->last_at, at);
	return usage;
}

/* What one request, or its completion, adds to four rows. */
static void
addUsage(HTAB *usages, int64 key_id, int64 account_id, TimestampTz at, const Usage *more)
{
	for (int i = 0; i < 4; i++)
	{
		bool		of_key = (i < 2);
		Usage	   *usage = findUsage(usages, of_key ? METER_KEY : METER_ACCOUNT, of_key ? key_id : account_id, i % 2, at);

		usage->admitted += more->admitted;
		usage->denied += more->denied;
		usage->units += more->units;
		usage->errors += more->errors;
		usage->credits += more->credits;
		usage->unlogged += more->unlogged;
	}
}

static void
addRequest(HTAB *usages, const BatchRequest *request, bool unlogged)
{
	const Event *event = request->event;
	const Event *completion = request->completion;
	Usage		more = {
		.admitted = event->admitted,
		.denied = !event->admitted,
		.units = event->admitted ? event->cost : 0,
		.errors = event->admitted && completion && completion->status >= ERROR_STATUS,
		.credits = completion ? completion->credits : 0,
		.unlogged = unlogged
	};

	addUsage(usages, event->key_id, event->account_id, ClockTimestamp(event->at * 1000), &more);
}

static void
initColumns(Columns *columns, int rows, int count, const Oid *types)
{
	columns->rows = 0;
	columns->count = count;
	for (int c = 0; c < count; c++)
	{
		columns->types[c] = types[c];
		columns->values[c] = palloc_array(Datum, Max(rows, 1));
		columns->nulls[c] = palloc0_array(bool, Max(rows, 1));
	}
}

/*
 * Runs a statement whose parameters are the columns as arrays, and %s in it
 * their rows; its plan is kept.
 */
static void
runColumns(SPIPlanPtr *plan, const char *statement, const Columns *columns)
{
	Oid			types[COLUMNS_MAX];
	Datum		arrays[COLUMNS_MAX];

	for (int c = 0; c < columns->count; c++)
	{
		int16		len;
		bool		by_value;
		char		align;
		int			lower = 1;

		get_typlenbyvalalign(columns->types[c], &len, &by_value, &align);
		types[c] = get_array_type(columns->types[c]);
		arrays[c] = PointerGetDatum(construct_md_array(columns->values[c], columns->nulls[c], 1, (int *) &columns->rows,
													   &lower, columns->types[c], len, by_value, align));
	}
	if (*plan == NULL)
	{
		StringInfoData rows;

		initStringInfo(&rows);
		for (int c = 1; c <= columns->count; c++)
			appendStringInfo(&rows, "%spg_catalog.unnest($%d)", c > 1 ? ", " : "", c);
		*plan = SPI_prepare(psprintf(statement, rows.data), columns->count, types);
		if (*plan == NULL)
			elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(*plan);
	}
	SPI_execute_plan(*plan, arrays, NULL, false, 0);
}

/* Returns the address as apikeys.log_address wants it: whole, or its /24 or /48. */
static Datum
formAddress(const Event *event, bool *isnull)
{
	inet	   *address;

	*isnull = (event->address_len == 0 || BatchLogAddress == ADDRESS_NONE);
	if (*isnull)
		return (Datum) 0;
	address = palloc0(sizeof(inet));
	ip_family(address) = event->address_len == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(address) = event->address_len * 8;
	memcpy(ip_addr(address), event->address, event->address_len);
	if (BatchLogAddress == ADDRESS_NETWORK)
	{
		int			kept = event->address_len == 4 ? 3 : 6;

		memset(ip_addr(address) + kept, 0, event->address_len - kept);
		ip_bits(address) = kept * 8;
	}
	SET_INET_VARSIZE(address);
	return InetPGetDatum(address);
}

/* Writes the rows of request_log. */
static void
writeLog(const BatchRequest *requests, int count)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TIMESTAMPTZOID, INT8OID, INT8OID, UUIDOID, TEXTOID, INT2OID, TEXTOID, FLOAT4OID,
	INETOID, INT4OID, INT8OID, TEXTOID, BOOLOID};
	Columns		columns;

	initColumns(&columns, count, lengthof(types), types);
	for (int row = 0; row < count; row++)
	{
		const Event *event = requests[row].event;
		const Event *completion = requests[row].completion;
		int			c = 0;

		columns.values[c++][row] = TimestampTzGetDatum(ClockTimestamp(event->at * 1000));
		columns.values[c++][row] = Int64GetDatum(event->key_id);
		columns.values[c++][row] = Int64GetDatum(event->account_id);
		columns.values[c++][row] = UUIDPGetDatum((const pg_uuid_t *) &event->request_id);
		columns.values[c++][row] = CStringGetTextDatum(VerdictName(event->code));
		columns.values[c++][row] = Int16GetDatum(completion ? completion->status : event->status);
		columns.nulls[c][row] = !event->has_endpoint;
		columns.values[c++][row] = PointerGetDatum(cstring_to_text_with_len(event->texts, event->endpoint_len));
		columns.nulls[c][row] = !(completion && completion->has_duration);
		columns.values[c++][row] = Float4GetDatum(completion ? completion->duration_ms : 0);
		columns.values[c][row] = formAddress(event, &columns.nulls[c][row]);
		c++;
		columns.values[c++][row] = Int32GetDatum(event->cost);
		columns.nulls[c][row] = !(completion && completion->has_credits);
		columns.values[c++][row] = Int64GetDatum(completion ? completion->credits : 0);
		columns.values[c++][row] = PointerGetDatum(cstring_to_text_with_len(event->texts + event->endpoint_len, event->category_len));
		columns.values[c++][row] = BoolGetDatum(completion != NULL);
	}
	columns.rows = count;
	runColumns(&plan,
			   "INSERT INTO apikeys.request_log (at, key_id, account_id, request_id, code, status, endpoint, duration_ms,"
			   " ip, cost, credits, category, completed)"
			   " SELECT r.at, r.key_id, r.account_id, r.request_id, r.code, r.status, r.endpoint, r.duration_ms,"
			   " r.ip, r.cost, r.credits, r.category, r.completed"
			   " FROM ROWS FROM (%s) AS r(at, key_id, account_id, request_id, code, status, endpoint, duration_ms, ip, cost, credits, category, completed)",
			   &columns);
}

/* Returns when the request of a completion was: its id tells. */
static TimestampTz
requestTime(const Event *completion)
{
	int64		at;
	int64		key_id;
	uint32		sequence;

	if (!RequestIdDecode(&completion->request_id, &at, &key_id, &sequence))
		elog(ERROR, "malformed request id in the queue");
	return ClockTimestamp(at * 1000);
}

/*
 * Completes a request that was logged before; adds to usage what that changes,
 * nothing if it was completed already or is not in the log.
 */
static void
completeLogged(const Event *completion, HTAB *usages)
{
	static SPIPlanPtr plan = NULL;
	TimestampTz at = requestTime(completion);
	Datum		values[6] = {
		TimestampTzGetDatum(at), Int64GetDatum(completion->key_id), UUIDPGetDatum((const pg_uuid_t *) &completion->request_id),
		Int16GetDatum(completion->status), Float4GetDatum(completion->duration_ms), Int64GetDatum(completion->credits)
	};
	char		nulls[6] = {' ', ' ', ' ', ' ', completion->has_duration ? ' ' : 'n', completion->has_credits ? ' ' : 'n'};

	if (completion->account_id != 0)	/* known because nothing is logged */
	{
		Usage		more = {.errors = completion->status >= ERROR_STATUS, .credits = completion->credits};

		addUsage(usages, completion->key_id, completion->account_id, at, &more);
		return;
	}
	if (plan == NULL)
	{
		Oid			types[6] = {TIMESTAMPTZOID, INT8OID, UUIDOID, INT2OID, FLOAT4OID, INT8OID};

		plan = SPI_prepare("UPDATE apikeys.request_log SET status = $4, duration_ms = $5, credits = $6, completed = true"
						   " WHERE at OPERATOR(pg_catalog.=) $1 AND key_id OPERATOR(pg_catalog.=) $2"
						   " AND request_id OPERATOR(pg_catalog.=) $3 AND NOT completed"
						   " RETURNING account_id, code OPERATOR(pg_catalog.=) 'valid'", 6, types);
		if (plan == NULL)
			elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
	}
	SPI_execute_plan(plan, values, nulls, false, 0);
	if (SPI_processed == 1)
	{
		bool		isnull;
		HeapTuple	row = SPI_tuptable->vals[0];
		int64		account_id = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		bool		admitted = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		Usage		more = {.errors = admitted && completion->status >= ERROR_STATUS, .credits = completion->credits};

		if (more.errors || more.credits)
			addUsage(usages, completion->key_id, account_id, at, &more);
	}
}

static int
compareUsages(const void *a, const void *b)
{
	return memcmp(*(Usage *const *) a, *(Usage *const *) b, sizeof(UsageKey));
}

/* Adds the sums to usage_bucket and usage_total. */
static void
writeUsage(HTAB *usages)
{
	static SPIPlanPtr bucket_plan = NULL;
	static SPIPlanPtr total_plan = NULL;
	static const Oid types[] = {CHAROID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	static const Oid bucket_types[] = {CHAROID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID};
	long		count = hash_get_num_entries(usages);
	Usage	  **sorted = palloc_array(Usage *, Max(count, 1));
	Columns		buckets;
	Columns		totals;
	HASH_SEQ_STATUS scan;
	Usage	   *usage;

	count = 0;
	hash_seq_init(&scan, usages);
	while ((usage = hash_seq_search(&scan)) != NULL)
		sorted[count++] = usage;
	qsort(sorted, count, sizeof(Usage *), compareUsages);
	initColumns(&buckets, count, lengthof(bucket_types), bucket_types);
	initColumns(&totals, count, lengthof(types), types);
	for (long i = 0; i < count; i++)
	{
		Columns    *columns;
		int			row;
		int			c = 0;

		usage = sorted[i];
		columns = usage->key.total ? &totals : &buckets;
		row = columns->rows++;
		columns->values[c++][row] = CharGetDatum((char) usage->key.subject);
		columns->values[c++][row] = Int64GetDatum(usage->key.subject_id);
		columns->values[c++][row] = Int64GetDatum(usage->admitted);
		columns->values[c++][row] = Int64GetDatum(usage->denied);
		columns->values[c++][row] = Int64GetDatum(usage->units);
		columns->values[c++][row] = Int64GetDatum(usage->errors);
		columns->values[c++][row] = Int64GetDatum(usage->credits);
		columns->values[c++][row] = TimestampTzGetDatum(usage->key.total ? usage->first_at : usage->key.bucket);
		columns->values[c++][row] = usage->key.total ? TimestampTzGetDatum(usage->last_at) : Int64GetDatum(usage->unlogged);
	}
	if (buckets.rows > 0)
		runColumns(&bucket_plan,
				   "INSERT INTO apikeys.usage_bucket AS b (subject, subject_id, admitted, denied, units, errors, credits, bucket, unlogged)"
				   " SELECT u.subject, u.subject_id, u.admitted, u.denied, u.units, u.errors, u.credits, u.bucket, u.unlogged"
				   " FROM ROWS FROM (%s) AS u(subject, subject_id, admitted, denied, units, errors, credits, bucket, unlogged)"
				   " ON CONFLICT (subject, subject_id, bucket) DO UPDATE SET"
				   " admitted = b.admitted OPERATOR(pg_catalog.+) excluded.admitted,"
				   " denied = b.denied OPERATOR(pg_catalog.+) excluded.denied,"
				   " units = b.units OPERATOR(pg_catalog.+) excluded.units,"
				   " errors = b.errors OPERATOR(pg_catalog.+) excluded.errors,"
				   " credits = b.credits OPERATOR(pg_catalog.+) excluded.credits,"
				   " unlogged = b.unlogged OPERATOR(pg_catalog.+) excluded.unlogged",
				   &buckets);
	if (totals.rows > 0)
		runColumns(&total_plan,
				   "INSERT INTO apikeys.usage_total AS t (subject, subject_id, admitted, denied, units, errors, credits,"
				   " first_used_at, last_used_at)"
				   " SELECT u.subject, u.subject_id, u.admitted, u.denied, u.units, u.errors, u.credits, u.first_at, u.last_at"
				   " FROM ROWS FROM (%s) AS u(subject, subject_id, admitted, denied, units, errors, credits, first_at, last_at)"
				   " ON CONFLICT (subject, subject_id) DO UPDATE SET"
				   " admitted = t.admitted OPERATOR(pg_catalog.+) excluded.admitted,"
				   " denied = t.denied OPERATOR(pg_catalog.+) excluded.denied,"
				   " units = t.units OPERATOR(pg_catalog.+) excluded.units,"
				   " errors = t.errors OPERATOR(pg_catalog.+) excluded.errors,"
				   " credits = t.credits OPERATOR(pg_catalog.+) excluded.credits,"
				   " first_used_at = LEAST(t.first_used_at, excluded.first_used_at),"
				   " last_used_at = GREATEST(t.last_used_at, excluded.last_used_at)",
				   &totals);
}

/* Puts an event that could not be logged aside. */
static void
quarantine(const Event *event, const char *reason)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[7] = {TEXTOID, INT8OID, INT8OID, UUIDOID, TIMESTAMPTZOID, TEXTOID, INT8OID};
	Datum		values[7] = {
		CStringGetTextDatum(reason), Int64GetDatum(event->key_id), Int64GetDatum(event->account_id),
		UUIDPGetDatum((const pg_uuid_t *) &event->request_id), TimestampTzGetDatum(ClockTimestamp(event->at * 1000)),
		CStringGetTextDatum(event->kind == EVENT_REQUEST ? VerdictName(event->code) : "completion"),
		Int64GetDatum(event->cost)
	};

	if (plan == NULL)
	{
		plan = SPI_prepare("INSERT INTO apikeys.quarantine (reason, event) VALUES ($1, pg_catalog.jsonb_build_object("
						   "'key_id', $2, 'account_id', $3, 'request_id', $4, 'at', $5, 'code', $6, 'cost', $7))", 7, types);
		if (plan == NULL)
			elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
	}
	SPI_execute_plan(plan, values, NULL, false, 0);
}

/* Merges completions into the requests of the same batch; the others go to the log. */
static void
mergeCompletions(const Batch *batch, BatchRequest *requests, int count, HTAB *usages)
{
	HTAB	   *by_id = makeTable("requests of a batch", sizeof(RequestId), sizeof(RequestEntry));
	RequestEntry *entry;
	bool		found;

	for (int i = 0; i < count; i++)
	{
		entry = hash_search(by_id, &requests[i].event->request_id, HASH_ENTER, &found);
		entry->request = &requests[i];
	}
	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
	{
		if (event->kind != EVENT_COMPLETION)
			continue;
		entry = hash_search(by_id, &event->request_id, HASH_FIND, &found);
		if (!found)
			completeLogged(event, usages);
		else if (entry->request->completion == NULL)
			entry->request->completion = event;
	}
}

/* Writes a batch in the open transaction; an error leaves it to be tried again. */
void
BatchWrite(const Batch *batch)
{
	HTAB	   *usages = makeTable("usage of a batch", sizeof(UsageKey), sizeof(Usage));
	BatchRequest *requests;
	int			events = 0;
	int			count = 0;

	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
		events++;
	requests = palloc0_array(BatchRequest, events);
	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
		if (event->kind == EVENT_REQUEST)
			requests[count++].event = event;

	SPI_connect();
	if (batch->quarantine_reason)
		for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
			quarantine(event, batch->quarantine_reason);
	else if (count < events)
		mergeCompletions(batch, requests, count, usages);
	for (int i = 0; i < count; i++)
		addRequest(usages, &requests[i], !BatchLogRequests && batch->quarantine_reason == NULL);
	if (BatchLogRequests && count > 0 && batch->quarantine_reason == NULL)
		writeLog(requests, count);
	writeUsage(usages);
	SPI_finish();
}

/* Settles the events in their meters: they are committed, or given up.  Returns how many there are; cannot throw. */
uint64
BatchSettle(const Batch *batch)
{
	uint64		events = 0;

	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
	{
		if (event->key_meter != METER_NONE)
			MeterSettle(event->key_meter, event->urgent);
		if (event->account_meter != METER_NONE)
			MeterSettle(event->account_meter, false);
		events++;
	}
	return events;
}

/* Tells whether somebody waits for one of the events to be durable. */
bool
BatchIsUrgent(const Batch *batch)
{
	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
		if (event->urgent)
			return true;
	return false;
}

/* After BatchSettle, tells meters and waiting backends that the events would survive a crash, or are given up; cannot throw. */
void
BatchSetDurable(const Batch *batch)
{
	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
		if (event->urgent && event->key_meter != METER_NONE)
			MeterSetDurable(event->key_meter);
	QueueSetDurable(batch->position);
}
