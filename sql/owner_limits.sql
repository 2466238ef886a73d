-- Limits that owners set below those of the provider. Of each window the smaller cap decides, whatever is granted. Time is moved, never waited for.
SET search_path = pg_catalog;
SET timezone = 'UTC';
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.failure(statement text, OUT code text, OUT message text, OUT place text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
    about    text;
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, relation = TABLE_NAME, about = COLUMN_NAME;
        place := concat_ws(' ', nullif(relation, ''), nullif(about, ''));
END
$$;
CREATE FUNCTION pg_temp.id(alias text) RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key('acme', alias) $$;
-- What so many requests are told: how often they are allowed, and what the last one says.
CREATE FUNCTION pg_temp.ask(key text, times int, OUT allowed bigint, OUT told text) LANGUAGE sql AS $$
    SELECT count(*) FILTER (WHERE v.allowed), (array_agg(concat_ws(' ', v.code, v.limit_subject, v.limit_window, v.limit_cap, v.remaining) ORDER BY v.n DESC))[1]
    FROM apikeys.verify_many(array_fill(key, ARRAY[times])) AS v
$$;
SELECT name FROM apikeys.create_tier('bronze', 1, '10/hour, 50/day');
SELECT name FROM apikeys.create_plan('tiers', default_tier => 'bronze');
SELECT name FROM apikeys.create_account('acme', plan => 'tiers');

--
-- The smaller cap of each window
--
SELECT alias, limits, owner_limits FROM apikeys.import_key('acme', 'the text of web', alias => 'web');
SELECT * FROM pg_temp.ask('the text of web', 4);
SELECT limits, owner_limits FROM apikeys.update_key(pg_temp.id('web'), '{"owner_limits": "6/hour, 1000/day, 3/minute"}');
-- Open sessions obey: six were meant for the hour, and four are used; three for the minute.
SELECT * FROM pg_temp.ask('the text of web', 3);
SET apikeys.debug_clock_offset = '61s';
SELECT * FROM pg_temp.ask('the text of web', 3);
SELECT limit_window, cap, used, remaining FROM apikeys.key_limits(pg_temp.id('web')) WHERE subject = 'key';
SELECT e.value - '{free_at}'::text[] AS limit FROM apikeys.account_keys('acme') AS k, jsonb_array_elements(k.limits_used) AS e;
SELECT check_name, passed, regexp_replace(detail, ', some.*', '') AS detail FROM apikeys.explain_key(pg_temp.id('web')) WHERE check_name LIKE 'key limit%';
-- What is granted goes as far as the owner allows; what is taken back counts.
SELECT units FROM apikeys.grant_units(pg_temp.id('web'), 'hour', 100, '2999-01-01');
SELECT limit_window, cap FROM apikeys.key_limits(pg_temp.id('web')) WHERE subject = 'key';
SELECT * FROM pg_temp.ask('the text of web', 1);
SELECT limits, owner_limits FROM apikeys.update_key(pg_temp.id('web'), '{"owner_limits": "108/hour"}');
SELECT limit_window, cap FROM apikeys.key_limits(pg_temp.id('web')) WHERE subject = 'key';
SELECT units FROM apikeys.grant_units(pg_temp.id('web'), 'hour', -105, '2999-01-01');
SELECT limit_window, cap FROM apikeys.key_limits(pg_temp.id('web')) WHERE subject = 'key';
SELECT * FROM pg_temp.ask('the text of web', 1);
-- Lifted at will.
SELECT units FROM apikeys.grant_units(pg_temp.id('web'), 'hour', 5, '2999-01-01');
SELECT owner_limits FROM apikeys.update_key(pg_temp.id('web'), '{"owner_limits": null}');
SELECT * FROM pg_temp.ask('the text of web', 5);
SELECT owner_limits FROM apikeys.update_key(pg_temp.id('web'), '{"owner_limits": {"total": 0}}');
SELECT code, limit_window, limit_cap, retry_after_s FROM apikeys.verify('the text of web');
-- The provider resets what counts for them, too, and grants nothing above them.
SELECT limit_window FROM apikeys.reset_usage(pg_temp.id('web')) ORDER BY 1;
SELECT f.* FROM pg_temp.failure($$SELECT apikeys.grant_units(pg_temp.id('web'), 'total', 5, '2999-01-01')$$) AS f;
SELECT code, limit_window, limit_cap, retry_after_s FROM apikeys.verify('the text of web');
RESET apikeys.debug_clock_offset;

--
-- The same as a provider who sets the smaller caps himself
--
SELECT owner_limits FROM apikeys.import_key('acme', 'the text of mine', alias => 'mine', limits => '20/hour, 60/day, 200/3 days');
SELECT owner_limits FROM apikeys.update_key(pg_temp.id('mine'), '{"owner_limits": "5/10 minutes, 15/hour, 70/day, 100/3 days, 400/total"}');
SELECT limits FROM apikeys.import_key('acme', 'the text of theirs', alias => 'theirs', limits => '5/10 minutes, 15/hour, 60/day, 100/3 days, 400/total');
CREATE FUNCTION pg_temp.differences() RETURNS TABLE (n int, mine text, theirs text) LANGUAGE plpgsql AS $$
DECLARE
    ahead interval := '0';
    told  text[];
BEGIN
    FOR i IN 1 .. 600 LOOP
        ahead := ahead + make_interval(secs => CASE i % 7 WHEN 0 THEN 3600 * (i % 5) WHEN 3 THEN 61 ELSE (i * 7919) % 97 END);
        PERFORM set_config('apikeys.debug_clock_offset', extract(epoch FROM ahead)::int || 's', true);
        SELECT array_agg(concat_ws(' ', v.code, v.limit_subject, v.limit_window, v.limit_cap, v.remaining, round(v.retry_after_s)) ORDER BY v.n) INTO told
        FROM apikeys.verify_many('{the text of mine,the text of theirs}', costs => ARRAY[i % 3, i % 3]) AS v;
        IF told[1] <> told[2] THEN
            n := i; mine := told[1]; theirs := told[2];
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;
BEGIN;
SELECT * FROM pg_temp.differences();
ROLLBACK;
SELECT apikeys.flush();
SELECT count(DISTINCT code) AS kinds, count(*) FILTER (WHERE code = 'valid') BETWEEN 200 AND 900 AS some FROM apikeys.request_log WHERE key_id IN (pg_temp.id('mine'), pg_temp.id('theirs'));

--
-- Owners set them, at creation and later; the provider's decisions stay
--
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.update_key(pg_temp.id('mine'), '{"owner_limits": "1/second, 1/2 seconds, 1/3 seconds, 1/4 seconds, 1/5 seconds, 1/6 seconds"}')$$),
    (2, $$UPDATE apikeys.key SET owner_limits = '1/second, 1/2 seconds, 1/3 seconds, 1/4 seconds, 1/5 seconds, 1/6 seconds' WHERE key_id = pg_temp.id('mine')$$),
    (3, $$SELECT apikeys.create_key('acme', 'more', owner_limits => '1/second, 1/2 seconds, 1/3 seconds, 1/4 seconds, 1/5 seconds, 1/6 seconds, 1/7 seconds')$$),
    (4, $$SELECT apikeys.update_key(pg_temp.id('mine'), '{"owner_limits": "many"}')$$), (5, $$SELECT apikeys.update_key(pg_temp.id('mine'), '{"owner_limits": 5}')$$)
) AS t (n, statement), pg_temp.failure(t.statement) AS f ORDER BY t.n;
SELECT sqlstate, field, message FROM apikeys.import_keys('[{"account": "acme", "text": "the text of one", "owner_limits": "1/second, 1/2 seconds, 1/3 seconds, 1/4 seconds, 1/5 seconds, 1/6 seconds, 1/7 seconds"},
    {"account": "acme", "text": "the text of two", "alias": "two", "owner_limits": "1/second"}, {"account": "acme", "text": "the text of three", "owner_limits": "many"}]');
