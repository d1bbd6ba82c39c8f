/* Every allocation of what a program sets up, and of what it does beside the calls, fails once, and all from one on: nothing crashes or
 * leaks, whoever asked is told, and what was there before is as it was.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit_watch.h"
#include "daemon/token.h"
#include "daemon/worker.h"
#include "gateway/routes.h"
#include "relay/addresses.h"
#include "relay/config.h"
#include "relay/cors.h"
#include "relay/limits.h"
#include "relay/registry.h"
#include "tests/lib/loop_ms.h"
#include "tests/lib/oom.h"
#include "tests/lib/unit.h"

#define ORIGIN "https://app.example"
/* Argument vectors end with NULL. */
#define ARGS(...) ((char **)(void *)(const char *[]){ "program", __VA_ARGS__, NULL })

static char dir[] = "/tmp/test_oom.XXXXXX", path[64], state[64];
static char err[CONFIG_ERROR_MAX];

static void write_file(const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	ck_assert_int_eq(chmod(path, 0600), 0);
}

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/file", dir);
	snprintf(state, sizeof(state), "%s/state", dir);
}

static void teardown(void)
{
	static const char *const names[] = { "state/tunnels", "state/agents", "state/lock", "file" };
	char name[100];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(name, sizeof(name), "%s/%s", dir, names[i]);
		unlink(name);
	}
	rmdir(state);
	rmdir(dir);
}

/* ---- what is played: 0, or how it failed ---- */

/* For the first failure of what cannot go on after it. */
static bool failed(int *r, int now)
{
	if (now < 0 && *r == 0)
		*r = now;
	return *r < 0;
}

static int play_limits(void)
{
	static const struct limits_config cfg = { .agent_streams = 2 };
	struct limits_ticket tickets[3] = { { NULL } };
	static const char *const agents[] = { "a", "b", "a" };
	struct limits *l;
	uint64_t skipped;
	int r = OOM(limits_new(&cfg, &l));

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++) {
		uint32_t reason = OOM(limits_enter(l, SPAN("t"), agents[i], 1000, &tickets[i]));

		ck_assert(reason == TP_REASON_NONE || reason == TP_REASON_REFUSED);
		ck_assert_int_eq(reason == TP_REASON_NONE, tickets[i].limits != NULL);
		r = reason == TP_REASON_NONE ? r : -ENOMEM;
	}
	(void)OOM(limits_record(l, SPAN("t"), "c", 1000, &skipped));
	/* Who was refused has nothing open: two more of each are let in. */
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++)
		limits_leave(&tickets[i]);
	for (size_t i = 0; i < 2; i++)
		ck_assert_uint_eq(limits_enter(l, SPAN("t"), "a", 1000, &tickets[i]), TP_REASON_NONE);
	ck_assert_uint_eq(limits_enter(l, SPAN("t"), "a", 1000, &tickets[2]), TP_REASON_AGENT_STREAMS);
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++)
		limits_leave(&tickets[i]);
	limits_sweep(l, 1000 * 1000);
	ck_assert_uint_eq(limits_accounts(l), 0);
	limits_free(l);
	return r;
}

static int play_addresses(void)
{
	static const struct addresses_config limit = { 4, 2 };
	struct address_ticket tickets[4] = { { NULL } };
	struct sockaddr_in peer = { .sin_family = AF_INET };
	struct addresses *a;
	size_t n = 0;
	int r = OOM(addresses_new(&a));

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++) {
		uint32_t reason;

		peer.sin_addr.s_addr = htonl((uint32_t)(1 + i / 2));
		reason = OOM(addresses_enter(a, &limit, (struct sockaddr *)&peer, &tickets[i]));
		ck_assert(reason == TP_REASON_NONE || reason == TP_REASON_REFUSED);
		n += reason == TP_REASON_NONE;
		r = reason == TP_REASON_NONE ? r : -ENOMEM;
		ck_assert_uint_eq(addresses_connections(a), n);
	}
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++)
		addresses_leave(&tickets[i]);
	ck_assert_uint_eq(addresses_connections(a) + addresses_count(a), 0);
	addresses_free(a);
	return r;
}

