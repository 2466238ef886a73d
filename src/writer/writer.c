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
 * do with its rows (locks, resources, privileges, definitions, shutdown) is
 * waited out for ever; any other error that comes twice in a row has it halved,
 * without pauses, until one event is left, which goes to quarantine if it fails
 * twice as well, and counts in usage all the same. Once is not enough: whoever
 * changes rows or tables at the same time can cause such an error, too.
 *
 * Events of an extension that was dropped, whether or not it was made anew, are
 * discarded.
 *
 * The writer takes nothing from its surroundings: settings that ALTER DATABASE
 * or ALTER ROLE could plant are overridden before it connects, every name is
 * qualified, and it acts as the owner of request_log in a security-restricted
 * operation.  Schema changes, merging and notices run in small transactions of
 * their own: those of limits right after the batch that has them.
 *
 * It ends after some idle seconds when no backend is attached to its queue, so
 * that DROP DATABASE works; at SIGTERM (a flag: die would cut the drain) when
 * it has drained the queue of the backends that are still there, in 5 s at the
 * most.  It always exits with 0: the launcher starts another when there is
 * need. So whatever can throw runs in runTransaction, and interrupts are held
 * everywhere else but in takeSignals.
 */
#include "postgres.h"

#include <signal.h>

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/extension.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "engine/directory.h"
#include "engine/engine.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "engine/waitpoint.h"
#include "pure/clock.h"
#include "request/block.h"
#include "tables/catalog.h"
#include "writer/batch.h"
#include "writer/maintain.h"
#include "writer/notice.h"
#include "writer/writer.h"

/*
 * when there is a backlog: the more at once, the fewer rows of usage for each
 */
#define BATCH_BYTES (4 * 1024 * 1024)
#define IDLE_END_NS (3 * NS_PER_SECOND)
#define IDLE_NAP_MS 1000
#define STOP_NAP_MS 10
#define DRAIN_NS (5 * NS_PER_SECOND)
#define MAINTAIN_NS (24 * 3600 * NS_PER_SECOND)
#define MAINTAIN_AGAIN_NS (600 * NS_PER_SECOND) /* when some of it was put off */
/* when the record of blocked addresses was put off */
#define ANNOUNCE_AGAIN_NS (10 * NS_PER_SECOND)
#define NOTICES_LOOK_NS (60 * NS_PER_SECOND) /* for notices of which no commit has told */
/*
 * when they could not be added or announced; the latter is doubled with each
 * failure
 */
#define NOTICES_PAUSE_NS NS_PER_SECOND
/*
 * failures in a row after which notices and blocks keep the writer here no
 * longer
 */
#define PATIENCE 5
/* for keys that expire soon; the daily care does, too */
#define EXPIRING_LOOK_NS (3600 * NS_PER_SECOND)
#define NOTICES_END_NS NS_PER_SECOND /* idle, without a queue */
#define NOTICES_NAP_MS 200
#define STOP_PAUSE_MS 100 /* the same while the server stops */
#define PAUSE_MAX_MS 5000 /* between attempts to write a failing batch */

int WriterFlushInterval = 200;

static volatile sig_atomic_t stop_requested = false;

/*
 * The batch that the open transaction writes; the commit callback settles it.
 */
static Batch batch;
static bool batch_in_transaction = false;
static char *buffer;

/* How the last attempt ended. */
static int failures = 0;   /* in a row */
static int refusals = 0;   /* of these, the last that are not of a kind that goes by itself */
static int64 retry_at = 0; /* engine time; not before */

/*
 * An event that cannot be written is before suspect_end, and isolated by ever
 * smaller batches up to there.
 */
static uint64 suspect_end = 0;
static uint64 batch_limit = BATCH_BYTES;
static char poison_reason[DIRECTORY_ERROR_MAX]; /* the next event's, if not empty */

/* The care for what is stored. */
/* what comes next; NULL: it is not under way */
static const MaintainStep *maintain_step = NULL;
/* engine time; not before, blocked addresses are put on record */
static int64 announce_at = 0;
static int announce_failures = 0;	  /* in a row */
static bool maintain_put_off = false; /* some of it has failed */
static uint64 maintain_requests = 0;  /* that had been made when it began */

