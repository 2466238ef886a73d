# Secret hunt: keys are issued, used and abused in every way, with all logged that can be; then no file of the server has one.
use strict;
use warnings;
use Digest::SHA qw(sha256 sha256_hex);
use File::Find;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Contrib may be absent.
chomp(my $libraries = qx(pg_config --pkglibdir));
my @witnesses = grep { -e "$libraries/$_.so" } qw(auto_explain pg_stat_statements);
my $statistics = grep { $_ eq 'pg_stat_statements' } @witnesses;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding', 'UTF8', '--locale', 'C.UTF-8' ]);
$node->append_conf('postgresql.conf', "shared_preload_libraries = '" . join(', ', @witnesses, 'apikeys') . "'\n" . <<'EOF');
wal_level = logical
wal_keep_size = 1GB
wal_compression = off
max_prepared_transactions = 5
log_statement = all
log_min_duration_statement = 0
log_duration = on
log_min_messages = info
log_min_error_statement = info
log_error_verbosity = verbose
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
EOF
$node->append_conf('postgresql.conf', "auto_explain.log_min_duration = 0\nauto_explain.log_nested_statements = on") if grep { $_ eq 'auto_explain' } @witnesses;
# Commands such as DO and EXPLAIN are shown as they came, so they must not be tracked.
$node->append_conf('postgresql.conf', "pg_stat_statements.track = all\npg_stat_statements.track_utility = off") if $statistics;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION apikeys');
$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements') if $statistics;

my %keys;    # by how they were issued

# Runs SQL that gives key texts, notes them, and returns the last.
sub issue
{
    my ($name, $sql) = @_;
    my @issued = grep { /^[a-z_]+_[0-9A-Za-z]{36}$/ } split /\n/, $node->safe_psql('postgres', $sql);
    ok(@issued > 0, "issued: $name");
    @keys{ map { "$name $_" } 1 .. @issued } = @issued;
    return $issued[-1];
}

# Runs SQL that must end with this SQLSTATE.
sub fails
{
    my ($sql, $state) = @_;
    my (undef, undef, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\n$sql");
    like($err, qr/(ERROR|FATAL):  $state$/m, "$state: " . $sql =~ s/\w+_\w{36}/KEY/gr);
}

# Runs a statement, which may fail, by pgbench with the key as bind value k.
sub bench
{
    my ($key, $sql) = @_;
    foreach my $mode ('extended', 'prepared')
    {
        my $script = $node->basedir . "/$mode.sql";
        unlink $script;
        append_to_file($script, "$sql;\n");
        IPC::Run::run([ 'pgbench', '-n', '-t', 2, '-M', $mode, '-D', "k=$key", '-f', $script, $node->connstr('postgres') ],
            '>', \my $out, '2>', \my $err);
    }
}

# Every way to issue a key.
issue('created', q{SELECT key FROM apikeys.create_key('alice')});
my $id = $node->safe_psql('postgres', 'SELECT key_id FROM apikeys.key');
issue('prefix', q{SELECT key FROM apikeys.create_key('alice', prefix => 'sk_live')});
issue('many', q{SELECT (apikeys.create_key('bob', 'bulk ' || n)).key FROM generate_series(1, 50) AS n});
issue('rotated with grace', "SELECT key FROM apikeys.rotate_key($id, '1 day')");
my $current = issue('rotated without', "SELECT key FROM apikeys.rotate_key($id)");
issue('rolled back', q{BEGIN; SELECT key FROM apikeys.create_key('carol'); ROLLBACK});
issue('prepared', q{BEGIN; SELECT key FROM apikeys.create_key('carol'); PREPARE TRANSACTION 'carol'});
$node->safe_psql('postgres', q{COMMIT PREPARED 'carol'});
issue('cursor', q{BEGIN; DECLARE c CURSOR FOR SELECT key FROM apikeys.create_key('dave'); FETCH c; COMMIT});
issue('plpgsql', q{CREATE FUNCTION give() RETURNS text LANGUAGE plpgsql AS $$ DECLARE k apikeys.issued_key; BEGIN
    k := apikeys.create_key('erin'); RETURN k.key; END $$; SELECT give(); SELECT give()});
issue('manager', q{CREATE ROLE manager IN ROLE apikeys_staff; SET SESSION AUTHORIZATION manager; SELECT key FROM apikeys.create_key('frank')});
# Keys of another system that have our shape.
my $literal = issue('imported by literal', q{BEGIN; SELECT key FROM apikeys.create_key('other'); ROLLBACK});
$node->safe_psql('postgres', "SELECT apikeys.import_key('alice', '$literal', alias => 'literal')");
my $bound = issue('imported by bind value', q{BEGIN; SELECT key FROM apikeys.create_key('other'); ROLLBACK});
bench($bound, q{SELECT apikeys.import_key('alice', :k, alias => 'bound')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM apikeys.key WHERE alias IN ('literal', 'bound')}), '2', 'both were imported');

