#!/bin/sh
# Measures the tunnel beside OpenSSH's `ssh -R` and beside no tunnel at all, in one run on one machine. See README.md.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
build=
only=direct,ssh,tunnel,audited
rest=
what=all

usage() {
	cat <<'EOF'
usage: sh tests/bench/run.sh [--quick] [--only direct,ssh,tunnel,audited] [--build-dir DIR] [--rounds N] [--seconds N]
                             [--ssh-cipher NAME] [--ssh-plain] [--audit SINK] [--json FILE]
  --quick        one second each, one round: tells whether it works, not how fast it is
  --only         which ways to the server are measured
  --build-dir    a release build, made when missing (default build-release)
  --rounds       how often everything is repeated; the medians are shown (default 3)
  --seconds      length of one run (default 5)
  --ssh-cipher   instead of the one OpenSSH prefers
  --ssh-plain    ssh -N, without a session; slower (see README.md)
  --audit        the sink of the way `audited` (default file: one that is emptied between the runs)
  --json         also writes every single result to FILE
       sh tests/bench/run.sh --path [--quick] [--rounds N] [--build-dir DIR] [--queue BYTES] [--congestion NAME]
  --path         only the tunnel, over 100 Mbit and 80 ms (network namespaces: needs root and iproute2)
  --queue        of the link, before it drops (default 600k)
  --congestion   TCP congestion control of both ends, instead of the kernel's default
       sh tests/bench/run.sh --audit-cost [--quick] [--rounds N] [--seconds N] [--build-dir DIR]
  --audit-cost   what the audit log costs, and what a slow journald does (needs root and systemd-journald)
       sh tests/bench/run.sh --cost [--quick] [--seconds N] [--build-dir DIR]
  --cost         what resumption costs, in instructions per call (needs valgrind; default build build-cost, with debug symbols)
EOF
}

need() {
	command -v "$1" >/dev/null 2>&1 || PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

while [ $# -gt 0 ]; do
	case $1 in
	--quick | --ssh-plain) rest="$rest $1"; shift ;;
	--only) only=$2; shift 2 ;;
	--build-dir) build=$2; shift 2 ;;
	--rounds | --seconds | --ssh-cipher | --audit | --json | --queue | --congestion) rest="$rest $1 $2"; shift 2 ;;
	--path) what=path only=tunnel; shift ;;
	--cost) what=cost only=tunnel; shift ;;
	--audit-cost) what=audit only=tunnel; shift ;;
	--help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done

missing=
need python3 python3
case $what in
path) need ip iproute2 ;;
cost) need wrk wrk; need callgrind_control valgrind ;;
audit) need wrk wrk; need unshare util-linux; need journalctl systemd ;;
all) need wrk wrk; need curl curl ;;
esac
need meson meson
need ninja ninja-build
need cc gcc
case $only in
*ssh*) need sshd openssh-server; need ssh openssh-client ;;
esac
case $only in
*tunnel*) need openssl openssl ;;
esac
if [ -n "$missing" ]; then
	echo "run.sh: missing:$missing. On Debian: apt-get install$missing" >&2
	exit 1
fi

targets=contrib/quickstart/sample-mcp-server
case $only in
*tunnel*) targets="$targets gateway/mcp-tunnel-gateway relay/mcp-tunnel-relay" ;;
esac
debug=false
[ $what != cost ] || debug=true
if [ -z "$build" ]; then
	build=$top/build-release
	[ $what != cost ] || build=$top/build-cost
fi
if [ ! -f "$build/build.ninja" ]; then
	meson setup "$build" "$top" --buildtype=release -Ddebug=$debug -Db_lto=true -Dtests=false >&2
fi
# shellcheck disable=SC2086
ninja -C "$build" $targets >&2

if [ $what = path ]; then
	mkdir -p "$build/tests"
	cc -std=gnu11 -D_GNU_SOURCE -O2 -I"$top" -o "$build/tests/netem" "$top/tests/lib/netem.c" "$top/base/span.c" "$top/base/units.c"
	# shellcheck disable=SC2086
	exec python3 -B "$here/path.py" --build-dir "$build" $rest
fi

# Loopback is reached without a proxy, whatever the environment says.
export NO_PROXY=localhost,127.0.0.1 no_proxy=localhost,127.0.0.1
if [ $what = cost ]; then
	# shellcheck disable=SC2086
	exec python3 -B "$here/cost.py" --build-dir "$build" $rest
fi
if [ $what = audit ]; then
	# shellcheck disable=SC2086
	exec python3 -B "$here/audit.py" --build-dir "$build" $rest
fi
# shellcheck disable=SC2086
exec python3 "$here/bench.py" --build-dir "$build" --only "$only" $rest
