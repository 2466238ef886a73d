-- Notices: a row for each thing that users may want to hear of, in the transaction in which it happens, without secrets.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never
SET jit = off;
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;
DELETE FROM apikeys.notice;
DELETE FROM apikeys.notice_mark;
CREATE TEMP TABLE seen (id bigint);
INSERT INTO seen VALUES (0);
-- What was added since the last look.
CREATE FUNCTION pg_temp.news(OUT kind text, OUT account text, OUT alias text, OUT of_key boolean, OUT details jsonb) RETURNS SETOF record LANGUAGE sql AS $$
    WITH moved AS (UPDATE seen SET id = (SELECT coalesce(max(n.id), 0) FROM apikeys.notice AS n) RETURNING 0),
         fresh AS (SELECT l.* FROM apikeys.notice_list AS l, seen WHERE l.id > seen.id)
    SELECT f.kind, f.account, f.alias, f.key_id IS NOT NULL,
           (SELECT coalesce(jsonb_object_agg(e.key, CASE WHEN e.key IN ('due_at', 'hint', 'previous_valid_until', 'upgrade') THEN '"..."' ELSE e.value END), '{}')
            FROM jsonb_each(f.details) AS e)
    FROM fresh AS f, moved ORDER BY f.id
$$;

-- A key's life.
INSERT INTO apikeys.tier VALUES ('bronze', 1, '10/day'), ('gold', 2, '1000/day');
SELECT key_id FROM apikeys.create_key('acme', 'main', tier => 'bronze', expires_at => '2100-01-01 00:00+00') \gset
SELECT key_id AS other FROM apikeys.import_key('acme', 'some text', alias => 'other', limits => '5/day', category => 'staging') \gset
SELECT * FROM pg_temp.news();
SELECT details ->> 'hint' = k.hint AS hint_as_shown FROM apikeys.notice_list JOIN apikeys.key AS k USING (key_id);
SELECT alias FROM apikeys.rotate_key(:key_id, grace => '1 day');
SELECT alias FROM apikeys.deactivate_key(:key_id);
SELECT alias FROM apikeys.deactivate_key(:key_id);
SELECT alias FROM apikeys.activate_key(:key_id);
SELECT alias FROM apikeys.suspend_key(:key_id, 'unpaid');
SELECT alias FROM apikeys.suspend_key(:key_id, 'unpaid for long');
SELECT alias FROM apikeys.unsuspend_key(:key_id);
SELECT * FROM pg_temp.news();
-- Nobody wants to hear of the rest; what is done directly is heard of as well.
UPDATE apikeys.key SET alias = 'first', category = 'development', metadata = '{"a": 1}', tier = 'gold' WHERE key_id = :key_id;
SELECT * FROM pg_temp.news();
UPDATE apikeys.key SET active = false, suspended_at = '2026-01-01 00:00+00', suspended_reason = 'abuse' WHERE key_id = :key_id;
SELECT alias FROM apikeys.delete_key(:key_id);
SELECT * FROM pg_temp.news();

-- Accounts.
SELECT name FROM apikeys.deactivate_account('acme');
SELECT name FROM apikeys.deactivate_account('acme');
UPDATE apikeys.account SET active = true, contact = 'ops@acme.example' WHERE name = 'acme';
UPDATE apikeys.account SET contact = NULL WHERE name = 'acme';
SELECT * FROM pg_temp.news();

-- What is undone has not happened.
BEGIN;
SELECT alias FROM apikeys.deactivate_key(:other);
SAVEPOINT before;
SELECT alias FROM apikeys.suspend_key(:other, 'oversight');
ROLLBACK TO before;
COMMIT;
SELECT f.* FROM pg_temp.failure(format('SELECT apikeys.activate_key(%s), 1 / 0', :other)) AS f;
SELECT * FROM pg_temp.news();

-- Upgrades.
SELECT id AS request FROM apikeys.request_upgrade(:other, limits => '50/day', motivation => 'growth') \gset
SELECT state FROM apikeys.ask_upgrade(:request, 'How many users?');
SELECT state FROM apikeys.ask_upgrade(:request, 'And when?');
SELECT state FROM apikeys.answer_upgrade(:request, 'Soon.');
SELECT state FROM apikeys.approve_upgrade(:request, 'fine');
SELECT details ->> 'upgrade' = :'request' AS named, count(*) FROM apikeys.notice_list WHERE kind LIKE 'upgrade%' GROUP BY 1;
SELECT id AS request FROM apikeys.request_upgrade(:other, tier => 'gold', motivation => 'growth') \gset
SELECT state FROM apikeys.decline_upgrade(:request, 'not now');
SELECT id AS request FROM apikeys.request_upgrade(:other, tier => 'gold', motivation => 'growth') \gset
SELECT state FROM apikeys.withdraw_upgrade(:request);
SELECT reason FROM apikeys.create_upgrade_rule('not for games', purpose => 'games');
SELECT state FROM apikeys.request_upgrade(:other, tier => 'gold', motivation => 'growth', purpose => 'Games');
SELECT kind, account, alias, of_key, details - 'decided_by' AS details, details ->> 'decided_by' <> '' AS decided FROM pg_temp.news();

