/*
 * unit.h
 *	  Test cases and their checks, for the unit tests of the pure parts.
 */
#ifndef UNIT_H
#define UNIT_H

#include "c.h"

#define RUN(test) UnitRun((test), #test)

#define CHECK(condition) UnitCheck((condition), __FILE__, __LINE__, #condition, NULL)

/* For checks in a loop or over a table: says in which row it failed. */
#define CHECK_ROW(row, condition) UnitCheck((condition), __FILE__, __LINE__, #condition, (row))

#define CHECK_INT(actual, expected) UnitCheckInt((actual), (expected), __FILE__, __LINE__, #actual)

/* The text of that length equals the string. */
#define CHECK_TEXT(actual, len, expected) \
	UnitCheckText((actual), (len), (expected), __FILE__, __LINE__, #actual)

extern void UnitRun(void (*test)(void), const char *name);
extern bool UnitCheck(bool ok, const char *file, int line, const char *condition, const char *row);
extern bool
UnitCheckInt(int64 actual, int64 expected, const char *file, int line, const char *what);
extern bool UnitCheckText(const char *actual, size_t len, const char *expected, const char *file,
						  int line, const char *what);
extern int UnitReport(void);

#endif
