/*
 * tally.c
 *	  What the events of a batch add to usage.
 *
 * Requests and completions of a batch are summed by subject and bucket, and the
 * sums are added to usage_bucket and usage_total, so that a batch touches each
 * of these rows once.  A sum that would overflow stays at its greatest value.
 *
 * A tally lives in the memory context in which TallyInit was called.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "port/pg_bitutils.h"
#include "utils/timestamp.h"

#include "engine/meter.h"
#include "pure/bucket.h"
#include "pure/clock.h"
#include "tables/catalog.h"
#include "tables/rows.h"
#include "writer/tally.h"

#define ERROR_STATUS 400 /* from here on a completed request counts as an error */

/*
 * What a subject used, in one bucket (a row of usage_bucket) or in all
 * (usage_total).
 */
typedef struct Usage
{
	MeterKind subject;
	int64 subject_id;
	TimestampTz bucket; /* 0 for the total */
	int64 admitted;
	int64 denied;
	int64 units;
	int64 errors;
	int64 credits;
	int64 unlogged; /* requests that apikeys.log_requests keeps out of the log */
	TimestampTz first_at;
	TimestampTz last_at;
	TimestampTz last_unit_at; /* of a request with units; DT_NOBEGIN: there is none */
	/* of keys, and only in totals: */
	TimestampTz previous_at; /* of a request with a former text; the same */
	int32 newest_text;		 /* of those used, by the texts before it */
} Usage;

/* Columns of usage_bucket, and those of usage_total. */
typedef enum BucketColumn
{
	BUCKET_SUBJECT,
	BUCKET_SUBJECT_ID,
	BUCKET_BUCKET,
	BUCKET_ADMITTED,
	BUCKET_DENIED,
	BUCKET_UNITS,
	BUCKET_ERRORS,
	BUCKET_CREDITS,
	BUCKET_UNLOGGED
} BucketColumn;

#define BUCKET_COLUMNS (BUCKET_UNLOGGED + 1)

static const RowColumns bucket_columns = {BUCKET_COLUMNS,
										  .key_count = 3,
										  .hinted = true,
										  {{"subject", CHAROID},
										   {"subject_id", INT8OID},
										   {"bucket", TIMESTAMPTZOID},
										   {"admitted", INT8OID},
										   {"denied", INT8OID},
										   {"units", INT8OID},
										   {"errors", INT8OID},
										   {"credits", INT8OID},
										   {"unlogged", INT8OID}}};

typedef enum TotalColumn
{
	TOTAL_SUBJECT,
	TOTAL_SUBJECT_ID,
	TOTAL_ADMITTED,
	TOTAL_DENIED,
	TOTAL_UNITS,
	TOTAL_ERRORS,
	TOTAL_CREDITS,
	TOTAL_FIRST_USED_AT,
	TOTAL_LAST_USED_AT,
	TOTAL_LAST_UNIT_AT,
	TOTAL_PREVIOUS_LAST_USED_AT,
	TOTAL_NEWEST_TEXT
} TotalColumn;

#define TOTAL_COLUMNS (TOTAL_NEWEST_TEXT + 1)

static const RowColumns total_columns = {TOTAL_COLUMNS,
										 .key_count = 2,
										 .hinted = true,
										 {{"subject", CHAROID},
										  {"subject_id", INT8OID},
										  {"admitted", INT8OID},
										  {"denied", INT8OID},
										  {"units", INT8OID},
										  {"errors", INT8OID},
										  {"credits", INT8OID},
										  {"first_used_at", TIMESTAMPTZOID},
										  {"last_used_at", TIMESTAMPTZOID},
										  {"last_unit_at", TIMESTAMPTZOID},
										  {"previous_last_used_at", TIMESTAMPTZOID},
										  {"newest_text", INT4OID}}};

/* Adds two figures of usage, which are never negative. */
static int64
addClamped(int64 a, int64 b)
{
	int64 sum;

	if (pg_add_s64_overflow(a, b, &sum))
		return PG_INT64_MAX;
	return sum;
}

/* Makes room for so many usages; must not be exceeded. */
static void
initTally(Tally *tally, uint32 usages)
{
	uint32 places = pg_nextpower2_32(Max(usages, 8) * 2);

	tally->usages = palloc_array(Usage, usages);
	tally->count = 0;
	tally->places = palloc0_array(uint32, places);
	tally->place_mask = places - 1;
}

/* Makes an empty tally, for no more than so many events. */
void
TallyInit(Tally *tally, uint32 events)
{
	initTally(tally, 2 * events); /* the key and the account */
}

