/*
 * bypass.h
 *	  Triggers, rules and constraints that the writer would bypass.
 */
#ifndef BYPASS_H
#define BYPASS_H

#include "postgres.h"

#include "utils/relcache.h"

extern void BypassRefuse(Relation rel, bool deletes);

#endif
