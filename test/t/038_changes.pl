# Rows and tables change under the writer's hands: what waits to be written is written, once, whatever has happened meanwhile to
# the rows that it belongs to. Nothing of it goes to quarantine.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main', noon());

# A request that is on record, not completed yet.
sub request
{
    my $id = value(q{SELECT request_id FROM apikeys.verify('key-1', '/changed', '192.0.2.1')});
    until_true($node, 'SELECT apikeys.flush()', 'a request is on record');
    return $id;
}

sub completed
{
    my ($id) = @_;
    return value("SELECT status, duration_ms, credits FROM apikeys.request_log WHERE request_id = '$id'");
}

my $writer_waits = q{SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE a.backend_type = 'apikeys writer' AND NOT l.granted)};
my $writer_has_failed = q{SELECT writer_state = 'failing' FROM apikeys.stats()};

# Does something in a transaction, then something meanwhile (a query), for as long as the writer waits; then commits the first.
sub meanwhile
{
    my ($what, $change, $waits, $query) = @_;
    my $changer = $node->background_psql('postgres');
    $changer->query_safe("BEGIN; $change");
    my $result = value($query);
    until_true($node, $waits, "$what: the writer waits");
    $changer->query_safe('COMMIT');
    $changer->quit;
    until_true($node, 'SELECT apikeys.flush()', "$what: the writer goes on");
    is(value('SELECT count(*) FROM apikeys.quarantine'), '0', "$what: nothing is put aside");
    return $result;
}

sub waits_and_fails
{
    my ($what, $change, $query) = @_;
    meanwhile("$what, shortly", $change, $writer_waits, $query->());
    meanwhile("$what, for long", $change, $writer_has_failed, $query->());
    return;
}

my $rewrite = 'ALTER TABLE apikeys.%s ADD COLUMN more float8 DEFAULT random(); ALTER TABLE apikeys.%1$s DROP COLUMN more';
my @ids;
my $completion = sub {
    push @ids, request();
    return "SELECT apikeys.complete('$ids[-1]', 500, 12.5, 77)";
};

waits_and_fails('the log is rewritten', sprintf($rewrite, 'request_log'), $completion);
waits_and_fails('a row of the log changes', q{UPDATE apikeys.request_log SET ip = NULL WHERE endpoint = '/changed'}, $completion);
waits_and_fails('an account is erased', q{SELECT apikeys.erase_account_data('caller'); SELECT apikeys.activate_account('caller');
    UPDATE apikeys.key SET active = true}, $completion);
is(completed($_), '500|12.5|77', 'a completion is there') foreach @ids;

foreach my $table ('usage_bucket', 'usage_total')
{
    my $request = sub { return q{SELECT code FROM apikeys.verify('key-2')} };
    waits_and_fails("$table is rewritten", sprintf($rewrite, $table), $request);
    waits_and_fails("a row of $table changes", "UPDATE apikeys.$table SET errors = errors", $request);
}
is(value('SELECT events_quarantined, verdicts_overloaded FROM apikeys.stats()'), '0|0', 'no verdict was overloaded');
ledger_ok($node, 'changes');

# The partition for now is gone: it is said what is to be done, and nothing is lost.
my $today = 'request_log_' . today();
my $bound = value("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'apikeys.$today'::regclass");
is(value("SELECT relreplident FROM pg_class WHERE oid = 'apikeys.$today'::regclass"), 'f', 'who replicates the log can follow completions');
value("ALTER TABLE apikeys.request_log DETACH PARTITION apikeys.$today");
is(verdict_code($node, 'key-1'), 'valid', 'a request while its partition is detached');
until_true($node, "SELECT last_error = 'apikeys.$today is not a partition of the request log, but has the name of one that is needed' FROM apikeys.stats()",
    'the writer says why it waits');
value("ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.$today $bound");
ledger_ok($node, 'detached and attached');

$node->stop;
done_testing();
