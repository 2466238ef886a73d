/*
 * limitstatus.c
 *	  The status of limits: used, remaining, when units come back.
 *
 * The meter of a subject decides, so it is asked.  Where there is none (not in
 * shared memory now, or on a standby) the tables answer, through rings that are
 * loaded as those of a meter would be: a list of keys does not make meters
 * evict each other.
 *
 * Tables and meters must agree: check_meters compares them.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "engine/directory.h"
#include "engine/queue.h"
#include "pure/clock.h"
#include "request/adjustment.h"
#include "request/limitstatus.h"
#include "request/metering.h"
#include "request/usage.h"
#include "tables/catalog.h"
#include "types/limits.h"

PG_FUNCTION_INFO_V1(apikeys_usage_limits);
PG_FUNCTION_INFO_V1(apikeys_usage_check);
PG_FUNCTION_INFO_V1(apikeys_usage_units);

/*
 * Asks the meter about its limits; false: there is none, or it cannot be had
 * now.
 */
static bool
readMeter(Oid relation, MeterKind kind, int64 id, const LimitSet *limits, LimitStatus *statuses)
{
	int64 deadline = ClockNow() + QueueTimeout * NS_PER_MILLISECOND;
	bool done = false;
	MeterSubject subject;
	MeterIndex meter;

	MeterSubjectSet(&subject, relation, kind, id);
	if (!DirectoryExists() || RecoveryInProgress() || !MeterExists(&subject))
		return false;
	MeteringBegin();
	DirectoryAttach();
	while (!done && (meter = MeteringPin(&subject, limits, deadline)) != METER_NONE)
	{
		int64 now = ClockNow();

		done = true;
		for (int i = 0; i < limits->count && done; i++)
			done = MeterRead(meter, &limits->limits[i], now, &statuses[i].cap, &statuses[i].used,
							 &statuses[i].free_at);
		MeteringRelease();
	}
	MeteringRelease();
	return done;
}

/* Answers from the tables alone, as a meter would that is loaded now. */
static void
readTables(Oid relation, MeterKind kind, int64 id, const LimitSet *limits, LimitStatus *statuses)
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
	UsageLoad(&subject, &loading);
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
		statuses[i].cap = MeterCap(&limits->limits[i], adjustment->granted);
		statuses[i].used = total ? since : (int64) RingUsed(&rings[i], now);
		statuses[i].free_at = reset_after == RING_NEVER ? RING_NEVER : now + reset_after;
	}
}

/* Gives the status of each of a subject's limits, in their order. */
void
LimitStatusRead(Oid relation, MeterKind kind, int64 id, const LimitSet *limits,
				LimitStatus *statuses)
{
	if (limits->count > 0 && !readMeter(relation, kind, id, limits, statuses))
		readTables(relation, kind, id, limits, statuses);
}

/* Returns a row for each limit of a subject; SQL: limits_used. */
Datum
apikeys_usage_limits(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LimitSet limits;
	LimitStatus statuses[LIMITS_MAX];

	InitMaterializedSRF(fcinfo, 0);
	LimitsUnpack(PG_GETARG_DATUM(2), &limits);
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
						   TimestampTzGetDatum(ClockTimestamp(status->free_at + 999))};
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
