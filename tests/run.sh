#!/bin/sh
# Runs the tests: sh tests/run.sh [lint] [analysis] [unit] [fuzz] [e2e] [valgrind] [system] [quickstart]; all by default.
# After unit and e2e, a suite coverage tells which part of the lines they ran.
# Installs what is missing (Debian 12, as root or with sudo), builds into build/, build-asan/ and build-fuzz/ of the
# source root, and prints what failed, one line a suite, and last: N passed, N failed, N skipped.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
PATH=$PATH:/usr/sbin:/sbin
PIP_CACHE_DIR=${PIP_CACHE_DIR:-$root/.cache/pip}
npm_config_cache=${npm_config_cache:-$root/.cache/npm}
ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1}
UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}
export PATH PIP_CACHE_DIR npm_config_cache ASAN_OPTIONS UBSAN_OPTIONS
export DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1 NO_COLOR=1

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
counts=$temp/counts
: >"$counts"

# The last line, from the counts of all suites.
finish() {
	passed=0 failed=0 skipped=0
	while read -r p f s; do
		passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	done <"$counts"
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ] || exit 1
	exit 0
}

give_up() {
	echo "tests/run.sh: $1"
	echo "0 1 0" >>"$counts"
	finish
}

in_tree() {
	case $1 in
	lint | unit | fuzz) [ -e "tests/$1" ] ;;
	analysis) [ -e tests/lint/analysis.py ] ;;
	e2e | valgrind | system) [ -e "tests/$1/run.sh" ] ;;
	quickstart) [ -e contrib/quickstart/run.sh ] ;;
	esac
}

wanted() {
	case " $suites " in
	*" $1 "*) return 0 ;;
	esac
	return 1
}

# What is needed, as PACKAGE or PACKAGE:COMMAND where the command is enough, from wherever it comes.
needs() {
	echo gcc:gcc libc6-dev meson:meson ninja-build:ninja pkg-config:pkg-config
	echo libevent-dev libssl-dev libsystemd-dev libinih-dev check libjansson-dev
	echo python3:python3 valgrind:valgrind openssl:openssl ca-certificates
	if wanted analysis; then
		echo clang-tidy:clang-tidy cppcheck:cppcheck
	fi
	if wanted fuzz; then
		echo clang:clang libclang-rt-14-dev
	fi
	if wanted e2e || wanted valgrind || wanted quickstart; then
		echo jq:jq iproute2:ip nftables:nft
	fi
	if wanted e2e; then
		echo tinyproxy-bin:tinyproxy haproxy:haproxy nmap:nmap
	fi
	if wanted e2e || wanted valgrind; then
		python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
		node_is_new_enough || echo nodejs npm
	fi
	if wanted system; then
		echo systemd-container:systemd-nspawn debootstrap:debootstrap iproute2:ip python3-pytest openssl:openssl nghttp2-client:h2load
		echo dpkg-dev:dpkg-buildpackage debhelper rpm:rpmbuild cpio:cpio lintian:lintian rpmlint:rpmlint mandoc:mandoc
	fi
}

node_is_new_enough() {
	command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' 2>/dev/null
}

is_missing() {
	case $1 in
	*:*) ! command -v "${1#*:}" >/dev/null ;;
	*) [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" != installed ] ;;
	esac
}

install_missing() {
	missing=
	command -v dpkg-query >/dev/null || return 0
	for need in $(needs); do
		if is_missing "$need"; then
			missing="$missing ${need%%:*}"
		fi
	done
	[ -n "$missing" ] || return 0
	as_root=
	if [ "$(id -u)" -ne 0 ]; then
		as_root="sudo -n"
		sudo -n true 2>/dev/null || give_up "needs root, or sudo without a password, to install:$missing"
	fi
	echo "installing:$missing"
	# env: sudo does not pass the environment on.
	{ $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
		$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing; } \
		</dev/null >"$temp/apt" 2>&1 || { tail -n 40 "$temp/apt"; give_up "apt-get failed for:$missing"; }
}

# configure DIR [meson options]: a tree left by another meson, or moved here, is made anew.
configure() {
	dir=$1 log=$temp/log again=
	shift
	[ ! -e "$dir/build.ninja" ] || again=--reconfigure
	if meson setup $again "$dir" "$@" </dev/null >"$log" 2>&1; then
		return 0
	fi
	if [ -d "$dir/meson-private" ] && meson setup --wipe "$dir" "$@" </dev/null >"$log" 2>&1; then
		return 0
	fi
	echo "FAILED: configuring $dir"
	tail -n 60 "$log"
	return 1
}

configure_tree() {
	case $1 in
	build) configure build -Dwerror=true ;;
	build-asan) configure build-asan -Dwerror=true -Db_sanitize=address,undefined -Db_coverage=true ;;
	build-fuzz)
		CC=clang configure build-fuzz -Dfuzz=true -Db_lundef=false -Db_sanitize=address,undefined \
			-Dc_args=-fsanitize=fuzzer-no-link
		;;
	esac
}

compile_tree() {
	target=all
	[ "$1" != build-fuzz ] || target=fuzz
	if ninja -C "$1" -k 20 "$target" </dev/null >"$temp/log" 2>&1; then
		return 0
	fi
	echo "FAILED: building $1"
	grep -v '^\[[0-9]*/[0-9]*\]' "$temp/log" | head -n 100
	return 1
}

