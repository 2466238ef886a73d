# What CREATE EXTENSION needs and what it refuses, on servers with and without preload.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $count_objects = q{SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass
    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'apikeys') AND deptype = 'e'};
my $roles = q{SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname ~ '^apikeys_'};
my $leftovers = q{SELECT count(*) FROM pg_namespace WHERE nspname ~ '^apikeys'};

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;

# Runs SQL that must fail; returns its SQLSTATE.
sub sqlstate_of
{
    my ($database, $sql) = @_;
    my ($status, $out, $err) = $node->psql($database, "\\set VERBOSITY sqlstate\n$sql", on_error_stop => 1);
    isnt($status, 0, "refused: $sql");
    return $err =~ /ERROR:  ([0-9A-Z]{5})/ ? $1 : "none: $err";
}

# Settings of each context: they stay in the file when the library is preloaded no more.
my $settings = <<'CONF';
apikeys.meter_memory = 1MB
apikeys.address_memory = 64kB
apikeys.queue_size = 64kB
apikeys.max_databases = 2
apikeys.flush_interval = 100ms
apikeys.queue_timeout = 1min
apikeys.actor = 'somebody'
CONF

foreach my $preload ('', 'apikeys')
{
    my $how = $preload ? 'with preload' : 'without preload';
    $node->append_conf('postgresql.conf', "shared_preload_libraries = '$preload'");
    $node->append_conf('postgresql.conf', $settings) if !$preload;
    $node->start;
    my $database = $preload ? 'preloaded' : 'plain';
    $node->safe_psql('postgres', "CREATE DATABASE $database");

    $node->psql($database, 'CREATE EXTENSION apikeys', stderr => \my $warning);
    is($warning, $preload ? '' : "psql:<stdin>:1: WARNING:  apikeys is not preloaded, so requests cannot be metered\n"
          . "HINT:  Add apikeys to shared_preload_libraries and restart the server; authenticate works without.", "$how: warned as needed");
    my $objects = $node->safe_psql($database, $count_objects);
    cmp_ok($objects, '>', 1, "$how: the extension has objects");
    is($node->safe_psql($database, $roles),
        'apikeys_admin apikeys_auditor apikeys_manager apikeys_portal apikeys_scanner apikeys_staff apikeys_verifier', "$how: the roles are there");

    $node->safe_psql($database, 'DROP EXTENSION apikeys');
    is($node->safe_psql($database, $leftovers), '0', "$how: dropped without a trace");

    $node->safe_psql($database, 'CREATE EXTENSION apikeys');
    is($node->safe_psql($database, $count_objects), $objects, "$how: made again, though the roles exist");

    # What needs shared memory says so; the rest goes without.
    foreach my $call (q{verify('x')}, q{verify_many('{x}')}, q{complete(gen_random_uuid(), 200)}, 'stats()', 'flush()', 'maintain()')
    {
        my $sql = "SELECT * FROM apikeys.$call";
        if ($preload)
        {
            $node->safe_psql($database, $sql);
            next;
        }
        is(sqlstate_of($database, $sql), '55000', "$call: it is not preloaded");
        $node->psql($database, $sql, stderr => \my $err);
        like($err, qr/ERROR:  apikeys is not preloaded, so requests cannot be metered\nHINT:  Add apikeys to shared_preload_libraries/, "$call: and says so");
    }
    is($node->safe_psql($database, q{SELECT code FROM apikeys.authenticate((apikeys.create_key('acme')).key)}), 'valid', "$how: authenticate works");

    # Each session loads the library, and finds the settings that it knows.
    $node->psql($database, q{SELECT code FROM apikeys.authenticate('x'); SHOW apikeys.queue_size}, stderr => \my $warnings, stdout => \my $shown);
    is($warnings, '', "$how: no warning of settings");
    like($shown, qr/^64kB$/m, "$how: they are shown");

    # Privileges that a database gives by default reach nothing of ours, partitions included.
    $node->safe_psql('postgres', "CREATE DATABASE open_$database");
    $node->safe_psql("open_$database", 'CREATE ROLE anybody; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anybody, PUBLIC;'
          . ' ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO anybody; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anybody;'
          . ' ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO anybody; ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO anybody; CREATE EXTENSION apikeys');
    $node->safe_psql("open_$database", 'SELECT apikeys.maintain()') if $preload;
    is($node->safe_psql("open_$database", q{SELECT count(*) FROM (
        SELECT relacl FROM pg_class WHERE relnamespace = 'apikeys'::regnamespace UNION ALL
        SELECT proacl FROM pg_proc WHERE pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace) UNION ALL
        SELECT typacl FROM pg_type WHERE typnamespace = 'apikeys'::regnamespace AND typtype = 'b' AND typelem = 0 UNION ALL
        SELECT nspacl FROM pg_namespace WHERE nspname IN ('apikeys', 'apikeys_internal')) AS o(acl), aclexplode(acl) AS a
        WHERE a.grantee IN (0, 'anybody'::regrole)}), '0', "$how: default privileges give nothing away");
    $node->safe_psql("open_$database", 'DROP OWNED BY anybody');
    $node->safe_psql('postgres', 'DROP ROLE anybody');

    # A schema that somebody has planted before must not become ours.
    $node->safe_psql('postgres', "CREATE DATABASE planted_$database");
    $node->safe_psql("planted_$database", 'CREATE ROLE planter');
    foreach my $schema ('apikeys', 'apikeys_internal')
    {
        $node->safe_psql("planted_$database", "CREATE SCHEMA $schema AUTHORIZATION planter");
        is(sqlstate_of("planted_$database", 'CREATE EXTENSION apikeys'), '42P06', "$how: a planted schema $schema is refused");
        is($node->safe_psql("planted_$database", $count_objects), '0', "$how: and nothing is made in it");
        $node->safe_psql("planted_$database", 'DROP OWNED BY planter');
    }
    $node->safe_psql("planted_$database", 'DROP ROLE planter');
    $node->safe_psql("planted_$database", 'CREATE EXTENSION apikeys');

    # Roles that are there already, with rights of their own, stay as they are.
    $node->safe_psql('postgres', 'ALTER ROLE apikeys_auditor LOGIN');
    $node->safe_psql("planted_$database", 'DROP EXTENSION apikeys; CREATE EXTENSION apikeys');
    is($node->safe_psql('postgres', "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'apikeys_auditor'"),
        't', "$how: an existing role is left as it is");
    $node->safe_psql('postgres', 'ALTER ROLE apikeys_auditor NOLOGIN');

    # It is not trusted, and it does not move.
    $node->safe_psql('postgres', "CREATE ROLE owner; CREATE DATABASE owned_$database OWNER owner");
    is(sqlstate_of("owned_$database", 'SET ROLE owner; CREATE EXTENSION apikeys'), '42501', "$how: an owner of the database is not enough");
    is(sqlstate_of($database, 'ALTER EXTENSION apikeys SET SCHEMA public'), '0A000', "$how: it does not move");
    $node->safe_psql('postgres', "DROP DATABASE owned_$database");
    $node->safe_psql('postgres', 'DROP ROLE owner');

    # Whatever the encoding of the database.
    foreach my $encoding ('SQL_ASCII', 'LATIN1', 'EUC_JP')
    {
        $node->safe_psql('postgres', "DROP DATABASE IF EXISTS encoded");
        $node->safe_psql('postgres', "CREATE DATABASE encoded ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        $node->safe_psql('encoded', 'CREATE EXTENSION apikeys');
        is($node->safe_psql('encoded', q{
            SELECT key AS text FROM apikeys.create_key('acme') \gset
            SELECT hint = 'ak_...' || right(:'text', 4), (apikeys.authenticate(:'text')).code FROM apikeys.key;
            SELECT hint, (apikeys.authenticate('theirs_123456781234')).code FROM apikeys.import_key('acme', 'theirs_123456781234', prefix => 'theirs')}),
            "t|valid\ntheirs_...1234|valid", "$how: works in $encoding");
    }
    $node->stop;
}

done_testing();
