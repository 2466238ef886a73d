/*
 * directory.c
 *	  Which database has which queue, who uses it, and what its writer is asked
 *	  for.
 *
 * A queue (queue.c) belongs to a database from the first attachment on.  It
 * passes to another only when no backend is attached, nothing is in it and no
 * writer runs.
 *
 * Beside the queues stand the databases in which notices were made: these want
 * a writer too, for a moment, but no queue.
 *
 * Long: all that needs the directory's lock is here: the sides of the backend,
 * of the writer and of the launcher, in this order.
 *
 * queue_internal.h has the order of the locks.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "engine/queue_internal.h"
#include "engine/wait.h"

#define TRANCHE "apikeys_queue"

typedef union QueuePadded
{
	QueueShared queue;
	char pad[TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(QueueShared))];
} QueuePadded;

/* A database in which notices were made; under the directory's lock. */
typedef struct NoticesShared
{
	Oid database; /* InvalidOid: none */
	bool wanted;  /* since a writer looked for them */
	uint64 looks; /* of writers */
} NoticesShared;

#define NOTICES_DATABASES 64 /* what is beyond that waits for the daily maintenance */

/* under the directory's lock */
typedef struct DirectoryShared
{
	Latch *launcher_latch;
	LauncherStatistics launcher;
	NoticesShared notices[NOTICES_DATABASES];
} DirectoryShared;

int DirectoryMaxDatabases = 4;
bool WriterEnabled = true;

QueueShared *MyQueue = NULL;
LWLock *MyQueueLock;
char *MyQueueBytes;

static DirectoryShared *directory = NULL;
static QueuePadded *queues;
static char *bytes;			/* of all queues, one behind the other */
static LWLockPadded *locks; /* of the queues, then of the directory */

static bool is_writer = false; /* this process, of its queue */
static bool exit_registered = false;

#define DIRECTORY_LOCK (&locks[DirectoryMaxDatabases].lock)

/* Asks for shared memory and locks; from shmem_request_hook. */
void
DirectoryShmemRequest(void)
{
	size_t size = CACHELINEALIGN(sizeof(DirectoryShared));

	size = add_size(size, mul_size(DirectoryMaxDatabases, sizeof(QueuePadded)));
	size = add_size(size, mul_size(DirectoryMaxDatabases, queueBytes()));
	RequestAddinShmemSpace(add_size(size, 3 * PG_CACHE_LINE_SIZE));
	RequestNamedLWLockTranche(TRANCHE, DirectoryMaxDatabases + 1);
}

/*
 * Finds or makes the queues; from shmem_startup_hook, with AddinShmemInitLock
 * held.
 */
void
DirectoryShmemInit(void)
{
	bool found;

	MyQueue = NULL;
	is_writer = false;

	directory = ShmemInitStruct("apikeys queue directory", sizeof(DirectoryShared), &found);
	queues = ShmemInitStruct("apikeys queues", mul_size(DirectoryMaxDatabases, sizeof(QueuePadded)),
							 &found);
	bytes = ShmemInitStruct("apikeys queued events", mul_size(DirectoryMaxDatabases, queueBytes()),
							&found);
	locks = GetNamedLWLockTranche(TRANCHE);
	if (found)
		return;

	directory->launcher_latch = NULL;
	memset(&directory->launcher, 0, sizeof(directory->launcher));
	strlcpy(directory->launcher.last_error,
			"the launcher has not started: the server may have no place for it "
			"(max_worker_processes)",
			DIRECTORY_ERROR_MAX);
	memset(directory->notices, 0, sizeof(directory->notices));
	for (int i = 0; i < DirectoryMaxDatabases; i++)
	{
		QueueShared *q = &queues[i].queue;

		memset(q, 0, sizeof(*q));
		pg_atomic_init_u64(&q->promised, 0);
		pg_atomic_init_u64(&q->durable, 0);
		pg_atomic_init_u32(&q->sequence, 0);
		pg_atomic_init_u32(&q->urgent, 0);
		pg_atomic_init_u64(&q->maintain_requests, 0);
		pg_atomic_init_u64(&q->maintained, 0);
		pg_atomic_init_u64(&q->put_off, 0);
		for (int c = 0; c < QUEUE_COUNTERS; c++)
			pg_atomic_init_u64(&q->counters[c], 0);
		ConditionVariableInit(&q->room);
		ConditionVariableInit(&q->durability);
		ConditionVariableInit(&q->writer);
	}
}

