#include "relay/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "relay/attach.h"

enum { AGE_TEXT = 24, S_PER_DAY = 24 * 3600 };

/* What is being written, and where the tunnels' visitor finds its sessions. */
struct report {
	const struct relay *relay;
	struct buf *out;
	bool table;
	struct attach_info *sessions; /* by tunnel, then age: the eldest first */
	size_t n_sessions, at;        /* at: the next one that no tunnel has had yet */
	size_t n_tunnels;
	int name_width;
	int error;
};

static void say(struct report *p, const char *fmt, ...) _printf_(2, 3);
static void say(struct report *p, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int r;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r = buf_add_str(p->out, text);
	if (r < 0 && !p->error)
		p->error = r;
}

/* Text of others. A table's reader is a terminal: what is not plain ASCII, or a blank, becomes "?". */
static void say_text(struct report *p, const char *text, int width)
{
	char plain[65] = "";
	size_t n = 0;
	int r;

	if (!p->table) {
		r = buf_add_json_text(p->out, text);
		if (r < 0 && !p->error)
			p->error = r;
		return;
	}
	for (; text[n] && n + 1 < sizeof(plain); n++)
		plain[n] = text[n] > ' ' && text[n] < 0x7f ? text[n] : '?';
	plain[n] = '\0';
	say(p, "  %-*s", width, *plain ? plain : "-");
}

void status_age(uint64_t ms, char *dst, size_t size)
{
	unsigned long long s = ms / 1000;

	if (s >= S_PER_DAY)
		snprintf(dst, size, "%llud %lluh", s / S_PER_DAY, s / 3600 % 24);
	else if (s >= 3600)
		snprintf(dst, size, "%lluh %llum", s / 3600, s / 60 % 60);
	else if (s >= 60)
		snprintf(dst, size, "%llum %llus", s / 60, s % 60);
	else
		snprintf(dst, size, "%.1fs", (double)ms / 1000);
}

/* ---- collecting ---- */

static void collect(void *user, const struct attach_info *i)
{
	struct report *p = user;

	p->sessions[p->n_sessions++] = *i;
}

static void count(void *user, const struct attach_info *i)
{
	((struct report *)user)->n_sessions++;
}

static int by_tunnel(const void *a, const void *b)
{
	const struct attach_info *x = a, *y = b;
	int c = strcmp(x->tunnel_id, y->tunnel_id);

	return c ? c : (x->age_ms < y->age_ms) - (x->age_ms > y->age_ms);
}

static void measure(void *user, const struct registry_tunnel *t)
{
	struct report *p = user;

	p->n_tunnels++;
	p->name_width = MAX(p->name_width, (int)strlen(t->id));
}

static int report_init(struct report *p, const struct relay *r, struct buf *out, bool table)
{
	*p = (struct report){ .relay = r, .out = out, .table = table, .name_width = sizeof("TUNNEL") - 1 };
	attach_each(r, count, p);
	p->sessions = calloc(MAX(p->n_sessions, (size_t)1), sizeof(*p->sessions));
	if (!p->sessions)
		return -ENOMEM;
	p->n_sessions = 0;
	attach_each(r, collect, p);
	qsort(p->sessions, p->n_sessions, sizeof(*p->sessions), by_tunnel);
	registry_each_tunnel(r->registry, measure, p);
	return 0;
}

/* The tunnel's next session; tunnels are visited by name. */
static const struct attach_info *next_session(struct report *p, const char *tunnel)
{
	while (p->at < p->n_sessions && strcmp(p->sessions[p->at].tunnel_id, tunnel) < 0)
		p->at++;
	if (p->at < p->n_sessions && strcmp(p->sessions[p->at].tunnel_id, tunnel) == 0)
		return &p->sessions[p->at++];
	return NULL;
}

static const char *state_name(const struct attach_info *i)
{
	static const char *const names[] = {
		[ATTACH_GREETING] = "greeting", [ATTACH_UP] = "attached", [ATTACH_DRAINING] = "draining", [ATTACH_LOST] = "lost",
	};

	return names[i->state];
}

static const char *token_name(const struct attach_info *i)
{
	static const char *const names[] = {
		[REGISTRY_TOKEN_ENDED] = "ended", [REGISTRY_TOKEN_NEWEST] = "newest", [REGISTRY_TOKEN_OLD] = "old",
	};

	return names[i->token];
}

/* ---- JSON ---- */

static void json_session(struct report *p, const struct attach_info *i, bool first)
{
	say(p, "%s{\"id\":\"%.8s\",\"state\":\"%s\",\"peer\":\"", first ? "" : ",", i->session, state_name(i));
	say_text(p, i->peer, 0);
	say(p, "\",\"version\":\"");
	say_text(p, i->version, 0);
	say(p, "\",\"region\":\"");
	say_text(p, i->region, 0);
	say(p, "\",\"token\":\"%s\",\"age_s\":%.1f,\"state_s\":%.1f,\"resumed\":%u,\"rtt_ms\":%.1f,\"calls_open\":%zu}", token_name(i),
	    (double)i->age_ms / 1000, (double)i->state_ms / 1000, i->resumed, (double)i->rtt_us / 1000, i->calls);
}

static void json_tunnel(void *user, const struct registry_tunnel *t)
{
	struct report *p = user;
	const struct attach_info *i;
	char until[REGISTRY_TIME_LEN + 3] = "null";
	bool first = true;

	if (t->old_until_s) {
		registry_time_print(t->old_until_s, until + 1);
		until[0] = until[REGISTRY_TIME_LEN + 1] = '"';
	}
	say(p, "%s{\"name\":\"%s\",\"created\":\"%s\",\"tokens\":%u,\"old_token_until\":%s,\"agents\":%zu,\"sessions\":[", p->n_tunnels++ ? "," : "",
	    t->id, t->created, t->n_tokens, until, t->n_agents);
	while ((i = next_session(p, t->id))) {
		json_session(p, i, first);
		first = false;
	}
	say(p, "]}");
}

