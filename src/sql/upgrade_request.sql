-- Requests for a higher tier or higher limits of a key: made by managers of the key, decided by members of apikeys_admin.
--
--   request_upgrade     ->  pending  <->  needs_information      ask_upgrade, answer_upgrade
--   pending or needs_information  ->  approved, declined, withdrawn
--
-- Lock order: the key, then the request, as when the key is deleted.

CREATE FUNCTION apikeys_internal.working_days_after(start timestamptz, days int) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT d.day AT TIME ZONE 'UTC'
    FROM generate_series(1, 2 * days + 2) AS n, LATERAL (SELECT (start AT TIME ZONE 'UTC') + make_interval(days => n)) AS d (day)
    WHERE extract(isodow FROM d.day) < 6
    ORDER BY n OFFSET days - 1 LIMIT 1;
END;
COMMENT ON FUNCTION apikeys_internal.working_days_after(timestamptz, int) IS
'The same time of day, this many working days later (at least 1). Working days are Monday to Friday in UTC.';

CREATE FUNCTION apikeys_internal.upgrade_due_after(start timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN apikeys_internal.working_days_after(start, current_setting('apikeys.upgrade_days')::int);
END
$$;
COMMENT ON FUNCTION apikeys_internal.upgrade_due_after(timestamptz) IS
'Until when an upgrade request that is made then is to be decided: apikeys.upgrade_days working days later.';

CREATE FUNCTION apikeys_internal.limits_are_covered(limits apikeys.limits, bar apikeys.limits) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(bool_and(l.cap IS NULL OR l.cap >= b.cap), NOT EXISTS (SELECT FROM apikeys.limits_items(limits)))
    FROM apikeys.limits_items(bar) AS b LEFT JOIN apikeys.limits_items(limits) AS l ON l.limit_window = b.limit_window;
END;
COMMENT ON FUNCTION apikeys_internal.limits_are_covered(apikeys.limits, apikeys.limits) IS
'Whether the first limits have no lower cap than the second on any window of the second. If the second have no '
'limit, whether the first have none either.';

CREATE FUNCTION apikeys_internal.limits_are_higher(former apikeys.limits, wanted apikeys.limits) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT apikeys_internal.limits_are_covered(wanted, former) AND EXISTS (
        SELECT FROM apikeys.limits_items(former) AS f LEFT JOIN apikeys.limits_items(wanted) AS w ON w.limit_window = f.limit_window
        WHERE w.cap IS NULL OR w.cap > f.cap
    ) AND NOT EXISTS (
        -- A new window that is shorter than a former one counts as often as it fits into it; a longer one counts once.
        SELECT FROM apikeys.limits_items(wanted) AS w, apikeys.limits_items(former) AS f
        WHERE w.limit_window <> ALL (SELECT i.limit_window FROM apikeys.limits_items(former) AS i)
          AND CASE WHEN w.window_length < f.window_length THEN w.cap * extract(epoch FROM f.window_length) / extract(epoch FROM w.window_length)
                   WHEN w.window_length IS NOT NULL AND f.window_length IS NULL AND w.cap > 0 THEN f.cap
                   ELSE w.cap END < f.cap);
END;
COMMENT ON FUNCTION apikeys_internal.limits_are_higher(apikeys.limits, apikeys.limits) IS
'Whether limits are higher than the former ones: no former window gets a lower cap, at least one gets a higher cap '
'or none, and a new window leaves room to use up each former one.';

CREATE FUNCTION apikeys_internal.limits_are_less(former apikeys.limits, wanted apikeys.limits) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT former::text <> wanted::text AND NOT EXISTS (
        SELECT FROM apikeys.limits_items(former) AS f LEFT JOIN apikeys.limits_items(wanted) AS w ON w.limit_window = f.limit_window
        WHERE w.cap IS NULL OR w.cap > f.cap);
END;
COMMENT ON FUNCTION apikeys_internal.limits_are_less(apikeys.limits, apikeys.limits) IS
'Whether limits allow less than the former ones: each former window has a cap, which is no higher, and there is a difference.';

-- Lists.

CREATE VIEW apikeys.upgrade_list WITH (security_barrier) AS
SELECT r.id, a.name AS account, r.key_id, k.alias, r.tier, r.limits, r.state,
       r.state = 'pending' AND r.due_at < apikeys_internal.wall_clock() AS overdue,
       r.motivation, r.project, r.project_kind, r.purpose, r.expected_requests, r.expected_users, r.asked_at, r.asked_by, r.due_at,
       r.question, r.answer, r.decided_at, r.decided_by, r.note
FROM apikeys.upgrade_request AS r
JOIN apikeys.key AS k ON k.key_id = r.key_id
JOIN apikeys.account AS a ON a.account_id = k.account_id
WHERE (SELECT apikeys_internal.reaches_all(false)) OR k.account_id = ANY ((SELECT apikeys_internal.reached_accounts(false))::bigint[]);
COMMENT ON VIEW apikeys.upgrade_list IS
'All upgrade requests, open and closed, for keys that the session may read.';
COMMENT ON COLUMN apikeys.upgrade_list.alias IS 'The key''s alias now.';
COMMENT ON COLUMN apikeys.upgrade_list.overdue IS 'Whether it is still pending after due_at.';

CREATE VIEW apikeys.upgrade_queue WITH (security_barrier) AS
SELECT l.*, k.tier AS present_tier, coalesce(k.limits, t.limits, '') AS present_limits
FROM apikeys.upgrade_list AS l
JOIN apikeys.key AS k ON k.key_id = l.key_id
LEFT JOIN apikeys.tier AS t ON t.name = k.tier
WHERE l.state IN ('pending', 'needs_information')
ORDER BY l.overdue DESC, l.state = 'pending' DESC, l.due_at, l.id;
COMMENT ON VIEW apikeys.upgrade_queue IS
'The open upgrade requests in the order in which to handle them: overdue ones first, those that wait for an answer '
'last.';
COMMENT ON COLUMN apikeys.upgrade_queue.alias IS 'The key''s alias now.';
COMMENT ON COLUMN apikeys.upgrade_queue.overdue IS 'Whether it is still pending after due_at.';
COMMENT ON COLUMN apikeys.upgrade_queue.present_tier IS 'The key''s tier now; NULL: none.';
COMMENT ON COLUMN apikeys.upgrade_queue.present_limits IS
'The limits in effect now: the key''s own, or else its tier''s.';

CREATE FUNCTION apikeys.get_upgrade(id bigint) RETURNS apikeys.upgrade_list
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.upgrade_list;
BEGIN
    PERFORM apikeys_internal.require_reach();
    SELECT l.* INTO listed FROM apikeys.upgrade_list AS l WHERE l.id = get_upgrade.id;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'upgrade_request.id',
            format('upgrade request %s does not exist', coalesce(id::text, 'NULL')));
    END IF;
    RETURN listed;
