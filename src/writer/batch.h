/*
 * batch.h
 *	  Events become rows.
 */
#ifndef BATCH_H
#define BATCH_H

#include "postgres.h"

#include "engine/queue.h"

/* Events, one after the other. */
typedef struct Batch
{
	const char *events;
	uint64 size;	 /* bytes */
	uint64 position; /* in the queue, behind the last */
	bool discarded;	 /* the extension was dropped: the events are not written */
	/* NULL: log them; else the events go to quarantine, for this reason */
	const char *quarantine_reason;
} Batch;

extern const Event *BatchNext(const Batch *batch, const Event *event);
extern bool BatchIsWanted(const Batch *batch);
extern void BatchWrite(const Batch *batch);
extern uint64 BatchRetire(const Batch *batch);
extern bool BatchIsUrgent(const Batch *batch);
extern void BatchSetDurable(const Batch *batch);

#endif
