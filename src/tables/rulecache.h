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

extern void RuleCacheTierLimits(const text *tier, LimitSet *limits);
extern void RuleCachePlanLimits(const text *plan, LimitSet *limits);
extern bool RuleCachePrefixIsKnown(const char *prefix, size_t len);
extern bool RuleCacheProductsExist(void);
extern const RuleCacheBlocked *RuleCacheBlock(const PatternAddress *address);

#endif