/* The notices. */
static int64 notices_at = 0;	   /* engine time; when to look for some without being asked */
static int64 notices_asked_at = 0; /* engine time, of the last asking */
static int notices_failures = 0;   /* in a row */
static int64 limits_at = 0;		   /* engine time; not before, notices of limits are added */
static int64 expiring_at = 0;	   /* engine time; when to look for keys that expire soon */

static void
requestStop(SIGNAL_ARGS)
{
	int saved_errno = errno;

	stop_requested = true;
	SetLatch(MyLatch);
	errno = saved_errno;
}

/*
 * Settles the batch in the meters and moves the queue's tail: it is in the
 * tables, or given up.  Cannot throw.
 */
static void
settleBatch(void)
{
	int64 first_at = BatchNext(&batch, NULL)->at;
	uint64 events = BatchSettle(&batch);

	QueueAdvance(batch.position, Max(ClockNow() / 1000 - first_at, 0));
	if (!batch.discarded)
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

/* Goes on as the owner of the request log, to the end of the transaction. */
static void
actAsOwner(void)
{
	Relation rel = CatalogOpenBare(&CatalogRequestLog, AccessShareLock);
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rel->rd_rel->relowner, context | SECURITY_RESTRICTED_OPERATION);
	table_close(rel, NoLock);
}

/*
 * Runs a step in a transaction of its own, *result is what it returns; false:
 * it failed, and *error (DIRECTORY_ERROR_MAX bytes) says how, *sqlstate what
 * kind.
 */
static bool
runTransaction(bool (*step)(void *), void *argument, bool *result, char *error, int *sqlstate)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		Oid saved_user;
		int saved_context;

		RESUME_INTERRUPTS();
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		GetUserIdAndSecContext(&saved_user, &saved_context);
		*result = step(argument);
		SetUserIdAndSecContext(saved_user, saved_context);
		PopActiveSnapshot();
		CommitTransactionCommand();
		HOLD_INTERRUPTS();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData *edata;
		int length;

		HOLD_INTERRUPTS(); /* none are held after an error */
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		length = pg_mbcliplen(edata->message, strlen(edata->message), DIRECTORY_ERROR_MAX - 1);
		memcpy(error, edata->message, length);
		error[length] = '\0';
		*sqlstate = edata->sqlerrcode;
		FreeErrorData(edata);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return done;
}

/* Tells whether the extension that the batch's events are of is still there. */
static bool
batchIsWanted(void *unused)
{
	Oid schema = CatalogSchema(true);

	return OidIsValid(schema) &&
		   get_relname_relid("key", schema) == BatchNext(&batch, NULL)->relation;
}

static bool
writeStep(void *unused)
{
	batch_in_transaction = true;
	batch.discarded = !batchIsWanted(NULL);
	if (!batch.discarded)
	{
		actAsOwner();
		BatchWrite(&batch);
	}
	WAIT_POINT("writer_commit");
	return false;
}

static bool
partitionStep(void *at)
{
	actAsOwner();
	return MaintainMakePartition(*(TimestampTz *) at);
}

/*
 * Tells whether an error says something about the surroundings, not about the
 * rows.
 */
static bool
isTransient(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE): /* locks */
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
		/* privileges, definitions */
		case ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION):
			return true;
		default:
			return false;
	}
}

/*
 * Makes the partitions that the batch's events need, before the batch: it may
 * not change definitions.
 */
static bool
makePartitions(char *error, int *sqlstate)
{
	for (const Event *e = BatchNext(&batch, NULL); e; e = BatchNext(&batch, e))
	{
		TimestampTz at = ClockTimestamp(e->at * 1000);
		bool unused;

		if (e->kind == EVENT_REQUEST && EngineLogRequests && !MaintainHasPartition(at) &&
			!runTransaction(partitionStep, &at, &unused, error, sqlstate))
			return false;
	}
	return true;
}

/*
 * Draws the consequences of a failure: a pause before the next attempt or, if
 * the error is not of a kind that goes by itself, smaller batches up to the
 * end of this one, and at last quarantine.  What fails even there is tried
 * again, with pauses: it is not the event that cannot be written.
 */
