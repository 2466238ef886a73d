/*
 * wait.c
 *	  Waits of the extension, each with a wait event of its own.
 *
 * From PostgreSQL 17 on, pg_stat_activity shows the names below, as events of
 * type Extension.  Before, it shows Extension for all of them.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "engine/wait.h"
#include "pure/clock.h"

#define NAP_MAX_MS 64 /* between two attempts; from 1 on it is doubled each time */

static const char *const names[] = {[WAIT_DURABLE] = "ApikeysDurable",
									[WAIT_FIRST_USE] = "ApikeysFirstUse",
									[WAIT_LAUNCHER_MAIN] = "ApikeysLauncherMain",
									[WAIT_MAINTENANCE] = "ApikeysMaintenance",
									[WAIT_METER_DRAIN] = "ApikeysMeterDrain",
									[WAIT_METER_LOAD] = "ApikeysMeterLoad",
									[WAIT_METER_ROOM] = "ApikeysMeterRoom",
									[WAIT_QUEUE_ROOM] = "ApikeysQueueRoom",
									[WAIT_QUEUE_WRITTEN] = "ApikeysQueueWritten",
									[WAIT_TABLE_LOCK] = "ApikeysTableLock",
									[WAIT_WRITER_BEGIN] = "ApikeysWriterBegin",
									[WAIT_WRITER_MAIN] = "ApikeysWriterMain"};

static uint32 events[lengthof(names)]; /* as the server knows them */

/*
 * Registers the wait events; from shmem_startup_hook, so that all processes
 * inherit them and no wait can fail for want of one.
 */
void
WaitInit(void)
{
	for (int i = 0; i < lengthof(names); i++)
		events[i] = WaitEventExtensionNew(names[i]);
}

/*
 * Sleeps until this process's latch is set or the time is over, and resets the
 * latch.  Interrupts are for the caller to check.
 */
void
WaitNap(WaitReason reason, long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
					 events[reason]);
	ResetLatch(MyLatch);
}

/*
 * Sleeps before another attempt; *nap_ms is 1 at first and grows with each.
 * False: the time is over.  Can be cancelled.
 */
bool
WaitBeforeRetry(WaitReason reason, long *nap_ms, int64 deadline)
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
 * Waits until the condition holds; false: the time is over.  Each change that
 * can make it hold must be broadcast on the variable.  Can be cancelled.
 */
bool
WaitUntil(WaitReason reason, ConditionVariable *variable, bool (*holds)(uint64), uint64 argument,
		  int64 deadline)
{
	bool held = holds(argument);

	if (held || deadline == DEADLINE_NOW)
		return held;
	ConditionVariablePrepareToSleep(variable);
	while (!(held = holds(argument)))
	{
		long left = ClockMillisecondsUntil(deadline);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(variable, left, events[reason]);
	}
	ConditionVariableCancelSleep();
	return held;
}
