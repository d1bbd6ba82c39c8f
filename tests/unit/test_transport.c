#include "daemon/transport.h"

#include "base/log.h"
#include "daemon/digest.h"
#include "tests/lib/loop_ms.h"
#include "tests/lib/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A gateway's and a relay's transport, each on its end of a TCP connection of one loop. What the owners in gateway/ and relay/ do
 * with the events is done here by hand, as simple as can be. */

enum { STREAMS_MAX = 8, BODY_MAX = 4 * 1024 * 1024 };

struct stream {
	struct tp_stream *s;
	bool head, ended, reset;
	uint32_t reason;
	size_t received, to_send, sent;
};

struct side {
	struct transport *t;
	struct side *other;
	struct stream streams[STREAMS_MAX];
	size_t n_streams;
	unsigned attached, resumed, lost, hellos, goaways;
	uint32_t lost_reason;
	bool lost_fatal;
	char lost_detail[256];
	bool free_when_lost, free_when_attached;
};

static struct loop *loop;
static struct side gw, rl, fresh;
static uint64_t keepalive_ms;
/* The raw ends of the connection, to break it with. */
static struct channel *gw_channel, *rl_channel;

/* ---- the loop ---- */

static void run_ms(unsigned ms)
{
	loop_ms(loop, ms);
}

#define run_until(cond)                                                                                                \
	do {                                                                                                           \
		for (unsigned i_ = 0; i_ < 6000 && !(cond); i_++)                                                      \
			run_ms(2);                                                                                     \
		ck_assert_msg((cond), "%s", #cond);                                                                    \
	} while (0)

/* ---- the owners ---- */

static struct stream *stream_of(struct side *s, struct tp_stream *stream)
{
	for (size_t i = 0; i < s->n_streams; i++)
		if (s->streams[i].s == stream)
			return &s->streams[i];
	ck_abort_msg("an event of a stream that was released");
}

/* Releases it once nothing more can come or go. */
static void maybe_release(struct stream *st)
{
	if (st->s && (st->reset || (st->ended && st->sent == st->to_send)))
		st->s = tp_stream_release(st->s);
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 131 + (i >> 8) * 17);
}

static void pump(struct side *s, struct stream *st)
{
	uint8_t chunk[8192];

	while (st->s && !st->reset && st->sent < st->to_send && tp_stream_wants_data(st->s)) {
		size_t n = MIN(sizeof(chunk), st->to_send - st->sent);

		for (size_t i = 0; i < n; i++)
			chunk[i] = byte_at(st->sent + i);
		ck_assert_int_eq(tp_stream_send(st->s, chunk, n, st->sent + n == st->to_send), 0);
		st->sent += n;
	}
	maybe_release(st);
	transport_kick(s->t);
}

static void on_open(struct side *s, const struct tp_event *ev)
{
	static const struct tp_field head[] = { { SPAN_INIT(":status"), SPAN_INIT("200") } };
	struct stream *st = &s->streams[s->n_streams++];

	ck_assert_uint_le(s->n_streams, STREAMS_MAX);
	*st = (struct stream){ .s = ev->stream };
	/* The answer is an echo of as many bytes as asked for. */
	st->to_send = strtoul(tp_field_get(ev->fields, ev->n_fields, "x-size").p, NULL, 10);
	ck_assert_int_eq(tp_stream_head(ev->stream, head, 1, false), 0);
	st->ended = ev->end;
	pump(s, st);
}

static void on_data(struct side *s, const struct tp_event *ev)
{
	struct stream *st = stream_of(s, ev->stream);
	size_t right = 0;

	while (right < ev->len && ev->data[right] == byte_at(st->received + right))
		right++;
	ck_assert_uint_eq(right, ev->len);
	st->received += ev->len;
	st->ended = ev->end;
	tp_stream_consumed(ev->stream, ev->len, loop_now_us(loop));
	maybe_release(st);
	transport_kick(s->t);
}

