/* netem: a long, thin or lossy wire between two network namespaces, where the kernel's own is missing.
 *
 *   netem --a NS --a-addr 10.71.0.1/30 --b NS --b-addr 10.71.0.2/30 [--dev NAME] [--mtu 1500] [--seed 1]
 *         [--delay 40ms] [--loss 0] [--rate 100M] [--queue 256k]
 *
 * Makes a TUN device in each namespace (names as of `ip netns add`; without --a or --b: its own) and carries packets between
 * them. Each direction by itself: a packet is lost with a probability of --loss percent, waits for its turn behind at most --queue
 * bytes (drop-tail) at --rate bits a second (k, M, G are powers of 1000; 0: no limit), and arrives --delay later.
 *
 * Says "ready" on standard output, then obeys lines from standard input and answers each with "ok" or "error ...":
 *   down | up | delay DURATION | loss PERCENT | rate BITS | queue BYTES | stats
 * Down: every packet, those on their way too, is gone without a word. SIGUSR1 is down, SIGUSR2 is up. It ends at SIGTERM, SIGINT, and
 * when a pipe at its standard input ends.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/span.h"
#include "base/units.h"

enum {
	PACKETS_PER_TURN = 64,
	BUFFERED_MAX = 64 * 1024 * 1024, /* a way without --rate and --queue is bounded all the same */
	PACKET_MAX = 65535,
	LINE_SIZE = 256,
};

struct packet {
	TAILQ_ENTRY(packet) link;
	uint64_t due_ns;
	size_t len;
	uint8_t data[];
};

/* One direction: what is read at `from` is written at `to`. */
struct way {
	int from, to;
	TAILQ_HEAD(packet_list, packet) packets; /* in order of their time */
	size_t buffered;
	uint64_t free_ns; /* when the last packet has left the sender */
	uint64_t carried, bytes, lost, dropped;
};

struct wire {
	struct way way[2];
	uint64_t delay_ns, rate_bits, queue_bytes;
	double loss; /* 0 .. 1 */
	bool down;
	uint64_t random;
	bool stop;
};

