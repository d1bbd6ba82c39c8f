/* Every allocation of what a call and a reload need fails once: nothing crashes, nothing leaks, and either the
 * result is -ENOMEM or all is as without the failure. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/filter.h"
#include "gateway/routes.h"
#include "tests/lib/loop_ms.h"
#include "tests/lib/oom.h"
#include "tests/lib/unit.h"

static char err[CONFIG_ERROR_MAX + 512];
static char conf[] = "/tmp/test_oom.XXXXXX", header[] = "/tmp/test_oom.XXXXXX";

static void setup(void)
{
	close(mkstemp(conf));
	close(mkstemp(header));
}

static void teardown(void)
{
	unlink(conf);
	unlink(header);
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	chmod(path, 0600);
}

static void each(const char *name, int (*scenario)(void), unsigned long least)
{
	ck_assert_int_eq(scenario(), 0);
	oom_each(name, scenario, false, least + 1, err);
}

/* ---- messages ---- */

static int scan(void)
{
	static const char body[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"x\",\"arguments\":{}}}";
	struct mcp_scan *s;
	char key[16];
	int r = OOM(mcp_scan_new(&s));

	if (r < 0)
		return r;
	r = OOM(mcp_scan_feed(s, "[", 1));
	for (int i = 0; i < 9 && r == 0; i++) {
		r = OOM(mcp_scan_feed(s, body, sizeof(body) - 1));
		if (r == 0)
			r = OOM(mcp_scan_feed(s, ",", 1));
	}
	/* Keys beyond those that are there place for. */
	if (r == 0)
		r = OOM(mcp_scan_feed(s, "{", 1));
	for (int i = 0; i < 200 && r == 0; i++) {
		snprintf(key, sizeof(key), "\"%d\":1,", i);
		r = OOM(mcp_scan_feed(s, key, strlen(key)));
	}
	mcp_scan_free(s);
	return r;
}

START_TEST(a_message)
{
	each("scan", scan, 6);
}
END_TEST

static int mirror(void)
{
	static const struct tp_field fields[] = {
		{ SPAN_INIT("Mcp-Method"), SPAN_INIT("tools/call") },
		{ SPAN_INIT("Mcp-Name"), SPAN_INIT("=?base64?eHh4eHh4?=") },
		{ SPAN_INIT("MCP-Protocol-Version"), SPAN_INIT("2026-07-28") },
	};
	struct policy_mirror m;
	int r = OOM(policy_mirror_init(&m, fields, ARRAY_LEN(fields)));

	policy_mirror_done(&m);
	return r;
}

START_TEST(mirrored_headers)
{
	each("mirror", mirror, 5);
}
END_TEST

/* ---- answers ---- */

static int filter(void)
{
	static const struct http1_head head = { .status = 200, .body = HTTP1_BODY_CHUNKED };
	static const char body[] = "data: {\"result\":{\"tools\":[{\"x\":[1],\"name\":\"a\"},\nid: 1\ndata: {\"x\":2,\"name\":\"no\"},{\"name\":\"b\"}]}}\n\n";
	struct rules rules = { 0 };
	const struct policy_config cfg = { .rules = &rules };
	struct filter_totals totals = { 0 };
	struct filter *f = NULL;
	const char *why = NULL;
	int r;

	ck_assert_int_eq(rules_add(&rules, RULES_TOOL, RULES_DENY, "no"), 0);
	r = OOM(filter_new(&cfg, &head, &totals, &why, &f));
	for (size_t i = 0; i < sizeof(body) - 1 && r == 0; i++) {
		r = OOM(filter_feed(f, (const uint8_t *)body + i, 1, &why));
		if (r == 0)
			filter_taken(f, filter_ready(f).len);
	}
	if (r == 0)
		r = OOM(filter_finish(f, &why));
	filter_free(f);
	ck_assert(!why && totals.held_bytes == 0);
	return r;
}

START_TEST(a_filtered_answer)
{
	each("filter", filter, 6);
}
END_TEST

/* ---- headers and routes ---- */

static int headers(void)
{
	struct headers_config cfg = { 0 };
	struct headers *h;
	char text[sizeof(header) + 16];
	const char *why;
	struct buf b;
	int r;

	buf_init(&b, 1024);
	write_file(header, "Bearer one\n");
	snprintf(text, sizeof(text), "Authorization=%s", header);
	ck_assert_int_eq(headers_add(&cfg, text, &why), 0);
	r = OOM(headers_new(&cfg, err, sizeof(err), &h));
	if (r < 0)
		return r;
	write_file(header, "Bearer two\n");
	ck_assert_int_eq(headers_poll(h, true, err, sizeof(err)), HEADERS_NEW);
	r = OOM(headers_write(h, &b));
	buf_done(&b);
	headers_free(h);
	return r;
}

START_TEST(headers_out_of_files)
{
	each("headers", headers, 3);
}
END_TEST

#define HEAD "[gateway]\ntoken-file = /t\ncontrol-plane = wss://a\nmcp-server-url = http://127.0.0.1:1/mcp\n"

static int load(struct gateway_config *cfg)
{
	/* It is gone by again. */
	static char program[] = "program", option[] = "--config", *argv[] = { program, option, conf, NULL };

	return gateway_config_load(cfg, 3, argv, err, sizeof(err));
}

/* Both ways, as only one of the two frees the configuration. */
static int reload(void)
{
	static char text[512];
	struct upstream_pool pool = { 0 };
	struct audit_calls_shared audit = { NULL };
	struct routes_config env = { .pool = &pool, .audit = &audit };
	struct routes *first = NULL, *second = NULL;
	struct gateway_config cfg = { 0 }, *fresh = calloc(1, sizeof(*fresh));
	int r;

	write_file(header, "Bearer one\n");
	write_file(conf, HEAD);
	ck_assert_msg(load(&cfg) == 0, "%s", err);
	ck_assert_int_eq(loop_new(&env.loop), 0);
	snprintf(text, sizeof(text), HEAD "deny-tool = x\n[route docs]\nmcp-server-url = http://127.0.0.1:2/mcp\nupstream-header-file = X=%s\n", header);
	write_file(conf, text);
	ck_assert_int_eq(gateway_config_again(&cfg, fresh, err, sizeof(err)), 0);
	r = OOM(routes_new(&env, &cfg, err, sizeof(err), &first));
	if (r == 0) {
		r = OOM(routes_next(&env, first, fresh, err, sizeof(err), &second));
	} else {
		gateway_config_done(fresh);
		free(fresh);
	}
	ck_assert(r == 0 || strstr(err, "out of memory"));
	routes_unref(first);
	routes_unref(second);
	loop_ms(env.loop, 1);
	loop_free(env.loop);
	gateway_config_done(&cfg);
	return r;
}

START_TEST(a_reload)
{
	each("reload", reload, 15);
}
END_TEST

static int again(void)
{
	struct gateway_config cfg = { 0 }, fresh = { 0 };
	int r;

	ck_assert_msg(load(&cfg) == 0, "%s", err);
	r = OOM(gateway_config_again(&cfg, &fresh, err, sizeof(err)));
	if (r == 0)
		gateway_config_done(&fresh);
	gateway_config_done(&cfg);
	return r;
}

START_TEST(a_configuration)
{
	write_file(conf, HEAD "deny-tool = x\nallow-tool = y\nupstream-allow = 127.0.0.0/8\n[route docs]\nmcp-server-url = http://127.0.0.1:2/mcp\ndeny-tool = z\n");
	each("again", again, 5);
}
END_TEST

UNIT_MAIN("gateway_oom", tcase_add_checked_fixture(tc, setup, teardown);
	  ADD(a_message) ADD(mirrored_headers) ADD(a_filtered_answer) ADD(headers_out_of_files) ADD(a_reload) ADD(a_configuration))
