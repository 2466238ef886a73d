/*
 * meterload.c
 *	  How a meter gets ready: its states, loading, growing and adjustments.
 *
 * Life of a meter:
 *	FREE -> EMPTY				MeterPin by the first process to need it
 *	EMPTY -> LOADING			MeterPrepare by the first process to get there
 *	LOADING -> READY			MeterLoadEnd
 *	LOADING -> EMPTY			its loader gave up (error, exit); the next
 *								process that pins it loads it
 *	READY -> GROWING -> READY	a process needs a window that has no ring:
 *								admissions stop, the writer writes what is
 *								pending, the new ring is loaded
 *	READY, EMPTY -> FREE		eviction
 *
 * Only its loader touches the rings of a meter that is LOADING, or the new
 * rings of one that is GROWING.  They enter the meter at MeterLoadEnd.
 *
 * Resets and grants (table adjustment) are kept in the meter, for their rows
 * are not read with each call: what of the total no longer counts, and what is
 * granted above each cap.  They hold until the first of the grants ends, or
 * until a transaction that has adjusted the subject commits (MeterAdjusted).
 * The next process that needs the meter then reads the rows again and
 * publishes them under the mutex; meanwhile the rest of the meters can be
 * asked.  A reading is published only if no adjustment was committed, and no
 * ring was added, since before its snapshot.
 *
 * meter.c has the invariants and the order of the locks.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "engine/meter_internal.h"
#include "engine/wait.h"
#include "pure/clock.h"

/*
 * Tells what is to be done before the pinned meter can be asked about these
 * limits.  METER_TO_LOAD makes the caller its loader, the only one;
 * METER_TO_ADJUST may be told to several processes at a time.
 */
MeterReadiness
MeterPrepare(MeterIndex index, const LimitSet *limits)
{
	MeterShared *meter = METER(index);
	MeterReadiness readiness = METER_BUSY;

	HOLD_INTERRUPTS();
	SpinLockAcquire(&meter->mutex);
	if (meter->state == STATE_READY && hasRings(meter, limits))
		readiness = meter->adjusted_until == ADJUST_NOW ? METER_TO_ADJUST : METER_READY;
	else if (meter->state == STATE_READY || meter->state == STATE_EMPTY)
	{
		meter->state = (meter->state == STATE_READY) ? STATE_GROWING : STATE_LOADING;
		MeterHeld.loading = index;
		readiness = METER_TO_LOAD;
	}
	SpinLockRelease(&meter->mutex);
	RESUME_INTERRUPTS();
	return readiness;
}

/*
 * Gives up the load that this process has begun, if there is one, so that
 * another can try.
 */
void
MeterLoadAbandon(void)
{
	MeterIndex index = MeterHeld.loading;

	if (index == METER_NONE)
		return;
	MeterFreeRings(MeterHeld.rings, MeterHeld.ring_count);
	MeterHeld.ring_count = 0;
	SpinLockAcquire(&METER(index)->mutex);
	METER(index)->state = (METER(index)->state == STATE_GROWING) ? STATE_READY : STATE_EMPTY;
	SpinLockRelease(&METER(index)->mutex);
	ConditionVariableBroadcast(PLACE(index));
	MeterHeld.loading = METER_NONE;
}

static bool
isAtRest(uint64 index)
{
	MeterShared *meter = METER(index);
	bool at_rest;

	SpinLockAcquire(&meter->mutex);
	at_rest = (meter->state == STATE_READY || meter->state == STATE_EMPTY);
	SpinLockRelease(&meter->mutex);
	return at_rest;
}

static bool
isDrained(uint64 index)
{
	MeterShared *meter = METER(index);
	bool drained;

	SpinLockAcquire(&meter->mutex);
	drained = (meter->pending == 0);
	SpinLockRelease(&meter->mutex);
	return drained;
}

/*
 * Waits until no process loads the pinned meter; false: the time is over.  Can
 * be cancelled.
 */
bool
MeterWait(MeterIndex index, int64 deadline)
{
	return WaitUntil(WAIT_METER_LOAD, PLACE(index), isAtRest, index, deadline);
}

/* Takes an empty ring for a load; false: all are in use. */
static bool
takeRing(uint32 window, int64 now, Ring **ring)
{
	int32 index = MeterTakeRing();

	if (index == METER_NONE)
		return false;
	MeterHeld.rings[MeterHeld.ring_count++] = index;
	*ring = RING(index);
	RingInit(*ring, window, now);
	return true;
}

/*
 * Takes from a meter, while nothing is admitted, the rings that these limits
 * do not use: it may not have more than LIMITS_MAX.
 */
static void
dropOtherRings(MeterShared *meter, const LimitSet *limits)
{
	int32 dropped[LIMITS_MAX];
	int dropped_count = 0;
	int kept = 0;

	SpinLockAcquire(&meter->mutex);
	for (int i = 0; i < meter->ring_count; i++)
	{
		bool wanted = false;

		for (int j = 0; j < limits->count; j++)
			wanted |= (limits->limits[j].window == meter->windows[i]);
		if (wanted)
		{
			meter->windows[kept] = meter->windows[i];
			meter->granted[kept] = meter->granted[i];
			meter->rings[kept++] = meter->rings[i];
		}
		else
			dropped[dropped_count++] = meter->rings[i];
	}
	meter->ring_count = kept;
	meter->levels = 0; /* noticed again: better than not noticed */
	SpinLockRelease(&meter->mutex);
	MeterFreeRings(dropped, dropped_count);
}

static void
addWindow(MeterAdjustments *adjustments, uint32 window)
{
	Assert(adjustments->count < lengthof(adjustments->windows));
	adjustments->windows[adjustments->count++] = (MeterAdjustment){.window = window};
}