struct end {
	const char *ns, *addr;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* xorshift64*: the same losses for the same seed. */
static double chance(struct wire *w)
{
	w->random ^= w->random >> 12;
	w->random ^= w->random << 25;
	w->random ^= w->random >> 27;
	return (double)(w->random * 0x2545f4914f6cdd1dull >> 11) / (double)(1ull << 53);
}

static void way_clear(struct way *y)
{
	struct packet *p;

	while ((p = TAILQ_FIRST(&y->packets))) {
		TAILQ_REMOVE(&y->packets, p, link);
		free(p);
		y->dropped++;
	}
	y->buffered = 0;
	y->free_ns = 0;
}

/* When a packet of that length has left the sender; 0: the queue has no room. */
static uint64_t departure(const struct wire *w, const struct way *y, size_t len, uint64_t now)
{
	uint64_t start = MAX(now, y->free_ns);
	double waiting;

	if (!w->rate_bits)
		return now;
	waiting = (double)(start - now) * (double)w->rate_bits / 8e9;
	if (waiting > 0 && waiting + (double)len > (double)w->queue_bytes)
		return 0;
	return start + (uint64_t)((double)len * 8e9 / (double)w->rate_bits);
}

static void way_take(struct wire *w, struct way *y, const uint8_t *data, size_t len)
{
	uint64_t now = now_ns(), left;
	struct packet *p, *last;

	if (w->down || (w->loss > 0 && chance(w) < w->loss)) {
		y->lost++;
		return;
	}
	left = departure(w, y, len, now);
	p = left && y->buffered + len <= BUFFERED_MAX ? malloc(sizeof(*p) + len) : NULL;
	if (!p) {
		y->dropped++;
		return;
	}
	y->free_ns = left;
	p->due_ns = left + w->delay_ns;
	p->len = len;
	memcpy(p->data, data, len);
	last = TAILQ_LAST(&y->packets, packet_list);
	/* A delay that became shorter does not change the order. */
	if (last && last->due_ns > p->due_ns)
		p->due_ns = last->due_ns;
	TAILQ_INSERT_TAIL(&y->packets, p, link);
	y->buffered += len;
}

static void way_read(struct wire *w, struct way *y)
{
	static uint8_t room[PACKET_MAX];
	ssize_t n;

	for (int i = 0; i < PACKETS_PER_TURN; i++) {
		n = read(y->from, room, sizeof(room));
		if (n <= 0)
			return;
		way_take(w, y, room, (size_t)n);
	}
}

static void way_deliver(struct way *y)
{
	uint64_t now = now_ns();
	struct packet *p;

	while ((p = TAILQ_FIRST(&y->packets)) && p->due_ns <= now) {
		TAILQ_REMOVE(&y->packets, p, link);
		y->buffered -= p->len;
		if (write(y->to, p->data, p->len) == (ssize_t)p->len) {
			y->carried++;
			y->bytes += p->len;
		} else {
			y->dropped++;
		}
		free(p);
	}
}

static uint64_t next_due(const struct wire *w)
{
	uint64_t due = UINT64_MAX;

	for (size_t i = 0; i < 2; i++) {
		const struct packet *p = TAILQ_FIRST(&w->way[i].packets);

		if (p)
			due = MIN(due, p->due_ns);
	}
	return due;
}

static void wire_set_down(struct wire *w, bool down)
{
	w->down = down;
	if (down)
		for (size_t i = 0; i < 2; i++)
			way_clear(&w->way[i]);
}

/* Bits a second. */
static int parse_rate(const char *s, uint64_t *ret)
{
	char *end;
	double v = strtod(s, &end);
	double unit = *end == 'k' ? 1e3 : *end == 'M' ? 1e6 : *end == 'G' ? 1e9 : 1;

	if (end == s || v < 0 || v * unit > 1e12 || (*end && end[unit > 1]))
		return -EINVAL;
	*ret = (uint64_t)(v * unit);
	return 0;
}

static int parse_loss(const char *s, double *ret)
{
	char *end;
	double v = strtod(s, &end);

	if (end == s || *end || !(v >= 0 && v <= 100))
		return -EINVAL;
	*ret = v / 100;
	return 0;
}

/* delay, loss, rate or queue. */
static int wire_set(struct wire *w, const char *what, const char *value)
{
	uint64_t ms;
	int r;

	if (strcmp(what, "loss") == 0)
		return parse_loss(value, &w->loss);
	if (strcmp(what, "rate") == 0)
		return parse_rate(value, &w->rate_bits);
	if (strcmp(what, "queue") == 0)
		return parse_size_bytes(span_of(value), &w->queue_bytes);
	if (strcmp(what, "delay") != 0)
		return -EINVAL;
	r = parse_duration_ms(span_of(value), &ms);
	if (r == 0)
		w->delay_ns = ms * 1000000;
	return r;
}

static void tell_stats(const struct wire *w)
{
	for (size_t i = 0; i < 2; i++) {
		const struct way *y = &w->way[i];

		printf("%s carried %" PRIu64 " bytes %" PRIu64 " lost %" PRIu64 " dropped %" PRIu64 "%s",
		       i == 0 ? "ok a>b" : " b>a", y->carried, y->bytes, y->lost, y->dropped, i == 1 ? "\n" : "");
	}
}

static void obey(struct wire *w, char *line)
{
	char *value = strchr(line, ' ');

	if (value)
		*value++ = 0;
	if (strcmp(line, "stats") == 0) {
		tell_stats(w);
		return;
	}
	if (strcmp(line, "down") == 0 || strcmp(line, "up") == 0)
		wire_set_down(w, *line == 'd');
	else if (!value || wire_set(w, line, value) < 0) {
		printf("error: %s\n", line);
		return;
	}
	puts("ok");
}

/* False at the end of input. */
static bool read_commands(struct wire *w)
{
	static char text[LINE_SIZE];
	static size_t have;
	ssize_t n = read(STDIN_FILENO, text + have, sizeof(text) - have);
	char *end;

	if (n <= 0)
		return false;
	have += (size_t)n;
	while ((end = memchr(text, '\n', have))) {
		size_t used = (size_t)(end - text) + 1;

		*end = 0;
		obey(w, text);
		have -= used;
		memmove(text, text + used, have);
	}
	return have < sizeof(text);
}

static void read_signal(struct wire *w, int fd)
{
	struct signalfd_siginfo si;

	if (read(fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (si.ssi_signo == SIGUSR1 || si.ssi_signo == SIGUSR2)
		wire_set_down(w, si.ssi_signo == SIGUSR1);
	else
		w->stop = true;
}

static bool is_pipe(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

static void run(struct wire *w, int signals)
{
	struct pollfd p[] = {
		{ .fd = w->way[0].from, .events = POLLIN },
		{ .fd = w->way[1].from, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};

	while (!w->stop) {
		uint64_t due = next_due(w), now = now_ns(), wait = due > now ? due - now : 0;
		struct timespec ts = { .tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000) };

		if (ppoll(p, ARRAY_LEN(p), due == UINT64_MAX ? NULL : &ts, NULL) < 0 && errno != EINTR)
			return;
		for (size_t i = 0; i < 2; i++)
			if (p[i].revents)
				way_read(w, &w->way[i]);
		for (size_t i = 0; i < 2; i++)
			way_deliver(&w->way[i]);
		if (p[2].revents)
			read_signal(w, signals);
		if (p[3].revents && !read_commands(w)) {
			w->stop |= is_pipe(STDIN_FILENO);
			p[3].fd = -1;
		}
	}
}

static int set_addr(int sock, unsigned long request, struct ifreq *ifr, in_addr_t addr)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = addr };

	memcpy(&ifr->ifr_addr, &in, sizeof(in));
	return ioctl(sock, request, ifr) < 0 ? -errno : 0;
}

/* Address, MTU, up. */
static int configure(struct ifreq *ifr, const char *cidr, int mtu)
{
	unsigned int bits = 0;
	char addr[INET_ADDRSTRLEN];
	struct in_addr in;
	int r, sock;

	if (sscanf(cidr, "%15[0-9.]/%u", addr, &bits) != 2 || bits < 1 || bits > 32 || inet_pton(AF_INET, addr, &in) != 1)
		return -EINVAL;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	r = set_addr(sock, SIOCSIFADDR, ifr, in.s_addr);
	if (r == 0)
		r = set_addr(sock, SIOCSIFNETMASK, ifr, htonl(0xffffffffu << (32 - bits)));
	ifr->ifr_mtu = mtu;
	if (r == 0 && ioctl(sock, SIOCSIFMTU, ifr) < 0)
		r = -errno;
	ifr->ifr_flags = IFF_UP | IFF_RUNNING;
	if (r == 0 && ioctl(sock, SIOCSIFFLAGS, ifr) < 0)
		r = -errno;
	close(sock);
	return r;
}

static int enter(const char *ns)
{
	char path[256];
	int fd, r;

	if (!ns)
		return 0;
	snprintf(path, sizeof(path), "/run/netns/%s", ns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = setns(fd, CLONE_NEWNET) < 0 ? -errno : 0;
	close(fd);
	return r;
}

/* The device stays in the namespace where it was made; the descriptor works from anywhere. */
static int tun_open(const struct end *e, const char *name, int mtu)
{
	struct ifreq ifr = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int fd = -1, r = home < 0 ? -errno : enter(e->ns);

	if (r == 0) {
		fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
		r = fd < 0 ? -errno : 0;
	}
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (r == 0 && ioctl(fd, TUNSETIFF, &ifr) < 0)
		r = -errno;
	if (r == 0)
		r = configure(&ifr, e->addr, mtu);
	if (home >= 0 && setns(home, CLONE_NEWNET) < 0 && r == 0)
		r = -errno;
	if (home >= 0)
		close(home);
	if (r == 0)
		return fd;
	fprintf(stderr, "netem: %s in namespace %s with %s: %s\n", name, e->ns ? e->ns : "(own)", e->addr, strerror(-r));
	if (fd >= 0)
		close(fd);
	return r;
}

static int signals_open(void)
{
	static const int numbers[] = { SIGUSR1, SIGUSR2, SIGTERM, SIGINT };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		sigaddset(&set, numbers[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static _Noreturn void usage(const char *what)
{
	fprintf(stderr, "netem: %s; usage: netem --a NS --a-addr CIDR --b NS --b-addr CIDR [--dev NAME] [--mtu N] "
			"[--delay DURATION] [--loss PERCENT] [--rate BITS] [--queue BYTES] [--seed N]\n", what);
	exit(2);
}

struct options {
	struct end end[2];
	const char *dev;
	int mtu;
};

static void parse(int argc, char **argv, struct options *o, struct wire *w)
{
	static const struct option known[] = {
		{ "a", 1, NULL, 'a' },     { "a-addr", 1, NULL, 'A' }, { "b", 1, NULL, 'b' },     { "b-addr", 1, NULL, 'B' },
		{ "dev", 1, NULL, 'd' },   { "mtu", 1, NULL, 'm' },    { "seed", 1, NULL, 's' },  { "delay", 1, NULL, 'v' },
		{ "loss", 1, NULL, 'v' },  { "rate", 1, NULL, 'v' },   { "queue", 1, NULL, 'v' }, { 0 },
	};
	int c, index = 0;

	while ((c = getopt_long(argc, argv, "", known, &index)) != -1) {
		if (c == 'a' || c == 'b')
			o->end[c - 'a'].ns = optarg;
		else if (c == 'A' || c == 'B')
			o->end[c - 'A'].addr = optarg;
		else if (c == 'd')
			o->dev = optarg;
		else if (c == 'm')
			o->mtu = (int)strtol(optarg, NULL, 10);
		else if (c == 's')
			w->random ^= strtoull(optarg, NULL, 0) * 0x9e3779b97f4a7c15ull;
		else if (c != 'v' || wire_set(w, known[index].name, optarg) < 0)
			usage(optarg ? optarg : "unknown option");
	}
	if (optind < argc || !o->end[0].addr || !o->end[1].addr || o->mtu < 576 || o->mtu > PACKET_MAX)
		usage("an address is missing, or an argument is too much or out of range");
}

int main(int argc, char **argv)
{
	struct wire w = { .queue_bytes = 256 * 1024, .random = 0x853c49e6748fea9bull };
	struct options o = { .dev = "wire0", .mtu = 1500 };
	int signals, tun[2];

	parse(argc, argv, &o, &w);
	/* Delays are to be exact. */
	prctl(PR_SET_TIMERSLACK, 20000ul);
	setvbuf(stdout, NULL, _IOLBF, 0);
	signals = signals_open();
	for (size_t i = 0; i < 2; i++) {
		tun[i] = tun_open(&o.end[i], o.dev, o.mtu);
		if (tun[i] < 0)
			return 1;
	}
	for (size_t i = 0; i < 2; i++) {
		w.way[i].from = tun[i];
		w.way[i].to = tun[1 - i];
		TAILQ_INIT(&w.way[i].packets);
	}
	puts("ready");
	run(&w, signals);
	for (size_t i = 0; i < 2; i++)
		way_clear(&w.way[i]);
	return 0;
}
