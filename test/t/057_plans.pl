# No call for one key, or for one account, reads a whole table: 100,000 keys in 1,000 accounts, with usage, log and all that goes with
# them. The server counts the scans of each statement; each is run with plans made for its arguments and with generic ones.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', "timezone = 'UTC'\njit = off\nautovacuum = off\nmax_wal_size = 4GB");

value(<<'EOF');
CREATE EXTENSION apikeys;
-- An id as verify gives it.
CREATE FUNCTION public.request_id(at timestamptz, key_id bigint) RETURNS uuid LANGUAGE sql AS $$
    SELECT (lpad(to_hex(u.us / 1000), 12, '0') || to_hex(7 * 4096 + (u.us % 1000) * 4) || lpad(to_hex((-9223372036854775808) | (key_id << 9)), 16, '0'))::uuid
    FROM (SELECT (extract(epoch FROM at) * 1000000)::bigint AS us) AS u
$$;
SET session_replication_role = replica;
INSERT INTO apikeys.tier (name, rank, limits) VALUES ('bronze', 1, '1000/day'), ('gold', 2, '10000/day');
INSERT INTO apikeys.product (name) VALUES ('maps'), ('routes'), ('tiles'), ('parking');
INSERT INTO apikeys.plan (name, max_keys, limits, one_key_per_product) VALUES ('many', 1000, '100000/day', true), ('other', 1000, '', false);
INSERT INTO apikeys.account (account_id, name, plan) SELECT n, 'account ' || n, 'many' FROM generate_series(1, 1000) AS n;
INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, tier, limits, active, suspended_at, suspended_reason)
SELECT n, 1 + n % 1000, sha256(('key ' || n)::bytea)::apikeys.digest, 'ak', '', 'alias ' || n, 'bronze', CASE WHEN n % 3 = 0 THEN '10/day, 1000/total' END::apikeys.limits,
       n % 10 > 1, CASE WHEN n % 10 = 1 THEN now() END, CASE WHEN n % 10 = 1 THEN 'unpaid' END
FROM generate_series(1, 100000) AS n;
INSERT INTO apikeys.key_product (key_id, product) SELECT n, CASE WHEN n < 1001 THEN 'maps' ELSE 'routes' END FROM generate_series(1, 100000) AS n WHERE n < 1001 OR n % 10 = 0;
INSERT INTO apikeys.key_product (key_id, product) VALUES (2002, 'parking');
INSERT INTO apikeys.member (role, account_id) SELECT 'clerk', n FROM generate_series(1, 3) AS n;
INSERT INTO apikeys.upgrade_request (id, key_id, tier, motivation, due_at) SELECT n, n, 'gold', 'more', now() FROM generate_series(1, 50000) AS n;
INSERT INTO apikeys.audit_log (action, object, object_id, account_id) SELECT 'update', 'key', n, 1 + n % 1000 FROM generate_series(1, 100000) AS n;
INSERT INTO apikeys.adjustment (subject, subject_id, limit_window, units, until) SELECT 'k', n, 'day', 1, '2999-01-01' FROM generate_series(1, 100000) AS n;
INSERT INTO apikeys.adjustment (subject, subject_id, limit_window, units, until) SELECT 'a', n, 'day', 1, '2999-01-01' FROM generate_series(1, 1000) AS n;
INSERT INTO apikeys.notice (kind, key_id, account_id, sent_at) SELECT 'created', n, 1 + n % 1000, now() FROM generate_series(1, 100000) AS n;
-- All but those whose last digit is 9 are used, in each of three days.
INSERT INTO apikeys.usage_total SELECT 'k', n, 3, 0, 3, 0, 0, now() - interval '2 days', now() FROM generate_series(1, 100000) AS n WHERE n % 10 <> 9;
INSERT INTO apikeys.usage_bucket SELECT 'k', n, date_bin('5 minutes', now(), '2000-01-01') - d * interval '1 day', 1, 0, 1, 0, 0
FROM generate_series(1, 100000) AS n, generate_series(0, 2) AS d WHERE n % 10 <> 9;
INSERT INTO apikeys.usage_total SELECT 'a', n, 270, 0, 270, 0, 0, now() - interval '2 days', now() FROM generate_series(1, 1000) AS n;
INSERT INTO apikeys.usage_bucket SELECT 'a', n, date_bin('5 minutes', now(), '2000-01-01') - d * interval '1 day', 90, 0, 90, 0, 0
FROM generate_series(1, 1000) AS n, generate_series(0, 2) AS d;
-- In one transaction, so that now() is the same, also at midnight.
BEGIN;
DO $$
BEGIN
    FOR d IN 0 .. 2 LOOP
        EXECUTE format('CREATE TABLE apikeys.request_log_%1$s (LIKE apikeys.request_log INCLUDING ALL);
            CREATE INDEX ON apikeys.request_log_%1$s (key_id, at);
            ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.request_log_%1$s FOR VALUES FROM (%2$L) TO (%3$L)',
            to_char(now() - d * interval '1 day', 'YYYYMMDD'), current_date - d, current_date - d + 1);
    END LOOP;
