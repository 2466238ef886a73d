/*
 * text.c
 *	  What callers may send to be stored: texts, lists and metadata, each with
 *	  its bound and its form.
 *
 * The table of rules below is the only list of them.  A value is checked by its
 * rule at two places: the function that stores a new row asks checked() for
 * each argument, and a trigger asks for each column that an UPDATE changes.
 * Table constraints do not ask, nor does a trigger on INSERT: a restore brings
 * back what was stored before there was a rule, and what has not changed stays.
 *
 * A key text must not be stored.  In texts for people its hint takes its place
 * (TEXT_PROSE); anything else that has one is refused.  That holds for whole
 * key texts of our shape, which alone can be told from noise.
 *
 * Sizes are looked at first, before a value is decompressed or read: nothing
 * here takes longer than a bounded value takes.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "manage/text.h"
#include "pure/keytext.h"
#include "pure/nametext.h"
#include "pure/pattern.h"
#include "tables/refuse.h"

#define TEXT_BYTES_MAX (64 * 1024)
#define LIST_ELEMENTS_MAX 1000
#define ELEMENT_OVERHEAD_MAX 16 /* bytes of an array beside those of an element */

typedef enum TextKind
{
	TEXT_NAME,		/* what people and programs tell things apart by */
	TEXT_NAMES,		/* a list of them */
	TEXT_SCOPES,	/* a list of scope-tokens, RFC 6749, 3.3 */
	TEXT_REFERENCE, /* the name of a row, if there is such a row */
	TEXT_PROSE,		/* a text for people */
	TEXT_DOMAINS,	/* a list of PatternIsValid */
	TEXT_LIST,		/* a list of any other type */
	TEXT_METADATA	/* an object */
} TextKind;

static const char *const kind_names[] = {"name",  "names",	 "scopes", "reference",
										 "prose", "domains", "list",   "metadata"};

typedef struct TextRule
{
	const char *table;
	const char *column; /* an argument, where the table has none of that name */
	const char *called; /* a value in messages; of a list, an element */
	TextKind kind;
	int least;		  /* bytes of a name */
	int most;		  /* bytes of a text or of the element of a list of names */
	bool constrained; /* constraint <table>_<column>_check asks for some of it, too */
} TextRule;

