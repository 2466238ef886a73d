/*
 * queue.c
 *	  The events on their way from the backends to the writer.
 *
 * Each database in use has a queue: a ring of bytes in shared memory that
 * holds whole events of variable size, one behind the other.  Positions count
 * bytes since the server's start and never wrap; a byte's place is its
 * position modulo the size of the ring.
 *
 *		tail <= head, and head - tail + reserved-but-not-appended = promised
 *		<= size
 *
 * - A backend first reserves as many bytes as its event will need: it adds
 *	 them to promised, or takes them back and waits if that passes the size.
 *	 Then it appends the event, at once and whole, under the queue's lock, so
 *	 there are no holes and no half-filled places.  What is reserved is noted in
 *	 the process and given back at abort and in before_shmem_exit.
 * - The writer alone moves the tail, once the transaction that wrote the events
 *	 before it has committed; then it takes their bytes off promised.  The bytes
 *	 between tail and head never change, so it copies them without the lock.
 * - durable follows the tail: all events before it would survive a crash of the
 *   server.  It moves when the writer has flushed WAL, which it does when one
 *   of the events is urgent.
 *
 * Beside the queues stand the databases in which notices were made: these want
 * a writer too, for a moment, but no queue.
 *
 * A queue belongs to a database from the first attachment on; it passes to
 * another only when nobody is attached, nothing is in it and no writer runs.
 *
 * Locks: the directory's lock (which queue belongs to whom, who is attached)
 * before a queue's lock (head, the writer's members).  Nothing waits while it
 * holds one of them; waits are on condition variables, end by a time-out and
 * can be cancelled.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/wait_event.h"

#include "engine/queue.h"
#include "pure/clock.h"

#define TRANCHE "apikeys_queue"

typedef struct QueueShared
{
	/* under the directory's lock */
	Oid database; /* InvalidOid: belongs to nobody */
	int attached; /* backends */

	/* under the queue's lock */
	uint64 head;
	uint64 tail;
	int writer_pid;
	Latch *writer_latch;
	uint64 writers_begun; /* since the server started */
	/*
	 * engine time, when the care of what is stored is due; only the writer
	 * reads and sets it
	 */
	int64 maintain_at;
	WriterState writer_state;
	int64 lag_us;
	char last_error[QUEUE_ERROR_MAX];

	pg_atomic_uint64 promised;
	pg_atomic_uint64 durable;
	pg_atomic_uint32 sequence;
	/* how often somebody has asked for the care of what is stored */
	pg_atomic_uint64 maintain_requests;
	/* how many of these had been made when the last care began */
	pg_atomic_uint64 maintained;
	pg_atomic_uint64 put_off; /* the same for the last care of which some was put off */
	pg_atomic_uint32 urgent;  /* somebody waits: do not wait for the interval */
	pg_atomic_uint64 counters[QUEUE_COUNTERS];
	ConditionVariable room;		  /* the tail has moved */
	ConditionVariable durability; /* durable has moved */
	ConditionVariable writer;	  /* a writer has begun, or done its care */
} QueueShared;

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

#define NOTICES_DATABASES 64 /* what is beyond that waits for the daily care */

typedef struct DirectoryShared
{
	int queue_count; /* constant; so the next */
	uint64 size;
	/* under the directory's lock */
	Latch *launcher_latch;
	NoticesShared notices[NOTICES_DATABASES];
} DirectoryShared;

int QueueSize = 8 * 1024;
int QueueMaxDatabases = 4;
int QueueTimeout = 5000;
bool WriterEnabled = true;

static DirectoryShared *directory = NULL;
static QueuePadded *queues;
static char *bytes;			/* of all queues, one behind the other */
static LWLockPadded *locks; /* of the queues, then of the directory */

/*
 * What this process has: a queue, as a backend or as its writer, and bytes
 * reserved in it.
 */
static QueueShared *queue = NULL;
static LWLock *queue_lock;
static char *queue_bytes;
static bool is_writer = false;
static uint32 reserved_bytes = 0;
static bool exit_registered = false;

#define DIRECTORY_LOCK (&locks[QueueMaxDatabases].lock)

static uint64
ringSize(void)
{
	return CACHELINEALIGN((uint64) QueueSize * 1024);
}

