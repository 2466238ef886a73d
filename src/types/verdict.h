/*
 * verdict.h
 *	  The answer to a request: its codes, texts and the SQL type
 *	  apikeys.verdict.
 */
#ifndef VERDICT_H
#define VERDICT_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/uuid.h"

#include "pure/limittext.h"

typedef enum VerdictCode
{
	VERDICT_VALID,
	VERDICT_MISSING, /* no key was presented */
	VERDICT_INVALID,
	VERDICT_SUSPENDED,
	VERDICT_INACTIVE,
	VERDICT_EXPIRED,
	VERDICT_QUOTA_EXCEEDED,
	VERDICT_RATE_LIMITED,
	VERDICT_IP_BLOCKED,
	VERDICT_IP_NOT_ALLOWED,
	VERDICT_DOMAIN_NOT_ALLOWED,
	VERDICT_PRODUCT_NOT_ALLOWED,
	VERDICT_INSUFFICIENT_SCOPE,
	VERDICT_OVERLOADED
} VerdictCode;

#define VERDICT_CODES (VERDICT_OVERLOADED + 1)

/* The columns of apikeys.verdict. */
typedef enum VerdictColumn
{
	VERDICT_COLUMN_ALLOWED,
	VERDICT_COLUMN_STATUS,
	VERDICT_COLUMN_CODE,
	VERDICT_COLUMN_MESSAGE,
	VERDICT_COLUMN_KEY_ID,
	VERDICT_COLUMN_ACCOUNT,
	VERDICT_COLUMN_REQUEST_ID,
	VERDICT_COLUMN_LIMIT_SUBJECT,
	VERDICT_COLUMN_LIMIT_WINDOW,
	VERDICT_COLUMN_LIMIT_CAP,
	VERDICT_COLUMN_REMAINING,
	VERDICT_COLUMN_RESET_AFTER_S,
	VERDICT_COLUMN_RETRY_AFTER_S
} VerdictColumn;

#define VERDICT_COLUMNS (VERDICT_COLUMN_RETRY_AFTER_S + 1)

#define VERDICT_NEVER INT64CONST(-1)

/* Start from VERDICT_EMPTY. */
typedef struct Verdict
{
	VerdictCode code;
	int64 key_id;		 /* 0: no key was named */
	const text *account; /* its name; NULL: none */
	bool recorded;		 /* request_id is set */
	/* what the queue must be durable up to before it is given; 0: nothing */
	uint64 durable_at;
	pg_uuid_t request_id;
	bool limited;	 /* the next four are set */
	bool of_account; /* whose limit it is */
	UsageLimit limit;
	int64 remaining;   /* units */
	int64 reset_after; /* nanoseconds, or VERDICT_NEVER */
	int64 retry_after; /* nanoseconds, or VERDICT_NEVER; set also without a limit */
} Verdict;

#define VERDICT_EMPTY \
	{ \
		.code = VERDICT_INVALID, .retry_after = VERDICT_NEVER \
	}

extern int QuotaStatus; /* setting apikeys.quota_status */

extern const char *VerdictName(VerdictCode code);
extern bool VerdictFind(const text *name, VerdictCode *code);
extern VerdictCode VerdictOfLimit(bool of_account, uint32 window);
extern void VerdictWindowWord(uint32 window, char *out);
extern int VerdictStatus(VerdictCode code);
extern void VerdictSetOverloaded(Verdict *verdict);
extern void VerdictColumns(const Verdict *verdict, Datum *values, bool *nulls);
extern Datum VerdictForm(const Verdict *verdict, FunctionCallInfo fcinfo);

#endif
