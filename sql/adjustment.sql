-- Quota care: usage that is reset, units that are granted. Needs preload. The clock of the session is moved, not slept.
\set SHOW_CONTEXT never
CREATE FUNCTION set_clock(at timestamptz) RETURNS timestamptz LANGUAGE sql AS
$$ SELECT at FROM set_config('apikeys.debug_clock_offset', extract(epoch FROM at - clock_timestamp())::text, false) $$;
CREATE FUNCTION failure(statement text, OUT code text, OUT message text, OUT detail text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no failure';
EXCEPTION
    WHEN OTHERS THEN GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
END
$$;
-- How the limits stand, and the verdict on so many units more; retries in whole minutes.
CREATE FUNCTION id(alias text) RETURNS bigint LANGUAGE sql AS $$ SELECT apikeys.find_key('care', alias) $$;
CREATE FUNCTION used(alias text) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(format('%s %s %s/%s', left(l.subject, 1), l.limit_window, l.used, l.cap), ', ') FROM apikeys.key_limits(id(alias)) AS l $$;
CREATE FUNCTION ask(alias text, cost int = 1) RETURNS text LANGUAGE sql AS
$$ SELECT concat_ws(' ', v.code, v.limit_window, v.remaining || '/' || v.limit_cap, 'retry ' || floor(v.retry_after_s / 60)) FROM apikeys.verify('care of ' || alias, cost => cost) AS v $$;
SET timezone = 'UTC';

INSERT INTO apikeys.plan (name, limits) VALUES ('care', '100/hour') ON CONFLICT DO NOTHING;
SELECT name FROM apikeys.create_account('care', 'care');
SELECT (apikeys.import_key('care', 'care of ' || alias, alias => alias, limits => limits)).alias
FROM (VALUES ('both', '5/day, 20/total'::apikeys.limits), ('rate', '3/minute'), ('none', ''), ('closed', '0/day'), ('fresh', '2/day'), ('huge', '4294967295/day, 9007199254740991/total')) AS v(alias, limits);

--
-- Resets
--
-- A retry takes 1446 minutes and 59 seconds at first: the time that the statements take does not show.
SELECT set_clock('2033-03-05 10:00:31Z');
SELECT ask('both', 5), ask('both');
SELECT subject, subject_id = id('both') AS mine, limit_window, units, until, counts_from, reason, at::date, created_by = SESSION_USER AS by_me
FROM apikeys.reset_usage(id('both'), '24 hours', 'an outage of ours');
SELECT used('both');
SELECT ask('both', 3);
-- All windows that the key has, each with what counted there.
SELECT limit_window, units, counts_from FROM apikeys.reset_usage(id('both'));
SELECT used('both'), ask('both', 4);
-- Twice is as good as once.
SELECT limit_window, units, counts_from FROM apikeys.reset_usage(id('both'), 'day');
SELECT limit_window, units, counts_from FROM apikeys.reset_usage(id('both'), 'day');
SELECT used('both'), ask('both', 0);
-- Other keys and the account are not concerned; the account has a reset of its own.
SELECT ask('rate', 2);
SELECT limit_window, units, counts_from FROM apikeys.reset_account_usage('care');
SELECT used('rate');
SELECT used('both');
-- A ring that comes later knows of it, too; one for a window that was not reset has all.
UPDATE apikeys.key SET limits = '5/day, 50/week, 20/total' WHERE key_id = id('both');
SELECT used('both');
SELECT limit_window, units, counts_from FROM apikeys.reset_usage(id('both'), 'week');
UPDATE apikeys.key SET limits = '5/day, 20/total' WHERE key_id = id('both');
UPDATE apikeys.key SET limits = '50/week, 20/total, 20/hour' WHERE key_id = id('both');
SELECT used('both');
UPDATE apikeys.key SET limits = '5/day, 20/total' WHERE key_id = id('both');
-- What a reset has taken out is not given back once more when its time has come.
SELECT ask('both', 2), used('both');
SELECT set_clock('2033-03-06 10:30Z');
SELECT used('both'), ask('both', 5), ask('both');
SELECT * FROM apikeys.check_ledger();

--
-- Grants
--
SELECT subject, limit_window, units, until, counts_from, reason FROM apikeys.grant_units(id('both'), 'day', 3, '2033-03-06 12:00Z', 'launch day');
SELECT check_name, passed, left(detail, 17) AS detail FROM apikeys.explain_key(id('both'), cost => 3) WHERE check_name ~ '^key limit';
SELECT used('both'), ask('both', 3), ask('both');
-- They add up, and end one by one; what was used beyond the cap counts.
SELECT units FROM apikeys.grant_units(id('both'), 'day', 10, '2033-03-06 11:00Z');
SELECT used('both'), ask('both', 4);
SELECT set_clock('2033-03-06 11:00Z');
SELECT used('both'), ask('both');
SELECT set_clock('2033-03-06 12:00:01Z');
SELECT used('both'), ask('both');
-- What is taken back.
SELECT limit_window FROM apikeys.reset_usage(id('both'));
SELECT units FROM apikeys.grant_units(id('both'), 'total', 1000, '2034-01-01');
SELECT units FROM apikeys.grant_units(id('both'), 'total', -998, '2034-01-01');
SELECT used('both');
SELECT units FROM apikeys.grant_units(id('both'), 'total', -1000, '2034-01-01');
SELECT used('both');
-- For an account; where nothing is allowed; up to what a limit can be.
SELECT units FROM apikeys.grant_account_units('care', '60 minutes', 900, '2033-03-07');
SELECT units FROM apikeys.grant_units(id('closed'), 'day', 2, '2033-03-07');
SELECT units FROM apikeys.grant_units(id('huge'), 'day', 9007199254740991, '294000-01-01');
SELECT units FROM apikeys.grant_units(id('huge'), 'total', 9007199254740991, '294000-01-01');
SELECT used('closed'), ask('closed', 2), ask('closed'), used('huge');
SELECT h.name, regexp_replace(h.value, ';t=.*', '') AS value
FROM apikeys.verify('care of closed', cost => 0) AS v, apikeys.http_response(v) AS r, jsonb_each_text(r.headers) AS h(name, value);

-- When to come again: while the grant lasts, or when units are back without it.
SELECT set_clock('2033-03-06 13:00:00Z');
SELECT units FROM apikeys.grant_units(id('rate'), 'minute', 3, '2033-03-06 13:00:50Z');
SELECT ask('rate', 6), ask('rate', 4);
SELECT set_clock('2033-03-06 13:00:55Z');
SELECT ask('rate', 4), ask('rate', 3);
SELECT set_clock('2033-03-06 13:02:00Z');
SELECT ask('rate', 3);
SELECT units FROM apikeys.grant_units(id('rate'), 'minute', 3, '2033-03-06 13:03:30Z');
SELECT set_clock('2033-03-06 13:02:20Z');
SELECT ask('rate', 3);
-- The units of 13:02:00 are back in 40 s, before the grant ends.
SELECT round(v.retry_after_s / 20) * 20 AS seconds FROM apikeys.verify('care of rate', cost => 3) AS v;
-- The units of 13:02:20 are back in 60 s and a bit, when the cap is still 6.
SELECT round(v.retry_after_s / 20) * 20 AS seconds FROM apikeys.verify('care of rate', cost => 6) AS v;
-- Later, room for six would come after the end of the grant only, when there is none for six at all.
SELECT set_clock('2033-03-06 13:03:02Z');
SELECT ask('rate', 3);
SELECT v.retry_after_s FROM apikeys.verify('care of rate', cost => 6) AS v;
SELECT round(v.retry_after_s / 20) * 20 AS seconds FROM apikeys.verify('care of rate', cost => 3) AS v;
-- A limit that lets the request pass now, but not when the other one does.
UPDATE apikeys.key SET limits = '3/minute, 20/10 minutes' WHERE key_id = id('rate');
SELECT limit_window FROM apikeys.reset_usage(id('rate'));
SELECT set_clock('2033-03-06 14:00:00Z');
SELECT units FROM apikeys.grant_units(id('rate'), '600 seconds', 5, '2033-03-06 14:00:50Z');
SELECT units FROM apikeys.grant_units(id('rate'), 'minute', 20, '2033-03-06 14:00:25Z');
SELECT ask('rate', 18);
SELECT set_clock('2033-03-06 14:00:26Z');
SELECT v.limit_window, v.limit_cap, v.retry_after_s > 9 * 60 AS minutes FROM apikeys.verify('care of rate', cost => 3) AS v;
SELECT * FROM apikeys.check_ledger();

-- A grant ends for good: what another session's clock has made of the account's time goes for its keys, too.
SELECT set_clock('2033-03-07 14:00:00Z');
SELECT units FROM apikeys.grant_units(id('closed'), 'day', 2, '2033-03-07 14:30Z');
SELECT ask('closed', 2);
SELECT set_clock('2033-03-07 15:00:00Z');
SELECT ask('none');
SELECT set_clock('2033-03-07 14:10:00Z');
SET statement_timeout = '10s';
SELECT ask('closed');
RESET statement_timeout;

--
-- Transactions
--
-- A reset or grant acts from the commit on, not before for its own session either, and leaves nothing when it is rolled back.
SELECT set_clock('2033-03-08 10:00:31Z');
SELECT ask('both', 4);
BEGIN;
SELECT limit_window FROM apikeys.reset_usage(id('both'), 'day');
SELECT units FROM apikeys.grant_units(id('both'), 'day', 5, '2033-03-09');
-- A window that has no ring yet is loaded while they are open, and a whole meter.
UPDATE apikeys.key SET limits = '5/day, 5/hour' WHERE key_id = id('both');
SELECT used('both'), ask('both', 2);
SELECT units FROM apikeys.grant_units(id('fresh'), 'day', 5, '2033-03-09');
SELECT used('fresh'), ask('fresh', 3);
ROLLBACK;
SELECT used('both'), ask('both', 2);
SELECT used('fresh'), ask('fresh', 3);
BEGIN;
SAVEPOINT s;
SELECT units FROM apikeys.grant_units(id('both'), 'day', 5, '2033-03-09');
ROLLBACK TO s;
SELECT units FROM apikeys.grant_units(id('both'), 'day', 1, '2033-03-09');
COMMIT;
SELECT used('both'), ask('both', 2);
-- Whatever the isolation level: the reset counts from what is stored when it is called.
SELECT ask('both', 2);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM apikeys.adjustment WHERE subject_id = id('none');
SELECT ask('both', 0);
SELECT units FROM apikeys.reset_usage(id('both'), 'day');
COMMIT;
SELECT used('both');
BEGIN;
SELECT units FROM apikeys.reset_usage(id('both'), 'day');
PREPARE TRANSACTION 'care';
\echo :LAST_ERROR_SQLSTATE
SELECT used('both');
SELECT * FROM apikeys.check_ledger();

--
-- What is refused
--
SELECT f.* FROM (VALUES
    (1, $$SELECT apikeys.reset_usage(1)$$), (2, $$SELECT apikeys.reset_usage(NULL)$$), (3, $$SELECT apikeys.reset_account_usage('nobody')$$),
    (4, $$SELECT apikeys.grant_units(1, 'day', 1, 'infinity')$$), (5, $$SELECT apikeys.grant_account_units('nobody', 'day', 1, '2099-01-01')$$),
    (6, $$SELECT apikeys.reset_usage(id('both'), 'fortnight')$$), (7, $$SELECT apikeys.reset_usage(id('both'), 'week')$$),
    (8, $$SELECT apikeys.reset_usage(id('both'), 'day, 5/total')$$), (9, $$SELECT apikeys.reset_usage(id('none'))$$),
    (10, $$SELECT apikeys.reset_usage(id('none'), 'day')$$), (11, $$SELECT apikeys.reset_account_usage('care', 'day')$$),
    (12, $$SELECT apikeys.grant_units(id('both'), 'week', 1, '2099-01-01')$$), (13, $$SELECT apikeys.grant_units(id('both'), NULL, 1, '2099-01-01')$$),
    (14, $$SELECT apikeys.grant_units(id('both'), 'day', 0, '2099-01-01')$$), (15, $$SELECT apikeys.grant_units(id('both'), 'day', NULL, '2099-01-01')$$),
    (16, $$SELECT apikeys.grant_units(id('both'), 'day', 9007199254740992, '2099-01-01')$$),
    (17, $$SELECT apikeys.grant_units(id('both'), 'day', -9223372036854775808, '2099-01-01')$$),
    (18, $$SELECT apikeys.grant_units(id('both'), 'day', 1, '2033-03-08 10:00Z')$$), (19, $$SELECT apikeys.grant_units(id('both'), 'day', 1, 'infinity')$$),
    (20, $$SELECT apikeys.grant_units(id('both'), 'day', 1, NULL)$$), (21, $$SELECT apikeys.grant_account_units('care', 'total', 1, '2099-01-01')$$),
    (22, $$UPDATE apikeys.adjustment SET units = units + 1$$), (23, $$UPDATE apikeys.adjustment SET reason = 'better'$$),
    (24, $$DELETE FROM apikeys.adjustment$$), (25, $$TRUNCATE apikeys.adjustment$$)
) AS t(n, statement), failure(statement) AS f ORDER BY n;
CREATE ROLE regress_owner IN ROLE apikeys_manager;
SET ROLE regress_owner;
SELECT apikeys.reset_usage(1);
SELECT apikeys.reset_account_usage('care');
SELECT apikeys.grant_units(1, 'day', 1, 'infinity');
SELECT apikeys.grant_account_units('care', 'hour', 1, 'infinity');
RESET ROLE;
DROP ROLE regress_owner;

-- All of it is in the audit log; reasons can be erased, and are with the account's data.
SELECT DISTINCT ON (action, object) action, object, CASE object WHEN 'key' THEN object_id = id('both')::text END AS mine, role = SESSION_USER AS by_me, old, new - 'id' AS new
FROM apikeys.audit_log WHERE action IN ('reset', 'grant') AND account_id = (SELECT a.account_id FROM apikeys.account AS a WHERE a.name = 'care') ORDER BY action, object, id;
SELECT (SELECT count(*) FROM apikeys.audit_log WHERE action IN ('reset', 'grant')) = (SELECT count(*) FROM apikeys.adjustment) AS all_audited;
SELECT count(*) AS reasons FROM apikeys.adjustment WHERE reason IS NOT NULL;
SELECT name FROM apikeys.erase_account_data('care');
SELECT count(*) AS reasons FROM apikeys.adjustment WHERE reason IS NOT NULL;
SELECT count(*) AS reasons FROM apikeys.audit_log WHERE new ->> 'reason' IS NOT NULL;
RESET apikeys.debug_clock_offset;
DROP FUNCTION set_clock, failure, id, used, ask;
