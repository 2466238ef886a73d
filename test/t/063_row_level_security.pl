# docs/row-level-security.md, used from outside: its examples for drivers in one round trip each, through pgBouncer in each of its modes, and
# the statements of PostgREST, word by word. 060_readme runs the page's SQL and compares what it prints.
#
# The example for Node needs the package pg of npm, in the folder that APIKEYS_NODE_MODULES names: the suite `clients` runs it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $page = "$FindBin::RealBin/../../docs/row-level-security.md";
my $node = server('main', "timezone = 'UTC'");
my $folder = PostgreSQL::Test::Utils::tempdir_short();
my @started;

# Makes what the page makes, by its own blocks; errors belong to it.
value('CREATE EXTENSION apikeys');
my $sql = join '', slurp_file($page) =~ /^```sql\n(.*?)^```/msg;
$sql .= "RESET SESSION AUTHORIZATION;\n\\echo \@ :acme_key :rival_key :terraform_key :rival_key_id\n";
IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$sql, '>', \my $printed, '2>', \my $errors, patience());
my ($acme, $rival, $terraform, $rival_id) = $printed =~ /^\@ (\S+) (\S+) (\S+) (\S+)$/m or BAIL_OUT("the page's blocks: $errors");

# A scope-less key of acme, which has one request.
my $scopeless = value(q{SELECT key FROM apikeys.create_key('acme', 'reader', limits => '1/day')});

# Runs a program and returns what it printed.
sub output_of
{
    my (@command) = @_;
    my $held = IPC::Run::run(\@command, '<', \undef, '>', \my $out, '2>', \my $err, patience());
    fail("@command[0, 1]: $err") if !$held;
    return $out;
}

# Starts a program that makes a socket in a folder; returns the folder.
sub start_socket
{
    my ($name, $start) = @_;
    my $socket = "$folder/$name";
    mkdir $socket;
    push @started, $start->($socket);
    wait_until(sub { -S "$socket/.s.PGSQL.5432" }) or BAIL_OUT("$name does not start");
    return $socket;
}

sub pgbouncer
{
    my ($mode) = @_;
    return start_socket($mode, sub {
        my ($socket) = @_;
        append_to_file("$socket/ini", join "\n", '[databases]', '* = host=' . $node->host . ' port=' . $node->port, '[pgbouncer]', "pool_mode = $mode",
            'auth_type = trust', "auth_file = $socket/users", "unix_socket_dir = $socket", 'listen_addr =', 'listen_port = 5432',
            "logfile = $socket/log", 'default_pool_size = 1', '');
        append_to_file("$socket/users", join '', map { qq{"$_" ""\n} } qw(shop_api authenticator));
        return IPC::Run::start([ 'pgbouncer', '-q', "$socket/ini" ], '<', \undef, '>', \my $out, '2>', \my $err);
    });
}

# In front of a server, lets a request take only one round trip (withhold.py).
sub withholding
{
    my ($upstream) = @_;
    return start_socket('withholding', sub {
        my ($socket) = @_;
        return IPC::Run::start([ '/usr/bin/python3', "$FindBin::RealBin/withhold.py", map { "$_/.s.PGSQL.5432" } $socket, $upstream ],
            '<', \undef, '>', \my $out, '2>', \my $err);
    });
}

my $pooled = pgbouncer('transaction');
my $direct = withholding($pooled);
my $answers = "200 apples pears\n401 Invalid API Key\n200 apples pears\nafter: ('nobody', 0)\n";

is(output_of('/usr/bin/python3', "$FindBin::RealBin/pipeline.py", $page, "host=$direct port=5432 user=shop_api dbname=postgres", $acme), $answers,
    'psycopg, through pgBouncer in transaction mode: one round trip a request');
SKIP:
{
    skip 'pg of npm: in the suite clients', 1 if !$ENV{APIKEYS_NODE_MODULES};
    is(output_of('node', "$FindBin::RealBin/pipeline.mjs", $page, $direct, 'postgres', 'shop_api', $acme), $answers,
        'pg of Node, through pgBouncer in transaction mode: one round trip a request');
}

