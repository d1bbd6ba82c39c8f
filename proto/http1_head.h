/* What http1_reader.c and http1_fields.c share; nobody else includes it. */
#pragma once

#include "proto/http1.h"

enum http1_char {
	HTTP1_CHAR_TOKEN = 1,  /* RFC 9110 5.6.2 tchar */
	HTTP1_CHAR_VALUE = 2,  /* HTAB, SP, VCHAR, obs-text */
	HTTP1_CHAR_TARGET = 4, /* VCHAR */
	HTTP1_CHAR_HOST = 8,   /* RFC 3986 3.2.2 reg-name but percent signs */
};

extern const uint8_t http1_chars[256];

static inline bool http1_char_is(char c, enum http1_char set)
{
	return http1_chars[(uint8_t)c] & set;
}

/* Notes what is wrong for HTTP1_BAD; status counts in requests only. Returns false, to be returned in turn. */
bool http1_refuse(struct http1_reader *r, unsigned status, const char *error);

/* Fills r->head from r->head_bytes, which end with CRLF CRLF, contain no LF without its CR, and have n_fields lines
 * between the start line and the empty one; r->fields has room for them. False when refused. */
bool http1_head_parse(struct http1_reader *r, size_t n_fields);
