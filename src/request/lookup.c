/*
 * lookup.c
 *	  From the text of a key, or its id, to the rows that decide about it.
 *
 * Rows are read with the latest snapshot, whatever the caller's isolation
 * level: a revocation that has committed is seen by the next call.  No row is
 * ever cached.  What a backend remembers is where rows were: a table from
 * digest (or account id) to the TID that the index gave.  Such a hint may be
 * wrong in every way: the block must lie within the relation, the tuple found
 * there must be visible and carry the digest, else the index is asked.  So
 * MVCC holds and nothing has to be invalidated.  The same is true of the buffer
 * that the row's page was in, which spares looking for it in the buffer table.
 *
 * A look-up holds AccessShareLock on the tables (to the end of the
 * transaction), a registered snapshot and the pins of its two slots between
 * LookupBegin and LookupEnd; at an error the resource owner gives them back.
 * The slots themselves are kept from look-up to look-up, of which there is one
 * at a time; after an error, or when its table has changed, a slot is made
 * anew.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/array.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "pure/clock.h"
#include "pure/keytext.h"
#include "request/lookup.h"
#include "tables/catalog.h"
#include "tables/rulecache.h"
#include "types/digest.h"
#include "types/limits.h"

typedef enum KeyColumn
{
	KEY_KEY_ID,
	KEY_ACCOUNT_ID,
	KEY_EXPIRES_AT,
	KEY_PREVIOUS_VALID_UNTIL,
	KEY_ACTIVE,
	KEY_DIGEST,
	KEY_CATEGORY,
	KEY_SUSPENDED_REASON,
	KEY_TIER,
	KEY_LIMITS,
	KEY_ALLOWED_DOMAINS,
	KEY_ALLOWED_IPS,
	KEY_SCOPES,
	KEY_HASH_RULE,
	KEY_PREVIOUS_HASH_RULE
} KeyColumn;

typedef enum KeyIndex
{
	KEY_BY_ID,
	KEY_BY_DIGEST,
	KEY_BY_PREVIOUS_DIGEST
} KeyIndex;

static CatalogTable key_table = {"key",
								 {"key_id", "account_id", "expires_at", "previous_valid_until",
								  "active", "digest", "category", "suspended_reason", "tier",
								  "limits", "allowed_domains", "allowed_ips", "scopes", "hash_rule",
								  "previous_hash_rule", NULL},
								 {"key_pkey", "key_digest_key", "key_previous_digest_key"}};

typedef enum AccountColumn
{
	ACCOUNT_ACCOUNT_ID,
	ACCOUNT_NAME,
	ACCOUNT_PLAN,
	ACCOUNT_LIMITS,
	ACCOUNT_ACTIVE
} AccountColumn;

static CatalogTable account_table = {
	"account", {"account_id", "name", "plan", "limits", "active", NULL}, {"account_pkey", NULL}};

typedef enum KeyProductColumn
{
	KEY_PRODUCT_PRODUCT
} KeyProductColumn;

static CatalogTable key_product_table = {
	"key_product", {"product", NULL}, {"key_product_pkey", NULL}};

/*
 * Where a row was, and the meter of its subject: of a key by the first bytes
 * of the digest, of an account by its id.  The row fetched tells whether it is
 * the right one, so a part of these is tag enough.  As many tags with the same
 * remainder find room as go into a cache line.
 */
#define HINT_SETS 8192
#define HINT_WAYS 3

typedef struct Hint
{
	uint32 tag;
	MeterIndex meter;
	ItemPointerData tid;
	uint16 uses;
	Buffer buffer; /* InvalidBuffer: not known */
} Hint;

typedef union HintSet
{
	Hint hints[HINT_WAYS]; /* the newest first */
	char pad[64];
} HintSet;

static HintSet *key_hints = NULL;
static HintSet *account_hints = NULL;

/*
 * Returns the hints that may be the tag's, of a table that is made at its first
 * use.
 */
static Hint *
hintsOf(HintSet **sets, uint32 tag)
{
	if (unlikely(*sets == NULL)) /* of invalid TIDs */
		*sets = (HintSet *) CACHELINEALIGN(MemoryContextAllocZero(
			TopMemoryContext, HINT_SETS * sizeof(HintSet) + PG_CACHE_LINE_SIZE));
	return (*sets)[tag % HINT_SETS].hints;
}

/*
 * Remembers where a row is, in the place of what was known of the tag, else of
 * the oldest hint.
 */
