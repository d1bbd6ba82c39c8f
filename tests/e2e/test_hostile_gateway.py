"""A gateway that holds a token and speaks mcp-tunnel.v1 wrongly, at a relay: each way is a row, with the reason that must be named
to it and in the relay's log. Meanwhile another tunnel's call goes on, and afterwards a proper gateway takes the tunnel over.
"""

import concurrent.futures
import re
import socket
import threading

import pytest

from lib.calls import CALL
from lib.handmade import (
    ACK,
    CREDIT,
    DATA,
    END,
    HEAD,
    NOTE,
    OPEN,
    PING,
    RESET,
    WELCOME,
    HandGateway,
    fields,
    read_fields,
    websocket,
)
from lib.hostile import (
    PROTOCOL,
    SLOTS,
    TOO_LONG,
    WAYS,
    Harmless,
    Lost,
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
    raw_frame,
    said_in_security,
    sends,
    side_by_side,
    small_quarantine,
    u32,
)
from lib.procs import SCALE
from lib.rawhttp import JSON_HEADERS, Connection, Truncated
from lib.records import exchange
from lib.tunnel import Endpoint, Gateway, Relay
from test_hand_gateway import Agent

FLOW, BROKEN = 10, 11


class Refused:
    """The upgrade is answered with that status and text."""

    def __init__(self, status, said):
        self.status, self.said = status, said


class Cut:
    """The connection ends without a word."""


def upgrade(status, said, **changes):
    return Refused(status, said), changes


OK = [(":status", "200")]
HEAD_OK = fields(*OK)


def head_then(*acts):
    def act(gateway, ident):
        gateway.send(HEAD, HEAD_OK, ident)
        for one in acts:
            one(gateway, ident)

    return act


def both(*acts):
    return lambda gateway, ident: [one(gateway, ident) for one in acts]


def on_stream(kind, payload=b"", flags=0, times=1):
    return lambda gateway, ident: sends(kind, payload, ident, flags, times)(gateway, ident)


def hello_row(name, said, *more, **changes):
    return Row(
        f"hello-{name}", "greeting", lambda gateway, _: gateway.hello(*more, **changes), Session(PROTOCOL + said)
    )


def upgrade_row(name, status, said, **changes):
    return Row(f"upgrade-{name}", "tls", changes, Refused(status, said))


def resumed_by(other, **how):
    """The session of the gateway that behaves is named in another's HELLO."""

    def act(gateway, session):
        gateway.hello(**{n: session if v == "SESSION" else v for n, v in how.items()})

    return Row(other, "greeting-foreign", act, Harmless())


