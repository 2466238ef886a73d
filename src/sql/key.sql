-- Keys: creating, activating, suspending and deleting them.
--
-- create_key passes a new row to add_key; import.sql adds many at a time. They and the UPDATE trigger on table key ask planrule.sql for
-- the rules of the plan, and for what who acts may give. So every change of a row is checked, and a restored row, which was checked
-- before, is not.

CREATE FUNCTION apikeys.shard_hash(key text) RETURNS int
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_shard_hash_text';
COMMENT ON FUNCTION apikeys.shard_hash(text) IS
'The 16 bits that lead to the shard of a key, from its text. They mean nothing for imported key texts, which carry '
'none.';

CREATE FUNCTION apikeys.shard_hash(key_id bigint) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_shard_hash_id';
COMMENT ON FUNCTION apikeys.shard_hash(bigint) IS 'The 16 bits that lead to the shard of a key, from its id.';

CREATE FUNCTION apikeys.shard_hash_of_account(name text) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_shard_hash_account';
COMMENT ON FUNCTION apikeys.shard_hash_of_account(text) IS
'The 16 bits that lead to the shard of an account and its keys: the first two bytes of the SHA-256 of its name.';

CREATE FUNCTION apikeys_internal.draw_key(prefix text, account text, OUT key text, OUT digest apikeys.digest, OUT hint text)
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'apikeys_key_draw';
COMMENT ON FUNCTION apikeys_internal.draw_key(text, text) IS
'Draw a new key text; returns it with its digest and hint.';

CREATE FUNCTION apikeys_internal.digest_of(key text, hash_rule text DEFAULT 'sha256') RETURNS apikeys.digest
LANGUAGE C IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'apikeys_key_digest';
COMMENT ON FUNCTION apikeys_internal.digest_of(text, text) IS
'Digest of a key text, by a hash rule as in column key.hash_rule. Errors: 22023 longer than 512 bytes, fewer '
'than 4 to hash, blanks at an end, control or invisible characters, a text in the form of our keys with a wrong '
'checksum, or unknown rule.';

CREATE FUNCTION apikeys_internal.require_hash_rule(hash_rule text) RETURNS void
LANGUAGE C IMMUTABLE AS 'MODULE_PATHNAME', 'apikeys_hash_rule_require';
COMMENT ON FUNCTION apikeys_internal.require_hash_rule(text) IS 'Raise if there is no hash rule of that name. Errors: 22023.';

-- Changes.

