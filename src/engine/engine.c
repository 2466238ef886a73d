/*
 * engine.c
 *	  The engine as a whole: whether requests can be metered here, and what an
 *	  operator calls: stats, flush and maintain.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "engine/address.h"
#include "engine/directory.h"
#include "engine/engine.h"
#include "engine/meter.h"
#include "engine/queue.h"
#include "pure/clock.h"

PG_FUNCTION_INFO_V1(apikeys_engine_stats);
PG_FUNCTION_INFO_V1(apikeys_engine_flush);
PG_FUNCTION_INFO_V1(apikeys_engine_verdicts);
PG_FUNCTION_INFO_V1(apikeys_engine_maintain);

typedef enum StatsColumn
{
	STATS_QUEUE_BYTES,
	STATS_QUEUE_SIZE,
	STATS_OLDEST_EVENT_AGE,
	STATS_FLUSH_LAG,
	STATS_EVENTS_WRITTEN,
	STATS_EVENTS_QUARANTINED,
	STATS_DENIALS_DROPPED,
	STATS_REQUESTS_UNRECORDED,
	STATS_VERDICTS_OVERLOADED,
	STATS_METERS_USED,
	STATS_METERS_SIZE,
	STATS_RINGS_USED,
	STATS_RINGS_SIZE,
	STATS_EVICTIONS,
	STATS_WRITER_PID,
	STATS_WRITER_STATE,
	STATS_LAST_ERROR,
	STATS_ADDRESSES_USED,
	STATS_ADDRESSES_SIZE,
	STATS_LAUNCHER_PID,
	STATS_LAUNCHER_STATE,
	STATS_LAUNCHER_ERROR,
	STATS_CLOCK_AHEAD,
	STATS_COLUMNS
} StatsColumn;

bool EngineLogRequests = true;

/* Raises 55000 if there is no shared memory to meter in. */
void
EngineRequirePreload(void)
{
	if (!DirectoryExists())
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("apikeys is not preloaded, so requests cannot be metered"),
			 errhint("Add apikeys to shared_preload_libraries and restart the server; authenticate "
					 "works without."),
			 errhidestmt(true)));
}

/* Raises 55000 where requests cannot be metered and recorded. */
void
EngineRequire(void)
{
	EngineRequirePreload();
	if (RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("requests cannot be metered on a standby"),
						errhint("Call verify on the primary; authenticate works here."),
						errhidestmt(true)));
}

static Datum
makeInterval(int64 microseconds)
{
	Interval *interval = palloc0(sizeof(Interval));

	interval->time = microseconds;
	return IntervalPGetDatum(interval);
}

/*
 * Returns the figures of this database's queue, of the meters and addresses;
 * SQL: stats.
 */
Datum
apikeys_engine_stats(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {
		[WRITER_NONE] = "none", [WRITER_RUNNING] = "running", [WRITER_FAILING] = "failing"};
	DirectoryStatistics queue;
	LauncherStatistics launcher;
	MeterStatistics meter;
	AddressStatistics address;
	TupleDesc desc;
	Datum values[STATS_COLUMNS];
	bool nulls[STATS_COLUMNS] = {0};

	EngineRequirePreload();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != STATS_COLUMNS)
		elog(ERROR, "function does not return the columns of stats");
	(void) DirectoryStatisticsGet(&queue);
	DirectoryLauncherGet(&launcher);
	MeterStatisticsGet(&meter);
	AddressStatisticsGet(&address);
	values[STATS_QUEUE_BYTES] = Int64GetDatum(queue.bytes_used);
	values[STATS_QUEUE_SIZE] = Int64GetDatum(queue.bytes_size);
	nulls[STATS_OLDEST_EVENT_AGE] = (queue.bytes_used == 0);
	values[STATS_OLDEST_EVENT_AGE] = makeInterval(Max(ClockNow() / 1000 - queue.oldest_at, 0));
	values[STATS_FLUSH_LAG] = makeInterval(Max(queue.lag_us, 0));
	values[STATS_EVENTS_WRITTEN] = Int64GetDatum(queue.counters[QUEUE_WRITTEN]);
	values[STATS_EVENTS_QUARANTINED] = Int64GetDatum(queue.counters[QUEUE_QUARANTINED]);
	values[STATS_DENIALS_DROPPED] = Int64GetDatum(queue.counters[QUEUE_DROPPED]);
	values[STATS_REQUESTS_UNRECORDED] = Int64GetDatum(queue.counters[QUEUE_UNRECORDED]);
	values[STATS_VERDICTS_OVERLOADED] = Int64GetDatum(queue.counters[QUEUE_OVERLOADED]);
	values[STATS_METERS_USED] = Int64GetDatum(meter.meters_used);
	values[STATS_METERS_SIZE] = Int64GetDatum(meter.meters_size);
	values[STATS_RINGS_USED] = Int64GetDatum(meter.rings_used);
	values[STATS_RINGS_SIZE] = Int64GetDatum(meter.rings_size);
	values[STATS_EVICTIONS] = Int64GetDatum(meter.evictions);
	nulls[STATS_WRITER_PID] = (queue.writer_pid == 0);
	values[STATS_WRITER_PID] = Int32GetDatum(queue.writer_pid);
	values[STATS_WRITER_STATE] = CStringGetTextDatum(states[queue.writer_state]);
	nulls[STATS_LAST_ERROR] = (queue.last_error[0] == '\0');
	values[STATS_LAST_ERROR] = CStringGetTextDatum(queue.last_error);
	values[STATS_ADDRESSES_USED] = Int64GetDatum(address.addresses_used);
	values[STATS_ADDRESSES_SIZE] = Int64GetDatum(address.addresses_size);
	nulls[STATS_LAUNCHER_PID] = (launcher.pid == 0);
	values[STATS_LAUNCHER_PID] = Int32GetDatum(launcher.pid);
	values[STATS_LAUNCHER_STATE] = CStringGetTextDatum(states[launcher.state]);
	nulls[STATS_LAUNCHER_ERROR] = (launcher.last_error[0] == '\0');
	values[STATS_LAUNCHER_ERROR] = CStringGetTextDatum(launcher.last_error);
	values[STATS_CLOCK_AHEAD] = makeInterval((ClockNow() - ClockWallNow()) / 1000);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* Returns how many verdicts there were of each code; SQL: verdict_counts. */
Datum
apikeys_engine_verdicts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	DirectoryStatistics queue;

	EngineRequirePreload();
	(void) DirectoryStatisticsGet(&queue);
	InitMaterializedSRF(fcinfo, 0);
	for (int code = 0; code < VERDICT_CODES; code++)
	{
		Datum values[2] = {CStringGetTextDatum(VerdictName(code)),
						   Int64GetDatum(queue.counters[QUEUE_VERDICTS + code])};
		bool nulls[2] = {false, false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* Waits until all events queued so far are in the tables; SQL: flush. */
Datum
apikeys_engine_flush(PG_FUNCTION_ARGS)
{
	int64 deadline;

	EngineRequire();
	deadline = ClockNow() + QueueTimeout * NS_PER_MILLISECOND;
	DirectoryAttach();
	PG_RETURN_BOOL(QueueWaitWritten(deadline));
}

/* Asks the writer for maintenance, and waits for it; SQL: maintain. */
Datum
apikeys_engine_maintain(PG_FUNCTION_ARGS)
{
	int64 deadline;

	EngineRequire();
	deadline = ClockNow() + QueueTimeout * NS_PER_MILLISECOND;
	DirectoryAttach();
	PG_RETURN_BOOL(DirectoryMaintain(deadline));
}
