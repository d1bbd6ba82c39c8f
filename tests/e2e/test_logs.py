"""What a peer can do again and again gives a few lines and a count."""

import concurrent.futures
import re
import socket

from lib.procs import wait_until
from lib.tunnel import Relay

TOKENS = 10_000
REQUEST = (
    "GET /v1/tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: mcp-tunnel.v1\r\nMcp-Tunnel: v0\r\nAuthorization: Bearer mtt_v0_%s\r\n\r\n"
)
REFUSED = re.compile(r"warning: a gateway at \S+ gave a token that is not valid(?: \(repeated (\d+) times? in .*)?")


def give_tokens(port, first, count):
    for number in range(first, first + count):
        with socket.create_connection(("127.0.0.1", port), 30) as sock:
            sock.sendall((REQUEST % f"{number:043d}").encode())
            assert sock.makefile("rb").readline().startswith(b"HTTP/1.1 401 ")


def told(line):
    match = REFUSED.search(line)
    return int(match.group(1) or 1) if match else 0


def test_bad_tokens_give_few_lines_and_their_count(programs, work, certs):
    relay = Relay(programs, work, *certs.server, "--listen", "http://127.0.0.1:0", "--audit", "none").start()
    port = int(relay.process.wait_line(r"listening on http://127\.0\.0\.1:(\d+)").group(1))
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda first: give_tokens(port, first, 100), range(0, TOKENS, 100)))
        wait_until(lambda: relay.process.count("gave a token") >= 10, 5, relay.process.tail)
    finally:
        relay.stop()
    lines = relay.process.text().splitlines()
    assert sum(map(told, lines)) == TOKENS, relay.process.tail()
    # Ten plain ones and the count; more where the machine took minutes for it.
    assert len(lines) < 50, relay.process.tail()
