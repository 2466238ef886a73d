/*
 * pattern.c
 *	  Fuzzes src/pure/pattern.c: what is found in an origin is a host, and
 *	  naive rules agree about matches.
 */
#include "c.h"

#include <strings.h>

#include "fuzz.h"
#include "pure/pattern.h"

/*
 * A host lies within the origin, is a pattern of itself unless it is an IPv6
 * address, and is found again in a URL made of it.
 */
static void
fuzzOrigin(const char *origin, size_t len)
{
	const char *host;
	size_t host_len;
	const char *again;
	size_t again_len;
	char url[PATTERN_HOST_MAX + 64];
	bool is_v6;
	int url_len;

	if (!PatternOriginHost(origin, len, &host, &host_len))
		return;
	REQUIRE(host >= origin && host + host_len <= origin + len && host_len > 0);
	is_v6 = memchr(host, ':', host_len) != NULL;
	if (is_v6 && host_len > PATTERN_HOST_MAX)
		return;
	REQUIRE(PatternIsValid(host, host_len) == !is_v6);
	REQUIRE(is_v6 || PatternMatchesHost(host, host_len, host, host_len));
	url_len =
		snprintf(url, sizeof(url), is_v6 ? "https://me@[%.*s]:443/?@" : "https://me@%.*s.:443/?@",
				 (int) host_len, host);
	REQUIRE(PatternOriginHost(url, url_len, &again, &again_len));
	REQUIRE(again_len == host_len && memcmp(again, host, host_len) == 0);
}

/*
 * The first byte splits the rest into a pattern and a host; labels are taken
 * off one by one for comparison.
 */
static void
fuzzMatch(const uint8 *bytes, size_t len)
{
	const char *pattern = (const char *) bytes + 1;
	size_t pattern_len;
	const char *host;
	size_t host_len;
	bool expected;

	if (len < 2)
		return;
	pattern_len = bytes[0] % len;
	host = pattern + pattern_len;
	host_len = len - 1 - pattern_len;
	if (!PatternIsValid(pattern, pattern_len) || !PatternIsValid(host, host_len) || *host == '*')
		return;
	if (*pattern == '*')
	{
		expected = false;
		for (const char *dot = memchr(host, '.', host_len); dot != NULL;
			 dot = memchr(dot + 1, '.', host + host_len - dot - 1))
			expected |= (size_t) (host + host_len - dot) == pattern_len - 1 &&
						strncasecmp(dot, pattern + 1, pattern_len - 1) == 0;
	}
	else
		expected = pattern_len == host_len && strncasecmp(pattern, host, host_len) == 0;
	REQUIRE(PatternMatchesHost(pattern, pattern_len, host, host_len) == expected);
}

/* Whether the first bits are equal, one by one. */
static bool
bitsAreEqual(const uint8 *a, const uint8 *b, int bits)
{
	for (int i = 0; i < bits; i++)
	{
		if (((a[i / 8] ^ b[i / 8]) >> (7 - i % 8)) & 1)
			return false;
	}
	return true;
}

/*
 * Compare networks of both families with addresses of both, and with their own.
 */
static void
fuzzNetwork(const uint8 *bytes, size_t len)
{
	static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	const uint8 *network = bytes + 2;
	int network_len;
	int bits;
	int skipped = 0;
	PatternAddress own;
	PatternAddress address;

	if (len < 34)
		return;
	network_len = bytes[0] & 1 ? 16 : 4;
	bits = bytes[1] % (8 * network_len + 1);
	if (network_len == 16 && bits >= 96 && memcmp(network, mapped, 12) == 0)
		skipped = 12;
	PatternAddressSet(&own, network, network_len);
	PatternAddressSet(&address, bytes + 18, bytes[0] & 2 ? 16 : 4);
	REQUIRE(PatternNetworkContains(network, network_len, bits, &own) ==
			(own.len == network_len - skipped));
	REQUIRE(PatternNetworkContains(network, network_len, bits, &address) ==
			(address.len == network_len - skipped &&
			 bitsAreEqual(network + skipped, address.bytes, bits - 8 * skipped)));
}

int
LLVMFuzzerTestOneInput(const uint8 *bytes, size_t len)
{
	fuzzOrigin((const char *) bytes, len);
	fuzzMatch(bytes, len);
	fuzzNetwork(bytes, len);
	return 0;
}
