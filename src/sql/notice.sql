-- Notices: events that the application may want to tell its users about, or act on.
--
-- Table notice is an outbox. A row is written in the transaction that it reports: there is no notice of what did not happen, and
-- none is missing. After the commit the background worker announces it, in a transaction of its own: it sends NOTIFY apikeys with the
-- id of the notice, adds a delivery for each consumer (outbox.sql) and sets sent_at. Every role that may connect can read what NOTIFY
-- sends, and send the like: LISTEN and NOTIFY know no privileges. So it has the id alone, and receivers act on the row.
--
-- Each notice is announced at least once; it is announced again only if a crash undid sent_at, or a backup was restored. Ids do
-- not follow the order of commits. A receiver that was away reads the rows whose sent_at is after the last that it knows.
--
-- What can last long is noticed once: table notice_mark has the last notice of each topic. The meters notice limits: 80 % used
-- (limit_near), and all used or a request denied (limit_reached), each at most once within the limit's window and at most once an
-- hour, but again if the cap changes; a usage that falls is not noticed. The writer notices expiries.
--
-- Functions that run often are plpgsql, which keeps its plans; SQL functions would be planned at each call.
--
-- Triggers notice changes of keys, accounts and upgrade requests. New keys and upgrade requests are noticed by the functions that
-- make them, for the reasons told in audit.sql.

CREATE FUNCTION apikeys_internal.wake_notices() RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'apikeys_notice_wake';
COMMENT ON FUNCTION apikeys_internal.wake_notices() IS
'Make the background worker look for new notices after this transaction has committed. Does nothing if the library '
'is not preloaded.';

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
'Add a notice about a key, about an account as a whole (key_id NULL), or about neither. Details that are null are '
'left out.';

