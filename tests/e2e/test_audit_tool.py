"""mcp-tunnel-audit verify: what it finds in logs that somebody has been at. The logs are made by lib/audit_log.py."""

import copy
import json
import re
import resource
import subprocess

import pytest

from lib.audit_log import Chain, Clock, ZEROS, both, file_lines, journal_lines, seal, state_file, whole
from lib.procs import SCALE


class Tool:
    def __init__(self, program, directory):
        self.program, self.directory, self.count = program, directory, 0

    def write(self, log, form=file_lines):
        self.count += 1
        path = self.directory / f"log-{self.count}"
        path.write_text(log if isinstance(log, str) else form(log))
        return path

    def run(self, *args, stdin=None):
        done = subprocess.run(
            [self.program, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=60 * SCALE
        )
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def verify(self, *args, stdin=None):
        """(exit status, [(kind, seq, seq_to)] of what is no note, the whole answer as objects)"""
        args = [a if isinstance(a, str) else self.write(a) if isinstance(a, list) else a for a in args]
        status, out, err = self.run("verify", "--json", *args, stdin=stdin)
        said = [json.loads(line) for line in out.splitlines()]
        assert said and said[-1]["exit"] == status, (out, err)
        return (
            status,
            [(s["finding"], s.get("seq"), s.get("seq_to")) for s in said[:-1] if s["weight"] != "note"],
            said,
        )


@pytest.fixture(scope="module")
def tool(programs, tmp_path_factory):
    return Tool(programs.audit, tmp_path_factory.mktemp("audit"))


def kinds(said, weight="note"):
    return [s["finding"] for s in said[:-1] if s["weight"] == weight]


@pytest.mark.parametrize(
    "form", [file_lines, journal_lines, lambda log: journal_lines(log, ("MESSAGE", "MCP_TOOL", "MCP_CALL_ID"))]
)
def test_whole(tool, form):
    log = whole(calls=20)
    for record in log:
        if "MCP_TOOL" in record:
            record["MCP_TOOL"] = 'w\u00e4rme "\\ \U0001f600'
    relink(log)
    status, found, said = tool.verify(tool.write(log, form))
    assert (status, found) == (0, []), said
    assert (said[-1]["gateway"]["records"], said[-1]["gateway"]["calls"], said[-1]["gateway"]["chains"]) == (43, 20, 1)


def relink(log, start=0):
    """Everything from a record on is computed anew, as somebody would who has the file and knows how."""
    for n in range(start, len(log)):
        if n:
            log[n]["MCP_CHAIN_PREV"] = log[n - 1]["MCP_CHAIN"]
        seal(log[n])


def test_a_field_that_is_there_twice(tool):
    """journalctl makes an array of it; it is covered by the chain, sorted by value."""
    log = whole()
    lines = journal_lines(log).splitlines()
    out = json.loads(lines[4])
    out["MCP_TOOL"] = [out["MCP_TOOL"], [120, 121]]
    lines[4] = json.dumps(out)
    assert tool.verify(tool.write("\n".join(lines)))[:2] == (1, [("edited", 4, 4)])


@pytest.mark.parametrize("at", range(1, 22))
def test_deleted(tool, at):
    log = whole()
    del log[at]
    status, found, _ = tool.verify(log)
    assert status == 1 and found[0] == ("deleted", at, at), found
    assert {kind for kind, _, _ in found} <= {"deleted", "unpaired", "unlinked"}, found


def test_several_deleted(tool):
    log = whole()
    del log[15]
    del log[3:7]
    status, found, said = tool.verify(log)
    assert status == 1 and found[:2] == [("deleted", 3, 6), ("deleted", 15, 15)]
    assert [s["line"] for s in said if s.get("finding") == "deleted"] == [4, 12]


@pytest.mark.parametrize("at", range(0, 22))
def test_swapped(tool, at):
    log = whole()
    log[at], log[at + 1] = log[at + 1], log[at]
    assert tool.verify(log)[:2] == (1, [("swapped", at, at)])


def test_moved_far(tool):
    log = whole()
    log.append(log.pop(4))
    assert tool.verify(log)[:2] == (1, [("swapped", 4, 4)])
    log = whole()
    log[5:5] = [log.pop()]
    assert tool.verify(log)[:2] == (1, [("swapped", 5, 21)])


FIELDS = sorted(set(whole()[3]) | set(whole()[4]) | set(whole()[1])) + ["MCP_NEW"]


@pytest.mark.parametrize("field", FIELDS)
def test_edited(tool, field):
    """Each field, changed, removed and added: that record is named, and no other."""
    at = next(n for n, r in enumerate(whole()) if n > 2 and field in r) if field in FIELDS[:-1] and field in {
        f for r in whole()[3:] for f in r
    } else 1
    covered = field.startswith("MCP_") or field in ("MESSAGE", "MESSAGE_ID", "PRIORITY")
    changed, removed = whole(), whole()
    old = changed[at].get(field, "")
    if field in ("MCP_CHAIN", "MCP_CHAIN_PREV", "MCP_CHAIN_ID"):
        changed[at][field] = ("0" if old[0] != "0" else "1") + old[1:]
    else:
        changed[at][field] = str(int(old) + 1) if old.isdigit() else old + "x"
    removed[at].pop(field, None)
    for log in (changed, removed) if field != "MCP_NEW" else (changed,):
        status, found, said = tool.verify(log)
        if not covered:
            assert (status, found) == (0, []), said
            continue
        assert status == 1, said
        assert [s["line"] for s in said if s.get("finding") in ("edited", "forged")] == [at + 1], said
        others = [f for f in found if f[0] not in ("edited", "forged")]
        allowed = {"unpaired"} if field in ("MCP_EVENT", "MCP_CALL_ID", "MCP_GAP_CAUSE", "MCP_SIDE") else set()
        if log is removed and field in ("MCP_SEQ", "MCP_CHAIN", "MCP_CHAIN_ID", "MCP_CHAIN_PREV"):
            allowed |= {"deleted", "unpaired", "unlinked"}
        if field.startswith("MCP_GAP") or at == 1:
            allowed |= {"unlinked"}
        assert {kind for kind, _, _ in others} <= allowed, said


def test_edited_word_at_the_end_of_message(tool):
    """The chain cannot cover its own hash in MESSAGE, so the two must be the same."""
    log = whole()
    log[7]["MESSAGE"] = log[7]["MESSAGE"][:-64] + "0" * 64
    assert tool.verify(log)[:2] == (1, [("edited", 7, 7)])
    log = whole()
    log[7]["MESSAGE"] = log[7]["MESSAGE"].rsplit(" chain=", 1)[0]
    assert tool.verify(log)[:2] == (1, [("edited", 7, 7)])


def test_edited_with_a_new_hash(tool):
    log = whole()
    log[8]["MCP_TOOL"] = "harmless"
    seal(log[8])
    assert tool.verify(log)[:2] == (1, [("forged", 8, 8)])


def test_doubled(tool):
    log = whole()
    log.insert(9, log[8])
    log.append(log[2])
    assert tool.verify(log)[:2] == (1, [("doubled", 8, 8), ("doubled", 2, 2)])


@pytest.mark.parametrize("first", [True, False])
def test_put_in(tool, first):
    """A record with a good hash between two others; the one that the chain does not go on from is named."""
    log = whole()
    false = seal({**log[8], "MCP_TOOL": "forged"})
    log.insert(8 if first else 9, false)
    status, found, said = tool.verify(log)
    assert (status, found) == (1, [("forged", 8, 8)])
    assert [s["line"] for s in said if s.get("finding") == "forged"] == [9 if first else 10]


def test_put_in_too_late(tool):
    """In the place of one that is gone, and not chained to the ones around."""
    log = whole()
    false = seal({**log[8], "MCP_TOOL": "forged", "MCP_CHAIN_PREV": ZEROS})
    log[8:10] = []
    log.insert(9, false)
    status, found, _ = tool.verify(log)
    assert status == 1 and found[:3] == [("forged", 8, 8), ("swapped", 8, 8), ("deleted", 9, 9)], found
    log = whole()
    false = seal({**log[8], "MCP_TOOL": "forged"})
    del log[8]
    log.insert(9, false)
    assert tool.verify(log)[:2] == (1, [("forged", 8, 8), ("swapped", 8, 8)])


def test_put_in_with_no_place(tool):
    log = whole()
    for name in ("MCP_CHAIN", "MCP_SEQ"):
        log.insert(5, {n: v for n, v in log[5].items() if n != name})
    assert [f[0] for f in tool.verify(log)[1]] == ["forged", "forged"]
    log = whole()
    log.append(seal({**log[-1], "MCP_SEQ": "23", "MCP_EVENT": "call.denied", "MCP_CHAIN_PREV": log[-1]["MCP_CHAIN"]}))
    assert tool.verify(log)[:2] == (1, [("forged", 23, 23)])


@pytest.mark.parametrize("at", range(1, 22))
def test_beginning_cut_off_is_truncated(tool, at):
    status, found, said = tool.verify(whole()[at:])
    assert (status, found) == (0, []), said
    assert "truncated" in kinds(said)


@pytest.mark.parametrize("at", range(3, 22))
def test_end_cut_off(tool, at):
    """One log alone cannot tell it from a process that runs, and says so; the heads at the relay tell."""
    gateway, relay, _, _ = both()
    status, found, said = tool.verify(gateway[:at])
    assert (status, found) == (0, []) and "open" in kinds(said)
    status, found, said = tool.verify(gateway[:at], "--relay", tool.write(relay))
    if at < 21:
        assert status == 1 and ("deleted", at, 20) in found, said
    else:
        # Behind the last head there was only the last response, which the relay has never heard of.
        assert status == 0, said


def test_both_sides(tool):
    gateway, relay, _, _ = both(calls=30)
    mixed = sorted(gateway + relay, key=lambda r: r["MCP_TIME"])
    for args in (
        (gateway, "--relay", tool.write(relay)),
        (gateway, relay),
        (relay, gateway),
        (mixed,),
        (gateway + relay,),
        (relay + gateway,),
    ):
        status, found, said = tool.verify(*args)
        assert (status, found) == (0, []), said
        assert said[-1]["heads"] == {"agree": 30, "differ": 0} and said[-1]["both"]["same"] == 30, said[-1]
    status, found, said = tool.verify("-", "--relay", tool.write(relay), stdin=file_lines(gateway))
    assert (status, found, said[-1]["both"]["same"]) == (0, [], 30)


def test_rewritten_chain(tool):
    """Every hash anew from a record on: whole by itself, and the relay has other hashes."""
    gateway, relay, _, _ = both()
    gateway[10]["MCP_TOOL"] = "harmless"
    relink(gateway, 10)
    assert tool.verify(gateway)[:2] == (0, [])
    status, found, said = tool.verify(gateway, "--relay", tool.write(relay))
    assert (status, found) == (1, [("forged", 10, 10)]), said
    assert said[-1]["heads"]["differ"] == 6 and "seq 8" in next(s["text"] for s in said if s.get("finding") == "forged")


def test_state(tool):
    """The head in the state directory shows an end that was cut off, and a chain that was written anew."""
    for side in ("gateway", "relay"):
        log = []
        chain = Chain(log, Clock(), side=side)
        chain.calls(5)
        state = tool.directory / "audit"
        state.write_bytes(state_file(chain.head))
        assert tool.verify(log, "--state", state)[:2] == (0, [])
        chain.calls(1)
        assert tool.verify(log, "--state", state)[:2] == (0, []), "the log is newer"
        assert tool.verify(log[:9], "--state", state)[:2] == (1, [("deleted", 9, 11)])
        log[8]["MCP_TOOL"] = "harmless"
        relink(log, 8)
        assert tool.verify(log, "--state", state)[:2] == (1, [("forged", 11, 11)])
    state.write_bytes(b"what")
    assert tool.verify(log, "--state", state)[:2] == (2, [("unreadable", None, None)])
    assert tool.verify(log, "--state", tool.directory / "none")[0] == 2
    state.write_bytes(state_file({"chain": "0" * 32, "seq": 5, "hash": "1" * 64}, 2**63))
    assert tool.verify(whole(), "--state", state)[:2] == (1, [("deleted", 0, 5)]), "a process that the log lacks"


def test_other_arguments(tool):
    """The gateway's log is whole and the heads are its own, but it says that other arguments were sent."""
    clock, gateway_log, relay_log = Clock(), [], []
    gateway, relay = Chain(gateway_log, clock), Chain(relay_log, clock, side="relay")
    call = relay.request(arguments="1")
    gateway.request(call, "2")
    head = gateway.head
    gateway.response(call)
    relay.response(call, peer=head)
    status, found, said = tool.verify(gateway_log, "--relay", tool.write(relay_log))
    assert status == 1 and [f[0] for f in found] == ["unmatched"] and call in said[-2]["text"] + said[-3]["text"], said


def test_call_that_one_log_lacks(tool):
    gateway, relay, gateway_chain, relay_chain = both(stop=False)
    call = relay_chain.request()
    relay_chain.response(call, reason="session-lost", status="session_lost")
    assert tool.verify(gateway, "--relay", tool.write(relay))[0] == 0, "no gateway ever had it"
    lost = relay_chain.request()
    relay_chain.response(lost)
    status, found, said = tool.verify(gateway, "--relay", tool.write(relay))
    assert (status, [f[0] for f in found]) == (1, ["unmatched"]), said
    gateway, relay, gateway_chain, relay_chain = both(stop=False)
    gateway_chain.calls(1)
    for _ in range(5):
        relay_chain.put("audit.checkpoint")
    status, found, said = tool.verify(gateway, "--relay", tool.write(relay))
    assert (status, [f[0] for f in found]) == (1, ["unmatched"]), said


def test_relay_alone_and_nothing_of_the_other(tool):
    gateway, relay, _, _ = both()
    assert tool.verify(relay)[:2] == (0, [])
    assert tool.verify(tool.write(""), "--relay", tool.write(relay))[:2] == (2, [("unmatched", None, None)])


def test_open_call(tool):
    log = []
    chain = Chain(log, Clock())
    call = chain.request()
    status, found, said = tool.verify(log)
    assert (status, found, said[-1]["gateway"]["open"]) == (0, [], 1)
    chain.stop()
    status, found, said = tool.verify(log)
    assert (status, found) == (1, [("unpaired", None, None)]) and any(call in s.get("text", "") for s in said)


def test_two_responses(tool):
    log = []
    chain = Chain(log, Clock())
    call = chain.request()
    chain.response(call)
    chain.response(call)
    chain.stop()
    assert tool.verify(log)[:2] == (1, [("unpaired", None, None)])


def test_messages_of_a_batch_share_an_id(tool):
    log = []
    chain = Chain(log, Clock())
    call = chain.request(arguments="1")
    chain.request(call, "2")
    chain.response(call)
    chain.response(call)
    chain.stop()
    assert tool.verify(log)[:2] == (0, [])


@pytest.mark.parametrize("how", ["each", "count", "none", "too few"])
def test_killed(tool, how):
    clock, log = Clock(), []
    first = Chain(log, clock)
    first.calls(3)
    calls = [first.request() for _ in range(4)]
    second = Chain(log, clock, prev=first.prev)
    if how == "each":
        for call in calls:
            second.gap("killed", 1, call_id=call)
    elif how != "none":
        second.gap("killed", 4 if how == "count" else 3)
    second.calls(2)
    second.stop()
    status, found, said = tool.verify(log)
    wanted = {"each": 0, "count": 0, "none": 4, "too few": 1}[how]
    assert (status, len(found)) == (1 if wanted else 0, wanted), said
    assert all(f[0] == "unpaired" for f in found)


def test_killed_twice(tool):
    """The second process was killed before it could tell; the third one tells."""
    clock, log = Clock(), []
    first = Chain(log, clock)
    calls = [first.request() for _ in range(70)]
    second = Chain(log, clock, prev=first.prev)
    assert tool.verify(log)[:2] == (0, []), "the log ends before it could be told"
    third = Chain(log, clock, prev=second.prev)
    third.gap("killed", len(calls))
    third.stop()
    assert tool.verify(log)[:2] == (0, [])


def test_end_that_the_next_start_misses(tool):
    """A file lost its end in a power cut: the next process goes on from what is there, and says what is not."""
    clock = Clock()
    gateway_log, relay_log, first, relay = both(clock=clock, stop=False)
    since, lost = gateway_log[-4]["MCP_TIME"], 4
    del gateway_log[-lost:]
    second = Chain(gateway_log, clock, prev=gateway_log[-1]["MCP_CHAIN"])
    at = len(gateway_log)
    second.put("audit.gap", "2", gap_from=since, gap_to=clock.tick(), gap_count=lost, gap_cause="read-back-missing")
    second.stop()
    relay.stop()
    assert tool.verify(gateway_log)[0] == 2
    status, found, said = tool.verify(gateway_log, "--relay", tool.write(relay_log))
    assert status == 2 and {f[0] for f in found} == {"gap", "deleted", "unmatched"}, said
    del gateway_log[at - 2]
    assert tool.verify(gateway_log, "--relay", tool.write(relay_log))[0] == 1


def test_batch_that_was_refused(tool):
    """The gateway could not write all of a batch down, so it called none of them."""
    clock, gateway_log, relay_log = Clock(), [], []
    gateway, relay = Chain(gateway_log, clock), Chain(relay_log, clock, side="relay")
    call = relay.request(arguments="1")
    relay.request(call, "2")
    gateway.request(call, "1")
    gateway.response(call, reason="audit-unavailable", status="http_error")
    for _ in range(2):
        relay.response(call, reason="audit-unavailable", status="http_error")
    gateway.stop()
    assert tool.verify(gateway_log, "--relay", tool.write(relay_log))[:2] == (0, [])


def test_starts_are_linked(tool):
    clock, log = Clock(), []
    prev = ZEROS
    for _ in range(4):
        chain = Chain(log, clock, prev=prev)
        chain.calls(2)
        chain.stop()
        prev = chain.prev
    status, found, said = tool.verify(log)
    assert (status, found, said[-1]["gateway"]["chains"]) == (0, [], 4)
    starts = [n for n, r in enumerate(log) if r["MCP_EVENT"] == "gateway.start"]
    # One process gone altogether; the end of one; the beginning of one.
    assert tool.verify(log[: starts[1]] + log[starts[2] :])[:2] == (1, [("deleted", 7, 7)])
    assert tool.verify(log[: starts[1] - 1] + log[starts[1] :])[:2] == (1, [("deleted", 6, 6)])
    assert tool.verify(log[: starts[1]] + log[starts[1] + 2 :])[:2] == (1, [("deleted", 0, 1)])
    # Vacuumed: the first ones are gone, which is no fault.
    status, found, said = tool.verify(log[starts[1] :])
    assert (status, found) == (0, []) and "truncated" in kinds(said)


def test_records_behind_the_end_of_a_process(tool):
    """A killed process, and calls that it never had put behind it before the next start."""
    clock, log = Clock(), []
    first = Chain(log, clock)
    first.calls(3)
    head = first.prev
    first.calls(1)
    second = Chain(log, clock, prev=head)
    second.calls(1)
    assert tool.verify(log)[:2] == (1, [("forged", 8, 9)])


def test_start_that_says_nothing_of_the_one_before(tool):
    clock, log = Clock(), []
    Chain(log, clock).stop()
    second = Chain(log, clock)
    second.stop()
    assert tool.verify(log)[:2] == (2, [("unlinked", 0, 0)])
    del log[-2]
    log[-1]["MCP_SEQ"] = "1"
    relink(log, len(log) - 1)
    assert tool.verify(log)[:2] == (1, [("unlinked", 0, 0)])


@pytest.mark.parametrize(
    "cause, count, status", [("sink-full", 3, 2), ("sink-unreachable", 0, 0), ("queue-full", 1, 2), ("read-back-missing", 2, 0)]
)
def test_gap(tool, cause, count, status):
    log = []
    chain = Chain(log, Clock())
    chain.calls(2)
    chain.gap(cause, count)
    chain.stop()
    got, found, said = tool.verify(log)
    assert got == status and [f[0] for f in found] == (["gap"] if status else []), said
    assert sum(s.get("finding") == "gap" for s in said) == 2, "each is reported, that of the first start too"


def test_lost_endings_are_accounted_for(tool):
    log = []
    chain = Chain(log, Clock())
    chain.request()
    chain.gap("queue-full", 1)
    chain.stop()
    assert tool.verify(log)[:2] == (2, [("gap", 3, 3), ("unpaired", None, None)])


def test_hole_that_the_gateway_saw_itself(tool):
    """journald dropped records, the watchdog said so: missing, and nobody can tell why."""
    log = []
    chain = Chain(log, Clock(step=10))
    chain.calls(3)
    since = log[4]["MCP_TIME"]
    chain.put(
        "audit.gap", "2", gap_from=since, gap_to=log[-1]["MCP_TIME"], gap_count=2, gap_cause="read-back-missing"
    )
    chain.stop()
    del log[5:7]
    status, found, said = tool.verify(log)
    assert (status, found) == (2, [("deleted", 5, 6), ("unpaired", None, None)]), said
    longer = copy.deepcopy(log)
    del longer[4]
    assert tool.verify(longer)[0] == 1, "more than the gap says"
    del log[3]
    assert tool.verify(log)[1][0] == ("deleted", 3, 3), "at another time"
    assert tool.verify(log)[0] == 1


def test_hole_that_was_told_in_parts(tool):
    """Not all of it was due when the read-back first looked: what came later is told by another gap."""
    log = []
    chain = Chain(log, Clock(step=10))
    chain.calls(4)
    since = log[3]["MCP_TIME"]
    for count in (3, 2):
        chain.put(
            "audit.gap", "2", gap_from=since, gap_to=log[-1]["MCP_TIME"], gap_count=count, gap_cause="read-back-missing"
        )
    chain.stop()
    longer = copy.deepcopy(log)
    del log[4:9]
    status, found, said = tool.verify(log)
    assert (status, found[0]) == (2, ("deleted", 4, 8)), said
    del longer[3:9]
    status, found, said = tool.verify(longer)
    assert (status, found[0]) == (1, ("deleted", 3, 8)), said


def test_gap_that_reaches_back_to_the_start(tool):
    """A hole that was told with no record seen before it is this process's, not of the one before."""
    log = []
    chain = Chain(log, Clock(step=10))
    chain.calls(3)
    chain.put(
        "audit.gap",
        "2",
        gap_from="1970-01-01T00:00:00.000000Z",
        gap_to=log[-1]["MCP_TIME"],
        gap_count=2,
        gap_cause="read-back-missing",
    )
    chain.stop()
    del log[3:5]
    status, found, said = tool.verify(log)
    assert (status, found[0]) == (2, ("deleted", 3, 4)), said


def test_torn_lines(tool):
    """What a full disk or a crash leaves in the file is no record, and no fault while the sequence is whole."""
    log = whole()
    lines = file_lines(log).splitlines(keepends=True)
    lines.insert(6, lines[6][:100] + "\n")
    status, found, said = tool.verify(tool.write("".join(lines) + lines[-1][:30]))
    assert (status, found) == (0, []) and kinds(said).count("unreadable") == 2
    lines[9] = lines[9][:200] + "\n"
    status, found, _ = tool.verify(tool.write("".join(lines)))
    assert status == 1 and found[0][0] == "deleted"


def test_unreadable(tool):
    assert tool.run("verify", tool.directory / "none")[0] == 2
    for text in ("", "\n\n", "-- No entries --\n", "{}\n", '{"MESSAGE":"hello"}\n', "[1,2]\n", '{"MCP_EVENT":null}\n'):
        assert tool.run("verify", tool.write(text))[0] == 2, text
    status, found, said = tool.verify(tool.write(file_lines(whole()) + "what is this\n"))
    assert (status, found) == (2, [("unreadable", None, None)]), said
    cut = journal_lines(whole()).splitlines()
    cut[4] = re.sub('"MCP_TOOL": "[^"]*"', '"MCP_TOOL": null', cut[4])
    status, found, said = tool.verify(tool.write("\n".join(cut)))
    assert any("journalctl -a" in s.get("text", "") for s in said)


def test_files_in_any_order(tool):
    """Rotated files sort by their first record, so a pattern of the shell may name them."""
    log = whole(calls=30)
    parts = [tool.write(log[n : n + 20]) for n in range(0, len(log), 20)]
    assert tool.verify(*reversed(parts))[:2] == (0, [])


def test_other_lines_are_left_alone(tool):
    log = journal_lines(whole()).splitlines()
    for n in (3, 7):
        log.insert(n, json.dumps({"MESSAGE": "call ended", "MCP_TUNNEL_ID": "own", "X": {"a": [1, [2]]}, "Y": [[["z"]]]}))
    log.insert(1, json.dumps({"MESSAGE": "x" * 3_000_000}))
    log.insert(1, json.dumps({"MESSAGE": "x" * 300_000}))
    status, found, said = tool.verify(tool.write("\n".join(log)))
    assert (status, found, said[-1]["other_lines"]) == (0, [], 4), said


def test_text_for_people(tool):
    log = whole()
    del log[5]
    path = tool.write(log)
    status, out, err = tool.run("verify", path)
    lines = out.splitlines()
    assert (status, err, lines[-1]) == (1, "", "not whole: 2 faults")
    assert f"{path}:6: deleted: gateway chain {log[0]['MCP_CHAIN_ID']} seq 5: 1 record missing before this line" in lines
    assert tool.run("verify", "--quiet", path) == (1, "", "")
    evil = tool.directory / "a\x1b[31mb\n"
    evil.write_text(file_lines(log))
    assert "\x1b" not in tool.run("verify", evil)[1]


def test_arguments(tool):
    for args in (
        [],
        ["what"],
        ["verify"],
        ["verify", "-", "-"],
        ["verify", "--what", "x"],
        ["verify", "--relay"],
        ["hash"],
        ["hash", "--sha256", "--key-file", "x"],
        ["hash", "--sha256", "/nowhere"],
        ["hash", "--key-file", "/nowhere"],
        ["canary", "x"],
        ["canary", "--gateway", "nonsense"],
        ["canary", "--check", "x", "y"],
        ["canary", "--check", "0123456789abcdef"],
    ):
        status, out, err = tool.run(*args, stdin="")
        assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("mcp-tunnel-audit: "), (args, out, err)
    for args in (["--help"], ["verify", "--help"], ["hash", "--help"], ["canary", "--help"], ["--version"]):
        status, out, err = tool.run(*args)
        assert (status, err) == (0, "") and out, args


def test_many_records(tool):
    """A long log, both sides side by side: memory is for what is open, not for what was read."""
    clock = Clock(step=0.001)
    paths = {side: tool.directory / f"long-{side}" for side in ("gateway", "relay")}
    logs = {side: [] for side in paths}
    files = {side: path.open("w") for side, path in paths.items()}
    gateway, relay = Chain(logs["gateway"], clock), Chain(logs["relay"], clock, side="relay")
    for n in range(12_000):
        arguments = str(n)
        call = relay.request(arguments=arguments)
        gateway.request(call, arguments)
        head = gateway.head
        gateway.response(call)
        relay.response(call, peer=head)
        if n % 1000 == 999:
            for side, file in files.items():
                file.write(file_lines(logs[side]))
                logs[side].clear()
    for file in files.values():
        file.close()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status, found, said = tool.verify(paths["gateway"], "--relay", paths["relay"])
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert (status, found, said[-1]["both"]["same"]) == (0, [], 12_000)
    assert after == before or SCALE > 1 or after < 60_000, f"{after} KB"


def test_hostile_lines(tool):
    """Copies of a good log with bytes changed at random positions: always an answer, never whole."""
    log = whole()
    text = file_lines(log)
    for n in range(0, len(text), 397):
        changed = text[:n] + chr((ord(text[n]) + 1) % 128) + text[n + 1 :]
        status, out, _ = tool.run("verify", "--quiet", "-", stdin=changed)
        # Where the name of a field that no chain covers is changed, nothing has happened.
        assert status in (1, 2) or "syslog_identifier" in text[n - 60 : n + 60], (n, text[n - 20 : n + 20])


def test_copies_are_not_confused(tool):
    """Two tunnels' gateways in one log, side by side."""
    clock, log = Clock(), []
    a, b = Chain(log, clock, tunnel="a"), Chain(log, clock, tunnel="b")
    for _ in range(5):
        a.calls(1)
        b.calls(1)
    a.stop()
    b.stop()
    status, found, said = tool.verify(copy.deepcopy(log))
    assert (status, found, said[-1]["gateway"]["chains"]) == (0, [], 2)
