/*
 * writer.c
 *	  The background worker that writes events to the tables.
 *
 * One writer serves one database.  Each apikeys.flush_interval, or as soon as
 * somebody waits, it takes a batch from the queue and writes it in one
 * transaction (batch.c).  The commit callback moves the tail of the queue, so
 * each batch is written exactly once, whatever happens before or after.
 *
 * Batches commit asynchronously.  If an event is urgent, WAL is flushed right
 * after the commit, and only then are the events marked as durable.
 *
 * A batch that fails is tried again, with growing pauses.  If the cause lies
 * outside of its rows (locks, resources, privileges, definitions, shutdown),
 * it is tried until it succeeds.  After any other error that comes twice in a
 * row the batch is halved, without pauses, until one event is left; if that
 * fails twice as well, it goes to quarantine, and still counts in usage.  Once
 * is not enough: somebody who changes rows or tables at the same time can cause
 * such an error, too.
 *
 * Events of an extension that was dropped are discarded, even if the extension
 * was created again.
 *
 * The writer does not trust its surroundings (step.c): it overrides settings
 * that somebody could have planted, qualifies each name, and acts as the owner
 * of request_log in a security-restricted operation.  What it does besides
 * batches (duties.c) runs in small transactions between them.
 *
 * The writer ends after some idle seconds when no backend is attached to its
 * queue.  At SIGTERM it writes what is queued, and what backends that are still
 * attached add, for at most 5 s; the signal only sets a flag, because die()
 * would interrupt that.  It ends at once, whatever is queued, when the database
 * is being dropped, renamed, moved or copied, unless backends need it: those
 * commands wait 5 s for it at most.  It always exits with 0: the
 * launcher starts another one when it is needed.  So whatever can throw runs in
 * a step (step.c), and interrupts are held everywhere else but in takeSignals.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/directory.h"
#include "engine/engine.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "engine/waitpoint.h"
#include "pure/clock.h"
#include "writer/batch.h"
#include "writer/duties.h"
#include "writer/partition.h"
#include "writer/step.h"
#include "writer/writer.h"

/* The larger a batch, the fewer times a row of usage is written. */
#define BATCH_BYTES (4 * 1024 * 1024)
#define IDLE_END_NS (3 * NS_PER_SECOND)
#define IDLE_NAP_MS 1000
#define STOP_NAP_MS 10
#define DRAIN_NS (5 * NS_PER_SECOND)
#define NO_QUEUE_END_NS NS_PER_SECOND /* after notices were last asked for */
#define NO_QUEUE_NAP_MS 200
/* Longest pause between attempts to write a batch, and when told to stop. */
#define PAUSE_MAX_MS 5000
#define STOP_PAUSE_MAX_MS 100

int WriterFlushInterval = 200;

/* What a writer knows.  Times are engine time. */
typedef struct Writer
{
	volatile sig_atomic_t stop_requested; /* by SIGTERM */

	/* The batch that is being written; the commit callback retires it. */
	Batch batch;
	char *buffer; /* its events, BATCH_BYTES */
	bool batch_in_transaction;

	/* How the last attempts to write a batch ended. */
	int failures;	/* in a row */
	int refusals;	/* of these, so many of the last ones were not transient */
	int64 retry_at; /* no attempt before */

	/*
	 * The queue's position up to which batches are made smaller and smaller, to
	 * isolate an event that cannot be written.
	 */
	uint64 suspect_end;
	uint64 batch_limit;						 /* of the next batch, bytes */
	char poison_reason[DIRECTORY_ERROR_MAX]; /* of the next event, if not empty */
} Writer;

static Writer writer = {.batch_limit = BATCH_BYTES};

static void
requestStop(SIGNAL_ARGS)
{
	int saved_errno = errno;

	writer.stop_requested = true;
	SetLatch(MyLatch);
	errno = saved_errno;
}

/*
 * Retires the batch's events and moves the queue's tail: the batch is in the
 * tables, or given up.  Cannot throw.
 */
static void
retireBatch(void)
{
	const Batch *batch = &writer.batch;
	int64 first_at = BatchNext(batch, NULL)->at;
	uint64 events = BatchRetire(batch);

	QueueAdvance(batch->position, Max(ClockNow() / 1000 - first_at, 0));
	if (!batch->discarded)
		QueueCount(batch->quarantine_reason ? QUEUE_QUARANTINED : QUEUE_WRITTEN, events);
}

/* Retires the batch right after the commit that has written it. */
static void
endTransaction(XactEvent event, void *arg)
{
	if (writer.batch_in_transaction && event == XACT_EVENT_COMMIT)
		retireBatch();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		writer.batch_in_transaction = false;
}

/*
 * If somebody waits for an event of the batch, makes WAL durable up to the last
 * commit and tells them; the batch is still in the buffer.  Nothing between the
 * commit and this may throw: its meters would stay unflushed.
 */
static void
flushBatch(void)
{
	if (!BatchIsUrgent(&writer.batch))
		return;
	XLogFlush(XactLastCommitEnd);
	BatchSetDurable(&writer.batch);
}