-- Nothing that would help to use a key.
SELECT count(*) AS secrets FROM apikeys.notice AS n, apikeys.key AS k
WHERE strpos(n::text, k.digest::text) > 0 OR strpos(n::text, coalesce(k.previous_digest::text, k.digest::text)) > 0 OR n::text ~ '_[0-9A-Za-z]{36}';

-- What expires soon: once for each expiry, while the key could be used till then. In a transaction: the writer looks, too.
BEGIN;
SELECT key_id AS soon FROM apikeys.create_key('acme', 'soon', lifetime => '5 days') \gset
SELECT key_id AS later FROM apikeys.create_key('acme', 'later', lifetime => '8 days') \gset
SELECT key_id AS idle FROM apikeys.create_key('acme', 'idle', lifetime => '6 days') \gset
SELECT alias FROM apikeys.deactivate_key(:idle);
SELECT FROM pg_temp.news();
SELECT e.seen FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1000) AS e;
-- Not before the last quarter of the lifetime.
SELECT kind, alias FROM pg_temp.news();
UPDATE apikeys.key SET expiry_set_at = '2001-02-03' WHERE key_id IN (:soon, :later, :idle);
SELECT e.seen FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1000) AS e;
SELECT kind, alias, details - '{hint,expires_at}'::text[] AS details FROM pg_temp.news();
SELECT e.seen FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1000) AS e;
SELECT * FROM pg_temp.news();
-- Extended, it expires another time; switched on again; later; when it has expired.
UPDATE apikeys.key SET expires_at = expires_at + interval '1 day' WHERE key_id = :soon;
UPDATE apikeys.key SET expiry_set_at = '2001-02-03' WHERE key_id = :soon;
SELECT alias FROM apikeys.activate_key(:idle);
SELECT FROM pg_temp.news();
SELECT e.seen FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1000) AS e;
SELECT kind, alias FROM pg_temp.news();
SET apikeys.debug_clock_offset = 172800;
SELECT e.seen FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1000) AS e;
SELECT kind, alias FROM pg_temp.news();
SELECT alias FROM apikeys.suspend_key(:soon, 'unpaid');
UPDATE apikeys.key SET expires_at = expires_at - interval '1 minute' WHERE key_id IN (:soon, :idle);
UPDATE apikeys.key SET expiry_set_at = '2001-02-03' WHERE key_id IN (:soon, :idle);
SELECT FROM pg_temp.news();
SELECT e.seen FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1000) AS e;
SELECT kind, alias FROM pg_temp.news();
SET apikeys.debug_clock_offset = 864000;
SELECT e.seen FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1000) AS e;
RESET apikeys.debug_clock_offset;
-- In steps, one after the other.
SELECT s.seen, s.after_id = :soon AS at_soon, n.seen AS next, n.after_id = :idle AS at_idle, e.seen AS rest
FROM apikeys_internal.add_expiry_notices('-infinity', 0, 1) AS s, apikeys_internal.add_expiry_notices(s.after_expiry, s.after_id, 1) AS n, apikeys_internal.add_expiry_notices(n.after_expiry, n.after_id, 1) AS e;
-- A key that is gone leaves no mark.
SELECT count(*) FROM apikeys.notice_mark WHERE subject_id = :later;
SELECT alias FROM apikeys.delete_key(:later);
SELECT count(*) FROM apikeys.notice_mark WHERE subject_id = :later;
SELECT FROM pg_temp.news();
COMMIT;

-- Limits: once within the window and the hour, again for another cap; those without end once for each cap.
CREATE FUNCTION pg_temp.mark(subject "char", limit_window text, seconds bigint, cap bigint, reached boolean, at timestamptz) RETURNS void LANGUAGE sql AS $$
    SELECT apikeys_internal.add_limit_notice(subject, (SELECT account_id FROM apikeys.account WHERE name = 'acme'), apikeys.find_key('acme', 'other'), limit_window, seconds, cap, cap - 1, reached, at)
$$;
SELECT FROM (VALUES
    (1, 'k'::"char", 'day', 86400, 10, false, '2026-01-01 00:00+00'::timestamptz), (2, 'k', 'day', 86400, 10, false, '2026-01-01 23:59+00'), (3, 'k', 'day', 86400, 10, true, '2026-01-01 23:59+00'),
    (4, 'k', 'day', 86400, 10, false, '2026-01-02 00:00+00'), (5, 'k', 'day', 86400, 20, false, '2026-01-02 00:01+00'), (6, 'a', 'day', 86400, 20, false, '2026-01-02 00:01+00'),
    (7, 'k', 'week', 604800, 20, false, '2026-01-02 00:01+00'), (8, 'k', 'total', NULL, 100, true, '2026-01-01 00:00+00'), (9, 'k', 'total', NULL, 100, true, '2029-01-01 00:00+00'),
    (10, 'k', 'total', NULL, 200, true, '2029-01-01 00:00+00'), (11, 'k', 'second', 1, 5, true, '2026-01-01 00:00+00'), (12, 'k', 'second', 1, 5, true, '2026-01-01 00:59+00'),
    (13, 'k', 'second', 1, 5, true, '2026-01-01 01:00+00')
) AS t (n, subject, limit_window, seconds, cap, reached, at), pg_temp.mark(subject, limit_window, seconds, cap, reached, at);
SELECT kind, account, alias, of_key, details - 'at' AS details, (details ->> 'at')::timestamptz AT TIME ZONE 'UTC' AS at FROM pg_temp.news();