/* Tells whether there is shared memory: the library was preloaded. */
bool
DirectoryExists(void)
{
	return directory != NULL;
}

static void
wakeLauncher(void)
{
	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	if (directory->launcher_latch)
		SetLatch(directory->launcher_latch);
	LWLockRelease(DIRECTORY_LOCK);
}

/* Makes the queue this process's. */
static void
useQueue(int index)
{
	MyQueue = &queues[index].queue;
	MyQueueLock = &locks[index].lock;
	MyQueueBytes = bytes + index * queueBytes();
}

/* Gives back all that this process has of queues. */
static void
detachAtExit(int code, Datum arg)
{
	QueueReleaseAll();
	DirectoryWriterEnd();
	if (MyQueue) /* as a backend */
	{
		bool last;

		LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
		last = (--MyQueue->attached == 0);
		LWLockRelease(DIRECTORY_LOCK);
		if (last)
			DirectoryWakeWriter(); /* it ends soon if no other backend attaches */
		MyQueue = NULL;
	}
}

static void
registerExit(void)
{
	if (!exit_registered)
		before_shmem_exit(detachAtExit, (Datum) 0);
	exit_registered = true;
}

/*
 * Returns the database's queue, -1 if it has none; the directory's lock is
 * held.
 */
static int
findQueue(Oid database)
{
	for (int i = 0; i < DirectoryMaxDatabases; i++)
		if (queues[i].queue.database == database)
			return i;
	return -1;
}

/*
 * Finds a queue that no database needs, -1 if there is none; the directory's
 * lock is held exclusively.
 */
static int
findUnneeded(void)
{
	for (int i = 0; i < DirectoryMaxDatabases; i++)
	{
		QueueShared *q = &queues[i].queue;

		if (q->attached == 0 && q->writer_state == WRITER_NONE &&
			pg_atomic_read_u64(&q->promised) == 0)
			return i;
	}
	return -1;
}

/*
 * Returns the database's queue, if need be one that it takes now; -1: all are
 * in use.  The directory's lock is held exclusively.
 */
static int
findOrTakeQueue(Oid database)
{
	int index = findQueue(database);

	if (index < 0 && (index = findUnneeded()) >= 0)
	{
		QueueShared *q = &queues[index].queue;

		q->database = database;
		q->last_error[0] = '\0';
		q->maintain_at = 0;
		q->lag_us = 0;
		for (int c = 0; c < QUEUE_COUNTERS; c++)
			pg_atomic_write_u64(&q->counters[c], 0);
	}
	return index;
}

static bool
writerRuns(void)
{
	bool runs;

	LWLockAcquire(MyQueueLock, LW_SHARED);
	runs = (MyQueue->writer_state != WRITER_NONE);
	LWLockRelease(MyQueueLock);
	return runs;
}

static bool
writerHasBegun(uint64 unused)
{
	return writerRuns();
}

/*
 * Attaches this backend to its database's queue, unless it already is.  As long
 * as a backend is attached, the launcher keeps a writer running.
 */
void
DirectoryAttach(void)
{
	int index;

	if (likely(MyQueue != NULL))
		return;
	registerExit();
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	index = findOrTakeQueue(MyDatabaseId);
	if (index >= 0)
	{
		useQueue(index);
		MyQueue->attached++;
	}
	LWLockRelease(DIRECTORY_LOCK);
	if (index < 0)
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("more than %d databases use apikeys", DirectoryMaxDatabases),
						errhint("Raise apikeys.max_databases and restart the server."),
						errhidestmt(true)));
	if (!writerRuns())
		wakeLauncher();
}