/* A step: tells whether the events of the batch are wanted. */
static bool
wantedStep(void *unused)
{
	return BatchIsWanted(&writer.batch);
}

/* A step: makes the partition for an instant. */
static bool
partitionStep(void *at)
{
	StepActAsOwner();
	PartitionMake(*(TimestampTz *) at);
	return false;
}

/* A step: writes the batch, unless the extension was dropped meanwhile. */
static bool
writeStep(void *unused)
{
	writer.batch_in_transaction = true;
	writer.batch.discarded = !BatchIsWanted(&writer.batch);
	if (!writer.batch.discarded)
	{
		StepActAsOwner();
		BatchWrite(&writer.batch);
	}
	WAIT_POINT("writer_commit");
	return false;
}

/*
 * Makes the partitions that the batch's events need, in transactions before
 * that of the batch, which must not hold the locks that this takes.
 */
static bool
makePartitions(StepError *error)
{
	for (const Event *e = BatchNext(&writer.batch, NULL); e; e = BatchNext(&writer.batch, e))
	{
		TimestampTz at = ClockTimestamp(e->at * 1000);
		bool unused;

		if (e->kind == EVENT_REQUEST && EngineLogRequests && !PartitionIsKnown(at) &&
			!StepRun(partitionStep, &at, &unused, error))
			return false;
	}
	return true;
}

/*
 * Decides how to go on after a failure: a pause before the next attempt; or, if
 * the error was not transient, smaller batches up to the end of this one, and
 * quarantine at last.  What fails even there is tried again, with pauses: then
 * the event is not the cause.
 */
static void
learnFromFailure(const StepError *error, bool transient)
{
	const Batch *batch = &writer.batch;
	bool isolating = batch->position <= writer.suspect_end;
	bool alone = BatchNext(batch, BatchNext(batch, NULL)) == NULL;

	writer.failures++;
	writer.refusals = transient ? 0 : writer.refusals + 1;
	PartitionForget();
	DirectoryReport(WRITER_FAILING, error->message);
	if (!transient && (isolating || writer.refusals > 1) && batch->quarantine_reason == NULL)
	{
		writer.suspect_end = Max(writer.suspect_end, batch->position);
		if (alone && writer.refusals > 1)
			strlcpy(writer.poison_reason,
					error->message[0] ? error->message : "an error without a message",
					sizeof(writer.poison_reason));
		else if (!alone)
		{
			writer.batch_limit = batch->size / 2;
			writer.refusals = 0; /* a smaller batch is judged anew */
		}
		writer.retry_at = 0;
		return;
	}
	writer.retry_at =
		ClockNow() +
		NS_PER_MILLISECOND * Min((int64) WriterFlushInterval << Min(writer.failures, 10),
								 writer.stop_requested ? STOP_PAUSE_MAX_MS : PAUSE_MAX_MS);
	ereport(LOG, (errmsg("apikeys writer could not write a batch of " UINT64_FORMAT " bytes: %s",
						 batch->size, error->message),
				  errhidestmt(true)));
}

/*
 * Decides how to go on after a batch was written; true: there may be as many
 * events again.
 */
static bool
learnFromSuccess(void)
{
	const Batch *batch = &writer.batch;
	bool suspected = batch->position < writer.suspect_end;
	bool more = batch->size > writer.batch_limit / 2 || suspected;

	if (batch->quarantine_reason)
		ereport(LOG, (errmsg("apikeys writer put an event into quarantine: %s",
							 batch->quarantine_reason),
					  errhidestmt(true)));
	if (writer.failures > 0)
		DirectoryReport(WRITER_RUNNING, NULL);
	writer.failures = writer.refusals = 0;
	writer.poison_reason[0] = '\0';
	writer.batch_limit = suspected ? Min(writer.batch_limit * 2, BATCH_BYTES) : BATCH_BYTES;
	return more;
}

/* Writes or discards the batch; false: it failed, and *error says how. */
static bool
writeBatch(StepError *error, bool *transient)
{
	bool wanted;
	bool unused;

	*transient = true;
	if (!StepRun(wantedStep, NULL, &wanted, error) || (wanted && !makePartitions(error)))
		return false;
	writer.batch.discarded = !wanted;
	if (writer.batch.discarded)
		retireBatch();
	else if (!StepRun(writeStep, NULL, &unused, error))
	{
		*transient = StepErrorIsTransient(error);
		return false;
	}
	return true;
}

/*
 * Writes the next batch, if there are events; true: it did, and there may be as
 * many events again.
 */
static bool
writeNext(void)
{
	Batch *batch = &writer.batch;
	bool poisoned = writer.poison_reason[0] != '\0';
	StepError error;
	bool transient;

	batch->events = writer.buffer;
	batch->size = QueueTake(writer.buffer, poisoned ? 1 : writer.batch_limit, &batch->position);
	batch->quarantine_reason = poisoned ? writer.poison_reason : NULL;
	if (batch->size == 0)
		return false;
	if (!writeBatch(&error, &transient))
	{
		learnFromFailure(&error, transient);
		return false;
	}
	WAIT_POINT("writer_flush");
	flushBatch();
	if (!batch->discarded)
		DutiesRunAfterBatch(batch);
	return learnFromSuccess();
}

