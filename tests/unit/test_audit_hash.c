#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit_hash.h"
#include "tests/lib/unit.h"

/* The answers were made by Python's hmac and hashlib. */

#define KEY "0123456789abcdef0123456789abcdef"
#define JSON_TEXT "{\"b\": 2.0, \"a\" : 1}"
#define DOUBLED "{\"a\":1,\"a\":2}"

static const char *hash_of(const struct audit_hash *h, const char *arguments)
{
	static char out[AUDIT_HASH_TEXT_LEN + 1];

	ck_assert_int_eq(audit_hash_arguments(h, span_of(arguments), out), 0);
	return out;
}

START_TEST(key_as_it_is)
{
	char bytes[200];
	struct audit_hash h;

	ck_assert_int_eq(audit_hash_init_key(&h, SPAN(KEY)), 0);
	ck_assert_str_eq(hash_of(&h, JSON_TEXT), "hmac-sha256-jcs:3eb1bd43:"
						 "74d9c327d8ab25dca62335cb2b31de58189b4ed28fc31bdc09aa05b07cd3ebfa");
	ck_assert_str_eq(hash_of(&h, DOUBLED), "hmac-sha256-raw:3eb1bd43:"
					       "94c889b73be4adebf9595349d7b01f488a3248a0c2bc6a0787ddb140e36d44b6");
	ck_assert_str_eq(hash_of(&h, ""), "none");
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(uint8_t)(i * 7 + 1);
	ck_assert_int_eq(audit_hash_init_key(&h, span_make(bytes, sizeof(bytes))), 0);
	ck_assert_str_eq(hash_of(&h, JSON_TEXT), "hmac-sha256-jcs:397276ea:"
						 "7d5b46a6b8ecac6133849e4810d95e0957cf43912da5191266b8941682d5edd9");
	ck_assert_int_eq(audit_hash_init_key(&h, span_make(KEY, 31)), -EINVAL);
	audit_hash_done(&h);
}
END_TEST

START_TEST(key_of_a_token)
{
	struct audit_hash h;

	ck_assert_int_eq(audit_hash_init(&h, SPAN("mtt_acme_secret")), 0);
	ck_assert_str_eq(hash_of(&h, JSON_TEXT), "hmac-sha256-jcs:3ca810cc:"
						 "cb7aeb18ceb1d8c530905f769baf518ed1a5f7a403422f0184c0d841cac78559");
	audit_hash_done(&h);
}
END_TEST

START_TEST(no_key)
{
	struct audit_hash h;

	audit_hash_init_plain(&h);
	ck_assert_str_eq(hash_of(&h, JSON_TEXT),
			 "sha256-jcs:43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777");
	ck_assert_str_eq(hash_of(&h, DOUBLED),
			 "sha256-raw:1c53ee0df7b12fd4d65b976120c7fa6b847dc41dffd7f0331c3237a1ceab1756");
	ck_assert_str_eq(hash_of(&h, ""), "none");
}
END_TEST

static char dir[] = "/tmp/test_audit_hash.XXXXXX";

static const char *write_key(const void *p, size_t len, mode_t mode)
{
	static char path[100];
	FILE *f;

	snprintf(path, sizeof(path), "%s/key", dir);
	unlink(path);
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(p, 1, len, f), len);
	ck_assert_int_eq(fchmod(fileno(f), mode), 0);
	fclose(f);
	return path;
}

START_TEST(key_file)
{
	static const char big[4097];
	char err[300] = "";
	struct audit_hash a, b;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(audit_hash_init_key(&a, SPAN(KEY)), 0);
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(KEY "\n", 33, 0600), err, sizeof(err)), 0);
	ck_assert_str_eq(a.key_id, b.key_id);
	/* One newline is no part of the key; anything else is. */
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(KEY "\n\n", 34, 0600), err, sizeof(err)), 0);
	ck_assert_str_ne(a.key_id, b.key_id);
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(big, 40, 0600), err, sizeof(err)), 0);
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(big, 4096, 0600), err, sizeof(err)), 0);
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(KEY "\n", 32, 0600), err, sizeof(err)), 0);
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(KEY, 31, 0600), err, sizeof(err)), -EINVAL);
	ck_assert_msg(strstr(err, "32 to 4096 bytes") && !strstr(err, KEY), "%s", err);
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(KEY "\n", 33, 0644), err, sizeof(err)), -EACCES);
	ck_assert_int_eq(audit_hash_init_file(&b, write_key(big, 4097, 0600), err, sizeof(err)), -EINVAL);
	unlink(write_key("", 0, 0600));
	ck_assert_int_eq(audit_hash_init_file(&b, dir, err, sizeof(err)), -EINVAL);
	rmdir(dir);
}
END_TEST

/* Computed with Python's hmac and hashlib. */
#define SESSION_HASH "hmac-sha256:4267500d:0defc888a50723ddc9492d5e3bb0d7b32ecb7bd6348d2e0b4b1ea8af1524ac54"

START_TEST(session)
{
	char out[AUDIT_SESSION_TEXT_LEN + 1], args[AUDIT_HASH_TEXT_LEN + 1];
	struct audit_hash h;

	ck_assert_int_eq(audit_hash_init(&h, SPAN("mcptun_secret")), 0);
	ck_assert_int_eq(audit_hash_session(&h, SPAN("0123-session"), out), 0);
	ck_assert_str_eq(out, SESSION_HASH);
	/* Where arguments are hashed without the key, the session is not. */
	h.plain = true;
	ck_assert_int_eq(audit_hash_session(&h, SPAN("0123-session"), out), 0);
	ck_assert_str_eq(out, SESSION_HASH);
	ck_assert_int_eq(audit_hash_arguments(&h, SPAN("{}"), args), 0);
	ck_assert_str_eq(args, "sha256-jcs:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
	audit_hash_init_plain(&h);
	ck_assert_int_eq(audit_hash_session(&h, SPAN("0123-session"), out), -EINVAL);
}
END_TEST

UNIT_MAIN("audit_hash", ADD(key_as_it_is) ADD(key_of_a_token) ADD(no_key) ADD(session) ADD(key_file))
