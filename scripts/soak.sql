-- For scripts/soak: keys with all kinds of limits, a clock that all sessions share, requests, changes, and the rules that the oracle judges
-- by (test/tools/oracle.c).
--
-- psql variables: scale, the number of keys of each group (the first has 15 times as many); stretch, how often the clock is moved by hours.
\set QUIET on
CREATE EXTENSION apikeys;
CREATE SCHEMA soak;
SET search_path = soak, pg_catalog;

-- Engine time is moved by a setting of each session. It is moved only while no session is in a call, so that all sessions always have the
-- same time, and it never goes back. A server that was started anew trusts the wall clock, which may be behind: so nobody makes calls before
-- begin_run.
CREATE TABLE clock (ahead float8 NOT NULL, started timestamptz NOT NULL, stretch float8 NOT NULL) WITH (fillfactor = 10);

-- Begins a call, or a part of one; false: the server is not ready. The lock is held until the transaction ends.
CREATE FUNCTION enter(alone boolean DEFAULT false) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now soak.clock;
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(7);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(7);
    END IF;
    SELECT * INTO now FROM soak.clock;
    PERFORM set_config('apikeys.debug_clock_offset', now.ahead::text, false);
    RETURN now.started = pg_postmaster_start_time();
END $$;

-- Mostly a moment passes, sometimes hours.
CREATE PROCEDURE move() LANGUAGE plpgsql AS $$
DECLARE
    mean float8 := (ARRAY[0.02, 0.02, 0.3, 0.3, 0.3, 2, 2, 30, 30, 600])[1 + floor(random() * 10)::int];
BEGIN
    PERFORM pg_advisory_xact_lock(7);
    UPDATE soak.clock SET ahead = ahead - ln(1 - random()) * CASE WHEN random() < 0.01 * stretch THEN 20000 ELSE mean END;
END $$;

-- Engine time in microseconds since 2000, as the oracle reads it: from the id of a request (a UUIDv7).
CREATE FUNCTION engine_now() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    digits text;
BEGIN
    SELECT replace(request_id::text, '-', '') INTO digits FROM apikeys.verify('clock');
    IF digits IS NULL THEN
        RAISE 'the clock''s key is overloaded';
    END IF;
    RETURN ('x' || substr(digits, 1, 12))::bit(48)::bigint * 1000 + (('x' || substr(digits, 14, 3))::bit(12)::int >> 2) - 946684800000000;
END $$;

-- Runs of the server, from after a start or a crash to before the next, in engine time, and how many meters were evicted by its end.
CREATE TABLE run (run_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, begun bigint NOT NULL, ended bigint, evictions bigint);

CREATE PROCEDURE begin_run() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7);
    UPDATE soak.clock SET ahead = ahead + 2, started = pg_postmaster_start_time() WHERE started <> pg_postmaster_start_time();
    COMMIT;
    PERFORM soak.enter();
    INSERT INTO soak.run (begun) VALUES (soak.engine_now());
END $$;

CREATE PROCEDURE end_run() LANGUAGE plpgsql AS $$
DECLARE
    now bigint;
BEGIN
    PERFORM soak.enter();
    now := soak.engine_now();
    UPDATE soak.run SET ended = now, evictions = s.evictions FROM apikeys.stats() AS s WHERE run_id = (SELECT max(run_id) FROM soak.run);
END $$;

-- Groups of keys. `changed` says what is changed while calls are made: the limits of their keys, accounts, plan or tier, or what resets and
-- grants make of them; NULL: nothing. The text of a key is k and its number; the numbers of a group are adjacent.
CREATE TABLE key_group (
    group_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, keys int, key_limits apikeys.limits, account_limits apikeys.limits,
    keys_per_account int, changed text
);
INSERT INTO key_group (name, keys, key_limits, account_limits, keys_per_account, changed) VALUES
    ('second', 15 * :scale, '1/second', '', 50, NULL),
    ('rate', :scale, '20/second, 200/minute', '', 50, NULL),
    ('seconds', :scale, '3/7 seconds, 20/minute', '', 50, NULL),
    ('minutes', :scale, '5/minute, 40/hour', '', 50, NULL),
    ('day', :scale, '8/hour, 30/day, 90/week', '', 50, NULL),
    ('month', :scale, '20/2 days, 200/month, 500/100 days', '', 50, NULL),
    ('total', :scale, '9/minute, 4000/total', '', 50, NULL),
    ('account', :scale, '4/10 seconds', '6/11 seconds, 25/minute, 120/3 hours', 4, NULL),
    ('shared', :scale, '', '2/second, 90/day, 900/month', 5, NULL),
    ('key', :scale, '60/minute', '', 50, 'key'),
    ('owner', :scale, '40/minute', '90/minute', 5, 'account'),
    ('plan', :scale, '', NULL, 3, 'plan'),
    ('tier', :scale, NULL, '', 50, 'tier'),
    ('adjusted', :scale, '20/minute, 50/hour, 300/day, 3000/total', '40/minute, 300/day, 5000/total', 3, 'adjustment');

