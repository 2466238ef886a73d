/*
 * nametext.c
 *	  Tests of src/pure/nametext.c.
 */
#include "c.h"

#include "pure/nametext.h"
#include "unit.h"

static uint32 character;

static NameTextFault
check(const char *name, bool utf8)
{
	return NameTextCheck(name, strlen(name), utf8, &character);
}

static void
testFine(void)
{
	const char *names[] = {"",
						   "a",
						   "a b",
						   "acme:42/eu-1",
						   "Caf\xc3\xa9",
						   "a\xc2\xa0z",
						   "\xe6\x97\xa5\xe6\x9c\xac\xe3\x80\x80\xe8\xaa\x9e",
						   "\xf0\x9f\x9a\x80",
						   "\xef\xbf\xbd",
						   "ak_\xe2\x80\xa6"
						   "1234"};

	for (size_t i = 0; i < lengthof(names); i++)
		CHECK_ROW(names[i], check(names[i], true) == NAMETEXT_FINE);
}

static void
testBlanks(void)
{
	const char *names[] = {" ",
						   "a ",
						   " a",
						   "a  ",
						   "\xc2\xa0z",
						   "z\xc2\xa0",
						   "\xe3\x80\x80",
						   "z\xe2\x80\xaf",
						   "z\xe2\x80\x80"};

	for (size_t i = 0; i < lengthof(names); i++)
		CHECK_ROW(names[i], check(names[i], true) == NAMETEXT_BLANK);
	check("z\xe3\x80\x80", true);
	CHECK_INT(character, 0x3000);
}

static void
testInvisible(void)
{
	struct
	{
		const char *name;
		uint32 character;
	} rows[] = {{"a\nb", '\n'},
				{"\t", '\t'},
				{"a\x7f", 0x7F},
				{"\xc2\x85z", 0x85},
				{"so\xc2\xadso", 0xAD},
				{"a\xe2\x80\x8bz", 0x200B},
				{"a\xe2\x80\x8d", 0x200D},
				{"\xe2\x80\xaez", 0x202E},
				{"\xef\xbb\xbfz", 0xFEFF},
				{"\xe2\x9d\xa4\xef\xb8\x8f", 0xFE0F},
				{"\xef\xbf\xbf", 0xFFFF},
				{"\xf3\xa0\x80\x81", 0xE0001},
				{"\xf4\x8f\xbf\xbe", 0x10FFFE}};

	for (size_t i = 0; i < lengthof(rows); i++)
	{
		CHECK_ROW(rows[i].name, check(rows[i].name, true) == NAMETEXT_INVISIBLE);
		CHECK_INT(character, rows[i].character);
	}
}

/* Not ASCII: any character; and broken UTF-8 is not read past its end. */
static void
testBytes(void)
{
	CHECK(check("\xa0z", false) == NAMETEXT_FINE);
	CHECK(check("z\x85", false) == NAMETEXT_FINE);
	CHECK(check("z\n", false) == NAMETEXT_INVISIBLE);
	CHECK(check("z ", false) == NAMETEXT_BLANK);
	CHECK(check("\x80", true) == NAMETEXT_FINE);
	CHECK(NameTextCheck("\xe2\x80\x8b", 2, true, &character) == NAMETEXT_FINE);
}

/* Scope-tokens. */
static void
testScopes(void)
{
	CHECK(NameTextIsScope("read:all", 8));
	CHECK(NameTextIsScope("!#[]~", 5));
	CHECK(!NameTextIsScope("", 0));
	CHECK(!NameTextIsScope("a b", 3));
	CHECK(!NameTextIsScope("a\"", 2));
	CHECK(!NameTextIsScope("a\\b", 3));
	CHECK(!NameTextIsScope("a\n", 2));
	CHECK(!NameTextIsScope("a\x7f", 2));
	CHECK(!NameTextIsScope("\xc3\xa4", 2));
}

int
main(void)
{
	RUN(testFine);
	RUN(testBlanks);
	RUN(testInvisible);
	RUN(testBytes);
	RUN(testScopes);
	return UnitReport();
}
