#include "proto/http1_head.h"

#include <errno.h>

const uint8_t http1_chars[256] = {
	0,  0,  0,  0,  0,  0,  0,  0,  0,  2,  0,  0,  0,  0,  0,  0,  /* 00 */
	0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  /* 10 */
	2,  15, 6,  7,  15, 7,  15, 15, 14, 14, 15, 15, 14, 15, 15, 6,  /* 20 */
	15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6,  14, 6,  14, 6,  6,  /* 30 */
	6,  15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, /* 40 */
	15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6,  6,  6,  7,  15, /* 50 */
	7,  15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, /* 60 */
	15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6,  7,  6,  15, 0,  /* 70 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* 80 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* 90 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* a0 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* b0 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* c0 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* d0 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* e0 */
	2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  2,  /* f0 */
};

/* What the fields of one head say about its framing and connection. */
struct facts {
	size_t n_host, n_length, n_coding;
	struct span host, length, coding;
	size_t connection_bytes;
	bool close, keep_alive, upgrade_option, upgrade_field;
	bool expect_continue, expect_other;
};

static bool blank(char c)
{
	return c == ' ' || c == '\t';
}

static const char *skip(const char *p, enum http1_char set)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): points into a whole head. */
	while (http1_char_is(*p, set))
		p++;
	return p;
}

bool http1_token_ok(struct span s)
{
	size_t i = 0;

	while (i < s.len && http1_char_is(s.p[i], HTTP1_CHAR_TOKEN))
		i++;
	return s.len > 0 && i == s.len;
}

bool http1_value_ok(struct span s)
{
	size_t i = 0;

	if (s.len && (blank(s.p[0]) || blank(s.p[s.len - 1])))
		return false;
	while (i < s.len && http1_char_is(s.p[i], HTTP1_CHAR_VALUE))
		i++;
	return i == s.len;
}

static bool list_has(struct span value, struct span want)
{
	while (value.p)
		if (span_ieq(span_trim(span_split(&value, ',')), want))
			return true;
	return false;
}

bool http1_list_has(struct span value, const char *token)
{
	return list_has(value, span_of(token));
}

struct span http1_field_get(const struct http1_head *h, const char *name, size_t *ret_count)
{
	struct span want = span_of(name), first = { NULL, 0 };
	size_t n = 0;

	for (size_t i = 0; i < h->n_fields; i++) {
		if (!span_ieq(h->fields[i].name, want))
			continue;
		if (n++ == 0)
			first = h->fields[i].value;
		if (!ret_count)
			break;
	}
	if (ret_count)
		*ret_count = n;
	return first;
}

static bool always_hop_by_hop(struct span name)
{
	static const char *const names[] = { "connection",        "keep-alive", "te",            "trailer",
					     "transfer-encoding", "upgrade",    "content-length" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (span_iis(name, names[i]))
			return true;
	return name.len > 6 && span_ieq(span_make(name.p, 6), SPAN("proxy-"));
}

bool http1_is_hop_by_hop(const struct http1_head *h, struct span name)
{
	if (always_hop_by_hop(name))
		return true;
	for (size_t i = 0; i < h->n_fields; i++)
		if (span_ieq(h->fields[i].name, SPAN("connection")) && list_has(h->fields[i].value, name))
			return true;
	return false;
}

/* "HTTP/1.0" or "HTTP/1.1" at p, followed by `next`; moves p behind the version. The bytes end with CRLF CRLF, and no
 * comparison goes on after a difference, so none runs over the end. */
static bool parse_version(struct http1_reader *r, const char **p)
{
	const char *v = *p;

	/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): points into a whole head. */
	if (strncmp(v, "HTTP/", 5) != 0 || v[5] < '0' || v[5] > '9' || v[6] != '.' || v[7] < '0' || v[7] > '9')
		return http1_refuse(r, 400, "bad HTTP version");
	if (v[5] != '1' || v[7] > '1')
		return http1_refuse(r, 505, "HTTP version other than 1.0 and 1.1");
	r->head.minor = (unsigned)(v[7] - '0');
	*p = v + 8;
	return true;
}

static bool at_line_end(const char *p)
{
	return p[0] == '\r' && p[1] == '\n';
}

