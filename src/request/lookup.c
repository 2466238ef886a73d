/*
 * lookup.c
 *	  From the text of a key, or its id, to the rows that decide about it.
 *
 * Rows are read with the latest snapshot, whatever the caller's isolation
 * level: a revocation that has committed is seen by the next call.  No row is
 * ever cached.  What a backend remembers is where rows were (hint.c); the row
 * found there counts only if it has the digest, or the account id.  So MVCC
 * holds and nothing has to be invalidated.
 *
 * A look-up holds AccessShareLock on the tables, a registered snapshot and the
 * pins of its two slots between LookupBegin and LookupEnd; at an error the
 * resource owner releases them.  There is one look-up at a time.  Its slots are
 * kept for the next one; after an error, or when its table has changed, a slot
 * is made anew.
 *
 * A look-up never waits for a lock on a table or an index (catalog.c says why).
 * Where that would take waiting, it is late: what it has answered since it was
 * begun means nothing, and the caller ends it, waits and begins it again.  So
 * nothing is held while a call waits.  The locks end with the look-up, not with
 * the transaction: an open transaction that has called verify keeps nobody
 * waiting.  (Values that are stored out of line are read with locks on the
 * TOAST table, which nobody but its owner can lock: these are waited for.)
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "pure/clock.h"
#include "pure/hashrule.h"
#include "pure/keytext.h"
#include "request/hint.h"
#include "request/lookup.h"
#include "tables/catalog.h"
#include "tables/rulecache.h"
#include "types/digest.h"
#include "types/limits.h"

/*
 * By the first bytes of the digest, and by the account id: 1 MB and 256 kB for
 * each backend that looks up keys.
 */
static HintTable key_hints = {.set_count = 8192};
static HintTable account_hints = {.set_count = 2048};

/* A slot that is kept. */
typedef struct KeptSlot
{
	TupleTableSlot *slot;
	MemoryContext context;
	uint64 generation; /* of the table's definition that it was made for */
	bool in_use;	   /* at the start of a look-up: an error has ended the one before */
} KeptSlot;

static KeptSlot key_slot;
static KeptSlot account_slot;

/* Returns an empty slot for the rows of a table, which is open. */
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
		/* the resource owner has released the pins of a slot in use */
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

/*
 * Fetches the row that a unique index has for a value; *tid becomes its place,
 * unless tid is NULL.  False: there is none, or the look-up is late.
 */
static bool
fetchIndexed(Lookup *lookup, CatalogTable *table, Relation rel, int index, Datum value,
			 TupleTableSlot *slot, ItemPointer tid)
{
	CatalogScan scan;
	bool found;

	if (!CatalogTryScanBegin(&scan, table, rel, index, lookup->snapshot, 1, &value))
	{
		lookup->late = true;
		return false;
	}
	found = CatalogScanNext(&scan, slot, tid);
	CatalogScanEnd(&scan);
	return found;
}

/* Returns the OID of the table key. */
Oid
LookupKeyRelation(void)
{
	return CatalogOid(&CatalogKey);
}

/*
 * Starts a look-up with the latest snapshot, after taking notice of all changes
 * of definitions; nothing if it is open.  False: the tables cannot be locked
 * without waiting.
 */
bool
LookupBegin(Lookup *lookup)
{
	if (lookup->open)
		return true;
	AcceptInvalidationMessages();
	lookup->key = CatalogTryOpen(&CatalogKey);
	if (lookup->key == NULL)
		return false;
	lookup->account = CatalogTryOpen(&CatalogAccount);
	if (lookup->account == NULL)
	{
		table_close(lookup->key, AccessShareLock);
		return false;
	}
	lookup->snapshot = RegisterSnapshot(GetLatestSnapshot());
	lookup->key_slot = takeSlot(&key_slot, &CatalogKey, lookup->key);
	lookup->account_slot = takeSlot(&account_slot, &CatalogAccount, lookup->account);
	lookup->late = false;
	lookup->open = true;
	return true;
}

/*
 * Ends the look-up if it is open, and with it its locks; what its KeyRow points
 * to is gone.
 */
void
LookupEnd(Lookup *lookup)
{
	if (!lookup->open)
		return;
	lookup->open = false;
	putSlotBack(&key_slot);
	putSlotBack(&account_slot);
	UnregisterSnapshot(lookup->snapshot);
	table_close(lookup->key, AccessShareLock);
	table_close(lookup->account, AccessShareLock);
}

