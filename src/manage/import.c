/*
 * import.c
 *	  Rows of import_keys: from JSON to the columns of keys.
 *
 * A bad row must not stop the others, and a subtransaction for each of ten
 * thousand rows would cost more than all the rest.  So an error of a row is
 * caught without one.  That is safe because nothing in a row's reading touches
 * anything but memory: no catalog is read but through caches, no lock or buffer
 * is taken, and what is caught are the errors of data alone.  Everything else,
 * a cancel included, goes on as an error of the call.
 *
 * The table of members is the list of what a row may have.  A member becomes
 * the column of the result that has its name, by the input function of that
 * column's type, and is checked as an argument of create_key is (text.c).
 *
 * Messages never have the text of a key in them.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "manage/key.h"
#include "manage/text.h"
#include "tables/refuse.h"
#include "types/digest.h"

#define ROWS_MAX 10000
#define COLUMNS_MAX 32

typedef enum MemberKind
{
	MEMBER_STRING,
	MEMBER_LIST, /* of strings */
	MEMBER_ANY,	 /* as it is */
	MEMBER_BOOLEAN,
	MEMBER_NUMBER
} MemberKind;

static const char *const kind_names[] = {"a string", "a list of strings", "any value", "a boolean",
										 "a number"};

typedef struct Member
{
	const char *name;
	MemberKind kind;
	const char *place; /* whose rule it must obey; NULL: none */
} Member;

static const Member members[] = {
	{"account", MEMBER_STRING, "account.name"},
	{"text", MEMBER_STRING, NULL},
	{"digest", MEMBER_STRING, NULL},
	{"encoding", MEMBER_STRING, NULL},
	{"hash_rule", MEMBER_STRING, NULL},
	{"prefix", MEMBER_STRING, "key.prefix"},
	{"hint", MEMBER_STRING, "key.hint"},
	{"alias", MEMBER_STRING, "key.alias"},
	{"category", MEMBER_STRING, "key.category"},
	{"tier", MEMBER_STRING, "key.tier"},
	{"limits", MEMBER_STRING, NULL},
	{"owner_limits", MEMBER_STRING, NULL},
	{"lifetime", MEMBER_STRING, NULL},
	{"expires_at", MEMBER_STRING, NULL},
	{"products", MEMBER_LIST, "key.products"},
	{"allowed_domains", MEMBER_LIST, "key.allowed_domains"},
	{"allowed_ips", MEMBER_LIST, "key.allowed_ips"},
	{"scopes", MEMBER_LIST, "key.scopes"},
	{"billing_type", MEMBER_STRING, "key.billing_type"},
	{"metadata", MEMBER_ANY, "key.metadata"},
	{"active", MEMBER_BOOLEAN, NULL},
	{"created_at", MEMBER_STRING, NULL},
	{"used_total", MEMBER_NUMBER, NULL},
};

/* A column of the result, with what makes its values. */
typedef struct Column
{
	Oid type;		/* of a value, or of an element of a list */
	Oid whole_type; /* of the value */
	FmgrInfo input;
	Oid input_param;
	int16 len;
	bool by_value;
	char align;
} Column;

/* The rows that are read, one after the other. */
typedef struct Reading
{
	TupleDesc desc;
	Column columns[lengthof(members)]; /* of the members that are columns */
	int places[lengthof(members)];	   /* of the members' columns; -1: none */
	TimestampTz present;

	/* of the row that is being read */
	const char *member; /* NULL: none in particular */
	Datum found[lengthof(members)];
	bool is_there[lengthof(members)];
	Datum values[COLUMNS_MAX];
	bool nulls[COLUMNS_MAX];
} Reading;

PG_FUNCTION_INFO_V1(apikeys_import_read);

static int
memberIndex(const char *name, size_t len)
{
	for (int i = 0; i < lengthof(members); i++)
		if (strlen(members[i].name) == len && memcmp(members[i].name, name, len) == 0)
			return i;
	return -1;
}

static void
refuse(Reading *reading, const char *member, const char *message)
{
	reading->member = member;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg_internal("%s", message),
					errhidestmt(true)));
}

