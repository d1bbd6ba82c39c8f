#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/encode.h"
#include "daemon/audit_watch.h"
#include "daemon/digest.h"
#include "daemon/doctor_checks.h"
#include "daemon/health.h"
#include "daemon/health_client.h"
#include "daemon/journal.h"
#include "daemon/state_dir.h"

enum {
	NONCE_BYTES = 16,
	NONCE_LEN = 2 * NONCE_BYTES,
	ANSWER_MAX = 16 * 1024,
	FILE_MS = 3000, /* a program writes within a turn of its loop */
	FIND_MS = 5000,
	DISK_MS = 1000,
	FIND_STEP_MS = 50,
	CANARY_TRIES = 3,
	CANARY_PAUSE_MS = 1100, /* more than one a second is refused */
	TAIL_MAX = 1024 * 1024,
	ROOM_MIN_MB = 64,
};

static const char to_write[] = "see the log of the running program; its records may go elsewhere: compare --audit of the service";

static int make_nonce(char nonce[NONCE_LEN + 1])
{
	uint8_t bytes[NONCE_BYTES];
	int r = random_bytes(bytes, sizeof(bytes));

	if (r == 0)
		hex_encode(bytes, sizeof(bytes), nonce);
	return r;
}

/* ---- a program that runs writes one ---- */

static unsigned ask_once(const struct doctor_running *running, const char *nonce)
{
	struct span body = { NULL, 0 };
	char request[512];
	struct buf answer;
	bool connected;
	unsigned status = 0;

	snprintf(request, sizeof(request),
		 "POST " HEALTH_CANARY_PATH " HTTP/1.1\r\nHost: %s\r\n" HEALTH_NONCE_HEADER ": %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		 running->addr.authority, nonce);
	buf_init(&answer, ANSWER_MAX);
	if (health_ask(&running->addr, request, &answer, &connected) == 0)
		status = health_answer(buf_span(&answer), &body);
	buf_done(&answer);
	return status;
}

static unsigned ask_canary(const struct doctor_running *running, const char *nonce)
{
	unsigned status = 429;

	for (int i = 0; i < CANARY_TRIES && status == 429; i++) {
		if (i)
			usleep(CANARY_PAUSE_MS * 1000);
		status = ask_once(running, nonce);
	}
	return status;
}

/* ---- files ---- */

/* 1: it is there; 0: not; -errno. */
static int look_at_tail(const char *path, const char *nonce)
{
	_cleanup_(freep) char *tail = malloc(TAIL_MAX);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), r;
	struct stat st;
	ssize_t n;

	if (fd < 0 || !tail) {
		r = fd < 0 ? -errno : -ENOMEM;
	} else {
		if (fstat(fd, &st) < 0)
			st.st_size = 0;
		n = pread(fd, tail, TAIL_MAX, st.st_size > TAIL_MAX ? st.st_size - TAIL_MAX : 0);
		r = n < 0 ? -errno : n > 0 && memmem(tail, (size_t)n, nonce, NONCE_LEN) != NULL;
	}
	if (fd >= 0)
		close(fd);
	return r;
}

static int find_in_file(const char *path, const char *nonce)
{
	int r = 0;

	for (int ms = 0; r == 0 && ms < FILE_MS; ms += FIND_STEP_MS) {
		r = look_at_tail(path, nonce);
		if (r == 0)
			usleep(FIND_STEP_MS * 1000);
	}
	return r;
}

static void check_written_file(struct doctor *d, const struct audit_options *o, const char *nonce)
{
	int r = find_in_file(o->path, nonce);

	if (r > 0)
		doctor_ok(d, "the running program wrote a record, and it is in %s", o->path);
	else if (r == 0)
		doctor_fail(d, to_write, "the running program took a record, but it is not in %s", o->path);
	else
		doctor_warn(d, "run this as root or as the program's user", "the running program took a record; %s cannot be read: %s", o->path, strerror(-r));
}

static int name_owner(const char *path, struct stat *st, char *owner, size_t size)
{
	if (stat(path, st) < 0)
		return -errno;
	state_dir_user_name(st->st_uid, owner, size);
	return 0;
}

/* Root may write everything; the service's user may not. Files of a directory belong to whoever it was made for. */
static bool is_foreign(const char *path, const char *dir, char *file_owner, char *dir_owner, size_t size)
{
	struct stat file, parent;

	return name_owner(path, &file, file_owner, size) == 0 && name_owner(dir, &parent, dir_owner, size) == 0 && geteuid() == 0 &&
	       file.st_uid != parent.st_uid && parent.st_uid != 0 && S_ISREG(file.st_mode);
}

static int can_append(const char *path, const char *dir)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (errno != ENOENT)
		return -errno;
	return faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

