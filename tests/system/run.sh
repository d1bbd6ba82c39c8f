#!/bin/sh
# System tests, in booted systems: sh tests/system/run.sh BUILD_DIR JUNIT_XML_PATH [pytest arguments]
# Needs root, systemd-nspawn and debootstrap; where a system cannot be booted the tests say why and are skipped.
set -eu

if [ $# -lt 2 ]; then
	echo "usage: sh tests/system/run.sh BUILD_DIR JUNIT_XML_PATH [pytest arguments]" >&2
	exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$1" && pwd)
mkdir -p "$(dirname "$2")"
junit=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
shift 2

SYSTEM_BUILD=$build PYTHONDONTWRITEBYTECODE=1 PATH=$PATH:/usr/sbin:/sbin
export SYSTEM_BUILD PYTHONDONTWRITEBYTECODE PATH
cd "$here"
exec /usr/bin/python3 -m pytest --junitxml "$junit" "$@"
