/*
 * digest.h
 *	  The SQL type apikeys.digest, for other C files.
 */
#ifndef DIGEST_H
#define DIGEST_H

#include "postgres.h"

#include "fmgr.h"

#include "pure/secret.h"

#define DatumGetDigestP(X) ((Digest *) DatumGetPointer(X))
#define DigestPGetDatum(X) PointerGetDatum(X)
#define PG_GETARG_DIGEST_P(n) DatumGetDigestP(PG_GETARG_DATUM(n))

#endif
