# Tests the oracle of scripts/soak by logs that are made up: oracle.pl PROGRAM
#
# Times are seconds, with fractions, from an instant.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Test::More;

my $program = shift or die "the path of the oracle?\n";
my $folder  = tempdir(CLEANUP => 1);
my $start   = 800_000_000;
my $W       = 1000;
my $part    = $W / 128;

sub write_file
{
	my ($name, $content) = @_;
	open my $file, '>:raw', "$folder/$name" or die;
	print $file $content;
	close $file or die;
	return "$folder/$name";
}

sub us { return sprintf '%.0f', ($start + $_[0]) * 1_000_000; }

sub id { return pack 'N4', 0x01a00000, 0x7000, 0x80000000, $_[0]; }

sub id_text { return join '-', unpack 'H8 H4 H4 H4 H12', id($_[0]); }

# Runs the oracle on rows, [time, key, outcome, cost, id], whose ids count from
# 1 if none are given, and on journals; returns its figures.  In the rules, a
# time is written as t600.
sub judge
{
	my ($rules, $rows, @journals) = @_;
	my $n      = 0;
	my $binary = "PGCOPY\n\xff\r\n\0" . pack 'N2', 0, 0;
	my %outcomes = (other => 0, admitted => 1, denied => 2);
	for my $row (@$rows)
	{
		my ($at, $key, $outcome, $cost, $id) = @$row;
		$n++;
		$binary .= pack 'n N q> N q> N q> N a16 N N N N', 6, 8, us($at), 8, $key,
			8, 9, 16, id($id // $n), 4, $cost // 1, 4, $outcomes{$outcome};
	}
	write_file('rows', $binary . pack 'n', 0xffff);
	$rules =~ s/\bt([0-9.]+)/us($1)/ge;
	my $file = write_file('rules', "N 1 keys\nS k 1 0 1\nS k 2 1 1\nS a 9 2 0\n$rules\n");
	my @files = map { write_file("journal.$_", $journals[$_]) } 0 .. $#journals;
	my $output = `$program $file @files <$folder/rows 2>$folder/faults`;
	die "the oracle fails: $rules" if $?;
	return { $output =~ /^(\w+)=(.*)$/mg };
}

# The same for key 1 with these limits; nothing else has any.
sub judge_key
{
	my ($limits, @rows) = @_;
	return judge(versions("V 0 0 t9000000 $limits"), [ map { [ $_->[0], 1, @$_[ 1, 2 ] ] } @rows ]);
}

# Adds to rules what they do not tell: sources 0 (key 1), 1 (key 2) and 2
# (their account) have no limits.
sub versions
{
	my ($given) = @_;
	return join "\n", $given, map { $given =~ /^V $_ /m ? () : "V $_ 0 t9000000" } 0 .. 2;
}

sub found
{
	my ($figures, $expected, $what) = @_;
	my %some = map { $_ => $figures->{$_} } keys %$expected;
	is_deeply(\%some, $expected, $what);
	return;
}

my @two = ([ 0, 'admitted' ], [ 500, 'admitted' ]);

# More than the cap
found(judge_key("2/$W", @two, [ $W, 'admitted' ]), { over => 1, admitted => 3 }, 'both ends belong to a window');
found(judge_key("2/$W", @two, [ $W + 0.000001, 'admitted' ]), { over => 0 }, 'what is older does not belong to it');
found(judge_key('2/5', [ 0, 'admitted' ], [ 1, 'admitted' ], [ 5, 'admitted' ]),
	{ over => 0 }, 'windows of odd length: a microsecond may be missing');
found(judge_key('2/5', [ 0, 'admitted' ], [ 1, 'admitted' ], [ 4.999999, 'admitted' ]),
	{ over => 1 }, 'windows of odd length: but no more');
found(judge_key("2/$W", [ 0, 'admitted', 3 ]), { over => 1 }, 'units count, not requests');
found(judge_key("2/$W", @two, [ 600, 'denied', 9 ], [ 601, 'other', 9 ], [ 602, 'admitted', 0 ]),
	{ over => 0 }, 'requests that took no units do not count');
found(judge_key("1/$W", [ 0, 'admitted' ], [ 0, 'admitted' ]), { over => 2 }, 'rows of one instant count for each other');
found(judge_key('2/0', @two, [ 5_000_000, 'admitted' ]), { over => 1 }, 'the window of a total has no end');
found(judge_key("9/$W 1/5", [ 0, 'admitted' ], [ 1, 'admitted' ]), { over => 1 }, 'the second limit holds');
found(judge_key("1/5 9/$W", [ 0, 'admitted' ], [ 1, 'admitted' ]), { over => 1 }, 'and the first');

# Denials
sub denied
{
	return denied_after(500, @_);
}

# After a unit at 0 and one at that time.
sub denied_after
{
	my ($last, $at, $limits) = @_;
	my $figures = judge_key($limits // "2/$W", [ 0, 'admitted' ], [ $last, 'admitted' ], [ $at, 'denied' ]);
	return join ' ', map { "$_ $figures->{$_}" } grep { $figures->{$_} > 0 } qw(late step unjust);
}
is(denied(501),                                '',         'two units count');
is(denied($W),                                 '',         'to the end of the window');
is(denied($W + 0.000001),                      'late 1',   'but no longer');
is(denied($W + $part + 1),                     'late 1',   'late by W/128 and a second');
is(denied($W + $part + 1.00001),               'step 1',   'later: perhaps by a stored step');
is(denied($W + $part + 301),                   'step 1',   'by its length at most');
is(denied($W + $part + 301.00001),             'unjust 1', 'and by no more');
is(denied($W + 300, "1/$W"),                   '',         'the second unit alone is too much');
is(denied($W + 500 + $part + 1.00001, "1/$W"), 'unjust 1', 'no step: nothing was used within the window');
is(denied(501, "3/$W"),                        'unjust 1', 'there has always been room');
is(denied(501, "3/$W 2/0"),                    '',         'but not by the second limit');
is(denied_after(200, 1200 + $part),            'step 1',   'a step, as long as the last use counts');
is(denied_after(200, 1200 + $part + 0.00001),  'unjust 1', 'and no longer');
for ([ 172_800, 3_600 ], [ 7_776_000, 86_400 ])
{
	my ($window, $step) = @$_;
	my $end = $window + $window / 128 + 1 + $step;
	is(denied_after($window / 2, $end,           "2/$window"), 'step 1',   'a long window has longer steps');
	is(denied_after($window / 2, $end + 0.00001, "2/$window"), 'unjust 1', 'but no longer ones');
}
is(denied(501, '2/200000'),                    '',         'a long window');
is(denied(501, ''),                            'unjust 1', 'no limit at all');
found(judge_key("2/$W", @two, [ $W - 1, 'denied', 0 ]),
	{ unjust => 0, limited => 1 }, 'a request without cost needs room for one unit');
found(judge_key("2/$W", @two, [ $W + $part + 0.5, 'denied' ]), { late => 1, late_worst => '0.500000' }, 'how late');

# In a run, units used since its start come back in time.
my @late = map { [ $_->[0], 1, $_->[1] ] } @two, [ $W + $part + 100, 'denied' ];
found(judge(versions("V 0 0 t9000000 2/$W\nR t0 t2000"), \@late), { unjust => 1, limited_in_runs => 1 }, 'since the start of a run');
found(judge(versions("V 0 0 t9000000 2/$W\nR t1 t2000"), \@late), { step => 1, limited_in_runs => 1 }, 'before it');
found(judge(versions("V 0 0 t9000000 2/$W\nR t0 t1000"), \@late), { step => 1, limited_in_runs => 0 }, 'after its end');
found(judge(versions("V 0 0 t1 2/$W\nV 0 t0 t9000000 2/$W\nR t0 t2000"), \@late), { step => 1 }, 'with changed limits');

# Changed limits: until 600 those before, from 500 on those after.
sub changed
{
	my ($before, $after, $at, $outcome, $cost) = @_;
	my $figures =
		judge(versions("V 0 0 t600 $before/$W\nV 0 t500 t9000000 $after/$W"), [ [ 0, 1, 'admitted' ], [ $at, 1, $outcome, $cost ] ]);
	return $figures->{over} + $figures->{unjust};
}
is(changed(1, 2, 499, 'admitted'), 1, 'before a change the old limits hold');
is(changed(1, 2, 500, 'admitted'), 0, 'meanwhile the new ones may');
is(changed(1, 2, 600, 'denied'),   0, 'or the old ones');
is(changed(1, 2, 601, 'denied'),   1, 'after it the new ones');
is(changed(2, 1, 600, 'admitted'), 0, 'a lower cap: meanwhile the old one may hold');
is(changed(2, 1, 500, 'denied'),   0, 'or the new one');
is(changed(2, 1, 601, 'admitted'), 1, 'after it the new one');
is(changed(2, 0, 601, 'admitted', 0), 0, 'a request that takes no units is never over');

# Resets and grants
sub adjusted
{
	my ($line, $limits, @rows) = @_;
	my $figures = judge(versions("V 0 0 t9000000 $limits") . "\n$line", [ map { [ $_->[0], 1, @$_[ 1, 2 ] ] } @rows ]);
	return $figures->{over} + $figures->{unjust};
}
for my $seconds (0, $W)
{
	my $reset = "A k 1 $seconds t600 t700 2";
	is(adjusted($reset, "2/$seconds", @two, [ 599, 'admitted' ]), 1, 'before a reset');
	is(adjusted($reset, "2/$seconds", @two, [ 600, 'admitted' ]), 0, 'in between, it may have been made');
	is(adjusted($reset, "2/$seconds", @two, [ 699, 'denied' ]),   0, 'or not');
	is(adjusted($reset, "2/$seconds", @two, [ 700, 'denied' ]),   1, 'after a reset');
	is(adjusted($reset, "2/$seconds", @two, [ 700, 'admitted', 2 ], [ 701, 'denied' ]), 0, 'later units count: denied with reason');
	is(adjusted($reset, "2/$seconds", @two, [ 700, 'admitted', 2 ], [ 701, 'admitted' ]), 1, 'later units count: over');
	is(adjusted("A k 1 77 t600 t700 2", "2/$seconds", @two, [ 800, 'admitted' ]), 1, 'a reset for another window has no effect');
	is(adjusted("A a 9 $seconds t600 t700 2", "2/$seconds", @two, [ 800, 'admitted' ]), 1, 'nor has one of the account');
	is(adjusted("A k 1 $seconds t600 t700 4", "2/$seconds", @two, [ 800, 'admitted' ]), 1, 'nor has one of more units than were used');

	my $grant = "G k 1 $seconds t600 t700 1 t900";
	my $less  = "G k 1 $seconds t100 t200 1 t900\nG k 1 $seconds t600 t700 -1 t900";
	is(adjusted($grant, "2/$seconds", @two, [ 599, 'admitted' ]), 1, 'before a grant');
	is(adjusted($grant, "2/$seconds", @two, [ 600, 'admitted' ]), 0, 'it may have been made');
	is(adjusted($grant, "2/$seconds", @two, [ 699, 'denied' ]),   0, 'or not');
	is(adjusted($grant, "2/$seconds", @two, [ 700, 'denied' ]),   1, 'after a grant');
	is(adjusted($grant, "2/$seconds", @two, [ 700, 'admitted', 2 ]), 1, 'of one unit');
	is(adjusted($grant, "2/$seconds", @two, [ 899, 'denied' ]),   1, 'until it ends');
	is(adjusted($grant, "2/$seconds", @two, [ 900, 'denied' ]),   0, 'then the cap is as before: denied with reason');
	is(adjusted($grant, "2/$seconds", @two, [ 900, 'admitted' ]), 1, 'then the cap is as before: over');
	is(adjusted($less, "2/$seconds", @two, [ 599, 'denied' ]),   1, 'before granted units are taken back');
	is(adjusted($less, "2/$seconds", @two, [ 600, 'denied' ]),   0, 'in between, they may have been taken back');
	is(adjusted($less, "2/$seconds", @two, [ 699, 'admitted' ]), 0, 'or not');
	is(adjusted($less, "2/$seconds", @two, [ 700, 'admitted' ]), 1, 'after that');
	is(adjusted("G k 1 $seconds t0 t1 -1 t900", "2/$seconds", @two), 0, 'the cap itself is not lowered');
}

# An account's limits count its keys together.
my $account = versions("V 2 0 t9000000 1/$W");
found(judge($account, [ [ 0, 1, 'admitted' ], [ 1, 2, 'admitted' ] ]), { over => 1 }, 'an account counts all its keys');
found(judge($account, [ [ 0, 1, 'admitted' ], [ 1, 2, 'denied' ] ]), { unjust => 0 }, 'so one key can be denied because of the other');
found(judge(versions("V 0 0 t9000000 1/$W"), [ [ 0, 1, 'admitted' ], [ 1, 2, 'admitted' ] ]), { over => 0 }, 'a key counts its own units: admitted');
found(judge(versions("V 0 0 t9000000 1/$W"), [ [ 0, 1, 'admitted' ], [ 1, 2, 'denied' ] ]), { unjust => 1 }, 'a key counts its own units: denied');

# What clients were told.  The log has requests 1 to 4.
sub told
{
	my (@lines) = @_;
	my $journal = join '', map { /^=/ ? "$_\n" : id_text($_) . "\tvalid\n" } @lines;
	my $figures = judge(versions(''), [ map { [ $_, 1, 'admitted' ] } 1 .. 4 ], $journal);
	return join ' ', map { "$_ $figures->{$_}" } grep { $figures->{$_} > 0 } qw(told lost missing untold unknown);
}
is(told('= b 4', 1 .. 4, '= done'), 'told 4', 'all is in the log');
is(told(1 .. 4, 5, 6, '= x crash'), 'told 6 lost 2', 'a crash loses what was told last');
is(told(1 .. 3, 5, 4, '= x crash'), 'told 5 missing 1', 'and nothing else');
is(told(1 .. 4, '= s on', 5, '= x crash'),           'told 5 missing 1',        'a synchronous one is not lost');
is(told(1 .. 4, '= s on', '= s off', 5, '= x crash'), 'told 5 lost 1',           'an asynchronous one may be');
is(told(1 .. 4, 5, '= x stop'),                      'told 5 missing 1',        'a stop loses nothing');
is(told(1 .. 4, 5),                                  'told 5 missing 1',        'without a crash nothing is lost');
is(told(1, 2, 5, '= x crash', 3, 4),                 'told 5 lost 1',           'later requests are in the log again');
is(told('= b 4', 1, 2, '= x stop'),                  'told 2 untold 2 unknown 2', 'a call that was interrupted');
is(told('= b 2', 1, 2, '= x stop'),                  'told 2 untold 2',         'requests in the log that nobody made');

found(judge(versions(''), [ [ 1, 1, 'admitted' ] ], id_text(1) . "\tvalid\n\\N\toverloaded\n"),
	{ told => 1, unrecorded => 1, duplicates => 0 }, 'an answer without a record');
found(judge(versions(''), [ [ 1, 1, 'admitted', 1, 7 ], [ 2, 1, 'denied', 1, 8 ], [ 3, 1, 'admitted', 1, 7 ] ]),
	{ duplicates => 1 }, 'one id twice');

done_testing();
