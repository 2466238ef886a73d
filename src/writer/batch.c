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
 * that its row would have, and counts in the usage as if it were there.  So
 * does the completion of a request that is in quarantine, which joins it there.
 *
 * Log and usage are written row by row (rows.c), what has to do with quarantine
 * by SPI, with plans kept for the life of the writer; there every name is
 * qualified, and the search path holds nothing but pg_catalog.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/table.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "port/pg_bitutils.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inet.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "compat.h"
#include "engine/engine.h"
#include "pure/bucket.h"
#include "pure/clock.h"
#include "tables/catalog.h"
#include "tables/rows.h"
#include "types/verdict.h"
#include "writer/batch.h"
#include "writer/maintain.h"

#define ERROR_STATUS 400 /* from here on a completed request counts as an error */

/*
 * What a subject used, in one bucket (a row of usage_bucket) or in all
 * (usage_total).
 */
typedef struct Usage
{
	MeterKind subject;
	int64 subject_id;
	TimestampTz bucket; /* 0 for the total */
	int64 admitted;
	int64 denied;
	int64 units;
	int64 errors;
	int64 credits;
	int64 unlogged; /* requests that apikeys.log_requests keeps out of the log */
	TimestampTz first_at;
	TimestampTz last_at;
} Usage;

/*
 * What all subjects of a batch used, found by subject and bucket: each place
 * has the number of its usage, counted from 1.
 */
typedef struct UsageList
{
	Usage *usages;
	uint32 count;
	uint32 *places;
	uint32 place_mask;
} UsageList;

/* A request of this batch and its completion. */
typedef struct BatchRequest
{
	const Event *event;
	const Event *completion; /* NULL: none in this batch */
} BatchRequest;

/* Finds a request of this batch by its id. */
typedef struct RequestEntry
{
	RequestId id; /* hash key */
	BatchRequest *request;
} RequestEntry;

typedef enum LogColumn
{
	LOG_KEY_ID,
	LOG_AT,
	LOG_REQUEST_ID,
	LOG_ACCOUNT_ID,
	LOG_CODE,
	LOG_STATUS,
	LOG_ENDPOINT,
	LOG_DURATION_MS,
	LOG_IP,
	LOG_COST,
	LOG_CREDITS,
	LOG_CATEGORY,
	LOG_PRODUCT,
	LOG_COMPLETED
} LogColumn;

#define LOG_COLUMNS (LOG_COMPLETED + 1)

static const RowColumns log_columns = {LOG_COLUMNS,
									   .key_count = 3,
									   .hinted = false,
									   {{"key_id", INT8OID},
										{"at", TIMESTAMPTZOID},
										{"request_id", UUIDOID},
										{"account_id", INT8OID},
										{"code", TEXTOID},
										{"status", INT2OID},
										{"endpoint", TEXTOID},
										{"duration_ms", FLOAT4OID},
										{"ip", INETOID},
										{"cost", INT4OID},
										{"credits", INT8OID},
										{"category", TEXTOID},
										{"product", TEXTOID},
										{"completed", BOOLOID}}};

/* Columns of usage_bucket, and those of usage_total. */
typedef enum BucketColumn
{
	BUCKET_SUBJECT,
	BUCKET_SUBJECT_ID,
	BUCKET_BUCKET,
	BUCKET_ADMITTED,
	BUCKET_DENIED,
	BUCKET_UNITS,
	BUCKET_ERRORS,
	BUCKET_CREDITS,
	BUCKET_UNLOGGED
} BucketColumn;

#define BUCKET_COLUMNS (BUCKET_UNLOGGED + 1)

static const RowColumns bucket_columns = {BUCKET_COLUMNS,
										  .key_count = 3,
										  .hinted = true,
										  {{"subject", CHAROID},
										   {"subject_id", INT8OID},
										   {"bucket", TIMESTAMPTZOID},
										   {"admitted", INT8OID},
										   {"denied", INT8OID},
										   {"units", INT8OID},
										   {"errors", INT8OID},
										   {"credits", INT8OID},
										   {"unlogged", INT8OID}}};

