/*
 * hashrule.c
 *	  Tests of src/pure/hashrule.c.
 */
#include "c.h"

#include "pure/hashrule.h"
#include "unit.h"

/* Tells whether a rule hashes this part of a key text; NULL: none. */
static bool
hashes(const char *name, const char *key, const char *expected)
{
	const HashRule *rule = HashRuleFind(name, strlen(name));
	size_t len = 0;
	const char *part = HashRulePart(rule, key, strlen(key), &len);

	if (part == NULL || expected == NULL)
		return part == expected;
	return len == strlen(expected) && memcmp(part, expected, len) == 0;
}

static void
testNames(void)
{
	CHECK(HashRules[0].separator == 0);
	for (const HashRule *rule = HashRules; rule->name; rule++)
	{
		CHECK(rule->name_len == strlen(rule->name));
		CHECK(HashRuleFind(rule->name, rule->name_len) == rule);
		CHECK(HashRuleIsNamed(rule, rule->name, rule->name_len));
		CHECK(HashRuleFind(rule->name, rule->name_len - 1) == NULL);
	}
	CHECK(!HashRuleIsNamed(&HashRules[1], "sha256", 6));
	CHECK(HashRuleFind("md5", 3) == NULL);
	CHECK(HashRuleFind("SHA256", 6) == NULL);
	CHECK(HashRuleFind("", 0) == NULL);
}

static void
testParts(void)
{
	CHECK(hashes("sha256", "12|ab_c", "12|ab_c"));
	CHECK(hashes("sha256", "", NULL));
	CHECK(hashes("sha256_after_bar", "12|ab_c", "ab_c"));
	CHECK(hashes("sha256_after_bar", "1|2|c", "c"));
	CHECK(hashes("sha256_after_bar", "|c", "c"));
	CHECK(hashes("sha256_after_bar", "12|", NULL));
	CHECK(hashes("sha256_after_bar", "12_c", NULL));
	CHECK(hashes("sha256_after_bar", "", NULL));
	CHECK(hashes("sha256_after_underscore", "my_key_c|d", "c|d"));
	CHECK(hashes("sha256_after_underscore", "my_", NULL));
}

int
main(void)
{
	testNames();
	testParts();
	return UnitReport();
}
