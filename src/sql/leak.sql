-- Keys whose text was found where anybody can read it: reports of secret scanners.
--
-- The text of a report is looked up and forgotten: no table, notice, audit log or message has it. Where it was found is kept, with
-- the text taken out of it.
--
-- key.leaked_at tells a suspension by a report from one by the provider. A trigger lifts the former when the key gets a new text
-- without a grace, since nobody has that; the provider's stays.

CREATE FUNCTION apikeys_internal.text_digests(key text, OUT hash_rule text, OUT digest apikeys.digest) RETURNS SETOF record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 3 AS 'MODULE_PATHNAME', 'apikeys_key_text_digests';
COMMENT ON FUNCTION apikeys_internal.text_digests(text) IS
'The digests that a presented text has by each hash rule; none for a text that is no key''s.';

CREATE FUNCTION apikeys_internal.follow_leak() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.suspended_at IS NULL OR NEW.suspended_reason IS DISTINCT FROM OLD.suspended_reason THEN
        NEW.leaked_at := NULL;                  -- the provider lifted it, or made it a suspension of its own
    ELSIF NEW.rotations <> OLD.rotations AND NEW.previous_digest IS NULL THEN
        NEW.leaked_at := NULL;
        NEW.suspended_at := NULL;
        NEW.suspended_reason := NULL;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION apikeys_internal.follow_leak() IS
'Trigger: ends the suspension of a leaked key when it gets a new text without a grace.';

CREATE TRIGGER key_follow_leak BEFORE UPDATE ON apikeys.key
FOR EACH ROW WHEN (OLD.leaked_at IS NOT NULL) EXECUTE FUNCTION apikeys_internal.follow_leak();
COMMENT ON TRIGGER key_follow_leak ON apikeys.key IS
'Ends the suspension of a leaked key when it gets a new text without a grace.';

CREATE FUNCTION apikeys.report_leak(report jsonb, suspend boolean DEFAULT true) RETURNS TABLE (n int, found boolean, key_id bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    leak    record;
    leaked  apikeys.key;
    place   text;
    previous boolean;
BEGIN
    PERFORM apikeys_internal.require_provider();
    IF jsonb_typeof(report) IS DISTINCT FROM 'array' THEN
        PERFORM apikeys_internal.refuse('22023', 'report', 'a report must be an array of objects');
    ELSIF jsonb_array_length(report) > 1000 THEN
        PERFORM apikeys_internal.refuse('22023', 'report', 'a report has at most 1000 elements');
    ELSIF suspend IS NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'suspend', 'suspend must be true or false');
    END IF;
    -- In the order of ids, as others lock keys.
    FOR leak IN
        SELECT e.n, e.element, k.key_id, d.digest
        FROM jsonb_array_elements(report) WITH ORDINALITY AS e (element, n),
             apikeys_internal.text_digests(CASE jsonb_typeof(e.element -> 'token') WHEN 'string' THEN e.element ->> 'token' END) AS d
        CROSS JOIN LATERAL (
            (SELECT k.key_id FROM apikeys.key AS k
             WHERE k.digest OPERATOR(apikeys.=) d.digest AND k.hash_rule = d.hash_rule LIMIT 1)
            UNION ALL
            (SELECT k.key_id FROM apikeys.key AS k
             WHERE k.previous_digest OPERATOR(apikeys.=) d.digest AND k.previous_hash_rule = d.hash_rule LIMIT 1)
            LIMIT 1) AS k
        ORDER BY k.key_id, e.n
    LOOP
        SELECT k.* INTO leaked FROM apikeys.key AS k WHERE k.key_id = leak.key_id FOR UPDATE;
        previous := leaked.digest OPERATOR(apikeys.<>) leak.digest;
        -- It may have been rotated, or deleted, before it was locked.
        CONTINUE WHEN previous IS NULL OR previous AND (leaked.previous_digest OPERATOR(apikeys.<>) leak.digest) IS NOT FALSE;
        place := left(replace(coalesce(nullif(leak.element ->> 'url', ''), leak.element ->> 'source', 'a place that was not said'), leak.element ->> 'token', '...'), 2000);
        IF NOT suspend THEN
            NULL;
        ELSIF previous THEN
            UPDATE apikeys.key AS k SET previous_valid_until = present WHERE k.key_id = leaked.key_id AND k.previous_valid_until > present;
        ELSIF leaked.suspended_at IS NULL AND apikeys_internal.key_counts(leaked.active, leaked.expires_at, present) THEN
            UPDATE apikeys.key AS k
            SET suspended_at = present, suspended_reason = apikeys_internal.checked('key.suspended_reason', 'leaked: found at ' || place), leaked_at = present
            WHERE k.key_id = leaked.key_id;
        END IF;
        PERFORM apikeys_internal.add_notice_once(
            'k', leaked.key_id, 'leaked/' || leaked.rotations - previous::int, 'leaked', present, NULL, 'leaked', leaked.account_id, leaked.key_id,
            apikeys_internal.noticed_key(leaked) || jsonb_build_object('place', apikeys_internal.checked('key.suspended_reason', place), 'previous', previous));
    END LOOP;
    RETURN QUERY
    SELECT e.n::int, k.key_id IS NOT NULL, k.key_id
    FROM jsonb_array_elements(report) WITH ORDINALITY AS e (element, n)
    LEFT JOIN LATERAL (
        SELECT k.key_id
        FROM apikeys_internal.text_digests(CASE jsonb_typeof(e.element -> 'token') WHEN 'string' THEN e.element ->> 'token' END) AS d
        CROSS JOIN LATERAL (
            (SELECT k.key_id FROM apikeys.key AS k WHERE k.digest OPERATOR(apikeys.=) d.digest AND k.hash_rule = d.hash_rule LIMIT 1)
            UNION ALL
            (SELECT k.key_id FROM apikeys.key AS k WHERE k.previous_digest OPERATOR(apikeys.=) d.digest AND k.previous_hash_rule = d.hash_rule LIMIT 1)) AS k
        LIMIT 1) AS k ON true
    ORDER BY e.n;
END
$$;
COMMENT ON FUNCTION apikeys.report_leak(jsonb, boolean) IS
'Take a report of a secret scanner: an array of at most 1,000 objects with token (a key text) and, if known, url and source, as GitHub '
'sends it; other members are ignored. A key whose present text is in it is suspended, until its owner rotates it without a grace or '
'the provider lifts that; the reason says where the text was found. If it is the text before, its grace ends. An inactive, expired or '
'suspended key does not change. With suspend => false none does. Each leaked text adds one notice, leaked. Texts are not stored; a '
'report can be repeated. Returns for each element, in their order (n counts from 1), whether a key has the text, and which. Errors: '
'22023 not an array, or more than 1,000 elements, or suspend is NULL.';

CREATE FUNCTION apikeys.key_patterns() RETURNS TABLE (prefix text, pattern text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT DISTINCT p.key_prefix, p.key_prefix || '_[0-9A-Za-z]{36}' FROM apikeys.plan AS p ORDER BY 1;
END;
COMMENT ON FUNCTION apikeys.key_patterns() IS
'The regular expressions by which scanners find keys: one for each prefix that plans use.';
