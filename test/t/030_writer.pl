# The writer under attack: terminated, killed, cancelled, switched off, given what it cannot write, locked out. What was
# acknowledged is recorded once, and a writer comes back.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Engine;
use Server;

my $node = engine_node('main', "apikeys.queue_size = 64kB\napikeys.queue_timeout = 60s");

my $logged = 'SELECT count(*) FROM apikeys.request_log';

# Runs a statement again and again while pgbench runs, until it has met so many writers and was run so many times; each request that
# pgbench saw admitted must be in the log, once. Returns how many writers the statement has met.
sub attack
{
    my ($what, $statement, $pause_ms, $writers, $times, @load) = @_;
    value('SELECT apikeys.flush()');
    my $before = value($logged);
    my ($admitted, $attacks, $failures) = (0, 0, 0);
    my %pids;
    ok(wait_until(sub {
        my $load = load_start($node, 'postgres', @load);
        while ($load->{run}->pumpable)
        {
            my $pid = value($statement);
            $pids{$pid} = 1 if $pid;
            $attacks++;
            usleep($pause_ms * 1000);
            $load->{run}->pump_nb if $load->{run}->pumpable;
        }
        my ($count, $well) = load_finish($load);
        $admitted += $count;
        $well or ++$failures and diag($load->{err});
        return !$well || keys %pids >= $writers && $attacks >= $times;
    }), "$what: often enough");
    is($failures, 0, "$what: no request failed");
    ledger_ok($node, $what);
    is(value($logged) - $before, $admitted, "$what: each admitted request is recorded");
    return scalar keys %pids;
}

my $terminate = 'SELECT writer_pid FROM apikeys.stats() WHERE pg_terminate_backend(writer_pid)';
my $cancel = 'SELECT writer_pid FROM apikeys.stats() WHERE pg_cancel_backend(writer_pid)';
attack('terminated under load', $terminate, 100, 4, 4, '-c', '4', '-t', '5000');
attack('terminated between sessions', $terminate, 20, 4, 4, '-C', '-c', '2', '-t', '150');
my $session = $node->background_psql('postgres');
$session->query_safe('SELECT apikeys.flush()');
is(attack('cancelled', $cancel, 5, 1, 40, '-c', '2', '-t', '2000'), 1, 'one writer went through it all');
$session->quit;

# The launcher goes, then the writer: both come back.
my $launcher = value(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'apikeys launcher'});
value("SELECT pg_terminate_backend($launcher)");
until_true($node, "SELECT pid <> $launcher FROM pg_stat_activity WHERE backend_type = 'apikeys launcher'", 'a launcher is back');
value(q{SELECT pg_terminate_backend(writer_pid, 10000) FROM apikeys.stats()});
is(verdict_code($node, 'key-1'), 'valid', 'and starts a writer');
ledger_ok($node, 'launcher terminated');

# Killed: the server restarts. What was flushed is there, nothing is there twice, and no meter has forgotten it.
my $load = load_start($node, 'postgres', '-c', '4', '-T', '60');
until_true($node, 'SELECT events_written > 500 FROM apikeys.stats()', 'there is load');
my ($flushed) = value("SELECT apikeys.flush(); $logged") =~ /^t\n(\d+)$/;
kill 'KILL', writer_pid($node);
load_finish($load);
until_true($node, 'SELECT NOT pg_is_in_recovery()', 'the server is back');
cmp_ok(value($logged), '>=', $flushed, 'all that was flushed is there');
is(verdict_code($node, 'key-1'), 'valid', 'requests go on after a crash');
ledger_ok($node, 'writer killed');

