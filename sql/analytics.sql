-- The log with names, reports over log and usage. What requests leave behind is planted here: without
-- preload there is none, and with it the time would be now.
SET search_path = pg_catalog;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;
CREATE FUNCTION pg_temp.id(alias text) RETURNS bigint LANGUAGE sql AS
$$ SELECT k.key_id FROM apikeys.key AS k JOIN apikeys.account AS a USING (account_id) WHERE a.name IN ('acme', 'rival') AND k.alias = $1 $$;
-- How often a statement reads tables of usage from end to end, and whether by an index; but for those that it leaves alone.
CREATE FUNCTION pg_temp.scans(OUT relation text, OUT whole bigint, OUT indexed bigint) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT c.relname, pg_stat_get_xact_numscans(c.oid), sum(pg_stat_get_xact_numscans(i.indexrelid))::bigint
    FROM pg_class AS c JOIN pg_index AS i ON i.indrelid = c.oid
    WHERE c.relname ~ '^(request_log_203005|usage_bucket$|key$)' AND c.relnamespace = 'apikeys'::regnamespace
    GROUP BY c.oid, c.relname ORDER BY c.relname
$$;
CREATE FUNCTION pg_temp.scanned_by(statement text, OUT relation text, OUT whole bigint, OUT indexed boolean) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := (SELECT jsonb_object_agg(s.relation, to_jsonb(s)) FROM pg_temp.scans() AS s);
BEGIN
    EXECUTE statement;
    RETURN QUERY
        SELECT s.relation, s.whole - (before->s.relation->>'whole')::bigint, s.indexed > (before->s.relation->>'indexed')::bigint
        FROM pg_temp.scans() AS s WHERE to_jsonb(s) <> before->s.relation;
END
$$;

INSERT INTO apikeys.plan (name) VALUES ('default');
INSERT INTO apikeys.tier VALUES ('gold', 2, '1000/day, 20000/month, 500000/total');
INSERT INTO apikeys.product VALUES ('maps'), ('routes');
SELECT (apikeys.import_key('acme', 'text of web', alias => 'web', tier => 'gold', hint => 'ak_..x7Qz', products => '{maps,routes}', billing_type => 'paying')).alias;
SELECT (apikeys.import_key('acme', 'text of app', alias => 'app', limits => '10/total', hint => 'ak_..0000', products => '{maps}')).alias;
SELECT (apikeys.import_key('acme', 'text of old', alias => 'old', hint => 'ak_..1111')).alias;
SELECT (apikeys.import_key('rival', 'text of theirs', alias => 'theirs', hint => 'ak_..2222', billing_type => 'free')).alias;
SELECT state FROM apikeys.suspend_key(pg_temp.id('app'), 'unpaid');

--
-- Usage of keys
--
INSERT INTO apikeys.usage_bucket SELECT 'k', pg_temp.id('web'), date_bin('1 hour', clock_timestamp() - interval '5 days', '2000-01-01'), 1234, 0, 1234, 0, 0;
INSERT INTO apikeys.usage_total SELECT 'k', pg_temp.id('web'), 1234, 0, 1234, 0, 0, '2030-01-01', '2030-05-02 23:30';
INSERT INTO apikeys.usage_total SELECT 'k', pg_temp.id('app'), 4, 0, 11, 0, 0, '2030-01-01', '2030-05-02';

--
-- The log
--
CREATE TABLE apikeys.request_log_20300501 (LIKE apikeys.request_log INCLUDING ALL);
CREATE TABLE apikeys.request_log_20300502 (LIKE apikeys.request_log INCLUDING ALL);
CREATE TABLE apikeys.request_log_20300503 (LIKE apikeys.request_log INCLUDING ALL);
CREATE INDEX request_log_20300501_key_id_at_idx ON apikeys.request_log_20300501 (key_id, at);
CREATE INDEX request_log_20300502_key_id_at_idx ON apikeys.request_log_20300502 (key_id, at);
CREATE INDEX request_log_20300503_key_id_at_idx ON apikeys.request_log_20300503 (key_id, at);
ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.request_log_20300501 FOR VALUES FROM ('2030-05-01 00:00+00') TO ('2030-05-02 00:00+00');
ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.request_log_20300502 FOR VALUES FROM ('2030-05-02 00:00+00') TO ('2030-05-03 00:00+00');
ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.request_log_20300503 FOR VALUES FROM ('2030-05-03 00:00+00') TO ('2030-05-04 00:00+00');
INSERT INTO apikeys.request_log
SELECT v.at, k.key_id, k.account_id, gen_random_uuid(), v.code, v.status, v.endpoint, v.duration_ms, '192.0.2.1', v.cost, v.credits, v.category,
       CASE v.endpoint WHEN '/a' THEN 'maps' WHEN '/b' THEN 'routes' END, v.duration_ms IS NOT NULL
