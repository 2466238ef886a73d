-- A log of :rows requests over :days days, up to the last midnight (UTC), and the usage that goes with it: 1,000 accounts with 10 keys
-- each, the first of which makes a tenth of the requests.
CREATE EXTENSION apikeys;
INSERT INTO apikeys.plan (name) VALUES ('default');
INSERT INTO apikeys.account (account_id, name, plan) SELECT n, 'account-' || n, 'default' FROM generate_series(1, 1000) AS n;
SET session_replication_role = replica;    -- no look-up of each key's account
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
SELECT n, 1 + (n - 1) / 10, sha256(convert_to('bench-' || n, 'UTF8'))::apikeys.digest, '', '', 'key-' || n FROM generate_series(1, 10000) AS n;
RESET session_replication_role;

CREATE SCHEMA bench;
CREATE FUNCTION bench.request_id(at timestamptz, key_id bigint, sequence bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000000)::bigint / 1000), 12, '0') ||
            to_hex(7 * 4096 + ((extract(epoch FROM at) * 1000000)::bigint % 1000) * 4) ||
            lpad(to_hex((-9223372036854775808) | (key_id << 9) | (sequence & 511)), 16, '0'))::uuid
$$;
COMMENT ON FUNCTION bench.request_id(timestamptz, bigint, bigint) IS 'An id as verify gives it.';
CREATE PROCEDURE bench.load_day(day timestamptz, count bigint) LANGUAGE plpgsql AS $$
DECLARE
    partition text := 'request_log_' || to_char(day AT TIME ZONE 'UTC', 'YYYYMMDD');
