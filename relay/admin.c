#include "relay/admin.h"

#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "daemon/digest.h"
#include "relay/registry.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, ERR_MAX = 512 };

struct request {
	const char *noun, *verb, *name;
	const char *state_dir, *tunnel, *old_for;
	bool end_old;
	uint64_t old_for_s;
};

typedef int command_fn(const struct request *q, struct registry *r, char *err);

static const char usage[] = "Usage: mcp-tunnel-relay tunnel add|remove NAME --state-dir DIR\n"
			    "       mcp-tunnel-relay tunnel rotate NAME [--old-for TIME | --end-old] --state-dir DIR\n"
			    "       mcp-tunnel-relay tunnel list --state-dir DIR\n"
			    "       mcp-tunnel-relay agent add|remove NAME --tunnel NAME --state-dir DIR\n"
			    "       mcp-tunnel-relay agent list --tunnel NAME --state-dir DIR\n";

static void say_reload(void)
{
	fputs("A running relay learns of this within three seconds; at once by: systemctl reload mcp-tunnel-relay\n", stderr);
}

/* The secret is printed once and nowhere else. */
static int hand_out(char *secret, size_t size)
{
	bool good = printf("%s\n", secret) > 0 && fflush(stdout) == 0;

	secret_wipe(secret, size);
	return good ? 0 : -1;
}

static int tunnel_add(const struct request *q, struct registry *r, char *err)
{
	char token[TOKEN_TEXT_MAX + 1];

	if (registry_tunnel_add(r, q->name, token, err, ERR_MAX) < 0)
		return -1;
	fprintf(stderr,
		"Tunnel %s was added. This is its token; keep it, it is not stored and cannot be shown again.\n"
		"Put it into the gateway's token file (--token-file FILE) and run: chmod 600 FILE\n",
		q->name);
	say_reload();
	return hand_out(token, sizeof(token));
}

static int tunnel_end_old(const struct request *q, struct registry *r, char *err)
{
	if (registry_tunnel_end_old(r, q->name, err, ERR_MAX) < 0)
		return -1;
	fprintf(stderr, "The old token of tunnel %s has ended, and with it the sessions of gateways that use it.\n", q->name);
	say_reload();
	return 0;
}

static void say_how_long(const struct request *q)
{
	if (q->old_for && !q->old_for_s)
		fputs("The tokens before it have ended, and with them the sessions of gateways that use them.\n", stderr);
	else if (q->old_for)
		fprintf(stderr, "The token before it ends in %s: put the new one into the gateways' token files until then.\n", q->old_for);
	else
		fprintf(stderr,
			"The token before it stays valid until the next rotation. Put the new one into the gateways' token files, then end\n"
			"the old one with: mcp-tunnel-relay tunnel rotate %s --end-old --state-dir %s\n",
			q->name, q->state_dir);
}

static int tunnel_rotate(const struct request *q, struct registry *r, char *err)
{
	char token[TOKEN_TEXT_MAX + 1];

	if (q->end_old)
		return tunnel_end_old(q, r, err);
	if (registry_tunnel_rotate(r, q->name, q->old_for ? q->old_for_s : REGISTRY_OLD_STAYS, token, err, ERR_MAX) < 0)
		return -1;
	fprintf(stderr, "Tunnel %s has a new token; keep it, it is not stored and cannot be shown again.\n", q->name);
	say_how_long(q);
	say_reload();
	return hand_out(token, sizeof(token));
}

static int tunnel_remove(const struct request *q, struct registry *r, char *err)
{
	if (registry_tunnel_remove(r, q->name, err, ERR_MAX) < 0)
		return -1;
	fprintf(stderr, "Tunnel %s, its tokens and its agents were removed.\n", q->name);
	say_reload();
	return 0;
}

