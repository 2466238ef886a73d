/*
 * authenticate.h
 *	  The checks of a request, with nothing metered.
 */
#ifndef AUTHENTICATE_H
#define AUTHENTICATE_H

#include "postgres.h"

#include "fmgr.h"

#include "request/lookup.h"
#include "types/verdict.h"

extern bool AuthenticateFind(int64 key_id, KeyRow *row);
extern void Authenticate(FunctionCallInfo fcinfo, Lookup *lookup, KeyRow *row, Verdict *verdict);

#endif