/* Asks for shared memory and locks; from shmem_request_hook. */
void
QueueShmemRequest(void)
{
	size_t size = CACHELINEALIGN(sizeof(DirectoryShared));

	size = add_size(size, mul_size(QueueMaxDatabases, sizeof(QueuePadded)));
	size = add_size(size, mul_size(QueueMaxDatabases, ringSize()));
	RequestAddinShmemSpace(add_size(size, 3 * PG_CACHE_LINE_SIZE));
	RequestNamedLWLockTranche(TRANCHE, QueueMaxDatabases + 1);
}

/*
 * Finds or makes the queues; from shmem_startup_hook, with AddinShmemInitLock
 * held.
 */
void
QueueShmemInit(void)
{
	bool found;

	queue = NULL;
	is_writer = false;
	reserved_bytes = 0;

	directory = ShmemInitStruct("apikeys queue directory", sizeof(DirectoryShared), &found);
	queues =
		ShmemInitStruct("apikeys queues", mul_size(QueueMaxDatabases, sizeof(QueuePadded)), &found);
	bytes =
		ShmemInitStruct("apikeys queued events", mul_size(QueueMaxDatabases, ringSize()), &found);
	locks = GetNamedLWLockTranche(TRANCHE);
	if (found)
		return;

	directory->queue_count = QueueMaxDatabases;
	directory->size = ringSize();
	directory->launcher_latch = NULL;
	memset(directory->notices, 0, sizeof(directory->notices));
	for (int i = 0; i < QueueMaxDatabases; i++)
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
QueueExists(void)
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

static void
useQueue(int index)
{
	queue = &queues[index].queue;
	queue_lock = &locks[index].lock;
	queue_bytes = bytes + index * directory->size;
}

/* Gives back what this process has. */
static void
detachAtExit(int code, Datum arg)
{
	QueueReleaseAll();
	QueueWriterEnd();
	if (queue) /* as a backend */
	{
		bool last;

		LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
		last = (--queue->attached == 0);
		LWLockRelease(DIRECTORY_LOCK);
		if (last)
			QueueWakeWriter(); /* to end soon, if nobody comes */
		queue = NULL;
	}
}

static void
registerExit(void)
{
	if (!exit_registered)
		before_shmem_exit(detachAtExit, (Datum) 0);
	exit_registered = true;
}

static int
findQueue(Oid database)
{
	for (int i = 0; i < directory->queue_count; i++)
		if (queues[i].queue.database == database)
			return i;
	return -1;
}

/*
 * Finds a queue that its database needs no more; the directory's lock is held
 * exclusively.
 */
static int
findUnneeded(void)
{
	for (int i = 0; i < directory->queue_count; i++)
	{
		QueueShared *q = &queues[i].queue;

		if (q->attached == 0 && q->writer_state == WRITER_NONE &&
			pg_atomic_read_u64(&q->promised) == 0)
			return i;
	}
	return -1;
}

/* Finds the database's queue, or gives it one; error: all are taken. */
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

	LWLockAcquire(queue_lock, LW_SHARED);
	runs = (queue->writer_state != WRITER_NONE);
	LWLockRelease(queue_lock);
	return runs;
}

/*
 * Waits until the condition holds; false: the time is over.  The condition
 * must be one of those whose change is broadcast on the variable.
 */
static bool
waitFor(ConditionVariable *variable, bool (*holds)(uint64), uint64 argument, int64 deadline)
{
	bool held = holds(argument);

	if (held || deadline == QUEUE_NO_WAIT)
		return held;
	ConditionVariablePrepareToSleep(variable);
	while (!(held = holds(argument)))
	{
		long left = ClockMillisecondsUntil(deadline);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(variable, left, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return held;
}

static bool
writerHasBegun(uint64 unused)
{
	return writerRuns();
}

/*
 * Attaches this backend to its database's queue, unless it is.  As long as one
 * is attached the launcher keeps a writer running.
 */
void
QueueAttach(void)
{
	int index;

	if (likely(queue != NULL))
		return;
	registerExit();
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	index = findOrTakeQueue(MyDatabaseId);
	if (index >= 0)
	{
		useQueue(index);
		queue->attached++;
	}
	LWLockRelease(DIRECTORY_LOCK);
	if (index < 0)
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("more than %d databases use apikeys", QueueMaxDatabases),
						errhint("Raise apikeys.max_databases and restart the server."),
						errhidestmt(true)));
	if (!writerRuns())
		wakeLauncher();
}