END
$$;
COMMENT ON FUNCTION apikeys.get_upgrade(bigint) IS
'The upgrade request''s row of the view upgrade_list. Errors: P0002 unknown request.';

-- Rules.

CREATE FUNCTION apikeys_internal.check_upgrade(key_id bigint, tier text, limits apikeys.limits, OUT is_less boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present   apikeys.key;
    rules     apikeys.plan;
    held      apikeys.tier;
    wanted    apikeys.tier;
    effective apikeys.limits;
    asked     apikeys.limits;
BEGIN
    SELECT k.* INTO STRICT present FROM apikeys.key AS k WHERE k.key_id = check_upgrade.key_id;
    SELECT p.* INTO STRICT rules FROM apikeys.account AS a JOIN apikeys.plan AS p ON p.name = a.plan WHERE a.account_id = present.account_id;
    SELECT t.* INTO held FROM apikeys.tier AS t WHERE t.name = present.tier;
    SELECT t.* INTO wanted FROM apikeys.tier AS t WHERE t.name = check_upgrade.tier;
    effective := coalesce(present.limits, held.limits, '');
    asked := coalesce(limits, wanted.limits);
    IF tier IS NOT NULL AND wanted.name IS NULL THEN
        PERFORM apikeys_internal.refuse('P0002', 'upgrade_request.tier', format('tier "%s" does not exist', tier));
    ELSIF tier <> ALL (rules.tiers) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.tier', format('tier "%s" cannot be asked for', tier), NULL,
            CASE cardinality(rules.tiers) WHEN 0 THEN 'The plan offers no tiers.' ELSE format('The plan offers: %s.', array_to_string(rules.tiers, ', ')) END,
            'tiers');
    ELSIF limits IS NOT NULL AND NOT rules.custom_limits_allowed THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.limits',
            format('plan "%s" does not allow limits of a key''s own', rules.name), NULL, 'Ask for a tier.',
            'custom_limits_allowed');
    END IF;
    is_less := apikeys_internal.limits_are_less(effective, asked) AND NOT coalesce(present.limits IS NULL AND wanted.rank >= held.rank, false);
    IF is_less THEN
        RETURN;
    ELSIF wanted.rank <= held.rank THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.tier',
            format('tier "%s" is not above the key''s tier "%s"', tier, held.name));
    ELSIF present.limits IS NULL AND tier IS NOT NULL AND held.name IS NOT NULL THEN
        RETURN;
    ELSIF effective::text = '' THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.limits', 'the key has no limits that could be higher');
    ELSIF NOT apikeys_internal.limits_are_higher(effective, asked) THEN
        PERFORM apikeys_internal.refuse('22023', CASE WHEN limits IS NULL THEN 'upgrade_request.tier' ELSE 'upgrade_request.limits' END,
            format('limits of %s are neither above nor below the key''s: %s', asked, effective), NULL,
            'No cap may be lower than before, at least one must be higher or gone, and a new window must leave room to use up the others; '
            'or none may be higher or gone.');
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_upgrade(bigint, text, apikeys.limits) IS
'Whether a tier or limits are less than a key has; raise if they are neither less nor an upgrade. Tiers are compared by rank, and one of '
'a lower rank is less only if its limits are; a tier is compared by its limits with a key that has limits of its own. Errors: P0002, 22023.';