# Every function that takes a key: with literals and bind values, and with errors beside it.
foreach my $use ('verify(%s)', 'authenticate(%s)', 'key_facts(%s)', 'verify_many(ARRAY[%1$s, %1$s])', 'shard_hash(%s::text)')
{
    my $statement = "SELECT * FROM apikeys.$use AS u";
    $node->safe_psql('postgres', sprintf $statement, "'$_'") foreach $current, $literal, values %keys;
    $node->safe_psql('postgres', sprintf "PREPARE use(text) AS $statement; EXECUTE use('$current')", '$1');
    $node->safe_psql('postgres', sprintf "DO \$\$ BEGIN PERFORM * FROM apikeys.$use AS u; END \$\$", "'$current'");
    $node->safe_psql('postgres', sprintf "EXPLAIN (ANALYZE, VERBOSE) $statement", "'$current'");
    fails((sprintf "$statement WHERE 1 / (random() * 0)::int = 1", "'$current'"), '22012');
    bench($_, sprintf $statement, ':k') foreach $current, $bound;
    bench($current, sprintf "$statement WHERE 1 / (random() * 0)::int = 1", ':k');
}
bench($current, 'SELECT apikeys.verify(:k, cost => -1)');
bench($current, q{SELECT apikeys.import_key('alice', :k)});

# Errors about the key, or with it in their statement.
fails("SELECT * FROM apikeys.verify('$current', cost => -1)", '22023');
fails("SELECT * FROM apikeys.verify_many(ARRAY['$current'], ARRAY['a', 'b'])", '22023');
fails("SELECT apikeys.import_key('alice', '$current')", '23505');
fails("SELECT apikeys.import_key('alice', '$current', hash_rule => 'none')", '22023');
fails("SELECT apikeys.import_key('alice', digest => '$current')", '22P02');
fails("SELECT apikeys.create_key('alice', limits => '$current')", '22P02');
fails("SELECT apikeys.create_key('alice', tier => '$current')", '22023');
fails("SELECT apikeys.find_key('alice', '$current')", 'P0002');
fails("SELECT apikeys.get_key('$current')", '22P02');
fails("SELECT apikeys.verify('$current') + 1", '42883');
fails("SELEKT apikeys.verify('$current')", '42601');
fails("SET ROLE apikeys_auditor; SELECT apikeys.verify('$current')", '42501');