INSERT INTO apikeys.plan (name) VALUES ('fixed'), ('moving');
UPDATE apikeys.plan SET limits = '50/minute' WHERE name = 'moving';
INSERT INTO apikeys.tier (name, rank, limits) VALUES ('moving', 1, '30/minute');
INSERT INTO apikeys.account (name, plan) VALUES ('clock', 'fixed');
INSERT INTO apikeys.account (name, plan, limits)
SELECT g.name || '-' || n, CASE WHEN g.account_limits IS NULL THEN 'moving' ELSE 'fixed' END, g.account_limits
FROM key_group AS g, generate_series(0, (g.keys - 1) / g.keys_per_account) AS n;

CREATE TABLE member AS
SELECT group_id, row_number() OVER (ORDER BY group_id, n)::int AS number, a.account_id
FROM key_group AS g, generate_series(0, g.keys - 1) AS n, apikeys.account AS a
WHERE a.name = g.name || '-' || n / g.keys_per_account;
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, limits, tier)
SELECT m.number, m.account_id, sha256(convert_to('k' || m.number, 'UTF8'))::apikeys.digest, '', '', 'k' || m.number, g.key_limits,
       CASE WHEN g.key_limits IS NULL THEN 'moving' END
FROM member AS m JOIN key_group AS g USING (group_id)
UNION ALL
SELECT 1000000000, account_id, sha256(convert_to('clock', 'UTF8'))::apikeys.digest, '', '', 'clock', '', NULL
FROM apikeys.account WHERE name = 'clock';
CREATE TABLE size AS SELECT count(*)::int AS keys FROM member;

-- What keys and accounts have their limits from: themselves, a plan, a tier.
CREATE TABLE source (source_id int GENERATED ALWAYS AS IDENTITY (START 0 MINVALUE 0) PRIMARY KEY, kind text, name text, changed boolean, UNIQUE (kind, name));
INSERT INTO source (kind, name, changed)
SELECT text 'key', key_id::text, changed IS NOT DISTINCT FROM 'key' FROM apikeys.key LEFT JOIN member ON number = key_id LEFT JOIN key_group USING (group_id)
WHERE limits IS NOT NULL
UNION ALL
SELECT DISTINCT 'account', account_id::text, changed IS NOT DISTINCT FROM 'account'
FROM apikeys.account LEFT JOIN member USING (account_id) LEFT JOIN key_group USING (group_id) WHERE limits IS NOT NULL
UNION ALL SELECT 'plan', name, name = 'moving' FROM apikeys.plan
UNION ALL SELECT 'tier', name, true FROM apikeys.tier;
CREATE TABLE subject AS
SELECT text 'k' AS kind, k.key_id AS id, s.source_id, coalesce(m.group_id, 0) AS group_id
FROM apikeys.key AS k LEFT JOIN member AS m ON m.number = k.key_id
    JOIN source AS s ON s.kind = CASE WHEN k.limits IS NULL THEN 'tier' ELSE 'key' END AND s.name = CASE WHEN k.limits IS NULL THEN k.tier ELSE k.key_id::text END
UNION ALL
SELECT 'a', a.account_id, s.source_id, 0
FROM apikeys.account AS a
    JOIN source AS s ON s.kind = CASE WHEN a.limits IS NULL THEN 'plan' ELSE 'account' END AND s.name = CASE WHEN a.limits IS NULL THEN a.plan ELSE a.account_id::text END;

-- What was changed. begun: engine time before the change. ended: engine time when it had been committed and all calls that began earlier were
-- over; NULL: it failed, or the server crashed, and it may have been made or not.
CREATE TABLE change (change_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, source_id int, limits apikeys.limits, begun bigint, ended bigint);
CREATE TABLE adjusted (change_id int, subject "char", subject_id bigint, limit_window text, units bigint, until timestamptz, counts_from bigint);
INSERT INTO change (source_id, limits, begun, ended)
SELECT s.source_id, CASE s.kind WHEN 'key' THEN (SELECT limits FROM apikeys.key WHERE key_id = s.name::bigint)
                                WHEN 'account' THEN (SELECT limits FROM apikeys.account WHERE account_id = s.name::bigint)
                                WHEN 'plan' THEN (SELECT limits FROM apikeys.plan AS p WHERE p.name = s.name)
                                ELSE (SELECT limits FROM apikeys.tier AS t WHERE t.name = s.name) END, -1e17, -1e17
