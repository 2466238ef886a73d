-- The checks of a request, with nothing metered.

CREATE FUNCTION apikeys.authenticate(
    key text, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost int = 1
) RETURNS apikeys.verdict
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_authenticate';
COMMENT ON FUNCTION apikeys.authenticate(text, text, inet, text, text, text[], int) IS
'Checks a key text like verify, but for limits: nothing is metered or recorded, no table is written, and it works on a standby. Where the library is preloaded, a text that is no key counts for the block of its address as with verify: guesses are not free here either. Call it as SELECT * FROM apikeys.authenticate($1), with a bind parameter. A bad key is a verdict, not an error; a negative cost is 22023.';

CREATE FUNCTION apikeys_internal.explain_checks(
    key_id bigint, endpoint text, ip inet, origin text, product text, scopes text[], cost int,
    OUT check_name text, OUT passed boolean, OUT code text, OUT detail text
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_explain';
COMMENT ON FUNCTION apikeys_internal.explain_checks(bigint, text, inet, text, text, text[], int) IS 'What explain_key shows, of any key. Internal.';

CREATE FUNCTION apikeys.explain_key(
    key_id bigint, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost int = 1,
    OUT check_name text, OUT passed boolean, OUT code text, OUT detail text
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys.get_key(key_id);
    RETURN QUERY SELECT c.* FROM apikeys_internal.explain_checks(key_id, endpoint, ip, origin, product, scopes, cost) AS c;
END
$$;
COMMENT ON FUNCTION apikeys.explain_key(bigint, text, inet, text, text, text[], int) IS
'Shows each check that verify would make of a request with this key, in their order, with its outcome; the first that failed gives the verdict its code. The limits come last, the account''s before the key''s, with the units used of each: all of them must have room for the cost. Nothing is counted. Errors: P0002 unknown key, 22023 negative cost.';