# Cancelled, timed out and terminated: beside verify, and within it as it waits for its record.
fails("SET statement_timeout = 100; SELECT apikeys.verify('$current'), pg_sleep(180)", '57014');
fails("SELECT apikeys.verify('$current'), pg_cancel_backend(pg_backend_pid()), pg_sleep(180)", '57014');
fails("SELECT apikeys.verify('$current'), pg_terminate_backend(pg_backend_pid()), pg_sleep(180)", '57P01');
fails("BEGIN; LOCK TABLE apikeys.usage_total; SET LOCAL apikeys.synchronous_usage = on; SET LOCAL statement_timeout = 200;
    SELECT apikeys.verify('$current')", '57014');

# A key text where none belongs: in each argument of each function that takes texts, alone and within more. The other arguments are
# those of such a call. Whether it is refused or stored otherwise, it must be nowhere; a rollback removes no WAL.
$node->safe_psql('postgres', q{SELECT apikeys.create_tier('silver', 1, '10/day'); SELECT apikeys.create_tier('gold', 2, '100/day');
    SELECT apikeys.create_product('maps')});
my $stray = issue('stray', q{SELECT key FROM apikeys.create_key('alice', 'stray', tier => 'silver')});
my $stray_id = $node->safe_psql('postgres', q{SELECT apikeys.find_key('alice', 'stray')});
my $asked = $node->safe_psql('postgres', "SELECT (apikeys.request_upgrade($stray_id, 'gold', 'more')).id");
my %usual = (
    account => q{'alice'}, key_id => $stray_id, id => $asked, key => "'$stray'", keys => "ARRAY['$stray']", endpoints => q{ARRAY['/']},
    name => q{'new'}, tier => q{'gold'}, product => q{'maps'}, plan => q{'default'}, role => q{'manager'}, rank => 9, min_tier => q{'gold'},
    reason => q{'why'}, motivation => q{'more'}, question => q{'what?'}, answer => q{'that'}, note => q{'so'}, address => q{'10.1.2.3'},
    limit_window => q{'day'}, units => 5, until => q{'2100-01-01'}, since => q{'2099-12-01'}, step => q{'1 day'});
my %unusual = (
    create_key => { tier => undef },
    verify => { product => undef },
    authenticate => { product => undef },
    import_key => { tier => undef, key => undef, digest => q{sha256('new')::apikeys.digest} },
    create_plan => { name => q{'new plan'} });
my %before = (
    request_upgrade => "SELECT apikeys.withdraw_upgrade($asked);",
    grant_account_units => q{UPDATE apikeys.account SET limits = '10/day' WHERE name = 'alice';},
    answer_upgrade => "SELECT apikeys.ask_upgrade($asked, 'what?');");

# The arguments that a function takes, in rows of name, whether it has a default, and type.
my %arguments;
push @{ $arguments{ (split /\|/)[0] } }, [ (split /\|/)[ 1 .. 3 ] ] foreach split /\n/, $node->safe_psql('postgres', q{
    SELECT p.proname, a.name, a.number > p.pronargs - p.pronargdefaults, a.type::regtype
    FROM pg_proc AS p, unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) WITH ORDINALITY AS a (name, type, number)
    WHERE p.pronamespace = 'apikeys'::regnamespace AND p.proname <> 'shard_hash' ORDER BY p.oid, a.number});
