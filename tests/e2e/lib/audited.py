"""The tunnel with a journald of its own: all that relay and gateway leave behind can be searched."""

import base64
import socketserver
import threading
import urllib.parse

from .journald import Journald
from .rawhttp import JSON_HEADERS, Truncated
from .records import exchange
from .tunnel import Endpoint, Gateway, Relay


class _Handler(socketserver.StreamRequestHandler):
    def handle(self):
        lines = []
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        if not lines:
            return
        method, target, _ = lines[0].split(" ")
        headers = {n.lower(): v.strip() for n, v in (line.split(":", 1) for line in lines[1:])}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        # What the gateway asks by itself is no call.
        if method != "OPTIONS":
            with self.server.lock:
                self.server.seen.append((method, target, headers, body))
        self.wfile.write(self.server.answer(method, target, headers, body))


class Upstream(socketserver.ThreadingTCPServer):
    """An MCP server that answers with the bytes of answer(method, target, headers, body), one request a connection."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.seen, self.lock = answer, [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/mcp"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


def http(body, status="200 OK", *lines, kind="application/json"):
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body


class Audited:
    def __init__(self, programs, directory, certs, answer, audit="journald", relay_options=(), gateway_options=()):
        self.directory = directory
        self.stops = []
        try:
            self.journald = self._own(Journald(directory / "log"))
            self.upstream = self._own(Upstream(answer))
            self.relay = Relay(programs, directory, *certs.server, *relay_options, prefix=self.journald.prefix)
            token, self.key = self.relay.add_tunnel("own"), self.relay.add_agent("own-agent", "own")
            self._own(self.relay.start())
            self.gateway = Gateway(
                programs,
                directory,
                token,
                self.upstream.url,
                self.relay.control_plane,
                certs.ca.cert,
                *gateway_options,
                prefix=self.journald.prefix,
                audit=audit,
            )
            self.gateway.token = token
            self._own(self.gateway.start())
        except BaseException:
            self.stop()
            raise
        bearer = {"Authorization": f"Bearer {self.key}"}
        self.endpoint = Endpoint(self.relay.url("own"), "tunnel", bearer, certs.ca.cert)

    def _own(self, thing):
        self.stops.append(thing.stop)
        return thing

    def stop(self):
        while self.stops:
            self.stops.pop()()

    def stop_programs(self):
        """Gateway and relay end in order; what they wrote can still be read."""
        self.stops.pop()()
        self.stops.pop()()

    def post(self, body, *headers):
        """The answer, or None where it was cut."""
        try:
            return exchange(self.endpoint, "POST", JSON_HEADERS + list(headers), body)
        except Truncated:
            return None

    def records(self, program="gateway"):
        """What that program has written to the journal."""
        return self.journald.records("_COMM=" + f"mcp-tunnel-{program}"[:15])

    def left_behind(self):
        """{where: bytes} of everything that the programs wrote, but the file that the token was given in."""
        found = {
            "journal, export": self.journald.journalctl("-o", "export"),
            "journal, json": self.journald.journalctl("-o", "json"),
            "relay's log": "\n".join(self.relay.process.lines + self.relay.process.out).encode(),
            "gateway's log": "\n".join(self.gateway.process.lines + self.gateway.process.out).encode(),
        }
        for path in [*self.relay.state.rglob("*"), *self.gateway.dir.rglob("*")]:
            if path.is_file() and path != self.gateway.token_file:
                found[str(path)] = path.read_bytes()
        return found


def forms(secret):
    """The secret as it might have been written down: plain, hex, base64 at each offset, escaped."""
    data = secret.encode()
    made = {data, data.hex().encode(), data.hex().upper().encode(), urllib.parse.quote(secret, safe="").encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # Without the characters that depend on what is before and after.
            made.add(encode(b"\0" * shift + data)[4 if shift else 0 : (shift + len(data)) // 3 * 4])
    return made


def hits(secrets, found):
    """(name, where) of each secret that is anywhere in what was found."""
    return [
        (name, where)
        for name, secret in secrets.items()
        for where, data in found.items()
        if any(form in data for form in forms(secret))
    ]
