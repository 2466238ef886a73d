/*
 * journal.c
 *	  Compares the log with what clients were told.
 *
 * A crash may lose requests that were answered without synchronous_usage, and
 * nothing else may be lost.  The queue keeps the order of a client's requests,
 * and a crash loses the end of what was queued and written.  So the lost ones
 * are the last of those that the client was told of before the crash.  Requests
 * in the log that no client was told of belong to calls that were interrupted.
 *
 * A journal has a line for each request, its id and its code, and marks:
 *	= b number		a call for so many requests follows
 *	= s on|off		synchronous_usage, from here on
 *	= x crash|stop	the connection was lost in a crash, or in an orderly stop
 *	= done			the client has ended
 */
#include "c.h"

#include "oracle.h"

/* Requests that a client was told of over one connection. */
typedef struct Told
{
	bool *lost;
	bool *synchronous;
	size_t count;
} Told;

typedef struct Sums
{
	uint64 told;	   /* requests that clients were told of */
	uint64 lost;	   /* in crashes, where that is allowed */
	uint64 lost_worst; /* of one client in one crash */
	uint64 missing;	   /* lost otherwise */
	uint64 unknown;	   /* in calls that were interrupted: perhaps made */
	uint64 unrecorded; /* answered without an id: overloaded */
	uint64 found;	   /* told of, and in the log */
} Sums;

static uint8 (*ids)[16];

static int
compareIds(const void *a, const void *b)
{
	return memcmp(a, b, 16);
}

/* Sorts the ids of the log; returns how many of them are repeated. */
static uint64
collectIds(void)
{
	uint64 again = 0;

	ids = malloc(Max(row_count, 1) * 16);
	if (ids == NULL)
		fail("out of memory", "");
	for (size_t i = 0; i < row_count; i++)
		memcpy(ids[i], rows[i].id, 16);
	qsort(ids, row_count, 16, compareIds);
	for (size_t i = 1; i < row_count; i++)
		again += (memcmp(ids[i - 1], ids[i], 16) == 0);
	return again;
}

/* Reads the id at the start of a line; false: there is none. */
static bool
readId(const char *line, uint8 *id)
{
	int digits = 0;

	memset(id, 0, 16);
	for (; digits < 32 && *line; line++)
	{
		const char *digit;

		if (*line == '-')
			continue;
		digit = strchr("0123456789abcdef", *line);
		if (digit == NULL)
			return false;
		id[digits / 2] = id[digits / 2] << 4 | (digit - "0123456789abcdef");
		digits++;
	}
	return digits == 32;
}

/* Counts the requests of a connection that are lost, when it has ended. */
static void
countLosses(Told *told, bool crash, Sums *sums)
{
	uint64 lost = 0;
	bool suffix = true;

	for (size_t i = told->count; i-- > 0;)
	{
		if (!told->lost[i])
			suffix = false;
		else if (crash && suffix && !told->synchronous[i])
			lost++;
		else
			sums->missing++;
	}
	sums->lost += lost;
	sums->lost_worst = Max(sums->lost_worst, lost);
	told->count = 0;
}

static void
addTold(Told *told, const uint8 *id, bool synchronous, Sums *sums)
{
	bool found = bsearch(id, ids, row_count, 16, compareIds) != NULL;

	told->lost = grow(told->lost, told->count, sizeof(bool));
	told->synchronous = grow(told->synchronous, told->count, sizeof(bool));
	told->lost[told->count] = !found;
	told->synchronous[told->count++] = synchronous;
	sums->told++;
	sums->found += found;
}

static void
readJournal(const char *path, Sums *sums)
{
	FILE *file = fopen(path, "r");
	Told told = {.count = 0};
	bool synchronous = false;
	int64 expected = 0; /* of the call under way */
	char line[256];

	if (file == NULL)
		fail("cannot open", path);
	while (fgets(line, sizeof(line), file))
	{
		uint8 id[16];

		if (line[0] != '=')
		{
			expected--;
			if (readId(line, id))
				addTold(&told, id, synchronous, sums);
			else if (strstr(line, "not ready"))
				expected = 0;
			else
				sums->unrecorded++;
			continue;
		}
		sums->unknown += Max(expected, 0);
		expected = 0;
		if (line[2] == 'b')
			expected = atoll(line + 4);
		else if (line[2] == 's')
			synchronous = (strcmp(line, "= s on\n") == 0);
		else if (line[2] == 'x')
			countLosses(&told, strcmp(line, "= x crash\n") == 0, sums);
	}
	countLosses(&told, false, sums);
	sums->unknown += Max(expected, 0);
	fclose(file);
	free(told.lost);
	free(told.synchronous);
}

/* Compares all journals with the log, and prints the figures. */
void
JournalCheck(char **paths, int count)
{
	Sums sums = {.told = 0};
	uint64 again = collectIds();

	for (int i = 0; i < count; i++)
		readJournal(paths[i], &sums);
	printf("duplicates=%lu\ntold=%lu\nlost=%lu\nlost_worst=%lu\nmissing=%lu\n", again, sums.told,
		   sums.lost, sums.lost_worst, sums.missing);
	printf("untold=%lu\nunknown=%lu\nunrecorded=%lu\n", row_count - sums.found,
		   sums.unknown + sums.unrecorded, sums.unrecorded);
	free(ids);
}
