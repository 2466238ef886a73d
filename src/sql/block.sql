-- Blocked client addresses: automatic blocks after failures, in shared memory, and blocks by hand, in table address_block.

CREATE FUNCTION apikeys_internal.automatic_blocks(OUT network cidr, OUT since timestamptz, OUT until timestamptz, OUT failures bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_block_list';
COMMENT ON FUNCTION apikeys_internal.automatic_blocks() IS
'The automatic blocks of this database; none if the library is not preloaded. Part of the view address_block_list.';

CREATE FUNCTION apikeys_internal.lift_automatic_blocks(address inet, OUT network cidr, OUT since timestamptz, OUT until timestamptz, OUT failures bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_block_lift';
COMMENT ON FUNCTION apikeys_internal.lift_automatic_blocks(inet) IS
'Lift the automatic blocks of an address or within a network; returns them. Part of unblock_address.';

CREATE VIEW apikeys.address_block_list WITH (security_barrier) AS
SELECT a.network, true AS automatic, NULL::text AS reason, a.since, a.until, a.failures, NULL::text AS blocked_by
FROM apikeys_internal.automatic_blocks() AS a WHERE (SELECT apikeys_internal.reaches_all(false))
UNION ALL
SELECT b.network, false, b.reason, b.blocked_at, b.until, NULL, b.blocked_by
FROM apikeys.address_block AS b
WHERE (b.until IS NULL OR b.until > apikeys_internal.wall_clock()) AND (SELECT apikeys_internal.reaches_all(false));
COMMENT ON VIEW apikeys.address_block_list IS
'The blocks of client addresses that are in force, automatic ones and those by hand.';
COMMENT ON COLUMN apikeys.address_block_list.network IS
'What is blocked. An automatic block is of an IPv4 address or of a /64 of IPv6.';
COMMENT ON COLUMN apikeys.address_block_list.automatic IS 'Whether the block was made automatically, after failures.';
COMMENT ON COLUMN apikeys.address_block_list.reason IS 'Why, for people; NULL: it is automatic.';
COMMENT ON COLUMN apikeys.address_block_list.since IS 'When it began; of a block by hand, when it was last renewed.';
COMMENT ON COLUMN apikeys.address_block_list.blocked_by IS
'The session''s user who blocked it by hand; NULL: it is automatic.';
COMMENT ON COLUMN apikeys.address_block_list.until IS 'When it ends; NULL: never.';
COMMENT ON COLUMN apikeys.address_block_list.failures IS
'The number of verdicts invalid and missing that led to it; NULL: it was made by hand.';

CREATE FUNCTION apikeys_internal.failed_addresses(OUT network cidr, OUT failures bigint, OUT failed_at timestamptz, OUT endpoint text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_block_failing';
COMMENT ON FUNCTION apikeys_internal.failed_addresses() IS
'The addresses of this database that have failed and are not blocked; none if the library is not preloaded. Part of the view '
'failing_addresses.';

CREATE VIEW apikeys.failing_addresses WITH (security_barrier) AS
SELECT f.network, f.failures, f.failed_at, f.endpoint
FROM apikeys_internal.failed_addresses() AS f WHERE (SELECT apikeys_internal.reaches_all(false));
COMMENT ON VIEW apikeys.failing_addresses IS
'Client addresses whose requests had no key or an unknown one, within the window of apikeys.ip_failures, and that are not blocked: '
'who guesses slowly, or has deployed a wrong key. Those of trusted addresses are not counted.';
COMMENT ON COLUMN apikeys.failing_addresses.network IS 'An IPv4 address, or a /64 of IPv6.';
COMMENT ON COLUMN apikeys.failing_addresses.failures IS 'How many of its requests failed within the window.';
COMMENT ON COLUMN apikeys.failing_addresses.failed_at IS 'Time of the latest of them.';
COMMENT ON COLUMN apikeys.failing_addresses.endpoint IS
'What it asked for, in the form of the log and cut to 95 bytes; NULL: the request did not say.';

CREATE FUNCTION apikeys_internal.record_block(network cidr, failures bigint, until timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT apikeys_internal.audit('insert', 'address_block', network::text, NULL, NULL,
                         jsonb_build_object('network', network, 'automatic', true, 'failures', failures, 'until', until));
    SELECT apikeys_internal.add_notice('address_blocked', NULL, NULL, jsonb_build_object('network', network, 'failures', failures, 'until', until));
END;
COMMENT ON FUNCTION apikeys_internal.record_block(cidr, bigint, timestamptz) IS
'Record an automatic block in audit_log and notice. Called by the writer.';

-- Rows are few and seldom written, so the table is locked: two transactions that block the same network need no other precaution.
CREATE FUNCTION apikeys.block_address(address inet, reason text, duration interval DEFAULT NULL) RETURNS apikeys.address_block_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present timestamptz := apikeys_internal.wall_clock();
    made    apikeys.address_block;
BEGIN
    reason := apikeys_internal.checked('address_block.reason', reason);
    IF address IS NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'address_block.network', 'an address must be given');
    ELSIF NOT apikeys_internal.has_text(reason) THEN
        PERFORM apikeys_internal.refuse('22023', 'address_block.reason',
            'a reason must be given', NULL, NULL, 'address_block_reason_check');
    ELSIF duration <= '0' THEN
        PERFORM apikeys_internal.refuse('22023', 'address_block.duration', 'a duration must be positive');
    ELSIF NOT isfinite(duration) THEN
        PERFORM apikeys_internal.refuse('22023', 'address_block.duration',
            'a duration must be finite', NULL, 'Leave it out to block without end.');
    END IF;
    LOCK TABLE apikeys.address_block IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM apikeys.address_block AS b WHERE b.until <= present;
    UPDATE apikeys.address_block AS b
    SET until = apikeys_internal.seconds_after(present, duration), reason = block_address.reason, blocked_at = present, blocked_by = SESSION_USER
    WHERE b.network = apikeys_internal.plain_network(address)
    RETURNING b.* INTO made;
    IF NOT FOUND THEN
        INSERT INTO apikeys.address_block (network, until, reason, blocked_at)
        VALUES (apikeys_internal.plain_network(address), apikeys_internal.seconds_after(present, duration), block_address.reason, present)
        RETURNING * INTO made;
        PERFORM apikeys_internal.audit('insert', 'address_block', made.network::text, NULL, NULL, apikeys_internal.audited_row(to_jsonb(made)));
    END IF;
    RETURN (made.network, false, made.reason, made.blocked_at, made.until, NULL::bigint, made.blocked_by);
END
$$;
COMMENT ON FUNCTION apikeys.block_address(inet, text, interval) IS
'Block an address or a network in this database by hand, for a duration (a day is 86,400 s) or, without one, until '
'it is unblocked. From the next call on its requests get the verdict ip_blocked before any other check. Addresses '
'in apikeys.ip_never_blocked stay free. If it is blocked already, the reason and the duration are replaced. Blocks by '
'hand survive restarts. Errors: 22023 no address, no reason, or a duration that is not positive or not finite.';

CREATE FUNCTION apikeys.unblock_address(address inet) RETURNS SETOF apikeys.address_block_list
LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    freed  cidr := apikeys_internal.plain_network(address);
    lifted record;
    wider  cidr;
    any_lifted boolean := false;
BEGIN
    FOR lifted IN DELETE FROM apikeys.address_block AS b WHERE b.network <<= freed RETURNING b.* LOOP
        RETURN QUERY SELECT lifted.network, false, lifted.reason, lifted.blocked_at, lifted.until, NULL::bigint, lifted.blocked_by;
        any_lifted := true;
    END LOOP;
    FOR lifted IN SELECT a.* FROM apikeys_internal.lift_automatic_blocks(freed) AS a LOOP
        PERFORM apikeys_internal.audit('delete', 'address_block', lifted.network::text, NULL,
                              jsonb_build_object('network', lifted.network, 'automatic', true, 'failures', lifted.failures, 'until', lifted.until), NULL);
        RETURN QUERY SELECT lifted.network, true, NULL::text, lifted.since, lifted.until, lifted.failures, NULL::text;
        any_lifted := true;
    END LOOP;
    IF NOT any_lifted THEN
        SELECT b.network INTO wider FROM apikeys.address_block AS b
        WHERE b.network >> freed AND (b.until IS NULL OR b.until > apikeys_internal.wall_clock())
        ORDER BY masklen(b.network) DESC LIMIT 1;
        IF FOUND THEN
            PERFORM apikeys_internal.refuse('P0002', 'address_block.network',
                format('address %s has no block of its own', abbrev(freed::inet)), NULL,
                format('It is in %s, which is blocked by hand.', wider));
        END IF;
        PERFORM apikeys_internal.refuse('P0002', 'address_block.network',
            format('address %s is not blocked', coalesce(abbrev(freed::inet), 'NULL')));
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys.unblock_address(inet) IS
'Lift the block of an address, or all blocks within a network, automatic ones and those by hand; for an IPv6 '
'address also the automatic block of its /64. Returns the lifted blocks. An automatic block and the failures that '
'led to it are deleted at once: a ROLLBACK does not bring them back. Errors: P0002 nothing is blocked there.';

CREATE FUNCTION apikeys.client_address(forwarded text, peer inet) RETURNS inet
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'apikeys_client_address';
COMMENT ON FUNCTION apikeys.client_address(text, inet) IS
'The address of the client, for the argument ip of verify. peer is the address that the application was called from, forwarded '
'the header X-Forwarded-For or Forwarded (RFC 7239), several lines joined by commas. It is the peer, unless that is in '
'apikeys.trusted_proxies; then the last address of the header that is not, or, if all are, the first one. Ports, brackets and zones '
'are cut off. An element that is no address (unknown, _hidden) ends the search at the one behind it, and so does one that begins '
'before the last 8192 bytes of the header. ::ffff:a.b.c.d is a.b.c.d. NULL: no peer.';
