/*
 * forwarded.h
 *	  What proxies say about the addresses that a request came from.  Pure C.
 */
#ifndef FORWARDED_H
#define FORWARDED_H

#include "c.h"

#include "pure/pattern.h"

#define FORWARDED_BYTES_MAX 8192 /* read from the end of a header */

/* Whether an address is a proxy whose word counts. */
typedef bool (*ForwardedIsTrusted)(const PatternAddress *address);

extern bool ForwardedReadNode(const char *text, size_t len, PatternAddress *address);
extern void ForwardedWalk(const char *header, size_t len, ForwardedIsTrusted is_trusted,
						  PatternAddress *address);

#endif
