-- Changes of keys and accounts by an object: what each member does, what is refused and how the error names it.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT place text, OUT hint text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
    about text;
    broken text;
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT,
            relation = TABLE_NAME, about = COLUMN_NAME, broken = CONSTRAINT_NAME;
        place := concat_ws(' ', nullif(relation, ''), nullif(about, ''), nullif(broken, ''));
END
$$;
CREATE FUNCTION pg_temp.hours(at timestamptz) RETURNS int LANGUAGE sql AS
$$ SELECT round(extract(epoch FROM at - clock_timestamp()) / 3600) $$;
CREATE FUNCTION pg_temp.id(alias text) RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key('acme', alias) $$;
CREATE FUNCTION pg_temp.change(alias text, changes jsonb, OUT code text, OUT message text, OUT place text, OUT hint text) LANGUAGE sql AS
$$ SELECT * FROM pg_temp.failure(format('SELECT apikeys.update_key(%s, %L)', pg_temp.id(alias), changes)) $$;

SELECT name FROM apikeys.create_tier('bronze', 1, '10/minute') UNION ALL SELECT name FROM apikeys.create_tier('gold', 2, '1000/minute');
SELECT name FROM apikeys.create_product('maps') UNION ALL SELECT name FROM apikeys.create_product('routes');
SELECT name FROM apikeys.create_account('acme');
SELECT alias AS made FROM apikeys.create_key('acme', 'web', category => 'staging', tier => 'bronze', lifetime => '30 days', products => '{maps}',
    allowed_domains => '{acme.example}', allowed_ips => '{192.0.2.0/24}', scopes => '{read}', billing_type => 'free', metadata => '{"a": 1}');
CREATE TEMP VIEW shown AS
SELECT k.alias, k.category, k.active, pg_temp.hours(k.expires_at) AS hours, k.tier, k.limits,
       ARRAY(SELECT p.product FROM apikeys.key_product AS p WHERE p.key_id = k.key_id ORDER BY 1) AS products,
       k.allowed_domains AS domains, k.allowed_ips AS ips, k.scopes, k.billing_type, k.metadata
FROM apikeys.key AS k JOIN apikeys.account AS a USING (account_id) WHERE a.name = 'acme';

-- What is absent stays; everything at once; null clears.
SELECT alias, state, products FROM apikeys.update_key(pg_temp.id('web'), '{}');
SELECT * FROM shown;
SELECT alias, state, tier, limits, products FROM apikeys.update_key(pg_temp.id('web'), jsonb_build_object(
    'alias', 'shop', 'category', 'testing', 'active', false, 'expires_at', clock_timestamp() + '5 hours', 'tier', 'gold', 'limits', '{"day": 7}'::jsonb,
    'products', '{routes}'::text[], 'allowed_domains', '{b.example,*.c.example}'::text[], 'allowed_ips', '{10.1.2.0/24,2001:db8::/32}'::text[],
    'scopes', '{write}'::text[], 'billing_type', 'paid', 'metadata', '{"b": [2]}'::jsonb));
SELECT * FROM shown;
SELECT alias FROM apikeys.update_key(pg_temp.id('shop'), '{"category": null, "expires_at": null, "limits": null, "products": null,
    "allowed_domains": null, "allowed_ips": null, "scopes": null, "billing_type": null, "metadata": null}');
SELECT * FROM shown;
SELECT alias FROM apikeys.update_key(pg_temp.id('shop'), '{"active": true, "tier": null, "products": ["maps", "maps", "routes"], "expires_at": "2100-01-31T12:00:00Z"}');
SELECT alias, active, tier, limits, products FROM shown;
SELECT expires_at AT TIME ZONE 'UTC' AS expires_at FROM apikeys.update_key(pg_temp.id('shop'), '{"alias": "web"}');
SELECT expires_at FROM apikeys.update_key(pg_temp.id('web'), '{"expires_at": "infinity"}');
SELECT pg_temp.hours(expires_at) FROM apikeys.update_key(pg_temp.id('web'), '{"lifetime": "2 days"}');
SELECT products FROM apikeys.update_key(pg_temp.id('web'), '{"products": []}');
-- Limits: a text or an object; none; and those that a new tier leaves if they are given with it.
SELECT limits FROM apikeys.update_key(pg_temp.id('web'), '{"limits": "5/day, 3/hour"}');
SELECT tier, limits FROM apikeys.update_key(pg_temp.id('web'), '{"tier": "bronze", "limits": "5/day, 3/hour"}');
SELECT tier, limits FROM apikeys.update_key(pg_temp.id('web'), '{"tier": "gold"}');
SELECT limits::text = '' AS none FROM apikeys.update_key(pg_temp.id('web'), '{"limits": {}}');
SELECT tier, limits FROM apikeys.update_key(pg_temp.id('web'), '{"limits": null}');
-- What an application sends back as it was read changes nothing, not even an expiry that is past.
SELECT alias AS made FROM apikeys.create_key('acme', 'short', lifetime => '1 hour', tier => 'gold');
SET apikeys.debug_clock_offset = '2h';
SELECT count(*) AS before FROM apikeys.audit_log \gset
SELECT u.state FROM apikeys.key AS k,
    LATERAL (SELECT k.alias, k.category, k.active, k.expires_at, k.tier, k.limits::jsonb, k.allowed_domains, k.allowed_ips, k.scopes, k.billing_type, k.metadata) AS s,
    apikeys.update_key(k.key_id, to_jsonb(s)) AS u
