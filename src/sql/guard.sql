-- What must never happen to keys and accounts, for any role: a used key is deleted, an identity is changed, or the record of use
-- is taken away. The triggers are ENABLE ALWAYS, so that a role that may set session_replication_role cannot bypass them. Then:
-- whether all that guards the tables is still there.

CREATE FUNCTION apikeys_internal.guard_delete() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_guard_delete';
CREATE FUNCTION apikeys_internal.guard_truncate() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_guard_truncate';
CREATE FUNCTION apikeys_internal.guard_change() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_guard_change';
CREATE FUNCTION apikeys_internal.guard_record() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_guard_record';
COMMENT ON FUNCTION apikeys_internal.guard_delete() IS
'Trigger: a key that has been used cannot be deleted. Errors: 23503.';
COMMENT ON FUNCTION apikeys_internal.guard_truncate() IS
'Trigger: keys cannot be truncated once one of them has been used. Errors: 23503.';
COMMENT ON FUNCTION apikeys_internal.guard_change() IS
'Trigger: refuses to change columns that never change. Errors: 23514.';
COMMENT ON FUNCTION apikeys_internal.guard_record() IS
'Trigger: refuses to take away what is on record. Errors: 42501.';

CREATE TRIGGER key_guard_delete BEFORE DELETE ON apikeys.key
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.guard_delete();
CREATE TRIGGER key_guard_truncate BEFORE TRUNCATE ON apikeys.key
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.guard_truncate();
CREATE TRIGGER key_guard_change BEFORE UPDATE OF key_id, account_id, created_at ON apikeys.key
FOR EACH ROW WHEN ((OLD.key_id, OLD.account_id, OLD.created_at) IS DISTINCT FROM (NEW.key_id, NEW.account_id, NEW.created_at))
EXECUTE FUNCTION apikeys_internal.guard_change('the id, the account and the creation time of a key never change',
    'Usage, logs and locator belong to the key as it was made. Make another key.');
CREATE TRIGGER account_guard_change BEFORE UPDATE OF account_id, name ON apikeys.account
FOR EACH ROW WHEN ((OLD.account_id, OLD.name) IS DISTINCT FROM (NEW.account_id, NEW.name))
EXECUTE FUNCTION apikeys_internal.guard_change('the id and the name of an account never change',
    'The locators of its keys are made of the name. Make another account, and keys for it.');

COMMENT ON TRIGGER key_guard_delete ON apikeys.key IS 'A key that has been used cannot be deleted.';
COMMENT ON TRIGGER key_guard_truncate ON apikeys.key IS 'Keys cannot be truncated once one of them has been used.';
COMMENT ON TRIGGER key_guard_change ON apikeys.key IS 'A key keeps its id, its account and its creation time.';
COMMENT ON TRIGGER account_guard_change ON apikeys.account IS 'An account keeps its id and its name.';

ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_delete;
ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_truncate;
ALTER TABLE apikeys.key ENABLE ALWAYS TRIGGER key_guard_change;
ALTER TABLE apikeys.account ENABLE ALWAYS TRIGGER account_guard_change;

-- The writer fires no triggers. Rows of usage_bucket are deleted when they are merged, and partitions of request_log are dropped: only
-- TRUNCATE is refused there.
CREATE TRIGGER usage_total_guard_delete BEFORE DELETE ON apikeys.usage_total
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.guard_record('a row of usage_total is never deleted',
    'It tells that a key has been used, and how much. To let used units no longer count, call reset_usage or reset_account_usage.');
CREATE TRIGGER usage_total_guard_change BEFORE UPDATE OF subject, subject_id ON apikeys.usage_total
FOR EACH ROW WHEN ((OLD.subject, OLD.subject_id) IS DISTINCT FROM (NEW.subject, NEW.subject_id))
EXECUTE FUNCTION apikeys_internal.guard_record('a row of usage_total is never given to another subject', 'It tells that a key has been used, and how much.');
CREATE TRIGGER usage_total_guard_truncate BEFORE TRUNCATE ON apikeys.usage_total
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.guard_record('usage_total is never truncated',
    'It tells which keys have been used, and how much. To let used units no longer count, call reset_usage or reset_account_usage.');
CREATE TRIGGER usage_bucket_guard_truncate BEFORE TRUNCATE ON apikeys.usage_bucket
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.guard_record('usage_bucket is never truncated',
    'Limits are decided by it. To let used units no longer count, call reset_usage or reset_account_usage.');
