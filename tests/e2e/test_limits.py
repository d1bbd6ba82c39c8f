"""What one agent, one tunnel, one address and everybody together may have of the relay, and how long a slow one may take."""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import re
import socket
import ssl
import struct
import threading
import time

import pytest
from prometheus_client.openmetrics import parser

from lib.calls import CALL
from lib.handmade import ACK, CREDIT, DATA, END, HEAD, OPEN, RESET, Closed, HandGateway, fields, read_fields
from lib.procs import SCALE, wait_until
from lib.rawhttp import JSON_HEADERS, Connection, Truncated
from lib.records import connect, exchange
from lib.tunnel import Endpoint, Relay

HOLD = ("X-Hold", "1")
MS = int(1000 * SCALE)


class Answering(HandGateway):
    """Answers every call at once, but for those that say X-Hold."""

    def start(self):
        self.attach()
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def leave(self):
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(socket.SHUT_RDWR)

    def _run(self):
        held = {}
        with contextlib.suppress(Truncated, Closed, OSError, ValueError):
            while True:
                try:
                    kind, flags, ident, payload = self.read(OPEN, DATA)
                except TimeoutError:
                    continue
                if kind == OPEN:
                    held[ident] = HOLD in read_fields(payload)
                if flags & END and not held[ident]:
                    self.answer(ident, ("Content-Type", "application/json"), body=b"{}")
                elif flags & END:
                    self.send(HEAD, fields((":status", "200"), ("Content-Type", "text/event-stream")), ident)


class Stage:
    """A relay with limits; the tunnels one and two, a gateway of the first, and its agents a and b."""

    always, hold = ("--admin-listen", "127.0.0.1:0"), ("--hold", "0")

    def __init__(self, programs, work, certs, *options, more=(), prefix=()):
        self.ca = certs.ca.cert
        hold = () if "--hold" in options else self.hold
        self.relay = Relay(programs, work, *certs.server, *self.always, *hold, *options, prefix=prefix)
        self.audit = self.relay.state / "audit.log"
        self.relay.options += ("--audit", f"file:{self.audit}")
        self.tokens = {name: self.relay.add_tunnel(name) for name in ("one", "two", *more)}
        keys = {agent: self.relay.add_agent(agent, "one") for agent in "ab"} | {"c": self.relay.add_agent("c", "two")}
        others = {name: self.relay.add_agent("d", name) for name in more}
        self.relay.start()
        self.others = {name: self.endpoint(name, key) for name, key in others.items()}
        self.a, self.b, self.c = (
            self.endpoint("two" if name == "c" else "one", key) for name, key in keys.items()
        )
        self.admin = self.relay.process.wait_line(r"health on (http://127\.0\.0\.1:\d+)").group(1)
        self.gateways = []

    def endpoint(self, tunnel, key):
        return Endpoint(self.relay.url(tunnel), "tunnel", {"Authorization": f"Bearer {key}"}, self.ca)

    def gateway(self, tunnel="one", kind=Answering):
        gateway = kind(self.relay, self.ca, self.tokens[tunnel], tunnel)
        self.gateways.append(gateway)
        return gateway.start() if kind is Answering else gateway

    def metric(self, name, **labels):
        with Connection(self.admin + "/metrics") as connection:
            text = connection.call("GET", [("Accept", "application/openmetrics-text;version=1.0.0")]).body.decode()
        found = [
            sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"mcp_tunnel_relay_{name}" and sample.labels == labels
        ]
        assert len(found) == 1, (name, labels)
        return found[0]

    def denied(self, reason):
        lines = self.audit.read_text().splitlines()
        return [r for r in map(json.loads, lines) if r["mcp_event"] == "call.denied" and r["mcp_reason"] == reason]

    def stop(self):
        for gateway in self.gateways:
            gateway.connection.close()
        self.relay.stop()


@pytest.fixture
def stage(programs, work, certs):
    with contextlib.ExitStack() as stack:

        def make(*options, **more):
            made = Stage(programs, work, certs, *options, **more)
            stack.callback(made.stop)
            return made

        yield make


def refused(answer, reason, status, ident="call-1"):
    """An HTTP error with a JSON-RPC error, and a time after which to try again."""
    message = answer.json()
    assert (answer.status, message["error"]["data"], message["id"]) == (
        status,
        {"reason": reason, "executed": "no"},
        ident,
    )
    assert "was not executed" in message["error"]["message"]
    if status == 429:
        assert int(answer.get("retry-after")) >= 1


# ---- requests a second ----


