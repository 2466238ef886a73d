/*
 * apikeys.c
 *	  The library: its settings.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "key.h"
#include "redact.h"
#include "secret.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/*
 * Defines the settings that every process may read.
 */
static void
defineSettings(void)
{
	DefineCustomRealVariable("apikeys.debug_clock_offset",
							 "Moves the clock of this session, for tests.",
							 "What one session has moved forward does not move back for the others.",
							 &ClockDebugOffset,
							 0, -CLOCK_DEBUG_OFFSET_MAX, CLOCK_DEBUG_OFFSET_MAX,
							 PGC_SUSET,
							 GUC_UNIT_S | GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("apikeys.create_accounts",
							 "Makes an account that create_key does not know.",
							 NULL,
							 &KeyCreateAccounts,
							 true,
							 PGC_SIGHUP,
							 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("apikeys.expiry_notice",
							"How long before its expiry a key counts as expiring.",
							NULL,
							&KeyExpiryNotice,
							7 * MINS_PER_HOUR * HOURS_PER_DAY, 0, 366 * MINS_PER_HOUR * HOURS_PER_DAY,
							PGC_SIGHUP,
							GUC_UNIT_MIN,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("apikeys");
}

void
_PG_init(void)
{
	if (!SecretInit())
		ereport(ERROR,
				errcode(ERRCODE_SYSTEM_ERROR),
				errmsg("could not initialize libsodium"));
	ClockInit();
	defineSettings();
	RedactInit();
}