FROM source AS s ORDER BY 1;

CREATE FUNCTION random_limits() RETURNS apikeys.limits LANGUAGE sql AS $$
    SELECT (ARRAY['60/minute', '30/minute', '1/minute', '', '20/day, 9/hour',
                  format('60/minute, 300/%s minutes', 10 + n), format('%s/%s seconds', m, n), format('%s/second, 90/hour', m),
                  format('60/minute, 400/%s hours', n), '60/minute, 900/hour, 5000/day, 9000/week, 20000/month, 90000/total'])
           [1 + floor(random() * 10)::int]::apikeys.limits
    FROM (SELECT 1 + floor(random() * 20)::int AS n, 1 + floor(random() * 30)::int AS m) AS r $$;

CREATE PROCEDURE change_limits(source_id int, limits apikeys.limits) LANGUAGE plpgsql AS $$
DECLARE
    its soak.source := (SELECT s FROM soak.source AS s WHERE s.source_id = change_limits.source_id);
BEGIN
    CASE its.kind
        WHEN 'key' THEN UPDATE apikeys.key AS k SET limits = change_limits.limits WHERE k.key_id = its.name::bigint;
        WHEN 'account' THEN UPDATE apikeys.account AS a SET limits = change_limits.limits WHERE a.account_id = its.name::bigint;
        WHEN 'plan' THEN UPDATE apikeys.plan AS p SET limits = change_limits.limits WHERE p.name = its.name;
        WHEN 'tier' THEN UPDATE apikeys.tier AS t SET limits = change_limits.limits WHERE t.name = its.name;
    END CASE;
END $$;

-- Resets usage or grants units, of a key or an account whose limits stay.
CREATE PROCEDURE adjust(change_id int) LANGUAGE plpgsql AS $$
DECLARE
    chosen soak.member := (SELECT m FROM soak.member AS m JOIN soak.key_group AS g USING (group_id) WHERE g.changed = 'adjustment' ORDER BY random() LIMIT 1);
    account text := (SELECT a.name FROM apikeys.account AS a WHERE a.account_id = chosen.account_id);
    limit_window text := (ARRAY['minute', 'day', 'total'])[1 + floor(random() * 3)::int];
    units bigint := CASE WHEN random() < 0.2 THEN -5 ELSE 1 + floor(random() * 40) END;
    until timestamptz := timestamptz '2000-01-01 00:00:00+00' + soak.engine_now() * interval '1 us' + interval '1 minute' - interval '10 minutes' * ln(1 - random());
BEGIN
    INSERT INTO soak.adjusted
    SELECT adjust.change_id, a.subject, a.subject_id, a.limit_window, a.units, a.until, a.counts_from
    FROM (SELECT floor(random() * 4) AS n) AS r, LATERAL (
        SELECT * FROM apikeys.reset_usage(chosen.number, limit_window) WHERE r.n = 0 UNION ALL
        SELECT * FROM apikeys.reset_account_usage(account, limit_window) WHERE r.n = 1 UNION ALL
        SELECT * FROM apikeys.grant_units(chosen.number, limit_window, units, until) WHERE r.n = 2 UNION ALL
        SELECT * FROM apikeys.grant_account_units(account, limit_window, units, until) WHERE r.n = 3) AS a;
END $$;

-- Changes something in three transactions: notes it, makes it, notes its end. One change of a source at a time.
CREATE PROCEDURE change_something() LANGUAGE plpgsql AS $$
DECLARE
    chosen int;
    made soak.change;
BEGIN
    IF random() < 0.7 THEN
        SELECT s.source_id INTO chosen FROM soak.source AS s WHERE s.changed ORDER BY random() * CASE WHEN s.kind IN ('plan', 'tier') THEN 0.03 ELSE 1 END LIMIT 1;
    END IF;
    IF NOT soak.enter() OR NOT pg_try_advisory_lock(8, coalesce(chosen, -1)) THEN
        RETURN;
    END IF;
    INSERT INTO soak.change (source_id, limits, begun) SELECT chosen, CASE WHEN chosen IS NOT NULL THEN soak.random_limits() END, soak.engine_now()
    RETURNING * INTO made;
    COMMIT;
    IF soak.enter() THEN
        IF chosen IS NULL THEN
            CALL soak.adjust(made.change_id);
        ELSE
            CALL soak.change_limits(chosen, made.limits);
        END IF;
    END IF;
    COMMIT;
    IF soak.enter(true) THEN
        UPDATE soak.change SET ended = soak.engine_now() WHERE change_id = made.change_id;
    END IF;
    COMMIT;
    PERFORM pg_advisory_unlock(8, coalesce(chosen, -1));
