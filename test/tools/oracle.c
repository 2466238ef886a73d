/*
 * oracle.c
 *	  Judges the request log of scripts/soak: oracle RULES JOURNAL... <ROWS
 *
 * It knows nothing of rings, meters or stored steps.  It reads the rows of the
 * log, and which limits, resets and grants were in force when; and it looks at
 * trailing windows, both ends included.
 *
 *	over	an admitted request whose window holds more than the cap
 *	late	a request denied by a limit although its window had room: a window
 *			longer by at most W/128 + 1 s had none
 *	step	the same, but longer than that, by one stored step at most (5
 *			minutes, an hour, a day): a meter that was loaded knows the times of
 *			units no better.  This is no excuse for units used since the start
 *			of a run (below), nor if the last use is older than W + W/128
 *	unjust	any other request denied by a limit
 *
 * A change of limits takes effect between two known instants.  A request
 * between them is at fault only if it is so by the old limits and by the new
 * ones; the same holds for grants and resets.
 *
 * ROWS is binary output of COPY: at, key_id, account_id, request_id, cost, and
 * what became of the request (enum Outcome).  RULES has lines of numbers, times
 * in microseconds since 2000; scripts/soak.sql writes them:
 *	N group name								a group of keys
 *	S k|a id source group						a key or an account, and where
 *												its limits come from
 *	V source from until cap/seconds ...			limits; of total: 0 seconds
 *	A k|a id seconds from until count			a reset: the first count units
 *												do not count any more
 *	G k|a id seconds from until units expiry	a grant
 *	R from until								a run: in it no meter was
 *												evicted, and no server started
 * JOURNAL is what a client was told: see journal.c.
 *
 * Prints a table, then figures as name=value; on standard error, the first
 * faults of each kind.
 */
#include "c.h"

#include <unistd.h>

#include "oracle.h"

#define EXAMPLES 5

Row *rows;
size_t row_count;
Subject *subjects;
size_t subject_count;
Source *sources;
size_t source_count;
Run *runs;
size_t run_count;
char group_names[GROUPS_MAX][64];

void
fail(const char *what, const char *detail)
{
	fprintf(stderr, "oracle: %s %s\n", what, detail);
	exit(2);
}

/*
 * Returns the array with room for one more element than it has.  Its size is a
 * power of two.
 */
void *
grow(void *array, size_t count, size_t size)
{
	if ((count & (count - 1)) != 0)
		return array;
	array = realloc(array, Max(2 * count, 1) * size);
	if (array == NULL)
		fail("out of memory", "");
	return array;
}

static int
compareSubjects(const void *a, const void *b)
{
	const Subject *x = a;
	const Subject *y = b;

	if (x->kind != y->kind)
		return x->kind - y->kind;
	return (x->id > y->id) - (x->id < y->id);
}

static Subject *
findSubject(char kind, int64 id)
{
	Subject wanted = {.kind = kind, .id = id};
	Subject *found = bsearch(&wanted, subjects, subject_count, sizeof(Subject), compareSubjects);

	if (found == NULL)
		fail("the log has a key or an account that the rules do not have", "");
	return found;
}

/* Reads limits, "cap/seconds cap/seconds ...". */
static void
readLimits(const char *text, Version *version)
{
	int used;

	while (version->count < LIMITS_MAX &&
		   sscanf(text, " " INT64_FORMAT "/" INT64_FORMAT "%n",
				  &version->limits[version->count].cap, &version->limits[version->count].seconds,
				  &used) == 2)
	{
		version->count++;
		text += used;
	}
}

static void
readVersion(const char *line)
{
	Version version = {.count = 0};
	size_t source;
	Source *its;
	int used;

	if (sscanf(line, "V %zu " INT64_FORMAT " " INT64_FORMAT "%n", &source, &version.from,
			   &version.until, &used) != 3)
		fail("cannot read", line);
	readLimits(line + used, &version);
	while (source_count <= source)
	{
		sources = grow(sources, source_count, sizeof(Source));
		sources[source_count++] = (Source){.count = 0};
	}
	its = &sources[source];
	its->versions = grow(its->versions, its->count, sizeof(Version));
	its->versions[its->count++] = version;
}

