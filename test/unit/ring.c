/*
 * ring.c
 *	  The ring against an oracle that keeps every recorded unit with its
 *	  nanosecond.
 *
 * The oracle knows no buckets.  It holds the ring to three bounds on what
 * counts at an instant T, the greatest so far: at least what was recorded in
 * [T-W, T], at most what was recorded in (T-W-w, T], and exactly what the
 * release rule of ring.c's head comment says.  Each admission is checked
 * against the cap over its trailing window, each wait by looking at a copy of
 * the ring one nanosecond before its end, and at its end.
 */
#include "c.h"

#include "common/pg_prng.h"

#include "pure/ring.h"
#include "unit.h"

#define OPERATIONS 1000000
#define EPISODE_OPERATIONS 1000 /* with one window and one cap */
#define SECOND INT64CONST(1000000000)
#define DAY (86400 * SECOND)
#define YEAR (365 * DAY)
#define LATEST (190 * YEAR)

/* Units and when they were recorded. */
typedef struct Record
{
	int64 at;
	int64 release;
	uint64 units;
} Record;

typedef struct Oracle
{
	int64 window;	/* nanoseconds */
	int64 lateness; /* the greatest allowed */
	int64 now;		/* the greatest so far */
	int first;		/* earlier records are of no more interest */
	int count;
	Record records[EPISODE_OPERATIONS]; /* by at */
} Oracle;

static Oracle oracle;
static pg_prng_state prng;
static const char *broken; /* what first did not hold in this episode */

#define STRING(x) #x
#define LINE(x) STRING(x)
#define HOLDS(condition) \
	do \
	{ \
		if (!(condition) && broken == NULL) \
			broken = "line " LINE(__LINE__) ": " #condition; \
	} while (0)

/* Return a random number from 0 to n - 1. */
static int64
below(uint64 n)
{
	return (int64) pg_prng_uint64_range(&prng, 0, n - 1);
}

static int64
floorDivide(int64 a, int64 b)
{
	return a / b - (a % b < 0);
}

static void
oracleInit(uint32 window_seconds, int64 now)
{
	oracle.window = window_seconds * SECOND;
	oracle.lateness = oracle.window / 128;
	oracle.now = now;
	oracle.first = oracle.count = 0;
}

static void
oracleAdvance(int64 now)
{
	oracle.now = Max(oracle.now, now);
	while (oracle.first < oracle.count &&
		   oracle.records[oracle.first].at <= oracle.now - 2 * oracle.window)
		oracle.first++;
}

static void
oracleRecord(int64 at, uint64 units)
{
	int i = oracle.count++;

	at = Min(at, oracle.now);
	for (; i > oracle.first && oracle.records[i - 1].at > at; i--)
		oracle.records[i] = oracle.records[i - 1];
	oracle.records[i].at = at;
	oracle.records[i].release = (floorDivide(at, oracle.lateness) + 129) * oracle.lateness;
	oracle.records[i].units = units;
}

/* Returns the units recorded at an instant or later. */
static uint64
oracleSince(int64 instant)
{
	uint64 units = 0;

	for (int i = oracle.count; i > oracle.first && oracle.records[i - 1].at >= instant; i--)
		units += oracle.records[i - 1].units;
	return units;
}

/* Returns the units that count by the release rule. */
static uint64
oracleUsed(void)
{
	uint64 units = 0;

	for (int i = oracle.first; i < oracle.count; i++)
		if (oracle.records[i].release > oracle.now)
			units += oracle.records[i].units;
	return units;
}

/* Forgets what was recorded first, as far as more than so many units count. */
static void
oracleKeepLatest(uint64 units)
{
	uint64 used = oracleUsed();

	for (int i = oracle.first; i < oracle.count && used > units; i++)
	{
		uint64 forgotten = Min(oracle.records[i].units, used - units);

		if (oracle.records[i].release <= oracle.now)
			continue;
		oracle.records[i].units -= forgotten;
		used -= forgotten;
	}
}

