/*
 * reach.h
 *	  Which accounts the transaction may read and change.
 */
#ifndef REACH_H
#define REACH_H

#include "postgres.h"

/* To read an account and what belongs to it, or to change them. */
typedef enum Access
{
	ACCESS_READ,
	ACCESS_CHANGE
} Access;

extern bool ReachAll(Access access);
extern bool ReachAccount(int64 account_id, Access access);
extern void ReachRequireNoneOfLogin(void);

#endif
