/*
 * requestid.c
 *	  Fuzzes src/pure/requestid.c: what it takes apart, it makes again.
 */
#include "c.h"

#include "pure/requestid.h"

/* Stops at a property that does not hold. */
#define REQUIRE(property) \
	do \
	{ \
		if (!(property)) \
			__builtin_trap(); \
	} while (0)

extern int LLVMFuzzerTestOneInput(const uint8 *bytes, size_t len);

int
LLVMFuzzerTestOneInput(const uint8 *bytes, size_t len)
{
	RequestId id;
	RequestId again;
	int64 at;
	int64 key_id;
	uint32 sequence;

	if (len < REQUESTID_LEN)
		return 0;
	memcpy(id.bytes, bytes, REQUESTID_LEN);
	if (!RequestIdDecode(&id, &at, &key_id, &sequence))
		return 0;

	REQUIRE(at >= 0 && key_id > 0);
	REQUIRE(key_id >> REQUESTID_KEY_BITS == 0 && sequence >> REQUESTID_SEQUENCE_BITS == 0);
	RequestIdEncode(&again, at, key_id, sequence);
	REQUIRE(memcmp(&id, &again, sizeof(id)) == 0);
	return 0;
}
