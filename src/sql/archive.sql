-- The archive: keys that are no longer used, out of the lists of the others. They stay on record, with their log and usage.
--
-- An archived key does not count for its plan, and verify refuses it. It is inactive or expired, and key_check_update keeps it so. Its alias
-- is free for another key: aliases are unique among the unarchived keys of an account (key_account_id_alias_key).

CREATE FUNCTION apikeys.archive_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    former  apikeys.key;
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    SELECT k.* INTO STRICT former FROM apikeys.key AS k WHERE k.key_id = archive_key.key_id FOR NO KEY UPDATE;
    IF former.archived_at IS NULL THEN
        IF former.suspended_at IS NOT NULL THEN
            PERFORM apikeys_internal.refuse('55000', 'key.key_id', format('key %s is suspended', key_id), NULL, 'A suspended key stays in the list.');
        ELSIF apikeys_internal.key_counts(former.active, former.expires_at, present) THEN
            PERFORM apikeys_internal.refuse('55000', 'key.key_id', format('key %s is neither inactive nor expired', key_id), NULL,
                                            'Deactivate it first.');
        END IF;
        UPDATE apikeys.key AS k SET archived_at = present WHERE k.key_id = former.key_id;
    END IF;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.archive_key(bigint) IS
'Put a key that is inactive or expired out of the lists of an account''s keys. It stays on record, with its log and usage. verify '
'refuses it as inactive, it cannot be activated or get another expiry that makes it valid, and its alias is free for another key. Does '
'nothing if it is archived. Errors: P0002 unknown key; 55000 it is suspended, or neither inactive nor expired.';

CREATE FUNCTION apikeys.unarchive_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    UPDATE apikeys.key AS k SET archived_at = NULL WHERE k.key_id = unarchive_key.key_id;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.unarchive_key(bigint) IS
'Take a key back from the archive; it is inactive or expired, as it was. Does nothing if it is not archived. Errors: P0002 unknown key; '
'23505 another key has its alias now: give one of them another with update_key.';
