/* Unit tests with check, reported to meson as TAP. A test file defines one suite:
 *
 *	START_TEST(name) { ... } END_TEST
 *	UNIT_MAIN("buf", ADD(name) ADD(other))
 */
#pragma once

#include <check.h>
#include <stdio.h>

#define ADD(fn) tcase_add_test(tc, fn);
#define UNIT_MAIN(suite_name, adds)                                                                                    \
	int main(void)                                                                                                 \
	{                                                                                                              \
		Suite *s = suite_create(suite_name);                                                                   \
		TCase *tc = tcase_create(suite_name);                                                                  \
		SRunner *sr = srunner_create(s);                                                                       \
                                                                                                                       \
		setvbuf(stdout, NULL, _IONBF, 0);                                                                      \
		tcase_set_timeout(tc, 120);                                                                            \
		adds suite_add_tcase(s, tc);                                                                           \
		srunner_set_tap(sr, "-");                                                                              \
		srunner_run_all(sr, CK_SILENT);                                                                        \
		srunner_free(sr);                                                                                      \
		return 0;                                                                                              \
	}
