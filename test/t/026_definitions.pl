# Tables that are altered, rewritten and indexed anew while requests are made and written, meters loaded, keys used first: no call
# fails or waits in vain, and nothing is lost.
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

my $node = engine_node('main', "apikeys.meter_memory = 256kB\napikeys.queue_timeout = 60s");
my $keys = 600;
$node->safe_psql('postgres', qq{
    SELECT count(add_key('many-' || n)) FROM generate_series(1, $keys) AS n;
    UPDATE apikeys.key SET limits = '1000000/hour, 10000000/total' WHERE alias ~ '^many-'});
cmp_ok($node->safe_psql('postgres', 'SELECT meters_size FROM apikeys.stats()'), '<', $keys, 'there are more keys than meters');
$node->safe_psql('postgres', 'SELECT apikeys.flush()');
my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM apikeys.request_log');

my $script = PostgreSQL::Test::Utils::tempdir() . '/load';
append_to_file($script, "\\set n random(1, $keys)\nSELECT 1 / allowed::int FROM apikeys.verify('many-' || :n);\n");
my @changes = ('ALTER TABLE apikeys.key ADD COLUMN more int DEFAULT 1; ALTER TABLE apikeys.key DROP COLUMN more', 'CLUSTER apikeys.key USING key_pkey',
    'REINDEX INDEX CONCURRENTLY apikeys.key_digest_key', 'REINDEX INDEX CONCURRENTLY apikeys.usage_bucket_pkey',
    'REINDEX INDEX CONCURRENTLY apikeys.usage_total_pkey', 'REINDEX TABLE apikeys.request_log', 'REINDEX TABLE apikeys.usage_total',
    map { "VACUUM FULL apikeys.$_" } qw(key account usage_total usage_bucket adjustment quarantine));
my $file = PostgreSQL::Test::Utils::tempdir() . '/changes';
append_to_file($file, join '', map { "$_;\n" } (@changes) x 2);
my $changer = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ], '<', \undef, '>', \my $nothing, '2>', \my $why, patience());
my ($admitted, $rounds) = (0, 0);
while ($changer->pumpable || $rounds < 5)
{
    IPC::Run::run([ 'pgbench', '-n', '-c', 6, '-t', 200, '-f', $script, $node->connstr('postgres') ], '>', \my $out, '2>', \my $err);
    diag($err) if $err =~ /ERROR/;
    $admitted += $out =~ /transactions actually processed: (\d+)/ ? $1 : 0;
    $rounds++;
    $changer->pump_nb if $changer->pumpable;
}
ok($changer->finish, 'the tables were changed again and again') or diag($why);
is($admitted, 1200 * $rounds, 'no call fails');
ledger_ok($node, 'changed tables');
is($node->safe_psql('postgres', 'SELECT count(*) FROM apikeys.request_log') - $before, $admitted, 'each request is recorded');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM apikeys.usage_total JOIN apikeys.key ON subject = 'k' AND subject_id = key_id WHERE alias ~ '^many-'}), '>', 100,
    'there were first uses');
is($node->safe_psql('postgres', 'SELECT verdicts_overloaded, events_quarantined, evictions > 100 FROM apikeys.stats()'), '0|0|t',
    'none waited in vain, none was put aside, and meters were loaded all the time');

$node->stop;
done_testing();
