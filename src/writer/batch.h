/*
 * batch.h
 *	  Events become rows.
 */
#ifndef BATCH_H
#define BATCH_H

#include "postgres.h"

#include "engine/queue.h"

typedef enum AddressRule
{
	ADDRESS_FULL,
	ADDRESS_NETWORK,
	ADDRESS_NONE
} AddressRule;

/* Whole events, one behind the other. */
typedef struct Batch
{
	const char *events;
	uint64 size;	 /* bytes */
	uint64 position; /* in the queue, behind the last */
	bool discarded;	 /* of an extension that is gone: not written */
	/* NULL: log them; else they go to quarantine, and count all the same */
	const char *quarantine_reason;
} Batch;

extern int BatchLogAddress; /* setting apikeys.log_address, an AddressRule */

extern const Event *BatchNext(const Batch *batch, const Event *event);
extern void BatchWrite(const Batch *batch);
extern uint64 BatchSettle(const Batch *batch);
extern bool BatchIsUrgent(const Batch *batch);
extern void BatchSetDurable(const Batch *batch);

#endif
