#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/probe.h"
#include "daemon/tls_source.h"
#include "gateway/backend.h"
#include "gateway/doctor_private.h"
#include "proto/json_find.h"

enum {
	CONNECT_TIMEOUT_MS = 5 * 1000,
	ANSWER_TIMEOUT_MS = 10 * 1000,
	DELETE_TIMEOUT_MS = 2 * 1000,
	HEAD_MAX = 16 * 1024,
	BODY_MAX = 256 * 1024,
	WORD_MAX = 80,
};

#define NEWEST_WITH_SESSIONS "2025-11-25"
#define STATELESS "2026-07-28"
#define CLIENT "{\"name\":\"mcp-tunnel-gateway-doctor\",\"version\":\"" MCP_TUNNEL_VERSION "\"}"
#define META "io.modelcontextprotocol/"

static const char initialize[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"" NEWEST_WITH_SESSIONS "\","
				 "\"capabilities\":{},\"clientInfo\":" CLIENT "}}";
static const char discover[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server/discover\",\"params\":{\"_meta\":{\"" META "protocolVersion\":\"" STATELESS "\","
			       "\"" META "clientInfo\":" CLIENT ",\"" META "clientCapabilities\":{}}}}";

struct walk {
	struct doctor *d;
	const struct route_config *cfg;
	const struct url *u;
	const char *subject;
	struct tls_context *tls; /* NULL: plain */
	struct backend *backend;
	size_t refused; /* addresses, by the guard */
};

static bool allowed(void *user, const struct sockaddr *sa)
{
	struct walk *w = user;
	struct address a;

	return address_of(sa, &a) == 0 && guard_allows(&w->cfg->guard, &a);
}

/* ---- the address ---- */

static void check_socket(struct walk *w, bool *ret_good)
{
	struct stat st;
	int r = stat(w->u->socket, &st) < 0 ? errno : S_ISSOCK(st.st_mode) ? 0 : ENOTSOCK;

	*ret_good = r == 0;
	if (r == 0)
		doctor_ok(w->d, "unix:%s", w->u->socket);
	else
		doctor_fail(w->d, "start the MCP server, and check the socket in --mcp-server-url; of the service, it must be below /run", "unix:%s: %s", w->u->socket,
			    strerror(r));
}

static bool check_address(struct walk *w)
{
	struct resolve_addr addrs[RESOLVE_ADDRS];
	char detail[PROBE_DETAIL_MAX] = "", list[RESOLVE_ADDRS * 64] = "", text[INET6_ADDRSTRLEN];
	size_t n = 0, at = 0;
	bool good;

	doctor_begin(w->d, "address", w->subject);
	if (url_is_unix(w->u)) {
		check_socket(w, &good);
		return good;
	}
	if (probe_resolve(w->d->loop, w->u->host, w->u->port, doctor_time(w->d, CONNECT_TIMEOUT_MS), addrs, &n, detail) < 0) {
		doctor_fail(w->d, "check the host in --mcp-server-url, and this machine's DNS: getent hosts HOST", "%s", detail);
		return false;
	}
	for (size_t i = 0; i < n; i++) {
		bool may = allowed(w, (const struct sockaddr *)&addrs[i].sa);

		evutil_inet_ntop(addrs[i].sa.ss_family,
				 addrs[i].sa.ss_family == AF_INET6 ? (const void *)&((struct sockaddr_in6 *)(void *)&addrs[i].sa)->sin6_addr :
								     &((struct sockaddr_in *)(void *)&addrs[i].sa)->sin_addr,
				 text, sizeof(text));
		w->refused += !may;
		at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s%s", i ? ", " : "", text, may ? "" : " (not allowed)");
	}
	if (w->refused == n)
		doctor_fail(w->d, "if this is where the server is meant to be, allow it: --upstream-allow ADDRESS; link-local ones never are", "%s", list);
	else
		doctor_ok(w->d, "%s, allowed", list);
	return w->refused < n;
}

/* ---- the connection ---- */

static void tell_connection(struct walk *w, const struct probe *p, const char *name, uint64_t took_us)
{
	struct tls_peer peer;
	char days[64];

	if (!w->tls || !probe_tls_peer(p, &peer)) {
		doctor_ok(w->d, "%s, connected in %.0f ms", name, (double)took_us / 1000);
		return;
	}
	doctor_days_text(peer.until_s, days, sizeof(days));
	if (doctor_ends_soon(peer.until_s))
		doctor_warn(w->d, "renew it before it ends: no call gets through then", "%s, %s; its certificate ends soon: %s", name, peer.version, days);
	else
		doctor_ok(w->d, "%s, %s, the certificate is trusted and for %s; %s", name, peer.version, w->u->host, days);
}

static bool check_connection(struct walk *w)
{
	const struct dial_target target = {
		.host = url_is_unix(w->u) ? NULL : w->u->host,
		.port = w->u->port,
		.unix_path = url_is_unix(w->u) ? w->u->socket : NULL,
		.timeout_ms = MAX(doctor_time(w->d, CONNECT_TIMEOUT_MS), (uint64_t)1),
		.allow = allowed,
		.allow_user = w,
	};
	const struct channel_options opt = { .tls = w->tls, .server_name = w->u->host, .open_timeout_ms = target.timeout_ms };
	char detail[PROBE_DETAIL_MAX] = "", name[URL_TEXT_MAX];
	const uint64_t began_us = clock_now_us();
	struct probe *p = NULL;
	enum channel_end end;
	enum dial_error err;
	int fd;

	doctor_begin(w->d, "server", w->subject);
	url_print(w->u, name, sizeof(name));
	fd = probe_dial(w->d->loop, NULL, &target, &err, detail);
	if (fd < 0)
		doctor_fail(w->d, "start the MCP server, and check host and port of --mcp-server-url", "%s", detail);
	else if (probe_open(w->d->loop, fd, &opt, &end, detail, &p) < 0)
		doctor_fail(w->d, w->tls ? doctor_tls_remedy(detail, true) : "see the MCP server's log", "%s", detail);
	else
		tell_connection(w, p, name, clock_now_us() - began_us);
	if (p)
		probe_close(p);
	return p;
}

/* ---- MCP ---- */

struct answer {
	struct loop *loop;
	struct upstream_call *call; /* NULL: over */
	bool done;
	unsigned status; /* 0: none came */
	bool challenged; /* WWW-Authenticate */
	bool is_events;
	char type[WORD_MAX], session[HTTP1_START_LINE_MAX];
	char detail[PROBE_DETAIL_MAX];
	struct buf body;
	char server[WORD_MAX], server_version[WORD_MAX], protocol[WORD_MAX];
};

static void answer_over(struct answer *a)
{
	a->call = NULL;
	a->done = true;
	loop_stop(a->loop);
}

static void on_head(void *user, const struct http1_head *h)
{
	struct answer *a = user;
	struct span type = http1_field_get(h, "Content-Type", NULL);

	a->status = h->status;
	a->challenged = http1_field_get(h, "WWW-Authenticate", NULL).p;
	a->is_events = type.len >= 17 && span_iis(span_make(type.p, 17), "text/event-stream");
	snprintf(a->type, sizeof(a->type), "%.*s", SPAN_FMT(type));
	snprintf(a->session, sizeof(a->session), "%.*s", SPAN_FMT(http1_field_get(h, "Mcp-Session-Id", NULL)));
}

/* Who the server says it is, in one message. */
static bool read_message(struct answer *a, struct span json)
{
	static const char *const name[] = { "result", "serverInfo", "name" }, *const version[] = { "result", "serverInfo", "version" };
	static const char *const meta_name[] = { "result", "_meta", META "serverInfo", "name" };
	static const char *const meta_version[] = { "result", "_meta", META "serverInfo", "version" };
	static const char *const protocol[] = { "result", "protocolVersion" };

	if (json_find(json, name, 3, a->server, sizeof(a->server)) < 0 && json_find(json, meta_name, 4, a->server, sizeof(a->server)) < 0)
		return false;
	if (json_find(json, version, 3, a->server_version, sizeof(a->server_version)) < 0 &&
	    json_find(json, meta_version, 4, a->server_version, sizeof(a->server_version)) < 0)
		a->server_version[0] = '\0';
	if (json_find(json, protocol, 2, a->protocol, sizeof(a->protocol)) < 0)
		snprintf(a->protocol, sizeof(a->protocol), STATELESS);
	return true;
}

/* Servers write a message as one line of data. */
static bool read_answer(struct answer *a)
{
	struct span rest = buf_span(&a->body);

	if (!a->is_events)
		return rest.p && read_message(a, rest);
	while (rest.p) {
		struct span line = span_split(&rest, '\n');

		/* The last one may not be whole yet. */
		if (rest.p && span_starts(line, "data:") && read_message(a, span_trim(span_make(line.p + 5, line.len - 5))))
			return true;
	}
	return false;
}

static void on_data(void *user, const uint8_t *p, size_t len)
{
	struct answer *a = user;

	if (buf_add(&a->body, p, MIN(len, buf_room(&a->body))) < 0 || buf_room(&a->body) == 0 || (a->is_events && read_answer(a))) {
		a->done = true;
		loop_stop(a->loop);
	}
}

static void on_end(void *user)
{
	answer_over(user);
}

static void on_fail(void *user, uint32_t reason, const char *detail)
{
	struct answer *a = user;

	snprintf(a->detail, sizeof(a->detail), "%s", detail);
	answer_over(a);
}

static const struct upstream_ops callbacks = { .on_head = on_head, .on_data = on_data, .on_end = on_end, .on_fail = on_fail };

static int write_head(struct walk *w, struct buf *out, const char *method, const char *const (*fields)[2], size_t n)
{
	int r = http1_write_request(out, span_of(method), span_of(w->u->target));

	if (r == 0)
		r = http1_write_field(out, SPAN("Host"), span_of(w->u->authority));
	if (r == 0)
		r = http1_write_field(out, SPAN("User-Agent"), SPAN("mcp-tunnel-gateway-doctor/" MCP_TUNNEL_VERSION));
	if (r == 0)
		r = headers_write(w->backend->headers, out);
	for (size_t i = 0; i < n && r == 0; i++)
		if (fields[i][1] && !headers_replace(w->backend->headers, span_of(fields[i][0])))
			r = http1_write_field(out, span_of(fields[i][0]), span_of(fields[i][1]));
	return r < 0 ? r : http1_write_end(out);
}

/* Sends it, and waits for the answer. */
static int ask(struct walk *w, const char *method, const char *const (*fields)[2], size_t n, const char *body, uint64_t ms, struct answer *a)
{
	struct buf head, content;
	int r;

	*a = (struct answer){ .loop = w->d->loop };
	buf_init(&a->body, BODY_MAX);
	buf_init(&head, HEAD_MAX);
	buf_init(&content, HEAD_MAX);
	r = write_head(w, &head, method, fields, n);
	if (r == 0)
		r = buf_add_str(&content, body);
	if (r == 0)
		r = upstream_call_start(w->backend->upstream, &head, &content, false, &callbacks, a, &a->call);
	buf_done(&head);
	buf_done(&content);
	if (r == 0)
		r = probe_wait(w->d->loop, &a->done, doctor_time(w->d, ms));
	if (a->call)
		upstream_call_cancel(a->call);
	a->call = NULL;
	if (r == -ETIMEDOUT && !a->status)
		snprintf(a->detail, sizeof(a->detail), "no answer in time");
	return r;
}

static bool ask_message(struct walk *w, const char *message, bool stateless, struct answer *a)
{
	char length[24];
	const char *const fields[][2] = {
		{ "Accept", "application/json, text/event-stream" },
		{ "Content-Type", "application/json" },
		{ "MCP-Protocol-Version", stateless ? STATELESS : NULL },
		{ "Mcp-Method", stateless ? "server/discover" : NULL },
		{ "Content-Length", length },
	};

	snprintf(length, sizeof(length), "%zu", strlen(message));
	(void)ask(w, "POST", fields, ARRAY_LEN(fields), message, ANSWER_TIMEOUT_MS, a);
	return a->status / 100 == 2 && read_answer(a);
}

static void end_session(struct walk *w, const struct answer *a)
{
	const char *const fields[][2] = { { "Mcp-Session-Id", a->session }, { "MCP-Protocol-Version", a->protocol[0] ? a->protocol : NULL } };
	struct answer end;

	if (!a->session[0])
		return;
	(void)ask(w, "DELETE", fields, ARRAY_LEN(fields), "", DELETE_TIMEOUT_MS, &end);
	buf_done(&end.body);
}

static void tell_refusal(struct walk *w, const struct answer *a)
{
	const char *remedy = "see the MCP server's log";

	if (a->status == 404 || a->status == 405)
		remedy = "check the path of --mcp-server-url: nothing of MCP is there";
	else if (a->status == 403 || a->status == 421)
		remedy = "the server refuses this Host: let it accept the host of --mcp-server-url, or write it as the server knows itself";
	if (!a->status)
		doctor_fail(w->d, "is it an HTTP server, and does it still work? see its log", "%s", a->detail);
	else if (a->status == 401 && a->challenged)
		doctor_ok(w->d, "HTTP 401: it asks for an authorization of its own, which agents bring");
	else if (a->status / 100 == 2)
		doctor_fail(w->d, "check host, port and path of --mcp-server-url: what answers there is no MCP server", "HTTP %u, but no answer of MCP (%s)", a->status,
			    a->type[0] ? a->type : "no Content-Type");
	else
		doctor_fail(w->d, remedy, "HTTP %u to initialize", a->status);
}

static void check_mcp(struct walk *w)
{
	struct answer a, b;
	bool good, modern = false;

	doctor_begin(w->d, "mcp", w->subject);
	good = ask_message(w, initialize, false, &a);
	end_session(w, &a);
	buf_done(&a.body);
	/* A server without sessions knows no initialize. */
	if (!good && a.status && a.status != 401 && a.status != 404) {
		modern = ask_message(w, discover, true, &b);
		end_session(w, &b);
		buf_done(&b.body);
	}
	if (good)
		doctor_ok(w->d, "HTTP %u, %s %s, MCP %s", a.status, a.server, a.server_version, a.protocol);
	else if (modern)
		doctor_ok(w->d, "HTTP %u, %s %s, MCP %s", b.status, b.server, b.server_version, b.protocol);
	else
		tell_refusal(w, &a);
}

/* ---- all of it ---- */

/* With its certificates and headers, as the gateway makes it. */
static bool make_backend(struct walk *w, const char *route)
{
	char err[2 * CONFIG_ERROR_MAX];
	int r = backend_new(w->d->loop, w->cfg, route, NULL, err, sizeof(err), &w->backend);

	if (r < 0) {
		doctor_begin(w->d, "server", w->subject);
		doctor_fail(w->d, "see --upstream-ca-file, --upstream-client-cert, --upstream-client-key and --upstream-header-file; the gateway does not start like this",
			    "%s", err);
		return false;
	}
	w->tls = tls_source_get(w->backend->tls);
	return true;
}

void doctor_server(struct doctor *d, const struct route_config *cfg, const char *route, const char *subject)
{
	static const char *const rest[] = { "server", "mcp" };
	struct walk w = { .d = d, .cfg = cfg, .u = &cfg->mcp_server, .subject = subject };

	if (!check_address(&w))
		doctor_skip_all(d, rest, 2, w.subject, "there is no address to go to");
	else if (!make_backend(&w, route))
		doctor_skip_all(d, rest + 1, 1, w.subject, "its files cannot be used");
	else if (!check_connection(&w))
		doctor_skip_all(d, rest + 1, 1, w.subject, "there is no connection to the server");
	else
		check_mcp(&w);
	backend_unref(w.backend);
}
