-- Usage as it is metered and stored: the status of limits, usage over time, and whether meters and tables agree.

CREATE FUNCTION apikeys_internal.limit_status(
    subject "char", subject_id bigint, limits apikeys.limits, owner_limits apikeys.limits,
    OUT limit_window text, OUT cap bigint, OUT used bigint, OUT remaining bigint, OUT next_free_at timestamptz
) RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 3 AS 'MODULE_PATHNAME', 'apikeys_usage_limits';
COMMENT ON FUNCTION apikeys_internal.limit_status("char", bigint, apikeys.limits, apikeys.limits) IS
'The status of the limits given, of provider and owner (empty: none), for a key (k) or an account (a). Part of key_limits and account_limits.';

CREATE FUNCTION apikeys.account_limits(
    account text,
    OUT subject text, OUT limit_window text, OUT cap bigint, OUT used bigint, OUT remaining bigint, OUT next_free_at timestamptz
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, false);
BEGIN
    RETURN QUERY
        SELECT 'account', l.* FROM apikeys.plan AS p, apikeys_internal.limit_status('a', owner.account_id, coalesce(owner.limits, p.limits), '') AS l
        WHERE p.name = owner.plan;
END
$$;
COMMENT ON FUNCTION apikeys.account_limits(text) IS
'The status of an account''s limits now, which count all its keys together: units used in the trailing window (for '
'total: of all time), the cap with granted units, what remains of it, and when some units will be free again (NULL: '
'none are used, or never). These are the numbers that verify decides by. If the account has no meter in memory (not '
'used of late, not preloaded, a standby) they are computed from the tables. To ask changes nothing and waits for no '
'request. Errors: P0002 unknown account.';

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
    RETURN QUERY SELECT 'key', l.* FROM apikeys_internal.limit_status('k', listed.key_id, listed.limits, coalesce(listed.owner_limits, '')) AS l;
END
$$;
COMMENT ON FUNCTION apikeys.key_limits(bigint) IS
'The status of the limits of a key''s account (subject account) and of its own limits (subject key) now; columns as '
'in account_limits. The cap is that which decides: no more than the owner has set. A request is admitted if each of them has room for its cost. Errors: P0002 unknown key.';

-- The instants at which clocks of a time zone show a local time: two where they are set back over it, none where they skip it.
-- AT TIME ZONE knows one; clocks of a day before and of a day after it tell whether there is another.
CREATE FUNCTION apikeys_internal.instants(local_time timestamp, time_zone text) RETURNS SETOF timestamptz
LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT DISTINCT i.instant
    FROM (VALUES (local_time AT TIME ZONE time_zone)) AS n(nominal),
         LATERAL (VALUES (n.nominal - interval '24 hours'), (n.nominal + interval '24 hours')) AS o(other),
         LATERAL (VALUES ((local_time - ((o.other AT TIME ZONE time_zone) - (o.other AT TIME ZONE 'UTC'))) AT TIME ZONE 'UTC')) AS i(instant)
    WHERE i.instant AT TIME ZONE time_zone = local_time;
END;
COMMENT ON FUNCTION apikeys_internal.instants(timestamp, text) IS
'The instants at which clocks of the time zone show this time: one, two where clocks are set back over it, none where they skip it.';

-- A step begins where clocks show its local time. Days and longer steps begin with the first instant of their first day, whatever clocks
-- show then; shorter ones wherever their time is shown: where an hour comes twice, so do its steps, and a longer step is cut there.
CREATE FUNCTION apikeys_internal.series_steps(
    since timestamptz, until timestamptz, step interval, time_zone text, OUT starts_at timestamptz, OUT ends_at timestamptz
) RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    months    int := CASE WHEN isfinite(step) THEN extract(year FROM step) * 12 + extract(month FROM step) END;
    days      int := CASE WHEN isfinite(step) THEN extract(day FROM step) END;
    seconds   numeric := extract(epoch FROM step - make_interval(months => months, days => days));
    beginning timestamp;