static bool parse_request_line(struct http1_reader *r, const char **p)
{
	const char *method = *p, *target, *end;

	end = skip(method, HTTP1_CHAR_TOKEN);
	if (end == method || *end != ' ')
		return http1_refuse(r, 400, "bad method");
	r->head.method = span_make(method, (size_t)(end - method));
	target = end + 1;
	end = skip(target, HTTP1_CHAR_TARGET);
	if (end == target)
		return http1_refuse(r, 400, "bad request target");
	if (*end != ' ')
		return http1_refuse(r, 400, at_line_end(end) ? "no HTTP version" : "bad request target");
	r->head.target = span_make(target, (size_t)(end - target));
	*p = end + 1;
	if (!parse_version(r, p))
		return false;
	if (!at_line_end(*p))
		return http1_refuse(r, 400, "bad request line");
	*p += 2;
	return true;
}

static bool parse_status_line(struct http1_reader *r, const char **p)
{
	const char *s, *end;

	if (!parse_version(r, p))
		return false;
	s = *p;
	if (s[0] != ' ' || s[1] < '1' || s[1] > '5' || s[2] < '0' || s[2] > '9' || s[3] < '0' || s[3] > '9')
		return http1_refuse(r, 400, "bad status");
	r->head.status = (unsigned)((s[1] - '0') * 100 + (s[2] - '0') * 10 + (s[3] - '0'));
	s += 4;
	end = s;
	if (*s == ' ')
		end = skip(++s, HTTP1_CHAR_VALUE);
	if (!at_line_end(end))
		return http1_refuse(r, 400, "bad status line");
	r->head.reason_phrase = span_trim(span_make(s, (size_t)(end - s)));
	*p = end + 2;
	return true;
}

static bool refuse_name(struct http1_reader *r, const char *name, const char *at)
{
	if (at == name && blank(*at))
		return http1_refuse(r, 400, "folded field line");
	if (at == name && *at == ':')
		return http1_refuse(r, 400, "empty field name");
	if (blank(*at))
		return http1_refuse(r, 400, "white space in a field name");
	if (at_line_end(at))
		return http1_refuse(r, 400, "field line without a colon");
	return http1_refuse(r, 400, "bad byte in a field name");
}

static bool parse_field(struct http1_reader *r, const char **p, struct http1_field *f)
{
	const char *name = *p, *value, *end;

	end = skip(name, HTTP1_CHAR_TOKEN);
	if (end == name || *end != ':')
		return refuse_name(r, name, end);
	f->name = span_make(name, (size_t)(end - name));
	value = end + 1;
	end = skip(value, HTTP1_CHAR_VALUE);
	if (!at_line_end(end))
		return http1_refuse(r, 400, *end == '\r' ? "bare CR in a field value" : "bad byte in a field value");
	f->value = span_trim(span_make(value, (size_t)(end - value)));
	*p = end + 2;
	return true;
}

static void note_connection(struct facts *facts, struct span value)
{
	facts->connection_bytes += value.len;
	facts->close |= http1_list_has(value, "close");
	facts->keep_alive |= http1_list_has(value, "keep-alive");
	facts->upgrade_option |= http1_list_has(value, "upgrade");
}

static void note_once(size_t *count, struct span *slot, struct span value)
{
	if ((*count)++ == 0)
		*slot = value;
}

static void note_field(struct facts *facts, const struct http1_field *f)
{
	/* The length tells most fields apart without looking at a letter. */
	switch (f->name.len) {
	case 4:
		if (span_ieq(f->name, SPAN("host")))
			note_once(&facts->n_host, &facts->host, f->value);
		break;
	case 6:
		if (span_ieq(f->name, SPAN("expect"))) {
			facts->expect_continue = span_ieq(f->value, SPAN("100-continue"));
			facts->expect_other |= !facts->expect_continue;
		}
		break;
	case 7:
		facts->upgrade_field |= span_ieq(f->name, SPAN("upgrade"));
		break;
	case 10:
		if (span_ieq(f->name, SPAN("connection")))
			note_connection(facts, f->value);
		break;
	case 14:
		if (span_ieq(f->name, SPAN("content-length")))
			note_once(&facts->n_length, &facts->length, f->value);
		break;
	case 17:
		if (span_ieq(f->name, SPAN("transfer-encoding")))
			note_once(&facts->n_coding, &facts->coding, f->value);
		break;
	}
}

static bool hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool ip_literal_ok(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (!hex(s.p[i]) && s.p[i] != ':' && s.p[i] != '.')
			return false;
	return s.len > 0;
}

static bool reg_name_ok(struct span s)
{
	for (size_t i = 0; i < s.len; i++) {
		if (http1_char_is(s.p[i], HTTP1_CHAR_HOST))
			continue;
		if (s.p[i] != '%' || s.len - i < 3 || !hex(s.p[i + 1]) || !hex(s.p[i + 2]))
			return false;
		i += 2;
	}
	return s.len > 0;
}

