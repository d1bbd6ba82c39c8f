#!/bin/sh
# Scenarios of failing networks and programs with the programs under valgrind: sh tests/valgrind/run.sh BUILD_DIR JUNIT_XML
# BUILD_DIR is a build without sanitizers. An error that valgrind tells of, or memory that is lost, fails the test "valgrind".
set -eu

if [ $# -ne 2 ]; then
	echo "usage: sh tests/valgrind/run.sh BUILD_DIR JUNIT_XML" >&2
	exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$1" && pwd)
junit=$2
traced=$build/valgrind
command -v valgrind >/dev/null || { echo "tests/valgrind/run.sh: valgrind is missing: install valgrind" >&2; exit 1; }

# A tree in which the programs of BUILD_DIR start under valgrind.
rm -rf "$traced"
mkdir -p "$traced/logs"
for program in gateway/mcp-tunnel-gateway relay/mcp-tunnel-relay; do
	mkdir -p "$traced/$(dirname "$program")"
	cat >"$traced/$program" <<END
#!/bin/sh
exec valgrind --quiet --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \\
	--log-file="$traced/logs/%p" "$build/$program" "\$@"
END
	chmod +x "$traced/$program"
done

status=0
E2E_TIME_SCALE=${E2E_TIME_SCALE:-8} sh "$here/../e2e/run.sh" "$traced" "$junit" -q test_faults.py test_endings.py \
	-k "reset-from-the-middle or cancel-while-cut-off or gateway-is-killed or relay-is-restarted or endings-when-the-drain" || status=$?
# Its own test: what valgrind said.
if grep -q . "$traced"/logs/* 2>/dev/null; then
	cat "$traced"/logs/* | head -n 200
	status=1
fi
exit "$status"
