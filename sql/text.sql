-- What callers may send to be stored: bounds, forms, and no key texts.
SET search_path = pg_catalog;

-- Each column that holds what somebody wrote has a rule. The others: what the extension writes itself, out of fixed words, names of
-- roles and rows that were checked before.
SELECT a.attrelid::regclass AS relation, a.attname AS without_rule
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0
  AND (a.atttypid IN ('text'::regtype, 'jsonb'::regtype) OR a.attndims > 0)
  AND NOT EXISTS (SELECT FROM apikeys_internal.text_rules() AS r WHERE r.relation = c.relname AND r.name = a.attname)
ORDER BY c.relname COLLATE "C", a.attnum;
-- The rules that are of no column, and that no trigger asks about.
SELECT r.relation, r.name AS of_no_column FROM apikeys_internal.text_rules() AS r
WHERE NOT EXISTS (
    SELECT FROM pg_trigger AS t JOIN pg_attribute AS a ON a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr)
    WHERE t.tgname = r.relation || '_check_texts' AND t.tgrelid = ('apikeys.' || r.relation)::regclass AND a.attname = r.name);
-- They name a constraint where there is one.
SELECT r.relation, r.name AS wrong_constraint FROM apikeys_internal.text_rules() AS r
WHERE r.constrained <> EXISTS (SELECT FROM pg_constraint AS c WHERE c.conname = concat(r.relation, '_', r.name, '_check'));
SELECT r.relation, r.name, r.kind, r.most_bytes, r.most_elements FROM apikeys_internal.text_rules() AS r;

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT detail text, OUT place text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
    name     text;
    broken   text;
BEGIN
    EXECUTE statement;
    code := 'accepted';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
            relation = TABLE_NAME, name = COLUMN_NAME, broken = CONSTRAINT_NAME;
        place := concat_ws(' ', nullif(relation, ''), nullif(name, ''), nullif(broken, ''));
        detail := nullif(detail, '');
END
$$;
-- A key text that is known everywhere.
CREATE FUNCTION pg_temp.k() RETURNS text LANGUAGE sql AS $$SELECT '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'$$;

SELECT name FROM apikeys.create_tier('bronze', 1, '10/day');
SELECT name FROM apikeys.create_tier('gold', 3, '100/day');
SELECT name FROM apikeys.create_product('maps');
SELECT name FROM apikeys.create_account('acme', display_name => 'Caf' || chr(233), contact => 'Zo' || chr(235) || ' <z@example.com>');
SELECT key_id FROM apikeys.create_key('acme', 'main', tier => 'bronze') \gset

-- Names: refused by each function that makes one.
SELECT t.made, n.name AS form, f.code, f.message, f.detail, f.place
FROM (VALUES (1, 'blank', $$'x '$$), (2, 'no-break space', $$chr(160) || 'x'$$), (3, 'line', $$E'x\ny'$$), (4, 'zero width', $$'x' || chr(8203) || 'y'$$),
             (5, 'not NFC', $$'Cafe' || chr(769)$$), (6, 'a key', $$'for ' || pg_temp.k()$$), (7, 'long', $$repeat('x', 1025)$$)) AS n (number, name, value),
     (VALUES (1, 'account', 'create_account(%s)'), (2, 'account on the fly', 'create_key(%s)'), (3, 'display name', $$create_account('other', display_name => %s)$$),
             (4, 'contact', $$create_account('other', contact => %s)$$), (5, 'alias', $$create_key('acme', %s)$$),
             (6, 'category', $$create_key('acme', category => %s)$$), (7, 'billing type', $$create_key('acme', billing_type => %s)$$),
             (8, 'scope', $$create_key('acme', scopes => ARRAY['read', %s])$$), (9, 'product of a key', $$create_key('acme', products => ARRAY[%s])$$),
             (10, 'prefix', $$create_key('acme', prefix => %s)$$),
             (11, 'prefix of import', $$import_key('acme', 'some text', prefix => %s)$$), (12, 'hint', $$import_key('acme', 'some text', hint => %s)$$),
             (13, 'tier', 'create_tier(%s, 2)'), (14, 'product', 'create_product(%s)'), (15, 'plan', 'create_plan(%s)'),
             (16, 'prefix of plan', $$create_plan('p', key_prefix => %s)$$),
             (17, 'billing type of plan', $$create_plan('p', billing_types => ARRAY[%s])$$)) AS t (number, made, call),
     pg_temp.failure(format('SELECT apikeys.' || t.call, n.value)) AS f
ORDER BY t.number, n.number;

