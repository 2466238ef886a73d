/*
 * rulecache.c
 *	  What the C code needs of plans, tiers, products and blocks by hand,
 *	  cached in the backend.
 *
 * They are few and seldom change, and every verdict needs them.  The tables are
 * read whole when they are first needed, into a memory context of their own.
 * Any change to one of them drops all that is cached: triggers on the tables
 * send a relcache invalidation, which reaches every backend before its next
 * verdict (LookupBegin accepts invalidations) and, after a rollback, the
 * session's own again.  A plan or tier that is not in the cache has been added
 * since, and the tables are read again; its absence is never cached, so INSERT
 * needs no trigger.
 *
 * Of products the cache knows whether any key has some: if none has, no call
 * need read key_product.  That is a cached absence, and so is the absence of a
 * block on an address.  So INSERT into these tables sends an invalidation, too,
 * for each row, since a subscription's worker fires no statement triggers.  (A
 * restore fires the trigger, which does no harm.)  Invalidations are sent
 * before the COMMIT of the change is acknowledged, so the next call sees it.
 *
 * A row of key_product that is not the first sends none, or none besides that
 * of its transaction, because every session would plan again all queries on
 * key_product.  Every backend then knows of the row that was there, or hears of
 * its deletion after the new one was inserted.  So absence is cached only where
 * no row is there, not even one whose transaction has not ended.
 *
 * The tables are read without waiting for locks: where that is not possible the
 * functions return false, and the caller tries again later.  No lock is held
 * after that: rows are protected by the snapshot, and changes tell of
 * themselves.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "pure/clock.h"
#include "tables/catalog.h"
#include "tables/rulecache.h"
#include "types/limits.h"

typedef struct Rule
{
	struct Rule *next;
	char *name;
	size_t name_len;
	char *prefix; /* plans only */
	size_t prefix_len;
	LimitSet limits;
} Rule;

/* What is known of key_product. */
typedef enum ProductsKnown
{
	PRODUCTS_UNKNOWN,
	PRODUCTS_READING, /* no change since it began; unknown if an error ended it */
	PRODUCTS_NONE,
	PRODUCTS_SOME
} ProductsKnown;

static ProductsKnown products = PRODUCTS_UNKNOWN;

static MemoryContext rules_context = NULL;
static Rule *tiers;
static Rule *plans;
static RuleCacheBlocked *blocks;
static bool cache_complete = false; /* an error may have cut the reading */
static bool cache_valid = false;	/* no change has come in since it began */

PG_FUNCTION_INFO_V1(apikeys_rulecache_changed);

static void
dropCache(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == CatalogTier.oid || relid == CatalogPlan.oid ||
		relid == CatalogAddressBlock.oid)
		cache_valid = false;
	if (relid == InvalidOid || relid == CatalogKeyProduct.oid)
		products = PRODUCTS_UNKNOWN;
}

static void
registerCallback(void)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterRelcacheCallback(dropCache, (Datum) 0);
	registered = true;
}

/* Makes a plan or tier from the row in the slot. */
static void
addRule(CatalogTable *table, TupleTableSlot *slot)
{
	Rule **list = (table == &CatalogPlan) ? &plans : &tiers;
	Rule *rule = palloc0(sizeof(Rule));
	bool isnull;

	rule->name = TextDatumGetCString(CatalogColumn(table, slot, RULE_NAME, &isnull));
	rule->name_len = strlen(rule->name);
	LimitsUnpack(CatalogColumn(table, slot, RULE_LIMITS, &isnull), &rule->limits);
	if (table == &CatalogPlan)
	{
		rule->prefix = TextDatumGetCString(CatalogColumn(table, slot, RULE_PREFIX, &isnull));
		rule->prefix_len = strlen(rule->prefix);
	}
	rule->next = *list;
	*list = rule;
}

/* Makes a block from the row in the slot. */
static void
addBlock(CatalogTable *table, TupleTableSlot *slot)
{
	RuleCacheBlocked *block = palloc(sizeof(RuleCacheBlocked));
	bool isnull;

	block->network = (const inet *) PG_DETOAST_DATUM_COPY(
		CatalogColumn(table, slot, ADDRESS_BLOCK_NETWORK, &isnull));
	block->until = DatumGetTimestampTz(CatalogColumn(table, slot, ADDRESS_BLOCK_UNTIL, &isnull));
	if (isnull)
		block->until = DT_NOEND;
	block->next = blocks;
	blocks = block;
}