ROWS = [
    # Before the tunnel protocol.
    Row("tcp-and-silence", "tcp", b"", Cut(), 11),
    Row("plain-http-on-the-tls-port", "tcp", b"GET /v1/tunnel HTTP/1.1\r\nHost: localhost\r\n\r\n", Cut()),
    Row("tls-of-garbage", "tcp", b"\x16\x03\x01\xff\xff" + b"\xff" * 600, Cut()),
    Row("half-an-upgrade-and-silence", "half-upgrade", None, Cut(), 11),
    upgrade_row("without-upgrade", 426, "WebSocket upgrades only", Upgrade=None),
    upgrade_row("to-something-else", 426, "WebSocket upgrades only", Upgrade="h2c"),
    upgrade_row("of-version-12", 426, "version 13", Sec_WebSocket_Version="12"),
    upgrade_row("without-a-key", 400, "Sec-WebSocket-Key", Sec_WebSocket_Key=None),
    upgrade_row("with-a-short-key", 400, "Sec-WebSocket-Key", Sec_WebSocket_Key="c2hvcnQ="),
    upgrade_row("to-another-subprotocol", 400, "subprotocol", Sec_WebSocket_Protocol="mcp-tunnel.v2"),
    upgrade_row("with-a-giant-body", 400, "no body", Content_Length="70000"),
    upgrade_row("without-a-token", 401, "token is not valid", Authorization=None),
    upgrade_row("with-a-wrong-token", 401, "token is not valid", Authorization="Bearer mtt_v0_" + "A" * 43),
    upgrade_row("with-a-giant-token", 401, "token is not valid", Authorization="Bearer mtt_v0_" + "A" * 6000),
    upgrade_row("for-another-tunnel", 401, "token is not valid", Mcp_Tunnel="calm"),
    upgrade_row(
        "with-two-ways-to-read-its-end",
        400,
        "Content-Length with Transfer-Encoding",
        Content_Length="0",
        Transfer_Encoding="chunked",
    ),
    upgrade_row("with-a-foreign-host", 400, "two Host fields", Host="evil.example"),
    # Greeting.
    Row("upgrade-and-silence", "greeting", lambda *_: None, Lost("protocol: no HELLO in time"), 11),
    *before_greeting_rows(),
    Row("note-before-the-greeting", "greeting", sends(NOTE), Session(PROTOCOL + "frame before the greeting")),
    Row(
        "welcome-from-a-gateway",
        "greeting",
        sends(WELCOME, fields((":version", "1"))),
        Session(PROTOCOL + "unexpected WELCOME"),
    ),
    Row("unmasked-frame", "greeting", raw_frame(b""), Session(PROTOCOL + "unmasked frame from a client")),
    hello_row("of-version-2", "greeting with another :version than 1", version="2"),
    hello_row("without-a-version", "greeting with another :version than 1", version=None),
    hello_row("without-received", "greeting without a valid :received", received=None),
    hello_row("with-received-below-0", "greeting without a valid :received", received="-1"),
    hello_row("with-received-above-64-bits", "greeting without a valid :received", received="18446744073709551616"),
    hello_row("with-a-small-payload", "greeting without a valid :max-payload", max_payload="1023"),
    hello_row("with-a-giant-payload", "greeting without a valid :max-payload", max_payload="4294967296"),
    hello_row("with-a-giant-window", "greeting without a valid :window", window="2147483648"),
    hello_row("with-a-short-session", "greeting with a malformed :session", session="0011"),
    hello_row("with-a-session-that-is-no-hex", "greeting with a malformed :session", session="z" * 32),
    hello_row("with-a-long-session", "greeting with a malformed :session", session="0" * 33),
    hello_row("that-replaces-what-is-no-session", "HELLO with a malformed :replaces", replaces="zz"),
    hello_row("without-max-streams", "HELLO without a valid :max-streams", max_streams=None),
    hello_row("with-two-sessions", "pseudo-field twice", (":session", "0" * 32)),
    Row("hello-twice-at-once", "greeting", lambda g, _: (g.hello(), g.hello()), Session(PROTOCOL + "unexpected HELLO")),
    resumed_by("resume-of-another-tunnels-session", session="SESSION"),
    resumed_by("replace-of-another-tunnels-session", replaces="SESSION"),
    resumed_by("resume-of-no-session", session="00112233445566778899aabbccddeeff"),
    # Attached.
    *common_rows(),
    Row("hello-again", "attached", lambda g, _: g.hello(), Session(PROTOCOL + "unexpected HELLO")),
    Row(
        "open-from-a-gateway",
        "attached",
        sends(OPEN, fields((":kind", "exchange")), 1),
        Session(PROTOCOL + "OPEN from a gateway"),
    ),
    Row("note-that-is-none", "attached", sends(NOTE, b"\0\x05\0"), Session(PROTOCOL + "field cut short")),
    Row("note-too-long", "attached", sends(NOTE, bytes(1025)), Session(TOO_LONG)),
    Row(
        "note-flood",
        "attached",
        sends(NOTE, fields((":audit", "a:1:b")), times=1300),
        Session("abuse: too many NOTE frames"),
    ),
    Row(
        "half-a-frame-and-silence",
        "attached",
        lambda g, _: g.connection.send(b"\x82\xfe\x10"),
        Lost("keepalive: nothing arrived for two keepalive times"),
        7,
    ),
    Row("silence", "attached", lambda *_: None, Lost("keepalive: nothing arrived for two keepalive times"), 7),
    # With a call.
    *field_rows(HEAD, "call", 1),
    Row("ack-goes-back", "call", counts_back(ACK), Session(PROTOCOL + "acknowledgement of frames that were not sent")),
    Row(
        "ping-count-goes-back",
        "call",
        counts_back(PING),
        Session(PROTOCOL + "acknowledgement of frames that were not sent"),
    ),
    Row("reset-flood", "call", on_stream(RESET, u32(1), times=3200), Session("abuse: too many RESET frames")),
    Row(
        "empty-data-flood", "call", head_then(on_stream(DATA, times=1200)), Session("abuse: too many empty DATA frames")
    ),
    Row("data-before-head", "call", on_stream(DATA, b"x"), Reset(BROKEN, "DATA before HEAD")),
    Row("head-twice", "call", head_then(on_stream(HEAD, HEAD_OK)), Reset(BROKEN, "unexpected HEAD")),
    Row("head-after-end", "call", on_stream(HEAD, HEAD_OK, END), Harmless()),
    Row("head-without-a-status", "call", on_stream(HEAD, fields(("A", "b"))), Reset(BROKEN, "")),
    Row("head-with-a-101", "call", on_stream(HEAD, fields((":status", "101"))), Reset(BROKEN, "")),
    Row("head-with-status-007", "call", on_stream(HEAD, fields((":status", "007"))), Reset(BROKEN, "")),
    Row(
        "head-with-two-lengths",
        "call",
        both(
            on_stream(HEAD, fields(*OK, ("Content-Length", "1"), ("content-length", "2"))), on_stream(DATA, b"x", END)
        ),
        Harmless(),
    ),
    Row(
        "head-with-a-length-that-is-none",
        "call",
        on_stream(HEAD, fields(*OK, ("Content-Length", "0x10"))),
        Reset(BROKEN, ""),
    ),
    Row(
        "more-data-than-credit",
        "call",
        # More than the relay gives credit for and the sockets to an agent that does not read take.
        head_then(on_stream(DATA, bytes(16384), times=2048)),
        Reset(FLOW, "more DATA than credit"),
        agent_reads=False,
    ),
    Row("credit-of-nothing", "call", on_stream(CREDIT, u32(0)), Reset(FLOW, "CREDIT of nothing")),
    Row("credit-above-the-most", "call", on_stream(CREDIT, u32(0x7FFFFFFF)), Reset(FLOW, "credit above 2^31 - 1")),
    Row("credit-of-32-bits", "call", on_stream(CREDIT, u32(0xFFFFFFFF)), Reset(FLOW, "credit above 2^31 - 1")),
]