END $$;
INSERT INTO apikeys.request_log (at, key_id, account_id, request_id, code, status, cost, category, completed)
SELECT t.at, n, 1 + n % 1000, public.request_id(t.at, n), 'valid', 200, 1, 'production', false
FROM generate_series(1, 100000) AS n, generate_series(0, 2) AS d, LATERAL (SELECT greatest(current_date - d, now() - d * interval '1 day' - interval '1 hour')) AS t (at)
WHERE n % 10 <> 9;
COMMIT;
CREATE TABLE public.request AS SELECT request_id AS id FROM apikeys.request_log WHERE key_id = 2002 ORDER BY at LIMIT 1;
GRANT SELECT ON public.request TO PUBLIC;
INSERT INTO apikeys.notice_consumer (name) VALUES ('mailer');
INSERT INTO apikeys.notice_delivery (consumer, notice_id) SELECT 'mailer', id FROM apikeys.notice;
SELECT setval(pg_get_serial_sequence('apikeys.' || t, c), 1000000)
FROM (VALUES ('account', 'account_id'), ('upgrade_request', 'id'), ('audit_log', 'id'), ('adjustment', 'id'), ('notice', 'id')) AS s(t, c);
SELECT setval('apikeys.key_number_seq', 1000000);
CREATE ROLE clerk LOGIN IN ROLE apikeys_manager;
CREATE ROLE portal LOGIN IN ROLE apikeys_portal;
CREATE ROLE boss LOGIN IN ROLE apikeys_admin, apikeys_manager, apikeys_verifier, apikeys_auditor;
VACUUM ANALYZE;
EOF

# What has been scanned sequentially by the transaction so far; small tables may be.
value(<<'EOF');
CREATE TABLE public.large AS SELECT c.oid FROM pg_class AS c WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind = 'r' AND c.reltuples >= 10000;
GRANT SELECT ON public.large TO PUBLIC;
CREATE FUNCTION scanned() RETURNS text LANGUAGE sql AS
$$ SELECT coalesce(string_agg(s.relname || ' ' || s.seq_scan, ', ' ORDER BY s.relname), 'none') FROM pg_stat_xact_all_tables AS s JOIN public.large AS l ON l.oid = s.relid WHERE s.seq_scan > 0 $$;
EOF
my $large = value('SELECT string_agg(oid::regclass::text, $$ $$ ORDER BY oid::regclass::text) FROM public.large');
like($large, qr/\bapikeys\.$_\b/, "$_ is large") foreach qw(adjustment audit_log key key_product notice request_log_\d+ upgrade_request usage_bucket usage_total);

# That a scan is seen is part of the test.
is(value(q{BEGIN; SELECT count(*) FROM apikeys.key WHERE category = 'none'; SELECT scanned()}), "0\nkey 1", 'a sequential scan is counted');

