#include "daemon/audit_read.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-journal.h>
#include <systemd/sd-login.h>
#include <unistd.h>

#include "base/encode.h"
#include "base/span.h"
#include "daemon/digest.h"

enum {
	LOOK_EVERY = 64, /* records between two looks at the clock */
	OTHERS_MAX = 1000, /* records of others that are passed over */
	FIND_PAUSE_US = 50 * 1000,
};

static void close_journal(sd_journal **j)
{
	sd_journal_close(*j);
}

void audit_read_pos_done(struct audit_read_pos *p)
{
	free(p->cursor);
	*p = (struct audit_read_pos){ 0 };
}

int audit_read_pos_copy(struct audit_read_pos *dst, const struct audit_read_pos *src)
{
	char *cursor = src->cursor ? strdup(src->cursor) : NULL;

	if (src->cursor && !cursor)
		return -ENOMEM;
	free(dst->cursor);
	*dst = *src;
	dst->cursor = cursor;
	return 0;
}

static int place(const char *top, char *dst, size_t size)
{
	char text[SD_ID128_STRING_MAX];
	sd_id128_t id;
	int r = sd_id128_get_machine(&id);

	if (r < 0)
		return r;
	snprintf(dst, size, "%s/%s", top, sd_id128_to_string(id, text));
	return 0;
}

int audit_read_disk(char *dst, size_t size)
{
	return place("/var/log/journal", dst, size);
}

static bool denied(const char *path, int mode)
{
	return faccessat(AT_FDCWD, path, mode, AT_EACCESS) < 0 && errno == EACCES;
}

static bool denied_in(const char *directory)
{
	char path[4200];

	snprintf(path, sizeof(path), "%s/system.journal", directory);
	return denied(directory, R_OK | X_OK) || denied(path, R_OK);
}

bool audit_read_denied(const char *directory)
{
	char path[128];

	if (directory)
		return denied_in(directory);
	return (audit_read_disk(path, sizeof(path)) == 0 && denied_in(path)) ||
	       (place("/run/log/journal", path, sizeof(path)) == 0 && denied_in(path));
}

/* The files of other users are none of ours. */
static int open_journal(const char *directory, sd_journal **ret)
{
	const int files = SD_JOURNAL_SYSTEM | SD_JOURNAL_CURRENT_USER;

	if (directory)
		return sd_journal_open_directory(ret, directory, files);
	return sd_journal_open(ret, SD_JOURNAL_LOCAL_ONLY | files);
}

static int add_match(sd_journal *j, const char *name, const char *value)
{
	char text[320];
	int n = snprintf(text, sizeof(text), "%s=%s", name, value);

	return n < (int)sizeof(text) ? sd_journal_add_match(j, text, (size_t)n) : -EINVAL;
}

/* Absent when the record does not have it, or cannot be read. */
static struct span field_of(sd_journal *j, const char *name)
{
	const void *data = NULL;
	size_t len = 0, skip = strlen(name) + 1;

	if (sd_journal_get_data(j, name, &data, &len) < 0 || len < skip)
		return (struct span){ NULL, 0 };
	return span_make((const char *)data + skip, len - skip);
}

static uint64_t stored_us(sd_journal *j)
{
	uint64_t us = 0;

	return sd_journal_get_realtime_usec(j, &us) < 0 ? 0 : us;
}

/* ---- One chain ---- */

static int keep_position(sd_journal *j, struct audit_read_pos *pos)
{
	char *cursor = NULL;
	int r = sd_journal_get_cursor(j, &cursor);

	if (r < 0)
		return r;
	free(pos->cursor);
	pos->cursor = cursor;
	return 0;
}

static void add_hole(struct audit_read_scan *s, uint64_t first, uint64_t last, uint64_t to_us)
{
	first = MAX(first, atomic_load(s->told_to));
	if (first > last)
		return;
	if (!s->missing) {
		s->first_missing = first;
		s->from_us = s->pos->wall_us;
	}
	s->missing += last - first + 1;
	s->last_missing = last;
	s->to_us = to_us;
}

