#!/usr/bin/env python3
"""SECURITY.md has its chapters; each attack of its table names the tests that cover it, and each of these tests exists."""

import sys

import common
import promises

SECURITY = "SECURITY.md"
CHAPTERS = ["Who is trusted with what", "What is where", "Attacks considered", "Reporting a flaw", "After a break-in"]


def check(root):
    text = common.read(root, SECURITY)
    problems = ["%s: no chapter '%s'" % (SECURITY, name) for name in CHAPTERS if "\n## %s\n" % name not in text]
    rows = list(promises.table(text))
    if len(rows) < 5:
        problems.append("%s: no table of attacks" % SECURITY)
    for attack, tests in rows:
        named = promises.TEST.findall(tests)
        if not named or len(named) != tests.count("`") // 2:
            problems.append(
                "%s: '%s' names no test, or in another form than `e2e/FILE.py: NAME`" % (SECURITY, attack[:60])
            )
        for test in named:
            if not promises.has_test(root, *test):
                problems.append("%s: there is no %s in tests/%s/%s.%s" % (SECURITY, test[3], *test[:3]))
    return problems


_HEAD = "# Security\n" + "".join("\n## %s\n\n" % name for name in CHAPTERS[:3]) + "| attack | shown by |\n|---|---|\n"
_ROWS = "".join("| attack %d | `e2e/test_a.py: test_one` |\n" % n for n in range(5))
_TAIL = "".join("\n## %s\n" % name for name in CHAPTERS[3:])
GOOD = {
    SECURITY: _HEAD + _ROWS + _TAIL,
    "tests/e2e/test_a.py": "def test_one(x):\n    pass\n",
    "tests/unit/test_b.c": 'START_TEST(two)\n{\n}\nEND_TEST\n\nUNIT_MAIN("b", ADD(two))\n',
}
BAD = [
    ("no chapter 'After a break-in'", {SECURITY: _HEAD + _ROWS + "\n## Reporting a flaw\n"}),
    ("no table of attacks", {SECURITY: _HEAD + _TAIL}),
    ("'nobody' names no test", {SECURITY: _HEAD + _ROWS + "| nobody | trust us |\n" + _TAIL}),
    ("another form", {SECURITY: _HEAD + _ROWS + "| x | `e2e/test_a.py: test_one`, `test_one` |\n" + _TAIL}),
    ("no test_two in tests/e2e/test_a.py", {SECURITY: _HEAD + _ROWS + "| x | `e2e/test_a.py: test_two` |\n" + _TAIL}),
    ("no three in tests/unit/test_b.c", {SECURITY: _HEAD + _ROWS + "| x | `unit/test_b.c: three` |\n" + _TAIL}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
