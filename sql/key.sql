-- Keys: made, imported, rotated, switched, deleted, listed, and the rules of plans. Key texts are random: only their form is shown.
SET search_path = pg_catalog;

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
-- How far from now, in hours: rounded, so that it does not matter how long the test takes.
CREATE FUNCTION pg_temp.hours(at timestamptz) RETURNS int LANGUAGE sql AS
$$ SELECT round(extract(epoch FROM at - clock_timestamp()) / 3600) $$;
-- One short name for the key of acme with an alias.
CREATE FUNCTION pg_temp.id(alias text) RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key('acme', alias) $$;

--
-- A new key
--
SELECT key AS text, key_id FROM apikeys.create_key('acme', 'main') \gset
SELECT :'text' ~ '^ak_[0-9A-Za-z]{36}$' AS shape, apikeys.shard_hash(:'text') = apikeys.shard_hash_of_account('acme') AS locator_in_text,
       apikeys.shard_hash(:key_id) = apikeys.shard_hash_of_account('acme') AS locator_in_id, :key_id < 2::numeric ^ 53 AS fits_javascript;
SELECT a.name, k.alias, k.category, k.prefix, k.hint = 'ak_…' || right(:'text', 4) AS hint, k.active, k.suspended_at, k.expires_at, k.tier, k.limits,
       k.allowed_domains, k.allowed_ips, k.scopes, k.billing_type, k.metadata, k.hash_rule, k.created_by = SESSION_USER AS mine,
       k.rotated_at, k.rotations, k.previous_digest, k.previous_valid_until
FROM apikeys.key AS k JOIN apikeys.account AS a USING (account_id);
-- The digest is what anybody would compute; the text is nowhere.
SELECT digest OPERATOR(apikeys.=) sha256(:'text'::bytea)::apikeys.digest AS digest, k::text LIKE '%' || :'text' || '%' AS stored FROM apikeys.key AS k;
SELECT account, alias, category, state, tier, limits, products, rotated_at, expires_at, last_used_at FROM apikeys.key_list;
SELECT pg_temp.id('main') = :key_id AS found;
SELECT count(DISTINCT (k.issued).key) AS texts, count(DISTINCT (k.issued).key_id) AS ids, count(DISTINCT (k.issued).alias) AS aliases
FROM (SELECT apikeys.create_key('crowd') AS issued FROM generate_series(1, 100)) AS k;
DELETE FROM apikeys.key WHERE alias <> 'main';

-- Everything at once.
INSERT INTO apikeys.tier VALUES ('bronze', 1, '10/minute'), ('silver', 2, '100/minute'), ('gold', 3, '1000/minute');
INSERT INTO apikeys.product VALUES ('maps'), ('routes'), ('places');
SELECT account, alias, key ~ '^live_eu_[0-9A-Za-z]{36}$' AS shape, pg_temp.hours(expires_at)
FROM apikeys.create_key('acme', 'full', category => 'staging', tier => 'silver', lifetime => '30 days', products => '{routes,maps,maps}',
                        allowed_domains => '{*.acme.example,acme.example}', allowed_ips => '{192.0.2.0/24,2001:db8::/32}', scopes => '{read,write}',
                        billing_type => 'free', metadata => '{"team": "geo"}', prefix => 'live_eu');
SELECT alias, category, prefix, tier, limits, allowed_domains, allowed_ips, scopes, billing_type, metadata FROM apikeys.key WHERE key_id = pg_temp.id('full');
SELECT account, alias, category, state, tier, limits, products, pg_temp.hours(expires_at) FROM apikeys.key_list WHERE alias = 'full';
SELECT alias FROM apikeys.create_key('acme', 'own', tier => 'gold', limits => '7/day');
SELECT alias, tier, limits FROM apikeys.key_list WHERE alias = 'own';

-- Aliases: key-1, key-2, … as they are free.
SELECT alias FROM apikeys.create_key('acme');
SELECT (apikeys.create_key('acme')).alias FROM generate_series(1, 5);
SELECT alias FROM apikeys.delete_key(pg_temp.id('key-6'));
SELECT (apikeys.create_key('acme')).alias FROM generate_series(1, 2);
SELECT alias FROM apikeys.create_key('acme', 'key-8');
SELECT alias FROM apikeys.create_key('acme');
SELECT alias FROM apikeys.create_key('other', 'main');
SELECT string_agg(alias, ' ' ORDER BY alias) FROM apikeys.key_list WHERE account = 'acme';

SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.create_key('acme', 'main')$$),
    (2, $$SELECT apikeys.create_key('acme', '')$$),
    (3, $$SELECT apikeys.create_key('acme', repeat('x', 513))$$),
    (4, $$SELECT apikeys.create_key('')$$),
    (5, $$SELECT apikeys.create_key(NULL)$$),
    (6, $$SELECT apikeys.create_key('acme', category => '')$$),
    (7, $$SELECT apikeys.create_key('acme', tier => 'lead')$$),
    (8, $$SELECT apikeys.create_key('acme', products => '{maps,traffic}')$$),
    (9, $$SELECT apikeys.create_key('acme', products => '{NULL}')$$),
    (10, $$SELECT apikeys.create_key('acme', lifetime => '0')$$),
    (11, $$SELECT apikeys.create_key('acme', lifetime => '1 day', expires_at => '2100-01-01')$$),
    (12, $$SELECT apikeys.create_key('acme', expires_at => '2020-01-01')$$),
    (13, $$SELECT apikeys.create_key('acme', expires_at => '-infinity')$$),
    (13, $$SELECT apikeys.create_key('acme', allowed_domains => '{acme.example,https://acme.example/}')$$),
    (14, $$SELECT apikeys.create_key('acme', allowed_ips => '{10.0.0.0/8,NULL}')$$),
    (15, $$SELECT apikeys.create_key('acme', scopes => '{NULL}')$$),
    (16, $$SELECT apikeys.create_key('acme', billing_type => '')$$),
    (17, $$SELECT apikeys.create_key('acme', metadata => '"x"')$$),
    (18, $$SELECT apikeys.create_key('acme', prefix => 'Live')$$),
    (19, $$SELECT apikeys.create_key('acme', prefix => 'abcdefghijklmnopqrstuvwxy')$$),
    (20, $$SELECT apikeys.create_key('acme', limits => 'many')$$),
    (21, $$SELECT apikeys.find_key('acme', 'nope')$$),
    (22, $$SELECT apikeys.find_key('nobody', 'main')$$),
    (23, $$SELECT apikeys.get_key(1)$$),
    (24, $$SELECT apikeys.find_key('acme', NULL)$$),
    (25, $$SELECT apikeys.create_key('acme', category => repeat('x', 257))$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

--
-- Import: digests as others store them
--
SELECT alias, hint, category FROM apikeys.import_key('acme', 'unkey_3ZKzTZqDcsEfMhMvMn7UmtbN', alias => 'by text', prefix => 'unkey');
SELECT alias, hint FROM apikeys.import_key('acme', digest => decode('T7MCWAd2OlBdlT6JylFZThFX8pBwpJ9qBaSMy9Yq78o' || '=', 'base64')::apikeys.digest, alias => 'base64');
SELECT alias, hint FROM apikeys.import_key('acme', '12|HlcPKOMqYNeMdJkAQmwvGbtWiuAnJYNGVpwWBgKC', alias => 'bar', hash_rule => 'sha256_after_bar');
SELECT alias, hint, tier, limits, products, pg_temp.hours(expires_at)
FROM apikeys.import_key('acme', 'mycompany_BRTRKFsL_51FwqftsmMDHHbJAMEXXHCgG', alias => 'underscore', hash_rule => 'sha256_after_underscore', prefix => 'mycompany_BRTRKFsL',
                        hint => 'mycompany_BRTRKFsL', tier => 'gold', expires_at => clock_timestamp() + '7 days', products => '{maps}');
SELECT alias, prefix, hash_rule, digest FROM apikeys.key WHERE alias IN ('by text', 'base64', 'bar', 'underscore') ORDER BY alias;
SELECT text, code, key_id = pg_temp.id(alias) AS found FROM (VALUES
    ('by text', 'unkey_3ZKzTZqDcsEfMhMvMn7UmtbN'), ('base64', 'ba_kfVxQPZlRbTqYnHsMwJcGdXoAeUiLtFv'),
    ('bar', '12|HlcPKOMqYNeMdJkAQmwvGbtWiuAnJYNGVpwWBgKC')) AS t(alias, text), apikeys.authenticate(text);
SELECT 'ML6QqBwIRjjfSDJFcpGRnsnNTFk09opujkZrHBeRI7o=' = encode(sha256('unkey_3ZKzTZqDcsEfMhMvMn7UmtbN'), 'base64') AS as_unkey_stores_it;

SELECT f.code, f.message, f.detail, f.hint FROM (VALUES
    (1, $$SELECT apikeys.import_key('acme')$$),
    (2, $$SELECT apikeys.import_key('acme', 'x', sha256('x')::apikeys.digest)$$),
    (3, $$SELECT apikeys.import_key('acme', '')$$),
    (4, $$SELECT apikeys.import_key('acme', repeat('x', 513))$$),
    (5, $$SELECT apikeys.import_key('acme', '12|', hash_rule => 'sha256_after_bar')$$),
    (6, $$SELECT apikeys.import_key('acme', 'no bar', hash_rule => 'sha256_after_bar')$$),
    (7, $$SELECT apikeys.import_key('acme', 'no-underscore', hash_rule => 'sha256_after_underscore')$$),
    (8, $$SELECT apikeys.import_key('acme', 'x', hash_rule => 'md5')$$),
    (9, $$SELECT apikeys.import_key('acme', digest => sha256('x')::apikeys.digest, hash_rule => NULL)$$),
    (10, $$SELECT apikeys.import_key('acme', 'unkey_3ZKzTZqDcsEfMhMvMn7UmtbN')$$),
    (11, $$SELECT apikeys.import_key('other', digest => sha256('unkey_3ZKzTZqDcsEfMhMvMn7UmtbN')::apikeys.digest)$$),
    (12, $$SELECT apikeys.import_key('acme', 'fresh', alias => 'main')$$),
    (13, $$SELECT apikeys.import_key('acme', 'fresh', category => '')$$),
    (14, $$SELECT apikeys.import_key('acme', 'fresh', expires_at => '2020-01-01')$$),
    (15, $$SELECT apikeys.import_key('acme', 'ak_' || repeat('A', 36))$$),
    (16, $$SELECT apikeys.import_key('acme', 'unheard_of_' || repeat('A', 36))$$),
    (17, $$SELECT apikeys.import_key('acme', 'fresh', hint => 'the fresh one')$$),
    (18, $$SELECT apikeys_internal.digest_of('fresh', 'md5')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
SELECT count(*) FROM apikeys.import_key('acme', repeat('x', 512));
SELECT hint FROM apikeys.import_key('acme', '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', prefix => 'ghp');

--
-- Rotation
--
SELECT key AS second, key_id = :key_id AS same_key, account, alias, expires_at FROM apikeys.rotate_key(:key_id) \gset
SELECT :'second' <> :'text' AS changed, :'same_key' AS same_key, :'account' AS account, :'alias' AS alias;
SELECT digest OPERATOR(apikeys.=) sha256(:'second'::bytea)::apikeys.digest AS digest, hint = 'ak_…' || right(:'second', 4) AS hint,
       previous_digest, previous_valid_until, rotations, rotated_at > created_at AS rotated
FROM apikeys.key WHERE key_id = :key_id;
SELECT n, code, key_id = :key_id AS found FROM (VALUES (1, :'text'), (2, :'second')) AS t(n, text), apikeys.authenticate(text) ORDER BY n;
-- With grace the text before stays good, and of several the last.
SELECT key AS third FROM apikeys.rotate_key(:key_id, grace => '1 day') \gset
SELECT digest OPERATOR(apikeys.=) sha256(:'third'::bytea)::apikeys.digest AS digest, previous_digest OPERATOR(apikeys.=) sha256(:'second'::bytea)::apikeys.digest AS previous,
       pg_temp.hours(previous_valid_until), rotations
FROM apikeys.key WHERE key_id = :key_id;
SELECT key AS fourth FROM apikeys.rotate_key(:key_id, grace => '2 hours') \gset
SELECT digest OPERATOR(apikeys.=) sha256(:'fourth'::bytea)::apikeys.digest AS digest, previous_digest OPERATOR(apikeys.=) sha256(:'third'::bytea)::apikeys.digest AS previous,
       pg_temp.hours(previous_valid_until), rotations
FROM apikeys.key WHERE key_id = :key_id;
SELECT n, code, key_id = :key_id AS found
FROM (VALUES (1, :'text'), (2, :'second'), (3, :'third'), (4, :'fourth')) AS t(n, text), apikeys.authenticate(text) ORDER BY n;
SET apikeys.debug_clock_offset = '2h';
SELECT n, code FROM (VALUES (3, :'third'), (4, :'fourth')) AS t(n, text), apikeys.authenticate(text) ORDER BY n;
RESET apikeys.debug_clock_offset;
SELECT f.code, f.message FROM pg_temp.failure(format('SELECT apikeys.import_key(''other'', %L)', :'third')) AS f;
SELECT count(*) FROM apikeys.rotate_key(:key_id);
SELECT previous_digest, previous_valid_until, rotations FROM apikeys.key WHERE key_id = :key_id;
-- A key without a record of use keeps the latest text; end_grace ends that too.
SELECT key AS fifth FROM apikeys.rotate_key(:key_id, grace => '1 day') \gset
SELECT count(*) FROM apikeys.rotate_key(:key_id, grace => '1 day');
SELECT code FROM apikeys.authenticate(:'fifth');
SELECT alias, state FROM apikeys.end_grace(:key_id);
SELECT code FROM apikeys.authenticate(:'fifth');
SELECT previous_digest, previous_valid_until FROM apikeys.key WHERE key_id = :key_id;
-- The prefix stays, or is the plan's where the imported one cannot be used; the rule becomes ours.
SELECT key ~ '^live_eu_' AS prefix_stays FROM apikeys.rotate_key(pg_temp.id('full'));
SELECT key ~ '^ak_' AS prefix_of_plan FROM apikeys.rotate_key(pg_temp.id('bar'), grace => '1 hour');
SELECT code FROM apikeys.authenticate('12|HlcPKOMqYNeMdJkAQmwvGbtWiuAnJYNGVpwWBgKC');
SELECT prefix, hint ~ '^ak_…[0-9A-Za-z]{4}$' AS hint, hash_rule FROM apikeys.key WHERE alias = 'bar';
-- A lifetime counts from now, in seconds; without one the expiry stays.
SELECT pg_temp.hours(expires_at) FROM apikeys.rotate_key(:key_id, lifetime => '90 days');
SELECT pg_temp.hours(expires_at) FROM apikeys.rotate_key(:key_id);
SELECT pg_temp.hours(expires_at) FROM apikeys.rotate_key(:key_id, expires_at => clock_timestamp() + '7 hours');
SELECT expires_at FROM apikeys.rotate_key(:key_id, expires_at => 'infinity');
SET TimeZone = 'Europe/Berlin';
SELECT extract(epoch FROM apikeys_internal.seconds_after('2026-03-28 12:00', '2 days') - '2026-03-28 12:00') AS seconds, apikeys_internal.seconds_after('2026-03-28 12:00', '2 days') AS at;
RESET TimeZone;
-- What is inactive, suspended or expired stays so.
SELECT state FROM apikeys.deactivate_key(:key_id);
SELECT count(*) FROM apikeys.rotate_key(:key_id);
SELECT state FROM apikeys.get_key(:key_id);

SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.rotate_key(1)$$),
    (2, $$SELECT apikeys.rotate_key(NULL)$$),
    (3, $$SELECT apikeys.rotate_key(pg_temp.id('full'), grace => '-1 second')$$),
    (4, $$SELECT apikeys.rotate_key(pg_temp.id('full'), grace => NULL)$$),
    (5, $$SELECT apikeys.rotate_key(pg_temp.id('full'), lifetime => '-1 day')$$),
    (6, $$SELECT apikeys.rotate_key(pg_temp.id('full'), lifetime => '1 day', expires_at => 'infinity')$$),
    (7, $$SELECT apikeys.rotate_key(pg_temp.id('full'), expires_at => '2020-01-01')$$),
    (9, $$SELECT apikeys.end_grace(1)$$), (10, $$SELECT apikeys.end_grace(NULL)$$),
    (8, $$SELECT apikeys.rotate_key(pg_temp.id('full'), expires_at => '-infinity')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

--
-- Copies
--
SELECT account, alias, key ~ '^live_eu_[0-9A-Za-z]{36}$' AS shape, pg_temp.hours(expires_at), key_id <> pg_temp.id('full') AS other
FROM apikeys.copy_key(pg_temp.id('full'), 'full too');
SELECT to_jsonb(c) = to_jsonb(k) AS alike
FROM (SELECT category, prefix, tier, limits::text, allowed_domains, allowed_ips, scopes, billing_type, metadata, expires_at FROM apikeys.key WHERE alias = 'full') AS k,
     (SELECT category, prefix, tier, limits::text, allowed_domains, allowed_ips, scopes, billing_type, metadata, expires_at FROM apikeys.key WHERE alias = 'full too') AS c;
SELECT products FROM apikeys.get_key(pg_temp.id('full too'));
SELECT alias FROM apikeys.delete_key(pg_temp.id('full too'));
SELECT alias, pg_temp.hours(expires_at) FROM apikeys.copy_key(pg_temp.id('own'), 'own too', '5 hours');
SELECT tier, limits FROM apikeys.delete_key(pg_temp.id('own too'));
-- Without tier and limits it has none, whatever the plan's default is.
UPDATE apikeys.plan SET default_tier = 'bronze' WHERE name = 'default';
SELECT alias FROM apikeys.copy_key(:key_id, 'free too');
SELECT tier, limits, state FROM apikeys.delete_key(pg_temp.id('free too'));
UPDATE apikeys.plan SET default_tier = NULL WHERE name = 'default';
CREATE ROLE regress_copier IN ROLE apikeys_staff;
SELECT state FROM apikeys.suspend_key(pg_temp.id('full'), 'leaked');
SELECT pg_temp.id('full') AS full_id \gset
SET ROLE regress_copier;
SELECT f.code, f.hint FROM pg_temp.failure(format('SELECT apikeys.copy_key(%s)', :full_id)) AS f;
SELECT key_id AS own_too FROM apikeys.copy_key(apikeys.find_key('acme', 'own'), 'own too') \gset
SELECT tier, limits FROM apikeys.get_key(:own_too);
RESET ROLE;
SELECT alias FROM apikeys.delete_key(pg_temp.id('own too'));
SELECT alias FROM apikeys.copy_key(:full_id, 'full too');
SELECT state FROM apikeys.unsuspend_key(:full_id);
SELECT state FROM apikeys.delete_key(pg_temp.id('full too'));
DROP ROLE regress_copier;
SELECT f.code, f.hint FROM (VALUES
    (1, $$SELECT apikeys.copy_key(1)$$), (2, $$SELECT apikeys.copy_key(NULL)$$), (3, $$SELECT apikeys.copy_key(pg_temp.id('full'), 'own')$$),
    (4, $$SELECT apikeys.copy_key(pg_temp.id('full'), lifetime => '0')$$),
    (5, $$SET apikeys.debug_clock_offset = '60d'; SELECT apikeys.copy_key(pg_temp.id('full'))$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
RESET apikeys.debug_clock_offset;

--
-- Switching, suspending, deleting; each returns the row as it is now, delete_key as it was
--
SELECT alias, state FROM apikeys.activate_key(:key_id);
SELECT alias, state FROM apikeys.suspend_key(:key_id, 'leaked');
SELECT alias, state FROM apikeys.deactivate_key(:key_id);
SELECT alias, state FROM apikeys.suspend_key(:key_id, 'leaked on GitHub');
SELECT suspended_reason, suspended_at < clock_timestamp() AS suspended, active FROM apikeys.key WHERE key_id = :key_id;
SELECT alias, state FROM apikeys.unsuspend_key(:key_id);
SELECT alias, state FROM apikeys.activate_key(:key_id);
SELECT suspended_reason, suspended_at, active FROM apikeys.key WHERE key_id = :key_id;
SELECT alias, state, products FROM apikeys.delete_key(pg_temp.id('full'));
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.activate_key(1)$$), (2, $$SELECT apikeys.deactivate_key(1)$$), (3, $$SELECT apikeys.suspend_key(1, 'x')$$),
    (4, $$SELECT apikeys.unsuspend_key(1)$$), (5, $$SELECT apikeys.delete_key(1)$$), (6, $$SELECT apikeys.delete_key(NULL)$$),
    (7, $$SELECT apikeys.suspend_key(pg_temp.id('own'), E' \t\r\n')$$), (8, $$SELECT apikeys.suspend_key(pg_temp.id('own'), NULL)$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

-- States by the clock.
UPDATE apikeys.key SET expires_at = clock_timestamp() + '8 days' WHERE alias = 'own';
SELECT state FROM apikeys.get_key(pg_temp.id('own'));
SET apikeys.debug_clock_offset = '2d';
SELECT state FROM apikeys.get_key(pg_temp.id('own'));
SET apikeys.debug_clock_offset = '9d';
SELECT state FROM apikeys.get_key(pg_temp.id('own'));
RESET apikeys.debug_clock_offset;
UPDATE apikeys.key SET active = false WHERE alias = 'own';
SELECT state FROM apikeys.get_key(pg_temp.id('own'));

-- A used key shows when it was used last.
INSERT INTO apikeys.usage_total VALUES ('k', pg_temp.id('own'), 1, 0, 1, 0, 0, '2026-01-01 12:00Z', '2026-01-02 12:00Z');
SELECT alias, last_used_at AT TIME ZONE 'UTC' AS last_used_at FROM apikeys.key_list WHERE last_used_at IS NOT NULL;
SELECT f.code FROM pg_temp.failure($$SELECT apikeys.delete_key(pg_temp.id('own'))$$) AS f;
SELECT alias, state FROM apikeys.get_key(pg_temp.id('own'));
ALTER TABLE apikeys.usage_total DISABLE TRIGGER usage_total_guard_delete;
DELETE FROM apikeys.usage_total;
ALTER TABLE apikeys.usage_total ENABLE ALWAYS TRIGGER usage_total_guard_delete;

--
-- Rules of plans
--
INSERT INTO apikeys.plan (name, key_prefix, max_keys, default_tier) VALUES ('three', 'uspl', 3, 'bronze');
INSERT INTO apikeys.plan (name, max_lifetime) VALUES ('short', '90 days');
INSERT INTO apikeys.plan (name, lifetimes, default_lifetime) VALUES ('offer', '{7 days,30 days,60 days,90 days}', '30 days');
INSERT INTO apikeys.plan (name, lifetimes) VALUES ('yearly', '{363 days,1 year}');
INSERT INTO apikeys.plan (name, allow_unexpiring) VALUES ('mortal', false);
INSERT INTO apikeys.plan (name, custom_limits_allowed, billing_types) VALUES ('strict', false, '{free,paying}');
INSERT INTO apikeys.plan (name, one_key_per_product) VALUES ('single', true);
SELECT count(*) FROM (VALUES ('three'), ('short'), ('offer'), ('yearly'), ('mortal'), ('strict'), ('single')) AS p(plan), apikeys.create_account(plan, plan);

-- How many keys: neither inactive nor expired ones count, suspended ones do. A rotation needs no room.
SELECT (apikeys.create_key('three')).alias FROM generate_series(1, 3);
SELECT alias, prefix, tier FROM apikeys.key WHERE prefix = 'uspl' ORDER BY alias;
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.create_key('three')$$) AS f;
SELECT state FROM apikeys.suspend_key(apikeys.find_key('three', 'key-1'), 'test');
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.import_key('three', 'some text')$$) AS f;
SELECT state FROM apikeys.deactivate_key(apikeys.find_key('three', 'key-1'));
SELECT alias FROM apikeys.create_key('three');
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.activate_key(apikeys.find_key('three', 'key-1'))$$) AS f;
SELECT f.code FROM pg_temp.failure($$UPDATE apikeys.key SET active = true WHERE alias = 'key-1'$$) AS f;
SELECT f.* FROM pg_temp.failure($$UPDATE apikeys.key SET expires_at = clock_timestamp() - interval '1 second' WHERE key_id = apikeys.find_key('three', 'key-2')$$) AS f;
SET session_replication_role = replica;
UPDATE apikeys.key SET expires_at = clock_timestamp() - interval '1 second' WHERE key_id = apikeys.find_key('three', 'key-2');
RESET session_replication_role;
SELECT state FROM apikeys.activate_key(apikeys.find_key('three', 'key-1'));
SELECT f.code FROM pg_temp.failure($$UPDATE apikeys.key SET expires_at = NULL WHERE key_id = apikeys.find_key('three', 'key-2')$$) AS f;
SELECT f.code FROM pg_temp.failure($$SELECT apikeys.rotate_key(apikeys.find_key('three', 'key-2'), lifetime => '1 day')$$) AS f;
SELECT alias FROM apikeys.rotate_key(apikeys.find_key('three', 'key-2'));
SELECT alias FROM apikeys.rotate_key(apikeys.find_key('three', 'key-3'), lifetime => '1 day');
SELECT state FROM apikeys.deactivate_key(apikeys.find_key('three', 'key-3'));
SELECT alias FROM apikeys.rotate_key(apikeys.find_key('three', 'key-2'), lifetime => '1 day');
SELECT state FROM apikeys.get_key(apikeys.find_key('three', 'key-2'));
-- Several rows in one statement: each sees those before it.
UPDATE apikeys.key SET active = false WHERE account_id = (SELECT account_id FROM apikeys.account WHERE name = 'three');
SELECT f.code FROM pg_temp.failure($$UPDATE apikeys.key SET active = true WHERE account_id = (SELECT account_id FROM apikeys.account WHERE name = 'three')$$) AS f;
-- What the plan no longer allows stays, and can be edited.
UPDATE apikeys.key SET active = true WHERE account_id = (SELECT account_id FROM apikeys.account WHERE name = 'three') AND alias < 'key-4';
UPDATE apikeys.plan SET max_keys = 0 WHERE name = 'three';
UPDATE apikeys.key SET category = 'staging', alias = 'renamed' WHERE key_id = apikeys.find_key('three', 'key-1');
SELECT alias, category, state FROM apikeys.key_list WHERE account = 'three' ORDER BY alias;

-- Lifetimes.
SELECT pg_temp.hours(expires_at) FROM apikeys.create_key('offer');
SELECT pg_temp.hours(expires_at) FROM apikeys.create_key('offer', lifetime => '7 days');
SELECT expires_at FROM apikeys.create_key('offer', expires_at => 'infinity');
SELECT pg_temp.hours(expires_at) FROM apikeys.create_key('short', lifetime => '90 days');
SELECT pg_temp.hours(expires_at) FROM apikeys.create_key('mortal', 'm', lifetime => '1 year');
-- A year lasts longer than 363 days, though it is less as an interval, and is not 360 days.
SELECT pg_temp.hours(expires_at) FROM apikeys.create_key('yearly', lifetime => '1 year');
SELECT f.code, f.message FROM pg_temp.failure($$SELECT apikeys.create_key('yearly', lifetime => '360 days')$$) AS f;
SELECT * FROM apikeys.change_plan('yearly', 'yearly', dry_run => true);
SELECT t.n, CASE WHEN current_setting('server_version_num')::int < 170000 THEN '22023' ELSE f.code END AS code FROM (VALUES
    (1, $$SELECT apikeys.create_key('mortal', lifetime => 'infinity')$$),
    (2, $$SELECT apikeys.rotate_key(apikeys.find_key('yearly', 'key-1'), grace => 'infinity')$$),
    (3, $$SELECT apikeys.rotate_key(apikeys.find_key('yearly', 'key-1'), lifetime => 'infinity')$$),
    (4, $$SELECT apikeys.usage_series(apikeys.find_key('yearly', 'key-1'), '2026-01-01', '2026-02-01', 'infinity')$$),
    (5, $$SELECT apikeys.block_address('192.0.2.1', 'test', 'infinity')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
SELECT pg_temp.hours(expires_at) FROM apikeys.import_key('offer', 'imported', expires_at => clock_timestamp() + '11 days');
SELECT f.code, f.message, f.hint FROM (VALUES
    (1, $$SELECT apikeys.create_key('offer', lifetime => '8 days')$$),
    (2, $$SELECT apikeys.create_key('offer', expires_at => clock_timestamp() + '7 days')$$),
    (3, $$SELECT apikeys.rotate_key(apikeys.find_key('offer', 'key-1'), lifetime => '8 days')$$),
    (4, $$UPDATE apikeys.key SET expires_at = clock_timestamp() + '91 days' WHERE key_id = apikeys.find_key('offer', 'key-1')$$),
    (5, $$SELECT apikeys.create_key('short')$$),
    (6, $$SELECT apikeys.create_key('short', expires_at => 'infinity')$$),
    (7, $$SELECT apikeys.create_key('short', lifetime => '91 days')$$),
    (8, $$SELECT apikeys.create_key('short', expires_at => clock_timestamp() + '91 days')$$),
    (9, $$UPDATE apikeys.key SET expires_at = NULL WHERE key_id = apikeys.find_key('short', 'key-1')$$),
    (10, $$SELECT apikeys.create_key('mortal')$$),
    (11, $$UPDATE apikeys.key SET expires_at = NULL WHERE key_id = apikeys.find_key('mortal', 'm')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- An edit is measured from now, and what is not edited is not measured.
SET apikeys.debug_clock_offset = '30d';
UPDATE apikeys.key SET expires_at = clock_timestamp() + '119 days' WHERE key_id = apikeys.find_key('short', 'key-1');
RESET apikeys.debug_clock_offset;
UPDATE apikeys.key SET category = 'staging' WHERE key_id = apikeys.find_key('short', 'key-1');
SELECT category, pg_temp.hours(expires_at) FROM apikeys.get_key(apikeys.find_key('short', 'key-1'));

-- Limits of a key's own, and billing types.
SELECT alias FROM apikeys.create_key('strict', tier => 'bronze', billing_type => 'free');
SELECT f.code, f.message, f.hint FROM (VALUES
    (1, $$SELECT apikeys.create_key('strict', limits => '1/day')$$),
    (2, $$UPDATE apikeys.key SET limits = '1/day' WHERE key_id = apikeys.find_key('strict', 'key-1')$$),
    (3, $$SELECT apikeys.create_key('strict', billing_type => 'freemium')$$),
    (4, $$UPDATE apikeys.key SET billing_type = 'freemium' WHERE key_id = apikeys.find_key('strict', 'key-1')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
UPDATE apikeys.key SET billing_type = 'paying' WHERE key_id = apikeys.find_key('strict', 'key-1');

-- A tier granted takes the place of the key's own limits; one renamed does not.
SELECT tier, limits FROM apikeys.get_key(pg_temp.id('own'));
UPDATE apikeys.tier SET name = 'platinum' WHERE name = 'gold';
SELECT tier, limits FROM apikeys.get_key(pg_temp.id('own'));
UPDATE apikeys.key SET tier = 'silver', limits = '8/day' WHERE key_id = pg_temp.id('own');
SELECT tier, limits FROM apikeys.get_key(pg_temp.id('own'));
UPDATE apikeys.key SET tier = 'platinum' WHERE key_id = pg_temp.id('own');
SELECT tier, limits FROM apikeys.get_key(pg_temp.id('own'));

-- One key a product.
SELECT alias FROM apikeys.create_key('single', products => '{maps,routes}');
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.create_key('single', products => '{places,routes}')$$) AS f;
SELECT alias FROM apikeys.create_key('single', products => '{places}');
SELECT state FROM apikeys.deactivate_key(apikeys.find_key('single', 'key-1'));
SELECT alias FROM apikeys.create_key('single', products => '{routes}');
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.activate_key(apikeys.find_key('single', 'key-1'))$$) AS f;
-- And none without a product, for it would be good for all.
UPDATE apikeys.plan SET one_key_per_product = false WHERE name = 'single';
SELECT alias FROM apikeys.create_key('single', 'old', expires_at => clock_timestamp() + '1 hour');
SELECT state FROM apikeys.deactivate_key((apikeys.create_key('single', 'off')).key_id);
UPDATE apikeys.plan SET one_key_per_product = true WHERE name = 'single';
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.create_key('single', 'all')$$) AS f;
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.create_key('single', 'all', products => '{}')$$),
    (2, $$SELECT apikeys.import_key('single', 'text of all', alias => 'all')$$),
    (3, $$SELECT apikeys.activate_key(apikeys.find_key('single', 'off'))$$),
    (4, $$UPDATE apikeys.key SET active = true WHERE key_id = apikeys.find_key('single', 'off')$$),
    (5, $$SET apikeys.debug_clock_offset = '2h'; UPDATE apikeys.key SET expires_at = NULL WHERE key_id = apikeys.find_key('single', 'old')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- What is live already stays, as far as it is not judged again.
SELECT alias FROM apikeys.rotate_key(apikeys.find_key('single', 'old'), lifetime => '2 hours');
SELECT products FROM apikeys.assign_product(apikeys.find_key('single', 'off'), 'maps');
SELECT state FROM apikeys.activate_key(apikeys.find_key('single', 'off'));

-- What a key cannot have is said as where it is made; an expiry of infinity is none.
SELECT f.code, f.message, f.hint FROM (VALUES
    (1, $$alias = ''$$), (2, $$alias = repeat('x', 513)$$), (3, $$alias = 'main'$$), (4, $$category = ''$$), (5, $$category = repeat('x', 257)$$),
    (6, $$allowed_domains = '{https://acme.example/}'$$), (7, $$allowed_ips = '{10.0.0.0/8,NULL}'$$), (8, $$scopes = '{NULL}'$$), (9, $$billing_type = ''$$),
    (10, $$metadata = '[]'$$), (11, $$expires_at = '-infinity'$$), (12, $$alias = NULL$$), (13, $$category = 'production', alias = 'own'$$)
) AS t(n, change), pg_temp.failure(format('UPDATE apikeys.key SET %s WHERE key_id = pg_temp.id(''own'')', change)) AS f ORDER BY n;
UPDATE apikeys.key SET expires_at = 'infinity' WHERE key_id = pg_temp.id('own') RETURNING expires_at;
SELECT f.code, f.message FROM pg_temp.failure($$UPDATE apikeys.key SET expires_at = 'infinity' WHERE key_id = apikeys.find_key('mortal', 'm')$$) AS f;

-- An id that is taken, as when the sequence is behind, is not said to be a taken alias.
SELECT last_value AS before FROM apikeys.key_number_seq \gset
SELECT setval('apikeys.key_number_seq', (SELECT max(k.key_id) & (1::bigint << 37) - 1 FROM apikeys.key AS k JOIN apikeys.account AS a USING (account_id) WHERE a.name = 'acme'), false) > 0 AS set;
SELECT f.code, regexp_replace(f.message, '\d+', 'ID') AS message, f.hint FROM pg_temp.failure($$SELECT apikeys.create_key('acme', 'an alias of its own')$$) AS f;
SELECT setval('apikeys.key_number_seq', :before) > 0 AS set;

-- Whose a key is never changes.
SELECT f.code, f.message FROM (VALUES
    (1, $$UPDATE apikeys.key SET key_id = 7 WHERE alias = 'own'$$),
    (2, $$UPDATE apikeys.key SET account_id = (SELECT account_id FROM apikeys.account WHERE name = 'other') WHERE alias = 'own'$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

--
-- Shards: the locator, or anything for what is no key
--
SELECT apikeys.shard_hash('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') AS too_big_for_a_locator, apikeys.shard_hash('no key') AS no_key,
       apikeys.shard_hash(NULL::text) AS null_key, apikeys.shard_hash(9007199254740991) AS last_id, apikeys.shard_hash(1) AS first_id;

DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
DELETE FROM apikeys.product;
