/*
 * maintain.c
 *	  The partitions of the request log, and the other care for what is stored.
 *
 * request_log has a partition a day (UTC), request_log_<yyyymmdd>.  They are
 * made by LIKE and ATTACH, which locks the parent no more than its readers and
 * writers allow (CREATE ... PARTITION OF would take ACCESS EXCLUSIVE), some
 * days ahead and whenever an event needs one.  They are dropped when their
 * last day has passed apikeys.log_retention, and only if nobody reads them.
 *
 * All functions but MaintainHasPartition and MaintainForget run SPI inside a
 * transaction of the writer's, as the owner of request_log.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "pure/bucket.h"
#include "tables/catalog.h"
#include "writer/maintain.h"
#include "writer/notice.h"

#define DAYS_AHEAD 3
#define MERGE_US (50 * 1000) /* a transaction that merges should take no longer */
#define MERGE_ROWS_MIN 100	 /* buckets that it reads */
#define MERGE_ROWS_MAX 10000
#define DAYS_KNOWN 32

int MaintainRetention = 0;

/* Days (since 2000) whose partition is known to exist, in this process. */
static int64 known_days[DAYS_KNOWN];
static int known_count = 0;

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

static int64
dayOf(TimestampTz at)
{
	return at >= 0 ? at / USECS_PER_DAY : (at + 1) / USECS_PER_DAY - 1;
}

/* Tells whether the partition for an instant is known to exist. */
bool
MaintainHasPartition(TimestampTz at)
{
	int64 day = dayOf(at);

	for (int i = 0; i < known_count; i++)
		if (known_days[i] == day)
			return true;
	return false;
}

/*
 * Forgets which partitions exist; after an error that may have to do with it.
 */
void
MaintainForget(void)
{
	known_count = 0;
}

static void
formatDay(int64 day, const char *format, char *out)
{
	int year;
	int month;
	int mday;

	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &mday);
	sprintf(out, format, year, month, mday);
}

static void
run(const char *statement)
{
	int result = SPI_execute(statement, false, 0);

	if (result < 0)
		elog(ERROR, "could not run a statement: %s", SPI_result_code_string(result));
}

/*
 * Tells whether the day's partition is attached; one that somebody else owns is
 * an error: its triggers are not ours.
 */
static bool
partitionExists(const char *name)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	bool isnull;

	SPI_execute_with_args(
		"SELECT c.relowner OPERATOR(pg_catalog.=) p.relowner FROM pg_catalog.pg_class AS c"
		" JOIN pg_catalog.pg_inherits AS i ON i.inhrelid OPERATOR(pg_catalog.=) c.oid"
		" JOIN pg_catalog.pg_class AS p ON p.oid OPERATOR(pg_catalog.=) i.inhparent"
		" WHERE p.oid OPERATOR(pg_catalog.=) 'apikeys.request_log'::pg_catalog.regclass"
		" AND c.relnamespace OPERATOR(pg_catalog.=) p.relnamespace"
		" AND c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
		1, types, values, NULL, true, 1);
	if (SPI_processed == 0)
		return false;
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("partition apikeys.%s has another owner than the request log", name),
						errhint("Detach it, or give it to the owner of apikeys.request_log.")));
	return true;
}

/*
 * Raises an error if something else has the name of a partition, such as one
 * that was detached.
 */
static void
checkNameIsFree(const char *name)
{
	if (OidIsValid(get_relname_relid(name, CatalogSchema(false))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("apikeys.%s is not a partition of the request log, but has the name of one "
						"that is needed",
						name),
				 errhint("Attach it to apikeys.request_log again, or rename it.")));
}

/*
 * Takes back what ALTER DEFAULT PRIVILEGES has granted on a new table: the
 * parent's grants are all there is.
 */
static void
revokeAll(const char *name)
{
	SPI_execute(psprintf("SELECT pg_catalog.format('REVOKE ALL ON apikeys.%s FROM %%s',"
						 " CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE "
						 "a.grantee::pg_catalog.regrole::pg_catalog.text END)"
						 " FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a"
						 " WHERE c.oid OPERATOR(pg_catalog.=) 'apikeys.%s'::pg_catalog.regclass"
						 " AND a.grantee OPERATOR(pg_catalog.<>) c.relowner GROUP BY a.grantee",
						 name, name),
				false, 0);
	if (SPI_processed > 0)
	{
		SPITupleTable *grants = SPI_tuptable;
		uint64 count = SPI_processed;

		for (uint64 i = 0; i < count; i++)
			run(SPI_getvalue(grants->vals[i], grants->tupdesc, 1));
	}
}

/*
 * Opens the partition for an instant, locked for writing; NULL: there is none
 * that is attached to the log (which the caller has locked).
 */
Relation
MaintainOpenPartition(Relation log, TimestampTz at)
{
	char name[32];
	Oid relid;
	Relation rel;

	formatDay(dayOf(at), "request_log_%04d%02d%02d", name);
	relid = get_relname_relid(name, RelationGetNamespace(log));
	if (!OidIsValid(relid) || (rel = try_table_open(relid, RowExclusiveLock)) == NULL)
		return NULL;
	if (rel->rd_rel->relispartition && get_partition_parent(relid, true) == RelationGetRelid(log))
		return rel;
	table_close(rel, NoLock);
	return NULL;
}

