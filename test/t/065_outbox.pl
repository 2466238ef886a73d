# docs/notices.md: its two programs, with a receiver of webhooks and a mail server that fail at first. Nothing is lost, what was not confirmed comes
# again, and signatures are right.
use strict;
use warnings;
use Digest::SHA 'hmac_sha256_base64';
use FindBin;
use lib $FindBin::RealBin;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Server;

my $node = server('main', "timezone = 'UTC'");
my $page = slurp_file("$FindBin::RealBin/../../docs/notices.md");
my $folder = PostgreSQL::Test::Utils::tempdir();
value('CREATE EXTENSION apikeys');
my ($login, $register) = $page =~ /^```sql\n(.*?)^```/msg;
value($login);
value($register);
my ($webhooks, $mailer) = map { my $file = "$folder/" . length; append_to_file($file, $_); $file } $page =~ /^```python\n(.*?)^```/msg;

# A server that handles one connection after the other in a child process; what it gets is appended to a file.
my @children;
sub receiver
{
    my ($handle) = @_;
    my $socket = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', ReuseAddr => 1) or BAIL_OUT("no socket: $!");
    my $child = fork;
    if ($child == 0)
    {
        for (my $n = 0; my $client = $socket->accept; $n++)
        {
            $handle->($client, $n);
            close $client;
        }
        POSIX::_exit(0);
    }
    push @children, $child;
    return '127.0.0.1:' . $socket->sockport;
}

# The first three requests fail.
my $hook = receiver(sub {
    my ($client, $n) = @_;
    my %header;
    while (defined(my $line = <$client>))
    {
        last if $line =~ /^\r?\n$/;
        $header{ lc $1 } = $2 if $line =~ /^([\w-]+): (.*?)\r?\n/;
    }
    read $client, my $body, $header{'content-length'};
    append_to_file("$folder/posted", encode_json({ id => $header{'webhook-id'}, at => $header{'webhook-timestamp'}, signature => $header{'webhook-signature'}, body => $body }) . "\n");
    print $client $n < 3 ? "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n" : "HTTP/1.1 204 No Content\r\n\r\n";
});
# The first connection fails.
my $mails = receiver(sub {
    my ($client, $n) = @_;
    print $client $n == 0 ? "421 busy\r\n" : "220 ready\r\n";
    my ($data, $text) = (0, '');
    while (defined(my $line = <$client>))
    {
        if ($data)
        {
            $text .= $line;
            next if $line ne ".\r\n";
            append_to_file("$folder/mailed", $text);
            $data = 0;
            print $client "250 sent\r\n";
        }
        elsif ($line =~ /^DATA/i) { $data = 1; print $client "354 go on\r\n" }
        elsif ($line =~ /^QUIT/i) { print $client "221 bye\r\n"; last }
        else { print $client "250 fine\r\n" }
    }
});
sub lines
{
    my ($name) = @_;
    return -e "$folder/$name" ? split /^/m, slurp_file("$folder/$name") : ();
}

# Times move by the clock of the extension: of this login alone.
my $conninfo = $node->connstr('postgres') . ' user=notifier';
sub consumer
{
    my ($program, @arguments) = @_;
    return IPC::Run::start([ 'python3', $program, $conninfo, @arguments ], '<', \undef, '>', \my $out, '2>', \my $err);
}
value(q{SELECT apikeys.create_account('acme', contact => 'jane@acme.example')});
my $key_id = value(q{SELECT key_id FROM apikeys.create_key('acme', 'web')});
value(qq{SELECT apikeys.suspend_key($key_id, 'unpaid')});
my $sender = consumer($webhooks, "http://$hook/hook", 'a secret');
wait_until(sub { scalar(lines('posted')) >= 2 });
is(value(q{SELECT string_agg(DISTINCT attempts::text, ' ') FROM apikeys.notice_delivery WHERE consumer = 'webhooks'}), '1', 'what failed is not confirmed');
value(q{UPDATE apikeys.notice_delivery SET leased_until = '-infinity' WHERE consumer = 'webhooks'});
wait_until(sub { value(q{SELECT count(*) FROM apikeys.notice_delivery WHERE consumer = 'webhooks'}) eq '1' });
value(q{UPDATE apikeys.notice_delivery SET leased_until = '-infinity' WHERE consumer = 'webhooks'});
wait_until(sub { value(q{SELECT count(*) FROM apikeys.notice_delivery WHERE consumer = 'webhooks'}) eq '0' });
my @posted = map { decode_json($_) } lines('posted');
my %delivered = map { $_->{id} => decode_json($_->{body}) } @posted;
is(join(' ', map { $delivered{$_}{kind} } sort { $a <=> $b } keys %delivered), 'created suspended', 'both came in the end');
is(scalar(@posted), 5, 'with the attempts that failed');
is($posted[-1]{signature}, 'v1,' . hmac_sha256_base64("$posted[-1]{id}.$posted[-1]{at}.$posted[-1]{body}", 'a secret') . '=', 'the signature is that of Standard Webhooks');
is($delivered{ $posted[-1]{id} }{details}{alias}, 'web', 'the details are there');
$sender->kill_kill;

# The program ends where the mail server fails; started again, it goes on.
my $first = consumer($mailer, $mails);
$first->finish;
is($first->result(0), 1, 'the mailer ends when the mail server fails');
is(value(q{SELECT count(*) FROM apikeys.notice_delivery WHERE consumer = 'mailer'}), '1', 'its notice waits; the other was for nobody');
value(q{UPDATE apikeys.notice_delivery SET leased_until = '-infinity' WHERE consumer = 'mailer'});
my $second = consumer($mailer, $mails);
wait_until(sub { value(q{SELECT count(*) FROM apikeys.notice_delivery WHERE consumer = 'mailer'}) eq '0' });
my $mailed = join '', lines('mailed');
like($mailed, qr/^To: jane\@acme\.example\r$/m, 'the mail goes to the contact of the account');
like($mailed, qr/^Your key web was suspended\.\r$/m, 'and says what happened');
is(() = $mailed =~ /^Message-ID:/mg, 1, 'once');
# A notice wakes the program, which listens.
value(qq{SELECT apikeys.unsuspend_key($key_id); SELECT apikeys.suspend_key($key_id, 'again')});
wait_until(sub { (() = join('', lines('mailed')) =~ /^Message-ID:/mg) == 2 });
pass('the next notice is mailed, too');
$second->kill_kill;
kill 'KILL', @children;
$node->stop;
done_testing();
