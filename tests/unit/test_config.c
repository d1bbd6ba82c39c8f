#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "gateway/config.h"
#include "relay/config.h"
#include "tests/lib/unit.h"

#define MINIMAL                                                                                                        \
	"--token-file", "/etc/t", "--mcp-server-url", "http://localhost:9000/mcp", "--control-plane",                  \
		"wss://relay.example/v1/tunnel"
#define MINIMAL_RELAY "--listen", "http://127.0.0.1:8080", "--state-dir", "/var/lib/x"
/* Argument vectors end with NULL. */
#define ARGS(...) ((char **)(void *)(const char *[]){ "program", __VA_ARGS__, NULL })

static char err[CONFIG_ERROR_MAX];
static char path[] = "/tmp/test_config.XXXXXX";

static int count(char **argv)
{
	int n = 0;

	while (argv[n])
		n++;
	return n;
}

static void gateway_good(char **argv, struct gateway_config *cfg)
{
	int r = gateway_config_load(cfg, count(argv), argv, err, sizeof(err));

	ck_assert_msg(r == 0, "%s", err);
}

/* err must have each of the phrases, and be one line. */
static void check_error(int r, const char *a, const char *b)
{
	ck_assert_int_eq(r, -EINVAL);
	ck_assert_msg(strstr(err, a) && strstr(err, b), "%s", err);
	ck_assert_ptr_null(strchr(err, '\n'));
}

static void gateway_bad(char **argv, const char *a, const char *b)
{
	static const struct gateway_config empty;
	struct gateway_config cfg;

	strcpy(err, "");
	check_error(gateway_config_load(&cfg, count(argv), argv, err, sizeof(err)), a, b);
	ck_assert_ptr_eq(cfg.token_file, empty.token_file);
	ck_assert_uint_eq(cfg.control_plane_urls.n, 0);
}

static void relay_good(char **argv, struct relay_config *cfg)
{
	int r = relay_config_load(cfg, count(argv), argv, err, sizeof(err));

	ck_assert_msg(r == 0, "%s", err);
}

static void relay_bad(char **argv, const char *a, const char *b)
{
	struct relay_config cfg;

	strcpy(err, "");
	check_error(relay_config_load(&cfg, count(argv), argv, err, sizeof(err)), a, b);
}

