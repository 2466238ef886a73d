# What somebody plants where the writer works: settings of the database and its role, functions, operators and tables that
# are named like those it uses, a partition and a schema of their own. It works on, and calls none of it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main', "max_prepared_transactions = 5\napikeys.log_retention = 1000\n" . noon());
$node->safe_psql('postgres', "SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''");
$node->safe_psql('postgres', $_) foreach 'CREATE ROLE mallory', 'CREATE DATABASE planted';
engine_install($node, 'planted');
$node->safe_psql('planted', 'SELECT apikeys.flush()');
ask($node, 'planted');

# The test's own sessions shake off what is planted.
$ENV{PGOPTIONS} = join ' ', map { "-c $_" } 'search_path=public', 'role=none', 'lock_timeout=0', 'statement_timeout=0', 'exit_on_error=off',
    'idle_in_transaction_session_timeout=0', 'default_transaction_read_only=off', 'default_transaction_isolation=read\ committed',
    'DateStyle=ISO', 'TimeZone=UTC', 'client_min_messages=warning';

# Functions, operators, types and tables in front of pg_catalog and of ours: whoever meets them ends in an error.
value(q{
    CREATE SCHEMA trap;
    GRANT ALL ON SCHEMA trap TO mallory;
    CREATE FUNCTION trap.spring() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'trap%', 'ped'; END $$;
    DO $do$
    DECLARE
        f record;
    BEGIN
        FOR f IN SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
            FROM pg_proc AS p
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.proargmodes IS NULL
              AND p.proname IN ('unnest', 'date_bin', 'now', 'clock_timestamp', 'transaction_timestamp', 'to_char', 'length', 'btrim')
        LOOP
            EXECUTE format('CREATE FUNCTION trap.%I(%s) RETURNS %s LANGUAGE plpgsql AS $$ BEGIN RAISE ''trap%%'', ''ped''; END $$', f.name, f.arguments, f.result);
        END LOOP;
        CREATE FUNCTION trap.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE 'trap%', 'ped'; END $$;
        FOR f IN SELECT o.oprname AS name, o.oprleft::regtype AS left, o.oprright::regtype AS right, o.oprresult::regtype AS result, o.oid
            FROM pg_operator AS o
            WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname IN ('=', '<', '<>', '>=', '+', '-', '~')
              AND o.oprleft = ANY ('{bigint,int,text,name,uuid,timestamptz,oid,boolean,"\"char\""}'::regtype[])
              AND o.oprright = ANY ('{bigint,int,text,name,uuid,timestamptz,oid,boolean,"\"char\"",interval}'::regtype[])
        LOOP
            EXECUTE format('CREATE FUNCTION trap.operator_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS $$ BEGIN RAISE ''trap%%'', ''ped''; END $$', f.oid, f.left, f.right, f.result);
            EXECUTE format('CREATE OPERATOR trap.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = trap.operator_%s)', f.name, f.left, f.right, f.oid);
        END LOOP;
    END $do$;
    CREATE FUNCTION trap.accumulate(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'trap%', 'ped'; END $$;
    CREATE AGGREGATE trap.sum(bigint) (SFUNC = trap.accumulate, STYPE = bigint);
    CREATE DOMAIN trap.text AS pg_catalog.text CHECK (false);
    CREATE DOMAIN trap.name AS pg_catalog.name CHECK (false);
    CREATE DOMAIN trap.regclass AS pg_catalog.regclass CHECK (false);
    CREATE TABLE trap.request_log (n int);
    CREATE TABLE trap.usage_bucket (n int);
    CREATE TABLE trap.usage_total (n int);
    CREATE TABLE trap.quarantine (n int);
    CREATE TABLE trap.pg_class (n int);
    CREATE TABLE trap.pg_inherits (n int)});

# What maintenance has to do, besides: an expired partition, and old steps to merge.
value(q{
    CREATE TABLE apikeys.request_log_20200101 (LIKE apikeys.request_log);
    ALTER TABLE apikeys.request_log ATTACH PARTITION apikeys.request_log_20200101 FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');
    INSERT INTO apikeys.usage_total (subject, subject_id, admitted, denied, units, errors, credits, first_used_at, last_used_at)
        VALUES ('k', 777, 3, 0, 3, 0, 0, '2020-01-01 12:00', '2020-01-01 12:10');
    INSERT INTO apikeys.usage_bucket (subject, subject_id, bucket, admitted, denied, units, errors, credits)
        SELECT 'k', 777, '2020-01-01 12:00'::timestamptz + n * interval '5 minutes', 1, 0, 1, 0, 0 FROM generate_series(0, 2) AS n});

my @settings = (
    "search_path = trap, pg_catalog, apikeys", 'role = mallory', 'default_transaction_read_only = on', "default_transaction_isolation = 'serializable'",
    'default_transaction_deferrable = on', 'lock_timeout = 1', 'statement_timeout = 1', 'idle_in_transaction_session_timeout = 1',
    'session_replication_role = origin', 'exit_on_error = on', "TimeZone = 'Asia/Kathmandu'", "DateStyle = 'German'", "IntervalStyle = 'iso_8601'",
    'default_tablespace = elsewhere', 'temp_tablespaces = elsewhere', 'synchronous_commit = on', 'row_security = off', "bytea_output = 'escape'",
    'standard_conforming_strings = off', 'array_nulls = off', 'transform_null_equals = on', "plan_cache_mode = 'force_generic_plan'",
    'enable_indexscan = off', 'enable_bitmapscan = off', 'enable_seqscan = off', 'jit = on', 'jit_above_cost = 0', "work_mem = '64kB'",
    'quote_all_identifiers = on', 'check_function_bodies = off', 'extra_float_digits = -15', 'client_min_messages = debug1');

foreach my $place ('DATABASE planted', 'ROLE postgres IN DATABASE planted', 'ROLE ALL IN DATABASE planted')
{
    $node->safe_psql('postgres', "ALTER $place SET $_") foreach @settings;
    $node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = \'apikeys writer\'');
    my $before = value(q{SELECT count(*) FROM apikeys.request_log});
    my $ids = value(q{SELECT string_agg(request_id::text, ',') FROM generate_series(1, 50) AS n, LATERAL apikeys.verify('key-' || 1 + n % 15, '/planted') AS v});
    is(value('SELECT apikeys.flush()'), 't', "$place: requests are written");
    is(value("SELECT apikeys.complete_many('{$ids}', array_fill(500, '{50}'), NULL, array_fill(2::bigint, '{50}'))"), '50', "$place: requests are completed");
    is(value('SELECT apikeys.maintain()'), 't', "$place: the tables are cared for");
    ledger_ok($node, $place, 'planted');
    is(value('SELECT count(*) FROM apikeys.request_log') - $before, 50, "$place: all requests are in the log");
    is(value(q{SELECT count(*) FILTER (WHERE status = 500) = count(*) FROM apikeys.request_log WHERE endpoint = '/planted'}), 't', "$place: and so are completions");
    is(value('SELECT last_error, events_quarantined FROM apikeys.stats()'), '|0', "$place: without an error");
    $node->safe_psql('postgres', "ALTER $place RESET ALL");
}
is(value(q{SELECT count(*), sum(units) FROM apikeys.usage_bucket WHERE subject_id = 777}), '1|3', 'old steps were merged');
is(value(q{SELECT to_regclass('apikeys.request_log_20200101') IS NULL}), 't', 'the expired partition was dropped');
is(value(q{SELECT count(*) FROM pg_class WHERE reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere')}), '0', 'all partitions are where the log is');
unlike(slurp_file($node->logfile), qr/trapped/, 'nothing planted was called');

# An event that goes to quarantine meets none of it either.
$node->safe_psql('postgres', 'ALTER DATABASE planted SET search_path = trap, pg_catalog');
value(q{
    SELECT pg_terminate_backend(writer_pid, 10000) FROM apikeys.stats();
    ALTER TABLE apikeys.request_log ADD CONSTRAINT poison CHECK (endpoint <> '/poison');
    SELECT apikeys.verify('key-1', '/poison')});
ledger_ok($node, 'quarantine', 'planted');
like(value('SELECT reason FROM apikeys.quarantine'), qr/violates check constraint "poison"/, 'quarantine: for its own reason');
$node->safe_psql('postgres', 'ALTER DATABASE planted RESET search_path');

# A partition of somebody else, with a trigger of theirs: the writer leaves it alone, and keeps what it cannot write.
my $today = 'apikeys.request_log_' . today();
my $bounds = value("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = '$today'::regclass");
value(qq{
    CREATE FUNCTION trap.trigger() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE LOG 'trap%', 'ped'; RETURN NEW; END \$\$;
    GRANT CREATE ON SCHEMA apikeys TO mallory;
    ALTER TABLE $today OWNER TO mallory;
    CREATE TRIGGER trap BEFORE INSERT ON $today FOR EACH ROW EXECUTE FUNCTION trap.trigger();
    ALTER TABLE $today ENABLE ALWAYS TRIGGER trap;
    SELECT pg_terminate_backend(writer_pid, 10000) FROM apikeys.stats()});
my $before = value('SELECT count(*) FROM apikeys.request_log');
is(value(q{SELECT count(*) FROM generate_series(1, 50) AS n, LATERAL apikeys.verify('key-' || 1 + n % 15) AS v WHERE allowed}), '50', 'partition of another: requests go on');
until_true($node, qq{SELECT writer_state = 'failing' AND last_error = 'partition $today has another owner than the request log' FROM apikeys.stats()}, 'partition of another: refused', 'planted');
is(value('SELECT count(*) FROM apikeys.request_log'), $before, 'partition of another: nothing is written there');
value(qq{DROP TRIGGER trap ON $today; ALTER TABLE $today OWNER TO postgres});
ledger_ok($node, 'partition given back', 'planted');
is(value('SELECT count(*) FROM apikeys.request_log') - $before, 50, 'partition given back: nothing was lost');
is(value('SELECT events_quarantined FROM apikeys.stats()'), '1', 'partition given back: nor put aside');

# What the owner of the tables has put there holds: constraints, indexes, defaults, generated columns. Policies have no effect on
# the writer, nor have triggers and rules that are disabled, or for what it does not do. A day's index may be missing.
my @written = ($today, 'apikeys.usage_bucket', 'apikeys.usage_total');
value(qq{
    CREATE TRIGGER trap BEFORE INSERT OR UPDATE ON $_ FOR EACH ROW EXECUTE FUNCTION trap.trigger();
    CREATE TRIGGER trap_replica AFTER INSERT OR UPDATE ON $_ FOR EACH ROW EXECUTE FUNCTION trap.trigger();
    CREATE TRIGGER trap_delete BEFORE DELETE ON $_ FOR EACH ROW EXECUTE FUNCTION trap.trigger();
    CREATE RULE trap AS ON INSERT TO $_ DO INSTEAD NOTHING;
    ALTER TABLE $_ DISABLE TRIGGER trap, ENABLE REPLICA TRIGGER trap_replica, DISABLE RULE trap, ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY})
    foreach @written;
my $index = value(qq{SELECT indexrelid::regclass FROM pg_index WHERE indrelid = '$today'::regclass});
value(qq{
    ALTER TABLE apikeys.request_log ADD COLUMN region text NOT NULL DEFAULT lower('EU'), ADD COLUMN day date GENERATED ALWAYS AS ((at AT TIME ZONE 'UTC')::date) STORED;
    ALTER TABLE apikeys.usage_total ADD COLUMN region text NOT NULL DEFAULT lower('EU'), ADD COLUMN requests bigint GENERATED ALWAYS AS (admitted + denied) STORED;
    CREATE UNIQUE INDEX ON $today (request_id, upper(endpoint)) WHERE status < 600;
    CREATE INDEX ON apikeys.usage_total (last_used_at);
    DROP INDEX $index});
my $late = value(q{SELECT request_id FROM apikeys.verify('key-2', '/late')});
ledger_ok($node, 'tables of another shape', 'planted');
value(qq{SELECT apikeys.verify('key-16', '/first'), apikeys.verify('key-2', '/second'), apikeys.complete('$late', 404, 3, 21)});
ledger_ok($node, 'tables of another shape again', 'planted');
is(value(q{SELECT endpoint, code, status, region, day = (at AT TIME ZONE 'UTC')::date FROM apikeys.request_log WHERE endpoint IN ('/late', '/first', '/second') ORDER BY 1}),
    "/first|valid|200|eu|t\n/late|valid|404|eu|t\n/second|valid|200|eu|t", 'tables of another shape: rows are as they want it');
is(value(q{SELECT alias, t.region, t.requests = t.admitted + t.denied, t.credits > 0 FROM apikeys.usage_total AS t JOIN apikeys.key ON key_id = subject_id
           WHERE subject = 'k' AND alias IN ('key-2', 'key-16') ORDER BY 1}), "key-16|eu|t|f\nkey-2|eu|t|t", 'tables of another shape: and so is usage');
is(value(qq{SET enable_seqscan = off; SELECT endpoint FROM $today WHERE request_id = '$late' AND upper(endpoint) = '/LATE' AND status < 600}), '/late', 'tables of another shape: indexes know it');
is(value(q{SET enable_seqscan = off; SELECT count(*) FROM apikeys.usage_total WHERE last_used_at = (SELECT max(last_used_at) FROM apikeys.usage_total)}), '2',
    'tables of another shape: the new versions, too');
is(value('SELECT writer_state, events_quarantined FROM apikeys.stats()'), 'running|1', 'tables of another shape: without an error');

# What the writer cannot write it waits for. Each change is one transaction: in between it would make a partition itself.
sub waits_while
{
    my ($what, $error, $plant, $mend) = @_;
    my $from = -s $node->logfile;
    value("BEGIN; $plant; COMMIT");
    value("SELECT apikeys.verify('key-3', '$what') FROM generate_series(1, 5)");
    until_logged(qr/could not write a batch of \d+ bytes: \Q$error\E\n/, $from, "$what: the writer says why it waits");
    until_true($node, q{SELECT writer_state = 'failing' FROM apikeys.stats()}, "$what: and waits", 'planted');
    value("BEGIN; $mend; COMMIT");
    ledger_ok($node, $what, 'planted');
    is(value("SELECT count(*) FROM apikeys.request_log WHERE endpoint = '$what'"), '5', "$what: nothing was lost");
    return is(value('SELECT events_quarantined FROM apikeys.stats()'), '1', "$what: nor put aside");
}
waits_while('column of another type', 'apikeys.usage_bucket has no column credits of type bigint',
    'ALTER TABLE apikeys.usage_bucket RENAME COLUMN credits TO euros; ALTER TABLE apikeys.usage_bucket ADD COLUMN credits numeric',
    'ALTER TABLE apikeys.usage_bucket DROP COLUMN credits; ALTER TABLE apikeys.usage_bucket RENAME COLUMN euros TO credits');
waits_while('column gone', 'apikeys.usage_bucket has no column credits of type bigint',
    'ALTER TABLE apikeys.usage_bucket RENAME COLUMN credits TO euros', 'ALTER TABLE apikeys.usage_bucket RENAME COLUMN euros TO credits');
waits_while('table of another', 'apikeys.usage_total has another owner than the request log',
    q{CREATE FUNCTION trap.constraint() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE LOG 'trap%', 'ped'; RETURN true; END $$;
      ALTER TABLE apikeys.usage_total ADD CONSTRAINT trap CHECK (trap.constraint()) NOT VALID, OWNER TO mallory},
    'ALTER TABLE apikeys.usage_total DROP CONSTRAINT trap, OWNER TO postgres');
waits_while('partition of another, known before', "$today has another owner than the request log",
    qq{ALTER TABLE $today OWNER TO mallory}, qq{ALTER TABLE $today OWNER TO postgres});
waits_while('partition detached', "$today is not a partition of the request log, but has the name of one that is needed",
    qq{ALTER TABLE apikeys.request_log DETACH PARTITION $today},
    qq{ALTER TABLE apikeys.request_log ATTACH PARTITION $today $bounds});
like(slurp_file($node->logfile), qr/could not write a batch of \d+ bytes: apikeys.request_log has no partition for @{[ substr($today, -8) =~ s{(....)(..)(..)}{$1-$2-$3}r ]} /,
    'partition detached: at first it was thought to be there');
waits_while('partition that is partitioned', "$today is not an ordinary table",
    qq{ALTER TABLE apikeys.request_log DETACH PARTITION $today; ALTER TABLE $today RENAME TO aside;
       CREATE TABLE $today PARTITION OF apikeys.request_log $bounds PARTITION BY RANGE (at)},
    qq{DROP TABLE $today; ALTER TABLE apikeys.aside RENAME TO @{[ substr $today, 8 ]};
       ALTER TABLE apikeys.request_log ATTACH PARTITION $today $bounds});

# A trigger, rule or constraint that it would bypass: nobody misses a change that the writer makes. First as pg_repack does it.
waits_while('trigger of a tool', 'apikeys.usage_total has trigger repack_trigger, which the writer would bypass',
    q{CREATE TRIGGER repack_trigger AFTER INSERT OR DELETE OR UPDATE ON apikeys.usage_total FOR EACH ROW EXECUTE FUNCTION trap.trigger();
      ALTER TABLE apikeys.usage_total ENABLE ALWAYS TRIGGER repack_trigger},
    'DROP TRIGGER repack_trigger ON apikeys.usage_total');
foreach my $table ('apikeys.request_log', @written)
{
    my $name = $table =~ s/apikeys\.//r;
    foreach my $trigger ('AFTER INSERT', 'BEFORE UPDATE')
    {
        waits_while("$name: $trigger", "apikeys.$name has trigger seen, which the writer would bypass",
            "CREATE TRIGGER seen $trigger ON $table FOR EACH STATEMENT EXECUTE FUNCTION trap.trigger()", "DROP TRIGGER seen ON $table");
    }
    waits_while("$name: rule", "apikeys.$name has a rule, which the writer would bypass",
        "CREATE RULE seen AS ON UPDATE TO $table DO ALSO NOTHING", "DROP RULE seen ON $table");
}
waits_while('foreign key', 'apikeys.usage_total has constraint known, which the writer would bypass',
    'CREATE TABLE subjects (id bigint PRIMARY KEY); ALTER TABLE apikeys.usage_total ADD CONSTRAINT known FOREIGN KEY (subject_id) REFERENCES subjects NOT VALID',
    'ALTER TABLE apikeys.usage_total DROP CONSTRAINT known');
is(value(q{SELECT last_error FROM apikeys.stats()}), 'apikeys.usage_total has constraint known, which the writer would bypass', 'stats tells the last error');
my $unmerged = -s $node->logfile;
is(value('SELECT apikeys.maintain()'), 'f', 'buckets are not merged past a trigger');
until_logged(qr/maintenance was put off: apikeys\.usage_bucket has trigger trap_delete, which/, $unmerged, 'and the log tells why');
value('DROP TRIGGER trap_delete ON apikeys.usage_bucket');
is(value('SELECT apikeys.maintain()'), 't', 'then they are');

my $poisoned = -s $node->logfile;
value(q{CREATE TRIGGER seen BEFORE INSERT ON apikeys.quarantine FOR EACH ROW EXECUTE FUNCTION trap.trigger();
    ALTER TABLE apikeys.request_log ADD CONSTRAINT unseen CHECK (endpoint <> '/unseen') NOT VALID});
value(q{SELECT apikeys.verify('key-3', '/unseen')});
until_logged(qr/could not write a batch of \d+ bytes: apikeys\.quarantine has trigger seen, which the writer would bypass\n/, $poisoned, 'nothing goes to quarantine past a trigger');
value('DROP TRIGGER seen ON apikeys.quarantine');
ledger_ok($node, 'quarantine', 'planted');
is(value('SELECT events_quarantined FROM apikeys.stats()'), '2', 'then it does');
value('ALTER TABLE apikeys.request_log DROP CONSTRAINT unseen');

# Expressions run as the owner, who is nobody special, and cannot become anybody else.
value(q{
    CREATE ROLE clerk;
    GRANT ALL ON SCHEMA apikeys, trap TO clerk;
    DO $do$
    DECLARE written regclass;
    BEGIN
        FOR written IN SELECT oid FROM pg_class WHERE relnamespace = 'apikeys'::regnamespace AND relkind IN ('r', 'p') LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO clerk', written);
        END LOOP;
    END $do$;
    CREATE FUNCTION trap.whoami(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF current_user <> 'clerk' THEN
            RAISE LOG 'trap%', 'ped';
        END IF;
        PERFORM set_config('role', 'postgres', true);
        RAISE LOG 'trap%', 'ped';
        RETURN $1;
    EXCEPTION
        WHEN OTHERS THEN RETURN SQLSTATE;
    END $$});
value(qq{SET ROLE clerk; CREATE INDEX whoami ON $today (trap.whoami(endpoint))});
value(q{SELECT apikeys.verify('key-4', '/whoami')});
ledger_ok($node, 'expression of the owner', 'planted');
is(value(qq{SET enable_seqscan = off; SELECT count(*) > 0 FROM $today WHERE trap.whoami(endpoint) = '42501' AND endpoint = '/whoami'}), 't', 'expression of the owner: it was run');

# The extension is dropped with events still queued, and somebody plants tables in its place: they stay empty.
set_conf($node, 'apikeys.writer_enabled = off', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apikeys writer'}, 'no writer');
value(q{SELECT apikeys.verify('key-1') FROM generate_series(1, 10)});
value(q{
    DROP EXTENSION apikeys CASCADE;
    CREATE SCHEMA apikeys AUTHORIZATION mallory;
    SET ROLE mallory;
    CREATE TABLE apikeys.key (key_id bigint);
    CREATE TABLE apikeys.request_log (at timestamptz, key_id bigint, account_id bigint, request_id uuid, code text, status smallint, endpoint text,
        duration_ms real, ip inet, cost int, credits bigint, category text, completed boolean) PARTITION BY RANGE (at);
    CREATE TABLE apikeys.request_log_all PARTITION OF apikeys.request_log DEFAULT;
    CREATE TRIGGER trap BEFORE INSERT ON apikeys.request_log_all FOR EACH ROW EXECUTE FUNCTION trap.trigger();
    ALTER TABLE apikeys.request_log_all ENABLE ALWAYS TRIGGER trap});
my $from = -s $node->logfile;
set_conf($node, 'apikeys.writer_enabled = on', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'apikeys writer'}, 'a writer comes for the queue');
until_true($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apikeys writer'}, 'and goes, for the queue is empty');
is(value('SELECT count(*) FROM apikeys.request_log'), '0', 'planted tables: nothing was written');
unlike(slurp_file($node->logfile, $from), qr/could not write/, 'planted tables: nothing was tried');
unlike(slurp_file($node->logfile), qr/trapped/, 'nothing planted was called');

$node->stop;
done_testing();
