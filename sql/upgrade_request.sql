-- Upgrade requests: asked for, asked about, answered, granted, declined by people and by rules, withdrawn; and what each state allows.
SET search_path = pg_catalog;
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END
$$;
CREATE FUNCTION pg_temp.id(alias text) RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key('acme', alias) $$;
-- The request of a key of acme that was asked for last.
CREATE FUNCTION pg_temp.request(alias text) RETURNS bigint LANGUAGE sql AS $$
    SELECT max(l.id) FROM apikeys.upgrade_list AS l WHERE l.account = 'acme' AND l.alias = request.alias
$$;
ALTER SEQUENCE apikeys.upgrade_request_id_seq RESTART 1;
SELECT coalesce(max(id), 0) AS start FROM apikeys.audit_log \gset

--
-- Two working days on, by the calendar of UTC
--
SET TimeZone = 'Asia/Tokyo';
SELECT to_char(d.asked AT TIME ZONE 'UTC', 'Dy DD HH24:MI') AS asked, to_char(apikeys_internal.working_days_after(d.asked, 2) AT TIME ZONE 'UTC', 'Dy DD HH24:MI') AS due,
       to_char(apikeys_internal.working_days_after(d.asked, 11) AT TIME ZONE 'UTC', 'Dy DD Mon') AS eleven
FROM (SELECT '2026-06-01 23:30+00'::timestamptz + n * interval '1 day' FROM generate_series(0, 6) AS n) AS d(asked) ORDER BY d.asked;
RESET TimeZone;

--
-- What is higher: no window of the former limits less, one at least more or free, a new one with room to use up any of the former
--
SELECT former, wanted, apikeys_internal.limits_are_higher(former::apikeys.limits, wanted::apikeys.limits) AS rise, apikeys_internal.limits_are_covered(wanted::apikeys.limits, former::apikeys.limits) AS reach
FROM (VALUES (1, '10/day', '11/day'), (2, '10/day', '10/day'), (3, '10/day', '9/day'), (4, '10/day, 100/month', '10/day, 101/month'), (5, '10/day, 100/month', '9/day, 1000/month'),
             (6, '10/day, 100/month', '10/day'), (7, '10/day', '10/day, 5/second'), (8, '10/day', '50/second'), (9, '10/day', ''), (10, '', '10/day'), (11, '', ''),
             (12, '10/day', '11/24 hours'), (13, '10/day, 100/total', '20/day, 100/total'), (14, '10/day, 100/total', '20/day, 99/total'),
             (15, '1000/day', '1001/day, 1/month'), (16, '1000/day', '1001/day, 1000/month'), (17, '1000/day', '1001/day, 999/total'), (18, '1000/day', '1001/day, 1/hour'),
             (19, '1000/day', '1001/day, 42/hour'), (20, '1000/day', '1001/day, 41/hour'), (21, '1000/day', '1001/day, 0/second'), (22, '1000/total', '1001/total, 1/day'),
             (23, '1000/total', '1001/total, 0/day'), (24, '10/day, 100/month', '11/day, 50/week, 100/month'), (25, '10/day, 100/month', '11/day, 9/week, 100/month')) AS t(n, former, wanted) ORDER BY n;

--
-- Asked for, by the owner
--
SELECT name FROM apikeys.create_tier('bronze', 1, '10/day');
SELECT name FROM apikeys.create_tier('silver', 2, '100/day');
SELECT name FROM apikeys.create_tier('gold', 3, '1000/day');
SELECT name FROM apikeys.create_plan('levels', default_tier => 'bronze', custom_limits_allowed => false);
SELECT name FROM apikeys.create_plan('custom', default_tier => 'bronze');
CREATE ROLE regress_owner IN ROLE apikeys_manager;
CREATE ROLE regress_rival IN ROLE apikeys_manager;
CREATE ROLE regress_provider IN ROLE apikeys_admin;
CREATE ROLE regress_controller IN ROLE apikeys_auditor;
SELECT name FROM apikeys.create_account('acme', plan => 'levels');
SELECT name FROM apikeys.create_account('rival', plan => 'custom');
SELECT role FROM apikeys.add_member('regress_owner', 'acme');
SELECT role FROM apikeys.add_member('regress_rival', 'rival');
SELECT alias FROM apikeys.create_key('acme', 'main');
SELECT alias FROM apikeys.create_key('acme', 'second', tier => 'silver');
SELECT alias FROM apikeys.create_key('rival', 'theirs');
SET SESSION AUTHORIZATION regress_owner;
SELECT id, account, alias, tier, limits, state, overdue, motivation, project, project_kind, purpose, expected_requests, expected_users, asked_by, question, answer, decided_at, decided_by, note
FROM apikeys.request_upgrade(pg_temp.id('main'), tier => 'silver', motivation => 'a fair in May', project => 'Trains', project_kind => 'app', purpose => 'timetables',
                             expected_requests => 40000, expected_users => 300) \gx
