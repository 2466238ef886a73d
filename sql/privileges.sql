-- Who may do what: every object, role and action; then what each role meets when it tries more.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never
CREATE ROLE regress_verifier IN ROLE apikeys_verifier;
CREATE ROLE regress_manager IN ROLE apikeys_manager;
CREATE ROLE regress_bound IN ROLE apikeys_manager;
CREATE ROLE regress_portal IN ROLE apikeys_portal;
CREATE ROLE regress_staff IN ROLE apikeys_staff;
CREATE ROLE regress_admin IN ROLE apikeys_admin;
CREATE ROLE regress_auditor IN ROLE apikeys_auditor;
CREATE ROLE regress_nobody;

-- The roles' columns show what each may do; regress_nobody has what PUBLIC has.
CREATE FUNCTION pg_temp.letters(role text, relation oid, col smallint) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(p.letter, '' ORDER BY p.n), '')
    FROM (VALUES (1, 'r', 'SELECT'), (2, 'a', 'INSERT'), (3, 'w', 'UPDATE'), (4, 'd', 'DELETE'), (5, 'D', 'TRUNCATE'), (6, 'x', 'REFERENCES'),
                 (7, 't', 'TRIGGER')) AS p(n, letter, name)
    WHERE CASE WHEN col IS NULL THEN has_table_privilege(role, relation, p.name)
               WHEN p.letter IN ('r', 'a', 'w', 'x') THEN has_column_privilege(role, relation, col, p.name) END
$$;
CREATE TEMP VIEW relations AS
SELECT c.oid, c.relname, c.relkind FROM pg_class AS c WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f');
SELECT relname, pg_temp.letters('regress_verifier', oid, NULL) AS verifier, pg_temp.letters('regress_manager', oid, NULL) AS manager,
       pg_temp.letters('regress_portal', oid, NULL) AS portal, pg_temp.letters('regress_staff', oid, NULL) AS staff, pg_temp.letters('regress_admin', oid, NULL) AS admin, pg_temp.letters('regress_auditor', oid, NULL) AS auditor,
       pg_temp.letters('regress_nobody', oid, NULL) AS nobody
FROM relations ORDER BY relname COLLATE "C";

-- Columns of the tables where they differ.
SELECT r.relname, a.attname, c.verifier, c.manager, c.portal, c.staff, c.admin, c.auditor, c.nobody
FROM relations AS r JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped,
     LATERAL (SELECT pg_temp.letters('regress_verifier', r.oid, a.attnum) AS verifier, pg_temp.letters('regress_manager', r.oid, a.attnum) AS manager,
                     pg_temp.letters('regress_portal', r.oid, a.attnum) AS portal, pg_temp.letters('regress_staff', r.oid, a.attnum) AS staff, pg_temp.letters('regress_admin', r.oid, a.attnum) AS admin, pg_temp.letters('regress_auditor', r.oid, a.attnum) AS auditor,
                     pg_temp.letters('regress_nobody', r.oid, a.attnum) AS nobody) AS c
WHERE EXISTS (SELECT FROM pg_attribute AS g WHERE g.attrelid = r.oid AND g.attacl IS NOT NULL)
ORDER BY r.relname COLLATE "C", a.attname COLLATE "C";

-- Sequences: none for anybody.
SELECT c.relname, r.role FROM pg_class AS c, (VALUES ('regress_verifier'), ('regress_manager'), ('regress_portal'), ('regress_staff'), ('regress_admin'), ('regress_auditor'), ('regress_nobody')) AS r(role)
WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(r.role, c.oid, 'USAGE, SELECT, UPDATE');

