/*
 * usage.c
 *	  Usage as the tables have it, and meters loaded from them.
 *
 * A meter that is not in shared memory, or lacks a window, is loaded from
 * usage_total and usage_bucket with the latest snapshot, by direct index
 * scans.  A stored bucket does not say when in its step the units were used:
 * it is loaded whole at its end (or now, if that has not come).  So after a
 * load a unit may come back late, by the length of its step at most, never
 * early; the total is exact.
 *
 * What resets and grants (adjustment.c) do to it is read with the same
 * snapshot.
 *
 * Others wait for a meter while it is loaded.  So the locks of these tables are
 * not waited for as a SELECT does, but tried again and again up to the
 * deadline: whoever holds one (LOCK TABLE, VACUUM FULL, REINDEX) makes verdicts
 * overloaded, and delays no call for longer than that.  They are let go as soon
 * as the tables are read: a call may next wait for the writer, which would
 * stand behind whoever waits for a stronger lock, and so for the call.
 *
 * Whoever asks how a limit stands is told by the meter, since that decides;
 * where there is none (not in shared memory now, a standby) by rings of his
 * own, which the same rule fills: lists of keys make no meter give way to
 * another.  Tables and meters must agree: check_meters compares them.
 *
 * Pins of meters and room in the queue are noted by their modules; a call that
 * takes any starts with UsageBegin and ends with UsageRelease, which runs
 * at the abort of a (sub)transaction and at exit too.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "engine/directory.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "engine/waitpoint.h"
#include "pure/clock.h"
#include "request/adjustment.h"
#include "request/usage.h"
#include "tables/catalog.h"
#include "types/limits.h"

#define NAP_MAX_MS 64 /* between two attempts; from 1 on it is doubled each time */

/* Microseconds. */
#define MINUTES (60 * USECS_PER_SEC)
#define DAYS (86400 * USECS_PER_SEC)

typedef enum TotalColumn
{
	TOTAL_UNITS
} TotalColumn;

static CatalogTable total_table = {"usage_total", {"units", NULL}, {"usage_total_pkey", NULL}};

typedef enum BucketColumn
{
	BUCKET_BUCKET,
	BUCKET_UNITS
} BucketColumn;

static CatalogTable bucket_table = {
	"usage_bucket", {"bucket", "units", NULL}, {"usage_bucket_pkey", NULL}};

/* its OID is part of a meter's name */
static CatalogTable key_table = {"key", {NULL}, {NULL}};

PG_FUNCTION_INFO_V1(apikeys_usage_limits);
PG_FUNCTION_INFO_V1(apikeys_usage_check);
PG_FUNCTION_INFO_V1(apikeys_usage_units);

/* Gives back all that this process holds in shared memory for a call. */
void
UsageRelease(void)
{
	MeterUnpinAll();
	QueueReleaseAll();
}

static void
releaseAtAbort(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		UsageRelease();
}

static void
releaseAtSubAbort(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		UsageRelease();
}

static void
releaseAtExit(int code, Datum arg)
{
	UsageRelease();
}

/*
 * Sees to it that no call leaves anything behind, however it ends.  Nothing
 * that does is nested in another call.
 */
void
UsageBegin(void)
{
	static bool registered = false;

	if (registered)
		return;
	before_shmem_exit(releaseAtExit, (Datum) 0);
	RegisterXactCallback(releaseAtAbort, NULL);
	RegisterSubXactCallback(releaseAtSubAbort, NULL);
	registered = true;
}

/*
 * Returns the end of a stored bucket.  The row does not tell whether it has
 * been merged, so it is as long as its start and age allow: late, not early.
 */
static TimestampTz
bucketEnd(TimestampTz start, TimestampTz now)
{
	if (now - start >= 90 * DAYS && start % DAYS == 0)
		return start + DAYS;
	if (now - start >= 2 * DAYS && start % (60 * MINUTES) == 0)
		return start + 60 * MINUTES;
	return start + 5 * MINUTES;
}

