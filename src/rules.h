/*
 * rules.h
 *	  What the C code needs of plans, tiers and products, cached in the backend.
 */
#ifndef RULES_H
#define RULES_H

#include "postgres.h"

#include "limittext.h"

extern void RulesTierLimits(const text *tier, LimitSet *limits);
extern void RulesPlanLimits(const text *plan, LimitSet *limits);
extern bool RulesPrefixIsKnown(const char *prefix, size_t len);
extern bool RulesProductsExist(void);

#endif
