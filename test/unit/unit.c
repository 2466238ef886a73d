/*
 * unit.c
 *	  Checks that are counted.  A program makes its checks and ends with
 *	  "return UnitReport();".
 */
#include "c.h"

#include "unit.h"

static int passed;
static int failed;

/* Count a check, and print where it failed. */
bool
UnitCheck(bool ok, const char *file, int line, const char *condition, const char *row)
{
	if (ok)
	{
		passed++;
		return true;
	}
	failed++;
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

/* Print the counts as the last line, and return the exit status. */
int
UnitReport(void)
{
	printf("%d passed, %d failed\n", passed, failed);
	/* A program that checked nothing has failed. */
	return failed > 0 || passed == 0;
}
