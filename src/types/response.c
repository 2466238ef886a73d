/*
 * response.c
 *	  The HTTP response that a verdict asks for; SQL: http_response.
 *
 * It follows RFC 9110 (Retry-After, WWW-Authenticate), RFC 6750 (the challenge
 * of bearer tokens) and draft-ietf-httpapi-ratelimit-headers-10 (RateLimit and
 * RateLimit-Policy).  Nothing that a caller passes can break out of a header:
 * the realm is quoted, of the scopes only scope-tokens are taken, and a verdict
 * is read by its codes and windows.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/typcache.h"

#include "pure/nametext.h"
#include "types/verdict.h"

/* RFC 9651: an Integer of structured fields has 15 digits at most. */
#define FIELD_INTEGER_MAX INT64CONST(999999999999999)

/* What a realm may have, in bytes. */
#define REALM_MAX 256

/* The verdict as the caller gives it. */
typedef struct Answer
{
	VerdictCode code;
	bool allowed;
	int16 status;
	text *message;
	Datum values[VERDICT_COLUMNS];
	bool nulls[VERDICT_COLUMNS];
} Answer;

PG_FUNCTION_INFO_V1(apikeys_verdict_response);

static void
refuseAnswer(const char *column)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("%s is not that of a verdict", column), errhidestmt(true)));
}

/* Reads the columns that every verdict has; raises 22023. */
static void
readAnswer(HeapTupleHeader header, Answer *answer)
{
	TupleDesc desc =
		lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};

	ItemPointerSetInvalid(&tuple.t_self);
	if (desc->natts != VERDICT_COLUMNS)
		elog(ERROR, "argument is not of the type apikeys.verdict");
	heap_deform_tuple(&tuple, desc, answer->values, answer->nulls);
	ReleaseTupleDesc(desc);
	if (answer->nulls[VERDICT_COLUMN_CODE] ||
		!VerdictFind(DatumGetTextPP(answer->values[VERDICT_COLUMN_CODE]), &answer->code))
		refuseAnswer("code");
	if (answer->nulls[VERDICT_COLUMN_STATUS])
		refuseAnswer("status");
	if (answer->nulls[VERDICT_COLUMN_MESSAGE])
		refuseAnswer("message");
	answer->allowed = (answer->code == VERDICT_VALID);
	answer->status = DatumGetInt16(answer->values[VERDICT_COLUMN_STATUS]);
	answer->message = DatumGetTextPP(answer->values[VERDICT_COLUMN_MESSAGE]);
}

/* Returns whole seconds, rounded up; -1 if there are none. */
static int64
wholeSeconds(const Answer *answer, VerdictColumn column)
{
	double seconds;

	if (answer->nulls[column])
		return -1;
	seconds = DatumGetFloat8(answer->values[column]);
	if (!(seconds >= 0))
		refuseAnswer(column == VERDICT_COLUMN_RESET_AFTER_S ? "reset_after_s" : "retry_after_s");
	return seconds > FIELD_INTEGER_MAX ? FIELD_INTEGER_MAX : (int64) ceil(seconds);
}

static void
putText(JsonbParseState **state, JsonbIteratorToken token, const char *value, int len)
{
	JsonbValue json = {.type = jbvString};

	json.val.string.val = unconstify(char *, value);
	json.val.string.len = len;
	pushJsonbValue(state, token, &json);
}

static void
putMember(JsonbParseState **state, const char *name, const char *value, int len)
{
	putText(state, WJB_KEY, name, strlen(name));
	putText(state, WJB_VALUE, value, len);
}

/*
 * Puts the fields about the limit that the verdict shows, if it shows one.  The
 * policy's name tells whose limit it is and its window, so that it always names
 * the same limit.
 */
static void
putRateLimit(JsonbParseState **state, const Answer *answer)
{
	static const VerdictColumn needed[] = {VERDICT_COLUMN_LIMIT_SUBJECT,
										   VERDICT_COLUMN_LIMIT_WINDOW, VERDICT_COLUMN_LIMIT_CAP,
										   VERDICT_COLUMN_REMAINING};
	char *subject;
	char *given;
	uint32 window;
	char name[LIMIT_WINDOW_NAME_MAX];
	char error[LIMITTEXT_ERROR_MAX];
	int64 reset;
	StringInfoData field;

	for (int i = 0; i < lengthof(needed); i++)
		if (answer->nulls[needed[i]])
			return;
	subject = TextDatumGetCString(answer->values[VERDICT_COLUMN_LIMIT_SUBJECT]);
	if (strcmp(subject, "key") != 0 && strcmp(subject, "account") != 0)
		refuseAnswer("limit_subject");
	given = TextDatumGetCString(answer->values[VERDICT_COLUMN_LIMIT_WINDOW]);
	if (!LimitWindowParse(given, strlen(given), &window, error))
		refuseAnswer("limit_window");
	VerdictWindowWord(window, name);

	initStringInfo(&field);
	appendStringInfo(
		&field, "\"%s-%s\";q=" INT64_FORMAT, subject, name,
		Min(DatumGetInt64(answer->values[VERDICT_COLUMN_LIMIT_CAP]), FIELD_INTEGER_MAX));
	if (window != LIMIT_WINDOW_TOTAL)
		appendStringInfo(&field, ";w=%u", window);
	putMember(state, "RateLimit-Policy", field.data, field.len);

	initStringInfo(&field);
	appendStringInfo(
		&field, "\"%s-%s\";r=" INT64_FORMAT, subject, name,
		Min(DatumGetInt64(answer->values[VERDICT_COLUMN_REMAINING]), FIELD_INTEGER_MAX));
	reset = wholeSeconds(answer, VERDICT_COLUMN_RESET_AFTER_S);
	if (reset >= 0)
		appendStringInfo(&field, ";t=" INT64_FORMAT, reset);
	putMember(state, "RateLimit", field.data, field.len);
}