/*
 * Reads one of the tables; what is made of its rows is in rules_context.
 * False: it cannot be locked without waiting.
 */
static bool
readTable(CatalogTable *table, void (*add)(CatalogTable *, TupleTableSlot *))
{
	Relation rel = CatalogTryOpen(table);
	Snapshot snapshot;
	TupleTableSlot *slot;
	TableScanDesc scan;

	if (rel == NULL)
		return false;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext caller = MemoryContextSwitchTo(rules_context);

		add(table, slot);
		MemoryContextSwitchTo(caller);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return true;
}

/*
 * Reads the tables, until no change has come in meanwhile; false: that takes
 * waiting.
 */
static bool
readCache(void)
{
	registerCallback();
	if (rules_context == NULL)
		rules_context =
			AllocSetContextCreate(TopMemoryContext, "apikeys rules", ALLOCSET_SMALL_SIZES);
	do
	{
		CHECK_FOR_INTERRUPTS();
		cache_complete = false;
		MemoryContextReset(rules_context);
		tiers = plans = NULL;
		blocks = NULL;
		CatalogResolve(&CatalogTier);
		CatalogResolve(&CatalogPlan);
		CatalogResolve(&CatalogAddressBlock);
		cache_valid = true; /* before reading: a change from here on unsets it */
		if (!readTable(&CatalogTier, addRule) || !readTable(&CatalogPlan, addRule) ||
			!readTable(&CatalogAddressBlock, addBlock))
			return false;
		cache_complete = true;
	} while (!cache_valid);
	return true;
}

/* Reads the tables if what is cached of them is out of date. */
static bool
refreshCache(void)
{
	return likely(cache_valid && cache_complete) || readCache();
}

static const Rule *
findIn(const Rule *rule, const char *name, size_t len)
{
	while (rule && !(rule->name_len == len && memcmp(rule->name, name, len) == 0))
		rule = rule->next;
	return rule;
}

/*
 * Gives the limits of the tier or plan, which exists, says a foreign key;
 * false: it cannot be read without waiting.
 */
static bool
findLimits(Rule **list, const text *name, LimitSet *limits)
{
	const char *bytes = VARDATA_ANY(name);
	size_t len = VARSIZE_ANY_EXHDR(name);
	const Rule *rule = cache_valid && cache_complete ? findIn(*list, bytes, len) : NULL;

	if (unlikely(rule == NULL))
	{
		if (!readCache())
			return false;
		rule = findIn(*list, bytes, len);
		if (rule == NULL)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
							errmsg("%s \"%.*s\" does not exist", list == &plans ? "plan" : "tier",
								   (int) len, bytes),
							errhidestmt(true)));
	}
	memcpy(limits, &rule->limits, sizeof(LimitSet));
	return true;
}

/* Gives the limits of a tier; false: it cannot be read without waiting. */
bool
RuleCacheTierLimits(const text *tier, LimitSet *limits)
{
	return findLimits(&tiers, tier, limits);
}

/* Gives the limits of a plan; false: it cannot be read without waiting. */
bool
RuleCachePlanLimits(const text *plan, LimitSet *limits)
{
	return findLimits(&plans, plan, limits);
}

/*
 * Tells in *known whether some plan uses the prefix; false: that cannot be read
 * without waiting.  "No" may be wrong for a plan just added; then texts with
 * its prefix are looked up like others, with the same verdict.
 */
bool
RuleCachePrefixIsKnown(const char *prefix, size_t len, bool *known)
{
	const Rule *rule;

	if (!refreshCache())
		return false;
	rule = plans;
	while (rule && !(rule->prefix_len == len && memcmp(rule->prefix, prefix, len) == 0))
		rule = rule->next;
	*known = (rule != NULL);
	return true;
}

/*
 * Tells in *found whether key_product has a row that is visible now, or whose
 * transaction has not ended; by the index, since the table may begin with any
 * number of dead rows.  False: that cannot be read without waiting.
 */
