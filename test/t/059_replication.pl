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

# Both run maintenance, the subscriber first: it leaves what it receives as it is, so that later changes of the publisher fit.
here(q{
    INSERT INTO apikeys.usage_total VALUES ('k', 777, 3, 0, 3, 0, 0, '2020-01-01 12:00', '2020-01-01 12:10');
    INSERT INTO apikeys.usage_bucket SELECT 'k', 777, '2020-01-01 12:05'::timestamptz + n * interval '5 minutes', 1, 0, 1, 0, 0 FROM generate_series(0, 2) AS n;
    INSERT INTO apikeys.notice (kind, sent_at) VALUES ('old', '2020-01-01');
    SELECT apikeys.import_key('acme', 'text 5', alias => 'text 5', lifetime => '1 day');
    UPDATE apikeys.key SET expiry_set_at = '2001-02-03' WHERE alias = 'text 5'});
$publisher->wait_for_catchup('service');
is(there('SELECT apikeys.maintain()'), 't', 'maintenance of the subscriber');
is(there(q{SELECT count(*) FROM apikeys.usage_bucket WHERE subject_id = 777}), '3', 'it merges nothing');
is(there(q{SELECT string_agg(kind, ',' ORDER BY kind) FROM apikeys.notice WHERE kind IN ('old', 'expiring')}), 'old', 'it neither adds notices nor deletes them');
is(here('SELECT apikeys.maintain()'), 't', 'maintenance of the publisher');
is(here(q{SELECT count(*) FROM apikeys.usage_bucket WHERE subject_id = 777}), '1', 'it merges');
is(here(q{SELECT string_agg(kind, ',' ORDER BY kind) FROM apikeys.notice WHERE kind IN ('old', 'expiring')}), 'expiring', 'it adds notices and deletes them');
same_ok('maintenance');

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

# A server that verifies by itself has rules and keys only. An open session of it obeys what changes.
$subscriber->safe_psql('postgres', 'CREATE DATABASE rules');
$subscriber->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $publisher->basedir . '/schema', '-d', $subscriber->connstr('rules') ], 'definitions are restored');
here('CREATE PUBLICATION rules FOR TABLE ' . join ', ', map { "apikeys.$_" } qw(tier plan account product key key_product address_block));
$subscriber->safe_psql('rules', "CREATE SUBSCRIPTION rules CONNECTION \$\$$connection\$\$ PUBLICATION rules");
$subscriber->wait_for_subscription_sync($publisher, 'rules', 'rules');
my ($out, $err) = ('', '');
my $timer = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
my $session = IPC::Run::start([ 'psql', '-X', '-At', '-q', '-f', '-', '-d', $subscriber->connstr('rules') ], '<', \my $in, '>', \$out, '2>', \$err, $timer);

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
    $publisher->wait_for_catchup('rules');
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
is($subscriber->safe_psql('rules', 'SELECT apikeys.flush()'), 't', 'its requests are written');
is($subscriber->safe_psql('rules', q{SELECT admitted, denied FROM apikeys.usage_total WHERE subject = 'a'}), '6|2', 'and counted there alone');
is($subscriber->safe_psql('rules', 'SELECT * FROM apikeys.check_ledger()'), '', 'where the ledger holds');
$subscriber->safe_psql('rules', 'DROP SUBSCRIPTION rules');

# The subscriber takes over: sequences are not replicated.
here('SELECT apikeys.flush()');
$publisher->wait_for_catchup('service');
my $sequences = here(q{SELECT string_agg(format('SELECT setval(%L, %s);', format('%I.%I', schemaname, sequencename), last_value), ' ')
    FROM pg_sequences WHERE schemaname = 'apikeys' AND last_value IS NOT NULL});
there("ALTER SUBSCRIPTION service DISABLE; ALTER SUBSCRIPTION service SET (slot_name = NONE)");
there('DROP SUBSCRIPTION service');
my ($status) = $subscriber->psql('service', q{SELECT apikeys.create_key('later')});
isnt($status, 0, 'ids that the publisher has given are given again');
there($sequences);
is(there(q{SELECT v.code FROM apikeys.create_key('later') AS k, apikeys.verify(k.key) AS v}), 'valid', 'with the sequences of the publisher it goes on');
is(there('SELECT * FROM apikeys.check_guards()'), '', 'nothing is missing');
my (undef, undef, $refused) = $subscriber->psql('service', "\\set VERBOSITY sqlstate\nDELETE FROM apikeys.key WHERE key_id IN (SELECT key_id FROM apikeys.request_log)");
like($refused, qr/23503/, 'a used key is safe');

$_->stop foreach $subscriber, $publisher;
done_testing();