def until_refused(*endpoints):
    """Calls in turn, as fast as they go, until one is refused: how many were not, and that answer."""
    with contextlib.ExitStack() as stack:
        connections = [(stack.enter_context(connect(e)), e.pairs() + JSON_HEADERS) for e in endpoints]
        for n, (connection, headers) in enumerate(itertools.islice(itertools.cycle(connections), 1000)):
            answer = connection.call("POST", headers, CALL)
            if answer.status != 200:
                return n, answer
    pytest.fail("nothing was refused")


def test_agent_rate(stage):
    stage = stage("--agent-rate", "1")
    stage.gateway()
    count, answer = until_refused(stage.a)
    assert count >= 10
    refused(answer, "agent-rate", 429)
    assert exchange(stage.b, "POST", JSON_HEADERS, CALL).status == 200
    assert stage.metric("refused_total", reason="agent-rate") == 1
    (record,) = stage.denied("agent-rate")
    assert (record["mcp_agent_id"], record["mcp_tunnel_id"]) == ("a", "one")
    # It comes back by itself; and a stream counts as a call does.
    wait_until(lambda: exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200, 20, "the rate to allow one more")
    with connect(stage.a) as connection:
        while (answer := connection.call("GET", stage.a.pairs())).status == 200:
            pass
    refused(answer, "agent-rate", 429, None)


def test_refusals_fill_neither_log_nor_records(stage):
    stage = stage("--agent-rate", "1")
    stage.gateway()
    until_refused(stage.a)
    with connect(stage.a) as connection:
        for _ in range(300):
            connection.call("POST", stage.a.pairs() + JSON_HEADERS, CALL)
    count = int(stage.metric("refused_total", reason="agent-rate"))
    assert len(stage.denied("agent-rate")) < count / 2
    assert stage.relay.process.count("agent-rate") < count / 2


def test_tunnel_rate(stage):
    stage = stage("--tunnel-rate", "1")
    stage.gateway()
    stage.gateway("two")
    count, answer = until_refused(stage.a, stage.b)
    assert count >= 10
    refused(answer, "tunnel-rate", 429)
    assert exchange(stage.c, "POST", JSON_HEADERS, CALL).status == 200
    assert stage.metric("refused_total", reason="tunnel-rate") == 1
    assert len(stage.denied("tunnel-rate")) == 1


def test_without_limits_nothing_is_refused(stage):
    stage = stage()
    stage.gateway()
    with connect(stage.a) as connection:
        for _ in range(300):
            assert connection.call("POST", stage.a.pairs() + JSON_HEADERS, CALL).status == 200


# ---- at once ----


def test_streams_of_one_agent(stage):
    """GET streams count; what is over does not."""
    stage = stage("--max-streams-per-agent", "3")
    stage.gateway()
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(connect(stage.a)) for _ in range(3)]
        for stream in streams:
            stream.request("GET", stage.a.pairs() + [HOLD])
            assert stream.head().status == 200
        refused(exchange(stage.a, "POST", JSON_HEADERS, CALL), "agent-streams", 429)
        assert stage.metric("refused_total", reason="agent-streams") == 1
        assert exchange(stage.b, "POST", JSON_HEADERS, CALL).status == 200
        assert len(stage.denied("agent-streams")) == 1
        streams.pop().close()
        wait_until(lambda: exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200, 10, "the place to be free")
    # Kept connections do not hold one, and nor does a refused call.
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            connection = stack.enter_context(connect(stage.a))
            wait_until(
                lambda c=connection: c.call("POST", stage.a.pairs() + JSON_HEADERS, CALL).status == 200, 10, "a place"
            )


def test_streams_of_one_gateway(stage):
    """Of all its agents; another gateway has its own."""
    stage = stage("--max-streams", "2")
    stage.gateway()
    stage.gateway("two")
    with contextlib.ExitStack() as stack:
        for agent in (stage.a, stage.b):
            stream = stack.enter_context(connect(agent))
            stream.request("GET", agent.pairs() + [HOLD])
            assert stream.head().status == 200
        refused(exchange(stage.a, "POST", JSON_HEADERS, CALL), "refused-not-executed", 503)
        assert stage.metric("refused_total", reason="refused-not-executed") == 1
        assert exchange(stage.c, "POST", JSON_HEADERS, CALL).status == 200
    wait_until(lambda: exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200, 10, "the places to be free")


