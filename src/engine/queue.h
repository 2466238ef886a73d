/*
 * queue.h
 *	  The events on their way from the backends to the writer: the ring of bytes
 *	  of this process's queue (directory.h).
 *
 * Waits end at a deadline in engine time.
 */
#ifndef QUEUE_H
#define QUEUE_H

#include "postgres.h"

#include "engine/event.h"
#include "types/verdict.h"

/* What stats() shows besides the state of the ring. */
typedef enum QueueCounter
{
	QUEUE_WRITTEN,
	QUEUE_QUARANTINED,
	QUEUE_DROPPED,	  /* denied requests for which there was no room */
	QUEUE_UNRECORDED, /* admitted ones, with apikeys.on_overload = allow */
	QUEUE_OVERLOADED, /* verdicts */
	QUEUE_VERDICTS	  /* those with the first code; the other codes follow */
} QueueCounter;

#define QUEUE_COUNTERS (QUEUE_VERDICTS + VERDICT_CODES)

extern int QueueSize;	 /* setting apikeys.queue_size, kB */
extern int QueueTimeout; /* setting apikeys.queue_timeout, milliseconds */

/* The backend's side. */
extern bool QueueReserve(uint32 size, int64 deadline);
extern void QueueReleaseAll(void);
extern uint32 QueueNextSequence(void);
extern uint64 QueueAppend(const Event *event);
extern bool QueueWaitDurable(uint64 position, int64 deadline);
extern bool QueueWaitWritten(int64 deadline);
extern void QueueCount(QueueCounter counter, uint64 count);

/* The writer's side. */
extern uint64 QueueTake(char *buffer, size_t size, uint64 *position);
extern void QueueAdvance(uint64 position, int64 lag_us);
extern void QueueSetDurable(uint64 position);
extern bool QueueIsIdle(void);
extern bool QueueIsUrgent(void);

#endif
