-- Blocked client addresses: after failures by themselves, and by hand. Time is moved, never waited for.
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END
$$;
SET search_path = pg_catalog;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
INSERT INTO apikeys.plan (name) VALUES ('default');
INSERT INTO apikeys.account (account_id, name, plan) VALUES (1, 'acme', 'default');
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, suspended_at, suspended_reason)
VALUES (1, 1, sha256('good')::apikeys.digest, '', '', 'good', NULL, NULL), (2, 1, sha256('suspended')::apikeys.digest, '', '', 'suspended', now(), 'test');

-- The codes of so many requests with one text from one address.
CREATE FUNCTION pg_temp.ask(key text, ip inet, times int = 1) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(a.code || CASE WHEN a.count > 1 THEN ' x ' || a.count ELSE '' END, ', ' ORDER BY a.first)
    FROM (SELECT v.code, count(*), min(v.n) AS first
          FROM apikeys.verify_many(array_fill(key, ARRAY[times]), ips => array_fill(ip, ARRAY[times])) AS v GROUP BY v.code) AS a
$$;
CREATE VIEW pg_temp.blocked AS
SELECT network, automatic, reason, until - since AS lasts, failures, blocked_by = SESSION_USER AS mine FROM apikeys.address_block_list ORDER BY network;
SHOW apikeys.ip_failures;
SHOW apikeys.ip_block_duration;

-- The 20th failure within 10 minutes blocks the address, for any key, before anything is looked up, metered or recorded.
SELECT pg_temp.ask('no key', '192.0.2.1', 19), pg_temp.ask('good', '192.0.2.1');
SELECT * FROM pg_temp.blocked;
SELECT pg_temp.ask('no key', '192.0.2.1', 3);
SELECT v.allowed, v.status, v.code, v.message, v.key_id, v.account, v.request_id, v.limit_subject, v.limit_window, v.reset_after_s, v.retry_after_s > 14 * 60 AND v.retry_after_s <= 15 * 60 AS retry,
       ARRAY(SELECT jsonb_object_keys(h.headers)) AS headers, h.body
FROM apikeys.verify('good', ip => '192.0.2.1') AS v, apikeys.http_response(v) AS h;
SELECT status, code, message, key_id, account FROM apikeys.authenticate('good', ip => '192.0.2.1');
SELECT n, code FROM apikeys.verify_many('{good,good,good,NULL}', ips => '{192.0.2.1,192.0.2.2,NULL,192.0.2.1/24}') ORDER BY n;
SELECT apikeys.flush();
SELECT code, ip, count(*) FROM apikeys.request_log GROUP BY 1, 2 ORDER BY 2;
SELECT * FROM pg_temp.blocked;
-- Refusals of keys that are known do not count; nor requests without an address.
SELECT pg_temp.ask('suspended', '192.0.2.3', 30), pg_temp.ask('good', '192.0.2.3'), pg_temp.ask('no key', NULL, 30);
-- A text that is missing counts, and so does authenticate: there would else be a way to guess for free.
SELECT pg_temp.ask(NULL, '192.0.2.4', 10);
SELECT code, count(*) FROM generate_series(1, 11) AS n, apikeys.authenticate('no key ' || n, ip => '192.0.2.4') GROUP BY 1 ORDER BY 1 DESC;
SELECT pg_temp.ask('good', '192.0.2.4');
-- So does key_facts.
SELECT count(apikeys.key_facts('no key ' || n, '192.0.2.14')) FROM generate_series(1, 20) AS n;
SELECT pg_temp.ask('good', '192.0.2.14'), apikeys.key_facts('good', '192.0.2.14'), apikeys.key_facts('good', '192.0.2.2') ->> 'alias' AS alias;

-- ::ffff:a.b.c.d is a.b.c.d; a /64 of IPv6 counts as one.
SELECT pg_temp.ask('no key', '::ffff:192.0.2.5', 10), pg_temp.ask('no key', '192.0.2.5', 10), pg_temp.ask('good', '192.0.2.5'), pg_temp.ask('good', '::ffff:192.0.2.5');
SELECT n, pg_temp.ask('no key', ('2001:db8:0:1::' || n)::inet, 7) FROM generate_series(1, 3) AS n;
SELECT pg_temp.ask('good', '2001:db8:0:1:ffff::'), pg_temp.ask('good', '2001:db8::1'), pg_temp.ask('good', '2001:db8:0:2::1');
SELECT network, automatic, reason, lasts, failures FROM pg_temp.blocked;

