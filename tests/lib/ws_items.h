/* What a WebSocket decoder said, written down so that two ways of feeding it can be compared: the pieces of a message
 * are joined, everything else is kept as it came. Used by the unit test and the fuzzer.
 */
#pragma once

#include "proto/websocket.h"

#include <stdio.h>
#include <string.h>

struct ws_log {
	char *text;
	size_t len;
	FILE *out;
};

static inline void ws_log_open(struct ws_log *log)
{
	log->out = open_memstream(&log->text, &log->len);
	if (!log->out)
		abort();
}

static inline void ws_log_close(struct ws_log *log)
{
	fclose(log->out);
}

static inline void ws_log_item(struct ws_log *log, const struct ws_item *item)
{
	static const char *const names[] = { "more", "data", "ping", "pong", "close", "bad" };

	/* A piece of a message is only its bytes; its last one is followed by a mark. */
	if (item->type != WS_ITEM_DATA)
		fprintf(log->out, "<%s %u %zu %s>", names[item->type], item->code, item->len,
			item->error ? item->error : "");
	if (item->len)
		fwrite(item->data, 1, item->len, log->out);
	if (item->end)
		fputs("<end>", log->out);
}

/* Decodes a copy of n bytes on the heap, so that a sanitizer sees every byte read or written outside of it.
 * Returns false after CLOSE or BAD. */
static inline bool ws_log_piece(struct ws_log *log, struct ws_decoder *d, const uint8_t *bytes, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1), *p = copy, *end = copy + n;
	struct ws_item item;
	bool open = true;

	if (!copy)
		abort();
	if (n)
		memcpy(copy, bytes, n);
	for (;;) {
		ws_decode(d, &p, end, &item);
		if (item.type == WS_ITEM_MORE)
			break;
		if (item.type == WS_ITEM_DATA && item.len == 0 && !item.end)
			abort(); /* the contract: empty only when it ends one */
		ws_log_item(log, &item);
		if (item.type == WS_ITEM_CLOSE || item.type == WS_ITEM_BAD)
			open = false;
	}
	if (p != end)
		abort(); /* the contract: MORE has used all bytes */
	free(copy);
	return open;
}
