-- The schema and the roles. A plain CREATE SCHEMA: one that somebody has planted before makes CREATE EXTENSION fail.

CREATE SCHEMA apikeys;
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
