/* The heads of a WebSocket upgrade, from either end. First byte: 0 a request to the relay, else what a relay answers to the
 * key of RFC 6455; then the head. A request that is good gets an answer that the other end takes. */
#include "daemon/upgrade.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char sample_key[] = "dGhlIHNhbXBsZSBub25jZQ==";

static void must(bool ok)
{
	if (!ok)
		abort();
}

static bool read_head(struct http1_reader *r, enum http1_kind kind, struct span text)
{
	struct http1_event ev;
	size_t used;

	http1_reader_init(r, kind);
	must(http1_read(r, (const uint8_t *)text.p, text.len, &used, &ev) == 0);
	return ev.type == HTTP1_HEAD;
}

static enum upgrade_result judge(const struct http1_head *h, const char *key)
{
	char detail[160] = "";
	unsigned retry_after_s = 0;
	enum upgrade_result r = upgrade_check_response(h, key, detail, sizeof(detail), &retry_after_s);

	must(r == UPGRADE_OK || *detail);
	must(retry_after_s <= 86400);
	for (const char *p = detail; *p; p++)
		must(*p >= ' ' && *p <= '~');
	return r;
}

static void answer(const struct http1_head *h)
{
	_cleanup_(freep) char *key = span_dup(http1_field_get(h, "Sec-WebSocket-Key", NULL));
	struct http1_reader r;
	struct buf out;

	must(key && strlen(key) == UPGRADE_KEY_LEN);
	buf_init(&out, 4096);
	must(upgrade_write_response(&out, h, 1795000000) == 0);
	must(read_head(&r, HTTP1_RESPONSE, buf_span(&out)));
	must(judge(&r.head, key) == UPGRADE_OK);
	http1_reader_done(&r);
	buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum http1_kind kind = size && data[0] ? HTTP1_RESPONSE : HTTP1_REQUEST;
	struct http1_reader r;
	unsigned status = 0;

	if (size == 0)
		return 0;
	if (!read_head(&r, kind, span_make(data + 1, size - 1))) {
		http1_reader_done(&r);
		return 0;
	}
	if (kind == HTTP1_RESPONSE)
		(void)judge(&r.head, sample_key);
	else if (!upgrade_check_request(&r.head, &status))
		answer(&r.head);
	else
		must(status == 400 || status == 426);
	http1_reader_done(&r);
	return 0;
}
