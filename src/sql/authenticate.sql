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
