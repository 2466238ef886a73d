-- Every verdict that needs no meters, on keys whose texts we know: their digests are inserted by hand.
INSERT INTO apikeys.tier (name, rank, limits) VALUES ('gold', 1, '1000/day');
INSERT INTO apikeys.plan (name) VALUES ('default');
INSERT INTO apikeys.account (account_id, name, plan, active) VALUES (1, 'acme', 'default', true), (2, 'idle', 'default', false);
INSERT INTO apikeys.product (name) VALUES ('maps'), ('routes');

CREATE FUNCTION add_key(text, id bigint, rule text = 'sha256') RETURNS void LANGUAGE sql AS
$$ INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, hash_rule)
   VALUES (id, CASE id WHEN 15 THEN 2 ELSE 1 END, sha256(convert_to($1, 'UTF8'))::apikeys.digest, '', '', 'key-' || id, rule) $$;
SELECT add_key('plain', 11), add_key('suspended', 12), add_key('inactive', 13), add_key('expired', 14), add_key('idle', 15),
       add_key('office', 16), add_key('web', 17), add_key('maps', 18), add_key('reader', 19),
       add_key('tail', 20, 'sha256_after_bar'), add_key('long', 21, 'sha256_after_underscore'), add_key('grace', 22);
UPDATE apikeys.key SET suspended_reason = 'abuse', suspended_at = now() WHERE key_id = 12;
UPDATE apikeys.key SET active = false WHERE key_id = 13;
SET session_replication_role = replica;  -- an expiry that has passed: no rule of the plan allows it
UPDATE apikeys.key SET expires_at = '2001-02-03 04:05:06Z' WHERE key_id = 14;
RESET session_replication_role;
UPDATE apikeys.key SET allowed_ips = '{10.0.0.0/8, 2001:db8::/32}' WHERE key_id = 16;
UPDATE apikeys.key SET allowed_domains = '{example.com, *.example.org}' WHERE key_id = 17;
INSERT INTO apikeys.key_product VALUES (18, 'maps');
UPDATE apikeys.key SET scopes = '{read, list}' WHERE key_id = 19;
UPDATE apikeys.key SET previous_digest = sha256('rotated')::apikeys.digest, previous_hash_rule = 'sha256', previous_valid_until = now() + '1 hour' WHERE key_id = 22;

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END
$$;
CREATE VIEW codes AS SELECT NULL::text AS request, NULL::smallint AS status, NULL::text AS code, NULL::text AS message, NULL::bigint AS key_id, NULL::text AS account WHERE false;
CREATE FUNCTION ask(text, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL) RETURNS SETOF codes LANGUAGE sql AS
$$ SELECT $1, status, code, message, key_id, account FROM apikeys.authenticate($1, NULL, ip, origin, product, scopes) $$;

SELECT * FROM apikeys.authenticate('plain') \gx
SELECT r.* FROM unnest('{plain,suspended,inactive,expired,idle,office,web,maps,reader,unknown,NULL,""}'::text[]) AS t(k), ask(k) AS r;

-- Addresses: IPv4 written as IPv6 is IPv4, and a key with a list needs an address.
SELECT ip, code FROM unnest('{10.1.2.3,::ffff:10.1.2.3,11.1.2.3,2001:db8::1,2001:db9::1,NULL}'::inet[]) AS t(ip), ask('office', ip => ip);
-- Domains: Origin and Referer alike.
SELECT origin, code FROM unnest('{https://example.com,http://Example.COM:8080/page?x,https://a.example.com,https://a.b.example.org/,example.org,null,NULL}'::text[]) AS t(origin),
       ask('web', origin => origin);
-- Products and scopes.
SELECT product, code FROM unnest('{maps,routes,NULL}'::text[]) AS t(product), ask('maps', product => product);
SELECT s.scopes, code FROM (VALUES ('{read}'::text[]), ('{list,read}'), ('{read,write}'), ('{}'), (NULL), ('{NULL}')) AS s(scopes), ask('reader', scopes => s.scopes);
SELECT code FROM ask('plain', scopes => '{read}');

-- Imported keys whose digest is that of a part; the part alone is not the key.
SELECT r.request, r.code, r.key_id FROM unnest('{17|tail,tail|,|tail,tail,pre_short_long,long,17|long}'::text[]) AS t(k), ask(k) AS r;

-- A rotated key text is good for its grace.
SELECT code, key_id FROM ask('rotated');
SET apikeys.debug_clock_offset = 3601;
SELECT code, key_id FROM ask('rotated');
RESET apikeys.debug_clock_offset;

