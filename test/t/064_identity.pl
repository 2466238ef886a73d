# Who acts for somebody, and tries to be somebody else: forging, keeping, widening or switching the identity of a transaction (begin_as,
# begin_for) by all that SQL has. What ends the transaction ends the identity; that is tested as the documents have it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', "max_prepared_transactions = 5\nlog_statement = none");

value(<<'SQL');
CREATE EXTENSION apikeys;
SELECT a.name FROM unnest('{acme,rival}'::text[]) AS n, apikeys.create_account(n) AS a;
CREATE ROLE portal LOGIN IN ROLE apikeys_portal;
CREATE ROLE checker LOGIN IN ROLE apikeys_verifier;
CREATE ROLE clerk LOGIN IN ROLE apikeys_manager, apikeys_verifier;  -- bound to rival, and verifies keys
SELECT role FROM apikeys.add_member('clerk', 'rival');
CREATE ROLE boss LOGIN IN ROLE apikeys_admin, apikeys_verifier;
GRANT CREATE ON SCHEMA public TO PUBLIC;
GRANT CREATE, TEMP ON DATABASE postgres TO PUBLIC;
CREATE TABLE orders (id int PRIMARY KEY, account text NOT NULL, item text);
INSERT INTO orders SELECT n, CASE WHEN n % 2 = 0 THEN 'acme' ELSE 'rival' END, 'item ' || n FROM generate_series(1, 20) AS n;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON orders USING (account = (SELECT apikeys.current_account()));
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO PUBLIC;
SQL

# Key texts stay in this process: sessions get them as a variable of psql.
my %key;
for my $account ('acme', 'rival') {
    $key{$account} = value("SELECT key FROM apikeys.create_key('$account', 'of $account', scopes => '{orders:read}')");
    $key{"manage $account"} = value("SELECT key FROM apikeys.create_key('$account', 'manage $account', scopes => '{apikeys:manage}')");
}

