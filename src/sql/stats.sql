-- The engine as the operator sees it.

CREATE FUNCTION apikeys.stats(
    OUT queue_bytes bigint, OUT queue_size bigint, OUT oldest_event_age interval, OUT flush_lag interval,
    OUT events_written bigint, OUT events_quarantined bigint, OUT denials_dropped bigint, OUT requests_unrecorded bigint,
    OUT verdicts_overloaded bigint, OUT meters_used bigint, OUT meters_size bigint, OUT rings_used bigint, OUT rings_size bigint,
    OUT evictions bigint, OUT writer_pid int, OUT writer_state text, OUT last_error text, OUT addresses_used bigint,
    OUT addresses_size bigint, OUT launcher_pid int, OUT launcher_state text, OUT launcher_error text, OUT clock_ahead interval
) RETURNS record
LANGUAGE C VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'apikeys_engine_stats';
COMMENT ON FUNCTION apikeys.stats() IS
'The state of the engine. Of this database: the queue (bytes; age of its oldest event; flush_lag: the time from the '
'first event of the last batch to its commit), events since the server started, and the writer (none, running, '
'failing) with its last error. Of the whole server: meters, rings, places for client addresses that have '
'failed, the launcher that starts the writers (none, running, failing: the server had no place for a worker) with its '
'last error, and how far the clock by which limits are counted is ahead of the wall clock (negative: behind), because '
'that was set since the server started. Errors: 55000 not preloaded.';

CREATE FUNCTION apikeys.verdict_counts(OUT code text, OUT verdicts bigint) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 14 AS 'MODULE_PATHNAME', 'apikeys_engine_verdicts';
COMMENT ON FUNCTION apikeys.verdict_counts() IS
'How many verdicts of each code verify, verify_many and begin_as have given in this database since the server started, also those of which '
'there is no record: missing, invalid, ip_blocked, overloaded. Recorded ones are counted as they are written. '
'Errors: 55000 not preloaded.';

CREATE FUNCTION apikeys.flush() RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_engine_flush';
COMMENT ON FUNCTION apikeys.flush() IS
'Wait until all events queued so far are in the tables. False: that takes longer than apikeys.queue_timeout. '
'Errors: 55000 not preloaded, or on a standby.';

CREATE FUNCTION apikeys_internal.try_flush() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN apikeys.flush();
EXCEPTION
    WHEN object_not_in_prerequisite_state THEN RETURN true;
END
$$;
COMMENT ON FUNCTION apikeys_internal.try_flush() IS
'Like flush, but true if there is no engine, because then nothing is queued.';

CREATE FUNCTION apikeys.maintain() RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_engine_maintain';
COMMENT ON FUNCTION apikeys.maintain() IS
'Make the writer do its daily maintenance now: create partitions ahead, apply retention, merge buckets. False: that '
'takes longer than apikeys.queue_timeout (it goes on), or part of it was postponed, e.g. because a partition that '
'is to be dropped is in use. The server log tells which part; it is tried again after 10 minutes. Errors: 55000 not '
'preloaded, or on a standby.';

-- Who installs the extension learns now what no request could do later.
DO $$
DECLARE
    what text;
BEGIN
    PERFORM apikeys.stats();
EXCEPTION
    WHEN object_not_in_prerequisite_state THEN
        GET STACKED DIAGNOSTICS what = PG_EXCEPTION_HINT;
        RAISE WARNING USING MESSAGE = SQLERRM, HINT = what;
END
$$;
