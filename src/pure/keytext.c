/*
 * keytext.c
 *	  The text of a key: <prefix>_<locator><secret><checksum>.
 *
 * The prefix is lower-case letters and digits in groups joined by "_".  Then
 * comes the body, 36 digits of base62: 3 for the locator (16 bits that lead
 * to the shard of the key's account), 27 for the secret, 6 for the checksum.
 * The checksum is GitHub's: CRC-32 (IEEE) of the 30 characters of the body
 * before it, padded with "0" on the left.
 *
 * Besides making and judging single key texts, this file finds them in longer
 * texts, so that logs can show a hint in their place.
 *
 * It is pure C: nothing here allocates, throws or knows the server, so every
 * function can be tested to exhaustion.  Texts come with their length and
 * need not end with a NUL; texts that are made get none.
 */
#include "c.h"

#include "pure/keytext.h"

#define CHECKED_LEN (KEYTEXT_LOCATOR_LEN + KEYTEXT_SECRET_LEN)

static const char alphabet[] = KEYTEXT_ALPHABET;

/* The value of a digit of base62, or -1. */
static inline int
decodeDigit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'Z')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 36;
	return -1;
}

/* Write a number in base62, padded with "0" on the left to the length. */
static void
encodeBase62(uint32 value, char *out, int len)
{
	while (len-- > 0)
	{
		out[len] = alphabet[value % KEYTEXT_BASE];
		value /= KEYTEXT_BASE;
	}
}

/* Count the digits of base62 at the start of a text, up to a maximum. */
static size_t
countDigits(const char *text, size_t max)
{
	size_t n = 0;

	while (n < max && decodeDigit(text[n]) >= 0)
		n++;
	return n;
}

/*
 * CRC-32 (IEEE 802.3, reflected), a byte at a time: what a byte does is what
 * its low and its high half do, added without carry.
 */
