-- Who may do what: PUBLIC nothing, and each role what is granted here and nothing else. It is the last part of the script, after
-- all objects. No role may INSERT into table key, or read a digest.

-- Revoke what PUBLIC has by default, and what ALTER DEFAULT PRIVILEGES gives to any role.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', o.object,
                               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
        FROM (SELECT format('%s %s', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass), c.relacl, c.relowner
              FROM pg_class AS c WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
              UNION ALL
              SELECT format('FUNCTION %s', p.oid::regprocedure), coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner
              FROM pg_proc AS p WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace)
              UNION ALL
              SELECT format('TYPE %s', t.oid::regtype), coalesce(t.typacl, acldefault('T', t.typowner)), t.typowner
              FROM pg_type AS t
              WHERE t.typnamespace = 'apikeys'::regnamespace AND t.typelem = 0
                AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
              UNION ALL
              SELECT format('SCHEMA %I', n.nspname), n.nspacl, n.nspowner
              FROM pg_namespace AS n WHERE n.nspname IN ('apikeys', 'apikeys_internal')
             ) AS o(object, acl, owner), aclexplode(o.acl) AS a
        WHERE a.grantee <> o.owner
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA apikeys
TO apikeys_verifier, apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor, apikeys_scanner;

-- These roles may use the types, with the functions behind their operators, casts, input and output.
DO $$
DECLARE
    object text;
BEGIN
    FOR object IN
        SELECT format('TYPE %s', t.oid::regtype) FROM pg_type AS t
        WHERE t.typnamespace = 'apikeys'::regnamespace AND t.typelem = 0 AND NOT EXISTS (
            SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
        UNION ALL
        SELECT format('FUNCTION %s', p.oid::regprocedure) FROM pg_proc AS p
        WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace) AND (
            EXISTS (SELECT FROM pg_type AS t WHERE p.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend))
            OR EXISTS (SELECT FROM pg_operator AS o WHERE o.oprcode = p.oid)
            OR EXISTS (SELECT FROM pg_amproc AS a WHERE a.amproc = p.oid)
            OR EXISTS (SELECT FROM pg_cast AS c WHERE c.castfunc = p.oid))
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', object);
        EXECUTE format('GRANT ALL ON %s TO apikeys_verifier, apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor', object);
    END LOOP;
END
$$;

-- Functions.

GRANT EXECUTE ON FUNCTION
    apikeys.shard_hash(text), apikeys.shard_hash(bigint), apikeys.shard_hash_of_account(text), apikeys.limits_items(apikeys.limits)
TO apikeys_verifier, apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;

GRANT EXECUTE ON FUNCTION
    apikeys.verify(text, text, inet, text, text, text[], bigint),
    apikeys.verify_many(text[], text[], inet[], text[], text[], text[], bigint[]),
    apikeys.complete(uuid, int, double precision, bigint),
    apikeys.complete_many(uuid[], int[], double precision[], bigint[])
TO apikeys_verifier;
GRANT EXECUTE ON FUNCTION
    apikeys.begin_as(text, text, inet, text, text, text[], bigint, boolean),
    apikeys.my_key(),
    apikeys.my_limits(),
    apikeys.my_usage(timestamptz, timestamptz, interval, text)
TO apikeys_verifier, apikeys_portal;
GRANT EXECUTE ON FUNCTION apikeys.begin_for(text, text) TO apikeys_portal;
-- The policies of an application's own tables ask these.
GRANT EXECUTE ON FUNCTION apikeys.current_account(), apikeys.current_account_id(), apikeys.current_key_id(), apikeys.has_scope(text)
TO apikeys_verifier, apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;
GRANT EXECUTE ON FUNCTION apikeys.http_response(apikeys.verdict, text[], text) TO apikeys_verifier, apikeys_portal, apikeys_admin;
GRANT EXECUTE ON FUNCTION
    apikeys.authenticate(text, text, inet, text, text, text[], bigint),
    apikeys.key_facts(text, inet)
