# A full queue: who is over a limit hears so at once, and nobody is admitted for that.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', <<'EOF');
apikeys.queue_size = 64kB
apikeys.queue_timeout = 5min
statement_timeout = 60s
EOF
$node->safe_psql('postgres', q{
    CREATE EXTENSION apikeys;
    INSERT INTO apikeys.plan (name) VALUES ('default');
    INSERT INTO apikeys.account (account_id, name, plan) VALUES (1, 'acme', 'default');
    INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, limits)
    SELECT n, 1, sha256(convert_to(alias, 'UTF8'))::apikeys.digest, '', '', alias, limits::apikeys.limits
    FROM (VALUES (1, 'used up', '2/hour'), (2, 'half', '2/hour'), (3, 'free', ''), (4, 'unused', '0/hour')) AS k(n, alias, limits)});

is(value(q{SELECT string_agg(code, ' ' ORDER BY n) FROM apikeys.verify_many('{used up,used up,half,free}')}), 'valid valid valid valid', 'three keys are used');
$node->append_conf('postgresql.conf', 'apikeys.writer_enabled = off');
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT writer_state = 'none' FROM apikeys.stats()}), 'nothing is written');

# In one call each verdict waits for its own record alone; first uses are waited for by 64.
my $fresh = 66;
value(qq{INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
    SELECT 100 + n, 1, sha256(convert_to('fresh-' || n, 'UTF8'))::apikeys.digest, '', '', 'fresh-' || n FROM generate_series(1, $fresh) AS n});
is(value(q{SET apikeys.queue_timeout = '100ms';
    SELECT string_agg(code, ' ' ORDER BY n) FROM apikeys.verify_many('{free,fresh-1,unknown,free,used up}')}),
    'valid overloaded invalid valid rate_limited', 'what needs no wait does not fail with a first use that is late');
is(value(qq{SET apikeys.queue_timeout = '100ms';
    SELECT string_agg(DISTINCT code, ' ') FILTER (WHERE n <= $fresh - 1), max(code) FILTER (WHERE n = $fresh), count(request_id)
    FROM apikeys.verify_many((SELECT array_agg('fresh-' || n ORDER BY n) || '{free}' FROM generate_series(2, $fresh) AS n))}),
    'overloaded|valid|1', 'nor with more of them than it waits for at once');
is(value(qq{SET apikeys.queue_timeout = '100ms'; SET apikeys.synchronous_usage = on;
    SELECT string_agg(code, ' ' ORDER BY n) FROM apikeys.verify_many('{free,unknown}')}), 'overloaded invalid', 'if usage is synchronous, each that is recorded waits');

value(q{SET apikeys.queue_timeout = '100ms';
    DO $$ BEGIN WHILE (apikeys.verify('free', repeat('x', 1000))).allowed LOOP END LOOP; WHILE (apikeys.verify('free')).allowed LOOP END LOOP; END $$});
my $full = value('SELECT queue_bytes FROM apikeys.stats()');

is(value(q{SELECT code, remaining, retry_after_s > 3000, request_id IS NULL FROM apikeys.verify('used up')}), 'rate_limited|0|t|t', 'denied by a limit, at once');
is(value(q{SELECT code, remaining FROM apikeys.verify('half', cost => 2)}), 'rate_limited|1', 'denied for its cost, at once');
is(value('SELECT denials_dropped FROM apikeys.stats()'), '2', 'both are dropped');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT code, remaining IS NULL FROM apikeys.verify('half')}), 'overloaded|t', 'whoever would be admitted waits for room');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT code FROM apikeys.verify('unused')}), 'overloaded', 'and so does a first use, even one that is denied');
is(value('SELECT queue_bytes FROM apikeys.stats()'), $full, 'nothing was queued');

# Admitted without a record: it still counts, while the meters live.
$node->append_conf('postgresql.conf', 'apikeys.on_overload = allow');
$node->reload;
ok($node->poll_query_until('postgres', q{SHOW apikeys.on_overload}, 'allow'), 'unrecorded requests are allowed');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT code, remaining, request_id IS NULL FROM apikeys.verify('half')}), 'valid|0|t', 'one is admitted unrecorded');
is(value(q{SELECT code FROM apikeys.verify('half')}), 'rate_limited', 'and the next denied');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT code FROM apikeys.verify('unused')}), 'overloaded', 'a first use is never unrecorded');
is(value('SELECT requests_unrecorded, denials_dropped FROM apikeys.stats()'), '1|3', 'all are counted');

$node->append_conf('postgresql.conf', "apikeys.writer_enabled = on\napikeys.on_overload = deny");
$node->reload;
ok($node->poll_query_until('postgres', q{SHOW apikeys.writer_enabled}, 'on'), 'a writer may run');
is(value('SELECT apikeys.flush()'), 't', 'the queue is written');
is(value(q{SELECT code, request_id IS NOT NULL FROM apikeys.verify('unused')}), 'rate_limited|t', 'the first use is recorded');
is(value(qq{SELECT count(*) FROM apikeys.request_log AS r WHERE r.key_id BETWEEN 101 AND 100 + $fresh}), 65, 'of the first uses in vain, those that were queued are on record');
is(value('SELECT * FROM apikeys.check_ledger()'), '', 'the ledger is balanced');
value(q{UPDATE apikeys.usage_total SET units = units + 1 WHERE subject = 'k' AND subject_id = 2});
is(value(q{SELECT subject, subject_id, expected, found FROM apikeys.check_ledger() WHERE what = 'units in the meter'}), 'k|2|2|1',
    'units that were admitted unrecorded hide none that are missing');
