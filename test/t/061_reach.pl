# Which accounts a session may read and change: by its role, whatever SET ROLE, SECURITY DEFINER, an index expression or a restored table
# make of it. Without a row in member there is none.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', "max_prepared_transactions = 5\nautovacuum_naptime = 1s\nautovacuum_analyze_threshold = 1\nautovacuum_analyze_scale_factor = 0");
my $super = $node->safe_psql('postgres', 'SELECT current_user');

value(<<'SQL');
CREATE EXTENSION apikeys;
SELECT name FROM apikeys.create_product('maps');
SELECT name FROM apikeys.create_product('routes');
SELECT name FROM apikeys.create_tier('gold', 9, '1000/day');
SELECT c.name FROM unnest('{acme,rival,third}'::text[]) AS a, apikeys.create_account(a) AS c;
SELECT c.alias FROM unnest('{acme,rival,third}'::text[]) AS a, apikeys.create_key(a, 'of ' || a, products => '{maps}', limits => '9/day') AS c;
SELECT u.id FROM unnest('{acme,rival,third}'::text[]) AS a, apikeys.request_upgrade(apikeys.find_key(a, 'of ' || a), 'gold', 'more') AS u;
SELECT apikeys.maintain();
CREATE TABLE known AS SELECT a.name AS account, k.key_id, u.id AS upgrade FROM apikeys.account AS a JOIN apikeys.key AS k USING (account_id)
    JOIN apikeys.upgrade_request AS u USING (key_id);
GRANT SELECT ON known TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;
INSERT INTO apikeys.usage_total SELECT s, CASE s WHEN 'k' THEN k.key_id ELSE k.account_id END, 1, 0, 1, 0, 0, now(), now() FROM apikeys.key AS k, (VALUES ('k'::"char"), ('a')) AS t (s);
INSERT INTO apikeys.usage_bucket SELECT s, CASE s WHEN 'k' THEN k.key_id ELSE k.account_id END, date_bin('5 minutes', now(), '2000-01-01'), 1, 0, 1, 0, 0
    FROM apikeys.key AS k, (VALUES ('k'::"char"), ('a')) AS t (s);
INSERT INTO apikeys.request_log (at, key_id, account_id, request_id, code, status, cost, category, completed)
    SELECT now(), k.key_id, k.account_id, gen_random_uuid(), 'valid', 200, 1, 'production', false FROM apikeys.key AS k;
CREATE ROLE staff LOGIN IN ROLE apikeys_staff;
CREATE ROLE boss LOGIN IN ROLE apikeys_admin;
CREATE ROLE auditor LOGIN IN ROLE apikeys_auditor;
CREATE ROLE clerk LOGIN IN ROLE apikeys_manager;
CREATE ROLE stray LOGIN IN ROLE apikeys_manager;
CREATE ROLE nobody LOGIN;
SELECT role FROM apikeys.add_member('clerk', 'acme');
-- Each way to read accounts and what they have: who asks sees those that he reaches.
CREATE TABLE look (way text, query text);
INSERT INTO look VALUES
    ('account', 'SELECT name FROM apikeys.account'),
    ('key', 'SELECT substr(alias, 4) FROM apikeys.key'),
    ('key_product', 'SELECT account FROM apikeys.key_product JOIN known USING (key_id)'),
    ('key_list', 'SELECT account FROM apikeys.key_list'),
    ('log', 'SELECT account FROM apikeys.log'),
    ('notice_list', 'SELECT DISTINCT account FROM apikeys.notice_list'),
    ('upgrade_list', 'SELECT account FROM apikeys.upgrade_list'),
    ('usage_report', 'SELECT account FROM apikeys.usage_report(now() - interval ''1 day'', now() + interval ''1 day'')'),
    ('log_report', 'SELECT account FROM apikeys.log_report(now() - interval ''1 day'', now() + interval ''1 day'', ''{account}'')');
