-- The type limits: text, binary and JSON, equality, hashing, parts.
SET search_path = apikeys, apikeys_internal, pg_catalog;

-- What a text is read as, or why it is refused.
CREATE FUNCTION pg_temp.read(input text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN input::apikeys.limits;
EXCEPTION
    WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- What is refused names what is possible; so does the function that reads one cap, whatever the search_path.
SELECT '3/min'::apikeys.limits;
SELECT '3/1 week'::apikeys.limits;
SELECT '1_000/day'::apikeys.limits;
SELECT '{"24h": 3}'::jsonb::apikeys.limits;
SELECT apikeys.limits_cap('3/day', 'days');
SET search_path = pg_catalog;
SELECT apikeys.limits_cap('3/day', '24 hours');
SET search_path = apikeys, pg_catalog;

-- Canonical form: sorted by window, total last, windows in their shortest name.
SELECT '>' || input || '<' AS input, '>' || pg_temp.read(input) || '<' AS output
FROM (VALUES
    (1, ''), (2, '   '), (3, '1000/day'), (4, E' 500000/total,\t20000 / month,\n1000/day '),
    (5, '1/second, 2/minute, 3/hour, 4/day, 5/week, 6/month, 7/total'),
    (6, '1/1 second, 2/60 seconds, 3/60 minutes, 4/24 hours, 5/7 days, 6/30 days'),
    (7, '1/2 seconds, 2/90 seconds, 3/600 seconds, 4/5400 seconds, 5/36 hours, 6/2 days, 7/366 days'),
    (8, '1/1 minute, 2/10 minute, 3/1 hours, 4/1 days'),
    (9, '5/10   minutes'), (10, '007/day'), (11, '0/day'), (12, '4294967295/day'), (13, '9007199254740991/total'),
    (14, '8/second,7/minute,6/hour,5/day,4/week,3/month,2/total,1/2 days'),
    (15, '1/31622400 seconds')
) AS t(n, input) ORDER BY n;

-- Every kind of bad text; no more of it is shown than a few characters.
SELECT input, pg_temp.read(input) AS error
FROM (VALUES
    (1, '1000'), (2, 'day'), (3, ','), (4, '1/day,'), (5, '1/day,,2/hour'),
    (10, '/day'), (11, 'x/day'), (12, '-1/day'), (13, '+1/day'), (14, '1.5/day'), (15, '1 000/day'), (16, '1e3/day'),
    (20, '1/'), (21, '1/fortnight'), (22, '1/Day'), (23, '1/days'), (24, '1/2 weeks'), (25, '1/10minutes'), (26, '1/10'),
    (27, '1/2/day'), (28, '1/-1 days'), (29, '1/1.5 hours'), (30, '1/1 2 days'),
    (40, '1/0 days'), (41, '1/367 days'), (42, '1/31622401 seconds'), (43, '1/99999999999999999999999999 days'),
    (50, '4294967296/day'), (51, '9007199254740992/total'), (52, '99999999999999999999999999/total'),
    (60, '1/day, 2/24 hours'), (61, '1/total,2/total'),
    (70, '9/second,8/minute,7/hour,6/day,5/week,4/month,3/total,2/2 days,1/3 days'),
    (80, 'ak_0000123456789abcdefghijklmnopqrstuv'), (81, '1/Jahrzehnt für Jahrzehnt')
) AS t(n, input) ORDER BY n;

-- Where the server has soft errors, the type has them too.
SELECT CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'true'
            ELSE $$NOT pg_input_is_valid('1/fortnight', 'apikeys.limits') AND pg_input_is_valid('1/day', 'apikeys.limits')$$ END AS soft \gset
SELECT :soft AS soft;

-- Binary: there and back, short headers included, and bad messages.
CREATE TEMP TABLE stored (n int, value limits);
INSERT INTO stored VALUES
    (1, ''), (2, '1000/day'), (3, '1/second, 9007199254740991/total'),
    (4, '8/second,7/minute,6/hour,5/day,4/week,3/month,2/total,1/2 days'), (5, NULL);
\copy stored TO 'results/limits.bin' (FORMAT binary)
CREATE TEMP TABLE loaded (LIKE stored);
\copy loaded FROM 'results/limits.bin' (FORMAT binary)
SELECT n, s.value, s.value IS NOT DISTINCT FROM l.value AS same FROM stored AS s JOIN loaded AS l USING (n) ORDER BY n;
CREATE TEMP TABLE one (value limits);
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\34\0\0\0\2\377\377\377\377\0\0\0\0\0\0\0\11\0\0\0\74\0\0\0\0\0\0\0\5\377\377"' (FORMAT binary)
SELECT value AS sorted FROM one;
-- In turn: a window twice, a window of no length, a negative cap, too short, too long.
\set VERBOSITY sqlstate
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\34\0\0\0\2\0\0\0\74\0\0\0\0\0\0\0\11\0\0\0\74\0\0\0\0\0\0\0\5\377\377"' (FORMAT binary)
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\20\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\11\377\377"' (FORMAT binary)
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\20\0\0\0\1\0\0\0\74\377\377\377\377\377\377\377\377\377\377"' (FORMAT binary)
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\4\0\0\0\1\377\377"' (FORMAT binary)
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\5\0\0\0\0\1\377\377"' (FORMAT binary)
\set VERBOSITY default

-- Stored compactly, and read back when it had to go out of line.
SELECT n, pg_column_size(value) AS bytes FROM stored WHERE n <= 3 ORDER BY n;
CREATE TEMP TABLE wide (value limits);
ALTER TABLE wide ALTER COLUMN value SET STORAGE external;
DO $$
BEGIN
    FOR n IN 1 .. 80 LOOP
        EXECUTE pg_catalog.format('ALTER TABLE wide ADD COLUMN c%s limits', n);
        EXECUTE pg_catalog.format('ALTER TABLE wide ALTER COLUMN c%s SET STORAGE external', n);
    END LOOP;
    EXECUTE (SELECT 'INSERT INTO wide VALUES (' || string_agg(quote_literal(value), ',') || ')'
             FROM stored, generate_series(0, 80) WHERE n = 4);
END
$$;
SELECT pg_relation_size(reltoastrelid) > 0 AS toasted FROM pg_class WHERE oid = 'wide'::regclass;
SELECT value, value = c80 AS same, value -> '2 days' AS cap FROM wide;

-- JSON.
SELECT '{"total": 500000, "10 minutes": 5, "24 hours": 1000.0}'::jsonb::limits, '{}'::jsonb::limits = '' AS empty,
       ' 5/10 minutes, 1000/day, 9007199254740991/total'::limits::jsonb, ''::limits::jsonb;
CREATE FUNCTION pg_temp.read(input jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN input::apikeys.limits;
EXCEPTION
    WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT input, pg_temp.read(input::jsonb) AS error
FROM (VALUES
    (1, '[]'), (2, '1'), (3, '"1000/day"'), (4, 'null'), (5, '{"day": "1000"}'), (6, '{"day": null}'), (7, '{"day": {}}'),
    (8, '{"day": [1]}'), (9, '{"day": 1.5}'), (10, '{"day": -1}'), (11, '{"day": 1e300}'), (12, '{"day": 1, "24 hours": 1}'),
    (13, '{"fortnight": 1}'), (14, '[{"day": 1}]')
) AS t(n, input) ORDER BY n;
SELECT castsource::regtype, casttarget::regtype, castcontext FROM pg_cast
WHERE 'limits'::regtype IN (castsource, casttarget) ORDER BY 1, 2;

-- Parts.
SELECT v -> 'day' AS day, v -> ' 24 hours ' AS hours, v -> 'total' AS total, v -> 'week' AS absent
FROM (SELECT '1000/day, 500000/total'::limits) AS t(v);
SELECT '1/day'::limits -> 'fortnight';
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM limits_items('7/total, 6/month, 5/week, 4/day, 3/90 minutes, 2/minute, 1/366 days');
SELECT count(*) AS none FROM limits_items('');

-- Equality, by every path the planner has without an order.
SELECT '1/24 hours'::limits = '1/day' AS eq, '1/day'::limits = '2/day' AS ne, '1/day'::limits <> '1/day, 1/total' AS longer,
       '1/day'::limits = '' AS empty;
SELECT * FROM (SELECT value, count(*) FROM (SELECT ((n % 3) || '/day')::limits FROM generate_series(1, 9) AS n) AS t(value) GROUP BY value) AS t
ORDER BY value::text;
SELECT count(*) FROM (SELECT DISTINCT value FROM (VALUES ('1/day'::limits), ('2/day'), ('1/24 hours')) AS t(value)) AS t;
CREATE TEMP TABLE many AS
SELECT format('%s/%s seconds, %s/total', n % 100, 1 + n / 100, n)::limits AS value FROM generate_series(0, 9999) AS n;
CREATE INDEX many_hash ON many USING hash (value);
ANALYZE many;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT value FROM many WHERE value = '42/13 seconds, 1242/total';
SELECT value FROM many WHERE value = '42/13 seconds, 1242/total';
RESET enable_seqscan;
RESET enable_bitmapscan;
SET enable_nestloop = off;
SELECT count(*) FROM many AS a JOIN many AS b USING (value);
RESET enable_nestloop;

-- Equal values hash equally; unequal ones spread.
SELECT limits_hash('1/24 hours') = limits_hash('1/day') AS same,
       limits_hash_extended('1/24 hours', 7) = limits_hash_extended('1/day', 7) AS same_seeded,
       limits_hash_extended('1/day', 7) <> limits_hash_extended('1/day', 8) AS seed_counts;
SELECT count(DISTINCT limits_hash(value)) > 9990 AS spread, count(DISTINCT limits_hash_extended(value, 1)) = 10000 AS spread_extended FROM many;
