/* A strict incremental JSON scanner (RFC 8259): bytes in any split, tokens out. It builds no tree, allocates nothing
 * and does not recurse; its memory is struct json.
 *
 *	json_init(&j, 0);
 *	json_feed(&j, p, len);                  for each piece, when the one before is used up
 *	while ((t = json_next(&j, &tok)) > JSON_MORE) ...
 *	json_finish(&j);                        then json_next() again: JSON_END, JSON_BAD, or a last number first
 *
 * What it refuses: anything RFC 8259 does not allow, a byte order mark, invalid UTF-8 (overlong forms, surrogates,
 * above U+10FFFF) also inside of strings nobody captures, more than JSON_DEPTH_MAX containers in each other, bytes
 * after the value, a surrogate without its partner in a key or a captured string (elsewhere with
 * JSON_STRICT_SURROGATES).
 * What it leaves to its caller: duplicate keys (the hash of each key is there for that), the size of numbers.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"

enum { JSON_DEPTH_MAX = 64, JSON_KEY_KEEP = 64 };

enum json_type {
	JSON_NONE = -1, /* internal */
	JSON_BAD,       /* see json_bad(); for ever */
	JSON_END,       /* the value was complete when json_finish() was called; for ever */
	JSON_MORE,      /* every byte is used: feed or finish */
	JSON_OBJECT_BEGIN,
	JSON_OBJECT_END,
	JSON_ARRAY_BEGIN,
	JSON_ARRAY_END,
	JSON_KEY,
	JSON_STRING,
	JSON_NUMBER,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NULL,
};

struct json_token {
	enum json_type type;
	bool escaped; /* JSON_KEY, JSON_STRING: there is a backslash in it */
	bool nul;     /* JSON_KEY, JSON_STRING: \u0000 is in it */
	uint64_t at;  /* offset of its first byte, quotes included, from the first byte ever fed */
	uint64_t end; /* offset after its last byte */
	/* JSON_KEY: the decoded key, its first JSON_KEY_KEEP bytes. After json_capture(): the value. Valid until the
	 * next call. text_len is the whole length: when it is larger, text is cut. */
	struct span text;
	uint64_t text_len;
	uint64_t hash; /* JSON_KEY: of the decoded key, FNV-1a 64. Not keyed: a peer can make two keys collide */
};

enum json_flag { JSON_STRICT_SURROGATES = 1 };

enum json_capture {
	JSON_CAPTURE_NONE,
	JSON_CAPTURE_TEXT, /* strings, decoded to UTF-8 */
	JSON_CAPTURE_RAW,  /* strings, numbers and literals as they were spelled, with quotes */
	JSON_CAPTURE_EACH, /* strings decoded, numbers and literals as they were spelled */
};

struct json {
	const uint8_t *p, *end;   /* what is left of the piece */
	const uint8_t *piece;     /* its first byte */
	const uint8_t *mark;      /* raw capture: where this token goes on in this piece */
	uint64_t piece_at;        /* offset of the piece */
	uint64_t token_at;
	uint64_t objects;         /* bit n: the container at depth n + 1 is an object */
	uint64_t hash, kept_len;
	char *dst;
	size_t cap;
	char *wanted_dst;
	size_t wanted_cap;
	const char *literal;      /* rest of true, false, null */
	const char *bad;
	uint32_t unit;            /* \u digits so far */
	uint32_t high;            /* a high surrogate that waits for its partner, or 0 */
	unsigned depth;
	unsigned loud;            /* tokens in containers deeper than this are not reported */
	enum json_capture wanted, capture;
	enum json_type value;     /* of the string or literal being read */
	uint8_t flags, state, sub;
	uint8_t need, low, top;   /* UTF-8: bytes to come, and the range of the next one */
	bool escaped, nul, finished;
	char key[JSON_KEY_KEEP];
};

void json_init(struct json *j, unsigned flags);

/* The bytes stay the caller's and are looked at until json_next() says JSON_MORE. */
void json_feed(struct json *j, const void *p, size_t len);
void json_finish(struct json *j);

/* The next token, or JSON_MORE, JSON_END, JSON_BAD. *ret is written for tokens. */
enum json_type json_next(struct json *j, struct json_token *ret);

/* After JSON_KEY (or before a value): where the text of the value goes when it is a scalar that `how` names. */
void json_capture(struct json *j, enum json_capture how, char *dst, size_t cap);

/* After JSON_OBJECT_BEGIN or JSON_ARRAY_BEGIN: what is inside is checked but not reported; its end is. */
void json_quiet(struct json *j);

/* NULL, or static text for people: what is wrong. */
const char *json_bad(const struct json *j);

/* UTF-8 of a code point that is no surrogate; returns 1 to 4. */
size_t json_utf8_encode(uint32_t c, char dst[4]);
/* Valid UTF-8, as strict as in strings; any character. */
bool json_utf8_valid(struct span s);
/* Whether a decoded key is the wanted one for a reader that takes keys in any case, as some do (Go's encoding/json, Unicode's
 * simple folding). */
bool json_key_is_similar(struct span wanted, struct span key);
