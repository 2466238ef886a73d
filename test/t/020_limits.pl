# Limits under many sessions at once: what is admitted is exactly what the limits leave room for.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;
use Trace;

my $node = server('main', 'max_connections = 30');
trace_install($node);

# Units admitted on keys, as their callers were told.
sub admitted
{
    my $aliases = join ',', @_;
    return value(qq{SELECT coalesce(sum(l.cost), 0) FROM journal AS j JOIN apikeys.request_log AS l USING (request_id)
        WHERE j.code = 'valid' AND j.alias = ANY ('{$aliases}')});
}

# One key, unused before: its first use, by 16 at once, counts once each.
value(q{SELECT add_key('one', add_account('one', ''), '500/hour')});
sessions($node, 16, 50, q{SELECT request('one')});
trace_ok($node, 'one key', aliases => ['one']);
is(admitted('one'), 500, 'one key: exactly its cap was admitted');

# Costs, and a total. With these costs a cap is not always reached, but whoever was denied asked for more than was left.
value(q{SELECT add_key('costs', add_account('costs', ''), '900/day, 3000/total'), add_key('total', add_account('total', ''), '700/total')});
sessions($node, 16, 50, "\\set cost random(0, 7)\nSELECT request('costs', :cost), request('total', :cost)");
trace_ok($node, 'costs', aliases => [ 'costs', 'total' ]);
is(value(q{SELECT (request('total', 0)).remaining}), 700 - admitted('total'), 'total: to the unit');

# The account's limits and its keys' together: all or none.
value(q{SELECT add_key('left', a, '200/hour'), add_key('right', a, '250/day'), add_key('free', a, '') FROM add_account('both', '300/hour') AS a});
sessions($node, 16, 50, "\\set n random(1, 2)\nSELECT request((ARRAY['left', 'right'])[:n])");
trace_ok($node, 'account and keys', aliases => [ 'left', 'right' ]);
is(admitted('left', 'right'), 300, 'account and keys: exactly the cap of the account was admitted');
sessions($node, 4, 5, q{SELECT request('free')});
is(admitted('free'), 0, 'a key without limits has no more than its account');

# Windows that roll: one of the sessions moves the clock with each of its requests, for all alike but for what lies between reading
# it and using it.
value(q{SELECT add_key('fast', a, '7/second, 60/minute, 500/10 minutes'), add_key('slow', a, '3/10 seconds, 100/hour') FROM add_account('rolling', '9/2 seconds, 70/minute') AS a});
my $move = "\\if :client_id = 0\nSELECT clock_go('15 seconds');\n\\endif\n";
sessions($node, 16, 200, "$move\\set n random(1, 3)\n\\set cost random(0, 3)\nSELECT request((ARRAY['fast', 'fast', 'slow'])[:n], :cost)");
value(q{SELECT clock_go('1 second')});
trace_ok($node, 'rolling', aliases => [ 'fast', 'slow' ]);
# In each ten minutes there were requests, so that the limits had room for one of them, or were reached within them.
cmp_ok(value(qq{SELECT count(DISTINCT date_bin('10 minutes', l.at, '2000-01-01')) FROM apikeys.request_log AS l JOIN apikeys.key AS k USING (key_id)
    WHERE k.alias = 'fast' AND l.code = 'valid' AND l.cost > 0}), '>=', 4, 'rolling: windows have rolled');

# Limits that change while they are used, by callers of any isolation level: two of the sessions change them, and the first moves
# the clock. What every version of a row has in common always holds; of a cap that goes up and down, the greatest.
value(q{SELECT add_key('changing', add_account('changing', '90/minute'), '60/minute'); SELECT clock_go('1 hour')});
my $change = <<'EOF';
\set n random(1, 6)
\set window random(1, 20)
\set cap random(1, 30)
\if :client_id < 2
UPDATE apikeys.key SET limits = CASE :n
    WHEN 1 THEN '60/minute' WHEN 2 THEN '30/minute' WHEN 3 THEN '1/minute'
    WHEN 4 THEN format('60/minute, 300/%s minutes', :window + 10) WHEN 5 THEN format('60/minute, %s/%s seconds', :cap, :window)
    ELSE '60/minute, 900/hour, 5000/day, 9000/week, 20000/month, 90000/total' END::apikeys.limits WHERE alias = 'changing';
