/*
 * meter.c
 *	  Shared-memory counters of the units that a key, an account or an
 *	  address has used.
 *
 * A meter belongs to a subject.  It holds a ring for each window that the
 * subject's limits have, or had since it was loaded, and the units of all
 * time.  Caps are not kept: they come with each call from the row, which was
 * read under MVCC, so that a changed cap needs no invalidation.
 *
 * Resets and grants (table adjustment) are kept, for their rows are not read
 * with each call: what of the total no longer counts, and what is granted above
 * each cap.  They hold until the first of the grants ends, or until a
 * transaction that has adjusted the subject is committed (MeterAdjusted): the
 * next who needs the meter reads the rows again and publishes what they say,
 * under the mutex, while others go on to ask the rest of the meters.  A reading
 * is published only if nothing was committed, and no ring was added, since
 * before its snapshot.
 *
 * Everything lies in fixed arrays sized by apikeys.meter_memory: meters,
 * rings, a hash from subject to meter.  What is not there is loaded from the
 * tables by the first backend that needs it.  When no meter (or ring) is
 * free, a clock hand evicts one that nobody needs.
 *
 * Life of a meter:
 *	FREE -> EMPTY				MeterPin by the first who needs it
 *	EMPTY -> LOADING			MeterPrepare by the first who gets there
 *	LOADING -> READY			MeterLoadEnd
 *	LOADING -> EMPTY			its loader gave up (error, exit); the next
 *								who pins it loads it
 *	READY -> GROWING -> READY	somebody needs a window that has no ring:
 *								admissions stop, the writer writes what is
 *								pending, the new ring is loaded
 *	READY, EMPTY -> FREE		eviction
 *
 * Invariants:
 *	- tables + pending events + unrecorded units = the meter, from READY on:
 *	  an admission adds to the counters and to pending (or unrecorded) in one
 *	  critical section, and pending falls only after the commit that wrote
 *	  the events.  What is unrecorded vanishes when the meter is loaded anew,
 *	  and a ring that is added has none of it. Hence a load is right if and
 *	  only if pending is 0 when its snapshot is taken, and nothing is
 *	  admitted until it is published.
 *	- A reset of a window says how many units the subject had used in all by
 *	  then.  Those used since are the last of all it has used, and admissions
 *	  are in the order of their times: so the ring keeps its latest (total -
 *	  that) units.  This holds for a ring that lives on and for one loaded
 *	  from the tables, however coarse their steps, and to do it again changes
 *	  nothing.
 *	- Only a meter with no pin and nothing pending or unflushed is evicted.
 *	  Reloaded before WAL is flushed, it would take the visible row of its
 *	  first use for a durable one; given to another subject, it would take
 *	  the flush for that one's.
 *	- Only its loader touches the rings of a meter that is LOADING, or the
 *	  new rings of one that is GROWING; they enter the meter at MeterLoadEnd.
 *
 * Locks, in this order: allocation lock (free lists, clock hand) -> partition
 * lock (one part of the hash) -> spinlock of a meter; of two meters, that with
 * the lower index first (whose they are is known only then).  Under a spinlock
 * there are only bounded steps that cannot throw, allocate or wait.  Waits are
 * on condition variables, with none of these locks held.
 *
 * A pin is counted in the meter and noted in this process, which gives all its
 * pins back at the end of the call, at abort and in before_shmem_exit.
 *
 * Most requests need neither the hash nor pins: their processes remember where
 * they have pinned the meters before, and MeterAdmit looks under the spinlocks
 * whether they are still there and ready.  The event that it counts as pending
 * keeps them from eviction from then on.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/hsearch.h"
#include "utils/wait_event.h"

#include "engine/meter.h"
#include "pure/clock.h"

#define PARTITIONS 32
#define WAITING_PLACES 64
#define RINGS_PER_METER 3 /* day, week, month: what most keys have; total needs none */
#define PINS_MAX 4
#define CACHE_LINE 64 /* of most processors */
#define TRANCHE "apikeys_meter"

/* How much of a limit is used. */
#define LEVEL_FAR 0U
#define LEVEL_NEAR 1U	 /* 80 % */
#define LEVEL_REACHED 2U /* all, or so much that a request was denied */
#define LEVEL_BITS 2
#define LEVEL_MASK 3U

typedef enum MeterState
{
	STATE_FREE,
	STATE_EMPTY,
	STATE_LOADING,
	STATE_READY,
	STATE_GROWING
} MeterState;

/*
 * All members under the mutex, except where said.  What each request needs is
 * in the first two cache lines.
 */