typedef enum TotalColumn
{
	TOTAL_SUBJECT,
	TOTAL_SUBJECT_ID,
	TOTAL_ADMITTED,
	TOTAL_DENIED,
	TOTAL_UNITS,
	TOTAL_ERRORS,
	TOTAL_CREDITS,
	TOTAL_FIRST_USED_AT,
	TOTAL_LAST_USED_AT
} TotalColumn;

#define TOTAL_COLUMNS (TOTAL_LAST_USED_AT + 1)

static const RowColumns total_columns = {TOTAL_COLUMNS,
										 .key_count = 2,
										 .hinted = true,
										 {{"subject", CHAROID},
										  {"subject_id", INT8OID},
										  {"admitted", INT8OID},
										  {"denied", INT8OID},
										  {"units", INT8OID},
										  {"errors", INT8OID},
										  {"credits", INT8OID},
										  {"first_used_at", TIMESTAMPTZOID},
										  {"last_used_at", TIMESTAMPTZOID}}};

/* A row of request_log, in it or in quarantine. */
typedef struct LogRow
{
	Datum values[LOG_COLUMNS];
	bool nulls[LOG_COLUMNS];
} LogRow;

/* The partitions that a batch writes to, by day. */
typedef struct Partition
{
	TimestampTz day;
	RowTable *table; /* NULL: there is none */
} Partition;

/* What a batch becomes. */
typedef struct Work
{
	UsageList usages;
	Partition *partitions;
	int partition_count;
	MemoryContext row_context; /* for one row at a time */
	bool quarantine_used;
} Work;

int BatchLogAddress = ADDRESS_FULL;

/* Returns the event behind another, or the first; NULL: there are no more. */
const Event *
BatchNext(const Batch *batch, const Event *event)
{
	const char *next = event ? (const char *) event + event->size : batch->events;

	return next < batch->events + batch->size ? (const Event *) next : NULL;
}

/* Returns when the request of a completion was: its id tells. */
static TimestampTz
requestTime(const Event *completion)
{
	int64 at;
	int64 key_id;
	uint32 sequence;

	if (!RequestIdDecode(&completion->request_id, &at, &key_id, &sequence))
		elog(ERROR, "malformed request id in the queue");
	return ClockTimestamp(at * 1000);
}

static int64
addClamped(int64 a, int64 b)
{
	int64 sum;

	if (pg_add_s64_overflow(a, b, &sum))
		return PG_INT64_MAX;
	return sum;
}

static void
initUsages(UsageList *list, uint32 count_max)
{
	uint32 places = pg_nextpower2_32(Max(count_max, 8) * 2);

	list->usages = palloc_array(Usage, count_max);
	list->count = 0;
	list->places = palloc0_array(uint32, places);
	list->place_mask = places - 1;
}

static Usage *
findUsage(UsageList *list, MeterKind subject, int64 subject_id, TimestampTz bucket)
{
	uint64 hash = ((uint64) subject_id * 2 + (subject == METER_KEY) + (uint64) bucket) *
				  UINT64CONST(0x9E3779B97F4A7C15);
	uint32 place = (hash >> 32) & list->place_mask;
	Usage *usage;

	for (; list->places[place] != 0; place = (place + 1) & list->place_mask)
	{
		usage = &list->usages[list->places[place] - 1];
		if (usage->subject_id == subject_id && usage->bucket == bucket && usage->subject == subject)
			return usage;
	}
	usage = &list->usages[list->count++];
	list->places[place] = list->count;
	*usage = (Usage){.subject = subject,
					 .subject_id = subject_id,
					 .bucket = bucket,
					 .first_at = DT_NOEND,
					 .last_at = DT_NOBEGIN};
	return usage;
}

