# Calls that are cancelled, timed out, terminated or left by their client in each kind of wait: no room, pin, lock or load is
# left behind.
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

my $many = 300;
my $victims = 8;
my $node = engine_node('main', <<'EOF');
apikeys.queue_size = 64kB
apikeys.meter_memory = 256kB
apikeys.queue_timeout = 60s
client_connection_check_interval = 50ms
EOF

# More used keys than there are meters: a pin left on each would leave no meter for others.
value(qq{
    SELECT add_key('many-' || n), add_key('fresh-' || n) FROM generate_series(1, $many) AS n;
    CREATE FUNCTION use_many() RETURNS bigint LANGUAGE sql AS
    \$\$ SELECT count(*) FROM generate_series(1, $many) AS n, LATERAL apikeys.verify('many-' || n) AS v WHERE v.allowed \$\$});
is(value('SELECT use_many()'), $many, 'there are many used keys');
cmp_ok(value('SELECT meters_size FROM apikeys.stats()'), '<', $many, 'and fewer meters');

sub writer_off
{
    value('SELECT apikeys.flush()');
    set_conf($node, 'apikeys.writer_enabled = off', q{SELECT writer_state = 'none' AND queue_bytes = 0 FROM apikeys.stats()}, 'the writer is off');
    return;
}

sub writer_on
{
    set_conf($node, 'apikeys.writer_enabled = on', 'SELECT apikeys.flush()', 'the writer is on');
    return;
}

my $waiting = q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event_type IN ('Extension', 'Lock', 'Timeout', 'IPC')};

# Has clients run into a wait, each with its own statement, and interrupts them there.
sub interrupt
{
    my ($what, $how, $statement) = @_;
    my @runs;
    foreach my $victim (1 .. $victims)
    {
        my @statements = map { ('-c', $_) } split /; /, $statement =~ s/VICTIM/$victim/gr;
        push @runs, IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' application_name=victim', @statements ],
            '<', \undef, '>', \my $out, '2>', \my $err);
    }
    until_true($node, "$waiting" =~ s/count\(\*\)/count(*) = $victims/r, "$what: all wait");
    if ($how eq 'client gone')
    {
        $_->signal('KILL') foreach @runs;
    }
    else
    {
        value("SELECT count($how(pid)) FROM pg_stat_activity WHERE application_name = 'victim'");
    }
    foreach my $run (@runs)
    {
        eval { IPC::Run::finish($run) };
    }
    until_true($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'victim'}, "$what, $how: all have gone");
    return;
}

# The same by statement_timeout, once for each of many keys, in subtransactions of one session or each by itself.
sub time_out
{
    my ($what, $calls, $statement) = @_;
    my $script = "SET statement_timeout = '3ms';\n" . join('', map { "$statement;\n" =~ s/VICTIM/$_/gr } 1 .. $calls);
    my (undef, undef, $err) = $node->psql('postgres', $script, on_error_stop => 0);
    is(() = $err =~ /statement timeout/g, $calls, "$what: timed out, each by itself");
    # The setting goes with the subtransaction: nothing but the call itself can time out.
    my $attempt = "SAVEPOINT s;\nSET LOCAL statement_timeout = '3ms';\n$statement;\nROLLBACK TO s;\n";
    $script = "BEGIN;\n" . join('', map { $attempt =~ s/VICTIM/$_/gr } 1 .. $calls)
        . "SELECT 'locks', count(*) FROM pg_locks WHERE locktype = 'advisory';\nCOMMIT;\n";
    my (undef, $out, $err2) = $node->psql('postgres', $script, on_error_stop => 0);
    is(() = $err2 =~ /statement timeout/g, $calls, "$what: timed out, after savepoints");
    return $out;
}

