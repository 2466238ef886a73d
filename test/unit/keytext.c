/*
 * keytext.c
 *	  Tests of src/pure/keytext.c.
 */
#include "c.h"

#include "pure/keytext.h"
#include "unit.h"

/* Published examples of GitHub's rule. */
static const char *const github[] = {"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",
									 "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",
									 "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"};

static KeyTextShape
classify(const char *text)
{
	size_t prefix_len;

	return KeyTextClassify(text, strlen(text), &prefix_len);
}

static void
testPrefixes(void)
{
	static const char *const valid[] = {"a",
										"ak",
										"z9",
										"sk_live",
										"a_0",
										"a_b_c",
										"abcdefghijklmnopqrstuvwx",
										"a23456789_123456789_1234"};
	static const char *const invalid[] = {"",
										  "_",
										  "9a",
										  "_a",
										  "a_",
										  "a__b",
										  "A",
										  "aK",
										  "a-b",
										  "a.b",
										  "a b",
										  "\xc3\xa4",
										  "abcdefghijklmnopqrstuvwxy"};

	for (size_t i = 0; i < lengthof(valid); i++)
		CHECK_ROW(valid[i], KeyTextPrefixIsValid(valid[i], strlen(valid[i])));
	for (size_t i = 0; i < lengthof(invalid); i++)
		CHECK_ROW(invalid[i], !KeyTextPrefixIsValid(invalid[i], strlen(invalid[i])));
}

static void
testGithub(void)
{
	for (size_t i = 0; i < lengthof(github); i++)
	{
		size_t prefix_len = 0;

		CHECK_ROW(github[i], KeyTextClassify(github[i], 40, &prefix_len) == KEYTEXT_WELL_FORMED);
		CHECK_INT(prefix_len, 3);
	}
}

/*
 * Each body character changed to each other digit: 36 x 61 texts, none of them
 * well formed.
 */
static void
testSingleChanges(void)
{
	for (size_t k = 0; k < lengthof(github); k++)
	{
		for (size_t i = 4; i < 40; i++)
		{
			for (const char *digit = KEYTEXT_ALPHABET; *digit; digit++)
			{
				char changed[41];

				memcpy(changed, github[k], sizeof(changed));
				if (changed[i] == *digit)
					continue;
				changed[i] = *digit;
				CHECK_ROW(changed, classify(changed) == KEYTEXT_BAD_CHECKSUM);
			}
		}
	}
}

/* Two neighbours that change places are noticed too. */
static void
testSwaps(void)
{
	for (size_t k = 0; k < lengthof(github); k++)
	{
		for (size_t i = 4; i < 39; i++)
		{
			char swapped[41];

			memcpy(swapped, github[k], sizeof(swapped));
			if (swapped[i] == swapped[i + 1])
				continue;
			swapped[i] = github[k][i + 1];
			swapped[i + 1] = github[k][i];
			CHECK_ROW(swapped, classify(swapped) == KEYTEXT_BAD_CHECKSUM);
		}
	}
}

static void
testForeign(void)
{
	static const char *const foreign[] = {
		"",
		"_",
		"ak_",
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr",	 /* no prefix */
		"_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr", /* an empty one */
		"Ak_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr",
		"9_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr",
		"ak__AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr",
		"abcdefghijklmnopqrstuvwxy_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr", /* 25 */
		"ak-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr",
		"ak_AAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr",	/* 35 */
		"ak_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr", /* 37 */
		"ak_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr ",
		" ak_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr",
		"ak_AAAAAAAAAAAAAA-AAAAAAAAAAAAAAA0uCPlr",
		"ak_AAAAAAAAAAAAAA_AAAAAAAAAAAAAAA0uCPlr",
		"ak_AAAAAAAAAAAAAA\xc3\xa4"
		"AAAAAAAAAAAAAA0uCPlr"};

	for (size_t i = 0; i < lengthof(foreign); i++)
		CHECK_ROW(foreign[i], classify(foreign[i]) == KEYTEXT_FOREIGN);
	/* A NUL inside is no digit. */
	CHECK(KeyTextClassify("ak_AAAAAAAAAAAAAA\0AAAAAAAAAAAAAAA0uCPlr", 39, &(size_t){0}) ==
		  KEYTEXT_FOREIGN);
}

/*
 * What is composed is well formed and gives back its parts, for every locator.
 */
static void
testRoundTrips(void)
{
	static const char *const prefixes[] = {"a", "ak", "sk_live", "a23456789_123456789_1234"};
	const char *secret = "Zz0123456789ABCDEFGHIJabcde";

	for (int locator = 0; locator <= PG_UINT16_MAX; locator++)
	{
		const char *prefix = prefixes[locator % lengthof(prefixes)];
		char text[KEYTEXT_MAX + 1];
		size_t len = KeyTextCompose(text, prefix, strlen(prefix), locator, secret);
		size_t prefix_len = 0;
		bool same;

		text[len] = '\0';
		same = KeyTextClassify(text, len, &prefix_len) == KEYTEXT_WELL_FORMED &&
			   prefix_len == strlen(prefix) && memcmp(text, prefix, prefix_len) == 0 &&
			   KeyTextLocatorDecode(text + prefix_len + 1) == locator &&
			   memcmp(text + prefix_len + 1 + KEYTEXT_LOCATOR_LEN, secret, KEYTEXT_SECRET_LEN) == 0;
		CHECK_ROW(text, same);
	}
}