CREATE FUNCTION apikeys_internal.alias_fault(account text, alias text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN format('account "%s" has a key with the alias "%s" already', account, alias);
COMMENT ON FUNCTION apikeys_internal.alias_fault(text, text) IS 'That another key of an account has an alias.';

CREATE FUNCTION apikeys_internal.refuse_taken_alias(account_id bigint, alias text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.refuse(
        '23505', 'key.alias',
        apikeys_internal.alias_fault((SELECT a.name FROM apikeys.account AS a WHERE a.account_id = refuse_taken_alias.account_id), alias),
        NULL, NULL, 'key_account_id_alias_key');
END
$$;
COMMENT ON FUNCTION apikeys_internal.refuse_taken_alias(bigint, text) IS
'Raise that another unarchived key of the account has the alias. Errors: 23505.';

CREATE FUNCTION apikeys_internal.check_key_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.expires_at := nullif(NEW.expires_at, 'infinity');
    IF NEW.expires_at IS DISTINCT FROM OLD.expires_at THEN
        PERFORM apikeys_internal.new_expiry(NULL, NEW.expires_at, NULL);
    END IF;
    IF (NEW.alias <> OLD.alias OR OLD.archived_at IS NOT NULL) AND NEW.archived_at IS NULL
       AND EXISTS (SELECT FROM apikeys.key AS k
                   WHERE k.account_id = NEW.account_id AND k.alias = NEW.alias AND k.archived_at IS NULL AND k.key_id <> NEW.key_id) THEN
        PERFORM apikeys_internal.refuse_taken_alias(NEW.account_id, NEW.alias);
    ELSIF NEW.archived_at IS NOT NULL AND (NEW.active, NEW.expires_at, NEW.archived_at) IS DISTINCT FROM (OLD.active, OLD.expires_at, OLD.archived_at)
          AND apikeys_internal.key_counts(NEW.active, NEW.expires_at, apikeys_internal.wall_clock()) THEN
        PERFORM apikeys_internal.refuse('55000', 'key.key_id', format('key %s is archived', NEW.key_id), 'An archived key stays inactive or expired.',
                                        'Call unarchive_key first.');
    END IF;
    IF NEW.expires_at IS DISTINCT FROM OLD.expires_at THEN
        NEW.expiry_set_at := apikeys_internal.wall_clock();
    END IF;
    -- A new tier takes the place of the key's own limits. If the former tier does not exist, it was renamed: no new tier.
    IF NEW.tier <> coalesce(OLD.tier, '') AND NEW.limits::text = OLD.limits::text
       AND (OLD.tier IS NULL OR EXISTS (SELECT FROM apikeys.tier AS t WHERE t.name = OLD.tier)) THEN
        NEW.limits := NULL;
    END IF;
    IF NEW.owner_limits IS NOT NULL AND (NEW.owner_limits::text, NEW.limits::text, NEW.tier) IS DISTINCT FROM (OLD.owner_limits::text, OLD.limits::text, OLD.tier) THEN
        PERFORM apikeys_internal.check_owner_limits(NEW.limits, NEW.tier, NEW.owner_limits);
    END IF;
    PERFORM apikeys_internal.check_key(NEW, OLD);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_key_update() IS
'Trigger: checks a changed key by the rules of its plan, and an archived one to stay inactive or expired. A new tier clears its limits; '
'an expiry of infinity becomes NULL.';

CREATE TRIGGER key_check_update BEFORE UPDATE ON apikeys.key
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.check_key_update();
COMMENT ON TRIGGER key_check_update ON apikeys.key IS
'Checks a changed key by the rules of its plan. A new tier clears its limits; an expiry of infinity becomes NULL.';

CREATE TRIGGER key_refuse_update BEFORE UPDATE OF tier, limits ON apikeys.key
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.refuse_update();
COMMENT ON TRIGGER key_refuse_update ON apikeys.key IS
'Refuses to change the tier or the limits of a key by a statement of a transaction that acts for somebody.';

-- Making keys.

CREATE TYPE apikeys.issued_key AS (key_id bigint, key text, account text, alias text, expires_at timestamptz);
COMMENT ON TYPE apikeys.issued_key IS
'A key with its text, as create_key and rotate_key return it. The text is shown at no other time.';

CREATE FUNCTION apikeys_internal.free_alias(account_id bigint) RETURNS text
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'apikeys_key_free_alias';
COMMENT ON FUNCTION apikeys_internal.free_alias(bigint) IS
'An alias key-<n> that no unarchived key of the account has, where n is 1 or key-<n-1> is taken. It takes few look-ups, even '
'if there are many keys.';

CREATE FUNCTION apikeys_internal.account_for_key(name text) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account;
BEGIN
    SELECT a.* INTO owner FROM apikeys.account AS a WHERE a.name = account_for_key.name AND apikeys_internal.reaches(a.account_id, true);
    IF NOT FOUND THEN
        IF apikeys_internal.accounts_are_created() AND apikeys_internal.reaches_all(true) THEN
            PERFORM apikeys_internal.add_account(name, 'default', NULL, NULL, NULL, NULL);
        END IF;
        owner := apikeys_internal.get_account(name, true);
    END IF;
    RETURN apikeys_internal.lock_account(owner.account_id);     -- its plan may have changed before
END
$$;
COMMENT ON FUNCTION apikeys_internal.account_for_key(text) IS
'Lock and return the account for a new key. If it does not exist, it is made on plan default, provided that '
'apikeys.create_accounts is on and the session may change all accounts. Errors: P0002, 42501.';

CREATE FUNCTION apikeys_internal.require_names(tier text, products text[]) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text;
BEGIN
    IF tier IS NOT NULL AND NOT EXISTS (SELECT FROM apikeys.tier AS t WHERE t.name = require_names.tier) THEN
        PERFORM apikeys_internal.refuse('P0002', 'key.tier', format('tier "%s" does not exist', tier));
    END IF;
    SELECT n.name INTO missing FROM unnest(products) AS n (name) WHERE NOT EXISTS (SELECT FROM apikeys.product AS p WHERE p.name = n.name) LIMIT 1;
    IF FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'key.products', format('product %s does not exist', apikeys_internal.quoted(missing)));
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.require_names(text, text[]) IS
'Raise if there is no such tier (NULL: none is named) or product. Errors: P0002.';

CREATE TYPE apikeys_internal.new_key AS (
    key_id bigint, account_id bigint, created_at timestamptz, expiry_set_at timestamptz, expires_at timestamptz, active boolean,
    digest apikeys.digest, hash_rule text, prefix text, hint text, alias text, category text, tier text, limits apikeys.limits,
    products text[], allowed_domains text[], allowed_ips cidr[], scopes text[], billing_type text, metadata jsonb, owner_limits apikeys.limits);
COMMENT ON TYPE apikeys_internal.new_key IS
'A key that is to be stored: columns of table key, and its products.';

CREATE FUNCTION apikeys_internal.next_key_id(account text) RETURNS bigint
LANGUAGE sql VOLATILE STRICT
RETURN apikeys.shard_hash_of_account(account)::bigint << 37 | nextval('apikeys.key_number_seq');
COMMENT ON FUNCTION apikeys_internal.next_key_id(text) IS 'The id of a new key of an account.';

CREATE FUNCTION apikeys_internal.tier_of_new_key(tier text, limits apikeys.limits, rules apikeys.plan) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE WHEN limits IS NULL THEN coalesce(tier, rules.default_tier) ELSE tier END;
$$;
COMMENT ON FUNCTION apikeys_internal.tier_of_new_key(text, apikeys.limits, apikeys.plan) IS
'The tier of a key that is created with this tier and these limits.';

-- One statement for any number of keys, so that each of many costs little.
CREATE FUNCTION apikeys_internal.store_keys(new apikeys_internal.new_key[]) RETURNS SETOF apikeys.key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made apikeys.key[];
BEGIN
    WITH stored AS (
        INSERT INTO apikeys.key (
            key_id, account_id, created_at, expiry_set_at, expires_at, active, digest, hash_rule, prefix, hint, alias, category, tier, limits,
            owner_limits, allowed_domains, allowed_ips, scopes, billing_type, metadata)
        SELECT n.key_id, n.account_id, n.created_at, nullif(n.expiry_set_at, n.created_at), n.expires_at, coalesce(n.active, true), n.digest,
               n.hash_rule, n.prefix, n.hint, n.alias, coalesce(n.category, 'production'), n.tier, n.limits,
               n.owner_limits, coalesce(n.allowed_domains, '{}'), coalesce(n.allowed_ips, '{}'),
               coalesce(n.scopes, '{}'), n.billing_type, coalesce(n.metadata, '{}')
        FROM unnest(new) AS n
        ON CONFLICT DO NOTHING
        RETURNING *
    )
    SELECT array_agg(ROW(s.*)::apikeys.key) INTO made FROM stored AS s;   -- s itself would be a record, and be cast by its text
    IF coalesce(cardinality(made), 0) < cardinality(new) THEN
        new := ARRAY(SELECT n FROM unnest(new) AS n WHERE n.key_id IN (SELECT m.key_id FROM unnest(made) AS m));
    END IF;
    IF EXISTS (SELECT FROM unnest(new) AS n WHERE n.products IS NOT NULL) THEN
        INSERT INTO apikeys.key_product (key_id, product)
        SELECT DISTINCT n.key_id, p.name FROM unnest(new) AS n, unnest(n.products) AS p (name);
    END IF;
    RETURN QUERY SELECT m.* FROM unnest(made) AS m;
END
$$;
COMMENT ON FUNCTION apikeys_internal.store_keys(apikeys_internal.new_key[]) IS
'Store new keys of locked accounts, with their products, and return them. A key is left out if the id, the digest or '
'the alias is taken. What is NULL has the default of table key.';

CREATE FUNCTION apikeys_internal.record_keys(made apikeys.key[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    way   text := apikeys_internal.acting_via();
    maker text := apikeys_internal.audit_actor();
BEGIN
    INSERT INTO apikeys.audit_log (via, actor, action, object, object_id, account_id, new)
    SELECT way, maker, 'insert', 'key', m.key_id::text, apikeys_internal.changed_account(m.account_id),
           apikeys_internal.audited_row(to_jsonb(m)) || coalesce(
               (SELECT jsonb_build_object('products', array_agg(p.product ORDER BY p.product))
                FROM apikeys.key_product AS p WHERE p.key_id = m.key_id HAVING count(*) > 0), '{}')
    FROM unnest(made) AS m;
    INSERT INTO apikeys.notice (kind, account_id, key_id, details)
    SELECT 'created', m.account_id, m.key_id, jsonb_strip_nulls(apikeys_internal.noticed_key(m)) FROM unnest(made) AS m;
    PERFORM apikeys_internal.wake_notices();
END
$$;
COMMENT ON FUNCTION apikeys_internal.record_keys(apikeys.key[]) IS
'Record new keys in the audit log, as audit() does, and notice them. Errors: as audit().';

CREATE FUNCTION apikeys_internal.add_key(
    owner apikeys.account, rules apikeys.plan, digest apikeys.digest, hash_rule text, prefix text, hint text,
    alias text, category text, tier text, limits apikeys.limits, lifetime interval, expires_at timestamptz,
    products text[], allowed_domains text[], allowed_ips cidr[], scopes text[], billing_type text, metadata jsonb, owner_limits apikeys.limits)
RETURNS apikeys.key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present   timestamptz := apikeys_internal.wall_clock();
    new_alias text := coalesce(alias, apikeys_internal.free_alias(owner.account_id));
    new_id    bigint;
    made      apikeys.key;
BEGIN
    PERFORM apikeys_internal.checked('key.alias', alias),
            apikeys_internal.checked('key.category', category),
            apikeys_internal.checked('key.tier', tier),
            apikeys_internal.checked('key.prefix', prefix),
            apikeys_internal.checked('key.hint', hint),
            apikeys_internal.checked('key.products', products),
            apikeys_internal.checked('key.allowed_domains', allowed_domains),
            apikeys_internal.checked('key.allowed_ips', allowed_ips),
            apikeys_internal.checked('key.scopes', scopes),
            apikeys_internal.checked('key.billing_type', billing_type),
            apikeys_internal.checked('key.metadata', metadata);
    expires_at := apikeys_internal.new_expiry(
        CASE WHEN expires_at IS NULL THEN coalesce(lifetime, rules.default_lifetime) ELSE lifetime END, expires_at, rules);
    IF tier IS NOT NULL OR products IS NOT NULL THEN
        PERFORM apikeys_internal.require_names(tier, products);
    END IF;

    new_id := apikeys_internal.next_key_id(owner.name);
    SELECT n.* INTO made FROM apikeys_internal.store_keys(ARRAY[ROW(
        new_id, owner.account_id, present, NULL, expires_at, true, digest, hash_rule, prefix, hint, new_alias, category,
        apikeys_internal.tier_of_new_key(tier, limits, rules), limits, products, allowed_domains, allowed_ips, scopes, billing_type,
        metadata, owner_limits)::apikeys_internal.new_key]) AS n;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM apikeys.key AS k WHERE k.digest OPERATOR(apikeys.=) add_key.digest) THEN
            PERFORM apikeys_internal.refuse('23505', 'key.digest', 'this key exists already', NULL, NULL, 'key_digest_key');
        ELSIF EXISTS (SELECT FROM apikeys.key AS k WHERE k.key_id = new_id) THEN
            PERFORM apikeys_internal.refuse(
                '23505', 'key.key_id', format('the id of the new key, %s, is that of another key', new_id), NULL,
                CASE WHEN apikeys_internal.acts_as_admin()
                     THEN 'The sequence apikeys.key_number_seq is behind the keys: set it to a number that no key has had.' END,
                'key_pkey');
        ELSIF EXISTS (SELECT FROM apikeys.key AS k WHERE k.account_id = owner.account_id AND k.alias = new_alias AND k.archived_at IS NULL) THEN
            PERFORM apikeys_internal.refuse_taken_alias(owner.account_id, new_alias);
        END IF;
        RAISE serialization_failure USING
            MESSAGE = 'a key like the new one was deleted at the same time', HINT = 'Try again.';
    END IF;
    IF apikeys_internal.plan_has_rules(rules) THEN
        PERFORM apikeys_internal.require_plan(made, rules, NULL);
    END IF;
    IF owner_limits IS NOT NULL THEN
        PERFORM apikeys_internal.check_owner_limits(made.limits, made.tier, owner_limits);
    END IF;
    PERFORM apikeys_internal.check_giver(made, NULL);
    PERFORM apikeys_internal.record_keys(ARRAY[made]);
    RETURN made;
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_key(apikeys.account, apikeys.plan, apikeys.digest, text, text, text, text, text, text,
    apikeys.limits, interval, timestamptz, text[], text[], cidr[], text[], text, jsonb, apikeys.limits) IS
'Check and store a new key of a locked account. Errors: as create_key.';

CREATE FUNCTION apikeys.create_key(
    account text, alias text DEFAULT NULL, category text DEFAULT NULL, tier text DEFAULT NULL, limits apikeys.limits DEFAULT NULL,
    lifetime interval DEFAULT NULL, expires_at timestamptz DEFAULT NULL, products text[] DEFAULT NULL,
    allowed_domains text[] DEFAULT NULL, allowed_ips cidr[] DEFAULT NULL, scopes text[] DEFAULT NULL,
    billing_type text DEFAULT NULL, metadata jsonb DEFAULT NULL, prefix text DEFAULT NULL, owner_limits apikeys.limits DEFAULT NULL)
RETURNS apikeys.issued_key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account;
    rules apikeys.plan;
    drawn record;
    made  apikeys.key;
BEGIN
    IF coalesce(tier, limits::text) IS NOT NULL AND NOT apikeys_internal.acts_as_admin() THEN
        PERFORM apikeys_internal.refuse(
            '42501', CASE WHEN tier IS NULL THEN 'key.limits' ELSE 'key.tier' END,
            'only members of apikeys_admin may choose the tier or the limits of a key', NULL,
            'Leave them out: the plan of the account has a default.');
    END IF;
    owner := apikeys_internal.account_for_key(account);
    SELECT p.* INTO STRICT rules FROM apikeys.plan AS p WHERE p.name = owner.plan;
    IF rules.lifetimes IS NOT NULL AND isfinite(expires_at) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.expires_at', format('plan "%s" offers lifetimes, not dates', rules.name), NULL,
                                        format('It offers: %s.', array_to_string(rules.lifetimes, ', ')), 'lifetimes');
    END IF;
    SELECT d.* INTO drawn FROM apikeys_internal.draw_key(coalesce(apikeys_internal.checked('key.prefix', prefix), rules.key_prefix), owner.name) AS d;
    made := apikeys_internal.add_key(
        owner, rules, drawn.digest, 'sha256', coalesce(prefix, rules.key_prefix), drawn.hint, alias, category, tier, limits,
        lifetime, expires_at, products, allowed_domains, allowed_ips, scopes, billing_type, metadata, owner_limits);
    RETURN ROW(made.key_id, drawn.key, owner.name, made.alias, made.expires_at)::apikeys.issued_key;
END
$$;
COMMENT ON FUNCTION apikeys.create_key(text, text, text, text, apikeys.limits, interval, timestamptz, text[], text[], cidr[],
    text[], text, jsonb, text, apikeys.limits) IS
'Make a key and return its text, which is shown at no other time. Write SELECT * FROM apikeys.create_key(...): '
'(create_key(...)).* would make one key for each column.
An unknown account is made on plan default, unless apikeys.create_accounts is off. Defaults: alias key-<n>, '
'category production; prefix, lifetime and tier are the plan''s. Only members of apikeys_admin may give tier or '
'limits (the key''s own, in place of a tier''s). owner_limits: what its owner sets below these. expires_at => ''infinity'': the key never expires. products, '
'allowed_domains (example.com, *.example.com) and allowed_ips: what the key is good for; empty: all. scopes: what '
'it may do. Texts and lists have bounds, see apikeys_internal.text_rules(); none may have a key text in it.
Errors: P0002 unknown account, tier or product; 22023 bad argument, not allowed by the plan, or no product though '
'the plan allows one key for each product; 23505 the alias is taken, or another key has the product; 53400 the plan '
'allows no more keys; 42501 tier or limits given by a role that may not; 40001 try again.';

-- Switching keys.

CREATE FUNCTION apikeys.activate_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    UPDATE apikeys.key AS k SET active = true WHERE k.key_id = activate_key.key_id;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.activate_key(bigint) IS
'Permit the use of an inactive key again. Errors: P0002 unknown key; 53400 the plan allows no more keys; if the '
'plan allows one key for each product: 23505 another key has a product of this one, 22023 this one has no product; '
'55000 it is archived.';

CREATE FUNCTION apikeys.deactivate_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    UPDATE apikeys.key AS k SET active = false WHERE k.key_id = deactivate_key.key_id;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.deactivate_key(bigint) IS
'Refuse a key from now on, with the verdict inactive. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.suspend_key(key_id bigint, reason text) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.require_provider();
    reason := apikeys_internal.checked('key.suspended_reason', reason);
    IF NOT apikeys_internal.has_text(reason) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.suspended_reason',
            'a suspension must have a reason', NULL, NULL, 'key_suspended_reason_check');
    END IF;
    PERFORM apikeys_internal.key_to_change(key_id);
    UPDATE apikeys.key AS k SET suspended_at = coalesce(k.suspended_at, apikeys_internal.wall_clock()), suspended_reason = reason
    WHERE k.key_id = suspend_key.key_id;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.suspend_key(bigint, text) IS
