/*
 * limits.c
 *	  The SQL type apikeys.limits: several limits in one value.
 *
 * The text, and what a valid set is, are limittext.c's, which knows nothing of
 * PostgreSQL.
 *
 * A value is a varlena whose payload is the limits in the order of their
 * windows: the window (32 bits, seconds), then the cap (32 bits; 64 bits for
 * the window total).  Equal sets have equal bytes, so equality and hash look at
 * these only.  Nothing in the payload is aligned: values keep their short
 * header in a tuple, and the verify path reads them there with LimitsUnpack,
 * without a copy.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "types/limits.h"

#define LIMITS_HINT \
	"Write limits as 1000/day, 5/10 minutes. A window is second, minute, hour, day, week, month, " \
	"total, or some seconds, minutes, hours or days."

#define PACKED_MAX (LIMITS_MAX * (sizeof(uint32) + sizeof(int64)))

/* Packs a set into a new value. */
static Datum
packLimits(const LimitSet *set)
{
	struct varlena *packed = palloc(VARHDRSZ + PACKED_MAX);
	char *at = VARDATA(packed);

	for (int i = 0; i < set->count; i++)
	{
		const UsageLimit *limit = &set->limits[i];

		memcpy(at, &limit->window, sizeof(uint32));
		at += sizeof(uint32);
		if (limit->window == LIMIT_WINDOW_TOTAL)
		{
			memcpy(at, &limit->cap, sizeof(int64));
			at += sizeof(int64);
		}
		else
		{
			uint32 cap = (uint32) limit->cap;

			memcpy(at, &cap, sizeof(uint32));
			at += sizeof(uint32);
		}
	}
	SET_VARSIZE(packed, at - (char *) packed);
	return PointerGetDatum(packed);
}

/*
 * Unpacks a value, toasted or with a short header as it may be.  Allocates only
 * if it is toasted.
 */
void
LimitsUnpack(Datum value, LimitSet *set)
{
	struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);
	const char *at = VARDATA_ANY(packed);
	const char *end = at + VARSIZE_ANY_EXHDR(packed);

	set->count = 0;
	while (at < end && set->count < LIMITS_MAX)
	{
		UsageLimit *limit = &set->limits[set->count++];

		limit->ceiling = LIMIT_NO_CEILING;
		memcpy(&limit->window, at, sizeof(uint32));
		at += sizeof(uint32);
		if (limit->window == LIMIT_WINDOW_TOTAL)
		{
			memcpy(&limit->cap, at, sizeof(int64));
			at += sizeof(int64);
		}
		else
		{
			uint32 cap;

			memcpy(&cap, at, sizeof(uint32));
			at += sizeof(uint32);
			limit->cap = cap;
		}
	}
	if ((Pointer) packed != DatumGetPointer(value))
		pfree(packed);
}

PG_FUNCTION_INFO_V1(apikeys_limits_in);
PG_FUNCTION_INFO_V1(apikeys_limits_out);
PG_FUNCTION_INFO_V1(apikeys_limits_recv);
PG_FUNCTION_INFO_V1(apikeys_limits_send);

/* Reads a value from its text. */
Datum
apikeys_limits_in(PG_FUNCTION_ARGS)
{
	char *text = PG_GETARG_CSTRING(0);
	LimitSet set;
	char error[LIMITTEXT_ERROR_MAX];

	if (!LimitTextParse(text, strlen(text), &set, error))
		ereturn(fcinfo->context, (Datum) 0,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION), errmsg("invalid limits: %s", error),
				 errhint(LIMITS_HINT), errhidestmt(true)));
	return packLimits(&set);
}

/* Writes a value's canonical text. */
Datum
apikeys_limits_out(PG_FUNCTION_ARGS)
{
	LimitSet set;
	char text[LIMITTEXT_MAX];

	LimitsUnpack(PG_GETARG_DATUM(0), &set);
	LimitTextFormat(&set, text);
	PG_RETURN_CSTRING(pstrdup(text));
}

