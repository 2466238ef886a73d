-- Too much in each argument of each public function that takes a text, a list or JSON: none takes it to be stored, and none is long.
SET search_path = pg_catalog;
SET statement_timeout = '5min';

SELECT name FROM apikeys.create_tier('bronze', 1, '10/day');
SELECT name FROM apikeys.create_tier('gold', 3, '100/day');
SELECT name FROM apikeys.create_product('maps');
SELECT name FROM apikeys.create_account('acme', limits => '10/day');
SELECT key_id FROM apikeys.create_key('acme', 'main', tier => 'bronze') \gset
SELECT id AS request FROM apikeys.request_upgrade(:key_id, 'gold', 'more') \gset

-- What an argument has that is not the one with too much: by its name, and for a function of its own.
CREATE TEMP TABLE usual (function text, argument text, value text);
INSERT INTO usual VALUES
    (NULL, 'account', '''acme'''), (NULL, 'key_id', :'key_id'), (NULL, 'id', :'request'), (NULL, 'key', '''x'''), (NULL, 'keys', '''{x}'''),
    (NULL, 'name', '''new'''), (NULL, 'tier', '''gold'''), (NULL, 'product', '''maps'''), (NULL, 'plan', '''default'''), (NULL, 'rank', '9'),
    (NULL, 'role', 'current_user'), (NULL, 'reason', '''why'''), (NULL, 'motivation', '''more'''), (NULL, 'question', '''what?'''),
    (NULL, 'answer', '''that'''), (NULL, 'note', '''so'''), (NULL, 'address', '''10.1.2.3'''), (NULL, 'limit_window', '''day'''),
    (NULL, 'units', '5'), (NULL, 'until', '''2100-01-01'''), (NULL, 'since', '''2099-12-01'''), (NULL, 'step', '''1 day'''),
    (NULL, 'peer', '''192.0.2.1'''), (NULL, 'limits', '''10/day'''), (NULL, 'changes', '''{}'''), (NULL, 'rows', '''[]'''),
    (NULL, 'report', '''[]'''), (NULL, 'verdict', 'NULL'), (NULL, 'request_ids', '''{NULL}'''), (NULL, 'statuses', '''{200}'''),
    (NULL, 'alias', '''main'''), ('create_key', 'alias', '''other'''), ('copy_key', 'alias', '''other'''), ('import_key', 'key', '''some text''');

-- The SQLSTATE of a statement whose effects are undone.
CREATE FUNCTION pg_temp.outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RAISE SQLSTATE 'UNDO0';
EXCEPTION
    WHEN OTHERS THEN
        RETURN CASE SQLSTATE WHEN 'UNDO0' THEN 'accepted' ELSE SQLSTATE END;
END
$$;
CREATE TEMP TABLE swept AS
WITH argument AS (
    SELECT p.oid, p.proname AS function, a.name, a.type::regtype::text AS type, a.number <= p.pronargs - p.pronargdefaults AS needed
    FROM pg_proc AS p, unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) WITH ORDINALITY AS a (name, type, number)
    WHERE p.pronamespace = 'apikeys'::regnamespace AND p.prokind = 'f' AND a.name <> ''
), too_much AS (
    SELECT a.*, CASE WHEN type = 'text' THEN 'repeat(''x'', 70000)'
                     WHEN type = 'jsonb' THEN 'jsonb_build_object(''x'', repeat(''x'', 70000))'
                     ELSE format('array_fill(NULL::%s, ARRAY[20000])', left(type, -2)) END AS value
    FROM argument AS a WHERE type IN ('text', 'jsonb') OR type LIKE '%[]'
)
SELECT m.function, m.name AS argument, m.type,
       pg_temp.outcome(format('SELECT count(*) FROM apikeys.%I(%s) AS f', m.function, (
           SELECT string_agg(format('%I => (%s)::%s', o.name, CASE WHEN o.name = m.name THEN m.value
                                     ELSE coalesce(s.value, u.value, 'NULL') END, o.type), ', ')
           FROM argument AS o
           LEFT JOIN usual AS s ON s.function = o.function AND s.argument = o.name
           LEFT JOIN usual AS u ON u.function IS NULL AND u.argument = o.name
           WHERE o.oid = m.oid AND (o.needed OR o.name = m.name)))) AS outcome
FROM too_much AS m;

-- Refused, as texts and lists that would be stored.
SELECT count(*) > 40 AS many FROM swept WHERE outcome IN ('22023', '54000');
-- Otherwise: names of what does not exist, and what is not stored, or cut before it is (of requests).
SELECT outcome, function, argument FROM swept WHERE outcome NOT IN ('22023', '54000')
ORDER BY outcome COLLATE "C", function COLLATE "C", argument COLLATE "C";

DROP TABLE swept, usual;
DELETE FROM apikeys.key;
DELETE FROM apikeys.account;
DELETE FROM apikeys.plan;
DELETE FROM apikeys.product;
DELETE FROM apikeys.tier;
