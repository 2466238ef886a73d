/*
 * limittext.c
 *	  Tests of src/pure/limittext.c.
 */
#include "c.h"

#include "pure/limittext.h"
#include "unit.h"

/*
 * Check that a text is read as the set with this canonical text, and that this
 * is read as itself.
 */
static void
checkValid(const char *text, const char *canonical)
{
	LimitSet set;
	char error[LIMITTEXT_ERROR_MAX];
	char out[LIMITTEXT_MAX];

	if (!CHECK_ROW(text, LimitTextParse(text, strlen(text), &set, error)))
		return;
	CHECK_TEXT(out, LimitTextFormat(&set, out), canonical);
	CHECK_ROW(text, strlen(out) == strlen(canonical));
	CHECK_ROW(canonical, LimitTextParse(canonical, strlen(canonical), &set, error));
	CHECK_TEXT(out, LimitTextFormat(&set, out), canonical);
}

static void
checkInvalid(const char *text, const char *expected)
{
	LimitSet set;
	char error[LIMITTEXT_ERROR_MAX];

	if (CHECK_ROW(text, !LimitTextParse(text, strlen(text), &set, error)))
		CHECK_TEXT(error, strlen(error), expected);
}

static void
testTexts(void)
{
	checkValid("", "");
	checkValid(" \t\r\n", "");
	checkValid("500000/total, 20000/month , 1000 / day", "1000/day, 20000/month, 500000/total");
	checkValid("1/week,1/7 hours,1/90 minutes,1/90 seconds",
			   "1/90 seconds, 1/90 minutes, 1/7 hours, 1/week");
	checkValid("0/second", "0/second");
	checkValid("4294967295/366 days", "4294967295/366 days");
	checkValid("00009007199254740991/total", "9007199254740991/total");
	checkValid("8/second,7/minute,6/hour,5/day,4/week,3/month,2/total,1/2 days",
			   "8/second, 7/minute, 6/hour, 5/day, 1/2 days, 4/week, 3/month, 2/total");

	checkInvalid("1000", "limit \"1000\" is not of the form cap/window");
	checkInvalid("1/day,", "limit \"\" is not of the form cap/window");
	checkInvalid("-1/day", "cap \"-1\" is not a number of units");
	checkInvalid("/day", "cap \"\" is not a number of units");
	checkInvalid("1/", "window \"\" is not known");
	checkInvalid("1/2", "window \"2\" is not known");
	checkInvalid("1/2days", "window \"2days\" is not known");
	checkInvalid("1/2 weeks", "window \"2 weeks\" is not known");
	checkInvalid("1/2 total", "window \"2 total\" is not known");
	checkInvalid("1/seconds", "window \"seconds\" is not known");
	checkInvalid("1/2 dayss", "window \"2 dayss\" is not known");
	checkInvalid("1/0 seconds", "window \"0 seconds\" is not between 1 second and 366 days");
	checkInvalid("1/367 days", "window \"367 days\" is not between 1 second and 366 days");
	checkInvalid("1/8785 hours", "window \"8785 hours\" is not between 1 second and 366 days");
	checkInvalid("1/18446744073709551617 seconds",
				 "window \"184467440737...\" is not between 1 second and 366 days");
	checkInvalid("4294967296/366 days",
				 "cap of window \"366 days\" is not between 0 and 4294967295");
	checkInvalid("18446744073709551617/day",
				 "cap of window \"day\" is not between 0 and 4294967295");
	checkInvalid("9007199254740992/total",
				 "cap of window \"total\" is not between 0 and 9007199254740991");
	checkInvalid("1/day,1/24 hours", "window \"day\" is given twice");
	checkInvalid(
		"1/1 seconds,1/2 seconds,1/3 seconds,1/4 seconds,1/5 seconds,1/6 seconds,1/7 seconds,"
		"1/8 seconds,1/9 seconds",
		"window \"9 seconds\" is the 9th, and 8 are the most");

	/* Of the input an error shows 12 characters, and ASCII only. */
	checkInvalid("ak_0000123456789abcdefghijklmnopqrstuv",
				 "limit \"ak_000012345...\" is not of the form cap/window");
	checkInvalid("1/\xc3\xa4 \x01\x7f", "window \"?? ??\" is not known");
}

/*
 * A piece ends where its length says, whatever follows.
 */
