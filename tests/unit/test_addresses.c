/* relay/addresses: connections in all and by address. */
#include "relay/addresses.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "tests/lib/unit.h"

static struct addresses *addresses;
static struct address_ticket tickets[64];
static size_t n;

static struct sockaddr_storage peer_of(const char *text)
{
	struct sockaddr_storage ss = { .ss_family = AF_UNIX };
	struct sockaddr_in6 *in6 = (void *)&ss;
	struct sockaddr_in *in = (void *)&ss;

	if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
		ss.ss_family = AF_INET;
	else if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1)
		ss.ss_family = AF_INET6;
	in->sin_port = htons((uint16_t)(1000 + n)); /* ports do not count; at the same place in both */
	return ss;
}

static uint32_t enter(unsigned all, unsigned each, const char *text)
{
	const struct addresses_config limit = { all, each };
	struct sockaddr_storage ss = peer_of(text);
	uint32_t r = addresses_enter(addresses, &limit, (struct sockaddr *)&ss, &tickets[n]);

	n += r == TP_REASON_NONE;
	return r;
}

static void begin(void)
{
	n = 0;
	memset(tickets, 0, sizeof(tickets));
	ck_assert_int_eq(addresses_new(&addresses), 0);
}

static void end(void)
{
	for (size_t i = 0; i < n; i++)
		addresses_leave(&tickets[i]);
	ck_assert_uint_eq(addresses_connections(addresses), 0);
	ck_assert_uint_eq(addresses_count(addresses), 0);
	addresses_free(addresses);
}

