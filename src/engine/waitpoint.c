/*
 * waitpoint.c
 *	  Places where a test can hold a process.
 */
#include "postgres.h"

#include "engine/waitpoint.h"

#ifdef APIKEYS_WAIT_POINTS

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"

#define ADVISORY_TWO_KEYS 2 /* field4 of the locks that SQL takes with two keys */

static uint32
hashText(const char *text)
{
	return hash_bytes((const unsigned char *) text, strlen(text));
}

/*
 * Waits until nobody holds the point's lock, whatever lock_timeout is; needs no
 * transaction.  Can be cancelled.
 */
void
WaitPoint(const char *name)
{
	int saved_timeout = LockTimeout;
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, hashText("apikeys"), hashText(name), ADVISORY_TWO_KEYS);
	LockTimeout = 0;
	PG_TRY();
	{
		(void) LockAcquire(&tag, ShareLock, true, false);
	}
	PG_FINALLY();
	{
		LockTimeout = saved_timeout;
	}
	PG_END_TRY();
	LockRelease(&tag, ShareLock, true);
}

#endif
