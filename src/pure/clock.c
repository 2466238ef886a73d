/*
 * clock.c
 *	  Engine time.
 *
 * Rolling windows must not open or freeze because somebody sets the clock of
 * the machine.  Engine time is a clock that nobody sets and that goes on while
 * the machine sleeps, plus an anchor: what the wall clock was ahead of it when
 * the library was loaded.
 *
 * The anchor is process-local and never changes.  The postmaster takes it when
 * it preloads the library, and every child inherits it: all processes agree,
 * and go on to agree after a crash restart, where the postmaster lives on and
 * loads nothing again.  A new postmaster trusts the wall clock anew.  Without
 * preloading each backend takes its own, which is enough for what works then.
 *
 * A key expires by the wall clock, since that is what people mean by a date.
 *
 * Both clocks are moved by apikeys.debug_clock_offset, so that tests need not
 * wait.  What a ring or a table has seen of a session whose clock was ahead
 * stays seen.
 */
#include "c.h"

#include <math.h>
#include <time.h>

#include "pure/clock.h"

#define MICROSECONDS_TO_2000 INT64CONST(946684800000000) /* since the Unix epoch */

/*
 * Where there is no CLOCK_BOOTTIME (macOS), the monotonic clock counts sleep,
 * or there is nothing better.
 */
#ifdef CLOCK_BOOTTIME
#define STEADY_CLOCK CLOCK_BOOTTIME
#else
#define STEADY_CLOCK CLOCK_MONOTONIC
#endif

double ClockDebugOffset = 0;

static int64 Anchor; /* wall clock - steady clock, nanoseconds; set once */

/*
 * Reads a clock of the system, in nanoseconds.
 */
static int64
readClock(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time); /* cannot fail: the clock exists */
	return time.tv_sec * NS_PER_SECOND + time.tv_nsec;
}

/*
 * Returns what the setting adds to both clocks, in nanoseconds.
 */
static int64
debugOffset(void)
{
	return (int64) rint(ClockDebugOffset * NS_PER_SECOND);
}

/*
 * Anchors engine time to the wall clock.  To be called once, when the library
 * is loaded.
 */
void
ClockInit(void)
{
	Anchor = readClock(CLOCK_REALTIME) - readClock(STEADY_CLOCK);
}

/*
 * Returns engine time, in nanoseconds since the Unix epoch.
 */
int64
ClockNow(void)
{
	return readClock(STEADY_CLOCK) + Anchor + debugOffset();
}

/*
 * Returns the wall clock's time, in nanoseconds since the Unix epoch.
 */
int64
ClockWallNow(void)
{
	return readClock(CLOCK_REALTIME) + debugOffset();
}

/*
 * Returns an instant of either clock as PostgreSQL counts: microseconds since
 * 2000, rounded down.
 */
int64
ClockTimestamp(int64 time)
{
	return (time < 0 ? (time - 999) / 1000 : time / 1000) - MICROSECONDS_TO_2000;
}

/*
 * Returns how many milliseconds of engine time are left until a deadline,
 * rounded up; 0 if it is over.
 */
long
ClockMillisecondsUntil(int64 deadline)
{
	int64 left = deadline - ClockNow();

	return left <= 0 ? 0 : (long) ((left + NS_PER_MILLISECOND - 1) / NS_PER_MILLISECOND);
}
