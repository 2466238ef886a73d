# Notices are announced once what they tell of has committed, by the writer, beside its batches: whatever keeps NOTIFY from
# being sent keeps no request from being recorded.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main', "max_prepared_transactions = 2\napikeys.queue_size = '64kB'");

# A session that listens in a database.
my $heard_in;
sub listener
{
    my ($database) = @_;
    $heard_in = $database;
    my $session = $node->background_psql($database);
    $session->query_safe('LISTEN apikeys');
    return $session;
}

# The kinds of the notices that it hears of until it has heard of so many, in order. The first statement may be another.
sub heard
{
    my ($session, $count, $statement) = @_;
    my @ids;
    wait_until(sub {
        push @ids, $session->query_safe($statement // 'SELECT') =~ /^Asynchronous notification "apikeys" with payload "(\d+)" received/mg;
        undef $statement;
        return @ids >= $count;
    });
    return value(sprintf(q{SELECT string_agg(kind, ' ' ORDER BY place) FROM unnest('{%s}'::bigint[]) WITH ORDINALITY AS i (id, place) JOIN apikeys.notice USING (id)},
        join(',', @ids)), $heard_in);
}

my $unsent = 'SELECT count(*) FROM apikeys.notice WHERE sent_at IS NULL';

# In a database where no key was ever verified: there is no queue, and a writer comes for the notices alone.
value('CREATE DATABASE quiet');
value('CREATE EXTENSION apikeys', 'quiet');
my $listener = listener('quiet');
my $id = value(q{SELECT key_id FROM apikeys.create_key('acme "& co', 'main')}, 'quiet');
my $said = '';
wait_until(sub { ($said .= $listener->query_safe('SELECT')) =~ /Asynchronous/ });
my ($first) = $said =~ /"apikeys" with payload "(\d+)" received/;
is(value("SELECT kind, key_id FROM apikeys.notice WHERE id = $first", 'quiet'), "created|$id", 'a new key is announced, by the id of the notice alone');
is(value('SELECT count(*) FROM apikeys.notice WHERE sent_at >= at', 'quiet'), '1', 'that is noted');

# What is rolled back is not announced; what is in a transaction comes when it ends, all of it.
my $changer = $node->background_psql('quiet');
$changer->query_safe("BEGIN; SELECT apikeys.suspend_key($id, 'x'); ROLLBACK");
$changer->query_safe("BEGIN; SELECT apikeys.deactivate_key($id); SAVEPOINT s; SELECT apikeys.suspend_key($id, 'x'); ROLLBACK TO s; SELECT apikeys.activate_key($id)");
value(q{SELECT apikeys.create_key('rival', 'theirs')}, 'quiet');
is(heard($listener, 1), 'created', 'an open transaction keeps no other from being heard of');
$changer->query_safe("SELECT apikeys.rotate_key($id); COMMIT");
is(heard($listener, 3), 'deactivated activated rotated', 'a transaction is heard of when it has committed, without what was rolled back');

# A prepared transaction wakes nobody; the next look finds it.
$changer->query_safe("BEGIN; SELECT apikeys.deactivate_key($id); PREPARE TRANSACTION 'p'");
value(qq{COMMIT PREPARED 'p'; SELECT apikeys.activate_key($id)}, 'quiet');
is(heard($listener, 2), 'deactivated activated', 'a prepared transaction is heard of, too');

# A row that somebody has locked waits, alone.
value(q{INSERT INTO apikeys.notice (kind) VALUES ('locked')}, 'quiet');
$changer->query_safe(q{BEGIN; SELECT FROM apikeys.notice WHERE kind = 'locked' AND sent_at IS NULL FOR UPDATE});
value("SELECT apikeys.deactivate_key($id)", 'quiet');
is(heard($listener, 1), 'deactivated', 'a locked notice is passed over');
$changer->query_safe('COMMIT');
value("SELECT apikeys.activate_key($id)", 'quiet');
is(heard($listener, 2), 'locked activated', 'and announced later');

# The writer is not in the way.
$changer->quit;
$listener->quit;
value('DROP DATABASE quiet');
pass('a database where notices were made is dropped');

# With a queue, more at once than one transaction announces.
$listener = listener('postgres');
is(verdict_code($node, 'key-1'), 'valid', 'a request');
value(q{SELECT count(apikeys_internal.add_notice('many', NULL, NULL, '{}')) FROM generate_series(1, 2500)});
is(heard($listener, 2500), join(' ', ('many') x 2500), 'many notices are announced, each once');

# Who listens and does not read stalls nobody, and hears all in the end.
my $stalled = listener('postgres');
$stalled->query_safe('BEGIN');
value(q{SELECT apikeys_internal.add_notice('one', NULL, NULL, '{}')});
is(heard($listener, 1), 'one', 'a stalled listener: others hear');
is(verdict_code($node, 'key-1'), 'valid', 'a stalled listener: a request');
is(value('SELECT apikeys.flush()'), 't', 'a stalled listener: it is written');
is(heard($stalled, 1, 'COMMIT'), 'one', 'it hears all that it has missed');
$stalled->quit;

# A standby that is not there: the writer does not wait for it, and another NOTIFY that does keeps the writer from announcing, but
# not from writing.
my $log = -s $node->logfile;
set_conf($node, q{synchronous_standby_names = 'nope'}, q{SELECT current_setting('synchronous_standby_names') = 'nope'}, 'a standby is missing');
value(q{SET synchronous_commit = off; SELECT apikeys_internal.add_notice('two', NULL, NULL, '{}')});
is(heard($listener, 1), 'two', 'missing standby: a notice is announced');
my $waiting = $node->background_psql('postgres');
my $pid = $waiting->query_safe('SELECT pg_backend_pid()');
$waiting->query_until(qr/^asked$/m, "\\echo asked\nBEGIN; CREATE TABLE written (); NOTIFY other; COMMIT;\n");
until_true($node, "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid", 'a NOTIFY waits for the standby');
value(q{SET synchronous_commit = off; SELECT apikeys_internal.add_notice('three', NULL, NULL, '{}')});
until_logged(qr/apikeys notices were put off: canceling statement due to lock timeout/, $log, 'notices are put off');
is(verdict_code($node, 'key-1'), 'valid', 'notices that cannot be sent: a request');
is(value('SELECT apikeys.flush()'), 't', 'notices that cannot be sent: it is written');
is(value($unsent), '1', 'the notice is kept');
set_conf($node, q{synchronous_standby_names = ''}, q{SELECT current_setting('synchronous_standby_names') = ''}, 'no standby is missed any more');
is(heard($listener, 1), 'three', 'and announced when that is possible');
$waiting->quit;

# Without a writer they wait, over a crash, too.
set_conf($node, 'apikeys.writer_enabled = off', q{SELECT current_setting('apikeys.writer_enabled') = 'off'}, 'the writer is off');
until_true($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'apikeys writer')}, 'and gone');
value(q{SELECT apikeys_internal.add_notice('four', NULL, NULL, '{}')});
$listener->quit;
$node->stop('immediate');
$node->start;
is(value($unsent), '1', 'a notice waits for a writer');
$listener = listener('postgres');
set_conf($node, 'apikeys.writer_enabled = on', q{SELECT current_setting('apikeys.writer_enabled') = 'on'}, 'the writer is on');
is(verdict_code($node, 'key-1'), 'valid', 'a request brings it');
is(heard($listener, 1), 'four', 'the notice is announced');
$listener->quit;

