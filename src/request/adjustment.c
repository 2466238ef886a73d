/*
 * adjustment.c
 *	  Resets of usage and grants of units, as the tables have them.
 *
 * Each is a row of adjustment, which is only ever added to.
 *
 * A reset of a window says how many units the subject had used in all
 * (counts_from): these no longer count in that window, later ones do.  It does
 * not say when.  Units are written in the order in which they were admitted, so
 * the ones that count are the last of all that are stored, and remain so when
 * stored steps are merged.  A step that the reset falls into gives its
 * remaining units at its end, as all steps do.  Units that were admitted before
 * a reset but not written yet still count.  Of several resets of a window the
 * one with the most units counts: it was the last.
 *
 * A grant gives units above the cap of a window until an instant of engine
 * time.  Grants of one window add up; a negative one takes units back.
 *
 * Both take effect when their transaction commits, for all sessions at once.
 * Before that they have no effect for their own session either: what is read
 * here may become part of a meter, which others use.  After the commit, once
 * the rows are visible, each subject's meter is told to read them.  A prepared
 * transaction may be committed by another session, which knows nothing of
 * adjustments: PREPARE is refused.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "common/int.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "pure/clock.h"
#include "request/adjustment.h"
#include "request/lookup.h"
#include "tables/catalog.h"

/* grants that end later are read again by then */
#define GRANT_US_MAX (INT64CONST(100) * 366 * USECS_PER_DAY)

/* Whom this transaction has adjusted; in TopTransactionContext. */
static MeterSubject *adjusted = NULL;
static int adjusted_count = 0;
static int adjusted_size = 0;

PG_FUNCTION_INFO_V1(apikeys_adjustment_made);

/* Finds a window by its name among those asked for; NULL: it is not. */
static MeterAdjustment *
findWindow(MeterAdjustments *adjustments, const text *name)
{
	char error[LIMITTEXT_ERROR_MAX];
	uint32 window;

	if (!LimitWindowParse(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), &window, error))
		return NULL;
	for (int i = 0; i < adjustments->count; i++)
		if (adjustments->windows[i].window == window)
			return &adjustments->windows[i];
	return NULL;
}

/* Adds what a row says to that of the rows before it. */
static void
addRow(TupleTableSlot *slot, MeterAdjustments *adjustments)
{
	bool isnull;
	text *name =
		DatumGetTextPP(CatalogColumn(&CatalogAdjustment, slot, ADJUSTMENT_WINDOW, &isnull));
	MeterAdjustment *adjustment = findWindow(adjustments, name);
	TimestampTz now = ClockTimestamp(adjustments->now);
	TimestampTz until;
	int64 units;

	if (adjustment == NULL)
		return;
	until = DatumGetTimestampTz(CatalogColumn(&CatalogAdjustment, slot, ADJUSTMENT_UNTIL, &isnull));
	if (isnull)
	{
		int64 counts_from =
			DatumGetInt64(CatalogColumn(&CatalogAdjustment, slot, ADJUSTMENT_COUNTS_FROM, &isnull));

		adjustment->counts_from = Max(adjustment->counts_from, counts_from);
		return;
	}
	if (until <= now)
		return;
	units = DatumGetInt64(CatalogColumn(&CatalogAdjustment, slot, ADJUSTMENT_UNITS, &isnull));
	if (pg_add_s64_overflow(adjustment->granted, units, &units))
		return;
	adjustment->granted = units;
	until = (until - now > GRANT_US_MAX) ? now + GRANT_US_MAX : until;
	adjustments->hold_until = Min(adjustments->hold_until, adjustments->now + (until - now) * 1000);
}

/* Fills in what the committed rows of a subject do to the windows given. */
void
AdjustmentRead(const MeterSubject *subject, Snapshot snapshot, MeterAdjustments *adjustments)
{
	Relation rel = CatalogOpen(&CatalogAdjustment, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Datum values[2] = {CharGetDatum((char) subject->kind), Int64GetDatum(subject->id)};
	CatalogScan scan;

	CatalogScanBegin(&scan, &CatalogAdjustment, rel, 0, snapshot, 2, values, NULL);
	while (CatalogScanNext(&scan, slot, NULL))
	{
		bool isnull;
		Datum xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

		if (!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin)))
			addRow(slot, adjustments);
	}
	CatalogScanEnd(&scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	for (int i = 0; i < adjustments->count; i++)
		adjustments->windows[i].granted =
			Min(Max(adjustments->windows[i].granted, 0), LIMIT_CAP_TOTAL_MAX);
}

/* Tells the meters at the commit of a transaction that has adjusted them. */
static void
endTransaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (adjusted_count > 0)
				ereport(
					ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has reset usage or granted units")));
			break;
		case XACT_EVENT_COMMIT:
			for (int i = 0; i < adjusted_count; i++)
				MeterAdjusted(&adjusted[i]);
			/* FALLTHROUGH */
		case XACT_EVENT_ABORT:
			adjusted = NULL;
			adjusted_count = adjusted_size = 0;
			break;
		default:
			break;
	}
}

/*
 * Makes the meter of a subject read its adjustments again when this transaction
 * commits; SQL: adjustment_made.
 */
Datum
apikeys_adjustment_made(PG_FUNCTION_ARGS)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(endTransaction, NULL);
		registered = true;
	}
	if (adjusted_count == adjusted_size)
	{
		int size = Max(16, 2 * adjusted_size);

		adjusted = adjusted == NULL ?
					   MemoryContextAlloc(TopTransactionContext, size * sizeof(MeterSubject)) :
					   repalloc(adjusted, size * sizeof(MeterSubject));
		adjusted_size = size;
	}
	MeterSubjectSet(&adjusted[adjusted_count], LookupKeyRelation(), (MeterKind) PG_GETARG_CHAR(0),
					PG_GETARG_INT64(1));
	adjusted_count++;
	PG_RETURN_VOID();
}
