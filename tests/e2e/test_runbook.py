"""The runbook of SECURITY.md, executed as it stands there, with programs that run and a call that somebody makes with a stolen key."""

import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

from lib.calls import CALL, Running
from lib.handmade import HandGateway
from lib.procs import SCALE, wait_until
from lib.rawhttp import JSON_HEADERS
from lib.records import exchange
from lib.tunnel import Endpoint

DOCUMENT = pathlib.Path(__file__).parents[2] / "SECURITY.md"
STEPS = ["Stop", "Revoke", "Review", "Rotate"]
SYSTEMCTL = """#!/bin/sh
echo "$1" >>"$SYSTEMCTL_LOG"
if [ "$1" = stop ]; then kill -TERM "$GATEWAY_PID"; fi
"""


def blocks():
    """{step: its commands}"""
    chapter = DOCUMENT.read_text(encoding="utf-8").partition("\n## After a break-in\n")[2]
    found = dict(re.findall(r"^\*\*(\w+)\*\*,.*?^```sh\n(.*?)^```$", chapter, re.M | re.S))
    assert list(found) == STEPS and chapter.count("```sh\n") == len(STEPS)
    return found


@pytest.fixture
def shell(programs, tmp_path):
    """shell(step, **environment): what the commands of that step print."""
    place, tools = tmp_path / "place", tmp_path / "bin"
    place.mkdir()
    tools.mkdir()
    for path in (programs.relay, programs.audit):
        (tools / path.name).symlink_to(path.resolve())
    (tools / "systemctl").write_text(SYSTEMCTL)
    (tools / "systemctl").chmod(0o755)
    commands = blocks()

    def run(step, **environment):
        env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SYSTEMCTL_LOG": str(tmp_path / "systemctl")}
        argv = ["sh", "-eu", "-c", "umask 077\n" + commands[step]]
        done = subprocess.run(
            argv, cwd=place, env={**env, **environment}, capture_output=True, text=True, timeout=60 * SCALE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.place = place
    return run


def refused(endpoint, status):
    answer = exchange(endpoint, "POST", JSON_HEADERS, CALL)
    return answer.status == status


def test_runbook(relay_pair, shell, certs, raw_control, fresh_key, tmp_path):
    log = tmp_path / "relay.jsonl"
    relay, gateway, endpoint = relay_pair(
        "--hold", "0", "--audit", f"file:{log}", gateway_options=("--drain-timeout", "1s")
    )
    stolen = [exchange(endpoint, "POST", JSON_HEADERS, CALL).status for _ in range(2)]
    assert stolen == [200, 200]
    running = Running(endpoint, fresh_key(), raw_control)
    about = {"STATE": str(relay.state), "TUNNEL": "own", "AGENT": "own-agent", "TOKEN_FILE": str(gateway.token_file)}

    shell("Stop", **about, GATEWAY_PID=str(gateway.process.pid))
    gateway.process.wait(30)
    assert running.finish(release=False).status == 503 and refused(endpoint, 503)

    out = shell("Revoke", **about)
    assert "own-agent" in out and "own" in out
    wait_until(lambda: refused(endpoint, 401), 10, "the key to be ended")
    with HandGateway(relay, certs.ca.cert, gateway.token, "own") as thief:
        assert thief.upgrade() == 401

    (shell.place / "relay.json").write_bytes(log.read_bytes())
    (shell.place / "gateway.json").write_bytes(gateway.audit.read_bytes())
    out = shell("Review", **about)
    rows = [line.split("\t") for line in out.splitlines() if "\ttools/call\t" in line]
    sent = [json.loads(line) for line in gateway.audit.read_text().splitlines()]
    calls = [r for r in sent if r["mcp_event"] == "call.request"]
    assert len(calls) == 3 and [row[1] for row in rows] == [r["mcp_call_id"] for r in calls]
    assert all(row[0] and row[3] == "x" for row in rows) and "auth.failure" in out

    shell("Rotate", **about)
    assert (tmp_path / "systemctl").read_text().split() == ["stop", "start"]
    assert gateway.token_file.stat().st_mode & 0o777 == 0o600 and not (shell.place / "token.new").exists()
    gateway.start()
    key = (shell.place / "agent.key").read_text().split()[-1]
    fresh = Endpoint(relay.url("own"), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert)
    relay.process.send_signal(signal.SIGHUP)
    wait_until(lambda: refused(fresh, 200), 10, "the new key to be good")
    assert refused(endpoint, 401)
