/*
 * limitstatus.h
 *	  The status of limits: used, remaining, when units come back.
 */
#ifndef LIMITSTATUS_H
#define LIMITSTATUS_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "engine/meter.h"

typedef struct LimitStatus
{
	int64 cap;	   /* units: the cap that decides */
	int64 granted; /* units on top of the provider's cap */
	int64 used;	   /* units */
	int64 free_at; /* engine time when some of them come back, RING_NEVER */
} LimitStatus;

extern TimestampTz LimitStatusFreeAt(const LimitStatus *status);
extern void LimitStatusRead(Oid relation, MeterKind kind, int64 id, const LimitSet *limits,
							LimitStatus *statuses);

#endif
