#!/bin/sh
# The root file system that tests/system boots: sh tests/system/rootfs.sh DIR
# Made once by debootstrap, then kept as a tar in .cache/system of the source root, under a name made of its packages.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$1
suite=bookworm
packages=systemd,systemd-sysv,dbus,ca-certificates,iproute2,procps
packages=$packages,curl,libevent-2.1-7,libssl3,libinih1
cache=$root/.cache/system
tar=$cache/$(echo "$suite $packages 2" | sha256sum | cut -c1-16).tar

# The mirror of this machine, where it is a Debian.
mirror() {
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
		[ -f "$file" ] || continue
		sed -n 's/^URIs: *\([^ ]*\/debian\)\/\{0,1\} *$/\1/p; s/^deb .*\(http[^ ]*\/debian\)\/\{0,1\} .*/\1/p' "$file"
	done | head -n 1
}

# What a test never looks at is left out: it unpacks in half the time.
make_tar() {
	temp=$(mktemp -d "$cache/tmp.XXXXXX")
	trap 'rm -rf "$temp"' EXIT
	echo "tests/system/rootfs.sh: making a root file system, kept in .cache/system" >&2
	debootstrap --variant=minbase --include="$packages" "$suite" "$temp/r" "$(mirror)" >"$temp/log" 2>&1 ||
		{ tail -n 20 "$temp/log" >&2; exit 1; }
	rm -rf "$temp"/r/var/cache/apt/* "$temp"/r/var/lib/apt/lists/* "$temp"/r/usr/share/doc/* "$temp"/r/usr/share/locale/*
	rm -rf "$temp"/r/dev/* "$temp/r/etc/machine-id" "$temp/r/etc/hostname"
	: >"$temp/r/etc/machine-id"
	tar -C "$temp/r" -cf "$temp/tar" .
	mv "$temp/tar" "$tar"
}

mkdir -p "$cache" "$dir"
(
	flock 9
	[ -e "$tar" ] || make_tar
) 9>"$cache/lock"
tar -C "$dir" -xf "$tar"
