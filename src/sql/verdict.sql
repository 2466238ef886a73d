-- The answer to a request.

CREATE TYPE apikeys.verdict AS (
    allowed      boolean,
    status       smallint,
    code         text,
    message      text,
    key_id       bigint,
    account      text,
    request_id   uuid,
    limit_window text,
    limit_cap    bigint,
    remaining    bigint,
    reset_after  interval,
    retry_after  interval
);
COMMENT ON TYPE apikeys.verdict IS
'The answer to a request: allowed, or why not (code, message and the HTTP status to send). limit_window, limit_cap and remaining (units) tell of the limit that denied, else of the tightest; reset_after: until more of it is free; retry_after: until this very call would be admitted if nothing else happens, NULL if never.';

CREATE FUNCTION apikeys.error_body(verdict apikeys.verdict) RETURNS json
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN NOT (verdict).allowed THEN pg_catalog.json_build_object('error', (verdict).message) END;
COMMENT ON FUNCTION apikeys.error_body(apikeys.verdict) IS
'The body of the HTTP response to a denied request: {"error": "<message>"}; NULL for an allowed one.';
