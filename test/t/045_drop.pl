# The extension is dropped while it is in use: at the first try, whoever else has locked what in which order, and what runs
# meanwhile ends with an error that says so. Where the drop is rolled back, all goes on.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main', noon());
value('CREATE ROLE stranger LOGIN; CREATE ROLE other SUPERUSER LOGIN; CREATE SCHEMA elsewhere');
my $drop_waits = q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ 'DROP' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()};

# Drops the extension by a statement while a session that has read one table comes to another one.
sub dropped_past
{
    my ($statement, $first, $second) = @_;
    my $what = "$statement, past a reader of $first and $second";
    my $reader = $node->background_psql('postgres');
    $reader->query_safe("BEGIN; SELECT FROM apikeys.$first LIMIT 1");
    my $drop = begin($statement);
    until_true($node, $drop_waits, "$what: it waits");
    is($reader->query_safe("SELECT count(*) >= 0 FROM apikeys.$second"), 't', "$what: the reader goes on");
    $reader->query_safe('COMMIT');
    $reader->quit;
    is(end($drop), '', "$what: it succeeds");
    is(value(q{SELECT count(*) FROM pg_namespace WHERE nspname ~ '^apikeys'}), '0', "$what: nothing is left");
    value('DROP FUNCTION IF EXISTS add_key, fill');
    return;
}

dropped_past('DROP EXTENSION apikeys', 'usage_total', 'key');
engine_install($node, 'postgres');
dropped_past('DROP EXTENSION IF EXISTS apikeys CASCADE', 'key', 'usage_total');
engine_install($node, 'postgres');
dropped_past('DROP EXTENSION apikeys CASCADE', 'request_log', 'plan');
value('SET ROLE other; CREATE EXTENSION apikeys');
dropped_past('DROP OWNED BY other', 'plan', 'request_log');
engine_install($node, 'postgres');

# A reader that does not end is waited for as the session wants.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT FROM apikeys.key LIMIT 1');
is(result(q{SET lock_timeout = '20ms'; DROP EXTENSION apikeys}), '55P03', 'lock_timeout ends the wait');
is(result(q{SET statement_timeout = '200ms'; DROP EXTENSION apikeys}), '57014', 'so does statement_timeout');
is(result(q{DO $$ BEGIN PERFORM set_config('lock_timeout', '20ms', true); DROP EXTENSION apikeys; EXCEPTION WHEN lock_not_available THEN RAISE NOTICE '%', 'late'; END $$;
    SELECT code FROM apikeys.verify('key-1')}), 'valid', 'an error that is caught leaves no lock behind');

# Who may not drop it locks nothing.
is(result('SET ROLE stranger; DROP EXTENSION apikeys'), '42501', 'a stranger is refused at once');
is(result('SET default_transaction_read_only = on; DROP EXTENSION apikeys'), '25006', 'so is a transaction that may not write');
is(result('ALTER EXTENSION apikeys SET SCHEMA elsewhere'), '0A000', 'its schema is not changed');
is(result("SET lock_timeout = '1min'; DROP SCHEMA apikeys CASCADE"), '2BP01', 'nor dropped by itself');
$reader->query_safe('COMMIT');
$reader->quit;

# Under load, with durable records; calls, the writer and maintenance meet the drop, which is rolled back.
my $load = load_start($node, 'postgres', '-c', '4', '-T', '3600');
my $synchronous = do {
    local $ENV{PGOPTIONS} = '-c apikeys.synchronous_usage=on';
    load_start($node, 'postgres', '-c', '4', '-T', '3600');
};
my $written = value('SELECT events_written FROM apikeys.stats()');
until_true($node, "SELECT events_written > $written + 300 FROM apikeys.stats()", 'there is load');
foreach my $n (1 .. 3)
{
    is(result('BEGIN; DROP EXTENSION apikeys CASCADE; ROLLBACK'), '', "drop $n under load, rolled back");
    $written = value('SELECT events_written FROM apikeys.stats()');
    until_true($node, "SELECT events_written > $written + 100 FROM apikeys.stats()", 'requests are written again');
}

# It is dropped: requests that have begun, and the writer, say what is missing.
my $dropper = $node->background_psql('postgres');
$dropper->query_safe('SELECT pg_advisory_lock(7)');
my @requests = map { begin("$_; DO 'BEGIN PERFORM pg_advisory_lock_shared(7); END'; $_") } (
    q{SELECT code FROM apikeys.verify('key-1')},
    q{SELECT code FROM apikeys.authenticate('key-1')},
    q{SELECT code FROM apikeys.verify_many('{key-1}')});
until_true($node, q{SELECT count(*) = 3 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted}, 'sessions have called');
my $from = -s $node->logfile;
$dropper->query_safe('BEGIN; DROP EXTENSION apikeys CASCADE');
$dropper->query_safe('SELECT pg_advisory_unlock(7)');
until_true($node, q{SELECT count(*) > 0 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE a.backend_type = 'apikeys writer' AND NOT l.granted},
    'the writer waits for a table');
$dropper->query_safe('COMMIT');
$dropper->quit;
is(end($_), 'valid 3F000', 'the schema is gone, says a request') foreach @requests;
load_finish($_) foreach $load, $synchronous;
value('DROP FUNCTION add_key, fill');
engine_install($node, 'postgres');
is(times_logged(qr/LOG: .*could not open relation/, $from), 0, 'a worker that has waited for a table knows that it is gone');
ledger_ok($node, 'made again');
is(value(q{SELECT sum(admitted) FROM apikeys.usage_total WHERE subject = 'k'}), '15', 'the keys begin without usage');
$node->stop;
done_testing();
