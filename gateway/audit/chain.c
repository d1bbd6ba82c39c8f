#include "gateway/audit/chain.h"

#include <inttypes.h>
#include <string.h>

/* How far an edited record may be ahead for its number to be believed; how exact the times of an audit.gap are. */
enum { EDITED_JUMP_MAX = 16, GAP_SLACK_US = 1000000, START_GAP_SEQ_MAX = 2 };

static bool same(const uint8_t a[SHA256_LEN], const uint8_t b[SHA256_LEN])
{
	return memcmp(a, b, SHA256_LEN) == 0;
}

struct finding chain_finding(struct chain *c, enum finding_weight weight, const char *kind, struct place at, uint64_t seq,
			     uint64_t seq_to)
{
	if (weight == FINDING_FAULT)
		c->n_faults++;
	return (struct finding){
		.weight = weight,
		.kind = kind,
		.at = at,
		.side = c->side,
		.chain_id = c->id,
		.seq = seq,
		.seq_to = seq_to,
		.has_seq = true,
	};
}

/* A fault of one record. */
static void say(struct chain *c, struct findings *f, const char *kind, struct place at, uint64_t seq, const char *text)
{
	struct finding w = chain_finding(c, FINDING_FAULT, kind, at, seq, seq);

	finding_add(f, &w, "%s", text);
}

static bool follows(const struct chain_end *e, const uint8_t prev[SHA256_LEN])
{
	return same(e->hash, prev) || same(e->computed, prev);
}

/* ---- Late records ---- */

static void late_flush(struct chain *c, struct findings *f)
{
	struct finding w;

	if (!c->late)
		return;
	c->late = false;
	w = chain_finding(c, FINDING_FAULT, "swapped", c->late_at, c->late_from, c->late_to);
	finding_add(f, &w, "out of order: it comes after seq %" PRIu64, c->late_after);
}

static void late_add(struct chain *c, struct findings *f, const struct log_record *r)
{
	if (c->late && r->own.seq == c->late_to + 1) {
		c->late_to++;
		return;
	}
	late_flush(c, f);
	c->late = true;
	c->late_from = c->late_to = r->own.seq;
	c->late_after = c->next_seq - 1;
	c->late_at = r->at;
}

/* ---- Holes ---- */

static void hole_close(struct chain *c, struct findings *f, size_t i)
{
	const struct chain_hole h = c->holes[i];
	uint64_t n = h.to - h.from + 1;
	struct finding w;

	memmove(&c->holes[i], &c->holes[i + 1], (c->n_holes - i - 1) * sizeof(c->holes[0]));
	c->n_holes--;
	if (h.explained) {
		c->incomplete = true;
		c->n_lost += n;
	}
	w = chain_finding(c, h.explained ? FINDING_UNSURE : FINDING_FAULT, "deleted", h.at, h.from, h.to);
	if (h.explained)
		finding_add(f, &w, "%" PRIu64 " record%s missing before this line; an audit.gap says that not all of that time was kept", n, n == 1 ? "" : "s");
	else
		finding_add(f, &w, "%" PRIu64 " record%s missing before this line", n, n == 1 ? "" : "s");
}

static void hole_open(struct chain *c, struct findings *f, const struct log_record *r)
{
	struct chain_hole *h;

	if (c->n_holes == CHAIN_HOLES_MAX)
		hole_close(c, f, 0);
	h = &c->holes[c->n_holes++];
	*h = (struct chain_hole){
		.from = c->next_seq,
		.to = r->own.seq - 1,
		.at = r->at,
		.from_us = c->last_us,
		.to_us = r->time_us,
	};
	memcpy(h->before, c->last.hash, SHA256_LEN);
	memcpy(h->after, r->prev, SHA256_LEN);
}

/* The record is one of those that were missing: what is left of the hole. */
static void hole_fill(struct chain *c, struct findings *f, size_t i, const struct log_record *r)
{
	struct chain_hole *h = &c->holes[i], rest = *h;
	uint64_t seq = r->own.seq;

	late_add(c, f, r);
	if (!r->intact)
		; /* said already */
	else if ((seq == h->from && !same(r->prev, h->before)) || (seq == h->to && !same(r->own.hash, h->after)))
		say(c, f, "forged", r->at, seq, "it is not the record that the ones around it were chained to");
	if (seq == h->from && seq == h->to) {
		memmove(h, h + 1, (c->n_holes - i - 1) * sizeof(*h));
		c->n_holes--;
	} else if (seq == h->from) {
		h->from++;
		memcpy(h->before, r->own.hash, SHA256_LEN);
	} else {
		h->to = seq - 1;
		memcpy(h->after, r->prev, SHA256_LEN);
		if (seq == rest.to)
			return;
		rest.from = seq + 1;
		rest.told = 0;
		memcpy(rest.before, r->own.hash, SHA256_LEN);
		if (c->n_holes == CHAIN_HOLES_MAX)
			hole_close(c, f, 0);
		c->holes[c->n_holes++] = rest;
	}
}

static bool hole_find(const struct chain *c, uint64_t seq, size_t *ret)
{
	for (size_t i = 0; i < c->n_holes; i++)
		if (seq >= c->holes[i].from && seq <= c->holes[i].to) {
			*ret = i;
			return true;
		}
	return false;
}

