"""Very many calls into the journal of a booted system, as the package sets it up: no record is missing, at either end."""

import json
import os
import re
import shutil
import subprocess

import pytest

from lib import scene, shell
from lib.scene import NAME, UNIT

CALLS = int(os.environ.get("MCP_TUNNEL_AUDIT_CALLS", "100000"))
RELAY_UNIT = "mcp-tunnel-relay.service"
BODY = {"jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "some words to send back, as a tool would get them"}}}


def many_calls(relay, key, count, directory, clients=32):
    """What h2load says; it makes exactly that many."""
    if not shutil.which("h2load"):
        pytest.skip("h2load is missing: install nghttp2-client")
    body = directory / "body"
    body.write_text(json.dumps(BODY))
    fields = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
              "Authorization": "Bearer " + key, "MCP-Protocol-Version": "2025-06-18"}
    words = ["h2load", "--h1", "-n", str(count), "-c", str(clients), "-d", str(body)]
    for name, value in fields.items():
        words += ["-H", "%s: %s" % (name, value)]
    words += ["--connect-to=%s:443" % relay.system.address, "https://%s/t/prod/mcp" % NAME]
    return shell.run(relay.system.outside(words), timeout=900).stdout


def export(system, unit, path):
    """The unit's audit records as JSON lines."""
    system.run("journalctl --sync")
    with open(path, "wb") as out:
        subprocess.run(system.command(["journalctl", "-a", "-o", "json", "--no-pager", "-q", "_SYSTEMD_UNIT=" + unit]),
                       stdin=subprocess.DEVNULL, stdout=out, check=True, timeout=900)
    return path


def count(path, *needles):
    found = dict.fromkeys(needles, 0)
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            for needle in needles:
                found[needle] += needle in line
    return [found[needle] for needle in needles]


def test_every_call_of_very_many_is_recorded(gateway, relay, tunnel, build, tmp_path):
    said = many_calls(relay, tunnel[1], CALLS, tmp_path)
    assert re.search(r"%d succeeded, 0 failed, 0 errored" % CALLS, said), said
    assert re.search(r"status codes: %d 2xx, 0 3xx, 0 4xx, 0 5xx" % CALLS, said), said
    # The relay's first: a checkpoint may come between the two.
    theirs, ours = export(relay.system, RELAY_UNIT, tmp_path / "relay"), export(gateway, UNIT, tmp_path / "gateway")
    for path in (ours, theirs):
        request, response = count(path, '"MCP_EVENT":"call.request"', '"MCP_EVENT":"call.response"')
        assert (request, response) == (CALLS, CALLS), path.name
    p = shell.run([os.path.join(build, "gateway/audit/mcp-tunnel-audit"), "verify", str(ours), "--relay", str(theirs)],
                  check=False, timeout=900)
    assert p.returncode == 0, p.stdout[-3000:] + p.stderr
    assert gateway.run("curl -s http://127.0.0.1:9464/readyz -o /dev/null -w '%{http_code}'").stdout == "200"


def test_a_rate_limit_is_noticed(gateway, relay, tunnel, tmp_path):
    """Without the unit's two lines journald drops records silently; the read-back sees it, and calls are refused."""
    gateway.write("/etc/systemd/system/%s.d/limit.conf" % UNIT,
                  "[Service]\nLogRateLimitIntervalSec=30s\nLogRateLimitBurst=100\n")
    gateway.run("systemctl daemon-reload && systemctl restart mcp-tunnel-gateway")
    scene.wait_ready(gateway)
    many_calls(relay, tunnel[1], 3000, tmp_path)
    said = gateway.wait("curl -s http://127.0.0.1:9464/readyz", 40, "read-back-missing")
    assert '"audit"' in said
    result = json.loads(shell.run(relay.agent("prod", tunnel[1])).stdout)
    assert len(result["bad"]) == 1 and re.search(r"audit-unavailable", result["bad"][0]), result
    gateway.run("rm -r /etc/systemd/system/%s.d && systemctl daemon-reload && systemctl restart mcp-tunnel-gateway" % UNIT)
    scene.wait_ready(gateway)
    relay.call("prod", tunnel[1])
    gaps = gateway.journal("MCP_EVENT=audit.gap", unit=UNIT)
    assert any(g["MCP_GAP_CAUSE"] == "read-back-missing" and int(g["MCP_GAP_COUNT"]) > 0 for g in gaps) or gaps, gaps


def test_journal_kept_in_memory_alone_is_noticed(gateway, relay, tunnel):
    gateway.write("/etc/systemd/journald.conf.d/volatile.conf", "[Journal]\nStorage=volatile\n")
    gateway.run("systemctl restart systemd-journald && systemctl restart mcp-tunnel-gateway")
    gateway.wait("curl -s http://127.0.0.1:9464/readyz", 40, "volatile-storage")
    gateway.run("rm /etc/systemd/journald.conf.d/volatile.conf && systemctl restart systemd-journald "
                "&& journalctl --flush && systemctl restart mcp-tunnel-gateway")
    scene.wait_ready(gateway)
    relay.call("prod", tunnel[1])
