-- Erasure: deletes what is known of the people behind an account; counts and decisions stay.

CREATE FUNCTION apikeys.erase_account_data(account text) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, true);
    owned bigint[];
BEGIN
    -- First, because the writer waits for the rows that are locked below.
    IF NOT apikeys_internal.try_flush() THEN
        RAISE WARNING USING
            MESSAGE = format('queued requests of account "%s" could not be written', owner.name),
            HINT = 'They will be logged with their addresses. Erase again after that.';
    END IF;
    PERFORM FROM apikeys.key AS k WHERE k.account_id = owner.account_id ORDER BY k.key_id FOR UPDATE;   -- keys before their account
    PERFORM apikeys_internal.lock_account(owner.account_id);
    -- A key without its lists would be good from anywhere, so it is deactivated.
    WITH erased AS (
        UPDATE apikeys.key AS k
        SET active = false,
            alias = k.key_id || CASE WHEN EXISTS (SELECT FROM apikeys.key AS o WHERE o.account_id = k.account_id AND o.key_id <> k.key_id AND o.archived_at IS NULL
                                                  AND o.alias = k.key_id::text) THEN '-' || gen_random_uuid() ELSE '' END,
            allowed_domains = '{}', allowed_ips = '{}', metadata = '{}',
            suspended_reason = CASE WHEN k.suspended_reason IS NOT NULL THEN 'erased' END
        WHERE k.account_id = owner.account_id
        RETURNING k.key_id
    )
    SELECT array_agg(e.key_id) INTO owned
    FROM (SELECT t.key_id FROM erased AS t
          UNION SELECT l.object_id::bigint FROM apikeys.audit_log AS l WHERE l.account_id = owner.account_id AND l.object = 'key'   -- deleted ones
    ) AS e;
    UPDATE apikeys.upgrade_request AS r
    SET motivation = 'erased', project = NULL, purpose = NULL, question = NULL, answer = NULL, note = NULL,
        state = CASE WHEN r.decided_at IS NULL THEN 'withdrawn' ELSE r.state END,
        decided_by = CASE WHEN r.decided_at IS NULL THEN SESSION_USER ELSE r.decided_by END,
        decided_at = coalesce(r.decided_at, apikeys_internal.wall_clock())
    WHERE r.key_id = ANY (owned);
    UPDATE apikeys.account AS a SET active = false, display_name = NULL, contact = NULL, metadata = '{}'
    WHERE a.account_id = owner.account_id;
    UPDATE apikeys.adjustment AS j SET reason = NULL
    WHERE (j.subject = 'a' AND j.subject_id = owner.account_id OR j.subject = 'k' AND j.subject_id = ANY (owned)) AND j.reason IS NOT NULL;
    UPDATE apikeys.notice AS n SET details = '{}'
    WHERE n.account_id = owner.account_id;
    -- Late, because the writer waits for these rows too.
    UPDATE apikeys.request_log AS l SET ip = NULL WHERE l.key_id = ANY (owned) AND l.ip IS NOT NULL;
    UPDATE apikeys.quarantine AS q SET event = q.event || '{"ip": null}'
    WHERE q.event->>'key_id' = ANY (owned::text[]) AND q.event->>'ip' IS NOT NULL;
    PERFORM apikeys_internal.audit('erase', 'account', owner.name, owner.account_id, NULL, NULL);
    UPDATE apikeys.audit_log AS l SET old = apikeys_internal.erased_row(l.old), new = apikeys_internal.erased_row(l.new) WHERE l.account_id = owner.account_id;
    RETURN apikeys_internal.get_account(account, true);
END
$$;
COMMENT ON FUNCTION apikeys.erase_account_data(text) IS
'Erase what is known of the people behind an account: its display name, contact and metadata; the aliases, '
'metadata, lists of domains and addresses of its keys, and the reasons of suspensions; the texts of upgrade '
'requests; the reasons of resets and grants; client addresses in the request log and in quarantine; all of these in '
'the audit log; the details of notices. The account and its keys are deactivated, open upgrade requests withdrawn. '
'What stays: the name of the account (it should be an id of yours), who did what in the audit log, usage, counts, '
'and the endpoints of requests. Queued requests are written first; a warning tells if that takes longer than '
'apikeys.queue_timeout. Call deactivate_account before, so that no more are admitted. Do not use REPEATABLE READ, '
'which would not see them. Commit soon, because completions of the account''s requests wait for it. Old versions of '
'rows stay on disk until VACUUM, and in backups.
Errors: P0002 unknown account.';