# Two clients of one pooled connection: what one begins is not the other's.
sub in_turn
{
    my ($socket) = @_;
    my @sessions = map { IPC::Run::start([ 'psql', '-XAtq', '-d', "host=$socket port=5432 user=shop_api dbname=postgres" ],
            '<', \$_->{in}, '>', \$_->{out}, '2>', \$_->{err}, patience()) } my @io = ({}, {});
    my $say = sub {
        my ($who, $text) = @_;
        $io[$who]{in} .= "$text\n\\echo done\n";
        $io[$who]{out} = '';
        $sessions[$who]->pump until $io[$who]{out} =~ s/^done\n//m || !$sessions[$who]->pumpable;
        return $io[$who]{out} =~ s/\n+\z//r;
    };
    my @said = (
        $say->(0, "BEGIN; SELECT account FROM apikeys.begin_as('$acme', metered => false); COMMIT;"),
        $say->(1, "SELECT coalesce(apikeys.current_account(), 'nobody'); BEGIN; SELECT account FROM apikeys.begin_as('$rival', metered => false); COMMIT;"),
        $say->(0, "SELECT coalesce(apikeys.current_account(), 'nobody');"));
    $_->finish foreach @sessions;
    return join ' ', map { s/\n/ /gr } @said;
}
is(in_turn($pooled), 'acme nobody rival nobody', 'an identity ends where pgBouncer gives the connection to another');

IPC::Run::run([ 'psql', '-XAtq', '-d', 'host=' . pgbouncer('statement') . ' port=5432 user=shop_api dbname=postgres', '-c', 'BEGIN' ],
    '<', \undef, '>', \my $nothing, '2>', \my $refusal, patience());
like($refusal, qr/transaction blocks not allowed in statement pooling mode/, 'pgBouncer in statement mode refuses BEGIN');
is(output_of('psql', '-XAtq', '-d', 'host=' . pgbouncer('session') . ' port=5432 user=shop_api dbname=postgres', '-c',
        "BEGIN; SELECT account FROM apikeys.begin_as('$acme', metered => false); SELECT count(*) FROM shop.orders; COMMIT"),
    "acme\n2\n", 'pgBouncer in session mode');

# What the page says of parallel scans.
my $plans = value(<<"SQL");
CREATE TABLE shop.wrapped (account text);
CREATE TABLE shop.plain (account text);
INSERT INTO shop.wrapped SELECT 'acme' FROM generate_series(1, 20000);
INSERT INTO shop.plain SELECT account FROM shop.wrapped;
ANALYZE shop.wrapped, shop.plain;
ALTER TABLE shop.wrapped ENABLE ROW LEVEL SECURITY;
ALTER TABLE shop.plain ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON shop.wrapped USING (account = (SELECT apikeys.current_account()));
CREATE POLICY own ON shop.plain USING (account = apikeys.current_account());
GRANT SELECT ON shop.wrapped, shop.plain TO shop_api;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET SESSION AUTHORIZATION shop_api;
BEGIN;
SELECT account FROM apikeys.begin_as('$acme', metered => false);
SELECT count(*) FROM shop.wrapped;
EXPLAIN (COSTS OFF) SELECT count(*) FROM shop.wrapped;
EXPLAIN (COSTS OFF) SELECT count(*) FROM shop.plain;
COMMIT;
SQL
like($plans, qr/^acme\n20000\n.*Parallel Seq Scan on wrapped/s, 'a wrapped call lets a table be scanned in parallel');
like($plans, qr/(?<!Parallel )Seq Scan on plain/, 'an unwrapped one does not');

# PostgREST
foreach my $line (split /\n/, output_of('/usr/bin/python3', "$FindBin::RealBin/postgrest.py", $page, $node->connstr('postgres') . ' user=authenticator',
        $acme, $scopeless, $terraform, $rival_id) // '')
{
    my ($holds, $what) = $line =~ /^(ok|not ok) - (.*)/ or next;
    ok($holds eq 'ok', "PostgREST: $what");
}

$node->stop;
done_testing();

END
{
    my $status = $?;
    $_->kill_kill foreach @started;
    $? = $status;
}
