-- The guard: a used key is never deleted, an identity never changes, by whichever way.
SET search_path = pg_catalog;

INSERT INTO apikeys.plan (name) VALUES ('basic');
INSERT INTO apikeys.account (account_id, name, plan) VALUES (7, 'alice', 'basic'), (8, 'bob', 'basic');
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
SELECT n, 7, sha256(n::text::bytea)::apikeys.digest, 'ak', '', 'key ' || n FROM generate_series(1, 2000) AS n;
-- Key 1000 is used; account 5 is no key.
INSERT INTO apikeys.usage_total VALUES
    ('k', 1000, 1, 0, 1, 0, 0, '2026-01-01', '2026-01-01'),
    ('a', 5, 1, 0, 1, 0, 0, '2026-01-01', '2026-01-01');

-- Deleting it, by every way there is.
DELETE FROM apikeys.key WHERE key_id = 1000;
\echo :LAST_ERROR_SQLSTATE
DELETE FROM apikeys.key WHERE key_id BETWEEN 999 AND 1001;
DELETE FROM apikeys.key WHERE key_id BETWEEN 500 AND 1999;
DELETE FROM apikeys.key WHERE key_id IN (SELECT key_id FROM apikeys.key ORDER BY key_id DESC);
WITH gone AS (DELETE FROM apikeys.key WHERE key_id = 1000 RETURNING key_id) SELECT * FROM gone;
MERGE INTO apikeys.key AS k USING (VALUES (1000)) AS v(id) ON k.key_id = v.id WHEN MATCHED THEN DELETE;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE apikeys.key CASCADE;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE apikeys.account CASCADE;
TRUNCATE apikeys.plan CASCADE;
TRUNCATE apikeys.usage_total, apikeys.key CASCADE;
SET session_replication_role = replica;
DELETE FROM apikeys.key WHERE key_id = 1000;
TRUNCATE apikeys.key CASCADE;
UPDATE apikeys.key SET key_id = 3000 WHERE key_id = 1000;
UPDATE apikeys.account SET name = 'carol' WHERE name = 'alice';
RESET session_replication_role;
BEGIN;
ALTER TABLE apikeys.key DROP CONSTRAINT key_account_id_fkey,
    ADD FOREIGN KEY (account_id) REFERENCES apikeys.account ON DELETE CASCADE;
DELETE FROM apikeys.account WHERE name = 'alice';
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
DELETE FROM apikeys.key WHERE key_id = 1000;
ROLLBACK;
-- Planted objects of the same names change nothing.
CREATE TEMP TABLE usage_total (subject "char", subject_id bigint);
SET search_path = pg_temp, pg_catalog;
DELETE FROM apikeys.key WHERE key_id = 1000;
SET search_path = pg_catalog;
BEGIN;
DROP OWNED BY apikeys_manager, apikeys_admin;
SELECT count(*) FROM apikeys.key;
ROLLBACK;

-- Keys that nobody used go, and what is said of other subjects is not said of them.
DELETE FROM apikeys.key WHERE key_id IN (5, 6) RETURNING key_id;

-- One lock a key, up to a thousand in a transaction; then one on the whole table. All go with their savepoint.
CREATE VIEW pg_temp.guard_locks AS
SELECT CASE objsubid WHEN 3 THEN 'table' WHEN 4 THEN 'key' END AS of, mode, count(*)
FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (objsubid = 4 OR objsubid = 3 AND classid = 'apikeys.key'::regclass)
GROUP BY objsubid, mode;
BEGIN;
DELETE FROM apikeys.key WHERE key_id = 10;
SELECT * FROM pg_temp.guard_locks ORDER BY of;
SAVEPOINT many;
DELETE FROM apikeys.key WHERE key_id < 1000;
SELECT * FROM pg_temp.guard_locks ORDER BY of;
DELETE FROM apikeys.key WHERE key_id BETWEEN 1001 AND 1500;
SELECT * FROM pg_temp.guard_locks ORDER BY of;
ROLLBACK TO many;
SELECT * FROM pg_temp.guard_locks ORDER BY of;
COMMIT;
SELECT * FROM pg_temp.guard_locks ORDER BY of;
SELECT count(*), min(key_id) FILTER (WHERE key_id > 8) AS next FROM apikeys.key;
-- The lock's name holds all 53 bits of the id.
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
SELECT 9007199254740991, 7, sha256('last')::apikeys.digest, 'ak', '', 'last';
BEGIN;
DELETE FROM apikeys.key WHERE key_id = 9007199254740991;
SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 4 AND pid = pg_backend_pid();
COMMIT;

