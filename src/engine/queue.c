/*
 * queue.c
 *	  The events on their way from the backends to the writer.
 *
 * Each database in use has a queue (directory.c): a ring of bytes in shared
 * memory that holds whole events of variable size, one behind the other.
 * Positions count bytes since the server's start and never wrap; the place of
 * a byte is its position modulo the size of the ring.
 *
 *		tail <= head, and head - tail + reserved-but-not-appended = promised
 *		<= size
 *
 * - A backend first reserves as many bytes as its event will need: it adds
 *	 them to promised.  If that would pass the size, it waits.  Then it appends
 *	 the event, at once and whole, under the queue's lock, so that there are no
 *	 holes and no half-filled places.  What is reserved is noted in the process
 *	 and given back at abort and in before_shmem_exit.
 * - The writer alone moves the tail, once the transaction that wrote the events
 *	 before it has committed; then it takes their bytes off promised.  The bytes
 *	 between tail and head never change, so it copies them without the lock.
 * - durable follows the tail: all events before it would survive a crash of the
 *	 server.  It moves when the writer has flushed WAL, which it does when one
 *	 of the events is urgent.
 *
 * queue_internal.h has the order of the locks.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "engine/queue_internal.h"
#include "engine/wait.h"

int QueueSize = 8 * 1024;
int QueueTimeout = 5000;

static uint32 reserved_bytes = 0; /* in this process's queue */

/* Reserves so many bytes if there is room. */
static bool
tryReserve(uint64 size)
{
	uint64 promised = pg_atomic_read_u64(&MyQueue->promised);

	while (promised + size <= queueBytes())
		if (pg_atomic_compare_exchange_u64(&MyQueue->promised, &promised, promised + size))
			return true;
	return false;
}

/*
 * Reserves room for an event, or several, of so many bytes in all, and waits
 * for room if there is none; false: none in time.  Can be cancelled while it
 * waits.
 */
bool
QueueReserve(uint32 size, int64 deadline)
{
	bool reserved;

	Assert(reserved_bytes == 0);
	reserved = tryReserve(size);
	if (!reserved && deadline != DEADLINE_NOW)
	{
		DirectoryWakeWriter();
		reserved = WaitUntil(WAIT_QUEUE_ROOM, &MyQueue->room, tryReserve, size, deadline);
	}
	if (reserved)
		reserved_bytes = size;
	return reserved;
}

/* Gives the room back that this process has reserved. */
void
QueueReleaseAll(void)
{
	if (reserved_bytes == 0)
		return;
	pg_atomic_sub_fetch_u64(&MyQueue->promised, reserved_bytes);
	reserved_bytes = 0;
	ConditionVariableBroadcast(&MyQueue->room);
}

/* Returns a number for an event: a part of its request's id. */
uint32
QueueNextSequence(void)
{
	return pg_atomic_fetch_add_u32(&MyQueue->sequence, 1);
}

/* Copies into the ring; what passes its end goes to its start. */
static void
copyIn(uint64 position, const void *from, size_t size)
{
	uint64 place = position % queueBytes();
	size_t first = Min(size, queueBytes() - place);

	memcpy(MyQueueBytes + place, from, first);
	memcpy(MyQueueBytes, (const char *) from + first, size - first);
}

/* Copies out of the ring, as copyIn into it. */
static void
copyOut(uint64 position, void *to, size_t size)
{
	uint64 place = position % queueBytes();
	size_t first = Min(size, queueBytes() - place);

	memcpy(to, MyQueueBytes + place, first);
	memcpy((char *) to + first, MyQueueBytes, size - first);
}

/*
 * Appends an event for which room was reserved; returns the position behind
 * it.  Cannot throw; the caller holds interrupts from the admission on.
 */
uint64
QueueAppend(const Event *event)
{
	uint64 end;
	bool wake;

	Assert(InterruptHoldoffCount > 0 && event->size <= reserved_bytes);
	LWLockAcquire(MyQueueLock, LW_EXCLUSIVE);
	copyIn(MyQueue->head, event, event->size);
	MyQueue->head += event->size;
	end = MyQueue->head;
	wake = MyQueue->writer_latch &&
		   (event->urgent || MyQueue->head - MyQueue->tail > queueBytes() / 2);
	if (wake)
	{
		pg_atomic_write_u32(&MyQueue->urgent, 1);
		SetLatch(MyQueue->writer_latch);
	}
	LWLockRelease(MyQueueLock);
	reserved_bytes -= event->size;
	return end;
}

