-- The log, a page at a time, and a single request of it.
--
-- Requests are in the order of (at, request_id), the newest first. A page goes back in time step by step, so that it reads little that
-- it does not need: over all accounts a partition a step; for some keys or accounts so far that about as many requests as are wanted lie
-- within the step, which are found by the index on key_id and at. Usage tells how far that is: it has as many requests as the log.
--
-- A filter that finds little ends: a call examines a bounded number of requests, and says then how far it has got.

CREATE FUNCTION apikeys_internal.logged_endpoint(endpoint text) RETURNS text
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_record_endpoint';
CREATE FUNCTION apikeys_internal.logged_product(product text) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_record_product';
COMMENT ON FUNCTION apikeys_internal.logged_endpoint(text) IS 'An endpoint that verify is given, as the log has it.';
COMMENT ON FUNCTION apikeys_internal.logged_product(text) IS 'A product that verify is given, as the log has it.';

CREATE FUNCTION apikeys_internal.request_place(request_id uuid, OUT at timestamptz, OUT key_id bigint)
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_request_place';
COMMENT ON FUNCTION apikeys_internal.request_place(uuid) IS
'When a request was made, and on which key, as its id says; NULLs: verify never gave such an id.';

CREATE TYPE apikeys.log_row AS (
    at timestamptz, account text, key_id bigint, alias text, category text, product text, code text, status smallint, endpoint text,
    duration_ms real, cost int, credits bigint, ip inet, request_id uuid, previous boolean);
COMMENT ON TYPE apikeys.log_row IS
'A request, as find_request and log_page return it: the columns of the view log. In the last row of a page, code is NULL if no request is '
'meant, but how far the page has looked back: at and request_id.';

CREATE FUNCTION apikeys_internal.logged_key() RETURNS bigint
LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN NOT apikeys.has_scope('apikeys:manage') THEN apikeys.current_key_id() END;
COMMENT ON FUNCTION apikeys_internal.logged_key() IS
'The key whose requests alone the transaction may page through: the one that it acts for, unless that manages others. NULL: all within reach.';

CREATE FUNCTION apikeys_internal.requested_key(request_id uuid) RETURNS apikeys.key
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named apikeys.key;
BEGIN
    SELECT k.* INTO named FROM apikeys.key AS k
    WHERE k.key_id = (apikeys_internal.request_place(requested_key.request_id)).key_id AND apikeys_internal.reaches(k.account_id, false)
      AND k.key_id = coalesce(apikeys_internal.logged_key(), k.key_id);
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'request_log.request_id', format('request %s does not exist', coalesce(request_id::text, 'NULL')));
    END IF;
    RETURN named;
END
$$;
COMMENT ON FUNCTION apikeys_internal.requested_key(uuid) IS
'The key that the request of this id named, if it is within reach. Errors: P0002 no such request.';

CREATE FUNCTION apikeys.find_request(request_id uuid) RETURNS apikeys.log_row
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    named  apikeys.key;
    logged apikeys.log_row;
BEGIN
    PERFORM apikeys_internal.require_reach();
    named := apikeys_internal.requested_key(request_id);
    SELECT r.at, a.name, r.key_id, named.alias, r.category, r.product, r.code, r.status, r.endpoint, r.duration_ms, r.cost, r.credits, r.ip,
           r.request_id, r.previous
    INTO logged
    FROM apikeys.request_log AS r LEFT JOIN apikeys.account AS a ON a.account_id = named.account_id
    WHERE r.key_id = named.key_id AND r.at = (apikeys_internal.request_place(find_request.request_id)).at AND r.request_id = find_request.request_id;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse(
            'P0002', 'request_log.request_id', format('request %s is not in the log', request_id),
            'It is not written yet, the log is not kept so long, or there was none of this id.');
    END IF;
    RETURN logged;
END
$$;
COMMENT ON FUNCTION apikeys.find_request(uuid) IS
'The request of this id, as the log has it. Errors: P0002 no such request, or it is not in the log.';

