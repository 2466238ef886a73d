/*
 * key.c
 *	  What the management functions need from C: new key texts, digests,
 *	  locators, the wall clock and the words for a key's state.
 *
 * The rest of key management is SQL (src/sql/key.sql).  Here is only what SQL
 * cannot do: libsodium, the pure parts, the clock that tests may move, and
 * settings that a session cannot plant.
 *
 * Key text lives in buffers on the stack, which are wiped; the one copy that
 * stays is the value returned.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "manage/key.h"
#include "pure/clock.h"
#include "pure/hashrule.h"
#include "pure/keytext.h"
#include "pure/nametext.h"
#include "pure/pattern.h"
#include "pure/secret.h"
#include "tables/catalog.h"
#include "tables/refuse.h"
#include "types/digest.h"

#define HASHED_MIN 4	   /* bytes of an imported key that its hash rule uses */
#define KEY_NUMBER_BITS 37 /* of a key id; the locator is above them */

bool KeyCreateAccounts;
int KeyExpiryNotice;
int KeyUpgradeDays;

PG_FUNCTION_INFO_V1(apikeys_key_draw);
PG_FUNCTION_INFO_V1(apikeys_key_digest);
PG_FUNCTION_INFO_V1(apikeys_key_state);
PG_FUNCTION_INFO_V1(apikeys_key_free_alias);
PG_FUNCTION_INFO_V1(apikeys_key_text_digests);
PG_FUNCTION_INFO_V1(apikeys_hash_rule_check);
PG_FUNCTION_INFO_V1(apikeys_hash_rule_require);
PG_FUNCTION_INFO_V1(apikeys_accounts_are_created);
PG_FUNCTION_INFO_V1(apikeys_clock_wall);
PG_FUNCTION_INFO_V1(apikeys_domains_check);
PG_FUNCTION_INFO_V1(apikeys_shard_hash_text);
PG_FUNCTION_INFO_V1(apikeys_shard_hash_id);
PG_FUNCTION_INFO_V1(apikeys_shard_hash_account);

/* Computes the locator of an account's name, which is hashed as UTF-8. */
static uint16
computeLocator(text *account)
{
	char *name = VARDATA_ANY(account);
	int len = VARSIZE_ANY_EXHDR(account);
	char *utf8 = pg_server_to_any(name, len, PG_UTF8);

	return SecretLocator(utf8, utf8 == name ? len : strlen(utf8));
}

/* Reads the wall clock as the server counts time. */
static TimestampTz
readWallClock(void)
{
	return ClockWallNow() / (NS_PER_SECOND / USECS_PER_SEC) -
		   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/* Lists the names of the hash rules, for a hint. */
static char *
listHashRules(void)
{
	StringInfoData list;

	initStringInfo(&list);
	for (const HashRule *rule = HashRules; rule->name; rule++)
	{
		if (rule > HashRules)
			appendStringInfoString(&list, rule[1].name ? ", " : " and ");
		appendStringInfoString(&list, rule->name);
	}
	return list.data;
}

/* Finds a hash rule by its name (NULL: none); raises 22023 if it is unknown. */
const HashRule *
KeyRequireHashRule(text *name)
{
	const HashRule *rule = name ? HashRuleFind(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) : NULL;

	if (rule == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						name ? errmsg("unknown hash rule \"%s\"", text_to_cstring(name)) :
							   errmsg("unknown hash rule NULL"),
						errhint("The rules are %s.", listHashRules()),
						RefusePlace("key", "hash_rule", NULL)));
	return rule;
}

/* hash_rule_is_known: whether there is a rule of that name. */
Datum
apikeys_hash_rule_check(PG_FUNCTION_ARGS)
{
	text *name = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(HashRuleFind(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) != NULL);
}

/* require_hash_rule: nothing, or the error for an unknown rule. */
Datum
apikeys_hash_rule_require(PG_FUNCTION_ARGS)
{
	(void) KeyRequireHashRule(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0));
	PG_RETURN_VOID();
}

