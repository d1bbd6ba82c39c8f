/* The text of a token's or key's file: what the file's reader takes is a token exactly if its one line is, and no message has
 * anything of the content. */
#include "daemon/token.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int file = -1;
static char path[64];

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void fill_file(const uint8_t *data, size_t size)
{
	if (file < 0) {
		file = memfd_create("token", 0);
		must(file >= 0 && fchmod(file, 0600) == 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	}
	must(ftruncate(file, 0) == 0);
	must(size == 0 || pwrite(file, data, size, 0) == (ssize_t)size);
}

/* Eight bytes of a content are no accident. */
static void check_message(const char *err, const uint8_t *data, size_t size)
{
	must(*err && !strchr(err, '\n'));
	for (size_t i = 0; i + 8 <= size && i < 512; i++)
		must(!memmem(err, strlen(err), data + i, 8) || !memchr(data + i, '_', 8));
}

static void check_split(struct span text)
{
	_cleanup_(token_freep) struct token *t = NULL;
	uint8_t secret[SECRET_BYTES];
	struct span id;
	bool split = token_split(text, &id, secret) == 0;

	must((token_parse(text, &t) == 0) == split);
	if (!split)
		return;
	must(tunnel_id_valid(id) && span_is(id, t->tunnel_id) && memcmp(secret, t->secret, SECRET_BYTES) == 0);
	must(span_is(text, t->text) && text.len <= TOKEN_TEXT_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(freep) uint8_t *copy = malloc(size ? size : 1);
	_cleanup_(token_freep) struct token *t = NULL, *same = NULL;
	_cleanup_(secret_freep) struct secret *key = NULL;
	size_t line = size && data[size - 1] == '\n' ? size - 1 : size;
	char err[512] = "";

	must(copy != NULL);
	if (size)
		memcpy(copy, data, size);
	check_split(span_make(copy, size));
	must(!agent_key_valid(span_make(copy, size)) || size == AGENT_KEY_LEN);
	fill_file(data, size);
	if (token_load(path, err, sizeof(err), &t) == 0)
		must(token_parse(span_make(copy, line), &same) == 0 && strcmp(t->text, same->text) == 0);
	else
		check_message(err, data, size);
	if (secret_load_key("key file", path, 16, err, sizeof(err), &key) == 0)
		must(key->len >= 16 && memcmp(key->text, data, key->len) == 0);
	return 0;
}
