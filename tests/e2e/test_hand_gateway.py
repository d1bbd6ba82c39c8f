"""What the relay makes of a gateway that is not ours: it trusts nothing that comes out of a tunnel."""

import contextlib
import socket
import threading

import pytest

from lib.calls import CALL
from lib.handmade import DATA, END, HEAD, OPEN, Closed, HandGateway, fields
from lib.rawhttp import JSON_HEADERS, Truncated
from lib.records import connect, exchange, response_record
from lib.tunnel import Endpoint, Relay


@pytest.fixture(scope="module")
def own(programs, work, certs):
    """A relay with the tunnels one and two: (relay, token, endpoint) by name."""
    relay = Relay(programs, work, *certs.server, "--resume-grace", "2s", "--hold", "100ms")
    made = {}
    for name in ("one", "two"):
        token, key = relay.add_tunnel(name), relay.add_agent("agent", name)
        made[name] = token, key
    relay.start()
    yield {
        name: (relay, token, Endpoint(relay.url(name), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert))
        for name, (token, key) in made.items()
    }
    relay.stop()


@pytest.fixture
def hand(own, certs):
    """hand(tunnel, token_of): a gateway by hand, not attached yet."""
    with contextlib.ExitStack() as stack:
        yield lambda tunnel="one", token_of=None: stack.enter_context(
            HandGateway(own["one"][0], certs.ca.cert, own[token_of or tunnel][1], tunnel)
        )


class Agent:
    """One request in the background, on a connection that can be looked at afterwards. reads: the event after which it reads."""

    def __init__(self, endpoint, method="POST", reads=None):
        self.endpoint, self.connection, self.head, self.end = endpoint, connect(endpoint, 10), None, None
        self.reads = reads
        if reads:
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        body = CALL if method == "POST" else None
        self.connection.request(method, endpoint.pairs() + JSON_HEADERS, body)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        if self.reads:
            self.reads.wait(60)
        try:
            self.head = self.connection.head()
            self.connection.read(self.head)
            self.end = "clean"
        except Truncated:
            self.end = "truncated"

    def finish(self):
        self.thread.join(30)
        assert self.end, "no answer"
        return self.head, self.end


def call(gateway, endpoint, act, method="POST"):
    """act(gateway, id) answers it; what the agent saw: (head, how it ended)."""
    agent = Agent(endpoint, method)
    ident, _ = gateway.take_call()
    act(gateway, ident)
    with agent.connection:
        return agent.finish()


def test_the_specification_is_enough(own, hand):
    """A gateway written from the specification carries a call."""
    gateway = hand()
    assert gateway.attach()[":resumed"] == "0"
    head, end = call(gateway, own["one"][2], lambda g, i: g.answer(i, ("X-Hand", "made"), body=b"hello"))
    assert (head.status, head.get("x-hand"), head.body, end) == (200, "made", b"hello", "clean")


# ---- who may attach ----


def test_token_of_another_tunnel_does_not_attach(own, hand):
    """401, and the same for a tunnel that does not exist; calls of that tunnel never come here."""
    answers = set()
    for tunnel, token_of in (("one", "two"), ("no-such-tunnel", "two"), (None, "two")):
        gateway = hand(tunnel, token_of)
        assert gateway.upgrade() == 401
        answers.add(gateway.connection.until(b"}\n"))
    assert len(answers) == 1
    assert exchange(own["one"][2], "POST", JSON_HEADERS, CALL).status == 503


def test_wrong_secret_does_not_attach(hand):
    gateway = hand()
    gateway.token = gateway.token[:-43] + "A" * 43
    assert gateway.upgrade() == 401


def test_upgrade_without_the_subprotocol(hand):
    assert hand().upgrade(Sec_WebSocket_Protocol="chat") == 400


def test_session_is_not_resumed_with_the_token_of_another_tunnel(own, hand):
    """Who knows the id of a session and has a token of another tunnel gets a new session, and no call."""
    first = hand()
    session = first.attach()[":session"]
    thief = hand("two")
    assert thief.upgrade() == 101
    assert thief.greet(session)[":resumed"] == "0"
    head, _ = call(first, own["one"][2], lambda g, i: g.answer(i, body=b"mine"))
    assert head.body == b"mine"


