/*
 * catalog.c
 *	  The extension's tables and indexes, resolved by name.
 *
 * The C code reads the tables by direct scans: SPI would run with the caller's
 * rights and settings, and cost many times as much.  Each table that C touches
 * is defined here, once, with the columns and indexes that C reads.  OIDs and
 * column numbers are filled in when they are first needed, and again after one
 * of these relations has changed (each resolution belongs to a generation,
 * which a relcache callback ends).  Absence is never remembered: what is
 * missing raises an error each time.
 *
 * A lock on a table may be long in coming: anybody who may use the schema can
 * queue for one behind a reader's open transaction, and CREATE RULE does so
 * before it looks at privileges.  So what a request needs is locked by the
 * functions with Try in their name, which never wait.
 *
 * The writer needs of its tables no more than the OID: it finds columns and
 * indexes itself (rows.c), and works without an index.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "tables/catalog.h"

#define RELATIONS_MAX 64

CatalogTable CatalogKey = {.name = "key",
						   .columns = {[KEY_KEY_ID] = "key_id",
									   [KEY_ACCOUNT_ID] = "account_id",
									   [KEY_EXPIRES_AT] = "expires_at",
									   [KEY_PREVIOUS_VALID_UNTIL] = "previous_valid_until",
									   [KEY_ROTATIONS] = "rotations",
									   [KEY_ARCHIVED_AT] = "archived_at",
									   [KEY_ACTIVE] = "active",
									   [KEY_DIGEST] = "digest",
									   [KEY_CATEGORY] = "category",
									   [KEY_SUSPENDED_REASON] = "suspended_reason",
									   [KEY_TIER] = "tier",
									   [KEY_LIMITS] = "limits",
									   [KEY_OWNER_LIMITS] = "owner_limits",
									   [KEY_ALLOWED_DOMAINS] = "allowed_domains",
									   [KEY_ALLOWED_IPS] = "allowed_ips",
									   [KEY_SCOPES] = "scopes",
									   [KEY_HASH_RULE] = "hash_rule",
									   [KEY_PREVIOUS_HASH_RULE] = "previous_hash_rule"},
						   .indexes = {[KEY_BY_ID] = "key_pkey",
									   [KEY_BY_DIGEST] = "key_digest_key",
									   [KEY_BY_PREVIOUS_DIGEST] = "key_previous_digest_key"}};

CatalogTable CatalogAccount = {.name = "account",
							   .columns = {[ACCOUNT_ACCOUNT_ID] = "account_id",
										   [ACCOUNT_NAME] = "name",
										   [ACCOUNT_PLAN] = "plan",
										   [ACCOUNT_LIMITS] = "limits",
										   [ACCOUNT_ACTIVE] = "active"},
							   .indexes = {"account_pkey"}};

CatalogTable CatalogKeyProduct = {.name = "key_product",
								  .columns = {[KEY_PRODUCT_PRODUCT] = "product"},
								  .indexes = {"key_product_pkey"}};

CatalogTable CatalogMember = {
	.name = "member", .columns = {[MEMBER_ACCOUNT_ID] = "account_id"}, .indexes = {"member_pkey"}};

CatalogTable CatalogPlan = {
	.name = "plan",
	.columns = {[RULE_NAME] = "name", [RULE_LIMITS] = "limits", [RULE_PREFIX] = "key_prefix"}};

CatalogTable CatalogTier = {.name = "tier",
							.columns = {[RULE_NAME] = "name", [RULE_LIMITS] = "limits"}};

CatalogTable CatalogAddressBlock = {
	.name = "address_block",
	.columns = {[ADDRESS_BLOCK_NETWORK] = "network", [ADDRESS_BLOCK_UNTIL] = "until"}};

CatalogTable CatalogAdjustment = {.name = "adjustment",
								  .columns = {[ADJUSTMENT_WINDOW] = "limit_window",
											  [ADJUSTMENT_UNITS] = "units",
											  [ADJUSTMENT_UNTIL] = "until",
											  [ADJUSTMENT_COUNTS_FROM] = "counts_from"},
								  .indexes = {"adjustment_subject_idx"}};

CatalogTable CatalogUsageTotal = {
	.name = "usage_total",
	.columns = {[USAGE_TOTAL_UNITS] = "units", [USAGE_TOTAL_LAST_UNIT_AT] = "last_unit_at"},
	.indexes = {"usage_total_pkey"}};

CatalogTable CatalogUsageBucket = {
	.name = "usage_bucket",
	.columns = {[USAGE_BUCKET_BUCKET] = "bucket", [USAGE_BUCKET_UNITS] = "units"},
	.indexes = {"usage_bucket_pkey"}};

CatalogTable CatalogRequestLog = {.name = "request_log"};

CatalogTable CatalogQuarantine = {.name = "quarantine"};

static uint64 current_generation = 1;

/*
 * While names are being resolved, any change may concern them; an error leaves
 * this set, which costs no more than a renewal.
 */