/*
 * Returns the first instant at which no more than at_most units count, if that
 * is not so now.
 */
static int64
oracleFree(uint64 at_most)
{
	uint64 units = oracleUsed();

	for (int i = oracle.first; i < oracle.count; i++)
	{
		if (oracle.records[i].release <= oracle.now)
			continue;
		units -= oracle.records[i].units;
		if (units <= at_most)
			return oracle.records[i].release;
	}
	return -1;
}

static uint64
usedAt(const Ring *ring, int64 now)
{
	Ring copy = *ring;

	return RingUsed(&copy, now);
}

static void
checkUsed(Ring *ring, int64 now)
{
	uint64 used = RingUsed(ring, now);

	HOLDS(used >= oracleSince(oracle.now - oracle.window));
	HOLDS(used <= oracleSince(oracle.now - oracle.window - oracle.lateness + 1));
	HOLDS(used == oracleUsed());
}

static void
checkFreeAfter(Ring *ring, int64 now, uint64 at_most)
{
	int64 wait = RingFreeAfter(ring, now, at_most);

	if (RingUsed(ring, now) <= at_most)
		HOLDS(wait == 0);
	else
	{
		HOLDS(wait > 0 && now + wait == oracleFree(at_most));
		HOLDS(usedAt(ring, now + wait - 1) > at_most);
		HOLDS(usedAt(ring, now + wait) <= at_most);
	}
}

static void
checkResetAfter(Ring *ring, int64 now)
{
	int64 wait = RingResetAfter(ring, now);
	uint64 used = RingUsed(ring, now);

	if (used == 0)
		HOLDS(wait == RING_NEVER);
	else
	{
		HOLDS(wait > 0);
		HOLDS(usedAt(ring, now + wait - 1) == used);
		HOLDS(usedAt(ring, now + wait) < used);
	}
}

/*
 * Returns the next reading of the clock: it stands, creeps, jumps, goes back,
 * and likes the edges of buckets and windows. With a high pace it does little
 * but creep, and the ring gets full.
 */
static int64
nextNow(Ring *ring, int64 now, uint64 cap, uint64 pace)
{
	int64 nudge = below(3) - 1;

	if (below(pace) != 0)
		return oracle.now + below(oracle.lateness);

	switch (below(12))
	{
		case 0:
		case 1:
			return now;
		case 2:
			return oracle.now + below(1000);
		case 3:
			return oracle.now + below(oracle.lateness);
		case 4:
			return oracle.now + below(oracle.window);
		case 5:
			return (floorDivide(oracle.now, oracle.lateness) + 1 + below(3)) * oracle.lateness +
				   nudge;
		case 6: /* when some units leave the window, or had to be given back, or are */
		case 7:
			if (oracle.first < oracle.count)
			{
				Record *record = &oracle.records[oracle.first + below(oracle.count - oracle.first)];
				int64 edges[] = {record->at + oracle.window,
								 record->at + oracle.window + oracle.lateness, record->release};

				return Max(oracle.now, edges[below(lengthof(edges))] + nudge);
			}
			return now;
		case 8: /* when a call was told to come back */
			return oracle.now + RingFreeAfter(ring, oracle.now, below(cap + 1)) - below(2);
		case 9:
			return oracle.now + (128 + below(3)) * oracle.lateness + nudge;
		case 10:
			return oracle.now - below(2 * oracle.window);
		default:
			return below(16) == 0 ? oracle.now + below(20 * YEAR) : oracle.now - 1;
	}
}

/*
 * A step of an episode at a reading of the clock: a call that wants to be
 * admitted, or units that come back from the tables, or a reset.
 */
