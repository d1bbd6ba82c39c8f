"""What --doctor is to find out about: MCP servers, proxies and other things that answer at a port, right or wrong."""

import contextlib
import http.server
import json
import socket
import socketserver
import ssl
import threading


class Server(socketserver.ThreadingTCPServer):
    """Something that listens on a port of its own for as long as the context."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, handler, certificate=None, **facts):
        super().__init__(("127.0.0.1", 0), handler)
        self.port, self.facts, self.seen = self.server_address[1], facts, []
        self.context = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*certificate)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def finish_request(self, request, client_address):
        if self.context:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        """A client that does not like the certificate goes away: that is what is tested."""

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Http(http.server.BaseHTTPRequestHandler):
    """One answer to everything, of the server's facts: status, headers, body."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        size = int(self.headers.get("Content-Length") or 0)
        self.server.seen.append((self.command, dict(self.headers), self.rfile.read(size)))
        facts = self.server.facts
        self.answer(facts.get("status", 200), facts.get("body", b"hello"), facts.get("headers", [("Content-Type", "text/html")]))

    do_GET = do_POST = do_DELETE = handle_any


class Mcp(Http):
    """Answers initialize as an MCP server with sessions does."""

    def handle_any(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        self.server.seen.append((self.command, dict(self.headers), body))
        if self.command == "DELETE":
            self.answer(200, b"")
            return
        message = json.loads(body)
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "patient", "version": "1.2"}}
        reply = {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
        self.answer(200, json.dumps(reply).encode(), [("Content-Type", "application/json"), ("Mcp-Session-Id", "s-1")])

    do_GET = do_POST = do_DELETE = handle_any


class Silent(socketserver.BaseRequestHandler):
    """Takes what it is sent, and says nothing."""

    def handle(self):
        while data := self.request.recv(65536):
            self.server.seen.append(data)


class Proxy(socketserver.BaseRequestHandler):
    """CONNECT to the server's facts: target (a port here), or answer (a status line); auth: what it wants to see."""

    def handle(self):
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        facts = self.server.facts
        self.server.seen.append(head.decode())
        if "answer" in facts or (facts.get("auth") and facts["auth"] not in head.decode()):
            status = facts.get("answer", "407 Proxy Authentication Required")
            self.request.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        with socket.create_connection(("127.0.0.1", facts["target"])) as far:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=copy, args=(far, self.request), daemon=True)
            back.start()
            copy(self.request, far)
            back.join(5)


def copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
