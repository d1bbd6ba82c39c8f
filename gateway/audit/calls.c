#include "gateway/audit/calls.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/encode.h"

enum { UUID_BYTES = 16, SORTED_MAX = FINDINGS_PRINTED_MAX, EDGE_US = 2000000 };

#define LATE_US UINT64_C(3600000000)

struct call_end {
	uint32_t chain;
	uint16_t n_requests, n_responses, n_denied, n_gone; /* gone: accounted for by audit.gap */
};

struct call {
	uint8_t key[KEYMAP_KEY_LEN]; /* the UUID; of an id that is none, its digest */
	struct call_end ends[SIDE_N];
	uint32_t tunnel;
	bool is_digest;
	bool answered; /* by the gateway, says the relay */
	struct place at;
	uint64_t time_us;
	uint64_t hashes[2]; /* sum over the gateway's arguments hashes, minus the relay's; 0: the same */
	uint64_t keys;      /* the same of what is in front of the last colon: how they were made */
};

int calls_init(struct calls *cs)
{
	*cs = (struct calls){ 0 };
	return keymap_init(&cs->map, sizeof(struct call), CALLS_MAX);
}

void calls_done(struct calls *cs)
{
	keymap_done(&cs->map);
}

/* ---- The id ---- */

static bool uuid_parse(struct span s, uint8_t key[UUID_BYTES])
{
	static const uint8_t group[] = { 4, 2, 2, 2, 6 };
	size_t at = 0, n = 0;

	if (s.len != UUID_TEXT_LEN)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(group); i++) {
		if (hex_decode(span_make(s.p + at, 2 * (size_t)group[i]), key + n, group[i]) < 0)
			return false;
		at += 2 * (size_t)group[i];
		n += group[i];
		if (at < s.len && s.p[at++] != '-')
			return false;
	}
	return true;
}

static int key_make(struct span id, uint8_t key[KEYMAP_KEY_LEN], bool *ret_is_digest)
{
	static const uint8_t nil[KEYMAP_KEY_LEN];
	uint8_t digest[SHA256_LEN];
	int r;

	*ret_is_digest = !uuid_parse(id, key) || memcmp(key, nil, sizeof(nil)) == 0;
	if (!*ret_is_digest)
		return 0;
	r = digest_sha256(id.p, id.len, digest);
	memcpy(key, digest, KEYMAP_KEY_LEN);
	return r;
}

/* As in the log; an id that was none is told by its digest. */
static void key_text(const struct call *c, char out[2 * KEYMAP_KEY_LEN + 16])
{
	static const uint8_t group[] = { 4, 2, 2, 2, 6 };
	char *at = out;
	size_t n = 0;

	if (c->is_digest) {
		memcpy(out, "sha256:", 7);
		hex_encode(c->key, KEYMAP_KEY_LEN, out + 7);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(group); i++) {
		if (i)
			*at++ = '-';
		hex_encode(c->key + n, group[i], at);
		at += 2 * group[i];
		n += group[i];
	}
}

/* ---- Records ---- */

