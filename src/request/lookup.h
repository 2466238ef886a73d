/*
 * lookup.h
 *	  From the text of a key, or its id, to the rows that decide about it.
 */
#ifndef LOOKUP_H
#define LOOKUP_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "engine/meter.h"
#include "pure/limittext.h"
#include "pure/secret.h"

/*
 * What decides about a key: its row and its account's.  Pointers live until
 * LookupEnd, those to meters longer.
 */
typedef struct KeyRow
{
	int64 key_id;
	int64 account_id;
	bool active; /* and not archived */
	bool account_active;
	bool suspended;
	bool previous;			/* found by its former text, within the grace */
	int32 rotations;		/* the texts before the present one */
	TimestampTz expires_at; /* DT_NOEND: never */
	text *account_name;
	text *category;
	text *suspended_reason;			   /* NULL: not suspended */
	struct ArrayType *allowed_domains; /* NULL: unrestricted, as below */
	struct ArrayType *allowed_ips;
	struct ArrayType *scopes;
	/* where verify notes their meters: METER_NONE, or perhaps out of date */
	MeterIndex *meter;
	MeterIndex *account_meter;
	LimitSet limits;		 /* its own or its tier's, and those of its owner */
	LimitSet account_limits; /* effective: its own, or its plan's */
} KeyRow;

/*
 * A look-up: the locks, pins and the snapshot that KeyRow's pointers need.
 * Start from zeros.
 */
typedef struct Lookup
{
	bool open;
	bool late; /* it cannot go on without waiting: its answers mean nothing */
	/* if it is open */
	Snapshot snapshot;
	Relation key;
	Relation account;
	TupleTableSlot *key_slot;
	TupleTableSlot *account_slot;
} Lookup;

extern Oid LookupKeyRelation(void);
extern bool LookupBegin(Lookup *lookup);
extern void LookupExpect(const Digest *digest);
extern void LookupPrefetch(const Digest *digest);
extern bool
LookupByText(Lookup *lookup, const char *key, size_t len, const Digest *digest, KeyRow *row);
extern bool LookupById(Lookup *lookup, int64 key_id, KeyRow *row);
extern bool LookupMadeHere(Lookup *lookup, int64 key_id);
extern void LookupEnd(Lookup *lookup);

#endif
