"""What the relay refuses, how it says so, and how both programs stop and reload."""

import json
import pathlib
import re
import signal
import socket
import time

import pytest

from lib.calls import CALL, Running
from lib.procs import Process, run, wait_until
from lib.rawhttp import JSON_HEADERS, Connection, Truncated, rpc
from lib.records import connect, exchange, response_record
from lib.tunnel import Endpoint, Gateway


@pytest.fixture
def raw(endpoint):
    return endpoint("raw", "tunnel")


def keyless(endpoint, *headers, tunnel=None):
    url = re.sub(r"/t/[^/]+/", f"/t/{tunnel}/", endpoint.url) if tunnel else endpoint.url
    return Endpoint(url, "tunnel", dict(headers), endpoint.ca)


# ---- who may call ----

WRONG = {
    "no-key": [],
    "wrong-key": [("Authorization", "Bearer mtk_" + "A" * 43)],
    "garbage": [("Authorization", "Bearer x")],
    "empty": [("Authorization", "")],
    "basic": [("Authorization", "Basic dXNlcjpwdw==")],
    "wrong-tunnel-key": [("Mcp-Tunnel-Authorization", "Bearer nonsense")],
}


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("which", WRONG)
def test_401_tells_nothing_about_tunnels(raw, relay, which, method):
    """The same for a tunnel that is attached, one that is not, and one that does not exist."""
    if not getattr(relay, "empty_tunnel", None):
        relay.empty_tunnel = relay.add_tunnel("never-attached")
        relay.reload()
    body = CALL if method == "POST" else None
    records = [
        response_record(exchange(keyless(raw, *WRONG[which], tunnel=name), method, JSON_HEADERS, body))
        for name in ("raw", "never-attached", "no-such-tunnel")
    ]
    assert records[0]["status"] == 401
    assert records[0] == records[1] == records[2]
    assert any(n == "www-authenticate" and v.startswith("Bearer") for n, v in records[0]["headers"])


def test_key_of_another_tunnel_is_a_wrong_key(raw, endpoint):
    other = endpoint("stock", "tunnel")
    wrong = Endpoint(raw.url, "tunnel", other.headers, raw.ca)
    unknown = keyless(raw, *other.headers.items(), tunnel="no-such-tunnel")
    records = [response_record(exchange(e, "POST", JSON_HEADERS, CALL)) for e in (wrong, unknown)]
    assert records[0]["status"] == 401 and records[0] == records[1]


def test_server_sees_who_calls_and_no_forgery(raw, relay):
    forged = [
        ("Mcp-Tunnel-Agent", "root"),
        ("Mcp-Tunnel-Call", "1"),
        ("Mcp-Tunnel-Anything", "x"),
        ("Connection", "X-Drop, keep-alive"),
        ("X-Drop", "1"),
        ("X-Keep", "1"),
        ("Keep-Alive", "timeout=5"),
    ]
    seen = {}
    for name, value in exchange(raw, "POST", JSON_HEADERS + forged, CALL).json()["headers"]:
        seen.setdefault(name.lower(), []).append(value)
    assert seen["mcp-tunnel-agent"] == ["agent-raw"]
    assert len(seen["mcp-tunnel-call"]) == 1
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", seen["mcp-tunnel-call"][0]
    )
    assert "x-keep" in seen
    assert not {"mcp-tunnel-anything", "x-drop", "keep-alive", "authorization", "mcp-tunnel-authorization"} & set(seen)


def test_hop_by_hop_fields_of_the_answer_stop(raw):
    answer = exchange(raw, "POST", JSON_HEADERS + [("X-Case", "hop-by-hop")], CALL)
    assert answer.get("x-kept") == "1" and answer.get("x-mine") is None and answer.get("proxy-connection") is None


# ---- what is not carried ----


@pytest.mark.parametrize("ident", ['"text-é"', "0", "17", "-5"])
def test_unattached_tunnel(raw, relay, ident):
    """503 at once or after the hold time, with the id of the request, and it says that nothing was executed."""
    if not getattr(relay, "lonely", None):
        relay.add_tunnel("lonely")
        relay.lonely = relay.add_agent("lonely-agent", "lonely")
        relay.reload_and_wait()
    there = keyless(raw, ("Authorization", f"Bearer {relay.lonely}"), tunnel="lonely")
    answer = exchange(
        there,
        "POST",
        JSON_HEADERS,
        b'{"jsonrpc":"2.0","method":"tools/call","id":%b,"params":{"name":"x"}}' % ident.encode(),
    )
    assert answer.status == 503
    assert 0 <= int(answer.get("retry-after")) <= 60
    message = answer.json()
    assert message["jsonrpc"] == "2.0" and message["id"] == json.loads(ident) and message["error"]["code"] == -32012
    assert "not executed" in json.dumps(message)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "MKCOL"])
