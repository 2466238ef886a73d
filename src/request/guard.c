/*
 * guard.c
 *	  What may never happen to the rows of keys and accounts: a used key
 *	  deleted, an identity changed, the record of use taken away.
 *
 * A key is used from the moment any request has named it, and its row in
 * usage_total says so.  A foreign key cannot guard that: only the writer writes
 * usage_total, later than the request, and no lock of another session may delay
 * the writer.  So triggers look there instead.  They are ENABLE ALWAYS, in C
 * and without SPI: what they see does not depend on session_replication_role or
 * any other setting, on the caller's snapshot or privileges.
 *
 * Only the first use can race with a deletion.  The two exclude each other by
 * heavyweight locks: advisory ones, but of classes that SQL cannot use (its own
 * are 1 and 2):
 *
 *						whole table (class 3)		key (class 4)
 *	first use			AccessShare					Share
 *	delete				-							Exclusive
 *	many, TRUNCATE		AccessExclusive				-
 *
 * The first use takes its locks before it reads the key's row for the last
 * time, and releases them when its row in usage_total is committed.  A deletion
 * takes them before it looks there, and keeps them to the end of its
 * transaction.  The second of the two sees what the first has done.  The locks
 * of a deletion are ordinary locks of the transaction: they survive savepoints,
 * PREPARE TRANSACTION and a crash.  A key that has been used needs no lock.
 *
 * Order: the key's tuple (which the executor locks before the trigger), its
 * lock, the lock of the whole table.  A first use takes the latter two in the
 * opposite order, but waits for neither, so it cannot be part of a deadlock.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "engine/meter.h"
#include "request/guard.h"
#include "tables/catalog.h"
#include "tables/refuse.h"

#define LOCK_CLASS_TABLE 3
#define LOCK_CLASS_KEY 4

/*
 * A transaction that deletes more keys than this locks the whole table, to
 * spare the server's lock table.
 */
#define KEY_LOCKS_MAX 1000

#define SUBJECT_KEY 'k' /* usage_total.subject of a key */

/* The lock of the whole table. */
static LOCKTAG
tableTag(void)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, CatalogOid(&CatalogKey), 0, LOCK_CLASS_TABLE);
	return tag;
}

/* The lock of a key. */
static LOCKTAG
keyTag(int64 key_id)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key_id >> 32), (uint32) key_id,
						 LOCK_CLASS_KEY);
	return tag;
}

/*
 * Locks a key against deletion for its first use; false if somebody is about to
 * delete it, our own transaction included: its locks would not hinder us, and
 * what deletes the row may be the very command that we are called from.
 *
 * Never waits, so that a first use is no victim of the deadlock detector and
 * keeps its own deadline: try again until then, reading the key anew each time.
 * The locks end with GuardFirstUseUnlock, or with the transaction.
 */
