-- The triggers that make all sessions drop what they have cached of a table when it changes. Plans and tiers need none on INSERT,
-- because a session reads what is not in its cache. Sessions also cache that key_product has no row for a key, and all rows of
-- address_block: so these need triggers on INSERT. All act for each row, because a subscription fires no others, except at TRUNCATE.

CREATE FUNCTION apikeys_internal.rules_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_rulecache_changed';
COMMENT ON FUNCTION apikeys_internal.rules_changed() IS
'Trigger on plan, tier, key_product and address_block: makes all sessions read them again.';

CREATE TRIGGER plan_changed AFTER UPDATE OR DELETE ON apikeys.plan
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.rules_changed();
CREATE TRIGGER plan_truncated AFTER TRUNCATE ON apikeys.plan
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.rules_changed();
ALTER TABLE apikeys.plan ENABLE ALWAYS TRIGGER plan_changed;
ALTER TABLE apikeys.plan ENABLE ALWAYS TRIGGER plan_truncated;

CREATE TRIGGER tier_changed AFTER UPDATE OR DELETE ON apikeys.tier
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.rules_changed();
CREATE TRIGGER tier_truncated AFTER TRUNCATE ON apikeys.tier
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.rules_changed();
ALTER TABLE apikeys.tier ENABLE ALWAYS TRIGGER tier_changed;
ALTER TABLE apikeys.tier ENABLE ALWAYS TRIGGER tier_truncated;

CREATE TRIGGER key_product_changed AFTER INSERT OR DELETE ON apikeys.key_product
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.rules_changed();
CREATE TRIGGER key_product_truncated AFTER TRUNCATE ON apikeys.key_product
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.rules_changed();
ALTER TABLE apikeys.key_product ENABLE ALWAYS TRIGGER key_product_changed;
ALTER TABLE apikeys.key_product ENABLE ALWAYS TRIGGER key_product_truncated;

CREATE TRIGGER address_block_changed AFTER INSERT OR UPDATE OR DELETE ON apikeys.address_block
FOR EACH ROW EXECUTE FUNCTION apikeys_internal.rules_changed();
CREATE TRIGGER address_block_truncated AFTER TRUNCATE ON apikeys.address_block
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.rules_changed();
ALTER TABLE apikeys.address_block ENABLE ALWAYS TRIGGER address_block_changed;
ALTER TABLE apikeys.address_block ENABLE ALWAYS TRIGGER address_block_truncated;

COMMENT ON TRIGGER plan_changed ON apikeys.plan IS 'Makes all sessions read plans again.';
COMMENT ON TRIGGER plan_truncated ON apikeys.plan IS 'Makes all sessions read plans again.';
COMMENT ON TRIGGER tier_changed ON apikeys.tier IS 'Makes all sessions read tiers again.';
COMMENT ON TRIGGER tier_truncated ON apikeys.tier IS 'Makes all sessions read tiers again.';
COMMENT ON TRIGGER key_product_changed ON apikeys.key_product IS
'Makes all sessions look again whether a key has products.';
COMMENT ON TRIGGER key_product_truncated ON apikeys.key_product IS
'Makes all sessions look again whether a key has products.';
COMMENT ON TRIGGER address_block_changed ON apikeys.address_block IS
'Makes all sessions read the blocks by hand again.';
COMMENT ON TRIGGER address_block_truncated ON apikeys.address_block IS
'Makes all sessions read the blocks by hand again.';
