/*
 * maintain.c
 *	  Maintenance of usage: merging of old buckets.
 *
 * The other steps of maintenance are in partition.c and notice.c; duties.c puts
 * them in order.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "pure/bucket.h"
#include "tables/bypass.h"
#include "tables/catalog.h"
#include "writer/maintain.h"

#define MERGE_US (50 * 1000) /* a transaction that merges should take no longer */
#define MERGE_ROWS_MIN 100	 /* buckets that it reads */
#define MERGE_ROWS_MAX 10000

/* A place in the primary key of usage_bucket. */
typedef struct BucketPlace
{
	char subject;
	int64 subject_id;
	TimestampTz bucket;
} BucketPlace;

static const BucketPlace merge_start = {0, PG_INT64_MIN, DT_NOBEGIN};

/* How far this process has merged, and how many buckets the next step reads. */
static BucketPlace merge_place = {0, PG_INT64_MIN, DT_NOBEGIN};
static int merge_rows = MERGE_ROWS_MIN;

/*
 * Merges buckets that are old enough, from a place in the primary key on: $1 to
 * $3 are the place, $4 and $5 the times before which there are hours and days,
 * $6 how many buckets are read, $7 and $8 the lengths of an hour and a day.
 * Returns the place that was reached; no row: the end of the table was.
 * Sums stay at the greatest value instead of overflowing, as in tally.c.
 */
static const char merge_statement[] =
	"WITH step AS MATERIALIZED ("
	"  SELECT b.subject, b.subject_id, b.bucket FROM apikeys.usage_bucket AS b"
	"  WHERE ROW(b.subject, b.subject_id, b.bucket) OPERATOR(pg_catalog.>) ROW($1, $2, $3)"
	"    AND NOT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel AS r"
	"      WHERE r.srrelid OPERATOR(pg_catalog.=)"
	"        'apikeys.usage_bucket'::pg_catalog.regclass)"
	"  ORDER BY b.subject, b.subject_id, b.bucket LIMIT $6"
	"), old AS ("
	"  SELECT s.*, pg_catalog.date_bin("
	"    CASE WHEN s.bucket OPERATOR(pg_catalog.<) $5 THEN $8 ELSE $7 END,"
	"    s.bucket, '2000-01-01 00:00:00+00') AS coarse"
	"  FROM step AS s WHERE s.bucket OPERATOR(pg_catalog.<) $4"
	"), fine AS ("
	"  SELECT o.*, pg_catalog.bool_or(o.bucket OPERATOR(pg_catalog.<>) o.coarse)"
	"    OVER (PARTITION BY o.subject, o.subject_id, o.coarse) AS unmerged"
	"  FROM old AS o"
	"), moved AS ("
	"  DELETE FROM apikeys.usage_bucket AS d USING fine AS f"
	"  WHERE f.unmerged"
	"    AND d.subject OPERATOR(pg_catalog.=) f.subject"
	"    AND d.subject_id OPERATOR(pg_catalog.=) f.subject_id"
	"    AND d.bucket OPERATOR(pg_catalog.=) f.bucket"
	"  RETURNING d.*, f.coarse"
	"), merged AS ("
	"  INSERT INTO apikeys.usage_bucket AS b"
	"    (subject, subject_id, bucket, admitted, denied, units, errors, credits, unlogged)"
	"  SELECT m.subject, m.subject_id, m.coarse,"
	"    LEAST(pg_catalog.sum(m.admitted), 9223372036854775807)::pg_catalog.int8,"
	"    LEAST(pg_catalog.sum(m.denied), 9223372036854775807)::pg_catalog.int8,"
	"    LEAST(pg_catalog.sum(m.units), 9223372036854775807)::pg_catalog.int8,"
	"    LEAST(pg_catalog.sum(m.errors), 9223372036854775807)::pg_catalog.int8,"
	"    LEAST(pg_catalog.sum(m.credits), 9223372036854775807)::pg_catalog.int8,"
	"    LEAST(pg_catalog.sum(m.unlogged), 9223372036854775807)::pg_catalog.int8"
	"  FROM moved AS m GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
	"  ON CONFLICT (subject, subject_id, bucket) DO UPDATE SET"
	"    admitted = LEAST(b.admitted::pg_catalog.numeric OPERATOR(pg_catalog.+) excluded.admitted,"
	"      9223372036854775807)::pg_catalog.int8,"
	"    denied = LEAST(b.denied::pg_catalog.numeric OPERATOR(pg_catalog.+) excluded.denied,"
	"      9223372036854775807)::pg_catalog.int8,"
	"    units = LEAST(b.units::pg_catalog.numeric OPERATOR(pg_catalog.+) excluded.units,"
	"      9223372036854775807)::pg_catalog.int8,"
	"    errors = LEAST(b.errors::pg_catalog.numeric OPERATOR(pg_catalog.+) excluded.errors,"
	"      9223372036854775807)::pg_catalog.int8,"
	"    credits = LEAST(b.credits::pg_catalog.numeric OPERATOR(pg_catalog.+) excluded.credits,"
	"      9223372036854775807)::pg_catalog.int8,"
	"    unlogged = LEAST(b.unlogged::pg_catalog.numeric OPERATOR(pg_catalog.+) excluded.unlogged,"
	"      9223372036854775807)::pg_catalog.int8"
	") "
	"SELECT s.subject, s.subject_id, s.bucket FROM step AS s"
	" OFFSET $6 OPERATOR(pg_catalog.-) 1";