static void
refuseKind(const Member *member)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("member \"%s\" must be %s", member->name, kind_names[member->kind]),
					errhidestmt(true)));
}

/* Returns a string as a value of a column's type, or an element of its. */
static Datum
readString(Column *column, const JsonbValue *value)
{
	char *string;

	if (column->type == TEXTOID)
		return PointerGetDatum(
			cstring_to_text_with_len(value->val.string.val, value->val.string.len));
	string = pnstrdup(value->val.string.val, value->val.string.len);
	return InputFunctionCall(&column->input, string, column->input_param, -1);
}

static Datum
readList(const Member *member, Column *column, const JsonbValue *value)
{
	JsonbContainer *list;
	int count;
	int lower = 1;
	Datum *elements;
	bool *nulls;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data) ||
		JsonContainerIsScalar(value->val.binary.data))
		refuseKind(member);
	list = value->val.binary.data;
	count = JsonContainerSize(list);
	elements = palloc0(sizeof(Datum) * Max(count, 1));
	nulls = palloc0(sizeof(bool) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(list, i);

		CHECK_FOR_INTERRUPTS();
		nulls[i] = (element->type == jbvNull);
		if (!nulls[i] && element->type != jbvString)
			refuseKind(member);
		if (!nulls[i])
			elements[i] = readString(column, element);
	}
	if (count == 0)
		return PointerGetDatum(construct_empty_array(column->type));
	return PointerGetDatum(construct_md_array(elements, nulls, 1, &count, &lower, column->type,
											  column->len, column->by_value, column->align));
}

/* Returns a member's value; what is not a column is text. */
static Datum
readMember(const Member *member, Column *column, JsonbValue *value)
{
	switch (member->kind)
	{
		case MEMBER_STRING:
			if (value->type != jbvString)
				refuseKind(member);
			return readString(column, value);
		case MEMBER_LIST:
			return readList(member, column, value);
		case MEMBER_ANY:
			return PointerGetDatum(JsonbValueToJsonb(value));
		case MEMBER_BOOLEAN:
			if (value->type != jbvBool)
				refuseKind(member);
			return BoolGetDatum(value->val.boolean);
		case MEMBER_NUMBER:
			if (value->type != jbvNumeric)
				refuseKind(member);
			return DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric));
	}
	return (Datum) 0;
}

/* Reads all members of a row that are not null. */
static void
readMembers(Reading *reading, JsonbContainer *row)
{
	JsonbIterator *iterator = JsonbIteratorInit(row);
	JsonbIteratorToken token;
	JsonbValue value;
	int i = -1;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			i = memberIndex(value.val.string.val, value.val.string.len);
			if (i < 0)
				refuse(reading, pnstrdup(value.val.string.val, value.val.string.len),
					   "there is no such member");
		}
		else if (token == WJB_VALUE && value.type != jbvNull)
		{
			reading->member = members[i].name;
			reading->found[i] = readMember(&members[i], &reading->columns[i], &value);
			if (members[i].place)
				reading->found[i] =
					TextCheck(members[i].place, reading->columns[i].whole_type, reading->found[i]);
			reading->is_there[i] = true;
		}
	}
	reading->member = NULL;
}

/* Returns a member's value, NULL if it is not there. */
static void *
found(Reading *reading, const char *name)
{
	int i = memberIndex(name, strlen(name));

	return reading->is_there[i] ? DatumGetPointer(reading->found[i]) : NULL;
}

/* Reads a digest in base64, whose alphabet may be that of URLs. */
static Datum
decodeBase64(const text *digest, bool url)
{
	StringInfoData padded;

	initStringInfo(&padded);
	appendBinaryStringInfo(&padded, VARDATA_ANY(digest), VARSIZE_ANY_EXHDR(digest));
	for (int i = 0; i < padded.len; i++)
	{
		if (url && padded.data[i] == '-')
			padded.data[i] = '+';
		else if (url && padded.data[i] == '_')
			padded.data[i] = '/';
	}
	if (padded.len % 4 == 3)
		appendStringInfoChar(&padded, '=');
	return DirectFunctionCall2(binary_decode, PointerGetDatum(cstring_to_text(padded.data)),
							   CStringGetTextDatum("base64"));
}

