-- The checks of a request, without metering.

CREATE FUNCTION apikeys.authenticate(
    key text, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost bigint = 1
) RETURNS apikeys.verdict
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_authenticate';
COMMENT ON FUNCTION apikeys.authenticate(text, text, inet, text, text, text[], bigint) IS
'Check a key text as verify does, except for the limits. Nothing is metered or recorded, no table is written, and '
'it works on a standby. If the library is preloaded, a text that is no key counts as a failure of its address, as '
'with verify. Call it as SELECT * FROM apikeys.authenticate($1), with a bind parameter. A bad key gives a verdict, '
'not an error. If others lock tables for longer than apikeys.queue_timeout, the verdict is overloaded. Errors: '
'22023 negative cost.';

CREATE FUNCTION apikeys_internal.recognize_key(key text, ip inet) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_recognize';
COMMENT ON FUNCTION apikeys_internal.recognize_key(text, inet) IS
'The id of the key that a text belongs to; NULL where key_facts returns NULL.';

CREATE FUNCTION apikeys.key_facts(key text, ip inet = NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    recognized bigint := apikeys_internal.recognize_key(key_facts.key, key_facts.ip);
BEGIN
    RETURN (SELECT jsonb_build_object(
                'key_id', k.key_id, 'alias', k.alias, 'category', k.category, 'tier', k.tier,
                'products', ARRAY(SELECT kp.product FROM apikeys.key_product AS kp WHERE kp.key_id = k.key_id ORDER BY kp.product COLLATE "C"),
                'scopes', k.scopes, 'billing_type', k.billing_type, 'expires_at', k.expires_at, 'metadata', k.metadata,
                'account', a.name, 'account_metadata', a.metadata)
            FROM apikeys.key AS k JOIN apikeys.account AS a ON a.account_id = k.account_id WHERE k.key_id = recognized);
END
$$;
COMMENT ON FUNCTION apikeys.key_facts(text, inet) IS
'What a key stands for, as an object: key_id, alias, category, tier, products, scopes, billing_type, expires_at, '
'metadata, account, account_metadata. Empty products: it is good for all; null expires_at: it never expires. NULL for a '
'text that is no key, a key that is suspended, inactive, expired or not allowed for the address, and a blocked address. '
'Lists of domains and products are not asked. Nothing is metered or recorded, and it works on a standby. As with '
'authenticate, a text that is no key counts as a failure of the address: pass the client''s. Errors: 55P03 tables were '
'locked by others for longer than apikeys.queue_timeout.';

CREATE FUNCTION apikeys_internal.explain_checks(
    key_id bigint, endpoint text, ip inet, origin text, product text, scopes text[], cost bigint,
    OUT check_name text, OUT passed boolean, OUT code text, OUT detail text
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_explain';
COMMENT ON FUNCTION apikeys_internal.explain_checks(bigint, text, inet, text, text, text[], bigint) IS
'Does the work of explain_key, for any key.';

CREATE FUNCTION apikeys.explain_key(
    key_id bigint, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost bigint = 1,
    OUT check_name text, OUT passed boolean, OUT code text, OUT detail text
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys.get_key(key_id);
    RETURN QUERY SELECT c.* FROM apikeys_internal.explain_checks(key_id, endpoint, ip, origin, product, scopes, cost) AS c;
END
$$;
COMMENT ON FUNCTION apikeys.explain_key(bigint, text, inet, text, text, text[], bigint) IS
'Show each check that verify would make of a request with this key, in order, with its result. The first that fails '
'decides the verdict''s code. The limits come last, those of the account before those of the key, with their units '
'used: each must have room for the cost. Nothing is metered. Errors: P0002 unknown key; 22023 negative cost; 55P03 '
'tables were locked by others for longer than apikeys.queue_timeout.';
