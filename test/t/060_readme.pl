# The documents are true: what README.md and docs/ say to type runs, and prints what they show; the lists of functions and settings are complete.
#
# Each ```sql block of a document is run, one after the other, by one session of psql in a database of its own. A ```text block that
# follows shows its output, errors included. A block with $1 is what a driver sends: in the end its statement is prepared. Compared are
# outputs in which keys, hints, request ids and times are masked, and runs of blanks and lines are cut to one. What a document would be with the outputs
# of this run is left in the folder of the logs.
use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path(dirname(__FILE__) . '/../..');
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => [ '--encoding', 'UTF8', '--locale', 'C.UTF-8' ]);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'apikeys'\napikeys.max_databases = 8\ntimezone = 'UTC'");
$node->start;

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

foreach my $path ("$top/README.md", sort glob "$top/docs/*.md")
{
    my $name = basename($path);
    my $document = slurp_file($path);
    utf8::decode($document);
    my @blocks = blocks_of($document) or next;
    (my $database = lc $name) =~ s/\W/_/g;
    $node->safe_psql('postgres', "CREATE DATABASE $database");
    $node->safe_psql($database, 'CREATE EXTENSION apikeys') if $name ne 'README.md';

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

# Every function that is meant to be called, and every setting with its default and context, stands in README.md, and no other.
my $readme = slurp_file("$top/README.md");
my $functions = $node->safe_psql('readme_md', q{
    SELECT DISTINCT p.proname FROM pg_proc AS p
    JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'apikeys')
    JOIN (SELECT unnest(ARRAY['apikeys_verifier', 'apikeys_manager', 'apikeys_admin', 'apikeys_auditor'])) AS r (role)
        ON has_function_privilege(r.role, p.oid, 'EXECUTE')
    WHERE NOT EXISTS (SELECT FROM pg_type AS t WHERE p.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend))
      AND NOT EXISTS (SELECT FROM pg_operator AS o WHERE o.oprcode = p.oid AND o.oprname <> '->')
      AND NOT EXISTS (SELECT FROM pg_amproc AS a WHERE a.amproc = p.oid)
      AND NOT EXISTS (SELECT FROM pg_cast AS c WHERE c.castfunc = p.oid)
      -- What views, policies and constraints call for the one who uses them.
      AND p.proname NOT IN ('managed_accounts', 'key_state', 'key_used', 'wall_clock', 'domains_are_valid', 'hash_rule_is_known', 'prefix_is_valid', 'lifetimes_are_valid',
          'lifetime_is_offered', 'longest_lifetime', 'has_text', 'automatic_blocks')
    ORDER BY 1});
my ($reference) = $readme =~ /^### Functions\n(.*?)^### /ms;
my %documented = map { $_ => 1 } map { /`(\w+)\(/g } map { (split /\|/)[1] // '' } split /\n/, $reference;
is(join("\n", sort keys %documented), $functions, 'README.md documents the functions that roles may call');

$node->adjust_conf('postgresql.conf', 'apikeys.max_databases', undef);
$node->restart;
my $settings = $node->safe_psql('readme_md', q{
    SELECT format('| `%s` | `%s` | %s |', name, coalesce(nullif(current_setting(name), ''), quote_literal('')),
        CASE context WHEN 'postmaster' THEN 'restart' WHEN 'sighup' THEN 'reload' ELSE context END)
    FROM pg_settings WHERE name LIKE 'apikeys.%' ORDER BY name COLLATE "C"});
is(join("\n", sort $readme =~ /^(\| `apikeys\.\w+` \| `[^`]+` \| \w+ \|)/mg), $settings, 'README.md documents the settings');

$node->stop;
done_testing();
