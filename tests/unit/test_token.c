#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/encode.h"
#include "daemon/token.h"
#include "tests/lib/unit.h"

#define SECRET43 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
#define TOKEN "mtt_acme-1_" SECRET43

static char dir[] = "/tmp/test_token.XXXXXX";
static char path[PATH_MAX];
static char err[512];

static void setup(void)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/token", dir);
	strcpy(err, "");
}

static void teardown(void)
{
	unlink(path);
	rmdir(dir);
}

static void write_file(const char *data, size_t len, mode_t mode)
{
	int fd;

	/* What an ordinary user made read-only can be replaced, not opened. */
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, data, len), (ssize_t)len);
	ck_assert_int_eq(fchmod(fd, mode), 0);
	close(fd);
}

static void expect_error(const char *data, size_t len, mode_t mode, int r, const char *text)
{
	struct token *t = NULL;

	write_file(data, len, mode);
	ck_assert_int_eq(token_load(path, err, sizeof(err), &t), r);
	ck_assert_ptr_null(t);
	ck_assert_msg(strstr(err, path) && strstr(err, text), "%s", err);
	ck_assert_msg(!strstr(err, "AAECAwQF"), "the secret is in the message: %s", err);
	ck_assert_ptr_null(strchr(err, '\n'));
}

START_TEST(loads)
{
	static const char *const texts[] = { TOKEN, TOKEN "\n" };
	static const mode_t modes[] = { 0600, 0400, 0640, 0440 };

	setup();
	for (size_t i = 0; i < 8; i++) {
		struct token *t = NULL;

		write_file(texts[i % 2], strlen(texts[i % 2]), modes[i / 2]);
		ck_assert_msg(token_load(path, err, sizeof(err), &t) == 0, "%s", err);
		ck_assert_str_eq(t->tunnel_id, "acme-1");
		ck_assert_str_eq(t->text, TOKEN);
		for (int b = 0; b < SECRET_BYTES; b++)
			ck_assert_int_eq(t->secret[b], b);
		ck_assert_ptr_null(token_free(t));
	}
	ck_assert_ptr_null(token_free(NULL));
	teardown();
}
END_TEST

START_TEST(permissions)
{
	static const mode_t modes[] = { 0604, 0602, 0601, 0620, 0644, 0666, 0777 };
	char fix[PATH_MAX + 16];

	setup();
	snprintf(fix, sizeof(fix), "chmod 600 %s", path);
	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		expect_error(TOKEN, strlen(TOKEN), modes[i], -EACCES, fix);
	teardown();
}
END_TEST

START_TEST(content)
{
	static char large[SECRET_FILE_MAX + 1];

	setup();
	expect_error("", 0, 0600, -EINVAL, "empty");
	expect_error("\n", 1, 0600, -EINVAL, "empty");
	expect_error(TOKEN "\n\n", strlen(TOKEN) + 2, 0600, -EINVAL, "more than one line");
	expect_error(TOKEN "\n" TOKEN, 2 * strlen(TOKEN) + 1, 0600, -EINVAL, "more than one line");
	expect_error(TOKEN "\r\n", strlen(TOKEN) + 2, 0600, -EINVAL, "not printable");
	expect_error(TOKEN "\0", strlen(TOKEN) + 1, 0600, -EINVAL, "not printable");
	expect_error(TOKEN " ", strlen(TOKEN) + 1, 0600, -EINVAL, "not a token");
	expect_error(" " TOKEN, strlen(TOKEN) + 1, 0600, -EINVAL, "not a token");
	memset(large, 'a', sizeof(large));
	expect_error(large, sizeof(large), 0600, -EINVAL, "larger than 4096");
	expect_error(large, SECRET_FILE_MAX, 0600, -EINVAL, "not a token");
	teardown();
}
END_TEST

START_TEST(not_a_file)
{
	struct token *t = NULL;

	setup();
	ck_assert_int_eq(token_load(path, err, sizeof(err), &t), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, "No such file"));
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(token_load(path, err, sizeof(err), &t), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "not a regular file"));
	ck_assert_int_eq(token_load(dir, err, sizeof(err), &t), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "not a regular file"));
	teardown();
}
END_TEST

START_TEST(key_file)
{
	struct secret *s = NULL;
	char big[SECRET_FILE_MAX + 1];

	setup();
	memset(big, 'k', sizeof(big));
	big[SECRET_FILE_MAX - 1] = '\n';
	write_file(big, SECRET_FILE_MAX, 0600);
	ck_assert_int_eq(secret_load("key file", path, err, sizeof(err), &s), 0);
	ck_assert_uint_eq(s->len, SECRET_FILE_MAX - 1);
	ck_assert_uint_eq(strlen(s->text), s->len);
	secret_free(s);
	teardown();
}
END_TEST

START_TEST(parse_refuses)
{
	static const char *const bad[] = {
		"",
		"mtt_",
		"mtt__" SECRET43,
		"mtt_-a_" SECRET43,
		"mtt_A_" SECRET43,
		"mtt_a.b_" SECRET43,
		"mtt_a_b_" SECRET43,
		"mtk_a_" SECRET43,
		"mtt_a_" SECRET43 "A",
		"mtt_a" SECRET43,
		"mtt_a_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9",
		"mtt_a_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+",
		"mtt_a_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh=",
		"mtt_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_" SECRET43,
	};
	struct token *t = NULL;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(token_parse(span_of(bad[i]), &t) == -EINVAL, "%s", bad[i]);
	ck_assert_int_eq(token_parse((struct span){ NULL, 0 }, &t), -EINVAL);
	ck_assert_int_eq(
	    token_parse(SPAN("mtt_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_" SECRET43), &t), 0);
	ck_assert_uint_eq(strlen(t->tunnel_id), TUNNEL_ID_MAX);
	token_free(t);
}
END_TEST

START_TEST(made_ones_parse)
{
	char text[TOKEN_TEXT_MAX + 1], other[TOKEN_TEXT_MAX + 1], key[AGENT_KEY_LEN + 1];
	struct token *t = NULL;

	ck_assert_int_eq(token_make("acme", text), 0);
	ck_assert_int_eq(token_parse(span_of(text), &t), 0);
	ck_assert_str_eq(t->tunnel_id, "acme");
	token_free(t);
	ck_assert_int_eq(token_make("acme", other), 0);
	ck_assert_str_ne(text, other);
	ck_assert_int_eq(token_make("Acme", text), -EINVAL);

	ck_assert_int_eq(agent_key_make(key), 0);
	ck_assert(agent_key_valid(span_of(key)));
	ck_assert(!agent_key_valid(span_make(key, AGENT_KEY_LEN - 1)));
	ck_assert(!agent_key_valid(SPAN("mtt_" SECRET43)));
	ck_assert(agent_key_valid(SPAN("mtk_" SECRET43)));
	ck_assert(!agent_key_valid((struct span){ NULL, 0 }));
}
END_TEST

UNIT_MAIN("token", ADD(loads) ADD(permissions) ADD(content) ADD(not_a_file) ADD(key_file) ADD(parse_refuses)
	  ADD(made_ones_parse))
