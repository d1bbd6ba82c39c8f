/* The WebSocket upgrade (RFC 6455 section 4) of a tunnel connection, both ends. PROTOCOL.md, section Carrier. */
#pragma once

#include "base/buf.h"
#include "proto/http1.h"

enum { UPGRADE_KEY_LEN = 24 };

struct upgrade_request {
	const char *authority; /* Host */
	const char *target;    /* path and query */
	const char *token;
	const char *tunnel_id;
};

/* Client: appends the request; key gets the Sec-WebSocket-Key that upgrade_check_response() wants back. */
int upgrade_write_request(struct buf *out, const struct upgrade_request *u, char key[UPGRADE_KEY_LEN + 1]);

enum upgrade_result {
	UPGRADE_OK,
	UPGRADE_REFUSED_TOKEN, /* 401 or 403 */
	UPGRADE_TRY_LATER,     /* 429 or 503; retry_after_s may be set */
	UPGRADE_NO_SUBPROTOCOL,
	UPGRADE_NOT_WEBSOCKET, /* any other answer */
};

/* Client: judges the response head. detail gets a phrase for people. */
enum upgrade_result upgrade_check_response(const struct http1_head *h, const char *key, char *detail, size_t size,
					   unsigned *ret_retry_after_s);

/* Server: NULL when the head asks for our upgrade in proper form, else what is wrong (answer 400, or 426 when *ret_status
 * says so). Authorization is not looked at. */
const char *upgrade_check_request(const struct http1_head *h, unsigned *ret_status);
/* Server: the 101. now_s: for its Date. */
int upgrade_write_response(struct buf *out, const struct http1_head *h, uint64_t now_s);
