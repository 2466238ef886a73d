/*
 * ring.h
 *	  Units used in one trailing window: 129 buckets of a 128th of the window each.  Pure C.
 */
#ifndef RING_H
#define RING_H

#include "c.h"

#define RING_DIVISIONS	128
#define RING_BUCKETS	(RING_DIVISIONS + 1)

typedef struct Ring
{
	int64		width;			/* of a bucket, nanoseconds */
	int64		head;			/* number of the newest bucket since the epoch */
	uint64		used;			/* sum of the buckets */
	uint32		buckets[RING_BUCKETS];	/* bucket n at n % RING_BUCKETS */
} Ring;

extern void RingInit(Ring *ring, uint32 window_seconds, int64 now);
extern uint64 RingUsed(Ring *ring, int64 now);
extern void RingAdd(Ring *ring, int64 now, uint32 units);
extern void RingLoad(Ring *ring, int64 now, int64 at, uint64 units);
extern int64 RingFreeAfter(Ring *ring, int64 now, uint64 at_most);
extern int64 RingResetAfter(Ring *ring, int64 now);

#endif
