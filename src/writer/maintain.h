/*
 * maintain.h
 *	  The partitions of the request log, and the other care for what is stored.
 */
#ifndef MAINTAIN_H
#define MAINTAIN_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/relcache.h"

/*
 * A step of the care; each runs in a transaction of its own.  True: there is
 * more to do of the same.
 */
typedef bool (*MaintainStep)(TimestampTz now);

extern int MaintainRetention; /* setting apikeys.log_retention, days; 0: for ever */

extern const MaintainStep MaintainSteps[]; /* ends with NULL */

extern bool MaintainHasPartition(TimestampTz at);
extern bool MaintainMakePartition(TimestampTz at);
extern Relation MaintainOpenPartition(Relation log, TimestampTz at);
extern void MaintainForget(void);

#endif
