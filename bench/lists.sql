-- Keys that are listed: :keys of the same 1,000 accounts, 1,000 of them of account 1000. A lifetime of 90 days for most; some never expire, some
-- are inactive, suspended or archived.
SET session_replication_role = replica;    -- no look-up of each key's account
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, created_at, expires_at, active, suspended_at, suspended_reason, archived_at, limits)
SELECT n, CASE WHEN n <= 10990 THEN 1000 ELSE 1 + n % 999 END, sha256(convert_to('bench-' || n, 'UTF8'))::apikeys.digest, 'ak',
       'ak_..' || right(md5(n::text), 4), (ARRAY['web', 'Mobile', 'server', 'CI', 'batch', 'test'])[1 + n % 6] || ' ' || md5(n::text),
       b.born, CASE WHEN n % 5 > 0 THEN b.born + interval '90 days' END, n % 20 <> 7, CASE WHEN n % 1000 = 8 THEN now() END, CASE WHEN n % 1000 = 8 THEN 'unpaid' END,
       CASE WHEN n % 100 = 7 THEN now() END, '1000/day, 20000/month'
FROM generate_series(10001, :keys) AS n, LATERAL (SELECT now() - interval '89 days' * n / :keys) AS b (born);
UPDATE apikeys.account SET limits = '50/second, 1000000/month' WHERE account_id = 1000;
-- What each of the thousand has used within the month: an hour of each day.
INSERT INTO apikeys.usage_bucket
SELECT 'k', n, date_trunc('day', now(), 'UTC') - d * interval '1 day' + n % 24 * interval '1 hour', 5, 0, 5, 0, 0, 5
FROM generate_series(10001, 10990) AS n, generate_series(1, 29) AS d;
INSERT INTO apikeys.usage_total SELECT 'k', n, 145, 0, 145, 0, 0, now() - interval '29 days', now() FROM generate_series(10001, 10990) AS n;
RESET session_replication_role;