static Hint *
saveHint(HintSet **sets, uint32 tag, const ItemPointerData *tid)
{
	Hint *hints = hintsOf(sets, tag);
	int last = 0;

	while (last < HINT_WAYS - 1 && hints[last].tag != tag)
		last++;
	memmove(hints + 1, hints, last * sizeof(Hint));
	hints[0] = (Hint){.tag = tag, .meter = METER_NONE, .tid = *tid};
	return &hints[0];
}

/* A slot that is kept. */
typedef struct KeptSlot
{
	TupleTableSlot *slot;
	MemoryContext context;
	uint64 generation; /* of the table's definition that it was made for */
	/*
	 * and if that at the start of a look-up: an error has ended the one before
	 */
	bool in_use;
} KeptSlot;

static KeptSlot key_slot;
static KeptSlot account_slot;

/* Returns an empty slot for the rows of a table that is open. */
static TupleTableSlot *
takeSlot(KeptSlot *kept, const CatalogTable *table, Relation rel)
{
	if (unlikely(kept->generation != table->generation || kept->in_use))
	{
		MemoryContext caller;

		if (kept->context == NULL)
			kept->context =
				AllocSetContextCreate(TopMemoryContext, "apikeys slot", ALLOCSET_SMALL_SIZES);
		kept->generation = 0;
		/* what a slot in use has pinned is no longer pinned */
		MemoryContextReset(kept->context);
		caller = MemoryContextSwitchTo(kept->context);
		kept->slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(rel)),
											  table_slot_callbacks(rel));
		MemoryContextSwitchTo(caller);
		kept->generation = table->generation;
	}
	kept->in_use = true;
	return kept->slot;
}

/* Empties the slot. */
static void
putSlotBack(KeptSlot *kept)
{
	ExecClearTuple(kept->slot);
	kept->in_use = false;
}

static bool
blockExists(Relation rel, BlockNumber block)
{
	BlockNumber known = RelationGetSmgr(rel)->smgr_cached_nblocks[MAIN_FORKNUM];

	/*
	 * What is cached can be too small, and too large only until the lock's
	 * invalidations were taken: before us.
	 */
	return (known != InvalidBlockNumber && block < known) || block < RelationGetNumberOfBlocks(rel);
}

/* Returns a hint for a row that is found in another way, and will be again. */
static Hint *
noHint(void)
{
	static Hint hint;

	hint.meter = METER_NONE;
	return &hint;
}

/*
 * Prepares a fetch from the page of a hint, which is pinned if it is still in
 * its buffer.  Now and then the buffer is looked for all the same: PostgreSQL
 * 15 takes only that for a use, which keeps the page in memory.
 */
static IndexFetchTableData *
beginHintedFetch(Hint *hint, Relation rel)
{
	IndexFetchTableData *fetch = table_index_fetch_begin(rel);

	if (rel->rd_tableam == GetHeapamTableAmRoutine() && BufferIsValid(hint->buffer) &&
		hint->uses++ % 8 != 0 &&
		ReadRecentBuffer(rel->rd_locator, MAIN_FORKNUM, ItemPointerGetBlockNumber(&hint->tid),
						 hint->buffer))
		((IndexFetchHeapData *) fetch)->xs_cbuf = hint->buffer;
	return fetch;
}

/* Ends the fetch, and remembers the buffer. */
static void
endHintedFetch(Hint *hint, Relation rel, IndexFetchTableData *fetch)
{
	if (rel->rd_tableam == GetHeapamTableAmRoutine())
		hint->buffer = ((IndexFetchHeapData *) fetch)->xs_cbuf;
	table_index_fetch_end(fetch);
}

/*
 * Fetches the visible row where the tag's was and returns the hint, NULL if
 * there is none; the caller checks whether it is the one it wants.
 */
static Hint *
fetchHinted(HintSet **sets, uint32 tag, Relation rel, Snapshot snapshot, TupleTableSlot *slot)
{
	Hint *hint = hintsOf(sets, tag);
	Hint *end = hint + HINT_WAYS;
	ItemPointerData tid;
	IndexFetchTableData *fetch;
	bool call_again = false;
	bool found;

	while (hint < end && hint->tag != tag)
		hint++;
	if (hint == end || !ItemPointerIsValid(&hint->tid) ||
		!blockExists(rel, ItemPointerGetBlockNumber(&hint->tid)))
		return NULL;
	MeterPrefetch(hint->meter);
	tid = hint->tid;
	fetch = beginHintedFetch(hint, rel);
	found = table_index_fetch_tuple(fetch, &tid, snapshot, slot, &call_again, NULL);
	endHintedFetch(hint, rel, fetch);
	return found ? hint : NULL;
}

