-- What verify answers, and what it records. The clock is moved, never waited for.
INSERT INTO apikeys.plan (name) VALUES ('default');
INSERT INTO apikeys.product (name) VALUES ('maps');
INSERT INTO apikeys.account (account_id, name, plan, active) VALUES (1, 'acme', 'default', true), (2, 'idle', 'default', false);

-- A key whose text is its alias.
CREATE FUNCTION add_key(alias text, limits apikeys.limits = NULL, account_id bigint = 1) RETURNS void LANGUAGE sql AS
$$ INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, limits)
   SELECT coalesce(max(key_id), 0) + 1, $3, sha256(convert_to($1, 'UTF8'))::apikeys.digest, '', '', $1, $2 FROM apikeys.key $$;
CREATE FUNCTION add_account(name text, limits apikeys.limits) RETURNS bigint LANGUAGE sql AS
$$ INSERT INTO apikeys.account (account_id, name, plan, limits)
   SELECT max(account_id) + 1, $1, 'default', $2 FROM apikeys.account RETURNING account_id $$;
CREATE FUNCTION set_limits(alias text, limits apikeys.limits) RETURNS void LANGUAGE sql AS
$$ UPDATE apikeys.key SET limits = $2 WHERE alias = $1 $$;

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
-- Asks several times; shows what does not depend on the moment.
CREATE FUNCTION ask(key text, cost int = 1, times int = 1, OUT status smallint, OUT code text, OUT message text, OUT subject text,
    OUT limit_window text, OUT limit_cap bigint, OUT remaining bigint, OUT resets boolean, OUT retry boolean) RETURNS SETOF record LANGUAGE sql AS
$$ SELECT v.status, v.code, v.message, v.limit_subject, v.limit_window, v.limit_cap, v.remaining, v.reset_after_s > 0, v.retry_after_s > 0
   FROM generate_series(1, $3) AS n, apikeys.verify($1, cost => $2 + 0 * n) AS v $$;

-- Microseconds: the request's time, and how far this session's clock was moved.
CREATE FUNCTION at_us(id uuid) RETURNS bigint LANGUAGE sql AS
$$ SELECT ('x' || substr(hex, 1, 12))::bit(48)::bigint * 1000 + (('x' || substr(hex, 14, 3))::bit(12) >> 2)::int
   FROM replace(id::text, '-', '') AS hex $$;
CREATE FUNCTION us(interval) RETURNS bigint LANGUAGE sql AS $$ SELECT (extract(epoch FROM $1) * 1000000)::bigint $$;
CREATE FUNCTION move(interval) RETURNS void LANGUAGE sql AS
$$ SELECT set_config('test.offset_us', (coalesce(nullif(current_setting('test.offset_us', true), ''), '0')::bigint + us($1))::text, false);
   SELECT set_config('apikeys.debug_clock_offset', (current_setting('test.offset_us')::bigint / 1000000.0)::text, false) $$;

--
-- Every code and its text
--
SELECT add_key('plain'), add_key('suspended'), add_key('inactive'), add_key('idle', account_id => 2), add_key('expired'),
       add_key('office'), add_key('web'), add_key('maps'), add_key('reader');
UPDATE apikeys.key SET suspended_reason = 'abuse', suspended_at = now() WHERE alias = 'suspended';
UPDATE apikeys.key SET active = false WHERE alias = 'inactive';
UPDATE apikeys.key SET expires_at = now() + '1 hour' WHERE alias = 'expired';
UPDATE apikeys.key SET allowed_ips = '{10.0.0.0/8}' WHERE alias = 'office';
UPDATE apikeys.key SET allowed_domains = '{example.com}' WHERE alias = 'web';
INSERT INTO apikeys.key_product SELECT key_id, 'maps' FROM apikeys.key WHERE alias = 'maps';
UPDATE apikeys.key SET scopes = '{read}' WHERE alias = 'reader';
SELECT move('1 hour');
SELECT v.allowed, v.status, v.code, v.message, v.account, v.request_id IS NOT NULL AS recorded, v.limit_subject, v.limit_window, v.limit_cap,
       v.remaining, v.reset_after_s, v.retry_after_s
