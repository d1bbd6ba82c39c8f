"""Started by run.sh --audit-cost: what the audit log costs, and what a journald that is slow or stands still does to whom."""
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

os.environ.setdefault("E2E_TIME_SCALE", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import bench  # noqa: E402
import load  # noqa: E402
import ways  # noqa: E402
from lib import journald as real  # noqa: E402

# label, connections, pause
LOADS = (("1 connection", 1, 0), ("16 connections", 16, 0), ("64 connections", 64, 0), ("16, about 1,900 calls/s", 16, 8))
ROWS = (("calls_s", "calls/s", "{:,.0f}"), ("gateway_us", "gateway CPU µs per call", "{:.1f}"),
        ("cpu_us", "both ends CPU µs per call", "{:.1f}"), ("journald_us", "journald CPU µs per call", "{:.1f}"),
        ("p50_us", "p50 µs", "{:,.0f}"), ("p99_us", "p99 µs", "{:,.0f}"))
CALLERS, CALL_EVERY_S = 8, 0.02
STREAMS, ANSWERS, STEP_MS = 50, 4, 10
PHASES = ("runs", "halts", "stands still", "runs again")


class Journald(real.Journald):
    """With room for as many records as systemd gives it at boot."""

    def start(self):
        script = 'echo 512 >/proc/sys/net/unix/max_dgram_qlen; exec "$0"'
        self.daemon = subprocess.Popen([*self.prefix, "unshare", "-n", "sh", "-ec", script, real.JOURNALD],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        real.wait_until(lambda: os.path.exists(self.socket_path), 10, "journald's socket")


class Audited(ways.Tunnel):
    """Records at both ends."""

    journald = None

    def __init__(self, sink, directory, upstream):
        super().__init__(directory, upstream)
        self.name = self.audit = self.relay_audit = sink
        if sink != "none":
            self.gateway_options = ("--state-dir", self.dir / "gateway-state")
        if sink == "journald":
            self.prefix = self.journald.prefix


class Other(ways.Way):
    """Another tunnel of the same relay, whose gateway writes to a file."""

    name = "other"

    def __init__(self, way, tls, plain):
        super().__init__(way.dir, way.upstream)
        way._gateway(tls, "other", "other-token", "file", ())
        self.key = (self.dir / "other-key").read_text().strip()
        self.url = f"http://127.0.0.1:{plain}/t/other/mcp"


class Slow(Audited):
    """The gateway's records go to journald, those of the relay and of the other gateway to files."""

    def __init__(self, directory, upstream):
        super().__init__("journald", directory, upstream)
        self.relay_audit = "file"

    def start(self):
        self._prepare()
        self._tunnel("other", self.dir / "other-token", self.dir / "other-key")
        self.key = (self.dir / "agent-key").read_text().strip()
        journald, self.prefix = self.prefix, ()
        plain, tls = self._relay()
        gateway, self.health, _ = self._gateway(tls, prefix=journald)
        self.gateway_pid = gateway.pid
        self.url = f"http://127.0.0.1:{plain}/t/bench/mcp"
        self.gateway_options = ()  # those were its own
        self.other = Other(self, tls, plain)

    def longest_turn_ms(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.health, timeout=5)
        conn.request("GET", "/metrics")
        text = conn.getresponse().read().decode()
        conn.close()
        return float(re.search(r"loop_turn_seconds_max ([0-9.e+-]+)", text).group(1)) * 1000


# ---- What it costs ----


def one_load(way, connections, pause, seconds):
    journald = [Audited.journald.daemon.pid] if way.name == "journald" else []
    before = load.cpu_seconds(journald)
    got = load.wrk(way, connections, seconds, pause)
    if got["failed"]:
        bench.say(f"bench: {got['failed']} failed calls with audit to {way.name}")
    if journald:
        got["journald_us"] = (load.cpu_seconds(journald) - before) * 1e6 / got["calls"]
    return got


def measure_costs(opt, scratch, upstream, results):
    with contextlib.ExitStack() as stack:
        running = [Audited(sink, pathlib.Path(scratch) / sink, upstream) for sink in ("none", "file", "journald")]
        for way in running:
            stack.callback(way.stop)
            way.start()
            load.wrk(way, 16, 1)
        for i in range(opt.rounds):
            bench.say(f"bench: audit, round {i + 1} of {opt.rounds}")
            for label, connections, pause in LOADS:
                for way in running:
                    got = one_load(way, connections, pause, opt.seconds)
                    for key, _, _ in ROWS:
                        results.add(way.name, f"{label}/{key}", got.get(key))


def cost_lines(results):
    lines = [["", "off", "file", "journald", "file - off", "journald - off", "file/off", "journald/off"]]
    for label, _, _ in LOADS:
        for key, what, form in ROWS:
            off, *others = [results.median(sink, f"{label}/{key}") for sink in ("none", "file", "journald")]
            pairs = [(o, off) if o is not None and off is not None else None for o in others]
            lines.append([f"{what}, {label}", *["" if v is None else form.format(v) for v in (off, *others)],
                          *[form.format(p[0] - p[1]) if p and key != "calls_s" else "" for p in pairs],
                          *[bench.ratio(*p) if p else "" for p in pairs]])
    return lines


# ---- A journald that is slow ----


class Caller(threading.Thread):
    """Small calls until told to end: (when, how long, status)."""

    def __init__(self, way, ended):
        super().__init__(daemon=True)
        self.way, self.ended, self.calls = way, ended, []
        self.start()

    def run(self):
        parts = urllib.parse.urlsplit(self.way.url)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                           "params": {"name": "echo", "arguments": {"text": "hello"}}})
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
                   "Authorization": f"Bearer {self.way.key}"}
        conn = http.client.HTTPConnection(parts.hostname, parts.port, timeout=15)
        while not self.ended.is_set():
            began = time.monotonic()
            conn.request("POST", parts.path, body, headers)
            answer = conn.getresponse()
            answer.read()
            self.calls.append((began, time.monotonic() - began, answer.status))
            time.sleep(CALL_EVERY_S)
        conn.close()


