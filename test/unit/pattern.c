/*
 * pattern.c
 *	  Tests of src/pure/pattern.c.
 */
#include "c.h"

#include <arpa/inet.h>

#include "pure/pattern.h"
#include "unit.h"

#define LABEL63 "abcdefghijklmnopqrstuvwxyz0123456789-abcdefghijklmnopqrstuvwxyz"
#define NAME253 \
	LABEL63 "." LABEL63 "." LABEL63 "." \
			"abcdefghijklmnopqrstuvwxyz0123456789-abcdefghijklmnopqrstuvwx"

/* Long: a table of cases. */
static void
testOrigins(void)
{
	static const struct
	{
		const char *origin;
		const char *host; /* NULL: none */
	} rows[] = {{"https://example.com", "example.com"},
				{"https://example.com/", "example.com"},
				{"https://Example.COM:8443/a/b?c=d#e", "Example.COM"},
				{"http://example.com?x=http://evil.example", "example.com"},
				{"http://example.com#@evil.example", "example.com"},
				{"http://example.com/@evil.example", "example.com"},
				{"https://example.com.", "example.com"},
				{"https://example.com.:443/", "example.com"},
				{"https://me:secret@example.com/", "example.com"},
				{"https://example.com@evil.example/", "evil.example"},
				{"https://example.com:443@evil.example/", "evil.example"},
				{"https://xn--bcher-kva.example", "xn--bcher-kva.example"},
				{"https://my_app.example.com", "my_app.example.com"},
				{"chrome-extension://abcdefgh/page", "abcdefgh"},
				{"http://localhost:3000", "localhost"},
				{"http://192.0.2.1:80/x", "192.0.2.1"},
				{"http://[2001:db8::1]:8080/x", "2001:db8::1"},
				{"http://[::ffff:192.0.2.1]", "::ffff:192.0.2.1"},
				{"https://null", "null"},
				{"https://" NAME253, NAME253},
				{"https://" NAME253 "./", NAME253},
				/* Bare. */
				{"example.com", "example.com"},
				{"example.com.", "example.com"},
				{"example.com:8080", "example.com"},
				{"example.com/path?u=http://evil.example", "example.com"},
				{"[::1]", "::1"},
				{"[::1]:80", "::1"},
				/* None. */
				{"", NULL},
				{"null", NULL},
				{"NULL", NULL},
				{"/", NULL},
				{"/example.com", NULL},
				{"//example.com", NULL},
				{"://example.com", NULL},
				{"https://", NULL},
				{"https:///example.com", NULL},
				{"https:/example.com", NULL},
				{"file:///etc/passwd", NULL},
				{"about:blank", NULL},
				{"mailto:me@example.com", NULL},
				{"me@example.com", NULL},
				{"data:text/html,example.com", NULL},
				{"javascript://%0aalert(1)", NULL},
				{"*", NULL},
				{"*.example.com", NULL},
				{"https://*.example.com", NULL},
				{" https://example.com", NULL},
				{"https://example.com ", NULL},
				{"https://example.com, https://example.org", NULL},
				{"https://example.com\r\n", NULL},
				{"https://evil.example\\@example.com", NULL},
				{"https://evil.example\\.example.com", NULL},
				{"https://a@b@example.com", NULL},
				{"https://exa mple.com", NULL},
				{"https://ex\xc3\xa4mple.com", NULL},
				{"https://example%2ecom", NULL},
				{"https://example.com%00.evil.example", NULL},
				{"https://.example.com", NULL},
				{"https://example..com", NULL},
				{"https://example.com..", NULL},
				{"https://.", NULL},
				{"https://example.com:", NULL},
				{"https://example.com:80:80", NULL},
				{"https://example.com:8a", NULL},
				{"https://example.com:-1", NULL},
				{"https://example.com:123456", NULL},
				{"https://[::1", NULL},
				{"https://[]", NULL},
				{"https://[example.com]", NULL},
				{"https://[::1]example.com", NULL},
				{"https://[fe80::1%25eth0]", NULL},
				{"https://::1", NULL},
				{"https://" LABEL63 "x.com", NULL},
				{"https://" NAME253 "x", NULL}};

	for (size_t i = 0; i < lengthof(rows); i++)
	{
		const char *host = NULL;
		size_t host_len = 0;
		bool found = PatternOriginHost(rows[i].origin, strlen(rows[i].origin), &host, &host_len);

		if (CHECK_ROW(rows[i].origin, found == (rows[i].host != NULL)) && found)
			CHECK_TEXT(host, host_len, rows[i].host);
	}
	/* A NUL is garbage, in each part. */
	CHECK(!PatternOriginHost("a\0b", 3, &(const char *){NULL}, &(size_t){0}));
	CHECK(!PatternOriginHost("a\0@b", 4, &(const char *){NULL}, &(size_t){0}));
	CHECK(!PatternOriginHost("a:\0"
							 "1",
							 4, &(const char *){NULL}, &(size_t){0}));
	CHECK(!PatternOriginHost("[:\0]", 4, &(const char *){NULL}, &(size_t){0}));
}

