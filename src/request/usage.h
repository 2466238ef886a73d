/*
 * usage.h
 *	  Usage as the tables have it, and meters loaded from them.
 */
#ifndef USAGE_H
#define USAGE_H

#include "postgres.h"

#include "engine/meter.h"

/* How a limit stands. */
typedef struct UsageReading
{
	int64 cap;	   /* units, with what is granted on top */
	int64 used;	   /* units */
	int64 free_at; /* engine time when some of them come back, RING_NEVER */
} UsageReading;

extern void UsageBegin(void);
extern void UsageRelease(void);
extern MeterIndex UsageMeter(const MeterSubject *subject, const LimitSet *limits, int64 deadline);
extern void
UsageRead(Oid relation, MeterKind kind, int64 id, const LimitSet *limits, UsageReading *readings);

#endif
