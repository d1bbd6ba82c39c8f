#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/probe.h"
#include "daemon/upgrade.h"
#include "gateway/doctor_private.h"

/* As gateway/session.c has them. */
enum { DIAL_TIMEOUT_MS = 15 * 1000, TLS_TIMEOUT_MS = 10 * 1000, UPGRADE_TIMEOUT_MS = 10 * 1000, REQUEST_MAX = 8 * 1024 };

const char *doctor_tls_remedy(const char *detail, bool server)
{
	/* What daemon/tls_pump.c and daemon/channel_rx.c say. */
	static const struct {
		const char *part, *relay, *server;
	} remedies[] = {
		{ "has expired", "renew the relay's certificate there; is this machine's clock right? (timedatectl)",
		  "renew the MCP server's certificate; is this machine's clock right? (timedatectl)" },
		{ "not yet valid", "set this machine's clock (timedatectl), or the relay's", "set this machine's clock (timedatectl), or the server's" },
		{ "is not valid for", "name the relay in --control-plane as its certificate does, or renew the certificate with this name",
		  "name the server in --mcp-server-url as its certificate does" },
		{ "certificate not trusted", "give the CA that issued it with --ca-file; a proxy that opens TLS has a CA of its own",
		  "give the CA that issued it with --upstream-ca-file" },
		{ "pinned", "compare --pin-sha256 with the relay's key; a relay with a new key needs a new pin", "" },
		{ "does not speak TLS", "check host and port of --control-plane: what answers there is not HTTPS",
		  "check --mcp-server-url: what answers there is not HTTPS; is http:// meant?" },
		{ "no TLS version", "--tls-min 1.2, or a newer relay", "the server is too old: it needs TLS 1.2" },
		{ "asks for a certificate", "give one with --client-cert and --client-key", "give one with --upstream-client-cert and --upstream-client-key" },
		{ "the peer refused", "see the relay's log; it may not take --client-cert", "see the server's log; it may not take --upstream-client-cert" },
	};

	for (size_t i = 0; i < ARRAY_LEN(remedies); i++)
		if (strstr(detail, remedies[i].part))
			return server ? remedies[i].server : remedies[i].relay;
	return server ? "see the MCP server's log" : "see the relay's log, and what stands between: a proxy, a load balancer, a firewall";
}

struct walk {
	struct doctor *d;
	const struct gateway_config *cfg;
	const struct url *u;
	struct tls_context *tls;
	const struct token *token;
	struct doctor_clock *clock;
	const char *subject; /* NULL: there is one relay */
	bool via_proxy;
};

/* ---- the way there ---- */

static const char *address_text(const struct resolve_addr *a, char *dst, size_t size)
{
	const struct sockaddr_in *in = (const void *)&a->sa;
	const struct sockaddr_in6 *in6 = (const void *)&a->sa;

	*dst = '\0';
	inet_ntop(a->sa.ss_family, a->sa.ss_family == AF_INET6 ? (const void *)&in6->sin6_addr : &in->sin_addr, dst, (socklen_t)size);
	return dst;
}

static bool check_name(struct walk *w, struct resolve_addr *addrs, size_t *ret_n)
{
	char detail[PROBE_DETAIL_MAX] = "", list[RESOLVE_ADDRS * 48] = "", one[64];
	const uint64_t began_us = clock_now_us();
	size_t at = 0;

	doctor_begin(w->d, "name", w->subject);
	if (w->via_proxy) {
		doctor_skip(w->d, "the proxy resolves it");
		return true;
	}
	if (probe_resolve(w->d->loop, w->u->host, w->u->port, doctor_time(w->d, DIAL_TIMEOUT_MS), addrs, ret_n, detail) < 0) {
		doctor_fail(w->d, "check the host in --control-plane, and this machine's DNS: getent hosts HOST, /etc/resolv.conf", "%s", detail);
		return false;
	}
	for (size_t i = 0; i < *ret_n; i++)
		at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i ? ", " : "", address_text(&addrs[i], one, sizeof(one)));
	doctor_ok(w->d, "%s: %s (%.0f ms)", w->u->host, list, (double)(clock_now_us() - began_us) / 1000);
	return true;
}