UPDATE apikeys.account SET limits = CASE WHEN :n < 4 THEN '90/minute' ELSE format('%s/%s seconds, 90/minute', :cap + 30, :window + 20) END::apikeys.limits
WHERE name = 'changing';
\endif
EOF
sessions($node, 10, 250, "$move$change\\set cost random(0, 3)\nSELECT request('changing', :cost)");
sessions($node, 10, 250, "$move$change\\set cost random(0, 3)\nBEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM apikeys.key;\nSELECT request('changing', :cost);\nCOMMIT");
value(q{SELECT clock_go('1 second');
    UPDATE apikeys.key SET limits = '60/minute' WHERE alias = 'changing'; UPDATE apikeys.account SET limits = '90/minute' WHERE name = 'changing'});
trace_ok($node, 'changing');
cmp_ok(value(q{SELECT count(DISTINCT limit_window) FROM rule}), '>', 5, 'the oracle had rules');
cmp_ok(value(q{SELECT count(DISTINCT date_bin('1 hour', l.at, '2000-01-01')) FROM apikeys.request_log AS l JOIN apikeys.key AS k USING (key_id)
    WHERE k.alias = 'changing' AND l.code = 'valid'}), '>', 1, 'changing: some were admitted, all the time');

# Caps that go up and down meanwhile: never more than the highest, and in the end exactly that.
value(q{SELECT add_key('up and down', add_account('up and down', '900/day'), '600/hour'); SELECT clock_go('1 hour')});
sessions($node, 17, 60, <<'EOF');
\set cap random(1, 6)
\if :client_id = 0
UPDATE apikeys.key SET limits = format('%s/hour', 100 * :cap)::apikeys.limits WHERE alias = 'up and down';
UPDATE apikeys.account SET limits = format('%s/day', 900 - 100 * :cap)::apikeys.limits WHERE name = 'up and down';
\endif
\set cost random(1, 3)
SELECT request('up and down', :cost)
EOF
cmp_ok(admitted('up and down'), '>=', 98, 'up and down: as much as the lowest cap was admitted');
value(q{UPDATE apikeys.key SET limits = '600/hour' WHERE alias = 'up and down'; UPDATE apikeys.account SET limits = '900/day' WHERE name = 'up and down'});
sessions($node, 16, 40, q{SELECT request('up and down')});
trace_ok($node, 'up and down');
is(admitted('up and down'), 600, 'up and down: exactly the highest cap was admitted');

# Windows that nobody had, all the time: each is loaded while requests of other sessions come and are queued.
value(q{SELECT add_key('growing', add_account('growing', ''), '100/hour'); SELECT clock_go('1 hour')});
sessions($node, 8, 60, "\\set window random(61, 90)\nUPDATE apikeys.key SET limits = format('100/%s minutes', :window)::apikeys.limits WHERE alias = 'growing';\nSELECT request('growing') FROM generate_series(1, 3)");
trace_ok($node, 'growing', aliases => ['growing'], loaded => 1);
is(admitted('growing'), 100, 'growing: exactly the cap was admitted');

# A snapshot does not keep old limits alive, nor hide new ones.
value(q{SELECT add_key('snapshot', add_account('snapshot', ''), '5/hour'); SELECT request('snapshot')});
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($old->query_safe(q{SELECT limits FROM apikeys.key WHERE alias = 'snapshot'}), '5/hour', 'a snapshot is taken');
value(q{UPDATE apikeys.key SET limits = '1/hour' WHERE alias = 'snapshot'});
is($old->query_safe(q{SELECT (request('snapshot')).code}), 'rate_limited', 'a lower cap holds in it at once');
value(q{UPDATE apikeys.key SET limits = '2/hour' WHERE alias = 'snapshot'});
is($old->query_safe(q{SELECT (request('snapshot')).code}), 'valid', 'and so does a higher one');
$old->query_safe('COMMIT');
$old->quit;

# The status of an exhausted quota is a setting.
value(q{SELECT add_key('quota', add_account('quota', ''), '0/day, 1/total')});
is(value(q{SELECT status, code FROM apikeys.verify('quota')}), '401|quota_exceeded', 'status 401');
set_conf($node, 'apikeys.quota_status = 429', q{SELECT status = 429 FROM apikeys.verify('quota', '/429')}, 'status 429');
is(value(q{SELECT * FROM apikeys.check_ledger(); SELECT max(status) FROM apikeys.request_log WHERE endpoint = '/429'}), '429', 'also in the log');

$node->stop;
done_testing();
