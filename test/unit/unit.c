/*
 * unit.c
 *	  Test cases and their checks.  A program runs its cases, each a function
 *	  that makes checks, and ends with "return UnitReport();".
 */
#include "c.h"

#include "unit.h"

static int passed;
static int failed;
/* of the case that runs */
static int64 checks;
static int64 checks_failed;

/*
 * Run a case, and count it.  It has failed if one of its checks did, or if it
 * made none.
 */
void
UnitRun(void (*test)(void), const char *name)
{
	checks = checks_failed = 0;
	test();
	if (checks > 0 && checks_failed == 0)
	{
		passed++;
		return;
	}
	failed++;
	printf("not ok %s: %lld of %lld checks failed\n", name, (long long) checks_failed,
		   (long long) checks);
}

/* Count a check of the case that runs, and print where it failed. */
bool
UnitCheck(bool ok, const char *file, int line, const char *condition, const char *row)
{
	checks++;
	if (ok)
		return true;
	checks_failed++;
	printf("%s:%d: not so: %s%s%s\n", file, line, condition, row ? ", for " : "", row ? row : "");
	return false;
}

/* Count a check that two integers are equal, and print both if they are not. */
bool
UnitCheckInt(int64 actual, int64 expected, const char *file, int line, const char *what)
{
	char row[128];

	snprintf(row, sizeof(row), "got %lld, expected %lld", (long long) actual, (long long) expected);
	return UnitCheck(actual == expected, file, line, what, row);
}

/* Count a check that a text equals a string, and print both if it does not. */
bool
UnitCheckText(const char *actual, size_t len, const char *expected, const char *file, int line,
			  const char *what)
{
	char row[2048];

	snprintf(row, sizeof(row), "got \"%.*s\", expected \"%s\"", (int) len, actual, expected);
	return UnitCheck(len == strlen(expected) && memcmp(actual, expected, len) == 0, file, line,
					 what, row);
}

/* Print the counts of cases as the last line, and return the exit status. */
int
UnitReport(void)
{
	printf("%d passed, %d failed\n", passed, failed);
	/* A program that ran nothing has failed. */
	return failed > 0 || passed == 0;
}