FROM unnest('{plain,unknown,NULL,suspended,inactive,idle,expired,office,web,maps,reader}'::text[]) AS k,
     apikeys.verify(k, scopes => CASE k WHEN 'reader' THEN '{write}'::text[] END) AS v;
SELECT code FROM unnest(ARRAY['', 'ak_' || repeat('A', 36), repeat('x', 512), repeat('x', 513)]) AS k, apikeys.verify(k);
SELECT o.code, w.code, m.code, r.code
FROM apikeys.verify('office', ip => '::ffff:10.1.2.3') AS o, apikeys.verify('web', origin => 'https://example.com') AS w,
     apikeys.verify('maps', product => 'maps') AS m, apikeys.verify('reader', scopes => '{read}') AS r;

-- A key's limits: quotas of certain windows, rates of the others. An account's are rates.
SELECT count(add_key(l, ('0/' || l)::apikeys.limits)) FROM unnest('{total,day,24 hours,week,month,30 days,second,minute,hour,10 minutes,2 days,90 seconds}'::text[]) AS l;
SELECT k.limits, v.* FROM apikeys.key AS k, ask(k.alias) AS v WHERE k.limits IS NOT NULL ORDER BY key_id;
SELECT count(add_key('of ' || l, account_id => add_account(l, ('0/' || l)::apikeys.limits))) FROM unnest('{total,day,week,month,second,minute,hour,10 minutes}'::text[]) AS l;
SELECT a.limits, v.* FROM apikeys.account AS a, ask('of ' || a.name) AS v WHERE a.limits IS NOT NULL ORDER BY account_id;

-- A tier that is gone, or a plan: a foreign key keeps them, but not from whoever puts it out of force.
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE apikeys.key SET tier = 'gone' WHERE alias = 'plain';
SELECT f.code, f.message FROM pg_temp.failure($$SELECT apikeys.verify('plain')$$) AS f;
UPDATE apikeys.account SET plan = 'gone' WHERE account_id = 1;
SELECT f.code, f.message FROM pg_temp.failure($$SELECT apikeys.verify('maps', product => 'maps')$$) AS f;
ROLLBACK;

-- What cannot be recorded in time is not allowed, not even the first time; it is recorded, and counts, all the same.
SELECT add_key('locked', '1/hour');
SET apikeys.queue_timeout = '50ms';
BEGIN;
LOCK TABLE apikeys.request_log;
SELECT * FROM ask('locked');
COMMIT;
RESET apikeys.queue_timeout;
SELECT * FROM ask('locked');

--
-- Which limit is shown: the one that denied, else the tightest
--
SELECT add_key('tightest', '4/minute, 10/hour, 5/total');
SELECT * FROM ask('tightest', times => 5);
SELECT move('2 minutes');
SELECT * FROM ask('tightest', times => 2);  -- 5 of 10 are left in the hour, none in total
-- Of account and key together: the account's where both have the same share left.
SELECT add_account('shared', '3/hour') AS shared \gset
SELECT add_key('one', '2/day', :shared), add_key('two', NULL, :shared), add_key('three', '3/hour', :shared);
SELECT k, v.* FROM unnest('{one,two,one,two,one,three}'::text[]) WITH ORDINALITY AS u(k, n), ask(k) AS v ORDER BY n;
-- Denied by the account: nothing is taken from the key.
SELECT move('2 hours');
SELECT k, v.* FROM unnest('{one,one,two,three,three}'::text[]) WITH ORDINALITY AS u(k, n), ask(k) AS v ORDER BY n;