CREATE FUNCTION apikeys_internal.check_upgrade_texts(
    key_id bigint, project text, project_kind text, purpose text, expected_requests bigint, expected_users bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rules apikeys.plan;
    fault record;
BEGIN
    SELECT p.* INTO STRICT rules
    FROM apikeys.key AS k JOIN apikeys.account AS a ON a.account_id = k.account_id JOIN apikeys.plan AS p ON p.name = a.plan
    WHERE k.key_id = check_upgrade_texts.key_id;
    SELECT f.* INTO fault
    FROM (VALUES
        (1, 'project', apikeys_internal.has_text(project), NULL, NULL::text[]),
        (2, 'project_kind', apikeys_internal.has_text(project_kind), project_kind, rules.project_kinds),
        (3, 'purpose', apikeys_internal.has_text(purpose), purpose, rules.purposes),
        (4, 'expected_requests', expected_requests IS NOT NULL, NULL, NULL),
        (5, 'expected_users', expected_users IS NOT NULL, NULL, NULL)) AS f (place, field, is_said, said, offered)
    WHERE (NOT f.is_said AND f.field = ANY (rules.upgrade_requires)) OR f.said <> ALL (f.offered)
    ORDER BY f.place LIMIT 1;
    IF fault.said <> ALL (fault.offered) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.' || fault.field, format('%s must be one of those that the plan offers', fault.field),
            NULL, format('It offers: %s.', array_to_string(fault.offered, ', ')), fault.field || 's');
    ELSIF FOUND THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.' || fault.field, format('an upgrade request must say its %s', fault.field), NULL, NULL,
            'upgrade_requires');
    END IF;
END
$$;
COMMENT ON FUNCTION apikeys_internal.check_upgrade_texts(bigint, text, text, text, bigint, bigint) IS
'Raise if an upgrade request does not say what the plan of its key asks for, or says what it does not offer. Errors: 22023.';

