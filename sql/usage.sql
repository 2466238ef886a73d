-- Whether usage adds up, limits as they stand, usage over time. Needs preload. The clock of the session is moved, not slept:
-- it is set to instants well within a bucket of 5 minutes, each later than those before.
CREATE FUNCTION set_clock(at timestamptz) RETURNS timestamptz LANGUAGE sql AS
$$ SELECT at FROM set_config('apikeys.debug_clock_offset', extract(epoch FROM at - clock_timestamp())::text, false) $$;
CREATE FUNCTION id(alias text) RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key('acme', alias) $$;
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END
$$;
-- Who is meant by a subject, and how many are not ours.
CREATE FUNCTION ledger() RETURNS TABLE (subject text, what text, expected bigint, found bigint) LANGUAGE sql AS
$$ SELECT coalesce(k.alias, a.name, 'somebody else'), l.what, l.expected, l.found
   FROM apikeys.check_ledger() AS l
   LEFT JOIN apikeys.key AS k ON l.subject = 'k' AND k.key_id = l.subject_id
   LEFT JOIN apikeys.account AS a ON l.subject = 'a' AND a.account_id = l.subject_id ORDER BY 1, 2 $$;
SET timezone = 'UTC';
SELECT set_clock('2031-03-05 10:02Z');

INSERT INTO apikeys.plan (name, limits) VALUES ('flat', '100/hour') ON CONFLICT DO NOTHING;
SELECT name FROM apikeys.create_account('acme', 'flat');
SELECT (apikeys.import_key('acme', 'text of ' || alias, alias => alias, limits => limits)).alias
FROM (VALUES ('small', '3/day, 10/week'::apikeys.limits), ('large', ''), ('idle', '5/total')) AS v(alias, limits);

--
-- The ledger
--
-- Admitted, denied by a limit and by something else, with costs, completed at once and later.
SELECT v.code, v.limit_window, v.remaining FROM generate_series(1, 4) AS n, apikeys.verify('text of small', '/maps/' || n) AS v;
SELECT v.code, v.limit_window, v.remaining FROM unnest('{5,0,7}'::int[]) AS t(cost), apikeys.verify('text of large', cost => cost) AS v;
SELECT alias FROM apikeys.suspend_key(id('large'), 'unpaid');
SELECT v.code FROM apikeys.verify('text of large', cost => 9) AS v;
SELECT alias FROM apikeys.unsuspend_key(id('large'));
SELECT apikeys.complete(v.request_id, 500, credits => 8) FROM apikeys.verify('text of large') AS v;
SELECT apikeys.flush();
SELECT apikeys.complete(r.request_id, 404, 2.5, 11) FROM apikeys.request_log AS r WHERE r.key_id = id('large') AND r.cost = 7;
SELECT * FROM ledger();
SELECT t.subject, t.admitted, t.denied, t.units, t.errors, t.credits, date_trunc('minute', t.first_used_at::timestamp) AS first_used_at FROM apikeys.usage_total AS t
WHERE t.subject_id IN (id('small'), id('large')) ORDER BY t.units;
SELECT t.admitted, t.denied, t.units, t.errors, t.credits FROM apikeys.usage_total AS t JOIN apikeys.account AS a ON a.account_id = t.subject_id
WHERE t.subject = 'a' AND a.name = 'acme';

-- Whatever is lost, doubled or changed shows.
BEGIN;
DELETE FROM apikeys.request_log WHERE key_id = id('small') AND code <> 'valid';
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
INSERT INTO apikeys.request_log SELECT * FROM apikeys.request_log WHERE key_id = id('large') AND cost = 5;
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
UPDATE apikeys.request_log SET cost = 6 WHERE key_id = id('large') AND cost = 5;
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
UPDATE apikeys.request_log SET status = 200, credits = credits + 1 WHERE key_id = id('large') AND cost = 7;
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
DELETE FROM apikeys.usage_bucket WHERE subject_id = id('small');
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
ALTER TABLE apikeys.usage_total DISABLE TRIGGER usage_total_guard_delete;
DELETE FROM apikeys.usage_total WHERE subject_id = id('small');
ALTER TABLE apikeys.usage_total ENABLE ALWAYS TRIGGER usage_total_guard_delete;
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
UPDATE apikeys.usage_bucket SET errors = errors + 1, credits = credits + 1 WHERE subject_id = id('large');
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
UPDATE apikeys.usage_bucket SET units = units - 1 WHERE subject_id = id('large');
UPDATE apikeys.usage_total SET units = units - 1 WHERE subject_id = id('large');
SELECT * FROM ledger();
ROLLBACK;
-- In whatever isolation and time zone.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM ledger();
SELECT v.code FROM apikeys.verify('text of large') AS v;
SET LOCAL timezone = 'Asia/Kolkata';
SET LOCAL datestyle = 'SQL, DMY';
SELECT * FROM ledger();
COMMIT;