static void
readAdjustment(const char *line)
{
	Adjustment adjustment = {.is_grant = (line[0] == 'G'), .expiry = PG_INT64_MAX};
	Subject *subject;
	char kind;
	int64 id;

	if (sscanf(line + 1,
			   " %c " INT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT
			   " " INT64_FORMAT " " INT64_FORMAT,
			   &kind, &id, &adjustment.seconds, &adjustment.from, &adjustment.until,
			   &adjustment.units, &adjustment.expiry) < 6)
		fail("cannot read", line);
	subject = findSubject(kind, id);
	subject->adjustments =
		grow(subject->adjustments, subject->adjustment_count, sizeof(Adjustment));
	subject->adjustments[subject->adjustment_count++] = adjustment;
}

static void
readRun(const char *line)
{
	Run run;

	if (sscanf(line, "R " INT64_FORMAT " " INT64_FORMAT, &run.from, &run.until) != 2)
		fail("cannot read", line);
	runs = grow(runs, run_count, sizeof(Run));
	runs[run_count++] = run;
}

/* Reads the rules: subjects first, then all that refers to them. */
static void
readRules(const char *path)
{
	FILE *file = fopen(path, "r");
	char line[1024];

	if (file == NULL)
		fail("cannot open", path);
	for (int pass = 0; pass < 2; pass++)
	{
		rewind(file);
		while (fgets(line, sizeof(line), file))
		{
			Subject subject = {.adjustment_count = 0};
			int group;

			if (pass == 0 && line[0] == 'S')
			{
				if (sscanf(line, "S %c " INT64_FORMAT " %zu %d", &subject.kind, &subject.id,
						   &subject.source, &subject.group) != 4)
					fail("cannot read", line);
				subjects = grow(subjects, subject_count, sizeof(Subject));
				subjects[subject_count++] = subject;
			}
			else if (pass == 0 && line[0] == 'N' && sscanf(line, "N %d ", &group) == 1)
				sscanf(line, "N %*d %63[^\n]", group_names[group]);
			else if (pass == 0 && line[0] == 'R')
				readRun(line);
			else if (pass == 1 && line[0] == 'V')
				readVersion(line);
			else if (pass == 1 && (line[0] == 'A' || line[0] == 'G'))
				readAdjustment(line);
		}
		if (pass == 0)
			qsort(subjects, subject_count, sizeof(Subject), compareSubjects);
	}
	fclose(file);
}

static void
readBytes(void *to, size_t size)
{
	if (fread(to, size, 1, stdin) != 1)
		fail("the rows end too early", "");
}

/* Reads a whole number of so many bytes, the highest first. */
static int64
readNumber(int size)
{
	uint8 bytes[8];
	uint64 number = 0;

	readBytes(bytes, size);
	for (int i = 0; i < size; i++)
		number = number << 8 | bytes[i];
	return size == 2 ? (int16) number : size == 4 ? (int32) number : (int64) number;
}

/* Reads a column: a number of so many bytes. */
static int64
readColumn(int size)
{
	if (readNumber(4) != size)
		fail("the rows have other columns", "");
	return readNumber(size);
}

static void
readRows(void)
{
	char header[19]; /* of binary COPY */

	readBytes(header, sizeof(header));
	while (readNumber(2) == 6)
	{
		Row row = {.excess = PG_INT64_MAX, .blame = BLAME_UNJUST};

		row.at = readColumn(8);
		row.subject[0] = findSubject('k', readColumn(8)) - subjects;
		row.subject[1] = findSubject('a', readColumn(8)) - subjects;
		if (readNumber(4) != sizeof(row.id))
			fail("the rows have other columns", "");
		readBytes(row.id, sizeof(row.id));
		row.cost = readColumn(4);
		row.outcome = readColumn(4);
		rows = grow(rows, row_count, sizeof(Row));
		rows[row_count++] = row;
	}
}

