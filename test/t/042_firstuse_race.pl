# The first use of a key against its deletion, step by step: processes are held at wait points (src/engine/waitpoint.h).
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

plan skip_all => 'needs a library built with WAIT_POINTS=1: scripts/test races' unless $ENV{WAIT_POINTS};

my $node = server('main', <<'EOC');
max_prepared_transactions = 5
wal_writer_delay = '10s'
apikeys.meter_memory = '256kB'
apikeys.queue_timeout = '120s'
EOC
$node->safe_psql('postgres', <<'EOC');
CREATE EXTENSION apikeys;
INSERT INTO apikeys.plan (name) VALUES ('basic');
INSERT INTO apikeys.account (account_id, name, plan) VALUES (7, 'alice', 'basic');
-- Key n has the text kn.
CREATE FUNCTION make(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
    SELECT n, 7, sha256(convert_to('k' || n, 'UTF8'))::apikeys.digest, '', '', 'k' || n FROM generate_series(first, last) AS n $$;
CREATE FUNCTION verify(n int) RETURNS text LANGUAGE sql AS $$ SELECT code FROM apikeys.verify('k' || n) $$;
CREATE FUNCTION drop_key(n int) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM apikeys.key WHERE key_id = n;
        RETURN 'deleted';
    EXCEPTION WHEN foreign_key_violation THEN
        RETURN 'in use';
    END $$;
-- What became of a key: is it there, how often was it logged.
CREATE FUNCTION outcome(n int) RETURNS text LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM apikeys.key WHERE key_id = n) || ' key, ' ||
        (SELECT count(*) FROM apikeys.request_log WHERE key_id = n) || ' logged' $$;
CREATE VIEW guard_locks AS SELECT * FROM pg_locks WHERE locktype = 'advisory' AND objsubid IN (3, 4);
EOC

my $controller;

sub blocked
{
    ok($node->poll_query_until('postgres', 'SELECT count(*) > 0 FROM guard_locks WHERE NOT granted'), 'the deletion waits');
}

sub crash
{
    $node->stop('immediate');
    $controller->{run}->finish;
    $node->start;
    $controller = $node->background_psql('postgres');
}

my $n = 0;

sub make_keys
{
    my ($count) = @_;
    value("SELECT make($n + 1, $n + $count)");
    return $n += $count;
}

$controller = $node->background_psql('postgres');
my $other = make_keys(1);
is(value("SELECT verify($other)"), 'valid', 'a used key, to keep the writer busy');

# The key has been looked up; its deletion comes before the first use locks it.
foreach my $case (
    [ 'committed', 'SELECT drop_key(%d)', '', 'invalid', '0 key, 0 logged' ],
    [ 'open, then committed', 'BEGIN; SELECT drop_key(%d)', 'COMMIT', 'invalid', '0 key, 0 logged' ],
    [ 'open, then rolled back', 'BEGIN; SELECT drop_key(%d)', 'ROLLBACK', 'valid', '1 key, 1 logged' ],
    [ 'rolled back to a savepoint', 'BEGIN; SAVEPOINT s; SELECT drop_key(%d); ROLLBACK TO s', '', 'valid', '1 key, 1 logged' ],
    [ 'prepared and committed', q{BEGIN; SELECT drop_key(%d); PREPARE TRANSACTION 'd'}, q{COMMIT PREPARED 'd'}, 'invalid', '0 key, 0 logged' ],
    [ 'prepared and rolled back', q{BEGIN; SELECT drop_key(%d); PREPARE TRANSACTION 'd'}, q{ROLLBACK PREPARED 'd'}, 'valid', '1 key, 1 logged' ],
    [ 'of many keys, then rolled back', 'BEGIN; SELECT 1 FROM generate_series(%1$d - 1099, %1$d) AS n WHERE drop_key(n) IS NULL; SELECT drop_key(%1$d)', 'ROLLBACK', 'valid', '1 key, 1 logged' ])
{
    my ($name, $deletion, $end, $verdict, $outcome) = @$case;
    my $k = make_keys($name =~ /many/ ? 1100 : 1);
    my $deleter = $node->background_psql('postgres');
    hold($controller, 'verify_lock');
    my $use = begin("SELECT verify($k)");
    arrived('verify_lock');
    like($deleter->query_safe(sprintf $deletion, $k), qr/deleted$/, "deletion $name");
    let_go($controller, 'verify_lock');
    if ($end)
    {
        is(result("SET apikeys.queue_timeout = '100ms'; SELECT verify($k)"), 'overloaded', 'it holds uses off');
        $deleter->query_safe($end);
    }
    is(end($use), $verdict, "the use is $verdict");
    is(value("SELECT apikeys.flush(); SELECT outcome($k)"), "t\n$outcome", $outcome);
    $deleter->quit;
}

