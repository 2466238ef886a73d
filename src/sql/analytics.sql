-- What people look at: the log with names, reports about log and usage.
--
-- usage_report reads usage_bucket, which is small and never deleted. log_report reads the log, for what the buckets do not have.
-- Both are static SQL that is planned at each call (force_custom_plan), with the times and keys as constants. So the planner prunes
-- partitions and knows the statistics of these keys; a column that is not asked for is the constant NULL, and its left join drops
-- out. jit is off, because compiling a plan with a part for each partition takes longer than running it. Percentiles need sorted
-- rows: the sort is by numbers first, and names are joined last. A million rows fit into the work_mem that log_report sets.

-- Left joins, so that the planner drops those that a query does not need. The account is joined through the key, so that the
-- log's index on key_id finds the rows of one account.
CREATE VIEW apikeys.log WITH (security_barrier) AS
SELECT r.at, a.name AS account, r.key_id, k.alias, r.category, r.product, r.code, r.status, r.endpoint, r.duration_ms, r.cost, r.credits,
       r.ip, r.request_id, r.previous
FROM apikeys.request_log AS r
LEFT JOIN apikeys.key AS k ON k.key_id = r.key_id
LEFT JOIN apikeys.account AS a ON a.account_id = k.account_id
WHERE (SELECT apikeys_internal.reaches_all(false)) OR r.account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]);
COMMENT ON VIEW apikeys.log IS
'The request log, with names, of all keys that the session may read. Filter by at, because it is '
'partitioned by day (UTC), and by key_id or account, because it is indexed by key_id and at. Managers who are bound '
'to accounts should do the same: otherwise the rows of all other accounts are read too, and left out. Give at as a '
'constant or a parameter: with now() - interval all partitions are planned. To show it page by page use log_page: ORDER BY '
'at DESC LIMIT reads and sorts all rows of the range, since no index has at first and the view is a security barrier.';
COMMENT ON COLUMN apikeys.log.alias IS 'The key''s alias now.';

-- Reports.

CREATE FUNCTION apikeys_internal.report_unit(
    since timestamptz, until timestamptz, by text[], choice text[], step interval, time_zone text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unit text;
BEGIN
    IF NOT coalesce(since < until, false) THEN
        PERFORM apikeys_internal.refuse('22023', 'since', 'since must be before until');
    ELSIF by IS NULL OR cardinality(by) > cardinality(choice) OR array_position(by, NULL) IS NOT NULL OR NOT by <@ choice THEN
        PERFORM apikeys_internal.refuse('22023', 'by', format('by must be a list of some of %s', array_to_string(choice, ', ')));
    ELSIF time_zone IS NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'time_zone', 'a time zone must be named');
    END IF;
    PERFORM since AT TIME ZONE time_zone;
    IF step IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT s.unit INTO unit
    FROM (VALUES ('hour', interval '1 hour'), ('day', '1 day'), ('week', '7 days'), ('month', '1 month'), ('quarter', '3 months'),
                 ('year', '1 year')) AS s (unit, length)
    WHERE s.length::text = step::text;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('22023', 'step',
            'the steps of a report are 1 hour, 1 day, 7 days, 1 month, 3 months or 1 year');
    END IF;
    RETURN unit;
END
$$;
COMMENT ON FUNCTION apikeys_internal.report_unit(timestamptz, timestamptz, text[], text[], interval, text) IS
'Check the arguments that usage_report and log_report have in common; returns the unit of date_trunc for the step, '
'NULL without a step. Errors: 22023.';

CREATE FUNCTION apikeys_internal.report_subjects(kind "char", only_account text, only_key bigint) RETURNS bigint[]
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    accounts bigint[] := CASE WHEN NOT apikeys_internal.reaches_all(false) THEN apikeys_internal.reached_accounts(false) END;
BEGIN
    PERFORM apikeys_internal.require_reach();
    IF only_account IS NOT NULL THEN
        accounts := ARRAY[(apikeys_internal.get_account(only_account, false)).account_id];
    END IF;
    IF only_key IS NOT NULL THEN
        PERFORM apikeys.get_key(only_key);
    END IF;
    IF kind = 'a' OR (accounts IS NULL AND only_key IS NULL) THEN
        RETURN accounts;
    END IF;
    RETURN ARRAY(
        SELECT k.key_id FROM apikeys.key AS k
        WHERE (accounts IS NULL OR k.account_id = ANY (accounts)) AND (only_key IS NULL OR k.key_id = only_key));
