/*
 * secret.c
 *	  What needs libsodium: random secrets, digests, comparison and wiping.
 *
 * No other file knows the library, so that what protects a key can be read in
 * one place.  Nothing here throws or allocates.
 *
 * Random bytes live for one call only, on the stack: a forked process can
 * never draw what its parent has drawn.
 */
#include "c.h"

#include <sodium.h>

#include "pure/keytext.h"
#include "pure/secret.h"

StaticAssertDecl(DIGEST_LEN == crypto_hash_sha256_BYTES, "a digest is a SHA-256");
StaticAssertDecl(DIGEST_LEN == crypto_verify_32_BYTES,
				 "what compares digests compares all of them");

/* Random bytes in a block: one block is nearly always enough for a secret. */
#define BLOCK_LEN 64

/* The bytes below this leave each remainder of the base equally often. */
#define FAIR_BELOW (256 - 256 % KEYTEXT_BASE)

/* Make the library ready; false if it cannot be.  Before any other call. */
bool
SecretInit(void)
{
	return sodium_init() >= 0;
}

/* Fill with uniform digits of base62. */
void
SecretDraw(char *out, size_t len)
{
	SecretDrawFrom(randombytes_buf, out, len);
}

/*
 * Fill with digits of base62, as uniform as the source's bytes are: those that
 * would favour the first digits are rejected.
 */
void
SecretDrawFrom(SecretSource source, char *out, size_t len)
{
	uint8 block[BLOCK_LEN];
	size_t drawn = 0;

	while (drawn < len)
	{
		source(block, sizeof(block));
		for (size_t i = 0; i < sizeof(block) && drawn < len; i++)
		{
			if (block[i] < FAIR_BELOW)
				out[drawn++] = KEYTEXT_ALPHABET[block[i] % KEYTEXT_BASE];
		}
	}
	sodium_memzero(block, sizeof(block));
}

/* Compute the digest of a key text. */
void
SecretDigest(Digest *out, const char *text, size_t len)
{
	crypto_hash_sha256(out->bytes, (const unsigned char *) text, len);
}

/* Whether two digests are equal, in a time that does not depend on them. */
bool
SecretDigestsEqual(const Digest *a, const Digest *b)
{
	return crypto_verify_32(a->bytes, b->bytes) == 0;
}

/* The locator of an account: the first 16 bits of the SHA-256 of its name. */
uint16
SecretLocator(const char *account, size_t len)
{
	Digest digest;

	SecretDigest(&digest, account, len);
	return (uint16) (digest.bytes[0] << 8 | digest.bytes[1]);
}

/* Overwrite memory that held a secret; compilers do not drop it. */
void
SecretWipe(void *memory, size_t len)
{
	sodium_memzero(memory, len);
}