# once STEP TREE: takes a step of a tree when the first suite needs it, and remembers how it went.
once() {
	state=$temp/$1-$2
	if [ ! -e "$state" ]; then
		if "$1" "$2"; then
			echo 0 >"$state"
		else
			echo 1 >"$state"
		fi
	fi
	[ "$(cat "$state")" -eq 0 ]
}

# The programs alone, without the tests.
compile_programs() {
	if ninja -C "$1" gateway/mcp-tunnel-gateway relay/mcp-tunnel-relay </dev/null >"$temp/log" 2>&1; then
		return 0
	fi
	echo "FAILED: building the programs in $1"
	grep -v '^\[[0-9]*/[0-9]*\]' "$temp/log" | head -n 100
	return 1
}

build() {
	once configure_tree "$1" && once compile_tree "$1"
}

# ready SUITE TREE. The lint suite compares documents with what the programs print, and needs no more than these; analysis
# reads the flags of the compiler alone.
ready() {
	case $1 in
	analysis) once configure_tree "$2" ;;
	lint) once configure_tree "$2" && once compile_programs "$2" ;;
	*) build "$2" ;;
	esac
}

# tally KIND SUITE RESULT LOG: counts the suite that began at $began and ended with $status.
tally() {
	python3 tests/lib/tally.py "$1" "$2" "$(($(date +%s) - began))" "$status" "$3" "$4" "$counts" || {
		echo "FAILED: counting the results of $2"
		echo "0 1 0" >>"$counts"
	}
}

# meson_suite SUITE NAME TREE
meson_suite() {
	began=$(date +%s) status=0
	logs=$3/meson-logs
	if ready "$1" "$3"; then
		rm -f "$logs/run-$1.json"
		meson test -C "$3" --no-rebuild --suite "$1" --logbase "run-$1" </dev/null >"$temp/log" 2>&1 || status=$?
		tally meson "$2" "$logs/run-$1.json" "$temp/log"
	else
		cannot_run "$2" "$3"
	fi
}

cannot_run() {
	echo "FAILED: $1: $2 was not built"
	echo "0 1 0" >>"$counts"
}

suite_e2e() {
	began=$(date +%s) status=0
	# 200 gateways at once are plain ones.
	E2E_PLAIN=
	if once configure_tree build && once compile_programs build; then
		E2E_PLAIN=$root/build
	fi
	export E2E_PLAIN
	if build build-asan; then
		junit=$root/build-asan/meson-logs/e2e.xml
		rm -f "$junit"
		timeout -k 30 3600 sh tests/e2e/run.sh build-asan "$junit" </dev/null >"$temp/log" 2>&1 || status=$?
		tally junit e2e "$junit" "$temp/log"
	else
		cannot_run e2e build-asan
	fi
}

# own_suite SUITE SECONDS: has a run.sh of its own, and takes the plain build.
own_suite() {
	began=$(date +%s) status=0
	if build build; then
		junit=$root/build/meson-logs/$1.xml
		rm -f "$junit"
		timeout -k 30 "$2" sh "tests/$1/run.sh" build "$junit" </dev/null >"$temp/log" 2>&1 || status=$?
		tally junit "$1" "$junit" "$temp/log"
	else
		cannot_run "$1" build
	fi
}

suite_quickstart() {
	began=$(date +%s) status=0
	timeout -k 30 900 sh contrib/quickstart/run.sh --once </dev/null >"$temp/log" 2>&1 || status=$?
	tally exit quickstart /dev/null "$temp/log"
}

# How much of the code unit and e2e ran, as build-asan has counted it.
suite_coverage() {
	began=$(date +%s) status=0
	junit=$root/build-asan/meson-logs/coverage.xml
	rm -f "$junit"
	python3 tests/lib/coverage.py build-asan "$junit" 2>"$temp/log" || status=$?
	tally junit coverage "$junit" "$temp/log"
}

suites=
for suite in "${@:-all}"; do
	case $suite in
	all)
		for s in lint analysis unit fuzz e2e valgrind system quickstart; do
			if in_tree $s; then
				suites="$suites $s"
			fi
		done
		;;
	lint | analysis | unit | fuzz | e2e | valgrind | system | quickstart)
		in_tree "$suite" || give_up "there is no suite '$suite' in this tree"
		suites="$suites $suite"
		;;
	*)
		echo "usage: sh tests/run.sh [lint] [analysis] [unit] [fuzz] [e2e] [valgrind] [system] [quickstart]" >&2
		exit 2
		;;
	esac
done

install_missing
if [ -d build-asan ]; then
	python3 tests/lib/coverage.py --clear build-asan
fi
for suite in $suites; do
	case $suite in
	lint) meson_suite lint lint build ;;
	analysis) meson_suite analysis analysis build ;;
	unit)
		meson_suite unit "unit (plain)" build
		meson_suite unit "unit (sanitized)" build-asan
		;;
	fuzz) meson_suite fuzz fuzz build-fuzz ;;
	e2e) suite_e2e ;;
	valgrind) own_suite valgrind 900 ;;
	system) own_suite system 1800 ;;
	quickstart) suite_quickstart ;;
	esac
done
if wanted unit && wanted e2e; then
	suite_coverage
fi
finish
