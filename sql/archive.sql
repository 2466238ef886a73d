-- The archive of keys: which can be archived, what an archived one cannot become, its alias, its place in plans, notices and audit log.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text, OUT place text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
    about text;
    broken text;
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
            relation = TABLE_NAME, about = COLUMN_NAME, broken = CONSTRAINT_NAME;
        message := regexp_replace(message, 'key \d{2,}', 'key <id>');
        place := concat_ws(' ', nullif(relation, ''), nullif(about, ''), nullif(broken, ''));
END
$$;

SELECT name FROM apikeys.create_account('acme');
SELECT key AS old_text, key_id AS old FROM apikeys.create_key('acme', 'old', metadata => '{"a": 1}') \gset
SELECT key AS short_text, key_id AS short FROM apikeys.create_key('acme', 'short', lifetime => '1 hour') \gset
SELECT key_id AS bad FROM apikeys.create_key('acme', 'bad') \gset

-- Which can be archived.
SELECT f.* FROM (VALUES (1, format('SELECT apikeys.archive_key(%s)', :old)), (2, 'SELECT apikeys.archive_key(1)'), (3, 'SELECT apikeys.archive_key(NULL)'),
    (4, 'SELECT apikeys.unarchive_key(1)'), (5, 'SELECT apikeys.unarchive_key(NULL)')) AS t(n, statement), pg_temp.failure(t.statement) AS f ORDER BY t.n;
SELECT state FROM apikeys.suspend_key(:bad, 'published');
SELECT state FROM apikeys.deactivate_key(:bad);
SELECT f.* FROM pg_temp.failure(format('SELECT apikeys.archive_key(%s)', :bad)) AS f;
SELECT state FROM apikeys.unarchive_key(:old);
SELECT state FROM apikeys.deactivate_key(:old);
SELECT alias FROM apikeys.archive_key(:old);
SELECT archived_at AS since FROM apikeys.key WHERE key_id = :old \gset
SELECT alias FROM apikeys.archive_key(:old);
SET apikeys.debug_clock_offset = '2h';
SELECT alias FROM apikeys.archive_key(:short);
-- The clock is set back: an archived key is refused all the same.
RESET apikeys.debug_clock_offset;
SELECT code FROM apikeys.authenticate(:'short_text') UNION ALL SELECT code FROM apikeys.authenticate(:'old_text');
SELECT alias FROM apikeys.update_key(:short, '{"metadata": {"clock": "back"}}');
SELECT alias, archived_at = :'since' AS since, active FROM apikeys.key WHERE archived_at IS NOT NULL ORDER BY alias;
SELECT check_name, passed, code FROM apikeys.explain_key(:old) WHERE check_name = 'key active';

-- What it cannot become.
SET apikeys.debug_clock_offset = '2h';
SELECT f.* FROM (VALUES (1, format('SELECT apikeys.activate_key(%s)', :old)), (2, format('SELECT apikeys.update_key(%s, ''{"active": true}'')', :old)),
    (3, format('SELECT apikeys.update_key(%s, ''{"lifetime": "1 day"}'')', :short)), (4, format('SELECT apikeys.rotate_key(%s, lifetime => ''1 day'')', :short)),
    (5, format('UPDATE apikeys.key SET expires_at = NULL WHERE key_id = %s', :short))
    ) AS t(n, statement), pg_temp.failure(t.statement) AS f ORDER BY t.n;
SELECT key_id AS current FROM apikeys.create_key('acme', 'current') \gset
SELECT f.* FROM pg_temp.failure(format('UPDATE apikeys.key SET archived_at = now() WHERE key_id = %s', :current)) AS f;
-- What changes nothing of that is allowed.
SELECT alias FROM apikeys.update_key(:short, '{"metadata": {"b": 2}, "active": false}');
SELECT alias FROM apikeys.update_key(:short, '{"expires_at": null}');
RESET apikeys.debug_clock_offset;

-- Its alias is free; for find_key too.
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.find_key('acme', 'old')$$) AS f;
SELECT key_id AS successor FROM apikeys.create_key('acme', 'old') \gset
SELECT apikeys.find_key('acme', 'old') = :successor AS found;
SELECT f.* FROM (VALUES (1, format('SELECT apikeys.unarchive_key(%s)', :old)), (2, $$SELECT apikeys.create_key('acme', 'old')$$)
    ) AS t(n, statement), pg_temp.failure(t.statement) AS f ORDER BY t.n;
