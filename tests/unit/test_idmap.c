#include "base/idmap.h"

#include "tests/lib/unit.h"

#include <string.h>

enum { IDS = 600 };

START_TEST(empty_map)
{
	struct idmap m = { 0 };
	size_t it = 0;

	ck_assert_ptr_null(idmap_get(&m, 1));
	ck_assert_ptr_null(idmap_take(&m, 1));
	ck_assert_ptr_null(idmap_next(&m, &it));
	idmap_done(&m);
}
END_TEST

START_TEST(put_get_take)
{
	struct idmap m = { 0 };
	int a, b;

	ck_assert_int_eq(idmap_put(&m, 1, &a), 0);
	ck_assert_int_eq(idmap_put(&m, UINT32_MAX, &b), 0);
	ck_assert_ptr_eq(idmap_get(&m, 1), &a);
	ck_assert_ptr_eq(idmap_get(&m, UINT32_MAX), &b);
	ck_assert_ptr_null(idmap_get(&m, 2));
	ck_assert_ptr_null(idmap_take(&m, 2));
	ck_assert_ptr_eq(idmap_take(&m, 1), &a);
	ck_assert_ptr_null(idmap_get(&m, 1));
	ck_assert_ptr_null(idmap_take(&m, 1));
	ck_assert_int_eq(idmap_put(&m, 1, &b), 0);
	ck_assert_ptr_eq(idmap_get(&m, 1), &b);
	ck_assert_uint_eq(m.used, 2);
	idmap_done(&m);
	ck_assert_uint_eq(m.used, 0);
	ck_assert_ptr_null(idmap_get(&m, UINT32_MAX));
}
END_TEST

/* Ids in use stay few while they count up for ever, as stream ids do. */
START_TEST(moving_window_of_ids)
{
	static int things[64];
	struct idmap m = { 0 };

	for (uint32_t id = 1; id <= 200000; id++) {
		ck_assert_int_eq(idmap_put(&m, id * 2, &things[id % 64]), 0);
		if (id > 32)
			ck_assert_ptr_eq(idmap_take(&m, (id - 32) * 2), &things[(id - 32) % 64]);
	}
	ck_assert_uint_eq(m.used, 32);
	ck_assert_uint_le(m.cap, 128);
	idmap_done(&m);
}
END_TEST

/* Everything that the model holds, once each. */
static void check_visits(const struct idmap *m, char *const model[IDS], char *base)
{
	bool seen[IDS] = { 0 };
	size_t it = 0, visits = 0, held = 0;
	char *p;

	while ((p = idmap_next(m, &it)) != NULL) {
		size_t k = (size_t)(p - base);

		ck_assert_uint_lt(k, IDS);
		ck_assert(!seen[k]);
		ck_assert_ptr_eq(model[k], p);
		seen[k] = true;
		visits++;
	}
	for (size_t k = 0; k < IDS; k++)
		held += model[k] != NULL;
	ck_assert_uint_eq(visits, held);
	ck_assert_uint_eq(m->used, held);
}

static void same_as_array(unsigned seed, const uint32_t ids[IDS])
{
	static char things[IDS];
	char *model[IDS] = { 0 };
	struct idmap m = { 0 };

	srand(seed);
	for (int i = 0; i < 30000; i++) {
		/* Fills up and runs empty by turns, so that long runs of slots form and are closed again. */
		bool grow = rand() % 10 < (i / 3000 % 2 ? 3 : 7);
		size_t k = (size_t)rand() % IDS;

		ck_assert_ptr_eq(idmap_get(&m, ids[k]), model[k]);
		if (grow && !model[k]) {
			ck_assert_int_eq(idmap_put(&m, ids[k], &things[k]), 0);
			model[k] = &things[k];
		} else if (!grow) {
			ck_assert_ptr_eq(idmap_take(&m, ids[k]), model[k]);
			model[k] = NULL;
		}
		if (i % 100 == 0) {
			check_visits(&m, model, things);
			for (size_t n = 0; n < IDS; n++)
				ck_assert_ptr_eq(idmap_get(&m, ids[n]), model[n]);
		}
	}
	idmap_done(&m);
}

START_TEST(same_as_a_plain_array)
{
	uint32_t ids[IDS];

	for (uint32_t i = 0; i < IDS; i++)
		ids[i] = i + 1;
	same_as_array(1, ids);
	for (uint32_t i = 0; i < IDS; i++)
		ids[i] = UINT32_MAX - i * 3;
	same_as_array(2, ids);
	/* Multiples of a large power of two: the low bits say nothing. */
	for (uint32_t i = 0; i < IDS; i++)
		ids[i] = (i + 1) << 20;
	same_as_array(3, ids);
}
END_TEST

UNIT_MAIN("idmap", ADD(empty_map) ADD(put_get_take) ADD(moving_window_of_ids) ADD(same_as_a_plain_array))