sub nothing_left
{
    my ($what) = @_;
    is(value(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', "$what: no lock is left");
    return;
}

my @ways = ('pg_cancel_backend', 'pg_terminate_backend', 'client gone');

# How many events the queue takes when nothing is in it.
writer_off();
my $capacity = value('SELECT fill()');
cmp_ok($capacity, '>', 100, 'the queue takes events');

# It is full now: waits for room.
interrupt('room', $_, q{SELECT apikeys.verify('many-VICTIM', repeat('x', 100))}) foreach @ways;
time_out('room', $many, q{SELECT apikeys.verify('many-VICTIM', repeat('x', 100))});
my $complete = q{SELECT apikeys.complete('} . value('SELECT request_id FROM apikeys.request_log LIMIT 1') . q{', 200)};
interrupt('completion', 'pg_terminate_backend', $complete);
time_out('completion', 20, $complete);
interrupt('flush', 'pg_cancel_backend', 'SELECT apikeys.flush()');

# Waits for a window to be loaded, which waits for the events of its key, and of others for that.
value(q{UPDATE apikeys.key SET limits = '1000000/hour' WHERE alias = 'key-1'});
interrupt('loading', $_, q{SELECT apikeys.verify('key-1')}) foreach @ways;
time_out('loading', 50, q{SELECT apikeys.verify('key-1')});
my $limits = q{SELECT count(*) FROM apikeys.key_limits(apikeys.find_key('caller', 'key-1'))};
is(value("SET statement_timeout = '30s'; $limits"), '1', 'the status of its limits is told meanwhile: it waits for no load');
writer_on();
nothing_left('room and loading');
is(verdict_code($node, 'key-1'), 'valid', 'the window is loaded at last');
is(value('SELECT use_many()'), $many, 'every key gets a meter');

# Waits for durability: of synchronous usage, and of a first use, which holds its locks meanwhile.
writer_off();
interrupt('synchronous', $_, q{SET apikeys.synchronous_usage = on; SELECT apikeys.verify('many-VICTIM', repeat('x', 100))}) foreach @ways;
interrupt('first use', $ways[$_], "SELECT apikeys.verify('fresh-' || VICTIM + 10 * $_)") foreach 0 .. $#ways;
nothing_left('first uses that wait');
is(time_out('first use', 50, q{SELECT apikeys.verify('fresh-' || VICTIM + 50)}), 'locks|0', 'first uses in a transaction: no lock is left after a savepoint');
writer_on();
nothing_left('durability');

# Waits for a deletion to end: the key's lock is somebody else's.
my $session = $node->background_psql('postgres');
$session->query_safe(q{BEGIN; DELETE FROM apikeys.key WHERE alias ~ '^fresh-2..$'});
interrupt('deletion', $_, q{SELECT apikeys.verify('fresh-' || VICTIM + 200)}) foreach @ways;
time_out('deletion', 50, q{SELECT apikeys.verify('fresh-' || VICTIM + 200)});
is(value(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock')}),
    '0', 'deletion: no lock is left but its own');
$session->query_safe('ROLLBACK');
$session->quit;
nothing_left('deletion');

# Waits for the tables that a meter is loaded from: what is used is not in memory after a restart.
value(q{UPDATE apikeys.key SET limits = '1000000/day' WHERE alias ~ '^many-'});
my $cold = q{SELECT apikeys.verify('many-VICTIM')};
my $codes = q{SELECT string_agg(DISTINCT v.code, ' ') FROM generate_series(1, 3) AS n, LATERAL apikeys.verify('many-' || n) AS v};
foreach my $case (map { ([ @$_, "LOCK TABLE $_->[0] IN ACCESS EXCLUSIVE MODE" ], [ @$_, "REINDEX INDEX $_->[1]" ]) }
    [ 'apikeys.usage_total', 'apikeys.usage_total_pkey' ], [ 'apikeys.usage_bucket', 'apikeys.usage_bucket_pkey' ],
    [ 'apikeys.adjustment', 'apikeys.adjustment_subject_idx' ])
{
    my ($table, $index, $holder) = @$case;
    value('SELECT apikeys.flush()');
    $node->restart;
    $session = $node->background_psql('postgres');
    $session->query_safe("BEGIN; $holder");
    is($session->query_safe($codes), 'valid', "$holder: no hindrance to who holds it");
    $session->query_safe('ROLLBACK');
    $session->quit;
    value('SELECT apikeys.flush()');
    $node->restart;
    $session = $node->background_psql('postgres');
    $session->query_safe("BEGIN; $holder");
    is(value("SET statement_timeout = '10min'; SET apikeys.queue_timeout = '100ms'; $codes"), 'overloaded', "$holder: overloaded");
    is(value("SET statement_timeout = '10min'; SET apikeys.queue_timeout = '10ms'; BEGIN; $codes;
        SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN ('$table'::regclass, '$index'::regclass)"),
        "overloaded\n0", "$holder: no lock is left in the transaction");
    interrupt($holder, $_, $cold) foreach @ways;
    time_out($holder, 20, $cold);
    $session->query_safe('COMMIT');
    is($session->query_safe($codes), 'valid', "$holder: gone");
    $session->quit;
    nothing_left($holder);
    ledger_ok($node, $holder);
}

# Who has read these tables keeps no lock on them: else whoever waits for such a lock would have the writer wait behind him, and
# the same transaction wait for the writer next.
value('SELECT apikeys.flush()');
$node->restart;
$session = $node->background_psql('postgres');
is($session->query_safe("BEGIN; $codes"), 'valid', 'in an open transaction meters are loaded');
is(value("SET statement_timeout = '10min'; VACUUM FULL apikeys.$_"), '', "which does not hinder VACUUM FULL of $_") foreach qw(usage_total usage_bucket adjustment);
is($session->query_safe(q{SELECT code FROM apikeys.verify('fresh-300')}), 'valid', 'nor a first use in the same transaction');
$session->query_safe('COMMIT');
$session->quit;

# All room, all meters and all loads are there again.
ledger_ok($node, 'in the end');
is(value('SELECT use_many()'), $many, 'every key gets a meter in the end');
is(value(qq{SELECT count(*) FROM generate_series(1, $many) AS n, LATERAL apikeys.verify('fresh-' || n) AS v WHERE v.allowed}), $many, 'and every new one');
value(q{UPDATE apikeys.key SET limits = NULL WHERE alias = 'key-1'});
writer_off();
is(value('SELECT fill()'), $capacity, 'the queue takes as many events as in the beginning');
writer_on();
ledger_ok($node, 'after all');

$node->stop;
done_testing();
