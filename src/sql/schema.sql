-- The schemas and the roles. What people use is in schema apikeys, and only functions are in apikeys_internal. No role needs
-- USAGE on the latter: views, policies, constraints, triggers, types and functions with a parsed body find what they call by
-- its number, and the other functions that call it run as the owner of the extension.
--
-- CREATE SCHEMA without IF NOT EXISTS: where somebody has made the schema before, CREATE EXTENSION fails.

CREATE SCHEMA apikeys;
CREATE SCHEMA apikeys_internal;
COMMENT ON SCHEMA apikeys_internal IS 'Functions that apikeys calls itself: not for use, and different in each version.';
COMMENT ON SCHEMA apikeys IS 'API keys: issue, verify, limit, log and manage them. Start with \df+ apikeys.create_key and apikeys.verify.';

-- Roles belong to the whole cluster: another database may have made them already.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['apikeys_verifier', 'apikeys_manager', 'apikeys_admin', 'apikeys_auditor'] LOOP
        BEGIN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$$;
