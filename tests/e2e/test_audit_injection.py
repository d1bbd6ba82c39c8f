"""What an agent, or a relay, sends forges no record and no field, and makes none disappear."""

import base64
import hashlib
import json
import random
import re
import socket
import ssl
import struct
import threading

import pytest

from lib.audited import Audited, Upstream, http
from lib.handmade import DATA, END, HEAD, HELLO, OPEN, PING, PONG, RESET, WELCOME, Door, fields, read_fields
from lib.journald import Journald
from lib.procs import SCALE, wait_until
from lib.rawhttp import JSON_HEADERS
from lib.records import connect
from lib.tunnel import Gateway

BAD_REQUEST = 15
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FORGED_ID = "fd51e8e536664291b0b99ef985095b0a"
NASTY = [
    "plain\nMCP_FORGED=1",
    f"x\nMESSAGE_ID={FORGED_ID}\nPRIORITY=0\nMESSAGE=forged",
    "x\n\nMESSAGE=a second record\n",
    "x\nMCP_FORGED\n\x05\0\0\0\0\0\0\0value\n",
    "nul\0after",
    "cr\r\nlf",
    'quote" ev=forged tool="x',
    'end" chain=' + "0" * 64,
    "backslash\\",
    'backslash quote\\" ev=forged',
    "a=b=c MCP_X=1",
    "\x1b[31mred\x1b[0m\x7f",
    "line\u2028separator\u2029\u0085next",
    "right\u202eto left\u2066",
    "\ufeffbyte order mark",
    "MCPAUDIT v=1 ev=call.denied seq=0",
    '"}\n{"mcp_event":"audit.gap"}',
    "\\x0a is no newline, \\n neither",
    "\U0001f680 caf\u00e9 \u4e2d\u6587",
    " leading and trailing ",
    "",
    "x" * 255,
    "\n" * 200,
    "\u00e9" * 200,
    "\\" * 256,
    '"' * 256,
]


def own_fields(record):
    return {n: v for n, v in record.items() if not n.startswith("_") and n not in ("SYSLOG_TIMESTAMP",)}


def words(line):
    """The logfmt line MESSAGE as pairs, read strictly."""
    assert line.startswith("MCPAUDIT v=1 "), line
    pattern = r' ([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=\\]+))'
    rest = line[len("MCPAUDIT v=1") :]
    found = re.findall(pattern, rest)
    assert "".join(m.group(0) for m in re.finditer(pattern, rest)) == rest, line
    return [(key, quoted or bare) for key, quoted, bare in found]


def unescape(text):
    """Undoes the escaping of a field: \\xNN is a byte."""
    data = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m.group(1), 16)]), text.encode())
    return data.decode("utf-8", "surrogateescape")


def assert_text(recorded, sent):
    """What was sent, whole, or a beginning of it that says so."""
    assert recorded.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", recorded)
    if recorded.endswith("\u2026") and not sent.endswith("\u2026"):
        assert sent.startswith(unescape(recorded[:-1])) and len(recorded.encode()) > 240, recorded
    else:
        assert unescape(recorded) == sent


def assert_sound(records, names):
    """Each record has only fields that the product writes, each once, and a MESSAGE that says what its fields say."""
    for record in records:
        assert set(record) - names == set(), sorted(set(record) - names)
        assert all(isinstance(value, str) for value in record.values()), record
        said = words(record["MESSAGE"])
        keys = [key for key, _ in said]
        assert len(keys) == len(set(keys)), record["MESSAGE"]
        said = dict(said)
        assert (said["ev"], said["seq"]) == (record["MCP_EVENT"], record["MCP_SEQ"])
        assert said.get("chain", "").strip("\u2026") in record.get("MCP_CHAIN", "")
        assert len(record["MESSAGE"].encode()) <= 900 and "\n" not in record["MESSAGE"]
    seqs = [int(record["MCP_SEQ"]) for record in records]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "records out of order, missing or forged"


class Sink:
    """What arrived, with the field names of the journal, whichever sink it is."""

    def __init__(self, audited, path=None):
        self.audited, self.path = audited, path

    def records(self, *events, program="gateway"):
        if self.path and program == "gateway":
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
            found = [{n.upper(): v for n, v in json.loads(line, object_pairs_hook=once).items()} for line in lines]
        else:
            found = [own_fields(r) for r in self.audited.records(program)]
            found = [r for r in found if "MCP_EVENT" in r or "MESSAGE_ID" in r or "MCPAUDIT" in r["MESSAGE"]]
        return [r for r in found if not events or r["MCP_EVENT"] in events]

    def of_relay(self):
        """Its own records of the same calls, in the journal."""
        return self.records(program="relay")


def once(pairs):
    assert len(pairs) == len(dict(pairs)), f"a name twice: {pairs}"
    return dict(pairs)


