/*
 * record.h
 *	  Meters and records a request that named a key.
 */
#ifndef RECORD_H
#define RECORD_H

#include "postgres.h"

#include "request/call.h"
#include "request/lookup.h"
#include "request/request.h"
#include "types/verdict.h"

typedef enum OnOverload
{
	OVERLOAD_DENY,
	OVERLOAD_ALLOW
} OnOverload;

/* How it went; the caller gets the first three. */
typedef enum Recorded
{
	RECORDED,
	RECORDED_FIRST_USE,	 /* not yet: the key's first use must be locked */
	RECORDED_LATE,		 /* not in time: overloaded */
	RECORDED_ADMISSIBLE, /* not yet: it would be admitted, which takes room */
	RECORDED_NO_METERS	 /* not yet: the meters must be pinned (again) */
} Recorded;

extern int RecordOnOverload; /* setting apikeys.on_overload, an OnOverload */

/* setting apikeys.log_query_string */
extern bool RecordQueryString;

extern int RecordEndpoint(const text *endpoint, char *out, int max);
extern Recorded RecordRequest(const Lookup *lookup, const Request *request, const KeyRow *row,
							  bool first_use_locked, Verdict *verdict, Call *call);

#endif
