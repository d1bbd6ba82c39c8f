#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/encode.h"
#include "base/span.h"
#include "daemon/audit.h"
#include "daemon/audit_record.h"
#include "daemon/digest.h"
#include "daemon/health.h"
#include "daemon/health_client.h"
#include "daemon/url.h"
#include "gateway/audit/command.h"

#define DEFAULT_GATEWAY "127.0.0.1:9464"

enum { NONCE_BYTES = 16, NONCE_LEN = 2 * NONCE_BYTES, ANSWER_MAX = 16 * 1024, CHUNK = 256 * 1024, SHOWN_MAX = 120 };

static const char usage[] =
	"Usage: mcp-tunnel-audit canary [--gateway ADDRESS]\n"
	"       mcp-tunnel-audit canary --check NONCE FILE...\n"
	"\n"
	"The first form has the running gateway write an audit.checkpoint with a random number, prints the number, and\n"
	"how to look for it. The second says whether what a SIEM exported (FILE, -: standard input) has it:\n"
	"exit status 0 yes, 1 no, 2 could not tell.\n"
	"\n"
	"  --gateway ADDRESS  the gateway's --health-listen: ADDR:PORT or unix:PATH (default " DEFAULT_GATEWAY ")\n"
	"  --check NONCE      the number\n";

struct job {
	const char *gateway, *check;
	char **files;
	int n_files;
};

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct job *j)
{
	static const struct option options[] = {
		{ "gateway", required_argument, NULL, 'g' },
		{ "check", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, ":h", options, NULL)) >= 0) {
		if (c == 'g') {
			j->gateway = optarg;
		} else if (c == 'c') {
			j->check = optarg;
		} else if (c == 'h') {
			fputs(usage, stdout);
			return command_end(EXIT_WHOLE);
		} else {
			return command_bad_option(argc, argv, c);
		}
	}
	j->files = argv + optind;
	j->n_files = argc - optind;
	if (j->check && j->gateway)
		return command_fail("canary: --check looks into files; it needs no --gateway");
	if (j->check && j->n_files == 0)
		return command_fail("canary: FILE is missing: name what the SIEM exported, or - for standard input");
	if (!j->check && j->n_files)
		return command_fail("canary: unexpected argument \"%s\"; --check NONCE FILE looks into a file", j->files[0]);
	if (j->check && strlen(j->check) < HEALTH_NONCE_MIN)
		return command_fail("canary: --check \"%s\" is no number that canary printed", j->check);
	return -1;
}

/* ---- Asking the gateway ---- */

static size_t line_len(struct span s)
{
	size_t n = 0;

	while (n < s.len && s.p[n] != '\r' && s.p[n] != '\n')
		n++;
	return n;
}

static int ask(const char *gateway, const char *nonce)
{
	char request[512], shown[SHOWN_MAX] = "";
	struct span body = { NULL, 0 };
	struct buf answer;
	bool connected = false;
	const char *why;
	unsigned status;
	struct url u;
	int r;

	if (url_parse_listen_addr(gateway, &u, &why) < 0)
		return command_fail("canary: --gateway \"%s\": %s; allowed is ADDR:PORT or unix:PATH", gateway, why);
	snprintf(request, sizeof(request),
		 "POST " HEALTH_CANARY_PATH " HTTP/1.1\r\nHost: %s\r\n" HEALTH_NONCE_HEADER ": %s\r\n"
		 "Content-Length: 0\r\nConnection: close\r\n\r\n",
		 u.authority, nonce);
	buf_init(&answer, ANSWER_MAX);
	r = health_ask(&u, request, &answer, &connected);
	status = health_answer(buf_span(&answer), &body);
	if (status && body.len)
		shown[audit_escape(span_make(body.p, line_len(body)), shown, SHOWN_MAX - 1, false)] = '\0';
	buf_done(&answer);
	if (r < 0 && !connected)
		return command_fail("canary: cannot reach the gateway at %s: %s", gateway, strerror(-r));
	if (r < 0)
		return command_fail("canary: no answer from %s: %s", gateway, strerror(-r));
	if (status == 404)
		return command_fail("canary: what answers at %s is no gateway with an audit log", gateway);
	if (status != 200)
		return command_fail("canary: the gateway at %s did not write the record: %u %s", gateway, status, shown);
	return 0;
}

