/*
 * duties.c
 *	  What the writer does besides writing batches.
 *
 * The duties are the rows of one table, `duties`: on which occasions each is
 * done, when it is due, one step of it, and how long it pauses.  A step is a
 * small transaction of its own, as the owner of the request log, so that events
 * need not wait long for it.  A step that fails is logged, and put off.
 *
 * Maintenance is one of the duties, and is a sequence of steps itself: each is
 * repeated until there is no more of it to do; one that fails is skipped.
 *
 * All state is of this process.  What must survive it is in the tables, or in
 * the queue's shared memory: when maintenance is due, and who asked for it.
 */
#include "postgres.h"

#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "engine/directory.h"
#include "pure/clock.h"
#include "request/block.h"
#include "writer/duties.h"
#include "writer/maintain.h"
#include "writer/notice.h"
#include "writer/partition.h"
#include "writer/step.h"

#define SECONDS(n) ((n) *NS_PER_SECOND)
#define MINUTES(n) SECONDS(60 * (n))
#define HOURS(n) MINUTES(60 * (n))

/*
 * Notices and blocked addresses keep the writer alive until so many of their
 * steps in a row have failed: DROP DATABASE must become possible.  The next
 * maintenance tries again; blocks that have ended by then are not recorded.
 */
#define PATIENCE 5

/* Times are engine time, in nanoseconds. */
typedef struct Duty
{
	const char *failure; /* what the log says when a step fails */
	int occasions;		 /* DutyOccasions */

	/* Tells whether a step is to be done now. */
	bool (*is_due)(int64 now);

	/* One step; true: there is more to do at once. */
	bool (*step)(TimestampTz now);

	/*
	 * After a step, done or failed; returns whether there is more to do at
	 * once.  NULL: nothing is to be done.
	 */
	bool (*end)(bool done, bool more, int64 now);

	int64 interval;	 /* to the next step, when there is no more to do */
	int64 pause;	 /* to the next step after a failure, doubled with each */
	int64 pause_max; /* but no longer than this */
} Duty;

typedef enum DutyIndex
{
	LIMITS,
	BLOCKS,
	NOTICES,
	EXPIRING,
	MAINTENANCE
} DutyIndex;

#define DUTIES (MAINTENANCE + 1)

typedef bool (*MaintenanceStep)(TimestampTz now);

static const MaintenanceStep maintenance_steps[] = {PartitionMakeAhead,	  PartitionDropExpired,
													MaintainMergeBuckets, NoticeFindExpiring,
													NoticeDropOld,		  NULL};

/* All that this process remembers of its duties. */
static struct
{
	struct
	{
		int64 next_at; /* no step before */
		int failures;  /* of steps, in a row */
	} duties[DUTIES];

	DutyOccasion occasion; /* of the step that is due, or runs */
	const Batch *batch;	   /* the one written last; DUTY_AFTER_BATCH only */
	int64 asked_at;		   /* when somebody last asked for notices to be announced */

	/* The next step of maintenance; NULL: it is not under way. */
	const MaintenanceStep *maintenance_step;
	bool maintenance_put_off;	 /* a step of it has failed */
	uint64 maintenance_requests; /* that had been made when it began */
} state;

static const Duty duties[DUTIES];

/*
 * Returns the next event of the batch that asks for notices of limits; NULL:
 * there are no more.
 */
static const Event *
nextLimits(const Event *event)
{
	do
		event = BatchNext(state.batch, event);
	while (event && event->kind != EVENT_RISES);
	return event;
}

/* Adds the notices that the events of the batch ask for. */
static bool
addLimits(TimestampTz now)
{
	if (BatchIsWanted(state.batch))
		for (const Event *event = nextLimits(NULL); event; event = nextLimits(event))
			NoticeAddLimits(event);
	return false;
}

/*
 * If notices of limits could not be added, makes the meters tell of these
 * limits again with the next requests.
 */
static bool
limitsEnd(bool done, bool more, int64 now)
{
	if (!done)
		for (const Event *event = nextLimits(NULL); event; event = nextLimits(event))
			NoticeForgetLimits(event);
	return false;
}

/* After a failure, the limits of some batches are not tried at all. */
static bool
limitsAreDue(int64 now)
{
	if (nextLimits(NULL) == NULL)
		return false;
	if (now >= state.duties[LIMITS].next_at)
		return true;
	(void) limitsEnd(false, false, now);
	return false;
}

static bool
blocksAreDue(int64 now)
{
	return now >= state.duties[BLOCKS].next_at && BlockHasNews();
}

static bool
recordBlocks(TimestampTz now)
{
	return BlockRecord();
}

static bool
blocksEnd(bool done, bool more, int64 now)
{
	if (done)
		BlockRecorded(more);
	return more;
}

/*
 * Notices are announced when a commit has asked for it, and from time to time,
 * because that of a prepared transaction does not ask.
 */
static bool
noticesAreDue(int64 now)
{
	bool asked = DirectoryTakeNotices(MyDatabaseId);

	if (asked)
		state.asked_at = now;
	return now >= state.duties[NOTICES].next_at || (asked && state.duties[NOTICES].failures == 0);
}

/* Maintenance looks for keys that expire soon, too, but not often enough. */
static bool
expiringIsDue(int64 now)
{
	return now >= state.duties[EXPIRING].next_at && state.maintenance_step == NULL;
}

/* Only the writer asks the queue; else DutiesBeginMaintenance decides. */
static bool
maintenanceIsDue(int64 now)
{
	if (state.maintenance_step != NULL)
		return true;
	if (state.occasion != DUTY_SERVING ||
		!DirectoryMaintenanceIsDue(now, &state.maintenance_requests))
		return false;
	DutiesBeginMaintenance();
	return true;
}

