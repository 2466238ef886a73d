-- Erasure of an account's personal data: nothing of it is left in any table, nothing else is lost, nobody else concerned.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never
SET jit = off;
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;
-- In which tables a text is found.
CREATE FUNCTION pg_temp.found_in(needle text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    relation regclass;
    hits bigint;
    result text := '';
BEGIN
    FOR relation IN SELECT oid FROM pg_class WHERE relnamespace = 'apikeys'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname LOOP
        EXECUTE format('SELECT count(*) FROM %s AS t WHERE t::text ILIKE %L', relation, '%' || needle || '%') INTO hits;
        IF hits > 0 THEN
            result := result || format('%s: %s ', relation, hits);
        END IF;
    END LOOP;
    RETURN result;
END
$$;

-- Two accounts that are full of a person's data, in all that is ever stored.
SELECT name FROM apikeys.create_tier('gold', 1, '10/day');
CREATE FUNCTION pg_temp.fill(account text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    main bigint;
    gone bigint;
    asked bigint;
BEGIN
    PERFORM apikeys.create_account(account, display_name => 'Zoenova Doe', contact => 'zoenova@doe.example', metadata => '{"mother": "Zoenova sen."}');
    UPDATE apikeys.account SET display_name = 'Zoenova X. Doe', metadata = '{}' WHERE name = fill.account;
    main := (apikeys.create_key(account, 'zoenova''s laptop', allowed_domains => '{zoenova.example}', allowed_ips => '{192.0.2.77}', metadata => '{"of": "Zoenova"}', limits => '1/day')).key_id;
    UPDATE apikeys.key SET alias = 'Zoes laptop', allowed_ips = '{192.0.2.77,2001:db8::2077}', metadata = '{"of": "Zoenova D."}' WHERE key_id = main;
    PERFORM apikeys.suspend_key(main, 'Zoenova did not pay');
    PERFORM apikeys.grant_units(main, 'day', 5, '2099-01-01', 'Zoenova asked');
    PERFORM apikeys.create_key(account, 'plain');
    gone := (apikeys.create_key(account, 'zoenova gone', limits => '1/day')).key_id;
    PERFORM apikeys.grant_units(gone, 'day', 5, '2099-01-01', 'Zoenova asked before she went');
    PERFORM apikeys.request_upgrade(gone, 'gold', 'Zoenova is gone');
    PERFORM apikeys.delete_key(gone);
    asked := (apikeys.request_upgrade(main, 'gold', 'Zoenova needs it', project => 'Zoes', purpose => 'Zoe')).id;
    PERFORM apikeys.decline_upgrade(asked, 'Zoe, no');
    asked := (apikeys.request_upgrade(main, 'gold', 'Zoenova needs it still', project_kind => 'app')).id;
    PERFORM apikeys.ask_upgrade(asked, 'Zoe, why?');
    PERFORM apikeys.answer_upgrade(asked, 'I am Zoe');
    INSERT INTO apikeys.notice (kind, key_id, account_id, details) SELECT 'created', main, a.account_id, '{"alias": "Zoes laptop"}' FROM apikeys.account AS a WHERE a.name = fill.account;
    INSERT INTO apikeys.notice (kind, account_id, details) SELECT 'upgrade', a.account_id, '{"by": "Zoenova"}' FROM apikeys.account AS a WHERE a.name = fill.account;
    INSERT INTO apikeys.request_log (at, key_id, account_id, request_id, code, status, ip, cost, category, completed)
    SELECT '2020-02-02 00:00+00', k.key_id, k.account_id, gen_random_uuid(), 'valid', 200, '192.0.2.77', 1, k.category, false FROM apikeys.key AS k WHERE k.key_id = main;
    INSERT INTO apikeys.quarantine (reason, event) SELECT 'poison', to_jsonb(l) FROM apikeys.request_log AS l WHERE l.key_id = main;
END
$$;
CREATE TABLE apikeys.request_log_20200202 (LIKE apikeys.request_log INCLUDING ALL);
ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.request_log_20200202 FOR VALUES FROM ('2020-02-02 00:00+00') TO ('2020-02-03 00:00+00');
SELECT coalesce(max(id), 0) AS start FROM apikeys.audit_log \gset
DELETE FROM apikeys.notice;
SELECT FROM pg_temp.fill('u1');
CREATE TEMP TABLE before AS
SELECT 'log' AS what, count(*) FROM apikeys.request_log
UNION ALL SELECT 'upgrades', count(*) FROM apikeys.upgrade_request;
SELECT text, pg_temp.found_in(text) <> '' AS found FROM (VALUES ('zoenova'), ('192.0.2.77'), ('2001:db8::2077')) AS t(text);

CREATE ROLE regress_clerk IN ROLE apikeys_manager;
SELECT f.code FROM (VALUES
    (1, $$SELECT apikeys.erase_account_data('nobody')$$), (2, $$SELECT apikeys.erase_account_data(NULL)$$),
    (3, $$SET ROLE regress_clerk; SELECT apikeys.erase_account_data('u1')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
DROP ROLE regress_clerk;

SELECT name, display_name, contact, active, metadata FROM apikeys.erase_account_data('u1');
SELECT text, pg_temp.found_in(text) FROM (VALUES ('zoenova'), ('192.0.2.77'), ('2001:db8::2077')) AS t(text);
-- What is left, and is as many as before.
SELECT alias = key_id::text AS alias, state, category, limits FROM apikeys.key_list WHERE account = 'u1' ORDER BY key_id;
SELECT tier, state, motivation, project, project_kind, question, answer, note, decided_by = SESSION_USER AS mine FROM apikeys.upgrade_list WHERE account = 'u1' ORDER BY id;
SELECT kind, details FROM apikeys.notice ORDER BY id;
SELECT at AT TIME ZONE 'UTC' AS at, code, status, ip, category FROM apikeys.request_log;
SELECT b.what FROM before AS b
WHERE b.count <> CASE b.what WHEN 'log' THEN (SELECT count(*) FROM apikeys.request_log) ELSE (SELECT count(*) FROM apikeys.upgrade_request) END;
SELECT object, action, (SELECT string_agg(n.key, ' ' ORDER BY n.key) FROM jsonb_each(coalesce(new, old)) AS n WHERE n.value = 'null') AS erased
FROM apikeys.audit_log WHERE id > :start AND account_id IS NOT NULL ORDER BY id;

-- Again: nothing more; and nothing of another account.
SELECT FROM pg_temp.fill('u2');
SELECT pg_temp.found_in('zoenova') AS before \gset
SELECT name, active FROM apikeys.erase_account_data('u1');
SELECT pg_temp.found_in('zoenova') = :'before' AS kept;
-- What the audit log lets pass is only this.
SELECT f.code FROM (VALUES
    (1, $$UPDATE apikeys.audit_log SET old = NULL, new = NULL$$), (2, $$UPDATE apikeys.audit_log SET new = apikeys_internal.erased_row(new), actor = 'x'$$),
    (3, $$UPDATE apikeys.audit_log SET new = new || '{"note": "x"}'$$), (4, $$UPDATE apikeys.audit_log SET new = new - 'active'$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
SELECT apikeys_internal.erased_row('{"alias": "x", "note": null, "active": true, "account_id": 5}'), apikeys_internal.erased_row('{}'), apikeys_internal.erased_row(NULL);
SELECT name, active FROM apikeys.erase_account_data('u2');
SELECT pg_temp.found_in('zoenova');
-- An alias that is another key's number.
SELECT key_id AS one FROM apikeys.create_key('u3', 'zoenova') \gset
SELECT count(*) FROM apikeys.create_key('u3', :'one');
SELECT name FROM apikeys.erase_account_data('u3');
SELECT count(*), bool_and(starts_with(alias, key_id::text)) AS erased FROM apikeys.key_list WHERE account = 'u3';

DROP TABLE apikeys.request_log_20200202;
DELETE FROM apikeys.notice;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
