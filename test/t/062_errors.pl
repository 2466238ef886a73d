# Errors: docs/reference.md names, for each function, the field and the SQLSTATE of every error that the code can raise, and the HTTP status
# to answer with. What the code can raise is read in the catalog: the calls of refuse() and checked() in a function, and in those that it
# calls. The comments of the functions have the same SQLSTATEs.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use Cwd qw(abs_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $top = abs_path("$FindBin::RealBin/../..");
my $node = server('main');
$node->safe_psql('postgres', 'CREATE EXTENSION apikeys');

# The places in C that raise them: by the symbol of the function that SQL calls.
my %in_c = (
    apikeys_guard_delete => [ '23503 key_id' ],
    apikeys_key_draw => [ '22023 prefix' ],
    apikeys_key_digest => [ '22023 key', '22023 hash_rule' ],
    apikeys_hash_rule_require => [ '22023 hash_rule' ],
    apikeys_import_read => [ '22023 rows' ],
    apikeys_key_explain => [ 'P0002 key_id' ]);
# What triggers raise, of all that they can, for what a function changes; and what refuse() is told by variables.
my @of_plan = ('22023 expires_at', '22023 limits', '22023 billing_type', '22023 products', '53400 max_keys', '23505 products');
my %besides = (
    'apikeys.activate_key' => [ '22023 products', '53400 max_keys', '23505 products', '55000 key_id' ],
    'apikeys.unarchive_key' => [ '23505 alias' ],
    'apikeys.rotate_key' => [ '22023 expires_at', '22023 products', '53400 max_keys', '23505 products', '55000 key_id' ],
    'apikeys.delete_key' => [ '23503 key_id' ],
    'apikeys.assign_product' => [ '23505 products' ],
    'apikeys.update_key' => [
        '23505 alias', '55000 key_id', @of_plan, map { "22023 $_" } qw(alias category active expires_at tier limits allowed_domains allowed_ips scopes billing_type metadata) ],
    'apikeys.update_account' => [ map { "22023 $_" } qw(display_name contact plan limits active metadata) ],
    'apikeys.create_tier' => [ '23502 name', '23502 rank', '23502 limits', '23505 name', '23505 rank' ],
    'apikeys.create_product' => [ '23502 name', '23505 name' ],
    'apikeys.create_plan' => [ '23502 name', '23505 name', '23503 default_tier', map { "23514 $_" } qw(max_keys max_lifetime lifetimes default_lifetime) ],
    'apikeys.create_upgrade_rule' => [ '23503 min_tier' ],
    'apikeys.request_upgrade' => [ '22023 expected_requests', '22023 expected_users' ],
    'apikeys.import_key' => [
        'P0002 name', 'P0002 tier', 'P0002 products', (map { "22023 $_" } qw(name key hash_rule prefix hint alias category tier lifetime products
            allowed_domains allowed_ips scopes metadata)), @of_plan, '23505 digest', '23505 alias', '42501 scopes' ],
    'apikeys_internal.new_expiry' => [ '22023 lifetime', '22023 expires_at' ],
    'apikeys_internal.check_reserved_scopes' => [ '22023 scopes', '42501 scopes' ],
    'apikeys_internal.add_key' => \@of_plan);
# What a function calls for something else than what is in the call: values that are ours, or stored already.
my %apart = (
    create_key => qr/ (display_name|contact|plan|hint|digest)$/, import_key => qr/ (display_name|contact|plan|rows|key_id)$/,
    import_keys => qr/ (name|display_name|contact|plan|metadata)$/, report_leak => qr/ suspended_reason$/,
    copy_key => qr/ (prefix|category|tier|hint|allowed_domains|allowed_ips|scopes|metadata|digest)$|^P0002 products/,
    rotate_key => qr/ prefix$/, my_key => qr/^P0002/, my_limits => qr/^P0002/, my_usage => qr/^P0002/);
