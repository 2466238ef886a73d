/*
 * pattern.h
 *	  Where a request comes from: domains against a key's list, addresses
 *	  against blocks.  Pure C.
 */
#ifndef PATTERN_H
#define PATTERN_H

#include "c.h"

#define PATTERN_HOST_MAX 253
#define PATTERN_LABEL_MAX 63

/*
 * An address: 4 or 16 bytes, network byte order.  ::ffff:a.b.c.d is the 4-byte
 * address.  Bytes beyond len are zero, so equal addresses are equal memory.
 */
typedef struct PatternAddress
{
	uint8 len; /* 4 or 16 */
	uint8 bytes[16];
} PatternAddress;

extern bool PatternOriginHost(const char *origin, size_t len, const char **host, size_t *host_len);
extern bool PatternIsValid(const char *pattern, size_t len);
extern bool
PatternMatchesHost(const char *pattern, size_t pattern_len, const char *host, size_t host_len);
extern void PatternAddressSet(PatternAddress *address, const uint8 *bytes, int len);
extern bool PatternNetworkContains(const uint8 *network, int len, int prefix_bits,
								   const PatternAddress *address);

#endif
