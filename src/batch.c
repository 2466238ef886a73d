/*
 * batch.c
 *	  Events become rows.
 *
 * BatchWrite runs inside a transaction of the writer.  Requests become rows of
 * request_log; what they and their completions add to usage_bucket and
 * usage_total is summed first, so that each of these rows is touched once a
 * batch.  A completion whose request is in the same batch is merged into it;
 * one that comes later updates the logged row, unless that was completed
 * before: the first wins.  Of a request that was kept out of the log nothing is
 * known, and each completion that comes later counts.
 *
 * An event that cannot be written to the log is put into quarantine with all
 * that its row would have, and counts in the usage as if it were there.  So does
 * the completion of a request that is in quarantine, which joins it there.
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

typedef enum LogColumn
{
	LOG_AT, LOG_KEY_ID, LOG_ACCOUNT_ID, LOG_REQUEST_ID, LOG_CODE, LOG_STATUS, LOG_ENDPOINT, LOG_DURATION_MS,
	LOG_IP, LOG_COST, LOG_CREDITS, LOG_CATEGORY, LOG_COMPLETED
} LogColumn;

#define LOG_COLUMNS	(LOG_COMPLETED + 1)

static const Oid log_types[LOG_COLUMNS] = {
	TIMESTAMPTZOID, INT8OID, INT8OID, UUIDOID, TEXTOID, INT2OID, TEXTOID, FLOAT4OID,
	INETOID, INT4OID, INT8OID, TEXTOID, BOOLOID
};

/* A row of request_log, in it or in quarantine. */
typedef struct LogRow
{
	Datum		values[LOG_COLUMNS];
	bool		nulls[LOG_COLUMNS];
} LogRow;

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

/* Returns the client's address as apikeys.log_address wants it, whole, or its /24 or /48. */
static inet *
formAddress(const Event *event)
{
	inet	   *address = palloc0(sizeof(inet));

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
	return address;
}

