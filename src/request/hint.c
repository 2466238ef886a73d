/*
 * hint.c
 *	  Where a backend found rows before.
 *
 * A look-up by an index costs several times what a fetch from a known place
 * costs.  So a backend remembers where the rows of keys and accounts were: the
 * TID that the index has, and the buffer that the page was in, which spares the
 * search in the buffer table.  The meter of the row's subject is remembered
 * with it.
 *
 * A hint may be wrong in every way, and nothing invalidates it.  The block must
 * lie within the relation and the row there must be visible; then the caller
 * checks whether it is the row that it wants, and asks the index if not.  A
 * part of the key is therefore enough for a tag.
 *
 * The hints of a table live as long as the backend.  The sets are as large as a
 * cache line: a tag can be in any of the places of its set.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "request/hint.h"

#define HINT_SETS 8192
#define HINT_WAYS 3

typedef union HintSet
{
	Hint hints[HINT_WAYS]; /* the newest first */
	char pad[64];
} HintSet;

/* Returns the set that a tag belongs to; the first use of a table makes it. */
static Hint *
findSet(HintTable *table, uint32 tag)
{
	if (unlikely(table->sets == NULL)) /* zeros are invalid TIDs */
		table->sets = (HintSet *) CACHELINEALIGN(MemoryContextAllocZero(
			TopMemoryContext, HINT_SETS * sizeof(HintSet) + PG_CACHE_LINE_SIZE));
	return table->sets[tag % HINT_SETS].hints;
}

/*
 * Remembers where a row is.  It replaces what was known of the tag, else the
 * oldest hint of the set.  The hint stays where it is until the next call.
 */
Hint *
HintSave(HintTable *table, uint32 tag, const ItemPointerData *tid)
{
	Hint *hints = findSet(table, tag);
	int last = 0;

	while (last < HINT_WAYS - 1 && hints[last].tag != tag)
		last++;
	memmove(hints + 1, hints, last * sizeof(Hint));
	hints[0] = (Hint){.tag = tag, .meter = METER_NONE, .tid = *tid};
	return &hints[0];
}

/* Returns a hint to fill in for a row whose place is not remembered. */
Hint *
HintNone(void)
{
	static Hint hint;

	hint.meter = METER_NONE;
	return &hint;
}

/*
 * Tells whether the relation has the block.  The cached size may be too small.
 * It can be too large only until the invalidations of a truncation are
 * accepted, which taking the relation's lock has done.
 */
static bool
blockExists(Relation rel, BlockNumber block)
{
	BlockNumber known = RelationGetSmgr(rel)->smgr_cached_nblocks[MAIN_FORKNUM];

	return (known != InvalidBlockNumber && block < known) || block < RelationGetNumberOfBlocks(rel);
}

/*
 * Starts a fetch of the row, with its page pinned if it is still in its buffer.
 * Each eighth time the page is looked up all the same: PostgreSQL 15 counts
 * only that as a use, and would otherwise evict the page.
 */
static IndexFetchTableData *
beginFetch(Hint *hint, Relation rel)
{
	IndexFetchTableData *fetch = table_index_fetch_begin(rel);

	if (rel->rd_tableam == GetHeapamTableAmRoutine() && BufferIsValid(hint->buffer) &&
		hint->uses++ % 8 != 0 &&
		ReadRecentBuffer(rel->rd_locator, MAIN_FORKNUM, ItemPointerGetBlockNumber(&hint->tid),
						 hint->buffer))
		((IndexFetchHeapData *) fetch)->xs_cbuf = hint->buffer;
	return fetch;
}

/* Ends the fetch, and remembers the buffer. */
static void
endFetch(Hint *hint, Relation rel, IndexFetchTableData *fetch)
{
	if (rel->rd_tableam == GetHeapamTableAmRoutine())
		hint->buffer = ((IndexFetchHeapData *) fetch)->xs_cbuf;
	table_index_fetch_end(fetch);
}

/*
 * Fetches the visible row from where the tag's row was, and returns the hint;
 * NULL: there is none.  The caller checks that it is the row it wants.
 */
Hint *
HintFetch(HintTable *table, uint32 tag, Relation rel, Snapshot snapshot, TupleTableSlot *slot)
{
	Hint *hint = findSet(table, tag);
	Hint *end = hint + HINT_WAYS;
	ItemPointerData tid;
	IndexFetchTableData *fetch;
	bool call_again = false;
	bool found;

	while (hint < end && hint->tag != tag)
		hint++;
	if (hint == end || !ItemPointerIsValid(&hint->tid) ||
		!blockExists(rel, ItemPointerGetBlockNumber(&hint->tid)))
		return NULL;
	MeterPrefetch(hint->meter);
	tid = hint->tid;
	fetch = beginFetch(hint, rel);
	found = table_index_fetch_tuple(fetch, &tid, snapshot, slot, &call_again, NULL);
	endFetch(hint, rel, fetch);
	return found ? hint : NULL;
}
