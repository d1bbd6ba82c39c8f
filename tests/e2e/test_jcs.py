"""Canonical JSON (RFC 8785) against implementations that others wrote: rfc8785 for Python, and JavaScript's own numbers and strings."""

import json
import random
import struct
import subprocess

import rfc8785

DOCUMENTS = 10000
# Sorts by UTF-16, escapes as ECMAScript does, and leaves numbers to it: what RFC 8785 is defined by.
SCRIPT = """
const canon = v => v === null || typeof v !== "object" ? JSON.stringify(v)
  : Array.isArray(v) ? "[" + v.map(canon).join(",") + "]"
  : "{" + Object.keys(v).sort().map(k => JSON.stringify(k) + ":" + canon(v[k])).join(",") + "}";
console.log(require("fs").readFileSync(0, "utf8").trimEnd().split("\\n").map(line => canon(JSON.parse(line))).join("\\n"));
"""
CHARACTERS = (
    [chr(c) for c in range(0x80)] + list("äöüß€ﬀ𝄞😀\u0085\u2028\u2029\ufeff\uffff\ud7ff\ue000") + ["\U0010ffff", "\U00010000"]
)


def text(rng):
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.choice((0, 1, 1, 3, 8, 40))))


def number(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randrange(-100, 100)
    if kind == 1:
        return rng.randrange(-(2**53) + 1, 2**53)
    if kind == 2:
        return rng.random() * 10 ** rng.randrange(-30, 30)
    if kind == 3:
        return round(rng.random() * 1000, 2)
    if kind == 4:
        return rng.choice((0.0, -0.0, 5e-324, 1.7976931348623157e308, 1e21, 1e-7, 9007199254740992.0, 0.1, 1e20, 123e-9))
    while True:  # any bits that are a number
        value = struct.unpack("<d", rng.randbytes(8))[0]
        if value - value == 0:
            return value


def value(rng, depth=0):
    kind = rng.randrange(4 if depth > 4 else 7)
    if kind == 0:
        return rng.choice((True, False, None))
    if kind in (1, 2):
        return number(rng)
    if kind == 3:
        return text(rng)
    if kind == 4:
        return [value(rng, depth + 1) for _ in range(rng.randrange(6))]
    return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(8))}


def spelled(document, rng):
    """The same document in some spelling: escapes, white space, order."""
    if isinstance(document, dict):
        items = list(document.items())
        rng.shuffle(items)
        document = dict(items)
    separators = rng.choice(((",", ":"), (", ", ": "), ("\t,  ", "\r:")))
    return json.dumps(document, ensure_ascii=rng.random() < 0.5, separators=separators)


def lines_of(command, lines):
    done = subprocess.run(command, input="\n".join(lines).encode() + b"\n", capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.split(b"\n")[:-1]


def test_random_documents(programs, cache):
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    documents = [value(rng) for _ in range(DOCUMENTS)]
    lines = [spelled(d, rng).replace("\n", " ") for d in documents]
    ours = lines_of([programs.build / "tests" / "jcs_lines"], lines)
    theirs = lines_of([cache / "bin" / "node", "-e", SCRIPT], lines)
    assert len(ours) == len(theirs) == DOCUMENTS
    for line, document, a, b in zip(lines, documents, ours, theirs):
        python = None
        try:
            python = rfc8785.dumps(document)
        except rfc8785.CanonicalizationError:
            pass
        if a == b"-":
            assert python is None or has_large_number(document), (seed, line)
            continue
        assert a == b, (seed, line)
        assert python in (a, None), (seed, line)
    assert sum(a != b"-" for a in ours) > DOCUMENTS * 0.9


def has_large_number(document):
    """An integer beyond 2^53 - 1, whatever its spelling: two parsers may disagree about it."""
    if isinstance(document, dict):
        return any(has_large_number(v) for v in document.values())
    if isinstance(document, list):
        return any(has_large_number(v) for v in document)
    return not isinstance(document, bool) and isinstance(document, (int, float)) and abs(document) >= 2**53 - 1 and document == int(document)
