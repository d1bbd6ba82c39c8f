"""A gateway written from proto/PROTOCOL.md alone, that does what a test wants, right or wrong."""

import base64
import os
import struct

from .rawhttp import Connection

HELLO, WELCOME, PING, PONG, ACK, GOAWAY, NOTE = range(1, 8)
OPEN, HEAD, DATA, CREDIT, RESET = range(0x10, 0x15)
END = 1
COUNTED = {GOAWAY, OPEN, HEAD, DATA, CREDIT, RESET}


def fields(*pairs):
    return b"".join(
        struct.pack("!HH", len(n), len(v)) + n + v
        for n, v in ((n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs)
    )


def read_fields(payload):
    pairs, at = [], 0
    while at < len(payload):
        n, v = struct.unpack_from("!HH", payload, at)
        at += 4 + n + v
        pairs.append((payload[at - n - v : at - v].decode("latin-1"), payload[at - v : at].decode("latin-1")))
    return pairs


class Closed(Exception):
    """The relay ended the connection; the text is that of its close frame."""


class HandGateway:
    def __init__(self, relay, ca, token, tunnel):
        self.connection = Connection(f"https://localhost:{relay.port}/v1/tunnel", ca)
        self.token, self.tunnel, self.received = token, tunnel, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def upgrade(self, **changes):
        """The status that the relay answers with; 101 is the good one."""
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Protocol": "mcp-tunnel.v1",
            "Authorization": f"Bearer {self.token}",
            "Mcp-Tunnel": self.tunnel,
        }
        headers.update({n.replace("_", "-"): v for n, v in changes.items()})
        self.connection.request("GET", [(n, v) for n, v in headers.items() if v is not None])
        return int(self.connection.until(b"\r\n\r\n").split(b" ")[1])

    def send(self, kind, payload=b"", ident=0, flags=0):
        message = struct.pack("!BBHI", kind, flags, 0, ident) + payload
        # Masked with zeros, which is allowed and changes nothing.
        size = bytes([0x80 | len(message)]) if len(message) < 126 else b"\xfe" + struct.pack("!H", len(message))
        self.connection.send(b"\x82" + size + bytes(4) + message)

    def _message(self):
        first, size = self.connection.exactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.connection.exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.connection.exactly(8))
        payload = self.connection.exactly(size)
        if first == 0x88:
            raise Closed(payload[2:].decode())
        assert first == 0x82, hex(first)
        return payload

    def read(self, *kinds):
        """The next frame of these kinds: (kind, flags, id, payload). PINGs on the way are answered."""
        while True:
            message = self._message()
            kind, flags, _, ident = struct.unpack_from("!BBHI", message)
            payload = message[8:]
            self.received += kind in COUNTED
            if kind == PING:
                self.send(PONG, payload[:8] + struct.pack("!Q", self.received))
            if kind in kinds:
                return kind, flags, ident, payload

    def greet(self, session="", received=0, replaces="", software="by hand", region=""):
        """The fields of WELCOME; the PING after it has been answered."""
        self.send(
            HELLO,
            fields(
                (":version", "1"),
                (":session", session),
                (":replaces", replaces),
                (":received", str(received)),
                (":max-payload", "16384"),
                (":window", "262144"),
                (":max-streams", "100"),
                (":software", software),
                (":region", region),
            ),
        )
        welcome = dict(read_fields(self.read(WELCOME)[3]))
        self.read(PING)
        return welcome

    def attach(self):
        status = self.upgrade()
        assert status == 101, status
        return self.greet()

    def take_call(self):
        """(id, fields) of the next stream; its body is read to the end."""
        _, flags, ident, payload = self.read(OPEN)
        while not flags & END:
            _, flags, same, _ = self.read(DATA)
            assert same == ident
        return ident, read_fields(payload)

    def answer(self, ident, *pairs, body=b"", end=True, status="200"):
        self.send(HEAD, fields((":status", status), *pairs), ident)
        if body or end:
            self.send(DATA, body, ident, END if end else 0)

    def reset(self, ident, reason, detail=b""):
        self.send(RESET, struct.pack("!I", reason) + detail, ident)
