# Locks on tables: anybody with USAGE can queue for one (CREATE RULE waits before it looks at privileges), and a reader in an
# open transaction keeps it waiting. No call waits there beyond its deadline, nothing is lost, and a call leaves no lock behind.
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

my $node = engine_node('main', <<'EOC');
apikeys.queue_size = 64kB
apikeys.queue_timeout = 5s
apikeys.ip_failures = '5/hour'
EOC

# In a session of its own, which remembers nothing; a call that hangs is an error.
sub impatient
{
    return value("SET statement_timeout = '20s'; SET apikeys.queue_timeout = '50ms'; $_[0]");
}

value(q{CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA apikeys TO stranger;
    INSERT INTO apikeys.product (name) VALUES ('maps');
    INSERT INTO apikeys.key_product SELECT key_id, 'maps' FROM apikeys.key WHERE alias = 'key-15'});

# Starts a statement of a role in the background.
sub begin_as
{
    my ($user, $statement) = @_;
    my %run = (out => '', err => '');
    $run{run} = IPC::Run::start([ 'psql', '-XAtq', '-U', $user, '-d', $node->connstr('postgres'), '-c', $statement ],
        '<', \undef, '>', \$run{out}, '2>', \$run{err}, patience());
    return \%run;
}

sub finish
{
    my ($run) = @_;
    IPC::Run::finish($run->{run});
    chomp $run->{out};
    return $run->{out};
}

# Has a reader and a stranger who waits for the table's lock, runs the tests, and what these return once the lock is free.
sub queued
{
    my ($table, $tests) = @_;
    my $reader = $node->background_psql('postgres');
    $reader->query_safe("BEGIN; SELECT FROM apikeys.$table LIMIT 1");
    my $stranger = begin_as('stranger', "CREATE RULE stranger AS ON UPDATE TO apikeys.$table DO ALSO NOTHING");
    until_true($node, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'apikeys.$table'::regclass AND NOT granted)", "$table: its lock is waited for");
    my $then = $tests->($reader);
    $reader->query_safe('COMMIT');
    $reader->quit;
    finish($stranger);
    like($stranger->{err}, qr/must be owner|permission denied/, "$table: in the end the stranger may not");
    $then->() if ref $then eq 'CODE';
    return;
}

# Every table that decides about a request.
my $many = q{SELECT string_agg(code, ' ' ORDER BY n) FROM apikeys.verify_many('{key-1,key-15}', ips => '{192.0.2.1,192.0.2.1}')};
my %warm = map { ($_ => 1) } qw(plan tier address_block);
foreach my $table (qw(key account key_product plan tier address_block))
{
    my $session = $node->background_psql('postgres');
    $session->query_safe("SET statement_timeout = '20s'; SET apikeys.queue_timeout = '50ms'");
    is($session->query_safe(q{SELECT code FROM apikeys.verify('key-1', ip => '192.0.2.1')}), 'valid', "$table: free");
    queued($table, sub {
        is(impatient(q{SELECT code FROM apikeys.verify('key-1', ip => '192.0.2.1')}), 'overloaded', "$table: verify is overloaded");
        is(impatient($many), 'overloaded overloaded', "$table: verify_many");
        is(impatient(q{SELECT code FROM apikeys.authenticate('key-1', ip => '192.0.2.1')}), 'overloaded', "$table: authenticate");
        is($session->query_safe(q{SELECT code FROM apikeys.verify('key-1', ip => '192.0.2.1')}), $warm{$table} ? 'valid' : 'overloaded',
            "$table: a session that knows the rules");
        my $patient = begin_as('postgres', q{SELECT code FROM apikeys.verify('key-1', ip => '192.0.2.1')});
        my $patient_many = begin_as('postgres', $many);
        until_true($node, q{SELECT count(*) = 2 FROM pg_stat_activity WHERE query ~ '^SELECT.*key-1.*192.0.2.1' AND state = 'active' AND wait_event_type = 'Extension'}, "$table: calls wait");
        return sub {
            is(finish($patient), 'valid', "$table: verify waits for the lock");
            is(finish($patient_many), 'valid product_not_allowed', "$table: so does verify_many");
        };
    });
    $session->quit;
}
is(value('SELECT verdicts_overloaded > 0 FROM apikeys.stats()'), 't', 'they are counted');

# Who holds a lock is not hindered by those who wait for it.
queued('key', sub { is($_[0]->query_safe(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'who has read the table goes on') });
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE apikeys.key IN ROW EXCLUSIVE MODE');
my $waiting = begin_as('stranger', 'CREATE RULE stranger AS ON UPDATE TO apikeys.key DO ALSO NOTHING');
until_true($node, q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'apikeys.key'::regclass AND NOT granted)}, 'its lock is waited for');
is($holder->query_safe(q{SET statement_timeout = '20s'; SELECT code FROM apikeys.verify('key-1')}), 'valid', 'who has a stronger lock goes on');
$holder->query_safe('COMMIT');
finish($waiting);

