/*
 * writer.c
 *	  The background worker that writes events to the tables.
 *
 * One writer serves one database.  Each apikeys.flush_interval, or as soon as
 * somebody waits, it takes a batch from the queue and writes it in one
 * transaction (batch.c).  The tail of the queue moves in the commit callback:
 * a batch is written exactly once, whatever happens before or after.
 *
 * Batches commit asynchronously; where an event is urgent, WAL is flushed right
 * after, and only then the queue is durable up to there.
 *
 * A batch that fails is tried again, with growing pauses.  What has nothing to
 * do with its rows (locks, resources, shutdown) is waited out for ever; any other
 * error has it halved until one event is left, which goes to quarantine and
 * counts in usage all the same.
 *
 * The writer takes nothing from its surroundings: settings that ALTER DATABASE
 * or ALTER ROLE could plant are overridden before it connects, every name is
 * qualified, and it acts as the owner of request_log in a security-restricted
 * operation.  Schema changes and merging run in small transactions of their
 * own.
 *
 * It ends after some idle seconds when no backend is attached to its queue, so
 * that DROP DATABASE works; at SIGTERM (a flag: die would cut the drain) when it
 * has drained the queue of the backends that are still there, in 5 s at the
 * most.  It always exits with 0: the launcher starts another when there is need.
 */
#include "postgres.h"

#include <signal.h>

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "catalog.h"
#include "clock.h"
#include "maintain.h"
#include "queue.h"
#include "waitpoint.h"
#include "writer.h"

#define BATCH_BYTES			(1024 * 1024)
#define IDLE_END_NS			(3 * NS_PER_SECOND)
#define DRAIN_NS			(5 * NS_PER_SECOND)
#define MAINTAIN_NS			(24 * 3600 * NS_PER_SECOND)
#define PAUSE_MAX_MS		5000	/* between attempts to write a failing batch */

int			WriterFlushInterval = 200;

static CatalogTable log_table = {"request_log", {NULL}, {NULL}};

static volatile sig_atomic_t stop_requested = false;

/* The batch that the open transaction writes; the commit callback settles it. */
static Batch batch;
static bool batch_in_transaction = false;
static int64 batch_first_at;	/* microseconds since the Unix epoch */

/* How the last attempt ended. */
static char *buffer;
static int	failures = 0;		/* in a row */
static int64 retry_at = 0;		/* engine time; not before */
static uint64 batch_limit = BATCH_BYTES;	/* bytes; halved to isolate an event that cannot be written */
static char poison_reason[QUEUE_ERROR_MAX];

static void
requestStop(SIGNAL_ARGS)
{
	int			saved_errno = errno;

	stop_requested = true;
	SetLatch(MyLatch);
	errno = saved_errno;
}

/* Settles the batch in the meters and moves the queue's tail: it is in the tables, or given up.  Cannot throw. */
static void
settleBatch(void)
{
	uint64		events = BatchSettle(&batch);

	QueueAdvance(batch.position, Max(ClockNow() / 1000 - batch_first_at, 0));
	QueueCount(batch.quarantine_reason ? QUEUE_QUARANTINED : QUEUE_WRITTEN, events);
}

/* Right after the commit that wrote the batch, settles it. */
static void
endTransaction(XactEvent event, void *arg)
{
	if (batch_in_transaction && event == XACT_EVENT_COMMIT)
		settleBatch();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		batch_in_transaction = false;
}

/*
 * If somebody waits for it, makes WAL durable up to the last commit and tells
 * them; the batch is still in the buffer.  Nothing between the commit and this
 * may throw: its meters would stay unflushed.
 */
static void
flushBatch(void)
{
	if (!BatchIsUrgent(&batch))
		return;
	XLogFlush(XactLastCommitEnd);
	BatchSetDurable(&batch);
}

/*
 * Runs a step in a transaction of its own, as the owner of the request log;
 * false: it failed, and *error (QUEUE_ERROR_MAX bytes) says how, *sqlstate
 * what kind.
 */
