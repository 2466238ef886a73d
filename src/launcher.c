/*
 * launcher.c
 *	  The background worker that starts a writer for each database that needs one.
 *
 * A backend that finds no writer sets the launcher's latch.  The launcher is
 * static: the postmaster starts it, and again when it ends, for it exits with
 * 1.  Writers are dynamic and never restarted by the postmaster: whether
 * one is needed is for the launcher to see.  One that keeps ending before it has
 * begun to serve is started less and less often.  Once a day, the first time
 * soon after the server's start, each database gets a writer for the care of
 * what is stored.  Events for a database that was dropped are discarded.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

#include "batch.h"
#include "clock.h"
#include "launcher.h"
#include "queue.h"
#include "writer.h"

#define DAY_NS			(24 * 3600 * NS_PER_SECOND)
#define FIRST_CARE_NS	(60 * NS_PER_SECOND)	/* after the server's start: something may have been left over */
#define LOOK_MS			10000	/* between looks without being woken */
#define PAUSE_NS		(50 * NS_PER_MILLISECOND)	/* between two starts; doubled with each that fails */
#define PAUSE_MAX_NS	(30 * NS_PER_SECOND)

/* A database whose writer we have started. */
typedef struct Started
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL: none that we know of */
	uint64		begun_before;	/* writers that had begun to serve when it was started */
	int64		not_before;		/* of the next start */
	int			failures;		/* in a row */
} Started;

static Started started[LAUNCHER_DATABASES_MAX];
static int	started_count = 0;

/* Registers the launcher; from _PG_init. */
void
LauncherRegister(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strcpy(worker.bgw_library_name, "apikeys");
	strcpy(worker.bgw_function_name, "LauncherMain");
	strcpy(worker.bgw_name, "apikeys launcher");
	strcpy(worker.bgw_type, "apikeys launcher");
	RegisterBackgroundWorker(&worker);
}

/* Starts a writer; false: the server has no place for one. */
static bool
startWriter(Oid database, const char *purpose, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	strcpy(worker.bgw_library_name, "apikeys");
	strcpy(worker.bgw_function_name, "WriterMain");
	snprintf(worker.bgw_name, BGW_MAXLEN, "apikeys writer for database %u", database);
	strcpy(worker.bgw_type, "apikeys writer");
	strcpy(worker.bgw_extra, purpose);
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

static bool
databaseExists(Oid database)
{
	bool		exists;

	StartTransactionCommand();
	exists = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
	CommitTransactionCommand();
	return exists;
}

/* Empties the queue of a database that was dropped, and forgets its notices. */
static void
discardEvents(Oid database)
{
	char	   *buffer;
	Batch		batch;

	(void) QueueTakeNotices(database);
	if (!QueueWriterBegin(database))
		return;
	buffer = palloc(EVENT_SIZE_MAX);
	batch = (Batch) {.events = buffer};
	while ((batch.size = QueueTake(buffer, EVENT_SIZE_MAX, &batch.position)) > 0)
	{
		(void) BatchSettle(&batch);
		QueueAdvance(batch.position, 0);
		BatchSetDurable(&batch);
	}
	QueueWriterEnd();
	pfree(buffer);
}

static Started *
findStarted(Oid database)
{
	Started    *entry;

	for (int i = 0; i < started_count; i++)
		if (started[i].database == database)
			return &started[i];
	/* The oldest ones may be of databases long gone. */
	entry = &started[started_count < LAUNCHER_DATABASES_MAX ? started_count++ : 0];
	memset(entry, 0, sizeof(*entry));
	entry->database = database;
	return entry;
}

/* Tells whether the writer that was started last still lives, and learns from its end. */
static bool
writerLives(Started *entry, int64 now)
{
	pid_t		pid;

	if (entry->handle == NULL)
		return false;
	if (GetBackgroundWorkerPid(entry->handle, &pid) != BGWH_STOPPED)
		return true;
	pfree(entry->handle);
	entry->handle = NULL;
	if (QueueWritersBegun(entry->database) == entry->begun_before)
		entry->failures++;
	else
		entry->failures = 0;
	entry->not_before = now + Min(PAUSE_MAX_NS, PAUSE_NS << Min(entry->failures, 10));
	return false;
}

/* Starts the writers that are needed; returns how soon to look again, in milliseconds. */
static long
startNeeded(void)
{
	Oid			databases[LAUNCHER_DATABASES_MAX];
	int			count = QueueNeedsWriter(databases, LAUNCHER_DATABASES_MAX);
	long		look_ms = LOOK_MS;

	for (int i = 0; i < count; i++)
	{
		int64		now = ClockNow();
		Started    *entry = findStarted(databases[i]);

		if (writerLives(entry, now))
			continue;
		if (now < entry->not_before)
		{
			look_ms = Min(look_ms, ClockMillisecondsUntil(entry->not_before));
			continue;
		}
		if (!databaseExists(databases[i]))
		{
			discardEvents(databases[i]);
			continue;
		}
		entry->begun_before = QueueWritersBegun(databases[i]);
		if (!startWriter(databases[i], "", &entry->handle))
		{
			entry->handle = NULL;
			entry->not_before = now + NS_PER_SECOND;
			look_ms = Min(look_ms, 1000);
			ereport(LOG,
					(errmsg("apikeys could not start a writer: the server has no place for another background worker"),
					 errhint("Raise max_worker_processes.")));
		}
	}
	return look_ms;
}

/* Starts a writer in every database, for the daily care. */
static void
startForCare(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	row;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((row = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(row);
		BackgroundWorkerHandle *handle;

		if (database->datallowconn && !database->datistemplate && startWriter(database->oid, WRITER_FOR_CARE, &handle))
			pfree(handle);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/* Starts writers as they are needed, until the server stops. */
void
LauncherMain(Datum unused)
{
	int64		care_at;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(InvalidOid, InvalidOid, 0);
	MemoryContextSwitchTo(TopMemoryContext);
	QueueLauncherBegin();
	care_at = ClockNow() + FIRST_CARE_NS;

	while (!ShutdownRequestPending)
	{
		long		look_ms = LOOK_MS;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (WriterEnabled)
		{
			look_ms = startNeeded();
			if (ClockNow() >= care_at)
			{
				startForCare();
				care_at = ClockNow() + DAY_NS;
			}
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, look_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	proc_exit(1);
}
