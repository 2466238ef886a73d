/*
 * duties.h
 *	  What the writer does besides writing batches.
 */
#ifndef DUTIES_H
#define DUTIES_H

#include "postgres.h"

#include <signal.h>

#include "writer/batch.h"

/* When duties are done; each duty has a set of these. */
typedef enum DutyOccasion
{
	DUTY_SERVING = 1,		/* by the writer, between batches */
	DUTY_STOPPING = 2,		/* by a worker that was told to end */
	DUTY_WITHOUT_QUEUE = 4, /* by a worker whose database has no queue */
	DUTY_MAINTAINING = 8,	/* by the worker for maintenance */
	DUTY_AFTER_BATCH = 16	/* by the writer, right after a batch */
} DutyOccasion;

extern void DutiesBegin(int64 now);
extern void DutiesBeginMaintenance(void);
extern bool DutiesRun(DutyOccasion occasion, const volatile sig_atomic_t *stop);
extern void DutiesRunAfterBatch(const Batch *batch);
extern bool DutiesNeedWriter(void);
extern int64 DutiesAskedAt(void);

#endif
