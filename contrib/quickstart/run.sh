#!/bin/sh
# The tunnel in one command: builds it, starts a relay, a sample MCP server and the gateway between them on this
# machine, makes one real tool call through the tunnel, shows the answer and its audit records. See README.md.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
build=${QUICKSTART_BUILD_DIR:-$top/build-quickstart}
greeting="Hello through the tunnel"
ready_within_s=20
once=no
up=no
dir=
pids=

usage() {
	cat <<'EOF'
usage: sh contrib/quickstart/run.sh [--once]
  Installs what is missing (apt-get or dnf), builds, starts everything on loopback, makes one tool call through the
  tunnel, and stays up until Ctrl-C. --once stops after the call; exit status 0 only if the answer was right.
  QUICKSTART_BUILD_DIR names another build directory than build-quickstart.
EOF
}

step() {
	printf '\n==> %s\n' "$*"
}

# What went wrong, then the end of a log if one is named.
fail() {
	printf '\nquickstart: %s\n' "$1" >&2
	if [ $# -gt 1 ] && [ -s "$2" ]; then
		echo "The last lines of its log:" >&2
		tail -n 15 "$2" | sed 's/^/    /' >&2
	fi
	exit 1
}

# Only what this script started, by pid, the gateway first: it says goodbye to the relay.
stop_all() {
	for pid in $pids; do
		kill -TERM "$pid" 2>/dev/null || true
		tries=0
		while kill -0 "$pid" 2>/dev/null && [ $tries -lt 50 ]; do
			sleep 0.1
			tries=$((tries + 1))
		done
		kill -KILL "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	pids=
	[ -z "$dir" ] || rm -rf "$dir"
}

# Being told to stop is how this ends well, once everything is up.
stop_on_request() {
	printf '\nStopping.\n'
	[ "$up" = no ] || exit 0
	exit "$1"
}

# --- what is needed -------------------------------------------------------------------------------------------------

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		fail "missing packages, and neither root nor sudo to install them. As root: $*"
	fi
}

has_deb() {
	dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}

has_rpm() {
	rpm -q --whatprovides "$1" >/dev/null 2>&1
}

# $1 tells whether a package is there, the rest are names; prints those that are not.
missing_of() {
	has=$1
	shift
	for package in "$@"; do
		"$has" "$package" || printf '%s ' "$package"
	done
}

install_with_apt() {
	missing=$(missing_of has_deb gcc libc6-dev meson ninja-build pkg-config libevent-dev libssl-dev libsystemd-dev \
		libinih-dev curl openssl)
	[ -n "$missing" ] || return 0
	step "Installing: $missing"
	as_root apt-get update -qq >"$dir/install.log" 2>&1 || fail "apt-get update failed" "$dir/install.log"
	# shellcheck disable=SC2086
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing \
		>"$dir/install.log" 2>&1 || fail "apt-get install failed" "$dir/install.log"
}

install_with_dnf() {
	missing=$(missing_of has_rpm gcc meson ninja-build pkgconf-pkg-config libevent-devel openssl-devel systemd-devel \
		inih-devel /usr/bin/curl openssl)
	[ -n "$missing" ] || return 0
	step "Installing: $missing"
	# shellcheck disable=SC2086
	as_root dnf install -q -y $missing >"$dir/install.log" 2>&1 || fail "dnf install failed" "$dir/install.log"
}

install_missing() {
	if command -v apt-get >/dev/null 2>&1; then
		install_with_apt
	elif command -v dnf >/dev/null 2>&1; then
		install_with_dnf
	else
		for program in cc meson ninja pkg-config curl openssl; do
			command -v "$program" >/dev/null 2>&1 ||
				fail "$program is missing, and there is no apt-get or dnf to install it with"
		done
	fi
}

build_all() {
	step "Building in $build"
	log=$dir/build.log
	if [ ! -f "$build/build.ninja" ]; then
		meson setup "$build" "$top" --buildtype=release -Dtests=false >"$log" 2>&1 || fail "meson setup failed" "$log"
	fi
	ninja -C "$build" gateway/mcp-tunnel-gateway relay/mcp-tunnel-relay contrib/quickstart/sample-mcp-server \
		>"$log" 2>&1 || fail "the build failed" "$log"
}

# Loopback is reached without a proxy, whatever the environment says.
export NO_PROXY=localhost,127.0.0.1 no_proxy=localhost,127.0.0.1

