/* Asks a running program by its health listener. Blocking, with time limits: for commands that people type. */
#pragma once

#include "base/buf.h"
#include "daemon/url.h"

/* Sends the request as it is (it says Connection: close) and adds the whole answer; its limit is the buffer's. addr: of
 * url_parse_listen_addr(). -ETIMEDOUT, -ENOBUFS, -errno; *ret_connected tells on which side of the connection. */
int health_ask(const struct url *addr, const char *request, struct buf *answer, bool *ret_connected);

/* The status of an HTTP answer, with its body; 0: it is none. */
unsigned health_answer(struct span answer, struct span *ret_body);