-- Kept for some days after they were announced.
BEGIN;
UPDATE apikeys.notice SET sent_at = now() - CASE WHEN kind LIKE 'limit%' THEN interval '721 hours' ELSE interval '719 hours' END WHERE kind <> 'created';
UPDATE apikeys.notice SET sent_at = NULL WHERE kind = 'created';
SELECT count(*) AS due FROM apikeys.notice WHERE kind LIKE 'limit%';
SELECT apikeys_internal.delete_notices(30, 3), apikeys_internal.delete_notices(30, 1000), apikeys_internal.delete_notices(30, 1000);
SELECT count(*) FILTER (WHERE kind LIKE 'limit%') AS due, count(*) FILTER (WHERE sent_at IS NULL) > 0 AS unsent, count(*) FILTER (WHERE sent_at IS NOT NULL) > 0 AS recent FROM apikeys.notice;
ROLLBACK;

-- A replica gets its source's notices, and makes none.
SET session_replication_role = replica;
UPDATE apikeys.key SET active = NOT active;
DELETE FROM apikeys.upgrade_request;
RESET session_replication_role;
SELECT * FROM pg_temp.news();

-- Who reads what.
SELECT name FROM apikeys.create_account('rival');
SELECT alias FROM apikeys.create_key('rival', 'theirs');
CREATE ROLE regress_owner IN ROLE apikeys_manager;
CREATE ROLE regress_admin IN ROLE apikeys_admin;
CREATE ROLE regress_auditor IN ROLE apikeys_auditor;
INSERT INTO apikeys.member SELECT 'regress_owner', account_id FROM apikeys.account WHERE name = 'rival';
SELECT apikeys_internal.add_notice('address_blocked', NULL, NULL, '{"ip": "192.0.2.7", "until": null}');
SET SESSION AUTHORIZATION regress_owner;
SELECT kind, account, alias, details - 'hint' AS details FROM apikeys.notice_list;
SELECT f.* FROM (VALUES
    (1, 'SELECT FROM apikeys.notice'), (2, 'DELETE FROM apikeys.notice_list'), (3, $$SELECT apikeys_internal.add_notice('created', 1, 1, '{}')$$),
    (4, 'SELECT apikeys_internal.announce_notices(1)'), (5, 'SELECT apikeys_internal.wake_notices()'), (6, 'UPDATE apikeys.notice SET sent_at = NULL'),
    (7, $$INSERT INTO apikeys.notice (kind) VALUES ('created')$$), (8, 'SELECT FROM apikeys.notice_mark'), (9, $$SELECT apikeys_internal.add_expiry_notices('-infinity', 0, 1)$$),
    (10, 'SELECT apikeys_internal.delete_notices(0, 1)')
) AS t (n, statement), pg_temp.failure(t.statement) AS f ORDER BY t.n;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_admin;
SELECT account, count(*) > 0 AS some FROM apikeys.notice_list GROUP BY account ORDER BY account;
SELECT f.* FROM pg_temp.failure($$UPDATE apikeys.notice SET sent_at = NULL$$) AS f;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_auditor;
SELECT kind, key_id, account_id, details FROM apikeys.notice WHERE kind = 'address_blocked';
SELECT f.* FROM pg_temp.failure($$DELETE FROM apikeys.notice$$) AS f;
RESET SESSION AUTHORIZATION;
DELETE FROM apikeys.member;
DROP ROLE regress_owner, regress_admin, regress_auditor;

-- By account, by id and the next to be announced: no scan of the table.
BEGIN;
INSERT INTO apikeys.notice (kind, account_id, sent_at) SELECT 'created', n % 1000, now() FROM generate_series(1, 20000) AS n;
ANALYZE apikeys.notice;
CREATE FUNCTION pg_temp.scans(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || statement LOOP
        IF line ~ 'Scan.* notice' THEN
            RETURN NEXT btrim(regexp_replace(line, ' Backward', ''), ' ->');
        END IF;
    END LOOP;
END
$$;
SELECT pg_temp.scans('SELECT n.id FROM apikeys.notice AS n WHERE n.sent_at IS NULL ORDER BY n.id LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED');
SELECT pg_temp.scans($$SELECT * FROM apikeys.notice_list WHERE account = 'acme' ORDER BY id DESC LIMIT 10$$);
ROLLBACK;

DELETE FROM apikeys.upgrade_rule;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
DELETE FROM apikeys.notice;
DELETE FROM apikeys.notice_mark;