def is_closed(sock):
    """Whether the relay ends it without a word."""
    sock.settimeout(10 * SCALE)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def is_open(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except ConnectionResetError:
        return False


def knock(stage, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", stage.relay.port), 10, (source, 0))


def test_connections_of_one_address(stage):
    """The newest has its place at the expense of the oldest that has nothing under way; a gateway's session stays."""
    stage = stage("--max-connections-per-address", "5", "--head-timeout", "5m")
    stage.gateway()
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(knock(stage)) for _ in range(4)]
        wait_until(lambda: stage.metric("connections_open") == 5, 10, "all of them to be accepted")
        other = stack.enter_context(knock(stage, "127.0.0.2"))
        wait_until(lambda: stage.metric("connections_open") == 6, 10, "one from elsewhere")
        late = [stack.enter_context(knock(stage)) for _ in range(200)]
        assert all(map(is_closed, mine + late[:-4]))
        assert all(map(is_open, [*late[-4:], other]))
        assert stage.metric("connections_closed_total", reason="address-connections") == 200
        assert stage.metric("connections_open") == 6
        assert exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200
        assert stage.gateways[0].connection.eof is False
    stage.gateways[0].leave()
    wait_until(lambda: stage.metric("connections_open") == 0, 10, "nobody to be left")
    stage.relay.process.wait_line("max-connections-per-address")
    assert stage.relay.process.count("max-connections-per-address") <= 20


def held_open(stage, stack, endpoint):
    stream = stack.enter_context(connect(endpoint))
    stream.request("GET", endpoint.pairs() + [HOLD])
    assert stream.head().status == 200
    return stream


def test_what_is_under_way_makes_no_room(stage):
    """Before a byte of TLS, one more is closed at once."""
    stage = stage("--max-connections-per-address", "4", "--head-timeout", "5m")
    stage.gateway()
    with contextlib.ExitStack() as stack:
        streams = [held_open(stage, stack, stage.a) for _ in range(3)]
        for _ in range(200):
            with knock(stage) as late:
                assert is_closed(late)
        assert stage.metric("connections_closed_total", reason="address-connections") == 200
        assert all(stream.quiet(0.05) for stream in streams)
        with knock(stage, "127.0.0.2") as other:
            wait_until(lambda: stage.metric("connections_open") == 5, 10, "one from elsewhere")
            assert is_open(other)
        streams.pop().close()
        wait_until(lambda: stage.metric("connections_open") == 3, 10, "those that left")
        assert exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200
    stage.relay.process.wait_line("closed at once: there are --max-connections-per-address")
    assert stage.relay.process.count("closed at once") <= 20


def test_connections_in_all(stage, work):
    """Where a proxy or a load balancer is in front, only the sum counts."""
    path = work / "limits.sock"
    stage = stage(
        "--listen", f"http+unix:{path}", "--max-connections", "6", "--max-connections-per-address", "1", "--agent-auth", "bearer"
    )
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(6)]
        for sock in first:
            sock.connect(str(path))
        wait_until(lambda: stage.metric("connections_open") == 6, 10, "all of them to be accepted")
        late, later = stack.enter_context(socket.socket(socket.AF_UNIX)), stack.enter_context(knock(stage))
        late.connect(str(path))
        assert all(map(is_closed, first[:2])) and all(map(is_open, [*first[2:], late, later]))
        assert stage.metric("connections_closed_total", reason="connections") == 2
    wait_until(lambda: stage.metric("connections_open") == 0, 10, "nobody to be left")
    with Connection("http://localhost/t/one/mcp", unix=path) as connection:
        assert connection.call("POST", JSON_HEADERS, CALL).status == 401


def test_calls_leave_a_place_for_their_gateway(stage):
    """Agents with keys that wait for a gateway cannot be what keeps it out."""
    stage = stage("--hold", "5m", "--max-connections", "6", "--max-connections-per-address", "6")
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(stage.a)) for _ in range(5)]
        for n, connection in enumerate(waiting, 1):
            connection.request("POST", stage.a.pairs() + JSON_HEADERS, CALL)
            wait_until(lambda n=n: stage.metric("calls_held") == n, 10, "the call to wait")
        answer = exchange(stage.b, "POST", JSON_HEADERS, CALL)
        refused(answer, "address-connections", 503)
        assert int(answer.get("retry-after")) >= 1
        (record,) = stage.denied("address-connections")
        assert record["mcp_agent_id"] == "b"
        # Nor can those be without a key that come after them.
        idle = stack.enter_context(knock(stage))
        stage.gateway()
        assert is_closed(idle)
        assert [connection.read(connection.head()).status for connection in waiting] == [200] * 5


