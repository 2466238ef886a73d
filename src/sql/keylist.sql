-- Keys as their managers see them: the view key_list, and functions that find a key.

CREATE FUNCTION apikeys_internal.key_state(active boolean, suspended boolean, expires_at timestamptz) RETURNS text
LANGUAGE C VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_key_state';
COMMENT ON FUNCTION apikeys_internal.key_state(boolean, boolean, timestamptz) IS
'The state of a key in one word: suspended, inactive, expired, expiring (within apikeys.expiry_notice) or active.';

-- STABLE, though its result changes all the time, so that the planner leaves it out of queries that do not select it. PARALLEL UNSAFE,
-- because a meter is loaded with a new snapshot.
CREATE FUNCTION apikeys_internal.key_used(key_id bigint, limits apikeys.limits) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp COST 1000
AS $$
BEGIN
    IF limits::text = '' OR NOT EXISTS (SELECT FROM apikeys.key AS k WHERE k.key_id = key_used.key_id AND apikeys_internal.reaches(k.account_id, false)) THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT string_agg(concat(u.used, '/', u.cap, ' ', u.limit_window), ', ' ORDER BY u.place)
            FROM apikeys_internal.limit_status('k', key_used.key_id, key_used.limits) WITH ORDINALITY AS u (limit_window, cap, used, remaining, next_free_at, place));
END
$$;
COMMENT ON FUNCTION apikeys_internal.key_used(bigint, apikeys.limits) IS
'The status of the limits given, for a key, in one line; NULL without limits. Part of the view key_list.';

CREATE VIEW apikeys.key_list WITH (security_barrier) AS
SELECT k.key_id, a.name AS account, k.alias, k.category, k.hint,
       apikeys_internal.key_state(k.active AND a.active, k.suspended_at IS NOT NULL, k.expires_at) AS state,
       k.tier, coalesce(k.limits, t.limits, '') AS limits,
       ARRAY(SELECT kp.product FROM apikeys.key_product AS kp WHERE kp.key_id = k.key_id ORDER BY kp.product) AS products,
       k.created_at, k.rotated_at, k.expires_at, u.last_used_at, apikeys_internal.key_used(k.key_id, coalesce(k.limits, t.limits, '')) AS used
FROM apikeys.key AS k
JOIN apikeys.account AS a ON a.account_id = k.account_id
LEFT JOIN apikeys.tier AS t ON t.name = k.tier
LEFT JOIN apikeys.usage_total AS u ON u.subject = 'k' AND u.subject_id = k.key_id
WHERE (SELECT apikeys_internal.reaches_all(false)) OR k.account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]);
COMMENT ON VIEW apikeys.key_list IS 'All keys that the session may read, without their digests.';
COMMENT ON COLUMN apikeys.key_list.state IS
'active, expiring (within apikeys.expiry_notice), expired, inactive (the key or its account) or suspended.';
COMMENT ON COLUMN apikeys.key_list.limits IS 'The limits in effect: the key''s own, or else its tier''s; empty: none.';
COMMENT ON COLUMN apikeys.key_list.products IS 'The products that the key is assigned to; empty: it is good for all.';
COMMENT ON COLUMN apikeys.key_list.last_used_at IS 'Time of the last request, admitted or denied; NULL: never used.';
COMMENT ON COLUMN apikeys.key_list.used IS
'For each limit in effect: units used in the trailing window / cap (with granted units), and the window, e.g. '
'5/1000 day, 70/20000 month; NULL: no limits. It is slow: leave it out if you do not need it. NULL in the rows that '
'functions return, which depend on the key alone.';

CREATE FUNCTION apikeys.get_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list;
BEGIN
    PERFORM apikeys_internal.require_reach();
    SELECT l.key_id, l.account, l.alias, l.category, l.hint, l.state, l.tier, l.limits, l.products, l.created_at, l.rotated_at, l.expires_at,
           l.last_used_at, NULL
    INTO listed FROM apikeys.key_list AS l WHERE l.key_id = get_key.key_id;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'key.key_id', format('key %s does not exist', coalesce(key_id::text, 'NULL')));
    END IF;
    RETURN listed;
END
$$;
COMMENT ON FUNCTION apikeys.get_key(bigint) IS
'The key''s row of the view key_list, without used. Errors: P0002 unknown key.';

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
