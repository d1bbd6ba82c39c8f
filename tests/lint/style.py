#!/usr/bin/env python3
"""Small rules for every file: header guards, white space, unsafe calls, notes to self, file names in documents."""

import glob
import os
import re
import sys

import common

TEXT = [".c", ".h", ".def", ".py", ".sh", ".mjs", ".js", ".md", ".build", ".txt", ".service", ".conf", ".yml", ".1", ".5",
        ".8"]
DOCS = ["HACKING.md", "README.md", "proto/PROTOCOL.md"]
FOLDERS = ["base", "proto", "daemon", "gateway", "relay", "packaging", "man", "contrib", "tests", ".ci"]

NOTE = re.compile(r"\b(%s)\b" % "|".join(["TO" "DO", "FIX" "ME", "X" "XX"]))
UNSAFE = re.compile(r"\b(v?sprintf|gets|atoi)\s*\(")
UNSAFE_IN_PRODUCT = re.compile(r"\b(strcpy|strcat)\s*\(")
STATIC_BUFFER = re.compile(r"\b(gmtime|localtime|ctime|asctime|strtok|inet_ntoa|gethostby\w+|get(?:pw|gr)(?:nam|uid|gid)|rand)\s*\(")
NO_GUARD = re.compile(r"\s*/\*(?:(?!\*/).)*\bNo include guard\b", re.S)
INCLUDE_C = re.compile(r'^\s*#\s*include\s*[<"][^>"]*\.c[>"]')


def check_text(name, text):
    for n, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip(" \t\r"):
            yield n, "white space at the end of the line"
        m = NOTE.search(line)
        if m:
            yield n, "'%s': do it, or open an issue" % m.group(1)
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "no newline at the end of the file"


def check_c(name, text):
    if name.endswith(".h") and not re.search(r"^#pragma once$", text, re.M) and not NO_GUARD.match(text):
        yield 1, "no #pragma once"
    product = name.split("/")[0] in common.CODE_FOLDERS
    for n, line in enumerate(common.strip_c(text).split("\n"), 1):
        m = UNSAFE.search(line) or (product and UNSAFE_IN_PRODUCT.search(line))
        if m:
            yield n, "%s() has no bound or no error" % m.group(1)
        m = product and STATIC_BUFFER.search(line)
        if m:
            yield n, "%s() is not for several threads" % m.group(1)
    for n, line in enumerate(common.strip_c(text, keep_strings=True).split("\n"), 1):
        if INCLUDE_C.match(line):
            yield n, "#include of a .c file"


def file_exists(root, word):
    """The file, the folder, the files of a pattern (test_NAME.c, *.def), or the .c or .h of a module (daemon/loop)."""
    pattern = re.sub(r"\b[A-Z][A-Z0-9-]+\b|(?<=_)[A-Z]+", "*", word)
    for candidate in (word, pattern, pattern + ".c", pattern + ".h"):
        if glob.glob(os.path.join(glob.escape(root), candidate)):
            return True
    return False


def check_names(root, text):
    for n, line in enumerate(text.split("\n"), 1):
        for code in re.findall(r"`([^`]+)`", line):
            for word in re.findall(r"[\w.*/-]+", code):
                word = word.rstrip(".")
                if "/" in word and word.split("/")[0] in FOLDERS and not file_exists(root, word):
                    yield n, "names %s, which does not exist" % word


def check(root):
    problems = []

    def add(name, found):
        problems.extend("%s:%d: %s" % (name, n, what) for n, what in found)

    for name in common.walk(root, TEXT):
        text = common.read(root, name)
        add(name, check_text(name, text))
        if name.endswith((".c", ".h")):
            add(name, check_c(name, text))
        if name in DOCS:
            add(name, check_names(root, text))
    return problems


GOOD = {
    "base/a.h": "#pragma once\n/* strcpy(a, b) is not used */\nint x;\n",
    "base/rows.h": "/* Turns rows into structs. No include guard. */\n#define ROW(a) a,\n",
    "tests/unit/test_a.c": "strcpy(a, b);\nstrcat(a, b);\n",
    "base/a.c": '#include "base/a.h"\nint f(void)\n{\n\treturn snprintf(b, n, "sprintf(");\n}\n',
    "README.md": "See `base/a.h`, `base/a`, `base/`, `sh base/a.c x`, `base/NAME.c`, `text/plain`, `tools/call`, "
                 "`/v1/tunnel`.\n",
}
BAD = [
    ("#pragma once", {"base/b.h": "int x;\n"}),
    ("#pragma once", {"base/b.h": "/* Rows. */\n/* No include guard. */\nint x;\n"}),
    ("sprintf()", {"tests/unit/test_b.c": "sprintf(a, b);\n"}),
    ("white space", {"man/a.md": "x \n"}),
    ("white space", {"base/b.c": "int x;\t\n"}),
    ("no newline", {"base/b.c": "int x;"}),
    ("do it", {"base/b.c": "/* TO" "DO: later */\n"}),
    ("do it", {"tests/b.py": "# FIX" "ME\n"}),
    ("do it", {"tests/b.sh": "# X" "XX\n"}),
    ("strcpy()", {"base/b.c": "strcpy(a, b);\n"}),
    ("strcat()", {"base/b.c": "strcat(a, b);\n"}),
    ("sprintf()", {"base/b.c": "sprintf(a, b);\n"}),
    ("vsprintf()", {"base/b.c": "vsprintf (a, b);\n"}),
    ("gets()", {"base/b.c": "gets(a);\n"}),
    ("atoi()", {"base/b.c": "x = atoi(a);\n"}),
    ("localtime()", {"base/b.c": "t = localtime(&now);\n"}),
    (".c file", {"tests/unit/b.c": '#include "base/a.c"\n'}),
    ("names base/gone.c", {"HACKING.md": "Read `base/gone.c`.\n"}),
    ("names tests/gone.sh", {"README.md": "Run `sh tests/gone.sh unit`.\n"}),
    ("names daemon/gone", {"proto/PROTOCOL.md": "Like `daemon/gone`.\n"}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
