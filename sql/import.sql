-- Keys of other systems, many at a time.
SET search_path = pg_catalog;

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;
-- What is returned, with the alias in the place of the id.
CREATE FUNCTION pg_temp.import(rows jsonb, OUT n int, OUT alias text, OUT sqlstate text, OUT field text, OUT message text) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    FOR n, made, sqlstate, field, message IN SELECT * FROM apikeys.import_keys(rows) LOOP
        alias := (SELECT k.alias FROM apikeys.key AS k WHERE k.key_id = made);
        RETURN NEXT;
    END LOOP;
END
$$;

SELECT name FROM apikeys.create_tier('moved', 70001, '1000/day, 100/total');
SELECT (apikeys.create_product(p)).name FROM unnest('{atlas,tracks,spots}'::text[]) AS p;
SELECT name FROM apikeys.create_plan('tight', max_keys => 3, one_key_per_product => true, max_lifetime => '30 days', default_lifetime => '7 days',
                                     custom_limits_allowed => false, billing_types => '{free}');
SELECT name FROM apikeys.create_account('small mover', 'tight');

-- A bad row stops no other.
SELECT * FROM pg_temp.import('[
    {"account": "mover", "text": "legacy-key-0000000001", "alias": "one"},
    {"account": "mover", "text": "legacy-key-0000000002", "alias": "two", "hash_rule": "md5"},
    {"account": "mover", "text": "legacy-key-0000000001", "alias": "again"},
    {"account": "other mover", "text": "legacy-key-0000000001"},
    {"account": "mover", "text": "legacy-key-0000000003", "alias": "one"},
    {"account": "mover", "text": "legacy-key-0000000004", "colour": "red"},
    {"account": "mover", "digest": "no digest"},
    {"account": "mover", "digest": "abcd"},
    {"account": "mover", "digest": "T7MCWAd2OlBdlT6JylFZThFX8pBwpJ9qBaSMy9Yq78o", "encoding": "base64url", "alias": "base64url"},
    {"account": "mover", "digest": "ML6QqBwIRjjfSDJFcpGRnsnNTFk09opujkZrHBeRI7o=", "encoding": "base64", "alias": "base64"},
    {"account": "mover", "digest": "\\x0000000000000000000000000000000000000000000000000000000000000001", "alias": "hex"},
    {"account": "mover", "digest": "abcd", "encoding": "rot13"},
    {"account": "mover", "text": "legacy-key-0000000005", "tier": "lead"},
    {"account": "mover", "text": "legacy-key-0000000005", "products": ["atlas", "sea"]},
    {"account": "mover", "text": "legacy-key-0000000005", "products": "atlas"},
    {"account": "mover", "text": "legacy-key-0000000005", "scopes": ["read", null]},
    {"account": "mover", "text": "legacy-key-0000000005", "expires_at": "2020-01-01"},
    {"account": "mover", "text": "legacy-key-0000000005", "expires_at": "soon"},
    {"account": "mover", "text": "legacy-key-0000000005", "lifetime": "1 day", "expires_at": "infinity"},
    {"account": "mover", "text": "legacy-key-0000000005", "lifetime": "-1 day"},
    {"account": "mover", "text": "legacy-key-0000000005", "limits": "many"},
    {"account": "mover", "text": "legacy-key-0000000005", "created_at": "infinity"},
    {"account": "mover", "text": "legacy-key-0000000005", "used_total": -1},
    {"account": "mover", "text": "legacy-key-0000000005", "used_total": 1e30},
    {"account": "mover", "text": "legacy-key-0000000005", "used_total": "1"},
    {"account": "mover", "text": "legacy-key-0000000005", "metadata": []},
    {"account": "mover", "text": "legacy-key-0000000005", "hint": "legacy-key-0000000005"},
    {"account": "mover", "text": "legacy-key-0000000005", "alias": "with 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"},
    {"account": "mover", "text": "x"},
    {"account": "mover"},
    {"text": "legacy-key-0000000005"},
    {"account": "", "text": "legacy-key-0000000005"},
    [], null, 7,
    {"account": "mover", "text": "legacy-key-0000000005", "alias": "all", "prefix": "legacy", "category": "staging", "tier": "moved", "expires_at": "infinity",
     "products": ["atlas", "tracks", "atlas"], "allowed_domains": ["example.com"], "allowed_ips": ["192.0.2.0/24"], "scopes": ["read"], "billing_type": "free",
     "metadata": {"old": null}, "active": false, "created_at": "2020-01-01T00:00:00Z", "used_total": 99, "hint": null}]');
