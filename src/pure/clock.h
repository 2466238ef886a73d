/*
 * clock.h
 *	  Engine time: nanoseconds since the Unix epoch, immune to steps of the
 *	  wall clock.  Pure C.
 */
#ifndef CLOCK_H
#define CLOCK_H

#include "c.h"

#define NS_PER_MILLISECOND INT64CONST(1000000)
#define NS_PER_SECOND INT64CONST(1000000000)

#define CLOCK_DEBUG_OFFSET_MAX 1e9 /* seconds, either way; some 31 years */

extern double ClockDebugOffset; /* setting apikeys.debug_clock_offset, seconds */

extern void ClockInit(void);
extern int64 ClockNow(void);
extern int64 ClockWallNow(void);
extern int64 ClockTimestamp(int64 time);
extern long ClockMillisecondsUntil(int64 deadline);

#endif