END
$$;
COMMENT ON FUNCTION apikeys_internal.report_subjects("char", text, bigint) IS
'The accounts (a) or keys (k) that a report for the session''s user may include; NULL: all. Errors: P0002 unknown '
'account or key.';

CREATE FUNCTION apikeys.usage_report(
    since timestamptz, until timestamptz, by text[] = '{account}', step interval = NULL, time_zone text = 'UTC',
    only_account text = NULL, only_key bigint = NULL,
    OUT at timestamptz, OUT account text, OUT key_id bigint, OUT alias text, OUT product text, OUT category text, OUT billing_type text,
    OUT requests bigint, OUT denied bigint, OUT units bigint, OUT errors bigint, OUT credits bigint
) RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
DECLARE
    unit     text := apikeys_internal.report_unit(since, until, by, '{account,key,product,category,billing_type}', step, time_zone);
    kind     "char" := CASE WHEN by <@ '{account}' AND only_key IS NULL THEN 'a' ELSE 'k' END;
    subjects bigint[] := apikeys_internal.report_subjects(kind, only_account, only_key);
BEGIN
    RETURN QUERY
        SELECT date_trunc(unit, b.bucket, time_zone),
               CASE WHEN by && '{account,key}' THEN a.name END,
               CASE WHEN 'key' = ANY (by) THEN b.subject_id END,
               CASE WHEN 'key' = ANY (by) THEN k.alias END,
               CASE WHEN 'product' = ANY (by) THEN p.product END,
               CASE WHEN 'category' = ANY (by) THEN k.category END,
               CASE WHEN 'billing_type' = ANY (by) THEN k.billing_type END,
               least(sum(b.admitted::numeric + b.denied), 9223372036854775807)::bigint, least(sum(b.denied), 9223372036854775807)::bigint,
               least(sum(b.units), 9223372036854775807)::bigint, least(sum(b.errors), 9223372036854775807)::bigint,
               least(sum(b.credits), 9223372036854775807)::bigint
        FROM apikeys.usage_bucket AS b
        LEFT JOIN apikeys.key AS k ON kind = 'k' AND k.key_id = b.subject_id
        LEFT JOIN apikeys.account AS a ON a.account_id = CASE kind WHEN 'k' THEN k.account_id ELSE b.subject_id END
        LEFT JOIN apikeys.key_product AS p ON 'product' = ANY (by) AND p.key_id = b.subject_id
        WHERE b.subject = kind AND (subjects IS NULL OR b.subject_id = ANY (subjects)) AND b.bucket >= since AND b.bucket < until
        GROUP BY 1, 2, 3, 4, 5, 6, 7
        ORDER BY 1, 8 DESC, 2, 3, 5, 6, 7;
END
$$;
COMMENT ON FUNCTION apikeys.usage_report(timestamptz, timestamptz, text[], interval, text, text, bigint) IS
'What was used from since to before until, a row for each of what it is made by, and for each step, the busiest '
'first: requests (admitted or denied), denied among them, units, errors (admitted ones with a status of 400 and '
'more), credits (as given to complete). Monthly bills: by => ''{account}'', step => ''1 month''.
by: any of account, key (with alias and account), product, category, billing_type; {}: all in one; columns not '
'asked for are NULL. step: 1 hour, 1 day, 7 days (from Mondays), 1 month, 3 months or 1 year of the time zone''s '
'calendar, at is where it begins; NULL: all in one. Only_account and only_key restrict it.
It counts what is stored by its beginning: steps of 5 minutes, after 2 days hours, after 90 days days (UTC). '
'Products, category and billing type are the key''s now; a key with several products counts for each of them, '
'whichever was asked for: log_report tells that. It knows requests that the log does not have. Errors: P0002 '
'unknown account or key; 22023 bad argument.';

