#include "sample-json.h"
#include "sample-rpc.h"

#include <event2/http_struct.h>
#include <stdio.h>

enum {
	STREAM_MAGIC = 0x73616d70,
	PIECE_BYTES = 64 * 1024,
	PIECES_PER_TURN = 4,
};

#define BLOB_MAX (1ULL << 30)
#define STEPS_MAX 1000000
#define DELAY_MAX_MS 3600000

#define SCHEMA(properties, required)                                                                                   \
	"\"inputSchema\":{\"type\":\"object\",\"properties\":{" properties "},\"required\":[" required "]}"
#define COUNT(name) "\"" name "\":{\"type\":\"integer\",\"minimum\":0}"

const char tools_list_json[] =
	"[{\"name\":\"echo\",\"description\":\"Gives the text back.\","
	SCHEMA("\"text\":{\"type\":\"string\"}", "\"text\"") "},"
	"{\"name\":\"slow\",\"description\":\"Takes steps, and reports each as progress.\","
	SCHEMA(COUNT("steps") "," COUNT("delay_ms"), "\"steps\",\"delay_ms\"") "},"
	"{\"name\":\"blob\",\"description\":\"A text of so many bytes.\","
	SCHEMA(COUNT("bytes"), "\"bytes\"") "}]";

/* An answer that is not over when its handler returns. The request, and with it the spans of rpc, lives until
 * stream_free(); its connection may go away before.
 */
struct stream {
	unsigned magic;
	struct rpc rpc;
	struct event *timer;
	struct timeval delay;
	uint64_t done, total; /* steps of slow, bytes of blob */
	bool slow;
};

static void on_closed(struct evhttp_connection *conn, void *arg);

static void stream_free(struct stream *s)
{
	struct evhttp_connection *conn = evhttp_request_get_connection(s->rpc.req);

	if (conn)
		evhttp_connection_set_closecb(conn, NULL, NULL);
	if (s->timer)
		event_free(s->timer);
	evhttp_send_reply_end(s->rpc.req);
	free(s);
}

static void on_closed(struct evhttp_connection *conn, void *arg)
{
	struct stream *s = arg;

	CHECK_OBJ(s, STREAM_MAGIC);
	if (s->slow) {
		puts("cancelled slow");
		fflush(stdout);
	}
	stream_free(s);
}

static struct stream *stream_new(const struct rpc *m)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s) {
		evhttp_send_error(m->req, 503, NULL);
		return NULL;
	}
	s->magic = STREAM_MAGIC;
	s->rpc = *m;
	evhttp_connection_set_closecb(evhttp_request_get_connection(m->req), on_closed, s);
	return s;
}

static void send_text(const struct rpc *m, struct span text)
{
	struct evbuffer *out = evhttp_request_get_output_buffer(m->req);

	rpc_open_result(m, out);
	rpc_add(out, SPAN("\"content\":[{\"type\":\"text\",\"text\":"));
	rpc_add(out, text);
	rpc_add(out, SPAN("}]}}"));
	rpc_send(m, NULL);
}

static void do_echo(const struct rpc *m)
{
	struct json_want want = { "text", { 0 } };

	if (!m->arguments.p || json_object(m->arguments, &want, 1) < 0 || !json_is_string(want.raw))
		rpc_fail(m, 200, RPC_INVALID_PARAMS, "echo wants {text: string}");
	else
		send_text(m, want.raw);
}

static void slow_progress(struct stream *s, struct evbuffer *out)
{
	rpc_add(out, SPAN("event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":"
			  "{\"progressToken\":"));
	rpc_add(out, s->rpc.token);
	evbuffer_add_printf(out, ",\"progress\":%llu,\"total\":%llu}}\n\n", (unsigned long long)s->done,
			    (unsigned long long)s->total);
}

static void slow_result(struct stream *s, struct evbuffer *out)
{
	rpc_add(out, SPAN("event: message\ndata: "));
	rpc_open_result(&s->rpc, out);
	evbuffer_add_printf(out, "\"content\":[{\"type\":\"text\",\"text\":\"%llu steps done\"}]}}\n\n",
			    (unsigned long long)s->done);
}

static void on_step(evutil_socket_t fd, short what, void *arg)
{
	struct stream *s = arg;
	struct evbuffer *out = evbuffer_new();

	CHECK_OBJ(s, STREAM_MAGIC);
	if (!out) {
		stream_free(s);
		return;
	}
	if (s->done < s->total)
		s->done++;
	if (s->rpc.token.p && s->total > 0)
		slow_progress(s, out);
	if (s->done == s->total)
		slow_result(s, out);
	evhttp_send_reply_chunk(s->rpc.req, out);
	evbuffer_free(out);
	if (s->done == s->total)
		stream_free(s);
	else
		event_add(s->timer, &s->delay);
}