# Each statement by whom it is for. Key 2002 of account 3 is used and active, 2009 of account 10 is not used; 3, 30003 … are in account 4.
my $since = q{now() - interval '3 days', now()};
my @calls = (
    # verifiers
    [ boss => q{SELECT apikeys.verify('key 2002', product => 'parking')} ], [ boss => q{SELECT apikeys.verify('key 2019', '/first')} ], [ boss => q{SELECT apikeys.verify('no key')} ],
    [ boss => q{SELECT apikeys.verify_many('{key 2002,key 2003,key 2004}')} ], [ boss => q{SELECT apikeys.authenticate('key 2002', product => 'parking')} ],
    [ boss => q{SELECT apikeys.complete((apikeys.verify('key 2002', product => 'parking')).request_id, 200)} ], [ boss => q{SELECT apikeys.complete_many(ARRAY[(apikeys.verify('key 2002', product => 'parking')).request_id], '{200}')} ],
    [ boss => q{SELECT apikeys.key_facts('key 2002')} ], [ boss => q{SELECT apikeys.begin_as('key 2002', product => 'parking')} ],
    # a portal
    [ portal => q{SELECT apikeys.begin_for('account 3'); SELECT * FROM apikeys.key_list WHERE account = 'account 3'} ],
    # owners; the clerk is bound to accounts 1 to 3
    (map { ([ clerk => $_ ], [ boss => $_ ]) }
        q{SELECT apikeys.create_key('account 3', products => '{tiles}')}, q{SELECT apikeys.create_key('account 3', 'named', products => '{routes}')},
        q{SELECT apikeys.rotate_key(2002)}, q{SELECT apikeys.deactivate_key(2002); SELECT apikeys.copy_key(2002)}, q{SELECT apikeys.end_grace(2002)},
        q{SELECT apikeys.update_key(2002, '{"alias": "new", "metadata": {"a": 1}}')}, q{SELECT apikeys.deactivate_key(2002)}, q{SELECT apikeys.deactivate_key(2002); SELECT apikeys.activate_key(2002)},
        q{SELECT apikeys.delete_key((apikeys.create_key('account 3', products => '{tiles}')).key_id)}, q{SELECT apikeys.get_key(2002)}, q{SELECT apikeys.find_key('account 3', 'alias 2002')},
        q{SELECT apikeys.explain_key(2002)}, q{SELECT * FROM apikeys.key_limits(2002)}, q{SELECT * FROM apikeys.account_limits('account 3')},
        q{SELECT * FROM apikeys.account_keys('account 3')}, q{SELECT apikeys.find_keys('{"account": "account 3"}')}, q{SELECT apikeys.find_keys('{"id": 2002}')},
        q{SELECT apikeys.find_keys('{"alias": "alias 2002"}', rows => 10)}, q{SELECT apikeys.deactivate_key(2002); SELECT apikeys.archive_key(2002); SELECT apikeys.unarchive_key(2002)}, q{SELECT apikeys.assign_product(2002, 'routes'); SELECT apikeys.assign_product(2002, 'tiles'); SELECT apikeys.unassign_product(2002, 'tiles')},
        qq{SELECT * FROM apikeys.usage_series(2002, $since, '1 hour')}, qq{SELECT * FROM apikeys.account_usage_series('account 3', $since, '1 hour')}, qq{SELECT * FROM apikeys.usage_report($since, only_key => 2002)},
        qq{SELECT * FROM apikeys.usage_report($since, '{key,product}', '1 day', only_account => 'account 3')},
        qq{SELECT * FROM apikeys.log_report($since, '{endpoint}', only_key => 2002)}, qq{SELECT * FROM apikeys.log_report($since, '{code}', only_account => 'account 3')},
        q{SELECT apikeys.log_page('{"key_id": 2002}')}, q{SELECT apikeys.log_page('{"account": "account 3", "status": "2xx"}', (SELECT id FROM request))},
        q{SELECT apikeys.find_request((SELECT id FROM request))},
        q{SELECT apikeys.withdraw_upgrade(2002); SELECT apikeys.request_upgrade(2002, 'gold', 'more')}, q{SELECT apikeys.get_upgrade(2002)},
        q{SELECT * FROM apikeys.key_list WHERE key_id = 2002}, q{SELECT * FROM apikeys.key_list WHERE account = 'account 3'},
        q{SELECT * FROM apikeys.key_list WHERE account = 'account 3' AND alias = 'alias 2002'},
        q{SELECT * FROM apikeys.log WHERE key_id = 2002}, q{SELECT * FROM apikeys.log WHERE key_id = 2002 AND at > now() - interval '1 day'},
        q{SELECT * FROM apikeys.log WHERE account = 'account 3' AND alias = 'alias 2002'},
        q{SELECT * FROM apikeys.upgrade_list WHERE key_id = 2002}, q{SELECT * FROM apikeys.upgrade_list WHERE account = 'account 3'},
        q{SELECT * FROM apikeys.notice_list WHERE account = 'account 3'}, q{UPDATE apikeys.key SET alias = 'new' WHERE key_id = 2002}, q{SELECT key_id, tier FROM apikeys.key WHERE key_id = 2002},
        q{SELECT * FROM apikeys.key_product WHERE key_id = 2002}, q{SELECT * FROM apikeys.account WHERE name = 'account 3'}),
    # the provider
    map { [ boss => $_ ] }
        q{SELECT apikeys.create_account('new', plan => 'many')}, q{SELECT apikeys.update_account('account 3', '{"contact": "ann@example.com"}')}, q{SELECT apikeys.deactivate_account('account 3'); SELECT apikeys.activate_account('account 3')},
        q{SELECT apikeys.suspend_key(2002, 'unpaid'); SELECT apikeys.unsuspend_key(2002)}, q{SELECT apikeys.import_key('account 3', 'a text of my own', products => '{tiles}')},
        q{SELECT * FROM apikeys.import_keys('[{"account": "account 3", "text": "a text of my own", "products": ["tiles"]}, {"account": "account 3", "text": "key 2002"}]')},
        q{SELECT * FROM apikeys.report_leak('[{"token": "key 2002"}]')},
        q{SELECT apikeys.change_plan('account 3', 'other', true)}, q{SELECT apikeys.change_plan('account 3', 'other')}, q{SELECT apikeys.add_member('clerk', 'account 9'); SELECT apikeys.remove_member('clerk', 'account 9')},
        q{SELECT apikeys.ask_upgrade(2002, 'why'); SELECT apikeys.answer_upgrade(2002, 'so'); SELECT apikeys.approve_upgrade(2002)}, q{SELECT apikeys.decline_upgrade(2003, 'no')},
        q{SELECT apikeys.reset_usage(2002, 'day')}, q{SELECT apikeys.reset_account_usage('account 3')}, q{SELECT apikeys.grant_units(2002, 'day', 5, '2999-01-01')},
        q{SELECT apikeys.grant_account_units('account 3', 'day', 5, '2999-01-01')}, q{SELECT apikeys.erase_account_data('account 3')},
        q{UPDATE apikeys.key SET tier = 'gold' WHERE key_id = 2002}, q{UPDATE apikeys.account SET limits = '5/day' WHERE name = 'account 3'},
        q{SELECT * FROM apikeys.audit_log WHERE object = 'key' AND object_id = '2002'}, q{SELECT * FROM apikeys.audit_log WHERE account_id = 3},
        q{SELECT * FROM apikeys.adjustment WHERE subject = 'k' AND subject_id = 2002},
        q{SELECT * FROM apikeys.usage_total WHERE subject = 'k' AND subject_id = 2002}, q{SELECT * FROM apikeys.usage_bucket WHERE subject = 'k' AND subject_id = 2002},
        q{SELECT * FROM apikeys.request_log WHERE key_id = 2002 AND at > now() - interval '1 day'},
        q{SELECT apikeys.confirm_notices('mailer', ARRAY(SELECT n.id FROM apikeys.take_notices('mailer') AS n))}, q{SELECT apikeys.shard_hash(2002), apikeys.shard_hash('key 2002')}, q{SELECT * FROM apikeys.upgrade_queue WHERE key_id = 2002});