static int play_cors(void)
{
	const struct http1_field fields[] = { { SPAN("Access-Control-Request-Headers"), SPAN("x-one, x-two") } };
	const struct http1_head h = { .fields = fields, .n_fields = ARRAY_LEN(fields) };
	struct buf out;
	int r = 0;

	buf_init(&out, 16384);
	failed(&r, OOM(cors_write(&out, true, ORIGIN)));
	failed(&r, OOM(cors_write_preflight(&out, &h, ORIGIN, true)));
	if (r == 0)
		ck_assert_ptr_nonnull(memmem(buf_bytes(&out), buf_len(&out), ", x-two\r\n", 9));
	buf_done(&out);
	return r;
}

/* ---- the registry ---- */

/* What is known beside the files: good token and key. */
static char token[TOKEN_TEXT_MAX + 1], key[AGENT_KEY_LEN + 1];

static struct registry *open_registry(void)
{
	struct registry *r;

	ck_assert_msg(registry_open(state, err, sizeof(err), &r) == 0, "%s", err);
	return r;
}

static void count_tunnel(void *user, const struct registry_tunnel *t)
{
	size_t *n = user;

	*n += 1 + 10 * t->n_tokens + 100 * t->n_agents;
}

static size_t counted(const struct registry *r)
{
	size_t n = 0;

	registry_each_tunnel(r, count_tunnel, &n);
	return n;
}

static void check_kept(const struct registry *r)
{
	ck_assert_str_eq(registry_check_token(r, span_of(token)), "kept");
	ck_assert_str_eq(registry_check_agent(r, SPAN("kept"), span_of(key)), "agent");
}

static void registry_fixture(void)
{
	struct registry *r = open_registry();
	char other[AGENT_KEY_LEN + 1], name[8];

	ck_assert_int_eq(registry_tunnel_add(r, "kept", token, err, sizeof(err)), 0);
	ck_assert_int_eq(registry_agent_add(r, "kept", "agent", key, err, sizeof(err)), 0);
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "b%d", i);
		ck_assert_int_eq(registry_agent_add(r, "kept", name, other, err, sizeof(err)), 0);
	}
	registry_free(r);
}

/* A relay: what it cannot read leaves it with what it has. */
static int play_registry(void)
{
	struct registry *r, *changer;
	char other[TOKEN_TEXT_MAX + 1];
	size_t before;
	int rc = OOM(registry_open(state, err, sizeof(err), &r));

	if (rc < 0) {
		ck_assert_ptr_nonnull(strstr(err, strerror(ENOMEM)) ? strstr(err, strerror(ENOMEM)) : strstr(err, "out of memory"));
		return rc;
	}
	before = counted(r);
	changer = open_registry();
	ck_assert_int_eq(registry_tunnel_add(changer, "new", other, err, sizeof(err)), 0);
	rc = OOM(registry_reload(r, err, sizeof(err)));
	check_kept(r);
	ck_assert(rc < 0 ? counted(r) == before : counted(r) == counted(changer));
	ck_assert_int_eq(registry_tunnel_remove(changer, "new", err, sizeof(err)), 0);
	registry_free(changer);
	registry_free(r);
	return rc;
}