-- Our own shape: a wrong checksum, an unknown key, and too long a text are all invalid.
SELECT length(k) AS length, code FROM (VALUES ('ak_' || repeat('A', 36)), ('ghp_' || repeat('A', 30) || '0uCPlr'), (repeat('x', 512)), (repeat('x', 513))) AS t(k), ask(k);
SELECT add_key(repeat('x', 512), 23), add_key(repeat('x', 513), 24);
SELECT length(k) AS length, code FROM (VALUES (repeat('x', 512)), (repeat('x', 513))) AS t(k), ask(k);

-- A change is seen by the next call, whatever the isolation level, and its rollback too.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT code FROM ask('plain');
UPDATE apikeys.key SET active = false WHERE key_id = 11;
SELECT code FROM ask('plain');
ROLLBACK;
SELECT code FROM ask('plain');
BEGIN;
UPDATE apikeys.key SET tier = 'gold' WHERE key_id = 11;
UPDATE apikeys.tier SET name = 'golden' WHERE name = 'gold';
SELECT code FROM ask('plain');
ROLLBACK;
SELECT code FROM ask('plain');

-- What keys stand for: of those that authenticate refuses for themselves or the address, nothing. Domains and products are not asked.
SET timezone = 'UTC';
SELECT jsonb_pretty(apikeys.key_facts('plain'));
SELECT k, f ->> 'key_id' AS key_id, f ->> 'account' AS account
FROM unnest('{plain,suspended,inactive,expired,idle,office,web,maps,reader,grace,rotated,17|tail,unknown,NULL,""}'::text[]) AS t(k), apikeys.key_facts(k) AS f;
SELECT ip, f ->> 'key_id' AS key_id FROM unnest('{10.1.2.3,::ffff:10.1.2.3,11.1.2.3,NULL}'::inet[]) AS t(ip), apikeys.key_facts('office', ip) AS f;
BEGIN;
UPDATE apikeys.key SET expires_at = '2999-12-31 23:00Z', tier = 'gold', billing_type = 'metered', metadata = '{"team": "maps"}' WHERE key_id = 18;
INSERT INTO apikeys.key_product VALUES (18, 'routes');
UPDATE apikeys.account SET metadata = '{"crm": 7}' WHERE account_id = 1;
SELECT f - 'key_id' AS facts FROM apikeys.key_facts('maps') AS f;
ROLLBACK;
RESET timezone;
SELECT code, key_id FROM ask('rotated');
SET apikeys.debug_clock_offset = 3601;
SELECT apikeys.key_facts('rotated');
RESET apikeys.debug_clock_offset;

-- Explained, check by check.
SELECT * FROM apikeys.explain_key(11);
SET timezone = 'UTC';
SELECT * FROM apikeys.explain_key(14);
SELECT check_name, passed, code, detail FROM apikeys.explain_key(12) WHERE check_name = 'suspended';
SELECT check_name, passed, code, detail FROM apikeys.explain_key(16, ip => '11.0.0.1') WHERE check_name = 'address';
SELECT check_name, passed, code, detail FROM apikeys.explain_key(17, origin => 'https://evil.example') WHERE check_name = 'domain';
SELECT check_name, passed, code, detail FROM apikeys.explain_key(18, product => 'routes') WHERE check_name = 'product';
SELECT check_name, passed, code, detail FROM apikeys.explain_key(19, scopes => '{write}') WHERE check_name = 'scopes';
-- Limits come last; this key was never used.
UPDATE apikeys.key SET limits = '6/day, 5/total' WHERE key_id = 20;
SELECT cost, check_name, passed, code, detail FROM unnest('{0,5,6}'::int[]) AS t(cost), apikeys.explain_key(20, cost => cost) WHERE check_name LIKE '%limit%';

-- Errors.
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.authenticate('plain', cost => -1)$$),
    (2, $$SELECT * FROM apikeys.explain_key(99)$$),
    (3, $$SELECT * FROM apikeys.explain_key(NULL)$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- What somebody has renamed is found again when it has its name.
BEGIN;
ALTER TABLE apikeys.key RENAME active TO switched_on;
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.authenticate('plain')$$) AS f;
ROLLBACK;
BEGIN;
ALTER INDEX apikeys.key_digest_key RENAME TO digests;
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.authenticate('plain')$$) AS f;
ROLLBACK;
BEGIN;
ALTER SCHEMA apikeys RENAME TO elsewhere;
SELECT f.* FROM pg_temp.failure($$SELECT elsewhere.authenticate('plain')$$) AS f;
ROLLBACK;
SELECT code FROM apikeys.authenticate('plain');

DROP FUNCTION add_key, ask;
DROP VIEW codes;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
DELETE FROM apikeys.product;