/* draw_key: make a new key text for an account, with its digest and hint. */
Datum
apikeys_key_draw(PG_FUNCTION_ARGS)
{
	text *prefix = PG_GETARG_TEXT_PP(0);
	size_t prefix_len = VARSIZE_ANY_EXHDR(prefix);
	uint16 locator = computeLocator(PG_GETARG_TEXT_PP(1));
	char secret[KEYTEXT_SECRET_LEN];
	char key[KEYTEXT_MAX];
	char hint[KEYTEXT_HINT_MAX];
	size_t key_len;
	size_t hint_len;
	Digest digest;
	text *key_value;
	TupleDesc desc;
	HeapTuple tuple;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!KeyTextPrefixIsValid(VARDATA_ANY(prefix), prefix_len))
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid prefix \"%s\"", text_to_cstring(prefix)),
			 errhint("A prefix is groups of lower-case letters and digits joined by _, a letter "
					 "first, at most %d characters.",
					 KEYTEXT_PREFIX_MAX),
			 RefusePlace("key", "prefix", NULL)));

	SecretDraw(secret, sizeof(secret));
	key_len = KeyTextCompose(key, VARDATA_ANY(prefix), prefix_len, locator, secret);
	SecretWipe(secret, sizeof(secret));
	hint_len = KeyTextHint(hint, key, key_len, prefix_len, GetDatabaseEncoding() == PG_UTF8);
	SecretDigest(&digest, key, key_len);
	key_value = cstring_to_text_with_len(key, key_len);
	SecretWipe(key, sizeof(key));

	tuple = heap_form_tuple(BlessTupleDesc(desc),
							(Datum[]){PointerGetDatum(key_value), DigestPGetDatum(&digest),
									  PointerGetDatum(cstring_to_text_with_len(hint, hint_len))},
							(bool[]){false, false, false});
	SecretWipe(VARDATA(key_value), key_len);
	PG_RETURN_DATUM(HeapTupleGetDatum(tuple));
}

/* Returns the digest of a key text that is to be imported; raises 22023. */
Digest *
KeyTextDigest(text *key, text *hash_rule)
{
	const char *key_text = VARDATA_ANY(key);
	size_t len = VARSIZE_ANY_EXHDR(key);
	const HashRule *rule = KeyRequireHashRule(hash_rule);
	size_t hashed_len;
	const char *hashed = HashRulePart(rule, key_text, len, &hashed_len);
	size_t prefix_len;
	uint32 character;
	Digest *digest;

	if (len > KEYTEXT_PRESENTED_MAX || hashed == NULL || hashed_len < HASHED_MIN ||
		NameTextCheck(key_text, len, GetDatabaseEncoding() == PG_UTF8, &character) != NAMETEXT_FINE)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("this cannot be a key text"),
			 errdetail("It must have at most %d bytes, at least %d of which its hash rule uses, no "
					   "control or invisible characters, and no blanks at its ends.",
					   KEYTEXT_PRESENTED_MAX, HASHED_MIN),
			 RefusePlace("key", "key", NULL)));
	if (KeyTextClassify(key_text, len, &prefix_len) == KEYTEXT_BAD_CHECKSUM)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the checksum of the key text is wrong"),
				 errdetail(
					 "It looks like a key of apikeys, whose last 6 characters are the checksum of "
					 "the 30 before."),
				 RefusePlace("key", "key", NULL)));

	digest = palloc(sizeof(Digest));
	SecretDigest(digest, hashed, hashed_len);
	return digest;
}

/* digest_of: the digest of a key text that is to be imported. */
Datum
apikeys_key_digest(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(KeyTextDigest(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1)));
}

/* text_digests: the digests that a presented text has by each hash rule. */
Datum
apikeys_key_text_digests(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text *key = PG_GETARG_TEXT_PP(0);
	size_t len = VARSIZE_ANY_EXHDR(key);

	InitMaterializedSRF(fcinfo, 0);
	for (const HashRule *rule = HashRules; rule->name && len <= KEYTEXT_PRESENTED_MAX; rule++)
	{
		size_t part_len;
		const char *part = HashRulePart(rule, VARDATA_ANY(key), len, &part_len);
		Digest digest;

		if (part == NULL)
			continue;
		SecretDigest(&digest, part, part_len);
		tuplestore_putvalues(result->setResult, result->setDesc,
							 (Datum[]){CStringGetTextDatum(rule->name), DigestPGetDatum(&digest)},
							 (bool[]){false, false});
	}
	return (Datum) 0;
}

/* Tells whether an unarchived key of the account has the alias key-<number>. */
static bool
aliasIsTaken(IndexScanDesc scan, TupleTableSlot *slot, int64 account_id, int64 number)
{
	ScanKeyData keys[3];
	text *alias = cstring_to_text(psprintf("key-" INT64_FORMAT, number));

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(account_id));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, TEXTOID,
						   scan->indexRelation->rd_indcollation[1], F_TEXTEQ,
						   PointerGetDatum(alias));
	/* The last column is 0 for an unarchived key, and else its id. */
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(0));
	index_rescan(scan, keys, lengthof(keys), NULL, 0);
	return index_getnext_slot(scan, ForwardScanDirection, slot);
}

