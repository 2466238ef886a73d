-- Changing a key or an account by an object, as a form or a PATCH request sends it: what is absent stays, what is null is cleared.
--
-- Here is what is true of the object: which members it may have, and their JSON types. What is true of the values holds for an
-- UPDATE too: the triggers check_texts and key_check_update, the rules of the plan and the constraints check that.

CREATE FUNCTION apikeys_internal.check_member(place text, value jsonb, type_name text, nullable boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind   text := jsonb_typeof(value);
    wanted text;
BEGIN
    SELECT w.description INTO STRICT wanted
    FROM (VALUES ('text', 'a string'), ('boolean', 'true or false'), ('bigint', 'a whole number'), ('jsonb', 'an object'),
                 ('timestamp with time zone', 'a time as a string, such as "2030-01-31T12:00:00Z"'),
                 ('interval', 'a duration as a string, such as "30 days"'),
                 ('text[]', 'an array of strings'), ('cidr[]', 'an array of strings'), ('inet', 'an address or a network as a string'),
                 ('apikeys.limits', 'a string such as "1000/day", or an object such as {"day": 1000}')) AS w (type_name, description)
    WHERE w.type_name = check_member.type_name;
    IF kind = 'null' AND NOT nullable THEN
        PERFORM apikeys_internal.refuse('22023', place, format('%s must not be null', split_part(place, '.', 2)));
    ELSIF NOT (CASE
        WHEN kind = 'null' THEN true
        WHEN type_name = 'boolean' THEN kind = 'boolean'
        WHEN type_name = 'bigint' THEN value::text ~ '^\d{1,18}$'
        WHEN type_name = 'jsonb' THEN kind = 'object'
        WHEN type_name = 'apikeys.limits' THEN kind IN ('string', 'object')
        WHEN type_name LIKE '%[]' THEN
            CASE kind WHEN 'array' THEN NOT EXISTS (SELECT FROM jsonb_array_elements(value) AS e (element) WHERE jsonb_typeof(e.element) <> 'string')
                      ELSE false END
        ELSE kind = 'string' END)
    THEN
        PERFORM apikeys_internal.refuse('22023', place, format('%s must be %s', split_part(place, '.', 2), wanted));
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_member(text, jsonb, text, boolean) IS
'Raise if a member of the changes to <table>.<column> does not have the JSON type for a column of that type. Errors: 22023.';

-- Values are tried one by one, so that an error can name the member.
CREATE FUNCTION apikeys_internal.checked_filter(relation text, filter jsonb, types jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    member record;
BEGIN
    IF coalesce(jsonb_typeof(filter), '') <> 'object' THEN
        PERFORM apikeys_internal.refuse('22023', 'filter', 'a filter must be a JSON object');
    ELSIF octet_length(filter::text) > 65536 THEN
        PERFORM apikeys_internal.refuse('22023', 'filter', 'a filter must not have more than 64 kB');
    END IF;
    filter := jsonb_strip_nulls(filter);
    FOR member IN
        SELECT f.key AS name, f.value, types ->> f.key AS type_name, relation || '.' || left(f.key, 63) AS place FROM jsonb_each(filter) AS f ORDER BY f.key
    LOOP
        IF member.type_name IS NULL THEN
            PERFORM apikeys_internal.refuse('22023', member.place, format('a filter has no member "%s"', left(member.name, 63)), NULL,
                                            format('Its members: %s.', (SELECT string_agg(t.name, ', ') FROM jsonb_object_keys(types) AS t (name))));
        END IF;
        IF member.type_name = 'text[]' AND jsonb_typeof(member.value) = 'string' THEN
            member.value := jsonb_build_array(member.value);
            filter := jsonb_set(filter, ARRAY[member.name], member.value);
        END IF;
        PERFORM apikeys_internal.check_member(member.place, member.value, member.type_name, false);
        IF member.type_name = 'text[]' AND jsonb_array_length(member.value) > 1000 THEN
            PERFORM apikeys_internal.refuse('22023', member.place, format('%s must not have more than 1000 elements', member.name));
        END IF;
        BEGIN
            PERFORM CASE member.type_name
                        WHEN 'inet' THEN (member.value #>> '{}')::inet IS NULL
                        WHEN 'timestamp with time zone' THEN (member.value #>> '{}')::timestamptz IS NULL
                    END;
        EXCEPTION
            WHEN data_exception THEN
                PERFORM apikeys_internal.refuse('22023', member.place, SQLERRM);
        END;
    END LOOP;
    RETURN filter;
END
$$;
COMMENT ON FUNCTION apikeys_internal.checked_filter(text, jsonb, jsonb) IS
'A filter of rows, without nulls; where it may have an array of strings, a single one is made one. types has the type of each member that '
'it may have. Errors: 22023.';

CREATE FUNCTION apikeys_internal.check_changes(relation text, changes jsonb, members text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown text;
BEGIN
    IF coalesce(jsonb_typeof(changes), '') <> 'object' THEN
        PERFORM apikeys_internal.refuse('22023', relation || '.changes', 'changes must be a JSON object');
    END IF;
    SELECT left(c.name, 63) INTO unknown FROM jsonb_object_keys(changes) AS c (name) WHERE c.name <> ALL (members) ORDER BY c.name LIMIT 1;
    IF FOUND THEN
        PERFORM apikeys_internal.refuse('22023', relation || '.' || unknown, format('%s has no member "%s" to change', relation, unknown), NULL,
                                        format('What can be changed: %s.', array_to_string(members, ', ')));
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_changes(text, jsonb, text[]) IS
'Raise if changes to a row are no object, or have another member than these. Errors: 22023.';

-- Values are read one by one, so that an error can name the column.
CREATE FUNCTION apikeys_internal.changed_row(subject anyelement, relation text, changes jsonb, cleared jsonb) RETURNS anyelement
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    member record;
BEGIN
    FOR member IN
        SELECT a.attname::text AS name, format('%s.%s', relation, a.attname) AS place, a.attnotnull, format_type(a.atttypid, NULL) AS type_name,
               CASE WHEN c.value = 'null' THEN coalesce(cleared -> c.key, c.value) ELSE c.value END AS value
        FROM pg_attribute AS a JOIN jsonb_each(changes) AS c ON a.attname = c.key
        WHERE a.attrelid = format('apikeys.%I', relation)::regclass AND a.attnum > 0
        ORDER BY a.attnum
    LOOP
        PERFORM apikeys_internal.check_member(member.place, member.value, member.type_name, NOT member.attnotnull);
        BEGIN
            IF member.type_name = 'apikeys.limits' AND jsonb_typeof(member.value) = 'object' THEN
                member.value := to_jsonb((member.value::apikeys.limits)::text);
            END IF;
            subject := jsonb_populate_record(subject, jsonb_build_object(member.name, member.value));
        EXCEPTION
            WHEN data_exception THEN
                PERFORM apikeys_internal.refuse('22023', member.place, left(SQLERRM, 200));
        END;
    END LOOP;
    RETURN subject;
END
$$;
COMMENT ON FUNCTION apikeys_internal.changed_row(anyelement, text, jsonb, jsonb) IS
'A row of a table with changes to its columns; cleared has what null stands for in columns that are not null. Errors: 22023 '
'a member of another JSON type, or a value that its column cannot have.';

CREATE FUNCTION apikeys_internal.replace_products(key_id bigint, products text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made apikeys.key_product;
BEGIN
    PERFORM apikeys_internal.checked('key.products', products);
    PERFORM apikeys_internal.require_names(NULL, products);
    -- The new ones first: a key whose last product is gone for a moment would break the rules of its plan.
    FOR made IN
        INSERT INTO apikeys.key_product (key_id, product) SELECT DISTINCT replace_products.key_id, p.name FROM unnest(products) AS p (name)
        ON CONFLICT DO NOTHING RETURNING *
    LOOP
        PERFORM apikeys_internal.audit('insert', 'key_product', made.key_id::text, k.account_id, NULL, apikeys_internal.audited_row(to_jsonb(made)))
        FROM apikeys.key AS k WHERE k.key_id = made.key_id;
    END LOOP;
    DELETE FROM apikeys.key_product AS kp WHERE kp.key_id = replace_products.key_id AND kp.product <> ALL (products);
    PERFORM apikeys_internal.check_assignment(key_id);
END
$$;
COMMENT ON FUNCTION apikeys_internal.replace_products(bigint, text[]) IS
'Assign a key to these products and to no others; to none: it is good for all. Locks the account. Errors: P0002 unknown '
'product; 22023, 23505 the plan does not allow that.';

CREATE FUNCTION apikeys_internal.changed_expiry(former apikeys.key, expires_at timestamptz, changes jsonb) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules    apikeys.plan;
    lifetime interval;
BEGIN
    IF changes ? 'lifetime' THEN
        PERFORM apikeys_internal.check_member('key.lifetime', changes -> 'lifetime', 'interval', false);
        BEGIN
            lifetime := changes ->> 'lifetime';
        EXCEPTION
            WHEN data_exception THEN
                PERFORM apikeys_internal.refuse('22023', 'key.lifetime', left(SQLERRM, 200));
        END;
    ELSIF expires_at IS NOT DISTINCT FROM former.expires_at THEN
        RETURN expires_at;
    END IF;
    PERFORM apikeys_internal.lock_account(former.account_id);   -- its plan must not change before the expiry is checked
    SELECT p.* INTO STRICT rules FROM apikeys.account AS a JOIN apikeys.plan AS p ON p.name = a.plan WHERE a.account_id = former.account_id;
    RETURN apikeys_internal.chosen_expiry(lifetime, CASE WHEN changes ? 'expires_at' THEN coalesce(expires_at, 'infinity') END, rules);
END
$$;
COMMENT ON FUNCTION apikeys_internal.changed_expiry(apikeys.key, timestamptz, jsonb) IS
'When a key expires after changes: their lifetime from now, or else this expiry. Errors: 22023.';

-- A new tier would clear limits that are the former ones, as the trigger must take them for not chosen: they are set again.
CREATE FUNCTION apikeys_internal.store_key(wanted apikeys.key, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stored apikeys.limits;
BEGIN
    UPDATE apikeys.key AS k
    SET alias = wanted.alias, category = wanted.category, active = wanted.active, expires_at = wanted.expires_at, tier = wanted.tier,
        limits = wanted.limits, owner_limits = wanted.owner_limits, allowed_domains = wanted.allowed_domains, allowed_ips = wanted.allowed_ips, scopes = wanted.scopes,
        billing_type = wanted.billing_type, metadata = wanted.metadata
    WHERE k.key_id = wanted.key_id
    RETURNING k.limits INTO stored;
    IF changes ? 'limits' AND stored::text IS DISTINCT FROM wanted.limits::text THEN
        UPDATE apikeys.key AS k SET limits = wanted.limits WHERE k.key_id = wanted.key_id;
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.store_key(apikeys.key, jsonb) IS
'Store a key that is locked, with the changes that update_key makes.';

CREATE FUNCTION apikeys.update_key(key_id bigint, changes jsonb) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    products text[] := CASE jsonb_typeof(changes -> 'products') WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(changes -> 'products'))
                                                                WHEN 'null' THEN '{}' END;
    former   apikeys.key;
    wanted   apikeys.key;
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    PERFORM apikeys_internal.check_changes('key', changes, '{
        alias,category,active,expires_at,lifetime,tier,limits,owner_limits,products,allowed_domains,allowed_ips,scopes,billing_type,metadata}');
    IF changes ?| '{tier,limits}' AND NOT apikeys_internal.acts_as_admin() THEN
        PERFORM apikeys_internal.refuse('42501', CASE WHEN changes ? 'tier' THEN 'key.tier' ELSE 'key.limits' END,
                                        'only members of apikeys_admin may change the tier or the limits of a key');
    END IF;
    IF changes ? 'products' THEN
        PERFORM apikeys_internal.check_member('key.products', changes -> 'products', 'text[]', true);
    END IF;
    SELECT k.* INTO STRICT former FROM apikeys.key AS k WHERE k.key_id = update_key.key_id FOR NO KEY UPDATE;
    wanted := apikeys_internal.changed_row(
        former, 'key', changes - '{products,lifetime}'::text[],
        '{"category": "production", "allowed_domains": [], "allowed_ips": [], "scopes": [], "metadata": {}}');
    wanted.expires_at := apikeys_internal.changed_expiry(former, wanted.expires_at, changes);
    PERFORM apikeys_internal.require_names(nullif(wanted.tier, former.tier), NULL);

    -- Products are judged while the key counts for its plan. One that will count has its products first; one that will not, is
    -- switched off first.
    IF products IS NOT NULL AND apikeys_internal.key_counts(wanted.active, wanted.expires_at, apikeys_internal.wall_clock()) THEN
        PERFORM apikeys_internal.replace_products(former.key_id, products);
        products := NULL;
    END IF;
    PERFORM apikeys_internal.store_key(wanted, changes);
    IF products IS NOT NULL THEN
        PERFORM apikeys_internal.replace_products(former.key_id, products);
    END IF;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.update_key(bigint, jsonb) IS
'Change settings of a key, all or none. changes is an object: what is absent stays as it is, what is null is cleared, lists '
'are replaced as a whole. Members: alias; category (null: production); active; expires_at (null or "infinity": never); lifetime '
'instead, from now ("30 days"), where the plan offers lifetimes; products, allowed_domains, allowed_ips (null or []: all); '
'scopes; billing_type; metadata; owner_limits (what the owner sets below the limits of the provider; a text or an object; null: nothing). Members of apikeys_admin also: limits (null: the tier''s; a text or an object) and tier, which '
'clears limits of the key''s own unless limits are given.
Errors: P0002 unknown key, tier or product; 22023 an unknown member, a bad value, or what the plan does not allow; 23505 the '
'alias is taken, or another key has the product; 53400 the plan allows no more keys; 42501 tier or limits changed by a role that '
'may not; 55000 it is archived, and would be valid again.';

CREATE FUNCTION apikeys.update_account(account text, changes jsonb) RETURNS apikeys.account
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    former apikeys.account := apikeys_internal.get_account(account, true);
    wanted apikeys.account;
BEGIN
    PERFORM apikeys_internal.check_changes('account', changes, '{display_name,contact,plan,limits,active,metadata}');
    SELECT a.* INTO STRICT former FROM apikeys.account AS a WHERE a.account_id = former.account_id FOR NO KEY UPDATE;
    wanted := apikeys_internal.changed_row(former, 'account', changes, '{"metadata": {}}');
    IF wanted.plan <> former.plan THEN
        PERFORM apikeys.change_plan(account, wanted.plan);
    END IF;
    UPDATE apikeys.account AS a
    SET display_name = wanted.display_name, contact = wanted.contact, limits = wanted.limits, active = wanted.active, metadata = wanted.metadata
    WHERE a.account_id = former.account_id;
    RETURN apikeys_internal.get_account(account, true);
END
$$;
COMMENT ON FUNCTION apikeys.update_account(text, jsonb) IS
'Change an account, all or nothing. changes is an object: what is absent stays as it is, what is null is cleared. Members: '
'display_name; contact; plan, if all keys of the account obey it (see change_plan); limits (null: the plan''s; a text or an '
'object); active; metadata.
Errors: P0002 unknown account or plan; 22023 an unknown member, a bad value, or a key breaks a rule of the plan.';
