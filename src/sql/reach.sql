-- Who acts, and which accounts the transaction may read and change. src/request/reach.c and identity.c decide, for all policies, views
-- and functions. They call reaches_all and reached_accounts in subqueries, (SELECT ...), which run once for each statement.

CREATE FUNCTION apikeys_internal.reaches_all(changing boolean) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_reach_all';
COMMENT ON FUNCTION apikeys_internal.reaches_all(boolean) IS
'Whether the transaction may read (or change) all accounts: it acts for nobody, and the session''s user, or the role chosen by SET '
'ROLE, is a superuser or has the privileges of apikeys_admin or apikeys_staff, or to read, those of apikeys_auditor. False in a '
'security-restricted operation.';

CREATE FUNCTION apikeys_internal.reached_accounts(changing boolean) RETURNS bigint[]
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_reach_accounts';
COMMENT ON FUNCTION apikeys_internal.reached_accounts(boolean) IS
'The accounts that the transaction may read (or change): the one that it acts for, or else those that table member binds the '
'session''s user to, or the role chosen by SET ROLE, or a role whose privileges it has. A key changes its account only with the scope '
'apikeys:manage. Empty in a security-restricted operation.';

CREATE FUNCTION apikeys_internal.reaches(account_id bigint, changing boolean) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_reach_account';
COMMENT ON FUNCTION apikeys_internal.reaches(bigint, boolean) IS
'Whether the transaction may read (or change) an account and what belongs to it: reaches_all, or one of reached_accounts.';

CREATE FUNCTION apikeys_internal.require_reach() RETURNS void
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_reach_require';
COMMENT ON FUNCTION apikeys_internal.require_reach() IS
'Raise if nothing can be within reach: a portal''s transaction has not begun to act for an account, or what it had begun was rolled '
'back. Errors: 55000.';

CREATE FUNCTION apikeys_internal.changed_account(account_id bigint) RETURNS bigint
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_reach_changed';
COMMENT ON FUNCTION apikeys_internal.changed_account(bigint) IS
'Returns the account that a change concerns (NULL: none, or several). Raise if the transaction acts for somebody who may not change '
'it. Errors: 42501.';

CREATE FUNCTION apikeys_internal.require_provider() RETURNS void
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_reach_require_provider';
COMMENT ON FUNCTION apikeys_internal.require_provider() IS
'Raise if the transaction acts for somebody, who may not decide what the provider decides. Errors: 42501.';

CREATE FUNCTION apikeys_internal.refuse_update() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_reach_refuse_update';
COMMENT ON FUNCTION apikeys_internal.refuse_update() IS
'Trigger: refuses a statement of the session that changes what the provider decides, if the transaction acts for somebody. Functions of '
'the extension are not held by it. Errors: 42501.';

CREATE FUNCTION apikeys_internal.acts_as_admin() RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_acts_as_admin';
COMMENT ON FUNCTION apikeys_internal.acts_as_admin() IS
'Whether the session''s user, or the role chosen by SET ROLE, is a superuser or has the privileges of apikeys_admin. False in a '
'security-restricted operation, and in a transaction that acts for somebody.';

CREATE FUNCTION apikeys_internal.acting_via() RETURNS text
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_identity_via';
COMMENT ON FUNCTION apikeys_internal.acting_via() IS
'By what the transaction may do what it does: its role, a key (begin_as), or portal (begin_for).';

CREATE FUNCTION apikeys_internal.acting_person() RETURNS text
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_identity_actor';
COMMENT ON FUNCTION apikeys_internal.acting_person() IS
'Who acts: key:<id> of the key, or the actor given to begin_for; NULL: the transaction acts by its role, or there was no actor.';

CREATE FUNCTION apikeys_internal.acting_by_former_text() RETURNS boolean
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_identity_by_former_text';
COMMENT ON FUNCTION apikeys_internal.acting_by_former_text() IS
'Whether the transaction acts for a key that begin_as was given by its former text, which ends with the grace of its rotation.';

CREATE FUNCTION apikeys_internal.acting_name() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN CASE apikeys_internal.acting_via() WHEN 'key' THEN apikeys_internal.acting_person() ELSE SESSION_USER END;
COMMENT ON FUNCTION apikeys_internal.acting_name() IS
'Who made a row, as its column created_by or asked_by has it: key:<id> if a key did, or else the session''s user.';

CREATE FUNCTION apikeys.current_account() RETURNS text
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_identity_account';
COMMENT ON FUNCTION apikeys.current_account() IS
'The name of the account that the transaction acts for, since begin_as or begin_for; NULL: none. For policies of tables; write it as '
'(SELECT apikeys.current_account()), which is computed once a statement and does not forbid parallel scans.';

CREATE FUNCTION apikeys.current_account_id() RETURNS bigint
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_identity_account_id';
COMMENT ON FUNCTION apikeys.current_account_id() IS
'The number of the account that the transaction acts for, since begin_as or begin_for; NULL: none. In policies, write it as '
'(SELECT apikeys.current_account_id()).';

CREATE FUNCTION apikeys.current_key_id() RETURNS bigint
LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_identity_key_id';
COMMENT ON FUNCTION apikeys.current_key_id() IS
'The id of the key that the transaction acts for, since begin_as; NULL: none. In policies, write it as '
'(SELECT apikeys.current_key_id()).';

CREATE FUNCTION apikeys.has_scope(scope text) RETURNS boolean
LANGUAGE C STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_identity_has_scope';
COMMENT ON FUNCTION apikeys.has_scope(text) IS
'Whether the transaction acts for a key (begin_as) that has this scope. False under begin_for. In policies, write it as '
'(SELECT apikeys.has_scope(''orders:write'')).';
