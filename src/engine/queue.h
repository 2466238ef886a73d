/*
 * queue.h
 *	  The events on their way from the backends to the writer.
 */
#ifndef QUEUE_H
#define QUEUE_H

#include "postgres.h"

#include "storage/latch.h"

#include "engine/meter.h"
#include "pure/requestid.h"

typedef enum EventKind
{
	EVENT_REQUEST,
	EVENT_COMPLETION,
	EVENT_LIMITS /* how much is used of some limits */
} EventKind;

/*
 * The record of a request, of its completion, or of limits that it has brought
 * to mind; texts, or marks, follow it.
 */
typedef struct Event
{
	uint32 size;   /* with the texts, aligned */
	uint8 kind;	   /* an EventKind */
	uint8 code;	   /* requests: the verdict's */
	bool admitted; /* requests */
	bool urgent;   /* somebody waits for it to be durable */
	int64 at;	   /* of the request, or of its completion: microseconds since the Unix epoch */
	int64 key_id;
	RequestId request_id;
	int64 account_id;	  /* of completions: only where requests are not logged; else 0 */
	MeterIndex key_meter; /* METER_NONE in completions; so the next */
	MeterIndex account_meter;
	uint32 cost; /* requests: units asked for */
	int16 status;
	bool has_duration; /* completions */
	bool has_credits;  /* completions */
	float duration_ms; /* completions */
	/*
	 * the table key: an extension made anew has no use for events of the old
	 * one
	 */
	Oid relation;
	int64 credits;	   /* completions */
	uint8 address_len; /* 0: none */
	uint8 address[16];
	bool has_endpoint;
	uint16 endpoint_len;
	uint16 category_len;
	uint16 product_len; /* 0: none was named */
	uint16 mark_count;	/* limits */
	/* endpoint, category, product; of limits the MeterMarks, unaligned */
	char texts[FLEXIBLE_ARRAY_MEMBER];
} Event;

#define EVENT_ENDPOINT_MAX 2048 /* bytes; what is longer is cut */
#define EVENT_CATEGORY_MAX 256	/* bytes; as long as a category gets */
#define EVENT_PRODUCT_MAX 256	/* bytes; as long as the name of a product gets */
#define EVENT_SIZE_MAX \
	MAXALIGN(offsetof(Event, texts) + EVENT_ENDPOINT_MAX + EVENT_CATEGORY_MAX + EVENT_PRODUCT_MAX)

typedef enum WriterState
{
	WRITER_NONE,
	WRITER_RUNNING,
	WRITER_FAILING /* runs, and could not write its last batch */
} WriterState;

#define QUEUE_ERROR_MAX 512 /* bytes, with the ending NUL */

typedef struct QueueStatistics
{
	int64 bytes_used;
	int64 bytes_size;
	int64 oldest_at; /* microseconds since the Unix epoch; 0: the queue is empty */
	int64 lag_us;	 /* of the last batch: from its first event to its commit */
	int64 written;
	int64 quarantined;
	int64 dropped;
	int64 unrecorded;
	int64 overloaded;
	int writer_pid;
	WriterState writer_state;
	char last_error[QUEUE_ERROR_MAX];
} QueueStatistics;

/* What is counted outside of the queue itself. */
typedef enum QueueCounter
{
	QUEUE_WRITTEN,
	QUEUE_QUARANTINED,
	QUEUE_DROPPED,	  /* denied requests for which there was no room */
	QUEUE_UNRECORDED, /* admitted ones, with apikeys.on_overload = allow */
	QUEUE_OVERLOADED  /* verdicts */
} QueueCounter;

#define QUEUE_COUNTERS (QUEUE_OVERLOADED + 1)

extern int QueueSize;		  /* setting apikeys.queue_size, kB */
extern int QueueMaxDatabases; /* setting apikeys.max_databases */
extern int QueueTimeout;	  /* setting apikeys.queue_timeout, milliseconds */
extern bool WriterEnabled;	  /* setting apikeys.writer_enabled */

extern void QueueShmemRequest(void);
extern void QueueShmemInit(void);
extern bool QueueExists(void);

/*
 * The backend's side: of its database's queue.  Waits end at a deadline in
 * engine time.
 */
#define QUEUE_NO_WAIT INT64CONST(0)

extern void QueueAttach(void);
extern bool QueueIsServed(int64 deadline);
extern bool QueueReserve(uint32 size, int64 deadline);
extern void QueueReleaseAll(void);
extern void QueueWakeWriter(void);
extern uint32 QueueNextSequence(void);
extern uint64 QueueAppend(const Event *event);
extern bool QueueWaitDurable(uint64 position, int64 deadline);
extern bool QueueWaitWritten(int64 deadline);
extern bool QueueWaitMaintained(int64 deadline);
extern void QueueCount(QueueCounter counter, uint64 count);
extern void QueueAskForNotices(void);
extern bool QueueStatisticsGet(QueueStatistics *statistics);

/* The writer's side. */
extern bool QueueWriterBegin(Oid database);
extern void QueueWriterEnd(void);
extern uint64 QueueTake(char *buffer, size_t size, uint64 *position);
extern void QueueAdvance(uint64 position, int64 lag_us);
extern void QueueSetDurable(uint64 position);
extern void QueueReport(WriterState state, const char *error);
extern bool QueueIsIdle(void);
extern bool QueueIsUrgent(void);
extern bool QueueHasBackends(void);
extern bool QueueTakeNotices(Oid database);
extern bool QueueMaintainIsDue(int64 now, uint64 *requests);
extern void QueueMaintained(uint64 requests, bool put_off, int64 next_at);

/* The launcher's side. */
extern void QueueLauncherBegin(void);
extern bool QueueHasWriter(Oid database);
extern uint64 QueueWritersBegun(Oid database);
extern int QueueNeedsWriter(Oid *databases, int size);

#endif
