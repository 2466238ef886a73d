-- The audit log: what was changed, when, by whom, with the values before and after.
--
-- Triggers record all changes and deletions. Creations are recorded by the functions that create; no role has the privilege to
-- INSERT past them. A trigger on INSERT would fire at each restore of a dump, and record again what the restored audit log
-- has. So a row inserted by the owner or a superuser is not recorded until it is changed or deleted.
--
-- The triggers that record do not fire under session_replication_role = replica: a logical replica receives the log itself, and
-- rows of its own would collide with it. The triggers that refuse changes are ENABLE ALWAYS. No role has a privilege to change
-- the log, and its owner and superusers are refused too. Only a role that may disable triggers or drop the extension can bypass
-- that.

CREATE FUNCTION apikeys_internal.audit_actor() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN CASE apikeys_internal.acting_via()
    WHEN 'role' THEN nullif(apikeys_internal.checked('audit_log.actor', current_setting('apikeys.actor', true)), '')
    ELSE apikeys_internal.acting_person() END;
COMMENT ON FUNCTION apikeys_internal.audit_actor() IS
'Who makes a change, as the audit log stores it: the actor whom the transaction''s identity names or, without one, the setting '
'apikeys.actor; NULL: nobody is named. Errors: 22023 the setting has more than 512 bytes.';

