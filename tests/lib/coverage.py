#!/usr/bin/env python3
"""Line coverage of the programs' folders, for tests/run.sh: coverage.py BUILD_DIR JUNIT_XML

Reads what a tree with -Db_coverage=true has counted, by gcov. Prints a line for each folder, and the functions that nothing
called where a folder has less than it must; JUNIT_XML gets one test for each. --clear BUILD_DIR begins a new count.
"""

import collections
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

LEAST = {"proto": 85.0, "daemon": 85.0, "gateway": 85.0, "relay": 85.0}  # percent of the lines
NAMED = 40  # functions


def files_of(build, suffix):
    for where, _, names in os.walk(build):
        for name in sorted(names):
            if name.endswith(suffix):
                yield os.path.join(where, name)


def reports(notes):
    """What gcov says of these notes and the counts beside them: one document for each."""
    argv = ["gcov", "--json-format", "--stdout", *notes]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]


def count(build, folder):
    """({(file, line): whether it ran}, {(file, function): whether it was called}): inline functions are in several objects."""
    lines, functions = collections.defaultdict(bool), collections.defaultdict(bool)
    notes = list(files_of(os.path.join(build, folder), ".gcno"))
    for report in reports(notes) if notes else []:
        for source in report["files"]:
            name = os.path.normpath(source["file"]).lstrip("./")
            if not name.startswith(folder + "/"):
                continue
            for line in source["lines"]:
                lines[name, line["line_number"]] |= line["count"] > 0
            for function in source["functions"]:
                functions[name, function["name"]] |= function["execution_count"] > 0
    return lines, functions


def judge(build, folder, least):
    """(a line to print, what is wrong or empty)"""
    lines, functions = count(build, folder)
    ran, share = sum(lines.values()), 100.0 * sum(lines.values()) / max(len(lines), 1)
    said = "coverage of %-8s %5.1f %% of %d lines" % (folder + ":", share, len(lines))
    if share >= least:
        return said, ""
    missed = ["%s: %s()" % key for key, called in sorted(functions.items()) if not called]
    return said, "%d of %d lines ran, less than %.0f %%; never called:\n%s" % (ran, len(lines), least, "\n".join(missed[:NAMED]))


def main():
    if sys.argv[1] == "--clear":
        for path in files_of(sys.argv[2], ".gcda"):
            os.unlink(path)
        return
    build, junit = sys.argv[1:3]
    suite = ElementTree.Element("testsuite", name="coverage")
    for folder, least in LEAST.items():
        said, wrong = judge(build, folder, least)
        print(said)
        case = ElementTree.SubElement(suite, "testcase", classname="coverage", name=folder)
        if wrong:
            ElementTree.SubElement(case, "failure", message=said).text = wrong
    ElementTree.ElementTree(suite).write(junit)


if __name__ == "__main__":
    main()