CREATE FUNCTION apikeys_internal.add_notice_once(
    subject "char", subject_id bigint, topic text, value text, at timestamptz, again interval,
    kind text, account_id bigint, key_id bigint, details jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO apikeys.notice_mark AS m (subject, subject_id, topic, value, at)
    VALUES (add_notice_once.subject, add_notice_once.subject_id, add_notice_once.topic, add_notice_once.value, add_notice_once.at)
    ON CONFLICT (subject, subject_id, topic) DO UPDATE SET value = excluded.value, at = excluded.at
    WHERE m.value <> excluded.value OR m.at <= excluded.at - add_notice_once.again;
    IF FOUND THEN
        PERFORM apikeys_internal.add_notice(kind, account_id, key_id, details);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_notice_once("char", bigint, text, text, timestamptz, interval, text, bigint, bigint, jsonb) IS
'Add a notice, unless the last one on the topic had the same value and is younger than the interval given (NULL: of '
'any age).';

CREATE FUNCTION apikeys_internal.add_limit_notice(
    subject "char", account_id bigint, key_id bigint, limit_window text, seconds bigint, cap bigint, used bigint, reached boolean,
    at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind text := CASE WHEN reached THEN 'limit_reached' ELSE 'limit_near' END;
BEGIN
    PERFORM apikeys_internal.add_notice_once(
        subject, CASE subject WHEN 'k' THEN key_id ELSE account_id END, kind || '/' || limit_window, cap::text, at,
        CASE WHEN seconds IS NOT NULL THEN greatest(make_interval(secs => seconds), '1 hour') END, kind, account_id, CASE subject WHEN 'k' THEN key_id END,
        jsonb_build_object('limit_window', limit_window, 'cap', cap, 'used', used, 'at', at));
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_limit_notice("char", bigint, bigint, text, bigint, bigint, bigint, boolean, timestamptz) IS
'Add a notice that a limit of a key (k) or an account (a) is nearly or all used, unless there was one within the '
'limit''s window (in seconds; NULL: without end) or within the hour. Called by the background worker.';

-- It becomes part of the plans that call it.
CREATE FUNCTION apikeys_internal.noticed_key(subject apikeys.key) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT pg_catalog.jsonb_build_object(
        'alias', subject.alias, 'category', subject.category, 'hint', subject.hint, 'tier', subject.tier,
        'limits', subject.limits::pg_catalog.text, 'expires_at', subject.expires_at, 'previous_valid_until', subject.previous_valid_until,
        'suspended_reason', subject.suspended_reason);
$$;
COMMENT ON FUNCTION apikeys_internal.noticed_key(apikeys.key) IS 'The details that notices show of a key.';

CREATE FUNCTION apikeys_internal.add_key_notice(kind text, subject apikeys.key) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.add_notice(kind, subject.account_id, subject.key_id, apikeys_internal.noticed_key(subject));
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_key_notice(text, apikeys.key) IS
'Add a notice about a key, with its present settings.';

CREATE FUNCTION apikeys_internal.add_upgrade_notice(kind text, request apikeys.upgrade_request) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT apikeys_internal.add_notice(kind, k.account_id, k.key_id, jsonb_build_object(
        'upgrade', (request).id, 'alias', k.alias, 'tier', (request).tier, 'limits', (request).limits::text, 'due_at', (request).due_at,
        'motivation', (request).motivation, 'question', (request).question, 'answer', (request).answer,
        'decided_by', (request).decided_by, 'note', (request).note))
    FROM apikeys.key AS k WHERE k.key_id = (request).key_id;
$$;
COMMENT ON FUNCTION apikeys_internal.add_upgrade_notice(text, apikeys.upgrade_request) IS
'Add a notice about an upgrade request, with its present contents.';

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
    IF (NEW.archived_at IS NULL) <> (OLD.archived_at IS NULL) THEN
        PERFORM apikeys_internal.add_key_notice(CASE WHEN NEW.archived_at IS NULL THEN 'unarchived' ELSE 'archived' END, NEW);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.notice_key_change() IS
'Trigger: adds a notice if a key was rotated, activated, deactivated, suspended, unsuspended, archived, unarchived or deleted.';

CREATE FUNCTION apikeys_internal.notice_account_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.add_notice(CASE WHEN NEW.active THEN 'account_activated' ELSE 'account_deactivated' END, NEW.account_id, NULL, '{}');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.notice_account_change() IS
'Trigger: adds a notice if an account was activated or deactivated.';

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
COMMENT ON FUNCTION apikeys_internal.notice_upgrade_change() IS
'Trigger: adds a notice for each step of an upgrade request.';

CREATE TRIGGER key_notice AFTER UPDATE ON apikeys.key
FOR EACH ROW WHEN (
    (OLD.rotations, OLD.active, OLD.suspended_at IS NULL, OLD.archived_at IS NULL)
    IS DISTINCT FROM (NEW.rotations, NEW.active, NEW.suspended_at IS NULL, NEW.archived_at IS NULL))
EXECUTE FUNCTION apikeys_internal.notice_key_change();
CREATE TRIGGER key_notice_delete AFTER DELETE ON apikeys.key
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.notice_key_change();
CREATE TRIGGER account_notice AFTER UPDATE ON apikeys.account
FOR EACH ROW WHEN (NEW.active <> OLD.active) EXECUTE FUNCTION apikeys_internal.notice_account_change();
CREATE TRIGGER upgrade_request_notice AFTER UPDATE ON apikeys.upgrade_request
FOR EACH ROW WHEN (NEW.state <> OLD.state OR NEW.question <> OLD.question) EXECUTE FUNCTION apikeys_internal.notice_upgrade_change();
COMMENT ON TRIGGER key_notice ON apikeys.key IS
'Adds a notice if a key was rotated, activated, deactivated, suspended, unsuspended, archived or unarchived.';
COMMENT ON TRIGGER key_notice_delete ON apikeys.key IS 'Adds a notice if a key was deleted.';
COMMENT ON TRIGGER account_notice ON apikeys.account IS 'Adds a notice if an account was activated or deactivated.';
COMMENT ON TRIGGER upgrade_request_notice ON apikeys.upgrade_request IS
'Adds a notice for each step of an upgrade request.';

CREATE VIEW apikeys.notice_list WITH (security_barrier) AS
SELECT n.id, n.at, n.kind, a.name AS account, n.key_id, coalesce(k.alias, n.details ->> 'alias') AS alias, n.details, n.sent_at
FROM apikeys.notice AS n
LEFT JOIN apikeys.account AS a ON a.account_id = n.account_id
LEFT JOIN apikeys.key AS k ON k.key_id = n.key_id
WHERE (SELECT apikeys_internal.reaches_all(false)) OR n.account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]);
COMMENT ON VIEW apikeys.notice_list IS 'Notices about the keys and accounts that the session may read.';
COMMENT ON COLUMN apikeys.notice_list.kind IS
'Of a key: created, rotated, activated, deactivated, suspended, unsuspended, archived, unarchived, deleted, leaked (once for each '
'text), expiring (as the state of the view key_list; once for each expiry); upgrade_asked, upgrade_questioned, upgrade_answered, '
'upgrade_approved, upgrade_declined, upgrade_withdrawn. Of an account: account_activated, account_deactivated. Of a '
'limit of either: limit_near (80 % used), limit_reached (all used, or a request was denied); each at most once '
'within the limit''s window and at most once an hour, unless the cap changes. Of an address that was blocked '
'automatically: address_blocked.';
COMMENT ON COLUMN apikeys.notice_list.alias IS 'The key''s alias now; of a deleted key, its last.';

