/*
 * limitsused.c
 *	  How the limits of a key stand, as a list of keys shows it; SQL:
 *	  limits_used.
 *
 * The rows and limits are those that verify would find now, and the status is
 * that of limitstatus.c.  A list has many keys of one account, so what is read
 * of an account is kept for the next row, within one statement.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "pure/clock.h"
#include "pure/ring.h"
#include "request/authenticate.h"
#include "request/limitstatus.h"
#include "request/reach.h"

PG_FUNCTION_INFO_V1(apikeys_limits_used);

/* What is known of the account of the row before; fn_extra. */
typedef struct KeptAccount
{
	bool filled;
	bool reached;
	int64 account_id;
	TimestampTz statement; /* when the statement that filled it began */
	LimitSet limits;
	LimitStatus statuses[LIMITS_MAX];
} KeptAccount;

static void
putName(JsonbParseState **state, JsonbIteratorToken token, const char *name)
{
	JsonbValue json = {.type = jbvString};

	json.val.string.val = unconstify(char *, name);
	json.val.string.len = strlen(name);
	pushJsonbValue(state, token, &json);
}

static void
pushNumber(JsonbParseState **state, int64 number)
{
	JsonbValue json = {.type = jbvNumeric};

	json.val.numeric = int64_to_numeric(number);
	pushJsonbValue(state, WJB_VALUE, &json);
}

static void
putNumber(JsonbParseState **state, const char *name, int64 number)
{
	putName(state, WJB_KEY, name);
	pushNumber(state, number);
}

/* Puts an object for each limit.  Texts live as long as the state. */
static void
putLimits(JsonbParseState **state, const char *subject, const LimitSet *limits,
		  const LimitStatus *statuses)
{
	for (int i = 0; i < limits->count; i++)
	{
		const LimitStatus *status = &statuses[i];
		char *window = palloc(LIMIT_WINDOW_NAME_MAX);

		LimitWindowFormat(limits->limits[i].window, window);
		pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
		putName(state, WJB_KEY, "subject");
		putName(state, WJB_VALUE, subject);
		putName(state, WJB_KEY, "window");
		putName(state, WJB_VALUE, window);
		putNumber(state, "cap", status->cap);
		putNumber(state, "granted", status->granted);
		putName(state, WJB_KEY, "owner_cap");
		if (limits->limits[i].ceiling == LIMIT_NO_CEILING)
			pushJsonbValue(state, WJB_VALUE, &(JsonbValue){.type = jbvNull});
		else
			pushNumber(state, limits->limits[i].ceiling);
		putNumber(state, "used", status->used);
		putNumber(state, "remaining", Max(status->cap - status->used, 0));
		putName(state, WJB_KEY, "free_at");
		if (status->free_at == RING_NEVER)
			pushJsonbValue(state, WJB_VALUE, &(JsonbValue){.type = jbvNull});
		else
			putName(state, WJB_VALUE,
					JsonEncodeDateTime(NULL, TimestampTzGetDatum(LimitStatusFreeAt(status)),
									   TIMESTAMPTZOID, NULL));
		pushJsonbValue(state, WJB_END_OBJECT, NULL);
	}
}

/* Returns what the statement has read of the account of a key. */
static const KeptAccount *
keepAccount(FmgrInfo *function, Oid relation, const KeyRow *row)
{
	KeptAccount *kept = function->fn_extra;

	if (kept == NULL)
		kept = function->fn_extra = MemoryContextAllocZero(function->fn_mcxt, sizeof(KeptAccount));
	if (kept->filled && kept->account_id == row->account_id &&
		kept->statement == GetCurrentStatementStartTimestamp())
		return kept;
	kept->filled = false;
	kept->account_id = row->account_id;
	kept->statement = GetCurrentStatementStartTimestamp();
	kept->limits = row->account_limits;
	kept->reached = ReachAccount(row->account_id, ACCESS_READ);
	if (kept->reached)
		LimitStatusRead(relation, METER_ACCOUNT, row->account_id, &kept->limits, kept->statuses);
	kept->filled = true;
	return kept;
}

/*
 * Returns an array with an object for each limit of a key's account and of the
 * key; NULL: there is no such key, or not one that the transaction may read.
 * Raises 55P03 if tables are locked until the deadline.
 */
Datum
apikeys_limits_used(PG_FUNCTION_ARGS)
{
	KeyRow row;
	const KeptAccount *account;
	LimitStatus statuses[LIMITS_MAX];
	JsonbParseState *state = NULL;
	Oid relation = LookupKeyRelation();

	if (!AuthenticateFind(PG_GETARG_INT64(0), &row))
		PG_RETURN_NULL();
	account = keepAccount(fcinfo->flinfo, relation, &row);
	if (!account->reached)
		PG_RETURN_NULL();
	LimitStatusRead(relation, METER_KEY, row.key_id, &row.limits, statuses);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	putLimits(&state, "account", &account->limits, account->statuses);
	putLimits(&state, "key", &row.limits, statuses);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}