/* Reads the units of all time; false: the subject was never used. */
static bool
readTotal(const MeterSubject *subject, Snapshot snapshot, int64 *units)
{
	Relation rel = CatalogOpen(&total_table, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Datum values[2] = {CharGetDatum((char) subject->kind), Int64GetDatum(subject->id)};
	CatalogScan scan;
	bool isnull;
	bool used;

	CatalogScanBegin(&scan, &total_table, rel, 0, snapshot, 2, values, NULL);
	used = CatalogScanNext(&scan, slot, NULL);
	*units = used ? DatumGetInt64(CatalogColumn(&total_table, slot, TOTAL_UNITS, &isnull)) : 0;
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return used;
}

static void
loadBuckets(const MeterSubject *subject, Snapshot snapshot, MeterLoading *loading)
{
	static const StrategyNumber strategies[] = {BTEqualStrategyNumber, BTEqualStrategyNumber,
												BTGreaterStrategyNumber};
	Relation rel = CatalogOpen(&bucket_table, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TimestampTz now_us = ClockTimestamp(loading->now);
	uint32 longest = 0;
	Datum values[3];
	CatalogScan scan;

	for (int i = 0; i < loading->count; i++)
		longest = Max(longest, loading->windows[i]);
	values[0] = CharGetDatum((char) subject->kind);
	values[1] = Int64GetDatum(subject->id);
	values[2] = TimestampTzGetDatum(now_us - longest * USECS_PER_SEC - DAYS);
	CatalogScanBegin(&scan, &bucket_table, rel, 0, snapshot, 3, values, strategies);
	while (CatalogScanNext(&scan, slot, NULL))
	{
		bool isnull;
		TimestampTz start =
			DatumGetTimestampTz(CatalogColumn(&bucket_table, slot, BUCKET_BUCKET, &isnull));
		int64 units = DatumGetInt64(CatalogColumn(&bucket_table, slot, BUCKET_UNITS, &isnull));
		TimestampTz end = bucketEnd(start, now_us);

		for (int i = 0; i < loading->count; i++)
			RingLoad(loading->rings[i], loading->now, loading->now + (end - now_us) * 1000, units);
	}
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
}

/* Fills what is to be loaded of a meter from the tables. */
static void
load(const MeterSubject *subject, MeterLoading *loading)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());

	if (loading->whole)
		loading->used = readTotal(subject, snapshot, &loading->total);
	if (loading->count > 0)
		loadBuckets(subject, snapshot, loading);
	AdjustmentRead(subject, snapshot, &loading->adjustments);
	UnregisterSnapshot(snapshot);
}

/*
 * Sleeps before another attempt, each time for twice as long; false: the time
 * is over.  Can be cancelled.
 */
static bool
napBeforeRetry(WaitReason reason, long *nap_ms, int64 deadline)
{
	long left = ClockMillisecondsUntil(deadline);

	CHECK_FOR_INTERRUPTS();
	if (left <= 0)
		return false;
	WaitNap(reason, Min(*nap_ms, left));
	*nap_ms = Min(2 * *nap_ms, NAP_MAX_MS);
	return true;
}

/*
 * Makes the writer write the events that keep meters from eviction, and gives
 * it a moment; false: the time is over.
 */
static bool
waitForRoom(long *nap_ms, int64 deadline)
{
	DirectoryWakeWriter();
	return napBeforeRetry(WAIT_METER_ROOM, nap_ms, deadline);
}

/* Locks a table for reading; false: not in time.  Can be cancelled. */
static bool
lockTable(CatalogTable *table, CatalogLocks *locks, int64 deadline)
{
	long nap_ms = 1;

	while (!CatalogTryLock(table, locks))
		if (!napBeforeRetry(WAIT_TABLE_LOCK, &nap_ms, deadline))
			return false;
	return true;
}

/* Locks what load() will read; false: not in time. */
static bool
lockTables(const MeterLoading *loading, CatalogLocks *locks, int64 deadline)
{
	return (!loading->whole || lockTable(&total_table, locks, deadline)) &&
		   (loading->count == 0 || lockTable(&bucket_table, locks, deadline)) &&
		   lockTable(&AdjustmentTable, locks, deadline);
}

/*
 * Loads what a meter lacks and publishes it; false: the tables cannot be locked
 * in time.
 */
static bool
loadMeter(const MeterSubject *subject, MeterLoading *loading, int64 deadline)
{
	CatalogLocks locks = {0};
	bool locked = lockTables(loading, &locks, deadline);

	if (locked)
	{
		load(subject, loading);
		WAIT_POINT("meter_load");
		MeterLoadEnd(loading);
	}
	CatalogUnlock(&locks);
	return locked;
}

