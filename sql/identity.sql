-- For whom a transaction acts: begin_as and begin_for, what ends them, and what is within reach meanwhile.
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE ROLE regress_portal_login LOGIN IN ROLE apikeys_portal;
CREATE ROLE regress_checker LOGIN IN ROLE apikeys_verifier;
CREATE ROLE regress_boss IN ROLE apikeys_admin;
CREATE ROLE regress_clerk IN ROLE apikeys_manager;
SELECT name FROM apikeys.create_plan('open', manage_keys => true);
SELECT name FROM apikeys.create_product('maps');
SELECT name FROM apikeys.create_product('routes');
SELECT name FROM apikeys.create_tier('gold', 1, '100/day');
SELECT a.name FROM apikeys.create_account('acme') AS a UNION ALL SELECT a.name FROM apikeys.create_account('rival') AS a
UNION ALL SELECT a.name FROM apikeys.create_account('free', 'open') AS a;
-- The texts of the keys stay in the session.
SELECT set_config('test.id_' || c.alias, c.key_id::text, false) <> set_config('test.key_' || c.alias, c.key, false) AS made
FROM (SELECT * FROM apikeys.create_key('acme', 'app', scopes => '{orders:read,orders:write}')
      UNION ALL
      SELECT * FROM apikeys.create_key('acme', 'terraform', scopes => '{orders:read,apikeys:manage}', expires_at => '2999-01-01', products => '{maps}',
                                       allowed_ips => '{192.0.2.0/24}', allowed_domains => '{a.example,b.example}')
      UNION ALL
      SELECT * FROM apikeys.create_key('rival', 'theirs')) AS c;
