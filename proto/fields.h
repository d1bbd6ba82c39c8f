/* Name/value pairs of OPEN, HEAD, HELLO and WELCOME: for each, name length (2, big endian), value length (2), name,
 * value. PROTOCOL.md, section Fields. */
#pragma once

#include "proto/tunnel.h"

/* Bytes that the encoding takes; 0 when the fields break a limit (count, name, total) or are misordered. */
size_t fields_size(const struct tp_field *fields, size_t n);
/* dst has fields_size() bytes. */
void fields_encode(uint8_t *dst, const struct tp_field *fields, size_t n);

/* NULL, or what is wrong (static text). ret holds TP_FIELDS_COUNT_MAX; spans point into p. */
const char *fields_decode(const uint8_t *p, size_t len, struct tp_field *ret, size_t *ret_n);
