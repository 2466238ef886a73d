-- Requests: deciding, metering, recording and completing them.

CREATE FUNCTION apikeys.verify(
    key text, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost int = 1
) RETURNS apikeys.verdict
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_verify';
COMMENT ON FUNCTION apikeys.verify(text, text, inet, text, text, text[], int) IS
'Decide about a request and record it: whether the key is genuine, active, unexpired, allowed for this address, '
'domain, product and these scopes, and within the limits of the key and its account. An admitted request adds its '
'cost (units) to all these limits, a denied one to none. A cost of 0 gets the same answer as 1 and adds nothing. '
'The count is outside the transaction: a ROLLBACK does not undo it. Call it as SELECT * FROM apikeys.verify($1, '
'...), with bind parameters; (apikeys.verify(...)).* would call it once for each column. endpoint is logged without '
'what follows its first ? or # (see apikeys.log_query_string); route patterns such as GET /v1/users/:id keep '
'personal data out of the log. A bad key gives a verdict, not an error; too many bad keys from one ip block the address (ip_blocked, see apikeys.ip_failures). Waits end '
'after apikeys.queue_timeout with the verdict overloaded, except waits for table locks on key, account, plan, tier, '
'key_product and address_block, which are as those of any SELECT. Errors: 22023 negative cost; 55000 not preloaded, '
'or on a standby; 53400 too many databases.';

CREATE FUNCTION apikeys.verify_many(
    keys text[], endpoints text[] = NULL, ips inet[] = NULL, costs int[] = NULL,
    OUT n int, OUT allowed boolean, OUT status smallint, OUT code text, OUT message text, OUT key_id bigint, OUT account text,
    OUT request_id uuid, OUT limit_window text, OUT limit_cap bigint, OUT remaining bigint, OUT reset_after interval,
    OUT retry_after interval
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_verify_many';
COMMENT ON FUNCTION apikeys.verify_many(text[], text[], inet[], int[]) IS
'Decide about many requests, in their order. Each row is the verdict that verify would give; n is the number of the '
'key, from 1. The arrays must have the same length (2202E) or be NULL.';

CREATE FUNCTION apikeys.complete(
    request_id uuid, status int, duration_ms real = NULL, credits bigint = NULL
) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_request_complete';
COMMENT ON FUNCTION apikeys.complete(uuid, int, real, bigint) IS
'Record how an admitted request ended: HTTP status, milliseconds to the first byte, credits to bill. Only the first '
'call for a request counts. True: the call is queued; it takes effect if the request is recorded by then and was '
'not completed before. Only the form of the id is checked, so an id that was never given changes nothing. With '
'apikeys.log_requests = off the request may not be recorded; then each call takes effect whose id is not in the log '
'and names a key that was used. False: verify cannot have given this id, or the call cannot be recorded now. '
'Errors: 22023 a status outside 100 to 599, negative numbers, or credits above 10^15.';

CREATE FUNCTION apikeys.complete_many(
    request_ids uuid[], statuses int[], durations_ms real[] = NULL, credits bigint[] = NULL
) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT pg_catalog.count(*) FILTER (WHERE apikeys.complete(c.request_id, c.status, c.duration_ms, c.credits))
    FROM ROWS FROM (pg_catalog.unnest(request_ids), pg_catalog.unnest(statuses), pg_catalog.unnest(durations_ms),
                    pg_catalog.unnest(complete_many.credits)) AS c(request_id, status, duration_ms, credits);
END;
COMMENT ON FUNCTION apikeys.complete_many(uuid[], int[], real[], bigint[]) IS
'Record how many requests ended, each as complete() does; returns the number of calls that were queued.';