/*
 * Sees to it that the partition for an instant exists; false: it did, or was
 * made: there is no more to do.
 */
bool
MaintainMakePartition(TimestampTz at)
{
	int64 day = dayOf(at);
	char name[32];
	char from[32];
	char to[32];

	formatDay(day, "request_log_%04d%02d%02d", name);
	formatDay(day, "%04d-%02d-%02d 00:00:00+00", from);
	formatDay(day + 1, "%04d-%02d-%02d 00:00:00+00", to);
	SPI_connect();
	if (!partitionExists(name))
	{
		checkNameIsFree(name);
		run(psprintf("CREATE TABLE apikeys.%s (LIKE apikeys.request_log INCLUDING ALL)", name));
		/*
		 * It has no key; a completion is an update, and a subscriber to the log
		 * must find the row.
		 */
		run(psprintf("ALTER TABLE apikeys.%s REPLICA IDENTITY FULL", name));
		revokeAll(name);
		run(psprintf("CREATE INDEX %s_key_id_at_idx ON apikeys.%s (key_id, at)", name, name));
		run(psprintf(
			"ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.%s FOR VALUES FROM ('%s') "
			"TO ('%s')",
			name, from, to));
	}
	SPI_finish();
	if (known_count == DAYS_KNOWN)
		known_count = 0;
	known_days[known_count++] = day;
	return false;
}

/* Makes the partitions of today and the days to come. */
static bool
makeAhead(TimestampTz now)
{
	for (int i = 0; i <= DAYS_AHEAD; i++)
		MaintainMakePartition(now + i * USECS_PER_DAY);
	return false;
}

/*
 * Drops the oldest partition that is past its retention; true: there may be
 * another.
 */
static bool
dropExpired(TimestampTz now)
{
	char oldest_kept[32];
	Oid types[1] = {TEXTOID};
	Datum values[1];
	bool dropped = false;

	if (MaintainRetention == 0)
		return false;
	formatDay(dayOf(now) - MaintainRetention, "request_log_%04d%02d%02d", oldest_kept);
	values[0] = CStringGetTextDatum(oldest_kept);
	SPI_connect();
	SPI_execute_with_args(
		"SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class AS c"
		" JOIN pg_catalog.pg_inherits AS i ON i.inhrelid OPERATOR(pg_catalog.=) c.oid"
		" WHERE i.inhparent OPERATOR(pg_catalog.=) 'apikeys.request_log'::pg_catalog.regclass"
		" AND c.relname::pg_catalog.text OPERATOR(pg_catalog.~) '^request_log_[0-9]{8}$'"
		" AND c.relname::pg_catalog.text OPERATOR(pg_catalog.<) ($1 COLLATE pg_catalog.\"C\")"
		" ORDER BY 1 LIMIT 1",
		1, types, values, NULL, true, 1);
	if (SPI_processed == 1)
	{
		char *name = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		run("LOCK TABLE ONLY apikeys.request_log IN ACCESS EXCLUSIVE MODE NOWAIT");
		run(psprintf("LOCK TABLE apikeys.%s IN ACCESS EXCLUSIVE MODE NOWAIT", name));
		run(psprintf("DROP TABLE apikeys.%s", name));
		MaintainForget();
		dropped = true;
	}
	SPI_finish();
	return dropped;
}

/*
 * Merges buckets that are old enough, from a place in the primary key on: $1 to
 * $3 are the place, $4 and $5 the times before which there are hours and days,
 * $6 how many buckets are read, $7 and $8 the lengths of an hour and a day.
 * Returns the place that was reached; no row: the end of the table was.
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
	"    pg_catalog.sum(m.admitted), pg_catalog.sum(m.denied), pg_catalog.sum(m.units),"
	"    pg_catalog.sum(m.errors), pg_catalog.sum(m.credits), pg_catalog.sum(m.unlogged)"
	"  FROM moved AS m GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
	"  ON CONFLICT (subject, subject_id, bucket) DO UPDATE SET"
	"    admitted = b.admitted OPERATOR(pg_catalog.+) excluded.admitted,"
	"    denied = b.denied OPERATOR(pg_catalog.+) excluded.denied,"
	"    units = b.units OPERATOR(pg_catalog.+) excluded.units,"
	"    errors = b.errors OPERATOR(pg_catalog.+) excluded.errors,"
	"    credits = b.credits OPERATOR(pg_catalog.+) excluded.credits,"
	"    unlogged = b.unlogged OPERATOR(pg_catalog.+) excluded.unlogged"
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
 * Merges old buckets (bucket.c), step by step along the primary key.  What one
 * transaction reads is bounded, and so is its time (MERGE_US), since events
 * wait meanwhile.
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
static bool
mergeBuckets(TimestampTz now)
{
	TimestampTz begun_at = GetCurrentTimestamp();
	bool more;

	SPI_connect();
	more = mergeStep(now);
	SPI_finish();
	if (GetCurrentTimestamp() - begun_at > MERGE_US)
		merge_rows = Max(merge_rows / 2, MERGE_ROWS_MIN);
	else
		merge_rows = Min(merge_rows * 2, MERGE_ROWS_MAX);
	return more;
}

const MaintainStep MaintainSteps[] = {makeAhead,		  dropExpired,	 mergeBuckets,
									  NoticeFindExpiring, NoticeDropOld, NULL};