/*
 * Reads a value from its binary form: int32 count, then for each limit int32
 * window and int64 cap, in any order.
 */
Datum
apikeys_limits_recv(PG_FUNCTION_ARGS)
{
	StringInfo message = (StringInfo) PG_GETARG_POINTER(0);
	uint32 count = pq_getmsgint(message, sizeof(int32));
	LimitSet set = {0};
	char error[LIMITTEXT_ERROR_MAX];

	for (; count > 0; count--)
	{
		uint32 window = pq_getmsgint(message, sizeof(int32));
		int64 cap = pq_getmsgint64(message);

		if (!LimitSetAdd(&set, cap, window, error))
			ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
							errmsg("invalid limits: %s", error), errhidestmt(true)));
	}
	return packLimits(&set);
}

/* Writes a value's binary form. */
Datum
apikeys_limits_send(PG_FUNCTION_ARGS)
{
	LimitSet set;
	StringInfoData message;

	LimitsUnpack(PG_GETARG_DATUM(0), &set);
	pq_begintypsend(&message);
	pq_sendint32(&message, set.count);
	for (int i = 0; i < set.count; i++)
	{
		pq_sendint32(&message, set.limits[i].window);
		pq_sendint64(&message, set.limits[i].cap);
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&message));
}

PG_FUNCTION_INFO_V1(apikeys_limits_eq);
PG_FUNCTION_INFO_V1(apikeys_limits_ne);
PG_FUNCTION_INFO_V1(apikeys_limits_hash);
PG_FUNCTION_INFO_V1(apikeys_limits_hash_extended);

/* Tells whether the two arguments are the same set. */
static bool
argumentsAreEqual(FunctionCallInfo fcinfo)
{
	struct varlena *a = PG_GETARG_VARLENA_PP(0);
	struct varlena *b = PG_GETARG_VARLENA_PP(1);
	bool equal = VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
				 memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;

	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return equal;
}

Datum
apikeys_limits_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(argumentsAreEqual(fcinfo));
}

Datum
apikeys_limits_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!argumentsAreEqual(fcinfo));
}

Datum
apikeys_limits_hash(PG_FUNCTION_ARGS)
{
	struct varlena *packed = PG_GETARG_VARLENA_PP(0);
	uint32 hash = hash_bytes((unsigned char *) VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));

	PG_FREE_IF_COPY(packed, 0);
	PG_RETURN_UINT32(hash);
}

Datum
apikeys_limits_hash_extended(PG_FUNCTION_ARGS)
{
	struct varlena *packed = PG_GETARG_VARLENA_PP(0);
	uint64 hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(packed),
									  VARSIZE_ANY_EXHDR(packed), PG_GETARG_INT64(1));

	PG_FREE_IF_COPY(packed, 0);
	PG_RETURN_UINT64(hash);
}

PG_FUNCTION_INFO_V1(apikeys_limits_cap);
PG_FUNCTION_INFO_V1(apikeys_limits_items);
PG_FUNCTION_INFO_V1(apikeys_limits_lower);

/* Returns the cap of a window; NULL if there is no limit on it. */
Datum
apikeys_limits_cap(PG_FUNCTION_ARGS)
{
	text *name = PG_GETARG_TEXT_PP(1);
	LimitSet set;
	uint32 window;
	char error[LIMITTEXT_ERROR_MAX];

	LimitsUnpack(PG_GETARG_DATUM(0), &set);
	if (!LimitWindowParse(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), &window, error))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s", error),
						errhint(LIMITS_HINT), errhidestmt(true)));
	for (int i = 0; i < set.count; i++)
	{
		if (set.limits[i].window == window)
			PG_RETURN_INT64(set.limits[i].cap);
	}
	PG_RETURN_NULL();
}

/*
 * Lists the limits: window as text, its length (hours at most: a day here is 24
 * hours; NULL for total), cap.
 */