static void write_file(const char *text)
{
	FILE *f;

	if (strstr(path, "XXXXXX"))
		close(mkstemp(path));
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

START_TEST(defaults)
{
	struct gateway_config cfg;

	gateway_good(ARGS(MINIMAL), &cfg);
	ck_assert_str_eq(cfg.token_file, "/etc/t");
	ck_assert_str_eq(cfg.route.mcp_server.target, "/mcp");
	ck_assert_uint_eq(cfg.n_relays, 1);
	ck_assert_str_eq(cfg.relays[0].host, "relay.example");
	ck_assert_uint_eq(cfg.keepalive_ms, 20000);
	ck_assert_uint_eq(cfg.drain_timeout_ms, 30000);
	ck_assert_uint_eq(cfg.max_request_bytes, 16 << 20);
	ck_assert_uint_eq(cfg.max_response_bytes, 0);
	ck_assert_uint_eq(cfg.call_timeout_ms, 0);
	ck_assert_uint_eq(cfg.max_streams, 2048);
	ck_assert_str_eq(cfg.health_addr, "127.0.0.1:9464");
	ck_assert(!cfg.allow_query && !cfg.relay_tls.allow_tls12 && !cfg.check_config);
	ck_assert_int_eq(cfg.log_level, LOG_LEVEL_INFO);
	ck_assert(cfg.audit.sink != AUDIT_FILE);
	gateway_config_done(&cfg);
	ck_assert_ptr_null(cfg.token_file);
}
END_TEST

START_TEST(all_flags)
{
	struct gateway_config cfg;

	gateway_good(ARGS("--token-file=/t", "--mcp-server-url=unix:/run/m.sock:/mcp", "--region", "us-east-1",
			  "--control-plane=wss://{region}.relay.example/v1/tunnel", "--control-plane",
			  "ws://localhost:1/x", "--ca-file", "/ca", "--keepalive", "10m", "--drain-timeout=0",
			  "--health-listen=none", "--audit=file:/var/log/a", "--allow-query", "--max-request-bytes=1G",
			  "--max-response-bytes", "2M", "--max-streams=65535", "--call-timeout=1h", "--tls-min=1.2",
			  "--log-level=debug", "--check-config"),
		     &cfg);
	ck_assert_str_eq(cfg.relays[0].host, "us-east-1.relay.example");
	ck_assert_uint_eq(cfg.relays[1].port, 1);
	ck_assert_str_eq(cfg.route.mcp_server.socket, "/run/m.sock");
	ck_assert_uint_eq(cfg.keepalive_ms, 600000);
	ck_assert_uint_eq(cfg.drain_timeout_ms, 0);
	ck_assert_ptr_null(cfg.health_addr);
	ck_assert_int_eq(cfg.audit.sink, AUDIT_FILE);
	ck_assert_str_eq(cfg.audit.path, "/var/log/a");
	ck_assert_uint_eq(cfg.max_response_bytes, 2 << 20);
	ck_assert_uint_eq(cfg.call_timeout_ms, 3600000);
	ck_assert(cfg.allow_query && cfg.relay_tls.allow_tls12 && cfg.check_config);
	ck_assert_int_eq(cfg.log_level, LOG_LEVEL_DEBUG);
	gateway_config_done(&cfg);
}
END_TEST

START_TEST(missing)
{
	gateway_bad(ARGS("--mcp-server-url=http://a", "--control-plane=wss://a"), "--token-file FILE is missing",
		    "/etc/mcp-tunnel/gateway.conf");
	gateway_bad(ARGS("--token-file=/t", "--control-plane=wss://a"), "--mcp-server-url URL is missing", "");
	gateway_bad(ARGS("--token-file=/t", "--mcp-server-url=http://a"), "--control-plane URL is missing", "");
	gateway_bad(ARGS("--token-file=/t", "--mcp-server-url=http://a", "--control-plane=wss://{region}.a"),
		    "--region: it is missing", "{region}");
	relay_bad(ARGS("--state-dir=/s"), "--listen URL is missing", "relay.conf");
	relay_bad(ARGS("--listen=http://127.0.0.1:1"), "--state-dir DIR is missing", "");
}
END_TEST

START_TEST(refused_values)
{
	static const struct {
		const char *flag, *what, *allowed;
	} t[] = {
		{ "--keepalive=999ms", "--keepalive: \"999ms\" is not allowed", "from 1s to 10m" },
		{ "--keepalive=601s", "\"601s\"", "from 1s to 10m" },
		{ "--keepalive=0", "\"0\"", "from 1s to 10m" },
		{ "--keepalive=20", "\"20\"", "from 1s to 10m" },
		{ "--keepalive=-1s", "\"-1s\"", "from 1s" },
		{ "--keepalive=", "\"\"", "from 1s" },
		{ "--drain-timeout=2h", "--drain-timeout: \"2h\"", "to 1h" },
		{ "--max-request-bytes=0", "--max-request-bytes: \"0\"", "from 1k to 1G" },
		{ "--max-request-bytes=16MB", "\"16MB\"", "k, M, G" },
		{ "--max-request-bytes=99999999999999999999G", "not allowed", "from 1k to 1G" },
		{ "--max-response-bytes=1", "\"1\"", "0 (none) or" },
		{ "--max-streams=0", "--max-streams: \"0\"", "a number from 1 to 65535" },
		{ "--max-streams=65536", "65536", "1 to 65535" },
		{ "--call-timeout=99ms", "99ms", "0 (none) or a time" },
		{ "--tls-min=1.1", "--tls-min: \"1.1\"", "1.3 or 1.2" },
		{ "--log-level=loud", "--log-level: \"loud\"", "error, warning, notice, info or debug" },
		{ "--allow-query=maybe", "--allow-query: \"maybe\"", "yes or no" },
		{ "--audit=syslog", "--audit: \"syslog\"", "journald, file:/PATH" },
		{ "--audit=file:relative", "--audit", "absolute" },
		{ "--health-listen=9464", "--health-listen: \"9464\"", "ADDR:PORT, unix:/PATH or none" },
		{ "--health-listen=localhost:99999", "--health-listen", "1 to 65535" },
		{ "--health-listen=example.com:80", "--health-listen", "IP address" },
		{ "--health-listen=unix:rel", "--health-listen", "begin with /" },
		{ "--region=US East", "--region: \"US East\"", "lower-case" },
		{ "--ca-file=", "--ca-file: \"\"", "a path" },
		{ "--control-plane=ws://relay.example/", "--control-plane: \"ws://relay.example/\"", "unencrypted" },
		{ "--control-plane=https://relay.example/", "--control-plane", "wss://HOST" },
		{ "--control-plane=wss://", "--control-plane", "it has no host" },
		{ "--no-such=1", "--no-such: unknown option", "--help" },
		{ "--version=1", "--version: unknown option", "--help" },
		{ "extra", "\"extra\"", "unexpected argument" },
		{ "-x", "\"-x\"", "unexpected argument" },
		{ "--", "\"--\"", "unexpected argument" },
		{ "", "\"\"", "unexpected argument" },
		{ "--keepalive", "--keepalive: it needs a value", "--name=VALUE" },
		{ "--token-file=/second", "--token-file: \"/second\"", "second time" },
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		gateway_bad(ARGS(MINIMAL, t[i].flag), t[i].what, t[i].allowed);
	gateway_bad(ARGS("--token-file", "--region", "x"), "--token-file: it needs a value", "");
	gateway_bad(ARGS("--token-file=/t", "--control-plane=wss://a", "--mcp-server-url=ftp://a"),
		    "--mcp-server-url: \"ftp://a\"", "begins with http://, https:// or unix:");
}
END_TEST

START_TEST(too_many)
{
	gateway_bad(ARGS(MINIMAL, "--control-plane=wss://b", "--control-plane=wss://c", "--control-plane=wss://d",
			 "--control-plane=wss://e", "--control-plane=wss://f", "--control-plane=wss://g",
			 "--control-plane=wss://h", "--control-plane=wss://i"),
		    "--control-plane: \"wss://i\" is one too many", "at most 8");
}
END_TEST

START_TEST(secrets_and_control_bytes)
{
	gateway_bad(ARGS(MINIMAL, "mtt_acme_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"), "\"mtt_...\"", "unexpected");
	ck_assert_ptr_null(strstr(err, "acme"));
	gateway_bad(ARGS(MINIMAL, "--control-plane=wss://user:hunter2@relay.example/x"), "wss://...@relay.example/x",
		    "user name or password");
	ck_assert_ptr_null(strstr(err, "hunter2"));
	gateway_bad(ARGS("--mcp-server-url=http://a/b?k=hunter2"), "\"http://a/b?...\"", "must not have a query");
	gateway_bad(ARGS("--mcp-server-url=http://u:a?hunter2@h/b"), "\"http://...?...\"", "--mcp-server-url");
	gateway_bad(ARGS("--mcp-server-url=unix:/s:/b?hunter2"), "\"unix:/s:/b?...\"", "must not have a query");
	gateway_bad(ARGS(MINIMAL, "--log-level=a\nb\x1b[0m"), "\"a?b?[0m\"", "debug");
}
END_TEST

START_TEST(file_and_flags)
{
	struct gateway_config cfg;

	write_file("# comment\n"
		   "keepalive = 5s\n"
		   "\n"
		   "[gateway]\n"
		   "  token-file = /from/file\n"
		   "control-plane = wss://one.example/x\n"
		   "control-plane=wss://two.example/x ; and a comment\n"
		   "mcp-server-url: http://localhost:1/from-file\n"
		   "allow-query = yes\n");
	gateway_good(ARGS("--config", path), &cfg);
	ck_assert_str_eq(cfg.token_file, "/from/file");
	ck_assert_uint_eq(cfg.n_relays, 2);
	ck_assert_uint_eq(cfg.keepalive_ms, 5000);
	ck_assert(cfg.allow_query);
	gateway_config_done(&cfg);

	gateway_good(
	    ARGS("--keepalive=7s", "--allow-query=no", "--config", path, "--control-plane=wss://flag.example/x"), &cfg);
	ck_assert_uint_eq(cfg.keepalive_ms, 7000);
	ck_assert(!cfg.allow_query);
	ck_assert_uint_eq(cfg.n_relays, 1);
	ck_assert_str_eq(cfg.relays[0].host, "flag.example");
	ck_assert_str_eq(cfg.route.mcp_server.target, "/from-file");
	gateway_config_done(&cfg);
	unlink(path);
}
END_TEST

START_TEST(file_errors)
{
	static char longline[400] = "token-file = /";
	static const struct {
		const char *text, *where, *what;
	} t[] = {
	    {"\n\nkeepalive = 5\n", ":3: keepalive: \"5\"", "from 1s to 10m"},
	    {"[gateway]\nkepalive = 5s\n", ":2: kepalive", "unknown key"},
	    {"[relay]\nkeepalive = 5s\n", ":2: keepalive", "unknown section [relay]"},
	    {"keepalive = 5s\nkeepalive = 6s\n", ":2: keepalive: \"6s\"", "second time"},
	    {"keepalive = 5s\n   drain-timeout = 6x\n", ":2: drain-timeout: \"6x\"", "a time"},
	    {"# x\nkeepalive\n", ":2:", "key = value"},
	    {"[gateway\n", ":1:", "key = value"},
	    {"help = yes\n", ":1: help", "only for the command line"},
	    {"config = /x\n", ":1: config", "only for the command line"},
	    {"control-plane = wss://a\n\ncontrol-plane = ws://b\n", ":3: control-plane: \"ws://b\"", "unencrypted"},
	    {longline, ":1:", "too long"},
	};

	memset(longline + 14, 'x', 300);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		write_file(t[i].text);
		gateway_bad(ARGS("--token-file=/t", "--mcp-server-url=http://a", "--config", path), t[i].where,
			    t[i].what);
		ck_assert_msg(strncmp(err, path, strlen(path)) == 0, "%s", err);
	}
	unlink(path);
	gateway_bad(ARGS(MINIMAL, "--config", path), path, "No such file");
	ck_assert_ptr_nonnull(strstr(err, "--config"));
}
END_TEST

/* Where the text of a line seems to end, the line does not: the next one must not be taken for its rest. */
START_TEST(zero_bytes)
{
	static const char *const lines[] = { "# a%cb\n", "%c\n", "keepalive = 5s%c\n", "[gateway]%c\n" };

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		FILE *f;

		write_file("");
		f = fopen(path, "w");
		ck_assert_ptr_nonnull(f);
		fputs("# first\n", f);
		fprintf(f, lines[i], 0);
		fputs("deny-tool = secret_*\n", f);
		fclose(f);
		gateway_bad(ARGS(MINIMAL, "--config", path), ":2:", "a byte of the line is zero");
	}
	unlink(path);
	gateway_bad(ARGS(MINIMAL, "--config", "/tmp"), "/tmp", "Is a directory");
}
END_TEST

