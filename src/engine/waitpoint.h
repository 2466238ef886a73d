/*
 * waitpoint.h
 *	  Places where a test can hold a process; nothing at all unless built by
 *	  `make WAIT_POINTS=1`.
 *
 * A process that comes to such a place waits as long as a session of the same
 * database holds the advisory lock (hashtext('apikeys'), hashtext(name));
 * pg_locks shows the processes that wait.  At such a place, a process holds no
 * spinlock or LWLock, and no interrupts.
 */
#ifndef WAITPOINT_H
#define WAITPOINT_H

#ifdef APIKEYS_WAIT_POINTS
extern void WaitPoint(const char *name);
#define WAIT_POINT(name) WaitPoint(name)
#else
#define WAIT_POINT(name) ((void) 0)
#endif

#endif
