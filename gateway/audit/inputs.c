#include "gateway/audit/inputs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/audit/lines.h"

enum { PEEK_LINES = 1000, BAD_SAID_MAX = 5 };

struct queued {
	size_t file;
	uint64_t time_us; /* of its first record; 0: not known */
};

/* The files of one side, one after the other. */
struct stream {
	enum side side;
	struct queued *queue;
	size_t n, at;
	struct lines *lines;
	struct log_parser *parser;
	struct log_record record;
	bool has, over;
	uint64_t n_bad; /* of the file that is read */
};

struct inputs {
	const struct input_file *files;
	size_t n;
	struct findings *f;
	struct stream streams[SIDE_N];
	struct stream *taken; /* whose record the caller has */
	uint64_t n_other;
};

static void stream_done(struct stream *s)
{
	lines_close(s->lines);
	log_parser_free(s->parser);
	free(s->queue);
}

struct inputs *inputs_free(struct inputs *in)
{
	for (int s = 0; in && s < SIDE_N; s++)
		stream_done(&in->streams[s]);
	free(in);
	return NULL;
}

/* ---- Which file when ---- */

/* The first record, where the file can be read twice. */
static void peek(struct log_parser *p, const char *path, enum side *side, uint64_t *ret_us)
{
	_cleanup_(lines_closep) struct lines *l = NULL;
	struct log_record r;
	struct span line;
	struct stat st;
	const char *why;

	if (strcmp(path, "-") == 0 || stat(path, &st) < 0 || !S_ISREG(st.st_mode) || lines_open(path, &l) < 0)
		return;
	for (int i = 0; i < PEEK_LINES && lines_next(l, &line) > LINES_END; i++)
		if (log_parse(p, line, *side, &r, &why) == LOG_RECORD) {
			*side = r.side;
			*ret_us = r.time_us;
			return;
		}
}

static int queue_files(struct inputs *in)
{
	for (size_t i = 0; i < in->n; i++) {
		enum side side = in->files[i].is_relay ? SIDE_RELAY : SIDE_GATEWAY;
		struct stream *s;
		uint64_t time_us = 0;

		peek(in->streams[0].parser, in->files[i].path, &side, &time_us);
		s = &in->streams[in->files[i].is_relay ? SIDE_RELAY : side];
		s->queue[s->n++] = (struct queued){ i, time_us };
	}
	return 0;
}

/* Stable, and only where every time is known. */
static void sort_files(struct stream *s)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->queue[i].time_us == 0)
			return;
	for (size_t i = 1; i < s->n; i++)
		for (size_t j = i; j > 0 && s->queue[j - 1].time_us > s->queue[j].time_us; j--) {
			struct queued q = s->queue[j];

			s->queue[j] = s->queue[j - 1];
			s->queue[j - 1] = q;
		}
}

int inputs_new(const struct input_file *files, size_t n, struct findings *f, struct inputs **ret)
{
	_cleanup_(inputs_freep) struct inputs *in = calloc(1, sizeof(*in));

	if (!in)
		return -ENOMEM;
	in->files = files;
	in->n = n;
	in->f = f;
	for (int s = 0; s < SIDE_N; s++) {
		in->streams[s].side = s;
		in->streams[s].queue = calloc(n + 1, sizeof(struct queued));
		if (!in->streams[s].queue || log_parser_new(&in->streams[s].parser) < 0)
			return -ENOMEM;
	}
	queue_files(in);
	for (int s = 0; s < SIDE_N; s++)
		sort_files(&in->streams[s]);
	*ret = steal_ptr(&in);
	return 0;
}

bool inputs_have_both(const struct inputs *in)
{
	return in->streams[SIDE_GATEWAY].n && in->streams[SIDE_RELAY].n;
}

uint64_t inputs_others(const struct inputs *in)
{
	return in->n_other;
}

/* ---- Lines to records ---- */

