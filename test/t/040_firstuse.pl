# The first use of a key against its deletion, and what becomes of a first use that is interrupted, refused or one of many.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', <<'EOC');
max_connections = 60
max_prepared_transactions = 5
apikeys.queue_size = '64kB'
apikeys.queue_timeout = '120s'
EOC
$node->safe_psql('postgres', <<'EOC');
CREATE EXTENSION apikeys;
CREATE TABLE told (n int, code text, request_id uuid);
CREATE VIEW guard_locks AS SELECT * FROM pg_locks WHERE locktype = 'advisory' AND objsubid IN (3, 4);
INSERT INTO apikeys.plan (name) VALUES ('basic');
INSERT INTO apikeys.account (account_id, name, plan) VALUES (7, 'alice', 'basic');
-- Key n has the text kn.
CREATE FUNCTION make(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
    SELECT n, 7, sha256(convert_to('k' || n, 'UTF8'))::apikeys.digest, '', '', 'k' || n FROM generate_series(first, last) AS n $$;
CREATE FUNCTION drop_key(n int) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM apikeys.key WHERE key_id = n;
        RETURN 'deleted';
    EXCEPTION WHEN foreign_key_violation THEN
        RETURN 'in use';
    END $$;
CREATE FUNCTION verify(n int, ip inet DEFAULT NULL) RETURNS text LANGUAGE sql AS
    $$ SELECT code FROM apikeys.verify('k' || n, ip => verify.ip) $$;
-- A key is there or was never used; logged requests and usage agree.
CREATE VIEW wrong AS
    SELECT 'used, and gone' AS what, subject_id AS id FROM apikeys.usage_total WHERE subject = 'k' AND NOT EXISTS (SELECT FROM apikeys.key WHERE key_id = subject_id)
    UNION ALL SELECT 'logged, and gone', key_id FROM apikeys.request_log AS l WHERE NOT EXISTS (SELECT FROM apikeys.key AS k WHERE k.key_id = l.key_id)
    UNION ALL SELECT 'told, and not logged', n FROM told WHERE code = 'valid' AND NOT EXISTS (SELECT FROM apikeys.request_log AS l WHERE l.request_id = told.request_id)
    UNION ALL SELECT 'logged and counted differently', key_id
        FROM (SELECT key_id, count(*) FROM apikeys.request_log GROUP BY 1) AS l FULL JOIN (SELECT * FROM apikeys.usage_total WHERE subject = 'k') AS u ON subject_id = key_id
        WHERE count IS DISTINCT FROM admitted + denied;
EOC

# Runs scripts of pgbench, each in so many sessions at once; returns the SQLSTATEs of its errors.
sub bench
{
    my ($sessions, $transactions, @scripts) = @_;
    my @files;
    foreach my $script (@scripts)
    {
        my $file = $node->basedir . '/script' . scalar(@files);
        unlink $file;
        append_to_file($file, $script);
        push @files, '-f', $file;
    }
    my $from = -s $node->logfile;
    IPC::Run::run([ 'pgbench', '-n', '-c', $sessions, '-j', 2, '-t', $transactions, @files, $node->connstr('postgres') ], '>', \my $out, '2>', \my $err);
    like($out, qr{processed: (\d+)/\1\n}, 'all transactions have run');
    return join ' ', substr(slurp_file($node->logfile), $from) =~ /ERROR: .*/g;
}

# Keeps the writer from writing as long as a session holds the lock.
my $locker = $node->background_psql('postgres');

sub stop_writing
{
    $locker->query_safe('BEGIN; LOCK TABLE apikeys.usage_total IN SHARE MODE');
}

sub go_on_writing
{
    $locker->query_safe('ROLLBACK');
    is(value('SELECT apikeys.flush()'), 't', 'the rest was written');
}

my $n = 0;

# Makes so many keys and returns the number of the last one.
sub make_keys
{
    my ($count) = @_;
    value("SELECT make($n + 1, $n + $count)");
    return $n += $count;
}

# Right after its first use, and denied ones are uses.
make_keys(50);
is(value(q{SELECT string_agg(DISTINCT verify(n) || ', ' || drop_key(n), ' ') FROM generate_series(1, 50) AS n}), 'valid, in use', 'a key is used at once');
my $k = make_keys(3);
value(qq{
    SET session_replication_role = replica;
    UPDATE apikeys.key SET expires_at = now() - interval '1 hour' WHERE key_id = $k;
    RESET session_replication_role;
    SELECT apikeys.suspend_key($k - 1, 'why');
    UPDATE apikeys.key SET allowed_ips = ARRAY['192.0.2.0/24'::cidr] WHERE key_id = $k - 2});
is(value("SELECT verify($k) || drop_key($k)"), 'expiredin use', 'an expired key is used');
is(value("SELECT verify($k - 1) || drop_key($k - 1)"), 'suspendedin use', 'a suspended key is used');
is(value("SELECT verify($k - 2, '192.0.3.1') || drop_key($k - 2)"), 'ip_not_allowedin use', 'a key from elsewhere is used');

# Many at once.
$k = make_keys(1);
is(bench(20, 1, "INSERT INTO told SELECT $k, code, request_id FROM apikeys.verify('k$k')"), '', 'no errors');
is(value("SELECT string_agg(DISTINCT code, ' ') || count(*) FROM told WHERE n = $k"), 'valid20', '20 sessions use a key first');

# At random: half of the sessions use keys, half delete them.
make_keys(400);
is( bench(8, 200, map { "\\set n random($k + 1, $n)\n$_" } q{INSERT INTO told SELECT :n, code, request_id FROM apikeys.verify('k' || :n)}, 'SELECT drop_key(:n)'),
    '', 'no errors');
is(value('SELECT apikeys.flush()'), 't', 'all is written');
is(value('SELECT * FROM wrong'), '', 'a key is deleted or used, never both');
cmp_ok(value("SELECT 400 - count(*) FROM apikeys.key WHERE key_id > $k"), '>', 0, 'some keys were deleted');
is(value("SELECT string_agg(DISTINCT code, ' ' ORDER BY code) FROM told WHERE n > $k"), 'invalid valid', 'others were used');

# First uses in opposite orders, each in one transaction and in one call, and deletions of the same keys.
make_keys(100);
is( bench(8, 25, map { "\\set n random($n - 98, $n)\n$_" } 'BEGIN; SELECT verify(:n - 1); SELECT verify(:n); COMMIT;',
        'BEGIN; SELECT verify(:n); SELECT verify(:n - 1); COMMIT;', q{SELECT count(*) FROM apikeys.verify_many(ARRAY['k' || :n, 'k' || :n - 1])},
        'SELECT drop_key(:n)'),
    '', 'no errors');

# A call that has locked one key, and waits for another, hinders nobody.
$k = make_keys(2);
my $deleter = $node->background_psql('postgres', on_error_stop => 0);
$deleter->query_safe("BEGIN; DELETE FROM apikeys.key WHERE key_id = $k");
my $many = begin("SELECT code FROM apikeys.verify_many(ARRAY['k' || $k - 1, 'k' || $k])");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM apikeys.usage_total WHERE subject = 'k' AND subject_id = $k - 1"), 'one is used');
is($deleter->query("SELECT drop_key($k - 1)"), 'in use', 'which the other learns without delay');
$deleter->query_safe('ROLLBACK');
is(end($many), 'valid valid', 'both are used');
$deleter->quit;

# More than are locked at a time.
make_keys(150);
is(value("SELECT string_agg(DISTINCT code, ' ') || count(*) FROM apikeys.verify_many(ARRAY(SELECT 'k' || n FROM generate_series($n - 149, $n) AS n))"), 'valid150', 'many first uses');
is(value("SELECT string_agg(DISTINCT drop_key(n), ' ') FROM generate_series($n - 149, $n) AS n"), 'in use', 'are uses');
make_keys(150);
stop_writing();
is(result("SET apikeys.queue_timeout = '3s'; SELECT string_agg(DISTINCT code, ' ') || count(*) FROM apikeys.verify_many(ARRAY(SELECT 'k' || n FROM generate_series($n - 149, $n) AS n))"),
    'overloaded150', 'and none is told before it is durable');
is(value('SELECT count(*) FROM guard_locks'), '0', 'no lock is left');
go_on_writing();
is(value("SELECT count(*) FROM apikeys.request_log WHERE key_id > $n - 150"), '64', 'those that were queued are recorded');

# Rolled back, as a savepoint, a block or a transaction: recorded all the same.
$k = make_keys(3);
is(result("BEGIN; SAVEPOINT s; SELECT verify($k); ROLLBACK TO s; SELECT count(*) FROM guard_locks; SELECT drop_key($k)"), 'valid 0 in use', 'a savepoint');
is(result(qq{
    BEGIN;
    DO \$\$ BEGIN PERFORM verify($k - 1); PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END \$\$;
    SELECT count(*) FROM guard_locks;
    SELECT drop_key($k - 1)}), '0 in use', 'a block');
is(result("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT verify($k - 2); ROLLBACK; SELECT count(*) FROM guard_locks; SELECT drop_key($k - 2)"), 'valid 0 in use', 'a transaction');

# Interrupted while the use is queued: no lock stays, the use does. A session that has used another key before is quick to queue it.
my $warm = 'DO $$ BEGIN PERFORM verify(1); END $$';
foreach my $case (
    [ 'timed out', "$warm; SET statement_timeout = '1s'; SELECT verify(%d)", '57014' ],
    [ 'timed out in a block', "$warm; SET statement_timeout = '1s'; DO \$\$ BEGIN PERFORM verify(%d); EXCEPTION WHEN query_canceled THEN NULL; END \$\$; RESET statement_timeout; SELECT count(*) FROM guard_locks", '0' ],
    [ 'timed out under a savepoint', "$warm; BEGIN; SAVEPOINT s; SET statement_timeout = '1s'; SELECT verify(%d); ROLLBACK TO s; SELECT count(*) FROM guard_locks", '0 57014' ],
    [ 'waited out', "$warm; SET apikeys.queue_timeout = '1s'; SELECT verify(%d); SELECT count(*) FROM guard_locks", 'overloaded 0' ],
    [ 'cancelled', 'SELECT verify(%d)', '57014', 'pg_cancel_backend' ],
    [ 'terminated', 'SELECT verify(%d)', '57P01', 'pg_terminate_backend' ])
{
    my ($name, $sql, $expected, $function) = @$case;
    $k = make_keys(1);
    stop_writing();
    my $session = begin(sprintf $sql, $k);
    if ($function)
    {
        ok($node->poll_query_until('postgres', 'SELECT count(*) = 2 FROM guard_locks'), "$name: it waits");
        value("SELECT $function(pid) FROM guard_locks LIMIT 1");
    }
    is(end($session), $expected, "$name: it ended");
    is(value('SELECT count(*) FROM guard_locks'), '0', "$name: no lock is left");
    is(value("SELECT drop_key($k)"), 'in use', "$name: the key is used");
    # Ways around a DELETE of the row.
    is(result("SET session_replication_role = replica; SELECT drop_key($k)"), 'in use', "$name: for a replica too");
    is(result('TRUNCATE apikeys.key CASCADE'), '23503', "$name: for TRUNCATE too");
    is( result(q{
        BEGIN;
        ALTER TABLE apikeys.key DROP CONSTRAINT key_account_id_fkey, ADD FOREIGN KEY (account_id) REFERENCES apikeys.account ON DELETE CASCADE;
        DELETE FROM apikeys.account}), '23503', "$name: for a cascade too");

    my $second = begin("SELECT verify($k)");
    is(result("SET apikeys.queue_timeout = '100ms'; SELECT verify($k)"), 'overloaded', "$name: the next use waits for it");
    go_on_writing();
    is(end($second), 'valid', "$name: which comes");
    is(value("SELECT count(*) FROM apikeys.request_log WHERE key_id = $k"), '3', "$name: all are recorded");
}

# A full queue takes no first use, admitted or denied, nor another before that is durable, whatever becomes of others.
value(q{ALTER SYSTEM SET apikeys.on_overload = 'allow'});
value('SELECT pg_reload_conf()');
ok($node->poll_query_until('postgres', q{SELECT current_setting('apikeys.on_overload') = 'allow'}), 'others are admitted without a record');
$k = make_keys(3);
value("SELECT apikeys.suspend_key($k - 1, 'why')");
stop_writing();
is(result("SET apikeys.queue_timeout = '100ms'; SELECT verify($k - 2)"), 'overloaded', 'a first use is queued');
is( result(q{
    SET apikeys.queue_timeout = '50ms';
    DO $$
    DECLARE
        size int = 2000;
        unrecorded bigint;
    BEGIN
        WHILE size > 0 LOOP
            unrecorded = (SELECT requests_unrecorded FROM apikeys.stats());
            PERFORM apikeys.verify('k1', repeat('x', size));
            size = CASE WHEN (SELECT requests_unrecorded FROM apikeys.stats()) > unrecorded THEN (size > 1)::int ELSE size END;
        END LOOP;
    END $$;
    SELECT verify(1)}), 'valid', 'the queue is full');
is(result("SET apikeys.queue_timeout = '100ms'; SELECT verify(n) FROM generate_series($k - 2, $k) AS n"), 'overloaded overloaded overloaded', 'no first use is told');
is(value('SELECT count(*) FROM guard_locks'), '0', 'no lock is left');
go_on_writing();
is(value("SELECT string_agg(drop_key(n), ', ') FROM generate_series($k - 2, $k) AS n"), 'in use, deleted, deleted', 'only the queued one was a use');
is(value('SELECT * FROM wrong'), '', 'keys, log and usage agree');
$locker->quit;

# The table of keys does not go with its owner.
value('CREATE ROLE keeper; ALTER TABLE apikeys.key OWNER TO keeper');
is(result('DROP OWNED BY keeper'), '2BP01', 'DROP OWNED is refused');
is(result('DROP OWNED BY keeper CASCADE'), '2BP01', 'with CASCADE too');
value('ALTER TABLE apikeys.key OWNER TO CURRENT_USER');

# A crash right after the verdict.
foreach my $synchronous ('off', 'on')
{
    $k = make_keys(1);
    is(result("SET apikeys.synchronous_usage = $synchronous; SELECT verify($k)"), 'valid', 'a first use');
    $node->stop('immediate');
    $node->start;
    is(value("SELECT drop_key($k)"), 'in use', "is one after a crash, synchronous $synchronous");
    is(value("SELECT count(*) FROM apikeys.request_log WHERE key_id = $k"), '1', 'and is recorded');
}

# A deletion that is prepared, then a crash.
foreach my $case ([ 'COMMIT', 'invalid' ], [ 'ROLLBACK', 'valid in use' ])
{
    my ($end, $expected) = @$case;
    $k = make_keys(1);
    value("BEGIN; SELECT drop_key($k); PREPARE TRANSACTION 'deletion'");
    $node->stop('immediate');
    $node->start;
    is(result("SET apikeys.queue_timeout = '100ms'; SELECT verify($k)"), 'overloaded', 'a prepared deletion holds uses off after a crash');
    my $use = begin("SELECT verify($k); SELECT drop_key($k) FROM apikeys.key WHERE key_id = $k");
    value("$end PREPARED 'deletion'");
    is(end($use), $expected, "$end PREPARED");
}
is(value('SELECT apikeys.flush()'), 't', 'all is written');
is(value('SELECT * FROM wrong'), '', 'keys, log and usage agree');
is(value('SELECT * FROM apikeys.check_ledger()'), '', 'the ledger holds');
$node->stop;
done_testing();
