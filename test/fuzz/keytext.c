/*
 * keytext.c
 *	  Fuzzes src/pure/keytext.c: shapes agree with composition, and redaction
 *	  leaves no key.
 */
#include "c.h"

#include "fuzz.h"
#include "pure/keytext.h"

/* A text is well formed if, and only if, composing its parts gives it back. */
static void
fuzzClassify(const char *text, size_t len)
{
	char composed[KEYTEXT_MAX];
	size_t prefix_len;
	KeyTextShape shape = KeyTextClassify(text, len, &prefix_len);
	int locator;

	if (shape == KEYTEXT_FOREIGN)
		return;
	REQUIRE(KeyTextPrefixIsValid(text, prefix_len));
	REQUIRE(len == prefix_len + 1 + KEYTEXT_BODY_LEN);
	locator = KeyTextLocatorDecode(text + prefix_len + 1);
	if (locator < 0)
		return; /* 3 digits beyond 16 bits: never composed */
	REQUIRE(KeyTextCompose(composed, text, prefix_len, locator,
						   text + prefix_len + 1 + KEYTEXT_LOCATOR_LEN) == len);
	REQUIRE((memcmp(composed, text, len) == 0) == (shape == KEYTEXT_WELL_FORMED));
}

/*
 * Put a key made of the first bytes somewhere into the rest: wherever it is,
 * redaction hides it, and what is left holds no key.
 */
static void
fuzzRedact(const uint8 *bytes, size_t len)
{
	enum
	{
		header_len = 3 + KEYTEXT_SECRET_LEN
	};
	char secret[KEYTEXT_SECRET_LEN];
	char key[KEYTEXT_MAX];
	size_t key_len;
	size_t at;
	size_t text_len;
	size_t redacted_len;
	size_t body;
	size_t body_len;
	char *text;

	if (len < header_len)
		return;
	for (int i = 0; i < KEYTEXT_SECRET_LEN; i++)
		secret[i] = KEYTEXT_ALPHABET[bytes[3 + i] % KEYTEXT_BASE];
	key_len = KeyTextCompose(key, "ak", 2, bytes[0] << 8 | bytes[1], secret);
	at = bytes[2] % (len - header_len + 1);
	text_len = len - header_len + key_len;

	/* Of its exact length, for the address sanitizer. */
	text = malloc(text_len);
	memcpy(text, bytes + header_len, at);
	memcpy(text + at, key, key_len);
	memcpy(text + at + key_len, bytes + header_len + at, len - header_len - at);

	REQUIRE(KeyTextFind(text, text_len, 0, &body, &body_len));
	redacted_len = KeyTextRedact(text, text_len, bytes[0] & 1);
	REQUIRE(redacted_len <= text_len - KEYTEXT_BODY_LEN + KEYTEXT_ELLIPSIS_LEN + KEYTEXT_HINT_TAIL);
	REQUIRE(memmem(text, redacted_len, key, key_len) == NULL);
	REQUIRE(!KeyTextFind(text, redacted_len, 0, &body, &body_len));
	free(text);
}

int
LLVMFuzzerTestOneInput(const uint8 *bytes, size_t len)
{
	fuzzClassify((const char *) bytes, len);
	fuzzRedact(bytes, len);
	return 0;
}