/* mcp-tunnel-relay tunnel and agent: what did not work has changed nothing, in the files or in memory. */
static int play_changes(void)
{
	static const char *const what[] = { "tunnel add", "agent add", "rotate", "end old", "agent remove", "tunnel remove" };
	struct registry *r = open_registry(), *files;
	char text[TOKEN_TEXT_MAX + 1];
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(what); i++) {
		size_t before = counted(r);
		int now = 0;

		switch (i) {
		case 0:
			now = OOM(registry_tunnel_add(r, "x", text, err, sizeof(err)));
			break;
		case 1:
			now = OOM(registry_agent_add(r, "x", "y", text, err, sizeof(err)));
			break;
		case 2:
			now = OOM(registry_tunnel_rotate(r, "x", REGISTRY_OLD_STAYS, text, err, sizeof(err)));
			break;
		case 3:
			now = OOM(registry_tunnel_end_old(r, "x", err, sizeof(err)));
			break;
		case 4:
			now = OOM(registry_agent_remove(r, "x", "y", err, sizeof(err)));
			break;
		default:
			now = OOM(registry_tunnel_remove(r, "x", err, sizeof(err)));
		}
		files = open_registry();
		check_kept(files);
		if (now < 0)
			ck_assert_msg(counted(files) == before, "%s has failed and changed the files", what[i]);
		/* Where not even that could be read, nobody is known. */
		ck_assert_msg(counted(r) == counted(files) || (now < 0 && counted(r) == 0), "%s: memory and files differ", what[i]);
		ck_assert(counted(r) || !registry_check_agent(r, SPAN("kept"), span_of(key)));
		registry_free(files);
		if (failed(&rc, now))
			break;
	}
	registry_free(r);
	/* For the next one. */
	r = open_registry();
	(void)registry_tunnel_remove(r, "x", err, sizeof(err));
	registry_free(r);
	return rc;
}

/* ---- the gateway's configuration and routes ---- */

#define HEAD "[gateway]\ntoken-file = /t\ncontrol-plane = wss://a\ncontrol-plane = wss://b\nmcp-server-url = http://127.0.0.1:1/mcp\ndeny-tool = rm\n"
#define DOCS "[route docs]\nmcp-server-url = http://127.0.0.1:2/mcp\nallow-tool = a\nallow-tool = b\n"

static int play_gateway_config(void)
{
	static const struct gateway_config empty;
	char **argv = ARGS("--config", path, "--route=b=unix:/run/b:/b", "--deny-tool", "x");
	struct gateway_config cfg, again;
	struct config_changes changes;
	int r;

	write_file(HEAD DOCS);
	r = OOM(gateway_config_load(&cfg, 6, argv, err, sizeof(err)));
	if (r < 0) {
		ck_assert_ptr_nonnull(strstr(err, "out of memory"));
		ck_assert_ptr_eq(cfg.token_file, empty.token_file);
		ck_assert_uint_eq(cfg.routes.n + cfg.control_plane_urls.n, 0);
		return r;
	}
	ck_assert_uint_eq(cfg.routes.n, 2);
	r = OOM(gateway_config_again(&cfg, &again, err, sizeof(err)));
	if (r == 0) {
		OOM_VOID(gateway_config_compare(&cfg, &again, &changes));
		ck_assert_uint_eq(changes.n_live + changes.n_restart, 0);
		gateway_config_done(&again);
	}
	gateway_config_done(&cfg);
	return r;
}

static int play_relay_config(void)
{
	char **argv = ARGS("--listen", "http://127.0.0.1:1", "--state-dir", "/s", "--cors-origin", ORIGIN, "--cors-origin", "https://b.example");
	struct relay_config cfg;
	int r = OOM(relay_config_load(&cfg, 9, argv, err, sizeof(err)));

	if (r == 0)
		relay_config_done(&cfg);
	else
		ck_assert_ptr_nonnull(strstr(err, "out of memory"));
	return r;
}

static int play_help(void)
{
	char **argv = ARGS("--help");
	struct gateway_config cfg;
	int out, null, r;

	fflush(stdout);
	out = dup(1);
	ck_assert_ptr_nonnull(freopen("/dev/null", "w", stdout));
	r = OOM(gateway_config_load(&cfg, 2, argv, err, sizeof(err)));
	fflush(stdout);
	null = dup2(out, 1);
	close(out);
	ck_assert_int_eq(null, 1);
	ck_assert_int_eq(r, CONFIG_EXIT);
	return 0;
}

