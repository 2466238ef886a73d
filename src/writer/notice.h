/*
 * notice.h
 *	  Notices: what the application may want to tell its users.
 */
#ifndef NOTICE_H
#define NOTICE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "writer/batch.h"

extern int NoticeRetention; /* setting apikeys.notice_retention, days; 0: for ever */

extern bool NoticeHasLimits(const Batch *batch);
extern void NoticeAddLimits(const Batch *batch);
extern void NoticeForgetLimits(const Batch *batch);
extern bool NoticeAnnounce(void);
extern bool NoticeFindExpiring(TimestampTz now);
extern bool NoticeDropOld(TimestampTz now);

#endif
