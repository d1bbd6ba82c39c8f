#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/url.h"
#include "tests/lib/unit.h"

enum { NET = URL_HTTP | URL_HTTPS | URL_WS | URL_WSS, ALL = NET | URL_UNIX | URL_HTTP_UNIX };

static struct url good(const char *text, unsigned flags)
{
	struct url u;
	const char *why = "";
	int r = url_parse(span_of(text), flags, &u, &why);

	ck_assert_msg(r == 0, "%s: %s", text, why);
	return u;
}

static const char *bad(const char *text, unsigned flags)
{
	struct url u = { .port = 4711 };
	const char *why = NULL;

	ck_assert_msg(url_parse(span_of(text), flags, &u, &why) == -EINVAL, "%s was accepted", text);
	ck_assert_ptr_nonnull(why);
	ck_assert_uint_eq(u.port, 4711);
	return why;
}

START_TEST(schemes_and_ports)
{
	static const struct {
		const char *text, *scheme, *host, *authority, *target;
		unsigned port;
	} t[] = {
	    {"http://localhost:9000/mcp", "http", "localhost", "localhost:9000", "/mcp", 9000},
	    {"https://Relay.Example", "https", "relay.example", "relay.example", "/", 443},
	    {"HTTPS://relay.example:443/", "https", "relay.example", "relay.example", "/", 443},
	    {"ws://127.0.0.1:8080/v1/tunnel", "ws", "127.0.0.1", "127.0.0.1:8080", "/v1/tunnel", 8080},
	    {"wss://us-east-1.relay.example/v1/tunnel", "wss", "us-east-1.relay.example", "us-east-1.relay.example",
	     "/v1/tunnel", 443},
	    {"https://[2001:DB8:0:0::1]:8443/x", "https", "2001:db8::1", "[2001:db8::1]:8443", "/x", 8443},
	    {"http://[::1]", "http", "::1", "[::1]", "/", 80},
	    {"http://a.b?x=1&y=%20", "http", "a.b", "a.b", "/?x=1&y=%20", 80},
	    {"http://a_b/p/?q", "http", "a_b", "a_b", "/p/?q", 80},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct url u = good(t[i].text, ALL);

		ck_assert_str_eq(url_scheme_name(&u), t[i].scheme);
		ck_assert_str_eq(u.host, t[i].host);
		ck_assert_str_eq(u.authority, t[i].authority);
		ck_assert_str_eq(u.target, t[i].target);
		ck_assert_uint_eq(u.port, t[i].port);
		ck_assert(!url_is_unix(&u));
	}
}
END_TEST

START_TEST(unix_sockets)
{
	struct url u = good("unix:/run/mcp.sock:/mcp?k=v", ALL);
	char text[URL_TEXT_MAX];

	ck_assert_str_eq(u.socket, "/run/mcp.sock");
	ck_assert_str_eq(u.target, "/mcp?k=v");
	ck_assert_str_eq(u.authority, "localhost");
	ck_assert(url_is_unix(&u) && url_is_local(&u) && !url_is_tls(&u));
	url_print(&u, text, sizeof(text));
	ck_assert_str_eq(text, "unix:/run/mcp.sock:/mcp");
	u = good("unix:/run/mcp.sock", ALL);
	ck_assert_str_eq(u.target, "/");
	u = good("http+unix:/run/relay.sock", ALL | URL_LISTEN | URL_NO_PATH);
	ck_assert_str_eq(u.socket, "/run/relay.sock");
	bad("unix:run/mcp.sock", ALL);
	bad("unix:", ALL);
	bad("unix:/", ALL);
	bad("unix:/run/mcp.sock:", ALL);
	bad("unix:/run/mcp.sock:mcp", ALL);
	bad("unix:/run/m\ncp.sock", ALL);
	bad("http+unix://", ALL & ~URL_HTTP_UNIX);
}
END_TEST