static const TextRule rules[] = {
	{"account", "name", "the name of an account", TEXT_NAME, 1, 512, true},
	{"account", "display_name", "the display name of an account", TEXT_NAME, 0, 512, false},
	{"account", "contact", "the contact of an account", TEXT_NAME, 0, 1024, false},
	{"account", "plan", "the name of a plan", TEXT_REFERENCE, 0, TEXT_BYTES_MAX, false},
	{"account", "metadata", "metadata", TEXT_METADATA, 0, TEXT_BYTES_MAX, true},
	{"key", "alias", "an alias", TEXT_NAME, 1, 512, true},
	{"key", "category", "a category", TEXT_NAME, 1, 256, true},
	{"key", "prefix", "a prefix", TEXT_NAME, 0, 256, false},
	{"key", "hint", "a hint", TEXT_NAME, 0, 256, false},
	{"key", "tier", "the name of a tier", TEXT_REFERENCE, 0, TEXT_BYTES_MAX, false},
	{"key", "suspended_reason", "a reason", TEXT_PROSE, 0, TEXT_BYTES_MAX, true},
	{"key", "products", "a product", TEXT_NAMES, 1, 256, false},
	{"key", "allowed_domains", "an allowed domain", TEXT_DOMAINS, 0, 0, true},
	{"key", "allowed_ips", "an allowed address", TEXT_LIST, 0, 0, true},
	{"key", "scopes", "a scope", TEXT_SCOPES, 1, 256, true},
	{"key", "billing_type", "a billing type", TEXT_NAME, 1, 256, true},
	{"key", "metadata", "metadata", TEXT_METADATA, 0, TEXT_BYTES_MAX, true},
	{"tier", "name", "the name of a tier", TEXT_NAME, 1, 256, true},
	{"tier", "description", "a description", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"plan", "name", "the name of a plan", TEXT_NAME, 1, 256, true},
	{"plan", "key_prefix", "a prefix", TEXT_NAME, 1, KEYTEXT_PREFIX_MAX, true},
	{"plan", "default_tier", "the name of a tier", TEXT_REFERENCE, 0, TEXT_BYTES_MAX, false},
	{"plan", "lifetimes", "a lifetime", TEXT_LIST, 0, 0, true},
	{"plan", "billing_types", "a billing type", TEXT_NAMES, 1, 256, true},
	{"plan", "tiers", "the name of a tier", TEXT_NAMES, 1, 256, true},
	{"plan", "purposes", "a purpose", TEXT_NAMES, 1, 256, true},
	{"plan", "project_kinds", "a kind of project", TEXT_NAMES, 1, 256, true},
	{"plan", "upgrade_requires", "a field", TEXT_NAMES, 1, 256, true},
	{"product", "name", "the name of a product", TEXT_NAME, 1, 256, true},
	{"product", "description", "a description", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_request", "tier", "the name of a tier", TEXT_REFERENCE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_request", "motivation", "a motivation", TEXT_PROSE, 0, TEXT_BYTES_MAX, true},
	{"upgrade_request", "project", "a project", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_request", "project_kind", "a kind of project", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_request", "purpose", "a purpose", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_request", "question", "a question", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_request", "answer", "an answer", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_request", "note", "a note", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_rule", "min_tier", "the name of a tier", TEXT_REFERENCE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_rule", "project_kind", "a kind of project", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_rule", "purpose", "a purpose", TEXT_PROSE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_rule", "product", "the name of a product", TEXT_REFERENCE, 0, TEXT_BYTES_MAX, false},
	{"upgrade_rule", "reason", "a reason", TEXT_PROSE, 0, TEXT_BYTES_MAX, true},
	{"address_block", "reason", "a reason", TEXT_PROSE, 0, TEXT_BYTES_MAX, true},
	{"adjustment", "reason", "a reason", TEXT_PROSE, 0, TEXT_BYTES_MAX, true},
	{"notice_consumer", "name", "the name of a consumer", TEXT_NAME, 1, 256, true},
	{"audit_log", "actor", "apikeys.actor", TEXT_PROSE, 0, 512, false},
};

PG_FUNCTION_INFO_V1(apikeys_text_check);
PG_FUNCTION_INFO_V1(apikeys_text_check_row);
PG_FUNCTION_INFO_V1(apikeys_text_rules);
PG_FUNCTION_INFO_V1(apikeys_text_is_there);

/* Adds to an error what it is about. */
static int
errrule(const TextRule *rule)
{
	return RefusePlace(rule->table, rule->column,
					   rule->constrained ? psprintf("%s_%s_check", rule->table, rule->column) :
										   NULL);
}

/* Returns the bytes of a value that may be compressed or stored elsewhere. */
static Size
sizeOf(Datum value)
{
	return toast_raw_datum_size(value) - VARHDRSZ;
}

/* Raises if a text, or what is called so, has too few bytes or too many. */
static void
checkSize(const TextRule *rule, const char *called, Size size, int most)
{
	if (size >= rule->least && size <= most)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 rule->least == 0 ? errmsg("%s must have at most %d bytes", called, most) :
								errmsg("%s must have %d to %d bytes", called, rule->least, most),
			 errrule(rule)));
}

/* Raises if a name, whose length has been checked, is not in NFC. */
static void
checkNormalized(const TextRule *rule, const char *name, int len)
{
	int at = 0;

	if (GetDatabaseEncoding() != PG_UTF8)
		return;
	while (at < len && !IS_HIGHBIT_SET(name[at]))
		at++;
	if (at < len && !DatumGetBool(DirectFunctionCall2(
						unicode_is_normalized, PointerGetDatum(cstring_to_text_with_len(name, len)),
						CStringGetTextDatum("NFC"))))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be in Unicode's normalization form NFC", rule->called),
						errhint("normalize() gives that form."), errrule(rule)));
}

/* Raises if a text cannot be stored, because it has a key text. */
static void
refuseKeyText(const TextRule *rule, const char *value, Size len)
{
	if (KeyTextIsWithin(value, len))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not have a key text in it", rule->called),
						errdetail("What is stored can be read by more people than the key is for."),
						errrule(rule)));
}

static void
checkName(const TextRule *rule, const char *name, int len)
{
	uint32 character = 0;
	NameTextFault fault;

	checkSize(rule, rule->called, len, rule->most);
	fault = NameTextCheck(name, len, GetDatabaseEncoding() == PG_UTF8, &character);
	if (fault != NAMETEXT_FINE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 fault == NAMETEXT_BLANK ?
					 errmsg("%s must not begin or end with a blank", rule->called) :
					 errmsg("%s must not have control or invisible characters", rule->called),
				 errdetail("It has U+%04X.", character), errrule(rule)));
	checkNormalized(rule, name, len);
	refuseKeyText(rule, name, len);
}

