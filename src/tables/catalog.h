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

/*
 * A table as a module wants to see it: names given, the rest filled in by
 * CatalogOpen.
 */
typedef struct CatalogTable
{
	const char *name;
	const char *columns[CATALOG_COLUMNS_MAX]; /* ends with NULL */
	const char *indexes[CATALOG_INDEXES_MAX]; /* ends with NULL */

	uint64 generation;
	Oid oid;
	AttrNumber attnums[CATALOG_COLUMNS_MAX];
	Oid index_oids[CATALOG_INDEXES_MAX];
} CatalogTable;

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

/* A scan for the rows of one index key, under a snapshot of its own. */
typedef struct CatalogScan
{
	Relation index;
	IndexScanDesc scan;
} CatalogScan;

extern Oid CatalogSchema(bool missing_ok);
extern void CatalogResolve(CatalogTable *table);
extern bool CatalogTryLock(CatalogTable *table, CatalogLocks *locks);
extern void CatalogUnlock(CatalogLocks *locks);
extern Relation CatalogOpen(CatalogTable *table, LOCKMODE mode);
extern Datum
CatalogColumn(const CatalogTable *table, TupleTableSlot *slot, int column, bool *isnull);
extern void CatalogScanBegin(CatalogScan *scan, const CatalogTable *table, Relation rel, int index,
							 Snapshot snapshot, int count, const Datum *values,
							 const StrategyNumber *strategies);
extern bool CatalogScanNext(CatalogScan *scan, TupleTableSlot *slot, ItemPointer tid);
extern void CatalogScanEnd(CatalogScan *scan);

#endif
