"""Logs of the real programs, checked by mcp-tunnel-audit: whole as they are, and found out when they are not."""

import json
import subprocess
import threading

import pytest

from lib.procs import SCALE, wait_until
from lib.rawhttp import JSON_HEADERS, rpc
from lib.records import exchange


@pytest.fixture
def verify(programs):
    def verify(*args):
        done = subprocess.run(
            [programs.audit, "verify", "--json", *map(str, args)], capture_output=True, text=True, timeout=60 * SCALE
        )
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert said, done.stderr
        return done.returncode, [s for s in said[:-1] if s["weight"] != "note"], said[-1]

    return verify


def call(endpoint, n, *headers):
    body = rpc("tools/call", {"name": "check_stock", "arguments": {"n": n}}, n)
    return exchange(endpoint, "POST", JSON_HEADERS + list(headers), body)


@pytest.fixture
def pair(relay_pair, work, request):
    log = work / f"relay-{request.node.name}.jsonl"
    state = work / f"state-{request.node.name}"
    relay, gateway, endpoint = relay_pair("--audit", f"file:{log}", gateway_options=("--state-dir", state))
    relay.audit, gateway.state = log, state
    return relay, gateway, endpoint


def test_whole(pair, verify):
    relay, gateway, endpoint = pair
    for n in range(20):
        assert call(endpoint, n).status == 200
    # Running: nothing is wrong, and nothing is over.
    wait_until(lambda: verify(relay.audit)[2]["relay"]["open"] == 0, 10, "the relay's endings")
    status, found, sums = verify(gateway.audit, "--relay", relay.audit)
    assert (status, found) == (0, []), sums
    assert sums["both"]["same"] == 20 and sums["heads"]["agree"] >= 20 and sums["heads"]["differ"] == 0
    relay.stop()
    gateway.stop()
    states = ("--state", gateway.state / "audit", "--state", relay.state / "audit/audit")
    status, found, sums = verify(gateway.audit, "--relay", relay.audit, *states)
    assert (status, found, sums["gateway"]["open"], sums["relay"]["open"]) == (0, [], 0, 0)


def test_killed_with_open_calls(pair, verify, raw_control, fresh_key):
    relay, gateway, endpoint = pair
    assert call(endpoint, 1).status == 200
    key = fresh_key()
    threads = [
        threading.Thread(target=lambda n=n: call(endpoint, n, ("X-Case", "wait-then-echo"), ("X-Key", key)), daemon=True)
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(raw_control("seen", key)) == 5, 10, "the calls to reach the server")
    gateway.process.kill()
    status, found, sums = verify(gateway.audit)
    assert (status, found, sums["gateway"]["open"]) == (0, [], 5)
    gateway.start()
    assert call(endpoint, 6).status == 200
    gateway.stop()
    relay.stop()
    status, found, sums = verify(gateway.audit, "--relay", relay.audit)
    assert (status, found, sums["gateway"]["chains"], sums["gateway"]["open"]) == (0, [], 2, 0)
    lines = gateway.audit.read_text().splitlines(keepends=True)
    told = next(n for n, line in enumerate(lines) if '"mcp_gap_cause":"killed"' in line)
    gateway.audit.write_text("".join(lines[:told] + lines[told + 1 :]))
    assert verify(gateway.audit)[0] == 1


def test_damage(pair, verify):
    relay, gateway, endpoint = pair
    for n in range(5):
        assert call(endpoint, n).status == 200
    gateway.stop()
    relay.stop()
    text = gateway.audit.read_text()
    lines = text.splitlines(keepends=True)
    copy = gateway.dir / "copy.jsonl"
    for n in range(1, len(lines) - 1):
        copy.write_text("".join(lines[:n] + lines[n + 1 :]))
        assert verify(copy)[0] == 1, n
        copy.write_text("".join(lines[:n] + [lines[n + 1], lines[n]] + lines[n + 2 :]))
        assert verify(copy)[0] == 1, n
        record = json.loads(lines[n])
        for name in record:
            if name != "syslog_identifier":
                changed = json.dumps({**record, name: record[name][:-1] + ("0" if record[name][-1:] != "0" else "1")})
                copy.write_text("".join(lines[:n] + [changed + "\n"] + lines[n + 1 :]))
                assert verify(copy)[0] == 1, (n, name)
    for n in range(2, len(lines) - 4):
        copy.write_text("".join(lines[:n]))
        assert verify(copy, "--relay", relay.audit)[0] == 1, n
        assert verify(copy, "--state", gateway.state / "audit")[0] == 1, n


def test_canary_arrives(pair, programs):
    _, gateway, _ = pair
    health = f"127.0.0.1:{gateway.health_port}"
    done = subprocess.run([programs.audit, "canary", "--gateway", health], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nonce = done.stdout.splitlines()[0]
    check = [programs.audit, "canary", "--check", nonce, gateway.audit]
    wait_until(lambda: subprocess.run(check, capture_output=True).returncode == 0, 5, "the canary")
    records = [json.loads(line) for line in gateway.audit.read_text().splitlines()]
    assert [r["mcp_event"] for r in records if nonce in r["message"]] == ["audit.checkpoint"]
