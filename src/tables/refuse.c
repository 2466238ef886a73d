/*
 * refuse.c
 *	  Errors that say which column they are about, for those who fill in a form.
 *
 * SQL functions raise them with refuse(): with TABLE and COLUMN, and with
 * CONSTRAINT where the table has one.  RAISE would do, but it takes no NULL, so
 * that each field that an error may have or not have would double its branches.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "tables/refuse.h"

PG_FUNCTION_INFO_V1(apikeys_refuse);

/*
 * Adds to an error, within ereport, what it is about: a column, or an argument
 * where the table has no such column, or where there is no table (NULL); and
 * its constraint, or the rule of a plan (NULL: none).  The statement is kept
 * out of the server log, because it may have a key text.
 */
int
RefusePlace(const char *table, const char *column, const char *constraint)
{
	if (table)
	{
		err_generic_string(PG_DIAG_SCHEMA_NAME, "apikeys");
		err_generic_string(PG_DIAG_TABLE_NAME, table);
	}
	err_generic_string(PG_DIAG_COLUMN_NAME, column);
	if (constraint)
		err_generic_string(PG_DIAG_CONSTRAINT_NAME, constraint);
	return errhidestmt(true);
}

/* Returns a text argument; NULL: it is NULL. */
static char *
readText(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* Raises an error about <table>.<column> or <argument>; SQL: refuse. */
Datum
apikeys_refuse(PG_FUNCTION_ARGS)
{
	char *code = readText(fcinfo, 0);
	char *column = readText(fcinfo, 1);
	char *message = readText(fcinfo, 2);
	char *detail = readText(fcinfo, 3);
	char *hint = readText(fcinfo, 4);
	char *constraint = readText(fcinfo, 5);
	char *table = NULL;
	char *dot = column ? strchr(column, '.') : NULL;

	if (code == NULL || strlen(code) != 5 || column == NULL || message == NULL)
		elog(ERROR, "refuse() needs a code, a place and a message");
	if (dot)
	{
		*dot = '\0';
		table = column;
		column = dot + 1;
	}
	ereport(ERROR, (errcode(MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4])),
					errmsg("%s", message), detail ? errdetail("%s", detail) : 0,
					hint ? errhint("%s", hint) : 0, RefusePlace(table, column, constraint)));
}
