/*
 * keytext.h
 *	  The text of a key: <prefix>_<locator><secret><checksum>.  Pure C.
 */
#ifndef KEYTEXT_H
#define KEYTEXT_H

#include "c.h"

/* The digits of base62, in GitHub's order. */
#define KEYTEXT_ALPHABET "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define KEYTEXT_BASE 62

#define KEYTEXT_PREFIX_MAX 24
#define KEYTEXT_LOCATOR_LEN 3
#define KEYTEXT_SECRET_LEN 27
#define KEYTEXT_CHECKSUM_LEN 6
#define KEYTEXT_BODY_LEN (KEYTEXT_LOCATOR_LEN + KEYTEXT_SECRET_LEN + KEYTEXT_CHECKSUM_LEN)
#define KEYTEXT_MAX (KEYTEXT_PREFIX_MAX + 1 + KEYTEXT_BODY_LEN)

/*
 * A hint is the prefix, "_", an ellipsis and the last 4 characters.  U+2026
 * takes 3 bytes in UTF-8; where the encoding is another, three dots stand
 * for it.
 */
#define KEYTEXT_HINT_TAIL 4
#define KEYTEXT_ELLIPSIS_LEN 3
#define KEYTEXT_HINT_MAX (KEYTEXT_PREFIX_MAX + 1 + KEYTEXT_ELLIPSIS_LEN + KEYTEXT_HINT_TAIL)

/*
 * A body of which a text shows less than this, and then three dots, is no
 * secret any more: 18 characters of 27 (107 bits) stay unknown.
 */
#define KEYTEXT_CUT_MIN (KEYTEXT_LOCATOR_LEN + 10)

/* Longest key text that is looked at, whatever its shape. */
#define KEYTEXT_PRESENTED_MAX 512

typedef enum KeyTextShape
{
	KEYTEXT_FOREIGN,	  /* not of our shape: an imported key, or none */
	KEYTEXT_BAD_CHECKSUM, /* our shape, wrong checksum */
	KEYTEXT_WELL_FORMED	  /* our shape, right checksum */
} KeyTextShape;

extern bool KeyTextPrefixIsValid(const char *prefix, size_t len);
extern KeyTextShape KeyTextClassify(const char *text, size_t len, size_t *prefix_len);
extern size_t KeyTextCompose(char *out, const char *prefix, size_t prefix_len, uint16 locator,
							 const char *secret);
extern size_t KeyTextHint(char *out, const char *text, size_t len, size_t prefix_len, bool utf8);
extern void KeyTextLocatorEncode(uint16 locator, char *out);
extern int KeyTextLocatorDecode(const char *in);
extern bool KeyTextFind(const char *text, size_t len, size_t from, size_t *body, size_t *body_len);
extern bool KeyTextIsWithin(const char *text, size_t len);
extern size_t KeyTextRedact(char *text, size_t len, bool utf8);

#endif