class Answer(threading.Thread):
    """One call whose answer is an event every STEP_MS: when each came."""

    def __init__(self, way, seconds):
        super().__init__(daemon=True)
        self.way, self.steps, self.events, self.whole = way, int(seconds * 1000 / STEP_MS), [], False
        self.start()

    def run(self):
        parts = urllib.parse.urlsplit(self.way.url)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                           "params": {"name": "slow", "arguments": {"steps": self.steps, "delay_ms": STEP_MS},
                                      "_meta": {"progressToken": 1}}})
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
                   "Authorization": f"Bearer {self.way.key}"}
        conn = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        conn.request("POST", parts.path, body, headers)
        answer = conn.getresponse()
        while line := answer.readline():
            if line.startswith(b"data:"):
                self.events.append(time.monotonic())
                self.whole = b'"result"' in line and len(self.events) == self.steps + 1
        conn.close()


@contextlib.contextmanager
def disturbed(journald, phase):
    """halts: 0.2 s of every 0.5 s."""
    over = threading.Event()

    def halt():
        while not over.is_set():
            with journald.paused():
                over.wait(0.2)
            over.wait(0.3)

    if phase == "stands still":
        with journald.paused():
            yield
    elif phase == "halts":
        thread = threading.Thread(target=halt)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    else:
        yield


def percentile(values, percent):
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else float("nan")


def open_streams(way, stack):
    parts = urllib.parse.urlsplit(way.url)
    streams = [stack.enter_context(load._open_stream(way, parts)) for _ in range(STREAMS)]
    for s in streams:
        if b" 200 " not in s.recv(4096).split(b"\r\n")[0]:
            raise RuntimeError("a GET stream was refused")
    return streams


def still_open(streams):
    readable = select.select(streams, [], [], 0)[0]
    return sum(s not in readable or s.recv(4096) != b"" for s in streams)


def watch_phases(opt, way, journald):
    """[(phase, from, to, wrk of the other tunnel, longest turn so far)]"""
    seen = []
    for phase in PHASES:
        bench.say(f"bench: journald {phase}")
        with disturbed(journald, phase):
            began = time.monotonic()
            got = load.wrk(way.other, 4, opt.phase_seconds, 5)
            seen.append((phase, began, time.monotonic(), got, way.longest_turn_ms()))
    return seen


