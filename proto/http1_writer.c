#include "proto/http1_head.h"

#include <errno.h>

/* Room for all of it at once, so that a refusal leaves nothing behind. */
static int add_parts(struct buf *out, const struct span *parts, size_t n)
{
	size_t total = 0;
	uint8_t *at;
	int r;

	for (size_t i = 0; i < n; i++)
		if (__builtin_add_overflow(total, parts[i].len, &total))
			return -ENOBUFS;
	r = buf_reserve(out, total, &at);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		if (parts[i].len)
			memcpy(at, parts[i].p, parts[i].len);
		at += parts[i].len;
	}
	buf_commit(out, total);
	return 0;
}

static bool target_ok(struct span s)
{
	size_t i = 0;

	while (i < s.len && http1_char_is(s.p[i], HTTP1_CHAR_TARGET))
		i++;
	return s.len > 0 && i == s.len;
}

int http1_write_request(struct buf *out, struct span method, struct span target)
{
	const struct span parts[] = { method, SPAN(" "), target, SPAN(" HTTP/1.1\r\n") };

	if (!http1_token_ok(method) || !target_ok(target))
		return -EINVAL;
	return add_parts(out, parts, ARRAY_LEN(parts));
}

int http1_write_status(struct buf *out, unsigned status, struct span reason_phrase)
{
	struct span reason = reason_phrase.p ? reason_phrase : span_of(http1_status_text(status));
	const char digits[3] = { (char)('0' + status / 100 % 10), (char)('0' + status / 10 % 10),
				 (char)('0' + status % 10) };
	const struct span parts[] = { SPAN("HTTP/1.1 "), span_make(digits, 3), SPAN(" "), reason, SPAN("\r\n") };

	if (status < 100 || status > 599 || !http1_value_ok(reason))
		return -EINVAL;
	return add_parts(out, parts, ARRAY_LEN(parts));
}

int http1_write_field(struct buf *out, struct span name, struct span value)
{
	const struct span parts[] = { name, SPAN(": "), value, SPAN("\r\n") };

	if (!http1_token_ok(name) || !http1_value_ok(value))
		return -EINVAL;
	return add_parts(out, parts, ARRAY_LEN(parts));
}

int http1_write_end(struct buf *out)
{
	return buf_add(out, "\r\n", 2);
}

size_t http1_chunk_prefix(char dst[HTTP1_CHUNK_PREFIX_MAX], size_t len)
{
	size_t digits = 1, rest = len;

	while (rest >>= 4)
		digits++;
	for (size_t i = digits; i > 0; i--) {
		dst[i - 1] = "0123456789abcdef"[len & 15];
		len >>= 4;
	}
	dst[digits] = '\r';
	dst[digits + 1] = '\n';
	return digits + 2;
}

const char *http1_status_text(unsigned status)
{
	static const struct {
		unsigned status;
		const char *text;
	} texts[] = {
		{ 200, "OK" },
		{ 202, "Accepted" },
		{ 204, "No Content" },
		{ 100, "Continue" },
		{ 101, "Switching Protocols" },
		{ 102, "Processing" },
		{ 103, "Early Hints" },
		{ 201, "Created" },
		{ 203, "Non-Authoritative Information" },
		{ 205, "Reset Content" },
		{ 206, "Partial Content" },
		{ 300, "Multiple Choices" },
		{ 301, "Moved Permanently" },
		{ 302, "Found" },
		{ 303, "See Other" },
		{ 304, "Not Modified" },
		{ 307, "Temporary Redirect" },
		{ 308, "Permanent Redirect" },
		{ 400, "Bad Request" },
		{ 401, "Unauthorized" },
		{ 402, "Payment Required" },
		{ 403, "Forbidden" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 406, "Not Acceptable" },
		{ 407, "Proxy Authentication Required" },
		{ 408, "Request Timeout" },
		{ 409, "Conflict" },
		{ 410, "Gone" },
		{ 411, "Length Required" },
		{ 412, "Precondition Failed" },
		{ 413, "Content Too Large" },
		{ 414, "URI Too Long" },
		{ 415, "Unsupported Media Type" },
		{ 416, "Range Not Satisfiable" },
		{ 417, "Expectation Failed" },
		{ 421, "Misdirected Request" },
		{ 422, "Unprocessable Content" },
		{ 425, "Too Early" },
		{ 426, "Upgrade Required" },
		{ 428, "Precondition Required" },
		{ 429, "Too Many Requests" },
		{ 431, "Request Header Fields Too Large" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 502, "Bad Gateway" },
		{ 503, "Service Unavailable" },
		{ 504, "Gateway Timeout" },
		{ 505, "HTTP Version Not Supported" },
		{ 511, "Network Authentication Required" },
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (texts[i].status == status)
			return texts[i].text;
	return "Unknown";
}
