-- The HTTP response to a request.

CREATE FUNCTION apikeys.http_response(
    verdict apikeys.verdict, scopes text[] = NULL, realm text = 'api', OUT status int, OUT headers jsonb, OUT body jsonb
) RETURNS record
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_verdict_response';
COMMENT ON FUNCTION apikeys.http_response(apikeys.verdict, text[], text) IS
'Make the HTTP response to a verdict: status, headers (an object of names and texts) and body. Denied: send all '
'three. Allowed: the body is NULL; add the headers to your response. '
'body: {"error": "<message>"}. Retry-After: seconds until the same call would be admitted, rounded up; absent if waiting '
'does not help. WWW-Authenticate (RFC 9110, RFC 6750): with status 401 the realm, and error="invalid_token" unless no '
'key was presented or only its quota is used up; with insufficient_scope (403) error="insufficient_scope" and the '
'scopes given here, those that the request needs. '
'RateLimit-Policy (q: cap, w: window) and RateLimit (r: units that remain, t: seconds until there are more), as in '
'draft-ietf-httpapi-ratelimit-headers-10, about the limit that the verdict shows; its name has the subject and the '
'window: key-day, account-10-minutes. Other than in the draft, q and r count units, without the parameter qu, and '
'only the limit that decided, or the tightest one, is told, so that its name may change from response to response. A '
'limit of total has no w and no t; numbers end at 15 digits. Errors: 22023 the realm has other characters than '
'printable ASCII or more than 256 bytes; a row that is not a verdict.';