# What a session of the role prints, errors as their SQLSTATE in the order in which they come.
sub session
{
    my ($role, $sql, %option) = @_;
    my ($out, $in) = ('', $sql);
    my @command = ('psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never', '-v', "acme=$key{acme}", '-v', "rival=$key{rival}", '-v', "manage=$key{'manage acme'}",
        '-d', $option{connstr} // $node->connstr('postgres') . " user=$role");
    IPC::Run::run(\@command, '<', \$in, '>', \$out, '2>&1', patience());
    return join ' ', map { s/^(?:psql:\S+ )?(?:ERROR|FATAL):  (\w{5}).*/$1/r =~ s/^(?:psql:\S+ )?WARNING:  (\w{5}).*/warning $1/r =~ s/^(?:psql:\S+ )?NOTICE:  00000: //r }
        grep { $_ ne '' && !/^(?:LINE|\s*\^|DETAIL:|HINT:|LOCATION:|SCHEMA NAME:|TABLE NAME:|COLUMN NAME:|CONSTRAINT NAME:|DATATYPE NAME:)/ } split /\n/, $out;
}

# Who is acting, and whose orders and keys are seen.
my $who = q{SELECT concat('[', apikeys.current_account(), '|', (SELECT string_agg(DISTINCT account, ',') FROM orders), '|',
    (SELECT string_agg(DISTINCT account, ',') FROM apikeys.key_list), ']');};
my $orders = q{SELECT concat('[', apikeys.current_account(), '|', (SELECT string_agg(DISTINCT account, ',') FROM orders), ']');};
my $for = q{SELECT 'begun' FROM apikeys.begin_for('acme');};
my $as = q{SELECT code FROM apikeys.begin_as(:'acme', metered => false);};
my $mine = '[acme|acme|acme]';
my $nobody = '[||]';

subtest 'to begin' => sub {
    is(session('portal', "$who BEGIN; $for $who COMMIT; $who"), "$nobody begun $mine $nobody", 'an account, for one transaction');
    is(session('portal', "BEGIN; $as $who COMMIT; $who"), "valid $mine $nobody", 'a key, by a portal');
    is(session('checker', "$orders BEGIN; $as $orders COMMIT; $orders"), '[|] valid [acme|acme] [|]', 'a key, by a verifier');
    is(session('clerk', "$who BEGIN; $as $who COMMIT; $who"), '[||rival] valid [acme|acme|acme] [||rival]', 'a bound manager does not keep its own account meanwhile');
    is(session('boss', "BEGIN; $as $who COMMIT; $who"), "valid $mine [||acme,rival]", 'nor an admin all of them');
    is(session('boss', "BEGIN; $as SELECT count(*) FROM apikeys.request_log; SELECT count(*) FROM apikeys.member; SELECT count(DISTINCT account_id) FROM apikeys.audit_log;
        UPDATE apikeys.plan SET max_keys = 1; SELECT apikeys.create_tier('x', 1); COMMIT"), 'valid 0 0 1 42501', 'nor raw tables, nor plans');
    is(session('boss', "BEGIN; $as SAVEPOINT s; SELECT apikeys.suspend_key(apikeys.current_key_id(), 'x'); ROLLBACK TO s; SELECT apikeys.create_account('x'); ROLLBACK TO s;
        SELECT apikeys.change_plan('acme', 'default'); ROLLBACK TO s; SELECT apikeys.add_member('boss', 'acme'); ROLLBACK TO s; UPDATE apikeys.key SET alias = 'x'; $who"),
        "valid 42501 42501 42501 42501 $mine", 'a key changes nothing without apikeys:manage, by an admin neither');
    is(session('portal', "BEGIN; SELECT code FROM apikeys.begin_as('ak_nonsense', metered => false); $who $for $who COMMIT"), "invalid $nobody begun $mine", 'a denied key closes nothing');
    is(session('checker', "BEGIN; SELECT code FROM apikeys.begin_as(:'acme'); $orders COMMIT; SELECT apikeys.current_account()"), 'valid [acme|acme]', 'metered');
    is(value(q{SELECT apikeys.flush(); SELECT count(*) FROM apikeys.request_log WHERE code = 'valid'}) =~ s/^t\n//r, '1', 'which counts and records as verify does');
    is(session('checker', "$as $orders"), 'warning 25P01 valid [|]', 'outside a transaction block it ends with its statement');
};

subtest 'to forge' => sub {
    for my $forged ("SET apikeys.account = 'rival'", "SET LOCAL apikeys.current_account = 'rival'", "SELECT set_config('apikeys.identity', 'rival', true)",
        "SET apikeys.key_id = 1", "SET SESSION apikeys.actor = 'rival'") {
        my $outcome = session('portal', "BEGIN; $for SAVEPOINT s; $forged; ROLLBACK TO s; $who COMMIT");
        like($outcome, qr/ \Q$mine\E$/, "no setting is read: $forged");
    }
    is(session('portal', "BEGIN; CREATE FUNCTION pg_temp.current_account() RETURNS text LANGUAGE sql AS \$\$ SELECT 'rival' \$\$; SET LOCAL search_path = pg_temp, apikeys, public; $for $who COMMIT"),
        "begun $mine", 'a function of that name in another schema is another function');
    is(session('portal', "BEGIN; CREATE TEMP TABLE account AS SELECT 1 AS account_id, 'rival' AS name; SET LOCAL search_path = pg_temp, public; $for $who COMMIT"),
        "begun $mine", 'nor is a table');
    is(session('portal', "CREATE OR REPLACE FUNCTION apikeys.current_account() RETURNS text LANGUAGE sql AS \$\$ SELECT 'rival' \$\$; $who"), "42501 $nobody", 'those of the extension cannot be replaced');
    for my $internal ("apikeys_internal.begin_account(2, 'rival', NULL)", 'apikeys_internal.require_open()') {
        is(session('portal', "BEGIN; SELECT $internal; ROLLBACK; $who"), "42501 $nobody", "$internal is nobody's to call");
    }
    is(session('portal', "CREATE FUNCTION mine(bigint, text, text) RETURNS void LANGUAGE c AS 'apikeys', 'apikeys_identity_begin'"), '42501', 'nor by a function of its own in C');
    is(session('portal', "BEGIN; CREATE FUNCTION pg_temp.equal(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.equal); SET LOCAL search_path = pg_temp, pg_catalog, public; $for $who COMMIT"),
        "begun $mine", 'policies keep their operators');
};

subtest 'to switch' => sub {
    my %way = (
        'another begin_for' => "SELECT apikeys.begin_for('rival');",
        'begin_as' => "SELECT apikeys.begin_as(:'rival', metered => false);",
        'in a DO block' => "DO \$\$ BEGIN PERFORM apikeys.begin_for('rival'); END \$\$;",
        'behind an exception block' => "DO \$\$ BEGIN BEGIN PERFORM apikeys.begin_for('rival'); EXCEPTION WHEN OTHERS THEN NULL; END; PERFORM apikeys.begin_for('rival'); END \$\$;",
        'in a function of its own' => "CREATE FUNCTION pg_temp.b() RETURNS text LANGUAGE sql AS \$\$ SELECT apikeys.begin_for('rival') \$\$; SELECT pg_temp.b();",
        'in a SECURITY DEFINER function' => "CREATE FUNCTION pg_temp.b() RETURNS text LANGUAGE sql SECURITY DEFINER AS \$\$ SELECT apikeys.begin_for('rival') \$\$; SELECT pg_temp.b();",
        'by a trigger' => "CREATE FUNCTION pg_temp.t() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM apikeys.begin_for('rival'); RETURN NEW; END \$\$;
            CREATE TEMP TABLE t (i int); CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION pg_temp.t(); INSERT INTO t VALUES (1);",
        'by a cursor' => "DECLARE c CURSOR FOR SELECT apikeys.begin_for('rival'); FETCH c;",
        'by a prepared statement' => "PREPARE p AS SELECT apikeys.begin_for('rival'); EXECUTE p;",
        'by an index expression' => "CREATE FUNCTION pg_temp.i(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN PERFORM apikeys.begin_for('rival'); RETURN 1; END \$\$;
            CREATE TEMP TABLE t AS SELECT 1 AS i; CREATE INDEX ON t (pg_temp.i(i));",
        'after SET ROLE NONE' => "SET LOCAL ROLE NONE; SELECT apikeys.begin_for('rival');",
        'after RESET ALL' => "RESET ALL; SELECT apikeys.begin_for('rival');",
        'within one statement' => "SELECT apikeys.begin_for('rival') FROM apikeys.account;");
    for my $name (sort keys %way) {
        for my $begin ($for, $as) {
            my $outcome = session('portal', "BEGIN; $begin SAVEPOINT s; $way{$name} ROLLBACK TO s; $who COMMIT; $who");
            like($outcome, qr/^(?:begun|valid) (?:55000|42501) \Q$mine $nobody\E$/, $begin =~ /begin_for/ ? "from an account, $name" : "from a key, $name");
        }
    }
};

# A transaction that has lost its identity reaches nothing: neither what its role would, nor somebody else.
subtest 'to lose it' => sub {
    my $lost = '[||]';
    is(session('portal', "BEGIN; SAVEPOINT s; $for ROLLBACK TO s; $who SAVEPOINT t; SELECT apikeys.begin_for('rival'); ROLLBACK TO t; $who COMMIT; $who"),
        "begun $lost 55000 $lost $nobody", 'by ROLLBACK TO');
    is(session('clerk', "BEGIN; SAVEPOINT s; $as ROLLBACK TO s; $who COMMIT; $who"), "valid $lost [||rival]", 'a bound manager does not get its own account back before the end');
    is(session('boss', "BEGIN; SAVEPOINT s; $as ROLLBACK TO s; $who SAVEPOINT t; SELECT apikeys.get_key(1); ROLLBACK TO t; UPDATE apikeys.key SET alias = 'x'; COMMIT; $who"),
        "valid $lost 55000 [||acme,rival]", 'nor an admin all of them');
    is(session('portal', "DO \$\$ BEGIN BEGIN PERFORM apikeys.begin_for('acme'); RAISE SQLSTATE 'XX001'; EXCEPTION WHEN SQLSTATE 'XX001' THEN NULL; END;
        RAISE NOTICE '% %', apikeys.current_account(), (SELECT count(*) FROM apikeys.key_list); PERFORM apikeys.begin_for('rival'); END \$\$; $who"),
        "<NULL> 0 55000 $nobody", 'by an exception');
    is(session('portal', "BEGIN; $for SELECT 1/0; $who ROLLBACK; $who"), "begun 22012 25P02 $nobody", 'an error ends the transaction, and it');
    is(session('portal', "BEGIN; SAVEPOINT a; SAVEPOINT b; $for RELEASE b; SAVEPOINT c; SELECT 1/0; ROLLBACK TO c; $who RELEASE a; $who COMMIT"), "begun 22012 $mine $mine",
        'savepoints after it, as drivers make them, do not');
    is(session('portal', "\\set ON_ERROR_ROLLBACK on\nBEGIN; $for SELECT 1/0; $who SELECT apikeys.begin_for('rival'); $who COMMIT; $who"),
        "begun 22012 $mine 55000 $mine $nobody", 'nor does a savepoint around each statement');
    is(session('portal', "BEGIN; $for PREPARE TRANSACTION 'x'; $who COMMIT PREPARED 'x'; $who"), "begun $nobody $nobody", 'PREPARE TRANSACTION does');
    is(session('portal', "BEGIN; $for COMMIT AND CHAIN; $who ROLLBACK AND CHAIN; $who COMMIT"), "begun $nobody $nobody", 'AND CHAIN does');
    is(session('portal', "BEGIN; $for COMMIT; DISCARD ALL; $who"), "begun $nobody", 'and nothing is left for DISCARD ALL');
};

# What outlives the transaction is what was read in it.
subtest 'to keep it' => sub {
    is(session('portal', "BEGIN; $for DECLARE h CURSOR WITH HOLD FOR SELECT DISTINCT account FROM apikeys.key_list; DECLARE c CURSOR FOR SELECT account FROM orders; COMMIT;
        FETCH ALL h; FETCH c; $who"), "begun acme 34000 $nobody", 'a cursor WITH HOLD has what it read, another is gone');
    is(session('portal', "PREPARE p AS SELECT DISTINCT account FROM orders; EXECUTE p; BEGIN; $for EXECUTE p; COMMIT; EXECUTE p; BEGIN; SELECT apikeys.begin_for('rival'); EXECUTE p; COMMIT"),
        'begun acme rival rival', 'a prepared statement reads as whoever acts when it runs');
    is(session('portal', "BEGIN; $for DECLARE c CURSOR FOR SELECT DISTINCT account FROM orders; FETCH c; SAVEPOINT s; SELECT apikeys.begin_for('rival'); ROLLBACK TO s; FETCH c; COMMIT"),
        'begun acme 55000', 'an open cursor reads on as it began');
    is(session('portal', "CREATE TEMP TABLE late (account text); CREATE FUNCTION pg_temp.l() RETURNS trigger LANGUAGE plpgsql AS
        \$\$ BEGIN RAISE NOTICE 'deferred: %', apikeys.current_account(); RETURN NULL; END \$\$;
        CREATE CONSTRAINT TRIGGER l AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.l();
        BEGIN; $for INSERT INTO late VALUES ('x'); COMMIT; INSERT INTO late VALUES ('y');"), 'begun deferred: acme deferred: <NULL>', 'deferred triggers act for whom the transaction acted');
    is(session('portal', "CREATE PROCEDURE pg_temp.p() LANGUAGE plpgsql AS \$\$ BEGIN PERFORM apikeys.begin_for('acme'); COMMIT; RAISE NOTICE '%', apikeys.current_account();
        PERFORM apikeys.begin_for('rival'); RAISE NOTICE '%', apikeys.current_account(); END \$\$; CALL pg_temp.p(); $who"),
        "warning 25P01 <NULL> warning 25P01 rival $nobody", 'a procedure that can COMMIT can begin anew, as every session can');
};

subtest 'to widen it' => sub {
    is(session('portal', "BEGIN; $for SAVEPOINT s; SET LOCAL ROLE apikeys_admin; ROLLBACK TO s; SET LOCAL ROLE apikeys_portal; $who COMMIT"), "begun 42501 $mine", 'by SET ROLE');
    is(session('boss', "BEGIN; $as SET LOCAL ROLE apikeys_admin; $who RESET ROLE; $who COMMIT"), "valid $mine $mine", 'by a role that would reach all');
    is(session('portal', "BEGIN; $for SET LOCAL row_security = off; SELECT count(*) FROM orders; ROLLBACK"), 'begun 42501', 'by row_security');
    is(session('portal', "BEGIN; $for INSERT INTO orders VALUES (100, 'rival', 'x'); ROLLBACK; BEGIN; $for UPDATE orders SET account = 'rival'; ROLLBACK;
        BEGIN; $for UPDATE orders SET item = 'x' WHERE account = 'rival'; DELETE FROM orders WHERE account = 'rival'; ROLLBACK; $who"), "begun 42501 begun 42501 begun $nobody", 'by writing');
    is(session('portal', "BEGIN; CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS \$\$ BEGIN RAISE NOTICE 'saw %', \$1; RETURN true; END \$\$;
        $for SELECT count(*) FROM (SELECT DISTINCT account FROM apikeys.key_list) AS k WHERE pg_temp.leak(account); SELECT count(DISTINCT account) FROM orders WHERE pg_temp.leak(account); COMMIT")
        =~ /rival/ ? 'leaked' : 'hidden', 'hidden', 'by a function in a WHERE clause');
    is(session('portal', "BEGIN; $for SELECT a.n FROM (VALUES (1)) AS a (n), LATERAL (SELECT account FROM apikeys.log) AS l WHERE account = 'rival'; SELECT count(*) FROM apikeys.notice_list WHERE account <> 'acme';
        SELECT count(*) FROM apikeys.audit_log AS l WHERE account_id <> apikeys.current_account_id(); SELECT count(*) FROM apikeys.adjustment; SAVEPOINT s;
        SELECT apikeys.usage_report(now() - interval '1 day', now(), only_account => 'rival'); ROLLBACK TO s; SELECT apikeys.account_keys('rival'); COMMIT"),
        'begun 0 0 0 P0002 P0002', 'by lists and reports');
    is(session('checker', "BEGIN; $as SELECT alias FROM apikeys.my_key(); SELECT apikeys.get_key(1); ROLLBACK; SELECT apikeys.my_key()"), 'valid of acme 42501 55000', "a verifier's key reads itself only");
};

# What the provider decides, nobody does for whom a transaction acts: neither by the functions of an admin, whose login verifies keys as well,
# nor by UPDATE. The list must have each function that admins have and a portal has not.
subtest "to make the provider's decisions" => sub {
    my %statement = (
        suspend_key => "suspend_key(ID, 'x')", unsuspend_key => 'unsuspend_key(ID)', import_key => "import_key('acme', 'a text of theirs')",
        import_keys => q{import_keys('[{"account": "acme", "text": "a text of theirs"}]')}, report_leak => "report_leak('[]')",
        reset_usage => 'reset_usage(ID)', reset_account_usage => "reset_account_usage('acme')",
        grant_units => "grant_units(ID, 'day', 5, now() + interval '1 hour')", grant_account_units => "grant_account_units('acme', 'day', 5, now() + interval '1 hour')",
        create_account => "create_account('new')", update_account => q{update_account('acme', '{"display_name": "x"}')}, activate_account => "deactivate_account('acme')",
        deactivate_account => "deactivate_account('acme')", change_plan => "change_plan('acme', 'other')", erase_account_data => "erase_account_data('acme')",
        add_member => "add_member('clerk', 'acme')", remove_member => "remove_member('watcher', 'acme')",
        ask_upgrade => "ask_upgrade(REQUEST, 'x')", approve_upgrade => 'approve_upgrade(REQUEST)', decline_upgrade => "decline_upgrade(REQUEST, 'x')",
        create_upgrade_rule => "create_upgrade_rule('x', 'gold')", create_tier => "create_tier('silver', 7)", create_product => "create_product('p')", create_plan => "create_plan('p')",
        check_ledger => 'check_ledger()', check_guards => 'check_guards()',
        take_notices => "take_notices('mailer')", confirm_notices => "confirm_notices('pager', '{}')", remove_notice_consumer => "remove_notice_consumer('pager')",
        block_address => "block_address('192.0.2.1', 'x')", unblock_address => "unblock_address('192.0.2.9')");
    value(q{SELECT a.account_id FROM apikeys.update_account('acme', '{"limits": {"day": 100}}') AS a; SELECT name FROM apikeys.create_plan('other'); CREATE ROLE watcher;
        SELECT t.name FROM apikeys.create_tier('bronze', 1, '10/day') AS t; SELECT t.name FROM apikeys.create_tier('gold', 2, '1000/day') AS t;
        SELECT role FROM apikeys.add_member('watcher', 'acme'); SELECT network FROM apikeys.block_address('192.0.2.9', 'x');
        SELECT id FROM apikeys.take_notices('pager')});
    my ($id, $request) = split /\n/, value(q{UPDATE apikeys.key SET tier = 'bronze' WHERE alias = 'manage acme'; SELECT apikeys.find_key('acme', 'manage acme');
        SELECT id FROM apikeys.request_upgrade(apikeys.find_key('acme', 'manage acme'), 'gold', 'x')});
    is(value(q{SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) FROM pg_proc AS p WHERE p.pronamespace = 'apikeys'::regnamespace AND p.provolatile = 'v'
        AND has_function_privilege('apikeys_admin', p.oid, 'EXECUTE') AND NOT has_function_privilege('apikeys_portal', p.oid, 'EXECUTE')
        AND p.proname NOT IN ('flush', 'maintain', 'stats', 'verdict_counts', 'authenticate', 'key_facts', 'client_address')}), join(' ', sort keys %statement), 'each function is tried');
    my $manage = q{SELECT code FROM apikeys.begin_as(:'manage', metered => false);};
    for my $name (sort keys %statement) {
        my $call = $statement{$name} =~ s/\bID\b/$id/r =~ s/\bREQUEST\b/$request/r;
        is(session('boss', "BEGIN; $manage SELECT 1 FROM apikeys.$call; ROLLBACK"), 'valid 42501', $name);
        like(session('boss', "BEGIN; SELECT 'done' FROM apikeys.$call LIMIT 1; ROLLBACK"), qr/^(?:done|)$/, "$name, by its role");
    }
    for my $update ("apikeys.key SET tier = 'gold'", "apikeys.key SET limits = '1000/day'", "apikeys.account SET limits = '1000/day'", "apikeys.account SET plan = 'other'",
        "apikeys.plan SET max_keys = 1", "apikeys.tier SET limits = '1000/day'", "apikeys.product SET name = 'x'") {
        like(session('boss', "BEGIN; $manage UPDATE $update; SELECT count(*) FROM apikeys.account; ROLLBACK"), qr/^valid (?:42501 25P02|1)$/, "UPDATE $update");
    }
    is(session('boss', "BEGIN; $manage SELECT count(*) FROM apikeys.address_block_list; COMMIT; SELECT count(*) FROM apikeys.address_block_list"), 'valid 0 1', 'blocks are no account\'s');
    like(session('boss', "BEGIN; $manage DELETE FROM apikeys.member; ROLLBACK; SELECT count(*) FROM apikeys.member"), qr/^valid (?:42501 )?2$/, 'DELETE FROM apikeys.member');
    is(value(q{SELECT string_agg(concat_ws(' ', k.tier, k.limits), ',') FROM apikeys.key AS k WHERE k.tier IS NOT NULL OR k.limits IS NOT NULL}), 'bronze', 'nothing has changed');
    # What owners may do goes on to work.
    is(session('boss', "BEGIN; $manage SELECT alias FROM apikeys.update_key($id, '{\"alias\": \"mine\"}'); SELECT state FROM apikeys.withdraw_upgrade($request); ROLLBACK"),
        'valid mine withdrawn', 'by its key, an account manages its keys and withdraws its requests');
    # Whoever is held by nothing still has the portal's functions do their work.
    is(value("BEGIN; $for SELECT account FROM apikeys.create_key('acme'); ROLLBACK"), "begun\nacme", 'a superuser, for an account');
};

# Plans and sessions that know the identity must know it in all processes, or not at all.
subtest 'parallel plans' => sub {
    value(q{CREATE TABLE many AS SELECT n AS id, CASE WHEN n % 2 = 0 THEN 'acme' ELSE 'rival' END AS account FROM generate_series(1, 20000) AS n;
        ALTER TABLE many ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON many USING (account = (SELECT apikeys.current_account())); GRANT SELECT ON many TO PUBLIC;
        CREATE FUNCTION worker_sees() RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN concat(apikeys.current_account(), apikeys.has_scope(''orders:read'')); END'});
    my $parallel = 'SET LOCAL min_parallel_table_scan_size = 0; SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL parallel_leader_participation = off;';
    is(session('portal', "BEGIN; $parallel $for SELECT count(*), min(account), max(account) FROM many; COMMIT; SELECT count(*) FROM many"), 'begun 10000|acme|acme 0', 'rows are the same');
    like(session('portal', "BEGIN; $parallel $for EXPLAIN (COSTS off) SELECT count(*) FROM many; COMMIT"), qr/Parallel Seq Scan/, 'the policy, wrapped, does not forbid a parallel plan');
    is(value(q{SELECT string_agg(concat(p.proname, ' ', p.proparallel), ' ' ORDER BY p.proname) FROM pg_proc AS p
        WHERE p.proname IN ('current_account', 'current_account_id', 'current_key_id', 'has_scope', 'begin_as', 'begin_for')}),
        'begin_as u begin_for u current_account r current_account_id r current_key_id r has_scope r', 'the functions run in the leader');
    is(session('portal', "BEGIN; $parallel $for SELECT DISTINCT worker_sees() FROM many WHERE id % 2 = 0; COMMIT"), 'begun f', 'a function that claims to be safe finds nobody in a worker');
};

# Functions of the portal know that they need an identity: each of them, whatever its arguments.
subtest 'without an identity' => sub {
    my $needless = join ',', map { "'$_'" } qw(begin_as begin_for current_account current_account_id current_key_id has_scope http_response client_address shard_hash shard_hash_of_account limits_items limits_cap);
    my @function = split /\n/, value(qq{SELECT format('SELECT apikeys.%I(%s)', p.proname, (SELECT string_agg(format('NULL::%s', format_type(t.type, NULL)), ', ' ORDER BY t.n)
            FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS t (type, n)))
        FROM pg_proc AS p WHERE p.pronamespace = 'apikeys'::regnamespace AND has_function_privilege('portal', p.oid, 'EXECUTE') AND p.proname NOT IN ($needless) AND p.prokind = 'f'
        AND NOT EXISTS (SELECT FROM pg_type AS t WHERE p.oid IN (t.typinput, t.typoutput)) ORDER BY p.oid::regprocedure::text});
    cmp_ok(scalar(@function), '>', 15, 'the functions are found');
    like(session('portal', $_), qr/^(?:55000|22023)$/, $_) for @function;
    # Those that look at other arguments first.
    is(session('portal', $_), '55000', $_) for "SELECT apikeys.rotate_key(1)", map { "SELECT apikeys.${_}_report(now() - interval '1 day', now())" } qw(usage log);
};

subtest 'pgBouncer' => sub {
    my ($folder, $pool) = (PostgreSQL::Test::Utils::tempdir(), PostgreSQL::Test::Cluster::get_free_port());
    my $config = sub {
        my ($mode) = @_;
        my $host = $node->host;
        my $port = $node->port;
        open(my $file, '>', "$folder/$mode.ini") or die $!;
        print $file "[databases]\npostgres = host=$host port=$port dbname=postgres\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = $folder\nlisten_port = $pool\nauth_type = any\n"
            . "pool_mode = $mode\ndefault_pool_size = 1\nmax_client_conn = 20\nlogfile = $folder/$mode.log\npidfile = $folder/$mode.pid\n";
        # With auth_type any, the user of the server is that of the database's line.
        close $file;
        my $text = slurp_file("$folder/$mode.ini");
        $text =~ s/dbname=postgres/dbname=postgres user=portal/;
        open($file, '>', "$folder/$mode.ini") or die $!;
        print $file $text;
        close $file;
        return "$folder/$mode.ini";
    };
    my $connstr = "host=$folder port=$pool dbname=postgres user=portal";
    my $pooled = sub { session('portal', $_[0], connstr => $connstr) };
    my $through = sub {
        my ($mode, $test) = @_;
        my $bouncer = IPC::Run::start([ '/usr/sbin/pgbouncer', $config->($mode) ], '>', \my $out, '2>&1');
        wait_until(sub { -S "$folder/.s.PGSQL.$pool" && $pooled->('SELECT 1') eq '1' }) or diag "pgBouncer does not answer: $out";
        $test->();
        $bouncer->signal('TERM');
        $bouncer->finish;
    };
    $through->('transaction', sub {
        is($pooled->("BEGIN; $for $who COMMIT; $who"), "begun $mine $nobody", 'a transaction acts for an account');
        is($pooled->($who), $nobody, 'the next client of the same connection for nobody');
        is($pooled->("BEGIN; SELECT apikeys.begin_for('rival'); SELECT string_agg(DISTINCT account, ',') FROM orders; COMMIT"), 'rival rival', 'and then for another');
        # A client that goes away within its transaction leaves nothing behind.
        is($pooled->("BEGIN; $for"), 'begun', 'a client goes away in its transaction');
        is($pooled->("$who BEGIN; $who COMMIT"), "$nobody $nobody", 'nothing of it is left');
        my $out = '';
        my $in = "BEGIN; $for\n";
        my $first = IPC::Run::start([ 'psql', '-XAtq', '-d', $connstr ], '<', \$in, '>', \$out, '2>&1', patience());
        $first->pump until $out =~ /begun/;
        my $second = IPC::Run::start([ 'psql', '-XAtq', '-d', $connstr, '-c', $who ], '>', \my $other, '2>&1', patience());
        $in .= "SELECT apikeys.current_account(); COMMIT;\n\\q\n";
        $first->finish;
        $second->finish;
        is(join('', split /\n/, $out), 'begunacme', 'two clients of one connection: the first acts for its account');
        is($other, "$nobody\n", 'the second, which waits for the connection, for nobody');
    });
    $through->('statement', sub {
        like($pooled->("BEGIN; SELECT 1;"), qr/FATAL|08P01|57/, 'statement mode refuses a transaction, in plain words') ;
        is($pooled->("$for"), 'warning 25P01 begun', 'and a begin says that it ends with its statement');
        is($pooled->($who), $nobody, 'as it does');
    });
};

done_testing();
