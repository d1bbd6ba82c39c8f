#include "daemon/audit_hash.h"
#include "tests/lib/unit.h"

/* Computed with Python's hmac and hashlib. */
#define ARGS_HASH "hmac-sha256-jcs:4267500d:befc32efbb452524936b6c7dd3b09a03fab1103238bf97de5f3d51ce2df319f0"

static struct audit_hash key;

static const char *hash_of(struct span arguments)
{
	static char out[AUDIT_HASH_TEXT_LEN + 1];

	ck_assert_int_eq(audit_hash_arguments(&key, arguments, out), 0);
	return out;
}

static void assert_begins(const char *s, const char *with)
{
	ck_assert_msg(strncmp(s, with, strlen(with)) == 0, "%s does not begin with %s", s, with);
}

START_TEST(hash)
{
	static const char *const same[] = {
		"{\"a\":\"x\",\"b\":1}",
		" { \"b\" : 1.0 ,\r\n\t\"a\" : \"\\u0078\" } ",
		"{\"\\u0062\":10e-1,\"a\":\"x\"}",
	};
	static const char *const others[] = { "{\"a\":\"x\",\"b\":2}", "{\"a\":\"x\",\"b\":\"1\"}", "{}", "null" };
	char huge[1000];

	ck_assert_int_eq(audit_hash_init(&key, SPAN("mcptun_secret")), 0);
	for (size_t i = 0; i < ARRAY_LEN(same); i++)
		ck_assert_str_eq(hash_of(span_of(same[i])), ARGS_HASH);
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		ck_assert_str_ne(hash_of(span_of(others[i])), ARGS_HASH);
	ck_assert_str_eq(hash_of(span_of(NULL)), "none");
	ck_assert_str_eq(hash_of(SPAN("{\"a\":1,\"a\":2}")),
			 "hmac-sha256-raw:4267500d:332ea06403762e902bc6aa6e9067b92f279807bb6e0081866966a0d87a00212e");
	assert_begins(hash_of(SPAN("9007199254740993")), "hmac-sha256-raw:4267500d:");
	assert_begins(hash_of(SPAN("\"\\ud800\"")), "hmac-sha256-raw:4267500d:");
	memset(huge, '[', sizeof(huge));
	assert_begins(hash_of(span_make(huge, sizeof(huge))), "hmac-sha256-raw:4267500d:");
	/* Short numbers whose canonical form is the longest there is. */
	for (size_t i = 0; i + 5 <= sizeof(huge); i += 5)
		memcpy(huge + i, i ? ",1e15" : "[1e15", 5);
	huge[sizeof(huge) - 1] = ']';
	assert_begins(hash_of(span_make(huge, sizeof(huge))), "hmac-sha256-jcs:4267500d:");
	audit_hash_done(&key);
}
END_TEST

UNIT_MAIN("audit_hash", ADD(hash))