/*
 * Returns the time of the oldest event, microseconds since the Unix epoch; 0:
 * there is none.  The queue's lock is held.
 */
int64
QueueOldestAt(void)
{
	Event oldest;

	if (MyQueue->head == MyQueue->tail)
		return 0;
	copyOut(MyQueue->tail, &oldest, offsetof(Event, texts));
	return oldest.at;
}

static bool
isDurable(uint64 position)
{
	return pg_atomic_read_u64(&MyQueue->durable) >= position;
}

/*
 * Waits until all events before the position would survive a crash; false: not
 * in time.
 */
bool
QueueWaitDurable(uint64 position, int64 deadline)
{
	return WaitUntil(WAIT_DURABLE, &MyQueue->durability, isDurable, position, deadline);
}

static bool
isWritten(uint64 position)
{
	bool written;

	LWLockAcquire(MyQueueLock, LW_SHARED);
	written = MyQueue->tail >= position;
	LWLockRelease(MyQueueLock);
	return written;
}

/*
 * Wakes the writer and waits until all events that are in the queue now are in
 * the tables; false: not in time.
 */
bool
QueueWaitWritten(int64 deadline)
{
	uint64 position;

	LWLockAcquire(MyQueueLock, LW_SHARED);
	position = MyQueue->head;
	LWLockRelease(MyQueueLock);
	if (isWritten(position))
		return true;
	DirectoryWakeWriter();
	return WaitUntil(WAIT_QUEUE_WRITTEN, &MyQueue->room, isWritten, position, deadline);
}

/* Counts what stats() shows. */
void
QueueCount(QueueCounter counter, uint64 count)
{
	pg_atomic_fetch_add_u64(&MyQueue->counters[counter], count);
}

/*
 * Copies whole events of one relation, oldest first, into the buffer: as many
 * as fit in so many bytes, but at least one, even if it does not; the buffer
 * has room for EVENT_SIZE_MAX bytes in any case.  Returns how many bytes, and
 * in *position the position behind them.
 */
uint64
QueueTake(char *buffer, size_t size, uint64 *position)
{
	uint64 head;
	uint64 taken = 0;

	pg_atomic_write_u32(&MyQueue->urgent, 0);
	LWLockAcquire(MyQueueLock, LW_SHARED);
	head = MyQueue->head;
	LWLockRelease(MyQueueLock);
	while (MyQueue->tail + taken < head)
	{
		Event next;

		copyOut(MyQueue->tail + taken, &next, offsetof(Event, texts));
		if (taken > 0 &&
			(taken + next.size > size || next.relation != ((Event *) buffer)->relation))
			break;
		copyOut(MyQueue->tail + taken, buffer + taken, next.size);
		taken += next.size;
	}
	*position = MyQueue->tail + taken;
	return taken;
}

/*
 * Moves the tail: the events before the position are in the tables, or given
 * up.  Cannot throw.
 */
void
QueueAdvance(uint64 position, int64 lag_us)
{
	uint64 size = position - MyQueue->tail;

	LWLockAcquire(MyQueueLock, LW_EXCLUSIVE);
	MyQueue->tail = position;
	MyQueue->lag_us = lag_us;
	LWLockRelease(MyQueueLock);
	pg_atomic_sub_fetch_u64(&MyQueue->promised, size);
	ConditionVariableBroadcast(&MyQueue->room);
}

/* Notes that the events before the position would survive a crash. */
void
QueueSetDurable(uint64 position)
{
	pg_atomic_write_u64(&MyQueue->durable, position);
	ConditionVariableBroadcast(&MyQueue->durability);
}

/* Tells whether the queue is empty. */
bool
QueueIsIdle(void)
{
	bool idle;

	LWLockAcquire(MyQueueLock, LW_SHARED);
	idle = (MyQueue->head == MyQueue->tail);
	LWLockRelease(MyQueueLock);
	return idle;
}

/* Tells whether a backend waits for the writer. */
bool
QueueIsUrgent(void)
{
	return pg_atomic_read_u32(&MyQueue->urgent) != 0;
}