/*
 * free_alias: an alias key-<n> that no unarchived key of the account has, where
 * n is 1 or key-<n-1> is taken.  Doubling n, then halving what lies between,
 * takes few look-ups.
 */
Datum
apikeys_key_free_alias(PG_FUNCTION_ARGS)
{
	int64 account_id = PG_GETARG_INT64(0);
	Relation keys = CatalogOpenBare(&CatalogKey, AccessShareLock);
	Relation index = index_open(get_relname_relid("key_account_id_alias_key", CatalogSchema(false)),
								AccessShareLock);
	IndexScanDesc scan = index_beginscan(keys, index, GetActiveSnapshot(), NULL, 3, 0);
	TupleTableSlot *slot = table_slot_create(keys, NULL);
	int64 taken = 0;
	int64 free = 1;

	while (aliasIsTaken(scan, slot, account_id, free))
	{
		taken = free;
		free *= 2;
	}
	while (free - taken > 1)
	{
		int64 middle = (taken + free) / 2;

		if (aliasIsTaken(scan, slot, account_id, middle))
			taken = middle;
		else
			free = middle;
	}
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(keys, AccessShareLock);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("key-" INT64_FORMAT, free)));
}

/*
 * key_state: one word for the state of a key, in the order of verification.  A
 * key is expiring in the last quarter of its lifetime at the earliest.
 */
Datum
apikeys_key_state(PG_FUNCTION_ARGS)
{
	const char *state = "active";

	if (PG_GETARG_BOOL(0))
		state = "archived";
	else if (PG_GETARG_BOOL(1))
		state = "suspended";
	else if (!PG_GETARG_BOOL(2))
		state = "inactive";
	else if (!PG_GETARG_BOOL(3))
		state = "account_inactive";
	else if (!PG_ARGISNULL(5))
	{
		TimestampTz lifetime_from = PG_GETARG_TIMESTAMPTZ(4);
		TimestampTz expires_at = PG_GETARG_TIMESTAMPTZ(5);
		int64 left = expires_at - readWallClock();

		if (left <= 0)
			state = "expired";
		else if (left <= Min(KeyExpiryNotice * USECS_PER_MINUTE, (expires_at - lifetime_from) / 4))
			state = "expiring";
	}
	PG_RETURN_TEXT_P(cstring_to_text(state));
}

/*
 * accounts_are_created: the setting, also where the library was not loaded
 * before.
 */
Datum
apikeys_accounts_are_created(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(KeyCreateAccounts);
}

/* wall_clock: the time by which keys expire. */
Datum
apikeys_clock_wall(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(readWallClock());
}

/* domains_are_valid: whether each element is a domain or a pattern of one. */
Datum
apikeys_domains_check(PG_FUNCTION_ARGS)
{
	Datum *domains;
	bool *nulls;
	int count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &domains, &nulls,
					  &count);
	for (int i = 0; i < count; i++)
	{
		text *domain = nulls[i] ? NULL : DatumGetTextPP(domains[i]);

		CHECK_FOR_INTERRUPTS();
		if (domain == NULL || !PatternIsValid(VARDATA_ANY(domain), VARSIZE_ANY_EXHDR(domain)))
			PG_RETURN_BOOL(false);
	}
	PG_RETURN_BOOL(true);
}

/*
 * shard_hash of a key text: its locator.  Other texts are spread evenly, for
 * any shard can tell that it does not know them.
 */
Datum
apikeys_shard_hash_text(PG_FUNCTION_ARGS)
{
	text *key;
	size_t len;
	size_t prefix_len;

	if (PG_ARGISNULL(0))
		PG_RETURN_INT32(0);
	key = PG_GETARG_TEXT_PP(0);
	len = VARSIZE_ANY_EXHDR(key);
	if (KeyTextClassify(VARDATA_ANY(key), len, &prefix_len) == KEYTEXT_WELL_FORMED)
	{
		int locator = KeyTextLocatorDecode(VARDATA_ANY(key) + prefix_len + 1);

		if (locator >= 0)
			PG_RETURN_INT32(locator);
	}
	PG_RETURN_INT32(SecretLocator(VARDATA_ANY(key), len));
}

/* shard_hash of a key id: its locator. */
Datum
apikeys_shard_hash_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32((PG_GETARG_INT64(0) >> KEY_NUMBER_BITS) & PG_UINT16_MAX);
}

/* shard_hash_of_account: the locator of the account's keys. */
Datum
apikeys_shard_hash_account(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(computeLocator(PG_GETARG_TEXT_PP(0)));
}