WHERE k.key_id = pg_temp.id('short');
SELECT count(*) - :before AS audited FROM apikeys.audit_log;
RESET apikeys.debug_clock_offset;

-- What is refused.
SELECT n, f.* FROM (VALUES
    (1, '{"colour": "red"}'), (2, '{"key_id": 5}'), (3, '{"digest": "x"}'), (4, jsonb_build_object(repeat('x', 100), 1)::text), (5, '[]'), (6, '"alias"'), (7, 'null'),
    (8, '{"alias": 5}'), (9, '{"alias": null}'), (10, '{"category": ["x"]}'), (11, '{"active": "true"}'), (12, '{"active": null}'),
    (13, '{"expires_at": 1893456000}'), (14, '{"expires_at": "soon"}'), (15, '{"expires_at": "2020-01-01"}'), (16, '{"expires_at": "-infinity"}'),
    (17, '{"lifetime": 30}'), (18, '{"lifetime": "long"}'), (19, '{"lifetime": null}'), (20, '{"lifetime": "-1 day"}'),
    (22, '{"lifetime": "1 day", "expires_at": null}'), (23, '{"tier": "lead"}'), (24, '{"tier": {}}'), (25, '{"limits": "many"}'), (26, '{"limits": 5}'),
    (27, '{"limits": {"day": -1}}'), (28, '{"limits": {"day": "x"}}'), (29, '{"products": "maps"}'), (30, '{"products": ["maps", null]}'), (31, '{"products": ["traffic"]}'),
    (32, '{"products": [""]}'), (33, '{"allowed_domains": "{a.example}"}'), (34, '{"allowed_domains": ["https://a.example/"]}'), (35, '{"allowed_ips": ["10.0.0.1/8"]}'),
    (36, '{"allowed_ips": [["10.0.0.0/8"]]}'), (37, '{"allowed_ips": [10]}'), (38, '{"scopes": ["a b"]}'), (39, '{"scopes": {"read": true}}'), (40, '{"billing_type": ""}'),
    (41, '{"billing_type": true}'), (42, '{"metadata": "{}"}'), (43, '{"metadata": []}'), (44, '{"alias": "short"}'), (45, '{"alias": " web"}'),
    (46, jsonb_build_object('metadata', jsonb_build_object('x', repeat('x', 65536)))::text),
    (47, jsonb_build_object('allowed_ips', ARRAY(SELECT format('10.0.%s.%s', n / 256, n % 256) FROM generate_series(1, 1001) AS n))::text)
) AS c (n, changes), pg_temp.change('web', changes::jsonb) AS f ORDER BY n;
SELECT f.* FROM pg_temp.failure('SELECT apikeys.update_key(' || pg_temp.id('web') || ', NULL)') AS f;
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.update_key(1, '{}')$$) AS f;
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.update_key(NULL, '{}')$$) AS f;
-- All or nothing.
SELECT f.code FROM pg_temp.change('web', '{"products": ["maps"], "category": "other", "alias": "short"}') AS f;
SELECT alias, category, products FROM shown ORDER BY alias;

-- The rules of the plan.
SELECT name FROM apikeys.create_plan('offer', lifetimes => '{1 day,7 days}', default_lifetime => '1 day', allow_unexpiring => false, custom_limits_allowed => false,
    billing_types => '{free}', max_keys => 2);