/*
 * Merges one step of buckets, and moves merge_place on; true: there are more.
 * SPI is connected.
 */
static bool
mergeStep(TimestampTz now)
{
	Interval hour = {.time = BUCKET_HOUR};
	Interval day = {.time = BUCKET_DAY};
	Oid types[] = {CHAROID,		   INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID,
				   TIMESTAMPTZOID, INT4OID, INTERVALOID,	INTERVALOID};
	Datum values[] = {CharGetDatum(merge_place.subject),
					  Int64GetDatum(merge_place.subject_id),
					  TimestampTzGetDatum(merge_place.bucket),
					  TimestampTzGetDatum(BucketHoursBefore(now)),
					  TimestampTzGetDatum(BucketDaysBefore(now)),
					  Int32GetDatum(merge_rows),
					  IntervalPGetDatum(&hour),
					  IntervalPGetDatum(&day)};
	HeapTuple last;
	TupleDesc columns;
	bool isnull;

	SPI_execute_with_args(merge_statement, lengthof(types), types, values, NULL, false, 0);
	if (SPI_processed == 0)
	{
		merge_place = merge_start;
		return false;
	}
	last = SPI_tuptable->vals[0];
	columns = SPI_tuptable->tupdesc;
	merge_place.subject = DatumGetChar(SPI_getbinval(last, columns, 1, &isnull));
	merge_place.subject_id = DatumGetInt64(SPI_getbinval(last, columns, 2, &isnull));
	merge_place.bucket = DatumGetTimestampTz(SPI_getbinval(last, columns, 3, &isnull));
	return true;
}

/*
 * Merges some of the buckets that are old enough (bucket.c), going along the
 * primary key; true: there are more, for the next transaction.  What one
 * transaction reads is bounded, and so is its time (MERGE_US), since events
 * wait meanwhile.  Runs as the owner of the tables.
 *
 * If any row of an hour is merged, all of them are deleted and the sum is
 * inserted as a new row, also where a row of that hour existed.  So the hours
 * of a subject are stored next to each other, although their rows were written
 * at different times, and a load reads few pages.  A step may end within an
 * hour: the next one adds what it finds to the row of that hour.
 *
 * If a subscription fills the table, nothing is merged: the publisher merges,
 * and rows that were merged here would conflict with its rows.
 */
bool
MaintainMergeBuckets(TimestampTz now)
{
	TimestampTz begun_at = GetCurrentTimestamp();
	Relation rel;
	bool more;

	rel = CatalogOpenBare(&CatalogUsageBucket, RowExclusiveLock);
	BypassRefuse(rel, true);
	table_close(rel, NoLock);
	SPI_connect();
	more = mergeStep(now);
	SPI_finish();
	if (GetCurrentTimestamp() - begun_at > MERGE_US)
		merge_rows = Max(merge_rows / 2, MERGE_ROWS_MIN);
	else
		merge_rows = Min(merge_rows * 2, MERGE_ROWS_MAX);
	return more;
}
