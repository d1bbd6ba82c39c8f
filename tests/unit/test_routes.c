#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/token.h"
#include "gateway/routes.h"
#include "tests/lib/loop_ms.h"
#include "tests/lib/no_files.h"
#include "tests/lib/unit.h"

/* Sections [route NAME] and what differs between two configurations; headers out of files. */

static char err[CONFIG_ERROR_MAX];
static char path[] = "/tmp/test_routes.XXXXXX";

#define HEAD "[gateway]\ntoken-file = /t\ncontrol-plane = wss://a\n"

static void write_file(const char *text, mode_t mode)
{
	FILE *f;

	if (strstr(path, "XXXXXX"))
		close(mkstemp(path));
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	chmod(path, mode);
}

/* Up to three more arguments. */
static int load(struct gateway_config *cfg, const char *text, const char *a, const char *b, const char *c)
{
	static const char *argv[8];
	int argc = 3;

	write_file(text, 0600);
	argv[0] = "program";
	argv[1] = "--config";
	argv[2] = path;
	if (a)
		argv[argc++] = a;
	if (b)
		argv[argc++] = b;
	if (c)
		argv[argc++] = c;
	return gateway_config_load(cfg, argc, (char **)(void *)argv, err, sizeof(err));
}

static void good(struct gateway_config *cfg, const char *text, const char *a, const char *b, const char *c)
{
	int r = load(cfg, text, a, b, c);

	ck_assert_msg(r == 0, "%s", err);
}

static void teardown(void)
{
	unlink(path);
}

START_TEST(sections)
{
	struct gateway_config cfg;
	const struct route_config *docs, *wiki;

	good(&cfg,
	     HEAD "mcp-server-url = http://127.0.0.1:1/mcp\nupstream-allow = 127.0.0.0/8\nupstream-ca-file = /ca\n"
		  "upstream-client-cert = /c\nupstream-client-key = /k\nupstream-header-file = X=/x\ndeny-tool = rm\n"
		  "[route docs]\nmcp-server-url = https://127.0.0.2:2/d\nallow-tool = get-*\ndeny-tool = get-x\n"
		  "[route wiki]\nmcp-server-url = unix:/run/w:/w\nupstream-allow = 10.0.0.0/8\nupstream-ca-file = /other\n"
		  "[gateway]\nkeepalive = 5s\n[route docs]\nupstream-header-file = Authorization=/secret\n",
	     NULL, NULL, NULL);
	ck_assert_uint_eq(cfg.routes.n, 2);
	ck_assert_uint_eq(cfg.keepalive_ms, 5000);
	ck_assert_str_eq(cfg.routes.items[0].name, "docs");
	docs = cfg.routes.items[0].target;
	wiki = cfg.routes.items[1].target;
	ck_assert_str_eq(docs->mcp_server.target, "/d");
	ck_assert_uint_eq(docs->rules.lists[RULES_TOOL][RULES_DENY].n, 2);
	ck_assert_uint_eq(docs->rules.lists[RULES_TOOL][RULES_ALLOW].n, 1);
	ck_assert_str_eq(docs->headers.items[0].path, "/secret");
	/* From [gateway]: networks and CA, but neither certificate nor headers. */
	ck_assert_uint_eq(docs->guard.n, 1);
	ck_assert_str_eq(docs->tls.ca_file, "/ca");
	ck_assert(!docs->tls.cert_file && !docs->tls.key_file);
	ck_assert_uint_eq(wiki->headers.n, 0);
	ck_assert_str_eq(wiki->tls.ca_file, "/other");
	ck_assert_uint_eq(wiki->rules.lists[RULES_TOOL][RULES_DENY].n, 1);
	ck_assert_uint_eq(cfg.route.rules.lists[RULES_TOOL][RULES_DENY].n, 1);
	gateway_config_done(&cfg);
}
END_TEST

