-- Plans, tiers and products; the products of a key, the plan of an account, and the managers of an account.
--
-- No role may INSERT into plan, tier, product and member: these functions do, and record it in the audit log.

CREATE FUNCTION apikeys.create_tier(name text, rank int, limits apikeys.limits DEFAULT '', description text DEFAULT NULL)
RETURNS apikeys.tier
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made     apikeys.tier;
    relation text;
    about    text;
    broken   text;
    cause    text;
BEGIN
    INSERT INTO apikeys.tier (name, rank, limits, description)
    VALUES (apikeys_internal.checked('tier.name', create_tier.name), create_tier.rank, create_tier.limits,
            apikeys_internal.checked('tier.description', create_tier.description))
    RETURNING * INTO made;
    PERFORM apikeys_internal.audit('insert', 'tier', made.name, NULL, NULL, apikeys_internal.audited_row(to_jsonb(made)));
    RETURN made;
EXCEPTION
    WHEN integrity_constraint_violation THEN
        GET STACKED DIAGNOSTICS relation = TABLE_NAME, about = COLUMN_NAME, broken = CONSTRAINT_NAME, cause = PG_EXCEPTION_DETAIL;
        PERFORM apikeys_internal.refuse_violation(SQLSTATE, relation, about, broken, SQLERRM, cause);
END
$$;
COMMENT ON FUNCTION apikeys.create_tier(text, int, apikeys.limits, text) IS
'Make a quota level for keys; a higher rank is a higher level. Errors: 22023 a bad name or description; 23505 the '
'name or the rank is taken; 23502 no name, rank or limits.';

CREATE FUNCTION apikeys.create_product(name text, description text DEFAULT NULL) RETURNS apikeys.product
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made     apikeys.product;
    relation text;
    about    text;
    broken   text;
    cause    text;
BEGIN
    INSERT INTO apikeys.product (name, description)
    VALUES (apikeys_internal.checked('product.name', create_product.name),
            apikeys_internal.checked('product.description', create_product.description))
    RETURNING * INTO made;
    PERFORM apikeys_internal.audit('insert', 'product', made.name, NULL, NULL, apikeys_internal.audited_row(to_jsonb(made)));
    RETURN made;
EXCEPTION
    WHEN integrity_constraint_violation THEN
        GET STACKED DIAGNOSTICS relation = TABLE_NAME, about = COLUMN_NAME, broken = CONSTRAINT_NAME, cause = PG_EXCEPTION_DETAIL;
        PERFORM apikeys_internal.refuse_violation(SQLSTATE, relation, about, broken, SQLERRM, cause);
END
$$;
COMMENT ON FUNCTION apikeys.create_product(text, text) IS
'Make a product: an API that keys can be assigned to. Errors: 22023 a bad name or description; 23505 the name is '
'taken; 23502 no name.';

CREATE FUNCTION apikeys.create_plan(
    name text, key_prefix text DEFAULT 'ak', max_keys int DEFAULT NULL, max_lifetime interval DEFAULT NULL,
    lifetimes interval[] DEFAULT NULL, default_lifetime interval DEFAULT NULL, allow_unexpiring boolean DEFAULT true,
    limits apikeys.limits DEFAULT '', default_tier text DEFAULT NULL, one_key_per_product boolean DEFAULT false,
    custom_limits_allowed boolean DEFAULT true, billing_types text[] DEFAULT NULL,
    manage_keys boolean DEFAULT false, tiers text[] DEFAULT NULL, purposes text[] DEFAULT NULL, project_kinds text[] DEFAULT NULL,
    upgrade_requires text[] DEFAULT '{}')
RETURNS apikeys.plan
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made     apikeys.plan;
    relation text;
    about    text;
    broken   text;
    cause    text;
    unknown  text;