static void
testLocators(void)
{
	char out[KEYTEXT_LOCATOR_LEN];

	KeyTextLocatorEncode(0, out);
	CHECK_TEXT(out, sizeof(out), "000");
	KeyTextLocatorEncode(61, out);
	CHECK_TEXT(out, sizeof(out), "00z");
	KeyTextLocatorEncode(62, out);
	CHECK_TEXT(out, sizeof(out), "010");
	KeyTextLocatorEncode(65535, out);
	CHECK_TEXT(out, sizeof(out), "H31");
	CHECK_INT(KeyTextLocatorDecode("H31"), 65535);
	CHECK_INT(KeyTextLocatorDecode("H32"), -1);
	CHECK_INT(KeyTextLocatorDecode("zzz"), -1);
	CHECK_INT(KeyTextLocatorDecode("0-0"), -1);
	CHECK_INT(KeyTextLocatorDecode("00 "), -1);
	CHECK_INT(KeyTextLocatorDecode("_00"), -1);
}

static void
testHints(void)
{
	char out[KEYTEXT_HINT_MAX];
	size_t len;

	len = KeyTextHint(out, github[0], 40, 3, true);
	CHECK_TEXT(out, len, "ghp_\xe2\x80\xa6Lq17");
	len = KeyTextHint(out, github[0], 40, 3, false);
	CHECK_TEXT(out, len, "ghp_...Lq17");
}

#define KEY "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"
#define HINT "ghp_...Lq17"

static void
testRedaction(void)
{
	static const struct
	{
		const char *text;
		const char *redacted;
	} rows[] = {
		{"", ""},
		{"no key", "no key"},
		{KEY, HINT},
		{"SELECT * FROM apikeys.verify('" KEY "')", "SELECT * FROM apikeys.verify('" HINT "')"},
		{"$1 = '" KEY "', $2 = '" KEY "'", "$1 = '" HINT "', $2 = '" HINT "'"},
		{KEY KEY, HINT HINT},
		{KEY "_" KEY, HINT "_" HINT},
		/* Whatever stands around it. */
		{"x" KEY "y", "x" HINT "y"},
		{"x_" KEY "_y", "x_" HINT "_y"},
		{KEY "0", HINT "0"},
		{"Bearer\t" KEY "\n", "Bearer\t" HINT "\n"},
		{"_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", "_...Lq17"},
		{"GHP_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", "GHP_...Lq17"},
		/* A wrong checksum or no "_" makes it some other word. */
		{"ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18", "ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18"},
		{"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17"},
		{"ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq1", "ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq1"},
		/* Cut, with enough of it shown; and not. */
		{"'ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq1...'", "'ghp_......'"},
		{"'ghp_zQWBuTSOoRi4A...'", "'ghp_......'"},
		{"'ghp_zQWBuTSOoRi4...'", "'ghp_zQWBuTSOoRi4...'"},
		{"'ghp_zQWBuTSOoRi4A..'", "'ghp_zQWBuTSOoRi4A..'"},
		{"ghp_zQWBuTSOoRi4A...", "ghp_......"},
		{"'ghp_zQWBuTSOoRi4A...' " KEY, "'ghp_......' " HINT},
		{KEY "...", HINT "..."}};

	for (size_t i = 0; i < lengthof(rows); i++)
	{
		char text[256];
		size_t len = strlen(rows[i].text);

		memcpy(text, rows[i].text, len);
		len = KeyTextRedact(text, len, false);
		CHECK_TEXT(text, len, rows[i].redacted);
	}
}

/* U+2026 takes as many bytes as three dots. */
static void
testRedactionUtf8(void)
{
	char text[] = "<" KEY "><ghp_zQWBuTSOoRi4A...>";
	size_t len = KeyTextRedact(text, strlen(text), true);

	CHECK_TEXT(text, len, "<ghp_\xe2\x80\xa6Lq17><ghp_\xe2\x80\xa6...>");
}

/* Only whole ones are refused where none may be. */
static void
testWithin(void)
{
	static const char *const with[] = {KEY, "x" KEY "y", "ghp_zQWBuTSOoRi4A... " KEY, "_" KEY "_"};
	static const char *const without[] = {"", "no key", "ghp_zQWBuTSOoRi4A...", HINT,
										  "ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq18"};

	for (size_t i = 0; i < lengthof(with); i++)
		CHECK_ROW(with[i], KeyTextIsWithin(with[i], strlen(with[i])));
	for (size_t i = 0; i < lengthof(without); i++)
		CHECK_ROW(without[i], !KeyTextIsWithin(without[i], strlen(without[i])));
}

static void
testFind(void)
{
	const char *text = "a_b " KEY " c_d";
	size_t body = 0;
	size_t body_len = 0;

	CHECK(KeyTextFind(text, strlen(text), 0, &body, &body_len));
	CHECK_INT(body, 8);
	CHECK_INT(body_len, KEYTEXT_BODY_LEN);
	CHECK(!KeyTextFind(text, strlen(text), body + body_len, &body, &body_len));
	/* It reads nothing behind the end. */
	CHECK(!KeyTextFind(text, 8 + KEYTEXT_BODY_LEN - 1, 0, &body, &body_len));
}

int
main(void)
{
	RUN(testPrefixes);
	RUN(testGithub);
	RUN(testSingleChanges);
	RUN(testSwaps);
	RUN(testForeign);
	RUN(testRoundTrips);
	RUN(testLocators);
	RUN(testHints);
	RUN(testRedaction);
	RUN(testRedactionUtf8);
	RUN(testWithin);
	RUN(testFind);
	return UnitReport();
}