static void check_file(struct doctor *d, const char *path)
{
	_cleanup_(freep) char *copy = strdup(path);
	const char *dir = copy ? dirname(copy) : "/";
	char owner[33], dir_owner[33], remedy[DOCTOR_DETAIL_MAX];
	struct statvfs fs = { 0 };
	int r = can_append(path, dir);
	uint64_t room_mb;

	if (r < 0) {
		snprintf(remedy, sizeof(remedy), "let the program's user write there, or name another file with --audit; no call is made without its record");
		doctor_fail(d, remedy, "cannot write %s: %s", path, strerror(-r));
		return;
	}
	if (is_foreign(path, dir, owner, dir_owner, sizeof(owner))) {
		snprintf(remedy, sizeof(remedy), "chown %s %s", dir_owner, path);
		doctor_warn(d, remedy, "%s belongs to %s, its directory to %s, who may be unable to write it", path, owner, dir_owner);
		return;
	}
	room_mb = statvfs(dir, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize / 1024 / 1024 : UINT64_MAX;
	if (room_mb < ROOM_MIN_MB)
		doctor_warn(d, "make room: calls are refused when the disk is full", "%s can be written, but its disk has only %llu MB left", path,
			    (unsigned long long)room_mb);
	else
		doctor_ok(d, "%s can be written (nothing was: no program runs that could)", path);
}

/* ---- the journal ---- */

static int send_probe(const char *nonce)
{
	_cleanup_(journal_freep) struct journal *j = NULL;
	const struct journal_field fields[] = {
		{ "MESSAGE", SPAN("mcp-tunnel doctor: a try whether journald keeps what it takes; no audit record") },
		{ "PRIORITY", SPAN("6") },
		{ "SYSLOG_IDENTIFIER", SPAN("mcp-tunnel-doctor") },
		{ "MCP_NONCE", span_of(nonce) },
	};
	int r = journal_new(NULL, &j);

	if (r == 0)
		r = journal_connect(j);
	return r < 0 ? r : journal_send(j, fields, ARRAY_LEN(fields));
}

static void check_journal(struct doctor *d, const struct audit_options *o, const char *nonce, const char *who)
{
	bool on_disk = o->read_back_choice == AUDIT_READ_BACK_DISK;
	int r = audit_watch_find(nonce, false, FIND_MS);
	bool in_memory = r == 0 && on_disk && audit_watch_find(nonce, true, DISK_MS) == -ENOENT;

	if (in_memory) {
		doctor_fail(d, "set Storage=persistent in journald.conf and make room on its disk, or take --audit-read-back any",
			    "the journal is kept in memory only, and --audit-read-back is disk: calls are refused");
	} else if (r == 0) {
		doctor_ok(d, "journald took a record%s, and it is in the journal%s", who, on_disk ? " on disk" : "");
	} else if (r == -EACCES) {
		doctor_warn(d, "run this as root, or let the user into the group systemd-journal",
			    "journald took a record%s; whether it kept it cannot be told: the journal may not be read", who);
	} else if (r == -ENOENT) {
		doctor_fail(d, "look for MaxLevelStore=, Storage=none, rate limits and a full disk: journalctl -u systemd-journald",
			    "journald took a record%s, but it is not in the journal", who);
	} else {
		doctor_warn(d, "try: journalctl -n 1", "journald took a record%s; reading the journal failed: %s", who, strerror(-r));
	}
}

/* ---- all of it ---- */

static void check_alone(struct doctor *d, const struct audit_options *o, const char *nonce)
{
	int r;

	if (o->sink == AUDIT_FILE) {
		check_file(d, o->path);
		return;
	}
	r = send_probe(nonce);
	if (r < 0)
		doctor_fail(d, "start journald (systemctl status systemd-journald), or name a file: --audit file:/PATH", "journald does not take records at " JOURNAL_SOCKET ": %s",
			    strerror(-r));
	else
		check_journal(d, o, nonce, "");
}

static void check_running(struct doctor *d, const struct audit_options *o, const struct doctor_running *r, const char *nonce)
{
	unsigned status = ask_canary(r, nonce);

	if (status != 200)
		doctor_fail(d, to_write, "the running program does not write records: it answers %u to a request for one at %s", status, r->where);
	else if (o->sink == AUDIT_FILE)
		check_written_file(d, o, nonce);
	else
		check_journal(d, o, nonce, " of the running program");
}

void doctor_check_audit(struct doctor *d, const struct audit_options *o, const struct doctor_running *r)
{
	char nonce[NONCE_LEN + 1];

	doctor_begin(d, "audit", NULL);
	if (o->sink == AUDIT_NONE && o->chosen)
		doctor_ok(d, "none, as --audit says: calls are not written down");
	else if (o->sink == AUDIT_NONE)
		doctor_warn(d, "use --audit file:/PATH, or --audit none to say that this is meant",
			    "calls are not written down: there is no journald here (" JOURNAL_SOCKET ")");
	else if (make_nonce(nonce) < 0)
		doctor_fail(d, "look at the kernel's log", "no random numbers");
	else if (r->answers)
		check_running(d, o, r, nonce);
	else
		check_alone(d, o, nonce);
}
