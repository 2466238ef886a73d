/*
 * notice.c
 *	  Notices: what the application may want to tell its users.
 *
 * src/sql/notice.sql has the rules.  This file has what needs C: a transaction
 * that has added notices wakes the writer when it has committed; the writer
 * announces notices (NOTIFY), and adds those of limits that are nearly or all
 * used.
 *
 * The meter sees that a limit is nearly or all used when it decides about a
 * request.  It remembers the level that it has told of, and each rise is
 * appended to the queue as an event, after that of the request.  A meter that
 * was loaded anew, or whose event was lost or could not become a notice, tells
 * again; the table notice_mark keeps a second notice from being added.
 *
 * NOTIFY takes a lock of the whole cluster when its transaction commits, and
 * fails when the server's queue of notifications is full because a listener
 * does not read.  So the writer sends it outside of its batches, gives up soon
 * if it must wait for that lock, and puts off what fails.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "engine/directory.h"
#include "pure/clock.h"
#include "writer/notice.h"

#define AT_ONCE 1000 /* notices, or keys, in one transaction */
#define LOCK_TIMEOUT "100ms"

int NoticeRetention = 30;

/*
 * The open transaction has added notices, perhaps in a subtransaction that was
 * rolled back.
 */
static bool added = false;

PG_FUNCTION_INFO_V1(apikeys_notice_wake);

/* At the end of a transaction that has added notices. */
static void
wakeWriter(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && added)
		DirectoryAskForNotices();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		added = false;
}

/*
 * wake_notices: the writer looks for notices once this transaction has
 * committed.
 */
Datum
apikeys_notice_wake(PG_FUNCTION_ARGS)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(wakeWriter, NULL);
	registered = true;
	added = DirectoryExists();
	PG_RETURN_VOID();
}

/*
 * Adds a notice that a limit is nearly or all used, unless there was one; SPI
 * is connected.
 */
static void
addLimit(const Event *event, const MeterRise *rise)
{
	static SPIPlanPtr plan = NULL;
	static Oid types[] = {CHAROID, INT8OID, INT8OID, TEXTOID,		INT8OID,
						  INT8OID, INT8OID, BOOLOID, TIMESTAMPTZOID};
	char window[LIMIT_WINDOW_NAME_MAX];
	Datum values[lengthof(types)];
	char nulls[lengthof(types) + 1] = "         ";

	LimitWindowFormat(rise->limit.window, window);
	values[0] = CharGetDatum(rise->of_account ? METER_ACCOUNT : METER_KEY);
	values[1] = Int64GetDatum(event->account_id);
	values[2] = Int64GetDatum(event->key_id);
	values[3] = CStringGetTextDatum(window);
	values[4] = Int64GetDatum(rise->limit.window);
	nulls[4] = rise->limit.window == LIMIT_WINDOW_TOTAL ? 'n' : ' ';
	values[5] = Int64GetDatum(rise->limit.cap);
	values[6] = Int64GetDatum(rise->used);
	values[7] = BoolGetDatum(rise->reached);
	values[8] = TimestampTzGetDatum(ClockTimestamp(event->at * 1000));
	if (plan == NULL)
	{
		plan = SPI_prepare(
			"SELECT apikeys_internal.add_limit_notice($1, $2, $3, $4, $5, $6, $7, $8, $9)",
			lengthof(types), types);
		if (plan == NULL)
			elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
	}
	SPI_execute_plan(plan, values, nulls, false, 0);
}

/*
 * Makes the rest of the transaction give up soon where it must wait for a lock:
 * events must not wait for notices.
 */
static void
shortenLockTimeout(void)
{
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Adds the notices that an event about limits asks for, in a transaction of the
 * writer, as the owner of the tables.
 */
void
NoticeAddLimits(const Event *event)
{
	shortenLockTimeout();
	SPI_connect();
	for (int i = 0; i < event->rise_count; i++)
	{
		MeterRise rise;

		memcpy(&rise, event->texts + i * sizeof(rise), sizeof(rise));
		addLimit(event, &rise);
	}
	SPI_finish();
}

/*
 * Makes the meters tell again of the limits in an event, because no notice of
 * them could be added.  Cannot throw.
 */
void
NoticeForgetLimits(const Event *event)
{
	MeterSubject subject;

	MeterSubjectSet(&subject, event->relation, METER_KEY, event->key_id);
	MeterForgetLevels(&subject);
	MeterSubjectSet(&subject, event->relation, METER_ACCOUNT, event->account_id);
	MeterForgetLevels(&subject);
}

/* Returns a column of the row that the last query gave; SPI is connected. */
static Datum
resultColumn(int column)
{
	bool isnull;

	Assert(SPI_processed == 1);
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);
}

/*
 * Announces some of the notices that have not been announced; true: there may
 * be more.  Runs in a transaction of the writer, as the owner of the tables.
 */
bool
NoticeAnnounce(TimestampTz now)
{
	Oid types[] = {INT4OID};
	Datum values[] = {Int32GetDatum(AT_ONCE)};
	int64 announced;

	shortenLockTimeout();
	SPI_connect();
	SPI_execute_with_args("SELECT apikeys_internal.announce_notices($1)", lengthof(types), types,
						  values, NULL, false, 1);
	announced = DatumGetInt64(resultColumn(1));
	SPI_finish();
	return announced == AT_ONCE;
}

/*
 * Adds notices for keys that expire soon; true: there may be more such keys,
 * for the next call.  Runs in a transaction of the writer, as the owner of the
 * tables.
 */
bool
NoticeFindExpiring(TimestampTz now)
{
	static TimestampTz after_expiry = DT_NOBEGIN;
	static int64 after_id = 0;
	Oid types[] = {TIMESTAMPTZOID, INT8OID, INT4OID};
	Datum values[] = {TimestampTzGetDatum(after_expiry), Int64GetDatum(after_id),
					  Int32GetDatum(AT_ONCE)};
	bool more;

	/* If this fails, the next call starts over. */
	after_expiry = DT_NOBEGIN;
	after_id = 0;
	shortenLockTimeout();
	SPI_connect();
	SPI_execute_with_args(
		"SELECT after_expiry, after_id, seen FROM apikeys_internal.add_expiry_notices($1, $2, $3)",
		lengthof(types), types, values, NULL, false, 1);
	more = DatumGetInt32(resultColumn(3)) == AT_ONCE;
	if (more)
	{
		after_expiry = DatumGetTimestampTz(resultColumn(1));
		after_id = DatumGetInt64(resultColumn(2));
	}
	SPI_finish();
	return more;
}

/*
 * Deletes notices whose announcement has passed apikeys.notice_retention; true:
 * there may be more.  Runs in a transaction of the writer, as the owner of the
 * tables.
 */
bool
NoticeDropOld(TimestampTz now)
{
	Oid types[] = {INT4OID, INT4OID};
	Datum values[] = {Int32GetDatum(NoticeRetention), Int32GetDatum(AT_ONCE)};
	bool more;

	if (NoticeRetention == 0)
		return false;
	shortenLockTimeout();
	SPI_connect();
	SPI_execute_with_args("SELECT apikeys_internal.delete_notices($1, $2)", lengthof(types), types,
						  values, NULL, false, 1);
	more = DatumGetInt64(resultColumn(1)) == AT_ONCE;
	SPI_finish();
	return more;
}
