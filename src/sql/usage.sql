-- Usage as it is metered and stored: how limits stand, and whether all of it agrees.

CREATE FUNCTION apikeys.limits_used(
    subject "char", subject_id bigint, limits apikeys.limits,
    OUT limit_window text, OUT cap bigint, OUT used bigint, OUT remaining bigint, OUT next_free_at timestamptz
) RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 3 AS 'MODULE_PATHNAME', 'apikeys_usage_limits';
COMMENT ON FUNCTION apikeys.limits_used("char", bigint, apikeys.limits) IS
'How the limits given stand for a key (k) or an account (a). Internal: part of key_limits and account_limits.';

CREATE FUNCTION apikeys.account_limits(
    account text,
    OUT subject text, OUT limit_window text, OUT cap bigint, OUT used bigint, OUT remaining bigint, OUT next_free_at timestamptz
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys.get_account(account);
BEGIN
    RETURN QUERY
        SELECT 'account', l.* FROM apikeys.plan AS p, apikeys.limits_used('a', owner.account_id, coalesce(owner.limits, p.limits)) AS l
        WHERE p.name = owner.plan;
END
$$;
COMMENT ON FUNCTION apikeys.account_limits(text) IS
'How the limits of an account stand now, over all its keys together: units used in the trailing window (of all time for total), what remains up to the cap, and when some units come back (NULL: none are used, or never). It is what verify decides by; where that cannot work (not preloaded, on a standby) it is computed from the tables. Errors: P0002 unknown account.';

CREATE FUNCTION apikeys.key_limits(
    key_id bigint,
    OUT subject text, OUT limit_window text, OUT cap bigint, OUT used bigint, OUT remaining bigint, OUT next_free_at timestamptz
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list := apikeys.get_key(key_id);
BEGIN
    RETURN QUERY SELECT l.* FROM apikeys.account_limits(listed.account) AS l;
    RETURN QUERY SELECT 'key', l.* FROM apikeys.limits_used('k', listed.key_id, listed.limits) AS l;
END
$$;
COMMENT ON FUNCTION apikeys.key_limits(bigint) IS
'How the limits of a key''s account (subject account) and its own (subject key) stand now; columns as in account_limits. A request is admitted if all of them have room for its cost. Errors: P0002 unknown key.';

CREATE FUNCTION apikeys.check_meters(
    OUT subject "char", OUT subject_id bigint, OUT what text, OUT expected bigint, OUT found bigint
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_usage_check';
COMMENT ON FUNCTION apikeys.check_meters() IS
'The meters in shared memory whose units are not those in the tables. Internal: part of check_ledger.';

-- The log is compared a day (UTC) at a time: that is what a partition has and what retention drops, and buckets never reach
-- beyond one, however they are merged. One statement, so one snapshot: the writer changes log, buckets and totals together.
CREATE FUNCTION apikeys.check_tables(
    OUT subject "char", OUT subject_id bigint, OUT what text, OUT expected bigint, OUT found bigint
) RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH total AS (
        SELECT t.subject, t.subject_id, v.what, v.amount
        FROM apikeys.usage_total AS t, LATERAL (VALUES
            ('admitted', t.admitted), ('denied', t.denied), ('units', t.units), ('errors', t.errors), ('credits', t.credits)
        ) AS v(what, amount)
    ), bucketed AS (
        SELECT b.subject, b.subject_id, v.what, sum(v.amount)::bigint AS amount
        FROM apikeys.usage_bucket AS b, LATERAL (VALUES
            ('admitted', b.admitted), ('denied', b.denied), ('units', b.units), ('errors', b.errors), ('credits', b.credits)
        ) AS v(what, amount)
        GROUP BY 1, 2, 3
    ), request AS (
        SELECT r.at, r.key_id, r.account_id, r.code, r.cost FROM apikeys.request_log AS r
        UNION ALL
        SELECT (q.event->>'at')::timestamptz, (q.event->>'key_id')::bigint, (q.event->>'account_id')::bigint, q.event->>'code',
               (q.event->>'cost')::int
        FROM apikeys.quarantine AS q WHERE q.event->>'code' <> 'completion'
    ), logged AS (
        SELECT s.subject, s.subject_id, date_bin('1 day', r.at, '2000-01-01 00:00+00') AS day, count(*) AS requests,
               coalesce(sum(r.cost) FILTER (WHERE r.code = 'valid'), 0)::bigint AS units
        FROM request AS r, LATERAL (VALUES ('k'::"char", r.key_id), ('a'::"char", r.account_id)) AS s(subject, subject_id)
        GROUP BY 1, 2, 3
    ), counted AS (
        SELECT b.subject, b.subject_id, date_bin('1 day', b.bucket, '2000-01-01 00:00+00') AS day,
               sum(b.admitted + b.denied - b.unlogged)::bigint AS requests, sum(b.units)::bigint AS units, sum(b.unlogged) AS unlogged
        FROM apikeys.usage_bucket AS b GROUP BY 1, 2, 3
    ), kept AS (
        SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.*?)''\)'))[1]::timestamptz) AS since
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'apikeys.request_log'::regclass
    )
    SELECT subject, subject_id, concat(what, ' in buckets'), t.amount, b.amount
    FROM total AS t FULL JOIN bucketed AS b USING (subject, subject_id, what)
    WHERE t.amount IS DISTINCT FROM b.amount
    UNION ALL
    SELECT subject, subject_id, concat(v.what, ' in the log of ', (day AT TIME ZONE 'UTC')::date), v.expected, v.found
    FROM counted AS c FULL JOIN logged AS l USING (subject, subject_id, day), LATERAL (VALUES
        ('requests', c.requests, l.requests, true), ('units', c.units, l.units, c.unlogged = 0)
    ) AS v(what, expected, found, comparable)
    WHERE day >= (SELECT k.since FROM kept AS k) AND v.comparable IS NOT FALSE
      AND coalesce(v.expected, 0) <> coalesce(v.found, 0);
END;
COMMENT ON FUNCTION apikeys.check_tables() IS
'What does not agree between request_log, usage_bucket and usage_total. Internal: part of check_ledger.';

CREATE FUNCTION apikeys.check_ledger(
    OUT subject "char", OUT subject_id bigint, OUT what text, OUT expected bigint, OUT found bigint
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' SET timezone = 'UTC'
AS $$
BEGIN
    BEGIN
        PERFORM apikeys.flush();
    EXCEPTION
        WHEN object_not_in_prerequisite_state THEN NULL;  -- no engine here: there is nothing to wait for
    END;
    RETURN QUERY SELECT t.* FROM apikeys.check_tables() AS t UNION ALL SELECT m.* FROM apikeys.check_meters() AS m;
END
$$;
COMMENT ON FUNCTION apikeys.check_ledger() IS
'Everything about usage that does not add up, for each key (k) and account (a); no row: all is well. Buckets must add up to the totals; the log (with what is in quarantine) must have as many rows as requests were admitted and denied, and as many units, on each day (UTC) from the oldest partition on, apart from the requests that usage_bucket.unlogged counts; live meters must have the units of the totals, unless requests were admitted unrecorded since the server started. Writes out the queue first. Reads all of the log: for tests, and for quiet hours.';
