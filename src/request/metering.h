/*
 * metering.h
 *	  Meters of a call: pinned, and loaded from the tables.
 */
#ifndef METERING_H
#define METERING_H

#include "postgres.h"

#include "engine/meter.h"

extern void MeteringBegin(void);
extern void MeteringRelease(void);
extern MeterIndex MeteringPin(const MeterSubject *subject, const LimitSet *limits, int64 deadline);

#endif
