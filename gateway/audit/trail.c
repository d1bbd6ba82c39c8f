#include "gateway/audit/trail.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { RELAY_NEWEST = 4096, CHAINS_FIRST = 16 };

struct chain_key {
	uint8_t key[KEYMAP_KEY_LEN];
	uint32_t index;
	uint32_t unused;
};

struct trail {
	struct findings *f;
	struct keymap ids;
	struct chain **chains;
	size_t n_chains, cap_chains;
	struct heads heads[SIDE_N];
	struct keymap claims;
	struct calls calls;
	bool chains_full, claims_full;
	uint64_t n_read;
	struct trail_sums sums;
};

struct trail *trail_free(struct trail *t)
{
	if (!t)
		return NULL;
	for (size_t i = 0; i < t->n_chains; i++)
		free(t->chains[i]);
	free(t->chains);
	keymap_done(&t->ids);
	keymap_done(&t->claims);
	calls_done(&t->calls);
	for (int s = 0; s < SIDE_N; s++)
		heads_done(&t->heads[s]);
	free(t);
	return NULL;
}

int trail_new(struct findings *f, size_t n_newest, struct trail **ret)
{
	_cleanup_(trail_freep) struct trail *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->f = f;
	r = keymap_init(&t->ids, sizeof(struct chain_key), TRAIL_CHAINS_MAX);
	if (r == 0)
		r = keymap_init(&t->claims, sizeof(struct claim), HEADS_CLAIMS_MAX);
	if (r == 0)
		r = calls_init(&t->calls);
	if (r == 0)
		r = heads_init(&t->heads[SIDE_GATEWAY], n_newest);
	if (r == 0)
		r = heads_init(&t->heads[SIDE_RELAY], MIN(n_newest, (size_t)RELAY_NEWEST));
	if (r < 0)
		return r;
	*ret = steal_ptr(&t);
	return 0;
}

void trail_expect_both(struct trail *t)
{
	t->calls.cross = true;
}

/* ---- Chains ---- */