-- reset_after_s: a unit is given back when its 128th part of the window is past, and not before.
SELECT count(add_key(w, ('2/' || w)::apikeys.limits)) FROM unnest('{1 minutes,3 hours,8 days,300 days}'::text[]) AS w;
SELECT w, v.reset_after_s > s.seconds AND v.reset_after_s <= s.seconds * 129 / 128 AS within
FROM unnest('{1 minutes,3 hours,8 days,300 days}'::text[]) AS w, extract(epoch FROM w::interval) AS s(seconds), apikeys.verify(w) AS v;

--
-- retry_after_s
--
-- Moves the clock to just before the promised end of a denial and calls until it ends. The end must be the same in all
-- answers and be kept to the microsecond; a window of an even number of seconds has no finer one.
CREATE FUNCTION keeps_promise(key text, cost int = 1, lead interval = '5 ms') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v apikeys.verdict := apikeys.verify(key, cost => cost);
    promised bigint := at_us(v.request_id) + us(make_interval(secs => v.retry_after_s));
BEGIN
    IF v.allowed OR promised IS NULL THEN
        RETURN 'no promise: ' || v.message;
    END IF;
    PERFORM move(make_interval(secs => v.retry_after_s) - lead);
    LOOP
        v := apikeys.verify(key, cost => cost);
        EXIT WHEN v.allowed;
        IF at_us(v.request_id) >= promised OR at_us(v.request_id) + us(make_interval(secs => v.retry_after_s)) <> promised THEN
            RETURN format('denied at %s for %s after promise of %s', at_us(v.request_id), v.retry_after_s, promised);
        END IF;
    END LOOP;
    RETURN CASE WHEN at_us(v.request_id) < promised THEN format('admitted %s us early', promised - at_us(v.request_id)) ELSE 'kept' END;
END $$;

SELECT add_key('retry', '3/minute, 4/hour, 6/30 days');
SELECT code FROM ask('retry', times => 3);
SELECT keeps_promise('retry');          -- the minute's
SELECT message, retry FROM ask('retry');
SELECT keeps_promise('retry');          -- the hour's
SELECT keeps_promise('retry', 2);       -- the month's
SELECT message, remaining, retry FROM ask('retry', 2);
SELECT message, remaining, retry FROM ask('retry', 3);
SELECT message, remaining, retry FROM ask('retry', 4);   -- more than the minute's cap: never
-- Over all limits that fail, not the one that is shown.
SELECT add_account('retry', '2/10 minutes') AS account \gset
SELECT add_key('both', '2/20 minutes', :account);
SELECT code FROM ask('both', times => 2);
SELECT v.message, v.retry_after_s > 19 * 60 AS of_key FROM apikeys.verify('both') AS v;
SELECT keeps_promise('both');
SELECT add_account('retry later', '2/20 minutes') AS account \gset
SELECT add_key('both later', '2/10 minutes', :account);
SELECT code FROM ask('both later', times => 2);
SELECT v.message, v.retry_after_s > 19 * 60 AS of_account FROM apikeys.verify('both later') AS v;
SELECT keeps_promise('both later');
-- Never: a total, or more than a cap, whatever else fails too.
SELECT add_key('never', '1/minute, 2/total');
SELECT v.* FROM (VALUES (1), (1), (2), (3)) AS c(cost), ask('never', c.cost) AS v;
SELECT move('1 hour');
SELECT v.* FROM (VALUES (2), (1), (1)) AS c(cost), ask('never', c.cost) AS v;