/* Why which proxy is used, or none. */
static void explain_proxy(const struct walk *w, char *dst, size_t size)
{
	const struct egress_config *e = &w->cfg->egress;
	bool automatic = strcmp(w->cfg->proxy, "auto") == 0;

	if (w->via_proxy)
		snprintf(dst, size, "%s, by %s", e->proxy.authority, automatic ? "HTTPS_PROXY of this environment" : "--proxy");
	else if (!e->proxy.scheme && automatic)
		snprintf(dst, size, "none: HTTPS_PROXY is not set in this environment");
	else if (!e->proxy.scheme)
		snprintf(dst, size, "none, as --proxy says");
	else if (host_is_loopback(w->u->host))
		snprintf(dst, size, "not used: loopback hosts are reached straight");
	else
		snprintf(dst, size, "not used: NO_PROXY has this host");
}

static const char *dial_remedy(const struct walk *w, enum dial_error err, const char *detail)
{
	if (strstr(detail, "407"))
		return "put the user and password of the proxy, USER:PASSWORD, into a file for --proxy-auth-file (chmod 600)";
	if (w->via_proxy && err == DIAL_PROXY)
		return "have the proxy let this machine CONNECT to the relay's host and port; see its log";
	if (w->via_proxy)
		return "check host and port of the proxy (--proxy, HTTPS_PROXY), and that it runs";
	return "is the relay running, is the port right? a firewall on the way must let this machine out to it; else name a --proxy";
}

/* Connected: to the relay, or through the proxy to it. */
static int check_proxy(struct walk *w)
{
	const struct dial_target target = { .host = w->u->host, .port = w->u->port, .timeout_ms = doctor_time(w->d, DIAL_TIMEOUT_MS) };
	char detail[PROBE_DETAIL_MAX] = "", why[400];
	enum dial_error err;
	int fd;

	doctor_begin(w->d, "proxy", w->subject);
	explain_proxy(w, why, sizeof(why));
	if (!w->via_proxy) {
		doctor_ok(w->d, "%s", why);
		return -1;
	}
	fd = probe_dial(w->d->loop, &w->cfg->egress, &target, &err, detail);
	if (fd < 0)
		doctor_fail(w->d, dial_remedy(w, err, detail), "%s: %s", why, detail);
	else
		doctor_ok(w->d, "%s: it connects to the relay%s", why,
			  w->cfg->proxy_auth_file || w->cfg->egress.env_credentials ? " with the credentials" : "");
	return fd;
}

/* A family that this machine has no way for is no fault, where the other one leads there. */
static bool tell_tcp(struct walk *w, const struct probe_tcp *t, size_t n)
{
	char list[DOCTOR_DETAIL_MAX] = "";
	size_t at = 0, good = 0, elsewhere = 0;
	const char *remedy = dial_remedy(w, DIAL_CONNECT, "");

	for (size_t i = 0; i < n && at < sizeof(list); i++) {
		good += t[i].error == 0;
		elsewhere += t[i].error == ENETUNREACH || t[i].error == EADDRNOTAVAIL || t[i].error == EAFNOSUPPORT;
		if (t[i].error)
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s: %s", i ? "; " : "", t[i].text, strerror(t[i].error));
		else
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s in %.0f ms", i ? "; " : "", t[i].text, (double)t[i].took_us / 1000);
	}
	if (good == n || (good && good + elsewhere == n))
		doctor_ok(w->d, "%s", list);
	else if (good)
		doctor_warn(w->d, "calls get through by the others; mend the relay's listener, or its name's addresses", "%s", list);
	else
		doctor_fail(w->d, remedy, "%s", list);
	return good;
}

