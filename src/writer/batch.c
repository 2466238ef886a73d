/*
 * batch.c
 *	  Events become rows.
 *
 * BatchWrite runs inside a transaction of the writer.  Requests become rows of
 * request_log (logrow.c); what they and their completions used is summed up and
 * added to the tables of usage (tally.c).  A completion whose request is in the
 * same batch is merged into it; one that comes later updates the logged row,
 * unless that has been completed: the first completion wins.  If the request
 * was kept out of the log, nothing is known of it, and each completion that
 * comes in a later batch counts.
 *
 * An event that cannot be written to the log is put into quarantine with all
 * that its row would have, and counts in usage as if it were in the log.  The
 * completion of a request that is in quarantine is merged into it there.
 *
 * Log and usage are written row by row (rows.c), quarantine through SPI, with
 * plans kept for the life of the writer; there every name is qualified, and the
 * search path holds nothing but pg_catalog.
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "engine/engine.h"
#include "tables/bypass.h"
#include "tables/catalog.h"
#include "tables/rows.h"
#include "types/verdict.h"
#include "writer/batch.h"
#include "writer/logrow.h"
#include "writer/partition.h"
#include "writer/tally.h"

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

/* The partitions that a batch writes to, by day. */
typedef struct Partition
{
	int64 day;
	RowTable *table; /* NULL: there is none */
} Partition;

/* What a batch becomes. */
typedef struct Work
{
	Tally tally;
	Partition *partitions;
	int partition_count;
	MemoryContext row_context; /* for one row at a time */
	bool quarantine_used;
} Work;

/* What a completion changes in the row of its request. */
static const LogColumn changed[] = {LOG_STATUS, LOG_DURATION_MS, LOG_CREDITS, LOG_COMPLETED};

/* Returns the event after another, or the first; NULL: there are no more. */
const Event *
BatchNext(const Batch *batch, const Event *event)
{
	const char *next = event ? (const char *) event + event->size : batch->events;

	return next < batch->events + batch->size ? (const Event *) next : NULL;
}

/*
 * Returns the partition for an instant, open for writing; NULL: there is none.
 */
static RowTable *
openPartition(Work *work, TimestampTz at)
{
	int64 day = PartitionDay(at);
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
	BypassRefuse(log, false);
	rel = PartitionOpen(log, at);
	table_close(log, NoLock);
	partition->table = rel ? RowsOpen(rel, &LogRowColumns) : NULL;
	return partition->table;
}

/* Writes the rows of request_log. */
static void
writeLog(Work *work, const BatchRequest *requests, int count)
{
	for (int i = 0; i < count; i++)
	{
		TimestampTz at = LogRowTime(requests[i].event);
		RowTable *table = openPartition(work, at);
		MemoryContext caller = MemoryContextSwitchTo(work->row_context);
		LogRow row;

		if (table == NULL)
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("apikeys.request_log has no partition for %s",
								   timestamptz_to_str(at))));
		LogRowForm(&row, requests[i].event, requests[i].completion);
		RowsInsert(table, row.values, row.nulls);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(work->row_context);
	}
}

/* Locks quarantine for writing. */
static void
openQuarantine(void)
{
	Relation rel = CatalogOpenBare(&CatalogQuarantine, RowExclusiveLock);

	BypassRefuse(rel, false);
	table_close(rel, NoLock);
}

/*
 * Runs a statement about the row of a request or completion, with the row's
 * columns as $1, $2 and so on.  Its plan is kept: later, the statement may be
 * NULL.
 */
static void
runRow(SPIPlanPtr *plan, const char *statement, const LogRow *row)
{
	char nulls[LOG_COLUMNS];
	Oid types[LOG_COLUMNS];

	for (int c = 0; c < LOG_COLUMNS; c++)
	{
		nulls[c] = row->nulls[c] ? 'n' : ' ';
		types[c] = LogRowColumns.columns[c].type;
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

/* Adds a column to the arguments of jsonb_build_object, for runRow. */
static void
addColumn(StringInfo arguments, LogColumn column)
{
	appendStringInfo(arguments, "%s'%s', $%d", arguments->len > 0 ? ", " : "",
					 LogRowColumns.columns[column].name, column + 1);
}

/* Returns the statement that completes a request in quarantine. */
static const char *
completionStatement(void)
{
	StringInfoData arguments;

	initStringInfo(&arguments);
	for (int i = 0; i < lengthof(changed); i++)
		addColumn(&arguments, changed[i]);
	return psprintf(
		"UPDATE apikeys.quarantine AS q"
		" SET event = q.event OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(%s)"
		" WHERE (q.event OPERATOR(pg_catalog.->>)"
		" 'request_id') OPERATOR(pg_catalog.=) $3::pg_catalog.text"
		" AND (q.event OPERATOR(pg_catalog.->) 'completed') OPERATOR(pg_catalog.=) 'false'"
		" RETURNING (q.event OPERATOR(pg_catalog.->>) 'account_id')::pg_catalog.int8,"
		" (q.event OPERATOR(pg_catalog.->>) 'code') OPERATOR(pg_catalog.=) 'valid'",
		arguments.data);
}

/*
 * Completes a request that is in quarantine, unless it was completed before;
 * false: neither the request nor a completion of it is in quarantine.
 */
static bool
completeQuarantined(Work *work, const LogRow *row, const Event *completion)
{
	static SPIPlanPtr search_plan = NULL;
	static SPIPlanPtr update_plan = NULL;
	bool isnull;

	runRow(&search_plan,
		   "SELECT FROM apikeys.quarantine AS q WHERE (q.event OPERATOR(pg_catalog.->>)"
		   " 'request_id') OPERATOR(pg_catalog.=) $3::pg_catalog.text LIMIT 1",
		   row);
	if (SPI_processed == 0)
		return false;
	openQuarantine();
	runRow(&update_plan, update_plan ? NULL : completionStatement(), row);
	if (SPI_processed > 0)
		TallyAddCompletion(
			&work->tally, completion, LogRowTime(completion),
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)),
			DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull)));
	return true;
}

