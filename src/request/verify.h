/*
 * verify.h
 *	  Settings of verify, and what it needs.
 */
#ifndef VERIFY_H
#define VERIFY_H

#include "postgres.h"

typedef enum OverloadRule
{
	OVERLOAD_DENY,
	OVERLOAD_ALLOW
} OverloadRule;

extern bool VerifySynchronous; /* setting apikeys.synchronous_usage */
extern int VerifyOnOverload;   /* setting apikeys.on_overload, an OverloadRule */

#endif
