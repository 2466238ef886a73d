/*
 * usage.c
 *	  Usage as the tables have it.
 *
 * What usage_total, usage_bucket and adjustment say of a subject, read with the
 * latest snapshot by direct index scans.  Meters are loaded from it
 * (metering.c), and where there is no meter it answers for itself
 * (limitstatus.c): so both agree.
 *
 * A stored bucket does not say when in its step the units were used: it is
 * loaded whole at its end (or now, if that is still to come).  So after a load
 * a unit may come back late, by the length of its step at most, never early;
 * the total is exact.
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
#include "request/adjustment.h"
#include "request/usage.h"
#include "tables/catalog.h"

/* Reads the stored units of all time; false: the subject was never used. */
bool
UsageReadTotal(const MeterSubject *subject, Snapshot snapshot, int64 *units)
{
	Relation rel = CatalogOpen(&CatalogUsageTotal, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Datum values[2] = {CharGetDatum((char) subject->kind), Int64GetDatum(subject->id)};
	CatalogScan scan;
	bool isnull;
	bool used;

	CatalogScanBegin(&scan, &CatalogUsageTotal, rel, 0, snapshot, 2, values, NULL);
	used = CatalogScanNext(&scan, slot, NULL);
	*units =
		used ? DatumGetInt64(CatalogColumn(&CatalogUsageTotal, slot, USAGE_TOTAL_UNITS, &isnull)) :
			   0;
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return used;
}

/* Loads the stored buckets into the rings of all windows. */
static void
loadBuckets(const MeterSubject *subject, Snapshot snapshot, MeterLoading *loading)
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
		TimestampTz end = BucketEnd(start, now_us);

		for (int i = 0; i < loading->count; i++)
			RingLoad(loading->rings[i], loading->now, loading->now + (end - now_us) * 1000, units);
	}
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
}

/*
 * Fills what is to be loaded of a meter from the tables, all with one snapshot.
 */
void
UsageLoad(const MeterSubject *subject, MeterLoading *loading)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());

	if (loading->whole)
		loading->used = UsageReadTotal(subject, snapshot, &loading->total);
	if (loading->count > 0)
		loadBuckets(subject, snapshot, loading);
	AdjustmentRead(subject, snapshot, &loading->adjustments);
	UnregisterSnapshot(snapshot);
}
