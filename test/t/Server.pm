# What the tests of whole servers share: a server, questions to it, waiting until something is so, sessions beside it, and
# wait points (src/engine/waitpoint.h).
#
# Nothing here, and no test, depends on how fast the machine is: a test waits for a state, never for a time, and no wait of
# the server's ends early unless the test says so. PG_TEST_TIMEOUT_DEFAULT (seconds) is when a test gives up.
package Server;
use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(server ask value patience wait_until answer until_true until_logged times_logged set_conf noon today begin end result hold let_go arrived);

$ENV{PGCTLTIMEOUT} //= $PostgreSQL::Test::Utils::timeout_default;

my ($asked, $asked_database);
my $day = 86400 * int(time / 86400);

# Starts a server with the extension preloaded, and more settings; it is the one that is asked from then on.
sub server
{
    my ($name, $settings, %init) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(%init);
    $node->append_conf('postgresql.conf', "shared_preload_libraries = 'apikeys'\napikeys.queue_timeout = 10min\n" . ($settings // ''));
    $node->start;
    ask($node);
    return $node;
}

# Chooses the server and the database that value() and those below ask.
sub ask
{
    my ($node, $database) = @_;
    ($asked, $asked_database) = ($node, $database // 'postgres');
    return;
}

# What SQL returns, without the empty lines that functions without a result leave in front.
sub value
{
    my ($sql, $database) = @_;
    return $asked->safe_psql($database // $asked_database, $sql) =~ s/^\n+//r;
}

# For IPC::Run: how long a program may take.
sub patience
{
    return IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
}

# Waits until a function says true; returns what it said in the end.
sub wait_until
{
    my ($holds) = @_;
    my $end = time + $PostgreSQL::Test::Utils::timeout_default;
    my $held;
    usleep(50_000) until ($held = $holds->()) || time > $end;
    return $held;
}

# What a query says; undef: there is no server to ask. (psql may end before it has read the query, which is an exception then.)
sub answer
{
    my ($node, $query, $database) = @_;
    my (undef, $out) = eval { $node->psql($database // 'postgres', $query) };
    return $out;
}

# Waits until a query says true.
sub until_true
{
    my ($node, $query, $what, $database) = @_;
    ok(wait_until(sub { (answer($node, $query, $database) // '') eq 't' }), $what) or BAIL_OUT("$what: never");
    return;
}

# How often the log has something, from an offset on.
sub times_logged
{
    my ($pattern, $from) = @_;
    return scalar(() = slurp_file($asked->logfile, $from // 0) =~ /$pattern/g);
}

# Waits until the log has something so many times from an offset on.
sub until_logged
{
    my ($pattern, $from, $what, $times) = @_;
    ok(wait_until(sub { times_logged($pattern, $from) >= ($times // 1) }), $what) or BAIL_OUT("$what: never");
    return;
}

# Reloads with other settings and waits until a query says true.
sub set_conf
{
    my ($node, $lines, $query, $what) = @_;
    $node->append_conf('postgresql.conf', $lines);
    $node->reload;
    until_true($node, $query, $what);
    return;
}

# A line of settings by which it is noon (UTC) for the extension, of the day that today() names as YYYYMMDD: a test of days
# may run at midnight.
sub noon
{
    return sprintf "apikeys.debug_clock_offset = %d\n", $day + 43200 - time;
}

sub today
{
    return strftime('%Y%m%d', gmtime $day);
}

# Starts a session that runs SQL; end() waits for it and returns what it printed, errors as their SQLSTATE.
sub begin
{
    my ($sql) = @_;
    my $session = { out => '', err => '' };
    my $file = PostgreSQL::Test::Utils::tempdir() . '/sql';
    append_to_file($file, $sql);
    $session->{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=sqlstate', '-d', $asked->connstr($asked_database), '-f', $file ],
        '>', \$session->{out}, '2>', \$session->{err}, patience());
    return $session;
}

sub end
{
    my ($session) = @_;
    $session->{run}->finish;
    return join ' ', split /\n/, $session->{out} . join '', $session->{err} =~ /(?:ERROR|FATAL): +(\w+)/g;
}

sub result
{
    return end(begin(@_));
}

# By a session: hold() makes who comes to a wait point wait there, let_go() ends that; arrived() waits until somebody has come.
sub hold
{
    my ($session, $point) = @_;
    $session->query_safe("SELECT pg_advisory_lock(hashtext('apikeys'), hashtext('$point'))");
    return;
}

sub let_go
{
    my ($session, $point) = @_;
    $session->query_safe("SELECT pg_advisory_unlock(hashtext('apikeys'), hashtext('$point'))");
    return;
}

sub arrived
{
    my ($point) = @_;
    until_true($asked, "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND NOT granted
        AND objid::bigint = hashtext('$point')::bigint & 4294967295", "somebody is at $point");
    return;
}

1;