-- Below the block, failures leave a trace: the address with what it asked for last, and a count by code.
SELECT apikeys.flush();
CREATE TEMP TABLE counted AS SELECT * FROM apikeys.verdict_counts();
SELECT code FROM apikeys.verify('no key', '/first', '198.51.100.7');
SELECT v.code FROM unnest('{no key,NULL,good}'::text[]) WITH ORDINALITY AS k (text, n), LATERAL apikeys.verify(k.text, '/v1/items?token=x&n=' || k.n, '198.51.100.7') AS v;
SELECT code FROM apikeys.verify('no key', '/v1/' || repeat('x', 200), '198.51.100.8');
SELECT code FROM apikeys.verify('no key', NULL, '2001:db8:0:9::1');
SELECT code FROM apikeys.verify('no key', '/v1/items', '192.0.2.1');
SELECT key AS spare FROM apikeys.create_key('acme', 'spare') \gset
SELECT code FROM apikeys.verify('no key', '/v1/' || :'spare' || '/items', '198.51.100.9');
SELECT network, failures, failed_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS now, replace(left(endpoint, 8), right(:'spare', 4), 'last') AS endpoint,
       octet_length(endpoint) AS len, strpos(endpoint, :'spare') > 0 AS leaked
FROM apikeys.failing_addresses WHERE network << '198.51.100.0/24' OR network = '2001:db8:0:9::/64' ORDER BY network;
SELECT apikeys.flush();
SELECT code, n.verdicts - c.verdicts AS more FROM apikeys.verdict_counts() AS n JOIN counted AS c USING (code) WHERE n.verdicts > c.verdicts ORDER BY code;
SELECT count(*) = 14 AS all_codes FROM counted;

-- explain_key shows it first, and counts nothing.
SELECT ip, e.check_name, e.passed, e.code, regexp_replace(e.detail, '\d{4}-\d\d-.*', 'TIME') AS detail
FROM unnest('{192.0.2.1,192.0.2.2,NULL}'::inet[]) AS a(ip), apikeys.explain_key(1, ip => ip) WITH ORDINALITY AS e(check_name, passed, code, detail, n) WHERE n <= 2;

-- The block ends by itself, and the window slides.
SELECT pg_temp.ask('no key', '192.0.2.6', 19);
SET apikeys.debug_clock_offset = '840s';
SELECT pg_temp.ask('good', '192.0.2.1');
SET apikeys.debug_clock_offset = '905s';
SELECT pg_temp.ask('good', '192.0.2.1');
SELECT pg_temp.ask('no key', '192.0.2.6', 19), pg_temp.ask('no key', '192.0.2.6', 2);
RESET apikeys.debug_clock_offset;

-- Lifted at once, with the failures. A rollback is none of its business. The writer has put them on record before: two rounds,
-- for the first may have been under way.
SELECT apikeys.maintain(), apikeys.maintain();
SELECT network, automatic, reason, until - since AS lasts, failures, blocked_by FROM apikeys.unblock_address('192.0.2.4');
BEGIN;
SELECT network, failures FROM apikeys.unblock_address('::ffff:192.0.2.5');
ROLLBACK;
SELECT pg_temp.ask('good', '192.0.2.4'), pg_temp.ask('no key', '192.0.2.4', 19), pg_temp.ask('good', '192.0.2.4'), pg_temp.ask('good', '192.0.2.5');
SELECT network FROM apikeys.unblock_address('2001:db8:0:1::77');
SELECT pg_temp.ask('good', '2001:db8:0:1::1');
SELECT network FROM apikeys.unblock_address('192.0.2.0/24') ORDER BY 1;
SELECT * FROM pg_temp.blocked;

-- By hand.
SELECT network, automatic, reason, until - since AS lasts, failures, blocked_by = SESSION_USER AS mine FROM apikeys.block_address('198.51.100.77/24', 'scans', '1 hour');
SELECT network, reason, until FROM apikeys.block_address('2001:db8:9::/48', 'rented by nobody');
SELECT network FROM apikeys.block_address('::ffff:203.0.113.9', 'one');
SELECT * FROM pg_temp.blocked;
SELECT pg_temp.ask('good', '198.51.100.1'), pg_temp.ask('good', '198.51.101.1'), pg_temp.ask('good', '2001:db8:9:8::7'), pg_temp.ask('good', '::ffff:203.0.113.9'), pg_temp.ask('good', '203.0.113.8');
SELECT status, code, message FROM apikeys.authenticate('good', ip => '198.51.100.1');
SELECT e.check_name, e.passed, e.code, regexp_replace(e.detail, '\d{4}-\d\d-.*', 'TIME') AS detail
FROM unnest('{198.51.100.1,2001:db8:9::}'::inet[]) AS a(ip), apikeys.explain_key(1, ip => ip) WITH ORDINALITY AS e(check_name, passed, code, detail, n) WHERE n = 1;
-- Blocked again: what is new holds. Wider and narrower networks are their own.
SELECT network, reason, until - since AS lasts FROM apikeys.block_address('198.51.100.0/24', 'scans again', '2 hours');
SELECT network FROM apikeys.block_address('198.51.100.128/25', 'one half');
SET apikeys.debug_clock_offset = '90min';
SELECT pg_temp.ask('good', '198.51.100.1');
SET apikeys.debug_clock_offset = '121min';
SELECT pg_temp.ask('good', '198.51.100.1'), pg_temp.ask('good', '198.51.100.129');
RESET apikeys.debug_clock_offset;
-- A transaction that is undone blocks and frees only itself.
BEGIN;
SELECT network FROM apikeys.block_address('192.0.2.0/24', 'undone');
SELECT pg_temp.ask('good', '192.0.2.1');
ROLLBACK;
SELECT pg_temp.ask('good', '192.0.2.1');
BEGIN;
SELECT network FROM apikeys.unblock_address('203.0.113.9');
SELECT pg_temp.ask('good', '203.0.113.9');
ROLLBACK;
SELECT pg_temp.ask('good', '203.0.113.9');
-- Whatever changes the table, the next call sees it.
INSERT INTO apikeys.address_block (network, reason) VALUES ('192.0.2.0/24', 'by SQL');
SELECT pg_temp.ask('good', '192.0.2.1');
UPDATE apikeys.address_block SET network = '192.0.3.0/24' WHERE network = '192.0.2.0/24';
SELECT pg_temp.ask('good', '192.0.2.1'), pg_temp.ask('good', '192.0.3.1');
DELETE FROM apikeys.address_block WHERE network = '192.0.3.0/24';
SELECT pg_temp.ask('good', '192.0.3.1');
-- All within a network are lifted, automatic ones too.
SELECT pg_temp.ask('no key', '203.0.113.10', 20);
SELECT apikeys.maintain(), apikeys.maintain();
SELECT network, automatic FROM apikeys.unblock_address('203.0.113.0/24') ORDER BY 1;
SELECT network, reason FROM apikeys.unblock_address('198.51.100.0/24') ORDER BY 1;
SELECT pg_temp.ask('good', '203.0.113.10'), pg_temp.ask('good', '198.51.100.1');