# --- starting -------------------------------------------------------------------------------------------------------

# spawn NAME COMMAND...: in the background, with a log; the pid goes in front, so that the last one is stopped first.
spawn() {
	name=$1
	shift
	: >"$dir/$name.log"
	"$@" </dev/null >"$dir/$name.log" 2>&1 &
	pid=$!
	pids="$pid $pids"
}

# wait_for NAME PATTERN: prints what \(...\) matched in the log of NAME, the program started last.
wait_for() {
	tries=0
	while [ $tries -lt $((ready_within_s * 20)) ]; do
		found=$(sed -n "s|.*$2.*|\\1|p" "$dir/$1.log" | head -n 1)
		if [ -n "$found" ]; then
			echo "$found"
			return 0
		fi
		kill -0 "$pid" 2>/dev/null || fail "the $1 ended at once" "$dir/$1.log"
		sleep 0.05
		tries=$((tries + 1))
	done
	fail "the $1 did not get ready within $ready_within_s s" "$dir/$1.log"
}

# A secret on its way from one program's output into a file that only we can read.
keep_last_word() {
	umask 077
	sed -n 's/.*[[:space:]]//; $p' >"$1"
	[ -s "$1" ] || fail "the relay printed no secret for $1"
}

make_certificate() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
		-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$dir/key.pem" -out "$dir/cert.pem" \
		>"$dir/openssl.log" 2>&1 || fail "openssl could not make a certificate" "$dir/openssl.log"
}

start_server() {
	step "Starting the private MCP server"
	spawn server "$build/contrib/quickstart/sample-mcp-server" --listen 127.0.0.1:0
	server_url=$(wait_for server 'listening on \(http://[^ ]*\)')
	echo "    $server_url, three tools: echo, slow, blob"
}

start_relay() {
	step "Starting the relay, the end that agents call"
	mkdir -m 700 "$dir/state"
	"$relay" tunnel add quickstart --state-dir "$dir/state" >"$dir/token.out" 2>"$dir/relay.log" ||
		fail "mcp-tunnel-relay tunnel add failed" "$dir/relay.log"
	keep_last_word "$dir/token" <"$dir/token.out"
	"$relay" agent add quickstart-agent --tunnel quickstart --state-dir "$dir/state" >"$dir/key.out" \
		2>"$dir/relay.log" || fail "mcp-tunnel-relay agent add failed" "$dir/relay.log"
	keep_last_word "$dir/agent-key" <"$dir/key.out"
	spawn relay "$relay" --listen https://127.0.0.1:0 --tls-cert "$dir/cert.pem" --tls-key "$dir/key.pem" \
		--state-dir "$dir/state" --audit "file:$dir/relay-audit.jsonl"
	port=$(wait_for relay 'listening on https://127\.0\.0\.1:\([0-9][0-9]*\)')
	agent_url=https://localhost:$port/t/quickstart/mcp
	echo "    $agent_url, with a throw-away certificate"
}

start_gateway() {
	step "Starting the gateway beside the server; it only dials out"
	spawn gateway "$gateway" --token-file "$dir/token" --mcp-server-url "$server_url" \
		--control-plane "wss://localhost:$port/v1/tunnel" --ca-file "$dir/cert.pem" --health-listen 127.0.0.1:0 \
		--audit "file:$dir/audit.jsonl" --drain-timeout 2s
	health=$(wait_for gateway 'health on \(http://127\.0\.0\.1:[0-9][0-9]*\)')
	tries=0
	until curl -sf --noproxy '*' -o "$dir/readyz" "$health/readyz"; do
		kill -0 "$pid" 2>/dev/null || fail "the gateway ended at once" "$dir/gateway.log"
		[ $tries -lt $((ready_within_s * 10)) ] || fail "the gateway did not get ready" "$dir/gateway.log"
		sleep 0.1
		tries=$((tries + 1))
	done
	echo "    attached to the relay: $health/readyz says ready"
}

# --- the call -------------------------------------------------------------------------------------------------------

# post NAME BODY [HEADER]: the answer goes to NAME.json and NAME.head; the key is in a file, not on the command line.
post() {
	curl -sS --max-time 20 --noproxy '*' --cacert "$dir/cert.pem" -D "$dir/$1.head" -o "$dir/$1.json" \
		-H "@$dir/headers" ${3:+-H "$3"} --data-binary "$2" "$agent_url" 2>"$dir/curl.log" || fail "curl could not call $agent_url" "$dir/curl.log"
	status=$(sed -n 's|^HTTP/[0-9.]* \([0-9]*\).*|\1|p' "$dir/$1.head" | tail -n 1)
	case $status in
	2*) ;;
	*) fail "$1 was answered with HTTP $status" "$dir/$1.json" ;;
	esac
}