static int chain_room(struct trail *t)
{
	size_t cap = t->cap_chains ? 2 * t->cap_chains : CHAINS_FIRST;
	struct chain **grown;

	if (t->n_chains < t->cap_chains)
		return 0;
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers. */
	grown = realloc(t->chains, cap * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	t->chains = grown;
	t->cap_chains = cap;
	return 0;
}

/* The chain of that id, made when it is new. *ret is NULL when there are too many. */
static int chain_get(struct trail *t, const char *id, enum side side, struct chain **ret)
{
	uint8_t digest[SHA256_LEN];
	struct chain_key *k;
	struct chain *c;
	void *entry;
	int r = digest_sha256(id, strlen(id), digest);

	if (r < 0)
		return r;
	k = keymap_get(&t->ids, digest);
	*ret = k ? t->chains[k->index] : NULL;
	if (k)
		return 0;
	if (t->n_chains == TRAIL_CHAINS_MAX) {
		t->chains_full = true;
		return 0;
	}
	c = chain_room(t) < 0 ? NULL : calloc(1, sizeof(*c));
	r = c ? keymap_make(&t->ids, digest, &entry) : -ENOMEM;
	if (r < 0) {
		free(c);
		return r;
	}
	k = entry;
	k->index = c->index = (uint32_t)t->n_chains;
	c->side = side;
	snprintf(c->id, sizeof(c->id), "%s", id);
	t->chains[t->n_chains++] = c;
	*ret = c;
	return 0;
}

/* An edited MCP_CHAIN_ID: the record belongs where the one before it is. */
static struct chain *chain_by_link(const struct trail *t, const struct log_record *r)
{
	enum { LOOK_BACK = 64 };

	for (size_t i = t->n_chains, n = 0; i-- > 0 && n < LOOK_BACK; n++) {
		struct chain *c = t->chains[i];

		if (c->n_records && c->next_seq == r->own.seq && memcmp(c->last.hash, r->prev, SHA256_LEN) == 0)
			return c;
	}
	return NULL;
}

static int chain_of(struct trail *t, const struct log_record *r, struct chain **ret)
{
	*ret = r->intact ? NULL : chain_by_link(t, r);
	return *ret ? 0 : chain_get(t, r->own.chain_id, r->side, ret);
}

/* ---- What others say about a record ---- */

static void claim_key(uint8_t key[KEYMAP_KEY_LEN], uint32_t chain, enum claim_source source, uint64_t seq)
{
	uint32_t src = source;

	memcpy(key, &chain, 4);
	memcpy(key + 4, &src, 4);
	memcpy(key + 8, &seq, 8);
}

static const char *source_name(uint32_t source)
{
	return source == CLAIM_STATE ? "the state file" : "the relay";
}

/* The record of the claim is at hand, or was: same or not. */
static void claim_settle(struct trail *t, struct chain *c, const struct claim *cl, bool same)
{
	struct finding w;

	if (same) {
		t->sums.claims_agree++;
		c->agreed_seq = MAX(c->agreed_seq, cl->seq);
		c->claims_agree++;
		return;
	}
	t->sums.claims_differ++;
	if (c->claims_differ++ > 0)
		return;
	w = chain_finding(c, FINDING_FAULT, "forged", cl->at, cl->seq, cl->seq);
	if (c->claims_agree)
		finding_add(t->f, &w, "rewritten: %s has another hash for this record; the last one that agreed was seq %" PRIu64,
			    source_name(cl->source), c->agreed_seq);
	else
		finding_add(t->f, &w, "rewritten: %s has another hash for this record", source_name(cl->source));
}

static int claim_add(struct trail *t, enum side side, enum claim_source source, const struct log_head *head, struct place at,
		     uint64_t time_us)
{
	struct claim cl = { .source = source, .seq = head->seq, .at = at, .time_us = time_us };
	enum heads_answer known;
	uint8_t key[KEYMAP_KEY_LEN];
	struct chain *c;
	void *entry;
	int r = chain_get(t, head->chain_id, side, &c);

	if (r < 0 || !c || (source == CLAIM_RELAY && c->side != side))
		return r;
	side = c->side;
	c->claimed_us = MAX(c->claimed_us, time_us);
	known = heads_ask(&t->heads[side], c->index, head->seq, head->hash);
	if (known != HEADS_UNKNOWN) {
		claim_settle(t, c, &cl, known == HEADS_SAME);
		return 0;
	}
	claim_key(key, c->index, source, head->seq);
	r = keymap_make(&t->claims, key, &entry);
	if (r == -ENOBUFS) {
		t->claims_full = true;
		return 0;
	}
	if (r < 0)
		return r;
	cl.chain = c->index;
	memcpy(cl.hash, head->hash, sizeof(cl.hash));
	memcpy(entry, &cl, sizeof(cl));
	return 0;
}

/* A record that somebody spoke of before it was read. */
static void claims_check(struct trail *t, struct chain *c, const struct log_record *r)
{
	for (uint32_t source = CLAIM_RELAY; source <= CLAIM_STATE && t->claims.used; source++) {
		uint8_t key[KEYMAP_KEY_LEN];
		struct claim *cl;

		claim_key(key, c->index, source, r->own.seq);
		cl = keymap_get(&t->claims, key);
		if (!cl)
			continue;
		claim_settle(t, c, cl, memcmp(cl->hash, r->own.hash, sizeof(cl->hash)) == 0);
		keymap_remove(&t->claims, cl);
	}
}

int trail_claim(struct trail *t, const struct log_head *head, uint64_t time_us)
{
	const struct place nowhere = { 0 };

	return claim_add(t, SIDE_GATEWAY, CLAIM_STATE, head, nowhere, time_us);
}

/* ---- Records ---- */

static void count(struct trail *t, const struct log_record *r)
{
	struct trail_sums *s = &t->sums;
	enum side side = r->side;

	s->n_records[side]++;
	if (r->time_us && (!s->first_us[side] || r->time_us < s->first_us[side]))
		s->first_us[side] = r->time_us;
	s->last_us[side] = MAX(s->last_us[side], r->time_us);
	if (s->n_records[SIDE_GATEWAY] && s->n_records[SIDE_RELAY])
		t->calls.cross = true;
}

int trail_add(struct trail *t, const struct log_record *r)
{
	struct chain *c;
	int e = chain_of(t, r, &c);

	if (e < 0 || !c)
		return e;
	/* Known from a claim alone, so far. */
	if (c->n_records == 0)
		c->side = r->side;
	count(t, r);
	if (chain_add(c, t->f, &t->heads[c->side], r, t->n_read++) == CHAIN_AGAIN)
		return 0;
	claims_check(t, c, r);
	if (r->words[LOG_EVENT].p && span_is(r->words[LOG_EVENT], "audit.gap"))
		chain_gap(c, t->f, r);
	if (r->has_peer && r->side == SIDE_RELAY)
		e = claim_add(t, SIDE_GATEWAY, CLAIM_RELAY, &r->peer, r->at, r->time_us);
	return e < 0 ? e : calls_add(&t->calls, c->index, r);
}

/* ---- The end: from one chain to the next ---- */

static const uint8_t no_hash[SHA256_LEN];

/* The one that ends where c begins. */
static struct chain *predecessor(const struct trail *t, const struct chain *c)
{
	for (size_t i = t->n_chains; i-- > 0;) {
		struct chain *p = t->chains[i];

		if (p != c && p->n_records && p->side == c->side &&
		    (memcmp(p->last.hash, c->first_prev, SHA256_LEN) == 0 ||
		     memcmp(p->last.computed, c->first_prev, SHA256_LEN) == 0))
			return p;
	}
	return NULL;
}

/* A chain that was over when c began, and that nothing goes on from: c should have. */
static struct chain *loose_end(const struct trail *t, const struct chain *c)
{
	for (size_t i = t->n_chains; i-- > 0;) {
		struct chain *p = t->chains[i];

		if (p != c && p->n_records && p->side == c->side && !p->follower && p->last_no < c->first_no)
			return p;
	}
	return NULL;
}

/* Its start goes on from a record in the middle of another chain: what follows that one was put there. */
static bool follows_middle(struct trail *t, struct chain *c)
{
	uint32_t index, low;
	struct finding w;
	struct chain *p;
	uint64_t seq;

	if (!heads_find(&t->heads[c->side], c->first_prev, &index, &low) || index == c->index)
		return false;
	p = t->chains[index];
	seq = p->next_seq - 1 - (uint32_t)((uint32_t)(p->next_seq - 1) - low);
	p->follower = c->index + 1;
	w = chain_finding(p, FINDING_FAULT, "forged", p->last.at, seq + 1, p->next_seq - 1);
	finding_add(t->f, &w, "put in at the end: the next start (chain %s) goes on from seq %" PRIu64, c->id, seq);
	return true;
}

static void link_first_start(struct trail *t, struct chain *c)
{
	struct chain *before = loose_end(t, c);
	struct finding w;

	if (c->gap_state_missing && before) {
		w = chain_finding(c, FINDING_UNSURE, "unlinked", c->first_at, 0, 0);
		finding_add(t->f, &w, "the start does not say where the process before had ended (chain %s, seq %" PRIu64 ")",
			    before->id, before->next_seq - 1);
	} else if (!c->gap_state_missing && c->n_records > 1) {
		w = chain_finding(c, FINDING_FAULT, "unlinked", c->first_at, 0, 0);
		finding_add(t->f, &w, "the start says that there was no process before, and there is no audit.gap that says why");
	}
}

static void find_predecessor(struct trail *t, struct chain *c)
{
	struct chain *before = c->n_records && c->first_seq == 0 ? predecessor(t, c) : NULL;

	c->linked = before != NULL;
	if (!before)
		return;
	before->follower = c->index + 1;
	before->n_lost += c->n_cut;
	before->incomplete = before->incomplete || c->n_cut;
}

static void link_chain(struct trail *t, struct chain *c)
{
	bool has_start = c->first_seq == 0;
	struct chain *before = loose_end(t, c);
	struct finding w;

	if (c->n_records == 0 || c->linked)
		return;
	if (has_start && memcmp(c->first_prev, no_hash, SHA256_LEN) == 0) {
		link_first_start(t, c);
	} else if (has_start && follows_middle(t, c)) {
		c->linked = true;
	} else if (!before) {
		w = chain_finding(c, FINDING_NOTE, "truncated", c->first_at, c->first_seq, c->first_seq);
		finding_add(t->f, &w, "the log begins here; what came before is not in it");
	} else if (has_start) {
		w = chain_finding(before, FINDING_FAULT, "deleted", c->first_at, before->next_seq, before->next_seq);
		finding_add(t->f, &w, "missing from here on: the start of chain %s goes on from a record that is not there", c->id);
	} else {
		w = chain_finding(c, FINDING_FAULT, "deleted", c->first_at, 0, c->first_seq - 1);
		finding_add(t->f, &w, "the beginning of this process is missing, though an earlier one is there");
	}
}

/* A process that is running, perhaps. */
static void say_unended(struct trail *t, struct chain *c)
{
	struct finding w;

	if (c->n_records == 0 || c->stopped || c->follower)
		return;
	w = chain_finding(c, FINDING_NOTE, "open", c->last.at, c->next_seq - 1, c->next_seq - 1);
	finding_add(t->f, &w, "no gateway.stop after this: it is running, was killed, or the end is not in the log");
}

/* ---- The end: heads that found no record ---- */

static void say_missing_chain(struct trail *t, struct chain *c, const struct claim *cl)
{
	bool before = c->claimed_us < t->sums.first_us[c->side];
	struct finding w = chain_finding(c, before ? FINDING_NOTE : FINDING_FAULT, before ? "truncated" : "deleted", cl->at, 0,
					 cl->seq);

	if (before)
		finding_add(t->f, &w, "%s knows this chain, which was over before the log begins", source_name(cl->source));
	else
		finding_add(t->f, &w, "%s knows this chain, and the log has nothing of it", source_name(cl->source));
}

/* cl: the highest claim that is open. */
static void check_claim(struct trail *t, struct chain *c, const struct claim *cl)
{
	struct finding w;

	if (t->sums.n_records[c->side] == 0) {
		; /* no log of that side was given */
	} else if (c->n_records == 0) {
		say_missing_chain(t, c, cl);
	} else if (cl->seq >= c->next_seq) {
		bool told = c->follower && t->chains[c->follower - 1]->n_cut > cl->seq - c->next_seq;

		w = chain_finding(c, told ? FINDING_UNSURE : FINDING_FAULT, "deleted", cl->at, c->next_seq, cl->seq);
		finding_add(t->f, &w, "the end is missing: %s has the hash of seq %" PRIu64, source_name(cl->source), cl->seq);
	} else if (cl->seq >= c->first_seq && !(c->claims_agree && c->agreed_seq >= cl->seq) && c->n_faults == 0) {
		w = chain_finding(c, FINDING_UNSURE, "unmatched", cl->at, cl->seq, cl->seq);
		finding_add(t->f, &w, "%s has a hash of this record, which was read too long before to be compared",
			    source_name(cl->source));
	}
}

static int check_claims(struct trail *t)
{
	_cleanup_(freep) const struct claim **newest = NULL;
	const struct claim *cl;

	if (t->claims.used == 0)
		return 0;
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers. */
	newest = calloc(t->n_chains, sizeof(*newest));
	if (!newest)
		return -ENOMEM;
	for (size_t it = 0; (cl = keymap_next(&t->claims, &it));)
		if (!newest[cl->chain] || newest[cl->chain]->seq < cl->seq)
			newest[cl->chain] = cl;
	for (size_t i = 0; i < t->n_chains; i++)
		if (newest[i])
			check_claim(t, t->chains[i], newest[i]);
	return 0;
}

/* Both were to come, and one did not. */
static void check_sides(struct trail *t)
{
	struct finding w = { .weight = FINDING_UNSURE, .kind = "unmatched" };

	for (int s = 0; s < SIDE_N && t->calls.cross; s++)
		if (t->sums.n_records[s] == 0) {
			finding_add(t->f, &w, "there is no record of the %s, so nothing was compared", side_name(s));
			t->calls.cross = false;
		}
}

static void say_limits(struct trail *t)
{
	struct finding w = { .weight = FINDING_UNSURE, .kind = "unreadable" };

	if (t->chains_full)
		finding_add(t->f, &w, "more than %d chains; records of further ones were not looked at", TRAIL_CHAINS_MAX);
	if (t->claims_full)
		finding_add(t->f, &w, "more than %d heads whose records were not read yet; further ones were not compared",
			    HEADS_CLAIMS_MAX);
	if (t->calls.full)
		finding_add(t->f, &w, "more than %d open calls at once; calls were not paired or compared", CALLS_MAX);
	if (t->calls.cross && t->calls.dropped)
		finding_add(t->f, &w, "the calls of both logs were not compared; give the relay's log with --relay");
}

int trail_finish(struct trail *t, struct trail_sums *ret)
{
	struct trail_sums *s = &t->sums;
	struct calls_view view = { .chains = t->chains, .n_chains = t->n_chains };
	int r;

	for (size_t i = 0; i < t->n_chains; i++)
		chain_finish(t->chains[i], t->f);
	for (size_t i = 0; i < t->n_chains; i++)
		find_predecessor(t, t->chains[i]);
	for (size_t i = 0; i < t->n_chains; i++)
		link_chain(t, t->chains[i]);
	for (size_t i = 0; i < t->n_chains; i++)
		say_unended(t, t->chains[i]);
	check_sides(t);
	r = check_claims(t);
	if (r < 0)
		return r;
	memcpy(view.first_us, s->first_us, sizeof(view.first_us));
	memcpy(view.last_us, s->last_us, sizeof(view.last_us));
	r = calls_finish(&t->calls, t->f, &view, &s->calls);
	if (r < 0)
		return r;
	say_limits(t);
	s->n_matched = t->calls.n_matched;
	for (int i = 0; i < SIDE_N; i++) {
		s->n_requests[i] = t->calls.n_requests[i];
		s->n_denied[i] = t->calls.n_denied[i];
	}
	for (size_t i = 0; i < t->n_chains; i++)
		s->n_chains[t->chains[i]->side] += t->chains[i]->n_records > 0;
	*ret = *s;
	return 0;
}