static void
addUsage(Usage *usage, const Usage *more)
{
	usage->admitted += more->admitted;
	usage->denied += more->denied;
	usage->units += more->units;
	usage->errors += more->errors;
	usage->credits = addClamped(usage->credits, more->credits);
	usage->unlogged += more->unlogged;
	usage->first_at = Min(usage->first_at, more->first_at);
	usage->last_at = Max(usage->last_at, more->last_at);
}

/*
 * Adds what one request, or its completion, used to the buckets of key and
 * account; the totals are made of them.
 */
static void
countUsage(UsageList *buckets, int64 key_id, int64 account_id, TimestampTz at, Usage *more)
{
	TimestampTz bucket = BucketStart(at);

	more->first_at = more->last_at = at;
	addUsage(findUsage(buckets, METER_KEY, key_id, bucket), more);
	addUsage(findUsage(buckets, METER_ACCOUNT, account_id, bucket), more);
}

static void
countRequest(UsageList *buckets, const BatchRequest *request, bool unlogged)
{
	const Event *event = request->event;
	const Event *completion = request->completion;
	Usage more = {.admitted = event->admitted,
				  .denied = !event->admitted,
				  .units = event->admitted ? event->cost : 0,
				  .errors = event->admitted && completion && completion->status >= ERROR_STATUS,
				  .credits = completion ? completion->credits : 0,
				  .unlogged = unlogged};

	countUsage(buckets, event->key_id, event->account_id, ClockTimestamp(event->at * 1000), &more);
}

static void
countCompletion(UsageList *buckets, const Event *completion, int64 account_id, bool admitted)
{
	Usage more = {.errors = admitted && completion->status >= ERROR_STATUS,
				  .credits = completion->credits};

	if (more.errors != 0 || more.credits != 0)
		countUsage(buckets, completion->key_id, account_id, requestTime(completion), &more);
}

/*
 * Returns the client's address as apikeys.log_address wants it, whole, or its
 * /24 or /48.
 */
static inet *
formAddress(const Event *event)
{
	inet *address = palloc0(sizeof(inet));

	ip_family(address) = event->address_len == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(address) = event->address_len * 8;
	memcpy(ip_addr(address), event->address, event->address_len);
	if (BatchLogAddress == ADDRESS_NETWORK)
	{
		int kept = event->address_len == 4 ? 3 : 6;

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
	setColumn(
		row, LOG_AT,
		TimestampTzGetDatum(event ? ClockTimestamp(event->at * 1000) : requestTime(completion)));
	setColumn(row, LOG_KEY_ID, Int64GetDatum(either->key_id));
	setColumn(row, LOG_REQUEST_ID, UUIDPGetDatum((const pg_uuid_t *) &either->request_id));
	setColumn(row, LOG_STATUS, Int16GetDatum(completion ? completion->status : event->status));
	setColumn(row, LOG_COMPLETED, BoolGetDatum(completion != NULL));
	if (either->account_id != 0)
		setColumn(row, LOG_ACCOUNT_ID, Int64GetDatum(either->account_id));
	if (event)
	{
		const char *category = event->texts + event->endpoint_len;
		const char *product = category + event->category_len;

		setColumn(row, LOG_CODE, CStringGetTextDatum(VerdictName(event->code)));
		setColumn(row, LOG_COST, Int32GetDatum(event->cost));
		setColumn(row, LOG_CATEGORY,
				  PointerGetDatum(cstring_to_text_with_len(category, event->category_len)));
		if (event->product_len > 0)
			setColumn(row, LOG_PRODUCT,
					  PointerGetDatum(cstring_to_text_with_len(product, event->product_len)));
		if (event->has_endpoint)
			setColumn(row, LOG_ENDPOINT,
					  PointerGetDatum(cstring_to_text_with_len(event->texts, event->endpoint_len)));
		if (event->address_len > 0 && BatchLogAddress != ADDRESS_NONE)
			setColumn(row, LOG_IP, InetPGetDatum(formAddress(event)));
	}
	if (completion && completion->has_duration)
		setColumn(row, LOG_DURATION_MS, Float4GetDatum(completion->duration_ms));
	if (completion && completion->has_credits)
		setColumn(row, LOG_CREDITS, Int64GetDatum(completion->credits));
}

/*
 * Returns the partition for an instant, open for writing; NULL: there is none.
 */
static RowTable *
openPartition(Work *work, TimestampTz at)
{
	TimestampTz day = at - ((at % USECS_PER_DAY) + USECS_PER_DAY) % USECS_PER_DAY;
	Partition *partition;
	Relation log;
	Relation rel;

	for (int i = work->partition_count - 1; i >= 0; i--)
		if (work->partitions[i].day == day)
			return work->partitions[i].table;
	work->partitions = work->partition_count == 0 ?
						   palloc_object(Partition) :
						   repalloc_array(work->partitions, Partition, work->partition_count + 1);
	partition = &work->partitions[work->partition_count++];
	partition->day = day;
	log = CatalogOpenBare(&CatalogRequestLog, RowExclusiveLock);
	rel = MaintainOpenPartition(log, at);
	table_close(log, NoLock);
	partition->table = rel ? RowsOpen(rel, &log_columns) : NULL;
	return partition->table;
}

/* Writes the rows of request_log. */
static void
writeLog(Work *work, const BatchRequest *requests, int count)
{
	for (int i = 0; i < count; i++)
	{
		TimestampTz at = ClockTimestamp(requests[i].event->at * 1000);
		RowTable *table = openPartition(work, at);
		MemoryContext caller = MemoryContextSwitchTo(work->row_context);
		LogRow row;

		if (table == NULL)
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("apikeys.request_log has no partition for %s",
								   timestamptz_to_str(at))));
		formRow(&requests[i], &row);
		RowsInsert(table, row.values, row.nulls);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(work->row_context);
	}
}

