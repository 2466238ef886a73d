/*
 * limitstype.h
 *	  The SQL type apikeys.limits, for other C files.
 *
 * Not called limits.h: in an include path, that would hide the system's.
 */
#ifndef LIMITSTYPE_H
#define LIMITSTYPE_H

#include "postgres.h"

#include "limittext.h"

/* Unpacks a (possibly toasted or short) value of the type; needs no catalog access unless it is toasted. */
extern void LimitsUnpack(Datum value, LimitSet *set);

#endif
