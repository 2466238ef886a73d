/*
 * request.c
 *	  A request as it comes from SQL, alone or as one of many.
 *
 * What a caller may send is bounded here: no call is long for what it is given.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "pure/keytext.h"
#include "request/request.h"

/* Returns the units of a cost; raises 22023 if they are out of range. */
int32
RequestCost(int64 cost)
{
	if (cost < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("cost must not be negative"), errhidestmt(true)));
	if (cost > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cost must not be greater than %d", PG_INT32_MAX), errhidestmt(true)));
	return (int32) cost;
}

static void
checkScopeCount(int count)
{
	if (count > REQUEST_SCOPES_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a request must not ask for more than %d scopes", REQUEST_SCOPES_MAX),
				 errhidestmt(true)));
}

/* Reads the scopes of an array. */
static void
readScopes(Request *request, ArrayType *array)
{
	Scope *scopes;
	Datum *values;
	bool *nulls;

	checkScopeCount(ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls,
					  &request->scope_count);
	scopes = palloc0_array(Scope, request->scope_count);
	for (int i = 0; i < request->scope_count; i++)
		if (!nulls[i])
		{
			const text *scope = DatumGetTextPP(values[i]);

			scopes[i] = (Scope){VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope)};
		}
	request->scopes = scopes;
}

/* Reads the scopes of a list that separates them by blanks. */
void
RequestSetScopes(Request *request, const text *list)
{
	const char *at = VARDATA_ANY(list);
	const char *end = at + VARSIZE_ANY_EXHDR(list);
	Scope *scopes;
	int count = 0;

	for (const char *c = at; c < end; c++)
		count += (*c != ' ' && (c == at || c[-1] == ' '));
	checkScopeCount(count);
	scopes = palloc_array(Scope, count);
	request->scopes = scopes;
	request->scope_count = count;
	for (int i = 0; i < count; i++)
	{
		while (*at == ' ')
			at++;
		scopes[i].bytes = at;
		while (at < end && *at != ' ')
			at++;
		scopes[i].len = at - scopes[i].bytes;
	}
}

/* Sets the text of the key (NULL: none), and computes its digest. */
void
RequestSetKey(Request *request, const text *key)
{
	size_t len = key ? VARSIZE_ANY_EXHDR(key) : 0;

	request->presented = (len > 0);
	request->key = (len > 0 && len <= KEYTEXT_PRESENTED_MAX) ? key : NULL;
	if (request->key)
		SecretDigest(&request->digest, VARDATA_ANY(key), len);
}

/* Reads the arguments of a request but the key. */
void
RequestRead(FunctionCallInfo fcinfo, Request *request)
{
	RequestSetKey(request, NULL);
	request->endpoint = PG_ARGISNULL(REQUEST_ENDPOINT) ? NULL : PG_GETARG_TEXT_PP(REQUEST_ENDPOINT);
	request->ip = PG_ARGISNULL(REQUEST_IP) ? NULL : PG_GETARG_INET_PP(REQUEST_IP);
	request->origin = PG_ARGISNULL(REQUEST_ORIGIN) ? NULL : PG_GETARG_TEXT_PP(REQUEST_ORIGIN);
	request->product = PG_ARGISNULL(REQUEST_PRODUCT) ? NULL : PG_GETARG_TEXT_PP(REQUEST_PRODUCT);
	request->scopes = NULL;
	request->scope_count = 0;
	if (!PG_ARGISNULL(REQUEST_SCOPES))
		readScopes(request, PG_GETARG_ARRAYTYPE_P(REQUEST_SCOPES));
	request->cost = PG_ARGISNULL(REQUEST_COST) ? 1 : RequestCost(PG_GETARG_INT64(REQUEST_COST));
}

/*
 * Reads an array argument, which must be as long as the first one, or NULL;
 * first NULL: it is the first one.
 */
void
RequestArrayRead(FunctionCallInfo fcinfo, int argument, Oid type, const RequestArray *first,
				 RequestArray *array)
{
	ArrayType *value;
	int16 len;
	bool by_value;
	char align;

	*array = (RequestArray){0};
	if (PG_ARGISNULL(argument))
		return;
	value = PG_GETARG_ARRAYTYPE_P(argument);
	array->count = ArrayGetNItems(ARR_NDIM(value), ARR_DIMS(value));
	if (array->count > REQUEST_ARRAY_MAX)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("an array must not have more than %d elements", REQUEST_ARRAY_MAX),
						errhint("Make several calls."), errhidestmt(true)));
	if (first && array->count != first->count)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the arrays must have the same length"),
						errdetail("The first one has %d elements, argument %d has %d.",
								  first->count, argument + 1, array->count),
						errhidestmt(true)));
	get_typlenbyvalalign(type, &len, &by_value, &align);
	deconstruct_array(value, type, len, by_value, align, &array->values, &array->nulls,
					  &array->count);
}

/* Returns an element of an array argument; NULL, if there is no array. */
NullableDatum
RequestArrayElement(const RequestArray *array, int i)
{
	NullableDatum element = {.isnull = true};

	if (array->values && !array->nulls[i])
		element = (NullableDatum){.value = array->values[i]};
	return element;
}
