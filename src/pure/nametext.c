/*
 * nametext.c
 *	  Names that look like what they are: none begins or ends with a blank, and
 *	  none has a character that cannot be seen.
 *
 * Two names that look the same are two accounts, or two keys, that people take
 * for one.  So such names are refused.  They are never altered: the bytes of an
 * account's name lead to its shard.
 *
 * Blanks are Unicode's White_Space as far as it is no control character; they
 * are allowed within a name.  Invisible are the control and format characters,
 * line and paragraph separators, all that Unicode calls
 * Default_Ignorable_Code_Point (it has the joiners and the variation selectors
 * of emoji), fillers, and what is no character.  In an encoding other than
 * UTF-8 only ASCII is looked at.
 *
 * It is pure C, as keytext.c is.
 */
#include "c.h"

#include "pure/nametext.h"

typedef struct Range
{
	uint32 first;
	uint32 last;
} Range;

/* Both in the order of code points. */
static const Range blanks[] = {{0x20, 0x20},	 {0xA0, 0xA0},	   {0x1680, 0x1680},
							   {0x2000, 0x200A}, {0x202F, 0x202F}, {0x205F, 0x205F},
							   {0x3000, 0x3000}};
static const Range invisible[] = {
	{0x00, 0x1F},		{0x7F, 0x9F},		{0xAD, 0xAD},		{0x34F, 0x34F},
	{0x61C, 0x61C},		{0x115F, 0x1160},	{0x17B4, 0x17B5},	{0x180B, 0x180F},
	{0x200B, 0x200F},	{0x2028, 0x202E},	{0x2060, 0x206F},	{0x2800, 0x2800},
	{0x3164, 0x3164},	{0xFDD0, 0xFDEF},	{0xFE00, 0xFE0F},	{0xFEFF, 0xFEFF},
	{0xFFA0, 0xFFA0},	{0xFFF0, 0xFFFB},	{0x13430, 0x1343F}, {0x1BCA0, 0x1BCA3},
	{0x1D173, 0x1D17A}, {0xE0000, 0xE0FFF},
};

static bool
isIn(uint32 character, const Range *ranges, size_t count)
{
	for (size_t i = 0; i < count && character >= ranges[i].first; i++)
		if (character <= ranges[i].last)
			return true;
	return false;
}

static bool
isBlank(uint32 character)
{
	return isIn(character, blanks, lengthof(blanks));
}

static bool
isInvisible(uint32 character)
{
	return isIn(character, invisible, lengthof(invisible)) || (character & 0xFFFE) == 0xFFFE;
}

/*
 * Read the character at the start of a text, and return its length.  A byte
 * that begins none, or one of another encoding, is taken for U+FFFD.
 */
static size_t
readCharacter(const char *text, size_t len, bool utf8, uint32 *character)
{
	const uint8 *bytes = (const uint8 *) text;
	size_t size = bytes[0] < 0xC0 ? 1 : bytes[0] < 0xE0 ? 2 : bytes[0] < 0xF0 ? 3 : 4;

	*character = 0xFFFD;
	if (bytes[0] < 0x80)
		*character = bytes[0];
	else if (utf8 && size > 1 && size <= len)
	{
		*character = bytes[0] & (0x7F >> size);
		for (size_t i = 1; i < size; i++)
			*character = *character << 6 | (bytes[i] & 0x3F);
		return size;
	}
	return 1;
}

/* Tell what is wrong with a name, and the character that is. */
NameTextFault
NameTextCheck(const char *text, size_t len, bool utf8, uint32 *character)
{
	bool blank = false;

	for (size_t at = 0; at < len;)
	{
		size_t size = readCharacter(text + at, len - at, utf8, character);

		if (isInvisible(*character))
			return NAMETEXT_INVISIBLE;
		blank = isBlank(*character);
		if (blank && at == 0)
			return NAMETEXT_BLANK;
		at += size;
	}
	return blank ? NAMETEXT_BLANK : NAMETEXT_FINE;
}

/* Tells whether a text is a scope-token (RFC 6749, 3.3). */
bool
NameTextIsScope(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\')
			return false;
	return len > 0;
}