CREATE FUNCTION apikeys_internal.matching_upgrade_rule(request apikeys.upgrade_request) RETURNS apikeys.upgrade_rule
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.*
    FROM apikeys.upgrade_rule AS r
    LEFT JOIN apikeys.tier AS bar ON bar.name = r.min_tier
    LEFT JOIN apikeys.tier AS wanted ON wanted.name = (request).tier
    WHERE (r.min_tier IS NULL OR coalesce(wanted.rank >= bar.rank, apikeys_internal.limits_are_covered((request).limits, bar.limits)))
      AND (r.project_kind IS NULL OR lower(r.project_kind) = lower((request).project_kind))
      AND (r.purpose IS NULL OR lower(r.purpose) = lower((request).purpose))
      AND (r.product IS NULL
           OR NOT EXISTS (SELECT FROM apikeys.key_product AS p WHERE p.key_id = (request).key_id)
           OR EXISTS (SELECT FROM apikeys.key_product AS p WHERE p.key_id = (request).key_id AND p.product = r.product))
    ORDER BY r.id LIMIT 1;
$$;
COMMENT ON FUNCTION apikeys_internal.matching_upgrade_rule(apikeys.upgrade_request) IS
'The first rule that declines a request; NULL: none.';

CREATE FUNCTION apikeys.create_upgrade_rule(
    reason text, min_tier text DEFAULT NULL, project_kind text DEFAULT NULL, purpose text DEFAULT NULL, product text DEFAULT NULL)
RETURNS apikeys.upgrade_rule
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made     apikeys.upgrade_rule;
    relation text;
    about    text;
    broken   text;
    cause    text;
BEGIN
    PERFORM apikeys_internal.checked('upgrade_rule.min_tier', min_tier);
    PERFORM apikeys_internal.checked('upgrade_rule.product', product);
    reason := apikeys_internal.checked('upgrade_rule.reason', reason);
    project_kind := apikeys_internal.checked('upgrade_rule.project_kind', project_kind);
    purpose := apikeys_internal.checked('upgrade_rule.purpose', purpose);
    IF NOT apikeys_internal.has_text(reason) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_rule.reason',
            'an upgrade rule must have a reason', NULL, NULL, 'upgrade_rule_reason_check');
    ELSIF num_nonnulls(min_tier, project_kind, purpose, product) = 0 THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_rule.min_tier',
            'an upgrade rule must ask for a tier, a kind of project, a purpose or a product',
            'Without any of them it would decline every request.', NULL, 'upgrade_rule_criterion_check');
    END IF;
    INSERT INTO apikeys.upgrade_rule (min_tier, project_kind, purpose, product, reason)
    VALUES (create_upgrade_rule.min_tier, create_upgrade_rule.project_kind, create_upgrade_rule.purpose, create_upgrade_rule.product,
            create_upgrade_rule.reason)
    RETURNING * INTO made;
    PERFORM apikeys_internal.audit('insert', 'upgrade_rule', made.id::text, NULL, NULL, apikeys_internal.audited_row(to_jsonb(made)));
    RETURN made;
EXCEPTION
    WHEN integrity_constraint_violation THEN
        GET STACKED DIAGNOSTICS relation = TABLE_NAME, about = COLUMN_NAME, broken = CONSTRAINT_NAME, cause = PG_EXCEPTION_DETAIL;
        PERFORM apikeys_internal.refuse_violation(SQLSTATE, relation, about, broken, SQLERRM, cause);
END
$$;
COMMENT ON FUNCTION apikeys.create_upgrade_rule(text, text, text, text, text) IS
'Decline at once, with the reason, upgrade requests that match all other arguments that are not NULL. min_tier: '
'requests for this tier or a higher one, or for limits that have no lower cap than its; project_kind and purpose: '
'the same text, in upper or lower case; product: requests for keys that are good for it. Errors: 23503 unknown tier or product; 22023 no '
'reason, or nothing to match.';

