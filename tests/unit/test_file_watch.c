#include "daemon/file_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/unit.h"

static char dir[] = "/tmp/test_file_watch.XXXXXX";
static char a[64], b[64], fresh[64];

static void setup(void)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(a, sizeof(a), "%s/a", dir);
	snprintf(b, sizeof(b), "%s/b", dir);
	snprintf(fresh, sizeof(fresh), "%s/new", dir);
}

static void teardown(void)
{
	unlink(a);
	unlink(b);
	unlink(fresh);
	rmdir(dir);
}

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	fclose(f);
}

static struct file_watch watch_both(void)
{
	struct file_watch w = { 0 };

	file_watch_add(&w, a);
	file_watch_add(&w, NULL);
	file_watch_add(&w, b);
	ck_assert_uint_eq(w.n, 2);
	put(a, "one");
	put(b, "one");
	file_watch_mark(&w);
	return w;
}

static void changed_once(struct file_watch *w)
{
	ck_assert(file_watch_differs(w));
	ck_assert(!file_watch_changed(w));
	ck_assert(file_watch_changed(w));
	ck_assert(file_watch_changed(w));
	ck_assert(file_watch_differs(w));
	file_watch_mark(w);
	ck_assert(!file_watch_differs(w));
	ck_assert(!file_watch_changed(w));
	ck_assert(!file_watch_changed(w));
}

START_TEST(every_kind_of_change)
{
	struct file_watch w = watch_both();

	ck_assert(!file_watch_changed(&w) && !file_watch_changed(&w));
	put(b, "longer");
	changed_once(&w);
	/* The same size, another file. */
	put(fresh, "ONE");
	ck_assert_int_eq(rename(fresh, a), 0);
	changed_once(&w);
	ck_assert_int_eq(chmod(a, 0600), 0);
	changed_once(&w);
	/* Another file behind the name. */
	ck_assert_int_eq(unlink(b), 0);
	ck_assert_int_eq(symlink(a, b), 0);
	changed_once(&w);
}
END_TEST

/* A certificate and its key are written one after the other; both are awaited. */
START_TEST(not_before_it_stands_still)
{
	struct file_watch w = watch_both();

	put(a, "11");
	ck_assert(!file_watch_changed(&w));
	put(b, "222");
	ck_assert(!file_watch_changed(&w));
	put(a, "3333");
	ck_assert(!file_watch_changed(&w));
	ck_assert(file_watch_changed(&w));
}
END_TEST

START_TEST(files_come_and_go)
{
	struct file_watch w = watch_both();

	unlink(a);
	changed_once(&w);
	put(a, "one");
	changed_once(&w);
	/* Not there from the beginning. */
	unlink(b);
	file_watch_mark(&w);
	put(b, "one");
	ck_assert(!file_watch_changed(&w));
	ck_assert(file_watch_changed(&w));
}
END_TEST

START_TEST(nothing_to_watch)
{
	struct file_watch w = { 0 };

	file_watch_mark(&w);
	ck_assert(!file_watch_changed(&w) && !file_watch_changed(&w));
}
END_TEST

/* What was not read for want of means is not forgotten. */
START_TEST(could_not_be_read)
{
	static const int means[] = { -ENOMEM, -EMFILE, -ENFILE };
	struct file_watch w = watch_both();

	file_watch_failed(&w, -EINVAL);
	file_watch_failed(&w, 0);
	for (int i = 0; i < 2 * FILE_WATCH_AGAIN; i++)
		ck_assert(!file_watch_changed(&w));
	for (size_t i = 0; i < ARRAY_LEN(means); i++) {
		int looks = 1;

		file_watch_failed(&w, means[i]);
		ck_assert(!file_watch_changed(&w));
		while (!file_watch_changed(&w))
			ck_assert_int_lt(++looks, FILE_WATCH_AGAIN);
		ck_assert(file_watch_changed(&w));
		ck_assert(!file_watch_differs(&w));
		/* A file that is being written is waited for. */
		put(a, i % 2 ? "2" : "333");
		ck_assert(!file_watch_changed(&w));
		ck_assert(file_watch_changed(&w));
		file_watch_mark(&w);
		ck_assert(!file_watch_changed(&w) && !file_watch_changed(&w));
	}
}
END_TEST

UNIT_MAIN("file_watch", tcase_add_checked_fixture(tc, setup, teardown);
	  ADD(every_kind_of_change) ADD(not_before_it_stands_still) ADD(files_come_and_go) ADD(nothing_to_watch)
	  ADD(could_not_be_read))
