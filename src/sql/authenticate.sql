-- The checks of a request that need no meters.

CREATE FUNCTION apikeys.authenticate(
    key text, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost int = 1
) RETURNS apikeys.verdict
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_authenticate';
COMMENT ON FUNCTION apikeys.authenticate(text, text, inet, text, text, text[], int) IS
'Checks a key text like verify, but for limits, and only reads: nothing is counted or recorded, and it works on a standby. Call it as SELECT * FROM apikeys.authenticate($1), with a bind parameter. A bad key is a verdict, not an error; a negative cost is 22023.';

CREATE FUNCTION apikeys.explain_key(
    key_id bigint, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost int = 1,
    OUT "check" text, OUT passed boolean, OUT code text, OUT detail text
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_explain';
COMMENT ON FUNCTION apikeys.explain_key(bigint, text, inet, text, text, text[], int) IS
'Shows each check that verify would make of a request with this key, in their order, with its outcome; the first that failed gives the verdict its code. Nothing is counted. An unknown key_id is P0002.';
