#include "daemon/upgrade.h"

#include <errno.h>
#include <stdio.h>

#include "base/encode.h"
#include "daemon/digest.h"
#include "proto/tunnel.h"

enum { NONCE_BYTES = 16, ACCEPT_LEN = 28 };

/* RFC 6455 section 4.2.2, item 5.4. */
static int accept_of(struct span key, char out[ACCEPT_LEN + 1])
{
	char text[UPGRADE_KEY_LEN + 40];
	uint8_t sha[SHA1_LEN];
	int n, r;

	if (key.len > UPGRADE_KEY_LEN)
		return -EINVAL;
	n = snprintf(text, sizeof(text), "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", SPAN_FMT(key));
	r = digest_sha1(text, (size_t)n, sha);
	if (r < 0)
		return r;
	base64_encode(sha, sizeof(sha), out);
	return 0;
}

int upgrade_write_request(struct buf *out, const struct upgrade_request *u, char key[UPGRADE_KEY_LEN + 1])
{
	uint8_t nonce[NONCE_BYTES];
	int r = random_bytes(nonce, sizeof(nonce));

	if (r < 0)
		return r;
	base64_encode(nonce, sizeof(nonce), key);
	return buf_printf(out,
			  "GET %s HTTP/1.1\r\n"
			  "Host: %s\r\n"
			  "Connection: Upgrade\r\n"
			  "Upgrade: websocket\r\n"
			  "Sec-WebSocket-Version: 13\r\n"
			  "Sec-WebSocket-Key: %s\r\n"
			  "Sec-WebSocket-Protocol: " TP_SUBPROTOCOL "\r\n"
			  "Authorization: Bearer %s\r\n"
			  "Mcp-Tunnel: %s\r\n"
			  "User-Agent: mcp-tunnel-gateway/" MCP_TUNNEL_VERSION "\r\n"
			  "\r\n",
			  u->target, u->authority, key, u->token, u->tunnel_id);
}

static enum upgrade_result check_refusal(const struct http1_head *h, char *detail, size_t size, unsigned *ret_retry_after_s)
{
	uint64_t seconds;

	if (span_u64(http1_field_get(h, "Retry-After", NULL), &seconds) == 0)
		*ret_retry_after_s = (unsigned)MIN(seconds, (uint64_t)86400);
	if (h->status == 401 || h->status == 403) {
		snprintf(detail, size, "the relay refused the token (HTTP %u)", h->status);
		return UPGRADE_REFUSED_TOKEN;
	}
	if (h->status == 429 || h->status == 503) {
		snprintf(detail, size, "the relay asks to try later (HTTP %u)", h->status);
		return UPGRADE_TRY_LATER;
	}
	snprintf(detail, size, "the control plane answered HTTP %u instead of upgrading to WebSocket", h->status);
	return UPGRADE_NOT_WEBSOCKET;
}

enum upgrade_result upgrade_check_response(const struct http1_head *h, const char *key, char *detail, size_t size,
					   unsigned *ret_retry_after_s)
{
	char accept[ACCEPT_LEN + 1];

	if (h->status != 101)
		return check_refusal(h, detail, size, ret_retry_after_s);
	if (!h->upgrade || !span_iis(http1_field_get(h, "Upgrade", NULL), "websocket") || accept_of(span_of(key), accept) < 0 ||
	    !span_is(http1_field_get(h, "Sec-WebSocket-Accept", NULL), accept) ||
	    http1_field_get(h, "Sec-WebSocket-Extensions", NULL).p) {
		snprintf(detail, size, "the control plane's upgrade answer is not valid WebSocket (RFC 6455)");
		return UPGRADE_NOT_WEBSOCKET;
	}
	if (!span_is(http1_field_get(h, "Sec-WebSocket-Protocol", NULL), TP_SUBPROTOCOL)) {
		snprintf(detail, size, "the control plane does not speak the subprotocol " TP_SUBPROTOCOL);
		return UPGRADE_NO_SUBPROTOCOL;
	}
	return UPGRADE_OK;
}

const char *upgrade_check_request(const struct http1_head *h, unsigned *ret_status)
{
	struct span key = http1_field_get(h, "Sec-WebSocket-Key", NULL);
	uint8_t nonce[UPGRADE_KEY_LEN];
	size_t n;

	*ret_status = 400;
	if (!span_is(h->method, "GET"))
		return "a tunnel connection starts with GET";
	if (!h->upgrade || !span_iis(http1_field_get(h, "Upgrade", NULL), "websocket")) {
		*ret_status = 426;
		return "this path takes WebSocket upgrades only";
	}
	if (!span_is(http1_field_get(h, "Sec-WebSocket-Version", NULL), "13")) {
		*ret_status = 426;
		return "only WebSocket version 13 is spoken here";
	}
	if (key.len != UPGRADE_KEY_LEN || base64_decode(key, nonce, &n) < 0 || n != NONCE_BYTES)
		return "Sec-WebSocket-Key is not 16 bytes of base64";
	if (!http1_list_has(http1_field_get(h, "Sec-WebSocket-Protocol", NULL), TP_SUBPROTOCOL))
		return "the subprotocol " TP_SUBPROTOCOL " is required";
	if (h->body != HTTP1_BODY_NONE)
		return "an upgrade request has no body";
	return NULL;
}

int upgrade_write_response(struct buf *out, const struct http1_head *h, uint64_t now_s)
{
	char accept[ACCEPT_LEN + 1], date[HTTP1_DATE_LEN + 1];
	int r = accept_of(http1_field_get(h, "Sec-WebSocket-Key", NULL), accept);

	if (r < 0)
		return r;
	http1_date_print(now_s, date);
	return buf_printf(out,
			  "HTTP/1.1 101 Switching Protocols\r\n"
			  "Date: %s\r\n"
			  "Connection: Upgrade\r\n"
			  "Upgrade: websocket\r\n"
			  "Sec-WebSocket-Accept: %s\r\n"
			  "Sec-WebSocket-Protocol: " TP_SUBPROTOCOL "\r\n"
			  "\r\n",
			  date, accept);
}