CREATE TRIGGER request_log_guard_truncate BEFORE TRUNCATE ON apikeys.request_log
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.guard_record('request_log is never truncated as a whole',
    'Detach or drop the partitions of days that are not needed, or set apikeys.log_retention.');

COMMENT ON TRIGGER usage_total_guard_delete ON apikeys.usage_total IS 'What tells that a key has been used cannot be deleted.';
COMMENT ON TRIGGER usage_total_guard_change ON apikeys.usage_total IS 'What tells that a key has been used stays with that key.';
COMMENT ON TRIGGER usage_total_guard_truncate ON apikeys.usage_total IS 'What tells which keys have been used cannot be truncated.';
COMMENT ON TRIGGER usage_bucket_guard_truncate ON apikeys.usage_bucket IS 'Usage cannot be truncated.';
COMMENT ON TRIGGER request_log_guard_truncate ON apikeys.request_log IS 'The log cannot be truncated as a whole.';

ALTER TABLE apikeys.usage_total ENABLE ALWAYS TRIGGER usage_total_guard_delete;
ALTER TABLE apikeys.usage_total ENABLE ALWAYS TRIGGER usage_total_guard_change;
ALTER TABLE apikeys.usage_total ENABLE ALWAYS TRIGGER usage_total_guard_truncate;
ALTER TABLE apikeys.usage_bucket ENABLE ALWAYS TRIGGER usage_bucket_guard_truncate;
ALTER TABLE apikeys.request_log ENABLE ALWAYS TRIGGER request_log_guard_truncate;

-- Whether all that guards is still there. What there should be is declared nowhere a second time: the last part of the install script
-- has record_guards make a function of what the catalog has then.

CREATE FUNCTION apikeys_internal.present_guards(OUT kind text, OUT relation text, OUT name text, OUT definition text, OUT state text, OUT violation text)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
BEGIN ATOMIC
    WITH ours AS (
        SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
        WHERE e.extname = 'apikeys' AND d.deptype = 'e'
    ), relation AS (
        SELECT c.* FROM pg_class AS c JOIN ours AS o ON o.classid = 'pg_class'::regclass AND o.objid = c.oid WHERE c.relkind IN ('r', 'p')
    )
    SELECT 'trigger', r.relname::text, t.tgname::text, pg_get_triggerdef(t.oid), t.tgenabled::text, NULL::text
    FROM relation AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT CASE c.contype WHEN 'f' THEN 'foreign key' ELSE 'key' END, r.relname::text, c.conname::text,
           regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', ''), CASE WHEN c.convalidated THEN 'valid' ELSE 'not valid' END,
           CASE c.contype WHEN 'f' THEN format('SELECT count(*) FROM %s AS c WHERE %s AND NOT EXISTS (SELECT FROM %s AS p WHERE %s)',
                                               c.conrelid::regclass, f.known, c.confrelid::regclass, f.same) END
    FROM relation AS r JOIN pg_constraint AS c ON c.conrelid = r.oid,
         LATERAL (SELECT string_agg(format('c.%I IS NOT NULL', l.attname), ' AND ') AS known,
                         string_agg(format('p.%I = c.%I', g.attname, l.attname), ' AND ') AS same
                  FROM unnest(c.conkey, c.confkey) AS k (here, there)
                  JOIN pg_attribute AS l ON l.attrelid = c.conrelid AND l.attnum = k.here
                  JOIN pg_attribute AS g ON g.attrelid = c.confrelid AND g.attnum = k.there) AS f
    WHERE c.contype IN ('p', 'u', 'f')
    UNION ALL
    SELECT 'index', r.relname::text, c.relname::text, pg_get_indexdef(i.indexrelid), CASE WHEN i.indisvalid THEN 'valid' ELSE 'not valid' END, NULL
    FROM relation AS r JOIN pg_index AS i ON i.indrelid = r.oid JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE i.indisunique AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u'))
    UNION ALL
    SELECT 'table', r.relname::text, v.name, NULL, v.state, NULL
    FROM relation AS r, LATERAL (VALUES ('replica identity', r.relreplident::text), ('row security', r.relrowsecurity::text)) AS v (name, state);
END;
COMMENT ON FUNCTION apikeys_internal.present_guards() IS
'What guards the tables, as the catalog has it now: triggers, keys and foreign keys (violation: a query that counts the rows that break one), unique indexes, replica identities, row security.';