--
-- Cost
--
SELECT add_key('cost', '10/hour');
SELECT c.cost, v.* FROM (VALUES (0), (4), (NULL), (6), (5), (0), (1), (0), (2147483647)) AS c(cost), ask('cost', c.cost) AS v;
SELECT add_key('none', '0/hour');
SELECT * FROM ask('none', 0);
SELECT add_key('most', '4294967295/hour, 9007199254740991/total');
SELECT code, remaining FROM ask('most', 2147483647, 3);
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.verify('cost', cost => -1)$$),
    (2, $$SELECT * FROM apikeys.verify_many('{cost,cost}', costs => '{1,-1}')$$),
    (3, $$SELECT apikeys.verify('cost', cost => 2147483648)$$),
    (4, $$SELECT * FROM apikeys.verify_many('{cost,cost}', costs => '{1,9223372036854775807}')$$),
    (5, $$SELECT apikeys.verify('cost', scopes => array_fill('a'::text, '{1001}'))$$),
    (6, $$SELECT * FROM apikeys.verify_many('{cost,cost}', scopes => ARRAY['a', repeat('a ', 1001)])$$),
    (7, $$SELECT * FROM apikeys.verify_many(array_fill('cost'::text, '{10001}'))$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
SELECT code, remaining FROM ask('cost', 0);

--
-- verify_many
--
SELECT add_key('many', '3/hour');
SELECT n, status, code, message, account, request_id IS NOT NULL AS recorded, limit_window, remaining
FROM apikeys.verify_many('{many,many,NULL,unknown,many,many,office}', ips => '{NULL,10.1.1.1,NULL,NULL,NULL,NULL,10.1.1.1}', costs => '{1,0,1,1,NULL,2,7}');
SELECT n, code, remaining FROM apikeys.verify_many('{many,many}', '{/a,NULL}');
SELECT count(*) FROM apikeys.verify_many('{}');
SELECT count(*) FROM apikeys.verify_many('{}', '{}', '{}', '{}', '{}', '{}', '{}');
SELECT count(*) FROM apikeys.verify_many(NULL);
SELECT count(*), bool_and(n = place) AS in_order, count(DISTINCT request_id) AS requests FROM (SELECT *, row_number() OVER () AS place FROM apikeys.verify_many(array_fill('plain'::text, '{500}'))) AS v;
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT * FROM apikeys.verify_many('{many,many}', '{/a}')$$),
    (2, $$SELECT * FROM apikeys.verify_many('{many}', ips => '{10.0.0.1,10.0.0.2}')$$),
    (3, $$SELECT * FROM apikeys.verify_many('{many}', costs => '{}')$$),
    (4, $$SELECT * FROM apikeys.verify_many(NULL, '{/a}')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- The verdict on each kind of key, for each kind of argument, is that of verify, but for the moment. Each request has an address of its own: none
-- fails so often that it is blocked.
SELECT add_key('tail'), add_key('long'), add_key('grace'), add_key('late');
UPDATE apikeys.key SET hash_rule = CASE alias WHEN 'tail' THEN 'sha256_after_bar' ELSE 'sha256_after_underscore' END WHERE alias IN ('tail', 'long');
UPDATE apikeys.key SET previous_digest = sha256(convert_to('before ' || alias, 'UTF8'))::apikeys.digest, previous_hash_rule = 'sha256',
    previous_valid_until = CASE alias WHEN 'grace' THEN timestamptz '2999-12-31' ELSE '2001-02-03' END WHERE alias IN ('grace', 'late');
SELECT network FROM apikeys.block_address('192.0.2.0/24', 'scans', '1 hour');
CREATE TEMP TABLE asked AS
SELECT row_number() OVER () AS n, k AS key, a.place, a.endpoint, a.network + row_number() OVER () AS ip, a.origin, a.product, a.scopes, a.cost
FROM unnest(ARRAY['plain', 'unknown', NULL, '', 'ak_' || repeat('A', 36), repeat('x', 513), 'suspended', 'inactive', 'idle', 'expired', 'office', 'web', 'maps',
        'reader', '17|tail', 'tail', 'x_long', 'grace', 'before grace', 'late', 'before late', 'day', 'total', 'minute', 'of hour', 'of total', 'none']) AS k,
     (VALUES (1, NULL, NULL::inet, NULL, NULL, NULL, NULL::bigint),
             (2, 'GET /a?b', '10.1.0.0', 'https://example.com/a', 'maps', 'read', 1),
             (3, '', '198.18.0.0', 'https://example.org', 'routes', 'read write', 5),
             (4, 'GET /:id', '2001:db8::', 'example.com', 'maps', NULL, 2147483647),
             (5, NULL, '::ffff:10.1.0.0', 'example.com', 'maps', ' ', 0),
             (6, NULL, '192.0.2.0', 'example.com', 'maps', 'read', 1)) AS a(place, endpoint, network, origin, product, scopes, cost);
CREATE FUNCTION pg_temp.lasting(v anyelement) RETURNS jsonb LANGUAGE sql AS $$
    SELECT to_jsonb(v) - '{n,request_id,reset_after_s,retry_after_s}'::text[]
        || jsonb_build_object('recorded', v.request_id IS NOT NULL, 'resets', v.reset_after_s IS NOT NULL, 'retry', round(v.retry_after_s / 60)) $$;
SELECT left(a.key, 20) AS key, string_agg(m.code, ' ' ORDER BY a.place) AS codes, bool_and(pg_temp.lasting(m) = pg_temp.lasting(v)) AS alike
FROM (SELECT array_agg(key ORDER BY n) AS keys, array_agg(endpoint ORDER BY n) AS endpoints, array_agg(ip ORDER BY n) AS ips, array_agg(origin ORDER BY n) AS origins,
             array_agg(product ORDER BY n) AS products, array_agg(scopes ORDER BY n) AS scopes, array_agg(cost ORDER BY n) AS costs FROM asked) AS s,
     apikeys.verify_many(s.keys, s.endpoints, s.ips, s.origins, s.products, s.scopes, s.costs) AS m
JOIN asked AS a USING (n), apikeys.verify(a.key, a.endpoint, a.ip, a.origin, a.product, array_remove(string_to_array(a.scopes, ' '), ''), a.cost) AS v
GROUP BY a.key ORDER BY min(a.n);
SELECT network FROM apikeys.unblock_address('192.0.2.0/24');
-- Many scopes are found as few are; NULL is one that no key has.
UPDATE apikeys.key SET scopes = ARRAY(SELECT 's' || n FROM generate_series(1, 900) AS n) WHERE alias = 'reader';
SELECT s.what, v.code FROM (VALUES
    ('all', ARRAY(SELECT 's' || n FROM generate_series(900, 1, -1) AS n)), ('one more', ARRAY(SELECT 's' || n FROM generate_series(0, 900) AS n)),
    ('NULL among many', ARRAY(SELECT 's' || n FROM generate_series(1, 20) AS n) || NULL::text), ('twice', '{s1,s1,s2,s2,s3,s3,s4,s4,s5,s5}'),
    ('part of one', '{s1,s2,s3,s4,s5,s6,s7,s8,s}'), ('few', '{s1,s2}'), ('few, part of one', '{s1,s}'), ('few, empty', '{""}')) AS s(what, scopes),
    apikeys.verify('reader', scopes => s.scopes) AS v;
UPDATE apikeys.key SET scopes = '{read}' WHERE alias = 'reader';
SELECT s.scope, f.code, f.message FROM unnest(ARRAY['read:all', 'a b', '', U&'\00E4', 'a"', 'a\b', E'a\n', '!#[]~', '*']) AS s(scope),
    pg_temp.failure(format($$UPDATE apikeys.key SET scopes = ARRAY[%L] WHERE alias = 'reader'$$, scope)) AS f;
UPDATE apikeys.key SET scopes = '{read}' WHERE alias = 'reader';

--
-- complete
--
SELECT request_id AS early FROM apikeys.verify('plain', '/early', '192.0.2.7', cost => 2) \gset
SELECT apikeys.complete(:'early', 404, 12.5, 3), apikeys.complete(:'early', 200, 1, 1);
SELECT request_id AS late FROM apikeys.verify('plain', '/late', product => 'maps') \gset
SELECT request_id AS never FROM apikeys.verify('plain', '/never') \gset
SELECT request_id AS many FROM apikeys.verify('plain', '/many', product => '') \gset
SELECT request_id AS denied FROM apikeys.verify('none', '/denied') \gset
SELECT apikeys.flush();
SELECT apikeys.complete(:'late', 500);
SELECT apikeys.flush();
SELECT apikeys.complete(:'late', 200, 1, 1), apikeys.complete(:'early', 200);
SELECT apikeys.complete(:'denied', 503, 1);
SELECT apikeys.complete_many(ARRAY[:'many', '0190b1b1-0000-4000-8000-000000000001', NULL]::uuid[], '{201,200,200}', '{1.5,NULL,2}', '{NULL,5,5}');
SELECT apikeys.complete_many('{}', '{}'), apikeys.complete_many(NULL, NULL);
-- All or nothing: where one is refused, none has taken effect, as the log shows below.
SELECT f.code, f.message, f.detail FROM (VALUES
    (1, $$SELECT apikeys.complete_many('{%1$s,%1$s}', '{200,99}')$$),
    (2, $$SELECT apikeys.complete_many('{%1$s,%1$s}', '{200,NULL}')$$),
    (3, $$SELECT apikeys.complete_many('{%1$s,%1$s}', '{200,200}', credits => '{1,-1}')$$),
    (4, $$SELECT apikeys.complete_many('{%1$s,%1$s}', '{200,200}', '{1,NaN}')$$),
    (5, $$SELECT apikeys.complete_many('{%1$s,NULL}', '{200,600}')$$),
    (6, $$SELECT apikeys.complete_many('{%1$s}', '{200,200}')$$),
    (7, $$SELECT apikeys.complete_many('{%1$s,%1$s}', '{200}')$$),
    (8, $$SELECT apikeys.complete_many('{%1$s}', NULL)$$),
    (9, $$SELECT apikeys.complete_many('{%1$s}', '{200}', '{}')$$),
    (10, $$SELECT apikeys.complete_many('{%1$s}', '{200}', credits => '{1,2}')$$),
    (11, $$SELECT apikeys.complete_many(NULL, '{200}')$$),
    (12, $$SELECT apikeys.complete_many(array_fill('%1$s'::uuid, '{10001}'), array_fill(200, '{10001}'))$$),
    (13, $$SELECT apikeys.complete_many('{%1$s,%1$s}', '{200,200}', '{1,-0.5}')$$),
    (14, $$SELECT apikeys.complete_many('{%1$s,%1$s}', '{200,200}', '{1,1e39}')$$)
) AS t(n, statement), pg_temp.failure(format(statement, :'never')) AS f ORDER BY n;
SELECT apikeys.flush();
SELECT endpoint, code, status, duration_ms, credits, cost, ip, category, product, completed FROM apikeys.request_log WHERE endpoint ~ '^/' ORDER BY endpoint;
-- The product is the one that was named, be there such a one or not, cut at a character.
SELECT code FROM apikeys.verify('maps', '/product', product => 'routes'), apikeys.flush();
SELECT code FROM apikeys.verify('plain', '/product' || repeat('x', 2050), product => 'x' || repeat(U&'\00E4', 130)), apikeys.flush();
SELECT left(endpoint, 8) AS endpoint, octet_length(endpoint), code, left(product, 6) AS product, octet_length(product)
FROM apikeys.request_log WHERE endpoint LIKE '/product%' ORDER BY at;
SELECT apikeys.complete(NULL, 200), apikeys.complete('00000000-0000-0000-0000-000000000000', 200),
       apikeys.complete('ffffffff-ffff-ffff-ffff-ffffffffffff', 200), apikeys.complete('5f0c3c4e-7a1e-4f6e-9d2b-8c7a6b5d4e3f', 200);
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.complete(%L, 99)$$),
    (2, $$SELECT apikeys.complete(%L, 600)$$),
    (3, $$SELECT apikeys.complete(%L, NULL)$$),
    (4, $$SELECT apikeys.complete(%L, 200, -1)$$),
    (5, $$SELECT apikeys.complete(%L, 200, 'NaN')$$),
    (6, $$SELECT apikeys.complete(%L, 200, 1, -1)$$),
    (7, $$SELECT apikeys.complete(%L, 200, 1, 9223372036854775807)$$),
    (8, $$SELECT apikeys.complete(%L, 200, '-Infinity')$$),
    (9, $$SELECT apikeys.complete(%L, 200, 1e308)$$),
    (10, $$SELECT apikeys.complete(%L, 200, 1000000000001)$$)
) AS t(n, statement), pg_temp.failure(format(statement, :'never')) AS f ORDER BY n;
SELECT u.admitted, u.errors, u.credits FROM apikeys.usage_total AS u JOIN apikeys.key AS k ON k.key_id = u.subject_id
WHERE u.subject = 'k' AND k.alias = 'plain';