-- Functions: those of apikeys, without the name of the schema, and those of apikeys_internal.
SELECT replace(p.oid::regprocedure::text, 'apikeys.', '') COLLATE "C" AS function,
       CASE WHEN has_function_privilege('regress_verifier', p.oid, 'EXECUTE') THEN 'X' ELSE '' END AS verifier,
       CASE WHEN has_function_privilege('regress_manager', p.oid, 'EXECUTE') THEN 'X' ELSE '' END AS manager,
       CASE WHEN has_function_privilege('regress_portal', p.oid, 'EXECUTE') THEN 'X' ELSE '' END AS portal,
       CASE WHEN has_function_privilege('regress_staff', p.oid, 'EXECUTE') THEN 'X' ELSE '' END AS staff,
       CASE WHEN has_function_privilege('regress_admin', p.oid, 'EXECUTE') THEN 'X' ELSE '' END AS admin,
       CASE WHEN has_function_privilege('regress_auditor', p.oid, 'EXECUTE') THEN 'X' ELSE '' END AS auditor,
       CASE WHEN has_function_privilege('regress_nobody', p.oid, 'EXECUTE') THEN 'X' ELSE '' END AS nobody
FROM pg_proc AS p WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace) ORDER BY 1;

-- Each function of apikeys is for somebody to call; repair_guards for superusers and owners alone.
SELECT p.oid::regprocedure AS for_nobody FROM pg_proc AS p
WHERE p.pronamespace = 'apikeys'::regnamespace AND NOT EXISTS (
    SELECT FROM unnest('{apikeys_verifier,apikeys_manager,apikeys_portal,apikeys_staff,apikeys_admin,apikeys_auditor}'::text[]) AS r (role) WHERE has_function_privilege(r.role, p.oid, 'EXECUTE'));

-- The schemas, and the types.
SELECT r.role, has_schema_privilege(r.role, 'apikeys', 'USAGE') AS usage, has_schema_privilege(r.role, 'apikeys', 'CREATE') AS make,
       has_schema_privilege(r.role, 'apikeys_internal', 'USAGE, CREATE') AS internal,
       (SELECT string_agg(t.typname, ' ' ORDER BY t.typname COLLATE "C") FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
        WHERE t.typnamespace = 'apikeys'::regnamespace AND t.typelem = 0 AND coalesce(c.relkind, 'c') = 'c' AND has_type_privilege(r.role, t.oid, 'USAGE')) AS types
FROM (VALUES (1, 'regress_verifier'), (2, 'regress_manager'), (3, 'regress_portal'), (4, 'regress_staff'), (5, 'regress_admin'), (6, 'regress_auditor'), (7, 'regress_nobody')) AS r(n, role) ORDER BY n;

-- Nothing else is granted to anybody, and nobody may pass on what he has.
SELECT g.object, a.grantee::regrole, a.privilege_type, a.is_grantable
FROM (SELECT c.oid::regclass::text, c.relacl, c.relowner FROM pg_class AS c WHERE c.relnamespace = 'apikeys'::regnamespace
      UNION ALL SELECT p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner FROM pg_proc AS p WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace)
      UNION ALL SELECT n.nspname, n.nspacl, n.nspowner FROM pg_namespace AS n WHERE n.nspname IN ('apikeys', 'apikeys_internal')) AS g(object, acl, owner),
     aclexplode(g.acl) AS a
WHERE a.grantee <> g.owner AND (a.is_grantable OR a.grantee = 0 OR a.grantee::regrole::text NOT IN ('apikeys_verifier', 'apikeys_manager', 'apikeys_portal', 'apikeys_staff', 'apikeys_admin', 'apikeys_auditor', 'apikeys_scanner'));

--
-- What a catalog can tell of traps
--
-- Functions with others' rights, or in a language that looks names up as it runs, must have their search_path set. Helpers in SQL that
-- nobody else may call have that of the function whose plan they become part of.
SELECT p.oid::regprocedure AS path_not_set FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace) AND (p.prosecdef OR l.lanname = 'plpgsql' OR l.lanname = 'sql' AND p.prosqlbody IS NULL)
  AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
  AND (p.prosecdef OR l.lanname = 'plpgsql' OR EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee <> p.proowner));
