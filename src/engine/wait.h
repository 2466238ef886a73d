/*
 * wait.h
 *	  Waits of the extension, each with a wait event of its own.
 */
#ifndef WAIT_H
#define WAIT_H

#include "postgres.h"

#include "storage/condition_variable.h"

/*
 * What a process waits for; wait.c has the names that pg_stat_activity shows.
 */
typedef enum WaitReason
{
	WAIT_DURABLE,		/* an event would survive a crash */
	WAIT_FIRST_USE,		/* another session uses the key first, or deletes it */
	WAIT_LAUNCHER_MAIN, /* work for the launcher */
	WAIT_MAINTENANCE,	/* the writer has done the maintenance asked for */
	WAIT_METER_DRAIN,	/* the pending events of a meter are written */
	WAIT_METER_LOAD,	/* another session has loaded the meter */
	WAIT_METER_ROOM,	/* a meter or ring is free */
	WAIT_QUEUE_ROOM,	/* the queue has room for an event */
	WAIT_QUEUE_WRITTEN, /* the events are in the tables */
	WAIT_TABLE_LOCK,	/* a table that the call reads can be locked */
	WAIT_WRITER_BEGIN,	/* a writer has begun to serve the queue */
	WAIT_WRITER_MAIN	/* events or other work for the writer */
} WaitReason;

/* A deadline, in engine time, that has always passed: do not wait. */
#define DEADLINE_NOW INT64CONST(0)

extern void WaitInit(void);
extern void WaitNap(WaitReason reason, long timeout_ms);
extern bool WaitBeforeRetry(WaitReason reason, long *nap_ms, int64 deadline);
extern bool WaitUntil(WaitReason reason, ConditionVariable *variable, bool (*holds)(uint64),
					  uint64 argument, int64 deadline);

#endif