CREATE FUNCTION apikeys_internal.grant_upgrade(request apikeys.upgrade_request) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE apikeys.key AS k SET tier = coalesce(request.tier, k.tier), limits = request.limits WHERE k.key_id = request.key_id;
END
$$;
COMMENT ON FUNCTION apikeys_internal.grant_upgrade(apikeys.upgrade_request) IS 'Give a key, which is locked, what was asked for.';

-- Asking.

CREATE FUNCTION apikeys.request_upgrade(
    key_id bigint, tier text DEFAULT NULL, motivation text DEFAULT NULL, project text DEFAULT NULL, project_kind text DEFAULT NULL,
    purpose text DEFAULT NULL, expected_requests bigint DEFAULT NULL, expected_users bigint DEFAULT NULL,
    limits apikeys.limits DEFAULT NULL)
RETURNS apikeys.upgrade_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked    apikeys.key_list := apikeys_internal.key_to_change(key_id);
    present  timestamptz := apikeys_internal.wall_clock();
    made     apikeys.upgrade_request;
    matching apikeys.upgrade_rule;
    is_less  boolean;
BEGIN
    PERFORM apikeys_internal.checked('upgrade_request.tier', tier);
    motivation := apikeys_internal.checked('upgrade_request.motivation', motivation);
    project := apikeys_internal.checked('upgrade_request.project', project);
    project_kind := apikeys_internal.checked('upgrade_request.project_kind', project_kind);
    purpose := apikeys_internal.checked('upgrade_request.purpose', purpose);
    IF (tier IS NULL) = (limits IS NULL) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.tier', 'ask for either a tier or limits', NULL, NULL,
                                        'upgrade_request_target_check');
    ELSIF expected_requests < 0 OR expected_users < 0 THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.' || f.name, 'expected requests and users must not be negative', NULL, NULL,
                                        format('upgrade_request_%s_check', f.name))
        FROM (SELECT CASE WHEN expected_requests < 0 THEN 'expected_requests' ELSE 'expected_users' END) AS f (name);
    END IF;
    PERFORM FROM apikeys.key AS k WHERE k.key_id = request_upgrade.key_id FOR NO KEY UPDATE;
    is_less := apikeys_internal.check_upgrade(key_id, tier, limits);
    IF is_less THEN
        motivation := coalesce(motivation, 'less is enough');
    ELSE
        PERFORM apikeys_internal.check_upgrade_texts(key_id, project, project_kind, purpose, expected_requests, expected_users);
    END IF;
    IF NOT apikeys_internal.has_text(motivation) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.motivation',
            'an upgrade request must have a motivation', NULL, NULL, 'upgrade_request_motivation_check');
    END IF;
    INSERT INTO apikeys.upgrade_request (
        key_id, tier, limits, motivation, project, project_kind, purpose, expected_requests, expected_users, asked_at, due_at)
    VALUES (
        asked.key_id, request_upgrade.tier, request_upgrade.limits, request_upgrade.motivation, request_upgrade.project,
        request_upgrade.project_kind, request_upgrade.purpose, request_upgrade.expected_requests, request_upgrade.expected_users,
        present, apikeys_internal.upgrade_due_after(present))
    ON CONFLICT DO NOTHING
    RETURNING * INTO made;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM apikeys.upgrade_request AS r WHERE r.key_id = request_upgrade.key_id AND r.decided_at IS NULL) THEN
            PERFORM apikeys_internal.refuse('23505', 'upgrade_request.id',
                'the id of the new upgrade request is that of another one', NULL,
                CASE WHEN apikeys_internal.acts_as_admin()
                     THEN 'The sequence apikeys.upgrade_request_id_seq is behind: set it to a number that no request has had.' END,
                'upgrade_request_pkey');
        END IF;
        PERFORM apikeys_internal.refuse('23505', 'upgrade_request.key_id',
            format('key "%s" of account "%s" has an open upgrade request already', asked.alias, asked.account), NULL,
            'Wait until it is decided, or withdraw it.', 'upgrade_request_open_key');
    END IF;
    PERFORM apikeys_internal.audit('insert', 'upgrade_request', made.id::text, k.account_id, NULL, apikeys_internal.audited_row(to_jsonb(made)))
    FROM apikeys.key AS k WHERE k.key_id = made.key_id;
    PERFORM apikeys_internal.add_upgrade_notice('upgrade_asked', made);
    IF is_less THEN
        PERFORM apikeys_internal.grant_upgrade(made);
        RETURN apikeys_internal.close_upgrade(made.id, 'approved', 'request_upgrade', NULL);
    END IF;
    matching := apikeys_internal.matching_upgrade_rule(made);
    IF matching.id IS NOT NULL THEN
        RETURN apikeys_internal.close_upgrade(made.id, 'declined', format('upgrade_rule %s', matching.id), matching.reason);
    END IF;
    RETURN apikeys.get_upgrade(made.id);