'Refuse a key from now on, with the verdict suspended; only the provider can undo that. A second suspension changes '
'the reason. Errors: P0002 unknown key; 22023 no reason, or a longer one than 64 kB.';

CREATE FUNCTION apikeys.unsuspend_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.require_provider();
    PERFORM apikeys_internal.key_to_change(key_id);
    UPDATE apikeys.key AS k SET suspended_at = NULL, suspended_reason = NULL WHERE k.key_id = unsuspend_key.key_id;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.unsuspend_key(bigint) IS 'Lift the suspension of a key. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.delete_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone apikeys.key_list := apikeys_internal.key_to_change(key_id);
BEGIN
    DELETE FROM apikeys.key AS k WHERE k.key_id = gone.key_id AND (k.suspended_at IS NULL OR apikeys_internal.acts_as_admin());
    IF NOT FOUND THEN
        PERFORM apikeys.get_key(key_id);    -- another transaction may have deleted it
        PERFORM apikeys_internal.refuse('42501', 'key.key_id',
            format('key %s is suspended', key_id), NULL, 'Only members of apikeys_admin may delete it.');
    END IF;
    RETURN gone;
END
$$;
COMMENT ON FUNCTION apikeys.delete_key(bigint) IS
'Delete a key that was never used; a used key can only be deactivated. Only members of apikeys_admin may delete a '
'suspended key. Returns the deleted row. Errors: P0002 unknown key; 23503 the key was used; 42501 it is suspended.';
