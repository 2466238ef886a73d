/*
 * block.c
 *	  Blocked client addresses: by themselves after failures, and by hand.
 *
 * An address that sends too many texts which are no keys is blocked by itself,
 * in shared memory (address.c), for some minutes.  A network that is blocked by
 * hand has a row in address_block, which rulecache.c keeps in each backend.
 * Both are of one database; the settings are of the whole server.
 * Networks of apikeys.ip_never_blocked are never blocked, and their failures
 * are not counted.
 *
 * A request from a blocked address goes no further: nothing is looked up,
 * metered or recorded.
 *
 * A verdict writes to no table.  So the writer records automatic blocks, in
 * audit_log and notice: in a transaction of its own, apart from its batches.
 * It finds new blocks in the table in shared memory: they need no room in the
 * queue.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "engine/address.h"
#include "engine/directory.h"
#include "pure/clock.h"
#include "pure/limittext.h"
#include "pure/pattern.h"
#include "request/block.h"
#include "request/networks.h"
#include "request/record.h"
#include "tables/rulecache.h"
#include "types/verdict.h"

#define RECORDED_AT_ONCE 64

char *BlockFailures;
int BlockDuration = 15 * 60;
char *BlockNever;

/* What the settings say. */
static UsageLimit failure_limit; /* cap 0: none */
static const NetworkList *never_blocked;

/* The writer's: blocks that the open transaction puts on record. */
static AddressBlock recorded[RECORDED_AT_ONCE];
static int recorded_count;
static uint64 blocks_seen = 0; /* all of the first so many are on record, or are over */
static uint64 blocks_found;	   /* the same once the open transaction has committed */

PG_FUNCTION_INFO_V1(apikeys_block_failing);
PG_FUNCTION_INFO_V1(apikeys_block_list);
PG_FUNCTION_INFO_V1(apikeys_block_lift);

/* Reads apikeys.ip_failures: one limit with a window, or nothing. */
bool
BlockCheckFailures(char **value, void **extra, GucSource source)
{
	LimitSet set = {0};
	char error[LIMITTEXT_ERROR_MAX];
	UsageLimit *limit;

	if (pg_strcasecmp(*value, "off") != 0 && !LimitTextParse(*value, strlen(*value), &set, error))
	{
		GUC_check_errdetail("%s.", error);
		return false;
	}
	if (set.count > 1 ||
		(set.count == 1 && (set.limits[0].cap == 0 || set.limits[0].window == LIMIT_WINDOW_TOTAL)))
	{
		GUC_check_errdetail(
			"It must be one limit with a window and a cap of at least 1, such as 20/10 minutes, "
			"or off.");
		return false;
	}
	limit = guc_malloc(LOG, sizeof(UsageLimit));
	if (limit == NULL)
		return false;
	*limit = set.limits[0];
	*extra = limit;
	return true;
}

void
BlockAssignFailures(const char *value, void *extra)
{
	failure_limit = *(const UsageLimit *) extra;
}

void
BlockAssignNever(const char *value, void *extra)
{
	never_blocked = extra;
}

static bool
isNeverBlocked(const PatternAddress *address)
{
	return NetworksHave(never_blocked, address);
}

static bool
blockedByItself(const PatternAddress *address, AddressBlock *block)
{
	return failure_limit.cap != 0 && AddressIsBlocked(address, block);
}

/* Returns how long an automatic block lasts from now on, nanoseconds. */
static int64
timeLeft(const AddressBlock *block)
{
	return Max(block->until - ClockNow(), 0);
}

/*
 * Returns how long a block by hand lasts from now on, nanoseconds, or
 * VERDICT_NEVER if it does not end by itself.
 */
static int64
timeLeftByHand(const RuleCacheBlocked *block)
{
	TimestampTz now = ClockTimestamp(ClockWallNow());

	if (block->until == DT_NOEND)
		return VERDICT_NEVER;
	return Min(Max(block->until - now, 0), PG_INT64_MAX / 2000) * 1000;
}