-- Lists and metadata.
SELECT f.code, f.message, f.place FROM (VALUES
    (1, $$create_key('acme', allowed_domains => ARRAY(SELECT n || '.example.com' FROM generate_series(1, 1001) AS n))$$),
    (2, $$create_key('acme', allowed_domains => ARRAY(SELECT n || '.example.com' FROM generate_series(1, 600000) AS n))$$),
    (3, $$create_key('acme', allowed_domains => ARRAY(SELECT concat(n, '.', repeat('x', 60), '.example.com') FROM generate_series(1, 1000) AS n))$$),
    (4, $$create_key('acme', allowed_domains => '{example.com,NULL}')$$),
    (5, $$create_key('acme', allowed_ips => ARRAY(SELECT inet '10.0.0.0' + n FROM generate_series(1, 1001) AS n)::cidr[])$$),
    (6, $$create_key('acme', scopes => array_fill('x'::text, ARRAY[1001]))$$),
    (7, $$create_key('acme', scopes => array_fill(repeat('x', 200), ARRAY[400]))$$),
    (8, $$create_key('acme', scopes => '{x,""}')$$),
    (9, $$create_key('acme', products => array_fill('maps'::text, ARRAY[1001]))$$),
    (10, $$create_key('acme', metadata => jsonb_build_object('x', repeat('x', 65536)))$$),
    (11, $$create_key('acme', metadata => jsonb_build_object('x', jsonb_build_array(1, pg_temp.k())))$$),
    (12, $$create_key('acme', metadata => jsonb_build_object(pg_temp.k(), true))$$),
    (13, $$create_account('other', metadata => jsonb_build_object('x', pg_temp.k()))$$),
    (14, $$create_account('other', metadata => '[]')$$),
    (15, $$create_plan('p', lifetimes => array_fill(interval '1 day', ARRAY[1001]))$$),
    (16, $$create_plan('p', billing_types => array_fill('x'::text, ARRAY[1001]))$$),
    (17, $$usage_report('-infinity', 'infinity', array_fill('key'::text, ARRAY[600000]))$$),
    (18, $$log_report('-infinity', 'infinity', array_fill('key'::text, ARRAY[600000]))$$)
) AS t (n, call), pg_temp.failure('SELECT apikeys.' || call) AS f ORDER BY n;
SELECT alias
FROM apikeys.create_key('acme', 'full', scopes => ARRAY(SELECT 's' || n FROM generate_series(1, 1000) AS n),
         allowed_domains => ARRAY(SELECT n || '.example.com' FROM generate_series(1, 1000) AS n),
         allowed_ips => ARRAY(SELECT inet '10.0.0.0' + n FROM generate_series(1, 1000) AS n)::cidr[],
         metadata => jsonb_build_object('x', repeat('x', 65000)));

-- Texts for people: too long, and with a key in them.
SELECT f.code, f.message, f.place FROM (VALUES
    (1, 'suspend_key(%2$s, %1$s)'), (2, $$block_address('10.1.2.3', %1$s)$$), (3, 'create_upgrade_rule(%1$s, ''gold'')'),
    (4, $$create_upgrade_rule('x', purpose => %1$s)$$), (5, $$create_upgrade_rule('x', project_kind => %1$s)$$),
    (6, $$request_upgrade(%2$s, 'gold', %1$s)$$), (7, $$request_upgrade(%2$s, 'gold', 'x', project => %1$s)$$),
    (8, $$request_upgrade(%2$s, 'gold', 'x', project_kind => %1$s)$$), (9, $$request_upgrade(%2$s, 'gold', 'x', purpose => %1$s)$$),
    (10, $$create_tier('t', 9, description => %1$s)$$), (11, $$create_product('p', %1$s)$$)
) AS t (n, call), pg_temp.failure(format('SELECT apikeys.' || call, 'repeat(''x'', 65537)', :'key_id')) AS f ORDER BY n;
SELECT description FROM apikeys.create_product('secret', 'try ' || pg_temp.k() || ' first');
SELECT description FROM apikeys.create_tier('silver', 2, description => pg_temp.k());
SELECT reason FROM apikeys.block_address('10.1.2.3', 'it used ' || pg_temp.k());
SELECT reason, purpose, project_kind FROM apikeys.create_upgrade_rule('no ' || pg_temp.k(), purpose => pg_temp.k(), project_kind => pg_temp.k());
SELECT state FROM apikeys.suspend_key(:key_id, 'found ' || pg_temp.k() || ' on a forum');
SELECT suspended_reason FROM apikeys.key WHERE key_id = :key_id;
SELECT state FROM apikeys.unsuspend_key(:key_id);
DELETE FROM apikeys.upgrade_rule;
SELECT id AS request, motivation, project, project_kind, purpose
FROM apikeys.request_upgrade(:key_id, 'gold', 'for ' || pg_temp.k(), pg_temp.k(), pg_temp.k(), pg_temp.k()) \gset
\echo :motivation :project :project_kind :purpose
SELECT question FROM apikeys.ask_upgrade(:request, 'is it ' || pg_temp.k());
SELECT answer FROM apikeys.answer_upgrade(:request, 'yes: ' || pg_temp.k());
SELECT note FROM apikeys.decline_upgrade(:request, 'not ' || pg_temp.k());
SELECT reason FROM apikeys.grant_units(:key_id, 'day', 5, clock_timestamp() + '1 day', 'for ' || pg_temp.k());
SET apikeys.actor = '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';
SELECT state FROM apikeys.deactivate_key(:key_id);
SELECT actor FROM apikeys.audit_log ORDER BY id DESC LIMIT 1;
SELECT set_config('apikeys.actor', repeat('x', 513), false) <> '' AS long;
SELECT f.code, f.message, f.place FROM pg_temp.failure(format('SELECT apikeys.activate_key(%s)', :'key_id')) AS f;
RESET apikeys.actor;

