/* The audit options that both programs have: the fields of their config.def, and what becomes of them. */
#pragma once

#include "daemon/audit.h"
#include "daemon/config.h"

struct audit_options {
	/* As in config.def. */
	char *sink_text;
	int on_failure;      /* deny|continue */
	int sync_choice;     /* off|interval|each */
	int read_back_choice; /* disk|any|off */
	int hash;            /* hmac-sha256-jcs|sha256-jcs */
	char *hash_key_file; /* NULL: the key is derived from the tunnel's token */

	/* Derived. */
	enum audit_sink sink;
	const char *path; /* into sink_text, for AUDIT_FILE */
	bool chosen;      /* --audit was given */
};

/* For finish(): fills what is derived. */
int audit_options_finish(struct config *c, struct audit_options *o);