static Digest *
decodeDigest(Reading *reading)
{
	const text *digest = found(reading, "digest");
	const text *encoding = found(reading, "encoding");
	char *name = encoding ? text_to_cstring(encoding) : "hex";
	Digest *result = palloc(sizeof(Digest));
	bytea *bytes;

	reading->member = "digest";
	if (strcmp(name, "hex") == 0)
		bytes = DatumGetByteaPP(DirectFunctionCall2(
			binary_decode,
			DirectFunctionCall2(text_substr_no_len, PointerGetDatum(digest),
								Int32GetDatum(VARSIZE_ANY_EXHDR(digest) == 66 ? 3 : 1)),
			CStringGetTextDatum("hex")));
	else if (strcmp(name, "base64") == 0 || strcmp(name, "base64url") == 0)
		bytes = DatumGetByteaPP(decodeBase64(digest, name[6] != '\0'));
	else
	{
		bytes = NULL;
		refuse(reading, "encoding", "an encoding must be hex, base64 or base64url");
	}
	if (VARSIZE_ANY_EXHDR(bytes) != sizeof(Digest))
		refuse(reading, "digest", "a digest must have 32 bytes");
	memcpy(result, VARDATA_ANY(bytes), sizeof(Digest));
	return result;
}

/* Returns the hint of a key that was given without one. */
static text *
makeHint(const text *key, const text *prefix)
{
	StringInfoData hint;

	initStringInfo(&hint);
	if (prefix && VARSIZE_ANY_EXHDR(prefix) > 0)
	{
		appendBinaryStringInfo(&hint, VARDATA_ANY(prefix), VARSIZE_ANY_EXHDR(prefix));
		appendStringInfoChar(&hint, '_');
	}
	appendStringInfoString(&hint, GetDatabaseEncoding() == PG_UTF8 ? "\xE2\x80\xA6" : "...");
	if (key && pg_mbstrlen_with_len(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) >= 16)
	{
		text *last =
			DatumGetTextPP(DirectFunctionCall2(text_right, PointerGetDatum(key), Int32GetDatum(4)));

		appendBinaryStringInfo(&hint, VARDATA_ANY(last), VARSIZE_ANY_EXHDR(last));
	}
	return cstring_to_text_with_len(hint.data, hint.len);
}

static void
setColumn(Reading *reading, const char *name, Datum value)
{
	int place = SPI_fnumber(reading->desc, name) - 1;

	reading->values[place] = value;
	reading->nulls[place] = false;
}

/* Makes the digest and the hint, and sets what is not said. */
static void
completeRow(Reading *reading)
{
	text *key = found(reading, "text");
	text *digest = found(reading, "digest");
	text *hash_rule = found(reading, "hash_rule");
	text *hint = found(reading, "hint");
	int created = memberIndex("created_at", strlen("created_at"));
	int used = memberIndex("used_total", strlen("used_total"));

	if (found(reading, "account") == NULL)
		refuse(reading, "account", "a key must have an account");
	if ((key == NULL) == (digest == NULL))
		refuse(reading, key ? "digest" : "text", "give either the text of the key or its digest");
	if (hash_rule == NULL)
		hash_rule = cstring_to_text("sha256");
	reading->member = "hash_rule";
	KeyRequireHashRule(hash_rule);
	if (key && hint &&
		DatumGetInt32(DirectFunctionCall2Coll(textpos, C_COLLATION_OID, PointerGetDatum(hint),
											  PointerGetDatum(key))) > 0)
		refuse(reading, "hint", "the hint must not contain the key");
	reading->member = "text";
	setColumn(reading, "digest",
			  DigestPGetDatum(key ? KeyTextDigest(key, hash_rule) : decodeDigest(reading)));
	setColumn(reading, "hash_rule", PointerGetDatum(hash_rule));
	if (hint == NULL)
		setColumn(reading, "hint", PointerGetDatum(makeHint(key, found(reading, "prefix"))));
	if (reading->is_there[created])
	{
		TimestampTz at = DatumGetTimestampTz(reading->found[created]);

		if (TIMESTAMP_NOT_FINITE(at) || at > reading->present)
			refuse(reading, "created_at", "a key cannot have been made in the future");
	}
	if (reading->is_there[used] && DatumGetInt64(reading->found[used]) < 0)
		refuse(reading, "used_total", "used units must not be negative");
}