static uint64_t fnv(struct span s)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < s.len; i++)
		h = (h ^ (uint8_t)s.p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static void bump(uint16_t *n)
{
	if (*n < UINT16_MAX)
		(*n)++;
}

static int add_hash(struct call *c, enum side side, struct span hash)
{
	const char *colon = hash.len ? memrchr(hash.p, ':', hash.len) : NULL;
	uint64_t how = fnv(span_make(hash.p, colon ? (size_t)(colon - hash.p) : hash.len)), sum[2];
	uint8_t digest[SHA256_LEN];
	int r = digest_sha256(hash.p, hash.len, digest);

	if (r < 0)
		return r;
	memcpy(sum, digest, sizeof(sum));
	for (size_t i = 0; i < ARRAY_LEN(sum); i++)
		c->hashes[i] += side == SIDE_GATEWAY ? sum[i] : -sum[i];
	c->keys += side == SIDE_GATEWAY ? how : -how;
	return 0;
}

static void learn_tunnel(struct calls *cs, uint32_t tunnel)
{
	for (size_t i = 0; i < cs->n_tunnels; i++)
		if (cs->tunnels[i] == tunnel)
			return;
	if (cs->n_tunnels < CALLS_TUNNELS_MAX)
		cs->tunnels[cs->n_tunnels++] = tunnel;
}

static bool is_ended(const struct call_end *e)
{
	return e->n_requests == e->n_responses + e->n_gone;
}

static bool is_settled(const struct calls *cs, const struct call *c)
{
	const struct call_end *g = &c->ends[SIDE_GATEWAY], *r = &c->ends[SIDE_RELAY];

	if (!is_ended(g) || !is_ended(r))
		return false;
	if (!cs->cross || cs->dropped)
		return true;
	if (r->n_requests == 0)
		return g->n_requests == 0 && r->n_denied > 0;
	return g->n_denied > 0 || (g->n_requests == r->n_requests && c->hashes[0] == 0 && c->hashes[1] == 0);
}

static void sweep(struct calls *cs)
{
	/* An entry that moves into a free slot may be passed over, or come again: both are harmless. */
	for (size_t it = 0; it < cs->map.cap;) {
		struct call *c = keymap_next(&cs->map, &it);

		if (!c)
			break;
		if (is_settled(cs, c)) {
			keymap_remove(&cs->map, c);
			it--;
		}
	}
	cs->dropped = true;
}

static void settle(struct calls *cs, struct call *c)
{
	if (!is_settled(cs, c))
		return;
	if (cs->cross && !cs->dropped) {
		cs->n_matched += c->ends[SIDE_RELAY].n_requests > 0 && c->ends[SIDE_GATEWAY].n_requests > 0;
		keymap_remove(&cs->map, c);
	} else if (cs->dropped) {
		keymap_remove(&cs->map, c);
	} else if (cs->map.used > CALLS_ONE_SIDED_MAX) {
		sweep(cs);
	}
}

static int add_request(struct calls *cs, struct call *c, const struct log_record *r)
{
	c->tunnel = (uint32_t)fnv(r->words[LOG_TUNNEL_ID]);
	if (r->side == SIDE_GATEWAY)
		learn_tunnel(cs, c->tunnel);
	bump(&c->ends[r->side].n_requests);
	cs->n_requests[r->side]++;
	return add_hash(c, r->side, r->words[LOG_ARGS_HASH]);
}

static void add_response(struct call *c, const struct log_record *r)
{
	bump(&c->ends[r->side].n_responses);
	if (r->side == SIDE_RELAY)
		c->answered = r->has_peer || (r->words[LOG_REASON].p && span_is(r->words[LOG_REASON], "none"));
}

static void add_gone(struct call_end *e)
{
	if (e->n_requests > e->n_responses)
		e->n_gone = (uint16_t)(e->n_requests - e->n_responses);
}

/* The relay's calls that no gateway answered wait for a gateway's record that is late; after a while, none will come. */
static bool make_room(struct calls *cs, uint64_t now_us)
{
	size_t before = cs->map.used;

	for (size_t it = 0; it < cs->map.cap;) {
		struct call *c = keymap_next(&cs->map, &it);

		if (!c)
			break;
		if (!c->answered && c->ends[SIDE_RELAY].n_requests > 0 && is_ended(&c->ends[SIDE_RELAY]) &&
		    c->ends[SIDE_GATEWAY].n_requests == 0 && c->time_us + LATE_US < now_us) {
			cs->n_not_reached++;
			keymap_remove(&cs->map, c);
			it--;
		}
	}
	cs->full = before - cs->map.used < CALLS_MAX / 16;
	return !cs->full;
}

static int make_entry(struct calls *cs, const uint8_t key[KEYMAP_KEY_LEN], uint64_t now_us, void **ret)
{
	int r = keymap_make(&cs->map, key, ret);

	if (r == -ENOBUFS && !cs->full && make_room(cs, now_us))
		r = keymap_make(&cs->map, key, ret);
	return r;
}

int calls_add(struct calls *cs, uint32_t chain, const struct log_record *r)
{
	struct span event = r->words[LOG_EVENT], id = r->words[LOG_CALL_ID];
	bool request = event.p && span_is(event, "call.request"), response = event.p && span_is(event, "call.response");
	bool denied = event.p && span_is(event, "call.denied"), gap = event.p && span_is(event, "audit.gap");
	uint8_t key[KEYMAP_KEY_LEN];
	bool is_digest;
	struct call *c;
	void *entry = NULL;
	int e;

	if (!id.p || !(request || response || denied || gap))
		return 0;
	e = key_make(id, key, &is_digest);
	if (e == 0 && gap)
		entry = keymap_get(&cs->map, key);
	else if (e == 0)
		e = make_entry(cs, key, r->time_us, &entry);
	if (e < 0 || !entry)
		return e == -ENOBUFS ? 0 : e;
	c = entry;
	c->is_digest = is_digest;
	if (!gap) {
		c->at = r->at;
		c->time_us = r->time_us;
		c->ends[r->side].chain = chain;
	}
	if (request) {
		e = add_request(cs, c, r);
	} else if (response) {
		add_response(c, r);
	} else if (denied) {
		bump(&c->ends[r->side].n_denied);
		cs->n_denied[r->side]++;
	} else {
		add_gone(&c->ends[r->side]);
	}
	settle(cs, c);
	return e;
}

/* ---- The end ---- */

static void say(struct findings *f, const struct call *c, enum side side, const struct calls_view *v, enum finding_weight weight,
		const char *kind, const char *text)
{
	struct finding w = { .weight = weight, .kind = kind, .at = c->at, .side = side };
	char id[2 * KEYMAP_KEY_LEN + 16];

	if (c->ends[side].chain < v->n_chains)
		w.chain_id = v->chains[c->ends[side].chain]->id;
	key_text(c, id);
	finding_add(f, &w, "call %s: %s", id, text);
}

/* A later start that accounts for the calls that were open when the process of ch ended; *ret_over: there is a later one,
 * and it had the time to do so. */
static struct chain *accountant(const struct calls_view *v, const struct chain *ch, uint64_t missing, bool *ret_over)
{
	size_t n = v->n_chains;

	*ret_over = false;
	/* Followers cannot go in a circle but in a forged log, so they are counted. */
	while (ch->follower && n-- > 0) {
		struct chain *next = v->chains[ch->follower - 1];

		if (next->n_killed >= missing)
			return next;
		*ret_over = *ret_over || next->n_records > 1;
		ch = next;
	}
	return NULL;
}

/* A call.request whose call.response is not there. */
static void check_open(struct findings *f, const struct call *c, enum side side, const struct calls_view *v, struct calls_left *left)
{
	const struct call_end *e = &c->ends[side];
	uint64_t missing = (uint64_t)e->n_requests - e->n_responses;
	struct chain *ch = v->chains[e->chain], *next;
	bool over;

	next = accountant(v, ch, missing, &over);
	if (ch->n_lost >= missing) {
		ch->n_lost -= missing;
		say(f, c, side, v, FINDING_UNSURE, "unpaired", "no call.response; an audit.gap says that records were lost");
	} else if (ch->stopped) {
		say(f, c, side, v, FINDING_FAULT, "unpaired", "no call.response, though the process ended in order");
	} else if (next) {
		next->n_killed -= missing;
	} else if (over) {
		say(f, c, side, v, FINDING_FAULT, "unpaired",
		    "no call.response, and the next start does not account for the call");
	} else {
		left->n_open[side]++;
	}
}

static void check_pair(struct findings *f, const struct call *c, enum side side, const struct calls_view *v, struct calls_left *left)
{
	const struct call_end *e = &c->ends[side];
	const struct chain *ch = v->chains[e->chain];

	if (is_ended(e))
		return;
	if (e->n_requests > e->n_responses)
		check_open(f, c, side, v, left);
	else if (ch->first_seq > 0)
		left->n_before[side]++;
	else if (ch->n_faults || ch->incomplete)
		say(f, c, side, v, FINDING_NOTE, "unpaired",
		    "a call.response without its call.request, which may be a record that is missing or changed");
	else
		say(f, c, side, v, FINDING_FAULT, "unpaired", "a call.response without its call.request");
}

/* Whether the log of the side must have what happened at this time. The gateway's must have whatever the relay knows an
 * answer of; at the edges of the relay's, clocks need not agree. */
static bool is_covered(const struct calls_view *v, enum side side, uint64_t us)
{
	if (side == SIDE_GATEWAY)
		return us >= v->first_us[side];
	return us >= v->first_us[side] + EDGE_US && us + EDGE_US <= v->last_us[side];
}

static bool is_our_tunnel(const struct calls *cs, uint32_t tunnel)
{
	for (size_t i = 0; i < cs->n_tunnels; i++)
		if (cs->tunnels[i] == tunnel)
			return true;
	return cs->n_tunnels == 0 || cs->n_tunnels == CALLS_TUNNELS_MAX;
}

static bool lost_any(const struct calls_view *v, enum side side)
{
	for (size_t i = 0; i < v->n_chains; i++)
		if (v->chains[i]->side == side && v->chains[i]->incomplete)
			return true;
	return false;
}

/* In one log only. */
static void check_lonely(const struct calls *cs, struct findings *f, const struct call *c, enum side side, const struct calls_view *v,
			 struct calls_left *left)
{
	enum side other = side == SIDE_RELAY ? SIDE_GATEWAY : SIDE_RELAY;
	enum finding_weight weight = lost_any(v, other) ? FINDING_UNSURE : FINDING_FAULT;

	if (c->ends[side].n_requests == 0)
		return;
	if (side == SIDE_RELAY && !is_our_tunnel(cs, c->tunnel))
		left->n_other_tunnel++;
	else if (side == SIDE_RELAY && !c->answered)
		left->n_not_reached++;
	else if (!is_covered(v, other, c->time_us))
		left->n_outside++;
	else if (side == SIDE_RELAY)
		say(f, c, side, v, weight, "unmatched",
		    "the relay has an answer of the gateway, whose log does not have the call");
	else
		say(f, c, side, v, weight, "unmatched", "in the gateway's log, and not in the relay's");
}

static void check_both(struct findings *f, const struct call *c, const struct calls_view *v, struct calls_left *left)
{
	const struct call_end *g = &c->ends[SIDE_GATEWAY], *r = &c->ends[SIDE_RELAY];

	bool truncated = v->chains[g->chain]->first_seq || v->chains[r->chain]->first_seq;

	if (g->n_denied)
		return;
	if (g->n_requests < r->n_requests && !c->answered)
		left->n_not_reached++;
	else if (g->n_requests != r->n_requests && truncated)
		left->n_outside++;
	else if (g->n_requests != r->n_requests)
		say(f, c, SIDE_GATEWAY, v, FINDING_FAULT, "unmatched", "the logs do not have the same number of messages of it");
	else if (c->keys)
		left->n_not_comparable++;
	else if (c->hashes[0] || c->hashes[1])
		say(f, c, SIDE_GATEWAY, v, FINDING_FAULT, "unmatched", "the logs have different hashes of its arguments");
}

static void check(struct calls *cs, struct findings *f, const struct call *c, const struct calls_view *v, struct calls_left *left)
{
	bool here[SIDE_N];

	for (int s = 0; s < SIDE_N; s++) {
		here[s] = c->ends[s].n_requests + c->ends[s].n_responses + c->ends[s].n_denied > 0;
		if (here[s])
			check_pair(f, c, s, v, left);
	}
	if (!cs->cross || cs->dropped || cs->full)
		return;
	if (here[SIDE_GATEWAY] && here[SIDE_RELAY])
		check_both(f, c, v, left);
	else
		check_lonely(cs, f, c, here[SIDE_RELAY] ? SIDE_RELAY : SIDE_GATEWAY, v, left);
}

static int by_place(const void *a, const void *b)
{
	const struct place *x = &(*(struct call *const *)a)->at, *y = &(*(struct call *const *)b)->at;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return (x->line > y->line) - (x->line < y->line);
}

int calls_finish(struct calls *cs, struct findings *f, const struct calls_view *v, struct calls_left *ret)
{
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers. */
	_cleanup_(freep) struct call **sorted = calloc(SORTED_MAX, sizeof(*sorted));
	struct call *c;
	size_t n = 0;

	if (!sorted)
		return -ENOMEM;
	*ret = (struct calls_left){ .n_not_reached = cs->n_not_reached };
	for (size_t it = 0; n < SORTED_MAX && (c = keymap_next(&cs->map, &it));)
		if (!is_settled(cs, c))
			sorted[n++] = c;
	if (n < SORTED_MAX) {
		/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers. */
		qsort(sorted, n, sizeof(*sorted), by_place);
		for (size_t i = 0; i < n; i++)
			check(cs, f, sorted[i], v, ret);
		return 0;
	}
	for (size_t it = 0; (c = keymap_next(&cs->map, &it));)
		if (!is_settled(cs, c))
			check(cs, f, c, v, ret);
	return 0;
}