/*
 * Tells whether a writer serves the queue, so that an orderly stop finds one to
 * drain it, or none is to (apikeys.writer_enabled); waits for one to begin.
 * False: none has begun in time.
 */
bool
QueueIsServed(int64 deadline)
{
	if (likely(queue->writer_state != WRITER_NONE) || !WriterEnabled)
		return true;
	if (deadline != QUEUE_NO_WAIT)
		wakeLauncher();
	return waitFor(&queue->writer, writerHasBegun, 0, deadline);
}

/* Takes the bytes if there is room. */
static bool
tryReserve(uint64 size)
{
	uint64 promised = pg_atomic_read_u64(&queue->promised);

	while (promised + size <= directory->size)
		if (pg_atomic_compare_exchange_u64(&queue->promised, &promised, promised + size))
			return true;
	return false;
}

/* Makes the writer write what there is now. */
void
QueueWakeWriter(void)
{
	pg_atomic_write_u32(&queue->urgent, 1);
	LWLockAcquire(queue_lock, LW_SHARED);
	if (queue->writer_latch)
		SetLatch(queue->writer_latch);
	LWLockRelease(queue_lock);
}

/*
 * Reserves room for an event of so many bytes; waits for it if there is none.
 * False: none in time.  Can be cancelled while it waits.
 */
bool
QueueReserve(uint32 size, int64 deadline)
{
	bool reserved;

	Assert(reserved_bytes == 0);
	reserved = tryReserve(size);
	if (!reserved && deadline != QUEUE_NO_WAIT)
	{
		QueueWakeWriter();
		reserved = waitFor(&queue->room, tryReserve, size, deadline);
	}
	if (reserved)
		reserved_bytes = size;
	return reserved;
}

/* Gives reserved room back. */
void
QueueReleaseAll(void)
{
	if (reserved_bytes == 0)
		return;
	pg_atomic_sub_fetch_u64(&queue->promised, reserved_bytes);
	reserved_bytes = 0;
	ConditionVariableBroadcast(&queue->room);
}

/* Returns the number of an event: part of its request's id. */
uint32
QueueNextSequence(void)
{
	return pg_atomic_fetch_add_u32(&queue->sequence, 1);
}

/* Copies into the ring, around its end if need be. */
static void
copyIn(uint64 position, const void *from, size_t size)
{
	uint64 place = position % directory->size;
	size_t first = Min(size, directory->size - place);

	memcpy(queue_bytes + place, from, first);
	memcpy(queue_bytes, (const char *) from + first, size - first);
}

/* Copies out of the ring, around its end if need be. */
static void
copyOut(uint64 position, void *to, size_t size)
{
	uint64 place = position % directory->size;
	size_t first = Min(size, directory->size - place);

	memcpy(to, queue_bytes + place, first);
	memcpy((char *) to + first, queue_bytes, size - first);
}

/*
 * Appends the event for which room was reserved; returns the position behind
 * it.  Cannot throw; the caller holds interrupts from the admission on.
 */
uint64
QueueAppend(const Event *event)
{
	uint64 end;
	bool wake;

	Assert(InterruptHoldoffCount > 0 && event->size == reserved_bytes);
	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	copyIn(queue->head, event, event->size);
	queue->head += event->size;
	end = queue->head;
	wake =
		queue->writer_latch && (event->urgent || queue->head - queue->tail > directory->size / 2);
	if (wake)
	{
		pg_atomic_write_u32(&queue->urgent, 1);
		SetLatch(queue->writer_latch);
	}
	LWLockRelease(queue_lock);
	reserved_bytes = 0;
	return end;
}

static bool
isDurable(uint64 position)
{
	return pg_atomic_read_u64(&queue->durable) >= position;
}

/*
 * Waits until what was appended before the position would survive a crash;
 * false: not in time.
 */
bool
QueueWaitDurable(uint64 position, int64 deadline)
{
	return waitFor(&queue->durability, isDurable, position, deadline);
}

static bool
isWritten(uint64 position)
{
	bool written;

	LWLockAcquire(queue_lock, LW_SHARED);
	written = queue->tail >= position;
	LWLockRelease(queue_lock);
	return written;
}

/*
 * Wakes the writer and waits until all that is in the queue now is in the
 * tables; false: not in time.
 */
