#include "daemon/audit_calls.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/mcp_answer.h"
#include "proto/reasons.h"

enum {
	CALLS_MAGIC = 0x63616c73,
	NO_ANSWER = -1,
};

/* Kept until the request records are queued. */
struct facts {
	struct audit_call call;
	char session[AUDIT_SESSION_TEXT_LEN + 1];
	struct audit_hash hash;
	char text[];
};

/* The arguments of each call. Owned by a thread while it runs: it outlives its call then. */
struct hashing {
	struct worker_job job;
	struct audit_calls *calls; /* NULL: ended meanwhile */
	struct audit_hash hash;
	struct buf body; /* taken over from a call that has ended */
	size_t n, bytes;
	int result;
	struct {
		struct span arguments;
		char text[AUDIT_HASH_TEXT_LEN + 1];
	} each[];
};

struct one {
	struct audit_calls *calls;
	struct audit_open *open; /* queued or written, response owed; NULL: not, or not owed */
	bool pending;            /* its verdict has not come */
	int answer;              /* its number in `answer`, or NO_ANSWER: a notification */
};

struct audit_calls {
	unsigned magic;
	const struct audit_calls_shared *shared;
	struct facts *facts;
	struct hashing *hashing;
	const struct mcp_scan *scan;
	struct buf *body;
	audit_verdict_fn on_verdict;
	void *user;
	struct one *each;
	size_t n, n_pending;
	struct mcp_answer *answer;
	struct audit_ending ending;
	char peer_head[AUDIT_HEAD_MAX];
};

/* ---- facts ---- */

static size_t facts_len(const struct audit_call *f)
{
	return f->where.tunnel_id.len + f->where.session_id.len + f->where.peer.len + f->call_id.len + f->agent.len +
	       f->agent_auth.len + f->route.len + f->trace.len;
}

static struct span copy(char **at, struct span s)
{
	struct span out = { s.p ? *at : NULL, s.len };

	if (s.len)
		/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a span with a length has bytes. */
		memcpy(*at, s.p, s.len);
	*at += s.len;
	return out;
}

static int hash_session(const struct audit_hash *hash, struct span id, char *dst, struct span *ret)
{
	int r;

	*ret = (struct span){ NULL, 0 };
	if (!id.len)
		return 0;
	r = audit_hash_session(hash, id, dst);
	if (r == 0)
		*ret = span_of(dst);
	return r;
}

static struct facts *facts_free(struct facts *f)
{
	if (f)
		audit_hash_done(&f->hash);
	free(f);
	return NULL;
}

static int facts_new(const struct audit_call *from, struct span mcp_session_id, const struct audit_hash *hash, struct facts **ret)
{
	struct facts *f = malloc(sizeof(*f) + facts_len(from));
	char *at;
	int r;

	if (!f)
		return -ENOMEM;
	at = f->text;
	f->hash = *hash;
	f->call = (struct audit_call){
		.where = { copy(&at, from->where.tunnel_id), copy(&at, from->where.session_id), copy(&at, from->where.peer) },
		.call_id = copy(&at, from->call_id),
		.agent = copy(&at, from->agent),
		.agent_auth = copy(&at, from->agent_auth),
		.route = copy(&at, from->route),
		.trace = copy(&at, from->trace),
		.upstream = from->upstream,
		.began_us = from->began_us,
	};
	r = hash_session(hash, mcp_session_id, f->session, &f->call.session_hash);
	if (r < 0) {
		facts_free(f);
		return r;
	}
	*ret = f;
	return 0;
}

int audit_calls_new(const struct audit_calls_shared *shared, const struct audit_call *facts, struct span mcp_session_id,
		    const struct audit_hash *hash, struct audit_calls **ret)
{
	struct audit_calls *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->magic = CALLS_MAGIC;
	c->shared = shared;
	r = shared->audit ? facts_new(facts, mcp_session_id, hash, &c->facts) : 0;
	if (r < 0) {
		free(c);
		return r;
	}
	*ret = c;
	return 0;
}

/* ---- messages ---- */

/* Of a body that is no batch, or bad as a whole: the only one. */
static size_t messages(const struct mcp_scan *scan)
{
	size_t n = mcp_scan_count(scan);

	return n ? n : 1;
}

static void message_at(const struct mcp_scan *scan, size_t i, struct mcp_view *ret)
{
	if (mcp_scan_count(scan))
		mcp_scan_message(scan, i, ret);
	else
		*ret = (struct mcp_view){ .kind = MCP_NOT_JSONRPC };
}

/* The next call from *i on; *i is behind it then. */
static bool next_call(const struct mcp_scan *scan, size_t *i, struct mcp_view *ret)
{
	for (size_t n = messages(scan); *i < n;) {
		message_at(scan, (*i)++, ret);
		if (ret->kind != MCP_RESPONSE)
			return true;
	}
	return false;
}

static struct span arguments_of(const struct mcp_view *view, const struct buf *body)
{
	if (!view->has_arguments)
		return (struct span){ NULL, 0 };
	return span_make(buf_bytes(body) + view->arguments_at, (size_t)view->arguments_len);
}

/* ---- hashing ---- */