GRANT SELECT ON look TO PUBLIC;
-- For one account: reading, then changing; undone at once.
CREATE TABLE act (way text, changing boolean, statement text);
INSERT INTO act VALUES
    ('get_key', false, 'SELECT apikeys.get_key(KEY)'), ('find_key', false, 'SELECT apikeys.find_key(ACCOUNT, concat(''of '', ACCOUNT))'),
    ('account_keys', false, 'SELECT apikeys.account_keys(ACCOUNT)'), ('find_keys', false, 'SELECT apikeys.find_keys(jsonb_build_object(''account'', ACCOUNT))'),
    ('id', false, 'SELECT apikeys.find_keys(''{"id": KEY}'')'), ('after', false, 'SELECT apikeys.find_keys(after => KEY)'), ('key_limits', false, 'SELECT apikeys.key_limits(KEY)'),
    ('account_limits', false, 'SELECT apikeys.account_limits(ACCOUNT)'), ('explain_key', false, 'SELECT apikeys.explain_key(KEY)'),
    ('get_upgrade', false, 'SELECT apikeys.get_upgrade(UPGRADE)'),
    ('usage_series', false, 'SELECT apikeys.usage_series(KEY, now() - interval ''1 day'', now(), ''1 day'')'),
    ('usage_report', false, 'SELECT apikeys.usage_report(now() - interval ''1 day'', now(), only_account => ACCOUNT)'),
    ('log_report', false, 'SELECT apikeys.log_report(now() - interval ''1 day'', now(), only_key => KEY)'),
    ('create_key', true, 'SELECT apikeys.create_key(ACCOUNT)'), ('rotate_key', true, 'SELECT apikeys.rotate_key(KEY)'),
    ('update_key', true, 'SELECT apikeys.update_key(KEY, ''{}'')'), ('copy_key', true, 'SELECT apikeys.copy_key(KEY)'), ('end_grace', true, 'SELECT apikeys.end_grace(KEY)'),
    ('update_account', true, 'SELECT apikeys.update_account(ACCOUNT, ''{}'')'),
    ('activate_key', true, 'SELECT apikeys.activate_key(KEY)'), ('deactivate_key', true, 'SELECT apikeys.deactivate_key(KEY)'),
    ('archive_key', true, 'SELECT apikeys.archive_key(KEY)'), ('unarchive_key', true, 'SELECT apikeys.unarchive_key(KEY)'),
    ('delete_key', true, 'SELECT apikeys.delete_key(KEY)'), ('assign_product', true, 'SELECT apikeys.assign_product(KEY, ''routes'')'),
    ('unassign_product', true, 'SELECT apikeys.unassign_product(KEY, ''maps'')'),
    ('request_upgrade', true, 'SELECT apikeys.request_upgrade(KEY, ''gold'', ''more'')'),
    ('answer_upgrade', true, 'SELECT apikeys.answer_upgrade(UPGRADE, ''so'')'), ('withdraw_upgrade', true, 'SELECT apikeys.withdraw_upgrade(UPGRADE)'),
    ('UPDATE', true, 'UPDATE apikeys.key SET alias = ''x'' WHERE key_id = KEY'),
    ('suspend_key', true, 'SELECT apikeys.suspend_key(KEY, ''unpaid'')'), ('unsuspend_key', true, 'SELECT apikeys.unsuspend_key(KEY)'),
    ('deactivate_account', true, 'SELECT apikeys.deactivate_account(ACCOUNT)'), ('activate_account', true, 'SELECT apikeys.activate_account(ACCOUNT)'),
    ('import_key', true, 'SELECT apikeys.import_key(ACCOUNT, ''any text'')'), ('change_plan', true, 'SELECT apikeys.change_plan(ACCOUNT, ''default'')'),
    ('add_member', true, 'SELECT apikeys.add_member(''nobody'', ACCOUNT)'), ('remove_member', true, 'SELECT apikeys.remove_member(''clerk'', ACCOUNT)'),
    ('reset_usage', true, 'SELECT apikeys.reset_usage(KEY)'), ('grant_units', true, 'SELECT apikeys.grant_units(KEY, ''day'', 1, ''2999-01-01'')'),
    ('reset_account_usage', true, 'SELECT apikeys.reset_account_usage(ACCOUNT)'),
    ('grant_account_units', true, 'SELECT apikeys.grant_account_units(ACCOUNT, ''day'', 1, ''2999-01-01'')'),
    ('ask_upgrade', true, 'SELECT apikeys.ask_upgrade(UPGRADE, ''why?'')'), ('approve_upgrade', true, 'SELECT apikeys.approve_upgrade(UPGRADE)'),
    ('decline_upgrade', true, 'SELECT apikeys.decline_upgrade(UPGRADE, ''no'')'), ('erase_account_data', true, 'SELECT apikeys.erase_account_data(ACCOUNT)');
