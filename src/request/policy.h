/*
 * policy.h
 *	  The checks of a request that need no meters, in their order.
 */
#ifndef APIKEYS_POLICY_H
#define APIKEYS_POLICY_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "request/lookup.h"
#include "request/request.h"
#include "types/verdict.h"

/* What a check may look at. */
typedef struct PolicyCase
{
	Lookup *lookup;
	const KeyRow *row;
	const Request *request;
} PolicyCase;

typedef struct PolicyCheck
{
	const char *name;
	VerdictCode failure;
	bool (*passes)(const PolicyCase *);
	void (*describe)(const PolicyCase *, StringInfo);
} PolicyCheck;

/* In the order in which they decide; ends with a NULL name. */
extern const PolicyCheck PolicyChecks[];

extern bool
PolicyDecide(Lookup *lookup, const Request *request, KeyRow *row, Verdict *verdict, int64 deadline);

#endif
