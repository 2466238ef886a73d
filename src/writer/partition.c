/*
 * partition.c
 *	  The partitions of the request log.
 *
 * request_log has a partition for each day (UTC), request_log_<yyyymmdd>.  They
 * are made some days ahead, and whenever an event needs one: by LIKE and
 * ATTACH, which lets others read and write the parent meanwhile (CREATE TABLE
 * ... PARTITION OF would take ACCESS EXCLUSIVE on it).  A partition is dropped
 * when its day has passed apikeys.log_retention, and only if nobody reads the
 * log.
 *
 * Functions that use SPI run inside a transaction of the writer, as the owner
 * of request_log.  Which partitions exist is remembered in this process, so
 * that a batch need not ask the catalogs; after a failure it is asked anew.
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

#include "tables/catalog.h"
#include "writer/partition.h"

#define DAYS_AHEAD 3
#define DAYS_KNOWN 32
#define NAME_FORMAT "request_log_%04d%02d%02d"
#define NAME_SIZE 32

int PartitionRetention = 0;

/* Days (since 2000) whose partition is known to exist, in this process. */
static int64 known_days[DAYS_KNOWN];
static int known_count = 0;

/* Returns the day (UTC, since 2000) of an instant, and so of its partition. */
int64
PartitionDay(TimestampTz at)
{
	return at >= 0 ? at / USECS_PER_DAY : (at + 1) / USECS_PER_DAY - 1;
}

/* Tells whether the partition for an instant is known to exist. */
bool
PartitionIsKnown(TimestampTz at)
{
	int64 day = PartitionDay(at);

	for (int i = 0; i < known_count; i++)
		if (known_days[i] == day)
			return true;
	return false;
}

/*
 * Makes this process ask the catalogs again which partitions exist; to be
 * called after an error that a missing partition may have caused.
 */
void
PartitionForget(void)
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
 * Tells whether the partition of this name is attached.  Raises an error if its
 * owner is not that of the log: its triggers may not be ours.
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
 * Raises an error if another relation has the name that a partition is to get,
 * such as a partition that was detached.
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
 * Revokes what ALTER DEFAULT PRIVILEGES has granted on a new partition: only
 * the grants on the parent are to apply.
 */
static void
revokeAll(const char *name)
{
	SPI_execute(psprintf("SELECT pg_catalog.format('REVOKE ALL ON apikeys.%s FROM %%s',"
						 " CASE a.grantee WHEN 0 THEN 'PUBLIC'"
						 " ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)"
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
 * Opens the partition for an instant, and locks it for writing (ROW EXCLUSIVE).
 * NULL: none is attached to the log, which the caller has locked.
 */
Relation
PartitionOpen(Relation log, TimestampTz at)
{
	char name[NAME_SIZE];
	Oid relid;
	Relation rel;

	formatDay(PartitionDay(at), NAME_FORMAT, name);
	relid = get_relname_relid(name, RelationGetNamespace(log));
	if (!OidIsValid(relid) || (rel = try_table_open(relid, RowExclusiveLock)) == NULL)
		return NULL;
	if (rel->rd_rel->relispartition && get_partition_parent(relid, true) == RelationGetRelid(log))
		return rel;
	table_close(rel, NoLock);
	return NULL;
}

/* Makes the partition for an instant, unless it exists. */
void
PartitionMake(TimestampTz at)
{
	int64 day = PartitionDay(at);
	char name[NAME_SIZE];
	char from[32];
	char to[32];

	formatDay(day, NAME_FORMAT, name);
	formatDay(day, "%04d-%02d-%02d 00:00:00+00", from);
	formatDay(day + 1, "%04d-%02d-%02d 00:00:00+00", to);
	SPI_connect();
	if (!partitionExists(name))
	{
		checkNameIsFree(name);
		run(psprintf("CREATE TABLE apikeys.%s (LIKE apikeys.request_log INCLUDING ALL)", name));
		/*
		 * A subscriber to the log must find the row that a completion updates,
		 * and the log has no primary key.
		 */
		run(psprintf("ALTER TABLE apikeys.%s REPLICA IDENTITY FULL", name));
		revokeAll(name);
		run(psprintf("CREATE INDEX %s_key_id_at_idx ON apikeys.%s (key_id, at)", name, name));
		run(psprintf("ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.%s"
					 " FOR VALUES FROM ('%s') TO ('%s')",
					 name, from, to));
	}
	SPI_finish();
	if (known_count == DAYS_KNOWN)
		known_count = 0;
	known_days[known_count++] = day;
}

/*
 * Makes the partitions of today and the next days; false: that is all there is
 * to do.
 */
bool
PartitionMakeAhead(TimestampTz now)
{
	for (int i = 0; i <= DAYS_AHEAD; i++)
		PartitionMake(now + i * USECS_PER_DAY);
	return false;
}

/*
 * Drops the oldest partition that has passed apikeys.log_retention; true: there
 * may be another.  Raises an error if somebody has the log or that partition
 * locked.
 */
bool
PartitionDropExpired(TimestampTz now)
{
	char oldest_kept[NAME_SIZE];
	Oid types[1] = {TEXTOID};
	Datum values[1];
	bool dropped = false;

	if (PartitionRetention == 0)
		return false;
	formatDay(PartitionDay(now) - PartitionRetention, NAME_FORMAT, oldest_kept);
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
		PartitionForget();
		dropped = true;
	}
	SPI_finish();
	return dropped;
}