static void print_tunnel(void *user, const struct registry_tunnel *t)
{
	char until[REGISTRY_TIME_LEN + 1] = "next-rotation";

	if (t->old_until_s)
		registry_time_print(t->old_until_s, until);
	printf("%s\t%s\ttokens=%u\tagents=%zu", t->id, t->created, t->n_tokens, t->n_agents);
	if (t->n_tokens > 1)
		printf("\told-until=%s", until);
	putchar('\n');
}

static int tunnel_list(const struct request *q, struct registry *r, char *err)
{
	registry_each_tunnel(r, print_tunnel, NULL);
	return 0;
}

static int agent_add(const struct request *q, struct registry *r, char *err)
{
	char key[AGENT_KEY_LEN + 1];

	if (registry_agent_add(r, q->tunnel, q->name, key, err, ERR_MAX) < 0)
		return -1;
	fprintf(
	    stderr,
	    "Agent %s of tunnel %s was added. This is its key; keep it, it is not stored and cannot be shown again.\n"
	    "The agent sends it as: Authorization: Bearer KEY\n",
	    q->name, q->tunnel);
	say_reload();
	return hand_out(key, sizeof(key));
}

static int agent_remove(const struct request *q, struct registry *r, char *err)
{
	if (registry_agent_remove(r, q->tunnel, q->name, err, ERR_MAX) < 0)
		return -1;
	fprintf(stderr, "Agent %s of tunnel %s was removed.\n", q->name, q->tunnel);
	say_reload();
	return 0;
}

static void print_agent(void *user, const char *agent, const char *created)
{
	printf("%s\t%s\n", agent, created);
}

static int agent_list(const struct request *q, struct registry *r, char *err)
{
	int result = registry_each_agent(r, q->tunnel, print_agent, NULL);

	if (result < 0)
		snprintf(err, ERR_MAX, "tunnel \"%.80s\" does not exist", q->tunnel);
	return result;
}

static const struct command {
	const char *noun, *verb;
	bool takes_name, takes_tunnel;
	command_fn *run;
} commands[] = {
	{ "tunnel", "add", true, false, tunnel_add },	    { "tunnel", "list", false, false, tunnel_list },
	{ "tunnel", "rotate", true, false, tunnel_rotate }, { "tunnel", "remove", true, false, tunnel_remove },
	{ "agent", "add", true, true, agent_add },	    { "agent", "list", false, true, agent_list },
	{ "agent", "remove", true, true, agent_remove },
};

/* One line, naming the argument, what was given and what is allowed. */
static int usage_error(const char *what, const char *given, const char *allowed)
{
	fprintf(stderr, "mcp-tunnel-relay: %s%s%s%s; %s\n", what, given ? " \"" : "", given ? given : "",
		given ? "\"" : "", allowed);
	return EXIT_USAGE;
}

/* --name VALUE or --name=VALUE. Returns whether argv[*i] is this option; *ret is NULL when its value is missing. */
static bool take_option(int argc, char **argv, int *i, const char *name, const char **ret)
{
	size_t n = strlen(name);

	if (strncmp(argv[*i], name, n) != 0 || (argv[*i][n] && argv[*i][n] != '='))
		return false;
	if (argv[*i][n] == '=')
		*ret = argv[*i] + n + 1;
	else
		*ret = *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0 ? argv[++*i] : NULL;
	if (*ret && !**ret)
		*ret = NULL;
	return true;
}

/* 0, 1: not one of these, or the exit status. */
static int parse_option(int argc, char **argv, int *i, struct request *q)
{
	const struct {
		const char *name, **value, *needs;
	} options[] = {
		{ "--state-dir", &q->state_dir, "it needs a directory" },
		{ "--tunnel", &q->tunnel, "it needs a tunnel id" },
		{ "--old-for", &q->old_for, "it needs a time, such as 24h" },
	};

	for (size_t k = 0; k < ARRAY_LEN(options); k++)
		if (take_option(argc, argv, i, options[k].name, options[k].value))
			return *options[k].value ? 0 : usage_error(options[k].name, NULL, options[k].needs);
	return 1;
}

