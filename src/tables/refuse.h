/*
 * refuse.h
 *	  Errors that say which column they are about, for those who fill in a form.
 */
#ifndef REFUSE_H
#define REFUSE_H

extern int RefusePlace(const char *table, const char *column, const char *constraint);

#endif