@pytest.fixture(scope="module")
def known(request):
    """The names that the record has, from the sources."""
    root = request.config.rootpath.parent.parent
    text = "".join(path.read_text() for path in sorted(root.glob("daemon/audit*.c")))
    return set(re.findall(r'"(MCP_[A-Z0-9_]+)"', text)) | {"MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER"}


@pytest.fixture(params=["journald", "file"])
def sink(request, programs, work, certs):
    directory = work / f"injection-{request.param}-{random.getrandbits(32):x}"
    path = directory / "audit.jsonl" if request.param == "file" else None
    answer = http(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    audited = Audited(programs, directory, certs, lambda *_: answer, f"file:{path}" if path else "journald")
    yield Sink(audited, path)
    audited.stop()


def body(name, ident=1, client=None):
    params = {"name": name, "arguments": {"MESSAGE": "forged\nMCP_FORGED=1"}}
    if client is not None:
        params["_meta"] = {"io.modelcontextprotocol/clientInfo": {"name": client, "version": "1"}}
    return json.dumps({"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}).encode()


def settled(sink, count):
    """The records of calls, when that many are there; and no more come."""
    calls = ("call.request", "call.response", "call.denied")
    wait_until(lambda: len(sink.records(*calls)) >= count, 20, lambda: f"{len(sink.records(*calls))} of {count}")
    sink.audited.stop_programs()
    records = sink.records(*calls)
    assert len(records) == count
    return records


def test_names_ids_and_clients(sink, known):
    """Newlines, NUL, quotes, `=`, whole forged records in tool name, JSON-RPC id and client name: two sound records a
    call, which give back what was sent."""
    rnd = random.Random(1)
    alphabet = '\n\r\0\x01\x1b\x7f"\\=x0a \u2028\u202e\u00e9\U0001f680MESSAGE'
    texts = NASTY + ["".join(rnd.choices(alphabet, k=rnd.randrange(1, 60))) for _ in range(100)]
    # No server should get a NUL in a name: such a call is denied, and that is recorded.
    passing = [text for text in texts if "\0" not in text]
    for text in texts:
        answer = sink.audited.post(body(text, text[:30], text))
        assert answer.status == (200 if text in passing else 400), (text, answer.body)
    records = settled(sink, len(texts) + len(passing))
    assert_sound(sink.records(), known)
    assert_sound(sink.of_relay(), known)
    at_relay = {r["MCP_CALL_ID"]: r.get("MCP_TOOL") for r in sink.of_relay() if r["MCP_EVENT"] == "call.request"}
    requests = [r for r in records if r["MCP_EVENT"] == "call.request"]
    responses = [r for r in records if r["MCP_EVENT"] == "call.response"]
    assert len(requests) == len(responses) == len(passing) > 60
    for text, record in zip(passing, requests):
        assert_text(record["MCP_TOOL"], text)
        assert at_relay[record["MCP_CALL_ID"]] == record["MCP_TOOL"]
        assert_text(record["MCP_AGENT_CLAIMED"], text)
        assert json.loads(unescape(record["MCP_JSONRPC_ID"])) == text[:30]
    assert [r["MCP_CALL_ID"] for r in requests] == [r["MCP_CALL_ID"] for r in responses]
    assert {r["MESSAGE_ID"] for r in requests} == {"b841c1811f564dbba297bc18d8dee8aa"}


REFUSED = {
    "64 KB of name": json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "n" * 65536}}
    ).encode(),
    "64 KB of method": json.dumps({"jsonrpc": "2.0", "id": 1, "method": "m" * 65536}).encode(),
    "64 KB of id": json.dumps({"jsonrpc": "2.0", "id": "i" * 65536, "method": "ping"}).encode(),
    "0xff in the name": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\xff\nMCP_FORGED=1"}}',
    "0xff in the method": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "newline in the method, raw": b'{"jsonrpc":"2.0","id":1,"method":"x\nMCP_FORGED=1"}',
    "NUL, raw": b'{"jsonrpc":"2.0","id":1,"method":"x\0"}',
    "method twice": b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}',
    "method twice, escaped": b'{"jsonrpc":"2.0","id":1,"method":"ping","m\\u0065thod":"tools/call"}',
    "escaped first": b'{"jsonrpc":"2.0","id":1,"m\\u0065thod":"ping","method":"tools/call"}',
    "id twice, escaped": b'{"jsonrpc":"2.0","id":1,"\\u0069d":2,"method":"ping"}',
    "name twice, escaped": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\\u0061me":"b"}}',
    "arguments twice, escaped": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"name":"a","arguments":{},"\\u0061rguments":{"x":1}}}',
    "params twice, escaped": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},'
    b'"p\\u0061rams":{"name":"b"}}',
    "lone surrogate": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\ud800"}}',
    "second message": b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"jsonrpc":"2.0","id":2,"method":"tools/call"}',
}