value(q{UPDATE apikeys.usage_total SET units = units - 1 WHERE subject = 'k' AND subject_id = 2});

# No place for a writer: the launcher has one, and the writer of another database the other.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION apikeys');
value(q{INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
    SELECT 5, 1, sha256(convert_to(alias, 'UTF8'))::apikeys.digest, '', '', alias FROM (VALUES ('new')) AS k(alias)});
$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 0");
$node->restart;
my $other = $node->background_psql('other');
$other->query_safe('SELECT apikeys.flush()');
ok($node->poll_query_until('other', 'SELECT writer_pid IS NOT NULL FROM apikeys.stats()'), 'another database has a writer');
my $log_start = -s $node->logfile;
is(value(q{SELECT code, request_id IS NOT NULL FROM apikeys.verify('used up')}), 'rate_limited|t', 'without a writer: denied at once, and queued');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT string_agg(code, ' ' ORDER BY n) FROM apikeys.verify_many('{half,used up,new}')}),
    'overloaded rate_limited overloaded', 'who would be admitted waits for a writer, and so does a first use');
is(value(q{SELECT apikeys.suspend_key(3, 'test') IS NULL; SELECT code, request_id IS NOT NULL FROM apikeys.verify('free'); SELECT apikeys.unsuspend_key(3) IS NULL}),
    "f\nsuspended|t\nf", 'denied by something else than limits: at once');
$node->wait_for_log(qr/could not start apikeys writer for database \d+: the server has no place/, $log_start);
is(value('SELECT writer_state, denials_dropped, requests_unrecorded, verdicts_overloaded FROM apikeys.stats()'), 'none|0|0|2', 'nothing is dropped');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT apikeys.complete((SELECT request_id FROM apikeys.request_log LIMIT 1), 200)}), 'f', 'a completion waits, too');
$node->append_conf('postgresql.conf', 'apikeys.on_overload = allow');
$node->reload;
ok($node->poll_query_until('postgres', q{SHOW apikeys.on_overload}, 'allow'), 'unrecorded requests are allowed');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT string_agg(concat_ws(' ', code, remaining, request_id IS NULL), ', ' ORDER BY n)
    FROM apikeys.verify_many('{half,half,used up,new}')}), 'valid 0 t, rate_limited 0 f, rate_limited 0 f, overloaded t',
    'one is admitted unrecorded, the next denied; a first use is never unrecorded');
is(value('SELECT denials_dropped, requests_unrecorded FROM apikeys.stats()'), '0|1', 'it is counted');
$other->quit;
is(value(q{SET apikeys.queue_timeout = '1min'; SELECT apikeys.flush()}), 't', 'a writer gets the place of the other');
is(value(q{SELECT string_agg(code || ' ' || n, ', ' ORDER BY code) FROM (SELECT code, count(*) AS n FROM apikeys.request_log
    WHERE at > pg_postmaster_start_time() GROUP BY 1) AS r}), 'rate_limited 4, suspended 1', 'it writes what was queued');
is(value('SELECT * FROM apikeys.check_ledger()'), '', 'the ledger is balanced');

# Where nothing is logged, an id is asked whether its key was used: this one is of key 5, which was not.
my $complete = q{SET apikeys.queue_timeout = '100ms'; SELECT apikeys.complete('0190b1b1-0000-7000-8000-000000000a00', 500, 1, 7)};
my $usage = q{SELECT admitted, errors, credits FROM apikeys.usage_total WHERE subject = 'k' AND subject_id = 5};
is(value($complete), 't', 'where requests are logged, a made-up id is taken');
is(value("SELECT apikeys.flush(); $usage"), 't', 'and changes nothing');
$node->append_conf('postgresql.conf', "apikeys.log_requests = off\napikeys.writer_enabled = off");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT writer_state = 'none' FROM apikeys.stats()}), 'nothing is written');
is(value($complete), 'f', 'no usage for a key that was never used');
is(value(q{SET apikeys.queue_timeout = '100ms'; SELECT code FROM apikeys.verify('new')}), 'overloaded', 'its first use is queued');
is(value($complete), 't', 'and has it count');
$node->append_conf('postgresql.conf', 'apikeys.writer_enabled = on');
$node->reload;
ok($node->poll_query_until('postgres', q{SHOW apikeys.writer_enabled}, 'on'), 'a writer may run');
is(value("SET apikeys.queue_timeout = '1min'; SELECT apikeys.flush(); $usage"), "t\n1|1|7", 'once');

$node->stop;
done_testing();
