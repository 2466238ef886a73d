-- The log page by page, and one request of it. What requests leave behind is planted here, in the past.
SET search_path = pg_catalog;
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT place text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
    about    text;
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, relation = TABLE_NAME, about = COLUMN_NAME;
        place := concat_ws(' ', nullif(relation, ''), nullif(about, ''));
END
$$;
-- The id that verify gives a request: a UUIDv7 of its time, key and sequence.
CREATE FUNCTION pg_temp.request_id(at timestamptz, key_id bigint, sequence int) RETURNS uuid LANGUAGE sql AS $$
    SELECT (lpad(to_hex(u.us / 1000), 12, '0') || to_hex(7 * 4096 + (u.us % 1000) * 4 + (sequence >> 9)) ||
            lpad(to_hex((-9223372036854775808) | (key_id << 9) | (sequence & 511)), 16, '0'))::uuid
    FROM (SELECT (extract(epoch FROM at) * 1000000)::bigint AS us) AS u
$$;
CREATE FUNCTION pg_temp.id(alias text) RETURNS bigint LANGUAGE sql AS
$$ SELECT k.key_id FROM apikeys.key AS k JOIN apikeys.account AS a USING (account_id) WHERE a.name IN ('acme', 'rival') AND k.alias = $1 $$;

SELECT name FROM apikeys.create_product('maps');
SELECT name FROM apikeys.create_account('acme') UNION ALL SELECT name FROM apikeys.create_account('rival');
SELECT alias FROM apikeys.import_key('acme', 'the text of web', alias => 'web', hint => 'ak_..x7Qz');
SELECT alias FROM apikeys.import_key('acme', 'the text of app', alias => 'app', hint => 'ak_..0000');
SELECT alias FROM apikeys.import_key('rival', 'the text of theirs', alias => 'theirs', hint => 'ak_..2222');
CREATE PROCEDURE pg_temp.add_day(day text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE apikeys.request_log_%s (LIKE apikeys.request_log INCLUDING ALL)', day);
    EXECUTE format('CREATE INDEX request_log_%1$s_key_id_at_idx ON apikeys.request_log_%1$s (key_id, at)', day);
    EXECUTE format('ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.request_log_%s FOR VALUES FROM (%L) TO (%L)',
                   day, day::timestamptz, day::timestamptz + interval '1 day');
END
$$;
CALL pg_temp.add_day('20260301');
CALL pg_temp.add_day('20260302');
CALL pg_temp.add_day('20260304');
-- 300 requests; each 20 of them at the same time.
INSERT INTO apikeys.request_log (at, key_id, account_id, request_id, code, status, endpoint, duration_ms, ip, cost, credits, category, product, completed, previous)
SELECT r.at, k.key_id, k.account_id, pg_temp.request_id(r.at, k.key_id, r.n), CASE WHEN r.n % 7 = 0 THEN 'quota_exceeded' ELSE 'valid' END,
       CASE WHEN r.n % 7 = 0 THEN 429 WHEN r.n % 5 = 0 THEN 404 ELSE 200 END, '/v1/' || r.n % 4, r.n % 90, ('192.0.2.' || r.n % 3)::inet, 1, NULL,
       CASE WHEN r.n % 2 = 0 THEN 'production' ELSE 'staging' END, CASE WHEN r.n % 11 = 0 THEN 'maps' END, true, r.n % 50 = 0
FROM (SELECT n, timestamptz '2026-03-01 20:00' + n / 20 * interval '31 minutes' + CASE WHEN n >= 200 THEN interval '2 days' ELSE '0' END AS at
      FROM generate_series(0, 299) AS n) AS r
JOIN apikeys.key AS k ON k.key_id = pg_temp.id(CASE WHEN r.n % 3 = 0 THEN 'theirs' WHEN r.n % 3 = 1 OR r.n < 100 THEN 'web' ELSE 'app' END);
CREATE PROCEDURE pg_temp.sum_up() LANGUAGE sql AS $$
    DELETE FROM apikeys.usage_bucket;
    INSERT INTO apikeys.usage_bucket
    SELECT s.subject, s.id, date_bin('1 hour', r.at, '2000-01-01 00:00+00'), count(*) FILTER (WHERE r.code = 'valid'), count(*) FILTER (WHERE r.code <> 'valid'),
           count(*) FILTER (WHERE r.code = 'valid'), 0, 0, 0
    FROM apikeys.request_log AS r, LATERAL (VALUES ('k'::"char", r.key_id), ('a', r.account_id)) AS s (subject, id) GROUP BY 1, 2, 3
$$;
CALL pg_temp.sum_up();

--
-- Pages
--
-- All pages, one behind the other, and how many there are.
CREATE FUNCTION pg_temp.pages(filter jsonb, rows int, OUT pages int, OUT shown bigint, OUT same boolean) LANGUAGE plpgsql AS $$
DECLARE
    page     apikeys.log_row[];
    ids      uuid[] := '{}';
    before   uuid;
    asked    jsonb := jsonb_strip_nulls(filter);
    wanted   uuid[] := ARRAY(
        SELECT l.request_id FROM apikeys.log AS l
        WHERE (NOT asked ? 'account' OR l.account = asked ->> 'account') AND (NOT asked ? 'key_id' OR l.key_id = (asked ->> 'key_id')::bigint)
          AND (NOT asked ? 'code' OR l.code IN (SELECT jsonb_array_elements_text(CASE jsonb_typeof(asked -> 'code') WHEN 'array' THEN asked -> 'code' ELSE jsonb_build_array(asked -> 'code') END)))
          AND (NOT asked ? 'status' OR l.status = CASE WHEN jsonb_typeof(asked -> 'status') = 'number' THEN (asked ->> 'status')::int ELSE l.status END)
          AND (NOT asked ? 'status' OR l.status / 100 = left(asked ->> 'status', 1)::int)
          AND (NOT asked ? 'endpoint' OR l.endpoint = split_part(asked ->> 'endpoint', '?', 1)) AND (NOT asked ? 'product' OR l.product = asked ->> 'product')
          AND (NOT asked ? 'category' OR l.category = asked ->> 'category') AND (NOT asked ? 'ip' OR l.ip <<= (asked ->> 'ip')::inet)
          AND (NOT asked ? 'min_duration_ms' OR l.duration_ms >= (asked ->> 'min_duration_ms')::int)
          AND (NOT asked ? 'previous' OR l.previous = (asked ->> 'previous')::boolean)
          AND (NOT asked ? 'since' OR l.at >= (asked ->> 'since')::timestamptz) AND (NOT asked ? 'until' OR l.at < (asked ->> 'until')::timestamptz)
        ORDER BY l.at DESC, l.request_id DESC);
BEGIN
    pages := 0;
    LOOP
        page := ARRAY(SELECT p FROM apikeys.log_page(filter, before, rows) AS p);
        EXIT WHEN cardinality(page) = 0;
        pages := pages + 1;
        before := page[cardinality(page)].request_id;
        ids := ids || ARRAY(SELECT p.request_id FROM unnest(page) WITH ORDINALITY AS p WHERE p.code IS NOT NULL ORDER BY p.ordinality);
        EXIT WHEN cardinality(page) < rows AND page[cardinality(page)].code IS NOT NULL;
    END LOOP;
    shown := cardinality(ids);
    same := ids = wanted;
END
$$;
SELECT * FROM apikeys.log_page('{"account": "acme"}', rows => 1) \gx
SELECT t.filter, t.rows, p.* FROM (VALUES
    ('{}', 7), ('{}', 50), ('{}', 1000), ('{"account": "acme"}', 9), ('{"account": "rival"}', 9), ('{"code": "quota_exceeded"}', 10),
    ('{"code": ["quota_exceeded", "invalid"], "account": "acme"}', 3), ('{"status": 404}', 10), ('{"status": "4xx"}', 10),
    ('{"endpoint": "/v1/3?page=2"}', 10), ('{"product": "maps"}', 10), ('{"category": "staging", "account": "acme"}', 10),
    ('{"ip": "192.0.2.1"}', 10), ('{"ip": "192.0.2.0/24"}', 100), ('{"min_duration_ms": 80}', 10), ('{"previous": true}', 10),
    ('{"since": "2026-03-02T00:04:00Z"}', 10), ('{"until": "2026-03-02T00:08:00Z"}', 10),
    ('{"since": "2026-03-01T21:02:00Z", "until": "2026-03-01T23:06:00Z", "category": null}', 13), ('{"since": "2999-01-01"}', 10), ('{"until": "2000-01-01"}', 10),
    ('{"code": "expired"}', 10)) AS t (filter, rows), pg_temp.pages(t.filter::jsonb, t.rows) AS p;
SELECT p.* FROM pg_temp.pages(jsonb_build_object('key_id', pg_temp.id('app')), 6) AS p;
SELECT p.* FROM pg_temp.pages(jsonb_build_object('key_id', pg_temp.id('web'), 'status', '2xx'), 6) AS p;
SELECT count(*) FROM apikeys.log_page(jsonb_build_object('key_id', pg_temp.id('web'), 'account', 'rival'));

SELECT f.* FROM (VALUES
    (1, '$${"account": "nobody"}$$'), (2, '$${"key_id": 4}$$'), (3, '$${"alias": "web"}$$'), (4, '$${"code": 5}$$'), (5, '$${"ip": "here"}$$'),
    (6, '$${"since": "soon"}$$'), (7, '$${"status": "6xx"}$$'), (8, '$${"status": 600}$$'), (9, '$$[]$$'), (10, 'NULL'),
    (11, '$${}$$, NULL, 0'), (12, '$${}$$, NULL, 1001'), (13, '$${}$$, NULL, NULL'), (14, '$${}$$, $$00000000-0000-0000-0000-000000000000$$'),
    (15, '$${"min_duration_ms": -1}$$'), (16, '$${"previous": 1}$$'), (17, '$${"until": "2026-13-01"}$$'), (18, $$jsonb_build_object('endpoint', repeat('x', 65536))$$), (19, $$jsonb_build_object('code', array_fill('valid'::text, ARRAY[1001]))$$)
) AS t (n, arguments), pg_temp.failure(format('SELECT apikeys.log_page(%s)', t.arguments)) AS f ORDER BY t.n;

--
-- One request
--
SELECT r.at, account, alias, code, status, endpoint, product FROM apikeys.find_request(pg_temp.request_id('2026-03-01 20:31', pg_temp.id('web'), 22)) AS r;
SELECT f.code, f.message, f.place FROM (VALUES (1, pg_temp.request_id('2026-03-01 20:31', pg_temp.id('web'), 999)), (2, pg_temp.request_id('2026-03-01 20:31', 4, 22)),
    (3, '00000000-0000-0000-0000-000000000000'), (4, NULL)) AS t (n, id),
    LATERAL pg_temp.failure(format('SELECT apikeys.find_request(%L)', t.id)) AS f ORDER BY t.n;

--
-- Who sees what
--
CREATE ROLE regress_log_owner IN ROLE apikeys_manager;
SELECT role FROM apikeys.add_member('regress_log_owner', 'rival');
CREATE TEMP TABLE ids AS SELECT pg_temp.request_id('2026-03-01 20:31', pg_temp.id('web'), 22) AS theirs, l.request_id AS ours, pg_temp.id('web') AS web
FROM apikeys.log AS l WHERE l.account = 'rival' ORDER BY l.at LIMIT 1;
GRANT SELECT ON ids TO regress_log_owner;
SET SESSION AUTHORIZATION regress_log_owner;
SELECT p.* FROM pg_temp.pages('{}', 8) AS p;
SELECT p.* FROM pg_temp.pages('{"status": "2xx"}', 8) AS p;
SELECT account FROM apikeys.find_request((SELECT ours FROM ids));
SELECT f.* FROM ids, (VALUES (1, 'log_page($${"account": "acme"}$$)'), (2, format('log_page(jsonb_build_object(''key_id'', %s))', (SELECT web FROM ids))),
    (3, format('log_page($${}$$, %L)', (SELECT theirs FROM ids))), (4, format('find_request(%L)', (SELECT theirs FROM ids)))) AS t (n, call),
    pg_temp.failure('SELECT apikeys.' || t.call) AS f ORDER BY t.n;
RESET SESSION AUTHORIZATION;
BEGIN READ ONLY;
SELECT apikeys.begin_for('acme');
SELECT p.* FROM pg_temp.pages('{}', 70) AS p;
SELECT DISTINCT account FROM apikeys.log_page('{}', rows => 1000);
SELECT message FROM pg_temp.failure($$SELECT apikeys.log_page('{"account": "rival"}')$$);
ROLLBACK;
-- A key pages through its own requests, unless it manages others.
CREATE ROLE regress_log_gateway IN ROLE apikeys_verifier;
GRANT SELECT ON ids TO regress_log_gateway;
CREATE FUNCTION pg_temp.seen_by_key() RETURNS TABLE (code text, aliases text, foreigners text) LANGUAGE sql AS $$
    SELECT (apikeys.begin_as('the text of app', metered => false)).code, NULL, NULL;
    SELECT 'pages', (SELECT string_agg(DISTINCT p.alias, ' ') FROM apikeys.log_page(rows => 1000) AS p),
           (SELECT string_agg((pg_temp.failure('SELECT apikeys.' || c.call)).message, '; ')
            FROM ids, LATERAL (VALUES (format('log_page(jsonb_build_object(''key_id'', %s))', web)), (format('find_request(%L)', theirs))) AS c (call))
$$;
SET SESSION AUTHORIZATION regress_log_gateway;
SELECT count(*) FROM apikeys.log_page();
BEGIN;
SELECT aliases, regexp_replace(foreigners, '[0-9a-f-]{16,}', '<id>', 'g') AS foreigners FROM pg_temp.seen_by_key();
ROLLBACK;
RESET SESSION AUTHORIZATION;
SELECT scopes FROM apikeys.update_key(pg_temp.id('app'), '{"scopes": ["apikeys:manage"]}');
SET SESSION AUTHORIZATION regress_log_gateway;
BEGIN;
SELECT aliases FROM pg_temp.seen_by_key();
ROLLBACK;
RESET SESSION AUTHORIZATION;

--
-- A filter that matches little
--
INSERT INTO apikeys.request_log (at, key_id, account_id, request_id, code, status, endpoint, cost, category, completed)
SELECT timestamptz '2026-03-04 01:00' + n * interval '1 ms', k.key_id, k.account_id, pg_temp.request_id(timestamptz '2026-03-04 01:00' + n * interval '1 ms', k.key_id, n), 'valid', 200, '/many', 1, 'production', false
FROM generate_series(1, 210000) AS n, apikeys.key AS k WHERE k.key_id = pg_temp.id('web');
CALL pg_temp.sum_up();
CREATE TEMP TABLE first_page AS SELECT p.ordinality, p.at, p.code, p.request_id FROM apikeys.log_page('{"status": 404}') WITH ORDINALITY AS p;
SELECT at, code IS NULL AS looked_back, count(*) FROM first_page GROUP BY 1, 2 ORDER BY 1 DESC;
SELECT count(*) FROM apikeys.log AS l, first_page AS p WHERE p.code IS NULL AND (l.at, l.request_id) >= (p.at, p.request_id);
SELECT t.filter, p.* FROM (VALUES ('{"status": 404}'), ('{"status": 404, "account": "acme"}'), ('{"endpoint": "/v1/1"}')) AS t (filter), pg_temp.pages(t.filter::jsonb, 50) AS p;
SELECT p.* FROM pg_temp.pages(jsonb_build_object('key_id', pg_temp.id('web'), 'endpoint', '/v1/1'), 50) AS p;

DROP OWNED BY regress_log_owner, regress_log_gateway;
DROP ROLE regress_log_owner, regress_log_gateway;
SET client_min_messages = error;
DROP EXTENSION apikeys CASCADE;
CREATE EXTENSION apikeys;
