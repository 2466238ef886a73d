-- Keys that other systems have issued: import_keys, many at a time, and import_key.
--
-- import_rows has all that is judged. Each row is judged by itself, in statements for all rows; then those that are left one after
-- the other, because what one takes (a text, an alias, a product, the last place that the plan has) the next cannot have; then all
-- that passed are stored by one statement. There is no subtransaction for a row: so nothing may raise because of one. What a row has
-- is checked by the same functions as a key that is created, and the errors are the same.
--
-- Accounts are locked in the order of their ids, before their keys are looked at.
--
-- A key that was used before has its units in usage_total, and in one bucket of 1970, before all windows: they count for the limit
-- per total, and in no other. They are written with the key, and only with it: there is no meter yet that could disagree, because
-- nobody sees the key before the commit. The usage of its account stays as it is, because that has a meter.

CREATE TYPE apikeys_internal.import_row AS (
    n int, account text, digest apikeys.digest, hash_rule text, prefix text, hint text, alias text, category text, tier text,
    limits apikeys.limits, owner_limits apikeys.limits, lifetime interval, expires_at timestamptz, products text[], allowed_domains text[], allowed_ips cidr[],
    scopes text[], billing_type text, metadata jsonb, active boolean, created_at timestamptz, used_total bigint,
    sqlstate text, field text, message text, detail text, advice text, broken text);
COMMENT ON TYPE apikeys_internal.import_row IS
'A row of import_keys; what is NULL was not given. If sqlstate is not NULL, what is wrong with it, and nothing else; broken is the '
'constraint, or the rule of the plan.';

CREATE TYPE apikeys_internal.fault AS (sqlstate text, field text, message text, detail text, hint text, broken text);
COMMENT ON TYPE apikeys_internal.fault IS 'Why a row cannot be imported.';

CREATE FUNCTION apikeys_internal.read_import(rows jsonb, present timestamptz) RETURNS SETOF apikeys_internal.import_row
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'apikeys_import_read';
COMMENT ON FUNCTION apikeys_internal.read_import(jsonb, timestamptz) IS
'The rows of import_keys, read and checked as far as that needs no table. Errors: 22023 not an array, or more than 10,000 rows.';