/* Reads the adjustments of a meter that is loaded; false: not in time. */
static bool
readAdjustments(const MeterSubject *subject, MeterIndex meter, int64 deadline)
{
	CatalogLocks locks = {0};
	MeterAdjustments adjustments;
	Snapshot snapshot;

	if (!lockTable(&AdjustmentTable, &locks, deadline))
		return false;
	MeterAdjustBegin(meter, &adjustments);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	AdjustmentRead(subject, snapshot, &adjustments);
	UnregisterSnapshot(snapshot);
	CatalogUnlock(&locks);
	WAIT_POINT("meter_adjust");
	return MeterAdjustEnd(meter, &adjustments) || ClockMillisecondsUntil(deadline) > 0;
}

/*
 * Pins a subject's meter and sees to it that it can be asked about these
 * limits, loading what it lacks.  METER_NONE: not in time; UsageRelease gives
 * up what it has begun.  Waits can be cancelled.
 */
MeterIndex
UsageMeter(const MeterSubject *subject, const LimitSet *limits, int64 deadline)
{
	MeterIndex meter;
	long nap_ms = 1;

	while ((meter = MeterPin(subject)) == METER_NONE)
		if (!waitForRoom(&nap_ms, deadline))
			return METER_NONE;
	for (;;)
	{
		MeterLoading loading;

		switch (MeterPrepare(meter, limits))
		{
			case METER_READY:
				return meter;
			case METER_TO_LOAD:
				DirectoryWakeWriter();
				if (MeterLoadBegin(meter, limits, deadline, &loading))
				{
					if (!loadMeter(subject, &loading, deadline))
						return METER_NONE;
				}
				else if (!waitForRoom(&nap_ms, deadline))
					return METER_NONE;
				break;
			case METER_TO_ADJUST:
				if (!readAdjustments(subject, meter, deadline))
					return METER_NONE;
				break;
			case METER_BUSY:
				if (!MeterWait(meter, deadline))
					return METER_NONE;
				break;
		}
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Asks the meter about its limits; false: there is none, or it cannot be had
 * now.
 */
static bool
readMeter(Oid relation, MeterKind kind, int64 id, const LimitSet *limits, UsageReading *readings)
{
	int64 deadline = ClockNow() + QueueTimeout * NS_PER_MILLISECOND;
	bool done = false;
	MeterSubject subject;
	MeterIndex meter;

	MeterSubjectSet(&subject, relation, kind, id);
	if (!DirectoryExists() || RecoveryInProgress() || !MeterExists(&subject))
		return false;
	UsageBegin();
	DirectoryAttach();
	while (!done && (meter = UsageMeter(&subject, limits, deadline)) != METER_NONE)
	{
		int64 now = ClockNow();

		done = true;
		for (int i = 0; i < limits->count && done; i++)
			done = MeterRead(meter, &limits->limits[i], now, &readings[i].cap, &readings[i].used,
							 &readings[i].free_at);
		UsageRelease();
	}
	UsageRelease();
	return done;
}

/* Answers from the tables alone, as a meter would that is loaded now. */
static void
readTables(Oid relation, MeterKind kind, int64 id, const LimitSet *limits, UsageReading *readings)
{
	int64 now = ClockNow();
	MeterLoading loading = {
		.whole = true,
		.now = now,
		.adjustments = {.now = now, .count = 1, .windows = {{.window = LIMIT_WINDOW_TOTAL}}}};
	MeterSubject subject;
	Ring rings[LIMITS_MAX];

	for (int i = 0; i < limits->count; i++)
	{
		uint32 window = limits->limits[i].window;

		if (window == LIMIT_WINDOW_TOTAL)
			continue;
		RingInit(&rings[i], window, now);
		loading.windows[loading.count] = window;
		loading.rings[loading.count++] = &rings[i];
		loading.adjustments.windows[loading.adjustments.count++].window = window;
	}
	MeterSubjectSet(&subject, relation, kind, id);
	load(&subject, &loading);
	for (int i = 0; i < limits->count; i++)
	{
		bool total = (limits->limits[i].window == LIMIT_WINDOW_TOTAL);
		const MeterAdjustment *adjustment = &loading.adjustments.windows[total ? 0 : i + 1];
		int64 since = MeterUnitsSince(loading.total, adjustment->counts_from);
		int64 reset_after = RING_NEVER;

		if (!total)
		{
			RingKeepLatest(&rings[i], since);
			reset_after = RingResetAfter(&rings[i], now);
		}
		readings[i].cap = MeterCap(&limits->limits[i], adjustment->granted);
		readings[i].used = total ? since : (int64) RingUsed(&rings[i], now);
		readings[i].free_at = reset_after == RING_NEVER ? RING_NEVER : now + reset_after;
	}
}

/* Tells how a subject's limits stand; readings has a place for each of them. */
void
UsageRead(Oid relation, MeterKind kind, int64 id, const LimitSet *limits, UsageReading *readings)
{
	if (limits->count > 0 && !readMeter(relation, kind, id, limits, readings))
		readTables(relation, kind, id, limits, readings);
}

/* Returns a row for each limit of a subject; SQL: limits_used. */
Datum
apikeys_usage_limits(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LimitSet limits;
	UsageReading readings[LIMITS_MAX];

	InitMaterializedSRF(fcinfo, 0);
	LimitsUnpack(PG_GETARG_DATUM(2), &limits);
	CatalogResolve(&key_table);
	UsageRead(key_table.oid, (MeterKind) PG_GETARG_CHAR(0), PG_GETARG_INT64(1), &limits, readings);
	for (int i = 0; i < limits.count; i++)
	{
		const UsageLimit *limit = &limits.limits[i];
		const UsageReading *reading = &readings[i];
		char window[LIMIT_WINDOW_NAME_MAX];
		Datum values[5] = {PointerGetDatum(cstring_to_text_with_len(
							   window, LimitWindowFormat(limit->window, window))),
						   Int64GetDatum(reading->cap), Int64GetDatum(reading->used),
						   Int64GetDatum(Max(reading->cap - reading->used, 0)),
						   TimestampTzGetDatum(ClockTimestamp(reading->free_at + 999))};
		bool nulls[5] = {[4] = (reading->free_at == RING_NEVER)};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Returns a row for each live meter whose recorded units, those that count for
 * a limit on the total, are not those in the tables; SQL: check_meters.  Each
 * is compared while nothing of it is pending: if its units are the same before
 * and after, then so were the tables in between.
 */
Datum
apikeys_usage_check(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MeterSubject subject;
	int64 recorded;

	InitMaterializedSRF(fcinfo, 0);
	CatalogResolve(&key_table);
	for (MeterIndex meter = 0; MeterNextIdle(key_table.oid, &meter, &subject, &recorded); meter++)
	{
		MeterIndex again = meter;
		MeterSubject subject_again;
		int64 recorded_again;
		int64 stored;
		MeterAdjustments adjustments = {.count = 1, .windows = {{.window = LIMIT_WINDOW_TOTAL}}};
		Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());

		CHECK_FOR_INTERRUPTS();
		readTotal(&subject, snapshot, &stored);
		AdjustmentRead(&subject, snapshot, &adjustments);
		UnregisterSnapshot(snapshot);
		stored = MeterUnitsSince(stored, adjustments.windows[0].counts_from);
		if (stored != recorded &&
			MeterNextIdle(key_table.oid, &again, &subject_again, &recorded_again) &&
			again == meter && recorded_again == recorded &&
			memcmp(&subject, &subject_again, sizeof(subject)) == 0)
		{
			Datum values[5] = {CharGetDatum((char) subject.kind), Int64GetDatum(subject.id),
							   CStringGetTextDatum("units in the meter"), Int64GetDatum(stored),
							   Int64GetDatum(recorded)};
			bool nulls[5] = {0};

			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

/*
 * Returns the units of all time that are stored of a subject now, whatever the
 * transaction's snapshot; SQL: units_used.
 */
Datum
apikeys_usage_units(PG_FUNCTION_ARGS)
{
	MeterSubject subject;
	Snapshot snapshot;
	int64 units;

	CatalogResolve(&key_table);
	MeterSubjectSet(&subject, key_table.oid, (MeterKind) PG_GETARG_CHAR(0), PG_GETARG_INT64(1));
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	readTotal(&subject, snapshot, &units);
	UnregisterSnapshot(snapshot);
	PG_RETURN_INT64(units);
}
