-- The schemas and the roles. Schema apikeys has what people use; apikeys_internal has functions, and types
-- that they hand to each other. No role needs USAGE on
-- apikeys_internal: views, policies, constraints, triggers, types and functions with a parsed body refer to functions by OID,
-- and all other functions that call into it run as the owner of the extension.
--
-- CREATE SCHEMA without IF NOT EXISTS: if somebody has made one of the schemas before, CREATE EXTENSION fails.

CREATE SCHEMA apikeys;
CREATE SCHEMA apikeys_internal;
COMMENT ON SCHEMA apikeys_internal IS
'Functions that apikeys itself calls. Do not call them: they may change in any version.';
COMMENT ON SCHEMA apikeys IS
'API keys: issue, verify, limit, log and manage them. Start with \df+ apikeys.create_key and apikeys.verify.';

-- Roles belong to the whole cluster: another database may have made them already.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'apikeys_verifier', 'apikeys_manager', 'apikeys_portal', 'apikeys_staff', 'apikeys_admin', 'apikeys_auditor', 'apikeys_scanner'] LOOP
        BEGIN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$$;
