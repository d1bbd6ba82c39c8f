/* One check of a secret, for tests/lib/key_work.py, which counts the instructions of it.
 *
 *	make DIR             a registry with two tunnels and an agent; prints the token of the first, and the agent's key
 *	token DIR TOKEN      agent DIR TUNNEL KEY
 *	equal N              two times 32 bytes whose byte N differs; 32: none
 *
 * The last three print whether it is good.
 */
#include <stdio.h>
#include <stdlib.h>

#include "relay/registry.h"

/* What is counted: functions of their own, not inlined, so that they have a name. */
bool key_work(const struct registry *r, char **argv);

__attribute__((noinline)) bool key_work(const struct registry *r, char **argv)
{
	if (strcmp(argv[1], "token") == 0)
		return registry_check_token(r, span_of(argv[3])) != NULL;
	return registry_check_agent(r, span_of(argv[3]), span_of(argv[4])) != NULL;
}

bool key_equal(const void *a, const void *b, size_t len);

__attribute__((noinline)) bool key_equal(const void *a, const void *b, size_t len)
{
	return digest_equal(a, b, len);
}

static bool equal(size_t differs)
{
	/* Among zeros, where what compares strings would stop. */
	uint8_t a[SHA256_LEN + 1] = { 0 }, b[SHA256_LEN + 1] = { 0 };

	if (differs < sizeof(b))
		b[differs] = 1;
	(void)key_equal(a, a, 1); /* the linker's part */
	return key_equal(a, b, SHA256_LEN);
}

static int make(struct registry *r, char *err, size_t err_size)
{
	char first[TOKEN_TEXT_MAX + 1], second[TOKEN_TEXT_MAX + 1], key[AGENT_KEY_LEN + 1];

	if (registry_tunnel_add(r, "bb", first, err, err_size) < 0 || registry_tunnel_add(r, "cc", second, err, err_size) < 0 ||
	    registry_agent_add(r, "bb", "alice", key, err, err_size) < 0)
		return 2;
	printf("%s\n%s\n", first, key);
	return 0;
}

int main(int argc, char **argv)
{
	_cleanup_(registry_freep) struct registry *r = NULL;
	char err[200] = "usage";

	if (argc == 3 && strcmp(argv[1], "equal") == 0) {
		puts(equal(strtoul(argv[2], NULL, 10)) ? "good" : "bad");
		return 0;
	}
	if (argc < 3 || registry_open(argv[2], err, sizeof(err), &r) < 0 ||
	    (strcmp(argv[1], "make") == 0 && make(r, err, sizeof(err)))) {
		fprintf(stderr, "key_work: %s\n", err);
		return 2;
	}
	if (argc < 4)
		return 0;
	/* The first time costs more: the linker's part, tables of OpenSSL. */
	(void)registry_check_token(r, SPAN("mtt_xx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
	puts(key_work(r, argv) ? "good" : "bad");
	return 0;
}