END
$$;
COMMENT ON FUNCTION apikeys.request_upgrade(bigint, text, text, text, text, text, bigint, bigint, apikeys.limits) IS
'Ask for a higher tier of a key, or for higher limits of its own if the plan allows them. A higher tier has a '
'higher rank. Higher limits lower no cap, raise or remove at least one, and a new window must leave room to use up '
'each present one. The motivation is required; project, project_kind, purpose and the expected numbers (requests a '
'month, users) help to decide, and the plan may require them or offer a choice. A request that matches a rule in upgrade_rule is '
'declined at once: see state and note of the result. A request for less (no cap higher or gone) is granted at once and needs no '
'motivation.
Errors: P0002 unknown key or tier; 22023 neither higher nor less, no motivation, or not as the plan wants it; 23505 the key has '
'an open request.';

CREATE FUNCTION apikeys_internal.lock_upgrade(id bigint, VARIADIC states text[]) RETURNS apikeys.upgrade_request
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listed apikeys.upgrade_list := apikeys.get_upgrade(id);
    locked apikeys.upgrade_request;
BEGIN
    PERFORM apikeys_internal.key_to_change(listed.key_id);
    PERFORM FROM apikeys.key AS k WHERE k.key_id = listed.key_id FOR NO KEY UPDATE;
    SELECT r.* INTO locked FROM apikeys.upgrade_request AS r WHERE r.id = listed.id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM apikeys_internal.refuse('P0002', 'upgrade_request.id', format('upgrade request %s does not exist', id));
    ELSIF locked.state <> ALL (states) THEN
        PERFORM apikeys_internal.refuse('55000', 'upgrade_request.state',
            format('upgrade request %s is in state %s', id, locked.state), NULL,
            format('It must be in state %s.', array_to_string(states, ' or ')));
    END IF;
    RETURN locked;
END
$$;
COMMENT ON FUNCTION apikeys_internal.lock_upgrade(bigint, text[]) IS
'Lock the key of an upgrade request, then the request, which must be in one of these states; returns it. Errors: '
'P0002 unknown request; 55000 it is in another state.';

CREATE FUNCTION apikeys_internal.close_upgrade(id bigint, state text, decided_by text, note text) RETURNS apikeys.upgrade_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE apikeys.upgrade_request AS r
    SET state = close_upgrade.state, decided_at = apikeys_internal.wall_clock(), decided_by = close_upgrade.decided_by, note = close_upgrade.note
    WHERE r.id = close_upgrade.id;
    RETURN apikeys.get_upgrade(id);
END
$$;
COMMENT ON FUNCTION apikeys_internal.close_upgrade(bigint, text, text, text) IS
'Close an upgrade request that is locked.';

CREATE FUNCTION apikeys.answer_upgrade(id bigint, answer text) RETURNS apikeys.upgrade_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.lock_upgrade(id, 'needs_information');
    answer := apikeys_internal.checked('upgrade_request.answer', answer);
    IF NOT apikeys_internal.has_text(answer) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.answer', 'an answer must not be empty');
    END IF;
    UPDATE apikeys.upgrade_request AS r
    SET state = 'pending', answer = answer_upgrade.answer, due_at = apikeys_internal.upgrade_due_after(apikeys_internal.wall_clock())
    WHERE r.id = answer_upgrade.id;
    RETURN apikeys.get_upgrade(id);
