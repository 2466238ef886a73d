/*
 * productlist.h
 *	  What a key's list of products says of the product of a request.
 */
#ifndef PRODUCTLIST_H
#define PRODUCTLIST_H

#include "postgres.h"

#include "request/lookup.h"

/* What a key's list of products says of one of them. */
typedef enum ProductMatch
{
	PRODUCT_UNRESTRICTED, /* the list is empty */
	PRODUCT_ASSIGNED,
	PRODUCT_NOT_ASSIGNED
} ProductMatch;

extern ProductMatch ProductListMatch(Lookup *lookup, int64 key_id, const text *product);

#endif
