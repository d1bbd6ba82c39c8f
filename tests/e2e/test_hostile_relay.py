"""A relay that speaks mcp-tunnel.v1 wrongly, at a gateway: each way is a row, with the reason that must be named to it and in the
gateway's log. The gateway then serves a call through the next relay of its list, which behaves; and where only a stream was
broken, another call of the same session. What the MCP server got meanwhile was whole requests, to its path alone.
"""

import concurrent.futures
import json
import ssl
import struct
import threading

import pytest

from lib.calls import CALL
from lib.handmade import (
    ACK,
    CREDIT,
    DATA,
    GOAWAY,
    HEAD,
    HELLO,
    NOTE,
    OPEN,
    PING,
    PONG,
    RESET,
    WELCOME,
    Door,
    fields,
    frame,
    websocket,
)
from lib.hostile import (
    PROTOCOL,
    SLOTS,
    WAYS,
    Reset,
    Row,
    Session,
    before_greeting_rows,
    closing,
    common_rows,
    counts_back,
    field_rows,
    params,
    peak_mib,
    said_in_security,
    sends,
    side_by_side,
    small_quarantine,
    u32,
    u64,
)
from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS
from lib.records import exchange
from lib.recorder import Recorder
from lib.tunnel import Endpoint, Gateway, Relay

REFUSED, FLOW, BROKEN, BAD_REQUEST, NO_ROUTE, TOO_LARGE = 2, 10, 11, 15, 18, 8
ECHO = ("X-Key", "hostile")


class Dial:
    """The connection never becomes a session: what the log calls the failure, and what it says."""

    def __init__(self, failure, said):
        self.failure, self.said = failure, said


class Answered:
    """The MCP server answers, to a request that says nothing of what was tried; `without` is in no byte of it."""

    def __init__(self, *without):
        self.without = without


def welcome_row(name, said, *more, **changes):
    return Row(
        f"welcome-{name}", "greeting", lambda relay, _: relay.welcome(*more, **changes), Session(PROTOCOL + said)
    )


def opens(*more, ident=1, body=CALL, end=True, **changes):
    return lambda relay, _: relay.open(ident, *more, body=body, end=end, **changes)


def denied(name, reason, said, *more, body=CALL, **changes):
    return Row(f"open-{name}", "shared", opens(*more, body=body, **changes), Reset(reason, said))


def passes(name, *more, without=(), body=CALL, **changes):
    return Row(f"open-{name}", "shared", opens(*more, body=body, **changes), Answered(*without))


def both(*acts):
    return lambda relay, ident: [act(relay, ident) for act in acts]


def many(count, act_of):
    """One send for many frames."""

    def act(relay, _):
        relay.connection.send(b"".join(websocket(data, False) for n in range(1, count + 1) for data in act_of(n)))

    return act


OPEN_GET = fields((":kind", "exchange"), (":route", ""), (":method", "GET"), (":call", "c"), (":agent", "a"))
OPEN_POST = fields((":kind", "exchange"), (":route", ""), (":method", "POST"), (":call", "c"), (":agent", "a"))
NOT_GROWING = PROTOCOL + "stream ids do not grow"


def answer_upgrade(status, more="", **changes):
    return lambda relay, _: relay.upgrade(status, more, **changes)


def upgrade_row(name, failure, said, status="101 Switching Protocols", more="", **changes):
    return Row(f"upgrade-{name}", "tls", answer_upgrade(status, more, **changes), Dial(failure, said))


NOT_WEBSOCKET = ("not-a-control-plane", "not valid WebSocket")
SUBPROTOCOL = ("subprotocol-missing", "mcp-tunnel.v1")

