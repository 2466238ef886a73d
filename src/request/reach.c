/*
 * reach.c
 *	  Which accounts the transaction may read and change: its reach.
 *
 * Every policy, view and function that shows or changes something of an
 * account asks here and nowhere else.
 *
 * If the transaction acts for somebody (identity.c), it reaches that account
 * alone, whatever its role.  A key reads its account; to change something there
 * it needs the scope apikeys:manage.  What the provider decides is refused to
 * it: an account and its plan, members, tiers and limits, resets and grants,
 * suspensions, upgrades, imports.  A transaction that has lost its identity
 * reaches nothing.
 *
 * Otherwise the acting role decides.  It is the outer user: the session's user,
 * or the role that SET ROLE has chosen.  SECURITY DEFINER does not change it:
 * such a function lends the privileges of its owner, never the reach.  All
 * accounts are within the reach of superusers and of roles that have the
 * privileges of apikeys_admin or apikeys_staff and, to read them, of
 * apikeys_auditor.  Other roles reach the accounts of the rows of table member
 * that name them, or a role whose privileges they have.  Without such a row
 * there is no account.
 *
 * In a security-restricted operation nobody has reach.  ANALYZE, REINDEX,
 * REFRESH MATERIALIZED VIEW and autovacuum run expressions that the owner of
 * some table has written, in a session of a superuser: the outer user is then
 * not the one who wrote what runs.
 *
 * A parallel worker has no reach either: it does not know the identity.
 *
 * Roles are found by name, those of the extension too.  A name that no role
 * has gives no reach.
 *
 * Table member is read by its index, under the active snapshot, so that all
 * statements of a REPEATABLE READ transaction agree, and so that it can be read
 * while a parallel plan runs.  No privilege on it is needed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_auth_members.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "request/identity.h"
#include "request/reach.h"
#include "tables/catalog.h"

/* Tells whether a role has the privileges of the role of that name. */
static bool
hasRole(Oid acting, const char *name)
{
	Oid role = get_role_oid(name, true);

	return OidIsValid(role) && has_privs_of_role(acting, role);
}

/*
 * Tells whether the acting role decides: the transaction acts for nobody, and
 * is not one in which nobody has reach.
 */
static bool
roleDecides(void)
{
	return !InSecurityRestrictedOperation() && !IsParallelWorker() && IdentityCurrent() == NULL &&
		   !IdentityIsLost();
}

/* Tells whether the transaction reaches all accounts. */
bool
ReachAll(Access access)
{
	Oid acting = GetOuterUserId();

	return roleDecides() && (superuser_arg(acting) || hasRole(acting, "apikeys_admin") ||
							 hasRole(acting, "apikeys_staff") ||
							 (access == ACCESS_READ && hasRole(acting, "apikeys_auditor")));
}

/* Tells whether the identity may read (or change) its account. */
static bool
identityMay(const Identity *identity, Access access)
{
	return access == ACCESS_READ || identity->key_id == 0 ||
		   IdentityHasScope(identity, SCOPE_MANAGE, strlen(SCOPE_MANAGE));
}

/* A rule which roles of others a role has. */
typedef bool (*HasRole)(Oid member, Oid role);

/* Adds to roles those that a role has been granted, and that a member has. */
static List *
addGranted(List *roles, Oid role, Oid member, HasRole has)
{
	CatCList *grants = SearchSysCacheList1(AUTHMEMMEMROLE, ObjectIdGetDatum(role));

	for (int i = 0; i < grants->n_members; i++)
	{
		HeapTuple tuple = &grants->members[i]->tuple;
		Oid granted = ((Form_pg_auth_members) GETSTRUCT(tuple))->roleid;

		if (has(member, granted))
			roles = list_append_unique_oid(roles, granted);
	}
	ReleaseSysCacheList(grants);
	return roles;
}

/*
 * Lists the roles that a member has, itself first.
 *
 * A role inherits a privilege along a chain of grants only if it has the
 * privileges of each role of the chain, so no chain is followed past one that
 * it has not.
 */