# Brings the first use of a key to a state; returns its session and the point to pass.
sub bring_to
{
    my ($state, $k) = @_;
    my $point = $state eq 'committed' ? 'writer_flush' : 'writer_commit';
    hold($controller, $point);
    if ($state eq 'queued')
    {
        # The writer has something else to do.
        is(value("SELECT verify($other)"), 'valid', 'another use');
        arrived($point);
        hold($controller, 'verify_wait');
    }
    my $use = begin("SELECT verify($k)");
    arrived($state eq 'queued' ? 'verify_wait' : $point);
    let_go($controller, 'verify_wait') if $state eq 'queued';
    return ($use, $point);
}

foreach my $state ('queued', 'being written', 'committed')
{
    # A deletion waits, and is refused.
    foreach my $deletion (
        'SELECT drop_key(%d)',
        'BEGIN; SAVEPOINT s; SELECT drop_key(%d); ROLLBACK TO s; COMMIT',
        q{BEGIN; SELECT drop_key(%d); PREPARE TRANSACTION 'd'; COMMIT PREPARED 'd'},
        'SELECT 1 FROM generate_series(%1$d - 1099, %1$d) AS n WHERE drop_key(n) IS NULL; SELECT drop_key(%1$d)',
        'SET session_replication_role = replica; SELECT drop_key(%d)')
    {
        my $k = make_keys($deletion =~ /1100/ ? 1100 : 1);
        my ($use, $point) = bring_to($state, $k);
        my $deleter = begin(sprintf $deletion, $k);
        blocked();
        is(result("SET apikeys.queue_timeout = '100ms'; SELECT verify($k)"), 'overloaded', "$state: the next use waits too");
        let_go($controller, $point);
        is(end($use), 'valid', "$state: the use is valid");
        is(end($deleter), 'in use', "$state: the deletion is refused");
        is(value("SELECT apikeys.flush(); SELECT outcome($k)"), "t\n1 key, 2 logged", "$state: all is recorded");
    }

    # The use is cancelled, which lets the deletion go on; it is a use all the same.
    my $k = make_keys(1);
    my ($use, $point) = bring_to($state, $k);
    my $deleter = begin("SELECT drop_key($k)");
    blocked();
    value(q{SELECT pg_cancel_backend(pid) FROM guard_locks WHERE granted AND mode = 'ShareLock'});
    is(end($use), '57014', "$state: the use is cancelled");
    is(end($deleter), 'in use', "$state: the deletion is refused");
    is(value('SELECT count(*) FROM guard_locks'), '0', "$state: no lock is left");
    is(result('TRUNCATE apikeys.key CASCADE'), '23503', "$state: TRUNCATE is refused");
    let_go($controller, $point);
    is(value("SELECT apikeys.flush(); SELECT outcome($k)"), "t\n1 key, 1 logged", "$state: the use is recorded");

    # A crash before anybody was told: it was a use if it is on record, whichever.
    $k = make_keys(1);
    ($use, $point) = bring_to($state, $k);
    crash();
    isnt(end($use), 'valid', "$state: nobody was told before a crash");
    is(value("SELECT outcome($k)"), '1 key, 0 logged', "$state: no use after the crash") if $state ne 'committed';
    my $logged = value("SELECT outcome($k)") eq '1 key, 1 logged';
    is(value("SELECT drop_key($k)"), $logged ? 'in use' : 'deleted', "$state: after a crash it is a use if and only if it is on record");
}

# The meters of urgent events stay until they are flushed: none is given to a key whose first use would take that flush for its own.
my $meters = value('SELECT meters_size FROM apikeys.stats()');
my $last = make_keys($meters);
my $first = $last - $meters + 1;
my $all_shortly = "SET apikeys.queue_timeout = '20ms'; SELECT string_agg(DISTINCT verify(n), ' ') FROM generate_series($first, $last) AS n";
is(value("SELECT verify($other)"), 'valid', 'a used key');
is(value('SELECT apikeys.flush()'), 't', 'whose use is durable');
hold($controller, 'writer_flush');
my $use = begin("SET apikeys.synchronous_usage = on; SELECT verify($other)");
arrived('writer_flush');
is(result($all_shortly), 'overloaded', 'first uses fill the meters');
hold($controller, 'writer_commit');
let_go($controller, 'writer_flush');
is(end($use), 'valid', 'the other use is durable');
arrived('writer_commit');
is(result($all_shortly), 'overloaded', 'none of them is');
let_go($controller, 'writer_commit');
is(value('SELECT apikeys.flush()'), 't', 'all is written');
is(value("SELECT string_agg(DISTINCT verify(n), ' ') FROM generate_series($first, $last) AS n"), 'valid', 'and the meters can be used again');
is(value('SELECT * FROM apikeys.check_ledger()'), '', 'the ledger holds');

$controller->quit;
$node->stop;
done_testing();
