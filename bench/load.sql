-- Keys for the benchmark: :keys of them over 1,000 accounts. Key number n has the text bench-<n>, so that pgbench can make it.
-- Every :step-th is in use, and these belong to all of the accounts; they have been used before, so that none waits for its first use to be durable.
CREATE EXTENSION apikeys;
INSERT INTO apikeys.plan (name, key_prefix, limits) VALUES ('bench', 'bench', '1000000/second, 4000000000/minute');
INSERT INTO apikeys.tier (name, rank, limits) VALUES ('bench', 1, '1000000000/day, 2000000000/week, 4000000000/month, 1000000000000/total');
INSERT INTO apikeys.account (name, plan) SELECT 'account-' || n, 'bench' FROM generate_series(1, 1000) AS n;
SET session_replication_role = replica;    -- no look-up of each key's account and tier
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, tier)
SELECT n, 1 + n / :step % 1000, sha256(convert_to('bench-' || n, 'UTF8'))::apikeys.digest, '', '', 'key-' || n, 'bench'
FROM generate_series(1, :keys) AS n;
RESET session_replication_role;
INSERT INTO apikeys.usage_total SELECT 'a', account_id, 1, 0, 1, 0, 0, now(), now() FROM apikeys.account;
INSERT INTO apikeys.usage_total SELECT 'k', n * :step, 1, 0, 1, 0, 0, now(), now() FROM generate_series(1, :active) AS n;

CREATE SCHEMA bench;
CREATE FUNCTION bench.drain(OUT backlog bigint, OUT seconds float8) LANGUAGE plpgsql AS $$
DECLARE
    begun timestamptz := clock_timestamp();
BEGIN
    SELECT queue_bytes INTO backlog FROM apikeys.stats();
    WHILE NOT apikeys.flush() LOOP
    END LOOP;
    seconds := extract(epoch FROM clock_timestamp() - begun);
    WHILE EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench') LOOP
        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bench.drain() IS
'Waits until every request so far is in the tables, and the clients have gone; returns the bytes that waited, and how long it took to write them.';