START_TEST(flags_make_routes)
{
	const struct route_config *rc;
	struct gateway_config cfg;

	good(&cfg, HEAD "[route docs]\nmcp-server-url = http://127.0.0.1:2/d\ndeny-tool = x\n", "--route=docs=http://127.0.0.1:3/flag",
	     "--route=b=unix:/run/b:/b", NULL);
	ck_assert(!cfg.route.mcp_server.scheme);
	ck_assert_uint_eq(cfg.routes.n, 2);
	rc = cfg.routes.items[0].target;
	ck_assert_str_eq(rc->mcp_server.target, "/flag");
	ck_assert_uint_eq(rc->rules.lists[RULES_TOOL][RULES_DENY].n, 1);
	rc = cfg.routes.items[1].target;
	ck_assert_str_eq(rc->mcp_server.socket, "/run/b");
	gateway_config_done(&cfg);
}
END_TEST

static const struct {
	const char *text, *flag, *where, *what;
} bad[] = {
	{ HEAD, NULL, "--mcp-server-url URL is missing", "" },
	{ HEAD "[route docs]\nkeepalive = 5s\n", NULL, ":5: keepalive", "belongs into [gateway]" },
	{ HEAD "[route docs]\nnonsense = 5s\n", NULL, ":5: nonsense", "unknown key" },
	{ HEAD "[route Docs]\nmcp-server-url = http://127.0.0.1\n", NULL, ":4: [route Docs]", "lower-case" },
	{ HEAD "[route ]\nmcp-server-url = http://127.0.0.1\n", NULL, ":4: [route ]", "lower-case" },
	{ HEAD "mcp-server-url = http://127.0.0.1\n[route docs]\n", NULL, "[route docs] mcp-server-url", "missing" },
	{ HEAD "[routes docs]\nmcp-server-url = http://127.0.0.1\n", NULL, ":4: ", "only [gateway] and [route NAME] are read" },
	{ HEAD "[other docs]\nmcp-server-url = http://127.0.0.1\n", NULL, ":5: mcp-server-url: it is in", "only [gateway] and [route NAME] are read" },
	{ HEAD "[route docs-docs-docs-docs-docs-docs-docs-docs-docs]\nmcp-server-url = http://127.0.0.1\n", NULL, ":4: ", "too long" },
	{ HEAD "[route docs]\nmcp-server-url = ftp://x\n", NULL, ":5: mcp-server-url: \"ftp://x\"", "http://" },
	{ HEAD "[route docs]\nmcp-server-url = http://8.8.8.8/\n", NULL, ":5: mcp-server-url", "upstream-allow" },
	{ HEAD "[route docs]\ndeny-tool = x\n", NULL, "[route docs] mcp-server-url", "missing" },
	{ HEAD "[route docs]\nmcp-server-url = http://127.0.0.1\n[route docs]\nmcp-server-url = http://127.0.0.1\n", NULL,
	  ":7: mcp-server-url", "second time" },
	{ HEAD "[route docs]\nmcp-server-url = http://127.0.0.1\nupstream-client-cert = /c\n", NULL, "[route docs] upstream-client-key",
	  "missing" },
	{ HEAD "[route docs]\nmcp-server-url = http://127.0.0.1\ndeny-resource-scheme = a:b\n", NULL, ":6: deny-resource-scheme", "scheme" },
	{ HEAD "[route docs]\nmcp-server-url = http://127.0.0.1\nupstream-allow = here\n", NULL, ":6: upstream-allow: \"here\"", "network" },
	{ HEAD "route = docs=http://127.0.0.1\n[route docs]\nmcp-server-url = http://127.0.0.1\n", NULL, ":4: route:", "one of them" },
	{ HEAD, "--route=docs", "--route: \"docs\"", "NAME=URL" },
	{ HEAD, "--route=a_b=http://127.0.0.1", "--route:", "lower-case" },
	{ HEAD, "--route=docs=wss://x", "--route:", "is not a URL to use here" },
	{ HEAD "route = d=http://127.0.0.1\nroute = d=http://127.0.0.1\n", NULL, ":5: route:", "given before" },
	{ HEAD, "--upstream-header-file=Host=/x", "--upstream-header-file: \"Host=/x\"", "says how or where" },
	{ HEAD, "--upstream-header-file=X", "--upstream-header-file:", "names no file" },
	{ HEAD, "--upstream-header-file=X Y=/x", "--upstream-header-file:", "not that of a header" },
};

