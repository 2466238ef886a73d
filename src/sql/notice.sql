-- Notices: what the application may want to tell its users, or to do, when something has happened.
--
-- Table notice is an outbox. A row is written in the transaction of what it tells of: nothing is announced that did not happen,
-- and nothing that happened is forgotten. The background worker announces it afterwards, in a transaction of its own, with
-- NOTIFY apikeys and a payload such as
--
--   {"id": 7, "kind": "rotated", "key_id": 4711, "account": "acme"}
--
-- and notes sent_at. The payload is for everybody who may connect: LISTEN knows no privileges, and neither does NOTIFY, so that anybody
-- can send such a payload. Receivers act on the row, which has the details.
--
-- Each notice is announced at least once: again only where a crash has taken back sent_at, or a backup was restored. The order
-- of ids is not the order of commits. Who was away reads the rows with sent_at after the last that he knows.
--
-- What can go on for long is noticed once: table notice_mark has what was noticed last. A limit, by the meters, when 80 % of it
-- are used (limit_near) and when all is, or so much that a request was denied (limit_reached): each once within its window, but
-- not more often than once an hour, and again for another cap; on the way down from the cap nothing is. An expiry, by the writer.
--
-- What many calls do is plpgsql, which keeps its plans; SQL would plan anew each time.
--
-- A change is noticed by triggers, whoever makes it and however, a key or an upgrade request that is made by the function that
-- makes it: as in the audit log, and for the same reasons.

CREATE FUNCTION apikeys_internal.wake_notices() RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'apikeys_notice_wake';
COMMENT ON FUNCTION apikeys_internal.wake_notices() IS
'Have the background worker look for new notices, once this transaction has committed. Without preloading: nothing. Internal.';

