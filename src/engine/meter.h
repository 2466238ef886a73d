/*
 * meter.h
 *	  Shared-memory counters of the units that a key or an account has used.
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
	METER_READY,	 /* it has a ring for each window asked for */
	METER_TO_LOAD,	 /* the caller must load it, or some rings of it: MeterLoadBegin */
	METER_TO_ADJUST, /* the caller must read its adjustments: MeterAdjustBegin */
	METER_BUSY		 /* another process loads it: MeterWait */
} MeterReadiness;

/* What resets and grants do to one window of a subject. */
typedef struct MeterAdjustment
{
	uint32 window;
	int64 counts_from; /* units of all time that no longer count; 0: it was never reset */
	int64 granted;	   /* units above the cap, now */
} MeterAdjustment;

/* Adjustments to be read; MeterAdjustBegin gives the windows. */
typedef struct MeterAdjustments
{
	uint32 version;	  /* the meter's; when that has grown, the reading is out of date */
	int64 now;		  /* engine time: grants that end later hold */
	int64 hold_until; /* engine time when the first of them ends, METER_FOR_EVER */
	int count;
	MeterAdjustment windows[LIMITS_MAX + 1]; /* the total first */
} MeterAdjustments;

#define METER_FOR_EVER PG_INT64_MAX

/*
 * What a loader fills: rings for the windows that have none and, if the load is
 * whole, the totals.
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
	bool used;					  /* a request is on record, admitted or denied */
	MeterAdjustments adjustments; /* of all windows */
} MeterLoading;

typedef enum MeterOutcome
{
	METER_ADMITTED,
	METER_DENIED,
	/* With the following, nothing was counted: */
	METER_NOT_READY,  /* the meters must be pinned and prepared (again) */
	METER_ADMISSIBLE, /* it would be admitted, but is deny_only */
	METER_FIRST_USE	  /* of the key: needs queued and first_use_locked */
} MeterOutcome;

/* A request as the meters see it. */
typedef struct MeterRequest
{
	MeterSubject account_subject;
	MeterSubject key_subject;
	/* pinned, or a guess: MeterAdmit looks whose they are */
	MeterIndex account;
	MeterIndex key;
	const LimitSet *account_limits;
	const LimitSet *key_limits;
	uint32 cost;		   /* units */
	int64 now;			   /* engine time, as the caller read it */
	bool denied;		   /* by something else than limits: recorded, not metered */
	bool queued;		   /* an event will be appended: it counts as pending in both meters */
	bool deny_only;		   /* may not be admitted: the queue has no room for the event */
	bool first_use_locked; /* the caller holds the guard's first-use lock on the key */
} MeterRequest;

/* A limit whose level is higher than the one last noticed: near or reached. */
typedef struct MeterRise
{
	UsageLimit limit; /* its cap with what is granted on top */
	int64 used;
	bool of_account;
	bool reached; /* all of it; else near: 80 % */
} MeterRise;

#define METER_RISES_MAX (2 * LIMITS_MAX)

/* The meters' answer.  Times are in nanoseconds, RING_NEVER for never. */
typedef struct MeterDecision
{
	int64 at; /* engine time of the request: no earlier request of a meter is later */
	bool first_use;
	bool use_durable; /* before this request */
	bool limited;	  /* there is a limit to show: the next five are set */
	bool of_account;
	UsageLimit limit; /* its cap with what is granted on top */
	int64 remaining;
	int64 reset_after;
	int64 retry_after; /* denied requests only */
	bool has_news;	   /* the level of some limit has changed */
	int rise_count;	   /* 0 if the request is not queued */
	MeterRise rises[METER_RISES_MAX];
} MeterDecision;

/* What a reader sees of a meter; the arrays in the order of its limits. */
typedef struct MeterReading
{
	int64 latest;	/* engine time: no request of the meter was later */
	int64 total;	/* units of all time */
	int64 recorded; /* of these: the others have no event */
	bool has_ring[LIMITS_MAX];
	Ring rings[LIMITS_MAX];
} MeterReading;

typedef struct MeterStatistics
{
	int64 meters_used;
	int64 meters_size;
	int64 rings_used;
	int64 rings_size;
	int64 evictions;
} MeterStatistics;

extern int MeterMemory; /* setting apikeys.meter_memory, kB */

/* meter.c */
extern void MeterPrefetch(MeterIndex meter);
extern void MeterPrefetchRings(MeterIndex meter);
extern MeterOutcome MeterAdmit(const MeterRequest *request, MeterDecision *decision);
extern void MeterRetire(MeterIndex meter, bool unflushed);
extern void MeterSetDurable(MeterIndex meter);
extern void MeterForgetLevels(const MeterSubject *subject);
extern int64 MeterCap(const UsageLimit *limit, int64 granted);
extern bool MeterRead(const MeterSubject *subject, const LimitSet *limits, MeterReading *reading);
extern bool MeterIsUsed(MeterIndex meter);

/* meterpool.c */
extern void MeterShmemRequest(void);
extern void MeterShmemInit(void);
extern void MeterSubjectSet(MeterSubject *subject, Oid relation, MeterKind kind, int64 id);
extern MeterIndex MeterPin(const MeterSubject *subject);
extern void MeterUnpinAll(void);
extern bool MeterExists(const MeterSubject *subject);
extern bool MeterHasPending(const MeterSubject *subject);
extern bool MeterAnyPending(Oid relation);
extern bool MeterNextIdle(Oid relation, MeterIndex *meter, MeterSubject *subject, int64 *recorded);
extern void MeterStatisticsGet(MeterStatistics *statistics);

/* meterload.c */
extern MeterReadiness MeterPrepare(MeterIndex meter, const LimitSet *limits);
extern bool MeterWait(MeterIndex meter, int64 deadline);
extern bool
MeterLoadBegin(MeterIndex meter, const LimitSet *limits, int64 deadline, MeterLoading *loading);
extern void MeterLoadEnd(const MeterLoading *loading);
extern void MeterAdjustBegin(MeterIndex meter, MeterAdjustments *adjustments);
extern bool MeterAdjustEnd(MeterIndex meter, const MeterAdjustments *adjustments);
extern void MeterAdjusted(const MeterSubject *subject);
extern int64 MeterUnitsSince(int64 total, int64 counts_from);

#endif