START_TEST(refused)
{
	struct gateway_config cfg;

	strcpy(err, "");
	ck_assert_int_eq(load(&cfg, bad[_i].text, bad[_i].flag, NULL, NULL), -EINVAL);
	ck_assert_msg(strstr(err, bad[_i].where) && strstr(err, bad[_i].what), "%s", err);
	ck_assert_ptr_null(strchr(err, '\n'));
	ck_assert_uint_eq(cfg.routes.n, 0);
}
END_TEST

START_TEST(one_route_too_many)
{
	static char text[8192];
	struct gateway_config cfg;

	strcpy(text, HEAD);
	for (int i = 0; i < CONFIG_SECTIONS_MAX; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "[route r%d]\nmcp-server-url = http://127.0.0.1\n", i);
	good(&cfg, text, NULL, NULL, NULL);
	ck_assert_uint_eq(cfg.routes.n, CONFIG_SECTIONS_MAX);
	gateway_config_done(&cfg);
	ck_assert_int_eq(load(&cfg, text, "--route=more=http://127.0.0.1", NULL, NULL), -EINVAL);
	ck_assert_msg(strstr(err, "one route too many"), "%s", err);
}
END_TEST

#define SERVER "mcp-server-url = http://127.0.0.1:1/mcp\n"
static const struct {
	const char *before, *after, *live, *restart;
} changes[] = {
	{ SERVER, SERVER, "", "" },
	{ SERVER, SERVER "max-request-bytes = 16M\n# comment\n", "", "" },
	{ SERVER, SERVER "max-request-bytes = 17M\nkeepalive = 21s\n", "max-request-bytes", "keepalive" },
	{ SERVER, "mcp-server-url = http://127.0.0.1:1/other\n", "mcp-server-url", "" },
	{ SERVER "deny-tool = a\ndeny-tool = b\n", SERVER "deny-tool = b\ndeny-tool = a\n", "deny-tool", "" },
	{ SERVER "deny-tool = a\n", SERVER, "deny-tool", "" },
	{ SERVER "audit = none\n", SERVER "audit = file:/x\nregion = x\n", "", "region, audit" },
	{ SERVER "log-level = debug\nallow-query = yes\ntls-min = 1.2\nmax-streams = 7\n", SERVER, "allow-query, log-level", "tls-min, max-streams" },
	{ SERVER "[route a]\n" SERVER "[route b]\n" SERVER, SERVER "[route c]\n" SERVER "[route b]\n" SERVER "deny-tool = x\n",
	  "[route a], [route b] deny-tool, [route c]", "" },
};

START_TEST(compared)
{
	struct gateway_config a, b;
	struct config_changes c;
	char text[1000];

	snprintf(text, sizeof(text), HEAD "%s", changes[_i].before);
	good(&a, text, NULL, NULL, NULL);
	snprintf(text, sizeof(text), HEAD "%s", changes[_i].after);
	write_file(text, 0600);
	ck_assert_int_eq(gateway_config_again(&a, &b, err, sizeof(err)), 0);
	gateway_config_compare(&a, &b, &c);
	ck_assert_str_eq(c.live, changes[_i].live);
	ck_assert_str_eq(c.restart, changes[_i].restart);
	ck_assert_uint_eq(c.n_live == 0, !*c.live);
	ck_assert_uint_eq(c.n_restart == 0, !*c.restart);
	gateway_config_done(&a);
	gateway_config_done(&b);
}
END_TEST

/* Names that find no room are told as such, and nothing is written beyond. */
START_TEST(compared_with_more_than_fits)
{
	static char text[16384];
	struct gateway_config a, b;
	struct config_changes c;

	strcpy(text, HEAD SERVER);
	for (int i = 0; i < CONFIG_SECTIONS_MAX; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "[route a-long-name-for-a-route-%d]\n" SERVER, i);
	good(&a, text, NULL, NULL, NULL);
	for (char *p = text; (p = strstr(p, "/mcp\n"));)
		*++p = 'x';
	write_file(text, 0600);
	ck_assert_int_eq(gateway_config_again(&a, &b, err, sizeof(err)), 0);
	gateway_config_compare(&a, &b, &c);
	ck_assert_uint_eq(c.n_live, 1 + CONFIG_SECTIONS_MAX);
	ck_assert_uint_lt(strlen(c.live), CONFIG_NAMES_MAX);
	ck_assert_str_eq(c.live + strlen(c.live) - 15, "server-url, ...");
	gateway_config_done(&a);
	gateway_config_done(&b);
}
END_TEST

