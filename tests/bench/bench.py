"""Started by run.sh: brings the ways up, measures them turn by turn, prints one table."""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile

import load
import ways

NAMES = ("direct", "ssh", "tunnel", "audited")
CONNECTIONS = (1, 16, 64)
TRANSFERS = 4
STREAMS = 1000

# key, label, format
ROWS = [(f"calls_s_{c}", f"calls/s, {c} connection{'s' * (c > 1)}", "{:,.0f}") for c in CONNECTIONS]
for _c in CONNECTIONS:
    ROWS += [(f"p50_us_{_c}", f"p50 µs, {_c}", "{:,.0f}"), (f"p99_us_{_c}", f"p99 µs, {_c}", "{:,.0f}"),
             (f"cpu_us_{_c}", f"CPU µs per call, both ends, {_c}", "{:.1f}")]
ROWS += [
    ("mb_s", "bulk MB/s (64 MiB answer)", "{:,.0f}"),
    ("cpu_us_mb", "CPU µs per MB, both ends", "{:,.0f}"),
    ("mix_p50_us", f"p50 µs beside {TRANSFERS} bulk answers", "{:,.0f}"),
    ("mix_p99_us", f"p99 µs beside {TRANSFERS} bulk answers", "{:,.0f}"),
    ("mix_mb_s", "MB/s of those together", "{:,.0f}"),
    ("alone_max_us", "longest call, µs, nothing beside", "{:,.0f}"),
    ("args_p50_us", "p50 µs beside 16 MiB of arguments", "{:,.0f}"),
    ("args_p99_us", "p99 µs beside 16 MiB of arguments", "{:,.0f}"),
    ("args_max_us", "longest, µs, beside them", "{:,.0f}"),
    ("args_s", "of those a second", "{:.1f}"),
    ("idle_rss", "RSS kB idle, both ends", "{:,.0f}"),
    ("idle_dirty", "private dirty kB idle", "{:,.0f}"),
    ("full_rss", f"RSS kB, {STREAMS} idle streams", "{:,.0f}"),
    ("full_dirty", f"private dirty kB, {STREAMS} streams", "{:,.0f}"),
    ("stream_rss", "RSS kB per stream", "{:.2f}"),
    ("stream_dirty", "private dirty kB per stream", "{:.2f}"),
    ("gateway_idle_dirty", "private dirty kB idle, gateway alone", "{:,.0f}"),
    ("gateway_stream_dirty", "private dirty kB per stream, gateway alone", "{:.2f}"),
    ("start_ms", "start to ready, ms", "{:.1f}"),
    ("size", "size of both programs, stripped, kB", "{:,.0f}"),
]


class Results:
    """Every single number, by way and row."""

    def __init__(self):
        self.all = {}

    def add(self, way, row, value):
        if value is not None:
            self.all.setdefault(way, {}).setdefault(row, []).append(value)

    def median(self, way, row):
        values = self.all.get(way, {}).get(row)
        return statistics.median(values) if values else None


def say(text):
    print(text, file=sys.stderr, flush=True)


def measure_calls(opt, running, results):
    for way in running:
        load.wrk(way, 16, 1)
    for connections in CONNECTIONS:
        for way in running:
            got = load.wrk(way, connections, opt.seconds)
            if got["failed"]:
                say(f"bench: {got['failed']} failed calls through {way.name} at {connections} connections")
            for key in ("calls_s", "p50_us", "p99_us", "cpu_us"):
                results.add(way.name, f"{key}_{connections}", got[key])


def measure_bulk(opt, running, results, scratch):
    for way in running:
        load.bulk(way, scratch)
    for _ in range(1 if opt.quick else 3):
        for way in running:
            got = load.bulk(way, scratch)
            results.add(way.name, "mb_s", got["mb_s"])
            results.add(way.name, "cpu_us_mb", got["cpu_us_mb"])
    for way in running:
        got = load.mixed(way, TRANSFERS, opt.seconds, scratch)
        for key in ("p50_us", "p99_us", "mb_s"):
            results.add(way.name, f"mix_{key}", got[key])
    for way in running:
        for key, value in load.beside_arguments(way, opt.seconds, scratch).items():
            results.add(way.name, key, value)


def measure_fresh(opt, classes, scratch, upstream, results):
    """What wants a process that has done nothing yet: memory and start-up time."""
    for cls in classes:
        if cls is ways.Direct:
            continue
        for i in range(1 if opt.quick else 5):
            way = cls(pathlib.Path(scratch) / cls.name, upstream)
            try:
                way.start()
                results.add(way.name, "start_ms", way.start_ms)
                ways.small_call(way.url, way.key)
                if i == 0:
                    for key, value in load.idle_streams(way, STREAMS).items():
                        results.add(way.name, key, value)
            finally:
                way.stop()


