# Resets of usage and grants of units: never more is admitted than a cap and what is granted on top, counted from the last reset on,
# whatever is merged, restarted, evicted or done at the same time; and nothing is denied that there is room for.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;
use Trace;

my $node = server('main', <<'EOF');
max_connections = 40
apikeys.flush_interval = 20ms
EOF
trace_install($node);

# What the oracle of Trace.pm knows, with resets and grants. A reset leaves the units that were admitted after as many as it counts
# from. Which of them a request has met, its time tells: adjustments and requests are either a second apart, or may be judged
# by what is better for the request.
value(<<'EOF');
CREATE VIEW judged AS SELECT r.limit_window, r.window_length, r.cap, t.* FROM rule AS r JOIN trace AS t USING (subject, subject_id);
CREATE TABLE seen AS SELECT * FROM judged;
CREATE FUNCTION adjusted(name text, longer interval, met interval, OUT subject "char", OUT subject_id bigint, OUT request_id uuid, OUT cost int,
    OUT admitted boolean, OUT limited boolean, OUT used bigint, OUT cap bigint) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    w interval := (SELECT s.window_length FROM seen AS s WHERE s.limit_window = name LIMIT 1);
BEGIN
    RETURN QUERY EXECUTE format($q$
        WITH t AS (
            SELECT subject, subject_id, t.at, t.request_id, t.cost, t.admitted, t.limited, t.cap,
                   coalesce(sum(t.cost) FILTER (WHERE t.admitted) OVER (PARTITION BY subject, subject_id ORDER BY t.at RANGE BETWEEN %s PRECEDING AND CURRENT ROW), 0) AS inside,
                   coalesce(sum(t.cost) FILTER (WHERE t.admitted) OVER (PARTITION BY subject, subject_id ORDER BY t.at, t.request_id), 0) AS so_far
            FROM seen AS t WHERE t.limit_window = $1)
        SELECT t.subject, t.subject_id, t.request_id, t.cost, t.admitted, t.limited, least(t.inside, t.so_far - coalesce(
                   (SELECT max(a.counts_from) FROM apikeys.adjustment AS a
                    WHERE a.subject = t.subject AND a.subject_id = t.subject_id AND a.limit_window = $1 AND a.at <= t.at + $2
                      AND a.counts_from <= t.so_far - CASE WHEN t.admitted THEN t.cost ELSE 0 END), 0)),
               t.cap + coalesce((SELECT sum(a.units)::bigint FROM apikeys.adjustment AS a
                    WHERE a.subject = t.subject AND a.subject_id = t.subject_id AND a.limit_window = $1 AND a.at <= t.at + $2 AND a.until > t.at), 0)
        FROM t $q$, coalesce(quote_literal(w + longer) || '::interval', 'UNBOUNDED')) USING name, met;
END $$;
CREATE FUNCTION over_adjusted(met interval) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s %s: %s units in a %s, not %s', v.subject, v.subject_id, v.used, w.limit_window, v.cap)
    FROM (SELECT DISTINCT limit_window FROM seen) AS w, adjusted(w.limit_window, '0', met) AS v WHERE v.admitted AND v.used > v.cap $$;
CREATE FUNCTION unjust_adjusted(loaded boolean) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('request %s', v.request_id)
    FROM (SELECT DISTINCT limit_window, window_length / 128 + CASE WHEN loaded THEN '4 us' ELSE '2 us' END::interval AS late,
                 CASE WHEN NOT loaded THEN '0' WHEN window_length > '89 days' THEN '1 day' WHEN window_length > '47 hours' THEN '1 hour' ELSE '5 minutes' END::interval AS step
          FROM seen) AS w, adjusted(w.limit_window, w.late + w.step, '-100 ms') AS v
         JOIN adjusted(w.limit_window, w.late, '-100 ms') AS recent USING (subject, subject_id, request_id)
    WHERE v.limited GROUP BY v.request_id
    HAVING NOT bool_or(v.used + greatest(v.cost, 1) > v.cap AND (recent.used > 0 OR greatest(v.cost, 1) > v.cap)) $$;

