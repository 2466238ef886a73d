/*
 * pattern.c
 *	  Where a request comes from: domains against a key's list, addresses
 *	  against blocks.
 *
 * A pattern is a host name ("example.com") or "*." and a host name, which
 * stands for all names below it, at any depth, but not for the name itself.
 *
 * The origin comes from outside, and what one parser takes for the host another
 * may not ("https://evil.example\@example.com").  So there is no guessing: text
 * that is not plainly an origin, a URL or a host has no host, and matches no
 * pattern.
 *
 * Pure C: nothing here allocates, throws or knows the server.  Hosts are slices
 * of the text that was given.
 */
#include "c.h"

#include "pure/pattern.h"

/* ::ffff:0:0/96, where IPv6 keeps the addresses of IPv4. */
static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

#define MAPPED_BITS (8 * (int) sizeof(mapped))

static inline bool
isDigit(char c)
{
	return c >= '0' && c <= '9';
}

static inline char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

static inline bool
isLetter(char c)
{
	return lower(c) >= 'a' && lower(c) <= 'z';
}

/*
 * Whether two texts of the same length are equal but for the case of ASCII
 * letters.
 */
static bool
equalsIgnoringCase(const char *a, const char *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (lower(a[i]) != lower(b[i]))
			return false;
	}
	return true;
}

/*
 * Whether a text is a host name or an IPv4 address: labels of 1 to 63 letters,
 * digits, "-" and "_" (no name of a host by the book, but in use), joined by
 * ".".  Names in other scripts come as punycode.
 */
static bool
isHostName(const char *text, size_t len)
{
	size_t label_len = 0;

	if (len > PATTERN_HOST_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char c = text[i];

		if (c == '.')
		{
			if (label_len == 0)
				return false;
			label_len = 0;
		}
		else if (!(isLetter(c) || isDigit(c) || c == '-' || c == '_') ||
				 ++label_len > PATTERN_LABEL_MAX)
			return false;
	}
	return label_len > 0;
}

/* Whether a text can be what stands in the brackets of an IPv6 address. */
static bool
isAddress6(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (!(isDigit(text[i]) || (lower(text[i]) >= 'a' && lower(text[i]) <= 'f') ||
			  text[i] == ':' || text[i] == '.'))
			return false;
	}
	return memchr(text, ':', len) != NULL;
}

/*
 * Whether a text can stand before "@": as RFC 3986 has it, "%" taken as it
 * comes.
 */
static bool
isUserInfo(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (!isLetter(text[i]) && !isDigit(text[i]) &&
			(text[i] == '\0' || strchr("-._~%!$&'()*+,;=:", text[i]) == NULL))
			return false;
	}
	return true;
}

/* Whether a text is ":" and a port, or nothing. */
static bool
isPort(const char *text, size_t len)
{
	if (len == 0)
		return true;
	if (text[0] != ':' || len == 1 || len > 6)
		return false;
	for (size_t i = 1; i < len; i++)
	{
		if (!isDigit(text[i]))
			return false;
	}
	return true;
}

/* Length of "scheme://" at the start of a text; 0 if there is none. */
static size_t
measureScheme(const char *text, size_t len)
{
	size_t n = 0;

	while (n < len && (isLetter(text[n]) || (n > 0 && (isDigit(text[n]) || text[n] == '+' ||
													   text[n] == '-' || text[n] == '.'))))
		n++;
	return n > 0 && len - n >= 3 && memcmp(text + n, "://", 3) == 0 ? n + 3 : 0;
}

/*
 * Find the host in an Origin or Referer header, or in a bare "host" or
 * "host:port".  An IPv6 address comes without its brackets, a name without the
 * dot that may end it.  False if there is none: "null", "about:blank", garbage.
 */
bool
PatternOriginHost(const char *origin, size_t len, const char **host, size_t *host_len)
{
	size_t scheme_len = measureScheme(origin, len);
	const char *at = origin + scheme_len;
	const char *end = origin + len;
	const char *stop;
	const char *sign;
	const char *name;

	if (len == 4 && equalsIgnoringCase(origin, "null", 4))
		return false;

	/* The authority ends where path, query or fragment begin. */
	for (stop = at; stop < end && *stop != '/' && *stop != '?' && *stop != '#'; stop++)
		;

	name = at;
	sign = memchr(at, '@', stop - at);
	if (sign != NULL)
	{
		if (scheme_len == 0 || !isUserInfo(at, sign - at))
			return false;
		name = sign + 1;
	}

	if (name < stop && *name == '[')
	{
		const char *bracket = memchr(name, ']', stop - name);

		if (bracket == NULL || !isAddress6(name + 1, bracket - name - 1))
			return false;
		*host = name + 1;
		*host_len = bracket - name - 1;
		return isPort(bracket + 1, stop - bracket - 1);
	}
	else
	{
		const char *colon = memchr(name, ':', stop - name);
		size_t name_len = (colon ? colon : stop) - name;

		if (!isPort(name + name_len, stop - name - name_len))
			return false;
		if (name_len > 0 && name[name_len - 1] == '.')
			name_len--;
		*host = name;
		*host_len = name_len;
		return isHostName(name, name_len);
	}
}

/* Whether a text is a pattern: a host name, or "*." and a host name. */
bool
PatternIsValid(const char *pattern, size_t len)
{
	if (len >= 2 && memcmp(pattern, "*.", 2) == 0)
		return isHostName(pattern + 2, len - 2);
	return isHostName(pattern, len);
}

/*
 * Whether a host, as PatternOriginHost found it, is one of those that a valid
 * pattern stands for.
 */
bool
PatternMatchesHost(const char *pattern, size_t pattern_len, const char *host, size_t host_len)
{
	if (pattern[0] == '*')
	{
		/* The host ends with all after "*", and something comes before. */
		size_t suffix_len = pattern_len - 1;

		return host_len > suffix_len &&
			   equalsIgnoringCase(pattern + 1, host + host_len - suffix_len, suffix_len);
	}
	return host_len == pattern_len && equalsIgnoringCase(pattern, host, host_len);
}

/* Set an address from 4 or 16 bytes; ::ffff:a.b.c.d becomes a.b.c.d. */
void
PatternAddressSet(PatternAddress *address, const uint8 *bytes, int len)
{
	Assert(len == 4 || len == 16);
	if (len == 16 && memcmp(bytes, mapped, sizeof(mapped)) == 0)
	{
		bytes += sizeof(mapped);
		len -= sizeof(mapped);
	}
	memset(address, 0, sizeof(*address));
	address->len = len;
	memcpy(address->bytes, bytes, len);
}

/*
 * Whether a network of 4 or 16 bytes contains an address.  A network within
 * ::ffff:0:0/96 is one of IPv4; a wider one of IPv6 (such as ::/0) contains
 * addresses of IPv6 alone.
 */
bool
PatternNetworkContains(const uint8 *network, int len, int prefix_bits,
					   const PatternAddress *address)
{
	int whole;
	int rest;

	Assert(len == 4 || len == 16);
	Assert(prefix_bits >= 0 && prefix_bits <= 8 * len);
	if (len == 16 && prefix_bits >= MAPPED_BITS && memcmp(network, mapped, sizeof(mapped)) == 0)
	{
		network += sizeof(mapped);
		len -= sizeof(mapped);
		prefix_bits -= MAPPED_BITS;
	}
	if (len != address->len)
		return false;

	whole = prefix_bits / 8;
	rest = prefix_bits % 8;
	return memcmp(network, address->bytes, whole) == 0 &&
		   (rest == 0 || (network[whole] ^ address->bytes[whole]) >> (8 - rest) == 0);
}