class Flood:
    """Connections without end, from many addresses, that say nothing and leave only when they have to."""

    most = 400

    def __init__(self, stage):
        self.stage, self.sockets, self.over = stage, collections.deque(), threading.Event()
        self.count, self.failed = 0, None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            while not self.over.wait(0.01):
                while self.sockets and not is_open(self.sockets[0]):
                    self.sockets.popleft().close()
                for _ in range(min(4, self.most - len(self.sockets))):
                    self.sockets.append(knock(self.stage, f"127.0.1.{self.count % 50 + 1}"))
                    self.count += 1
        except OSError as failed:
            self.failed = failed

    def __enter__(self):
        self.thread.start()
        wait_until(lambda: self.stage.metric("connections_closed_total", reason="connections") > 100, 60, "the flood to rise")
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        for sock in self.sockets:
            sock.close()


def in_spite_of_it(what):
    """Done at last, whatever is cut meanwhile."""

    def now():
        with contextlib.suppress(OSError, Truncated, Closed):
            what()
            return True
        return False

    wait_until(now, 60, "it to get through")


def test_flood_keeps_nobody_out(stage):
    """Neither a gateway that comes back nor an agent with a key; and what is under way is not touched."""
    stage = stage("--max-connections", "128", "--max-connections-per-address", "32", "--head-timeout", "5m", "--idle-timeout", "1h")
    stage.gateway()
    with contextlib.ExitStack() as stack:
        stream = held_open(stage, stack, stage.a)
        with Flood(stage) as flood:
            began = flood.count
            for _ in range(5):
                wait_until(lambda: stage.metric("connections_open") == 128, 60, "all places to be taken")
                in_spite_of_it(lambda: exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200)
                assert stream.quiet(0.05)
                in_spite_of_it(stage.gateway)
            wait_until(lambda: flood.count > began + 100 or flood.failed, 60, "the flood to go on")
            assert flood.failed is None
            assert stage.metric("gateways_attached") >= 5


def test_gateways_of_one_tunnel(stage):
    """Who has its token cannot take all places, nor have sessions without end wait."""
    stage = stage("--max-connections", "100", "--resume-grace", "10m")
    for round_ in range(1, 3):
        mine = [stage.gateway("two", HandGateway) for _ in range(64)]
        for gateway in mine:
            gateway.attach()
        extra = [stage.gateway("two", HandGateway) for _ in range(20)]
        assert {gateway.upgrade() for gateway in extra} == {503}
        stage.gateway("one")
        assert exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200
        assert stage.metric("gateways_attached") == 64 + round_
        for gateway in mine:
            gateway.connection.abort()
        wait_until(lambda n=round_: stage.metric("gateways_attached") == n, 20, "them to be gone")
        assert stage.metric("sessions_waiting") == 64
    stage.relay.process.wait_line("one more gateway was refused: 64 are connected already")
    stage.relay.process.wait_line("is over: more than 64 wait for their gateways")


def test_fewer_files_than_connections(stage):
    """They do not run out: keys are still revoked, and gateways come back."""
    stage = stage("--max-connections-per-address", "0", "--head-timeout", "5m", prefix=("prlimit", "--nofile=400:400"))
    stage.relay.process.wait_line("no more than 200 connections, not --max-connections 16384")
    with contextlib.ExitStack() as stack:
        for _ in range(450):
            stack.enter_context(knock(stage))
        wait_until(lambda: stage.metric("connections_open") == 200, 20, "all places to be taken")
        stage.gateway()
        assert exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 200
        stage.relay.command("agent", "remove", "a", "--tunnel", "one")
        wait_until(lambda: exchange(stage.a, "POST", JSON_HEADERS, CALL).status == 401, 20, "the key to be refused")
        assert exchange(stage.b, "POST", JSON_HEADERS, CALL).status == 200
    assert stage.relay.process.count("cannot accept connections") == 0


def test_as_many_files_as_connections(stage):
    """What a shell allows by default is not all that there is."""
    stage = stage("--max-connections", "500", "--max-connections-per-address", "0", prefix=("prlimit", "--nofile=100:2000"))
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(knock(stage))
        wait_until(lambda: stage.metric("connections_open") == 400, 20, "all of them to be accepted")
    assert stage.relay.process.count("no more than") == 0


def test_behind_a_proxy_addresses_do_not_count(stage):
    stage = stage("--behind-proxy", "--max-connections-per-address", "2")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(knock(stage))
        wait_until(lambda: stage.metric("connections_open") == 5, 10, "all of them to be accepted")
    assert stage.metric("connections_closed_total", reason="address-connections") == 0


# ---- slow ones ----