START_TEST(long_comment_is_fine)
{
	struct gateway_config cfg;
	char text[1000] = "#";

	memset(text + 1, 'x', 700);
	strcpy(text + 701, "\nkeepalive = 3s");
	write_file(text);
	gateway_good(ARGS(MINIMAL, "--config", path), &cfg);
	ck_assert_uint_eq(cfg.keepalive_ms, 3000);
	gateway_config_done(&cfg);
	unlink(path);
}
END_TEST

START_TEST(relay)
{
	struct relay_config cfg;

	relay_good(ARGS("--listen=https://0.0.0.0:443", "--listen", "http://localhost:0",
			"--listen=http+unix:/run/r.sock", "--tls-cert=/c", "--tls-key=/k", "--state-dir=/s",
			"--public-url=https://Relay.example", "--allowed-origin=https://app.example",
			"--admin-listen=127.0.0.1:9465", "--resume-grace=1m"),
		   &cfg);
	ck_assert_uint_eq(cfg.n_listeners, 3);
	ck_assert(cfg.any_tls && cfg.agents_need_key);
	ck_assert_str_eq(cfg.listeners[1].host, "127.0.0.1");
	ck_assert_str_eq(cfg.public_url.host, "relay.example");
	ck_assert_str_eq(cfg.admin_addr, "127.0.0.1:9465");
	ck_assert_uint_eq(cfg.resume_grace_ms, 60000);
	ck_assert(relay_config_origin_allowed(&cfg, SPAN("https://app.example")));
	ck_assert(relay_config_origin_allowed(&cfg, SPAN("https://app.example:443")));
	ck_assert(!relay_config_origin_allowed(&cfg, SPAN("http://app.example")));
	ck_assert(!relay_config_origin_allowed(&cfg, SPAN("https://app.example:444")));
	ck_assert(!relay_config_origin_allowed(&cfg, SPAN("null")));
	relay_config_done(&cfg);

	relay_good(ARGS(MINIMAL_RELAY, "--agent-auth=none"), &cfg);
	ck_assert(!cfg.agents_need_key && !cfg.any_tls && !cfg.admin_addr && cfg.public_url.scheme == 0);
	relay_config_done(&cfg);
	relay_good(ARGS("--listen=http://0.0.0.0:80", "--behind-proxy", "--state-dir=/s"), &cfg);
	relay_config_done(&cfg);
}
END_TEST