static void do_slow(const struct rpc *m)
{
	struct json_want wants[] = { { "steps", { 0 } }, { "delay_ms", { 0 } } };
	uint64_t steps, delay_ms;
	struct stream *s;

	if (!m->arguments.p || json_object(m->arguments, wants, 2) < 0 ||
	    json_u64(wants[0].raw, STEPS_MAX, &steps) < 0 || json_u64(wants[1].raw, DELAY_MAX_MS, &delay_ms) < 0) {
		rpc_fail(m, 200, RPC_INVALID_PARAMS, "slow wants {steps: 0..1000000, delay_ms: 0..3600000}");
		return;
	}
	s = stream_new(m);
	if (!s)
		return;
	s->slow = true;
	s->total = steps;
	s->delay = (struct timeval){ (time_t)(delay_ms / 1000), (suseconds_t)(delay_ms % 1000 * 1000) };
	s->timer = evtimer_new(evhttp_connection_get_base(evhttp_request_get_connection(m->req)), on_step, s);
	sse_start(m->req);
	if (!s->timer)
		stream_free(s);
	else
		event_add(s->timer, &s->delay);
}

static const char *piece(void)
{
	static char text[PIECE_BYTES];

	if (!text[0]) {
		for (size_t i = 0; i < sizeof(text); i++)
			text[i] = "0123456789abcdef"[i % 16];
	}
	return text;
}

static const struct span blob_tail = { "\"}]}}", 5 };

/* Called whenever everything before has left for the socket: that is the backpressure. */
static void on_blob_room(struct evhttp_connection *conn, void *arg)
{
	struct stream *s = arg;
	struct evbuffer *out = evbuffer_new();

	CHECK_OBJ(s, STREAM_MAGIC);
	for (int i = 0; out && i < PIECES_PER_TURN && s->done < s->total; i++) {
		size_t n = (size_t)MIN(s->total - s->done, (uint64_t)PIECE_BYTES);

		evbuffer_add_reference(out, piece(), n, NULL, NULL);
		s->done += n;
	}
	if (out && s->done < s->total) {
		evhttp_send_reply_chunk_with_cb(s->rpc.req, out, on_blob_room, s);
	} else {
		if (out)
			rpc_add(out, blob_tail);
		evhttp_send_reply_chunk(s->rpc.req, out);
		stream_free(s);
	}
	if (out)
		evbuffer_free(out);
}

static void do_blob(const struct rpc *m)
{
	struct json_want want = { "bytes", { 0 } };
	struct evbuffer *head = evhttp_request_get_output_buffer(m->req);
	struct evkeyvalq *headers = evhttp_request_get_output_headers(m->req);
	uint64_t bytes, total;
	struct stream *s;
	char length[24];

	if (!m->arguments.p || json_object(m->arguments, &want, 1) < 0 || json_u64(want.raw, BLOB_MAX, &bytes) < 0) {
		rpc_fail(m, 200, RPC_INVALID_PARAMS, "blob wants {bytes: 0..1073741824}");
		return;
	}
	s = stream_new(m);
	if (!s)
		return;
	s->total = bytes;
	rpc_open_result(m, head);
	rpc_add(head, SPAN("\"content\":[{\"type\":\"text\",\"text\":\""));
	total = evbuffer_get_length(head) + bytes + blob_tail.len;
	snprintf(length, sizeof(length), "%llu", (unsigned long long)total);
	evhttp_add_header(headers, "Content-Type", "application/json");
	evhttp_add_header(headers, "Content-Length", length);
	evhttp_send_reply_start(m->req, 200, "OK");
	on_blob_room(NULL, s);
}

void tool_call(const struct rpc *m)
{
	if (json_string_is(m->name, "echo"))
		do_echo(m);
	else if (json_string_is(m->name, "slow"))
		do_slow(m);
	else if (json_string_is(m->name, "blob"))
		do_blob(m);
	else
		rpc_fail(m, 200, RPC_INVALID_PARAMS, "Unknown tool");
}

void tool_idle(struct evhttp_request *req)
{
	struct rpc m = { .req = req };

	if (stream_new(&m))
		sse_start(req);
}

void tool_listen(const struct rpc *m)
{
	struct evbuffer *out = evbuffer_new();

	if (!out || !stream_new(m)) {
		if (out)
			evbuffer_free(out);
		return;
	}
	sse_start(m->req);
	rpc_add(out, SPAN("event: message\ndata: {\"jsonrpc\":\"2.0\","
			  "\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{"
			  "\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":"));
	rpc_add(out, m->id);
	rpc_add(out, SPAN("},\"notifications\":{}}}\n\n"));
	evhttp_send_reply_chunk(m->req, out);
	evbuffer_free(out);
}
