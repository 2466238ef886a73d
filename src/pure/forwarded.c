/*
 * forwarded.c
 *	  What proxies say about the addresses that a request came from: headers
 *	  X-Forwarded-For and Forwarded (RFC 7239).
 *
 * Each proxy appends the address that it was called from.  So only what trusted
 * proxies have appended is true, and it stands at the end: a header is read
 * from its end, and no further than to the first address that is not trusted.
 * Quotes are paired from the end too: what a client has sent before cannot
 * change how the rest is read.
 *
 * Pure C: nothing here allocates, throws or knows the server.
 */
#include "c.h"

#include <arpa/inet.h>

#include "pure/forwarded.h"

#define ADDRESS_TEXT_MAX 46 /* with the final zero */
#define PORT_DIGITS_MAX 5

static inline bool
isBlank(char c)
{
	return c == ' ' || c == '\t';
}

static inline bool
isAlnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static void
trim(const char **text, size_t *len)
{
	while (*len > 0 && isBlank((*text)[*len - 1]))
		(*len)--;
	while (*len > 0 && isBlank(**text))
	{
		(*text)++;
		(*len)--;
	}
}

/* Tells whether a text is a port: digits, or "_" and a name (RFC 7239, 6.3). */
static bool
isPort(const char *text, size_t len)
{
	bool named = (len > 0 && text[0] == '_');

	if (len == 0 || (named && len == 1) || (!named && len > PORT_DIGITS_MAX))
		return false;
	for (size_t i = named; i < len; i++)
		if (named ? !isAlnum(text[i]) && text[i] != '.' && text[i] != '_' && text[i] != '-' :
					text[i] < '0' || text[i] > '9')
			return false;
	return true;
}

/* Reads an address without port and brackets, and cuts off the zone. */
static bool
readAddress(const char *text, size_t len, bool is6, PatternAddress *address)
{
	const char *zone = is6 ? memchr(text, '%', len) : NULL;
	char copy[ADDRESS_TEXT_MAX];
	uint8 bytes[16];

	if (zone)
	{
		for (const char *c = zone + 1; c < text + len; c++)
			if (!isAlnum(*c) && strchr("-._~", *c) == NULL)
				return false;
		if (zone + 1 == text + len)
			return false;
		len = zone - text;
	}
	if (len >= sizeof(copy) || memchr(text, '\0', len))
		return false;
	memcpy(copy, text, len);
	copy[len] = '\0';
	if (inet_pton(is6 ? AF_INET6 : AF_INET, copy, bytes) != 1)
		return false;
	PatternAddressSet(address, bytes, is6 ? 16 : 4);
	return true;
}

/*
 * Reads an address that may have a port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1,
 * [2001:db8::1], [2001:db8::1]:80.  False: it is none, such as "unknown".
 */
bool
ForwardedReadNode(const char *text, size_t len, PatternAddress *address)
{
	const char *colon = memchr(text, ':', len);

	if (len > 0 && text[0] == '[')
	{
		const char *end = memchr(text, ']', len);
		size_t behind = end ? text + len - (end + 1) : 0;

		return end && (behind == 0 || (end[1] == ':' && isPort(end + 2, behind - 1))) &&
			   readAddress(text + 1, end - text - 1, true, address);
	}
	if (colon && memchr(colon + 1, ':', text + len - (colon + 1)))
		return readAddress(text, len, true, address);
	if (colon && !isPort(colon + 1, text + len - (colon + 1)))
		return false;
	return readAddress(text, colon ? (size_t) (colon - text) : len, false, address);
}

/* Tells whether the quote at a place is escaped by a backslash. */
static bool
isEscaped(const char *text, size_t at)
{
	size_t from = at;

	while (from > 0 && text[from - 1] == '\\')
		from--;
	return (at - from) % 2 == 1;
}

/*
 * Returns where the last part of a text begins: behind the last separator that
 * stands outside of quotes, or 0.  *open: a quote of it has no other.
 */
static size_t
lastPart(const char *text, size_t len, char separator, bool *open)
{
	size_t at = len;

	*open = false;
	while (at > 0 && (*open || text[at - 1] != separator))
	{
		at--;
		if (text[at] == '"' && !isEscaped(text, at))
			*open = !*open;
	}
	return at;
}

/* Removes the quotes around a text; false: there is one quote, or an escape. */
static bool
unquote(const char **text, size_t *len)
{
	bool quoted = (*len >= 2 && (*text)[0] == '"' && (*text)[*len - 1] == '"');

	if (quoted)
	{
		(*text)++;
		*len -= 2;
	}
	return !memchr(*text, '"', *len) && !memchr(*text, '\\', *len);
}

/*
 * Reads an element: an address, or the pairs of RFC 7239, of which one has the
 * name "for".
 */
static bool
readElement(const char *text, size_t len, PatternAddress *address)
{
	const char *node = NULL;
	size_t node_len = 0;

	if (!memchr(text, '=', len))
	{
		node = text;
		node_len = len;
		len = 0;
	}
	while (len > 0)
	{
		bool open;
		size_t from = lastPart(text, len, ';', &open);
		const char *pair = text + from;
		size_t pair_len = len - from;

		trim(&pair, &pair_len);
		if (open)
			return false;
		if (pair_len >= 4 && pg_strncasecmp(pair, "for=", 4) == 0)
		{
			if (node)
				return false;
			node = pair + 4;
			node_len = pair_len - 4;
		}
		len = from > 0 ? from - 1 : 0;
	}
	return node && unquote(&node, &node_len) && ForwardedReadNode(node, node_len, address);
}

/*
 * Find the client behind the address of the peer, which *address is before and
 * replaced by the client's.  The walk ends at the first address that is not
 * trusted, else before the first element that cannot be read or that begins
 * before the last FORWARDED_BYTES_MAX bytes; empty elements are passed over.
 */
void
ForwardedWalk(const char *header, size_t len, ForwardedIsTrusted is_trusted,
			  PatternAddress *address)
{
	bool cut = (len > FORWARDED_BYTES_MAX);
	const char *start = cut ? header + len - FORWARDED_BYTES_MAX : header;

	len = Min(len, FORWARDED_BYTES_MAX);
	while (len > 0 && is_trusted(address))
	{
		bool open;
		size_t from = lastPart(start, len, ',', &open);
		const char *element = start + from;
		size_t element_len = len - from;
		PatternAddress read;

		trim(&element, &element_len);
		if (open || (cut && from == 0))
			return;
		if (element_len > 0)
		{
			if (!readElement(element, element_len, &read))
				return;
			*address = read;
		}
		len = from > 0 ? from - 1 : 0;
	}
}
