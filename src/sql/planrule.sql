-- The rules of a plan: which keys it allows. They stand here and nowhere else.
--
-- plan_breaches has the rules. require_plan raises the first that a new or changed key breaks; change_plan lists all that the keys
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

-- Limits of provider and owner are decided on together, so they must fit into one set.
CREATE FUNCTION apikeys_internal.check_owner_limits(limits apikeys.limits, tier text, owner_limits apikeys.limits) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    provided apikeys.limits := coalesce(limits, (SELECT t.limits FROM apikeys.tier AS t WHERE t.name = check_owner_limits.tier), '');
BEGIN
    IF apikeys_internal.lower_limits(provided, owner_limits) IS NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'key.owner_limits', 'the limits of provider and owner have more than 8 windows together',
                                        format('The provider''s are %s, the owner''s %s.', provided, owner_limits), 'Use windows that the provider has.');
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_owner_limits(apikeys.limits, text, apikeys.limits) IS
'Raise if limits that an owner sets have more than 8 windows together with those of the key, or of its tier. Errors: 22023.';

CREATE FUNCTION apikeys_internal.check_tier_limits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.check_owner_limits(k.limits, NULL, k.owner_limits)
    FROM (SELECT DISTINCT NEW.limits, k.owner_limits FROM apikeys.key AS k WHERE k.tier = NEW.name AND k.owner_limits IS NOT NULL AND k.limits IS NULL) AS k (limits, owner_limits);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_tier_limits() IS
'AFTER UPDATE of the limits of a tier: raises if owners of its keys have set limits that do not fit. Errors: 22023.';
CREATE TRIGGER tier_check_limits AFTER UPDATE OF limits ON apikeys.tier
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.check_tier_limits();
COMMENT ON TRIGGER tier_check_limits ON apikeys.tier IS 'Refuses limits that do not fit together with those that owners of its keys have set.';

CREATE FUNCTION apikeys_internal.plan_has_rules(rules apikeys.plan) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT pg_catalog.num_nonnulls(rules.max_keys, rules.max_lifetime, rules.lifetimes, rules.billing_types) > 0
        OR rules.one_key_per_product OR NOT rules.allow_unexpiring OR NOT rules.custom_limits_allowed;
$$;
COMMENT ON FUNCTION apikeys_internal.plan_has_rules(apikeys.plan) IS
'Whether there are keys that a plan does not allow.';

