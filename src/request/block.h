/*
 * block.h
 *	  Blocked client addresses: by themselves after failures, and by hand.
 */
#ifndef APIKEYS_BLOCK_H
#define APIKEYS_BLOCK_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/guc.h"
#include "utils/inet.h"

#include "request/request.h"

extern char *BlockFailures; /* setting apikeys.ip_failures */
extern int BlockDuration;	/* setting apikeys.ip_block_duration, seconds */
extern char *BlockNever;	/* setting apikeys.ip_never_blocked */

extern bool BlockCheckFailures(char **value, void **extra, GucSource source);
extern void BlockAssignFailures(const char *value, void *extra);
extern void BlockAssignNever(const char *value, void *extra);

/* Whether requests from an address go no further. */
typedef enum BlockAnswer
{
	BLOCK_NONE,
	BLOCK_IN_FORCE,
	BLOCK_UNKNOWN /* the blocks by hand cannot be read without waiting */
} BlockAnswer;

extern BlockAnswer BlockApplies(const inet *ip, int64 *ends_after);
extern bool BlockCountFailure(const Request *request, int64 *ends_after);
extern BlockAnswer BlockExplain(const inet *ip, StringInfo detail);

/* The writer's side. */
extern bool BlockHasNews(void);
extern bool BlockRecord(void);
extern void BlockRecorded(bool more);

#endif