static void
learnFromFailure(const char *error, bool transient)
{
	bool isolating = batch.position <= suspect_end;
	bool alone = BatchNext(&batch, BatchNext(&batch, NULL)) == NULL;

	failures++;
	refusals = transient ? 0 : refusals + 1;
	MaintainForget();
	DirectoryReport(WRITER_FAILING, error);
	if (!transient && (isolating || refusals > 1) && batch.quarantine_reason == NULL)
	{
		suspect_end = Max(suspect_end, batch.position);
		if (alone && refusals > 1)
			strlcpy(poison_reason, error[0] ? error : "an error without a message",
					sizeof(poison_reason));
		else if (!alone)
		{
			batch_limit = batch.size / 2;
			refusals = 0; /* a smaller batch is judged anew */
		}
		retry_at = 0;
		return;
	}
	retry_at =
		ClockNow() + NS_PER_MILLISECOND * Min((int64) WriterFlushInterval << Min(failures, 10),
											  stop_requested ? STOP_PAUSE_MS : PAUSE_MAX_MS);
	ereport(LOG, (errmsg("apikeys writer could not write a batch of " UINT64_FORMAT " bytes: %s",
						 batch.size, error),
				  errhidestmt(true)));
}

static bool
limitsStep(void *unused)
{
	if (batchIsWanted(NULL))
	{
		actAsOwner();
		NoticeAddLimits(&batch);
	}
	return false;
}

/*
 * Adds the notices that the batch's events ask for.  Where that fails, the
 * meters tell of these limits again with the next requests; the batch is still
 * in the buffer.
 */
static void
noticeLimits(void)
{
	char error[DIRECTORY_ERROR_MAX];
	int sqlstate;
	bool unused;
	int64 now;

	if (batch.discarded || !NoticeHasLimits(&batch))
		return;
	now = ClockNow();
	if (now >= limits_at && runTransaction(limitsStep, NULL, &unused, error, &sqlstate))
		return;
	NoticeForgetLimits(&batch);
	if (now < limits_at)
		return;
	limits_at = now + NOTICES_PAUSE_NS;
	ereport(LOG, (errmsg("apikeys writer could not add notices of limits: %s", error),
				  errhidestmt(true)));
}

/*
 * Writes the next batch, if there is one; true: it did, and there may be as
 * many events again.
 */
static bool
writeNext(void)
{
	char error[DIRECTORY_ERROR_MAX];
	int sqlstate;
	bool wanted;
	bool unused;
	bool more;

	batch.events = buffer;
	batch.size = QueueTake(buffer, poison_reason[0] ? 1 : batch_limit, &batch.position);
	batch.quarantine_reason = poison_reason[0] ? poison_reason : NULL;
	if (batch.size == 0)
		return false;

	if (!runTransaction(batchIsWanted, NULL, &wanted, error, &sqlstate) ||
		(wanted && !makePartitions(error, &sqlstate)))
	{
		learnFromFailure(error, true);
		return false;
	}
	batch.discarded = !wanted;
	if (batch.discarded)
		settleBatch();
	else if (!runTransaction(writeStep, NULL, &unused, error, &sqlstate))
	{
		learnFromFailure(error, isTransient(sqlstate));
		return false;
	}
	WAIT_POINT("writer_flush");
	flushBatch();
	noticeLimits();

	if (batch.quarantine_reason)
		ereport(LOG,
				(errmsg("apikeys writer put an event into quarantine: %s", batch.quarantine_reason),
				 errhidestmt(true)));
	if (failures > 0)
		DirectoryReport(WRITER_RUNNING, NULL);
	failures = refusals = 0;
	poison_reason[0] = '\0';
	more = batch.size > batch_limit / 2 || batch.position < suspect_end;
	batch_limit = batch.position < suspect_end ? Min(batch_limit * 2, BATCH_BYTES) : BATCH_BYTES;
	return more;
}

/* Puts blocked addresses on record; true: there are more. */
static bool
announceStep(void *unused)
{
	if (!OidIsValid(get_extension_oid("apikeys", true)))
		return false;
	actAsOwner();
	return BlockRecord();
}

/* Puts on record which addresses were blocked; what fails is put off. */
static void
announceBlocks(int64 now)
{
	char error[DIRECTORY_ERROR_MAX];
	int sqlstate;
	bool more;

	if (now < announce_at || !BlockHasNews())
		return;
	if (runTransaction(announceStep, NULL, &more, error, &sqlstate))
	{
		BlockRecorded(more);
		announce_failures = 0;
	}
	else
	{
		announce_at = now + ANNOUNCE_AGAIN_NS;
		announce_failures++;
		ereport(LOG, (errmsg("apikeys writer could not put blocked addresses on record: %s", error),
					  errhidestmt(true)));
	}
}