static struct hashing *hashing_free(struct hashing *h)
{
	if (!h)
		return NULL;
	audit_hash_done(&h->hash);
	buf_done(&h->body);
	free(h);
	return NULL;
}

static void hash_all(void *user)
{
	struct hashing *h = user;

	for (size_t i = 0; i < h->n && h->result == 0; i++)
		h->result = audit_hash_arguments(&h->hash, h->each[i].arguments, h->each[i].text);
}

static void on_dropped(void *user)
{
	hashing_free(user);
}

/* Nobody waits for it any more. */
static void hashing_abandon(struct audit_calls *c)
{
	struct hashing *h = c->hashing;

	c->hashing = NULL;
	if (!h || worker_cancel(c->shared->worker, &h->job, on_dropped)) {
		hashing_free(h);
		return;
	}
	h->calls = NULL;
	h->body = *c->body;
	buf_init(c->body, h->body.max);
}

static void on_hashed(void *user);

static int hashing_new(struct audit_calls *c, size_t n_calls, struct hashing **ret)
{
	struct hashing *h = calloc(1, sizeof(*h) + n_calls * sizeof(h->each[0]));
	struct mcp_view view;
	size_t i = 0;

	if (!h)
		return -ENOMEM;
	h->calls = c;
	h->hash = c->facts->hash;
	buf_init(&h->body, 0);
	worker_job_init(&h->job, hash_all, on_hashed, h);
	while (next_call(c->scan, &i, &view)) {
		h->each[h->n].arguments = arguments_of(&view, c->body);
		h->bytes += h->each[h->n].arguments.len;
		h->n++;
	}
	*ret = h;
	return 0;
}

/* ---- the request records ---- */

static void end_one(struct audit_calls *c, struct one *one)
{
	struct audit_ending e = c->ending;
	struct mcp_outcome o;

	if (!one->open)
		return;
	e.has_answer = one->answer != NO_ANSWER && mcp_answer_outcome(c->answer, (size_t)one->answer, &o);
	if (e.has_answer) {
		e.is_error = o.is_error;
		e.has_rpc_error = o.has_rpc_error;
		e.rpc_error_code = o.rpc_error_code;
	}
	audit_response(c->shared->audit, one->open, &e);
	one->open = NULL;
	one->pending = false;
}

static void end_all(struct audit_calls *c, uint32_t reason)
{
	c->ending.reason = reason;
	c->n_pending = 0;
	for (size_t i = 0; i < c->n; i++)
		end_one(c, &c->each[i]);
}

/* What was needed for the request records only. */
static void requests_done(struct audit_calls *c)
{
	c->hashing = hashing_free(c->hashing);
	c->facts = facts_free(c->facts);
	c->scan = NULL;
	c->body = NULL;
}

static void on_one_verdict(void *user, int r)
{
	struct one *one = user;
	struct audit_calls *c = one->calls;

	CHECK_OBJ(c, CALLS_MAGIC);
	one->pending = false;
	c->n_pending--;
	if (r < 0) {
		one->open = NULL;
		end_all(c, TP_REASON_AUDIT_UNAVAILABLE);
	} else if (c->n_pending) {
		return;
	}
	c->on_verdict(c->user, r);
}

/* -ENOMEM where the answer could not be waited for. */
static int expect_answer(struct audit_calls *c, struct one *one, const struct mcp_view *view, int *next)
{
	int r;

	one->answer = NO_ANSWER;
	if (view->kind != MCP_REQUEST)
		return 0;
	r = c->answer ? 0 : mcp_answer_new(&c->answer);
	if (r == 0)
		r = mcp_answer_expect(c->answer, view->id);
	if (r == 0)
		one->answer = (*next)++;
	return r == -ENOMEM ? r : 0;
}

static int record_one(struct audit_calls *c, struct one *one, const struct mcp_view *view, struct span args_hash)
{
	const struct audit_calls_shared *shared = c->shared;
	struct audit_call call = c->facts->call;
	char rule[AUDIT_CALLS_RULE_MAX];
	int r;

	call.view = view;
	if (shared->would_deny && shared->would_deny(shared->user, view, rule))
		call.rule = rule;
	call.args_hash = args_hash;
	call.request_bytes = buf_len(c->body);
	r = audit_request(shared->audit, &call, on_one_verdict, one, &one->open);
	one->pending = r == 0;
	c->n_pending += one->pending;
	return r;
}

static int record_each(struct audit_calls *c)
{
	const struct hashing *h = c->hashing;
	struct mcp_view view;
	struct span hash;
	int r = 0, next = 0;
	size_t i = 0;

	while (r >= 0 && next_call(c->scan, &i, &view)) {
		struct one *one = &c->each[c->n];

		hash = h->result < 0 ? (struct span){ NULL, 0 } : span_of(h->each[c->n].text);
		one->calls = c;
		r = expect_answer(c, one, &view, &next);
		if (r == 0)
			r = record_one(c, one, &view, hash);
		c->n += r >= 0;
	}
	if (r < 0)
		return r;
	return c->n_pending ? 0 : AUDIT_AT_ONCE;
}