def phase_columns(seen, callers, answers):
    """A column of the table for each phase."""
    for phase, since, until, other, turn in seen:
        calls = [c for caller in callers for c in caller.calls if since <= c[0] < until]
        good, bad = [c[1] for c in calls if c[2] == 200], [c[1] for c in calls if c[2] != 200]
        gaps = [b - a for answer in answers for a, b in zip(answer.events, answer.events[1:]) if since <= a and b < until]
        yield [f"journald {phase}", f"{other['p50_us']:,}", f"{other['p99_us']:,}", f"{other['failed']}",
               f"{percentile(gaps, 50) * 1000:.1f}", f"{percentile(gaps, 99) * 1000:.1f}", f"{max(gaps) * 1000:.1f}",
               f"{len(good):,}", f"{len(bad):,}", f"{percentile(good, 50) * 1000:.1f}", f"{percentile(good, 99) * 1000:.1f}",
               f"{max(c[1] for c in calls) * 1000:,.0f}", f"{turn:.1f}"]


PHASE_LABELS = ["", "p50 µs, calls of another tunnel", "p99 µs, calls of another tunnel", "failed of those",
                f"p50 ms between events of open answers ({STEP_MS} ms apart)", "p99 ms between them", "longest ms between them",
                "calls of this tunnel that were answered", "refused", "p50 ms of the answered", "p99 ms of the answered",
                "longest wait ms of any", "longest turn of the gateway's loop so far, ms"]


def measure_slow(opt, scratch, upstream, journald):
    with contextlib.ExitStack() as stack:
        way = Slow(pathlib.Path(scratch) / "slow", upstream)
        stack.callback(way.stop)
        way.start()
        ways.small_call(way.url, way.key)
        ways.small_call(way.other.url, way.other.key)
        streams = open_streams(way, stack)
        answers = [Answer(way, len(PHASES) * (opt.phase_seconds + 1)) for _ in range(ANSWERS)]
        ended = threading.Event()
        callers = [Caller(way, ended) for _ in range(CALLERS)]
        time.sleep(0.5)
        seen = watch_phases(opt, way, journald)
        ended.set()
        for thread in callers + answers:
            thread.join(60)
        columns = list(phase_columns(seen, callers, answers))
        resumed = seen[-1][1]
        first = min(c[0] + c[1] for caller in callers for c in caller.calls if c[0] >= resumed and c[2] == 200) - resumed
        return [list(row) for row in zip(PHASE_LABELS, *columns)], [
            f"GET streams still open: {still_open(streams)} of {STREAMS}; open answers that were whole: "
            f"{sum(a.whole for a in answers)} of {ANSWERS}; first call answered {first * 1000:.0f} ms after journald went on"]


def show(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join([line[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(line[1:], widths[1:])]]).rstrip())


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--build-dir", required=True)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--rounds", type=int)
    p.add_argument("--seconds", type=int)
    opt = p.parse_args()
    opt.rounds = opt.rounds or (1 if opt.quick else 3)
    opt.seconds = opt.seconds or (1 if opt.quick else 5)
    opt.phase_seconds = max(opt.seconds, 3)
    return opt


def measure_all(opt):
    results = bench.Results()
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mcp-tunnel-bench-"))
        journald = Audited.journald = Journald(pathlib.Path(scratch) / "log")
        stack.callback(journald.stop)
        binary = pathlib.Path(opt.build_dir) / "contrib/quickstart/sample-mcp-server"
        server = ways.Program("sample-mcp-server", [binary, "--listen", "127.0.0.1:0"], pathlib.Path(scratch) / "server.log")
        stack.callback(server.stop)
        upstream = server.wait_for(r"listening on (http://\S+)").group(1)
        measure_costs(opt, scratch, upstream, results)
        phases, notes = measure_slow(opt, scratch, upstream, journald)
    show(cost_lines(results))
    print()
    show(phases)
    print("\n".join(notes))


def main():
    opt = parse_args()
    ways.Tunnel.build = opt.build_dir
    try:
        measure_all(opt)
    except (ways.Failed, RuntimeError, AssertionError) as e:
        bench.say(f"bench: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
