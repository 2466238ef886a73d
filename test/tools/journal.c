/*
 * journal.c
 *	  Compares the log with what clients were told.
 *
 * What a client was told before a crash may be lost, as far as it was told so
 * without synchronous_usage; nothing else may.  The queue keeps the order of a
 * client's requests, and a crash loses a suffix of what was queued and written:
 * so what a client has lost is the last that it was told before the crash.
 * What is in the log and was not told belongs to calls that were cut short.
 *
 * A journal has the id and the code of each request, and marks, "= ...":
 *	b number	a call for so many requests follows
 *	s on|off	synchronous_usage, from here on
 *	x crash|stop	the connection was lost
 */
#include "c.h"

#include "oracle.h"

/* What a client was told since its connection was lost before. */
typedef struct Told
{
	bool *lost;
	bool *synchronous;
	size_t count;
} Told;

typedef struct Sums
{
	uint64 told;	   /* requests */
	uint64 lost;	   /* in crashes, as they may be */
	uint64 lost_worst; /* by one client in one crash */
	uint64 missing;	   /* lost otherwise */
	uint64 unknown;	   /* of calls that were cut short */
	uint64 unrecorded; /* answers without a record: overloaded */
	uint64 found;
} Sums;

static uint8 (*ids)[16];

static int
compareIds(const void *a, const void *b)
{
	return memcmp(a, b, 16);
}

/* Sorts the ids of the log; returns how many are there again. */
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

/* Reads an id; false: there is none. */
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

/* Counts what a client has lost of what it was told. */
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
