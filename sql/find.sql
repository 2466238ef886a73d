-- Finding keys: each member of a filter, pages, what is refused, who finds what, and by which index.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT hint text, OUT place text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
    about text;
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, relation = TABLE_NAME, about = COLUMN_NAME;
        message := regexp_replace(message, 'key \d{3,}', 'key <id>');
        place := concat_ws(' ', nullif(relation, ''), nullif(about, ''));
END
$$;
CREATE FUNCTION pg_temp.found(filter jsonb, after bigint = NULL, rows int = 50) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(concat(f.account, '/', f.alias), ', ' ORDER BY f.ordinality) FROM apikeys.find_keys(filter, after, rows) WITH ORDINALITY AS f $$;
-- All that is found, page by page.
CREATE FUNCTION pg_temp.paged(filter jsonb, rows int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    after bigint;
    page  text;
    pages text[] := '{}';
BEGIN
    LOOP
        SELECT string_agg(f.alias, ' ' ORDER BY f.ordinality), (array_agg(f.key_id ORDER BY f.ordinality DESC))[1] INTO page, after
        FROM apikeys.find_keys(filter, after, rows) WITH ORDINALITY AS f;
        EXIT WHEN page IS NULL OR cardinality(pages) = 20;
        pages := pages || page;
    END LOOP;
    RETURN array_to_string(pages, ' | ');
END
$$;

SELECT name FROM apikeys.create_tier('gold', 2, '1000/day');
SELECT name FROM apikeys.create_product('maps');
SELECT name FROM apikeys.create_account('acme') UNION ALL SELECT name FROM apikeys.create_account('rival');
SELECT alias FROM apikeys.import_key('acme', 'text of web', alias => 'Web shop', tier => 'gold', hint => 'ak_..x7Qz');
SELECT alias FROM apikeys.import_key('acme', 'text of app', alias => 'web app', category => 'staging', hint => 'ak_..0000', products => '{maps}', lifetime => '90 days');
SELECT alias FROM apikeys.import_key('acme', 'text of 50%', alias => '50%_off\', hint => 'ak_..1111', lifetime => '90 days');
SELECT alias FROM apikeys.import_key('acme', 'text of old', alias => 'old', hint => 'old');
SELECT alias FROM apikeys.import_key('rival', 'text of theirs', alias => 'WEBSITE', hint => 'live_..x7Qz', lifetime => '30 days');
SELECT alias FROM apikeys.import_key('rival', 'text of soon', alias => 'soon', hint => '', lifetime => '5 days');
SELECT alias FROM apikeys.import_key('rival', 'text of bad', alias => 'bad', hint => 'b');
SELECT state FROM apikeys.suspend_key(apikeys.find_key('rival', 'bad'), 'unpaid');
SELECT state FROM apikeys.deactivate_key(apikeys.find_key('acme', 'old'));
SELECT state FROM apikeys.archive_key(apikeys.find_key('acme', 'old'));
-- Made one after the other; the last two at the same time.
SET session_replication_role = replica;
ALTER TABLE apikeys.key DISABLE TRIGGER key_guard_change;
UPDATE apikeys.key SET created_at = timestamptz '2026-01-01 00:00+00' + least(m.place, 6) * interval '1 second'
FROM (SELECT key_id, row_number() OVER (ORDER BY key_id & ((1::bigint << 37) - 1)) AS place FROM apikeys.key) AS m WHERE m.key_id = key.key_id;
UPDATE apikeys.key SET expiry_set_at = '2001-02-03' WHERE alias = 'soon';
ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_change;
RESET session_replication_role;

--
-- What each member finds
--
SELECT t.filter, pg_temp.found(t.filter::jsonb) FROM unnest(ARRAY[
    '{}', '{"account": "acme"}', '{"alias": "WEB"}', '{"alias": "web ", "account": "acme"}', '{"alias": "50%_"}', '{"alias": "50%_off\\"}', '{"alias": "%"}', '{"alias": ""}',
    '{"alias_part": "SHO", "account": "acme"}', '{"alias_part": "_", "account": "acme"}', '{"hint": "x7Qz"}', '{"hint": "x7qz"}', '{"hint": "ak_..x7Qz"}', '{"hint": "b"}', '{"hint": ""}',
    '{"category": "staging"}', '{"category": "none"}', '{"tier": "gold"}', '{"product": "maps"}', '{"archived": true}', '{"archived": false, "account": "acme"}',
    '{"state": "active"}', '{"state": "expiring"}', '{"state": ["expiring", "suspended"]}', '{"state": "suspended"}', '{"state": "archived"}', '{"state": "inactive"}',
    '{"state": ["archived", "suspended"]}', '{"state": ["inactive", "archived"], "archived": false}', '{"state": []}', '{"state": "account_inactive"}', '{"state": "expired"}',
    '{"account": null, "state": null, "sort": null}', '{"sort": "newest"}', '{"sort": "alias"}', '{"sort": "expires_at"}', '{"sort": "alias", "alias": "w", "tier": "gold"}']) AS t (filter);
SELECT pg_temp.found(jsonb_build_object('id', key_id)), pg_temp.found(jsonb_build_object('id', key_id, 'account', 'rival')) AS elsewhere
FROM apikeys.key WHERE alias = 'Web shop';
-- The limits are there, and all the rest.
SELECT alias, state, limits_used IS NOT NULL AS limits_used FROM apikeys.find_keys('{"account": "acme", "sort": "alias"}');
SELECT alias FROM apikeys.find_keys(rows => 2);
SELECT count(*) FROM apikeys.find_keys();
-- The clock decides about states.
SET apikeys.debug_clock_offset = '6d';
SELECT pg_temp.found('{"state": "expired"}') AS expired, pg_temp.found('{"state": "expiring"}') AS expiring;
RESET apikeys.debug_clock_offset;

--
-- Pages
--
-- Equal values over the border of pages: six keys made at the same time, three that differ in case only, four with the same expiry.
SELECT name FROM apikeys.create_account('many');
SELECT k.alias FROM unnest('{b,B,c,C,a,A,d,D}'::text[]) AS a (alias), apikeys.import_key('many', 'text of ' || a.alias, alias => a.alias, hint => 'many') AS k;
SET session_replication_role = replica;
ALTER TABLE apikeys.key DISABLE TRIGGER key_guard_change;
UPDATE apikeys.key SET created_at = timestamptz '2026-01-01 00:00+00' + CASE alias WHEN 'b' THEN '1 s' WHEN 'D' THEN '3 s' ELSE interval '2 s' END,
                       expires_at = CASE WHEN alias IN ('a', 'A', 'B', 'd') THEN '2999-01-01'::timestamptz WHEN alias = 'c' THEN '2998-01-01' END
WHERE hint = 'many';
ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_change;
RESET session_replication_role;
SELECT s.sort, r.rows, pg_temp.paged(jsonb_build_object('account', 'many', 'sort', s.sort), r.rows)
FROM (VALUES (1, 'newest'), (2, 'alias'), (3, 'expires_at')) AS s (place, sort), (VALUES (1), (2), (3), (8), (100)) AS r (rows) ORDER BY s.place, r.rows;
-- The same over all accounts; each key comes once.
SELECT s.sort, count(*), count(DISTINCT a.alias) FROM unnest('{newest,alias,expires_at}'::text[]) AS s (sort),
    LATERAL regexp_split_to_table(replace(pg_temp.paged(jsonb_build_object('sort', s.sort, 'hint', 'many'), 3), ' | ', ' '), ' ') AS a (alias) GROUP BY 1 ORDER BY 1;
-- After a key that is not in what is found, and after the last.
SELECT pg_temp.found('{"alias": "web", "sort": "alias"}', apikeys.find_key('many', 'D'));
SELECT pg_temp.found('{"sort": "alias"}', apikeys.find_key('rival', 'WEBSITE'), 2);

--
-- What is refused
--
SELECT f.* FROM (VALUES
    (1, 'NULL'), (2, '[]'), (3, '{"colour": "red"}'), (4, '{"account": 5}'), (5, '{"account": "nobody"}'), (6, '{"alias": ["web"]}'), (7, '{"alias_part": "web"}'),
    (8, '{"id": 1}'), (9, '{"id": "x"}'), (10, '{"id": 1.5}'), (11, '{"id": 12345678901234567890}'), (22, '{"id": -1}'), (23, '{"id": 999999999999999999}'), (12, '{"state": "broken"}'), (13, '{"state": ["active", 1]}'),
    (14, '{"state": ["active", "broken"]}'), (15, '{"state": {}}'), (16, '{"archived": "yes"}'), (17, '{"sort": "oldest"}'), (18, '{"hint": 7}'), (19, '{"tier": "none"}'),
    (20, '{"product": "none"}'), (21, '{"category": false}')
) AS t (n, filter), pg_temp.failure(format('SELECT apikeys.find_keys(%L)', nullif(t.filter, 'NULL'))) AS f ORDER BY t.n;
SELECT f.* FROM (VALUES (1, 'rows => 0'), (2, 'rows => 1001'), (3, 'rows => NULL'), (4, 'after => 1'), (5, 'after => -1')) AS t (n, arguments),
    pg_temp.failure(format('SELECT apikeys.find_keys(%s)', t.arguments)) AS f ORDER BY t.n;
SELECT count(*) FROM apikeys.find_keys(rows => 1000);
-- Text in a filter is text.
SELECT pg_temp.found('{"alias": "x'' OR true --"}'), pg_temp.found('{"category": "$1"}'), pg_temp.found('{"hint": "\\''%s"}');

--
-- Who finds what
--
CREATE ROLE regress_owner IN ROLE apikeys_manager;
CREATE ROLE regress_stray IN ROLE apikeys_manager;
CREATE ROLE regress_portal IN ROLE apikeys_portal;
SELECT role FROM apikeys.add_member('regress_owner', 'rival');
SELECT apikeys.find_key('acme', 'Web shop') AS foreign_key \gset
CREATE FUNCTION pg_temp.tried(foreign_key bigint, OUT n int, OUT code text) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT t.n, f.code FROM (VALUES (1, '{"account": "acme"}', NULL::bigint), (2, format('{"id": %s}', foreign_key), NULL), (3, '{}', foreign_key)) AS t (n, filter, after),
        pg_temp.failure(format('SELECT apikeys.find_keys(%L, %L)', t.filter, t.after)) AS f ORDER BY t.n
$$;
SET SESSION AUTHORIZATION regress_owner;
SELECT pg_temp.found('{}') AS all, pg_temp.found('{"alias": "web"}') AS alias, pg_temp.found('{"hint": "x7Qz"}') AS hint, pg_temp.found('{"sort": "expires_at", "archived": true}') AS sorted;
SELECT * FROM pg_temp.tried(:foreign_key);
SET SESSION AUTHORIZATION regress_stray;
SELECT pg_temp.found('{}') AS all;
SELECT * FROM pg_temp.tried(:foreign_key);
SET SESSION AUTHORIZATION regress_portal;
SELECT f.code FROM pg_temp.failure('SELECT apikeys.find_keys()') AS f;
BEGIN;
SELECT apikeys.begin_for('rival');
SELECT pg_temp.found('{}') AS all, pg_temp.found('{"alias": "web"}') AS alias;
SELECT * FROM pg_temp.tried(:foreign_key);
COMMIT;
RESET SESSION AUTHORIZATION;

--
-- By which index
--
INSERT INTO apikeys.account (name, plan) SELECT 'account ' || n, 'default' FROM generate_series(0, 199) AS n;
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, created_at, expires_at, expiry_set_at)
SELECT n, a.account_id, sha256(n::text::bytea)::text::apikeys.digest, 'ak', 'ak_..' || to_hex(10000 + n), 'name ' || n, '2026-02-01'::timestamptz + n * interval '1 minute',
       clock_timestamp() + n * interval '2 hours', '2001-02-03'
FROM generate_series(1, 8000) AS n JOIN apikeys.account AS a ON a.name = 'account ' || n % 200;
ANALYZE apikeys.key, apikeys.account;
CREATE FUNCTION pg_temp.plan_of(filter jsonb, after bigint = NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    checked jsonb := apikeys_internal.key_filter(filter);
    former  apikeys.key;
    line    text;
    names   text[] := '{}';
BEGIN
    SELECT k.* INTO former FROM apikeys.key AS k WHERE k.key_id = after;
    FOR line IN EXECUTE format('EXPLAIN (COSTS off) SELECT k.key_id FROM apikeys.key AS k WHERE %s %s LIMIT $8',
                               apikeys_internal.key_conditions(checked, NOT checked ? 'account'),
                               (apikeys_internal.key_orders(coalesce(checked ->> 'sort', 'newest'), former))[1])
        USING checked, ARRAY(SELECT a.account_id FROM apikeys.account AS a WHERE a.name = checked ->> 'account'),
              ARRAY(SELECT jsonb_array_elements_text(checked -> 'state')), clock_timestamp(), after,
              CASE checked ->> 'sort' WHEN 'expires_at' THEN former.expires_at ELSE former.created_at END, lower(former.alias), 50
    LOOP
        names := names || coalesce(substring(line FROM 'Index Scan (?:Backward )?(?:using|on) (\w+)'), substring(line FROM 'Index Only Scan (?:Backward )?using (\w+)'),
                                   substring(line FROM 'Seq Scan on key'), '{}');
    END LOOP;
    RETURN array_to_string(array_remove(array_remove(names, 'account_pkey'), '{}'), ' ');
END
$$;
SELECT t.filter, pg_temp.plan_of(t.filter::jsonb) AS first, pg_temp.plan_of(t.filter::jsonb, 4000) AS next
FROM unnest(ARRAY['{}', '{"account": "account 7"}', '{"alias": "name 77"}', '{"alias": "name 7", "sort": "alias"}', '{"hint": "3a98"}', '{"state": "suspended"}',
                  '{"state": "expiring", "sort": "expires_at"}', '{"sort": "alias"}', '{"sort": "expires_at"}', '{"id": 77}']) AS t (filter);

DROP OWNED BY regress_owner, regress_stray, regress_portal;
DROP ROLE regress_owner, regress_stray, regress_portal;
SET client_min_messages = error;
DROP EXTENSION apikeys CASCADE;
CREATE EXTENSION apikeys;
