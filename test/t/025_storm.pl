# Storms: connections that come and go with each request, and texts that are no keys. Counts are exact, and no memory grows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Engine;
use Server;

my $node = engine_node('main', "max_connections = 60\napikeys.synchronous_usage = on");

# The memory of a process that is its own, in kB. The C library gives back what is free when it likes: a few hundred kB say nothing.
sub own_memory
{
    my ($pid) = @_;
    my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
    return $kb;
}

# What shared memory holds when nobody uses it.
my $engine = 'SELECT meters_used, rings_used, queue_bytes, evictions, verdicts_overloaded FROM apikeys.stats()';

# Each request comes by a connection of its own; one session keeps the writer the same.
my $session = $node->background_psql('postgres');
$session->query_safe(q{SELECT apikeys.verify('key-1')});
my $connections = 1200;

sub storm
{
    my ($what) = @_;
    my $before = value('SELECT count(*) FROM apikeys.request_log');
    my $load = load_start($node, 'postgres', '-C', '-c', '24', '-j', '2', '-t', $connections / 24);
    my ($admitted, $well) = load_finish($load);
    ok($well, "$what: no call fails") or diag($load->{err});
    is($admitted, $connections, "$what: each is admitted");
    ledger_ok($node, $what);
    is(value('SELECT count(*) FROM apikeys.request_log') - $before, $connections, "$what: each is recorded");
    return;
}

storm('a first storm');
my ($writer, $shared) = (writer_pid($node), value($engine));
my $memory = own_memory($writer);
storm('another storm');
is(writer_pid($node), $writer, 'it is the same writer');
cmp_ok(own_memory($writer), '<', $memory + 2048, 'whose memory has not grown');
is(value($engine), $shared, 'nor what is in use of the shared memory');

# Small batches by the thousand, each with a completion.
my $batches = q{DO $$ BEGIN FOR n IN 1 .. 1500 LOOP PERFORM apikeys.complete((apikeys.verify('key-' || 1 + n % 15)).request_id, 200); END LOOP; END $$};
value($batches);
$memory = own_memory($writer);
value($batches);
ledger_ok($node, 'small batches');
is(writer_pid($node), $writer, 'small batches: it is the same writer');
cmp_ok(own_memory($writer), '<', $memory + 2048, 'small batches: its memory has not grown');

# Texts that are no keys: of our shape with a wrong checksum and with the right one, of imported shapes, too long.
value(q{INSERT INTO apikeys.plan (name, key_prefix) VALUES ('ours', 'ak') ON CONFLICT DO NOTHING;
    CREATE FUNCTION checked(body text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        crc bigint := 4294967295;
        digits text := '';
    BEGIN
        FOR i IN 1 .. length(body) LOOP
            crc := crc # ascii(substr(body, i, 1));
            FOR bit IN 1 .. 8 LOOP
                crc := (crc >> 1) # (CASE crc & 1 WHEN 1 THEN 3988292384 ELSE 0 END);
            END LOOP;
        END LOOP;
        crc := crc # 4294967295;
        FOR i IN 1 .. 6 LOOP
            digits := substr('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz', 1 + (crc % 62)::int, 1) || digits;
            crc := crc / 62;
        END LOOP;
        RETURN 'ak_' || body || digits;
    END $$});
is(value(q{SELECT checked(repeat('A', 30))}), 'ak_' . 'A' x 30 . '0uCPlr', 'the checksum is right');
my $flooder = $node->background_psql('postgres');

# What the session that floods has allocated, in bytes.
sub allocated
{
    return $flooder->query_safe('SELECT sum(total_bytes) FROM pg_backend_memory_contexts');
}

# So many texts of a kind, in calls of verify_many and one by one; the different verdicts on them.
sub flood
{
    my ($text, $rounds) = @_;
    return $flooder->query_safe(qq{SELECT string_agg(DISTINCT v.code, ' ') FROM generate_series(1, $rounds) AS round,
        LATERAL (SELECT array_agg($text) AS texts FROM generate_series(1 + 0 * round, 1000) AS n) AS t, LATERAL apikeys.verify_many(texts) AS v;
        SELECT string_agg(DISTINCT v.code, ' ') FROM generate_series(1, 1000) AS n, LATERAL apikeys.verify($text) AS v});
}

my $before = value($engine);
my $rows = value(q{SELECT (SELECT count(*) FROM apikeys.request_log), (SELECT count(*) FROM apikeys.usage_total), (SELECT count(*) FROM apikeys.quarantine)});
my $body = q{substr(md5(random()::text || n), 1, 30)};
foreach my $case ([ 'of our shape with a wrong checksum', "'ak_' || $body || '000000'" ], [ 'of our shape with the right checksum', "checked($body)", 5 ],
    [ 'of other shapes', "md5(random()::text || n)" ], [ 'that are too long', "repeat(md5(random()::text || n), 20)" ])
{
    my ($kind, $text, $rounds) = @$case;
    is(flood($text, $rounds // 20), "invalid\ninvalid", "texts $kind are no keys");
    my $allocated = allocated();
    flood($text, $rounds // 100);
    cmp_ok(allocated(), '<', $allocated + 32768, "texts $kind take no memory");
}
is(value($engine), $before, 'none takes a meter, or a place in the queue');
is(value(q{SELECT (SELECT count(*) FROM apikeys.request_log), (SELECT count(*) FROM apikeys.usage_total), (SELECT count(*) FROM apikeys.quarantine)}), $rows, 'or is recorded');
is($flooder->query_safe(q{SELECT code FROM apikeys.verify('key-1')}), 'valid', 'keys are keys');
$flooder->quit;
$session->quit;
ledger_ok($node, 'in the end');

$node->stop;
done_testing();
