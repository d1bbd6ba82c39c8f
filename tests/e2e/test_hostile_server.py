"""An MCP server that breaks HTTP: each answer of data/answers.txt goes to a gateway. The agent gets a whole answer, a cut one, or an
error that names the reason; the next calls, on whatever connection to the server, get their own answers. (What a server says on a
connection at the very moment at which the next request comes is that request's answer: HTTP/1.1 cannot tell.)
"""

import contextlib
import json
import re
import socket
import time

import pytest

from lib import corpus
from lib.calls import CALL
from lib.hostile import peak_mib, small_quarantine
from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS, Truncated, rpc
from lib.records import connect, exchange
from lib.recorder import Recorder

CASES = corpus.read("answers.txt")
PAUSE = 0.05  # of the server, between an answer and what nobody asked for
SECOND = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" + b'{"key": "evil"}'


def act(case):
    """What the server does with its socket; true: it goes on with the connection."""
    then = case.comes[0]
    parts = case.bytes(R=SECOND, D=b"\xff\xfepause", F=b"200000\r\n" + b"x" * (2 << 20)).split(b"\xff\xfepause")

    def answer(sock):
        for number, part in enumerate(parts):
            if number:
                time.sleep(PAUSE)
            sock.sendall(part)
        if then == "hold":
            sock.recv(1)
        return then == "keep"

    return answer


@pytest.fixture(scope="module")
def recorder():
    recorder = Recorder({case.name: act(case) for case in CASES})
    yield recorder
    recorder.stop()


@pytest.fixture(scope="module")
def tunnel(recorder, programs, work, certs):
    """The gateway, and where agents go."""
    from lib.tunnel import Endpoint, Gateway, Relay

    relay = Relay(programs, work, *certs.server)
    token, key = relay.add_tunnel("own"), relay.add_agent("agent", "own")
    relay.start()
    options = ("--call-timeout", "1s", "--max-response-bytes", "1M")
    args = (programs, work, token, recorder.url, relay.control_plane, certs.ca.cert, *options)
    gateway = Gateway(*args, env=small_quarantine()).start()
    yield gateway, Endpoint(relay.url("own"), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert)
    gateway.stop()
    relay.stop()


def probe(endpoint, key):
    answer = exchange(endpoint, "POST", JSON_HEADERS + [("X-Key", key)], CALL)
    assert (answer.status, answer.body) == (200, json.dumps({"key": key}).encode()), answer.body


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_hostile_server(tunnel, recorder, case):
    _, endpoint = tunnel
    _, status, what = case.comes
    probe(endpoint, f"before-{case.name}")
    mark = recorder.mark()
    with connect(endpoint, 10) as connection:
        connection.request("POST", endpoint.pairs() + JSON_HEADERS + [("X-Case", case.name)], CALL)
        answer, end = connection.head(), "clean"
        try:
            connection.read(answer)
        except Truncated:
            end = "truncated"
    assert str(answer.status) == status
    if what in ("clean", "truncated"):
        assert end == what
        assert what == "truncated" or answer.body == (b"" if status in ("204", "304") else b"{}")
        assert not any(answer.get(n) for n in ("x-mine", "upgrade", "proxy-authenticate"))
    else:
        error = answer.json()
        assert (error["id"], error["error"]["data"]["reason"]) == ("call-1", what)
    if "$D" in case.text:
        time.sleep(3 * PAUSE)
    for number in range(3):
        probe(endpoint, f"after-{case.name}-{number}")
    recorder.check()
    if "behind" in case.name or "$R" in case.text:
        assert recorder.connections[mark] != recorder.connections[mark + 1], "a connection that is out of step was kept"


def test_memory_stays_bounded(tunnel):
    gateway, endpoint = tunnel
    before = peak_mib(gateway.process)
    for _ in range(20):
        with connect(endpoint, 10) as connection:
            connection.request("POST", endpoint.pairs() + JSON_HEADERS + [("X-Case", "body-without-an-end")], CALL)
            with pytest.raises(Truncated):
                connection.read(connection.head())
    assert peak_mib(gateway.process) < before + 32


def kept(gateway):
    return int(re.search(r"gateway_request_memory_bytes (\d+)", gateway.health("/metrics")[1]).group(1))


def test_bodies_that_the_server_does_not_take(relay_pair):
    """They are kept until they are sent, as long as there is room for all of them together: 64 MiB."""
    large = rpc("tools/call", {"name": "x", "arguments": {"text": "y" * (15 << 20)}}, "large")
    with socket.create_server(("127.0.0.1", 0)) as deaf, contextlib.ExitStack() as open_calls:
        upstream = f"http://127.0.0.1:{deaf.getsockname()[1]}/mcp"
        _, gateway, endpoint = relay_pair(upstream=upstream, wait_ready=False)
        gateway.process.wait_line("connected to")
        for number in range(1, 5):
            connection = open_calls.enter_context(connect(endpoint))
            connection.request("POST", endpoint.pairs() + JSON_HEADERS, large)
            wait_until(lambda n=number: kept(gateway) == n * len(large), 30, "the body to be kept")
        error = exchange(endpoint, "POST", JSON_HEADERS, large).json()["error"]
        assert (error["data"]["reason"], error["data"]["executed"]) == ("refused-not-executed", "no"), error
        assert "too many request bytes at once" in error["message"]
    wait_until(lambda: kept(gateway) == 0, 30, "the bodies to go with their calls")


def test_bodies_of_calls_that_take_their_time(relay_pair, raw_control, fresh_key):
    """Those that are sent are not kept, however long the answer takes."""
    _, gateway, endpoint = relay_pair()
    large = rpc("tools/call", {"name": "x", "arguments": {"text": "y" * (15 << 20)}})
    keys = [fresh_key() for _ in range(6)]
    with contextlib.ExitStack() as open_calls:
        connections = [open_calls.enter_context(connect(endpoint)) for _ in keys]
        for connection, key in zip(connections, keys):
            headers = JSON_HEADERS + [("X-Case", "wait-then-echo"), ("X-Key", key)]
            connection.request("POST", endpoint.pairs() + headers, large)
            wait_until(lambda k=key: raw_control("seen", k) and kept(gateway) == 0, 30, "the server to have the body")
        for connection, key in zip(connections, keys):
            raw_control("release", key)
            assert connection.read(connection.head()).status == 200
