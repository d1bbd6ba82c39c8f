#include "relay/answer.h"

#include "proto/http1.h"
#include "proto/reasons.h"
#include "relay/cors.h"

enum { BODY_MAX = 4096 };

static int write_body(struct buf *out, const struct answer *a)
{
	const struct tp_reason_info *info = tp_reason_info(a->reason);
	int r;

	r = buf_add_str(out, "{\"jsonrpc\":\"2.0\",\"id\":");
	if (r == 0)
		r = buf_add_span(out, a->id.p ? a->id : SPAN("null"));
	if (r == 0)
		r = buf_printf(out, ",\"error\":{\"code\":%d,\"message\":\"", info->rpc_code);
	if (r == 0)
		r = buf_add_json_text(out, a->text ? a->text : info->text);
	if (r == 0 && a->detail && a->detail[0])
		r = buf_add_str(out, ": ");
	if (r == 0 && a->detail)
		r = buf_add_json_text(out, a->detail);
	if (r == 0)
		r = buf_printf(out, "; the call %s\",\"data\":{\"reason\":\"%s\",\"executed\":\"%s\"",
			       info->maybe_executed ? "may have been executed" : "was not executed", info->name,
			       info->maybe_executed ? "maybe" : "no");
	if (r == 0 && a->call_id)
		r = buf_printf(out, ",\"call\":\"%s\"", a->call_id);
	return r < 0 ? r : buf_add_str(out, "}}}\n");
}

int answer_write(struct buf *out, const struct answer *a)
{
	char date[HTTP1_DATE_LEN + 1];
	struct buf body;
	int r;

	http1_date_print(a->now_s, date);
	buf_init(&body, BODY_MAX);
	r = write_body(&body, a);
	if (r == 0)
		r = http1_write_status(out, a->status, (struct span){ NULL, 0 });
	if (r == 0 && a->now_s)
		r = http1_write_field(out, SPAN("Date"), span_of(date));
	if (r == 0)
		r = cors_write(out, a->cors, a->cors_origin);
	if (r == 0)
		r = buf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n%s%s\r\n",
			       buf_len(&body), a->close ? "Connection: close\r\n" : "", a->extra ? a->extra : "");
	if (r == 0 && !a->head_only)
		r = buf_add_span(out, buf_span(&body));
	buf_done(&body);
	return r;
}