typedef struct MeterShared
{
	slock_t mutex;
	uint8 state;	  /* a MeterState */
	bool referenced;  /* since the clock hand passed */
	bool used;		  /* keys: some request is on record or pending */
	bool use_durable; /* keys: and would survive a crash */
	uint8 ring_count;
	uint32 pins;
	uint32 pending;	  /* events in the queue */
	uint32 unflushed; /* urgent events of the key, committed but not durable yet */
	/* of the limits when they were last told of, LEVEL_BITS each: levelShift */
	uint32 levels;
	uint32 version;		  /* grows whenever a reading of the adjustments is out of date */
	MeterSubject subject; /* changes with the partition lock held exclusively too */
	int64 total;		  /* units of all time */
	/*
	 * engine time up to which the rings were moved: of the latest request, load
	 * or reading
	 */
	int64 latest;
	int64 counts_from;	  /* as many units of the total do not count for a limit on it */
	int64 adjusted_until; /* engine time when the adjustments must be read again */
	uint32 windows[LIMITS_MAX];
	int32 rings[LIMITS_MAX];
	/*
	 * units above the caps, while adjusted_until is neither ADJUST_NOW nor
	 * METER_FOR_EVER
	 */
	int64 granted[LIMITS_MAX];
	int64 granted_total;
	/*
	 * units of total that were admitted without an event since the meter was
	 * loaded
	 */
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
 * Begins in a cache line of its own: a request seldom needs more of it than the
 * members before the buckets, and one of these.
 */
typedef union RingPadded
{
	Ring ring;
	char pad[TYPEALIGN(CACHE_LINE, sizeof(Ring))];
} RingPadded;

typedef struct MeterEntry
{
	MeterSubject subject; /* hash key */
	MeterIndex meter;
} MeterEntry;

typedef struct MeterControlShared
{
	int32 meter_count; /* constant; so the next */
	int32 ring_count;
	/* under the allocation lock */
	int32 free_meter;
	int32 free_ring;
	int32 free_meters;
	int32 free_rings;
	int32 hand;
	int64 evictions;
	/* for the meters with this index modulo WAITING_PLACES */
	ConditionVariable places[WAITING_PLACES];
} MeterControlShared;

int MeterMemory = 64 * 1024;

static MeterControlShared *control = NULL;
static MeterPadded *meters;
static RingPadded *rings;
static int32 *next_rings; /* free list; under the allocation lock */
static HTAB *subjects;
static LWLockPadded *locks; /* of the partitions, then of the allocation */

/* What this process holds. */
static MeterIndex pins[PINS_MAX];
static int pin_count = 0;
static MeterIndex loading_meter = METER_NONE;
static int32 loading_rings[LIMITS_MAX];
static int loading_ring_count = 0;

#define METER(index) (&meters[index].meter)
#define RING(index) (&rings[index].ring)
#define ALLOCATION_LOCK (&locks[PARTITIONS].lock)
#define PARTITION_LOCK(hash) (&locks[(hash) % PARTITIONS].lock)
#define PLACE(index) (&control->places[(index) % WAITING_PLACES])

static int32
countMeters(void)
{
	size_t each = sizeof(MeterPadded) + RINGS_PER_METER * (sizeof(RingPadded) + sizeof(int32)) +
				  sizeof(MeterEntry) + 48; /* and what the hash adds to an entry */

	return (int32) Max(64, (size_t) MeterMemory * 1024 / each);
}

/* Asks for shared memory and locks; from shmem_request_hook. */
void
MeterShmemRequest(void)
{
	size_t count = countMeters();
	size_t size = CACHELINEALIGN(sizeof(MeterControlShared));

	size = add_size(size, mul_size(count, sizeof(MeterPadded)));
	size = add_size(size, CACHELINEALIGN(mul_size(count * RINGS_PER_METER, sizeof(RingPadded))));
	size = add_size(size, CACHELINEALIGN(mul_size(count * RINGS_PER_METER, sizeof(int32))));
	size = add_size(size, hash_estimate_size(count, sizeof(MeterEntry)));
	RequestAddinShmemSpace(add_size(size, 4 * PG_CACHE_LINE_SIZE));
	RequestNamedLWLockTranche(TRANCHE, PARTITIONS + 1);
}

/*
 * Finds or makes the arrays; from shmem_startup_hook, with AddinShmemInitLock
 * held.
 */
void
MeterShmemInit(void)
{
	int32 count = countMeters();
	bool found;
	HASHCTL ctl = {.keysize = sizeof(MeterSubject),
				   .entrysize = sizeof(MeterEntry),
				   .num_partitions = PARTITIONS};

	pin_count = 0;
	loading_meter = METER_NONE;
	loading_ring_count = 0;

	control = ShmemInitStruct("apikeys meter control", sizeof(MeterControlShared), &found);
	meters = ShmemInitStruct("apikeys meters", count * sizeof(MeterPadded), &found);
	rings = ShmemInitStruct("apikeys rings", mul_size(count * RINGS_PER_METER, sizeof(RingPadded)),
							&found);
	next_rings = ShmemInitStruct("apikeys free rings",
								 mul_size(count * RINGS_PER_METER, sizeof(int32)), &found);
	subjects = ShmemInitHash("apikeys subjects", count, count, &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_PARTITION | HASH_FIXED_SIZE);
	locks = GetNamedLWLockTranche(TRANCHE);
	if (found)
		return;

	control->meter_count = control->free_meters = count;
	control->ring_count = control->free_rings = count * RINGS_PER_METER;
	control->free_meter = control->free_ring = control->hand = 0;
	control->evictions = 0;
	for (int i = 0; i < WAITING_PLACES; i++)
		ConditionVariableInit(&control->places[i]);
	for (int32 i = 0; i < control->meter_count; i++)
	{
		memset(METER(i), 0, sizeof(MeterShared));
		SpinLockInit(&METER(i)->mutex);
		METER(i)->state = STATE_FREE;
		METER(i)->next_free = (i + 1 < control->meter_count) ? i + 1 : METER_NONE;
	}
	for (int32 i = 0; i < control->ring_count; i++)
		next_rings[i] = (i + 1 < control->ring_count) ? i + 1 : METER_NONE;
}

/*
 * Makes the name of a subject in this database; relation is the OID of the
 * table key.
 */
void
MeterSubjectSet(MeterSubject *subject, Oid relation, MeterKind kind, int64 id)
{
	memset(subject, 0, sizeof(*subject));
	subject->database = MyDatabaseId;
	subject->relation = relation;
	subject->id = id;
	subject->kind = kind;
}

/*
 * Has memory fetched that is needed soon: several places at the same time cost
 * little more than one.
 */
static inline void
prefetch(const void *memory, size_t size)
{
#ifdef __GNUC__
	for (size_t i = 0; i < size; i += CACHE_LINE)
		__builtin_prefetch((const char *) memory + i, 1);
#endif
}

/*
 * Has a meter fetched, if there is one, that MeterAdmit will be asked about
 * soon.
 */
void
MeterPrefetch(MeterIndex index)
{
	if (index != METER_NONE)
		prefetch(METER(index), 2 * CACHE_LINE);
}

/*
 * Has the rings fetched of a meter that has been; it is not locked, and may
 * change meanwhile.
 */
void
MeterPrefetchRings(MeterIndex index)
{
	if (index != METER_NONE)
		for (int i = 0; i < LIMITS_MAX && i < METER(index)->ring_count; i++)
			prefetch(RING(METER(index)->rings[i]), CACHE_LINE);
}

/* Gives a ring back; the allocation lock is held. */
static void
freeRing(int32 ring)
{
	next_rings[ring] = control->free_ring;
	control->free_ring = ring;
	control->free_rings++;
}

/*
 * Evicts the next meter that the clock hand finds to be unneeded, with its
 * rings; false: there is none.  The allocation lock is held.
 */
static bool
evictOne(void)
{
	for (int32 step = 0; step < 2 * control->meter_count; step++)
	{
		MeterIndex index = control->hand;
		MeterShared *meter = METER(index);
		MeterSubject subject;
		uint32 hash;
		bool evictable;

		control->hand = (control->hand + 1) % control->meter_count;

		SpinLockAcquire(&meter->mutex);
		evictable = (meter->state == STATE_READY || meter->state == STATE_EMPTY) &&
					meter->pins == 0 && meter->pending == 0 && meter->unflushed == 0 &&
					!meter->referenced;
		meter->referenced = false;
		subject = meter->subject;
		SpinLockRelease(&meter->mutex);
		if (!evictable)
			continue;

		/* Look again with the partition locked: a pin may have come in. */
		hash = get_hash_value(subjects, &subject);
		LWLockAcquire(PARTITION_LOCK(hash), LW_EXCLUSIVE);
		SpinLockAcquire(&meter->mutex);
		evictable = (meter->state == STATE_READY || meter->state == STATE_EMPTY) &&
					meter->pins == 0 && meter->pending == 0 && meter->unflushed == 0;
		if (evictable)
			meter->state = STATE_FREE;
		SpinLockRelease(&meter->mutex);
		if (evictable)
			hash_search_with_hash_value(subjects, &subject, hash, HASH_REMOVE, NULL);
		LWLockRelease(PARTITION_LOCK(hash));
		if (!evictable)
			continue;

		/* Nobody can reach it any more. */
		for (int i = 0; i < meter->ring_count; i++)
			freeRing(meter->rings[i]);
		meter->ring_count = 0;
		meter->next_free = control->free_meter;
		control->free_meter = index;
		control->free_meters++;
		control->evictions++;
		return true;
	}
	return false;
}

/* Takes a free meter, evicting one if need be; METER_NONE: all are in use. */
static MeterIndex
takeMeter(void)
{
	MeterIndex index = METER_NONE;

	LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
	if (control->free_meter != METER_NONE || evictOne())
	{
		index = control->free_meter;
		control->free_meter = METER(index)->next_free;
		control->free_meters--;
	}
	LWLockRelease(ALLOCATION_LOCK);
	return index;
}

static void
giveMeterBack(MeterIndex index)
{
	LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
	METER(index)->next_free = control->free_meter;
	control->free_meter = index;
	control->free_meters++;
	LWLockRelease(ALLOCATION_LOCK);
}

/* Counts and notes a pin; the mutex is held. */
static inline void
pin(MeterIndex index)
{
	METER(index)->pins++;
	METER(index)->referenced = true;
	pins[pin_count++] = index;
}

static int
findRing(const MeterShared *meter, uint32 window)
{
	for (int i = 0; i < meter->ring_count; i++)
		if (meter->windows[i] == window)
			return meter->rings[i];
	return METER_NONE;
}

/* Tells whether the meter has a ring for each limit that needs one. */
static bool
hasRings(const MeterShared *meter, const LimitSet *limits)
{
	for (int i = 0; i < limits->count; i++)
		if (limits->limits[i].window != LIMIT_WINDOW_TOTAL &&
			findRing(meter, limits->limits[i].window) == METER_NONE)
			return false;
	return true;
}

/*
 * Finds the subject's meter in the hash, or enters a new one there, in state
 * EMPTY; pins it.  METER_NONE: there is no room.
 */
static MeterIndex
findOrEnter(const MeterSubject *subject)
{
	uint32 hash = get_hash_value(subjects, subject);
	LWLock *lock = PARTITION_LOCK(hash);
	MeterEntry *entry;
	MeterIndex index;
	MeterIndex spare;
	bool found;

	LWLockAcquire(lock, LW_SHARED);
	entry = hash_search_with_hash_value(subjects, subject, hash, HASH_FIND, NULL);
	if (entry)
	{
		index = entry->meter;
		SpinLockAcquire(&METER(index)->mutex);
		pin(index);
		SpinLockRelease(&METER(index)->mutex);
		LWLockRelease(lock);
		return index;
	}
	LWLockRelease(lock);

	spare = takeMeter();
	if (spare == METER_NONE)
		return METER_NONE;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = hash_search_with_hash_value(subjects, subject, hash, HASH_ENTER_NULL, &found);
	if (entry && !found)
	{
		MeterShared *meter = METER(spare);

		entry->meter = spare;
		SpinLockAcquire(&meter->mutex);
		meter->state = STATE_EMPTY;
		meter->used = meter->use_durable = false;
		meter->ring_count = 0;
		meter->pins = meter->pending = meter->unflushed = 0;
		meter->total = meter->unrecorded = 0;
		meter->counts_from = 0;
		meter->levels = 0;
		meter->adjusted_until = ADJUST_NOW;
		meter->latest = 0;
		meter->subject = *subject;
		SpinLockRelease(&meter->mutex);
	}
	index = entry ? entry->meter : METER_NONE;
	if (entry)
	{
		SpinLockAcquire(&METER(index)->mutex);
		pin(index);
		SpinLockRelease(&METER(index)->mutex);
	}
	LWLockRelease(lock);
	if (index != spare)
		giveMeterBack(spare);
	return index;
}

/*
 * Pins the subject's meter, making one if there is none; METER_NONE: all meters
 * are in use.
 */
MeterIndex
MeterPin(const MeterSubject *subject)
{
	MeterIndex index;

	if (pin_count == PINS_MAX)
		elog(ERROR, "too many meters pinned");
	HOLD_INTERRUPTS();
	index = findOrEnter(subject);
	RESUME_INTERRUPTS();
	return index;
}

/*
 * Tells what is to be done before the pinned meter can be asked about these
 * limits.  METER_TO_LOAD makes the caller its loader; any number of them may
 * read adjustments.
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
		loading_meter = index;
		readiness = METER_TO_LOAD;
	}
	SpinLockRelease(&meter->mutex);
	RESUME_INTERRUPTS();
	return readiness;
}

/* Gives up a load that was not finished, so that the next can try. */
static void
abandonLoad(void)
{
	MeterShared *meter = METER(loading_meter);

	if (loading_ring_count > 0)
	{
		LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
		while (loading_ring_count > 0)
			freeRing(loading_rings[--loading_ring_count]);
		LWLockRelease(ALLOCATION_LOCK);
	}
	SpinLockAcquire(&meter->mutex);
	meter->state = (meter->state == STATE_GROWING) ? STATE_READY : STATE_EMPTY;
	SpinLockRelease(&meter->mutex);
	ConditionVariableBroadcast(PLACE(loading_meter));
	loading_meter = METER_NONE;
}

/*
 * Gives back all that this process holds of meters; at the end of a call, and
 * after anything that ended it early.
 */
void
MeterUnpinAll(void)
{
	if (loading_meter != METER_NONE)
		abandonLoad();
	while (pin_count > 0)
	{
		MeterShared *meter = METER(pins[--pin_count]);

		SpinLockAcquire(&meter->mutex);
		meter->pins--;
		SpinLockRelease(&meter->mutex);
	}
}

/* Which condition MeterWait and MeterLoadBegin wait for. */
static bool
isSettled(MeterIndex index, bool growing)
{
	MeterShared *meter = METER(index);
	bool settled;

	SpinLockAcquire(&meter->mutex);
	settled = growing ? meter->pending == 0 :
						(meter->state == STATE_READY || meter->state == STATE_EMPTY);
	SpinLockRelease(&meter->mutex);
	return settled;
}

/* Waits until the meter is settled; false: the time is over. */
static bool
waitUntilSettled(MeterIndex index, bool growing, int64 deadline)
{
	bool settled;

	ConditionVariablePrepareToSleep(PLACE(index));
	while (!(settled = isSettled(index, growing)))
	{
		long left = ClockMillisecondsUntil(deadline);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(PLACE(index), left, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return settled;
}

/*
 * Waits until nobody loads the pinned meter any more; false: the time is over.
 * Can be cancelled.
 */
bool
MeterWait(MeterIndex meter, int64 deadline)
{
	return waitUntilSettled(meter, false, deadline);
}

/* Takes an empty ring; false: all are in use. */
static bool
takeRing(uint32 window, int64 now, Ring **ring)
{
	bool taken;

	LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
	while (control->free_ring == METER_NONE && evictOne())
		;
	taken = (control->free_ring != METER_NONE);
	if (taken)
	{
		int32 index = control->free_ring;

		control->free_ring = next_rings[index];
		control->free_rings--;
		loading_rings[loading_ring_count++] = index;
		*ring = RING(index);
	}
	LWLockRelease(ALLOCATION_LOCK);
	if (taken)
		RingInit(*ring, window, now);
	return taken;
}

/*
 * Drops the rings of a blocked meter that these limits have no use for: it may
 * not have more than LIMITS_MAX.
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
	meter->levels = 0; /* told again: better than not told */
	SpinLockRelease(&meter->mutex);

	LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
	while (dropped_count > 0)
		freeRing(dropped[--dropped_count]);
	LWLockRelease(ALLOCATION_LOCK);
}

static void
addWindow(MeterAdjustments *adjustments, uint32 window)
{
	Assert(adjustments->count < lengthof(adjustments->windows));
	adjustments->windows[adjustments->count++] = (MeterAdjustment){.window = window};
}

/*
 * Prepares a reading of the adjustments of a pinned meter, by a snapshot taken
 * after this.
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
 * Returns the units that a subject has used since a reset; one of more units
 * than it has used says nothing.
 */
int64
MeterUnitsSince(int64 total, int64 counts_from)
{
	return counts_from > total ? total : total - counts_from;
}

/*
 * Makes the meter what its adjustments say; false: they have been read too
 * early.  The mutex is held.
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
 * Publishes a reading of the adjustments; false: it is out of date, and the
 * caller shall read again.
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
 * Returns the subject's meter with its mutex and, in *lock, its part of the
 * hash locked, so that it stays the subject's; NULL: it has none, and nothing
 * is locked.
 */
static MeterShared *
lockMeter(const MeterSubject *subject, LWLock **lock)
{
	uint32 hash;
	MeterEntry *entry;

	if (control == NULL)
		return NULL;
	hash = get_hash_value(subjects, subject);
	*lock = PARTITION_LOCK(hash);
	LWLockAcquire(*lock, LW_SHARED);
	entry = hash_search_with_hash_value(subjects, subject, hash, HASH_FIND, NULL);
	if (entry == NULL)
	{
		LWLockRelease(*lock);
		return NULL;
	}
	SpinLockAcquire(&METER(entry->meter)->mutex);
	return METER(entry->meter);
}

static void
unlockMeter(MeterShared *meter, LWLock *lock)
{
	SpinLockRelease(&meter->mutex);
	LWLockRelease(lock);
}

/*
 * Has the adjustments of a subject read again before its meter, if there is
 * one, decides about anything more.  Cannot throw.
 */
void
MeterAdjusted(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = lockMeter(subject, &lock);

	if (meter == NULL)
		return;
	meter->version++;
	meter->adjusted_until = ADJUST_NOW;
	unlockMeter(meter, lock);
}

/*
 * Prepares the load of a meter that MeterPrepare has told the caller to load:
 * waits until nothing is pending in it and takes the rings it lacks.  The
 * caller fills them from the tables, by a snapshot taken after this, and calls
 * MeterLoadEnd.  False: the time is over or there is no room; the load is given
 * up.  Can be cancelled.  The caller wakes the writer before, so that the wait
 * is short.
 */
bool
MeterLoadBegin(MeterIndex index, const LimitSet *limits, int64 deadline, MeterLoading *loading)
{
	MeterShared *meter = METER(index);

	Assert(loading_meter == index);
	loading->meter = index;
	loading->whole = (meter->state == STATE_LOADING);
	loading->count = 0;
	loading->total = 0;
	loading->used = false;
	if (!loading->whole && !waitUntilSettled(index, true, deadline))
	{
		abandonLoad();
		return false;
	}

	/*
	 * Read only now that nothing is admitted: units that a ring takes for older
	 * than they are come back early.
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
			abandonLoad();
			return false;
		}
		loading->windows[loading->count++] = window;
	}
	MeterAdjustBegin(index, &loading->adjustments);
	for (int i = 0; i < loading->count; i++)
		addWindow(&loading->adjustments, loading->windows[i]);
	return true;
}

/* Publishes what was loaded: the meter is ready. */
void
MeterLoadEnd(const MeterLoading *loading)
{
	MeterShared *meter = METER(loading->meter);

	Assert(loading_meter == loading->meter && loading_ring_count == loading->count);
	SpinLockAcquire(&meter->mutex);
	for (int i = 0; i < loading->count; i++)
	{
		meter->windows[meter->ring_count] = loading->windows[i];
		meter->granted[meter->ring_count] = 0;
		meter->rings[meter->ring_count++] = loading_rings[i];
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
	loading_ring_count = 0;
	loading_meter = METER_NONE;
	ConditionVariableBroadcast(PLACE(loading->meter));
}

/* Returns the units used of a limit; the mutex is held. */
static inline int64
usedOf(MeterShared *meter, const UsageLimit *limit, int64 now)
{
	if (limit->window == LIMIT_WINDOW_TOTAL)
		return meter->total - meter->counts_from;
	return (int64) RingUsed(RING(findRing(meter, limit->window)), now);
}

/*
 * Returns a cap with what is granted on top, as far as the type limits reaches:
 * a ring can count no more.
 */
int64
MeterCap(const UsageLimit *limit, int64 granted)
{
	return Min(limit->cap + granted,
			   limit->window == LIMIT_WINDOW_TOTAL ? LIMIT_CAP_TOTAL_MAX : LIMIT_CAP_MAX);
}

/* Returns what is granted above the cap of a limit; the mutex is held. */
static int64
grantedOf(const MeterShared *meter, const UsageLimit *limit)
{
	if (limit->window == LIMIT_WINDOW_TOTAL)
		return meter->granted_total;
	for (int i = 0; i < meter->ring_count; i++)
		if (meter->windows[i] == limit->window)
			return meter->granted[i];
	return 0;
}

/* Returns the limit with what is granted on top; the mutex is held. */
static inline UsageLimit
grantedLimit(const MeterShared *meter, const UsageLimit *limit)
{
	UsageLimit granted = *limit;

	if (unlikely(meter->adjusted_until != METER_FOR_EVER))
		granted.cap = MeterCap(limit, grantedOf(meter, limit));
	return granted;
}

/*
 * Tells whether the adjustments of a ready meter hold at that time; if not,
 * they will be read again.  The mutex is held.
 */
static inline bool
isAdjusted(MeterShared *meter, int64 now)
{
	if (likely(now < meter->adjusted_until))
		return true;
	meter->adjusted_until = ADJUST_NOW;
	/* so that the next reading takes the grant for ended */
	meter->latest = Max(now, meter->latest);
	return false;
}

/* Tells how much of a limit is used. */
static inline uint32
levelOf(int64 used, int64 cap)
{
	if (likely(used * 5 < cap * 4) || cap == 0)
		return LEVEL_FAR;
	return used < cap ? LEVEL_NEAR : LEVEL_REACHED;
}

/*
 * Returns where the level of a window's limit stands in levels: by its ring's
 * position, that of the total last.
 */
static uint32
levelShift(const MeterShared *meter, uint32 window)
{
	int position = 0;

	while (position < meter->ring_count && meter->windows[position] != window)
		position++;
	return LEVEL_BITS * (window == LIMIT_WINDOW_TOTAL ? LIMITS_MAX : position);
}

/* Tells whether the level of a limit is another than the one last told of. */
static inline bool
isNews(const MeterShared *meter, uint32 window, uint32 level)
{
	return (level != LEVEL_FAR || meter->levels != 0) &&
		   unlikely(level != ((meter->levels >> levelShift(meter, window)) & LEVEL_MASK));
}

/*
 * Takes note of the levels of a meter's limits, and in the decision of those
 * that have risen: the caller tells of them.  Before units are added; the
 * mutex is held.
 */
static void
noteLevels(MeterShared *meter, const LimitSet *limits, uint32 cost, bool admitted, bool of_account,
		   MeterDecision *decision)
{
	for (int i = 0; i < limits->count; i++)
	{
		UsageLimit limit = grantedLimit(meter, &limits->limits[i]);
		int64 used = usedOf(meter, &limit, decision->at) + (admitted ? cost : 0);
		uint32 shift = levelShift(meter, limit.window);
		uint32 level = levelOf(used, limit.cap);

		if (!admitted)
		{
			if (limit.cap == 0 || used + Max(cost, 1) <= limit.cap)
				continue;
			level = LEVEL_REACHED; /* what is left is too little */
		}
		if (level > ((meter->levels >> shift) & LEVEL_MASK))
			decision->marks[decision->mark_count++] =
				(MeterMark){limit, used, of_account, level == LEVEL_REACHED};
		meter->levels = (meter->levels & ~(LEVEL_MASK << shift)) | level << shift;
	}
}

/*
 * Forgets which levels of a subject's limits were told of: that was in vain.
 * Cannot throw.
 */
void
MeterForgetLevels(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = lockMeter(subject, &lock);

	if (meter == NULL)
		return;
	meter->levels = 0;
	unlockMeter(meter, lock);
}

/*
 * Keeps the limit if it is tighter (less remaining / cap) than the one kept so
 * far.
 */
static inline void
keepTightest(MeterDecision *decision, const UsageLimit *limit, int64 remaining, bool of_account)
{
	if (decision->limited && (double) remaining * Max(decision->limit.cap, 1) >=
								 (double) decision->remaining * Max(limit->cap, 1))
		return;
	decision->limited = true;
	decision->of_account = of_account;
	decision->limit = *limit;
	decision->remaining = remaining;
}

/*
 * Returns how long it takes until a limit has room for so many units; the mutex
 * is held.
 */
static int64
roomAfter(MeterShared *meter, const UsageLimit *limit, uint32 units, int64 now)
{
	if (usedOf(meter, limit, now) + units <= limit->cap)
		return 0;
	if (limit->window == LIMIT_WINDOW_TOTAL || units > limit->cap)
		return RING_NEVER;
	return RingFreeAfter(RING(findRing(meter, limit->window)), now, limit->cap - units);
}

static int64
later(int64 wait, int64 other)
{
	return wait == RING_NEVER || other == RING_NEVER ? RING_NEVER : Max(wait, other);
}

/*
 * Looks whether all limits of one meter leave room for the request.  The
 * decision keeps the limit that would be tightest after it as long as none
 * fails, then the first that failed, and the longest of the waits.
 */
static bool
leavesRoom(MeterShared *meter, const LimitSet *limits, uint32 cost, bool of_account, bool failed,
		   MeterDecision *decision)
{
	uint32 units = Max(cost, 1);
	int64 now = decision->at;

	for (int i = 0; i < limits->count; i++)
	{
		UsageLimit limit = grantedLimit(meter, &limits->limits[i]);
		int64 used = usedOf(meter, &limit, now);

		if (used + units <= limit.cap)
		{
			decision->has_news |= isNews(meter, limit.window, levelOf(used + cost, limit.cap));
			if (!failed)
				keepTightest(decision, &limit, limit.cap - used - cost, of_account);
			continue;
		}
		if (!failed)
		{
			failed = true;
			decision->limited = true;
			decision->of_account = of_account;
			decision->limit = limit;
			decision->remaining = Max(limit.cap - used, 0);
			decision->retry_after = 0;
		}
		decision->has_news |= isNews(meter, limit.window, LEVEL_REACHED);
		decision->retry_after = later(decision->retry_after, roomAfter(meter, &limit, units, now));
	}
	return !failed;
}

/*
 * Puts a retry off that would come when the grants of a meter have begun to
 * end, until there is room without any.  So it may be put off longer than
 * needed where several grants end at different times.
 */
static void
retryUngranted(MeterShared *meter, const LimitSet *limits, uint32 units, MeterDecision *decision)
{
	if (decision->retry_after == RING_NEVER ||
		decision->at + decision->retry_after < meter->adjusted_until)
		return;
	for (int i = 0; i < limits->count; i++)
		decision->retry_after =
			later(decision->retry_after, roomAfter(meter, &limits->limits[i], units, decision->at));
}

static void
addUnits(MeterShared *meter, uint32 units, int64 now)
{
	meter->total += units;
	for (int i = 0; i < meter->ring_count; i++)
		RingAdd(RING(meter->rings[i]), now, units);
}

/* Locks two meters; whose they are is not known before. */
static void
lockBoth(MeterIndex a, MeterIndex b)
{
	SpinLockAcquire(&METER(Min(a, b))->mutex);
	SpinLockAcquire(&METER(Max(a, b))->mutex);
}

/*
 * Tells whether the meter is this subject's and can be asked about these
 * limits; the mutex is held.
 */
static bool
isReadyFor(const MeterShared *meter, const MeterSubject *subject, const LimitSet *limits)
{
	return meter->state == STATE_READY && memcmp(&meter->subject, subject, sizeof(*subject)) == 0 &&
		   hasRings(meter, limits);
}

/*
 * Decides about a request by two meters that are ready and locked:
 * METER_FIRST_USE, METER_DENIED, METER_ADMISSIBLE or METER_ADMITTED.
 */
static MeterOutcome
decide(const MeterRequest *request, MeterShared *account, MeterShared *key, MeterDecision *decision)
{
	bool room;

	if (request->queued ? !key->used && !request->first_use_locked : !key->use_durable)
		return METER_FIRST_USE;
	if (request->denied)
		return METER_DENIED;
	room = leavesRoom(account, request->account_limits, request->cost, true, false, decision);
	room = leavesRoom(key, request->key_limits, request->cost, false, !room, decision);
	if (room)
		return request->deny_only ? METER_ADMISSIBLE : METER_ADMITTED;
	/*
	 * The account again: what the key adds may put the retry beyond grants of
	 * the account.
	 */
	retryUngranted(account, request->account_limits, Max(request->cost, 1), decision);
	retryUngranted(key, request->key_limits, Max(request->cost, 1), decision);
	retryUngranted(account, request->account_limits, Max(request->cost, 1), decision);
	return METER_DENIED;
}

/*
 * Takes note of a request that is admitted or denied, in both meters and the
 * decision.
 */
static void
takeNote(const MeterRequest *request, MeterShared *account, MeterShared *key, bool admitted,
		 MeterDecision *decision)
{
	if (unlikely(decision->has_news) && request->queued)
	{
		noteLevels(account, request->account_limits, request->cost, admitted, true, decision);
		noteLevels(key, request->key_limits, request->cost, admitted, false, decision);
	}
	if (admitted)
	{
		addUnits(account, request->cost, decision->at);
		addUnits(key, request->cost, decision->at);
		if (!request->queued)
		{
			account->unrecorded += request->cost;
			key->unrecorded += request->cost;
		}
	}
	if (decision->limited && decision->limit.window != LIMIT_WINDOW_TOTAL)
		decision->reset_after = RingResetAfter(
			RING(findRing(decision->of_account ? account : key, decision->limit.window)),
			decision->at);
	decision->use_durable = key->use_durable;
	if (request->queued)
	{
		decision->first_use = !key->used;
		key->used = true;
		account->pending++;
		key->pending++;
	}
}

/*
 * Decides about a request by all limits of its account and its key together,
 * and records it: all or nothing.  Requests of one subject are admitted in the
 * order of their times, whatever clock readings come late: a trace of them
 * shows no window over its cap.  A cost of 0 takes no units and is answered as
 * one unit would be.  Interrupts are held by the caller, who appends the event
 * next if request->queued.
 */
MeterOutcome
MeterAdmit(const MeterRequest *request, MeterDecision *decision)
{
	MeterShared *account = METER(request->account);
	MeterShared *key = METER(request->key);
	MeterOutcome outcome = METER_NOT_READY;

	Assert(InterruptHoldoffCount > 0);
	memset(decision, 0, offsetof(MeterDecision, marks));
	decision->reset_after = decision->retry_after = RING_NEVER;

	if (unlikely(request->account == request->key))
		return METER_NOT_READY; /* one of them is out of date */
	lockBoth(request->account, request->key);
	decision->at = Max(request->now, Max(account->latest, key->latest));
	if (isReadyFor(account, &request->account_subject, request->account_limits) &&
		isReadyFor(key, &request->key_subject, request->key_limits) &&
		isAdjusted(account, decision->at) && isAdjusted(key, decision->at))
	{
		outcome = decide(request, account, key, decision);
		account->latest = key->latest = decision->at;
		account->referenced = key->referenced = true;
	}
	if (outcome == METER_ADMITTED || outcome == METER_DENIED)
		takeNote(request, account, key, outcome == METER_ADMITTED, decision);
	SpinLockRelease(&key->mutex);
	SpinLockRelease(&account->mutex);
	return outcome;
}

/*
 * Tells whether any request of a pinned and ready key is on record or pending.
 */
bool
MeterIsUsed(MeterIndex index)
{
	MeterShared *meter = METER(index);
	bool used;

	SpinLockAcquire(&meter->mutex);
	used = meter->used;
	SpinLockRelease(&meter->mutex);
	return used;
}

/*
 * Gives the cap of a limit with what is granted on top, the units used of a
 * pinned meter, and the engine time when some come back, RING_NEVER if none do;
 * false: the meter is not ready.
 */
bool
MeterRead(MeterIndex index, const UsageLimit *limit, int64 now, int64 *cap, int64 *used,
		  int64 *free_at)
{
	MeterShared *meter = METER(index);
	LimitSet one = {.count = 1};
	bool ready;

	one.limits[0] = *limit;
	SpinLockAcquire(&meter->mutex);
	now = Max(now, meter->latest);
	ready = meter->state == STATE_READY && hasRings(meter, &one) && isAdjusted(meter, now);
	if (ready)
	{
		meter->latest = now;
		*cap = grantedLimit(meter, limit).cap;
		*used = usedOf(meter, limit, now);
		*free_at = limit->window == LIMIT_WINDOW_TOTAL ?
					   RING_NEVER :
					   RingResetAfter(RING(findRing(meter, limit->window)), now);
		if (*free_at != RING_NEVER)
			*free_at += now;
	}
	SpinLockRelease(&meter->mutex);
	return ready;
}

/*
 * Takes note that an event of the meter has been committed, or given up; if it
 * is unflushed, MeterSetDurable follows for it.  Cannot throw.
 */
void
MeterSettle(MeterIndex index, bool unflushed)
{
	MeterShared *meter = METER(index);
	bool wake;

	SpinLockAcquire(&meter->mutex);
	Assert(meter->pending > 0);
	meter->pending--;
	if (unflushed)
		meter->unflushed++;
	wake = (meter->pending == 0 && meter->state == STATE_GROWING);
	SpinLockRelease(&meter->mutex);
	if (wake)
		ConditionVariableBroadcast(PLACE(index));
}

/*
 * Takes note that an unflushed event would survive a crash, and the use of its
 * key with it; cannot throw.
 */
void
MeterSetDurable(MeterIndex index)
{
	MeterShared *meter = METER(index);

	SpinLockAcquire(&meter->mutex);
	Assert(meter->unflushed > 0);
	meter->unflushed--;
	meter->use_durable = true;
	SpinLockRelease(&meter->mutex);
}

/* Tells whether the subject has a meter; without shared memory none has. */
bool
MeterExists(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = lockMeter(subject, &lock);

	if (meter == NULL)
		return false;
	unlockMeter(meter, lock);
	return true;
}

/* Tells whether events of the subject are in the queue. */
bool
MeterHasPending(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = lockMeter(subject, &lock);
	bool pending;

	if (meter == NULL)
		return false;
	pending = meter->pending > 0;
	unlockMeter(meter, lock);
	return pending;
}

/* Tells whether events of any key of this database are in the queue. */
bool
MeterAnyPending(Oid relation)
{
	bool pending = false;

	for (int32 i = 0; control && i < control->meter_count && !pending; i++)
	{
		MeterShared *meter = METER(i);

		SpinLockAcquire(&meter->mutex);
		pending = meter->pending > 0 && meter->subject.kind == METER_KEY &&
				  meter->subject.relation == relation && meter->subject.database == MyDatabaseId;
		SpinLockRelease(&meter->mutex);
	}
	return pending;
}

/*
 * Finds the first meter of this database, from *index on, whose recorded units
 * (those that count for a limit on the total) should be those in the tables: it
 * is ready and nothing is pending.  False: there is none.
 */
bool
MeterNextSettled(Oid relation, MeterIndex *index, MeterSubject *subject, int64 *recorded)
{
	bool found = false;

	for (; control && *index < control->meter_count; (*index)++)
	{
		MeterShared *meter = METER(*index);

		SpinLockAcquire(&meter->mutex);
		found = (meter->state == STATE_READY || meter->state == STATE_GROWING) &&
				meter->pending == 0 && meter->adjusted_until != ADJUST_NOW &&
				meter->subject.relation == relation && meter->subject.database == MyDatabaseId;
		*subject = meter->subject;
		*recorded = meter->total - meter->counts_from - meter->unrecorded;
		SpinLockRelease(&meter->mutex);
		if (found)
			break;
	}
	return found;
}

/* Gives the figures for stats(). */
void
MeterStatisticsGet(MeterStatistics *statistics)
{
	LWLockAcquire(ALLOCATION_LOCK, LW_SHARED);
	statistics->meters_size = control->meter_count;
	statistics->meters_used = control->meter_count - control->free_meters;
	statistics->rings_size = control->ring_count;
	statistics->rings_used = control->ring_count - control->free_rings;
	statistics->evictions = control->evictions;
	LWLockRelease(ALLOCATION_LOCK);
}
