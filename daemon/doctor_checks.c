#include "daemon/doctor_checks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/health_client.h"
#include "proto/json_find.h"

enum { ANSWER_MAX = 64 * 1024, DAY_S = 24 * 3600 };

/* ---- a program that runs ---- */

static bool find(struct span body, const char *a, const char *b, const char *c, char *out, size_t size)
{
	const char *const path[] = { a, b, c };

	return json_find(body, path, c ? 3 : b ? 2 : 1, out, size) == 0;
}

struct reading {
	struct span body;
	struct doctor_running *running;
	size_t len;
};

/* What it says is not well: "session: token-refused: the relay refused the token (HTTP 401)". */
static void read_check(void *user, const char *name)
{
	struct reading *q = user;
	char ok[8], reason[64] = "", detail[256] = "", *out = q->running->sentence;

	if (!find(q->body, "checks", name, "ok", ok, sizeof(ok)) || strcmp(ok, "false") != 0 || q->len >= sizeof(q->running->sentence))
		return;
	(void)find(q->body, "checks", name, "reason", reason, sizeof(reason));
	(void)find(q->body, "checks", name, "detail", detail, sizeof(detail));
	q->len += (size_t)snprintf(out + q->len, sizeof(q->running->sentence) - q->len, "%s%s: %s%s%s", q->len ? "; " : "", name, reason,
				   detail[0] ? ": " : "", detail);
}

static void read_sentence(struct span body, struct doctor_running *r)
{
	static const char *const path[] = { "checks" };
	struct reading q = { .body = body, .running = r };

	(void)json_names(body, path, 1, read_check, &q);
}

void doctor_find_running(const char *listen, struct doctor_running *ret)
{
	struct span body = { NULL, 0 };
	char request[512], text[8];
	bool connected = false;
	struct buf answer;
	const char *why;

	*ret = (struct doctor_running){ 0 };
	if (!listen || url_parse_listen_addr(listen, &ret->addr, &why) < 0)
		return;
	snprintf(ret->where, sizeof(ret->where), "%s", listen);
	ret->any_port = !url_is_unix(&ret->addr) && ret->addr.port == 0;
	if (ret->any_port)
		return;
	snprintf(request, sizeof(request), "GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", ret->addr.authority);
	buf_init(&answer, ANSWER_MAX);
	ret->error = health_ask(&ret->addr, request, &answer, &connected);
	if (ret->error == 0 && health_answer(buf_span(&answer), &body) && find(body, "ready", NULL, NULL, text, sizeof(text))) {
		ret->answers = true;
		ret->ready = strcmp(text, "true") == 0;
		read_sentence(body, ret);
	} else if (ret->error == 0) {
		ret->error = -EPROTO;
	}
	buf_done(&answer);
}

void doctor_check_running(struct doctor *d, const struct doctor_running *r, const char *service)
{
	char remedy[200], stuck[200];

	doctor_begin(d, "running", NULL);
	snprintf(stuck, sizeof(stuck), "it, or what has its address, is stuck: journalctl -u %s -e; then systemctl restart %s", service, service);
	snprintf(remedy, sizeof(remedy), "start it: systemctl start %s; why it ended: journalctl -u %s -e", service, service);
	if (!r->where[0])
		doctor_skip(d, "no health listener is configured, so a %s that runs cannot be asked", service);
	else if (r->any_port)
		doctor_skip(d, "the health listener is at a port that is picked anew at each start (%s)", r->where);
	else if (r->error == -EPROTO)
		doctor_fail(d, "give the health listener an address of its own", "what answers at %s is no %s", r->where, service);
	else if (r->error == -ECONNREFUSED || r->error == -ENOENT)
		doctor_warn(d, remedy, "no %s runs here: nothing answers at %s", service, r->where);
	else if (r->error == -EACCES)
		doctor_skip(d, "%s cannot be asked: %s; run this as root", r->where, strerror(-r->error));
	else if (r->error)
		doctor_fail(d, stuck, "%s does not answer at %s: %s", service, r->where, strerror(-r->error));
	else if (r->ready)
		doctor_ok(d, "ready, says /readyz of %s%s%s", r->where, r->sentence[0] ? "; but " : "", r->sentence);
	else
		doctor_fail(d, "see the checks above; when all of them are well, what it says will be over within half a minute",
			    "not ready, says /readyz of %s: %s", r->where, r->sentence);
}

