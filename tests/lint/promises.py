#!/usr/bin/env python3
"""The promises of README.md about the audit log name the tests that show them, and each of these tests exists."""

import os
import re
import sys

import common

README = "README.md"
CHAPTER = re.compile(r"^## What is logged, what is never logged.*?(?=^## |\Z)", re.M | re.S)
TEST = re.compile(r"`(unit|e2e|system)/(test_\w+)\.(c|py): (\w+)`")
MOST_LINES = 60


def table(chapter):
    """(promise, tests) of each row of the table whose head says `shown by`."""
    _, _, rest = chapter.partition("| shown by |\n")
    for line in rest.split("\n"):
        if not line.startswith("|"):
            break
        if not line.startswith("|---"):
            promise, _, tests = line.strip("| ").partition(" | ")
            yield promise, tests


def has_test(root, kind, name, ending, test):
    path = "tests/%s/%s.%s" % (kind, name, ending)
    if not os.path.exists(os.path.join(root, path)):
        return False
    text = common.read(root, path)
    if ending == "py":
        return re.search(r"^def %s\(" % re.escape(test), text, re.M)
    # Made, and added to the suite.
    return re.search(r"^START_TEST\(%s\)" % test, text, re.M) and re.search(r"\bADD\w*\(%s\b" % test, text)


def check(root):
    chapter = CHAPTER.search(common.read(root, README))
    if not chapter:
        return ["%s: no chapter 'What is logged, what is never logged, ...'" % README]
    problems = []
    rows = list(table(chapter.group(0)))
    if len(rows) < 5:
        problems.append("%s: no table of promises" % README)
    for promise, tests in rows:
        named = TEST.findall(tests)
        if not named or len(named) != tests.count("`") // 2:
            problems.append(
                "%s: '%s' names no test, or in another form than `e2e/FILE.py: NAME`" % (README, promise[:60])
            )
        for kind, name, ending, test in named:
            if not has_test(root, kind, name, ending, test):
                problems.append("%s: there is no %s in tests/%s/%s.%s" % (README, test, kind, name, ending))
    if chapter.group(0).rstrip().count("\n") >= MOST_LINES:
        problems.append("%s: the chapter has more than %d lines" % (README, MOST_LINES))
    return problems


_HEAD = "# x\n\n## What is logged, what is never logged, and more\n\n| what | shown by |\n|---|---|\n"
_ROWS = "".join("| promise %d | `e2e/test_a.py: test_one` |\n" % n for n in range(4))
_MORE = "| last | `unit/test_b.c: two`, `e2e/test_a.py: test_one` |\n"
GOOD = {
    README: _HEAD + _ROWS + _MORE + "\ntext\n\n## Next\n| a | b |\n",
    "tests/e2e/test_a.py": "def test_one(x):\n    pass\n# def test_three(\n",
    "tests/unit/test_b.c": 'START_TEST(two)\n{\n}\nEND_TEST\n\nSTART_TEST(five)\n{\n}\nUNIT_MAIN("b", ADD(two))\n',
}
BAD = [
    ("no chapter", {README: "# x\n\n## What is logged\n"}),
    ("no table", {README: _HEAD + "\n## Next\n"}),
    ("'nobody' names no test", {README: _HEAD + _ROWS + _MORE + "| nobody | trust us |\n"}),
    ("another form", {README: _HEAD + _ROWS + _MORE + "| other | `test_one` |\n"}),
    ("no test_three in tests/e2e/test_a.py", {README: _HEAD + _ROWS + _MORE + "| x | `e2e/test_a.py: test_three` |\n"}),
    ("no test_one in tests/e2e/test_c.py", {README: _HEAD + _ROWS + _MORE + "| x | `e2e/test_c.py: test_one` |\n"}),
    ("no four in tests/unit/test_b.c", {README: _HEAD + _ROWS + _MORE + "| x | `unit/test_b.c: four` |\n"}),
    ("no five in tests/unit/test_b.c", {README: _HEAD + _ROWS + _MORE + "| x | `unit/test_b.c: five` |\n"}),
    ("more than 60 lines", {README: GOOD[README].replace("\ntext\n", "\ntext\n" * 60)}),
]

if __name__ == "__main__":
    sys.exit(common.main(check, GOOD, BAD))