-- Views must not let a function in a WHERE clause see the rows that they hide.
SELECT relname AS no_barrier FROM pg_class WHERE relnamespace = 'apikeys'::regnamespace AND relkind = 'v' AND NOT coalesce('security_barrier=true' = ANY (reloptions), false);
-- Where managers may read a table with accounts' rows, policies hide those of others.
SELECT c.relname AS not_hidden FROM pg_class AS c
WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind IN ('r', 'p') AND has_any_column_privilege('apikeys_manager', c.oid, 'SELECT') AND NOT c.relrowsecurity
  AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname IN ('account_id', 'key_id', 'subject_id'));
-- Triggers, policies and rules of ours only.
SELECT t.tgrelid::regclass, t.tgname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE c.relnamespace = 'apikeys'::regnamespace AND NOT t.tgisinternal AND p.pronamespace <> 'apikeys_internal'::regnamespace;

--
-- What each role meets
--
INSERT INTO apikeys.tier VALUES ('bronze', 1, '10/day'), ('gold', 2, '1000/day'), ('idle', 8, '');
INSERT INTO apikeys.product VALUES ('maps');
INSERT INTO apikeys.plan (name) VALUES ('default');
SELECT set_config('regress.acme', key_id::text, false) IS NOT NULL AS made FROM apikeys.create_key('acme', 'ours', products => '{maps}', tier => 'bronze');
SELECT set_config('regress.rival', key_id::text, false) IS NOT NULL AS made FROM apikeys.create_key('rival', 'theirs', products => '{maps}');
CREATE FUNCTION pg_temp.acme() RETURNS bigint LANGUAGE sql AS $$ SELECT current_setting('regress.acme')::bigint $$;
CREATE FUNCTION pg_temp.rival() RETURNS bigint LANGUAGE sql AS $$ SELECT current_setting('regress.rival')::bigint $$;
SELECT set_config('regress.upgrade', id::text, false) IS NOT NULL AS made FROM apikeys.request_upgrade(pg_temp.acme(), 'gold', 'more');
CREATE FUNCTION pg_temp.upgrade() RETURNS bigint LANGUAGE sql AS $$ SELECT current_setting('regress.upgrade')::bigint $$;
-- Two are bound to acme; for a member of apikeys_admin that has no effect.
INSERT INTO apikeys.member SELECT r.role, a.account_id FROM apikeys.account AS a, (VALUES ('regress_bound'), ('regress_admin')) AS r(role) WHERE a.name = 'acme';