/*
 * Prepares a reading of the adjustments of a pinned meter.  The snapshot of the
 * reading must be taken after this.
 */
void
MeterAdjustBegin(MeterIndex index, MeterAdjustments *adjustments)
{
	MeterShared *meter = METER(index);
	int64 now = ClockNow();

	adjustments->hold_until = METER_FOR_EVER;
	adjustments->count = 0;
	addWindow(adjustments, LIMIT_WINDOW_TOTAL);
	SpinLockAcquire(&meter->mutex);
	adjustments->version = meter->version;
	adjustments->now = Max(now, meter->latest);
	for (int i = 0; i < meter->ring_count; i++)
		addWindow(adjustments, meter->windows[i]);
	SpinLockRelease(&meter->mutex);
}

/*
 * Returns the units that a subject has used since a reset; a reset that counts
 * from more units than were used has no effect.
 */
int64
MeterUnitsSince(int64 total, int64 counts_from)
{
	return counts_from > total ? total : total - counts_from;
}

/*
 * Applies adjustments to the meter; false: they were read too early, and
 * nothing was done.  The mutex is held.
 */
static bool
adjust(MeterShared *meter, const MeterAdjustments *adjustments)
{
	if (adjustments->version != meter->version)
		return false;
	meter->counts_from =
		meter->total - MeterUnitsSince(meter->total, adjustments->windows[0].counts_from);
	meter->granted_total = adjustments->windows[0].granted;
	for (int i = 1; i < adjustments->count; i++)
	{
		const MeterAdjustment *adjustment = &adjustments->windows[i];

		for (int j = 0; j < meter->ring_count; j++)
			if (meter->windows[j] == adjustment->window)
			{
				RingKeepLatest(RING(meter->rings[j]),
							   MeterUnitsSince(meter->total, adjustment->counts_from));
				meter->granted[j] = adjustment->granted;
			}
	}
	meter->adjusted_until = adjustments->hold_until;
	return true;
}

/*
 * Publishes a reading of the adjustments; false: it is out of date, and they
 * must be read again.
 */
bool
MeterAdjustEnd(MeterIndex index, const MeterAdjustments *adjustments)
{
	MeterShared *meter = METER(index);
	bool done;

	SpinLockAcquire(&meter->mutex);
	done = adjust(meter, adjustments);
	SpinLockRelease(&meter->mutex);
	return done;
}

/*
 * Declares the adjustments that the subject's meter has, if it has one, out of
 * date: they are read again before it decides anything more.  Cannot throw.
 */
void
MeterAdjusted(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = MeterLock(subject, &lock);

	if (meter == NULL)
		return;
	meter->version++;
	meter->adjusted_until = ADJUST_NOW;
	MeterUnlock(meter, lock);
}

/*
 * Begins the load of a meter for which MeterPrepare returned METER_TO_LOAD:
 * waits until nothing is pending in it, and takes the rings that it lacks.  The
 * caller fills them from the tables, by a snapshot taken after this, and calls
 * MeterLoadEnd.  False: the time is over, or no ring is free; the load is given
 * up.  The caller wakes the writer first, to keep the wait short.  Can be
 * cancelled.
 */
bool
MeterLoadBegin(MeterIndex index, const LimitSet *limits, int64 deadline, MeterLoading *loading)
{
	MeterShared *meter = METER(index);

	Assert(MeterHeld.loading == index);
	loading->meter = index;
	loading->whole = (meter->state == STATE_LOADING);
	loading->count = 0;
	loading->total = 0;
	loading->used = false;
	if (!loading->whole && !WaitUntil(WAIT_METER_DRAIN, PLACE(index), isDrained, index, deadline))
	{
		MeterLoadAbandon();
		return false;
	}

	/*
	 * The clock is read when admissions have stopped, not before: units that a
	 * ring takes for older than they are would come back early.
	 */
	loading->now = Max(ClockNow(), meter->latest);
	if (meter->ring_count + limits->count > LIMITS_MAX)
		dropOtherRings(meter, limits);
	for (int i = 0; i < limits->count; i++)
	{
		uint32 window = limits->limits[i].window;

		if (window == LIMIT_WINDOW_TOTAL || findRing(meter, window) != METER_NONE)
			continue;
		if (!takeRing(window, loading->now, &loading->rings[loading->count]))
		{
			MeterLoadAbandon();
			return false;
		}
		loading->windows[loading->count++] = window;
	}
	MeterAdjustBegin(index, &loading->adjustments);
	for (int i = 0; i < loading->count; i++)
		addWindow(&loading->adjustments, loading->windows[i]);
	return true;
}

/* Publishes what was loaded; the meter is ready then. */
void
MeterLoadEnd(const MeterLoading *loading)
{
	MeterShared *meter = METER(loading->meter);

	Assert(MeterHeld.loading == loading->meter && MeterHeld.ring_count == loading->count);
	SpinLockAcquire(&meter->mutex);
	for (int i = 0; i < loading->count; i++)
	{
		meter->windows[meter->ring_count] = loading->windows[i];
		meter->granted[meter->ring_count] = 0;
		meter->rings[meter->ring_count++] = MeterHeld.rings[i];
	}
	if (loading->whole)
	{
		meter->total = loading->total;
		meter->used = meter->use_durable = loading->used;
	}
	meter->latest = loading->now;
	meter->state = STATE_READY;
	if (!adjust(meter, &loading->adjustments))
		meter->adjusted_until = ADJUST_NOW;
	meter->version++;
	SpinLockRelease(&meter->mutex);
	MeterHeld.ring_count = 0;
	MeterHeld.loading = METER_NONE;
	ConditionVariableBroadcast(PLACE(loading->meter));
}
