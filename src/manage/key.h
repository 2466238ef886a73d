/*
 * key.h
 *	  Key texts for the management of keys, and its settings.
 */
#ifndef KEY_H
#define KEY_H

#include "postgres.h"

#include "pure/hashrule.h"
#include "types/digest.h"

extern bool KeyCreateAccounts; /* setting apikeys.create_accounts */
extern int KeyExpiryNotice;	   /* setting apikeys.expiry_notice, minutes */
extern int KeyUpgradeDays;	   /* setting apikeys.upgrade_days, working days */

extern const HashRule *KeyRequireHashRule(text *name);
extern Digest *KeyTextDigest(text *key, text *hash_rule);

#endif