-- retry_after_s is the time to the end of the last block; NULL: there is none.
SELECT (apikeys.block_address('198.51.100.0/24', 'a day', '1 day')).network AS day, (apikeys.block_address('198.51.100.1', 'an hour', '1 hour')).network AS hour,
       (apikeys.block_address('198.51.100.2', 'for good')).network AS good;
SELECT a.ip, v.code, round(v.retry_after_s / 60) AS minutes, c.retry_after_s IS NOT DISTINCT FROM v.retry_after_s OR abs(c.retry_after_s - v.retry_after_s) < 60 AS alike
FROM unnest('{198.51.100.1,198.51.100.2,198.51.100.3}'::inet[]) AS a(ip), apikeys.verify('good', ip => a.ip) AS v, apikeys.authenticate('good', ip => a.ip) AS c;
SELECT count(*) FROM apikeys.unblock_address('198.51.100.0/24');

-- Errors.
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.block_address(NULL, 'x')$$),
    (2, $$SELECT apikeys.block_address('192.0.2.1', E' \n')$$),
    (3, $$SELECT apikeys.block_address('192.0.2.1', NULL)$$),
    (4, $$SELECT apikeys.block_address('192.0.2.1', 'x', '0')$$),
    (5, $$SELECT apikeys.unblock_address(NULL)$$),
    (6, $$SELECT apikeys.unblock_address('192.0.2.1')$$),
    (7, $$SELECT apikeys.unblock_address('2001:db8:9:8::7')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
ALTER SYSTEM SET apikeys.ip_failures = '20';
ALTER SYSTEM SET apikeys.ip_failures = '20/hour, 100/day';
ALTER SYSTEM SET apikeys.ip_failures = '0/hour';
ALTER SYSTEM SET apikeys.ip_failures = '9/total';
ALTER SYSTEM SET apikeys.ip_never_blocked = '192.0.2.0/24', '192.0.2.0/33';
ALTER SYSTEM SET apikeys.ip_never_blocked = '192.0.2.1,';
ALTER SYSTEM SET apikeys.ip_never_blocked = 'localhost';
ALTER SYSTEM SET apikeys.trusted_proxies = '10.0.0.0/8, proxy';
-- Without trusted proxies the peer is the client.
SELECT apikeys.client_address(f, p) FROM (VALUES ('192.0.2.1', inet '10.0.0.1'), (NULL, '10.0.0.1/8'), ('x', '::ffff:10.0.0.1'), ('192.0.2.1', NULL)) AS t (f, p);

-- What changed is on record; what was blocked by itself, the writer has put there.
SELECT action, object_id, role = SESSION_USER AS mine, old - '{until,blocked_at,blocked_by}'::text[] AS old, new - '{until,blocked_at,blocked_by}'::text[] AS new
FROM apikeys.audit_log WHERE object = 'address_block' ORDER BY object_id COLLATE "C", id;
SELECT kind, key_id, account_id, details - 'until' AS details, (details ->> 'until')::timestamptz > now() AS until FROM apikeys.notice WHERE kind = 'address_blocked' ORDER BY details ->> 'network' COLLATE "C";
SELECT apikeys.check_ledger();

TRUNCATE apikeys.address_block;
SELECT pg_temp.ask('good', '2001:db8:9:8::7');

-- Used keys cannot be deleted: all goes.
DROP VIEW pg_temp.blocked;
DROP EXTENSION apikeys;
CREATE EXTENSION apikeys;