FROM (VALUES
    (timestamptz '2030-05-01 22:30Z', 'web', 'valid', 200, '/a', 10, 1, 3, 'staging'), ('2030-05-01 23:59:59.999999Z', 'web', 'valid', 301, '/a', 20, 1, NULL, 'staging'),
    ('2030-05-02 00:00Z', 'web', 'valid', 200, '/a', 30, 2, 5, 'production'), ('2030-05-02 08:10Z', 'web', 'valid', 404, '/b', 40, 1, NULL, 'production'),
    ('2030-05-02 08:20Z', 'web', 'valid', 502, '/b', 1000, 1, NULL, 'production'), ('2030-05-02 08:30Z', 'web', 'quota_exceeded', 401, '/a', NULL, 7, NULL, 'production'),
    ('2030-05-02 09:00Z', 'web', 'rate_limited', 429, '/a', NULL, 1, NULL, 'production'), ('2030-05-02 09:00Z', 'app', 'suspended', 401, NULL, NULL, 1, NULL, 'production'),
    ('2030-05-02 23:30Z', 'app', 'valid', 200, '/c', NULL, 1, 11, 'production'), ('2030-05-02 12:00Z', 'theirs', 'valid', 200, '/c', 5, 1, 13, 'production'),
    ('2030-05-03 00:00Z', 'old', 'valid', 200, '/c', 7, 1, 17, 'production')
) AS v(at, alias, code, status, endpoint, duration_ms, cost, credits, category) JOIN apikeys.key AS k ON k.key_id = pg_temp.id(v.alias);
SELECT at, account, alias, category, product, code, status, endpoint, duration_ms, cost, credits, ip FROM apikeys.log WHERE at >= '2030-05-01' AND at < '2030-05-04' ORDER BY at, alias;
-- The alias is that of now, the category that of the request.
UPDATE apikeys.key SET alias = 'web2', category = 'development' WHERE alias = 'web';
SELECT DISTINCT alias, category FROM apikeys.log WHERE at < '2030-05-02' AND at > '2030-05-01';
UPDATE apikeys.key SET alias = 'web' WHERE alias = 'web2';

--
-- Reports of the log
--
\set day '''2030-05-02'', ''2030-05-03'''
\x
SELECT * FROM apikeys.log_report(:day);
SELECT r.account, r.key_id = pg_temp.id('theirs') AS id, r.alias, r.product, r.category, r.billing_type, r.endpoint, r.code, r.at, r.requests
FROM apikeys.log_report(:day, '{account,key,product,category,billing_type,endpoint,code}', '1 day', only_account => 'rival') AS r;
\x
SELECT alias, requests, denied, status_2xx, status_3xx, status_4xx, status_5xx, units, credits FROM apikeys.log_report('2030-05-01', '2030-05-04', '{key}');
SELECT account, alias, requests FROM apikeys.log_report(:day, '{key}');
SELECT account, alias, requests FROM apikeys.log_report(:day, '{account}');
-- Denials by reason.
SELECT code, requests, denied, units FROM apikeys.log_report(:day, '{code}', only_account => 'acme');
-- Top endpoints, with how long they took: 40 and 1000 ms, half way between 520, 95 % of it 952.
SELECT endpoint, requests, p50_ms, p95_ms, p99_ms FROM apikeys.log_report(:day, '{endpoint}', only_key => pg_temp.id('web')) LIMIT 2;
-- The product is the one that the request named, whatever the key has.
SELECT product, requests, credits FROM apikeys.log_report('2030-05-01', '2030-05-04', '{product}');
SELECT alias, product, requests FROM apikeys.log_report('2030-05-01', '2030-05-04', '{key,product}', only_account => 'acme');
SELECT category, requests FROM apikeys.log_report('2030-05-01', '2030-05-04', '{category}', only_key => pg_temp.id('web'));
SELECT billing_type, requests FROM apikeys.log_report('2030-05-01', '2030-05-04', '{billing_type}');
-- Steps are the calendar's in the time zone; only those with requests have a row.
SELECT at, requests FROM apikeys.log_report('2030-05-01', '2030-05-04', step => '1 hour', only_key => pg_temp.id('web'));
SELECT at, requests FROM apikeys.log_report('2030-05-01', '2030-05-04', step => '1 day');
SELECT at, requests FROM apikeys.log_report('2030-05-01', '2030-05-04', step => '1 day', time_zone => 'Europe/Berlin');
SELECT s.step, r.at, r.requests FROM (VALUES (1, interval '7 days'), (2, '1 week'), (3, '1 month'), (4, '3 months'), (5, '1 year')) AS s (n, step),
       apikeys.log_report('2030-05-01', '2030-05-04', step => s.step, time_zone => 'Europe/Berlin') AS r ORDER BY s.n;