static void
testValidPatterns(void)
{
	static const char *const valid[] = {"example.com", "Example.COM", "*.example.com",
										"*.a",		   "localhost",	  "192.0.2.1",
										"a-b.c_d.e",   "xn--p1ai",	  NAME253};
	static const char *const invalid[] = {"",
										  "*",
										  "*.",
										  "*.*",
										  "*.*.com",
										  "*example.com",
										  "www.*.com",
										  "example.*",
										  "**.example.com",
										  ".example.com",
										  "example.com.",
										  "*.example.com.",
										  "example..com",
										  "example.com:80",
										  "https://example.com",
										  "example.com/",
										  "ex ample.com",
										  " example.com",
										  "ex\xc3\xa4mple.com",
										  "[::1]",
										  "::1",
										  LABEL63 "x",
										  NAME253 "x"};

	for (size_t i = 0; i < lengthof(valid); i++)
		CHECK_ROW(valid[i], PatternIsValid(valid[i], strlen(valid[i])));
	for (size_t i = 0; i < lengthof(invalid); i++)
		CHECK_ROW(invalid[i], !PatternIsValid(invalid[i], strlen(invalid[i])));
}

static void
testMatches(void)
{
	static const struct
	{
		const char *pattern;
		const char *host;
		bool matches;
	} rows[] = {{"example.com", "example.com", true},
				{"example.com", "EXAMPLE.com", true},
				{"EXAMPLE.com", "example.COM", true},
				{"example.com", "www.example.com", false},
				{"example.com", "example.co", false},
				{"example.com", "example.comm", false},
				{"example.com", "notexample.com", false},
				{"example.com", "example-com", false},
				{"*.example.com", "example.com", false},
				{"*.example.com", ".example.com", false},
				{"*.example.com", "www.example.com", true},
				{"*.example.com", "a.b.c.example.com", true},
				{"*.Example.com", "WWW.eXAMPLE.COM", true},
				{"*.example.com", "notexample.com", false},
				{"*.example.com", "www.example.org", false},
				{"*.example.com", "www.example.com.evil.example", false},
				{"*.example.com", "com", false},
				/*
		 * Only ASCII letters have two cases: "@" and "`", "[" and "{" differ by
		 * the same bit.
		 */
				{"a-b", "a\rb", false},
				{"a_b",
				 "a\x7f"
				 "b",
				 false}};

	for (size_t i = 0; i < lengthof(rows); i++)
	{
		char row[128];

		snprintf(row, sizeof(row), "%s and %s", rows[i].pattern, rows[i].host);
		CHECK_ROW(row, PatternMatchesHost(rows[i].pattern, strlen(rows[i].pattern), rows[i].host,
										  strlen(rows[i].host)) == rows[i].matches);
	}
}

/* Read an address as inet_pton does; returns its length. */
static int
readAddress(const char *text, uint8 *bytes)
{
	bool is_v6 = strchr(text, ':') != NULL;

	CHECK_ROW(text, inet_pton(is_v6 ? AF_INET6 : AF_INET, text, bytes) == 1);
	return is_v6 ? 16 : 4;
}

