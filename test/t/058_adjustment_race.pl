# Resets and grants that commit while somebody reads what was there before them: whoever reads is held at wait points (src/engine/waitpoint.h).
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

plan skip_all => 'needs a library built with WAIT_POINTS=1: scripts/test races' unless $ENV{WAIT_POINTS};

my $node = server('main', "apikeys.queue_timeout = '120s'");
$node->safe_psql('postgres', <<'EOF');
CREATE EXTENSION apikeys;
SELECT apikeys.create_account('acme', limits => '9/day');
SELECT apikeys.import_key('acme', 'text of shop', alias => 'shop', limits => '5/hour');
CREATE FUNCTION ask(cost int = 1) RETURNS text LANGUAGE sql AS
$$ SELECT concat_ws(' ', code, limit_window, remaining || '/' || limit_cap) FROM apikeys.verify('text of shop', cost => cost) $$;
CREATE FUNCTION adjust_units(units int) RETURNS bigint LANGUAGE sql AS
$$ SELECT (apikeys.grant_units(apikeys.find_key('acme', 'shop'), 'hour', units, '2999-01-01')).units $$;
CREATE FUNCTION care_of_account(units int) RETURNS bigint LANGUAGE sql AS $$ SELECT (apikeys.grant_account_units('acme', 'day', units, '2999-01-01')).units $$;
EOF

# Has a session ask while it is held at a point between reading and publishing, and something done meanwhile; returns what it was told.
sub told
{
    my ($point, $meanwhile) = @_;
    my $holder = $node->background_psql('postgres');
    my $asking = $node->background_psql('postgres');

    hold($holder, $point);
    $asking->query_until(qr/asks/, "\\echo asks\nSELECT ask();\n\\echo was told\n");
    arrived($point);
    value($meanwhile);
    $holder->quit;
    my $told = $asking->query_until(qr/was told/, '');
    $asking->quit;
    return $told =~ s/\n?was told\n?//r;
}

is(value('SELECT ask(5)'), 'valid hour 0/5', 'all is used');
value('SELECT adjust_units(2)');
is(told('meter_adjust', 'SELECT adjust_units(-2)'), 'rate_limited hour 0/5', 'what was taken back while it was read is not granted');
is(value('SELECT ask()'), 'rate_limited hour 0/5', 'nor later');
value('SELECT adjust_units(2)');
is(told('meter_adjust', 'SELECT adjust_units(1)'), 'valid hour 2/8', 'what was granted while others were read is there');
is(value('SELECT ask()'), 'valid hour 1/8', 'and later');

# All of the account is used; its meter is loaded first.
value(q{SELECT ask(); UPDATE apikeys.account SET limits = '8/day'; SELECT care_of_account(3), apikeys.flush()});
$node->restart;
is(told('meter_load', 'SELECT care_of_account(-3)'), 'rate_limited day 0/8', 'what was taken back during a load is not granted');
value('SELECT apikeys.flush()');
$node->restart;
is(told('meter_load', q{SET apikeys.queue_timeout = '1s'; SELECT apikeys.reset_account_usage('acme')}), 'rate_limited hour 0/8', 'a reset during a load acts at once: the key denies, its account does not');
is(value(q{SELECT used FROM apikeys.account_limits('acme')}), '0', 'nothing of the account is used');
is(value('SELECT * FROM apikeys.check_ledger()'), '', 'the ledger holds');

$node->stop;
done_testing();
