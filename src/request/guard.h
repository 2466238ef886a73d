/*
 * guard.h
 *	  A used key is never deleted: what the first use of a key takes against
 *	  that.
 */
#ifndef GUARD_H
#define GUARD_H

#include "postgres.h"

extern bool GuardFirstUseTryLock(int64 key_id);
extern void GuardFirstUseUnlock(int64 key_id);

#endif
