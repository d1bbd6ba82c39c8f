#include "daemon/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

static void undress(struct address *a)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (a->len != 16 || memcmp(a->bytes, mapped, sizeof(mapped)) != 0)
		return;
	memmove(a->bytes, a->bytes + 12, 4);
	a->len = 4;
}

int address_parse(struct span text, struct address *ret)
{
	struct address a = { 0 };
	char z[INET6_ADDRSTRLEN];

	if (text.len >= 2 && text.p[0] == '[' && text.p[text.len - 1] == ']')
		text = span_make(text.p + 1, text.len - 2);
	if (text.len == 0 || text.len >= sizeof(z) || memchr(text.p, '\0', text.len))
		return -EINVAL;
	memcpy(z, text.p, text.len);
	z[text.len] = '\0';
	if (inet_pton(AF_INET, z, a.bytes) == 1)
		a.len = 4;
	else if (inet_pton(AF_INET6, z, a.bytes) == 1)
		a.len = 16;
	else
		return -EINVAL;
	undress(&a);
	*ret = a;
	return 0;
}

int address_of(const struct sockaddr *sa, struct address *ret)
{
	const struct sockaddr_in *in = (const void *)sa;
	const struct sockaddr_in6 *in6 = (const void *)sa;

	*ret = (struct address){ 0 };
	if (sa->sa_family == AF_INET) {
		ret->len = 4;
		memcpy(ret->bytes, &in->sin_addr, 4);
	} else if (sa->sa_family == AF_INET6) {
		ret->len = 16;
		memcpy(ret->bytes, &in6->sin6_addr, 16);
		undress(ret);
	} else {
		return -EAFNOSUPPORT;
	}
	return 0;
}

int network_parse(struct span text, struct network *ret)
{
	struct span prefix = text, base = span_split(&prefix, '/');
	struct address a;
	uint64_t bits;

	if (address_parse(base, &a) < 0)
		return -EINVAL;
	bits = 8 * a.len;
	if (prefix.p && (span_u64(prefix, &bits) < 0 || bits > 8 * a.len))
		return -EINVAL;
	*ret = (struct network){ a, (unsigned)bits };
	return 0;
}

bool network_has(const struct network *n, const struct address *a)
{
	size_t whole = n->bits / 8, rest = n->bits % 8;

	if (a->len != n->base.len || memcmp(a->bytes, n->base.bytes, whole) != 0)
		return false;
	return rest == 0 || (a->bytes[whole] ^ n->base.bytes[whole]) >> (8 - rest) == 0;
}