CREATE FUNCTION apikeys_internal.import_aliases(batch apikeys_internal.import_row[], fine boolean[], OUT n int, OUT alias text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nameless record;
BEGIN
    FOR nameless IN
        SELECT a.account_id, array_agg(b.n ORDER BY b.n) FILTER (WHERE b.alias IS NULL) AS places,
               array_agg(b.alias) FILTER (WHERE b.alias IS NOT NULL) AS others
        FROM unnest(batch) AS b JOIN apikeys.account AS a ON a.name = b.account
        WHERE fine[b.n]
        GROUP BY a.account_id HAVING bool_or(b.alias IS NULL)
    LOOP
        IF cardinality(nameless.places) = 1 AND nameless.others IS NULL THEN
            n := nameless.places[1];
            alias := apikeys_internal.free_alias(nameless.account_id);
            RETURN NEXT;
        ELSE
            RETURN QUERY
            SELECT nameless.places[row_number() OVER (ORDER BY f.number)], 'key-' || f.number
            FROM (SELECT s.number
                  FROM (SELECT generate_series(substr(apikeys_internal.free_alias(nameless.account_id), 5)::bigint, 1000000000000)) AS s (number)
                  WHERE NOT EXISTS (SELECT FROM apikeys.key AS k
                                    WHERE k.account_id = nameless.account_id AND k.alias = 'key-' || s.number AND k.archived_at IS NULL)
                    AND NOT EXISTS (SELECT FROM unnest(nameless.others) AS o (alias) WHERE o.alias = 'key-' || s.number)
                  LIMIT cardinality(nameless.places)) AS f;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.import_aliases(apikeys_internal.import_row[], boolean[]) IS
'Aliases for the rows of locked accounts that have none: key-<n>, which no unarchived key and no other row of the account has.';

CREATE FUNCTION apikeys_internal.import_lifetime(candidate apikeys_internal.import_row, rules apikeys.plan) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN candidate.expires_at IS NULL THEN coalesce(candidate.lifetime, rules.default_lifetime) ELSE candidate.lifetime END;
$$;
COMMENT ON FUNCTION apikeys_internal.import_lifetime(apikeys_internal.import_row, apikeys.plan) IS
'The lifetime of a row of import_keys: the one given or, if it has no expiry, the default of its plan.';

CREATE FUNCTION apikeys_internal.import_faults(batch apikeys_internal.import_row[], present timestamptz)
RETURNS TABLE (n int, sqlstate text, field text, message text, detail text, hint text, broken text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT b.n, 'P0002', w.field, format('%s %s does not exist', w.kind, apikeys_internal.quoted(w.name)), NULL, NULL, NULL
    FROM unnest(batch) AS b, LATERAL (
        SELECT 'tier', 'tier', b.tier WHERE NOT EXISTS (SELECT FROM apikeys.tier AS t WHERE t.name = b.tier)
        UNION ALL
        SELECT 'products', 'product', p.name FROM unnest(b.products) AS p (name)
        WHERE NOT EXISTS (SELECT FROM apikeys.product AS t WHERE t.name = p.name)) AS w (field, kind, name)
    WHERE b.sqlstate IS NULL AND w.name IS NOT NULL;

    RETURN QUERY
    SELECT b.n, '22023', f.field, f.message, NULL, f.hint, f.broken
    FROM unnest(batch) AS b JOIN apikeys.account AS a ON a.name = b.account JOIN apikeys.plan AS p ON p.name = a.plan,
         LATERAL apikeys_internal.import_lifetime(b, p) AS l (lifetime),
         LATERAL apikeys_internal.expiry_fault(l.lifetime, b.expires_at, p, present) AS f
    WHERE b.sqlstate IS NULL AND num_nonnulls(l.lifetime, b.expires_at) > 0 AND f.message IS NOT NULL;

    -- Rules that judge a key by itself. Here the id of a key is the number of its row.
    RETURN QUERY
    SELECT r.key_id::int, r.errcode, split_part(r.about, '.', 2), r.message, r.detail, r.hint, r.rule
    FROM (SELECT p AS rules, array_agg(jsonb_populate_record(NULL::apikeys.key, jsonb_build_object(
              'key_id', b.n, 'alias', b.alias, 'limits', b.limits, 'billing_type', b.billing_type,
              'expires_at', apikeys_internal.expiry_of(l.lifetime, b.expires_at, present)))) AS candidates
          FROM unnest(batch) AS b JOIN apikeys.account AS a ON a.name = b.account JOIN apikeys.plan AS p ON p.name = a.plan,
               LATERAL apikeys_internal.import_lifetime(b, p) AS l (lifetime)
          WHERE b.sqlstate IS NULL AND apikeys_internal.plan_has_rules(p) AND isfinite(l.lifetime) IS NOT FALSE
          GROUP BY p.name) AS g,
         LATERAL apikeys_internal.plan_breaches(g.candidates, g.rules, '{allow_unexpiring,max_lifetime,custom_limits_allowed,billing_types}') AS r;

    RETURN QUERY
    SELECT b.n, '22023', 'owner_limits', 'the limits of provider and owner have more than 8 windows together', NULL, NULL, NULL
    FROM unnest(batch) AS b JOIN apikeys.account AS a ON a.name = b.account JOIN apikeys.plan AS p ON p.name = a.plan
    LEFT JOIN apikeys.tier AS t ON t.name = apikeys_internal.tier_of_new_key(b.tier, b.limits, p)
    WHERE b.sqlstate IS NULL AND b.owner_limits IS NOT NULL AND apikeys_internal.lower_limits(coalesce(b.limits, t.limits, ''), b.owner_limits) IS NULL;

    -- What who acts may not give.
    RETURN QUERY
    SELECT b.n, f.errcode, 'scopes', f.message, f.detail, f.hint, NULL
    FROM unnest(batch) AS b JOIN apikeys.account AS a ON a.name = b.account,
         LATERAL apikeys_internal.reserved_scope_fault(b.scopes, '{}', a.account_id) AS f
    WHERE b.sqlstate IS NULL AND b.scopes <> '{}' AND f.errcode IS NOT NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.import_faults(apikeys_internal.import_row[], timestamptz) IS
'What is wrong with rows of import_keys by themselves; a row may be there several times.';

-- Judges rows one after the other. Products are numbered, so that arrays tell who has which.
CREATE FUNCTION apikeys_internal.import_in_turn(
    batch apikeys_internal.import_row[], owners apikeys.account[], aliases text[], fine boolean[], present timestamptz)
RETURNS TABLE (n int, repeats int, sqlstate text, field text, message text, detail text, hint text, broken text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    limited  bigint[] := ARRAY(SELECT o.account_id FROM unnest(owners) AS o JOIN apikeys.plan AS p ON p.name = o.plan WHERE p.max_keys IS NOT NULL);
    divided  bigint[] := ARRAY(SELECT o.account_id FROM unnest(owners) AS o JOIN apikeys.plan AS p ON p.name = o.plan WHERE p.one_key_per_product);
    number   bigint[];      -- keys that count, by account
    holder   text[];        -- alias of the key that has a product, by account and product
    named    text[];        -- the products, likewise
    by_text  int[] := array_fill(NULL::int, ARRAY[cardinality(batch)]);     -- the row that has a digest
    by_alias int[] := by_text;
    candidate record;
    rules    apikeys.plan;
    verdict  record;
    taken    int;
BEGIN
    IF limited <> '{}' THEN
        number := ARRAY(
            SELECT (SELECT count(*) FROM apikeys.key AS k
                    WHERE o.account_id = ANY (limited) AND k.account_id = o.account_id
                      AND apikeys_internal.key_counts(k.active, k.expires_at, present))
            FROM unnest(owners) WITH ORDINALITY AS o ORDER BY o.ordinality);
    END IF;
    IF divided <> '{}' THEN
        WITH pair AS (
            SELECT DISTINCT o.account_id, b.account, p.name
            FROM unnest(batch) AS b JOIN unnest(owners) AS o ON o.name = b.account, unnest(b.products) AS p (name)
            WHERE o.account_id = ANY (divided)
        ), held AS MATERIALIZED (
            -- By the keys of the accounts, as in plan_breaches.
            SELECT k.account_id, kp.product, min(k.alias) AS alias
            FROM apikeys.key AS k, LATERAL (SELECT p.product FROM apikeys.key_product AS p WHERE p.key_id = k.key_id OFFSET 0) AS kp
            WHERE k.account_id = ANY (divided) AND apikeys_internal.key_counts(k.active, k.expires_at, present)
            GROUP BY k.account_id, kp.product
        )
        SELECT array_agg(h.alias ORDER BY p.account COLLATE "C", p.name COLLATE "C"), array_agg(p.name ORDER BY p.account COLLATE "C", p.name COLLATE "C")
        INTO holder, named
        FROM pair AS p LEFT JOIN held AS h ON h.account_id = p.account_id AND h.product = p.name;
    END IF;

    FOR candidate IN
        SELECT b.n, b.account, l.alias, coalesce(b.active, true) AS counts, o.ordinality AS owner, o.plan, p.max_keys, p.one_key_per_product AS is_divided,
               dense_rank() OVER (ORDER BY b.digest)::int AS text_number, dense_rank() OVER (ORDER BY o.account_id, l.alias COLLATE "C")::int AS alias_number,
               r.numbers
        FROM unnest(batch) AS b JOIN unnest(owners) WITH ORDINALITY AS o ON o.name = b.account JOIN apikeys.plan AS p ON p.name = o.plan
        JOIN unnest(aliases) WITH ORDINALITY AS l (alias, n) ON l.n = b.n
        LEFT JOIN (SELECT d.n, array_agg(d.number) AS numbers
                   FROM (SELECT b.n, dense_rank() OVER (ORDER BY b.account COLLATE "C", p.name COLLATE "C")::int AS number
                         FROM unnest(batch) AS b JOIN unnest(owners) AS o ON o.name = b.account, unnest(b.products) AS p (name)
                         WHERE o.account_id = ANY (divided)) AS d
                   GROUP BY d.n) AS r ON r.n = b.n
        WHERE fine[b.n]
        ORDER BY b.n
    LOOP
        n := candidate.n;
        repeats := by_text[candidate.text_number];
        taken := NULL;
        IF repeats IS NOT NULL THEN
            IF batch[repeats].account = candidate.account THEN
                sqlstate := NULL;
            ELSE
                repeats := NULL;
                SELECT '23505', 'text', 'this key exists already', NULL, NULL, 'key_digest_key' INTO sqlstate, field, message, detail, hint, broken;
            END IF;
            RETURN NEXT;
            CONTINUE;
        ELSIF by_alias[candidate.alias_number] IS NOT NULL THEN
            SELECT '23505', 'alias', f.message, NULL, NULL, 'key_account_id_alias_key' INTO sqlstate, field, message, detail, hint, broken
            FROM apikeys_internal.alias_fault(candidate.account, candidate.alias) AS f (message);
            RETURN NEXT;
            CONTINUE;
        ELSIF candidate.counts AND number[candidate.owner] >= candidate.max_keys THEN
            SELECT p.* INTO rules FROM apikeys.plan AS p WHERE p.name = candidate.plan;
            SELECT '53400', 'account', f.message, f.detail, f.hint, 'max_keys' INTO sqlstate, field, message, detail, hint, broken
            FROM apikeys_internal.max_keys_fault(candidate.account, number[candidate.owner], rules) AS f;
            RETURN NEXT;
            CONTINUE;
        ELSIF candidate.counts AND candidate.is_divided THEN
            IF candidate.numbers IS NULL THEN
                SELECT '22023', 'products', f.message, f.detail, f.hint, 'one_key_per_product' INTO sqlstate, field, message, detail, hint, broken
                FROM apikeys_internal.no_product_fault(candidate.alias) AS f;
                RETURN NEXT;
                CONTINUE;
            END IF;
            FOREACH taken IN ARRAY candidate.numbers LOOP
                EXIT WHEN holder[taken] IS NOT NULL;
            END LOOP;
            IF holder[taken] IS NOT NULL THEN
                SELECT '23505', 'products', f.message, f.detail, f.hint, 'one_key_per_product' INTO sqlstate, field, message, detail, hint, broken
                FROM apikeys_internal.product_fault(candidate.account, named[taken], holder[taken]) AS f;
                RETURN NEXT;
                CONTINUE;
            END IF;
            FOREACH taken IN ARRAY candidate.numbers LOOP
                holder[taken] := candidate.alias;
            END LOOP;
        END IF;
        by_text[candidate.text_number] := n;
        by_alias[candidate.alias_number] := n;
        IF candidate.max_keys IS NOT NULL AND candidate.counts THEN
            number[candidate.owner] := number[candidate.owner] + 1;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.import_in_turn(apikeys_internal.import_row[], apikeys.account[], text[], boolean[], timestamptz) IS
'The rows of import_keys that cannot be stored because of rows before them, or because the plan has no more room: what is wrong, or '
'which row has the same key. Of rows that are fine, in their order.';

CREATE FUNCTION apikeys_internal.import_rows(rows jsonb)
RETURNS TABLE (n int, key_id bigint, repeated boolean, sqlstate text, field text, message text, detail text, hint text, broken text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = auto
AS $$
#variable_conflict use_column
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    batch   apikeys_internal.import_row[] := ARRAY(SELECT r FROM apikeys_internal.read_import(coalesce(rows, '{}'), present) AS r);
    fine    boolean[] := array_fill(true, ARRAY[cardinality(batch)]);
    faults  apikeys_internal.fault[] := array_fill(NULL::apikeys_internal.fault, ARRAY[cardinality(batch)]);
    ids     bigint[] := array_fill(0::bigint, ARRAY[cardinality(batch)]);
    repeats boolean[] := array_fill(false, ARRAY[cardinality(batch)]);
    aliases text[];
    owners  apikeys.account[];
    new     apikeys_internal.new_key[];
    made    apikeys.key[];
    found   record;
    -- One plan would not suit one row and ten thousand. What set_config sets ends with the function, because it sets it, too.
    mode    text := CASE WHEN cardinality(batch) > 10 THEN 'force_custom_plan' ELSE 'force_generic_plan' END;
BEGIN
    PERFORM apikeys_internal.require_provider();
    -- Accounts that nothing else is wrong with are made, and all are locked.
    IF apikeys_internal.accounts_are_created() AND apikeys_internal.reaches_all(true) THEN
        PERFORM apikeys_internal.add_account(w.account, 'default', NULL, NULL, NULL, NULL)
        FROM (SELECT b.account FROM unnest(batch) AS b
              WHERE b.sqlstate IS NULL AND NOT EXISTS (SELECT FROM apikeys.account AS a WHERE a.name = b.account)
              GROUP BY b.account ORDER BY min(b.n)) AS w;
    END IF;
    owners := ARRAY(SELECT l FROM (SELECT a.account_id FROM apikeys.account AS a
                                   WHERE a.name IN (SELECT b.account FROM unnest(batch) AS b WHERE b.sqlstate IS NULL)
                                     AND apikeys_internal.reaches(a.account_id, true)
                                   ORDER BY a.account_id) AS o,
                    LATERAL apikeys_internal.lock_account(o.account_id) AS l);

    PERFORM set_config('plan_cache_mode', mode, true);
    -- What is stored already. LIMIT has each row look into the index, whatever is known of the table.
    FOR found IN
        SELECT b.n, k.key_id, k.account_id = o.account_id AS same
        FROM unnest(batch) AS b
        CROSS JOIN LATERAL (
            (SELECT k.key_id, k.account_id FROM apikeys.key AS k WHERE k.digest OPERATOR(apikeys.=) b.digest LIMIT 1)
            UNION ALL
            (SELECT k.key_id, k.account_id FROM apikeys.key AS k WHERE k.previous_digest OPERATOR(apikeys.=) b.digest LIMIT 1)
            LIMIT 1) AS k
        LEFT JOIN unnest(owners) AS o ON o.name = b.account
        WHERE b.sqlstate IS NULL
    LOOP
        fine[found.n] := false;
        IF found.same THEN
            ids[found.n] := found.key_id;
            repeats[found.n] := true;
        ELSE
            faults[found.n] := ROW('23505', 'text', 'this key exists already', NULL, NULL, 'key_digest_key')::apikeys_internal.fault;
        END IF;
    END LOOP;
    -- What is wrong with each row.
    FOR found IN
        SELECT b.n, b.sqlstate, b.field, b.message, b.detail, b.advice AS hint, b.broken FROM unnest(batch) AS b WHERE b.sqlstate IS NOT NULL
        UNION ALL
        SELECT b.n, '42501', 'account', f.message, NULL, f.hint, NULL
        FROM unnest(batch) AS b JOIN apikeys.account AS a ON a.name = b.account, LATERAL apikeys_internal.change_fault(b.account) AS f
        WHERE b.sqlstate IS NULL AND apikeys_internal.reaches(a.account_id, false) AND NOT apikeys_internal.reaches(a.account_id, true)
        UNION ALL
        SELECT b.n, 'P0002', 'account', format('account "%s" does not exist', b.account), NULL, NULL, NULL
        FROM unnest(batch) AS b WHERE b.sqlstate IS NULL AND NOT EXISTS (SELECT FROM unnest(owners) AS o WHERE o.name = b.account)
        UNION ALL
        SELECT * FROM apikeys_internal.import_faults(batch, present)
        UNION ALL
        SELECT b.n, '23505', 'alias', apikeys_internal.alias_fault(b.account, b.alias), NULL, NULL, 'key_account_id_alias_key'
        FROM unnest(batch) AS b JOIN unnest(owners) AS o ON o.name = b.account
        CROSS JOIN LATERAL (SELECT FROM apikeys.key AS k WHERE k.account_id = o.account_id AND k.alias = b.alias AND k.archived_at IS NULL LIMIT 1) AS k
        WHERE b.alias IS NOT NULL
    LOOP
        IF fine[found.n] THEN
            fine[found.n] := false;
            faults[found.n] := ROW(found.sqlstate, found.field, found.message, found.detail, found.hint, found.broken)::apikeys_internal.fault;
        END IF;
    END LOOP;
    aliases := ARRAY(SELECT coalesce(b.alias, f.alias) FROM unnest(batch) AS b LEFT JOIN apikeys_internal.import_aliases(batch, fine) AS f ON f.n = b.n ORDER BY b.n);
    FOR found IN SELECT * FROM apikeys_internal.import_in_turn(batch, owners, aliases, fine, present) LOOP
        fine[found.n] := false;
        IF found.repeats IS NOT NULL THEN
            ids[found.n] := -found.repeats;     -- the row, until it has an id
            repeats[found.n] := true;
        ELSE
            faults[found.n] := ROW(found.sqlstate, found.field, found.message, found.detail, found.hint, found.broken)::apikeys_internal.fault;
        END IF;
    END LOOP;

    FOR found IN SELECT b.n, b.account FROM unnest(batch) AS b WHERE fine[b.n] LOOP
        ids[found.n] := apikeys_internal.next_key_id(found.account);
    END LOOP;
    new := ARRAY(
        SELECT ROW(
            ids[b.n], o.account_id, coalesce(b.created_at, present), CASE WHEN b.expires_at IS NULL THEN present END,
            apikeys_internal.expiry_of(apikeys_internal.import_lifetime(b, p), b.expires_at, present),
            b.active, b.digest, b.hash_rule, coalesce(b.prefix, ''), b.hint, l.alias, b.category,
            apikeys_internal.tier_of_new_key(b.tier, b.limits, p), b.limits, b.products, b.allowed_domains, b.allowed_ips, b.scopes,
            b.billing_type, b.metadata, b.owner_limits)::apikeys_internal.new_key
        FROM unnest(batch) AS b JOIN unnest(owners) AS o ON o.name = b.account JOIN apikeys.plan AS p ON p.name = o.plan
        JOIN unnest(aliases) WITH ORDINALITY AS l (alias, n) ON l.n = b.n
        WHERE fine[b.n]);
    PERFORM set_config('plan_cache_mode', 'auto', true);    -- of what is called, plans are kept
    made := ARRAY(SELECT s FROM apikeys_internal.store_keys(new) AS s);
    PERFORM apikeys_internal.record_keys(made);
    PERFORM set_config('plan_cache_mode', mode, true);
    FOR found IN
        SELECT b.n FROM unnest(batch) AS b WHERE fine[b.n] AND NOT EXISTS (SELECT FROM unnest(made) AS m WHERE m.key_id = ids[b.n])
    LOOP
        faults[found.n] := ROW('40001', NULL, 'a key like this one was made at the same time, or its id is taken', NULL, 'Try again.', NULL)::apikeys_internal.fault;
        ids[found.n] := 0;
    END LOOP;
    WITH used AS (
        SELECT m.key_id, m.created_at, b.used_total FROM unnest(batch) AS b JOIN unnest(made) AS m ON m.key_id = ids[b.n] WHERE b.used_total > 0 AND fine[b.n]
    ), total AS (
        INSERT INTO apikeys.usage_total (subject, subject_id, admitted, denied, units, errors, credits, first_used_at, last_used_at, last_unit_at)
        SELECT 'k', u.key_id, 0, 0, u.used_total, 0, 0, u.created_at, present, present FROM used AS u
    )
    INSERT INTO apikeys.usage_bucket (subject, subject_id, bucket, admitted, denied, units, errors, credits)
    SELECT 'k', u.key_id, '1970-01-01 00:00+00', 0, 0, u.used_total, 0, 0 FROM used AS u;

    RETURN QUERY
    SELECT f.ordinality::int, nullif(CASE WHEN ids[f.ordinality] < 0 THEN ids[-ids[f.ordinality]] ELSE ids[f.ordinality] END, 0),
           repeats[f.ordinality], f.sqlstate, f.field, f.message, f.detail, f.hint, f.broken
    FROM unnest(faults) WITH ORDINALITY AS f ORDER BY f.ordinality;
END
$$;
COMMENT ON FUNCTION apikeys_internal.import_rows(jsonb) IS
'Does the work of import_keys and import_key; repeated: the key was there before, or has a row before.';

CREATE FUNCTION apikeys.import_keys(rows jsonb) RETURNS TABLE (n int, key_id bigint, sqlstate text, field text, message text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT r.n, r.key_id, r.sqlstate, r.field, r.message FROM apikeys_internal.import_rows(rows) AS r;
END;
COMMENT ON FUNCTION apikeys.import_keys(jsonb) IS
'Store keys that other systems have issued: an array of up to 10,000 objects, one for each key. Returns a row for each, in their order '
'(n counts from 1): the id of the key; or the SQLSTATE, the member and the message of what is wrong with it, and then the key is not '
'stored, but the others are. A key that its account has already is not changed: its id is returned. So a call can be repeated.
Members: account; text, or digest (SHA-256) and its encoding: hex (default), base64 or base64url; hash_rule, prefix and hint as in '
'import_key; alias, category, tier, limits, owner_limits, lifetime, expires_at, products, allowed_domains, allowed_ips, scopes, billing_type and '
'metadata as in create_key, limits and times as text, lists as arrays; active (default true); created_at (default now); used_total: '
'the units that it used before. They count for its limit per total, but in no other window and not for its account, and a key with '
'them counts as used and cannot be deleted. What is null counts as not given. The rules of the plan hold, row by row in their order.
SQLSTATEs of rows: those of import_key; 22023 with an unknown member as the field; 40001 a key like it was made at the same time. '
'Errors: 22023 not an array, or more than 10,000 rows.';

CREATE FUNCTION apikeys_internal.import_place(field text, sqlstate text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN field = 'account' THEN CASE sqlstate WHEN '53400' THEN 'plan.max_keys' ELSE 'account.name' END
    WHEN field = 'text' THEN CASE sqlstate WHEN '23505' THEN 'key.digest' ELSE 'key.key' END
    ELSE 'key.' || field END;
COMMENT ON FUNCTION apikeys_internal.import_place(text, text) IS
'What an error of import_key is about, as <table>.<column>, from the member of the row of import_keys.';

CREATE FUNCTION apikeys.import_key(
    account text, key text DEFAULT NULL, digest apikeys.digest DEFAULT NULL, alias text DEFAULT NULL,
    hash_rule text DEFAULT 'sha256', prefix text DEFAULT '', hint text DEFAULT NULL,
    category text DEFAULT NULL, tier text DEFAULT NULL, limits apikeys.limits DEFAULT NULL,
    lifetime interval DEFAULT NULL, expires_at timestamptz DEFAULT NULL, products text[] DEFAULT NULL,
    allowed_domains text[] DEFAULT NULL, allowed_ips cidr[] DEFAULT NULL, scopes text[] DEFAULT NULL,
    billing_type text DEFAULT NULL, metadata jsonb DEFAULT NULL)
RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    done record;
BEGIN
    PERFORM apikeys_internal.require_hash_rule(hash_rule);
    SELECT r.* INTO done FROM apikeys_internal.import_rows(jsonb_build_array(jsonb_build_object(
        'account', account, 'text', key, 'digest', digest::text, 'alias', alias, 'hash_rule', hash_rule, 'prefix', prefix, 'hint', hint,
        'category', category, 'tier', tier, 'limits', limits::text, 'lifetime', lifetime::text, 'expires_at', expires_at,
        'products', products, 'allowed_domains', allowed_domains, 'allowed_ips', allowed_ips, 'scopes', scopes,
        'billing_type', billing_type, 'metadata', metadata))) AS r;
    IF done.repeated THEN
        PERFORM apikeys_internal.refuse('23505', 'key.digest', 'this key exists already', NULL, NULL, 'key_digest_key');
    ELSIF done.sqlstate = '40001' THEN
        RAISE serialization_failure USING MESSAGE = done.message, HINT = done.hint;
    ELSIF done.sqlstate IS NOT NULL THEN
        PERFORM apikeys_internal.refuse(
            done.sqlstate, apikeys_internal.import_place(done.field, done.sqlstate), done.message, done.detail, done.hint, done.broken);
    END IF;
    RETURN apikeys.get_key(done.key_id);
END
$$;
COMMENT ON FUNCTION apikeys.import_key(text, text, apikeys.digest, text, text, text, text, text, text, apikeys.limits, interval,
    timestamptz, text[], text[], cidr[], text[], text, jsonb) IS
'Store a key that another system has issued, given as its text, of which only the digest is stored, or as its '
'SHA-256 digest. hash_rule tells what the digest is made from: sha256: the whole text; sha256_after_bar: what '
'follows the last | (Laravel Sanctum); sha256_after_underscore: what follows the last _ (prefixed API keys).
The other arguments are those of create_key. A text in the form of our keys must have the right checksum, because '
'verify refuses it otherwise if a plan uses its prefix. If no plan will ever use the prefix, import the digest.
A key text has at most 512 bytes, at least 4 that its hash rule uses, no blanks at its ends and no control or '
'invisible characters.
Errors: those of create_key; 22023 neither or both of key and digest, bad key text, wrong checksum; 23505 the key '
'exists already.';
