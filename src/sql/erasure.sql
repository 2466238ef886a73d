-- Erasure: what tells of the people behind an account goes, what was counted and decided stays.

CREATE FUNCTION apikeys.erase_account_data(account text) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account);
    owned bigint[];
BEGIN
    -- First of all: the writer waits for the rows that are locked below.
    IF NOT apikeys_internal.try_flush() THEN
        RAISE WARNING USING
            MESSAGE = format('requests of account "%s" that are on their way could not be written', owner.name),
            HINT = 'They will be logged with their addresses: erase once more when they are.';
    END IF;
    PERFORM FROM apikeys.key AS k WHERE k.account_id = owner.account_id ORDER BY k.key_id FOR UPDATE;   -- keys before their account
    PERFORM apikeys_internal.lock_account(owner.account_id);
    -- Without its lists a key would be good from anywhere: it is switched off.
    WITH erased AS (
        UPDATE apikeys.key AS k
        SET active = false,
            alias = k.key_id || CASE WHEN EXISTS (SELECT FROM apikeys.key AS o WHERE o.account_id = k.account_id AND o.key_id <> k.key_id
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
    -- Last but for the log of all this, for the same reason.
    UPDATE apikeys.request_log AS l SET ip = NULL WHERE l.key_id = ANY (owned) AND l.ip IS NOT NULL;
    UPDATE apikeys.quarantine AS q SET event = q.event || '{"ip": null}'
    WHERE q.event->>'key_id' = ANY (owned::text[]) AND q.event->>'ip' IS NOT NULL;
    PERFORM apikeys_internal.audit('erase', 'account', owner.name, owner.account_id, NULL, NULL);
    UPDATE apikeys.audit_log AS l SET old = apikeys_internal.erased_row(l.old), new = apikeys_internal.erased_row(l.new) WHERE l.account_id = owner.account_id;
    RETURN apikeys_internal.get_account(account);
END
$$;
COMMENT ON FUNCTION apikeys.erase_account_data(text) IS
'Erase what tells of the people behind an account: its display name, contact and metadata; aliases, metadata, lists of domains and addresses of its keys, why they were suspended; what was written in upgrade requests; the reasons of resets and grants; client addresses in the request log and in quarantine; all that in the audit log; the details of notices. The account and its keys are switched off, open upgrade requests withdrawn. Names of accounts stay (they should be ids of yours), who did what in the audit log, usage, counts and the endpoints of requests. Requests on their way are written first (a warning tells where that takes longer than apikeys.queue_timeout); call deactivate_account before, so that none is admitted meanwhile. Not at REPEATABLE READ, which would not see them. Commit soon: completions of its requests wait for that. Old versions of rows are on disk until VACUUM, and in backups.
Errors: P0002 unknown account.';
