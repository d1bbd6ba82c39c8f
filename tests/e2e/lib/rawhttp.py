"""HTTP/1.1 by hand, for what a client library would hide: exact bytes out, exact head and body in."""

import json
import socket
import ssl
import time
from urllib.parse import urlsplit

from .procs import SCALE


class Truncated(Exception):
    """The connection ended before the message did."""


class Response:
    def __init__(self, status, headers):
        self.status, self.headers, self.body = status, headers, b""

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def get(self, name):
        values = self.all(name)
        return values[0] if values else None

    def json(self):
        return json.loads(self.body)


class Connection:
    """One connection to an endpoint URL: TCP, TLS, or the UNIX socket that is given."""

    def __init__(self, url, ca=None, timeout=30, unix=None):
        parts = urlsplit(url)
        self.host, self.path = parts.netloc, parts.path or "/"
        self.timeout = timeout * SCALE
        if unix:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(unix))
        else:
            self.sock = socket.create_connection((parts.hostname, parts.port), self.timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=str(ca))
            self.sock = context.wrap_socket(self.sock, server_hostname=parts.hostname, suppress_ragged_eofs=False)
        self.sock.settimeout(self.timeout)
        self.buffer = bytearray()
        self.eof = self.broken = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def abort(self):
        """Goes away without a word: TCP reset."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        finally:
            self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def request(self, method, headers=(), body=None, host=None, target=None, chunks=None):
        """headers is a list of pairs; body goes with Content-Length, chunks (an iterable) as chunked."""
        lines = [f"{method} {target or self.path} HTTP/1.1", f"Host: {host or self.host}"]
        lines += [f"{n}: {v}" for n, v in headers]
        if chunks is not None:
            lines.append("Transfer-Encoding: chunked")
        elif body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b""))
        for chunk in chunks or ():
            self.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if chunks is not None:
            self.send(b"0\r\n\r\n")

    def _fill(self):
        if self.eof:
            return False
        try:
            data = self.sock.recv(262144)
        except (ConnectionResetError, ssl.SSLEOFError):
            data, self.broken = b"", True
        if not data:
            self.eof = True
            return False
        self.buffer += data
        return True

    def until(self, mark):
        while True:
            at = self.buffer.find(mark)
            if at >= 0:
                data = bytes(self.buffer[: at + len(mark)])
                del self.buffer[: at + len(mark)]
                return data
            if not self._fill():
                raise Truncated(f"end of connection before {mark!r}; had {bytes(self.buffer[:200])!r}")

    def exactly(self, count):
        while len(self.buffer) < count:
            if not self._fill():
                raise Truncated(f"end of connection {count - len(self.buffer)} bytes early")
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def head(self):
        """The next final response head; 1xx heads are passed over."""
        while True:
            lines = self.until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
            version, status = lines[0].split(" ")[:2]
            assert version in ("HTTP/1.1", "HTTP/1.0"), lines[0]
            pairs = [line.split(":", 1) for line in lines[1:]]
            response = Response(int(status), [(n, v.strip(" \t")) for n, v in pairs])
            if response.status >= 200:
                return response

    def chunk(self):
        size = int(self.until(b"\r\n").split(b";")[0], 16)
        if size == 0:
            while self.until(b"\r\n") != b"\r\n":
                pass
            return b""
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n", "chunk without CRLF"
        return data

    def pieces(self, response):
        """Body bytes as they come; raises Truncated where the end is not clean."""
        if response.status in (204, 304):
            return
        if (response.get("transfer-encoding") or "").lower() == "chunked":
            while data := self.chunk():
                yield data
        elif response.get("content-length") is not None:
            left = int(response.get("content-length"))
            while left:
                if not self.buffer and not self._fill():
                    raise Truncated(f"end of connection {left} bytes early")
                data = self.exactly(min(left, len(self.buffer)))
                left -= len(data)
                yield data
        else:
            while self.buffer or self._fill():
                yield self.exactly(len(self.buffer))
            if self.broken:
                raise Truncated("the connection broke")

    def read(self, response):
        response.body = b"".join(self.pieces(response))
        return response

    def call(self, *args, **kwargs):
        self.request(*args, **kwargs)
        return self.read(self.head())

    def quiet(self, seconds):
        """True when nothing arrives for that long."""
        end = time.monotonic() + seconds
        self.sock.settimeout(seconds)
        try:
            while time.monotonic() < end and not self.buffer:
                if not self._fill():
                    return not self.eof
            return not self.buffer
        except (TimeoutError, ssl.SSLWantReadError):
            return True
        finally:
            self.sock.settimeout(self.timeout)


class Events:
    """Server-sent events of one response, as they come."""

    def __init__(self, connection, response):
        self.source, self.text = connection.pieces(response), b""

    def __iter__(self):
        return self

    def __next__(self):
        while b"\n\n" not in self.text:
            self.text = (self.text + next(self.source)).replace(b"\r\n", b"\n")
        event, self.text = self.text.split(b"\n\n", 1)
        fields = {}
        for line in event.decode().split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields[name] = fields.get(name, "") + value.removeprefix(" ")
        return fields

    def messages(self):
        for event in self:
            if event.get("data"):
                yield event.get("id"), json.loads(event["data"])


JSON_HEADERS = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]


def rpc(method, params=None, ident=1):
    message = {"jsonrpc": "2.0", "id": ident, "method": method}
    if params is not None:
        message["params"] = params
    return json.dumps(message).encode()
