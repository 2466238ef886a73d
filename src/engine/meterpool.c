/*
 * meterpool.c
 *	  The shared memory of the meters: arrays, hash, pins and eviction.
 *
 * Everything lies in fixed arrays sized by apikeys.meter_memory: meters,
 * rings, and a hash from subject to meter.  When no meter or ring is free, a
 * clock hand evicts a meter that nobody needs, with its rings.  What was
 * evicted is loaded from the tables when it is needed again.
 *
 * A pin keeps a meter where it is.  It is counted in the meter and noted in
 * the process, which gives all its pins back at the end of the call, at abort
 * and in before_shmem_exit.
 *
 * meter.c has the invariants and the order of the locks.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"

#include "engine/meter_internal.h"

#define PARTITIONS 32
#define RINGS_PER_METER 3 /* day, week, month: what most keys have; total needs none */
#define TRANCHE "apikeys_meter"

typedef struct MeterEntry
{
	MeterSubject subject; /* hash key */
	MeterIndex meter;
} MeterEntry;

int MeterMemory = 64 * 1024;

MeterControlShared *MeterControl = NULL;
MeterPadded *MeterArray;
RingPadded *MeterRings;
MeterHoldings MeterHeld = {.loading = METER_NONE};

static int32 *next_rings; /* free list; under the allocation lock */
static HTAB *subjects;
static LWLockPadded *locks; /* of the partitions, then of the allocation */

#define ALLOCATION_LOCK (&locks[PARTITIONS].lock)
#define PARTITION_LOCK(hash) (&locks[(hash) % PARTITIONS].lock)

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

	MeterHeld = (MeterHoldings){.loading = METER_NONE};

	MeterControl = ShmemInitStruct("apikeys meter control", sizeof(MeterControlShared), &found);
	MeterArray = ShmemInitStruct("apikeys meters", count * sizeof(MeterPadded), &found);
	MeterRings = ShmemInitStruct("apikeys rings",
								 mul_size(count * RINGS_PER_METER, sizeof(RingPadded)), &found);
	next_rings = ShmemInitStruct("apikeys free rings",
								 mul_size(count * RINGS_PER_METER, sizeof(int32)), &found);
	subjects = ShmemInitHash("apikeys subjects", count, count, &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_PARTITION | HASH_FIXED_SIZE);
	locks = GetNamedLWLockTranche(TRANCHE);
	if (found)
		return;

	MeterControl->meter_count = MeterControl->free_meters = count;
	MeterControl->ring_count = MeterControl->free_rings = count * RINGS_PER_METER;
	MeterControl->free_meter = MeterControl->free_ring = MeterControl->hand = 0;
	MeterControl->evictions = 0;
	for (int i = 0; i < METER_PLACES; i++)
		ConditionVariableInit(&MeterControl->places[i]);
	for (int32 i = 0; i < MeterControl->meter_count; i++)
	{
		memset(METER(i), 0, sizeof(MeterShared));
		SpinLockInit(&METER(i)->mutex);
		METER(i)->state = STATE_FREE;
		METER(i)->next_free = (i + 1 < MeterControl->meter_count) ? i + 1 : METER_NONE;
	}
	for (int32 i = 0; i < MeterControl->ring_count; i++)
		next_rings[i] = (i + 1 < MeterControl->ring_count) ? i + 1 : METER_NONE;
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

/* Frees a ring; the allocation lock is held. */
static void
freeRing(int32 ring)
{
	next_rings[ring] = MeterControl->free_ring;
	MeterControl->free_ring = ring;
	MeterControl->free_rings++;
}

/*
 * Evicts the next meter under the clock hand that nobody needs, with its rings;
 * false: there is none.  The allocation lock is held.
 */