static uint32
computeCrc32(const char *bytes, size_t len)
{
	static const uint32 low[16] = {0x00000000, 0x77073096, 0xee0e612c, 0x990951ba,
								   0x076dc419, 0x706af48f, 0xe963a535, 0x9e6495a3,
								   0x0edb8832, 0x79dcb8a4, 0xe0d5e91e, 0x97d2d988,
								   0x09b64c2b, 0x7eb17cbd, 0xe7b82d07, 0x90bf1d91};
	static const uint32 high[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
									0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
									0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
									0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
	uint32 crc = 0xffffffff;

	for (size_t i = 0; i < len; i++)
	{
		uint8 index = crc ^ (uint8) bytes[i];

		crc = (crc >> 8) ^ low[index & 15] ^ high[index >> 4];
	}
	return ~crc;
}

/* Write the checksum that belongs to the 30 characters. */
static void
computeChecksum(const char *checked, char *out)
{
	encodeBase62(computeCrc32(checked, CHECKED_LEN), out, KEYTEXT_CHECKSUM_LEN);
}

/* Whether the 36 characters end with the checksum of those before. */
static bool
checksumIsRight(const char *body)
{
	char checksum[KEYTEXT_CHECKSUM_LEN];

	computeChecksum(body, checksum);
	return memcmp(body + CHECKED_LEN, checksum, KEYTEXT_CHECKSUM_LEN) == 0;
}

/* Write the ellipsis, as the encoding has it. */
static void
writeEllipsis(char *out, bool utf8)
{
	memcpy(out, utf8 ? "\xe2\x80\xa6" : "...", KEYTEXT_ELLIPSIS_LEN);
}

/*
 * Whether a text can be a prefix: [a-z][a-z0-9]*(_[a-z0-9]+)*, at most 24
 * characters.
 */
bool
KeyTextPrefixIsValid(const char *prefix, size_t len)
{
	if (len == 0 || len > KEYTEXT_PREFIX_MAX)
		return false;
	if (prefix[0] < 'a' || prefix[0] > 'z' || prefix[len - 1] == '_')
		return false;
	for (size_t i = 1; i < len; i++)
	{
		char c = prefix[i];

		if (c == '_' ? prefix[i - 1] == '_' : !((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')))
			return false;
	}
	return true;
}

/*
 * Tell the shape of a presented text.  The prefix is everything before the
 * last "_"; its length is set unless the text is foreign.
 */
KeyTextShape
KeyTextClassify(const char *text, size_t len, size_t *prefix_len)
{
	const char *body;
	size_t before;

	if (len < KEYTEXT_BODY_LEN + 2 || len > KEYTEXT_MAX)
		return KEYTEXT_FOREIGN;
	before = len - KEYTEXT_BODY_LEN - 1;
	body = text + before + 1;
	if (text[before] != '_' || !KeyTextPrefixIsValid(text, before) ||
		countDigits(body, KEYTEXT_BODY_LEN) < KEYTEXT_BODY_LEN)
		return KEYTEXT_FOREIGN;
	*prefix_len = before;
	return checksumIsRight(body) ? KEYTEXT_WELL_FORMED : KEYTEXT_BAD_CHECKSUM;
}

/*
 * Write the key text made of a valid prefix, a locator and a secret of 27
 * digits, and return its length, at most KEYTEXT_MAX.
 */
size_t
KeyTextCompose(char *out, const char *prefix, size_t prefix_len, uint16 locator, const char *secret)
{
	char *body = out + prefix_len + 1;

	Assert(KeyTextPrefixIsValid(prefix, prefix_len));
	memcpy(out, prefix, prefix_len);
	out[prefix_len] = '_';
	KeyTextLocatorEncode(locator, body);
	memcpy(body + KEYTEXT_LOCATOR_LEN, secret, KEYTEXT_SECRET_LEN);
	computeChecksum(body, body + CHECKED_LEN);
	return prefix_len + 1 + KEYTEXT_BODY_LEN;
}

/*
 * Write the hint of a key text that has this prefix, and return its length,
 * at most KEYTEXT_HINT_MAX.
 */
size_t
KeyTextHint(char *out, const char *text, size_t len, size_t prefix_len, bool utf8)
{
	char *end = out;

	memcpy(end, text, prefix_len + 1);
	end += prefix_len + 1;
	writeEllipsis(end, utf8);
	end += KEYTEXT_ELLIPSIS_LEN;
	memcpy(end, text + len - KEYTEXT_HINT_TAIL, KEYTEXT_HINT_TAIL);
	end += KEYTEXT_HINT_TAIL;
	return end - out;
}

/* Write a locator as its 3 digits. */
void
KeyTextLocatorEncode(uint16 locator, char *out)
{
	encodeBase62(locator, out, KEYTEXT_LOCATOR_LEN);
}

/* Read a locator from its 3 digits; -1 if it is none. */
int
KeyTextLocatorDecode(const char *in)
{
	int value = 0;

	for (int i = 0; i < KEYTEXT_LOCATOR_LEN; i++)
	{
		int digit = decodeDigit(in[i]);

		if (digit < 0)
			return -1;
		value = value * KEYTEXT_BASE + digit;
	}
	return value <= PG_UINT16_MAX ? value : -1;
}

/*
 * Find the next body of a key in a longer text, at or after an offset: "_" and
 * 36 digits with the right checksum, whatever stands before and after, for it
 * is better to hide too much.  Found too is a body that was cut ("ak_0fK3…"
 * followed by three dots, as logged bind values and COPY lines are), if it
 * shows KEYTEXT_CUT_MIN characters of it.
 *
 * Bodies hold no "_", so they cannot overlap: go on after the end of each.
 */
bool
KeyTextFind(const char *text, size_t len, size_t from, size_t *body, size_t *body_len)
{
	const char *end = text + len;
	const char *at = text + from;

	while (at < end && (at = memchr(at, '_', end - at)) != NULL)
	{
		size_t rest = end - ++at;
		size_t n = countDigits(at, Min(rest, KEYTEXT_BODY_LEN));

		if (n == KEYTEXT_BODY_LEN ?
				checksumIsRight(at) :
				n >= KEYTEXT_CUT_MIN && rest - n >= 3 && memcmp(at + n, "...", 3) == 0)
		{
			*body = at - text;
			*body_len = n;
			return true;
		}
		at += n;
	}
	return false;
}

/*
 * Whether a text has a whole body of a key, as names, contacts and metadata
 * must not.
 */
bool
KeyTextIsWithin(const char *text, size_t len)
{
	size_t body;
	size_t body_len = 0;

	for (size_t from = 0; KeyTextFind(text, len, from, &body, &body_len); from = body + body_len)
		if (body_len == KEYTEXT_BODY_LEN)
			return true;
	return false;
}

/*
 * Put the hint in the place of each key in a text.  The text gets no longer;
 * returns its new length.
 */
size_t
KeyTextRedact(char *text, size_t len, bool utf8)
{
	size_t read = 0;
	size_t written = 0;
	size_t body;
	size_t body_len;

	while (KeyTextFind(text, len, read, &body, &body_len))
	{
		memmove(text + written, text + read, body - read);
		written += body - read;
		read = body + body_len;
		writeEllipsis(text + written, utf8);
		written += KEYTEXT_ELLIPSIS_LEN;
		if (body_len == KEYTEXT_BODY_LEN)
		{
			memmove(text + written, text + read - KEYTEXT_HINT_TAIL, KEYTEXT_HINT_TAIL);
			written += KEYTEXT_HINT_TAIL;
		}
	}
	if (read > 0)
		memmove(text + written, text + read, len - read);
	return written + len - read;
}