static bool
readProducts(bool *found)
{
	Relation rel = CatalogTryOpen(&CatalogKeyProduct);
	SnapshotData snapshot;
	CatalogScan scan;
	bool begun;

	if (rel == NULL)
		return false;
	InitDirtySnapshot(snapshot);
	begun = CatalogTryScanBegin(&scan, &CatalogKeyProduct, rel, 0, &snapshot, 0, NULL);
	if (begun)
	{
		TupleTableSlot *slot = table_slot_create(rel, NULL);

		*found = CatalogScanNext(&scan, slot, NULL);
		CatalogScanEnd(&scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	table_close(rel, AccessShareLock);
	return begun;
}

/*
 * Tells in *exist whether some key may have products; "yes" may be out of date.
 * False: that cannot be read without waiting.
 */
bool
RuleCacheProductsExist(bool *exist)
{
	bool found;

	*exist = true;
	if (unlikely(products < PRODUCTS_NONE))
	{
		registerCallback();
		CatalogResolve(&CatalogKeyProduct);
		products = PRODUCTS_READING; /* before reading: a change from here on unsets it */
		if (!readProducts(&found))
		{
			products = PRODUCTS_UNKNOWN;
			return false;
		}
		if (products == PRODUCTS_READING)
			products = found ? PRODUCTS_SOME : PRODUCTS_NONE;
	}
	*exist = (products != PRODUCTS_NONE);
	return true;
}

/*
 * Gives in *found the block by hand that an address is under, NULL if there is
 * none; of several, the one that ends last.  It is good until invalidations are
 * accepted.  False: that cannot be read without waiting.
 */
bool
RuleCacheBlock(const PatternAddress *address, const RuleCacheBlocked **found)
{
	if (!refreshCache())
		return false;
	*found = NULL;
	for (const RuleCacheBlocked *block = blocks; block; block = block->next)
		if (PatternNetworkContains(ip_addr(block->network), ip_addrsize(block->network),
								   ip_bits(block->network), address) &&
			ClockTimestamp(ClockWallNow()) < block->until &&
			(*found == NULL || block->until > (*found)->until))
			*found = block;
	return true;
}

/*
 * Tells whether a row was inserted by a transaction whose invalidations have
 * been sent: they are before it gives up the lock on its id.
 */
static bool
isKnownToAll(TupleTableSlot *slot)
{
	bool isnull;
	TransactionId inserter =
		DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));

	return !TransactionIdIsNormal(inserter) || (!TransactionIdIsCurrentTransactionId(inserter) &&
												ConditionalXactLockTableWait(inserter, false));
}

/*
 * Tells whether key_product, into which a row has been inserted, had one
 * before, of which all sessions know.  A few rows are looked at.
 */
static bool
hadProducts(Relation rel)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	CatalogScan scan;
	bool had = false;

	CatalogResolve(&CatalogKeyProduct);
	CatalogScanBegin(&scan, &CatalogKeyProduct, rel, 0, snapshot, 0, NULL, NULL);
	for (int i = 0; i < 3 && !had && CatalogScanNext(&scan, slot, NULL); i++)
		had = isKnownToAll(slot);
	CatalogScanEnd(&scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	return had;
}

/*
 * Makes every backend look again whether there are products, when this
 * (sub)transaction, which has inserted some, has committed.
 */
static void
invalidateProducts(Relation rel)
{
	static TransactionId transaction = InvalidTransactionId;
	static SubTransactionId subtransaction = InvalidSubTransactionId;

	if ((transaction == GetTopTransactionId() && subtransaction == GetCurrentSubTransactionId()) ||
		hadProducts(rel))
		return;
	CacheInvalidateRelcache(rel);
	transaction = GetTopTransactionId();
	subtransaction = GetCurrentSubTransactionId();
}

/*
 * Trigger on plan, tier, key_product and address_block: makes every backend
 * drop what it has cached of them.
 */
Datum
apikeys_rulecache_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger;
	Relation rel;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function apikeys_internal.rules_changed was not called by a trigger")));
	trigger = (TriggerData *) fcinfo->context;
	rel = trigger->tg_relation;
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event) &&
		strcmp(RelationGetRelationName(rel), CatalogKeyProduct.name) == 0)
		invalidateProducts(rel);
	else
		CacheInvalidateRelcache(rel);
	return PointerGetDatum(NULL);
}
