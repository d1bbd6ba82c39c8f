/* HTTP/1.1 (RFC 9112) as the data path needs it: a strict, incremental, sans-I/O reader for requests and responses,
 * and a writer. Whatever a lenient parser could read in two ways is refused.
 *
 * Reader: feed bytes with http1_read() until it returns HTTP1_MORE; every call yields at most one event and says how
 * many bytes it used. Body chunks point into the caller's bytes (no copy). The head lives in memory of the reader until
 * http1_head_release() or the next message; an idle reader holds no memory but the struct.
 */
#pragma once

#include "base/buf.h"

enum {
	HTTP1_HEAD_BYTES_MAX = 32768, /* start line and all field lines */
	HTTP1_START_LINE_MAX = 8192,  /* request or status line without its CRLF */
	HTTP1_FIELDS_MAX = 128,       /* field lines of one head, and of one trailer */
	HTTP1_CONNECTION_MAX = 1024,  /* bytes of all Connection values; bounds what http1_is_hop_by_hop() costs */
	HTTP1_CHUNK_LINE_MAX = 256,   /* a chunk-size line with its extension and CRLF */
	HTTP1_TRAILER_BYTES_MAX = 8192,
};

struct http1_field {
	struct span name;  /* as received; compare with span_iis() */
	struct span value; /* without leading and trailing white space */
};

enum http1_kind { HTTP1_REQUEST, HTTP1_RESPONSE };

enum http1_body {
	HTTP1_BODY_NONE,    /* no body follows: HTTP1_END is the next event */
	HTTP1_BODY_LENGTH,  /* content_length bytes */
	HTTP1_BODY_CHUNKED,
	HTTP1_BODY_UNTIL_CLOSE, /* responses only */
};

struct http1_head {
	/* requests */
	struct span method;
	struct span target; /* as received */
	/* responses */
	unsigned status;
	struct span reason_phrase; /* trimmed; may be empty */
	/* both */
	unsigned minor; /* HTTP/1.minor: 0 or 1 */
	const struct http1_field *fields;
	size_t n_fields;
	enum http1_body body;
	uint64_t content_length;  /* HTTP1_BODY_LENGTH; also for a response to HEAD; 0 otherwise */
	bool keep_alive;          /* the connection may carry another message after this one; never after a 101 */
	bool expect_continue;     /* Expect: 100-continue; HTTP/1.1 requests only */
	bool upgrade;             /* Connection: upgrade, with an Upgrade field; HTTP/1.1 only */
};

enum http1_event_type {
	HTTP1_MORE, /* all bytes used; feed more */
	HTTP1_HEAD, /* reader->head is set. A 1xx (other than 101) yields HTTP1_HEAD and then the next HTTP1_HEAD, not
		     * HTTP1_END; its head is freed by the next http1_read() */
	HTTP1_DATA, /* ev->data */
	HTTP1_END,  /* the message is complete; the next bytes belong to the next message. Comes again, using
		     * nothing, until http1_reader_next() */
	HTTP1_BAD,  /* ev->status and ev->error are set; the reader takes nothing more and says the same again */
};

struct http1_event {
	enum http1_event_type type;
	struct span data;
	unsigned status;   /* HTTP1_BAD in a request: the status to answer: 400, 414, 417, 431, 501 (unknown transfer
			    * coding), 505; in a response: 502 */
	const char *error; /* HTTP1_BAD: what is wrong, static text for people, such as "two Content-Length fields" */
};

struct http1_reader {
	enum http1_kind kind;
	unsigned state;
	bool response_to_head; /* set before reading the response to a HEAD request; http1_reader_next() clears it */
	struct http1_head head;
	struct buf head_bytes; /* freed when not needed */
	struct http1_field *fields;
	/* the rest is the reader's own */
	uint64_t body_left; /* of the body, or of the chunk */
	size_t line_used;   /* bytes of the unfinished line */
	size_t trailer_used;
	size_t n_lines;     /* finished lines of the head or trailer */
	bool any_byte; /* a byte of the current message has arrived */
	const char *error;
	unsigned error_status;
};

void http1_reader_init(struct http1_reader *r, enum http1_kind kind);
void http1_reader_done(struct http1_reader *r);

/* Makes it ready for the next message, after HTTP1_END. */
void http1_reader_next(struct http1_reader *r);

/* Frees the head's memory; the fields and spans of head become absent (n_fields 0), the other numbers and flags stay.
 * Nothing happens while a head is being read. */
void http1_head_release(struct http1_reader *r);

/* Takes at most len bytes, sets *ret_used and *ret_ev. 0 or -ENOMEM. After an event other than HTTP1_MORE call again
 * with the rest, also when the rest is empty (HTTP1_END needs no byte of its own). */
int http1_read(struct http1_reader *r, const uint8_t *p, size_t len, size_t *ret_used, struct http1_event *ret_ev);

/* The peer closed the connection. HTTP1_END when that ends an UNTIL_CLOSE body; HTTP1_MORE when nothing of a message
 * had arrived; HTTP1_BAD "closed in the middle of a message" otherwise. */
void http1_read_eof(struct http1_reader *r, struct http1_event *ret_ev);

/* The value of the first field of that name; absent span when there is none. *ret_count (may be NULL): how many. */
struct span http1_field_get(const struct http1_head *h, const char *name, size_t *ret_count);

/* True when a comma-separated list field (such as Connection) contains the token, case ignored. */
bool http1_list_has(struct span value, const char *token);

/* True for fields that end at this hop (RFC 9110 7.6.1): Connection, Keep-Alive, Proxy-*, TE, Trailer,
 * Transfer-Encoding, Upgrade, Content-Length, and those named in any Connection field of the head. Content-Length is
 * among them because each hop frames its own messages. */
bool http1_is_hop_by_hop(const struct http1_head *h, struct span name);

/* RFC 9110 5.6.2 token; 5.5 field value (HTAB, SP, VCHAR, obs-text; no leading or trailing white space). */
bool http1_token_ok(struct span s);
bool http1_value_ok(struct span s);

/* Writer: each appends to out. -ENOBUFS over out's limit, -ENOMEM, -EINVAL for what http1_token_ok / _value_ok refuse. */
int http1_write_request(struct buf *out, struct span method, struct span target);
int http1_write_status(struct buf *out, unsigned status, struct span reason_phrase /* absent: the standard one */);
int http1_write_field(struct buf *out, struct span name, struct span value);
int http1_write_end(struct buf *out); /* the empty line */
/* A chunk is its prefix ("1f4\r\n"), the bytes, "\r\n"; the last one is "0\r\n\r\n". */
enum { HTTP1_CHUNK_PREFIX_MAX = 18 };
size_t http1_chunk_prefix(char dst[HTTP1_CHUNK_PREFIX_MAX], size_t len);

/* Date and its like, in the one form that is written today (RFC 9110 5.6.7, IMF-fixdate): "Sun, 06 Nov 1994 08:49:37 GMT". -EINVAL. */
enum { HTTP1_DATE_LEN = 29 };
void http1_date_print(uint64_t unix_s, char out[HTTP1_DATE_LEN + 1]);
int http1_date_parse(struct span s, uint64_t *ret_unix_s);

/* The standard reason phrase, "Unknown" where there is none. */
const char *http1_status_text(unsigned status);
