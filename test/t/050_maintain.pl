# Maintenance: partitions of the request log ahead and on demand, retention, addresses, merged buckets.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

# Whoever reads a bound or a day by a setting reads it wrong here.
my $node = server('main', "timezone = 'America/New_York'\ndatestyle = 'SQL, DMY'\n" . noon());
value(q{
    CREATE EXTENSION apikeys;
    ALTER DATABASE postgres SET timezone = 'Asia/Kathmandu';
    CREATE FUNCTION days_ago(days numeric) RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT timestamptz '} . today() . q{ 00:00Z' - days * interval '24 hours' $$;
    CREATE FUNCTION partitions() RETURNS SETOF text LANGUAGE sql AS
    $$ SELECT right(c.relname, 8) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid WHERE inhparent = 'apikeys.request_log'::regclass ORDER BY 1 $$;
    CREATE FUNCTION set_clock(at timestamptz) RETURNS text LANGUAGE sql AS
    $$ SELECT set_config('apikeys.debug_clock_offset', extract(epoch FROM at - clock_timestamp())::text, false) $$;
});

# A key of an account of its own: requests of one account never go back in time.
my $accounts = 0;

sub new_key
{
    my ($limits) = @_;
    $accounts++;
    my ($id, $text) = split /\|/, value("SELECT key_id, key FROM apikeys.create_key('account $accounts', limits => '$limits')");
    return ($id, $text);
}

# One request at each of these times (SQL), in one session; all are in the tables afterwards.
sub request_at
{
    my ($text, @times) = @_;
    my $sql = join '', map { "DO \$\$ BEGIN PERFORM set_clock($_); PERFORM FROM apikeys.verify('$text'); END \$\$;" } @times;
    value("BEGIN; $sql COMMIT; RESET apikeys.debug_clock_offset;");
    is(value('SELECT apikeys.flush()'), 't', 'written');
}

sub ledger_holds
{
    my ($when) = @_;
    is(value('SELECT * FROM apikeys.check_ledger()'), '', "the ledger holds $when");
}

# Waits until the writer has taken notice of settings.
sub configure
{
    my ($setting, $seen) = @_;
    value("ALTER SYSTEM SET $setting");
    $node->reload;
    $node->poll_query_until('postgres', $seen) or die "the writer has not seen $setting";
}

#
# Partitions
#
my ($id, $text) = new_key('');
is(value('SELECT apikeys.maintain()'), 't', 'maintained');
my $ahead = q{SELECT string_agg(to_char(days_ago(-n) AT TIME ZONE 'UTC', 'YYYYMMDD'), ' ' ORDER BY n) FROM generate_series(0, 3) AS n};
is(value(q{SELECT string_agg(p, ' ') FROM partitions() AS p}), value($ahead), 'today and three days ahead have partitions');
is(value('SELECT apikeys.maintain()'), 't', 'maintained again');
is(value('SELECT count(*) FROM partitions()'), 4, 'that adds none');

# Made on demand while somebody reads and somebody has the log open for writing: neither waits for the other.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT * FROM apikeys.request_log; FETCH c; LOCK TABLE apikeys.request_log IN ROW EXCLUSIVE MODE');
request_at($text, "days_ago(-3.5)", "days_ago(-10.5)", "days_ago(-2000.25)", "days_ago(-10000)");
my ($past_id, $past_text) = new_key('');
request_at($past_text, "days_ago(9000) - interval '1 us'", "days_ago(20)", "days_ago(19) - interval '1 us'", "days_ago(19)");
$reader->query_safe('COMMIT');
is(value(qq{SELECT count(*), bool_and(right(tableoid::regclass::text, 8) = to_char(at AT TIME ZONE 'UTC', 'YYYYMMDD')) FROM apikeys.request_log
    WHERE key_id IN ($id, $past_id)}), '8|t', 'each row is in the partition of its day, UTC');
is(value(q{SELECT count(*) FROM partitions()}), 4 + 3 + 3, 'a partition for each new day, on demand');
is(value(q{SET timezone = 'UTC'; SET datestyle = 'ISO'; SELECT DISTINCT regexp_replace(pg_get_expr(relpartbound, oid), '\d{4}-\d\d-\d\d', 'DAY', 'g')
    FROM pg_class WHERE relname ~ '^request_log_\d{8}$'}), q{FOR VALUES FROM ('DAY 00:00:00+00') TO ('DAY 00:00:00+00')}, 'bounds are midnights, UTC');
