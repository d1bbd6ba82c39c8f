"""Started by run.sh --cost: how many instructions a call takes at both ends, and how many of them are there for resumption alone.

There is no build without resumption to compare with, so callgrind counts, source line by source line, what such a build would
not have. Only what programs and libraries execute is counted, not the kernel, which resumption gives nothing more to do but
the bytes of ACK frames.
"""
import argparse
import collections
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import load
import ways

CONNECTIONS = (1, 16)
TOP = pathlib.Path(__file__).resolve().parent.parent.parent
# What is done for acknowledgements; a queue that forgets what it has sent needs none of it.
ACKNOWLEDGING = {
    "proto/conn_tx.c": ("ack_is_due", "send_ack_if_due"),
    "proto/conn_rx.c": ("take_ack",),
    "proto/replay.c": ("replay_ack", "chunk_drop"),
}
# Keeps what was sent, and is the queue of what is not sent yet: a part of it would stay.
KEEPING = "proto/replay.c"


class Counted(ways.Tunnel):
    """Both programs under callgrind, which counts between zero() and dump()."""

    name = "counted"

    def program(self, name, *argv, **options):
        if name in ("relay", "gateway"):
            argv = ["valgrind", "-q", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no",
                    f"--callgrind-out-file={self.dir}/{name}.count", *argv]
        return super().program(name, *argv, **options)

    def control(self, what):
        for pid in self.pids():
            ways.run("callgrind_control", what, pid)

    def counts(self):
        """A file for each program: the newest."""
        self.control("-d")
        time.sleep(1)
        return [max(self.dir.glob(f"{name}.count*"), key=lambda p: p.stat().st_mtime) for name in ("relay", "gateway")]


def function_lines(source, names):
    """The lines of those functions of ours."""
    lines, found = (TOP / source).read_text().splitlines(), set()
    for name in names:
        start = next(i for i, line in enumerate(lines) if re.match(rf"\w.*\b{name}\(", line) and not line.endswith(";"))
        end = next(i for i in range(start, len(lines)) if lines[i] == "}")
        found |= set(range(start + 1, end + 2))
    return found


def read_counts(path):
    """(instructions, {(file, line): own}, {(file, line): of what it calls, by the file of the callee})"""
    own, calls, where, callee, total = collections.Counter(), collections.Counter(), None, None, 0
    awaiting = False
    for line in path.read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key in ("fl", "fi", "fe"):
            where = value
        elif key in ("cfi", "cfl"):
            callee = value
        elif key == "calls":
            awaiting = True
        elif line[:1].isdigit():
            at, cost = map(int, line.split()[:2])
            if awaiting:
                calls[where, at, callee or where] += cost
                awaiting, callee = False, None
            else:
                own[where, at] += cost
                total += cost
    return total, own, calls


def share(path):
    """(all instructions, those of acknowledging, those of keeping)"""
    total, own, calls = read_counts(path)
    ranges = {source: function_lines(source, names) for source, names in ACKNOWLEDGING.items()}
    sums = collections.Counter()

    def part(where, at):
        source = next((s for s in ranges if where and where.endswith(s)), None)
        if source and at in ranges[source]:
            return "acknowledging"
        return "keeping" if source == KEEPING else None

    def ours(name):
        return name and any(name.endswith(s) for s in ranges)

    for (where, at), cost in own.items():
        sums[part(where, at)] += cost
    for (where, at, callee), cost in calls.items():
        # What is ours is counted where it is.
        if not ours(callee):
            sums[part(where, at)] += cost if part(where, at) else 0
    return total, sums["acknowledging"], sums["keeping"]


def measure(way, connections, seconds):
    way.control("-z")
    got = load.wrk(way, connections, seconds)
    calls = round(got["calls"])
    if got["failed"] or not calls:
        raise ways.Failed(f"{got['failed']} of {calls} calls failed")
    sums = [share(path) for path in way.counts()]
    return [sum(column) / calls for column in zip(*sums)]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build-dir", required=True)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--seconds", type=int)
    opt = p.parse_args()
    seconds = opt.seconds or (3 if opt.quick else 20)
    ways.READY_WITHIN_S = 60
    ways.Tunnel.build = opt.build_dir
    rows = {}
    with tempfile.TemporaryDirectory(prefix="mcp-tunnel-bench-") as scratch:
        binary = pathlib.Path(opt.build_dir) / "contrib/quickstart/sample-mcp-server"
        server = ways.Program("sample-mcp-server", [binary, "--listen", "127.0.0.1:0"], pathlib.Path(scratch) / "server.log")
        way = None
        try:
            way = Counted(pathlib.Path(scratch) / "counted", server.wait_for(r"listening on (http://\S+)").group(1))
            way.start()
            load.wrk(way, 16, 2)
            for connections in CONNECTIONS:
                print(f"bench: cost, {connections} connections", file=sys.stderr, flush=True)
                rows[connections] = measure(way, connections, seconds)
        except (ways.Failed, RuntimeError, subprocess.SubprocessError) as e:
            print(f"bench: {e}", file=sys.stderr)
            return 1
        finally:
            if way:
                way.stop()
            server.stop()
    table(rows)
    return 0


def table(rows):
    lines = [
        ("instructions per call, both ends", lambda t, a, k: f"{t:,.0f}"),
        ("to acknowledge", lambda t, a, k: f"{a:,.0f}"),
        ("the same, % of all the rest", lambda t, a, k: f"{100 * a / (t - a):.2f}"),
        ("to keep frames, and to queue them", lambda t, a, k: f"{k:,.0f}"),
        ("both, % of all the rest", lambda t, a, k: f"{100 * (a + k) / (t - a - k):.2f}"),
    ]
    width = max(len(label) for label, _ in lines)
    print("".join([" " * width, *[f"{c} connection{'s' * (c > 1)}".rjust(16) for c in rows]]))
    for label, text in lines:
        print("".join([label.ljust(width), *[text(*row).rjust(16) for row in rows.values()]]))


if __name__ == "__main__":
    sys.exit(main())
