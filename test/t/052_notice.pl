# Notices are announced once what they tell of has committed, by the writer, beside its batches: whatever keeps NOTIFY from
# being sent keeps no request from being recorded.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Engine;

my $node = engine_node('main', 'max_prepared_transactions = 2');

# A session that listens in a database.
sub listener
{
    my ($database) = @_;
    my $session = $node->background_psql($database);
    $session->query_safe('LISTEN apikeys');
    return $session;
}

# What it hears until it has heard so much: kinds, in order. The first statement may be another.
sub heard
{
    my ($session, $count, $statement) = @_;
    my @kinds;
    foreach (1 .. 600)
    {
        push @kinds, $session->query_safe($statement // 'SELECT') =~ /^Asynchronous notification "apikeys" with payload "\{.*?"kind": "(\w+)"/mg;
        last if @kinds >= $count;
        undef $statement;
        usleep(100_000);
    }
    return "@kinds";
}

sub query
{
    my ($database, $sql) = @_;
    return $node->safe_psql($database, $sql);
}

my $unsent = 'SELECT count(*) FROM apikeys.notice WHERE sent_at IS NULL';

# In a database where no key was ever verified: there is no queue, and a writer comes for the notices alone.
query('postgres', 'CREATE DATABASE quiet');
query('quiet', 'CREATE EXTENSION apikeys');
my $listener = listener('quiet');
my $id = query('quiet', q{SELECT key_id FROM apikeys.create_key('acme "& co', 'main')});
my $said = '';
foreach (1 .. 600)
{
    $said .= $listener->query_safe('SELECT');
    last if $said =~ /Asynchronous/;
    usleep(100_000);
}
like($said, qr/"apikeys" with payload "\{"id": \d+, "kind": "created", "key_id": $id, "account": "acme \\"& co"\}"/, 'a new key is announced');
is(query('quiet', 'SELECT count(*) FROM apikeys.notice WHERE sent_at >= at'), '1', 'that is noted');

# What is rolled back is not announced; what is in a transaction comes when it ends, all of it.
my $changer = $node->background_psql('quiet');
$changer->query_safe("BEGIN; SELECT apikeys.suspend_key($id, 'x'); ROLLBACK");
$changer->query_safe("BEGIN; SELECT apikeys.deactivate_key($id); SAVEPOINT s; SELECT apikeys.suspend_key($id, 'x'); ROLLBACK TO s; SELECT apikeys.activate_key($id)");
query('quiet', q{SELECT apikeys.create_key('rival', 'theirs')});
is(heard($listener, 1), 'created', 'an open transaction keeps no other from being heard of');
$changer->query_safe("SELECT apikeys.rotate_key($id); COMMIT");
is(heard($listener, 3), 'deactivated activated rotated', 'a transaction is heard of when it has committed, without what was rolled back');

# A prepared transaction wakes nobody; the next look finds it.
$changer->query_safe("BEGIN; SELECT apikeys.deactivate_key($id); PREPARE TRANSACTION 'p'");
query('quiet', qq{COMMIT PREPARED 'p'; SELECT apikeys.activate_key($id)});
is(heard($listener, 2), 'deactivated activated', 'a prepared transaction is heard of, too');

# A row that somebody has locked waits, alone.
query('quiet', q{INSERT INTO apikeys.notice (kind) VALUES ('locked')});
$changer->query_safe(q{BEGIN; SELECT FROM apikeys.notice WHERE kind = 'locked' AND sent_at IS NULL FOR UPDATE});
query('quiet', "SELECT apikeys.deactivate_key($id)");
is(heard($listener, 1), 'deactivated', 'a locked notice is passed over');
$changer->query_safe('COMMIT');
query('quiet', "SELECT apikeys.activate_key($id)");
is(heard($listener, 2), 'locked activated', 'and announced later');

# The writer is not in the way.
$changer->quit;
$listener->quit;
query('postgres', 'DROP DATABASE quiet');
pass('a database where notices were made is dropped');

# With a queue, more at once than one transaction announces.
$listener = listener('postgres');
is(verdict_code($node, 'key-1'), 'valid', 'a request');
query('postgres', q{SELECT count(apikeys.add_notice('many', NULL, NULL, '{}')) FROM generate_series(1, 2500)});
is(heard($listener, 2500), join(' ', ('many') x 2500), 'many notices are announced, each once');

# Who listens and does not read stalls nobody, and hears all in the end.
my $stalled = listener('postgres');
$stalled->query_safe('BEGIN');
query('postgres', q{SELECT apikeys.add_notice('one', NULL, NULL, '{}')});
is(heard($listener, 1), 'one', 'a stalled listener: others hear');
is(verdict_code($node, 'key-1'), 'valid', 'a stalled listener: a request');
is(query('postgres', 'SELECT apikeys.flush()'), 't', 'a stalled listener: it is written');
is(heard($stalled, 1, 'COMMIT'), 'one', 'it hears all that it has missed');
$stalled->quit;

# A standby that is not there: the writer does not wait for it, and another NOTIFY that does keeps the writer from announcing, but
# not from writing.
my $log = -s $node->logfile;
set_conf($node, q{synchronous_standby_names = 'nope'}, q{SELECT current_setting('synchronous_standby_names') = 'nope'}, 'a standby is missing');
query('postgres', q{SET synchronous_commit = off; SELECT apikeys.add_notice('two', NULL, NULL, '{}')});
is(heard($listener, 1), 'two', 'missing standby: a notice is announced');
my $waiting = $node->background_psql('postgres');
my $pid = $waiting->query_safe('SELECT pg_backend_pid()');
$waiting->query_until(qr/^asked$/m, "\\echo asked\nBEGIN; CREATE TABLE written (); NOTIFY other; COMMIT;\n");
until_true($node, "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid", 'a NOTIFY waits for the standby');
query('postgres', q{SET synchronous_commit = off; SELECT apikeys.add_notice('three', NULL, NULL, '{}')});
foreach (1 .. 600)
{
    last if slurp_file($node->logfile, $log) =~ /apikeys notices were put off: canceling statement due to lock timeout/;
    usleep(100_000);
}
like(slurp_file($node->logfile, $log), qr/apikeys notices were put off: canceling statement due to lock timeout/, 'notices are put off');
is(verdict_code($node, 'key-1'), 'valid', 'notices that cannot be sent: a request');
is(query('postgres', 'SELECT apikeys.flush()'), 't', 'notices that cannot be sent: it is written');
is(query('postgres', $unsent), '1', 'the notice is kept');
set_conf($node, q{synchronous_standby_names = ''}, q{SELECT current_setting('synchronous_standby_names') = ''}, 'no standby is missed any more');
is(heard($listener, 1), 'three', 'and announced when that is possible');
$waiting->quit;

# Without a writer they wait, over a crash, too.
set_conf($node, 'apikeys.writer_enabled = off', q{SELECT current_setting('apikeys.writer_enabled') = 'off'}, 'the writer is off');
until_true($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'apikeys writer')}, 'and gone');
query('postgres', q{SELECT apikeys.add_notice('four', NULL, NULL, '{}')});
$listener->quit;
$node->stop('immediate');
$node->start;
is(query('postgres', $unsent), '1', 'a notice waits for a writer');
$listener = listener('postgres');
set_conf($node, 'apikeys.writer_enabled = on', q{SELECT current_setting('apikeys.writer_enabled') = 'on'}, 'the writer is on');
is(verdict_code($node, 'key-1'), 'valid', 'a request brings it');
is(heard($listener, 1), 'four', 'the notice is announced');
$listener->quit;

ledger_ok($node, 'notices');
$node->stop;
done_testing();