/*
 * Waits until a writer serves the queue; false: none has begun in time.  So
 * events are queued only where a writer would drain the queue when the server
 * stops.  With apikeys.writer_enabled off, none has to.
 */
bool
DirectoryIsServed(int64 deadline)
{
	if (likely(MyQueue->writer_state != WRITER_NONE) || !WriterEnabled)
		return true;
	if (deadline != DEADLINE_NOW)
		wakeLauncher();
	return WaitUntil(WAIT_WRITER_BEGIN, &MyQueue->writer, writerHasBegun, 0, deadline);
}

/*
 * Makes the writer write what is in the queue, without waiting for the
 * interval.
 */
void
DirectoryWakeWriter(void)
{
	pg_atomic_write_u32(&MyQueue->urgent, 1);
	LWLockAcquire(MyQueueLock, LW_SHARED);
	if (MyQueue->writer_latch)
		SetLatch(MyQueue->writer_latch);
	LWLockRelease(MyQueueLock);
}

static bool
isMaintained(uint64 request)
{
	return pg_atomic_read_u64(&MyQueue->maintained) >= request;
}

/*
 * Asks the writer for maintenance and waits until it is done; false: not in
 * time, or a part was put off.
 */
bool
DirectoryMaintain(int64 deadline)
{
	uint64 request = pg_atomic_add_fetch_u64(&MyQueue->maintain_requests, 1);

	DirectoryWakeWriter();
	return WaitUntil(WAIT_MAINTENANCE, &MyQueue->writer, isMaintained, request, deadline) &&
		   pg_atomic_read_u64(&MyQueue->put_off) < request;
}

/* Gives the figures of this database's queue; false: it has none. */
bool
DirectoryStatisticsGet(DirectoryStatistics *statistics)
{
	int index;
	bool had_queue = (MyQueue != NULL);

	memset(statistics, 0, sizeof(*statistics));
	statistics->bytes_size = queueBytes();
	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	index = findQueue(MyDatabaseId);
	if (index >= 0)
	{
		if (!had_queue)
			useQueue(index);
		LWLockAcquire(MyQueueLock, LW_SHARED);
		statistics->bytes_used = MyQueue->head - MyQueue->tail;
		statistics->oldest_at = QueueOldestAt();
		statistics->lag_us = MyQueue->lag_us;
		statistics->writer_pid = MyQueue->writer_pid;
		statistics->writer_state = MyQueue->writer_state;
		strlcpy(statistics->last_error, MyQueue->last_error, DIRECTORY_ERROR_MAX);
		LWLockRelease(MyQueueLock);
		for (int i = 0; i < QUEUE_COUNTERS; i++)
			statistics->counters[i] = pg_atomic_read_u64(&MyQueue->counters[i]);
		if (!had_queue)
			MyQueue = NULL;
	}
	LWLockRelease(DIRECTORY_LOCK);
	return index >= 0;
}

/*
 * Makes this process the writer of the database's queue; false: it has no
 * queue, or another writer.
 */
bool
DirectoryWriterBegin(Oid database)
{
	int index;

	registerExit();
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	index = findQueue(database);
	if (index >= 0)
	{
		useQueue(index);
		LWLockAcquire(MyQueueLock, LW_EXCLUSIVE);
		if (MyQueue->writer_state == WRITER_NONE)
		{
			MyQueue->writer_state = WRITER_RUNNING;
			MyQueue->writer_pid = MyProcPid;
			MyQueue->writer_latch = MyLatch;
			MyQueue->writers_begun++;
			is_writer = true;
		}
		LWLockRelease(MyQueueLock);
		if (is_writer)
			ConditionVariableBroadcast(&MyQueue->writer);
		else
			MyQueue = NULL;
	}
	LWLockRelease(DIRECTORY_LOCK);
	return is_writer;
}