/* ---- configuration ---- */

static void check_config(struct doctor *d, const char *file, const char *err)
{
	char remedy[160];

	doctor_begin(d, "configuration", NULL);
	snprintf(remedy, sizeof(remedy), "correct it; %s --help tells what may be given", d->program);
	if (err)
		doctor_fail(d, remedy, "%s", err);
	else if (file)
		doctor_ok(d, "%s", file);
	else
		doctor_ok(d, "the command line; there is no configuration file");
}

int doctor_run(const struct doctor_walk *w, const void *cfg, const char *file, const char *err)
{
	struct doctor d;

	if (doctor_init(&d, w->program, w->json) < 0) {
		fprintf(stderr, "%s: out of memory\n", w->program);
		return 2;
	}
	check_config(&d, file, err);
	if (err)
		doctor_skip_all(&d, w->checks, w->n_checks, NULL, "there is no configuration to go by");
	else
		w->make(&d, cfg);
	return doctor_end(&d);
}

/* ---- clocks and certificates ---- */

static int64_t seconds_left(uint64_t until_s)
{
	return (int64_t)until_s - (int64_t)(clock_wall_us() / 1000000);
}

bool doctor_ends_soon(uint64_t until_s)
{
	return seconds_left(until_s) < DOCTOR_WARN_DAYS * DAY_S;
}

bool doctor_has_ended(uint64_t until_s)
{
	return seconds_left(until_s) <= 0;
}

void doctor_days_text(uint64_t until_s, char *dst, size_t size)
{
	int64_t days = seconds_left(until_s) / DAY_S;
	time_t t = (time_t)until_s;
	char date[16] = "?";
	struct tm tm;

	if (gmtime_r(&t, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d", &tm);
	if (doctor_has_ended(until_s))
		snprintf(dst, size, "ended on %s", date);
	else
		snprintf(dst, size, "%" PRId64 " day%s left (until %s)", days, days == 1 ? "" : "s", date);
}

void doctor_clock_take(struct doctor_clock *c, const struct http1_head *h)
{
	struct span date = http1_field_get(h, "Date", NULL);

	*c = (struct doctor_clock){ .answered = true, .local_s = clock_wall_us() / 1000000 };
	snprintf(c->date, sizeof(c->date), "%.*s", SPAN_FMT(date));
}

void doctor_check_clock(struct doctor *d, const char *subject, const struct doctor_clock *c)
{
	static const char remedy[] = "set this machine's clock, or the relay's: timedatectl tells whether it is synchronised; certificates and "
				     "audit records depend on it";
	uint64_t theirs = 0, off;
	bool behind;

	doctor_begin(d, "clock", subject);
	if (!c->answered) {
		doctor_skip(d, "there is no answer of the relay to compare with");
		return;
	}
	if (http1_date_parse(span_of(c->date), &theirs) < 0) {
		doctor_skip(d, "the relay's answer has no Date to compare with");
		return;
	}
	behind = c->local_s < theirs;
	off = behind ? theirs - c->local_s : c->local_s - theirs;
	if (off > DOCTOR_SKEW_FAIL_S)
		doctor_fail(d, remedy, "this machine's clock is %" PRIu64 " s %s the relay's", off, behind ? "behind" : "ahead of");
	else if (off > DOCTOR_SKEW_WARN_S)
		doctor_warn(d, remedy, "this machine's clock is %" PRIu64 " s %s the relay's", off, behind ? "behind" : "ahead of");
	else
		doctor_ok(d, "%" PRIu64 " s off the relay's", off);
}
