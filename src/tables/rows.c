/*
 * rows.c
 *	  Rows of the tables that the writer alone writes, without SQL.
 *
 * The writer adds to some rows and appends others, many thousand a second; SQL
 * would cost several times what the work itself costs.  Here rows are found by
 * a hint or an index, updated one by one and inserted many at a time, as COPY
 * does it.
 *
 * What a database administrator has added to a table has its effect: CHECK, NOT
 * NULL, unique and exclusion constraints, indexes, generated columns, defaults
 * of columns that the writer does not know.  Row-level security has none.
 * Where a trigger, a rule, a foreign key or a deferrable constraint would have
 * none, nothing is written (bypass.c).  Expressions run as the current user,
 * who must own the table: no other user can have planted them.
 *
 * A hint tells where a row was: the TID that the index has for its key.  It may
 * be wrong in every way, as those of request/hint.c: a row that is found there
 * counts only if it is visible and has the key.
 *
 * A table is open within one transaction, with a snapshot that is taken after
 * it was locked.  An earlier one would not see the rows of a table that was
 * rewritten (ALTER TABLE, VACUUM FULL) while this session waited for the lock.
 * Rows that were inserted or updated meanwhile are not found again, so a caller
 * changes each row once.  An error leaves everything to the transaction's
 * abort.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "tables/bypass.h"
#include "tables/rows.h"

#define ROWS_WAITING_MAX 1000

struct RowTable
{
	Relation rel;
	const RowColumns *columns;
	AttrNumber attnums[ROW_COLUMNS_MAX];
	Snapshot snapshot;
	EState *estate;
	ResultRelInfo *result; /* with the indexes */
	List *defaults;		   /* of unknown columns: DefaultValues */

	/* Finding: the row found, and how. */
	TupleTableSlot *found;
	IndexFetchTableData *fetch; /* at hints, which are good below */
	BlockNumber blocks;
	IndexScanDesc scan; /* NULL: no index has the key */
	int scan_keys;
	ScanKeyData keys[ROW_KEYS_MAX];
	struct Hint *hint; /* of the row found; NULL: none are kept */

	/* Writing. */
	TupleTableSlot *changed;
	TupleTableSlot *waiting[ROWS_WAITING_MAX]; /* to be inserted */
	int waiting_count;
};

typedef struct DefaultValue
{
	AttrNumber attnum;
	ExprState *expression;
} DefaultValue;

/* Where rows were, of all tables, by a hash of table and key. */
#define HINTS (256 * 1024)

typedef struct Hint
{
	uint32 check; /* more bits of the hash */
	ItemPointerData tid;
} Hint;

static Hint *hints = NULL;

/*
 * Fills in the numbers of the columns; raises an error if the table is not as
 * the writer knows it.
 */
static void
resolveColumns(RowTable *table)
{
	TupleDesc desc = RelationGetDescr(table->rel);
	const char *name = RelationGetRelationName(table->rel);

	if (table->rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("apikeys.%s is not an ordinary table", name)));
	if (table->rel->rd_rel->relowner != GetUserId())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("apikeys.%s has another owner than the request log", name),
						errhint("Give it to the owner of apikeys.request_log.")));
	for (int c = 0; c < table->columns->count; c++)
	{
		AttrNumber attnum =
			get_attnum(RelationGetRelid(table->rel), table->columns->columns[c].name);

		if (attnum == InvalidAttrNumber ||
			TupleDescAttr(desc, attnum - 1)->atttypid != table->columns->columns[c].type)
			ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
							errmsg("apikeys.%s has no column %s of type %s", name,
								   table->columns->columns[c].name,
								   format_type_be(table->columns->columns[c].type))));
		table->attnums[c] = attnum;
	}
}

/* Prepares the defaults of columns that the writer does not know. */
static void
prepareDefaults(RowTable *table)
{
	TupleDesc desc = RelationGetDescr(table->rel);

	for (AttrNumber attnum = 1; attnum <= desc->natts; attnum++)
	{
		bool known = false;
		DefaultValue *value;
		Node *expression;

		for (int c = 0; c < table->columns->count && !known; c++)
			known = (table->attnums[c] == attnum);
		if (known || TupleDescAttr(desc, attnum - 1)->attisdropped ||
			TupleDescAttr(desc, attnum - 1)->attgenerated ||
			(expression = build_column_default(table->rel, attnum)) == NULL)
			continue;
		value = palloc_object(DefaultValue);
		value->attnum = attnum;
		value->expression = ExecPrepareExpr((Expr *) expression, table->estate);
		table->defaults = lappend(table->defaults, value);
	}
}

/* Returns how many columns of the key an index begins with. */
static int
countIndexKeys(const RowTable *table, Relation index)
{
	int count = 0;

	if (index->rd_rel->relam != BTREE_AM_OID || !index->rd_index->indisvalid ||
		RelationGetIndexPredicate(index) != NIL)
		return 0;
	while (count < table->columns->key_count &&
		   count < IndexRelationGetNumberOfKeyAttributes(index) &&
		   index->rd_index->indkey.values[count] == table->attnums[count] &&
		   index->rd_opcintype[count] == table->columns->columns[count].type)
		count++;
	return count;
}

