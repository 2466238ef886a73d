/*
 * call.h
 *	  One call of verify, verify_many or complete: its deadline, and what it
 *	  waits for.
 */
#ifndef CALL_H
#define CALL_H

#include "postgres.h"

/*
 * First uses that a call may have locked at once; beyond that verify_many waits
 * for them in between.
 */
#define CALL_FIRST_USES 64

typedef struct Call
{
	int64 deadline; /* engine time, of all its waits */
	/* the position up to which the queue must be durable; 0: does not matter */
	uint64 durable_at;
	/* a wait for that was not in time: no more waits for it are begun */
	bool late;
	int first_use_count;
	int64 first_uses[CALL_FIRST_USES]; /* keys locked until theirs is durable */
} Call;

extern bool CallSynchronous; /* setting apikeys.synchronous_usage */

extern void CallBegin(Call *call);
extern bool CallAwaitDurable(Call *call);
extern bool CallLockFirstUse(Call *call, int64 key_id);

#endif
