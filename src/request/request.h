/*
 * request.h
 *	  A request as it comes from SQL.
 */
#ifndef REQUEST_H
#define REQUEST_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/array.h"
#include "utils/inet.h"

/*
 * The arguments of verify and authenticate; explain_key has a key_id in the
 * first one's place.
 */
typedef enum RequestArgument
{
	REQUEST_KEY,
	REQUEST_ENDPOINT,
	REQUEST_IP,
	REQUEST_ORIGIN,
	REQUEST_PRODUCT,
	REQUEST_SCOPES,
	REQUEST_COST
} RequestArgument;

/* NULL where none was given. */
typedef struct Request
{
	const text *key;
	const text *endpoint;
	const inet *ip;
	const text *origin;
	const text *product;
	ArrayType *scopes;
	int32 cost; /* units, not negative */
} Request;

extern void RequestRead(FunctionCallInfo fcinfo, Request *request);
extern void RequestCheckCost(int32 cost);

#endif
