# The wall clock is set forth and back while the server runs: nobody gets more than the limits say, nobody waits longer, and nothing
# hangs. The server, and it alone, lives under libfaketime.
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

my $clock = PostgreSQL::Test::Utils::tempdir() . '/clock';
my %faked = (LD_PRELOAD => '/usr/$LIB/faketime/libfaketime.so.1', FAKETIME_TIMESTAMP_FILE => $clock, FAKETIME_NO_CACHE => 1, FAKETIME_DONT_FAKE_MONOTONIC => 1);
my $node;

# Sets the wall clock of the server so many seconds ahead of the real one.
sub set_wall_clock
{
    my ($ahead) = @_;
    append_to_file("$clock.new", sprintf("%+d\n", $ahead));
    rename "$clock.new", $clock or die "$clock: $!";
    return;
}

# Calls a function that starts the server, under the clock.
sub under_clock
{
    my ($start) = @_;
    local @ENV{ keys %faked } = values %faked;
    return $start->();
}

sub wall_clock_ok
{
    my ($ahead, $what) = @_;
    set_wall_clock($ahead);
    my $seconds = value('SELECT extract(epoch FROM clock_timestamp())') - time;
    cmp_ok(abs($seconds - $ahead), '<', 300, $what);
    return;
}

# Of an account of its own, whose clock is moved in the end.
my $denied = q{SELECT code, ceil(retry_after_s) FROM apikeys.verify('alone')};

# A denial whose promise is that of the one before, or shorter by what has passed.
sub still_denied
{
    my ($before, $what) = @_;
    my ($code, $seconds) = split /\|/, value($denied);
    is($code, 'rate_limited', "$what: denied as before");
    cmp_ok($seconds, '<=', $before, "$what: and for no longer");
    cmp_ok($seconds, '>', $before - 1200, "$what: nor shorter than what has passed meanwhile");
    return $seconds;
}

my $started_at = time - 1;
set_wall_clock(0);
$node = under_clock(sub { engine_node('main', "apikeys.synchronous_usage = on\nrestart_after_crash = on") });
value(q{SELECT apikeys.import_key('other', 'alone', limits => '2/2 hours');
    UPDATE apikeys.key SET expires_at = now() + '30 minutes' WHERE alias = 'key-2'});
is(value(q{SELECT string_agg(code, ' ') FROM apikeys.verify_many('{alone,alone,alone}')}), 'valid valid rate_limited', 'a limit is used up');
my $wait = (split /\|/, value($denied))[1];

# Forth: nothing is freed, what expires does, and whatever waits goes on.
wall_clock_ok(3 * 3600, 'three hours are skipped');
$wait = still_denied($wait, 'forth');
is(verdict_code($node, 'key-2'), 'expired', 'forth: a key has expired');
is(verdict_code($node, 'key-16'), 'valid', 'forth: a first use is recorded');
ledger_ok($node, 'forth');

# A crash of a backend has the server start again what it is made of, not its engine time.
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
my $from = -s $node->logfile;
kill 'KILL', $pid;
$node->wait_for_log(qr/database system is ready to accept connections/, $from);
until_true($node, 'SELECT true', 'the server is back');
eval { $session->quit };
my ($code) = split /\|/, value($denied);
is($code, 'rate_limited', 'after a crash: denied as before');
cmp_ok(value(q{SELECT extract(epoch FROM max(at)) FROM apikeys.request_log}), '<=', time + 1, 'after a crash: engine time goes on');

# Back: nothing is frozen.
wall_clock_ok(-3600, 'the clock goes back, to an hour ago');
$wait = (split /\|/, value($denied))[1];
is(verdict_code($node, 'key-2'), 'valid', 'back: a key has not expired yet');
is(verdict_code($node, 'key-17'), 'valid', 'back: a first use is recorded');
ledger_ok($node, 'back');
is(value("SET apikeys.debug_clock_offset = $wait; " . $denied =~ s/, ceil\(\w+\)//r), 'valid', 'back: when the time has passed, the unit is there');

# To and fro under load: exactly the cap is admitted.
value(q{UPDATE apikeys.key SET limits = '600/hour' WHERE alias = 'key-3'; UPDATE apikeys.key SET limits = '1/hour' WHERE alias = 'key-4'});
my $script = PostgreSQL::Test::Utils::tempdir() . '/load';
append_to_file($script, q{SELECT code FROM apikeys.verify('key-3'), LATERAL (SELECT FROM apikeys.verify('key-4')) AS other;});
my ($steps, $failures) = (0, 0);
do
{
    my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 200, '-f', $script, $node->connstr('postgres') ], '>', \my $out, '2>', \my $err, patience());
    while ($load->pumpable)
    {
        set_wall_clock((3600, -3600, 86400, -86400)[ $steps++ % 4 ]);
        $load->pump_nb;
        select undef, undef, undef, 0.02;
    }
    $load->finish or ++$failures and diag($err);
} until $steps > 8;
is($failures, 0, 'to and fro: no call fails');
set_wall_clock(0);
ledger_ok($node, 'to and fro');
is(value(q{SELECT admitted FROM apikeys.usage_total JOIN apikeys.key ON subject = 'k' AND subject_id = key_id WHERE alias = 'key-3'}), '600', 'to and fro: exactly the cap');
is(value(q{SELECT admitted FROM apikeys.usage_total JOIN apikeys.key ON subject = 'k' AND subject_id = key_id WHERE alias = 'key-4'}), '1', 'to and fro: of another key, too');
is(value("SELECT count(*) FROM apikeys.request_log WHERE at NOT BETWEEN to_timestamp($started_at) AND to_timestamp(@{[ time + 7300 ]})"), '0', 'the log has engine time');

# A server that starts trusts the wall clock: set back, it makes units come back later, set forth, sooner.
value(q{UPDATE apikeys.key SET limits = '2/2 hours' WHERE alias = 'key-5'; SELECT apikeys.verify('key-5'); SELECT apikeys.flush()});
set_wall_clock(-3600);
under_clock(sub { $node->restart });
is(value(q{SELECT code, retry_after_s > 7200 FROM apikeys.verify('key-5')}), 'rate_limited|t', 'started an hour ago: a unit comes back later');
ledger_ok($node, 'started an hour ago');
set_wall_clock(3 * 3600);
under_clock(sub { $node->restart });
is(verdict_code($node, 'key-5'), 'valid', 'started in three hours: it is back');
ledger_ok($node, 'started in three hours');

$node->stop;
done_testing();
