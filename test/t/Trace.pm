# What the tests of limits share: requests under a clock that is moved, and the oracle that judges the log they leave.
#
# The oracle knows nothing of rings, meters or buckets. It sees the rows of the request log and the limits of keys and
# accounts, and sums the trailing window of every row:
#   over    an admitted request whose window, both ends included, holds more than the cap: there may never be one
#   unjust  a request denied by a limit although every window had room for it, even when each is made longer by what a
#           unit may come back late: W/128, and after a load from the tables the length of a stored step. But if the window,
#           made longer by W/128 alone, holds no unit at all, the denial is unjust also after a load
package Trace;
use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(trace_install trace_ok sessions);

my $sql = <<'EOF';
CREATE EXTENSION apikeys;

-- A key whose text is its alias.
CREATE FUNCTION add_account(name text, limits apikeys.limits) RETURNS bigint LANGUAGE sql AS
$$ INSERT INTO apikeys.plan (name) VALUES ('default') ON CONFLICT DO NOTHING;
   INSERT INTO apikeys.account (name, plan, limits) VALUES ($1, 'default', $2) RETURNING account_id $$;
CREATE FUNCTION add_key(alias text, account_id bigint, limits apikeys.limits) RETURNS void LANGUAGE sql AS
$$ INSERT INTO apikeys.key (key_id, account_id, digest, prefix, hint, alias, limits)
   SELECT nextval('apikeys.key_number_seq'), $2, sha256(convert_to($1, 'UTF8'))::apikeys.digest, '', '', $1, $3 $$;

-- The clock of all sessions: base seconds ahead of the real one, and on from there at a speed. It never goes back.
CREATE TABLE timeline AS SELECT 0::float8 AS base, clock_timestamp() AS since, 0::float8 AS speed;
CREATE VIEW clock AS SELECT base + extract(epoch FROM clock_timestamp() - since) * speed AS ahead FROM timeline;
CREATE FUNCTION clock_set(float8) RETURNS void LANGUAGE sql AS
$$ SELECT set_config('apikeys.debug_clock_offset', $1::text, false) $$;
CREATE FUNCTION clock_go(by interval, speed float8 = 0) RETURNS void LANGUAGE sql AS
$$ UPDATE timeline SET base = ahead + extract(epoch FROM $1), since = clock_timestamp(), speed = $2 FROM clock $$;

CREATE FUNCTION clock_go_to(timestamptz) RETURNS void LANGUAGE sql AS
$$ SELECT clock_go($1 - clock_timestamp() - make_interval(secs => ahead)) FROM clock $$;

-- What the callers were told.
CREATE TABLE journal (request_id uuid, code text, alias text);
CREATE FUNCTION request(alias text, cost int = 1) RETURNS apikeys.verdict LANGUAGE plpgsql AS $$
DECLARE
    v apikeys.verdict;
BEGIN
    PERFORM clock_set(ahead) FROM clock;
    v := apikeys.verify(alias, cost => cost);
    INSERT INTO journal VALUES (v.request_id, v.code, alias);
    RETURN v;
END $$;

-- Requests on keys at random, in bursts with random pauses between them; returns how many were admitted.
CREATE FUNCTION wander(aliases text[], calls int, max_cost int, pause interval) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    seconds float8 := extract(epoch FROM pause);
    chosen text;
    v apikeys.verdict;
    admitted int := 0;
BEGIN
    PERFORM clock_set(ahead) FROM clock;
    FOR n IN 1 .. calls LOOP
        IF random() < 0.3 THEN
            UPDATE timeline SET base = base - ln(1 - random()) * seconds;
            PERFORM clock_set(ahead) FROM clock;
        END IF;
        chosen := aliases[1 + floor(random() * cardinality(aliases))];
        v := apikeys.verify(chosen, cost => floor(random() * (max_cost + 1))::int);
        INSERT INTO journal VALUES (v.request_id, v.code, chosen);
        admitted := admitted + v.allowed::int;
    END LOOP;
    RETURN admitted;
END $$;

CREATE VIEW rule AS
    SELECT 'k'::"char" AS subject, k.key_id AS subject_id, i.limit_window, i.window_length, i.cap
    FROM apikeys.key AS k, apikeys.limits_items(k.limits) AS i
    UNION ALL
    SELECT 'a', a.account_id, i.limit_window, i.window_length, i.cap FROM apikeys.account AS a, apikeys.limits_items(a.limits) AS i;
CREATE VIEW trace AS
    SELECT s.subject, s.subject_id, l.at, l.request_id, l.cost, l.code = 'valid' AS admitted, l.code IN ('rate_limited', 'quota_exceeded') AS limited
    FROM apikeys.request_log AS l, LATERAL (VALUES ('k'::"char", l.key_id), ('a', l.account_id)) AS s(subject, subject_id);

