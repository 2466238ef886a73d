/*
 * judge.c
 *	  Judges the rows of each key, or of each account, by its limits.
 *
 * The rows of a subject lie in the order of time, with sums of the units that
 * were admitted before each.  So the units in a window are a difference of two
 * sums, and the smallest window that holds too many is found by bisection.
 * Rows of one instant have seen each other, or not: the sums at the end of the
 * instant are taken for all of them, since the last one has seen those.
 */
#include "c.h"

#include "oracle.h"

/* The rows of a subject; the arrays are kept for the next one. */
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
	int64 units;	  /* so far, of all time */
	int64 cap_high;	  /* with all that may be granted */
	int64 cap_low;	  /* with what certainly is */
	int64 reset_high; /* units that may not count */
	int64 reset_low;  /* and those that do not */
} Standing;

static int sorted_by; /* compareRows: 0 the key, 1 the account */

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

/* Applies resets and grants at an instant. */
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
 * Tells whether a window that ends with an admitted row holds too much.  The
 * log has whole microseconds, and the 128th part of a window of an odd number
 * of seconds has not: there, two requests that are W and some nanoseconds apart
 * can seem to be W apart.
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

/* By how much a stored step may be wrong about the units of such a window. */
static int64
stepOf(int64 window)
{
	if (window > 89 * 86400 * SECOND)
		return 86400 * SECOND;
	return window > 47 * 3600 * SECOND ? 3600 * SECOND : 300 * SECOND;
}

/* Judges a denial by one limit; notes the result if none is better so far. */
static void
judgeDenial(const Trace *trace, Row *row, const Standing *standing)
{
	int64 room = standing->cap_low - Max(row->cost, 1); /* more than that was not admissible */
	int64 bound = standing->window / 128 + SECOND + 1;
	int64 last = 0;
	int64 longer = 0;
	Blame blame = BLAME_NONE;

	if (standing->units - standing->reset_low <= room)
		return;
	if (standing->window > 0 && room >= 0)
	{
		longer = row->at - standing->window -
				 trace->at[lastWithAtMost(trace, standing->units - room - 1)];
		last = row->at - trace->at[lastWithAtMost(trace, standing->units - 1)];
	}
	if (longer > bound)
		blame = (last <= standing->window + bound && longer <= bound + stepOf(standing->window)) ?
					BLAME_STEP :
					BLAME_UNJUST;
	else if (longer > 0)
		blame = BLAME_LATE;
	longer = blame == BLAME_NONE ? 0 : Max(longer - standing->window / 128, 0);
	if (blame < row->blame || (blame == row->blame && longer < row->excess))
	{
		row->blame = blame;
		row->excess = longer;
	}
}

/*
 * Judges a row by the limits of one version.  What is left of over is what all
 * versions that may hold agree on.
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

/* Judges all rows of a subject. */
static void
judgeTrace(const Trace *trace)
{
	const Source *source = &sources[trace->subject->source];
	size_t past = 0; /* versions that are */
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
			if (source->versions[j].until < row->at)
				continue;
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
