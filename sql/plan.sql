-- The catalogue: plans, tiers and products made; products assigned; members; accounts moved to another plan.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
-- One short name for the key of acme with an alias.
CREATE FUNCTION pg_temp.id(alias text) RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key('acme', alias) $$;
SELECT coalesce(max(id), 0) AS start FROM apikeys.audit_log \gset

--
-- Made by functions, and recorded
--
SELECT * FROM apikeys.create_tier('bronze', 1, '10/day');
SELECT * FROM apikeys.create_tier('gold', 2, '1000/day', 'for the big ones');
SELECT * FROM apikeys.create_tier('endless', 3);
SELECT * FROM apikeys.create_product('maps', 'Tiles');
SELECT * FROM apikeys.create_product('routes');
SELECT * FROM apikeys.create_product('places');
SELECT count(p.name) FROM generate_series(1, 3) AS n, apikeys.create_product('p' || n) AS p;
SELECT * FROM apikeys.create_plan('free') \gx
SELECT * FROM apikeys.create_plan('strict', key_prefix => 'uspl', max_keys => 3, max_lifetime => '90 days', lifetimes => '{7 days,90 days}', default_lifetime => '7 days',
                                  allow_unexpiring => false, limits => '5/second', default_tier => 'bronze', one_key_per_product => true,
                                  custom_limits_allowed => false, billing_types => '{paying,free}') \gx
-- What is not said is as in a plain INSERT.
INSERT INTO apikeys.plan (name) VALUES ('plain');
SELECT count(DISTINCT to_jsonb(p) - 'name') AS kinds FROM apikeys.plan AS p WHERE name IN ('free', 'plain');
SELECT action, object, object_id, new ->> 'name' AS name FROM apikeys.audit_log WHERE id > :start ORDER BY id;

SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.create_tier('bronze', 9)$$),
    (2, $$SELECT apikeys.create_tier('lead', 1)$$),
    (3, $$SELECT apikeys.create_tier('', 9)$$),
    (4, $$SELECT apikeys.create_tier('lead', NULL)$$),
    (5, $$SELECT apikeys.create_product('maps')$$),
    (6, $$SELECT apikeys.create_product('')$$),
    (7, $$SELECT apikeys.create_product(NULL)$$),
    (8, $$SELECT apikeys.create_plan('free')$$),
    (9, $$SELECT apikeys.create_plan('new', default_tier => 'lead')$$),
    (10, $$SELECT apikeys.create_plan('new', lifetimes => '{}')$$),
    (11, $$SELECT apikeys.create_plan(NULL)$$),
    (12, $$SELECT apikeys.create_plan('new', lifetimes => '{7 days,30 days}', default_lifetime => '8 days')$$),
    (13, $$SELECT apikeys.create_plan('new', lifetimes => '{7 days,1 year}', default_lifetime => '360 days')$$),
    (14, $$SELECT apikeys.create_plan('new', max_lifetime => '30 days', default_lifetime => '31 days')$$),
    (15, $$SELECT apikeys.create_plan('new', max_lifetime => '363 days', default_lifetime => '1 year')$$),
    (16, $$SELECT apikeys.create_plan('new', max_lifetime => '90 days', lifetimes => '{7 days,91 days}')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

-- A plan default that was renamed is one like any other: accounts made on the fly get a new one.
BEGIN;
SELECT alias FROM apikeys.create_key('first');
UPDATE apikeys.plan SET name = 'basic' WHERE name = 'default';
SELECT alias FROM apikeys.create_key('second');
SELECT name, plan FROM apikeys.account WHERE name IN ('first', 'second') ORDER BY name;
ROLLBACK;

--
-- Members
--
CREATE ROLE regress_clerk IN ROLE apikeys_manager;
SELECT name FROM apikeys.create_account('acme', plan => 'free');
SELECT name FROM apikeys.create_account('rival', plan => 'free');
SELECT alias FROM apikeys.create_key('rival', 'theirs', products => '{maps,routes}');
SELECT m.role, m.account_id = a.account_id AS bound FROM apikeys.add_member('regress_clerk', 'acme') AS m, apikeys.account AS a WHERE a.name = 'acme';
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.add_member('regress_clerk', 'acme')$$),
    (2, $$SELECT apikeys.add_member('regress_nobody', 'acme')$$),
    (3, $$SELECT apikeys.add_member('regress_clerk', 'nobody')$$),
    (4, $$SELECT apikeys.remove_member('regress_clerk', 'rival')$$),
    (5, $$SELECT apikeys.remove_member('regress_clerk', 'nobody')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

--
-- Products of a key
--
SELECT alias FROM apikeys.create_key('acme', 'one');
SELECT alias, products FROM apikeys.assign_product(pg_temp.id('one'), 'routes');
SELECT alias, products FROM apikeys.assign_product(pg_temp.id('one'), 'maps');
SELECT alias, products FROM apikeys.assign_product(pg_temp.id('one'), 'maps');
SELECT alias, products FROM apikeys.unassign_product(pg_temp.id('one'), 'routes');
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.assign_product(pg_temp.id('one'), 'traffic')$$),
    (2, $$SELECT apikeys.assign_product(pg_temp.id('one'), NULL)$$),
    (3, $$SELECT apikeys.assign_product(1, 'maps')$$),
    (4, $$SELECT apikeys.unassign_product(pg_temp.id('one'), 'routes')$$),
    (5, $$SELECT apikeys.unassign_product(pg_temp.id('one'), 'maps')$$),
    (6, $$SELECT apikeys.unassign_product(1, 'maps')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- An owner may, for what is his.
SELECT apikeys.find_key('rival', 'theirs') AS theirs \gset
SET SESSION AUTHORIZATION regress_clerk;
SELECT alias, products FROM apikeys.assign_product(apikeys.find_key('acme', 'one'), 'places');
SELECT alias, products FROM apikeys.unassign_product(apikeys.find_key('acme', 'one'), 'places');
SELECT f.code FROM pg_temp.failure(format('SELECT apikeys.assign_product(%s, ''places'')', :theirs)) AS f;
SELECT f.code FROM pg_temp.failure(format('SELECT apikeys.unassign_product(%s, ''maps'')', :theirs)) AS f;
RESET SESSION AUTHORIZATION;
SELECT role, action, object, coalesce(old, new) ->> 'product' AS product FROM apikeys.audit_log
WHERE id > :start AND object = 'key_product' AND account_id IS NOT NULL ORDER BY id;
SELECT role FROM apikeys.remove_member('regress_clerk', 'acme');
SELECT action, object_id, coalesce(old, new) - 'account_id' AS row FROM apikeys.audit_log WHERE id > :start AND object = 'member' ORDER BY id;

-- Each product once per account, where the plan says so; inactive and expired keys take none.
UPDATE apikeys.plan SET one_key_per_product = true WHERE name = 'free';
SELECT alias FROM apikeys.create_key('acme', 'two', products => '{routes}');
SELECT alias FROM apikeys.create_key('acme', 'off', products => '{places}');
SELECT state FROM apikeys.deactivate_key(pg_temp.id('off'));
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.assign_product(pg_temp.id('two'), 'maps')$$) AS f;
SELECT alias, products FROM apikeys.assign_product(pg_temp.id('off'), 'maps');
SELECT alias, products FROM apikeys.assign_product(pg_temp.id('two'), 'places');
SELECT f.code, f.message FROM (VALUES
    (1, $$UPDATE apikeys.key_product SET product = 'maps' WHERE key_id = pg_temp.id('two') AND product = 'routes'$$),
    (2, $$UPDATE apikeys.key_product SET key_id = pg_temp.id('two') WHERE key_id = pg_temp.id('off') AND product = 'maps'$$),
    (3, $$SELECT apikeys.activate_key(pg_temp.id('off'))$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- The last product of a key stays, however it is taken away, unless the key is off or goes, too.
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.unassign_product(pg_temp.id('one'), 'maps')$$) AS f;
SELECT f.code, f.message FROM (VALUES
    (1, $$DELETE FROM apikeys.key_product WHERE key_id = pg_temp.id('one')$$),
    (2, $$DELETE FROM apikeys.key_product$$),
    (3, $$UPDATE apikeys.key_product SET key_id = pg_temp.id('two') WHERE key_id = pg_temp.id('one')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
BEGIN;
DELETE FROM apikeys.key_product WHERE key_id = pg_temp.id('off') OR key_id = pg_temp.id('two') AND product = 'routes';
SELECT alias, products FROM apikeys.delete_key(pg_temp.id('one'));
ROLLBACK;
-- A product that is renamed is no conflict, nor is one that moves.
UPDATE apikeys.product SET name = 'tiles' WHERE name = 'maps';
UPDATE apikeys.key SET active = false WHERE key_id = pg_temp.id('one');
UPDATE apikeys.key_product SET key_id = pg_temp.id('two') WHERE key_id = pg_temp.id('one');
SELECT alias, state, products FROM apikeys.key_list WHERE account = 'acme' ORDER BY alias;

--
-- From one plan to another
--
UPDATE apikeys.plan SET one_key_per_product = false WHERE name = 'free';
SELECT alias FROM apikeys.create_key('acme', 'a1', lifetime => '1 day', billing_type => 'free', products => '{p1}');
SELECT alias FROM apikeys.create_key('acme', 'a2', lifetime => '91 days', billing_type => 'freemium', products => '{p2}');
SELECT alias FROM apikeys.create_key('acme', 'a3', limits => '7/day');
SELECT state FROM apikeys.activate_key(pg_temp.id('one'));
SELECT alias, products FROM apikeys.assign_product(pg_temp.id('one'), 'routes');
SELECT CASE WHEN alias IS NOT NULL THEN key_id = pg_temp.id(alias) END AS ours, alias, rule, detail
FROM apikeys.change_plan('acme', 'strict', dry_run => true);
SELECT plan FROM apikeys.account WHERE name = 'acme';
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.change_plan('acme', 'strict')$$) AS f \gx
SELECT plan FROM apikeys.account WHERE name = 'acme';
-- With nothing in the way it is changed.
SELECT * FROM apikeys.change_plan('acme', 'plain', true);
SELECT plan FROM apikeys.account WHERE name = 'acme';
SELECT * FROM apikeys.change_plan('acme', 'plain');
SELECT plan FROM apikeys.account WHERE name = 'acme';
UPDATE apikeys.key SET expires_at = clock_timestamp() + interval '1 day', limits = NULL, billing_type = NULL WHERE account_id = (SELECT account_id FROM apikeys.account WHERE name = 'acme');
SELECT alias, rule, detail FROM apikeys.change_plan('acme', 'strict', true);
SELECT alias FROM apikeys.delete_key(pg_temp.id('one'));
SELECT alias, rule, detail FROM apikeys.change_plan('acme', 'strict', true);
SELECT products FROM apikeys.assign_product(pg_temp.id('a3'), 'p3');
SELECT state FROM apikeys.deactivate_key(pg_temp.id('two'));
SELECT * FROM apikeys.change_plan('acme', 'strict');
SELECT plan FROM apikeys.account WHERE name = 'acme';
SELECT f.code, f.message FROM pg_temp.failure($$SELECT apikeys.activate_key(pg_temp.id('two'))$$) AS f;
-- A long list is cut.
SELECT count(k.alias) FROM generate_series(1, 22) AS i, apikeys.create_key('rival', 'r' || lpad(i::text, 2, '0')) AS k;
SELECT f.detail FROM pg_temp.failure($$SELECT apikeys.change_plan('rival', 'strict')$$) AS f;
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.change_plan('nobody', 'strict')$$),
    (2, $$SELECT apikeys.change_plan('acme', 'nothing')$$),
    (3, $$SELECT apikeys.change_plan('acme', NULL)$$),
    (4, $$SET ROLE regress_clerk; SELECT apikeys.change_plan('acme', 'free', true)$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

-- A key has at most 1000 products, however they come.
BEGIN;
INSERT INTO apikeys.product SELECT 'wide-' || n FROM generate_series(1, 1001) AS n;
INSERT INTO apikeys.plan (name) VALUES ('wide');
SELECT name FROM apikeys.create_account('wide', 'wide');
SELECT alias FROM apikeys.create_key('wide', 'wide', products => ARRAY(SELECT 'wide-' || n FROM generate_series(1, 999) AS n));
SELECT cardinality(products) FROM apikeys.assign_product(apikeys.find_key('wide', 'wide'), 'wide-1000');
SELECT * FROM pg_temp.failure($$SELECT apikeys.assign_product(apikeys.find_key('wide', 'wide'), 'wide-1001')$$);
ROLLBACK;

DROP ROLE regress_clerk;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
DELETE FROM apikeys.product;
