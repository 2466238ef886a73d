/*
 * event.h
 *	  The record of what happened, as it goes from a backend to the writer.
 */
#ifndef EVENT_H
#define EVENT_H

#include "postgres.h"

#include "engine/meter.h"
#include "pure/requestid.h"

typedef enum EventKind
{
	EVENT_REQUEST,
	EVENT_COMPLETION,
	EVENT_RISES /* of the levels of limits, by one request */
} EventKind;

/* Texts, or rises, follow it. */
typedef struct Event
{
	uint32 size;   /* with the texts, aligned */
	uint8 kind;	   /* an EventKind */
	uint8 code;	   /* requests: the verdict's */
	bool admitted; /* requests */
	bool urgent;   /* a backend waits for it to be durable */
	int64 at;	   /* of the request, or of its completion: microseconds since the Unix epoch */
	int64 key_id;
	RequestId request_id;
	int64 account_id; /* of completions: only where requests are not logged; else 0 */
	/* METER_NONE but in requests */
	MeterIndex key_meter;
	MeterIndex account_meter;
	uint32 cost; /* requests: units asked for */
	int16 status;
	bool has_duration; /* completions */
	bool has_credits;  /* completions */
	float duration_ms; /* completions */
	/* the table key: events of an extension that was dropped are discarded */
	Oid relation;
	int32 rotations; /* requests: the key's texts before its present one */
	uint16 endpoint_len;
	uint16 category_len;
	int64 credits;		/* completions */
	uint16 product_len; /* 0: none was named */
	uint16 rise_count;	/* rises */
	uint8 address_len;	/* 0: none */
	uint8 address[16];
	bool has_endpoint;
	bool previous; /* requests: they had the text before the present one */
	/* endpoint, category, product; or the MeterRises, unaligned */
	char texts[FLEXIBLE_ARRAY_MEMBER];
} Event;

#define EVENT_ENDPOINT_MAX 2048 /* bytes; what is longer is cut */
#define EVENT_CATEGORY_MAX 256	/* bytes; as long as a category gets */
#define EVENT_PRODUCT_MAX 256	/* bytes; as long as the name of a product gets */
#define EVENT_TEXTS_MAX (EVENT_ENDPOINT_MAX + EVENT_CATEGORY_MAX + EVENT_PRODUCT_MAX)
#define EVENT_SIZE_MAX MAXALIGN(offsetof(Event, texts) + EVENT_TEXTS_MAX)

StaticAssertDecl(METER_RISES_MAX * sizeof(MeterRise) <= EVENT_TEXTS_MAX,
				 "EVENT_SIZE_MAX is enough for the rises of a request");

#endif