-- From since, to before until; where there is nothing there is no row; a key of another account.
SELECT sum(requests) FROM apikeys.log_report('2030-05-01 23:59:59.999999', '2030-05-02 08:10', '{code}');
SELECT requests FROM apikeys.log_report('2030-05-03 00:00:00.000001', '2030-05-04');
SELECT requests FROM apikeys.log_report(:day, only_account => 'rival', only_key => pg_temp.id('web'));

--
-- Reports of usage
--
DELETE FROM apikeys.usage_bucket WHERE subject_id = pg_temp.id('web');
WITH used (alias, bucket, admitted, denied, units, errors, credits) AS (VALUES
    ('web', timestamptz '2030-03-31 21:55Z', 5, 1, 6, 2, 100), ('web', '2030-03-31 22:00Z', 7, 0, 7, 0, 1000), ('web', '2030-04-30 10:00Z', 1, 0, 1, 0, 10000),
    ('app', '2030-03-31 22:00Z', 2, 3, 2, 1, 7), ('theirs', '2030-04-01 00:00Z', 9, 0, 9, 0, 500))
INSERT INTO apikeys.usage_bucket
SELECT 'k', k.key_id, u.bucket, u.admitted, u.denied, u.units, u.errors, u.credits FROM used AS u JOIN apikeys.key AS k ON k.key_id = pg_temp.id(u.alias)
UNION ALL
SELECT 'a', k.account_id, u.bucket, sum(u.admitted), sum(u.denied), sum(u.units), sum(u.errors), sum(u.credits)
FROM used AS u JOIN apikeys.key AS k ON k.key_id = pg_temp.id(u.alias) GROUP BY 2, 3;
\set spring '''2030-03-01'', ''2030-05-01'''
-- The monthly bills.
SELECT at, account, credits FROM apikeys.usage_report(:spring, step => '1 month', time_zone => 'Europe/Berlin');
SELECT at, account, credits FROM apikeys.usage_report(:spring, step => '1 month');
\x
SELECT * FROM apikeys.usage_report(:spring, '{}');
SELECT r.account, r.key_id = pg_temp.id('theirs') AS id, r.alias, r.product, r.category, r.billing_type, r.at, r.requests
FROM apikeys.usage_report(:spring, '{account,key,product,category,billing_type}', '1 year', only_account => 'rival') AS r;
\x
SELECT account, alias, requests, denied, units, errors, credits FROM apikeys.usage_report(:spring, '{key}');
SELECT account, alias, requests FROM apikeys.usage_report(:spring, only_key => pg_temp.id('app'));
-- Usage does not know what was asked for: a key with two products counts for each, one without for none.
SELECT product, requests FROM apikeys.usage_report(:spring, '{product}');
SELECT category, requests FROM apikeys.usage_report(:spring, '{category}');
SELECT billing_type, credits FROM apikeys.usage_report(:spring, '{billing_type}');
SELECT at, requests FROM apikeys.usage_report('2030-03-31 21:55', '2030-04-30 10:00', '{}', '1 hour');

--
-- Errors
--
SELECT r.report, f.* FROM (VALUES ('log_report'), ('usage_report')) AS r (report), (VALUES
    (1, $$'2030-05-02', '2030-05-02'$$), (2, $$NULL, '2030-05-02'$$), (3, $$'2030-05-01', NULL$$), (4, $$'2030-05-01', '2030-05-02', '{colour}'$$),
    (5, $$'2030-05-01', '2030-05-02', NULL$$), (6, $$'2030-05-01', '2030-05-02', '{key,NULL}'$$), (7, $$'2030-05-01', '2030-05-02', step => '2 days'$$),
    (8, $$'2030-05-01', '2030-05-02', step => '24 hours'$$), (9, $$'2030-05-01', '2030-05-02', time_zone => 'Mars/Olympus'$$),
    (10, $$'2030-05-01', '2030-05-02', time_zone => NULL$$), (11, $$'2030-05-01', '2030-05-02', only_account => 'nobody'$$),
    (12, $$'2030-05-01', '2030-05-02', only_key => 1$$)
) AS t (n, arguments), pg_temp.failure(format('SELECT apikeys.%s(%s)', r.report, t.arguments)) AS f ORDER BY 1, t.n;
-- What usage does not know.
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.usage_report('2030-05-01', '2030-05-02', '{endpoint}')$$) AS f;

