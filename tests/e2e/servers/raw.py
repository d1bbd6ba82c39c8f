"""An HTTP/1.1 server without a library, for exact behaviours that no MCP SDK shows.

usage: raw.py [PORT|unix:PATH]

POST, GET and DELETE of any path do what the request's X-Case says; /ctl/... is for the test:
/ctl/release/KEY opens a gate, /ctl/seen/KEY tells what was recorded under X-Key.
"""

import asyncio
import hashlib
import json
import socket
import struct
import sys
from urllib.parse import unquote

GATES, SEEN, PORT = {}, {}, 0
PATTERN = bytes(range(256)) * 256


def gate(key):
    return GATES.setdefault(key, asyncio.Event())


def note(key, what):
    SEEN.setdefault(key, []).append(what)


class Request:
    def __init__(self, method, target, headers, body, reader, writer):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.reader, self.writer = reader, writer

    def get(self, name, default=""):
        return next((v for n, v in self.headers if n.lower() == name.lower()), default)

    @property
    def key(self):
        return self.get("x-key")

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status, *lines):
        await self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())

    async def chunk(self, data):
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def answer(self, status, body, *lines):
        await self.head(status, f"Content-Length: {len(body)}", *lines)
        await self.send(body)

    async def json(self, value, status="200 OK", *lines):
        await self.answer(status, json.dumps(value).encode(), "Content-Type: application/json", *lines)

    async def gone(self):
        """Returns when the peer has closed its end."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass

    def reset(self):
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def echo(r):
    host = r.get("host")
    if host not in (f"127.0.0.1:{PORT}", f"localhost:{PORT}") and (PORT or host != "localhost"):
        return await r.json({"refused": "host", "host": host}, "403 Forbidden")
    if r.get("origin") and not r.get("origin").startswith(f"http://127.0.0.1:{PORT}"):
        return await r.json({"refused": "origin", "origin": r.get("origin")}, "403 Forbidden")
    await r.json(
        {
            "method": r.method,
            "target": r.target,
            "headers": r.headers,
            "length": len(r.body),
            "sha256": hashlib.sha256(r.body).hexdigest(),
        }
    )


async def head_first(r):
    await r.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked", "X-Early: yes")
    note(r.key, "head sent")
    await gate(r.key).wait()
    await r.chunk(b'data: {"late":true}\n\n')
    await r.send(b"0\r\n\r\n")


async def steps(r):
    await r.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    for index in range(int(r.get("x-steps"))):
        if index:
            await gate(f"{r.key}-{index}").wait()
        await r.chunk(b'id: %d\ndata: {"step":%d}\n\n' % (index, index))
    await r.send(b"0\r\n\r\n")


async def half_event(r):
    """The first half of an event goes out; the rest waits for the gate."""
    await r.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    await r.send(b'40\r\ndata: {"first')
    await gate(r.key).wait()
    await r.send(b' half":1}\n'.ljust(0x40 - 13, b"\n") + b"\r\n0\r\n\r\n")


async def cut(r):
    how = r.get("x-how")
    if how.startswith("length"):
        await r.head("200 OK", "Content-Type: application/json", "Content-Length: 1000")
        await r.send(b"x" * 100)
    elif how.startswith("chunked"):
        await r.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        await r.chunk(b'data: {"some":1}\n\n')
    elif how.startswith("midchunk"):
        await r.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        await r.send(b"100\r\ndata: half")
    elif how.startswith("head"):
        await r.send(b"HTTP/1.1 200 OK\r\nContent-Type: appl")
    if r.key:
        await gate(r.key).wait()
    if how.endswith("reset"):
        r.reset()
    return "close"


async def early_hints(r):
    await r.head("103 Early Hints", "Link: </style.css>; rel=preload")
    await r.head("103 Early Hints", "Link: </more.css>; rel=preload")
    await r.json({"after": 103, "key": r.key})


async def accepted_chunked(r):
    await r.head("202 Accepted", "Transfer-Encoding: chunked")
    await r.send(b"0\r\n\r\n")


async def accepted_empty(r):
    await r.head("202 Accepted", "Content-Length: 0")


async def no_content(r):
    await r.head("204 No Content", "X-None: 1")


async def not_modified(r):
    await r.head("304 Not Modified", 'ETag: "x"')


async def cookies(r):
    await r.json(
        {},
        "200 OK",
        "Set-Cookie: a=1; Path=/",
        "Set-Cookie: b=2; HttpOnly",
        'set-cookie: c="3, 4"',
        "Mcp-Session-Id: 0123-abc",
        "X-Odd:   spaces around   ",
        "X-Empty:",
        'ETag: W/"x"',
        "Vary: Accept, Origin",
    )


async def unauthorized(r):
    await r.json(
        {"error": "no"},
        "401 Unauthorized",
        'WWW-Authenticate: Bearer resource_metadata="https://as.example/.well-known/x", scope="a b"',
        'WWW-Authenticate: Basic realm="r"',
    )


async def retry_after(r):
    await r.json({"busy": True}, f"{r.get('x-status', '503')} Busy", "Retry-After: 17")


async def status(r):
    await r.answer(r.get("x-status"), b"as said", "Content-Type: text/plain")


async def hop_by_hop(r):
    await r.json(
        {},
        "200 OK",
        "Connection: keep-alive, X-Mine",
        "X-Mine: 1",
        "Keep-Alive: timeout=9",
        "Proxy-Connection: keep-alive",
        "X-Kept: 1",
    )


async def until_close(r):
    await r.head("200 OK", "Content-Type: text/plain", "Connection: close")
    await r.send(b"until the end")
    return "close"


async def http10(r):
    await r.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold style")
    return "close"


async def download(r):
    left, digest = int(r.get("x-bytes")), hashlib.sha256()
    if r.get("x-chunked"):
        await r.head("200 OK", "Content-Type: application/octet-stream", "Transfer-Encoding: chunked")
    else:
        await r.head("200 OK", "Content-Type: application/octet-stream", f"Content-Length: {left}")
    while left:
        part = PATTERN[: min(left, len(PATTERN))]
        digest.update(part)
        left -= len(part)
        await (r.chunk(part) if r.get("x-chunked") else r.send(part))
    note(r.key, digest.hexdigest())
    if r.get("x-chunked"):
        await r.send(b"0\r\n\r\n")


async def progress(r):
    """A download that records how far it has come, in MiB."""
    mib = int(r.get("x-mib"))
    await r.head("200 OK", "Content-Type: application/octet-stream", f"Content-Length: {mib << 20}")
    for done in range(mib):
        for _ in range(16):
            await r.send(PATTERN)
        note(r.key, done + 1)


async def say(r):
    """A body of the test's own, percent-encoded, with the fields in X-Head, one a line."""
    lines = [line for line in unquote(r.get("x-head")).split("\n") if line]
    body = unquote(r.get("x-say"), errors="surrogateescape").encode(errors="surrogateescape")
    await r.answer(r.get("x-status") or "200 OK", body, f"Content-Type: {r.get('x-type')}", *lines)


