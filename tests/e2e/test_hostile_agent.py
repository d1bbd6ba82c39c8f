"""An agent that smuggles: each case of data/requests.txt goes to a relay, and, through a relay by hand that lets everything pass,
to a gateway. Each is refused or passed harmlessly: the next request gets its own answer, and what the MCP server gets is whole
requests to its path alone (lib/recorder.py).
"""

import json
import re
import struct

import pytest

from lib import corpus
from lib.calls import CALL
from lib.handmade import DATA, END, OPEN, frame, websocket
from lib.hostile import PROTOCOL, Row, Session, params, said_in_security, side_by_side
from lib.rawhttp import JSON_HEADERS, Connection, Truncated
from lib.recorder import Recorder
from lib.tunnel import Gateway, Relay
from test_hostile_relay import Hand
from test_hostile_relay import Stage as RelayStage

CASES = corpus.read("requests.txt")
TUNNEL = "smuggle"
PATH = f"/t/{TUNNEL}/mcp"


def test_there_are_enough():
    assert len(CASES) == said_in_security(r"Request smuggling, (\d+) cases") >= 100


def bytes_of(case, key):
    credential = f"Authorization: Bearer {key}\r\n".encode()
    smuggled = b"GET $P HTTP/1.1\r\n$HX-Key: stowaway\r\n\r\n"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CALL), CALL)
    names = {"P": PATH.encode(), "H": b"Host: localhost\r\n" + credential, "A": credential, "B": CALL}
    return case.bytes(**names, L=b"%d" % len(CALL), X=b"%x" % len(CALL), C=chunks, S=smuggled)


class Stage:
    def __init__(self, programs, work, certs):
        self.recorder = Recorder()
        self.relay = Relay(programs, work, *certs.server, "--hold", "10s", "--listen", "http://127.0.0.1:0")
        token, self.key = self.relay.add_tunnel(TUNNEL), self.relay.add_agent("agent", TUNNEL)
        self.relay.start()
        port = self.relay.process.wait_line(r"listening on http://127\.0\.0\.1:(\d+)").group(1)
        self.url = f"http://127.0.0.1:{port}{PATH}"
        self.gateway = Gateway(
            programs, work, token, self.recorder.url, self.relay.control_plane, certs.ca.cert
        ).start()

    def stop(self):
        self.gateway.stop()
        self.relay.stop()
        self.recorder.stop()

    def probe(self, connection, key):
        """A proper request gets its own answer."""
        headers = [("Authorization", f"Bearer {self.key}"), ("X-Key", key), *JSON_HEADERS]
        answer = connection.call("POST", headers, CALL)
        assert (answer.status, answer.body) == (200, json.dumps({"key": key}).encode()), answer.body


@pytest.fixture(scope="module")
def stage(programs, work, certs):
    stage = Stage(programs, work, certs)
    yield stage
    stage.stop()


def statuses(connection, raw, count):
    got = []
    for _ in range(count):
        answer = connection.head()
        if not raw.startswith(b"HEAD "):
            connection.read(answer)
            assert b"stowaway" not in answer.body
            assert "error" in answer.json() or answer.json() == {"key": ""}, answer.body
        got.append(str(answer.status))
    return got


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_at_the_relay(stage, case):
    raw, mark = bytes_of(case, stage.key), stage.recorder.mark()
    *expected, then = case.comes
    with Connection(stage.url) as connection:
        connection.send(raw)
        if then == "wait":
            assert connection.quiet(0.1)
        else:
            assert statuses(connection, raw, len(expected)) == expected
        if then == "open":
            stage.probe(connection, f"behind-{case.name}")
        elif then == "close":
            with pytest.raises(Truncated):
                connection.exactly(1)
    with Connection(stage.url) as connection:
        stage.probe(connection, f"after-{case.name}")
    assert not [r for r in stage.recorder.since(mark) if b"stowaway" in r]
    stage.recorder.check()


# ---- at the gateway ----


def lenient(raw):
    """The method, the query, the fields and the body, as a relay that refuses nothing might read them."""
    head, body = (*re.split(rb"\r?\n\r?\n", raw.lstrip(b"\r\n"), maxsplit=1), b"")[:2]
    first, *lines = re.split(rb"\r?\n", head)
    method, _, target = first.partition(b" ")
    query = target.split(b" ")[0].partition(b"?")[2]
    return method, query, [tuple(line.partition(b":")[::2]) for line in lines], body


TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def breach(pairs):
    """What the first of the fields breaks that the tunnel does not carry; None: they travel."""
    for n, (name, value) in enumerate(pairs):
        if n + 7 == 192:
            return "too many fields"
        if not name:
            return "field without a name"
        if not TOKEN.fullmatch(name):
            return "field name that is not a token"
        if re.search(rb"[\0\r\n]", value):
            return "field value with CR, LF or NUL"
    return None


def messages(case, ident):
    """OPEN and DATA of the case, and what it breaks."""
    method, query, pairs, body = lenient(bytes_of(case, "K" * 43))
    pairs = [(n, v.strip(b" ")) for n, v in pairs if len(v) < 20000]
    pseudo = [(b":kind", b"exchange"), (b":route", b""), (b":method", method), (b":call", b"c"), (b":agent", b"a")]
    pseudo += [(b":agent-auth", b"bearer"), (b":query", query)]
    if not query:
        pseudo.pop()
    bad = breach([(b"A", value) for _, value in pseudo]) or breach(pairs)
    block = b"".join(struct.pack("!HH", len(n), len(v)) + n + v for n, v in pseudo + pairs)
    return websocket(frame(OPEN, block, ident), False) + websocket(frame(DATA, body, ident, END), False), bad


CARRIED = [case for case in CASES if not messages(case, 1)[1]]
NOT_CARRIED = [
    Row(
        case.name,
        "attached",
        lambda relay, _, c=case: relay.connection.send(messages(c, 1)[0]),
        Session(PROTOCOL + bad),
    )
    for case in CASES
    if (bad := messages(case, 1)[1])
]


@pytest.fixture(scope="module")
def hostile(programs, work, certs):
    stage = RelayStage(programs, work, certs)
    yield stage
    stage.stop()


@pytest.fixture(scope="module")
def session(hostile):
    with Hand(hostile, 0) as hand, hand.door.accept() as relay:
        relay.attach()
        relay.next_id = 1
        yield relay


@pytest.mark.parametrize("case", CARRIED, ids=[case.name for case in CARRIED])
def test_at_the_gateway(hostile, session, case):
    ident = session.next_id
    session.next_id += 2
    session.connection.send(messages(case, ident)[0])
    session.answer(ident)
    session.open(ident + 1, ("X-Key", case.name), body=CALL)
    pairs, body = session.answer(ident + 1)
    assert pairs[":status"] == "200" and json.loads(body) == {"key": case.name}
    assert not [r for r in hostile.recorder.since(0) if b"stowaway" in r.split(b"\r\n\r\n")[0]]
    hostile.recorder.check()


@pytest.fixture(scope="module")
def played(request, hostile):
    with side_by_side(request, hostile.play) as futures:
        yield futures


@pytest.mark.parametrize("row", **params(NOT_CARRIED))
def test_what_the_tunnel_does_not_carry(played, row):
    played[row.name].result()
