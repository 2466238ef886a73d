/*
 * logrow.h
 *	  Events as rows of request_log.
 */
#ifndef LOGROW_H
#define LOGROW_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "engine/event.h"
#include "tables/rows.h"

typedef enum LogAddress
{
	LOG_ADDRESS_FULL,
	LOG_ADDRESS_NETWORK,
	LOG_ADDRESS_NONE
} LogAddress;

/* The first three are the key of a row. */
typedef enum LogColumn
{
	LOG_KEY_ID,
	LOG_AT,
	LOG_REQUEST_ID,
	LOG_ACCOUNT_ID,
	LOG_CODE,
	LOG_STATUS,
	LOG_ENDPOINT,
	LOG_DURATION_MS,
	LOG_IP,
	LOG_COST,
	LOG_CREDITS,
	LOG_CATEGORY,
	LOG_PRODUCT,
	LOG_COMPLETED,
	LOG_PREVIOUS,
	LOG_COLUMNS /* how many */
} LogColumn;

/* A row of request_log, in it or in quarantine. */
typedef struct LogRow
{
	Datum values[LOG_COLUMNS];
	bool nulls[LOG_COLUMNS];
} LogRow;

extern int LogRowAddress; /* setting apikeys.log_address, a LogAddress */

extern const RowColumns LogRowColumns;

extern TimestampTz LogRowTime(const Event *event);
extern void LogRowForm(LogRow *row, const Event *request, const Event *completion);
extern void LogRowSet(LogRow *row, LogColumn column, Datum value);

#endif
