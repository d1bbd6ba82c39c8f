#include "gateway/upstream_ask.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/reasons.h"

enum { ASK_MAGIC = 0x7570616b, HEAD_MAX = 16 * 1024 };

static void end(struct upstream_ask *a, uint32_t reason, const char *detail)
{
	a->call = NULL;
	event_del(a->timer);
	a->fn(a->upstream, reason, detail);
}

static void on_head(void *user, const struct http1_head *h)
{
	struct upstream_ask *a = user;

	CHECK_OBJ(a, ASK_MAGIC);
	upstream_call_cancel(a->call);
	end(a, TP_REASON_NONE, "answered");
}

static void on_data(void *user, const uint8_t *p, size_t len)
{
}

static void on_end(void *user)
{
}

static void on_fail(void *user, uint32_t reason, const char *detail)
{
	struct upstream_ask *a = user;

	CHECK_OBJ(a, ASK_MAGIC);
	end(a, reason, detail);
}

static const struct upstream_ops ask_ops = { .on_head = on_head, .on_data = on_data, .on_end = on_end, .on_fail = on_fail };

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
	struct upstream_ask *a = user;
	char detail[96];

	CHECK_OBJ(a, ASK_MAGIC);
	if (!a->call)
		return;
	upstream_call_cancel(a->call);
	snprintf(detail, sizeof(detail), "it takes connections and does not answer: nothing to OPTIONS within %d s", UPSTREAM_ASK_MS / 1000);
	end(a, TP_REASON_UPSTREAM_TIMEOUT, detail);
}

int upstream_ask_init(struct upstream_ask *a, struct loop *l, struct upstream *u, const char *authority, const char *target,
		      void (*fn)(struct upstream *u, uint32_t reason, const char *detail))
{
	*a = (struct upstream_ask){ .magic = ASK_MAGIC, .upstream = u, .fn = fn };
	a->authority = strdup(authority);
	a->target = strdup(target);
	a->timer = event_new(loop_base(l), -1, 0, on_timeout, a);
	return a->authority && a->target && a->timer ? 0 : -ENOMEM;
}

void upstream_ask_done(struct upstream_ask *a)
{
	if (a->call)
		upstream_call_cancel(a->call);
	if (a->timer)
		event_free(a->timer);
	free(a->authority);
	free(a->target);
	*a = (struct upstream_ask){ 0 };
}

void upstream_ask_start(struct upstream_ask *a)
{
	const struct timeval tv = loop_timeval(UPSTREAM_ASK_MS);
	struct buf head, body;

	CHECK_OBJ(a, ASK_MAGIC);
	if (a->call)
		return;
	buf_init(&head, HEAD_MAX);
	buf_init(&body, 1);
	if (http1_write_request(&head, SPAN("OPTIONS"), span_of(a->target)) == 0 &&
	    http1_write_field(&head, SPAN("Host"), span_of(a->authority)) == 0 && http1_write_end(&head) == 0 &&
	    upstream_call_start(a->upstream, &head, &body, true, &ask_ops, a, &a->call) == 0)
		event_add(a->timer, &tv);
	buf_done(&head);
	buf_done(&body);
}
