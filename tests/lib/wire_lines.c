/* Reads records (4 bytes of length, big endian, and the bytes) and writes one line for each: what our reader or decoder says of
 * them, for comparisons with parsers that others wrote (tests/e2e/test_parsers.py). Texts are in hex.
 *
 *	request, response	h METHOD TARGET 1.MINOR NAME=VALUE...   h STATUS REASON 1.MINOR NAME=VALUE...   d BODY   e   b ERROR   u: the rest is not read
 *	server, client		m MESSAGE   i PING   o PONG   c CODE REASON   b ERROR
 */
#include <stdio.h>
#include <string.h>

#include "base/encode.h"
#include "proto/http1.h"
#include "proto/websocket.h"

enum { RECORD_MAX = 1 << 20 };

static void hex(struct span s)
{
	if (!s.len)
		putchar('-');
	for (size_t i = 0; i < s.len; i++)
		printf("%02x", (uint8_t)s.p[i]);
}

static void word(const char *before, struct span s)
{
	fputs(before, stdout);
	hex(s);
}

/* ---- HTTP ---- */

static void put_head(const struct http1_reader *r)
{
	const struct http1_head *h = &r->head;

	fputs("h ", stdout);
	if (r->kind == HTTP1_REQUEST)
		hex(h->method);
	else
		printf("%u", h->status);
	word(" ", r->kind == HTTP1_REQUEST ? h->target : h->reason_phrase);
	printf(" 1.%u", h->minor);
	for (size_t i = 0; i < h->n_fields; i++) {
		word(" ", h->fields[i].name);
		word("=", h->fields[i].value);
	}
	putchar('\t');
}

static int read_http(enum http1_kind kind, const uint8_t *p, size_t len)
{
	struct http1_reader r;
	struct http1_event ev;
	bool open = true, eof = false;
	size_t used;

	http1_reader_init(&r, kind);
	while (open) {
		if (http1_read(&r, p, len, &used, &ev) < 0)
			return 1;
		p += used;
		len -= used;
		if (ev.type == HTTP1_MORE && !eof) {
			http1_read_eof(&r, &ev);
			eof = true;
		}
		open = ev.type != HTTP1_MORE && ev.type != HTTP1_BAD && !(eof && ev.type == HTTP1_END);
		if (ev.type == HTTP1_HEAD)
			put_head(&r);
		else if (ev.type == HTTP1_DATA)
			word("d ", ev.data), putchar('\t');
		else if (ev.type == HTTP1_END)
			fputs("e\t", stdout);
		else if (ev.type == HTTP1_BAD)
			printf("b %s\t", ev.error);
		if (ev.type == HTTP1_END && !r.head.keep_alive) {
			fputs("u\t", stdout);
			break;
		}
		if (ev.type == HTTP1_END)
			http1_reader_next(&r);
	}
	http1_reader_done(&r);
	return 0;
}

/* ---- WebSocket ---- */

static void put_item(const struct ws_item *item, struct buf *message)
{
	struct span data = span_make(item->data, item->len);

	if (item->type == WS_ITEM_DATA && buf_add_span(message, data) < 0)
		exit(1);
	if (item->type == WS_ITEM_DATA && item->end) {
		word("m ", buf_span(message));
		buf_clear(message);
	} else if (item->type == WS_ITEM_PING) {
		word("i ", data);
	} else if (item->type == WS_ITEM_PONG) {
		word("o ", data);
	} else if (item->type == WS_ITEM_CLOSE) {
		printf("c %u", item->code);
		word(" ", data);
	} else if (item->type == WS_ITEM_BAD) {
		printf("b %s", item->error);
	}
	putchar('\t');
}

static int read_ws(enum ws_role role, uint8_t *p, size_t len)
{
	uint8_t *end = p + len;
	struct ws_decoder d;
	struct ws_item item;
	struct buf message;

	ws_decoder_init(&d, role, RECORD_MAX);
	buf_init(&message, RECORD_MAX);
	do {
		ws_decode(&d, &p, end, &item);
		if (item.type != WS_ITEM_MORE)
			put_item(&item, &message);
	} while (item.type != WS_ITEM_MORE && item.type != WS_ITEM_CLOSE && item.type != WS_ITEM_BAD);
	buf_done(&message);
	return 0;
}

static int read_record(const char *what, uint8_t *p, size_t len)
{
	if (strcmp(what, "request") == 0)
		return read_http(HTTP1_REQUEST, p, len);
	if (strcmp(what, "response") == 0)
		return read_http(HTTP1_RESPONSE, p, len);
	return read_ws(strcmp(what, "server") == 0 ? WS_SERVER : WS_CLIENT, p, len);
}

int main(int argc, char **argv)
{
	static uint8_t record[RECORD_MAX];
	uint8_t prefix[4];

	if (argc != 2)
		return 2;
	while (fread(prefix, 1, sizeof(prefix), stdin) == sizeof(prefix)) {
		size_t len = (size_t)prefix[0] << 24 | (size_t)prefix[1] << 16 | (size_t)prefix[2] << 8 | prefix[3];

		if (len > sizeof(record) || fread(record, 1, len, stdin) != len || read_record(argv[1], record, len) != 0)
			return 1;
		putchar('\n');
	}
	return ferror(stdin) || fflush(stdout) != 0;
}
