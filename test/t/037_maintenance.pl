# The daily maintenance of each database: one after another in one place among the server's workers, by the writer where one runs.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

# Room for the launcher and two more. Starts and ends of workers are in the log.
my $node = engine_node('main', "max_worker_processes = 3\nmax_logical_replication_workers = 0\nlog_min_messages = debug1");
my @maintained = ('idle_1', 'idle_2', 'idle_3', 'idle_4');
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach @maintained, 'plain', 'second';
$node->safe_psql($_, 'CREATE EXTENSION apikeys') foreach @maintained;
my %oid = map { split /\|/ } split /\n/, $node->safe_psql('postgres', 'SELECT datname, oid FROM pg_database');
my $clock = 0;
my $log_start;

# Moves the clock of the whole server on by so many seconds.
sub move_clock
{
    $clock += $_[0];
    $log_start = -s $node->logfile;
    $node->safe_psql('postgres', "ALTER SYSTEM SET apikeys.debug_clock_offset = $clock");
    $node->reload;
    return;
}

sub logged
{
    return slurp_file($node->logfile, $log_start);
}

# A query: whether the partition of the moved clock's day is there.
sub has_partition
{
    return "SELECT to_regclass('apikeys.request_log_' || to_char((now() + interval '$clock s') AT TIME ZONE 'UTC', 'YYYYMMDD')) IS NOT NULL";
}

# What has become of workers since the clock was moved: 'maintenance 16390', 'writer 16390', 'end of maintenance'.
sub worker_story
{
    my $log = logged();
    my @story;
    push @story, defined $1 ? "$1 $2" : "end of $3"
      while $log =~ /starting background worker process "apikeys (\w+) for database (\d+)"|background worker "apikeys (maintenance)[^\n]*exited/g;
    return @story;
}

# Two writers run: there is no place for a third worker.
my $session = $node->background_psql('postgres');
is($session->query_safe(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'a writer runs');
engine_install($node, 'second');
my $second = $node->background_psql('second');
$second->query_safe(q{SELECT apikeys.verify('key-1')});
my $writer = writer_pid($node);
move_clock(10 * 86400);
until_true($node, has_partition(), 'writers that run see to it themselves', $_) foreach 'postgres', 'second';
$node->wait_for_log(qr/LOG:  could not start apikeys maintenance for database $oid{idle_1}: the server has no place for another background worker/, $log_start);
like(logged(), qr/HINT:  Raise max_worker_processes\./, 'and what to do about it');
is($node->safe_psql('idle_1', has_partition()), 'f', 'no place, no maintenance');

# It goes on when there is a place, and needs no other.
$second->quit;
until_true($node, qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apikeys writer'}, 'a place becomes free');
move_clock(61);
until_true($node, has_partition(), "$_ is maintained", $_) foreach @maintained;
$node->wait_for_log(qr/(background worker "apikeys maintenance"[^\n]*exited.*){6}/s, $log_start);
is(join(', ', worker_story()), join(', ', map { ("maintenance $oid{$_}", 'end of maintenance') } @maintained, 'plain', 'second'), 'one after another, each once');
unlike(logged(), qr/could not start|was put off/, 'nothing fails');
is(writer_pid($node), $writer, 'the writer that runs is alone in its database');

# What was put off is done ten minutes later, though nobody asks.
$node->safe_psql('postgres', 'ALTER SYSTEM SET apikeys.log_retention = 5');
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT * FROM apikeys.request_log; FETCH c');
my $old = q{SELECT count(*) FROM apikeys.request_log WHERE at < now() + interval '1 day'};
is($node->safe_psql('postgres', $old), '17', 'requests of ten days ago');
move_clock(86400);
$node->wait_for_log(qr/apikeys maintenance was put off: could not obtain lock on relation/, $log_start);
$reader->query_safe('COMMIT');
is($node->safe_psql('postgres', $old), '17', 'nothing is dropped under a reader');
$reader->quit;
move_clock(601);
until_true($node, "SELECT ($old) = 0", 'it is dropped when nobody reads');

# Where a writer is needed it takes the place of the worker for maintenance, and goes on with it.
$session->quit;
until_true($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apikeys writer'}, 'no writer runs');
my $keeper = $node->background_psql('second');
$keeper->query_safe('BEGIN; LOCK TABLE apikeys.request_log');
move_clock(10 * 86400);
until_true($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apikeys maintenance' AND datname = 'second'}, 'maintenance is held up');
my $caller = $node->background_psql('second');
$caller->query_until(qr/asking/, "\\echo asking\nSET apikeys.queue_timeout = '10min';\nSELECT code FROM apikeys.verify('key-2');\n");
until_true($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apikeys writer' AND datname = 'second'}, 'a request calls for a writer');
$keeper->query_safe('COMMIT');
until_true($node, has_partition(), 'the writer goes on with maintenance', 'second');
until_true($node, has_partition(), "$_ is maintained", $_) foreach @maintained;
$caller->quit;
like(join(', ', worker_story()), qr/maintenance $oid{second}, end of maintenance(, \w+ \d+)*, writer $oid{second}/, 'a database never has both at a time');
ledger_ok($node, $_, $_) foreach 'postgres', 'second';

$node->stop;
done_testing();