static void
step(Ring *ring, int64 now, uint64 cap)
{
	uint64 used = RingUsed(ring, now);

	if (below(64) == 0)
	{
		uint64 units = below(used + 2);

		RingKeepLatest(ring, units);
		oracleKeepLatest(units);
	}
	else if (below(16) == 0)
	{
		uint64 units = below(cap / 4 + 2);
		int64 at = now - below(oracle.window + 2 * oracle.lateness) + below(oracle.lateness);

		if (below(2)) /* stored usage likes round times */
			at = floorDivide(at, oracle.lateness) * oracle.lateness;
		if (used + units <= PG_UINT32_MAX) /* buckets that overflow are tested apart */
		{
			RingLoad(ring, now, at, units);
			oracleRecord(at, units);
		}
	}
	else
	{
		uint64 cost = 1 + (below(64) == 0 ? below(cap + 1) : below(cap / 128 + 1));

		if (used + cost <= cap)
		{
			RingAdd(ring, now, cost);
			oracleRecord(oracle.now, cost);
			/* [T-W, T], hence (T-W, T] too */
			HOLDS(oracleSince(oracle.now - oracle.window) <= cap);
		}
		else if (cost <= cap)
			checkFreeAfter(ring, now, cap - cost);
	}
}

/* Runs a ring beside the oracle, and returns the operations that were done. */
static int
runEpisode(uint64 seed)
{
	static const uint32 windows[] = {1, 2, 3, 59, 60, 3600, 86400, 604800, 30 * 86400, 366 * 86400};
	static const uint64 caps[] = {0, 1, 2, 3, 10, 100, 1000, 100000, PG_UINT32_MAX};
	static const uint64 paces[] = {1, 8, 64, 512};
	static const int64 starts[] = {0, 1, -1, -30 * YEAR, 56 * YEAR};
	uint32 window;
	uint64 cap;
	uint64 pace;
	int64 now;
	int operations = 0;
	Ring ring;

	broken = NULL;
	pg_prng_seed(&prng, seed);
	window = below(2) ? windows[below(lengthof(windows))] : 1 + below(366 * 86400);
	cap = caps[below(lengthof(caps))];
	pace = paces[below(lengthof(paces))];
	now = starts[below(lengthof(starts))] + below(2) * below(YEAR);

	oracleInit(window, now);
	RingInit(&ring, window, now);
	for (; operations < EPISODE_OPERATIONS && oracle.now < LATEST && broken == NULL; operations++)
	{
		now = nextNow(&ring, now, cap, pace);
		oracleAdvance(now);
		checkUsed(&ring, now);
		step(&ring, now, cap);
		checkUsed(&ring, now);
		checkFreeAfter(&ring, now, below(cap + 1));
		checkResetAfter(&ring, now);
	}
	return operations;
}

static void
testAgainstOracle(void)
{
	uint64 seed = 0;

	for (int done = 0; done < OPERATIONS && broken == NULL; seed++)
	{
		char row[512];

		done += runEpisode(seed);
		snprintf(row, sizeof(row), "seed " UINT64_FORMAT ", %s", seed, broken ? broken : "");
		CHECK_ROW(row, broken == NULL);
	}
}

/*
 * By hand, and in both directions from 1970: what the head comment says about
 * one unit.
 */
static void
testOneUnit(void)
{
	const int64 w = 7812500; /* a 128th of a second */
	static const int64 starts[] = {0, 7812499, 7812500, -1, -7812500, 1234567890123456789};

	for (size_t i = 0; i < lengthof(starts); i++)
	{
		int64 t = starts[i];
		int64 release = (floorDivide(t, w) + 129) * w;
		Ring ring;

		RingInit(&ring, 1, t);
		CHECK(RingUsed(&ring, t) == 0);
		CHECK(RingResetAfter(&ring, t) == RING_NEVER);
		CHECK(RingFreeAfter(&ring, t, 0) == 0);

		RingAdd(&ring, t, 5);
		CHECK(release > t + SECOND && release <= t + SECOND + w);
		CHECK(RingUsed(&ring, t) == 5);
		CHECK(RingFreeAfter(&ring, t, 5) == 0);
		CHECK(RingFreeAfter(&ring, t, 4) == release - t);
		CHECK(RingFreeAfter(&ring, t, 0) == release - t);
		CHECK(RingResetAfter(&ring, t) == release - t);
		CHECK(RingUsed(&ring, release - 1) == 5);
		CHECK(RingFreeAfter(&ring, release - 1, 0) == 1);

		/* A clock that went back sees the same units, and waits the longer. */
		CHECK(RingUsed(&ring, t - YEAR) == 5);
		CHECK(RingFreeAfter(&ring, t - YEAR, 0) == release - t + YEAR);

		CHECK(RingUsed(&ring, release) == 0);
		CHECK(RingResetAfter(&ring, release) == RING_NEVER);
	}
}

