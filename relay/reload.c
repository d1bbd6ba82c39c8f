#include "relay/reload.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "daemon/process.h"

enum {
	COLLECTED_MIN = 64 * 1024 * 1024,
	FILES_KEPT = 256, /* for all that is no connection: the registry, certificates, records, the journal's files */
};

/* Where files run out first, nothing but connections would be open: no key could be revoked, no gateway come back. */
static unsigned most_connections(const struct relay_config *cfg)
{
	size_t wanted = cfg->max_connections ? (size_t)cfg->max_connections + FILES_KEPT : SIZE_MAX;
	size_t files = process_files(wanted), most = files - MIN(files / 2, (size_t)FILES_KEPT);

	if (cfg->max_connections && most >= cfg->max_connections)
		return cfg->max_connections;
	if (cfg->max_connections && !cfg->check_config)
		log_warning("no more than %zu connections, not --max-connections %u: the relay may have %zu files open; raise LimitNOFILE= of "
			    "its unit, or ulimit -n",
			    most, cfg->max_connections, files);
	return (unsigned)MIN(most, (size_t)UINT32_MAX);
}

/* To those who have a copy of their own. */
static void apply(struct relay *r)
{
	const struct relay_config *cfg = r->cfg;
	const struct limits_config limits = { cfg->agent_rate, cfg->tunnel_rate, cfg->max_agent_streams };

	r->connections = (struct addresses_config){ most_connections(cfg), cfg->max_address_connections };
	r->max_collected_bytes = MAX((uint64_t)COLLECTED_MIN, 4 * cfg->max_request_bytes);
	if (r->limits)
		limits_set(r->limits, &limits);
	if (r->hold)
		hold_set(r->hold, cfg->hold_ms);
}

void reload_init(struct reload *l, struct relay *r, const struct relay_config *first)
{
	*l = (struct reload){ .relay = r, .first = first, .now = *first };
	r->cfg = &l->now;
	apply(r);
}

static void drop(struct relay_config *cfg)
{
	if (cfg)
		relay_config_done(cfg);
	free(cfg);
}

void reload_done(struct reload *l)
{
	drop(l->latest);
	l->latest = NULL;
}

/* A command line and a file that are as they were at the start leave nothing to tell. */
static void tell(struct reload *l, const struct relay_config *fresh, char text[RELOAD_TEXT_MAX])
{
	struct config_changes live, start;

	relay_config_compare(l->latest ? l->latest : l->first, fresh, &live);
	relay_config_compare(l->first, fresh, &start);
	snprintf(text, RELOAD_TEXT_MAX, "configuration read again: %s%s%s%s", live.n_live ? "changed: " : "nothing to apply", live.live,
		 start.n_restart ? "; needs a restart: " : "", start.restart);
	log_notice("SIGHUP: configuration read again: %s%s", live.n_live ? "changed: " : "nothing to apply", live.live);
	if (start.n_restart)
		log_warning("SIGHUP: these options have changed and need a restart: %s", start.restart);
}

bool reload_now(struct reload *l, char text[RELOAD_TEXT_MAX])
{
	struct relay_config *fresh = calloc(1, sizeof(*fresh));
	char err[CONFIG_ERROR_MAX] = "out of memory";

	if (!fresh || relay_config_again(l->first, fresh, err, sizeof(err)) != 0) {
		free(fresh);
		snprintf(text, RELOAD_TEXT_MAX, "configuration stays as it was: %s", err);
		log_error("SIGHUP: %s", text);
		return false;
	}
	tell(l, fresh, text);
	l->now = *l->first;
	relay_config_take_live(&l->now, fresh);
	drop(l->latest);
	l->latest = fresh;
	apply(l->relay);
	log_set_level(l->now.log_level);
	return true;
}
