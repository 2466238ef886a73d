-- The type digest: the SHA-256 of a key text, 32 bytes.

CREATE TYPE apikeys.digest;

CREATE FUNCTION apikeys_internal.digest_in(cstring) RETURNS apikeys.digest
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_in';
CREATE FUNCTION apikeys_internal.digest_out(apikeys.digest) RETURNS cstring
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_out';
CREATE FUNCTION apikeys_internal.digest_recv(internal) RETURNS apikeys.digest
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_recv';
CREATE FUNCTION apikeys_internal.digest_send(apikeys.digest) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_send';
COMMENT ON FUNCTION apikeys_internal.digest_in(cstring) IS
'Text input of a digest: 64 hexadecimal digits, with or without \x before them. Errors: 22P02.';
COMMENT ON FUNCTION apikeys_internal.digest_out(apikeys.digest) IS
'Text output of a digest: 64 hexadecimal digits in lower case.';
COMMENT ON FUNCTION apikeys_internal.digest_recv(internal) IS 'Binary input of a digest: its 32 bytes. Errors: 22P03.';
COMMENT ON FUNCTION apikeys_internal.digest_send(apikeys.digest) IS 'Binary output of a digest: its 32 bytes.';

CREATE TYPE apikeys.digest (
    INPUT = apikeys_internal.digest_in,
    OUTPUT = apikeys_internal.digest_out,
    RECEIVE = apikeys_internal.digest_recv,
    SEND = apikeys_internal.digest_send,
    INTERNALLENGTH = 32,
    ALIGNMENT = char,
    STORAGE = plain
);
COMMENT ON TYPE apikeys.digest IS 'SHA-256 of a key text: 32 bytes, written as 64 hexadecimal digits.';

-- Equality, hashing and sorting.

CREATE FUNCTION apikeys_internal.digest_eq(apikeys.digest, apikeys.digest) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_eq';
CREATE FUNCTION apikeys_internal.digest_ne(apikeys.digest, apikeys.digest) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_ne';
CREATE FUNCTION apikeys_internal.digest_lt(apikeys.digest, apikeys.digest) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_lt';
CREATE FUNCTION apikeys_internal.digest_le(apikeys.digest, apikeys.digest) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_le';
CREATE FUNCTION apikeys_internal.digest_ge(apikeys.digest, apikeys.digest) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_ge';
CREATE FUNCTION apikeys_internal.digest_gt(apikeys.digest, apikeys.digest) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_gt';
CREATE FUNCTION apikeys_internal.digest_cmp(apikeys.digest, apikeys.digest) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_cmp';
CREATE FUNCTION apikeys_internal.digest_hash(apikeys.digest) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_hash';
CREATE FUNCTION apikeys_internal.digest_hash_extended(apikeys.digest, bigint) RETURNS bigint
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_hash_extended';
COMMENT ON FUNCTION apikeys_internal.digest_eq(apikeys.digest, apikeys.digest) IS 'Implementation of the operator =.';
COMMENT ON FUNCTION apikeys_internal.digest_ne(apikeys.digest, apikeys.digest) IS 'Implementation of the operator <>.';
COMMENT ON FUNCTION apikeys_internal.digest_lt(apikeys.digest, apikeys.digest) IS 'Implementation of the operator <.';
COMMENT ON FUNCTION apikeys_internal.digest_le(apikeys.digest, apikeys.digest) IS 'Implementation of the operator <=.';
COMMENT ON FUNCTION apikeys_internal.digest_ge(apikeys.digest, apikeys.digest) IS 'Implementation of the operator >=.';
COMMENT ON FUNCTION apikeys_internal.digest_gt(apikeys.digest, apikeys.digest) IS 'Implementation of the operator >.';
COMMENT ON FUNCTION apikeys_internal.digest_cmp(apikeys.digest, apikeys.digest) IS 'Order of digests: byte by byte.';
COMMENT ON FUNCTION apikeys_internal.digest_hash(apikeys.digest) IS 'Hash of a digest.';
COMMENT ON FUNCTION apikeys_internal.digest_hash_extended(apikeys.digest, bigint) IS
'Hash of a digest, 64 bits with a seed.';

