/*
 * step.h
 *	  One transaction of the writer, and what surrounds it.
 */
#ifndef STEP_H
#define STEP_H

#include "postgres.h"

#include "engine/directory.h"

/* How a step failed. */
typedef struct StepError
{
	char message[DIRECTORY_ERROR_MAX]; /* cut where it is longer */
	int sqlstate;
} StepError;

extern void StepConnect(Oid database);
extern void StepTakeInterrupts(void);
extern bool StepRun(bool (*work)(void *), void *argument, bool *result, StepError *error);
extern bool StepDatabaseIsClaimed(Oid database);
extern void StepActAsOwner(void);
extern bool StepErrorIsTransient(const StepError *error);

#endif
