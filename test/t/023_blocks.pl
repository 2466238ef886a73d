# Blocked addresses on a whole server: settings that change, many sessions, a flood, restarts, other databases, a standby.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main', 'apikeys.address_memory = 256kB');
$node->safe_psql('postgres', 'CREATE DATABASE other');
engine_install($node, 'other');

# The verdict on a good key from an address.
sub code_from
{
    my ($ip, $database) = @_;
    return value("SELECT code FROM apikeys.verify('key-1', ip => '$ip')", $database);
}

# The different verdicts on so many texts that are no keys.
sub fail_from
{
    my ($ip, $times) = @_;
    return value("SELECT string_agg(DISTINCT v.code, ' ' ORDER BY v.code) FROM generate_series(1, $times) AS n, LATERAL apikeys.verify('no key ' || n, ip => '$ip') AS v");
}

# A session whose statements are typed by the test, one by one.
sub typist
{
    my %session = (typed => '', told => '');
    $session{run} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') ], '<', \$session{typed}, '>', \$session{told},
        IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
    return \%session;
}

sub type
{
    my ($session, $statement) = @_;
    $session->{typed} .= "$statement;\n\\echo typed\n";
    $session->{run}->pump until $session->{told} =~ s/typed\n//;
    return;
}

sub leave
{
    my ($session) = @_;
    $session->{typed} .= "\\q\n";
    $session->{run}->finish;
    return;
}

# Many sessions fail at once, none of which was blocked when it began: no more than 20 hear that their key is invalid, and
# there is one record of it. They meet at an index that somebody makes anew.
my $script = PostgreSQL::Test::Utils::tempdir() . '/guess';
append_to_file($script, q{SET apikeys.queue_timeout = '1h'; INSERT INTO answer SELECT code FROM apikeys.verify('guess', ip => '192.0.2.1');});
value('CREATE UNLOGGED TABLE answer (code text)');
my $locker = typist();
type($locker, 'BEGIN; REINDEX INDEX apikeys.key_digest_key');
my $guesses = IPC::Run::start([ 'pgbench', '-n', '-c', 25, '-t', 1, '-f', $script, $node->connstr('postgres') ], '>', \my $out, '2>', \my $err,
    patience());
until_true($node, q{SELECT count(*) = 25 FROM pg_stat_activity WHERE query ~ '^INSERT INTO answer' AND state = 'active'}, 'many sessions guess from one address');
type($locker, 'ROLLBACK');
ok(IPC::Run::finish($guesses), 'and get an answer');
is(value(q{SELECT string_agg(code || ' ' || n, ', ' ORDER BY code) FROM (SELECT code, count(*) AS n FROM answer GROUP BY code) AS a}), 'invalid 20, ip_blocked 5', 'no more are heard than may fail');
until_true($node, q{SELECT count(*) > 0 FROM apikeys.notice WHERE kind = 'address_blocked'}, 'the block is on record');
is(value(q{SELECT count(*) FROM apikeys.notice WHERE kind = 'address_blocked'}), '1', 'once');
is(value(q{SELECT count(*) FROM apikeys.audit_log WHERE object = 'address_block'}), '1', 'in the audit log, too');
is(code_from('192.0.2.1'), 'ip_blocked', 'the address is blocked');
is(code_from('192.0.2.1', 'other'), 'valid', 'but not in another database');
is(value('SELECT * FROM apikeys.address_block_list', 'other'), '', 'which does not list it');
is(value(q{SELECT count(*) FROM apikeys_internal.lift_automatic_blocks('0.0.0.0/0')}, 'other'), '0', 'nor lifts it');
is(code_from('192.0.2.1'), 'ip_blocked', 'it still is blocked');

