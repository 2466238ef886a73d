/*
 * client.h
 *	  The address of the client, which proxies tell.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "postgres.h"

extern char *ClientTrustedProxies; /* setting apikeys.trusted_proxies */

extern void ClientAssignTrustedProxies(const char *value, void *extra);

#endif
