/*
 * redact.c
 *	  Keeps key texts out of the server log.
 *
 * Statements and bind values reach the log by many ways: log_statement, slow
 * queries, the statement of an error, messages that quote a value.  All of them
 * pass emit_log_hook, before any destination has formatted them.  There each
 * key text gives way to its hint, and so does what is left of one that was cut
 * (see KeyTextFind).  Texts without a key cost one pass over them.
 *
 * The hook works inside error reporting, perhaps out of memory or in a critical
 * section.  So it never throws, and takes no memory but for the statement: a
 * hint is shorter than its key, and the fields of a message are ours to write
 * to.  A client that gets the same message gets it with the hint, too; what
 * positions in it point at moves to the left with the text.
 *
 * Out of reach are texts that never come here (pg_stat_activity), key texts of
 * other shapes (imported ones), and queries of other processes that were cut at
 * track_activity_query_size within a key (deadlock reports).
 *
 * With shared_preload_libraries this holds for every process of the server;
 * otherwise for a session from the moment that it has loaded the library, which
 * is after its first statement was logged.  Hooks of libraries that were loaded
 * before get the hints; those loaded later see the message first.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/elog.h"
#include "utils/memutils.h"

#include "manage/redact.h"
#include "pure/keytext.h"

static emit_log_hook_type next_hook = NULL;

/* Redacts a text that ends with a NUL, in place. */
static void
redactText(char *text)
{
	if (text != NULL)
		text[KeyTextRedact(text, strlen(text), GetDatabaseEncoding() == PG_UTF8)] = '\0';
}

/*
 * Makes the log show a redacted copy of the running statement, if it shows the
 * statement; or hide it, if there can be no copy.
 *
 * The original must stay as it is, for it is what is executed.  The copy stays
 * in place for the rest of the statement: nothing calls us back to undo it, and
 * what else reads debug_query_string (workers of a parallel index build, for
 * their logs; current_query()) is served as well by it.  It lives as long as a
 * client's own message, and no command outlives that.  A background worker has
 * no MessageContext.
 */
static void
redactStatement(ErrorData *edata)
{
	size_t len;
	size_t body;
	size_t body_len;
	char *copy = NULL;

	if (!check_log_of_query(edata))
		return;
	len = strlen(debug_query_string);
	if (!KeyTextFind(debug_query_string, len, 0, &body, &body_len))
		return;

	if (MessageContext != NULL && CritSectionCount == 0)
		copy = MemoryContextAllocExtended(MessageContext, len + 1,
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (copy == NULL)
	{
		edata->hide_stmt = true;
		return;
	}
	memcpy(copy, debug_query_string, len + 1);
	redactText(copy);
	debug_query_string = copy;
}

/* Redacts all that is about to be logged. */
static void
redactLog(ErrorData *edata)
{
	redactText(edata->message);
	redactText(edata->detail);
	redactText(edata->detail_log);
	redactText(edata->hint);
	redactText(edata->context);
	redactText(edata->internalquery);
	redactStatement(edata);

	if (next_hook != NULL)
		next_hook(edata);
}

/* Begins to redact, in this process and those that it forks. */
void
RedactInit(void)
{
	next_hook = emit_log_hook;
	emit_log_hook = redactLog;
}
