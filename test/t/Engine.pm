# What the tests of faults share: a server with the engine, keys to call it with, load on it, and what must hold afterwards.
package Engine;
use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

our @EXPORT = qw(engine_node engine_install load_start load_finish ledger_ok verdict_code writer_pid);

# Keys whose texts are their aliases: key-1 to key-15 are used, key-16 to key-20 not yet, one is used and suspended. fill() fills a queue
# that nobody empties, and returns how many requests were admitted: in the end there is no room for the smallest event, a completion.
my $keys = <<'EOF';
CREATE EXTENSION apikeys;
INSERT INTO apikeys.plan (name) VALUES ('default');
INSERT INTO apikeys.account (name, plan) VALUES ('caller', 'default');
CREATE FUNCTION add_key(alias text) RETURNS bigint LANGUAGE sql AS
$$ INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias)
   SELECT nextval('apikeys.key_number_seq'), account_id, sha256(convert_to($1, 'UTF8'))::apikeys.digest, '', '', $1
   FROM apikeys.account WHERE name = 'caller' RETURNING key_id $$;
SELECT add_key('key-' || n) FROM generate_series(1, 20) AS n;
SELECT apikeys.suspend_key(add_key('suspended'), 'test');
CREATE FUNCTION fill() RETURNS int LANGUAGE plpgsql SET apikeys.queue_timeout = '200ms' AS $$
DECLARE
    n int := 0;
    v apikeys.verdict;
    admitted uuid;
BEGIN
    LOOP
        v := apikeys.verify('key-1', repeat('x', 100));
        EXIT WHEN NOT v.allowed;
        n := n + 1;
        admitted := v.request_id;
    END LOOP;
    WHILE apikeys.complete(admitted, 200) LOOP END LOOP;
    RETURN n;
END $$;
EOF

# Makes the extension and its keys in a database.
sub engine_install
{
    my ($node, $database) = @_;
    $node->safe_psql($database, $keys);
    $node->safe_psql($database, q{SELECT apikeys.verify(alias) FROM apikeys.key WHERE alias !~ '^key-(1[6-9]|20)$'});
    return;
}

# Starts a server with the engine, and more settings.
sub engine_node
{
    my ($name, $settings) = @_;
    my $node = server($name, "restart_after_crash = on\nmax_connections = 40\napikeys.flush_interval = 20ms\n" . ($settings // ''), allows_streaming => 1);
    engine_install($node, 'postgres');
    return $node;
}

# Starts pgbench: each transaction is an admitted request, or an error that ends its client.
sub load_start
{
    my ($node, $database, @options) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir() . '/load';
    my %load = (out => '', err => '');

    append_to_file($script, "\\set n random(1, 15)\nSELECT 1 / allowed::int FROM apikeys.verify('key-' || :n, '/load');\n");
    $load{run} = IPC::Run::start([ 'pgbench', '-n', @options, '-f', $script, $node->connstr($database) ],
        '<', \undef, '>', \$load{out}, '2>', \$load{err}, patience());
    return \%load;
}

# Waits for the end of pgbench; returns how many requests were admitted, and whether no client met an error.
sub load_finish
{
    my ($load) = @_;
    my $well = IPC::Run::finish($load->{run});
    my ($admitted) = $load->{out} =~ /transactions actually processed: (\d+)/;
    return ($admitted, $well);
}

# Flushes, and compares all that is recorded; no request may be there twice.
sub ledger_ok
{
    my ($node, $what, $database) = @_;
    $database //= 'postgres';
    until_true($node, 'SELECT apikeys.flush()', "$what: all is written", $database);
    is($node->safe_psql($database, 'SELECT * FROM apikeys.check_ledger()'), '', "$what: the ledger holds");
    is($node->safe_psql($database, 'SELECT request_id FROM apikeys.request_log GROUP BY 1 HAVING count(*) > 1'), '', "$what: nothing is there twice");
    return;
}

# The verdict on a key, after other statements of the same session.
sub verdict_code
{
    my ($node, $key, @before) = @_;
    return (split /\n/, $node->safe_psql('postgres', join ';', @before, "SELECT code FROM apikeys.verify('$key')"))[-1];
}

sub writer_pid
{
    my ($node) = @_;
    return $node->safe_psql('postgres', 'SELECT writer_pid FROM apikeys.stats()');
}

1;
