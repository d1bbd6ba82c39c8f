#include "daemon/transport.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#define TRANSPORT_MAGIC 0x74726e73

#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44 /* Linux 6.15 */
#endif

enum { CLOSE_LINGER_MS = 1000, PEER_MAX = 128 };

struct transport {
	unsigned magic;
	struct loop *loop;
	struct tp_conn *conn;
	struct channel *channel; /* NULL while detached */
	const struct transport_ops *ops;
	void *user;
	struct event *timer;
	uint64_t armed_ms; /* the deadline that the timer waits for */
	struct loop_task events_task;
	char peer[PEER_MAX];
	uint64_t keepalive_ms;
	bool dead;
	bool processing;
	/* A loss is told once the streams' own endings are. */
	bool lost, lost_fatal;
	uint32_t lost_reason;
	char lost_detail[TP_DETAIL_MAX];
};

static void process_events(struct transport *t);

static void arm_timer(struct transport *t)
{
	uint64_t deadline = tp_conn_deadline(t->conn), now = loop_now_ms(t->loop), wait;
	struct timeval tv;

	t->armed_ms = deadline;
	if (deadline == UINT64_MAX) {
		event_del(t->timer);
		return;
	}
	wait = deadline > now ? deadline - now : 0;
	tv = loop_timeval(wait);
	event_add(t->timer, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
	struct transport *t = user;

	CHECK_OBJ(t, TRANSPORT_MAGIC);
	tp_conn_tick(t->conn, loop_now_ms(t->loop));
	arm_timer(t);
	transport_kick(t);
}

static void on_events_task(void *user)
{
	struct transport *t = user;

	CHECK_OBJ(t, TRANSPORT_MAGIC);
	process_events(t);
}

static void note_loss(struct transport *t, uint32_t reason, const char *detail, bool fatal)
{
	if (t->lost)
		return;
	t->lost = true;
	t->lost_fatal = fatal;
	t->lost_reason = reason;
	snprintf(t->lost_detail, sizeof(t->lost_detail), "%s", detail);
	event_del(t->timer);
}

static void on_failed(struct transport *t, const struct tp_event *ev)
{
	char detail[TP_DETAIL_MAX];

	snprintf(detail, sizeof(detail), "%.*s", SPAN_FMT(ev->detail));
	if (t->channel)
		channel_close(t->channel, CLOSE_LINGER_MS);
	t->channel = NULL;
	tp_conn_detach(t->conn);
	if (ev->fatal)
		tp_conn_abandon(t->conn, ev->reason);
	note_loss(t, ev->reason, detail, ev->fatal);
}

static void process_events(struct transport *t)
{
	struct tp_event ev;

	if (t->processing)
		return;
	t->processing = true;
	while (!t->dead && tp_conn_next(t->conn, loop_now_us(t->loop), &ev)) {
		if (ev.type == TP_EV_FAILED || ev.type == TP_EV_CLOSED)
			on_failed(t, &ev);
		else
			t->ops->on_event(t->user, &ev);
	}
	t->processing = false;
	if (t->dead)
		return;
	if (t->lost) {
		t->lost = false;
		t->ops->on_lost(t->user, t->lost_reason, t->lost_detail, t->lost_fatal);
		return;
	}
	if (!t->channel)
		return;
	/* A later one is found when the timer fires. */
	if (tp_conn_deadline(t->conn) < t->armed_ms)
		arm_timer(t);
	if (tp_conn_wants_write(t->conn))
		channel_want_write(t->channel);
}

static void on_channel_data(void *user, uint8_t *data, size_t len)
{
	struct transport *t = user;

	CHECK_OBJ(t, TRANSPORT_MAGIC);
	tp_conn_feed(t->conn, data, len);
	process_events(t);
}

static size_t on_channel_pull(void *user, uint8_t *dst, size_t room)
{
	struct transport *t = user;
	size_t n;

	CHECK_OBJ(t, TRANSPORT_MAGIC);
	n = tp_conn_pull(t->conn, dst, room);
	if (tp_conn_has_event(t->conn))
		loop_task_queue(t->loop, &t->events_task);
	return n;
}

static void on_channel_closed(void *user, enum channel_end end, int error, const char *detail)
{
	struct transport *t = user;

	CHECK_OBJ(t, TRANSPORT_MAGIC);
	t->channel = NULL;
	tp_conn_detach(t->conn);
	note_loss(t, TP_REASON_NONE, detail, false);
	process_events(t);
}

static const struct channel_ops channel_callbacks = {
	.on_data = on_channel_data,
	.on_pull = on_channel_pull,
	.on_closed = on_channel_closed,
};

int transport_new(struct loop *l, const struct tp_config *cfg, const struct transport_ops *ops, void *user,
		  struct transport **ret)
{
	struct transport *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->magic = TRANSPORT_MAGIC;
	t->loop = l;
	t->ops = ops;
	t->user = user;
	t->peer[0] = 0;
	t->keepalive_ms = cfg->keepalive_ms;
	loop_task_init(&t->events_task, on_events_task, t);
	r = tp_conn_new(cfg, &t->conn);
	if (r < 0) {
		free(t);
		return r;
	}
	t->timer = event_new(loop_base(l), -1, 0, on_timer, t);
	if (!t->timer) {
		tp_conn_free(t->conn);
		free(t);
		return -ENOMEM;
	}
	*ret = t;
	return 0;
}

static void transport_gone(void *p)
{
	struct transport *t = p;

	tp_conn_free(t->conn);
	t->magic = 0;
	free(t);
}

struct transport *transport_free(struct transport *t)
{
	if (!t)
		return NULL;
	CHECK_OBJ(t, TRANSPORT_MAGIC);
	t->dead = true;
	if (t->channel)
		channel_abort(t->channel, false);
	t->channel = NULL;
	loop_task_cancel(t->loop, &t->events_task);
	event_free(t->timer);
	t->timer = NULL;
	loop_free_later(t->loop, transport_gone, t);
	return NULL;
}

struct tp_conn *transport_conn(const struct transport *t)
{
	return t->conn;
}

/* Where packets vanish TCP doubles the pause before its next try, up to two minutes: a path that is back is found late. With shorter
 * pauses it gives up earlier, too, which is for the keepalive to decide. An older kernel or a UNIX socket: no harm. */
static void keep_trying(const struct transport *t, int fd)
{
	const int pause_ms = TRANSPORT_RTO_MAX_MS;
	const unsigned dead_ms = (unsigned)MIN(2 * t->keepalive_ms + TRANSPORT_RTO_MAX_MS, (uint64_t)INT32_MAX);

	(void)setsockopt(fd, IPPROTO_TCP, TCP_RTO_MAX_MS, &pause_ms, sizeof(pause_ms));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}

int transport_attach(struct transport *t, struct channel *take_channel, uint8_t *early, size_t len)
{
	int r;

	if (t->channel)
		channel_abort(t->channel, false);
	t->channel = NULL;
	r = tp_conn_attach(t->conn, loop_now_ms(t->loop));
	if (r < 0) {
		channel_abort(take_channel, false);
		return r;
	}
	t->channel = take_channel;
	keep_trying(t, channel_fd(take_channel));
	channel_peer(take_channel, t->peer, sizeof(t->peer));
	channel_set_ops(take_channel, &channel_callbacks, t);
	arm_timer(t);
	tp_conn_feed(t->conn, early, len);
	process_events(t);
	return 0;
}

int transport_resume(struct transport *t, struct transport *take_fresh)
{
	int r = tp_conn_resume(t->conn, take_fresh->conn, loop_now_ms(t->loop));

	if (r != 0)
		return r;
	if (t->channel)
		channel_abort(t->channel, false);
	t->channel = take_fresh->channel;
	take_fresh->channel = NULL;
	memcpy(t->peer, take_fresh->peer, sizeof(t->peer));
	transport_free(take_fresh);
	channel_set_ops(t->channel, &channel_callbacks, t);
	t->lost = false;
	arm_timer(t);
	transport_kick(t);
	return 0;
}

void transport_abandon(struct transport *t, uint32_t reason)
{
	CHECK_OBJ(t, TRANSPORT_MAGIC);
	tp_conn_abandon(t->conn, reason);
	process_events(t);
}

void transport_kick(struct transport *t)
{
	CHECK_OBJ(t, TRANSPORT_MAGIC);
	if (t->dead)
		return;
	if (t->channel && tp_conn_wants_write(t->conn))
		channel_want_write(t->channel);
	if (t->lost || tp_conn_has_event(t->conn))
		loop_task_queue(t->loop, &t->events_task);
}

void transport_close(struct transport *t, uint32_t reason, const char *detail)
{
	CHECK_OBJ(t, TRANSPORT_MAGIC);
	event_del(t->timer);
	if (!t->channel)
		return;
	tp_conn_close(t->conn, reason, detail);
	channel_close(t->channel, CLOSE_LINGER_MS);
	t->channel = NULL;
	tp_conn_detach(t->conn);
}

bool transport_has_channel(const struct transport *t)
{
	return t->channel != NULL;
}

const char *transport_peer(const struct transport *t)
{
	return t->channel ? t->peer : "-";
}