GRANT SELECT ON act TO PUBLIC;
-- What the caller sees, each way: the accounts, if all ways agree.
CREATE FUNCTION seen() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    l record;
    names text;
    all_names text[] := '{}';
BEGIN
    FOR l IN SELECT * FROM look LOOP
        BEGIN
            EXECUTE format('SELECT coalesce(string_agg(q::text, '','' ORDER BY q::text), ''none'') FROM (%s) AS r (q)', l.query) INTO names;
        EXCEPTION
            WHEN OTHERS THEN names := SQLSTATE;
        END;
        all_names := all_names || CASE WHEN names = ANY (all_names) THEN '{}' ELSE ARRAY[names] END;
    END LOOP;
    RETURN array_to_string(all_names, ' or ');
END
$$;
-- The same for what he does to an account: each way by its outcome. Not allowed at all are those of no privilege (EXECUTE).
CREATE FUNCTION done(account text, changes boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a record;
    k known;
    n bigint;
    outcome text;
    outcomes text[] := '{}';
BEGIN
    SELECT * INTO STRICT k FROM known WHERE known.account = done.account;
    FOR a IN SELECT * FROM act WHERE changing = changes LOOP
        BEGIN
            EXECUTE replace(replace(replace(a.statement, 'KEY', k.key_id::text), 'ACCOUNT', quote_literal(account)), 'UPGRADE', k.upgrade::text);
            GET DIAGNOSTICS n = ROW_COUNT;
            RAISE SQLSTATE '00UND';
        EXCEPTION
            WHEN SQLSTATE '00UND' THEN outcome := CASE WHEN n = 0 AND a.way = 'UPDATE' THEN 'P0002' ELSE 'done' END;
            WHEN foreign_key_violation OR object_not_in_prerequisite_state OR unique_violation OR SQLSTATE '22023' THEN outcome := 'done';
            WHEN OTHERS THEN outcome := CASE WHEN SQLERRM LIKE 'permission denied%' THEN 'denied' WHEN SQLERRM LIKE 'role % is not bound%' THEN 'done' ELSE SQLSTATE END;
        END;
        outcomes := outcomes || CASE WHEN outcome = ANY (outcomes) OR outcome = 'denied' THEN '{}' ELSE ARRAY[outcome] END;
    END LOOP;
    RETURN CASE WHEN outcomes = '{}' THEN 'denied' ELSE array_to_string(outcomes, ' or ') END;
END
$$;
SQL

# What a session of the role sees and does to acme and rival, after some statements of its own.
sub as
{
    my ($role, $sql, $database) = @_;
    my ($rc, $out, $err) = $node->psql($database // 'postgres', ($sql // '') . q{;
        SELECT concat_ws(' | ', seen(), done('acme', false), done('rival', false), done('acme', true), done('rival', true));},
        extra_params => [ '-U', $role, '-q' ], timeout => $PostgreSQL::Test::Utils::timeout_default);
    $err =~ s/\n.*//s;
    return $rc == 0 ? $out =~ s/^\n+//r : $err;
}

my $all = 'acme,rival,third | done | done | done | done';
my $acme = 'acme | done | P0002 | done | P0002';
my $none = 'none | P0002 | P0002 | P0002 | P0002';