def test_405_with_allow(raw, method):
    answer = exchange(raw, method, JSON_HEADERS)
    assert answer.status == 405
    assert {m.strip() for m in answer.get("allow").split(",")} == {"GET", "POST", "DELETE"}


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.2", "evil.example:443", "[::2]"])
def test_421_foreign_host(raw, host):
    with connect(raw) as connection:
        assert connection.call("POST", raw.pairs() + JSON_HEADERS, CALL, host=host).status == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
def test_403_foreign_origin(raw, origin):
    assert exchange(raw, "POST", JSON_HEADERS + [("Origin", origin)], CALL).status == 403


@pytest.mark.parametrize("suffix", ["?x=1", "?"])
def test_400_query(raw, suffix):
    with connect(raw) as connection:
        assert connection.call("POST", raw.pairs() + JSON_HEADERS, CALL, target=connection.path + suffix).status == 400


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p + "/",
        lambda p: "/" + p,
        lambda p: p.replace("/mcp", "/%6dcp"),
        lambda p: p + "/../mcp",
        lambda p: p.replace("/t/", "/T/"),
        lambda p: p + "/x",
        lambda p: "/mcp",
        lambda p: "/",
        lambda p: p.replace("/mcp", "//mcp"),
        lambda p: p + "#x",
    ],
    ids=range(10),
)
def test_path_is_exact(raw, change):
    with connect(raw) as connection:
        assert connection.call("POST", raw.pairs() + JSON_HEADERS, CALL, target=change(connection.path)).status in (
            400,
            401,
            404,
        )


SECOND = b"POST %b HTTP/1.1\r\nHost: localhost\r\nX-Case: silent\r\nX-Key: smuggled\r\nContent-Length: 0\r\n\r\n"
SMUGGLING = {
    "two-lengths": "Content-Length: {n}\r\nContent-Length: 0\r\n\r\n{body}",
    "two-equal-lengths": "Content-Length: {n}\r\nContent-Length: {n}\r\n\r\n{body}",
    "length-list": "Content-Length: {n}, {n}\r\n\r\n{body}",
    "length-and-chunked": "Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{body}",
    "chunked-and-length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{body}",
    "gzip-chunked": "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{body}",
    "chunked-twice": "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{body}",
    "xchunked": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{body}",
    "obs-fold": "X-Folded: a\r\n b\r\nContent-Length: {n}\r\n\r\n{body}",
    "bare-lf": "X-Bare: a\nContent-Length: {n}\r\n\r\n{body}",
    "bare-cr": "X-Bare: a\rb\r\nContent-Length: {n}\r\n\r\n{body}",
    "nul": "X-Nul: a\0b\r\nContent-Length: {n}\r\n\r\n{body}",
    "space-before-colon": "Content-Length : {n}\r\n\r\n{body}",
    "plus-length": "Content-Length: +{n}\r\n\r\n{body}",
    "hex-length": "Content-Length: 0x10\r\n\r\n{body}",
    "huge-length": "Content-Length: 99999999999999999999999\r\n\r\n{body}",
    "second-host": "Host: localhost\r\nContent-Length: {n}\r\n\r\n{body}",
    "long-head": "X-Long: " + "x" * 100000 + "\r\nContent-Length: {n}\r\n\r\n{body}",
    "many-fields": "X-A: 1\r\n" * 20000 + "Content-Length: {n}\r\n\r\n{body}",
    "bad-chunk-size": "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n{body}",
    "chunk-size-overflow": "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n{body}",
    "chunk-bare-lf": "Transfer-Encoding: chunked\r\n\r\n0\n\r\n{body}",
}


