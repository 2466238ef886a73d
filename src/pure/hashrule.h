/*
 * hashrule.h
 *	  What part of a key text its digest is made of.  Pure C.
 */
#ifndef HASHRULE_H
#define HASHRULE_H

#include "c.h"

typedef struct HashRule
{
	const char *name; /* as in key.hash_rule */
	size_t name_len;
	char separator; /* what follows the last one is hashed; 0: the whole text */
} HashRule;

/* The first hashes the whole text; ends with a NULL name. */
extern const HashRule HashRules[];

extern bool HashRuleIsNamed(const HashRule *rule, const char *name, size_t len);
extern const HashRule *HashRuleFind(const char *name, size_t len);
extern const char *
HashRulePart(const HashRule *rule, const char *key, size_t len, size_t *part_len);

#endif
