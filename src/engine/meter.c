/*
 * meter.c
 *	  Shared-memory counters of the units that a key or an account has used:
 *	  what decides about requests.
 *
 * A meter belongs to a subject.  It holds a ring for each window that the
 * subject's limits have, or had since it was loaded, and the units of all
 * time.  Caps are not kept: they come with each call from the row, which was
 * read under MVCC, so that a changed cap needs no invalidation.
 *
 * Three files share the meters, through meter_internal.h:
 *	meter.c			admits requests, reads, and retires events
 *	meterpool.c		the arrays in shared memory, the hash, pins, eviction
 *	meterload.c		the states of a meter, loading it, resets and grants
 *
 * Long: what MeterAdmit calls is here or inline, for each request calls it.
 *
 * Invariants:
 *	- tables + pending events + unrecorded units = the meter, from READY on:
 *	  an admission adds to the counters and to pending (or unrecorded) in one
 *	  critical section, and pending falls only after the commit that wrote
 *	  the events.  Unrecorded units vanish when the meter is loaded anew, and
 *	  a ring that is added has none of them.  Hence a load is right if and
 *	  only if pending is 0 when its snapshot is taken, and nothing is admitted
 *	  until it is published.
 *	- A load puts no unit into a ring before the instant of its use, and none
 *	  after the last use of the subject (request/usage.c): so none comes back
 *	  early, and all are back when the last use is older than the window and
 *	  its 128th part.
 *	- A reset of a window says how many units the subject had used in all by
 *	  then.  The units used since are the latest ones, and admissions are in
 *	  the order of their times: so the ring keeps its latest (total - that)
 *	  units.  This holds for a ring that lives on and for one loaded from the
 *	  tables, however coarse their steps; doing it again changes nothing.
 *	- Only a meter with no pin and nothing pending or unflushed is evicted.
 *	  Reloaded before WAL is flushed, it would take the visible row of its
 *	  first use for a durable one; given to another subject, it would count
 *	  the flush for that one.
 *
 * Locks, in this order: allocation lock (free lists, clock hand) -> partition
 * lock (one part of the hash) -> spinlock (mutex) of a meter; of two meters,
 * the one with the lower index first, since MeterAdmit learns whose they are
 * only then.  Under a spinlock there are only bounded steps that cannot throw,
 * allocate or wait.  Waits are on condition variables, with none of these
 * locks held.
 *
 * Most requests need neither the hash nor pins: their processes remember where
 * they have pinned the meters before, and MeterAdmit looks under the spinlocks
 * whether they are still there and ready.  From then on, the event that it
 * counts as pending keeps them from eviction.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "engine/meter_internal.h"

/* How much of a limit is used. */
#define LEVEL_FAR 0U
#define LEVEL_NEAR 1U	 /* 80 % */
#define LEVEL_REACHED 2U /* all, or so much that a request was denied */
#define LEVEL_BITS 2
#define LEVEL_MASK 3U

/* above all caps; what is computed of it does not overflow */
#define USED_MAX (LIMIT_CAP_TOTAL_MAX * 2)

StaticAssertDecl(LEVEL_BITS *(LIMITS_MAX + 1) <= 32, "the levels of a meter fit in a uint32");

/*
 * Tells the processor to fetch memory that is needed soon: several places at
 * the same time cost little more than one.
 */
static inline void
prefetch(const void *memory, size_t size)
{
#ifdef __GNUC__
	for (size_t i = 0; i < size; i += METER_CACHE_LINE)
		__builtin_prefetch((const char *) memory + i, 1);
#endif
}

/* Fetches a meter, unless METER_NONE, that MeterAdmit will need soon. */
void
MeterPrefetch(MeterIndex index)
{
	if (index != METER_NONE)
		prefetch(METER(index), 2 * METER_CACHE_LINE);
}

/*
 * Fetches the rings of a meter that was fetched before.  It is not locked: if
 * it changes meanwhile, the wrong memory is fetched, no more.
 */
void
MeterPrefetchRings(MeterIndex index)
{
	if (index != METER_NONE)
		for (int i = 0; i < LIMITS_MAX && i < METER(index)->ring_count; i++)
			prefetch(RING(METER(index)->rings[i]), METER_CACHE_LINE);
}

/*
 * Returns the units used of a limit, of a total no more than USED_MAX; the
 * mutex is held.
 */
static inline int64
usedOf(MeterShared *meter, const UsageLimit *limit, int64 now)
{
	if (limit->window == LIMIT_WINDOW_TOTAL)
		return Min(meter->total - meter->counts_from, USED_MAX);
	return (int64) RingUsed(RING(findRing(meter, limit->window)), now);
}

/*
 * Returns the cap that decides: with what is granted on top, as far as the
 * owner's cap allows and the type limits reaches (a ring can count no more).
 */
