#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "gateway/guard.h"
#include "tests/lib/unit.h"

static bool allows(const struct guard *g, const char *text)
{
	struct address a;

	ck_assert_msg(address_parse(span_of(text), &a) == 0, "%s", text);
	return guard_allows(g, &a);
}

START_TEST(by_default)
{
	static const char *const yes[] = {
		"127.0.0.1", "127.255.255.255", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"::1", "fd12:3456::1", "fc00::1", "::ffff:10.0.0.1",
	};
	static const char *const no[] = {
		"9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "8.8.8.8",
		"100.64.0.1", "169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255",
		"::", "::2", "fe80::1", "ff02::1", "2001:db8::1", "fbff::1", "fe00::1", "fd00:ec2::254", "::ffff:8.8.8.8",
		"fd00:ec2::23", "fd20:ce::254", "fd00:42::42", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1",
	};
	const struct guard g = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(yes); i++)
		ck_assert_msg(allows(&g, yes[i]), "%s", yes[i]);
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		ck_assert_msg(!allows(&g, no[i]), "%s", no[i]);
}
END_TEST

START_TEST(by_list)
{
	struct guard g = { 0 };

	ck_assert_int_eq(guard_add(&g, "198.51.100.0/24"), 0);
	ck_assert_int_eq(guard_add(&g, "2001:db8::/48"), 0);
	ck_assert(allows(&g, "198.51.100.7") && allows(&g, "2001:db8::9"));
	ck_assert(!allows(&g, "127.0.0.1") && !allows(&g, "198.51.101.7") && !allows(&g, "2001:db8:1::9"));
}
END_TEST

START_TEST(never_whatever_is_listed)
{
	struct guard g = { 0 };

	ck_assert_int_eq(guard_add(&g, "0.0.0.0/0"), 0);
	ck_assert_int_eq(guard_add(&g, "::/0"), 0);
	ck_assert_int_eq(guard_add(&g, "169.254.169.254"), 0);
	ck_assert(allows(&g, "8.8.8.8") && allows(&g, "2001:db8::9") && allows(&g, "fd00:ec2::255"));
	ck_assert(!allows(&g, "169.254.169.254") && !allows(&g, "fe80::1") && !allows(&g, "0.0.0.0") && !allows(&g, "::"));
	ck_assert(!allows(&g, "239.1.2.3") && !allows(&g, "ff05::2") && !allows(&g, "255.255.255.255"));
	ck_assert(!allows(&g, "fd00:ec2::254") && !allows(&g, "::ffff:169.254.169.254"));
	ck_assert(!allows(&g, "fd00:ec2::23") && !allows(&g, "fd20:ce::254") && !allows(&g, "fd00:42::42"));
	ck_assert(allows(&g, "64:ff9b::8.8.8.8") && !allows(&g, "64:ff9b::169.254.169.254"));
}
END_TEST

START_TEST(forms)
{
	static const char *const bad[] = {
		"", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8", "::/129", "host", "[::1", "10.0.0.0/8x",
		"1.2.3.4 ",
	};
	struct guard g = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_msg(guard_add(&g, bad[i]) == -EINVAL, "%s", bad[i]);
	ck_assert_uint_eq(g.n, 0);
	ck_assert_int_eq(guard_add(&g, "10.1.2.3/0"), 0);
	ck_assert(allows(&g, "1.1.1.1"));
	for (size_t i = 1; i < GUARD_NETWORKS_MAX; i++)
		ck_assert_int_eq(guard_add(&g, "10.0.0.0/9"), 0);
	ck_assert_int_eq(guard_add(&g, "10.0.0.0/9"), -ENOSPC);
}
END_TEST

START_TEST(socket_addresses)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000001) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct address a;

	ck_assert_int_eq(address_of((struct sockaddr *)&in, &a), 0);
	ck_assert(a.len == 4 && a.bytes[0] == 10 && a.bytes[3] == 1);
	ck_assert_int_eq(inet_pton(AF_INET6, "::ffff:1.2.3.4", &in6.sin6_addr), 1);
	ck_assert_int_eq(address_of((struct sockaddr *)&in6, &a), 0);
	ck_assert(a.len == 4 && a.bytes[0] == 1);
	ck_assert_int_eq(address_of((struct sockaddr *)&un, &a), -EAFNOSUPPORT);
}
END_TEST

UNIT_MAIN("guard", ADD(by_default) ADD(by_list) ADD(never_whatever_is_listed) ADD(forms) ADD(socket_addresses))
