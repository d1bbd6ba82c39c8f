/* The configuration, read again at SIGHUP: same command line, same file. What config.def marks CONFIG_LIVE holds from then on; the rest stays as the
 * relay has started with and is named. A configuration that is not good changes nothing.
 *
 * relay->cfg points into this struct from reload_init() on. */
#pragma once

#include "relay/relay.h"

struct reload {
	struct relay *relay;
	const struct relay_config *first;
	struct relay_config *latest; /* that was good; NULL: still the first */
	struct relay_config now;     /* first, with what is live of latest; owns nothing */
};

void reload_init(struct reload *l, struct relay *r, const struct relay_config *first);
void reload_done(struct reload *l);

enum { RELOAD_TEXT_MAX = 2 * CONFIG_NAMES_MAX + CONFIG_ERROR_MAX };

/* True: text says what has changed and what needs a restart; false: why everything stays as it was. Logs it, too. */
bool reload_now(struct reload *l, char text[RELOAD_TEXT_MAX]);