/*
 * Runs a statement about the row of a request or completion, with the row's
 * columns as $1 to $14; its plan is kept.
 */
static void
runRow(SPIPlanPtr *plan, const char *statement, const LogRow *row)
{
	char nulls[LOG_COLUMNS];
	Oid types[LOG_COLUMNS];

	for (int c = 0; c < LOG_COLUMNS; c++)
	{
		nulls[c] = row->nulls[c] ? 'n' : ' ';
		types[c] = log_columns.columns[c].type;
	}
	if (*plan == NULL)
	{
		*plan = SPI_prepare(statement, LOG_COLUMNS, types);
		if (*plan == NULL)
			elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(*plan);
	}
	SPI_execute_plan(*plan, (Datum *) row->values, nulls, false, 0);
}

/*
 * Completes a request that is in quarantine, unless it was; false: neither it
 * nor a completion of it is there.
 */
static bool
completeQuarantined(Work *work, const LogRow *row, const Event *completion)
{
	static SPIPlanPtr search_plan = NULL;
	static SPIPlanPtr update_plan = NULL;
	bool isnull;

	runRow(&search_plan,
		   "SELECT FROM apikeys.quarantine AS q"
		   " WHERE (q.event OPERATOR(pg_catalog.->>) 'request_id') OPERATOR(pg_catalog.=) "
		   "$3::pg_catalog.text LIMIT 1",
		   row);
	if (SPI_processed == 0)
		return false;
	runRow(&update_plan,
		   "UPDATE apikeys.quarantine AS q SET event = q.event OPERATOR(pg_catalog.||) "
		   "pg_catalog.jsonb_build_object("
		   "'status', $6, 'duration_ms', $8, 'credits', $11, 'completed', $14)"
		   " WHERE (q.event OPERATOR(pg_catalog.->>) 'request_id') OPERATOR(pg_catalog.=) "
		   "$3::pg_catalog.text"
		   " AND (q.event OPERATOR(pg_catalog.->) 'completed') OPERATOR(pg_catalog.=) 'false'"
		   " RETURNING (q.event OPERATOR(pg_catalog.->>) 'account_id')::pg_catalog.int8,"
		   " (q.event OPERATOR(pg_catalog.->>) 'code') OPERATOR(pg_catalog.=) 'valid'",
		   row);
	if (SPI_processed > 0)
		countCompletion(
			&work->usages, completion,
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)),
			DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull)));
	return true;
}