SELECT alias, category, prefix, hint, hash_rule, tier, limits, expires_at, allowed_domains, allowed_ips, scopes, billing_type, metadata, active,
       created_at AT TIME ZONE 'UTC' AS created_at, ARRAY(SELECT p.product FROM apikeys.key_product AS p WHERE p.key_id = k.key_id ORDER BY 1) AS products
FROM apikeys.key AS k WHERE key_id = apikeys.find_key('mover', 'all');
SELECT name FROM apikeys.account WHERE name ~ 'mover' ORDER BY name;
-- What was stored is on record, once.
SELECT object_id::bigint = k.key_id AS key, l.action, l.new ->> 'alias' AS alias, l.new -> 'products' AS products, l.new ? 'digest' AS digest
FROM apikeys.audit_log AS l JOIN apikeys.key AS k ON k.key_id::text = l.object_id JOIN apikeys.account AS a ON a.account_id = k.account_id WHERE l.object = 'key' AND a.name = 'mover' ORDER BY alias COLLATE "C";
SELECT kind, alias FROM apikeys.notice_list WHERE account = 'mover' ORDER BY alias COLLATE "C";
SELECT code, key_id = apikeys.find_key('mover', 'one') AS found FROM apikeys.authenticate('legacy-key-0000000001');

-- A repeat returns the same ids, changes nothing and adds nothing, also after a rotation with a grace.
SELECT count(*) FROM apikeys.rotate_key(apikeys.find_key('mover', 'one'), grace => '1 day');
SELECT * FROM pg_temp.import('[{"account": "mover", "text": "legacy-key-0000000001", "alias": "new name"},
                               {"account": "mover", "text": "legacy-key-0000000005", "used_total": 5, "active": true}]');
SELECT subject, t.admitted, t.units, b.units AS in_buckets, first_used_at AT TIME ZONE 'UTC' AS first_used_at, last_used_at > '2021-01-01' AS used
FROM apikeys.usage_total AS t JOIN apikeys.usage_bucket AS b USING (subject, subject_id) JOIN apikeys.key AS k ON subject = 'k' AND k.key_id = subject_id
WHERE k.account_id = (SELECT a.account_id FROM apikeys.account AS a WHERE a.name = 'mover');
SELECT c.* FROM apikeys.check_ledger() AS c JOIN apikeys.key AS k ON c.subject_id = k.key_id JOIN apikeys.account AS a ON a.account_id = k.account_id WHERE a.name = 'mover';
-- A key that was used before cannot be deleted; its units count for its total alone.
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.delete_key(apikeys.find_key('mover', 'all'))$$) AS f;
SELECT limit_window, cap, used, remaining FROM apikeys.key_limits(apikeys.find_key('mover', 'all'));