BEGIN
    EXECUTE format('CREATE TABLE apikeys.%I (LIKE apikeys.request_log INCLUDING ALL)', partition);
    EXECUTE format('ALTER TABLE apikeys.%I REPLICA IDENTITY FULL', partition);
    EXECUTE format('INSERT INTO apikeys.%I (at, key_id, account_id, request_id, code, status, endpoint, duration_ms, ip, cost, credits, category, product, completed)
        SELECT t.at, r.key_id, 1 + (r.key_id - 1) / 10, bench.request_id(t.at, r.key_id, n),
               CASE WHEN r.fate < 0.95 THEN ''valid'' WHEN r.fate < 0.98 THEN ''quota_exceeded'' ELSE ''rate_limited'' END,
               CASE WHEN r.fate < 0.90 THEN 200 WHEN r.fate < 0.94 THEN 404 WHEN r.fate < 0.95 THEN 502 WHEN r.fate < 0.98 THEN 401 ELSE 429 END,
               ''/v1/items/'' || (20 * random() * random())::int, CASE WHEN r.fate < 0.95 THEN -ln(1 - random()) * 80 END,
               ''192.0.2.1''::inet + (250 * random())::int, 1, CASE WHEN r.fate < 0.95 THEN 1 END, ''production'',
               (''{tiles,routing,geocoding}''::text[])[1 + (2.99 * random())::int %% 3], r.fate < 0.95
        FROM generate_series(0, $2 - 1) AS n, LATERAL (SELECT $1 + n * (interval ''1 day'' / $2)) AS t (at),
             LATERAL (SELECT CASE WHEN random() < 0.1 THEN 1 + floor(10 * random()) ELSE 11 + floor(9990 * random()) END::bigint, random()
                      WHERE n IS NOT NULL) AS r (key_id, fate)', partition) USING day, count;
    EXECUTE format('CREATE INDEX %I ON apikeys.%I (key_id, at)', partition || '_key_id_at_idx', partition);
    EXECUTE format('ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.%I FOR VALUES FROM (%L) TO (%L)', partition, day, day + interval '24 hours');
    -- As the writer leaves it: steps of 5 minutes, after 2 days hours.
    EXECUTE format('INSERT INTO apikeys.usage_bucket
        SELECT s.subject, s.id, date_bin($1, r.at, ''2000-01-01 00:00+00''), count(*) FILTER (WHERE r.code = ''valid''),
               count(*) FILTER (WHERE r.code <> ''valid''), count(*) FILTER (WHERE r.code = ''valid''),
               count(*) FILTER (WHERE r.code = ''valid'' AND r.status >= 400), coalesce(sum(r.credits), 0), 0
        FROM apikeys.%I AS r, LATERAL (VALUES (''k''::"char", r.key_id), (''a'', r.account_id)) AS s (subject, id)
        GROUP BY 1, 2, 3', partition)
    USING CASE WHEN day < date_trunc('day', now(), 'UTC') - interval '2 days' THEN interval '1 hour' ELSE '5 minutes' END;
    COMMIT;
END
$$;
COMMENT ON PROCEDURE bench.load_day(timestamptz, bigint) IS 'So many requests within a day, spread evenly over it, and the usage of that day.';
SET timezone = 'UTC';
SET work_mem = '256MB';
SELECT format('CALL bench.load_day(%L, %s)', date_trunc('day', now()) - d * interval '1 day', :rows / :days) FROM generate_series(:days, 1, -1) AS d \gexec
INSERT INTO apikeys.usage_total
SELECT subject, subject_id, sum(admitted), sum(denied), sum(units), sum(errors), sum(credits), min(bucket), max(bucket)
FROM apikeys.usage_bucket GROUP BY 1, 2;

CREATE FUNCTION bench.scans() RETURNS TABLE (relation oid, whole bigint, indexed bigint) LANGUAGE sql AS $$
    SELECT i.inhrelid, pg_stat_get_xact_numscans(i.inhrelid), (SELECT sum(pg_stat_get_xact_numscans(x.indexrelid))::bigint FROM pg_index AS x WHERE x.indrelid = i.inhrelid)
    FROM pg_inherits AS i WHERE i.inhparent = 'apikeys.request_log'::regclass
$$;
COMMENT ON FUNCTION bench.scans() IS 'How often this transaction has read each partition of the log, from end to end and by an index.';

CREATE FUNCTION bench.measure(statement text, times int, OUT first_ms numeric, OUT median_ms numeric, OUT rows bigint, OUT partitions bigint)
LANGUAGE plpgsql AS $$
DECLARE
    begun   timestamptz;
    figures float8[] := '{}';
BEGIN
    FOR n IN 0 .. times LOOP
        begun := clock_timestamp();
        EXECUTE statement;
        GET DIAGNOSTICS rows = ROW_COUNT;
        figures := figures || extract(epoch FROM clock_timestamp() - begun)::float8 * 1000;
    END LOOP;
    SET LOCAL max_parallel_workers_per_gather = 0;     -- what workers read is not told here
    EXECUTE statement;
    SELECT count(*) FILTER (WHERE s.whole + s.indexed > 0) INTO partitions FROM bench.scans() AS s;
    first_ms := figures[1];
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY f) INTO median_ms FROM unnest(figures[2:]) AS f;
END
$$;
COMMENT ON FUNCTION bench.measure(text, int) IS
'Runs a statement once, then so many times: milliseconds of the first and the median of the others, its rows, and how many partitions of the log it reads. Call it in a transaction of its own.';

CREATE FUNCTION bench.last_of_page(filter jsonb, page int) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    earlier uuid;
    former  uuid;
    last    uuid;
BEGIN
    FOR i IN 1 .. page LOOP
        SELECT p.request_id INTO last FROM apikeys.log_page(filter, former) WITH ORDINALITY AS p ORDER BY p.ordinality DESC LIMIT 1;
        IF last IS NULL THEN
            RETURN earlier;
        END IF;
        earlier := former;
        former := last;
    END LOOP;
    RETURN former;
END
$$;
COMMENT ON FUNCTION bench.last_of_page(jsonb, int) IS 'The last request of a page of the log; of the last but one, if there are fewer.';
CREATE TABLE bench.some_request AS SELECT request_id FROM apikeys.request_log WHERE at < now() - interval '9 days' ORDER BY at DESC LIMIT 1;
