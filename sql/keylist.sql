-- The list of keys: its columns, states and limits, and the functions that list and find keys.
SET search_path = pg_catalog;
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never

CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT hint text, OUT place text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
    about text;
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, relation = TABLE_NAME, about = COLUMN_NAME;
        place := concat_ws(' ', nullif(relation, ''), nullif(about, ''));
END
$$;
CREATE FUNCTION pg_temp.id(alias text, account text = 'acme') RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key(account, alias) $$;

SELECT name FROM apikeys.create_tier('gold', 2, '1000/day, 20000/month, 500000/total');
SELECT name FROM apikeys.create_product('maps') UNION ALL SELECT name FROM apikeys.create_product('routes');
SELECT name FROM apikeys.create_plan('team', limits => '50/second, 100000/month');
SELECT name FROM apikeys.create_account('acme', 'team') UNION ALL SELECT name FROM apikeys.create_account('rival');
SELECT alias FROM apikeys.import_key('acme', 'text of web', alias => 'web', tier => 'gold', hint => 'ak_..x7Qz', products => '{maps,routes}', billing_type => 'paying',
    allowed_domains => '{acme.example}', allowed_ips => '{192.0.2.0/24}', scopes => '{read}', metadata => '{"team": "geo"}');
SELECT alias FROM apikeys.import_key('acme', 'text of app', alias => 'app', limits => '10/total', hint => 'ak_..0000', products => '{maps}');
SELECT alias FROM apikeys.import_key('acme', 'text of old', alias => 'old', hint => 'ak_..1111');
SELECT alias FROM apikeys.import_key('rival', 'text of theirs', alias => 'theirs', hint => 'ak_..2222');
SELECT state FROM apikeys.suspend_key(pg_temp.id('app'), 'unpaid');
SELECT state FROM apikeys.deactivate_key(pg_temp.id('old'));

--
-- The view
--
SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'apikeys.key_list'::regclass AND attnum > 0;
SELECT to_jsonb(l) - '{key_id,created_at,created_by,limits_used}'::text[] AS shown FROM apikeys.key_list AS l WHERE alias = 'web';
SELECT alias, state, limits, limits_are_own, suspended_reason, created_by = SESSION_USER AS mine FROM apikeys.key_list WHERE account = 'acme' ORDER BY key_id;
SELECT FROM apikeys.rotate_key(pg_temp.id('web'), grace => '1 day');
SELECT rotations, rotated_at + '1 day' = previous_valid_until AS grace FROM apikeys.key_list WHERE alias = 'web';

