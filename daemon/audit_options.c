#include "daemon/audit_options.h"

#include <unistd.h>

#include "daemon/journal.h"

int audit_options_finish(struct config *c, struct audit_options *o)
{
	struct span sink = span_of(o->sink_text);

	o->chosen = o->sink_text != NULL;
	if (!o->sink_text)
		o->sink = access(JOURNAL_SOCKET, F_OK) == 0 ? AUDIT_JOURNALD : AUDIT_NONE;
	else if (span_is(sink, "none"))
		o->sink = AUDIT_NONE;
	else if (span_is(sink, "journald"))
		o->sink = AUDIT_JOURNALD;
	else if (span_starts(sink, "file:/") && sink.len > 6)
		o->sink = AUDIT_FILE;
	else
		return config_fail(c, "audit", o->sink_text, "is not allowed; give journald, file:/PATH (absolute) or none");
	o->path = o->sink == AUDIT_FILE ? o->sink_text + 5 : NULL;
	return 0;
}
