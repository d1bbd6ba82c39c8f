"""The packages as files: the same bytes each time, nothing that lintian or rpmlint would say, an SBOM that is true."""

import glob
import hashlib
import json
import os
import re
import shutil

import pytest

from conftest import ROOT, build_packages
from lib import shell


def read(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as f:
        return f.read()


def contents(directory):
    found = {}
    for path in sorted(glob.glob(directory + "/*")):
        with open(path, "rb") as f:
            found[os.path.basename(path)] = hashlib.sha256(f.read()).hexdigest()
    return found


def test_same_bytes_from_another_place(dist, tmp_path):
    """Another directory, another umask, another time zone, no git; what is not source has no influence."""
    copy = tmp_path / "copy of the source"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(
        ".git", "build*[!h]", ".cache", "dist", "node_modules", "__pycache__"))
    (copy / "build-other").mkdir()
    (copy / "build-other" / "left-over.c").write_text("#error\n")
    temp = tmp_path / "temp"
    temp.mkdir()
    old = os.umask(0o077)
    try:
        again = build_packages(str(copy), str(tmp_path / "again"), TZ="Asia/Tokyo", TMPDIR=str(temp), LANG="C")
    finally:
        os.umask(old)
    assert contents(again) == contents(dist)
    assert len(contents(dist)) >= 8


def test_one_version_everywhere():
    version = re.search(r"^  version: '(.*)',$", read("meson.build"), re.M).group(1)
    assert re.match(r"mcp-tunnel-gateway \((.*)\) ", read("packaging/debian/changelog")).group(1) == version
    assert re.search(r"^Version: +(.*)$", read("packaging/rpm/mcp-tunnel-gateway.spec"), re.M).group(1) == version
    assert re.search(r"^## (.*)$", read("NEWS.md"), re.M).group(1) == version


def test_lintian(debs):
    if not shutil.which("lintian"):
        pytest.skip("lintian is missing: install it")
    said = shell.run(["lintian", "--allow-root", "--fail-on", "error,warning"] + sorted(debs.values()), check=False,
                     timeout=120)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr
    assert not glob.glob(os.path.join(ROOT, "packaging/debian/*lintian-overrides"))


def test_rpmlint(rpms):
    if not shutil.which("rpmlint"):
        pytest.skip("rpmlint is missing: install it")
    said = shell.run(["rpmlint", "-c", os.path.join(ROOT, "packaging/rpm/rpmlint.toml"),
                      os.path.join(ROOT, "packaging/rpm/mcp-tunnel-gateway.spec")] + sorted(rpms.values()), check=False)
    assert said.returncode == 0 and " 0 errors" in said.stdout, said.stdout


def test_sbom(dist, tmp_path):
    packages = [p for p in glob.glob(dist + "/*") if p.endswith((".deb", ".rpm"))]
    assert packages
    for path in packages:
        with open(path + ".spdx.json", encoding="utf-8") as f:
            sbom = json.load(f)
        with open(path, "rb") as f:
            checksum = hashlib.sha256(f.read()).hexdigest()
        package = sbom["packages"][0]
        assert package["checksums"] == [{"algorithm": "SHA256", "checksumValue": checksum}]
        assert package["licenseDeclared"] == "Apache-2.0"
        ids = [e["SPDXID"] for e in sbom["packages"] + sbom["files"]]
        assert len(ids) == len(set(ids)) and all(re.match(r"^SPDXRef-[A-Za-z0-9.-]+$", i) for i in ids)
        for r in sbom["relationships"]:
            assert r["relatedSpdxElement"] in ids
        if "dbgsym" in path:
            continue
        names = {p["comment"] for p in sbom["packages"][1:]}
        assert {"glibc", "libevent", "OpenSSL", "libsystemd", "inih"} <= names, path


def test_sbom_names_the_files_of_the_package(debs, tmp_path):
    shell.run(["dpkg-deb", "-x", debs["mcp-tunnel-gateway"], str(tmp_path)])
    with open(debs["mcp-tunnel-gateway"] + ".spdx.json", encoding="utf-8") as f:
        sbom = json.load(f)
    listed = {f["fileName"]: f["checksums"][1]["checksumValue"] for f in sbom["files"]}
    found = {}
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found["./" + str(path.relative_to(tmp_path))] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert listed == found and "./usr/bin/mcp-tunnel-gateway" in found


def test_wrong_use_says_what_is_right():
    for words in ([], ["zip"], ["deb", "rpm"]):
        said = shell.run(["sh", os.path.join(ROOT, "packaging/build.sh")] + words, check=False)
        assert said.returncode == 2 and said.stderr == "usage: sh packaging/build.sh deb|rpm|all\n"