START_TEST(relay_refuses)
{
	relay_bad(ARGS("--listen=http://0.0.0.0:80", "--state-dir=/s"), "--listen: \"http://0.0.0.0:80\"",
		  "--behind-proxy");
	relay_bad(ARGS("--listen=https://0.0.0.0:443", "--state-dir=/s"), "--tls-cert: it is missing", "https://");
	relay_bad(ARGS("--listen=https://0.0.0.0:443", "--state-dir=/s", "--tls-cert=/c"), "--tls-key: it is missing",
		  "");
	relay_bad(ARGS("--listen=https://0.0.0.0", "--state-dir=/s"), "--listen", "it has no port");
	relay_bad(ARGS("--listen=https://127.0.0.1:1/x", "--state-dir=/s"), "--listen", "must not have a path");
	relay_bad(ARGS(MINIMAL_RELAY, "--listen=http://10.0.0.1:80", "--behind-proxy", "--agent-auth=none"),
		  "--agent-auth: \"none\"", "http://10.0.0.1:80");
	relay_bad(ARGS(MINIMAL_RELAY, "--allowed-origin=https://a/x"), "--allowed-origin: \"https://a/x\"",
		  "not an origin");
	relay_bad(ARGS(MINIMAL_RELAY, "--allowed-origin=https://ok", "--allowed-origin=*"), "--allowed-origin: \"*\"",
		  "");
	relay_bad(ARGS(MINIMAL_RELAY, "--public-url=https://a/x"), "--public-url", "must not have a path");
	relay_bad(ARGS(MINIMAL_RELAY, "--admin-listen=x"), "--admin-listen: \"x\"", "ADDR:PORT");
	relay_bad(ARGS(MINIMAL_RELAY, "--region=x"), "--region: unknown option", "mcp-tunnel-relay --help");
}
END_TEST

