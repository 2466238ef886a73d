/*
 * addressset.c
 *	  Failures of a few client addresses, and the blocks that follow.
 *
 * A set has places for a few addresses.  What a subject is, who gives way in
 * a full set, and when failures become a block is decided here; that there
 * are many sets, in shared memory, is for address.c.
 *
 * The holder of an IPv6 address has its /64, so that counts as one.
 *
 * In a full set a newcomer takes the place of an address that is not blocked:
 * the one with the fewest failures in its window, the oldest of these.  So many
 * addresses with a failure each push out one another, not the one that has
 * nineteen. Where all are blocked, the block that would end first ends now.
 *
 * Failures still count when a block is over, as long as they are in the
 * window: where that is longer than the block, the next one blocks again.
 *
 * All this is done under a spinlock: bounded steps, and no calls but to ring.c.
 */
#include "c.h"

#include "pure/addressset.h"

#define NETWORK6_BYTES 8 /* of a /64 */

/* Makes the subject that an address belongs to. */
void
AddressSubjectSet(AddressSubject *subject, uint32 database, const PatternAddress *address)
{
	memset(subject, 0, sizeof(*subject));
	subject->database = database;
	subject->network.len = address->len;
	memcpy(subject->network.bytes, address->bytes,
		   address->len == 16 ? NETWORK6_BYTES : address->len);
}

/* Returns the subject's entry, NULL if it has none. */
AddressEntry *
AddressSetFind(AddressSet *set, uint32 tag, const AddressSubject *subject)
{
	for (int i = 0; i < ADDRESSSET_PLACES; i++)
		if (set->tags[i] == tag && memcmp(&set->entries[i].subject, subject, sizeof(*subject)) == 0)
			return &set->entries[i];
	return NULL;
}

/*
 * Tells whether the first of two entries gives way to a newcomer before the
 * second.
 */
static bool
yieldsBefore(AddressEntry *a, AddressEntry *b, int64 now)
{
	bool a_blocked = (now < a->blocked_until);
	bool b_blocked = (now < b->blocked_until);
	uint64 a_failures;
	uint64 b_failures;

	if (a_blocked != b_blocked)
		return b_blocked;
	if (a_blocked)
		return a->blocked_until < b->blocked_until;
	a_failures = RingUsed(&a->ring, now);
	b_failures = RingUsed(&b->ring, now);
	return a_failures != b_failures ? a_failures < b_failures : a->failed_at < b->failed_at;
}

/* Gives the subject a place of its own, if need be another's. */
static AddressEntry *
takePlace(AddressSet *set, uint32 tag, const AddressSubject *subject, int64 now)
{
	int place = 0;
	AddressEntry *entry;

	for (int i = 1; i < ADDRESSSET_PLACES && set->tags[place] != 0; i++)
		if (set->tags[i] == 0 || yieldsBefore(&set->entries[i], &set->entries[place], now))
			place = i;
	entry = &set->entries[place];
	memset(entry, 0, sizeof(*entry));
	entry->subject = *subject;
	set->tags[place] = tag;
	return entry;
}

/*
 * Counts a failure of the subject, unless it is blocked; the tag is not 0, and
 * always the same for a subject.
 */
AddressOutcome
AddressSetFail(AddressSet *set, uint32 tag, const AddressSubject *subject,
			   const FailureRules *rules, int64 now)
{
	AddressEntry *entry = AddressSetFind(set, tag, subject);
	uint64 failures;

	if (entry == NULL)
		entry = takePlace(set, tag, subject, now);
	if (now < entry->blocked_until)
		return ADDRESS_WAS_BLOCKED;
	if (entry->window != rules->window)
	{
		RingInit(&entry->ring, rules->window, now);
		entry->window = rules->window;
	}
	RingAdd(&entry->ring, now, 1);
	entry->failed_at = now;
	failures = RingUsed(&entry->ring, now);
	if (failures < (uint64) rules->cap)
		return ADDRESS_COUNTED;
	entry->failures = failures;
	entry->blocked_at = now;
	entry->blocked_until = now + rules->duration;
	entry->recorded = false;
	return ADDRESS_BLOCKED_NOW;
}

/* Removes an entry of the set, with its failures and its block. */
void
AddressSetRemove(AddressSet *set, AddressEntry *entry)
{
	set->tags[entry - set->entries] = 0;
}