bool
QueueWaitWritten(int64 deadline)
{
	uint64 position;

	LWLockAcquire(queue_lock, LW_SHARED);
	position = queue->head;
	LWLockRelease(queue_lock);
	if (isWritten(position))
		return true;
	QueueWakeWriter();
	return waitFor(&queue->room, isWritten, position, deadline);
}

static bool
isMaintained(uint64 request)
{
	return pg_atomic_read_u64(&queue->maintained) >= request;
}

/*
 * Asks the writer to care for what is stored and waits until it has; false: not
 * in time, or some of it was put off.
 */
bool
QueueWaitMaintained(int64 deadline)
{
	uint64 request = pg_atomic_add_fetch_u64(&queue->maintain_requests, 1);

	QueueWakeWriter();
	return waitFor(&queue->writer, isMaintained, request, deadline) &&
		   pg_atomic_read_u64(&queue->put_off) < request;
}

/* Counts what stats() shows. */
void
QueueCount(QueueCounter counter, uint64 count)
{
	pg_atomic_fetch_add_u64(&queue->counters[counter], count);
}

/* Gives the figures of this database's queue; false: it has none. */
bool
QueueStatisticsGet(QueueStatistics *statistics)
{
	int index;
	bool had_queue = (queue != NULL);

	memset(statistics, 0, sizeof(*statistics));
	statistics->bytes_size = directory->size;
	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	index = findQueue(MyDatabaseId);
	if (index >= 0)
	{
		if (!had_queue)
			useQueue(index);
		LWLockAcquire(queue_lock, LW_SHARED);
		statistics->bytes_used = queue->head - queue->tail;
		if (statistics->bytes_used > 0)
		{
			Event oldest;

			copyOut(queue->tail, &oldest, offsetof(Event, texts));
			statistics->oldest_at = oldest.at;
		}
		statistics->lag_us = queue->lag_us;
		statistics->writer_pid = queue->writer_pid;
		statistics->writer_state = queue->writer_state;
		strlcpy(statistics->last_error, queue->last_error, QUEUE_ERROR_MAX);
		LWLockRelease(queue_lock);
		statistics->written = pg_atomic_read_u64(&queue->counters[QUEUE_WRITTEN]);
		statistics->quarantined = pg_atomic_read_u64(&queue->counters[QUEUE_QUARANTINED]);
		statistics->dropped = pg_atomic_read_u64(&queue->counters[QUEUE_DROPPED]);
		statistics->unrecorded = pg_atomic_read_u64(&queue->counters[QUEUE_UNRECORDED]);
		statistics->overloaded = pg_atomic_read_u64(&queue->counters[QUEUE_OVERLOADED]);
		if (!had_queue)
			queue = NULL;
	}
	LWLockRelease(DIRECTORY_LOCK);
	return index >= 0;
}

/*
 * Makes this process the writer of the database's queue; false: it has none, or
 * a writer.
 */
bool
QueueWriterBegin(Oid database)
{
	int index;

	registerExit();
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	index = findQueue(database);
	if (index >= 0)
	{
		useQueue(index);
		LWLockAcquire(queue_lock, LW_EXCLUSIVE);
		if (queue->writer_state == WRITER_NONE)
		{
			queue->writer_state = WRITER_RUNNING;
			queue->writer_pid = MyProcPid;
			queue->writer_latch = MyLatch;
			queue->writers_begun++;
			is_writer = true;
		}
		LWLockRelease(queue_lock);
		if (is_writer)
			ConditionVariableBroadcast(&queue->writer);
		else
			queue = NULL;
	}
	LWLockRelease(DIRECTORY_LOCK);
	return is_writer;
}

/* Ends being the writer; the next one goes on at the tail. */
void
QueueWriterEnd(void)
{
	if (!is_writer)
		return;
	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue->writer_state = WRITER_NONE;
	queue->writer_pid = 0;
	queue->writer_latch = NULL;
	LWLockRelease(queue_lock);
	is_writer = false;
	queue = NULL;
	wakeLauncher(); /* there may be need of another */
}

/*
 * Copies whole events of one relation, oldest first, into the buffer: as many
 * as fit in so many bytes, but one at least, for which there is always room.
 * Returns how many bytes, and in *position the position behind them.
 */
