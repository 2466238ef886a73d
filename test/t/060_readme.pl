# The documents are true: what README.md and docs/ say to type runs, and prints what they show; docs/reference.md describes all that there is
# (scripts/lint looks at its verdicts, and at links).
#
# Each ```sql block of a document is run, one after the other, by one session of psql in a database of its own. A ```text block that
# follows shows its output, errors included. A block with $1 is what a driver sends: in the end its statement is prepared. Compared are
# outputs in which keys, hints, request ids and times are masked, and runs of blanks and lines are cut to one. What a document would be with the outputs
# of this run is left in the folder of the logs.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use Cwd qw(abs_path);
use File::Basename;
use IPC::Run;
use List::Util qw(uniq);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $top = abs_path(dirname(__FILE__) . '/../..');
my $node = server('main', "apikeys.max_databases = 16\ntimezone = 'UTC'", extra => [ '--encoding', 'UTF8', '--locale', 'C.UTF-8' ]);

sub masked
{
    my ($text) = @_;
    for ($text)
    {
        s/\b[a-z][a-z0-9_]*_[0-9A-Za-z]{36}\b/KEY/g;
        s/\b([a-z][a-z0-9_]*_\N{U+2026})[0-9A-Za-z]{4}\b/$1HINT/g;
        s/\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/UUID/g;
        s/\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+\d\d\b/TIME/g;
        s/\b\d\d+:\d\d:\d\d(\.\d+)?\b/INTERVAL/g;
        s/\b\d{4,}\.\d+\b/SECONDS/g;
        s/\bt=\d+/t=SECONDS/g;
        s/("Retry-After": ")\d+/$1SECONDS/g;
        s/([ -])\1+/$1/g;
        s/ +$//mg;
        s/\n+\z/\n/;
    }
    return $text;
}

# The blocks of a document: where each begins, what it says, and the output shown ('shown' undefined: none).
sub blocks_of
{
    my ($document) = @_;
    my @blocks;
    while ($document =~ /^```sql\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/msg)
    {
        push @blocks, { sql => $1, shown => $2, at => $-[2], line => 1 + (substr($document, 0, $-[0]) =~ tr/\n//) };
    }
    return @blocks;
}

# Runs blocks by one session and notes their outputs, standard output first.
sub run_blocks
{
    my ($database, @blocks) = @_;
    my $script = '';
    my @sent = grep { $blocks[$_]{sql} =~ /\$1/ } 0 .. $#blocks;
    $blocks[$_]{sql} =~ s/^/PREPARE block_$_ AS\n/ foreach @sent;
    foreach my $i ((grep { $blocks[$_]{sql} !~ /\$1/ } 0 .. $#blocks), @sent)
    {
        my ($sql, $shown) = @{ $blocks[$i] }{qw(sql shown)};
        $script .= "\\echo \@$i\n\\warn \@$i\n\\set ON_ERROR_STOP " . (($shown // '') =~ /^ERROR:/m ? 'off' : 'on') . "\n$sql";
    }
    utf8::encode($script);
    IPC::Run::run([ 'psql', '-X', '-v', 'SHOW_CONTEXT=never', '-d', $node->connstr($database) ], '<', \$script, '>', \my $out, '2>', \my $err);
    foreach my $stream ($out, $err)
    {
        utf8::decode($stream);
        my (undef, @parts) = split /^\@(\d+)\n/m, $stream;
        while (my ($i, $part) = splice @parts, 0, 2)
        {
            $blocks[$i]{printed} .= $part;
        }
    }
}

my @databases;
foreach my $path ("$top/README.md", sort glob "$top/docs/*.md")
{
    my $name = basename($path);
    my $document = slurp_file($path);
    utf8::decode($document);
    my @blocks = blocks_of($document) or next;
    (my $database = lc $name) =~ s/\W/_/g;
    $node->safe_psql('postgres', "CREATE DATABASE $database");
    $node->safe_psql($database, 'CREATE EXTENSION apikeys') if $name ne 'README.md';

    push @databases, $database;
    run_blocks($database, @blocks);
    foreach my $block (@blocks)
    {
        my ($shown, $printed) = @{$block}{qw(shown printed)};
        my $what = "$name line $block->{line}";
        if (!defined $printed)
        {
            fail("$what is reached");
        }
        elsif (defined $shown)
        {
            is(masked($printed), masked($shown), "$what prints what it shows");
        }
        else
        {
            unlike($printed, qr/^ERROR:/m, "$what runs");
        }
    }
    foreach my $block (reverse grep { defined $_->{shown} && defined $_->{printed} } @blocks)
    {
        (my $printed = $block->{printed}) =~ s/ +$//mg;
        $printed =~ s/\n*\z/\n/;
        substr $document, $block->{at}, length $block->{shown}, $printed;
    }
    utf8::encode($document);
    append_to_file("$PostgreSQL::Test::Utils::log_path/$name", $document);
}

# docs/reference.md describes what is there, and nothing else: its parts by their headings.
my $reference = slurp_file("$top/docs/reference.md");
my %section = $reference =~ /^## (\N+)\n(.*?)(?=^## |\z)/msg;

# first_cells SECTION: what stands as code in the first cells of the tables there, a name each.
sub first_cells
{
    return join "\n", sort map { /`(\w+)`/g } $section{ $_[0] } =~ /^\| (`[^|]*)/mg;
}

# Functions: signature, and the roles that may call it.
my $functions = $node->safe_psql('readme_md', q{
    SELECT format('%s(%s%s) %s%s: %s', p.proname,
        (SELECT string_agg(p.proargnames[i], ', ') FROM generate_series(1, p.pronargs - p.pronargdefaults) AS i),
        (SELECT CASE WHEN p.pronargs > p.pronargdefaults THEN ' [, ' ELSE '[' END || string_agg(p.proargnames[i], ', ') || ']' FROM generate_series(p.pronargs - p.pronargdefaults + 1, p.pronargs) AS i),
        CASE WHEN p.proretset THEN 'setof ' END,
        coalesce(
            (SELECT '(' || string_agg(a.name, ', ' ORDER BY a.i) || ')'
             FROM unnest(p.proargnames, p.proargmodes) WITH ORDINALITY AS a (name, mode, i) WHERE a.mode IN ('o', 't')),
            replace(format_type(p.prorettype, NULL), 'apikeys.', '')),
        string_agg(r.role, ', ' ORDER BY r.i))
    FROM pg_proc AS p
    -- What managers may call, a portal may.
    JOIN unnest(ARRAY['verifier', 'manager', 'portal', 'staff', 'admin', 'auditor', 'scanner']) WITH ORDINALITY AS r (role, i)
        ON has_function_privilege('apikeys_' || r.role, p.oid, 'EXECUTE')
       AND (r.role <> 'portal' OR NOT has_function_privilege('apikeys_manager', p.oid, 'EXECUTE'))
    WHERE p.pronamespace = 'apikeys'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_type AS t WHERE p.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend))
      AND NOT EXISTS (SELECT FROM pg_operator AS o WHERE o.oprcode = p.oid AND o.oprname <> '->')
      AND NOT EXISTS (SELECT FROM pg_amproc AS a WHERE a.amproc = p.oid)
      AND NOT EXISTS (SELECT FROM pg_cast AS c WHERE c.castfunc = p.oid)
      -- What views, policies and constraints call for the one who uses them.
      AND p.proname NOT IN ('key_state', 'limits_used', 'wall_clock', 'domains_are_valid', 'hash_rule_is_known', 'prefix_is_valid', 'lifetimes_are_valid',
          'lifetime_is_offered', 'longest_lifetime', 'has_text', 'automatic_blocks')
    GROUP BY p.oid});