-- States: whose fault it is, in the order of the checks.
SELECT FROM apikeys.create_key('acme', 'ended', lifetime => '10 days');
SELECT FROM apikeys.create_key('acme', 'ending', lifetime => '30 days');
SELECT FROM apikeys.create_key('acme', 'short', lifetime => '7 days');
SELECT FROM apikeys.create_key('acme', 'never');
SELECT FROM apikeys.create_key('acme', 'put away');
SELECT FROM apikeys.deactivate_key(pg_temp.id('put away'));
SELECT FROM apikeys.archive_key(pg_temp.id('put away'));
CREATE TEMP VIEW states AS SELECT string_agg(alias || ': ' || state, ', ' ORDER BY key_id) AS states FROM apikeys.key_list WHERE account = 'acme';
SELECT * FROM states;
-- Expiring: within 7 days, and in the last quarter of the lifetime.
CREATE FUNCTION pg_temp.states_at(ahead text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('apikeys.debug_clock_offset', ahead, true);
    RETURN (SELECT string_agg(alias || ': ' || state, ', ' ORDER BY key_id) FROM apikeys.key_list WHERE alias IN ('short', 'ended', 'ending'));
END
$$;
SELECT t.ahead, pg_temp.states_at(t.ahead) AS states FROM unnest('{0h,125h,127h,167h,169h,179h,181h,551h,553h}'::text[]) AS t (ahead);
-- A new expiry begins a new lifetime.
SET apikeys.debug_clock_offset = '127h';
SELECT expires_at IS NOT NULL AS expires, state FROM apikeys.update_key(pg_temp.id('short'), '{"lifetime": "7 days"}');
SELECT FROM apikeys.rotate_key(pg_temp.id('ended'), lifetime => '7 days');
SELECT * FROM states;
RESET apikeys.debug_clock_offset;
SELECT active FROM apikeys.deactivate_account('acme');
SET apikeys.debug_clock_offset = '1000h';
SELECT account_active, string_agg(DISTINCT state, ' ' ORDER BY state) AS states FROM apikeys.key_list WHERE account = 'acme' GROUP BY 1;
SELECT active FROM apikeys.activate_account('acme');
SELECT * FROM states;
RESET apikeys.debug_clock_offset;

-- Limits: of the account, then of the key; what is granted is told apart.
INSERT INTO apikeys.usage_bucket SELECT s.subject, s.id, date_bin('1 hour', clock_timestamp() - interval '5 days', '2000-01-01'), 1234, 0, 1234, 0, 0
FROM (VALUES ('k'::"char", pg_temp.id('web')), ('a', (SELECT account_id FROM apikeys.account WHERE name = 'acme'))) AS s (subject, id);
INSERT INTO apikeys.usage_total SELECT 'k', pg_temp.id('web'), 1234, 0, 1234, 0, 0, '2030-01-01', '2030-05-02 23:30';
INSERT INTO apikeys.usage_total SELECT 'a', account_id, 1234, 0, 1234, 0, 0, '2030-01-01', '2030-05-02 23:30' FROM apikeys.account WHERE name = 'acme';
INSERT INTO apikeys.adjustment (subject, subject_id, limit_window, units, until) VALUES ('k', pg_temp.id('web'), 'day', 500, '2999-01-01');
SELECT l.alias, l.last_used_at, e.value - 'free_at' AS limit, e.value ->> 'free_at' > now()::text AS free_later
FROM apikeys.key_list AS l LEFT JOIN jsonb_array_elements(l.limits_used) WITH ORDINALITY AS e (value, place) ON true
WHERE l.alias IN ('web', 'app', 'theirs') ORDER BY l.key_id, e.place;
SELECT alias, limits_used FROM apikeys.key_list WHERE alias = 'theirs';
SELECT alias FROM apikeys.key_list WHERE limits_used IS NULL;
-- They agree with key_limits.
SELECT count(*), bool_and(u = to_jsonb(s)) AS agree
FROM apikeys.key_list AS l, jsonb_to_recordset(l.limits_used) AS e (subject text, "window" text, cap bigint, used bigint, remaining bigint, free_at timestamptz),
     LATERAL (SELECT to_jsonb(e) - 'window' - 'free_at' || jsonb_build_object('limit_window', e.window, 'next_free_at', e.free_at) AS u) AS u,
     apikeys.key_limits(l.key_id) AS s
WHERE l.alias = 'web' AND s.subject = e.subject AND s.limit_window = e.window;

-- Where they are not asked for they are not computed, nor are they by functions that return the row.
SELECT alias, limits_used FROM apikeys.get_key(pg_temp.id('web'));
CREATE FUNCTION pg_temp.computed_by(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (VERBOSE, FORMAT json) ' || statement INTO plan;
    RETURN plan::text LIKE '%limits_used(%';
END
$$;
SELECT t.n, pg_temp.computed_by('SELECT ' || t.query) FROM (VALUES
    (1, 'alias, state, limits FROM apikeys.key_list'), (2, 'count(*) FROM apikeys.key_list'), (3, 'limits_used FROM apikeys.key_list'),
    (4, '* FROM apikeys_internal.listed_keys(''{1}'')')) AS t (n, query);

--
-- The keys of an account
--
SELECT alias, state, jsonb_array_length(limits_used) AS limits FROM apikeys.account_keys('acme');
SELECT alias, state FROM apikeys.account_keys('acme', archived => true) WHERE archived_at IS NOT NULL;
SELECT count(*) FROM apikeys.account_keys('acme', NULL);
SELECT f.* FROM (VALUES (1, $$SELECT apikeys.account_keys('nobody')$$), (2, $$SELECT apikeys.account_keys(NULL)$$)) AS t(n, statement), pg_temp.failure(t.statement) AS f;

--
-- Who sees what
--
CREATE ROLE regress_owner IN ROLE apikeys_manager;
SELECT role FROM apikeys.add_member('regress_owner', 'rival');
SET SESSION AUTHORIZATION regress_owner;
SELECT account, alias, limits_used FROM apikeys.key_list;
SELECT alias, limits_used FROM apikeys.account_keys('rival');
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.account_keys('acme')$$) AS f;
RESET SESSION AUTHORIZATION;

-- Units that were planted are forgotten with the extension.
DROP OWNED BY regress_owner;
DROP ROLE regress_owner;
SET client_min_messages = error;
DROP EXTENSION apikeys CASCADE;
CREATE EXTENSION apikeys;