SLOW = ("--head-timeout", f"{MS}ms", "--body-timeout", f"{MS}ms", "--idle-timeout", f"{MS}ms", "--send-timeout", f"{MS}ms")
REASONS = {"too-slow": 35, "not-read": 36}


HANDS = ("hand-1", "hand-2", "hand-3", "hand-4", "hand-5")
BESIDE = {}


@pytest.fixture(scope="module")
def slow(programs, work, certs):
    stage = Stage(programs, work, certs, *SLOW, more=HANDS)
    stage.gateway()
    yield stage
    stage.stop()


@pytest.fixture(scope="module")
def under_way(request, slow):
    """{name: future} of those that were asked for."""
    wanted = {item.name for item in request.session.items if item.module is request.module}
    pool = concurrent.futures.ThreadPoolExecutor(len(BESIDE))
    yield {name: pool.submit(test, slow) for name, test in BESIDE.items() if name in wanted}
    pool.shutdown(cancel_futures=True)


def beside(test):
    """These tests wait more than they do: they run side by side, on one stage."""
    BESIDE[test.__name__] = test

    def wait(under_way):
        under_way[test.__name__].result()

    wait.__name__, wait.__doc__ = test.__name__, test.__doc__
    return wait


@beside
def test_no_tls_handshake(slow):
    with knock(slow) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert is_closed(sock)


@beside
def test_silent_connection(slow):
    with connect(slow.a) as connection, pytest.raises(Truncated):
        connection.head()


def trickle(connection, piece, pause):
    """Sends pieces until an answer begins to come."""
    end = time.monotonic() + 20 * SCALE
    while connection.quiet(pause):
        assert time.monotonic() < end, "it can go on like this"
        with contextlib.suppress(OSError):
            connection.send(piece)
    return connection.read(connection.head())


@beside
def test_head_that_trickles(slow):
    """However many lines it has: the whole head has its time."""
    with connect(slow.a) as connection:
        connection.send(f"POST {connection.path} HTTP/1.1\r\nHost: {connection.host}\r\n".encode())
        answer = trickle(connection, b"X-A: 1\r\n", 0.1)
        refused(answer, "too-slow", 408, None)
        with pytest.raises(Truncated):
            connection.head()


def body_trickles(slow, chunked):
    with connect(slow.a) as connection:
        length = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "100000")
        connection.request("POST", slow.a.pairs() + JSON_HEADERS + [length])
        connection.send(b"34\r\n" if chunked else b"")
        connection.send(CALL[:52] + (b"\r\n" if chunked else b""))
        answer = trickle(connection, b"1\r\n \r\n" if chunked else b" ", 0.1)
        message = answer.json()["error"]
        assert (answer.status, message["data"]["reason"], message["data"]["executed"]) == (408, "too-slow", "no")
        with pytest.raises(Truncated):
            connection.head()
    call = message["data"]["call"]
    wait_until(lambda: call in [r["mcp_call_id"] for r in slow.denied("too-slow")], 5, "the record")


@beside
def test_body_that_trickles(slow):
    """A byte now and then, and never too long between two; the gateway is told, and it is written down."""
    body_trickles(slow, False)


@beside
def test_chunks_that_trickle(slow):
    body_trickles(slow, True)


@beside
def test_refused_body_that_does_not_come(slow):
    """What is refused for its head alone does not wait for the body for ever."""
    with connect(slow.a) as connection:
        connection.request("POST", JSON_HEADERS + [("Content-Length", "1000")])
        assert connection.read(connection.head()).status == 401
        with pytest.raises(Truncated):
            connection.exactly(1)


@beside
def test_slow_body_within_limits(slow):
    """Twice as long as a body may stand still, at ten times the rate that it must have."""
    body = CALL + b" " * 2560 * 4
    with connect(slow.a) as connection:
        connection.request("POST", slow.a.pairs() + JSON_HEADERS + [("Content-Length", str(len(body)))])
        step = len(body) // 16 + 1
        for at in range(0, len(body), step):
            connection.send(body[at : at + step])
            time.sleep(0.13 * SCALE)
        assert connection.read(connection.head()).status == 200


