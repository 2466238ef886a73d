-- Keys as their managers see them: the view key_list, and functions that list and find keys.

CREATE FUNCTION apikeys_internal.key_state(
    archived boolean, suspended boolean, active boolean, account_active boolean, lifetime_from timestamptz, expires_at timestamptz) RETURNS text
LANGUAGE C VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_key_state';
COMMENT ON FUNCTION apikeys_internal.key_state(boolean, boolean, boolean, boolean, timestamptz, timestamptz) IS
'The state of a key in one word, as in column key_list.state.';

-- STABLE, though its result changes all the time, so that the planner leaves it out of queries that do not select it. PARALLEL UNSAFE,
-- because it takes a new snapshot.
CREATE FUNCTION apikeys_internal.limits_used(key_id bigint) RETURNS jsonb
LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 1000 AS 'MODULE_PATHNAME', 'apikeys_limits_used';
COMMENT ON FUNCTION apikeys_internal.limits_used(bigint) IS
'The status of the limits of a key and of its account, as in column key_list.limits_used; NULL: no key that the transaction may read. '
'Errors: 55P03 tables were locked by others for longer than apikeys.queue_timeout.';

CREATE VIEW apikeys.key_list WITH (security_barrier) AS
SELECT k.key_id, a.name AS account, k.alias, k.category, k.hint,
       apikeys_internal.key_state(k.archived_at IS NOT NULL, k.suspended_at IS NOT NULL, k.active, a.active,
                                  coalesce(k.expiry_set_at, k.created_at), k.expires_at) AS state,
       k.tier, coalesce(k.limits, t.limits, '') AS limits, k.limits IS NOT NULL AS limits_are_own,
       ARRAY(SELECT kp.product FROM apikeys.key_product AS kp WHERE kp.key_id = k.key_id ORDER BY kp.product) AS products,
       k.allowed_domains, k.allowed_ips, k.scopes, k.billing_type, k.metadata, k.owner_limits,
       k.created_at, k.created_by, k.rotated_at, k.rotations, k.previous_valid_until, k.expires_at, u.last_used_at,
       k.suspended_reason, a.active AS account_active, k.archived_at, apikeys_internal.limits_used(k.key_id) AS limits_used
FROM apikeys.key AS k
JOIN apikeys.account AS a ON a.account_id = k.account_id
LEFT JOIN apikeys.tier AS t ON t.name = k.tier
LEFT JOIN apikeys.usage_total AS u ON u.subject = 'k' AND u.subject_id = k.key_id
WHERE (SELECT apikeys_internal.reaches_all(false)) OR k.account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]);
COMMENT ON VIEW apikeys.key_list IS 'All keys that the session may read, archived ones too, without their digests.';
COMMENT ON COLUMN apikeys.key_list.state IS
'The first of these that holds: archived; suspended (by the provider); inactive (the key); account_inactive; expired; expiring (within '
'apikeys.expiry_notice, and in the last quarter of its lifetime); active.';
COMMENT ON COLUMN apikeys.key_list.limits IS 'The provider''s limits: the key''s own, or else its tier''s; empty: none.';
COMMENT ON COLUMN apikeys.key_list.limits_are_own IS 'Whether the key has limits of its own, in the place of its tier''s.';
COMMENT ON COLUMN apikeys.key_list.owner_limits IS
'What the owner sets below them: of each window the smaller cap decides; NULL: nothing.';
COMMENT ON COLUMN apikeys.key_list.products IS 'The products that the key is assigned to; empty: it is good for all.';
COMMENT ON COLUMN apikeys.key_list.last_used_at IS 'Time of the last request, admitted or denied; NULL: never used.';
COMMENT ON COLUMN apikeys.key_list.account_active IS 'Whether the account is active: otherwise its keys are refused.';
COMMENT ON COLUMN apikeys.key_list.limits_used IS
'How the limits stand now: an array of objects, those of the account before those of the key. Members: subject (key or account: whose '
'limit it is), window, cap (which decides: with the granted units, and no more than owner_cap), granted (units on top of the '
'provider''s cap), owner_cap (the owner''s; null: none), used (units), remaining (units), free_at (when some '
'come back; null: none are used, or never). []: no limits; NULL: not computed. It is slow: leave it out if you do not need it. NULL in '
'the row of a key that a function returns; the lists account_keys and find_keys have it.';

