/*
 * nametext.h
 *	  Names that look like what they are.  Pure C.
 */
#ifndef NAMETEXT_H
#define NAMETEXT_H

#include "c.h"

typedef enum NameTextFault
{
	NAMETEXT_FINE,
	NAMETEXT_BLANK,	   /* it begins or ends with a blank */
	NAMETEXT_INVISIBLE /* it has a control or invisible character */
} NameTextFault;

extern NameTextFault NameTextCheck(const char *text, size_t len, bool utf8, uint32 *character);
extern bool NameTextIsScope(const char *text, size_t len);

#endif
