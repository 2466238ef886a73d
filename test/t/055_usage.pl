# How limits stand where there is no engine to ask: without preload and on a standby the tables answer, by the rule that loads a meter.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', '', allows_streaming => 1);
$node->safe_psql('postgres', 'CREATE EXTENSION apikeys');
my ($id, $text) = split /\|/, $node->safe_psql('postgres', q{
    SELECT apikeys.create_account('acme', limits => '50/week, 60/total') IS NULL;
    SELECT key_id, key FROM apikeys.create_key('acme', limits => '10/hour, 20/day, 30/total')}) =~ s/^f\n//r;

# An hour and a half ago 7 units, 3 minutes ago 2, one denied request: it asked for too much.
$node->safe_psql('postgres', qq{
    SET apikeys.debug_clock_offset = -5400;
    SELECT apikeys.verify('$text', cost => 7);
    SET apikeys.debug_clock_offset = -180;
    SELECT apikeys.verify('$text', cost => 2);
    RESET apikeys.debug_clock_offset;
    SELECT apikeys.verify('$text', cost => 12);
    SELECT apikeys.flush();});

my $ask = "SELECT subject, limit_window, cap, used, remaining FROM apikeys.key_limits($id)";
my $explain = qq{SELECT check_name, passed, code, split_part(detail, ',', 1) FROM apikeys.explain_key($id, cost => 12) WHERE check_name LIKE '%limit%'};
my $free = "SELECT extract(epoch FROM next_free_at) FROM apikeys.key_limits($id) WHERE limit_window = 'day'";
my $expected = "account|week|50|9|41\naccount|total|60|9|51\nkey|hour|10|2|8\nkey|day|20|9|11\nkey|total|30|9|21";
is($node->safe_psql('postgres', $ask), $expected, 'the meters');
my $explained = $node->safe_psql('postgres', $explain);
like($explained, qr/^key limit: hour\|f\|rate_limited\|2 of 10 units used$/m, 'explained');
my $free_before = $node->safe_psql('postgres', $free);

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);

# No unit comes back earlier than the meters say, nor later than by its bucket of 5 minutes and a 128th of the window.
sub answers_alike
{
    my ($server, $where) = @_;
    is($server->safe_psql('postgres', $ask), $expected, "$where: the same units");
    is($server->safe_psql('postgres', $explain), $explained, "$where: explained alike");
    my $late = $server->safe_psql('postgres', $free) - $free_before;
    ok($late >= 0 && $late <= 300 + 675, "$where: they come back $late s later");
    is($server->safe_psql('postgres', 'SELECT * FROM apikeys.check_ledger()'), '', "$where: the ledger holds");
}

# The list of keys has it, too; whoever asks for it makes no counter of another give way.
my $list = "SELECT e.value ->> 'subject', e.value ->> 'window', e.value ->> 'cap', e.value ->> 'used', e.value ->> 'remaining'
    FROM apikeys.key_list AS l, jsonb_array_elements(l.limits_used) WITH ORDINALITY AS e (value, place) ORDER BY e.place";
is($node->safe_psql('postgres', $list), $expected, 'the list');
is($standby->safe_psql('postgres', $list), $expected, 'standby: the list');
answers_alike($standby, 'standby');
$standby->stop;
$node->restart;
answers_alike($node, 'restarted');
is($node->safe_psql('postgres', $list), $expected, 'restarted: the list');
is($node->safe_psql('postgres', 'SELECT meters_used FROM apikeys.stats()'), '0', 'restarted: who asks loads no meter');
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
answers_alike($node, 'without preload');
is($node->safe_psql('postgres', $list), $expected, 'without preload: the list');

$node->stop;
done_testing();
