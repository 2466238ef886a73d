-- Requests: deciding, metering, recording and completing them.

CREATE FUNCTION apikeys.verify(
    key text, endpoint text = NULL, ip inet = NULL, origin text = NULL, product text = NULL, scopes text[] = NULL, cost bigint = 1
) RETURNS apikeys.verdict
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_verify';
COMMENT ON FUNCTION apikeys.verify(text, text, inet, text, text, text[], bigint) IS
'Decide about a request and record it: whether the key is genuine, active, unexpired, allowed for this address, '
'domain, product and each of these scopes (there are no wildcards), and within the limits of the key and its account. An admitted request adds its '
'cost (units) to all these limits, a denied one to none. A cost of 0 gets the same answer as 1 and adds nothing. '
'The count is outside the transaction: a ROLLBACK does not undo it. Call it as SELECT * FROM apikeys.verify($1, '
'...), with bind parameters; (apikeys.verify(...)).* would call it once for each column. endpoint is logged without '
'what follows its first ? or # (see apikeys.log_query_string); route patterns such as GET /v1/users/:id keep '
'personal data out of the log. A bad key gives a verdict, not an error; too many bad keys from one ip block the '
'address (ip_blocked, see apikeys.ip_failures). Waits end after apikeys.queue_timeout with the verdict overloaded, '
'also those for locks on tables. Errors: 22023 negative cost, cost above 2147483647, or more than 1000 scopes; '
'55000 not preloaded, or on a standby; 53400 too many databases.';

CREATE FUNCTION apikeys.verify_many(
    keys text[], endpoints text[] = NULL, ips inet[] = NULL, origins text[] = NULL, products text[] = NULL,
    scopes text[] = NULL, costs bigint[] = NULL
) RETURNS SETOF apikeys.verdict_row
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_key_verify_many';
COMMENT ON FUNCTION apikeys.verify_many(text[], text[], inet[], text[], text[], text[], bigint[]) IS
'Decide about many requests, in their order. Each row is the verdict that verify would give for the elements at its '
'place; n is that place, from 1. An element of scopes is a list of scopes, separated by blanks. An array may be NULL; '
'otherwise it must have the length of keys, 10000 at most. All arguments are checked before the first request is '
'decided. Errors: those of verify; 22023 arrays of different length; 54000 too long.';

CREATE FUNCTION apikeys.complete(
    request_id uuid, status int, duration_ms double precision = NULL, credits bigint = NULL
) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_request_complete';
COMMENT ON FUNCTION apikeys.complete(uuid, int, double precision, bigint) IS
'Record how an admitted request ended: HTTP status, milliseconds to the first byte, credits to bill. Only the first '
'call for a request counts. True: the call is queued; it takes effect if the request is recorded by then and was '
'not completed before. Only the form of the id is checked, so an id that was never given changes nothing. With '
'apikeys.log_requests = off the request may not be recorded; then each call takes effect whose id is not in the log '
'and names a key that was used. False: verify cannot have given this id, or the call cannot be recorded now. '
'Errors: 22023 a status outside 100 to 599, negative numbers, credits above 10^9, or a duration that is not finite '
'or above 10^12.';

CREATE FUNCTION apikeys.complete_many(
    request_ids uuid[], statuses int[], durations_ms double precision[] = NULL, credits bigint[] = NULL
) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_request_complete_many';
COMMENT ON FUNCTION apikeys.complete_many(uuid[], int[], double precision[], bigint[]) IS
'Record how many requests ended. Each element takes effect as with complete(), and all are queued together: if one is '
'refused with an error, or if there is no room for all in time, none is queued. Returns the number of calls that were '
'queued: those whose id verify can have given; 0: none can be recorded now. Arrays but the first two may be NULL; all '
'others must have the same length, 10000 at most. Errors: those of complete; 22023 arrays of different length; 53400 '
'more at once than fit into apikeys.queue_size; 54000 too long.';