static bool
runTransaction(bool (*step) (void *), void *argument, bool *more, char *error, int *sqlstate)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		Relation	rel;
		Oid			saved_user;
		int			saved_context;

		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		rel = CatalogOpen(&log_table, AccessShareLock);
		GetUserIdAndSecContext(&saved_user, &saved_context);
		SetUserIdAndSecContext(rel->rd_rel->relowner, saved_context | SECURITY_RESTRICTED_OPERATION);
		table_close(rel, NoLock);
		*more = step(argument);
		SetUserIdAndSecContext(saved_user, saved_context);
		PopActiveSnapshot();
		CommitTransactionCommand();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		strlcpy(error, edata->message, QUEUE_ERROR_MAX);
		*sqlstate = edata->sqlerrcode;
		FreeErrorData(edata);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return done;
}

static bool
writeStep(void *unused)
{
	batch_in_transaction = true;
	BatchWrite(&batch);
	WAIT_POINT("writer_commit");
	return false;
}

static bool
partitionStep(void *at)
{
	return MaintainMakePartition(*(TimestampTz *) at);
}

/* Tells whether an error says something about the surroundings, not about the rows. */
static bool
isTransient(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE):	/* locks */
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
			return true;
		default:
			return false;
	}
}

/* Makes the partitions that the batch's events need, before the batch: it may not change definitions. */
static bool
makePartitions(char *error, int *sqlstate)
{
	for (const Event *e = BatchNext(&batch, NULL); e; e = BatchNext(&batch, e))
	{
		TimestampTz at = ClockTimestamp(e->at * 1000);
		bool		more;

		if (e->kind == EVENT_REQUEST && BatchLogRequests && !MaintainHasPartition(at) &&
			!runTransaction(partitionStep, &at, &more, error, sqlstate))
			return false;
	}
	return true;
}

/* Draws the consequences of a failure: a smaller batch, or quarantine, and a pause before the next attempt. */
static void
learnFromFailure(const char *error, int sqlstate)
{
	failures++;
	retry_at = ClockNow() + Min((int64) WriterFlushInterval << Min(failures, 10), PAUSE_MAX_MS) * NS_PER_MILLISECOND;
	MaintainForget();
	ereport(LOG,
			(errmsg("apikeys writer could not write a batch of " UINT64_FORMAT " bytes: %s", batch.size, error),
			 errhidestmt(true)));
	QueueReport(WRITER_FAILING, error);
	if (isTransient(sqlstate) || failures < 2)
		return;
	if (BatchNext(&batch, BatchNext(&batch, NULL)) == NULL)
		strlcpy(poison_reason, error, sizeof(poison_reason));
	else
		batch_limit = Max(batch.size / 2, EVENT_SIZE_MAX);
}

static bool
extensionExists(void)
{
	bool		exists;

	StartTransactionCommand();
	exists = OidIsValid(CatalogSchema(true));
	CommitTransactionCommand();
	return exists;
}

/* Writes the next batch, if there is one; true: it did, and there may be as many events again. */
static bool
writeNext(void)
{
	char		error[QUEUE_ERROR_MAX];
	int			sqlstate;
	bool		more;

	batch.events = buffer;
	batch.size = QueueTake(buffer, poison_reason[0] ? 1 : batch_limit, &batch.position);
	batch.quarantine_reason = poison_reason[0] ? poison_reason : NULL;
	if (batch.size == 0)
		return false;
	batch_first_at = BatchNext(&batch, NULL)->at;

	if (!extensionExists())
	{
		settleBatch();			/* nobody wants these any more */
		BatchSetDurable(&batch);
		return batch.size > BATCH_BYTES / 2;
	}
	if (makePartitions(error, &sqlstate) && runTransaction(writeStep, NULL, &more, error, &sqlstate))
	{
		WAIT_POINT("writer_flush");
		flushBatch();
		if (failures > 0)
			QueueReport(WRITER_RUNNING, NULL);
		failures = 0;
		poison_reason[0] = '\0';
		more = batch.size > batch_limit / 2;
		batch_limit = Min(batch_limit * 2, BATCH_BYTES);
		return more;
	}
	learnFromFailure(error, sqlstate);
	return false;
}