/* What a program prints for one flag, from a child's stdout. */
static void capture_args(char **argv, char *out, size_t size)
{
	struct gateway_config cfg;
	int saved = dup(STDOUT_FILENO);
	FILE *f = tmpfile();
	int r;

	fflush(stdout);
	dup2(fileno(f), STDOUT_FILENO);
	r = gateway_config_load(&cfg, count(argv), argv, err, sizeof(err));
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	ck_assert_int_eq(r, CONFIG_EXIT);
	rewind(f);
	out[fread(out, 1, size - 1, f)] = '\0';
	fclose(f);
}

static void capture(const char *flag, char *out, size_t size)
{
	capture_args(ARGS(flag), out, size);
}

START_TEST(help_and_version)
{
	static char text[32768];
	char *save = NULL;

	capture("--version", text, sizeof(text));
	ck_assert_str_eq(text, "mcp-tunnel-gateway " MCP_TUNNEL_VERSION "\n");
	capture("--help", text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, "  --keepalive TIME "));
	ck_assert_ptr_nonnull(strstr(text, "default 20s; 1s to 10m"));
	ck_assert_ptr_null(strstr(text, "print-sample"));
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		ck_assert_msg(strlen(line) <= 100, "%s", line);
	capture("--print-man-options", text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, ".TP\n.BR \\-\\-keepalive \" \" \\fITIME\\fR\n"));
}
END_TEST