/*
 * Fetches the row that a unique index has for a value; *tid becomes its place,
 * unless tid is NULL.
 */
static bool
fetchIndexed(const CatalogTable *table, Relation rel, int index, Datum value, Snapshot snapshot,
			 TupleTableSlot *slot, ItemPointer tid)
{
	CatalogScan scan;
	bool found;

	CatalogScanBegin(&scan, table, rel, index, snapshot, 1, &value, NULL);
	found = CatalogScanNext(&scan, slot, tid);
	CatalogScanEnd(&scan);
	return found;
}

/* Returns the OID of the table key. */
Oid
LookupKeyRelation(void)
{
	CatalogResolve(&key_table);
	return key_table.oid;
}

/*
 * Starts a look-up with the latest snapshot, after taking notice of all changes
 * of definitions.
 */
void
LookupBegin(Lookup *lookup)
{
	AcceptInvalidationMessages();
	lookup->key = CatalogOpen(&key_table, AccessShareLock);
	lookup->account = CatalogOpen(&account_table, AccessShareLock);
	lookup->snapshot = RegisterSnapshot(GetLatestSnapshot());
	lookup->key_slot = takeSlot(&key_slot, &key_table, lookup->key);
	lookup->account_slot = takeSlot(&account_slot, &account_table, lookup->account);
}

/* Ends the look-up; what its KeyRow points to is gone. */
void
LookupEnd(Lookup *lookup)
{
	putSlotBack(&key_slot);
	putSlotBack(&account_slot);
	UnregisterSnapshot(lookup->snapshot);
	table_close(lookup->key, NoLock);
	table_close(lookup->account, NoLock);
}

static Datum
keyColumn(Lookup *lookup, KeyColumn column, bool *isnull)
{
	return CatalogColumn(&key_table, lookup->key_slot, column, isnull);
}

/*
 * Returns the array in a column, NULL if it is empty: most are, and need not be
 * unpacked to tell.
 */
static ArrayType *
keyList(Lookup *lookup, KeyColumn column)
{
	bool isnull;
	Datum value = keyColumn(lookup, column, &isnull);

	if (isnull || VARSIZE_ANY_EXHDR(DatumGetPointer(value)) == sizeof(ArrayType) - VARHDRSZ)
		return NULL;
	return DatumGetArrayTypeP(value);
}

/* Fetches the account's row and returns its hint, NULL if there is none. */
static Hint *
fetchAccount(Lookup *lookup, int64 account_id)
{
	uint32 tag = (uint32) account_id;
	Hint *hint =
		fetchHinted(&account_hints, tag, lookup->account, lookup->snapshot, lookup->account_slot);
	ItemPointerData tid;
	bool isnull;

	if (hint && DatumGetInt64(CatalogColumn(&account_table, lookup->account_slot,
											ACCOUNT_ACCOUNT_ID, &isnull)) == account_id)
		return hint;
	if (!fetchIndexed(&account_table, lookup->account, 0, Int64GetDatum(account_id),
					  lookup->snapshot, lookup->account_slot, &tid))
		return NULL;
	return saveHint(&account_hints, tag, &tid);
}

/*
 * Fills the KeyRow from the row in the key's slot, which has this hint, and its
 * account.
 */
