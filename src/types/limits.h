/*
 * limits.h
 *	  The SQL type apikeys.limits, for other C files.
 */
#ifndef LIMITS_H
#define LIMITS_H

#include "postgres.h"

#include "pure/limittext.h"

/*
 * Unpacks a (possibly toasted or short) value of the type; needs no catalog
 * access unless it is toasted.
 */
extern void LimitsUnpack(Datum value, LimitSet *set);

#endif
