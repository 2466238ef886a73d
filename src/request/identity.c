/*
 * identity.c
 *	  For whom the transaction acts: its identity.
 *
 * One login of an application serves many customers.  Each transaction says
 * for whom it acts: begin_as (verify.c) takes the text of a key, begin_for the
 * name of an account.  From then on the reach of the transaction is that
 * account (reach.c), and current_account() and the like tell the policies of
 * the application's own tables who it is.
 *
 * Invariants:
 *
 * 1. The identity stands in this file's variables alone, in no setting and no
 *	  table.  Only a begin sets it.
 * 2. A begin that succeeds closes the transaction to all others, whatever
 *	  becomes of the identity.
 * 3. The identity ends with the transaction: at COMMIT, also of a procedure, at
 *	  ROLLBACK and at PREPARE TRANSACTION.  It ends as well if the
 *	  subtransaction aborts in which it was set: ROLLBACK TO a savepoint before
 *	  it, an exception block around it.
 * 4. A transaction that has lost its identity reaches nothing until it ends.
 *	  Otherwise an error would give it the reach of its role.
 * 5. There is none in a security-restricted operation, where the code of a
 *	  table's owner runs in somebody else's transaction, and none in a parallel
 *	  worker, which knows nothing of the leader's.
 *
 * A begin takes effect at once.  What else its own statement reads may have
 * been decided before it.
 *
 * Its strings live in TopTransactionContext.  The callbacks that end it run
 * before that context is deleted.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "request/identity.h"
#include "request/reach.h"

static Identity current;	   /* account NULL: none */
static SubTransactionId owner; /* if it aborts, the identity ends */
static bool closed;			   /* a begin has succeeded in this transaction */

/* Ends the identity, and the transaction it was for. */
static void
endTransaction(XactEvent event, void *unused)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
			current = (Identity){0};
			closed = false;
			break;
		case XACT_EVENT_PRE_COMMIT: /* deferred triggers still act for it */
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			break;
	}
}

/* Ends the identity with its subtransaction, or hands it to the parent. */
static void
endSubtransaction(SubXactEvent event, SubTransactionId sub, SubTransactionId parent, void *unused)
{
	if (current.account == NULL || sub != owner)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		current = (Identity){0};
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		owner = parent;
}

/* Tells whether whoever runs now may have an identity: invariant 5. */
static bool
mayHave(void)
{
	return !InSecurityRestrictedOperation() && !IsParallelWorker();
}

/* Returns for whom the transaction acts; NULL: it has not said. */
const Identity *
IdentityCurrent(void)
{
	return current.account && mayHave() ? &current : NULL;
}

/* Tells whether there was an identity, which the transaction has lost. */
bool
IdentityIsLost(void)
{
	return closed && current.account == NULL;
}

/* Tells whether the identity is a key that has a scope. */
bool
IdentityHasScope(const Identity *identity, const char *scope, size_t len)
{
	Datum *values;
	int count = 0;

	if (identity->scopes)
		deconstruct_array((ArrayType *) identity->scopes, TEXTOID, -1, false, TYPALIGN_INT, &values,
						  NULL, &count);
	for (int i = 0; i < count; i++)
	{
		const text *granted = DatumGetTextPP(values[i]);

		if (VARSIZE_ANY_EXHDR(granted) == len && memcmp(VARDATA_ANY(granted), scope, len) == 0)
			return true;
	}
	return false;
}

/* Raises an error where the transaction may not begin to act for somebody. */
void
IdentityRequireOpen(const char *function)
{
	if (!mayHave())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s cannot be called within a security-restricted operation", function)));
	if (closed)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the transaction acts for somebody already"),
						errdetail("It can begin once, even if what it began was rolled back."),
						errhint("End the transaction first.")));
}