CREATE FUNCTION apikeys.log_report(
    since timestamptz, until timestamptz, by text[] = '{}', step interval = NULL, time_zone text = 'UTC',
    only_account text = NULL, only_key bigint = NULL,
    OUT at timestamptz, OUT account text, OUT key_id bigint, OUT alias text, OUT product text, OUT category text, OUT billing_type text,
    OUT endpoint text, OUT code text, OUT requests bigint, OUT denied bigint,
    OUT status_2xx bigint, OUT status_3xx bigint, OUT status_4xx bigint, OUT status_5xx bigint,
    OUT units bigint, OUT credits bigint, OUT p50_ms real, OUT p95_ms real, OUT p99_ms real
) RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off SET work_mem = '64MB'
AS $$
DECLARE
    unit text := apikeys_internal.report_unit(since, until, by, '{account,key,product,category,billing_type,endpoint,code}', step, time_zone);
    keys bigint[] := apikeys_internal.report_subjects('k', only_account, only_key);
BEGIN
    RETURN QUERY
        SELECT g.at, a.name, g.key_id, k.alias, g.product, g.category, g.billing_type, g.endpoint, g.code, g.requests, g.denied,
               g.status_2xx, g.status_3xx, g.status_4xx, g.status_5xx, g.units, g.credits,
               g.percentiles[1]::real, g.percentiles[2]::real, g.percentiles[3]::real
        FROM (SELECT date_trunc(unit, r.at, time_zone),
                     CASE WHEN by && '{account,key}' THEN r.account_id END,
                     CASE WHEN 'key' = ANY (by) THEN r.key_id END,
                     CASE WHEN 'product' = ANY (by) THEN r.product END COLLATE "C",
                     CASE WHEN 'category' = ANY (by) THEN r.category END COLLATE "C",
                     CASE WHEN 'billing_type' = ANY (by) THEN b.billing_type END,
                     CASE WHEN 'endpoint' = ANY (by) THEN r.endpoint END COLLATE "C",
                     CASE WHEN 'code' = ANY (by) THEN r.code END COLLATE "C",
                     count(*), count(*) FILTER (WHERE r.code <> 'valid'),
                     count(*) FILTER (WHERE r.status BETWEEN 200 AND 299), count(*) FILTER (WHERE r.status BETWEEN 300 AND 399),
                     count(*) FILTER (WHERE r.status BETWEEN 400 AND 499), count(*) FILTER (WHERE r.status BETWEEN 500 AND 599),
                     coalesce(sum(r.cost) FILTER (WHERE r.code = 'valid'), 0)::bigint, least(coalesce(sum(r.credits), 0), 9223372036854775807)::bigint,
                     percentile_cont('{0.5,0.95,0.99}'::float8[]) WITHIN GROUP (ORDER BY r.duration_ms)
              FROM apikeys.request_log AS r
              LEFT JOIN apikeys.key AS b ON b.key_id = r.key_id
              WHERE (keys IS NULL OR r.key_id = ANY (keys)) AND r.at >= since AND r.at < until
              GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ) AS g (at, account_id, key_id, product, category, billing_type, endpoint, code, requests, denied,
                status_2xx, status_3xx, status_4xx, status_5xx, units, credits, percentiles)
        LEFT JOIN apikeys.account AS a ON a.account_id = g.account_id
        LEFT JOIN apikeys.key AS k ON k.key_id = g.key_id
        ORDER BY g.at, g.requests DESC, a.name, g.key_id, g.product, g.category, g.billing_type, g.endpoint, g.code;
END
$$;
COMMENT ON FUNCTION apikeys.log_report(timestamptz, timestamptz, text[], interval, text, text, bigint) IS
'What the request log has from since to before until: one row for each combination of what it is grouped by and, '
'with a step, for each step, the busiest first. Columns: requests (admitted or denied); denied among them; requests '
'by class of status (the verdict''s, or the response''s as given to complete); units used; credits; and the 50th, '
'95th and 99th percentile of the time to the first byte in milliseconds (NULL: complete was given none).
by: any of account, key (with alias and account), product (that the request named; NULL: none), category (at the '
'time of the request), billing_type (now), endpoint, code (why requests were denied). step, time_zone, only_account '
'and only_key, and the meaning of NULL, are as in usage_report. For the top endpoints use by => ''{endpoint}'' and '
'LIMIT.
It reads the partitions (days, UTC) from since to until, and for one account or key only its own rows. It sorts '
'them in up to 64 MB of memory, then on disk. Errors: P0002 unknown account or key; 22023 bad argument.';