-- What is in quarantine counts.
BEGIN;
WITH gone AS (DELETE FROM apikeys.request_log WHERE key_id = id('large') AND cost IN (5, 9) RETURNING *)
INSERT INTO apikeys.quarantine (reason, event) SELECT 'poison', to_jsonb(gone) FROM gone;
SELECT * FROM ledger();
ROLLBACK;
BEGIN;
WITH gone AS (DELETE FROM apikeys.request_log WHERE key_id = id('large') AND cost = 7 RETURNING *)
INSERT INTO apikeys.quarantine (reason, event) SELECT 'poison', to_jsonb(gone) FROM gone;
SELECT * FROM ledger();
ROLLBACK;
-- So does a completion alone.
BEGIN;
INSERT INTO apikeys.quarantine (reason, event) SELECT 'poison', to_jsonb(r) || '{"code": null, "cost": null}'
FROM apikeys.request_log AS r WHERE r.key_id = id('large') AND r.cost = 7;
UPDATE apikeys.request_log SET completed = false, status = 200, credits = NULL WHERE key_id = id('large') AND cost = 7;
SELECT * FROM ledger();
ROLLBACK;

-- Days whose partition is gone are not judged, the others are.
SELECT set_clock('2031-03-06 10:02Z');
SELECT v.code FROM apikeys.verify('text of large') AS v;
SELECT apikeys.flush();
BEGIN;
DELETE FROM apikeys.request_log WHERE key_id = id('large');
SELECT * FROM ledger();
ALTER TABLE apikeys.request_log DETACH PARTITION apikeys.request_log_20310305;
SELECT * FROM ledger();
ROLLBACK;

-- Requests that the log leaves out are counted as such.
ALTER SYSTEM SET apikeys.log_requests = off;
SELECT pg_reload_conf();
DO $$
BEGIN
    LOOP
        PERFORM FROM apikeys.verify('text of large', cost => 2);
        PERFORM apikeys.flush();
        EXIT WHEN (SELECT sum(unlogged) >= 2 FROM apikeys.usage_bucket WHERE subject_id = id('large'));
    END LOOP;
END
$$;
SELECT sum(b.admitted - b.unlogged) = (SELECT count(*) FROM apikeys.request_log AS r WHERE r.key_id = id('large') AND r.code = 'valid') AS others_logged
FROM apikeys.usage_bucket AS b WHERE b.subject_id = id('large');
SELECT * FROM ledger();
-- What is in the log is completed there, once.
SELECT apikeys.complete(r.request_id, 500, 1, 3), apikeys.complete(r.request_id, 501, 1, 3) FROM apikeys.request_log AS r WHERE r.key_id = id('large') AND r.cost = 5;
SELECT apikeys.flush();
SELECT apikeys.complete(r.request_id, 502, 1, 3) FROM apikeys.request_log AS r WHERE r.key_id = id('large') AND r.cost = 5;
SELECT * FROM ledger();
SELECT r.status, r.credits, t.errors, t.credits FROM apikeys.request_log AS r, apikeys.usage_total AS t
WHERE r.key_id = id('large') AND r.cost = 5 AND t.subject_id = r.key_id;
BEGIN;
DELETE FROM apikeys.request_log WHERE key_id = id('large') AND at > '2031-03-06';
SELECT subject, what, expected > 0 AS expected, found FROM ledger();
ROLLBACK;
ALTER SYSTEM RESET apikeys.log_requests;
SELECT pg_reload_conf();
DO $$
BEGIN
    LOOP
        PERFORM FROM apikeys.verify('text of large', endpoint => '/on again');
        PERFORM apikeys.flush();
        EXIT WHEN EXISTS (SELECT FROM apikeys.request_log WHERE endpoint = '/on again');
    END LOOP;
END
$$;
SELECT * FROM ledger();

