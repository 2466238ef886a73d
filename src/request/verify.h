/*
 * verify.h
 *	  Settings of verify.
 */
#ifndef VERIFY_H
#define VERIFY_H

#include "postgres.h"

typedef enum OnOverload
{
	OVERLOAD_DENY,
	OVERLOAD_ALLOW
} OnOverload;

extern int VerifyOnOverload; /* setting apikeys.on_overload, an OnOverload */

#endif