async def parts(r):
    """The lines of X-Parts, percent-encoded; each but the first waits for its gate."""
    await r.head("200 OK", f"Content-Type: {r.get('x-type')}", "Transfer-Encoding: chunked")
    for index, part in enumerate(r.get("x-parts").split(",")):
        if index:
            await gate(f"{r.key}-{index}").wait()
        await r.chunk(unquote(part).encode())
    await r.send(b"0\r\n\r\n")


async def late_names(r):
    """A list of tools whose names come late: X-Count of them, X-Bytes in front of each name."""
    filling = b"x" * int(r.get("x-bytes"))
    await r.head("200 OK", "Content-Type: application/json", "Transfer-Encoding: chunked")
    await r.chunk(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[')
    for index in range(int(r.get("x-count"))):
        await r.chunk(b'%b{"description":"%b","name":"tool-%d"}' % (b"," if index else b"", filling, index))
    await r.chunk(b"]}}")
    await r.send(b"0\r\n\r\n")


async def audited(r):
    """Whether the file holds a record of this call now, before the server has said anything."""
    with open(r.get("x-file"), encoding="utf-8") as records:
        lines = [json.loads(line) for line in records if r.get("mcp-tunnel-call") in line]
    await r.json([line["mcp_event"] for line in lines])


async def endless(r):
    """Events without an end; records that the peer went away."""
    await r.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    note(r.key, "started")
    gone = asyncio.create_task(r.gone())
    number = 0
    while not gone.done():
        try:
            await r.chunk(b'data: {"n":%d}\n\n' % number)
        except ConnectionError:
            break
        number += 1
        await asyncio.wait([gone], timeout=0.02)
    note(r.key, "gone")
    return "close"


async def silent(r):
    """Never answers; records that the peer went away."""
    note(r.key, "started")
    await r.gone()
    note(r.key, "gone")
    return "close"


async def idle(r):
    await r.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    note(r.key, "started")
    gone = asyncio.create_task(r.gone())
    opened = asyncio.create_task(gate(r.key).wait())
    await asyncio.wait([gone, opened], return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        note(r.key, "gone")
        return "close"
    await r.chunk(b'data: {"released":1}\n\n')
    await r.send(b"0\r\n\r\n")
    gone.cancel()
    return "close"


async def wait_then_echo(r):
    note(r.key, "started")
    await gate(r.key).wait()
    filling = "x" * int(r.get("x-filling", "0"))
    await r.json({"sha256": hashlib.sha256(r.body).hexdigest(), "key": r.key, "filling": filling})


async def not_http(r):
    await r.send(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")
    return "close"


async def close_early(r):
    note(r.key, "taken")
    return "close"


CASES = {
    name.replace("_", "-"): fn
    for name, fn in list(globals().items())
    if asyncio.iscoroutinefunction(fn) and not name.startswith("_")
}


async def control(r):
    verb, key = r.target.split("/")[2:4]
    key = unquote(key)
    if verb == "release":
        gate(key).set()
    await r.json(SEEN.get(key, []))


async def read_body(reader, writer, headers):
    find = {n.lower(): v for n, v in headers}
    if find.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if find.get("transfer-encoding", "").lower() == "chunked":
        body = bytearray()
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
        return bytes(body)
    return await reader.readexactly(int(find.get("content-length", "0")))


async def read_request(reader, writer):
    raw = await reader.readuntil(b"\r\n\r\n")
    lines = raw[:-4].decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = [(n, v.strip()) for n, v in (line.split(":", 1) for line in lines[1:])]
    body = await read_body(reader, writer, headers)
    return Request(method, target, headers, body, reader, writer)


async def serve(reader, writer):
    try:
        while True:
            request = await read_request(reader, writer)
            case = control if request.target.startswith("/ctl/") else CASES[request.get("x-case", "echo")]
            if await case(request) == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    global PORT
    where = sys.argv[1] if len(sys.argv) > 1 else "0"
    if where.startswith("unix:"):
        PORT = None
        server = await asyncio.start_unix_server(serve, where[5:], limit=4 << 20)
        print(f"listening on {where}", file=sys.stderr, flush=True)
        await server.serve_forever()
    server = await asyncio.start_server(serve, "127.0.0.1", int(where), limit=4 << 20, backlog=2048)
    PORT = server.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{PORT}", file=sys.stderr, flush=True)
    await server.serve_forever()


asyncio.run(main())