-- Direct UPDATEs: the same, for all who may.
SELECT u.change, f.code, f.message, f.place FROM (VALUES
    (1, $$key SET alias = 'x '$$), (2, $$key SET alias = pg_temp.k()$$), (3, $$key SET category = E'\t'$$),
    (4, $$key SET allowed_domains = ARRAY(SELECT n || '.example.com' FROM generate_series(1, 600000) AS n)$$),
    (5, $$key SET allowed_ips = array_fill(cidr '10.0.0.0/8', ARRAY[1001])$$), (6, $$key SET scopes = ARRAY['x ']$$),
    (7, $$key SET billing_type = repeat('x', 257)$$), (8, $$key SET metadata = jsonb_build_object('x', pg_temp.k())$$),
    (9, $$key SET metadata = jsonb_build_object('x', repeat('x', 65536))$$), (10, $$account SET display_name = ' x'$$),
    (11, $$account SET contact = pg_temp.k()$$), (12, $$account SET metadata = jsonb_build_object('x', pg_temp.k())$$),
    (13, $$plan SET name = 'x '$$), (14, $$plan SET billing_types = array_fill('x'::text, ARRAY[1001])$$),
    (15, $$plan SET lifetimes = array_fill(interval '1 day', ARRAY[1001])$$), (16, $$tier SET name = 'Cafe' || chr(769)$$),
    (17, $$tier SET description = repeat('x', 65537)$$), (18, $$product SET name = pg_temp.k()$$)
) AS u (n, change), pg_temp.failure('UPDATE apikeys.' || change) AS f ORDER BY n;
UPDATE apikeys.product SET description = 'or ' || pg_temp.k() WHERE name = 'maps' RETURNING description;

-- What was stored before there was a rule, as a restore brings it, stays, and does not stand in the way of other changes.
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, allowed_domains, scopes)
SELECT 7, account_id, sha256('7')::apikeys.digest, 'ak', 'ak_7', ' old ', ARRAY(SELECT n || '.example.com' FROM generate_series(1, 5000) AS n),
       array_fill('x'::text, ARRAY[1001])
FROM apikeys.account WHERE name = 'acme';
UPDATE apikeys.key SET active = false, alias = alias WHERE key_id = 7 RETURNING alias;
UPDATE apikeys.key SET allowed_domains = '{}' WHERE key_id = 7 RETURNING cardinality(scopes);
SELECT action, jsonb_array_length(old -> 'allowed_domains') AS old, new FROM apikeys.audit_log WHERE object_id = '7' ORDER BY id;
DELETE FROM apikeys.key WHERE key_id = 7;

-- Imported key texts.
SELECT t.text, f.code, f.message, f.detail FROM (VALUES
    (1, $$'x'$$), (2, $$'some text '$$), (3, $$' some text'$$), (4, $$E'some\ntext'$$), (5, $$'some' || chr(8203) || 'text'$$), (6, $$'1234|x'$$)
) AS t (n, text), pg_temp.failure(format('SELECT apikeys.import_key(''acme'', %s, hash_rule => %L)', text, CASE n WHEN 6 THEN 'sha256_after_bar' ELSE 'sha256' END)) AS f
ORDER BY n;

-- No key text is in any table, and no function stored one of those that were refused.
CREATE FUNCTION pg_temp.rows_with(part text) RETURNS TABLE (relation regclass, row_text text) LANGUAGE plpgsql AS $$
BEGIN
    FOR relation IN SELECT c.oid FROM pg_class AS c WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition LOOP
        RETURN QUERY EXECUTE format('SELECT %L::regclass, t::text FROM %s AS t WHERE position(%L IN t::text) > 0', relation, relation, part);
    END LOOP;
END
$$;
SELECT r.* FROM pg_temp.rows_with(substr(pg_temp.k(), 8, 27)) AS r;
SELECT count(*) > 10 AS hints FROM pg_temp.rows_with(chr(8230) || right(pg_temp.k(), 4)) AS r;

DELETE FROM apikeys.address_block;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.product;
DELETE FROM apikeys.tier;