is(as($super), $all, 'a superuser reaches all');
is(as('staff'), $all, 'staff reach all');
is(as('boss'), $all, 'admins reach all');
is(as('auditor'), 'acme,rival,third | done | done | denied | denied', 'auditors read all and change nothing');
is(as('clerk'), $acme, 'a bound manager reaches its account');
is(as('stray'), $none, 'a manager without a row reaches none');
is(as('nobody'), '42501 | denied | denied | denied | denied', 'who has none of the roles may do nothing');

subtest 'staff may do what managers do, admins read what auditors read' => sub {
    is(value(q{SELECT count(*) FROM pg_proc AS p WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace)
        AND has_function_privilege('staff', p.oid, 'EXECUTE') <> has_function_privilege('stray', p.oid, 'EXECUTE')
        AND p.proname NOT IN ('take_notices', 'confirm_notices', 'remove_notice_consumer')}), '0', 'functions, but those that are about all accounts');
    is(value(q{SELECT string_agg(c.relname, ' ') FROM pg_class AS c WHERE c.relnamespace = 'apikeys'::regnamespace AND c.relkind IN ('r', 'p', 'v')
        AND has_table_privilege('auditor', c.oid, 'SELECT') AND NOT has_table_privilege('boss', c.oid, 'SELECT')}), '', 'tables');
    my ($rc, $out) = $node->psql('postgres', q{SELECT code FROM apikeys.authenticate('no key')}, extra_params => [ '-U', 'boss' ]);
    is($out, 'invalid', 'an admin authenticates');
};

subtest 'rows of member come and go' => sub {
    value(q{SELECT apikeys.add_member('stray', 'rival')});
    is(as('stray'), 'rival | P0002 | done | P0002 | done', 'bound to another account');
    value(q{SELECT apikeys.add_member('stray', 'acme')});
    is(as('stray'), 'acme,rival | done | done | done | done', 'and to a second one');
    value(q{SELECT apikeys.remove_member('stray', 'rival')});
    is(as('stray'), $acme, 'unbound from one');
    value(q{SELECT apikeys.remove_member('stray', 'acme')});
    is(as('stray'), $none, 'unbound from the last');
    is(value(q{SET SESSION AUTHORIZATION stray; SELECT current_setting('apikeys.create_accounts')}), 'on', 'create_key makes accounts');
    is(end(begin(q{SET SESSION AUTHORIZATION stray; SELECT apikeys.create_key('fourth')})), 'P0002', 'but not for who does not reach them');
    is(end(begin(q{SET SESSION AUTHORIZATION clerk; SELECT apikeys.create_key('fourth')})), 'P0002', 'nor for a bound manager');
    is(end(begin(q{SET SESSION AUTHORIZATION staff; BEGIN; SELECT account FROM apikeys.create_key('fourth'); ROLLBACK})), 'fourth', 'for staff it does');
};

subtest 'renamed and dropped roles' => sub {
    my $listed = q{SELECT string_agg(object, ', ' ORDER BY object) FROM apikeys.check_guards()};
    value('ALTER ROLE clerk RENAME TO clark');
    is(as('clark'), $none, 'a renamed role has no account');
    is(value($listed), 'member clerk', 'check_guards lists its row');
    value(q{UPDATE apikeys.member SET role = 'clark'});
    is(as('clark'), $acme, 'until its row is changed');
    is(value($listed), '', 'and then not');
    value('DROP ROLE clark');
    is(value($listed), 'member clark', 'check_guards lists the row of a dropped role');
    value('CREATE ROLE clark LOGIN');
    is(as('clark'), '42501 | denied | denied | denied | denied', 'a new role of the name has no privilege');
    value('GRANT apikeys_manager TO clark');
    is(as('clark'), $acme, 'as a manager it has the account: the row names it');
    value(q{SELECT apikeys.remove_member('clark', 'acme')});
    is(as('clark'), $none, 'and none without the row');
    value(q{DROP ROLE clark; CREATE ROLE clerk LOGIN IN ROLE apikeys_manager; SELECT apikeys.add_member('clerk', 'acme')});
};

