-- Finding keys by a filter, a page at a time.
--
-- A page is found in two steps: first the ids, by a query that is made of the conditions that the filter has, and no others, so that
-- the planner finds the index for them; then what is shown of these keys. The next page begins after the last key of the one before, by
-- the order asked for and, among keys that are equal in it, by the id.

CREATE FUNCTION apikeys_internal.key_filter(filter jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong text;
BEGIN
    filter := apikeys_internal.checked_filter('key', filter, '{
        "account": "text", "alias": "text", "alias_part": "text", "archived": "boolean", "category": "text", "hint": "text",
        "id": "bigint", "product": "text", "sort": "text", "state": "text[]", "tier": "text"}');
    SELECT s.state INTO wrong FROM jsonb_array_elements_text(filter -> 'state') AS s (state)
    WHERE s.state <> ALL ('{active,expiring,expired,inactive,account_inactive,suspended,archived}') LIMIT 1;
    IF FOUND THEN
        PERFORM apikeys_internal.refuse('22023', 'key.state', format('no key is in state "%s"', left(wrong, 63)), NULL,
                                        'States: active, expiring, expired, inactive, account_inactive, suspended, archived.');
    ELSIF filter ->> 'sort' NOT IN ('newest', 'alias', 'expires_at') THEN
        PERFORM apikeys_internal.refuse('22023', 'key.sort', format('keys cannot be sorted by "%s"', left(filter ->> 'sort', 63)), NULL,
                                        'Sort them by newest, alias or expires_at.');
    ELSIF filter ? 'alias_part' AND NOT filter ? 'account' THEN
        PERFORM apikeys_internal.refuse('22023', 'key.alias_part', 'a part of an alias can be looked for within one account', NULL,
                                        'Name an account, or the start of the alias.');
    END IF;
    RETURN filter;
END
$$;
COMMENT ON FUNCTION apikeys_internal.key_filter(jsonb) IS
'The filter of find_keys, checked: without nulls, state an array. Errors: 22023.';

-- In the conditions, $1 is the filter, $2 its accounts, $3 its states, $4 the present time.
CREATE FUNCTION apikeys_internal.key_conditions(filter jsonb, everywhere boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state text := CASE jsonb_array_length(filter -> 'state') WHEN 1 THEN filter -> 'state' ->> 0 END;
BEGIN
    RETURN (
        SELECT coalesce(string_agg(c.condition, ' AND ') FILTER (WHERE c.asked), 'true')
        FROM (VALUES
            (NOT everywhere, 'k.account_id = ANY ($2)'),
            (filter ? 'id', $c$k.key_id = ($1 ->> 'id')::bigint$c$),
            (filter ? 'alias', $c$lower(k.alias) COLLATE "C" ^@ lower($1 ->> 'alias')$c$),
            (filter ? 'alias_part', $c$strpos(lower(k.alias), lower($1 ->> 'alias_part')) > 0$c$),
            (filter ? 'hint', $c$reverse(k.hint) COLLATE "C" ^@ reverse($1 ->> 'hint')$c$),
            (filter ? 'category', $c$k.category = $1 ->> 'category'$c$),
            (filter ? 'tier', $c$k.tier = $1 ->> 'tier'$c$),
            (filter ? 'product',
             $c$EXISTS (SELECT FROM apikeys.key_product AS p WHERE p.key_id = k.key_id AND p.product = $1 ->> 'product')$c$),
            (NOT (coalesce((filter ->> 'archived')::boolean, false) OR coalesce(filter -> 'state' ? 'archived', false)), 'k.archived_at IS NULL'),
            -- What an index can find; key_state decides.
            (state = 'archived', 'k.archived_at IS NOT NULL'),
            (state = 'suspended', 'k.suspended_at IS NOT NULL'),
            (state = 'expiring', $c$k.expires_at > $4 AND k.expires_at <= $4 + current_setting('apikeys.expiry_notice')::interval$c$),
            (filter ? 'state', $c$apikeys_internal.key_state(
                                   k.archived_at IS NOT NULL, k.suspended_at IS NOT NULL, k.active,
                                   (SELECT a.active FROM apikeys.account AS a WHERE a.account_id = k.account_id),
                                   coalesce(k.expiry_set_at, k.created_at), k.expires_at) = ANY ($3)$c$)
        ) AS c (asked, condition));
END
$$;
COMMENT ON FUNCTION apikeys_internal.key_conditions(jsonb, boolean) IS
'What find_keys asks of a row k of table key; everywhere: in all accounts.';

-- $5 is the last key of the page before; what it is sorted by is $6 or, if it is its alias, $7. (In plpgsql, because an expression of the
-- catalog that takes a row of the table apart would forbid to alter the table.)
CREATE FUNCTION apikeys_internal.key_orders(sort text, former apikeys.key) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    begins boolean := former.key_id IS NULL;
    ends   text;
BEGIN
    IF sort = 'newest' THEN
        RETURN ARRAY[CASE WHEN begins THEN '' ELSE 'AND (k.created_at, k.key_id) < ($6, $5)' END || ' ORDER BY k.created_at DESC, k.key_id DESC'];
    ELSIF sort = 'alias' THEN
        RETURN ARRAY[CASE WHEN begins THEN '' ELSE 'AND (lower(k.alias) COLLATE "C", k.key_id) > ($7, $5)' END
                     || ' ORDER BY lower(k.alias) COLLATE "C", k.key_id'];
    END IF;
    ends := 'AND k.expires_at IS NULL' || CASE WHEN begins OR former.expires_at IS NOT NULL THEN '' ELSE ' AND k.key_id > $5' END || ' ORDER BY k.key_id';
    IF NOT begins AND former.expires_at IS NULL THEN
        RETURN ARRAY[ends];
    END IF;
    RETURN ARRAY['AND k.expires_at IS NOT NULL' || CASE WHEN begins THEN '' ELSE ' AND (k.expires_at, k.key_id) > ($6, $5)' END
                 || ' ORDER BY k.expires_at, k.key_id', ends];
END
$$;
COMMENT ON FUNCTION apikeys_internal.key_orders(text, apikeys.key) IS
'How find_keys sorts, and goes on after a key (NULL: begins): conditions and orders of queries, one after the other. Those that never '
'expire come after all that do.';

CREATE FUNCTION apikeys_internal.reached_key(key_id bigint) RETURNS apikeys.key
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reached apikeys.key;
BEGIN
    SELECT k.* INTO reached FROM apikeys.key AS k WHERE k.key_id = reached_key.key_id AND apikeys_internal.reaches(k.account_id, false);
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'key.key_id', format('key %s does not exist', key_id));
    END IF;
    RETURN reached;
END
$$;
COMMENT ON FUNCTION apikeys_internal.reached_key(bigint) IS 'A key within reach. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.find_keys(filter jsonb = '{}', after bigint = NULL, rows int = 50) RETURNS SETOF apikeys.key_list
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    everywhere boolean := apikeys_internal.reaches_all(false);
    accounts   bigint[] := apikeys_internal.reached_accounts(false);
    sort       text;
    former     apikeys.key;
    conditions text;
    ordered    text;
    found_ids  bigint[];
    key_ids    bigint[] := '{}';
BEGIN
    PERFORM apikeys_internal.require_reach();
    filter := apikeys_internal.key_filter(filter);
    sort := coalesce(filter ->> 'sort', CASE WHEN filter -> 'state' = '["expiring"]' THEN 'expires_at' ELSE 'newest' END);
    IF rows IS NULL OR rows NOT BETWEEN 1 AND 1000 THEN
        PERFORM apikeys_internal.refuse('22023', 'rows', 'a page has 1 to 1000 rows');
    END IF;
    IF filter ? 'account' THEN
        accounts := ARRAY[(apikeys_internal.get_account(filter ->> 'account', false)).account_id];
        everywhere := false;
    END IF;
    PERFORM apikeys_internal.require_names(filter ->> 'tier', CASE WHEN filter ? 'product' THEN ARRAY[filter ->> 'product'] END);
    IF filter ? 'id' THEN
        PERFORM apikeys_internal.reached_key((filter ->> 'id')::bigint);
    END IF;
    IF after IS NOT NULL THEN
        former := apikeys_internal.reached_key(after);
    END IF;

    conditions := apikeys_internal.key_conditions(filter, everywhere);
    FOREACH ordered IN ARRAY apikeys_internal.key_orders(sort, former) LOOP
        EXECUTE format('SELECT ARRAY(SELECT k.key_id FROM apikeys.key AS k WHERE %s %s LIMIT $8)', conditions, ordered)
        INTO found_ids
        USING filter, accounts, ARRAY(SELECT jsonb_array_elements_text(filter -> 'state')), apikeys_internal.wall_clock(), after,
              CASE sort WHEN 'newest' THEN former.created_at ELSE former.expires_at END, lower(former.alias), rows - cardinality(key_ids);
        key_ids := key_ids || found_ids;
        EXIT WHEN cardinality(key_ids) = rows;
    END LOOP;
    RETURN QUERY SELECT l.* FROM apikeys_internal.listed_keys_with_limits(key_ids) AS l;
END
$$;
COMMENT ON FUNCTION apikeys.find_keys(jsonb, bigint, int) IS
'A page of the keys that a filter finds among those within reach, as rows of the view key_list with limits_used. Members of the filter, '
'all of which must hold: account; alias (how it begins, upper and lower case alike); alias_part (within one account); id; hint (how it '
'ends: its last 4 characters); state, or an array of states; category; tier; product (assigned to it); archived (true: '
'archived keys too; state archived asks for them as well); sort: newest (the default), alias (without case, in the order of code points) '
'or expires_at (the next first, those that never expire last; the default for state expiring). What is null is as if it were absent.
after is the last key of the page before; rows: how many a page has, 1 to 1000.
Errors: P0002 unknown account, id, tier, product or key after; 22023 an unknown member, a bad value or number of rows; 55P03 tables were '
'locked by others for longer than apikeys.queue_timeout.';
