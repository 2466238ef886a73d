/*
 * apikeys.c
 *	  The library: its settings.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "clock.h"
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
}
