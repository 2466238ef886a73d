# A hot standby authenticates; it cannot meter, and says so. Promoted, it meters from where the tables stand.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $primary = engine_node('primary');
$primary->safe_psql('postgres', q{
    UPDATE apikeys.key SET limits = '10/day, 15/total' WHERE alias = 'key-1';
    SELECT apikeys.verify('key-1') FROM generate_series(1, 5);
    SELECT apikeys.flush()});
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', q{
    SELECT apikeys.verify('key-1');
    SELECT apikeys.verify('key-16');
    SELECT apikeys.suspend_key(apikeys.find_key('caller', 'key-2'), 'test');
    SELECT apikeys.flush()});
$primary->wait_for_catchup($standby);
ask($standby);

is(value(q{SELECT code FROM apikeys.authenticate('key-1')}), 'valid', 'standby: a key is authenticated');
is(value(q{SELECT code FROM apikeys.authenticate('key-2')}), 'suspended', 'standby: with what has been replayed');
is(value(q{SELECT code FROM apikeys.authenticate('no key')}), 'invalid', 'standby: a bad key is not');
is(value(q{SELECT apikeys.key_facts('key-1') ->> 'alias'}), 'key-1', 'standby: what a key stands for');
foreach my $call (q{verify('key-1')}, q{verify_many('{key-1}')}, q{complete('00000000-0000-7000-8000-000000000000', 200)}, 'flush()', 'maintain()')
{
    my (undef, undef, $err) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT apikeys.$call");
    like($err, qr/ERROR:  55000: .*standby/, "standby: $call says why not");
}
is(value(q{SELECT writer_state FROM apikeys.stats()}), 'none', 'standby: there is no writer');
is(value(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'apikeys'}), '0', 'standby: nor a launcher');

$primary->stop;
$standby->promote;
is(value(q{SELECT code, remaining FROM apikeys.verify('key-1')}), 'valid|2', 'promoted: limits go on where the tables stand');
is(value(q{SELECT string_agg(code, ' ') FROM generate_series(1, 4) AS n, LATERAL apikeys.verify('key-1' || left('', n))}), 'valid valid quota_exceeded quota_exceeded', 'promoted: and hold');
is(value(q{SELECT code FROM apikeys.verify('key-17')}), 'valid', 'promoted: a first use');
my (undef, undef, $err) = $standby->psql('postgres', q{SELECT apikeys.delete_key(apikeys.find_key('caller', 'key-16'))});
like($err, qr/has been used/, 'promoted: what was used before stays');
ledger_ok($standby, 'promoted');

$standby->stop;
done_testing();