is(value(q{SELECT count(*) FROM pg_class AS c WHERE c.relname ~ '^request_log_\d{8}$' AND NOT EXISTS (
    SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND pg_get_indexdef(i.indexrelid) LIKE '% USING btree (key_id, at)')}), 0, 'each has its index');
ledger_holds('over days and years');

#
# Retention
#
my ($old_id, $old_text) = new_key('');
request_at($old_text, map { "days_ago($_.5)" } 50, 41, 40, 39);
my $kept = value(qq{SELECT count(*) FROM apikeys.request_log WHERE at >= days_ago(40)});
$reader->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT * FROM apikeys.request_log; FETCH c');
value('ALTER SYSTEM SET apikeys.log_retention = 40');
my $log_start = -s $node->logfile;
$node->reload;
ok($node->poll_query_until('postgres', 'SELECT NOT apikeys.maintain()'), 'maintenance does not wait for the reader, and tells so');
like(slurp_file($node->logfile, $log_start), qr/apikeys maintenance was put off: could not obtain lock/, 'the log says why');
is(value('SELECT count(*) FROM apikeys.request_log WHERE at < days_ago(40)'), 4, 'nothing is dropped under a reader');
is($reader->query_safe('FETCH ALL FROM c') ne '', 1, 'who reads on');
request_at($text);
$reader->query_safe('COMMIT');
is(value('SELECT apikeys.maintain()'), 't', 'maintained without the reader');
is(value('SELECT count(*) FROM apikeys.request_log WHERE at < days_ago(40)'), 0, 'what is past its retention is dropped');
is(value('SELECT count(*) FROM apikeys.request_log'), $kept, 'and nothing else');
is(value(q{SELECT min(p) >= to_char(days_ago(40) AT TIME ZONE 'UTC', 'YYYYMMDD') FROM partitions() AS p}), 't', 'with their partitions');
is(value("SELECT admitted FROM apikeys.usage_total WHERE subject_id = $old_id"), 4, 'usage stays');
ledger_holds('for the days that are left');
request_at((new_key(''))[1], 'days_ago(45)');
is(value(q{SELECT count(*) FROM apikeys.request_log WHERE at < days_ago(40)}), 1, 'a late event has its partition made again');
configure('apikeys.log_retention = 0', q{SELECT apikeys.maintain()});

#
# Addresses
#
my @addresses = ('192.0.2.77', '::ffff:192.0.2.77', '2001:db8:1:2:3:4:5:6');
my %logged = (
    full => '192.0.2.77 192.0.2.77 2001:db8:1:2:3:4:5:6',
    network => '192.0.2.0/24 192.0.2.0/24 2001:db8:1::/48',
    none => '- - -');
my (undef, $caller_text) = new_key('');
value(q{CREATE FUNCTION address_logged(key text) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        id uuid := (SELECT v.request_id FROM apikeys.verify(key, 'probe', '192.0.2.77') AS v);
    BEGIN
        PERFORM apikeys.flush();
        RETURN (SELECT coalesce(abbrev(r.ip), '-') FROM apikeys.request_log AS r WHERE r.request_id = id);
    END $$});
foreach my $rule ('network', 'none', 'full')
{
    my ($probed) = $logged{$rule} =~ /^(\S+)/;
    configure("apikeys.log_address = $rule", "SELECT address_logged('$caller_text') = '$probed'");
    value("SELECT apikeys.verify('$caller_text', '$rule', '$_')") foreach @addresses;
    value('SELECT apikeys.flush()');
    is(value("SELECT string_agg(coalesce(abbrev(ip), '-'), ' ' ORDER BY request_id) FROM apikeys.request_log WHERE endpoint = '$rule'"),
        $logged{$rule}, "log_address = $rule");
}

#
# Merging
#
my ($merged_id, $merged_text) = new_key('100/4 days, 100/200 days, 1000/total');
my @minutes = (
    "days_ago(100) + '03:07'", "days_ago(100) + '03:09'", "days_ago(100) + '23:59'", "days_ago(99) + '00:00'",
    "days_ago(3) + '05:02'", "days_ago(3) + '05:58'", "days_ago(3) + '06:01'", "days_ago(0) - interval '7 min'", 'days_ago(0)');
