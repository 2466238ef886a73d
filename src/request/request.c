/*
 * request.c
 *	  A request as it comes from SQL.
 */
#include "postgres.h"

#include "request/request.h"

/* Raises 22023 if the cost is negative. */
void
RequestCheckCost(int32 cost)
{
	if (cost < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("cost must not be negative"), errhidestmt(true)));
}

/* Reads the arguments of a request but the key. */
void
RequestRead(FunctionCallInfo fcinfo, Request *request)
{
	request->key = NULL;
	request->endpoint = PG_ARGISNULL(REQUEST_ENDPOINT) ? NULL : PG_GETARG_TEXT_PP(REQUEST_ENDPOINT);
	request->ip = PG_ARGISNULL(REQUEST_IP) ? NULL : PG_GETARG_INET_PP(REQUEST_IP);
	request->origin = PG_ARGISNULL(REQUEST_ORIGIN) ? NULL : PG_GETARG_TEXT_PP(REQUEST_ORIGIN);
	request->product = PG_ARGISNULL(REQUEST_PRODUCT) ? NULL : PG_GETARG_TEXT_PP(REQUEST_PRODUCT);
	request->scopes = PG_ARGISNULL(REQUEST_SCOPES) ? NULL : PG_GETARG_ARRAYTYPE_P(REQUEST_SCOPES);
	request->cost = PG_ARGISNULL(REQUEST_COST) ? 1 : PG_GETARG_INT32(REQUEST_COST);
	RequestCheckCost(request->cost);
}
