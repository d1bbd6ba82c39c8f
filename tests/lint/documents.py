#!/usr/bin/env python3
"""What the documents name is there: each path in backticks exists, each source file is in HACKING.md, each file of
tests in the README beside it, and the table of symptoms in packaging/OPERATING.md has every check of /readyz and only
reasons and options that the programs have."""

import glob
import os
import re
import sys

import common

HACKING = "HACKING.md"
OPERATING = "packaging/OPERATING.md"
DOCUMENTS = ["README.md", HACKING, "SECURITY.md", "NEWS.md", "packaging/README.md", OPERATING]
TOP_FOLDERS = r"base|proto|daemon|gateway|relay|tests|contrib|packaging|man"
TEST_FOLDERS = ["tests/e2e", "tests/system"]
PATH = re.compile(r"`((?:%s)/[^`\s:]*)`" % TOP_FOLDERS)
# Names that stand for whatever is added.
PLACEHOLDER = re.compile(r"NAME|BUILD|NEW_DIR")
# Headers that are part of the files beside them.
PRIVATE = re.compile(r"(_private|_impl|_head|_rows)\.h$")
REASON = re.compile(r'^REASON\(\w+,\s*\d+,\s*"([a-z-]+)"', re.M)
FAILURE = re.compile(r'/\* "([a-z-]+)"')
OPTION = re.compile(r'^OPTION\("([a-z0-9-]+)"', re.M)
CHECK = re.compile(r'add_check\(out, \w+, (?:name|"(\w+)")')
WORD = re.compile(r"`([a-z]+(?:-[a-z]+)+)`")
COMMANDS = re.compile(r"^(mcp-tunnel-\w+|systemd-\w+)$")


def missing_paths(root, document):
    for path in PATH.findall(common.read(root, document)):
        if not PLACEHOLDER.search(path) and not glob.glob(os.path.join(root, path)):
            yield "%s: there is no %s" % (document, path)


def unnamed_sources(root):
    text = common.read(root, HACKING)
    stems = {os.path.splitext(path)[0] for path in common.walk(root, [".c", ".h"], common.CODE_FOLDERS)
             if not PRIVATE.search(path)}
    for stem in sorted(stems):
        if not re.search(r"`%s(\.[ch])?`" % re.escape(stem), text):
            yield "%s: %s.c or .h is named nowhere" % (HACKING, stem)


def symptoms(text):
    _, _, rest = text.partition("\n| what you see |")
    return [line for line in rest.split("\n\n")[0].split("\n") if line.startswith("| ")]


def wrong_symptoms(root):
    rows = "\n".join(symptoms(common.read(root, OPERATING)))
    status = common.read(root, "gateway/status.c")
    known = set(REASON.findall(common.read(root, "proto/reasons.def")))
    known |= set(FAILURE.findall(common.read(root, "gateway/session.h")))
    known |= set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', status))
    for table in ("gateway/config.def", "relay/config.def"):
        known |= set(OPTION.findall(common.read(root, table)))
    for word in sorted(set(WORD.findall(rows)) - known):
        if not COMMANDS.match(word):
            yield "%s: no program has the reason or option %s" % (OPERATING, word)
    for check in sorted(set(CHECK.findall(status))):
        if "`%s`" % (check or "upstream") not in rows:
            yield "%s: the check %s of /readyz is in no row of the symptoms" % (OPERATING, check or "upstream")


def unnamed_tests(root):
    for folder in TEST_FOLDERS:
        text = common.read(root, folder + "/README.md")
        for path in common.walk(root, [".py"], [folder]):
            name = os.path.basename(path)
            if name.startswith("test_") and name not in text:
                yield "%s/README.md: %s is named nowhere" % (folder, path)


def check(root):
    problems = list(unnamed_tests(root))
    for document in DOCUMENTS:
        problems += missing_paths(root, document)
    return problems + list(unnamed_sources(root)) + list(wrong_symptoms(root))


_TABLE = "# Operating\n\n| what you see | what it means |\n|---|---|\n"
_TABLE += "| `session`: `token-refused` | no |\n| `upstream` | `log-level` |\n"
_REASONS = 'REASON(POLICY, 3, "policy", NO, 403, -1, "x")\nREASON(NO_ROUTE, 18, "no-route", NO, 404, -1, "x")\n'
GOOD = {
    "README.md": "see `man/a.7`\n",
    HACKING: "`base/buf.c`, `relay/x.h`: text. `tests/unit/test_NAME.c`, `gateway/session.h`, `gateway/status.c`\n",
    "SECURITY.md": "",
    "NEWS.md": "",
    "tests/e2e/README.md": "| test_a.py | a |\n",
    "tests/e2e/test_a.py": "",
    "tests/system/README.md": "",
    "packaging/README.md": "",
    OPERATING: _TABLE + "\n`no-such-reason` is not in the table.\n",
    "man/a.7": "",
    "base/buf.c": "",
    "base/buf.h": "",
    "relay/x.h": "",
    "proto/reasons.def": _REASONS,
    "gateway/config.def": 'OPTION("log-level", x)\n',
    "relay/config.def": "",
    "gateway/session.h": '\tSESSION_TOKEN_REFUSED,  /* "token-refused" */\n',
    "gateway/status.c": 'add_check(out, true, "session", x, "not-tried-yet");\nadd_check(out, false, name, x);\n',
}
BAD = [
    ("tests/system/README.md: tests/system/test_b.py is named nowhere", {"tests/system/test_b.py": ""}),
    ("README.md: there is no man/b.7", {"README.md": "see `man/b.7`\n"}),
    ("HACKING.md: there is no base/none.c", {HACKING: GOOD[HACKING] + "`base/none.c`\n"}),
    ("base/idmap.c or .h is named nowhere", {HACKING: GOOD[HACKING] + "idmap\n", "base/idmap.h": ""}),
    ("no program has the reason or option token-lost", {OPERATING: _TABLE + "| `token-lost` | no |\n"}),
    ("the check upstream of /readyz", {OPERATING: _TABLE.replace("`upstream`", "upstream")}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
