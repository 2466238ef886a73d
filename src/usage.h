/*
 * usage.h
 *	  Usage as the tables have it: what meters are loaded from.
 */
#ifndef USAGE_H
#define USAGE_H

#include "postgres.h"

#include "meter.h"

extern MeterIndex UsageMeter(Oid relation, MeterKind kind, int64 id, const LimitSet *limits, int64 deadline);

#endif