/* Stops being the writer; the next one goes on at the tail. */
void
DirectoryWriterEnd(void)
{
	if (!is_writer)
		return;
	LWLockAcquire(MyQueueLock, LW_EXCLUSIVE);
	MyQueue->writer_state = WRITER_NONE;
	MyQueue->writer_pid = 0;
	MyQueue->writer_latch = NULL;
	LWLockRelease(MyQueueLock);
	is_writer = false;
	MyQueue = NULL;
	wakeLauncher(); /* another writer may be needed */
}

/* Sets the state that stats() shows, and the error if there is one. */
void
DirectoryReport(WriterState state, const char *error)
{
	LWLockAcquire(MyQueueLock, LW_EXCLUSIVE);
	MyQueue->writer_state = state;
	if (error)
		strlcpy(MyQueue->last_error, error, DIRECTORY_ERROR_MAX);
	LWLockRelease(MyQueueLock);
}

/*
 * Tells whether maintenance is due: because it was asked for, or by the time.
 * *requests is for DirectoryMaintenanceDone.
 */
bool
DirectoryMaintenanceIsDue(int64 now, uint64 *requests)
{
	*requests = pg_atomic_read_u64(&MyQueue->maintain_requests);
	return *requests != pg_atomic_read_u64(&MyQueue->maintained) || now >= MyQueue->maintain_at;
}

/*
 * Notes that maintenance was done, for as many requests as there were when it
 * began; whether a part was put off; and when it is due again without a
 * request.
 */
void
DirectoryMaintenanceDone(uint64 requests, bool put_off, int64 next_at)
{
	MyQueue->maintain_at = next_at;
	if (put_off)
		pg_atomic_write_u64(&MyQueue->put_off, requests);
	pg_atomic_write_u64(&MyQueue->maintained, requests);
	ConditionVariableBroadcast(&MyQueue->writer);
}

/*
 * Returns the database's place among those with notices, or a free place; NULL:
 * there is neither.  The directory's lock is held.
 */
static NoticesShared *
findNotices(Oid database)
{
	NoticesShared *vacant = NULL;

	for (int i = 0; i < NOTICES_DATABASES; i++)
	{
		NoticesShared *notices = &directory->notices[i];

		if (notices->database == database)
			return notices;
		if (vacant == NULL && !notices->wanted)
			vacant = notices;
	}
	return vacant;
}

/*
 * Asks for a writer that looks for notices in this database soon.  Cannot
 * throw.
 */
void
DirectoryAskForNotices(void)
{
	NoticesShared *notices;
	int index;
	Latch *latch;

	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	notices = findNotices(MyDatabaseId);
	if (notices)
	{
		notices->database = MyDatabaseId;
		notices->wanted = true;
	}
	latch = directory->launcher_latch;
	index = findQueue(MyDatabaseId);
	if (index >= 0)
	{
		LWLockAcquire(&locks[index].lock, LW_SHARED);
		if (queues[index].queue.writer_latch)
			latch = queues[index].queue.writer_latch;
		LWLockRelease(&locks[index].lock);
	}
	if (latch)
		SetLatch(latch);
	LWLockRelease(DIRECTORY_LOCK);
}

/*
 * Tells whether a look for the database's notices was asked for since the last
 * call; the caller then looks for them.
 */
bool
DirectoryTakeNotices(Oid database)
{
	NoticesShared *notices;
	bool wanted;

	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	notices = findNotices(database);
	wanted = notices && notices->database == database && notices->wanted;
	LWLockRelease(DIRECTORY_LOCK);
	if (!wanted)
		return false;
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	notices = findNotices(database);
	if (notices && notices->database == database)
	{
		notices->wanted = false;
		notices->looks++;
	}
	LWLockRelease(DIRECTORY_LOCK);
	return true;
}