static void json_certificate(struct report *p, uint64_t now_s)
{
	const struct relay *r = p->relay;
	uint64_t until_s = r->tls ? tls_certificate_until(r->tls) : 0;
	char text[REGISTRY_TIME_LEN + 1];

	if (!until_s) {
		say(p, "\"certificate\":null,");
		return;
	}
	registry_time_print(until_s, text);
	say(p, "\"certificate\":{\"until\":\"%s\",\"days_left\":%lld},", text, ((long long)until_s - (long long)now_s) / S_PER_DAY);
}

int status_json(const struct relay *r, uint64_t now_s, struct buf *out)
{
	const struct relay_counters *c = &r->counters;
	char time_text[REGISTRY_TIME_LEN + 1];
	struct report p;
	int rc = report_init(&p, r, out, false);

	if (rc < 0)
		return rc;
	registry_time_print(now_s, time_text);
	say(&p, "{\"version\":\"" MCP_TUNNEL_VERSION "\",\"pid\":%d,\"time\":\"%s\",\"uptime_s\":%.1f,\"state\":\"%s\",", (int)getpid(), time_text,
	    (double)(loop_now_ms(r->loop) - r->started_ms) / 1000, r->stopping ? "stopping" : "running");
	json_certificate(&p, now_s);
	say(&p, "\"gateways_attached\":%zu,\"calls_open\":%zu,\"calls_waiting\":%zu,\"calls_total\":%llu,\"gateways_refused_total\":%llu,\"tunnels\":[",
	    attach_count(r), r->calls_open, hold_counters(r->hold)->waiting, (unsigned long long)c->calls_started,
	    (unsigned long long)c->gateway_refused);
	p.n_tunnels = 0;
	registry_each_tunnel(r->registry, json_tunnel, &p);
	say(&p, "]}\n");
	free(p.sessions);
	return p.error;
}

/* ---- the table ---- */

static void table_session(struct report *p, const struct attach_info *i)
{
	char age[AGE_TEXT], state[AGE_TEXT];

	status_age(i->age_ms, age, sizeof(age));
	status_age(i->state_ms, state, sizeof(state));
	say(p, "  %-8.8s  %-8s  %-8s  %-8s  %5zu  %-6s", *i->session ? i->session : "-", state_name(i), state, age, i->calls, token_name(i));
	say_text(p, i->version, 26);
	say_text(p, i->region, 8);
	say_text(p, i->peer, 0);
	say(p, "\n");
}

static void table_tunnel(void *user, const struct registry_tunnel *t)
{
	struct report *p = user;
	const struct attach_info *i = next_session(p, t->id);

	say(p, "%-*s  %6u  %6zu", p->name_width, t->id, t->n_tokens, t->n_agents);
	if (!i)
		say(p, "  -         no gateway\n");
	for (bool first = true; i; first = false, i = next_session(p, t->id)) {
		if (!first)
			say(p, "%-*s  %6s  %6s", p->name_width, "", "", "");
		table_session(p, i);
	}
}

/* Old tokens, whose end may need somebody to do something before. */
static void table_old_token(void *user, const struct registry_tunnel *t)
{
	struct report *p = user;
	char until[REGISTRY_TIME_LEN + 1] = "the next rotation";

	if (t->n_tokens < 2)
		return;
	if (t->old_until_s)
		registry_time_print(t->old_until_s, until);
	say(p, "The old token of %s is valid until %s.\n", t->id, until);
}

static void table_head(struct report *p, uint64_t now_s)
{
	const struct relay *r = p->relay;
	uint64_t until_s = r->tls ? tls_certificate_until(r->tls) : 0;
	size_t attached = attach_count(r);
	char age[AGE_TEXT], until[REGISTRY_TIME_LEN + 1];

	status_age(loop_now_ms(r->loop) - r->started_ms, age, sizeof(age));
	say(p, "mcp-tunnel-relay " MCP_TUNNEL_VERSION ", %s for %s, pid %d\n", r->stopping ? "stopping; up" : "up", age, (int)getpid());
	if (until_s) {
		registry_time_print(until_s, until);
		say(p, "Certificate valid until %s, %lld days%s\n", until, ((long long)until_s - (long long)now_s) / S_PER_DAY,
		    until_s <= now_s ? ": IT HAS EXPIRED" : "");
	}
	say(p, "%zu tunnel%s, %zu gateway%s attached, %zu call%s open, %zu waiting for a gateway\n", p->n_tunnels, plural(p->n_tunnels), attached,
	    plural(attached), r->calls_open, plural(r->calls_open), hold_counters(r->hold)->waiting);
}

int status_table(const struct relay *r, uint64_t now_s, struct buf *out)
{
	struct report p;
	int rc = report_init(&p, r, out, true);

	if (rc < 0)
		return rc;
	table_head(&p, now_s);
	registry_each_tunnel(r->registry, table_old_token, &p);
	if (p.n_tunnels)
		say(&p, "\n%-*s  %6s  %6s  %-8s  %-8s  %-8s  %-8s  %5s  %-6s  %-26s  %-8s  %s\n", p.name_width, "TUNNEL", "TOKENS", "AGENTS",
		    "SESSION", "STATE", "FOR", "AGE", "CALLS", "TOKEN", "GATEWAY", "REGION", "FROM");
	registry_each_tunnel(r->registry, table_tunnel, &p);
	free(p.sessions);
	return p.error;
}