static bool
evictOne(void)
{
	for (int32 step = 0; step < 2 * MeterControl->meter_count; step++)
	{
		MeterIndex index = MeterControl->hand;
		MeterShared *meter = METER(index);
		MeterSubject subject;
		uint32 hash;
		bool evictable;

		MeterControl->hand = (MeterControl->hand + 1) % MeterControl->meter_count;

		SpinLockAcquire(&meter->mutex);
		evictable = (meter->state == STATE_READY || meter->state == STATE_EMPTY) &&
					meter->pins == 0 && meter->pending == 0 && meter->unflushed == 0 &&
					!meter->referenced;
		meter->referenced = false;
		subject = meter->subject;
		SpinLockRelease(&meter->mutex);
		if (!evictable)
			continue;

		/* Look again with the partition locked: it may have been pinned. */
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
		meter->next_free = MeterControl->free_meter;
		MeterControl->free_meter = index;
		MeterControl->free_meters++;
		MeterControl->evictions++;
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
	if (MeterControl->free_meter != METER_NONE || evictOne())
	{
		index = MeterControl->free_meter;
		MeterControl->free_meter = METER(index)->next_free;
		MeterControl->free_meters--;
	}
	LWLockRelease(ALLOCATION_LOCK);
	return index;
}

static void
giveMeterBack(MeterIndex index)
{
	LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
	METER(index)->next_free = MeterControl->free_meter;
	MeterControl->free_meter = index;
	MeterControl->free_meters++;
	LWLockRelease(ALLOCATION_LOCK);
}

/* Counts and notes a pin; the mutex is held. */
static inline void
pin(MeterIndex index)
{
	METER(index)->pins++;
	METER(index)->referenced = true;
	MeterHeld.pins[MeterHeld.pin_count++] = index;
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

/* Takes a free ring, evicting meters if need be; METER_NONE: all are in use. */
int32
MeterTakeRing(void)
{
	int32 ring;

	LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
	while (MeterControl->free_ring == METER_NONE && evictOne())
		;
	ring = MeterControl->free_ring;
	if (ring != METER_NONE)
	{
		MeterControl->free_ring = next_rings[ring];
		MeterControl->free_rings--;
	}
	LWLockRelease(ALLOCATION_LOCK);
	return ring;
}

/* Gives rings back that no meter has any more. */
void
MeterFreeRings(const int32 *rings, int count)
{
	if (count == 0)
		return;
	LWLockAcquire(ALLOCATION_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < count; i++)
		freeRing(rings[i]);
	LWLockRelease(ALLOCATION_LOCK);
}

/*
 * Pins the subject's meter, making one if there is none; METER_NONE: all meters
 * are in use.
 */
MeterIndex
MeterPin(const MeterSubject *subject)
{
	MeterIndex index;

	if (MeterHeld.pin_count == METER_PINS_MAX)
		elog(ERROR, "too many meters pinned");
	HOLD_INTERRUPTS();
	index = findOrEnter(subject);
	RESUME_INTERRUPTS();
	return index;
}

/*
 * Gives back all that this process holds of meters, a load that it has begun
 * included; at the end of a call, however it ended.
 */
void
MeterUnpinAll(void)
{
	MeterLoadAbandon();
	while (MeterHeld.pin_count > 0)
	{
		MeterShared *meter = METER(MeterHeld.pins[--MeterHeld.pin_count]);

		SpinLockAcquire(&meter->mutex);
		meter->pins--;
		SpinLockRelease(&meter->mutex);
	}
}

/*
 * Returns the subject's meter, with its mutex and its partition (*lock) locked,
 * so that it stays the subject's; NULL: it has none, and nothing is locked.
 * Cannot throw.
 */
MeterShared *
MeterLock(const MeterSubject *subject, LWLock **lock)
{
	uint32 hash;
	MeterEntry *entry;

	if (MeterControl == NULL)
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

void
MeterUnlock(MeterShared *meter, LWLock *lock)
{
	SpinLockRelease(&meter->mutex);
	LWLockRelease(lock);
}

/* Tells whether the subject has a meter; without shared memory none has. */
bool
MeterExists(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = MeterLock(subject, &lock);

	if (meter == NULL)
		return false;
	MeterUnlock(meter, lock);
	return true;
}

/* Tells whether events of the subject are in the queue. */
bool
MeterHasPending(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = MeterLock(subject, &lock);
	bool pending;

	if (meter == NULL)
		return false;
	pending = meter->pending > 0;
	MeterUnlock(meter, lock);
	return pending;
}

/* Tells whether events of any key of this database are in the queue. */
bool
MeterAnyPending(Oid relation)
{
	bool pending = false;

	for (int32 i = 0; MeterControl && i < MeterControl->meter_count && !pending; i++)
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
 * Finds the next idle meter of this database, from *index on: it is ready and
 * nothing is pending.  *recorded are its recorded units that count for a limit
 * on the total; the tables should have as many.  False: there is none.
 */
bool
MeterNextIdle(Oid relation, MeterIndex *index, MeterSubject *subject, int64 *recorded)
{
	bool found = false;

	for (; MeterControl && *index < MeterControl->meter_count; (*index)++)
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
	statistics->meters_size = MeterControl->meter_count;
	statistics->meters_used = MeterControl->meter_count - MeterControl->free_meters;
	statistics->rings_size = MeterControl->ring_count;
	statistics->rings_used = MeterControl->ring_count - MeterControl->free_rings;
	statistics->evictions = MeterControl->evictions;
	LWLockRelease(ALLOCATION_LOCK);
}