# Every function that is told a key, an account or a request is among them.
my $called = join ' ', map { $_->[1] } @calls;
foreach my $function (split /\n/, value(q{SELECT DISTINCT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'apikeys'::regnamespace
    AND p.proargnames[1:p.pronargs] && '{key,keys,key_id,account,id,request_id,request_ids,only_key,only_account,rows,report}'
    AND EXISTS (SELECT FROM unnest('{apikeys_verifier,apikeys_manager,apikeys_portal,apikeys_staff,apikeys_admin,apikeys_auditor}'::text[]) AS r WHERE has_function_privilege(r, p.oid, 'EXECUTE'))}))
{
    like($called, qr/\bapikeys\.$function\(/, "$function is called");
}

foreach my $call (@calls)
{
    my ($role, $statements) = @$call;
    foreach my $mode (qw(force_custom_plan force_generic_plan))
    {
        my ($status, $out, $err) = $node->psql('postgres', "SET SESSION AUTHORIZATION $role; SET plan_cache_mode = $mode; BEGIN; $statements; SELECT scanned(); ROLLBACK");
        is($status ? $err : (split /\n/, $out)[-1], 'none', "$role, $mode: $statements");
    }
}

# A key that was never used is deleted; and the writer, which writes what was verified and completed above, scans nothing either.
is(value(q{BEGIN; SELECT alias FROM apikeys.delete_key(52009); SELECT scanned()}), "alias 52009\nnone", 'delete_key of a key that was never used');
my $scans = q{SELECT string_agg(s.relname || ' ' || s.seq_scan, ' ' ORDER BY s.relname) FROM pg_stat_all_tables AS s JOIN public.large AS l ON l.oid = s.relid};
my $before = value($scans);
my $written = q{SELECT sum(s.n_tup_ins + s.n_tup_upd) FROM pg_stat_all_tables AS s JOIN public.large AS l ON l.oid = s.relid WHERE s.relname ~ '^(request_log|usage)'};
my $rows = value($written);
my $id = value(q{SELECT request_id FROM apikeys.verify('key 2002', '/last', product => 'parking')});
value('SELECT apikeys.flush()');
is(value(qq{SELECT apikeys.complete('$id', 503, 1.5); SELECT apikeys.flush(); SELECT status FROM apikeys.request_log WHERE request_id = '$id' AND key_id = 2002}), "t\nt\n503", 'a request is written and completed');
ok($node->poll_query_until('postgres', "SELECT ($written) >= $rows + 8"), 'and counted in the statistics');
is(value($scans), $before, 'the writer has scanned no table');

$node->stop;
done_testing();
