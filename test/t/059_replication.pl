# Logical replication of a service: its log, with partitions and completions, its usage, revocations; open sessions of the subscriber
# obey changed plans, tiers, products and blocks; the subscriber takes over.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub start_server
{
    my ($name) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(allows_streaming => 'logical');
    $node->append_conf('postgresql.conf', "shared_preload_libraries = 'apikeys'\napikeys.flush_interval = 20ms\nmax_worker_processes = 20");
    $node->start;
    $node->safe_psql('postgres', 'CREATE DATABASE service');
    return $node;
}

my $publisher = start_server('publisher');
my $subscriber = start_server('subscriber');

sub here { return $publisher->safe_psql('service', $_[0]) }
sub there { return $subscriber->safe_psql('service', $_[0]) }

here(q{
    CREATE EXTENSION apikeys;
    INSERT INTO apikeys.tier VALUES ('silver', 1, '100/day', NULL);
    INSERT INTO apikeys.plan (name, limits, default_tier) VALUES ('default', '1000/day', 'silver');
    INSERT INTO apikeys.product VALUES ('maps');
    SELECT apikeys.create_account(a) FROM unnest('{acme,local}'::text[]) AS a;
    SELECT apikeys.import_key(account, text, alias => text) FROM (VALUES ('acme', 'text 1'), ('acme', 'text 2'), ('acme', 'text 3'), ('local', 'text 4')) AS v (account, text);
    SELECT apikeys.verify('text 1', '/old', ip => '192.0.2.1') FROM generate_series(1, 5);
    SELECT apikeys.flush();
    SELECT apikeys.maintain()});

# As the documentation has it: the definitions by a dump, then all tables, the log by its root.
$publisher->command_ok([ 'pg_dump', '-s', '-f', $publisher->basedir . '/schema', '-d', $publisher->connstr('service') ], 'pg_dump -s');
$publisher->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $publisher->basedir . '/schema', '-d', $subscriber->connstr('service') ], 'definitions are restored');
is(there('SELECT * FROM apikeys.check_guards()'), '', 'nothing is missing on the subscriber');
here('CREATE PUBLICATION service FOR ALL TABLES WITH (publish_via_partition_root = true)');
my $connection = $publisher->connstr('service');
there("CREATE SUBSCRIPTION service CONNECTION \$\$$connection\$\$ PUBLICATION service");
$subscriber->wait_for_subscription_sync($publisher, 'service', 'service');

my $tables = here(q{SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = 'apikeys'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition});

sub same_ok
{
    my ($what) = @_;
    here('SELECT apikeys.flush()');
    $publisher->wait_for_catchup('service');
    foreach my $table (split /,/, $tables)
    {
        my $query = qq{SELECT t::text FROM apikeys.$table AS t ORDER BY t::text COLLATE "C"};
        is(there($query), here($query), "$what: the same rows in $table");
    }
    return;
}
same_ok('first copy');

# Requests, completions, a revocation, and what else changes.
here(q{SELECT apikeys.complete(request_id, 500, 1.5, 7) FROM apikeys.request_log LIMIT 2});
here(q{SELECT apikeys.complete(v.request_id, 404) FROM apikeys.verify('text 1', '/new') AS v});
here(q{SELECT apikeys.deactivate_key(apikeys.find_key('acme', 'text 2'));
       SELECT apikeys.rotate_key(apikeys.find_key('acme', 'text 1'), grace => '1 day');
       SELECT apikeys.reset_usage(apikeys.find_key('acme', 'text 1'), 'day');
       SELECT apikeys.request_upgrade(apikeys.find_key('acme', 'text 3'), limits => '5000/day', motivation => 'more');
       SELECT apikeys.delete_key(apikeys.find_key('acme', 'text 3'))});
same_ok('changes');
is(there(q{SELECT code FROM apikeys.authenticate('text 2')}), 'inactive', 'the revocation has arrived');
is(there(q{SELECT count(*) FROM apikeys.request_log WHERE completed}), '3', 'and so have completions');
here(q{SELECT apikeys.erase_account_data('acme')});
same_ok('erasure');
is(there(q{SELECT count(*) FROM apikeys.request_log WHERE ip IS NOT NULL}), '0', 'erasure: addresses are gone there, too');
is(there(q{SELECT * FROM apikeys.check_ledger()}), '', 'the ledger of the subscriber holds');

