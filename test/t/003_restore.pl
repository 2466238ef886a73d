# Every way to restore a dump gives a service that is complete and still protected, or check_guards says what is not, and repair_guards
# mends it. What the owner may add to the tables hinders no restore. Who may make a dump.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'apikeys'\napikeys.max_databases = 30\nmax_worker_processes = 40");
$node->start;
$node->safe_psql('postgres', $_)
    foreach 'CREATE DATABASE service', 'CREATE ROLE clerk', 'CREATE ROLE boss SUPERUSER LOGIN', 'CREATE ROLE reader LOGIN IN ROLE pg_read_all_data',
    'CREATE ROLE dumper LOGIN BYPASSRLS IN ROLE pg_read_all_data';

sub value
{
    my ($database, $query) = @_;
    return $node->safe_psql($database, $query);
}

value('service', q{
    CREATE EXTENSION apikeys;
    INSERT INTO apikeys.tier VALUES ('silver', 1, '100/minute', NULL);
    INSERT INTO apikeys.plan (name, default_tier) VALUES ('default', 'silver');
    INSERT INTO apikeys.product VALUES ('maps');
    SELECT apikeys.create_account('acme');
    SELECT apikeys.import_key('acme', 'text of ' || n, alias => 'key-' || n, products => '{maps}', limits => '9/total') FROM generate_series(1, 500) AS n;
    INSERT INTO apikeys.member SELECT 'clerk', account_id FROM apikeys.account;
    SELECT apikeys.request_upgrade(apikeys.find_key('acme', 'key-1'), 'silver', 'more');
    SELECT apikeys.verify('text of ' || 1 + n % 100, '/v1', product => 'maps') FROM generate_series(1, 400) AS n;
    SELECT apikeys.flush();
    SELECT apikeys.maintain()});
my $used = value('service', q{SELECT apikeys.find_key('acme', 'key-1')});
is(value('service', 'SELECT * FROM apikeys.check_guards()'), '', 'after CREATE EXTENSION nothing is missing');

# What the documentation says that the owner may do.
my ($today, $tomorrow) = split /\n/, value('service', q{SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'apikeys.request_log'::regclass ORDER BY inhrelid::regclass::text LIMIT 2});
value('service', qq{
    CREATE INDEX ON $today (request_id);
    ALTER TABLE $today ADD CONSTRAINT no_poison CHECK (endpoint <> '/poison');
    ALTER TABLE apikeys.request_log ADD CONSTRAINT no_drug CHECK (endpoint <> '/drug');
    ALTER TABLE apikeys.usage_total ADD CONSTRAINT sane CHECK (units >= 0);
    CREATE INDEX ON apikeys.usage_total (last_used_at);
    CREATE VIEW public.busy AS SELECT key_id, count(*) FROM apikeys.request_log GROUP BY 1;
    CREATE TABLE public.invoice (account_id bigint REFERENCES apikeys.account, amount numeric);
    INSERT INTO public.invoice SELECT account_id, 5 FROM apikeys.account;
    GRANT SELECT ON apikeys.key_list TO clerk;
    UPDATE apikeys.account SET metadata = '{"region": "eu"}';
    UPDATE apikeys.plan SET name = 'basic' WHERE name = 'default';
    UPDATE apikeys.tier SET name = 'bronze' WHERE name = 'silver';
    ALTER TABLE apikeys.request_log DETACH PARTITION $tomorrow;
    DO \$\$ BEGIN EXECUTE (SELECT format('DROP TABLE %s', max(inhrelid::regclass::text)) FROM pg_inherits WHERE inhparent = 'apikeys.request_log'::regclass); END \$\$;
    INSERT INTO $tomorrow SELECT at + interval '1 day', key_id, account_id, request_id, code, status, endpoint, duration_ms, ip, cost, credits, category, product, completed
        FROM $today LIMIT 1});