static bool
maintainStep(void *step)
{
	return (*(const MaintainStep *) step) (ClockTimestamp(ClockNow()));
}

/* Runs all steps of the care for what is stored; what fails is tried again the next time. */
static void
maintain(void)
{
	for (const MaintainStep *step = MaintainSteps; *step; step++)
	{
		char		error[QUEUE_ERROR_MAX];
		int			sqlstate;
		bool		more = true;

		while (more && !stop_requested)
		{
			CHECK_FOR_INTERRUPTS();
			if (runTransaction(maintainStep, (void *) step, &more, error, &sqlstate))
				continue;
			ereport(LOG,
					(errmsg("apikeys maintenance was put off: %s", error),
					 errhidestmt(true)));
			break;
		}
	}
}

/* Overrides the settings that somebody could have planted for the database or the role. */
static void
overrideSettings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"session_replication_role", "replica"},
		{"synchronous_commit", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"lock_timeout", "1s"},
		{"statement_timeout", "0"},
		{"transaction_timeout", "0"},	/* from PostgreSQL 17 on */
		{"idle_in_transaction_session_timeout", "0"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO"},
		{"IntervalStyle", "postgres"},
		{"default_tablespace", ""},
		{"default_table_access_method", "heap"},
		{"temp_tablespaces", ""},
		{"row_security", "off"},
		{"check_function_bodies", "on"},
		{"plan_cache_mode", "auto"},
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
		{"log_statement", "none"},
		{"log_min_duration_statement", "-1"},
		{"client_min_messages", "warning"}
	};

	for (int i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* Sleeps until the latch is set or the time is over. */
static void
nap(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Writes what comes, until there is no need of this writer any more. */
static void
serve(void)
{
	int64		maintain_at = ClockNow();
	int64		busy_at = ClockNow();
	int64		stop_at = 0;

	while (WriterEnabled)
	{
		int64		now = ClockNow();
		bool		more = (failures == 0 || now >= retry_at) && writeNext();

		pgstat_report_stat(true);
		now = ClockNow();
		if (!QueueIsIdle() || QueueHasBackends())
			busy_at = now;
		else if (stop_requested || now - busy_at > IDLE_END_NS)
			break;
		if (stop_requested && stop_at == 0)
			stop_at = now + DRAIN_NS;
		if (stop_requested && now >= stop_at)
			break;
		if (now >= maintain_at || QueueTakeMaintainRequest())
		{
			maintain();
			maintain_at = now + MAINTAIN_NS;
			QueueMaintained();
		}
		if (failures > 0)
			nap(Min(ClockMillisecondsUntil(retry_at), WriterFlushInterval));
		else if (!more && !QueueIsUrgent())
			nap(stop_requested ? 10 : WriterFlushInterval);
		else
			CHECK_FOR_INTERRUPTS();
	}
	if (!QueueIsIdle() && stop_requested)
		ereport(LOG,
				(errmsg("apikeys writer stops before all events are written: backends are still attached or the tables cannot be written")));
}

/* The writer of one database; without a queue it only does the daily care. */
void
WriterMain(Datum database)
{
	pqsignal(SIGTERM, requestStop);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	overrideSettings();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database), InvalidOid, 0);
	RegisterXactCallback(endTransaction, NULL);
	buffer = MemoryContextAllocHuge(TopMemoryContext, BATCH_BYTES);

	if (QueueWriterBegin(DatumGetObjectId(database)))
		serve();
	else if (extensionExists())
		maintain();
	proc_exit(0);
}