/* Lets the transaction act for somebody, and closes it to other begins. */
static void
become(const char *function, const Identity *identity)
{
	static bool registered;
	MemoryContext before;
	Identity copy = *identity;

	if (!registered)
	{
		RegisterXactCallback(endTransaction, NULL);
		RegisterSubXactCallback(endSubtransaction, NULL);
		registered = true;
	}
	WarnNoTransactionBlock(true, function);
	before = MemoryContextSwitchTo(TopTransactionContext);
	copy.account = DatumGetTextPCopy(PointerGetDatum(identity->account));
	if (identity->scopes)
		copy.scopes = DatumGetArrayTypePCopy(PointerGetDatum(identity->scopes));
	if (identity->actor)
		copy.actor = DatumGetTextPCopy(PointerGetDatum(identity->actor));
	MemoryContextSwitchTo(before);

	/* Nothing below can fail. */
	owner = GetCurrentSubTransactionId();
	closed = true;
	current = copy;
}

/* Lets the transaction act for a key, which has been admitted. */
void
IdentityBecomeKey(const KeyRow *row)
{
	Identity identity = {.account_id = row->account_id,
						 .account = row->account_name,
						 .key_id = row->key_id,
						 .previous = row->previous,
						 .scopes = row->scopes};

	become("begin_as", &identity);
}

PG_FUNCTION_INFO_V1(apikeys_identity_begin);
PG_FUNCTION_INFO_V1(apikeys_identity_account);
PG_FUNCTION_INFO_V1(apikeys_identity_account_id);
PG_FUNCTION_INFO_V1(apikeys_identity_key_id);
PG_FUNCTION_INFO_V1(apikeys_identity_has_scope);
PG_FUNCTION_INFO_V1(apikeys_identity_by_former_text);
PG_FUNCTION_INFO_V1(apikeys_identity_via);
PG_FUNCTION_INFO_V1(apikeys_identity_actor);
PG_FUNCTION_INFO_V1(apikeys_identity_require_open);

/* begin_account(account_id, name, actor): does the last step of begin_for. */
Datum
apikeys_identity_begin(PG_FUNCTION_ARGS)
{
	Identity identity = {.account_id = PG_GETARG_INT64(0),
						 .account = PG_GETARG_TEXT_PP(1),
						 .actor = PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2)};

	IdentityRequireOpen("begin_for");
	become("begin_for", &identity);
	PG_RETURN_VOID();
}

/* require_open(): raises where begin_for would, before it looks anything up. */
Datum
apikeys_identity_require_open(PG_FUNCTION_ARGS)
{
	IdentityRequireOpen("begin_for");
	ReachRequireNoneOfLogin();
	PG_RETURN_VOID();
}

/* current_account() */
Datum
apikeys_identity_account(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();

	if (identity == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(DatumGetTextPCopy(PointerGetDatum(identity->account)));
}

/* current_account_id() */
Datum
apikeys_identity_account_id(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();

	if (identity == NULL)
		PG_RETURN_NULL();
	PG_RETURN_INT64(identity->account_id);
}

/* current_key_id() */
Datum
apikeys_identity_key_id(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();

	if (identity == NULL || identity->key_id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(identity->key_id);
}

/* has_scope(scope) */
Datum
apikeys_identity_has_scope(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();
	const text *scope = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(identity &&
				   IdentityHasScope(identity, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope)));
}

/* acting_by_former_text() */
Datum
apikeys_identity_by_former_text(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();

	PG_RETURN_BOOL(identity && identity->previous);
}

/* acting_via(): by what right a change is made, as the audit log says it. */
Datum
apikeys_identity_via(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();

	PG_RETURN_TEXT_P(cstring_to_text(identity == NULL	   ? "role" :
									 identity->key_id != 0 ? "key" :
															 "portal"));
}

/* acting_person(): who acts, by what the identity knows; NULL: it does not. */
Datum
apikeys_identity_actor(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();

	if (identity && identity->key_id != 0)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("key:" INT64_FORMAT, identity->key_id)));
	if (identity && identity->actor)
		PG_RETURN_TEXT_P(DatumGetTextPCopy(PointerGetDatum(identity->actor)));
	PG_RETURN_NULL();
}