/*
 * Finds the row of a completion's request in the log, and reads it; NULL: it is
 * not there.
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

/* Counts a completion; false: the request in the log was completed before. */
static bool
countLogged(Work *work, const Event *completion, const LogRow *logged)
{
	const text *code = DatumGetTextPP(logged->values[LOG_CODE]);
	const char *valid = VerdictName(VERDICT_VALID);

	if (DatumGetBool(logged->values[LOG_COMPLETED]))
		return false;
	TallyAddCompletion(&work->tally, completion, LogRowTime(completion),
					   DatumGetInt64(logged->values[LOG_ACCOUNT_ID]),
					   VARSIZE_ANY_EXHDR(code) == strlen(valid) &&
						   memcmp(VARDATA_ANY(code), valid, strlen(valid)) == 0);
	return true;
}

/*
 * Counts a completion whose request is neither in the log nor in quarantine.
 * Only if the request was kept out of the log does the completion have its
 * account.
 */
static void
countUnlogged(Work *work, const Event *completion)
{
	if (completion->account_id != 0)
		TallyAddCompletion(&work->tally, completion, LogRowTime(completion), completion->account_id,
						   true);
}

/*
 * Completes a request of an earlier batch, in the log or in quarantine.  Does
 * nothing if the request was completed already.
 */
static void
completeEarlier(Work *work, const Event *completion)
{
	LogRow row;
	LogRow logged;
	RowTable *table;

	LogRowForm(&row, NULL, completion);
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
 * Puts a request or completion that cannot be written to the log into
 * quarantine.  It is added to usage all the same.
 */
static void
quarantine(Work *work, const Event *event, const char *reason)
{
	SPIPlanPtr plan = NULL;
	bool is_request = (event->kind == EVENT_REQUEST);
	StringInfoData arguments;
	LogRow row;
	LogRow logged;

	openQuarantine();
	LogRowForm(&row, is_request ? event : NULL, is_request ? NULL : event);
	if (is_request)
		TallyAddRequest(&work->tally, event, NULL, false);
	else if (completeQuarantined(work, &row, event))
		return;
	else if (findLogged(work, &row, &logged) != NULL)
	{
		(void) countLogged(work, event, &logged);
		LogRowSet(&row, LOG_ACCOUNT_ID, logged.values[LOG_ACCOUNT_ID]);
	}
	else
		countUnlogged(work, event);
	initStringInfo(&arguments);
	for (LogColumn column = 0; column < LOG_COLUMNS; column++)
		addColumn(&arguments, column);
	runRow(&plan,
		   psprintf("INSERT INTO apikeys.quarantine (reason, event)"
					" VALUES (%s, pg_catalog.jsonb_build_object(%s))",
					quote_literal_cstr(reason), arguments.data),
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
	TallyInit(&work.tally, events);
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
	 * The rows of a key are written next to each other, and so are their
	 * entries in the indexes.
	 */
	qsort(requests, count, sizeof(BatchRequest), compareRequests);
	if (completions > 0)
		mergeCompletions(&work, batch, requests, count);
	for (int i = 0; i < count; i++)
		TallyAddRequest(&work.tally, requests[i].event, requests[i].completion, !EngineLogRequests);
	if (EngineLogRequests)
		writeLog(&work, requests, count);
	for (int i = 0; i < work.partition_count; i++)
		if (work.partitions[i].table)
			RowsClose(work.partitions[i].table);
	TallyWrite(&work.tally);
	SPI_finish();
}

/*
 * Retires the events: they are committed, or given up, and pending no more in
 * their meters.  Returns how many requests and completions there are; cannot
 * throw.
 */
uint64
BatchRetire(const Batch *batch)
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
		if (event->kind == EVENT_REQUEST)
			QueueCount(QUEUE_VERDICTS + event->code, 1);
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
 * After BatchRetire, tells meters and waiting backends that the events would
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

/*
 * Tells whether the extension that the events are of still exists.  To be
 * called in a transaction.
 */
bool
BatchIsWanted(const Batch *batch)
{
	Oid schema = CatalogSchema(true);

	return OidIsValid(schema) &&
		   get_relname_relid("key", schema) == BatchNext(batch, NULL)->relation;
}
