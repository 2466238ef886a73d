/*
 * address.c
 *	  The client addresses that fail, in shared memory.
 *
 * They have a table of their own, so that failures from a million addresses do
 * not evict the meters of keys and accounts.  It never grows:
 * apikeys.address_memory is cut into sets (addressset.c), and a hash tells in
 * which set an address of a database has its place.  The hash has a secret
 * seed, so that nobody can find many addresses of one set.
 *
 * Nothing is loaded, and nothing outlives the server: blocks last minutes.
 *
 * Locks: each set has one spinlock for all that is in it; nobody holds two of
 * them.  Under it there are only bounded steps that cannot throw, allocate or
 * wait.  Only the tags are first read without it: nearly all addresses are in
 * no set, and for these that is one cache line and no lock.  A block that is
 * made at the same moment may be missed.
 *
 * The writer records blocks (block.c).  blocks_made tells it that there are new
 * ones; recorded, in each entry, which are not new any more.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "engine/address.h"
#include "pure/clock.h"

typedef struct AddressSetShared
{
	slock_t mutex;
	AddressSet set;
} AddressSetShared;

typedef union AddressSetPadded
{
	AddressSetShared shared;
	char pad[TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(AddressSetShared))];
} AddressSetPadded;

typedef struct AddressControlShared
{
	/* constant */
	uint32 set_count;
	uint64 seed;

	pg_atomic_uint64 blocks_made; /* since the server started */
} AddressControlShared;

int AddressMemory = 4 * 1024;

static AddressControlShared *control = NULL;
static AddressSetPadded *sets;

static uint32
countSets(void)
{
	return Max(1, (size_t) AddressMemory * 1024 / sizeof(AddressSetPadded));
}

/* Asks for shared memory; from shmem_request_hook. */
void
AddressShmemRequest(void)
{
	size_t size = CACHELINEALIGN(sizeof(AddressControlShared));

	size = add_size(size, mul_size(countSets(), sizeof(AddressSetPadded)));
	RequestAddinShmemSpace(add_size(size, 2 * PG_CACHE_LINE_SIZE));
}

/*
 * Finds or makes the sets; from shmem_startup_hook, with AddinShmemInitLock
 * held.
 */
