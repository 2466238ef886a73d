/*
 * notice.c
 *	  Notices: what the application may want to tell its users.
 *
 * src/sql/notice.sql has the rules.  Here is what needs C: a transaction that
 * has added notices wakes the writer when it has committed, and the writer
 * announces them.
 *
 * NOTIFY takes a lock of the whole cluster when its transaction commits, and
 * fails when the server's queue of notifications is full because somebody who
 * listens does not read.  So the writer sends it outside of its batches,
 * waits for that lock but a moment, and puts off what fails.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "notice.h"
#include "queue.h"

#define ANNOUNCED_AT_ONCE	1000
#define LOCK_TIMEOUT		"100ms"

/* The open transaction has added notices, or so did a part of it that was rolled back. */
static bool added = false;

PG_FUNCTION_INFO_V1(apikeys_notice_wake);

/* At the end of a transaction that has added notices. */
static void
wakeWriter(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && added)
		QueueAskForNotices();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		added = false;
}

/* wake_notices: the writer looks for notices once this transaction has committed. */
Datum
apikeys_notice_wake(PG_FUNCTION_ARGS)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(wakeWriter, NULL);
	registered = true;
	added = QueueExists();
	PG_RETURN_VOID();
}

/* Announces the notices that were not yet, or some of them; true: there may be more.  In a transaction of the writer. */
bool
NoticeAnnounce(void)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(ANNOUNCED_AT_ONCE)};
	int64		announced;
	bool		isnull;

	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	SPI_connect();
	SPI_execute_with_args("SELECT apikeys.announce_notices($1)", 1, types, values, NULL, false, 1);
	announced = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return announced == ANNOUNCED_AT_ONCE;
}
