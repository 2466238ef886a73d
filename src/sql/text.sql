-- What callers may send to be stored: bounds and forms of texts, lists and metadata. The rules are in src/manage/text.c.
--
-- Functions that make rows call checked() for each argument that has a rule. The triggers check what an UPDATE changes. There is
-- none on INSERT, because a restore would fire it.

CREATE FUNCTION apikeys_internal.checked(place text, value anyelement) RETURNS anyelement
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_text_check';
COMMENT ON FUNCTION apikeys_internal.checked(text, anyelement) IS
'A value as it may be stored in <table>.<column>: the same, or, of a text for people, with the hints of keys in the '
'place of their texts. Errors: 22023 it breaks the rule for the column.';

CREATE FUNCTION apikeys_internal.refuse(
    code text, place text, message text, detail text DEFAULT NULL, hint text DEFAULT NULL, constraint_name text DEFAULT NULL)
RETURNS void
LANGUAGE C PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_refuse';
COMMENT ON FUNCTION apikeys_internal.refuse(text, text, text, text, text, text) IS
'Raise an error about <table>.<column>, or about <argument>. The constraint is one of the table, or a rule of the plan (a column '
'of table plan). What is NULL is left out. Errors: the SQLSTATE given.';

CREATE FUNCTION apikeys_internal.refuse_violation(code text, relation text, about text, broken text, message text, cause text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF about = '' THEN
        SELECT a.attname INTO about
        FROM pg_constraint AS c JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[cardinality(c.conkey)]
        WHERE c.conrelid = format('apikeys.%I', relation)::regclass AND c.conname = broken;
    END IF;
    PERFORM apikeys_internal.refuse(
        code, format('%s.%s', relation, about), CASE code WHEN '23505' THEN format('there is a %s with this %s already', relation, about) ELSE message END,
        nullif(cause, ''), NULL, nullif(broken, ''));
END
$$;
COMMENT ON FUNCTION apikeys_internal.refuse_violation(text, text, text, text, text, text) IS
'Raise again that a row violates a constraint, about its column, or the last that it has. The arguments are what an exception '
'tells; cause is its detail. Errors: the SQLSTATE given.';

CREATE FUNCTION apikeys_internal.text_rules(
    OUT relation text, OUT name text, OUT kind text, OUT most_bytes int, OUT most_elements int, OUT constrained boolean)
RETURNS SETOF record
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 36 AS 'MODULE_PATHNAME', 'apikeys_text_rules';
COMMENT ON FUNCTION apikeys_internal.text_rules() IS
'The rules for what callers may send to be stored: table, column or argument, kind, bounds (of lists the elements '
'and their bytes in all), and whether a constraint of the table asks for some of it too.';

CREATE FUNCTION apikeys_internal.check_texts() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'apikeys_text_check_row';
COMMENT ON FUNCTION apikeys_internal.check_texts() IS
'Trigger: checks changed texts, lists and metadata by their rules. Errors: 22023.';

DO $$
DECLARE
    ruled record;
BEGIN
    FOR ruled IN
        SELECT r.relation, pg_catalog.string_agg(r.name, ', ') AS columns
        FROM apikeys_internal.text_rules() AS r
        JOIN pg_catalog.pg_class AS c ON c.relname = r.relation AND c.relnamespace = 'apikeys'::pg_catalog.regnamespace
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = r.name
        GROUP BY r.relation ORDER BY r.relation
    LOOP
        EXECUTE pg_catalog.format($make$
            CREATE TRIGGER %1$s_check_texts BEFORE UPDATE OF %2$s ON apikeys.%1$I
            FOR EACH ROW EXECUTE FUNCTION apikeys_internal.check_texts();
            COMMENT ON TRIGGER %1$s_check_texts ON apikeys.%1$I IS 'Checks changed texts, lists and metadata by their rules.';
            $make$, ruled.relation, ruled.columns);
    END LOOP;
END
$$;

-- The comment of each column says its bound.
DO $$
DECLARE
    ruled record;
BEGIN
    FOR ruled IN
        SELECT r.relation, r.name, pg_catalog.col_description(a.attrelid, a.attnum) AS meaning,
               CASE r.kind
                   WHEN 'name' THEN pg_catalog.format('At most %s bytes, no blanks at the ends, no control or invisible characters.', r.most_bytes)
                   WHEN 'prose' THEN pg_catalog.format('At most %s bytes; a key text in it becomes its hint.', r.most_bytes)
                   WHEN 'metadata' THEN pg_catalog.format('At most %s bytes as jsonb.', r.most_bytes)
                   ELSE pg_catalog.format('At most %s elements and %s bytes.', r.most_elements, r.most_bytes)
               END AS bound
        FROM apikeys_internal.text_rules() AS r
        JOIN pg_catalog.pg_class AS c ON c.relname = r.relation AND c.relnamespace = 'apikeys'::pg_catalog.regnamespace
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = r.name
        WHERE r.kind <> 'reference'
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON COLUMN apikeys.%I.%I IS %L', ruled.relation, ruled.name, pg_catalog.concat_ws(' ', ruled.meaning, ruled.bound));
    END LOOP;
END
$$;