/*
 * Tells whether requests from an address (NULL: from none) go no further; after
 * AcceptInvalidationMessages.  If so, *ends_after is when the last block of it
 * ends, as timeLeftByHand says.
 */
BlockAnswer
BlockApplies(const inet *ip, int64 *ends_after)
{
	PatternAddress address;
	AddressBlock block;
	const RuleCacheBlocked *by_hand;
	bool by_itself;

	if (ip == NULL)
		return BLOCK_NONE;
	PatternAddressSet(&address, ip_addr(ip), ip_addrsize(ip));
	if (!RuleCacheBlock(&address, &by_hand))
		return BLOCK_UNKNOWN;
	by_itself = blockedByItself(&address, &block);
	if (likely(!by_itself && by_hand == NULL) || isNeverBlocked(&address))
		return BLOCK_NONE;
	*ends_after = by_itself ? timeLeft(&block) : 0;
	if (by_hand)
	{
		int64 by_hand_left = timeLeftByHand(by_hand);

		*ends_after =
			by_hand_left == VERDICT_NEVER ? VERDICT_NEVER : Max(*ends_after, by_hand_left);
	}
	return BLOCK_IN_FORCE;
}

/*
 * Counts a request whose text is no key as a failure of its address, if it has
 * one.  False: the address was blocked meanwhile, by failures in other
 * sessions; *ends_after is how long that lasts.
 */
bool
BlockCountFailure(const Request *request, int64 *ends_after)
{
	const inet *ip = request->ip;
	char endpoint[ADDRESSSET_ENDPOINT_MAX];
	int endpoint_len = 0;
	AddressBlock block;
	FailureRules rules = {failure_limit.cap, failure_limit.window, BlockDuration * NS_PER_SECOND};
	PatternAddress address;
	AddressOutcome outcome;

	if (ip == NULL || failure_limit.cap == 0)
		return true;
	PatternAddressSet(&address, ip_addr(ip), ip_addrsize(ip));
	if (isNeverBlocked(&address))
		return true;
	if (request->endpoint)
		endpoint_len = RecordEndpoint(request->endpoint, endpoint, sizeof(endpoint));
	outcome = AddressFail(&address, &rules, endpoint, endpoint_len);
	if (outcome == ADDRESS_BLOCKED_NOW && !RecoveryInProgress())
		DirectoryAskForNotices();
	if (outcome != ADDRESS_WAS_BLOCKED)
		return true;
	*ends_after = AddressIsBlocked(&address, &block) ? timeLeft(&block) : 0;
	return false;
}

/*
 * Tells whether requests from an address (NULL: from none) go no further, and
 * writes why.
 */
BlockAnswer
BlockExplain(const inet *ip, StringInfo detail)
{
	PatternAddress address;
	AddressBlock block;
	const RuleCacheBlocked *by_hand;

	if (ip == NULL)
	{
		appendStringInfoString(detail, "the request has no address");
		return BLOCK_NONE;
	}
	PatternAddressSet(&address, ip_addr(ip), ip_addrsize(ip));
	if (isNeverBlocked(&address))
	{
		appendStringInfoString(detail, "the address is never blocked");
		return BLOCK_NONE;
	}
	if (!RuleCacheBlock(&address, &by_hand))
		return BLOCK_UNKNOWN;
	if (by_hand)
	{
		appendStringInfo(
			detail, "%s is blocked by hand",
			DatumGetCString(DirectFunctionCall1(cidr_out, InetPGetDatum(by_hand->network))));
		if (by_hand->until != DT_NOEND)
			appendStringInfo(detail, " until %s", timestamptz_to_str(by_hand->until));
		return BLOCK_IN_FORCE;
	}
	if (blockedByItself(&address, &block))
	{
		appendStringInfo(detail, "blocked after %u failures until %s", block.failures,
						 timestamptz_to_str(ClockTimestamp(block.until)));
		return BLOCK_IN_FORCE;
	}
	return BLOCK_NONE;
}