-- What the writer calls. Where a subscription fills the table, the publisher's writer does all this: rows that are made here would
-- have the ids of the publisher's.

CREATE FUNCTION apikeys_internal.announce_notices(most int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH due AS (
        SELECT n.id FROM apikeys.notice AS n
        WHERE n.sent_at IS NULL AND NOT EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = 'apikeys.notice'::regclass)
        ORDER BY n.id LIMIT most
        FOR NO KEY UPDATE SKIP LOCKED
    ), sent AS (
        UPDATE apikeys.notice AS n SET sent_at = clock_timestamp() FROM due AS d WHERE n.id = d.id RETURNING n.id
    ), delivered AS (
        INSERT INTO apikeys.notice_delivery (consumer, notice_id)
        SELECT c.name, t.id FROM sent AS t CROSS JOIN apikeys.notice_consumer AS c
        ON CONFLICT DO NOTHING
    )
    SELECT count(pg_notify('apikeys', s.id::text)) FROM (SELECT t.id FROM sent AS t ORDER BY t.id) AS s;
END;
COMMENT ON FUNCTION apikeys_internal.announce_notices(int) IS
'Announce notices that were not yet announced, at most this many, except those that another transaction has locked; '
'returns how many. Called by the background worker.';

CREATE FUNCTION apikeys_internal.add_expiry_notices(INOUT after_expiry timestamptz, INOUT after_id bigint, most int, OUT seen int)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present   timestamptz := apikeys_internal.wall_clock();
    candidate record;
BEGIN
    seen := 0;
    FOR candidate IN
        SELECT k AS key, apikeys_internal.key_state(k.archived_at IS NOT NULL, k.suspended_at IS NOT NULL, k.active, a.active,
                                                    coalesce(k.expiry_set_at, k.created_at), k.expires_at) AS state
        FROM apikeys.key AS k JOIN apikeys.account AS a ON a.account_id = k.account_id
        WHERE k.expires_at > present AND k.expires_at <= present + current_setting('apikeys.expiry_notice')::interval
          AND (k.expires_at, k.key_id) > (after_expiry, after_id)
          AND NOT EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = 'apikeys.notice'::regclass)
        ORDER BY k.expires_at, k.key_id LIMIT most
    LOOP
        seen := seen + 1;
        after_expiry := (candidate.key).expires_at;
        after_id := (candidate.key).key_id;
        IF candidate.state = 'expiring' THEN
            PERFORM apikeys_internal.add_notice_once(
                'k', after_id, 'expiring', extract(epoch FROM after_expiry)::text, present, NULL,
                'expiring', (candidate.key).account_id, after_id, apikeys_internal.noticed_key(candidate.key));
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_expiry_notices(timestamptz, bigint, int) IS
'Add a notice for each key in state expiring, if there was none for this expiry. Looks at keys in the order of '
'expiry and id, beginning after the two given, at most this many; returns the expiry and the id of the last, and in '
'seen how many it looked at. Called by the background worker.';

CREATE FUNCTION apikeys_internal.delete_notices(days int, most int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH old AS (
        SELECT n.id FROM apikeys.notice AS n WHERE n.sent_at < apikeys_internal.wall_clock() - make_interval(days => days)
              AND NOT EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = 'apikeys.notice'::regclass)
        ORDER BY n.sent_at LIMIT most
        FOR UPDATE SKIP LOCKED
    ), dropped AS (
        DELETE FROM apikeys.notice AS n USING old AS o WHERE n.id = o.id RETURNING 0
    ), undelivered AS (
        DELETE FROM apikeys.notice_delivery AS d USING old AS o WHERE d.notice_id = o.id
    )
    SELECT count(*) FROM dropped;
END;
COMMENT ON FUNCTION apikeys_internal.delete_notices(int, int) IS
'Delete notices that were announced this many days ago or longer, also where a consumer has not confirmed them, at most '
'this many; returns how many. Called by the background worker.';
