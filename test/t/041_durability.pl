# What a verdict promises: nothing acknowledged in synchronous mode is lost by a crash, no first use in either mode, and nothing by an
# orderly stop. Clients keep a journal of what they were told, which is compared with the tables.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $sessions = 6;
my $keys = 600;    # of each session

# What nobody flushes stays in memory, and is lost.
my $node = server('main', <<'EOC');
wal_writer_delay = '10s'
restart_after_crash = on
apikeys.queue_timeout = '120s'
EOC
$node->safe_psql('postgres', <<'EOC');
CREATE EXTENSION apikeys;
INSERT INTO apikeys.plan (name) VALUES ('basic');
INSERT INTO apikeys.account (account_id, name, plan) VALUES (7, 'alice', 'basic'), (8, 'bob', 'basic');
-- Key n has the text kn.
CREATE FUNCTION make(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
    SELECT n, 7 + n % 2, sha256(convert_to('k' || n, 'UTF8'))::apikeys.digest, '', '', 'k' || n FROM generate_series(first, last) AS n $$;
-- The journal of a round, and the log since.
CREATE TABLE told (key_id bigint, code text, request_id uuid);
CREATE TABLE logged_before (request_id uuid);
CREATE VIEW logged AS SELECT * FROM apikeys.request_log AS l WHERE NOT EXISTS (SELECT FROM logged_before AS b WHERE b.request_id = l.request_id);
EOC

my $n = 1;

# Lets sessions use new keys, then a common one for longer than anybody waits, until it is time, then ends the server and starts it again. Their journals go to told.
sub round
{
    my ($synchronous, $end) = @_;
    my $folder = PostgreSQL::Test::Utils::tempdir();
    my (@runs, @journals);

    value('TRUNCATE told, logged_before');
    value('INSERT INTO logged_before SELECT request_id FROM apikeys.request_log');
    value("SELECT make($n + 1, $n + $sessions * $keys)");
    value('CHECKPOINT');
    local $ENV{PGOPTIONS} = "-c apikeys.synchronous_usage=$synchronous";
    append_to_file("$folder/common", "SELECT key_id, code, request_id FROM apikeys.verify('k1');\n" x 200_000);
    foreach my $session (1 .. $sessions)
    {
        my @used = map { ($_, $_, 1) } $n + 1 .. $n + $keys;
        append_to_file("$folder/script$session", join '', map { "SELECT key_id, code, request_id FROM apikeys.verify('k$_');\n" } @used, "\\i $folder/common\n");
        push @journals, "$folder/journal$session";
        push @runs, IPC::Run::start([ 'psql', '-XAtq', '-F', "\t", '-d', $node->connstr('postgres'), '-f', "$folder/script$session" ],
            '>', $journals[-1], '2>', \my $err, patience());
        $n += $keys;
    }
    delete $ENV{PGOPTIONS};
    ok($node->poll_query_until('postgres', 'SELECT count(*) > 1000 FROM logged'), 'sessions are at work');
    $end->();
    foreach my $run (@runs)
    {
        $run->finish;
        isnt($run->result, 0, 'a session was cut short');
    }
    value("COPY told FROM '$_'") foreach @journals;
}

# In all rounds: what was told is valid, each request is there once at most, and what is there sums up.
sub check
{
    my ($name) = @_;
    is(value('SELECT apikeys.flush()'), 't', "$name: all is written");
    is(value(q{SELECT string_agg(DISTINCT code, ' ') FROM told}), 'valid', "$name: all verdicts were valid");
    is(value('SELECT count(*) - count(DISTINCT request_id) FROM apikeys.request_log'), '0', "$name: no request is logged twice");
    cmp_ok(value('SELECT count(*) FROM logged WHERE request_id NOT IN (SELECT request_id FROM told)'), '<=', $sessions, "$name: besides, calls under way at most are logged");
    is(value('SELECT * FROM apikeys.check_ledger()'), '', "$name: log, buckets, totals and meters agree");
    is(value(q{SELECT count(*) FROM told WHERE NOT EXISTS (SELECT FROM apikeys.usage_total WHERE subject = 'k' AND subject_id = key_id)}), '0', "$name: no first use is lost");
    return value('SELECT count(*) FROM told WHERE request_id NOT IN (SELECT request_id FROM logged)');
}

sub crash
{
    $node->stop('immediate');
    $node->start;
}

# Kills the process that a query names: the server restarts all others.
sub kill_process
{
    my ($query) = @_;
    my $pid = value($query);
    kill 'KILL', $pid;
    ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"), 'the server has come back');
}

sub kill_writer { kill_process('SELECT writer_pid FROM apikeys.stats()') }
sub kill_caller { kill_process(q{SELECT pid FROM pg_stat_activity WHERE query ~ 'FROM apikeys.verify' AND pid <> pg_backend_pid() LIMIT 1}) }
sub kill_checkpointer { kill_process(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'}) }

# Kills the postmaster: the others notice by and by, and no server can start before.
sub kill_postmaster
{
    my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
    $node->kill9;
    wait_until(sub { !kill(0, $pid) && $node->start(fail_ok => 1) });
    is(value('SELECT true'), 't', 'a new server has come');
}

sub stop
{
    $node->stop('fast');
    $node->start;
}

value('SELECT make(1, 1)');
is(value(q{SELECT code FROM apikeys.verify('k1')}), 'valid', 'the common key is used');
round('on', \&crash);
is(check('synchronous, crash'), '0', 'nothing that was told is lost');
round('on', \&kill_writer);
is(check('synchronous, writer killed'), '0', 'nothing that was told is lost');
round('on', \&kill_caller);
is(check('synchronous, caller killed'), '0', 'nothing that was told is lost');
round('on', \&kill_checkpointer);
is(check('synchronous, checkpointer killed'), '0', 'nothing that was told is lost');
round('on', \&kill_postmaster);
is(check('synchronous, postmaster killed'), '0', 'nothing that was told is lost');
round('off', \&crash);
check('asynchronous, crash');
round('off', \&kill_writer);
check('asynchronous, writer killed');
round('on', \&stop);
is(check('synchronous, orderly stop'), '0', 'nothing that was told is lost');
round('off', \&stop);
is(check('asynchronous, orderly stop'), '0', 'nothing that was told is lost');

# Asynchronous: what is lost is what was queued, and no more.
value('SELECT apikeys.flush()');
value('CHECKPOINT');
my $before = value('SELECT count(*) FROM apikeys.request_log');
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE apikeys.usage_total IN SHARE MODE');
is(value(q{SELECT string_agg(DISTINCT (apikeys.verify('k1')).code, ' ') FROM generate_series(1, 100)}), 'valid', 'requests are told while they are queued');
$node->stop('immediate');
$locker->{run}->finish;
$node->start;
is(value('SELECT count(*) FROM apikeys.request_log'), $before, 'these are lost in a crash, and no others');
is(value('SELECT * FROM apikeys.check_ledger()'), '', 'log, buckets, totals and meters agree');
$node->stop;
done_testing();
