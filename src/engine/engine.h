/*
 * engine.h
 *	  Whether requests can be metered and recorded here.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "postgres.h"

extern bool EngineLogRequests; /* setting apikeys.log_requests */

extern void EngineRequirePreload(void);
extern void EngineRequire(void);

#endif
