#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "daemon/audit_hash.h"
#include "daemon/token.h"
#include "gateway/audit/command.h"

/* As much as the largest body that --max-request-bytes allows. */
enum { ARGUMENTS_MAX = 1024 * 1024 * 1024, CHUNK = 256 * 1024, ERR_MAX = 512 };

static const char usage[] =
	"Usage: mcp-tunnel-audit hash --key-file FILE | --token-file FILE | --sha256 [ARGUMENTS-FILE]\n"
	"\n"
	"Prints the hash of the JSON value in ARGUMENTS-FILE (-, standard input), the params.arguments of a call,\n"
	"as MCP_ARGS_HASH has it. White space around the value does not count; an empty file gives \"none\".\n"
	"\n"
	"  --key-file FILE    the file of --audit-hash-key-file\n"
	"  --token-file FILE  the tunnel's token, from which the key is derived\n"
	"  --sha256           no key: --audit-hash sha256-jcs\n";

struct job {
	const char *key_file, *token_file, *arguments;
	bool plain;
};

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct job *j)
{
	static const struct option options[] = {
		{ "key-file", required_argument, NULL, 'k' }, { "token-file", required_argument, NULL, 't' },
		{ "sha256", no_argument, NULL, 's' },	      { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, ":h", options, NULL)) >= 0) {
		if (c == 'k') {
			j->key_file = optarg;
		} else if (c == 't') {
			j->token_file = optarg;
		} else if (c == 's') {
			j->plain = true;
		} else if (c == 'h') {
			fputs(usage, stdout);
			return command_end(EXIT_WHOLE);
		} else {
			return command_bad_option(argc, argv, c);
		}
	}
	if ((j->key_file != NULL) + (j->token_file != NULL) + j->plain != 1)
		return command_fail("hash: give one of --key-file FILE, --token-file FILE and --sha256");
	if (argc - optind > 1)
		return command_fail("hash: one ARGUMENTS-FILE is enough");
	j->arguments = argc > optind ? argv[optind] : "-";
	return -1;
}

static int read_arguments(const char *path, struct buf *out)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): argv has no NULL before argc. */
	int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), r = 0;
	ssize_t n = 1;
	uint8_t *at;

	if (fd < 0)
		return -errno;
	while (r == 0 && n != 0) {
		r = buf_reserve(out, CHUNK, &at);
		if (r < 0)
			break;
		do
			n = read(fd, at, CHUNK);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			r = -errno;
		else
			buf_commit(out, (size_t)n);
	}
	if (fd != STDIN_FILENO)
		close(fd);
	return r;
}

/* White space around a JSON value is no part of it, so the gateway never hashes it. */
static struct span trim(struct span s)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a span with a length has bytes. */
	while (s.len && strchr(" \t\r\n", s.p[0]) && s.p[0])
		s = span_make(s.p + 1, s.len - 1);
	while (s.len && strchr(" \t\r\n", s.p[s.len - 1]) && s.p[s.len - 1])
		s.len--;
	return s;
}

static int init_token(struct audit_hash *h, const char *path, char *err, size_t err_size)
{
	_cleanup_(token_freep) struct token *t = NULL;
	int r = token_load(path, err, err_size, &t);

	return r < 0 ? r : audit_hash_init(h, span_of(t->text));
}

static int hash(const struct job *j, struct buf *arguments)
{
	char text[AUDIT_HASH_TEXT_LEN + 1], err[ERR_MAX] = "";
	struct audit_hash h;
	int r = 0;

	if (j->plain)
		audit_hash_init_plain(&h);
	else if (j->key_file)
		r = audit_hash_init_file(&h, j->key_file, err, sizeof(err));
	else
		r = init_token(&h, j->token_file, err, sizeof(err));
	if (r < 0)
		return command_fail("hash: %s", *err ? err : strerror(-r));
	r = read_arguments(j->arguments, arguments);
	if (r == 0)
		r = audit_hash_arguments(&h, trim(buf_span(arguments)), text);
	audit_hash_done(&h);
	if (r < 0)
		return command_fail("hash: %s: %s", j->arguments, r == -ENOBUFS ? "it is too large" : strerror(-r));
	if (strstr(text, "-raw:"))
		fputs("mcp-tunnel-audit: RFC 8785 does not cover this value (is it JSON?), so its bytes count as they are\n", stderr);
	printf("%s\n", text);
	return command_end(EXIT_WHOLE);
}

int command_hash(int argc, char **argv)
{
	struct job j = { 0 };
	struct buf arguments;
	int status = parse(argc, argv, &j);

	if (status >= 0)
		return status;
	buf_init(&arguments, ARGUMENTS_MAX);
	status = hash(&j, &arguments);
	buf_done(&arguments);
	return status;
}