/* ---- routes in force ---- */

static unsigned freed;

struct upstream *__real_upstream_free(struct upstream *u);
struct upstream *__wrap_upstream_free(struct upstream *u);

struct upstream *__wrap_upstream_free(struct upstream *u)
{
	freed++;
	return __real_upstream_free(u);
}

#define DOCS "[route docs]\nmcp-server-url = http://127.0.0.1:2/mcp\n"

static struct routes *next(const struct routes_config *env, const struct routes *before, const char *text)
{
	struct gateway_config *cfg = calloc(1, sizeof(*cfg));
	struct routes *r = NULL;

	write_file(text, 0600);
	ck_assert_int_eq(gateway_config_again(before->cfg, cfg, err, sizeof(err)), 0);
	ck_assert_int_eq(routes_next(env, before, cfg, err, sizeof(err), &r), 0);
	return r;
}

/* A server that stays the same is shared; one that is not goes with the last call that began with it, at the end of the turn. */
START_TEST(servers_are_counted)
{
	struct upstream_pool pool = { 0 };
	struct audit_calls_shared audit = { NULL };
	struct routes_config env = { .pool = &pool, .audit = &audit };
	struct routes *first, *second, *third, *call;
	struct gateway_config cfg;

	ck_assert_int_eq(loop_new(&env.loop), 0);
	good(&cfg, HEAD SERVER DOCS, NULL, NULL, NULL);
	ck_assert_int_eq(routes_new(&env, &cfg, err, sizeof(err), &first), 0);
	ck_assert_ptr_null(routes_find(first, SPAN("none")));
	ck_assert_str_eq(routes_find(first, SPAN("docs"))->backend->name, "http://127.0.0.1:2/mcp");
	call = routes_ref(first);

	second = next(&env, first, HEAD SERVER "deny-tool = x\n[route docs]\nmcp-server-url = http://127.0.0.1:3/mcp\n");
	ck_assert_ptr_eq(second->list[0].backend, first->list[0].backend);
	ck_assert_ptr_ne(second->list[1].backend, first->list[1].backend);
	ck_assert_uint_eq(second->list[0].policy.rules->lists[RULES_TOOL][RULES_DENY].n, 1);
	ck_assert_uint_eq(first->list[0].policy.rules->lists[RULES_TOOL][RULES_DENY].n, 0);
	routes_unref(first);
	third = next(&env, second, HEAD SERVER);
	routes_unref(second);
	loop_ms(env.loop, 1);
	ck_assert_uint_eq(freed, 1);
	/* The call is over. */
	routes_unref(call);
	ck_assert_uint_eq(freed, 1);
	loop_ms(env.loop, 1);
	ck_assert_uint_eq(freed, 2);
	routes_unref(third);
	loop_free(env.loop);
	ck_assert_uint_eq(freed, 3);
	gateway_config_done(&cfg);
}
END_TEST

/* What cannot be made leaves nothing behind, and the servers of before as they were. */
START_TEST(next_that_fails)
{
	struct upstream_pool pool = { 0 };
	struct audit_calls_shared audit = { NULL };
	struct routes_config env = { .pool = &pool, .audit = &audit };
	struct gateway_config cfg, *bad_cfg = calloc(1, sizeof(cfg));
	struct routes *first, *second = NULL;

	ck_assert_int_eq(loop_new(&env.loop), 0);
	good(&cfg, HEAD SERVER, NULL, NULL, NULL);
	ck_assert_int_eq(routes_new(&env, &cfg, err, sizeof(err), &first), 0);
	write_file(HEAD SERVER DOCS "upstream-header-file = X=/nowhere\n", 0600);
	ck_assert_int_eq(gateway_config_again(&cfg, bad_cfg, err, sizeof(err)), 0);
	ck_assert_int_eq(routes_next(&env, first, bad_cfg, err, sizeof(err), &second), -EINVAL);
	ck_assert_msg(strstr(err, "[route docs] --upstream-header-file: header file /nowhere: "), "%s", err);
	ck_assert_uint_eq(first->list[0].backend->refs, 1);
	routes_unref(first);
	loop_free(env.loop);
	gateway_config_done(&cfg);
}
END_TEST