BEGIN
    IF NOT coalesce(isfinite(since) AND isfinite(until), false) THEN
        PERFORM apikeys_internal.refuse('22023', CASE WHEN isfinite(since) THEN 'until' ELSE 'since' END,
            'a series needs a finite since and until');
    ELSIF since >= until THEN
        PERFORM apikeys_internal.refuse('22023', 'since', 'since must be before until');
    ELSIF months IS NULL OR least(months, days, seconds) < 0 OR num_nulls(nullif(months, 0), nullif(days, 0), nullif(seconds, 0)) <> 2 THEN
        PERFORM apikeys_internal.refuse('22023', 'step',
            'a step must be positive, and have either months, or days, or hours, minutes and seconds');
    ELSIF seconds > 0 AND mod(86400, seconds) <> 0 THEN
        PERFORM apikeys_internal.refuse('22023', 'step',
            'a step of hours, minutes and seconds must divide a day of 24 hours', NULL, 'Such as 6 hours or 15 minutes.');
    ELSIF time_zone IS NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'time_zone', 'a time zone must be named');
    ELSIF extract(epoch FROM until - since) > 100000 * extract(epoch FROM step) THEN
        PERFORM apikeys_internal.refuse('54000', 'step',
            'a series has at most 100000 steps', NULL, 'Make the steps longer or the time shorter.');
    END IF;
    beginning := since AT TIME ZONE time_zone;
    beginning := CASE
        WHEN months > 0 THEN
            date_trunc('month', beginning)
            - make_interval(months => (extract(year FROM beginning) * 12 + extract(month FROM beginning) - 1)::int % months)
        ELSE date_bin(step, beginning, '2001-01-01')
    END;
    RETURN QUERY
        SELECT s.starts_at, s.ends_at
        FROM (SELECT b.instant, lead(b.instant) OVER (ORDER BY b.instant)
              FROM (SELECT i.instant
                    FROM generate_series(beginning - step, (until AT TIME ZONE time_zone) + 2 * step, step) AS g(local_time),
                         LATERAL (
                             SELECT l.instant FROM apikeys_internal.instants(g.local_time, time_zone) AS l(instant) WHERE seconds > 0
                             UNION
                             SELECT least(min(l.instant), g.local_time AT TIME ZONE time_zone)
                             FROM apikeys_internal.instants(g.local_time, time_zone) AS l(instant)
                             WHERE seconds = 0 OR g.local_time::time = '00:00'
                         ) AS i(instant)
                    GROUP BY i.instant
              ) AS b
        ) AS s(starts_at, ends_at)
        WHERE s.starts_at < until AND s.ends_at > since;
END
$$;
COMMENT ON FUNCTION apikeys_internal.series_steps(timestamptz, timestamptz, interval, text) IS
'The whole steps of a series from the one that holds since to the one before until. Errors: 22023, 54000.';

-- The steps follow each other without a gap, so the step that a bucket begins in is found by where they begin.
CREATE FUNCTION apikeys_internal.usage_by_step(
    kind "char", subjects bigint[], since timestamptz, until timestamptz, step interval, time_zone text,
    OUT at timestamptz, OUT admitted bigint, OUT denied bigint, OUT units bigint, OUT errors bigint, OUT credits bigint
) RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
DECLARE
    starts timestamptz[];
    ends   timestamptz;
BEGIN
    SELECT array_agg(s.starts_at ORDER BY s.starts_at), max(s.ends_at) INTO starts, ends FROM apikeys_internal.series_steps(since, until, step, time_zone) AS s;
    RETURN QUERY
        SELECT s.starts_at, least(coalesce(u.admitted, 0), 9223372036854775807)::bigint, least(coalesce(u.denied, 0), 9223372036854775807)::bigint,
               least(coalesce(u.units, 0), 9223372036854775807)::bigint, least(coalesce(u.errors, 0), 9223372036854775807)::bigint,
               least(coalesce(u.credits, 0), 9223372036854775807)::bigint
        FROM unnest(starts) WITH ORDINALITY AS s (starts_at, place)
        LEFT JOIN (SELECT width_bucket(b.bucket, starts), sum(b.admitted), sum(b.denied), sum(b.units), sum(b.errors), sum(b.credits)
                   FROM apikeys.usage_bucket AS b
                   WHERE b.subject = kind AND (subjects IS NULL OR b.subject_id = ANY (subjects)) AND b.bucket >= starts[1] AND b.bucket < ends
                   GROUP BY 1) AS u (place, admitted, denied, units, errors, credits) ON u.place = s.place
        ORDER BY s.place;
END
$$;
COMMENT ON FUNCTION apikeys_internal.usage_by_step("char", bigint[], timestamptz, timestamptz, interval, text) IS
'Usage over time of keys (k) or accounts (a) together; NULL: of all of them. See usage_series. Errors: 22023, 54000.';

