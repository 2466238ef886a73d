-- The rules of a plan: which keys it allows. They stand here and nowhere else.
--
-- plan_breaches has the rules. check_plan raises the first that a new or changed key breaks; change_plan lists all that the keys
-- of an account break. A key counts for its plan while it is neither inactive nor expired: key_counts. So an archived key does not count.
--
-- check_plan locks the account. So the plan of the account stays the same until the transaction ends, and two transactions
-- cannot both take the last place for a key. A transaction that locks keys too locks them before their account, because an
-- UPDATE of a key locks its row before the trigger runs.

CREATE FUNCTION apikeys_internal.key_counts(active boolean, expires_at timestamptz, present timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN active AND (expires_at IS NULL OR expires_at > present);
COMMENT ON FUNCTION apikeys_internal.key_counts(boolean, timestamptz, timestamptz) IS
'Whether a key counts for its plan at a time: it is neither inactive nor expired then.';

-- A statement for each kind of rule, run only if the plan has such a rule. They are planned at each call, because one plan would
-- not suit one key and ten thousand.
CREATE FUNCTION apikeys_internal.plan_breaches(
    candidates apikeys.key[], rules apikeys.plan,
    judged text[] DEFAULT '{allow_unexpiring,max_lifetime,custom_limits_allowed,billing_types,max_keys,one_key_per_product}')
RETURNS TABLE (
    place int, rule text, key_id bigint, alias text, fault text, about text, errcode text, message text, detail text, hint text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    longest interval := coalesce(rules.max_lifetime, apikeys_internal.longest_lifetime(rules.lifetimes));
BEGIN
    RETURN QUERY
    SELECT r.place, r.rule, c.key_id, c.alias, r.fault, 'key.' || r.about, '22023', r.message, NULL, r.hint
    FROM unnest(candidates) AS c, LATERAL (VALUES
        (1, 'allow_unexpiring', 'expires_at',
         c.expires_at IS NULL AND (NOT rules.allow_unexpiring OR rules.max_lifetime IS NOT NULL),
         'it never expires',
         format('plan "%s" does not allow keys that never expire', rules.name),
         'Give the key a lifetime.'),
        (2, 'max_lifetime', 'expires_at',
         c.expires_at > apikeys_internal.seconds_after(present, longest),
         format('it expires later than in %s', longest),
         format('plan "%s" allows a lifetime of at most %s', rules.name, longest),
         NULL),
        (3, 'custom_limits_allowed', 'limits',
         c.limits IS NOT NULL AND NOT rules.custom_limits_allowed,
         format('it has limits of its own: %s', c.limits),
         format('plan "%s" does not allow limits of a key''s own', rules.name),
         'Choose a tier.'),
        (4, 'billing_types', 'billing_type',
         c.billing_type <> ALL (rules.billing_types),
         format('its billing type is "%s"', c.billing_type),
         format('plan "%s" has no billing type "%s"', rules.name, c.billing_type),
         format('It has: %s.', array_to_string(rules.billing_types, ', ')))
    ) AS r (place, rule, about, broken, fault, message, hint)
    WHERE r.broken AND r.rule = ANY (judged);

    IF rules.max_keys IS NOT NULL AND 'max_keys' = ANY (judged) THEN
        RETURN QUERY
        SELECT 5, 'max_keys', NULL::bigint, NULL, format('%s of %s keys', o.number + 1, rules.max_keys), 'plan.max_keys', '53400',
               format('account "%s" has %s of %s keys', a.name, o.number, rules.max_keys), NULL,
               CASE WHEN apikeys_internal.acts_as_admin() THEN format('Deactivate or delete one of them, or raise max_keys of plan "%s".', rules.name)
                    ELSE 'Deactivate or delete one of them.' END
        FROM (SELECT f.key_id, f.account_id FROM unnest(candidates) AS f
              WHERE apikeys_internal.key_counts(f.active, f.expires_at, present) LIMIT 1) AS c
        JOIN apikeys.account AS a ON a.account_id = c.account_id,
        LATERAL (
            SELECT count(*) AS number FROM apikeys.key AS k
            WHERE k.account_id = c.account_id AND k.key_id <> c.key_id
              AND apikeys_internal.key_counts(k.active, k.expires_at, present)
        ) AS o
        WHERE o.number >= rules.max_keys;
    END IF;

    IF rules.one_key_per_product AND 'one_key_per_product' = ANY (judged) THEN
        RETURN QUERY
        SELECT 6, 'one_key_per_product', c.key_id, c.alias, 'it has no product, so it is good for all', 'key.products', '22023',
               format('key "%s" must have a product', c.alias),
               'Its plan allows one key for each product, and a key without products is good for all.',
               'Name products when you create the key, or assign one first; a key that is not needed can be deactivated.'
        FROM unnest(candidates) AS c
        WHERE apikeys_internal.key_counts(c.active, c.expires_at, present)
          AND NOT EXISTS (SELECT FROM apikeys.key_product AS p WHERE p.key_id = c.key_id);

        RETURN QUERY
        SELECT 7, 'one_key_per_product', c.key_id, c.alias,
               format('product "%s" is the key "%s"''s as well', p.product, k.alias), 'key.products', '23505',
               format('account "%s" has a key for product "%s" already', a.name, p.product),
               format('It is the key "%s".', k.alias), NULL
        FROM unnest(candidates) AS c
        JOIN apikeys.account AS a ON a.account_id = c.account_id
        JOIN apikeys.key_product AS p ON p.key_id = c.key_id
        JOIN apikeys.key_product AS o ON o.product = p.product AND o.key_id <> c.key_id
        JOIN apikeys.key AS k ON k.key_id = o.key_id AND k.account_id = c.account_id
        WHERE apikeys_internal.key_counts(c.active, c.expires_at, present)
          AND apikeys_internal.key_counts(k.active, k.expires_at, present);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.plan_breaches(apikeys.key[], apikeys.plan, text[]) IS
'What a plan does not allow about keys of one account, judged by the rules named (columns of table plan): a row for '
'each breach, with what is wrong with the key (fault; key_id and alias are NULL where it is the number of keys) and '
'the error for who makes or changes it, about <table>.<column>. Place is the order in which the rules are checked.';

CREATE FUNCTION apikeys_internal.check_plan(candidate apikeys.key, judged text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules  apikeys.plan;
    breach record;
BEGIN
    PERFORM apikeys_internal.lock_account(candidate.account_id);
    SELECT p.* INTO STRICT rules FROM apikeys.account AS a JOIN apikeys.plan AS p ON p.name = a.plan
    WHERE a.account_id = candidate.account_id;
    SELECT b.* INTO breach FROM apikeys_internal.plan_breaches(ARRAY[candidate], rules, judged) AS b
    ORDER BY b.place, b.fault LIMIT 1;
    IF FOUND THEN
        PERFORM apikeys_internal.refuse(breach.errcode, breach.about, breach.message, breach.detail, breach.hint, breach.rule);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_plan(apikeys.key, text[]) IS
'Raise the first of the rules named (columns of table plan) that a key breaks. Locks the account. Errors: 22023, '
'23505, 53400.';

CREATE FUNCTION apikeys_internal.check_reserved_scopes(candidate apikeys.key, former text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reserved text;
BEGIN
    FOR reserved IN
        SELECT s.scope FROM unnest(candidate.scopes) AS s (scope)
        WHERE starts_with(s.scope, 'apikeys:') AND s.scope <> ALL (coalesce(former, '{}'))
    LOOP
        IF reserved <> 'apikeys:manage' THEN
            PERFORM apikeys_internal.refuse('22023', 'key.scopes', format('scope "%s" does not exist', reserved),
                                            'Scopes that begin with apikeys: are reserved.', 'There is apikeys:manage.');
        ELSIF apikeys.current_key_id() IS NOT NULL
              OR NOT (apikeys_internal.reaches_all(true)
                      OR (SELECT p.manage_keys FROM apikeys.account AS a JOIN apikeys.plan AS p ON p.name = a.plan
                          WHERE a.account_id = candidate.account_id)) THEN
            PERFORM apikeys_internal.refuse('42501', 'key.scopes', format('scope "%s" is given by the provider alone', reserved));
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_reserved_scopes(apikeys.key, text[]) IS
'Raise if a key gets a reserved scope, beyond its former ones, that does not exist or that who acts may not give. Errors: 22023, 42501.';

CREATE FUNCTION apikeys_internal.products_are_within(key_id bigint, bar bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT NOT EXISTS (SELECT FROM apikeys.key_product AS b WHERE b.key_id = bar)
           OR coalesce((SELECT bool_and(EXISTS (SELECT FROM apikeys.key_product AS b WHERE b.key_id = bar AND b.product = p.product))
                        FROM apikeys.key_product AS p WHERE p.key_id = products_are_within.key_id), false);
END;
COMMENT ON FUNCTION apikeys_internal.products_are_within(bigint, bigint) IS
'Whether a key is good for no product that the other is not good for. A key without products is good for all.';

-- A key that makes others, or changes them, must not become more than it is by them. So what it makes, rotates, activates or extends is good
-- for no more than the key itself, in each respect that verify checks. check_assignment does the same where products change.
CREATE FUNCTION apikeys_internal.check_maker(candidate apikeys.key, former apikeys.key) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    maker  apikeys.key;
    breach record;
BEGIN
    SELECT k.* INTO STRICT maker FROM apikeys.key AS k WHERE k.key_id = apikeys.current_key_id();
    -- The former text ends with its grace, and so must all that it makes: also a new text of the key itself.
    IF apikeys_internal.acting_by_former_text() THEN
        maker.expires_at := least(maker.expires_at, coalesce(maker.previous_valid_until, '-infinity'));
    END IF;
    SELECT r.place, r.excess INTO breach
    FROM (VALUES
        ('key.scopes', candidate.scopes <@ maker.scopes, 'It has scopes that the key does not have.'),
        ('key.scopes', candidate.key_id = maker.key_id
                       OR NOT EXISTS (SELECT FROM unnest(candidate.scopes) AS s (scope) WHERE starts_with(s.scope, 'apikeys:')),
         'It may manage keys.'),
        ('key.expires_at', maker.expires_at IS NULL OR candidate.expires_at <= maker.expires_at, 'It expires later than the key.'),
        ('key.allowed_domains',
         maker.allowed_domains = '{}' OR (candidate.allowed_domains <> '{}' AND candidate.allowed_domains <@ maker.allowed_domains),
         'It is allowed for domains that the key is not allowed for.'),
        ('key.allowed_ips', maker.allowed_ips = '{}' OR (candidate.allowed_ips <> '{}' AND NOT EXISTS (
            SELECT FROM unnest(candidate.allowed_ips) AS c (network)
            WHERE NOT EXISTS (SELECT FROM unnest(maker.allowed_ips) AS m (network) WHERE c.network <<= m.network))),
         'It is allowed for addresses that the key is not allowed for.'),
        ('key.products', apikeys_internal.products_are_within(candidate.key_id, maker.key_id), 'It is good for products that the key is not good for.')
    ) AS r (place, within, excess)
    WHERE NOT coalesce(r.within, false)
    LIMIT 1;
    -- What only takes away from a key may be done to any.
    IF FOUND AND (former.key_id IS NULL
                  OR candidate.digest OPERATOR(apikeys.<>) former.digest
                  OR NOT candidate.scopes <@ former.scopes
                  OR (candidate.active AND NOT former.active)
                  OR coalesce(candidate.expires_at, 'infinity') > coalesce(former.expires_at, 'infinity')
                  OR candidate.allowed_domains <> former.allowed_domains
                  OR candidate.allowed_ips <> former.allowed_ips) THEN
        PERFORM apikeys_internal.refuse(
            '42501', breach.place, format('key "%s" would be good for more than the key that the transaction acts for', candidate.alias), breach.excess);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_maker(apikeys.key, apikeys.key) IS
'Raise if a key that is made (former is NULL) or changed by another key would be good for more than that one: more scopes, domains, '
'addresses or products, or for longer. A key that acts by its former text is good until the end of the grace. Errors: 42501.';

CREATE FUNCTION apikeys_internal.check_key(candidate apikeys.key, former apikeys.key) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    made    boolean := former.key_id IS NULL;
    judged  text[] := '{}';
BEGIN
    IF made OR candidate.expires_at IS DISTINCT FROM former.expires_at THEN
        judged := judged || '{allow_unexpiring,max_lifetime}';
    END IF;
    IF candidate.limits::text IS DISTINCT FROM former.limits::text THEN
        judged := judged || '{custom_limits_allowed}';
    END IF;
    IF candidate.billing_type IS DISTINCT FROM former.billing_type THEN
        judged := judged || '{billing_types}';
    END IF;
    IF apikeys_internal.key_counts(candidate.active, candidate.expires_at, present)
       AND (made OR NOT apikeys_internal.key_counts(former.active, former.expires_at, present)) THEN
        judged := judged || '{max_keys,one_key_per_product}';
    END IF;
    IF judged <> '{}' THEN
        PERFORM apikeys_internal.check_plan(candidate, judged);
    END IF;
    IF candidate.scopes <> former.scopes OR (made AND candidate.scopes <> '{}') THEN
        PERFORM apikeys_internal.check_reserved_scopes(candidate, former.scopes);
    END IF;
    IF apikeys.current_key_id() IS NOT NULL THEN
        PERFORM apikeys_internal.check_maker(candidate, former);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_key(apikeys.key, apikeys.key) IS
'Raise if the plan does not allow a key: a new one (former is NULL), or one changed from former, of which only what '
'changed is judged; or if who acts may not give it its scopes, or is a key that is good for less. Locks the account if there is anything '
'to judge. Errors: 22023, 23505, 42501, 53400.';

CREATE FUNCTION apikeys_internal.refuse_past_expiry() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.refuse('22023', 'key.expires_at', 'an expiry must lie in the future', NULL,
                                    'To refuse the key from now on, deactivate it.');
END
$$;
COMMENT ON FUNCTION apikeys_internal.refuse_past_expiry() IS 'Raise that an expiry is past. Errors: 22023.';

CREATE FUNCTION apikeys_internal.expiry_after(lifetime interval, rules apikeys.plan) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF lifetime <= '0' THEN
        PERFORM apikeys_internal.refuse('22023', 'key.lifetime', 'a lifetime must be positive');
    ELSIF NOT isfinite(lifetime) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.lifetime', 'a lifetime must be finite', NULL,
                                        'A key with expires_at => ''infinity'' never expires.');
    ELSIF NOT apikeys_internal.lifetime_is_offered(lifetime, rules.lifetimes) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.lifetime', format('plan "%s" does not offer a lifetime of %s', rules.name, lifetime),
                                        NULL, format('It offers: %s.', array_to_string(rules.lifetimes, ', ')), 'lifetimes');
    END IF;
    RETURN apikeys_internal.seconds_after(apikeys_internal.wall_clock(), lifetime);
END
$$;
COMMENT ON FUNCTION apikeys_internal.expiry_after(interval, apikeys.plan) IS
'When a key expires that gets this lifetime now; NULL: never. Errors: 22023 the lifetime is not positive, not '
'finite, or not offered by the plan.';

CREATE FUNCTION apikeys_internal.chosen_expiry(lifetime interval, expires_at timestamptz, rules apikeys.plan) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF lifetime IS NOT NULL AND expires_at IS NOT NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'key.lifetime', 'a key has a lifetime or an expiry, not both');
    ELSIF expires_at <= apikeys_internal.wall_clock() THEN
        PERFORM apikeys_internal.refuse_past_expiry();
    ELSIF rules.lifetimes IS NOT NULL AND isfinite(expires_at) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.expires_at', format('plan "%s" offers lifetimes, not dates', rules.name), NULL,
                                        format('It offers: %s.', array_to_string(rules.lifetimes, ', ')), 'lifetimes');
    ELSIF expires_at IS NULL THEN
        RETURN apikeys_internal.expiry_after(lifetime, rules);
    END IF;
    RETURN nullif(expires_at, 'infinity');
END
$$;
COMMENT ON FUNCTION apikeys_internal.chosen_expiry(interval, timestamptz, apikeys.plan) IS
'When a key expires of which somebody chooses a lifetime or an expiry (infinity: never); NULL: never. Errors: 22023 both '
'are given, the expiry is past, or the plan does not offer it.';
