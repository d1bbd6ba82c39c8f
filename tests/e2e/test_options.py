"""What single options of the gateway and the relay promise."""

import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import stat
import time
from datetime import datetime

import pytest

from conftest import free_port
from lib.calls import CALL, Running
from lib.procs import SCALE, Process, wait_until
from lib.rawhttp import JSON_HEADERS, Events, rpc
from lib.records import connect, ending, exchange
from lib.tunnel import Endpoint, Gateway, Relay

MIB = 1 << 20


def post(endpoint, *headers, body=CALL, **options):
    return exchange(endpoint, "POST", JSON_HEADERS + list(headers), body, **options)


# ---- where requests go ----


@pytest.mark.parametrize("query", ["?x=1&y=%20", "?", "?a/b?c", "?" + "q" * 4000])
def test_allow_query(relay_pair, servers, query):
    """The MCP server sees the query as it was sent, behind its own path."""
    _, _, endpoint = relay_pair(gateway_options=("--allow-query",), upstream=servers.url("raw") + "/deep")
    assert post(endpoint, target=f"/t/own/mcp{query}").json()["target"] == f"/mcp/deep{query}"
    assert post(endpoint).json()["target"] == "/mcp/deep"


@pytest.mark.parametrize("path", ["", "/", "/other/path", "/a%20b/mcp", "/mcp/"])
def test_path_is_the_configured_one(relay_pair, servers, path):
    _, _, endpoint = relay_pair(upstream=servers.url("raw").removesuffix("/mcp") + path)
    assert post(endpoint).json()["target"] == (path or "/")


@pytest.fixture
def raw_on_socket(work, cache):
    path = work / "raw.sock"
    server = pathlib.Path(__file__).parent / "servers/raw.py"
    process = Process("raw on a socket", [cache / "venv/bin/python", server, f"unix:{path}"])
    process.wait_line("listening on unix:")
    yield path
    process.kill()
    path.unlink(missing_ok=True)


def test_unix_upstream(relay_pair, raw_on_socket):
    _, gateway, endpoint = relay_pair(upstream=f"unix:{raw_on_socket}:/mcp")
    for _ in range(3):
        seen = post(endpoint).json()
        assert (seen["target"], dict(seen["headers"])["Host"]) == ("/mcp", "localhost")
    assert endpoint.headers["Authorization"] not in str(seen)


def test_unix_upstream_that_is_gone(relay_pair, raw_on_socket):
    _, gateway, endpoint = relay_pair(upstream=f"unix:{raw_on_socket}:/mcp")
    os.rename(raw_on_socket, f"{raw_on_socket}.away")
    with_new = [post(endpoint) for _ in range(2)]
    os.rename(f"{raw_on_socket}.away", raw_on_socket)
    assert with_new[0].status == 502 and with_new[0].json()["error"]["data"]["reason"] == "upstream-unreachable"
    # Where the server is, is nobody's business outside.
    assert str(raw_on_socket) not in with_new[0].body.decode()
    assert post(endpoint).status == 200


def test_agents_on_a_unix_socket(relay_pair, work, raw_control, fresh_key):
    """A load balancer in front ends TLS and comes here: keys count, and events come as they are made."""
    sock = work / "agents.sock"
    _, _, tls = relay_pair("--listen", f"http+unix:{sock}")
    endpoint = Endpoint("http://localhost/t/own/mcp", "tunnel", tls.headers, unix=sock)
    assert stat.S_IMODE(sock.stat().st_mode) == 0o660
    assert post(endpoint).json()["length"] == len(CALL)
    assert post(Endpoint(endpoint.url, "tunnel", {}, unix=sock)).status == 401
    assert post(endpoint, host="evil.example").status == 421
    key, seen = fresh_key(), []
    with connect(endpoint) as connection:
        headers = [("X-Case", "steps"), ("X-Key", key), ("X-Steps", "3")]
        connection.request("POST", endpoint.pairs() + JSON_HEADERS + headers, CALL)
        for _, message in Events(connection, connection.head()).messages():
            seen.append(message["step"])
            raw_control("release", f"{key}-{message['step'] + 1}")
    assert seen == [0, 1, 2]
    relay_pair.made[-1].stop()
    assert not sock.exists()


def test_no_agent_authentication_on_loopback(relay_pair):
    """--agent-auth none: everybody who reaches the listener; the MCP server is told that nobody was asked."""
    _, _, endpoint = relay_pair("--agent-auth", "none")
    open_to_all = Endpoint(endpoint.url, "tunnel", {}, endpoint.ca)
    seen = {n.lower(): v for n, v in post(open_to_all).json()["headers"]}
    assert seen["mcp-tunnel-agent"] == "unknown"
    elsewhere = Endpoint(endpoint.url.replace("/t/own/", "/t/none/"), "tunnel", {}, endpoint.ca)
    assert post(elsewhere).status == 401


