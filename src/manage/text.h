/*
 * text.h
 *	  Bounds and forms of what callers may send to be stored.
 */
#ifndef MANAGE_TEXT_H
#define MANAGE_TEXT_H

#include "postgres.h"

extern Datum TextCheck(const char *place, Oid type, Datum value);

#endif
