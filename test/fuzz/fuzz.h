/*
 * fuzz.h
 *	  What the fuzz targets share.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "c.h"

/* Stops at a property that does not hold. */
#define REQUIRE(property) \
	do \
	{ \
		if (!(property)) \
			__builtin_trap(); \
	} while (0)

extern int LLVMFuzzerTestOneInput(const uint8 *bytes, size_t len);

#endif