# An open session of the subscriber; it uses a key that is used nowhere else.
my ($out, $err) = ('', '');
my $timer = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
my $session = IPC::Run::start([ 'psql', '-X', '-At', '-q', '-f', '-', '-d', $subscriber->connstr('service') ], '<', \my $in, '>', \$out, '2>', \$err, $timer);

sub asked
{
    my ($query) = @_;
    $in .= "$query;\n\\echo end\n";
    $out = '';
    $session->pump until $out =~ /end\n/;
    return $out =~ s/\n?end\n//r;
}

sub obeys_ok
{
    my ($change, $query, $result, $what) = @_;
    here($change);
    $publisher->wait_for_catchup('service');
    return is(asked($query), $result, "open session: $what");
}
my $limits = q{SELECT code, limit_window, limit_cap FROM apikeys.verify('text 4', product => 'maps', ip => '192.0.2.9')};
is(asked($limits), 'valid|day|100', 'open session: before');
obeys_ok(q{UPDATE apikeys.tier SET limits = '50/day'}, $limits, 'valid|day|50', 'a tier has changed');
obeys_ok(q{UPDATE apikeys.plan SET limits = '20/day'}, $limits, 'valid|day|20', 'a plan has changed');
obeys_ok(q{UPDATE apikeys.tier SET name = 'bronze', limits = '9/day'}, $limits, 'valid|day|9', 'a tier has another name');
obeys_ok(q{INSERT INTO apikeys.tier VALUES ('gold', 2, '8/day'); UPDATE apikeys.key SET tier = 'gold' WHERE alias = 'text 4'}, $limits, 'valid|day|8', 'a new tier');
obeys_ok(q{INSERT INTO apikeys.product VALUES ('routes'); SELECT apikeys.assign_product(apikeys.find_key('local', 'text 4'), 'routes')},
    $limits, 'product_not_allowed||', 'a product');
obeys_ok(q{SELECT apikeys.assign_product(apikeys.find_key('local', 'text 4'), 'maps'); SELECT apikeys.block_address('192.0.2.0/24', 'scans', NULL)},
    $limits, 'ip_blocked||', 'a block');
obeys_ok(q{SELECT apikeys.unblock_address('192.0.2.0/24')}, $limits, 'valid|day|8', 'no block any more');
obeys_ok(q{SELECT apikeys.suspend_key(apikeys.find_key('local', 'text 4'), 'unpaid')}, $limits, 'suspended||', 'a suspension');
$in .= "\\q\n";
$session->finish;

# The subscriber takes over: sequences are not replicated.
here('SELECT apikeys.flush()');
$publisher->wait_for_catchup('service');
there('SELECT apikeys.flush()');
my $sequences = here(q{SELECT string_agg(format('SELECT setval(%L, %s);', format('%I.%I', schemaname, sequencename), last_value), ' ')
    FROM pg_sequences WHERE schemaname = 'apikeys' AND last_value IS NOT NULL});
there("ALTER SUBSCRIPTION service DISABLE; ALTER SUBSCRIPTION service SET (slot_name = NONE)");
there('DROP SUBSCRIPTION service');
my ($status) = $subscriber->psql('service', q{SELECT apikeys.create_key('later')});
isnt($status, 0, 'ids that the publisher has given are given again');
there($sequences);
is(there(q{SELECT v.code FROM apikeys.create_key('later') AS k, apikeys.verify(k.key) AS v}), 'valid', 'with the sequences of the publisher it goes on');
is(there('SELECT * FROM apikeys.check_guards()'), '', 'nothing is missing');
my (undef, undef, $refused) = $subscriber->psql('service', "\\set VERBOSITY sqlstate\nDELETE FROM apikeys.key WHERE alias = 'text 4'");
like($refused, qr/23503/, 'a key that was used on the subscriber is safe');

$_->stop foreach $subscriber, $publisher;
done_testing();
