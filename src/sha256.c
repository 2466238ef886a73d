/*
 * sha256.c
 *	  SHA-256 by the instructions that many processors have for it.
 *
 * The digest of the key text is the largest single part of a request's cost
 * where it is computed by portable code, as libsodium does.  This is used
 * where the processor can (x86 with SHA extensions); elsewhere the caller
 * turns to libsodium.  Its time depends on the length alone.
 */
#include "c.h"

#include "sha256.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>

#define BLOCK_LEN	64
#define LENGTH_LEN	8			/* of the length in bits, at the end of the last block */

/* FIPS 180-4, 4.2.2: four to a round of four. */
static const uint32 constants[64] pg_attribute_aligned(16) = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

/* Tells whether the processor has the instructions. */
static bool
isSupported(void)
{
	static int	supported = -1;	/* not known yet */
	unsigned int eax,
				ebx,
				ecx,
				edx;

	if (unlikely(supported < 0))
		supported = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_SSSE3) && (ecx & bit_SSE4_1) &&
			__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_SHA);
	return supported;
}

/* Takes whole blocks into the state, whose halves hold the variables a, b, e, f and c, d, g, h as the instructions want them. */
__attribute__((target("sha,sse4.1,ssse3")))
static void
addBlocks(__m128i *abef, __m128i *cdgh, const uint8 *bytes, size_t count)
{
	const __m128i big_endian = _mm_set_epi64x(INT64CONST(0x0c0d0e0f08090a0b), INT64CONST(0x0405060700010203));

	for (; count > 0; count--, bytes += BLOCK_LEN)
	{
		__m128i		state0 = *abef;
		__m128i		state1 = *cdgh;
		__m128i		words[4];	/* the next 16 of the message schedule */

		for (int i = 0; i < 4; i++)
			words[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *) bytes + i), big_endian);
#pragma GCC unroll 16
		for (int i = 0; i < 16; i++)
		{
			__m128i		four = _mm_add_epi32(words[i % 4], _mm_load_si128((const __m128i *) constants + i));

			state1 = _mm_sha256rnds2_epu32(state1, state0, four);
			state0 = _mm_sha256rnds2_epu32(state0, state1, _mm_shuffle_epi32(four, 0x0E));
			if (i < 12)
			{
				__m128i		last = words[(i + 3) % 4];
				__m128i		sum = _mm_add_epi32(_mm_sha256msg1_epu32(words[i % 4], words[(i + 1) % 4]),
												_mm_alignr_epi8(last, words[(i + 2) % 4], 4));

				words[i % 4] = _mm_sha256msg2_epu32(sum, last);
			}
		}
		*abef = _mm_add_epi32(*abef, state0);
		*cdgh = _mm_add_epi32(*cdgh, state1);
	}
}

/* Computes the digest of some bytes, SHA256_LEN long; false, and nothing done: the processor cannot. */
bool
Sha256(uint8 *out, const void *bytes, size_t len)
{
	size_t		rest = len % BLOCK_LEN;
	size_t		ending = rest + 1 + LENGTH_LEN <= BLOCK_LEN ? BLOCK_LEN : 2 * BLOCK_LEN;
	uint8		end[2 * BLOCK_LEN] = {0};
	__m128i		abef = _mm_set_epi32(0x6a09e667, 0xbb67ae85, 0x510e527f, 0x9b05688c);
	__m128i		cdgh = _mm_set_epi32(0x3c6ef372, 0xa54ff53a, 0x1f83d9ab, 0x5be0cd19);
	uint32		words[8];

	if (!isSupported())
		return false;
	addBlocks(&abef, &cdgh, bytes, len / BLOCK_LEN);
	memcpy(end, (const uint8 *) bytes + len - rest, rest);
	end[rest] = 0x80;
	for (int i = 0; i < LENGTH_LEN; i++)
		end[ending - 1 - i] = (uint8) ((uint64) len * BITS_PER_BYTE >> (BITS_PER_BYTE * i));
	addBlocks(&abef, &cdgh, end, ending / BLOCK_LEN);
	explicit_bzero(end, sizeof(end));	/* of a key text */

	/* The words lie from the last variable to the first: f, e, b, a and h, g, d, c. */
	memcpy(words, &abef, sizeof(abef));
	memcpy(words + 4, &cdgh, sizeof(cdgh));
	for (int i = 0; i < 8; i++)
	{
		static const int places[8] = {3, 2, 7, 6, 1, 0, 5, 4};	/* of a to h */
		uint32		word = __builtin_bswap32(words[places[i]]);

		memcpy(out + i * sizeof(word), &word, sizeof(word));
	}
	return true;
}

#else

bool
Sha256(uint8 *out, const void *bytes, size_t len)
{
	return false;
}

#endif