# Limits that are nearly or all used, of keys and accounts: once in their window, also over restarts; for each cap.
sub limits_of
{
    my ($account) = @_;
    value('SELECT apikeys.flush()');
    return value(qq{SELECT string_agg(concat_ws(' ', replace(kind, 'limit_', ''), coalesce(alias, 'account'), details ->> 'limit_window', details ->> 'used', details ->> 'cap'), ', ' ORDER BY id)
        FROM apikeys.notice_list WHERE account = '$account' AND kind LIKE 'limit%'});
}

sub requests
{
    my ($key, $costs, @before) = @_;
    return value(join ';', @before, "SELECT string_agg((apikeys.verify('$key', cost => c)).code, ' ' ORDER BY n) FROM unnest('{$costs}'::int[]) WITH ORDINALITY AS t (c, n)");
}

sub make_key
{
    my ($account, $limits) = @_;
    return value("SELECT key FROM apikeys.create_key('$account', 'k', limits => '$limits')");
}

my $text = make_key('one', '10/day, 20/week, 1000/total');
requests($text, '5,2');
is(limits_of('one'), '', 'far from the cap: nothing to tell');
requests($text, '1');
is(limits_of('one'), 'near k day 8 10', '80 %');
requests($text, '1,1,1');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10', 'all');
$node->restart;
requests($text, '1,1');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10', 'once, also over a restart');
$node->stop('immediate');
$node->start;
requests($text, '1');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10', 'once, also over a crash');
value(q{UPDATE apikeys.key SET limits = '16/day, 20/week, 1000/total' WHERE alias = 'k'});
requests($text, '1');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10', 'far again, with another cap');
requests($text, '2');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10, near k day 13 16', 'near that');
# Two at once; and what is left is too little for a request.
requests($text, '3,1');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10, near k day 13 16, reached k day 16 16, near k week 16 20', 'two limits at once');
# A day later.
requests($text, '1', 'SET apikeys.debug_clock_offset = 93600');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10, near k day 13 16, reached k day 16 16, near k week 16 20', 'a day later: no limit has come nearer');
requests($text, '3,1', 'SET apikeys.debug_clock_offset = 93600');
is(limits_of('one'), 'near k day 8 10, reached k day 10 10, near k day 13 16, reached k day 16 16, near k week 16 20, reached k week 20 20', 'the week');

