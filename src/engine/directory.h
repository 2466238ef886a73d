/*
 * directory.h
 *	  Which database has which queue, who uses it, and what its writer is asked
 *	  for.
 *
 * Waits end at a deadline in engine time.
 */
#ifndef DIRECTORY_H
#define DIRECTORY_H

#include "postgres.h"

#include "engine/queue.h"

typedef enum WriterState
{
	WRITER_NONE,
	WRITER_RUNNING,
	WRITER_FAILING /* runs, and could not write its last batch */
} WriterState;

#define DIRECTORY_ERROR_MAX 512 /* bytes, with the ending NUL */

/* Of a database's queue. */
typedef struct DirectoryStatistics
{
	int64 bytes_used;
	int64 bytes_size;
	int64 oldest_at; /* microseconds since the Unix epoch; 0: the queue is empty */
	int64 lag_us;	 /* of the last batch: from its first event to its commit */
	int64 counters[QUEUE_COUNTERS];
	int writer_pid;
	WriterState writer_state;
	char last_error[DIRECTORY_ERROR_MAX];
} DirectoryStatistics;

/* Of the server's launcher. */
typedef struct LauncherStatistics
{
	int pid;		   /* 0: it does not run */
	WriterState state; /* failing: it could not start a worker */
	char last_error[DIRECTORY_ERROR_MAX];
} LauncherStatistics;

extern int DirectoryMaxDatabases; /* setting apikeys.max_databases */
extern bool WriterEnabled;		  /* setting apikeys.writer_enabled */

extern void DirectoryShmemRequest(void);
extern void DirectoryShmemInit(void);
extern bool DirectoryExists(void);

/* The backend's side. */
extern void DirectoryAttach(void);
extern bool DirectoryIsServed(int64 deadline);
extern void DirectoryWakeWriter(void);
extern bool DirectoryMaintain(int64 deadline);
extern void DirectoryAskForNotices(void);
extern bool DirectoryStatisticsGet(DirectoryStatistics *statistics);
extern void DirectoryLauncherGet(LauncherStatistics *statistics);

/* The writer's side. */
extern bool DirectoryWriterBegin(Oid database);
extern void DirectoryWriterEnd(void);
extern void DirectoryReport(WriterState state, const char *error);
extern bool DirectoryHasBackends(void);
extern bool DirectoryTakeNotices(Oid database);
extern bool DirectoryMaintenanceIsDue(int64 now, uint64 *requests);
extern void DirectoryMaintenanceDone(uint64 requests, bool put_off, int64 next_at);

/* The launcher's side. */
extern void DirectoryLauncherBegin(void);
extern void DirectoryLauncherReport(const char *error);
extern bool DirectoryHasWriter(Oid database);
extern uint64 DirectoryWritersBegun(Oid database);
extern int DirectoryNeedsWriter(Oid *databases, int size);

#endif