CREATE TEMP TABLE attempt (n serial, statement text);
GRANT SELECT ON attempt TO PUBLIC;
INSERT INTO attempt (statement) VALUES
    ('SELECT digest FROM apikeys.key'), ('SELECT previous_digest FROM apikeys.key'), ('SELECT * FROM apikeys.key'), ('SELECT k FROM apikeys.key AS k'),
    ('SELECT FROM apikeys.key WHERE digest OPERATOR(apikeys.=) sha256('''')::apikeys.digest'),
    ('SELECT alias FROM apikeys.key'), ('SELECT * FROM apikeys.key_list'), ('SELECT * FROM apikeys.account'), ('SELECT * FROM apikeys.key_product'),
    ('SELECT * FROM apikeys.plan'), ('SELECT * FROM apikeys.member'), ('SELECT * FROM apikeys.request_log'), ('SELECT * FROM apikeys.usage_total'),
    ('SELECT apikeys.find_key(''acme'', ''ours'')'), ('SELECT apikeys.find_key(''rival'', ''theirs'')'),
    ('SELECT apikeys.get_key(pg_temp.rival())'), ('SELECT apikeys.rotate_key(pg_temp.rival())'), ('SELECT apikeys.update_key(pg_temp.rival(), ''{}'')'),
    ('SELECT apikeys.update_key(pg_temp.acme(), ''{"tier": "gold"}'')'), ('SELECT apikeys.update_account(''acme'', ''{}'')'), ('SELECT apikeys.activate_key(pg_temp.rival())'),
    ('SELECT apikeys.deactivate_key(pg_temp.rival())'), ('SELECT apikeys.delete_key(pg_temp.rival())'),
    ('SELECT apikeys.create_key(''rival'')'), ('SELECT apikeys.create_key(''stranger'')'), ('SELECT apikeys.create_key(''acme'', ''mine'')'),
    ('SELECT apikeys.create_key(''acme'', tier => ''gold'')'), ('SELECT apikeys.create_key(''acme'', limits => '''')'),
    ('SELECT apikeys.import_key(''acme'', ''text'')'), ('SELECT apikeys.create_account(''friend'')'), ('SELECT apikeys.deactivate_account(''rival'')'),
    ('SELECT apikeys.suspend_key(pg_temp.acme(), ''x'')'), ('SELECT apikeys.unsuspend_key(pg_temp.acme())'), ('SELECT apikeys.explain_key(pg_temp.acme())'),
    ('SELECT apikeys.explain_key(pg_temp.rival())'), ('SELECT apikeys.key_limits(pg_temp.acme())'), ('SELECT apikeys.key_limits(pg_temp.rival())'), ('SELECT apikeys.account_limits(''rival'')'),
    ('SELECT apikeys.authenticate(''x'')'), ('SELECT apikeys.key_facts(''x'')'), ('SELECT apikeys.client_address(''x'', ''192.0.2.1'')'), ('SELECT * FROM apikeys.address_block_list'), ('SELECT apikeys.block_address(''192.0.2.1'', ''x'')'),
    ('SELECT apikeys.unblock_address(''192.0.2.1'')'), ('SELECT apikeys_internal.lift_automatic_blocks(''192.0.2.1'')'), ('SELECT apikeys_internal.record_block(''192.0.2.1'', 1, now())'), ('INSERT INTO apikeys.address_block VALUES (''192.0.2.1'', NULL, ''x'')'), ('SELECT * FROM apikeys.address_block'), ('SELECT apikeys_internal.draw_key(''ak'', ''acme'')'), ('SELECT apikeys_internal.digest_of(''x'')'),
    ('SELECT apikeys_internal.add_account(''x'', ''default'', NULL, NULL, NULL, NULL)'),
    ('UPDATE apikeys.key SET alias = alias || ''!'''), ('UPDATE apikeys.key SET category = ''x'', allowed_domains = ''{a.example}'', allowed_ips = ''{10.0.0.0/8}'', metadata = ''{"a": 1}'''),
    ('UPDATE apikeys.key SET alias = ''x'' WHERE key_id = pg_temp.rival()'), ('UPDATE apikeys.key SET limits = ''9/day'''), ('UPDATE apikeys.key SET tier = ''gold'''),
    ('UPDATE apikeys.key SET active = true'), ('UPDATE apikeys.key SET expires_at = NULL'), ('UPDATE apikeys.key SET suspended_at = NULL, suspended_reason = NULL'),
    ('UPDATE apikeys.key SET digest = sha256('''')::apikeys.digest'), ('UPDATE apikeys.key SET account_id = account_id'),
    ('INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias) VALUES (1, 1, sha256('''')::apikeys.digest, '''', '''', ''x'')'),
    ('DELETE FROM apikeys.key'), ('TRUNCATE apikeys.key CASCADE'), ('INSERT INTO apikeys.key_product VALUES (pg_temp.acme(), ''maps'')'),
    ('INSERT INTO apikeys.plan (name) VALUES (''own'')'), ('INSERT INTO apikeys.tier VALUES (''own'', 9, '''')'), ('INSERT INTO apikeys.product VALUES (''own'')'),
    ('INSERT INTO apikeys.member VALUES (''regress_manager'', 1)'), ('INSERT INTO apikeys.upgrade_rule (purpose, reason) VALUES (''x'', ''no'')'), ('UPDATE apikeys.upgrade_rule SET reason = ''no'''), ('UPDATE apikeys.plan SET max_keys = 9'), ('DELETE FROM apikeys.tier WHERE name = ''idle'''),
    ('UPDATE apikeys.account SET plan = plan'), ('UPDATE apikeys.account SET name = name'), ('INSERT INTO apikeys.account (name, plan) VALUES (''x'', ''default'')'),
    ('DELETE FROM apikeys.member'), ('INSERT INTO apikeys.usage_total VALUES (''k'', 1, 1, 1, 1, 1, 1, now(), now())'), ('DELETE FROM apikeys.audit_log'),
    ('UPDATE apikeys.account SET limits = NULL'), ('UPDATE apikeys.tier SET limits = ''9/day'''), ('SELECT apikeys.create_tier(''platinum'', 9)'),
    ('SELECT apikeys.create_plan(''mine'')'), ('SELECT apikeys.change_plan(''acme'', ''default'')'), ('SELECT apikeys.add_member(''regress_manager'', ''acme'')'),
    ('SELECT apikeys.remove_member(''regress_bound'', ''acme'')'), ('SELECT apikeys.reset_usage(pg_temp.acme(), ''day'')'), ('SELECT apikeys.reset_account_usage(''acme'')'),
    ('SELECT apikeys.grant_units(pg_temp.acme(), ''day'', 9, ''2999-01-01'')'), ('SELECT apikeys.grant_account_units(''acme'', ''day'', 9, ''2999-01-01'')'),
    ('INSERT INTO apikeys.adjustment (subject, subject_id, limit_window, units, until) VALUES (''k'', 1, ''day'', 9, ''2999-01-01'')'),
    ('SELECT apikeys.approve_upgrade(pg_temp.upgrade())'), ('SELECT apikeys.decline_upgrade(pg_temp.upgrade(), ''no'')'), ('SELECT apikeys.ask_upgrade(pg_temp.upgrade(), ''why?'')'),
    ('SELECT apikeys.withdraw_upgrade(pg_temp.upgrade())'), ('SELECT apikeys_internal.close_upgrade(pg_temp.upgrade(), ''approved'', ''me'', NULL)'),
    ('UPDATE apikeys.upgrade_request SET state = ''approved'''), ('INSERT INTO apikeys.upgrade_request (key_id, tier, motivation, due_at) VALUES (pg_temp.acme(), ''gold'', ''x'', now())'),
    ('DELETE FROM apikeys.upgrade_rule'), ('SELECT apikeys.erase_account_data(''acme'')'), ('SELECT apikeys_internal.add_notice(''x'', NULL, NULL, ''{}'')'), ('DELETE FROM apikeys.notice'),
    ('SELECT nextval(''apikeys.key_number_seq'')'), ('CREATE TABLE apikeys.x ()'), ('CREATE TRIGGER x BEFORE DELETE ON apikeys.key EXECUTE FUNCTION apikeys_internal.rules_changed()');