def test_session_is_resumed_with_its_own_token(own, hand):
    first = hand()
    session = first.attach()[":session"]
    agent = Agent(own["one"][2])
    ident, _ = first.take_call()
    first.connection.abort()
    second = hand()
    second.received = first.received
    assert second.upgrade() == 101
    welcome = second.greet(session, first.received)
    assert (welcome[":session"], welcome[":resumed"], welcome[":received"]) == (session, "1", "0")
    second.answer(ident, body=b"late")
    head, end = agent.finish()
    assert (head.status, head.body, end) == (200, b"late", "clean")


def reattach(gateway, **greeting):
    """Its WELCOME, when it names an older session in one way or another."""
    assert gateway.upgrade() == 101
    return gateway.greet(**greeting)


def test_session_of_a_dead_gateway_ends_when_its_successor_names_it(own, hand):
    """At once, although its connection looks alive; the successor gets the next calls."""
    first, second = hand(), hand()
    session = first.attach()[":session"]
    agent = Agent(own["one"][2])
    first.take_call()
    assert reattach(second, replaces=session)[":resumed"] == "0"
    head, end = agent.finish()
    assert (head.status, head.json()["error"]["data"], end) == (
        502,
        {"reason": "session-lost", "executed": "maybe", "call": head.json()["error"]["data"]["call"]},
        "clean",
    )
    with pytest.raises(Closed, match="session-lost"):
        first.read(DATA)
    head, _ = call(second, own["one"][2], lambda g, i: g.answer(i, body=b"mine"))
    assert head.body == b"mine"


def test_who_resumes_a_session_does_not_replace_it(own, hand):
    first, second = hand(), hand()
    session = first.attach()[":session"]
    assert reattach(second, session=session, replaces=session)[":resumed"] == "1"
    head, _ = call(second, own["one"][2], lambda g, i: g.answer(i, body=b"mine"))
    assert head.body == b"mine"


def test_session_of_another_tunnel_is_not_replaced(own, hand):
    first = hand()
    session = first.attach()[":session"]
    reattach(hand("two"), replaces=session)
    head, _ = call(first, own["one"][2], lambda g, i: g.answer(i, body=b"mine"))
    assert head.body == b"mine"


def test_session_that_nobody_has_is_replaced_by_nothing(own, hand):
    first, second = hand(), hand()
    first.attach()
    reattach(second, replaces="00112233445566778899aabbccddeeff")
    head, _ = call(second, own["one"][2], lambda g, i: g.answer(i, body=b"newest"))
    assert head.body == b"newest"
    second.connection.abort()
    own["one"][0].process.wait_line("lost its connection")
    head, _ = call(first, own["one"][2], lambda g, i: g.answer(i, body=b"still there"))
    assert head.body == b"still there"


# ---- answers that do not add up ----


def test_answer_shorter_than_its_length(own, hand):
    gateway = hand()
    gateway.attach()
    head, end = call(gateway, own["one"][2], lambda g, i: g.answer(i, ("Content-Length", "10"), body=b"short"))
    assert (head.status, end) == (200, "truncated")


