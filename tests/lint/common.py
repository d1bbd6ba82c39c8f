"""What the lint scripts share: walking the tree, reading C without its comments, the command line, the self-test.

A script has check(root), which returns a list of problems, one line each, or raises Skip; and samples for its
self-test: GOOD, files that must pass, and BAD, (what must be said, files that are added to GOOD).
"""

import os
import re
import sys
import tempfile

CODE_FOLDERS = ["base", "proto", "daemon", "gateway", "relay"]
SKIPPED_DIRS = re.compile(r"^(\.(?!ci$).*|build.*|dist|node_modules|__pycache__|venv|corpus|subprojects)$")


class Skip(Exception):
    pass


def walk(root, suffixes, folders=None):
    """Names relative to root, with forward slashes, in a fixed order."""
    found = []
    for folder in folders or ["."]:
        for where, dirs, files in os.walk(os.path.join(root, folder)):
            dirs[:] = sorted(d for d in dirs if not SKIPPED_DIRS.match(d))
            for name in sorted(files):
                path = os.path.join(where, name)
                if name.endswith(tuple(suffixes)) and not os.path.islink(path):
                    found.append(os.path.relpath(path, root).replace(os.sep, "/"))
    return found


def read(root, name):
    with open(os.path.join(root, name), encoding="utf-8", errors="replace") as f:
        return f.read()


_TOKENS = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.S)


def strip_c(text, keep_strings=False):
    """C without comments and, unless they are kept, without what is in quotes; lines keep their numbers."""

    def blank(m):
        token = m.group(0)
        if token[0] in "\"'":
            return token if keep_strings else token[0] * 2
        return "\n" * token.count("\n") or " "

    return _TOKENS.sub(blank, text)


def _write(root, files):
    for name, text in files.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)


def _self_test(check, good, bad):
    with tempfile.TemporaryDirectory() as root:
        _write(root, good)
        problems = check(root)
        assert not problems, "the good sample fails: %s" % problems
    for want, files in bad:
        with tempfile.TemporaryDirectory() as root:
            _write(root, {**good, **files})
            problems = check(root)
            assert any(want in p for p in problems), "not found: %r in %s" % (want, problems)
            assert all(any(name in p for name in files) for p in problems), "wrong file in %s" % problems
    print("%d bad samples found out" % len(bad))


def main(check, good, bad):
    if sys.argv[1:] == ["--self-test"]:
        _self_test(check, good, bad)
        return 0
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(here))
    try:
        problems = check(root)
    except Skip as e:
        print("skipped: %s" % e)
        return 77
    for p in problems:
        print(p)
    return 1 if problems else 0