request_at($merged_text, @minutes);
my $buckets = qq{SELECT string_agg(to_char(timestamp '2000-01-01' + (bucket - days_ago(101)), 'DDD HH24:MI') || ' ' || units, ', ' ORDER BY bucket)
    FROM apikeys.usage_bucket WHERE subject = 'k' AND subject_id = $merged_id};
is(value($buckets), '002 03:05 2, 002 23:55 1, 003 00:00 1, 099 05:00 1, 099 05:55 1, 099 06:00 1, 101 23:50 1, 102 00:00 1', 'buckets of 5 minutes');
my $sums = 'SELECT subject, subject_id, sum(admitted), sum(denied), sum(units), sum(errors), sum(credits) FROM apikeys.usage_bucket GROUP BY 1, 2 ORDER BY 1, 2';
my $sums_before = value($sums);
my $standing = "SELECT limit_window, used, extract(epoch FROM next_free_at) FROM apikeys.key_limits($merged_id) ORDER BY cap, limit_window";
my %before = map { my ($window, @rest) = split /\|/; ($window => \@rest) } split /\n/, value($standing);
is(value('SELECT apikeys.maintain()'), 't', 'maintained');
is(value($buckets), '002 00:00 3, 003 00:00 1, 099 05:00 2, 099 06:00 1, 101 23:50 1, 102 00:00 1', 'hours after 2 days, days after 90');
is(value($sums), $sums_before, 'sums stay');
ledger_holds('over merged buckets');

# What is loaded from merged buckets may come back late by a bucket and a 128th of the window, never early.
$node->restart;
my %after = map { my ($window, @rest) = split /\|/; ($window => \@rest) } split /\n/, value($standing);
is_deeply([ sort keys %after ], [ '200 days', '4 days', 'total' ], 'all limits stand');
is($after{$_}[0], $before{$_}[0], "$_: the same units") foreach sort keys %after;
foreach my $case ([ '4 days', 3600, 4 * 86400 ], [ '200 days', 86400, 200 * 86400 ])
{
    my ($window, $bucket, $length) = @$case;
    my $late = $after{$window}[1] - $before{$window}[1];
    ok($late >= 0 && $late <= $bucket + $length / 128, "$window: units come back $late s late");
}

# At whatever time, at least the units of the trailing window count: as the log has them.
my $clock = join '', map { qq{
    SELECT set_clock(days_ago(3) + '05:01' + interval '4 days' + $_ * interval '17 min') IS NULL;
    SELECT l.used >= (SELECT count(*) FROM apikeys.request_log AS r WHERE r.key_id = $merged_id
                      AND r.at >= apikeys_internal.wall_clock() - interval '4 days'), l.used
    FROM apikeys.key_limits($merged_id) AS l WHERE l.limit_window = '4 days';} } 0 .. 5;
my @counted = grep { /\|/ } split /\n/, value($clock);
is((grep { /^t\|/ } @counted), 6, 'no unit of the window is missing');
like($counted[0], qr/\|5$/, 'all count at first');
like(value("SELECT set_clock(days_ago(0) + interval '5 days'); SELECT used FROM apikeys.key_limits($merged_id) WHERE limit_window = '4 days'"),
    qr/^0$/m, 'none in the end');

# Events are written while buckets are merged. The writer is held in the midst of that by a constraint that waits; the first use comes
# meanwhile, and is written before the rest is merged.
value(q{INSERT INTO apikeys.usage_bucket SELECT 'k', k, days_ago(3) - b * interval '5 min', 1, 0, 1, 0, 0 FROM generate_series(1, 300) AS k, generate_series(1, 1000) AS b ORDER BY b, k;
    CREATE FUNCTION passes(subject_id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        WHILE subject_id = 30 AND EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 30) LOOP
            PERFORM pg_catalog.pg_sleep(0.01);
        END LOOP;
        RETURN true;
    END $$;
    ALTER TABLE apikeys.usage_bucket ADD CONSTRAINT gate CHECK (public.passes(subject_id)) NOT VALID});
