/*
 * requestid.h
 *	  The id of a request: a UUIDv7 that says when, which key, and which of
 *	  them.  Pure C.
 */
#ifndef REQUESTID_H
#define REQUESTID_H

#include "c.h"

#define REQUESTID_LEN 16
#define REQUESTID_KEY_BITS 53
#define REQUESTID_SEQUENCE_BITS 11

typedef struct RequestId
{
	uint8 bytes[REQUESTID_LEN]; /* as in pg_uuid_t */
} RequestId;

extern void RequestIdEncode(RequestId *id, int64 at_us, int64 key_id, uint32 sequence);
extern bool RequestIdDecode(const RequestId *id, int64 *at_us, int64 *key_id, uint32 *sequence);

#endif