--
-- Who sees what
--
CREATE ROLE regress_owner IN ROLE apikeys_manager;
CREATE ROLE regress_auditor IN ROLE apikeys_auditor;
INSERT INTO apikeys.member SELECT 'regress_owner', account_id FROM apikeys.account WHERE name = 'rival';
SELECT pg_temp.id('web') AS web \gset
SET SESSION AUTHORIZATION regress_owner;
SELECT account, alias, code FROM apikeys.log WHERE at >= '2030-05-01' AND at < '2030-05-04';
SELECT account, alias, requests FROM apikeys.log_report('2030-05-01', '2030-05-04', '{key}');
SELECT account, requests FROM apikeys.usage_report(:spring);
SELECT account, alias, requests FROM apikeys.usage_report(:spring, '{key}');
\set VERBOSITY terse
SELECT * FROM apikeys.log_report(:day, only_account => 'acme');
SELECT regexp_replace(f.message, '\d+', 'N') AS message FROM pg_temp.failure(format('SELECT apikeys.log_report(%L, %L, only_key => %s)', :day, :web)) AS f;
SELECT regexp_replace(f.message, '\d+', 'N') AS message FROM pg_temp.failure(format('SELECT apikeys.usage_report(%L, %L, only_key => %s)', :day, :web)) AS f;
SELECT count(*) FROM apikeys.request_log;
-- A function in a filter does not meet the rows of others.
CREATE FUNCTION pg_temp.betray(endpoint text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'saw %', endpoint; RETURN true; END $$;
SELECT alias FROM apikeys.log WHERE pg_temp.betray(endpoint) AND at >= '2030-05-01' AND at < '2030-05-04';
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_auditor;
SELECT count(*) FROM apikeys.log WHERE at >= '2030-05-01' AND at < '2030-05-04';
SELECT account, requests FROM apikeys.usage_report(:spring);
SELECT account, requests FROM apikeys.log_report(:day, '{account}');
\set VERBOSITY default
RESET SESSION AUTHORIZATION;

--
-- Plans: of the log only the partitions of the time, and of one key or account only its rows
--
INSERT INTO apikeys.account (name, plan) SELECT 'account ' || n, 'default' FROM generate_series(0, 199) AS n;
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
SELECT n, a.account_id, sha256(n::text::bytea)::text::apikeys.digest, 'ak', 'ak_', 'key-' || n
FROM generate_series(1, 2000) AS n JOIN apikeys.account AS a ON a.name = 'account ' || n % 200;
INSERT INTO apikeys.request_log
SELECT d.day + n * interval '1 s', k.key_id, k.account_id, gen_random_uuid(), 'valid', 200, '/a', 1, NULL, 1, NULL, 'production', NULL, true
FROM generate_series(timestamptz '2030-05-01', '2030-05-03', '1 day') AS d (day), generate_series(1, 20000) AS n JOIN apikeys.key AS k ON k.key_id = 1 + n % 2000;
INSERT INTO apikeys.usage_bucket SELECT 'k', n, '2030-04-02', 1, 0, 1, 0, 0 FROM generate_series(1, 2000) AS n;
-- A row for a key that is no more shows without its names.
INSERT INTO apikeys.request_log SELECT '2030-05-03 23:00', 1000000, 1000000, gen_random_uuid(), 'valid', 200, '/a', 1, NULL, 1, NULL, 'production', NULL, true;
SELECT account, alias, code FROM apikeys.log WHERE at = '2030-05-03 23:00';
ANALYZE apikeys.key, apikeys.account, apikeys.request_log, apikeys.usage_bucket;
-- Scans by parallel workers are not counted.
SET max_parallel_workers_per_gather = 0;
SELECT * FROM pg_temp.scanned_by($$SELECT * FROM apikeys.log WHERE key_id = 7 AND at >= '2030-05-02' AND at < '2030-05-03'$$);
SELECT * FROM pg_temp.scanned_by($$SELECT * FROM apikeys.log WHERE account = 'acme' AND at >= '2030-05-02' AND at < '2030-05-03'$$);
SELECT * FROM pg_temp.scanned_by($$SELECT code, count(*) FROM apikeys.log WHERE at >= '2030-05-02' AND at < '2030-05-03' GROUP BY 1$$);
SELECT * FROM pg_temp.scanned_by($$SELECT apikeys.log_report('2030-05-02', '2030-05-03', '{key,product,code}', '1 hour', only_key => 7)$$);
SELECT * FROM pg_temp.scanned_by($$SELECT apikeys.log_report('2030-05-01', '2030-05-03', '{endpoint}', only_account => 'acme')$$);
SELECT * FROM pg_temp.scanned_by($$SELECT apikeys.usage_report('2030-03-01', '2030-05-01', '{key}', '1 month', only_key => 7)$$);
SELECT * FROM pg_temp.scanned_by($$SELECT apikeys.usage_report('2030-03-01', '2030-05-01', step => '1 month', only_account => 'acme')$$);

-- Meters that have been loaded from planted usage are forgotten with the extension.
DROP OWNED BY regress_owner, regress_auditor;
DROP ROLE regress_owner, regress_auditor;
SET client_min_messages = error;
DROP EXTENSION apikeys;
CREATE EXTENSION apikeys;
