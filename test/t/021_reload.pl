# Meters that come back from the tables: after a stop, a crash, an eviction, for a new window. Never too few units; units come
# back late by the length of a stored step at most, and not at all if the last use is older than the window.
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
max_connections = 30
restart_after_crash = on
apikeys.flush_interval = 20ms
EOF
trace_install($node);

# Requests at all the speeds that these limits are made for, by a clock that jumps, and a count of all units of one key.
my @aliases = qw(burst rate day month total);
value(q{
    SELECT add_key('burst', a, '3/second, 20/minute, 90/10 minutes'), add_key('rate', a, '2/7 seconds, 50/hour')
    FROM add_account('fast', '25/minute, 100/10 minutes') AS a;
    SELECT add_key('day', a, '30/day, 40/2 days'), add_key('month', a, '100/week, 200/month, 300/100 days'), add_key('total', add_account('total', ''), '40000/total')
    FROM add_account('slow', '60/3 hours, 90/day') AS a});

sub wander
{
    my ($calls) = @_;
    my $array = join ',', @aliases;
    return value(join ';', map { "SELECT wander('{$array}', $calls, 4, '$_')" } '50 ms', '5 seconds', '3 minutes', '2 hours', '3 days');
}

# The total is exact, whatever happened: what is left is what the log does not have.
sub total_ok
{
    my ($name) = @_;
    my $remaining = value(q{SELECT (request('total', 0)).remaining});
    my $units = value(q{SELECT * FROM apikeys.check_ledger(); SELECT sum(cost) FROM apikeys.request_log JOIN apikeys.key USING (key_id)
        WHERE alias = 'total' AND code = 'valid'});
    is($remaining, 40000 - $units, "$name: the total is exact");
}

sub wander_ok
{
    my ($name, %options) = @_;
    wander(150);
    total_ok($name);
    trace_ok($node, $name, aliases => \@aliases, %options);
}

wander_ok('at first');

$node->restart;
value(q{SELECT clock_go('1 second')});
wander_ok('after a restart', loaded => 1);

# What is used up comes back when the last use is older than the window, though the load is in the middle of the stored step.
value(q{SELECT add_key('short', add_account('short', ''), '3/second');
    SELECT clock_go_to(date_bin('5 minutes', clock_timestamp() + make_interval(secs => ahead), '2000-01-01 00:00:00+00') + '6 minutes') FROM clock});