static int parse(int argc, char **argv, struct request *q)
{
	for (int i = 2; i < argc; i++) {
		const char *name = argv[i];
		int r = parse_option(argc, argv, &i, q);

		if (r == EXIT_USAGE)
			return r;
		if (r == 0)
			continue;
		if (strcmp(name, "--end-old") == 0) {
			q->end_old = true;
		} else if (name[0] == '-') {
			return usage_error("unknown option", name,
					   "--state-dir DIR, --tunnel NAME, --old-for TIME and --end-old exist here");
		} else if (!q->verb) {
			q->verb = name;
		} else if (!q->name) {
			q->name = name;
		} else {
			return usage_error("unexpected argument", name, "one NAME is enough");
		}
	}
	return 0;
}

static int check_old(const struct command *c, struct request *q)
{
	uint64_t ms;

	if (!q->old_for && !q->end_old)
		return 0;
	if (c->run != tunnel_rotate)
		return usage_error(q->end_old ? "--end-old" : "--old-for", NULL, "it is only for tunnel rotate");
	if (q->old_for && q->end_old)
		return usage_error("--end-old", NULL, "it makes no new token, so it goes without --old-for");
	if (!q->old_for)
		return 0;
	if (parse_duration_ms(span_of(q->old_for), &ms) < 0 || (ms && ms < 1000) || ms / 1000 > REGISTRY_OLD_MAX_S)
		return usage_error("--old-for", q->old_for, "it takes 0 or a time from 1s to 8784h, such as 24h");
	q->old_for_s = ms / 1000;
	return 0;
}

static int check(const struct command *c, const struct request *q)
{
	if (c->takes_name && !q->name)
		return usage_error("NAME", NULL, "it is missing: give the name of the tunnel or agent");
	if (!c->takes_name && q->name)
		return usage_error("unexpected argument", q->name, "list takes no NAME");
	if (c->takes_tunnel && !q->tunnel)
		return usage_error("--tunnel NAME", NULL, "it is missing: give the tunnel the agent belongs to");
	if (!c->takes_tunnel && q->tunnel)
		return usage_error("--tunnel", q->tunnel, "it is only for the agent commands");
	if (!q->state_dir)
		return usage_error("--state-dir DIR", NULL, "it is missing: give the relay's state directory");
	return 0;
}

static const struct command *find_command(const struct request *q)
{
	for (size_t i = 0; q->verb && i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].noun, q->noun) == 0 && strcmp(commands[i].verb, q->verb) == 0)
			return &commands[i];
	return NULL;
}

static int run(const struct command *c, const struct request *q)
{
	_cleanup_(registry_freep) struct registry *r = NULL;
	char err[ERR_MAX] = "";
	int result = registry_open(q->state_dir, err, sizeof(err), &r);

	if (result == 0)
		result = c->run(q, r, err);
	if (result == 0 && fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_OK;
	fprintf(stderr, "mcp-tunnel-relay: %s\n", *err ? err : "cannot write to standard output");
	return EXIT_FAILED;
}

bool admin_wanted(int argc, char **argv)
{
	return argc > 1 && (strcmp(argv[1], "tunnel") == 0 || strcmp(argv[1], "agent") == 0);
}

int admin_main(int argc, char **argv)
{
	struct request q = { .noun = argc > 1 ? argv[1] : "" };
	const struct command *c;
	int r;

	for (int i = 2; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return fputs(usage, stdout) < 0 ? EXIT_FAILED : EXIT_OK;
	r = parse(argc, argv, &q);
	if (r != 0)
		return r;
	c = find_command(&q);
	if (!c)
		return usage_error(q.noun, q.verb ? q.verb : "",
				   strcmp(q.noun, "agent") == 0 ? "add, list and remove exist"
								: "add, list, rotate and remove exist");
	r = check(c, &q);
	if (r == 0)
		r = check_old(c, &q);
	return r != 0 ? r : run(c, &q);
}