static int record_all(struct audit_calls *c)
{
	int r = c->hashing->result < 0 && !c->shared->allow_on_failure ? c->hashing->result : record_each(c);

	if (r < 0)
		end_all(c, TP_REASON_AUDIT_UNAVAILABLE);
	requests_done(c);
	return r;
}

static void on_hashed(void *user)
{
	struct hashing *h = user;
	struct audit_calls *c = h->calls;
	int r;

	CHECK_OBJ(c, CALLS_MAGIC);
	r = record_all(c);
	if (r != 0)
		c->on_verdict(c->user, r == AUDIT_AT_ONCE ? 0 : r);
}

static size_t count_calls(const struct mcp_scan *scan)
{
	struct mcp_view view;
	size_t i = 0, n = 0;

	while (next_call(scan, &i, &view))
		n++;
	return n;
}

int audit_calls_request(struct audit_calls *c, const struct mcp_scan *scan, struct buf *body, audit_verdict_fn on_verdict, void *user)
{
	size_t n = count_calls(scan);
	int r;

	CHECK_OBJ(c, CALLS_MAGIC);
	assert(!c->each && !c->hashing);
	if (!c->shared->audit || n == 0)
		return AUDIT_AT_ONCE;
	c->scan = scan;
	c->body = body;
	c->on_verdict = on_verdict;
	c->user = user;
	c->each = calloc(n, sizeof(*c->each));
	r = c->each ? hashing_new(c, n, &c->hashing) : -ENOMEM;
	if (r < 0) {
		requests_done(c);
		return r;
	}
	/* Where no thread can be had, the loop is held up rather than the call refused. */
	if (c->hashing->bytes > AUDIT_CALLS_INLINE_MAX && worker_submit(c->shared->worker, &c->hashing->job) == 0)
		return 0;
	hash_all(c->hashing);
	return record_all(c);
}

bool audit_calls_recorded(const struct audit_calls *c)
{
	return c->each != NULL;
}

/* ---- denials ---- */

static void deny(const struct audit_calls_shared *shared, struct audit_call *call, const struct audit_hash *hash,
		 const struct buf *body, uint32_t reason, const char *rule)
{
	char text[AUDIT_HASH_TEXT_LEN + 1];
	struct span arguments;

	if (call->view && call->view->kind != MCP_NOT_JSONRPC && body) {
		arguments = arguments_of(call->view, body);
		if (arguments.len <= AUDIT_CALLS_INLINE_MAX && audit_hash_arguments(hash, arguments, text) == 0)
			call->args_hash = span_of(text);
	}
	call->request_bytes = body ? buf_len(body) : 0;
	audit_denied(shared->audit, call, reason, rule);
	call->args_hash = span_make(NULL, 0);
}

void audit_calls_denied(struct audit_calls *c, const struct mcp_view *view, const struct buf *body, uint32_t reason, const char *rule)
{
	struct audit_call call;

	CHECK_OBJ(c, CALLS_MAGIC);
	if (!c->facts)
		return;
	call = c->facts->call;
	call.view = view;
	deny(c->shared, &call, &c->facts->hash, body, reason, rule);
}

void audit_calls_refused(const struct audit_calls_shared *shared, const struct audit_call *facts, struct span mcp_session_id,
			 const struct audit_hash *hash, uint32_t reason, const char *rule)
{
	struct audit_call call = *facts;
	char session[AUDIT_SESSION_TEXT_LEN + 1];

	if (!shared->audit)
		return;
	call.view = NULL;
	call.args_hash = call.session_hash = (struct span){ NULL, 0 };
	if (hash)
		(void)hash_session(hash, mcp_session_id, session, &call.session_hash);
	deny(shared, &call, hash, NULL, reason, rule);
}

/* ---- the answer ---- */

void audit_calls_answer_head(struct audit_calls *c, const struct audit_calls_head *head)
{
	CHECK_OBJ(c, CALLS_MAGIC);
	c->ending.http_status = head->status;
	c->ending.ttfb_us = head->ttfb_us;
	if (head->peer_head.p && head->peer_head.len < sizeof(c->peer_head)) {
		memcpy(c->peer_head, head->peer_head.p, head->peer_head.len);
		c->ending.peer_head = span_make(c->peer_head, head->peer_head.len);
	}
	if (c->answer && !head->encoded)
		mcp_answer_begin(c->answer, mcp_answer_form(head->content_type));
}

void audit_calls_answer_data(struct audit_calls *c, const void *p, size_t len)
{
	CHECK_OBJ(c, CALLS_MAGIC);
	c->ending.response_bytes += len;
	if (c->answer)
		mcp_answer_feed(c->answer, p, len);
}

struct audit_calls *audit_calls_end(struct audit_calls *c, uint32_t reason)
{
	if (!c)
		return NULL;
	CHECK_OBJ(c, CALLS_MAGIC);
	hashing_abandon(c);
	if (c->answer) {
		mcp_answer_finish(c->answer);
		c->ending.response_events = mcp_answer_events(c->answer);
	}
	end_all(c, reason);
	facts_free(c->facts);
	mcp_answer_free(c->answer);
	free(c->each);
	c->magic = 0;
	free(c);
	return NULL;
}
