/*
 * notice.h
 *	  Notices: what the application may want to tell its users.
 */
#ifndef NOTICE_H
#define NOTICE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "engine/event.h"

extern int NoticeRetention; /* setting apikeys.notice_retention, days; 0: for ever */

extern void NoticeAddLimits(const Event *event);
extern void NoticeForgetLimits(const Event *event);

/* Work in portions; true: there may be more to do. */
extern bool NoticeAnnounce(TimestampTz now);
extern bool NoticeFindExpiring(TimestampTz now);
extern bool NoticeDropOld(TimestampTz now);

#endif
