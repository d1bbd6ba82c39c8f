#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "gateway/audit/command.h"

static const char usage[] =
	"Usage: mcp-tunnel-audit verify [--relay FILE]... [--state FILE]... [--json|--quiet] FILE...\n"
	"       mcp-tunnel-audit hash --key-file FILE | --token-file FILE | --sha256 [FILE]\n"
	"       mcp-tunnel-audit canary [--gateway ADDRESS]\n"
	"       mcp-tunnel-audit canary --check NONCE FILE...\n"
	"       mcp-tunnel-audit --help | --version\n"
	"\n"
	"Checks the audit log of mcp-tunnel-gateway and mcp-tunnel-relay.\n"
	"\n"
	"  verify  says whether the log is whole: nothing deleted, changed, put in or out of order\n"
	"  hash    the hash of a call's arguments, as the log has it\n"
	"  canary  has the gateway write a record to look for in the SIEM\n"
	"\n"
	"mcp-tunnel-audit COMMAND --help tells more; see also mcp-tunnel-audit(1).\n";

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "verify", command_verify },
	{ "hash", command_hash },
	{ "canary", command_canary },
};

int command_fail(const char *fmt, ...)
{
	va_list ap;

	fputs("mcp-tunnel-audit: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return EXIT_UNSURE;
}

int command_bad_option(int argc, char **argv, int result)
{
	const char *given = optind > 0 && optind <= argc ? argv[optind - 1] : "";

	if (result == ':')
		return command_fail("%s: option %s needs a value", argv[0], given);
	return command_fail("%s: option \"%s\" is unknown, or takes no value; --help lists what exists", argv[0], given);
}

int command_end(int exit_status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return exit_status;
	return command_fail("cannot write to standard output");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	opterr = 0;
	if (!name)
		return command_fail("a command is missing: verify, hash or canary");
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
		fputs(usage, stdout);
		return command_end(EXIT_WHOLE);
	}
	if (strcmp(name, "--version") == 0) {
		printf("mcp-tunnel-audit %s\n", MCP_TUNNEL_VERSION);
		return command_end(EXIT_WHOLE);
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	return command_fail("unknown command \"%s\"; verify, hash and canary exist", name);
}