CREATE FUNCTION apikeys_internal.add_notice(kind text, account_id bigint, key_id bigint, details jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO apikeys.notice (kind, account_id, key_id, details)
    VALUES (add_notice.kind, add_notice.account_id, add_notice.key_id, jsonb_strip_nulls(add_notice.details));
    PERFORM apikeys_internal.wake_notices();
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_notice(text, bigint, bigint, jsonb) IS
'Add a notice about a key, about an account as a whole (key_id NULL), or about neither. Details that are null are left out. Internal.';

CREATE FUNCTION apikeys_internal.add_notice_once(
    subject "char", subject_id bigint, topic text, value text, at timestamptz, again interval,
    kind text, account_id bigint, key_id bigint, details jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH marked AS (
        INSERT INTO apikeys.notice_mark AS m (subject, subject_id, topic, value, at)
        VALUES (add_notice_once.subject, add_notice_once.subject_id, add_notice_once.topic, add_notice_once.value, add_notice_once.at)
        ON CONFLICT (subject, subject_id, topic) DO UPDATE SET value = excluded.value, at = excluded.at
        WHERE m.value <> excluded.value OR m.at <= excluded.at - add_notice_once.again
        RETURNING 0
    )
    SELECT apikeys_internal.add_notice(kind, account_id, key_id, details) FROM marked;
END;
COMMENT ON FUNCTION apikeys_internal.add_notice_once("char", bigint, text, text, timestamptz, interval, text, bigint, bigint, jsonb) IS
'Add a notice unless the last on the topic had the same value and is younger than so much; NULL: however old. Internal.';

CREATE FUNCTION apikeys_internal.add_limit_notice(
    subject "char", account_id bigint, key_id bigint, limit_window text, seconds bigint, cap bigint, used bigint, reached boolean,
    at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT apikeys_internal.add_notice_once(
        subject, CASE subject WHEN 'k' THEN key_id ELSE account_id END, k.kind || '/' || limit_window, cap::text, at,
        CASE WHEN seconds IS NOT NULL THEN greatest(make_interval(secs => seconds), '1 hour') END, k.kind, account_id, CASE subject WHEN 'k' THEN key_id END,
        jsonb_build_object('limit_window', limit_window, 'cap', cap, 'used', used, 'at', at))
    FROM (SELECT CASE WHEN reached THEN 'limit_reached' ELSE 'limit_near' END) AS k (kind);
END;
COMMENT ON FUNCTION apikeys_internal.add_limit_notice("char", bigint, bigint, text, bigint, bigint, bigint, boolean, timestamptz) IS
'Add a notice that a limit of a key (k) or an account (a) is nearly or all used, unless there was one within its window of so many seconds (NULL: without end), or within the hour. The background worker does that. Internal.';

CREATE FUNCTION apikeys_internal.noticed_key(subject apikeys.key) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN jsonb_build_object(
        'alias', subject.alias, 'category', subject.category, 'hint', subject.hint, 'tier', subject.tier,
        'limits', subject.limits::text, 'expires_at', subject.expires_at, 'previous_valid_until', subject.previous_valid_until,
        'suspended_reason', subject.suspended_reason);
END
$$;
COMMENT ON FUNCTION apikeys_internal.noticed_key(apikeys.key) IS 'A key as notices show it. Internal.';

CREATE FUNCTION apikeys_internal.add_key_notice(kind text, subject apikeys.key) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.add_notice(kind, subject.account_id, subject.key_id, apikeys_internal.noticed_key(subject));
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_key_notice(text, apikeys.key) IS 'Add a notice about a key, with the key as it is. Internal.';

CREATE FUNCTION apikeys_internal.add_upgrade_notice(kind text, request apikeys.upgrade_request) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT apikeys_internal.add_notice(kind, k.account_id, k.key_id, jsonb_build_object(
        'upgrade', (request).id, 'alias', k.alias, 'tier', (request).tier, 'limits', (request).limits::text, 'due_at', (request).due_at,
        'motivation', (request).motivation, 'question', (request).question, 'answer', (request).answer,
        'decided_by', (request).decided_by, 'note', (request).note))
    FROM apikeys.key AS k WHERE k.key_id = (request).key_id;
END;
COMMENT ON FUNCTION apikeys_internal.add_upgrade_notice(text, apikeys.upgrade_request) IS 'Add a notice about an upgrade request, with the request as it is. Internal.';

CREATE FUNCTION apikeys_internal.notice_key_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM apikeys_internal.add_key_notice('deleted', OLD);
        DELETE FROM apikeys.notice_mark AS m WHERE m.subject = 'k' AND m.subject_id = OLD.key_id;
        RETURN NULL;
    END IF;
    IF NEW.rotations <> OLD.rotations THEN
        PERFORM apikeys_internal.add_key_notice('rotated', NEW);
    END IF;
    IF NEW.active <> OLD.active THEN
        PERFORM apikeys_internal.add_key_notice(CASE WHEN NEW.active THEN 'activated' ELSE 'deactivated' END, NEW);
    END IF;
    IF (NEW.suspended_at IS NULL) <> (OLD.suspended_at IS NULL) THEN
        PERFORM apikeys_internal.add_key_notice(CASE WHEN NEW.suspended_at IS NULL THEN 'unsuspended' ELSE 'suspended' END, NEW);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.notice_key_change() IS 'Trigger: adds a notice for each change of a key that somebody may want to hear of.';

CREATE FUNCTION apikeys_internal.notice_account_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.add_notice(CASE WHEN NEW.active THEN 'account_activated' ELSE 'account_deactivated' END, NEW.account_id, NULL, '{}');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.notice_account_change() IS 'Trigger: adds a notice where an account was switched on or off.';

CREATE FUNCTION apikeys_internal.notice_upgrade_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.add_upgrade_notice(CASE NEW.state
                                           WHEN 'needs_information' THEN 'upgrade_questioned'
                                           WHEN 'pending' THEN 'upgrade_answered'
                                           ELSE 'upgrade_' || NEW.state
                                       END, NEW);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.notice_upgrade_change() IS 'Trigger: adds a notice for each step of an upgrade request.';

CREATE TRIGGER key_notice AFTER UPDATE ON apikeys.key
FOR EACH ROW WHEN (
    (OLD.rotations, OLD.active, OLD.suspended_at IS NULL) IS DISTINCT FROM (NEW.rotations, NEW.active, NEW.suspended_at IS NULL))
EXECUTE FUNCTION apikeys_internal.notice_key_change();
CREATE TRIGGER key_notice_delete AFTER DELETE ON apikeys.key
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.notice_key_change();
CREATE TRIGGER account_notice AFTER UPDATE ON apikeys.account
FOR EACH ROW WHEN (NEW.active <> OLD.active) EXECUTE FUNCTION apikeys_internal.notice_account_change();
CREATE TRIGGER upgrade_request_notice AFTER UPDATE ON apikeys.upgrade_request
FOR EACH ROW WHEN (NEW.state <> OLD.state OR NEW.question <> OLD.question) EXECUTE FUNCTION apikeys_internal.notice_upgrade_change();
COMMENT ON TRIGGER key_notice ON apikeys.key IS 'Adds a notice where a key was rotated, switched or suspended.';
COMMENT ON TRIGGER key_notice_delete ON apikeys.key IS 'Adds a notice where a key was deleted.';
COMMENT ON TRIGGER account_notice ON apikeys.account IS 'Adds a notice where an account was switched on or off.';
COMMENT ON TRIGGER upgrade_request_notice ON apikeys.upgrade_request IS 'Adds a notice for each step of an upgrade request.';

CREATE VIEW apikeys.notice_list WITH (security_barrier) AS
SELECT n.id, n.at, n.kind, a.name AS account, n.key_id, coalesce(k.alias, n.details ->> 'alias') AS alias, n.details, n.sent_at
FROM apikeys.notice AS n
LEFT JOIN apikeys.account AS a ON a.account_id = n.account_id
LEFT JOIN apikeys.key AS k ON k.key_id = n.key_id
WHERE (SELECT apikeys_internal.managed_accounts()) IS NULL OR n.account_id = ANY ((SELECT apikeys_internal.managed_accounts())::bigint[]);
COMMENT ON VIEW apikeys.notice_list IS 'What has happened to the keys and accounts that the session''s user may manage.';
COMMENT ON COLUMN apikeys.notice_list.kind IS
'Of a key: created, rotated, activated, deactivated, suspended, unsuspended, deleted, expiring (within apikeys.expiry_notice; once for each expiry); upgrade_asked, upgrade_questioned, upgrade_answered, upgrade_approved, upgrade_declined, upgrade_withdrawn. Of an account: account_activated, account_deactivated. Of a limit of either: limit_near (80 % used), limit_reached (all used, or too much for a request), once within its window and the hour, and for each cap. Of an address that was blocked by itself: address_blocked.';
COMMENT ON COLUMN apikeys.notice_list.alias IS 'Of the key now, or when it was deleted.';

-- What the writer calls.

CREATE FUNCTION apikeys_internal.announce_notices(most int) RETURNS bigint
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
COMMENT ON FUNCTION apikeys_internal.announce_notices(int) IS
'Announce so many notices at most that were not yet, but for those that somebody has locked; returns how many. The background worker does that. Internal.';

CREATE FUNCTION apikeys_internal.add_expiry_notices(INOUT after_expiry timestamptz, INOUT after_id bigint, most int, OUT seen int)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present   timestamptz := apikeys_internal.wall_clock();
    candidate record;
BEGIN
    seen := 0;
    FOR candidate IN
        SELECT k AS key, a.active FROM apikeys.key AS k JOIN apikeys.account AS a ON a.account_id = k.account_id
        WHERE k.expires_at > present AND k.expires_at <= present + current_setting('apikeys.expiry_notice')::interval
          AND (k.expires_at, k.key_id) > (after_expiry, after_id)
        ORDER BY k.expires_at, k.key_id LIMIT most
    LOOP
        seen := seen + 1;
        after_expiry := (candidate.key).expires_at;
        after_id := (candidate.key).key_id;
        IF candidate.active AND (candidate.key).active AND (candidate.key).suspended_at IS NULL THEN
            PERFORM apikeys_internal.add_notice_once(
                'k', after_id, 'expiring', extract(epoch FROM after_expiry)::text, present, NULL,
                'expiring', (candidate.key).account_id, after_id, apikeys_internal.noticed_key(candidate.key));
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_expiry_notices(timestamptz, bigint, int) IS
'Add a notice for each of so many keys that are in state expiring, if there was none for that expiry; goes by expiry and id, from after the two given to the two returned. seen: how many it has looked at. The background worker does that. Internal.';

CREATE FUNCTION apikeys_internal.delete_notices(days int, most int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH old AS (
        SELECT n.id FROM apikeys.notice AS n WHERE n.sent_at < apikeys_internal.wall_clock() - make_interval(days => days)
        ORDER BY n.sent_at LIMIT most
        FOR UPDATE SKIP LOCKED
    ), dropped AS (
        DELETE FROM apikeys.notice AS n USING old AS o WHERE n.id = o.id RETURNING 0
    )
    SELECT count(*) FROM dropped;
END;
COMMENT ON FUNCTION apikeys_internal.delete_notices(int, int) IS
'Delete so many notices at most that were announced so many days ago; returns how many. The background worker does that. Internal.';