CREATE FUNCTION apikeys_internal.expected_guards(OUT kind text, OUT relation text, OUT name text, OUT definition text, OUT state text, OUT violation text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS 'SELECT NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text WHERE false';
COMMENT ON FUNCTION apikeys_internal.expected_guards() IS 'What guards the tables, as the install script made it. Written by record_guards.';

CREATE FUNCTION apikeys_internal.record_guards() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE (SELECT format(
        'CREATE OR REPLACE FUNCTION apikeys_internal.expected_guards(OUT kind text, OUT relation text, OUT name text, OUT definition text, OUT state text, OUT violation text) '
        'RETURNS SETOF record LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS %L',
        'VALUES ' || string_agg(format('(%L, %L, %L, %L, %L, %L)', g.kind, g.relation, g.name, g.definition, g.state, g.violation), E',\n'
                                ORDER BY g.relation, g.kind, g.name))
        FROM apikeys_internal.present_guards() AS g);
END
$$;
COMMENT ON FUNCTION apikeys_internal.record_guards() IS 'Makes present_guards, as it is now, what check_guards expects. Ends the install script.';

CREATE FUNCTION apikeys.check_guards(OUT object text, OUT problem text, OUT repair text) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    guard    record;
    owner    regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'apikeys.request_log'::regclass);
    violated bigint;
    former   text;
BEGIN
    PERFORM apikeys_internal.require_provider();
    -- Tables, and the partitions of the log, which are no part of the extension.
    RETURN QUERY
        SELECT concat('table ', c.relname), format('belongs to %s, request_log to %s', c.relowner::regrole, owner),
               CASE WHEN c.relispartition THEN format('ALTER TABLE %s OWNER TO %s', c.oid::regclass, owner) END
        FROM pg_class AS c
        WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relowner <> owner AND (
            EXISTS (SELECT FROM apikeys_internal.expected_guards() AS e WHERE e.relation = c.relname)
            OR EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = 'apikeys.request_log'::regclass AND i.inhrelid = c.oid))
        ORDER BY c.relname;
    RETURN QUERY
        SELECT concat('table ', c.relname), 'has no replica identity', format('ALTER TABLE %s REPLICA IDENTITY FULL', c.oid::regclass)
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'apikeys.request_log'::regclass AND c.relreplident IN ('n', 'd')
        ORDER BY c.relname;

    FOR guard IN
        SELECT e.*, format('apikeys.%I', e.relation) AS place, p.definition AS present_definition, p.state AS present_state
        FROM apikeys_internal.expected_guards() AS e LEFT JOIN apikeys_internal.present_guards() AS p USING (kind, relation, name)
        ORDER BY array_position('{key,index,foreign key,trigger,table}'::text[], e.kind), e.relation COLLATE "C", e.name COLLATE "C"
    LOOP
        object := format('%s %s on %s', guard.kind, guard.name, guard.relation);
        problem := NULL;
        repair := NULL;
        violated := 0;
        IF guard.kind = 'foreign key' THEN
            EXECUTE guard.violation INTO violated;
        END IF;
        IF guard.kind = 'table' THEN
            object := concat('table ', guard.relation);
            IF guard.name = 'row security' AND guard.state = 'true' AND guard.present_state = 'false' THEN
                problem := 'has no row-level security';
                repair := format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guard.place);
            ELSIF guard.name = 'replica identity' AND (guard.present_state = 'n' OR guard.state = 'f' AND guard.present_state = 'd') THEN
                problem := 'has no replica identity';
                repair := format('ALTER TABLE %s REPLICA IDENTITY %s', guard.place, CASE guard.state WHEN 'f' THEN 'FULL' ELSE 'DEFAULT' END);
            END IF;
        ELSIF guard.present_definition IS NULL OR translate(guard.present_definition, '()', '') <> translate(guard.definition, '()', '') THEN
            -- A definition that is run again may have fewer parentheses: pg_upgrade does that, and repair_guards.
            problem := CASE WHEN guard.present_definition IS NULL THEN 'is missing' ELSE 'is not as it was made' END;
            former := CASE WHEN guard.present_definition IS NOT NULL THEN CASE guard.kind
                WHEN 'trigger' THEN format('DROP TRIGGER %I ON %s; ', guard.name, guard.place)
                ELSE format('ALTER TABLE %s DROP CONSTRAINT %I; ', guard.place, guard.name) END END;
            repair := CASE
                WHEN guard.kind = 'trigger' THEN concat(
                    former, guard.definition,
                    CASE WHEN guard.state = 'A' THEN format('; ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', guard.place, guard.name) END)
                WHEN guard.kind = 'foreign key' THEN concat(
                    former, format('ALTER TABLE %s ADD CONSTRAINT %I %s', guard.place, guard.name, guard.definition), CASE WHEN violated > 0 THEN ' NOT VALID' END)
                WHEN guard.present_definition IS NOT NULL THEN NULL
                WHEN guard.kind = 'key' THEN format('ALTER TABLE %s ADD CONSTRAINT %I %s', guard.place, guard.name, guard.definition)
                ELSE guard.definition END;
        ELSIF guard.kind = 'trigger' AND guard.present_state <> guard.state AND guard.present_state <> 'A' THEN
            problem := CASE guard.present_state WHEN 'D' THEN 'is disabled' WHEN 'R' THEN 'fires for replicas only' ELSE 'is not ALWAYS' END;
            repair := format('ALTER TABLE %s ENABLE %s %I', guard.place, CASE guard.state WHEN 'A' THEN 'ALWAYS TRIGGER' ELSE 'TRIGGER' END, guard.name);
        ELSIF guard.kind <> 'trigger' AND guard.present_state = 'not valid' THEN
            problem := 'is not valid';
            repair := CASE WHEN guard.kind = 'index' THEN format('REINDEX INDEX apikeys.%I', guard.name)
                           WHEN violated = 0 THEN format('ALTER TABLE %s VALIDATE CONSTRAINT %I', guard.place, guard.name) END;
        END IF;
        IF problem IS NOT NULL THEN
            RETURN NEXT;
        END IF;
        IF violated > 0 THEN
            problem := format('%s rows refer to nothing', violated);
            repair := NULL;
            RETURN NEXT;
        END IF;
    END LOOP;

    -- The triggers of foreign keys, which have no names that last.
    RETURN QUERY
        SELECT format('foreign key %s on %s', c.conname, e.relation), 'is not enforced',
               string_agg(format('ALTER TABLE %s ENABLE TRIGGER %I', t.tgrelid::regclass, t.tgname), '; ' ORDER BY t.tgname)
        FROM apikeys_internal.expected_guards() AS e
        JOIN pg_constraint AS c ON e.kind = 'foreign key' AND c.conrelid = to_regclass(format('apikeys.%I', e.relation)) AND c.conname = e.name
        JOIN pg_trigger AS t ON t.tgconstraint = c.oid AND t.tgenabled IN ('D', 'R')
        GROUP BY c.conname, e.relation ORDER BY e.relation COLLATE "C", c.conname;
    RETURN QUERY
        SELECT concat('role ', r.name), 'does not exist, so nobody has its reach', NULL::text
        FROM (VALUES ('apikeys_admin'), ('apikeys_auditor'), ('apikeys_staff')) AS r (name)
        WHERE NOT EXISTS (SELECT FROM pg_roles AS p WHERE p.rolname = r.name)
        ORDER BY r.name;
    RETURN QUERY
        SELECT format('member %s', m.role), 'names a role that does not exist', NULL::text
        FROM (SELECT DISTINCT m.role FROM apikeys.member AS m) AS m
        WHERE NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = m.role)
        ORDER BY m.role;