CREATE OPERATOR apikeys.= (
    LEFTARG = apikeys.digest, RIGHTARG = apikeys.digest, FUNCTION = apikeys_internal.digest_eq,
    COMMUTATOR = OPERATOR(apikeys.=), NEGATOR = OPERATOR(apikeys.<>),
    RESTRICT = pg_catalog.eqsel, JOIN = pg_catalog.eqjoinsel, HASHES, MERGES
);
CREATE OPERATOR apikeys.<> (
    LEFTARG = apikeys.digest, RIGHTARG = apikeys.digest, FUNCTION = apikeys_internal.digest_ne,
    COMMUTATOR = OPERATOR(apikeys.<>), NEGATOR = OPERATOR(apikeys.=),
    RESTRICT = pg_catalog.neqsel, JOIN = pg_catalog.neqjoinsel
);
CREATE OPERATOR apikeys.< (
    LEFTARG = apikeys.digest, RIGHTARG = apikeys.digest, FUNCTION = apikeys_internal.digest_lt,
    COMMUTATOR = OPERATOR(apikeys.>), NEGATOR = OPERATOR(apikeys.>=),
    RESTRICT = pg_catalog.scalarltsel, JOIN = pg_catalog.scalarltjoinsel
);
CREATE OPERATOR apikeys.<= (
    LEFTARG = apikeys.digest, RIGHTARG = apikeys.digest, FUNCTION = apikeys_internal.digest_le,
    COMMUTATOR = OPERATOR(apikeys.>=), NEGATOR = OPERATOR(apikeys.>),
    RESTRICT = pg_catalog.scalarlesel, JOIN = pg_catalog.scalarlejoinsel
);
CREATE OPERATOR apikeys.>= (
    LEFTARG = apikeys.digest, RIGHTARG = apikeys.digest, FUNCTION = apikeys_internal.digest_ge,
    COMMUTATOR = OPERATOR(apikeys.<=), NEGATOR = OPERATOR(apikeys.<),
    RESTRICT = pg_catalog.scalargesel, JOIN = pg_catalog.scalargejoinsel
);
CREATE OPERATOR apikeys.> (
    LEFTARG = apikeys.digest, RIGHTARG = apikeys.digest, FUNCTION = apikeys_internal.digest_gt,
    COMMUTATOR = OPERATOR(apikeys.<), NEGATOR = OPERATOR(apikeys.<=),
    RESTRICT = pg_catalog.scalargtsel, JOIN = pg_catalog.scalargtjoinsel
);
COMMENT ON OPERATOR apikeys.= (apikeys.digest, apikeys.digest) IS 'Same digest.';
COMMENT ON OPERATOR apikeys.<> (apikeys.digest, apikeys.digest) IS 'Not the same digest.';
COMMENT ON OPERATOR apikeys.< (apikeys.digest, apikeys.digest) IS 'Sorts before.';
COMMENT ON OPERATOR apikeys.<= (apikeys.digest, apikeys.digest) IS 'Sorts before or is the same.';
COMMENT ON OPERATOR apikeys.>= (apikeys.digest, apikeys.digest) IS 'Sorts after or is the same.';
COMMENT ON OPERATOR apikeys.> (apikeys.digest, apikeys.digest) IS 'Sorts after.';

CREATE OPERATOR CLASS apikeys.digest_btree_ops DEFAULT FOR TYPE apikeys.digest USING btree AS
    OPERATOR 1 apikeys.<,
    OPERATOR 2 apikeys.<=,
    OPERATOR 3 apikeys.=,
    OPERATOR 4 apikeys.>=,
    OPERATOR 5 apikeys.>,
    FUNCTION 1 apikeys_internal.digest_cmp(apikeys.digest, apikeys.digest),
    FUNCTION 4 pg_catalog.btequalimage(oid);
COMMENT ON OPERATOR CLASS apikeys.digest_btree_ops USING btree IS 'Sorting and look-up of digests.';

CREATE OPERATOR CLASS apikeys.digest_hash_ops DEFAULT FOR TYPE apikeys.digest USING hash AS
    OPERATOR 1 apikeys.=,
    FUNCTION 1 apikeys_internal.digest_hash(apikeys.digest),
    FUNCTION 2 apikeys_internal.digest_hash_extended(apikeys.digest, bigint);
COMMENT ON OPERATOR CLASS apikeys.digest_hash_ops USING hash IS 'Hashing of digests.';

-- Casts.

CREATE FUNCTION apikeys_internal.digest_from_bytea(bytea) RETURNS apikeys.digest
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_digest_from_bytea';
COMMENT ON FUNCTION apikeys_internal.digest_from_bytea(bytea) IS
'Digest of exactly 32 bytes, e.g. of sha256(). Errors: 22023 for any other length.';

CREATE CAST (bytea AS apikeys.digest) WITH FUNCTION apikeys_internal.digest_from_bytea(bytea);
COMMENT ON CAST (bytea AS apikeys.digest) IS
'From exactly 32 bytes, e.g. of sha256(). Errors: 22023 for any other length.';
