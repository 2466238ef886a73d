/*
 * bucket.c
 *	  The buckets in which usage is stored: how long one is.
 *
 * Usage is written in buckets of 5 minutes.  Maintenance merges them into
 * hours when the whole hour is at least 2 days old, and into days when the
 * whole day is at least 90 days old.  Buckets begin at multiples of their
 * length, so a row holds only the start of its bucket.
 *
 * The writer (tally.c), maintenance (maintain.c) and the loading of meters
 * (usage.c) must agree on this, so it stands here alone.
 */
#include "c.h"

#include "pure/bucket.h"

/* Returns the last multiple of a length that is not after an instant. */
static int64
roundDown(int64 at, int64 length)
{
	return at - ((at % length) + length) % length;
}

/* Returns the start of the bucket to which usage at an instant is written. */
int64
BucketStart(int64 at)
{
	return roundDown(at, BUCKET_SHORT);
}

/*
 * Returns the end of the stored bucket with this start.  The row does not tell
 * whether it has been merged, so the bucket is taken to be as long as its start
 * and age allow: the result may be too late, but is never too early.
 */
int64
BucketEnd(int64 start, int64 now)
{
	if (now - start >= BUCKET_DAYS_AFTER && start == roundDown(start, BUCKET_DAY))
		return start + BUCKET_DAY;
	if (now - start >= BUCKET_HOURS_AFTER && start == roundDown(start, BUCKET_HOUR))
		return start + BUCKET_HOUR;
	return start + BUCKET_SHORT;
}

/* Returns the start of an hour: buckets before it are merged into hours. */
int64
BucketHoursBefore(int64 now)
{
	return roundDown(now - BUCKET_HOURS_AFTER, BUCKET_HOUR);
}

/* Returns the start of a day: buckets before it are merged into days. */
int64
BucketDaysBefore(int64 now)
{
	return roundDown(now - BUCKET_DAYS_AFTER, BUCKET_DAY);
}
