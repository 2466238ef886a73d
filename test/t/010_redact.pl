# No key text reaches the server log, by whatever way; its hint stands there instead.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use Encode qw(encode);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

# All that can be logged, to all destinations that there are.
my $node = server('main', <<'EOF', extra => [ '--encoding', 'UTF8', '--locale', 'C' ]);
logging_collector = on
log_destination = 'stderr,csvlog,jsonlog'
log_statement = all
log_min_duration_statement = 0
log_min_messages = info
log_min_error_statement = info
log_error_verbosity = verbose
log_parameter_max_length_on_error = -1
EOF
$node->safe_psql('postgres', <<'EOF');
CREATE EXTENSION apikeys;
CREATE TABLE word (word text CHECK (length(word) < 30));
CREATE TABLE number (number int);
CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C';
EOF

# A key, what of it must never show, and what must show instead.
my $key = $node->safe_psql('postgres', q{SELECT key FROM apikeys.create_key('alice')});
like($key, qr/^ak_[0-9A-Za-z]{36}$/, 'got a key');
my $head = substr($key, 3, 13);
my $tail = substr($key, -4);
my $hint = encode('UTF-8', "ak_\x{2026}$tail");

# The log files, in the order in which the destinations are named.
my @logs = map { $node->data_dir . '/' . (split / /)[1] } split /\n/, slurp_file($node->data_dir . '/current_logfiles');
is(scalar @logs, 3, 'three logs');
my $marks = 0;