CREATE FUNCTION apikeys.usage_series(
    key_id bigint, since timestamptz, until timestamptz, step interval, time_zone text = 'UTC',
    OUT at timestamptz, OUT admitted bigint, OUT denied bigint, OUT units bigint, OUT errors bigint, OUT credits bigint
) RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list := apikeys.get_key(key_id);
BEGIN
    RETURN QUERY SELECT u.* FROM apikeys_internal.usage_by_step('k', ARRAY[listed.key_id], since, until, step, time_zone) AS u;
END
$$;
COMMENT ON FUNCTION apikeys.usage_series(bigint, timestamptz, timestamptz, interval, text) IS
'Usage of a key over time: one row for each step, from the step that contains since to the last that begins before '
'until; zeros where nothing was used. It has admitted and denied requests, units, errors (status 400 and more) and '
'credits as given to complete(). Steps begin at local times of the time zone: at midnight, on Mondays (7 '
'days), on the first day of a month or quarter (3 months); hours, minutes and seconds must divide 24 hours and are '
'counted from midnight. So two series with the same step have the same steps where they meet. On days when clocks '
'change a step is longer or shorter, and an hour that comes twice is two steps. Usage is stored in steps of 5 minutes for 2 days, then of hours, and after 90 '
'days of days (UTC); a stored step counts in the step in which it begins. Errors: P0002 unknown key; 22023 since '
'not before until, not finite, step not positive, mixed or no part of a day, unknown time zone; 54000 more than 100000 steps.';

CREATE FUNCTION apikeys.account_usage_series(
    account text, since timestamptz, until timestamptz, step interval, time_zone text = 'UTC',
    OUT at timestamptz, OUT admitted bigint, OUT denied bigint, OUT units bigint, OUT errors bigint, OUT credits bigint
) RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, false);
BEGIN
    RETURN QUERY SELECT u.* FROM apikeys_internal.usage_by_step('a', ARRAY[owner.account_id], since, until, step, time_zone) AS u;
END
$$;
COMMENT ON FUNCTION apikeys.account_usage_series(text, timestamptz, timestamptz, interval, text) IS
'Usage over time of all keys of an account together; arguments and columns as in usage_series. Errors: P0002 unknown account; 22023, 54000 as '
'usage_series.';

CREATE FUNCTION apikeys.total_usage_series(
    since timestamptz, until timestamptz, step interval, time_zone text = 'UTC',
    OUT at timestamptz, OUT admitted bigint, OUT denied bigint, OUT units bigint, OUT errors bigint, OUT credits bigint
) RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    accounts bigint[] := CASE WHEN NOT apikeys_internal.reaches_all(false) THEN apikeys_internal.reached_accounts(false) END;
BEGIN
    PERFORM apikeys_internal.require_reach();
    RETURN QUERY SELECT u.* FROM apikeys_internal.usage_by_step('a', accounts, since, until, step, time_zone) AS u;
END
$$;
COMMENT ON FUNCTION apikeys.total_usage_series(timestamptz, timestamptz, interval, text) IS
'Usage over time of all accounts within reach together; arguments and columns as in usage_series. Errors: 22023, 54000 as usage_series.';