# A locked table keeps the record waiting, and nothing else.
type($locker, 'BEGIN; LOCK TABLE apikeys.notice');
fail_from('192.0.2.2', 20);
is(code_from('192.0.2.2'), 'ip_blocked', 'an address is blocked while nothing can be put on record');
is(code_from('192.0.2.3'), 'valid', 'a request is admitted');
until_true($node, 'SELECT apikeys.flush()', 'and written');
is(value(q{SELECT count(*) FROM apikeys.audit_log WHERE object_id = '192.0.2.2/32'}), '0', 'of the block there is nothing yet');
type($locker, 'ROLLBACK');
leave($locker);
until_true($node, q{SELECT count(*) = 1 FROM apikeys.notice WHERE details ->> 'network' = '192.0.2.2/32'}, 'then it is on record');
is(value(q{SELECT count(*) FROM apikeys.audit_log WHERE object_id = '192.0.2.2/32'}), '1', 'as a whole, and once');

# A flood of a million addresses of IPv6 with a failure each: nothing grows, what is blocked stays so, and so do the keys' counters.
fail_from('192.0.2.4', 19);
value(q{SELECT apikeys.verify(alias) FROM apikeys.key WHERE alias ~ '^key-'; SELECT apikeys.flush()});
my $engine = 'SELECT meters_used, rings_used, evictions, addresses_size FROM apikeys.stats()';
my $before = value($engine);
value(q{DO $$
    DECLARE
        ips inet[];
    BEGIN
        FOR round IN 1 .. 100 LOOP
            ips := ARRAY(SELECT concat_ws(':', '2001', to_hex((random() * 65535)::int), to_hex((random() * 65535)::int), to_hex((random() * 65535)::int), ':1')::inet
                         FROM generate_series(1, 10000));
            PERFORM apikeys.verify_many(array_fill('no key'::text, '{10000}'), ips => ips);
        END LOOP;
    END $$});
is(value($engine), $before, 'a flood takes no meter and no more memory');
is(value('SELECT addresses_used = addresses_size FROM apikeys.stats()'), 't', 'it has filled the table of addresses');
is(code_from($_), 'ip_blocked', "$_ is still blocked") foreach qw(192.0.2.1 192.0.2.2);
is(fail_from('192.0.2.4', 1) . ' ' . code_from('192.0.2.4'), 'invalid ip_blocked', 'and who had failed nineteen times needed one more');

# Settings act at a reload; a bad one changes nothing.
set_conf($node, "apikeys.ip_never_blocked = '192.0.2.1, 2001:db8::/32,198.51.100.0/24 '", q{SELECT current_setting('apikeys.ip_never_blocked') <> ''}, 'some networks are never blocked');
is(code_from('192.0.2.1'), 'valid', 'an address of ip_never_blocked is not blocked any more');
is(code_from('192.0.2.2'), 'ip_blocked', 'another is');
is(fail_from($_, 25), 'invalid', "$_ is never blocked, so its failures do not count") foreach qw(198.51.100.7 ::ffff:198.51.100.8 2001:db8:ffff::1);
value(q{SELECT apikeys.block_address('198.51.0.0/16', 'scans')});
is(code_from('198.51.100.7'), 'valid', 'nor does a block by hand');
is(code_from('198.51.101.7'), 'ip_blocked', 'which holds for the others');
is(value(q{SELECT detail FROM apikeys.explain_key((SELECT key_id FROM apikeys.key WHERE alias = 'key-1'), ip => '198.51.100.7') LIMIT 1}), 'the address is never blocked', 'as is explained');
# The client behind trusted proxies.
set_conf($node, "apikeys.trusted_proxies = '10.0.0.0/8, 2001:db8:10::/48'", q{SELECT current_setting('apikeys.trusted_proxies') <> ''}, 'there are proxies');
foreach (
    [ "'192.0.2.1, 10.0.0.2', '10.0.0.1'", '192.0.2.1' ], [ "'198.51.100.1, 192.0.2.1', '10.0.0.1'", '192.0.2.1' ],
    [ "'192.0.2.1', '203.0.113.5'", '203.0.113.5' ], [ "'unknown, 10.0.0.2', '10.0.0.1'", '10.0.0.2' ],
    [ q{'for="[2001:db8::1]:80";proto=https, for=10.0.0.2', '2001:db8:10::1'}, '2001:db8::1' ],
    [ "NULL, '10.0.0.1'", '10.0.0.1' ], [ "repeat('10.0.0.9,', 10000000), '10.0.0.1'", '10.0.0.9' ])
{
    is(value("SELECT apikeys.client_address($_->[0])"), $_->[1], "client_address($_->[0])");
}

