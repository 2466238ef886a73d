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
	ItemPointerData tid;
	uint16 uses;
	Buffer buffer; /* InvalidBuffer: not known */
} Hint;

/* The hints of one table; zeroed at the start. */
typedef struct HintTable
{
	union HintSet *sets; /* NULL: none yet */
} HintTable;

extern Hint *HintSave(HintTable *table, uint32 tag, const ItemPointerData *tid);
extern Hint *HintNone(void);
extern Hint *
HintFetch(HintTable *table, uint32 tag, Relation rel, Snapshot snapshot, TupleTableSlot *slot);

#endif