/* A step: tells whether somebody lets no new session into the database. */
static bool
claimedStep(void *unused)
{
	return StepDatabaseIsClaimed(MyDatabaseId);
}

/*
 * Tells whether this process must leave the database at once.  What is queued
 * stays there: the launcher starts another writer for it, or discards it, when
 * the database is renamed, or dropped.  Cannot throw.
 */
static bool
mustLeave(void)
{
	bool claimed;
	StepError error;

	return StepRun(claimedStep, NULL, &claimed, &error) && claimed;
}

/* Takes interrupts and reloads settings.  Cannot throw. */
static void
takeSignals(void)
{
	StepTakeInterrupts();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Sleeps until the latch is set or the time is over. */
static void
nap(long timeout_ms)
{
	WaitNap(WAIT_WRITER_MAIN, timeout_ms);
}

/* Sleeps until the next batch, or the next attempt, unless there is work. */
static void
napBetweenBatches(bool more)
{
	if (writer.failures > 0)
		nap(Min(ClockMillisecondsUntil(writer.retry_at), WriterFlushInterval));
	else if (!more && !QueueIsUrgent())
	{
		long idle_ms =
			DirectoryHasBackends() ? WriterFlushInterval : Min(WriterFlushInterval, IDLE_NAP_MS);

		nap(writer.stop_requested ? STOP_NAP_MS : idle_ms);
	}
}

/* Writes what comes, as long as this writer is needed. */
static void
serve(void)
{
	int64 busy_at = ClockNow();
	int64 stop_at = 0;

	DutiesBegin(busy_at);
	while (WriterEnabled)
	{
		int64 now = ClockNow();
		bool more;

		if ((writer.stop_requested || !DirectoryHasBackends()) && mustLeave())
			return;
		more = (writer.failures == 0 || now >= writer.retry_at) && writeNext();

		more |= DutiesRun(DUTY_SERVING, &writer.stop_requested);
		pgstat_report_stat(true);
		now = ClockNow();
		if (!QueueIsIdle() || DirectoryHasBackends() ||
			(!writer.stop_requested && DutiesNeedWriter()))
			busy_at = now;
		else if (writer.stop_requested || now - busy_at > IDLE_END_NS)
			break;
		if (writer.stop_requested && stop_at == 0)
		{
			stop_at = now + DRAIN_NS;
			writer.retry_at = 0; /* what kept us from writing may be gone by now */
		}
		if (writer.stop_requested && now >= stop_at)
			break;
		napBetweenBatches(more);
		takeSignals();
	}
	if (!QueueIsIdle() && writer.stop_requested)
		ereport(LOG,
				(errmsg("apikeys writer stops before all events are written: backends are still "
						"attached or the tables cannot be written")));
}

/*
 * Without a queue: does its duties as long as there is something to do, and
 * serves the queue if the database gets one.
 */
static void
serveWithoutQueue(void)
{
	DutiesBegin(ClockNow());
	while (WriterEnabled && !writer.stop_requested && !mustLeave() &&
		   (DutiesNeedWriter() || ClockNow() - DutiesAskedAt() < NO_QUEUE_END_NS))
	{
		if (!DutiesRun(DUTY_WITHOUT_QUEUE, &writer.stop_requested))
			nap(NO_QUEUE_NAP_MS);
		takeSignals();
		/*
		 * A backend has begun to verify: while this process lives, no other
		 * writer is started for the database.
		 */
		if (DirectoryWriterBegin(MyDatabaseId))
		{
			serve();
			return;
		}
	}
}

/* Connects to the database; from here on interrupts are held. */
static void
begin(Oid database)
{
	pqsignal(SIGTERM, requestStop);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	StepConnect(database);
}

/*
 * The writer of one database.  If the database has no queue, it only announces
 * notices and records blocked addresses.
 */
void
WriterMain(Datum database)
{
	begin(DatumGetObjectId(database));
	RegisterXactCallback(endTransaction, NULL);
	writer.buffer = MemoryContextAllocHuge(TopMemoryContext, BATCH_BYTES);
	if (DirectoryWriterBegin(DatumGetObjectId(database)))
		serve();
	else
		serveWithoutQueue();
	proc_exit(0);
}

/*
 * The worker that does maintenance in one database, once, and then announces
 * its notices and records its blocked addresses.  The launcher sees to it that
 * no writer runs there at the same time.
 */
void
WriterMaintainMain(Datum database)
{
	static const DutyOccasion occasions[] = {DUTY_MAINTAINING, DUTY_WITHOUT_QUEUE};

	begin(DatumGetObjectId(database));
	DutiesBeginMaintenance();
	for (int i = 0; i < lengthof(occasions); i++)
		while (!writer.stop_requested && !mustLeave() &&
			   DutiesRun(occasions[i], &writer.stop_requested))
			takeSignals();
	proc_exit(0);
}
