-- Adjustments: resets of usage and grants of units. They only add rows to adjustment, which src/request/adjustment.c reads.

CREATE FUNCTION apikeys_internal.adjustment_made(subject "char", subject_id bigint) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_adjustment_made';
COMMENT ON FUNCTION apikeys_internal.adjustment_made("char", bigint) IS
'Make the meter of a key (k) or an account (a) read its adjustments again when this transaction commits. Errors: '
'0A000 at PREPARE TRANSACTION.';

CREATE FUNCTION apikeys_internal.units_used(subject "char", subject_id bigint) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'apikeys_usage_units';
COMMENT ON FUNCTION apikeys_internal.units_used("char", bigint) IS
'The units of all time of a key (k) or an account (a) that are stored now, regardless of the transaction''s '
'snapshot.';

CREATE FUNCTION apikeys_internal.check_window(limits apikeys.limits, limit_window text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF limits OPERATOR(apikeys.->) limit_window IS NULL THEN
        PERFORM apikeys_internal.refuse('22023', 'adjustment.limit_window',
            format('there is no limit per window %s to adjust', apikeys_internal.quoted(limit_window)),
            format('The limits in effect are: %s.', coalesce(nullif(limits::text, ''), 'none')));
    END IF;
    RETURN (SELECT i.limit_window FROM apikeys.limits_items(('0/' || limit_window)::apikeys.limits) AS i);
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_window(apikeys.limits, text) IS
'The name of a window that the limits have, as type limits writes it. Errors: 22023 any other window.';

CREATE FUNCTION apikeys_internal.add_adjustment(
    subject "char", subject_id bigint, account_id bigint, object_id text, limit_window text, units bigint, until timestamptz,
    counts_from bigint, reason text
) RETURNS apikeys.adjustment
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made apikeys.adjustment;
BEGIN
    reason := apikeys_internal.checked('adjustment.reason', reason);
    INSERT INTO apikeys.adjustment (subject, subject_id, limit_window, units, until, counts_from, reason, at)
    VALUES (add_adjustment.subject, add_adjustment.subject_id, add_adjustment.limit_window, add_adjustment.units, add_adjustment.until,
            add_adjustment.counts_from, CASE WHEN apikeys_internal.has_text(add_adjustment.reason) THEN add_adjustment.reason END, apikeys_internal.wall_clock())
    RETURNING * INTO made;
    PERFORM apikeys_internal.adjustment_made(made.subject, made.subject_id);
    PERFORM apikeys_internal.audit(CASE WHEN made.until IS NULL THEN 'reset' ELSE 'grant' END, CASE made.subject WHEN 'k' THEN 'key' ELSE 'account' END,
                          add_adjustment.object_id, add_adjustment.account_id, NULL,
                          jsonb_strip_nulls(to_jsonb(made)) - '{subject,subject_id,at,created_by}'::text[]);
    RETURN made;
END
$$;
COMMENT ON FUNCTION apikeys_internal.add_adjustment("char", bigint, bigint, text, text, bigint, timestamptz, bigint, text) IS
'Add a row to adjustment, record it in the audit log, and tell the meter when the transaction commits.';

CREATE FUNCTION apikeys_internal.reset_limits(
    subject "char", subject_id bigint, account_id bigint, object_id text, limits apikeys.limits, limit_window text, reason text
) RETURNS SETOF apikeys.adjustment
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    chosen      text := CASE WHEN limit_window IS NOT NULL THEN apikeys_internal.check_window(limits, limit_window) END;
    counts_from bigint;
BEGIN
    IF limits::text = '' THEN
        PERFORM apikeys_internal.refuse('22023', 'adjustment.limit_window', 'there are no limits to reset');
    END IF;
    PERFORM apikeys_internal.try_flush();
    counts_from := apikeys_internal.units_used(subject, subject_id);
    RETURN QUERY
        SELECT a.* FROM apikeys_internal.limit_status(subject, subject_id, limits, '') AS l,
             apikeys_internal.add_adjustment(subject, subject_id, account_id, object_id, l.limit_window, l.used, NULL, counts_from, reason) AS a
        WHERE chosen IS NULL OR l.limit_window = chosen;
END
$$;
COMMENT ON FUNCTION apikeys_internal.reset_limits("char", bigint, bigint, text, apikeys.limits, text, text) IS
'Does the work of reset_usage and reset_account_usage. Errors: 22023.';

CREATE FUNCTION apikeys_internal.grant_limit(
    subject "char", subject_id bigint, account_id bigint, object_id text, limits apikeys.limits, limit_window text, units bigint,
    until timestamptz, reason text
) RETURNS apikeys.adjustment
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(units, 0) = 0 OR abs(units::numeric) > 9007199254740991 THEN
        PERFORM apikeys_internal.refuse('22023', 'adjustment.units', 'units must be a number other than 0, of 53 bits at most');
    ELSIF NOT coalesce(isfinite(until) AND until > apikeys_internal.wall_clock(), false) THEN
        PERFORM apikeys_internal.refuse('22023', 'adjustment.until', 'until must be in the future');
    END IF;
    RETURN apikeys_internal.add_adjustment(subject, subject_id, account_id, object_id, apikeys_internal.check_window(limits, limit_window), units, until,
                                  NULL, reason);
END
$$;
COMMENT ON FUNCTION apikeys_internal.grant_limit("char", bigint, bigint, text, apikeys.limits, text, bigint, timestamptz, text) IS
'Does the work of grant_units and grant_account_units. Errors: 22023.';

CREATE FUNCTION apikeys.reset_usage(key_id bigint, limit_window text DEFAULT NULL, reason text DEFAULT NULL) RETURNS SETOF apikeys.adjustment
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list := apikeys_internal.key_to_change(key_id);
BEGIN
    RETURN QUERY
        SELECT r.* FROM apikeys.account AS a,
             apikeys_internal.reset_limits('k', listed.key_id, a.account_id, listed.key_id::text,
                                           apikeys_internal.lower_limits(listed.limits, coalesce(listed.owner_limits, '')), limit_window, reason) AS r
        WHERE a.name = listed.account;
END
$$;
COMMENT ON FUNCTION apikeys.reset_usage(bigint, text, text) IS
'From now on, the units that a key has used so far do not count for its limit on a window, e.g. ''day'' or '
'''total''; NULL: for each of its limits, those that its owner has set as well. Other windows, the limits of its account, the log and the usage stay as '
'they are. It takes effect when the transaction commits, in all sessions. It flushes first; units that cannot be '
'written within apikeys.queue_timeout, or are admitted after that, still count. A restart or merging of buckets '
'does not change what counts. Returns a row of adjustment for each window; its units are those that counted.
Errors: P0002 unknown key; 22023 no such window, or the key has no limit on it; 0A000 at PREPARE TRANSACTION.';

CREATE FUNCTION apikeys.reset_account_usage(account text, limit_window text DEFAULT NULL, reason text DEFAULT NULL) RETURNS SETOF apikeys.adjustment
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, true);
BEGIN
    RETURN QUERY
        SELECT r.* FROM apikeys.plan AS p,
             apikeys_internal.reset_limits('a', owner.account_id, owner.account_id, owner.name, coalesce(owner.limits, p.limits), limit_window, reason) AS r
        WHERE p.name = owner.plan;
END
$$;
COMMENT ON FUNCTION apikeys.reset_account_usage(text, text, text) IS
'Like reset_usage, but for the limits of an account, which count all its keys together. The limits of the keys stay '
'as they are.
Errors: P0002 unknown account; 22023 no such window, or the account has no limit on it; 0A000 at PREPARE '
'TRANSACTION.';

CREATE FUNCTION apikeys.grant_units(key_id bigint, limit_window text, units bigint, until timestamptz, reason text DEFAULT NULL)
RETURNS apikeys.adjustment
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.key_list := apikeys_internal.key_to_change(key_id);
BEGIN
    RETURN (SELECT apikeys_internal.grant_limit('k', listed.key_id, a.account_id, listed.key_id::text, listed.limits, limit_window, units, until, reason)
            FROM apikeys.account AS a WHERE a.name = listed.account);
END
$$;
COMMENT ON FUNCTION apikeys.grant_units(bigint, text, bigint, timestamptz, text) IS
'Raise the cap of a key''s limit on a window, e.g. ''day'' or ''total'', by units until a time (engine time). After '
'that the cap is as before, and units used beyond it count. Grants on the same window add up; negative units take '
'back what was granted, but do not lower the cap itself. The cap of a window with grants is at most 4294967295. It '
'takes effect when the transaction commits, in all sessions; key_limits and verdicts show the cap with the grants.
Errors: P0002 unknown key; 22023 no such window, or the key has no limit on it, units 0 or longer than 53 bits, '
'until not in the future; 0A000 at PREPARE TRANSACTION.';

CREATE FUNCTION apikeys.grant_account_units(account text, limit_window text, units bigint, until timestamptz, reason text DEFAULT NULL)
RETURNS apikeys.adjustment
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner apikeys.account := apikeys_internal.get_account(account, true);
BEGIN
    RETURN (SELECT apikeys_internal.grant_limit('a', owner.account_id, owner.account_id, owner.name, coalesce(owner.limits, p.limits), limit_window,
                                       units, until, reason)
            FROM apikeys.plan AS p WHERE p.name = owner.plan);
END
$$;
COMMENT ON FUNCTION apikeys.grant_account_units(text, text, bigint, timestamptz, text) IS
'Like grant_units, but for a limit of an account, which counts all its keys together.
Errors: P0002 unknown account; 22023 no such window, or the account has no limit on it, units 0 or longer than 53 '
'bits, until not in the future; 0A000 at PREPARE TRANSACTION.';

CREATE TRIGGER adjustment_refuse_update BEFORE UPDATE ON apikeys.adjustment
FOR EACH ROW WHEN (to_jsonb(NEW.*) - 'reason' IS DISTINCT FROM to_jsonb(OLD.*) - 'reason' OR NEW.reason IS NOT NULL)
EXECUTE FUNCTION apikeys_internal.refuse_change();
CREATE TRIGGER adjustment_refuse_delete BEFORE DELETE OR TRUNCATE ON apikeys.adjustment
FOR EACH STATEMENT EXECUTE FUNCTION apikeys_internal.refuse_change();
COMMENT ON TRIGGER adjustment_refuse_update ON apikeys.adjustment IS
'Refuses changes by every role, including the owner and superusers, except to erase a reason.';
COMMENT ON TRIGGER adjustment_refuse_delete ON apikeys.adjustment IS
'Refuses deletions by every role, including the owner and superusers.';
ALTER TABLE apikeys.adjustment ENABLE ALWAYS TRIGGER adjustment_refuse_update;
ALTER TABLE apikeys.adjustment ENABLE ALWAYS TRIGGER adjustment_refuse_delete;
