/*
 * addressset.c
 *	  When failures become a block, and who gives way in a full set.
 */
#include "c.h"

#include "pure/addressset.h"
#include "unit.h"

#define SECOND INT64CONST(1000000000)
#define MINUTE (60 * SECOND)
#define START (1700000000 * SECOND)

static const FailureRules rules = {.cap = 20, .window = 600, .duration = 15 * MINUTE};
static AddressSet set;

/* The subject of 192.0.2.n in database 1. */
static AddressSubject
subjectOf(int n)
{
	uint8 bytes[4] = {192, 0, 2, n};
	PatternAddress address;
	AddressSubject subject;

	PatternAddressSet(&address, bytes, 4);
	AddressSubjectSet(&subject, 1, &address);
	return subject;
}

/* Several failures; returns the last outcome. */
static AddressOutcome
fail(int n, int times, int64 now)
{
	AddressSubject subject = subjectOf(n);
	AddressOutcome outcome = ADDRESS_COUNTED;

	/* One tag for all: what tells them apart is the subject. */
	for (int i = 0; i < times; i++)
		outcome = AddressSetFail(&set, 7, &subject, &rules, now);
	return outcome;
}

static bool
isThere(int n)
{
	AddressSubject subject = subjectOf(n);

	return AddressSetFind(&set, 7, &subject) != NULL;
}

static void
subjects(void)
{
	static const uint8 six[16] = {0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10};
	static const uint8 mapped[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 9};
	AddressSubject a;
	AddressSubject b = subjectOf(9);
	PatternAddress address;
	uint8 changed[16];

	memset(&a, 0x55, sizeof(a));
	PatternAddressSet(&address, mapped, 16);
	AddressSubjectSet(&a, 1, &address);
	CHECK(memcmp(&a, &b, sizeof(a)) == 0);
	AddressSubjectSet(&a, 2, &address);
	CHECK(memcmp(&a, &b, sizeof(a)) != 0);

	PatternAddressSet(&address, six, 16);
	AddressSubjectSet(&a, 1, &address);
	for (int i = 0; i < 16; i++)
	{
		memcpy(changed, six, 16);
		changed[i] ^= 1;
		PatternAddressSet(&address, changed, 16);
		AddressSubjectSet(&b, 1, &address);
		CHECK((memcmp(&a, &b, sizeof(a)) == 0) == (i >= 8));
	}
}

static void
blocks(void)
{
	AddressSubject subject = subjectOf(1);
	AddressEntry *entry;

	memset(&set, 0, sizeof(set));
	CHECK_INT(fail(1, 19, START), ADDRESS_COUNTED);
	CHECK_INT(fail(2, 1, START), ADDRESS_COUNTED);
	CHECK_INT(fail(1, 1, START + MINUTE), ADDRESS_BLOCKED_NOW);
	entry = AddressSetFind(&set, 7, &subject);
	CHECK_INT(entry->failures, 20);
	CHECK_INT(entry->blocked_at, START + MINUTE);
	CHECK_INT(entry->blocked_until, START + 16 * MINUTE);
	entry->recorded = true;
	CHECK_INT(fail(1, 50, START + 16 * MINUTE - 1), ADDRESS_WAS_BLOCKED);
	/* The block is over, and by then nothing is left in the window. */
	CHECK_INT(fail(1, 19, START + 16 * MINUTE), ADDRESS_COUNTED);
	CHECK_INT(fail(1, 1, START + 16 * MINUTE), ADDRESS_BLOCKED_NOW);
	CHECK(!entry->recorded);

	/* Removed, it is forgotten. */
	AddressSetRemove(&set, entry);
	CHECK(!isThere(1) && isThere(2));
	CHECK_INT(fail(1, 19, START + 16 * MINUTE), ADDRESS_COUNTED);
}

/* The window slides; another window begins anew. */
static void
windows(void)
{
	FailureRules other = {.cap = 3, .window = 3600, .duration = MINUTE};
	AddressSubject subject = subjectOf(1);

	memset(&set, 0, sizeof(set));
	fail(1, 10, START);
	CHECK_INT(fail(1, 9, START + 9 * MINUTE), ADDRESS_COUNTED);
	CHECK_INT(fail(1, 10, START + 11 * MINUTE), ADDRESS_COUNTED);
	CHECK_INT(fail(1, 1, START + 11 * MINUTE), ADDRESS_BLOCKED_NOW);

	memset(&set, 0, sizeof(set));
	fail(1, 19, START);
	CHECK_INT(AddressSetFail(&set, 7, &subject, &other, START), ADDRESS_COUNTED);
	CHECK_INT(AddressSetFail(&set, 7, &subject, &other, START), ADDRESS_COUNTED);
	CHECK_INT(AddressSetFail(&set, 7, &subject, &other, START), ADDRESS_BLOCKED_NOW);
	/* The window is longer than the block: the next failure blocks again. */
	CHECK_INT(AddressSetFail(&set, 7, &subject, &other, START + MINUTE), ADDRESS_BLOCKED_NOW);
}

static void
fullSet(void)
{
	memset(&set, 0, sizeof(set));
	fail(1, 20, START); /* blocked until 15 minutes on */
	fail(2, 20, START + SECOND);
	fail(3, 19, START);
	fail(4, 2, START);
	fail(5, 1, START + 2 * SECOND);
	fail(6, 1, START + 1 * SECOND);
	fail(7, 2, START + 3 * SECOND);
	fail(8, 3, START);

	/*
	 * Many with one failure each push out those with the fewest, the oldest
	 * first, and then one another.
	 */
	fail(100, 1, START + 4 * SECOND);
	CHECK(!isThere(6) && isThere(5) && isThere(100));
	fail(101, 1, START + 5 * SECOND);
	CHECK(!isThere(5) && isThere(100));
	for (int i = 102; i < 250; i++)
		fail(i, 1, START + 6 * SECOND);
	CHECK(isThere(1) && isThere(2) && isThere(3) && isThere(4) && isThere(7) && isThere(8) &&
		  isThere(249));
	CHECK_INT(fail(3, 1, START + 7 * SECOND), ADDRESS_BLOCKED_NOW);

	/* All are blocked: the block that would end first. */
	for (int i = 4; i <= 8; i++)
		CHECK_INT(fail(i, 20, START + 8 * SECOND),
				  i == 5 || i == 6 ? ADDRESS_BLOCKED_NOW : ADDRESS_WAS_BLOCKED);
	CHECK(isThere(1) && isThere(2) && isThere(3));
	fail(200, 1, START + 9 * SECOND);
	CHECK(!isThere(1) && isThere(2) && isThere(3) && isThere(4));
	/* The newcomer is the first to go again. */
	fail(201, 1, START + 9 * SECOND);
	CHECK(!isThere(200) && isThere(2));

	/* A block that is over protects nobody. */
	CHECK_INT(fail(2, 1, START + 20 * MINUTE), ADDRESS_COUNTED);
	for (int i = 202; i < 220; i++)
		fail(i, 2, START + 20 * MINUTE);
	CHECK(!isThere(2) && !isThere(3));
}

int
main(void)
{
	subjects();
	blocks();
	windows();
	fullSet();
	return UnitReport();
}