TO apikeys_verifier, apikeys_admin;
GRANT EXECUTE ON FUNCTION apikeys.client_address(text, inet) TO apikeys_verifier, apikeys_portal, apikeys_admin;
GRANT EXECUTE ON FUNCTION apikeys.report_leak(jsonb, boolean), apikeys.key_patterns() TO apikeys_admin, apikeys_scanner;
GRANT EXECUTE ON FUNCTION apikeys.stats(), apikeys.verdict_counts(), apikeys.check_ledger(), apikeys.check_guards() TO apikeys_admin, apikeys_auditor;
GRANT EXECUTE ON FUNCTION apikeys.block_address(inet, text, interval), apikeys.unblock_address(inet) TO apikeys_admin;
GRANT EXECUTE ON FUNCTION
    apikeys.usage_series(bigint, timestamptz, timestamptz, interval, text),
    apikeys.account_usage_series(text, timestamptz, timestamptz, interval, text),
    apikeys.total_usage_series(timestamptz, timestamptz, interval, text),
    apikeys.usage_report(timestamptz, timestamptz, text[], interval, text, text, bigint),
    apikeys.log_report(timestamptz, timestamptz, text[], interval, text, text, bigint)
TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;
GRANT EXECUTE ON FUNCTION apikeys.log_page(jsonb, uuid, int), apikeys.find_request(uuid)
TO apikeys_verifier, apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;
GRANT EXECUTE ON FUNCTION
    apikeys.take_notices(text, int, interval), apikeys.confirm_notices(text, bigint[]), apikeys.remove_notice_consumer(text)
TO apikeys_staff, apikeys_admin;
GRANT EXECUTE ON FUNCTION apikeys.flush(), apikeys.maintain() TO apikeys_admin;

-- Views, policies and constraints call functions with the privileges of the role that uses them.
GRANT EXECUTE ON FUNCTION
    apikeys_internal.reaches_all(boolean), apikeys_internal.reached_accounts(boolean), apikeys_internal.acts_as_admin(), apikeys_internal.wall_clock(),
    apikeys_internal.key_state(boolean, boolean, boolean, boolean, timestamptz, timestamptz), apikeys_internal.limits_used(bigint)
TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;
GRANT EXECUTE ON FUNCTION apikeys_internal.automatic_blocks(), apikeys_internal.failed_addresses() TO apikeys_admin, apikeys_auditor;
GRANT EXECUTE ON FUNCTION
    apikeys_internal.domains_are_valid(text[]), apikeys_internal.has_text(text), apikeys_internal.hash_rule_is_known(text)
TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin;
GRANT EXECUTE ON FUNCTION apikeys_internal.prefix_is_valid(text), apikeys_internal.lifetimes_are_valid(interval[]),
    apikeys_internal.longest_lifetime(interval[]), apikeys_internal.lifetime_is_offered(interval, interval[]) TO apikeys_admin;

GRANT EXECUTE ON FUNCTION
    apikeys.create_key(text, text, text, text, apikeys.limits, interval, timestamptz, text[], text[], cidr[], text[], text, jsonb, text, apikeys.limits),
    apikeys.rotate_key(bigint, interval, interval, timestamptz),
    apikeys.end_grace(bigint),
    apikeys.copy_key(bigint, text, interval),
    apikeys.update_key(bigint, jsonb),
    apikeys.activate_key(bigint),
    apikeys.deactivate_key(bigint),
    apikeys.archive_key(bigint),
    apikeys.unarchive_key(bigint),
    apikeys.delete_key(bigint),
    apikeys.get_key(bigint),
    apikeys.find_key(text, text),
    apikeys.explain_key(bigint, text, inet, text, text, text[], bigint),
    apikeys.key_limits(bigint),
    apikeys.account_limits(text),
    apikeys.account_keys(text, boolean),
    apikeys.find_keys(jsonb, bigint, int)
TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin;

GRANT EXECUTE ON FUNCTION
    apikeys.create_account(text, text, text, text, apikeys.limits, jsonb),
    apikeys.update_account(text, jsonb),
    apikeys.activate_account(text),
    apikeys.deactivate_account(text),
    apikeys.suspend_key(bigint, text),
    apikeys.unsuspend_key(bigint),
    apikeys.import_keys(jsonb),
    apikeys.import_key(text, text, apikeys.digest, text, text, text, text, text, text, apikeys.limits, interval, timestamptz, text[],
                       text[], cidr[], text[], text, jsonb)
TO apikeys_admin;

