-- Keys: creating, importing, activating, suspending and deleting them.
--
-- create_key and import_key pass a new row to add_key. add_key and the UPDATE trigger on table key call check_key (planrule.sql)
-- for the rules of the plan. So every change of a row is checked, and a restored row, which was checked before, is not.

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

CREATE FUNCTION apikeys_internal.refuse_taken_alias(account_id bigint, alias text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.refuse(
        '23505', 'key.alias',
        format('account "%s" has a key with the alias "%s" already',
               (SELECT a.name FROM apikeys.account AS a WHERE a.account_id = refuse_taken_alias.account_id), alias),
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
    IF NEW.expires_at IS DISTINCT FROM OLD.expires_at AND NEW.expires_at <= apikeys_internal.wall_clock() THEN
        PERFORM apikeys_internal.refuse_past_expiry();
    ELSIF (NEW.alias <> OLD.alias OR OLD.archived_at IS NOT NULL) AND NEW.archived_at IS NULL
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

-- Making keys.

CREATE TYPE apikeys.issued_key AS (key_id bigint, key text, account text, alias text, expires_at timestamptz);
COMMENT ON TYPE apikeys.issued_key IS
'A key with its text, as create_key and rotate_key return it. The text is shown at no other time.';

CREATE FUNCTION apikeys_internal.free_alias(account_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken  bigint := 0;
    free   bigint := 1;
    middle bigint;
BEGIN
    WHILE EXISTS (SELECT FROM apikeys.key AS k WHERE k.account_id = free_alias.account_id AND k.archived_at IS NULL AND k.alias = 'key-' || free) LOOP
        taken := free;
        free := 2 * free;
    END LOOP;
    WHILE free - taken > 1 LOOP
        middle := (taken + free) / 2;
        IF EXISTS (SELECT FROM apikeys.key AS k WHERE k.account_id = free_alias.account_id AND k.archived_at IS NULL AND k.alias = 'key-' || middle) THEN
            taken := middle;
        ELSE
            free := middle;
        END IF;
    END LOOP;
    RETURN 'key-' || free;
END
$$;
COMMENT ON FUNCTION apikeys_internal.free_alias(bigint) IS
'An alias key-<n> that no unarchived key of the account has, where n is 1 or key-<n-1> is taken. It takes few look-ups, even '
'if there are many keys.';

CREATE FUNCTION apikeys_internal.account_for_key(name text) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account;
BEGIN
    IF apikeys_internal.accounts_are_created() AND apikeys_internal.reaches_all(true)
       AND NOT EXISTS (SELECT FROM apikeys.account AS a WHERE a.name = account_for_key.name) THEN
        PERFORM apikeys_internal.add_account(name, 'default', NULL, NULL, NULL, NULL);
    END IF;
    owner := apikeys_internal.get_account(name, true);
    PERFORM apikeys_internal.lock_account(owner.account_id);
    RETURN apikeys_internal.get_account(name, true);   -- read again under the lock: its plan may have changed
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

CREATE FUNCTION apikeys_internal.add_key(
    owner apikeys.account, rules apikeys.plan, digest apikeys.digest, hash_rule text, prefix text, hint text,
    alias text, category text, tier text, limits apikeys.limits, lifetime interval, expires_at timestamptz,
    products text[], allowed_domains text[], allowed_ips cidr[], scopes text[], billing_type text, metadata jsonb)
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
    IF lifetime IS NOT NULL AND expires_at IS NOT NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'key.lifetime', 'a key has a lifetime or an expiry, not both');
    ELSIF expires_at <= present THEN
        PERFORM apikeys_internal.refuse_past_expiry();
    END IF;
    PERFORM apikeys_internal.require_names(tier, products);

    new_id := apikeys.shard_hash_of_account(owner.name)::bigint << 37 | nextval('apikeys.key_number_seq');
    INSERT INTO apikeys.key (
        key_id, account_id, created_at, expires_at, digest, hash_rule, prefix, hint, alias, category, tier, limits,
        allowed_domains, allowed_ips, scopes, billing_type, metadata)
    VALUES (
        new_id, owner.account_id, present,
        CASE
            WHEN add_key.expires_at IS NULL THEN apikeys_internal.expiry_after(coalesce(add_key.lifetime, rules.default_lifetime), rules)
            ELSE nullif(add_key.expires_at, 'infinity')
        END,
        add_key.digest, add_key.hash_rule, add_key.prefix, add_key.hint,
        new_alias, coalesce(add_key.category, 'production'),
        CASE WHEN add_key.limits IS NULL THEN coalesce(add_key.tier, rules.default_tier) ELSE add_key.tier END, add_key.limits,
        coalesce(add_key.allowed_domains, '{}'), coalesce(add_key.allowed_ips, '{}'), coalesce(add_key.scopes, '{}'),
        add_key.billing_type, coalesce(add_key.metadata, '{}'))
    ON CONFLICT DO NOTHING
    RETURNING * INTO made;
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
    INSERT INTO apikeys.key_product (key_id, product) SELECT DISTINCT made.key_id, p.name FROM unnest(add_key.products) AS p (name);
    PERFORM apikeys_internal.check_key(made, NULL);
    PERFORM apikeys_internal.audit('insert', 'key', made.key_id::text, made.account_id, NULL,
                          apikeys_internal.audited_row(to_jsonb(made)) || jsonb_strip_nulls(jsonb_build_object('products', add_key.products)));
    PERFORM apikeys_internal.add_key_notice('created', made);
    RETURN made;
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_key(apikeys.account, apikeys.plan, apikeys.digest, text, text, text, text, text, text,
    apikeys.limits, interval, timestamptz, text[], text[], cidr[], text[], text, jsonb) IS
'Check and store a new key of a locked account. Errors: as create_key.';

CREATE FUNCTION apikeys.create_key(
    account text, alias text DEFAULT NULL, category text DEFAULT NULL, tier text DEFAULT NULL, limits apikeys.limits DEFAULT NULL,
    lifetime interval DEFAULT NULL, expires_at timestamptz DEFAULT NULL, products text[] DEFAULT NULL,
    allowed_domains text[] DEFAULT NULL, allowed_ips cidr[] DEFAULT NULL, scopes text[] DEFAULT NULL,
    billing_type text DEFAULT NULL, metadata jsonb DEFAULT NULL, prefix text DEFAULT NULL)
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
        lifetime, expires_at, products, allowed_domains, allowed_ips, scopes, billing_type, metadata);
    RETURN ROW(made.key_id, drawn.key, owner.name, made.alias, made.expires_at)::apikeys.issued_key;
END
$$;
COMMENT ON FUNCTION apikeys.create_key(text, text, text, text, apikeys.limits, interval, timestamptz, text[], text[], cidr[],
    text[], text, jsonb, text) IS
'Make a key and return its text, which is shown at no other time. Write SELECT * FROM apikeys.create_key(...): '
'(create_key(...)).* would make one key for each column.
An unknown account is made on plan default, unless apikeys.create_accounts is off. Defaults: alias key-<n>, '
'category production; prefix, lifetime and tier are the plan''s. Only members of apikeys_admin may give tier or '
'limits (the key''s own, in place of a tier''s). expires_at => ''infinity'': the key never expires. products, '
'allowed_domains (example.com, *.example.com) and allowed_ips: what the key is good for; empty: all. scopes: what '
'it may do. Texts and lists have bounds, see apikeys_internal.text_rules(); none may have a key text in it.
Errors: P0002 unknown account, tier or product; 22023 bad argument, not allowed by the plan, or no product though '
'the plan allows one key for each product; 23505 the alias is taken, or another key has the product; 53400 the plan '
'allows no more keys; 42501 tier or limits given by a role that may not; 40001 try again.';

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
    owner    apikeys.account;
    rules    apikeys.plan;
    made     apikeys.key;
    ellipsis text := '...';
BEGIN
    IF (key IS NULL) = (digest IS NULL) THEN
        PERFORM apikeys_internal.refuse('22023', 'key.key', 'give either the text of the key or its digest');
    END IF;
    PERFORM apikeys_internal.require_hash_rule(hash_rule), apikeys_internal.checked('key.hint', hint);
    -- A separate statement: in an expression, the planner would compute the character in every encoding.
    IF getdatabaseencoding() = 'UTF8' THEN
        ellipsis := chr(8230);
    END IF;
    IF position(key IN hint) > 0 THEN
        PERFORM apikeys_internal.refuse('22023', 'key.hint', 'the hint must not contain the key');
    END IF;
    digest := coalesce(digest, apikeys_internal.digest_of(key, hash_rule));
    IF EXISTS (SELECT FROM apikeys.key AS k WHERE k.previous_digest OPERATOR(apikeys.=) import_key.digest) THEN
        PERFORM apikeys_internal.refuse('23505', 'key.digest', 'this key exists already', NULL, NULL, 'key_digest_key');
    END IF;
    owner := apikeys_internal.account_for_key(account);
    SELECT p.* INTO STRICT rules FROM apikeys.plan AS p WHERE p.name = owner.plan;
    made := apikeys_internal.add_key(
        owner, rules, digest, hash_rule, coalesce(prefix, ''),
        coalesce(hint, concat(nullif(prefix, '') || '_', ellipsis, CASE WHEN length(key) >= 16 THEN right(key, 4) END)),
        alias, category, tier, limits, lifetime, expires_at, products, allowed_domains, allowed_ips, scopes, billing_type, metadata);
    RETURN apikeys.get_key(made.key_id);
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