/*
 * Runs one transaction of a step of the care for what is stored; true: it has
 * more to do.
 */
static bool
maintainStep(void *step)
{
	if (!OidIsValid(get_extension_oid("apikeys", true)))
		return false;
	actAsOwner();
	return (*(const MaintainStep *) step)(ClockTimestamp(ClockNow()));
}

/*
 * Runs one transaction of a step of the care for what is stored; what fails is
 * put off.  Returns the step to go on with, NULL after the last.
 */
static const MaintainStep *
maintainNext(const MaintainStep *step)
{
	char error[DIRECTORY_ERROR_MAX];
	int sqlstate;
	bool more;

	if (!runTransaction(maintainStep, (void *) step, &more, error, &sqlstate))
	{
		MaintainForget();
		ereport(LOG, (errmsg("apikeys maintenance was put off: %s", error), errhidestmt(true)));
		maintain_put_off = true;
		more = false;
	}
	if (!more)
		step++;
	return *step ? step : NULL;
}

/*
 * Does a bit of the care for what is stored if it is due, and no more: events
 * come first.  True: go on with it.
 */
static bool
maintain(int64 now)
{
	if (maintain_step == NULL)
	{
		if (!DirectoryMaintenanceIsDue(now, &maintain_requests))
			return false;
		maintain_put_off = false;
		maintain_step = MaintainSteps;
	}
	maintain_step = maintainNext(maintain_step);
	if (maintain_step != NULL)
		return true;
	DirectoryMaintenanceDone(maintain_requests, maintain_put_off,
							 now + (maintain_put_off ? MAINTAIN_AGAIN_NS : MAINTAIN_NS));
	return false;
}

/* Announces notices in one transaction; true: there are more. */
static bool
noticesStep(void *unused)
{
	if (!OidIsValid(get_extension_oid("apikeys", true)))
		return false;
	actAsOwner();
	return NoticeAnnounce();
}

/*
 * Announces notices if there may be some; true: there are more.  What fails is
 * put off, with growing pauses.
 */
static bool
announceNotices(int64 now)
{
	char error[DIRECTORY_ERROR_MAX];
	int sqlstate;
	bool more = false;
	bool asked = DirectoryTakeNotices(MyDatabaseId);

	if (asked)
		notices_asked_at = now;
	if (now < notices_at && (!asked || notices_failures > 0))
		return false;
	if (runTransaction(noticesStep, NULL, &more, error, &sqlstate))
	{
		notices_failures = 0;
		notices_at = more ? now : now + NOTICES_LOOK_NS;
		return more;
	}
	notices_at = now + Min(NOTICES_LOOK_NS, NOTICES_PAUSE_NS << Min(notices_failures, 10));
	notices_failures++;
	ereport(LOG, (errmsg("apikeys notices were put off: %s", error), errhidestmt(true)));
	return false;
}

static bool
expiringStep(void *unused)
{
	static const MaintainStep step = NoticeFindExpiring;

	return maintainStep((void *) &step);
}

/*
 * Looks for some of the keys that expire soon, if it is time to; true: there
 * are more.
 */
static bool
findExpiring(int64 now)
{
	char error[DIRECTORY_ERROR_MAX];
	int sqlstate;
	bool more = false;

	if (now < expiring_at || maintain_step != NULL)
		return false;
	if (!runTransaction(expiringStep, NULL, &more, error, &sqlstate))
		ereport(LOG, (errmsg("apikeys could not look for keys that expire soon: %s", error),
					  errhidestmt(true)));
	expiring_at = more ? now : now + EXPIRING_LOOK_NS;
	return more;
}

/*
 * Tells whether notices or the record of blocks keep the writer here: they are
 * to be written, and it is not in vain again and again.  For DROP DATABASE must
 * work; the daily care tries what is left then, but for blocks that have ended.
 */
static bool
hasNews(void)
{
	return (notices_failures > 0 && notices_failures < PATIENCE) ||
		   (BlockHasNews() && announce_failures < PATIENCE);
}

/*
 * Overrides the settings that somebody could have planted for the database or
 * the role.
 */
