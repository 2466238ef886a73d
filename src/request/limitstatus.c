/*
 * limitstatus.c
 *	  The status of limits: used, remaining, when units come back.
 *
 * The meter of a subject decides, so it is read.  A reader changes no meter,
 * makes none and waits for none: its clock may be wrong, and it may ask about
 * any windows.  So the rings are copied, and the copies are moved on and
 * adjusted.  Where there is no meter (not in shared memory now, or
 * on a standby), or it has no ring for a limit that is asked about, the tables
 * answer, through rings that are loaded as those of a meter would be.
 *
 * Tables and meters must agree: check_meters compares them.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "pure/clock.h"
#include "request/adjustment.h"
#include "request/limitstatus.h"
#include "request/usage.h"
#include "tables/catalog.h"
#include "types/limits.h"

PG_FUNCTION_INFO_V1(apikeys_usage_limits);
PG_FUNCTION_INFO_V1(apikeys_usage_check);
PG_FUNCTION_INFO_V1(apikeys_usage_units);

/*
 * Reads from the tables what the status of these limits needs that the reading
 * of the meter lacks (all, if it is not live): the rings go into the reading.
 * Units of the meter that the snapshot does not see were used at the meter's
 * latest time at the latest.
 */
static void
readTables(const MeterSubject *subject, const LimitSet *limits, Snapshot snapshot, bool live,
		   int64 now, MeterReading *reading)
{
	MeterLoading loading = {.whole = true, .now = now};

	for (int i = 0; i < limits->count; i++)
	{
		uint32 window = limits->limits[i].window;

		if (window == LIMIT_WINDOW_TOTAL || reading->has_ring[i])
			continue;
		RingInit(&reading->rings[i], window, now);
		loading.windows[loading.count] = window;
		loading.rings[loading.count++] = &reading->rings[i];
	}
	if (live && loading.count == 0)
		return;
	UsageLoad(subject, snapshot, &loading);
	if (!live)
		reading->total = reading->recorded = loading.total;
	for (int i = 0; i < loading.count && reading->recorded > loading.total; i++)
		RingLoad(loading.rings[i], now, reading->latest, reading->recorded - loading.total);
}

/* Gives the status of one limit by a reading that has all it needs. */
static LimitStatus
statusOf(const UsageLimit *limit, Ring *ring, int64 total, const MeterAdjustment *adjustment,
		 int64 now)
{
	int64 since = MeterUnitsSince(total, adjustment->counts_from);
	LimitStatus status = {.cap = MeterCap(limit, adjustment->granted),
						  .granted = adjustment->granted,
						  .used = since,
						  .free_at = RING_NEVER};

	if (limit->window != LIMIT_WINDOW_TOTAL)
	{
		int64 reset_after;

		(void) RingUsed(ring, now);
		RingKeepLatest(ring, since);
		reset_after = RingResetAfter(ring, now);
		status.used = (int64) ring->used;
		status.free_at = reset_after == RING_NEVER ? RING_NEVER : now + reset_after;
	}
	return status;
}

/*
 * Gives the status of each of a subject's limits, in their order.
 *
 * The snapshot comes before the reading of the meter: an adjustment that it
 * sees counts from units that the meter has.  But where there is no meter, its
 * last units may have been stored since then.
 */
void
LimitStatusRead(Oid relation, MeterKind kind, int64 id, const LimitSet *limits,
				LimitStatus *statuses)
{
	MeterReading reading = {0};
	MeterAdjustments adjustments = {.hold_until = METER_FOR_EVER, .count = limits->count};
	MeterSubject subject;
	Snapshot snapshot;
	bool live;

	if (limits->count == 0)
		return;
	MeterSubjectSet(&subject, relation, kind, id);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	live = MeterRead(&subject, limits, &reading);
	if (!live)
	{
		UnregisterSnapshot(snapshot);
		snapshot = RegisterSnapshot(GetLatestSnapshot());
	}
	adjustments.now = Max(ClockNow(), reading.latest);
	for (int i = 0; i < limits->count; i++)
		adjustments.windows[i].window = limits->limits[i].window;
	readTables(&subject, limits, snapshot, live, adjustments.now, &reading);
	AdjustmentRead(&subject, snapshot, &adjustments);
	UnregisterSnapshot(snapshot);
	for (int i = 0; i < limits->count; i++)
		statuses[i] = statusOf(&limits->limits[i], &reading.rings[i], reading.total,
							   &adjustments.windows[i], adjustments.now);
}

/* Returns when units come back, in microseconds, not too early. */
TimestampTz
LimitStatusFreeAt(const LimitStatus *status)
{
	return ClockTimestamp(status->free_at + 999);
}

/* Returns a row for each limit of a subject; SQL: limit_status. */
Datum
apikeys_usage_limits(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LimitSet limits;
	LimitSet owner;
	LimitStatus statuses[LIMITS_MAX];

	InitMaterializedSRF(fcinfo, 0);
	LimitsUnpack(PG_GETARG_DATUM(2), &limits);
	LimitsUnpack(PG_GETARG_DATUM(3), &owner);
	(void) LimitSetLower(&limits, &owner);
	LimitStatusRead(CatalogOid(&CatalogKey), (MeterKind) PG_GETARG_CHAR(0), PG_GETARG_INT64(1),
					&limits, statuses);
	for (int i = 0; i < limits.count; i++)
	{
		const UsageLimit *limit = &limits.limits[i];
		const LimitStatus *status = &statuses[i];
		char window[LIMIT_WINDOW_NAME_MAX];
		Datum values[5] = {PointerGetDatum(cstring_to_text_with_len(
							   window, LimitWindowFormat(limit->window, window))),
						   Int64GetDatum(status->cap), Int64GetDatum(status->used),
						   Int64GetDatum(Max(status->cap - status->used, 0)),
						   TimestampTzGetDatum(LimitStatusFreeAt(status))};
		bool nulls[5] = {[4] = (status->free_at == RING_NEVER)};

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
	Oid relation = CatalogOid(&CatalogKey);
	MeterSubject subject;
	int64 recorded;

	InitMaterializedSRF(fcinfo, 0);
	for (MeterIndex meter = 0; MeterNextIdle(relation, &meter, &subject, &recorded); meter++)
	{
		MeterIndex again = meter;
		MeterSubject subject_again;
		int64 recorded_again;
		int64 stored;
		UsageTotal total;
		MeterAdjustments adjustments = {.count = 1, .windows = {{.window = LIMIT_WINDOW_TOTAL}}};
		Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());

		CHECK_FOR_INTERRUPTS();
		UsageReadTotal(&subject, snapshot, &total);
		AdjustmentRead(&subject, snapshot, &adjustments);
		UnregisterSnapshot(snapshot);
		stored = MeterUnitsSince(total.units, adjustments.windows[0].counts_from);
		if (stored != recorded &&
			MeterNextIdle(relation, &again, &subject_again, &recorded_again) && again == meter &&
			recorded_again == recorded && memcmp(&subject, &subject_again, sizeof(subject)) == 0)
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
	UsageTotal total;

	MeterSubjectSet(&subject, CatalogOid(&CatalogKey), (MeterKind) PG_GETARG_CHAR(0),
					PG_GETARG_INT64(1));
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	UsageReadTotal(&subject, snapshot, &total);
	UnregisterSnapshot(snapshot);
	PG_RETURN_INT64(total.units);
}