BEGIN
    SELECT t.name INTO unknown FROM unnest(apikeys_internal.checked('plan.tiers', create_plan.tiers)) AS t (name)
    WHERE NOT EXISTS (SELECT FROM apikeys.tier AS r WHERE r.name = t.name) LIMIT 1;
    IF FOUND THEN
        PERFORM apikeys_internal.refuse('23503', 'plan.tiers', format('tier %s does not exist', apikeys_internal.quoted(unknown)));
    END IF;
    INSERT INTO apikeys.plan (
        name, key_prefix, max_keys, max_lifetime, lifetimes, default_lifetime, allow_unexpiring, limits, default_tier,
        one_key_per_product, custom_limits_allowed, billing_types, manage_keys, tiers, purposes, project_kinds, upgrade_requires)
    VALUES (
        apikeys_internal.checked('plan.name', create_plan.name), apikeys_internal.checked('plan.key_prefix', create_plan.key_prefix),
        create_plan.max_keys, create_plan.max_lifetime, apikeys_internal.checked('plan.lifetimes', create_plan.lifetimes),
        create_plan.default_lifetime, create_plan.allow_unexpiring, create_plan.limits,
        apikeys_internal.checked('plan.default_tier', create_plan.default_tier),
        create_plan.one_key_per_product, create_plan.custom_limits_allowed,
        apikeys_internal.checked('plan.billing_types', create_plan.billing_types), create_plan.manage_keys,
        create_plan.tiers, apikeys_internal.checked('plan.purposes', create_plan.purposes),
        apikeys_internal.checked('plan.project_kinds', create_plan.project_kinds),
        apikeys_internal.checked('plan.upgrade_requires', create_plan.upgrade_requires))
    RETURNING * INTO made;
    PERFORM apikeys_internal.audit('insert', 'plan', made.name, NULL, NULL, apikeys_internal.audited_row(to_jsonb(made)));
    RETURN made;
EXCEPTION
    WHEN integrity_constraint_violation THEN
        GET STACKED DIAGNOSTICS relation = TABLE_NAME, about = COLUMN_NAME, broken = CONSTRAINT_NAME, cause = PG_EXCEPTION_DETAIL;
        PERFORM apikeys_internal.refuse_violation(SQLSTATE, relation, about, broken, SQLERRM, cause);
END
$$;
COMMENT ON FUNCTION apikeys.create_plan(text, text, int, interval, interval[], interval, boolean, apikeys.limits, text, boolean,
    boolean, text[], boolean, text[], text[], text[], text[]) IS
'Make a plan, a set of rules for accounts; the arguments are the columns of table plan. Errors: 22023 a bad name, or '
'a list out of bounds; 23505 the name is taken; 23503 unknown tier; 23502, 23514 refused by the table.';

CREATE FUNCTION apikeys_internal.rename_tier() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE apikeys.plan AS p SET tiers = array_replace(p.tiers, OLD.name, NEW.name) WHERE OLD.name = ANY (p.tiers);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.rename_tier() IS 'AFTER UPDATE of the name of a tier: plans that offer it follow, as the columns do that refer to it.';
CREATE TRIGGER tier_rename AFTER UPDATE OF name ON apikeys.tier
FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION apikeys_internal.rename_tier();
COMMENT ON TRIGGER tier_rename ON apikeys.tier IS 'Plans that offer the tier follow its new name.';

-- Who manages an account.

CREATE FUNCTION apikeys.add_member(role name, account text) RETURNS apikeys.member
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, true);
    made  apikeys.member;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = add_member.role) THEN
        PERFORM apikeys_internal.refuse('P0002', 'member.role', format('role %s does not exist', apikeys_internal.quoted(role)));
    END IF;
    INSERT INTO apikeys.member (role, account_id) VALUES (add_member.role, owner.account_id) ON CONFLICT DO NOTHING RETURNING * INTO made;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('23505', 'member.role',
            format('role "%s" is bound to account "%s" already', role, account), NULL, NULL, 'member_pkey');
    END IF;
    PERFORM apikeys_internal.audit('insert', 'member', made.role, made.account_id, NULL, apikeys_internal.audited_row(to_jsonb(made)));
    RETURN made;