-- What is said of rules that import_rows judges too, for many new keys of an account one after the other.
CREATE FUNCTION apikeys_internal.max_keys_fault(account text, number bigint, rules apikeys.plan, OUT message text, OUT detail text, OUT hint text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (format('account "%s" has %s of %s keys', account, number, rules.max_keys), NULL::text,
            CASE WHEN apikeys_internal.acts_as_admin() THEN format('Deactivate or delete one of them, or raise max_keys of plan "%s".', rules.name)
                 ELSE 'Deactivate or delete one of them.' END);
$$;
CREATE FUNCTION apikeys_internal.no_product_fault(alias text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN (format('key "%s" must have a product', alias),
        'Its plan allows one key for each product, and a key without products is good for all.'::text,
        'Name products when you create the key, or assign one first; a key that is not needed can be deactivated.'::text);
CREATE FUNCTION apikeys_internal.product_fault(account text, product text, alias text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN (format('account "%s" has a key for product "%s" already', account, product), format('It is the key "%s".', alias), NULL::text);
COMMENT ON FUNCTION apikeys_internal.max_keys_fault(text, bigint, apikeys.plan) IS 'That an account has as many keys as its plan allows.';
COMMENT ON FUNCTION apikeys_internal.no_product_fault(text) IS 'That a key must have a product.';
COMMENT ON FUNCTION apikeys_internal.product_fault(text, text, text) IS 'That another key of the account has a product.';

-- A statement for each kind of rule, run only if the plan has such a rule. For a few keys their plans are kept, and go by indexes even
-- if the tables are small when they are made; for more they are planned at each call, because one plan would not suit one key and ten
-- thousand. What set_config sets ends with the function, because the function sets it, too.
CREATE FUNCTION apikeys_internal.plan_breaches(
    candidates apikeys.key[], rules apikeys.plan, judged text[] DEFAULT NULL)
RETURNS TABLE (
    place int, rule text, key_id bigint, alias text, fault text, about text, errcode text, message text, detail text, hint text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    longest interval := coalesce(rules.max_lifetime, apikeys_internal.longest_lifetime(rules.lifetimes));
BEGIN
    IF cardinality(candidates) > 10 THEN
        PERFORM set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'on', true);
    END IF;
    IF longest IS NOT NULL OR rules.billing_types IS NOT NULL OR NOT (rules.allow_unexpiring AND rules.custom_limits_allowed) THEN
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
        WHERE r.broken AND (r.rule = ANY (judged)) IS NOT FALSE;
    END IF;

    IF rules.max_keys IS NOT NULL AND ('max_keys' = ANY (judged)) IS NOT FALSE THEN
        RETURN QUERY
        SELECT 5, 'max_keys', NULL::bigint, NULL, format('%s of %s keys', o.number + 1, rules.max_keys), 'plan.max_keys', '53400',
               (apikeys_internal.max_keys_fault(a.name, o.number, rules)).*
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

    IF rules.one_key_per_product AND ('one_key_per_product' = ANY (judged)) IS NOT FALSE THEN
        RETURN QUERY
        SELECT 6, 'one_key_per_product', c.key_id, c.alias, 'it has no product, so it is good for all', 'key.products', '22023',
               (apikeys_internal.no_product_fault(c.alias)).*
        FROM unnest(candidates) AS c
        WHERE apikeys_internal.key_counts(c.active, c.expires_at, present)
          AND NOT EXISTS (SELECT FROM apikeys.key_product AS p WHERE p.key_id = c.key_id);

        -- By the keys of the account: those of all accounts that have the product may be many.
        RETURN QUERY
        WITH theirs AS MATERIALIZED (
            SELECT k.key_id, k.account_id, k.alias, o.product
            FROM apikeys.key AS k, LATERAL (SELECT p.product FROM apikeys.key_product AS p WHERE p.key_id = k.key_id OFFSET 0) AS o
            WHERE k.account_id = (candidates[1]).account_id AND apikeys_internal.key_counts(k.active, k.expires_at, present)
        )
        SELECT 7, 'one_key_per_product', c.key_id, c.alias,
               format('product "%s" is the key "%s"''s as well', p.product, k.alias), 'key.products', '23505',
               (apikeys_internal.product_fault(a.name, p.product, k.alias)).*
        FROM unnest(candidates) AS c
        JOIN apikeys.account AS a ON a.account_id = c.account_id
        CROSS JOIN LATERAL (SELECT p.product FROM apikeys.key_product AS p WHERE p.key_id = c.key_id OFFSET 0) AS p
        JOIN theirs AS k ON k.product = p.product AND k.key_id <> c.key_id AND k.account_id = c.account_id
        WHERE apikeys_internal.key_counts(c.active, c.expires_at, present);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.plan_breaches(apikeys.key[], apikeys.plan, text[]) IS
'What a plan does not allow about keys of one account, judged by the rules named (columns of table plan; NULL: all): a row for '
'each breach, with what is wrong with the key (fault; key_id and alias are NULL where it is the number of keys) and '
'the error for who makes or changes it, about <table>.<column>. Place is the order in which the rules are checked.';

CREATE FUNCTION apikeys_internal.require_plan(candidate apikeys.key, rules apikeys.plan, judged text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    breach record;
BEGIN
    SELECT b.* INTO breach FROM apikeys_internal.plan_breaches(ARRAY[candidate], rules, judged) AS b
    ORDER BY b.place, b.fault LIMIT 1;
    IF FOUND THEN
        PERFORM apikeys_internal.refuse(breach.errcode, breach.about, breach.message, breach.detail, breach.hint, breach.rule);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.require_plan(apikeys.key, apikeys.plan, text[]) IS
'Raise the first of the rules named (columns of table plan; NULL: all) that a key of a locked account breaks. Errors: '
'22023, 23505, 53400.';

CREATE FUNCTION apikeys_internal.check_plan(candidate apikeys.key, judged text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.lock_account(candidate.account_id);
    rules apikeys.plan;
BEGIN
    SELECT p.* INTO STRICT rules FROM apikeys.plan AS p WHERE p.name = owner.plan;
    PERFORM apikeys_internal.require_plan(candidate, rules, judged);
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_plan(apikeys.key, text[]) IS
'Lock the account of a key, and call require_plan with its plan. Errors: 22023, 23505, 53400.';

CREATE FUNCTION apikeys_internal.reserved_scope_fault(
    scopes text[], former text[], account_id bigint, OUT errcode text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reserved text;
BEGIN
    FOR reserved IN
        SELECT s.scope FROM unnest(scopes) AS s (scope)
        WHERE starts_with(s.scope, 'apikeys:') AND s.scope <> ALL (coalesce(former, '{}'))
    LOOP
        IF reserved <> 'apikeys:manage' THEN
            errcode := '22023';
            message := format('scope "%s" does not exist', reserved);
            detail := 'Scopes that begin with apikeys: are reserved.';
            hint := 'There is apikeys:manage.';
            RETURN;
        ELSIF apikeys.current_key_id() IS NOT NULL
              OR NOT (apikeys_internal.reaches_all(true)
                      OR (SELECT p.manage_keys FROM apikeys.account AS a JOIN apikeys.plan AS p ON p.name = a.plan
                          WHERE a.account_id = reserved_scope_fault.account_id)) THEN
            errcode := '42501';
            message := format('scope "%s" is given by the provider alone', reserved);
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys_internal.reserved_scope_fault(text[], text[], bigint) IS
'What is wrong with the reserved scopes that a key of an account gets, beyond its former ones: there is none of that name, or who acts '
'may not give it; NULL: nothing.';

CREATE FUNCTION apikeys_internal.check_reserved_scopes(candidate apikeys.key, former text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fault record := apikeys_internal.reserved_scope_fault(candidate.scopes, former, candidate.account_id);
BEGIN
    IF fault.errcode IS NOT NULL THEN
        PERFORM apikeys_internal.refuse(fault.errcode, 'key.scopes', fault.message, fault.detail, fault.hint);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_reserved_scopes(apikeys.key, text[]) IS
'Raise if a key gets a reserved scope, beyond its former ones, that does not exist or that who acts may not give. Errors: 22023, 42501.';

CREATE FUNCTION apikeys_internal.products_of(key_id bigint) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT ARRAY(SELECT p.product FROM apikeys.key_product AS p WHERE p.key_id = products_of.key_id ORDER BY p.product);
END;
COMMENT ON FUNCTION apikeys_internal.products_of(bigint) IS 'The products of a key.';

CREATE FUNCTION apikeys_internal.products_are_within(products text[], bar bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT NOT EXISTS (SELECT FROM apikeys.key_product AS b WHERE b.key_id = bar)
           OR coalesce((SELECT bool_and(EXISTS (SELECT FROM apikeys.key_product AS b WHERE b.key_id = bar AND b.product = p.name))
                        FROM unnest(products) AS p (name)), false);
END;
COMMENT ON FUNCTION apikeys_internal.products_are_within(text[], bigint) IS
'Whether a key with these products is good for none that the other is not good for. A key without products is good for all.';

CREATE FUNCTION apikeys_internal.key_excess(candidate apikeys.key, bar apikeys.key, OUT field text, OUT detail text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.field, r.detail
    FROM (VALUES
        ('scopes', candidate.scopes <@ bar.scopes, 'It has scopes that the key does not have.'),
        ('expires_at', bar.expires_at IS NULL OR candidate.expires_at <= bar.expires_at, 'It expires later than the key.'),
        ('allowed_domains',
         bar.allowed_domains = '{}' OR (candidate.allowed_domains <> '{}' AND candidate.allowed_domains <@ bar.allowed_domains),
         'It is allowed for domains that the key is not allowed for.'),
        ('allowed_ips', bar.allowed_ips = '{}' OR (candidate.allowed_ips <> '{}' AND NOT EXISTS (
            SELECT FROM unnest(candidate.allowed_ips) AS c (network)
            WHERE NOT EXISTS (SELECT FROM unnest(bar.allowed_ips) AS b (network) WHERE c.network <<= b.network))),
         'It is allowed for addresses that the key is not allowed for.')
    ) AS r (field, within, detail)
    WHERE NOT coalesce(r.within, false)
    LIMIT 1;
$$;
COMMENT ON FUNCTION apikeys_internal.key_excess(apikeys.key, apikeys.key) IS
'In what a key is good for more than another, products aside; NULL: in nothing.';

CREATE FUNCTION apikeys_internal.require_maker() RETURNS apikeys.key
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    maker apikeys.key;
BEGIN
    SELECT k.* INTO maker FROM apikeys.key AS k WHERE k.key_id = apikeys.current_key_id() AND k.active AND k.suspended_at IS NULL;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('42501', 'key.key_id', 'the key that the transaction acts for is good for nothing any more');
    END IF;
    -- The former text ends with its grace, and so must all that it makes: also a new text of the key itself.
    IF apikeys_internal.acting_by_former_text() THEN
        maker.expires_at := least(maker.expires_at, coalesce(maker.previous_valid_until, '-infinity'));
    END IF;
    RETURN maker;
END
$$;
COMMENT ON FUNCTION apikeys_internal.require_maker() IS
'The key that the transaction acts for, as what it gives to other keys is measured by it. If it acts by its former text, it expires at the '
'end of the grace. Errors: 42501 it was deactivated, suspended or deleted meanwhile.';

-- A key that makes others, or changes them, must not become more than it is by them. So what it makes, rotates, activates or extends is good
-- for no more than the key itself, in each respect that verify checks. What only takes away from a key it may do to any.
-- check_assignment does the same where products change. Limits are not compared: the provider gives them, and not to the key but to the
-- account.
CREATE FUNCTION apikeys_internal.check_maker(candidate apikeys.key, former apikeys.key) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    maker  apikeys.key;
    field  text;
    detail text;
BEGIN
    IF former.key_id IS NOT NULL
       AND candidate.digest OPERATOR(apikeys.=) former.digest
       AND (former.active OR NOT candidate.active)
       AND (apikeys_internal.key_excess(candidate, former)).field IS NULL THEN
        RETURN;
    END IF;
    maker := apikeys_internal.require_maker();
    SELECT e.field, e.detail INTO field, detail FROM apikeys_internal.key_excess(candidate, maker) AS e;
    IF field IS NULL AND candidate.key_id <> maker.key_id
       AND EXISTS (SELECT FROM unnest(candidate.scopes) AS s (scope) WHERE starts_with(s.scope, 'apikeys:')) THEN
        field := 'scopes';
        detail := 'It may manage keys.';
    ELSIF field IS NULL AND NOT apikeys_internal.products_are_within(apikeys_internal.products_of(candidate.key_id), maker.key_id) THEN
        field := 'products';
        detail := 'It is good for products that the key is not good for.';
    END IF;
    IF field IS NOT NULL THEN
        PERFORM apikeys_internal.refuse(
            '42501', 'key.' || field, format('key "%s" would be good for more than the key that the transaction acts for', candidate.alias), detail);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_maker(apikeys.key, apikeys.key) IS
'Raise if a key that is made (former is NULL) or changed by another key would be good for more than that one: more scopes, domains, '
'addresses or products, or for longer. Errors: 42501.';

CREATE FUNCTION apikeys_internal.check_giver(candidate apikeys.key, former apikeys.key) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF candidate.scopes <> coalesce(former.scopes, '{}') THEN
        PERFORM apikeys_internal.check_reserved_scopes(candidate, former.scopes);
    END IF;
    IF apikeys.current_key_id() IS NOT NULL THEN
        PERFORM apikeys_internal.check_maker(candidate, former);
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_giver(apikeys.key, apikeys.key) IS
'Raise if who acts may not make a key (former is NULL), or change it, to what it is now: it has a scope that only others give, or who acts '
'is a key that is good for less. Errors: 22023, 42501.';

CREATE FUNCTION apikeys_internal.check_key(candidate apikeys.key, former apikeys.key) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    judged  text[] := '{}';
BEGIN
    IF candidate.expires_at IS DISTINCT FROM former.expires_at THEN
        judged := judged || '{allow_unexpiring,max_lifetime}';
    END IF;
    IF candidate.limits::text IS DISTINCT FROM former.limits::text THEN
        judged := judged || '{custom_limits_allowed}';
    END IF;
    IF candidate.billing_type IS DISTINCT FROM former.billing_type THEN
        judged := judged || '{billing_types}';
    END IF;
    IF apikeys_internal.key_counts(candidate.active, candidate.expires_at, present)
       AND NOT apikeys_internal.key_counts(former.active, former.expires_at, present) THEN
        judged := judged || '{max_keys,one_key_per_product}';
    END IF;
    IF judged <> '{}' THEN
        PERFORM apikeys_internal.check_plan(candidate, judged);
    END IF;
    PERFORM apikeys_internal.check_giver(candidate, former);
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_key(apikeys.key, apikeys.key) IS
'Raise if a key changed from former is one that the plan does not allow, of which only what changed is judged; or if who acts may not give '
'it its scopes, or is a key that is good for less. Locks the account if there is anything to judge of the plan. Errors: 22023, 23505, '
'42501, 53400.';

CREATE FUNCTION apikeys_internal.expiry_fault(
    lifetime interval, expires_at timestamptz, rules apikeys.plan, present timestamptz,
    OUT field text, OUT message text, OUT hint text, OUT broken text)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF lifetime IS NOT NULL AND expires_at IS NOT NULL THEN
        message := 'a key has a lifetime or an expiry, not both';
    ELSIF expires_at <= present THEN
        field := 'expires_at';
        message := 'an expiry must lie in the future';
        hint := 'To refuse the key from now on, deactivate it.';
    ELSIF lifetime <= '0' THEN
        message := 'a lifetime must be positive';
    ELSIF NOT isfinite(lifetime) THEN
        message := 'a lifetime must be finite';
        hint := 'A key with expires_at => ''infinity'' never expires.';
    ELSIF lifetime IS NOT NULL AND rules.lifetimes IS NOT NULL AND NOT apikeys_internal.lifetime_is_offered(lifetime, rules.lifetimes) THEN
        message := format('plan "%s" does not offer a lifetime of %s', rules.name, lifetime);
        hint := format('It offers: %s.', array_to_string(rules.lifetimes, ', '));
        broken := 'lifetimes';
    END IF;
    field := CASE WHEN message IS NOT NULL THEN coalesce(field, 'lifetime') END;
END
$$;
COMMENT ON FUNCTION apikeys_internal.expiry_fault(interval, timestamptz, apikeys.plan, timestamptz) IS
'What is wrong with the lifetime and the expiry that are given to a key; NULL: nothing. Broken is the rule of the plan.';

CREATE FUNCTION apikeys_internal.expiry_of(lifetime interval, expires_at timestamptz, present timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN expires_at IS NULL THEN apikeys_internal.seconds_after(present, lifetime) ELSE nullif(expires_at, 'infinity') END;
COMMENT ON FUNCTION apikeys_internal.expiry_of(interval, timestamptz, timestamptz) IS
'When a key expires that has this lifetime from now on, or this expiry (infinity: never); NULL: never.';

CREATE FUNCTION apikeys_internal.new_expiry(lifetime interval, expires_at timestamptz, rules apikeys.plan) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    fault   record;
BEGIN
    IF lifetime IS NULL AND expires_at IS NULL THEN
        RETURN NULL;
    END IF;
    fault := apikeys_internal.expiry_fault(lifetime, expires_at, rules, present);
    IF fault.message IS NOT NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'key.' || fault.field, fault.message, NULL, fault.hint, fault.broken);
    END IF;
    RETURN apikeys_internal.expiry_of(lifetime, expires_at, present);
END
$$;
COMMENT ON FUNCTION apikeys_internal.new_expiry(interval, timestamptz, apikeys.plan) IS
'When a key expires that gets this lifetime now, or this expiry; NULL: never. Errors: 22023 both are given, the expiry is past, or '
'the lifetime is not positive, not finite, or not offered by the plan.';

CREATE FUNCTION apikeys_internal.chosen_expiry(lifetime interval, expires_at timestamptz, rules apikeys.plan) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    chosen timestamptz := apikeys_internal.new_expiry(lifetime, expires_at, rules);
BEGIN
    IF rules.lifetimes IS NOT NULL AND isfinite(expires_at) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.expires_at', format('plan "%s" offers lifetimes, not dates', rules.name), NULL,
                                        format('It offers: %s.', array_to_string(rules.lifetimes, ', ')), 'lifetimes');
    END IF;
    RETURN chosen;
END
$$;
COMMENT ON FUNCTION apikeys_internal.chosen_expiry(interval, timestamptz, apikeys.plan) IS
'When a key expires of which somebody chooses a lifetime or an expiry (infinity: never); NULL: never. Errors: 22023 both '
'are given, the expiry is past, or the plan does not offer it.';