/* Starts a scan of the index that knows most of the key, if any does. */
static void
beginScan(RowTable *table)
{
	Relation index = NULL;

	for (int i = 0; i < table->result->ri_NumIndices; i++)
	{
		Relation candidate = table->result->ri_IndexRelationDescs[i];
		int count = countIndexKeys(table, candidate);

		if (count > table->scan_keys)
		{
			table->scan_keys = count;
			index = candidate;
		}
	}
	if (index == NULL)
		return;
	for (int i = 0; i < table->scan_keys; i++)
	{
		Oid type = index->rd_opcintype[i];

		ScanKeyEntryInitialize(&table->keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i],
							   get_opcode(get_opfamily_member(index->rd_opfamily[i], type, type,
															  BTEqualStrategyNumber)),
							   (Datum) 0);
	}
	table->scan = index_beginscan(table->rel, index, table->snapshot, NULL, table->scan_keys, 0);
}

/*
 * Opens a table for writing; the relation is locked, and closed with it.  The
 * result is in the current memory context.
 */
RowTable *
RowsOpen(Relation rel, const RowColumns *columns)
{
	RowTable *table = palloc0_object(RowTable);

	table->rel = rel;
	table->columns = columns;
	resolveColumns(table);
	BypassRefuse(rel, false);
	table->snapshot = RegisterSnapshot(GetLatestSnapshot());
	table->estate = CreateExecutorState();
	table->result = makeNode(ResultRelInfo);
	InitResultRelInfo(table->result, rel, 0, NULL, 0);
	ExecOpenIndices(table->result, false);
	prepareDefaults(table);

	table->found = table_slot_create(rel, NULL);
	table->changed = table_slot_create(rel, NULL);
	beginScan(table);
	if (columns->hinted)
	{
		table->fetch = table_index_fetch_begin(rel);
		table->blocks = RelationGetNumberOfBlocks(rel);
	}
	return table;
}

/* Tells whether the row that was found has the key. */
static bool
hasKey(RowTable *table, const Datum *key)
{
	for (int c = 0; c < table->columns->key_count; c++)
	{
		Form_pg_attribute attribute =
			TupleDescAttr(RelationGetDescr(table->rel), table->attnums[c] - 1);
		bool isnull;
		Datum value = slot_getattr(table->found, table->attnums[c], &isnull);

		if (isnull || !datumIsEqual(value, key[c], attribute->attbyval, attribute->attlen))
			return false;
	}
	return true;
}

/*
 * Looks where the key's row was, and sets table->hint to the place to remember
 * it.
 */
static bool
findHinted(RowTable *table, const Datum *key)
{
	uint64 hash = RelationGetRelid(table->rel);
	ItemPointerData tid;
	uint32 check;
	bool call_again = false;

	if (hints == NULL)
		hints = MemoryContextAllocExtended(TopMemoryContext, HINTS * sizeof(Hint),
										   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int c = 0; c < table->columns->key_count; c++)
	{
		hash = (hash ^ key[c]) * UINT64CONST(0x9E3779B97F4A7C15);
		hash ^= hash >> 32;
	}
	table->hint = &hints[hash % HINTS];
	check = hash >> 32;
	tid = table->hint->tid;
	if (table->hint->check == check && ItemPointerIsValid(&tid) &&
		ItemPointerGetBlockNumber(&tid) < table->blocks &&
		table_index_fetch_tuple(table->fetch, &tid, table->snapshot, table->found, &call_again,
								NULL) &&
		hasKey(table, key))
		return true;
	table->hint->check = check;
	ItemPointerSetInvalid(&table->hint->tid);
	return false;
}

static bool
findIndexed(RowTable *table, const Datum *key)
{
	ItemPointer tid;

	for (int i = 0; i < table->scan_keys; i++)
		table->keys[i].sk_argument = key[i];
	index_rescan(table->scan, table->keys, table->scan_keys, NULL, 0);
	while ((tid = index_getnext_tid(table->scan, ForwardScanDirection)) != NULL)
	{
		ItemPointerData root = *tid; /* which the index has, not the version found */

		if (!index_fetch_heap(table->scan, table->found) || !hasKey(table, key))
			continue;
		if (table->hint)
			table->hint->tid = root;
		return true;
	}
	return false;
}

static bool
findUnindexed(RowTable *table, const Datum *key)
{
	TableScanDesc scan = table_beginscan(table->rel, table->snapshot, 0, NULL);
	bool found = false;

	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, table->found))
	{
		CHECK_FOR_INTERRUPTS();
		found = hasKey(table, key);
	}
	if (found)
		ExecMaterializeSlot(table->found); /* it points into the scan */
	table_endscan(scan);
	return found;
}

/*
 * Looks for the row with a key, for RowsGet and RowsUpdate; false: there is
 * none.
 */