SELECT id, tier, state FROM apikeys.request_upgrade(pg_temp.id('second'), 'gold', 'more');
RESET SESSION AUTHORIZATION;
SELECT due_at = apikeys_internal.working_days_after(asked_at, 2) AS due FROM apikeys.upgrade_list;
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.request_upgrade(1, 'gold', 'more')$$),
    (2, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), motivation => 'more')$$),
    (3, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'gold', 'more', limits => '5/day')$$),
    (4, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'gold')$$),
    (5, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'gold', E' \t\n')$$),
    (6, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'gold', 'more', expected_users => -1)$$),
    (7, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'gold', 'more', expected_requests => -1)$$),
    (8, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'lead', 'more')$$),
    (9, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'bronze', 'more')$$),
    (10, $$SELECT apikeys.request_upgrade(pg_temp.id('second'), 'bronze', 'more')$$),
    (11, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), limits => '50/second', motivation => 'more')$$),
    (12, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), 'gold', 'more')$$),
    (13, $$SELECT apikeys.request_upgrade(pg_temp.id('main'), limits => 'many', motivation => 'more')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

--
-- What each role may: an owner sees and asks for what is his, and decides nothing
--
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    rows bigint;
BEGIN
    EXECUTE statement;
    GET DIAGNOSTICS rows = ROW_COUNT;
    RAISE SQLSTATE '00UND';
EXCEPTION
    WHEN SQLSTATE '00UND' THEN RETURN rows || ' rows';
    WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;
CREATE TEMP TABLE attempt AS SELECT * FROM (VALUES
    (1, 'SELECT apikeys.get_upgrade(1)'), (2, 'SELECT FROM apikeys.upgrade_list'), (3, 'SELECT FROM apikeys.upgrade_queue'),
    (4, 'SELECT apikeys.ask_upgrade(1, ''why?'')'), (5, 'SELECT apikeys.approve_upgrade(1)'), (6, 'SELECT apikeys.decline_upgrade(1, ''no'')'),
    (7, 'SELECT apikeys.withdraw_upgrade(1)'), (8, 'SELECT apikeys_internal.close_upgrade(1, ''approved'', ''me'', NULL)'),
    (9, 'UPDATE apikeys.upgrade_request SET state = ''approved'''), (10, 'SELECT FROM apikeys.upgrade_request'),
    (11, 'SELECT FROM apikeys.upgrade_rule'), (12, 'SELECT apikeys.create_upgrade_rule(''no'', ''gold'')'),
    (13, format('SELECT apikeys.request_upgrade(%s, ''gold'', ''more'')', apikeys.find_key('rival', 'theirs')))) AS t(n, statement);
GRANT SELECT ON attempt TO PUBLIC;
CREATE TEMP TABLE outcome (n int, role text, result text);
GRANT INSERT ON outcome TO PUBLIC;
SET SESSION AUTHORIZATION regress_owner;
INSERT INTO outcome SELECT n, SESSION_USER, pg_temp.outcome(statement) FROM attempt ORDER BY n;
SET SESSION AUTHORIZATION regress_rival;
INSERT INTO outcome SELECT n, SESSION_USER, pg_temp.outcome(statement) FROM attempt ORDER BY n;
SET SESSION AUTHORIZATION regress_provider;
INSERT INTO outcome SELECT n, SESSION_USER, pg_temp.outcome(statement) FROM attempt ORDER BY n;
SET SESSION AUTHORIZATION regress_controller;
INSERT INTO outcome SELECT n, SESSION_USER, pg_temp.outcome(statement) FROM attempt ORDER BY n;
RESET SESSION AUTHORIZATION;
SELECT regexp_replace(a.statement, '\(\d{6,}', '(…') AS statement, max(result) FILTER (WHERE role = 'regress_owner') AS owner, max(result) FILTER (WHERE role = 'regress_rival') AS rival,
       max(result) FILTER (WHERE role = 'regress_provider') AS provider, max(result) FILTER (WHERE role = 'regress_controller') AS controller
FROM outcome JOIN attempt AS a USING (n) GROUP BY n, a.statement ORDER BY n;

--
-- Asked about and answered
--
SELECT state, question, answer, note FROM apikeys.ask_upgrade(1, 'How many trains?');
SELECT state, question, answer FROM apikeys.ask_upgrade(1, 'How many stations?');
-- While it waits for information it is not overdue; it is due two working days from the answer.
SET apikeys.debug_clock_offset = '7d';
SELECT overdue FROM apikeys.get_upgrade(1);
SELECT overdue FROM apikeys.get_upgrade(2);
SELECT state, question, answer, overdue, due_at - asked_at > '7 days' AS later FROM apikeys.answer_upgrade(1, '40, and 12 platforms');
RESET apikeys.debug_clock_offset;
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.ask_upgrade(99, 'why?')$$), (2, $$SELECT apikeys.ask_upgrade(NULL, 'why?')$$), (3, $$SELECT apikeys.ask_upgrade(1, E'\t')$$), (4, $$SELECT apikeys.ask_upgrade(1, NULL)$$),
    (5, $$SELECT apikeys.answer_upgrade(99, 'so')$$), (6, $$SELECT apikeys.answer_upgrade(1, 'so')$$), (7, $$SELECT apikeys.answer_upgrade(2, 'so')$$),
    (8, $$SELECT apikeys.answer_upgrade((SELECT id FROM apikeys.ask_upgrade(2, 'why?')), E'\n')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

--
-- The queue: overdue ones first, those that wait for information last
--
SELECT key_id AS third FROM apikeys.create_key('acme', 'third', tier => 'silver') \gset
SELECT state FROM apikeys.ask_upgrade(2, 'why?');
UPDATE apikeys.upgrade_request SET due_at = '2026-01-02 00:00+00' WHERE id = 2;
SELECT id AS third, state FROM apikeys.request_upgrade(:third, 'gold', 'more') \gset
SELECT :'state' AS state;
UPDATE apikeys.upgrade_request SET due_at = '2026-01-01 00:00+00' WHERE id = :third;
SELECT account, alias, tier, state, overdue, present_tier, present_limits FROM apikeys.upgrade_queue;
SELECT alias FROM apikeys.upgrade_queue WHERE overdue;

--
-- Granted: at once, limits of the key's own go
--
SET SESSION AUTHORIZATION regress_provider;
SELECT id, state, decided_by, decided_at >= asked_at AS decided, note FROM apikeys.approve_upgrade(1);
SELECT state, note FROM apikeys.decline_upgrade(2, 'no need seen');
RESET SESSION AUTHORIZATION;
SELECT alias, tier, limits FROM apikeys.key_list WHERE account = 'acme' ORDER BY alias;
SET SESSION AUTHORIZATION regress_owner;
SELECT alias, state, decided_by FROM apikeys.withdraw_upgrade(pg_temp.request('third'));
SELECT alias, tier, state FROM apikeys.upgrade_list ORDER BY id;
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM apikeys.upgrade_queue;
SELECT f.code, regexp_replace(f.message, '\d+', 'N') AS message FROM (VALUES
    (1, $$SELECT apikeys.approve_upgrade(1)$$), (2, $$SELECT apikeys.approve_upgrade(2)$$), (3, $$SELECT apikeys.approve_upgrade(pg_temp.request('third'))$$), (4, $$SELECT apikeys.approve_upgrade(99)$$),
    (5, $$SELECT apikeys.decline_upgrade(1, 'no')$$), (6, $$SELECT apikeys.withdraw_upgrade(2)$$), (7, $$SELECT apikeys.ask_upgrade(pg_temp.request('third'), 'why?')$$), (8, $$SELECT apikeys.answer_upgrade(pg_temp.request('third'), 'so')$$),
    (9, $$SELECT apikeys.decline_upgrade(99, 'no')$$), (10, $$SELECT apikeys.withdraw_upgrade(99)$$),
    (11, $$SELECT apikeys.decline_upgrade((SELECT id FROM apikeys.request_upgrade(pg_temp.id('second'), 'gold', 'more')), E'\r\n')$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
-- Closed ones make room for another, and the key as it is then counts.
SELECT state FROM apikeys.request_upgrade(pg_temp.id('main'), 'gold', 'more');
UPDATE apikeys.key SET tier = 'gold' WHERE key_id = pg_temp.id('main');
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.approve_upgrade(pg_temp.request('main'))$$) AS f;
SELECT state FROM apikeys.get_upgrade(pg_temp.request('main'));

--
-- Limits of a key's own, where the plan allows them
--
SELECT apikeys.find_key('rival', 'theirs') AS theirs \gset
SELECT id AS custom FROM apikeys.request_upgrade(:theirs, limits => '50/second, 20/day', motivation => 'more') \gset
SELECT tier, limits, state FROM apikeys.approve_upgrade(:custom, note => 'until autumn');
SELECT tier, limits FROM apikeys.get_key(:theirs);
-- A tier must then be above them, too, and takes their place.
UPDATE apikeys.key SET limits = '500/day' WHERE key_id = :theirs;
SELECT f.* FROM (VALUES
    (1, format($$SELECT apikeys.request_upgrade(%s, limits => '500/day', motivation => 'more')$$, :theirs)),
    (2, format($$SELECT apikeys.request_upgrade(%s, limits => '1/month', motivation => 'more')$$, :theirs)),
    (3, format($$SELECT apikeys.request_upgrade(%s, limits => '600/day, 1/month', motivation => 'more')$$, :theirs))
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
SELECT id AS custom FROM apikeys.request_upgrade(:theirs, 'gold', 'more') \gset
SELECT state FROM apikeys.approve_upgrade(:custom);
SELECT tier, limits FROM apikeys.get_key(:theirs);
SELECT limits IS NULL AS cleared FROM apikeys.key WHERE key_id = :theirs;
-- What the plan allows no more cannot be granted any more; without limits there is nothing to raise; without a tier limits decide.
SELECT id AS custom FROM apikeys.request_upgrade(:theirs, limits => '2000/day', motivation => 'more') \gset
UPDATE apikeys.plan SET custom_limits_allowed = false WHERE name = 'custom';
SELECT f.code, f.message FROM pg_temp.failure(format('SELECT apikeys.approve_upgrade(%s)', :custom)) AS f;
UPDATE apikeys.plan SET custom_limits_allowed = true, default_tier = NULL WHERE name = 'custom';
SELECT key_id AS free FROM apikeys.create_key('rival', 'free') \gset
SELECT f.code, f.message FROM pg_temp.failure(format($$SELECT apikeys.request_upgrade(%s, limits => '', motivation => 'more')$$, :free)) AS f;
UPDATE apikeys.key SET limits = '50/day' WHERE key_id = :free;
SELECT state FROM apikeys.withdraw_upgrade((SELECT id FROM apikeys.request_upgrade(:free, 'silver', 'more')));
SELECT f.code, f.message FROM pg_temp.failure(format($$SELECT apikeys.request_upgrade(%s, limits => '1/month', motivation => 'more')$$, :free)) AS f;
-- What was asked for may be less by now.
SELECT id AS overtaken FROM apikeys.request_upgrade(:free, limits => '60/day', motivation => 'more') \gset
UPDATE apikeys.key SET limits = '70/day' WHERE key_id = :free;
SELECT f.* FROM pg_temp.failure(format('SELECT apikeys.approve_upgrade(%s)', :overtaken)) AS f;

--
-- Declined by rules, at once and with their reason
--
ALTER SEQUENCE apikeys.upgrade_rule_id_seq RESTART 1;
SELECT * FROM apikeys.create_upgrade_rule('commercial projects have a contract', min_tier => 'gold', project_kind => 'commercial');
SELECT * FROM apikeys.create_upgrade_rule('no scraping', purpose => 'scraping');
INSERT INTO apikeys.upgrade_rule (min_tier, reason) VALUES ('gold', 'none left');
SELECT key_id AS fourth FROM apikeys.create_key('acme', 'fourth') \gset
CREATE FUNCTION pg_temp.fate(key_id bigint, tier text, kind text, purpose text, limits text, OUT state text, OUT note text, OUT decided_by text) LANGUAGE plpgsql AS $$
BEGIN
    SELECT r.state, r.note, r.decided_by INTO state, note, decided_by
    FROM apikeys.request_upgrade(key_id, tier, 'more', project_kind => kind, purpose => purpose, limits => limits::apikeys.limits) AS r;
    RAISE SQLSTATE '00UND';
EXCEPTION
    WHEN SQLSTATE '00UND' THEN NULL;
END
$$;
UPDATE apikeys.account SET plan = 'custom' WHERE name = 'acme';
SELECT t.*, f.* FROM (VALUES
    (1, 'gold', 'Commercial', NULL, NULL), (2, 'silver', 'commercial', NULL, NULL), (3, 'silver', NULL, 'Scraping', NULL), (4, 'gold', 'hobby', 'x', NULL), (5, 'silver', 'hobby', 'x', NULL),
    (6, NULL, 'commercial', NULL, '1000/day'), (7, NULL, 'commercial', NULL, '999/day'), (8, NULL, NULL, NULL, '')
) AS t(n, tier, kind, purpose, limits), pg_temp.fate(:fourth, tier, kind, t.purpose, limits) AS f ORDER BY n;
SELECT state, note, decided_by, decided_at IS NOT NULL AS decided FROM apikeys.request_upgrade(:fourth, 'gold', 'more');
SELECT state FROM apikeys.request_upgrade(:fourth, 'silver', 'more');
SELECT tier FROM apikeys.get_key(:fourth);
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.create_upgrade_rule(NULL, 'gold')$$), (2, $$SELECT apikeys.create_upgrade_rule(E' \n', 'gold')$$), (3, $$SELECT apikeys.create_upgrade_rule('no', 'lead')$$),
    (4, $$SELECT apikeys.create_upgrade_rule('no')$$), (5, $$UPDATE apikeys.upgrade_rule SET min_tier = NULL, project_kind = NULL, purpose = NULL$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;

-- All of it is in the audit log.
SELECT action, object_id, account_id IS NOT NULL AS of_account, coalesce(new ->> 'state', '') AS state, new ->> 'question' AS question, new ->> 'note' AS note
FROM apikeys.audit_log WHERE id > :start AND object = 'upgrade_request' AND object_id IN ('1', '2') ORDER BY id;
SELECT action, new FROM apikeys.audit_log WHERE id > :start AND object = 'upgrade_rule' ORDER BY id;

-- What a plan offers and asks for.
SELECT name FROM apikeys.create_product('maps') UNION ALL SELECT name FROM apikeys.create_product('routes');
SELECT tiers, purposes, project_kinds, upgrade_requires FROM apikeys.create_plan('offers', default_tier => 'bronze', tiers => '{silver}',
    purposes => '{research,a product}', project_kinds => '{app,site}', upgrade_requires => '{project_kind,expected_users}');
SELECT f.code, f.message FROM (VALUES
    (1, $$SELECT apikeys.create_plan('p', tiers => '{silver,lead}')$$), (2, $$SELECT apikeys.create_plan('p', purposes => '{}')$$),
    (3, $$SELECT apikeys.create_plan('p', upgrade_requires => '{motivation}')$$), (4, $$SELECT apikeys.create_plan('p', upgrade_requires => NULL)$$),
    (5, $$SELECT apikeys.create_plan('p', tiers => '{NULL}')$$), (6, $$UPDATE apikeys.plan SET project_kinds = '{NULL}'$$), (7, $$UPDATE apikeys.plan SET purposes = '{" x"}'$$)
) AS t(n, statement), pg_temp.failure(statement) AS f ORDER BY n;
UPDATE apikeys.account SET plan = 'offers' WHERE name = 'acme';
SELECT key_id AS offered FROM apikeys.create_key('acme', 'offered') \gset
CREATE FUNCTION pg_temp.asked(key_id bigint, arguments text, OUT code text, OUT message text, OUT hint text, OUT place text, OUT broken text, OUT result text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT concat_ws('' '', r.state, r.decided_by, r.motivation) FROM apikeys.request_upgrade(%s, %s) AS r', key_id, arguments) INTO result;
    RAISE SQLSTATE '00UND';
EXCEPTION
    WHEN SQLSTATE '00UND' THEN NULL;
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, place = COLUMN_NAME, broken = CONSTRAINT_NAME;
END
$$;
SELECT t.n, f.* FROM (VALUES
    (1, $$'gold', 'more', project_kind => 'app', expected_users => 5$$), (2, $$'silver', 'more'$$), (3, $$'silver', 'more', project_kind => 'app'$$),
    (4, $$'silver', 'more', project_kind => 'App', expected_users => 5$$), (5, $$'silver', 'more', project_kind => 'app', purpose => 'fun', expected_users => 5$$),
    (6, $$'silver', 'more', project_kind => 'app', purpose => 'research', expected_users => 5$$), (7, $$'silver', 'more', project_kind => ' ', expected_users => 5$$),
    (8, $$'silver', project_kind => 'app', expected_users => 5$$)
) AS t(n, arguments), pg_temp.asked(:offered, t.arguments) AS f ORDER BY n;
UPDATE apikeys.plan SET tiers = '{}', upgrade_requires = '{}' WHERE name = 'offers';
SELECT f.* FROM pg_temp.asked(:offered, $$'silver', 'more'$$) AS f;
-- A renamed tier is offered by its new name.
UPDATE apikeys.plan SET tiers = '{gold,silver}' WHERE name = 'offers';
UPDATE apikeys.tier SET name = 'argent' WHERE name = 'silver';
SELECT tiers FROM apikeys.plan WHERE name = 'offers';
UPDATE apikeys.tier SET name = 'silver' WHERE name = 'argent';
-- By product: of a key that is good for all, too.
SELECT min_tier, product FROM apikeys.create_upgrade_rule('Maps are as they are.', product => 'maps');
SELECT f.result FROM pg_temp.asked(:offered, $$'silver', 'more'$$) AS f;
SELECT products FROM apikeys.assign_product(:offered, 'routes');
SELECT f.result FROM pg_temp.asked(:offered, $$'silver', 'more'$$) AS f;
SELECT products FROM apikeys.assign_product(:offered, 'maps');
SELECT f.result FROM pg_temp.asked(:offered, $$'silver', 'more'$$) AS f;
SELECT f.code, f.message FROM pg_temp.failure($$SELECT apikeys.create_upgrade_rule('x', product => 'none')$$) AS f;
-- How long it may take.
SHOW apikeys.upgrade_days;

-- Less is granted at once: no cap higher, none gone, no rule asked.
SELECT former, wanted, apikeys_internal.limits_are_less(former::apikeys.limits, wanted::apikeys.limits) AS less
FROM (VALUES (1, '10/day', '9/day'), (2, '10/day', '10/day'), (3, '10/day', '11/day'), (4, '10/day', '10/day, 5/second'), (5, '10/day, 100/month', '10/day'), (6, '10/day', ''),
             (7, '', '10/day'), (8, '', ''), (9, '10/day, 100/month', '5/day, 101/month'), (10, '10/day', '5/hour'), (11, '10/day', '0/day')) AS t(n, former, wanted) ORDER BY n;
UPDATE apikeys.plan SET tiers = NULL WHERE name = 'offers';
UPDATE apikeys.key SET tier = 'gold' WHERE key_id = :offered;
SELECT t.n, f.* FROM (VALUES (1, $$'silver'$$), (2, $$'bronze', 'quiet days'$$), (3, $$limits => '500/day'$$), (4, $$limits => '1000/day'$$), (5, $$limits => '1001/month'$$), (6, $$limits => '1000/day, 10/second'$$))
    AS t(n, arguments), pg_temp.asked(:offered, t.arguments) AS f ORDER BY n;
-- A tier of a lower rank that allows more in some window is neither.
SELECT limits FROM apikeys.create_tier('odd', 0, '5000/day');
SELECT f.* FROM pg_temp.asked(:offered, $$'odd', 'x'$$) AS f;
SELECT count(*) AS notices FROM apikeys.notice \gset
SET SESSION AUTHORIZATION regress_owner;
SELECT tier, state, decided_by, motivation, note FROM apikeys.request_upgrade(:offered, 'silver');
RESET SESSION AUTHORIZATION;
SELECT tier, limits FROM apikeys.get_key(:offered);
SELECT kind FROM apikeys.notice ORDER BY id OFFSET :notices;
BEGIN;
SELECT apikeys.begin_for('acme');
SELECT tier, state FROM apikeys.request_upgrade(:offered, 'bronze');
SELECT tier FROM apikeys.get_key(:offered);
SELECT action, object, via, new ->> 'tier' AS tier FROM apikeys.audit_log WHERE object_id = :'offered' ORDER BY id DESC LIMIT 1;
ROLLBACK;

-- A key that is deleted takes its requests along; the log keeps them.
SELECT alias FROM apikeys.delete_key(:fourth);
SELECT count(*) FROM apikeys.upgrade_list WHERE alias = 'fourth';

DELETE FROM apikeys.upgrade_rule;
DELETE FROM apikeys.key;
DELETE FROM apikeys.member;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.product;
DELETE FROM apikeys.tier;
DROP ROLE regress_owner, regress_rival, regress_provider, regress_controller;
