/*
 * redact.h
 *	  Keeps key texts out of the server log.
 */
#ifndef REDACT_H
#define REDACT_H

extern void RedactInit(void);

#endif