my $log = -s $node->logfile;
$node->append_conf('postgresql.conf', "apikeys.ip_never_blocked = 'everybody'");
$node->reload;
ok($node->wait_for_log(qr/invalid value for parameter "apikeys.ip_never_blocked": "everybody"/, $log), 'a bad list is refused');
is(code_from('198.51.100.7'), 'valid', 'the old one holds');

set_conf($node, "apikeys.ip_never_blocked = ''\napikeys.ip_failures = '3/minute'\napikeys.ip_block_duration = 1h", q{SELECT current_setting('apikeys.ip_failures') = '3/minute'}, 'three failures a minute');
is(code_from('192.0.2.1'), 'ip_blocked', 'the address is blocked again');
fail_from('192.0.2.5', 3);
is(value(q{SELECT until - since FROM apikeys.address_block_list WHERE network = '192.0.2.5'}), '01:00:00', 'an address is blocked after three, for an hour');
set_conf($node, 'apikeys.ip_failures = off', q{SELECT current_setting('apikeys.ip_failures') = 'off'}, 'no failures count');
is(fail_from('192.0.2.6', 25), 'invalid', 'failures have no consequence');
is(code_from('192.0.2.5'), 'valid', 'nor have those of before');
is(value('SELECT network FROM apikeys.address_block_list'), '198.51.0.0/16', 'what is blocked by hand stays so');
set_conf($node, "apikeys.ip_failures = '20/10 minutes'", q{SELECT current_setting('apikeys.ip_failures') = '20/10 minutes'}, 'failures count again');

# A standby counts and blocks by itself, for authenticate.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
sub standby_codes
{
    my ($ip, $key, $times) = @_;
    return $standby->safe_psql('postgres', "SELECT string_agg(a.code, ' ' ORDER BY n) FROM generate_series(1, $times) AS n, LATERAL apikeys.authenticate('$key' || left(n::text, 0), ip => '$ip') AS a");
}
is(standby_codes('198.51.7.7', 'key-1', 1), 'ip_blocked', 'on a standby a block by hand holds');
is(standby_codes('192.0.2.1', 'key-1', 1), 'valid', 'what the primary blocked by itself is not blocked there');
standby_codes('192.0.2.9', 'no key', 20);
is(standby_codes('192.0.2.9', 'key-1', 1), 'ip_blocked', 'but what fails there is');
is(code_from('192.0.2.9'), 'valid', 'which is nothing to the primary');
value(q{SELECT apikeys.unblock_address('198.51.0.0/16')});
$node->wait_for_catchup($standby);
is(standby_codes('198.51.7.7', 'key-1', 1), 'valid', 'a block that is lifted is lifted there');
$standby->stop;

# A restart forgets what was blocked by itself, and keeps what was blocked by hand.
value(q{SELECT apikeys.block_address('203.0.113.0/24', 'scans')});
foreach my $mode (qw(fast immediate))
{
    fail_from('192.0.2.10', 20);
    is(code_from('192.0.2.10'), 'ip_blocked', "before a stop in mode $mode an address is blocked");
    $node->stop($mode);
    $node->start;
    is(code_from('192.0.2.10'), 'valid', "after it, it is not");
    is(code_from('203.0.113.1'), 'ip_blocked', 'a block by hand stays');
}
ledger_ok($node, 'in the end');

$node->stop;
done_testing();
