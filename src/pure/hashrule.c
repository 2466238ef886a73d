/*
 * hashrule.c
 *	  What part of a key text its digest is made of.  Pure C.
 *
 * Our own keys are hashed whole.  Other systems, whose keys can be imported,
 * hash what follows a separator.  This table is the only list of the rules: the
 * CHECK constraints of the table key ask it, too.
 */
#include "c.h"

#include "pure/hashrule.h"

#define RULE(name, separator) \
	{ \
		name, sizeof(name) - 1, separator \
	}

const HashRule HashRules[] = {RULE("sha256", 0),
							  RULE("sha256_after_bar", '|'),		/* Laravel Sanctum */
							  RULE("sha256_after_underscore", '_'), /* prefixed API keys */
							  {NULL}};

/* Tells whether the rule has this name. */
bool
HashRuleIsNamed(const HashRule *rule, const char *name, size_t len)
{
	return len == rule->name_len && memcmp(name, rule->name, len) == 0;
}

/* Returns the rule with a name; NULL: there is none. */
const HashRule *
HashRuleFind(const char *name, size_t len)
{
	for (const HashRule *rule = HashRules; rule->name; rule++)
		if (HashRuleIsNamed(rule, name, len))
			return rule;
	return NULL;
}

/*
 * Returns the part of a key text that the rule hashes; NULL: the text has none,
 * or it is empty.
 */
const char *
HashRulePart(const HashRule *rule, const char *key, size_t len, size_t *part_len)
{
	size_t start = 0;

	if (rule->separator)
	{
		start = len;
		while (start > 0 && key[start - 1] != rule->separator)
			start--;
		if (start == 0)
			return NULL;
	}
	*part_len = len - start;
	return start == len ? NULL : key + start;
}