is_deeply([ sort map { s/` \xc2\xb7 /: /r =~ s/ \xe2\x86\x92 / /r } $section{Functions} =~ /^`(\w+\(\N+)/mg ], [ sort split /\n/, $functions ],
    'docs/reference.md has the signatures of the functions that roles may call, and the roles');
is(join("\n", $section{Functions} =~ /^#### (\w+)$/mg), join("\n", uniq($section{Functions} =~ /^`(\w+)\(/mg)), 'each function has a heading');

is(first_cells('Tables and views'), $node->safe_psql('readme_md', q{
    SELECT name FROM (
        SELECT relname AS name FROM pg_class WHERE relnamespace = 'apikeys'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
        UNION ALL SELECT attname FROM pg_attribute WHERE attrelid = 'apikeys.audit_log'::regclass AND attnum > 0 AND attname <> 'id') AS names
    ORDER BY name}), 'docs/reference.md describes the tables and views, and the columns of the audit log');
is(first_cells('Roles'), $node->safe_psql('readme_md', q{SELECT rolname FROM pg_roles WHERE rolname ~ '^apikeys_' ORDER BY 1}),
    'docs/reference.md describes the roles');
is(first_cells('Types'), $node->safe_psql('readme_md', q{
    SELECT typname FROM pg_type LEFT JOIN pg_class ON pg_class.oid = typrelid
    WHERE typnamespace = 'apikeys'::regnamespace AND typelem = 0 AND (relkind IS NULL OR relkind = 'c') ORDER BY 1}),
    'docs/reference.md describes the types');
my @verdicts = $section{Types} =~ /^\| `verdict` \| (\N*)/m;
is(join(', ', map { /`(\w+)`/g } @verdicts), $node->safe_psql('readme_md', q{
    SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'apikeys.verdict'::regclass AND attnum > 0 AND NOT attisdropped}),
    'docs/reference.md describes the columns of a verdict');

# Kinds of notices: those that the comment names, and whatever the documents above brought about.
my ($kinds) = $section{Notices} =~ /^\| kind \N*\n(.*?)^\n/ms;
my $noticed = join "\n", sort map { /`(\w+)`/g } $kinds =~ /^\| (`[^|]*)/mg;
my $comment = $node->safe_psql('readme_md', q{
    SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = 'apikeys.notice_list'::regclass AND attname = 'kind'});
is(join("\n", grep { $comment =~ /\b\Q$_\E\b/ } split /\n/, $noticed), $noticed, 'the kinds of notices in docs/reference.md are in the comment');
my $happened = join ' ', map { $node->safe_psql($_, q{SELECT DISTINCT kind FROM apikeys.notice}) } @databases;
is(join(' ', grep { my $kind = $_; !grep { $_ eq $kind } split /\n/, $noticed } split ' ', $happened), '', 'docs/reference.md has the kinds of notices that came');

$node->adjust_conf('postgresql.conf', "apikeys.$_", undef) foreach qw(max_databases queue_timeout);
$node->restart;
my $settings = $node->safe_psql('readme_md', q{
    SELECT format('| `%s` | `%s` | %s |', name, coalesce(nullif(current_setting(name), ''), quote_literal('')),
        CASE context WHEN 'postmaster' THEN 'restart' WHEN 'sighup' THEN 'reload' ELSE context END)
    FROM pg_settings WHERE name LIKE 'apikeys.%' ORDER BY name COLLATE "C"});
is(join("\n", sort $section{Settings} =~ /^(\| `apikeys\.\w+` \| `[^`]+` \| \w+ \|)/mg), $settings, 'docs/reference.md describes the settings');

$node->stop;
done_testing();