class Stage:
    """A relay with a tunnel for each slot, and a calm one that has a gateway and an MCP server of its own."""

    def __init__(self, programs, work, certs, upstream):
        self.certs = certs
        self.relay = Relay(
            programs,
            work,
            *certs.server,
            "--hold",
            "2s",
            "--resume-grace",
            "0",
            "--keepalive",
            "3s",
            "--log-level",
            "debug",
            env=small_quarantine(),
        )
        self.tokens, self.endpoints = {}, {}
        for name in ("calm", *(f"v{slot}" for slot in range(SLOTS))):
            self.tokens[name] = self.relay.add_tunnel(name)
            self.endpoints[name] = self.relay.add_agent("agent", name)
        self.relay.start()
        for name, key in self.endpoints.items():
            self.endpoints[name] = Endpoint(
                self.relay.url(name), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert
            )
        self.calm = Gateway(
            programs, work, self.tokens["calm"], upstream, self.relay.control_plane, certs.ca.cert
        ).start()
        self.before_mib = peak_mib(self.relay.process)

    def stop(self):
        self.calm.stop()
        self.relay.stop()

    def gateway(self, tunnel):
        return HandGateway(self.relay, self.certs.ca.cert, self.tokens[tunnel], tunnel)

    def calm_call(self):
        answer = exchange(self.endpoints["calm"], "POST", JSON_HEADERS, CALL)
        assert answer.status == 200, answer.body

    def call_through(self, gateway, endpoint):
        agent = Agent(endpoint)
        ident, _ = gateway.take_call()
        gateway.answer(ident, ("X-Id", str(ident)), body=b"well")
        head, end = agent.finish()
        assert (head.status, head.body, end) == (200, b"well", "clean")

    # ---- one row ----

    def play(self, row, slot):
        tunnel, mark = f"v{slot}", self.relay.process.mark()
        getattr(self, "_" + type(row.comes).__name__.lower())(row, tunnel, mark)
        self.calm_call()

    def said(self, pattern, tunnel, mark):
        self.relay.process.wait_line(rf"tunnel {tunnel}: .*{pattern}", 15, mark)

    def recovers(self, tunnel):
        """A proper gateway takes the tunnel over."""
        with self.gateway(tunnel) as good:
            assert good.attach()[":resumed"] == "0"
            self.call_through(good, self.endpoints[tunnel])

    def misbehave(self, row, gateway, endpoint):
        """In the state of the row; the agent whose call it has, if it has one, and the stream's id."""
        agent, ident = None, 0
        if row.state != "greeting":
            gateway.greet()
        if row.state == "call":
            agent = Agent(endpoint, reads=None if row.agent_reads else threading.Event())
            ident, _ = gateway.take_call()
        try:
            row.act(gateway, ident)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return agent, ident

    def _session(self, row, tunnel, mark):
        with self.gateway(tunnel) as bad:
            if row.name == "unmasked-frame":
                bad.upgrade()
                bad.connection.send(websocket(b"", False))
                agent = None
            else:
                assert bad.upgrade() == 101
                agent, _ = self.misbehave(row, bad, self.endpoints[tunnel])
            assert closing(bad) == row.comes.said
        reason, detail = row.comes.said.split(": ")
        self.said(rf"\({reason}\): {re.escape(detail)}", tunnel, mark)
        if agent:
            head, end = agent.finish()
            assert head.status in (499, 502) if end == "clean" else end == "truncated", (head.status, end)
        self.recovers(tunnel)

    def _lost(self, row, tunnel, mark):
        self._session(row, tunnel, mark)

    def _reset(self, row, tunnel, mark):
        with self.gateway(tunnel) as bad:
            assert bad.upgrade() == 101
            agent, ident = self.misbehave(row, bad, self.endpoints[tunnel])
            _, _, same, payload = bad.read(RESET)
            reason, detail = int.from_bytes(payload[:4], "big"), payload[4:].decode()
            assert (same, reason) == (ident, row.comes.reason) and row.comes.said in detail, (reason, detail)
            if agent.reads:
                agent.reads.set()
            head, end = agent.finish()
            assert head.status in (499, 502) if end == "clean" else end == "truncated", (head.status, end)
            self.call_through(bad, self.endpoints[tunnel])

    def _harmless(self, row, tunnel, mark):
        endpoint = self.endpoints[tunnel]
        if row.state == "greeting-foreign":
            with self.gateway(tunnel) as bad:
                assert bad.upgrade() == 101
                row.act(bad, self.calm.process.find(r"session ([0-9a-f]{8})").group(1).ljust(32, "0"))
                bad.read(WELCOME)
                self.call_through(bad, endpoint)
            return
        with self.gateway(tunnel) as bad:
            assert bad.upgrade() == 101
            agent, _ = self.misbehave(row, bad, endpoint)
            if agent:
                agent.finish()
            self.call_through(bad, endpoint)

    def _refused(self, row, tunnel, mark):
        with self.gateway(tunnel) as bad:
            assert bad.upgrade(**row.act) == row.comes.status
            text = bad.connection.until(b"}\n").decode()
            assert row.comes.said in text, text
        self.recovers(tunnel)

    def _cut(self, row, tunnel, mark):
        if row.state == "tcp":
            with socket.create_connection(("127.0.0.1", self.relay.port), 15 * SCALE) as sock:
                sock.sendall(row.act)
                try:
                    while sock.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        else:
            with Connection(self.relay.url(tunnel), self.certs.ca.cert, 15) as connection:
                connection.send(b"GET /v1/tunnel HTTP/1.1\r\nHost: localhost\r\nUpgr")
                assert connection.read(connection.head()).status == 408
                with pytest.raises(Truncated):
                    connection.exactly(1)
        self.recovers(tunnel)