CREATE FUNCTION apikeys_internal.check_meters(
    OUT subject "char", OUT subject_id bigint, OUT what text, OUT expected bigint, OUT found bigint
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_usage_check';
COMMENT ON FUNCTION apikeys_internal.check_meters() IS
'The meters in shared memory whose units differ from those in the tables. Part of check_ledger.';

-- The log is compared by days (UTC): a partition has a day, retention drops days, and no bucket is longer than a day. It is one
-- statement, so that it has one snapshot: the writer changes log, buckets and totals together.
CREATE FUNCTION apikeys_internal.check_tables(
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
        SELECT b.subject, b.subject_id, v.what, least(sum(v.amount), 9223372036854775807)::bigint AS amount
        FROM apikeys.usage_bucket AS b, LATERAL (VALUES
            ('admitted', b.admitted), ('denied', b.denied), ('units', b.units), ('errors', b.errors), ('credits', b.credits)
        ) AS v(what, amount)
        GROUP BY 1, 2, 3
    ), request AS (
        SELECT r.at, r.key_id, r.account_id, 1 AS requests, r.code, r.cost, r.status, r.credits, r.completed FROM apikeys.request_log AS r
        UNION ALL
        SELECT e.at, e.key_id, e.account_id, (e.code IS NOT NULL)::int, coalesce(e.code, r.code), e.cost, e.status, e.credits, e.completed
        FROM apikeys.quarantine AS q CROSS JOIN LATERAL jsonb_populate_record(NULL::apikeys.request_log, q.event) AS e
             LEFT JOIN apikeys.request_log AS r  -- for a completion without its request
             ON e.code IS NULL AND r.at = e.at AND r.key_id = e.key_id AND r.request_id = e.request_id
    ), logged AS (
        SELECT s.subject, s.subject_id, date_bin('1 day', r.at, '2000-01-01 00:00+00') AS day, sum(r.requests) AS requests,
               sum(r.cost) FILTER (WHERE r.code = 'valid') AS units,
               count(*) FILTER (WHERE r.code = 'valid' AND r.completed AND r.status >= 400) AS errors, least(coalesce(sum(r.credits), 0), 9223372036854775807)::bigint AS credits
        FROM request AS r, LATERAL (VALUES ('k'::"char", r.key_id), ('a'::"char", r.account_id)) AS s(subject, subject_id)
        GROUP BY 1, 2, 3
    ), counted AS (
        SELECT b.subject, b.subject_id, date_bin('1 day', b.bucket, '2000-01-01 00:00+00') AS day,
               least(sum(b.admitted::numeric + b.denied - b.unlogged), 9223372036854775807)::bigint AS requests,
               least(sum(b.units), 9223372036854775807)::bigint AS units, least(sum(b.errors), 9223372036854775807)::bigint AS errors,
               least(sum(b.credits), 9223372036854775807)::bigint AS credits, sum(b.unlogged) AS unlogged
        FROM apikeys.usage_bucket AS b GROUP BY 1, 2, 3
    ), kept AS (
        SELECT generate_series(b.bounds[1]::timestamptz, b.bounds[2]::timestamptz - interval '1 s', '24 hours') AS day
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid,
             regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.*)''\) TO \(''(.*)''\)') AS b(bounds)
        WHERE i.inhparent = 'apikeys.request_log'::regclass
    )
    SELECT subject, subject_id, concat(what, ' in buckets'), t.amount, b.amount
    FROM total AS t FULL JOIN bucketed AS b USING (subject, subject_id, what)
    WHERE t.amount IS DISTINCT FROM b.amount
    UNION ALL
    SELECT subject, subject_id, concat(v.what, ' in the log of ', (day AT TIME ZONE 'UTC')::date), v.expected, v.found
    FROM counted AS c FULL JOIN logged AS l USING (subject, subject_id, day), LATERAL (VALUES
        ('requests', c.requests, l.requests, true), ('units', c.units, l.units, c.unlogged = 0),
        ('errors', c.errors, l.errors, c.unlogged = 0), ('credits', c.credits, l.credits, c.unlogged = 0)
    ) AS v(what, expected, found, comparable)
    WHERE day IN (SELECT k.day FROM kept AS k) AND v.comparable IS NOT FALSE
      AND coalesce(v.expected, 0) <> coalesce(v.found, 0);
END;
COMMENT ON FUNCTION apikeys_internal.check_tables() IS
'The differences between request_log, usage_bucket and usage_total. Part of check_ledger.';

CREATE FUNCTION apikeys.check_ledger(
    OUT subject "char", OUT subject_id bigint, OUT what text, OUT expected bigint, OUT found bigint
) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' SET timezone = 'UTC' SET jit = off
AS $$
BEGIN
    PERFORM apikeys_internal.require_provider();
    PERFORM apikeys_internal.try_flush();
    RETURN QUERY SELECT t.* FROM apikeys_internal.check_tables() AS t UNION ALL SELECT m.* FROM apikeys_internal.check_meters() AS m;
    RETURN QUERY SELECT NULL::"char", NULL::bigint, concat(g.object, ' ', g.problem), NULL::bigint, NULL::bigint FROM apikeys.check_guards() AS g;
END
$$;
COMMENT ON FUNCTION apikeys.check_ledger() IS
'All differences in what is stored and metered about usage, for each key (k) and account (a). No row: all agrees. '
'Buckets must add up to the totals. For each day (UTC) that has a partition, the log and the quarantine must have '
'as many rows as requests were admitted and denied, except those that usage_bucket.unlogged counts; on days without '
'such requests, also the same units, errors and credits. Live meters must have the units of the totals, less those '
'that a reset has set aside, plus those that were admitted unrecorded (which are lost when the meter is loaded '
'again). What check_guards() finds follows, with NULL as subject. It flushes the queue first, and reads the whole log: use it in tests and at quiet times.';