static void
readRow(Lookup *lookup, Hint *hint, KeyRow *row)
{
	Hint *account_hint;
	bool isnull;
	Datum value;

	row->key_id = DatumGetInt64(keyColumn(lookup, KEY_KEY_ID, &isnull));
	row->account_id = DatumGetInt64(keyColumn(lookup, KEY_ACCOUNT_ID, &isnull));
	row->active = DatumGetBool(keyColumn(lookup, KEY_ACTIVE, &isnull));
	value = keyColumn(lookup, KEY_EXPIRES_AT, &isnull);
	row->expires_at = isnull ? DT_NOEND : DatumGetTimestampTz(value);
	row->category = DatumGetTextPP(keyColumn(lookup, KEY_CATEGORY, &isnull));
	value = keyColumn(lookup, KEY_SUSPENDED_REASON, &isnull);
	row->suspended = !isnull;
	row->suspended_reason = isnull ? NULL : DatumGetTextPP(value);
	row->allowed_domains = keyList(lookup, KEY_ALLOWED_DOMAINS);
	row->allowed_ips = keyList(lookup, KEY_ALLOWED_IPS);
	row->scopes = keyList(lookup, KEY_SCOPES);

	row->limits.count = 0;
	value = keyColumn(lookup, KEY_LIMITS, &isnull);
	if (!isnull)
		LimitsUnpack(value, &row->limits);
	else
	{
		value = keyColumn(lookup, KEY_TIER, &isnull);
		if (!isnull)
			RuleCacheTierLimits(DatumGetTextPP(value), &row->limits);
	}

	/*
	 * A foreign key says that the account is there; the snapshot is the same.
	 */
	account_hint = fetchAccount(lookup, row->account_id);
	if (account_hint == NULL)
		elog(ERROR, "account " INT64_FORMAT " of key " INT64_FORMAT " is missing", row->account_id,
			 row->key_id);
	row->meter = &hint->meter;
	row->account_meter = &account_hint->meter;
	row->account_active =
		DatumGetBool(CatalogColumn(&account_table, lookup->account_slot, ACCOUNT_ACTIVE, &isnull));
	row->account_name =
		DatumGetTextPP(CatalogColumn(&account_table, lookup->account_slot, ACCOUNT_NAME, &isnull));
	value = CatalogColumn(&account_table, lookup->account_slot, ACCOUNT_LIMITS, &isnull);
	if (!isnull)
		LimitsUnpack(value, &row->account_limits);
	else
	{
		value = CatalogColumn(&account_table, lookup->account_slot, ACCOUNT_PLAN, &isnull);
		RuleCachePlanLimits(DatumGetTextPP(value), &row->account_limits);
	}
}

/* Tells whether the row in the slot has the digest in a column. */
static bool
hasDigest(Lookup *lookup, KeyColumn column, const Digest *digest)
{
	bool isnull;
	Datum value = keyColumn(lookup, column, &isnull);

	return !isnull && SecretDigestsEqual(DatumGetDigestP(value), digest);
}

/*
 * Fills the row if the digest that found it was made by the rule that its
 * column names.
 */
static bool
acceptRow(Lookup *lookup, KeyColumn rule_column, const char *hash_rule, Hint *hint, KeyRow *row)
{
	bool isnull;
	text *rule = DatumGetTextPP(keyColumn(lookup, rule_column, &isnull));

	if (VARSIZE_ANY_EXHDR(rule) != strlen(hash_rule) ||
		memcmp(VARDATA_ANY(rule), hash_rule, strlen(hash_rule)) != 0)
		return false;
	readRow(lookup, hint, row);
	return true;
}

static uint32
tagOf(const Digest *digest)
{
	uint32 tag;

	memcpy(&tag, digest, sizeof(tag));
	return tag;
}

/*
 * Finds the key with a digest where it was before; hash_rule is how the digest
 * was made, as in the column of that name.
 */
static bool
findRemembered(Lookup *lookup, const Digest *digest, const char *hash_rule, KeyRow *row)
{
	Hint *hint =
		fetchHinted(&key_hints, tagOf(digest), lookup->key, lookup->snapshot, lookup->key_slot);

	return hint && hasDigest(lookup, KEY_DIGEST, digest) &&
		   acceptRow(lookup, KEY_HASH_RULE, hash_rule, hint, row);
}

/* Finds it by the indexes, and remembers its place if asked to. */
static bool
findDigest(Lookup *lookup, const Digest *digest, const char *hash_rule, bool remember, KeyRow *row)
{
	ItemPointerData tid;
	bool isnull;

	if (fetchIndexed(&key_table, lookup->key, KEY_BY_DIGEST, PointerGetDatum(digest),
					 lookup->snapshot, lookup->key_slot, &tid))
		return acceptRow(lookup, KEY_HASH_RULE, hash_rule,
						 remember ? saveHint(&key_hints, tagOf(digest), &tid) : noHint(), row);

	/* After its grace a rotated key text is no key any more. */
	return fetchIndexed(&key_table, lookup->key, KEY_BY_PREVIOUS_DIGEST, PointerGetDatum(digest),
						lookup->snapshot, lookup->key_slot, NULL) &&
		   DatumGetTimestampTz(keyColumn(lookup, KEY_PREVIOUS_VALID_UNTIL, &isnull)) >
			   ClockTimestamp(ClockWallNow()) &&
		   acceptRow(lookup, KEY_PREVIOUS_HASH_RULE, hash_rule, noHint(), row);
}

/*
 * Finds the key by what follows the last separator in a text that is not of our
 * shape, if there is any.
 */