def test_answer_longer_than_its_length(own, hand):
    """What is above the length must not be read as the next answer."""
    gateway = hand()
    gateway.attach()
    with connect(own["one"][2], 10) as connection:
        connection.request("POST", own["one"][2].pairs() + JSON_HEADERS, CALL)
        ident, _ = gateway.take_call()
        gateway.answer(ident, ("Content-Length", "2"), body=b"okHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        with pytest.raises(Truncated):
            connection.read(connection.head())
            connection.head()
        assert b"evil" not in connection.buffer


def test_answer_before_the_request_is_complete(own, hand):
    """The answer passes; the rest of the request must not be read as the next one."""
    gateway = hand()
    gateway.attach()
    endpoint = own["one"][2]
    with connect(endpoint, 10) as connection:
        connection.request("POST", endpoint.pairs() + JSON_HEADERS + [("Content-Length", "1000")])
        connection.send(CALL[:10])
        ident = gateway.read(OPEN)[2]
        gateway.answer(ident, ("Content-Length", "2"), body=b"no", status="403")
        head = connection.read(connection.head())
        assert (head.status, head.body, head.get("connection")) == (403, b"no", "close")
        with pytest.raises(Truncated):
            connection.head()


@pytest.mark.parametrize("status", ["204", "304"])
def test_answer_that_may_not_have_a_body(own, hand, status):
    gateway = hand()
    gateway.attach()
    with connect(own["one"][2], 10) as connection:
        connection.request("GET", own["one"][2].pairs() + JSON_HEADERS)
        ident, _ = gateway.take_call()
        gateway.answer(ident, status=status, body=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert connection.head().status == int(status)
        with pytest.raises(Truncated):
            connection.head()
        assert b"evil" not in connection.buffer


@pytest.mark.parametrize("status", ["", "20", "099", "100", "101", "199", "600", "2x0", "2000", "-20"])
def test_status_that_is_none(own, hand, status):
    gateway = hand()
    gateway.attach()
    head, end = call(gateway, own["one"][2], lambda g, i: g.answer(i, status=status, end=False))
    assert (head.status, head.json()["id"], end) == (502, "call-1", "clean")
    assert head.json()["error"]["data"]["reason"] == "protocol"


def test_fields_of_one_hop_do_not_pass(own, hand):
    gateway = hand()
    gateway.attach()
    pairs = [
        ("Connection", "X-Gone"),
        ("Transfer-Encoding", "gzip"),
        ("Keep-Alive", "timeout=1"),
        ("Upgrade", "h2c"),
        ("Trailer", "X"),
        ("X-Kept", "1"),
    ]
    head, end = call(gateway, own["one"][2], lambda g, i: g.answer(i, *pairs, body=b"x"))
    assert (head.status, end, head.get("x-kept"), head.get("transfer-encoding")) == (200, "clean", "1", "chunked")
    assert not any(head.get(n) for n in ("connection", "keep-alive", "upgrade", "trailer"))


@pytest.mark.parametrize("begun", [False, True], ids=["before-the-head", "in-the-body"])
def test_reset_has_its_reason(own, hand, begun):
    """Before the head an error with the reason; later a cut, never a clean end."""
    gateway = hand()
    gateway.attach()

    def act(gateway, ident):
        if begun:
            gateway.answer(ident, body=b"some", end=False)
        gateway.reset(ident, 3, b'no "x"\x01 here')

    head, end = call(gateway, own["one"][2], act)
    if begun:
        assert (head.status, end) == (200, "truncated")
        return
    error = head.json()["error"]
    assert (head.status, error["code"]) == (403, -32002)
    assert (error["data"]["reason"], error["data"]["executed"]) == ("policy", "no")
    assert 'no "x"\x01 here' in error["message"]


def test_field_with_a_line_break_ends_the_session(own, hand):
    gateway = hand()
    gateway.attach()
    agent = Agent(own["one"][2])
    ident, _ = gateway.take_call()
    gateway.send(HEAD, fields((":status", "200"), ("X-Split", "a\r\nSet-Cookie: b=c")), ident)
    with pytest.raises(Closed, match="protocol"):
        gateway.read(DATA)
    head, end = agent.finish()
    assert (head.status, end, head.get("set-cookie")) == (502, "clean", None)


def test_more_data_than_credit(own, hand):
    """A gateway that ignores flow control harms its own call alone."""
    gateway = hand()
    gateway.attach()
    endpoint = own["one"][2]
    with connect(endpoint, 10) as stuck:
        stuck.request("GET", endpoint.pairs())
        ident, _ = gateway.take_call()
        gateway.send(HEAD, fields((":status", "200")), ident)
        for _ in range(600):
            gateway.send(DATA, bytes(16384), ident)
        head, _ = call(gateway, endpoint, lambda g, i: g.answer(i, body=b"well"))
        assert head.body == b"well"
        with pytest.raises(Truncated):
            stuck.read(stuck.head())


def test_errors_do_not_depend_on_the_tunnel(own):
    """Nobody is attached: two tunnels, one answer."""
    records = [response_record(exchange(own[name][2], "POST", JSON_HEADERS, CALL)) for name in ("one", "two")]
    assert records[0]["status"] == 503 and records[0] == records[1]


def test_end_twice_is_answered_with_a_reset(own, hand):
    gateway = hand()
    gateway.attach()
    head, end = call(gateway, own["one"][2], lambda g, i: (g.answer(i, body=b"x"), g.send(DATA, b"y", i, END)))
    assert (head.body, end) == (b"x", "clean")
