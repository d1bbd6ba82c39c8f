#include "daemon/tls_source.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/lib/no_files.h"
#include "tests/lib/unit.h"

static char dir[] = "/tmp/test_tls_source.XXXXXX";
static char cert[64], key[64], ca[64];
static char err[512];

static void make(const char *name, const char *san, long to_s)
{
	const struct cert_spec spec = { .dir = dir, .name = name, .san = san, .from_s = -7200, .to_s = to_s, .ca = strcmp(name, "ca") == 0 };

	ck_assert_int_eq(cert_make(&spec), 0);
}

static char *path(const char *file)
{
	static char text[4][80];
	static unsigned at;

	at = (at + 1) % 4;
	snprintf(text[at], sizeof(text[at]), "%s/%s", dir, file);
	return text[at];
}

/* The certificate and the key that are in use become those of that name. */
static void put(const char *name)
{
	char from[2][80];

	snprintf(from[0], sizeof(from[0]), "%s/%s.pem", dir, name);
	snprintf(from[1], sizeof(from[1]), "%s/%s.key", dir, name);
	ck_assert_int_eq(chmod(from[1], 0600), 0);
	ck_assert_int_eq(rename(from[0], cert), 0);
	ck_assert_int_eq(rename(from[1], key), 0);
}

static void setup(void)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(cert, sizeof(cert), "%s/use.pem", dir);
	snprintf(key, sizeof(key), "%s/use.key", dir);
	snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
	make("first", "DNS:first.example", 86400);
	put("first");
	make("ca", NULL, 86400);
}

static void teardown(void)
{
	static const char *const names[] = { "use.pem", "use.key", "ca.pem", "ca.key", "second.pem", "second.key" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unlink(path(names[i]));
	rmdir(dir);
}

static void note_name(void *user, const char *name)
{
	snprintf(user, 80, "%s", name);
}

static const char *name_of(const struct tls_source *s)
{
	static char name[80];

	name[0] = '\0';
	tls_server_names(tls_source_get(s), note_name, name);
	return name;
}

static struct tls_source *server(void)
{
	const struct tls_server_options opt = { .cert_file = cert, .key_file = key };
	struct tls_source *s = NULL;

	ck_assert_msg(tls_source_new_server(&opt, err, sizeof(err), &s) == 0, "%s", err);
	return s;
}

static void put_back(void)
{
	FILE *f = fopen(cert, "w");

	ck_assert_ptr_nonnull(f);
	fclose(f);
}

#define POLL(s, now) tls_source_poll(s, now, err, sizeof(err))

START_TEST(follows_its_files)
{
	struct tls_source *s = server();
	struct tls_context *first = tls_source_get(s);
	uint64_t until_s = tls_certificate_until(first);

	ck_assert(until_s > (uint64_t)time(NULL) + 86000 && until_s < (uint64_t)time(NULL) + 86500);
	ck_assert_str_eq(name_of(s), "first.example");
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_ptr_eq(tls_source_get(s), first);
	make("second", "DNS:second.example", 2 * 86400);
	put("second");
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_NEW);
	ck_assert_str_eq(name_of(s), "second.example");
	ck_assert_uint_gt(tls_certificate_until(tls_source_get(s)), until_s);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	/* Told to: at once. */
	make("first", "DNS:first.example", 86400);
	put("first");
	ck_assert_int_eq(POLL(s, true), TLS_SOURCE_NEW);
	ck_assert_str_eq(name_of(s), "first.example");
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	tls_source_free(s);
}
END_TEST

/* Told once, and the old one goes on. */
static void stays(struct tls_source *s, const char *why)
{
	struct tls_context *before = tls_source_get(s);

	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_BAD);
	ck_assert_msg(strstr(err, why), "%s", err);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_ptr_eq(tls_source_get(s), before);
	ck_assert_str_eq(name_of(s), "first.example");
}

START_TEST(bad_files_leave_the_old_ones_in_use)
{
	struct tls_source *s = server();
	FILE *f;

	/* A key that is another's. */
	make("second", "DNS:second.example", 86400);
	ck_assert_int_eq(rename(path("second.pem"), cert), 0);
	stays(s, "use.key");
	make("second", "DNS:second.example", -3600);
	put("second");
	stays(s, "has expired: it was valid until 20");
	f = fopen(cert, "w");
	ck_assert_ptr_nonnull(f);
	fputs("-----BEGIN CERTIFICATE-----\nMIIB", f);
	fclose(f);
	stays(s, "use.pem");
	ck_assert_int_eq(POLL(s, true), TLS_SOURCE_BAD);
	unlink(cert);
	stays(s, "use.pem: No such file");
	/* Away for a moment: nothing to talk about. */
	put_back();
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	unlink(cert);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	make("second", "DNS:second.example", 86400);
	put("second");
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_NEW);
	ck_assert_str_eq(name_of(s), "second.example");
	tls_source_free(s);
}
END_TEST

START_TEST(a_client_follows_all_three)
{
	const struct tls_client_options opt = { .ca_file = ca, .cert_file = cert, .key_file = key };
	struct tls_source *s = NULL;

	ck_assert_int_eq(chmod(key, 0600), 0);
	ck_assert_msg(tls_source_new_client(&opt, err, sizeof(err), &s) == 0, "%s", err);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	make("ca", NULL, 86400);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_NEW);
	make("second", NULL, 86400);
	put("second");
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_NEW);
	ck_assert_int_eq(chmod(key, 0644), 0);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_BAD);
	ck_assert_msg(strstr(err, "chmod 600"), "%s", err);
	tls_source_free(s);
}
END_TEST

/* Nothing is wrong with the files: they are read as soon as they can be. */
START_TEST(no_descriptors)
{
	struct tls_source *s = server();
	int polls = 0;

	make("second", "DNS:second.example", 86400);
	put("second");
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	no_files(true);
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_BAD);
	no_files(false);
	ck_assert_msg(strstr(err, "Too many open files"), "%s", err);
	ck_assert_str_eq(name_of(s), "first.example");
	while (POLL(s, false) == TLS_SOURCE_SAME)
		ck_assert_int_lt(polls++, 30);
	ck_assert_str_eq(name_of(s), "second.example");
	ck_assert_int_eq(POLL(s, false), TLS_SOURCE_SAME);
	tls_source_free(s);
}
END_TEST

START_TEST(none)
{
	const struct tls_server_options opt = { .cert_file = "/nonexistent", .key_file = key };
	struct tls_source *s = NULL;

	ck_assert_int_lt(tls_source_new_server(&opt, err, sizeof(err), &s), 0);
	ck_assert_ptr_null(s);
	ck_assert_int_eq(POLL(s, true), TLS_SOURCE_SAME);
	ck_assert_ptr_null(tls_source_get(s));
	ck_assert_ptr_null(tls_source_free(s));
}
END_TEST

UNIT_MAIN("tls_source", tcase_add_checked_fixture(tc, setup, teardown);
	  ADD(follows_its_files) ADD(bad_files_leave_the_old_ones_in_use) ADD(a_client_follows_all_three) ADD(no_descriptors)
	  ADD(none))