/* ---- Records ---- */

static void set_first(struct chain *c, const struct log_record *r)
{
	c->first_seq = r->own.seq;
	memcpy(c->first_prev, r->prev, SHA256_LEN);
}

static void set_last(struct chain *c, const struct log_record *r, uint64_t seq)
{
	memcpy(c->last.hash, r->own.hash, SHA256_LEN);
	memcpy(c->last.computed, r->computed, SHA256_LEN);
	c->last.at = r->at;
	c->next_seq = seq + 1;
	c->last_us = r->time_us ? r->time_us : c->last_us;
}

/* Two records had the last number; the one that this record was chained to is the true one. */
static void settle_rival(struct chain *c, struct findings *f, const struct log_record *r)
{
	bool last_is_true = r && follows(&c->last, r->prev), rival_is_true = r && follows(&c->rival, r->prev);
	const char *text = last_is_true || rival_is_true ? "put in: another record has this number, and the chain goes on from that one"
							 : "another record has this number; one of the two was put in";

	if (!c->has_rival)
		return;
	c->has_rival = false;
	say(c, f, "forged", rival_is_true && !last_is_true ? c->last.at : c->rival.at, c->next_seq - 1, text);
	if (rival_is_true)
		c->last = c->rival;
}

/* The record with the number that is due. */
static void add_next(struct chain *c, struct findings *f, const struct log_record *r, uint64_t seq)
{
	bool edited_last = !same(c->last.hash, c->last.computed);

	late_flush(c, f);
	settle_rival(c, f, r);
	if (r->intact && !edited_last && !follows(&c->last, r->prev))
		say(c, f, "forged", c->last.at, c->next_seq - 1,
		    "replaced: it is not the record that the next one was chained to");
	set_last(c, r, seq);
}

static void add_ahead(struct chain *c, struct findings *f, const struct log_record *r)
{
	late_flush(c, f);
	settle_rival(c, f, NULL);
	hole_open(c, f, r);
	set_last(c, r, r->own.seq);
}

/* The number was there before. */
static void add_again(struct chain *c, struct findings *f, const struct heads *h, const struct log_record *r)
{
	uint64_t seq = r->own.seq;
	enum heads_answer known = heads_ask(h, c->index, seq, r->own.hash);

	if (!r->intact)
		return;
	if (known == HEADS_SAME) {
		say(c, f, "doubled", r->at, seq, "the same record again");
	} else if (known == HEADS_UNKNOWN) {
		say(c, f, "doubled", r->at, seq, "a record with this number came long before");
	} else if (seq + 1 == c->next_seq && !c->has_rival) {
		c->has_rival = true;
		c->rival = (struct chain_end){ .at = r->at };
		memcpy(c->rival.hash, r->own.hash, SHA256_LEN);
		memcpy(c->rival.computed, r->computed, SHA256_LEN);
	} else {
		say(c, f, "forged", r->at, seq, "put in: another record with this number came before");
	}
}

/* In front of everything that was read so far. */
static void add_before(struct chain *c, struct findings *f, const struct log_record *r)
{
	bool linked = r->own.seq + 1 == c->first_seq;
	size_t i;

	late_add(c, f, r);
	if (linked && r->intact && !same(c->first_prev, r->own.hash))
		say(c, f, "forged", r->at, r->own.seq, "it is not the record that the next one was chained to");
	if (!linked) {
		if (c->n_holes == CHAIN_HOLES_MAX)
			hole_close(c, f, 0);
		i = c->n_holes++;
		c->holes[i] = (struct chain_hole){ .from = r->own.seq + 1, .to = c->first_seq - 1, .at = r->at };
		memcpy(c->holes[i].before, r->own.hash, SHA256_LEN);
		memcpy(c->holes[i].after, c->first_prev, SHA256_LEN);
	}
	set_first(c, r);
}

/* Its place, which for an edited record need not be what its number says. */
static bool find_seq(const struct chain *c, const struct log_record *r, uint64_t *ret)
{
	size_t i;

	*ret = r->own.seq;
	if (r->intact || c->n_records == 0 || r->own.seq == c->next_seq)
		return true;
	if (follows(&c->last, r->prev)) {
		*ret = c->next_seq;
		return true;
	}
	return hole_find(c, r->own.seq, &i) ||
	       (r->own.seq > c->next_seq && r->own.seq - c->next_seq <= EDITED_JUMP_MAX);
}

static enum chain_result place_record(struct chain *c, struct findings *f, struct heads *h, const struct log_record *r,
				      uint64_t seq)
{
	size_t i;

	if (c->n_records == 0) {
		set_first(c, r);
		set_last(c, r, seq);
	} else if (seq == c->next_seq) {
		add_next(c, f, r, seq);
	} else if (seq > c->next_seq) {
		add_ahead(c, f, r);
	} else if (hole_find(c, seq, &i)) {
		hole_fill(c, f, i, r);
	} else if (seq < c->first_seq) {
		add_before(c, f, r);
	} else {
		add_again(c, f, h, r);
		return CHAIN_AGAIN;
	}
	heads_put(h, c->index, seq, r->own.hash);
	return CHAIN_COUNTS;
}