is(value(q{SELECT (request('short', 3)).code}), 'valid', 'a short window is used up');
$node->restart;
is(value(q{SELECT clock_go('1 minute'); SELECT (request('short')).code}) =~ s/^\n//r, 'valid', 'after a restart it is free');

# All that was acknowledged is there after a crash, as it was acknowledged with that promise.
value(q{ALTER SYSTEM SET apikeys.synchronous_usage = on; SELECT pg_reload_conf()});
ok($node->poll_query_until('postgres', 'SHOW apikeys.synchronous_usage', 'on'), 'usage is synchronous');
wander(30);
$node->stop('immediate');
$node->start;
value(q{SELECT clock_go('1 second')});
wander_ok('after a crash', loaded => 1);

# A killed backend has all others restarted, by the same postmaster: engine time goes on.
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $victim->query_safe('SELECT pg_backend_pid()');
wander(30);
my $log = -s $node->logfile;
kill 'KILL', $pid;
$node->wait_for_log(qr/database system is ready to accept connections/, $log);
ok($node->poll_query_until('postgres', 'SELECT true'), 'the server is back');
eval { $victim->quit };
value(q{SELECT clock_go('1 second')});
wander_ok('after a killed backend', loaded => 1);

# Asynchronously, a crash may lose what is queued, from log and usage alike; what is there agrees.
value(q{ALTER SYSTEM RESET apikeys.synchronous_usage; SELECT pg_reload_conf()});
ok($node->poll_query_until('postgres', 'SHOW apikeys.synchronous_usage', 'off'), 'usage is not synchronous');
wander(30);
$node->stop('immediate');
$node->start;
value(q{SELECT clock_go('1 second')});
wander_ok('after a crash with events queued', loaded => 1, lost => 1);

# Windows that come and go, and more than a meter has room for; the day's limit stays.
value(q{SELECT add_key('windows', add_account('windows', '20/hour'), '9/hour')});
for my $round (1 .. 12)
{
    value(qq{UPDATE apikeys.key SET limits = format('9/hour, 50/%s minutes, 500/%s hours', $round + 60, $round + 2)::apikeys.limits WHERE alias = 'windows';
        SELECT wander('{windows}', 40, 3, '6 minutes')});
}
value(q{UPDATE apikeys.key SET limits = '9/hour' WHERE alias = 'windows'});
trace_ok($node, 'windows', aliases => [ @aliases, 'windows' ], loaded => 1, lost => 1);

# Stored steps get longer with age: their units come back with the end of the step, not before.
sub merged
{
    my ($go_to) = @_;
    value("SELECT clock_go_to($go_to)");
    $node->append_conf('postgresql.conf', "apikeys.debug_clock_offset = '" . value('SELECT ahead FROM clock') . "'");
    $node->restart;
    my $steps = value('SELECT count(*) FROM apikeys.usage_bucket');
    is(value('SELECT apikeys.maintain()'), 't', 'stored steps are merged');
    cmp_ok(value('SELECT count(*) FROM apikeys.usage_bucket'), '<', $steps, 'there are fewer');
}
sub code_at
{
    my ($alias, $at) = @_;
    return value("SELECT clock_go_to($at); SELECT (request('$alias')).code") =~ s/^\n//r;
}
my $used = "'" . value(q{SELECT date_trunc('day', clock_timestamp() + make_interval(secs => ahead) + '2 days', 'UTC') + '20:50' FROM clock}) . "'::timestamptz";
value(qq{SELECT add_key('hours', a, '10/3 days'), add_key('days', a, '10/100 days') FROM add_account('steps', '') AS a;
    SELECT clock_go_to($used); SELECT request('hours', 10), request('days', 10)});
merged("$used + '51 hours'");
is(code_at('hours', "$used + '3 days' - interval '1 minute'"), 'rate_limited', 'a unit of a merged hour is not back early');
is(code_at('hours', "$used + '3 days 10 minutes'::interval + '3 days'::interval / 128 + '1 minute'"), 'valid', 'and not later than its hour');
merged("$used + '93 days'");
is(code_at('days', "$used + '100 days' - interval '1 minute'"), 'rate_limited', 'a unit of a merged day is not back early');
is(code_at('days', "$used + '100 days 190 minutes'::interval + '100 days'::interval / 128 + '1 minute'"), 'valid', 'and not later than its day');
wander_ok('after merging', loaded => 1, lost => 1);

# Far more keys than meters.
$node->append_conf('postgresql.conf', 'apikeys.meter_memory = 256kB');
$node->restart;
my $crowd = 1000;
value(qq{SELECT clock_go('1 second');
    SELECT count(add_key('crowd ' || n, CASE WHEN n % 10 = 0 THEN add_account('crowd ' || n, '12/hour, 30/day') ELSE currval('apikeys.account_account_id_seq') END,
        CASE n % 3 WHEN 0 THEN '2/minute, 5/hour' WHEN 1 THEN '10/2 hours, 15/day, 20/week, 30/month, 40/2 days' ELSE '6/total' END::apikeys.limits))
    FROM generate_series(10, $crowd + 9) AS n});
value(qq{SELECT wander(array_agg('crowd ' || n), 2000, 3, '20 seconds') FROM generate_series(10, $crowd + 9) AS n;
    SELECT wander(array_agg('crowd ' || n), 1000, 3, '1 second') FROM generate_series(10, 200) AS n});
my $all = [ map { "crowd $_" } 10 .. $crowd + 9 ];
trace_ok($node, 'evictions', aliases => $all, loaded => 1, lost => 1);
cmp_ok(value('SELECT evictions FROM apikeys.stats()'), '>', 1000, 'meters were evicted');

# And by many sessions at once.
value(q{SELECT clock_go('1 second', 20)});
sessions($node, 16, 100, qq{\\set n random(10, $crowd + 9)\n\\set cost random(0, 3)\nSELECT request('crowd ' || :n, :cost)});
value(q{SELECT clock_go('1 second')});
trace_ok($node, 'evictions by many sessions', aliases => $all, loaded => 1, lost => 1);

is(value(q{SELECT count(*) FROM (SELECT alias FROM journal WHERE alias !~ '^(crowd|total)' GROUP BY 1
    HAVING count(*) FILTER (WHERE code = 'valid') > 30 AND count(*) FILTER (WHERE code IN ('rate_limited', 'quota_exceeded')) > 30) AS k}),
    5, 'of each key, many requests were admitted and many denied');

$node->stop;
done_testing();