-- What never changes; what may.
UPDATE apikeys.key SET key_id = 3000 WHERE key_id = 1;
\echo :LAST_ERROR_SQLSTATE
UPDATE apikeys.key SET account_id = 8 WHERE key_id = 1;
UPDATE apikeys.key SET created_at = created_at - interval '1 year' WHERE key_id = 1;
UPDATE apikeys.account SET name = 'carol' WHERE name = 'alice';
\echo :LAST_ERROR_SQLSTATE
UPDATE apikeys.account SET account_id = 9 WHERE name = 'bob';
INSERT INTO apikeys.account (name, plan) VALUES ('bob', 'basic') ON CONFLICT (name) DO UPDATE SET name = 'carol';
UPDATE apikeys.key SET key_id = key_id, account_id = account_id, created_at = created_at, alias = 'one' WHERE key_id = 1 RETURNING key_id, account_id, alias;
UPDATE apikeys.account SET name = name, display_name = 'Alice' WHERE name = 'alice' RETURNING account_id, name, display_name;

-- What tells that a key has been used, and how much, stays.
DELETE FROM apikeys.usage_total WHERE subject_id = 1000;
\echo :LAST_ERROR_SQLSTATE
UPDATE apikeys.usage_total SET subject_id = 1 WHERE subject_id = 1000;
\echo :LAST_ERROR_SQLSTATE
UPDATE apikeys.usage_total SET subject = 'a' WHERE subject_id = 1000;
TRUNCATE apikeys.usage_total;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE apikeys.usage_bucket;
TRUNCATE apikeys.request_log;
SET session_replication_role = replica;
DELETE FROM apikeys.usage_total;
UPDATE apikeys.usage_total SET subject_id = 1 WHERE subject_id = 1000;
TRUNCATE apikeys.usage_total;
TRUNCATE apikeys.usage_bucket;
TRUNCATE apikeys.request_log;
RESET session_replication_role;
DELETE FROM apikeys.usage_total WHERE subject_id = 1;
UPDATE apikeys.usage_total SET units = units + 1 WHERE subject_id = 1000 RETURNING units;

-- Whether all that guards is there: what breaks is found, and repaired, or the rest is told.
CREATE ROLE regress_stranger;
CREATE PROCEDURE pg_temp.break(statement text) LANGUAGE plpgsql AS $$
DECLARE
    broken record;
BEGIN
    RAISE NOTICE '%', statement;
    EXECUTE statement;
    FOR broken IN SELECT * FROM apikeys.check_guards() LOOP
        RAISE NOTICE '  %', replace(format('%s %s: %s', broken.object, broken.problem, coalesce(regexp_replace(broken.repair, 'Trigger_(.)_[0-9]+', 'Trigger_\1', 'g'), 'no repair')),
                                    CURRENT_USER, 'the_owner');
    END LOOP;
    FOR broken IN SELECT * FROM apikeys.repair_guards() AS r WHERE r.outcome <> 'repaired' LOOP
        RAISE NOTICE '  %: %', broken.object, broken.outcome;
    END LOOP;
    FOR broken IN SELECT * FROM apikeys.check_guards() LOOP
        RAISE NOTICE '  % still %', broken.object, replace(broken.problem, CURRENT_USER, 'the_owner');
    END LOOP;
    ROLLBACK;
END
$$;
SELECT * FROM apikeys.check_guards();
SELECT * FROM apikeys.repair_guards();
\set VERBOSITY terse
CALL pg_temp.break('ALTER TABLE apikeys.account DISABLE TRIGGER USER, ENABLE TRIGGER USER');
CALL pg_temp.break('ALTER TABLE apikeys.key_product DISABLE TRIGGER ALL');
CALL pg_temp.break('ALTER TABLE apikeys.tier ENABLE REPLICA TRIGGER tier_changed, ENABLE ALWAYS TRIGGER tier_audit');
CALL pg_temp.break('DROP TRIGGER key_guard_delete ON apikeys.key; DROP TRIGGER plan_audit ON apikeys.plan');
-- Every single one comes back as it was.
CREATE FUNCTION pg_temp.all_that(kind text, statement text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format(statement, e.relation, e.name), '; ' ORDER BY e.name) FROM apikeys_internal.expected_guards() AS e WHERE e.kind = all_that.kind
$$;
BEGIN;
DO $$
BEGIN
    EXECUTE pg_temp.all_that('trigger', 'DROP TRIGGER %2$I ON apikeys.%1$I');
    EXECUTE pg_temp.all_that('foreign key', 'ALTER TABLE apikeys.%I DROP CONSTRAINT %I');
    EXECUTE pg_temp.all_that('key', 'ALTER TABLE apikeys.%I DROP CONSTRAINT %I');
    EXECUTE pg_temp.all_that('index', 'DROP INDEX apikeys.%2$I');