def test_bad_bodies_are_denied_and_recorded(sink, known):
    """No UTF-8, 64 KB names, duplicate keys however they are spelled: nothing at the server, one record."""
    for name, text in REFUSED.items():
        assert sink.audited.post(text).status == 400, name
    records = settled(sink, len(REFUSED))
    assert_sound(sink.records(), known)
    assert_sound(sink.of_relay(), known)
    assert {r["MCP_EVENT"] for r in records} == {"call.denied"}
    assert all(r["MCP_RULE"] and r["MCP_DECISION"] == "deny" for r in records)
    assert sink.audited.upstream.seen == []


def test_headers(sink, known):
    """Headers go to the server, or the request is refused; the record has no field of them but a valid trace id."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    passing = [
        [("traceparent", trace + "\tMCP_FORGED=1")],
        [("traceparent", trace.upper())],
        [("traceparent", trace), ("tracestate", "MCP_FORGED=1")],
        [("Mcp-Session-Id", "x\tMESSAGE=forged")],
        [("MESSAGE", "forged"), ("MCP_FORGED", "1"), ("PRIORITY", "0")],
        [("Mcp-Tunnel-Agent", "forged"), ("Mcp-Tunnel-Call", "forged")],
        [("X-Long", "x" * 20000)],
        [("X-Bytes", "".join(map(chr, range(0x80, 0x100))))],
    ]
    for headers in passing:
        assert sink.audited.post(body("t"), *headers).status == 200, headers
    assert sink.audited.post(body("t"), ("Mcp-Name", "t\tMCP_FORGED=1")).status == 400
    for raw in (b"X: a\nMCP_FORGED: 1", b"X: a\rMCP_FORGED: 1", b"X: a\0b", b"X : 1", b"X: 1\r\n folded"):
        with connect(sink.audited.endpoint) as connection:
            key = sink.audited.endpoint.headers["Authorization"].encode()
            head = b"POST /t/own/mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + key + b"\r\n" + raw
            connection.send(head + b"\r\nContent-Length: 2\r\n\r\n{}")
            assert connection.head().status in (400, 431), raw
    records = settled(sink, 2 * len(passing) + 1)
    assert_sound(sink.records(), known)
    assert_sound(sink.of_relay(), known)
    assert [r.get("MCP_TRACE_ID") for r in records if r["MCP_EVENT"] == "call.request"] == [
        None, None, "0af7651916cd43dd8448eb211c80319c", None, None, None, None, None
    ]  # fmt: skip
    assert {r["MCP_AGENT_ID"] for r in records} == {"own-agent"}
    assert {len(r["MCP_CALL_ID"]) for r in records} == {36}


# ---- a relay that lies ----


class EndOfSession(Exception):
    pass


class HandRelay:
    """A relay by hand: takes one gateway, opens streams with whatever fields, and reads how they end."""

    def __init__(self, certs):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certs.server)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(15 * SCALE)
        self.url = f"wss://localhost:{self.listener.getsockname()[1]}/v1/tunnel"
        self.sock = self.file = None
        self.counted, self.ident = 0, -1

    def accept(self):
        raw, _ = self.listener.accept()
        raw.settimeout(15 * SCALE)
        self.sock = self.context.wrap_socket(raw, server_side=True)
        self.file = self.sock.makefile("rb")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.file.readline()
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head).group(1).decode()
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        self.sock.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mcp-tunnel.v1\r\n\r\n".encode()
        )
        assert self.frame()[0] == HELLO
        welcome = [
            (":version", "1"),
            (":session", "0123456789abcdef" * 2),
            (":resumed", "0"),
            (":received", "0"),
            (":max-payload", "16384"),
            (":window", "262144"),
            (":keepalive-ms", "20000"),
            (":grace-ms", "0"),
            (":software", "by hand"),
        ]
        self.send(WELCOME, fields(*welcome))

    def send(self, kind, payload=b"", ident=0, flags=0):
        message = struct.pack("!BBHI", kind, flags, 0, ident) + payload
        size = bytes([len(message)]) if len(message) < 126 else b"\x7e" + struct.pack("!H", len(message))
        self.sock.sendall(b"\x82" + size + message)

    def frame(self):
        head = self.file.read(2)
        if len(head) < 2 or head[0] == 0x88:
            raise EndOfSession
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.file.read(2))
        mask, data = self.file.read(4), self.file.read(size)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
        kind, flags, _, ident = struct.unpack_from("!BBHI", data)
        self.counted += kind >= OPEN
        if kind == PING:
            self.send(PONG, data[8:16] + struct.pack("!Q", self.counted))
        return kind, flags, ident, data[8:]

    def exchange(self, pairs, message):
        """The status of the answer, or the reason of the RESET."""
        self.ident += 2
        self.send(OPEN, fields(*pairs), self.ident)
        self.send(DATA, message, self.ident, END)
        status = None
        while True:
            kind, flags, ident, payload = self.frame()
            if ident != self.ident:
                continue
            if kind == RESET:
                return "reset", struct.unpack_from("!I", payload)[0]
            if kind == HEAD:
                status = dict(read_fields(payload))[":status"]
            if kind in (HEAD, DATA) and flags & END:
                return "answer", int(status)

    def stop(self):
        if self.sock:
            self.sock.close()
        self.listener.close()


def opening(text):
    """The fields of a call, with the text wherever the relay may put one."""
    value = text.decode("latin-1")
    mine = [(name, value) for name in (":call", ":agent", ":agent-auth")]
    return [(":kind", "exchange"), (":method", "POST"), *mine, *JSON_HEADERS]


def test_relay_cannot_forge_a_record(programs, work, certs, known):
    """Agent name, its proof and call id from a relay that lies: escaped and bounded, two records a call."""
    directory = work / f"hostile-{random.getrandbits(32):x}"
    upstream = Upstream(lambda *_: http(b'{"jsonrpc":"2.0","id":1,"result":{}}'))
    relay = HandRelay(certs)
    with Journald(directory / "log") as journald:
        taken = threading.Thread(target=relay.accept)
        taken.start()
        gateway = Gateway(
            programs,
            directory,
            "mtt_own_" + "A" * 43,
            upstream.url,
            relay.url,
            certs.ca.cert,
            prefix=journald.prefix,
            audit="journald",
        ).start(wait_ready=False)
        try:
            taken.join(20)
            texts = [text.encode() for text in NASTY if not re.search("[\r\n\0]", text)]
            texts += [b"a\xff\xfe\xf0b", b"\x80", b"x" * 7000]
            outcomes = [relay.exchange(opening(text), body("t")) for text in texts]
            # A line break in a field is no field of the protocol: the session ends, and there is no call.
            with pytest.raises(EndOfSession):
                relay.exchange(opening(b"x\nMCP_FORGED=1"), body("t"))
        finally:
            relay.stop()
            gateway.process.stop()
            upstream.stop()
        records = [own_fields(r) for r in journald.records("_COMM=mcp-tunnel-gate")]
        records = [r for r in records if "MCP_EVENT" in r or "MESSAGE_ID" in r or "MCPAUDIT" in r["MESSAGE"]]
    assert_sound(records, known)
    requests = [r for r in records if r["MCP_EVENT"] == "call.request"]
    responses = [r for r in records if r["MCP_EVENT"] == "call.response"]
    denied = [r for r in records if r["MCP_EVENT"] == "call.denied"]
    passed = [text for text, (kind, _) in zip(texts, outcomes) if kind == "answer"]
    assert len(requests) == len(responses) == len(passed)
    # What cannot be a header of the request to the server is denied.
    assert all(outcome in (("answer", 200), ("reset", BAD_REQUEST)) for outcome in outcomes), outcomes
    assert len(passed) > 15 and len(passed) + len(denied) == len(texts) and len(upstream.seen) == len(passed)
    for text, record in zip(passed, requests):
        assert_text(record["MCP_AGENT_ID"], text.decode("utf-8", "surrogateescape") or "unknown")


def test_relay_cannot_end_a_call_well(programs, tmp_path, certs, servers, raw_control, fresh_key):
    """A call that the relay cuts is recorded as cut, whatever reason the relay gives: none, or one that there is not."""
    door = Door(certs.server)
    gateway = Gateway(programs, tmp_path, "mtt_own_" + "A" * 43, servers.url("raw"), door.url, certs.ca.cert)
    gateway.start(wait_ready=False)
    with door.accept() as relay:
        relay.attach()
        for ident, reason in ((1, 0), (3, 4711)):
            key = fresh_key()
            relay.open(ident, *JSON_HEADERS, ("X-Case", "wait-then-echo"), ("X-Key", key), body=body("t"))
            wait_until(lambda k=key: raw_control("seen", k), 15, "the call to reach the server")
            relay.reset(ident, reason)

        def ends():
            records = [json.loads(line) for line in gateway.audit.read_text().splitlines()]
            return [(r["mcp_status"], r.get("mcp_reason")) for r in records if r["mcp_event"] == "call.response"]

        wait_until(lambda: len(ends()) == 2, 15, "the records of how they ended")
        assert ends() == [("cancelled", "cancelled"), ("http_error", "internal")]
        metrics = gateway.health("/metrics")[1]
    door.close()
    gateway.stop()
    assert re.findall(r'calls_ended_total{reason="(?:none|cancelled|internal)"} (\d+)', metrics) == ["0", "1", "1"]