/* localhost is both families, of which a listener usually has one. */
static size_t leave_out_refusing_localhost(const struct walk *w, struct probe_tcp *t, size_t n)
{
	size_t kept = 0;
	bool any = false;

	if (strcmp(w->u->host, "localhost") != 0)
		return n;
	for (size_t i = 0; i < n; i++)
		any = any || t[i].error == 0;
	for (size_t i = 0; i < n; i++)
		if (!any || t[i].error == 0)
			t[kept++] = t[i];
	return kept;
}

static int check_tcp(struct walk *w, const struct resolve_addr *addrs, size_t n)
{
	const struct dial_target target = { .host = w->u->host, .port = w->u->port, .timeout_ms = doctor_time(w->d, DIAL_TIMEOUT_MS) };
	struct probe_tcp results[RESOLVE_ADDRS];
	char detail[PROBE_DETAIL_MAX] = "";
	enum dial_error err;
	int fd;

	doctor_begin(w->d, "tcp", w->subject);
	if (probe_tcp(w->d->loop, addrs, n, target.timeout_ms, results) < 0) {
		doctor_fail(w->d, "try again", "out of memory or descriptors");
		return -1;
	}
	n = leave_out_refusing_localhost(w, results, n);
	if (!tell_tcp(w, results, n))
		return -1;
	fd = probe_dial(w->d->loop, &w->cfg->egress, &target, &err, detail);
	if (fd < 0) {
		doctor_begin(w->d, "tcp", w->subject);
		doctor_fail(w->d, dial_remedy(w, err, detail), "%s", detail);
	}
	return fd;
}

/* ---- what answers there ---- */

static void tell_tls(struct walk *w, const struct probe *p)
{
	struct tls_peer peer = { 0 };
	char days[64], pins[64] = "";

	if (!probe_tls_peer(p, &peer)) {
		doctor_ok(w->d, "the handshake succeeded");
		return;
	}
	doctor_days_text(peer.until_s, days, sizeof(days));
	if (w->cfg->relay_tls.n_pins)
		snprintf(pins, sizeof(pins), "; one of %zu pins fits", w->cfg->relay_tls.n_pins);
	if (doctor_ends_soon(peer.until_s))
		doctor_warn(w->d, "renew it on the relay before it ends: no gateway connects then", "%s, the certificate is trusted and for %s, but %s: %s",
			    peer.version, w->u->host, peer.own ? "it ends soon" : "one that issued it ends soon", days);
	else
		doctor_ok(w->d, "%s, the certificate is trusted and for %s; %s%s", peer.version, w->u->host, days, pins);
}

static struct probe *check_tls(struct walk *w, int take_fd)
{
	const struct channel_options opt = {
		.tls = w->tls,
		.server_name = w->u->host,
		.open_timeout_ms = MAX(doctor_time(w->d, TLS_TIMEOUT_MS), (uint64_t)1),
	};
	char detail[PROBE_DETAIL_MAX] = "";
	enum channel_end end;
	struct probe *p;
	int r;

	doctor_begin(w->d, "tls", w->subject);
	r = probe_open(w->d->loop, take_fd, &opt, &end, detail, &p);
	if (r < 0)
		doctor_fail(w->d, doctor_tls_remedy(detail, false), "%s", detail);
	else if (!w->tls)
		doctor_skip(w->d, "ws:// to a loopback host has none");
	else
		tell_tls(w, p);
	return r < 0 ? NULL : p;
}