SELECT alias, owner_limits FROM apikeys.get_key(pg_temp.id('two'));
SELECT alias FROM apikeys.copy_key(pg_temp.id('two'), 'copied');
SELECT alias, limits, owner_limits FROM apikeys.get_key(pg_temp.id('copied'));
-- A tier that would not fit is refused, unless nobody has set limits.
SELECT alias FROM apikeys.create_key('acme', 'seven', owner_limits => '1/second, 1/2 seconds, 1/3 seconds, 1/4 seconds, 1/5 seconds, 1/6 seconds');
SELECT owner_limits FROM apikeys.get_key(pg_temp.id('seven'));
SELECT f.* FROM pg_temp.failure($$UPDATE apikeys.tier SET limits = '10/hour, 50/day, 500/month' WHERE name = 'bronze'$$) AS f;
SELECT owner_limits FROM apikeys.update_key(pg_temp.id('seven'), '{"owner_limits": ""}');
UPDATE apikeys.tier SET limits = '10/hour, 50/day, 500/month' WHERE name = 'bronze';
-- By a login that acts for the account, and by a key that manages others.
SELECT scopes FROM apikeys.update_key(pg_temp.id('mine'), '{"scopes": ["apikeys:manage"], "owner_limits": null}');
CREATE ROLE regress_owner_portal IN ROLE apikeys_portal;
SET SESSION AUTHORIZATION regress_owner_portal;
BEGIN;
SELECT apikeys.begin_for('acme');
SELECT owner_limits FROM apikeys.update_key((SELECT k.key_id FROM apikeys.key_list AS k WHERE k.alias = 'two'), '{"owner_limits": "7/day"}');
UPDATE apikeys.key SET owner_limits = '8/day' WHERE alias = 'two';
SELECT message FROM pg_temp.failure($$UPDATE apikeys.key SET limits = '8/day' WHERE alias = 'two'$$);
SELECT limits, owner_limits FROM apikeys.key_list WHERE alias = 'two';
COMMIT;
BEGIN;
SELECT code FROM apikeys.begin_as('the text of mine', metered => false);
SELECT owner_limits FROM apikeys.update_key((SELECT k.key_id FROM apikeys.key_list AS k WHERE k.alias = 'two'), '{"owner_limits": "9/day"}');
COMMIT;
RESET SESSION AUTHORIZATION;
DROP ROLE regress_owner_portal;
-- Upgrades and tiers do not touch them.
SELECT name FROM apikeys.create_tier('gold', 2, '1000/hour');
SELECT state FROM apikeys.approve_upgrade((apikeys.request_upgrade(pg_temp.id('two'), 'gold', 'more')).id);
SELECT tier, limits, owner_limits FROM apikeys.get_key(pg_temp.id('two'));
SELECT old ->> 'owner_limits' AS old, new ->> 'owner_limits' AS new FROM apikeys.audit_log WHERE object = 'key' AND object_id = pg_temp.id('two')::text AND new ? 'owner_limits' ORDER BY id;
-- A notice at 80 % of the cap that decides.
SELECT * FROM pg_temp.ask('the text of two', 8);
SELECT apikeys.flush();
CREATE PROCEDURE pg_temp.await() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. 1000 LOOP
        COMMIT;
        EXIT WHEN EXISTS (SELECT FROM apikeys.notice WHERE key_id = pg_temp.id('two') AND kind = 'limit_near');
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;
CALL pg_temp.await();
SELECT kind, details ->> 'limit_window' AS limit_window, details ->> 'cap' AS cap FROM apikeys.notice WHERE key_id = pg_temp.id('two') AND kind LIKE 'limit%';

SET client_min_messages = error;
DROP EXTENSION apikeys CASCADE;
CREATE EXTENSION apikeys;