static Datum
keyColumn(Lookup *lookup, KeyColumn column, bool *isnull)
{
	return CatalogColumn(&CatalogKey, lookup->key_slot, column, isnull);
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

/*
 * Fetches the account's row and returns its hint; NULL: there is none, or the
 * look-up is late.
 */
static Hint *
fetchAccount(Lookup *lookup, int64 account_id)
{
	uint32 tag = (uint32) account_id;
	Hint *hint =
		HintFetch(&account_hints, tag, lookup->account, lookup->snapshot, lookup->account_slot);
	ItemPointerData tid;
	bool isnull;

	if (hint && DatumGetInt64(CatalogColumn(&CatalogAccount, lookup->account_slot,
											ACCOUNT_ACCOUNT_ID, &isnull)) == account_id)
		return hint;
	if (!fetchIndexed(lookup, &CatalogAccount, lookup->account, 0, Int64GetDatum(account_id),
					  lookup->account_slot, &tid))
		return NULL;
	return HintSave(&account_hints, tag, &tid);
}

/*
 * Reads the limits of the key in the slot: its own or its tier's, lowered by
 * those of its owner.
 */
static void
readLimits(Lookup *lookup, KeyRow *row)
{
	LimitSet owner;
	bool isnull;
	Datum value = keyColumn(lookup, KEY_LIMITS, &isnull);

	row->limits.count = 0;
	if (!isnull)
		LimitsUnpack(value, &row->limits);
	else
	{
		value = keyColumn(lookup, KEY_TIER, &isnull);
		if (!isnull)
			lookup->late |= !RuleCacheTierLimits(DatumGetTextPP(value), &row->limits);
	}
	value = keyColumn(lookup, KEY_OWNER_LIMITS, &isnull);
	if (likely(isnull))
		return;
	LimitsUnpack(value, &owner);
	(void) LimitSetLower(&row->limits, &owner);
}

/*
 * Fills the KeyRow from the row in the key's slot, which has this hint, and its
 * account.  If the look-up gets late, the row is not complete.
 */
static void
readRow(Lookup *lookup, Hint *hint, KeyRow *row)
{
	Hint *account_hint;
	bool isnull;
	Datum value;

	row->key_id = DatumGetInt64(keyColumn(lookup, KEY_KEY_ID, &isnull));
	row->account_id = DatumGetInt64(keyColumn(lookup, KEY_ACCOUNT_ID, &isnull));
	(void) keyColumn(lookup, KEY_ARCHIVED_AT, &isnull);
	row->active = isnull && DatumGetBool(keyColumn(lookup, KEY_ACTIVE, &isnull));
	row->previous = false;
	row->rotations = DatumGetInt32(keyColumn(lookup, KEY_ROTATIONS, &isnull));
	value = keyColumn(lookup, KEY_EXPIRES_AT, &isnull);
	row->expires_at = isnull ? DT_NOEND : DatumGetTimestampTz(value);
	row->category = DatumGetTextPP(keyColumn(lookup, KEY_CATEGORY, &isnull));
	value = keyColumn(lookup, KEY_SUSPENDED_REASON, &isnull);
	row->suspended = !isnull;
	row->suspended_reason = isnull ? NULL : DatumGetTextPP(value);
	row->allowed_domains = keyList(lookup, KEY_ALLOWED_DOMAINS);
	row->allowed_ips = keyList(lookup, KEY_ALLOWED_IPS);
	row->scopes = keyList(lookup, KEY_SCOPES);

	readLimits(lookup, row);

	/* A foreign key makes sure that it exists; the snapshot is the same. */
	account_hint = fetchAccount(lookup, row->account_id);
	if (lookup->late)
		return;
	if (account_hint == NULL)
		elog(ERROR, "account " INT64_FORMAT " of key " INT64_FORMAT " is missing", row->account_id,
			 row->key_id);
	hint->account_tag = account_hint->tag;
	row->meter = &hint->meter;
	row->account_meter = &account_hint->meter;
	row->account_active =
		DatumGetBool(CatalogColumn(&CatalogAccount, lookup->account_slot, ACCOUNT_ACTIVE, &isnull));
	row->account_name =
		DatumGetTextPP(CatalogColumn(&CatalogAccount, lookup->account_slot, ACCOUNT_NAME, &isnull));
	value = CatalogColumn(&CatalogAccount, lookup->account_slot, ACCOUNT_LIMITS, &isnull);
	if (!isnull)
		LimitsUnpack(value, &row->account_limits);
	else
	{
		value = CatalogColumn(&CatalogAccount, lookup->account_slot, ACCOUNT_PLAN, &isnull);
		lookup->late |= !RuleCachePlanLimits(DatumGetTextPP(value), &row->account_limits);
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
 * Fills the row if the digest that found it was made by the rule that a column
 * names.
 */
static bool
acceptRow(Lookup *lookup, KeyColumn rule_column, const HashRule *rule, Hint *hint, KeyRow *row)
{
	bool isnull;
	text *name = DatumGetTextPP(keyColumn(lookup, rule_column, &isnull));

	if (!HashRuleIsNamed(rule, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)))
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

/* Starts to fetch what LookupPrefetch reads of the key with a digest. */
void
LookupExpect(const Digest *digest)
{
	HintPrefetch(&key_hints, tagOf(digest));
}

/* Starts to fetch what LookupByText will read of the key with a digest. */
void
LookupPrefetch(const Digest *digest)
{
	const Hint *hint = HintPrefetchRow(&key_hints, tagOf(digest));

	if (hint)
		(void) HintPrefetchRow(&account_hints, hint->account_tag);
}

/* Finds the key with a digest, made by a rule, where it was before. */
static bool
findRemembered(Lookup *lookup, const Digest *digest, const HashRule *rule, KeyRow *row)
{
	Hint *hint =
		HintFetch(&key_hints, tagOf(digest), lookup->key, lookup->snapshot, lookup->key_slot);

	return hint && hasDigest(lookup, KEY_DIGEST, digest) &&
		   acceptRow(lookup, KEY_HASH_RULE, rule, hint, row);
}

/* Finds it by the indexes, and remembers where it is if asked to. */
static bool
findDigest(Lookup *lookup, const Digest *digest, const HashRule *rule, bool remember, KeyRow *row)
{
	ItemPointerData tid;
	bool isnull;

	if (fetchIndexed(lookup, &CatalogKey, lookup->key, KEY_BY_DIGEST, PointerGetDatum(digest),
					 lookup->key_slot, &tid))
		return acceptRow(lookup, KEY_HASH_RULE, rule,
						 remember ? HintSave(&key_hints, tagOf(digest), &tid) : HintNone(), row);

	/* A rotated key text is good until its grace ends. */
	if (!fetchIndexed(lookup, &CatalogKey, lookup->key, KEY_BY_PREVIOUS_DIGEST,
					  PointerGetDatum(digest), lookup->key_slot, NULL) ||
		DatumGetTimestampTz(keyColumn(lookup, KEY_PREVIOUS_VALID_UNTIL, &isnull)) <=
			ClockTimestamp(ClockWallNow()) ||
		!acceptRow(lookup, KEY_PREVIOUS_HASH_RULE, rule, HintNone(), row))
		return false;
	row->previous = true;
	return true;
}

/* Finds an imported key by the part of its text that a rule hashes. */
static bool
findPart(Lookup *lookup, const char *key, size_t len, const HashRule *rule, KeyRow *row)
{
	size_t part_len;
	const char *part = HashRulePart(rule, key, len, &part_len);
	Digest digest;

	if (part == NULL)
		return false;
	SecretDigest(&digest, part, part_len);
	return findRemembered(lookup, &digest, rule, row) ||
		   findDigest(lookup, &digest, rule, true, row);
}

/*
 * Finds the key that a text, which has this digest, belongs to and fills the
 * row; false: there is none, or the look-up is late.  A text of our shape and
 * of a plan's prefix whose checksum is wrong is refused without a search of the
 * key table; other shapes may be imported keys.
 *
 * A text that is found where its key was before is not checked for its shape.
 * So hints are not kept for texts with a wrong checksum: such a text must be
 * refused once a plan takes its prefix.
 */
bool
LookupByText(Lookup *lookup, const char *key, size_t len, const Digest *digest, KeyRow *row)
{
	const HashRule *rule = HashRules; /* the whole text */
	size_t prefix_len;
	KeyTextShape shape;

	if (findRemembered(lookup, digest, rule, row))
		return true;
	shape = KeyTextClassify(key, len, &prefix_len);
	if (shape == KEYTEXT_BAD_CHECKSUM)
	{
		bool known = false;

		lookup->late |= !RuleCachePrefixIsKnown(key, prefix_len, &known);
		if (known || lookup->late)
			return false;
	}
	if (findDigest(lookup, digest, rule, shape != KEYTEXT_BAD_CHECKSUM, row))
		return true;
	while (shape != KEYTEXT_WELL_FORMED && (++rule)->name)
		if (findPart(lookup, key, len, rule, row))
			return true;
	return false;
}

/*
 * Finds the key with an id and fills the row; false: there is none, or the
 * look-up is late.
 */
bool
LookupById(Lookup *lookup, int64 key_id, KeyRow *row)
{
	if (!fetchIndexed(lookup, &CatalogKey, lookup->key, KEY_BY_ID, Int64GetDatum(key_id),
					  lookup->key_slot, NULL))
		return false;
	readRow(lookup, HintNone(), row);
	return true;
}

/*
 * Tells whether the key that was found was made by this session's own open
 * transaction: no other session can see it, and a rollback would remove it.  (A
 * key that this transaction has only changed is also seen by the snapshot with
 * the command id of the transaction's begin.)  The index is locked as by a
 * SELECT: who has inserted into a table need not wait for those who lock it.
 */
bool
LookupMadeHere(Lookup *lookup, int64 key_id)
{
	bool isnull;
	Datum xmin = slot_getsysattr(lookup->key_slot, MinTransactionIdAttributeNumber, &isnull);
	SnapshotData before;
	TupleTableSlot *slot;
	Datum value = Int64GetDatum(key_id);
	CatalogScan scan;
	bool found;

	if (likely(!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin))))
		return false;
	memcpy(&before, lookup->snapshot, sizeof(before));
	before.curcid = FirstCommandId;
	slot = table_slot_create(lookup->key, NULL);
	CatalogScanBegin(&scan, &CatalogKey, lookup->key, KEY_BY_ID, &before, 1, &value, NULL);
	found = CatalogScanNext(&scan, slot, NULL);
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	return !found;
}