static void say_file(struct inputs *in, size_t file, const char *what)
{
	struct finding w = { .weight = FINDING_UNSURE, .kind = "unreadable" };
	char name[FINDING_TEXT_MAX];

	finding_add(in->f, &w, "%s: %s", finding_text(span_of(in->files[file].path), name), what);
}

static void say_line(struct inputs *in, struct stream *s, enum finding_weight weight, const char *kind, const char *what)
{
	struct finding w = { .weight = weight,
			     .kind = kind,
			     .at = { .file = (uint32_t)s->queue[s->at].file, .line = lines_number(s->lines) } };

	finding_add(in->f, &w, "%s", what);
}

static bool stream_open(struct inputs *in, struct stream *s)
{
	while (!s->lines && s->at < s->n) {
		size_t file = s->queue[s->at].file;
		int r = lines_open(in->files[file].path, &s->lines);

		s->n_bad = 0;
		if (r == 0)
			return true;
		say_file(in, file, strerror(-r));
		s->at++;
	}
	return s->lines != NULL;
}

static void stream_close(struct inputs *in, struct stream *s)
{
	struct finding w = { .weight = FINDING_UNSURE, .kind = "unreadable" };
	char name[FINDING_TEXT_MAX];

	if (s->n_bad > BAD_SAID_MAX)
		finding_add(in->f, &w, "%s: %" PRIu64 " further lines like these",
			    finding_text(span_of(in->files[s->queue[s->at].file].path), name), s->n_bad - BAD_SAID_MAX);
	s->lines = lines_close(s->lines);
	s->at++;
}

static void say_bad(struct inputs *in, struct stream *s, const char *why)
{
	if (s->n_bad++ < BAD_SAID_MAX)
		say_line(in, s, FINDING_UNSURE, "unreadable", why);
}

/* Whether the line is a record. -errno. */
static int take_line(struct inputs *in, struct stream *s, struct span line)
{
	const char *why = "";
	int r;

	if (line.len == 0)
		return 0;
	r = log_parse(s->parser, line, s->side, &s->record, &why);
	switch (r) {
	case LOG_RECORD:
		s->record.at = (struct place){ .file = (uint32_t)s->queue[s->at].file, .line = lines_number(s->lines) };
		return 1;
	case LOG_OTHER:
		in->n_other++;
		return 0;
	case LOG_CUT:
		say_line(in, s, FINDING_NOTE, "unreadable", "a record that was not written to its end; the sequence shows whether it counts");
		return 0;
	case LOG_BAD:
		say_bad(in, s, why);
		return 0;
	case LOG_UNCHAINED:
		say_line(in, s, FINDING_FAULT, "forged", why);
		return 0;
	default:
		return r;
	}
}

static int stream_next(struct inputs *in, struct stream *s)
{
	while (stream_open(in, s)) {
		struct span line;
		int r = lines_next(s->lines, &line);

		if (r == LINES_TOO_LONG) {
			in->n_other++;
		} else if (r <= LINES_END) {
			if (r < 0)
				say_file(in, s->queue[s->at].file, strerror(-r));
			stream_close(in, s);
		} else {
			r = take_line(in, s, line);
			if (r != 0)
				return r;
		}
	}
	return 0;
}

static int stream_fill(struct inputs *in, struct stream *s)
{
	int r;

	if (s->has || s->over)
		return 0;
	r = stream_next(in, s);
	s->has = r > 0;
	s->over = r == 0;
	return r < 0 ? r : 0;
}

int inputs_next(struct inputs *in, const struct log_record **ret)
{
	struct stream *g = &in->streams[SIDE_GATEWAY], *rl = &in->streams[SIDE_RELAY], *s;
	int r;

	if (in->taken)
		in->taken->has = false;
	in->taken = NULL;
	r = stream_fill(in, g);
	if (r == 0)
		r = stream_fill(in, rl);
	if (r < 0 || !(g->has || rl->has))
		return r;
	s = !rl->has || (g->has && g->record.time_us <= rl->record.time_us) ? g : rl;
	in->taken = s;
	*ret = &s->record;
	return 1;
}