/* unsure: nothing tells whether what is missing before it was ever stored. */
static void take_record(struct audit_read_scan *s, sd_journal *j, bool unsure)
{
	struct audit_read_pos *pos = s->pos;
	uint64_t next = pos->any ? pos->seq + 1 : 0, seq;

	if (span_u64(field_of(j, "MCP_SEQ"), &seq) < 0)
		return;
	s->counted++;
	s->late += seq >= next && seq < atomic_load(s->told_to);
	if (seq < next)
		return;
	if (seq > next && unsure)
		s->vacuumed += seq - next;
	else if (seq > next)
		add_hole(s, next, seq - 1, stored_us(j));
	pos->any = true;
	pos->seq = seq;
	pos->wall_us = stored_us(j);
}

static bool is_over(const struct audit_read_scan *s)
{
	return atomic_load(s->stop) || clock_now_us() >= s->until_us;
}

/* To the first record that is new. 0: none; ret_gone: the one before is not there any more. */
static int seek(sd_journal *j, const struct audit_read_pos *pos, bool *ret_gone)
{
	int r = pos->cursor ? sd_journal_seek_cursor(j, pos->cursor) : sd_journal_seek_head(j);

	if (r >= 0)
		r = sd_journal_next(j);
	if (r <= 0 || !pos->cursor)
		return r;
	r = sd_journal_test_cursor(j, pos->cursor);
	if (r < 0)
		return r;
	*ret_gone = r == 0;
	return r == 0 ? 1 : sd_journal_next(j);
}

static int follow(struct audit_read_scan *s, sd_journal *j)
{
	bool gone = false;
	int r = seek(j, s->pos, &gone), kept = 0;

	for (unsigned n = 1; r > 0; n++) {
		take_record(s, j, gone);
		gone = false;
		if (n % LOOK_EVERY == 0 && is_over(s)) {
			kept = keep_position(j, s->pos);
			return kept;
		}
		r = sd_journal_next(j);
		/* At the end it stays where it was. */
		if (r == 0)
			kept = keep_position(j, s->pos);
	}
	s->complete = r == 0;
	return r < 0 ? r : kept;
}

int audit_read_scan(struct audit_read_scan *s)
{
	_cleanup_(close_journal) sd_journal *j = NULL;
	int r = open_journal(s->directory, &j);

	s->complete = false;
	if (r >= 0)
		r = add_match(j, "MCP_CHAIN_ID", s->chain_id);
	return r < 0 ? r : follow(s, j);
}

static int have_one(sd_journal *j, const char *chain_id, uint64_t seq)
{
	char number[24];
	int r;

	snprintf(number, sizeof(number), "%" PRIu64, seq);
	sd_journal_flush_matches(j);
	r = add_match(j, "MCP_CHAIN_ID", chain_id);
	if (r >= 0)
		r = add_match(j, "MCP_SEQ", number);
	if (r >= 0)
		r = sd_journal_seek_head(j);
	return r < 0 ? r : sd_journal_next(j);
}

int audit_read_have(const char *chain_id, const char *directory, const atomic_bool *stop, const uint64_t *seqs, size_t n,
		    bool *ret_have)
{
	_cleanup_(close_journal) sd_journal *j = NULL;
	int r = open_journal(directory, &j);

	for (size_t i = 0; r >= 0 && i < n; i++) {
		if (atomic_load(stop))
			return -ECANCELED;
		r = have_one(j, chain_id, seqs[i]);
		ret_have[i] = r > 0;
	}
	return MIN(r, 0);
}

/* ---- The newest head ---- */

static bool is_hex(struct span s, size_t len)
{
	uint8_t bytes[SHA256_LEN];

	return s.len == len && hex_decode(s, bytes, len / 2) == 0;
}