static bool resolving = false;

/* Relations resolved in this generation. */
static Oid relations[RELATIONS_MAX];
static int relation_count = 0;

/* Ends the generation when one of the resolved relations has changed. */
static void
endGeneration(Datum arg, Oid relid)
{
	bool ours = (relid == InvalidOid || resolving);

	for (int i = 0; i < relation_count && !ours; i++)
		ours = (relations[i] == relid);
	if (ours)
	{
		current_generation++;
		relation_count = 0;
	}
}

static void
rememberRelation(Oid relid)
{
	for (int i = 0; i < relation_count; i++)
		if (relations[i] == relid)
			return;
	if (relation_count == RELATIONS_MAX)
		elog(ERROR, "too many relations");
	relations[relation_count++] = relid;
}

/* Returns the schema's OID; where there is none, InvalidOid or an error. */
Oid
CatalogSchema(bool missing_ok)
{
	Oid schema = get_namespace_oid("apikeys", true);

	if (!OidIsValid(schema) && !missing_ok)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_SCHEMA),
						errmsg("extension apikeys is not installed in this database"),
						errhint("Run CREATE EXTENSION apikeys."), errhidestmt(true)));
	return schema;
}

static Oid
resolveRelation(Oid schema, const char *name)
{
	Oid relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation apikeys.%s does not exist", name), errhidestmt(true)));
	return relid;
}

/* Sees to it that changes of relations end the generation. */
static void
registerCallback(void)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterRelcacheCallback(endGeneration, (Datum) 0);
	registered = true;
}

/* Fills in the OID of the table, unless it is known and still right. */
static void
resolveOid(CatalogTable *table)
{
	uint64 generation;

	if (table->oid_generation == current_generation)
		return;
	registerCallback();

	/*
	 * The generation is read before the name: a change in between ends it, and
	 * the OID is resolved again.
	 */
	generation = current_generation;
	resolving = true;
	table->oid = resolveRelation(CatalogSchema(false), table->name);
	rememberRelation(table->oid);
	resolving = false;
	table->oid_generation = generation;
}

/* Returns the OID of the table. */
Oid
CatalogOid(CatalogTable *table)
{
	resolveOid(table);
	return table->oid;
}

/* Fills in OIDs and column numbers, unless they are known and still right. */
void
CatalogResolve(CatalogTable *table)
{
	Oid schema;
	uint64 generation;

	if (likely(table->generation == current_generation))
		return;
	registerCallback();
	generation = current_generation; /* as in resolveOid */
	resolveOid(table);
	resolving = true;
	schema = CatalogSchema(false);
	for (int i = 0; i < CATALOG_INDEXES_MAX && table->indexes[i]; i++)
	{
		table->index_oids[i] = resolveRelation(schema, table->indexes[i]);
		rememberRelation(table->index_oids[i]);
	}
	for (int i = 0; i < CATALOG_COLUMNS_MAX && table->columns[i]; i++)
	{
		table->attnums[i] = get_attnum(table->oid, table->columns[i]);
		if (table->attnums[i] == InvalidAttrNumber)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("column %s of relation apikeys.%s does not exist",
								   table->columns[i], table->name),
							errhint("Run ALTER EXTENSION apikeys UPDATE."), errhidestmt(true)));
	}
	resolving = false;
	table->generation = generation;
}

