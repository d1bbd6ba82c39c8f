"""What goes wrong at run time: a named reason, one log line however often it is tried, and truthful readiness."""

import json
import pathlib
import re
import socket
import sys
import threading
import time

import pytest

from conftest import free_port
from lib.procs import Process, wait_until
from lib.rawhttp import JSON_HEADERS, rpc
from lib.records import exchange
from lib.tunnel import Endpoint, Gateway

FAKE = pathlib.Path(__file__).parent / "servers/fake_relay.py"
TOKEN = "mtt_nobody_" + "A" * 43
CALL = rpc("tools/call", {"name": "x", "arguments": {}}, "call-1")


@pytest.fixture
def gateway(programs, work, certs, request):
    """gateway(control_plane, ...): a gateway that is not expected to become ready; stopped at the end."""
    made = []

    def start(control_plane, token=TOKEN, upstream="http://127.0.0.1:9/mcp", ready=False, ca=None):
        gateway = Gateway(programs, work, token, upstream, control_plane, ca or certs.ca.cert)
        made.append(gateway)
        return gateway.start(wait_ready=ready)

    yield start
    for gateway in made:
        gateway.stop()


@pytest.fixture
def fake_relay():
    made = []

    def start(pair, behaviour="teapot"):
        process = Process("fake relay", [sys.executable, "-u", FAKE, *pair, behaviour])
        made.append(process)
        process.port = int(process.wait_line(r"listening on https://127\.0\.0\.1:(\d+)").group(1))
        process.url = f"wss://localhost:{process.port}/v1/tunnel"
        return process

    yield start
    for process in made:
        process.kill()


def assert_trouble(gateway, name, detail):
    """One warning with the reason's name and the detail; /readyz says the same; the process is well."""
    complaints = [line for line in gateway.process.lines if name in line]
    assert len(complaints) == 1, f"{len(complaints)} lines with {name!r}, 1 is right\n{gateway.process.tail()}"
    assert re.search(detail, complaints[0]), f"{detail!r} is not in {complaints[0]!r}"
    assert len(gateway.process.lines) < 8, f"too many lines\n{gateway.process.tail(40)}"
    status, body = gateway.health()
    assert status == 503, body
    check = json.loads(body)["checks"]["session"]
    assert (check["ok"], check["reason"]) == (False, name), body
    assert re.search(detail, check["detail"]), body
    assert gateway.health("/healthz")[0] == 200


def quiet_time(seconds):
    """Nothing may happen for this long, however slow the build; there is no event to wait for."""
    time.sleep(seconds)


def test_name_does_not_resolve(gateway):
    it = gateway("wss://nonexistent.invalid/v1/tunnel")
    it.process.wait_line("name-not-resolved", 30)
    quiet_time(3)
    assert_trouble(it, "name-not-resolved", r"nonexistent\.invalid")


def test_connection_refused(gateway):
    port = free_port()
    it = gateway(f"wss://localhost:{port}/v1/tunnel")
    it.process.wait_line("connect-failed")
    quiet_time(3)
    assert_trouble(it, "connect-failed", rf"(?i){port}.*refused")


TLS_FAULTS = {
    "untrusted": r"(?i)trust|issuer|self-signed|unable to get",
    "wrong_name": r"(?i)name|localhost",
    "expired": r"(?i)expired",
}


@pytest.mark.parametrize("which", TLS_FAULTS)
def test_certificate(gateway, fake_relay, certs, which):
    fake = fake_relay(getattr(certs, which))
    it = gateway(fake.url)
    fake.wait_line("dial 4", 30)
    assert_trouble(it, "tls-failed", TLS_FAULTS[which])


@pytest.mark.parametrize(
    "behaviour, name, detail",
    [
        ("no-subprotocol", "subprotocol-missing", r"mcp-tunnel\.v1"),
        ("other-subprotocol", "subprotocol-missing", r"mcp-tunnel\.v1"),
        ("teapot", "not-a-control-plane", r"418"),
        ("not-http", "not-a-control-plane", r"HTTP"),
        ("accept-wrong", "not-a-control-plane", r"WebSocket"),
    ],
)
def test_other_end_is_no_relay(gateway, fake_relay, certs, behaviour, name, detail):
    fake = fake_relay(certs.server, behaviour)
    it = gateway(fake.url)
    fake.wait_line("dial 4", 30)
    assert_trouble(it, name, detail)


def test_refused_connections_are_not_a_storm(gateway, fake_relay, certs):
    """Full jitter over a bound that doubles: a few dials in the first seconds, not hundreds."""
    fake = fake_relay(certs.server)
    gateway(fake.url)
    fake.wait_line("dial 2", 15)
    time.sleep(3)
    assert fake.count("dial") < 20


def test_attaching_alone_does_not_reset_the_backoff(gateway, fake_relay, certs):
    """A relay that takes every gateway and drops it at once is dialled more and more seldom."""
    fake = fake_relay(certs.server, "flap")
    it = gateway(fake.url)
    fake.wait_line("dial 2", 15)
    time.sleep(5)
    assert 2 <= fake.count("dial") < 11
    assert it.process.count("connected to") >= 1


def test_refused_token_is_tried_seldom(gateway, fake_relay, certs):
    """Minutes, not seconds; and at once when the file changes."""
    fake = fake_relay(certs.server, "refuse")
    it = gateway(fake.url)
    it.process.wait_line("token-refused", 15)
    time.sleep(4)
    assert fake.count("dial") == 1
    it.set_token("mtt_nobody_" + "B" * 43)
    fake.wait_line("dial 2", 10)


