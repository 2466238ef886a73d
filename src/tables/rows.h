/*
 * rows.h
 *	  Rows of the tables that the writer alone writes, without SQL.
 */
#ifndef ROWS_H
#define ROWS_H

#include "postgres.h"

#include "utils/relcache.h"

#define ROW_COLUMNS_MAX 16
#define ROW_KEYS_MAX 3

/* The columns of a table that the writer fills, in an order of its own. */
typedef struct RowColumns
{
	int count;
	int key_count; /* the first so many are the key of a row */
	/* rows are found again and again: keep hints; keys are passed by value */
	bool hinted;
	struct
	{
		const char *name;
		Oid type;
	} columns[ROW_COLUMNS_MAX];
} RowColumns;

/* A table that is open for writing. */
typedef struct RowTable RowTable;

extern RowTable *RowsOpen(Relation rel, const RowColumns *columns);
extern void RowsClose(RowTable *table);
extern void RowsInsert(RowTable *table, const Datum *values, const bool *nulls);
extern bool RowsFind(RowTable *table, const Datum *key);
extern void RowsGet(RowTable *table, Datum *values, bool *nulls);
extern void RowsUpdate(RowTable *table, const Datum *values, const bool *nulls);

#endif
