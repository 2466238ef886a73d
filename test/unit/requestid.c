/*
 * requestid.c
 *	  Tests of src/pure/requestid.c.
 */
#include "c.h"

#include "pure/requestid.h"
#include "unit.h"

#define KEY_MAX ((INT64CONST(1) << REQUESTID_KEY_BITS) - 1)
#define SEQUENCE_MAX ((1 << REQUESTID_SEQUENCE_BITS) - 1)
#define AT_MAX ((INT64CONST(1) << 48) * 1000 - 1)

static bool
decodes(const RequestId *id)
{
	int64 at;
	int64 key_id;
	uint32 sequence;

	return RequestIdDecode(id, &at, &key_id, &sequence);
}

/*
 * The example of RFC 9562, A.6: 2022-02-22 19:22:22 UTC is 017F22E2-79B0-7...
 */
static void
testLayout(void)
{
	static const uint8 expected[REQUESTID_LEN] = {
		0x01, 0x7F, 0x22, 0xE2,
		/* version 7; 999 microseconds: 1111100111; sequence: 10 ... */
		0x79, 0xB0, 0x7F, 0x9E, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03,
		0xFE /* variant 10; key 1; ... 111111110 */
	};
	RequestId id;

	RequestIdEncode(&id, INT64CONST(1645557742000999), 1, 0x5FE);
	CHECK(memcmp(id.bytes, expected, REQUESTID_LEN) == 0);
}

static void
testRoundTrips(void)
{
	static const int64 ats[] = {0, 1, 999, 1000, 1001, INT64CONST(1790000000123456), AT_MAX};
	static const int64 keys[] = {1, 2, (INT64CONST(1) << 37) - 1, INT64CONST(1) << 37, KEY_MAX};

	for (size_t i = 0; i < lengthof(ats); i++)
		for (size_t k = 0; k < lengthof(keys); k++)
			for (uint32 sequence = 0; sequence <= SEQUENCE_MAX; sequence++)
			{
				RequestId id;
				int64 at = -1;
				int64 key_id = -1;
				uint32 sequence_back = 0;

				RequestIdEncode(&id, ats[i], keys[k], sequence);
				CHECK(RequestIdDecode(&id, &at, &key_id, &sequence_back) && at == ats[i] &&
					  key_id == keys[k] && sequence_back == sequence);
			}
}

/*
 * A counter that goes on beyond the bits of the sequence starts anew, and
 * touches nothing else.
 */
static void
testSequenceWraps(void)
{
	RequestId id;
	RequestId wrapped;

	RequestIdEncode(&id, 5, 7, 3);
	RequestIdEncode(&wrapped, 5, 7, 3 + SEQUENCE_MAX + 1);
	CHECK(memcmp(&id, &wrapped, sizeof(id)) == 0);
	RequestIdEncode(&wrapped, 5, 7, PG_UINT32_MAX - SEQUENCE_MAX + 3);
	CHECK(memcmp(&id, &wrapped, sizeof(id)) == 0);
}

static void
testOrder(void)
{
	RequestId earlier;
	RequestId later;

	for (int64 at = 0; at < 3000; at++)
	{
		RequestIdEncode(&earlier, at, KEY_MAX, SEQUENCE_MAX);
		RequestIdEncode(&later, at + 1, 1, 0);
		CHECK(memcmp(&earlier, &later, sizeof(earlier)) < 0);
	}
}

/* All versions, variants and microseconds, and the key 0. */
static void
testRefusals(void)
{
	RequestId good;
	RequestId id;

	RequestIdEncode(&good, INT64CONST(1790000000123000), 1, 0);
	for (int version = 0; version < 16; version++)
	{
		id = good;
		id.bytes[6] = version << 4 | (good.bytes[6] & 0x0F);
		CHECK(decodes(&id) == (version == 7));
	}
	for (int variant = 0; variant < 4; variant++)
	{
		id = good;
		id.bytes[8] = variant << 6 | (good.bytes[8] & 0x3F);
		CHECK(decodes(&id) == (variant == 2));
	}
	for (int us = 0; us < 1024; us++)
	{
		id = good;
		id.bytes[6] = 0x70 | us >> 6;
		id.bytes[7] = us << 2;
		CHECK(decodes(&id) == (us < 1000));
	}

	RequestIdEncode(&id, 0, 0, SEQUENCE_MAX);
	CHECK(!decodes(&id));
}

int
main(void)
{
	RUN(testLayout);
	RUN(testRoundTrips);
	RUN(testSequenceWraps);
	RUN(testOrder);
	RUN(testRefusals);
	return UnitReport();
}