static bool port_ok(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
	return true;
}

/* uri-host [ ":" port ]; an empty host is invalid in http and https (RFC 9110 4.2). */
static bool host_ok(struct span s)
{
	struct span host;

	if (s.len == 0 || s.p[0] != '[') {
		host = span_split(&s, ':');
		return reg_name_ok(host) && port_ok(s);
	}
	s = span_make(s.p + 1, s.len - 1);
	host = span_split(&s, ']');
	if (!s.p || !ip_literal_ok(host))
		return false;
	return s.len == 0 || (s.p[0] == ':' && port_ok(span_make(s.p + 1, s.len - 1)));
}

static bool check_request(struct http1_reader *r, const struct facts *facts)
{
	struct http1_head *h = &r->head;

	if (facts->n_host > 1)
		return http1_refuse(r, 400, "two Host fields");
	if (facts->n_host == 0 && h->minor == 1)
		return http1_refuse(r, 400, "no Host field");
	if (facts->n_host && !host_ok(facts->host))
		return http1_refuse(r, 400, "bad Host");
	if (facts->expect_other)
		return http1_refuse(r, 417, "unknown expectation");
	h->expect_continue = facts->expect_continue && h->minor == 1;
	return true;
}

static bool check_framing(struct http1_reader *r, const struct facts *facts)
{
	if (facts->n_length > 1)
		return http1_refuse(r, 400, "two Content-Length fields");
	if (facts->n_length && facts->n_coding)
		return http1_refuse(r, 400, "Content-Length with Transfer-Encoding");
	if (facts->n_coding > 1)
		return http1_refuse(r, 400, "two Transfer-Encoding fields");
	if (facts->n_coding && r->head.minor == 0)
		return http1_refuse(r, 400, "Transfer-Encoding in an HTTP/1.0 message");
	if (facts->n_coding && !span_ieq(facts->coding, SPAN("chunked")))
		return http1_refuse(r, 501, "transfer coding other than chunked");
	if (facts->n_length && span_u64(facts->length, &r->head.content_length) < 0)
		return http1_refuse(r, 400, "bad Content-Length");
	return true;
}

static enum http1_body body_of(const struct http1_reader *r, const struct facts *facts)
{
	if (facts->n_coding)
		return HTTP1_BODY_CHUNKED;
	if (facts->n_length)
		return HTTP1_BODY_LENGTH;
	return r->kind == HTTP1_REQUEST ? HTTP1_BODY_NONE : HTTP1_BODY_UNTIL_CLOSE;
}

/* RFC 9112 6.3. */
static bool frame_body(struct http1_reader *r, const struct facts *facts)
{
	struct http1_head *h = &r->head;
	bool no_content;

	if (!check_framing(r, facts))
		return false;
	h->body = body_of(r, facts);
	if (r->kind == HTTP1_REQUEST)
		return true;
	no_content = h->status < 200 || h->status == 204;
	if (no_content && facts->n_coding)
		return http1_refuse(r, 400, "Transfer-Encoding where no body can be");
	if (no_content || h->status == 304 || r->response_to_head)
		h->body = HTTP1_BODY_NONE;
	if (no_content || (h->status == 304 && !r->response_to_head))
		h->content_length = 0;
	return true;
}

static void judge_connection(struct http1_head *h, const struct facts *facts)
{
	h->keep_alive = !facts->close && (h->minor == 1 || facts->keep_alive);
	if (h->body == HTTP1_BODY_UNTIL_CLOSE || h->status == 101)
		h->keep_alive = false;
	h->upgrade = h->minor == 1 && facts->upgrade_option && facts->upgrade_field;
}

bool http1_head_parse(struct http1_reader *r, size_t n_fields)
{
	const char *p = (const char *)buf_bytes(&r->head_bytes);
	struct facts facts = { 0 };

	r->head = (struct http1_head){ .fields = r->fields, .n_fields = n_fields };
	if (r->kind == HTTP1_REQUEST ? !parse_request_line(r, &p) : !parse_status_line(r, &p))
		return false;
	for (size_t i = 0; i < n_fields; i++) {
		if (!parse_field(r, &p, &r->fields[i]))
			return false;
		note_field(&facts, &r->fields[i]);
	}
	if (facts.connection_bytes > HTTP1_CONNECTION_MAX)
		return http1_refuse(r, 431, "Connection too long");
	if (r->kind == HTTP1_REQUEST && !check_request(r, &facts))
		return false;
	if (!frame_body(r, &facts))
		return false;
	judge_connection(&r->head, &facts);
	return true;
}