/* Tells whether backends use the writer's queue. */
bool
DirectoryHasBackends(void)
{
	bool attached;

	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	attached = MyQueue->attached > 0;
	LWLockRelease(DIRECTORY_LOCK);
	return attached;
}

static void
forgetLauncher(int code, Datum arg)
{
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	directory->launcher_latch = NULL;
	directory->launcher.pid = 0;
	directory->launcher.state = WRITER_NONE;
	LWLockRelease(DIRECTORY_LOCK);
}

/* Makes this process the launcher: it is woken when a queue has no writer. */
void
DirectoryLauncherBegin(void)
{
	before_shmem_exit(forgetLauncher, (Datum) 0);
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	directory->launcher_latch = MyLatch;
	directory->launcher.pid = MyProcPid;
	directory->launcher.state = WRITER_RUNNING;
	directory->launcher.last_error[0] = '\0';
	LWLockRelease(DIRECTORY_LOCK);
}

/*
 * Says why this launcher could not start a worker; NULL: it could, and the last
 * error stays.
 */
void
DirectoryLauncherReport(const char *error)
{
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	directory->launcher.state = error ? WRITER_FAILING : WRITER_RUNNING;
	if (error)
		strlcpy(directory->launcher.last_error, error, DIRECTORY_ERROR_MAX);
	LWLockRelease(DIRECTORY_LOCK);
}

/* Gives the state of the launcher. */
void
DirectoryLauncherGet(LauncherStatistics *statistics)
{
	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	*statistics = directory->launcher;
	LWLockRelease(DIRECTORY_LOCK);
}

/* Tells whether a writer serves the database. */
bool
DirectoryHasWriter(Oid database)
{
	bool has_writer = false;
	int index;

	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	index = findQueue(database);
	if (index >= 0)
	{
		LWLockAcquire(&locks[index].lock, LW_SHARED);
		has_writer = (queues[index].queue.writer_state != WRITER_NONE);
		LWLockRelease(&locks[index].lock);
	}
	LWLockRelease(DIRECTORY_LOCK);
	return has_writer;
}

/*
 * Returns how many times a writer has begun to serve the database's queue or
 * has looked for its notices.
 */
uint64
DirectoryWritersBegun(Oid database)
{
	uint64 begun = 0;
	NoticesShared *notices;
	int index;

	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	index = findQueue(database);
	if (index >= 0)
	{
		LWLockAcquire(&locks[index].lock, LW_SHARED);
		begun = queues[index].queue.writers_begun;
		LWLockRelease(&locks[index].lock);
	}
	notices = findNotices(database);
	if (notices && notices->database == database)
		begun += notices->looks;
	LWLockRelease(DIRECTORY_LOCK);
	return begun;
}

/*
 * Lists the databases that have no writer, and whose queue is in use or whose
 * notices are wanted; returns how many.
 */
int
DirectoryNeedsWriter(Oid *databases, int size)
{
	int count = 0;

	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	for (int i = 0; i < DirectoryMaxDatabases && count < size; i++)
	{
		QueueShared *q = &queues[i].queue;

		LWLockAcquire(&locks[i].lock, LW_SHARED);
		if (OidIsValid(q->database) && q->writer_state == WRITER_NONE &&
			(q->attached > 0 || q->head != q->tail))
			databases[count++] = q->database;
		LWLockRelease(&locks[i].lock);
	}
	for (int i = 0; i < NOTICES_DATABASES && count < size; i++)
	{
		Oid database = directory->notices[i].database;
		int index = findQueue(database);
		bool listed = false;

		if (!directory->notices[i].wanted ||
			(index >= 0 && queues[index].queue.writer_state != WRITER_NONE))
			continue;
		for (int j = 0; j < count; j++)
			listed |= (databases[j] == database);
		if (!listed)
			databases[count++] = database;
	}
	LWLockRelease(DIRECTORY_LOCK);
	return count;
}