SELECT alias, state FROM apikeys.deactivate_key(:successor);
SELECT alias FROM apikeys.archive_key(:successor);
SELECT count(*) FROM apikeys.key WHERE alias = 'old';
SELECT alias, state FROM apikeys.unarchive_key(:old);
SELECT f.* FROM pg_temp.failure(format('SELECT apikeys.unarchive_key(%s)', :successor)) AS f;
SELECT alias FROM apikeys.update_key(:successor, '{"alias": "older"}');
SELECT alias, state FROM apikeys.unarchive_key(:successor);
SELECT alias, state FROM apikeys.activate_key(:old);

-- key-<n> of an archived key is free, too.
SELECT key_id AS numbered FROM apikeys.create_key('acme') \gset
SELECT alias, state FROM apikeys.deactivate_key(:numbered);
SELECT alias FROM apikeys.archive_key(:numbered);
SELECT alias FROM apikeys.create_key('acme');
SELECT alias, state FROM apikeys.deactivate_key(apikeys.find_key('acme', 'key-1'));
SELECT alias FROM apikeys.archive_key(apikeys.find_key('acme', 'key-1'));
SELECT i.n, i.sqlstate
FROM apikeys.import_keys('[{"account": "acme", "text": "imported-0000000001"}, {"account": "acme", "text": "imported-0000000002"},
                           {"account": "acme", "text": "imported-0000000003", "alias": "key-1"}, {"account": "acme", "text": "imported-0000000004", "alias": "key-1"}]') AS i
ORDER BY i.n;
SELECT alias, archived_at IS NOT NULL AS archived FROM apikeys.key WHERE starts_with(alias, 'key-') ORDER BY key_id;

-- It does not count for its plan, and a copy of it is none.
SELECT name FROM apikeys.create_plan('one', max_keys => 1);
SELECT name FROM apikeys.create_account('single', 'one');
SELECT key_id AS first FROM apikeys.create_key('single', 'first') \gset
SELECT f.code FROM pg_temp.failure($$SELECT apikeys.create_key('single', 'second')$$) AS f;
SELECT state FROM apikeys.deactivate_key(:first);
SELECT alias FROM apikeys.archive_key(:first);
SELECT alias FROM apikeys.copy_key(:first, 'first');
SELECT alias, archived_at IS NOT NULL AS archived, key.active FROM apikeys.key JOIN apikeys.account AS a USING (account_id) WHERE a.name = 'single' ORDER BY key_id;

-- Its data are erased with those of the others.
SELECT name FROM apikeys.erase_account_data('single');
SELECT starts_with(alias, key_id::text) AS erased, archived_at IS NOT NULL AS archived FROM apikeys.key JOIN apikeys.account AS a USING (account_id) WHERE a.name = 'single' ORDER BY key_id;

-- Notices and audit log.
SELECT kind, alias FROM apikeys.notice_list WHERE kind LIKE '%archived' AND account = 'acme' ORDER BY id;
SELECT action, object, old ? 'archived_at' AS old, new ? 'archived_at' AS new, new ->> 'archived_at' IS NULL AS cleared
FROM apikeys.audit_log WHERE object_id = :'old' AND new ? 'archived_at' ORDER BY id;

-- Managers archive what they reach.
CREATE ROLE regress_clerk;
GRANT apikeys_manager TO regress_clerk;
SELECT role FROM apikeys.add_member('regress_clerk', 'single');
SET ROLE regress_clerk;
SELECT f.code FROM pg_temp.failure(format('SELECT apikeys.archive_key(%s)', :successor)) AS f;
SELECT f.code FROM pg_temp.failure(format('SELECT apikeys.unarchive_key(%s)', :successor)) AS f;
SELECT f.code, f.message FROM pg_temp.failure(format('UPDATE apikeys.key SET archived_at = NULL WHERE key_id = %s', :first)) AS f;
SELECT state FROM apikeys.unarchive_key(:first);
SELECT state IS NOT NULL AS archived FROM apikeys.archive_key(:first);
RESET ROLE;
DROP ROLE regress_clerk;
DELETE FROM apikeys.member;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
