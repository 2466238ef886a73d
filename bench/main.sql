-- What the main database has beyond load.sql.
SELECT setval('apikeys.key_number_seq', 10000000);

-- Keys that are denied: the quota of the day is used up.
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, limits)
SELECT 100000000 + n, 1 + n % 1000, sha256(convert_to('denied-' || n, 'UTF8'))::apikeys.digest, '', '', 'denied-' || n,
       '1/day, 2000000000/week, 4000000000/month, 1000000000000/total'
FROM generate_series(1, :active) AS n;
INSERT INTO apikeys.usage_total SELECT 'k', 100000000 + n, 1, 0, 1, 0, 0, now(), now() FROM generate_series(1, :active) AS n;
INSERT INTO apikeys.usage_bucket (subject, subject_id, bucket, admitted, denied, units, errors, credits)
SELECT 'k', 100000000 + n, date_bin('5 minutes', now(), '2000-01-01 00:00Z'), 1, 0, 1, 0, 0 FROM generate_series(1, :active) AS n;

-- Keys as create_key makes them, to be called in the server: pgbench cannot know their texts.
CREATE TABLE bench.issued AS
SELECT k.key_id, k.key FROM generate_series(1, :active) AS n CROSS JOIN apikeys.create_key('account-' || 1 + n % 1000, tier => 'bench') AS k;
INSERT INTO apikeys.usage_total SELECT 'k', key_id, 1, 0, 1, 0, 0, now(), now() FROM bench.issued;

-- Keys with a month of history that no meter has seen: as it is stored, 5-minute buckets of two days and hours before (odd numbers), and
-- 5-minute buckets throughout (even numbers). What the writer writes at the same time lies together: the buckets of one moment, and the hours
-- of a key's day when they are merged, two days later.
CREATE TABLE bench.cold AS SELECT n AS id, 200000000 + n AS key_id, n % 2 = 0 AS fine, false AS touched FROM generate_series(1, :cold) AS n;
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, tier)
SELECT key_id, 1 + id % 1000, sha256(convert_to('cold-' || id, 'UTF8'))::apikeys.digest, '', '', 'cold-' || id, 'bench' FROM bench.cold;
INSERT INTO apikeys.usage_total SELECT 'k', key_id, 10000, 0, 10000, 0, 0, now() - interval '30 days', now() FROM bench.cold;
INSERT INTO apikeys.usage_bucket (subject, subject_id, bucket, admitted, denied, units, errors, credits)
SELECT 'k', c.key_id, b, 1, 0, 1, 0, 0
FROM generate_series(date_trunc('hour', now()) - interval '30 days', now(), interval '5 minutes') AS b
JOIN bench.cold AS c ON c.fine OR b > now() - interval '2 days' OR extract(minute FROM b) = 0
ORDER BY CASE WHEN c.fine OR b > now() - interval '2 days' THEN b ELSE date_trunc('day', b) + interval '3 days' END, c.key_id, b;

-- Batches of 100 keys.
CREATE TABLE bench.batch AS
SELECT id, array_agg('bench-' || n * :step) AS keys, array_agg('/v1/items'::text) AS endpoints
FROM (SELECT 1 + (row_number() OVER (ORDER BY random()) - 1) / 100 AS id, n FROM generate_series(1, :active) AS n) AS numbered
GROUP BY id;
ALTER TABLE bench.batch ADD PRIMARY KEY (id);

-- An application's own table, which a policy protects by the account that the transaction acts for.
CREATE ROLE bench_application LOGIN IN ROLE apikeys_verifier;
CREATE TABLE bench.orders (id bigint PRIMARY KEY, account_id bigint NOT NULL, item text NOT NULL, total numeric NOT NULL);
INSERT INTO bench.orders SELECT n, 1 + n % 1000, 'item ' || n, n % 997 FROM generate_series(1, 100000) AS n;
CREATE INDEX ON bench.orders (account_id, id);
ALTER TABLE bench.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON bench.orders USING (account_id = (SELECT apikeys.current_account_id()));
-- The same with 100,000 rows of one account.
CREATE TABLE bench.bulk AS SELECT n AS id, 1::bigint AS account_id FROM generate_series(1, 100000) AS n;
ALTER TABLE bench.bulk ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON bench.bulk USING (account_id = (SELECT apikeys.current_account_id()));
GRANT USAGE ON SCHEMA bench TO bench_application;
GRANT SELECT ON bench.orders, bench.bulk TO bench_application;

CREATE FUNCTION bench.policy_cost() RETURNS numeric LANGUAGE plpgsql SET client_min_messages = error SET max_parallel_workers_per_gather = 0 AS $$
DECLARE
    with_policy float8;
    without     float8;
    begun       timestamptz;
BEGIN
    PERFORM apikeys.begin_for(a.name) FROM apikeys.account AS a WHERE a.account_id = 1;
    FOR i IN 1 .. 20 LOOP
        begun := clock_timestamp();
        PERFORM count(*) FROM bench.bulk AS b WHERE b.account_id = (SELECT 1::bigint);
        without := least(without, extract(epoch FROM clock_timestamp() - begun));
        SET LOCAL ROLE bench_application;
        begun := clock_timestamp();
        PERFORM count(*) FROM bench.bulk AS b;
        with_policy := least(with_policy, extract(epoch FROM clock_timestamp() - begun));
        RESET ROLE;
    END LOOP;
    RETURN round((with_policy / without)::numeric, 3);
END
$$;
COMMENT ON FUNCTION bench.policy_cost() IS
'Time of a count of 100,000 rows through a policy that asks for current_account_id(), by that of the same condition with a constant; each the least of 20 times.';

-- What recording costs at least if each request is a transaction.
CREATE TABLE bench.request (LIKE apikeys.request_log);
CREATE INDEX ON bench.request (key_id, at);

CREATE FUNCTION bench.call_time(keys text[]) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    times   float8[];
    begun   timestamptz;
    empty   interval;
    counted bigint;
BEGIN
    FOR i IN 1 .. 5 LOOP
        PERFORM apikeys.flush();
        begun := clock_timestamp();
        PERFORM count(k) FROM unnest(keys) AS k;
        empty := clock_timestamp() - begun;
        begun := clock_timestamp();
        SELECT count(apikeys.verify(k, endpoint => '/v1/items')) INTO counted FROM unnest(keys) AS k;
        times := times || extract(epoch FROM clock_timestamp() - begun - empty)::float8;
    END LOOP;
    RETURN round((1e6 * (SELECT min(t) FROM unnest(times) AS t) / cardinality(keys))::numeric, 2);
END
$$;
COMMENT ON FUNCTION bench.call_time(text[]) IS
'Time of one call of verify in the server, in microseconds: a query that calls it for each element, less one that only counts them; the least of five times.';

CREATE FUNCTION bench.cold_time(is_fine boolean) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    times  float8[];
    begun  timestamptz;
    chosen record;
BEGIN
    FOR chosen IN UPDATE bench.cold SET touched = true
        WHERE id IN (SELECT id FROM bench.cold WHERE NOT touched AND fine = is_fine ORDER BY id LIMIT 10) RETURNING id
    LOOP
        begun := clock_timestamp();
        PERFORM apikeys.verify('cold-' || chosen.id);
        times := times || extract(epoch FROM clock_timestamp() - begun)::float8;
    END LOOP;
    RETURN round((1e3 * (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY t) FROM unnest(times) AS t))::numeric, 3);
END
$$;
COMMENT ON FUNCTION bench.cold_time(boolean) IS 'Time of the first call for a key with a month of history, in milliseconds: the median of ten keys.';
