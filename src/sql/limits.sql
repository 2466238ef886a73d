-- The type limits: several limits in one value, e.g. '1000/day, 500000/total'.

CREATE TYPE apikeys.limits;

CREATE FUNCTION apikeys_internal.limits_in(cstring) RETURNS apikeys.limits
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_in';
CREATE FUNCTION apikeys_internal.limits_out(apikeys.limits) RETURNS cstring
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_out';
CREATE FUNCTION apikeys_internal.limits_recv(internal) RETURNS apikeys.limits
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_recv';
CREATE FUNCTION apikeys_internal.limits_send(apikeys.limits) RETURNS bytea
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_send';
COMMENT ON FUNCTION apikeys_internal.limits_in(cstring) IS 'Text input of limits. Errors: 22P02.';
COMMENT ON FUNCTION apikeys_internal.limits_out(apikeys.limits) IS
'Text output of limits: canonical, sorted by window, total last.';
COMMENT ON FUNCTION apikeys_internal.limits_recv(internal) IS 'Binary input of limits. Errors: 22P03.';
COMMENT ON FUNCTION apikeys_internal.limits_send(apikeys.limits) IS
'Binary output of limits: their number (int32), then for each its window in seconds (int32; -1: total) and its cap '
'(int64).';

-- STORAGE main: a row's other columns are compressed or moved out of line first, so that verify finds the limits in the row.
CREATE TYPE apikeys.limits (
    INPUT = apikeys_internal.limits_in,
    OUTPUT = apikeys_internal.limits_out,
    RECEIVE = apikeys_internal.limits_recv,
    SEND = apikeys_internal.limits_send,
    INTERNALLENGTH = VARIABLE,
    STORAGE = main
);
COMMENT ON TYPE apikeys.limits IS
'Up to 8 limits, e.g. ''1000/day, 20000/month, 500000/total''. Each allows at most that many units in any trailing '
'window. A window is second, minute, hour, day, week, month (30 days), total (without end), or N seconds, minutes, '
'hours or days, from 1 second to 366 days. A cap is at most 4294967295, that of total at most 9007199254740991; 0 '
'denies all requests. The empty text has no limit. Errors: 22P02.';

-- Equality and hashing. There is no order: of two sets of limits, neither is the lower one.

CREATE FUNCTION apikeys_internal.limits_eq(apikeys.limits, apikeys.limits) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_eq';
CREATE FUNCTION apikeys_internal.limits_ne(apikeys.limits, apikeys.limits) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_ne';
CREATE FUNCTION apikeys_internal.limits_hash(apikeys.limits) RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_hash';
CREATE FUNCTION apikeys_internal.limits_hash_extended(apikeys.limits, bigint) RETURNS bigint
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_hash_extended';
COMMENT ON FUNCTION apikeys_internal.limits_eq(apikeys.limits, apikeys.limits) IS 'Implementation of the operator =.';
COMMENT ON FUNCTION apikeys_internal.limits_ne(apikeys.limits, apikeys.limits) IS 'Implementation of the operator <>.';
COMMENT ON FUNCTION apikeys_internal.limits_hash(apikeys.limits) IS 'Hash of limits.';
COMMENT ON FUNCTION apikeys_internal.limits_hash_extended(apikeys.limits, bigint) IS
'Hash of limits, 64 bits with a seed.';

CREATE OPERATOR apikeys.= (
    LEFTARG = apikeys.limits, RIGHTARG = apikeys.limits, FUNCTION = apikeys_internal.limits_eq,
    COMMUTATOR = OPERATOR(apikeys.=), NEGATOR = OPERATOR(apikeys.<>),
    RESTRICT = pg_catalog.eqsel, JOIN = pg_catalog.eqjoinsel, HASHES
);
CREATE OPERATOR apikeys.<> (
    LEFTARG = apikeys.limits, RIGHTARG = apikeys.limits, FUNCTION = apikeys_internal.limits_ne,
    COMMUTATOR = OPERATOR(apikeys.<>), NEGATOR = OPERATOR(apikeys.=),
    RESTRICT = pg_catalog.neqsel, JOIN = pg_catalog.neqjoinsel
);
COMMENT ON OPERATOR apikeys.= (apikeys.limits, apikeys.limits) IS 'Same limits.';
COMMENT ON OPERATOR apikeys.<> (apikeys.limits, apikeys.limits) IS 'Not the same limits.';

