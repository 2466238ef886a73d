/*
 * addressset.h
 *	  Failures of a few client addresses, and the blocks that follow.  Pure C.
 */
#ifndef ADDRESSSET_H
#define ADDRESSSET_H

#include "c.h"

#include "pure/pattern.h"
#include "pure/ring.h"

#define ADDRESSSET_PLACES 8
#define ADDRESSSET_ENDPOINT_MAX 95 /* bytes */

/*
 * Whose failures are counted together.  Made by AddressSubjectSet alone, so
 * equal ones are equal memory.
 */
typedef struct AddressSubject
{
	uint32 database;
	PatternAddress network; /* an address of IPv4, a /64 of IPv6 */
} AddressSubject;

/* So many failures in any trailing window block for so long. */
typedef struct FailureRules
{
	int64 cap;		/* failures; 0: nothing is counted or blocked */
	uint32 window;	/* seconds */
	int64 duration; /* nanoseconds */
} FailureRules;

typedef struct AddressEntry
{
	AddressSubject subject;
	uint32 window;	 /* of the ring */
	uint32 failures; /* that led to the block */
	bool recorded;	 /* the block is on record */
	uint8 endpoint_len;
	char endpoint[ADDRESSSET_ENDPOINT_MAX]; /* of the latest failure */
	int64 failed_at;						/* its time: nanoseconds, engine time */
	int64 blocked_at;
	int64 blocked_until; /* 0: never was */
	Ring ring;			 /* failures in the trailing window */
} AddressEntry;

/* The entry is there if its tag is not 0. */
typedef struct AddressSet
{
	uint32 tags[ADDRESSSET_PLACES];
	AddressEntry entries[ADDRESSSET_PLACES];
} AddressSet;

typedef enum AddressOutcome
{
	ADDRESS_COUNTED,
	ADDRESS_BLOCKED_NOW, /* counted, and from now on blocked */
	ADDRESS_WAS_BLOCKED	 /* not counted */
} AddressOutcome;

extern void
AddressSubjectSet(AddressSubject *subject, uint32 database, const PatternAddress *address);
extern AddressEntry *AddressSetFind(AddressSet *set, uint32 tag, const AddressSubject *subject);
extern AddressOutcome AddressSetFail(AddressSet *set, uint32 tag, const AddressSubject *subject,
									 const FailureRules *rules, int64 now);
extern void AddressSetRemove(AddressSet *set, AddressEntry *entry);

#endif
