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
