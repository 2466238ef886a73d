-- The table notice as an outbox for programs that send notices on: a mailer, a sender of webhooks.
--
-- Each consumer gets each notice at least once. The writer puts a row into notice_delivery for each consumer, in the transaction in which
-- it announces the notice: ids do not follow the order of commits, so that a consumer who remembered a last id would miss some. A delivery
-- that was taken is leased: others of the same consumer do not get it until the lease ends, and then the next one does. What is confirmed
-- is deleted.

CREATE FUNCTION apikeys_internal.require_outbox() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT apikeys_internal.reaches_all(true) THEN
        PERFORM apikeys_internal.refuse('42501', 'notice_consumer.name', 'notices of all accounts are delivered to who acts for all accounts');
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.require_outbox() IS 'Raise unless the session may change all accounts. Errors: 42501.';

CREATE FUNCTION apikeys.take_notices(
    consumer text, rows int = 100, lease interval = '1 minute',
    OUT id bigint, OUT attempts int, OUT at timestamptz, OUT kind text, OUT account text, OUT display_name text, OUT contact text,
    OUT key_id bigint, OUT alias text, OUT details jsonb
) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
BEGIN
    PERFORM apikeys_internal.require_outbox();
    consumer := apikeys_internal.checked('notice_consumer.name', consumer);
    IF consumer IS NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'notice_consumer.name', 'a consumer must be named');
    ELSIF rows IS NULL OR rows NOT BETWEEN 1 AND 1000 THEN
        PERFORM apikeys_internal.refuse('22023', 'rows', 'from 1 to 1000 notices can be taken at once');
    ELSIF lease IS NULL OR lease NOT BETWEEN '1 second' AND '1 day' THEN
        PERFORM apikeys_internal.refuse('22023', 'lease', 'a lease lasts from 1 second to 1 day');
    END IF;
    INSERT INTO apikeys.notice_consumer (name) VALUES (consumer) ON CONFLICT DO NOTHING;
    RETURN QUERY
        WITH due AS (
            SELECT d.notice_id FROM apikeys.notice_delivery AS d
            WHERE d.consumer = take_notices.consumer AND d.leased_until <= present
            ORDER BY d.notice_id LIMIT rows
            FOR UPDATE SKIP LOCKED
        ), taken AS (
            UPDATE apikeys.notice_delivery AS d SET attempts = d.attempts + 1, leased_until = present + lease
            FROM due WHERE d.consumer = take_notices.consumer AND d.notice_id = due.notice_id
            RETURNING d.notice_id, d.attempts
        )
        SELECT n.id, t.attempts, n.at, n.kind, a.name, a.display_name, a.contact, n.key_id, coalesce(k.alias, n.details ->> 'alias'), n.details
        FROM taken AS t
        JOIN apikeys.notice AS n ON n.id = t.notice_id
        LEFT JOIN apikeys.account AS a ON a.account_id = n.account_id
        LEFT JOIN apikeys.key AS k ON k.key_id = n.key_id
        ORDER BY n.id;
END
$$;
COMMENT ON FUNCTION apikeys.take_notices(text, int, interval) IS
'Take notices to deliver, for a consumer such as ''mailer'': at most this many (1 to 1000), the oldest first, with the contact of the '
'account. Until the lease (1 second to 1 day) ends nobody else gets them; then they come again, with attempts one higher, unless '
'confirm_notices was called: so each comes at least once, and a consumer must bear to get one twice. The first call of a consumer '
'registers it: it gets what is announced from then on. Commit before you send, so that the lease holds. '
'Errors: 22023; 42501 the session may not change all accounts.';

CREATE FUNCTION apikeys.confirm_notices(consumer text, ids bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown   bigint;
    confirmed bigint;
BEGIN
    PERFORM apikeys_internal.require_outbox();
    IF NOT EXISTS (SELECT FROM apikeys.notice_consumer AS c WHERE c.name = consumer) THEN
        PERFORM apikeys_internal.refuse('P0002', 'notice_consumer.name', format('consumer %s does not exist', apikeys_internal.quoted(consumer)));
    ELSIF ids IS NULL OR cardinality(ids) > 1000 THEN
        PERFORM apikeys_internal.refuse('22023', 'ids', 'up to 1000 notices can be confirmed at once');
    END IF;
    SELECT i.id INTO unknown FROM unnest(ids) AS i (id) WHERE NOT EXISTS (SELECT FROM apikeys.notice AS n WHERE n.id = i.id) LIMIT 1;
    IF FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'notice.id', format('notice %s does not exist', coalesce(unknown::text, 'NULL')));
    END IF;
    DELETE FROM apikeys.notice_delivery AS d WHERE d.consumer = confirm_notices.consumer AND d.notice_id = ANY (ids);
    GET DIAGNOSTICS confirmed = ROW_COUNT;
    RETURN confirmed;
END
$$;
COMMENT ON FUNCTION apikeys.confirm_notices(text, bigint[]) IS
'Tell that a consumer has delivered notices (up to 1000), or gives them up: it does not get them again. Returns how many it still had to '
'deliver; confirming one twice does nothing. Errors: P0002 unknown consumer or notice; 22023; 42501 the session may not change all accounts.';

CREATE FUNCTION apikeys.remove_notice_consumer(consumer text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dropped bigint;
BEGIN
    PERFORM apikeys_internal.require_outbox();
    DELETE FROM apikeys.notice_consumer AS c WHERE c.name = consumer;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'notice_consumer.name', format('consumer %s does not exist', apikeys_internal.quoted(consumer)));
    END IF;
    DELETE FROM apikeys.notice_delivery AS d WHERE d.consumer = remove_notice_consumer.consumer;
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION apikeys.remove_notice_consumer(text) IS
'Forget a consumer of notices and what it has not delivered; returns how many notices these were. '
'Errors: P0002 unknown consumer; 42501 the session may not change all accounts.';
