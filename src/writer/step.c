/*
 * step.c
 *	  One transaction of the writer, and what surrounds it.
 *
 * The writer must survive every error, so whatever can throw runs in StepRun.
 * From StepConnect on, interrupts are held; only a step and StepTakeInterrupts
 * take them.
 *
 * Nobody but a superuser must be able to change what the writer does: settings
 * that ALTER DATABASE or ALTER ROLE could plant are overridden before it
 * connects, and StepActAsOwner gives up its superuser's privileges.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "tables/catalog.h"
#include "writer/step.h"

/*
 * Overrides the settings that somebody could have planted for the database or
 * the role.
 */
static void
overrideSettings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"role", "none"},
		{"session_replication_role", "replica"},
		{"exit_on_error", "off"},
		{"synchronous_commit", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"lock_timeout", "1s"},
		{"statement_timeout", "0"},
		{"transaction_timeout", "0"}, /* from PostgreSQL 17 on */
		{"idle_in_transaction_session_timeout", "0"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO"},
		{"IntervalStyle", "postgres"},
		{"default_tablespace", ""},
		{"default_table_access_method", "heap"},
		{"temp_tablespaces", ""},
		{"row_security", "off"},
		{"check_function_bodies", "on"},
		{"plan_cache_mode", "auto"},
		{"jit", "off"},
		{"max_parallel_workers_per_gather", "0"},
		/* find rows by their keys, whatever the statistics say */
		{"enable_seqscan", "off"},
		{"enable_indexscan", "on"},
		{"enable_indexonlyscan", "on"},
		{"enable_nestloop", "on"},
		{"log_statement", "none"},
		{"log_min_duration_statement", "-1"},
		{"client_min_messages", "warning"}};

	for (int i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Connects this worker to a database, with settings of its own; interrupts are
 * held from here on.
 */
void
StepConnect(Oid database)
{
	overrideSettings();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, BGWORKER_BYPASS_ALLOWCONN);
	HOLD_INTERRUPTS();
}

/* Takes interrupts between steps, where nothing can be cancelled. */
void
StepTakeInterrupts(void)
{
	MemoryContext caller = CurrentMemoryContext;

	QueryCancelPending = false;
	PG_TRY();
	{
		RESUME_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		HOLD_INTERRUPTS();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS(); /* none are held after an error */
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
}

/* Takes the error that is being handled, and ends its handling. */
static void
takeError(StepError *error)
{
	ErrorData *edata = CopyErrorData();
	int length;

	FlushErrorState();
	AbortCurrentTransaction();
	length = pg_mbcliplen(edata->message, strlen(edata->message), sizeof(error->message) - 1);
	memcpy(error->message, edata->message, length);
	error->message[length] = '\0';
	error->sqlstate = edata->sqlerrcode;
	FreeErrorData(edata);
}

/*
 * Does some work in a transaction of its own; *result is what the work returns.
 * False: it failed, is rolled back, and *error says why.  Cannot throw.
 */
bool
StepRun(bool (*work)(void *), void *argument, bool *result, StepError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		Oid saved_user;
		int saved_context;

		RESUME_INTERRUPTS();
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		GetUserIdAndSecContext(&saved_user, &saved_context);
		*result = work(argument);
		SetUserIdAndSecContext(saved_user, saved_context);
		PopActiveSnapshot();
		CommitTransactionCommand();
		HOLD_INTERRUPTS();
		done = true;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS(); /* none are held after an error */
		MemoryContextSwitchTo(caller);
		takeError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return done;
}

/*
 * Tells whether somebody lets no new session into the database: it is being
 * dropped, renamed, moved or copied.  To be called in a transaction, and by a
 * worker that is connected to any database or to none.
 */
bool
StepDatabaseIsClaimed(Oid database)
{
	LOCKTAG tag;

	/* the lock that a new session waits for before it counts as one */
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	return LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Makes the rest of the step run as the owner of the request log, in a
 * security-restricted operation.
 */
void
StepActAsOwner(void)
{
	Relation rel = CatalogOpenBare(&CatalogRequestLog, AccessShareLock);
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rel->rd_rel->relowner, context | SECURITY_RESTRICTED_OPERATION);
	table_close(rel, NoLock);
}

/*
 * Tells whether an error has its cause outside of the rows that were written:
 * the same rows may be written later.
 */
bool
StepErrorIsTransient(const StepError *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE): /* locks */
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
		/* privileges, definitions */
		case ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION):
			return true;
		default:
			return false;
	}
}
