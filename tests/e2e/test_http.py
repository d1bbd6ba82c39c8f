"""Exact HTTP behaviour, against a server written byte by byte: the same directly and through the tunnel."""

import hashlib
import itertools
import json
import threading

import pytest

from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS, Events, rpc
from lib.records import connect, ending, exchange, response_record, seen_by_server

MIB = 1 << 20
CALL = rpc("tools/call", {"name": "x", "arguments": {}})


def case(name, key=None, **args):
    headers = [("X-Case", name)] + ([("X-Key", key)] if key else [])
    return headers + [(f"X-{n}", str(v)) for n, v in args.items()]


def post(endpoint, headers, body=CALL, **options):
    return exchange(endpoint, "POST", JSON_HEADERS + headers, body, **options)


ODD_HEADERS = [
    ("Accept", "application/json, text/event-stream"),
    ("X-Twice", "one"),
    ("X-Twice", "two, three"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("Last-Event-ID", "a/b=c;d"),
    ("Mcp-Session-Id", "s-1"),
    ("MCP-Protocol-Version", "2025-06-18"),
    ("Mcp-Future-Field", "unknown but kept"),
    ("Cookie", "a=b; c=d"),
    ("User-Agent", "by hand/1.0"),
    ("X-Empty", ""),
    ("Accept-Encoding", "gzip"),
    ("X-Latin", "caf\xe9"),
    ("If-None-Match", '"x"'),
    ("X-Long", "y" * 6000),
]


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_request_headers_and_body_arrive_unchanged(both, method):
    body = CALL if method == "POST" else None
    extra = [("Content-Type", "application/json; charset=utf-8")] if body else []

    def scenario(endpoint):
        seen = exchange(endpoint, method, ODD_HEADERS + extra, body).json()
        return {
            "method": seen["method"],
            "target": seen["target"],
            "headers": seen_by_server(seen["headers"]),
            "length": seen["length"],
            "sha256": seen["sha256"],
        }

    record = both("raw", scenario)
    assert ["x-twice", "two, three"] in [list(h) for h in record["headers"]]


def test_authorization_of_the_mcp_server_passes(both):
    """With Mcp-Tunnel-Authorization for the relay, Authorization is left to the MCP server."""

    def scenario(endpoint):
        for_relay = [("Mcp-Tunnel-Authorization", v) for v in endpoint.headers.values()]
        with connect(endpoint) as connection:
            seen = connection.call("GET", for_relay + [("Authorization", "Bearer of-the-server")]).json()
        return seen_by_server(seen["headers"])

    assert ("authorization", "Bearer of-the-server") in both("raw", scenario)


@pytest.mark.parametrize(
    "headers",
    [
        case("cookies"),
        case("unauthorized"),
        case("retry-after"),
        case("retry-after", status=429),
        case("accepted-chunked"),
        case("accepted-empty"),
        case("no-content"),
        case("early-hints"),
        case("until-close"),
        case("http10"),
        *[
            case("status", status=s)
            for s in ("200 OK", "400 Bad", "404 Not Found", "409 Odd Reason: x", "418 Teapot", "500 Oops", "507 Full")
        ],
    ],
    ids=lambda h: " ".join(v for _, v in h).replace(" ", "-"),
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_response_is_unchanged(both, method, headers):
    def scenario(endpoint):
        return response_record(exchange(endpoint, method, JSON_HEADERS + headers, CALL if method == "POST" else None))

    record = both("raw", scenario)
    assert record["status"] != 100


def test_202_for_notification_has_no_body(both):
    def scenario(endpoint):
        body = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        return response_record(post(endpoint, case("accepted-chunked"), body))

    record = both("raw", scenario)
    assert record["status"] == 202 and record["length"] == 0


def test_early_hints_do_not_shift_answers(both):
    """A 103 before the answer of one call must not become, or delay, the answer of another."""

    def scenario(endpoint):
        answers = []
        with connect(endpoint) as connection:
            for number in range(12):
                name = "early-hints" if number % 3 == 0 else "echo"
                answer = connection.call("POST", endpoint.pairs() + JSON_HEADERS + case(name, f"hint-{number}"), CALL)
                answers.append(answer.json().get("key") or "echo")
        return answers

    assert both("raw", scenario) == [f"hint-{n}" if n % 3 == 0 else "echo" for n in range(12)]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_head_before_any_body_byte(both, raw_control, fresh_key, method):
    """The server sends no body byte until this test, that has seen the head, lets it."""

    def scenario(endpoint):
        key = fresh_key()
        with connect(endpoint) as connection:
            connection.request(
                method, endpoint.pairs() + JSON_HEADERS + case("head-first", key), CALL if method == "POST" else None
            )
            response = connection.head()
            raw_control("release", key)
            return response_record(connection.read(response))

    assert both("raw", scenario)["status"] == 200


def test_each_event_as_it_is_made(both, raw_control, fresh_key):
    def scenario(endpoint):
        key, seen = fresh_key(), []
        with connect(endpoint) as connection:
            connection.request("POST", endpoint.pairs() + JSON_HEADERS + case("steps", key, steps=5), CALL)
            for ident, message in Events(connection, connection.head()).messages():
                seen.append((ident, message["step"]))
                raw_control("release", f"{key}-{message['step'] + 1}")
        return seen

    assert both("raw", scenario) == [(str(n), n) for n in range(5)]


def test_half_an_event_is_not_held_back(both, raw_control, fresh_key):
    def scenario(endpoint):
        key = fresh_key()
        with connect(endpoint) as connection:
            connection.request("GET", endpoint.pairs() + case("half-event", key))
            response = connection.head()
            start = connection.until(b'{"first')
            raw_control("release", key)
            rest = connection.until(b' half":1}\n\n')
            connection.until(b"\r\n0\r\n\r\n")
            return response.status, start.endswith(b'data: {"first'), len(rest) > 0

    assert both("raw", scenario) == (200, True, True)


@pytest.mark.parametrize(
    "how", ["length-reset", "length-close", "chunked-reset", "chunked-close", "midchunk-reset", "midchunk-close"]
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_broken_answer_never_looks_complete(both, raw_control, fresh_key, method, how):
    def scenario(endpoint):
        key = fresh_key()
        with connect(endpoint) as connection:
            connection.request(
                method, endpoint.pairs() + JSON_HEADERS + case("cut", key, how=how), CALL if method == "POST" else None
            )
            response = connection.head()
            raw_control("release", key)
            return response.status, ending(connection, response)

    assert both("raw", scenario) == (200, "truncated")


@pytest.mark.parametrize("leave", ["close", "abort"])
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("name", ["silent", "endless"])
def test_agent_that_vanishes_ends_the_request(both, raw_control, fresh_key, name, method, leave):
    """silent: before the first byte of an answer; endless: in the middle of one."""

    def scenario(endpoint):
        key = fresh_key()
        connection = connect(endpoint)
        connection.request(
            method, endpoint.pairs() + JSON_HEADERS + case(name, key), CALL if method == "POST" else None
        )
        wait_until(lambda: "started" in raw_control("seen", key), 15, "the request to reach the server")
        if name == "endless":
            events = Events(connection, connection.head())
            assert [m["n"] for _, m in itertools.islice(events.messages(), 3)] == [0, 1, 2]
        getattr(connection, leave)()
        return wait_until(
            lambda: (s := raw_control("seen", key)) and "gone" in s and s, 15, "the server to see the end"
        )

    assert both("raw", scenario) == ["started", "gone"]


@pytest.mark.parametrize("chunked", ["", "yes"], ids=["length", "chunked"])
def test_64_mib_down(both, raw_control, fresh_key, chunked):
    def scenario(endpoint):
        key = fresh_key()
        digest, size = hashlib.sha256(), 0
        extra = {"bytes": 64 * MIB, **({"chunked": chunked} if chunked else {})}
        with connect(endpoint) as connection:
            connection.request("GET", endpoint.pairs() + case("download", key, **extra))
            response = connection.head()
            for piece in connection.pieces(response):
                digest.update(piece)
                size += len(piece)
        wait_until(
            lambda: raw_control("seen", key) == [digest.hexdigest()], 5, "the server's checksum to be the client's"
        )
        return response.status, size, digest.hexdigest()

    assert both("raw", scenario)[1] == 64 * MIB


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_64_mib_up(both, chunked):
    start = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"store","arguments":{"blob":"'
    end = b'"}}}'
    filling = bytes(ord("a") + i % 26 for i in range(MIB))
    parts = [start] + [filling] * 64 + [end]
    expected = hashlib.sha256(b"".join(parts)).hexdigest()

    def scenario(endpoint):
        with connect(endpoint, 90) as connection:
            body = {"chunks": parts} if chunked else {"body": b"".join(parts)}
            connection.request("POST", endpoint.pairs() + JSON_HEADERS, **body)
            seen = connection.read(connection.head()).json()
        return seen["length"], seen["sha256"]

    assert both("raw", scenario) == (64 * MIB + len(start) + len(end), expected)


def test_expect_100_continue(both):
    def scenario(endpoint):
        with connect(endpoint) as connection:
            head = [
                f"POST {connection.path} HTTP/1.1",
                f"Host: {connection.host}",
                f"Content-Length: {len(CALL)}",
                "Expect: 100-continue",
            ] + [f"{n}: {v}" for n, v in endpoint.pairs() + JSON_HEADERS]
            connection.send(("\r\n".join(head) + "\r\n\r\n").encode())
            interim = connection.until(b"\r\n\r\n").split(b" ")[1]
            connection.send(CALL)
            return interim, connection.read(connection.head()).json()["sha256"]

    assert both("raw", scenario) == (b"100", hashlib.sha256(CALL).hexdigest())


def test_many_requests_on_one_connection(both):
    def scenario(endpoint):
        answers = []
        with connect(endpoint) as connection:
            for number in range(50):
                body = rpc("tools/call", {"name": "x", "arguments": {"n": number}}, number)
                answers.append(connection.call("POST", endpoint.pairs() + JSON_HEADERS, body).json()["sha256"])
        return answers

    assert len(set(both("raw", scenario))) == 50


def test_requests_that_do_not_wait_for_answers(both, raw_control, fresh_key):
    """Five requests in one go: answered all, each whole, in order; the first is slow."""

    def scenario(endpoint):
        keys = [fresh_key() for _ in range(5)]
        with connect(endpoint) as connection:
            for key in keys:
                connection.request("POST", endpoint.pairs() + JSON_HEADERS + case("wait-then-echo", key), CALL)
            wait_until(lambda: raw_control("seen", keys[0]), 10, "the first request to reach the server")
            for key in reversed(keys):
                raw_control("release", key)
            answers = [connection.read(connection.head()).json()["key"] for _ in keys]
            return [answer == key for answer, key in zip(answers, keys)]

    assert both("raw", scenario) == [True] * 5


@pytest.mark.parametrize("name", ["no-content", "not-modified", "accepted-chunked", "accepted-empty"])
def test_empty_answers_leave_the_connection_in_step(both, name):
    """No byte is left over that the next answer would begin with."""

    def scenario(endpoint):
        with connect(endpoint) as connection:
            empty = connection.call("GET", endpoint.pairs() + case(name))
            return empty.status, connection.call("GET", endpoint.pairs()).json()["method"]

    assert both("raw", scenario)[1] == "GET"


def test_request_in_single_bytes(both):
    """A slow client: every byte of head and body in a packet of its own."""

    def scenario(endpoint):
        with connect(endpoint) as connection:
            headers = endpoint.pairs() + JSON_HEADERS + [("Content-Length", str(len(CALL)))]
            text = f"POST {connection.path} HTTP/1.1\r\nHost: {connection.host}\r\n"
            text += "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n"
            for byte in text.encode() + CALL:
                connection.send(bytes([byte]))
            return connection.read(connection.head()).json()["sha256"]

    assert both("raw", scenario) == hashlib.sha256(CALL).hexdigest()


def test_64_parallel_calls_finish_in_any_order(both, raw_control, fresh_key):
    """All 64 are at the server before the first is answered; they are released in reverse order."""

    def scenario(endpoint):
        keys, answers, failures = [fresh_key() for _ in range(64)], {}, []

        def one(key):
            try:
                body = rpc("tools/call", {"name": "x", "arguments": {"key": key}})
                answers[key] = (
                    post(endpoint, case("wait-then-echo", key), body).json(),
                    hashlib.sha256(body).hexdigest(),
                )
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=one, args=(key,), daemon=True) for key in keys]
        for thread in threads:
            thread.start()
        wait_until(lambda: failures or all(raw_control("seen", key) for key in keys), 30, "all calls to be under way")
        for key in reversed(keys):
            raw_control("release", key)
        for thread in threads:
            thread.join(30)
        assert not failures, failures
        return [answers[key][0]["key"] == key and answers[key][0]["sha256"] == answers[key][1] for key in keys]

    assert both("raw", scenario) == [True] * 64


def test_reader_that_stops_does_not_hold_up_others(both):
    """One client asks for 64 MiB and reads nothing of it; small calls go on beside it."""

    def scenario(endpoint):
        with connect(endpoint) as stuck:
            stuck.request("GET", endpoint.pairs() + case("download", None, bytes=64 * MIB))
            stuck.head()
            return [post(endpoint, []).status for _ in range(20)]

    assert both("raw", scenario) == [200] * 20


def test_foreign_host_is_not_passed_on(endpoint, request):
    """The server refuses a foreign Host; through the tunnel it sees its own."""
    direct = endpoint("raw", "direct")
    with connect(direct) as connection:
        assert connection.call("GET", host="localhost.evil.example").json()["refused"] == "host"
    if not request.config.getoption("--direct-only"):
        assert exchange(endpoint("raw", "tunnel")).status == 200
