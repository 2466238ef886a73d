/*
 * oracle.h
 *	  What the files of the oracle share: oracle.c reads and reports, judge.c
 *	  judges the rows, journal.c compares them with what clients were told.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include "c.h"

#define LIMITS_MAX 8
#define GROUPS_MAX 64
#define SECOND INT64CONST(1000000)

typedef enum Outcome
{
	OUTCOME_OTHER, /* denied, not by a limit */
	OUTCOME_ADMITTED,
	OUTCOME_LIMITED
} Outcome;

/* What is wrong with a denial by a limit, the least first: see oracle.c. */
typedef enum Blame
{
	BLAME_NONE,
	BLAME_LATE,
	BLAME_STEP,
	BLAME_UNJUST
} Blame;

/* A row of the log. */
typedef struct Row
{
	int64 at;		   /* microseconds since 2000 */
	int64 excess;	   /* microseconds beyond the window and its 128th part */
	uint32 subject[2]; /* its key and its account */
	uint32 cost;
	uint8 outcome; /* an Outcome */
	uint8 blame;   /* a Blame; of a denial */
	bool over;
	uint8 id[16];
} Row;

typedef struct Limit
{
	int64 cap;
	int64 seconds; /* 0: total */
} Limit;

/* Limits that may have been in force from one instant to another, inclusive. */
typedef struct Version
{
	int64 from;
	int64 until;
	int count;
	Limit limits[LIMITS_MAX];
} Version;

/* What subjects have their limits from: a key, an account, a plan, a tier. */
typedef struct Source
{
	Version *versions; /* in the order of their starts, and of their ends */
	size_t count;
} Source;

/* From one instant to another, no meter was evicted and no server started. */
typedef struct Run
{
	int64 from;
	int64 until;
} Run;

/* A reset or a grant. */
typedef struct Adjustment
{
	bool is_grant;
	int64 seconds; /* of the window; 0: total */
	int64 from;	   /* it may have been in effect since */
	int64 until;   /* and must have been, since then */
	int64 units;   /* granted; of a reset, those that do not count */
	int64 expiry;  /* of a grant */
} Adjustment;

typedef struct Subject
{
	int64 id;
	size_t source;
	Adjustment *adjustments;
	size_t adjustment_count;
	int group;
	char kind; /* k: key, a: account */
} Subject;

/* Sums over some rows. */
typedef struct Figures
{
	uint64 outcomes[OUTCOME_LIMITED + 1];
	uint64 in_runs; /* denied by limits, within runs */
	uint64 over;
	uint64 blames[BLAME_UNJUST + 1];
	int64 worst[BLAME_UNJUST + 1];
} Figures;

extern Row *rows;
extern size_t row_count;
extern Subject *subjects;
extern size_t subject_count;
extern Source *sources;
extern size_t source_count;
extern Run *runs;
extern size_t run_count;

extern void fail(const char *what, const char *detail) pg_attribute_noreturn();
extern void *grow(void *array, size_t count, size_t size);

extern const Run *JudgeRunOf(int64 at);
extern void JudgeBy(int which);
extern void JournalCheck(char **paths, int count);

#endif