@pytest.mark.parametrize("which", SMUGGLING)
def test_smuggling(raw, raw_control, which):
    """Refused (501: a transfer coding that is not known, RFC 9112), closed, and nothing of it reaches the server."""
    before = len(raw_control("seen", "smuggled"))
    with connect(raw, 10) as connection:
        smuggled = (SECOND % connection.path.encode()).decode()
        rest = SMUGGLING[which].format(n=len(smuggled), body=smuggled)
        head = f"POST {connection.path} HTTP/1.1\r\nHost: {connection.host}\r\n"
        head += "Content-Type: application/json\r\nX-Case: silent\r\nX-Key: smuggled\r\n"
        head += "".join(f"{n}: {v}\r\n" for n, v in raw.pairs())
        try:
            connection.send((head + rest).encode("latin-1"))
        except OSError:
            pass  # refused before everything was sent
        try:
            answer = connection.read(connection.head())
            assert answer.status in (400, 413, 431, 501), answer.status
        except Truncated:
            pytest.fail("the connection was closed without an answer")
        with pytest.raises(Truncated):
            connection.head()
    assert len(raw_control("seen", "smuggled")) == before


@pytest.mark.parametrize(
    "start",
    [
        "POST {p} HTTP/1.0",
        "POST {p} HTTP/2.0",
        "POST  {p} HTTP/1.1",
        "POST {p}",
        "GET {p} HTTP/1.1 x",
        "POST https://localhost{p} HTTP/1.1",
        "\x16\x03\x01",
        "post {p} HTTP/1.1",
    ],
    ids=range(8),
)
def test_request_line(raw, start):
    with connect(raw, 10) as connection:
        connection.send((start.format(p=connection.path) + f"\r\nHost: {connection.host}\r\n\r\n").encode("latin-1"))
        assert connection.head().status in (400, 401, 404, 405, 505)


def test_request_without_host(raw):
    with connect(raw, 10) as connection:
        connection.send(f"GET {connection.path} HTTP/1.1\r\n\r\n".encode())
        assert connection.head().status == 400


@pytest.mark.parametrize("chunked", [False, True])
def test_request_that_is_too_large(relay_pair, chunked):
    """The limit of this relay is 64 KiB; above it 413, and the server sees nothing."""
    _, gateway, endpoint = relay_pair("--max-request-bytes", "64k")
    body = rpc("tools/call", {"name": "x", "arguments": {"blob": "x" * 65536}}, "big")
    with connect(endpoint, 10) as connection:
        try:
            connection.request(
                "POST", endpoint.pairs() + JSON_HEADERS, None if chunked else body, chunks=[body] if chunked else None
            )
        except OSError:
            pass
        assert connection.head().status == 413
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200


@pytest.mark.parametrize("length", [65537, 65537000])
def test_declared_length_that_is_too_large(relay_pair, length):
    """413 before a byte of the body is sent, and no 100 before it."""
    _, _, endpoint = relay_pair("--max-request-bytes", "64k")
    for expect in ([], [("Expect", "100-continue")]):
        with connect(endpoint, 10) as connection:
            headers = endpoint.pairs() + JSON_HEADERS + [("Content-Length", str(length)), *expect]
            connection.request("POST", headers)
            assert connection.until(b"\r\n").split()[1] == b"413"


def test_what_comes_early_waits(raw, raw_control, fresh_key):
    """A request that comes while another is served is not read further than the relay has room for, and is served behind it."""
    key, large = fresh_key(), CALL + b" " * (300 << 10)
    with connect(raw, 30) as connection:
        # What the relay leaves has to lie somewhere.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(large))
        connection.request("POST", raw.pairs() + JSON_HEADERS + [("X-Case", "wait-then-echo"), ("X-Key", key)], CALL)
        wait_until(lambda: raw_control("seen", key), 10, "the call to reach the server")
        connection.request("POST", raw.pairs() + JSON_HEADERS, large)
        assert connection.quiet(0.5), "an answer, or the end"
        raw_control("release", key)
        assert connection.read(connection.head()).status == 200
        assert connection.read(connection.head()).status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_a_refused_request_is_not_read_for_ever(raw, chunked):
    """Up to 64 KiB of it, so that the connection may stay; what is larger is cut off behind the answer."""
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "10000000")
    piece = b"4000\r\n" + bytes(0x4000) + b"\r\n" if chunked else bytes(0x4000)
    with connect(keyless(raw), 10) as connection:
        connection.request("POST", [*JSON_HEADERS, framing])
        try:
            for _ in range(5):
                connection.send(piece)
        except OSError:
            pass
        assert connection.read(connection.head()).status == 401
        with pytest.raises(Truncated):
            connection.exactly(1)


def test_plain_http_on_the_tls_port(relay):
    with Connection(f"http://127.0.0.1:{relay.port}/t/raw/mcp") as connection:
        with pytest.raises(Truncated):
            connection.request("GET")
            connection.head()