static void
setColumn(LogRow *row, LogColumn column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

/* Forms the row of a request; of a completion alone, what it tells of it. */
static void
formRow(const BatchRequest *request, LogRow *row)
{
	const Event *event = request->event;
	const Event *completion = request->completion;
	const Event *either = event ? event : completion;

	memset(row->nulls, true, sizeof(row->nulls));
	setColumn(row, LOG_AT, TimestampTzGetDatum(event ? ClockTimestamp(event->at * 1000) : requestTime(completion)));
	setColumn(row, LOG_KEY_ID, Int64GetDatum(either->key_id));
	setColumn(row, LOG_REQUEST_ID, UUIDPGetDatum((const pg_uuid_t *) &either->request_id));
	setColumn(row, LOG_STATUS, Int16GetDatum(completion ? completion->status : event->status));
	setColumn(row, LOG_COMPLETED, BoolGetDatum(completion != NULL));
	if (event)
	{
		setColumn(row, LOG_ACCOUNT_ID, Int64GetDatum(event->account_id));
		setColumn(row, LOG_CODE, CStringGetTextDatum(VerdictName(event->code)));
		setColumn(row, LOG_COST, Int32GetDatum(event->cost));
		setColumn(row, LOG_CATEGORY, PointerGetDatum(cstring_to_text_with_len(event->texts + event->endpoint_len, event->category_len)));
		if (event->has_endpoint)
			setColumn(row, LOG_ENDPOINT, PointerGetDatum(cstring_to_text_with_len(event->texts, event->endpoint_len)));
		if (event->address_len > 0 && BatchLogAddress != ADDRESS_NONE)
			setColumn(row, LOG_IP, InetPGetDatum(formAddress(event)));
	}
	if (completion && completion->has_duration)
		setColumn(row, LOG_DURATION_MS, Float4GetDatum(completion->duration_ms));
	if (completion && completion->has_credits)
		setColumn(row, LOG_CREDITS, Int64GetDatum(completion->credits));
}

/* Writes the rows of request_log. */
static void
writeLog(const BatchRequest *requests, int count)
{
	static SPIPlanPtr plan = NULL;
	Columns		columns;

	initColumns(&columns, count, LOG_COLUMNS, log_types);
	for (int i = 0; i < count; i++)
	{
		LogRow		row;

		formRow(&requests[i], &row);
		for (int c = 0; c < LOG_COLUMNS; c++)
		{
			columns.values[c][i] = row.values[c];
			columns.nulls[c][i] = row.nulls[c];
		}
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

/* Runs a statement about the row of a request or completion, with the row's columns as $1 to $13; its plan is kept. */
static void
runRow(SPIPlanPtr *plan, const char *statement, const LogRow *row)
{
	char		nulls[LOG_COLUMNS];

	for (int c = 0; c < LOG_COLUMNS; c++)
		nulls[c] = row->nulls[c] ? 'n' : ' ';
	if (*plan == NULL)
	{
		*plan = SPI_prepare(statement, LOG_COLUMNS, (Oid *) log_types);
		if (*plan == NULL)
			elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(*plan);
	}
	SPI_execute_plan(*plan, (Datum *) row->values, nulls, false, 0);
}

/*
 * Adds to usage what a completion changes, if the statement that has just run
 * found its request: its first columns are the account and whether it was
 * admitted.  Returns the account; 0: it did not.
 */
static int64
addCompletion(HTAB *usages, const Event *completion)
{
	bool		isnull;
	int64		account_id;
	Usage		more = {.credits = completion->credits};

	if (SPI_processed == 0)
		return 0;
	account_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	more.errors = completion->status >= ERROR_STATUS &&
		DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	if (more.errors || more.credits)
		addUsage(usages, completion->key_id, account_id, requestTime(completion), &more);
	return account_id;
}

/* Adds to usage what a completion changes where requests are not logged; false: they were, and its account is not known. */
static bool
completeUnlogged(HTAB *usages, const Event *completion)
{
	Usage		more = {.errors = completion->status >= ERROR_STATUS, .credits = completion->credits};

	if (completion->account_id == 0)
		return false;
	addUsage(usages, completion->key_id, completion->account_id, requestTime(completion), &more);
	return true;
}

/* Completes a request that is in quarantine, unless it was; false: neither it nor a completion of it is there. */
static bool
completeQuarantined(HTAB *usages, const LogRow *row, const Event *completion)
{
	static SPIPlanPtr search_plan = NULL;
	static SPIPlanPtr update_plan = NULL;

	runRow(&search_plan, "SELECT FROM apikeys.quarantine AS q"
		   " WHERE (q.event OPERATOR(pg_catalog.->>) 'request_id') OPERATOR(pg_catalog.=) $4::pg_catalog.text LIMIT 1", row);
	if (SPI_processed == 0)
		return false;
	runRow(&update_plan, "UPDATE apikeys.quarantine AS q SET event = q.event OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object("
		   "'status', $6, 'duration_ms', $8, 'credits', $11, 'completed', $13)"
		   " WHERE (q.event OPERATOR(pg_catalog.->>) 'request_id') OPERATOR(pg_catalog.=) $4::pg_catalog.text"
		   " AND (q.event OPERATOR(pg_catalog.->) 'completed') OPERATOR(pg_catalog.=) 'false'"
		   " RETURNING (q.event OPERATOR(pg_catalog.->>) 'account_id')::pg_catalog.int8,"
		   " (q.event OPERATOR(pg_catalog.->>) 'code') OPERATOR(pg_catalog.=) 'valid'", row);
	addCompletion(usages, completion);
	return true;
}

/* Tells whether the request of a completion is in the log. */
static bool
isLogged(const LogRow *row)
{
	static SPIPlanPtr plan = NULL;

	runRow(&plan, "SELECT FROM apikeys.request_log WHERE at OPERATOR(pg_catalog.=) $1 AND key_id OPERATOR(pg_catalog.=) $2"
		   " AND request_id OPERATOR(pg_catalog.=) $4", row);
	return SPI_processed > 0;
}

/* Completes a request that came in an earlier batch, wherever it is; nothing if it was completed already or is not there. */
static void
completeEarlier(HTAB *usages, const Event *completion, bool quarantine_used)
{
	static SPIPlanPtr plan = NULL;
	BatchRequest request = {.completion = completion};
	LogRow		row;

	formRow(&request, &row);
	if (quarantine_used && completeQuarantined(usages, &row, completion))
		return;
	runRow(&plan, "UPDATE apikeys.request_log SET status = $6, duration_ms = $8, credits = $11, completed = $13"
		   " WHERE at OPERATOR(pg_catalog.=) $1 AND key_id OPERATOR(pg_catalog.=) $2"
		   " AND request_id OPERATOR(pg_catalog.=) $4 AND NOT completed"
		   " RETURNING account_id, code OPERATOR(pg_catalog.=) 'valid'", &row);
	if (addCompletion(usages, completion) == 0 && completion->account_id != 0 && !isLogged(&row))
		completeUnlogged(usages, completion);
}

/* Puts a request, or a completion, aside that cannot be written to the log; what it adds to usage is added all the same. */
static void
quarantine(HTAB *usages, const Event *event, const char *reason)
{
	static SPIPlanPtr search_plan = NULL;
	SPIPlanPtr	insert_plan = NULL;
	bool		is_request = (event->kind == EVENT_REQUEST);
	BatchRequest request = {.event = is_request ? event : NULL, .completion = is_request ? NULL : event};
	int64		account_id = event->account_id;
	LogRow		row;

	formRow(&request, &row);
	if (is_request)
		addRequest(usages, &request, false);
	else if (!completeUnlogged(usages, event))
	{
		if (completeQuarantined(usages, &row, event))
			return;
		runRow(&search_plan, "SELECT r.account_id, r.code OPERATOR(pg_catalog.=) 'valid' FROM apikeys.request_log AS r"
			   " WHERE r.at OPERATOR(pg_catalog.=) $1 AND r.key_id OPERATOR(pg_catalog.=) $2"
			   " AND r.request_id OPERATOR(pg_catalog.=) $4 AND NOT r.completed", &row);
		account_id = addCompletion(usages, event);
	}
	if (account_id != 0)
		setColumn(&row, LOG_ACCOUNT_ID, Int64GetDatum(account_id));
	runRow(&insert_plan, psprintf("INSERT INTO apikeys.quarantine (reason, event) VALUES (%s, pg_catalog.jsonb_build_object("
								  "'at', $1, 'key_id', $2, 'account_id', $3, 'request_id', $4, 'code', $5, 'status', $6, 'endpoint', $7,"
								  " 'duration_ms', $8, 'ip', $9, 'cost', $10, 'credits', $11, 'category', $12, 'completed', $13))",
								  quote_literal_cstr(reason)), &row);
	SPI_freeplan(insert_plan);
}

/* Tells whether anything is in quarantine. */
static bool
quarantineIsUsed(void)
{
	SPI_execute("SELECT FROM apikeys.quarantine LIMIT 1", false, 1);
	return SPI_processed > 0;
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

/* Merges completions into the requests of the same batch; the others go to the log, or to quarantine. */
static void
mergeCompletions(const Batch *batch, BatchRequest *requests, int count, HTAB *usages)
{
	HTAB	   *by_id = makeTable("requests of a batch", sizeof(RequestId), sizeof(RequestEntry));
	bool		quarantine_used = quarantineIsUsed();
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
			completeEarlier(usages, event, quarantine_used);
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
	{
		for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
			if (event->kind != EVENT_LIMITS)
				quarantine(usages, event, batch->quarantine_reason);
		count = 0;
	}
	else if (count < events)
		mergeCompletions(batch, requests, count, usages);
	for (int i = 0; i < count; i++)
		addRequest(usages, &requests[i], !BatchLogRequests);
	if (BatchLogRequests && count > 0)
		writeLog(requests, count);
	writeUsage(usages);
	SPI_finish();
}

/* Settles the events in their meters: they are committed, or given up.  Returns how many of requests and completions there are; cannot throw. */
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
		if (event->kind != EVENT_LIMITS)
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
