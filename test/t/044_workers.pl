# The server has no place for the launcher, or for a writer: the log says so at the start, and then less and less often; stats()
# says so as long as it lasts. And how far engine time is from the wall clock.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main');
my $launcher = q{SELECT launcher_pid IS NOT NULL, launcher_state, launcher_error FROM apikeys.stats()};
is(value($launcher), 't|running|', 'the launcher runs');
is(value(q{SELECT launcher_pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = 'apikeys launcher') FROM apikeys.stats()}), 't', 'this one');
ledger_ok($node, 'before');
unlike(slurp_file($node->logfile), qr/max_worker_processes/, 'nothing is said without need');

# Restarts with so many workers; returns the offset in the log.
sub restart_with
{
    my ($workers) = @_;
    $node->stop;
    my $from = -s $node->logfile;
    $node->append_conf('postgresql.conf', "max_worker_processes = $workers\napikeys.queue_timeout = 1s");
    $node->start;
    return $from;
}
my $too_few = qr/WARNING:  apikeys has too few worker processes: max_worker_processes is \d, and 3 are needed at least/;

# The only place is that of the server's own launcher, for logical replication.
my $from = restart_with(1);
like(slurp_file($node->logfile, $from), $too_few, 'no place for the launcher: the log says so');
is(value(q{SELECT code FROM apikeys.verify('key-1')}), 'overloaded', 'no place for the launcher: requests are overloaded');
is(value($launcher), 'f|none|the launcher has not started: the server may have no place for it (max_worker_processes)', 'no place for the launcher: stats says so');

# One place more: the launcher has it, and the writer none.
$from = restart_with(2);
like(slurp_file($node->logfile, $from), $too_few, 'no place for a writer: the log says so');
my $session = $node->background_psql('postgres');
is($session->query_safe(q{SELECT code FROM apikeys.verify('key-1')}), 'overloaded', 'no place for a writer: requests are overloaded');
like(value($launcher), qr/^t\|failing\|could not start apikeys writer for database \d+: the server has no place for another background worker$/, 'no place for a writer: stats says so');
my $said = qr/could not start apikeys writer for database/;
until_logged($said, $from, 'no place for a writer: the log says so', 2);

# A message for the first attempt, and for the second, the fourth, the eighth: fewer messages than attempts.
value('SELECT pg_sleep(8)');
cmp_ok(times_logged($said, $from), '<=', 5, 'no place for a writer: the log does not say so again and again');
$session->quit;

$from = restart_with(8);
is(verdict_code($node, 'key-1'), 'valid', 'a place is there: requests go on');
is(value($launcher), 't|running|', 'a place is there: the launcher runs');
unlike(slurp_file($node->logfile, $from), $too_few, 'a place is there: nothing is said');
ledger_ok($node, 'after');

# Nobody has set the clock of the machine: engine time is that of the wall clock.
is(value(q{SELECT clock_ahead BETWEEN '-1 minute' AND '1 minute' FROM apikeys.stats()}), 't', 'engine time is near the wall clock');

$node->stop;
done_testing();
