# The disk under the log runs full: nothing is lost, and the writer goes on by itself when there is room again. The disk is a
# small tmpfs in a mount namespace of the server's own.
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

my $disk = PostgreSQL::Test::Utils::tempdir_short() . '/disk';
mkdir $disk;
my @namespace = ('unshare', '--user', '--map-current-user', '--keep-caps', '--mount', 'sh', '-ec', 'mount -t tmpfs -o size=2m none "$0"; exec "$@"', $disk);
IPC::Run::run([ @namespace, 'true' ], '>', '/dev/null', '2>', \my $err)
    or plan skip_all => 'a mount namespace of one\'s own is needed, and not allowed here';

my $node = engine_node('main', "apikeys.queue_size = 8MB\n" . noon());
$node->stop;
# From here on the server lives in the namespace: pg_ctl starts it there; what stops and reads it works by its files.
IPC::Run::run([ @namespace, 'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, 'start' ], '>', '/dev/null', '2>&1')
    or BAIL_OUT('the server does not start in the namespace');
$node->_update_pid(1);

# Today's log and a hog share the disk.
value("CREATE TABLESPACE disk LOCATION '$disk'");
value(q{SELECT apikeys.flush()});
value("ALTER TABLE apikeys.request_log_@{[ today() ]} SET TABLESPACE disk");
value('CREATE TABLE hog (filler text) TABLESPACE disk; ALTER TABLE hog ALTER filler SET STORAGE PLAIN');
my $before = value('SELECT count(*) FROM apikeys.request_log');
my (undef, undef, $full) = $node->psql('postgres', q{DO $$ BEGIN LOOP INSERT INTO hog VALUES (repeat('x', 4000)); COMMIT; END LOOP; END $$});
like($full, qr/No space left on device/, 'the disk is full');

is(value(q{SELECT count(*) FROM generate_series(1, 5000) AS n, LATERAL apikeys.verify('key-' || 1 + n % 15, repeat('x', 100)) AS v WHERE allowed}), '5000',
    'requests go on');
until_true($node, q{SELECT writer_state = 'failing' AND last_error ~ 'No space left on device' FROM apikeys.stats()}, 'the writer waits');
is(value(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'requests go on, still');
value('DROP TABLE hog');
ledger_ok($node, 'room again');
is(value('SELECT count(*) FROM apikeys.request_log') - $before, 5001, 'nothing was lost');
is(value('SELECT events_quarantined, writer_state FROM apikeys.stats()'), '0|running', 'nor put aside');

$node->stop;
done_testing();
