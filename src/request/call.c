/*
 * call.c
 *	  One call of verify, verify_many or complete: its deadline, and what it
 *	  waits for.
 *
 * All waits of a call end together, apikeys.queue_timeout after its start: the
 * deadlock detector cannot see them.  What the call holds in shared memory is
 * released by MeteringRelease; the locks of first uses end with the transaction
 * at the latest.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "engine/engine.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "engine/waitpoint.h"
#include "pure/clock.h"
#include "request/call.h"
#include "request/guard.h"
#include "request/metering.h"

#define GUARD_NAP_MS 1 /* between two attempts to lock a key that is being deleted */

bool CallSynchronous = false;

/* Starts a call. */
void
CallBegin(Call *call)
{
	EngineRequire();
	MeteringBegin();
	MeteringRelease(); /* what an earlier call left, if an error was caught without an abort */
	call->deadline = ClockNow() + QueueTimeout * NS_PER_MILLISECOND;
	call->durable_at = 0;
	call->late = false;
	call->first_use_count = 0;
}

/*
 * Waits for all that must be durable and unlocks the first uses; false: this
 * wait or an earlier one was not in time.
 */
bool
CallAwaitDurable(Call *call)
{
	if (call->durable_at != 0)
	{
		WAIT_POINT("verify_wait");
		call->late |= !QueueWaitDurable(call->durable_at, call->deadline);
	}
	call->durable_at = 0;
	while (call->first_use_count > 0)
		GuardFirstUseUnlock(call->first_uses[--call->first_use_count]);
	return !call->late;
}

/*
 * Locks a key's first use against its deletion; false: not in time.  A session
 * that deletes it may be waiting for keys that this call has locked before, so
 * these are unlocked first.
 */
bool
CallLockFirstUse(Call *call, int64 key_id)
{
	if (call->first_use_count == CALL_FIRST_USES)
		(void) CallAwaitDurable(call);
	WAIT_POINT("verify_lock");
	if (call->late)
		return false;
	while (!GuardFirstUseTryLock(key_id))
	{
		CHECK_FOR_INTERRUPTS();
		if (!CallAwaitDurable(call) || ClockMillisecondsUntil(call->deadline) == 0)
			return false;
		WaitNap(WAIT_FIRST_USE, GUARD_NAP_MS);
	}
	call->first_uses[call->first_use_count++] = key_id;
	return true;
}
