/*
 * usage.c
 *	  Usage as the tables have it.
 *
 * What usage_total and usage_bucket say of a subject, read by direct index
 * scans.  Meters are loaded from it (metering.c), and where there is no meter
 * it answers for itself (limitstatus.c): so both agree.
 *
 * A stored bucket does not say when in its step the units were used.  It is
 * loaded whole at the latest instant at which they can have been used: the end
 * of its step, or the last use of units of the subject (last_unit_at), or now,
 * whichever comes first.
 *	- No unit is loaded before its use, so none comes back early.  last_unit_at
 *	  is cut to microseconds, and the edges of a ring's buckets are not:
 *	  therefore a microsecond is added.
 *	- A unit may come back late, by the length of its step at most.  When the
 *	  last use is older than a window and its 128th part, nothing counts in
 *	  the window: a load exhausts no limit that the subject leaves alone.
 *	- The total is exact.
 *
 * The functions lock the tables as any SELECT does.  A caller that must not
 * wait for them has locked the tables before (metering.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "pure/bucket.h"
#include "pure/clock.h"
#include "request/usage.h"
#include "tables/catalog.h"

/*
 * Returns the latest instant at which units of a stored bucket can have been
 * used, as far as the tables tell.  A bucket that begins after the last use is
 * not believed, nor is its last use.
 */
static TimestampTz
latestUse(TimestampTz start, TimestampTz now, TimestampTz last_unit_at)
{
	TimestampTz end = BucketEnd(start, now);

	return last_unit_at < start || last_unit_at >= end ? end : last_unit_at + 1;
}

/* Reads what is stored of a subject over all time. */
void
UsageReadTotal(const MeterSubject *subject, Snapshot snapshot, UsageTotal *total)
{
	Relation rel = CatalogOpen(&CatalogUsageTotal, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Datum values[2] = {CharGetDatum((char) subject->kind), Int64GetDatum(subject->id)};
	CatalogScan scan;

	*total = (UsageTotal){.last_unit_at = DT_NOEND};
	CatalogScanBegin(&scan, &CatalogUsageTotal, rel, 0, snapshot, 2, values, NULL);
	if (CatalogScanNext(&scan, slot, NULL))
	{
		bool isnull;
		Datum last;

		total->used = true;
		total->units =
			DatumGetInt64(CatalogColumn(&CatalogUsageTotal, slot, USAGE_TOTAL_UNITS, &isnull));
		last = CatalogColumn(&CatalogUsageTotal, slot, USAGE_TOTAL_LAST_UNIT_AT, &isnull);
		if (!isnull)
			total->last_unit_at = DatumGetTimestampTz(last);
	}
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
}

/* Loads the stored buckets into the rings of all windows. */
static void
loadBuckets(const MeterSubject *subject, Snapshot snapshot, TimestampTz last_unit_at,
			MeterLoading *loading)
{
	static const StrategyNumber strategies[] = {BTEqualStrategyNumber, BTEqualStrategyNumber,
												BTGreaterStrategyNumber};
	Relation rel = CatalogOpen(&CatalogUsageBucket, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TimestampTz now_us = ClockTimestamp(loading->now);
	uint32 longest = 0;
	Datum values[3];
	CatalogScan scan;

	for (int i = 0; i < loading->count; i++)
		longest = Max(longest, loading->windows[i]);
	values[0] = CharGetDatum((char) subject->kind);
	values[1] = Int64GetDatum(subject->id);
	values[2] = TimestampTzGetDatum(now_us - longest * USECS_PER_SEC - BUCKET_DAY);
	CatalogScanBegin(&scan, &CatalogUsageBucket, rel, 0, snapshot, 3, values, strategies);
	while (CatalogScanNext(&scan, slot, NULL))
	{
		bool isnull;
		TimestampTz start = DatumGetTimestampTz(
			CatalogColumn(&CatalogUsageBucket, slot, USAGE_BUCKET_BUCKET, &isnull));
		int64 units =
			DatumGetInt64(CatalogColumn(&CatalogUsageBucket, slot, USAGE_BUCKET_UNITS, &isnull));
		TimestampTz at = latestUse(start, now_us, last_unit_at);

		for (int i = 0; i < loading->count; i++)
			RingLoad(loading->rings[i], loading->now, loading->now + (at - now_us) * 1000, units);
	}
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
}

/* Fills what is to be loaded of a meter from the tables, not adjustments. */
void
UsageLoad(const MeterSubject *subject, Snapshot snapshot, MeterLoading *loading)
{
	UsageTotal total;

	UsageReadTotal(subject, snapshot, &total);
	if (loading->whole)
	{
		loading->used = total.used;
		loading->total = total.units;
	}
	if (loading->count > 0)
		loadBuckets(subject, snapshot, total.last_unit_at, loading);
}
