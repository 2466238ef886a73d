/*
 * key.h
 *	  Settings of the management of keys.
 */
#ifndef KEY_H
#define KEY_H

#include "c.h"

extern bool KeyCreateAccounts; /* setting apikeys.create_accounts */
extern int KeyExpiryNotice;	   /* setting apikeys.expiry_notice, minutes */

#endif