-- A reset or a grant of one or all windows of a key or its account, a second away from all requests unless in a crowd.
-- Resets and grants come by turns.
CREATE SEQUENCE turn;
CREATE FUNCTION adjust(aliases text[], crowd boolean = false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    chosen record;
    alias_chosen text := aliases[1 + floor(random() * cardinality(aliases))::int];
    reset boolean := nextval('turn') % 2 = 0;
BEGIN
    SELECT k.key_id, a.name AS account, i.*, random() < 0.3 AS of_account INTO chosen
    FROM apikeys.key AS k JOIN apikeys.account AS a USING (account_id), apikeys.limits_items(k.limits) AS i
    WHERE k.alias = alias_chosen ORDER BY random() LIMIT 1;
    IF chosen.of_account THEN
        SELECT chosen.key_id, chosen.account, i.*, true AS of_account INTO chosen FROM apikeys.account AS a, apikeys.limits_items(a.limits) AS i
        WHERE a.name = chosen.account ORDER BY random() LIMIT 1;
    END IF;
    IF NOT crowd THEN
        PERFORM clock_go('1 second');
    END IF;
    PERFORM clock_set(ahead) FROM clock;
    IF reset AND chosen.of_account THEN
        PERFORM apikeys.reset_account_usage(chosen.account, chosen.limit_window);
    ELSIF reset THEN
        PERFORM apikeys.reset_usage(chosen.key_id, CASE WHEN random() < 0.5 THEN chosen.limit_window END);
    ELSIF chosen.of_account THEN
        PERFORM apikeys.grant_account_units(chosen.account, chosen.limit_window, ceil(random() * chosen.cap)::bigint,
            apikeys_internal.wall_clock() + random() * coalesce(chosen.window_length, '1 day') + '1 ms');
    ELSE
        PERFORM apikeys.grant_units(chosen.key_id, chosen.limit_window, ceil(random() * chosen.cap)::bigint,
            apikeys_internal.wall_clock() + random() * coalesce(chosen.window_length, '1 day') + '1 ms');
    END IF;
    IF NOT crowd THEN
        PERFORM clock_go('1 second');
    END IF;
END $$;
EOF

sub adjusted_ok
{
    my ($name, %options) = @_;
    is(value('SELECT * FROM apikeys.check_ledger()'), '', "$name: the ledger holds");
    value('TRUNCATE seen; INSERT INTO seen SELECT * FROM judged; ANALYZE seen; ANALYZE apikeys.adjustment');
    my $met = $options{crowd} ? '1 second' : '100 ms';
    is(value("SELECT * FROM over_adjusted('$met') LIMIT 5"), '', "$name: never more than the cap and what is granted, from the last reset on");
    is(value(sprintf 'SELECT * FROM unjust_adjusted(%s) LIMIT 5', $options{loaded} ? 'true' : 'false'), '', "$name: nothing was denied without need")
        unless $options{crowd};
    is(value(q{SELECT count(*) FROM journal WHERE code = 'overloaded'}), '0', "$name: nothing was overloaded");
}

# Requests and adjustments in turn, at all speeds.
value(q{
    SELECT add_key('rate', a, '6/10 seconds, 20/minute, 60/10 minutes'), add_key('hour', a, '25/hour, 90/day') FROM add_account('fast', '25/minute, 100/2 hours') AS a;
    SELECT add_key('day', a, '30/day, 40/2 days'), add_key('month', a, '100/week, 200/month, 500/total') FROM add_account('slow', '60/3 hours, 90/day, 5000/total') AS a});
sub wander_adjusting
{
    my ($rounds, $calls) = @_;
    my $aliases = '{rate,hour,day,month}';
    foreach my $pause ('50 ms', '5 seconds', '3 minutes', '2 hours', '1 day')
    {
        value(join ';', ("SELECT wander('$aliases', $calls, 4, '$pause')", "SELECT adjust('$aliases')") x $rounds);
    }
}
wander_adjusting(10, 15);
adjusted_ok('live');
$node->restart;
value(q{SELECT clock_go('1 second')});
wander_adjusting(6, 15);
adjusted_ok('after a restart', loaded => 1);
$node->append_conf('postgresql.conf', 'apikeys.meter_memory = 256kB');
$node->restart;
my $meters = value('SELECT meters_size FROM apikeys.stats()');
value(qq{SELECT add_key('crowd ' || n, add_account('crowd ' || n, '10/hour'), '1/day') FROM generate_series(1, $meters) AS n});
foreach (1 .. 3)
{
    wander_adjusting(1, 15);
    value(qq{SELECT clock_go('1 second'); SELECT count((request('crowd ' || n)).code) FROM generate_series(1, $meters) AS n});
}
cmp_ok(value('SELECT evictions FROM apikeys.stats()'), '>', $meters, 'meters were evicted');
adjusted_ok('with evictions', loaded => 1);
cmp_ok(value(qq{SELECT count(*) FROM apikeys.adjustment WHERE until IS $_}), '>=', 47, "there were many, until $_") foreach ('NULL', 'NOT NULL');
cmp_ok(value(q{SELECT count(*) FROM journal WHERE alias !~ '^crowd' AND code = 'valid'}), '>', 500, 'many requests were admitted');
cmp_ok(value(q{SELECT count(*) FROM journal WHERE alias !~ '^crowd' AND code <> 'valid'}), '>', 300, 'many were denied');

# A reset in the middle of stored steps: what was used before it in the same step stays away, and what was used after it stays,
# when the step is merged into hours, then days, and each time the server comes back.
sub go_to
{
    my ($at) = @_;
    value('SELECT apikeys.flush()');
    value("SELECT clock_go_to($at)");
    $node->append_conf('postgresql.conf', "apikeys.debug_clock_offset = '" . value('SELECT ahead FROM clock') . "'");
    $node->restart;
    value('SELECT apikeys.maintain()');
    $node->restart;
}
sub used_of
{
    my ($alias) = @_;
    return value(qq{SELECT clock_set(ahead) FROM clock; SELECT string_agg(limit_window || ' ' || used, ', ') FROM apikeys.key_limits((SELECT key_id FROM apikeys.key WHERE alias = '$alias'))});
}
my $used = "'" . value(q{SELECT date_trunc('day', clock_timestamp() + make_interval(secs => ahead) + '2 days', 'UTC') + '20:31' FROM clock}) . "'::timestamptz";
value(qq{SELECT add_key('steps', add_account('steps', ''), '10/3 days, 20/100 days, 30/total'); SELECT clock_go_to($used);
    SELECT request('steps', 4); SELECT clock_go('10 minutes'); SELECT request('steps', 2);
    SELECT limit_window, units FROM apikeys.reset_usage((SELECT key_id FROM apikeys.key WHERE alias = 'steps'), '3 days');
    SELECT limit_window, units FROM apikeys.reset_usage((SELECT key_id FROM apikeys.key WHERE alias = 'steps'), '100 days');
    SELECT limit_window, units FROM apikeys.reset_usage((SELECT key_id FROM apikeys.key WHERE alias = 'steps'), 'total');
    SELECT request('steps', 3); SELECT clock_go('10 minutes'); SELECT request('steps', 1)});
my $steps = q{SELECT count(*) FROM apikeys.usage_bucket WHERE subject = 'k' AND subject_id = (SELECT key_id FROM apikeys.key WHERE alias = 'steps')};
is(used_of('steps'), '3 days 4, 100 days 4, total 4', 'steps of minutes: what was used since');
is(value("SELECT apikeys.flush(); $steps"), "t\n3", 'three of them');
$node->restart;
is(used_of('steps'), '3 days 4, 100 days 4, total 4', 'the same after a restart');
go_to("$used + '51 hours'");
is(value($steps), '1', 'merged into one of an hour');
is(used_of('steps'), '3 days 4, 100 days 4, total 4', 'a step of an hour: what was used since');
is(value(q{SELECT (request('steps', 7)).code}), 'rate_limited', 'no more than the cap is admitted');
is(value(q{SELECT (request('steps', 6)).code}), 'valid', 'and no less');
value("SELECT clock_go_to($used + '3 days 12 minutes')");
is(used_of('steps'), '3 days 10, 100 days 10, total 10', 'a window later, nothing that was used since is back too early');
value("SELECT clock_go_to($used + '3 days 2 hours')");
is(used_of('steps'), '3 days 6, 100 days 10, total 10', 'but with the end of its step');
go_to("$used + '95 days'");
is(used_of('steps'), '3 days 0, 100 days 10, total 10', 'steps of a day: what was used since');
is(value(q{SELECT (request('steps', 11)).code}), 'rate_limited', 'no more than the cap is admitted then');
value("SELECT clock_go_to($used + '100 days')");
is(used_of('steps'), '3 days 0, 100 days 10, total 10', 'a long window later, nothing is back too early');
adjusted_ok('after merging', loaded => 1);

# What is shown where there is no engine is the same, and a reset made there counts, too.
value(q{SELECT apikeys.grant_units(key_id, 'total', 9, '2999-01-01') FROM apikeys.key WHERE alias = 'steps'});
my $limits = q{SELECT clock_set(ahead) FROM clock; SELECT * FROM apikeys.key_limits((SELECT key_id FROM apikeys.key WHERE alias = 'steps'))};
my $shown = value($limits);
like($shown, qr/^key\|total\|39\|10\|29\|$/m, 'the cap is shown with what is granted');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
is(value($limits), $shown, 'not preloaded: the limits stand as they did');
value(q{SELECT apikeys.reset_usage(key_id, 'total') FROM apikeys.key WHERE alias = 'steps'});
like(value($limits), qr/^key\|total\|39\|0\|39\|$/m, 'not preloaded: a reset');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'apikeys'\napikeys.meter_memory = 64MB");
$node->restart;
like(value($limits), qr/^key\|total\|39\|0\|39\|$/m, 'preloaded again: it counts');

# After a crash what a reset counts from is there, though usage is committed asynchronously and the reset is not.
value(q{SELECT add_key('crash', add_account('crash', '9/hour'), '5/day, 100/total'); SELECT request('crash', 3), request('crash', 2);
    SELECT clock_set(ahead) FROM clock; SELECT apikeys.reset_usage((SELECT key_id FROM apikeys.key WHERE alias = 'crash'))});
$node->stop('immediate');
$node->start;
is(used_of('crash'), 'hour 5, day 0, total 0', 'after a crash: a reset');
is(value(q{SELECT count(*) FROM apikeys.adjustment AS a LEFT JOIN apikeys.usage_total AS t USING (subject, subject_id) WHERE a.counts_from > coalesce(t.units, 0)}),
    '0', 'no reset counts from more than was used');

# Sessions at once: nobody sees an adjustment before it commits, its own session included, and everybody the next moment.
value(q{SELECT add_key('open', add_account('open', ''), '5/hour'); SELECT request('open', 5)});
my $admin = $node->background_psql('postgres');
$admin->query_safe(q{BEGIN; SELECT clock_set(ahead) FROM clock; SELECT apikeys.reset_usage((SELECT key_id FROM apikeys.key WHERE alias = 'open'));
    SELECT apikeys.grant_units((SELECT key_id FROM apikeys.key WHERE alias = 'open'), 'hour', 2, '2999-01-01')});
my $ask = q{SELECT code || ' ' || limit_cap FROM request('open')};
is(value($ask), 'rate_limited 5', 'open: nothing of it for others');
is($admin->query_safe(q{SELECT code || ' ' || limit_cap FROM apikeys.verify('open')}), 'rate_limited 5', 'open: nor for itself');
$admin->query_safe('COMMIT');
is(value(q{SELECT code || ' ' || limit_cap || ' ' || remaining FROM request('open', 7)}), 'valid 7 0', 'committed: all of it');
$admin->query_safe(q{BEGIN; SELECT apikeys.reset_usage((SELECT key_id FROM apikeys.key WHERE alias = 'open')); ROLLBACK});
is(value($ask), 'rate_limited 7', 'rolled back: nothing');
$admin->quit;

# 16 clients: exactly the cap, and after a reset or a grant exactly as much as that gives.
value(q{SELECT add_key('sum', add_account('sum', ''), '100/total')});
my $admitted = q{SELECT sum(l.cost) FROM journal AS j JOIN apikeys.request_log AS l USING (request_id) WHERE j.code = 'valid' AND j.alias = 'sum'};
foreach my $case ([ 'no adjustment', 'SELECT 1', 100 ], [ 'a reset', q{SELECT apikeys.reset_usage(key_id, 'total') FROM apikeys.key WHERE alias = 'sum'}, 200 ],
    [ 'a grant', q{SELECT apikeys.grant_units(key_id, 'total', 50, '2999-01-01') FROM apikeys.key WHERE alias = 'sum'}, 250 ],
    [ 'both', q{SELECT apikeys.reset_usage(key_id) FROM apikeys.key WHERE alias = 'sum'; SELECT apikeys.grant_units(key_id, 'total', 20, '2999-01-01') FROM apikeys.key WHERE alias = 'sum'}, 420 ])
{
    my ($what, $statement, $expected) = @$case;
    value("SELECT clock_set(ahead) FROM clock; $statement");
    sessions($node, 16, 20, q{SELECT request('sum')});
    is(value("SELECT apikeys.flush(); $admitted"), "t\n$expected", "16 clients: after $what exactly as many units as there are");
}

# 16 clients that use the keys. Two of them adjust the keys before each of their requests, and move the clock by two seconds, which
# nobody does between another's reading the clock and being answered.
value(q{SELECT clock_go('1 second'); SELECT add_key('busy ' || n, a, CASE n % 2 WHEN 0 THEN '40/minute, 200/hour' ELSE '30/10 seconds, 300/hour, 900/total' END::apikeys.limits)
    FROM add_account('busy', '100/minute, 900/hour') AS a, generate_series(1, 4) AS n});
my $adjustments = 'SELECT count(*) FROM apikeys.adjustment';
my $before = value($adjustments);
sessions($node, 16, 150, q{\set n random(1, 4)
\set cost random(0, 3)
\if :client_id < 2
SELECT adjust('{busy 1,busy 2,busy 3,busy 4}', true);
BEGIN;
SELECT pg_advisory_xact_lock(1);
SELECT clock_go('2 seconds');
COMMIT;
\endif
BEGIN;
SELECT pg_advisory_xact_lock_shared(1);
SELECT request('busy ' || :n, :cost);
COMMIT});
value(q{SELECT clock_go('1 second')});
cmp_ok(value($adjustments) - $before, '>=', 300, 'the keys were adjusted all the time');
cmp_ok(value(qq{SELECT count(*) FROM journal WHERE alias ~ '^busy' AND code $_}), '>', 100, "many requests were decided $_") foreach (q{= 'valid'}, q{<> 'valid'});
adjusted_ok('all at once', crowd => 1);
$node->restart;
value(q{SELECT clock_go('1 second'); SELECT wander('{busy 1,busy 2,busy 3,busy 4}', 100, 3, '5 seconds')});
adjusted_ok('all at once, and after a restart', crowd => 1);

# A denied request is told when it would be admitted, though grants end before that. The key alone denies: with its grant it has room in half an
# hour. But the grant ends in 20 minutes, so it has room in an hour. By then the account's grant has ended, too: it has room in 2 hours.
value(q{SELECT add_key('until', add_account('until', '1/2 hours'), '1/hour'); SELECT (request('until')).code; SELECT clock_go('30 minutes');
    SELECT clock_set(ahead) FROM clock; SELECT apikeys.grant_account_units('until', '2 hours', 5, apikeys_internal.wall_clock() + '45 minutes');
    SELECT apikeys.grant_units(key_id, 'hour', 1, apikeys_internal.wall_clock() + '20 minutes') FROM apikeys.key WHERE alias = 'until'});
is(value(q{SELECT (request('until')).code}), 'valid', 'ending grants: one more unit');
my ($denied, $retry) = split /\|/, value(q{SELECT code || ' ' || limit_window, retry_after_s FROM request('until')});
is($denied, 'rate_limited hour', 'ending grants: the key has no more');
is(value("SELECT $retry BETWEEN 115 * 60 AND 121 * 60"), 't', "ending grants: the account has some in 2 hours ($retry)");
value("SELECT clock_go(interval '1 second' * $retry - '5 minutes')");
is(value(q{SELECT code || ' ' || limit_window FROM request('until')}), 'rate_limited 2 hours', 'ending grants: not before');
value(q{SELECT clock_go('5 minutes')});
is(value(q{SELECT (request('until')).code}), 'valid', 'ending grants: but then');

$node->stop;
done_testing();