static void
testLoad(void)
{
	const int64 w = 7812500;
	const int64 now = 1000 * SECOND; /* the start of a bucket */
	Ring ring;

	RingInit(&ring, 1, now);
	RingLoad(&ring, now, now - 128 * w - 1, 1000); /* no longer counts */
	RingLoad(&ring, now, -200 * YEAR, 1000);
	CHECK(RingUsed(&ring, now) == 0);

	RingLoad(&ring, now, now - 128 * w, 1);
	RingLoad(&ring, now, now - 1, 10);
	RingLoad(&ring, now, now, 100);
	RingLoad(&ring, now, now + 200 * w, 1000); /* taken for now */
	CHECK(RingUsed(&ring, now) == 1111);
	CHECK(RingFreeAfter(&ring, now, 1110) == w);
	CHECK(RingFreeAfter(&ring, now, 1100) == 128 * w);
	CHECK(RingFreeAfter(&ring, now, 0) == 129 * w);
}

/* A bucket that is full neither wraps nor spoils the sum. */
static void
testSaturation(void)
{
	const int64 w = 7812500;
	const uint64 full = PG_UINT32_MAX;
	Ring ring;

	RingInit(&ring, 1, 0);
	for (int i = 0; i < RING_BUCKETS; i++)
	{
		RingAdd(&ring, i * w, PG_UINT32_MAX - 1);
		RingAdd(&ring, i * w, 1);
		CHECK(RingUsed(&ring, i * w) == (i + 1) * full);
		RingAdd(&ring, i * w, 1);
		RingAdd(&ring, i * w, PG_UINT32_MAX);
		RingLoad(&ring, i * w, i * w, PG_UINT64_MAX);
		CHECK(RingUsed(&ring, i * w) == (i + 1) * full);
	}
	RingLoad(&ring, 128 * w, 64 * w, full + 1);
	CHECK(RingUsed(&ring, 128 * w) == 129 * full);

	for (int i = 0; i <= RING_BUCKETS; i++)
		CHECK(usedAt(&ring, (128 + i) * w) == (RING_BUCKETS - i) * full);
}

/* Jumps by every number of buckets, and far beyond. */
static void
testJumps(void)
{
	const int64 w = 7812500;

	for (int k = 0; k <= 300; k++)
	{
		Ring ring;

		RingInit(&ring, 1, 0);
		for (int i = 0; i < RING_BUCKETS; i++)
			RingAdd(&ring, i * w, 1);
		CHECK(RingUsed(&ring, (128 + k) * w) == Max(0, RING_BUCKETS - k));
		RingAdd(&ring, (128 + k) * w, 7);
		CHECK(RingUsed(&ring, (128 + k) * w + 100 * YEAR) == 0);
		RingAdd(&ring, (128 + k) * w + 100 * YEAR, 3);
		CHECK(RingUsed(&ring, (128 + k) * w + 100 * YEAR + SECOND) == 3);
		CHECK(RingUsed(&ring, (128 + k) * w + 100 * YEAR + SECOND + w) == 0);
	}
}

int
main(void)
{
	RUN(testOneUnit);
	RUN(testLoad);
	RUN(testSaturation);
	RUN(testJumps);
	RUN(testAgainstOracle);
	return UnitReport();
}