static bool take_head(sd_journal *j, struct audit_watch_head *ret)
{
	struct audit_watch_head h = { .time_us = stored_us(j) };
	struct span s = field_of(j, "MCP_CHAIN_ID");

	if (!is_hex(s, sizeof(h.chain_id) - 1))
		return false;
	memcpy(h.chain_id, s.p, s.len);
	s = field_of(j, "MCP_CHAIN");
	if (!is_hex(s, sizeof(h.head) - 1))
		return false;
	memcpy(h.head, s.p, s.len);
	if (span_u64(field_of(j, "MCP_SEQ"), &h.seq) < 0)
		return false;
	h.stop = span_is(field_of(j, "MCP_EVENT"), "gateway.stop");
	*ret = h;
	return true;
}

static bool is_service(struct span unit)
{
	const struct span end = SPAN(".service");

	return unit.len > end.len && memcmp(unit.p + unit.len - end.len, end.p, end.len) == 0 &&
	       !span_starts(unit, "user@");
}

/* The unit of this process if it is a service. */
static char *own_service(void)
{
	char *unit = NULL;

	if (sd_pid_get_unit(0, &unit) < 0)
		return NULL;
	if (is_service(span_of(unit)))
		return unit;
	free(unit);
	return NULL;
}

static int add_own_matches(sd_journal *j, const char *identifier, const char *service)
{
	char uid[24];
	int r = add_match(j, "SYSLOG_IDENTIFIER", identifier);

	/* The log lines of the same program do not have it. */
	if (r >= 0)
		r = add_match(j, "MCP_SCHEMA", "1");
	if (r < 0)
		return r;
	if (service)
		return add_match(j, "_SYSTEMD_UNIT", service);
	snprintf(uid, sizeof(uid), "%u", geteuid());
	return add_match(j, "_UID", uid);
}

static int find_last(sd_journal *j, bool in_service, uint64_t until_us, struct audit_watch_head *ret)
{
	int r = sd_journal_seek_tail(j);

	for (int i = 0; r >= 0 && i < OTHERS_MAX && clock_now_us() < until_us; i++) {
		r = sd_journal_previous(j);
		if (r == 0)
			return -ENOENT;
		/* A service of the same user has a chain of its own. */
		if (r > 0 && (in_service || !is_service(field_of(j, "_SYSTEMD_UNIT"))) && take_head(j, ret))
			return 0;
	}
	return r < 0 ? r : -ENOENT;
}

int audit_read_last(const char *identifier, const char *directory, uint64_t until_us, struct audit_watch_head *ret)
{
	_cleanup_(close_journal) sd_journal *j = NULL;
	_cleanup_(freep) char *service = own_service();
	int r = open_journal(directory, &j);

	if (r >= 0)
		r = add_own_matches(j, identifier, service);
	if (r >= 0)
		r = find_last(j, service, until_us, ret);
	return r == -ENOENT && audit_read_denied(directory) ? -EACCES : r;
}

/* ---- One record ---- */

static int look_for(const char *nonce, const char *directory)
{
	_cleanup_(close_journal) sd_journal *j = NULL;
	int r = open_journal(directory, &j);

	if (r >= 0)
		r = add_match(j, "MCP_NONCE", nonce);
	if (r >= 0)
		r = sd_journal_seek_head(j);
	return r < 0 ? r : sd_journal_next(j);
}

int audit_read_find(const char *nonce, const char *directory, uint64_t until_us)
{
	int r;

	for (;;) {
		/* Anew each time: the file that holds it may be new. */
		r = look_for(nonce, directory);
		if (r > 0)
			return 0;
		if (clock_now_us() >= until_us)
			break;
		usleep(FIND_PAUSE_US);
	}
	if (r < 0 && r != -ENOENT)
		return r;
	return audit_read_denied(directory) ? -EACCES : -ENOENT;
}