# Who may read an account but not change it, by no form; and the setting apikeys.actor.
my $not_of_forms = qr/^42501 name$|^22023 actor$/;

my %state = (serialization_failure => '40001', insufficient_privilege => '42501');

# The arguments of a call whose text begins after its parenthesis.
sub arguments
{
    my ($text) = @_;
    my ($depth, @arguments) = (0, '');
    while ($text =~ /\G('(?:[^']|'')*'|.)/gs)
    {
        my $part = $1;
        $depth++ if $part eq '(' || $part eq '[';
        last if $part eq ')' && $depth == 0;
        $depth-- if $part eq ')' || $part eq ']';
        if ($part eq ',' && $depth == 0) { push @arguments, '' }
        else { $arguments[-1] .= $part }
    }
    s/^\s+|\s+$//g foreach @arguments;
    return @arguments;
}

# raised TEXT: what it raises itself, as 'SQLSTATE field'.
sub raised
{
    my ($text) = @_;
    my @raised;
    while ($text =~ /apikeys_internal\.refuse\((.*)/gs)
    {
        my $rest = $1;
        pos($text) = $-[1];
        my ($code, $place) = arguments($rest);
        my @places = $place =~ /'(?:\w+\.)?(\w+)'/g;
        push @raised, map { ($code =~ /^'(\w{5})'$/ ? $1 : '?????') . " $_" } @places ? @places : '?';
    }
    push @raised, "22023 $1" while $text =~ /apikeys_internal\.checked\('\w+\.(\w+)'/g;
    push @raised, "$state{$1} ?" while $text =~ /RAISE (?!WARNING)(\w+) USING/g;
    return @raised;
}

my %body;
my %symbol;
my %comment;
foreach my $row (split /\x1e/, $node->safe_psql('postgres', q{
    SELECT concat_ws(E'\x1f', concat(p.pronamespace::regnamespace, '.', p.proname), l.lanname, concat(p.prosrc, pg_get_function_sqlbody(p.oid)),
        obj_description(p.oid, 'pg_proc'),
        EXISTS (SELECT FROM unnest(ARRAY['verifier', 'manager', 'portal', 'staff', 'admin', 'auditor', 'scanner']) AS r (role) WHERE has_function_privilege('apikeys_' || r.role, p.oid, 'EXECUTE')))
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace IN ('apikeys'::regnamespace, 'apikeys_internal'::regnamespace)}, extra_params => [ '-R', "\x1e" ]))
{
    my ($name, $language, $text, $description, $called) = split /\x1f/, $row;
    $name =~ s/^\s+//;
    $body{$name} .= $language eq 'c' ? '' : $text;
    push @{ $symbol{$name} }, $text if $language eq 'c';
    $comment{$1} = $description if $called eq 't' && $name =~ /^apikeys\.(\w+)$/;
}

# What a function can raise, with those that it calls.
sub reached
{
    my ($name, $seen) = @_;
    return () if !exists $body{$name} || $seen->{$name}++ || $name =~ /expected_guards$/;
    my @raised = (raised($body{$name}), map { @{ $in_c{$_} // [] } } @{ $symbol{$name} // [] });
    return @raised, @{ $besides{$name} // [] }, map { reached($_, $seen) } $body{$name} =~ /\b(apikeys(?:_internal)?\.\w+)\(/g;
}

my $reference = slurp_file("$top/docs/reference.md");
my %section = $reference =~ /^## (\N+)\n(.*?)(?=^## |\z)/msg;
my %status_of = $section{Errors} =~ /^\| (\w{5}) \| ([\d, ]+) \|/mg;
my %documented;
my @wrong_status;
my $function;
while ($section{Errors} =~ /^\| (?:`(\w+)`)? *\| (\w{5}) \| (\d+) \|(\N*)\|$/mg)
{
    my ($named, $code, $status, $fields) = ($1, $2, $3, $4);
    $function = $named if defined $named;
    push @wrong_status, "$function $code $status" if !grep { $_ eq $status } split /, /, $status_of{$code} // '';
    $documented{$function}{$code}{$_} = 1 foreach '?', $fields =~ /`(\w+)`/g;
}
is("@wrong_status", '', 'the statuses are those of the SQLSTATEs');

my (@missing, %used);
foreach my $name (sort keys %comment)
{
    foreach my $error (reached("apikeys.$name", {}))
    {
        my ($code, $field) = split / /, $error;
        $used{$code} = 1 if $code ne '?????';
        next if $code eq '?????' || $error =~ $not_of_forms || (exists $apart{$name} && $error =~ $apart{$name});
        push @missing, "$name $code $field" if !$documented{$name}{$code}{$field};
    }
}
my %once;
is(join("\n", grep { !$once{$_}++ } @missing), '', 'each field and SQLSTATE that a function can raise is in docs/reference.md');

# codes FUNCTION: those that its comment names.
sub codes
{
    my ($name) = @_;
    my ($errors) = ($comment{$name} // '') =~ /.*Errors:(.*)/s or return ();
    my @codes = $errors =~ /\b(P0002|\d[0-9A-Z]{4})\b/g;
    push @codes, codes($1) if $errors =~ /(?:as|those of) (create_key|verify|complete|reset_usage)\b/;
    return @codes;
}
foreach my $name (sort keys %comment)
{
    my %said = map { $_ => 1 } codes($name);
    is(join(' ', sort keys %{ $documented{$name} // {} }), join(' ', sort keys %said), "$name: its comment has the same SQLSTATEs");
}
is(join(' ', grep { !$status_of{$_} } sort keys %used), '', 'each SQLSTATE has its status');

# In C: each error that a user can cause has its SQLSTATE there, too.
my %macro = (
    INVALID_PARAMETER_VALUE => '22023', INVALID_TEXT_REPRESENTATION => '22P02', INVALID_BINARY_REPRESENTATION => '22P03', FOREIGN_KEY_VIOLATION => '23503',
    NO_DATA_FOUND => 'P0002', CHECK_VIOLATION => '23514', INSUFFICIENT_PRIVILEGE => '42501', CONFIGURATION_LIMIT_EXCEEDED => '53400',
    PROGRAM_LIMIT_EXCEEDED => '54000', OBJECT_NOT_IN_PREREQUISITE_STATE => '55000', LOCK_NOT_AVAILABLE => '55P03', FEATURE_NOT_SUPPORTED => '0A000');
# What only a broken installation can cause.
my %internal = map { $_ => 1 } qw(INTERNAL_ERROR UNDEFINED_SCHEMA UNDEFINED_TABLE UNDEFINED_COLUMN UNDEFINED_OBJECT WRONG_OBJECT_TYPE DATATYPE_MISMATCH
    E_R_I_E_TRIGGER_PROTOCOL_VIOLATED);
my @unknown;
my @unlisted;
foreach my $file (glob "$top/src/*/*.c")
{
    my $source = slurp_file($file);
    push @unlisted, grep { my $field = $_; !grep { / $field$/ } map { @$_ } values %in_c } $source =~ /RefusePlace\("\w+", "(\w+)"/g;
    push @unknown, $1 while $source =~ /ereport\(\s*ERROR,\s*\(?errcode\(ERRCODE_(\w+)\)/g;
}
is(join(' ', grep { !$once{$_}++ && !$internal{$_} && !$status_of{ $macro{$_} // '' } } @unknown), '', 'each SQLSTATE in C has its status');

is("@unlisted", '', 'this test knows the fields that C names');

# What an application gets: SQLSTATE, table, column, constraint, and the hint.
$node->safe_psql('postgres', q{
    CREATE FUNCTION failure(statement text) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        relation text;
        about text;
        broken text;
        advice text;
    BEGIN
        EXECUTE statement;
        RETURN 'none';
    EXCEPTION
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS relation = TABLE_NAME, about = COLUMN_NAME, broken = CONSTRAINT_NAME, advice = PG_EXCEPTION_HINT;
            RETURN concat_ws(' ', SQLSTATE, relation, about, broken, advice);
    END
    $$;
    CREATE ROLE clerk IN ROLE apikeys_staff;
    SELECT apikeys.create_tier('gold', 1), apikeys.create_product('maps'), apikeys.create_plan('small', max_keys => 1), apikeys.create_account('acme', 'small');
    SELECT apikeys.create_key('acme', 'web', limits => '5/day')});
foreach my $case (
    [ q{create_tier('gold', 2)}, '23505 tier name tier_pkey ' ], [ q{create_tier('lead', 1)}, '23505 tier rank tier_rank_key ' ],
    [ q{create_tier(NULL, 3)}, '23502 tier name  ' ], [ q{create_product('maps')}, '23505 product name product_pkey ' ],
    [ q{create_plan('p', default_tier => 'none')}, '23503 plan default_tier plan_default_tier_fkey ' ],
    [ q{create_plan('p', max_keys => -1)}, '23514 plan max_keys plan_max_keys_check ' ],
    [ q{create_upgrade_rule('no', 'none')}, '23503 upgrade_rule min_tier upgrade_rule_min_tier_fkey ' ],
    [ q{create_account('acme')}, '23505 account name account_name_key ' ], [ q{create_account('other', 'none')}, 'P0002 account plan  ' ],
    [ q{create_key('acme', 'web')}, '23505 key alias key_account_id_alias_key ' ], [ q{create_key('acme', tier => 'none')}, 'P0002 key tier  ' ],
    [ q{create_key('acme', expires_at => '2020-01-01')}, '22023 key expires_at  To refuse the key from now on, deactivate it.' ],
    [ q{create_key('acme', prefix => 'P')}, '22023 key prefix  A prefix is groups of lower-case letters and digits joined by _, a letter first, at most 24 characters.' ],
    [ q{suspend_key(find_key('acme', 'web'), '')}, '22023 key suspended_reason key_suspended_reason_check ' ],
    [ q{request_upgrade(find_key('acme', 'web'), 'gold')}, '22023 upgrade_request motivation upgrade_request_motivation_check ' ],
    [ q{request_upgrade(find_key('acme', 'web'), 'gold', 'x', expected_users => -1)}, '22023 upgrade_request expected_users upgrade_request_expected_users_check ' ],
    [ q{block_address('192.0.2.1', ' ')}, '22023 address_block reason address_block_reason_check ' ],
    [ q{log_report('2030-01-01', '2029-01-01')}, '22023  since  ' ],
    # What is refused before a function is called, and what a gateway calls for such a key.
    [ q{verify(E'\xff')}, '22021    ' ], [ q{verify(E'\xc3\x28')}, '22021    ' ], [ q{verify('x', E'GET /\xff')}, '22021    ' ],
    [ q{verify(E'\x00')}, '22021    ' ], [ q{client_address(E'\xff', '192.0.2.1')}, '22021    ' ], [ q{verify('x', ip => 'unknown')}, '22P02    ' ],
    [ q{client_address('', '192.0.2.1:80')}, '22P02    ' ], [ q{verify(NULL, ip => '192.0.2.1')}, 'none' ],
    [ q{create_key('acme', 'two')}, '53400 plan max_keys max_keys Deactivate or delete one of them, or raise max_keys of plan "small".' ],
    [ q{create_key('acme', 'two')}, '53400 plan max_keys max_keys Deactivate or delete one of them.', 'clerk' ])
{
    my ($call, $expected, $role) = @$case;
    (my $statement = "SELECT $call") =~ s/\b(\w+\()/apikeys.$1/g;
    my $found = $node->safe_psql('postgres', ($role ? "SET ROLE $role; " : '') . "SELECT public.failure(\$s\$$statement\$s\$)");
    is($found, $expected, join ' ', $call, $role // ());
}

$node->stop;
done_testing();