--
-- Transactions
--
-- A key of the open transaction is checked, neither metered nor recorded.
BEGIN;
SELECT add_key('mine', '1/hour');
SELECT code, message, account, request_id, limit_window FROM generate_series(1, 2) AS n, apikeys.verify('mine', cost => n);
UPDATE apikeys.key SET active = false WHERE alias = 'mine';
SELECT code, request_id FROM apikeys.verify('mine');
UPDATE apikeys.key SET active = true WHERE alias = 'mine';
SAVEPOINT s;
SELECT set_limits('mine', '0/hour');
SELECT code, request_id FROM apikeys.verify('mine');
ROLLBACK TO s;
COMMIT;
SELECT code, remaining FROM ask('mine', times => 2);
-- One that it has changed is an old key.
BEGIN;
SELECT set_limits('mine', '2/hour');
SELECT code, remaining FROM ask('mine', times => 2);
ROLLBACK;
-- A rollback gives nothing back.
SELECT code, limit_cap, remaining FROM ask('mine');
SELECT add_key('rolled', '3/hour');
BEGIN;
SELECT code, remaining FROM ask('rolled');
SAVEPOINT s;
SELECT code, remaining FROM ask('rolled');
ROLLBACK TO s;
ROLLBACK;
SELECT code, remaining FROM ask('rolled');
SELECT code, remaining FROM ask('rolled');
-- In any kind of transaction, also the first time.
SELECT add_key('read only'), add_key('serializable', '1/hour'), add_key('repeatable', '1/hour');
BEGIN READ ONLY;
SELECT code FROM ask('read only', times => 2);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT code FROM ask('serializable', times => 2);
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT code FROM ask('repeatable', times => 2);
COMMIT;
BEGIN;
SELECT pg_current_xact_id_if_assigned() IS NULL AS none, code FROM ask('plain');
SELECT pg_current_xact_id_if_assigned() IS NULL AS none;
COMMIT;

