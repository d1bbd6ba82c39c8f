#!/usr/bin/env python3
"""The software bill of materials of a .deb or .rpm: sbom.py PACKAGE prints SPDX 2.3 (JSON).

It names the package with its checksum, every file in it with its checksums, and what it depends on at run time. The
same package gives the same bytes; the time is SOURCE_DATE_EPOCH.
"""

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

LICENSE = "Apache-2.0"
SUPPLIER = "Organization: mcp-tunnel-gateway authors"
# The libraries that the programs use, by the names that Debian, Fedora and their sonames give them.
LIBRARIES = [
    (re.compile(r"^(libc6|libc\.so\.6)"), "glibc", "LGPL-2.1-or-later"),
    (re.compile(r"^(libevent)"), "libevent", "BSD-3-Clause"),
    (re.compile(r"^(libssl3|libssl\.so|libcrypto\.so|openssl)"), "OpenSSL", "Apache-2.0"),
    (re.compile(r"^(libsystemd)"), "libsystemd", "LGPL-2.1-or-later"),
    (re.compile(r"^(libinih|inih)"), "inih", "BSD-3-Clause"),
]


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()


def digest(path, kind):
    h = hashlib.new(kind)
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 16), b""):
            h.update(block)
    return h.hexdigest()


def read_deb(path, directory):
    """(name, version, purl, [dependency]) and the files in directory."""
    subprocess.run(["dpkg-deb", "-x", path, directory], check=True)
    fields = {k: output("dpkg-deb", "-f", path, k).strip() for k in ("Package", "Version", "Architecture", "Depends")}
    depends = [d.strip() for d in fields["Depends"].split(",") if d.strip()]
    purl = "pkg:deb/mcp-tunnel/%s@%s?arch=%s" % (fields["Package"], fields["Version"], fields["Architecture"])
    return fields["Package"], fields["Version"], purl, depends


def read_rpm(path, directory):
    archive = subprocess.Popen(["rpm2cpio", path], stdout=subprocess.PIPE)
    subprocess.run(["cpio", "-idm", "--quiet"], stdin=archive.stdout, cwd=directory, check=True)
    if archive.wait() != 0:
        raise OSError("rpm2cpio failed")
    name, version, arch = output("rpm", "-qp", "--qf", "%{NAME}|%{VERSION}-%{RELEASE}|%{ARCH}", path).split("|")
    depends = sorted({line for line in output("rpm", "-qp", "--requires", path).splitlines()
                      if not line.startswith(("rpmlib(", "/", "config("))})
    return name, version, "pkg:rpm/mcp-tunnel/%s@%s?arch=%s" % (name, version, arch), depends


def identifier(kind, text):
    return "SPDXRef-%s-%s" % (kind, re.sub(r"[^A-Za-z0-9.-]+", "-", text))


def describe_files(directory):
    files = []
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                continue
            inside = "./" + os.path.relpath(path, directory)
            files.append({
                "SPDXID": identifier("File", "%d-%s" % (len(files), inside)),
                "fileName": inside,
                "checksums": [{"algorithm": kind.upper(), "checksumValue": digest(path, kind)} for kind in ("sha1", "sha256")],
                "licenseConcluded": LICENSE,
                "licenseInfoInFiles": ["NOASSERTION"],
                "copyrightText": "NOASSERTION",
            })
    return files


def describe_dependency(text):
    """One entry of Depends or Requires; 'a (>= 1)' or 'a >= 1', with alternatives behind a bar."""
    first = text.split("|")[0].strip()
    m = re.match(r"^([^\s(]+(?:\([^)]*\))?(?:\(64bit\))?)\s*\(?((?:[<>=]+)\s*[^)]*)?\)?$", first)
    name, wanted = (m.group(1), m.group(2)) if m else (first, None)
    known = next(((title, licence) for pattern, title, licence in LIBRARIES if pattern.match(name)), None)
    return {
        "SPDXID": identifier("Dependency", first),
        "name": name,
        "versionInfo": (wanted or "any").strip(),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": known[1] if known else "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "comment": known[0] if known else text,
    }


def verification_code(files):
    sums = sorted(c["checksumValue"] for f in files for c in f["checksums"] if c["algorithm"] == "SHA1")
    return hashlib.sha1("".join(sums).encode()).hexdigest()


def document(path):
    with tempfile.TemporaryDirectory() as directory:
        read = read_rpm if path.endswith(".rpm") else read_deb
        name, version, purl, depends = read(path, directory)
        files = describe_files(directory)
    dependencies = {d["SPDXID"]: d for d in map(describe_dependency, depends)}
    checksum = digest(path, "sha256")
    package = {
        "SPDXID": "SPDXRef-Package",
        "name": name,
        "versionInfo": version,
        "packageFileName": os.path.basename(path),
        "supplier": SUPPLIER,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": True,
        "packageVerificationCode": {"packageVerificationCodeValue": verification_code(files)},
        "checksums": [{"algorithm": "SHA256", "checksumValue": checksum}],
        "licenseConcluded": LICENSE,
        "licenseDeclared": LICENSE,
        "licenseInfoFromFiles": ["NOASSERTION"],
        "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}],
    }
    created = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.timezone.utc)
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Package")]
    relations += [("SPDXRef-Package", "CONTAINS", f["SPDXID"]) for f in files]
    relations += [("SPDXRef-Package", "DEPENDS_ON", d) for d in dependencies]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": os.path.basename(path),
        "documentNamespace": "https://spdx.org/spdxdocs/%s-%s" % (os.path.basename(path), checksum),
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": [SUPPLIER, "Tool: sbom.py"]},
        "packages": [package] + list(dependencies.values()),
        "files": files,
        "relationships": [{"spdxElementId": a, "relationshipType": r, "relatedSpdxElement": b} for a, r, b in relations],
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: sbom.py PACKAGE")
    json.dump(document(sys.argv[1]), sys.stdout, indent=1)
    print()
