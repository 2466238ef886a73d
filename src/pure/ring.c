/*
 * ring.c
 *	  Units used in one trailing window.
 *
 * A window of W seconds is cut into buckets of w = W/128.  Bucket b covers
 * [b*w, (b+1)*w), counted from the epoch, so that two rings of one window agree
 * about their buckets.  With h the bucket of now, the ring holds the 129
 * buckets h-128 .. h: those that reach into the window, the oldest often with a
 * part of it only, yet counted in full.
 *
 * Invariant: a unit recorded at t, in bucket b = floor(t/w), counts until R =
 * (b+129)*w and no longer.
 *	- b*w <= t, hence R <= t + W + w: it is given back at most a 128th of the
 *	  window late.
 *	- t < (b+1)*w, hence R > t + W: at any T with t <= T <= t + W it counts.
 *	  So a caller that admits at T only while used + cost <= cap leaves at
 *	  most cap units in [T-W, T], both ends included; and as each trailing
 *	  window that holds an admission lies, as far as it is filled, in the one
 *	  that ends with its last admission, none ever holds more.
 *
 * Time moves forward only.  A now before the newest bucket (the clock of
 * another session, read earlier) is taken for the newest bucket: all of the
 * above then holds with the greatest now so far in the place of now. Waits are
 * still measured from the caller's own now.
 *
 * A bucket that is full stays at its greatest value, which is no less than any
 * cap: as long as it counts, nothing is admitted, so the units it could not
 * take are not missed.
 *
 * The buckets from the oldest up to the one before first are empty. First moves
 * on when somebody walks over empty buckets, so that the next walk is short.
 *
 * A ring lies in shared memory and is used under the spinlock of its meter:
 * nothing here calls outside, and no step takes longer than one walk over the
 * buckets, however far the clock jumps.  While now stays in the newest bucket
 * there is nothing to do but to compare.  Times are nanoseconds since the Unix
 * epoch, and within two centuries of it.  A limit without end (total) is a
 * plain counter and needs no ring.
 */
#include "c.h"

#include "pure/ring.h"

/* of a window of one second: 7,812,500 */
#define NS_PER_DIVISION (INT64CONST(1000000000) / RING_DIVISIONS)

/*
 * Returns the index of the bucket that follows in time; after the newest comes
 * the oldest.
 */
static inline uint32
nextBucket(uint32 bucket)
{
	return bucket == RING_BUCKETS - 1 ? 0 : bucket + 1;
}

/*
 * Returns by how many buckets this one is older than the newest.
 */
static inline uint32
ageOf(const Ring *ring, uint32 bucket)
{
	return ring->newest >= bucket ? ring->newest - bucket : ring->newest + RING_BUCKETS - bucket;
}

/*
 * Moves the newest bucket to the one that holds now, which is past it, and
 * drops those that leave the ring.
 */
static void
moveTo(Ring *ring, int64 now)
{
	int64 steps = (now - ring->end) / ring->width + 1;

	ring->end += steps * ring->width;

	for (int64 left = Min(steps, RING_BUCKETS); left > 0; left--)
	{
		ring->newest = nextBucket(ring->newest);
		ring->used -= ring->buckets[ring->newest];
		ring->buckets[ring->newest] = 0;
		if (ring->first == ring->newest)
			ring->first = nextBucket(ring->first);
	}
}

/*
 * Brings the ring up to now.
 */
static inline void
advance(Ring *ring, int64 now)
{
	if (unlikely(now >= ring->end))
		moveTo(ring, now);
}

/*
 * Adds units to a bucket as far as they fit in.
 */
static inline void
fill(Ring *ring, uint32 bucket, uint64 units)
{
	uint32 taken = Min(units, PG_UINT32_MAX - ring->buckets[bucket]);

	ring->buckets[bucket] += taken;
	ring->used += taken;
}

/*
 * Makes an empty ring for a window of at least one second.
 */
void
RingInit(Ring *ring, uint32 window_seconds, int64 now)
{
	int64 into_bucket;

	ring->width = window_seconds * NS_PER_DIVISION;

	into_bucket = now % ring->width;
	if (into_bucket < 0) /* before 1970 */
		into_bucket += ring->width;

	ring->end = now - into_bucket + ring->width;
	ring->used = 0;
	ring->newest = ring->first = 0;
	for (int i = 0; i < RING_BUCKETS; i++)
		ring->buckets[i] = 0;
}

/*
 * Returns the units that count now.
 */
uint64
RingUsed(Ring *ring, int64 now)
{
	advance(ring, now);
	return ring->used;
}

/*
 * Records units used now.  Whether they may be is the caller's to decide, by
 * RingUsed and the cap.
 */
void
RingAdd(Ring *ring, int64 now, uint32 units)
{
	advance(ring, now);
	fill(ring, ring->newest, units);
}

/*
 * Records units used at an earlier instant, as they come back from the tables.
 * An instant after now is taken for now; units that no longer count are left
 * out.
 */
void
RingLoad(Ring *ring, int64 now, int64 at, uint64 units)
{
	int64 age = 0; /* in buckets */
	uint32 bucket;

	advance(ring, now);

	if (at < ring->end - RING_BUCKETS * ring->width)
		return;
	if (at < ring->end)
		age = (ring->end - 1 - at) / ring->width;
	bucket = (ring->newest + RING_BUCKETS - age) % RING_BUCKETS;

	fill(ring, bucket, units);
	if (ageOf(ring, bucket) > ageOf(ring, ring->first))
		ring->first = bucket;
}

/*
 * Forgets units, those used first before others, until no more than so many
 * count.
 */
void
RingKeepLatest(Ring *ring, uint64 units)
{
	uint32 bucket = ring->newest;

	while (ring->used > units)
	{
		uint32 forgotten;

		bucket = nextBucket(bucket);
		forgotten = Min(ring->buckets[bucket], ring->used - units);
		ring->buckets[bucket] -= forgotten;
		ring->used -= forgotten;
	}
}

/*
 * Returns the nanoseconds from now until no more than at_most units count if
 * none are added: 0 if that is so already. It is exact: one nanosecond before,
 * more count.
 */
int64
RingFreeAfter(Ring *ring, int64 now, uint64 at_most)
{
	uint64 used = RingUsed(ring, now);
	uint32 bucket;
	int64 left_at;

	if (used <= at_most)
		return 0;

	while (ring->buckets[ring->first] == 0)
		ring->first = nextBucket(ring->first);

	/*
	 * The oldest bucket leaves when the newest ends, and each later one a width
	 * after the one before it.
	 */
	bucket = ring->first;
	left_at = ring->end + (RING_BUCKETS - 1 - ageOf(ring, bucket)) * ring->width;
	while ((used -= ring->buckets[bucket]) > at_most)
	{
		bucket = nextBucket(bucket);
		left_at += ring->width;
	}
	return left_at - now;
}

/*
 * Returns the nanoseconds from now until some of the units that count are given
 * back, RING_NEVER if none count.
 */
int64
RingResetAfter(Ring *ring, int64 now)
{
	uint64 used = RingUsed(ring, now);

	return used == 0 ? RING_NEVER : RingFreeAfter(ring, now, used - 1);
}
