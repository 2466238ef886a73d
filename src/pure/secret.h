/*
 * secret.h
 *	  What needs libsodium: random secrets, digests, comparison and wiping.
 */
#ifndef SECRET_H
#define SECRET_H

#include "c.h"

#define DIGEST_LEN 32

typedef struct Digest
{
	uint8 bytes[DIGEST_LEN];
} Digest;

/* Fills memory with random bytes. */
typedef void (*SecretSource)(void *out, size_t len);

extern bool SecretInit(void);
extern void SecretDraw(char *out, size_t len);
extern void SecretDrawFrom(SecretSource source, char *out, size_t len);
extern void SecretDigest(Digest *out, const char *text, size_t len);
extern bool SecretDigestsEqual(const Digest *a, const Digest *b);
extern uint16 SecretLocator(const char *account, size_t len);
extern void SecretWipe(void *memory, size_t len);

#endif