static void
readRow(Reading *reading, JsonbValue *row)
{
	memset(reading->is_there, false, sizeof(reading->is_there));
	memset(reading->nulls, true, sizeof(reading->nulls));
	reading->member = NULL;
	if (row->type != jbvBinary || !JsonContainerIsObject(row->val.binary.data))
		refuse(reading, NULL, "a row must be an object");
	readMembers(reading, row->val.binary.data);
	for (int i = 0; i < lengthof(members); i++)
		if (reading->is_there[i] && reading->places[i] >= 0)
		{
			reading->values[reading->places[i]] = reading->found[i];
			reading->nulls[reading->places[i]] = false;
		}
	completeRow(reading);
}

static void
setText(Reading *reading, const char *name, const char *value)
{
	int place = SPI_fnumber(reading->desc, name) - 1;

	reading->nulls[place] = (value == NULL);
	if (value)
		reading->values[place] = CStringGetTextDatum(value);
}

/* Reads a row, or what is wrong with it. */
static void
tryRow(Reading *reading, JsonbValue *row)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		readRow(reading, row);
	}
	PG_CATCH();
	{
		ErrorData *error;
		int category;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		FlushErrorState();
		memset(reading->nulls, true, sizeof(reading->nulls));
		setText(reading, "sqlstate", unpack_sql_state(error->sqlerrcode));
		setText(reading, "field", reading->member ? reading->member : error->column_name);
		setText(reading, "message", error->message);
		setText(reading, "detail", error->detail);
		setText(reading, "advice", error->hint);
		setText(reading, "broken", error->constraint_name);
	}
	PG_END_TRY();
}

/* Looks up what makes values of the columns. */
static void
prepareColumns(Reading *reading)
{
	for (int i = 0; i < lengthof(members); i++)
	{
		Column *column = &reading->columns[i];
		int number = SPI_fnumber(reading->desc, members[i].name);
		Oid type = number > 0 && strcmp(members[i].name, "digest") != 0 ?
					   TupleDescAttr(reading->desc, number - 1)->atttypid :
					   TEXTOID;
		Oid function;

		reading->places[i] = number > 0 && strcmp(members[i].name, "digest") != 0 ? number - 1 : -1;
		column->whole_type = type;
		column->type = members[i].kind == MEMBER_LIST ? get_element_type(type) : type;
		getTypeInputInfo(column->type, &function, &column->input_param);
		fmgr_info(function, &column->input);
		get_typlenbyvalalign(column->type, &column->len, &column->by_value, &column->align);
	}
}

/* Returns the rows of a JSON array as columns; SQL: read_import. */
Datum
apikeys_import_read(PG_FUNCTION_ARGS)
{
	Jsonb *rows = PG_GETARG_JSONB_P(0);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Reading *reading = palloc0(sizeof(Reading));
	MemoryContext row_context;
	int count;

	InitMaterializedSRF(fcinfo, 0);
	reading->desc = result->setDesc;
	reading->present = PG_GETARG_TIMESTAMPTZ(1);
	if (reading->desc->natts > COLUMNS_MAX)
		elog(ERROR, "too many columns");
	prepareColumns(reading);
	if (!JB_ROOT_IS_ARRAY(rows) || JB_ROOT_IS_SCALAR(rows))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rows must be an array of objects"), RefusePlace(NULL, "rows", NULL)));
	count = JB_ROOT_COUNT(rows);
	if (count > ROWS_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("at most %d keys are imported at a time", ROWS_MAX),
						RefusePlace(NULL, "rows", NULL)));
	row_context = AllocSetContextCreate(CurrentMemoryContext, "row", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < count; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		tryRow(reading, getIthJsonbValueFromContainer(&rows->root, i));
		reading->values[0] = Int32GetDatum(i + 1);
		reading->nulls[0] = false;
		tuplestore_putvalues(result->setResult, result->setDesc, reading->values, reading->nulls);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(row_context);
	}
	return (Datum) 0;
}
