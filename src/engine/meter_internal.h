/*
 * meter_internal.h
 *	  What meter.c, meterpool.c and meterload.c share; for these files alone.
 *
 * meter.c has the idea, the invariants and the order of the locks.
 */
#ifndef METER_INTERNAL_H
#define METER_INTERNAL_H

#include "postgres.h"

#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "engine/meter.h"

#define METER_CACHE_LINE 64 /* bytes, of most processors */

/* meterload.c describes them. */
typedef enum MeterState
{
	STATE_FREE,
	STATE_EMPTY,
	STATE_LOADING,
	STATE_READY,
	STATE_GROWING
} MeterState;

/*
 * All members are under the mutex, except where said.  The first two cache
 * lines have what each request needs.
 */
typedef struct MeterShared
{
	slock_t mutex;
	uint8 state;	  /* a MeterState */
	bool referenced;  /* since the clock hand passed */
	bool used;		  /* keys: a request is on record or pending */
	bool use_durable; /* keys: and would survive a crash */
	uint8 ring_count;
	uint32 pins;
	uint32 pending;	  /* events in the queue */
	uint32 unflushed; /* urgent events of the key, committed but not durable yet */
	uint32 levels;	  /* of the limits, as last noticed; meter.c packs them */
	uint32 version;	  /* grows whenever a reading of the adjustments is out of date */
	/* changes only with the partition lock held exclusively, too */
	MeterSubject subject;
	int64 total; /* units of all time */
	/*
	 * engine time to which the rings were moved: of the last request, load or
	 * reading
	 */
	int64 latest;
	int64 counts_from;	  /* as many units of the total do not count for a limit on it */
	int64 adjusted_until; /* engine time when the adjustments must be read again */
	uint32 windows[LIMITS_MAX];
	int32 rings[LIMITS_MAX];
	/*
	 * Units above the caps; valid unless adjusted_until is ADJUST_NOW or
	 * METER_FOR_EVER.
	 */
	int64 granted[LIMITS_MAX];
	int64 granted_total;
	/* units of total admitted without an event since the meter was loaded */
	int64 unrecorded;
	int32 next_free; /* under the allocation lock */
} MeterShared;

#define ADJUST_NOW PG_INT64_MIN

typedef union MeterPadded
{
	MeterShared meter;
	char pad[TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(MeterShared))];
} MeterPadded;

/*
 * Begins in a cache line of its own: most requests need only the members
 * before the buckets, and one bucket.
 */
typedef union RingPadded
{
	Ring ring;
	char pad[TYPEALIGN(METER_CACHE_LINE, sizeof(Ring))];
} RingPadded;

#define METER_PLACES 64 /* to wait at */

typedef struct MeterControlShared
{
	/* constant */
	int32 meter_count;
	int32 ring_count;
	/* under the allocation lock */
	int32 free_meter;
	int32 free_ring;
	int32 free_meters;
	int32 free_rings;
	int32 hand;
	int64 evictions;
	/* for the meters with this index modulo METER_PLACES */
	ConditionVariable places[METER_PLACES];
} MeterControlShared;

#define METER_PINS_MAX 4

/* What a process holds until MeterUnpinAll. */
typedef struct MeterHoldings
{
	int pin_count;
	MeterIndex pins[METER_PINS_MAX];
	MeterIndex loading; /* the meter that it loads, METER_NONE */
	int ring_count;
	int32 rings[LIMITS_MAX]; /* taken for that meter, not published yet */
} MeterHoldings;

/* Hidden from other libraries, so that ours reaches them directly. */
#ifdef __GNUC__
#pragma GCC visibility push(hidden)
#endif

/* meterpool.c; the first is NULL without shared memory */
extern MeterControlShared *MeterControl;
extern MeterPadded *MeterArray;
extern RingPadded *MeterRings;
extern MeterHoldings MeterHeld;
extern MeterShared *MeterLock(const MeterSubject *subject, LWLock **lock);
extern void MeterUnlock(MeterShared *meter, LWLock *lock);
extern int32 MeterTakeRing(void);
extern void MeterFreeRings(const int32 *rings, int count);

/* meterload.c */
extern void MeterLoadAbandon(void);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#define METER(index) (&MeterArray[index].meter)
#define RING(index) (&MeterRings[index].ring)
#define PLACE(index) (&MeterControl->places[(index) % METER_PLACES])

/* Returns the window's ring, METER_NONE if it has none; the mutex is held. */
static inline int32
findRing(const MeterShared *meter, uint32 window)
{
	for (int i = 0; i < meter->ring_count; i++)
		if (meter->windows[i] == window)
			return meter->rings[i];
	return METER_NONE;
}

/*
 * Tells whether the meter has a ring for each limit that needs one; the mutex
 * is held.
 */
static inline bool
hasRings(const MeterShared *meter, const LimitSet *limits)
{
	for (int i = 0; i < limits->count; i++)
		if (limits->limits[i].window != LIMIT_WINDOW_TOTAL &&
			findRing(meter, limits->limits[i].window) == METER_NONE)
			return false;
	return true;
}

#endif