subtest 'SET ROLE' => sub {
    value(q{CREATE ROLE chief LOGIN NOINHERIT IN ROLE staff, clerk, stray, apikeys_manager; GRANT USAGE ON SCHEMA apikeys TO chief;
        CREATE ROLE plain LOGIN IN ROLE clerk});
    is(as('chief'), '42501 | denied | denied | denied | denied', 'a login that inherits nothing may do nothing');
    is(as('chief', 'SET ROLE staff'), $all, 'as another role it reaches what that reaches');
    is(as('chief', 'SET ROLE clerk'), $acme, 'as a bound one its account');
    is(as('chief', 'SET ROLE stray'), $none, 'as one without a row none');
    is(as('chief', 'SET ROLE apikeys_manager'), $none, 'as the managers none');
    is(as('chief', 'SET ROLE staff; SET ROLE stray'), $none, 'the last one counts');
    is(as('chief', 'SET ROLE staff; RESET ROLE'), '42501 | denied | denied | denied | denied', 'RESET ROLE ends it');
    is(as('chief', 'BEGIN; SET LOCAL ROLE staff; COMMIT; SET ROLE clerk'), $acme, 'and so does the end of the transaction');
    is(as('clerk', 'SET ROLE apikeys_manager'), $none, 'a bound manager reaches none as a role without a row');
    is(as($super, 'SET ROLE clerk'), $acme, 'a superuser as a manager reaches what that does');
    is(as($super, 'SET ROLE stray'), $none, 'or none');
    is(as($super, 'SET SESSION AUTHORIZATION clerk'), $acme, 'as another user, too');
    is(as('plain'), $acme, 'a role that inherits from a bound one reaches its account');
};

subtest 'groups and combined roles' => sub {
    value(q{CREATE ROLE desk IN ROLE apikeys_manager; CREATE ROLE inner_desk IN ROLE desk; CREATE ROLE ann LOGIN IN ROLE inner_desk;
        CREATE ROLE bob LOGIN NOINHERIT IN ROLE inner_desk; CREATE ROLE twice LOGIN IN ROLE desk, clerk;
        CREATE ROLE reader LOGIN IN ROLE apikeys_auditor, clerk; CREATE ROLE owner LOGIN IN ROLE apikeys_manager;
        SELECT apikeys.add_member('desk', 'rival')});
    is(as('ann'), 'rival | P0002 | done | P0002 | done', 'a group is bound: its members reach the account');
    is(as('bob'), '42501 | denied | denied | denied | denied', 'who does not inherit does not');
    is(as('bob', 'SET ROLE inner_desk'), 'rival | P0002 | done | P0002 | done', 'until he becomes one of the group');
    is(as('twice'), 'acme,rival | done | done | done | done', 'rows of all groups add up');
    is(as('reader'), 'acme,rival,third | done | done | done | 42501 or P0002', 'an auditor who is a bound manager reads all, and changes what is bound');
    value(q{GRANT apikeys_staff TO clerk});
    is(as('clerk'), $all, 'who becomes staff is bound no more');
    value(q{REVOKE apikeys_staff FROM clerk});
    is(as('clerk'), $acme, 'and is bound again');
    value(q{SELECT apikeys.add_member('pg_database_owner', 'third'); CREATE DATABASE mine OWNER owner});
    is(as('owner'), $none, 'owning another database does not count');
    value(q{ALTER DATABASE postgres OWNER TO owner});
    is(as('owner'), 'third | P0002 | P0002 | P0002 | P0002', 'the owner of the database has the rows of pg_database_owner');
    value(qq{ALTER DATABASE postgres OWNER TO "$super"; DROP DATABASE mine; SELECT apikeys.remove_member('pg_database_owner', 'third')});
};

