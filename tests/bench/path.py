"""Started by run.sh --path: the tunnel over a path of 100 Mbit and 80 ms, made of two network namespaces and tests/lib/netem.c."""
import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

os.environ.setdefault("E2E_TIME_SCALE", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

from lib import netem  # noqa: E402
from lib.longpath import Path  # noqa: E402

RATE_BITS, DELAY_MS = 100_000_000, 40
BLOB_BYTES = 64 << 20
DOWN_S = (1, 5, 20)


class Pull(threading.Thread):
    """One large answer; when how much of it had come."""

    def __init__(self, path, size):
        super().__init__(daemon=True)
        self.path, self.size, self.marks, self.began = path, size, [], time.monotonic()
        self.start()

    def run(self):
        with self.path.agent() as connection:
            self.path.request(connection, "blob", bytes=self.size)
            got = 0
            for piece in connection.pieces(connection.head()):
                got += len(piece)
                self.marks.append((time.monotonic() - self.began, got))

    def percent(self, skip):
        """Of the link's rate, without the first part of the bytes."""
        seconds, total = self.marks[-1]
        start, before = next((t, n) for t, n in self.marks if n >= total * skip) if skip else (0, 0)
        return (total - before) * 8 / (seconds - start) / RATE_BITS * 100


def trips(seconds):
    return seconds * 1000 / (2 * DELAY_MS)


def large_answer(path, add):
    pull = Pull(path, BLOB_BYTES)
    pull.join()
    add("whole", pull.percent(0))
    add("rest", pull.percent(0.2))


def small_beside(path, add):
    with path.agent() as connection:
        path.echo(connection, "first")
        alone = [path.echo(connection, "alone") for _ in range(10)]
        pull, beside = Pull(path, BLOB_BYTES), []
        while pull.is_alive():
            beside.append(path.echo(connection, "beside"))
        pull.join()
    add("alone", trips(statistics.median(alone)))
    add("beside", trips(statistics.median(beside)))
    add("beside_p90", trips(statistics.quantiles(beside, n=10)[-1]))


def return_of_the_network(path, add, down_s):
    """A call is under way when every packet begins to vanish; its answer is the first after the return."""
    def call():
        with path.agent() as connection:
            path.echo(connection, "waits")
        answered.append(time.monotonic())

    answered = []
    path.net.down()
    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(down_s)
    path.net.up()
    up = time.monotonic()
    thread.join()
    add(f"back_{down_s}", answered[0] - up)


ROWS = [
    ("whole", "64 MiB answer, % of the link", "{:.1f}"),
    ("rest", "its last 80 %, % of the link", "{:.1f}"),
    ("alone", "small call, round trips", "{:.2f}"),
    ("beside", "small call beside 64 MiB, median, round trips", "{:.2f}"),
    ("beside_p90", "the same, 90 %", "{:.2f}"),
    *[(f"back_{s}", f"network silent for {s} s: from its return to the first answer, s", "{:.2f}") for s in DOWN_S],
]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build-dir", required=True)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--rounds", type=int)
    p.add_argument("--queue", default="600k")
    p.add_argument("--congestion")
    opt = p.parse_args()
    if netem.missing():
        print(f"bench: {netem.missing()}", file=sys.stderr)
        return 1
    results = {}
    add = lambda row, value: results.setdefault(row, []).append(value)  # noqa: E731
    options = {"delay": f"{DELAY_MS}ms", "rate": RATE_BITS, "queue": opt.queue, "congestion": opt.congestion}
    with tempfile.TemporaryDirectory(prefix="mcp-tunnel-bench-") as scratch:
        for i in range(opt.rounds or (1 if opt.quick else 3)):
            print(f"bench: path, round {i + 1}", file=sys.stderr, flush=True)
            with Path(opt.build_dir, f"{scratch}/{i}", relay_options=("--hold", "60s"), **options) as path:
                large_answer(path, add)
                small_beside(path, add)
                for down_s in DOWN_S[:1] if opt.quick else DOWN_S:
                    return_of_the_network(path, add, down_s)
    control = opt.congestion or pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    print(f"path: 100 Mbit, {2 * DELAY_MS} ms, queue {opt.queue}, {control}")
    width = max(len(label) for _, label, _ in ROWS)
    for key, label, form in ROWS:
        if key in results:
            print(f"{label.ljust(width)}  {form.format(statistics.median(results[key])).rjust(8)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
