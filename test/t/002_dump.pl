# A dump of a database in use, restored into an empty server, is the same service: same rows, same verdicts, ids that go on. So is
# what pg_upgrade makes of it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

sub start_server
{
    my ($name) = @_;
    my $node = server($name);
    $node->safe_psql('postgres', 'CREATE DATABASE service');
    return $node;
}

# All relations with rows of ours, partitions included.
sub tables_of
{
    my ($node) = @_;
    return split /\n/, $node->safe_psql('service', q{SELECT relname FROM pg_class
        WHERE relnamespace = 'apikeys'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1});
}

sub rows_of
{
    my ($node, $table) = @_;
    return $node->safe_psql('service', qq{SELECT t::text FROM apikeys."$table" AS t ORDER BY t::text COLLATE "C"});
}

# How far each sequence is.
sub sequences_of
{
    my ($node) = @_;
    return $node->safe_psql('service', q{SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'apikeys' ORDER BY 1});
}

my $source = start_server('source');
$source->safe_psql('service', q{
    CREATE EXTENSION apikeys;
    INSERT INTO apikeys.tier VALUES ('silver', 1, '100/minute', NULL), ('gold', 2, '1000/minute, 5000000/total', 'for the big ones');
    INSERT INTO apikeys.plan (name, key_prefix, max_keys, lifetimes, default_lifetime, limits, default_tier)
        VALUES ('pro', 'live', 20, '{1 second,30 days}', '30 days', '50000/day', 'silver');
    INSERT INTO apikeys.product VALUES ('maps', 'Tiles'), ('routes', NULL);
    SELECT apikeys.create_key('founder');
    INSERT INTO apikeys.account (name, plan, limits, metadata) VALUES ('acme', 'pro', '9/second', '{"team": "geo"}');
    CREATE ROLE clerk IN ROLE apikeys_manager;
});

# Key texts with the fate of each key.
my @presented = ('ak_' . '0' x 36, 'nobody issued this');
my $number = 0;

sub issue
{
    my ($arguments, $fate) = @_;
    $number++;
    my ($id, $text) = split /\|/, $source->safe_psql('service', "SELECT key_id, key FROM apikeys.create_key('acme', 'n$number'$arguments)");
    push @presented, $text;
    $source->safe_psql('service', sprintf($fate, $id)) if $fate;
    return $id;
}

