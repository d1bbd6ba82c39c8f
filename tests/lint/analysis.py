#!/usr/bin/env python3
"""Static analysis of the programs' C: analysis.py clang-tidy|cppcheck ROOT BUILD_DIR, or --self-test.

clang-tidy takes its checks from .clang-tidy, cppcheck its exceptions from cppcheck.txt beside this file; both take files and
flags from the build's compile_commands.json. Prints the findings; exit status 1 if there are any.
"""

import concurrent.futures
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

import common

FOLDERS = common.CODE_FOLDERS + ["contrib"]
CONFIG = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), ".clang-tidy")
SUPPRESSIONS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cppcheck.txt")
JOBS = len(os.sched_getaffinity(0))


def commands(root, build):
    """One entry a file, of the folders whose C is a program's."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        entries = json.load(f)
    found = {}
    for entry in entries:
        path = os.path.realpath(os.path.join(entry["directory"], entry["file"]))
        if os.path.relpath(path, os.path.realpath(root)).split(os.sep)[0] in FOLDERS:
            found.setdefault(path, {**entry, "file": path})
    return found


def run(argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def tidy_one(path, database):
    status, output = run(["clang-tidy", "--quiet", f"--config-file={CONFIG}", "-p", database, path])
    lines = [line for line in output.split("\n") if not line.endswith(" generated.") and "treated as error" not in line]
    return path, "\n".join(lines).strip() if status else ""


def clang_tidy(found, database):
    """The largest first, so that nobody waits for one that began last."""
    paths = sorted(found, key=os.path.getsize, reverse=True)
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        results = pool.map(lambda path: tidy_one(path, database), paths)
        return [output for _, output in results if output]


def cppcheck(found, database):
    argv = ["cppcheck", "--project=" + os.path.join(database, "compile_commands.json"), "--quiet", "--inline-suppr", f"-j{JOBS}"]
    argv += ["--enable=warning,performance,portability", "--suppressions-list=" + SUPPRESSIONS]
    argv += ["--template={file}:{line}: {severity}: {message} [{id}]", "--error-exitcode=1"]
    # It reads no system headers; without the macros of this one it understands no list.
    argv += ["--include=" + path for path in glob.glob("/usr/include/sys/queue.h") + glob.glob("/usr/include/*/sys/queue.h")]
    status, output = run(argv)
    return [output.strip() or "exit status %d" % status] if status else []


TOOLS = {"clang-tidy": clang_tidy, "cppcheck": cppcheck}


def analyse(tool, root, build):
    if not shutil.which(tool):
        return ["%s is not installed" % tool]
    found = commands(root, build)
    if not found:
        return ["no file to look at in %s" % build]
    with tempfile.TemporaryDirectory() as database:
        with open(os.path.join(database, "compile_commands.json"), "w", encoding="utf-8") as f:
            json.dump(list(found.values()), f)
        problems = TOOLS[tool](found, database)
    print("%s looked at %d files" % (tool, len(found)))
    return problems


GOOD = "int f(const int *p);\nint f(const int *p)\n{\n\treturn p ? *p : 0;\n}\n"
BAD = "int f(void);\nint f(void)\n{\n\tint a[2] = { 1, 2 }, *p = 0;\n\n\treturn a[2] + *p;\n}\n"
WANTED = {"clang-tidy": "clang-analyzer-core", "cppcheck": "[arrayIndexOutOfBounds]"}


def self_test():
    for tool, wanted in WANTED.items():
        for text, bad in ((GOOD, False), (BAD, True)):
            with tempfile.TemporaryDirectory() as root:
                os.makedirs(os.path.join(root, "base"))
                path = os.path.join(root, "base", "x.c")
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
                with open(os.path.join(root, "compile_commands.json"), "w", encoding="utf-8") as f:
                    json.dump([{"directory": root, "file": "base/x.c", "command": "cc -c base/x.c"}], f)
                problems = analyse(tool, root, root)
                assert bool(problems) == bad, (tool, problems)
                assert not bad or wanted in problems[0], (tool, problems)


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    problems = analyse(*sys.argv[1:4])
    for p in problems:
        print(p)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
