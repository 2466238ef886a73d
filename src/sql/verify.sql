-- Requests: decided, metered, recorded, completed.

CREATE FUNCTION apikeys.verify(
    key text, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost int = 1
) RETURNS apikeys.verdict
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_verify';
COMMENT ON FUNCTION apikeys.verify(text, text, inet, text, text, text[], int) IS
'Decides about a request and records it: is the key genuine, active, unexpired, allowed from here and for this, within the limits of key and account. An admitted request adds its cost (units) to all of them, a denied one to none; cost 0 is answered as 1 would be and adds nothing. It counts outside the transaction: a ROLLBACK gives nothing back. Call it as SELECT * FROM apikeys.verify($1, ...), with bind parameters; (apikeys.verify(...)).* would call it once a column. A bad key is a verdict, not an error; too many of them from one ip block it (ip_blocked, see apikeys.ip_failures). What it must wait for ends after apikeys.queue_timeout in verdict overloaded, but for table locks on key, account, plan, tier, key_product and address_block, which it waits for as any SELECT does. Errors: 22023 negative cost, 55000 not preloaded or on a standby, 53400 too many databases.';

CREATE FUNCTION apikeys.verify_many(
    keys text[], endpoints text[] = NULL, ips inet[] = NULL, costs int[] = NULL,
    OUT n int, OUT allowed boolean, OUT status smallint, OUT code text, OUT message text, OUT key_id bigint, OUT account text,
    OUT request_id uuid, OUT limit_window text, OUT limit_cap bigint, OUT remaining bigint, OUT reset_after interval,
    OUT retry_after interval
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_verify_many';
COMMENT ON FUNCTION apikeys.verify_many(text[], text[], inet[], int[]) IS
'Decides about many requests, in their order: each row is the verdict that verify would give, n says for which key. The arrays must be equally long (2202E) or NULL.';

CREATE FUNCTION apikeys.complete(
    request_id uuid, status int, duration_ms real = NULL, credits bigint = NULL
) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_request_complete';
COMMENT ON FUNCTION apikeys.complete(uuid, int, real, bigint) IS
'Records how an admitted request ended: HTTP status, milliseconds to the first byte, credits to bill. The first call for a request wins. True: it is queued, to count if the request is on record by then and was not completed before. That is all a well-formed id is asked for: one that was never given changes nothing. With apikeys.log_requests = off there may be no record to find: then each call counts whose id is not in the log and names a key that was used. False: the id can be none that verify gave, or it cannot be recorded now. Errors: 22023 for a status outside 100 to 599, for negative figures and for credits beyond 10^15.';

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
'Records how many requests ended, each as complete() would; returns how many were taken.';