/* ---- headers ---- */

static const char *const names_refused[] = {
	"Host=/x", "host=/x", "Content-Length=/x", "Content-Type=/x", "content_encoding=/x", "Connection=/x", "TE=/x", "Transfer-Encoding=/x",
	"Upgrade=/x", "Origin=/x", "Expect=/x", "Proxy-Authorization=/x", "Mcp-Tunnel-Agent=/x", "mcp_tunnel_call=/x", "Mcp-Session-Id=/x",
	"MCP-Protocol-Version=/x", "Accept=/x", "accept-encoding=/x", "Mcp-Name=/x", "=/x", "A", "A=", "A b=/x", "A:=/x", ":path=/x", "A\tb=/x",
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=/x",
};

START_TEST(header_names)
{
	struct headers_config cfg = { 0 };
	const char *why;

	for (size_t i = 0; i < ARRAY_LEN(names_refused); i++)
		ck_assert_msg(headers_add(&cfg, names_refused[i], &why) == -EINVAL && *why, "%s", names_refused[i]);
	ck_assert_int_eq(headers_add(&cfg, "X-Api_Key=/x=y", &why), 0);
	ck_assert_str_eq(cfg.items[0].name, "X-Api_Key");
	ck_assert_str_eq(cfg.items[0].path, "/x=y");
	ck_assert_int_eq(headers_add(&cfg, "x_api-key=/z", &why), -EINVAL);
	for (size_t i = 1; i < HEADERS_MAX; i++) {
		char text[] = "Xn=/x";

		text[1] = (char)('0' + i);
		ck_assert_int_eq(headers_add(&cfg, text, &why), 0);
	}
	ck_assert_int_eq(headers_add(&cfg, "More=/x", &why), -EINVAL);
}
END_TEST

static void check_written(const struct headers *h, const char *expected)
{
	struct buf out;

	buf_init(&out, 16384);
	ck_assert_int_eq(headers_write(h, &out), 0);
	ck_assert_msg(span_is(buf_span(&out), expected), "%.*s", SPAN_FMT(buf_span(&out)));
	buf_done(&out);
}

START_TEST(header_values)
{
	static char longest[SECRET_FILE_MAX + 10];
	const char *const values[] = { "", "\n", "two\nlines\n", " x\n", "x \n", "x\r\n", "\x01\n", "\xc3\xa4\n", longest };
	struct headers_config cfg = { 0 };
	struct headers *h;
	const char *why;
	char text[100];

	memset(longest, 'x', sizeof(longest) - 1);
	write_file("Bearer first\n", 0600);
	snprintf(text, sizeof(text), "Authorization=%s", path);
	ck_assert_int_eq(headers_add(&cfg, text, &why), 0);
	ck_assert_int_eq(headers_new(&cfg, err, sizeof(err), &h), 0);
	check_written(h, "Authorization: Bearer first\r\n");
	ck_assert(headers_replace(h, SPAN("AUTHORIZATION")) && !headers_replace(h, SPAN("Authorization-")) && !headers_replace(h, SPAN("A")));
	ck_assert_int_eq(headers_poll(h, true, err, sizeof(err)), HEADERS_SAME);
	/* Whatever is wrong: the value before stays, and nothing tells what is in the file. */
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		write_file(values[i], 0600);
		ck_assert_int_eq(headers_poll(h, true, err, sizeof(err)), HEADERS_BAD);
		ck_assert_msg(strstr(err, path) && !strstr(err, "two") && !strstr(err, "xxx"), "%s", err);
		check_written(h, "Authorization: Bearer first\r\n");
	}
	write_file("Bearer second", 0604);
	ck_assert_int_eq(headers_poll(h, true, err, sizeof(err)), HEADERS_BAD);
	ck_assert_ptr_nonnull(strstr(err, "chmod 600"));
	/* Told once: the bad file is known. */
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_SAME);
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_SAME);
	write_file("Bearer second", 0600);
	/* Once it has stood still. */
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_SAME);
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_NEW);
	check_written(h, "Authorization: Bearer second\r\n");
	headers_free(h);
	unlink(path);
	ck_assert_int_eq(headers_new(&cfg, err, sizeof(err), &h), -ENOENT);
}
END_TEST