/* Returns what a subject used in a bucket, nothing if it is new. */
static Usage *
findUsage(Tally *tally, MeterKind subject, int64 subject_id, TimestampTz bucket)
{
	uint64 hash = ((uint64) subject_id * 2 + (subject == METER_KEY) + (uint64) bucket) *
				  UINT64CONST(0x9E3779B97F4A7C15);
	uint32 place = (hash >> 32) & tally->place_mask;
	Usage *usage;

	for (; tally->places[place] != 0; place = (place + 1) & tally->place_mask)
	{
		usage = &tally->usages[tally->places[place] - 1];
		if (usage->subject_id == subject_id && usage->bucket == bucket && usage->subject == subject)
			return usage;
	}
	usage = &tally->usages[tally->count++];
	tally->places[place] = tally->count;
	*usage = (Usage){.subject = subject,
					 .subject_id = subject_id,
					 .bucket = bucket,
					 .first_at = DT_NOEND,
					 .last_at = DT_NOBEGIN,
					 .last_unit_at = DT_NOBEGIN,
					 .previous_at = DT_NOBEGIN};
	return usage;
}

static void
addUsage(Usage *usage, const Usage *more)
{
	usage->admitted = addClamped(usage->admitted, more->admitted);
	usage->denied = addClamped(usage->denied, more->denied);
	usage->units = addClamped(usage->units, more->units);
	usage->errors = addClamped(usage->errors, more->errors);
	usage->credits = addClamped(usage->credits, more->credits);
	usage->unlogged = addClamped(usage->unlogged, more->unlogged);
	usage->first_at = Min(usage->first_at, more->first_at);
	usage->last_at = Max(usage->last_at, more->last_at);
	usage->last_unit_at = Max(usage->last_unit_at, more->last_unit_at);
	usage->previous_at = Max(usage->previous_at, more->previous_at);
	usage->newest_text = Max(usage->newest_text, more->newest_text);
}

/*
 * Adds what one request, or its completion, used to the buckets of key and
 * account; the totals are made of them.
 */
static void
addToSubjects(Tally *tally, int64 key_id, int64 account_id, TimestampTz at, Usage *more)
{
	TimestampTz bucket = BucketStart(at);

	more->first_at = more->last_at = at;
	more->last_unit_at = more->units > 0 ? at : DT_NOBEGIN;
	addUsage(findUsage(tally, METER_KEY, key_id, bucket), more);
	addUsage(findUsage(tally, METER_ACCOUNT, account_id, bucket), more);
}

/*
 * Adds a request, and its completion (NULL: none in the same batch).  unlogged:
 * apikeys.log_requests keeps it out of the log.
 */
void
TallyAddRequest(Tally *tally, const Event *request, const Event *completion, bool unlogged)
{
	TimestampTz at = ClockTimestamp(request->at * 1000);
	Usage more = {.admitted = request->admitted,
				  .denied = !request->admitted,
				  .units = request->admitted ? request->cost : 0,
				  .errors = request->admitted && completion && completion->status >= ERROR_STATUS,
				  .credits = completion ? completion->credits : 0,
				  .unlogged = unlogged,
				  .previous_at = request->previous ? at : DT_NOBEGIN,
				  .newest_text = request->previous ? 0 : request->rotations};

	addToSubjects(tally, request->key_id, request->account_id, at, &more);
}

/*
 * Adds a completion alone: its request, made at this time, was added by an
 * earlier batch.
 */
void
TallyAddCompletion(Tally *tally, const Event *completion, TimestampTz at, int64 account_id,
				   bool admitted)
{
	Usage more = {.errors = admitted && completion->status >= ERROR_STATUS,
				  .credits = completion->credits,
				  .previous_at = DT_NOBEGIN};

	if (more.errors != 0 || more.credits != 0)
		addToSubjects(tally, completion->key_id, account_id, at, &more);
}

static void
addTo(Datum *sum, int64 more)
{
	*sum = Int64GetDatum(addClamped(DatumGetInt64(*sum), more));
}

