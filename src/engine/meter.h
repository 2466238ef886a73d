/*
 * meter.h
 *	  Shared-memory counters of the units that a key, an account or an
 *	  address has used.
 */
#ifndef METER_H
#define METER_H

#include "postgres.h"

#include "pure/limittext.h"
#include "pure/ring.h"

typedef int32 MeterIndex;

#define METER_NONE (-1)

typedef enum MeterKind
{
	METER_KEY = 'k',
	METER_ACCOUNT = 'a'
} MeterKind;

/* Whose meter it is.  A hash key: made by MeterSubjectSet alone. */
typedef struct MeterSubject
{
	Oid database;
	Oid relation; /* the table key: an extension made anew never meets old meters */
	int64 id;
	int64 kind; /* a MeterKind */
} MeterSubject;

typedef enum MeterReadiness
{
	METER_READY,	 /* and it has a ring for each window asked for */
	METER_TO_LOAD,	 /* the caller shall load it, or some rings of it: MeterLoadBegin */
	METER_TO_ADJUST, /* the caller shall read its adjustments: MeterAdjustBegin */
	METER_BUSY		 /* somebody else does: MeterWait */
} MeterReadiness;

/* What resets and grants do to one window of a subject. */
typedef struct MeterAdjustment
{
	uint32 window;
	int64 counts_from; /* units of all time that no longer count, 0 if it was never reset */
	int64 granted;	   /* units above the cap, for now */
} MeterAdjustment;

/* What a reader of adjustments fills: the windows are given. */
typedef struct MeterAdjustments
{
	uint32 version;	  /* of the meter's: a later one ends this reading's worth */
	int64 now;		  /* engine time by which grants are judged */
	int64 hold_until; /* engine time when the first of the grants ends, METER_FOR_EVER */
	int count;
	MeterAdjustment windows[LIMITS_MAX + 1]; /* the total first */
} MeterAdjustments;

#define METER_FOR_EVER PG_INT64_MAX

/*
 * What a loader fills: rings of the windows that are missing and, the first
 * time, the totals.
 */
typedef struct MeterLoading
{
	MeterIndex meter;
	int64 now;	/* engine time of the load: no request of the meter was later */
	bool whole; /* the totals too */
	int count;
	uint32 windows[LIMITS_MAX];
	Ring *rings[LIMITS_MAX];	  /* initialised and empty */
	int64 total;				  /* units of all time */
	bool used;					  /* some request, however decided, is on record */
	MeterAdjustments adjustments; /* of all windows */
} MeterLoading;

typedef enum MeterOutcome
{
	METER_ADMITTED,
	METER_DENIED,
	METER_NOT_READY, /* nothing was done: pin (again) */
	/* nothing was done: it would be admitted, and was to be denied only */
	METER_ADMISSIBLE,
	/*
	 * nothing was done: no use of the key is durable; it takes first_use_locked
	 * and queued
	 */
	METER_FIRST_USE
} MeterOutcome;

/* A request as the meters see it. */
typedef struct MeterRequest
{
	MeterSubject account_subject;
	MeterSubject key_subject;
	MeterIndex account; /* pinned, or where it was before, or any other; so the next */
	MeterIndex key;
	const LimitSet *account_limits;
	const LimitSet *key_limits;
	uint32 cost;		   /* units */
	int64 now;			   /* engine time, as the caller read it */
	bool denied;		   /* by something else than limits: it is recorded, and not metered */
	bool queued;		   /* an event will be appended: counts as pending in both meters */
	bool deny_only;		   /* not to be admitted: there is no room for the event */
	bool first_use_locked; /* the caller holds the guard's first-use lock on the key */
} MeterRequest;

/* A limit that is nearly, or all, used now, and was not before. */
typedef struct MeterMark
{
	UsageLimit limit; /* its cap with what is granted on top */
	int64 used;
	bool of_account;
	bool reached; /* all of it; else 80 % */
} MeterMark;

#define MARKS_MAX (2 * LIMITS_MAX)

/* What the meters say of it.  Times are nanoseconds, RING_NEVER for never. */
typedef struct MeterDecision
{
	int64 at; /* engine time of the request: never before that of an earlier one */
	bool first_use;
	bool use_durable; /* before this request */
	bool limited;	  /* there is a limit to show: the rest is set */
	bool of_account;
	UsageLimit limit; /* its cap with what is granted on top */
	int64 remaining;
	int64 reset_after;
	int64 retry_after; /* denied requests only */
	bool has_news;	   /* some limit may have to be marked */
	int mark_count;	   /* 0 if the request is not queued */
	MeterMark marks[MARKS_MAX];
} MeterDecision;

typedef struct MeterStatistics
{
	int64 meters_used;
	int64 meters_size;
	int64 rings_used;
	int64 rings_size;
	int64 evictions;
} MeterStatistics;

extern int MeterMemory; /* setting apikeys.meter_memory, kB */

extern void MeterShmemRequest(void);
extern void MeterShmemInit(void);
extern void MeterSubjectSet(MeterSubject *subject, Oid relation, MeterKind kind, int64 id);
extern void MeterPrefetch(MeterIndex meter);
extern void MeterPrefetchRings(MeterIndex meter);
extern MeterIndex MeterPin(const MeterSubject *subject);
extern MeterReadiness MeterPrepare(MeterIndex meter, const LimitSet *limits);
extern void MeterUnpinAll(void);
extern bool MeterWait(MeterIndex meter, int64 deadline);
extern bool
MeterLoadBegin(MeterIndex meter, const LimitSet *limits, int64 deadline, MeterLoading *loading);
extern void MeterLoadEnd(const MeterLoading *loading);
extern void MeterAdjustBegin(MeterIndex meter, MeterAdjustments *adjustments);
extern bool MeterAdjustEnd(MeterIndex meter, const MeterAdjustments *adjustments);
extern void MeterAdjusted(const MeterSubject *subject);
extern int64 MeterUnitsSince(int64 total, int64 counts_from);
extern int64 MeterCap(const UsageLimit *limit, int64 granted);
extern MeterOutcome MeterAdmit(const MeterRequest *request, MeterDecision *decision);
extern bool MeterIsUsed(MeterIndex meter);
extern void MeterForgetLevels(const MeterSubject *subject);
extern bool MeterRead(MeterIndex meter, const UsageLimit *limit, int64 now, int64 *cap, int64 *used,
					  int64 *free_at);
extern void MeterSettle(MeterIndex meter, bool unflushed);
extern void MeterSetDurable(MeterIndex meter);
extern bool MeterExists(const MeterSubject *subject);
extern bool MeterHasPending(const MeterSubject *subject);
extern bool MeterAnyPending(Oid relation);
extern bool
MeterNextSettled(Oid relation, MeterIndex *meter, MeterSubject *subject, int64 *recorded);
extern void MeterStatisticsGet(MeterStatistics *statistics);

#endif