static void
printId(const Row *row)
{
	for (size_t i = 0; i < sizeof(row->id); i++)
		fprintf(stderr, "%02x%s", row->id[i], i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
}

/* Shows a fault, the how many-th of its kind, if it is one of the first. */
static void
show(const Row *row, const char *what, uint64 number)
{
	if (number > EXAMPLES)
		return;
	fprintf(stderr, "%s: ", what);
	printId(row);
	fprintf(stderr, " of " INT64_FORMAT ", cost %u", subjects[row->subject[0]].id, row->cost);
	if (row->excess != PG_INT64_MAX && row->outcome == OUTCOME_LIMITED)
		fprintf(stderr, ", late by %.3f s", row->excess / 1e6);
	fprintf(stderr, "\n");
}

/* Sums up by groups, and over all in the last element; shows faults. */
static void
sumUp(Figures *figures)
{
	Figures *all = &figures[GROUPS_MAX];

	for (size_t i = 0; i < row_count; i++)
	{
		const Row *row = &rows[i];
		Figures *its[] = {&figures[subjects[row->subject[0]].group], all};

		for (size_t j = 0; j < lengthof(its); j++)
		{
			its[j]->outcomes[row->outcome]++;
			its[j]->over += row->over;
			if (row->outcome != OUTCOME_LIMITED)
				continue;
			its[j]->blames[row->blame]++;
			its[j]->worst[row->blame] = Max(its[j]->worst[row->blame], row->excess);
			its[j]->in_runs += (JudgeRunOf(row->at) != NULL);
		}
		if (row->over)
			show(row, "over", all->over);
		if (row->outcome == OUTCOME_LIMITED && row->blame == BLAME_UNJUST)
			show(row, "unjust", all->blames[BLAME_UNJUST]);
	}
}

/* Prints a line for each group of keys, and the sums of all. */
static void
report(void)
{
	static Figures figures[GROUPS_MAX + 1];
	const Figures *all = &figures[GROUPS_MAX];

	sumUp(figures);
	printf("%-10s %10s %10s %6s %9s %9s %9s %9s %7s\n", "keys", "admitted", "denied", "over",
		   "late", "worst, s", "step", "worst, s", "unjust");
	for (int i = 0; i <= GROUPS_MAX; i++)
		if (figures[i].outcomes[OUTCOME_ADMITTED] + figures[i].outcomes[OUTCOME_LIMITED] > 0)
			printf("%-10s %10lu %10lu %6lu %9lu %9.3f %9lu %9.3f %7lu\n",
				   i == GROUPS_MAX ? "all" : group_names[i], figures[i].outcomes[OUTCOME_ADMITTED],
				   figures[i].outcomes[OUTCOME_LIMITED], figures[i].over,
				   figures[i].blames[BLAME_LATE], figures[i].worst[BLAME_LATE] / 1e6,
				   figures[i].blames[BLAME_STEP], figures[i].worst[BLAME_STEP] / 1e6,
				   figures[i].blames[BLAME_UNJUST]);
	printf("logged=%zu\nadmitted=%lu\nlimited=%lu\nlimited_in_runs=%lu\nover=%lu\n", row_count,
		   all->outcomes[OUTCOME_ADMITTED], all->outcomes[OUTCOME_LIMITED], all->in_runs,
		   all->over);
	printf("late=%lu\nlate_worst=%.6f\nstep=%lu\nunjust=%lu\n", all->blames[BLAME_LATE],
		   all->worst[BLAME_LATE] / 1e6, all->blames[BLAME_STEP], all->blames[BLAME_UNJUST]);
	if (all->worst[BLAME_UNJUST] == PG_INT64_MAX)
		printf("unjust_worst=never\n");
	else
		printf("unjust_worst=%.3f\n", all->worst[BLAME_UNJUST] / 1e6);
}

int
main(int argc, char **argv)
{
	if (argc < 2)
		fail("oracle RULES JOURNAL...", "");
	readRules(argv[1]);
	readRows();
	JudgeBy(1);
	JudgeBy(0);
	report();
	JournalCheck(argv + 2, argc - 2);
	return 0;
}
