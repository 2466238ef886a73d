/*
 * identity.h
 *	  For whom the transaction acts.
 */
#ifndef IDENTITY_H
#define IDENTITY_H

#include "postgres.h"

#include "request/lookup.h"

/* For whom: an account, or one of its keys. */
typedef struct Identity
{
	int64 account_id;
	const text *account; /* its name */
	int64 key_id;		 /* 0: the account itself */
	bool previous;		 /* the key was given by its former text, within the grace */
	/* of the key; NULL: none */
	const struct ArrayType *scopes;
	/* who the application says acts for the account; NULL: it does not say */
	const text *actor;
} Identity;

/* The scope by which a key may manage the keys of its account. */
#define SCOPE_MANAGE "apikeys:manage"

extern const Identity *IdentityCurrent(void);
extern bool IdentityIsLost(void);
extern bool IdentityHasScope(const Identity *identity, const char *scope, size_t len);
extern void IdentityRequireOpen(const char *function);
extern void IdentityBecomeKey(const KeyRow *row);

#endif
