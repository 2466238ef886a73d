/*
 * writer.h
 *	  The background worker that writes events to the tables.
 */
#ifndef WRITER_H
#define WRITER_H

#include "postgres.h"

extern int WriterFlushInterval; /* setting apikeys.flush_interval, milliseconds */

extern PGDLLEXPORT void WriterMain(Datum database);
extern PGDLLEXPORT void WriterMaintainMain(Datum database);

#endif
