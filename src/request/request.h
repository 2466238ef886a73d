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

#include "pure/secret.h"

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
	REQUEST_COST,
	REQUEST_ARGUMENTS,					/* how many */
	REQUEST_METERED = REQUEST_ARGUMENTS /* of begin_as alone */
} RequestArgument;

#define REQUEST_SCOPES_MAX 1000 /* that a request may ask for */
#define REQUEST_ARRAY_MAX 10000 /* elements of an array argument */

/* A scope that a request asks for; bytes NULL: SQL's NULL, which no key has. */
typedef struct Scope
{
	const char *bytes;
	size_t len;
} Scope;

/* NULL where none was given. */
typedef struct Request
{
	const text *key; /* NULL as well if it is too long to be one, or empty */
	bool presented;	 /* it has a key text, which is not empty */
	Digest digest;	 /* of the key text, unless NULL */
	const text *endpoint;
	const inet *ip;
	const text *origin;
	const text *product;
	const Scope *scopes;
	int scope_count;
	int32 cost; /* units, not negative */
} Request;

/* An array argument that has an element for each of many requests. */
typedef struct RequestArray
{
	int count;
	Datum *values; /* NULL: there is no array */
	bool *nulls;
} RequestArray;

extern void RequestSetKey(Request *request, const text *key);
extern void RequestRead(FunctionCallInfo fcinfo, Request *request);
extern int32 RequestCost(int64 cost);
extern void RequestSetScopes(Request *request, const text *list);
extern void RequestArrayRead(FunctionCallInfo fcinfo, int argument, Oid type,
							 const RequestArray *first, RequestArray *array);
extern NullableDatum RequestArrayElement(const RequestArray *array, int i);

#endif