is(value('service', 'SELECT * FROM apikeys.check_guards()'), '', 'and what the owner may add is no fault');

sub rows_of
{
    my ($database) = @_;
    my $tables = value($database, q{SELECT string_agg(format('%L', c.oid::regclass), ',' ORDER BY c.oid::regclass::text COLLATE "C") FROM pg_class AS c
        WHERE relnamespace IN ('apikeys'::regnamespace, 'public'::regnamespace) AND relkind IN ('r', 'p')});
    return value($database, join ';', map { qq{SELECT $_, t::text FROM @{[ tr/'//dr ]} AS t ORDER BY t::text COLLATE "C"} } split /,/, $tables);
}
my $rows = rows_of('service');

my $dumps = $node->backup_dir;
mkdir $dumps;
my $connection = sub { $node->connstr($_[0]) };
$node->command_ok([ 'pg_dump', @{ $_->[0] }, '-f', "$dumps/$_->[1]", '-d', $connection->('service') ], "pg_dump @{ $_->[0] }")
    foreach [ [], 'plain' ], [ ['-Fc'], 'custom' ], [ [ '-Fd', '-j', '2' ], 'directory' ];

# A used key can be deleted by nobody, whatever may be set.
sub refused_ok
{
    my ($database, $what) = @_;
    my (undef, undef, $error) = $node->psql($database, "\\set VERBOSITY sqlstate\nSET session_replication_role = replica; DELETE FROM apikeys.key WHERE key_id = $used");
    return like($error, qr/23503/, "$what: a used key is safe");
}

my $copies = 0;
sub restored
{
    my ($how, @commands) = @_;
    my $copy = 'copy' . ++$copies;
    value('postgres', "CREATE DATABASE $copy");
    $node->command_ok([ map { $_ eq 'COPY' ? $connection->($copy) : $_ } @$_ ], "$how: it restores") foreach @commands;
    is(rows_of($copy), $rows, "$how: all rows are there");
    return $copy;
}

sub whole_ok
{
    my ($how, $copy) = @_;
    is(value($copy, 'SELECT * FROM apikeys.check_guards()'), '', "$how: nothing is missing");
    is(value($copy, 'SELECT * FROM apikeys.check_ledger()'), '', "$how: the ledger holds");
    refused_ok($copy, $how);
    is(value($copy, q{SELECT code, remaining FROM apikeys.verify('text of 1', '/v1', product => 'maps')}), 'valid|4', "$how: it goes on where it was");
    return value('postgres', "DROP DATABASE $copy WITH (FORCE)");
}

my %ways = (
    'psql' => [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'COPY', '-f', "$dumps/plain" ],
    'psql -1' => [ 'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-d', 'COPY', '-f', "$dumps/plain" ],
    'pg_restore' => [ 'pg_restore', '-d', 'COPY', "$dumps/custom" ],
    'pg_restore -1' => [ 'pg_restore', '-1', '-d', 'COPY', "$dumps/custom" ],
    'pg_restore of a directory' => [ 'pg_restore', '-e', '-d', 'COPY', "$dumps/directory" ]);
whole_ok($_, restored($_, $ways{$_})) foreach sort keys %ways;

# What no dump has of the owner's additions can be added again.
my $again = restored('additions', $ways{'psql -1'});
is(value($again, q{SELECT count(*) FROM pg_constraint WHERE conname IN ('no_drug', 'sane') AND conrelid IN ('apikeys.request_log'::regclass, 'apikeys.usage_total'::regclass)}),
    '0', 'additions: constraints of the tables are in no dump');
is(value($again, qq{SELECT count(*) FROM pg_constraint WHERE conname = 'no_poison' AND conrelid = '$today'::regclass}), '1', 'additions: those of a partition are');
is(value($again, qq{SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%(request_id)' AND format('%I.%I', schemaname, tablename) = '$today'}), '1', 'additions: indexes, too');
is(value($again, q{SELECT has_table_privilege('clerk', 'apikeys.key_list', 'SELECT')}), 't', 'additions: and privileges');
value($again, q{ALTER TABLE apikeys.request_log ADD CONSTRAINT no_drug CHECK (endpoint <> '/drug');
                ALTER TABLE apikeys.usage_total ADD CONSTRAINT sane CHECK (units >= 0)});
whole_ok('additions', $again);

# In parallel: no foreign key is checked meanwhile, and check_guards does it after.
{
    local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
    $ways{$_} = restored("pg_restore -j of $_", [ 'pg_restore', '-j', '2', '-d', 'COPY', "$dumps/$_" ]) foreach qw(custom directory);
}
whole_ok("pg_restore -j of $_", $ways{$_}) foreach qw(custom directory);

# By sections, with the triggers off meanwhile, which makes them ordinary ones.
my @sections = map { [ 'pg_restore', '-e', "--section=$_", '-j', '2', ($_ eq 'data' ? '--disable-triggers' : ()), '-d', 'COPY', "$dumps/custom" ] } qw(pre-data data post-data);
my $copy = restored('sections', @sections);
isnt(value($copy, q{SELECT count(*) FROM apikeys.check_guards() WHERE object LIKE 'trigger %' AND problem LIKE '%not ALWAYS%'}), '0', 'sections: triggers are ordinary ones');
is(value($copy, q{SELECT count(*) = (SELECT count(*) FROM apikeys.check_guards()) FROM apikeys.check_ledger() WHERE subject IS NULL}), 't', 'sections: the ledger says so too');
is(value($copy, q{SELECT count(*) FROM apikeys.repair_guards() WHERE outcome <> 'repaired'}), '0', 'sections: all of it is repaired');
whole_ok('sections', $copy);

# By somebody else, to whom the extension belongs then, but not the partitions.
value('postgres', 'CREATE DATABASE other OWNER boss');
$node->command_ok([ 'pg_restore', '-d', $connection->('other') . ' user=boss', "$dumps/custom" ], 'another owner: it restores');
like(value('other', 'SELECT object, problem FROM apikeys.check_guards()'), qr/^table request_log_\d{8}\|/, 'another owner: partitions belong to somebody else');
value('other', 'SELECT * FROM apikeys.repair_guards()');
is(rows_of('other'), $rows, 'another owner: all rows are there');
whole_ok('another owner', 'other');

# A restore that lost rows on its way.
value('postgres', 'CREATE DATABASE partial');
{
    local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
    $node->command_ok([ 'pg_restore', '-l', '-f', "$dumps/list", "$dumps/custom" ], 'the contents of a dump');
    my $list = slurp_file("$dumps/list");
    $list =~ s/^(.*(TABLE DATA apikeys account|FK CONSTRAINT public invoice) )/;$1/mg or die 'no data of account';
    append_to_file("$dumps/partial", $list);
    $node->command_ok([ 'pg_restore', '-L', "$dumps/partial", '-d', $connection->('partial'), "$dumps/custom" ], 'restore without accounts');
}
like(value('partial', 'SELECT object, problem, repair FROM apikeys.check_guards()'), qr/^foreign key key_account_id_fkey on key\|500 rows refer to nothing\|$/m,
    'without accounts: keys that belong to nobody show');

# Who may make a dump: row-level security stops those who may only read.
my @dump = ('pg_dump', '-f', "$dumps/role", '-d');
$node->command_fails_like([ @dump, $connection->('service') . ' user=reader' ], qr/row-level security/, 'pg_read_all_data alone cannot dump');
$node->command_fails([ @dump, $connection->('service') . ' user=reader', '--enable-row-security' ], 'nor a part of it');
$node->command_ok([ @dump, $connection->('service') . ' user=dumper' ], 'with BYPASSRLS it can');
whole_ok('dump of a reader', restored('dump of a reader', [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'COPY', '-f', "$dumps/role" ]));

$node->stop;
done_testing();
