/*
 * forwarded.c
 *	  Tests of src/pure/forwarded.c.
 */
#include "c.h"

#include <arpa/inet.h>

#include "pure/forwarded.h"
#include "unit.h"

/* The proxies are 10.0.0.0/8 and 2001:db8:10::/48. */
static bool
isTrusted(const PatternAddress *address)
{
	static const uint8 network[] = {0x20, 0x01, 0x0d, 0xb8, 0, 0x10};

	return address->len == 4 ? address->bytes[0] == 10 :
							   memcmp(address->bytes, network, sizeof(network)) == 0;
}

static const char *
walkBytes(const char *header, size_t len, const char *peer)
{
	static char text[INET6_ADDRSTRLEN];
	PatternAddress address;

	if (!ForwardedReadNode(peer, strlen(peer), &address))
		return "no peer";
	ForwardedWalk(header, len, isTrusted, &address);
	return inet_ntop(address.len == 4 ? AF_INET : AF_INET6, address.bytes, text, sizeof(text));
}

static const char *
walk(const char *header, const char *peer)
{
	return walkBytes(header, strlen(header), peer);
}

static void
testWalk(void)
{
	const char *rows[][2] = {
		{"", "10.0.0.1"},
		{"192.0.2.1", "192.0.2.1"},
		{"192.0.2.1, 10.0.0.2", "192.0.2.1"},
		{"198.51.100.1, 192.0.2.1,10.0.0.2 ,\t10.0.0.3", "192.0.2.1"},
		{"10.0.0.9, 10.0.0.2", "10.0.0.9"},
		{"192.0.2.1:443", "192.0.2.1"},
		{"192.0.2.1, 10.0.0.2:8080", "192.0.2.1"},
		{"2001:db8::1", "2001:db8::1"},
		{"[2001:db8::1]", "2001:db8::1"},
		{"[2001:db8::1]:443, [2001:db8:10::7]:1", "2001:db8::1"},
		{"fe80::1%eth0", "fe80::1"},
		{"[fe80::1%eth0]:80", "fe80::1"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"192.0.2.1, ::ffff:10.1.1.1", "192.0.2.1"},
		{"192.0.2.1,, , 10.0.0.2,", "192.0.2.1"},
		{"for=192.0.2.1", "192.0.2.1"},
		{"For=\"192.0.2.1:80\";proto=https", "192.0.2.1"},
		{"for=192.0.2.1, proto=http; FOR=\"[2001:db8:10::1]:4711\" ;by=10.0.0.1", "192.0.2.1"},
		{"for=\"[2001:db8::17]:_port\"", "2001:db8::17"},
		{"for=192.0.2.1;host=\"a, b;for=1.1.1.1\", for=10.0.0.2", "192.0.2.1"},
		{"for=192.0.2.1;host=\"a\\\", b\", for=10.0.0.2", "192.0.2.1"},
		{"192.0.2.1, for=10.0.0.2", "192.0.2.1"},
	};

	for (size_t i = 0; i < lengthof(rows); i++)
		CHECK_ROW(rows[i][0], strcmp(walk(rows[i][0], "10.0.0.1"), rows[i][1]) == 0);
	CHECK(strcmp(walk("192.0.2.1", "203.0.113.5"), "203.0.113.5") == 0);
	CHECK(strcmp(walk("192.0.2.1", "::ffff:10.0.0.1"), "192.0.2.1") == 0);
}

