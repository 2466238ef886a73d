/*
 * verdict.c
 *	  The answer to a request: its codes, texts and the SQL type apikeys.verdict.
 *
 * The texts are published: clients show and compare them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "datatype/timestamp.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "verdict.h"

int			QuotaStatus = 401;

static const struct
{
	const char *name;
	int			status;
	const char *message;		/* NULL: it tells the limit */
}			codes[VERDICT_CODES] =
{
	[VERDICT_VALID] = {"valid", 200, "OK"},
	[VERDICT_INVALID] = {"invalid", 401, "Invalid API Key"},
	[VERDICT_SUSPENDED] = {"suspended", 401, "Suspended API Key"},
	[VERDICT_INACTIVE] = {"inactive", 401, "Inactive API Key"},
	[VERDICT_EXPIRED] = {"expired", 401, "Expired API Key"},
	[VERDICT_QUOTA_EXCEEDED] = {"quota_exceeded", 0, NULL},
	[VERDICT_RATE_LIMITED] = {"rate_limited", 429, NULL},
	[VERDICT_IP_BLOCKED] = {"ip_blocked", 403, "IP temporarily blocked"},
	[VERDICT_IP_NOT_ALLOWED] = {"ip_not_allowed", 403, "This API Key may not be used from this IP address"},
	[VERDICT_DOMAIN_NOT_ALLOWED] = {"domain_not_allowed", 403, "This API Key may not be used from this domain"},
	[VERDICT_PRODUCT_NOT_ALLOWED] = {"product_not_allowed", 403, "This API Key may not be used for this product"},
	[VERDICT_INSUFFICIENT_SCOPE] = {"insufficient_scope", 403, "This API Key lacks a scope that the request needs"},
	[VERDICT_OVERLOADED] = {"overloaded", 503, "Usage cannot be recorded now, please try again"}
};

/* The columns of apikeys.verdict. */
typedef enum VerdictColumn
{
	VERDICT_ALLOWED, VERDICT_STATUS, VERDICT_CODE, VERDICT_MESSAGE, VERDICT_KEY_ID, VERDICT_ACCOUNT,
	VERDICT_REQUEST_ID, VERDICT_LIMIT_WINDOW, VERDICT_LIMIT_CAP, VERDICT_REMAINING, VERDICT_RESET_AFTER,
	VERDICT_RETRY_AFTER, VERDICT_COLUMNS
} VerdictColumn;

/* Returns the code as the SQL type has it. */
const char *
VerdictName(VerdictCode code)
{
	return codes[code].name;
}

/* Returns the HTTP status of a code. */
int
VerdictStatus(VerdictCode code)
{
	return code == VERDICT_QUOTA_EXCEEDED ? QuotaStatus : codes[code].status;
}

/* The windows whose limits of a key are called quotas. */
static const char *
quotaName(uint32 window)
{
	switch (window)
	{
		case LIMIT_WINDOW_TOTAL:
			return "total";
		case 86400:
			return "daily";
		case 7 * 86400:
			return "weekly";
		case 30 * 86400:
			return "monthly";
		default:
			return NULL;
	}
}

/* Tells how a denial by a limit is called: the key's quotas have a code of their own. */
VerdictCode
VerdictOfLimit(bool of_account, uint32 window)
{
	return !of_account && quotaName(window) ? VERDICT_QUOTA_EXCEEDED : VERDICT_RATE_LIMITED;
}

/* Writes the message; returns its length. */
int
VerdictMessage(const Verdict *verdict, char *out, size_t size)
{
	char		window[LIMIT_WINDOW_NAME_MAX];

	if (codes[verdict->code].message)
		return strlcpy(out, codes[verdict->code].message, size);
	if (verdict->code == VERDICT_QUOTA_EXCEEDED)
		return snprintf(out, size, "Rate limit exceeded: quota %s", quotaName(verdict->limit.window));

	LimitWindowFormat(verdict->limit.window, window);
	for (char *c = window; *c; c++)
		if (*c == ' ')
			*c = '-';
	return snprintf(out, size, "exceeded the %s%s rate limit %s",
					verdict->limit.window == LIMIT_WINDOW_TOTAL ? "" : "per-", window,
					verdict->of_account ? "on your subscription" : "of this key");
}

/* Returns an interval of as many nanoseconds, rounded up to microseconds: waiting so long is enough. */
static Datum
formInterval(int64 nanoseconds, bool *isnull)
{
	Interval   *interval;

	*isnull = (nanoseconds == VERDICT_NEVER);
	if (*isnull)
		return (Datum) 0;
	interval = palloc0(sizeof(Interval));
	interval->time = (nanoseconds + 999) / 1000;
	return IntervalPGetDatum(interval);
}

/* Returns the verdict as a value of the SQL type, for a function that returns that type. */
Datum
VerdictForm(const Verdict *verdict, FunctionCallInfo fcinfo)
{
	TupleDesc	desc = fcinfo->flinfo->fn_extra;
	Datum		values[VERDICT_COLUMNS];
	bool		nulls[VERDICT_COLUMNS];
	char		message[128];
	char		window[LIMIT_WINDOW_NAME_MAX];

	if (desc == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != VERDICT_COLUMNS)
			elog(ERROR, "function does not return apikeys.verdict");
		desc = BlessTupleDesc(CreateTupleDescCopy(desc));
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(caller);
	}

	memset(nulls, true, sizeof(nulls));
	nulls[VERDICT_ALLOWED] = nulls[VERDICT_STATUS] = nulls[VERDICT_CODE] = nulls[VERDICT_MESSAGE] = false;
	values[VERDICT_ALLOWED] = BoolGetDatum(verdict->code == VERDICT_VALID);
	values[VERDICT_STATUS] = Int16GetDatum(VerdictStatus(verdict->code));
	values[VERDICT_CODE] = CStringGetTextDatum(VerdictName(verdict->code));
	values[VERDICT_MESSAGE] = PointerGetDatum(cstring_to_text_with_len(message, VerdictMessage(verdict, message, sizeof(message))));
	if (verdict->key_id)
	{
		nulls[VERDICT_KEY_ID] = nulls[VERDICT_ACCOUNT] = false;
		values[VERDICT_KEY_ID] = Int64GetDatum(verdict->key_id);
		values[VERDICT_ACCOUNT] = PointerGetDatum(verdict->account);
	}
	if (verdict->recorded)
	{
		nulls[VERDICT_REQUEST_ID] = false;
		values[VERDICT_REQUEST_ID] = UUIDPGetDatum(&verdict->request_id);
	}
	if (verdict->limited)
	{
		nulls[VERDICT_LIMIT_WINDOW] = nulls[VERDICT_LIMIT_CAP] = nulls[VERDICT_REMAINING] = false;
		values[VERDICT_LIMIT_WINDOW] = PointerGetDatum(cstring_to_text_with_len(window, LimitWindowFormat(verdict->limit.window, window)));
		values[VERDICT_LIMIT_CAP] = Int64GetDatum(verdict->limit.cap);
		values[VERDICT_REMAINING] = Int64GetDatum(verdict->remaining);
		values[VERDICT_RESET_AFTER] = formInterval(verdict->reset_after, &nulls[VERDICT_RESET_AFTER]);
		values[VERDICT_RETRY_AFTER] = formInterval(verdict->retry_after, &nulls[VERDICT_RETRY_AFTER]);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