static void on_hello(struct side *s, const struct tp_event *ev)
{
	static const uint8_t none[TP_SESSION_ID_BYTES];
	uint8_t id[TP_SESSION_ID_BYTES];

	s->hellos++;
	if (s == &fresh && memcmp(ev->session, none, sizeof(none)) != 0) {
		ck_assert_int_eq(memcmp(ev->session, tp_conn_session_id(transport_conn(rl.t)), sizeof(none)), 0);
		ck_assert_int_eq(transport_resume(rl.t, fresh.t), 0);
		fresh.t = NULL;
		return;
	}
	ck_assert_int_eq(random_bytes(id, sizeof(id)), 0);
	ck_assert_int_eq(tp_conn_welcome(transport_conn(s->t), id, loop_now_ms(loop)), 0);
}

static void on_event(void *user, struct tp_event *ev)
{
	struct side *s = user;

	switch (ev->type) {
	case TP_EV_HELLO:
		on_hello(s, ev);
		break;
	case TP_EV_ATTACHED:
		s->attached++;
		s->resumed += ev->resumed;
		if (s->free_when_attached)
			s->t = transport_free(s->t);
		break;
	case TP_EV_OPEN:
		on_open(s, ev);
		break;
	case TP_EV_HEAD:
		stream_of(s, ev->stream)->head = true;
		break;
	case TP_EV_DATA:
		on_data(s, ev);
		break;
	case TP_EV_RESET:
		stream_of(s, ev->stream)->reset = true;
		stream_of(s, ev->stream)->reason = ev->reason;
		maybe_release(stream_of(s, ev->stream));
		break;
	case TP_EV_WRITABLE:
		pump(s, stream_of(s, ev->stream));
		break;
	case TP_EV_GOAWAY:
		s->goaways++;
		break;
	default:
		ck_abort_msg("event %d", (int)ev->type);
	}
}

static void on_lost(void *user, uint32_t reason, const char *detail, bool fatal)
{
	struct side *s = user;

	ck_assert(!transport_has_channel(s->t));
	ck_assert_str_eq(transport_peer(s->t), "-");
	s->lost++;
	s->lost_reason = reason;
	s->lost_fatal = fatal;
	snprintf(s->lost_detail, sizeof(s->lost_detail), "%s", detail);
	if (s->free_when_lost)
		s->t = transport_free(s->t);
}

static const struct transport_ops ops = { .on_event = on_event, .on_lost = on_lost };

/* ---- connections ---- */

