/*
 * limittext.c
 *	  A set of limits and its text, e.g. "1000/day, 500000/total".
 *
 * Apart from limits.c, which makes an SQL type of it, so that it can be tested
 * and fuzzed without a server.  A limit is written cap/window; a window is one
 * of the names below or a number of seconds, minutes, hours or days.  Every way
 * to build a set (text, JSON, binary) goes through LimitSetAdd, so one place
 * knows what a valid set is.
 *
 * Errors are phrases that follow "invalid limits: ".  Of the input they quote a
 * few characters at most, ASCII only: it may be a key text pasted by mistake,
 * and a cut through a multibyte character would be no valid text.
 *
 * Nothing here allocates, and nothing outlives a call.
 */
#include "pure/limittext.h"

#define SECONDS_PER_MINUTE 60
#define SECONDS_PER_HOUR 3600
#define SECONDS_PER_DAY 86400

#define QUOTE_MAX 12 /* characters of the input that an error shows */

typedef struct WindowName
{
	const char *name;
	uint32 window;
} WindowName;

/* The first COUNTABLE_WINDOWS of them are units too: "10 minutes". */
static const WindowName window_names[] = {
	{"second", 1},
	{"minute", SECONDS_PER_MINUTE},
	{"hour", SECONDS_PER_HOUR},
	{"day", SECONDS_PER_DAY},
	{"week", 7 * SECONDS_PER_DAY},
	{"month", 30 * SECONDS_PER_DAY},
	{"total", LIMIT_WINDOW_TOTAL},
};

#define COUNTABLE_WINDOWS 4

/*
 * Append a text and return the new end.
 */
static char *
appendText(char *out, const char *text)
{
	size_t len = strlen(text);

	memcpy(out, text, len + 1);
	return out + len;
}

/*
 * Append a number in decimal and return the new end.
 */
static char *
appendNumber(char *out, uint64 number)
{
	char digits[20];
	int count = 0;

	do
		digits[count++] = '0' + number % 10;
	while ((number /= 10) > 0);
	while (count > 0)
		*out++ = digits[--count];
	*out = '\0';
	return out;
}

/*
 * Write an error that quotes the beginning of a piece of the input between two
 * phrases; always false.
 */
static bool
fail(char *error, const char *before, const char *piece, size_t len, const char *after)
{
	error = appendText(error, before);
	*error++ = '"';
	for (size_t i = 0; i < Min(len, QUOTE_MAX); i++)
		*error++ = (piece[i] >= ' ' && piece[i] <= '~') ? piece[i] : '?';
	if (len > QUOTE_MAX)
		error = appendText(error, "...");
	*error++ = '"';
	appendText(error, after);
	return false;
}

static bool
isBlank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/*
 * Take the blanks off both ends of a piece.
 */
static void
trim(const char **text, size_t *len)
{
	while (*len > 0 && isBlank(**text))
	{
		(*text)++;
		(*len)--;
	}
	while (*len > 0 && isBlank((*text)[*len - 1]))
		(*len)--;
}

/*
 * Count the digits a piece begins with and read their value; one beyond every
 * cap stays so, however long it is.
 */
static size_t
readDigits(const char *text, size_t len, int64 *value)
{
	size_t count = 0;

	*value = 0;
	for (; count < len && text[count] >= '0' && text[count] <= '9'; count++)
	{
		if (*value <= LIMIT_CAP_TOTAL_MAX)
			*value = *value * 10 + (text[count] - '0');
	}
	return count;
}

/*
 * Tell whether a piece is a name, or its plural where that is asked for.
 */
static bool
isName(const char *text, size_t len, const char *name, bool or_plural)
{
	size_t name_len = strlen(name);

	if (or_plural && len == name_len + 1 && text[name_len] == 's')
		len--;
	return len == name_len && memcmp(text, name, len) == 0;
}

/*
 * Read a window, blanks around it allowed.  On failure says why in error
 * (LIMITTEXT_ERROR_MAX bytes).
 */
bool
LimitWindowParse(const char *text, size_t len, uint32 *window, char *error)
{
	const char *unit;
	size_t digits;
	size_t unit_len;
	int64 number;

	trim(&text, &len);
	for (size_t i = 0; i < lengthof(window_names); i++)
	{
		if (isName(text, len, window_names[i].name, false))
		{
			*window = window_names[i].window;
			return true;
		}
	}

	digits = readDigits(text, len, &number);
	if (digits > 0 && digits < len && isBlank(text[digits]))
	{
		unit = text + digits;
		unit_len = len - digits;
		trim(&unit, &unit_len);
		for (int i = 0; i < COUNTABLE_WINDOWS; i++)
		{
			uint32 seconds = window_names[i].window;

			if (!isName(unit, unit_len, window_names[i].name, true))
				continue;
			if (number < 1 || number > LIMIT_WINDOW_MAX / seconds)
				return fail(error, "window ", text, len, " is not between 1 second and 366 days");
			*window = (uint32) number * seconds;
			return true;
		}
	}
	return fail(error, "window ", text, len, " is not known");
}

/*
 * Write a window's canonical name (at most LIMIT_WINDOW_NAME_MAX bytes with the
 * NUL); returns its length.
 */
