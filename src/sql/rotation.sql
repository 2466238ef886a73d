-- Keys in the place of keys: a new text for a key, the end of the old one, and another key with the same settings.

CREATE FUNCTION apikeys_internal.prefix_for(former text, rules apikeys.plan) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN apikeys_internal.prefix_is_valid(former) THEN former ELSE (rules).key_prefix END;
$$;
COMMENT ON FUNCTION apikeys_internal.prefix_for(text, apikeys.plan) IS
'The prefix of a new text in the place of one with this prefix: the same, or the plan''s if it is none of ours.';

-- What is not certain counts as used: requests that could not be written yet, or that the transaction's snapshot may not have; and
-- a key without any record of use, which an application may know by authenticate alone.
CREATE FUNCTION apikeys_internal.text_is_unused(subject apikeys.key) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' OR NOT apikeys_internal.try_flush() THEN
        RETURN false;
    END IF;
    RETURN EXISTS (SELECT FROM apikeys.usage_total AS u
                   WHERE u.subject = 'k' AND u.subject_id = subject.key_id AND coalesce(u.newest_text, 0) < subject.rotations);
END
$$;
COMMENT ON FUNCTION apikeys_internal.text_is_unused(apikeys.key) IS
'Whether requests of a key are on record, and none of them had its present text. It flushes first.';

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
    unused  boolean := false;
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
    IF grace > '0' AND former.previous_valid_until > present THEN
        unused := apikeys_internal.text_is_unused(former);
    END IF;
    IF num_nonnulls(lifetime, expires_at) > 0 THEN
        PERFORM apikeys_internal.lock_account(former.account_id);    -- the plan must not change before the expiry is checked
    END IF;
    SELECT a.* INTO STRICT owner FROM apikeys.account AS a WHERE a.account_id = former.account_id;
    SELECT p.* INTO STRICT rules FROM apikeys.plan AS p WHERE p.name = owner.plan;
    stem := apikeys_internal.prefix_for(former.prefix, rules);
    SELECT d.* INTO drawn FROM apikeys_internal.draw_key(stem, owner.name) AS d;
    UPDATE apikeys.key AS k
    SET digest = drawn.digest, hash_rule = 'sha256', prefix = stem, hint = drawn.hint,
        previous_digest = CASE WHEN grace > '0' THEN CASE WHEN unused THEN former.previous_digest ELSE former.digest END END,
        previous_hash_rule = CASE WHEN grace > '0' THEN CASE WHEN unused THEN former.previous_hash_rule ELSE former.hash_rule END END,
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
'former text stays valid for the grace (default none), counted in seconds; the text before that is no longer valid. Rotated '
'again within a grace, a key keeps the text that is deployed: if requests of it are on record and none had the latest '
'text, the one before that stays valid in its place, for the new grace.
With a lifetime, the key expires that long from now; with expires_at, then (''infinity'': never); otherwise when it did '
'before.
An inactive, suspended or expired key can be rotated and stays in that state.
Errors: P0002 unknown key; 22023 negative grace, both lifetime and expires_at, or an expiry that the plan does not allow; '
'53400 an expired key gets another expiry and the plan allows no more keys, or 23505 another key has its product; 55000 it is archived, '
'and the new expiry would make it valid.';

CREATE FUNCTION apikeys.end_grace(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    UPDATE apikeys.key AS k SET previous_digest = NULL, previous_hash_rule = NULL, previous_valid_until = NULL
    WHERE k.key_id = end_grace.key_id AND k.previous_digest IS NOT NULL;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.end_grace(bigint) IS
'End the grace of the last rotation of a key: its former text is invalid from the next request on. Does nothing if there is '
'no grace. usage_total.previous_last_used_at and the column previous of view log tell whether the former text is still used. '
'Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.copy_key(key_id bigint, alias text DEFAULT NULL, lifetime interval DEFAULT NULL) RETURNS apikeys.issued_key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source   apikeys.key;
    owner    apikeys.account;
    rules    apikeys.plan;
    stem     text;
    drawn    record;
    made     apikeys.key;
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    SELECT k.* INTO STRICT source FROM apikeys.key AS k WHERE k.key_id = copy_key.key_id FOR SHARE;
    IF source.suspended_at IS NOT NULL AND NOT apikeys_internal.acts_as_admin() THEN
        PERFORM apikeys_internal.refuse('42501', 'key.key_id', format('key %s is suspended', source.key_id), NULL,
                                        'Only members of apikeys_admin may copy it.');
    ELSIF lifetime IS NULL AND source.expires_at <= apikeys_internal.wall_clock() THEN
        PERFORM apikeys_internal.refuse('22023', 'key.lifetime', format('key %s has expired', source.key_id), NULL, 'Give its copy a lifetime.');
    END IF;
    owner := apikeys_internal.lock_account(source.account_id);
    SELECT p.* INTO STRICT rules FROM apikeys.plan AS p WHERE p.name = owner.plan;
    stem := apikeys_internal.prefix_for(source.prefix, rules);
    SELECT d.* INTO drawn FROM apikeys_internal.draw_key(stem, owner.name) AS d;
    made := apikeys_internal.add_key(
        owner, rules, drawn.digest, 'sha256', stem, drawn.hint, alias, source.category, source.tier, source.limits, lifetime,
        CASE WHEN lifetime IS NULL THEN coalesce(source.expires_at, 'infinity') END, apikeys_internal.products_of(source.key_id),
        source.allowed_domains, source.allowed_ips, source.scopes, source.billing_type, source.metadata, source.owner_limits);
    IF made.tier IS DISTINCT FROM source.tier THEN    -- a key without tier and limits, under a plan with a default tier
        UPDATE apikeys.key AS k SET tier = source.tier WHERE k.key_id = made.key_id;
    END IF;
    RETURN ROW(made.key_id, drawn.key, owner.name, made.alias, made.expires_at)::apikeys.issued_key;
END
$$;
COMMENT ON FUNCTION apikeys.copy_key(bigint, text, interval) IS
'Make another key like one of the account''s, and return its text, which is shown at no other time: in the place of a rotation, if '
'both shall be good until the old one is deactivated. It has the category, tier, limits (the owner''s too), products, domains, addresses, scopes, '
'billing type, metadata and prefix of the other, and unused limits. The alias is key-<n> if none is given. With a lifetime, it '
'expires that long from now, otherwise when the other does. It is active, whether the other is or not. Only members of '
'apikeys_admin may copy a suspended key.
Errors: P0002 unknown key; 22023 a bad alias, an expiry that is past, or what the plan does not allow; 23505 the alias is taken, or '
'the plan allows one key for each product; 53400 the plan allows no more keys; 42501 it is suspended; 40001 try again.';