static void print_queries(const char *nonce)
{
	printf("%s\n\n", nonce);
	printf("The gateway wrote an audit.checkpoint with this number. Where records arrive, one query finds it:\n\n");
	printf("journal        journalctl --since -1h -a -o json MESSAGE_ID=" AUDIT_CHECKPOINT_ID " | grep -F %s\n", nonce);
	printf("file           grep -F %s FILE\n", nonce);
	printf("Splunk         index=* earliest=-1h \"%s\"\n", nonce);
	printf("Elastic KQL    message : \"%s\"\n", nonce);
	printf("Sentinel KQL   Syslog | where TimeGenerated > ago(1h) | where SyslogMessage has \"%s\"\n", nonce);
	printf("Loki LogQL     {job=~\".+\"} |= \"%s\"\n\n", nonce);
	printf("Export what it finds, then: mcp-tunnel-audit canary --check %s FILE\n", nonce);
}

static int canary(const char *gateway)
{
	uint8_t bytes[NONCE_BYTES];
	char nonce[NONCE_LEN + 1];
	int r = random_bytes(bytes, sizeof(bytes));

	if (r < 0)
		return command_fail("canary: %s", strerror(-r));
	hex_encode(bytes, sizeof(bytes), nonce);
	r = ask(gateway, nonce);
	if (r != 0)
		return r;
	print_queries(nonce);
	return command_end(EXIT_WHOLE);
}

/* ---- Looking for it ---- */

static uint64_t count_lines(const char *p, size_t len)
{
	uint64_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += p[i] == '\n';
	return n;
}

/* 1 with the line that has it, 0, -errno. Lines may be of any length. */
static int look(int fd, const char *nonce, uint64_t *ret_line)
{
	_cleanup_(freep) char *data = malloc(CHUNK);
	size_t len = strlen(nonce), have = 0;
	uint64_t line = 1;
	char *at;

	if (!data || len >= CHUNK / 2)
		return data ? -EINVAL : -ENOMEM;
	for (;;) {
		size_t keep = MIN(have, len - 1);
		ssize_t n;

		line += count_lines(data, have - keep);
		memmove(data, data + have - keep, keep);
		have = keep;
		do
			n = read(fd, data + have, CHUNK - have);
		while (n < 0 && errno == EINTR);
		if (n <= 0)
			return n < 0 ? -errno : 0;
		have += (size_t)n;
		at = memmem(data, have, nonce, len);
		if (at) {
			*ret_line = line + count_lines(data, (size_t)(at - data));
			return 1;
		}
	}
}

static int check_file(const char *path, const char *nonce, uint64_t *ret_line)
{
	int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), r;

	if (fd < 0)
		return -errno;
	r = look(fd, nonce, ret_line);
	if (fd != STDIN_FILENO)
		close(fd);
	return r;
}

static int check(const struct job *j)
{
	bool unsure = false;

	for (int i = 0; i < j->n_files; i++) {
		uint64_t line = 0;
		int r = check_file(j->files[i], j->check, &line);

		if (r > 0) {
			printf("%s:%" PRIu64 ": it has arrived\n", j->files[i], line);
			return command_end(EXIT_WHOLE);
		}
		if (r < 0) {
			(void)command_fail("canary: %s: %s", j->files[i], strerror(-r));
			unsure = true;
		}
	}
	if (unsure)
		return EXIT_UNSURE;
	printf("it has not arrived: %s is not there\n", j->check);
	return command_end(EXIT_NOT_WHOLE);
}

int command_canary(int argc, char **argv)
{
	struct job j = { 0 };
	int status = parse(argc, argv, &j);

	if (status >= 0)
		return status;
	return j.check ? check(&j) : canary(j.gateway ? j.gateway : DEFAULT_GATEWAY);
}
