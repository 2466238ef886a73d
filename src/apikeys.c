/*
 * apikeys.c
 *	  The library: its settings, its hooks, and a map of its files.
 *
 * pure/: nothing of the server
 *	keytext			the text of a key: shape, checksum, hint, locator
 *	limittext		the text of limits
 *	ring			units used in one trailing window
 *	pattern			domains, origins, addresses, networks
 *	addressset		failures of a few addresses, and the blocks that follow
 *	forwarded		the addresses that proxies tell
 *	requestid		the id of a request: a UUIDv7 that finds its row
 *	hashrule		what part of a key text its digest is made of
 *	nametext		names that look like what they are
 *	clock			engine time and the wall clock
 *	bucket			how long the buckets are in which usage is stored
 *	secret			libsodium: random secrets, digests, comparison, wiping
 *
 * types/: the SQL types
 *	limits			caps by window
 *	digest			SHA-256 of a key text
 *	verdict			the answer to a request
 *	response		the HTTP response to it
 *
 * engine/: shared memory, never SPI or catalogs
 *	meter			counters of keys and accounts: admit, read, retire
 *	meterpool		their shared memory, hash, pins and eviction
 *	meterload		their states, loading, resets and grants
 *	address			the client addresses that fail
 *	event.h			what goes from a backend to the writer
 *	queue			events on their way: a ring of bytes
 *	directory		which database has which queue and writer
 *	wait			waits, each with a wait event of its own
 *	waitpoint		places where a test can hold a process
 *	engine			whether requests can be metered; stats, flush, maintain
 *
 * tables/: rows without SQL
 *	catalog			tables, columns and indexes by name; scans
 *	rows			inserts and updates
 *	bypass			triggers and rules that would be bypassed
 *	refuse			errors that say which column they are about
 *	rulecache		plans, tiers, products and blocks by hand, cached
 *
 * request/: what decides about a request
 *	request			its arguments
 *	identity		for whom the transaction acts
 *	reach			which accounts it may read and change
 *	lookup			from key text to rows
 *	productlist		the products of a key
 *	hint			where a backend found rows before
 *	policy			the checks that need no meters
 *	block			blocked client addresses
 *	networks		settings that list networks
 *	client			the client's address behind proxies
 *	guard			used keys stay
 *	adjustment		resets and grants
 *	usage			usage as the tables have it
 *	metering		meters of a call, loaded from the tables
 *	limitstatus		how much of limits is used
 *	limitsused		the same, as lists of keys show it
 *	authenticate	all checks but the meters
 *	call			deadline and waits of a call
 *	record			a request is metered and recorded
 *	verify			the whole protocol of a request
 *	complete		how a request ended
 *
 * writer/: the background workers
 *	launcher		the worker that starts writers
 *	writer			the worker that writes
 *	step			one transaction of it, and what surrounds it
 *	duties			what it does besides batches
 *	batch			events become rows
 *	logrow			events as rows of the log
 *	tally			what the events of a batch add to usage
 *	partition		the partitions of the log
 *	maintain		merging of old buckets
 *	notice			what to tell users
 *
 * manage/: what the management functions need of C
 *	key				new key texts and their digests
 *	import			rows of import_keys
 *	redact			no key text in the server's log
 *	drop			the removal of the extension while it is in use
 *	text			what callers may send to be stored
 *
 * Each module declares its settings in its header; they are defined here.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "engine/address.h"
#include "engine/directory.h"
#include "engine/engine.h"
#include "engine/meter.h"
#include "engine/queue.h"
#include "engine/wait.h"
#include "manage/drop.h"
#include "manage/key.h"
#include "manage/redact.h"
#include "pure/clock.h"
#include "pure/secret.h"
#include "request/block.h"
#include "request/call.h"
#include "request/client.h"
#include "request/networks.h"
#include "request/record.h"
#include "types/verdict.h"
#include "writer/launcher.h"
#include "writer/logrow.h"
#include "writer/notice.h"
#include "writer/partition.h"
#include "writer/writer.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;

/*
 * Defines the settings that size shared memory.  Without preloading they do
 * nothing, but the configuration may have them, and each session that loads the
 * library would warn of settings that nobody has defined.  PGC_POSTMASTER is
 * refused then.
 */
