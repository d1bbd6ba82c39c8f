#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/encode.h"
#include "daemon/digest.h"
#include "relay/admin.h"
#include "relay/registry.h"
#include "tests/lib/unit.h"

#define HASH "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define WHEN "2026-11-20T20:00:00Z"
#define TUNNELS "mcp-tunnel-relay tunnels 1\n"
#define AGENTS "mcp-tunnel-relay agents 1\n"

static char base[] = "/tmp/test_registry.XXXXXX";
static char dir[100];
static char err[512];

static char *file(const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void setup(void)
{
	strcpy(base + strlen(base) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(base));
	snprintf(dir, sizeof(dir), "%s/state", base);
}

static void teardown(void)
{
	static const char *const names[] = { "tunnels", "agents", "lock", "tunnels.new", "agents.new" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unlink(file(names[i]));
	rmdir(dir);
	rmdir(base);
}

static void write_file(const char *name, const char *text)
{
	int fd = open(file(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static const char *read_text(const char *path)
{
	static char text[65536];
	FILE *f = fopen(path, "r");

	ck_assert_ptr_nonnull(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	return text;
}

static struct registry *open_registry(void)
{
	struct registry *r = NULL;

	ck_assert_msg(registry_open(dir, err, sizeof(err), &r) == 0, "%s", err);
	return r;
}

static void good(int r)
{
	ck_assert_msg(r == 0, "%s", err);
}

START_TEST(made_private)
{
	struct registry *r;
	char token[TOKEN_TEXT_MAX + 1];
	struct stat st;

	setup();
	umask(0);
	r = open_registry();
	good(registry_tunnel_add(r, "acme", token, err, sizeof(err)));
	ck_assert_int_eq(stat(dir, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0700);
	ck_assert_int_eq(stat(file("tunnels"), &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_ptr_null(strstr(read_text(file("tunnels")), token + strlen("mtt_acme_")));
	registry_free(r);

	r = NULL;
	chmod(file("tunnels"), 0640);
	ck_assert_int_eq(registry_open(dir, err, sizeof(err), &r), -EACCES);
	ck_assert_msg(strstr(err, "chmod 600") && strstr(err, "/tunnels"), "%s", err);
	chmod(file("tunnels"), 0600);
	chmod(dir, 0755);
	ck_assert_int_eq(registry_open(dir, err, sizeof(err), &r), -EACCES);
	ck_assert_ptr_nonnull(strstr(err, "chmod 700"));
	ck_assert_ptr_null(r);
	chmod(dir, 0700);
	teardown();
}
END_TEST

START_TEST(tokens)
{
	char a[TOKEN_TEXT_MAX + 1], b[TOKEN_TEXT_MAX + 1], c[TOKEN_TEXT_MAX + 1], other[TOKEN_TEXT_MAX + 1];
	struct registry *r;

	setup();
	r = open_registry();
	good(registry_tunnel_add(r, "acme", a, err, sizeof(err)));
	good(registry_tunnel_add(r, "zeta", other, err, sizeof(err)));
	ck_assert_str_eq(registry_check_token(r, span_of(a)), "acme");
	ck_assert_str_eq(registry_check_token(r, span_of(other)), "zeta");
	ck_assert_int_eq(registry_tunnel_add(r, "acme", b, err, sizeof(err)), -EEXIST);
	ck_assert_int_eq(registry_tunnel_add(r, "Acme", b, err, sizeof(err)), -EINVAL);
	ck_assert_int_eq(registry_tunnel_rotate(r, "none", REGISTRY_OLD_STAYS, b, err, sizeof(err)), -ENOENT);

	/* A wrong secret, an unknown tunnel, no token at all. */
	token_make("acme", b);
	ck_assert_ptr_null(registry_check_token(r, span_of(b)));
	token_make("nobody", b);
	ck_assert_ptr_null(registry_check_token(r, span_of(b)));
	ck_assert_ptr_null(registry_check_token(r, SPAN("mtt_acme_")));
	ck_assert_ptr_null(registry_check_token(r, (struct span){ NULL, 0 }));
	/* Another tunnel's secret under this name. */
	snprintf(b, sizeof(b), "mtt_acme_%s", other + strlen("mtt_zeta_"));
	ck_assert_ptr_null(registry_check_token(r, span_of(b)));

	good(registry_tunnel_rotate(r, "acme", REGISTRY_OLD_STAYS, b, err, sizeof(err)));
	ck_assert_str_eq(registry_check_token(r, span_of(a)), "acme");
	ck_assert_str_eq(registry_check_token(r, span_of(b)), "acme");
	good(registry_tunnel_rotate(r, "acme", REGISTRY_OLD_STAYS, c, err, sizeof(err)));
	ck_assert_ptr_null(registry_check_token(r, span_of(a)));
	ck_assert_str_eq(registry_check_token(r, span_of(b)), "acme");
	ck_assert_str_eq(registry_check_token(r, span_of(c)), "acme");

	/* The old one ends alone. */
	good(registry_tunnel_end_old(r, "acme", err, sizeof(err)));
	ck_assert_ptr_null(registry_check_token(r, span_of(b)));
	ck_assert_str_eq(registry_check_token(r, span_of(c)), "acme");
	ck_assert_int_eq(registry_tunnel_end_old(r, "acme", err, sizeof(err)), -ENOENT);
	ck_assert_msg(strstr(err, "no old token"), "%s", err);
	ck_assert_int_eq(registry_tunnel_end_old(r, "none", err, sizeof(err)), -ENOENT);
	good(registry_tunnel_rotate(r, "acme", 0, b, err, sizeof(err)));
	ck_assert_ptr_null(registry_check_token(r, span_of(c)));
	ck_assert_str_eq(registry_check_token(r, span_of(b)), "acme");

	good(registry_tunnel_remove(r, "acme", err, sizeof(err)));
	ck_assert_ptr_null(registry_check_token(r, span_of(b)));
	ck_assert_str_eq(registry_check_token(r, span_of(other)), "zeta");
	ck_assert_int_eq(registry_tunnel_remove(r, "acme", err, sizeof(err)), -ENOENT);
	registry_free(r);
	teardown();
}
END_TEST

static enum registry_token token_now(const struct registry *r, const char *token)
{
	uint8_t hash[SHA256_LEN];

	ck_assert_int_eq(digest_sha256(token, strlen(token), hash), 0);
	return registry_token_now(r, "acme", hash);
}

static void get_tunnel(void *user, const struct registry_tunnel *t)
{
	*(struct registry_tunnel *)user = *t;
}

/* --old-for: the end is in the file, every reader keeps to it, and the next writer takes the hash out. */
START_TEST(an_old_token_ends_by_itself)
{
	char a[TOKEN_TEXT_MAX + 1], b[TOKEN_TEXT_MAX + 1], zeta[TOKEN_TEXT_MAX + 1], end[REGISTRY_TIME_LEN + 1], text[4096];
	uint64_t now = (uint64_t)time(NULL);
	struct registry_tunnel t;
	struct registry *r, *other;

	setup();
	r = open_registry();
	good(registry_tunnel_add(r, "acme", a, err, sizeof(err)));
	ck_assert_int_eq(token_now(r, a), REGISTRY_TOKEN_NEWEST);
	good(registry_tunnel_rotate(r, "acme", 3600, b, err, sizeof(err)));
	other = open_registry();
	registry_each_tunnel(other, get_tunnel, &t);
	ck_assert_uint_eq(t.n_tokens, 2);
	ck_assert(t.old_until_s >= now + 3600 && t.old_until_s <= now + 3605);
	ck_assert_int_eq(token_now(other, a), REGISTRY_TOKEN_OLD);
	ck_assert_int_eq(token_now(other, b), REGISTRY_TOKEN_NEWEST);

	ck_assert_uint_eq(registry_expire(other, t.old_until_s - 1), 0);
	ck_assert_str_eq(registry_check_token(other, span_of(a)), "acme");
	ck_assert_uint_eq(registry_expire(other, t.old_until_s), 1);
	ck_assert_ptr_null(registry_check_token(other, span_of(a)));
	ck_assert_str_eq(registry_check_token(other, span_of(b)), "acme");
	ck_assert_int_eq(token_now(other, a), REGISTRY_TOKEN_ENDED);
	ck_assert_uint_eq(registry_expire(other, t.old_until_s), 0);

	/* A file whose time is over. */
	registry_time_print(t.old_until_s, end);
	snprintf(text, sizeof(text), "%s", read_text(file("tunnels")));
	ck_assert_ptr_nonnull(strstr(text, end));
	memcpy(strstr(text, end), "2026-01-01T00:00:00Z", REGISTRY_TIME_LEN);
	write_file("tunnels", text);
	good(registry_reload(r, err, sizeof(err)));
	ck_assert_ptr_null(registry_check_token(r, span_of(a)));
	ck_assert_str_eq(registry_check_token(r, span_of(b)), "acme");
	ck_assert_ptr_nonnull(strstr(read_text(file("tunnels")), "2026-01-01"));
	good(registry_tunnel_add(r, "zeta", zeta, err, sizeof(err)));
	ck_assert_ptr_null(strstr(read_text(file("tunnels")), "2026-01-01"));
	registry_free(r);
	registry_free(other);
	teardown();
}
END_TEST

START_TEST(keys_that_ended)
{
	char key[AGENT_KEY_LEN + 1], again[AGENT_KEY_LEN + 1], token[TOKEN_TEXT_MAX + 1];
	uint8_t hash[SHA256_LEN];
	struct registry *r;

	setup();
	r = open_registry();
	good(registry_tunnel_add(r, "a", token, err, sizeof(err)));
	good(registry_tunnel_add(r, "b", token, err, sizeof(err)));
	good(registry_agent_add(r, "a", "alice", key, err, sizeof(err)));
	ck_assert_int_eq(digest_sha256(key, strlen(key), hash), 0);
	ck_assert(registry_key_is_good(r, SPAN("a"), hash));
	ck_assert(!registry_key_is_good(r, SPAN("b"), hash));
	ck_assert(!registry_key_is_good(r, SPAN("c"), hash));
	/* The same name with another key is another agent. */
	good(registry_agent_remove(r, "a", "alice", err, sizeof(err)));
	good(registry_agent_add(r, "a", "alice", again, err, sizeof(err)));
	ck_assert(!registry_key_is_good(r, SPAN("a"), hash));
	registry_free(r);
	teardown();
}
END_TEST

START_TEST(agents)
{
	char key[AGENT_KEY_LEN + 1], bob[AGENT_KEY_LEN + 1], elsewhere[AGENT_KEY_LEN + 1], token[TOKEN_TEXT_MAX + 1];
	struct registry *r, *again;

	setup();
	r = open_registry();
	good(registry_tunnel_add(r, "b", token, err, sizeof(err)));
	good(registry_tunnel_add(r, "a", token, err, sizeof(err)));
	ck_assert_int_eq(registry_agent_add(r, "none", "alice", key, err, sizeof(err)), -ENOENT);
	ck_assert_int_eq(registry_agent_add(r, "a", "al ice", key, err, sizeof(err)), -EINVAL);
	good(registry_agent_add(r, "a", "alice@example.com", key, err, sizeof(err)));
	good(registry_agent_add(r, "a", "Bob_1", bob, err, sizeof(err)));
	good(registry_agent_add(r, "b", "alice@example.com", elsewhere, err, sizeof(err)));
	ck_assert_int_eq(registry_agent_add(r, "a", "Bob_1", elsewhere, err, sizeof(err)), -EEXIST);

	again = open_registry();
	for (int i = 0; i < 2; i++, r = again) {
		ck_assert_str_eq(registry_check_agent(r, SPAN("a"), span_of(key)), "alice@example.com");
		ck_assert_str_eq(registry_check_agent(r, SPAN("a"), span_of(bob)), "Bob_1");
		ck_assert_str_eq(registry_check_agent(r, SPAN("b"), span_of(elsewhere)), "alice@example.com");
		ck_assert_ptr_null(registry_check_agent(r, SPAN("b"), span_of(key)));
		ck_assert_ptr_null(registry_check_agent(r, SPAN("c"), span_of(key)));
		ck_assert_ptr_null(registry_check_agent(r, (struct span){ NULL, 0 }, span_of(key)));
		ck_assert_ptr_null(registry_check_agent(r, SPAN("a"), (struct span){ NULL, 0 }));
		ck_assert_ptr_null(registry_check_agent(r, SPAN("a"), span_of(token)));
		ck_assert(registry_has_tunnel(r, SPAN("a")) && !registry_has_tunnel(r, SPAN("aa")));
		if (i == 1)
			break;
		registry_free(r);
	}
	good(registry_agent_remove(r, "a", "Bob_1", err, sizeof(err)));
	ck_assert_ptr_null(registry_check_agent(r, SPAN("a"), span_of(bob)));
	ck_assert_int_eq(registry_agent_remove(r, "a", "Bob_1", err, sizeof(err)), -ENOENT);
	good(registry_tunnel_remove(r, "a", err, sizeof(err)));
	ck_assert_ptr_null(strstr(read_text(file("agents")), "\na "));
	ck_assert_str_eq(registry_check_agent(r, SPAN("b"), span_of(elsewhere)), "alice@example.com");
	registry_free(r);
	teardown();
}
END_TEST

START_TEST(reload)
{
	char token[TOKEN_TEXT_MAX + 1], second[TOKEN_TEXT_MAX + 1];
	struct registry *relay, *admin;

	setup();
	relay = open_registry();
	admin = open_registry();
	good(registry_tunnel_add(admin, "acme", token, err, sizeof(err)));
	ck_assert_ptr_null(registry_check_token(relay, span_of(token)));
	good(registry_reload(relay, err, sizeof(err)));
	ck_assert_str_eq(registry_check_token(relay, span_of(token)), "acme");
	/* Writers read again: what the other one added stays. */
	good(registry_tunnel_add(relay, "beta", second, err, sizeof(err)));
	good(registry_tunnel_remove(admin, "beta", err, sizeof(err)));
	ck_assert_str_eq(registry_check_token(admin, span_of(token)), "acme");

	write_file("tunnels", TUNNELS "acme nonsense\n");
	ck_assert_int_eq(registry_reload(relay, err, sizeof(err)), -EINVAL);
	ck_assert_str_eq(registry_check_token(relay, span_of(token)), "acme");
	/* Nor does a writer overwrite what it cannot read. */
	ck_assert_int_eq(registry_tunnel_add(relay, "gamma", second, err, sizeof(err)), -EINVAL);
	ck_assert_str_eq(read_text(file("tunnels")), TUNNELS "acme nonsense\n");
	registry_free(relay);
	registry_free(admin);
	teardown();
}
END_TEST

START_TEST(damaged)
{
	static const struct {
		const char *tunnels, *agents, *where;
	} t[] = {
	    {"", NULL, "tunnels:1: the file is empty"},
	    {"mcp-tunnel-relay tunnels 2\n", NULL, "tunnels:1: the first line"},
	    {TUNNELS "\n", NULL, "tunnels:2: its first field"},
	    {TUNNELS "a " WHEN "\n", NULL, "tunnels:2: it does not have one or two"},
	    {TUNNELS "a " WHEN " " HASH, NULL, "tunnels:2: the line is cut short"},
	    {TUNNELS "a " WHEN " " HASH "0\n", NULL, "tunnels:2: a hash is not"},
	    {TUNNELS "a " WHEN " " HASH " \n", NULL, "tunnels:2: a hash is not"},
	    {TUNNELS "a " WHEN " " HASH " " HASH " " HASH "\n", NULL, "tunnels:2: what follows two hashes is not a time"},
	    {TUNNELS "a " WHEN " " HASH " " HASH " 2026-02-30T20:00:00Z\n", NULL, "tunnels:2: what follows two hashes"},
	    {TUNNELS "a " WHEN " " HASH " " HASH " " WHEN " \n", NULL, "tunnels:2: what follows two hashes"},
	    {TUNNELS "a " WHEN " " HASH " " WHEN "\n", NULL, "tunnels:2: a hash is not"},
	    {TUNNELS "a 2026-11-20 " HASH "\n", NULL, "tunnels:2: its second field"},
	    {TUNNELS "a  " WHEN " " HASH "\n", NULL, "tunnels:2: its second field"},
	    {TUNNELS "b " WHEN " " HASH "\nA " WHEN " " HASH "\n", NULL, "tunnels:3: its first field"},
	    {TUNNELS "b " WHEN " " HASH "\na " WHEN " " HASH "\nb " WHEN " " HASH "\n", NULL,
	     "tunnels:4: this tunnel is"},
	    {TUNNELS "a " WHEN " " HASH "\n", AGENTS "b x " WHEN " " HASH "\n", "agents:2: its tunnel"},
	    {TUNNELS "a " WHEN " " HASH "\n", AGENTS "a .x " WHEN " " HASH "\n", "agents:2: its second field"},
	    {TUNNELS "a " WHEN " " HASH "\n", AGENTS "a x " WHEN "\n", "agents:2: its hash"},
	    {TUNNELS "a " WHEN " " HASH "\n",
	     AGENTS "a x " WHEN " " HASH "\na y " WHEN " " HASH "\na x " WHEN " " HASH "\n", "agents:4: this agent is"},
	    {TUNNELS, TUNNELS, "agents:1: the first line"},
	};
	struct registry *r = NULL;

	setup();
	mkdir(dir, 0700);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		write_file("tunnels", t[i].tunnels);
		unlink(file("agents"));
		if (t[i].agents)
			write_file("agents", t[i].agents);
		ck_assert_msg(registry_open(dir, err, sizeof(err), &r) == -EINVAL, "%s", t[i].where);
		ck_assert_msg(strstr(err, t[i].where) && strncmp(err, dir, strlen(dir)) == 0, "%s", err);
	}
	teardown();
}
END_TEST

START_TEST(a_held_lock_ends)
{
	struct registry *r, *other = NULL;
	int fd;

	setup();
	r = open_registry();
	fd = open(file("lock"), O_RDWR);
	ck_assert_int_eq(flock(fd, LOCK_EX), 0);
	ck_assert_int_eq(registry_open(dir, err, sizeof(err), &other), -EWOULDBLOCK);
	ck_assert_msg(strstr(err, "lock"), "%s", err);
	flock(fd, LOCK_SH);
	good(registry_reload(r, err, sizeof(err)));
	close(fd);
	registry_free(r);
	teardown();
}
END_TEST

START_TEST(many)
{
	static char text[8 * 1024 * 1024];
	char hex[65], token[TOKEN_TEXT_MAX + 1], keep[TOKEN_TEXT_MAX + 1] = "";
	uint8_t hash[SHA256_LEN];
	struct registry *r;
	size_t n = 0;

	setup();
	mkdir(dir, 0700);
	n += (size_t)snprintf(text, sizeof(text), TUNNELS);
	for (int i = 0; i < 20000; i++) {
		char id[20];

		snprintf(id, sizeof(id), "t%d", i);
		token_make(id, token);
		digest_sha256(token, strlen(token), hash);
		hex_encode(hash, sizeof(hash), hex);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s " WHEN " %s\n", id, hex);
		if (i == 12345)
			strcpy(keep, token);
	}
	write_file("tunnels", text);
	r = open_registry();
	ck_assert_str_eq(registry_check_token(r, span_of(keep)), "t12345");
	for (int i = 0; i < 20000; i++) {
		snprintf(token, sizeof(token), "t%d", i);
		ck_assert(registry_has_tunnel(r, span_of(token)));
	}
	registry_free(r);
	teardown();
}
END_TEST

/* --- the commands --- */

struct outcome {
	int status;
	char out[4096];
	char err[4096];
};

/* Runs one command in a child, with its output in files. */
static void run(struct outcome *o, const char *const *args)
{
	char out_path[120], err_path[120];
	int argc = 0, status;
	pid_t pid;

	snprintf(out_path, sizeof(out_path), "%s/out", base);
	snprintf(err_path, sizeof(err_path), "%s/err", base);
	while (args[argc])
		argc++;
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		if (!freopen(out_path, "w", stdout) || !freopen(err_path, "w", stderr))
			_exit(99);
		status = admin_main(argc, (char **)(void *)args);
		fflush(stdout);
		fflush(stderr);
		_exit(status);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	o->status = WEXITSTATUS(status);
	snprintf(o->out, sizeof(o->out), "%s", read_text(out_path));
	snprintf(o->err, sizeof(o->err), "%s", read_text(err_path));
	unlink(out_path);
	unlink(err_path);
}
#define RUN(o, ...) run(o, (const char *[]){ "mcp-tunnel-relay", __VA_ARGS__, NULL })

START_TEST(commands)
{
	struct registry *r;
	struct outcome o;

	setup();
	RUN(&o, "tunnel", "add", "acme", "--state-dir", dir);
	ck_assert_msg(o.status == 0, "%s", o.err);
	ck_assert_int_eq(o.out[strlen(o.out) - 1], '\n');
	o.out[strlen(o.out) - 1] = '\0';
	ck_assert_msg(strstr(o.err, "chmod 600") && strstr(o.err, "systemctl reload mcp-tunnel-relay"), "%s", o.err);
	ck_assert_ptr_null(strstr(o.err, o.out));
	r = open_registry();
	ck_assert_str_eq(registry_check_token(r, span_of(o.out)), "acme");

	RUN(&o, "tunnel", "rotate", "--state-dir", dir, "acme");
	ck_assert_int_eq(o.status, 0);
	RUN(&o, "agent", "add", "alice", "--tunnel=acme", "--state-dir", dir);
	ck_assert_int_eq(o.status, 0);
	o.out[strlen(o.out) - 1] = '\0';
	good(registry_reload(r, err, sizeof(err)));
	ck_assert_str_eq(registry_check_agent(r, SPAN("acme"), span_of(o.out)), "alice");
	RUN(&o, "tunnel", "list", "--state-dir", dir);
	ck_assert_msg(strncmp(o.out, "acme\t20", 7) == 0 && strstr(o.out, "\ttokens=2\tagents=1\told-until=next-rotation\n"), "%s",
		      o.out);
	RUN(&o, "tunnel", "rotate", "acme", "--end-old", "--state-dir", dir);
	ck_assert_msg(o.status == 0 && !*o.out && strstr(o.err, "has ended"), "%s", o.err);
	RUN(&o, "tunnel", "list", "--state-dir", dir);
	ck_assert_msg(strstr(o.out, "\ttokens=1\tagents=1\n"), "%s", o.out);
	RUN(&o, "tunnel", "rotate", "acme", "--end-old", "--state-dir", dir);
	ck_assert_int_eq(o.status, 1);
	ck_assert_str_eq(o.err, "mcp-tunnel-relay: tunnel \"acme\" has no old token\n");
	RUN(&o, "tunnel", "rotate", "acme", "--old-for", "24h", "--state-dir", dir);
	ck_assert_msg(o.status == 0 && strstr(o.err, "ends in 24h"), "%s", o.err);
	RUN(&o, "tunnel", "list", "--state-dir", dir);
	ck_assert_msg(strstr(o.out, "\ttokens=2\tagents=1\told-until=20"), "%s", o.out);
	RUN(&o, "tunnel", "rotate", "acme", "--old-for=0", "--state-dir", dir);
	ck_assert_msg(o.status == 0 && strstr(o.err, "have ended"), "%s", o.err);
	RUN(&o, "tunnel", "list", "--state-dir", dir);
	ck_assert_msg(strstr(o.out, "\ttokens=1\tagents=1\n"), "%s", o.out);
	RUN(&o, "agent", "list", "--tunnel", "acme", "--state-dir", dir);
	ck_assert_int_eq(strncmp(o.out, "alice\t20", 8), 0);
	RUN(&o, "agent", "remove", "alice", "--tunnel", "acme", "--state-dir", dir);
	ck_assert_int_eq(o.status, 0);
	ck_assert_str_eq(o.out, "");
	RUN(&o, "tunnel", "remove", "acme", "--state-dir", dir);
	ck_assert_int_eq(o.status, 0);
	RUN(&o, "tunnel", "remove", "acme", "--state-dir", dir);
	ck_assert_int_eq(o.status, 1);
	ck_assert_str_eq(o.err, "mcp-tunnel-relay: tunnel \"acme\" does not exist\n");
	registry_free(r);
	teardown();
}
END_TEST

START_TEST(command_errors)
{
	struct outcome o;

	setup();
	RUN(&o, "tunnel");
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "destroy", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	ck_assert_ptr_nonnull(strstr(o.err, "tunnel \"destroy\"; add, list, rotate and remove exist"));
	RUN(&o, "agent", "rotate", "x", "--tunnel=a", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "add", "acme");
	ck_assert_int_eq(o.status, 2);
	ck_assert_ptr_nonnull(strstr(o.err, "--state-dir DIR"));
	RUN(&o, "tunnel", "add", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "add", "acme", "--state-dir");
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "add", "acme", "--state-dir=");
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "add", "acme", "--statedir", dir);
	ck_assert_int_eq(o.status, 2);
	ck_assert_ptr_nonnull(strstr(o.err, "\"--statedir\""));
	RUN(&o, "agent", "add", "alice", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	ck_assert_int_eq(access(dir, F_OK), -1);
	RUN(&o, "tunnel", "add", "Bad Name", "--state-dir", dir);
	ck_assert_int_eq(o.status, 1);
	ck_assert_msg(strstr(o.err, "\"Bad Name\" is not a tunnel id"), "%s", o.err);
	ck_assert_str_eq(o.out, "");
	RUN(&o, "tunnel", "rotate", "acme", "--old-for", "yesterday", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	ck_assert_msg(strstr(o.err, "--old-for \"yesterday\"; it takes 0 or a time from 1s to 8784h"), "%s", o.err);
	RUN(&o, "tunnel", "rotate", "acme", "--old-for", "9000h", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "rotate", "acme", "--old-for", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "rotate", "acme", "--old-for=1h", "--end-old", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	RUN(&o, "tunnel", "add", "acme", "--end-old", "--state-dir", dir);
	ck_assert_int_eq(o.status, 2);
	ck_assert_msg(strstr(o.err, "only for tunnel rotate"), "%s", o.err);
	RUN(&o, "tunnel", "--help");
	ck_assert_int_eq(o.status, 0);
	teardown();
}
END_TEST

UNIT_MAIN("registry", ADD(made_private) ADD(tokens) ADD(an_old_token_ends_by_itself) ADD(keys_that_ended) ADD(agents) ADD(reload) ADD(damaged) ADD(a_held_lock_ends) ADD(many)
	  ADD(commands) ADD(command_errors))