$text = make_key('two', '10/day');
requests($text, '7,4');
is(limits_of('two'), 'reached k day 7 10', 'what is left is too little for a request');
requests($text, '1');
is(limits_of('two'), 'reached k day 7 10', 'enough for another, which is no news then');
requests($text, '1,1,1', 'SET apikeys.debug_clock_offset = 93600');
requests($text, '4,1', 'SET apikeys.debug_clock_offset = 93600');
is(limits_of('two'), 'reached k day 7 10, near k day 8 10', 'near in another day');

# Limits of the account; a cap of nothing is never near; neither is one that is checked only.
value(q{SELECT apikeys.create_account('three', limits => '5/hour, 0/second')});
$text = make_key('three', '');
requests($text, '1');
is(limits_of('three'), '', 'a cap of 0');
value(q{UPDATE apikeys.account SET limits = '5/hour' WHERE name = 'three'});
requests($text, '3,0,0');
is(limits_of('three'), '', 'checks only');
requests($text, '1,1');
is(limits_of('three'), 'near account hour 4 5, reached account hour 5 5', 'limits of an account');

# Where the queue has room for the request alone, the next request tells of the limit.
$text = make_key('full', '10/day');
requests($text, '6,1');
set_conf($node, 'apikeys.writer_enabled = off', q{SELECT current_setting('apikeys.writer_enabled') = 'off'}, 'the writer is off');
until_true($node, q{SELECT writer_state = 'none' FROM apikeys.stats()}, 'and gone');
is(value(qq{
    CREATE FUNCTION room() RETURNS bigint LANGUAGE sql AS 'SELECT queue_size - queue_bytes FROM apikeys.stats()';
    DO \$\$
    DECLARE
        before bigint := room();
        size   bigint;
    BEGIN
        PERFORM apikeys.verify('key-1');
        size := before - room();
        WHILE room() >= 2 * size LOOP
            PERFORM apikeys.verify('key-1');
        END LOOP;
    END
    \$\$;
    SELECT v.code, room() < 100 FROM apikeys.verify('$text') AS v}), 'valid|t', 'a request fills the queue');
set_conf($node, 'apikeys.writer_enabled = on', q{SELECT current_setting('apikeys.writer_enabled') = 'on'}, 'the writer is on');
is(requests($text, '0'), 'valid', 'a request brings it, and comes not nearer to the cap');
is(limits_of('full'), 'near k day 8 10', 'it tells of the limit');

