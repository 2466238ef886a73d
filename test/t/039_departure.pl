# A database goes at the first try whatever its writer does: it is dropped, also by force, renamed and moved while the writer
# cannot write. What is in the queue of a dropped database is discarded; what is in that of any other is written when it can be.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

# Two queues: one of the database postgres, and one that each other database gets from the one before.
my $node = engine_node('main', "apikeys.max_databases = 2\nallow_in_place_tablespaces = on\n" . noon());
value('SELECT apikeys.flush()');
value(q{CREATE TABLESPACE elsewhere LOCATION ''});
my $started_at = value('SELECT pg_postmaster_start_time()');
my $today = 'apikeys.request_log_' . today();

# What keeps a writer from writing, and what ends it.
my %faults = (
    'partition detached' => [
        "ALTER TABLE apikeys.request_log DETACH PARTITION $today",
        "DROP TABLE $today" ],
    'event trigger that raises' => [
        "DROP TABLE $today;
         CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'no'; END \$\$;
         CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse();
         ALTER EVENT TRIGGER refuse ENABLE ALWAYS",
        'DROP EVENT TRIGGER refuse' ],
    'column gone' => [
        'ALTER TABLE apikeys.usage_bucket RENAME COLUMN credits TO euros',
        'ALTER TABLE apikeys.usage_bucket RENAME COLUMN euros TO credits' ]);

# Makes a database whose writer fails, with five requests in its queue; returns a session that is attached to it.
sub make_failing
{
    my ($database, $fault) = @_;
    $node->safe_psql('postgres', "CREATE DATABASE $database");
    engine_install($node, $database);
    value('SELECT apikeys.flush()', $database);
    my $from = -s $node->logfile;
    value("BEGIN; $faults{$fault}[0]; COMMIT", $database);
    my $session = $node->background_psql($database, on_error_stop => 0);
    $session->query_safe(q{SELECT apikeys.verify('key-3', '/kept') FROM generate_series(1, 5)});
    until_logged(qr/could not write a batch/, $from, "$fault: the writer fails", 5);
    return $session;
}

my $n = 0;
foreach my $fault (sort keys %faults)
{
    # Without sessions, and with one that has verified.
    make_failing("plain_" . ++$n, $fault)->quit;
    is($node->psql('postgres', "DROP DATABASE plain_$n"), 0, "$fault: dropped");
    make_failing("forced_$n", $fault)->quit;
    is($node->psql('postgres', "DROP DATABASE forced_$n WITH (FORCE)"), 0, "$fault: dropped by force");
    my $session = make_failing("used_$n", $fault);
    is($node->psql('postgres', "DROP DATABASE used_$n WITH (FORCE)"), 0, "$fault: dropped by force, with a session");
    eval { $session->quit };

    make_failing("old_$n", $fault)->quit;
    is($node->psql('postgres', "ALTER DATABASE old_$n RENAME TO new_$n"), 0, "$fault: renamed");
    is($node->psql('postgres', "ALTER DATABASE new_$n SET TABLESPACE elsewhere"), 0, "$fault: moved");
    is($node->psql('postgres', "CREATE DATABASE copy_$n TEMPLATE new_$n TABLESPACE pg_default"), 0, "$fault: copied");
    $node->safe_psql('postgres', "DROP DATABASE copy_$n");
    value($faults{$fault}[1], "new_$n");
    until_true($node, 'SELECT apikeys.flush()', "$fault: all is written", "new_$n");
    is(value(q{SELECT count(*) FROM apikeys.request_log WHERE endpoint = '/kept'}, "new_$n"), '5', "$fault: nothing was lost");
    $node->safe_psql('postgres', "DROP DATABASE new_$n WITH (FORCE)");
}

# While a drop waits for a session, nothing starts a writer again; after it has given up, one comes.
my $session = make_failing('waiting', 'column gone');
my $drop = begin('DROP DATABASE waiting');
until_true($node, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query = 'DROP DATABASE waiting'}, 'a drop waits');
value(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'waiting' AND backend_type = 'apikeys writer'});
is(end($drop), '55006', 'a drop gives up because of a session');
value($faults{'column gone'}[1], 'waiting');
is($session->query_safe('SELECT apikeys.flush()'), 't', 'then a writer comes');
is($session->query_safe(q{SELECT count(*) FROM apikeys.request_log WHERE endpoint = '/kept'}), '5', 'and nothing was lost');
$session->quit;

is(value('SELECT pg_postmaster_start_time()'), $started_at, 'the server was there all the time');
unlike(slurp_file($node->logfile), qr/FATAL:  database \d+ does not exist/, 'no writer was started for a database that goes');
until_true($node, 'SELECT apikeys.flush()', 'the other database goes on');
ledger_ok($node, 'the other database');

$node->stop;
done_testing();
