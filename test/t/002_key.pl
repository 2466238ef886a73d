# Keys made, switched on and extended by many sessions at once: never one too many, whatever the isolation level; and what needs a reload.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $sessions = 50;
my $node = server('main', "shared_preload_libraries = ''\nmax_connections = 60\nlog_line_prefix = 'state=%e '");
$node->safe_psql('postgres', q{
    CREATE EXTENSION apikeys;
    CREATE VIEW live AS SELECT a.name, count(*) FILTER (WHERE k.active AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())) AS keys
        FROM apikeys.account AS a JOIN apikeys.key AS k USING (account_id) GROUP BY a.name;
});

# Runs SQL once in each session, all at the same time, again after a serialization failure. Returns the SQLSTATEs of the
# errors that were not of that kind, each once.
sub in_all_sessions
{
    my ($isolation, $sql) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir() . '/script';
    my $from = -s $node->logfile;

    append_to_file($script, "BEGIN ISOLATION LEVEL $isolation;\nSELECT count(*) FROM apikeys.key;\n$sql;\nCOMMIT;\n");
    IPC::Run::run([ 'pgbench', '-n', '-c', $sessions, '-j', '2', '-t', '1', '--max-tries', '1000', '-f', $script, $node->connstr('postgres') ],
        '>', \my $out, '2>', \my $err);
    like($out, qr/number of clients: $sessions\n/, "$isolation: all sessions have run");
    my $log = substr(slurp_file($node->logfile), $from);
    my %states = map { $_ => 1 } grep { $_ ne '40001' } $log =~ /^state=(\w+) ERROR:/mg;
    return join ' ', sort keys %states;
}

# The first key of all, by all at once: one plan, one account, and an alias for each key.
is(in_all_sessions('READ COMMITTED', q{SELECT apikeys.create_key('fresh')}), '', 'all made a key');
is(value(q{SELECT string_agg(name, ' ') FROM apikeys.plan}), 'default', 'one plan was made');
is(value(q{SELECT string_agg(name, ' ') FROM apikeys.account}), 'fresh', 'one account was made');
is(value(q{SELECT count(*), bool_and(n BETWEEN 1 AND 50) FROM (SELECT DISTINCT substr(alias, 5)::int AS n FROM apikeys.key WHERE alias LIKE 'key-%') AS k}),
    "$sessions|t", 'aliases are key-1 to key-50');

# A rotation is never lost.
is(in_all_sessions('READ COMMITTED', q{SELECT apikeys.rotate_key(apikeys.find_key('fresh', 'key-1'), '1 day')}), '', 'all rotated it');
is(value(q{SELECT rotations FROM apikeys.key WHERE alias = 'key-1'}), $sessions, 'each rotation counts');

value(q{
    INSERT INTO apikeys.plan (name, max_keys) VALUES ('three', 3);
    INSERT INTO apikeys.plan (name, one_key_per_product) VALUES ('single', true);
    INSERT INTO apikeys.product VALUES ('maps');
});
foreach my $isolation ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
    my $prefix = lc substr($isolation, 0, 4);

    # Made.
    value("SELECT apikeys.create_account('$prefix made', 'three')");
    is(in_all_sessions($isolation, "SELECT apikeys.create_key('$prefix made')"), '53400', 'no error but too many keys');
    is(value("SELECT keys FROM live WHERE name = '$prefix made'"), '3', "$isolation: three keys were made");

    # Switched on again.
    value(qq{
        SELECT apikeys.create_account('$prefix active', 'three');
        SELECT apikeys.deactivate_key((apikeys.create_key('$prefix active', 'key ' || n)).key_id) FROM generate_series(0, $sessions - 1) AS n});
    is(in_all_sessions($isolation, "SELECT apikeys.activate_key(apikeys.find_key('$prefix active', 'key ' || :client_id))"),
        '53400', 'no error but too many keys');
    is(value("SELECT keys FROM live WHERE name = '$prefix active'"), '3', "$isolation: three keys are active");

    # Extended by an UPDATE of the table.
    value(qq{
        SELECT apikeys.create_account('$prefix extended', 'three');
        SET apikeys.debug_clock_offset = '-1d';
        SELECT apikeys.deactivate_key((apikeys.create_key('$prefix extended', 'key ' || n, lifetime => '1 hour')).key_id) FROM generate_series(0, $sessions - 1) AS n;
        RESET apikeys.debug_clock_offset;
        UPDATE apikeys.key SET active = true WHERE account_id = (SELECT account_id FROM apikeys.account WHERE name = '$prefix extended')});
    is(in_all_sessions($isolation, "UPDATE apikeys.key SET expires_at = NULL WHERE key_id = apikeys.find_key('$prefix extended', 'key ' || :client_id)"),
        '53400', 'no error but too many keys');
    is(value("SELECT keys FROM live WHERE name = '$prefix extended'"), '3', "$isolation: three keys were extended");

    # One key of an account for a product.
    value("SELECT apikeys.create_account('$prefix single', 'single')");
    is(in_all_sessions($isolation, "SELECT apikeys.create_key('$prefix single', products => '{maps}')"), '23505', 'no error but a second key');
    is(value("SELECT keys FROM live WHERE name = '$prefix single'"), '1', "$isolation: one key was made for the product");
}

# Settings: on first sight, but not where that is off; and what counts as expiring.
value(q{SELECT apikeys.create_key('settings', 'soon', lifetime => '3 days'); UPDATE apikeys.key SET expiry_set_at = '2001-02-03' WHERE alias = 'soon'});
is(value(q{SELECT state FROM apikeys.key_list WHERE alias = 'soon'}), 'expiring', 'expires within 7 days');
$node->append_conf('postgresql.conf', "apikeys.create_accounts = off\napikeys.expiry_notice = '2d'");
$node->reload;
ok($node->poll_query_until('postgres', 'SELECT NOT apikeys_internal.accounts_are_created()'), 'settings are read again');
is(value(q{SELECT state FROM apikeys.key_list WHERE alias = 'soon'}), 'active', 'does not expire within 2 days');
my ($status, undef, $err) = $node->psql('postgres', q{SELECT apikeys.create_key('stranger')}, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
like($err, qr/P0002/, 'no account is made on first sight');
# Not even by who sets it before the library is loaded.
($status, undef, $err) = $node->psql('postgres', q{SET apikeys.create_accounts = on; SELECT apikeys.create_key('stranger')}, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
like($err, qr/P0002/, 'a session cannot turn that on');
value(q{SELECT apikeys.create_key('settings')});

$node->stop;
done_testing();
