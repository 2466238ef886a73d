/*
 * judge.c
 *	  Judges the rows of each key, or of each account, by its limits.
 *
 * The rows of a subject are sorted by time, and with each goes the sum of the
 * units that were admitted before it.  The units in a window are the difference
 * of two sums, and the smallest window that holds too many is found by
 * bisection.  The log does not tell the order of rows of one instant: all are
 * judged by the sum at the end of the instant, which is what the last of them
 * has to obey.
 */
#include "c.h"

#include "oracle.h"

/* The rows of a subject; the arrays are used again for the next one. */
typedef struct Trace
{
	const Subject *subject;
	Row *rows;
	size_t count;
	int64 *at;
	int64 *before; /* units admitted before each row, and before the end */
	size_t size;
} Trace;

/* How a limit stands for a row. */
typedef struct Standing
{
	int64 window;	  /* microseconds; 0: total */
	int64 units;	  /* admitted so far */
	int64 cap_high;	  /* with all grants that may be in force */
	int64 cap_low;	  /* with those that certainly are */
	int64 reset_high; /* the first units that perhaps do not count any more */
	int64 reset_low;  /* those that certainly do not */
} Standing;

#define ROUNDING 3 /* microseconds: of times in the log and in the tables */

static int sorted_by; /* for compareRows: 0 key, 1 account */

static int
compareRows(const void *a, const void *b)
{
	const Row *x = a;
	const Row *y = b;
	uint32 of_x = x->subject[sorted_by];
	uint32 of_y = y->subject[sorted_by];

	if (of_x != of_y)
		return of_x < of_y ? -1 : 1;
	return (x->at > y->at) - (x->at < y->at);
}

