/*
 * notice.h
 *	  Notices: what the application may want to tell its users.
 */
#ifndef NOTICE_H
#define NOTICE_H

#include "postgres.h"

extern bool NoticeAnnounce(void);

#endif