/* Does one transaction of the step of maintenance that has its turn. */
static bool
maintain(TimestampTz now)
{
	return (*state.maintenance_step)(now);
}

/* Goes on to the next step of maintenance; after the last, tells the queue. */
static bool
maintenanceEnd(bool done, bool more, int64 now)
{
	const Duty *duty = &duties[MAINTENANCE];

	if (!done)
	{
		PartitionForget();
		state.maintenance_put_off = true;
	}
	if (more)
		return true;
	state.maintenance_step++;
	if (*state.maintenance_step != NULL)
		return true;
	state.maintenance_step = NULL;
	if (state.occasion == DUTY_SERVING)
		DirectoryMaintenanceDone(state.maintenance_requests, state.maintenance_put_off,
								 now + (state.maintenance_put_off ? duty->pause : duty->interval));
	return false;
}

/* In the order in which they are done. */
static const Duty duties[DUTIES] = {
	[LIMITS] = {.failure = "apikeys writer could not add notices of limits",
				.occasions = DUTY_AFTER_BATCH,
				.is_due = limitsAreDue,
				.step = addLimits,
				.end = limitsEnd,
				.pause = SECONDS(1),
				.pause_max = SECONDS(1)},
	[BLOCKS] = {.failure = "apikeys writer could not put blocked addresses on record",
				.occasions = DUTY_SERVING | DUTY_STOPPING | DUTY_WITHOUT_QUEUE,
				.is_due = blocksAreDue,
				.step = recordBlocks,
				.end = blocksEnd,
				.pause = SECONDS(10),
				.pause_max = SECONDS(10)},
	[NOTICES] = {.failure = "apikeys notices were put off",
				 .occasions = DUTY_SERVING | DUTY_WITHOUT_QUEUE,
				 .is_due = noticesAreDue,
				 .step = NoticeAnnounce,
				 .interval = MINUTES(1),
				 .pause = SECONDS(1),
				 .pause_max = MINUTES(1)},
	[EXPIRING] = {.failure = "apikeys could not look for keys that expire soon",
				  .occasions = DUTY_SERVING,
				  .is_due = expiringIsDue,
				  .step = NoticeFindExpiring,
				  .interval = HOURS(1),
				  .pause = HOURS(1),
				  .pause_max = HOURS(1)},
	[MAINTENANCE] = {.failure = "apikeys maintenance was put off",
					 .occasions = DUTY_SERVING | DUTY_MAINTAINING,
					 .is_due = maintenanceIsDue,
					 .step = maintain,
					 .end = maintenanceEnd,
					 .interval = HOURS(24),
					 .pause = MINUTES(10),
					 .pause_max = MINUTES(10)}};

/* Runs inside the transaction of a step. */
static bool
runStep(void *duty)
{
	if (!OidIsValid(get_extension_oid("apikeys", true)))
		return false;
	StepActAsOwner();
	return ((const Duty *) duty)->step(ClockTimestamp(ClockNow()));
}

/* Does one step of a duty if it is due; true: there is more to do at once. */
static bool
runDuty(DutyIndex index, DutyOccasion occasion)
{
	const Duty *duty = &duties[index];
	int64 now = ClockNow();
	bool more = false;
	bool done;
	StepError error;

	state.occasion = occasion;
	if ((duty->occasions & occasion) == 0 || !duty->is_due(now))
		return false;
	done = StepRun(runStep, (void *) duty, &more, &error);
	if (done)
	{
		state.duties[index].failures = 0;
		state.duties[index].next_at = more ? now : now + duty->interval;
	}
	else
	{
		int64 pause = duty->pause << Min(state.duties[index].failures, 10);

		state.duties[index].failures++;
		state.duties[index].next_at = now + Min(pause, duty->pause_max);
		ereport(LOG, (errmsg("%s: %s", duty->failure, error.message), errhidestmt(true)));
	}
	return duty->end ? duty->end(done, done && more, now) : done && more;
}

/*
 * Begins to serve.  Keys that expire soon are looked for later: maintenance
 * does it at first.
 */
void
DutiesBegin(int64 now)
{
	state.asked_at = now;
	state.duties[EXPIRING].next_at = now + duties[EXPIRING].interval;
}

/* Makes maintenance due. */
void
DutiesBeginMaintenance(void)
{
	state.maintenance_put_off = false;
	state.maintenance_step = maintenance_steps;
}

/*
 * Does one step of each duty that belongs to the occasion and is due; true:
 * there is more to do at once.  As soon as *stop is set, the occasion is
 * DUTY_STOPPING.
 */
bool
DutiesRun(DutyOccasion occasion, const volatile sig_atomic_t *stop)
{
	bool more = false;

	for (int i = 0; i < DUTIES; i++)
		more |= runDuty(i, *stop ? DUTY_STOPPING : occasion);
	return more;
}

/*
 * Does what the events of a batch ask for; the batch is written, and still in
 * the buffer.
 */
void
DutiesRunAfterBatch(const Batch *batch)
{
	state.batch = batch;
	for (int i = 0; i < DUTIES; i++)
		(void) runDuty(i, DUTY_AFTER_BATCH);
	state.batch = NULL;
}

/*
 * Tells whether duties keep the writer alive even if no backend needs it:
 * maintenance is under way, or there are notices to announce or blocked
 * addresses to record, and not too many attempts have failed.
 */
bool
DutiesNeedWriter(void)
{
	int notices_failures = state.duties[NOTICES].failures;

	return state.maintenance_step != NULL ||
		   (notices_failures > 0 && notices_failures < PATIENCE) ||
		   (BlockHasNews() && state.duties[BLOCKS].failures < PATIENCE);
}

/* Returns when somebody last asked for notices to be announced; engine time. */
int64
DutiesAskedAt(void)
{
	return state.asked_at;
}