/* The sample with every line that has a default or a form uncommented must be taken again. */
START_TEST(printed_values)
{
	static const char *const lines[] = {
		"[gateway]\n", "keepalive = 90s ; %s:3\n", "control-plane = wss://a/v1?... ; %s:4\n", "control-plane = wss://b ; %s:5\n",
		"max-request-bytes = 32M ; command line\n", "drain-timeout = 0 ; command line\n", "call-timeout = 0 ; default\n",
		"tls-min = 1.2 ; %s:6\n", "allow-query = yes ; command line\n", "log-level = info ; default\n",
	};
	static char text[32768];
	char line[400];

	write_file("[gateway]\ntoken-file = /t\nkeepalive = 90000ms\ncontrol-plane = wss://a/v1?key=s3cret\ncontrol-plane = wss://b\n"
		   "tls-min = 1.2\nmcp-server-url = http://127.0.0.1:9/mcp\n");
	capture_args(ARGS("--config", path, "--max-request-bytes", "32768k", "--drain-timeout=0", "--allow-query", "--print-config"), text,
		     sizeof(text));
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		snprintf(line, sizeof(line), lines[i], path);
		ck_assert_msg(strstr(text, line), "no %s in\n%s", line, text);
	}
	ck_assert_ptr_null(strstr(text, "s3cret"));
	/* What is printed can be read. */
	*strstr(text, "control-plane = wss://a") = '#';
	write_file(text);
	capture_args(ARGS("--config", path, "--print-config"), line, sizeof(line));
	unlink(path);
}
END_TEST

START_TEST(sample_is_valid)
{
	static char text[32768], live[32768];
	struct gateway_config cfg;
	char *save = NULL;

	capture("--print-sample-config", text, sizeof(text));
	write_file(text);
	gateway_good(ARGS(MINIMAL, "--config", path), &cfg);
	gateway_config_done(&cfg);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		bool value = line[0] == '#' && line[1] != ' ' && !strstr(line, "URL") && !strstr(line, "NAME") &&
			     !strstr(line, "SINK") && !strstr(line, "= PIN") && !strstr(line, "= CIDR");

		strcat(live, value ? line + 1 : line);
		strcat(live, "\n");
	}
	write_file(live);
	gateway_good(ARGS("--config", path, "--mcp-server-url=http://a", "--control-plane=wss://a"), &cfg);
	ck_assert_str_eq(cfg.token_file, "FILE");
	ck_assert_uint_eq(cfg.keepalive_ms, 20000);
	gateway_config_done(&cfg);
	unlink(path);
}
END_TEST

UNIT_MAIN("config", ADD(defaults) ADD(all_flags) ADD(missing) ADD(refused_values) ADD(too_many)
			ADD(secrets_and_control_bytes) ADD(file_and_flags) ADD(file_errors) ADD(zero_bytes) ADD(long_comment_is_fine)
			    ADD(relay) ADD(relay_refuses) ADD(help_and_version) ADD(printed_values) ADD(sample_is_valid))