static List *
listRoles(Oid member, HasRole has)
{
	List *roles = list_make1_oid(member);

	if (has(member, ROLE_PG_DATABASE_OWNER)) /* granted by no row */
		roles = list_append_unique_oid(roles, ROLE_PG_DATABASE_OWNER);
	for (int i = 0; i < list_length(roles); i++)
		roles = addGranted(roles, list_nth_oid(roles, i), member, has);
	return roles;
}

/*
 * Reads the rows of member for some roles: only those of an account, if one is
 * given.  Adds their accounts to the array, if one is given.  Returns whether
 * there is any such row.
 */
static bool
readMember(const List *roles, const int64 *account_id, ArrayBuildState *accounts)
{
	Relation member = CatalogOpen(&CatalogMember, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(member, NULL);
	bool found = false;

	for (int i = 0; i < list_length(roles) && !(found && account_id); i++)
	{
		char *role = GetUserNameFromId(list_nth_oid(roles, i), true);
		NameData name;
		Datum values[2];
		CatalogScan scan;

		if (role == NULL) /* dropped meanwhile */
			continue;
		namestrcpy(&name, role);
		values[0] = NameGetDatum(&name);
		values[1] = account_id ? Int64GetDatum(*account_id) : (Datum) 0;
		CatalogScanBegin(&scan, &CatalogMember, member, 0, GetActiveSnapshot(), account_id ? 2 : 1,
						 values, NULL);
		while (CatalogScanNext(&scan, slot, NULL))
		{
			bool isnull;
			Datum account = CatalogColumn(&CatalogMember, slot, MEMBER_ACCOUNT_ID, &isnull);

			found = true;
			if (accounts)
				accumArrayResult(accounts, account, isnull, INT8OID, CurrentMemoryContext);
		}
		CatalogScanEnd(&scan);
	}

	ExecDropSingleTupleTableSlot(slot);
	table_close(member, AccessShareLock);
	return found;
}

/*
 * Lists the roles by which the session reaches accounts; none if the
 * transaction acts for somebody.
 */
static List *
actingRoles(void)
{
	return roleDecides() ? listRoles(GetOuterUserId(), has_privs_of_role) : NIL;
}

/* Tells whether the transaction reaches an account. */
bool
ReachAccount(int64 account_id, Access access)
{
	const Identity *identity = IdentityCurrent();

	if (identity)
		return identity->account_id == account_id && identityMay(identity, access);
	return ReachAll(access) || readMember(actingRoles(), &account_id, NULL);
}

/*
 * Tells whether a login reaches accounts without an identity, or may SET ROLE
 * to a role that does: by a row of member, by a role of the extension, as one
 * whom row-level security does not hold, as the owner of the tables, or as one
 * that may grant itself another role (CREATEROLE).
 */
static bool
loginReaches(Oid login)
{
	static const char *const reaching[] = {"apikeys_admin", "apikeys_staff", "apikeys_auditor"};
	List *roles = listRoles(login, is_member_of_role_nosuper);
	Relation member = CatalogOpen(&CatalogMember, AccessShareLock);
	Oid table_owner = member->rd_rel->relowner;
	ListCell *cell;

	table_close(member, AccessShareLock);
	if (is_member_of_role_nosuper(login, table_owner))
		return true;
	for (int i = 0; i < lengthof(reaching); i++)
	{
		Oid role = get_role_oid(reaching[i], true);

		if (OidIsValid(role) && is_member_of_role_nosuper(login, role))
			return true;
	}
	foreach(cell, roles)
	{
		if (has_bypassrls_privilege(lfirst_oid(cell)) || has_createrole_privilege(lfirst_oid(cell)))
			return true;
	}
	return readMember(roles, NULL, NULL);
}

/*
 * Raises an error if the login reaches accounts without an identity: a COMMIT
 * would give it more than begin_for has.  Superusers are excepted, whom nothing
 * holds.
 */
void
ReachRequireNoneOfLogin(void)
{
	Oid login = GetSessionUserId();

	if (!superuser_arg(login) && loginReaches(login))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" reaches accounts of its own", GetUserNameFromId(login, false)),
				 errdetail("After the transaction it would reach more than within it."),
				 errhint("Log in as a role that has apikeys_portal alone, and no row in member.")));
}

