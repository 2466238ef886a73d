/*
 * sha256.c
 *	  Tests of src/sha256.c: against the digests that libsodium computes, for all lengths up to some blocks.
 */
#include "c.h"

#include <sodium.h>

#include "sha256.h"
#include "unit.h"

#define LEN_MAX		400

int
main(void)
{
	uint8		bytes[LEN_MAX + 1];
	uint8		digest[SHA256_LEN];
	uint8		expected[crypto_hash_sha256_BYTES];
	uint8		untouched[SHA256_LEN] = {0};

	randombytes_buf(bytes, sizeof(bytes));
	for (size_t len = 0; len <= LEN_MAX; len++)
	{
		/* From an odd address, too. */
		const uint8 *start = bytes + (len < LEN_MAX ? len % 2 : 0);
		char		row[32];

		snprintf(row, sizeof(row), "%zu bytes", len);
		crypto_hash_sha256(expected, start, len);
		memset(digest, 0, sizeof(digest));
		if (Sha256(digest, start, len))
			CHECK_ROW(row, memcmp(digest, expected, sizeof(digest)) == 0);
		else
			CHECK_ROW(row, memcmp(digest, untouched, sizeof(digest)) == 0);
	}
	return UnitReport();
}
