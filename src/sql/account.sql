-- Accounts: creating, activating and deactivating them, and finding one within reach.

CREATE FUNCTION apikeys_internal.wall_clock() RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_clock_wall';
COMMENT ON FUNCTION apikeys_internal.wall_clock() IS
'The time by which keys expire: the wall clock, plus apikeys.debug_clock_offset in tests.';

CREATE FUNCTION apikeys_internal.quoted(name text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce('"' || name || '"', 'NULL');
COMMENT ON FUNCTION apikeys_internal.quoted(text) IS 'A name as messages show it: in quotes, or NULL.';

CREATE FUNCTION apikeys_internal.seconds_after(start timestamptz, lifetime interval) RETURNS timestamptz
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN start + make_interval(secs => extract(epoch FROM lifetime)::float8);
COMMENT ON FUNCTION apikeys_internal.seconds_after(timestamptz, interval) IS
'The time one lifetime later, counted in seconds: a day is 86,400 of them, even where clocks change.';

CREATE FUNCTION apikeys_internal.accounts_are_created() RETURNS boolean
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'apikeys_accounts_are_created';
COMMENT ON FUNCTION apikeys_internal.accounts_are_created() IS
'Whether create_key makes accounts that do not exist: the setting apikeys.create_accounts.';

CREATE FUNCTION apikeys_internal.change_fault(account text, OUT message text, OUT hint text)
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN (format('account %s may be read, but not changed', apikeys_internal.quoted(account)),
        CASE WHEN apikeys.current_key_id() IS NULL THEN 'No row of member binds the role to it.'
             ELSE 'The key does not have the scope apikeys:manage.' END);
COMMENT ON FUNCTION apikeys_internal.change_fault(text) IS 'That the session may read an account, but not change it.';

CREATE FUNCTION apikeys_internal.require_change(account_id bigint) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fault record;
BEGIN
    IF NOT coalesce(apikeys_internal.reaches(account_id, true), false) THEN
        SELECT f.* INTO fault FROM apikeys.account AS a, LATERAL apikeys_internal.change_fault(a.name) AS f
        WHERE a.account_id = require_change.account_id;
        PERFORM apikeys_internal.refuse('42501', 'account.name', fault.message, NULL, fault.hint);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.require_change(bigint) IS
'Raise if the session may not change an account that it may read. Errors: 42501.';

-- An account is locked by an update, not by a row lock: a REPEATABLE READ transaction, which cannot see keys that another
-- transaction made after its snapshot, then fails with 40001. Each transaction updates an account once.
CREATE FUNCTION apikeys_internal.lock_account(account_id bigint) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    locked apikeys.account;
BEGIN
    UPDATE apikeys.account AS a SET created_at = a.created_at
    WHERE a.account_id = lock_account.account_id AND a.xmin <> pg_current_xact_id()::xid
    RETURNING a.* INTO locked;
    IF NOT FOUND THEN
        SELECT a.* INTO locked FROM apikeys.account AS a WHERE a.account_id = lock_account.account_id;
    END IF;
    RETURN locked;
END
$$;
COMMENT ON FUNCTION apikeys_internal.lock_account(bigint) IS
'Lock an account until the end of the transaction, against all others that lock it. Returns it as it is then.';

CREATE FUNCTION apikeys_internal.add_account(
    name text, plan text, display_name text, contact text, limits apikeys.limits, metadata jsonb)
RETURNS SETOF apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules apikeys.plan;
    made  apikeys.account;
BEGIN
    PERFORM apikeys_internal.checked('account.name', coalesce(add_account.name, '')),
            apikeys_internal.checked('account.display_name', add_account.display_name),
            apikeys_internal.checked('account.contact', add_account.contact),
            apikeys_internal.checked('account.plan', add_account.plan),
            apikeys_internal.checked('account.metadata', add_account.metadata);
    IF NOT EXISTS (SELECT FROM apikeys.plan AS p WHERE p.name = add_account.plan) THEN
        IF add_account.plan <> 'default' THEN
            PERFORM apikeys_internal.refuse('P0002', 'account.plan', format('plan "%s" does not exist', add_account.plan));
        END IF;
        FOR rules IN INSERT INTO apikeys.plan (name) VALUES ('default') ON CONFLICT DO NOTHING RETURNING * LOOP
            PERFORM apikeys_internal.audit('insert', 'plan', rules.name, NULL, NULL, apikeys_internal.audited_row(to_jsonb(rules)));
        END LOOP;
    END IF;
    FOR made IN
        INSERT INTO apikeys.account (name, plan, display_name, contact, limits, metadata, created_at)
        VALUES (add_account.name, add_account.plan, add_account.display_name, add_account.contact, add_account.limits,
                coalesce(add_account.metadata, '{}'), apikeys_internal.wall_clock())
        ON CONFLICT ON CONSTRAINT account_name_key DO NOTHING   -- an id that is taken is an error of its own
        RETURNING *
    LOOP
        PERFORM apikeys_internal.audit('insert', 'account', made.name, made.account_id, NULL, apikeys_internal.audited_row(to_jsonb(made)));
        RETURN NEXT made;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_account(text, text, text, text, apikeys.limits, jsonb) IS
'Make an account, and plan default if it is the first to need that; no row if the name is taken. Errors: as '
'create_account.';

CREATE FUNCTION apikeys.create_account(
    name text, plan text DEFAULT 'default', display_name text DEFAULT NULL, contact text DEFAULT NULL,
    limits apikeys.limits DEFAULT NULL, metadata jsonb DEFAULT NULL)
RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made apikeys.account;
BEGIN
    SELECT a.* INTO made FROM apikeys_internal.add_account(name, coalesce(plan, 'default'), display_name, contact, limits, metadata) AS a;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('23505', 'account.name',
            format('account "%s" exists already', name), NULL, NULL, 'account_name_key');
    END IF;
    RETURN made;
END
$$;
COMMENT ON FUNCTION apikeys.create_account(text, text, text, text, apikeys.limits, jsonb) IS
'Make an account. Its name is the application''s own id of it and never changes. limits count all its keys '
'together; NULL: those of the plan.
Errors: P0002 unknown plan; 22023 a bad name, contact or metadata; 23505 the name is taken.';

CREATE FUNCTION apikeys_internal.get_account(name text, changing boolean) RETURNS apikeys.account
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_account apikeys.account;
BEGIN
    PERFORM apikeys_internal.require_reach();
    SELECT a.* INTO found_account FROM apikeys.account AS a
    WHERE a.name = get_account.name AND apikeys_internal.reaches(a.account_id, false);
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'account.name',
            format('account %s does not exist', apikeys_internal.quoted(name)));
    ELSIF changing THEN
        PERFORM apikeys_internal.require_change(found_account.account_id);
    END IF;
    RETURN found_account;
END
$$;
COMMENT ON FUNCTION apikeys_internal.get_account(text, boolean) IS
'The account of that name, to read (or change) it. Errors: P0002 no such account, or not one that the session may read; 42501 one '
'that it may not change.';

CREATE FUNCTION apikeys_internal.set_account_active(name text, active boolean) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.get_account(name, true);
    UPDATE apikeys.account AS a SET active = set_account_active.active WHERE a.name = set_account_active.name;
    RETURN apikeys_internal.get_account(name, true);
END
$$;
COMMENT ON FUNCTION apikeys_internal.set_account_active(text, boolean) IS
'Does the work of activate_account and deactivate_account.';

CREATE FUNCTION apikeys.activate_account(account text) RETURNS apikeys.account
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN apikeys_internal.set_account_active(account, true);
COMMENT ON FUNCTION apikeys.activate_account(text) IS
'Permit the use of an account''s keys again. Errors: P0002 unknown account.';

CREATE FUNCTION apikeys.deactivate_account(account text) RETURNS apikeys.account
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN apikeys_internal.set_account_active(account, false);
COMMENT ON FUNCTION apikeys.deactivate_account(text) IS
'Refuse all keys of an account from now on, with the verdict inactive. Errors: P0002 unknown account.';