static void
checkScope(const TextRule *rule, const char *scope, int len)
{
	checkSize(rule, rule->called, len, rule->most);
	refuseKeyText(rule, scope, len);
	if (!NameTextIsScope(scope, len))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have printable ASCII characters, without blanks, \" and \\",
							   rule->called),
						errrule(rule)));
}

/* Checks an element of a list of texts, and returns its bytes. */
static int
checkElement(const TextRule *rule, Datum value)
{
	text *element = DatumGetTextPP(value);
	const char *bytes = VARDATA_ANY(element);
	int len = VARSIZE_ANY_EXHDR(element);

	if (rule->kind == TEXT_NAMES)
		checkName(rule, bytes, len);
	else if (rule->kind == TEXT_SCOPES)
		checkScope(rule, bytes, len);
	else if (!PatternIsValid(bytes, len))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must look like example.com or *.example.com", rule->called),
						errrule(rule)));
	else
		refuseKeyText(rule, bytes, len);
	return len;
}

static void
raiseLongList(const TextRule *rule)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("%s must have at most %d elements and %d bytes", rule->column,
						   LIST_ELEMENTS_MAX, TEXT_BYTES_MAX),
					errrule(rule)));
}

static void
checkList(const TextRule *rule, Datum value)
{
	ArrayType *list;
	int16 type_len;
	bool by_value;
	char align;
	Datum *elements;
	bool *nulls;
	int count;
	int size = 0;

	if (sizeOf(value) > TEXT_BYTES_MAX + LIST_ELEMENTS_MAX * ELEMENT_OVERHEAD_MAX)
		raiseLongList(rule);
	list = DatumGetArrayTypeP(value);
	if (ArrayGetNItems(ARR_NDIM(list), ARR_DIMS(list)) > LIST_ELEMENTS_MAX)
		raiseLongList(rule);
	get_typlenbyvalalign(ARR_ELEMTYPE(list), &type_len, &by_value, &align);
	deconstruct_array(list, ARR_ELEMTYPE(list), type_len, by_value, align, &elements, &nulls,
					  &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("%s must not be NULL", rule->called), errrule(rule)));
		if (rule->kind != TEXT_LIST)
			size += checkElement(rule, elements[i]);
	}
	if (size > TEXT_BYTES_MAX)
		raiseLongList(rule);
}