static void poll_until_new(struct headers *h)
{
	enum headers_result r = HEADERS_SAME;

	for (int i = 0; i < 30 && r == HEADERS_SAME; i++)
		r = headers_poll(h, false, err, sizeof(err));
	ck_assert_int_eq(r, HEADERS_NEW);
}

/* Nothing is wrong with the file: it is read as soon as it can be. */
START_TEST(header_without_a_descriptor)
{
	struct headers_config cfg = { 0 };
	struct headers *h;
	const char *why;
	char text[100];

	write_file("old", 0600);
	snprintf(text, sizeof(text), "A=%s", path);
	ck_assert_int_eq(headers_add(&cfg, text, &why), 0);
	ck_assert_int_eq(headers_new(&cfg, err, sizeof(err), &h), 0);
	write_file("newer", 0600);
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_SAME);
	no_files(true);
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_BAD);
	no_files(false);
	ck_assert_ptr_nonnull(strstr(err, "Too many open files"));
	check_written(h, "A: old\r\n");
	poll_until_new(h);
	check_written(h, "A: newer\r\n");
	headers_free(h);
}
END_TEST

/* What belongs together is not half new. */
START_TEST(header_values_change_together)
{
	char first[] = "/tmp/header-XXXXXX", a[100], b[100];
	struct headers_config cfg = { 0 };
	int fd = mkstemp(first);
	struct headers *h;
	const char *why;

	ck_assert_int_eq(write(fd, "one", 3), 3);
	write_file("two", 0600);
	snprintf(a, sizeof(a), "A=%s", first);
	ck_assert_int_eq(headers_add(&cfg, a, &why), 0);
	snprintf(b, sizeof(b), "B=%s", path);
	ck_assert_int_eq(headers_add(&cfg, b, &why), 0);
	ck_assert_int_eq(headers_new(&cfg, err, sizeof(err), &h), 0);
	ck_assert_int_eq(pwrite(fd, "ONE", 3, 0), 3);
	write_file("two\nlines\n", 0600);
	ck_assert_int_eq(headers_poll(h, true, err, sizeof(err)), HEADERS_BAD);
	check_written(h, "A: one\r\nB: two\r\n");
	write_file("TWO", 0600);
	poll_until_new(h);
	check_written(h, "A: ONE\r\nB: TWO\r\n");
	/* One is bad, and so none is read: told once, even if another has changed. */
	ck_assert_int_eq(pwrite(fd, "\nx\n", 3, 0), 3);
	write_file("3", 0600);
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_SAME);
	ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_BAD);
	for (int i = 0; i < 30; i++)
		ck_assert_int_eq(headers_poll(h, false, err, sizeof(err)), HEADERS_SAME);
	ck_assert_int_eq(pwrite(fd, "333", 3, 0), 3);
	poll_until_new(h);
	check_written(h, "A: 333\r\nB: 3\r\n");
	headers_free(h);
	close(fd);
	unlink(first);
	unlink(path);
}
END_TEST

#define ADD_ROWS(fn, rows) tcase_add_loop_test(tc, fn, 0, ARRAY_LEN(rows));

UNIT_MAIN("routes", tcase_add_checked_fixture(tc, NULL, teardown);
	  ADD(sections) ADD(flags_make_routes) ADD_ROWS(refused, bad) ADD(one_route_too_many) ADD_ROWS(compared, changes)
	  ADD(compared_with_more_than_fits) ADD(servers_are_counted) ADD(next_that_fails) ADD(header_names) ADD(header_values)
	  ADD(header_without_a_descriptor) ADD(header_values_change_together))
