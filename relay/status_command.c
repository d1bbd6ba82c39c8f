#include "relay/status_command.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/health.h"
#include "daemon/health_client.h"

#define DEFAULT_STATE_DIR "/var/lib/mcp-tunnel-relay"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, HEAD_MAX = 4096 };

static const char usage[] = "Usage: mcp-tunnel-relay status [--state-dir DIR | --admin ADDRESS] [--json]\n"
			    "\n"
			    "  --state-dir DIR   the running relay's state directory (default " DEFAULT_STATE_DIR ")\n"
			    "  --admin ADDRESS   its --admin-listen instead: ADDR:PORT or unix:PATH\n"
			    "  --json            for programs\n";

struct job {
	const char *state_dir, *admin;
	bool json;
};

static int fail(int status, const char *fmt, ...) _printf_(2, 3);
static int fail(int status, const char *fmt, ...)
{
	va_list ap;

	fputs("mcp-tunnel-relay: status: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return status;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct job *j)
{
	static const struct option options[] = {
		{ "state-dir", required_argument, NULL, 's' },
		{ "admin", required_argument, NULL, 'a' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	optind = 2;
	while ((c = getopt_long(argc, argv, ":h", options, NULL)) >= 0) {
		if (c == 's')
			j->state_dir = optarg;
		else if (c == 'a')
			j->admin = optarg;
		else if (c == 'j')
			j->json = true;
		else if (c == 'h')
			return fputs(usage, stdout) < 0 || fflush(stdout) != 0 ? EXIT_FAILED : EXIT_OK;
		else
			return fail(EXIT_USAGE, "\"%s\" is no option, or its value is missing; --state-dir DIR, --admin ADDRESS and --json exist here",
				    argv[optind - 1]);
	}
	if (optind < argc)
		return fail(EXIT_USAGE, "unexpected argument \"%s\"; it takes options only", argv[optind]);
	if (j->state_dir && j->admin)
		return fail(EXIT_USAGE, "--admin goes without --state-dir");
	return -1;
}

static int not_reached(const char *where, int error)
{
	if (error == -EACCES)
		return fail(EXIT_FAILED, "cannot ask the relay at %s: %s; run it as root or as the relay's user", where, strerror(-error));
	if (error == -ENOENT || error == -ECONNREFUSED)
		return fail(EXIT_FAILED, "no relay is running at %s: %s", where, strerror(-error));
	return fail(EXIT_FAILED, "cannot ask the relay at %s: %s", where, strerror(-error));
}

static int print(struct span body)
{
	if (fwrite(body.p, 1, body.len, stdout) == body.len && fflush(stdout) == 0)
		return EXIT_OK;
	return fail(EXIT_FAILED, "cannot write to standard output: %s", strerror(errno));
}

static int ask(const struct job *j, const struct url *addr, const char *where)
{
	char request[512];
	struct span body = { NULL, 0 };
	bool connected = false;
	struct buf answer;
	unsigned status;
	int r;

	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
		 j->json ? HEALTH_STATUS_PATH : HEALTH_STATUS_TABLE_PATH, addr->authority);
	buf_init(&answer, HEALTH_STATUS_MAX + HEAD_MAX);
	r = health_ask(addr, request, &answer, &connected);
	status = health_answer(buf_span(&answer), &body);
	if (r < 0)
		r = connected ? fail(EXIT_FAILED, "no answer from %s: %s", where, strerror(-r)) : not_reached(where, r);
	else if (status == 404)
		r = fail(EXIT_FAILED, "what answers at %s is no relay", where);
	else if (status != 200)
		r = fail(EXIT_FAILED, "the relay at %s does not tell: status %u", where, status);
	else
		r = print(body);
	buf_done(&answer);
	return r;
}

bool status_wanted(int argc, char **argv)
{
	return argc > 1 && strcmp(argv[1], "status") == 0;
}

int status_main(int argc, char **argv)
{
	_cleanup_(freep) char *dir = NULL;
	struct job j = { NULL };
	char socket[URL_SOCKET_MAX + 8];
	const char *where, *why;
	struct url addr;
	int r = parse(argc, argv, &j);

	if (r >= 0)
		return r;
	if (!j.state_dir)
		j.state_dir = DEFAULT_STATE_DIR;
	where = j.admin ? j.admin : socket;
	dir = j.admin ? NULL : realpath(j.state_dir, NULL);
	if (!j.admin && !dir)
		return not_reached(j.state_dir, -errno);
	if (dir && (size_t)snprintf(socket, sizeof(socket), "unix:%s/" STATUS_SOCKET, dir) >= sizeof(socket))
		return fail(EXIT_FAILED, "the path of %s is too long for a socket; use --admin", j.state_dir);
	if (url_parse_listen_addr(where, &addr, &why) < 0)
		return fail(EXIT_USAGE, "%s \"%s\": %s", j.admin ? "--admin" : "--state-dir", j.admin ? j.admin : j.state_dir, why);
	return ask(&j, &addr, where);
}