CREATE FUNCTION key_of(alias text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('test.key_' || alias) $$;
CREATE FUNCTION id_of(alias text) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT current_setting('test.id_' || alias)::bigint $$;
CREATE VIEW acting AS
SELECT apikeys.current_account() AS account, apikeys.current_account_id() IS NOT NULL AS number, CASE apikeys.current_key_id() WHEN id_of('app') THEN 'app' END AS key,
       apikeys.has_scope('orders:write') AS may_write, apikeys.has_scope('orders') AS prefix;
GRANT SELECT ON acting TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;

-- Nobody acts for anybody at first.
SELECT * FROM acting;
SELECT apikeys.has_scope(NULL);

-- An account: all lists and functions reach it alone, and what is changed is on record with who did it.
SET SESSION AUTHORIZATION regress_portal_login;
SELECT count(*) FROM apikeys.key_list;
SELECT apikeys.get_key(id_of('app'));
SELECT apikeys.create_key('acme');
SELECT apikeys.my_key();
BEGIN;
SELECT apikeys.begin_for('acme', 'ann@acme.example');
SELECT * FROM acting;
SELECT account, alias FROM apikeys.key_list ORDER BY alias;
SELECT name FROM apikeys.account;
SELECT apikeys.find_key('rival', 'theirs');
ROLLBACK;
BEGIN;
SELECT apikeys.begin_for('acme', 'ann@acme.example');
SET LOCAL apikeys.actor = 'somebody else';
SELECT alias, account FROM apikeys.create_key('acme', 'new');
UPDATE apikeys.key SET alias = 'newer' WHERE alias = 'new';
SELECT state FROM apikeys.delete_key(apikeys.find_key('acme', 'newer'));
SELECT role, via, actor, action, object FROM apikeys.audit_log WHERE object = 'key' AND via <> 'role' ORDER BY id;
SELECT apikeys.my_key();
COMMIT;
SELECT * FROM acting;
SELECT count(*) FROM apikeys.audit_log;

-- It begins once in a transaction. An unknown account does not close it.
BEGIN;
SAVEPOINT a;
SELECT apikeys.begin_for('nobody');
ROLLBACK TO a;
SELECT apikeys.begin_for('acme');
SAVEPOINT b;
SELECT apikeys.begin_for('rival');
ROLLBACK TO b;
SELECT verdict FROM apikeys.begin_as(key_of('theirs')) AS verdict;
ROLLBACK TO b;
SELECT * FROM acting;
-- Undone, it is gone, and the transaction stays closed and reaches nothing.
ROLLBACK TO a;
SELECT * FROM acting;
SELECT count(*) FROM apikeys.key_list;
SAVEPOINT c;
SELECT apikeys.get_key(id_of('app'));
ROLLBACK TO c;
SELECT apikeys.begin_for('acme');
ROLLBACK;
-- RELEASE keeps it, until the savepoint around is undone.
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT apikeys.begin_for('acme');
RELEASE b;
SELECT account FROM acting;
SAVEPOINT c;
ROLLBACK TO c;
SELECT account FROM acting;
ROLLBACK TO a;
SELECT account FROM acting;
COMMIT;
DO $$
BEGIN
    BEGIN
        PERFORM apikeys.begin_for('acme');
        RAISE NOTICE 'within: %', apikeys.current_account();
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'after: %', apikeys.current_account();
    END;
    PERFORM apikeys.begin_for('rival');
END
$$;
-- COMMIT ends it, that of a procedure too; what a procedure does before belongs to the account.
CREATE PROCEDURE public.twice() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM apikeys.begin_for('acme');
    RAISE NOTICE 'first: %', (SELECT string_agg(DISTINCT account, ' ') FROM apikeys.key_list);
    COMMIT;
    RAISE NOTICE 'between: % %', apikeys.current_account(), (SELECT count(*) FROM apikeys.key_list);
    PERFORM apikeys.begin_for('rival');
    RAISE NOTICE 'second: %', (SELECT string_agg(DISTINCT account, ' ') FROM apikeys.key_list);
    ROLLBACK;
    RAISE NOTICE 'at last: %', apikeys.current_account();
END
$$;
CALL public.twice();
BEGIN;
SELECT apikeys.begin_for('acme');
COMMIT AND CHAIN;
SELECT account FROM acting;
ROLLBACK;
-- Outside a transaction block it ends with its statement, and says so. Several statements in one message are a block.
SELECT apikeys.begin_for('acme');
SELECT account FROM acting;
SELECT apikeys.begin_for('acme') \; SELECT account FROM acting;
-- It writes nothing.
BEGIN READ ONLY;
SELECT apikeys.begin_for('acme');
SELECT count(*) FROM apikeys.key_list;
COMMIT;
SELECT apikeys.begin_for('acme', repeat('x', 513));

-- Who reaches accounts without it may not begin: a COMMIT would widen what he reaches. Superusers may.
RESET SESSION AUTHORIZATION;
CREATE ROLE regress_both LOGIN NOINHERIT IN ROLE apikeys_portal, regress_boss;
CREATE ROLE regress_bound_portal LOGIN IN ROLE apikeys_portal, regress_clerk;
SELECT role FROM apikeys.add_member('regress_clerk', 'rival');
SET SESSION AUTHORIZATION regress_both;
SET ROLE apikeys_portal;
SELECT apikeys.begin_for('acme');
SET SESSION AUTHORIZATION regress_bound_portal;
SELECT apikeys.begin_for('acme');
RESET SESSION AUTHORIZATION;
CREATE ROLE regress_super NOLOGIN SUPERUSER;
CREATE ROLE regress_unheld NOLOGIN BYPASSRLS;
CREATE ROLE regress_may_rise LOGIN NOINHERIT IN ROLE apikeys_portal, regress_super;
CREATE ROLE regress_may_see LOGIN NOINHERIT IN ROLE apikeys_portal, regress_unheld;
CREATE ROLE regress_granter NOLOGIN CREATEROLE;
CREATE ROLE regress_may_grant LOGIN NOINHERIT IN ROLE apikeys_portal, regress_granter;
SET SESSION AUTHORIZATION regress_may_rise;
SET ROLE apikeys_portal;
SELECT apikeys.begin_for('acme');
SET SESSION AUTHORIZATION regress_may_see;
SET ROLE apikeys_portal;
SELECT apikeys.begin_for('acme');
SET SESSION AUTHORIZATION regress_may_grant;
SET ROLE apikeys_portal;
SELECT apikeys.begin_for('acme');
RESET SESSION AUTHORIZATION;
SELECT account FROM apikeys.remove_member('regress_clerk', 'rival') AS m JOIN LATERAL (SELECT a.name AS account FROM apikeys.account AS a WHERE a.account_id = m.account_id) AS a ON true;
SET SESSION AUTHORIZATION regress_bound_portal;
BEGIN;
SELECT apikeys.begin_for('acme');
COMMIT;
RESET SESSION AUTHORIZATION;
BEGIN;
SELECT apikeys.begin_for('acme');
SELECT DISTINCT account FROM apikeys.key_list;
SELECT apikeys.create_key('acme', tier => 'gold');
ROLLBACK;
-- Even a superuser changes nothing of others, by no way that is on record.
BEGIN;
SELECT apikeys.begin_for('acme');
SAVEPOINT a;
UPDATE apikeys.key SET alias = 'x' WHERE key_id = id_of('theirs');
ROLLBACK TO a;
UPDATE apikeys.plan SET max_keys = 1;
ROLLBACK TO a;
SELECT apikeys.create_tier('silver', 7);
ROLLBACK TO a;
SELECT apikeys.create_account('other');
ROLLBACK TO a;
SELECT role FROM apikeys.add_member('regress_clerk', 'acme');
ROLLBACK TO a;
SELECT apikeys.find_key('rival', 'theirs');
ROLLBACK;

-- A key: the transaction acts for it once it is admitted.
SET SESSION AUTHORIZATION regress_checker;
BEGIN;
SELECT allowed, code FROM apikeys.begin_as('ak_nonsense', metered => false);
SELECT * FROM acting;
SELECT allowed, code FROM apikeys.begin_as(key_of('app'), scopes => '{orders:delete}', metered => false);
SELECT allowed, code, account, key_id = id_of('app') AS key FROM apikeys.begin_as(key_of('app'), metered => false);
SELECT * FROM acting;
SELECT account, alias, scopes FROM apikeys.my_key();
SELECT * FROM apikeys.my_limits();
SELECT sum(units) FROM apikeys.my_usage(now() - interval '1 day', now(), '1 day');
SELECT count(*) FROM apikeys.key_list;
ROLLBACK;
SELECT apikeys.my_limits();
SELECT apikeys.my_usage(now() - interval '1 day', now(), '1 day');
SELECT apikeys.begin_for('acme');

-- A key reads its account, and changes it only with apikeys:manage, given by the provider or where the plan allows.
RESET SESSION AUTHORIZATION;
SELECT alias FROM apikeys.create_key('free', scopes => '{apikeys:manage}');
SELECT alias FROM apikeys.create_key('free', scopes => '{apikeys:admin}');
SET SESSION AUTHORIZATION regress_portal_login;
BEGIN;
SELECT apikeys.begin_for('free');
SELECT alias FROM apikeys.create_key('free', scopes => '{apikeys:manage}');
ROLLBACK;
BEGIN;
SELECT apikeys.begin_for('acme');
SAVEPOINT a;
SELECT alias FROM apikeys.create_key('acme', scopes => '{apikeys:manage}');
ROLLBACK TO a;
UPDATE apikeys.key SET scopes = scopes || 'apikeys:manage'::text WHERE alias = 'app';
ROLLBACK TO a;
UPDATE apikeys.key SET scopes = scopes || 'orders:list'::text WHERE alias = 'terraform';
ROLLBACK;
BEGIN;
SELECT allowed FROM apikeys.begin_as(key_of('app'), metered => false);
SELECT alias FROM apikeys.key_list ORDER BY 1;
UPDATE apikeys.key SET alias = 'x';
SELECT apikeys.deactivate_key(id_of('app'));
ROLLBACK;
-- What it makes, rotates, activates or extends is good for no more than itself.
CREATE FUNCTION public.outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    rows bigint;
BEGIN
    EXECUTE statement;
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows || ' rows';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
        RETURN concat_ws(': ', SQLSTATE, SQLERRM, nullif(detail, ''));
END
$$;
BEGIN;
SELECT allowed FROM apikeys.begin_as(key_of('terraform'), ip => '192.0.2.9', product => 'maps', origin => 'https://a.example', metered => false);
SELECT statement, public.outcome(CASE WHEN statement ~ '^[A-Z]' THEN statement ELSE
    format('SELECT apikeys.create_key(''acme'', %s)', replace(statement, 'ALL', $$products => '{maps}', allowed_ips => '{192.0.2.0/25}', allowed_domains => '{a.example}', expires_at => '2998-01-01'$$)) END)
FROM (VALUES
    ('scopes => ''{orders:read}'', ALL'), ('scopes => ''{orders:read,orders:write}'', ALL'), ('scopes => ''{apikeys:manage}'', ALL'),
    ('products => ''{maps}'', allowed_ips => ''{192.0.2.0/25}'', allowed_domains => ''{a.example}'''),
    ('products => ''{maps}'', allowed_ips => ''{192.0.2.0/25}'', allowed_domains => ''{a.example}'', expires_at => ''2999-01-02'''),
    ('allowed_ips => ''{192.0.2.0/25}'', allowed_domains => ''{a.example}'', expires_at => ''2998-01-01'''),
    ('products => ''{maps,routes}'', allowed_ips => ''{192.0.2.0/25}'', allowed_domains => ''{a.example}'', expires_at => ''2998-01-01'''),
    ('products => ''{maps}'', allowed_ips => ''{192.0.0.0/16}'', allowed_domains => ''{a.example}'', expires_at => ''2998-01-01'''),
    ('products => ''{maps}'', allowed_domains => ''{a.example}'', expires_at => ''2998-01-01'''),
    ('products => ''{maps}'', allowed_ips => ''{192.0.2.0/25}'', allowed_domains => ''{c.example}'', expires_at => ''2998-01-01'''),
    ('SELECT apikeys.rotate_key(id_of(''app''))'), ('SELECT apikeys.rotate_key(id_of(''terraform''))'), ('SELECT apikeys.deactivate_key(id_of(''app''))'),
    ('SELECT apikeys.activate_key(id_of(''app''))'), ('UPDATE apikeys.key SET alias = ''shop'' WHERE alias = ''app'''),
    ('UPDATE apikeys.key SET expires_at = NULL WHERE alias = ''terraform'''), ('UPDATE apikeys.key SET scopes = scopes || ''orders:list''::text WHERE alias = ''terraform'''),
    ('UPDATE apikeys.key SET scopes = ''{orders:read}'' WHERE alias = ''shop'''), ('UPDATE apikeys.key SET allowed_ips = ''{}'' WHERE alias = ''terraform'''),
    ('SELECT apikeys.assign_product(id_of(''app''), ''routes'')'), ('SELECT apikeys.assign_product(id_of(''terraform''), ''routes'')'),
    ('SELECT apikeys.find_key(''rival'', ''theirs'')'), ('SELECT apikeys.begin_for(''rival'')')
) AS s (statement);
SELECT via, actor = concat('key:', apikeys.current_key_id()) AS itself, action, object, object_id = apikeys.current_key_id()::text AS own, new ->> 'created_by' = concat('key:', apikeys.current_key_id()) AS made_by_it
FROM apikeys.audit_log WHERE via = 'key' ORDER BY id;
ROLLBACK;

-- What takes away from another key, it may do to any, in each respect.
RESET SESSION AUTHORIZATION;
SELECT alias FROM apikeys.create_key('acme', 'wide', scopes => '{orders:read,orders:delete}', products => '{maps,routes}', allowed_ips => '{192.0.0.0/16,198.51.100.0/24}',
    allowed_domains => '{a.example,c.example}');
SET SESSION AUTHORIZATION regress_portal_login;
BEGIN;
SELECT allowed FROM apikeys.begin_as(key_of('terraform'), ip => '192.0.2.9', product => 'maps', origin => 'https://a.example', metered => false);
SELECT changes, public.outcome(format('SELECT apikeys.update_key(apikeys.find_key(''acme'', ''wide''), %L)', changes))
FROM (VALUES
    ('{"allowed_ips": ["192.0.2.0/24", "198.51.100.7"]}'), ('{"allowed_ips": ["203.0.113.0/24"]}'), ('{"allowed_ips": []}'),
    ('{"allowed_domains": ["c.example"]}'), ('{"allowed_domains": ["c.example", "d.example"]}'), ('{"allowed_domains": null}'),
    ('{"scopes": ["orders:delete"]}'), ('{"scopes": ["orders:delete", "orders:write"]}'), ('{"expires_at": "2999-06-01T00:00:00Z"}'),
    ('{"expires_at": "infinity"}'), ('{"alias": "narrow", "active": false}')
) AS c (changes);
SELECT public.outcome('SELECT apikeys.activate_key(apikeys.find_key(''acme'', ''narrow''))'), public.outcome('SELECT apikeys.rotate_key(apikeys.find_key(''acme'', ''narrow''))');
ROLLBACK;
-- A key that has deactivated or deleted itself gives nothing any more.
BEGIN;
SELECT allowed FROM apikeys.begin_as(key_of('terraform'), ip => '192.0.2.9', product => 'maps', origin => 'https://a.example', metered => false);
SELECT statement, public.outcome(statement)
FROM (VALUES
    ('SELECT apikeys.deactivate_key(apikeys.current_key_id())'), ('SELECT apikeys.activate_key(apikeys.current_key_id())'),
    ('SELECT apikeys.create_key(''acme'', expires_at => ''2998-01-01'')'), ('SELECT apikeys.assign_product(id_of(''app''), ''maps'')'),
    ('SELECT apikeys.deactivate_key(id_of(''app''))'), ('SELECT apikeys.delete_key(apikeys.current_key_id())'),
    ('SELECT apikeys.create_key(''acme'', expires_at => ''2998-01-01'')'), ('SELECT apikeys.assign_product(id_of(''app''), ''maps'')')
) AS s (statement);
ROLLBACK;

-- By its former text a key is good until the end of the grace, and so is what it makes, before and after it ends the grace itself.
RESET SESSION AUTHORIZATION;
SELECT set_config('test.key_later', c.key, false) <> '' AS rotated FROM apikeys.rotate_key(id_of('terraform'), '1 hour') AS c;
SET SESSION AUTHORIZATION regress_portal_login;
BEGIN;
SELECT allowed FROM apikeys.begin_as(key_of('terraform'), ip => '192.0.2.9', product => 'maps', origin => 'https://a.example', metered => false);
SELECT statement, public.outcome(replace(statement, 'ALL', $$'acme', products => '{maps}', allowed_ips => '{192.0.2.0/25}', allowed_domains => '{a.example}'$$))
FROM (VALUES
    ('SELECT apikeys.create_key(ALL, lifetime => ''59 minutes'')'), ('SELECT apikeys.create_key(ALL, lifetime => ''61 minutes'')'),
    ('SELECT apikeys.rotate_key(id_of(''terraform''))'), ('SELECT apikeys.rotate_key(id_of(''terraform''), ''1 day'')'),
    ('SELECT apikeys.end_grace(id_of(''terraform''))'),
    ('SELECT apikeys.create_key(ALL, lifetime => ''59 minutes'')'), ('SELECT apikeys.rotate_key(id_of(''terraform''))')
) AS s (statement);
ROLLBACK;
BEGIN;
SELECT allowed FROM apikeys.begin_as(key_of('later'), ip => '192.0.2.9', product => 'maps', origin => 'https://a.example', metered => false);
SELECT public.outcome('SELECT apikeys.rotate_key(id_of(''terraform''))');
ROLLBACK;

-- Nobody acts within a security-restricted operation.
RESET SESSION AUTHORIZATION;
GRANT regress_portal_login TO regress_boss;
CREATE FUNCTION public.begin_in_index(account text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN apikeys.begin_for(account); END $$;
CREATE TABLE trap (account text);
INSERT INTO trap VALUES ('acme');
CREATE INDEX ON trap (begin_in_index(account));
CREATE FUNCTION public.who_in_index(account text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN coalesce(apikeys.current_account(), 'nobody'); END $$;
BEGIN;
SELECT apikeys.begin_for('acme');
CREATE INDEX trap_who ON trap (who_in_index(account));
SET LOCAL enable_seqscan = off;
-- The index knows the row as nobody's; the result is computed anew.
SELECT who_in_index(account) FROM trap WHERE who_in_index(account) = 'nobody';
ROLLBACK;

DROP TABLE trap;
DROP VIEW acting;
DROP PROCEDURE public.twice;
DROP FUNCTION public.outcome, public.begin_in_index, public.who_in_index, key_of, id_of;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
DROP ROLE regress_portal_login, regress_checker, regress_boss, regress_clerk, regress_both, regress_bound_portal,
    regress_super, regress_unheld, regress_may_rise, regress_may_see;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
DELETE FROM apikeys.product;