static void
defineStartSettings(bool preloading)
{
	GucContext context = preloading ? PGC_POSTMASTER : PGC_SIGHUP;

	DefineCustomIntVariable(
		"apikeys.meter_memory", "Shared memory for the meters of keys and accounts.",
		"Some 2 kB each; subjects that do not fit are loaded from the tables when they come.",
		&MeterMemory, 64 * 1024, 256, MAX_KILOBYTES, context, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"apikeys.address_memory", "Shared memory for the client addresses that fail.",
		"Some 600 bytes each; an address that has no place takes that of the one with the "
		"fewest failures.",
		&AddressMemory, 4 * 1024, 64, MAX_KILOBYTES, context, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"apikeys.queue_size",
		"Shared memory for the events that wait to be written, for each database.", NULL,
		&QueueSize, 8 * 1024, 64, 1024 * 1024, context, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("apikeys.max_databases",
							"How many databases of the server can verify keys at the same time.",
							NULL, &DirectoryMaxDatabases, 4, 1, LAUNCHER_DATABASES_MAX, context, 0,
							NULL, NULL, NULL);
}

/* Defines the settings of verify and the writer. */
static void
defineEngineSettings(void)
{
	static const struct config_enum_entry on_overload[] = {
		{"deny", OVERLOAD_DENY, false}, {"allow", OVERLOAD_ALLOW, false}, {NULL, 0, false}};
	static const struct config_enum_entry log_addresses[] = {
		{"full", LOG_ADDRESS_FULL, false},
		{"network", LOG_ADDRESS_NETWORK, false},
		{"none", LOG_ADDRESS_NONE, false},
		{NULL, 0, false}};

	DefineCustomBoolVariable("apikeys.writer_enabled", "Writes queued events to the tables.",
							 "Off: no writer runs, and requests are denied when the queue is full.",
							 &WriterEnabled, true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("apikeys.flush_interval", "Time between two batches of the writer.",
							NULL, &WriterFlushInterval, 200, 1, 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomBoolVariable(
		"apikeys.log_requests", "Writes a row into the request log for each request.",
		"Usage is counted either way.", &EngineLogRequests, true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomEnumVariable("apikeys.log_address",
							 "How client addresses are logged: full, network (/24 or /48) or none.",
							 NULL, &LogRowAddress, LOG_ADDRESS_FULL, log_addresses, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("apikeys.log_query_string",
							 "Logs the endpoints of requests with their query strings.",
							 "Off: what follows the first ? or # of an endpoint is left out.",
							 &RecordQueryString, false, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("apikeys.log_retention",
							"Days for which the request log is kept; 0: for ever.", NULL,
							&PartitionRetention, 0, 0, 36500, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("apikeys.notice_retention",
							"Days for which notices are kept that were announced; 0: for ever.",
							NULL, &NoticeRetention, 30, 0, 36500, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomEnumVariable(
		"apikeys.on_overload",
		"What becomes of requests that cannot be recorded: deny, or allow without a record.",
		"The first use of a key is always recorded or denied.", &RecordOnOverload, OVERLOAD_DENY,
		on_overload, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("apikeys.quota_status", "HTTP status of the verdict quota_exceeded.",
							NULL, &QuotaStatus, 401, 400, 499, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable(
		"apikeys.synchronous_usage",
		"Gives a verdict only when its record would survive a crash of the server.", NULL,
		&CallSynchronous, false, PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("apikeys.queue_timeout",
							"How long a request may wait in all before its verdict is overloaded.",
							NULL, &QueueTimeout, 5000, 1, 3600 * 1000, PGC_SUSET, GUC_UNIT_MS, NULL,
							NULL, NULL);
}

/* Defines the settings of client addresses. */
static void
defineAddressSettings(void)
{
	DefineCustomStringVariable(
		"apikeys.ip_failures",
		"How many requests without a genuine key block an address, and in which trailing "
		"window; off: none.",
		"Counted by address of IPv4 or /64 of IPv6.", &BlockFailures, "20/10 minutes", PGC_SIGHUP,
		0, BlockCheckFailures, BlockAssignFailures, NULL);

	DefineCustomIntVariable("apikeys.ip_block_duration",
							"How long an address stays blocked that apikeys.ip_failures blocks.",
							NULL, &BlockDuration, 15 * SECS_PER_MINUTE, 1, 366 * SECS_PER_DAY,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	DefineCustomStringVariable(
		"apikeys.ip_never_blocked",
		"Addresses and networks that are never blocked, separated by commas.",
		"Those that many share.", &BlockNever, "", PGC_SIGHUP, GUC_LIST_INPUT, NetworksCheck,
		BlockAssignNever, NULL);

	DefineCustomStringVariable(
		"apikeys.trusted_proxies",
		"Addresses and networks of your proxies, separated by commas, for client_address.", NULL,
		&ClientTrustedProxies, "", PGC_SIGHUP, GUC_LIST_INPUT, NetworksCheck,
		ClientAssignTrustedProxies, NULL);
}

/* Read by the audit log alone, through current_setting(). */
static char *Actor;

/* Defines the settings of the rest. */
static void
defineSettings(void)
{
	DefineCustomRealVariable(
		"apikeys.debug_clock_offset", "Moves the clock of this session, for tests.",
		"What one session has moved forward does not move back for the others.", &ClockDebugOffset,
		0, -CLOCK_DEBUG_OFFSET_MAX, CLOCK_DEBUG_OFFSET_MAX, PGC_SUSET,
		GUC_UNIT_S | GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);

	DefineCustomStringVariable(
		"apikeys.actor", "On whose behalf this session acts, for the audit log.",
		"What the application says, unproven; the log has the session's user beside it.", &Actor,
		"", PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("apikeys.create_accounts",
							 "Makes an account that create_key does not know.", NULL,
							 &KeyCreateAccounts, true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"apikeys.expiry_notice", "How long before its expiry a key counts as expiring.", NULL,
		&KeyExpiryNotice, 7 * MINS_PER_HOUR * HOURS_PER_DAY, 0, 366 * MINS_PER_HOUR * HOURS_PER_DAY,
		PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("apikeys.upgrade_days",
							"Working days within which an upgrade request is to be decided.", NULL,
							&KeyUpgradeDays, 2, 1, 100, PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
requestShmem(void)
{
	if (next_shmem_request)
		next_shmem_request();
	MeterShmemRequest();
	AddressShmemRequest();
	DirectoryShmemRequest();
}

static void
startShmem(void)
{
	if (next_shmem_startup)
		next_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	MeterShmemInit();
	AddressShmemInit();
	DirectoryShmemInit();
	LWLockRelease(AddinShmemInitLock);
	WaitInit();
	LauncherCheckPlaces();
}

void
_PG_init(void)
{
	if (!SecretInit())
		ereport(ERROR, errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not initialize libsodium"));
	ClockInit();
	defineSettings();
	RedactInit();
	DropInit();
	defineStartSettings(process_shared_preload_libraries_in_progress);
	defineEngineSettings();
	defineAddressSettings();

	/*
	 * The rest is for a preloaded library: loaded later, it cannot have shared
	 * memory.
	 */
	if (process_shared_preload_libraries_in_progress)
	{
		next_shmem_request = shmem_request_hook;
		shmem_request_hook = requestShmem;
		next_shmem_startup = shmem_startup_hook;
		shmem_startup_hook = startShmem;
		LauncherRegister();
	}
	MarkGUCPrefixReserved("apikeys");
}
