/*
 * requestid.c
 *	  The id of a request, which leads back to its row without an index of
 *	  its own.
 *
 * It is a UUIDv7 (RFC 9562): ids sort by time, and nothing in them is random.
 * From the first bit:
 *
 *		48	milliseconds since the Unix epoch
 *		 4	version, 7
 *		10	microseconds within the millisecond, 0 to 999
 *		 2	high bits of the sequence
 *		 2	variant, 10 in binary
 *		53	key_id, from 1
 *		 9	low bits of the sequence
 *
 * The sequence tells apart the requests on one key within one microsecond.  An
 * id is no secret and proves nothing: who presents one must be allowed to
 * complete requests.
 */
#include "c.h"

#include "pure/requestid.h"

#define US_PER_MS 1000
#define VERSION_SHIFT 12
#define VERSION UINT64CONST(7)
#define VERSION_MASK UINT64CONST(0xF)
#define VARIANT_SHIFT 62
#define VARIANT UINT64CONST(2)
#define SEQUENCE_LOW_BITS 9
#define SEQUENCE_LOW_MASK ((1 << SEQUENCE_LOW_BITS) - 1)
#define SEQUENCE_HIGH_BITS (REQUESTID_SEQUENCE_BITS - SEQUENCE_LOW_BITS)
#define SEQUENCE_HIGH_MASK ((1 << SEQUENCE_HIGH_BITS) - 1)
#define MICROSECOND_MASK 0x3FF
#define MS_SHIFT 16
#define KEY_MASK ((UINT64CONST(1) << REQUESTID_KEY_BITS) - 1)

/*
 * Writes 64 bits, the highest first.
 */
static void
putHalf(uint8 *out, uint64 half)
{
	for (int i = 7; i >= 0; i--, half >>= 8)
		out[i] = (uint8) half;
}

/*
 * Reads 64 bits, the highest first.
 */
static uint64
getHalf(const uint8 *in)
{
	uint64 half = 0;

	for (int i = 0; i < 8; i++)
		half = half << 8 | in[i];
	return half;
}

/*
 * Makes the id of a request at a microsecond since the Unix epoch (from 0), on
 * a key (from 1).  Of the sequence its low REQUESTID_SEQUENCE_BITS count.
 */
void
RequestIdEncode(RequestId *id, int64 at_us, int64 key_id, uint32 sequence)
{
	uint64 ms = at_us / US_PER_MS;
	uint64 us = at_us % US_PER_MS;

	putHalf(id->bytes, ms << MS_SHIFT | VERSION << VERSION_SHIFT | us << SEQUENCE_HIGH_BITS |
						   (sequence >> SEQUENCE_LOW_BITS & SEQUENCE_HIGH_MASK));
	putHalf(id->bytes + 8, VARIANT << VARIANT_SHIFT | (uint64) key_id << SEQUENCE_LOW_BITS |
							   (sequence & SEQUENCE_LOW_MASK));
}

/*
 * Takes an id apart.  False, and nothing set, if RequestIdEncode cannot have
 * made it.
 */
bool
RequestIdDecode(const RequestId *id, int64 *at_us, int64 *key_id, uint32 *sequence)
{
	uint64 high = getHalf(id->bytes);
	uint64 low = getHalf(id->bytes + 8);
	uint64 us = high >> SEQUENCE_HIGH_BITS & MICROSECOND_MASK;
	uint64 key = low >> SEQUENCE_LOW_BITS & KEY_MASK;

	if ((high >> VERSION_SHIFT & VERSION_MASK) != VERSION || low >> VARIANT_SHIFT != VARIANT ||
		us >= US_PER_MS || key == 0)
		return false;

	*at_us = (int64) ((high >> MS_SHIFT) * US_PER_MS + us);
	*key_id = (int64) key;
	*sequence =
		(uint32) ((high & SEQUENCE_HIGH_MASK) << SEQUENCE_LOW_BITS | (low & SEQUENCE_LOW_MASK));
	return true;
}