uint64
QueueTake(char *buffer, size_t size, uint64 *position)
{
	uint64 head;
	uint64 taken = 0;

	pg_atomic_write_u32(&queue->urgent, 0);
	LWLockAcquire(queue_lock, LW_SHARED);
	head = queue->head;
	LWLockRelease(queue_lock);
	while (queue->tail + taken < head)
	{
		Event next;

		copyOut(queue->tail + taken, &next, offsetof(Event, texts));
		if (taken > 0 &&
			(taken + next.size > size || next.relation != ((Event *) buffer)->relation))
			break;
		copyOut(queue->tail + taken, buffer + taken, next.size);
		taken += next.size;
	}
	*position = queue->tail + taken;
	return taken;
}

/*
 * Moves the tail: the events before the position are in the tables, or given
 * up.  Cannot throw.
 */
void
QueueAdvance(uint64 position, int64 lag_us)
{
	uint64 size = position - queue->tail;

	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue->tail = position;
	queue->lag_us = lag_us;
	LWLockRelease(queue_lock);
	pg_atomic_sub_fetch_u64(&queue->promised, size);
	ConditionVariableBroadcast(&queue->room);
}

/* Takes note that the events before the position would survive a crash. */
void
QueueSetDurable(uint64 position)
{
	pg_atomic_write_u64(&queue->durable, position);
	ConditionVariableBroadcast(&queue->durability);
}

/* Sets the state that stats() shows, and the error if there is one. */
void
QueueReport(WriterState state, const char *error)
{
	LWLockAcquire(queue_lock, LW_EXCLUSIVE);
	queue->writer_state = state;
	if (error)
		strlcpy(queue->last_error, error, QUEUE_ERROR_MAX);
	LWLockRelease(queue_lock);
}

/* Tells whether the queue is empty. */
bool
QueueIsIdle(void)
{
	bool idle;

	LWLockAcquire(queue_lock, LW_SHARED);
	idle = (queue->head == queue->tail);
	LWLockRelease(queue_lock);
	return idle;
}

/* Tells whether somebody waits for the writer. */
bool
QueueIsUrgent(void)
{
	return pg_atomic_read_u32(&queue->urgent) != 0;
}

/*
 * Tells whether what is stored is to be cared for: somebody has asked, or the
 * time has come.  *requests is for QueueMaintained.
 */
bool
QueueMaintainIsDue(int64 now, uint64 *requests)
{
	*requests = pg_atomic_read_u64(&queue->maintain_requests);
	return *requests != pg_atomic_read_u64(&queue->maintained) || now >= queue->maintain_at;
}

/*
 * Takes note that what is stored was cared for, after so many requests, whether
 * some of that was put off, and when it is due again though nobody asks.
 */
void
QueueMaintained(uint64 requests, bool put_off, int64 next_at)
{
	queue->maintain_at = next_at;
	if (put_off)
		pg_atomic_write_u64(&queue->put_off, requests);
	pg_atomic_write_u64(&queue->maintained, requests);
	ConditionVariableBroadcast(&queue->writer);
}

/*
 * Finds the database's place among those with notices, or a free one; NULL:
 * there is none.  The directory's lock is held.
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

/* Has a writer look for notices in this database, soon.  Cannot throw. */
void
QueueAskForNotices(void)
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
 * Tells whether somebody has asked for the database's notices since the last
 * call, which is what the caller then looks for.
 */
bool
QueueTakeNotices(Oid database)
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
QueueHasBackends(void)
{
	bool attached;

	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	attached = queue->attached > 0;
	LWLockRelease(DIRECTORY_LOCK);
	return attached;
}

static void
forgetLauncher(int code, Datum arg)
{
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	directory->launcher_latch = NULL;
	LWLockRelease(DIRECTORY_LOCK);
}

/* Makes this process the one that is woken when a queue has no writer. */
void
QueueLauncherBegin(void)
{
	before_shmem_exit(forgetLauncher, (Datum) 0);
	LWLockAcquire(DIRECTORY_LOCK, LW_EXCLUSIVE);
	directory->launcher_latch = MyLatch;
	LWLockRelease(DIRECTORY_LOCK);
}

/* Tells whether a writer serves the database. */
bool
QueueHasWriter(Oid database)
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
 * Returns how many writers have begun to serve the queue that the database has
 * now, or have looked for its notices.
 */
uint64
QueueWritersBegun(Oid database)
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
QueueNeedsWriter(Oid *databases, int size)
{
	int count = 0;

	LWLockAcquire(DIRECTORY_LOCK, LW_SHARED);
	for (int i = 0; i < directory->queue_count && count < size; i++)
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