static void
testNetworks(void)
{
	static const struct
	{
		const char *network;
		int bits;
		const char *address;
		bool contains;
	} rows[] = {{"192.0.2.1", 32, "192.0.2.1", true},
				{"192.0.2.1", 32, "192.0.2.0", false},
				{"192.0.2.0", 24, "192.0.2.255", true},
				{"192.0.2.0", 24, "192.0.3.0", false},
				{"192.0.2.0", 31, "192.0.2.1", true},
				{"192.0.2.0", 31, "192.0.2.2", false},
				{"192.0.2.128", 25, "192.0.2.127", false},
				{"192.0.2.128", 25, "192.0.2.128", true},
				{"10.0.0.0", 8, "10.255.255.255", true},
				{"10.0.0.0", 8, "11.0.0.0", false},
				{"0.0.0.0", 0, "255.255.255.255", true},
				{"128.0.0.0", 1, "127.255.255.255", false},
				{"128.0.0.0", 1, "128.0.0.0", true},
				{"2001:db8::", 32, "2001:db8:ffff::1", true},
				{"2001:db8::", 32, "2001:db9::", false},
				{"2001:db8::1", 128, "2001:db8::1", true},
				{"2001:db8::1", 128, "2001:db8::", false},
				{"2001:db8::", 61, "2001:db8:0:7::", true},
				{"2001:db8::", 61, "2001:db8:0:8::", false},
				{"::", 0, "2001:db8::1", true},
				/* The two families are apart ... */
				{"0.0.0.0", 0, "::1", false},
				{"::", 0, "192.0.2.1", false},
				{"::", 96, "192.0.2.1", false},
				/* ... but for ::ffff:a.b.c.d, on either side. */
				{"192.0.2.0", 24, "::ffff:192.0.2.9", true},
				{"192.0.2.0", 24, "::ffff:192.0.3.9", false},
				{"::ffff:192.0.2.0", 120, "192.0.2.9", true},
				{"::ffff:192.0.2.0", 120, "192.0.3.9", false},
				{"::ffff:192.0.2.0", 120, "::ffff:192.0.2.9", true},
				{"::ffff:192.0.2.1", 128, "192.0.2.1", true},
				{"::ffff:0.0.0.0", 96, "203.0.113.7", true},
				{"::ffff:0.0.0.0", 96, "::1", false},
				{"::", 0, "::ffff:192.0.2.1", false},
				{"0.0.0.0", 0, "::ffff:192.0.2.1", true},
				/* The obsolete ::a.b.c.d is an address of IPv6. */
				{"192.0.2.1", 32, "::192.0.2.1", false}};

	for (size_t i = 0; i < lengthof(rows); i++)
	{
		uint8 network[16];
		uint8 bytes[16];
		int len = readAddress(rows[i].network, network);
		PatternAddress address;
		char row[128];

		PatternAddressSet(&address, bytes, readAddress(rows[i].address, bytes));
		snprintf(row, sizeof(row), "%s/%d and %s", rows[i].network, rows[i].bits, rows[i].address);
		CHECK_ROW(row,
				  PatternNetworkContains(network, len, rows[i].bits, &address) == rows[i].contains);
	}
}

/* Both spellings of an address are the same memory. */
static void
testAddressesCompare(void)
{
	uint8 bytes[16];
	PatternAddress a;
	PatternAddress b;

	memset(&a, 0x55, sizeof(a));
	memset(&b, 0xaa, sizeof(b));
	PatternAddressSet(&a, bytes, readAddress("192.0.2.1", bytes));
	PatternAddressSet(&b, bytes, readAddress("::ffff:192.0.2.1", bytes));
	CHECK_INT(a.len, 4);
	CHECK(memcmp(&a, &b, sizeof(a)) == 0);
	PatternAddressSet(&b, bytes, readAddress("2001:db8::1", bytes));
	CHECK_INT(b.len, 16);
	CHECK(memcmp(b.bytes, bytes, 16) == 0);
}

int
main(void)
{
	testOrigins();
	testValidPatterns();
	testMatches();
	testNetworks();
	testAddressesCompare();
	return UnitReport();
}
