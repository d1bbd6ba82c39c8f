"""What is done to each way, and what is read from it. wrk and curl make the load; Python only watches."""
import contextlib
import os
import pathlib
import re
import socket
import subprocess
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
BLOB_BYTES = 64 << 20
MIX_BLOB_BYTES = 1 << 30
ARGUMENTS_BYTES = (16 << 20) - 1024  # the largest request that is taken, but for what is around it
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    """utime + stime of all."""
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def gateway_pids(way):
    return [way.gateway_pid] if way.gateway_pid else []


def memory_kb(pids):
    """(resident, private dirty) of all."""
    rss = dirty = 0
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        rss += int(re.search(r"^Rss:\s+(\d+)", text, re.M).group(1))
        dirty += int(re.search(r"^Private_Dirty:\s+(\d+)", text, re.M).group(1))
    return rss, dirty


def wrk(way, connections, seconds, pause_ms=0):
    """calls/s, p50 and p99 in microseconds, CPU microseconds per call of what is between caller and server.

    pause_ms: how long each connection waits between an answer and the next call.
    """
    before, gateway_before = cpu_seconds(way.pids()), cpu_seconds(gateway_pids(way))
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(HERE / "echo.lua"), way.url],
        env=dict(os.environ, BENCH_KEY=way.key, BENCH_PAUSE_MS=str(pause_ms)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    spent, gateway_spent = cpu_seconds(way.pids()) - before, cpu_seconds(gateway_pids(way)) - gateway_before
    found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.M)
    if not found:
        raise RuntimeError(f"wrk said: {done.stdout} {done.stderr}")
    calls, micros, p50, p99, failed, longest = map(int, found.groups())
    way.between_runs()
    return {"calls": calls, "calls_s": calls / (micros / 1e6), "p50_us": p50, "p99_us": p99, "max_us": longest, "failed": failed,
            "cpu_us": spent * 1e6 / calls if calls and way.pids() else None,
            "gateway_us": gateway_spent * 1e6 / calls if calls and way.gateway_pid else None}


def curl_argv(way, size, scratch):
    """A blob call; the key goes by a file, not by the command line."""
    head = pathlib.Path(scratch) / f"headers-{way.name}"
    lines = ["Content-Type: application/json", "Accept: application/json, text/event-stream", "Expect:"]
    if way.key:
        lines.append(f"Authorization: Bearer {way.key}")
    with open(os.open(head, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as f:
        f.write("\n".join(lines) + "\n")
    body = ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"blob","arguments":{"bytes":%d}}}' % size)
    return ["curl", "-s", "--noproxy", "*", "-o", "/dev/null", "-H", f"@{head}", "-d", body,
            "-w", "%{http_code} %{size_download} %{time_total}", way.url]


def bulk(way, scratch):
    """MB/s of one large answer, and the CPU microseconds per MB of what is between."""
    before = cpu_seconds(way.pids())
    done = subprocess.run(curl_argv(way, BLOB_BYTES, scratch), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    spent = cpu_seconds(way.pids()) - before
    status, size, seconds = done.stdout.split()
    if done.returncode != 0 or status != "200" or int(size) < BLOB_BYTES:
        raise RuntimeError(f"bulk through {way.name}: curl {done.returncode}, HTTP {status}, {size} bytes")
    way.between_runs()
    mb = int(size) / 1e6
    return {"mb_s": mb / float(seconds), "cpu_us_mb": spent * 1e6 / mb if way.pids() else None}


def _pull(way, scratch, until, sizes):
    argv = curl_argv(way, MIX_BLOB_BYTES, scratch)
    while (left := until - time.monotonic()) > 0.05:
        done = subprocess.run(argv[:1] + ["-m", f"{left:.2f}"] + argv[1:], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)
        if done.returncode not in (0, 28):
            raise RuntimeError(f"bulk through {way.name}: curl ended with {done.returncode}")
        sizes.append(int(done.stdout.split()[1]))


def mixed(way, transfers, seconds, scratch):
    """One small call after another while large answers flow: p50, p99, and MB/s of the large ones together."""
    sizes = []
    until = time.monotonic() + seconds + 1
    threads = [threading.Thread(target=_pull, args=(way, scratch, until, sizes)) for _ in range(transfers)]
    for t in threads:
        t.start()
    time.sleep(0.5)
    small = wrk(way, 1, seconds)
    for t in threads:
        t.join()
    return {"p50_us": small["p50_us"], "p99_us": small["p99_us"], "failed": small["failed"],
            "mb_s": sum(sizes) / 1e6 / (seconds + 1)}


def _push(way, scratch, until, count):
    """Calls with large arguments, one after another."""
    argv = curl_argv(way, 1, scratch)
    body = pathlib.Path(scratch) / "arguments.json"
    if not body.exists():
        body.write_text('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"blob","arguments":{"bytes":1,"text":"'
                        + "x" * ARGUMENTS_BYTES + '"}}}')
    argv[argv.index("-d") : argv.index("-d") + 2] = ["--data-binary", f"@{body}"]
    while time.monotonic() < until:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0 or not done.stdout.startswith("200 "):
            raise RuntimeError(f"large arguments through {way.name}: curl {done.returncode}, {done.stdout}")
        count.append(1)


def beside_arguments(way, seconds, scratch):
    """One small call after another, alone and beside calls with 16 MiB of arguments: the same, and how many of those a second."""
    alone, count = wrk(way, 1, seconds), []
    until = time.monotonic() + seconds + 1
    thread = threading.Thread(target=_push, args=(way, scratch, until, count))
    thread.start()
    time.sleep(0.5)
    small = wrk(way, 1, seconds)
    thread.join()
    got = {f"args_{key}": small[key] for key in ("p50_us", "p99_us", "max_us")}
    return {**got, "alone_max_us": alone["max_us"], "args_s": len(count) / (seconds + 1)}


def _open_stream(way, parts):
    s = socket.create_connection((parts.hostname, parts.port), timeout=15)
    auth = f"Authorization: Bearer {way.key}\r\n" if way.key else ""
    s.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n{auth}\r\n".encode())
    return s


def idle_streams(way, count):
    """Memory with nothing open and with count GET streams open, in kB."""
    parts = urllib.parse.urlsplit(way.url)
    time.sleep(0.5)
    alone = gateway_pids(way)
    idle, gateway_idle = memory_kb(way.pids()), memory_kb(alone)[1]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            s = stack.enter_context(_open_stream(way, parts))
            head = s.recv(4096)
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise RuntimeError(f"GET through {way.name}: {head[:100]!r}")
        time.sleep(1)
        full, gateway_full = memory_kb(way.pids()), memory_kb(alone)[1]
    only_gateway = {"gateway_idle_dirty": gateway_idle, "gateway_stream_dirty": (gateway_full - gateway_idle) / count}
    return {**(only_gateway if alone else {}), "idle_rss": idle[0], "idle_dirty": idle[1], "full_rss": full[0], "full_dirty": full[1],
            "stream_rss": (full[0] - idle[0]) / count, "stream_dirty": (full[1] - idle[1]) / count}