static void
testLengths(void)
{
	LimitSet set;
	uint32 window;
	int64 cap;
	char error[LIMITTEXT_ERROR_MAX];

	CHECK(LimitTextParse("1/days", 5, &set, error) && set.count == 1 &&
		  set.limits[0].window == 86400);
	CHECK(LimitWindowParse("10 minutes", 9, &window, error) && window == 600);
	CHECK(LimitCapParse("123", 2, &cap, error) && cap == 12);
	CHECK(LimitTextParse("1/day", 0, &set, error) && set.count == 0);
}

/*
 * Every window has a name of its own, which is read as that window.
 */
static void
testWindows(void)
{
	char name[LIMIT_WINDOW_NAME_MAX];
	char error[LIMITTEXT_ERROR_MAX];
	uint32 window;
	int64 wrong = 0;

	for (uint32 seconds = 1; seconds <= LIMIT_WINDOW_MAX; seconds++)
	{
		if (!LimitWindowParse(name, LimitWindowFormat(seconds, name), &window, error) ||
			window != seconds)
			wrong++;
	}
	CHECK_INT(wrong, 0);
	CHECK(LimitWindowParse("total", 5, &window, error) && window == LIMIT_WINDOW_TOTAL);
	CHECK_TEXT(name, LimitWindowFormat(LIMIT_WINDOW_TOTAL, name), "total");
}

static void
testSets(void)
{
	LimitSet set = {0};
	char error[LIMITTEXT_ERROR_MAX];
	char out[LIMITTEXT_MAX];

	CHECK(LimitSetAdd(&set, 2, 60, error));
	CHECK(LimitSetAdd(&set, 3, LIMIT_WINDOW_TOTAL, error));
	CHECK(LimitSetAdd(&set, 1, 1, error));
	CHECK(!LimitSetAdd(&set, 5, 60, error));
	CHECK(!LimitSetAdd(&set, -1, 61, error));
	CHECK(!LimitSetAdd(&set, 5, 0, error));
	CHECK(!LimitSetAdd(&set, 5, LIMIT_WINDOW_MAX + 1, error));
	CHECK(!LimitSetAdd(&set, 5, LIMIT_WINDOW_TOTAL - 1, error));
	CHECK_TEXT(out, LimitTextFormat(&set, out), "1/second, 2/minute, 3/total");

	/* The longest text there is. */
	set.count = 0;
	CHECK(LimitSetAdd(&set, LIMIT_CAP_TOTAL_MAX, LIMIT_WINDOW_TOTAL, error));
	for (uint32 i = 1; i < LIMITS_MAX; i++)
		CHECK(LimitSetAdd(&set, LIMIT_CAP_MAX, LIMIT_WINDOW_MAX - i, error));
	CHECK(LimitTextFormat(&set, out) < LIMITTEXT_MAX);
}

/* What a set allows after it was lowered: the text of the caps that decide. */
static const char *
lowered(const char *provider, const char *owner, bool *fits)
{
	static char out[LIMITTEXT_MAX];
	char error[LIMITTEXT_ERROR_MAX];
	LimitSet set;
	LimitSet lower;

	CHECK(LimitTextParse(provider, strlen(provider), &set, error));
	CHECK(LimitTextParse(owner, strlen(owner), &lower, error));
	*fits = LimitSetLower(&set, &lower);
	for (int i = 0; i < set.count; i++)
		set.limits[i].cap = Min(set.limits[i].cap, set.limits[i].ceiling);
	(void) LimitTextFormat(&set, out);
	return out;
}

static void
testLower(void)
{
	static const char *const cases[][3] = {
		{"10/day", "", "10/day"},
		{"", "10/day", "10/day"},
		{"10/day", "5/day", "5/day"},
		{"10/day", "50/day", "10/day"},
		{"10/day, 7/total", "5/hour, 9/total", "5/hour, 10/day, 7/total"},
		{"10/day", "0/day", "0/day"}};
	bool fits;

	for (int i = 0; i < lengthof(cases); i++)
	{
		CHECK(strcmp(lowered(cases[i][0], cases[i][1], &fits), cases[i][2]) == 0);
		CHECK(fits);
	}
	/* What does not fit allows nothing. */
	CHECK(strcmp(lowered("1/1 seconds, 1/2 seconds, 1/3 seconds, 1/4 seconds, 1/5 seconds",
						 "1/6 seconds, 1/7 seconds, 1/8 seconds, 1/9 seconds", &fits),
				 "0/total") == 0);
	CHECK(!fits);
}

int
main(void)
{
	RUN(testLower);
	RUN(testTexts);
	RUN(testLengths);
	RUN(testWindows);
	RUN(testSets);
	return UnitReport();
}
