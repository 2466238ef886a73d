/*
 * tally.h
 *	  What the events of a batch add to usage.
 */
#ifndef TALLY_H
#define TALLY_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "engine/event.h"

/*
 * What all subjects of a batch used, found by subject and bucket: each place of
 * the hash table has the number of a usage, counted from 1; 0: it is free.
 */
typedef struct Tally
{
	struct Usage *usages;
	uint32 count;
	uint32 *places;
	uint32 place_mask;
} Tally;

extern void TallyInit(Tally *tally, uint32 events);
extern void
TallyAddRequest(Tally *tally, const Event *request, const Event *completion, bool unlogged);
extern void TallyAddCompletion(Tally *tally, const Event *completion, TimestampTz at,
							   int64 account_id, bool admitted);
extern void TallyWrite(const Tally *tally);

#endif
