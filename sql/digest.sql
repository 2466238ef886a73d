-- The type digest: hexadecimal and binary forms, casts, order, hashing.
SET search_path = apikeys, apikeys_internal, pg_catalog;

SELECT 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'::digest AS lower,
       'BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD'::digest AS upper;
SELECT '\xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'::digest = sha256('abc')::digest AS same;

-- Refused, and nothing of the input is shown.
CREATE FUNCTION pg_temp.read(input text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN input::apikeys.digest;
EXCEPTION
    WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT input, pg_temp.read(input) AS error
FROM (VALUES
    (1, ''), (2, '\x'), (3, 'ak_0000123456789abcdefghijklmnopqrstuv'),
    (4, repeat('0', 63)), (5, repeat('0', 65)), (6, repeat('0', 63) || 'g'), (7, '\X' || repeat('0', 64)), (8, 'x' || repeat('0', 63)),
    (9, ' ' || repeat('0', 64)), (10, repeat('0', 63) || '/'), (11, repeat('0', 63) || ':'), (12, repeat('0', 63) || '@'), (13, repeat('0', 62) || 'é')
) AS t(n, input) ORDER BY n;
-- Where the server has soft errors, the type has them too.
SELECT CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'true'
            ELSE $$NOT pg_input_is_valid('x', 'apikeys.digest') AND pg_input_is_valid(repeat('0', 64), 'apikeys.digest')$$ END AS soft \gset
SELECT :soft AS soft;

-- From bytes.
SELECT '\x01'::bytea::digest;
\echo :LAST_ERROR_SQLSTATE
SELECT decode(repeat('00', 33), 'hex')::digest;
\echo :LAST_ERROR_SQLSTATE
SELECT decode(repeat('7f', 32), 'hex')::digest;
SELECT castsource::regtype, casttarget::regtype, castcontext FROM pg_cast
WHERE 'digest'::regtype IN (castsource, casttarget) ORDER BY 1, 2;

-- Binary: there and back, and bad messages.
CREATE TEMP TABLE many AS SELECT n, sha256(n::text::bytea)::digest AS value FROM generate_series(1, 10000) AS n;
\copy (SELECT * FROM many WHERE n <= 100) TO 'results/digest.bin' (FORMAT binary)
CREATE TEMP TABLE loaded (LIKE many);
\copy loaded FROM 'results/digest.bin' (FORMAT binary)
SELECT count(*) FROM many JOIN loaded USING (n, value);
CREATE TEMP TABLE one (value digest);
\set VERBOSITY sqlstate
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\3abc\377\377"' (FORMAT binary)
\copy one FROM PROGRAM 'printf "PGCOPY\n\377\r\n\000\0\0\0\0\0\0\0\0\0\1\0\0\0\41012345678901234567890123456789012\377\377"' (FORMAT binary)
\set VERBOSITY default

-- Order is the order of the bytes, unsigned.
SELECT a.value < b.value AS lt, a.value <= b.value AS le, a.value = b.value AS eq, a.value <> b.value AS ne, a.value >= b.value AS ge, a.value > b.value AS gt
FROM (VALUES (1, decode('7f' || repeat('ff', 31), 'hex')::digest), (2, decode('80' || repeat('00', 31), 'hex')::digest)) AS a(n, value),
     (VALUES (1, decode('7f' || repeat('ff', 31), 'hex')::digest), (2, decode('80' || repeat('00', 31), 'hex')::digest)) AS b(n, value)
ORDER BY a.n, b.n;
SELECT count(*) AS out_of_order
FROM (SELECT value::text AS hex, lag(value::text) OVER (ORDER BY value) AS previous FROM many) AS t
WHERE hex COLLATE "C" <= previous COLLATE "C";
SELECT typlen, typbyval, typalign, typstorage FROM pg_type WHERE oid = 'digest'::regtype;

-- Indexes.
CREATE UNIQUE INDEX many_btree ON many (value);
ANALYZE many;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT n FROM many WHERE value = sha256('4242')::digest;
SELECT n FROM many WHERE value = sha256('4242')::digest;
INSERT INTO many VALUES (0, sha256('4242')::digest);
\echo :LAST_ERROR_SQLSTATE
DROP INDEX many_btree;
CREATE INDEX many_hash ON many USING hash (value);
EXPLAIN (COSTS OFF) SELECT n FROM many WHERE value = sha256('4242')::digest;
SELECT n FROM many WHERE value = sha256('4242')::digest;

-- Equal values hash equally; unequal ones spread.
SELECT bool_and(digest_hash(value) = digest_hash(upper(value::text)::digest)) AS same,
       bool_and(digest_hash_extended(value, 7) = digest_hash_extended(upper(value::text)::digest, 7)) AS same_seeded,
       bool_and(digest_hash_extended(value, 7) <> digest_hash_extended(value, 8)) AS seed_counts,
       count(DISTINCT digest_hash(value)) > 9990 AS spread,
       count(DISTINCT digest_hash_extended(value, 1)) = 10000 AS spread_extended
FROM many;
