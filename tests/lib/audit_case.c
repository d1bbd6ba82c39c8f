#include "tests/lib/audit_case.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

char dir[64], path[100], err[200];
char text[TEXT_BYTES];
struct loop *loop;
struct audit *audit;

int n_warnings, n_notices;
char last_notice[300];

static void on_log(void *user, enum log_level level, const struct log_field *fields, size_t n, const char *message)
{
	n_warnings += level == LOG_LEVEL_WARNING;
	n_notices += level == LOG_LEVEL_NOTICE;
	if (level == LOG_LEVEL_NOTICE)
		snprintf(last_notice, sizeof(last_notice), "%s", message);
}

void make_dir(void)
{
	snprintf(dir, sizeof(dir), "/tmp/test_audit.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/audit", dir);
	log_set_sink(on_log, NULL);
}

int start(enum audit_sink sink, const char *at)
{
	const struct audit_config cfg = {
		.sink = sink,
		.path = at,
		.identifier = "mcp-tunnel-gateway",
		.hash_secret = SPAN(SECRET),
		.tunnel_id = "acme",
	};

	ck_assert_int_eq(loop_new(&loop), 0);
	return audit_new(loop, &cfg, err, sizeof(err), &audit);
}

void setup_file(void)
{
	make_dir();
	ck_assert_int_eq(start(AUDIT_FILE, path), 0);
}

void teardown(void)
{
	char other[120];

	audit = audit_free(audit);
	loop = loop_free(loop);
	log_set_sink(NULL, NULL);
	snprintf(other, sizeof(other), "%s.1", path);
	unlink(other);
	unlink(path);
	ck_assert_int_eq(rmdir(dir), 0);
}

const char *read_file(const char *name)
{
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	close(fd);
	return text;
}

char *line_at(char *all, size_t n)
{
	char *line = NULL;

	for (size_t i = 0; i <= n; i++) {
		line = strsep(&all, "\n");
		if (!all)
			return NULL;
	}
	return line;
}

struct mcp_view tool_view(void)
{
	return (struct mcp_view){
		.kind = MCP_REQUEST,
		.method = SPAN("tools/call"),
		.id = SPAN("7"),
		.name = SPAN("get_weather"),
		.uri = SPAN("file:///never/recorded"),
		.protocol_version = SPAN("2026-07-28"),
		.client_name = SPAN("agent-app"),
		.has_arguments = true,
	};
}

struct audit_call tool_call(const struct mcp_view *v)
{
	return (struct audit_call){
		.call_id = SPAN(CALL_ID),
		.agent = SPAN("alice@example.com"),
		.agent_auth = SPAN("mtls"),
		.trace = SPAN("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
		.upstream = "http://127.0.0.1:3000/mcp",
		.view = v,
		.arguments = SPAN(ARGS),
		.request_bytes = 123,
	};
}

void assert_has(const char *line, const char *part)
{
	ck_assert_msg(strstr(line, part) != NULL, "%s is not in %s", part, line);
}

void assert_lacks(const char *line, const char *part)
{
	ck_assert_msg(strstr(line, part) == NULL, "%s is in %s", part, line);
}

int serve(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}