# Waits until all that was logged so far is in the files, then returns what each has got since its offset.
# The collector writes in the order in which it was sent.
sub read_logs
{
    my (@offsets) = @_;
    my $mark = 'mark number ' . ++$marks . ' ends here';
    $node->safe_psql('postgres', "SELECT '$mark'");
    my @parts;
    foreach my $i (0 .. $#logs)
    {
        wait_until(sub { $parts[$i] = slurp_file($logs[$i], $offsets[$i]); return index($parts[$i], $mark) >= 0; }) or BAIL_OUT("$logs[$i] has no mark");
    }
    return @parts;
}

# Does something by which the key would be logged the given number of times or more, and looks at the logs.
sub check
{
    my ($name, $times, $shown, $do) = @_;
    my @offsets = map { -s } @logs;
    $do->();
    my @parts = read_logs(@offsets);
    foreach my $i (0 .. $#logs)
    {
        my ($kind) = $logs[$i] =~ /\.(\w+)$/;
        my $found = () = $parts[$i] =~ /\Q$shown\E/g;
        is(index($parts[$i], $head), -1, "$name: no key in the $kind file");
        cmp_ok($found, '>=', $times, "$name: the hint is in the $kind file") or diag($parts[$i]);
    }
}

# Runs SQL that fails or not; what the client is told is not looked at here.
sub run_sql
{
    my ($sql, $database) = @_;
    return sub { $node->psql($database // 'postgres', $sql); };
}

# Runs a script of pgbench with the key as variable k. It may fail.
sub run_bench
{
    my ($mode, $sql) = @_;
    return sub {
        my $script = $node->basedir . '/script.sql';
        unlink $script;
        append_to_file($script, $sql);
        IPC::Run::run([ 'pgbench', '-n', '-t', 1, '-M', $mode, '-D', "k=$key", '-f', $script, $node->connstr('postgres') ],
            '>', \my $out, '2>', \my $err);
    };
}

# The statement itself.
check('statement', 1, $hint, run_sql("SELECT length('$key')"));
check('several keys in one statement', 4, $hint, run_sql("SELECT '$key', 'x$key', '$key$key'"));
check('statement as a prepared one', 3, $hint, run_sql("PREPARE p AS SELECT '$key'; EXECUTE p; EXECUTE p"));
check('argument of EXECUTE', 1, $hint, run_sql("PREPARE p(text) AS SELECT \$1; EXECUTE p('$key')"));
check('slow statement', 1, $hint, run_sql("SET log_statement = none; SELECT length('$key')"));

# Bind values: of statements, of slow ones, of failed ones.
foreach my $mode ('extended', 'prepared')
{
    check("bind value, $mode", 2, $hint, run_bench($mode, 'SELECT length(:k);'));
    check("bind value of a slow statement, $mode", 1, $hint, run_bench($mode, "SET log_statement = none;\nSELECT length(:k);"));
    check("bind value of an error, $mode", 2, $hint, run_bench($mode, 'SELECT length(:k), 1 / (length(:k) - 39);'));
}
check('literal from pgbench', 1, $hint, run_bench('simple', "SELECT length(':k');"));

# Errors: their statement, and each field that can hold a value.
check('statement of an error', 2, $hint, run_sql("SELECT '$key', 1 / 0"));
check('error message', 3, $hint, run_sql("SELECT '$key'::int"));
check('syntax error', 3, $hint, run_sql("SELECT 1 $key $key"));
check('error detail', 3, $hint, run_sql("INSERT INTO word VALUES ('$key'), ('$key')"));
check('all fields', 5, $hint,
    run_sql("DO \$\$ BEGIN RAISE EXCEPTION '$key' USING DETAIL = '$key', HINT = '$key', ERRCODE = '22023'; END \$\$"));
check('internal query and context', 4, $hint, run_sql("DO \$\$ BEGIN EXECUTE 'SELECT ''$key''::int'; END \$\$"));
check('context of COPY', 2, $hint, run_sql("COPY number FROM STDIN;\n$key\n\\."));
check('warning', 2, $hint, run_sql("DO \$\$ BEGIN RAISE WARNING '%', '$key'; END \$\$"));
# The statement is shown with each of the messages, from one copy.
check('many messages of one statement', 6, $hint,
    run_sql("DO \$\$ BEGIN FOR i IN 1..3 LOOP RAISE WARNING '%', '$key'; END LOOP; END \$\$"));
check('plan', 1, $hint, run_sql("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SELECT * FROM word WHERE word = '$key'"));

# What ends a statement from outside.
check('timeout', 2, $hint, run_sql("SET statement_timeout = 100; SELECT '$key', pg_sleep(180)"));
check('cancel', 2, $hint, run_sql("SELECT '$key', pg_cancel_backend(pg_backend_pid()), pg_sleep(180)"));
check('termination', 2, $hint, run_sql("SELECT '$key', pg_terminate_backend(pg_backend_pid()), pg_sleep(180)"));

# A deadlock shows the statements of all that take part. Each session takes its own lock, waits for the other to have one, and wants that.
sub run_deadlock
{
    my @sessions;
    foreach my $mine (1, 2)
    {
        my $theirs = 3 - $mine;
        my $wait = "WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $theirs) LOOP PERFORM pg_sleep(0.01); END LOOP";
        my @commands = map { ('-c', $_) } (
            "SET deadlock_timeout = '10ms'", 'BEGIN',
            "SELECT pg_advisory_xact_lock($mine)",
            "DO \$\$ BEGIN $wait; END \$\$",
            "SELECT '$key', pg_advisory_xact_lock($theirs)");
        push @sessions, IPC::Run::start([ 'psql', '-XAtq', @commands, $node->connstr('postgres') ], '>', \my $out, '2>', \my $err);
    }
    $_->finish foreach @sessions;
}
check('deadlock', 4, $hint, \&run_deadlock);

# The original is what runs, and what the client gets of it.
is($node->safe_psql('postgres', "DO \$\$ BEGIN RAISE WARNING 'x'; END \$\$; SELECT '$key'"), $key, 'a result has the key');

# A value that was cut within the key.
my $cut = encode('UTF-8', "ak_\x{2026}...");
$node->append_conf('postgresql.conf', "log_parameter_max_length = 30\nlog_parameter_max_length_on_error = 16");
$node->reload;
check('cut bind value', 1, $cut, run_bench('extended', 'SELECT length(:k);'));
check('cut bind value of an error', 1, $cut, run_bench('extended', 'SELECT 1 / (length(:k) - 39);'));

# In other encodings three dots stand for U+2026.
check('other encoding', 3, "ak_...$tail", run_sql("SELECT '$key'::int", 'latin'));

# What only looks like a key is shown: the checksum tells, and these logs do show values.
(my $other = $key) =~ s/^(ak_...)(.)/$1 . ($2 eq 'A' ? 'B' : 'A')/e;
my @offsets = map { -s } @logs;
$node->psql('postgres', "SELECT '$other'::int");
ok(index($_, $other) >= 0, 'a wrong checksum is no key') foreach read_logs(@offsets);

# The files as a whole, with what was logged outside of the checks.
ok(index(slurp_file($_), $head) < 0, 'no key in ' . (split /\//)[-1]) foreach @logs;

# Without preload a session redacts from the moment that it has loaded the library.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
@logs = map { $node->data_dir . '/' . (split / /)[1] } split /\n/, slurp_file($node->data_dir . '/current_logfiles');
check('loaded by the session', 3, $hint, run_sql("LOAD 'apikeys';\nSELECT '$key'::int;"));

$node->stop;
done_testing();
