/* Throw-away certificates for tests: P-256, PEM. */
#pragma once

#include "base/check.h"

struct cert_spec {
	const char *dir;    /* gets NAME.pem and NAME.key */
	const char *name;
	const char *san;    /* "DNS:relay.example,IP:127.0.0.1"; NULL: none */
	const char *issuer; /* the name of one made before in dir; NULL: self-signed */
	bool ca;
	long from_s; /* validity, relative to now */
	long to_s;
};

/* 0 or -EIO. */
int cert_make(const struct cert_spec *spec);
