#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/listen.h"
#include "daemon/probe.h"
#include "proto/json_find.h"
#include "relay/doctor_private.h"

enum { STEP_MS = 5 * 1000, REQUEST_MAX = 4096, NAME_MAX_BYTES = 256 };

/* Of no tunnel, and nothing that any log counts as a failed key. */
#define ASKED "/t/x"

struct walk {
	struct doctor *d;
	const struct relay_config *cfg;
	const struct url *u;
	char name[URL_TEXT_MAX];
	char host[NAME_MAX_BYTES]; /* that the certificate must have */
};

static void take_first_name(void *user, const char *name)
{
	struct walk *w = user;

	if (!w->host[0] && name[0] == '*' && name[1] == '.')
		snprintf(w->host, sizeof(w->host), "x%.250s", name + 1);
	else if (!w->host[0])
		snprintf(w->host, sizeof(w->host), "%s", name);
}

static bool is_any(const struct url *u)
{
	return strcmp(u->host, "0.0.0.0") == 0 || strcmp(u->host, "::") == 0;
}

/* Every error of the relay has this. */
static bool is_relay(struct span body)
{
	static const char *const reason[] = { "error", "data", "reason" }, *const executed[] = { "error", "data", "executed" };
	char text[64];

	return json_find(body, reason, 3, text, sizeof(text)) == 0 && json_find(body, executed, 3, text, sizeof(text)) == 0;
}

static void tell_stranger(struct walk *w, const char *what)
{
	doctor_fail(w->d, "find out who listens there: ss -ltnp; stop it, or give the relay another --listen", "%s is taken by something that is no relay: %s", w->name, what);
}

static void ask(struct walk *w, struct probe *p, const char *tls_word)
{
	char detail[PROBE_DETAIL_MAX] = "", what[64];
	const struct http1_head *head = NULL;
	enum channel_end end;
	struct buf request;
	int r;

	buf_init(&request, REQUEST_MAX);
	r = buf_printf(&request, "GET " ASKED " HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", url_is_unix(w->u) ? "localhost" : is_any(w->u) ? "localhost" : w->u->authority);
	if (r == 0)
		r = probe_ask(p, &request, true, doctor_time(w->d, STEP_MS), &end, detail, &head);
	buf_done(&request);
	if (r < 0) {
		tell_stranger(w, detail);
	} else if (!is_relay(probe_body(p))) {
		snprintf(what, sizeof(what), "it answers HTTP %u", head ? head->status : 0U);
		tell_stranger(w, what);
	} else {
		doctor_ok(w->d, "%s, held by a relay that runs and answers%s", w->name, tls_word);
	}
}

/* The certificate of the files is trusted, as it is: what another one shows is what a running relay has not read yet. */
static struct tls_context *make_client(const struct walk *w)
{
	const struct tls_client_options opt = { .ca_file = w->cfg->tls_cert, .allow_tls12 = true, .trust_as_is = true };
	struct tls_context *t = NULL;
	char err[512];

	return tls_client_new(&opt, err, sizeof(err), &t) < 0 ? NULL : t;
}

static int connect_to(struct walk *w, char *detail)
{
	struct dial_target target = { .host = w->u->host, .port = w->u->port, .timeout_ms = MAX(doctor_time(w->d, STEP_MS), (uint64_t)1) };
	enum dial_error err;

	if (url_is_unix(w->u)) {
		target.host = NULL;
		target.unix_path = w->u->socket;
	} else if (is_any(w->u)) {
		target.host = w->u->is_ipv6 ? "::1" : "127.0.0.1";
	}
	return probe_dial(w->d->loop, NULL, &target, &err, detail);
}

static void ask_holder(struct walk *w, bool files_good)
{
	_cleanup_(tls_freep) struct tls_context *client = url_is_tls(w->u) && files_good ? make_client(w) : NULL;
	const struct channel_options opt = {
		.tls = client,
		.server_name = w->host,
		.open_timeout_ms = MAX(doctor_time(w->d, STEP_MS), (uint64_t)1),
	};
	char detail[PROBE_DETAIL_MAX] = "";
	struct probe *p = NULL;
	enum channel_end end;
	int fd;

	if (url_is_tls(w->u) && !client) {
		doctor_skip(w->d, "%s is in use; without the certificate's files it cannot be told by whom", w->name);
		return;
	}
	fd = connect_to(w, detail);
	if (fd < 0)
		doctor_fail(w->d, "is it stuck? see: ss -ltnp", "%s is in use, but takes no connection: %s", w->name, detail);
	else if (probe_open(w->d->loop, fd, &opt, &end, detail, &p) == 0)
		ask(w, p, client ? " with this certificate" : "");
	else if (strstr(detail, "certificate not trusted"))
		doctor_warn(w->d, "systemctl reload mcp-tunnel-relay; its log tells why it does not take the files", "%s, held by something that shows another certificate than %s",
			    w->name, w->cfg->tls_cert);
	else if (strstr(detail, "has expired"))
		doctor_fail(w->d, "renew the certificate", "%s: the relay's %s", w->name, detail);
	else
		tell_stranger(w, detail);
	probe_close(p);
}

static void check(struct walk *w, bool files_good)
{
	int r = url_is_unix(w->u) ? listen_try_unix(w->u->socket) : listen_try_tcp(w->u->host, w->u->port);

	doctor_begin(w->d, "listener", NULL);
	if (r == -EADDRINUSE)
		ask_holder(w, files_good);
	else if (r == -EACCES)
		doctor_fail(w->d, "the relay's user may not: ports below 1024 need CAP_NET_BIND_SERVICE, which the unit gives; sockets, a directory to write to",
			    "cannot listen on %s: %s", w->name, strerror(-r));
	else if (r < 0)
		doctor_fail(w->d, "is the address of --listen one of this machine's? see: ip addr", "cannot listen on %s: %s", w->name, strerror(-r));
	else
		doctor_ok(w->d, "%s is free", w->name);
}

void doctor_listeners(struct doctor *d, const struct relay_config *cfg, struct tls_context *tls)
{
	struct walk w = { .d = d, .cfg = cfg };

	if (cfg->public_url.scheme)
		snprintf(w.host, sizeof(w.host), "%s", cfg->public_url.host);
	else if (tls)
		tls_server_names(tls, take_first_name, &w);
	for (size_t i = 0; i < cfg->n_listeners; i++) {
		w.u = &cfg->listeners[i];
		snprintf(w.name, sizeof(w.name), "%s", cfg->listen_urls.items[i].text);
		check(&w, tls != NULL);
	}
}
