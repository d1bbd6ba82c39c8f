/* A command line and a configuration file, of either program. First byte: bit 0 which program, bits 1 to 3 how many arguments
 * come first, each up to a NUL; the rest is the file. What is refused has one line that says why; what is taken prints itself
 * as a file that says the same. */
#include "gateway/config.h"
#include "relay/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ARGS_MAX = 8 };

static int file = -1;
static char option[64], print_option[] = "--print-config", name[] = "program";

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void fill_file(const void *data, size_t size)
{
	if (file < 0) {
		file = memfd_create("config", 0);
		must(file >= 0);
		snprintf(option, sizeof(option), "--config=/proc/self/fd/%d", file);
	}
	must(ftruncate(file, 0) == 0);
	must(size == 0 || pwrite(file, data, size, 0) == (ssize_t)size);
}

static int load(bool relay, int argc, char **argv, char *err, size_t err_size)
{
	struct gateway_config g;
	struct relay_config r;
	int result;

	if (relay) {
		result = relay_config_load(&r, argc, argv, err, err_size);
		relay_config_done(&r);
	} else {
		result = gateway_config_load(&g, argc, argv, err, err_size);
		gateway_config_done(&g);
	}
	return result;
}

/* What it writes to stdout goes to *ret_text. */
static int load_quietly(bool relay, int argc, char **argv, char **ret_text)
{
	char err[CONFIG_ERROR_MAX] = "";
	FILE *out = stdout;
	size_t len;
	int r;

	stdout = open_memstream(ret_text, &len);
	must(stdout != NULL);
	r = load(relay, argc, argv, err, sizeof(err));
	fclose(stdout);
	stdout = out;
	must(r == 0 || r == CONFIG_EXIT || (*err && !strchr(err, '\n')));
	return r;
}

/* Not what opens files, or could: only our own. */
static bool is_harmless(const char *arg)
{
	return !strstr(arg, "config") && !strstr(arg, "proxy") && !strstr(arg, "print");
}

/* Of what may be a secret in the wrong place, what is no text and what is very long, only a part is printed; and a semicolon begins a comment. */
static bool is_printed_whole(int argc, char **argv, const char *text, size_t len)
{
	size_t line = 0;

	for (int i = 1; i < argc; i++)
		if (strchr(argv[i], '\n') || !is_printed_whole(0, NULL, argv[i], strlen(argv[i])))
			return false;
	for (size_t i = 0; i < len; i++) {
		line = text[i] == '\n' ? 0 : line + 1;
		if (line > 100 || memchr("@?;", text[i], 3) || (text[i] != '\n' && (text[i] < ' ' || text[i] > '~')))
			return false;
	}
	return true;
}

/* Each value has where it is from behind it: " ; default", " ; FILE:LINE". */
static void drop_sources(char *text)
{
	struct span rest = span_of(text), line;
	char *out = text, *end;

	while ((line = span_split(&rest, '\n')).p) {
		end = memrchr(line.p, ';', line.len);
		line.len = end ? (size_t)(end - line.p) : line.len;
		memmove(out, line.p, line.len);
		out += line.len;
		*out++ = '\n';
		if (!rest.p)
			break;
	}
	out[-1] = '\0';
}

static void check_print(bool relay, int argc, char **argv)
{
	char *print[] = { argv[0], option, print_option, NULL };
	_cleanup_(freep) char *first = NULL, *again = NULL;

	argv[argc] = print_option;
	if (load_quietly(relay, argc + 1, argv, &first) != CONFIG_EXIT)
		abort();
	fill_file(first, strlen(first));
	must(load_quietly(relay, 3, print, &again) == CONFIG_EXIT);
	drop_sources(first);
	drop_sources(again);
	if (strcmp(first, again) != 0) {
		fprintf(stderr, "%s\nand again:\n%s\n", first, again);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(freep) char *copy = malloc(size + 1), *text = NULL;
	char *argv[ARGS_MAX + 4] = { name }, *at = copy + 1;
	int argc = 1, n;
	bool relay, whole;

	must(copy != NULL);
	if (size == 0)
		return 0;
	memcpy(copy, data, size);
	copy[size] = '\0';
	relay = copy[0] & 1;
	for (n = copy[0] >> 1 & 7; n > 0 && at < copy + size; n--) {
		if (is_harmless(at))
			argv[argc++] = at;
		at += strlen(at) + 1;
	}
	fill_file(at, at < copy + size ? (size_t)(copy + size - at) : 0);
	/* A file of its own could be any of this machine. */
	if (at < copy + size && memmem(at, (size_t)(copy + size - at), "proxy", 5))
		return 0;
	whole = is_printed_whole(argc, argv, at, at < copy + size ? (size_t)(copy + size - at) : 0);
	argv[argc++] = option;
	if (load_quietly(relay, argc, argv, &text) == 0 && whole)
		check_print(relay, argc, argv);
	return 0;
}
