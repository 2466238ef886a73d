# Units that are loaded from the tables: when the last of them was used is known, and none of them counts longer than that one.
# So a short limit is not exhausted again and again by what lies long behind in the same stored step; and none comes back early.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;
use Trace;

my $node = server('main', 'apikeys.flush_interval = 20ms');
trace_install($node);

sub code
{
    my ($alias, $cost) = (@_, 1);
    return value("SELECT (request('$alias', $cost)).code");
}

# Moves the clock to a second of the next stored step; what follows ends within it.
sub next_step
{
    my ($second) = @_;
    value("SELECT clock_go_to(date_bin('5 minutes', clock_timestamp() + make_interval(secs => ahead), '2000-01-01 00:00:00+00') + '5 minutes'
        + make_interval(secs => $second)) FROM clock");
    return;
}

sub go
{
    my ($by) = @_;
    value("SELECT clock_go('$by')");
    return;
}

# A restart in the middle of the step.
value(q{SELECT add_key('second', add_account('second', '5/2 seconds'), '1/second'), add_key('minute', add_account('minute', ''), '3/minute')});
next_step(5);
is(code('second'), 'valid', 'a second: used up');
is(code('minute', 3), 'valid', 'a minute: used up');
$node->restart;
go('30 seconds');
is(code('minute', 3), 'rate_limited', 'a minute: not free early');
is(value(q{SELECT clock_set(ahead) FROM clock; SELECT used, next_free_at IS NULL FROM apikeys.key_limits((SELECT key_id FROM apikeys.key WHERE alias = 'second'))}),
    "0|t\n0|t", 'a second: the status is that nothing is used');
go('25 seconds');
is(code('minute', 3), 'rate_limited', 'a minute: nor shortly before its end');
go('25 seconds');
is(code('second'), 'valid', 'a second: free after a restart');
is(code('minute', 3), 'valid', 'a minute: free when the last use is older');

# Neither denied requests, nor requests that cost nothing, nor completions are a last use of units.
value(q{SELECT add_key('denied', add_account('denied', ''), '1/minute'), add_key('free', add_account('free', ''), '2/minute'),
    add_key('completed', add_account('completed', ''), '1/minute')});
next_step(5);
is(code('denied'), 'valid', 'used, then denied');
is(code('free'), 'valid', 'used, then used for nothing');
my $request = value(q{SELECT (request('completed')).request_id});
go('40 seconds');
is(code('denied'), 'rate_limited', 'it is denied');
is(code('free', 0), 'valid', 'it costs nothing');
is(value("SELECT clock_set(ahead) FROM clock; SELECT apikeys.flush(); SELECT apikeys.complete('$request', 500, 1, 7); SELECT apikeys.flush()"), "t\nt\nt", 'it is completed');
$node->restart;
go('25 seconds');
is(code('denied'), 'valid', 'what is denied is no use of units');
is(code('free', 2), 'valid', 'nor is what costs nothing');
is(code('completed'), 'valid', 'nor is a completion');

# A limit that is added to a live key, or its account.
value(q{SELECT add_key('added', add_account('added', ''), '100/hour')});
next_step(5);
is(code('added', 50), 'valid', 'used before the limit is added');
go('20 seconds');
value(q{UPDATE apikeys.key SET limits = '100/hour, 2/10 seconds' WHERE alias = 'added'; UPDATE apikeys.account SET limits = '2/15 seconds' WHERE name = 'added'});
is(code('added', 2), 'valid', 'a limit that is added begins with what was used in its window');
is(code('added'), 'rate_limited', 'and holds');
value(q{UPDATE apikeys.key SET limits = '' WHERE alias = 'added'; UPDATE apikeys.account SET limits = '' WHERE name = 'added'});

# More keys than meters: each is loaded anew in each lap.
$node->append_conf('postgresql.conf', 'apikeys.meter_memory = 256kB');
$node->restart;
my $crowd = 1500;
value("SELECT count(add_key('crowd ' || n, account_id, '1/second')) FROM add_account('crowd', '900000/minute') AS account_id, generate_series(1, $crowd) AS n");
next_step(5);
foreach my $lap (1 .. 4)
{
    is(value("SELECT clock_go('3 seconds'); SELECT count(*) FILTER (WHERE v.code = 'valid') FROM generate_series(1, $crowd) AS n, request('crowd ' || n) AS v"), $crowd,
        "lap $lap: all are admitted");
}
cmp_ok(value('SELECT evictions FROM apikeys.stats()'), '>', $crowd, 'meters were evicted');
trace_ok($node, 'laps', aliases => [ map { "crowd $_" } 1 .. $crowd ], loaded => 1);

# What is stored is the time of the last use. When it is not known, units count to the end of the stored step.
is(value(q{SELECT count(*) FILTER (WHERE t.last_unit_at IS NULL), count(*) FILTER (WHERE t.last_unit_at <> (SELECT max(l.at)
    FROM apikeys.request_log AS l WHERE CASE t.subject WHEN 'k' THEN l.key_id ELSE l.account_id END = t.subject_id AND l.code = 'valid' AND l.cost > 0))
    FROM apikeys.usage_total AS t}), '0|0', 'what is stored is the time of the last use of units');
value(q{SELECT add_key('unknown', add_account('unknown', ''), '1/second')});
next_step(5);
is(code('unknown'), 'valid', 'used');
value(q{SELECT apikeys.flush(); UPDATE apikeys.usage_total SET last_unit_at = NULL});
$node->restart;
go('10 seconds');
is(code('unknown'), 'rate_limited', 'a last use that is not known is as late as it can be');
next_step(5);
is(code('unknown'), 'valid', 'and not later');

$node->stop;
done_testing();