END
$$;
COMMENT ON FUNCTION apikeys.add_member(name, text) IS
'Bind a role to an account: managers that act as the role, or have its privileges, see and change the account. Managers that '
'are bound to no account see none. Errors: P0002 unknown role or account; 23505 it is bound already.';

CREATE FUNCTION apikeys.remove_member(role name, account text) RETURNS apikeys.member
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, true);
    gone  apikeys.member;
BEGIN
    DELETE FROM apikeys.member AS m WHERE m.role = remove_member.role AND m.account_id = owner.account_id RETURNING * INTO gone;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'member.role',
            format('role %s is not bound to account "%s"', apikeys_internal.quoted(role), account));
    END IF;
    RETURN gone;
END
$$;
COMMENT ON FUNCTION apikeys.remove_member(name, text) IS
'Unbind a role from an account. Of a role that does not exist any more, too. Errors: P0002 unknown account, or not bound to it.';

-- The products of a key.

CREATE FUNCTION apikeys_internal.check_assignment(key_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    candidate apikeys.key;
BEGIN
    PERFORM apikeys_internal.lock_account(k.account_id) FROM apikeys.key AS k WHERE k.key_id = check_assignment.key_id;
    SELECT k.* INTO candidate FROM apikeys.key AS k WHERE k.key_id = check_assignment.key_id;
    IF FOUND THEN
        PERFORM apikeys_internal.check_plan(candidate, '{one_key_per_product}');
    END IF;
    -- A key cannot change its own products at all: what they were is not known any more.
    IF apikeys.current_key_id() IS NOT NULL AND (key_id = (apikeys_internal.require_maker()).key_id
        OR NOT apikeys_internal.products_are_within(apikeys_internal.products_of(key_id), apikeys.current_key_id()))
    THEN
        PERFORM apikeys_internal.refuse(
            '42501', 'key.products', 'the key that the transaction acts for may not give these products',
            'A key may give others no products that it is not good for itself, and cannot change its own.');
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_assignment(bigint) IS
'Raise if the plan does not allow the products that a key has now. Locks the account, so that two transactions '
'cannot both change products. Errors: 22023, 23505; 42501 the transaction acts for a key that is not good for these products.';

CREATE FUNCTION apikeys_internal.check_key_product_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.check_assignment(OLD.key_id);
    IF NEW.key_id <> OLD.key_id THEN
        PERFORM apikeys_internal.check_assignment(NEW.key_id);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_key_product_change() IS
'Trigger: checks the rules of the plan for keys whose products were changed or removed.';

CREATE TRIGGER key_product_check AFTER UPDATE OR DELETE ON apikeys.key_product
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.check_key_product_change();
COMMENT ON TRIGGER key_product_check ON apikeys.key_product IS
'Checks the rules of the plan for keys whose products were changed or removed.';

CREATE FUNCTION apikeys.assign_product(key_id bigint, product text) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made apikeys.key_product;
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    IF NOT EXISTS (SELECT FROM apikeys.product AS p WHERE p.name = assign_product.product) THEN
        PERFORM apikeys_internal.refuse('P0002', 'key_product.product',
            format('product %s does not exist', apikeys_internal.quoted(product)));
    END IF;
    INSERT INTO apikeys.key_product (key_id, product) VALUES (assign_product.key_id, assign_product.product)
    ON CONFLICT DO NOTHING RETURNING * INTO made;
    IF FOUND THEN
        PERFORM apikeys_internal.checked('key.products', ARRAY(
            SELECT kp.product FROM apikeys.key_product AS kp WHERE kp.key_id = assign_product.key_id));
        PERFORM apikeys_internal.check_assignment(key_id);
        PERFORM apikeys_internal.audit('insert', 'key_product', made.key_id::text, (SELECT k.account_id FROM apikeys.key AS k WHERE k.key_id = made.key_id),
                              NULL, apikeys_internal.audited_row(to_jsonb(made)));
    END IF;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.assign_product(bigint, text) IS
'Assign a product to a key. A key without products was good for all; from now on it is good for this one only. Does '
'nothing if it is assigned already. Errors: P0002 unknown key or product; 22023 the key has 1000 products; 23505 the plan allows one key for each '
'product, and another key of the account has it; 42501 the transaction acts for a key that is not good for it.';

CREATE FUNCTION apikeys.unassign_product(key_id bigint, product text) RETURNS apikeys.key_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.key_to_change(key_id);
    -- Two transactions that remove the last two products meet here: the second waits, then sees what the first did.
    PERFORM apikeys_internal.lock_account(k.account_id) FROM apikeys.key AS k WHERE k.key_id = unassign_product.key_id;
    DELETE FROM apikeys.key_product AS kp WHERE kp.key_id = unassign_product.key_id AND kp.product = unassign_product.product;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'key_product.product',
            format('product %s is not assigned to the key', apikeys_internal.quoted(product)));
    ELSIF NOT EXISTS (SELECT FROM apikeys.key_product AS kp WHERE kp.key_id = unassign_product.key_id) THEN
        PERFORM apikeys_internal.refuse('22023', 'key_product.product',
            format('product "%s" is the only one of the key', product), 'A key without products is good for all.',
            'Assign another one first, deactivate the key, or make it good for all with update_key.');
    END IF;
    RETURN apikeys.get_key(key_id);