END
$$;
SELECT count(*) = (SELECT count(*) FROM apikeys_internal.expected_guards() AS e WHERE e.kind <> 'table') AS all_found FROM apikeys.check_guards() AS g WHERE g.problem = 'is missing';
SELECT outcome, count(*) > 0 AS some FROM apikeys.repair_guards() GROUP BY outcome;
SELECT * FROM apikeys.check_guards();
ROLLBACK;
CALL pg_temp.break('CREATE OR REPLACE TRIGGER key_guard_delete BEFORE DELETE ON apikeys.key FOR EACH ROW WHEN (false) EXECUTE FUNCTION apikeys_internal.guard_delete()');
CALL pg_temp.break('CREATE TRIGGER mine BEFORE DELETE ON apikeys.key FOR EACH ROW EXECUTE FUNCTION apikeys_internal.guard_delete()');
CALL pg_temp.break('ALTER TABLE apikeys.key DROP CONSTRAINT key_account_id_fkey, DROP CONSTRAINT key_account_id_alias_key');
CALL pg_temp.break('ALTER TABLE apikeys.account DROP CONSTRAINT account_pkey CASCADE');
CALL pg_temp.break('ALTER TABLE apikeys.key DROP CONSTRAINT key_account_id_fkey, ADD CONSTRAINT key_account_id_fkey FOREIGN KEY (account_id) REFERENCES apikeys.account ON DELETE CASCADE NOT VALID');
CALL pg_temp.break('ALTER TABLE apikeys.key DROP CONSTRAINT key_account_id_fkey, ADD CONSTRAINT key_account_id_fkey FOREIGN KEY (account_id) REFERENCES apikeys.account NOT VALID');
CALL pg_temp.break('DROP INDEX apikeys.key_previous_digest_key');
CALL pg_temp.break('ALTER TABLE apikeys.request_log REPLICA IDENTITY DEFAULT; ALTER TABLE apikeys.key REPLICA IDENTITY NOTHING; ALTER TABLE apikeys.plan REPLICA IDENTITY FULL');
CALL pg_temp.break('CREATE TABLE apikeys.request_log_19990101 PARTITION OF apikeys.request_log FOR VALUES FROM (''1999-01-01 00:00Z'') TO (''1999-01-02 00:00Z''); ALTER TABLE apikeys.request_log_19990101 OWNER TO regress_stranger');
CALL pg_temp.break('ALTER TABLE apikeys.key DISABLE ROW LEVEL SECURITY');
CALL pg_temp.break('ALTER TABLE apikeys.usage_total OWNER TO regress_stranger');
CALL pg_temp.break('INSERT INTO apikeys.member VALUES (''regress_gone'', 7), (''regress_gone'', 8), (''regress_stranger'', 7)');
CALL pg_temp.break('SET LOCAL session_replication_role = replica; DELETE FROM apikeys.account; RESET session_replication_role');
CALL pg_temp.break('SET LOCAL session_replication_role = replica; DELETE FROM apikeys.plan; RESET session_replication_role; ALTER TABLE apikeys.account DROP CONSTRAINT account_plan_fkey');
CALL pg_temp.break('ALTER TABLE apikeys.tier DROP CONSTRAINT tier_rank_key; INSERT INTO apikeys.tier VALUES (''one'', 1, ''''), (''another'', 1, '''')');
\set VERBOSITY default
SELECT * FROM apikeys.check_guards();
DROP ROLE regress_stranger;

-- The triggers' functions are nothing else.
SELECT apikeys_internal.guard_delete();
SELECT apikeys_internal.rules_changed();
\echo :LAST_ERROR_SQLSTATE
CREATE TEMP TABLE other (key_id bigint);
CREATE TRIGGER misused_delete BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION apikeys_internal.guard_delete();
INSERT INTO other VALUES (1);
\echo :LAST_ERROR_SQLSTATE
CREATE TRIGGER misused_truncate BEFORE DELETE ON other FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.guard_truncate();
DELETE FROM other;
CREATE TRIGGER misused_change BEFORE UPDATE ON other FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.guard_change();
UPDATE other SET key_id = 1;
DROP TABLE other;

-- Without a used key, the table can be emptied.
ALTER TABLE apikeys.usage_total DISABLE TRIGGER usage_total_guard_delete;
DELETE FROM apikeys.usage_total;
ALTER TABLE apikeys.usage_total ENABLE ALWAYS TRIGGER usage_total_guard_delete;
BEGIN;
TRUNCATE apikeys.key CASCADE;
SELECT * FROM pg_temp.guard_locks ORDER BY of;
COMMIT;
SELECT count(*) FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;

-- A column can be added to each table, also one whose default is computed row by row: no function depends on their rows' types.
BEGIN;
DO $$
DECLARE
    owned regclass;
BEGIN
    FOR owned IN
        SELECT d.objid FROM pg_depend AS d JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'apikeys')
              AND c.relkind IN ('r', 'p')
        ORDER BY c.relname
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN more timestamptz DEFAULT clock_timestamp()', owned);
        EXECUTE format('ALTER TABLE %s DROP COLUMN more', owned);
    END LOOP;
END
$$;
ROLLBACK;
