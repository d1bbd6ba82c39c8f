"""An MCP server in this process that keeps every byte it gets, and knows which bytes a gateway of ours may send it."""

import re
import socket
import threading

LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[\t\x20-\x7e\x80-\xff]*")


class Recorder:
    """Answers each request with its X-Key; X-Hold: not at all. `answers` are raw bytes to give instead, by X-Case.
    What the gateway asks by itself, in exactly these bytes, is answered and not kept."""

    def __init__(self, answers=None):
        self.answers, self.requests, self.wrong, self.lock = answers or {}, [], [], threading.Lock()
        self.connections = []  # the peer's port of each request
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.authority = f"127.0.0.1:{self.listener.getsockname()[1]}".encode()
        self.url = f"http://{self.authority.decode()}/mcp"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.listener.close()

    def mark(self):
        with self.lock:
            return len(self.requests)

    def since(self, mark):
        """The requests after the mark, each as its bytes."""
        with self.lock:
            return self.requests[mark:]

    def check(self):
        with self.lock:
            assert not self.wrong, self.wrong[:3]

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with sock, sock.makefile("rb") as stream:
            try:
                while self._request(sock, stream):
                    pass
            except OSError:
                pass

    def _head(self, stream):
        """The lines, as they are; nothing is forgiven."""
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            line = stream.readline(65536)
            if not line:
                return raw
            raw += line
        return raw

    def _problem(self, raw):
        lines = raw[:-4].split(b"\r\n")
        if not raw.endswith(b"\r\n\r\n") or b"\0" in raw or b"\n" in raw.replace(b"\r\n", b""):
            return "head"
        if lines[0] not in (b"POST /mcp HTTP/1.1", b"GET /mcp HTTP/1.1", b"DELETE /mcp HTTP/1.1"):
            return "request line"
        names = [line.split(b":")[0].lower().replace(b"_", b"-") for line in lines[1:]]
        if not all(LINE.fullmatch(line) for line in lines[1:]):
            return "field line"
        if names.count(b"host") != 1 or b"Host: " + self.authority not in lines:
            return "Host"
        if not (lines[0][:4] == b"POST") <= names.count(b"content-length") <= 1 or names.count(b"transfer-encoding"):
            return "framing"
        if names.count(b"mcp-tunnel-agent") > 1 or names.count(b"mcp-tunnel-call") != 1:
            return "names of the tunnel's own"
        return None

    def _request(self, sock, stream):
        raw = self._head(stream)
        if not raw:
            return False
        if raw == b"OPTIONS /mcp HTTP/1.1\r\nHost: %s\r\n\r\n" % self.authority:
            sock.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            return True
        problem = self._problem(raw)
        fields = {n.lower(): v.strip() for n, _, v in (line.partition(b":") for line in raw.split(b"\r\n")[1:-2])}
        body = b"" if problem else stream.read(int(fields.get(b"content-length", 0)))
        with self.lock:
            self.requests.append(raw + body)
            self.connections.append(sock.getpeername()[1])
            if problem:
                self.wrong.append((problem, raw[:500]))
        if problem:
            return False
        if b"x-hold" in fields:
            stream.read(1)
            return False
        case = self.answers.get(fields.get(b"x-case", b"").decode())
        if case is not None:
            return case(sock)
        text = b'{"key": "%s"}' % fields.get(b"x-key", b"")
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        )
        return True
