/*
 * productlist.c
 *	  What a key's list of products says of the product of a request.
 *
 * The list is read by the snapshot of the look-up that has found the key.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "request/productlist.h"
#include "tables/catalog.h"
#include "tables/rulecache.h"

/*
 * Reads what the key's list of products, in the table that is open, says of one
 * of them, unless the index cannot be locked without waiting (false).
 */
static bool
readProducts(Lookup *lookup, Relation rel, int64 key_id, const text *product, ProductMatch *match)
{
	Datum value = Int64GetDatum(key_id);
	TupleTableSlot *slot;
	CatalogScan scan;

	if (!CatalogTryScanBegin(&scan, &CatalogKeyProduct, rel, 0, lookup->snapshot, 1, &value))
		return false;
	*match = PRODUCT_UNRESTRICTED;
	slot = table_slot_create(rel, NULL);
	while (*match != PRODUCT_ASSIGNED && CatalogScanNext(&scan, slot, NULL))
	{
		bool isnull;
		text *assigned =
			DatumGetTextPP(CatalogColumn(&CatalogKeyProduct, slot, KEY_PRODUCT_PRODUCT, &isnull));

		CHECK_FOR_INTERRUPTS();
		*match = PRODUCT_NOT_ASSIGNED;
		if (product && VARSIZE_ANY_EXHDR(assigned) == VARSIZE_ANY_EXHDR(product) &&
			memcmp(VARDATA_ANY(assigned), VARDATA_ANY(product), VARSIZE_ANY_EXHDR(product)) == 0)
			*match = PRODUCT_ASSIGNED;
	}
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	return true;
}

/*
 * Tells what the key's list of products says of one of them (NULL: none was
 * named); not assigned, if the look-up is late.
 */
ProductMatch
ProductListMatch(Lookup *lookup, int64 key_id, const text *product)
{
	ProductMatch match = PRODUCT_NOT_ASSIGNED;
	Relation rel = NULL;
	bool exist;

	if (!RuleCacheProductsExist(&exist))
		lookup->late = true;
	else if (!exist)
		return PRODUCT_UNRESTRICTED;
	else if ((rel = CatalogTryOpen(&CatalogKeyProduct)) == NULL ||
			 !readProducts(lookup, rel, key_id, product, &match))
		lookup->late = true;
	if (rel)
		table_close(rel, AccessShareLock);
	return match;
}
