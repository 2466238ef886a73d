# Who asks for the status of limits changes nothing that requests are decided by, whatever windows are asked for and whatever the
# asking session's clock says.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;
use Trace;

my $node = server('main');
trace_install($node);

sub code
{
    my ($alias, $cost) = (@_, 1);
    return value("SELECT (request('$alias', $cost)).code");
}

# What a session sees whose clock is so many seconds ahead of the others'.
sub asked
{
    my ($alias, $limits, $ahead) = (@_, 0);
    return value("SELECT clock_set(ahead + $ahead) FROM clock; SELECT string_agg(concat(s.used, '/', s.cap, ' ', s.limit_window), ', ' ORDER BY s.ordinality)
        FROM apikeys.key AS k, apikeys_internal.limit_status('k', k.key_id, '$limits', '') WITH ORDINALITY AS s WHERE k.alias = '$alias'");
}
my $others = '1/7 seconds, 1/11 seconds, 1/13 seconds, 1/17 seconds, 1/19 seconds, 1/23 seconds, 1/29 seconds, 1/31 seconds';

# Units that were used half a minute apart are told apart by the ring, not by the tables.
value(q{SELECT add_key('live', add_account('live', ''), '10/minute');
    SELECT clock_go_to(date_bin('5 minutes', clock_timestamp(), '2000-01-01 00:00:00+00') + '10 minutes')});
is(code('live', 5), 'valid', 'used');
value(q{SELECT clock_go('40 seconds')});
is(code('live', 5), 'valid', 'used up');
value(q{SELECT clock_go('25 seconds')});
my $rings = value('SELECT apikeys.flush(); SELECT rings_used FROM apikeys.stats()') =~ s/^t\n//r;
like(asked('live', $others), qr{^\d+/1 7 seconds, .*, \d+/1 31 seconds$}, 'somebody asks for eight other windows');
is(value('SELECT rings_used FROM apikeys.stats()'), $rings, 'the meter has the rings that it had');
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE apikeys.request_log IN SHARE MODE');
is(code('live', 5), 'valid', 'what half of the units were is free');
is(code('live'), 'rate_limited', 'and no more');

# What is asked for and has no ring is answered from the tables, and with what is not written yet; the others from the meter.
is(asked('live', '10/minute, 50/day, 100/total'), '10/10 minute, 15/50 day, 15/100 total', 'requests on their way are in the answer');
is(value('SELECT count(*) FROM apikeys.request_log'), '2', 'and still on their way');
$locker->query_safe('COMMIT');
$locker->quit;

# A clock that is ahead. (Before the reader, all is in one minute.)
value(q{SELECT add_key('ahead', add_account('ahead', '100/hour'), '1/minute'), add_key('granted', add_account('granted', ''), '1/hour')});
is(code('ahead'), 'valid', 'used');
is(code('granted'), 'valid', 'used');
value(q{SELECT clock_set(ahead) FROM clock; SELECT apikeys.grant_units(key_id, 'hour', 2, apikeys_internal.wall_clock() + '30 minutes') FROM apikeys.key WHERE alias = 'granted'});
is(code('granted'), 'valid', 'and what is granted');
is(asked('ahead', '1/minute, 1/day', 3600), '0/1 minute, 1/1 day', 'an hour later nothing is used of a minute');
is(asked('granted', '1/hour', 2400), '2/1 hour', 'and the grant has ended');
is(value(q{SELECT clock_set(ahead + 3600) FROM clock; SELECT passed FROM apikeys.explain_key((SELECT key_id FROM apikeys.key WHERE alias = 'ahead')) WHERE check_name = 'key limit: minute'}), 't',
    'explain_key tells so, too');
is(code('ahead'), 'rate_limited', 'for requests it is used');
is(code('granted'), 'valid', 'and the grant holds');
is(asked('granted', '1/hour'), '3/3 hour', 'the status has what is granted');

# A reset shows at once, before any request.
value(q{SELECT clock_set(ahead) FROM clock; SELECT apikeys.reset_usage(key_id, 'hour') FROM apikeys.key WHERE alias = 'granted'});
is(asked('granted', '1/hour, 5/total'), '0/3 hour, 3/5 total', 'a reset shows at once');
is(code('granted', 3), 'valid', 'and holds');
value('SELECT apikeys.flush()');
is(value('SELECT * FROM apikeys.check_ledger()'), '', 'the ledger holds');

# Asking does not load a meter, nor wait for one.
$node->restart;
is(asked('ahead', '1/day'), '1/1 day', 'from the tables');
is(value('SELECT meters_used FROM apikeys.stats()'), '0', 'no meter was made');

$node->stop;
done_testing();
