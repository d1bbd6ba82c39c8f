#include <netdb.h>
#include <stdio.h>

#include "base/log_limit.h"
#include "relay/front_private.h"
#include "relay/records.h"

void front_write_answer(struct front *f)
{
	struct answer a = f->refusal;

	if (f->call)
		a.id = call_rpc_id(f->call);
	else if (f->scan)
		a.id = mcp_scan_id(f->scan);
	a.detail = f->refusal_detail;
	a.call_id = f->refusal_call[0] ? f->refusal_call : NULL;
	if (!f->body_ended)
		f->close_after = true;
	a.close = f->close_after;
	a.head_only = f->head_only;
	a.now_s = clock_wall_us() / 1000000;
	a.cors = f->relay->cfg->n_cors > 0;
	a.cors_origin = f->cors_origin;
	f->relay->counters.refused[MIN(a.reason, (uint32_t)ARRAY_LEN(f->relay->counters.refused) - 1)]++;
	log_debug("answered %u (%s)%s%s", a.status, tp_reason_name(a.reason), a.call_id ? ", call " : "", a.call_id ? a.call_id : "");
	if (answer_write(&f->out, &a) < 0) {
		front_close(f);
		return;
	}
	f->call = call_free(f->call);
	f->scan = mcp_scan_free(f->scan);
	front_set_state(f, FRONT_ANSWERED);
	channel_want_write(f->channel);
}

void front_refuse(struct front *f, unsigned status, const char *extra, uint32_t reason, const char *text, const char *detail)
{
	f->refusal = (struct answer){ .status = status, .extra = extra, .reason = reason, .text = text };
	snprintf(f->refusal_detail, sizeof(f->refusal_detail), "%s", detail ? detail : "");
	if (f->body_ended || f->reader.head.expect_continue) {
		front_write_answer(f);
		return;
	}
	if (f->reader.head.body == HTTP1_BODY_LENGTH && f->reader.head.content_length > FRONT_DISCARD_MAX) {
		front_write_answer(f);
		return;
	}
	f->discarded = 0;
	front_set_state(f, FRONT_REFUSING);
	front_set_paused(f, false);
}

void front_refuse_reason(struct front *f, uint32_t reason, const char *detail)
{
	const struct tp_reason_info *info = tp_reason_info(reason);
	/* A rate is a whole number a second: by then there is room for one more. */
	const char *extra = info->http_status == 503 ? "Retry-After: 2\r\n" : info->http_status == 429 ? "Retry-After: 1\r\n" : NULL;

	if (f->call)
		snprintf(f->refusal_call, sizeof(f->refusal_call), "%s", call_id(f->call));
	front_refuse(f, info->http_status, extra, reason, NULL, detail);
}

void front_refuse_call(struct front *f, uint32_t reason, const char *detail)
{
	if (mcp_scan_new(&f->scan) < 0)
		f->scan = NULL;
	front_refuse_reason(f, reason, detail);
}

void front_deny(struct front *f, const struct request *q, const char *agent, const struct attached *a, uint32_t reason, const char *detail)
{
	records_denied(f->relay, q, &f->reader.head, agent, a, reason, detail);
	front_refuse_call(f, reason, detail);
}

void front_tell_full(uint32_t reason, bool room, const struct sockaddr *peer, socklen_t len)
{
	const char *what = reason == TP_REASON_REFUSED     ? "out of memory"
			   : reason == TP_REASON_CONNECTIONS ? "there are --max-connections already"
							     : "there are --max-connections-per-address of its address already";
	char from[64] = "";

	if (peer && getnameinfo(peer, len, from, sizeof(from), NULL, 0, NI_NUMERICHOST) != 0)
		from[0] = '\0';
	if (room)
		log_few(LOG_LEVEL_WARNING, NULL, 0, "a connection without a call was closed to make room for one%s%s: %s",
			from[0] ? " from " : "", from, what);
	else
		log_few(LOG_LEVEL_WARNING, NULL, 0, "a connection%s%s was closed at once: %s", from[0] ? " from " : "", from, what);
}
