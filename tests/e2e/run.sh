#!/bin/sh
# End-to-end tests: sh tests/e2e/run.sh BUILD_DIR JUNIT_XML_PATH [pytest arguments]
# Needs python3 with venv, node and npm, openssl. What it installs is pinned and kept in .cache/e2e of the source root.
set -eu

if [ $# -lt 2 ]; then
	echo "usage: sh tests/e2e/run.sh BUILD_DIR JUNIT_XML_PATH [pytest arguments]" >&2
	exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(cd "$1" && pwd)
mkdir -p "$(dirname "$2")"
junit=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
shift 2

need() {
	command -v "$1" >/dev/null 2>&1 || { echo "tests/e2e/run.sh: $1 is missing: install $2" >&2; exit 1; }
}
need python3 "python3 and python3-venv"
need node nodejs
need npm npm
need openssl openssl
need flock util-linux

# Version 2 of the TypeScript SDK needs Node 20; an older one (Debian 12 has 18) brings a pinned Node from the registry.
node_pin=20.20.2
node_major=$(node -p 'process.versions.node.split(".")[0]')
key=$( { cat "$here"/requirements.txt "$here"/requirements-sdk1.txt "$here"/package-lock.json
	python3 --version; echo "node $node_major $node_pin"; } | sha256sum | cut -c1-16)
cache=$root/.cache/e2e/$key

install_all() {
	python3 -m venv "$cache/venv"
	"$cache/venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"
	python3 -m venv "$cache/venv-sdk1"
	"$cache/venv-sdk1/bin/pip" install -q --disable-pip-version-check -r "$here/requirements-sdk1.txt"
	mkdir -p "$cache/js" "$cache/bin"
	cp "$here/package.json" "$here/package-lock.json" "$cache/js/"
	(cd "$cache/js" && npm ci --no-audit --no-fund --loglevel=error)
	if [ "$node_major" -lt 20 ]; then
		mkdir -p "$cache/node"
		(cd "$cache/node" && npm install --no-audit --no-fund --loglevel=error --no-save "node@$node_pin")
		ln -sf "$cache/node/node_modules/node/bin/node" "$cache/bin/node"
	else
		ln -sf "$(command -v node)" "$cache/bin/node"
	fi
	touch "$cache/complete"
}

mkdir -p "$cache"
(
	flock 9
	if [ ! -e "$cache/complete" ]; then
		echo "tests/e2e/run.sh: installing the pinned clients and servers into .cache/e2e/$key" >&2
		rm -rf "$cache/venv" "$cache/venv-sdk1" "$cache/js" "$cache/node" "$cache/bin"
		install_all
	fi
) 9>"$cache/lock"

E2E_BUILD=$build E2E_CACHE=$cache PYTHONDONTWRITEBYTECODE=1
export E2E_BUILD E2E_CACHE PYTHONDONTWRITEBYTECODE
cd "$here"
exec "$cache/venv/bin/python" -m pytest --junitxml "$junit" "$@"
