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
 * The hints of a table live as long as the backend.  A tag can be in any of the
 * places of its set, which is a pair of cache lines: processors fetch these
 * together.
 *
 * Where many keys are in use, a look-up waits for memory most of the time.  So
 * its cache lines can be asked for in advance: first the set, then what its
 * hint leads to.  That reads no shared memory but by prefetches, which cannot
 * fail, whatever they are told to fetch.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "request/hint.h"

#define HINT_WAYS 4
#define CACHE_LINE 64
#define PREFETCHED_ROW_MAX 256 /* bytes of a row that are fetched in advance */

typedef union HintSet
{
	Hint hints[HINT_WAYS]; /* the newest first */
	char pad[2 * CACHE_LINE];
} HintSet;

StaticAssertDecl(sizeof(HintSet) == 2 * CACHE_LINE, "a set is a pair of cache lines");

/* Returns the set that a tag belongs to; the first use of a table makes it. */
static Hint *
findSet(HintTable *table, uint32 tag)
{
	if (unlikely(table->sets == NULL)) /* zeros are invalid TIDs */
		table->sets = (HintSet *) TYPEALIGN(
			sizeof(HintSet),
			MemoryContextAllocZero(TopMemoryContext, (table->set_count + 1) * sizeof(HintSet)));
	return table->sets[tag % table->set_count].hints;
}

/* Returns the hint that a table has of a tag; NULL: none. */
static Hint *
findHint(const HintTable *table, uint32 tag)
{
	Hint *hints = table->sets[tag % table->set_count].hints;

	for (int i = 0; i < HINT_WAYS; i++)
		if (hints[i].tag == tag && ItemPointerIsValid(&hints[i].tid))
			return &hints[i];
	return NULL;
}

/* Starts to fetch the set that a tag belongs to. */
void
HintPrefetch(const HintTable *table, uint32 tag)
{
	if (likely(table->sets))
	{
		const char *set = (const char *) &table->sets[tag % table->set_count];

		__builtin_prefetch(set);
		__builtin_prefetch(set + CACHE_LINE);
	}
}

/*
 * Starts to fetch what HintFetch of the tag will read, and the meter; the set
 * itself should have been fetched before.  Returns the hint; NULL: none.
 */
const Hint *
HintPrefetchRow(const HintTable *table, uint32 tag)
{
	const Hint *hint = likely(table->sets) ? findHint(table, tag) : NULL;

	if (hint && hint->buffer > 0)
	{
		const char *page = BufferGetPage(hint->buffer);

		__builtin_prefetch(GetBufferDescriptor(hint->buffer - 1), 1);
		__builtin_prefetch(page);
		__builtin_prefetch(
			PageGetItemId((Page) page, ItemPointerGetOffsetNumberNoCheck(&hint->tid)));
		for (int i = 0; i < Min(hint->row_len, PREFETCHED_ROW_MAX) + CACHE_LINE - 1;
			 i += CACHE_LINE)
			__builtin_prefetch(page + hint->row_offset + i);
		MeterPrefetch(hint->meter);
	}
	return hint;
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

/* Ends the fetch of a row, or of none, and remembers where it was. */
static void
endFetch(Hint *hint, Relation rel, IndexFetchTableData *fetch, const TupleTableSlot *row)
{
	if (rel->rd_tableam == GetHeapamTableAmRoutine())
	{
		hint->buffer = ((IndexFetchHeapData *) fetch)->xs_cbuf;
		if (row && TTS_IS_BUFFERTUPLE(row))
		{
			const HeapTupleData *tuple = ((const HeapTupleTableSlot *) row)->tuple;

			hint->row_offset = (char *) tuple->t_data - (char *) BufferGetPage(hint->buffer);
			hint->row_len = tuple->t_len;
		}
	}
	table_index_fetch_end(fetch);
}

/*
 * Fetches the visible row from where the tag's row was, and returns the hint;
 * NULL: there is none.  The caller checks that it is the row it wants.
 */
Hint *
HintFetch(HintTable *table, uint32 tag, Relation rel, Snapshot snapshot, TupleTableSlot *slot)
{
	Hint *hint = likely(table->sets) ? findHint(table, tag) : NULL;
	ItemPointerData tid;
	IndexFetchTableData *fetch;
	bool call_again = false;
	bool found;

	if (hint == NULL || !blockExists(rel, ItemPointerGetBlockNumber(&hint->tid)))
		return NULL;
	tid = hint->tid;
	fetch = beginFetch(hint, rel);
	found = table_index_fetch_tuple(fetch, &tid, snapshot, slot, &call_again, NULL);
	endFetch(hint, rel, fetch, found ? slot : NULL);
	return found ? hint : NULL;
}