bool
RowsFind(RowTable *table, const Datum *key)
{
	return (table->columns->hinted && findHinted(table, key)) ||
		   (table->scan ? findIndexed(table, key) : findUnindexed(table, key));
}

/*
 * Tells what the row that was found has in the writer's columns; they are good
 * until the next is looked for.
 */
void
RowsGet(RowTable *table, Datum *values, bool *nulls)
{
	for (int c = 0; c < table->columns->count; c++)
		values[c] = slot_getattr(table->found, table->attnums[c], &nulls[c]);
}

/*
 * Puts the writer's columns into the slot and completes the row: generated
 * columns are computed, constraints are checked.
 */
static void
formRow(RowTable *table, TupleTableSlot *slot, const Datum *values, const bool *nulls,
		CmdType command)
{
	const TupleConstr *constr = RelationGetDescr(table->rel)->constr;

	for (int c = 0; c < table->columns->count; c++)
	{
		slot->tts_values[table->attnums[c] - 1] = values[c];
		slot->tts_isnull[table->attnums[c] - 1] = nulls[c];
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(table->rel);
	if (constr && constr->has_generated_stored)
		ExecComputeStoredGenerated(table->result, table->estate, slot, command);
	if (constr)
		ExecConstraints(table->result, slot, table->estate);
	if (table->rel->rd_rel->relispartition)
		ExecPartitionCheck(table->result, slot, table->estate, true);
}

/* Writes the rows that wait to be inserted. */
static void
insertWaiting(RowTable *table)
{
	MemoryContext caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(table->estate));

	if (table->waiting_count > 0)
		table_multi_insert(table->rel, table->waiting, table->waiting_count,
						   GetCurrentCommandId(true), 0, NULL);
	MemoryContextSwitchTo(caller);
	for (int i = 0; i < table->waiting_count; i++)
	{
		ResetPerTupleExprContext(table->estate);
		if (table->result->ri_NumIndices > 0)
			list_free(ExecInsertIndexTuples(table->result, table->waiting[i], table->estate, false,
											false, NULL, NIL, false));
		ExecClearTuple(table->waiting[i]);
	}
	table->waiting_count = 0;
}

/* Inserts a row, by RowsClose at the latest; copies the values. */
void
RowsInsert(RowTable *table, const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot;
	ExprContext *econtext = GetPerTupleExprContext(table->estate);
	ListCell *cell;

	if (table->waiting_count == ROWS_WAITING_MAX)
		insertWaiting(table);
	if (table->waiting[table->waiting_count] == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(table->estate->es_query_cxt);

		table->waiting[table->waiting_count] = table_slot_create(table->rel, NULL);
		MemoryContextSwitchTo(caller);
	}
	slot = table->waiting[table->waiting_count];
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, RelationGetDescr(table->rel)->natts * sizeof(bool));
	ResetExprContext(econtext);
	foreach(cell, table->defaults)
	{
		DefaultValue *value = lfirst(cell);

		slot->tts_values[value->attnum - 1] = ExecEvalExprSwitchContext(
			value->expression, econtext, &slot->tts_isnull[value->attnum - 1]);
	}
	formRow(table, slot, values, nulls, CMD_INSERT);
	ExecMaterializeSlot(slot);
	table->waiting_count++;
}

/* Updates the row that was found. */
void
RowsUpdate(RowTable *table, const Datum *values, const bool *nulls)
{
	int natts = RelationGetDescr(table->rel)->natts;
	TU_UpdateIndexes indexes;

	ResetPerTupleExprContext(table->estate);
	slot_getallattrs(table->found);
	ExecClearTuple(table->changed);
	memcpy(table->changed->tts_values, table->found->tts_values, natts * sizeof(Datum));
	memcpy(table->changed->tts_isnull, table->found->tts_isnull, natts * sizeof(bool));
	formRow(table, table->changed, values, nulls, CMD_UPDATE);
	simple_table_tuple_update(table->rel, &table->found->tts_tid, table->changed, table->snapshot,
							  &indexes);
	if (table->result->ri_NumIndices > 0 && indexes != TU_None)
		list_free(ExecInsertIndexTuples(table->result, table->changed, table->estate, true, false,
										NULL, NIL, TU_IS_SUMMARIZING(indexes)));
	if (table->hint && indexes != TU_None)
		table->hint->tid = table->changed->tts_tid;
}

/* Writes what waits, and closes the table; its lock stays. */
void
RowsClose(RowTable *table)
{
	insertWaiting(table);
	for (int i = 0; i < ROWS_WAITING_MAX && table->waiting[i]; i++)
		ExecDropSingleTupleTableSlot(table->waiting[i]);
	if (table->scan)
		index_endscan(table->scan);
	if (table->fetch)
		table_index_fetch_end(table->fetch);
	ExecDropSingleTupleTableSlot(table->found);
	ExecDropSingleTupleTableSlot(table->changed);
	ExecCloseIndices(table->result);
	FreeExecutorState(table->estate);
	UnregisterSnapshot(table->snapshot);
	table_close(table->rel, NoLock);
	pfree(table);
}
