-- Data for the benchmark: :keys keys over 1,000 accounts. Key number n has the text bench-<n>, so that pgbench can make it.
CREATE EXTENSION apikeys;
INSERT INTO apikeys.plan (name, limits) VALUES ('bench', '1000000/second, 4000000000/minute');
INSERT INTO apikeys.tier (name, rank, limits) VALUES ('bench', 1, '1000000000/day, 2000000000/week, 4000000000/month, 1000000000000/total');
INSERT INTO apikeys.account (name, plan) SELECT 'account-' || n, 'bench' FROM generate_series(1, 1000) AS n;
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, tier)
SELECT n, 1 + n % 1000, sha256(convert_to('bench-' || n, 'UTF8'))::apikeys.digest, '', '', 'key-' || n, 'bench'
FROM generate_series(1, :keys) AS n;
VACUUM ANALYZE apikeys.key, apikeys.account;
CHECKPOINT;