CREATE FUNCTION apikeys_internal.audit(action text, object text, object_id text, account_id bigint, old jsonb, new jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO apikeys.audit_log (via, actor, action, object, object_id, account_id, old, new)
    VALUES (apikeys_internal.acting_via(), apikeys_internal.audit_actor(), audit.action, audit.object, audit.object_id,
            apikeys_internal.changed_account(audit.account_id), audit.old, audit.new);
    -- Of what belongs to an account, this is what owners change.
    IF object <> ALL ('{key,key_product,upgrade_request}') OR action IN ('reset', 'grant') THEN
        PERFORM apikeys_internal.require_provider();
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.audit(text, text, text, bigint, jsonb, jsonb) IS
'Add a row to the audit log, with the session''s user, and the actor whom the transaction''s identity names or, without one, the '
'setting apikeys.actor. As every change comes by here, it is also refused here if the transaction acts for somebody who may not make '
'it. Errors: 22023 the setting has more than 512 bytes; 42501.';

CREATE FUNCTION apikeys_internal.audited_row(whole jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_strip_nulls(whole OPERATOR(pg_catalog.-) '{digest,previous_digest}'::text[]);
COMMENT ON FUNCTION apikeys_internal.audited_row(jsonb) IS
'A new or deleted row as the audit log shows it: without digests and NULLs.';

CREATE FUNCTION apikeys_internal.audit_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    former  jsonb;
    present jsonb;
    identity text;
    equal   text[];
    hidden  jsonb;
    owner   bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD *= NEW THEN     -- a lock
        RETURN NULL;
    END IF;
    former := to_jsonb(OLD);
    present := to_jsonb(NEW);
    identity := former ->> TG_ARGV[0];
    -- Rows deleted with their key find its account in the log.
    owner := coalesce((former ->> 'account_id')::bigint,
                      (SELECT k.account_id FROM apikeys.key AS k WHERE k.key_id = (former ->> 'key_id')::bigint),
                      (SELECT l.account_id FROM apikeys.audit_log AS l WHERE l.object = 'key' AND l.object_id = former ->> 'key_id'
                       ORDER BY l.at DESC LIMIT 1));
    IF TG_OP = 'UPDATE' THEN
        -- When the expiry was set is when the entry was made.
        equal := ARRAY(SELECT f.key FROM jsonb_each(former) AS f WHERE f.value = present -> f.key OR f.key = 'expiry_set_at');
        former := former - equal;
        present := present - equal;
        IF former <> '{}' THEN
            -- No jsonb_object_agg of the values: the time that it takes for a long list grows with the square of its length.
            SELECT coalesce(jsonb_object_agg(f.name, NULL), '{}') INTO hidden
            FROM jsonb_object_keys(former) AS f (name) WHERE f.name LIKE '%digest';
            PERFORM apikeys_internal.audit('update', TG_TABLE_NAME, identity, owner, former || hidden, present || hidden);
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM apikeys_internal.audit('delete', TG_TABLE_NAME, identity, owner, apikeys_internal.audited_row(former), NULL);
    ELSE
        PERFORM apikeys_internal.audit('truncate', TG_TABLE_NAME, '*', NULL, NULL, NULL);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.audit_change() IS
'Trigger: records a change in the audit log. Its argument is the column that identifies a row. A changed digest is '
'shown as null on both sides.';

DO $$
DECLARE
    audited record;
BEGIN
    FOR audited IN
        SELECT * FROM (VALUES
            ('account', 'name'), ('address_block', 'network'), ('key', 'key_id'), ('key_product', 'key_id'), ('member', 'role'), ('plan', 'name'), ('product', 'name'),
            ('tier', 'name'), ('upgrade_request', 'id'), ('upgrade_rule', 'id')) AS t (relation, identity)
    LOOP
        EXECUTE format($make$
            CREATE TRIGGER %1$s_audit AFTER UPDATE OR DELETE ON apikeys.%1$I
            FOR EACH ROW EXECUTE FUNCTION apikeys_internal.audit_change(%2$L);
            CREATE TRIGGER %1$s_audit_truncate AFTER TRUNCATE ON apikeys.%1$I
            FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.audit_change();
            COMMENT ON TRIGGER %1$s_audit ON apikeys.%1$I IS 'Records each change in the audit log.';
            COMMENT ON TRIGGER %1$s_audit_truncate ON apikeys.%1$I IS 'Records a TRUNCATE in the audit log.';
            $make$, audited.relation, audited.identity);
    END LOOP;
END
$$;

CREATE FUNCTION apikeys_internal.refuse_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE insufficient_privilege USING
        MESSAGE = format('rows of %s cannot be changed or deleted', TG_TABLE_NAME),
        DETAIL = 'They are the record of what has happened.';
END
$$;
COMMENT ON FUNCTION apikeys_internal.refuse_change() IS
'Trigger: refuses to change, delete or truncate rows, for every role. Errors: 42501.';

-- The log permits one change of a row: personal values become null. erase_account_data does that.
CREATE FUNCTION apikeys_internal.erased_row(whole jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT whole || coalesce(jsonb_object_agg(p.name, NULL), '{}')
    FROM unnest('{
        display_name,contact,metadata,alias,allowed_domains,allowed_ips,suspended_reason,
        motivation,project,purpose,question,answer,note,reason}'::text[]) AS p (name)
    WHERE whole ? p.name;
END;
COMMENT ON FUNCTION apikeys_internal.erased_row(jsonb) IS
'A row as the audit log shows it, with null for all values that may be about a person.';

CREATE TRIGGER audit_log_refuse_update BEFORE UPDATE ON apikeys.audit_log
FOR EACH ROW WHEN (
    to_jsonb(NEW.*) - '{old,new}'::text[] IS DISTINCT FROM to_jsonb(OLD.*) - '{old,new}'::text[]
    OR NEW.old IS DISTINCT FROM apikeys_internal.erased_row(OLD.old) OR NEW.new IS DISTINCT FROM apikeys_internal.erased_row(OLD.new))
EXECUTE FUNCTION apikeys_internal.refuse_change();
CREATE TRIGGER audit_log_refuse_delete BEFORE DELETE OR TRUNCATE ON apikeys.audit_log
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.refuse_change();
COMMENT ON TRIGGER audit_log_refuse_update ON apikeys.audit_log IS
'Refuses changes by every role, including the owner and superusers, except to erase personal values.';
COMMENT ON TRIGGER audit_log_refuse_delete ON apikeys.audit_log IS
'Refuses deletions by every role, including the owner and superusers.';
ALTER TABLE apikeys.audit_log ENABLE ALWAYS TRIGGER audit_log_refuse_update;
ALTER TABLE apikeys.audit_log ENABLE ALWAYS TRIGGER audit_log_refuse_delete;