void
AddressShmemInit(void)
{
	bool found;

	control = ShmemInitStruct("apikeys address control", sizeof(AddressControlShared), &found);
	sets = ShmemInitStruct("apikeys addresses", mul_size(countSets(), sizeof(AddressSetPadded)),
						   &found);
	if (found)
		return;

	control->set_count = countSets();
	if (!pg_strong_random(&control->seed, sizeof(control->seed)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not get random bytes")));
	pg_atomic_init_u64(&control->blocks_made, 0);
	for (uint32 i = 0; i < control->set_count; i++)
	{
		memset(&sets[i], 0, sizeof(sets[i]));
		SpinLockInit(&sets[i].shared.mutex);
	}
}

/*
 * Makes the subject of an address of this database; returns its set and, never
 * 0, its tag.
 */
static AddressSetShared *
findSet(const PatternAddress *address, AddressSubject *subject, uint32 *tag)
{
	uint64 hash;

	AddressSubjectSet(subject, MyDatabaseId, address);
	hash = hash_bytes_extended((const unsigned char *) subject, sizeof(*subject), control->seed);
	*tag = (uint32) (hash >> 32) | 1;
	return &sets[(uint32) hash % control->set_count].shared;
}

/* Tells whether the set may have an entry with the tag.  Needs no lock. */
static bool
hasTag(const AddressSetShared *shared, uint32 tag)
{
	const volatile uint32 *tags = shared->set.tags;

	for (int i = 0; i < ADDRESSSET_PLACES; i++)
		if (tags[i] == tag)
			return true;
	return false;
}

static void
describeBlock(const AddressEntry *entry, AddressBlock *block)
{
	block->network = entry->subject.network;
	block->since = entry->blocked_at;
	block->until = entry->blocked_until;
	block->failures = entry->failures;
	block->recorded = entry->recorded;
}

/*
 * Tells whether the address is blocked for its failures; if so, describes the
 * block in *block, unless that is NULL.
 */
bool
AddressIsBlocked(const PatternAddress *address, AddressBlock *block)
{
	AddressSubject subject;
	uint32 tag;
	AddressSetShared *shared;
	AddressEntry *entry;
	int64 now;
	bool blocked;

	if (control == NULL)
		return false;
	shared = findSet(address, &subject, &tag);
	if (likely(!hasTag(shared, tag)))
		return false;
	now = ClockNow();
	SpinLockAcquire(&shared->mutex);
	entry = AddressSetFind(&shared->set, tag, &subject);
	blocked = (entry && now < entry->blocked_until);
	if (blocked && block)
		describeBlock(entry, block);
	SpinLockRelease(&shared->mutex);
	return blocked;
}

/*
 * Counts a failure of the address, unless it is blocked, and keeps the endpoint
 * that it has asked for, of at most ADDRESSSET_ENDPOINT_MAX bytes.
 */
AddressOutcome
AddressFail(const PatternAddress *address, const FailureRules *rules, const char *endpoint,
			int endpoint_len)
{
	AddressSubject subject;
	uint32 tag;
	AddressSetShared *shared;
	int64 now = ClockNow();
	AddressOutcome outcome;

	if (control == NULL)
		return ADDRESS_COUNTED;
	shared = findSet(address, &subject, &tag);
	SpinLockAcquire(&shared->mutex);
	outcome = AddressSetFail(&shared->set, tag, &subject, rules, now);
	if (outcome != ADDRESS_WAS_BLOCKED)
	{
		AddressEntry *entry = AddressSetFind(&shared->set, tag, &subject);

		entry->endpoint_len = endpoint_len;
		memcpy(entry->endpoint, endpoint, endpoint_len);
	}
	SpinLockRelease(&shared->mutex);
	if (outcome == ADDRESS_BLOCKED_NOW)
		pg_atomic_fetch_add_u64(&control->blocks_made, 1);
	return outcome;
}

/*
 * Goes on from a position, 0 at first, to the next address of this database
 * that is blocked; false: there are no more.
 */
bool
AddressNextBlock(uint32 *position, AddressBlock *block)
{
	uint32 end = control ? control->set_count * ADDRESSSET_PLACES : 0;
	int64 now = ClockNow();
	bool found = false;

	while (!found && *position < end)
	{
		AddressSetShared *shared = &sets[*position / ADDRESSSET_PLACES].shared;
		int place = (*position)++ % ADDRESSSET_PLACES;
		AddressEntry *entry = &shared->set.entries[place];

		SpinLockAcquire(&shared->mutex);
		found = (shared->set.tags[place] != 0 && entry->subject.database == MyDatabaseId &&
				 now < entry->blocked_until);
		if (found)
			describeBlock(entry, block);
		SpinLockRelease(&shared->mutex);
	}
	return found;
}

/*
 * Goes on from a position, 0 at first, to the next address of this database
 * that has failed within the trailing window and is not blocked; false: there
 * are no more.
 */
bool
AddressNextFailing(uint32 *position, AddressFailures *failures)
{
	uint32 end = control ? control->set_count * ADDRESSSET_PLACES : 0;
	int64 now = ClockNow();

	failures->count = 0;
	while (failures->count == 0 && *position < end)
	{
		AddressSetShared *shared = &sets[*position / ADDRESSSET_PLACES].shared;
		int place = (*position)++ % ADDRESSSET_PLACES;
		AddressEntry *entry = &shared->set.entries[place];

		SpinLockAcquire(&shared->mutex);
		if (shared->set.tags[place] != 0 && entry->subject.database == MyDatabaseId &&
			now >= entry->blocked_until)
		{
			failures->network = entry->subject.network;
			failures->count = RingUsed(&entry->ring, now);
			failures->failed_at = entry->failed_at;
			failures->endpoint_len = entry->endpoint_len;
			memcpy(failures->endpoint, entry->endpoint, entry->endpoint_len);
		}
		SpinLockRelease(&shared->mutex);
	}
	return failures->count > 0;
}

/*
 * Lifts the block of an address and forgets its failures; false: none was
 * there.
 */
bool
AddressLift(const PatternAddress *network)
{
	AddressSubject subject;
	uint32 tag;
	AddressSetShared *shared = findSet(network, &subject, &tag);
	AddressEntry *entry;

	SpinLockAcquire(&shared->mutex);
	entry = AddressSetFind(&shared->set, tag, &subject);
	if (entry)
		AddressSetRemove(&shared->set, entry);
	SpinLockRelease(&shared->mutex);
	return entry != NULL;
}

/*
 * Returns how many blocks there have been since the server started, in all
 * databases.
 */
uint64
AddressBlocksMade(void)
{
	return pg_atomic_read_u64(&control->blocks_made);
}

/* Notes that the block is on record. */
void
AddressRecorded(const AddressBlock *block)
{
	AddressSubject subject;
	uint32 tag;
	AddressSetShared *shared = findSet(&block->network, &subject, &tag);
	AddressEntry *entry;

	SpinLockAcquire(&shared->mutex);
	entry = AddressSetFind(&shared->set, tag, &subject);
	if (entry && entry->blocked_at == block->since)
		entry->recorded = true;
	SpinLockRelease(&shared->mutex);
}

/* Gives the figures of the whole server. */
void
AddressStatisticsGet(AddressStatistics *statistics)
{
	statistics->addresses_used = 0;
	statistics->addresses_size = (int64) control->set_count * ADDRESSSET_PLACES;
	for (uint32 i = 0; i < control->set_count; i++)
	{
		const volatile uint32 *tags = sets[i].shared.set.tags;

		for (int j = 0; j < ADDRESSSET_PLACES; j++)
			statistics->addresses_used += (tags[j] != 0);
	}
}
