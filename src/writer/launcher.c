/*
 * launcher.c
 *	  The background worker that starts a writer for each database that needs
 *	  one.
 *
 * A backend that finds no writer sets the launcher's latch.  The launcher is
 * static: the postmaster starts it, and starts it again when it ends, because
 * it exits with 1.  Writers are dynamic and never restarted by the postmaster:
 * the launcher decides whether one is needed.  A writer that keeps ending
 * before it has begun to serve is started less and less often.  Events for a
 * database that was dropped are discarded.  None is started while a database is
 * being dropped, renamed, moved or copied: it would wait for that to end.
 *
 * Each database is due for maintenance once a day.  A writer that runs does it
 * by itself.  The other databases get a worker for it, one after another, so
 * that maintenance takes one place among the server's workers, however many
 * databases there are.  A database never has a writer and such a worker at the
 * same time: where a writer is needed, the worker is stopped, and the writer
 * goes on with maintenance.
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
#include "replication/logicallauncher.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

#include "engine/directory.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "pure/clock.h"
#include "writer/batch.h"
#include "writer/launcher.h"
#include "writer/step.h"

#define DAY_NS (24 * 3600 * NS_PER_SECOND)
/* after the server's start: some may have been left over */
#define MAINTENANCE_FIRST_NS (60 * NS_PER_SECOND)
/* after the server had no place for a worker */
#define MAINTENANCE_AGAIN_NS (60 * NS_PER_SECOND)
#define LOOK_MS 10000		/* between looks without being woken */
#define CLAIMED_LOOK_MS 100 /* while a database lets no session in */
/* between two starts; doubled with each that fails */
#define PAUSE_NS (50 * NS_PER_MILLISECOND)
#define PAUSE_MAX_NS (30 * NS_PER_SECOND)

/* A database whose writer we have started. */
typedef struct Started
{
	Oid database;
	BackgroundWorkerHandle *handle; /* NULL: none that we know of */
	uint64 begun_before;			/* writers that had begun to serve when it was started */
	int64 not_before;				/* of the next start */
	int failures;					/* in a row */
} Started;

static Started started[LAUNCHER_DATABASES_MAX];
static int started_count = 0;

/* Attempts in a row for which the server had no place for a worker. */
static uint32 no_place = 0;

/* The daily maintenance. */
static int64 maintenance_at; /* engine time; when it begins, or goes on */
/* the last one that had its turn; in the order of OIDs */
static Oid maintenance_database = InvalidOid;
static BackgroundWorkerHandle *maintenance_worker = NULL; /* NULL: none that we know of */

/*
 * Warns if the server cannot have places for the launcher and a writer, while
 * it starts; from shmem_startup_hook.
 */
void
LauncherCheckPlaces(void)
{
	/* the server's own launcher, of logical replication, comes first */
	int needed = 2 + (max_logical_replication_workers > 0 ? 1 : 0);

	if (max_worker_processes < needed && !IsBinaryUpgrade && IsPostmasterEnvironment)
		ereport(WARNING,
				(errmsg("apikeys has too few worker processes: max_worker_processes is %d, and %d "
						"are needed at least",
						max_worker_processes, needed),
				 errdetail("Without a launcher and a writer requests cannot be recorded."),
				 errhint("Raise max_worker_processes.")));
}

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
	worker.bgw_restart_time = 1; /* second */
	strcpy(worker.bgw_library_name, "apikeys");
	strcpy(worker.bgw_function_name, "LauncherMain");
	strcpy(worker.bgw_name, "apikeys launcher");
	strcpy(worker.bgw_type, "apikeys launcher");
	RegisterBackgroundWorker(&worker);
}

/*
 * Says that the server has no place for a worker; in the log after 1, 2, 4, 8,
 * … attempts.
 */
static void
reportNoPlace(const char *type, Oid database)
{
	char *error = psprintf("could not start %s for database %u: the server has no place for "
						   "another background worker",
						   type, database);

	DirectoryLauncherReport(error);
	no_place++;
	if ((no_place & (no_place - 1)) == 0)
		ereport(LOG, (errmsg("%s", error), errhint("Raise max_worker_processes.")));
	pfree(error);
}

/*
 * Starts a worker of this type and function for a database; NULL: the server
 * has no place for one.
 */
static BackgroundWorkerHandle *
startWorker(const char *type, const char *function, Oid database)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	strcpy(worker.bgw_library_name, "apikeys");
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", type, database);
	strlcpy(worker.bgw_type, type, BGW_MAXLEN);
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		DirectoryLauncherReport(NULL);
		no_place = 0;
		return handle;
	}
	reportNoPlace(type, database);
	return NULL;
}

static bool
databaseExists(Oid database)
{
	bool exists;

	StartTransactionCommand();
	exists = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
	CommitTransactionCommand();
	return exists;
}

/* Tells whether the database lets no new session in: a worker would wait. */
static bool
databaseIsClaimed(Oid database)
{
	bool claimed;

	StartTransactionCommand();
	claimed = StepDatabaseIsClaimed(database);
	CommitTransactionCommand();
	return claimed;
}

/* Empties the queue of a database that was dropped, and its notices. */
static void
discardEvents(Oid database)
{
	char *buffer;
	Batch batch;

	(void) DirectoryTakeNotices(database);
	if (!DirectoryWriterBegin(database))
		return;
	buffer = palloc(EVENT_SIZE_MAX);
	batch = (Batch){.events = buffer};
	while ((batch.size = QueueTake(buffer, EVENT_SIZE_MAX, &batch.position)) > 0)
	{
		(void) BatchRetire(&batch);
		QueueAdvance(batch.position, 0);
		BatchSetDurable(&batch);
	}
	DirectoryWriterEnd();
	pfree(buffer);
}

