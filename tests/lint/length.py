#!/usr/bin/env python3
"""No function over 100 lines, no file over 800. Prints the median and the 90th percentile of function lengths."""

import os
import re
import sys

import common

MAX_FUNCTION = 100
MAX_FILE = 800
FOLDERS = common.CODE_FOLDERS + ["contrib", "tests"]


def functions(text):
    """(name, first line, lines) of each body: what is between a { and a } in the first column, with both."""
    lines = text.split("\n")
    start, head = None, ""
    for n, line in enumerate(lines, 1):
        if start is None and line.startswith("{"):
            start = n
            names = re.findall(r"(\w+)\s*\(", head)
            macro = re.match(r"\s*START_TEST\((\w+)\)", head)
            name = macro.group(1) if macro else names[0] if names else "?"
        elif start is not None and line.startswith("}"):
            yield name, start, n - start + 1
            start, head = None, ""
        elif start is None:
            head = head + " " + line if line.strip() and not re.search(r"[;}]\s*$|^#", line) else ""


def percentile(sorted_values, percent):
    return sorted_values[min(len(sorted_values) - 1, len(sorted_values) * percent // 100)]


def check(root):
    problems, lengths = [], {}
    for name in common.walk(root, [".c", ".h"], [f for f in FOLDERS if os.path.isdir(os.path.join(root, f))]):
        text = common.read(root, name)
        n_lines = text.count("\n")
        if n_lines > MAX_FILE:
            problems.append("%s: %d lines, at most %d" % (name, n_lines, MAX_FILE))
        for function, line, length in functions(common.strip_c(text)):
            lengths.setdefault(name.split("/")[0], []).append(length)
            if length > MAX_FUNCTION:
                problems.append("%s:%d: %s() has %d lines, at most %d" % (name, line, function, length, MAX_FUNCTION))
    for folder, values in lengths.items():
        values.sort()
        print("%-8s %4d functions, median %2d lines, p90 %2d, longest %3d" %
              (folder, len(values), percentile(values, 50), percentile(values, 90), values[-1]))
    return problems


def _function(n_lines, head="int f(int a,\n      int b)"):
    return head + "\n{\n" + "\tx();\n" * (n_lines - 2) + "}\n"


GOOD = {
    "base/a.c": _function(100) + "\nstatic const int t[] = {\n" + "\t1,\n" * 200 + "};\n",
    "proto/a.h": "/* text */\n" * 800,
}
BAD = [
    ("f() has 101 lines", {"base/b.c": _function(101)}),
    ("slow() has 150 lines", {"tests/unit/test_a.c": _function(150, "START_TEST(slow)")}),
    ("801 lines", {"gateway/b.c": "/* text */\n" * 801}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