--
-- Limits that change under a live meter
--
SELECT add_key('changing', '3/hour');
SELECT code, remaining FROM ask('changing', times => 4);
SELECT set_limits('changing', '5/hour');
SELECT code, remaining FROM ask('changing', times => 3);
SELECT set_limits('changing', '2/hour');
SELECT code, limit_cap, remaining FROM ask('changing');
-- A window that the meter has no ring for: what was used before counts.
SELECT set_limits('changing', '9/hour, 6/day, 6/total');
SELECT code, limit_window, remaining FROM ask('changing', times => 2);
SELECT set_limits('changing', '9/hour, 6/day, 6/week');
SELECT message, remaining FROM ask('changing');
SELECT set_limits('changing', '');
SELECT * FROM ask('changing');
SELECT set_limits('changing', '7/month');
SELECT message, remaining FROM ask('changing');
-- Its units come back late by their step in the tables at most, and never early.
SELECT add_key('grown', '2/hour');
SELECT code FROM ask('grown');
SELECT set_limits('grown', '1/2 hours');
SELECT v.message, v.retry_after_s > 119 * 60 AND v.retry_after_s <= 2 * 3600 * 129 / 128.0 + 5 * 60 AS in_time FROM apikeys.verify('grown') AS v;
SELECT keeps_promise('grown');
-- Nor when the session that needs the new window has a clock that is behind: units used later come back later.
SELECT add_key('behind', '5/10 minutes');
SELECT code FROM ask('behind');
SELECT move('-5 minutes');
SELECT set_limits('behind', '1/20 minutes');
SELECT code FROM ask('behind');
SELECT move('21 minutes');
SELECT code FROM ask('behind');
SELECT move('5 minutes');
SELECT code FROM ask('behind');
-- More windows than a meter has room for, one after the other and back again.
SELECT add_key('cycle', '3/hour');
SELECT code FROM ask('cycle', times => 3);
CREATE FUNCTION with_limits(alias text, limits apikeys.limits) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN PERFORM set_limits(alias, limits); RETURN (apikeys.verify(alias)).message; END $$;
SELECT with_limits('cycle', format('3/%s hours', n)::apikeys.limits) FROM generate_series(2, 13) AS n;
SELECT with_limits('cycle', '9/hour,9/2 hours,9/3 hours,9/4 hours,9/5 hours,9/6 hours,9/7 hours,3/8 hours');
SELECT with_limits('cycle', '3/14 hours,9/15 hours,9/16 hours,9/17 hours,9/18 hours,9/19 hours,9/20 hours,9/21 hours');
SELECT with_limits('cycle', '3/hour');