/* Tells whether a worker has not ended yet; forgets it if it has. */
static bool
workerLives(BackgroundWorkerHandle **worker)
{
	pid_t pid;

	if (*worker == NULL)
		return false;
	if (GetBackgroundWorkerPid(*worker, &pid) != BGWH_STOPPED)
		return true;
	pfree(*worker);
	*worker = NULL;
	return false;
}

/*
 * Tells whether the writer that was started last still lives, and learns from
 * its end.
 */
static bool
writerLives(Started *entry, int64 now)
{
	if (entry->handle == NULL)
		return false;
	if (workerLives(&entry->handle))
		return true;
	if (DirectoryWritersBegun(entry->database) == entry->begun_before)
		entry->failures++;
	else
		entry->failures = 0;
	entry->not_before = now + Min(PAUSE_MAX_NS, PAUSE_NS << Min(entry->failures, 10));
	return false;
}

/* Returns the database's entry, NULL if it has none. */
static Started *
findStarted(Oid database)
{
	for (int i = 0; i < started_count; i++)
		if (started[i].database == database)
			return &started[i];
	return NULL;
}

/*
 * Returns the entry for the database; if it has none, takes that of another
 * database whose writer has ended.  NULL: all writers live.
 */
static Started *
findOrMakeStarted(Oid database, int64 now)
{
	Started *entry = findStarted(database);

	if (entry)
		return entry;
	if (started_count < LAUNCHER_DATABASES_MAX)
		entry = &started[started_count++];
	for (int i = 0; i < started_count && entry == NULL; i++)
		if (!writerLives(&started[i], now))
			entry = &started[i];
	if (entry)
	{
		memset(entry, 0, sizeof(*entry));
		entry->database = database;
	}
	return entry;
}

/*
 * Starts the writers that are needed; returns how soon to look again, in
 * milliseconds.
 */
static long
startNeeded(void)
{
	Oid databases[LAUNCHER_DATABASES_MAX];
	int count = DirectoryNeedsWriter(databases, LAUNCHER_DATABASES_MAX);
	long look_ms = LOOK_MS;

	for (int i = 0; i < count; i++)
	{
		int64 now = ClockNow();
		Started *entry = findOrMakeStarted(databases[i], now);

		if (entry == NULL || writerLives(entry, now))
			continue;
		if (databases[i] == maintenance_database && workerLives(&maintenance_worker))
		{
			TerminateBackgroundWorker(maintenance_worker); /* we are woken when it has ended */
			continue;
		}
		if (now < entry->not_before)
		{
			look_ms = Min(look_ms, ClockMillisecondsUntil(entry->not_before));
			continue;
		}
		if (databaseIsClaimed(databases[i]))
		{
			look_ms = Min(look_ms, CLAIMED_LOOK_MS);
			continue;
		}
		if (!databaseExists(databases[i]))
		{
			discardEvents(databases[i]);
			continue;
		}
		entry->begun_before = DirectoryWritersBegun(databases[i]);
		entry->handle = startWorker("apikeys writer", "WriterMain", databases[i]);
		if (entry->handle == NULL)
		{
			entry->not_before = now + NS_PER_SECOND;
			look_ms = Min(look_ms, 1000);
		}
	}
	return look_ms;
}

/*
 * Returns the database with the next OID that people may connect to;
 * InvalidOid: there is none.
 */
static Oid
databaseAfter(Oid last)
{
	Relation rel;
	TableScanDesc scan;
	HeapTuple row;
	Oid next = InvalidOid;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((row = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(row);

		if (database->datallowconn && !database->datistemplate && database->oid > last &&
			(!OidIsValid(next) || database->oid < next))
			next = database->oid;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return next;
}

/*
 * Starts the next worker for maintenance if that is due and the last worker has
 * ended.
 */
static void
continueMaintenance(int64 now)
{
	Oid next;

	if (now < maintenance_at || workerLives(&maintenance_worker))
		return;
	while (OidIsValid(next = databaseAfter(maintenance_database)))
	{
		Started *entry = findStarted(next);

		if (!DirectoryHasWriter(next) && !(entry && writerLives(entry, now)))
		{
			if (databaseIsClaimed(next))
			{
				maintenance_at = now + NS_PER_SECOND;
				return;
			}
			maintenance_worker = startWorker("apikeys maintenance", "WriterMaintainMain", next);
			if (maintenance_worker == NULL)
				maintenance_at = now + MAINTENANCE_AGAIN_NS;
			else
				maintenance_database = next;
			return;
		}
		maintenance_database = next;
	}
	maintenance_database = InvalidOid;
	maintenance_at = now + DAY_NS;
}

/* Starts writers as they are needed, until the server stops. */
void
LauncherMain(Datum unused)
{
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(InvalidOid, InvalidOid, 0);
	MemoryContextSwitchTo(TopMemoryContext);
	DirectoryLauncherBegin();
	maintenance_at = ClockNow() + MAINTENANCE_FIRST_NS;

	while (!ShutdownRequestPending)
	{
		long look_ms = LOOK_MS;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (WriterEnabled)
		{
			look_ms = startNeeded();
			continueMaintenance(ClockNow());
		}
		WaitNap(WAIT_LAUNCHER_MAIN, look_ms);
		CHECK_FOR_INTERRUPTS();
	}
	proc_exit(1);
}
