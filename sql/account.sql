-- Accounts: made, on first sight too, switched on and off; what never changes.
SET search_path = pg_catalog;

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END
$$;

-- The plan that needs no plan: made by the first account on it.
SELECT count(*) AS plans FROM apikeys.plan;
SELECT name, plan, display_name, contact, limits, active, metadata, created_at <= clock_timestamp() AS created
FROM apikeys.create_account('acme', display_name => 'Acme Ltd', contact => 'ops@acme.example', metadata => '{"crm": 17}');
SELECT name, key_prefix, max_keys, max_lifetime, lifetimes, default_lifetime, allow_unexpiring, limits, default_tier,
       one_key_per_product, custom_limits_allowed, billing_types
FROM apikeys.plan;
INSERT INTO apikeys.plan (name, limits) VALUES ('fast', '100/second');
SELECT name, plan, limits FROM apikeys.create_account('umbrella', plan => 'fast', limits => '5/second');
SELECT name, plan FROM apikeys.create_account('wayne', plan => NULL);

SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.create_account('acme')$$),
    (2, $$SELECT apikeys.create_account('x', plan => 'slow')$$),
    (3, $$SELECT apikeys.create_account('')$$),
    (4, $$SELECT apikeys.create_account(NULL)$$),
    (5, $$SELECT apikeys.create_account(repeat('x', 513))$$),
    (6, $$SELECT apikeys.create_account('x', metadata => '[1]')$$),
    (7, $$SELECT apikeys.create_account('x', limits => '5/eon')$$),
    (8, $$SELECT apikeys.deactivate_account('nobody')$$),
    (9, $$SELECT apikeys.activate_account(NULL)$$),
    (10, $$UPDATE apikeys.account SET name = 'acme2' WHERE name = 'acme'$$),
    (11, $$UPDATE apikeys.account SET account_id = 99 WHERE name = 'acme'$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
SELECT count(*) FROM apikeys.account;

-- On first sight. Sessions cannot turn that off, or on.
SELECT account, alias FROM apikeys.create_key('initech');
SELECT account, alias FROM apikeys.create_key('initech');
SELECT account, alias FROM apikeys.create_key('hooli');
SELECT name, plan FROM apikeys.account ORDER BY name;
SET apikeys.create_accounts = off;

-- Switched off and on; the keys show it.
SELECT name, active FROM apikeys.deactivate_account('initech');
SELECT account, alias, state FROM apikeys.key_list ORDER BY account, alias;
SELECT name, active FROM apikeys.activate_account('initech');
SELECT account, alias, state FROM apikeys.key_list ORDER BY account, alias;

-- A plan can be renamed: its accounts follow.
UPDATE apikeys.plan SET name = 'faster' WHERE name = 'fast';
SELECT name, plan FROM apikeys.account ORDER BY name;

-- Locators are made of the UTF-8 form of the name.
SELECT t.name, apikeys.shard_hash_of_account(t.name) AS locator, get_byte(h.hash, 0) * 256 + get_byte(h.hash, 1) AS expected
FROM (VALUES ('acme'), ('Ünïcödé')) AS t(name), sha256(convert_to(t.name, 'UTF8')) AS h(hash);

-- An id that is taken is not said to be a taken name, nor an account that is missing.
SELECT last_value AS before FROM apikeys.account_account_id_seq \gset
SELECT setval('apikeys.account_account_id_seq', (SELECT max(account_id) FROM apikeys.account), false) > 0 AS set;
DO $$
BEGIN
    PERFORM apikeys.create_account('an id of another one');
EXCEPTION WHEN unique_violation THEN RAISE NOTICE '%', SQLERRM;
END $$;
SELECT setval('apikeys.account_account_id_seq', (SELECT max(account_id) FROM apikeys.account), false) > 0 AS set;
DO $$
BEGIN
    PERFORM apikeys.create_key('an id of another one');
EXCEPTION WHEN unique_violation THEN RAISE NOTICE '%', SQLERRM;
END $$;
SELECT setval('apikeys.account_account_id_seq', :before) > 0 AS set;

DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