static void note_record(struct chain *c, struct findings *f, const struct log_record *r, uint64_t no)
{
	if (c->n_records++ == 0) {
		c->first_no = no;
		c->first_us = r->time_us;
		c->first_at = r->at;
	}
	c->last_no = no;
	if (c->stopped && !c->after_stop && r->own.seq + 1 == c->next_seq) {
		c->after_stop = true;
		say(c, f, "forged", r->at, r->own.seq, "put in behind gateway.stop, which is the last record of a process");
	}
	if (r->words[LOG_EVENT].p && span_is(r->words[LOG_EVENT], "gateway.stop"))
		c->stopped = true;
}

enum chain_result chain_add(struct chain *c, struct findings *f, struct heads *h, const struct log_record *r, uint64_t no)
{
	enum chain_result result = CHAIN_COUNTS;
	uint64_t seq;
	bool placed = find_seq(c, r, &seq);

	if (!r->intact)
		say(c, f, "edited", r->at, seq,
		    same(r->computed, r->own.hash) ? "the hash at the end of MESSAGE is not MCP_CHAIN"
						   : "what it says does not match its hash");
	if (placed)
		result = place_record(c, f, h, r, seq);
	if (result == CHAIN_COUNTS)
		note_record(c, f, r, no);
	return result;
}

/* ---- Gaps, and the end ---- */

/* Causes that say: what was sent may not have been kept. Records were numbered, so the chain shows whether that is so. */
static bool is_about_kept(struct span cause)
{
	return span_starts(cause, "read-back") || span_is(cause, "volatile-storage");
}

/* Whether the gap is about the time before this process: it is told at once, behind gateway.start. */
static bool is_before(const struct chain *c, const struct log_record *r)
{
	uint64_t from;

	return c->first_seq == 0 && r->own.seq <= START_GAP_SEQ_MAX && log_time(r->words[LOG_GAP_FROM], &from) && from < c->first_us;
}

static uint64_t hole_untold(const struct chain_hole *h)
{
	uint64_t n = h->to - h->from + 1;

	return n > h->told ? n - h->told : 0;
}

/* Of the holes of that time: those that count covers, or else a part of one. What is left of it. */
static uint64_t tell_holes(struct chain *c, uint64_t from, uint64_t to, uint64_t count, bool in_part)
{
	for (size_t i = 0; i < c->n_holes; i++) {
		struct chain_hole *h = &c->holes[i];
		uint64_t n = hole_untold(h);

		if (h->explained || from >= h->to_us + GAP_SLACK_US || to + GAP_SLACK_US <= h->from_us || (n > count && !in_part))
			continue;
		n = MIN(n, count);
		h->told += n;
		h->explained = hole_untold(h) == 0;
		count -= n;
	}
	return count;
}

/* count: what the gap says is missing; a hole that is larger than all that was said of its time has another cause. */
static void explain_holes(struct chain *c, const struct log_record *r, uint64_t count)
{
	uint64_t from, to;

	if (!log_time(r->words[LOG_GAP_FROM], &from) || !log_time(r->words[LOG_GAP_TO], &to))
		return;
	count = tell_holes(c, from, to, count, false);
	tell_holes(c, from, to, count, true);
}

void chain_gap(struct chain *c, struct findings *f, const struct log_record *r)
{
	struct span cause = r->words[LOG_GAP_CAUSE];
	char text[FINDING_TEXT_MAX];
	uint64_t count = 0;
	struct finding w;

	if (!r->words[LOG_GAP_COUNT].p || span_u64(r->words[LOG_GAP_COUNT], &count) < 0)
		count = 0;
	w = chain_finding(c, FINDING_NOTE, "gap", r->at, r->own.seq, r->own.seq);
	finding_text(cause, text);
	if (span_is(cause, "killed")) {
		if (!r->words[LOG_CALL_ID].p)
			c->n_killed += count;
		finding_add(f, &w, "the process before was killed; calls that were open: %" PRIu64, count);
	} else if (span_is(cause, "state-missing")) {
		c->gap_state_missing = true;
		finding_add(f, &w, "the process did not know where the one before had ended");
	} else if (is_about_kept(cause) && count && is_before(c, r)) {
		c->n_cut += count;
		w.weight = FINDING_UNSURE;
		finding_add(f, &w, "at the start, %" PRIu64 " records of the process before were gone from the log", count);
	} else if (is_about_kept(cause)) {
		explain_holes(c, r, count);
		finding_add(f, &w, "%s, %" PRIu64 " records; what is missing of them shows in the sequence", text, count);
	} else {
		c->n_lost += count;
		c->incomplete = c->incomplete || count;
		w.weight = count ? FINDING_UNSURE : FINDING_NOTE;
		finding_add(f, &w, "%s, %" PRIu64 " records were never written", text, count);
	}
}

void chain_finish(struct chain *c, struct findings *f)
{
	late_flush(c, f);
	settle_rival(c, f, NULL);
	while (c->n_holes)
		hole_close(c, f, 0);
}