END $$;

-- Makes requests: on a few keys, the same for all sessions until the clock is moved; on keys one after the other; or on keys at random.
CREATE FUNCTION batch(calls int, many boolean, OUT request_id uuid, OUT code text) RETURNS SETOF record LANGUAGE plpgsql ROWS 100 AS $$
DECLARE
    total int := (SELECT s.keys FROM soak.size AS s);
    scene int := (ARRAY[0, 0, 0, 1, 1, 2])[1 + floor(random() * 6)::int];
    base int := floor(random() * total);
    keys text[];
    costs int[];
BEGIN
    IF NOT soak.enter() THEN
        PERFORM pg_sleep(0.02);
        RETURN QUERY SELECT NULL::uuid, 'not ready';
        RETURN;
    END IF;
    IF scene = 0 THEN
        base := hashfloat8(c.ahead) & 1048575 FROM soak.clock AS c;
    END IF;
    SELECT array_agg('k' || 1 + (base + CASE scene WHEN 0 THEN floor(random() * 12)::int WHEN 1 THEN i ELSE floor(random() * total)::int END) % total),
           array_agg(CASE WHEN random() < 0.7 THEN 1 ELSE floor(random() * 5)::int END)
    INTO keys, costs FROM generate_series(1, calls) AS i;
    IF many THEN
        RETURN QUERY SELECT v.request_id, v.code FROM apikeys.verify_many(keys, costs => costs) AS v;
    ELSE
        RETURN QUERY SELECT v.request_id, v.code FROM unnest(keys, costs) AS c(key, cost), LATERAL apikeys.verify(c.key, cost => c.cost) AS v;
    END IF;
END $$;

-- For the oracle.
CREATE FUNCTION limits_text(apikeys.limits) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(cap || '/' || coalesce(extract(epoch FROM window_length)::bigint, 0), ' '), '') FROM apikeys.limits_items($1) $$;
CREATE FUNCTION seconds_of(limit_window text) RETURNS bigint LANGUAGE sql AS $$
    SELECT coalesce(extract(epoch FROM window_length)::bigint, 0) FROM apikeys.limits_items(('1/' || $1)::apikeys.limits) $$;
CREATE FUNCTION microseconds_of(timestamptz) RETURNS bigint LANGUAGE sql AS $$ SELECT (extract(epoch FROM $1) * 1000000)::bigint - 946684800000000 $$;
-- Limits may be in force until the next change that has certainly been made.
CREATE VIEW rules AS
    SELECT 0 AS place, format('N %s %s', group_id, name) AS line FROM key_group
    UNION ALL
    SELECT 0, format('S %s %s %s %s', kind, id, source_id, group_id) FROM subject
    UNION ALL
    SELECT change_id, format('V %s %s %s %s', c.source_id, c.begun,
                  coalesce((SELECT n.ended FROM change AS n WHERE n.source_id = c.source_id AND n.change_id > c.change_id AND n.ended IS NOT NULL
                            ORDER BY n.change_id LIMIT 1), 9e18::bigint), limits_text(c.limits))
    FROM change AS c WHERE source_id IS NOT NULL
    UNION ALL
    SELECT change_id, format('%s %s %s %s %s %s %s', CASE WHEN a.until IS NULL THEN 'A' ELSE 'G' END, a.subject, a.subject_id, seconds_of(a.limit_window),
                  c.begun, coalesce(c.ended, 9e18::bigint),
                  CASE WHEN a.until IS NULL THEN a.counts_from::text ELSE a.units || ' ' || microseconds_of(a.until) END)
    FROM adjusted AS a JOIN change AS c USING (change_id)
    UNION ALL
    SELECT 0, format('R %s %s', begun, ended) FROM run WHERE evictions = 0;
CREATE VIEW rows AS
    SELECT at, key_id, account_id, request_id, cost, CASE code WHEN 'valid' THEN 1 WHEN 'rate_limited' THEN 2 WHEN 'quota_exceeded' THEN 2 ELSE 0 END AS outcome
    FROM apikeys.request_log WHERE key_id <> 1000000000;

INSERT INTO clock VALUES (0, pg_postmaster_start_time(), :stretch);
CREATE INDEX ON change (source_id, change_id);
CALL begin_run();
ANALYZE;