def test_call_is_not_made_twice(raw, raw_control, fresh_key):
    """A server that takes a call on a kept connection and closes it may have acted on it."""
    key = fresh_key()
    assert exchange(raw, "POST", JSON_HEADERS, CALL).status == 200
    answer = exchange(raw, "POST", JSON_HEADERS + [("X-Case", "close-early"), ("X-Key", key)], CALL)
    assert (answer.status, answer.json()["error"]["data"]["executed"]) == (502, "maybe")
    assert raw_control("seen", key) == ["taken"]


# ---- stopping, reloading, coming back ----


def stopping(process, start):
    process.wait_line(r"(?i)drain|stopping|SIGTERM", 10, start)


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_sigterm_lets_a_running_call_finish(relay_pair, raw_control, fresh_key, who):
    relay, gateway, endpoint = relay_pair()
    call = Running(endpoint, fresh_key(), raw_control)
    process = gateway.process if who == "gateway" else relay.process
    start = process.mark()
    process.send_signal(signal.SIGTERM)
    stopping(process, start)
    # Nothing moves for a while: the call is open all the same.
    time.sleep(0.3)
    assert process.running()
    answer = call.finish()
    assert answer.status == 200 and answer.json()["key"] == call.key
    assert process.wait(15) == 0


def test_a_relay_that_stops_takes_no_more_calls(relay_pair, raw_control, fresh_key):
    """Kept connections are closed; a request that had begun to come is refused."""
    relay, _, endpoint = relay_pair()
    late = fresh_key()
    with connect(endpoint) as kept, connect(endpoint) as begun:
        for connection in (kept, begun):
            assert connection.call("POST", JSON_HEADERS + endpoint.pairs(), CALL).status == 200
        begun.send(f"POST {begun.path} HTTP/1.1\r\nHost: {begun.host}\r\nX-Case: echo\r\nX-Key: {late}\r\n".encode())
        call = Running(endpoint, fresh_key(), raw_control)
        start = relay.process.mark()
        relay.process.send_signal(signal.SIGTERM)
        stopping(relay.process, start)
        assert kept.quiet(5) is False and kept.eof
        rest = "".join(f"{name}: {value}\r\n" for name, value in JSON_HEADERS + endpoint.pairs())
        begun.send(rest.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(CALL), CALL))
        answer = begun.head()
        assert (answer.status, answer.get("Connection")) == (503, "close")
        assert begun.read(answer).json()["error"]["data"]["executed"] == "no"
    assert call.finish().status == 200
    assert raw_control("seen", late) == []
    assert relay.process.wait(15) == 0