SELECT name FROM apikeys.create_account('small', 'offer');
SELECT key_id AS small FROM apikeys.create_key('small', 'a') \gset
SELECT n, f.* FROM (VALUES
    (1, '{"expires_at": null}'), (2, '{"expires_at": "2100-01-01"}'), (3, '{"lifetime": "8 days"}'), (4, '{"limits": "1/day"}'), (5, '{"billing_type": "paid"}')
) AS c (n, changes), pg_temp.failure(format('SELECT apikeys.update_key(%s, %L)', :small, changes)) AS f ORDER BY n;
SELECT pg_temp.hours(expires_at) FROM apikeys.update_key(:small, '{"lifetime": "168 hours"}');
SELECT alias AS made FROM apikeys.create_key('small', 'b');
SELECT state FROM apikeys.update_key(:small, '{"active": false}');
SELECT alias AS made FROM apikeys.create_key('small', 'c');
SELECT f.code, f.message FROM pg_temp.failure(format('SELECT apikeys.update_key(%s, %L)', :small, '{"active": true}')) AS f;
-- One key for each product: whatever the order of the changes, the last state is judged.
SELECT name FROM apikeys.create_plan('single', one_key_per_product => true);
SELECT name FROM apikeys.create_account('one', 'single');
SELECT key_id AS first FROM apikeys.create_key('one', 'first', products => '{maps}') \gset
SELECT key_id AS second FROM apikeys.create_key('one', 'second', products => '{routes}') \gset
SELECT n, f.code, f.message, f.place FROM (VALUES
    (1, :first, '{"products": []}'), (2, :first, '{"products": ["routes"]}'), (3, :first, '{"products": ["maps", "routes"]}')
) AS c (n, key_id, changes), pg_temp.failure(format('SELECT apikeys.update_key(%s, %L)', key_id, changes)) AS f ORDER BY n;
SELECT state, products FROM apikeys.update_key(:first, '{"active": false, "products": []}');
SELECT products FROM apikeys.update_key(:second, '{"products": ["maps"]}');
SELECT f.code, f.message FROM pg_temp.failure(format('SELECT apikeys.update_key(%s, %L)', :first, '{"active": true, "products": ["maps"]}')) AS f;
SELECT state, products FROM apikeys.update_key(:first, '{"active": true, "products": ["routes"]}');
SELECT action, old -> 'product' AS old, new -> 'product' AS new FROM apikeys.audit_log WHERE object = 'key_product' AND object_id = :'first' ORDER BY id;

-- Accounts.
SELECT display_name, contact, plan, limits, active, metadata FROM apikeys.update_account('one', '{"display_name": "One", "contact": "one@one.example",
    "plan": "default", "limits": {"day": 100}, "active": false, "metadata": {"vip": true}}');
SELECT display_name, contact, plan, limits, active, metadata FROM apikeys.update_account('one', '{"active": true, "limits": "5/hour"}');
SELECT display_name, contact, plan, limits, active, metadata FROM apikeys.update_account('one', '{"display_name": null, "contact": null, "limits": null, "metadata": null}');
SELECT n, f.* FROM (VALUES
    (1, 'one', '{"name": "two"}'), (2, 'one', '{"plan": null}'), (3, 'one', '{"plan": "none"}'), (4, 'one', '{"plan": 5}'), (5, 'one', '{"active": 1}'), (6, 'one', '{"active": null}'),
    (7, 'one', '{"display_name": " x"}'), (8, 'one', '{"contact": false}'), (9, 'one', '{"limits": "x"}'), (10, 'one', '{"metadata": [1]}'), (11, 'one', 'true'),
    (12, 'nobody', '{}'), (13, 'one', '{"plan": "offer"}')
) AS c (n, account, changes), pg_temp.failure(format('SELECT apikeys.update_account(%L, %L)', account, changes)) AS f ORDER BY n;

-- Managers change what they may change by UPDATE, and products and lifetimes; admins everything.
SELECT array_agg(m ORDER BY m COLLATE "C") = (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FROM pg_attribute AS a
       WHERE a.attrelid = 'apikeys.key'::regclass AND has_column_privilege('apikeys_admin', a.attrelid, a.attnum, 'UPDATE')) AS as_granted
FROM unnest('{alias,category,active,expires_at,tier,limits,owner_limits,allowed_domains,allowed_ips,scopes,billing_type,metadata}'::text[]) AS t (m);
CREATE ROLE regress_clerk IN ROLE apikeys_manager;
SELECT role FROM apikeys.add_member('regress_clerk', 'acme');
SELECT pg_temp.id('web') AS web \gset
SET ROLE regress_clerk;
SELECT alias FROM apikeys.update_key(:web, '{"alias": "site", "category": "x", "active": true, "expires_at": null, "products": ["maps"], "allowed_domains": [], "allowed_ips": [],
    "scopes": ["read"], "billing_type": "x", "metadata": {}}');
SELECT n, f.code, f.place, f.hint FROM (VALUES (1, :web, '{"tier": "gold"}'), (2, :web, '{"limits": null}'), (3, :first, '{"alias": "mine"}')) AS c (n, key_id, changes),
    pg_temp.failure(format('SELECT apikeys.update_key(%s, %L)', key_id, changes)) AS f ORDER BY n;
SELECT f.code FROM pg_temp.failure($$SELECT apikeys.update_account('acme', '{}')$$) AS f;
RESET ROLE;
DROP ROLE regress_clerk;
DELETE FROM apikeys.member;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
DELETE FROM apikeys.product;