/*
 * Finds the request of a completion in the log, and what it has there; NULL: it
 * is not there.
 */
static RowTable *
findLogged(Work *work, const LogRow *completion, LogRow *logged)
{
	RowTable *table = openPartition(work, DatumGetTimestampTz(completion->values[LOG_AT]));

	if (table == NULL || !RowsFind(table, completion->values))
		return NULL;
	RowsGet(table, logged->values, logged->nulls);
	return table;
}

/*
 * Counts a completion, unless the request in the log was completed before;
 * true: it was not.
 */
static bool
countLogged(Work *work, const Event *completion, const LogRow *logged)
{
	const text *code = DatumGetTextPP(logged->values[LOG_CODE]);
	const char *valid = VerdictName(VERDICT_VALID);

	if (DatumGetBool(logged->values[LOG_COMPLETED]))
		return false;
	countCompletion(&work->usages, completion, DatumGetInt64(logged->values[LOG_ACCOUNT_ID]),
					VARSIZE_ANY_EXHDR(code) == strlen(valid) &&
						memcmp(VARDATA_ANY(code), valid, strlen(valid)) == 0);
	return true;
}

/*
 * Counts a completion of which neither log nor quarantine knows the request: it
 * was not logged, if the account is known.
 */
static void
countUnlogged(Work *work, const Event *completion)
{
	if (completion->account_id != 0)
		countCompletion(&work->usages, completion, completion->account_id, true);
}

/*
 * Completes a request that came in an earlier batch, wherever it is; nothing if
 * it was completed already or is not there.
 */
static void
completeEarlier(Work *work, const Event *completion)
{
	static const LogColumn changed[] = {LOG_STATUS, LOG_DURATION_MS, LOG_CREDITS, LOG_COMPLETED};
	BatchRequest request = {.completion = completion};
	LogRow row;
	LogRow logged;
	RowTable *table;

	formRow(&request, &row);
	if (work->quarantine_used && completeQuarantined(work, &row, completion))
		return;
	table = findLogged(work, &row, &logged);
	if (table == NULL)
		countUnlogged(work, completion);
	if (table == NULL || !countLogged(work, completion, &logged))
		return;
	for (int i = 0; i < lengthof(changed); i++)
	{
		logged.values[changed[i]] = row.values[changed[i]];
		logged.nulls[changed[i]] = row.nulls[changed[i]];
	}
	RowsUpdate(table, logged.values, logged.nulls);
}

/*
 * Puts a request, or a completion, aside that cannot be written to the log;
 * what it adds to usage is added all the same.
 */
static void
quarantine(Work *work, const Event *event, const char *reason)
{
	SPIPlanPtr plan = NULL;
	bool is_request = (event->kind == EVENT_REQUEST);
	BatchRequest request = {.event = is_request ? event : NULL,
							.completion = is_request ? NULL : event};
	LogRow row;
	LogRow logged;

	formRow(&request, &row);
	if (is_request)
		countRequest(&work->usages, &request, false);
	else if (completeQuarantined(work, &row, event))
		return;
	else if (findLogged(work, &row, &logged) != NULL)
	{
		(void) countLogged(work, event, &logged);
		setColumn(&row, LOG_ACCOUNT_ID, logged.values[LOG_ACCOUNT_ID]);
	}
	else
		countUnlogged(work, event);
	runRow(&plan,
		   psprintf(
			   "INSERT INTO apikeys.quarantine (reason, event) VALUES (%s, "
			   "pg_catalog.jsonb_build_object("
			   "'at', $2, 'key_id', $1, 'account_id', $4, 'request_id', $3, 'code', $5, 'status', "
			   "$6, 'endpoint', $7,"
			   " 'duration_ms', $8, 'ip', $9, 'cost', $10, 'credits', $11, 'category', $12, "
			   "'product', $13, 'completed', $14))",
			   quote_literal_cstr(reason)),
		   &row);
	SPI_freeplan(plan);
}