# Whoever locks the table of notices keeps no event from being written; the next request tells of the limit again.
$text = make_key('locked', '10/day');
my $locker = $node->background_psql('postgres');
is(requests($text, '1'), 'valid', 'used');
$locker->query_safe('BEGIN; LOCK TABLE apikeys.notice IN SHARE MODE');
$log = -s $node->logfile;
is(requests($text, '7'), 'valid', 'near, while notices cannot be added');
is(value('SELECT apikeys.flush()'), 't', 'it is written');
$node->wait_for_log(qr/apikeys writer could not add notices of limits: canceling statement due to lock timeout/, $log);
is(value(q{SELECT string_agg(code, ' ') FROM apikeys.verify('key-20')}), 'valid', 'another key is used the first time');
is(value('SELECT writer_state FROM apikeys.stats()'), 'running', 'the writer does not fail');
$locker->query_safe('COMMIT');
$locker->quit;
until_true($node, qq{SELECT (apikeys.verify('$text', cost => 0)).allowed AND apikeys.flush() AND EXISTS (SELECT FROM apikeys.notice_list WHERE account = 'locked' AND kind = 'limit_near')},
    'a later request tells of it');
is(limits_of('locked'), 'near k day 8 10', 'once');

# Usage counts without a log, and so do limits.
$text = make_key('four', '10/day');
is(value("SELECT string_agg(DISTINCT code, ' ') FROM apikeys.verify('$text')"), 'valid', 'used');
set_conf($node, 'apikeys.log_requests = off', q{SELECT current_setting('apikeys.log_requests') = 'off'}, 'no log');
requests($text, '7');
is(limits_of('four'), 'near k day 8 10', 'also without a log');
set_conf($node, 'apikeys.log_requests = on', q{SELECT current_setting('apikeys.log_requests') = 'on'}, 'a log again');

# The daily maintenance looks for what expires soon, once, and drops what was announced long ago.
my $expiring = q{SELECT string_agg(alias, ' ' ORDER BY id) FROM apikeys.notice_list WHERE kind = 'expiring'};
value(q{SELECT apikeys.create_key('five', 'soon', lifetime => '6 days'), apikeys.create_key('five', 'later', lifetime => '8 days');
    UPDATE apikeys.key SET expiry_set_at = '2001-02-03' WHERE alias IN ('soon', 'later')});
is(value('SELECT apikeys.maintain()'), 't', 'cared');
is(value($expiring), 'soon', 'what expires soon');
$node->restart;
set_conf($node, q{apikeys.expiry_notice = '9d'}, q{SELECT current_setting('apikeys.expiry_notice') = '9d'}, 'sooner');
until_true($node, "SELECT apikeys.maintain() AND ($expiring) = 'soon later'", 'once');
value(q{SELECT apikeys.create_key('five', 'third', lifetime => '1 day')});
set_conf($node, q{apikeys.expiry_notice = 0}, q{SELECT current_setting('apikeys.expiry_notice') = '0'}, 'never');
until_true($node, q{SELECT apikeys.maintain()}, 'cared again');
is(value($expiring), 'soon later', 'a notice of 0: none');
set_conf($node, 'apikeys.notice_retention = 2', q{SELECT current_setting('apikeys.notice_retention') = '2'}, 'kept for two days');
until_true($node, "SELECT NOT EXISTS (SELECT FROM apikeys.notice WHERE sent_at IS NULL)", 'all is announced');
value(q{UPDATE apikeys.notice SET sent_at = now() - interval '49 hours' WHERE kind = 'expiring'; UPDATE apikeys.notice SET sent_at = now() - interval '47 hours' WHERE kind LIKE 'limit%'});
my $kept = value(q{SELECT count(*) FROM apikeys.notice WHERE kind LIKE 'limit%'});
until_true($node, "SELECT apikeys.maintain() AND ($expiring) IS NULL", 'what was announced long ago is dropped');
is(value(q{SELECT count(*) FROM apikeys.notice WHERE kind LIKE 'limit%'}), $kept, 'the rest is kept');

ledger_ok($node, 'notices');

# Notices that cannot be announced keep nobody from dropping the database.
value('CREATE DATABASE failing');
value(q{CREATE EXTENSION apikeys; ALTER TABLE apikeys.notice ADD CHECK (sent_at IS NULL)}, 'failing');
$log = -s $node->logfile;
value(q{SELECT apikeys.create_key('acme', 'main')}, 'failing');
$node->wait_for_log(qr/apikeys notices were put off: new row for relation "notice" violates check constraint/, $log);
until_true($node, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'failing')}, 'the writer gives up');
value('DROP DATABASE failing');
$node->stop;
done_testing();