size_t
LimitWindowFormat(uint32 window, char *out)
{
	char *end;
	int unit = COUNTABLE_WINDOWS - 1;

	for (size_t i = 0; i < lengthof(window_names); i++)
	{
		if (window == window_names[i].window)
			return appendText(out, window_names[i].name) - out;
	}

	while (window % window_names[unit].window != 0)
		unit--;
	end = appendNumber(out, window / window_names[unit].window);
	*end++ = ' ';
	end = appendText(end, window_names[unit].name);
	return appendText(end, "s") - out;
}

/*
 * Add a limit to a set at its place.  On failure the set is as before, and
 * error (LIMITTEXT_ERROR_MAX bytes) says why.
 */
bool
LimitSetAdd(LimitSet *set, int64 cap, uint32 window, char *error)
{
	bool total = (window == LIMIT_WINDOW_TOTAL);
	char name[LIMIT_WINDOW_NAME_MAX];
	size_t name_len = LimitWindowFormat(window, name);
	int place = set->count;

	if (window < 1 || (window > LIMIT_WINDOW_MAX && !total))
		return fail(error, "window ", name, name_len, " is not between 1 second and 366 days");
	if (cap < 0 || cap > (total ? LIMIT_CAP_TOTAL_MAX : LIMIT_CAP_MAX))
		return fail(error, "cap of window ", name, name_len,
					total ? " is not between 0 and 9007199254740991" :
							" is not between 0 and 4294967295");

	while (place > 0 && set->limits[place - 1].window > window)
		place--;
	if (place > 0 && set->limits[place - 1].window == window)
		return fail(error, "window ", name, name_len, " is given twice");
	if (set->count == LIMITS_MAX)
		return fail(error, "window ", name, name_len, " is the 9th, and 8 are the most");

	memmove(&set->limits[place + 1], &set->limits[place],
			(set->count - place) * sizeof(UsageLimit));
	set->limits[place].cap = cap;
	set->limits[place].ceiling = LIMIT_NO_CEILING;
	set->limits[place].window = window;
	set->count++;
	return true;
}

/* Returns the limit of a set on a window; NULL: none. */
static UsageLimit *
findLimit(LimitSet *set, uint32 window)
{
	for (int i = 0; i < set->count; i++)
		if (set->limits[i].window == window)
			return &set->limits[i];
	return NULL;
}

/*
 * Lowers the limits of a set by those of its owner: of each window the smaller
 * cap decides, and a window that the owner alone has is added.  False: these
 * are more windows than a set can have; then the set allows nothing.
 */
bool
LimitSetLower(LimitSet *set, const LimitSet *owner)
{
	char error[LIMITTEXT_ERROR_MAX];

	for (int i = 0; i < owner->count; i++)
	{
		const UsageLimit *lower = &owner->limits[i];
		UsageLimit *limit = findLimit(set, lower->window);

		if (limit == NULL && LimitSetAdd(set, lower->cap, lower->window, error))
			limit = findLimit(set, lower->window);
		if (limit == NULL)
		{
			*set = (LimitSet){.count = 1, .limits = {{.window = LIMIT_WINDOW_TOTAL}}};
			return false;
		}
		limit->ceiling = lower->cap;
	}
	return true;
}

/*
 * Read a cap in decimal, blanks around it allowed.  Its upper bound depends on
 * the window: LimitSetAdd checks it.
 */
bool
LimitCapParse(const char *text, size_t len, int64 *cap, char *error)
{
	trim(&text, &len);
	if (len == 0 || readDigits(text, len, cap) < len)
		return fail(error, "cap ", text, len, " is not a number of units");
	return true;
}

/*
 * Read one cap/window and add it to the set.
 */
static bool
parseLimit(const char *text, size_t len, LimitSet *set, char *error)
{
	const char *slash;
	int64 cap;
	uint32 window;

	trim(&text, &len);
	slash = memchr(text, '/', len);
	if (slash == NULL)
		return fail(error, "limit ", text, len, " is not of the form cap/window");
	return LimitCapParse(text, slash - text, &cap, error) &&
		   LimitWindowParse(slash + 1, text + len - (slash + 1), &window, error) &&
		   LimitSetAdd(set, cap, window, error);
}

/*
 * Read a set of limits; blank text is the set without any.  On failure says why
 * in error (LIMITTEXT_ERROR_MAX bytes).
 */
bool
LimitTextParse(const char *text, size_t len, LimitSet *set, char *error)
{
	const char *comma;

	set->count = 0;
	trim(&text, &len);
	if (len == 0)
		return true;

	while ((comma = memchr(text, ',', len)) != NULL)
	{
		if (!parseLimit(text, comma - text, set, error))
			return false;
		len -= comma + 1 - text;
		text = comma + 1;
	}
	return parseLimit(text, len, set, error);
}

/*
 * Write a set's canonical text (at most LIMITTEXT_MAX bytes with the NUL);
 * returns its length.
 */
size_t
LimitTextFormat(const LimitSet *set, char *out)
{
	char *end = out;

	*end = '\0';
	for (int i = 0; i < set->count; i++)
	{
		if (i > 0)
			end = appendText(end, ", ");
		end = appendNumber(end, set->limits[i].cap);
		*end++ = '/';
		end += LimitWindowFormat(set->limits[i].window, end);
	}
	return end - out;
}
