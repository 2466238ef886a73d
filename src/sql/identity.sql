-- For whom a transaction acts: begin_as and begin_for say it, and a key asks about itself.
--
-- One login of an application serves many customers. Each transaction begins by saying whose it is; src/request/identity.c keeps that, and
-- says what ends it.

CREATE FUNCTION apikeys.begin_as(
    key text, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost bigint = 1,
    metered boolean = true
) RETURNS apikeys.verdict
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_identity_begin_as';
COMMENT ON FUNCTION apikeys.begin_as(text, text, inet, text, text, text[], bigint, boolean) IS
'Decide about a request as verify does (metered => false: as authenticate does, so that a key whose quota is used up can still ask about '
'itself). If it is allowed, the transaction acts for the key from now on: current_account(), current_account_id(), current_key_id() and '
'has_scope() say so, and nothing but the key''s account is within reach, whatever the role. A key changes its account only with the scope '
'apikeys:manage. Call it in a statement of its own, first in the transaction: what else the same statement reads may have been decided '
'before. It ends with the transaction, or if a ROLLBACK TO or an exception block undoes it; a second begin is refused until the '
'transaction ends. Outside a transaction block there is a warning: it ends with its statement. Errors: those of verify; '
'55000 the transaction acts for somebody already; 42501 within a security-restricted operation.';

CREATE FUNCTION apikeys_internal.require_open() RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_identity_require_open';
COMMENT ON FUNCTION apikeys_internal.require_open() IS
'Raise if begin_for cannot be called now, or by this login. Errors: 42501, 55000.';

CREATE FUNCTION apikeys_internal.begin_account(account_id bigint, account text, actor text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_identity_begin';
COMMENT ON FUNCTION apikeys_internal.begin_account(bigint, text, text) IS 'Does the last step of begin_for. Errors: 42501, 55000.';

CREATE FUNCTION apikeys.begin_for(account text, actor text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account;
BEGIN
    PERFORM apikeys_internal.require_open();
    SELECT a.* INTO owner FROM apikeys.account AS a WHERE a.name = begin_for.account;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'account.name', format('account %s does not exist', apikeys_internal.quoted(account)));
    END IF;
    PERFORM apikeys_internal.begin_account(owner.account_id, owner.name, nullif(apikeys_internal.checked('audit_log.actor', actor), ''));
    RETURN owner.name;
END
$$;
COMMENT ON FUNCTION apikeys.begin_for(text, text) IS
'Let the transaction act for an account, as the application''s own log-in of its customer says; returns the account''s name. Nothing but '
'that account is within reach from now on. The audit log names the actor, up to 512 bytes, beside each change. Nothing is written, so it '
'works in a READ ONLY transaction. Where it holds, and what ends it: see begin_as. Errors: P0002 unknown account; 55000 the transaction '
'acts for somebody already; 42501 the login reaches accounts of its own or may SET ROLE to a role that does (superusers excepted), or '
'within a security-restricted operation; 22023 a bad actor.';

-- A key asks about itself.

CREATE FUNCTION apikeys_internal.my_key_id() RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.require_reach();
    IF apikeys.current_key_id() IS NULL THEN
        PERFORM apikeys_internal.refuse(
            '55000', 'key.key_id', 'the transaction acts for no key', NULL, 'Call begin_as first, in the same transaction.');
    END IF;
    RETURN apikeys.current_key_id();
END
$$;
COMMENT ON FUNCTION apikeys_internal.my_key_id() IS 'The key that the transaction acts for. Errors: 55000 none.';

CREATE FUNCTION apikeys.my_key() RETURNS apikeys.key_list
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN apikeys.get_key(apikeys_internal.my_key_id());
COMMENT ON FUNCTION apikeys.my_key() IS
'The key that the transaction acts for (begin_as), as get_key shows it. Errors: 55000 it acts for none.';

CREATE FUNCTION apikeys.my_limits(
    OUT subject text, OUT limit_window text, OUT cap bigint, OUT used bigint, OUT remaining bigint, OUT next_free_at timestamptz
) RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT l.subject, l.limit_window, l.cap, l.used, l.remaining, l.next_free_at FROM apikeys.key_limits(apikeys_internal.my_key_id()) AS l;
END;
COMMENT ON FUNCTION apikeys.my_limits() IS
'The status of the limits of the key that the transaction acts for (begin_as), and of its account''s; columns as in key_limits. Errors: '
'55000 it acts for none.';

CREATE FUNCTION apikeys.my_usage(
    since timestamptz, until timestamptz, step interval, time_zone text = 'UTC',
    OUT at timestamptz, OUT admitted bigint, OUT denied bigint, OUT units bigint, OUT errors bigint, OUT credits bigint
) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT u.at, u.admitted, u.denied, u.units, u.errors, u.credits
    FROM apikeys.usage_series(apikeys_internal.my_key_id(), since, until, step, time_zone) AS u;
END;
COMMENT ON FUNCTION apikeys.my_usage(timestamptz, timestamptz, interval, text) IS
'Usage over time of the key that the transaction acts for (begin_as); arguments and columns as in usage_series. Errors: 55000 it acts for '
'none; 22023, 54000 as usage_series.';
