/* Heads made from text with the reader of proto/http1. */
#pragma once

#include <check.h>
#include <string.h>

#include "proto/http1.h"

/* The reader holds the head until http1_reader_done(). */
static inline const struct http1_head *head_read(struct http1_reader *r, enum http1_kind kind, const char *text)
{
	struct http1_event ev;
	size_t used;

	http1_reader_init(r, kind);
	ck_assert_int_eq(http1_read(r, (const uint8_t *)text, strlen(text), &used, &ev), 0);
	ck_assert_msg(ev.type == HTTP1_HEAD, "%s: %s", text, ev.type == HTTP1_BAD ? ev.error : "not whole");
	return &r->head;
}