static int play_routes(void)
{
	struct upstream_pool pool = { 0 };
	struct audit_calls_shared audit = { NULL };
	struct routes_config env = { .pool = &pool, .audit = &audit };
	struct gateway_config cfg, *after = calloc(1, sizeof(*after));
	char **argv = ARGS("--config", path), text[400], value[64];
	struct routes *first, *second;
	int r;

	snprintf(value, sizeof(value), "%s/value", dir);
	ck_assert_int_eq(rename(path, value), 0);
	snprintf(text, sizeof(text), HEAD "upstream-header-file = A=%s\n", value);
	write_file(text);
	ck_assert_int_eq(gateway_config_load(&cfg, 3, argv, err, sizeof(err)), 0);
	strcat(text, DOCS);
	write_file(text);
	ck_assert_int_eq(gateway_config_again(&cfg, after, err, sizeof(err)), 0);
	ck_assert_int_eq(loop_new(&env.loop), 0);
	r = OOM(routes_new(&env, &cfg, err, sizeof(err), &first));
	if (r == 0) {
		r = OOM(routes_next(&env, first, after, err, sizeof(err), &second));
		after = NULL;
		ck_assert_uint_eq(first->list[0].backend->refs, r == 0 ? 2 : 1);
		if (r == 0)
			routes_unref(second);
		routes_unref(first);
	}
	ck_assert(r == 0 || (r == -ENOMEM && strstr(err, "out of memory")));
	if (after)
		gateway_config_done(after);
	free(after);
	loop_free(env.loop);
	gateway_config_done(&cfg);
	ck_assert_int_eq(rename(value, path), 0);
	return r;
}

static int play_headers(void)
{
	struct headers_config cfg = { 0 };
	struct headers *h;
	struct buf out;
	const char *why;
	char text[2][80];
	int r;

	write_file("old");
	for (int i = 0; i < 2; i++) {
		snprintf(text[i], sizeof(text[i]), "%c=%s", 'A' + i, path);
		ck_assert_int_eq(headers_add(&cfg, text[i], &why), 0);
	}
	buf_init(&out, 1000);
	r = OOM(headers_new(&cfg, err, sizeof(err), &h));
	if (r < 0)
		return r;
	write_file("new");
	r = OOM(headers_poll(h, true, err, sizeof(err))) == HEADERS_NEW ? 0 : -ENOMEM;
	ck_assert_int_eq(headers_write(h, &out), 0);
	ck_assert(span_is(buf_span(&out), r ? "A: old\r\nB: old\r\n" : "A: new\r\nB: new\r\n"));
	buf_done(&out);
	buf_init(&out, 1000);
	failed(&r, OOM(headers_write(h, &out)));
	buf_done(&out);
	headers_free(h);
	return r;
}

/* ---- the audit log's ---- */

static void on_result(void *user, const struct audit_watch_result *result)
{
}

static int play_audit_watch(void)
{
	const struct audit_watch_config cfg = { .chain_id = "00112233445566778899aabbccddeeff", .directory = dir, .on_result = on_result };
	struct audit_watch *w;
	struct worker *worker;
	struct loop *l;
	int r;

	ck_assert_int_eq(loop_new(&l), 0);
	ck_assert_int_eq(worker_new(l, 1, &worker), 0);
	r = OOM(audit_watch_new(l, worker, &cfg, &w));
	if (r == 0) {
		OOM_VOID(audit_watch_told(w, 0));
		audit_watch_free(w);
	}
	worker_free(worker);
	loop_free(l);
	return r;
}

/* ---- */

static const struct scene {
	const char *name;
	int (*play)(void);
	unsigned allocations; /* at least */
} scenes[] = {
	{ "limits", play_limits, 4 },
	{ "addresses", play_addresses, 4 },
	{ "cors", play_cors, 1 },
	{ "registry", play_registry, 8 },
	{ "changes of the registry", play_changes, 20 },
	{ "configuration of a gateway", play_gateway_config, 20 },
	{ "configuration of a relay", play_relay_config, 8 },
	{ "help", play_help, 1 },
	{ "routes", play_routes, 8 },
	{ "headers", play_headers, 4 },
	{ "audit watch", play_audit_watch, 2 },
};

START_TEST(each_allocation_fails)
{
	const struct scene *scene = &scenes[_i / 2];

	registry_fixture();
	write_file("value");
	oom_each(scene->name, scene->play, _i % 2, scene->allocations, err);
}
END_TEST

UNIT_MAIN("oom", tcase_add_checked_fixture(tc, setup, teardown);
	  tcase_add_loop_test(tc, each_allocation_fails, 0, 2 * (int)ARRAY_LEN(scenes));)
