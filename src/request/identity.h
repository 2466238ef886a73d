/*
 * identity.h
 *	  For whom the session acts: which accounts it may read and change.
 */
#ifndef IDENTITY_H
#define IDENTITY_H

#include "postgres.h"

/* To read an account and what belongs to it, or to change them. */
typedef enum Access
{
	ACCESS_READ,
	ACCESS_CHANGE
} Access;

extern bool IdentityReachesAll(Access access);
extern bool IdentityReaches(int64 account_id, Access access);

#endif
