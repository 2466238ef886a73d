/*
 * logrow.c
 *	  Events as rows of request_log.
 *
 * A row has what a request tells, and what its completion tells if that is in
 * the same batch.  Rows in quarantine have the same columns.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "compat.h"
#include "pure/clock.h"
#include "pure/requestid.h"
#include "types/verdict.h"
#include "writer/logrow.h"

int LogRowAddress = LOG_ADDRESS_FULL;

const RowColumns LogRowColumns = {LOG_COLUMNS,
								  .key_count = 3,
								  .hinted = false,
								  {[LOG_KEY_ID] = {"key_id", INT8OID},
								   [LOG_AT] = {"at", TIMESTAMPTZOID},
								   [LOG_REQUEST_ID] = {"request_id", UUIDOID},
								   [LOG_ACCOUNT_ID] = {"account_id", INT8OID},
								   [LOG_CODE] = {"code", TEXTOID},
								   [LOG_STATUS] = {"status", INT2OID},
								   [LOG_ENDPOINT] = {"endpoint", TEXTOID},
								   [LOG_DURATION_MS] = {"duration_ms", FLOAT4OID},
								   [LOG_IP] = {"ip", INETOID},
								   [LOG_COST] = {"cost", INT4OID},
								   [LOG_CREDITS] = {"credits", INT8OID},
								   [LOG_CATEGORY] = {"category", TEXTOID},
								   [LOG_PRODUCT] = {"product", TEXTOID},
								   [LOG_COMPLETED] = {"completed", BOOLOID},
								   [LOG_PREVIOUS] = {"previous", BOOLOID}}};

/* Returns when the request of an event was made; a completion's id tells. */
TimestampTz
LogRowTime(const Event *event)
{
	int64 at = event->at;
	int64 key_id;
	uint32 sequence;

	if (event->kind == EVENT_COMPLETION &&
		!RequestIdDecode(&event->request_id, &at, &key_id, &sequence))
		elog(ERROR, "malformed request id in the queue");
	return ClockTimestamp(at * 1000);
}

/*
 * Returns the client's address as apikeys.log_address says: whole, or its /24
 * or /48.
 */
static inet *
formAddress(const Event *request)
{
	inet *address = palloc0(sizeof(inet));

	ip_family(address) = request->address_len == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(address) = request->address_len * 8;
	memcpy(ip_addr(address), request->address, request->address_len);
	if (LogRowAddress == LOG_ADDRESS_NETWORK)
	{
		int kept = request->address_len == 4 ? 3 : 6;

		memset(ip_addr(address) + kept, 0, request->address_len - kept);
		ip_bits(address) = kept * 8;
	}
	SET_INET_VARSIZE(address);
	return address;
}

/* Gives a column a value that is not NULL. */
void
LogRowSet(LogRow *row, LogColumn column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

/*
 * Forms the row of a request and its completion; either may be NULL.  A
 * completion alone gives the columns that find the row, and those that it sets.
 * Allocates in the current memory context.
 */
void
LogRowForm(LogRow *row, const Event *request, const Event *completion)
{
	const Event *either = request ? request : completion;

	memset(row->nulls, true, sizeof(row->nulls));
	LogRowSet(row, LOG_AT, TimestampTzGetDatum(LogRowTime(either)));
	LogRowSet(row, LOG_KEY_ID, Int64GetDatum(either->key_id));
	LogRowSet(row, LOG_REQUEST_ID, UUIDPGetDatum((const pg_uuid_t *) &either->request_id));
	LogRowSet(row, LOG_STATUS, Int16GetDatum(completion ? completion->status : request->status));
	LogRowSet(row, LOG_COMPLETED, BoolGetDatum(completion != NULL));
	if (either->account_id != 0)
		LogRowSet(row, LOG_ACCOUNT_ID, Int64GetDatum(either->account_id));
	if (request)
	{
		const char *category = request->texts + request->endpoint_len;
		const char *product = category + request->category_len;

		LogRowSet(row, LOG_CODE, CStringGetTextDatum(VerdictName(request->code)));
		LogRowSet(row, LOG_PREVIOUS, BoolGetDatum(request->previous));
		LogRowSet(row, LOG_COST, Int32GetDatum(request->cost));
		LogRowSet(row, LOG_CATEGORY,
				  PointerGetDatum(cstring_to_text_with_len(category, request->category_len)));
		if (request->product_len > 0)
			LogRowSet(row, LOG_PRODUCT,
					  PointerGetDatum(cstring_to_text_with_len(product, request->product_len)));
		if (request->has_endpoint)
			LogRowSet(
				row, LOG_ENDPOINT,
				PointerGetDatum(cstring_to_text_with_len(request->texts, request->endpoint_len)));
		if (request->address_len > 0 && LogRowAddress != LOG_ADDRESS_NONE)
			LogRowSet(row, LOG_IP, InetPGetDatum(formAddress(request)));
	}
	if (completion && completion->has_duration)
		LogRowSet(row, LOG_DURATION_MS, Float4GetDatum(completion->duration_ms));
	if (completion && completion->has_credits)
		LogRowSet(row, LOG_CREDITS, Int64GetDatum(completion->credits));
}