-- A part of each query about these rows: the planner puts it into the query.
CREATE FUNCTION apikeys_internal.listed_keys(key_ids bigint[]) RETURNS SETOF apikeys.key_list
LANGUAGE sql STABLE PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT l.key_id, l.account, l.alias, l.category, l.hint, l.state, l.tier, l.limits, l.limits_are_own, l.products, l.allowed_domains,
           l.allowed_ips, l.scopes, l.billing_type, l.metadata, l.owner_limits, l.created_at, l.created_by, l.rotated_at, l.rotations, l.previous_valid_until,
           l.expires_at, l.last_used_at, l.suspended_reason, l.account_active, l.archived_at, NULL::jsonb
    FROM unnest(key_ids) WITH ORDINALITY AS i (key_id, place) JOIN apikeys.key_list AS l ON l.key_id = i.key_id
    WHERE l.key_id = ANY (key_ids)      -- a condition that passes the security barrier: the join does not
    ORDER BY i.place;
END;
COMMENT ON FUNCTION apikeys_internal.listed_keys(bigint[]) IS
'The rows of the view key_list for these keys, in their order, without limits_used.';

CREATE FUNCTION apikeys_internal.listed_keys_with_limits(key_ids bigint[]) RETURNS SETOF apikeys.key_list
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item   record;
    listed apikeys.key_list;
BEGIN
    FOR item IN
        SELECT l AS key, apikeys_internal.limits_used(l.key_id) AS limits_used FROM apikeys_internal.listed_keys(key_ids) AS l
    LOOP
        listed := item.key;
        listed.limits_used := item.limits_used;
        RETURN NEXT listed;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.listed_keys_with_limits(bigint[]) IS
'The rows of the view key_list for these keys, in their order.';

CREATE FUNCTION apikeys.get_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list;
BEGIN
    PERFORM apikeys_internal.require_reach();
    SELECT l.* INTO listed FROM apikeys_internal.listed_keys(ARRAY[get_key.key_id]) AS l;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'key.key_id', format('key %s does not exist', coalesce(key_id::text, 'NULL')));
    END IF;
    RETURN listed;
END
$$;
COMMENT ON FUNCTION apikeys.get_key(bigint) IS
'The key''s row of the view key_list, without limits_used. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.account_keys(account text, archived boolean = false) RETURNS SETOF apikeys.key_list
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, false);
BEGIN
    RETURN QUERY
        SELECT l.*
        FROM apikeys_internal.listed_keys_with_limits(
            ARRAY(SELECT k.key_id FROM apikeys.key AS k
                  WHERE k.account_id = owner.account_id AND (account_keys.archived OR k.archived_at IS NULL) ORDER BY k.key_id)) AS l;
END
$$;
COMMENT ON FUNCTION apikeys.account_keys(text, boolean) IS
'The keys of an account as rows of the view key_list, with limits_used, in the order in which they were made; archived ones too if '
'archived is true. Errors: P0002 unknown account; 55P03 tables were locked by others for longer than apikeys.queue_timeout.';

CREATE FUNCTION apikeys_internal.key_to_change(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list := apikeys.get_key(key_id);
BEGIN
    PERFORM apikeys_internal.require_change((SELECT k.account_id FROM apikeys.key AS k WHERE k.key_id = listed.key_id));
    RETURN listed;
END
$$;
COMMENT ON FUNCTION apikeys_internal.key_to_change(bigint) IS
'Like get_key, for a function that changes the key. Errors: P0002 unknown key; 42501 one that the session may not change.';

CREATE FUNCTION apikeys.find_key(account text, alias text) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, false);
    found_id bigint := (SELECT k.key_id FROM apikeys.key AS k WHERE k.account_id = owner.account_id AND k.alias = find_key.alias AND k.archived_at IS NULL);
BEGIN
    IF found_id IS NULL THEN
        PERFORM apikeys_internal.refuse('P0002', 'key.alias', format('account "%s" has no key with the alias %s', account, apikeys_internal.quoted(alias)));
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION apikeys.find_key(text, text) IS
'The id of the unarchived key with that alias. Errors: P0002 unknown account or alias.';
