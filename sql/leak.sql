-- Reports of leaked keys. Key texts are random: only what becomes of them is shown.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never

SELECT key AS text, key_id AS current_id FROM apikeys.create_key('careless', 'current') \gset
SELECT key AS old, key_id AS rotated_id FROM apikeys.create_key('careless', 'rotated') \gset
SELECT key AS young FROM apikeys.rotate_key(:rotated_id, grace => '1 day') \gset
SELECT key AS off, key_id AS off_id FROM apikeys.create_key('careless', 'off') \gset
SELECT state FROM apikeys.deactivate_key(:off_id);
SELECT key AS held, key_id AS held_id FROM apikeys.create_key('careless', 'held') \gset
SELECT state FROM apikeys.suspend_key(:held_id, 'unpaid');
SELECT alias FROM apikeys.import_key('careless', '77|not-a-text-of-ours-at-all', alias => 'imported', hash_rule => 'sha256_after_bar');
CREATE FUNCTION pg_temp.leak(token text, url text DEFAULT 'https://example.com/x') RETURNS jsonb LANGUAGE sql AS
$$ SELECT jsonb_build_object('token', token, 'type', 'ours', 'url', url, 'source', 'content') $$;
SELECT jsonb_build_array(
    pg_temp.leak(:'text', 'https://example.com/a?k=' || :'text'), pg_temp.leak(:'old'), pg_temp.leak(:'off'), pg_temp.leak(:'held'), pg_temp.leak('unknown text'),
    pg_temp.leak('77|not-a-text-of-ours-at-all', 'https://example.com/77|not-a-text-of-ours-at-all'), '{}', '7', '{"token": null}', '{"token": ["x"]}',
    pg_temp.leak('')) AS report \gset
-- Nothing is changed without suspend.
SELECT r.n, r.found, k.alias FROM apikeys.report_leak(:'report', false) AS r LEFT JOIN apikeys.key AS k USING (key_id) ORDER BY n;
SELECT alias, state FROM apikeys.key_list WHERE account = 'careless' ORDER BY alias COLLATE "C";
SELECT r.n, r.found, k.alias FROM apikeys.report_leak(:'report') AS r LEFT JOIN apikeys.key AS k USING (key_id) ORDER BY n;
SELECT r.n, r.found, k.alias FROM apikeys.report_leak(:'report') AS r LEFT JOIN apikeys.key AS k USING (key_id) WHERE r.found ORDER BY n;
SELECT l.alias, l.state, regexp_replace(k.suspended_reason, '.{4}$', '****') AS reason, k.leaked_at IS NOT NULL AS leaked
FROM apikeys.key_list AS l JOIN apikeys.key AS k USING (key_id) WHERE l.account = 'careless' ORDER BY l.alias COLLATE "C";
SELECT t.text, a.code FROM (VALUES ('current', :'text'), ('old', :'old'), ('young', :'young')) AS t (text, key), apikeys.authenticate(t.key) AS a ORDER BY 1;
-- One notice for each text, and no text in anything.
SELECT alias, details -> 'previous' AS previous FROM apikeys.notice_list WHERE account = 'careless' AND kind = 'leaked' ORDER BY alias COLLATE "C";
SELECT count(*) AS texts FROM (SELECT to_jsonb(n)::text FROM apikeys.notice AS n UNION ALL SELECT to_jsonb(l)::text FROM apikeys.audit_log AS l
                               UNION ALL SELECT to_jsonb(k)::text FROM apikeys.key AS k) AS s (row)
WHERE position(:'text' IN s.row) + position(:'old' IN s.row) + position('not-a-text-of-ours' IN s.row) > 0;

-- A rotation with a grace keeps the suspension, one without ends it, unless it is the provider's.
SELECT count(*) FROM apikeys.rotate_key(:current_id, grace => '1 hour');
SELECT state FROM apikeys.get_key(:current_id);
SELECT count(*) FROM apikeys.rotate_key(:current_id);
SELECT state FROM apikeys.get_key(:current_id);
SELECT count(*) FROM apikeys.rotate_key(:held_id);
SELECT state FROM apikeys.get_key(:held_id);
SELECT key AS text FROM apikeys.rotate_key(:current_id) \gset
SELECT found FROM apikeys.report_leak(jsonb_build_array(pg_temp.leak(:'text')));
SELECT state FROM apikeys.suspend_key(:current_id, 'under review');
SELECT count(*) FROM apikeys.rotate_key(:current_id);
SELECT state FROM apikeys.unsuspend_key(:current_id);
SELECT leaked_at FROM apikeys.key WHERE key_id = :current_id;

SELECT apikeys.report_leak('{}');
SELECT apikeys.report_leak(NULL);
SELECT apikeys.report_leak((SELECT jsonb_agg(n) FROM generate_series(1, 1001) AS n));
SELECT count(*) FROM apikeys.report_leak('[]');

-- What to register finds what is made.
SELECT prefix, pattern FROM apikeys.key_patterns() WHERE prefix = 'ak';
SELECT :'text' ~ ('^' || pattern || '$') AS found FROM apikeys.key_patterns() WHERE prefix = 'ak';

-- A scanner may do that, and nothing else.
CREATE ROLE regress_scanner IN ROLE apikeys_scanner;
SET ROLE regress_scanner;
SELECT found FROM apikeys.report_leak(jsonb_build_array(jsonb_build_object('token', :'text')));
SELECT count(*) > 0 AS patterns FROM apikeys.key_patterns();
SELECT key_id FROM apikeys.key;
SELECT apikeys.get_key(1);
RESET ROLE;
DROP ROLE regress_scanner;
DELETE FROM apikeys.key WHERE account_id = (SELECT a.account_id FROM apikeys.account AS a WHERE a.name = 'careless');
DELETE FROM apikeys.account WHERE name = 'careless';
DELETE FROM apikeys.notice;
