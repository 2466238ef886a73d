/*
 * usage.h
 *	  Usage as the tables have it.
 */
#ifndef USAGE_H
#define USAGE_H

#include "postgres.h"

#include "utils/snapshot.h"

#include "engine/meter.h"

extern bool UsageReadTotal(const MeterSubject *subject, Snapshot snapshot, int64 *units);
extern void UsageLoad(const MeterSubject *subject, MeterLoading *loading);

#endif
