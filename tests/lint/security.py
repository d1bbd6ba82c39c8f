#!/usr/bin/env python3
"""SECURITY.md has its chapters; each attack and each limit of its tables names the tests that cover it, each of these tests exists,
and the numbers of the limits are those of the sources."""

import math
import re
import sys

import common
import promises

SECURITY = "SECURITY.md"
CHAPTERS = ["Who is trusted with what", "What is where", "Attacks considered", "Limits", "Reporting a flaw", "After a break-in"]
# A number, and in backticks where it comes from: an option, or a name of the sources.
NUMBER = re.compile(r"(\d+|none)(\w*)( MiB)?[^`\d]*: `(--)?([\w-]+)`")
OPTION = re.compile(r'^OPTION\("([a-z0-9-]+)", \w+, [^,]+, "[^"]*", "([^"]*)"', re.M)


def option_defaults(sources, name):
    return {default for option, default in OPTION.findall(sources) if option == name}


def constants(sources, name):
    products = re.findall(r"\b%s = ([0-9]+(?: \* [0-9]+)*)" % re.escape(name), sources)
    return {math.prod(int(factor) for factor in product.split(" * ")) for product in products}


def wrong_numbers(sources, limit, cell):
    numbers = NUMBER.findall(cell)
    if not numbers:
        yield "%s: the limit '%s' has no number with its source" % (SECURITY, limit)
    for number, unit, mib, option, name in numbers:
        if option:
            said, found = "0" if number == "none" else number + unit, option_defaults(sources, name)
        else:
            said, found = int(number) << (20 if mib else 0), constants(sources, name)
        if found != {said}:
            yield "%s: %s%s is %s, not %s" % (SECURITY, option, name, ", ".join(map(str, sorted(found))) or "nowhere", said)


def missing_tests(root, what, tests):
    named = promises.TEST.findall(tests)
    if not named or len(named) != tests.count("`") // 2:
        yield "%s: '%s' names no test, or in another form than `e2e/FILE.py: NAME`" % (SECURITY, what[:60])
    for test in named:
        if not promises.has_test(root, *test):
            yield "%s: there is no %s in tests/%s/%s.%s" % (SECURITY, test[3], *test[:3])


def check(root):
    text = common.read(root, SECURITY)
    problems = ["%s: no chapter '%s'" % (SECURITY, name) for name in CHAPTERS if "\n## %s\n" % name not in text]
    sources = "\n".join(common.read(root, path) for path in common.walk(root, [".c", ".h", ".def"], common.CODE_FOLDERS))
    attacks, _, rest = text.partition("\n## Limits\n")
    for what, chapter in (("attacks", attacks), ("limits", rest)):
        rows = list(promises.table(chapter))
        if len(rows) < 5:
            problems.append("%s: no table of %s" % (SECURITY, what))
        for name, cells in rows:
            problems += missing_tests(root, name, cells.split(" | ")[-1])
            if what == "limits":
                problems += wrong_numbers(sources, name, cells.split(" | ")[0])
    return problems


_HEAD = "# Security\n" + "".join("\n## %s\n\n" % name for name in CHAPTERS[:3]) + "| attack | shown by |\n|---|---|\n"
_ROWS = "".join("| attack %d | `e2e/test_a.py: test_one` |\n" % n for n in range(5))
_LIMITS = "\n## Limits\n\n| limit | number | shown by |\n|---|---|---|\n"
_LIMITS += "".join("| limit %d | 2m: `--wait`, 3 MiB in all: `A_MAX` | `e2e/test_a.py: test_one` |\n" % n for n in range(5))
_MORE = "| last | none: `--rate` | `unit/test_b.c: two` |\n"
_TAIL = "".join("\n## %s\n" % name for name in CHAPTERS[4:])
GOOD = {
    SECURITY: _HEAD + _ROWS + _LIMITS + _MORE + _TAIL,
    "tests/e2e/test_a.py": "def test_one(x):\n    pass\n",
    "tests/unit/test_b.c": 'START_TEST(two)\n{\n}\nEND_TEST\n\nUNIT_MAIN("b", ADD(two))\n',
    "relay/config.def": 'OPTION("wait", DURATION, wait_ms, "TIME", "2m", "1s", NULL, 0, "W", NULL)\n'
    'OPTION("rate", COUNT, rate, "N", "0", "1", "9", 0, "R", NULL)\n',
    "relay/a.h": "enum { A_MAX = 3 * 1024 * 1024 };\n",
}


def bad(attack="", limit="", text=None):
    return {SECURITY: text or _HEAD + _ROWS + attack + _LIMITS + limit + _TAIL}


BAD = [
    ("no chapter 'After a break-in'", bad(text=_HEAD + _ROWS + _LIMITS + "\n## Reporting a flaw\n")),
    ("no table of attacks", bad(text=_HEAD + _LIMITS + _TAIL)),
    ("no table of limits", bad(text=_HEAD + _ROWS + "\n## Limits\n" + _TAIL)),
    ("'nobody' names no test", bad("| nobody | trust us |\n")),
    ("another form", bad("| x | `e2e/test_a.py: test_one`, `test_one` |\n")),
    ("no test_two in tests/e2e/test_a.py", bad("| x | `e2e/test_a.py: test_two` |\n")),
    ("no three in tests/unit/test_b.c", bad("| x | `unit/test_b.c: three` |\n")),
    ("'y' names no test", bad(limit="| y | none: `--rate` | believe us |\n")),
    ("'z' has no number", bad(limit="| z | few | `e2e/test_a.py: test_one` |\n")),
    ("--wait is 2m, not 3m", bad(limit="| w | 3m: `--wait` | `e2e/test_a.py: test_one` |\n")),
    ("A_MAX is 3145728, not 3", bad(limit="| w | 3 things: `A_MAX` | `e2e/test_a.py: test_one` |\n")),
    ("B_MAX is nowhere, not 3", bad(limit="| w | 3: `B_MAX` | `e2e/test_a.py: test_one` |\n")),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
