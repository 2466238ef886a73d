/*
 * keytext.h
 *	  The text of a key: <prefix>_<locator><secret><checksum>.  Pure C.
 */
#ifndef KEYTEXT_H
#define KEYTEXT_H

#include "c.h"

#define KEYTEXT_PREFIX_MAX		24
#define KEYTEXT_LOCATOR_LEN		3
#define KEYTEXT_SECRET_LEN		27
#define KEYTEXT_CHECKSUM_LEN	6
#define KEYTEXT_BODY_LEN		(KEYTEXT_LOCATOR_LEN + KEYTEXT_SECRET_LEN + KEYTEXT_CHECKSUM_LEN)
#define KEYTEXT_MAX				(KEYTEXT_PREFIX_MAX + 1 + KEYTEXT_BODY_LEN)

/* A hint is the prefix, "_", an ellipsis (3 bytes of UTF-8) and the last 4 characters. */
#define KEYTEXT_HINT_TAIL		4
#define KEYTEXT_HINT_MAX		(KEYTEXT_PREFIX_MAX + 1 + 3 + KEYTEXT_HINT_TAIL)

/* Longest key text that is looked at, whatever its shape. */
#define KEYTEXT_PRESENTED_MAX	512

typedef enum KeyTextShape
{
	KEYTEXT_FOREIGN,			/* not of our shape: an imported key, or none */
	KEYTEXT_BAD_CHECKSUM,		/* our shape, wrong checksum */
	KEYTEXT_WELL_FORMED			/* our shape, right checksum */
} KeyTextShape;

extern bool KeyTextPrefixIsValid(const char *prefix, size_t len);
extern KeyTextShape KeyTextClassify(const char *text, size_t len, size_t *prefix_len);
extern bool KeyTextFind(const char *text, size_t len, size_t from, size_t *start, size_t *key_len);
extern size_t KeyTextCompose(char *out, const char *prefix, size_t prefix_len, uint16 locator, const char *secret);
extern size_t KeyTextHint(char *out, const char *text, size_t len, size_t prefix_len);
extern void KeyTextLocatorEncode(uint16 locator, char *out);
extern int	KeyTextLocatorDecode(const char *in);

#endif