my @calls;
foreach my $function (sort keys %arguments)
{
    my %with = (%usual, %{ $unusual{$function} // {} });
    foreach my $planted (grep { $_->[2] =~ /^(text|name|jsonb)(\[\])?$/ && $_->[0] !~ /^keys?$/ } @{ $arguments{$function} })
    {
        foreach my $text ($stray, "for $stray:", "GET /$stray/?key=$stray")
        {
            my %values = map { $_->[0] => $with{ $_->[0] } // ($_->[1] eq 't' ? undef : 'NULL') } @{ $arguments{$function} };
            $values{ $planted->[0] } = { text => "'$text'", name => "'$text'", jsonb => qq('{"a": ["$text"]}'), 'text[]' => "ARRAY['$text']" }->{ $planted->[2] };
            my $given = join ', ', map { "$_ => $values{$_}" } grep { defined $values{$_} } sort keys %values;
            push @calls, "BEGIN; " . ($before{$function} // '') . "SELECT count(*) || ' rows of $function' FROM apikeys.$function($given) AS c; ROLLBACK;";
        }
    }
}
cmp_ok(scalar @calls, '>', 150, 'there are many arguments for texts');
$node->psql('postgres', "SET apikeys.actor = '$stray';\n" . join("\n", @calls), on_error_stop => 0, stdout => \my $answers, stderr => \my $refusals);
like($answers, qr/^\d+ rows of $_$/m, "$_ took it") foreach
    qw(verify verify_many authenticate explain_key suspend_key block_address request_upgrade ask_upgrade answer_upgrade approve_upgrade decline_upgrade
    create_tier create_product create_upgrade_rule grant_units grant_account_units reset_usage);
cmp_ok(scalar(() = $refusals =~ /must not have a key text in it/g), '>', 30, 'names, contacts and metadata with it are refused');
is(join("\n", grep { !/^ERROR: / && /ERROR/ && !/LOCATION|psql/ } split /\n/, $refusals), '', 'nothing else went wrong');

# What the log has of endpoints and products: no query string, and hints.
my $hint = "ak_\xe2\x80\xa6" . substr $stray, -4;

sub logged
{
    my ($endpoint, $product) = @_;
    $node->safe_psql('postgres', "SELECT apikeys.verify('$stray', $endpoint, product => $product); SELECT apikeys.flush()");
    return $node->safe_psql('postgres', "SELECT endpoint, product FROM apikeys.request_log WHERE key_id = $stray_id ORDER BY at DESC, request_id DESC LIMIT 1");
}
is(logged("'GET /p?key=$stray'", 'NULL'), 'GET /p|', 'a query string is not logged');
is(logged("'GET /p#key=$stray?'", 'NULL'), 'GET /p|', 'nor is a fragment');
is(logged("'?'", 'NULL'), '|', 'nothing may be left');
is(logged("'GET /v1/$stray/x'", "'my $stray'"), "GET /v1/$hint/x|my $hint", 'a key in a path or product is logged as its hint');
is(logged("repeat('x', 2030) || '$stray'", "repeat('x', 250) || '$stray'"),
    ('x' x 2030) . "$hint|" . ('x' x 250) . "ak_\xe2\x80\xa6", 'a key text is replaced before the text is cut');
is(logged("repeat('$stray ', 100000)", 'NULL') =~ s/\Q$hint\E //gr, substr("$hint ", 0, 2048 % length "$hint ") . '|', 'as often as it comes');
$node->append_conf('postgresql.conf', 'apikeys.log_query_string = on');
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT current_setting('apikeys.log_query_string') = 'on'}), 'query strings are logged');
is(logged("'GET /p?a=1&key=$stray#x'", 'NULL'), "GET /p?a=1&key=$hint#x|", 'with hints in the place of keys');

# A session at work shows its statement, but not the value.
my $sleepers = q{FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%verify($1)%'};
append_to_file($node->basedir . '/sleep.sql', "SELECT apikeys.verify(:k), pg_sleep(180);\n");
my $sleeper = IPC::Run::start(
    [ 'pgbench', '-n', '-t', 1, '-M', 'extended', '-D', "k=$current", '-f', $node->basedir . '/sleep.sql', $node->connstr('postgres') ],
    '>', \my $out, '2>', \my $err);
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $sleepers"), 'a session shows its statement without the bind value');
my $activity = $node->safe_psql('postgres', "SELECT query $sleepers");
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) $sleepers");
$sleeper->finish;

# For the hunt to find something: a key that somebody stores, a published one. Many times: the border of a page of WAL may cut one in two.
my $stored = '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';
$node->safe_psql('postgres', "CREATE TABLE diary AS SELECT text '$stored' AS key FROM generate_series(1, 100)");

# Down to the disk: dump, statistics, checkpoint, stop, crash.
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-T', 'diary', '-f', $dump, 'postgres' ], 'pg_dump');
my $statements = $statistics ? $node->safe_psql('postgres', 'SELECT query FROM pg_stat_statements') : '';
$node->safe_psql('postgres', 'SELECT apikeys.flush(); CHECKPOINT');
$node->restart;
$node->safe_psql('postgres', "SELECT * FROM apikeys.verify('$current'); SELECT pg_switch_wal()");
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', "SELECT * FROM apikeys.verify('$current')");
$node->stop;

my %places = (
    'pg_stat_activity' => $activity,
    'pg_stat_statements' => $statements,
    'the dump' => slurp_file($dump),
    'the log' => slurp_file($node->logfile));
find(sub { $places{ $File::Find::name =~ m{/pg_wal/} ? 'WAL' : 'the data' } .= slurp_file($_) . "\0" if -f; }, $node->data_dir);

# Names the places that have a text.
sub places_of
{
    my ($text) = @_;
    return join ', ', grep { index($places{$_}, $text) >= 0 } sort keys %places;
}

cmp_ok(scalar keys %keys, '>', 60, 'there are many keys to look for');
my @leaks;
foreach my $name (sort keys %keys)
{
    my $places = places_of(substr $keys{$name}, -33, 27);    # the secret alone
    push @leaks, "$name: $places" if $places ne '';
}
is(join("\n", @leaks), '', 'no key is anywhere');

# The hunt can find: the stored key, and what of the others may be known.
is(places_of(substr $stored, -33, 27), 'WAL, the data', 'a key that somebody stores is found');
is(places_of(sha256($current)), 'WAL, the data', 'the digest is in WAL and the data');
like(places_of(sha256_hex($current)), qr/the dump/, 'the digest is in the dump');
is(places_of("ak_\xe2\x80\xa6" . substr $current, -4), 'WAL, the data, the dump, the log', 'the hint is in the data, the dump and the log');
like(places_of("ak_\xe2\x80\xa6" . substr $_, -4), qr/the log/, 'the hint is in the log') foreach $literal, $bound;
like(places_of('apikeys.verify($1)'), qr/pg_stat_activity, .*the log/, 'statements are in pg_stat_activity and the log');
SKIP:
{
    skip 'no pg_stat_statements', 1 if !$statistics;
    like($statements, qr/verify_many\(ARRAY\[\$1/, 'statements are in pg_stat_statements');
}

done_testing();
