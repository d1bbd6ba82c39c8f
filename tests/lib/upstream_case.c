#include "tests/lib/upstream_case.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "tests/lib/loop_ms.h"

struct loop *loop;
struct upstream *up;
struct peer peer;
bool has_peer;

static void on_sent(void *user)
{
	struct result *r = user;

	r->sents++;
}

static void on_head(void *user, const struct http1_head *h)
{
	struct result *r = user;

	ck_assert_uint_eq(r->ends + r->fails, 0);
	ck_assert_uint_eq(r->sents, 1);
	r->heads++;
	r->status = h->status;
	if (r->on_head)
		r->on_head(r);
}

static void on_data(void *user, const uint8_t *p, size_t len)
{
	struct result *r = user;

	ck_assert_uint_eq(r->ends + r->fails, 0);
	ck_assert_uint_eq(r->heads, 1);
	if (r->bytes < sizeof(r->body) - 1)
		memcpy(r->body + r->bytes, p, MIN(len, sizeof(r->body) - 1 - r->bytes));
	r->datas++;
	r->bytes += len;
	if (r->on_data)
		r->on_data(r);
}

static void on_end(void *user)
{
	struct result *r = user;

	r->ends++;
	r->call = NULL;
	if (r->on_end)
		r->on_end(r);
}

static void on_fail(void *user, uint32_t reason, const char *detail)
{
	struct result *r = user;

	r->fails++;
	r->reason = reason;
	r->call = NULL;
	snprintf(r->detail, sizeof(r->detail), "%s", detail);
}

const struct upstream_ops call_ops = { .on_sent = on_sent, .on_head = on_head, .on_data = on_data, .on_end = on_end, .on_fail = on_fail };

/* ---- the loop ---- */

void run_ms(unsigned ms)
{
	loop_ms(loop, ms);
}

/* ---- set up ---- */

void upstream_setup(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	ck_assert_int_eq(loop_new(&loop), 0);
}

static void start_with(peer_fn *fn, struct upstream_config *cfg)
{
	cfg->host = "127.0.0.1";
	cfg->connect_timeout_ms = 5000;
	peer_start(&peer, fn, NULL);
	has_peer = true;
	cfg->port = peer.port;
	ck_assert_int_eq(upstream_new(loop, cfg, &up), 0);
}

void start(peer_fn *fn, uint64_t idle_ms, size_t max_idle)
{
	start_with(fn, &(struct upstream_config){ .idle_ms = idle_ms, .max_idle = max_idle });
}

void start_asking(peer_fn *fn)
{
	start_with(fn, &(struct upstream_config){ .authority = "x", .target = "/mcp" });
}

void upstream_teardown(void)
{
	up = upstream_free(up);
	loop = loop_free(loop);
	if (has_peer)
		peer_finish(&peer);
}

void call_bytes(struct result *r, const char *head, size_t body_len, bool idempotent)
{
	struct buf h, b;
	uint8_t *at;

	buf_init(&h, 4096);
	buf_init(&b, 128 * MIB);
	ck_assert_int_eq(buf_add_str(&h, head), 0);
	if (body_len) {
		ck_assert_int_eq(buf_reserve(&b, body_len, &at), 0);
		memset(at, 'x', body_len);
		buf_commit(&b, body_len);
	}
	ck_assert_int_eq(upstream_call_start(up, &h, &b, idempotent, &call_ops, r, &r->call), 0);
	ck_assert_uint_eq(buf_len(&h) + buf_len(&b), 0);
	buf_done(&h);
	buf_done(&b);
}

void call_get(struct result *r)
{
	call_bytes(r, GET, 0, true);
}

void call_post(struct result *r)
{
	call_bytes(r, POST, 2, false);
}

void good(struct result *r, const char *body)
{
	run_until(over(r));
	ck_assert_msg(r->ends == 1, "%s: %s", tp_reason_name(r->reason), r->detail);
	ck_assert_uint_eq(r->heads, 1);
	ck_assert_str_eq(r->body, body);
}

void bad(struct result *r, uint32_t reason)
{
	run_until(over(r));
	ck_assert_uint_eq(r->fails, 1);
	ck_assert_msg(r->reason == reason, "%s: %s", tp_reason_name(r->reason), r->detail);
}
