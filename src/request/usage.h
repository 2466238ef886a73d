/*
 * usage.h
 *	  Usage as the tables have it.
 */
#ifndef USAGE_H
#define USAGE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#include "engine/meter.h"

/* What usage_total has of a subject. */
typedef struct UsageTotal
{
	bool used;				  /* it has a row: a request is on record */
	int64 units;			  /* of all time */
	TimestampTz last_unit_at; /* when the last of them was used; DT_NOEND: that is not known */
} UsageTotal;

extern void UsageReadTotal(const MeterSubject *subject, Snapshot snapshot, UsageTotal *total);
extern void UsageLoad(const MeterSubject *subject, Snapshot snapshot, MeterLoading *loading);

#endif