CREATE OPERATOR CLASS apikeys.limits_hash_ops DEFAULT FOR TYPE apikeys.limits USING hash AS
    OPERATOR 1 apikeys.=,
    FUNCTION 1 apikeys_internal.limits_hash(apikeys.limits),
    FUNCTION 2 apikeys_internal.limits_hash_extended(apikeys.limits, bigint);
COMMENT ON OPERATOR CLASS apikeys.limits_hash_ops USING hash IS 'Hashing of limits.';

-- Parts of a value.

CREATE FUNCTION apikeys.limits_cap(limits apikeys.limits, limit_window text) RETURNS bigint
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_cap';
COMMENT ON FUNCTION apikeys.limits_cap(apikeys.limits, text) IS
'The cap of a window such as ''day'' or ''10 minutes'', in units; NULL if there is no limit on that window. Errors: '
'22023 not a window.';

CREATE OPERATOR apikeys.-> (LEFTARG = apikeys.limits, RIGHTARG = text, FUNCTION = apikeys.limits_cap);
COMMENT ON OPERATOR apikeys.-> (apikeys.limits, text) IS
'The cap of a window such as ''day'' or ''10 minutes'', in units; NULL if there is no limit on that window. Where '
'apikeys is not in the search_path, call limits_cap. Errors: 22023 not a window.';

CREATE FUNCTION apikeys.limits_items(limits apikeys.limits)
RETURNS TABLE (limit_window text, window_length interval, cap bigint)
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 3 AS 'MODULE_PATHNAME', 'apikeys_limits_items';
COMMENT ON FUNCTION apikeys.limits_items(apikeys.limits) IS
'One row for each limit, sorted by window; total comes last, with a window_length of NULL. Caps are in units; a day '
'is 24 hours.';

CREATE FUNCTION apikeys_internal.lower_limits(limits apikeys.limits, owner_limits apikeys.limits) RETURNS apikeys.limits
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_lower';
COMMENT ON FUNCTION apikeys_internal.lower_limits(apikeys.limits, apikeys.limits) IS
'The limits that decide where an owner has set some below those of the provider: of each window the smaller cap, without grants. NULL: '
'they have more than 8 windows together.';

-- Casts.

CREATE FUNCTION apikeys_internal.limits_from_jsonb(jsonb) RETURNS apikeys.limits
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_from_jsonb';
CREATE FUNCTION apikeys_internal.limits_to_jsonb(apikeys.limits) RETURNS jsonb
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_limits_to_jsonb';
COMMENT ON FUNCTION apikeys_internal.limits_from_jsonb(jsonb) IS
'Limits from an object of windows and caps, e.g. {"day": 1000, "10 minutes": 5}. Errors: 22P02.';
COMMENT ON FUNCTION apikeys_internal.limits_to_jsonb(apikeys.limits) IS
'An object of windows and caps, e.g. {"day": 1000, "10 minutes": 5}.';

CREATE CAST (jsonb AS apikeys.limits) WITH FUNCTION apikeys_internal.limits_from_jsonb(jsonb);
CREATE CAST (apikeys.limits AS jsonb) WITH FUNCTION apikeys_internal.limits_to_jsonb(apikeys.limits);
COMMENT ON CAST (jsonb AS apikeys.limits) IS
'From an object of windows and caps, e.g. {"day": 1000, "10 minutes": 5}. Errors: 22P02.';
COMMENT ON CAST (apikeys.limits AS jsonb) IS 'To an object of windows and caps, e.g. {"day": 1000, "10 minutes": 5}.';