-- Each attempt of each role, undone at once: the number of rows, or the SQLSTATE.
CREATE TEMP TABLE outcome (role text, n int, result text);
GRANT INSERT ON outcome TO PUBLIC;
CREATE PROCEDURE pg_temp.try_all(who text = SESSION_USER) LANGUAGE plpgsql AS $$
DECLARE
    attempted record;
    rows bigint;
    result text;
BEGIN
    FOR attempted IN SELECT * FROM attempt ORDER BY n LOOP
        BEGIN
            EXECUTE attempted.statement;
            GET DIAGNOSTICS rows = ROW_COUNT;
            RAISE SQLSTATE '00UND';
        EXCEPTION
            WHEN SQLSTATE '00UND' THEN result := rows || ' rows';
            WHEN OTHERS THEN result := SQLSTATE;
        END;
        INSERT INTO outcome VALUES (who, attempted.n, result);
    END LOOP;
END
$$;
SET SESSION AUTHORIZATION regress_verifier;
CALL pg_temp.try_all();
SET SESSION AUTHORIZATION regress_bound;
CALL pg_temp.try_all();
SET SESSION AUTHORIZATION regress_manager;
CALL pg_temp.try_all();
SET SESSION AUTHORIZATION regress_portal;
CALL pg_temp.try_all();
BEGIN;
SELECT apikeys.begin_for('acme');
CALL pg_temp.try_all('acting for acme');
COMMIT;
SET SESSION AUTHORIZATION regress_staff;
CALL pg_temp.try_all();
SET SESSION AUTHORIZATION regress_admin;
CALL pg_temp.try_all();
SET SESSION AUTHORIZATION regress_auditor;
CALL pg_temp.try_all();
SET SESSION AUTHORIZATION regress_nobody;
CALL pg_temp.try_all();
RESET SESSION AUTHORIZATION;
SELECT a.statement, max(result) FILTER (WHERE role = 'regress_verifier') AS verifier, max(result) FILTER (WHERE role = 'regress_bound') AS bound,
       max(result) FILTER (WHERE role = 'regress_manager') AS manager, max(result) FILTER (WHERE role = 'regress_portal') AS portal,
       max(result) FILTER (WHERE role = 'acting for acme') AS acting, max(result) FILTER (WHERE role = 'regress_staff') AS staff, max(result) FILTER (WHERE role = 'regress_admin') AS admin,
       max(result) FILTER (WHERE role = 'regress_auditor') AS auditor, max(result) FILTER (WHERE role = 'regress_nobody') AS nobody