END
$$;
COMMENT ON FUNCTION apikeys.check_guards() IS
'What no longer protects keys, usage and log as CREATE EXTENSION made it. No row: everything does. It finds: triggers, keys, '
'foreign keys and unique indexes that are missing, changed, disabled or not valid; triggers that are no longer ENABLE ALWAYS; '
'rows that a foreign key does not allow; tables without replica identity or row-level security, or with another owner than '
'request_log; roles in member, and roles of the extension that give reach, that do not exist. repair is the statement by which repair_guards() mends it; NULL: there is '
'none. Call it after each restore; check_ledger() does. It reads all tables that have foreign keys.';

CREATE FUNCTION apikeys.repair_guards(OUT object text, OUT problem text, OUT outcome text) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    broken record;
BEGIN
    FOR broken IN SELECT g.object, g.problem, g.repair FROM apikeys.check_guards() AS g LOOP
        object := broken.object;
        problem := broken.problem;
        outcome := 'not repaired: only you can decide how';
        IF broken.repair IS NOT NULL THEN
            BEGIN
                EXECUTE broken.repair;
                outcome := 'repaired';
            EXCEPTION
                WHEN OTHERS THEN outcome := concat('not repaired: ', SQLERRM);
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys.repair_guards() IS
'Mends what check_guards() finds, with the statements that it shows, and says of each whether it is repaired, or why not. For '
'superusers; the owner of the tables may not mend everything. It locks the tables that it mends, some of them ACCESS EXCLUSIVE, '
'until the end of the transaction.';