# A writer that makes the server crash whenever it starts: with the switch off the server stays up, and requests go on.
my $crashes = 0;
ok(wait_until(sub {
    my $out = answer($node, q{SELECT apikeys.verify('key-1') IS NULL; SELECT writer_pid FROM apikeys.stats()});
    $crashes += kill 'KILL', $1 if ($out // '') =~ /^(\d+)$/m;
    return $crashes == 3;
}), 'the writer crashes again and again');
$node->append_conf('postgresql.conf', 'apikeys.writer_enabled = off');
$node->stop('immediate');
$node->start;
my $log_of_peace = -s $node->logfile;
is(value(q{SELECT count(*) FROM generate_series(1, 15) AS n, LATERAL apikeys.verify('key-' || n) AS v WHERE allowed}), '15', 'without a writer requests go on');
is(value(q{SELECT writer_state, queue_bytes > 0 FROM apikeys.stats()}), 'none|t', 'and wait for one');
unlike(slurp_file($node->logfile, $log_of_peace), qr/terminated by signal/, 'nothing crashes');
set_conf($node, 'apikeys.writer_enabled = on', 'SELECT apikeys.flush()', 'a writer comes when it may');
ledger_ok($node, 'a writer that crashed at its start');

# Switched off: the queue fills, then nothing is acknowledged that is not recorded.
set_conf($node, "apikeys.writer_enabled = off\napikeys.queue_timeout = 300ms", q{SELECT writer_state = 'none' FROM apikeys.stats()}, 'the writer goes');
my $before = value($logged);
my $filled = value('SELECT fill()');
cmp_ok($filled, '>', 100, 'the queue takes requests until it is full');
cmp_ok($filled, '<', 1000, 'and no more');
is(value('SELECT verdicts_overloaded FROM apikeys.stats()'), '1', 'overloaded verdicts are counted');
is(verdict_code($node, 'suspended'), 'suspended', 'a denied request needs no room');
is(value('SELECT denials_dropped FROM apikeys.stats()'), '1', 'and is counted as dropped');
is(verdict_code($node, 'key-16'), 'overloaded', 'a first use is not admitted');
set_conf($node, 'apikeys.on_overload = allow', q{SELECT current_setting('apikeys.on_overload') = 'allow'}, 'requests are allowed');
is(value(q{SELECT code, request_id IS NULL FROM apikeys.verify('key-1')}), 'valid|t', 'admitted without a record');
is(value('SELECT requests_unrecorded FROM apikeys.stats()'), '1', 'and counted');
is(verdict_code($node, 'key-16'), 'overloaded', 'a first use is not, even so');
set_conf($node, "apikeys.writer_enabled = on\napikeys.on_overload = deny\napikeys.queue_timeout = 60s", q{SELECT apikeys.flush()}, 'the queue drains');
is(value($logged) - $before, $filled, 'each recorded request is in the log');
is(verdict_code($node, 'key-16'), 'valid', 'the first use is admitted');
ledger_ok($node, 'switched off and on');
is(value('SELECT queue_bytes FROM apikeys.stats()'), '0', 'the queue is empty');

# Events that cannot be written: put aside, counted; the others are in the log.
value(q{ALTER TABLE apikeys.request_log
    ADD CONSTRAINT poison CHECK (endpoint <> '/poison') NOT VALID, ADD CONSTRAINT poison_late CHECK (status <> 418) NOT VALID});
$before = value($logged);
value(q{SELECT apikeys.verify('key-' || 1 + n % 15, CASE WHEN n IN (7, 150, 151, 299) THEN '/poison' ELSE '/good' END) FROM generate_series(1, 300) AS n});
value(q{SELECT apikeys.complete(request_id, 200) FROM apikeys.verify('key-17', '/poison')});
until_true($node, 'SELECT apikeys.flush()', 'poison: the writer goes on');
is(value($logged) - $before, 296, 'poison: the others are in the log');
is(value(q{SELECT count(*), bool_and(reason ~ 'violates check constraint "poison"') FROM apikeys.quarantine WHERE event->>'code' = 'valid'}), '5|t', 'poison: it is in quarantine');
is(value(q{SELECT events_quarantined, writer_state, last_error ~ 'violates check constraint "poison"' FROM apikeys.stats()}), '5|running|t', 'poison: it shows');
is(value(q{SELECT admitted FROM apikeys.usage_total JOIN apikeys.key ON subject_id = key_id WHERE subject = 'k' AND alias = 'key-17'}), '1', 'poison: it counts');
is(verdict_code($node, 'key-17'), 'valid', 'poison: its first use is on record');
ledger_ok($node, 'poison');

# Nothing of a poison event is lost: it has all that its row would have, and counts as if it were there, whatever of it is poison.
sub credits
{
    return value(q{SELECT t.errors, t.credits FROM apikeys.usage_total AS t JOIN apikeys.key ON subject_id = key_id WHERE subject = 'k' AND alias = 'key-5'});
}

sub quarantined
{
    return value(qq{SELECT string_agg(concat(e.key, '=', e.value), ' ' ORDER BY e.key)
        FROM apikeys.quarantine AS q, jsonb_each_text(q.event - '{at,request_id}'::text[]) AS e WHERE q.event->>'request_id' = '$_[0]'});
}

sub complete_and_flush
{
    my ($id, $how) = @_;
    is(value(qq{SELECT apikeys.complete('$id', $how)}), 't', "completed with $how");
    return ledger_ok($node, "completed with $how");
}

value(q{UPDATE apikeys.key SET category = 'staging' WHERE alias = 'key-5'});
my $ids = value(q{SELECT k.account_id, k.key_id FROM apikeys.key AS k WHERE k.alias = 'key-5'});
my ($account_id, $key_id) = split /\|/, $ids;
is(credits(), '0|0', 'poison: no credits yet');
my $poison = value(q{SELECT request_id FROM apikeys.verify('key-5', '/poison', '192.0.2.7', product => 'tiles', cost => 3)});
ledger_ok($node, 'poison request');
is(quarantined($poison), "account_id=$account_id category=staging code=valid completed=false cost=3 credits= duration_ms= endpoint=/poison ip=192.0.2.7 key_id=$key_id previous=false product=tiles status=200",
    'poison request: all of it is in quarantine');
complete_and_flush($poison, '503, 2.5, 40');
is(credits(), '1|40', 'its completion counts');
complete_and_flush($poison, '503, 2.5, 1');
is(credits(), '1|40', 'once');
like(quarantined($poison), qr/ completed=true cost=3 credits=40 duration_ms=2.5 .* status=503$/, 'and joins it');
my $good = value(q{SELECT request_id FROM apikeys.verify('key-5', '/good')});
ledger_ok($node, 'good request');
complete_and_flush($good, '418, 1.5, 500');
is(credits(), '2|540', 'poison completion: it counts');
is(quarantined($good), "account_id=$account_id category= code= completed=true cost= credits=500 duration_ms=1.5 endpoint= ip= key_id=$key_id previous= product= status=418",
    'poison completion: all of it is in quarantine');
complete_and_flush($good, '418, 1.5, 1');
complete_and_flush($good, '200, 1, 1');
is(credits(), '2|540', 'poison completion: the first one wins');
is(value(qq{SELECT status, completed FROM apikeys.request_log WHERE request_id = '$good'}), '200|f', 'poison completion: the log has none');
is(value(qq{SELECT count(*) FROM apikeys.quarantine AS q JOIN apikeys.request_log AS l ON l.at = (q.event->>'at')::timestamptz WHERE l.request_id = '$good'}), '1',
    'poison completion: it tells when its request was');

# What was put aside goes back as the documentation says.
my ($repair) = slurp_file("$FindBin::RealBin/../../docs/operations.md") =~ /^## Quarantine.*?^```sql\n(.*?)^```/ms;
value('ALTER TABLE apikeys.request_log DROP CONSTRAINT poison_late');
$node->psql('postgres', $repair, stderr => \my $refused);
like($refused, qr/poison/, 'what is poison still stays in quarantine');
value('ALTER TABLE apikeys.request_log DROP CONSTRAINT poison');
value($repair);
is(value('SELECT count(*) FROM apikeys.quarantine'), '0', 'repaired: nothing is in quarantine');
ledger_ok($node, 'repaired');
is(value(qq{SELECT endpoint, status, duration_ms, credits, ip, cost, category, product, completed FROM apikeys.request_log WHERE request_id IN ('$poison', '$good') ORDER BY 1}),
    "/good|418|1.5|500||1|staging||t\n/poison|503|2.5|40|192.0.2.7|3|staging|tiles|t", 'repaired: the log has all of it');

# Behind a poison event batches grow again.
value(q{ALTER TABLE apikeys.request_log ADD CONSTRAINT poison CHECK (endpoint <> '/poison') NOT VALID});
$session = $node->background_psql('postgres');
$session->query_safe('BEGIN; LOCK TABLE apikeys.request_log');
value(q{SELECT apikeys.verify('key-1', CASE n WHEN 1 THEN '/poison' ELSE '/behind' END) FROM generate_series(1, 300) AS n});
$session->query_safe('COMMIT');
$session->quit;
ledger_ok($node, 'behind poison');
cmp_ok(value(q{SELECT count(DISTINCT xmin::text) FROM apikeys.request_log WHERE endpoint = '/behind'}), '<', 20, 'batches grow again behind a poison event');
is(value(q{SELECT count(*) FROM apikeys.request_log WHERE endpoint = '/behind'}), '299', 'all that is behind it is in the log');

# What fails outside of a batch does not end the writer. (PostgreSQL 18 remembers what it has read in the catalog, and comes to the table.)
my $writer = writer_pid($node);
$session = $node->background_psql('postgres');
$session->query_safe('BEGIN; LOCK TABLE pg_catalog.pg_extension, apikeys.usage_bucket');
my $from = -s $node->logfile;
value(q{SET apikeys.queue_timeout = '100ms'; SELECT apikeys.maintain()});
until_logged(qr/maintenance was put off: canceling statement due to lock timeout/, $from, 'catalog locked: maintenance is put off');
$session->query_safe('COMMIT');
is(writer_pid($node), $writer, 'catalog locked: the writer goes on');

# Rows of usage that are not where they were: the writer remembers places, and finds the rows all the same.
$writer = writer_pid($node);
$session = $node->background_psql('postgres');
$session->query_safe('SELECT apikeys.flush()');
foreach my $move ('CLUSTER %s USING %s_pkey', 'VACUUM FULL %s', 'CREATE TEMP TABLE aside AS SELECT * FROM %1$s;
    ALTER TABLE %1$s DISABLE TRIGGER %2$s_guard_truncate; TRUNCATE %1$s; ALTER TABLE %1$s ENABLE ALWAYS TRIGGER %2$s_guard_truncate;
    INSERT INTO %1$s SELECT * FROM aside ORDER BY subject_id DESC')
{
    value(sprintf $move, "apikeys.$_", $_) foreach qw(usage_total usage_bucket);
    value(q{SELECT apikeys.verify('key-' || n) FROM generate_series(1, 15) AS n});
    ledger_ok($node, "moved by $move");
}
is(writer_pid($node), $writer, 'moved: the same writer found them');
$session->quit;

# The log locked by another session: nobody waits, nothing is lost.
$before = value($logged);
$session->query_safe('BEGIN');
$session->query_safe('LOCK TABLE apikeys.request_log');
is(value(q{SELECT count(*) FROM generate_series(1, 100) AS n, LATERAL apikeys.verify('key-' || 1 + n % 15) AS v WHERE allowed}), '100', 'locked: requests go on');
until_true($node, q{SELECT writer_state = 'failing' AND queue_bytes > 0 FROM apikeys.stats()}, 'locked: the writer waits');
$session->query_safe('COMMIT');
ledger_ok($node, 'locked');
is(value($logged) - $before, 100, 'locked: all are in the log');

# Locked by the caller: what would have to wait for itself is overloaded at the timeout, and recorded.
$before = value($logged);
$session->query_safe(q{BEGIN; LOCK TABLE apikeys.request_log; SET LOCAL apikeys.queue_timeout = '300ms'});
is($session->query_safe(q{SELECT code FROM apikeys.verify('key-2')}), 'valid', 'locked by the caller: a request goes on');
is($session->query_safe(q{SELECT code, request_id IS NULL FROM apikeys.verify('key-18')}), 'overloaded|t', 'locked by the caller: a first use does not');
$session->query_safe('SET LOCAL apikeys.synchronous_usage = on');
is($session->query_safe(q{SELECT code FROM apikeys.verify('key-2')}), 'overloaded', 'nor a synchronous request');
$session->query_safe('COMMIT');
ledger_ok($node, 'locked by the caller');
is(value($logged) - $before, 3, 'all three are recorded');
is(value(q{SELECT code FROM apikeys.request_log JOIN apikeys.key USING (key_id) WHERE alias = 'key-18'}), 'valid', 'the first use was one');

# A standby that is not there stalls nobody: requests wait for local WAL at most.
$before = value($logged);
set_conf($node, q{synchronous_standby_names = 'nope'}, q{SELECT current_setting('synchronous_standby_names') = 'nope'}, 'a standby is missing');
is(verdict_code($node, 'key-3'), 'valid', 'missing standby: a request');
is(verdict_code($node, 'key-19'), 'valid', 'missing standby: a first use');
is(verdict_code($node, 'key-3', 'SET apikeys.synchronous_usage = on'), 'valid', 'missing standby: a synchronous request');
$session->quit;
$node->stop('fast');
$node->start;
is(value($logged) - $before, 3, 'missing standby: a fast stop has written all');
ledger_ok($node, 'missing standby');

set_conf($node, q{synchronous_standby_names = ''}, q{SELECT current_setting('synchronous_standby_names') = ''}, 'no standby is missed any more');

# Where usage itself cannot be written, even quarantine fails: the batch waits, with pauses, and is written in the end.
$before = value($logged);
my $log = -s $node->logfile;
$node->safe_psql('postgres', 'ALTER TABLE apikeys.usage_total ADD CONSTRAINT nothing_more CHECK (false) NOT VALID');
is(verdict_code($node, 'key-4'), 'valid', 'usage cannot be written: a request is queued');
until_true($node, q{SELECT writer_state = 'failing' FROM apikeys.stats()}, 'the writer fails');
until_logged(qr/could not write a batch/, $log, 'it says so each time that it has paused', 3);
$node->safe_psql('postgres', 'ALTER TABLE apikeys.usage_total DROP CONSTRAINT nothing_more');
ledger_ok($node, 'usage can be written again');

# Reasons that are no texts to keep as they are: an empty one, and one that is too long, in characters of several bytes.
value(q{CREATE FUNCTION refuse(endpoint text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        IF endpoint = '/silent' THEN RAISE EXCEPTION ''; END IF;
        IF endpoint = '/loud' THEN RAISE EXCEPTION '%', 'xx' || repeat(chr(8364), 400); END IF;
        RETURN true;
    END $$;
    ALTER TABLE apikeys.request_log ADD CONSTRAINT refused CHECK (refuse(endpoint)) NOT VALID;
    SELECT apikeys.verify('key-1', '/silent'), apikeys.verify('key-1', '/loud')});
ledger_ok($node, 'odd reasons');
is(value(q{SELECT reason FROM apikeys.quarantine WHERE event->>'endpoint' = '/silent'}), 'an error without a message', 'a reason without a text');
is(value(q{SELECT reason = 'xx' || repeat(chr(8364), 169) FROM apikeys.quarantine WHERE event->>'endpoint' = '/loud'}), 't', 'a reason that is cut at a character');

$node->stop;
done_testing();
