#include "proto/reasons.h"

#include "tests/lib/unit.h"

#include <string.h>

static const struct {
	const char *id;
	uint32_t code;
	const char *name;
} rows[] = {
#define REASON(id, code, name, executed, http_status, rpc_code, text) { #id, code, name },
#include "proto/reasons.def"
#undef REASON
};

START_TEST(codes_and_names_are_unique)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		for (size_t k = i + 1; k < ARRAY_LEN(rows); k++) {
			ck_assert_msg(rows[i].code != rows[k].code, "code of %s and %s", rows[i].id, rows[k].id);
			ck_assert_msg(strcmp(rows[i].name, rows[k].name) != 0, "name of %s and %s", rows[i].id,
				      rows[k].id);
		}
}
END_TEST

/* Words of lower-case letters, joined by single hyphens. */
START_TEST(names_are_kebab_case)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *s = rows[i].name;
		size_t n = strlen(s);

		ck_assert_msg(n > 0 && strspn(s, "abcdefghijklmnopqrstuvwxyz-") == n, "%s", s);
		ck_assert_msg(s[0] != '-' && s[n - 1] != '-' && !strstr(s, "--"), "%s", s);
	}
}
END_TEST

START_TEST(rows_are_plausible)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct tp_reason_info *info = tp_reason_info(rows[i].code);

		ck_assert(tp_reason_known(rows[i].code));
		ck_assert_str_eq(info->name, rows[i].name);
		ck_assert_str_eq(tp_reason_name(rows[i].code), rows[i].name);
		ck_assert_msg(info->http_status >= 400 && info->http_status <= 599, "%s", info->name);
		ck_assert_msg(info->rpc_code < 0, "%s", info->name);
		ck_assert_msg(strlen(info->text) > 5, "%s", info->name);
	}
}
END_TEST

START_TEST(unknown_codes_read_as_internal)
{
	static const uint32_t unknown[] = { 250, 65535, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
		ck_assert(!tp_reason_known(unknown[i]));
		ck_assert_str_eq(tp_reason_name(unknown[i]), "internal");
	}
	/* No code below the highest one may be left without a row unless it reads as internal, too. */
	for (uint32_t code = 0; code < 250; code++)
		ck_assert_ptr_nonnull(tp_reason_name(code));
}
END_TEST

/* "Not executed" is a promise that a retry is safe; the reasons that design and specification name keep it. */
START_TEST(executed_or_not)
{
	static const uint32_t safe[] = { TP_REASON_REFUSED, TP_REASON_POLICY, TP_REASON_AUDIT_UNAVAILABLE,
					 TP_REASON_UPSTREAM_UNREACHABLE, TP_REASON_NOT_ATTACHED, TP_REASON_TOO_LARGE };
	static const uint32_t unsafe[] = { TP_REASON_CANCELLED, TP_REASON_UPSTREAM_TIMEOUT, TP_REASON_UPSTREAM_CLOSED,
					   TP_REASON_SESSION_LOST, TP_REASON_DEADLINE, TP_REASON_INTERNAL };

	for (size_t i = 0; i < ARRAY_LEN(safe); i++)
		ck_assert(!tp_reason_info(safe[i])->maybe_executed);
	for (size_t i = 0; i < ARRAY_LEN(unsafe); i++)
		ck_assert(tp_reason_info(unsafe[i])->maybe_executed);
}
END_TEST

UNIT_MAIN("reasons", ADD(codes_and_names_are_unique) ADD(names_are_kebab_case) ADD(rows_are_plausible)
		      ADD(unknown_codes_read_as_internal) ADD(executed_or_not))
