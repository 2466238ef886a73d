# The server is stopped at full rate, in every way, and no wait keeps it from that: pg_ctl would give up before apikeys.queue_timeout. Each client keeps a journal of the verdicts it got; what was acknowledged
# is recorded as the contract of that way of stopping says, and nothing is there twice.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $clients = 4;
my $node = engine_node('main', "fsync = on\napikeys.queue_timeout = 1h");
$node->safe_psql('postgres', 'CREATE TABLE journal (request_id uuid)');
my $round = 0;

# Starts clients that each call verify again and again, and write the id of each admitted request to their journal as soon as
# they have it.
sub clients_start
{
    my (%options) = @_;
    my $folder = PostgreSQL::Test::Utils::tempdir() . '/journal-' . ++$round;
    mkdir $folder;
    my @runs;
    foreach my $client (1 .. $clients)
    {
        my $script = "$folder/script-$client";
        my $setting = $options{synchronous} ? "SET apikeys.synchronous_usage = on;\n" : '';
        my $calls = $options{calls} // 100_000;
        # A script of many lines: psql sends one when it has written the answer to the one before.
        append_to_file($script, $setting . "SELECT request_id FROM apikeys.verify('key-$client') WHERE allowed;\n" x $calls);
        open my $journal, '>', "$folder/$client" or die;
        push @runs, IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $script ],
            '<', \undef, '>', "$folder/$client", '2>', "$folder/errors-$client");
    }
    return { folder => $folder, runs => \@runs };
}

sub clients_finish
{
    my ($load) = @_;
    IPC::Run::finish($_) foreach @{ $load->{runs} };
    return join '', map { slurp_file("$load->{folder}/$_") } 1 .. $clients;
}

# Compares the journals with the log: how many were acknowledged and not recorded, and recorded and not acknowledged.
sub compare
{
    my ($since, $acknowledged) = @_;
    my @ids = $acknowledged =~ /^([0-9a-f-]{36})$/mg;
    my $file = PostgreSQL::Test::Utils::tempdir() . "/ids-$round";
    append_to_file($file, join '', map { "$_\n" } @ids);
    $node->safe_psql('postgres', "TRUNCATE journal; COPY journal FROM '$file'");
    my $missing = $node->safe_psql('postgres', 'SELECT count(*) FROM journal WHERE request_id NOT IN (SELECT request_id FROM apikeys.request_log)');
    my $unknown = $node->safe_psql('postgres', "SELECT count(*) FROM apikeys.request_log WHERE at > '$since' AND request_id NOT IN (SELECT request_id FROM journal)");
    return (scalar @ids, $missing, $unknown);
}

# Lets clients run, stops the server, starts it again, and returns the comparison.
sub stop_under_load
{
    my ($mode, %options) = @_;
    $node->safe_psql('postgres', 'SELECT apikeys.flush()');
    my $since = $node->safe_psql('postgres', 'SELECT max(at) FROM apikeys.request_log');
    my $load = clients_start(%options);
    until_true($node, "SELECT count(*) > 500 FROM apikeys.request_log WHERE at > '$since'", "$mode: there is load");
    $node->stop($mode);
    my $acknowledged = clients_finish($load);
    $node->start;
    my @compared = compare($since, $acknowledged);
    cmp_ok($compared[0], '>', 500 - $clients, "$mode: requests were acknowledged");
    cmp_ok($compared[2], '<=', $clients, "$mode: what is recorded was acknowledged, but for the call that each client was in");
    ledger_ok($node, $mode);
    return $compared[1];
}

foreach my $n (1 .. 3)
{
    is(stop_under_load('fast'), '0', 'fast: nothing acknowledged is missing');
}

# A smart stop waits for the sessions, which end by themselves; what they left in the queue is written after that.
is(stop_under_load('smart', calls => 3000), '0', 'smart: nothing acknowledged is missing');

foreach my $n (1 .. 2)
{
    is(stop_under_load('immediate', synchronous => 1), '0', 'immediate, synchronous: nothing acknowledged is missing');
}

# Asynchronous: what was queued may be lost, but no first use.
stop_under_load('immediate');
my $since = $node->safe_psql('postgres', 'SELECT max(at) FROM apikeys.request_log');
my $first_use = $node->safe_psql('postgres', q{SELECT request_id FROM apikeys.verify('key-16')});
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', "SELECT count(*) FROM apikeys.request_log WHERE request_id = '$first_use'"), '1', 'immediate: a first use is there');
my (undef, undef, $err) = $node->psql('postgres', q{SELECT apikeys.delete_key(apikeys.find_key('caller', 'key-16'))});
like($err, qr/has been used/, 'immediate: and keeps its key');

# A stop that comes while the writer pauses between attempts: who held the table is gone with it, and all is written.
my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM apikeys.request_log');
my $log = -s $node->logfile;
my $locker = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'LOCK TABLE apikeys.request_log; SELECT pg_sleep(10000)' ],
    '<', \undef, '>', \my $locked, '2>', \my $ended);
until_true($node, 'SELECT count(*) > 0 FROM pg_locks WHERE mode = $$AccessExclusiveLock$$ AND relation = $$apikeys.request_log$$::regclass',
    'the log is locked');
$node->safe_psql('postgres', q{SELECT count(apikeys.verify('key-1')) FROM generate_series(1, 20000)});
until_logged(qr/could not write a batch/, $log, 'the pauses are seconds by now', 7);
$node->stop('fast');
IPC::Run::finish($locker);
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM apikeys.request_log') - $before, 20000, 'stopped in a pause of the writer: all is written');

$node->stop;
done_testing();