-- The rules of the plan, row by row; what is inactive or refused takes no place.
SELECT * FROM pg_temp.import('[
    {"account": "small mover", "text": "small-key-0000000001", "alias": "no product"},
    {"account": "small mover", "text": "small-key-0000000002", "alias": "late", "products": ["atlas"], "lifetime": "31 days"},
    {"account": "small mover", "text": "small-key-0000000003", "alias": "own limits", "products": ["atlas"], "limits": "1/day"},
    {"account": "small mover", "text": "small-key-0000000004", "alias": "paid", "products": ["atlas"], "billing_type": "paid"},
    {"account": "small mover", "text": "small-key-0000000005", "alias": "never", "products": ["atlas"], "expires_at": "infinity"},
    {"account": "small mover", "text": "small-key-0000000006", "alias": "inactive", "products": ["atlas"], "active": false},
    {"account": "small mover", "text": "small-key-0000000007", "products": ["atlas"]},
    {"account": "small mover", "text": "small-key-0000000008", "alias": "second", "products": ["tracks", "atlas"]},
    {"account": "small mover", "text": "small-key-0000000009", "alias": "third", "products": ["tracks"], "lifetime": "30 days"},
    {"account": "small mover", "text": "small-key-0000000009", "alias": "third again", "products": ["tracks"]}]');
SELECT * FROM pg_temp.import('[
    {"account": "small mover", "text": "small-key-0000000010", "products": ["spots"]},
    {"account": "small mover", "text": "small-key-0000000011", "products": ["atlas"]}]');
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.import_key('small mover', 'small-key-0000000012', products => '{atlas}')$$) AS f;

-- Aliases that are not given are free ones.
SELECT * FROM pg_temp.import('[{"account": "names", "text": "names-key-0000000001", "alias": "key-2"}, {"account": "names", "text": "names-key-0000000002"},
                               {"account": "names", "text": "names-key-0000000003"}, {"account": "names", "text": "names-key-0000000004"}]');
SELECT * FROM pg_temp.import('[{"account": "names", "text": "names-key-0000000005"}]');

-- Many: the last bounds, and a call without rows.
SELECT count(key_id), count(DISTINCT key_id), min(sqlstate) FROM apikeys.import_keys(
    (SELECT jsonb_agg(jsonb_build_object('account', 'many ' || n % 7, 'text', 'many-key-' || n, 'products', '["atlas"]'::jsonb)) FROM generate_series(1, 3000) AS n));
SELECT count(*) FROM apikeys.import_keys('[]');
-- import_key says what it is about, as create_key does.
CREATE FUNCTION pg_temp.about(statement text, OUT code text, OUT relation text, OUT field text, OUT broken text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, relation = TABLE_NAME, field = COLUMN_NAME, broken = CONSTRAINT_NAME, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
SELECT t.arguments, f.* FROM (VALUES
    (1, $$'small mover', 'small-key-0000000013', products => '{spots}'$$),
    (3, $$'small mover', 'small-key-0000000015', products => '{spots}', lifetime => '31 days'$$), (4, $$'small mover', 'small-key-0000000016', billing_type => 'paid'$$),
    (5, $$'small mover', 'small-key-0000000007'$$), (6, $$'mover', 'legacy-key-0000000020', alias => 'one'$$), (7, $$'mover', 'legacy-key-0000000020', alias => ' one'$$),
    (8, $$'mover', 'x'$$), (9, $$'mover'$$), (10, $$'', 'legacy-key-0000000020'$$), (11, $$'mover', 'legacy-key-0000000020', tier => 'none'$$),
    (12, $$'mover', 'legacy-key-0000000020', scopes => '{apikeys:admin}'$$), (13, $$'mover', 'legacy-key-0000000020', expires_at => '2020-01-01'$$)) AS t (n, arguments),
    pg_temp.about(format('SELECT apikeys.import_key(%s)', t.arguments)) AS f ORDER BY t.n;
SELECT f.* FROM (VALUES (1, $$'{}'$$), (2, $$'"x"'$$), (3, 'NULL'), (4, $$(SELECT jsonb_agg(0) FROM generate_series(1, 10001))$$)) AS t (n, rows),
    pg_temp.failure(format('SELECT apikeys.import_keys(%s)', rows)) AS f ORDER BY n;
SET apikeys.create_accounts = off;
SELECT * FROM pg_temp.import('[{"account": "unknown", "text": "unknown-key-00000001"}]');