bool
GuardFirstUseTryLock(int64 key_id)
{
	LOCKTAG table = tableTag();
	LOCKTAG key = keyTag(key_id);

	if (LockHeldByMe(&table, AccessExclusiveLock) || LockHeldByMe(&key, ExclusiveLock))
		return false;
	if (LockAcquire(&table, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	if (LockAcquire(&key, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		LockRelease(&table, AccessShareLock, false);
		return false;
	}
	return true;
}

/* Releases the locks of GuardFirstUseTryLock; under the same resource owner. */
void
GuardFirstUseUnlock(int64 key_id)
{
	LOCKTAG table = tableTag();
	LOCKTAG key = keyTag(key_id);

	LockRelease(&key, ShareLock, false);
	LockRelease(&table, AccessShareLock, false);
}

/*
 * Locks a key, or the whole table after many, against its first use to the end
 * of the transaction.
 *
 * Keys of statements and savepoints that were rolled back count, too: at worst
 * the whole table is locked sooner.
 */
static void
lockForDelete(int64 key_id)
{
	static FullTransactionId transaction = {0};
	static int keys = 0;
	FullTransactionId current = GetTopFullTransactionId();
	LOCKTAG tag;

	if (!FullTransactionIdEquals(current, transaction))
	{
		transaction = current;
		keys = 0;
	}

	if (keys < KEY_LOCKS_MAX)
	{
		keys++;
		tag = keyTag(key_id);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
	else
	{
		tag = tableTag();
		(void) LockAcquire(&tag, AccessExclusiveLock, false, false);
	}
}

/*
 * Tells whether a key (NULL: any) has a row in usage_total, of those committed
 * by now and our own.
 */
static bool
isUsed(const int64 *key_id)
{
	Relation usage = CatalogOpen(&CatalogUsageTotal, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(usage, NULL);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	Datum values[] = {CharGetDatum(SUBJECT_KEY), key_id ? Int64GetDatum(*key_id) : (Datum) 0};
	CatalogScan scan;
	bool used;

	CatalogScanBegin(&scan, &CatalogUsageTotal, usage, 0, snapshot, key_id ? 2 : 1, values, NULL);
	used = CatalogScanNext(&scan, slot, NULL);
	CatalogScanEnd(&scan);

	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(usage, AccessShareLock);
	return used;
}

/*
 * Tells whether events of a key (NULL: any) wait to be written.  To be asked
 * before isUsed: what waits no more then has been committed, and a snapshot
 * taken later sees it.
 */
static bool
isPending(const int64 *key_id)
{
	MeterSubject subject;

	if (key_id == NULL)
		return MeterAnyPending(CatalogOid(&CatalogKey));
	MeterSubjectSet(&subject, CatalogOid(&CatalogKey), METER_KEY, *key_id);
	return MeterHasPending(&subject);
}

PG_FUNCTION_INFO_V1(apikeys_guard_delete);
PG_FUNCTION_INFO_V1(apikeys_guard_truncate);
PG_FUNCTION_INFO_V1(apikeys_guard_change);
PG_FUNCTION_INFO_V1(apikeys_guard_record);

/* Stops a function that is not called as the trigger it is. */
static void
requireTrigger(FunctionCallInfo fcinfo, bool fits)
{
	if (!fits)
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function %s is called by its own trigger only",
							   get_func_name(fcinfo->flinfo->fn_oid)),
						errhidestmt(true)));
}

/* BEFORE DELETE of each row of key: refuse a key that has been used. */
Datum
apikeys_guard_delete(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	int64 key_id;
	bool isnull;

	requireTrigger(fcinfo, CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_BEFORE(trigger->tg_event) &&
							   TRIGGER_FIRED_FOR_ROW(trigger->tg_event) &&
							   TRIGGER_FIRED_BY_DELETE(trigger->tg_event));
	CatalogResolve(&CatalogKey);
	key_id = DatumGetInt64(heap_getattr(trigger->tg_trigtuple, CatalogKey.attnums[KEY_KEY_ID],
										RelationGetDescr(trigger->tg_relation), &isnull));

	lockForDelete(key_id);
	if (isPending(&key_id) || isUsed(&key_id))
		ereport(ERROR, (errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
						errmsg("key %lld has been used", (long long) key_id),
						errhint("Deactivate it instead: SELECT apikeys.deactivate_key(%lld).",
								(long long) key_id),
						RefusePlace("key", "key_id", NULL)));
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* BEFORE TRUNCATE of key: refuse if any key has been used. */
Datum
apikeys_guard_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	LOCKTAG tag;

	requireTrigger(fcinfo, CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_BEFORE(trigger->tg_event) &&
							   TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event));
	tag = tableTag();
	(void) LockAcquire(&tag, AccessExclusiveLock, false, false);
	if (isPending(NULL) || isUsed(NULL))
		ereport(ERROR, (errcode(ERRCODE_FOREIGN_KEY_VIOLATION), errmsg("keys have been used"),
						errhint("Delete the unused keys with DELETE; deactivate the others."),
						errhidestmt(true)));
	return PointerGetDatum(NULL);
}

/*
 * BEFORE UPDATE of a row, WHEN what never changes would: refuse, with the
 * trigger's arguments as message and hint.
 */
Datum
apikeys_guard_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	requireTrigger(fcinfo, CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_BEFORE(trigger->tg_event) &&
							   TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) &&
							   trigger->tg_trigger->tgnargs == 2);
	ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION), errmsg("%s", trigger->tg_trigger->tgargs[0]),
					errhint("%s", trigger->tg_trigger->tgargs[1]), errhidestmt(true)));
}

/*
 * BEFORE UPDATE, DELETE or TRUNCATE of what is on record: refuse, with the
 * trigger's arguments as message and hint.
 */
Datum
apikeys_guard_record(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	requireTrigger(fcinfo, CALLED_AS_TRIGGER(fcinfo) && TRIGGER_FIRED_BEFORE(trigger->tg_event) &&
							   !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) &&
							   trigger->tg_trigger->tgnargs == 2);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("%s", trigger->tg_trigger->tgargs[0]),
			 errhint("%s", trigger->tg_trigger->tgargs[1]), errhidestmt(true)));
}