--
-- Limits
--
-- Units of one bucket of the window come back together: a day has 128 of 675 s, an hour 128 of 28.125 s.
SELECT set_clock('2031-03-08 10:02Z');
SELECT v.code, v.limit_window, v.remaining, v.reset_after_s > 0 AS reset FROM apikeys.verify('text of small', cost => 2) AS v;
SELECT set_clock('2031-03-08 10:32Z');
SELECT v.code, v.limit_window, v.remaining FROM apikeys.verify('text of small') AS v;
SELECT * FROM apikeys.key_limits(id('small'));
SELECT check_name, passed, code, detail FROM apikeys.explain_key(id('small')) WHERE check_name LIKE '%limit%';
-- next_free_at is when some come back, and not before.
SELECT set_clock(l.next_free_at - interval '2 min') < l.next_free_at AS before FROM apikeys.key_limits(id('small')) AS l WHERE l.limit_window = 'day';
SELECT l.used FROM apikeys.key_limits(id('small')) AS l WHERE l.limit_window = 'day';
SELECT set_clock(l.next_free_at) = l.next_free_at AS then FROM apikeys.key_limits(id('small')) AS l WHERE l.limit_window = 'day';
SELECT l.used, l.next_free_at FROM apikeys.key_limits(id('small')) AS l WHERE l.limit_window = 'day';
-- A key that was never used; one without limits; an account by itself, without a plan's, with its own.
SELECT * FROM apikeys.key_limits(id('idle')) WHERE subject = 'key';
SELECT subject, limit_window, cap, used FROM apikeys.key_limits(id('large'));
SELECT * FROM apikeys.account_limits('acme');
UPDATE apikeys.account SET limits = '7/minute, 1000/total' WHERE name = 'acme';
SELECT subject, limit_window, cap, used < 1000 AS used, used + remaining = cap AS rest, next_free_at FROM apikeys.account_limits('acme');
UPDATE apikeys.account SET limits = '' WHERE name = 'acme';
SELECT * FROM apikeys.account_limits('acme');
-- A cap that was lowered below what is used.
UPDATE apikeys.key SET limits = '1/week' WHERE key_id = id('small');
SELECT * FROM apikeys.key_limits(id('small'));
SELECT check_name, passed, code FROM apikeys.explain_key(id('small'), cost => 0) WHERE NOT passed;
-- Loaded from the tables, a unit counts up to the end of its bucket, which may be of an hour after 2 days and of a day after 90.
SELECT set_clock('2031-03-09 23:40Z');
BEGIN;
SELECT (apikeys.import_key('acme', 'text of merged', alias => 'merged', limits => '100/2 days, 100/90 days')).alias;
INSERT INTO apikeys.usage_bucket (subject, subject_id, bucket, admitted, denied, units, errors, credits) SELECT 'k', id('merged'), v.* FROM (VALUES
    (timestamptz '2031-03-07 23:00Z', 1, 0, 1, 0, 0), ('2031-03-07 22:00Z', 2, 0, 2, 0, 0), ('2031-03-07 22:55Z', 4, 0, 4, 0, 0),
    ('2030-12-09 00:00Z', 8, 0, 8, 0, 0), ('2030-12-08 00:00Z', 16, 0, 16, 0, 0), ('2030-12-09 01:00Z', 32, 0, 32, 0, 0)) AS v;
INSERT INTO apikeys.usage_total (subject, subject_id, admitted, denied, units, errors, credits, first_used_at, last_used_at)
SELECT 'k', id('merged'), 63, 0, 63, 0, 0, '2030-12-08 00:00Z', '2031-03-07 23:10Z';
SELECT l.limit_window, l.used FROM apikeys.key_limits(id('merged')) AS l WHERE l.subject = 'key';
ROLLBACK;
-- Asking uses nothing, and leaves nothing pinned: the ledger still holds.
SELECT * FROM ledger();
\set VERBOSITY terse
SELECT * FROM apikeys.key_limits(1);
SELECT * FROM apikeys.account_limits('nobody');
SELECT * FROM apikeys.explain_key(NULL);
\set VERBOSITY default

--
-- Usage over time
--
SELECT (apikeys.import_key('acme', 'text of series', alias => 'series')).alias;
INSERT INTO apikeys.usage_bucket SELECT 'k', id('series'), v.* FROM (VALUES
    (timestamptz '2031-01-31 22:00Z', 1, 0, 1, 0, 0), ('2031-01-31 23:00Z', 2, 1, 3, 1, 7), ('2031-03-30 00:55Z', 10, 0, 10, 0, 0),
    ('2031-03-30 01:00Z', 20, 0, 20, 0, 0), ('2031-03-30 21:55Z', 30, 0, 30, 0, 0), ('2031-03-30 22:00Z', 40, 0, 40, 0, 0)) AS v;