call_tool() {
	step "Calling the tool \"echo\" through the tunnel, as any MCP client does"
	(
		umask 077
		printf 'Content-Type: application/json\nAccept: application/json, text/event-stream\n' >"$dir/headers"
		printf 'MCP-Protocol-Version: 2025-11-25\n' >>"$dir/headers"
		printf 'Authorization: Bearer %s\n' "$(cat "$dir/agent-key")" >>"$dir/headers"
	)
	post initialize '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",
		"capabilities":{},"clientInfo":{"name":"quickstart","version":"1"}}}'
	session=$(tr -d '\r' <"$dir/initialize.head" | sed -n 's/^[Mm]cp-[Ss]ession-[Ii]d: */Mcp-Session-Id: /p')
	post initialized '{"jsonrpc":"2.0","method":"notifications/initialized"}' "$session"
	post answer "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\",
		\"params\":{\"name\":\"echo\",\"arguments\":{\"text\":\"$greeting\"}}}" "$session"
	echo "    asked:    tools/call echo {\"text\": \"$greeting\"}"
	echo "    answered: $(cat "$dir/answer.json")"
	grep -qF "\"text\":\"$greeting\"" "$dir/answer.json" || fail "that is not the answer that was expected"
}

# One field per line.
show_record() {
	printf '%s\n' "$1" | sed 's/,"\([a-z_]*\)":/,\
     "\1":/g; s/^/    /'
}

# The records of the call, by its id; the response is written when the answer is over, so it may come a moment later.
show_audit() {
	step "Its two records in the gateway's audit log"
	tries=0
	while [ $tries -lt 50 ]; do
		request=$(grep '"call\.request"' "$dir/audit.jsonl" 2>/dev/null | grep '"tools/call"' | tail -n 1) || true
		id=$(printf '%s\n' "$request" | sed -n 's/.*"mcp_call_id": *"\([^"]*\)".*/\1/p')
		response=
		[ -z "$id" ] || response=$(grep '"call\.response"' "$dir/audit.jsonl" | grep -F "\"$id\"") || true
		[ -z "$response" ] || break
		sleep 0.1
		tries=$((tries + 1))
	done
	[ -n "$request" ] || fail "the call has no call.request record" "$dir/audit.jsonl"
	show_record "$request"
	[ -n "$response" ] || fail "the call has no call.response record" "$dir/audit.jsonl"
	show_record "$response"
}

show_how_to_use() {
	cat <<EOF

The tunnel is up. Any MCP client can use it now (Streamable HTTP):

    URL      $agent_url
    header   Authorization: Bearer $(cat "$dir/agent-key")
    CA file  $dir/cert.pem
             (Node.js: NODE_EXTRA_CA_CERTS, Python and curl: SSL_CERT_FILE)

    logs     $dir/*.log
    audit    $dir/audit.jsonl

All of it, keys included, is gone when this ends. Press Ctrl-C to stop.
EOF
}

stay() {
	while :; do
		for pid in $pids; do
			kill -0 "$pid" 2>/dev/null || fail "one of the programs ended by itself; see $dir" "$dir/gateway.log"
		done
		sleep 1
	done
}

case ${1:-} in
--once) once=yes ;;
--help | -h) usage; exit 0 ;;
'') ;;
*) usage >&2; exit 2 ;;
esac
[ $# -le 1 ] || { usage >&2; exit 2; }

# One trap cleans up for every way out; the others only choose the exit status.
trap stop_all EXIT
trap 'stop_on_request 130' INT
trap 'stop_on_request 143' TERM HUP

relay=$build/relay/mcp-tunnel-relay
gateway=$build/gateway/mcp-tunnel-gateway
dir=$(mktemp -d "${TMPDIR:-/tmp}/mcp-tunnel-quickstart.XXXXXX")
install_missing
build_all
make_certificate
start_server
start_relay
start_gateway
call_tool
show_audit
if [ "$once" = yes ]; then
	printf '\nIt works. Without --once it stays up for you to try with your own MCP client.\n'
	exit 0
fi
show_how_to_use
up=yes
stay