class Hand:
    """A gateway by hand, and an agent of its tunnel."""

    def __init__(self, slow, name):
        self.endpoint, self.name = slow.others[name], name
        self.gateway = slow.gateway(name, HandGateway)
        self.session = self.gateway.attach()[":session"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gateway.connection.close()


def small(endpoint):
    """A connection that takes little at once."""
    connection = connect(endpoint, 60)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    return connection


@beside
def test_body_that_the_gateway_does_not_take(slow):
    """The agent is not to blame."""
    body = CALL + b" " * (4 << 20)
    with Hand(slow, "hand-1") as hand, connect(hand.endpoint, 60) as connection:
        sending = threading.Thread(
            target=connection.request, args=("POST", hand.endpoint.pairs() + JSON_HEADERS, body), daemon=True
        )
        sending.start()
        _, _, ident, _ = hand.gateway.read(OPEN)
        time.sleep(2.5 * SCALE)
        hand.gateway.send(CREDIT, struct.pack("!I", len(body)), ident)
        got, flags = 0, 0
        while not flags & END:
            _, flags, _, payload = hand.gateway.read(DATA)
            got += len(payload)
            hand.gateway.send(ACK, struct.pack("!Q", hand.gateway.received))
        assert got == len(body)
        hand.gateway.answer(ident, body=b"{}")
        sending.join(30)
        assert connection.read(connection.head()).status == 200


def pour(gateway, ident, size):
    """Sends an answer of that size as credit comes; the reason of its RESET, or None at the end."""
    gateway.send(HEAD, fields((":status", "200"), ("Content-Length", str(size))), ident)
    credit, left = 262144, size
    while left:
        while credit and left:
            piece = min(16384, credit, left)
            credit, left = credit - piece, left - piece
            gateway.send(DATA, bytes(piece), ident, 0 if left else END)
        if not left:
            return None
        kind, _, _, payload = gateway.read(CREDIT, RESET)
        if kind == RESET:
            return struct.unpack_from("!I", payload)[0]
        credit += struct.unpack("!I", payload)[0]
    return None


def pour_until_it_ends(gateway, ident):
    with contextlib.suppress(OSError, Truncated, Closed):
        pour(gateway, ident, 64 << 20)
    gateway.connection.abort()


@beside
def test_answer_that_is_not_read(slow):
    """The call ends, at the gateway too, and the agent cannot take what it has for the whole."""
    before = slow.metric("connections_closed_total", reason="not-read")
    with Hand(slow, "hand-2") as hand, small(hand.endpoint) as connection:
        connection.request("POST", hand.endpoint.pairs() + JSON_HEADERS, CALL)
        ident, _ = hand.gateway.take_call()
        assert pour(hand.gateway, ident, 64 << 20) == REASONS["not-read"]
        assert slow.metric("connections_closed_total", reason="not-read") >= before + 1
        with pytest.raises(Truncated):
            connection.read(connection.head())
    assert slow.metric("calls_ended_total", reason="not-read") >= 1


def test_requests_ahead_of_their_answers(stage):
    """As many as one likes with a key; without one, they are not kept."""
    stage = stage()
    stage.gateway()
    line = f"GET /t/one/mcp HTTP/1.1\r\nHost: localhost\r\nX-Fill: {'x' * 1000}\r\n".encode()
    key = f"Authorization: {stage.a.headers['Authorization']}\r\n".encode()
    with connect(stage.a) as connection:
        connection.send((line + key + b"\r\n") * 100)
        assert [connection.read(connection.head()).status for _ in range(100)] == [200] * 100
    with connect(stage.a) as connection:
        connection.send((line + b"\r\n") * 100)
        got = 0
        with pytest.raises(Truncated):
            while connection.read(connection.head()).status == 401:
                got += 1
        assert 1 <= got < 50
    with connect(stage.a) as connection:
        connection.send((line + b"\r\n") * 5)
        assert [connection.read(connection.head()).status for _ in range(5)] == [401] * 5


def test_breach_beside_an_answer_that_is_not_read(stage):
    """A request that turns out bad when its answer has begun: what is there of the answer is given, as far as it goes, and cut."""
    stage = stage()
    gateway = stage.gateway(kind=HandGateway)
    gateway.attach()
    with small(stage.a) as connection:
        connection.request("POST", stage.a.pairs() + JSON_HEADERS + [("Transfer-Encoding", "chunked")])
        connection.send(b"5\r\n{    \r\n")
        _, _, ident, _ = gateway.read(OPEN)
        threading.Thread(target=pour_until_it_ends, args=(gateway, ident), daemon=True).start()
        seen = [0]

        def stalls():
            time.sleep(0.2 * SCALE)
            seen.append(stage.metric("response_bytes_total"))
            return seen[-1] == seen[-2] > 0

        wait_until(stalls, 30, "the answer to be more than anybody takes")
        connection.send(b"x\r\n")
        with pytest.raises(Truncated):
            connection.read(connection.head())
    assert exchange(stage.c, "POST", JSON_HEADERS, CALL).status == 503


@beside
def test_answer_that_is_read_slowly(slow):
    size = 3 << 20
    with Hand(slow, "hand-3") as hand, small(hand.endpoint) as connection:
        connection.request("POST", hand.endpoint.pairs() + JSON_HEADERS, CALL)
        ident, _ = hand.gateway.take_call()
        ended = []
        thread = threading.Thread(target=lambda: ended.append(pour(hand.gateway, ident, size)), daemon=True)
        thread.start()
        answer, got, began = connection.head(), 0, time.monotonic()
        while got < size:
            got += len(connection.exactly(min(65536, size - got)))
            if time.monotonic() - began < 2 * SCALE:
                time.sleep(0.1)
        thread.join(30)
        assert (answer.status, ended) == (200, [None])


@beside
def test_streams_are_asked_whether_they_are_there(slow):
    """An agent that vanished without a word holds its place for two minutes, not for ever: TCP asks."""
    with connect(slow.a) as connection:
        connection.request("GET", slow.a.pairs() + [HOLD])
        assert connection.head().status == 200
        here, there = (f"{port:04X}" for port in (slow.relay.port, connection.sock.getsockname()[1]))

        def timer():
            with open("/proc/net/tcp", encoding="ascii") as table:
                rows = [line.split() for line in table]
            (row,) = [r for r in rows if r[1].endswith(":" + here) and r[2].endswith(":" + there)]
            return row[5].split(":")

        # Kind 2: keep-alive; until then, in hundredths of a second.
        wait_until(lambda: timer()[0] == "02" and int(timer()[1], 16) <= 6100, 10, lambda: f"the timer; is {timer()}")


@beside
def test_stream_of_a_tunnel_that_is_away(slow):
    """Nothing is there for the agent to read: it waits as long as the tunnel is away, and longer than the limits."""
    with connect(slow.others["hand-4"], 60) as connection:
        with Hand(slow, "hand-4") as hand:
            connection.request("GET", hand.endpoint.pairs())
            ident, _ = hand.gateway.take_call()
            hand.gateway.answer(ident, ("Content-Type", "text/event-stream"), body=b"data: 1\n\n", end=False)
            answer = connection.head()
            assert connection.chunk() == b"data: 1\n\n"
            hand.gateway.connection.abort()
        time.sleep(2.5 * SCALE)
        with HandGateway(slow.relay, slow.ca, slow.tokens[hand.name], hand.name) as back:
            back.received = hand.gateway.received
            assert back.upgrade() == 101
            assert back.greet(hand.session, hand.gateway.received)[":resumed"] == "1"
            back.send(DATA, b"data: 2\n\n", ident, END)
            assert (answer.status, connection.chunk(), connection.chunk()) == (200, b"data: 2\n\n", b"")


COUNTED = {
    "too-slow": (
        "test_no_tls_handshake",
        "test_head_that_trickles",
        "test_body_that_trickles",
        "test_chunks_that_trickle",
        "test_refused_body_that_does_not_come",
    ),
    "not-read": ("test_answer_that_is_not_read",),
}


@pytest.mark.parametrize("reason", COUNTED)
def test_each_slow_one_is_counted(slow, under_way, reason):
    """Once, and nobody else is."""
    concurrent.futures.wait(under_way.values())
    count = sum(name in under_way for name in COUNTED[reason])
    assert slow.metric("connections_closed_total", reason=reason) == count


# ---- memory ----


def test_frames_that_are_kept(stage):
    """What a gateway has not acknowledged counts for all sessions together."""
    stage = stage()
    hand = stage.gateway(kind=HandGateway)
    hand.attach()
    with connect(stage.a) as connection:
        connection.request("POST", stage.a.pairs() + JSON_HEADERS, CALL + b" " * 30000)
        ident, _ = hand.take_call()
        wait_until(lambda: stage.metric("kept_bytes") >= 30000, 5, "the request to be kept")
        hand.send(ACK, struct.pack("!Q", hand.received))
        wait_until(lambda: stage.metric("kept_bytes") == 0, 5, "nothing to be kept")
        hand.answer(ident, body=b"{}")
        assert connection.read(connection.head()).status == 200


def begin(stack, endpoint, body):
    """A request that lacks its last byte, as far as it is taken."""
    connection = stack.enter_context(connect(endpoint))
    with contextlib.suppress(OSError):
        connection.request("POST", endpoint.pairs() + JSON_HEADERS + [("Content-Length", str(len(body)))])
        connection.send(body[:-1])
    return connection


@pytest.mark.parametrize("end", ["relay", "gateway"])
def test_request_bytes_that_wait(relay_pair, tmp_path, end):
    """Bodies that are not complete may have 64 MiB at one end, all together: what is more is refused, the others go on."""
    roomy = ("--max-request-bytes", "64M")
    ends = {"relay": ("--admin-listen", "127.0.0.1:0", "--audit", f"file:{tmp_path}/relay.jsonl"), "gateway": ()}
    ends["gateway" if end == "relay" else "relay"] += roomy
    relay, gateway, endpoint = relay_pair(*ends["relay"], gateway_options=ends["gateway"])
    admin = relay.process.wait_line(r"health on (http://127\.0\.0\.1:\d+)").group(1)

    def kept():
        if end == "gateway":
            text = gateway.health("/metrics")[1]
        else:
            with Connection(admin + "/metrics") as connection:
                text = connection.call("GET").body.decode()
        return int(re.search(rf"^mcp_tunnel_{end}_request_memory_bytes (\d+)$", text, re.M).group(1))

    body = CALL + b" " * (15 << 20)
    with contextlib.ExitStack() as stack:
        waiting = [begin(stack, endpoint, body) for _ in range(4)]
        wait_until(lambda: kept() >= 4 * (15 << 20), 20, lambda: f"four bodies; has {kept()}")
        late = begin(stack, endpoint, body)
        answer = late.read(late.head())
        error = answer.json()["error"]
        assert (answer.status, error["data"]["reason"], error["data"]["executed"]) == (503, "refused-not-executed", "no")
        assert f"too many request bytes at once at the {end}" in error["message"]
        assert kept() <= 64 << 20
        waiting.pop().close()
        for connection in waiting:
            connection.send(body[-1:])
            assert connection.read(connection.head()).status == 200
    wait_until(lambda: kept() == 0, 10, lambda: f"nothing to be kept; has {kept()}")
    assert exchange(endpoint, "POST", JSON_HEADERS, body).status == 200


# ---- nothing to be learnt ----


def raw_answer(url, ca, *lines):
    """Every byte of it, but for the time of day."""
    with Connection(url, ca) as connection:
        connection.send(("\r\n".join([*lines, f"Host: {connection.host}"]) + "\r\n\r\n").encode())
        with pytest.raises(Truncated):
            connection.exactly(1 << 20)
        return re.sub(rb"\r\nDate: [^\r]*", b"", bytes(connection.buffer))


def auth_failures(stage):
    lines = stage.audit.read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["mcp_event"] == "auth.failure"]


