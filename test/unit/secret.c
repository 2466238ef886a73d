/*
 * secret.c
 *	  Tests of src/pure/secret.c.
 */
#include "c.h"

#include <sodium.h>

#include "pure/keytext.h"
#include "pure/secret.h"
#include "unit.h"

static uint64 calls;

/* Blocks that follow from the number of the call alone. */
static void
drawSeeded(void *out, size_t len)
{
	unsigned char seed[randombytes_SEEDBYTES] = "apikeys";

	calls++;
	memcpy(seed + 8, &calls, sizeof(calls));
	randombytes_buf_deterministic(out, len, seed);
}

/* All bytes in turn. */
static void
drawAllBytes(void *out, size_t len)
{
	static uint8 next = 0;
	uint8 *bytes = out;

	for (size_t i = 0; i < len; i++)
		bytes[i] = next++;
}

/*
 * Chi-square against equal counts.  With 61 degrees of freedom it is beyond
 * either bound once in a million.
 */
static void
checkUniform(const uint32 *counts, double expected, const char *what)
{
	double chi_square = 0;
	char row[64];

	for (int digit = 0; digit < KEYTEXT_BASE; digit++)
		chi_square += (counts[digit] - expected) * (counts[digit] - expected) / expected;
	snprintf(row, sizeof(row), "%s: chi-square %.2f", what, chi_square);
	CHECK_ROW(row, chi_square > 21.99 && chi_square < 128.53);
}

/*
 * Each digit is as often as the others, in a million characters of secrets and
 * at each place.
 */
static void
testUniformity(void)
{
	const int secrets = 1000000 / KEYTEXT_SECRET_LEN + 1;
	uint32 counts[KEYTEXT_BASE] = {0};
	uint32 counts_at[KEYTEXT_SECRET_LEN][KEYTEXT_BASE] = {{0}};

	for (int i = 0; i < secrets; i++)
	{
		char secret[KEYTEXT_SECRET_LEN];

		SecretDrawFrom(drawSeeded, secret, sizeof(secret));
		for (int place = 0; place < KEYTEXT_SECRET_LEN; place++)
		{
			int digit = strchr(KEYTEXT_ALPHABET, secret[place]) - KEYTEXT_ALPHABET;

			counts[digit]++;
			counts_at[place][digit]++;
		}
	}
	checkUniform(counts, (double) secrets * KEYTEXT_SECRET_LEN / KEYTEXT_BASE, "all places");
	for (int place = 0; place < KEYTEXT_SECRET_LEN; place++)
		checkUniform(counts_at[place], (double) secrets / KEYTEXT_BASE, "one place");
}

/*
 * Of 256 different bytes, 248 are used: each digit four times, in the order of
 * the remainders.
 */
static void
testRejection(void)
{
	char out[2 * 248];
	bool right = true;

	SecretDrawFrom(drawAllBytes, out, sizeof(out));
	for (size_t i = 0; i < sizeof(out); i++)
		right = right && out[i] == KEYTEXT_ALPHABET[i % 248 % KEYTEXT_BASE];
	CHECK(right);
}

/* Nothing drawn is kept for the next call, which may be in another process. */
static void
testFreshBlocks(void)
{
	char out[1];

	calls = 0;
	for (int i = 1; i <= 5; i++)
	{
		SecretDrawFrom(drawSeeded, out, sizeof(out));
		CHECK_INT(calls, i);
	}
}

static void
testDraw(void)
{
	char a[KEYTEXT_SECRET_LEN + 2];
	char b[KEYTEXT_SECRET_LEN];

	memset(a, '#', sizeof(a));
	SecretDraw(a + 1, KEYTEXT_SECRET_LEN);
	CHECK(a[0] == '#' && a[KEYTEXT_SECRET_LEN + 1] == '#');
	CHECK_INT(strspn(a + 1, KEYTEXT_ALPHABET), KEYTEXT_SECRET_LEN);
	SecretDraw(b, KEYTEXT_SECRET_LEN);
	CHECK(memcmp(a + 1, b, KEYTEXT_SECRET_LEN) != 0);
}

/* FIPS 180-2, appendix B.1. */
static void
testDigest(void)
{
	static const Digest abc = {{0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
								0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
								0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad}};
	Digest digest;

	SecretDigest(&digest, "abc", 3);
	CHECK(SecretDigestsEqual(&digest, &abc));
	for (int i = 0; i < DIGEST_LEN; i++)
	{
		digest.bytes[i] ^= 1;
		CHECK(!SecretDigestsEqual(&digest, &abc));
		digest.bytes[i] ^= 1;
	}
}

/* As sha256sum says. */
static void
testLocators(void)
{
	static const struct
	{
		const char *account;
		uint16 locator;
	} rows[] = {{"alice", 0x2bd8},
				{"bob", 0x81b6},
				{"acme", 0x822b},
				{"M\xc3\xbcller & S\xc3\xb6hne", 0x6d9a},
				{"", 0xe3b0}};

	for (size_t i = 0; i < lengthof(rows); i++)
		CHECK_ROW(rows[i].account,
				  SecretLocator(rows[i].account, strlen(rows[i].account)) == rows[i].locator);
}

static void
testWipe(void)
{
	char memory[] = "#secret#";

	SecretWipe(memory + 1, 6);
	CHECK(memcmp(memory, "#\0\0\0\0\0\0#", 8) == 0);
}

/* Also a second time. */
static void
testInit(void)
{
	CHECK(SecretInit());
	CHECK(SecretInit());
}

int
main(void)
{
	RUN(testInit);
	RUN(testUniformity);
	RUN(testRejection);
	RUN(testFreshBlocks);
	RUN(testDraw);
	RUN(testDigest);
	RUN(testLocators);
	RUN(testWipe);
	return UnitReport();
}