my $used = issue(q{, limits => '4/day, 100/total'});
my $used_text = $presented[-1];
issue(q{, tier => 'gold', products => '{maps,routes}', scopes => '{read,write}', metadata => '{"a": [1, null]}'});
issue(q{, limits => '', allowed_ips => '{192.0.2.0/24,2001:db8::/32}', allowed_domains => '{*.acme.example}'});
issue('', 'SELECT apikeys.deactivate_key(%s)');
issue('', q{SELECT apikeys.suspend_key(%s, 'unpaid: "double" \' || chr(9) || '\')});
my $expired = issue(q{, lifetime => '1 second'});
my $rotated = issue('');
push @presented, $source->safe_psql('service', "SELECT key FROM apikeys.rotate_key($rotated, grace => '1 day')");
push @presented, 'unkey_3ZKzTZqDcsEfMhMvMn7UmtbN';
$source->safe_psql('service', "SELECT apikeys.import_key('acme', '$presented[-1]')");
$source->poll_query_until('service', "SELECT expires_at < clock_timestamp() FROM apikeys.key WHERE key_id = $expired") or die 'never expired';

# What the other parts of a service in use leave behind.
$source->safe_psql('service', qq{
    INSERT INTO apikeys.member SELECT 'clerk', account_id FROM apikeys.account WHERE name = 'acme';
    INSERT INTO apikeys.upgrade_request (key_id, tier, motivation, due_at) VALUES ($used, 'gold', 'more maps', now() + interval '5 days');
    SELECT apikeys.block_address('198.51.100.0/24', 'scans');
    INSERT INTO apikeys.upgrade_rule (purpose, reason) VALUES ('spam', 'no');
    INSERT INTO apikeys.audit_log (action, object, object_id, new) VALUES ('update', 'key', '$used', '{"tier": "gold"}');
    INSERT INTO apikeys.notice (kind, key_id) VALUES ('expiring', $used);
    INSERT INTO apikeys.notice_consumer (name) VALUES ('mailer');
    INSERT INTO apikeys.notice_delivery (consumer, notice_id) SELECT 'mailer', max(id) FROM apikeys.notice;
    INSERT INTO apikeys.notice_mark (subject, subject_id, topic, value, at) VALUES ('k', $used, 'expiring', '1', now());
    INSERT INTO apikeys.quarantine (reason, event) VALUES ('poison', '{"cost": -1}');
    GRANT SELECT ON apikeys.key_list TO clerk;
});

$source->safe_psql('service', "SELECT apikeys.verify('$used_text'); SELECT apikeys.reset_usage($used, 'day'); SELECT apikeys.grant_units($used, 'day', 1, '2100-01-01')");
$source->safe_psql('service', "SELECT apikeys.verify('$used_text', '/v1/maps', ip => '192.0.2.7', cost => 2) FROM generate_series(1, 3)");
is($source->safe_psql('service', 'SELECT apikeys.flush()'), 't', 'requests are recorded');

my @tables = tables_of($source);
my %rows = map { $_ => rows_of($source, $_) } @tables;
isnt($rows{$_}, '', "$_ has rows to lose") foreach grep { !/^request_log_/ } @tables;    # partitions are made ahead
my $sequences = sequences_of($source);

# Verdicts with everything that a restricted key wants to know of a request.
my $list = join ', ', map { "('$_')" } @presented;
my $ask = qq{SELECT v.* FROM (VALUES $list) AS p (text), LATERAL apikeys.authenticate(
    p.text, ip => '192.0.2.7', origin => 'https://www.acme.example', product => 'maps', scopes => '{}') AS v};
my $verdicts = $source->safe_psql('service', $ask);
like($verdicts, qr/\|$_\|/, "one of the verdicts is $_") foreach qw(valid invalid inactive suspended expired);

my $dumps = $source->backup_dir;
mkdir $dumps;
$source->command_ok(['pg_dump', '-f', "$dumps/plain.sql", 'service'], 'pg_dump');
$source->command_ok(['pg_dump', '-Fc', '-f', "$dumps/custom", 'service'], 'pg_dump -Fc');
unlike(slurp_file("$dumps/plain.sql"), qr/\Q$_\E/, 'the dump has no key text: ' . substr($_, 0, 6) . '…') foreach grep { /^live_/ } @presented;

# The next ids, which the copies must give too.
my $make_next = q{SELECT a.account_id, k.key_id FROM apikeys.create_key('later') AS k JOIN apikeys.account AS a ON a.name = k.account};
my $next = $source->safe_psql('service', $make_next);

# The used key has one unit left, wherever it is asked for.
my $spend = "SELECT code, limit_window, limit_cap, remaining FROM apikeys.verify('$used_text');" x 2;
my $spent = $source->safe_psql('service', $spend);
like($spent, qr/^valid\|day\|5\|0\nquota_exceeded\|day\|5\|0$/, 'the last unit is spent');

my %restore = (
    'psql' => sub { ['psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $_[0]->connstr('service'), '-f', "$dumps/plain.sql"] },
    'pg_restore -1 -e' => sub { ['pg_restore', '-1', '-e', '-d', $_[0]->connstr('service'), "$dumps/custom"] });

foreach my $how (sort keys %restore)
{
    my $copy = start_server($how =~ /(\w+)/);
    $copy->safe_psql('postgres', 'CREATE ROLE clerk');
    command_ok($restore{$how}->($copy), "$how restores");

    is_deeply([ tables_of($copy) ], \@tables, "$how: the same tables");
    is(rows_of($copy, $_), $rows{$_}, "$how: the same rows in $_") foreach @tables;
    is(sequences_of($copy), $sequences, "$how: the same sequences");
    is($copy->safe_psql('service', $ask), $verdicts, "$how: the same verdicts");
    is($copy->safe_psql('service', $make_next), $next, "$how: ids go on");
    is($copy->safe_psql('service', $spend), $spent, "$how: used units stay used");
    is($copy->safe_psql('service', 'SELECT * FROM apikeys.check_ledger()'), '', "$how: the ledger holds");

    my ($status, undef, $err) = $copy->psql('service', "\\set VERBOSITY sqlstate\nDELETE FROM apikeys.key WHERE key_id = $used");
    like($err, qr/23503/, "$how: a used key is still safe from deletion");
    is($copy->safe_psql('service', q{SELECT has_table_privilege('clerk', 'apikeys.key_list', 'SELECT'), has_table_privilege('clerk', 'apikeys.key', 'SELECT')}),
        't|f', "$how: a right that was granted is there, and no other");
    $copy->stop;
}

# Upgraded, to the same version here: from dumps of all definitions and the files of the tables. No writer runs meanwhile.
$source->safe_psql('service', 'SELECT apikeys.flush()');
%rows = map { $_ => rows_of($source, $_) } @tables;
$sequences = sequences_of($source);
my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
$upgraded->init;
$_->append_conf('postgresql.conf', "shared_preload_libraries = 'apikeys'\nlog_min_messages = debug1") foreach $source, $upgraded;
$source->restart;
my $starts = qr/starting background worker process "apikeys/;
like(slurp_file($source->logfile), $starts, 'the log shows that the launcher starts');
$source->stop;
my $bin = $source->config_data('--bindir');
my $folder = PostgreSQL::Test::Utils::tempdir();
chdir $folder;
command_ok([ 'pg_upgrade', '--no-sync', '--retain', '-b', $bin, '-B', $bin, '-d', $source->data_dir, '-D', $upgraded->data_dir,
        '-p', $source->port, '-P', $upgraded->port, '-s', $source->host ], 'pg_upgrade');
my @logs = glob($upgraded->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_server.log');
isnt(scalar @logs, 0, 'pg_upgrade: servers were started');
unlike(slurp_file($_), $starts, 'pg_upgrade: no worker runs in them') foreach @logs;
$upgraded->start;
is_deeply([ tables_of($upgraded) ], \@tables, 'pg_upgrade: the same tables');
is(rows_of($upgraded, $_), $rows{$_}, "pg_upgrade: the same rows in $_") foreach @tables;
is(sequences_of($upgraded), $sequences, 'pg_upgrade: the same sequences');
is($upgraded->safe_psql('service', $ask), $verdicts, 'pg_upgrade: the same verdicts');
is($upgraded->safe_psql('service', $spend), "quota_exceeded|day|5|0\nquota_exceeded|day|5|0", 'pg_upgrade: used units stay used');
is($upgraded->safe_psql('service', q{SELECT code FROM apikeys.create_key('later') AS k, apikeys.verify(k.key) AS v}), 'valid', 'pg_upgrade: it goes on');
is($upgraded->safe_psql('service', 'SELECT * FROM apikeys.check_ledger()'), '', 'pg_upgrade: the ledger holds');
my (undef, undef, $refused) = $upgraded->psql('service', "\\set VERBOSITY sqlstate\nDELETE FROM apikeys.key WHERE key_id = $used");
like($refused, qr/23503/, 'pg_upgrade: a used key is still safe from deletion');
$upgraded->stop;

done_testing();