@pytest.fixture(scope="module")
def stage(programs, work, certs, servers):
    stage = Stage(programs, work, certs, servers.url("raw"))
    yield stage
    stage.stop()


@pytest.fixture(scope="module")
def played(request, stage):
    with side_by_side(request, stage.play) as futures:
        yield futures


def test_there_are_enough():
    assert len(ROWS) > said_in_security(WAYS) >= 60


@pytest.mark.parametrize("row", **params(ROWS))
def test_hostile_gateway(played, row):
    played[row.name].result()


def test_resume_of_a_living_session_with_another_token(stage):
    """Its id is known to the thief, with all 128 bits: it gets a session of its own, and the owner keeps its calls."""
    with stage.gateway("v0") as owner:
        session = owner.attach()[":session"]
        for how in ({"session": session}, {"replaces": session}, {"session": session, "received": "1"}):
            with stage.gateway("v1") as thief:
                assert thief.upgrade() == 101
                thief.hello(**how)
                assert dict(read_fields(thief.read(WELCOME)[3]))[":resumed"] == "0"
        stage.call_through(owner, stage.endpoints["v0"])


def test_memory_stays_bounded(played, stage):
    """After all of it."""
    concurrent.futures.wait(played.values())
    assert peak_mib(stage.relay.process) < stage.before_mib + 64
