#!/bin/sh
# Makes the packages: sh packaging/build.sh deb|rpm|all, into dist/ of the source root, with an SPDX SBOM beside each.
# The same source gives the same bytes: time is that of packaging/debian/changelog (or SOURCE_DATE_EPOCH), nothing of
# the tree but its source files is used. With DIST=DIR they go there. Debian: needs dpkg-dev, debhelper and what
# `packaging/debian/control` names, or rpm; nothing is installed by this script.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
name=mcp-tunnel-gateway
version=$(sed -n "s/^  version: '\(.*\)',$/\1/p" "$root/meson.build")
dist=${DIST:-$root/dist}
umask 022
export LC_ALL=C.UTF-8 TZ=UTC
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
	SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' "$root/packaging/debian/changelog" | head -n 1)" +%s)
fi
export SOURCE_DATE_EPOCH

usage() {
	echo "usage: sh packaging/build.sh deb|rpm|all" >&2
	exit 2
}

die() {
	echo "packaging/build.sh: $1" >&2
	exit 1
}

# What git knows, or everything but what builds leave; files that are new and not ignored belong to it.
sources() {
	if [ -e "$root/.git" ] && command -v git >/dev/null; then
		git -C "$root" -c safe.directory="$root" ls-files -z --cached --others --exclude-standard
	else
		(cd "$root" && find . \( -path './build*' -o -path ./dist -o -path ./.cache -o -path ./.git -o -name __pycache__ \
			-o -name node_modules \) -prune -o -type f -print0)
	fi
}

# A copy of the source, where nothing else is, with modes and times that do not depend on this machine.
stage() {
	tree=$work/$name-$version
	mkdir -p "$tree"
	(cd "$root" && sources | LC_ALL=C sort -z | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh |
		tar --null -T - -cf -) | tar -C "$tree" --no-same-owner -xf -
	find "$tree" -type d -exec chmod 755 {} +
	find "$tree" -type f -perm /111 -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
	find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

quietly() {
	"$@" </dev/null >"$work/log" 2>&1 || {
		tail -n 60 "$work/log" >&2
		die "$1 failed"
	}
}

# keep FILE...: into dist, each with its SBOM.
keep() {
	mkdir -p "$dist"
	for file; do
		cp "$file" "$dist/"
		python3 -B "$root/packaging/sbom.py" "$dist/${file##*/}" >"$dist/${file##*/}.spdx.json" || die "no SBOM for $file"
		echo "${file##*/}"
	done
}

build_deb() {
	command -v dpkg-buildpackage >/dev/null || die "dpkg-buildpackage is missing: install dpkg-dev and debhelper"
	cp -R "$tree/packaging/debian" "$tree/debian"
	cd "$tree"
	DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:-nocheck}" quietly dpkg-buildpackage -b -uc -us
	cd "$root"
	keep "$work"/*.deb
	rm -rf "$tree/debian"
}

build_rpm() {
	command -v rpmbuild >/dev/null || die "rpmbuild is missing: install rpm"
	top=$work/rpm
	mkdir -p "$top/SOURCES"
	tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name-$version" |
		gzip -9n >"$top/SOURCES/$name-$version.tar.gz"
	quietly rpmbuild -bb --define "_topdir $top" --define "_buildhost reproducible" \
		--define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
		--define "_build_id_links none" "$tree/packaging/rpm/$name.spec"
	keep "$top"/RPMS/*/*.rpm
}

[ $# -eq 1 ] || usage
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
stage
case $1 in
deb) build_deb ;;
rpm) build_rpm ;;
all)
	build_deb
	build_rpm
	;;
*) usage ;;
esac
