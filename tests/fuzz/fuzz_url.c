/* A URL that is taken is one again after it was put together from its parts, with the same parts. First two bytes: what is
 * allowed; then the text. The names of regions and the addresses of --upstream-allow are tried on the same text. */
#include "daemon/network.h"
#include "daemon/url.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check_parts(const struct url *u, unsigned flags)
{
	must((u->scheme & (u->scheme - 1)) == 0 && (u->scheme & flags));
	must(u->target[0] == '/' && u->path_len <= strlen(u->target));
	must((u->host[0] != '\0') != (u->socket[0] != '\0'));
	for (const char *p = u->host; *p; p++)
		must(*p > ' ' && *p <= '~' && !isupper((unsigned char)*p) && !strchr("/?#@[]%", *p));
	for (const char *p = u->target; *p; p++)
		must(*p > ' ' && *p <= '~' && *p != '#');
	must(!(flags & URL_NO_QUERY) || !strchr(u->target, '?'));
}

static void check_again(const struct url *u, unsigned flags)
{
	char text[URL_TEXT_MAX + 64];
	struct url again;
	const char *why;

	/* Of these, the text has more than the parts. */
	if (flags & (URL_LISTEN | URL_NO_PATH) || u->scheme == URL_HTTP_UNIX)
		return;
	if (url_is_unix(u))
		snprintf(text, sizeof(text), "unix:%s%s%s", u->socket, u->path_given ? ":" : "", u->path_given ? u->target : "");
	else
		snprintf(text, sizeof(text), "%s://%s%s", url_scheme_name(u), u->authority, u->target);
	must(url_parse(span_of(text), flags, &again, &why) == 0);
	must(strcmp(u->host, again.host) == 0 && strcmp(u->authority, again.authority) == 0);
	must(strcmp(u->socket, again.socket) == 0 && strcmp(u->target, again.target) == 0);
	must(u->port == again.port && u->is_ipv6 == again.is_ipv6 && u->path_len == again.path_len);
}

static void check_network(struct span text)
{
	struct address a;
	struct network n;

	if (address_parse(text, &a) == 0 && network_parse(text, &n) == 0)
		must(network_has(&n, &a));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const unsigned all = URL_HTTP | URL_HTTPS | URL_WS | URL_WSS | URL_UNIX | URL_HTTP_UNIX;
	_cleanup_(freep) char *copy = NULL;
	char out[URL_TEXT_MAX], cut[16];
	unsigned flags;
	struct span text;
	struct url u;
	const char *why = NULL;

	if (size < 2)
		return 0;
	flags = data[0] | (unsigned)(data[1] & 7) << 8;
	flags = flags & all ? flags : flags | all;
	copy = malloc(size - 1);
	must(copy != NULL);
	memcpy(copy, data + 2, size - 2);
	copy[size - 2] = '\0';
	text = span_make(copy, size - 2);
	if (url_parse(text, flags, &u, &why) == 0) {
		check_parts(&u, flags);
		check_again(&u, flags);
		url_print(&u, out, sizeof(out));
		url_print(&u, cut, sizeof(cut));
		must(url_is_unix(&u) || !strchr(out, '?'));
	} else {
		must(why && *why);
	}
	if (url_parse_listen_addr(copy, &u, &why) == 0)
		check_parts(&u, URL_HTTP | URL_UNIX);
	if (url_subst_region(copy, "eu-1", out, sizeof(out)) == 0)
		must(!strstr(out, "{region}"));
	check_network(text);
	return 0;
}
