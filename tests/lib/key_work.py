#!/usr/bin/env python3
"""Whether checking a token or a key takes the same work whatever is wrong with it: key_work.py KEY_WORK_PROGRAM

Instructions are counted (valgrind's callgrind), not time: a clock on a busy machine tells nothing. A tunnel that is not there must
cost what a wrong secret does, and no byte of a hash may be told from another.
"""

import re
import shutil
import subprocess
import sys
import tempfile

SLACK = 40  # instructions: of comparing names that differ
SKIPPED = 77


def work(program, function, *args):
    """(instructions of that function, what the program said)"""
    argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=" + function, program, *args]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    counted = re.search(r"Collected : (\d+)", done.stderr)
    assert done.returncode == 0 and counted and int(counted.group(1)) > 0, done.stderr
    return int(counted.group(1)), done.stdout.strip()


def swapped(text, at):
    """The same letters, in another order: decoding them costs the same."""
    other = next(i for i in range(at + 1, len(text) - 1) if text[i] != text[at])
    return text[:at] + text[other] + text[at + 1 : other] + text[at] + text[other + 1 :]


def alike(what, counts):
    assert max(counts.values()) - min(counts.values()) <= SLACK, (what, counts)


def check_equal(program):
    results = {n: work(program, "key_equal", "equal", str(n)) for n in (0, 1, 16, 31, 32)}
    assert {n for n, (_, said) in results.items() if said == "good"} == {32}, results
    assert len({count for count, _ in results.values()}) == 1, results


def check_token(program, state, token):
    """Of two tunnels, looking for bb or aa takes two steps, for cc or zz one: each is compared with its like."""
    secret = token[len("mtt_bb_") :]
    cases = {"first": "mtt_bb_" + swapped(secret, 0), "last": "mtt_bb_" + swapped(secret, 30), "no tunnel": "mtt_aa_" + secret}
    others = {"of another tunnel": "mtt_cc_" + secret, "no tunnel": "mtt_zz_" + secret}
    assert work(program, "key_work", "token", state, token)[1] == "good"
    for group in (cases, others):
        results = {name: work(program, "key_work", "token", state, text) for name, text in group.items()}
        assert {said for _, said in results.values()} == {"bad"}, results
        alike("token", {name: count for name, (count, _) in results.items()})


def check_agent(program, state, key):
    assert work(program, "key_work", "agent", state, "bb", key)[1] == "good"
    wrong = "mtk_" + swapped(key[len("mtk_") :], 0)
    cases = {name: (tunnel, wrong) for name, tunnel in (("wrong", "bb"), ("without agents", "cc"), ("no tunnel", "aa"))}
    results = {name: work(program, "key_work", "agent", state, *case) for name, case in cases.items()}
    assert {said for _, said in results.values()} == {"bad"}, results
    alike("agent", {name: count for name, (count, _) in results.items()})


def main():
    program = sys.argv[1]
    if not shutil.which("valgrind"):
        print("valgrind is not installed")
        return SKIPPED
    with tempfile.TemporaryDirectory() as state:
        made = subprocess.run([program, "make", state], capture_output=True, text=True, check=True)
        token, key = made.stdout.split()
        check_equal(program)
        check_token(program, state, token)
        check_agent(program, state, key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