-- Empty steps, and both ends: a step is whole.
SELECT * FROM apikeys.usage_series(id('series'), '2031-01-31 20:10Z', '2031-01-31 23:30Z', '1 hour');
BEGIN;
INSERT INTO apikeys.usage_bucket SELECT 'a', k.account_id, b.bucket, b.admitted, b.denied, b.units, b.errors, b.credits
FROM apikeys.usage_bucket AS b JOIN apikeys.key AS k ON b.subject = 'k' AND b.subject_id = k.key_id WHERE k.key_id = id('series');
SELECT a.*, a = s AS same
FROM apikeys.account_usage_series((SELECT a.name FROM apikeys.account AS a JOIN apikeys.key AS k USING (account_id) WHERE k.key_id = id('series')), '2031-01-31 20:10Z', '2031-01-31 23:30Z', '1 hour') AS a
JOIN apikeys.usage_series(id('series'), '2031-01-31 20:10Z', '2031-01-31 23:30Z', '1 hour') AS s USING (at) ORDER BY at;
SELECT sum(s.units) = (SELECT sum(units) FROM apikeys.usage_bucket WHERE subject = 'a' AND bucket >= '2031-01-01Z' AND bucket < '2032-01-01Z') AS all_units, count(*)
FROM apikeys.total_usage_series('2031-01-01Z', '2032-01-01Z', '1 day') AS s;
ROLLBACK;
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-01-31 22:00Z', '2031-01-31 23:00Z', '1 hour');
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-03-30 00:50Z', '2031-03-30 01:05Z', '5 minutes');
-- A step shorter than what is stored.
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-03-30 00:54:30Z', '2031-03-30 00:57Z', '1 minute');
-- Days and months are those of the time zone; that of 30 March has 23 hours in Berlin.
SET timezone = 'Europe/Berlin';
SELECT at, admitted, units FROM apikeys.usage_series(id('series'), '2031-03-29 12:00', '2031-03-31 12:00', '1 day', 'Europe/Berlin');
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-03-29 12:00', '2031-03-31 12:00', '1 day');
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-03-30 00:00', '2031-03-31 00:00', '6 hours', 'Europe/Berlin');
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-03-28', '2031-04-01', '7 days', 'Europe/Berlin');
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-01-15', '2031-04-01', '1 month', 'Europe/Berlin');
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-01-15', '2031-04-01', '1 month', 'UTC');
SELECT at, admitted FROM apikeys.usage_series(id('series'), '2031-02-15', '2031-05-01', '3 months', 'Europe/Berlin');
SELECT at, admitted, denied, units, errors, credits FROM apikeys.usage_series(id('series'), '2031-02-15', '2031-05-01', '1 year', 'Europe/Berlin');
SET timezone = 'UTC';
-- Where clocks change, steps go on to begin at local times: 23, 24 and 25 hours of a day, an hour that comes twice, a day that is skipped.
CREATE FUNCTION pg_temp.local_steps(since timestamp, until timestamp, step interval, zone text) RETURNS TABLE (starts timestamp, takes interval)
LANGUAGE sql AS $$
    SELECT s.starts_at AT TIME ZONE zone, s.ends_at - s.starts_at
    FROM apikeys_internal.series_steps(since AT TIME ZONE zone, until AT TIME ZONE zone, step, zone) AS s ORDER BY s.starts_at