Datum
apikeys_limits_items(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LimitSet set;

	LimitsUnpack(PG_GETARG_DATUM(0), &set);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < set.count; i++)
	{
		const UsageLimit *limit = &set.limits[i];
		char name[LIMIT_WINDOW_NAME_MAX];
		Interval length = {.time = limit->window * USECS_PER_SEC};
		Datum values[3];
		bool nulls[3] = {false, limit->window == LIMIT_WINDOW_TOTAL, false};

		LimitWindowFormat(limit->window, name);
		values[0] = CStringGetTextDatum(name);
		values[1] = IntervalPGetDatum(&length);
		values[2] = Int64GetDatum(limit->cap);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}

/*
 * Returns limits lowered by those of the owner: the caps that decide; NULL:
 * they have too many windows together.  SQL: lower_limits.
 */
Datum
apikeys_limits_lower(PG_FUNCTION_ARGS)
{
	LimitSet set;
	LimitSet owner;

	LimitsUnpack(PG_GETARG_DATUM(0), &set);
	LimitsUnpack(PG_GETARG_DATUM(1), &owner);
	if (!LimitSetLower(&set, &owner))
		PG_RETURN_NULL();
	for (int i = 0; i < set.count; i++)
		set.limits[i].cap = Min(set.limits[i].cap, set.limits[i].ceiling);
	PG_RETURN_DATUM(packLimits(&set));
}

PG_FUNCTION_INFO_V1(apikeys_limits_from_jsonb);
PG_FUNCTION_INFO_V1(apikeys_limits_to_jsonb);

/*
 * Adds one pair of an object to a set.  Says in error (LIMITTEXT_ERROR_MAX
 * bytes) why it cannot.
 */
static bool
addPair(LimitSet *set, const JsonbValue *key, const JsonbValue *value, char *error)
{
	uint32 window;
	int64 cap;
	char *number;

	if (!LimitWindowParse(key->val.string.val, key->val.string.len, &window, error))
		return false;
	if (value->type != jbvNumeric)
	{
		strlcpy(error, "a cap is not a number", LIMITTEXT_ERROR_MAX);
		return false;
	}
	/* 1000.0 is a thousand: JSON does not tell whole numbers from others. */
	number = DatumGetCString(DirectFunctionCall1(
		numeric_out, DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(value->val.numeric))));
	return LimitCapParse(number, strlen(number), &cap, error) &&
		   LimitSetAdd(set, cap, window, error);
}

/*
 * Makes a value of an object of windows and caps: {"day": 1000, "10 minutes":
 * 5}.
 */
Datum
apikeys_limits_from_jsonb(PG_FUNCTION_ARGS)
{
	Jsonb *object = PG_GETARG_JSONB_P(0);
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue key;
	JsonbValue value;
	LimitSet set = {0};
	char error[LIMITTEXT_ERROR_MAX] = "not a JSON object";
	bool valid = JB_ROOT_IS_OBJECT(object);

	iterator = JsonbIteratorInit(&object->root);
	while (valid && (token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			(void) JsonbIteratorNext(&iterator, &value, true);
			valid = addPair(&set, &key, &value, error);
		}
	}
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION), errmsg("invalid limits: %s", error),
				 errhint(LIMITS_HINT), errhidestmt(true)));
	return packLimits(&set);
}

/* Makes an object of windows and caps of a value. */
Datum
apikeys_limits_to_jsonb(PG_FUNCTION_ARGS)
{
	LimitSet set;
	JsonbParseState *state = NULL;

	LimitsUnpack(PG_GETARG_DATUM(0), &set);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < set.count; i++)
	{
		char name[LIMIT_WINDOW_NAME_MAX];
		JsonbValue key = {.type = jbvString};
		JsonbValue value = {.type = jbvNumeric};

		key.val.string.len = LimitWindowFormat(set.limits[i].window, name);
		key.val.string.val = pnstrdup(name, key.val.string.len);
		pushJsonbValue(&state, WJB_KEY, &key);
		value.val.numeric = int64_to_numeric(set.limits[i].cap);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}
