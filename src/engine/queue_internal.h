/*
 * queue_internal.h
 *	  What queue.c and directory.c share; for these files alone.
 *
 * Locks: the directory's lock before a queue's lock.  Nothing waits while it
 * holds one of them: waits are on condition variables, end at a deadline and
 * can be cancelled.
 */
#ifndef QUEUE_INTERNAL_H
#define QUEUE_INTERNAL_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "engine/directory.h"
#include "engine/queue.h"

typedef struct QueueShared
{
	/* under the directory's lock */
	Oid database; /* InvalidOid: belongs to nobody */
	int attached; /* backends */

	/*
	 * Under the queue's lock.  The writer reads the tail, which it alone moves,
	 * without.  While nobody uses the queue, the directory's lock is enough.
	 */
	uint64 head;
	uint64 tail;
	int writer_pid;
	Latch *writer_latch;
	uint64 writers_begun; /* since the server started */

	/*
	 * Engine time when maintenance is due.  No lock: the queue's writer alone
	 * uses it; it is reset when the queue passes to another database.
	 */
	int64 maintain_at;

	/*
	 * Changes under the queue's lock, and from WRITER_NONE only with the
	 * directory's lock held exclusively, too.  Read without the queue's lock
	 * where it does no harm that the writer ends this moment.
	 */
	WriterState writer_state;

	/* under the queue's lock, as above */
	int64 lag_us;
	char last_error[DIRECTORY_ERROR_MAX];

	pg_atomic_uint64 promised; /* bytes: appended or reserved */
	pg_atomic_uint64 durable;
	pg_atomic_uint32 sequence;
	pg_atomic_uint64 maintain_requests; /* how often maintenance was asked for */
	/* of these requests, those made before the last maintenance began */
	pg_atomic_uint64 maintained;
	/* the same, of the last maintenance of which a part was put off */
	pg_atomic_uint64 put_off;
	pg_atomic_uint32 urgent; /* a backend waits: do not wait for the interval */
	pg_atomic_uint64 counters[QUEUE_COUNTERS];
	ConditionVariable room;		  /* the tail has moved */
	ConditionVariable durability; /* durable has moved */
	ConditionVariable writer;	  /* a writer has begun, or done maintenance */
} QueueShared;

/* Hidden from other libraries, so that ours reaches them directly. */
#ifdef __GNUC__
#pragma GCC visibility push(hidden)
#endif

/* directory.c; the queue of this process, as a backend or as its writer */
extern QueueShared *MyQueue; /* NULL: none */
extern LWLock *MyQueueLock;
extern char *MyQueueBytes;

/* queue.c */
extern int64 QueueOldestAt(void);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

/* Returns the size of each queue's ring, in bytes. */
static inline uint64
queueBytes(void)
{
	return CACHELINEALIGN((uint64) QueueSize * 1024);
}

#endif