END
$$;
COMMENT ON FUNCTION apikeys.unassign_product(bigint, text) IS
'Remove a product from a key, but not its last: a key without products is good for all, and update_key alone makes it so. '
'Errors: P0002 unknown key, or not assigned; 22023 it is the last.';

-- From one plan to another.

CREATE FUNCTION apikeys.change_plan(account text, plan text, dry_run boolean DEFAULT false)
RETURNS TABLE (key_id bigint, alias text, rule text, detail text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner    apikeys.account := apikeys_internal.get_account(account, true);
    rules    apikeys.plan;
    owned    apikeys.key[];
    breaches text[];
BEGIN
    SELECT p.* INTO rules FROM apikeys.plan AS p WHERE p.name = change_plan.plan;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'account.plan',
            format('plan %s does not exist', apikeys_internal.quoted(plan)));
    END IF;
    IF dry_run IS NOT TRUE THEN
        PERFORM apikeys_internal.lock_account(owner.account_id);
    END IF;
    owned := ARRAY(SELECT k FROM apikeys.key AS k WHERE k.account_id = owner.account_id);
    IF dry_run THEN
        RETURN QUERY
            SELECT b.key_id, b.alias, b.rule, b.fault FROM apikeys_internal.plan_breaches(owned, rules) AS b
            ORDER BY 2 NULLS FIRST, 3, 4;
        RETURN;
    END IF;
    breaches := ARRAY(SELECT format('%s: %s', coalesce('key "' || b.alias || '"', b.rule), b.fault)
                      FROM apikeys_internal.plan_breaches(owned, rules) AS b
                      ORDER BY b.alias NULLS FIRST, b.rule, b.fault);
    IF breaches <> '{}' THEN
        PERFORM apikeys_internal.refuse('22023', 'account.plan',
            format('keys of account "%s" break rules of plan "%s"', account, plan),
            concat_ws(E'\n', VARIADIC breaches[:20] || CASE WHEN cardinality(breaches) > 20 THEN format('and %s more', cardinality(breaches) - 20) END),
            'Change the keys first. With dry_run => true the list comes as rows.');
    END IF;
    UPDATE apikeys.account AS a SET plan = rules.name WHERE a.account_id = owner.account_id;
END
$$;
COMMENT ON FUNCTION apikeys.change_plan(text, text, boolean) IS
'Put an account on another plan, if all its keys obey that plan, inactive ones too; otherwise 22023, with a detail '
'that lists what they break. With dry_run, changes nothing and returns the list as rows: the key (NULL: the number '
'of keys), the rule (a column of table plan) and how it is broken. Lifetimes are measured from now. An UPDATE of '
'account.plan checks nothing.
Errors: P0002 unknown account or plan; 22023 a rule is broken.';