$$;
SELECT * FROM pg_temp.local_steps('2031-03-29 18:00', '2031-03-31 06:00', '6 hours', 'Europe/Berlin');
SELECT * FROM pg_temp.local_steps('2031-10-25 18:00', '2031-10-27 06:00', '6 hours', 'Europe/Berlin');
SELECT * FROM pg_temp.local_steps('2031-10-26 01:00', '2031-10-26 04:00', '1 hour', 'Europe/Berlin');
SELECT * FROM pg_temp.local_steps('2011-12-29 00:00', '2012-01-01 00:00', '1 day', 'Pacific/Apia');
SELECT * FROM pg_temp.local_steps('2011-12-29 00:00', '2012-01-01 00:00', '12 hours', 'Pacific/Apia');
SELECT * FROM pg_temp.local_steps('2031-04-06 00:00', '2031-04-06 04:00', '1 hour', 'Australia/Lord_Howe');  -- back by half an hour
SELECT * FROM pg_temp.local_steps('2018-11-03 12:00', '2018-11-04 12:00', '6 hours', 'America/Sao_Paulo');  -- no midnight
SELECT * FROM pg_temp.local_steps('2030-11-02 00:00', '2030-11-05 00:00', '1 day', 'America/Havana');  -- two midnights
-- (Ten thousands of small queries: not each with a parallel worker.)
SET max_parallel_workers_per_gather = 0;
-- What is asked for in parts has the same steps as the whole, without holes, however the parts are cut.
SELECT zone, step, count(*) AS differences FROM (
    SELECT z.zone, s.step, whole.*
    FROM (VALUES ('UTC'), ('Europe/Berlin'), ('Asia/Kolkata'), ('Australia/Lord_Howe'), ('Pacific/Apia'), ('America/Sao_Paulo'), ('America/Havana')) AS z(zone),
         (VALUES (interval '1 hour'), ('6 hours'), ('1 day'), ('7 days'), ('1 month')) AS s(step),
         LATERAL (
            (SELECT w.* FROM apikeys_internal.series_steps('2011-09-25 01:17Z', '2012-01-05 01:17Z', s.step, z.zone) AS w
             EXCEPT
             SELECT w.* FROM generate_series(timestamptz '2011-09-25 01:17Z', '2012-01-05', '31 hours') AS part(since),
                    apikeys_internal.series_steps(part.since, least(part.since + interval '31 hours', '2012-01-05 01:17Z'), s.step, z.zone) AS w)
            UNION ALL
            (SELECT w.starts_at, w.ends_at FROM (
                 SELECT w.*, lead(w.starts_at) OVER (ORDER BY w.starts_at) AS next
                 FROM apikeys_internal.series_steps('2011-09-25 01:17Z', '2012-01-05 01:17Z', s.step, z.zone) AS w) AS w
             WHERE w.next <> w.ends_at)
         ) AS whole
) AS d GROUP BY 1, 2;
-- It is another cut of the same figures.
SELECT sum(s.admitted) = 103 AS admitted, count(*) FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-04-01Z', '5 minutes', 'Asia/Kathmandu') AS s;
SELECT count(*) FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-04-01Z', '80 seconds');
SELECT sum(s.admitted), sum(s.denied), sum(s.units), sum(s.errors), sum(s.credits)
FROM apikeys.usage_series(id('large'), '2031-03-05 10:00Z', '2031-03-05 10:10Z', '5 minutes') AS s;
RESET max_parallel_workers_per_gather;
-- Errors.
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-04-01Z', '75 seconds')$$),
    (2, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-01Z', '1 hour')$$),
    (3, $$SELECT * FROM apikeys.usage_series(id('series'), '-infinity', '2031-01-01Z', '1 hour')$$),
    (4, $$SELECT * FROM apikeys.usage_series(id('series'), NULL, '2031-01-01Z', '1 hour')$$),
    (5, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', '0')$$),
    (6, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', '-1 day')$$),
    (7, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', '1 day 1 hour')$$),
    (8, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', '1 month -1 day')$$),
    (9, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', NULL)$$),
    (10, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', '1 hour', 'Mars/Olympus')$$),
    (11, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', '1 hour', NULL)$$),
    (12, $$SELECT * FROM apikeys.usage_series(1, '2031-01-01Z', '2031-01-02Z', '1 hour')$$),
    (13, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', 'infinity', '1 hour')$$),
    (14, $$SELECT * FROM apikeys.usage_series(id('series'), '2031-01-01Z', '2031-01-02Z', '7 hours')$$),
    (15, $$SELECT * FROM apikeys.account_usage_series('nobody', '2031-01-01Z', '2031-01-02Z', '1 hour')$$),
    (16, $$SELECT * FROM apikeys.total_usage_series('2031-01-01Z', '2031-01-02Z', '7 hours')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

--
-- At the edge of bigint: sums stay at the greatest value, in reports, in the ledger, when buckets are merged and when more is used.
--
SELECT account_id AS edge FROM apikeys.create_account('edge', 'flat') \gset
SELECT (apikeys.import_key('edge', 'text of edge', alias => 'edge', limits => '')).key_id AS key \gset
INSERT INTO apikeys.usage_bucket
SELECT s.subject, s.id, b.bucket, n, n, n, n, n, 0
FROM (VALUES ('k'::"char", :key), ('a', :edge)) AS s(subject, id), unnest('{2020-01-01 00:00Z,2020-01-01 00:05Z,2020-01-01 00:55Z,2020-01-01 01:00Z}'::timestamptz[]) AS b(bucket),
     (VALUES (9223372036854775800)) AS v(n);
INSERT INTO apikeys.usage_total (subject, subject_id, admitted, denied, units, errors, credits, first_used_at, last_used_at)
SELECT s.subject, s.id, n, n, n, n, n, '2020-01-01', '2020-01-01'
FROM (VALUES ('k'::"char", :key), ('a', :edge)) AS s(subject, id), (VALUES (9223372036854775807)) AS v(n);
SELECT * FROM ledger() WHERE subject = 'edge';
SELECT s.* FROM apikeys.usage_series(:key, '2020-01-01 00:00Z', '2020-01-01 01:00Z', '1 hour') AS s;
SELECT r.account, r.key_id IS NOT NULL AS key, r.requests, r.denied, r.units, r.errors, r.credits
FROM unnest('{account,key}'::text[]) AS by, apikeys.usage_report('2020-01-01Z', '2020-01-02Z', ARRAY[by], only_account => 'edge') AS r ORDER BY 2;
SELECT apikeys.maintain();
SELECT b.subject, b.bucket, b.admitted, b.denied, b.units, b.errors, b.credits FROM apikeys.usage_bucket AS b WHERE b.bucket < '2020-01-02Z' ORDER BY 1;
-- Buckets that come later are added to what is merged.
INSERT INTO apikeys.usage_bucket SELECT b.subject, b.subject_id, '2020-01-01 00:10Z', b.admitted, b.denied, b.units, b.errors, b.credits, b.unlogged
FROM apikeys.usage_bucket AS b WHERE b.bucket < '2020-01-02Z';
SELECT apikeys.maintain();
SELECT b.subject, b.bucket, b.admitted, b.denied, b.units, b.errors, b.credits FROM apikeys.usage_bucket AS b WHERE b.bucket < '2020-01-02Z' ORDER BY 1;
SELECT v.code FROM apikeys.verify('text of edge', '/edge', cost => 10) AS v;
SELECT v.code, apikeys.complete(v.request_id, 500, 1, 1000000000) FROM apikeys.verify('text of edge', '/edge') AS v;
SELECT apikeys.flush();
SELECT t.subject, t.admitted, t.denied, t.units, t.errors, t.credits FROM apikeys.usage_total AS t WHERE t.subject_id IN (:key, :edge) AND t.credits > 1000000000000 ORDER BY 1;
SELECT * FROM ledger() WHERE subject = 'edge';
-- No limit on the total has room.
UPDATE apikeys.key SET limits = '9007199254740991/total' WHERE key_id = :key;
SELECT v.code, v.limit_window, v.remaining FROM apikeys.verify('text of edge', cost => 2) AS v;
SELECT l.subject, l.limit_window, l.cap, l.used, l.remaining FROM apikeys.key_limits(:key) AS l WHERE l.subject = 'key';
SELECT e.check_name, e.passed FROM apikeys.explain_key(:key) AS e WHERE e.check_name ~ '^key limit';
-- Credits of one request.
SELECT f.code, f.message FROM pg_temp.failure($$SELECT apikeys.complete((SELECT max(r.request_id::text)::uuid FROM apikeys.request_log AS r), 200, 1, 1000000001)$$) AS f;

-- Whatever plans all partitions of the log has jit off: it takes longer than the plan runs. check_tables runs inside check_ledger.
SELECT p.oid::regprocedure AS compiled FROM pg_proc AS p
WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace) AND NOT 'jit=off' = ANY (coalesce(p.proconfig, '{}'))
  AND concat(p.prosrc, pg_get_function_sqlbody(p.oid)) ~ '(FROM|JOIN|UPDATE) (apikeys\.(request_log|usage_bucket)|apikeys_internal\.check_tables)';

-- The headers of a request that takes the last unit, and of the next one.
UPDATE apikeys.key SET limits = '1/day' WHERE key_id = id('idle');
SELECT n, r.status, h.name, regexp_replace(h.value, '8[67]\d\d\d$', 'A DAY') AS value
FROM generate_series(1, 2) AS n, LATERAL (SELECT v FROM apikeys.verify('text of idle', '/' || n) AS v) AS a(v), LATERAL apikeys.http_response(a.v) AS r,
     LATERAL jsonb_each_text(r.headers) AS h(name, value);

-- Nothing is left behind, and an extension made anew knows nothing of old meters.
SET client_min_messages = warning;
DROP FUNCTION set_clock(timestamptz), id(text), ledger();
DROP EXTENSION apikeys;
CREATE EXTENSION apikeys;
SELECT * FROM apikeys.check_ledger();
