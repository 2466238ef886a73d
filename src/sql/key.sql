-- Keys: making, rotating, switching, deleting and listing them.
--
-- create_key and import_key hand a new row to add_key; it and the UPDATE trigger on table key ask check_key for the rules of
-- the plan. So a changed row is checked whoever changes it, and a restored one, which was checked before, is not.

CREATE FUNCTION apikeys.shard_hash(key text) RETURNS int
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_shard_hash_text';
COMMENT ON FUNCTION apikeys.shard_hash(text) IS
'The 16 bits that lead to the shard of a key, from its text. Imported key texts carry none: the result says nothing about them.';

CREATE FUNCTION apikeys.shard_hash(key_id bigint) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_shard_hash_id';
COMMENT ON FUNCTION apikeys.shard_hash(bigint) IS 'The 16 bits that lead to the shard of a key, from its id.';

CREATE FUNCTION apikeys.shard_hash_of_account(name text) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_shard_hash_account';
COMMENT ON FUNCTION apikeys.shard_hash_of_account(text) IS
'The 16 bits that lead to the shard of an account and its keys: the first two bytes of the SHA-256 of its name.';

CREATE FUNCTION apikeys_internal.draw_key(prefix text, account text, OUT key text, OUT digest apikeys.digest, OUT hint text)
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'apikeys_key_draw';
COMMENT ON FUNCTION apikeys_internal.draw_key(text, text) IS 'A new key text with its digest and hint. Internal.';

CREATE FUNCTION apikeys_internal.digest_of(key text, hash_rule text DEFAULT 'sha256') RETURNS apikeys.digest
LANGUAGE C IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'apikeys_key_digest';
COMMENT ON FUNCTION apikeys_internal.digest_of(text, text) IS
'Digest of a key text, by a hash rule as in column key.hash_rule. Internal. Errors: 22023 longer than 512 bytes, nothing to hash, our shape with a wrong checksum, or unknown rule.';

CREATE FUNCTION apikeys_internal.key_state(active boolean, suspended boolean, expires_at timestamptz) RETURNS text
LANGUAGE C VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_key_state';
COMMENT ON FUNCTION apikeys_internal.key_state(boolean, boolean, timestamptz) IS
'One word for the state of a key: suspended, inactive, expired, expiring (within apikeys.expiry_notice) or active.';

-- Lists.

-- STABLE, though it changes from one moment to the next: so that the planner leaves it out where nobody asks for it.
CREATE FUNCTION apikeys_internal.key_used(key_id bigint, limits apikeys.limits) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp COST 1000
AS $$
BEGIN
    IF limits::text = '' OR NOT EXISTS (SELECT FROM apikeys.key AS k WHERE k.key_id = key_used.key_id AND apikeys_internal.may_manage(k.account_id)) THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT string_agg(concat(u.used, '/', u.cap, ' ', u.limit_window), ', ' ORDER BY u.place)
            FROM apikeys_internal.limit_status('k', key_used.key_id, key_used.limits) WITH ORDINALITY AS u (limit_window, cap, used, remaining, next_free_at, place));
END
$$;
COMMENT ON FUNCTION apikeys_internal.key_used(bigint, apikeys.limits) IS 'How the limits given stand for a key, in one line; NULL without any. Internal: part of the view key_list.';

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
WHERE (SELECT apikeys_internal.managed_accounts()) IS NULL OR k.account_id = ANY ((SELECT apikeys_internal.managed_accounts())::bigint[]);
COMMENT ON VIEW apikeys.key_list IS 'All keys that the session''s user may manage, without what is secret.';
COMMENT ON COLUMN apikeys.key_list.state IS 'active, expiring (within apikeys.expiry_notice), expired, inactive (the key or its account) or suspended.';
COMMENT ON COLUMN apikeys.key_list.limits IS 'The limits in effect: its own, else its tier''s; empty: none.';
COMMENT ON COLUMN apikeys.key_list.products IS 'The products that it is assigned to; empty: good for all.';
COMMENT ON COLUMN apikeys.key_list.last_used_at IS 'Time of the last request, admitted or denied; NULL: never used.';
COMMENT ON COLUMN apikeys.key_list.used IS
'For each limit in effect: units used in the rolling window now / cap with what is granted on top, and the window, e.g. 5/1000 day, 70/20000 month; NULL: no limits. It takes longest: do not select it where you need it not. NULL in the rows that functions return, so that these depend on nothing but the key.';