/*
 * Tells whether our own transaction holds a lock on the relation that is
 * stronger than AccessShareLock.
 */
static bool
isLockedStronger(Oid relation)
{
	LOCKTAG tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
	for (LOCKMODE mode = AccessShareLock + 1; mode <= AccessExclusiveLock; mode++)
		if (LockHeldByMe(&tag, mode))
			return true;
	return false;
}

/*
 * Locks a relation for reading, unless that takes waiting (false).  A lock that
 * is free costs no more than if it were waited for.
 */
static bool
tryLockRelation(Oid relation)
{
	if (likely(ConditionalLockRelationOid(relation, AccessShareLock)))
		return true;

	/*
	 * Before PostgreSQL 17 this is refused where others wait for a stronger
	 * lock, even if these wait for us.  In that case the lock is given without
	 * waiting.
	 */
	if (!isLockedStronger(relation))
		return false;
	LockRelationOid(relation, AccessShareLock);
	return true;
}

/*
 * Locks the relation whose OID CatalogResolve has filled in, as tryLockRelation
 * does.  Where the relation has been replaced meanwhile, the new one is locked.
 */
static bool
tryLockCurrent(CatalogTable *table, const Oid *oid)
{
	for (;;)
	{
		Oid relation = *oid;

		if (!tryLockRelation(relation))
			return false;
		CatalogResolve(table); /* taking the lock may have brought news of a change */
		if (likely(*oid == relation))
			return true;
		UnlockRelationOid(relation, AccessShareLock);
	}
}

static bool
tryLock(CatalogTable *table, const Oid *oid, CatalogLocks *locks)
{
	Assert(locks->count < CATALOG_LOCKS_MAX);
	if (!tryLockCurrent(table, oid))
		return false;
	locks->relations[locks->count++] = *oid;
	return true;
}

/* Gives back all locks but the first so many. */
static void
unlockTo(CatalogLocks *locks, int count)
{
	while (locks->count > count)
		UnlockRelationOid(locks->relations[--locks->count], AccessShareLock);
}

/*
 * Locks the table and its indexes for reading, unless that takes waiting
 * (false): then none of them is locked.  After it CatalogOpen and
 * CatalogScanBegin do not wait.
 */
bool
CatalogTryLock(CatalogTable *table, CatalogLocks *locks)
{
	int before = locks->count;

	CatalogResolve(table);
	if (!tryLock(table, &table->oid, locks))
		return false;
	for (int i = 0; i < CATALOG_INDEXES_MAX && table->indexes[i]; i++)
		if (!tryLock(table, &table->index_oids[i], locks))
		{
			unlockTo(locks, before);
			return false;
		}
	return true;
}

/* Gives back what CatalogTryLock has locked; under the same resource owner. */
void
CatalogUnlock(CatalogLocks *locks)
{
	unlockTo(locks, 0);
}

/*
 * Opens and locks the table whose OID has been filled in; NULL: it was dropped
 * while its lock was waited for, and is to be found again by its name.
 */
static Relation
openFound(CatalogTable *table, LOCKMODE mode)
{
	Relation rel;

	CHECK_FOR_INTERRUPTS();
	rel = try_table_open(table->oid, mode);
	if (rel == NULL)
		table->oid_generation = table->generation = 0;
	return rel;
}

/*
 * Opens and locks the table.  The relation is closed with table_close, which
 * may give back the lock, too.
 */
Relation
CatalogOpen(CatalogTable *table, LOCKMODE mode)
{
	Relation rel;

	do
		CatalogResolve(table);
	while ((rel = openFound(table, mode)) == NULL);

	/* Taking the lock may have brought news of a change. */
	CatalogResolve(table);
	return rel;
}

