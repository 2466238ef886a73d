/*
 * sha256.h
 *	  SHA-256 by the instructions that many processors have for it.  Pure C.
 */
#ifndef SHA256_H
#define SHA256_H

#include "c.h"

#define SHA256_LEN	32

extern bool Sha256(uint8 *out, const void *bytes, size_t len);

#endif