def test_retry_after_is_obeyed(gateway, fake_relay, certs):
    fake = fake_relay(certs.server, "busy")
    it = gateway(fake.url)
    it.process.wait_line("relay-busy", 15)
    time.sleep(2.5)
    assert fake.count("dial") == 1
    fake.wait_line("dial 2", 15)
    assert json.loads(it.health()[1])["checks"]["session"]["reason"] == "relay-busy"


def test_token_refused_then_replaced(gateway, relay, servers):
    """Said once, tried seldom; a new token in the file is tried at once."""
    token = relay.add_tunnel("token-test")
    relay.reload()
    it = gateway(relay.control_plane, upstream=servers.url("raw"))
    it.process.wait_line("token-refused")
    quiet_time(3)
    assert_trouble(it, "token-refused", "token")
    it.set_token(token)
    it.wait_ready(20)


class Upstream:
    """Something on a port that is not an MCP server."""

    def __init__(self, reply, stays_open):
        self.reply, self.stays_open = reply, stays_open
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}/mcp"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                peer, _ = self.sock.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(5)
                try:
                    peer.recv(65536)
                    peer.sendall(self.reply)
                    while self.stays_open and peer.recv(65536):
                        pass
                except OSError:
                    pass

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@pytest.fixture
def attached(relay, gateway, certs):
    """attached(name, upstream): an attached gateway with that upstream, and the endpoint."""

    def make(name, upstream):
        token, key = relay.add_tunnel(name), relay.add_agent("agent-" + name, name)
        relay.reload()
        it = gateway(relay.control_plane, token, upstream)
        it.process.wait_line(r"(?i)attached|connected|session", 20)
        return it, Endpoint(relay.url(name), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert)

    return make


def call_until_answered_by_gateway(endpoint, expected):
    """The first calls may find the tunnel not attached yet."""

    def now():
        response = exchange(endpoint, "POST", JSON_HEADERS, CALL)
        return response if response.status != 503 or expected == 503 else None

    return wait_until(now, 15, f"an answer with status {expected}")


UPSTREAMS = {
    "refused": (None, -32004, "upstream-unreachable", "no"),
    "not-http": (b"SSH-2.0-OpenSSH_9.2p1\r\n", -32013, "upstream-protocol", "maybe"),
    "not-http-stays-open": (b"SSH-2.0-OpenSSH_9.2p1\r\n", -32013, "upstream-protocol", "maybe"),
    "closes-early": (b"", -32006, "upstream-closed", "maybe"),
    "closes-in-head": (b"HTTP/1.1 200 OK\r\nContent-Ty", -32006, "upstream-closed", "maybe"),
}


@pytest.mark.parametrize("which", UPSTREAMS)
def test_upstream(attached, which):
    reply, code, reason, executed = UPSTREAMS[which]
    upstream = Upstream(reply, "stays-open" in which) if reply is not None else None
    it, endpoint = attached(f"up-{which}", upstream.url if upstream else f"http://127.0.0.1:{free_port()}/mcp")
    for _ in range(5):
        response = call_until_answered_by_gateway(endpoint, 502)
        assert response.status == 502, (response.status, response.body)
        answer = response.json()
        assert answer["id"] == "call-1" and answer["error"]["code"] == code, answer
        assert (answer["error"]["data"]["reason"], answer["error"]["data"]["executed"]) == (reason, executed), answer
        assert ("was not executed" in answer["error"]["message"]) == (executed == "no"), answer
    it.wait_ready(10, 503)
    assert json.loads(it.health()[1])["checks"]["upstream"]["ok"] is False, it.health()
    failures = it.process.count(r"(?i)MCP server.*(unreachable|refused|not HTTP|closed)|upstream-")
    assert failures == 1, f"{failures} lines about the upstream, 1 is right\n{it.process.tail()}"
    if upstream:
        upstream.close()


def answer_with(fields):
    lines = "".join(f"X-{n}: {n}\r\n" for n in range(fields - 1))
    return f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}\r\n{{}}".encode()


@pytest.mark.parametrize("count", [128, 129, 193])
def test_answer_with_many_fields(attached, count):
    """All of them, or an error that says why: none is left out."""
    upstream = Upstream(answer_with(count), False)
    _, endpoint = attached(f"fields-{count}", upstream.url)
    response = call_until_answered_by_gateway(endpoint, 0)
    if count <= 128:
        assert response.status == 200 and response.body == b"{}", (response.status, response.body)
        got = [(n, v) for n, v in response.headers if n.startswith("X-")]
        assert got == [(f"X-{n}", str(n)) for n in range(count - 1)]
    else:
        error = response.json()["error"]
        assert (response.status, error["data"]["reason"]) == (502, "upstream-protocol"), response.body
        assert "too many fields" in error["message"], error
    upstream.close()


def test_upstream_comes_back(attached, certs):
    """Refused at first; once it is there readiness and calls come back by themselves."""
    port = free_port()
    it, endpoint = attached("up-later", f"http://127.0.0.1:{port}/mcp")
    assert call_until_answered_by_gateway(endpoint, 502).status == 502
    it.wait_ready(10, 503)
    server = Process("raw, later", [sys.executable, pathlib.Path(__file__).parent / "servers/raw.py", port])
    try:
        server.wait_line("listening")
        it.wait_ready(40, 200)
        assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200
    finally:
        server.kill()