FROM outcome AS o JOIN attempt AS a USING (n) GROUP BY a.n, a.statement ORDER BY a.n;

SELECT state FROM apikeys.withdraw_upgrade(pg_temp.upgrade());

-- An owner edits what is his as the plan allows, and comes by no other way to a higher tier, higher limits or out of a suspension.
CREATE FUNCTION pg_temp.outcome_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    rows bigint;
BEGIN
    EXECUTE statement;
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows || ' rows';
EXCEPTION
    WHEN OTHERS THEN RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;
BEGIN;
UPDATE apikeys.plan SET max_keys = 2, max_lifetime = '90 days', default_lifetime = '30 days', default_tier = 'bronze', billing_types = '{free,paying}';
SELECT alias FROM apikeys.create_key('acme', 'spare');
SELECT state FROM apikeys.deactivate_key(apikeys.find_key('acme', 'spare'));
SET SESSION AUTHORIZATION regress_bound;
SELECT alias FROM apikeys.create_key('acme', 'own');
SELECT tier, limits FROM apikeys.key_list WHERE alias = 'own';
SELECT n, pg_temp.outcome_of(replace(statement, 'KEY', 'key_id = apikeys.find_key(''acme'', ''own'')')) AS outcome FROM (VALUES
    (1, 'UPDATE apikeys.key SET expires_at = clock_timestamp() + ''89 days'' WHERE KEY'),
    (2, 'UPDATE apikeys.key SET expires_at = clock_timestamp() + ''91 days'' WHERE KEY'),
    (3, 'UPDATE apikeys.key SET expires_at = NULL WHERE KEY'),
    (4, 'UPDATE apikeys.key SET active = true WHERE alias = ''spare'''),
    (5, 'UPDATE apikeys.key SET active = false WHERE KEY'),
    (6, 'UPDATE apikeys.key SET active = true WHERE KEY'),
    (7, 'UPDATE apikeys.key SET alias = ''spare'' WHERE KEY'),
    (8, 'UPDATE apikeys.key SET billing_type = ''barter'' WHERE KEY'),
    (9, 'UPDATE apikeys.key SET category = ''development'', billing_type = ''free'', scopes = ''{read}'', metadata = ''{"a": 1}'' WHERE KEY'),
    (10, 'UPDATE apikeys.key SET tier = ''gold'' WHERE KEY'),
    (11, 'UPDATE apikeys.key SET limits = ''9/second'' WHERE KEY'),
    (12, 'SELECT apikeys.create_key(''acme'', limits => ''9/second'')'),
    (13, 'SELECT apikeys.create_key(''acme'', limits => ''1/day'')'),
    (14, 'SELECT apikeys.create_key(''acme'', tier => ''bronze'')')
) AS t (n, statement) ORDER BY n;
RESET SESSION AUTHORIZATION;
SELECT state FROM apikeys.suspend_key(apikeys.find_key('acme', 'own'), 'unpaid');
SET SESSION AUTHORIZATION regress_bound;
SELECT state FROM apikeys.activate_key(apikeys.find_key('acme', 'own'));
SELECT regexp_replace(pg_temp.outcome_of('SELECT apikeys.delete_key(apikeys.find_key(''acme'', ''own''))'), '\d{6,}', 'N') AS outcome;
SELECT alias FROM apikeys.rotate_key(apikeys.find_key('acme', 'own'), lifetime => '90 days');
UPDATE apikeys.key SET active = true, expires_at = expires_at - interval '1 day' WHERE alias = 'own';
SELECT alias, tier, limits, state FROM apikeys.key_list WHERE alias = 'own';
SET SESSION AUTHORIZATION regress_admin;
SELECT alias FROM apikeys.delete_key(apikeys.find_key('acme', 'own'));
RESET SESSION AUTHORIZATION;
ROLLBACK;

