#include <errno.h>
#include <stdio.h>

#include "daemon/doctor.h"
#include "daemon/log_sink.h"
#include "daemon/process.h"
#include "gateway/doctor.h"
#include "gateway/gateway.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

int main(int argc, char **argv)
{
	struct gateway_config cfg = { 0 };
	struct gateway *g;
	char err[CONFIG_ERROR_MAX + 512] = "";
	int r;

	if (doctor_flag(argc, argv, "doctor")) {
		process_init();
		return doctor_main(argc, argv);
	}
	process_signals(false);
	process_init();
	r = gateway_config_load(&cfg, argc, argv, err, sizeof(err));
	if (r == CONFIG_EXIT)
		return EXIT_OK;
	if (r < 0) {
		fprintf(stderr, "mcp-tunnel-gateway: %s\n", err);
		return EXIT_USAGE;
	}
	(void)log_sink_init("mcp-tunnel-gateway", cfg.log_level);
	r = gateway_new(&cfg, err, sizeof(err), &g);
	if (r < 0) {
		fprintf(stderr, "mcp-tunnel-gateway: %s\n", err);
		gateway_config_done(&cfg);
		return r == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	}
	if (cfg.check_config)
		printf("configuration is good\n");
	else
		r = gateway_run(g);
	gateway_free(g);
	gateway_config_done(&cfg);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}