/* What cannot be read ends the walk: 192.0.2.1 before it is not believed. */
static void
testUnreadable(void)
{
	const char *elements[] = {"unknown",
							  "_hidden",
							  "for=unknown",
							  "for=_hidden",
							  "for=\"_gazonk\"",
							  "for=",
							  "for=\"\"",
							  "proto=https",
							  "localhost",
							  "192.0.2",
							  "192.0.2.1.1",
							  "192.0.2.01",
							  "0x7f.1",
							  "1",
							  "::1::",
							  "192.0.2.1:",
							  "192.0.2.1:x",
							  "192.0.2.1:123456",
							  "[192.0.2.1]",
							  "[2001:db8::1",
							  "2001:db8::1]",
							  "[2001:db8::1]80",
							  "[2001:db8::1]:",
							  "[2001:db8::1]:_",
							  "[]",
							  "fe80::1%",
							  "fe80::1%a b",
							  "192.0.2.1%eth0",
							  "192.0.2.1/24",
							  "for=10.0.0.7;for=10.0.0.8",
							  "for=\"10.0.0.7",
							  "\"",
							  "for =10.0.0.7",
							  "for= 10.0.0.7",
							  "for=\"10.0.0.\\7\"",
							  "10.0.0.7 10.0.0.8",
							  "=",
							  ";"};

	for (size_t i = 0; i < lengthof(elements); i++)
	{
		char header[200];

		snprintf(header, sizeof(header), "192.0.2.1, %s, 10.0.0.2", elements[i]);
		CHECK_ROW(header, strcmp(walk(header, "10.0.0.1"), "10.0.0.2") == 0);
		snprintf(header, sizeof(header), "192.0.2.1, %s", elements[i]);
		CHECK_ROW(header, strcmp(walk(header, "10.0.0.1"), "10.0.0.1") == 0);
	}
	CHECK(strcmp(walkBytes("10.0.0.7\0x", 10, "10.0.0.1"), "10.0.0.1") == 0);
}

/* Whatever a client sends: what the proxy appends decides. */
static void
testForged(void)
{
	static const char letters[] = "\"\\,;=[]:%._ \tfor10unkw\xff";
	static const char *const appended[] = {"192.0.2.1", "for=192.0.2.1", "for=\"192.0.2.1:80\"",
										   "for=192.0.2.1;host=\"a,b\", for=10.0.0.2"};
	uint32 random = 1;

	for (int run = 0; run < 200000; run++)
	{
		char header[128];
		size_t len;

		random = random * 1664525 + 1013904223;
		len = (random >> 16) % 40;
		for (size_t i = 0; i < len; i++)
		{
			random = random * 1664525 + 1013904223;
			header[i] = letters[(random >> 16) % (sizeof(letters) - 1)];
		}
		snprintf(header + len, sizeof(header) - len, ", %s", appended[run % lengthof(appended)]);
		if (!CHECK_ROW(header, strcmp(walk(header, "10.0.0.1"), "192.0.2.1") == 0))
			return;
		walkBytes(header, len, "10.0.0.1");
	}
}

/* Only the end of a long header is read. */
static void
testLong(void)
{
	size_t len = 1024 * 1024;
	char *header = malloc(len + 1);

	memset(header, ',', len);
	memcpy(header, "192.0.2.1", 9);
	CHECK(strcmp(walkBytes(header, len, "10.0.0.1"), "10.0.0.1") == 0);
	memcpy(header + len - 9, "192.0.2.1", 9);
	CHECK(strcmp(walkBytes(header, len, "10.0.0.1"), "192.0.2.1") == 0);
	memset(header, '\\', len);
	CHECK(strcmp(walkBytes(header, len, "10.0.0.1"), "10.0.0.1") == 0);
	memset(header, '"', len);
	CHECK(strcmp(walkBytes(header, len, "10.0.0.1"), "10.0.0.1") == 0);
	/* What is cut looks like an address. */
	memset(header, ' ', len);
	memcpy(header + len - FORWARDED_BYTES_MAX - 2, "11192.0.2.1", 11);
	CHECK(strcmp(walkBytes(header, len, "10.0.0.1"), "10.0.0.1") == 0);
	free(header);
}

int
main(void)
{
	RUN(testWalk);
	RUN(testUnreadable);
	RUN(testForged);
	RUN(testLong);
	return UnitReport();
}