PG_FUNCTION_INFO_V1(apikeys_reach_all);
PG_FUNCTION_INFO_V1(apikeys_reach_account);
PG_FUNCTION_INFO_V1(apikeys_reach_accounts);
PG_FUNCTION_INFO_V1(apikeys_reach_require);
PG_FUNCTION_INFO_V1(apikeys_reach_changed);
PG_FUNCTION_INFO_V1(apikeys_reach_require_provider);
PG_FUNCTION_INFO_V1(apikeys_reach_refuse_update);
PG_FUNCTION_INFO_V1(apikeys_acts_as_admin);

/* What the SQL functions call changing. */
static Access
accessOf(bool changing)
{
	return changing ? ACCESS_CHANGE : ACCESS_READ;
}

/* reaches_all(changing) */
Datum
apikeys_reach_all(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ReachAll(accessOf(PG_GETARG_BOOL(0))));
}

/* reaches(account_id, changing) */
Datum
apikeys_reach_account(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ReachAccount(PG_GETARG_INT64(0), accessOf(PG_GETARG_BOOL(1))));
}

/* reached_accounts(changing) */
Datum
apikeys_reach_accounts(PG_FUNCTION_ARGS)
{
	const Identity *identity = IdentityCurrent();
	ArrayBuildState *accounts = initArrayResult(INT8OID, CurrentMemoryContext, false);

	if (identity == NULL)
		(void) readMember(actingRoles(), NULL, accounts);
	else if (identityMay(identity, accessOf(PG_GETARG_BOOL(0))))
		accumArrayResult(accounts, Int64GetDatum(identity->account_id), false, INT8OID,
						 CurrentMemoryContext);
	PG_RETURN_DATUM(makeArrayResult(accounts, CurrentMemoryContext));
}

/*
 * require_reach(): raises 55000 where the transaction must say first for whom
 * it acts, or can no longer act for anybody.
 */
Datum
apikeys_reach_require(PG_FUNCTION_ARGS)
{
	if (IdentityIsLost())
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the transaction acts for nobody any more"),
						errdetail("What it had begun was rolled back."),
						errhint("End the transaction and begin anew.")));
	if (roleDecides() && hasRole(GetOuterUserId(), "apikeys_portal") && !ReachAll(ACCESS_READ) &&
		!readMember(actingRoles(), NULL, NULL))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the transaction has not said for whom it acts"),
						errhint("Call begin_for first, in the same transaction.")));
	PG_RETURN_VOID();
}

/*
 * Raises an error if the transaction acts for somebody, or did: whoever that is
 * may not make the change, which is the provider's or another account's.
 */
static void
requireNobody(void)
{
	if (IdentityCurrent() || IdentityIsLost())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("the transaction acts for somebody who may not make this change"),
						errhint("End the transaction first.")));
}

/*
 * changed_account(account_id): raises 42501 where the transaction acts for
 * somebody who may not change the account; NULL: none, or several.
 */
Datum
apikeys_reach_changed(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || !ReachAccount(PG_GETARG_INT64(0), ACCESS_CHANGE))
		requireNobody();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/* require_provider(): raises 42501 where the transaction acts for somebody. */
Datum
apikeys_reach_require_provider(PG_FUNCTION_ARGS)
{
	requireNobody();
	PG_RETURN_VOID();
}

/*
 * Trigger: raises 42501 if a statement of the session changes what the provider
 * decides while it acts for somebody.  The functions of the extension, which
 * run as the owner of the tables, know themselves what they may change.
 */
Datum
apikeys_reach_refuse_update(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "a trigger function must be called by a trigger");
	if (GetUserId() != ((TriggerData *) fcinfo->context)->tg_relation->rd_rel->relowner)
		requireNobody();
	PG_RETURN_POINTER(NULL);
}

/* acts_as_admin() */
Datum
apikeys_acts_as_admin(PG_FUNCTION_ARGS)
{
	Oid acting = GetOuterUserId();

	PG_RETURN_BOOL(roleDecides() && (superuser_arg(acting) || hasRole(acting, "apikeys_admin")));
}