/* Returns the network of a block as a cidr. */
static inet *
formNetwork(const PatternAddress *network)
{
	inet *formed = palloc0(sizeof(inet));

	ip_family(formed) = network->len == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(formed) = network->len == 4 ? 32 : 64;
	memcpy(ip_addr(formed), network->bytes, network->len);
	SET_INET_VARSIZE(formed);
	return formed;
}

static void
putBlock(ReturnSetInfo *result, const AddressBlock *block)
{
	Datum values[4] = {InetPGetDatum(formNetwork(&block->network)),
					   TimestampTzGetDatum(ClockTimestamp(block->since)),
					   TimestampTzGetDatum(ClockTimestamp(block->until)),
					   Int64GetDatum(block->failures)};
	bool nulls[4] = {0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Lists the addresses that are blocked by themselves; SQL: automatic_blocks. */
Datum
apikeys_block_list(PG_FUNCTION_ARGS)
{
	uint32 position = 0;
	AddressBlock block;

	InitMaterializedSRF(fcinfo, 0);
	while (failure_limit.cap != 0 && AddressNextBlock(&position, &block))
		putBlock((ReturnSetInfo *) fcinfo->resultinfo, &block);
	return (Datum) 0;
}

/*
 * Lists the addresses that have failed and are not blocked; SQL:
 * failed_addresses.
 */
Datum
apikeys_block_failing(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	uint32 position = 0;
	AddressFailures failures;

	InitMaterializedSRF(fcinfo, 0);
	while (AddressNextFailing(&position, &failures))
	{
		Datum values[4] = {
			InetPGetDatum(formNetwork(&failures.network)), Int64GetDatum((int64) failures.count),
			TimestampTzGetDatum(ClockTimestamp(failures.failed_at)),
			PointerGetDatum(cstring_to_text_with_len(failures.endpoint, failures.endpoint_len))};
		bool nulls[4] = {false, false, false, failures.endpoint_len == 0};

		CHECK_FOR_INTERRUPTS();
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Lifts the automatic blocks within a network, or of an address, and returns
 * them; SQL: lift_automatic_blocks.
 */
Datum
apikeys_block_lift(PG_FUNCTION_ARGS)
{
	const inet *network = PG_GETARG_INET_PP(0);
	int bits = ip_addrsize(network) == 16 ? Min(ip_bits(network), 64) : ip_bits(network);
	uint32 position = 0;
	AddressBlock block;

	InitMaterializedSRF(fcinfo, 0);
	while (AddressNextBlock(&position, &block))
		if (PatternNetworkContains(ip_addr(network), ip_addrsize(network), bits, &block.network) &&
			AddressLift(&block.network))
			putBlock((ReturnSetInfo *) fcinfo->resultinfo, &block);
	return (Datum) 0;
}

/*
 * Tells whether there may be blocks that are not on record; to be asked before
 * each BlockRecord.
 */
bool
BlockHasNews(void)
{
	recorded_count = 0;
	blocks_found = AddressBlocksMade();
	return blocks_found != blocks_seen;
}

/*
 * Puts blocks of this database on record, in a transaction of the writer;
 * BlockRecorded is to be called once it has committed.  True: there are more.
 */
bool
BlockRecord(void)
{
	Oid types[] = {CIDROID, INT8OID, TIMESTAMPTZOID};
	uint32 position = 0;
	bool more = false;
	AddressBlock block;

	SPI_connect();
	while (!more && AddressNextBlock(&position, &block))
	{
		Datum values[] = {InetPGetDatum(formNetwork(&block.network)), Int64GetDatum(block.failures),
						  TimestampTzGetDatum(ClockTimestamp(block.until))};

		if (block.recorded)
			continue;
		SPI_execute_with_args("SELECT apikeys_internal.record_block($1, $2, $3)", lengthof(types),
							  types, values, NULL, false, 0);
		recorded[recorded_count++] = block;
		more = (recorded_count == RECORDED_AT_ONCE);
	}
	SPI_finish();
	return more;
}

/* Takes note that what BlockRecord has written is committed. */
void
BlockRecorded(bool more)
{
	for (int i = 0; i < recorded_count; i++)
		AddressRecorded(&recorded[i]);
	if (!more)
		blocks_seen = blocks_found;
}
