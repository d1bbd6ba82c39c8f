#include "daemon/tls_source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "daemon/file_watch.h"

struct tls_source {
	struct tls_context *context;
	bool server;
	struct tls_client_options as_client;
	struct tls_server_options as_server;
	struct file_watch files;
};

/* The files as they are: marked first, so that a change while they are read is found. */
static int read_files(struct tls_source *s, char *err, size_t err_size, struct tls_context **ret)
{
	file_watch_mark(&s->files);
	if (s->server)
		return tls_server_new(&s->as_server, err, err_size, ret);
	return tls_client_new(&s->as_client, err, err_size, ret);
}

static int source_new(const struct tls_source *like, char *err, size_t err_size, struct tls_source **ret)
{
	struct tls_source *s = malloc(sizeof(*s));
	int r;

	if (!s) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	*s = *like;
	r = read_files(s, err, err_size, &s->context);
	if (r < 0) {
		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

int tls_source_new_client(const struct tls_client_options *opt, char *err, size_t err_size, struct tls_source **ret)
{
	struct tls_source s = { .as_client = *opt };

	file_watch_add(&s.files, opt->ca_file);
	file_watch_add(&s.files, opt->cert_file);
	file_watch_add(&s.files, opt->key_file);
	return source_new(&s, err, err_size, ret);
}

int tls_source_new_server(const struct tls_server_options *opt, char *err, size_t err_size, struct tls_source **ret)
{
	struct tls_source s = { .server = true, .as_server = *opt };

	file_watch_add(&s.files, opt->cert_file);
	file_watch_add(&s.files, opt->key_file);
	return source_new(&s, err, err_size, ret);
}

struct tls_source *tls_source_free(struct tls_source *s)
{
	if (!s)
		return NULL;
	tls_free(s->context);
	free(s);
	return NULL;
}

struct tls_context *tls_source_get(const struct tls_source *s)
{
	return s ? s->context : NULL;
}

static bool has_expired(const struct tls_source *s, const struct tls_context *t, char *err, size_t err_size)
{
	uint64_t until_s = tls_certificate_until(t);
	time_t then = (time_t)until_s;
	char text[32] = "";
	struct tm tm;

	if (!until_s || until_s > (uint64_t)time(NULL))
		return false;
	if (gmtime_r(&then, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	snprintf(err, err_size, "the certificate %s has expired: it was valid until %s",
		 s->server ? s->as_server.cert_file : s->as_client.cert_file, text);
	return true;
}

enum tls_source_result tls_source_poll(struct tls_source *s, bool now, char *err, size_t err_size)
{
	struct tls_context *fresh;
	int r;

	if (!s || (!now && !file_watch_changed(&s->files)))
		return TLS_SOURCE_SAME;
	r = read_files(s, err, err_size, &fresh);
	if (r < 0) {
		file_watch_failed(&s->files, r);
		return TLS_SOURCE_BAD;
	}
	if (has_expired(s, fresh, err, err_size)) {
		tls_free(fresh);
		return TLS_SOURCE_BAD;
	}
	tls_free(s->context);
	s->context = fresh;
	return TLS_SOURCE_NEW;
}

enum tls_source_result tls_source_follow(struct tls_source *s, bool now, const char *whose, char *problem, size_t size)
{
	char err[512];
	enum tls_source_result result = tls_source_poll(s, now, err, sizeof(err));

	if (result == TLS_SOURCE_NEW)
		log_notice("TLS to the %s: certificates read again%s; new connections use them", whose, now ? " at SIGHUP" : ", as they have changed");
	if (result == TLS_SOURCE_BAD) {
		snprintf(problem, size, "TLS to the %s: certificates stay as they were: %s", whose, err);
		log_error("%s", problem);
	}
	return result;
}