static bool
findTail(Lookup *lookup, const char *key, size_t len, char separator, const char *hash_rule,
		 KeyRow *row)
{
	size_t start = len;
	Digest digest;

	while (start > 0 && key[start - 1] != separator)
		start--;
	if (start == 0 || start == len)
		return false;
	SecretDigest(&digest, key + start, len - start);
	return findRemembered(lookup, &digest, hash_rule, row) ||
		   findDigest(lookup, &digest, hash_rule, true, row);
}

/*
 * Finds the key that a text belongs to and fills the row; false: there is
 * none.  A text of our shape and of a plan's prefix whose checksum is wrong is
 * refused without a search of the key table; other shapes may be imported keys.
 *
 * Where a row with the digest is found at a place that is remembered, the shape
 * does not matter.  So no place is remembered of a text with a wrong checksum:
 * it may be refused later, when a plan takes its prefix.
 */
bool
LookupByText(Lookup *lookup, const char *key, size_t len, KeyRow *row)
{
	size_t prefix_len;
	KeyTextShape shape;
	Digest digest;

	if (len > KEYTEXT_PRESENTED_MAX)
		return false;
	SecretDigest(&digest, key, len);
	if (findRemembered(lookup, &digest, "sha256", row))
		return true;
	shape = KeyTextClassify(key, len, &prefix_len);
	if (shape == KEYTEXT_BAD_CHECKSUM && RuleCachePrefixIsKnown(key, prefix_len))
		return false;
	if (findDigest(lookup, &digest, "sha256", shape != KEYTEXT_BAD_CHECKSUM, row))
		return true;
	return shape != KEYTEXT_WELL_FORMED &&
		   (findTail(lookup, key, len, '|', "sha256_after_bar", row) ||
			findTail(lookup, key, len, '_', "sha256_after_underscore", row));
}

/* Finds the key with an id and fills the row; false: there is none. */
bool
LookupById(Lookup *lookup, int64 key_id, KeyRow *row)
{
	if (!fetchIndexed(&key_table, lookup->key, KEY_BY_ID, Int64GetDatum(key_id), lookup->snapshot,
					  lookup->key_slot, NULL))
		return false;
	readRow(lookup, noHint(), row);
	return true;
}

/*
 * Tells what the key's list of products says of one of them (NULL: none was
 * named).
 */
ProductStanding
LookupProduct(Lookup *lookup, int64 key_id, const text *product)
{
	ProductStanding standing = PRODUCT_UNRESTRICTED;
	Datum value = Int64GetDatum(key_id);
	Relation rel;
	TupleTableSlot *slot;
	CatalogScan scan;

	if (!RuleCacheProductsExist())
		return PRODUCT_UNRESTRICTED;
	rel = CatalogOpen(&key_product_table, AccessShareLock);
	slot = table_slot_create(rel, NULL);
	CatalogScanBegin(&scan, &key_product_table, rel, 0, lookup->snapshot, 1, &value, NULL);
	while (standing != PRODUCT_ASSIGNED && CatalogScanNext(&scan, slot, NULL))
	{
		bool isnull;
		text *assigned =
			DatumGetTextPP(CatalogColumn(&key_product_table, slot, KEY_PRODUCT_PRODUCT, &isnull));

		standing = PRODUCT_NOT_ASSIGNED;
		if (product && VARSIZE_ANY_EXHDR(assigned) == VARSIZE_ANY_EXHDR(product) &&
			memcmp(VARDATA_ANY(assigned), VARDATA_ANY(product), VARSIZE_ANY_EXHDR(product)) == 0)
			standing = PRODUCT_ASSIGNED;
	}
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return standing;
}

/*
 * Tells whether the key that was found was made by this session's own
 * transaction, which is still open: nobody else can see it, and a rollback
 * would take it away.  (A key that this transaction has only changed is seen
 * by the same snapshot as of the transaction's begin.)
 */
bool
LookupMadeHere(Lookup *lookup, int64 key_id)
{
	bool isnull;
	Datum xmin = slot_getsysattr(lookup->key_slot, MinTransactionIdAttributeNumber, &isnull);
	SnapshotData before;
	TupleTableSlot *slot;
	bool found;

	if (likely(!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin))))
		return false;
	memcpy(&before, lookup->snapshot, sizeof(before));
	before.curcid = FirstCommandId;
	slot = table_slot_create(lookup->key, NULL);
	found = fetchIndexed(&key_table, lookup->key, KEY_BY_ID, Int64GetDatum(key_id), &before, slot,
						 NULL);
	ExecDropSingleTupleTableSlot(slot);
	return !found;
}