START_TEST(refused)
{
	static const char *const texts[] = {
		"",
		"localhost:9000",
		"ftp://a/",
		"http:/a",
		"http://",
		"http:///x",
		"http://user@a/",
		"http://user:pw@a/",
		"http://a/#f",
		"http://a#f",
		"http://a:0/",
		"http://a:/",
		"http://a:65536/",
		"http://a:080808/",
		"http://a:+80/",
		"http://a:8 0/",
		"http://a b/",
		"http://a/ b",
		"http://a/\x7f",
		"http://a/\xc3\xa9",
		"http://\xc3\xa9/",
		"http://a/%",
		"http://a/%4",
		"http://a/%zz",
		"http://%41/",
		"http://a..b/",
		"http://.a/",
		"http://a./",
		"http://-a/",
		"http://a-/",
		"http://127.1/",
		"http://2130706433/",
		"http://0x7f000001/",
		"http://127.0.0.256/",
		"http://1.2.3.4.5/",
		"http://::1/",
		"http://[::1/",
		"http://[]/",
		"http://[::1]x/",
		"http://[::1]:/",
		"http://[::1%25lo]/",
		"http://[127.0.0.1]/",
		"http://{region}/",
		"http://a/{x}",
		"http://a/\\b",
		" http://a/",
		"http://a/ ",
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		bad(texts[i], ALL);
	ck_assert_str_eq(bad("http://u@h/", ALL), "it must not have a user name or password");
	ck_assert_str_eq(bad("http://h/", URL_HTTPS | URL_WSS), "its scheme is not one that is allowed here");
}
END_TEST

START_TEST(embedded_nul)
{
	struct url u;
	const char *why;

	ck_assert_int_eq(url_parse(SPAN("http://a\0b/"), ALL, &u, &why), -EINVAL);
	ck_assert_int_eq(url_parse(SPAN("http://a/\0b"), ALL, &u, &why), -EINVAL);
	ck_assert_int_eq(url_parse(SPAN("http://[::1\0]/"), ALL, &u, &why), -EINVAL);
	ck_assert_int_eq(url_parse(SPAN("unix:/a\0b"), ALL, &u, &why), -EINVAL);
}
END_TEST

START_TEST(lengths)
{
	char text[2048] = "http://", label[64];
	struct url u;

	memset(label, 'a', sizeof(label));
	for (int i = 0; i < 4; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%.*s%s", i < 3 ? 63 : 61, label,
			 i < 3 ? "." : "");
	u = good(text, ALL);
	ck_assert_uint_eq(strlen(u.host), 253);
	strcat(text, "a");
	bad(text, ALL);

	strcpy(text, "http://a/");
	memset(text + 9, 'x', URL_TARGET_MAX);
	text[9 + URL_TARGET_MAX - 2] = '\0';
	u = good(text, ALL);
	ck_assert_uint_eq(strlen(u.target), URL_TARGET_MAX - 1);
	/* The same without its slash, which it gets. */
	text[8] = '?';
	bad(text, ALL);
	text[9 + URL_TARGET_MAX - 3] = '\0';
	u = good(text, ALL);
	ck_assert_uint_eq(strlen(u.target), URL_TARGET_MAX - 1);
	text[8] = '/';
	text[9 + URL_TARGET_MAX - 3] = 'x';
	text[9 + URL_TARGET_MAX - 2] = 'x';
	text[9 + URL_TARGET_MAX - 1] = '\0';
	bad(text, ALL);

	strcpy(text, "unix:/");
	memset(text + 6, 'x', 200);
	text[6 + 106] = '\0';
	u = good(text, ALL);
	ck_assert_uint_eq(strlen(u.socket), 107);
	text[6 + 106] = 'x';
	text[6 + 107] = '\0';
	bad(text, ALL);
}
END_TEST

START_TEST(narrower)
{
	struct url u = good("https://0.0.0.0:8443", URL_HTTPS | URL_LISTEN | URL_NO_PATH);

	ck_assert_uint_eq(u.port, 8443);
	u = good("http://localhost:0/", URL_HTTP | URL_LISTEN | URL_NO_PATH);
	ck_assert_str_eq(u.host, "127.0.0.1");
	ck_assert_uint_eq(u.port, 0);
	u = good("http://[::]:80", URL_HTTP | URL_LISTEN | URL_NO_PATH);
	ck_assert_str_eq(u.host, "::");
	bad("https://0.0.0.0", URL_HTTPS | URL_LISTEN);
	bad("https://relay.example:443", URL_HTTPS | URL_LISTEN);
	bad("https://a/x", URL_HTTPS | URL_NO_PATH);
	bad("https://a?x", URL_HTTPS | URL_NO_PATH);
	bad("https://a/?x", URL_HTTPS | URL_NO_QUERY);
}
END_TEST

START_TEST(print_has_no_query)
{
	struct url u = good("https://A.example:8443/mcp?secret=1", ALL);
	char text[URL_TEXT_MAX];

	url_print(&u, text, sizeof(text));
	ck_assert_str_eq(text, "https://a.example:8443/mcp");
	ck_assert(url_is_tls(&u) && !url_is_local(&u));
	url_print(&u, text, 8);
	ck_assert_str_eq(text, "https:/");
}
END_TEST

START_TEST(loopback)
{
	static const char *const yes[] = { "localhost", "LocalHost", "127.0.0.1", "127.255.1.2", "::1", "0:0::0:1" };
	static const char *const no[] = {
	    "", "localhost.example", "128.0.0.1", "0.0.0.0", "::", "127.1", "127.0.0.1.example", "[::1]", "10.0.0.1"};

	for (size_t i = 0; i < ARRAY_LEN(yes); i++)
		ck_assert_msg(host_is_loopback(yes[i]), "%s", yes[i]);
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		ck_assert_msg(!host_is_loopback(no[i]), "%s", no[i]);
}
END_TEST

START_TEST(region)
{
	char out[64];

	ck_assert_int_eq(url_subst_region("wss://{region}.x/{region}", "us-east-1", out, sizeof(out)), 0);
	ck_assert_str_eq(out, "wss://us-east-1.x/us-east-1");
	ck_assert_int_eq(url_subst_region("wss://{regio", "a", out, sizeof(out)), 0);
	ck_assert_str_eq(out, "wss://{regio");
	ck_assert_int_eq(url_subst_region("abc", "a", out, 4), 0);
	ck_assert_int_eq(url_subst_region("abc", "a", out, 3), -ENAMETOOLONG);
	ck_assert_int_eq(url_subst_region("{region}", "abc", out, 3), -ENAMETOOLONG);
	ck_assert_int_eq(url_subst_region("", "a", out, 0), -ENAMETOOLONG);
	ck_assert_int_eq(url_subst_region("x", "", out, sizeof(out)), -EINVAL);
	ck_assert_int_eq(url_subst_region("x", "evil.example/", out, sizeof(out)), -EINVAL);
	ck_assert_int_eq(url_subst_region("x", "-a", out, sizeof(out)), -EINVAL);
}
END_TEST

UNIT_MAIN("url", ADD(schemes_and_ports) ADD(unix_sockets) ADD(refused) ADD(embedded_nul) ADD(lengths) ADD(narrower)
	  ADD(print_has_no_query) ADD(loopback) ADD(region))