/* Adds to the rows of usage_bucket, or makes them. */
static void
writeBuckets(const Tally *buckets)
{
	RowTable *table =
		RowsOpen(CatalogOpenBare(&CatalogUsageBucket, RowExclusiveLock), &bucket_columns);

	for (uint32 i = 0; i < buckets->count; i++)
	{
		const Usage *usage = &buckets->usages[i];
		Datum values[BUCKET_COLUMNS] = {CharGetDatum((char) usage->subject),
										Int64GetDatum(usage->subject_id),
										TimestampTzGetDatum(usage->bucket)};
		bool nulls[BUCKET_COLUMNS] = {0};
		bool found = RowsFind(table, values);

		if (found)
			RowsGet(table, values, nulls);
		addTo(&values[BUCKET_ADMITTED], usage->admitted);
		addTo(&values[BUCKET_DENIED], usage->denied);
		addTo(&values[BUCKET_UNITS], usage->units);
		addTo(&values[BUCKET_ERRORS], usage->errors);
		addTo(&values[BUCKET_CREDITS], usage->credits);
		addTo(&values[BUCKET_UNLOGGED], usage->unlogged);
		(found ? RowsUpdate : RowsInsert)(table, values, nulls);
	}
	RowsClose(table);
}

/* Puts the later of a time and that of a column there; DT_NOBEGIN: none. */
static void
setLatest(Datum *values, bool *nulls, TotalColumn column, TimestampTz at)
{
	if (at == DT_NOBEGIN || (!nulls[column] && DatumGetTimestampTz(values[column]) >= at))
		return;
	values[column] = TimestampTzGetDatum(at);
	nulls[column] = false;
}

/* Notes which texts of a key were used, in its row of usage_total. */
static void
setTexts(Datum *values, bool *nulls, const Usage *usage)
{
	setLatest(values, nulls, TOTAL_PREVIOUS_LAST_USED_AT, usage->previous_at);
	if (usage->newest_text >
		(nulls[TOTAL_NEWEST_TEXT] ? 0 : DatumGetInt32(values[TOTAL_NEWEST_TEXT])))
	{
		values[TOTAL_NEWEST_TEXT] = Int32GetDatum(usage->newest_text);
		nulls[TOTAL_NEWEST_TEXT] = false;
	}
}

/* Adds the same, summed by subject, to usage_total. */
static void
writeTotals(const Tally *buckets)
{
	RowTable *table =
		RowsOpen(CatalogOpenBare(&CatalogUsageTotal, RowExclusiveLock), &total_columns);
	Tally totals;

	initTally(&totals, buckets->count);
	for (uint32 i = 0; i < buckets->count; i++)
		addUsage(findUsage(&totals, buckets->usages[i].subject, buckets->usages[i].subject_id, 0),
				 &buckets->usages[i]);
	for (uint32 i = 0; i < totals.count; i++)
	{
		const Usage *usage = &totals.usages[i];
		Datum values[TOTAL_COLUMNS] = {CharGetDatum((char) usage->subject),
									   Int64GetDatum(usage->subject_id),
									   [TOTAL_FIRST_USED_AT] = TimestampTzGetDatum(usage->first_at),
									   [TOTAL_LAST_USED_AT] = TimestampTzGetDatum(usage->last_at)};
		bool nulls[TOTAL_COLUMNS] = {[TOTAL_LAST_UNIT_AT] = true,
									 [TOTAL_PREVIOUS_LAST_USED_AT] = true,
									 [TOTAL_NEWEST_TEXT] = true};
		bool found = RowsFind(table, values);

		if (found)
			RowsGet(table, values, nulls);
		addTo(&values[TOTAL_ADMITTED], usage->admitted);
		addTo(&values[TOTAL_DENIED], usage->denied);
		addTo(&values[TOTAL_UNITS], usage->units);
		addTo(&values[TOTAL_ERRORS], usage->errors);
		addTo(&values[TOTAL_CREDITS], usage->credits);
		values[TOTAL_FIRST_USED_AT] = TimestampTzGetDatum(
			Min(DatumGetTimestampTz(values[TOTAL_FIRST_USED_AT]), usage->first_at));
		values[TOTAL_LAST_USED_AT] = TimestampTzGetDatum(
			Max(DatumGetTimestampTz(values[TOTAL_LAST_USED_AT]), usage->last_at));
		setLatest(values, nulls, TOTAL_LAST_UNIT_AT, usage->last_unit_at);
		if (usage->subject == METER_KEY)
			setTexts(values, nulls, usage);
		(found ? RowsUpdate : RowsInsert)(table, values, nulls);
	}
	RowsClose(table);
}

/*
 * Adds the sums to usage_bucket and usage_total, in the open transaction, as
 * the owner of the tables.
 */
void
TallyWrite(const Tally *tally)
{
	if (tally->count == 0)
		return;
	writeBuckets(tally);
	writeTotals(tally);
}
