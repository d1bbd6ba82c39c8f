#include <errno.h>
#include <stdio.h>

#include "daemon/doctor.h"
#include "daemon/log_sink.h"
#include "daemon/process.h"
#include "relay/admin.h"
#include "relay/doctor.h"
#include "relay/relay.h"
#include "relay/status_command.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int run_daemon(const struct relay_config *cfg)
{
	char err[CONFIG_ERROR_MAX + 512] = "";
	struct relay *r;
	int rc = relay_new(cfg, err, sizeof(err), &r);

	if (rc < 0) {
		fprintf(stderr, "mcp-tunnel-relay: %s\n", err);
		return rc == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	}
	if (cfg->check_config)
		printf("configuration is good\n");
	else
		rc = relay_run(r);
	relay_free(r);
	return rc < 0 ? EXIT_FAILED : EXIT_OK;
}

int main(int argc, char **argv)
{
	struct relay_config cfg = { 0 };
	char err[CONFIG_ERROR_MAX] = "";
	int rc;

	process_init();
	if (admin_wanted(argc, argv))
		return admin_main(argc, argv);
	if (status_wanted(argc, argv))
		return status_main(argc, argv);
	if (doctor_flag(argc, argv, "doctor"))
		return doctor_main(argc, argv);
	process_signals(false);
	rc = relay_config_load(&cfg, argc, argv, err, sizeof(err));
	if (rc == CONFIG_EXIT)
		return EXIT_OK;
	if (rc < 0) {
		fprintf(stderr, "mcp-tunnel-relay: %s\n", err);
		return EXIT_USAGE;
	}
	(void)log_sink_init("mcp-tunnel-relay", cfg.log_level);
	rc = run_daemon(&cfg);
	relay_config_done(&cfg);
	return rc;
}
