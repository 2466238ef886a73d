/*
 * clock.c
 *	  Tests of src/pure/clock.c, on a machine whose clocks are ours.
 */
#include "c.h"

#include <time.h>

#include "pure/clock.h"
#include "unit.h"

static int64 wall;
static int64 steady;

/* Stand in for the system's. */
int
clock_gettime(clockid_t clock, struct timespec *time)
{
	int64 now = clock == CLOCK_REALTIME ? wall : steady;

	time->tv_sec = now / NS_PER_SECOND;
	time->tv_nsec = now % NS_PER_SECOND;
	return 0;
}

/* Let nanoseconds go by. */
static void
pass(int64 duration)
{
	wall += duration;
	steady += duration;
}

static void
testAnchor(void)
{
	wall = INT64CONST(1790000000123456789);
	steady = 987654321;
	ClockInit();
	CHECK_INT(ClockNow(), wall);
	CHECK_INT(ClockWallNow(), wall);

	pass(1);
	CHECK_INT(ClockNow(), wall);
	pass(366 * 86400 * NS_PER_SECOND);
	CHECK_INT(ClockNow(), wall);
}

/* Somebody sets the clock, by an hour either way and by a nanosecond. */
static void
testSteps(void)
{
	static const int64 steps[] = {3600 * NS_PER_SECOND, -3600 * NS_PER_SECOND, 1, -1};

	for (size_t i = 0; i < lengthof(steps); i++)
	{
		int64 before = ClockNow();

		wall += steps[i];
		CHECK_INT(ClockNow(), before);
		CHECK_INT(ClockWallNow(), wall);
		pass(5);
		CHECK_INT(ClockNow(), before + 5);
	}
}

static void
testDebugOffset(void)
{
	static const struct
	{
		double seconds;
		int64 nanoseconds;
	} offsets[] = {{1, 1000000000},
				   {-1, -1000000000},
				   {1.001, 1001000000}, /* 1.001 * 1e9 is a little less in binary */
				   {-1.001, -1001000000},
				   {0.000000001, 1},
				   {86400.000001, INT64CONST(86400000001000)},
				   {CLOCK_DEBUG_OFFSET_MAX, INT64CONST(1000000000000000000)},
				   {-CLOCK_DEBUG_OFFSET_MAX, INT64CONST(-1000000000000000000)},
				   {0, 0}};
	int64 now = ClockNow();

	for (size_t i = 0; i < lengthof(offsets); i++)
	{
		ClockDebugOffset = offsets[i].seconds;
		CHECK_INT(ClockNow(), now + offsets[i].nanoseconds);
		CHECK_INT(ClockWallNow(), wall + offsets[i].nanoseconds);
	}
}

int
main(void)
{
	RUN(testAnchor);
	RUN(testSteps);
	RUN(testDebugOffset);
	return UnitReport();
}