CREATE FUNCTION apikeys_internal.log_filter(filter jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    class text := filter ->> 'status';
BEGIN
    -- A class of statuses is a string, one status a number.
    IF jsonb_typeof(filter -> 'status') = 'string' AND class ~ '^[1-5]xx$' THEN
        filter := filter - 'status';
    ELSE
        class := NULL;
    END IF;
    IF jsonb_typeof(filter -> 'code') = 'string' THEN
        filter := jsonb_set(filter, '{code}', jsonb_build_array(filter -> 'code'));
    END IF;
    filter := apikeys_internal.checked_filter('request_log', filter, '{
        "account": "text", "category": "text", "code": "text[]", "endpoint": "text", "ip": "inet", "key_id": "bigint",
        "min_duration_ms": "bigint", "previous": "boolean", "product": "text", "since": "timestamp with time zone", "status": "bigint",
        "until": "timestamp with time zone"}');
    IF (filter ->> 'status')::bigint NOT BETWEEN 100 AND 599 THEN
        PERFORM apikeys_internal.refuse('22023', 'request_log.status', 'a status is a number from 100 to 599, or a class such as "4xx"');
    END IF;
    RETURN filter || jsonb_strip_nulls(jsonb_build_object(
        'status_from', coalesce(left(class, 1)::int * 100, (filter ->> 'status')::int),
        'status_to', coalesce(left(class, 1)::int * 100 + 99, (filter ->> 'status')::int),
        'endpoint', apikeys_internal.logged_endpoint(filter ->> 'endpoint'),
        'product', apikeys_internal.logged_product(filter ->> 'product'),
        'ip', apikeys_internal.plain_network((filter ->> 'ip')::inet)));
END
$$;
COMMENT ON FUNCTION apikeys_internal.log_filter(jsonb) IS
'The filter of log_page, checked, in the form that the log has: without nulls, code an array, status also as status_from and status_to. '
'Errors: 22023.';

-- In the conditions, $1 is the filter, $2 its codes.
CREATE FUNCTION apikeys_internal.log_conditions(filter jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT string_agg(c.condition, ' AND ')
    FROM (VALUES
        ('category', $c$r.category = $1 ->> 'category'$c$),
        ('code', $c$r.code = ANY ($2)$c$),
        ('endpoint', $c$r.endpoint = $1 ->> 'endpoint'$c$),
        -- apikeys.log_address may have had the log keep networks.
        ('ip', $c$r.ip && ($1 ->> 'ip')::inet$c$),
        ('min_duration_ms', $c$r.duration_ms >= ($1 ->> 'min_duration_ms')::bigint$c$),
        ('previous', $c$r.previous = ($1 ->> 'previous')::boolean$c$),
        ('product', $c$r.product = $1 ->> 'product'$c$),
        ('status_from', $c$r.status BETWEEN ($1 ->> 'status_from')::int AND ($1 ->> 'status_to')::int$c$)
    ) AS c (member, condition)
    WHERE filter ? c.member;
END;
COMMENT ON FUNCTION apikeys_internal.log_conditions(jsonb) IS
'What log_page asks of a row r of request_log, besides its key, account and time; NULL: nothing.';

CREATE FUNCTION apikeys_internal.log_partitions() RETURNS timestamptz[]
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT ARRAY(SELECT coalesce(substring(pg_get_expr(c.relpartbound, c.oid) FROM $$FROM \('(.*?)'\)$$)::timestamptz, '-infinity')
                 FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
                 WHERE i.inhparent = 'apikeys.request_log'::regclass
                 ORDER BY 1);
END;
COMMENT ON FUNCTION apikeys_internal.log_partitions() IS
'When the partitions of the log begin, in this order; -infinity: one without a lower bound.';

CREATE FUNCTION apikeys_internal.log_step(
    kind "char", subjects bigint[], partitions timestamptz[], since timestamptz, until timestamptz, wanted bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
BEGIN
    IF subjects IS NULL THEN
        RETURN (SELECT max(p.begins_at) FROM unnest(partitions) AS p (begins_at) WHERE p.begins_at < until);
    END IF;
    RETURN (
        SELECT coalesce(max(s.bucket) FILTER (WHERE s.total >= wanted), min(s.bucket))
        FROM (SELECT b.bucket, sum(b.admitted::numeric + b.denied - b.unlogged) OVER (ORDER BY b.bucket DESC) AS total
              FROM apikeys.usage_bucket AS b
              WHERE b.subject = kind AND b.subject_id = ANY (subjects) AND b.bucket < until AND b.bucket > since - interval '1 day') AS s);
END
$$;
COMMENT ON FUNCTION apikeys_internal.log_step("char", bigint[], timestamptz[], timestamptz, timestamptz, bigint) IS
'From where to a time (until) the next step of a page reads the log: for keys (k) or accounts (a) so that at least as many requests as '
'wanted lie in between, if there are so many since the time given; for all (NULL) the beginning of a partition. NULL: there are none.';

CREATE FUNCTION apikeys.log_page(filter jsonb = '{}', before uuid = NULL, rows int = 50) RETURNS SETOF apikeys.log_row
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    subjects   bigint[] := CASE WHEN NOT apikeys_internal.reaches_all(false) THEN apikeys_internal.reached_accounts(false) END;
    kind       "char" := 'a';
    keys       bigint[];
    codes      text[];
    conditions text;
    asked      text := 'r.at >= $3 AND r.at < $4';
    since      timestamptz;
    until      timestamptz;
    step       timestamptz;
    partitions timestamptz[] := apikeys_internal.log_partitions();
    before_at  timestamptz := (apikeys_internal.request_place(before)).at;
    share      bigint;
    left_over  bigint := 200000;    -- to be examined
    examined   bigint := 0;         -- in this step, which is counted only if there are conditions
    ends       boolean;             -- with this step: no more may be examined
    returned   bigint;
    last       apikeys.log_row;
BEGIN
    PERFORM apikeys_internal.require_reach();
    filter := apikeys_internal.log_filter(filter);
    IF rows IS NULL OR rows NOT BETWEEN 1 AND 1000 THEN
        PERFORM apikeys_internal.refuse('22023', 'rows', 'a page has 1 to 1000 rows');
    END IF;
    IF filter ? 'account' THEN
        subjects := ARRAY[(apikeys_internal.get_account(filter ->> 'account', false)).account_id];
    END IF;
    IF (filter ->> 'key_id')::bigint <> apikeys_internal.logged_key() THEN
        PERFORM apikeys_internal.refuse('P0002', 'key.key_id', format('key %s does not exist', filter ->> 'key_id'));
    END IF;
    filter := filter || jsonb_strip_nulls(jsonb_build_object('key_id', apikeys_internal.logged_key()));
    IF filter ? 'key_id' THEN
        keys := ARRAY(SELECT k.key_id FROM apikeys_internal.reached_key((filter ->> 'key_id')::bigint) AS k
                      WHERE subjects IS NULL OR k.account_id = ANY (subjects));
        kind := 'k';
        subjects := keys;
        asked := asked || CASE cardinality(keys) WHEN 1 THEN format(' AND r.key_id = %s', keys[1]) ELSE ' AND false' END;
    ELSIF subjects IS NOT NULL THEN
        asked := asked || ' AND r.account_id = ANY ($5)';
        -- By the index on key_id and at, if the keys are not too many.
        keys := ARRAY(SELECT k.key_id FROM apikeys.key AS k WHERE k.account_id = ANY (subjects) LIMIT 2001);
        IF cardinality(keys) <= 2000 THEN
            asked := asked || ' AND r.key_id = ANY ($6)';
        END IF;
    END IF;
    until := coalesce((filter ->> 'until')::timestamptz, 'infinity');
    IF before IS NOT NULL THEN
        PERFORM apikeys_internal.requested_key(before);
        asked := asked || ' AND (r.at, r.request_id) < ($7, $8)';
        until := least(until, before_at + interval '1 microsecond');
    END IF;
    codes := ARRAY(SELECT jsonb_array_elements_text(filter -> 'code'));
    conditions := apikeys_internal.log_conditions(filter);
    since := greatest(partitions[1], (filter ->> 'since')::timestamptz);
    -- A filter may find few of them.
    share := CASE WHEN conditions IS NULL THEN rows ELSE 1000 END;
    LOOP
        step := greatest(apikeys_internal.log_step(kind, subjects, partitions, since, until, share), since);
        EXIT WHEN step IS NULL OR step >= until;
        IF conditions IS NOT NULL THEN
            EXECUTE format('SELECT count(*) FROM (SELECT FROM apikeys.request_log AS r WHERE %s LIMIT %s) AS r', asked, left_over)
            INTO examined USING filter, codes, step, until, subjects, keys, before_at, before;
        END IF;
        ends := examined = left_over;
        RETURN QUERY EXECUTE format(
            'SELECT r.at, a.name, r.key_id, k.alias, r.category, r.product, r.code, r.status, r.endpoint, r.duration_ms, r.cost, r.credits,
                    r.ip, r.request_id, r.previous
             FROM (SELECT r.* FROM (SELECT r.* FROM apikeys.request_log AS r WHERE %s %s) AS r
                   WHERE %s ORDER BY r.at DESC, r.request_id DESC LIMIT %s) AS r
             LEFT JOIN apikeys.key AS k ON k.key_id = r.key_id
             LEFT JOIN apikeys.account AS a ON a.account_id = r.account_id
             ORDER BY r.at DESC, r.request_id DESC',
            asked, CASE WHEN ends THEN format('ORDER BY r.at DESC, r.request_id DESC LIMIT %s', left_over) END, coalesce(conditions, 'true'), rows)
            USING filter, codes, step, until, subjects, keys, before_at, before;
        GET DIAGNOSTICS returned = ROW_COUNT;
        rows := rows - returned;
        EXIT WHEN rows = 0;
        IF ends THEN
            EXECUTE format(
                'SELECT r.at, r.request_id FROM apikeys.request_log AS r WHERE %s ORDER BY r.at DESC, r.request_id DESC OFFSET %s LIMIT 1',
                asked, left_over - 1)
            INTO last.at, last.request_id USING filter, codes, step, until, subjects, keys, before_at, before;
            RETURN NEXT last;
            EXIT;
        END IF;
        left_over := left_over - examined;
        share := least(4 * share, left_over);
        until := step;
    END LOOP;
END
$$;
COMMENT ON FUNCTION apikeys.log_page(jsonb, uuid, int) IS
'A page of the request log within reach, the newest first, by at and request_id. Members of the filter, all of which must hold: account; '
'key_id; code (of the verdict), or an array of codes; status (a number, or a class: "4xx"); endpoint (what verify is given; the log has it '
'without a query string); product; category; ip (an address or a network); min_duration_ms; previous (whether the key''s text was that '
'before a rotation); since and until (times, until excluded). A transaction that acts for a key without the scope apikeys:manage '
'finds the requests of that key alone. What is null is as if it were absent. before is the request_id of the last '
'row of the page before; rows: how many a page has, 1 to 1000.
A call examines 200,000 requests at most. If it ends there, a last row says how far it has looked back: all of it is NULL but at and '
'request_id, which is before for the next call. A page with fewer rows than asked for, and no such row, is the last.
Errors: P0002 unknown account, key or request; 22023 an unknown member, a bad value or number of rows.';