def test_keys_and_tunnels_are_refused_alike(slow):
    """Byte for byte, and with a record for each: tunnel that is not there, key that is wrong, of another tunnel, not there."""
    before = len(auth_failures(slow))
    keys = {"wrong": "Bearer mtk_" + "A" * 43, "none of its form": "Bearer x", "other": slow.c.headers["Authorization"], "none": None}
    cases = [(tunnel, key) for tunnel in ("one", "no-such-tunnel") for key in keys.values()]
    answers = set()
    for tunnel, key in cases:
        lines = [f"Authorization: {key}"] if key else []
        first = f"POST /t/{tunnel}/mcp HTTP/1.1"
        answers.add(raw_answer(slow.a.url, slow.ca, first, "Content-Length: 0", "Connection: close", *lines))
    (answer,) = answers
    assert answer.startswith(b"HTTP/1.1 401 ")
    wait_until(lambda: len(auth_failures(slow)) == before + len(cases), 5, "a record for each")


def test_tokens_and_tunnels_are_refused_alike(slow):
    """For gateways, too."""
    before = len(auth_failures(slow))
    one, two = slow.tokens["one"], slow.tokens["two"]
    wrong = one[:-43] + "A" * 43
    nobody = one.replace("_one_", "_nobody_")
    cases = [("one", two), ("one", wrong), ("two", one), ("nobody", nobody), ("nobody", one), ("one", nobody), ("one", "x")]
    answers = set()
    for tunnel, token in cases:
        lines = ["GET /v1/tunnel HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Key: {'A' * 22}==", "Sec-WebSocket-Protocol: mcp-tunnel.v1"]
        url = f"https://localhost:{slow.relay.port}/v1/tunnel"
        answers.add(raw_answer(url, slow.ca, *lines, f"Authorization: Bearer {token}", f"Mcp-Tunnel: {tunnel}"))
    (answer,) = answers
    assert answer.startswith(b"HTTP/1.1 401 ")
    wait_until(lambda: len(auth_failures(slow)) == before + len(cases), 5, "a record for each")
