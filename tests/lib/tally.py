#!/usr/bin/env python3
"""Counts what a suite did, for tests/run.sh.

tally.py meson|junit|exit SUITE SECONDS STATUS RESULT LOG COUNTS

RESULT is meson's testlog (one JSON object a line; the subtests of a TAP test count one each), a JUnit file, or of no
matter for `exit`, where the exit status is the one test. Prints the output of what failed and one line for the suite,
and adds "PASSED FAILED SKIPPED" to COUNTS. A suite that ran nothing, or ended badly without a failed test, has failed.
"""

import json
import os
import re
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

TAIL_LINES = 100
DETAILED = 20  # failures whose output is shown; the rest are only named
TAP = re.compile(r"^(not )?ok\b([^#]*)(?:#\s*(\w+))?", re.I)
TAP_PLAN = re.compile(r"^1\.\.(\d+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = self.shown = 0

    def fail(self, what, output=""):
        self.failed += 1
        print("FAILED: %s" % what)
        self.shown += 1
        if self.shown > DETAILED:
            return
        lines = COLOUR.sub("", output or "").rstrip().split("\n")
        for line in lines[-TAIL_LINES:]:
            print("    " + line if line else "")

    def ran(self):
        return self.passed + self.failed + self.skipped


def tap_results(stdout):
    """(results, planned): 'ok', 'not ok' or 'skip' of each line."""
    results, planned = [], None
    for line in stdout.split("\n"):
        m, plan = TAP.match(line), TAP_PLAN.match(line)
        if plan:
            planned = int(plan.group(1))
        elif m:
            directive = (m.group(3) or "").lower()
            results.append("skip" if directive == "skip" else "not ok" if m.group(1) else "ok")
    return results, planned


def count_test(counts, test):
    """One line of meson's testlog."""
    name, result, stdout = test["name"], test["result"], test.get("stdout") or ""
    good = result in ("OK", "SKIP", "EXPECTEDFAIL")
    output = stdout + "\n" + (test.get("stderr") or "")
    results, planned = tap_results(stdout)
    if planned is None and not results:
        if not good:
            counts.fail("%s (%s)" % (name, result), output)
        elif result == "SKIP":
            counts.skipped += 1
        else:
            counts.passed += 1
        return
    failures = results.count("not ok")
    counts.passed += results.count("ok")
    counts.skipped += results.count("skip")
    if failures:
        counts.fail("%s (%d of %d)" % (name, failures, len(results)), output)
        counts.failed += failures - 1
    elif not good or planned != len(results):
        counts.fail("%s (%s after %d of %s)" % (name, result, len(results), planned), output)


def count_meson(counts, path):
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            if line.strip():
                count_test(counts, json.loads(line))


def count_junit(counts, path):
    for case in ElementTree.parse(path).iter("testcase"):
        bad = [e for tag in ("failure", "error") for e in case.findall(tag)]
        if bad:
            text = "\n".join((e.get("message") or "") + "\n" + (e.text or "") for e in bad)
            counts.fail("%s.%s" % (case.get("classname"), case.get("name")), text)
        elif case.find("skipped") is not None:
            counts.skipped += 1
        else:
            counts.passed += 1


def read_log(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def tally(kind, suite, seconds, status, result, log):
    counts = Counts()
    why = "exit status %s" % status
    try:
        if kind == "meson":
            count_meson(counts, result)
        elif kind == "junit":
            count_junit(counts, result)
        elif status == "0":
            counts.passed = 1
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as e:
        counts.fail("%s: its results cannot be read: %s" % (suite, e), read_log(log))
    if status != "0" and not counts.failed:
        counts.fail("%s: %s" % (suite, why), read_log(log))
    elif not counts.ran():
        counts.fail("%s: no test ran" % suite, read_log(log))
    print("%-18s %d passed, %d failed, %d skipped in %s s" %
          (suite + ":", counts.passed, counts.failed, counts.skipped, seconds))
    return counts


SAMPLES = [
    ("meson", "0", '{"name": "a", "result": "OK", "stdout": "ok 1 - x\\nok 2 - y # SKIP why\\n1..2\\n"}\n', (1, 0, 1)),
    ("meson", "1", '{"name": "a", "result": "FAIL", "stdout": "ok 1\\nnot ok 2\\nnot ok 3\\n1..3\\n"}\n', (1, 2, 0)),
    ("meson", "1", '{"name": "a", "result": "ERROR", "stdout": "ok 1\\nok 2\\n1..2\\n"}\n', (2, 1, 0)),
    ("meson", "0", '{"name": "a", "result": "OK", "stdout": "1..3\\nok 1\\n"}\n', (1, 1, 0)),
    ("meson", "0", '{"name": "a", "result": "OK"}\n{"name": "b", "result": "SKIP", "stdout": ""}\n', (1, 0, 1)),
    ("meson", "1", '{"name": "a", "result": "TIMEOUT", "stdout": "okay"}\n', (0, 1, 0)),
    ("meson", "1", '{"name": "a", "result": "OK"}\n', (1, 1, 0)),
    ("meson", "0", "", (0, 1, 0)),
    ("meson", "0", "{", (0, 1, 0)),
    ("junit", "1", "<t><testsuite><testcase name='a'/><testcase name='b'><failure message='m'/><error/></testcase>"
                   "<testcase name='c'><skipped/></testcase><testcase name='d'><error/></testcase></testsuite></t>",
     (1, 2, 1)),
    ("junit", "0", "<testsuites/>", (0, 1, 0)),
    ("junit", "2", "<testsuites/>", (0, 1, 0)),
    ("junit", "0", "", (0, 1, 0)),
    ("exit", "0", "", (1, 0, 0)),
    ("exit", "124", "", (0, 1, 0)),
]


def self_test():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "result")
        for kind, status, text, want in SAMPLES:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            c = tally(kind, "sample", "0", status, path, path)
            assert (c.passed, c.failed, c.skipped) == want, (kind, status, text, want)
        assert tally("meson", "sample", "0", "0", os.path.join(d, "none"), path).failed == 1


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    kind, suite, seconds, status, result, log, total = sys.argv[1:]
    counts = tally(kind, suite, seconds, status, result, log)
    with open(total, "a", encoding="utf-8") as f:
        f.write("%d %d %d\n" % (counts.passed, counts.failed, counts.skipped))


if __name__ == "__main__":
    main()
