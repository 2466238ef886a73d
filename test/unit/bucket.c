/*
 * bucket.c
 *	  Tests of src/pure/bucket.c.  The times that it must keep to are written
 *	  here once more, as what the documentation says.
 */
#include "c.h"

#include "pure/bucket.h"
#include "unit.h"

#define SECOND INT64CONST(1000000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

/* 2026-03-10 17:38:20.000001 UTC, and what is before it. */
#define NOW (9565 * DAY + 17 * HOUR + 38 * MINUTE + 20 * SECOND + 1)

static void
testStart(void)
{
	static const struct
	{
		int64 at;
		int64 start;
	} cases[] = {{0, 0},
				 {1, 0},
				 {5 * MINUTE - 1, 0},
				 {5 * MINUTE, 5 * MINUTE},
				 {-1, -5 * MINUTE},
				 {-5 * MINUTE, -5 * MINUTE},
				 {-5 * MINUTE - 1, -10 * MINUTE},
				 {NOW, 9565 * DAY + 17 * HOUR + 35 * MINUTE}};

	for (size_t i = 0; i < lengthof(cases); i++)
		CHECK_INT(BucketStart(cases[i].at), cases[i].start);
}

/* Only whole hours and days that are old enough are merged. */
static void
testMerging(void)
{
	static const struct
	{
		int64 now;
		int64 hours_before;
		int64 days_before;
	} cases[] = {
		{NOW, 9563 * DAY + 17 * HOUR, 9475 * DAY},
		{9565 * DAY, 9563 * DAY, 9475 * DAY},
		{9565 * DAY - 1, 9562 * DAY + 23 * HOUR, 9474 * DAY},
		{9565 * DAY + HOUR, 9563 * DAY + HOUR, 9475 * DAY},
		{9565 * DAY + HOUR - 1, 9563 * DAY, 9475 * DAY},
		{-1, -2 * DAY - HOUR, -91 * DAY},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		CHECK_INT(BucketHoursBefore(cases[i].now), cases[i].hours_before);
		CHECK_INT(BucketDaysBefore(cases[i].now), cases[i].days_before);
	}
}

/* A start that may be that of an hour or a day, from the age at which it is. */
static void
testEnd(void)
{
	static const struct
	{
		const char *name;
		int64 start;
		int64 age;
		int64 length;
	} cases[] = {{"a day, new", 9000 * DAY, 0, 5 * MINUTE},
				 {"a day, in time to come", 9000 * DAY, -HOUR, 5 * MINUTE},
				 {"a day, too young for an hour", 9000 * DAY, 2 * DAY - 1, 5 * MINUTE},
				 {"a day, an hour now", 9000 * DAY, 2 * DAY, HOUR},
				 {"a day, an hour still", 9000 * DAY, 90 * DAY - 1, HOUR},
				 {"a day", 9000 * DAY, 90 * DAY, DAY},
				 {"a day, very old", 0, 9000 * DAY, DAY},
				 {"a day before 2000", -9 * DAY, 90 * DAY, DAY},
				 {"an hour, too young", 9000 * DAY + HOUR, 2 * DAY - 1, 5 * MINUTE},
				 {"an hour", 9000 * DAY + HOUR, 2 * DAY, HOUR},
				 {"an hour is no day", 9000 * DAY + HOUR, 90 * DAY, HOUR},
				 {"an hour before 2000", -HOUR, 2 * DAY, HOUR},
				 {"five minutes", 9000 * DAY + 5 * MINUTE, 2 * DAY, 5 * MINUTE},
				 {"five minutes, old", 9000 * DAY + 55 * MINUTE, 90 * DAY, 5 * MINUTE}};

	for (size_t i = 0; i < lengthof(cases); i++)
		CHECK_ROW(cases[i].name,
				  BucketEnd(cases[i].start, cases[i].start + cases[i].age) - cases[i].start ==
					  cases[i].length);
}

/*
 * However far a unit's bucket has been merged, its end is behind the unit:
 * loaded at that end, the unit never comes back early.
 */
static void
testAgreement(void)
{
	int64 bad = 0;

	for (int64 age = 0; age < 200 * DAY; age += 7 * MINUTE + SECOND)
	{
		int64 at = NOW - age;
		int64 start = BucketStart(at);

		bad += BucketEnd(start, NOW) <= at;
		if (start < BucketHoursBefore(NOW))
			bad += BucketEnd(start - start % HOUR, NOW) <= at;
		if (start < BucketDaysBefore(NOW))
			bad += BucketEnd(start - start % DAY, NOW) <= at;
	}
	CHECK_INT(bad, 0);
}

int
main(void)
{
	RUN(testStart);
	RUN(testMerging);
	RUN(testEnd);
	RUN(testAgreement);
	return UnitReport();
}
