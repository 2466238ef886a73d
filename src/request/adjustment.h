/*
 * adjustment.h
 *	  Resets of usage and grants of units, as the tables have them.
 */
#ifndef ADJUSTMENT_H
#define ADJUSTMENT_H

#include "postgres.h"

#include "utils/snapshot.h"

#include "engine/meter.h"

extern void
AdjustmentRead(const MeterSubject *subject, Snapshot snapshot, MeterAdjustments *adjustments);

#endif
