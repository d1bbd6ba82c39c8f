#!/usr/bin/env python3
"""proto/PROTOCOL.md has a table of the reasons; it and proto/reasons.def say the same names and codes."""

import os
import re
import sys

import common

DEF = "proto/reasons.def"
DOC = "proto/PROTOCOL.md"
ROW = re.compile(r'^REASON\(\s*\w+\s*,\s*(\d+)\s*,\s*"([^"]+)"', re.M)


def tables(text):
    """Each table as a list of (line number, cells)."""
    table = []
    for n, line in enumerate(text.split("\n") + [""], 1):
        if line.lstrip().startswith("|"):
            cells = [c.strip().strip("`*") for c in line.strip().strip("|").split("|")]
            table.append((n, cells))
        elif table:
            yield table
            table = []


def name_column(table, names):
    """The column in which most of the names are, where at least three are there; None otherwise."""
    hits = {}
    for _, cells in table:
        for i, cell in enumerate(cells):
            hits[i] = hits.get(i, 0) + (cell in names)
    best = max(hits, key=hits.get)
    return best if hits[best] >= 3 else None


def check_table(table, names, column):
    for n, cells in table:
        if len(cells) <= column or re.fullmatch(r":?-+:?", cells[column]) or n == table[0][0]:
            continue
        name = cells[column]
        numbers = [int(c) for c in cells[:column + 2] if c.isdigit()]
        if name not in names:
            yield "%s:%d: '%s' is not in %s" % (DOC, n, name, DEF)
        elif numbers and names[name] not in numbers:
            yield "%s:%d: '%s' has code %d in %s" % (DOC, n, name, names[name], DEF)


def check(root):
    if not os.path.exists(os.path.join(root, DOC)):
        raise common.Skip("there is no %s" % DOC)
    names = {name: int(code) for code, name in ROW.findall(common.read(root, DEF))}
    found = [(t, name_column(t, names)) for t in tables(common.read(root, DOC))]
    found = [(t, c) for t, c in found if c is not None]
    if not found:
        return ["%s: no table of the names in %s" % (DOC, DEF)]
    problems = [p for t, c in found for p in check_table(t, names, c)]
    said = {cells[c] for t, c in found for _, cells in t if len(cells) > c}
    return problems + ["%s: '%s' of %s is missing" % (DOC, name, DEF) for name in names if name not in said]


_HEAD = "# x\n\n| type | frame |\n|---|---|\n| 1 | HELLO |\n\n| code | name | text |\n|---:|---|---|\n"
_ROWS = "| 0 | `none` | a |\n| 1 | `cancelled` | b |\n| 2 | `policy` | c |\n"
GOOD = {
    DEF: 'REASON(NONE, 0, "none", NO, 500, 0, "x")\nREASON(C, 1, "cancelled", NO, 500, 0, "x")\n'
         'REASON(P,  2, "policy", NO, 500, 0, "x")\nREASON(T,  13, "timeout", NO, 500, 0, "x")\n',
    DOC: _HEAD + _ROWS + "| 13 | `timeout` | d |\n",
}
BAD = [
    ("'timeout' of proto/reasons.def is missing", {DOC: _HEAD + _ROWS}),
    ("'gone' is not in", {DOC: GOOD[DOC] + "| 14 | `gone` | e |\n"}),
    ("'timeout' has code 13", {DOC: _HEAD + _ROWS + "| 12 | `timeout` | d |\n"}),
    ("no table", {DOC: "# none, cancelled, policy, timeout\n"}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
