"""journald stopped, killed, without its socket, with a full disk, restarted, vacuumed, while calls are made: nothing reaches the
MCP server without its record, the tunnel stays up, and afterwards the log says what is missing.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

from lib.audited import Audited, http
from lib.procs import SCALE, Process, run, wait_until
from lib.rawhttp import rpc

TOOL = rpc("tools/call", {"name": "check_stock", "arguments": {"sku": "A-1"}}, 7)
OK = json.dumps({"jsonrpc": "2.0", "id": 7, "result": {"content": []}}).encode()


class Server:
    """Answers at once, and knows when each call arrived."""

    def __init__(self, delay=0):
        self.arrived, self.lock, self.delay = {}, threading.Lock(), delay

    def __call__(self, method, target, headers, body):
        if method == "POST":
            with self.lock:
                self.arrived.setdefault(headers["mcp-tunnel-call"], []).append(datetime.now(timezone.utc))
            time.sleep(self.delay)
        return http(OK)


@pytest.fixture
def audited(programs, certs, tmp_path):
    with contextlib.ExitStack() as stack:

        def start(server, directory=tmp_path, relay_options=("--audit", "none"), gateway_options=(), **more):
            options = ("--state-dir", str(tmp_path / "state"), *gateway_options)
            made = Audited(programs, directory, certs, server, relay_options=relay_options, gateway_options=options, **more)
            stack.callback(made.stop)
            return made

        yield start


@contextlib.contextmanager
def load(it, threads=4):
    """Calls one after the other on that many threads; yields the list of (status, reason)."""
    stop, outcomes = threading.Event(), []

    def work():
        while not stop.is_set():
            answer = it.post(TOOL)
            reason = ""
            if answer is not None and answer.status != 200:
                reason = json.loads(answer.body)["error"]["data"]["reason"]
            outcomes.append((answer.status if answer else 0, reason))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for worker in workers:
            worker.join(60)


def more(outcomes, wanted, n=5, seconds=30):
    """Until so many more calls have come out like that."""
    before = len(outcomes)
    wait_until(lambda: sum(o == wanted for o in outcomes[before:]) >= n, seconds, lambda: f"{wanted} in {outcomes[-20:]}")


GOOD, REFUSED = (200, ""), (503, "audit-unavailable")


def records_by_call(it, event):
    found = {}
    for record in it.records():
        if record.get("MCP_EVENT") == event:
            found.setdefault(record["MCP_CALL_ID"], []).append(record)
    return found


def gaps(it, cause=None):
    all_of_them = [r for r in it.records() if r.get("MCP_EVENT") == "audit.gap"]
    return [g for g in all_of_them if cause in (None, g["MCP_GAP_CAUSE"])]


def unrecorded(it, server):
    """Records that are not there, of calls that arrived."""
    events = [records_by_call(it, "call.request"), records_by_call(it, "call.response")]
    return [call for calls in events for call in server.arrived if call not in calls]


def accounted_for(it, server):
    """Until gaps count at least as many records as are missing: the read-back has looked. How many they count."""
    count = [0]

    def look():
        count[0] = sum(int(g["MCP_GAP_COUNT"]) for g in gaps(it))
        return count[0] >= len(unrecorded(it, server))

    wait_until(look, 60, lambda: f"gaps count {count[0]}, {len(unrecorded(it, server))} records are missing")
    return count[0]


def assert_no_call_without_record(it, server, lost=0):
    """Each arrival has one request record, which is older. lost: how many may be missing, as gaps have said."""
    requests, responses = records_by_call(it, "call.request"), records_by_call(it, "call.response")
    missing = [call for call in server.arrived if call not in requests]
    assert len(missing) <= lost, f"{len(missing)} calls without a record, {lost} known"
    for call, times in server.arrived.items():
        if call in requests:
            assert len(times) == len(requests[call]) == 1
            at = datetime.fromisoformat(requests[call][0]["MCP_TIME"].replace("Z", "+00:00"))
            assert at <= times[0] + timedelta(milliseconds=1), (at, times)
    if not lost:
        assert set(requests) == set(responses)
        assert all(len(r) == 1 for r in responses.values())


def verify(it, programs, tmp_path):
    """What mcp-tunnel-audit says of what is there: (status, text)."""
    log = tmp_path / "exported.json"
    log.write_bytes(it.journald.journalctl("-o", "json", "SYSLOG_IDENTIFIER=mcp-tunnel-gateway"))
    status, out, err = run([programs.path("mcp-tunnel-audit"), "verify", log], timeout=60)
    return status, out + err


def assert_chain(it, programs, tmp_path):
    """mcp-tunnel-audit says that what is there is whole."""
    status, text = verify(it, programs, tmp_path)
    assert status == 0, text


def explained(it, programs, tmp_path):
    """Until each hole in the chain has been told by an audit.gap: the read-back has looked. What mcp-tunnel-audit says."""
    said = [""]

    def look():
        status, said[0] = verify(it, programs, tmp_path)
        return status in (0, 2)

    wait_until(look, 30, lambda: said[0])
    return said[0]


def attached(it):
    return it.gateway.process.count("connected to "), it.gateway.process.count("not connected to ")


def test_journald_stopped(audited, programs, tmp_path):
    """SIGSTOP: calls are refused after a second, the tunnel stays up; SIGCONT: they go on."""
    server = Server()
    it = audited(server)
    with load(it) as outcomes:
        more(outcomes, GOOD)
        it.journald.daemon.send_signal(signal.SIGSTOP)
        more(outcomes, REFUSED)
        status, ready = it.gateway.health()
        assert status == 503 and "audit" in json.dumps(ready)
        time.sleep(1)
        it.journald.daemon.send_signal(signal.SIGCONT)
        more(outcomes, GOOD)
    assert {o for o in outcomes} == {GOOD, REFUSED}
    assert attached(it) == (1, 0)
    it.gateway.wait_ready()
    assert_no_call_without_record(it, server)
    assert_chain(it, programs, tmp_path)


def test_journald_restarted_again_and_again(audited, programs, tmp_path):
    """A restart in order: what the socket held is lost with it here (systemd would keep it), and is told."""
    server = Server()
    it = audited(server)
    with load(it) as outcomes:
        for _ in range(3):
            more(outcomes, GOOD)
            it.journald.kill()
            it.journald.start()
        more(outcomes, GOOD)
    assert attached(it) == (1, 0)
    assert_no_call_without_record(it, server, lost=accounted_for(it, server))
    explained(it, programs, tmp_path)


def test_what_tells_of_a_hole_is_lost_itself(audited, programs, tmp_path):
    """One journald loses records, and the next one the audit.gap that told so: it is told again until it is there."""
    server = Server()
    it = audited(server)

    def lose(meanwhile):
        it.journald.pause()
        meanwhile()
        it.journald.kill()
        it.journald.remove_socket()
        it.journald.start()

    def told():
        it.gateway.process.wait_line("records do not reach the journal")
        # In the turn of the loop after that line the socket has the gap.
        it.gateway.ask("/metrics")

    calls = [it.post(TOOL) for _ in range(3)]
    lose(lambda: calls.extend(it.post(TOOL) for _ in range(4)))
    lose(told)
    it.gateway.wait_ready(60)
    calls.append(it.post(TOOL))
    assert [c.status for c in calls] == [200] * 8
    text = explained(it, programs, tmp_path)
    assert "an audit.gap says that not all of that time was kept" in text, text
    assert_no_call_without_record(it, server, lost=accounted_for(it, server))
    assert it.gateway.process.count("written again") == 1


def test_socket_removed(audited, programs, tmp_path):
    """Nobody is there: refused at once; when it is back, calls go on without a restart."""
    server = Server()
    it = audited(server)
    with load(it) as outcomes:
        more(outcomes, GOOD)
        it.journald.kill()
        os.unlink(it.journald.socket_path)
        more(outcomes, REFUSED)
        it.journald.start()
        more(outcomes, GOOD)
    assert {o for o in outcomes} == {GOOD, REFUSED}
    assert attached(it) == (1, 0)
    assert gaps(it, "sink-unreachable")
    assert_no_call_without_record(it, server, lost=accounted_for(it, server))


def test_continue_by_choice(audited, programs, tmp_path):
    """--audit-on-failure continue: calls go on, and a gap counts each that has no record."""
    server = Server()
    it = audited(server, gateway_options=("--audit-on-failure", "continue"))
    with load(it) as outcomes:
        more(outcomes, GOOD)
        it.journald.kill()
        os.unlink(it.journald.socket_path)
        time.sleep(0.5)
        more(outcomes, GOOD, 20)
        it.journald.start()
        wait_until(lambda: gaps(it, "sink-unreachable"), 30, it.gateway.process.tail)
        more(outcomes, GOOD)
    assert set(outcomes) == {GOOD}
    # A call without its request has no response either: the gap counts it once.
    requests = records_by_call(it, "call.request")
    missing = sum(call not in requests for call in server.arrived)
    assert missing >= 15
    wait_until(lambda: sum(int(g["MCP_GAP_COUNT"]) for g in gaps(it)) >= missing, 60, it.gateway.process.tail)


@pytest.fixture
def small_disk(tmp_path):
    """A directory of 40 MB."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.timeout(180 * SCALE)