/* Returns the first row at or after an instant. */
static size_t
firstAt(const Trace *trace, int64 at)
{
	size_t low = 0;
	size_t high = trace->count;

	while (low < high)
	{
		size_t middle = (low + high) / 2;

		if (trace->at[middle] < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Returns the last row before which at most so many units were admitted. */
static size_t
lastWithAtMost(const Trace *trace, int64 units)
{
	size_t low = 0;
	size_t high = trace->count;

	while (low < high)
	{
		size_t middle = (low + high + 1) / 2;

		if (trace->before[middle] <= units)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* Applies the subject's resets and grants for a window, as of an instant. */
static void
adjust(const Subject *subject, int64 seconds, int64 at, Standing *standing)
{
	int64 high = 0;
	int64 low = 0;

	for (size_t i = 0; i < subject->adjustment_count; i++)
	{
		const Adjustment *its = &subject->adjustments[i];
		bool certain = (at >= its->until);

		if (its->seconds != seconds || at < its->from || at >= its->expiry)
			continue;
		if (its->is_grant)
		{
			high += (certain || its->units > 0) ? its->units : 0;
			low += (certain || its->units < 0) ? its->units : 0;
		}
		else if (its->units <= standing->units)
		{
			standing->reset_high = Max(standing->reset_high, its->units);
			if (certain)
				standing->reset_low = Max(standing->reset_low, its->units);
		}
	}
	standing->cap_high += Max(high, 0);
	standing->cap_low += Max(low, 0);
}

/*
 * Tells whether the window that ends with an admitted row holds more than the
 * cap.  The log has whole microseconds.  So two requests that are W and some
 * nanoseconds apart can seem to be W apart; but only if the 128th part of the
 * window is not a whole number of microseconds, as in windows of an odd number
 * of seconds.
 */
static bool
isOver(const Trace *trace, const Row *row, const Standing *standing)
{
	int64 used = standing->units - standing->reset_high;

	if (standing->window > 0)
	{
		int64 odd = (standing->window / SECOND) % 2;
		size_t first = firstAt(trace, row->at - standing->window + odd);

		used = Min(used, standing->units - trace->before[first]);
	}
	return used > standing->cap_high;
}

/* Returns the length of the longest stored step in such a window. */
static int64
stepOf(int64 window)
{
	if (window > 89 * 86400 * SECOND)
		return 86400 * SECOND;
	return window > 47 * 3600 * SECOND ? 3600 * SECOND : 300 * SECOND;
}

/* Returns the run that an instant lies in, NULL if in none. */
const Run *
JudgeRunOf(int64 at)
{
	for (size_t i = 0; i < run_count; i++)
		if (runs[i].from <= at && at <= runs[i].until)
			return &runs[i];
	return NULL;
}

/*
 * Tells whether a load excuses that units come back late: their times were
 * read from stored steps.  Units used since a run began were not, unless
 * another window was added to the limits.
 */
static bool
isExcused(const Trace *trace, const Row *row, int64 window, int64 used_at, int64 last_at)
{
	const Run *run = JudgeRunOf(row->at);

	if (run != NULL && used_at >= run->from && sources[trace->subject->source].count == 1)
		return false;
	return row->at - last_at <= window + window / 128 + ROUNDING;
}

/* Judges a denial by one limit; notes the result if none is better so far. */
static void
judgeDenial(const Trace *trace, Row *row, const Standing *standing)
{
	/* with more units than these, the request did not fit in */
	int64 room = standing->cap_low - Max(row->cost, 1);
	int64 bound = standing->window / 128 + SECOND;
	int64 late = 0; /* since when there was room */
	Blame blame = BLAME_NONE;

	if (standing->units - standing->reset_low <= room)
		return;
	if (standing->window > 0 && room >= 0)
	{
		int64 used_at = trace->at[lastWithAtMost(trace, standing->units - room - 1)];
		int64 last_at = trace->at[lastWithAtMost(trace, standing->units - 1)];

		late = row->at - standing->window - used_at;
		if (late > 0)
			blame = BLAME_LATE;
		if (late > bound + ROUNDING)
			blame = (late <= bound + stepOf(standing->window) &&
					 isExcused(trace, row, standing->window, used_at, last_at)) ?
						BLAME_STEP :
						BLAME_UNJUST;
	}
	late = Max(late - standing->window / 128, 0);
	if (blame < row->blame || (blame == row->blame && late < row->excess))
	{
		row->blame = blame;
		row->excess = late;
	}
}

/*
 * Judges a row by the limits of one version.  Returns whether it is over one of
 * them; of a denial, notes what is wrong in the row.
 */
static bool
judgeByVersion(const Trace *trace, Row *row, int64 units, const Version *version)
{
	bool over = false;

	for (int i = 0; i < version->count; i++)
	{
		const Limit *limit = &version->limits[i];
		Standing standing = {.window = limit->seconds * SECOND,
							 .units = units,
							 .cap_high = limit->cap,
							 .cap_low = limit->cap};

		adjust(trace->subject, limit->seconds, row->at, &standing);
		if (row->outcome == OUTCOME_ADMITTED && row->cost > 0)
			over |= isOver(trace, row, &standing);
		else if (row->outcome == OUTCOME_LIMITED)
			judgeDenial(trace, row, &standing);
	}
	return over;
}

/*
 * Judges all rows of a subject.  A row is over if it is so by each version that
 * may have been in force.
 */
static void
judgeTrace(const Trace *trace)
{
	const Source *source = &sources[trace->subject->source];
	size_t past = 0; /* versions that were in force earlier */
	size_t end = 0;	 /* of the rows of this instant */

	for (size_t i = 0; i < trace->count; i++)
	{
		Row *row = &trace->rows[i];
		bool over = true;
		bool judged = false;

		if (end < i + 1)
			end = i + 1;
		while (end < trace->count && trace->at[end] == row->at)
			end++;
		while (past < source->count && source->versions[past].until < row->at)
			past++;
		if (row->outcome == OUTCOME_OTHER)
			continue;
		for (size_t j = past; j < source->count && source->versions[j].from <= row->at; j++)
		{
			over &= judgeByVersion(trace, row, trace->before[end], &source->versions[j]);
			judged = true;
		}
		row->over |= over && judged;
	}
}

static void
fillTrace(Trace *trace)
{
	int64 units = 0;

	if (trace->size < trace->count + 1)
	{
		trace->size = 2 * trace->count + 1;
		trace->at = realloc(trace->at, trace->size * sizeof(int64));
		trace->before = realloc(trace->before, trace->size * sizeof(int64));
		if (trace->at == NULL || trace->before == NULL)
			fail("out of memory", "");
	}
	for (size_t i = 0; i < trace->count; i++)
	{
		trace->at[i] = trace->rows[i].at;
		trace->before[i] = units;
		if (trace->rows[i].outcome == OUTCOME_ADMITTED)
			units += trace->rows[i].cost;
	}
	trace->before[trace->count] = units;
}

/* Judges all rows by the limits of their keys (0) or accounts (1). */
void
JudgeBy(int which)
{
	Trace trace = {.size = 0};

	sorted_by = which;
	qsort(rows, row_count, sizeof(Row), compareRows);
	for (size_t i = 0; i < row_count; i += trace.count)
	{
		trace.subject = &subjects[rows[i].subject[which]];
		trace.rows = &rows[i];
		trace.count = 1;
		while (i + trace.count < row_count &&
			   rows[i + trace.count].subject[which] == rows[i].subject[which])
			trace.count++;
		fillTrace(&trace);
		judgeTrace(&trace);
	}
	free(trace.at);
	free(trace.before);
}
