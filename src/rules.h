/*
 * rules.h
 *	  What the C code needs of plans, tiers, products and blocks by hand, cached in the backend.
 */
#ifndef RULES_H
#define RULES_H

#include "postgres.h"

#include "utils/inet.h"
#include "utils/timestamp.h"

#include "limittext.h"
#include "pattern.h"

/* A network that is blocked by hand. */
typedef struct RulesBlocked
{
	struct RulesBlocked *next;
	const inet *network;
	TimestampTz until;			/* wall clock */
} RulesBlocked;

extern void RulesTierLimits(const text *tier, LimitSet *limits);
extern void RulesPlanLimits(const text *plan, LimitSet *limits);
extern bool RulesPrefixIsKnown(const char *prefix, size_t len);
extern bool RulesProductsExist(void);
extern const RulesBlocked *RulesBlock(const PatternAddress *address);

#endif