-- A bound manager sees acme alone, also with a function that is called before the rows are hidden; as a role without a row, nothing.
SET SESSION AUTHORIZATION regress_bound;
CREATE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'seen: %', $1; RETURN true; END $$;
SELECT account, alias, products FROM apikeys.key_list WHERE pg_temp.peek(alias);
SELECT alias FROM apikeys.key WHERE pg_temp.peek(alias);
SELECT name FROM apikeys.account WHERE pg_temp.peek(name);
-- The function behind a column that managers read guards itself.
RESET SESSION AUTHORIZATION;
GRANT USAGE ON SCHEMA apikeys_internal TO regress_bound;
SET SESSION AUTHORIZATION regress_bound;
SELECT apikeys_internal.limits_used(pg_temp.acme()) AS ours, apikeys_internal.limits_used(pg_temp.rival()) AS theirs, apikeys_internal.limits_used(1) AS none;
RESET SESSION AUTHORIZATION;
REVOKE USAGE ON SCHEMA apikeys_internal FROM regress_bound;
SET SESSION AUTHORIZATION regress_bound;
SELECT key_id = pg_temp.acme() AS ours FROM apikeys.key_product WHERE pg_temp.peek((key_id = pg_temp.rival())::text);
SET ROLE apikeys_manager;
SELECT account FROM apikeys.key_list;
SELECT alias FROM apikeys.key;
RESET ROLE;
RESET SESSION AUTHORIZATION;
-- Who becomes an admin reaches all.
GRANT apikeys_admin TO regress_bound;
SET SESSION AUTHORIZATION regress_bound;
SELECT account FROM apikeys.key_list ORDER BY account;
RESET SESSION AUTHORIZATION;
REVOKE apikeys_admin FROM regress_bound;