/* Tells whether anything is, or was lately, in quarantine. */
static bool
quarantineIsUsed(void)
{
	Relation rel = CatalogOpenBare(&CatalogQuarantine, AccessShareLock);
	bool used = RelationGetNumberOfBlocks(rel) > 0;

	table_close(rel, NoLock);
	return used;
}

/*
 * Merges completions into the requests of the same batch; the others go to the
 * log, or to quarantine.
 */
static void
mergeCompletions(Work *work, const Batch *batch, BatchRequest *requests, int count)
{
	HASHCTL ctl = {.keysize = sizeof(RequestId),
				   .entrysize = sizeof(RequestEntry),
				   .hcxt = CurrentMemoryContext};
	HTAB *by_id =
		hash_create("requests of a batch", count, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	RequestEntry *entry;
	bool found;

	work->quarantine_used = quarantineIsUsed();
	for (int i = 0; i < count; i++)
	{
		entry = hash_search(by_id, &requests[i].event->request_id, HASH_ENTER, &found);
		entry->request = &requests[i];
	}
	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
	{
		if (event->kind != EVENT_COMPLETION)
			continue;
		entry = hash_search(by_id, &event->request_id, HASH_ENTER, &found);
		if (!found)
		{
			entry->request = NULL; /* and the next completion of it is too late */
			completeEarlier(work, event);
		}
		else if (entry->request && entry->request->completion == NULL)
			entry->request->completion = event;
	}
}

/* Orders requests by key, then as they came. */
static int
compareRequests(const void *a, const void *b)
{
	const Event *first = ((const BatchRequest *) a)->event;
	const Event *second = ((const BatchRequest *) b)->event;

	if (first->key_id != second->key_id)
		return first->key_id < second->key_id ? -1 : 1;
	return first < second ? -1 : first > second;
}

static void
addTo(Datum *sum, int64 more)
{
	*sum = Int64GetDatum(addClamped(DatumGetInt64(*sum), more));
}

/* Adds to usage_bucket. */
static void
writeBuckets(const UsageList *buckets)
{
	RowTable *table =
		RowsOpen(CatalogOpenBare(&CatalogUsageBucket, RowExclusiveLock), &bucket_columns);

	for (uint32 i = 0; i < buckets->count; i++)
	{
		const Usage *usage = &buckets->usages[i];
		Datum values[BUCKET_COLUMNS] = {CharGetDatum((char) usage->subject),
										Int64GetDatum(usage->subject_id),
										TimestampTzGetDatum(usage->bucket)};
		bool nulls[BUCKET_COLUMNS] = {0};
		bool found = RowsFind(table, values);

		if (found)
			RowsGet(table, values, nulls);
		addTo(&values[BUCKET_ADMITTED], usage->admitted);
		addTo(&values[BUCKET_DENIED], usage->denied);
		addTo(&values[BUCKET_UNITS], usage->units);
		addTo(&values[BUCKET_ERRORS], usage->errors);
		addTo(&values[BUCKET_CREDITS], usage->credits);
		addTo(&values[BUCKET_UNLOGGED], usage->unlogged);
		(found ? RowsUpdate : RowsInsert)(table, values, nulls);
	}
	RowsClose(table);
}

/* Adds the same to usage_total. */
static void
writeTotals(const UsageList *buckets)
{
	RowTable *table =
		RowsOpen(CatalogOpenBare(&CatalogUsageTotal, RowExclusiveLock), &total_columns);
	UsageList totals;

	initUsages(&totals, buckets->count);
	for (uint32 i = 0; i < buckets->count; i++)
		addUsage(findUsage(&totals, buckets->usages[i].subject, buckets->usages[i].subject_id, 0),
				 &buckets->usages[i]);
	for (uint32 i = 0; i < totals.count; i++)
	{
		const Usage *usage = &totals.usages[i];
		Datum values[TOTAL_COLUMNS] = {CharGetDatum((char) usage->subject),
									   Int64GetDatum(usage->subject_id),
									   [TOTAL_FIRST_USED_AT] = TimestampTzGetDatum(usage->first_at),
									   [TOTAL_LAST_USED_AT] = TimestampTzGetDatum(usage->last_at)};
		bool nulls[TOTAL_COLUMNS] = {0};
		bool found = RowsFind(table, values);

		if (found)
			RowsGet(table, values, nulls);
		addTo(&values[TOTAL_ADMITTED], usage->admitted);
		addTo(&values[TOTAL_DENIED], usage->denied);
		addTo(&values[TOTAL_UNITS], usage->units);
		addTo(&values[TOTAL_ERRORS], usage->errors);
		addTo(&values[TOTAL_CREDITS], usage->credits);
		values[TOTAL_FIRST_USED_AT] = TimestampTzGetDatum(
			Min(DatumGetTimestampTz(values[TOTAL_FIRST_USED_AT]), usage->first_at));
		values[TOTAL_LAST_USED_AT] = TimestampTzGetDatum(
			Max(DatumGetTimestampTz(values[TOTAL_LAST_USED_AT]), usage->last_at));
		(found ? RowsUpdate : RowsInsert)(table, values, nulls);
	}
	RowsClose(table);
}

/*
 * Writes a batch in the open transaction, as the owner of the tables; an error
 * leaves it to be tried again.
 */
void
BatchWrite(const Batch *batch)
{
	Work work = {0};
	BatchRequest *requests;
	int events = 0;
	int completions = 0;
	int count = 0;

	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
		events++;
	SPI_connect();
	work.row_context =
		AllocSetContextCreate(CurrentMemoryContext, "row of a batch", ALLOCSET_SMALL_SIZES);
	initUsages(&work.usages, 2 * events);
	requests = palloc0_array(BatchRequest, events);
	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
	{
		if (event->kind == EVENT_RISES)
			continue;
		else if (batch->quarantine_reason)
			quarantine(&work, event, batch->quarantine_reason);
		else if (event->kind == EVENT_REQUEST)
			requests[count++].event = event;
		else
			completions++;
	}
	/*
	 * Rows of a key stand together: so indexes and usage are written place by
	 * place.
	 */
	qsort(requests, count, sizeof(BatchRequest), compareRequests);
	if (completions > 0)
		mergeCompletions(&work, batch, requests, count);
	for (int i = 0; i < count; i++)
		countRequest(&work.usages, &requests[i], !EngineLogRequests);
	if (EngineLogRequests)
		writeLog(&work, requests, count);
	for (int i = 0; i < work.partition_count; i++)
		if (work.partitions[i].table)
			RowsClose(work.partitions[i].table);
	if (work.usages.count > 0)
	{
		writeBuckets(&work.usages);
		writeTotals(&work.usages);
	}
	SPI_finish();
}

/*
 * Settles the events in their meters: they are committed, or given up.  Returns
 * how many of requests and completions there are; cannot throw.
 */
uint64
BatchSettle(const Batch *batch)
{
	uint64 events = 0;

	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
	{
		if (event->key_meter != METER_NONE)
			MeterRetire(event->key_meter, event->urgent);
		if (event->account_meter != METER_NONE)
			MeterRetire(event->account_meter, false);
		if (event->kind != EVENT_RISES)
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

/*
 * After BatchSettle, tells meters and waiting backends that the events would
 * survive a crash, or are given up; cannot throw.
 */
void
BatchSetDurable(const Batch *batch)
{
	for (const Event *event = BatchNext(batch, NULL); event; event = BatchNext(batch, event))
		if (event->urgent && event->key_meter != METER_NONE)
			MeterSetDurable(event->key_meter);
	QueueSetDurable(batch->position);
}