END
$$;
COMMENT ON FUNCTION apikeys.answer_upgrade(bigint, text) IS
'Answer the question about an upgrade request. It is pending again, and due apikeys.upgrade_days working days later. Errors: P0002 '
'unknown request; 22023 no answer; 55000 there is no question.';

CREATE FUNCTION apikeys.withdraw_upgrade(id bigint) RETURNS apikeys.upgrade_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.lock_upgrade(id, 'pending', 'needs_information');
    RETURN apikeys_internal.close_upgrade(id, 'withdrawn', apikeys_internal.acting_name(), NULL);
END
$$;
COMMENT ON FUNCTION apikeys.withdraw_upgrade(bigint) IS
'Withdraw an upgrade request. Errors: P0002 unknown request; 55000 it is closed.';

-- Deciding.

CREATE FUNCTION apikeys.ask_upgrade(id bigint, question text) RETURNS apikeys.upgrade_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.require_provider();
    PERFORM apikeys_internal.lock_upgrade(id, 'pending', 'needs_information');
    question := apikeys_internal.checked('upgrade_request.question', question);
    IF NOT apikeys_internal.has_text(question) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.question', 'a question must not be empty');
    END IF;
    UPDATE apikeys.upgrade_request AS r SET state = 'needs_information', question = ask_upgrade.question, answer = NULL
    WHERE r.id = ask_upgrade.id;
    RETURN apikeys.get_upgrade(id);
END
$$;
COMMENT ON FUNCTION apikeys.ask_upgrade(bigint, text) IS
'Ask a question about an upgrade request, which then waits for answer_upgrade. A second question replaces the first '
'and its answer; the audit log has both. Errors: P0002 unknown request; 22023 no question; 55000 it is closed.';

CREATE FUNCTION apikeys.approve_upgrade(id bigint, note text DEFAULT NULL) RETURNS apikeys.upgrade_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    request apikeys.upgrade_request := apikeys_internal.lock_upgrade(id, 'pending', 'needs_information');
BEGIN
    PERFORM apikeys_internal.require_provider();
    IF apikeys_internal.check_upgrade(request.key_id, request.tier, request.limits) THEN
        PERFORM apikeys_internal.refuse('22023', CASE WHEN request.limits IS NULL THEN 'upgrade_request.tier' ELSE 'upgrade_request.limits' END,
            'what was asked for is less than the key has now', NULL, 'Decline the request.');
    END IF;
    PERFORM apikeys_internal.grant_upgrade(request);
    RETURN apikeys_internal.close_upgrade(id, 'approved', SESSION_USER, apikeys_internal.checked('upgrade_request.note', note));
END
$$;
COMMENT ON FUNCTION apikeys.approve_upgrade(bigint, text) IS
'Grant an upgrade request. The key has the tier or the limits from its next request on; a tier replaces limits of '
'its own. Errors: P0002 unknown request; 22023 it is no upgrade any more, or the plan no longer allows it; 55000 it '
'is closed.';

CREATE FUNCTION apikeys.decline_upgrade(id bigint, note text) RETURNS apikeys.upgrade_list
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM apikeys_internal.require_provider();
    PERFORM apikeys_internal.lock_upgrade(id, 'pending', 'needs_information');
    note := apikeys_internal.checked('upgrade_request.note', note);
    IF NOT apikeys_internal.has_text(note) THEN
        PERFORM apikeys_internal.refuse('22023', 'upgrade_request.note', 'a declined upgrade request must have a note');
    END IF;
    RETURN apikeys_internal.close_upgrade(id, 'declined', SESSION_USER, note);
END
$$;
COMMENT ON FUNCTION apikeys.decline_upgrade(bigint, text) IS
'Decline an upgrade request; the note says why. Errors: P0002 unknown request; 22023 no note; 55000 it is closed.';