static void side_new(struct side *s, enum tp_role role)
{
	struct tp_config cfg;

	*s = (struct side){ 0 };
	tp_config_init(&cfg, role, random_bytes);
	cfg.keepalive_ms = keepalive_ms;
	cfg.handshake_ms = 5000;
	cfg.version = "test";
	ck_assert_int_eq(transport_new(loop, &cfg, &ops, s, &s->t), 0);
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);
	int ln = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(bind(ln, (struct sockaddr *)&in, sizeof(in)), 0);
	ck_assert_int_eq(listen(ln, 1), 0);
	ck_assert_int_eq(getsockname(ln, (struct sockaddr *)&in, &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(connect(fd[0], (struct sockaddr *)&in, sizeof(in)), 0);
	fd[1] = accept(ln, NULL, NULL);
	ck_assert_int_ge(fd[1], 0);
	close(ln);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(fcntl(fd[i], F_SETFL, O_NONBLOCK), 0);
}

/* An upgraded channel, before it is given to a transport. */
static size_t nothing_to_pull(void *user, uint8_t *dst, size_t room)
{
	return 0;
}

static void no_data(void *user, uint8_t *data, size_t len)
{
	ck_abort_msg("data before the transport");
}

static void no_close(void *user, enum channel_end end, int error, const char *detail)
{
	ck_abort_msg("%s", detail);
}

static const struct channel_ops before = { .on_data = no_data, .on_pull = nothing_to_pull, .on_closed = no_close };

static struct channel *channel_on(int fd, bool server)
{
	const struct channel_options opt = { .server = server };
	struct channel *c;

	ck_assert_int_eq(channel_new(loop, fd, &opt, &before, NULL, &c), 0);
	return c;
}

/* The gateway's transport and that relay side get the two ends of a new connection. */
static void connect_to(struct side *relay)
{
	int fd[2];

	tcp_pair(fd);
	gw_channel = channel_on(fd[0], false);
	rl_channel = channel_on(fd[1], true);
	run_ms(5);
	ck_assert_int_eq(transport_attach(relay->t, rl_channel, NULL, 0), 0);
	ck_assert_int_eq(transport_attach(gw.t, gw_channel, NULL, 0), 0);
}

static void setup(void)
{
	log_set_level(LOG_LEVEL_ERROR);
	keepalive_ms = 20000;
	ck_assert_int_eq(loop_new(&loop), 0);
}

static void start(void)
{
	side_new(&gw, TP_GATEWAY);
	side_new(&rl, TP_RELAY);
	connect_to(&rl);
	run_until(gw.attached == 1 && rl.attached == 1);
}

static void teardown(void)
{
	gw.t = transport_free(gw.t);
	rl.t = transport_free(rl.t);
	fresh.t = transport_free(fresh.t);
	loop = loop_free(loop);
}

static void reconnect(void)
{
	side_new(&fresh, TP_RELAY);
	connect_to(&fresh);
}

/* A call: a body of so many bytes, and as many back. */
static struct stream *call(size_t size)
{
	struct stream *st = &rl.streams[rl.n_streams++];
	struct tp_field fields[3] = { { SPAN_INIT(":kind"), SPAN_INIT("exchange") }, { SPAN_INIT(":method"), SPAN_INIT("POST") } };
	char text[24];

	snprintf(text, sizeof(text), "%zu", size);
	fields[2] = (struct tp_field){ SPAN("x-size"), span_of(text) };
	*st = (struct stream){ .to_send = size };
	ck_assert_int_eq(tp_stream_open(transport_conn(rl.t), fields, 3, false, NULL, &st->s), 0);
	pump(&rl, st);
	return st;
}

static bool whole(const struct stream *st)
{
	return st->head && st->ended && st->received == st->to_send && !st->reset;
}

/* ---- tests ---- */

START_TEST(attaches)
{
	start();
	ck_assert(tp_conn_is_attached(transport_conn(gw.t)));
	ck_assert(tp_conn_is_attached(transport_conn(rl.t)));
	ck_assert(transport_has_channel(gw.t));
	ck_assert_int_eq(strncmp(transport_peer(gw.t), "127.0.0.1:", 10), 0);
	ck_assert_uint_eq(gw.lost + rl.lost, 0);
	ck_assert_uint_eq(rl.hellos, 1);
}
END_TEST

/* -1: the kernel has no such option. */
static int tcp_option(struct channel *c, int name)
{
	socklen_t len = sizeof(int);
	int value;

	return getsockopt(channel_fd(c), IPPROTO_TCP, name, &value, &len) == 0 ? value : -1;
}

START_TEST(tries_again_before_long)
{
	keepalive_ms = 30000;
	start();
	for (int i = 0; i < 2; i++) {
		struct channel *c = i ? rl_channel : gw_channel;
		int pause_ms = tcp_option(c, 44); /* TCP_RTO_MAX_MS */

		ck_assert(pause_ms == TRANSPORT_RTO_MAX_MS || pause_ms == -1);
		ck_assert_int_eq(tcp_option(c, TCP_USER_TIMEOUT), 60000 + TRANSPORT_RTO_MAX_MS);
	}
}
END_TEST

START_TEST(there_and_back)
{
	struct stream *st;

	start();
	st = call(10);
	run_until(whole(st));
	st = call(BODY_MAX);
	run_until(whole(st));
	run_until(tp_conn_streams(transport_conn(gw.t)) == 0);
	ck_assert_uint_eq(tp_conn_streams(transport_conn(rl.t)), 0);
}
END_TEST

START_TEST(several_at_once)
{
	struct stream *st[4];

	start();
	for (size_t i = 0; i < ARRAY_LEN(st); i++)
		st[i] = call(100000 * (i + 1));
	for (size_t i = 0; i < ARRAY_LEN(st); i++)
		run_until(whole(st[i]));
}
END_TEST

/* The HELLO comes together with the upgrade's head: as early bytes, which are gone after the call. */
START_TEST(early_bytes)
{
	uint8_t early[4096];
	ssize_t n;
	int fd[2];

	side_new(&gw, TP_GATEWAY);
	side_new(&rl, TP_RELAY);
	tcp_pair(fd);
	gw_channel = channel_on(fd[0], false);
	run_ms(5);
	ck_assert_int_eq(transport_attach(gw.t, gw_channel, NULL, 0), 0);
	run_ms(20);
	n = recv(fd[1], early, sizeof(early), 0);
	ck_assert_int_gt(n, 0);
	rl_channel = channel_on(fd[1], true);
	run_ms(5);
	ck_assert_int_eq(transport_attach(rl.t, rl_channel, early, (size_t)n), 0);
	memset(early, 0xee, sizeof(early));
	run_until(gw.attached == 1 && rl.attached == 1);
}
END_TEST

static void resumes_after(void (*cut)(void))
{
	struct stream *a, *b;

	start();
	a = call(BODY_MAX);
	run_until(a->received > 100000);
	cut();
	run_until(gw.lost == 1);
	/* While it is away: taken, and sent later. */
	b = call(1000);
	reconnect();
	run_until(gw.attached == 2 && rl.attached == 2);
	ck_assert_uint_eq(gw.resumed, 1);
	ck_assert_uint_eq(rl.resumed, 1);
	ck_assert_ptr_null(fresh.t);
	ck_assert_uint_eq(fresh.attached + fresh.lost, 0);
	run_until(whole(a) && whole(b));
	ck_assert_uint_eq(gw.n_streams, 2);
	ck_assert_uint_le(gw.lost + rl.lost, 2);
	ck_assert(!gw.lost_fatal && !rl.lost_fatal);
}

static void cut_at_gateway(void)
{
	shutdown(channel_fd(gw_channel), SHUT_RDWR);
}

static void cut_at_relay(void)
{
	shutdown(channel_fd(rl_channel), SHUT_RDWR);
}

static void half_close_at_relay(void)
{
	shutdown(channel_fd(rl_channel), SHUT_WR);
}

START_TEST(resumes_when_the_gateway_s_side_is_cut)
{
	resumes_after(cut_at_gateway);
}
END_TEST

START_TEST(resumes_when_the_relay_s_side_is_cut)
{
	resumes_after(cut_at_relay);
}
END_TEST

START_TEST(resumes_after_a_half_close)
{
	resumes_after(half_close_at_relay);
}
END_TEST

/* The relay has not noticed that the old connection is dead: the new one takes over. */
START_TEST(takes_over_from_a_connection_that_seems_alive)
{
	struct stream *st;
	int held;

	start();
	st = call(BODY_MAX);
	run_until(st->received > 100000);
	/* The gateway's transport loses its channel; the relay's end hears nothing of it, and may still send: the socket stays. */
	channel_pause(rl_channel, true);
	held = dup(channel_fd(gw_channel));
	ck_assert_int_ge(held, 0);
	shutdown(held, SHUT_RD);
	run_until(gw.lost == 1);
	ck_assert_uint_eq(rl.lost, 0);
	reconnect();
	run_until(gw.attached == 2 && rl.attached == 2);
	run_until(whole(st));
	ck_assert_uint_eq(rl.lost, 0);
	ck_assert_uint_eq(gw.n_streams, 1);
	close(held);
}
END_TEST

/* On the gateway's own wish, again and again: nobody is told of a loss, and nothing is lost. */
START_TEST(moves_to_another_connection)
{
	struct stream *st;

	start();
	st = call(BODY_MAX);
	for (unsigned i = 0; i < 5; i++) {
		size_t received = st->received;

		run_until(st->received > received + 20000 || whole(st));
		reconnect();
		run_until(gw.attached == i + 2 && rl.attached == i + 2);
	}
	run_until(whole(st));
	ck_assert_uint_eq(gw.lost, 0);
	ck_assert_uint_eq(gw.resumed, 5);
	ck_assert_uint_eq(gw.n_streams, 1);
}
END_TEST

START_TEST(cut_again_and_again)
{
	struct stream *st;
	unsigned cuts = 0;

	start();
	st = call(BODY_MAX);
	for (; cuts < 30 && !whole(st); cuts++) {
		size_t received = st->received;
		unsigned lost = gw.lost, attached = gw.attached;

		run_until(st->received > received + 20000 || whole(st));
		if (cuts % 2)
			cut_at_gateway();
		else
			cut_at_relay();
		run_until(gw.lost == lost + 1);
		reconnect();
		run_until(gw.attached == attached + 1 && rl.attached == attached + 1);
	}
	/* How much comes between two cuts is the kernel's affair. */
	ck_assert_uint_gt(cuts, 0);
	run_until(whole(st));
}
END_TEST

START_TEST(closing_says_why)
{
	struct stream *st;

	start();
	st = call(BODY_MAX);
	run_until(st->received > 100000);
	transport_close(gw.t, TP_REASON_GATEWAY_STOPPED, "the gateway stops");
	ck_assert(!transport_has_channel(gw.t));
	run_until(rl.lost == 1);
	ck_assert(rl.lost_fatal);
	ck_assert_uint_eq(rl.lost_reason, TP_REASON_GATEWAY_STOPPED);
	ck_assert(strstr(rl.lost_detail, "the gateway stops"));
	/* The streams' own endings were told before. */
	ck_assert(st->reset);
	ck_assert_uint_eq(st->reason, TP_REASON_GATEWAY_STOPPED);
	run_ms(20);
	ck_assert_uint_eq(gw.lost, 0);
}
END_TEST

START_TEST(the_relay_closing_says_why)
{
	struct stream *st;

	start();
	transport_close(rl.t, TP_REASON_RELAY_STOPPED, "the relay stops");
	run_until(gw.lost == 1);
	ck_assert(gw.lost_fatal);
	ck_assert_uint_eq(gw.lost_reason, TP_REASON_RELAY_STOPPED);
	ck_assert(strstr(gw.lost_detail, "the relay stops"));
	/* The next connection is a new session. */
	rl.t = transport_free(rl.t);
	side_new(&rl, TP_RELAY);
	connect_to(&rl);
	run_until(gw.attached == 2 && rl.attached == 1);
	ck_assert_uint_eq(gw.resumed, 0);
	st = call(1000);
	run_until(whole(st));
}
END_TEST

/* What was queued before the close still goes out, in order. */
START_TEST(closing_flushes)
{
	struct stream *st;

	start();
	st = call(1);
	run_until(gw.n_streams == 1 && gw.streams[0].ended);
	transport_close(gw.t, TP_REASON_GATEWAY_STOPPED, NULL);
	run_until(rl.lost == 1);
	ck_assert(whole(st));
}
END_TEST

START_TEST(abandoning_ends_the_streams_first)
{
	struct stream *a, *b;

	start();
	a = call(BODY_MAX);
	b = call(BODY_MAX);
	run_until(a->received > 1000);
	transport_abandon(rl.t, TP_REASON_SESSION_LOST);
	ck_assert(a->reset && b->reset);
	ck_assert_uint_eq(a->reason, TP_REASON_SESSION_LOST);
	ck_assert_ptr_null(a->s);
	rl.t = transport_free(rl.t);
	run_until(gw.lost == 1);
}
END_TEST

START_TEST(a_session_that_is_not_known_any_more)
{
	struct stream *st;

	start();
	st = call(BODY_MAX);
	run_until(st->received > 100000);
	cut_at_gateway();
	run_until(gw.lost == 1 && rl.lost == 1);
	/* The relay starts anew. */
	rl.t = transport_free(rl.t);
	side_new(&rl, TP_RELAY);
	connect_to(&rl);
	run_until(gw.attached == 2 && rl.attached == 1);
	ck_assert_uint_eq(gw.resumed, 0);
	ck_assert(gw.streams[0].reset);
	ck_assert_uint_eq(gw.streams[0].reason, TP_REASON_SESSION_LOST);
}
END_TEST

/* ---- liveness ---- */

START_TEST(stays_alive_while_both_live)
{
	keepalive_ms = 100;
	start();
	run_ms(1000);
	ck_assert_uint_eq(gw.lost + rl.lost, 0);
	ck_assert(tp_conn_is_attached(transport_conn(gw.t)));
}
END_TEST

START_TEST(silence_is_death)
{
	struct stream *st;
	uint64_t began;

	keepalive_ms = 200;
	side_new(&gw, TP_GATEWAY);
	/* The relay hears nothing either, but is patient. */
	keepalive_ms = 20000;
	side_new(&rl, TP_RELAY);
	connect_to(&rl);
	run_until(gw.attached == 1 && rl.attached == 1);
	began = loop_now_ms(loop);
	channel_pause(rl_channel, true);
	run_until(gw.lost == 1);
	/* Two keepalive times, not the ten seconds of the handshake. */
	ck_assert_uint_ge(loop_now_ms(loop) - began, 300);
	ck_assert_uint_lt(loop_now_ms(loop) - began, 2000);
	ck_assert_uint_eq(gw.lost_reason, TP_REASON_KEEPALIVE);
	ck_assert(!gw.lost_fatal);
	/* The session is still there. */
	reconnect();
	run_until(gw.attached == 2 && rl.attached == 2);
	ck_assert_uint_eq(gw.resumed, 1);
	st = call(1000);
	run_until(whole(st));
}
END_TEST

START_TEST(a_peer_that_never_greets)
{
	struct tp_config cfg;
	int fd[2];

	side_new(&rl, TP_RELAY);
	rl.t = transport_free(rl.t);
	tp_config_init(&cfg, TP_RELAY, random_bytes);
	cfg.handshake_ms = 200;
	ck_assert_int_eq(transport_new(loop, &cfg, &ops, &rl, &rl.t), 0);
	tcp_pair(fd);
	rl_channel = channel_on(fd[1], true);
	run_ms(5);
	ck_assert_int_eq(transport_attach(rl.t, rl_channel, NULL, 0), 0);
	run_until(rl.lost == 1);
	ck_assert_uint_eq(rl.lost_reason, TP_REASON_PROTOCOL);
	close(fd[0]);
}
END_TEST

START_TEST(rubbish_from_the_peer)
{
	int fd[2];

	side_new(&rl, TP_RELAY);
	tcp_pair(fd);
	rl_channel = channel_on(fd[1], true);
	run_ms(5);
	ck_assert_int_eq(transport_attach(rl.t, rl_channel, NULL, 0), 0);
	ck_assert_int_eq(send(fd[0], "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
	run_until(rl.lost == 1);
	ck_assert_uint_eq(rl.lost_reason, TP_REASON_PROTOCOL);
	ck_assert(rl.lost_fatal);
	close(fd[0]);
}
END_TEST

/* ---- death inside a callback ---- */

START_TEST(freed_from_on_lost)
{
	start();
	call(BODY_MAX);
	gw.free_when_lost = rl.free_when_lost = true;
	cut_at_relay();
	run_until(gw.lost == 1 && rl.lost == 1);
	ck_assert_ptr_null(gw.t);
	ck_assert_ptr_null(rl.t);
	run_ms(20);
}
END_TEST

START_TEST(freed_from_on_event)
{
	side_new(&gw, TP_GATEWAY);
	side_new(&rl, TP_RELAY);
	gw.free_when_attached = true;
	connect_to(&rl);
	run_until(gw.attached == 1);
	ck_assert_ptr_null(gw.t);
	run_until(rl.lost == 1);
	ck_assert_uint_eq(gw.lost, 0);
}
END_TEST

START_TEST(freed_before_it_was_attached)
{
	side_new(&gw, TP_GATEWAY);
	transport_kick(gw.t);
	transport_close(gw.t, TP_REASON_GATEWAY_STOPPED, NULL);
	transport_abandon(gw.t, TP_REASON_SESSION_LOST);
	gw.t = transport_free(gw.t);
	ck_assert_ptr_null(transport_free(NULL));
	ck_assert_uint_eq(gw.lost, 0);
}
END_TEST

#define FIXTURE tcase_add_checked_fixture(tc, setup, teardown);

UNIT_MAIN("transport", FIXTURE ADD(attaches) ADD(tries_again_before_long) ADD(there_and_back) ADD(several_at_once) ADD(early_bytes)
	  ADD(resumes_when_the_gateway_s_side_is_cut) ADD(resumes_when_the_relay_s_side_is_cut) ADD(resumes_after_a_half_close)
	  ADD(takes_over_from_a_connection_that_seems_alive) ADD(moves_to_another_connection) ADD(cut_again_and_again) ADD(closing_says_why)
	  ADD(the_relay_closing_says_why) ADD(closing_flushes) ADD(abandoning_ends_the_streams_first)
	  ADD(a_session_that_is_not_known_any_more) ADD(stays_alive_while_both_live) ADD(silence_is_death)
	  ADD(a_peer_that_never_greets) ADD(rubbish_from_the_peer) ADD(freed_from_on_lost) ADD(freed_from_on_event)
	  ADD(freed_before_it_was_attached))