def test_allowed_origin(relay_pair):
    _, _, endpoint = relay_pair("--allowed-origin", "https://app.example")
    answer = post(endpoint, ("Origin", "https://app.example"))
    assert answer.status == 200 and "origin" not in {n.lower() for n, _ in answer.json()["headers"]}
    for origin in ("https://app.example:8443", "http://app.example", "https://evil.example"):
        assert post(endpoint, ("Origin", origin)).status == 403


def test_public_url_is_a_name_of_the_relay(relay_pair):
    _, _, endpoint = relay_pair("--public-url", "https://relay.example")
    assert post(endpoint, host="relay.example").status == 200
    assert post(endpoint, host="Relay.Example:443").status == 200
    assert post(endpoint, host="other.example").status == 421


# ---- limits ----


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_that_is_too_large_for_the_gateway(relay_pair, raw_control, fresh_key, chunked):
    """413 from the gateway; the server sees nothing, and the gateway forgets what it had collected."""
    _, _, endpoint = relay_pair(gateway_options=("--max-request-bytes", "64k"))
    key = fresh_key()
    body = rpc("tools/call", {"name": "x", "arguments": {"blob": "x" * 65536}}, "big")
    for _ in range(3):
        with connect(endpoint, 10) as connection:
            headers = endpoint.pairs() + JSON_HEADERS + [("X-Case", "wait-then-echo"), ("X-Key", key)]
            try:
                connection.request("POST", headers, None if chunked else body, chunks=[body] if chunked else None)
            except OSError:
                pass
            answer = connection.read(connection.head())
        assert (answer.status, answer.json()["error"]["data"]["reason"]) == (413, "too-large")
        assert "--max-request-bytes of the gateway" in answer.json()["error"]["message"]
    assert raw_control("seen", key) == []
    assert post(endpoint).status == 200


def test_max_response_bytes(relay_pair, raw_control, fresh_key):
    """An answer at the limit passes; one above it is cut, and never looks complete."""
    _, gateway, endpoint = relay_pair(gateway_options=("--max-response-bytes", "64k"))

    def download(size, chunked):
        extra = [("X-Case", "download"), ("X-Bytes", str(size)), ("X-Key", fresh_key())]
        with connect(endpoint) as connection:
            connection.request("GET", endpoint.pairs() + extra + ([("X-Chunked", "1")] if chunked else []))
            head = connection.head()
            how = ending(connection, head)
            return head.status, how, len(head.body)

    for chunked in (False, True):
        assert download(65536, chunked) == (200, "clean", 65536)
        status, how, _ = download(65537, chunked)
        assert (status, how) in ((200, "truncated"), (502, "clean"))
    counted = 'calls_ended_total{reason="upstream-too-large"} 2'
    wait_until(lambda: counted in gateway.health("/metrics")[1], 5, "both endings to be counted")


def test_call_timeout(relay_pair, raw_control, fresh_key):
    """A POST that takes longer ends with `deadline`, at the server, too; a GET stream lives on."""
    _, gateway, endpoint = relay_pair(gateway_options=("--call-timeout", "400ms"))
    stream_key, call_key = fresh_key(), fresh_key()
    with connect(endpoint) as stream:
        stream.request("GET", endpoint.pairs() + [("X-Case", "idle"), ("X-Key", stream_key)])
        head = stream.head()
        answer = post(endpoint, ("X-Case", "silent"), ("X-Key", call_key))
        error = answer.json()
        assert (answer.status, error["id"], error["error"]["code"]) == (504, "call-1", -32008)
        assert (error["error"]["data"]["reason"], error["error"]["data"]["executed"]) == ("deadline", "maybe")
        wait_until(lambda: "gone" in raw_control("seen", call_key), 5, "the server to see the end")
        # In the middle of an answer it is cut.
        with connect(endpoint) as connection:
            connection.request("POST", endpoint.pairs() + JSON_HEADERS + [("X-Case", "endless")], CALL)
            assert ending(connection, connection.head()) == "truncated"
        assert raw_control("seen", stream_key) == ["started"]
        raw_control("release", stream_key)
        assert b'"released":1' in stream.read(head).body


def test_max_streams(relay_pair, raw_control, fresh_key):
    """One call more than --max-streams of the gateway is refused, as not executed."""
    _, _, endpoint = relay_pair(gateway_options=("--max-streams", "2"))
    calls = [Running(endpoint, fresh_key(), raw_control) for _ in range(2)]
    answer = post(endpoint)
    assert (answer.status, answer.json()["error"]["data"]["executed"]) == (503, "no")
    for call in calls:
        assert call.finish().status == 200
    assert post(endpoint).status == 200


