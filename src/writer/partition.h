/*
 * partition.h
 *	  The partitions of the request log.
 */
#ifndef APIKEYS_PARTITION_H
#define APIKEYS_PARTITION_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/relcache.h"

extern int PartitionRetention; /* setting apikeys.log_retention, days; 0: for ever */

extern int64 PartitionDay(TimestampTz at);
extern bool PartitionIsKnown(TimestampTz at);
extern void PartitionForget(void);
extern void PartitionMake(TimestampTz at);
extern Relation PartitionOpen(Relation log, TimestampTz at);

/* Steps of maintenance; true: there may be more to do. */
extern bool PartitionMakeAhead(TimestampTz now);
extern bool PartitionDropExpired(TimestampTz now);

#endif