int64
MeterCap(const UsageLimit *limit, int64 granted)
{
	return Min(Min(limit->cap + granted, limit->ceiling),
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

/* Returns the limit with the cap that decides; the mutex is held. */
static inline UsageLimit
grantedLimit(const MeterShared *meter, const UsageLimit *limit)
{
	UsageLimit granted = *limit;

	if (unlikely(meter->adjusted_until != METER_FOR_EVER))
		granted.cap = MeterCap(limit, grantedOf(meter, limit));
	else
		granted.cap = Min(limit->cap, limit->ceiling);
	return granted;
}

/*
 * Tells whether the adjustments of a ready meter hold at that time; if not,
 * sees to it that they are read again.  The mutex is held.
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
 * Returns the position, in bits, of a limit's level in levels: LEVEL_BITS for
 * each ring of the meter, in their order; the total's are the last.
 */
static uint32
levelShift(const MeterShared *meter, uint32 window)
{
	int position = 0;

	while (position < meter->ring_count && meter->windows[position] != window)
		position++;
	return LEVEL_BITS * (window == LIMIT_WINDOW_TOTAL ? LIMITS_MAX : position);
}

/* Tells whether the level of a limit differs from the one last noticed. */
static inline bool
isNews(const MeterShared *meter, uint32 window, uint32 level)
{
	return (level != LEVEL_FAR || meter->levels != 0) &&
		   unlikely(level != ((meter->levels >> levelShift(meter, window)) & LEVEL_MASK));
}

/*
 * Notices the levels of a meter's limits, before units are added.  The rises
 * go into the decision: the caller records them.  The mutex is held.
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
			decision->rises[decision->rise_count++] =
				(MeterRise){limit, used, of_account, level == LEVEL_REACHED};
		meter->levels = (meter->levels & ~(LEVEL_MASK << shift)) | level << shift;
	}
}

/*
 * Forgets which levels of a subject's limits were noticed: their rises could
 * not be recorded, and the next requests shall notice them again.  Cannot
 * throw.
 */
void
MeterForgetLevels(const MeterSubject *subject)
{
	LWLock *lock;
	MeterShared *meter = MeterLock(subject, &lock);

	if (meter == NULL)
		return;
	meter->levels = 0;
	MeterUnlock(meter, lock);
}

/*
 * Makes the limit the decision's if it is tighter (less remaining / cap) than
 * the decision's so far.
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
 * Tells whether all limits of one meter leave room for the request; failed: a
 * limit of the other meter did not.  As long as none has failed, the decision's
 * limit is the tightest after the request; then it is the first that failed,
 * and its retry_after the longest of all waits.
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
 * If grants of the meter have ended when the retry comes, puts it off until
 * there is room without any grant.  Where several grants end at different
 * times, this may be later than needed.
 */
static void
retryUngranted(MeterShared *meter, const LimitSet *limits, uint32 units, MeterDecision *decision)
{
	if (decision->retry_after == RING_NEVER ||
		decision->at + decision->retry_after < meter->adjusted_until)
		return;
	for (int i = 0; i < limits->count; i++)
	{
		UsageLimit limit = limits->limits[i];

		limit.cap = MeterCap(&limit, 0);
		decision->retry_after =
			later(decision->retry_after, roomAfter(meter, &limit, units, decision->at));
	}
}

static void
addUnits(MeterShared *meter, uint32 units, int64 now)
{
	meter->total += Min(units, PG_INT64_MAX - meter->total);
	for (int i = 0; i < meter->ring_count; i++)
		RingAdd(RING(meter->rings[i]), now, units);
}

/* Locks two meters in the order of their indexes. */
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
	 * The account twice: the key may put the retry off to a time when grants of
	 * the account have ended.
	 */
	retryUngranted(account, request->account_limits, Max(request->cost, 1), decision);
	retryUngranted(key, request->key_limits, Max(request->cost, 1), decision);
	retryUngranted(account, request->account_limits, Max(request->cost, 1), decision);
	return METER_DENIED;
}

/* Notes a decision about a request in both meters, and completes it. */
static void
noteDecision(const MeterRequest *request, MeterShared *account, MeterShared *key, bool admitted,
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
 * and counts it in both meters or in none.  Requests of one subject are
 * admitted in the order of their times, even where a clock reading comes late:
 * so their times show no window over its cap.  A cost of 0 takes no units and
 * is answered like a cost of 1.  The caller holds interrupts and, if
 * request->queued, appends the event next.
 */
MeterOutcome
MeterAdmit(const MeterRequest *request, MeterDecision *decision)
{
	MeterShared *account = METER(request->account);
	MeterShared *key = METER(request->key);
	MeterOutcome outcome = METER_NOT_READY;

	Assert(InterruptHoldoffCount > 0);
	memset(decision, 0, offsetof(MeterDecision, rises));
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
		noteDecision(request, account, key, outcome == METER_ADMITTED, decision);
	SpinLockRelease(&key->mutex);
	SpinLockRelease(&account->mutex);
	return outcome;
}

/* Tells whether a request of a pinned and ready key is on record or pending. */
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
 * Copies what a subject's meter has of these limits, and changes nothing: not
 * even a ring is moved on.  A reset that the meter has not read yet is not in
 * the copy.  False: the meter is not loaded.  Waits for nothing and pins
 * nothing.
 */
bool
MeterRead(const MeterSubject *subject, const LimitSet *limits, MeterReading *reading)
{
	LWLock *lock;
	MeterShared *meter = MeterLock(subject, &lock);
	bool loaded;

	if (meter == NULL)
		return false;
	loaded = (meter->state == STATE_READY || meter->state == STATE_GROWING);
	if (loaded)
	{
		reading->latest = meter->latest;
		reading->total = meter->total;
		reading->recorded = meter->total - meter->unrecorded;
		for (int i = 0; i < limits->count; i++)
		{
			int32 ring = findRing(meter, limits->limits[i].window);

			reading->has_ring[i] = (ring != METER_NONE);
			if (reading->has_ring[i])
				reading->rings[i] = *RING(ring);
		}
	}
	MeterUnlock(meter, lock);
	return loaded;
}

/*
 * Retires an event of the meter: it was committed or given up, and is pending
 * no more.  If it is unflushed, MeterSetDurable follows for it.  Cannot throw.
 */
void
MeterRetire(MeterIndex index, bool unflushed)
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
 * Notes that an unflushed event would survive a crash, and with it the use of
 * its key.  Cannot throw.
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