--
-- Names that hide ours: nothing of it is called or read
--
CREATE SCHEMA shadow;
CREATE FUNCTION shadow.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
CREATE FUNCTION shadow.refuse_text(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
CREATE FUNCTION shadow.refuse_bigint(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
CREATE FUNCTION shadow.octet_length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
CREATE FUNCTION shadow.concat(VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
CREATE FUNCTION shadow.array_position(text[], text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
CREATE FUNCTION shadow.pg_has_role(name, text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION shadow.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$;
CREATE OPERATOR shadow.= (LEFTARG = text, RIGHTARG = text, FUNCTION = shadow.refuse_text);
CREATE OPERATOR shadow.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = shadow.refuse_text);
CREATE OPERATOR shadow.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = shadow.refuse_bigint);
CREATE OPERATOR shadow.<> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = shadow.refuse_bigint);
GRANT USAGE ON SCHEMA shadow TO PUBLIC;
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT relname FROM relations ORDER BY relname LOOP
        EXECUTE format('CREATE TEMP TABLE %1$I (LIKE apikeys.%1$I)', name);
        EXECUTE format('CREATE TRIGGER shadowed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON pg_temp.%I EXECUTE FUNCTION shadow.refuse()', name);
    END LOOP;
END
$$;
SET search_path = shadow, pg_temp, pg_catalog;
SELECT 1::bigint = 1::bigint;  -- it hides indeed
SELECT a.name FROM apikeys.create_account('shadowy') AS a;
SELECT a.active FROM apikeys.deactivate_account('shadowy') AS a;
SELECT a.active FROM apikeys.activate_account('shadowy') AS a;
SELECT k.alias FROM apikeys.create_key('shadowy', tier => 'bronze', products => '{maps}', allowed_domains => '{a.example}', allowed_ips => '{10.0.0.0/8}', scopes => '{s}') AS k;
SELECT k.alias, k.hint FROM apikeys.import_key('shadowy', 'shadowy', lifetime => '1 day') AS k;
SELECT k.alias FROM apikeys.rotate_key(apikeys.find_key('shadowy', 'key-2'), grace => '1 day', lifetime => '30 days') AS k;
SELECT k.state FROM apikeys.deactivate_key(apikeys.find_key('shadowy', 'key-2')) AS k;
SELECT k.state FROM apikeys.activate_key(apikeys.find_key('shadowy', 'key-2')) AS k;
SELECT k.state FROM apikeys.suspend_key(apikeys.find_key('shadowy', 'key-2'), 'x') AS k;
SELECT k.state FROM apikeys.unsuspend_key(apikeys.find_key('shadowy', 'key-2')) AS k;
SELECT c.name FROM apikeys.create_product('routes') AS c;
SELECT c.name FROM apikeys.create_tier('lead', 0, '1/day') AS c;
SELECT c.name FROM apikeys.create_plan('other', one_key_per_product => true) AS c;
SELECT m.role FROM apikeys.add_member('regress_manager', 'shadowy') AS m;
SELECT m.role FROM apikeys.remove_member('regress_manager', 'shadowy') AS m;
SELECT k.products FROM apikeys.assign_product(apikeys.find_key('shadowy', 'key-2'), 'routes') AS k;
SELECT k.products FROM apikeys.assign_product(apikeys.find_key('shadowy', 'key-2'), 'maps') AS k;
SELECT c.alias, c.rule FROM apikeys.change_plan('shadowy', 'other', true) AS c;
SELECT k.products FROM apikeys.unassign_product(apikeys.find_key('shadowy', 'key-2'), 'maps') AS k;
SELECT c.alias FROM apikeys.change_plan('shadowy', 'other') AS c;
SELECT u.reason FROM apikeys.create_upgrade_rule('no', purpose => 'bad') AS u;
SELECT u.state FROM apikeys.request_upgrade(apikeys.find_key('shadowy', 'key-1'), 'gold', 'more', purpose => 'bad') AS u;
SELECT u.state FROM apikeys.request_upgrade(apikeys.find_key('shadowy', 'key-1'), limits => '20/day', motivation => 'more') AS u;
SELECT u.state FROM apikeys.upgrade_queue AS q, apikeys.ask_upgrade(q.id, 'why?') AS u;
SELECT u.state FROM apikeys.upgrade_queue AS q, apikeys.answer_upgrade(q.id, 'so') AS u;
SELECT u.state FROM apikeys.upgrade_queue AS q, apikeys.approve_upgrade(q.id) AS u;
DELETE FROM apikeys.upgrade_rule;
UPDATE apikeys.key SET tier = 'gold', expires_at = NULL;
SELECT k.alias FROM apikeys.delete_key(apikeys.find_key('shadowy', 'key-2')) AS k;
SELECT k.code FROM apikeys.authenticate('shadowy') AS k;
SET SESSION AUTHORIZATION regress_bound;
SELECT k.alias FROM apikeys.create_key('acme') AS k;
SELECT k.alias FROM apikeys.create_key('rival') AS k;
SELECT k.account, k.alias FROM apikeys.key_list AS k ORDER BY 1, 2;
UPDATE apikeys.key SET category = 'seen';
RESET SESSION AUTHORIZATION;
RESET search_path;
SELECT account, alias, category FROM apikeys.key_list ORDER BY account, alias;

DISCARD TEMP;
SET client_min_messages = warning;
DROP SCHEMA shadow CASCADE;
DELETE FROM apikeys.key;
DELETE FROM apikeys.member;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
DELETE FROM apikeys.product;
DROP ROLE regress_verifier, regress_manager, regress_bound, regress_staff, regress_admin, regress_auditor, regress_nobody;