subtest 'SECURITY DEFINER lends privileges, not reach' => sub {
    for my $owner ($super, 'boss', 'staff') {
        value(qq{CREATE FUNCTION lent_$owner(statement text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS 'DECLARE r text; BEGIN EXECUTE statement INTO r; RETURN r; END';
            ALTER FUNCTION lent_$owner(text) OWNER TO "$owner"});
        my $lent = sub {
            my ($role, $statement) = @_;
            return end(begin(qq{SET SESSION AUTHORIZATION $role; BEGIN; SELECT lent_$owner(\$q\$$statement\$q\$); ROLLBACK}));
        };
        is($lent->('clerk', q{SELECT string_agg(account, ',') FROM apikeys.key_list}), 'acme', "of $owner: a bound manager sees its account");
        is($lent->('stray', q{SELECT count(*) FROM apikeys.key_list}), '0', "of $owner: one without a row none");
        is($lent->('nobody', q{SELECT count(*) FROM apikeys.key_list}), '0', "of $owner: who has no role none");
        is($lent->('stray', q{SELECT count(*) FROM apikeys.key}), $owner eq $super ? '3' : '0', "of $owner: row-level security is the owner's alone to bypass");
        is($lent->('clerk', q{SELECT (apikeys.deactivate_key(key_id)).alias FROM known WHERE account = 'rival'}), 'P0002', "of $owner: another's key is not changed");
        is($lent->('clerk', q{SELECT (apikeys.deactivate_key(key_id)).alias FROM known WHERE account = 'acme'}), 'of acme', "of $owner: its own is");
        next if $owner eq 'staff';
        is($lent->('clerk', q{SELECT apikeys.suspend_key(key_id, 'x') FROM known WHERE account = 'rival'}), 'P0002', "of $owner: nor what only admins may");
        is($lent->('clerk', q{SELECT (apikeys.suspend_key(key_id, 'x')).alias FROM known WHERE account = 'acme'}), 'of acme', "of $owner: that it may for its own, with the lent privilege");
        is($lent->('clerk', q{SELECT apikeys.create_key('acme', tier => 'gold')}), '42501', "of $owner: a tier is an admin's choice");
    }
    is(end(begin(qq{SET SESSION AUTHORIZATION stray; SELECT count(*) FROM apikeys.key_list; SET search_path = public; DO \$\$ BEGIN PERFORM set_config('role', 'staff', false); END \$\$;
        SELECT count(*) FROM apikeys.key_list})), '0 0 42501', 'a role that is not granted cannot be chosen');
};

# mallory is a manager without a row. What she plants in an index and a materialized view reports in whose session it runs, which keys it
# sees and whether it can change one.
subtest 'security-restricted operations' => sub {
    value(q{CREATE TABLE report (work text, who text, seen text); GRANT INSERT ON report TO PUBLIC; CREATE ROLE mallory LOGIN IN ROLE apikeys_manager});
    my ($rc, $out, $err) = $node->psql('postgres', q{
        CREATE FUNCTION spy_inside(i int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
        DECLARE
            outcome text;
        BEGIN
            SELECT string_agg(k.account, ',' ORDER BY k.account) INTO outcome FROM apikeys.key_list AS k;
            BEGIN
                PERFORM apikeys.deactivate_key(k.key_id) FROM public.known AS k;
                outcome := concat_ws(' ', outcome, 'changed');
            EXCEPTION
                WHEN OTHERS THEN outcome := concat_ws(' ', outcome, SQLSTATE);
            END;
            INSERT INTO public.report VALUES (current_setting('application_name'), session_user, outcome);
            RETURN i;
        END $$;
        CREATE FUNCTION spy(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.spy_inside(i); END $$;
        CREATE TABLE trap AS SELECT 1 AS i;
        CREATE INDEX trap_index ON trap (spy(i));
        CREATE MATERIALIZED VIEW trap_view AS SELECT spy_inside(i) FROM trap;}, extra_params => [ '-U', 'mallory' ]);
    is($rc, 0, 'a trap is laid') or diag $err;
    for my $work ('ANALYZE trap', 'REINDEX TABLE trap', 'REFRESH MATERIALIZED VIEW trap_view', 'VACUUM FULL trap', 'CLUSTER trap USING trap_index',
        'CREATE INDEX ON trap (i) WHERE spy(i) > 0') {
        value("DELETE FROM report; SET application_name = 'work'; $work");
        is(value(q{SELECT string_agg(DISTINCT concat_ws(' ', work, who, seen), ' or ') FROM report}), "work $super P0002",
            "$work by a superuser runs what was planted, and that reaches no account");
    }
    ($rc, $out, $err) = $node->psql('postgres', q{INSERT INTO trap SELECT generate_series(1, 100)}, extra_params => [ '-U', 'mallory' ]);
    until_true($node, q{SELECT last_autoanalyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'trap'}, 'autovacuum has come');
    is(value(qq{SELECT string_agg(DISTINCT seen, ' or ') FROM report WHERE who = '$super'}), 'P0002', 'what it ran reaches no account');
    is(value(q{SELECT count(*) FROM apikeys.key WHERE NOT active}), '0', 'no key has been changed');
    is(value(q{CREATE MATERIALIZED VIEW listed AS SELECT account FROM apikeys.key_list; SELECT count(*) FROM listed}), '0', 'a materialized view of a list is empty');
    value(q{DROP OWNED BY mallory; DROP MATERIALIZED VIEW listed});
};

# The rows of member belong to a database, the roles to the cluster.
subtest 'two databases, and a dump restored where roles are missing' => sub {
    value('CREATE DATABASE second TEMPLATE postgres');
    is(as('clerk', '', 'second'), $acme, 'a copy has the rows of member');
    value(q{SELECT apikeys.remove_member('clerk', 'acme')}, 'second');
    is(as('clerk', '', 'second'), $none, 'without the row in one of them');
    is(as('clerk'), $acme, 'the other is as it was');
    is(as('staff', '', 'second'), $all, 'staff are staff in both');
    $node->safe_psql('postgres', 'DROP DATABASE second');

    my $other = PostgreSQL::Test::Cluster->new('other');
    $other->init;
    $other->append_conf('postgresql.conf', "shared_preload_libraries = 'apikeys'");
    $other->start;
    my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
    $node->run_log([ 'pg_dump', '-Fc', '-O', '-x', '-f', $dump, '-d', $node->connstr('postgres'), '-n', 'apikeys', '-e', 'apikeys' ]);
    ok($other->run_log([ 'pg_restore', '-O', '-x', '-d', $other->connstr('postgres'), $dump ]), 'a dump is restored on a server without the roles');
    is($other->safe_psql('postgres', 'SELECT count(*) FROM apikeys.member'), value('SELECT count(*) FROM apikeys.member'), 'all rows of member are there');
    is($other->safe_psql('postgres', q{SELECT string_agg(object, ', ' ORDER BY object) FROM apikeys.check_guards() WHERE object LIKE 'member%'}),
        'member clerk, member desk', 'check_guards lists them all');
    $other->safe_psql('postgres', 'CREATE ROLE somebody LOGIN IN ROLE apikeys_manager');
    is($other->safe_psql('postgres', 'SET SESSION AUTHORIZATION somebody; SELECT count(*) FROM apikeys.key_list'), '0', 'and nobody is bound by them');
    $other->stop;
};

subtest "the extension's roles, renamed" => sub {
    my $count = sub { end(begin("SET SESSION AUTHORIZATION $_[0]; SELECT count(*) FROM apikeys.key_list; SELECT count(*) FROM apikeys.key")) };
    value("ALTER ROLE apikeys_$_ RENAME TO other_$_") for qw(admin staff auditor manager);
    is($count->($_), '0 0', "$_ reaches nothing") for qw(boss staff auditor);
    is($count->('clerk'), '1 1', 'a bound manager its account');
    is($count->($super), '3 3', 'a superuser all');
    is(value(q{SELECT string_agg(concat_ws(' ', object, problem), '; ') FROM apikeys.check_guards()}),
        join('; ', map { "role apikeys_$_ does not exist, so nobody has its reach" } qw(admin auditor staff)), 'check_guards lists them');
    value("ALTER ROLE other_$_ RENAME TO apikeys_$_") for qw(admin staff auditor manager);
    is($count->($_), '3 3', "$_ has its name again, and its reach") for qw(boss staff auditor);
};

done_testing();
