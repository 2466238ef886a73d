/*
 * drop.h
 *	  The removal of the extension while it is in use.
 */
#ifndef DROP_H
#define DROP_H

extern void DropInit(void);

#endif