-- A tier's, a plan's and an account's limits reach the keys with the next call.
INSERT INTO apikeys.tier (name, rank, limits) VALUES ('silver', 1, '2/hour'), ('gold', 2, '4/day');
INSERT INTO apikeys.plan (name, limits) VALUES ('team', '100/hour');
SELECT add_account('team', NULL) AS team \gset
UPDATE apikeys.account SET plan = 'team' WHERE account_id = :team;
SELECT add_key('tiered', account_id => :team);
UPDATE apikeys.key SET tier = 'silver' WHERE alias = 'tiered';
SELECT message, limit_window, remaining FROM ask('tiered', times => 3);
UPDATE apikeys.tier SET limits = '3/hour' WHERE name = 'silver';
SELECT message, limit_window, remaining FROM ask('tiered', times => 2);
UPDATE apikeys.key SET tier = 'gold' WHERE alias = 'tiered';
SELECT message, limit_window, remaining FROM ask('tiered', times => 2);
UPDATE apikeys.plan SET limits = '4/week' WHERE name = 'team';
SELECT message FROM ask('tiered');
UPDATE apikeys.account SET limits = '' WHERE account_id = :team;
UPDATE apikeys.tier SET limits = '' WHERE name = 'gold';
SELECT * FROM ask('tiered');

