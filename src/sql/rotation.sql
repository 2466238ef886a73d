-- Rotation: a new text for a key.

CREATE FUNCTION apikeys.rotate_key(
    key_id bigint, grace interval DEFAULT '0', lifetime interval DEFAULT NULL, expires_at timestamptz DEFAULT NULL)
RETURNS apikeys.issued_key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    former  apikeys.key;
    owner   apikeys.account;
    rules   apikeys.plan;
    stem    text;
    drawn   record;
    made    apikeys.key;
BEGIN
    IF grace IS NULL OR grace < '0' THEN
        PERFORM apikeys_internal.refuse('22023', 'key.grace', 'the grace of a rotation must not be negative');
    ELSIF NOT isfinite(grace) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.grace', 'the grace of a rotation must be finite');
    END IF;
    PERFORM apikeys_internal.key_to_change(key_id);
    SELECT k.* INTO STRICT former FROM apikeys.key AS k WHERE k.key_id = rotate_key.key_id FOR UPDATE;
    IF num_nonnulls(lifetime, expires_at) > 0 THEN
        PERFORM apikeys_internal.lock_account(former.account_id);    -- the plan must not change before the expiry is checked
    END IF;
    SELECT a.* INTO STRICT owner FROM apikeys.account AS a WHERE a.account_id = former.account_id;
    SELECT p.* INTO STRICT rules FROM apikeys.plan AS p WHERE p.name = owner.plan;
    stem := CASE WHEN apikeys_internal.prefix_is_valid(former.prefix) THEN former.prefix ELSE rules.key_prefix END;
    SELECT d.* INTO drawn FROM apikeys_internal.draw_key(stem, owner.name) AS d;
    UPDATE apikeys.key AS k
    SET digest = drawn.digest, hash_rule = 'sha256', prefix = stem, hint = drawn.hint,
        previous_digest = CASE WHEN grace > '0' THEN former.digest END,
        previous_hash_rule = CASE WHEN grace > '0' THEN former.hash_rule END,
        previous_valid_until = CASE WHEN grace > '0' THEN apikeys_internal.seconds_after(present, grace) END,
        rotated_at = present, rotations = k.rotations + 1,
        expires_at = CASE WHEN num_nonnulls(lifetime, rotate_key.expires_at) = 0 THEN k.expires_at
                          ELSE apikeys_internal.chosen_expiry(lifetime, rotate_key.expires_at, rules) END
    WHERE k.key_id = former.key_id
    RETURNING * INTO made;
    RETURN ROW(made.key_id, drawn.key, owner.name, made.alias, made.expires_at)::apikeys.issued_key;
END
$$;
COMMENT ON FUNCTION apikeys.rotate_key(bigint, interval, interval, timestamptz) IS
'Give a key a new text and return it; it is shown at no other time. The id, the settings and the usage stay. The '
'former text stays valid for the grace (default none), counted in seconds; the text before that is no longer valid. '
'With a lifetime, the key expires that long from now; with expires_at, then (''infinity'': never); otherwise when it did '
'before.
An inactive, suspended or expired key can be rotated and stays in that state.
Errors: P0002 unknown key; 22023 negative grace, both lifetime and expires_at, or an expiry that the plan does not allow; '
'53400 an expired key gets another expiry and the plan allows no more keys, or 23505 another key has its product.';
