/*
 * identity.c
 *	  For whom the session acts: which accounts it may read and change.
 *
 * That is its reach.  Every policy, view and function that shows or changes
 * something of an account asks here and nowhere else.
 *
 * The acting role is the outer user: the session's user, or the role that SET
 * ROLE has chosen.  SECURITY DEFINER does not change it: such a function lends
 * the privileges of its owner, never the reach.  All accounts are within the
 * reach of superusers and of roles that have the privileges of apikeys_admin or
 * apikeys_staff and, to read them, of apikeys_auditor.  Other roles reach the
 * accounts of the rows of table member that name them, or a role whose
 * privileges they have.  Without such a row there is no account.
 *
 * In a security-restricted operation nobody has reach.  ANALYZE, REINDEX,
 * REFRESH MATERIALIZED VIEW and autovacuum run expressions that the owner of
 * some table has written, in a session of a superuser: the outer user is then
 * not the one who wrote what runs.
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
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_auth_members.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
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
#include "tables/catalog.h"

/* Tells whether a role has the privileges of the role of that name. */
static bool
hasRole(Oid acting, const char *name)
{
	Oid role = get_role_oid(name, true);

	return OidIsValid(role) && has_privs_of_role(acting, role);
}

/* Tells whether the acting role reaches all accounts. */
bool
IdentityReachesAll(Access access)
{
	Oid acting = GetOuterUserId();

	if (InSecurityRestrictedOperation())
		return false;
	return superuser_arg(acting) || hasRole(acting, "apikeys_admin") ||
		   hasRole(acting, "apikeys_staff") ||
		   (access == ACCESS_READ && hasRole(acting, "apikeys_auditor"));
}

/*
 * Adds to roles those that a role has been granted, and whose privileges the
 * acting role has.
 */
static List *
addGranted(List *roles, Oid role, Oid acting)
{
	CatCList *grants = SearchSysCacheList1(AUTHMEMMEMROLE, ObjectIdGetDatum(role));

	for (int i = 0; i < grants->n_members; i++)
	{
		HeapTuple tuple = &grants->members[i]->tuple;
		Oid granted = ((Form_pg_auth_members) GETSTRUCT(tuple))->roleid;

		if (has_privs_of_role(acting, granted))
			roles = list_append_unique_oid(roles, granted);
	}
	ReleaseSysCacheList(grants);
	return roles;
}

/*
 * Lists the roles whose privileges the acting role has, itself first; none in
 * a security-restricted operation.
 *
 * A role inherits a privilege along a chain of grants only if it has the
 * privileges of each role of the chain, so no chain is followed past one that
 * it has not.
 */
static List *
listRoles(void)
{
	Oid acting = GetOuterUserId();
	List *roles = NIL;

	if (InSecurityRestrictedOperation())
		return NIL;
	roles = list_make1_oid(acting);
	if (has_privs_of_role(acting, ROLE_PG_DATABASE_OWNER)) /* granted by no row */
		roles = lappend_oid(roles, ROLE_PG_DATABASE_OWNER);
	for (int i = 0; i < list_length(roles); i++)
		roles = addGranted(roles, list_nth_oid(roles, i), acting);
	return roles;
}

/*
 * Reads the rows of member for the acting role: only those of an account, if
 * one is given.  Adds their accounts to the array, if one is given.  Returns
 * whether there is any such row.
 */
static bool
readMember(const int64 *account_id, ArrayBuildState *accounts)
{
	List *roles = listRoles();
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

/* Tells whether the acting role reaches an account. */
bool
IdentityReaches(int64 account_id, Access access)
{
	return IdentityReachesAll(access) || readMember(&account_id, NULL);
}

PG_FUNCTION_INFO_V1(apikeys_reach_all);
PG_FUNCTION_INFO_V1(apikeys_reach_account);
PG_FUNCTION_INFO_V1(apikeys_reach_accounts);
PG_FUNCTION_INFO_V1(apikeys_acts_as_admin);

/* reaches_all(changing) */
Datum
apikeys_reach_all(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(IdentityReachesAll(PG_GETARG_BOOL(0) ? ACCESS_CHANGE : ACCESS_READ));
}

/* reaches(account_id, changing) */
Datum
apikeys_reach_account(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(
		IdentityReaches(PG_GETARG_INT64(0), PG_GETARG_BOOL(1) ? ACCESS_CHANGE : ACCESS_READ));
}

/* reached_accounts() */
Datum
apikeys_reach_accounts(PG_FUNCTION_ARGS)
{
	ArrayBuildState *accounts = initArrayResult(INT8OID, CurrentMemoryContext, false);

	(void) readMember(NULL, accounts);
	PG_RETURN_DATUM(makeArrayResult(accounts, CurrentMemoryContext));
}

/* acts_as_admin() */
Datum
apikeys_acts_as_admin(PG_FUNCTION_ARGS)
{
	Oid acting = GetOuterUserId();

	PG_RETURN_BOOL(!InSecurityRestrictedOperation() &&
				   (superuser_arg(acting) || hasRole(acting, "apikeys_admin")));
}