def measure_all(opt, scratch, results):
    classes = [c for c in (ways.Direct, ways.Ssh, ways.Tunnel, ways.Audited) if c.name in opt.only]
    sizes = {}
    with contextlib.ExitStack() as stack:
        binary = pathlib.Path(opt.build_dir) / "contrib/quickstart/sample-mcp-server"
        log = pathlib.Path(scratch) / "server.log"
        server = ways.Program("sample-mcp-server", [binary, "--listen", "127.0.0.1:0"], log)
        stack.callback(server.stop)
        upstream = server.wait_for(r"listening on (http://\S+)").group(1)
        say("bench: memory and start-up")
        measure_fresh(opt, classes, scratch, upstream, results)
        running = [c(pathlib.Path(scratch) / c.name, upstream) for c in classes]
        for way in running:
            stack.callback(way.stop)
            way.start()
            ways.small_call(way.url, way.key)
            sizes.update(way.sizes())
            if way.sizes():
                results.add(way.name, "size", sum(way.sizes().values()) / 1000)
        for i in range(opt.rounds):
            say(f"bench: round {i + 1} of {opt.rounds}: calls")
            measure_calls(opt, running, results)
            say(f"bench: round {i + 1} of {opt.rounds}: bulk")
            measure_bulk(opt, running, results, scratch)
    return sizes


def ratio(a, b):
    return f"{a / b:.3g}" if a is not None and b else ""


def table(names, results):
    """Lines of the table. A ratio above 1 is better for rates, below 1 for everything else."""
    pairs = [("tunnel", "ssh"), ("audited", "ssh"), ("tunnel", "direct"), ("ssh", "direct")]
    pairs = [(a, b) for a, b in pairs if a in names and b in names]
    head = ["", *names, *[f"{a}/{b}" for a, b in pairs]]
    lines = [head]
    for key, label, form in ROWS:
        values = {n: results.median(n, key) for n in names}
        if any(v is not None for v in values.values()):
            lines.append([label, *["" if values[n] is None else form.format(values[n]) for n in names],
                          *[ratio(values[a], values[b]) for a, b in pairs]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return ["  ".join([line[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(line[1:], widths[1:])]]).rstrip()
            for line in lines]


def context_line(opt):
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr.strip() if "ssh" in opt.only else ""
    cipher = (f", cipher {opt.ssh_cipher}" if opt.ssh_cipher else "") + (", -N" if opt.ssh_plain else "")
    return (f"{os.cpu_count()} CPUs, Linux {platform.release()}, {opt.rounds} rounds of {opt.seconds} s"
            + (f", {ssh}{cipher}" if ssh else ""))


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--build-dir", required=True)
    p.add_argument("--only", default=",".join(NAMES))
    p.add_argument("--quick", action="store_true")
    p.add_argument("--rounds", type=int)
    p.add_argument("--seconds", type=int)
    p.add_argument("--ssh-cipher")
    p.add_argument("--ssh-plain", action="store_true")
    p.add_argument("--audit", default="file")
    p.add_argument("--json")
    opt = p.parse_args()
    opt.only = opt.only.split(",")
    if not set(opt.only) <= set(NAMES):
        p.error("--only takes " + ", ".join(NAMES))
    opt.rounds = opt.rounds or (1 if opt.quick else 3)
    opt.seconds = opt.seconds or (1 if opt.quick else 5)
    return opt


def main():
    opt = parse_args()
    results = Results()
    ways.Ssh.cipher, ways.Ssh.session = opt.ssh_cipher, not opt.ssh_plain
    ways.Tunnel.build, ways.Audited.audit = opt.build_dir, opt.audit
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with tempfile.TemporaryDirectory(prefix="mcp-tunnel-bench-") as scratch:
            sizes = measure_all(opt, scratch, results)
    except (ways.Failed, RuntimeError) as e:
        say(f"bench: {e}")
        return 1
    except KeyboardInterrupt:
        return 130
    print(context_line(opt))
    if sizes:
        print("stripped: " + ", ".join(f"{n} {s / 1000:.0f} kB" for n, s in sizes.items()))
    print("\n".join(table([n for n in NAMES if n in opt.only], results)))
    if opt.json:
        pathlib.Path(opt.json).write_text(json.dumps(results.all, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
