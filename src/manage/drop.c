/*
 * drop.c
 *	  The removal of the extension while it is in use.
 *
 * DROP EXTENSION locks the relations of the extension one by one, and waits for
 * each while it holds those before.  A session that has read one of them and
 * comes to another, a report or the writer, does the same in another order.
 * Sooner or later the two wait for each other, and the deadlock detector ends
 * one of them; most often DROP, which has waited longer.
 *
 * So this hook locks the relations before the server does, in a way that can
 * never be part of a deadlock for long: it waits without end only for one
 * relation while it holds no other.  With that one it tries to get the rest,
 * waiting for a moment each time, shorter than deadlock_timeout.  If that is
 * not enough it gives back all, and begins again with the relation that it did
 * not get.  Then DROP finds everything locked.
 *
 * What a transaction has locked before it drops the extension, and what others
 * have made that depends on the extension (their views), is not cared for.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "manage/drop.h"
#include "tables/catalog.h"

#define EXTENSION "apikeys"
#define PATIENCE_MAX_MS 100 /* for a relation, while others are locked */

static ProcessUtility_hook_type next_hook = NULL;

/* Returns the owner of the extension; InvalidOid: there is no extension. */
static Oid
findOwner(void)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple row;
	Oid owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(row = systable_getnext(scan)))
		owner = ((Form_pg_extension) GETSTRUCT(row))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

/* Returns the tables, partitions, views and sequences of the extension. */
static List *
listRelations(void)
{
	Relation rel = table_open(RelationRelationId, AccessShareLock);
	List *relations = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple row;

	ScanKeyInit(&key, Anum_pg_class_relnamespace, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(CatalogSchema(true)));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(row = systable_getnext(scan)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(row);

		if (form->relkind == RELKIND_RELATION || form->relkind == RELKIND_PARTITIONED_TABLE ||
			form->relkind == RELKIND_VIEW || form->relkind == RELKIND_SEQUENCE)
			relations = lappend_oid(relations, form->oid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return relations;
}

/* Returns how long to wait for one relation while others are locked. */
static int
patience(int lock_timeout)
{
	int ms = Max(Min(PATIENCE_MAX_MS, DeadlockTimeout / 2), 1);

	return lock_timeout > 0 ? Min(ms, lock_timeout) : ms;
}

/*
 * Locks all relations in a subtransaction, the first (if there is one) for as
 * long as that takes.  Returns InvalidOid, or the relation that it could not
 * lock in time; then none is locked.
 */
static Oid
lockRelations(Oid first, const List *relations)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int lock_timeout = LockTimeout;
	volatile Oid current = InvalidOid;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		ListCell *cell;

		if (OidIsValid(first))
			LockRelationOid(first, AccessExclusiveLock);
		LockTimeout = patience(lock_timeout);
		foreach(cell, relations)
		{
			current = lfirst_oid(cell);
			LockRelationOid(current, AccessExclusiveLock);
		}
		LockTimeout = lock_timeout;
		current = InvalidOid;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		LockTimeout = lock_timeout;
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		if (!OidIsValid(current) || error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return current;
}

/* Locks all relations of the extension, without a part in any deadlock. */
static void
lockExtension(void)
{
	Oid first = InvalidOid;

	do
	{
		CHECK_FOR_INTERRUPTS();
		first = lockRelations(first, listRelations());
	} while (OidIsValid(first));
}

/* Tells whether the statement drops the extension, whose owner that is. */
static bool
dropsExtension(const Node *statement, Oid owner)
{
	ListCell *cell;

	if (IsA(statement, DropOwnedStmt))
	{
		foreach(cell, ((const DropOwnedStmt *) statement)->roles)
			if (get_rolespec_oid(lfirst(cell), true) == owner)
				return true;
	}
	else if (((const DropStmt *) statement)->removeType == OBJECT_EXTENSION)
	{
		foreach(cell, ((const DropStmt *) statement)->objects)
			if (strcmp(strVal(lfirst(cell)), EXTENSION) == 0)
				return true;
	}
	return false;
}

/*
 * Locks the extension if the statement is to drop it, and the user may do that;
 * whatever else is wrong with the statement is for the server to say.
 */
static void
prepare(const Node *statement)
{
	Oid owner;

	if (!(IsA(statement, DropStmt) || IsA(statement, DropOwnedStmt)) || XactReadOnly)
		return;
	owner = findOwner();
	if (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner) &&
		dropsExtension(statement, owner))
		lockExtension();
}

static void
processUtility(PlannedStmt *planned, const char *query, bool read_only_tree,
			   ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
			   DestReceiver *dest, QueryCompletion *completion)
{
	prepare(planned->utilityStmt);
	(next_hook ? next_hook : standard_ProcessUtility)(planned, query, read_only_tree, context,
													  params, environment, dest, completion);
}

/* Begins to look at statements, in this process and those that it forks. */
void
DropInit(void)
{
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = processUtility;
}