--
-- Erasure: requests that are still on their way are in it, or there is a warning
--
SELECT add_account('leaver', NULL) AS leaver \gset
SELECT add_key('leaving', account_id => :leaver);
SELECT code FROM apikeys.verify('leaving', '/first', '192.0.2.9');
SELECT code FROM apikeys.verify('leaving', '/left', '192.0.2.9');
SELECT active FROM apikeys.erase_account_data('leaver');
SELECT endpoint, ip FROM apikeys.request_log WHERE account_id = :leaver ORDER BY at;
SELECT code FROM apikeys.verify('leaving', '/late', '192.0.2.9');
SET apikeys.queue_timeout = '50ms';
BEGIN;
LOCK TABLE apikeys.request_log;
SELECT code FROM apikeys.verify('leaving', '/later', '192.0.2.9');
SELECT active FROM apikeys.erase_account_data('leaver');
COMMIT;
RESET apikeys.queue_timeout;
SELECT apikeys.flush();
SELECT active FROM apikeys.erase_account_data('leaver');
SELECT count(*), count(ip) FROM apikeys.request_log WHERE account_id = :leaver;

--
-- The ledger: every request is in the log, and in the usage of its key and its account
--
SELECT * FROM apikeys.check_ledger();

-- Used keys cannot be deleted: all goes.
RESET apikeys.debug_clock_offset;
DROP FUNCTION ask, with_limits, keeps_promise, move, us, at_us, set_limits, add_account, add_key;
DROP EXTENSION apikeys;
CREATE EXTENSION apikeys;
