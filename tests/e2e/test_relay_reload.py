"""SIGHUP at the relay: its configuration is read again, applied as far as it can be, or refused as a whole."""

import contextlib
import json
import time

import pytest

from lib import fetch
from lib.calls import CALL
from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS, rpc
from lib.records import connect, exchange
from test_limits import HOLD, Stage, until_refused

APP = "https://app.example"


class Reloading(Stage):
    hold = ()

    def __init__(self, programs, work, certs, first):
        self.file = work / "relay-reload.conf"
        self.write(first)
        super().__init__(programs, work, certs, "--config", self.file)

    def write(self, text):
        self.file.write_text("[relay]\n" + text)

    def reload(self, text):
        """What the record of it says: the message, and whether all went well."""
        before = len(self.reloads())
        self.write(text)
        self.relay.reload()
        record = wait_until(lambda: self.reloads()[before:], 10, "the record of the reload")[0]
        return record["message"], {"5": "ok", "3": "rejected"}[str(record["priority"])]

    def reloads(self):
        lines = self.audit.read_text().splitlines()
        return [r for r in map(json.loads, lines) if r["mcp_event"] == "config.reload"]


@pytest.fixture
def stage(programs, work, certs):
    with contextlib.ExitStack() as stack:

        def make(first):
            stage = Reloading(programs, work, certs, first)
            stack.callback(stage.stop)
            stage.gateway()
            return stage

        yield make


def post(endpoint, *headers, body=CALL):
    return exchange(endpoint, "POST", JSON_HEADERS + list(headers), body)


def test_limits_are_applied(stage):
    stage = stage("")
    with connect(stage.a) as stream:
        stream.request("GET", stage.a.pairs() + [HOLD])
        assert stream.head().status == 200
        message, _ = stage.reload("max-streams-per-agent = 1\ntunnel-rate = 1\nmax-request-bytes = 1k\n")
        assert "changed: max-request-bytes, max-streams-per-agent, tunnel-rate" in message and "restart" not in message
        # What was open before counts; what is on the command line has not changed.
        assert post(stage.a).json()["error"]["data"]["reason"] == "agent-streams"
        assert post(stage.b, body=rpc("x", {"blob": "x" * 2000})).status == 413
        assert until_refused(stage.b)[1].json()["error"]["data"]["reason"] == "tunnel-rate"
        message, _ = stage.reload("")
        assert "changed: max-request-bytes, max-streams-per-agent, tunnel-rate" in message
        assert post(stage.a, body=rpc("x", {"blob": "x" * 2000})).status == 200
        with connect(stage.b) as connection:
            for _ in range(50):
                assert connection.call("POST", stage.b.pairs() + JSON_HEADERS, CALL).status == 200


def test_connections_and_times(stage):
    stage = stage("idle-timeout = 1h\n")
    with connect(stage.a) as old:
        assert old.call("POST", stage.a.pairs() + JSON_HEADERS, CALL).status == 200
        stage.reload("max-connections = 2\nidle-timeout = 1s\n")
        # It waits for its next request by what holds since the last one.
        assert old.call("POST", stage.a.pairs() + JSON_HEADERS, CALL).status == 200
        wait_until(lambda: stage.metric("connections_open") == 1, 10, "the idle connection to be closed")
    with connect(stage.a) as stream:
        stream.request("GET", stage.a.pairs() + [HOLD])
        assert stream.head().status == 200
        # There are the gateway's and this one.
        with pytest.raises(OSError):
            connect(stage.a).close()
    stage.reload("")
    assert post(stage.a).status == 200


def test_origins(stage):
    stage = stage(f"allowed-origin = {APP}\n")
    assert post(stage.a, ("Origin", APP)).get("access-control-allow-origin") is None
    stage.reload(f"cors-origin = {APP}\n")
    assert fetch.cors_check(post(stage.a, ("Origin", APP)), APP)
    stage.reload("")
    assert post(stage.a, ("Origin", APP)).status == 403


def test_hold(stage):
    stage = stage("hold = 0\n")
    assert post(stage.c).status == 503
    stage.reload("hold = 5m\n")
    with connect(stage.c) as connection:
        connection.request("POST", stage.c.pairs() + JSON_HEADERS + [("Content-Length", str(len(CALL)))])
        connection.send(CALL[:9])
        wait_until(lambda: stage.metric("calls_held") == 1, 10, "the call to wait")
        # The time that it waits does not become its body's.
        time.sleep(2.2)
        stage.gateway("two")
        time.sleep(1.2)
        connection.send(CALL[9:])
        assert connection.read(connection.head()).status == 200


def test_log_level(stage):
    stage = stage("")
    assert not stage.relay.process.find("debug: ")
    stage.reload("log-level = debug\n")
    assert post(stage.a).status == 200
    stage.relay.process.wait_line("debug: call .* ended")


def test_what_needs_a_restart_is_named(stage):
    """At each reload, until there was one; the rest is applied."""
    stage = stage("")
    text = "tls-min = 1.2\naudit-sync = each\nagent-rate = 100\n"
    for changed in ("changed: agent-rate", "nothing to apply"):
        start = stage.relay.process.mark()
        message, status = stage.reload(text)
        assert changed in message and status == "ok" and "needs a restart: tls-min, audit-sync" in message
        stage.relay.process.wait_line("warning: SIGHUP: these options .* need a restart: tls-min, audit-sync", 5, start)
    message, _ = stage.reload("agent-rate = 100\n")
    assert "restart" not in message


@pytest.mark.parametrize(
    "bad, said",
    [
        ("agent-rate = many\n", 'relay-reload.conf:3: agent-rate: "many" is not'),
        ("no-such-key = 1\n", "relay-reload.conf:3: no-such-key"),
        ("cors-origin = https://app.example/path\n", "is not an origin"),
        ("agent-rate = 0\nagent-rate 1\n", "relay-reload.conf:4"),
    ],
    ids=["value", "key", "origin", "syntax"],
)
def test_bad_configuration_changes_nothing(stage, bad, said):
    stage = stage("tunnel-rate = 1000\n")
    start = stage.relay.process.mark()
    message, status = stage.reload("tunnel-rate = 1\n" + bad)
    assert status == "rejected" and "configuration stays as it was: " in message and "relay-reload.conf:" in message
    stage.relay.process.wait_line("error: SIGHUP: configuration stays as it was: .*" + said.replace("[", r"\["), 5, start)
    with connect(stage.a) as connection:
        for _ in range(50):
            assert connection.call("POST", stage.a.pairs() + JSON_HEADERS, CALL).status == 200
    # And the next one is taken again.
    assert stage.reload("tunnel-rate = 1\n")[1] == "ok"
    assert until_refused(stage.a)[1].status == 429


def test_again_and_again_under_calls(stage):
    """Calls go on while the configuration changes under them."""
    stage = stage("")
    with connect(stage.a) as connection, connect(stage.b) as stream:
        stream.request("GET", stage.b.pairs() + [HOLD])
        assert stream.head().status == 200
        for n in range(20):
            stage.write(f"agent-rate = {10000 + n}\ncors-origin = https://app{n}.example\nhold = {n}s\nidle-timeout = {60 + n}s\n")
            stage.relay.reload()
            for _ in range(3):
                origin = [("Origin", "https://app0.example")] if n == 0 else []
                assert connection.call("POST", stage.a.pairs() + JSON_HEADERS + origin, CALL).status in (200, 403)
        wait_until(lambda: stage.reloads() and "tunnels" in stage.reloads()[-1]["message"], 10, "a record")
        assert stream.quiet(0.1)
