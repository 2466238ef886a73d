-- The answer to a request.

CREATE TYPE apikeys.verdict AS (
    allowed       boolean,
    status        smallint,
    code          text,
    message       text,
    key_id        bigint,
    account       text,
    request_id    uuid,
    limit_subject text,
    limit_window  text,
    limit_cap     bigint,
    remaining     bigint,
    reset_after_s double precision,
    retry_after_s double precision
);
COMMENT ON TYPE apikeys.verdict IS
'The answer to a request: whether it is allowed; if not, why (code, message) and the HTTP status to send. '
'limit_subject (key or account: whose limit), limit_window, limit_cap and remaining (units) are of the limit that '
'denied it, otherwise of the tightest limit; NULL: no limit was asked. reset_after_s: seconds until more of that '
'limit is free. retry_after_s: seconds until the same call would be admitted if nothing else happens; NULL: never. '
'For ip_blocked they are those until the block ends; for overloaded, whose end nobody knows, 1.';

CREATE TYPE apikeys.verdict_row AS (
    n             int,
    allowed       boolean,
    status        smallint,
    code          text,
    message       text,
    key_id        bigint,
    account       text,
    request_id    uuid,
    limit_subject text,
    limit_window  text,
    limit_cap     bigint,
    remaining     bigint,
    reset_after_s double precision,
    retry_after_s double precision
);
COMMENT ON TYPE apikeys.verdict_row IS
'A verdict among many: n is the place of the request, from 1; the other columns are those of apikeys.verdict.';

CREATE FUNCTION apikeys.error_body(verdict apikeys.verdict) RETURNS json
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN NOT (verdict).allowed THEN pg_catalog.json_build_object('error', (verdict).message) END;
COMMENT ON FUNCTION apikeys.error_body(apikeys.verdict) IS
'The body of the HTTP response to a denied request: {"error": "<message>"}; NULL for an allowed one.';

CREATE FUNCTION apikeys.ratelimit_headers(verdict apikeys.verdict, OUT name text, OUT value text) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL SAFE ROWS 3
BEGIN ATOMIC
    WITH shown AS (
        SELECT replace((verdict).limit_window, ' ', '-') AS policy,
               least((verdict).limit_cap, 999999999999999) AS quota, least((verdict).remaining, 999999999999999) AS remaining,
               (SELECT extract(epoch FROM i.window_length)::bigint
                FROM apikeys.limits_items(('0/' || (verdict).limit_window)::apikeys.limits) AS i) AS seconds,
               ceil((verdict).reset_after_s)::bigint AS reset,
               ceil((verdict).retry_after_s)::bigint AS retry
    )
    SELECT h.name, h.value
    FROM shown AS l, LATERAL (VALUES
        (1, 'RateLimit-Policy', CASE WHEN l.policy IS NOT NULL THEN format('"%s";q=%s', l.policy, l.quota) || coalesce(';w=' || l.seconds, '') END),
        (2, 'RateLimit', CASE WHEN l.policy IS NOT NULL THEN format('"%s";r=%s', l.policy, l.remaining) || coalesce(';t=' || l.reset, '') END),
        (3, 'Retry-After', CASE WHEN NOT (verdict).allowed AND l.retry IS NOT NULL THEN greatest(l.retry, l.reset)::text END)
    ) AS h(n, name, value)
    WHERE h.value IS NOT NULL
    ORDER BY h.n;
END;
COMMENT ON FUNCTION apikeys.ratelimit_headers(apikeys.verdict) IS
'HTTP headers about the limit that the verdict shows: RateLimit-Policy (cap and window) and RateLimit (units that '
'remain, and seconds until more are free), as in the IETF draft draft-ietf-httpapi-ratelimit-headers. A denied '
'request also gets Retry-After, if waiting helps. Seconds are rounded up. The policy is named after the window: '
'"day", "10-minutes". If the verdict shows no limit, there is Retry-After at most.';