-- The units admitted in the window that ends with each row, longer by so much (negative: shorter): used; and in the window
-- that is longer by what is surely late: recent.
CREATE FUNCTION windows(name text, longer interval, surely interval = '0', OUT subject "char", OUT subject_id bigint, OUT cap bigint, OUT request_id uuid,
    OUT cost int, OUT admitted boolean, OUT limited boolean, OUT used bigint, OUT recent bigint) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    w interval := (SELECT r.window_length FROM rule AS r WHERE r.limit_window = name LIMIT 1);
BEGIN
    RETURN QUERY EXECUTE format('SELECT subject, subject_id, r.cap, t.request_id, t.cost, t.admitted, t.limited,
        coalesce(sum(t.cost) FILTER (WHERE t.admitted) OVER (PARTITION BY subject, subject_id ORDER BY t.at RANGE BETWEEN %s PRECEDING AND CURRENT ROW), 0),
        coalesce(sum(t.cost) FILTER (WHERE t.admitted) OVER (PARTITION BY subject, subject_id ORDER BY t.at RANGE BETWEEN %s PRECEDING AND CURRENT ROW), 0)
        FROM rule AS r JOIN trace AS t USING (subject, subject_id) WHERE r.limit_window = $1',
        coalesce(quote_literal(w + longer) || '::interval', 'UNBOUNDED'), coalesce(quote_literal(w + surely) || '::interval', 'UNBOUNDED')) USING name;
END $$;

-- The log has whole microseconds. The 128th part of a window of an odd number of seconds has not: there two requests that
-- are W and some nanoseconds apart can seem to be W apart.
CREATE FUNCTION over() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s %s: %s units in a %s, not %s', v.subject, v.subject_id, v.used, w.limit_window, v.cap)
    FROM (SELECT DISTINCT limit_window, window_length FROM rule) AS w,
         windows(w.limit_window, CASE WHEN extract(epoch FROM w.window_length)::bigint % 2 = 1 THEN '-1 us' ELSE '0' END::interval) AS v
    WHERE v.admitted AND v.used > v.cap $$;
CREATE FUNCTION unjust(aliases text[], loaded boolean) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('request %s', v.request_id)
    FROM (SELECT DISTINCT limit_window, window_length, window_length / 128 + CASE WHEN $2 THEN '4 us' ELSE '2 us' END::interval AS late,
                 CASE WHEN NOT $2 THEN '0' WHEN window_length > '89 days' THEN '1 day' WHEN window_length > '47 hours' THEN '1 hour' ELSE '5 minutes' END::interval AS step
          FROM rule) AS w,
         windows(w.limit_window, w.late + w.step, w.late) AS v JOIN apikeys.request_log AS l USING (request_id) JOIN apikeys.key AS k USING (key_id)
    WHERE v.limited AND k.alias = ANY ($1)
    GROUP BY v.request_id
    HAVING NOT bool_or(v.used + greatest(v.cost, 1) > v.cap AND (v.recent > 0 OR greatest(v.cost, 1) > v.cap)) $$;
EOF

# Makes the extension and what is above in a database of the node.
sub trace_install
{
    my ($node) = @_;
    $node->safe_psql('postgres', $sql);
}

# Judges all that was logged so far. Options: aliases whose denials must be just (with their present limits), loaded if meters came
# from the tables meanwhile, lost if some requests in the journal may be missing from the log.
sub trace_ok
{
    my ($node, $name, %options) = @_;
    my $aliases = join ',', @{ $options{aliases} // [] };
    my $loaded = $options{loaded} ? 'true' : 'false';

    is($node->safe_psql('postgres', 'SELECT * FROM apikeys.check_ledger()'), '', "$name: the ledger is balanced");
    is($node->safe_psql('postgres', 'SELECT * FROM over() LIMIT 5'), '', "$name: no window ever held more than its cap");
    is($node->safe_psql('postgres', "SELECT * FROM unjust('{$aliases}', $loaded) LIMIT 5"), '', "$name: nothing was denied without need") if $aliases;
    is($node->safe_psql('postgres', q{SELECT count(*) FROM journal WHERE code = 'overloaded'}), '0', "$name: nothing was overloaded");
    is($node->safe_psql('postgres', q{SELECT l.code, j.code, count(*) FROM apikeys.request_log AS l FULL JOIN journal AS j USING (request_id)
        WHERE l.code IS DISTINCT FROM j.code GROUP BY 1, 2}), '', "$name: the log has what the callers were told") unless $options{lost};
}

# Runs a pgbench script in so many sessions at once, each as often as asked; it must not fail.
sub sessions
{
    my ($node, $clients, $transactions, $script) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/script';
    my ($out, $err);

    append_to_file($file, "$script\n");
    IPC::Run::run([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-t', $transactions, '-f', $file, $node->connstr('postgres') ], '>', \$out, '2>', \$err)
        or die "pgbench: $err";
    like($out, qr{processed: (\d+)/\1\n}, 'all sessions have run');
}

1;
