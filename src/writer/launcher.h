/*
 * launcher.h
 *	  The background worker that starts a writer for each database that needs
 *	  one.
 */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include "postgres.h"

#define LAUNCHER_DATABASES_MAX 64 /* with a queue */

extern void LauncherRegister(void);
extern void LauncherCheckPlaces(void);
extern PGDLLEXPORT void LauncherMain(Datum unused);

#endif
