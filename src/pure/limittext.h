/*
 * limittext.h
 *	  A set of limits and its text, e.g. "1000/day, 500000/total".  Pure C.
 */
#ifndef LIMITTEXT_H
#define LIMITTEXT_H

#include "c.h"

#define LIMITS_MAX 8
#define LIMIT_WINDOW_MAX (366 * 86400)	 /* seconds */
#define LIMIT_WINDOW_TOTAL PG_UINT32_MAX /* the window without end; sorts last */
#define LIMIT_CAP_MAX ((int64) PG_UINT32_MAX)
#define LIMIT_CAP_TOTAL_MAX ((INT64CONST(1) << 53) - 1)

#define LIMIT_NO_CEILING PG_INT64_MAX

typedef struct UsageLimit
{
	int64 cap;	   /* units */
	int64 ceiling; /* which holds whatever is granted: the owner's cap */
	uint32 window; /* seconds, or LIMIT_WINDOW_TOTAL */
} UsageLimit;

/* Sorted by window, no window twice. */
typedef struct LimitSet
{
	int count;
	UsageLimit limits[LIMITS_MAX];
} LimitSet;

#define LIMIT_WINDOW_NAME_MAX 32 /* bytes, with the ending NUL */
#define LIMITTEXT_MAX 512		 /* bytes, with the ending NUL */
#define LIMITTEXT_ERROR_MAX 160	 /* bytes, with the ending NUL */

extern bool LimitTextParse(const char *text, size_t len, LimitSet *set, char *error);
extern size_t LimitTextFormat(const LimitSet *set, char *out);
extern bool LimitSetAdd(LimitSet *set, int64 cap, uint32 window, char *error);
extern bool LimitSetLower(LimitSet *set, const LimitSet *owner);
extern bool LimitCapParse(const char *text, size_t len, int64 *cap, char *error);
extern bool LimitWindowParse(const char *text, size_t len, uint32 *window, char *error);
extern size_t LimitWindowFormat(uint32 window, char *out);

#endif