/*
 * Opens the table and locks it for reading, unless that takes waiting: then it
 * returns NULL.
 */
Relation
CatalogTryOpen(CatalogTable *table)
{
	CatalogResolve(table);
	return tryLockCurrent(table, &table->oid) ? table_open(table->oid, NoLock) : NULL;
}

/*
 * Opens and locks the table, as CatalogOpen does, without its columns and
 * indexes: CatalogColumn and CatalogScanBegin cannot be used.
 */
Relation
CatalogOpenBare(CatalogTable *table, LOCKMODE mode)
{
	Relation rel;

	do
		resolveOid(table);
	while ((rel = openFound(table, mode)) == NULL);
	return rel;
}

/*
 * Returns a column of the row in the slot, by its position in table->columns.
 */
Datum
CatalogColumn(const CatalogTable *table, TupleTableSlot *slot, int column, bool *isnull)
{
	return slot_getattr(slot, table->attnums[column], isnull);
}

/* Starts a scan of the index that is open, as CatalogScanBegin does. */
static void
beginScan(CatalogScan *scan, Relation rel, Snapshot snapshot, int count, const Datum *values,
		  const StrategyNumber *strategies)
{
	ScanKeyData keys[CATALOG_KEYS_MAX];

	Assert(count <= CATALOG_KEYS_MAX);
	for (int i = 0; i < count; i++)
	{
		StrategyNumber strategy = strategies ? strategies[i] : BTEqualStrategyNumber;
		Oid type = scan->index->rd_opcintype[i];
		Oid operator= get_opfamily_member(scan->index->rd_opfamily[i], type, type, strategy);

		ScanKeyEntryInitialize(&keys[i], 0, i + 1, strategy, InvalidOid,
							   scan->index->rd_indcollation[i], get_opcode(operator), values[i]);
	}
	scan->scan = index_beginscan(rel, scan->index, snapshot, NULL, count, 0);
	index_rescan(scan->scan, keys, count, NULL, 0);
}

/*
 * Starts a scan of the index at a position in table->indexes for rows whose
 * first columns there equal the values, or stand to them as the strategies
 * say.  The snapshot and the values must outlive it.
 */
void
CatalogScanBegin(CatalogScan *scan, const CatalogTable *table, Relation rel, int index,
				 Snapshot snapshot, int count, const Datum *values,
				 const StrategyNumber *strategies)
{
	scan->index = index_open(table->index_oids[index], AccessShareLock);
	beginScan(scan, rel, snapshot, count, values, strategies);
}

/*
 * Starts a scan for rows whose first columns in the index equal the values,
 * unless the index cannot be locked without waiting (false).
 */
bool
CatalogTryScanBegin(CatalogScan *scan, CatalogTable *table, Relation rel, int index,
					Snapshot snapshot, int count, const Datum *values)
{
	if (!tryLockCurrent(table, &table->index_oids[index]))
		return false;
	scan->index = index_open(table->index_oids[index], NoLock);
	beginScan(scan, rel, snapshot, count, values, NULL);
	return true;
}

/*
 * Fetches the next row into the slot; false: there are no more.  The TID is
 * the one that the index holds, not that of the row's version: it stays good
 * while the row is updated in place.
 */
bool
CatalogScanNext(CatalogScan *scan, TupleTableSlot *slot, ItemPointer tid)
{
	ItemPointer next;

	while ((next = index_getnext_tid(scan->scan, ForwardScanDirection)) != NULL)
	{
		ItemPointerData root = *next;

		if (index_fetch_heap(scan->scan, slot))
		{
			if (tid)
				*tid = root;
			return true;
		}
	}
	return false;
}

/* Ends the scan, and gives back the index's lock; the slot keeps its row. */
void
CatalogScanEnd(CatalogScan *scan)
{
	index_endscan(scan->scan);
	index_close(scan->index, AccessShareLock);
}
