-- Changes of plans and tiers reach every session's cache at once. Not on INSERT: what is not cached is read.
-- Of key_product it is cached that it is empty, and of address_block that a network is not there, so rows that come or go count; for
-- each row, since a subscription fires no others.

CREATE FUNCTION apikeys_internal.rules_changed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_rulecache_changed';
COMMENT ON FUNCTION apikeys_internal.rules_changed() IS 'Trigger on plan, tier, key_product and address_block: makes every session read them anew.';

CREATE TRIGGER plan_changed AFTER UPDATE OR DELETE OR TRUNCATE ON apikeys.plan
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.rules_changed();
CREATE TRIGGER tier_changed AFTER UPDATE OR DELETE OR TRUNCATE ON apikeys.tier
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.rules_changed();
ALTER TABLE apikeys.plan ENABLE ALWAYS TRIGGER plan_changed;
ALTER TABLE apikeys.tier ENABLE ALWAYS TRIGGER tier_changed;

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

COMMENT ON TRIGGER plan_changed ON apikeys.plan IS 'Makes every session read plans anew.';
COMMENT ON TRIGGER tier_changed ON apikeys.tier IS 'Makes every session read tiers anew.';
COMMENT ON TRIGGER key_product_changed ON apikeys.key_product IS 'Makes every session look anew whether a key has products.';
COMMENT ON TRIGGER key_product_truncated ON apikeys.key_product IS 'Makes every session look anew whether a key has products.';
COMMENT ON TRIGGER address_block_changed ON apikeys.address_block IS 'Makes every session read the blocks by hand anew.';
COMMENT ON TRIGGER address_block_truncated ON apikeys.address_block IS 'Makes every session read the blocks by hand anew.';
