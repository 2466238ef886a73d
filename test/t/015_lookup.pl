# A session remembers where the rows of keys and accounts were, and in which buffer. Rows move, vanish, and give their places to
# others, tables are rewritten and cut, pages leave the buffers for other pages: each look-up finds what the tables have.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', "shared_buffers = 512kB\nautovacuum = off");
$node->safe_psql('postgres', q{
    CREATE EXTENSION apikeys;
    INSERT INTO apikeys.plan (name) VALUES ('default');
    INSERT INTO apikeys.account (name, plan) SELECT 'account-' || n, 'default' FROM generate_series(1, 40) AS n;
    CREATE FUNCTION add_keys(first int, last int) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, metadata)
       SELECT nextval('apikeys.key_number_seq'), 1 + n % 40, sha256(convert_to('key-' || n, 'UTF8'))::apikeys.digest, '', '', 'key-' || n,
              jsonb_build_object('filler', repeat('x', 300))
       FROM generate_series(first, last) AS n $$;
    -- What a look-up should find, and does not.
    CREATE VIEW wrong AS
    SELECT t.key, v.code, v.key_id, v.account
    FROM (SELECT 'key-' || n AS key FROM generate_series(1, 4000) AS n ORDER BY md5(n::text)) AS t
    LEFT JOIN (apikeys.key AS k JOIN apikeys.account AS a USING (account_id)) ON k.digest OPERATOR(apikeys.=) sha256(convert_to(t.key, 'UTF8'))::apikeys.digest
    CROSS JOIN LATERAL apikeys.authenticate(t.key) AS v
    WHERE v.code <> CASE WHEN k.key_id IS NULL THEN 'invalid' WHEN k.active AND a.active THEN 'valid' ELSE 'inactive' END
       OR v.key_id IS DISTINCT FROM k.key_id OR v.account IS DISTINCT FROM a.name;
    SELECT add_keys(1, 3000)});

# The session that remembers.
my $session = $node->background_psql('postgres');

sub looks
{
    my ($what) = @_;
    is($session->query_safe('SELECT count(*) FROM wrong') . $session->query_safe('SELECT count(*) FROM wrong'), '00', $what);
    return;
}

sub changed
{
    my ($what, @statements) = @_;
    $node->safe_psql('postgres', $_) foreach @statements;
    looks($what);
    return;
}

looks('found by index, then remembered');
changed('changed in place', q{UPDATE apikeys.key SET active = key_id % 3 = 0});
changed('moved to other pages', q{UPDATE apikeys.key SET alias = alias || '!', metadata = '{"filler": "moved"}' WHERE key_id % 2 = 0}, 'VACUUM apikeys.key, apikeys.account');
changed('deleted', q{DELETE FROM apikeys.key WHERE key_id % 7 = 0});
changed('their places taken by others', 'VACUUM apikeys.key', 'SELECT add_keys(3001, 3400)');
changed('deleted, and made again elsewhere', q{DELETE FROM apikeys.key WHERE key_id % 5 = 0}, 'VACUUM apikeys.key', 'SELECT add_keys(3401, 4000)');
changed('two keys exchange their texts', q{
    CREATE TEMP TABLE pairs AS SELECT min(key_id) AS a, max(key_id) AS b FROM apikeys.key GROUP BY key_id / 2 HAVING count(*) = 2;
    CREATE TEMP TABLE digests AS SELECT key_id, digest FROM apikeys.key;
    UPDATE apikeys.key SET digest = sha256(convert_to('none' || key_id, 'UTF8'))::apikeys.digest WHERE key_id IN (SELECT a FROM pairs UNION ALL SELECT b FROM pairs);
    UPDATE apikeys.key AS k SET digest = d.digest FROM pairs JOIN digests AS d ON d.key_id = b WHERE k.key_id = a;
    UPDATE apikeys.key AS k SET digest = d.digest FROM pairs JOIN digests AS d ON d.key_id = a WHERE k.key_id = b});
changed('rewritten', 'VACUUM FULL apikeys.key', 'VACUUM FULL apikeys.account');
changed('in another order', 'CLUSTER apikeys.key USING key_digest_key');
changed('accounts change, too', q{UPDATE apikeys.account SET active = account_id % 4 <> 0, display_name = repeat('x', 500)}, 'VACUUM apikeys.account');
changed('the end of the table cut off', q{DELETE FROM apikeys.key WHERE ctid > '(20,0)'}, 'VACUUM apikeys.key');
cmp_ok($node->safe_psql('postgres', q{SELECT pg_relation_size('apikeys.key') / current_setting('block_size')::int}), '<=', 21, 'it is');
changed('a rollback', q{BEGIN; UPDATE apikeys.key SET active = NOT active; DELETE FROM apikeys.key WHERE key_id % 2 = 0; ROLLBACK});
changed('all of it, and again', 'TRUNCATE apikeys.key CASCADE', 'SELECT add_keys(1, 1000)');

# Within the session itself, before and after a rollback, and at another isolation level.
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM apikeys.account');
$node->safe_psql('postgres', q{UPDATE apikeys.key SET active = false WHERE alias = 'key-1'});
is($session->query_safe(q{SELECT active, (apikeys.authenticate('key-1')).code FROM apikeys.key WHERE alias = 'key-1'}), 't|inactive',
    'a revocation is seen, whatever the transaction sees');
$session->query_safe('SAVEPOINT s; DELETE FROM apikeys.key WHERE alias = \'key-2\'');
is($session->query_safe(q{SELECT (apikeys.authenticate('key-2')).code}), 'invalid', 'deleted here');
$session->query_safe('ROLLBACK TO s');
is($session->query_safe(q{SELECT (apikeys.authenticate('key-2')).code}), 'valid', 'and not');
$session->query_safe('COMMIT');
looks('after all');

# A rotated key, by both of its texts: in the grace, and after it.
$node->safe_psql('postgres', q{SELECT count(*) FROM apikeys.import_key('account-1', 'first text', alias => 'rotated')});
my $rotation = q{SELECT string_agg((apikeys.authenticate(t)).code, ' ') FROM unnest(ARRAY['first text', current_setting('test.text', true)]) AS t};
sub both_texts
{
    my ($codes, $what) = @_;
    is($session->query_safe($rotation) . ', ' . $session->query_safe($rotation), "$codes, $codes", $what);
    return;
}
both_texts('valid missing', 'before the rotation');
my $text = $node->safe_psql('postgres', q{SELECT r.key FROM apikeys.key AS k CROSS JOIN apikeys.rotate_key(k.key_id, grace => '1 hour') AS r WHERE k.alias = 'rotated'});
$session->query_safe("SET test.text = '$text'");
both_texts('valid valid', 'in the grace');
$node->safe_psql('postgres', q{UPDATE apikeys.key SET previous_valid_until = now() WHERE alias = 'rotated'});
both_texts('invalid valid', 'after it');

# A key text of our shape with a wrong checksum is good, imported by its digest, until a plan has its prefix: also for a session
# that has found it before.
my $odd = 'other_' . '0' x 36;
$node->safe_psql('postgres', qq{SELECT apikeys.import_key('account-1', digest => sha256('$odd')::apikeys.digest, alias => 'odd')});
my $ask = qq{SELECT (apikeys.authenticate('$odd')).code};
is($session->query_safe($ask) . ' ' . $session->query_safe($ask), 'valid valid', 'a wrong checksum under a prefix of nobody');
$node->safe_psql('postgres', q{UPDATE apikeys.plan SET key_prefix = 'other'});
is($session->query_safe($ask), 'invalid', 'under the prefix of a plan');

$session->quit;
$node->stop;
done_testing();