GRANT EXECUTE ON FUNCTION
    apikeys.reset_usage(bigint, text, text),
    apikeys.reset_account_usage(text, text, text),
    apikeys.grant_units(bigint, text, bigint, timestamptz, text),
    apikeys.grant_account_units(text, text, bigint, timestamptz, text)
TO apikeys_admin;

GRANT EXECUTE ON FUNCTION
    apikeys.assign_product(bigint, text),
    apikeys.unassign_product(bigint, text)
TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin;
GRANT EXECUTE ON FUNCTION
    apikeys.create_tier(text, int, apikeys.limits, text),
    apikeys.create_product(text, text),
    apikeys.create_plan(text, text, int, interval, interval[], interval, boolean, apikeys.limits, text, boolean, boolean, text[], boolean,
                        text[], text[], text[], text[]),
    apikeys.change_plan(text, text, boolean),
    apikeys.add_member(name, text),
    apikeys.remove_member(name, text)
TO apikeys_admin;

GRANT EXECUTE ON FUNCTION
    apikeys.request_upgrade(bigint, text, text, text, text, text, bigint, bigint, apikeys.limits),
    apikeys.answer_upgrade(bigint, text),
    apikeys.withdraw_upgrade(bigint),
    apikeys.get_upgrade(bigint)
TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin;
GRANT EXECUTE ON FUNCTION
    apikeys.ask_upgrade(bigint, text),
    apikeys.approve_upgrade(bigint, text),
    apikeys.decline_upgrade(bigint, text),
    apikeys.create_upgrade_rule(text, text, text, text, text),
    apikeys.erase_account_data(text)
TO apikeys_admin;

-- Tables. Policies below hide the accounts that a session does not reach; views and functions ask for reach themselves. Auditors and
-- admins read all.

GRANT SELECT ON apikeys.plan, apikeys.tier, apikeys.product, apikeys.account, apikeys.key_product, apikeys.key_list, apikeys.log,
    apikeys.notice_list
TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;
GRANT SELECT (
    key_id, account_id, created_at, expires_at, expiry_set_at, previous_valid_until, rotated_at, suspended_at, archived_at, rotations,
    active, prefix, hint, alias, category, suspended_reason, tier, limits, owner_limits, allowed_domains, allowed_ips, scopes, billing_type, metadata,
    hash_rule, previous_hash_rule, created_by, leaked_at)
ON apikeys.key TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;

GRANT UPDATE (alias, category, active, expires_at, owner_limits, allowed_domains, allowed_ips, scopes, billing_type, metadata)
ON apikeys.key TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin;
GRANT UPDATE (tier, limits) ON apikeys.key TO apikeys_admin;
GRANT UPDATE (display_name, contact, plan, limits, active, metadata) ON apikeys.account TO apikeys_admin;
-- No role may INSERT: the functions that make rows record that in the audit log, which a trigger cannot.
GRANT UPDATE, DELETE ON apikeys.plan, apikeys.tier, apikeys.product TO apikeys_admin;
GRANT DELETE ON apikeys.member TO apikeys_admin;
GRANT SELECT ON apikeys.upgrade_list TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;
GRANT SELECT ON apikeys.upgrade_queue, apikeys.address_block_list, apikeys.failing_addresses TO apikeys_admin, apikeys_auditor;
-- Owners see what was changed, granted and reset of theirs: the policies below.
GRANT SELECT ON apikeys.audit_log, apikeys.adjustment TO apikeys_manager, apikeys_portal, apikeys_staff, apikeys_admin, apikeys_auditor;
GRANT UPDATE, DELETE ON apikeys.upgrade_rule TO apikeys_admin;

GRANT SELECT ON
    apikeys.member, apikeys.address_block, apikeys.upgrade_request, apikeys.upgrade_rule, apikeys.notice, apikeys.notice_consumer,
    apikeys.notice_delivery, apikeys.notice_mark, apikeys.quarantine, apikeys.request_log, apikeys.usage_bucket, apikeys.usage_total
TO apikeys_admin, apikeys_auditor;

-- Policies. Of accounts and keys there is none for INSERT and DELETE, because no role may do that.

