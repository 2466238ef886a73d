/*
 * catalog.h
 *	  The extension's tables and indexes, resolved by name.
 */
#ifndef APIKEYS_CATALOG_H
#define APIKEYS_CATALOG_H

#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#define CATALOG_COLUMNS_MAX 24
#define CATALOG_INDEXES_MAX 3
#define CATALOG_KEYS_MAX 4

/* A table: names given, the rest filled in when it is needed. */
typedef struct CatalogTable
{
	const char *name;
	const char *columns[CATALOG_COLUMNS_MAX]; /* that are read; ends with NULL */
	const char *indexes[CATALOG_INDEXES_MAX]; /* that are scanned; ends with NULL */

	uint64 oid_generation; /* in which the OID was resolved */
	uint64 generation;	   /* in which the rest was, too */
	Oid oid;
	AttrNumber attnums[CATALOG_COLUMNS_MAX];
	Oid index_oids[CATALOG_INDEXES_MAX];
} CatalogTable;

/*
 * The tables, and the positions of their columns and indexes.  Of a table with
 * one index its position is 0.
 */
extern CatalogTable CatalogKey;
extern CatalogTable CatalogAccount;
extern CatalogTable CatalogKeyProduct;
extern CatalogTable CatalogMember;
extern CatalogTable CatalogPlan;
extern CatalogTable CatalogTier;
extern CatalogTable CatalogAddressBlock;
extern CatalogTable CatalogAdjustment;
extern CatalogTable CatalogUsageTotal;
extern CatalogTable CatalogUsageBucket;
extern CatalogTable CatalogRequestLog;
extern CatalogTable CatalogQuarantine;

typedef enum KeyColumn
{
	KEY_KEY_ID,
	KEY_ACCOUNT_ID,
	KEY_EXPIRES_AT,
	KEY_PREVIOUS_VALID_UNTIL,
	KEY_ROTATIONS,
	KEY_ARCHIVED_AT,
	KEY_ACTIVE,
	KEY_DIGEST,
	KEY_CATEGORY,
	KEY_SUSPENDED_REASON,
	KEY_TIER,
	KEY_LIMITS,
	KEY_OWNER_LIMITS,
	KEY_ALLOWED_DOMAINS,
	KEY_ALLOWED_IPS,
	KEY_SCOPES,
	KEY_HASH_RULE,
	KEY_PREVIOUS_HASH_RULE
} KeyColumn;

typedef enum KeyIndex
{
	KEY_BY_ID,
	KEY_BY_DIGEST,
	KEY_BY_PREVIOUS_DIGEST
} KeyIndex;

typedef enum AccountColumn
{
	ACCOUNT_ACCOUNT_ID,
	ACCOUNT_NAME,
	ACCOUNT_PLAN,
	ACCOUNT_LIMITS,
	ACCOUNT_ACTIVE
} AccountColumn;

typedef enum KeyProductColumn
{
	KEY_PRODUCT_PRODUCT
} KeyProductColumn;

typedef enum MemberColumn
{
	MEMBER_ACCOUNT_ID
} MemberColumn;

/* Of plan and tier, which are read in the same way. */
typedef enum RuleColumn
{
	RULE_NAME,
	RULE_LIMITS,
	RULE_PREFIX /* plans only */
} RuleColumn;

typedef enum AddressBlockColumn
{
	ADDRESS_BLOCK_NETWORK,
	ADDRESS_BLOCK_UNTIL
} AddressBlockColumn;

typedef enum AdjustmentColumn
{
	ADJUSTMENT_WINDOW,
	ADJUSTMENT_UNITS,
	ADJUSTMENT_UNTIL,
	ADJUSTMENT_COUNTS_FROM
} AdjustmentColumn;

typedef enum UsageTotalColumn
{
	USAGE_TOTAL_UNITS,
	USAGE_TOTAL_LAST_UNIT_AT
} UsageTotalColumn;

typedef enum UsageBucketColumn
{
	USAGE_BUCKET_BUCKET,
	USAGE_BUCKET_UNITS
} UsageBucketColumn;

/*
 * Locks (AccessShareLock) of a few tables and their indexes: zeroed, then
 * filled by CatalogTryLock.
 */
#define CATALOG_LOCKS_MAX (3 * (1 + CATALOG_INDEXES_MAX))

typedef struct CatalogLocks
{
	int count;
	Oid relations[CATALOG_LOCKS_MAX];
} CatalogLocks;

/* A scan of an index, under the caller's snapshot. */
typedef struct CatalogScan
{
	Relation index;
	IndexScanDesc scan;
} CatalogScan;

extern Oid CatalogSchema(bool missing_ok);
extern Oid CatalogOid(CatalogTable *table);
extern void CatalogResolve(CatalogTable *table);
extern bool CatalogTryLock(CatalogTable *table, CatalogLocks *locks);
extern void CatalogUnlock(CatalogLocks *locks);
extern Relation CatalogOpen(CatalogTable *table, LOCKMODE mode);
extern Relation CatalogTryOpen(CatalogTable *table);
extern Relation CatalogOpenBare(CatalogTable *table, LOCKMODE mode);
extern Datum
CatalogColumn(const CatalogTable *table, TupleTableSlot *slot, int column, bool *isnull);
extern void CatalogScanBegin(CatalogScan *scan, const CatalogTable *table, Relation rel, int index,
							 Snapshot snapshot, int count, const Datum *values,
							 const StrategyNumber *strategies);
extern bool CatalogTryScanBegin(CatalogScan *scan, CatalogTable *table, Relation rel, int index,
								Snapshot snapshot, int count, const Datum *values);
extern bool CatalogScanNext(CatalogScan *scan, TupleTableSlot *slot, ItemPointer tid);
extern void CatalogScanEnd(CatalogScan *scan);

#endif
