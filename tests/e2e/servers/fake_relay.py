"""A TLS server that a gateway dials and that is not a relay. usage: fake_relay.py CERT KEY BEHAVIOUR

Behaviour: no-subprotocol answers 101 without Sec-WebSocket-Protocol, other-subprotocol with a wrong one, teapot
answers 418, not-http talks SSH, accept-wrong gives a wrong Sec-WebSocket-Accept, refuse answers 401, busy 503 with a
Retry-After of three seconds, flap attaches every gateway and leaves at once. One line `dial N` on stderr per connection
that came, whether TLS worked or not.
"""

import asyncio
import base64
import hashlib
import os
import ssl
import struct
import sys

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def answer(behaviour, key):
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    if behaviour == "teapot":
        return "HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n"
    if behaviour == "refuse":
        return "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n"
    if behaviour == "busy":
        return "HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"
    if behaviour == "not-http":
        return "SSH-2.0-OpenSSH_9.2p1\r\n\r\n"
    if behaviour == "accept-wrong":
        accept = accept[::-1]
    protocol = {"no-subprotocol": "", "other-subprotocol": "Sec-WebSocket-Protocol: chat\r\n"}.get(
        behaviour, "Sec-WebSocket-Protocol: mcp-tunnel.v1\r\n"
    )
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    )


async def attach_and_leave(reader, writer):
    """Takes HELLO (masked), answers WELCOME for a new session."""
    await reader.readexactly(2)
    pairs = {
        ":version": "1",
        ":session": os.urandom(16).hex(),
        ":resumed": "0",
        ":received": "0",
        ":max-payload": "16384",
        ":window": "262144",
        ":keepalive-ms": "20000",
        ":grace-ms": "0",
        ":software": "",
    }
    frame = b"\x02".ljust(8, b"\0")
    frame += b"".join(struct.pack("!HH", len(n), len(v)) + (n + v).encode() for n, v in pairs.items())
    writer.write(b"\x82\x7e" + struct.pack("!H", len(frame)) + frame)
    await writer.drain()
    # Until the gateway's PING shows that WELCOME has arrived.
    await reader.read(65536)
    await asyncio.sleep(0.05)
    writer.transport.abort()


async def main():
    cert, key, behaviour = sys.argv[1:4]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    dials = 0

    async def serve(reader, writer):
        nonlocal dials
        dials += 1
        print(f"dial {dials}", file=sys.stderr, flush=True)
        try:
            await writer.start_tls(context)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            field = next(line for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key:"))
            writer.write(answer(behaviour, field.split(":", 1)[1].strip()).encode())
            if behaviour == "flap":
                await attach_and_leave(reader, writer)
            await asyncio.wait_for(reader.read(), 10)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, StopIteration):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(f"listening on https://127.0.0.1:{server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await server.serve_forever()


asyncio.run(main())