/* The strings of a value stand in it as they are, so a key text does, too. */
static void
checkMetadata(const TextRule *rule, Datum value)
{
	Jsonb *metadata;

	checkSize(rule, rule->called, sizeOf(value), rule->most);
	metadata = DatumGetJsonbP(value);
	if (!JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be a JSON object", rule->called), errrule(rule)));
	refuseKeyText(rule, VARDATA(metadata), VARSIZE(metadata) - VARHDRSZ);
}

/* Returns a text for people with hints in the place of keys. */
static Datum
redactProse(const TextRule *rule, Datum value)
{
	text *prose;
	Size size;
	size_t body;
	size_t body_len;

	checkSize(rule, rule->called, sizeOf(value), rule->most);
	prose = DatumGetTextPP(value);
	size = VARSIZE_ANY_EXHDR(prose);
	if (!KeyTextFind(VARDATA_ANY(prose), size, 0, &body, &body_len))
		return value;
	prose = cstring_to_text_with_len(VARDATA_ANY(prose), size);
	size = KeyTextRedact(VARDATA(prose), size, GetDatabaseEncoding() == PG_UTF8);
	SET_VARSIZE(prose, size + VARHDRSZ);
	return PointerGetDatum(prose);
}

/*
 * Returns a value as it may be stored: the same, or a text for people without
 * key texts.  Raises 22023 where there is none.
 */
static Datum
checkValue(const TextRule *rule, Datum value)
{
	text *name;

	switch (rule->kind)
	{
		case TEXT_NAME:
			checkSize(rule, rule->called, sizeOf(value), rule->most);
			name = DatumGetTextPP(value);
			checkName(rule, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
			break;
		case TEXT_NAMES:
		case TEXT_SCOPES:
		case TEXT_DOMAINS:
		case TEXT_LIST:
			checkList(rule, value);
			break;
		case TEXT_REFERENCE:
			checkSize(rule, rule->called, sizeOf(value), rule->most);
			name = DatumGetTextPP(value);
			refuseKeyText(rule, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
			break;
		case TEXT_PROSE:
			return redactProse(rule, value);
		case TEXT_METADATA:
			checkMetadata(rule, value);
			break;
	}
	return value;
}

/* The type of a rule's values; those of TEXT_LIST are arrays of any. */
static bool
isOfKind(const TextRule *rule, Oid type)
{
	switch (rule->kind)
	{
		case TEXT_NAME:
		case TEXT_REFERENCE:
		case TEXT_PROSE:
			return type == TEXTOID;
		case TEXT_NAMES:
		case TEXT_SCOPES:
		case TEXT_DOMAINS:
			return type == TEXTARRAYOID;
		case TEXT_LIST:
			return OidIsValid(get_element_type(type));
		case TEXT_METADATA:
			return type == JSONBOID;
	}
	return false;
}

/*
 * Returns a value as it may be stored in <table>.<column>.  Raises 22023 where
 * there is none.
 */
Datum
TextCheck(const char *place, Oid type, Datum value)
{
	const char *dot = strchr(place, '.');

	for (const TextRule *rule = rules; dot && rule < rules + lengthof(rules); rule++)
		if (strncmp(rule->table, place, dot - place) == 0 && rule->table[dot - place] == '\0' &&
			strcmp(rule->column, dot + 1) == 0)
		{
			if (!isOfKind(rule, type))
				elog(ERROR, "wrong type of %s", place);
			return checkValue(rule, value);
		}
	elog(ERROR, "no rule for %s", place);
}

/* Returns an argument as it may be stored in <table>.<column>; SQL: checked. */
Datum
apikeys_text_check(PG_FUNCTION_ARGS)
{
	return TextCheck(text_to_cstring(PG_GETARG_TEXT_PP(0)), get_fn_expr_argtype(fcinfo->flinfo, 1),
					 PG_GETARG_DATUM(1));
}

/*
 * BEFORE UPDATE of a row: checks the columns that have changed, and puts hints
 * in the place of key texts; SQL: check_texts.
 */
Datum
apikeys_text_check_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple row;
	TupleDesc desc;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function %s is called by its own trigger only",
							   get_func_name(fcinfo->flinfo->fn_oid)),
						errhidestmt(true)));
	row = trigger->tg_newtuple;
	desc = RelationGetDescr(trigger->tg_relation);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		int column = attribute->attnum;
		const TextRule *rule = rules;
		bool isnull;
		bool was_null;
		Datum value;
		Datum former;
		Datum stored;

		while (rule < rules + lengthof(rules) &&
			   (attribute->attisdropped ||
				strcmp(rule->table, RelationGetRelationName(trigger->tg_relation)) != 0 ||
				strcmp(rule->column, NameStr(attribute->attname)) != 0))
			rule++;
		if (rule == rules + lengthof(rules))
			continue;
		value = heap_getattr(row, column, desc, &isnull);
		former = heap_getattr(trigger->tg_trigtuple, column, desc, &was_null);
		if (isnull || (!was_null && datum_image_eq(former, value, false, -1)))
			continue;
		stored = checkValue(rule, value);
		if (stored != value)
			row = heap_modify_tuple_by_cols(row, desc, 1, &column, &stored, &isnull);
	}
	return PointerGetDatum(row);
}

/* Returns the rules; SQL: text_rules. */
Datum
apikeys_text_rules(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (const TextRule *rule = rules; rule < rules + lengthof(rules); rule++)
	{
		bool is_list = (rule->kind == TEXT_NAMES || rule->kind == TEXT_SCOPES ||
						rule->kind == TEXT_DOMAINS || rule->kind == TEXT_LIST);
		Datum values[] = {CStringGetTextDatum(rule->table),
						  CStringGetTextDatum(rule->column),
						  CStringGetTextDatum(kind_names[rule->kind]),
						  Int32GetDatum(is_list ? TEXT_BYTES_MAX : rule->most),
						  Int32GetDatum(LIST_ELEMENTS_MAX),
						  BoolGetDatum(rule->constrained)};
		bool nulls[] = {false, false, false, false, !is_list, false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* has_text: whether a text has more than white space. */
Datum
apikeys_text_is_there(PG_FUNCTION_ARGS)
{
	text *value;
	const char *bytes;
	int len;
	int at = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	value = PG_GETARG_TEXT_PP(0);
	bytes = VARDATA_ANY(value);
	len = VARSIZE_ANY_EXHDR(value);
	while (at < len && (bytes[at] == ' ' || (bytes[at] >= '\t' && bytes[at] <= '\r')))
		at++;
	PG_RETURN_BOOL(at < len);
}