def test_slow_reader_slows_the_server(endpoint, raw_control, fresh_key):
    """Backpressure crosses the tunnel: the server cannot get rid of more than the windows and buffers on the way."""
    there, key = endpoint("raw", "tunnel"), fresh_key()
    with connect(there, 60) as connection:
        connection.request("GET", there.pairs() + [("X-Case", "progress"), ("X-Mib", "96"), ("X-Key", key)])
        head = connection.head()

        def standing_still():
            before = raw_control("seen", key)
            time.sleep(0.3)
            return before and raw_control("seen", key) == before and before[-1]

        done = wait_until(standing_still, 20, "the download to stand still")
        assert done < 40, f"{done} MiB are on the way to a client that reads nothing"
        assert len(connection.read(head).body) == 96 * MIB


# ---- liveness: one end stands still, the other notices ----


def test_keepalive_of_the_gateway(relay_pair):
    relay, gateway, _ = relay_pair(gateway_options=("--keepalive", "1s"))
    start = gateway.process.mark()
    relay.process.send_signal(signal.SIGSTOP)
    try:
        gateway.process.wait_line("keepalive", 10, start)
        # A call would wait and then get through.
        assert json.loads(gateway.health()[1])["checks"]["session"]["reason"] == "resuming"
    finally:
        relay.process.send_signal(signal.SIGCONT)
    gateway.wait_ready(30)


def test_keepalive_of_the_relay(relay_pair):
    relay, gateway, _ = relay_pair("--keepalive", "1s")
    start = relay.process.mark()
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        relay.process.wait_line("keepalive", 10, start)
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    gateway.wait_ready(30)


def test_quiet_session_stays(relay_pair):
    """Both ends live and silent: PING and PONG keep the session for many keepalive times."""
    relay, gateway, endpoint = relay_pair("--keepalive", "1s", gateway_options=("--keepalive", "1s"))
    start = gateway.process.mark(), relay.process.mark()
    with connect(endpoint) as connection:
        assert connection.quiet(4)
    assert (gateway.process.mark(), relay.process.mark()) == start
    assert gateway.health()[0] == 200


# ---- TLS ----


@pytest.mark.parametrize("oldest", [None, "1.2"])
def test_oldest_tls_version_of_the_relay(relay_pair, oldest):
    relay, _, _ = relay_pair(*(("--tls-min", oldest) if oldest else ()))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", relay.port), 10) as sock:
        if oldest:
            assert context.wrap_socket(sock).version() == "TLSv1.2"
        else:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                context.wrap_socket(sock)


# ---- relays and their announcements ----


def test_grace_of_the_relay_is_how_long_the_gateway_waits_for_it(
    relay_pair, programs, work, certs, raw_control, fresh_key
):
    """--resume-grace: with a call open the gateway dials only the relay that has it, until it has given the call up."""
    relay, gateway, endpoint = relay_pair("--resume-grace", "3s")
    other = Relay(programs, work, *certs.server)
    shutil.copytree(relay.state, other.state, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
    other.start()
    try:
        gateway.process.stop()
        gateway.argv += ["--control-plane", other.control_plane]
        gateway.start()
        Running(endpoint, fresh_key(), raw_control)
        relay.process.kill()
        lost, back = (
            datetime.fromisoformat(gateway.process.wait_line(rf"^(\S+)Z {line}").group(1))
            for line in (r"warning: not connected to .* \(connection-lost\)", "notice: connected to .* again")
        )
        assert (back - lost).total_seconds() > 2.5, gateway.process.tail()
        elsewhere = Endpoint(other.url("own"), "tunnel", endpoint.headers, certs.ca.cert)
        assert post(elsewhere).status == 200
    finally:
        gateway.process.stop()
        other.stop()
        relay.start()


# ---- two gateways of one tunnel ----


def test_second_gateway_takes_the_calls_of_a_killed_one(relay_pair, programs, work, certs, servers):
    relay, first, endpoint = relay_pair("--resume-grace", "30s")
    second = Gateway(programs, work, first.token, servers.url("raw"), relay.control_plane, certs.ca.cert)
    second.start()
    try:
        mark = relay.process.mark()
        # The newest gets the calls; when it is gone, the other does.
        second.process.kill()
        relay.process.wait_line("lost its connection", 10, mark)
        for _ in range(3):
            assert post(endpoint).status == 200
    finally:
        second.process.kill()


def test_next_relay_when_the_first_is_not_there(relay_pair):
    """--control-plane twice: the second one is dialled when the first refuses."""
    nobody = free_port()
    relay, gateway, endpoint = relay_pair(wait_ready=False, control_plane=f"wss://localhost:{nobody}/v1/tunnel")
    gateway.process.wait_line("connect-failed")
    gateway.process.stop()
    gateway.argv += ["--control-plane", relay.control_plane]
    gateway.start()
    gateway.wait_ready(20)
    assert post(endpoint).status == 200
