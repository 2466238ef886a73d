/*
 * bucket.h
 *	  The buckets in which usage is stored: how long one is.  Pure C.
 *
 * All times are microseconds since 2000, UTC.
 */
#ifndef BUCKET_H
#define BUCKET_H

#include "c.h"

/* Lengths. */
#define BUCKET_SHORT (INT64CONST(300) * 1000000) /* as they are written */
#define BUCKET_HOUR (INT64CONST(3600) * 1000000)
#define BUCKET_DAY (INT64CONST(86400) * 1000000)

/* How old a bucket is when it is merged into an hour, and into a day. */
#define BUCKET_HOURS_AFTER (2 * BUCKET_DAY)
#define BUCKET_DAYS_AFTER (90 * BUCKET_DAY)

extern int64 BucketStart(int64 at);
extern int64 BucketEnd(int64 start, int64 now);
extern int64 BucketHoursBefore(int64 now);
extern int64 BucketDaysBefore(int64 now);

#endif