my $fine = q{SELECT count(*) FROM apikeys.usage_bucket WHERE subject = 'k' AND subject_id <= 300 AND bucket <> date_bin('1 hour', bucket, '2000-01-01 00:00Z')};
my $gate = $node->background_psql('postgres');
$gate->query_safe('SELECT pg_advisory_lock(30)');
my $keeper = $node->background_psql('postgres');
$keeper->query_until(qr/merging/, "\\echo merging\nSELECT apikeys.maintain();\n");
until_true($node, q{SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'apikeys writer'}, 'the writer is held in the midst of merging');
my (undef, $first_text) = new_key('');
my $first_use = begin("SELECT code FROM apikeys.verify('$first_text', '/first')");
until_true($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '/first' AND wait_event_type = 'Extension'}, 'a first use waits');
$gate->quit;
is(end($first_use), 'valid', 'it is written');
$keeper->quit;
value('ALTER TABLE apikeys.usage_bucket DROP CONSTRAINT gate');
is(value(q{SELECT count(DISTINCT b.xmin::text) > 1 FROM apikeys.usage_bucket AS b, apikeys.request_log AS l
    WHERE l.endpoint = '/first' AND b.subject = 'k' AND b.subject_id <= 300 AND b.xmin::text::bigint > l.xmin::text::bigint}), 't',
    'while there was more to merge');
is(value($fine), 0, 'then the rest is merged');
is(value("SELECT * FROM ($sums) AS s WHERE subject = 'k' AND subject_id <= 300"), (join "\n", map { "k|$_|1000|0|1000|0|0" } 1 .. 300), 'sums stay');
cmp_ok(value(q{SELECT max(pages) FROM (SELECT count(DISTINCT (ctid::text::point)[0]) AS pages
    FROM apikeys.usage_bucket WHERE subject = 'k' AND subject_id <= 300 GROUP BY subject_id) AS p}), '<', 20, 'the 84 hours of a key lie together');
my $versions = q{SELECT md5(string_agg(ctid || '/' || xmin, ',' ORDER BY subject, subject_id, bucket)) FROM apikeys.usage_bucket WHERE subject_id <= 300};
my $versions_before = value($versions);
is(value('SELECT apikeys.maintain()'), 't', 'maintained again');
is(value($versions), $versions_before, 'what is merged is not written anew');

# To the hour and to the day: whole hours that are 2 days old are merged, and whole days that are 90 days old.
value(q{INSERT INTO apikeys.usage_bucket SELECT 'k', 400, v.hour + five * interval '5 min', 1, 0, 1, 0, 0
    FROM (SELECT date_trunc('hour', apikeys_internal.wall_clock(), 'UTC') - h * interval '1 hour' FROM unnest('{46,47,49,50}'::int[]) AS h) AS v(hour), unnest('{1,7}'::int[]) AS five;
    INSERT INTO apikeys.usage_bucket SELECT 'k', 401, days_ago(d) + h * interval '1 hour', 1, 0, 1, 0, 0 FROM unnest('{89,90,91,92}'::int[]) AS d, unnest('{1,23}'::int[]) AS h});
is(value('SELECT apikeys.maintain()'), 't', 'maintained for the edges');
foreach my $case ([ 400, 'hour', '2 days' ], [ 401, 'day', '90 days' ])
{
    my ($subject, $unit, $age) = @$case;
    is(value(qq{SELECT string_agg(n::text, ' ' ORDER BY start DESC) FROM (SELECT date_trunc('$unit', bucket, 'UTC') AS start, count(*) AS n
        FROM apikeys.usage_bucket WHERE subject = 'k' AND subject_id = $subject GROUP BY 1) AS s}), '2 2 1 1', "a whole $unit is merged when it is $age old, not before");
}

# Hours of three months ago become days, in steps that cut both.
value(q{INSERT INTO apikeys.usage_bucket SELECT 'k', k, days_ago(150) - b * interval '5 min', 1, 2, 3, 4, 5 FROM generate_series(1, 60) AS k, generate_series(0, 2879) AS b});
is(value('SELECT apikeys.maintain()'), 't', 'maintained a third time');
is(value(q{SELECT count(*), count(DISTINCT bucket) FROM apikeys.usage_bucket WHERE subject = 'k' AND subject_id <= 60 AND bucket <= days_ago(150)}), '660|11', 'days');
is(value("SELECT * FROM ($sums) AS s WHERE subject = 'k' AND subject_id <= 60"), (join "\n", map { "k|$_|3880|5760|9640|11520|14400" } 1 .. 60), 'sums stay, too');

$node->stop;
done_testing();
