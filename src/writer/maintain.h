/*
 * maintain.h
 *	  Maintenance of usage: merging of old buckets.
 */
#ifndef MAINTAIN_H
#define MAINTAIN_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern bool MaintainMergeBuckets(TimestampTz now);

#endif
