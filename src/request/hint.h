/*
 * hint.h
 *	  Where a backend found rows before.
 */
#ifndef APIKEYS_HINT_H
#define APIKEYS_HINT_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "storage/buf.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "engine/meter.h"

/* Where a row was, and the meter of its subject. */
typedef struct Hint
{
	uint32 tag;
	MeterIndex meter; /* METER_NONE: not known */
	Buffer buffer;	  /* InvalidBuffer: not known */
	ItemPointerData tid;
	uint16 uses;
	uint16 row_offset; /* of the row in its page; 0: not known */
	uint16 row_len;
	uint32 account_tag; /* of a key: its account's */
} Hint;

/* The hints of one table. */
typedef struct HintTable
{
	uint32 set_count;
	union HintSet *sets; /* NULL: none yet */
} HintTable;

extern Hint *HintSave(HintTable *table, uint32 tag, const ItemPointerData *tid);
extern Hint *HintNone(void);
extern void HintPrefetch(const HintTable *table, uint32 tag);
extern const Hint *HintPrefetchRow(const HintTable *table, uint32 tag);
extern Hint *
HintFetch(HintTable *table, uint32 tag, Relation rel, Snapshot snapshot, TupleTableSlot *slot);

#endif
