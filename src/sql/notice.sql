-- Notices: what the application may want to tell its users, or to do, when something has happened.
--
-- Table notice is an outbox. A row is written in the transaction of what it tells of: nothing is announced that did not happen,
-- and nothing that happened is forgotten. The background worker announces it afterwards, in a transaction of its own, with
-- NOTIFY apikeys and a payload such as
--
--   {"id": 7, "kind": "rotated", "key_id": 4711, "account": "acme"}
--
-- and notes sent_at. The payload is for everybody who may connect: LISTEN knows no privileges. Details are in the row.
--
-- Each notice is announced at least once: again only where a crash has taken back sent_at, or a backup was restored. The order
-- of ids is not the order of commits. Who was away reads the rows with sent_at after the last that he knows.
--
-- A change is noticed by triggers, whoever makes it and however, a key or an upgrade request that is made by the function that
-- makes it: as in the audit log, and for the same reasons.

CREATE FUNCTION apikeys.wake_notices() RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'apikeys_notice_wake';
COMMENT ON FUNCTION apikeys.wake_notices() IS
'Have the background worker look for new notices, once this transaction has committed. Without preloading: nothing. Internal.';

CREATE FUNCTION apikeys.add_notice(kind text, account_id bigint, key_id bigint, details jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO apikeys.notice (kind, account_id, key_id, details)
    VALUES (add_notice.kind, add_notice.account_id, add_notice.key_id, jsonb_strip_nulls(add_notice.details));
    SELECT apikeys.wake_notices();
END;
COMMENT ON FUNCTION apikeys.add_notice(text, bigint, bigint, jsonb) IS
'Add a notice about a key, about an account as a whole (key_id NULL), or about neither. Details that are null are left out. Internal.';

CREATE FUNCTION apikeys.add_key_notice(kind text, subject apikeys.key) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT apikeys.add_notice(kind, (subject).account_id, (subject).key_id, jsonb_build_object(
        'alias', (subject).alias, 'category', (subject).category, 'hint', (subject).hint, 'tier', (subject).tier,
        'limits', (subject).limits::text, 'expires_at', (subject).expires_at, 'previous_valid_until', (subject).previous_valid_until,
        'suspended_reason', (subject).suspended_reason));
END;
COMMENT ON FUNCTION apikeys.add_key_notice(text, apikeys.key) IS 'Add a notice about a key, with the key as it is. Internal.';

CREATE FUNCTION apikeys.add_upgrade_notice(kind text, request apikeys.upgrade_request) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT apikeys.add_notice(kind, k.account_id, k.key_id, jsonb_build_object(
        'upgrade', (request).id, 'alias', k.alias, 'tier', (request).tier, 'limits', (request).limits::text, 'due_at', (request).due_at,
        'motivation', (request).motivation, 'question', (request).question, 'answer', (request).answer,
        'decided_by', (request).decided_by, 'note', (request).note))
    FROM apikeys.key AS k WHERE k.key_id = (request).key_id;
END;
COMMENT ON FUNCTION apikeys.add_upgrade_notice(text, apikeys.upgrade_request) IS 'Add a notice about an upgrade request, with the request as it is. Internal.';

CREATE FUNCTION apikeys.notice_key_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM apikeys.add_key_notice('deleted', OLD);
        RETURN NULL;
    END IF;
    IF NEW.rotations <> OLD.rotations THEN
        PERFORM apikeys.add_key_notice('rotated', NEW);
    END IF;
    IF NEW.active <> OLD.active THEN
        PERFORM apikeys.add_key_notice(CASE WHEN NEW.active THEN 'activated' ELSE 'deactivated' END, NEW);
    END IF;
    IF (NEW.suspended_at IS NULL) <> (OLD.suspended_at IS NULL) THEN
        PERFORM apikeys.add_key_notice(CASE WHEN NEW.suspended_at IS NULL THEN 'unsuspended' ELSE 'suspended' END, NEW);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys.notice_key_change() IS 'Trigger: adds a notice for each change of a key that somebody may want to hear of.';

CREATE FUNCTION apikeys.notice_account_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys.add_notice(CASE WHEN NEW.active THEN 'account_activated' ELSE 'account_deactivated' END, NEW.account_id, NULL, '{}');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys.notice_account_change() IS 'Trigger: adds a notice where an account was switched on or off.';

CREATE FUNCTION apikeys.notice_upgrade_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys.add_upgrade_notice(CASE NEW.state
                                           WHEN 'needs_information' THEN 'upgrade_questioned'
                                           WHEN 'pending' THEN 'upgrade_answered'
                                           ELSE 'upgrade_' || NEW.state
                                       END, NEW);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys.notice_upgrade_change() IS 'Trigger: adds a notice for each step of an upgrade request.';

CREATE TRIGGER key_notice AFTER UPDATE ON apikeys.key
FOR EACH ROW WHEN (
    (OLD.rotations, OLD.active, OLD.suspended_at IS NULL) IS DISTINCT FROM (NEW.rotations, NEW.active, NEW.suspended_at IS NULL))
EXECUTE FUNCTION apikeys.notice_key_change();
CREATE TRIGGER key_notice_delete AFTER DELETE ON apikeys.key
FOR EACH ROW EXECUTE FUNCTION apikeys.notice_key_change();
CREATE TRIGGER account_notice AFTER UPDATE ON apikeys.account
FOR EACH ROW WHEN (NEW.active <> OLD.active) EXECUTE FUNCTION apikeys.notice_account_change();
CREATE TRIGGER upgrade_request_notice AFTER UPDATE ON apikeys.upgrade_request
FOR EACH ROW WHEN (NEW.state <> OLD.state OR NEW.question <> OLD.question) EXECUTE FUNCTION apikeys.notice_upgrade_change();
COMMENT ON TRIGGER key_notice ON apikeys.key IS 'Adds a notice where a key was rotated, switched or suspended.';
COMMENT ON TRIGGER key_notice_delete ON apikeys.key IS 'Adds a notice where a key was deleted.';
COMMENT ON TRIGGER account_notice ON apikeys.account IS 'Adds a notice where an account was switched on or off.';
COMMENT ON TRIGGER upgrade_request_notice ON apikeys.upgrade_request IS 'Adds a notice for each step of an upgrade request.';

CREATE VIEW apikeys.notice_list WITH (security_barrier) AS
SELECT n.id, n.at, n.kind, a.name AS account, n.key_id, coalesce(k.alias, n.details ->> 'alias') AS alias, n.details, n.sent_at
FROM apikeys.notice AS n
LEFT JOIN apikeys.account AS a ON a.account_id = n.account_id
LEFT JOIN apikeys.key AS k ON k.key_id = n.key_id
WHERE (SELECT apikeys.managed_accounts()) IS NULL OR n.account_id = ANY ((SELECT apikeys.managed_accounts())::bigint[]);
COMMENT ON VIEW apikeys.notice_list IS 'What has happened to the keys and accounts that the session''s user may manage.';
COMMENT ON COLUMN apikeys.notice_list.kind IS
'Of a key: created, rotated, activated, deactivated, suspended, unsuspended, deleted; upgrade_asked, upgrade_questioned, upgrade_answered, upgrade_approved, upgrade_declined, upgrade_withdrawn. Of an account: account_activated, account_deactivated. Of an address that was blocked by itself: address_blocked.';
COMMENT ON COLUMN apikeys.notice_list.alias IS 'Of the key now, or when it was deleted.';
COMMENT ON COLUMN apikeys.notice_list.details IS 'What the kind calls for, as things stood then.';
COMMENT ON COLUMN apikeys.notice_list.sent_at IS 'When it was announced with NOTIFY apikeys; NULL: not yet.';

-- What the writer calls.

CREATE FUNCTION apikeys.announce_notices(most int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH due AS (
        SELECT n.id FROM apikeys.notice AS n WHERE n.sent_at IS NULL ORDER BY n.id LIMIT most
        FOR NO KEY UPDATE SKIP LOCKED
    ), sent AS (
        UPDATE apikeys.notice AS n SET sent_at = clock_timestamp() FROM due AS d WHERE n.id = d.id
        RETURNING n.id, n.kind, n.account_id, n.key_id
    )
    SELECT count(pg_notify('apikeys', s.payload))
    FROM (SELECT jsonb_build_object('id', t.id, 'kind', t.kind, 'account', a.name, 'key_id', t.key_id)::text
          FROM sent AS t LEFT JOIN apikeys.account AS a ON a.account_id = t.account_id
          ORDER BY t.id) AS s (payload);
END;
COMMENT ON FUNCTION apikeys.announce_notices(int) IS
'Announce so many notices at most that were not yet, but for those that somebody has locked; returns how many. The background worker does that. Internal.';