def test_disk_full(audited, small_disk):
    """journald takes records and can keep none: the read-back notices, calls are refused; with room again they go on."""
    server = Server()
    it = audited(server, small_disk)
    filler = small_disk / "filler"
    with load(it, 2) as outcomes:
        more(outcomes, GOOD)
        with open(filler, "wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
        more(outcomes, REFUSED, seconds=90)
        filler.unlink()
        more(outcomes, GOOD, seconds=150)
    assert {o for o in outcomes} == {GOOD, REFUSED}
    # Where the disk is full, journald goes on in memory, or not at all.
    assert gaps(it, "volatile-storage") + gaps(it, "read-back-missing"), [g["MCP_GAP_CAUSE"] for g in gaps(it)]
    assert_no_call_without_record(it, server, lost=accounted_for(it, server))


def test_vacuumed(audited, programs, tmp_path):
    """The beginning is gone: that is told as truncated, not as tampered, and disturbs nobody."""
    server = Server()
    it = audited(server)
    with load(it) as outcomes:
        for _ in range(4):
            more(outcomes, GOOD, 40)
            it.journald.run("journalctl", "--rotate")
        it.journald.run("journalctl", "--vacuum-files=2")
        more(outcomes, GOOD, 40)
    assert set(outcomes) == {GOOD}
    log = tmp_path / "exported.json"
    log.write_bytes(it.journald.journalctl("-o", "json", "SYSLOG_IDENTIFIER=mcp-tunnel-gateway"))
    status, out, err = run([programs.path("mcp-tunnel-audit"), "verify", log], timeout=60)
    assert "truncated" in out and status in (0, 2), out + err


def restart(gateway):
    gateway.process.kill()
    gateway.process = Process("gateway", gateway.argv, env=gateway.env)


@pytest.mark.timeout(600 * SCALE)
def test_killed_at_50_moments(audited, programs, tmp_path):
    """SIGKILL at any moment: the next start accounts for every call that was open, and the chain goes on."""
    server = Server(0.05)
    it = audited(server, relay_options=("--audit", "none", "--hold", "30s"))
    with load(it, 6):
        for _ in range(50):
            time.sleep(random.uniform(0, 0.25))
            restart(it.gateway)
            it.gateway.process.wait_line(r"connected to ")
    it.stop_programs()
    requests, responses = records_by_call(it, "call.request"), records_by_call(it, "call.response")
    accounted = {g.get("MCP_CALL_ID") for g in gaps(it, "killed")}
    assert not [call for call in server.arrived if call not in requests]
    assert not [call for call in requests if call not in responses and call not in accounted]
    assert accounted - {None}, "no kill hit an open call"
    assert_chain(it, programs, tmp_path)
