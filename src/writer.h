/*
 * writer.h
 *	  The background worker that writes events to the tables.
 */
#ifndef WRITER_H
#define WRITER_H

#include "postgres.h"

/* What a writer is started for, if not for a queue or notices: in bgw_extra. */
#define WRITER_FOR_CARE	"care"

extern int	WriterFlushInterval;	/* setting apikeys.flush_interval, milliseconds */

extern PGDLLEXPORT void WriterMain(Datum database);

#endif