START_TEST(who_is_the_same)
{
	static const struct {
		const char *a, *b;
		bool same;
	} rows[] = {
		{ "192.0.2.1", "192.0.2.1", true },
		{ "192.0.2.1", "192.0.2.2", false },
		{ "192.0.2.1", "::ffff:192.0.2.1", true },
		{ "::ffff:192.0.2.1", "::ffff:192.0.2.2", false },
		{ "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true },
		{ "2001:db8:1:2::1", "2001:db8:1:3::1", false },
		{ "::1", "::2", true },
		{ "::1", "192.0.2.1", false },
		{ "unix", "unix", false },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		begin();
		ck_assert_uint_eq(enter(0, 1, rows[i].a), TP_REASON_NONE);
		ck_assert_uint_eq(enter(0, 1, rows[i].b), rows[i].same ? TP_REASON_ADDRESS_CONNECTIONS : TP_REASON_NONE);
		end();
	}
}
END_TEST

START_TEST(in_all)
{
	const struct addresses_config limit = { 3, 0 };

	begin();
	ck_assert_uint_eq(enter(3, 0, "192.0.2.1"), TP_REASON_NONE);
	ck_assert_uint_eq(enter(3, 0, "unix"), TP_REASON_NONE);
	ck_assert_uint_eq(addresses_enter(addresses, &limit, NULL, &tickets[n++]), TP_REASON_NONE);
	ck_assert_uint_eq(enter(3, 0, "192.0.2.1"), TP_REASON_CONNECTIONS);
	ck_assert_uint_eq(addresses_connections(addresses), 3);
	ck_assert_uint_eq(addresses_count(addresses), 1);
	addresses_leave(&tickets[0]);
	addresses_leave(&tickets[0]); /* nothing the second time */
	ck_assert_uint_eq(addresses_count(addresses), 0);
	ck_assert_uint_eq(enter(3, 0, "192.0.2.9"), TP_REASON_NONE);
	ck_assert_uint_eq(enter(3, 0, "192.0.2.9"), TP_REASON_CONNECTIONS);
	end();
}
END_TEST

START_TEST(what_was_refused_holds_no_place)
{
	begin();
	for (unsigned i = 0; i < 2; i++)
		ck_assert_uint_eq(enter(0, 2, "2001:db8::1"), TP_REASON_NONE);
	for (unsigned i = 0; i < 100; i++)
		ck_assert_uint_eq(enter(0, 2, "2001:db8::2"), TP_REASON_ADDRESS_CONNECTIONS);
	addresses_leave(&tickets[0]);
	ck_assert_uint_eq(enter(0, 2, "2001:db8::2"), TP_REASON_NONE);
	end();
}
END_TEST

static struct address_ticket *in_the_way(unsigned all, unsigned each, uint32_t reason, const char *text)
{
	const struct addresses_config limit = { all, each };
	struct sockaddr_storage ss = peer_of(text);

	return addresses_in_the_way(addresses, &limit, reason, (struct sockaddr *)&ss);
}

/* Strangers before the idle, the oldest first, and of one address where that is what is full. */
START_TEST(who_makes_room)
{
	static const char *const from[] = { "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "unix" };

	begin();
	for (size_t i = 0; i < ARRAY_LEN(from); i++)
		ck_assert_uint_eq(enter(6, 3, from[i]), TP_REASON_NONE);
	ck_assert_uint_eq(enter(6, 3, "192.0.2.1"), TP_REASON_ADDRESS_CONNECTIONS);
	ck_assert_ptr_eq(in_the_way(6, 3, TP_REASON_ADDRESS_CONNECTIONS, "192.0.2.1"), &tickets[0]);
	ck_assert_uint_eq(enter(6, 3, "192.0.2.2"), TP_REASON_CONNECTIONS);
	addresses_become(&tickets[0], ADDRESS_GATEWAY);
	addresses_become(&tickets[1], ADDRESS_IDLE);
	ck_assert_ptr_eq(in_the_way(6, 3, TP_REASON_CONNECTIONS, "192.0.2.2"), &tickets[2]);
	addresses_become(&tickets[2], ADDRESS_IDLE);
	ck_assert_ptr_eq(in_the_way(6, 3, TP_REASON_CONNECTIONS, "unix"), &tickets[3]);
	ck_assert_ptr_eq(in_the_way(6, 3, TP_REASON_ADDRESS_CONNECTIONS, "192.0.2.1"), &tickets[1]);
	/* It has waited anew since its call. */
	addresses_become(&tickets[1], ADDRESS_CALL);
	ck_assert_ptr_eq(in_the_way(6, 3, TP_REASON_ADDRESS_CONNECTIONS, "192.0.2.1"), &tickets[2]);
	addresses_become(&tickets[1], ADDRESS_IDLE);
	ck_assert_ptr_eq(in_the_way(6, 3, TP_REASON_ADDRESS_CONNECTIONS, "192.0.2.1"), &tickets[2]);
	/* What it is already, it is not anew. */
	addresses_become(&tickets[2], ADDRESS_IDLE);
	ck_assert_ptr_eq(in_the_way(6, 3, TP_REASON_ADDRESS_CONNECTIONS, "192.0.2.1"), &tickets[2]);
	for (size_t i = 0; i < n; i++)
		addresses_become(&tickets[i], i % 2 ? ADDRESS_GATEWAY : ADDRESS_CALL);
	ck_assert_ptr_null(in_the_way(6, 3, TP_REASON_CONNECTIONS, "unix"));
	ck_assert_ptr_null(in_the_way(6, 3, TP_REASON_ADDRESS_CONNECTIONS, "192.0.2.1"));
	ck_assert_ptr_null(in_the_way(6, 3, TP_REASON_ADDRESS_CONNECTIONS, "192.0.2.9"));
	end();
}
END_TEST

/* Where all but a few are idle, the few are not each other's end. */
START_TEST(newcomers_have_time)
{
	begin();
	for (size_t i = 0; i < 32; i++)
		ck_assert_uint_eq(enter(32, 0, "unix"), TP_REASON_NONE);
	for (size_t i = 0; i < 30; i++)
		addresses_become(&tickets[i], ADDRESS_IDLE);
	ck_assert_uint_eq(addresses_reserve(32), 1);
	ck_assert_ptr_eq(in_the_way(32, 0, TP_REASON_CONNECTIONS, "unix"), &tickets[30]);
	addresses_leave(&tickets[30]);
	ck_assert_ptr_eq(in_the_way(32, 0, TP_REASON_CONNECTIONS, "unix"), &tickets[0]);
	end();
}
END_TEST

static uint32_t call(unsigned all, unsigned each, size_t i)
{
	return addresses_begin_call(&tickets[i], &(struct addresses_config){ all, each });
}

START_TEST(calls_leave_room)
{
	begin();
	for (size_t i = 0; i < 32; i++)
		ck_assert_uint_eq(enter(0, 0, i < 16 ? "192.0.2.1" : "unix"), TP_REASON_NONE);
	for (size_t i = 0; i < 15; i++)
		ck_assert_uint_eq(call(32, 16, i), TP_REASON_NONE);
	ck_assert_uint_eq(call(32, 16, 15), TP_REASON_ADDRESS_CONNECTIONS);
	ck_assert_uint_eq(call(32, 16, 14), TP_REASON_NONE); /* it is one already */
	for (size_t i = 16; i < 32; i++)
		ck_assert_uint_eq(call(32, 16, i), TP_REASON_NONE);
	ck_assert_uint_eq(call(32, 0, 15), TP_REASON_CONNECTIONS);
	addresses_leave(&tickets[0]);
	ck_assert_uint_eq(call(0, 16, 15), TP_REASON_NONE);
	end();
}
END_TEST

/* With one for all there is nothing to keep back. */
START_TEST(reserves)
{
	ck_assert_uint_eq(addresses_reserve(1), 0);
	ck_assert_uint_eq(addresses_reserve(2), 1);
	ck_assert_uint_eq(addresses_reserve(1024), 16);
	ck_assert_uint_eq(addresses_reserve(1000000), 15625);
}
END_TEST

UNIT_MAIN("addresses", ADD(who_is_the_same) ADD(in_all) ADD(what_was_refused_holds_no_place) ADD(who_makes_room) ADD(newcomers_have_time)
	  ADD(calls_leave_room) ADD(reserves))