CREATE FUNCTION apikeys.get_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list;
BEGIN
    SELECT l.key_id, l.account, l.alias, l.category, l.hint, l.state, l.tier, l.limits, l.products, l.created_at, l.rotated_at, l.expires_at,
           l.last_used_at, NULL
    INTO listed FROM apikeys.key_list AS l WHERE l.key_id = get_key.key_id;
    IF NOT FOUND THEN
        RAISE no_data_found USING MESSAGE = format('key %s does not exist', coalesce(key_id::text, 'NULL'));
    END IF;
    RETURN listed;
END
$$;
COMMENT ON FUNCTION apikeys.get_key(bigint) IS 'The key''s row of the view key_list, without used. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.find_key(account text, alias text) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account);
    found_id bigint := (SELECT k.key_id FROM apikeys.key AS k WHERE k.account_id = owner.account_id AND k.alias = find_key.alias);
BEGIN
    IF found_id IS NULL THEN
        RAISE no_data_found USING MESSAGE = format('account "%s" has no key with the alias %s', account, apikeys_internal.quoted(alias));
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION apikeys.find_key(text, text) IS 'Id of the key with that alias. Errors: P0002 unknown account or alias.';

-- What may be written into a row.

-- The constraints of the table say the same, but with their names, and to its owner with a detail that shows the digest.
CREATE FUNCTION apikeys_internal.check_settings(
    alias text, category text, allowed_domains text[], allowed_ips cidr[], scopes text[], billing_type text, metadata jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    fault text := CASE
        WHEN octet_length(alias) NOT BETWEEN 1 AND 512 THEN 'an alias must have 1 to 512 bytes'
        WHEN octet_length(category) NOT BETWEEN 1 AND 256 THEN 'a category must have 1 to 256 bytes'
        WHEN NOT apikeys_internal.domains_are_valid(allowed_domains) THEN 'an allowed domain must look like example.com or *.example.com'
        WHEN array_position(allowed_ips, NULL) IS NOT NULL THEN 'an allowed address must not be NULL'
        WHEN array_position(scopes, NULL) IS NOT NULL THEN 'a scope must not be NULL'
        WHEN billing_type = '' THEN 'a billing type must not be empty'
        WHEN jsonb_typeof(metadata) <> 'object' THEN 'metadata must be a JSON object'
    END;
BEGIN
    IF fault IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = fault;
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_settings(text, text, text[], cidr[], text[], text, jsonb) IS
'Whether a key can have such settings; NULL: it has the default. Internal. Errors: 22023.';

CREATE FUNCTION apikeys_internal.refuse_taken_alias(account_id bigint, alias text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE unique_violation USING
        MESSAGE = format('account "%s" has a key with the alias "%s" already',
                         (SELECT a.name FROM apikeys.account AS a WHERE a.account_id = refuse_taken_alias.account_id), alias);
END
$$;
COMMENT ON FUNCTION apikeys_internal.refuse_taken_alias(bigint, text) IS 'What is said of an alias that another key of the account has. Internal. Errors: 23505.';

CREATE FUNCTION apikeys_internal.check_key_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.expires_at := nullif(NEW.expires_at, 'infinity');
    IF NOT isfinite(NEW.expires_at) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'an expiry must be finite', HINT = 'To refuse the key from now on, deactivate it.';
    ELSIF NEW.alias <> OLD.alias AND EXISTS (SELECT FROM apikeys.key AS k WHERE k.account_id = NEW.account_id AND k.alias = NEW.alias) THEN
        PERFORM apikeys_internal.refuse_taken_alias(NEW.account_id, NEW.alias);
    END IF;
    PERFORM apikeys_internal.check_settings(NEW.alias, NEW.category, NEW.allowed_domains, NEW.allowed_ips, NEW.scopes, NEW.billing_type, NEW.metadata);
    -- A tier granted takes the place of the key's own limits. Where the tier that it had is gone, it was renamed.
    IF NEW.tier <> coalesce(OLD.tier, '') AND NEW.limits::text = OLD.limits::text
       AND (OLD.tier IS NULL OR EXISTS (SELECT FROM apikeys.tier AS t WHERE t.name = OLD.tier)) THEN
        NEW.limits := NULL;
    END IF;
    PERFORM apikeys_internal.check_key(NEW, OLD);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_key_update() IS 'Trigger: a changed key obeys the rules of its plan; a tier granted clears its limits; an expiry of infinity is none.';

CREATE TRIGGER key_check_update BEFORE UPDATE ON apikeys.key
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.check_key_update();
COMMENT ON TRIGGER key_check_update ON apikeys.key IS 'A changed key obeys the rules of its plan; a tier granted clears its limits; an expiry of infinity is none.';

-- Making keys.

CREATE TYPE apikeys.issued_key AS (key_id bigint, key text, account text, alias text, expires_at timestamptz);
COMMENT ON TYPE apikeys.issued_key IS 'A key with its text, as create_key and rotate_key give it: the only time that it is shown.';

CREATE FUNCTION apikeys_internal.free_alias(account_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken  bigint := 0;
    free   bigint := 1;
    middle bigint;
BEGIN
    WHILE EXISTS (SELECT FROM apikeys.key AS k WHERE k.account_id = free_alias.account_id AND k.alias = 'key-' || free) LOOP
        taken := free;
        free := 2 * free;
    END LOOP;
    WHILE free - taken > 1 LOOP
        middle := (taken + free) / 2;
        IF EXISTS (SELECT FROM apikeys.key AS k WHERE k.account_id = free_alias.account_id AND k.alias = 'key-' || middle) THEN
            taken := middle;
        ELSE
            free := middle;
        END IF;
    END LOOP;
    RETURN 'key-' || free;
END
$$;
COMMENT ON FUNCTION apikeys_internal.free_alias(bigint) IS
'An alias key-<n> that no key of the account has, where n is 1 or key-<n-1> is taken. Few look-ups, however many keys there are. Internal.';

CREATE FUNCTION apikeys_internal.account_for_key(name text) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account;
BEGIN
    IF apikeys_internal.accounts_are_created() AND apikeys_internal.managed_accounts() IS NULL
       AND NOT EXISTS (SELECT FROM apikeys.account AS a WHERE a.name = account_for_key.name) THEN
        PERFORM apikeys_internal.add_account(name, 'default', NULL, NULL, NULL, NULL);
    END IF;
    owner := apikeys_internal.get_account(name);
    PERFORM apikeys_internal.lock_account(owner.account_id);
    RETURN apikeys_internal.get_account(name);   -- as it is now that it is locked: its plan may have changed
END
$$;
COMMENT ON FUNCTION apikeys_internal.account_for_key(text) IS
'The account that gets a new key, locked. Where it is unknown it is made on plan default, if apikeys.create_accounts is on and the session''s user is not bound to accounts. Internal.';

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
    fault     text;
    made      apikeys.key;
BEGIN
    PERFORM apikeys_internal.check_settings(alias, category, allowed_domains, allowed_ips, scopes, billing_type, metadata);
    fault := CASE
        WHEN lifetime IS NOT NULL AND expires_at IS NOT NULL THEN 'a key has a lifetime or an expiry, not both'
        WHEN expires_at <= present THEN 'the expiry of a new key must lie in the future'
    END;
    IF fault IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = fault;
    END IF;
    SELECT format('%s %s does not exist', wanted.kind, apikeys_internal.quoted(wanted.name)) INTO fault
    FROM (SELECT 'tier', add_key.tier WHERE add_key.tier IS NOT NULL
          UNION ALL SELECT 'product', p.name FROM unnest(add_key.products) AS p (name)) AS wanted (kind, name)
    WHERE NOT EXISTS (SELECT FROM apikeys.tier AS t WHERE wanted.kind = 'tier' AND t.name = wanted.name)
      AND NOT EXISTS (SELECT FROM apikeys.product AS p WHERE wanted.kind = 'product' AND p.name = wanted.name)
    LIMIT 1;
    IF FOUND THEN
        RAISE no_data_found USING MESSAGE = fault;
    END IF;

    INSERT INTO apikeys.key (
        key_id, account_id, created_at, expires_at, digest, hash_rule, prefix, hint, alias, category, tier, limits,
        allowed_domains, allowed_ips, scopes, billing_type, metadata)
    VALUES (
        apikeys.shard_hash_of_account(owner.name)::bigint << 37 | nextval('apikeys.key_number_seq'), owner.account_id, present,
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
            RAISE unique_violation USING MESSAGE = 'this key exists already';
        END IF;
        PERFORM apikeys_internal.refuse_taken_alias(owner.account_id, new_alias);
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
'Check and store a new key of an account that is locked. Internal. Errors: as create_key.';

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
    IF coalesce(tier, limits::text) IS NOT NULL AND NOT apikeys_internal.session_is_admin() THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'only members of apikeys_admin may choose the tier or the limits of a key',
            HINT = 'Leave them out: the plan of the account has a default.';
    END IF;
    owner := apikeys_internal.account_for_key(account);
    SELECT p.* INTO STRICT rules FROM apikeys.plan AS p WHERE p.name = owner.plan;
    IF rules.lifetimes IS NOT NULL AND isfinite(expires_at) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('plan "%s" offers lifetimes, not dates', rules.name),
            HINT = format('It offers: %s.', array_to_string(rules.lifetimes, ', '));
    END IF;
    SELECT d.* INTO drawn FROM apikeys_internal.draw_key(coalesce(prefix, rules.key_prefix), owner.name) AS d;
    made := apikeys_internal.add_key(
        owner, rules, drawn.digest, 'sha256', coalesce(prefix, rules.key_prefix), drawn.hint, alias, category, tier, limits,
        lifetime, expires_at, products, allowed_domains, allowed_ips, scopes, billing_type, metadata);
    RETURN ROW(made.key_id, drawn.key, owner.name, made.alias, made.expires_at)::apikeys.issued_key;
END
$$;
COMMENT ON FUNCTION apikeys.create_key(text, text, text, text, apikeys.limits, interval, timestamptz, text[], text[], cidr[],
    text[], text, jsonb, text) IS
'Make a key and show its text, this once. Write SELECT * FROM apikeys.create_key(...): (create_key(...)).* would make a key a column.
An unknown account is made on plan default, unless apikeys.create_accounts is off. Without them: alias key-<n>, category production, prefix, lifetime and tier of the plan. Members of apikeys_admin alone may give tier or limits (of its own, instead of a tier''s). expires_at => ''infinity'': never. Lists: products, domains (example.com, *.example.com) and networks that it is good for, empty: all; scopes: what it may do.
Errors: P0002 unknown account, tier or product; 22023 bad argument, not in the plan, or no product where the plan says one key a product; 23505 alias taken, or product has a key; 53400 more keys than the plan has; 42501.';

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
        RAISE invalid_parameter_value USING MESSAGE = 'give either the text of the key or its digest';
    ELSIF coalesce(hash_rule, '') NOT IN ('sha256', 'sha256_after_bar', 'sha256_after_underscore') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('unknown hash rule %s', apikeys_internal.quoted(hash_rule)),
            HINT = 'The rules are sha256, sha256_after_bar and sha256_after_underscore.';
    END IF;
    -- A statement of its own: inside an expression, the planner would make the character in any encoding.
    IF getdatabaseencoding() = 'UTF8' THEN
        ellipsis := chr(8230);
    END IF;
    IF position(key IN hint) > 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the hint must not contain the key';
    END IF;
    digest := coalesce(digest, apikeys_internal.digest_of(key, hash_rule));
    IF EXISTS (SELECT FROM apikeys.key AS k WHERE k.previous_digest OPERATOR(apikeys.=) import_key.digest) THEN
        RAISE unique_violation USING MESSAGE = 'this key exists already';
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
'Take over a key that another system has issued: by its text, of which only the digest is stored, or by its SHA-256 digest. hash_rule says what the digest is made of: sha256 the whole text, sha256_after_bar what follows the last | (Laravel Sanctum), sha256_after_underscore what follows the last _ (prefixed API keys).
The other arguments are those of create_key. A text that looks like a key of ours must have the right checksum: with the prefix of a plan it would be refused unseen. Where no plan will ever use its prefix, import its digest.
Errors: those of create_key; 22023 neither or both of key and digest, no key text, wrong checksum; 23505 the key exists already.';

-- Changing keys.

CREATE FUNCTION apikeys.rotate_key(key_id bigint, grace interval DEFAULT '0', lifetime interval DEFAULT NULL)
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
        RAISE invalid_parameter_value USING MESSAGE = 'the grace of a rotation must not be negative';
    ELSIF NOT isfinite(grace) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the grace of a rotation must be finite';
    END IF;
    PERFORM apikeys.get_key(key_id);
    SELECT k.* INTO STRICT former FROM apikeys.key AS k WHERE k.key_id = rotate_key.key_id FOR UPDATE;
    IF lifetime IS NOT NULL THEN
        PERFORM apikeys_internal.lock_account(former.account_id);    -- the lifetime is judged by the plan
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
        expires_at = CASE WHEN lifetime IS NULL THEN k.expires_at ELSE apikeys_internal.expiry_after(lifetime, rules) END
    WHERE k.key_id = former.key_id
    RETURNING * INTO made;
    RETURN ROW(made.key_id, drawn.key, owner.name, made.alias, made.expires_at)::apikeys.issued_key;
END
$$;
COMMENT ON FUNCTION apikeys.rotate_key(bigint, interval, interval) IS
'Give a key a new text and show it, this once; the id, the settings and the usage stay. The text before it is good for the grace (in seconds; default none), the one before that no more. With a lifetime the key expires so much after now, else when it did.
An inactive, suspended or expired key can be rotated and stays what it is.
Errors: P0002 unknown key; 22023 negative grace, or a lifetime that the plan does not offer; 53400 an expired key is extended and there is no room.';

CREATE FUNCTION apikeys.activate_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE apikeys.key AS k SET active = true WHERE k.key_id = activate_key.key_id AND apikeys_internal.may_manage(k.account_id);
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.activate_key(bigint) IS
'Let an inactive key be used again. Errors: P0002 unknown key; 53400 more keys than the plan has; where it says one key a product: 23505 another key has its product, 22023 it has none.';

CREATE FUNCTION apikeys.deactivate_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE apikeys.key AS k SET active = false WHERE k.key_id = deactivate_key.key_id AND apikeys_internal.may_manage(k.account_id);
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.deactivate_key(bigint) IS 'Refuse a key from now on, with the verdict inactive. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.suspend_key(key_id bigint, reason text) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT apikeys_internal.has_text(reason) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a suspension must have a reason';
    END IF;
    UPDATE apikeys.key AS k SET suspended_at = coalesce(k.suspended_at, apikeys_internal.wall_clock()), suspended_reason = reason
    WHERE k.key_id = suspend_key.key_id;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.suspend_key(bigint, text) IS
'Refuse a key from now on, with the verdict suspended; its owner cannot lift that. A second suspension changes the reason. Errors: P0002 unknown key; 22023 no reason.';

CREATE FUNCTION apikeys.unsuspend_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE apikeys.key AS k SET suspended_at = NULL, suspended_reason = NULL WHERE k.key_id = unsuspend_key.key_id;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.unsuspend_key(bigint) IS 'Lift the suspension of a key. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.delete_key(key_id bigint) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone apikeys.key_list := apikeys.get_key(key_id);
BEGIN
    DELETE FROM apikeys.key AS k WHERE k.key_id = gone.key_id AND (k.suspended_at IS NULL OR apikeys_internal.session_is_admin());
    IF NOT FOUND THEN
        PERFORM apikeys.get_key(key_id);    -- it may have gone meanwhile
        RAISE insufficient_privilege USING
            MESSAGE = format('key %s is suspended', key_id),
            HINT = 'Only members of apikeys_admin may delete it.';
    END IF;
    RETURN gone;
END
$$;
COMMENT ON FUNCTION apikeys.delete_key(bigint) IS
'Delete a key that was never used; a used one can only be deactivated. Members of apikeys_admin alone may delete one that is suspended. Returns the row that was. Errors: P0002 unknown key; 23503 the key was used; 42501 it is suspended.';
