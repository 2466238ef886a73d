-- Notices are delivered to consumers: each at least once, to one at a time, until it is confirmed.
SET search_path = pg_catalog;
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
-- A writer may be at work, too.
CREATE PROCEDURE pg_temp.announce() LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM apikeys.notice WHERE sent_at IS NULL) LOOP
        PERFORM apikeys_internal.announce_notices(1000);
        COMMIT;
    END LOOP;
END
$$;
SELECT name FROM apikeys.create_account('acme', contact => 'keys@acme.example', display_name => 'Acme Inc.');
SELECT FROM apikeys.create_key('acme', 'before');
CALL pg_temp.announce();
-- A consumer begins with what is announced after its first call.
SELECT count(*) FROM apikeys.take_notices('mailer');
SELECT count(*) FROM apikeys.take_notices('webhooks');
SELECT FROM apikeys.create_key('acme', 'web');
SELECT FROM apikeys.create_key('acme', 'app');
SELECT active FROM apikeys.deactivate_account('acme');
CALL pg_temp.announce();
SELECT attempts, kind, account, display_name, contact, alias, details ->> 'category' AS category, at <= clock_timestamp() AS past FROM apikeys.take_notices('mailer', rows => 2);
-- The others get the rest; and then nothing, until the lease ends.
SELECT attempts, kind, alias FROM apikeys.take_notices('mailer', lease => '1 hour');
SELECT count(*) FROM apikeys.take_notices('mailer');
SELECT count(*) FROM apikeys.take_notices('webhooks', lease => '1 day');
SET apikeys.debug_clock_offset = '61s';
SELECT attempts, kind, alias FROM apikeys.take_notices('mailer');
SET apikeys.debug_clock_offset = '3601s';
SELECT attempts, kind, alias FROM apikeys.take_notices('mailer', rows => 1);
-- What is rolled back was not taken.
BEGIN;
SELECT count(*) FROM apikeys.take_notices('mailer');
ROLLBACK;
SELECT attempts, kind, alias FROM apikeys.take_notices('mailer');
-- What is confirmed does not come again; of another consumer it does.
SELECT apikeys.confirm_notices('mailer', ARRAY(SELECT id FROM apikeys.notice WHERE kind = 'created'));
SELECT apikeys.confirm_notices('mailer', ARRAY(SELECT id FROM apikeys.notice WHERE kind = 'created')) AS again;
SET apikeys.debug_clock_offset = '2d';
SELECT attempts, kind FROM apikeys.take_notices('mailer');
SELECT attempts, kind, alias FROM apikeys.take_notices('webhooks');
SELECT consumer, count(*), max(attempts) FROM apikeys.notice_delivery GROUP BY 1 ORDER BY 1;
RESET apikeys.debug_clock_offset;
-- Notices that are deleted are not delivered.
UPDATE apikeys.notice SET sent_at = sent_at - interval '40 days' WHERE kind = 'account_deactivated';
SELECT apikeys_internal.delete_notices(30, 1000);
SELECT consumer, count(*) FROM apikeys.notice_delivery GROUP BY 1 ORDER BY 1;
SELECT apikeys.remove_notice_consumer('webhooks');
SELECT count(*) FROM apikeys.notice_delivery;

SELECT f.* FROM (VALUES
    (1, 'take_notices(NULL)'), (2, $$take_notices('')$$), (3, $$take_notices(' mailer')$$), (4, format('take_notices(%L)', repeat('x', 257))),
    (5, $$take_notices('mailer', 0)$$), (6, $$take_notices('mailer', 1001)$$), (7, $$take_notices('mailer', NULL)$$), (8, $$take_notices('mailer', 1, '0')$$),
    (9, $$take_notices('mailer', 1, '2 days')$$), (10, $$take_notices('mailer', 1, NULL)$$), (11, $$confirm_notices('nobody', '{}')$$), (12, $$confirm_notices('mailer', '{-1}')$$),
    (13, $$confirm_notices('mailer', NULL)$$), (14, $$confirm_notices('mailer', '{NULL}')$$), (15, $$confirm_notices('mailer', array_fill(1, ARRAY[1001]))$$),
    (16, $$remove_notice_consumer('webhooks')$$), (17, 'confirm_notices(NULL, NULL)')
) AS t (n, call), pg_temp.failure('SELECT apikeys.' || t.call) AS f ORDER BY t.n;

-- Who acts for one account does not take the notices of all.
BEGIN;
SELECT apikeys.begin_for('acme');
SELECT f.code, f.message FROM (VALUES (1, $$take_notices('mailer')$$), (2, $$confirm_notices('mailer', '{}')$$), (3, $$remove_notice_consumer('mailer')$$)) AS t (n, call),
    pg_temp.failure('SELECT apikeys.' || t.call) AS f ORDER BY t.n;
ROLLBACK;
CREATE ROLE regress_outbox_staff IN ROLE apikeys_staff;
SET SESSION AUTHORIZATION regress_outbox_staff;
SELECT count(*) FROM apikeys.take_notices('mailer');
SELECT apikeys.remove_notice_consumer('mailer');
RESET SESSION AUTHORIZATION;
DROP ROLE regress_outbox_staff;

SET client_min_messages = error;
DROP EXTENSION apikeys CASCADE;
CREATE EXTENSION apikeys;
