/*
 * limittext.c
 *	  Fuzzes src/pure/limittext.c: what is read, written and read again is
 *	  the same set; its text is canonical.
 */
#include "c.h"

#include "fuzz.h"
#include "pure/limittext.h"

static void
fuzzText(const char *input, size_t len)
{
	LimitSet set;
	LimitSet again;
	char error[LIMITTEXT_ERROR_MAX];
	char text[LIMITTEXT_MAX];
	char text_again[LIMITTEXT_MAX];
	size_t text_len;

	if (!LimitTextParse(input, len, &set, error))
	{
		REQUIRE(strlen(error) < LIMITTEXT_ERROR_MAX);
		return;
	}

	text_len = LimitTextFormat(&set, text);
	REQUIRE(text_len == strlen(text) && text_len < LIMITTEXT_MAX);
	REQUIRE(LimitTextParse(text, text_len, &again, error) && again.count == set.count);
	for (int i = 0; i < set.count; i++)
	{
		REQUIRE(again.limits[i].cap == set.limits[i].cap &&
				again.limits[i].window == set.limits[i].window);
		REQUIRE(i == 0 || set.limits[i - 1].window < set.limits[i].window);
	}
	REQUIRE(LimitTextFormat(&again, text_again) == text_len &&
			memcmp(text, text_again, text_len) == 0);
}

/*
 * Read each byte as a word of the grammar, so that most inputs come close to
 * it.
 */
static void
fuzzWords(const uint8 *bytes, size_t len)
{
	static const char *const words[] = {
		"0",	 "1",	  "2",		 "3",		  "4",		 "5",		  "6",	  "7",
		"8",	 "9",	  "/",		 "/",		  ",",		 ", ",		  " ",	  "\t",
		"s",	 "-",	  "second",	 "minute",	  "hour",	 "day",		  "week", "month",
		"total", "/day,", "/total,", " seconds,", " hours,", "4294967295"};
	size_t text_len = 0;
	char *text;

	for (size_t i = 0; i < len; i++)
		text_len += strlen(words[bytes[i] % lengthof(words)]);

	/* Of its exact length, for the address sanitizer. */
	text = malloc(text_len + 1);
	text_len = 0;
	for (size_t i = 0; i < len; i++)
	{
		strcpy(text + text_len, words[bytes[i] % lengthof(words)]);
		text_len += strlen(words[bytes[i] % lengthof(words)]);
	}
	text = realloc(text, text_len);
	fuzzText(text, text_len);
	free(text);
}

int
LLVMFuzzerTestOneInput(const uint8 *bytes, size_t len)
{
	fuzzText((const char *) bytes, len);
	fuzzWords(bytes, len);
	return 0;
}