static void tell_upgrade(struct walk *w, enum upgrade_result result, const char *detail)
{
	static const char *const remedies[] = {
		[UPGRADE_TRY_LATER] = "the relay, or what stands before it, stops or is overloaded: look there",
		[UPGRADE_NO_SUBPROTOCOL] = "check host and path of --control-plane: what answers is a WebSocket server, but no relay of these tunnels",
		[UPGRADE_NOT_WEBSOCKET] = "check host and path of --control-plane (the relay's is /v1/tunnel); what stands before the relay must pass WebSocket on",
	};
	char remedy[DOCTOR_DETAIL_MAX];

	if (result == UPGRADE_OK) {
		doctor_ok(w->d, "the relay speaks mcp-tunnel.v1");
		doctor_begin(w->d, "token", w->subject);
		doctor_ok(w->d, "the relay takes it for tunnel %s (left before a session began)", w->token->tunnel_id);
		return;
	}
	if (result != UPGRADE_REFUSED_TOKEN) {
		doctor_fail(w->d, strstr(detail, "HTTP 421") ? "the relay does not know itself by this name: give it --public-url, or name it otherwise in --control-plane" : remedies[result],
			    "%s", detail);
		doctor_begin(w->d, "token", w->subject);
		doctor_skip(w->d, "without the upgrade nobody looks at it");
		return;
	}
	doctor_skip(w->d, "the relay looks at the token first");
	doctor_begin(w->d, "token", w->subject);
	snprintf(remedy, sizeof(remedy), "put the tunnel's present token into %.160s; on the relay: mcp-tunnel-relay tunnel list, or a new one: tunnel rotate %s",
		 w->cfg->token_file, w->token->tunnel_id);
	doctor_fail(w->d, remedy, "%s", detail);
}

static void check_upgrade(struct walk *w, struct probe *p)
{
	const struct upgrade_request q = { w->u->authority, w->u->target, w->token->text, w->token->tunnel_id };
	char key[UPGRADE_KEY_LEN + 1], detail[PROBE_DETAIL_MAX] = "";
	const struct http1_head *head;
	enum upgrade_result result;
	enum channel_end end;
	unsigned retry_after_s = 0;
	struct buf request;

	doctor_begin(w->d, "upgrade", w->subject);
	buf_init(&request, REQUEST_MAX);
	if (upgrade_write_request(&request, &q, key) < 0) {
		buf_done(&request);
		doctor_fail(w->d, "try again", "out of memory or entropy");
		return;
	}
	if (probe_ask(p, &request, false, doctor_time(w->d, UPGRADE_TIMEOUT_MS), &end, detail, &head) < 0) {
		doctor_fail(w->d, end == CHANNEL_TLS ? doctor_tls_remedy(detail, false) : "check host and path of --control-plane: what answers there is no relay", "%s", detail);
		return;
	}
	doctor_clock_take(w->clock, head);
	result = upgrade_check_response(head, key, detail, sizeof(detail), &retry_after_s);
	tell_upgrade(w, result, detail);
}

void doctor_relay(struct doctor *d, const struct gateway_config *cfg, const struct url *u, struct tls_context *tls, bool tls_broken,
		  const struct token *token, struct doctor_clock *ret_clock)
{
	static const char *const rest[] = { "proxy", "tcp", "tls", "upgrade", "token" };
	struct walk w = { .d = d, .cfg = cfg, .u = u, .tls = url_is_tls(u) ? tls : NULL, .token = token, .clock = ret_clock,
			  .subject = cfg->n_relays > 1 ? u->authority : NULL };
	struct resolve_addr addrs[RESOLVE_ADDRS];
	struct probe *p;
	size_t n = 0;
	int fd;

	w.via_proxy = egress_uses_proxy(&cfg->egress, u->host, u->port);
	if (!check_name(&w, addrs, &n)) {
		doctor_skip_all(d, rest, ARRAY_LEN(rest), w.subject, "its name is not known");
		return;
	}
	fd = check_proxy(&w);
	if (w.via_proxy)
		doctor_skip_all(d, rest + 1, 1, w.subject, fd < 0 ? "the proxy does not connect us" : "the proxy connects");
	else
		fd = check_tcp(&w, addrs, n);
	if (fd < 0 || tls_broken) {
		doctor_skip_all(d, rest + 2, 3, w.subject, fd < 0 ? "there is no connection to the relay" : "the files for it cannot be used");
		if (fd >= 0)
			evutil_closesocket(fd);
		return;
	}
	p = check_tls(&w, fd);
	if (!p || !token)
		doctor_skip_all(d, rest + 3, 2, w.subject, p ? "there is no token to show" : "there is no connection to the relay");
	else
		check_upgrade(&w, p);
	probe_close(p);
}
