/*
 * digest.c
 *	  The SQL type apikeys.digest: the SHA-256 of a key text, 32 bytes.
 *
 * A type of its own instead of bytea: fixed length and no header, so that the
 * two indexes on apikeys.key stay small and compare with one memcmp, and no
 * value of another length can get in.  The comparison need not take constant
 * time: how many bytes of two digests agree tells nothing about a key text.
 * (verify compares the digest that it found with sodium_memcmp all the same, in
 * lookup.c.)
 *
 * No error shows the input or its statement: it may be a key text pasted by
 * mistake.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"

#include "compat.h"
#include "types/digest.h"

#define HEX_LEN (2 * DIGEST_LEN)

StaticAssertDecl(sizeof(Digest) == DIGEST_LEN, "a digest is stored as it is");

PG_FUNCTION_INFO_V1(apikeys_digest_in);
PG_FUNCTION_INFO_V1(apikeys_digest_out);
PG_FUNCTION_INFO_V1(apikeys_digest_recv);
PG_FUNCTION_INFO_V1(apikeys_digest_send);
PG_FUNCTION_INFO_V1(apikeys_digest_from_bytea);

/* Returns the value of a hexadecimal digit; -1 if it is none. */
static int
hexValue(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * Decodes the 64 hexadecimal digits of a digest; false if the text is anything
 * else.
 */
static bool
decodeHex(const char *text, Digest *digest)
{
	if (strlen(text) != HEX_LEN)
		return false;
	for (int i = 0; i < DIGEST_LEN; i++)
	{
		int high = hexValue(text[2 * i]);
		int low = hexValue(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		digest->bytes[i] = (uint8) (high << 4 | low);
	}
	return true;
}

/* Reads a digest from 64 hexadecimal digits of either case, after \x or not. */
Datum
apikeys_digest_in(PG_FUNCTION_ARGS)
{
	const char *text = PG_GETARG_CSTRING(0);
	Digest *digest = palloc(sizeof(Digest));

	if (text[0] == '\\' && text[1] == 'x')
		text += 2;
	if (!decodeHex(text, digest))
		ereturn(fcinfo->context, (Datum) 0,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid digest: not %d hexadecimal digits", HEX_LEN), errhidestmt(true)));
	return DigestPGetDatum(digest);
}

/* Writes a digest as 64 hexadecimal digits in lower case. */
Datum
apikeys_digest_out(PG_FUNCTION_ARGS)
{
	char *text = palloc(HEX_LEN + 1);

	text[hex_encode((const char *) PG_GETARG_DIGEST_P(0)->bytes, DIGEST_LEN, text)] = '\0';
	PG_RETURN_CSTRING(text);
}

/* Reads a digest from its 32 bytes. */
Datum
apikeys_digest_recv(PG_FUNCTION_ARGS)
{
	StringInfo message = (StringInfo) PG_GETARG_POINTER(0);
	Digest *digest = palloc(sizeof(Digest));

	if (message->len - message->cursor != DIGEST_LEN)
		ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
						errmsg("invalid digest: not %d bytes", DIGEST_LEN), errhidestmt(true)));
	pq_copymsgbytes(message, (char *) digest->bytes, DIGEST_LEN);
	return DigestPGetDatum(digest);
}

/* Writes a digest's 32 bytes. */
Datum
apikeys_digest_send(PG_FUNCTION_ARGS)
{
	StringInfoData message;

	pq_begintypsend(&message);
	pq_sendbytes(&message, (const char *) PG_GETARG_DIGEST_P(0)->bytes, DIGEST_LEN);
	PG_RETURN_BYTEA_P(pq_endtypsend(&message));
}

/* Makes a digest of 32 bytes. */
Datum
apikeys_digest_from_bytea(PG_FUNCTION_ARGS)
{
	bytea *bytes = PG_GETARG_BYTEA_PP(0);
	Digest *digest = palloc(sizeof(Digest));

	if (VARSIZE_ANY_EXHDR(bytes) != DIGEST_LEN)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid digest: not %d bytes", DIGEST_LEN), errhidestmt(true)));
	memcpy(digest->bytes, VARDATA_ANY(bytes), DIGEST_LEN);
	return DigestPGetDatum(digest);
}

PG_FUNCTION_INFO_V1(apikeys_digest_cmp);
PG_FUNCTION_INFO_V1(apikeys_digest_eq);
PG_FUNCTION_INFO_V1(apikeys_digest_ne);
PG_FUNCTION_INFO_V1(apikeys_digest_lt);
PG_FUNCTION_INFO_V1(apikeys_digest_le);
PG_FUNCTION_INFO_V1(apikeys_digest_ge);
PG_FUNCTION_INFO_V1(apikeys_digest_gt);
PG_FUNCTION_INFO_V1(apikeys_digest_hash);
PG_FUNCTION_INFO_V1(apikeys_digest_hash_extended);

/* Compares the two arguments byte by byte. */
static int
compareArguments(FunctionCallInfo fcinfo)
{
	return memcmp(PG_GETARG_DIGEST_P(0)->bytes, PG_GETARG_DIGEST_P(1)->bytes, DIGEST_LEN);
}

Datum
apikeys_digest_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(compareArguments(fcinfo));
}

Datum
apikeys_digest_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compareArguments(fcinfo) == 0);
}

Datum
apikeys_digest_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compareArguments(fcinfo) != 0);
}

Datum
apikeys_digest_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compareArguments(fcinfo) < 0);
}

Datum
apikeys_digest_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compareArguments(fcinfo) <= 0);
}

Datum
apikeys_digest_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compareArguments(fcinfo) >= 0);
}

Datum
apikeys_digest_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compareArguments(fcinfo) > 0);
}

/*
 * Hashes a digest.  Its own first bytes would not do: the type promises no more
 * of an imported value than its length.
 */
Datum
apikeys_digest_hash(PG_FUNCTION_ARGS)
{
	PG_RETURN_UINT32(hash_bytes(PG_GETARG_DIGEST_P(0)->bytes, DIGEST_LEN));
}

Datum
apikeys_digest_hash_extended(PG_FUNCTION_ARGS)
{
	PG_RETURN_UINT64(
		hash_bytes_extended(PG_GETARG_DIGEST_P(0)->bytes, DIGEST_LEN, PG_GETARG_INT64(1)));
}
