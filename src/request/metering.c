/*
 * metering.c
 *	  Meters of a call: pinned, and loaded from the tables.
 *
 * A meter that is not in shared memory, or lacks a window, is loaded from
 * usage_total, usage_bucket and adjustment (usage.c, adjustment.c).  Other
 * sessions wait for a meter while it is loaded.  So the locks of these tables
 * are not waited for as a SELECT does, but tried again and again up to the
 * deadline: a session that holds one (LOCK TABLE, VACUUM FULL, REINDEX) makes
 * verdicts overloaded, and delays no call for longer than that.  The locks are
 * released as soon as the tables are read.  A call may wait for the writer
 * next; and if another session waits for a stronger lock on these tables, the
 * writer would wait behind it, and so for the call.
 *
 * Pins of meters and room in the queue are noted by their modules.  A call that
 * takes any starts with MeteringBegin and ends with MeteringRelease, which runs
 * at the abort of a (sub)transaction and at exit, too.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/snapmgr.h"

#include "engine/directory.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "engine/waitpoint.h"
#include "pure/clock.h"
#include "request/adjustment.h"
#include "request/metering.h"
#include "request/usage.h"
#include "tables/catalog.h"

/* Releases all that this process holds in shared memory for a call. */
void
MeteringRelease(void)
{
	MeterUnpinAll();
	QueueReleaseAll();
}

static void
releaseAtAbort(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		MeteringRelease();
}

static void
releaseAtSubAbort(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		MeteringRelease();
}

static void
releaseAtExit(int code, Datum arg)
{
	MeteringRelease();
}

/*
 * Starts a call that pins meters or reserves room, and makes sure that nothing
 * of it stays behind however it ends.  Such calls are never nested.
 */
void
MeteringBegin(void)
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
 * Makes the writer retire the events that keep meters from eviction, and gives
 * it a moment; false: the time is over.
 */
static bool
waitForRoom(long *nap_ms, int64 deadline)
{
	DirectoryWakeWriter();
	return WaitBeforeRetry(WAIT_METER_ROOM, nap_ms, deadline);
}

/* Locks a table for reading; false: not in time.  Can be cancelled. */
static bool
lockTable(CatalogTable *table, CatalogLocks *locks, int64 deadline)
{
	long nap_ms = 1;

	while (!CatalogTryLock(table, locks))
		if (!WaitBeforeRetry(WAIT_TABLE_LOCK, &nap_ms, deadline))
			return false;
	return true;
}

/* Locks what UsageLoad will read; false: not in time. */
static bool
lockTables(const MeterLoading *loading, CatalogLocks *locks, int64 deadline)
{
	return lockTable(&CatalogUsageTotal, locks, deadline) &&
		   (loading->count == 0 || lockTable(&CatalogUsageBucket, locks, deadline)) &&
		   lockTable(&CatalogAdjustment, locks, deadline);
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
		Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());

		UsageLoad(subject, snapshot, loading);
		AdjustmentRead(subject, snapshot, &loading->adjustments);
		UnregisterSnapshot(snapshot);
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

	if (!lockTable(&CatalogAdjustment, &locks, deadline))
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
 * Pins a subject's meter and loads what it lacks to be asked about these
 * limits.  METER_NONE: not in time.  In any case MeteringRelease ends what was
 * begun.  Waits can be cancelled.
 */
MeterIndex
MeteringPin(const MeterSubject *subject, const LimitSet *limits, int64 deadline)
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