static void
overrideSettings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"role", "none"},
		{"session_replication_role", "replica"},
		{"exit_on_error", "off"},
		{"synchronous_commit", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"lock_timeout", "1s"},
		{"statement_timeout", "0"},
		{"transaction_timeout", "0"}, /* from PostgreSQL 17 on */
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
		/* rows are looked for by their keys, whatever the statistics say */
		{"enable_seqscan", "off"},
		{"enable_indexscan", "on"},
		{"enable_indexonlyscan", "on"},
		{"enable_nestloop", "on"},
		{"log_statement", "none"},
		{"log_min_duration_statement", "-1"},
		{"client_min_messages", "warning"}};

	for (int i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Takes notice of interrupts between transactions, where there is nothing to
 * cancel.
 */
static void
checkInterrupts(void)
{
	MemoryContext caller = CurrentMemoryContext;

	QueryCancelPending = false;
	PG_TRY();
	{
		RESUME_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		HOLD_INTERRUPTS();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS(); /* none are held after an error */
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
}

/* Does what others have asked this process for. */
static void
takeSignals(void)
{
	checkInterrupts();
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

/* Writes what comes, until there is no need of this writer any more. */
static void
serve(void)
{
	int64 busy_at = ClockNow();
	int64 stop_at = 0;

	expiring_at = busy_at + EXPIRING_LOOK_NS; /* the care looks first */
	while (WriterEnabled)
	{
		int64 now = ClockNow();
		bool more = (failures == 0 || now >= retry_at) && writeNext();

		announceBlocks(now);
		pgstat_report_stat(true);
		now = ClockNow();
		if (!QueueIsIdle() || DirectoryHasBackends() ||
			((maintain_step != NULL || hasNews()) && !stop_requested))
			busy_at = now;
		else if (stop_requested || now - busy_at > IDLE_END_NS)
			break;
		if (stop_requested && stop_at == 0)
		{
			stop_at = now + DRAIN_NS;
			retry_at = 0; /* who kept us from writing may be gone by now */
		}
		if (stop_requested && now >= stop_at)
			break;
		more |= !stop_requested && announceNotices(now);
		more |= !stop_requested && findExpiring(now);
		more |= !stop_requested && maintain(now);
		if (failures > 0)
			nap(Min(ClockMillisecondsUntil(retry_at), WriterFlushInterval));
		else if (!more && !QueueIsUrgent())
		{
			long idle_ms = DirectoryHasBackends() ? WriterFlushInterval :
													Min(WriterFlushInterval, IDLE_NAP_MS);

			nap(stop_requested ? STOP_NAP_MS : idle_ms);
		}
		takeSignals();
	}
	if (!QueueIsIdle() && stop_requested)
		ereport(LOG,
				(errmsg("apikeys writer stops before all events are written: backends are still "
						"attached or the tables cannot be written")));
}

/*
 * Without a queue: announces notices and blocks as long as there are some, and
 * serves the queue if it comes to need that.
 */
static void
serveNotices(void)
{
	notices_asked_at = ClockNow();
	while (WriterEnabled && !stop_requested &&
		   (hasNews() || ClockNow() - notices_asked_at < NOTICES_END_NS))
	{
		announceBlocks(ClockNow());
		if (!announceNotices(ClockNow()))
			nap(NOTICES_NAP_MS);
		takeSignals();
		/*
		 * Somebody has come to verify: while this process is here, there is no
		 * other writer.
		 */
		if (DirectoryWriterBegin(MyDatabaseId))
		{
			serve();
			return;
		}
	}
}

static void
begin(Oid database)
{
	pqsignal(SIGTERM, requestStop);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	overrideSettings();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, BGWORKER_BYPASS_ALLOWCONN);
	HOLD_INTERRUPTS();
}

/* The writer of one database; without a queue it only announces notices. */
void
WriterMain(Datum database)
{
	begin(DatumGetObjectId(database));
	RegisterXactCallback(endTransaction, NULL);
	buffer = MemoryContextAllocHuge(TopMemoryContext, BATCH_BYTES);
	if (DirectoryWriterBegin(DatumGetObjectId(database)))
		serve();
	else
		serveNotices();
	proc_exit(0);
}

/*
 * Cares for what is stored in one database, once, and announces its blocks and
 * notices; for the launcher, which sees to it that no writer runs there
 * meanwhile.
 */
void
WriterCareMain(Datum database)
{
	begin(DatumGetObjectId(database));
	for (const MaintainStep *step = MaintainSteps; step && !stop_requested;
		 step = maintainNext(step))
		takeSignals();
	announceBlocks(ClockNow());
	while (!stop_requested && announceNotices(ClockNow()))
		takeSignals();
	proc_exit(0);
}