/*
 * Puts Retry-After if waiting helps, not earlier than RateLimit says that there
 * are more units.  Its text must live as long as the state, which points to it.
 */
static void
putRetryAfter(JsonbParseState **state, const Answer *answer)
{
	int64 seconds = wholeSeconds(answer, VERDICT_COLUMN_RETRY_AFTER_S);
	char *field;

	if (answer->allowed || seconds < 0)
		return;
	seconds = Max(seconds, wholeSeconds(answer, VERDICT_COLUMN_RESET_AFTER_S));
	field = psprintf(INT64_FORMAT, seconds);
	putMember(state, "Retry-After", field, strlen(field));
}

/* Appends the realm as a quoted string; raises 22023. */
static void
appendRealm(StringInfo field, const text *realm)
{
	const char *bytes = VARDATA_ANY(realm);
	int len = VARSIZE_ANY_EXHDR(realm);

	if (len > REALM_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("realm must not have more than %d bytes", REALM_MAX)));
	appendStringInfoString(field, "Bearer realm=\"");
	for (int i = 0; i < len; i++)
	{
		if (bytes[i] < ' ' || bytes[i] > '~')
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("realm must have printable ASCII characters")));
		if (bytes[i] == '"' || bytes[i] == '\\')
			appendStringInfoChar(field, '\\');
		appendStringInfoChar(field, bytes[i]);
	}
	appendStringInfoChar(field, '"');
}

/* Appends what the request needed: the scope-tokens of a list. */
static void
appendScopes(StringInfo field, ArrayType *scopes)
{
	const char *separator = ", scope=\"";
	Datum *values;
	bool *nulls;
	int count;

	deconstruct_array(scopes, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		const text *scope;

		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			continue;
		scope = DatumGetTextPP(values[i]);
		if (!NameTextIsScope(VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope)))
			continue;
		appendStringInfoString(field, separator);
		appendBinaryStringInfo(field, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
		separator = " ";
	}
	if (*separator == ' ')
		appendStringInfoChar(field, '"');
}

/*
 * Puts the challenge of a 401, and of a request that lacks a scope.  An error
 * makes clients throw their key away: there is none where the key is good, or
 * where there is no key.
 */
static void
putChallenge(JsonbParseState **state, const Answer *answer, ArrayType *scopes, const text *realm)
{
	StringInfoData field;

	initStringInfo(&field);
	appendRealm(&field, realm);
	if (answer->code == VERDICT_INSUFFICIENT_SCOPE)
	{
		appendStringInfoString(&field, ", error=\"insufficient_scope\"");
		if (scopes)
			appendScopes(&field, scopes);
	}
	else if (answer->status != 401)
		return;
	else if (answer->code != VERDICT_MISSING && answer->code != VERDICT_QUOTA_EXCEEDED)
		appendStringInfoString(&field, ", error=\"invalid_token\"");
	putMember(state, "WWW-Authenticate", field.data, field.len);
}

static Datum
formObject(JsonbParseState **state)
{
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(state, WJB_END_OBJECT, NULL)));
}

/* Returns status, headers and body of the response to a verdict. */
Datum
apikeys_verdict_response(PG_FUNCTION_ARGS)
{
	JsonbParseState *headers = NULL;
	JsonbParseState *body = NULL;
	Datum values[3] = {0};
	bool nulls[3] = {false, false, false};
	Answer answer;
	TupleDesc desc;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	readAnswer(PG_GETARG_HEAPTUPLEHEADER(0), &answer);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "function does not return a row");
	desc = BlessTupleDesc(desc);

	pushJsonbValue(&headers, WJB_BEGIN_OBJECT, NULL);
	putRateLimit(&headers, &answer);
	putRetryAfter(&headers, &answer);
	putChallenge(&headers, &answer, PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1),
				 PG_ARGISNULL(2) ? cstring_to_text("api") : PG_GETARG_TEXT_PP(2));
	values[0] = Int32GetDatum(answer.status);
	values[1] = formObject(&headers);
	nulls[2] = answer.allowed;
	if (!answer.allowed)
	{
		pushJsonbValue(&body, WJB_BEGIN_OBJECT, NULL);
		putMember(&body, "error", VARDATA_ANY(answer.message), VARSIZE_ANY_EXHDR(answer.message));
		values[2] = formObject(&body);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