ALTER TABLE apikeys.account ENABLE ROW LEVEL SECURITY;
CREATE POLICY account_read ON apikeys.account FOR SELECT
USING ((SELECT apikeys_internal.reaches_all(false)) OR account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]));
CREATE POLICY account_change ON apikeys.account FOR UPDATE
USING ((SELECT apikeys_internal.reaches_all(true)) OR account_id = ANY ((SELECT apikeys_internal.reached_accounts(true))::bigint[]));
COMMENT ON POLICY account_read ON apikeys.account IS 'The accounts that the session may read.';
COMMENT ON POLICY account_change ON apikeys.account IS 'The accounts that the session may change.';

ALTER TABLE apikeys.key ENABLE ROW LEVEL SECURITY;
CREATE POLICY key_read ON apikeys.key FOR SELECT
USING ((SELECT apikeys_internal.reaches_all(false)) OR account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]));
CREATE POLICY key_change ON apikeys.key FOR UPDATE
USING ((SELECT apikeys_internal.reaches_all(true)) OR account_id = ANY ((SELECT apikeys_internal.reached_accounts(true))::bigint[]));
COMMENT ON POLICY key_read ON apikeys.key IS 'The keys of the accounts that the session may read.';
COMMENT ON POLICY key_change ON apikeys.key IS 'The keys of the accounts that the session may change.';

ALTER TABLE apikeys.key_product ENABLE ROW LEVEL SECURITY;
CREATE POLICY key_product_read ON apikeys.key_product FOR SELECT
USING (EXISTS (SELECT FROM apikeys.key AS k WHERE k.key_id = key_product.key_id));
COMMENT ON POLICY key_product_read ON apikeys.key_product IS 'The products of the keys that the session may read.';

ALTER TABLE apikeys.audit_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY audit_log_read ON apikeys.audit_log FOR SELECT
USING ((SELECT apikeys_internal.reaches_all(false)) OR account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]));
COMMENT ON POLICY audit_log_read ON apikeys.audit_log IS 'The changes of the accounts that the session may read.';

ALTER TABLE apikeys.adjustment ENABLE ROW LEVEL SECURITY;
CREATE POLICY adjustment_read ON apikeys.adjustment FOR SELECT
USING ((SELECT apikeys_internal.reaches_all(false))
       OR CASE subject
              WHEN 'a' THEN subject_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[])
              ELSE EXISTS (SELECT FROM apikeys.key AS k WHERE k.key_id = adjustment.subject_id)
          END);
COMMENT ON POLICY adjustment_read ON apikeys.adjustment IS
'The resets and grants of the accounts that the session may read, and of their keys.';

-- Of all other tables, who reaches all accounts sees all, and nobody else sees anything: a role that has SELECT on them acts for nobody.
-- Rows of plans, tiers, products and rules are changed by who acts as admin.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['member', 'address_block', 'upgrade_request', 'upgrade_rule', 'notice', 'notice_consumer', 'notice_delivery', 'notice_mark', 'quarantine',
                                'request_log', 'usage_bucket', 'usage_total'] LOOP
        EXECUTE format($make$
            ALTER TABLE apikeys.%1$I ENABLE ROW LEVEL SECURITY;
            CREATE POLICY %1$s_read ON apikeys.%1$I FOR SELECT USING ((SELECT apikeys_internal.reaches_all(false)));
            COMMENT ON POLICY %1$s_read ON apikeys.%1$I IS 'All rows, for a session that may read all accounts.';
            $make$, name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['plan', 'tier', 'product'] LOOP
        EXECUTE format($make$
            ALTER TABLE apikeys.%1$I ENABLE ROW LEVEL SECURITY;
            CREATE POLICY %1$s_read ON apikeys.%1$I FOR SELECT USING (true);
            COMMENT ON POLICY %1$s_read ON apikeys.%1$I IS 'All rows.';
            $make$, name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['member', 'plan', 'tier', 'product', 'upgrade_rule'] LOOP
        EXECUTE format($make$
            CREATE POLICY %1$s_change ON apikeys.%1$I FOR ALL USING ((SELECT apikeys_internal.acts_as_admin()));
            COMMENT ON POLICY %1$s_change ON apikeys.%1$I IS 'All rows, for a session that acts as admin.';
            $make$, name);
    END LOOP;
END
$$;

-- All that guards the tables is there now.
SELECT apikeys_internal.record_guards();
