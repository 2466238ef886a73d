/*
 * compat.h
 *	  Gives the older servers the newer names; the only file that knows
 *	  PG_VERSION_NUM.
 */
#ifndef COMPAT_H
#define COMPAT_H

#include "postgres.h"

/* Before their names get other meanings, whatever the order of includes. */
#include "access/genam.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#define TU_IS_SUMMARIZING(indexes) ((indexes) == TU_Summarizing)
#else

#define guc_malloc(elevel, size) malloc(size)
#define rd_locator rd_node

/* What an update changes in the indexes: all or nothing. */
typedef bool TU_UpdateIndexes;
#define TU_None false
#define TU_IS_SUMMARIZING(indexes) false
#define ExecInsertIndexTuples(result, slot, estate, update, no_error, conflict, arbiters, \
							  summarizing) \
	ExecInsertIndexTuples(result, slot, estate, update, no_error, conflict, arbiters)

/* Soft errors are not known: every input error is raised. */
#define ereturn(context, dummy_value, ...) \
	do \
	{ \
		(void) (context); \
		ereport(ERROR, __VA_ARGS__); \
		return dummy_value; \
	} while (0)

#endif

#if PG_VERSION_NUM >= 170000
#define LockHeldByMe(tag, mode) LockHeldByMe(tag, mode, false)
#endif

#if PG_VERSION_NUM < 170000
#define WaitEventExtensionNew(name) ((void) (name), PG_WAIT_EXTENSION)
#endif

#if PG_VERSION_NUM < 180000
#define ConditionalXactLockTableWait(xid, log_failure) ConditionalXactLockTableWait(xid)
#define index_beginscan(heap, index, snapshot, instrument, key_count, order_count) \
	index_beginscan(heap, index, snapshot, key_count, order_count)
#endif

#endif
