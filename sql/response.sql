-- The HTTP response to a verdict.
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END
$$;
-- A verdict of which nothing but this is given.
CREATE FUNCTION pg_temp.verdict(code text, status int = 200, subject text = NULL, limit_window text = NULL, cap bigint = NULL,
    remaining bigint = NULL, reset_after_s double precision = NULL, retry_after_s double precision = NULL) RETURNS apikeys.verdict LANGUAGE sql AS $$
    SELECT ROW($1 = 'valid', $2, $1, 'The message', NULL, NULL, NULL, $3, $4, $5, $6, $7, $8)::apikeys.verdict
$$;
SET search_path = pg_catalog;
\set SHOW_CONTEXT never

-- Each code: which one makes a client throw its key away, and when to come again.
SELECT v.code, v.wait, r.status, r.headers ->> 'WWW-Authenticate' AS challenge, r.headers ->> 'Retry-After' AS retry, r.body
FROM (VALUES ('valid', 200, NULL), ('missing', 401, NULL), ('invalid', 401, NULL), ('suspended', 401, NULL), ('inactive', 401, NULL), ('expired', 401, NULL),
             ('quota_exceeded', 401, 3600.2), ('quota_exceeded', 429, 3600), ('quota_exceeded', 403, NULL), ('rate_limited', 429, 0.000001), ('rate_limited', 429, 0),
             ('ip_blocked', 403, 899.5), ('ip_blocked', 403, NULL), ('ip_not_allowed', 403, NULL), ('domain_not_allowed', 403, NULL),
             ('product_not_allowed', 403, NULL), ('insufficient_scope', 403, NULL), ('overloaded', 503, 1)) AS v(code, status, wait),
     apikeys.http_response(pg_temp.verdict(v.code, v.status, retry_after_s => v.wait)) AS r;

-- The limit.
SELECT v.subject, v.limit_window, v.reset, v.retry, r.headers - 'WWW-Authenticate' AS headers
FROM (VALUES
    (true, 'key', 'day', 1000, 50, 30::double precision, NULL::double precision), (true, 'account', '10 minutes', 5, 4, 599.000001, NULL), (true, 'account', 'month', 7, 7, NULL, NULL),
    (true, 'key', 'total', 9007199254740991, 9007199254740990, NULL, NULL), (false, 'key', 'second', 2, 0, 0.001, 0.9),
    (false, 'key', 'week', 9, 2, 86400, 172800.5), (false, 'account', 'hour', 9, 2, 60, 30), (false, 'key', 'total', 3, 0, NULL, NULL),
    (false, 'key', 'day', 3, 1, 100, NULL), (false, 'key', '24 hours', 3, 1, 1e300, 1e300), (false, NULL, NULL, NULL, NULL, NULL, 7)
) AS v(allowed, subject, limit_window, cap, remaining, reset, retry),
apikeys.http_response(pg_temp.verdict(CASE WHEN v.allowed THEN 'valid' ELSE 'rate_limited' END, 200, v.subject, v.limit_window, v.cap, v.remaining, v.reset, v.retry)) AS r;

-- Scopes and realm: nothing in them ends a header or a quoted string.
SELECT s.scopes, r.headers ->> 'WWW-Authenticate' AS challenge
FROM (VALUES (NULL), ('{}'), ('{read}'), ('{read,write:all,NULL,!#[]~}'::text[]), (ARRAY['a"b', 'a b', '', E'a\r\nX: y', U&'\00E4', 'a\b']), (ARRAY['', 'read']),
             ('{{a,b},{c,d}}')) AS s(scopes), apikeys.http_response(pg_temp.verdict('insufficient_scope', 403), s.scopes) AS r;
SELECT s.realm, r.headers ->> 'WWW-Authenticate' AS challenge
FROM (VALUES (NULL), (''), ('Acme maps, v1'), ('a "b" \c')) AS s(realm), apikeys.http_response(pg_temp.verdict('invalid', 401), '{read}', s.realm) AS r;
SELECT f.* FROM (VALUES
    (1, format('SELECT apikeys.http_response(pg_temp.verdict(%L), realm => %L)', 'invalid', E'a\r\nX: y')),
    (2, format('SELECT apikeys.http_response(pg_temp.verdict(%L), realm => %L)', 'valid', U&'\00E4')),
    (3, format('SELECT apikeys.http_response(pg_temp.verdict(%L), realm => %L)', 'valid', repeat('x', 256))),
    (4, format('SELECT apikeys.http_response(pg_temp.verdict(%L), realm => %L)', 'valid', repeat('x', 257)))
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

-- No verdict, and rows that are none.
SELECT * FROM apikeys.http_response(NULL);
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.http_response(pg_temp.verdict('validity'))$$),
    (2, $$SELECT apikeys.http_response(pg_temp.verdict(NULL))$$),
    (3, $$SELECT apikeys.http_response(pg_temp.verdict('valid', NULL))$$),
    (4, $$SELECT apikeys.http_response(ROW(true, 200, 'valid', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::apikeys.verdict)$$),
    (5, $$SELECT apikeys.http_response(pg_temp.verdict('valid', 200, 'a";q=9', 'day', 1, 1))$$),
    (6, $$SELECT apikeys.http_response(pg_temp.verdict('valid', 200, 'key', 'day";q=9', 1, 1))$$),
    (7, $$SELECT apikeys.http_response(pg_temp.verdict('valid', 200, 'key', 'day', 1, 1, 'NaN'))$$),
    (8, $$SELECT apikeys.http_response(pg_temp.verdict('overloaded', 503, retry_after_s => -1))$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

-- What a gateway asks for.
SELECT r.* FROM apikeys.authenticate('no key') AS v, apikeys.http_response(v, scopes => '{read}', realm => 'maps') AS r;
SELECT r.* FROM apikeys.authenticate(NULL) AS v, apikeys.http_response(v) AS r;
SELECT r.* FROM apikeys.authenticate('') AS v, apikeys.http_response(v) AS r;
SELECT provolatile, proparallel FROM pg_proc WHERE oid = 'apikeys.http_response(apikeys.verdict, text[], text)'::regprocedure;