# Indexes, which the owner may lock by themselves. A text that cannot be looked up is no failure of its address.
foreach my $case ([ 'key_digest_key', 'key-1' ], [ 'key_previous_digest_key', 'no key' ], [ 'account_pkey', 'key-1' ], [ 'key_product_pkey', 'key-1' ])
{
    my ($index, $key) = @$case;
    $holder->query_safe("BEGIN; REINDEX INDEX apikeys.$index");
    is(impatient("SET apikeys.queue_timeout = '1ms'; SELECT string_agg(DISTINCT v.code, ' ') FROM generate_series(1, 10) AS n, LATERAL apikeys.verify('$key', ip => ('192.0.2.2/' || 32 + 0 * n)::inet) AS v"),
        'overloaded', "$index is locked");
    is(impatient("SELECT code FROM apikeys.authenticate('$key')"), 'overloaded', "$index: authenticate");
    $holder->query_safe('ROLLBACK');
}
is(value('SELECT count(*) FROM apikeys.address_block_list'), '0', 'no address is blocked for it');

# Completions of requests that are not logged ask for the key.
value('ALTER SYSTEM SET apikeys.log_requests = off');
$node->reload;
until_true($node, q{SELECT current_setting('apikeys.log_requests') = 'off'}, 'requests are not logged');
my $id = value(q{SELECT request_id FROM apikeys.verify('key-1')});
queued('key', sub { is(impatient("SELECT apikeys.complete('$id', 200)"), 'f', 'complete cannot be recorded now') });
is(value("SELECT apikeys.complete('$id', 200)"), 't', 'later it can');
value('ALTER SYSTEM RESET apikeys.log_requests');
$node->reload;
until_true($node, q{SELECT current_setting('apikeys.log_requests') = 'on'}, 'requests are logged');

# explain_key belongs to management, and says what is wrong.
my $key_id = value(q{SELECT key_id FROM apikeys.key WHERE alias = 'key-1'});
$holder->query_safe('BEGIN; REINDEX INDEX apikeys.account_pkey');
my (undef, undef, $error) = $node->psql('postgres', "SET statement_timeout = '20s'; SET apikeys.queue_timeout = '50ms'; SELECT explain_checks FROM (SELECT (apikeys.explain_key($key_id)).*) AS explain_checks");
like($error, qr/lock|statement timeout/, 'explain_key does not wait for ever');
$holder->query_safe('ROLLBACK');

# A call leaves no lock on these tables: its open transaction keeps nobody waiting.
$holder->query_safe(q{BEGIN; SELECT apikeys.verify('key-1', ip => '192.0.2.1'), apikeys.authenticate('key-15', product => 'maps')});
is($holder->query_safe(q{SELECT count(*) FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'apikeys'::regnamespace}), '0', 'no lock is left by a call');
value("SET lock_timeout = '10s'; BEGIN; LOCK TABLE apikeys.$_; COMMIT") foreach qw(key account key_product plan tier address_block);
$holder->query_safe('COMMIT');
$holder->quit;

# Every table that the writer writes: requests go on until the queue is full, then they are overloaded; all is written in the end.
my $partition = value(q{SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'apikeys.request_log'::regclass AND pg_get_expr(c.relpartbound, c.oid) LIKE '%FROM (''' || to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD') || '%'});
foreach my $table ('request_log', $partition, 'usage_bucket', 'usage_total')
{
    value('SELECT apikeys.flush()');
    my $units = q{SELECT units FROM apikeys.usage_total WHERE subject = 'k' AND subject_id = } . $key_id;
    my $before = value($units);
    my $admitted;
    queued($table, sub {
        $admitted = value("SET statement_timeout = '60s'; SELECT fill()");
        cmp_ok($admitted, '>', 10, "$table: requests are admitted until the queue is full");
        is(impatient(q{SELECT code FROM apikeys.verify('key-1', repeat('x', 1000))}), 'overloaded', "$table: then they are overloaded");
        until_true($node, q{SELECT writer_state = 'failing' FROM apikeys.stats()}, "$table: the writer says so");
    });
    ledger_ok($node, $table);
    is(value($units) - $before, $admitted, "$table: all admitted units are there");
}

# The record of a blocked address waits for its tables for a moment only: requests are written meanwhile.
queued('audit_log', sub {
    value(q{SELECT apikeys.verify('wrong', ip => ('192.0.2.3/' || 32 + 0 * n)::inet) FROM generate_series(1, 6) AS n});
    is(value(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'audit_log: requests are admitted');
    until_true($node, 'SELECT apikeys.flush()', 'audit_log: they are written');
});
until_true($node, q{SELECT count(*) = 1 FROM apikeys.audit_log WHERE object = 'address_block'}, 'the block is on record in the end');
ledger_ok($node, 'in the end');

$node->stop;
done_testing();
