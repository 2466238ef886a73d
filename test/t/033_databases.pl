# Databases that come and go, and the extension in them, while requests run: no crash, no loop of errors, and queues are
# used again.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main', "apikeys.max_databases = 2\napikeys.flush_interval = 500ms");
$node->safe_psql('postgres', 'SELECT apikeys.flush()');
my $started_at = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
my $writers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'apikeys writer'};

sub make_database
{
    my ($database) = @_;
    $node->safe_psql('postgres', "CREATE DATABASE $database");
    engine_install($node, $database);
    return;
}

# Dropped as it is, though a writer served it a moment ago.
foreach my $n (1 .. 2)
{
    make_database("passing_$n");
    is($node->safe_psql("passing_$n", "$writers AND datname = current_database()"), '1', 'a writer serves the database');
    $node->safe_psql('postgres', "DROP DATABASE passing_$n");
    pass('a database without sessions is dropped');
}

# One database too many: its requests fail, and say why; the others go on.
my $session = $node->background_psql('postgres');
$session->query_safe(q{SELECT apikeys.verify('key-1')});
make_database('second');
my $second = $node->background_psql('second');
$second->query_safe(q{SELECT apikeys.verify('key-1')});
$node->safe_psql('postgres', 'CREATE DATABASE third');
$node->safe_psql('third', q{CREATE EXTENSION apikeys; SELECT apikeys.create_key('caller', 'one')});
my $third = q{CREATE TABLE secret AS SELECT key FROM apikeys.create_key('caller', 'two'); SELECT v.code FROM secret, apikeys.verify(key) AS v};
my (undef, undef, $err) = $node->psql('third', "\\set VERBOSITY verbose\n$third");
like($err, qr/ERROR:  53400: more than 2 databases use apikeys.*HINT:  Raise apikeys\.max_databases and restart the server\./s, 'one database too many is refused');
is($session->query_safe(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'the others go on');
$second->quit;
ok($node->poll_query_until('third', 'SELECT v.code FROM secret, apikeys.verify(key) AS v', 'valid'), 'when another needs its queue no more, it is passed on');
$node->safe_psql('postgres', 'DROP DATABASE third');
$session->quit;

# Renamed, and closed to new sessions: those that are there go on, the writer too.
$node->safe_psql('postgres', 'ALTER DATABASE second RENAME TO renamed');
$second = $node->background_psql('renamed');
is($second->query_safe(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'a renamed database goes on');
$node->safe_psql('postgres', 'ALTER DATABASE renamed ALLOW_CONNECTIONS false');
$second->query_safe(q{SELECT pg_terminate_backend(writer_pid) FROM apikeys.stats()});
is($second->query_safe(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'so does one that is closed to new sessions');
is($second->query_safe('SELECT apikeys.flush()'), 't', 'and its writer');
$second->quit;
$node->safe_psql('postgres', 'DROP DATABASE renamed');

# Dropped by force under load, three times.
foreach my $n (1 .. 3)
{
    make_database("loaded_$n");
    my $load = load_start($node, "loaded_$n", '-c', '4', '-T', '60');
    until_true($node, 'SELECT events_written > 300 FROM apikeys.stats()', 'there is load', "loaded_$n");
    $node->safe_psql('postgres', "DROP DATABASE loaded_$n WITH (FORCE)");
    load_finish($load);
    pass('dropped by force under load');
}
until_true($node, "$writers AND datname <> 'postgres'" =~ s/count\(\*\)/count(*) = 0/r, 'no writer is left');

# The extension is dropped under load and made again: new meters, and nothing of the old one in its tables.
make_database('changing');
foreach my $n (1 .. 3)
{
    my $load = load_start($node, 'changing', '-c', '4', '-T', '60');
    until_true($node, 'SELECT events_written > 300 FROM apikeys.stats()', 'there is load', 'changing');
    is($node->psql('changing', 'DROP EXTENSION apikeys CASCADE; DROP FUNCTION add_key, fill'), 0, 'the extension is dropped under load');
    load_finish($load);
    $node->safe_psql('changing', 'CREATE EXTENSION apikeys');
    until_true($node, 'SELECT apikeys.flush()', 'the queue is empty', 'changing');
    is($node->safe_psql('changing', 'SELECT (SELECT count(*) FROM apikeys.request_log), (SELECT count(*) FROM apikeys.usage_total)'), '0|0',
        'nothing of the old extension is in the new one');
    $node->safe_psql('changing', 'DROP EXTENSION apikeys');
    engine_install($node, 'changing');
    ledger_ok($node, 'extension made again', 'changing');
    is($node->safe_psql('changing', q{SELECT sum(admitted) FROM apikeys.usage_total WHERE subject = 'k'}), '15', 'keys begin without usage');
}

is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started_at, 'the server was there all the time');
my $log = slurp_file($node->logfile);
unlike($log, qr/server process .* was terminated|all server processes terminated/, 'nothing crashed');
my $quiet = -s $node->logfile;
foreach my $database ('postgres', 'changing')
{
    is(value('SELECT apikeys.maintain()', $database), 't', "$database: the writer is at work");
    ledger_ok($node, $database, $database);
}
is(times_logged(qr/apikeys writer could not|apikeys maintenance was/, $quiet), 0, 'there is no loop of errors');

$node->stop;
done_testing();