ROWS = [
    # Before the tunnel protocol.
    Row("no-tls", "tcp", b"HTTP/1.1 200 OK\r\n\r\n", Dial("tls-failed", "")),
    Row("tls-of-garbage", "tcp", b"\x16\x03\x03\xff\xff" + b"\0" * 600, Dial("tls-failed", "")),
    Row("closes-before-tls", "tcp", b"", Dial("tls-failed|connect-failed", "")),
    upgrade_row("with-200", "not-a-control-plane", "answered HTTP 200", "200 OK"),
    upgrade_row(
        "with-a-redirect", "not-a-control-plane", "answered HTTP 302", "302 Found", "Location: https://127.0.0.1:1/\r\n"
    ),
    upgrade_row("with-a-wrong-accept", *NOT_WEBSOCKET, Sec_WebSocket_Accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    upgrade_row("without-accept", *NOT_WEBSOCKET, Sec_WebSocket_Accept=None),
    upgrade_row("without-upgrade", *NOT_WEBSOCKET, Upgrade=None),
    upgrade_row("with-an-extension", *NOT_WEBSOCKET, Sec_WebSocket_Extensions="permessage-deflate"),
    upgrade_row("without-a-subprotocol", *SUBPROTOCOL, Sec_WebSocket_Protocol=None),
    upgrade_row("with-another-subprotocol", *SUBPROTOCOL, Sec_WebSocket_Protocol="mcp-tunnel.v2"),
    upgrade_row("with-a-giant-head", "not-a-control-plane", "is not HTTP", more="X: " + "y" * 33000 + "\r\n"),
    upgrade_row("with-200-fields", "not-a-control-plane", "is not HTTP", more="X: y\r\n" * 200),
    upgrade_row("with-a-folded-field", "not-a-control-plane", "is not HTTP", more="X: y\r\n z\r\n"),
    upgrade_row("with-a-nul", "not-a-control-plane", "is not HTTP", more="X: y\0\r\n"),
    upgrade_row("of-http-2", "not-a-control-plane", "is not HTTP", "101\r\nHTTP/2 101 x"),
    Row(
        "endless-1xx",
        "tls",
        lambda r, _: (r.connection.until(b"\r\n\r\n"), r.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 20)),
        Dial("not-a-control-plane", "HTTP 100"),
    ),
    Row(
        "closes-instead-of-upgrading",
        "tls",
        lambda r, _: r.connection.until(b"\r\n\r\n"),
        Dial("not-a-control-plane", "closed the connection"),
    ),
    Row(
        "half-an-upgrade-and-silence",
        "silent",
        lambda r, _: r.connection.send(b"HTTP/1.1 101 Sw"),
        Dial("not-a-control-plane", "no answer to the upgrade request"),
        11,
    ),
    # Greeting.
    Row("upgrade-and-silence", "greeting", lambda *_: None, Session("protocol: no WELCOME in time"), 11),
    *before_greeting_rows(),
    Row(
        "hello-from-a-relay",
        "greeting",
        sends(HELLO, fields((":version", "1"))),
        Session(PROTOCOL + "unexpected HELLO"),
    ),
    Row(
        "masked-frame",
        "greeting",
        lambda r, _: r.connection.send(websocket(b"x", True)),
        Session(PROTOCOL + "masked frame from a server"),
    ),
    welcome_row("of-version-2", "greeting with another :version than 1", version="2"),
    welcome_row("without-a-session", "greeting with a malformed :session", session=None),
    welcome_row("with-an-empty-session", "greeting with a malformed :session", session=""),
    welcome_row("with-a-long-session", "greeting with a malformed :session", session="0" * 34),
    welcome_row("that-resumes-nothing", "WELCOME resumes a session that was not asked for", resumed="1"),
    welcome_row("with-resumed-2", "WELCOME without a valid :resumed", resumed="2"),
    welcome_row("that-has-received-frames", "WELCOME with an impossible :received", received="1"),
    welcome_row("that-has-received-everything", "WELCOME with an impossible :received", received=str(2**64 - 1)),
    welcome_row("with-a-small-payload", "greeting without a valid :max-payload", max_payload="16"),
    welcome_row("with-a-giant-window", "greeting without a valid :window", window=str(2**31)),
    welcome_row("with-grace-below-0", "WELCOME without a valid :grace-ms", grace_ms="-1"),
    welcome_row("with-two-sessions", "pseudo-field twice", (":session", "0" * 32)),
    Row("welcome-twice", "greeting", lambda r, _: (r.welcome(), r.welcome()), Session(PROTOCOL + "unexpected WELCOME")),
    Row("welcome-of-garbage", "greeting", sends(WELCOME, b"\xff" * 100), Session(PROTOCOL + "field cut short")),
    # Attached.
    *common_rows(),
    Row("note-from-a-relay", "attached", sends(NOTE, fields((":audit", "x"))), Session(PROTOCOL + "NOTE from a relay")),
    Row("hello-late", "attached", sends(HELLO, fields((":version", "1"))), Session(PROTOCOL + "unexpected HELLO")),
    *field_rows(OPEN, "attached", 1),
    Row(
        "open-on-stream-0",
        "attached",
        sends(OPEN, OPEN_GET, 0),
        Session(PROTOCOL + "stream frame without a valid stream id"),
    ),
    Row("open-twice", "attached", both(sends(OPEN, OPEN_POST, 1), sends(OPEN, OPEN_POST, 1)), Session(NOT_GROWING)),
    Row(
        "open-below-the-last",
        "attached",
        both(sends(OPEN, OPEN_POST, 8), sends(OPEN, OPEN_POST, 7)),
        Session(NOT_GROWING),
    ),
    Row(
        "open-again-after-reset",
        "attached",
        both(sends(OPEN, OPEN_POST, 3), sends(RESET, u32(1), 3), sends(OPEN, OPEN_POST, 3)),
        Session(NOT_GROWING),
    ),
    Row(
        "open-of-the-last-id-and-on",
        "attached",
        both(sends(OPEN, OPEN_POST, 2**31 - 1), sends(OPEN, OPEN_POST, 1)),
        Session(NOT_GROWING),
    ),
    Row(
        "open-and-reset-flood",
        "attached",
        many(4000, lambda n: (frame(OPEN, OPEN_POST, n), frame(RESET, u32(1), n))),
        Session("abuse: too many RESET frames"),
        1,
    ),
    Row(
        "reset-flood",
        "attached",
        both(sends(OPEN, OPEN_POST, 1), sends(RESET, u32(1), 1, times=3300)),
        Session("abuse: too many RESET frames"),
    ),
    Row(
        "open-flood",
        "attached",
        many(6000, lambda n: (frame(OPEN, OPEN_POST, n),)),
        Session("abuse: too many streams that have to be refused"),
        1,
    ),
    Row(
        "empty-data-flood",
        "attached",
        both(sends(OPEN, OPEN_POST, 1), sends(DATA, b"", 1, times=1200)),
        Session("abuse: too many empty DATA frames"),
    ),
    Row(
        "ack-goes-back",
        "answered",
        counts_back(ACK),
        Session(PROTOCOL + "acknowledgement of frames that were not sent"),
    ),
    Row(
        "ping-count-goes-back",
        "answered",
        counts_back(PING),
        Session(PROTOCOL + "acknowledgement of frames that were not sent"),
    ),
    Row(
        "pong-count-goes-back",
        "answered",
        counts_back(PONG),
        Session(PROTOCOL + "acknowledgement of frames that were not sent"),
    ),
    Row(
        "half-a-frame-and-silence",
        "attached",
        lambda r, _: r.connection.send(b"\x82\x7e\x10"),
        Session("keepalive: nothing arrived for two keepalive times"),
        7,
    ),
    Row(
        "silence-with-a-call",
        "attached",
        sends(OPEN, OPEN_POST, 1),
        Session("keepalive: nothing arrived for two keepalive times"),
        7,
    ),
    Row(
        "resumes-another-session",
        "second",
        lambda r, w: r.welcome(resumed="1"),
        Session(PROTOCOL + "WELCOME names another session"),
        1,
    ),
    Row(
        "resumes-with-a-count-too-high",
        "second",
        lambda r, w: r.welcome(resumed="1", session=w[":session"], received="999"),
        Session(PROTOCOL + "WELCOME with an impossible :received"),
        1,
    ),
    Row(
        "resumes-with-a-count-too-low",
        "second",
        lambda r, w: r.welcome(resumed="1", session=w[":session"], received="0"),
        Session(PROTOCOL + "WELCOME with an impossible :received"),
        1,
    ),
    # Streams of one session, which goes on.
    Row(
        "head-from-a-relay",
        "shared",
        both(opens(body=b"{", end=False), lambda r, i: r.send(HEAD, fields((":status", "200")), i)),
        Reset(BROKEN, "unexpected HEAD"),
    ),
    Row(
        "data-after-end",
        "shared",
        both(opens(("X-Hold", "1")), lambda r, i: r.send(DATA, b"x", i)),
        Reset(BROKEN, "DATA after END"),
    ),
    Row(
        "credit-of-nothing",
        "shared",
        both(opens(end=False), lambda r, i: r.send(CREDIT, u32(0), i)),
        Reset(FLOW, "CREDIT of nothing"),
    ),
    Row(
        "credit-above-the-most",
        "shared",
        both(opens(end=False), lambda r, i: r.send(CREDIT, u32(2**31 - 1), i)),
        Reset(FLOW, "credit above 2^31 - 1"),
    ),
    denied("of-a-pipe", REFUSED, "exchanges only", kind="pipe"),
    denied("of-nothing", REFUSED, "exchanges only", kind=None),
    denied("of-another-route", NO_ROUTE, "no such route", route="admin"),
    denied("of-a-path-as-route", NO_ROUTE, "no such route", route="../../admin"),
    denied("with-method-put", BAD_REQUEST, "method not carried", method="PUT"),
    denied("with-method-connect", BAD_REQUEST, "method not carried", method="CONNECT"),
    denied("with-a-request-line-as-method", BAD_REQUEST, "method not carried", method="POST /admin HTTP/1.1"),
    denied("without-a-method", BAD_REQUEST, "method not carried", method=None),
    denied("with-a-query", BAD_REQUEST, "query string is not allowed", query="a=b"),
    denied("with-a-control-byte", BAD_REQUEST, "invalid header value", ("X-A", "a\x01b")),
    denied("with-a-padded-value", BAD_REQUEST, "invalid header value", ("X-A", " a")),
    denied("with-a-control-byte-in-the-agent", BAD_REQUEST, "invalid header value", agent="a\x7f"),
    denied("with-no-json", BAD_REQUEST, "not a JSON-RPC message", body=b"POST /admin HTTP/1.1\r\n\r\n"),
    denied("with-two-messages-in-a-row", BAD_REQUEST, "not a JSON-RPC message", body=CALL + CALL),
    denied(
        "with-a-request-behind-the-message",
        BAD_REQUEST,
        "not a JSON-RPC message",
        body=CALL + b"GET /admin HTTP/1.1\r\n\r\n",
    ),
    denied("with-another-method-in-the-header", 16, "Mcp-Method", ("Mcp-Method", "tools/list")),
    Row("open-with-a-giant-body", "shared", lambda r, i: big_body(r, i), Reset(TOO_LARGE, "--max-request-bytes")),
    passes("with-a-path", (":path", "/admin"), without=(b"admin",)),
    passes("with-an-authority", (":authority", "evil.example"), (":scheme", "https"), without=(b"evil",)),
    passes("with-a-foreign-host", ("Host", "evil.example"), without=(b"evil",)),
    passes("with-a-foreign-origin", ("Origin", "https://evil.example"), without=(b"evil",)),
    passes("with-a-wrong-length", ("Content-Length", "5"), without=(b"Length: 5\r",)),
    passes(
        "with-two-lengths", ("Content-Length", "5"), ("content-length", "6"), without=(b"ength: 5\r", b"ength: 6\r")
    ),
    passes("with-a-transfer-coding", ("Transfer-Encoding", "chunked"), without=(b"chunked",)),
    passes("with-an-underscore-length", ("Content_Length", "5"), ("Transfer_Encoding", "chunked"), without=(b"_",)),
    passes(
        "with-hop-by-hop-fields",
        ("Connection", "close"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Keep-Alive", "1"),
        without=(b"h2c", b"close", b"railers"),
    ),
    passes("with-a-forged-agent", ("Mcp-Tunnel-Agent", "root"), ("mcp_tunnel_agent", "root"), without=(b"root",)),
    passes("with-expect", ("Expect", "100-continue"), without=(b"100-",)),
    passes("with-proxy-credentials", ("Proxy-Authorization", "Basic eDp5"), without=(b"eDp5",)),
]


def big_body(relay, ident):
    relay.open(ident, body=b'{"jsonrpc":"', end=False)
    try:
        for _ in range(80):
            relay.send(DATA, b"x" * 16384, ident)
    except OSError:
        pass


class Hand:
    """A gateway whose first relay is made by hand and whose second one behaves."""

    def __init__(self, stage, slot, *options):
        self.door = Door(stage.certs.server)
        tunnel = f"v{slot}"
        self.endpoint = stage.endpoints[tunnel]
        self.gateway = Gateway(
            stage.programs,
            stage.work,
            stage.tokens[tunnel],
            stage.recorder.url,
            self.door.url,
            stage.certs.ca.cert,
            "--control-plane",
            stage.relay.control_plane,
            "--max-request-bytes",
            "1M",
            "--drain-timeout",
            "1s",
            *options,
            env=small_quarantine(),
        ).start(wait_ready=False)
        self.process = self.gateway.process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.door.close()
        self.gateway.stop()


class Stage:
    def __init__(self, programs, work, certs):
        self.programs, self.work, self.certs, self.recorder = programs, work, certs, Recorder()
        self.relay = Relay(programs, work, *certs.server, "--hold", "10s", "--resume-grace", "0")
        self.tokens, self.endpoints, self.peaks, self.lock = {}, {}, {}, threading.Lock()
        for name in ("calm", *(f"v{slot}" for slot in range(SLOTS))):
            self.tokens[name] = self.relay.add_tunnel(name)
            self.endpoints[name] = self.relay.add_agent("agent", name)
        self.relay.start()
        for name, key in self.endpoints.items():
            self.endpoints[name] = Endpoint(
                self.relay.url(name), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert
            )
        self.calm = Gateway(
            programs, work, self.tokens["calm"], self.recorder.url, self.relay.control_plane, certs.ca.cert
        ).start()

    def stop(self):
        self.calm.stop()
        self.relay.stop()
        self.recorder.stop()

    def call(self, endpoint, key):
        answer = exchange(endpoint, "POST", JSON_HEADERS + [("X-Key", key)], CALL)
        assert (answer.status, answer.json().get("key")) == (200, key), answer.body

    def play(self, row, slot):
        with Hand(self, slot, *(("--keepalive", "3s") if row.seconds == 7 else ())) as hand:
            try:
                getattr(self, "_" + type(row.comes).__name__.lower())(row, hand)
            finally:
                with self.lock:
                    self.peaks[row.name] = peak_mib(hand.process)
        self.call(self.endpoints["calm"], f"calm-{row.name}")

    def recovers(self, row, hand):
        """At the next relay of its list."""
        hand.process.wait_line(r"connected to localhost:%d" % self.relay.port, 15)
        self.call(hand.endpoint, f"again-{row.name}")

    def _dial(self, row, hand):
        relay = hand.door.accept(tls=row.state != "tcp")
        if row.state == "tcp":
            relay.connection.send(row.act)
        else:
            try:
                row.act(relay, 0)
            except (BrokenPipeError, ConnectionResetError):
                pass
        if row.name.startswith("closes"):
            relay.connection.close()
        hand.process.wait_line(rf"not connected to .*: .*{row.comes.said}.*\(({row.comes.failure})\)", 15)
        relay.connection.close()
        self.recovers(row, hand)

    def _session(self, row, hand):
        relay, told = self.reach(row.state, hand)
        with relay:
            try:
                row.act(relay, told)
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert closing(relay) == row.comes.said
        hand.process.wait_line(rf"not connected to .*: {row.comes.said} \((protocol-error|connection-lost)\)", 15)
        self.recovers(row, hand)

    def reach(self, state, hand):
        """A connection in that state, and what the act has to know."""
        relay, told = hand.door.accept(), None
        if state == "greeting":
            relay.upgrade()
            relay.read(HELLO)
            return relay, told
        _, told = relay.attach(grace_ms="30000" if state == "second" else "500")
        if state == "answered":
            relay.open(1, ECHO, body=CALL)
            assert relay.answer(1)[0][":status"] == "200"
        elif state == "second":
            relay.open(1, ECHO, body=CALL)
            assert relay.answer(1)[0][":status"] == "200"
            relay.send(ACK, u64(relay.received))
            relay.open(2, ("X-Hold", "1"), body=CALL)
            wait_until(
                lambda: "mcp_tunnel_gateway_exchanges_open 1\n" in hand.gateway.health("/metrics")[1],
                10,
                "the call to be open",
            )
            told = {":" + n: v for n, v in told.items()}
            relay.connection.abort()
            relay = hand.door.accept()
            relay.upgrade()
            relay.read(HELLO)
        return relay, told


@pytest.fixture(scope="module")
def stage(programs, work, certs):
    stage = Stage(programs, work, certs)
    yield stage
    stage.stop()


@pytest.fixture(scope="module")
def played(request, stage):
    with side_by_side(request, stage.play) as futures:
        yield futures


APART = [row for row in ROWS if row.state != "shared"]
SHARED = [row for row in ROWS if row.state == "shared"]


def test_there_are_enough():
    assert len(ROWS) > said_in_security(WAYS) >= 60


@pytest.mark.parametrize("row", **params(APART))
def test_hostile_relay(played, row):
    played[row.name].result()


@pytest.fixture(scope="module")
def session(stage):
    """A session that all rows share which break but a stream."""
    with Hand(stage, 0) as hand, hand.door.accept() as relay:
        relay.attach()
        relay.next_id = 1
        yield relay, hand


@pytest.mark.parametrize("shared", SHARED, ids=[row.name for row in SHARED])
def test_hostile_relay_on_one_stream(stage, session, shared):
    relay, _ = session
    ident, other = relay.next_id, relay.next_id + 1
    relay.next_id += 2
    mark = stage.recorder.mark()
    on_ident(shared, relay, ident)
    got = relay.answer(ident)
    if isinstance(shared.comes, Reset):
        assert got[0] == shared.comes.reason and shared.comes.said in got[1], got
        assert shared.comes.reason in (FLOW, BROKEN) or not stage.recorder.since(mark)
    else:
        assert got[0][":status"] == "200", got
        raw = b"".join(stage.recorder.since(mark))
        assert not [w for w in shared.comes.without if w.lower() in raw.lower()], raw
    relay.open(other, ("X-Key", shared.name), body=CALL)
    pairs, body = relay.answer(other)
    assert pairs[":status"] == "200" and json.loads(body)["key"] == shared.name


def on_ident(row, relay, ident):
    """The act, with its OPEN on that stream."""
    wrapped = relay.open
    relay.open = lambda _, *more, **how: wrapped(ident, *more, **how)
    try:
        row.act(relay, ident)
    finally:
        relay.open = wrapped


def test_the_server_saw_nothing_else(played, stage):
    """Every byte that came to it was a request of ours: to its path, with its Host and one length."""
    concurrent.futures.wait(played.values())
    stage.recorder.check()


def test_memory_stays_bounded(played, stage):
    concurrent.futures.wait(played.values())
    least = min(stage.peaks.values())
    assert not {name: peak for name, peak in stage.peaks.items() if peak > least + 64}


def test_relay_of_tls_1_2(stage):
    """Refused, unless the operator asks for it."""
    with Hand(stage, 0) as hand:
        hand.door.context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError):
            hand.door.accept()
        hand.process.wait_line(r"not connected to .*\(tls-failed\)")
        hand.process.wait_line(r"connected to localhost:%d" % stage.relay.port)


def test_goaway_and_on(stage):
    """A relay that goes away and opens streams all the same: they are served, and nothing is lost."""
    with Hand(stage, 0) as hand, hand.door.accept() as relay:
        relay.attach()
        relay.send(GOAWAY, struct.pack("!II", 0, 20))
        relay.open(1, ECHO, body=CALL)
        assert relay.answer(1)[0][":status"] == "200"
