/*
 * ring.h
 *	  Units used in one trailing window: 129 buckets of a 128th of the window
 *	  each.  Pure C.
 */
#ifndef RING_H
#define RING_H

#include "c.h"

#define RING_DIVISIONS 128
#define RING_BUCKETS (RING_DIVISIONS + 1)

#define RING_NEVER INT64CONST(-1) /* instead of a wait: there is nothing to wait for */

typedef struct Ring
{
	int64 width;   /* of a bucket, nanoseconds; a whole one, since W is in seconds */
	int64 end;	   /* of the newest bucket (exclusive), nanoseconds since the epoch */
	uint64 used;   /* sum of the buckets */
	uint32 newest; /* index of the newest bucket; the one after it is the oldest */
	/*
	 * of the oldest bucket that may hold something; no later than the first
	 * that does
	 */
	uint32 first;
	uint32 buckets[RING_BUCKETS];
} Ring;

extern void RingInit(Ring *ring, uint32 window_seconds, int64 now);
extern uint64 RingUsed(Ring *ring, int64 now);
extern void RingAdd(Ring *ring, int64 now, uint32 units);
extern void RingLoad(Ring *ring, int64 now, int64 at, uint64 units);
extern void RingKeepLatest(Ring *ring, uint64 units);
extern int64 RingFreeAfter(Ring *ring, int64 now, uint64 at_most);
extern int64 RingResetAfter(Ring *ring, int64 now);

#endif
