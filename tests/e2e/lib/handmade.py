"""A gateway and a relay written from proto/PROTOCOL.md alone, that do what a test wants, right or wrong."""

import base64
import hashlib
import os
import re
import socket
import ssl
import struct
import time
import uuid

from .procs import SCALE
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
    """The other end closed the connection; the text is that of its close frame."""


def frame(kind, payload=b"", ident=0, flags=0, reserved=0):
    return struct.pack("!BBHI", kind, flags, reserved, ident) + payload


def websocket(data, masks, first=0x82):
    """One WebSocket frame. Masked with zeros, which is allowed and changes nothing."""
    bit, mask = (0x80, bytes(4)) if masks else (0, b"")
    if len(data) < 126:
        size = bytes([bit | len(data)])
    elif len(data) < 65536:
        size = bytes([bit | 126]) + struct.pack("!H", len(data))
    else:
        size = bytes([bit | 127]) + struct.pack("!Q", len(data))
    return bytes([first]) + size + mask + data


class Peer:
    """One end of the tunnel, by hand: frames out, frames in."""

    masks = True

    def __init__(self, connection):
        self.connection, self.received = connection, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def send(self, kind, payload=b"", ident=0, flags=0):
        self.connection.send(websocket(frame(kind, payload, ident, flags), self.masks))

    def _message(self):
        while True:
            first, size = self.connection.exactly(2)
            mask, size = size & 0x80, size & 0x7F
            assert bool(mask) != self.masks, "masked by the wrong end"
            if size == 126:
                (size,) = struct.unpack("!H", self.connection.exactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self.connection.exactly(8))
            key = self.connection.exactly(4) if mask else bytes(4)
            payload = self.connection.exactly(size)
            if any(key):
                stream = (key * (size // 4 + 1))[:size]
                payload = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")
            if first == 0x88:
                raise Closed(payload[2:].decode())
            if first == 0x82:
                return payload
            assert first == 0x8A, hex(first)

    def read(self, *kinds):
        """The next frame of these kinds: (kind, flags, id, payload). PINGs on the way are answered."""
        end = time.monotonic() + 5 * SCALE
        while time.monotonic() < end:
            frame = self.read_any()
            if frame[0] == PING:
                self.send(PONG, frame[3][:8] + struct.pack("!Q", self.received))
            if frame[0] in kinds:
                return frame
        raise TimeoutError(f"none of the frames {kinds}")

    def read_any(self):
        message = self._message()
        kind, flags, _, ident = struct.unpack_from("!BBHI", message)
        self.received += kind in COUNTED
        return kind, flags, ident, message[8:]

    def reset(self, ident, reason, detail=b""):
        self.send(RESET, struct.pack("!I", reason) + detail, ident)


class HandGateway(Peer):
    def __init__(self, relay, ca, token, tunnel):
        super().__init__(Connection(f"https://localhost:{relay.port}/v1/tunnel", ca))
        self.token, self.tunnel = token, tunnel

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

    def hello(self, *more, **changes):
        """HELLO with some of its fields replaced (None: left out), and more behind them."""
        pairs = {
            "version": "1",
            "session": "",
            "replaces": "",
            "received": "0",
            "max-payload": "16384",
            "window": "262144",
            "max-streams": "100",
            "software": "by hand",
            "region": "",
        }
        pairs.update({n.replace("_", "-"): v for n, v in changes.items()})
        self.send(HELLO, fields(*((":" + n, v) for n, v in pairs.items() if v is not None), *more))

    def greet(self, session="", received=0, replaces="", software="by hand", region=""):
        """The fields of WELCOME; the PING after it has been answered."""
        self.hello(session=session, replaces=replaces, received=str(received), software=software, region=region)
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


class Accepted(Connection):
    """A connection that came, as one end of rawhttp's."""

    def __init__(self, sock, timeout=30):
        self.sock, self.timeout = sock, timeout * SCALE
        self.sock.settimeout(self.timeout)
        self.buffer, self.eof, self.broken = bytearray(), False, False


class Door:
    """Where gateways come in: a listener with TLS."""

    def __init__(self, certificate, **versions):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        for name, version in versions.items():
            setattr(self.context, name, version)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(15 * SCALE)
        self.url = f"wss://localhost:{self.listener.getsockname()[1]}/v1/tunnel"

    def close(self):
        self.listener.close()

    def accept(self, tls=True):
        sock, _ = self.listener.accept()
        sock.settimeout(15 * SCALE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            sock = self.context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
        return HandRelay(Accepted(sock))


class HandRelay(Peer):
    """A relay that does what a test wants, with one gateway."""

    masks = False

    def upgrade(self, status="101 Switching Protocols", more="", **changes):
        """Answers the gateway's request; changes replace fields of the answer (None: left out)."""
        head = self.connection.until(b"\r\n\r\n").decode()
        key = re.search(r"(?i)^sec-websocket-key: *(\S+)", head, re.M).group(1)
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Accept": base64.b64encode(accept).decode(),
            "Sec-WebSocket-Protocol": "mcp-tunnel.v1",
        }
        headers.update({n.replace("_", "-"): v for n, v in changes.items()})
        lines = [f"HTTP/1.1 {status}", *(f"{n}: {v}" for n, v in headers.items() if v is not None)]
        self.connection.send(("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1"))

    def welcome(self, *more, **changes):
        pairs = {
            "version": "1",
            "session": os.urandom(16).hex(),
            "resumed": "0",
            "received": "0",
            "max-payload": "16384",
            "window": "262144",
            "keepalive-ms": "20000",
            "grace-ms": "30000",
            "software": "by hand",
        }
        pairs.update({n.replace("_", "-"): v for n, v in changes.items()})
        self.send(WELCOME, fields(*((":" + n, v) for n, v in pairs.items() if v is not None), *more))
        return pairs

    def attach(self, **changes):
        """The fields of HELLO, and of WELCOME."""
        self.upgrade()
        hello = dict(read_fields(self.read(HELLO)[3]))
        welcome = self.welcome(**changes)
        self.read(PING)
        return hello, welcome

    def open(self, ident, *more, body=None, end=True, **changes):
        pairs = {
            "kind": "exchange",
            "route": "",
            "method": "POST",
            "call": str(uuid.uuid4()),
            "agent": "hand",
            "agent-auth": "bearer",
        }
        pairs.update({n.replace("_", "-"): v for n, v in changes.items()})
        payload = fields(*((":" + n, v) for n, v in pairs.items() if v is not None), *more)
        self.send(OPEN, payload, ident, END if end and body is None else 0)
        if body is not None:
            self.send(DATA, body, ident, END if end else 0)

    def answer(self, ident):
        """(fields of HEAD, body) of a stream, or its RESET as (reason, detail)."""
        pairs, body = None, b""
        while True:
            kind, flags, same, payload = self.read(HEAD, DATA, RESET)
            if same != ident:
                continue
            if kind == RESET:
                return struct.unpack_from("!I", payload)[0], payload[4:].decode()
            if kind == HEAD:
                pairs = dict(read_fields(payload))
            else:
                body += payload
            if flags & END:
                return pairs, body
