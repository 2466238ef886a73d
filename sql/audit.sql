-- The audit log: every change by every way, who and on whose behalf, no digests; and nobody changes the log.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never
SET jit = off;
-- Rows of earlier tests cannot be deleted.
SELECT coalesce(max(id), 0) AS start FROM apikeys.audit_log \gset
CREATE FUNCTION pg_temp.shown(whole jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_object_agg(e.key, CASE WHEN e.key IN ('key_id', 'account_id', 'created_at', 'created_by', 'hint', 'rotated_at', 'suspended_at', 'asked_at', 'asked_by', 'id')
                                             AND e.value <> 'null' THEN '"…"' ELSE e.value END)
    FROM jsonb_each(whole) AS e
$$;
CREATE TEMP TABLE seen (id bigint);
INSERT INTO seen VALUES (:start);
-- What was recorded since the last look.
CREATE FUNCTION pg_temp.news(OUT action text, OUT object text, OUT object_id text, OUT of_account boolean, OUT old jsonb, OUT new jsonb)
RETURNS SETOF record LANGUAGE sql AS $$
    WITH moved AS (UPDATE seen SET id = (SELECT max(l.id) FROM apikeys.audit_log AS l) RETURNING 0),
         fresh AS (SELECT l.* FROM apikeys.audit_log AS l, seen WHERE l.id > seen.id)
    SELECT l.action, l.object, regexp_replace(l.object_id, '^\d+$', '…'), l.account_id IS NOT NULL, pg_temp.shown(l.old), pg_temp.shown(l.new)
    FROM fresh AS l, moved ORDER BY l.id
$$;

-- Made: accounts, plans on first sight, keys.
SELECT key_id FROM apikeys.create_key('acme', 'main') \gset
SELECT * FROM pg_temp.news();
INSERT INTO apikeys.tier VALUES ('bronze', 1, '10/day'), ('gold', 2, '1000/day');
INSERT INTO apikeys.product VALUES ('maps');
SELECT key_id AS other FROM apikeys.create_key('acme', 'other', products => '{maps}', tier => 'bronze', metadata => '{"a": null}') \gset
SELECT alias FROM apikeys.import_key('acme', 'text', alias => 'imported');
SELECT name FROM apikeys.create_account('globex', display_name => 'Globex', metadata => '{"crm": 1}');
SELECT * FROM pg_temp.news();

-- Changed, by functions and directly: the columns that changed. A change to what was is none, nor is a lock.
SELECT alias FROM apikeys.deactivate_key(:key_id);
SELECT alias FROM apikeys.deactivate_key(:key_id);
SELECT alias FROM apikeys.activate_key(:key_id);
SELECT alias FROM apikeys.suspend_key(:key_id, 'unpaid');
SELECT alias FROM apikeys.unsuspend_key(:key_id);
UPDATE apikeys.key SET limits = '5/day', metadata = '{"b": 2}', expires_at = '2100-01-01 00:00+00' WHERE key_id = :key_id;
UPDATE apikeys.key SET limits = '5 / 24 hours' WHERE key_id = :key_id;
UPDATE apikeys.key SET tier = 'gold' WHERE key_id = :other;
UPDATE apikeys.key SET tier = 'gold' WHERE key_id = :key_id;
SELECT name FROM apikeys.deactivate_account('globex');
SELECT * FROM pg_temp.news();
UPDATE apikeys.account SET contact = 'ops@acme.example', limits = '9/second' WHERE name = 'acme';
DELETE FROM apikeys.account WHERE name = 'globex';
UPDATE apikeys.plan SET max_keys = 9;
UPDATE apikeys.plan SET name = 'basic';
UPDATE apikeys.tier SET limits = '2000/day' WHERE name = 'gold';
UPDATE apikeys.product SET description = 'Tiles';
SELECT * FROM pg_temp.news();

-- Rotated: digests change, and show as null.
SELECT alias FROM apikeys.rotate_key(:key_id);
UPDATE apikeys.key SET digest = sha256('x')::apikeys.digest WHERE key_id = :key_id;
SELECT * FROM pg_temp.news();
SELECT alias FROM apikeys.rotate_key(:key_id, grace => '1 day');
SELECT old - 'hint' - 'rotated_at' AS old, new - 'hint' - 'rotated_at' - 'previous_valid_until' AS new FROM pg_temp.news();

-- The rest of the tables.
INSERT INTO apikeys.member SELECT 'clerk', account_id FROM apikeys.account WHERE name = 'acme';
UPDATE apikeys.member SET role = 'clark';
INSERT INTO apikeys.upgrade_rule (min_tier, reason) VALUES ('gold', 'none left');
UPDATE apikeys.upgrade_rule SET reason = 'too late';
INSERT INTO apikeys.upgrade_request (key_id, tier, motivation, due_at) VALUES (:other, 'gold', 'more', '2026-01-01 00:00+00');
UPDATE apikeys.upgrade_request SET state = 'needs_information', question = 'Why?';
SELECT * FROM pg_temp.news();

-- Deleted: rows as they were, also those that go with others.
SELECT alias FROM apikeys.delete_key(:other);
DELETE FROM apikeys.upgrade_rule;
DELETE FROM apikeys.member;
SELECT * FROM pg_temp.news();
TRUNCATE apikeys.key_product;
SELECT * FROM pg_temp.news();

-- What is undone was not.
BEGIN;
UPDATE apikeys.product SET description = 'lost';
ROLLBACK;
SELECT count(*) FROM pg_temp.news();

-- By whom and on whose behalf.
CREATE ROLE regress_clerk IN ROLE apikeys_admin;
SET SESSION AUTHORIZATION regress_clerk;
UPDATE apikeys.product SET description = 'one';
SET apikeys.actor = 'jane@acme.example';
UPDATE apikeys.product SET description = 'two';
BEGIN;
SET LOCAL apikeys.actor = 'joe';
SET LOCAL ROLE apikeys_admin;
UPDATE apikeys.product SET description = 'three';
COMMIT;
RESET apikeys.actor;
DELETE FROM apikeys.product;
RESET SESSION AUTHORIZATION;
SELECT role, actor, action, new, at BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp() AS now FROM apikeys.audit_log, seen WHERE audit_log.id > seen.id ORDER BY audit_log.id;

-- What a key was asked to be, whatever became of it: found by its id, with an index.
SELECT count(*) > 5 AS remembered FROM apikeys.audit_log WHERE object = 'key' AND object_id = :'key_id';
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT FROM apikeys.audit_log WHERE object = 'key' AND object_id = '1' ORDER BY at;
RESET enable_seqscan;
-- No digest is in it.
SELECT count(*) AS digests FROM apikeys.audit_log AS l WHERE l::text ~ '[0-9a-f]{64}';

-- Nobody changes it, in any replication role; a restore adds to it.
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT detail text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
END
$$;
SELECT f.* FROM (VALUES
    (1, $$UPDATE apikeys.audit_log SET actor = 'nobody'$$),
    (2, $$DELETE FROM apikeys.audit_log$$),
    (3, $$DELETE FROM apikeys.audit_log WHERE false$$),
    (4, $$TRUNCATE apikeys.audit_log$$),
    (5, $$MERGE INTO apikeys.audit_log AS l USING (VALUES (1)) AS v (id) ON l.id = v.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
SET session_replication_role = replica;
SELECT f.code FROM (VALUES
    (1, $$UPDATE apikeys.audit_log SET actor = 'nobody'$$), (2, $$DELETE FROM apikeys.audit_log$$), (3, $$TRUNCATE apikeys.audit_log$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- A replica gets the rows of the log from its source, and makes none.
UPDATE apikeys.tier SET description = 'replicated';
RESET session_replication_role;
SELECT count(*) FROM apikeys.audit_log, seen WHERE audit_log.id > seen.id AND object = 'tier';
SELECT f.code FROM pg_temp.failure($$SET ROLE regress_clerk; DELETE FROM apikeys.audit_log$$) AS f;
SELECT f.code FROM pg_temp.failure($$SET ROLE regress_clerk; SELECT apikeys_internal.audit('x', 'x', 'x', NULL, NULL, NULL)$$) AS f;
SELECT f.code FROM pg_temp.failure($$SET ROLE regress_clerk; INSERT INTO apikeys.audit_log (action, object, object_id) VALUES ('x', 'x', 'x')$$) AS f;

DROP ROLE regress_clerk;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.tier;
