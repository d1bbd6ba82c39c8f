#!/usr/bin/env python3
"""The message catalog explains each MESSAGE_ID of the audit records, and no other; journalctl takes it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

import common

CATALOG = "packaging/systemd/mcp-tunnel.catalog"
SOURCES = "daemon"
ID = re.compile(r'"([0-9a-f]{32})"')
HEAD = re.compile(r"-- ([0-9a-f]{32})")
FIELD = re.compile(r"@(\w+)@")
HEADERS = {"Subject", "Defined-By", "Support", "Documentation"}


def entries(text):
    """(id, line, headers, text) of each entry."""
    parts = re.split(r"^-- (.*)$", text, flags=re.M)
    line = parts[0].count("\n") + 1
    for ident, body in zip(parts[1::2], parts[2::2]):
        head, _, rest = body.removeprefix("\n").partition("\n\n")
        yield ident, line, dict(h.split(": ", 1) for h in head.split("\n") if ": " in h), rest.strip()
        line += body.count("\n")


def check_entry(ident, headers, text, names):
    if not re.fullmatch(r"[0-9a-f]{32}", ident):
        yield "'%s' is no id" % ident
    for missing in {"Subject", "Defined-By"} - set(headers):
        yield "no %s:" % missing
    for header in set(headers) - HEADERS:
        yield "no catalog has the header %s:" % header
    if len(text.split()) < 10:
        yield "explains nothing"
    for name in FIELD.findall(text):
        if name not in names:
            yield "@%s@ is in no audit record" % name


def journalctl_says(text):
    """How many entries journalctl takes; None where there is no journalctl."""
    if not shutil.which("journalctl"):
        return None
    with tempfile.TemporaryDirectory() as root:
        for part in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
            os.makedirs(os.path.join(root, part))
        with open(os.path.join(root, "usr/lib/systemd/catalog/x.catalog"), "w", encoding="utf-8") as f:
            f.write(text)
        for command in ("--update-catalog", "--list-catalog"):
            done = subprocess.run(["journalctl", "--root", root, command], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return done.stderr.strip() or "journalctl %s: status %d" % (command, done.returncode)
        return len(done.stdout.strip().splitlines())


def check(root):
    sources = [n for n in common.walk(root, [".c", ".h"], [SOURCES]) if os.path.basename(n).startswith("audit")]
    code = "\n".join(common.strip_c(common.read(root, n), keep_strings=True) for n in sources)
    ids, names = set(ID.findall(code)), set(re.findall(r'"(MCP_\w+|SYSLOG_IDENTIFIER)"', code))
    text = common.read(root, CATALOG)
    found = list(entries(text))
    problems = []
    for ident, line, headers, explanation in found:
        problems += ["%s:%d: %s" % (CATALOG, line, p) for p in check_entry(ident, headers, explanation, names)]
        if ident not in ids:
            problems.append("%s:%d: %s is the id of no audit record" % (CATALOG, line, ident))
    listed = [ident for ident, _, _, _ in found]
    problems += ["%s: %s is there twice" % (CATALOG, i) for i in sorted(set(listed)) if listed.count(i) > 1]
    problems += ["%s: nothing explains %s" % (CATALOG, i) for i in sorted(ids - set(listed))]
    said = None if problems else journalctl_says(text)
    if said is not None and said != len(found):
        problems.append("%s: journalctl: %s of %d entries" % (CATALOG, said, len(found)))
    return problems


_A, _B = "0123456789abcdef" * 2, "fedcba9876543210" * 2
_TEXT = "It happened, and this is what you do about it: look at @MCP_X@ first.\n"
_ONE = "-- %s\nSubject: One\nDefined-By: mcp-tunnel\n\n%s" % (_A, _TEXT)
_TWO = "\n-- %s\nSubject: Two\nDefined-By: mcp-tunnel\n\n%s" % (_B, _TEXT)
GOOD = {
    "daemon/audit.c": '/* "%s" */ {"a", "%s"}, "MCP_X"\n' % ("ab" * 16, _A),
    "daemon/audit_more.c": '"%s"\n' % _B,
    "daemon/other.c": '"%s"\n' % ("cd" * 16),
    CATALOG: "# text\n\n" + _ONE + _TWO,
}
BAD = [
    ("nothing explains " + _B, {CATALOG: _ONE}),
    ("id of no audit record", {CATALOG: _ONE + _TWO + _TWO.replace(_B, "ab" * 16)}),
    ("there twice", {CATALOG: _ONE + _TWO + "\n" + _ONE}),
    ("no Subject", {CATALOG: _ONE + _TWO.replace("Subject: Two\n", "")}),
    ("explains nothing", {CATALOG: _ONE + _TWO.replace(_TEXT, "Two.\n")}),
    ("@MCP_Y@ is in no audit record", {CATALOG: _ONE + _TWO.replace("MCP_X", "MCP_Y")}),
    ("header Docs:", {CATALOG: _ONE + _TWO.replace("Defined-By", "Docs: x\nDefined-By")}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
