/*
 * address.h
 *	  The client addresses that fail, in shared memory.
 */
#ifndef APIKEYS_ADDRESS_H
#define APIKEYS_ADDRESS_H

#include "postgres.h"

#include "pure/addressset.h"

/* The block of an address of this database for its failures. */
typedef struct AddressBlock
{
	PatternAddress network; /* an address of IPv4, a /64 of IPv6 */
	/* engine time, nanoseconds */
	int64 since;
	int64 until;
	uint32 failures; /* that led to it */
	bool recorded;	 /* it is on record */
} AddressBlock;

/* The failures of an address of this database that is not blocked. */
typedef struct AddressFailures
{
	PatternAddress network;
	uint64 count;	 /* in the trailing window */
	int64 failed_at; /* the latest one: engine time, nanoseconds */
	int endpoint_len;
	char endpoint[ADDRESSSET_ENDPOINT_MAX]; /* of the latest one */
} AddressFailures;

typedef struct AddressStatistics
{
	int64 addresses_used;
	int64 addresses_size;
} AddressStatistics;

extern int AddressMemory; /* setting apikeys.address_memory, kB */

extern void AddressShmemRequest(void);
extern void AddressShmemInit(void);

extern bool AddressIsBlocked(const PatternAddress *address, AddressBlock *block);
extern AddressOutcome AddressFail(const PatternAddress *address, const FailureRules *rules,
								  const char *endpoint, int endpoint_len);
extern bool AddressNextFailing(uint32 *position, AddressFailures *failures);
extern bool AddressNextBlock(uint32 *position, AddressBlock *block);
extern bool AddressLift(const PatternAddress *network);
extern uint64 AddressBlocksMade(void);
extern void AddressRecorded(const AddressBlock *block);
extern void AddressStatisticsGet(AddressStatistics *statistics);

#endif
