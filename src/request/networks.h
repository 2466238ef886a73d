/*
 * networks.h
 *	  Settings that are lists of addresses and networks.
 */
#ifndef NETWORKS_H
#define NETWORKS_H

#include "postgres.h"

#include "utils/guc.h"

#include "pure/pattern.h"

typedef struct Network
{
	uint8 bytes[16];
	uint8 len; /* 4 or 16 */
	uint8 bits;
} Network;

typedef struct NetworkList
{
	int count;
	Network networks[FLEXIBLE_ARRAY_MEMBER];
} NetworkList;

extern bool NetworksCheck(char **value, void **extra, GucSource source);
extern bool NetworksHave(const NetworkList *list, const PatternAddress *address);

#endif
