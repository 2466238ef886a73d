/*
 * rulecache.h
 *	  What the C code needs of plans, tiers, products and blocks by hand,
 *	  cached in the backend.
 */
#ifndef RULECACHE_H
#define RULECACHE_H

#include "postgres.h"

#include "utils/inet.h"
#include "utils/timestamp.h"

#include "pure/limittext.h"
#include "pure/pattern.h"

/* A network that is blocked by hand. */
typedef struct RuleCacheBlocked
{
	struct RuleCacheBlocked *next;
	const inet *network;
	TimestampTz until; /* wall clock */
} RuleCacheBlocked;

/* False: a table cannot be locked without waiting. */
extern bool RuleCacheTierLimits(const text *tier, LimitSet *limits);
extern bool RuleCachePlanLimits(const text *plan, LimitSet *limits);
extern bool RuleCachePrefixIsKnown(const char *prefix, size_t len, bool *known);
extern bool RuleCacheProductsExist(bool *exist);
extern bool RuleCacheBlock(const PatternAddress *address, const RuleCacheBlocked **found);

#endif