def test_last_answer_is_out_before_the_gateway_ends(relay_pair, raw_control, fresh_key):
    """The MCP server is done, but the relay stands still: nobody knows whether it has the answer."""
    relay, gateway, endpoint = relay_pair()
    call = Running(endpoint, fresh_key(), raw_control, ("X-Filling", "60000"))
    relay.process.send_signal(signal.SIGSTOP)
    try:
        raw_control("release", call.key)
        done = "mcp_tunnel_gateway_exchanges_open 0"
        wait_until(lambda: done in gateway.health("/metrics")[1], 10, "the gateway to have the whole answer")
        gateway.process.send_signal(signal.SIGTERM)
        # Longer than it waits for a relay that it owes nothing.
        time.sleep(4)
        assert gateway.process.running(), "the gateway left with the answer"
    finally:
        relay.process.send_signal(signal.SIGCONT)
    answer = call.finish(release=False)
    assert (answer.status, len(answer.json()["filling"])) == (200, 60000)
    assert gateway.process.wait(15) == 0


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_sigterm_without_calls_stops_at_once(relay_pair, who):
    relay, gateway, _ = relay_pair()
    process = gateway.process if who == "gateway" else relay.process
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def holds_signals_back(process):
    """Whether its main() has begun and its loop has not."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    blocked = int(re.search(r"SigBlk:\s+(\w+)", status).group(1), 16)
    return "Name:\tmcp-tunnel-" in status and blocked >> (signal.SIGTERM - 1) & 1


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_sigterm_at_any_moment_of_the_start(relay_pair, who):
    relay, gateway, _ = relay_pair()
    process = gateway.process if who == "gateway" else relay.process
    process.stop()
    early = 0
    for number in range(40):
        again = Process(who, process.argv)
        while again.running() and not (held := holds_signals_back(again)) and not again.lines:
            pass
        early += bool(held)
        # The first ones in the first instants, the later ones around the start of the loop.
        time.sleep(number * 0.0005)
        again.send_signal(signal.SIGTERM)
        assert again.wait(10) == 0, (number, held, again.tail())
        assert again.find("stopped$"), again.tail()
    assert early, "no signal came before the loop ran"


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_sigterm_again_and_again(relay_pair, who):
    """Up to the last instruction: the exit status is that of a clean stop."""
    relay, gateway, _ = relay_pair()
    process = gateway.process if who == "gateway" else relay.process
    for _ in range(20):
        while process.running():
            process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0, process.tail()
        process = Process(who, process.argv)
        process.wait_line("connected to|ready$")
    process.stop()


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_drain_time_is_bounded(relay_pair, raw_control, fresh_key, who):
    """A call that does not end in the drain time is ended, and its agent is told."""
    short = ("--drain-timeout", "300ms")
    relay, gateway, endpoint = relay_pair(
        *(short if who == "relay" else ()), gateway_options=short if who == "gateway" else ()
    )
    call = Running(endpoint, fresh_key(), raw_control)
    process = gateway.process if who == "gateway" else relay.process
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    answer = call.finish(release=False)
    raw_control("release", call.key)
    assert answer.status in (502, 503) and answer.json()["id"] == "call-1"


def test_second_gateway_takes_over_while_the_first_drains(
    relay_pair, programs, work, certs, servers, raw_control, fresh_key
):
    relay, first, endpoint = relay_pair()
    call = Running(endpoint, fresh_key(), raw_control)
    second = Gateway(programs, work, first.token, servers.url("raw"), relay.control_plane, certs.ca.cert)
    relay_pair.made.insert(0, second.start())
    start = first.process.mark()
    first.process.send_signal(signal.SIGTERM)
    stopping(first.process, start)
    for _ in range(5):
        assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200
    assert call.finish().status == 200
    assert first.process.wait(15) == 0
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200


def test_older_gateway_takes_over_while_the_newest_drains(
    relay_pair, programs, work, certs, servers, raw_control, fresh_key
):
    """New calls go to the newest gateway; not any more once it has said that it goes."""
    relay, first, endpoint = relay_pair()
    second = Gateway(programs, work, first.token, servers.url("raw"), relay.control_plane, certs.ca.cert)
    relay_pair.made.insert(0, second.start())
    call = Running(endpoint, fresh_key(), raw_control)
    start = relay.process.mark()
    second.process.send_signal(signal.SIGTERM)
    relay.process.wait_line("takes no new calls", 10, start)
    for _ in range(5):
        assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200
    assert second.process.running()
    assert call.finish().status == 200
    assert second.process.wait(15) == 0


def test_gateway_without_a_relay_stops_at_once(relay_pair):
    """Nothing is open, and nobody is there to be told."""
    relay, gateway, endpoint = relay_pair()
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200
    relay.stop()
    gateway.wait_ready(15, 503)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(5) == 0
    relay.start()


def test_gateway_comes_back_to_a_restarted_relay(relay_pair):
    relay, gateway, endpoint = relay_pair()
    relay.stop()
    gateway.wait_ready(15, 503)
    relay.start()
    gateway.wait_ready(60, 200)
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200


def test_sighup_picks_up_and_drops_agents(relay_pair, programs):
    relay, _, endpoint = relay_pair()
    key = relay.add_agent("late-comer", "own")
    late = Endpoint(endpoint.url, "tunnel", {"Authorization": f"Bearer {key}"}, endpoint.ca)
    relay.reload()
    wait_until(lambda: exchange(late, "POST", JSON_HEADERS, CALL).status == 200, 10, "the new agent to be known")
    status, out, err = run(
        [programs.relay, "agent", "remove", "late-comer", "--tunnel", "own", "--state-dir", relay.state]
    )
    assert status == 0, out + err
    relay.reload()
    wait_until(lambda: exchange(late, "POST", JSON_HEADERS, CALL).status == 401, 10, "the removed agent to be refused")
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200


def test_state_holds_no_secret(relay_pair):
    """Hashes only, in files for the owner only; no secret in a log either."""
    relay, gateway, endpoint = relay_pair()
    key = endpoint.headers["Authorization"].split()[1]
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200
    files = [p for p in relay.state.rglob("*") if p.is_file()]
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        content = path.read_bytes()
        assert key.encode() not in content and gateway.token.encode() not in content
        assert gateway.token.split("_")[-1].encode() not in content
    for process in (relay.process, gateway.process):
        assert key not in process.text() and gateway.token not in process.text()
