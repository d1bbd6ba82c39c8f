"""What a client saw, in a form that can be compared: only what may rightly differ from run to run is taken out."""

import hashlib

from .rawhttp import Connection, Truncated

# Fields of one hop, and those that differ by time.
HOP = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade", "date"}
# What the tunnel adds for the server, and the client's credentials for the relay.
ADDED = {"mcp-tunnel-agent", "mcp-tunnel-call"}


def fields(headers):
    """End-to-end fields in order; a Content-Length of an empty body is left out."""
    return [
        (n.lower(), v) for n, v in headers if n.lower() not in HOP and not (n.lower() == "content-length" and v == "0")
    ]


def seen_by_server(headers):
    return sorted((n.lower(), v) for n, v in headers if n.lower() not in HOP | ADDED)


def response_record(response):
    """Names sorted; values of one name in the order in which they came."""
    return {
        "status": response.status,
        "headers": sorted(fields(response.headers), key=lambda pair: pair[0]),
        "length": len(response.body),
        "sha256": hashlib.sha256(response.body).hexdigest(),
    }


def connect(endpoint, timeout=30):
    return Connection(endpoint.url, endpoint.ca, timeout, endpoint.unix)


def exchange(endpoint, method="GET", headers=(), body=None, **options):
    with connect(endpoint) as connection:
        return connection.call(method, endpoint.pairs() + list(headers), body, **options)


def ending(connection, response):
    """clean, or truncated: how the body ended."""
    try:
        connection.read(response)
        return "clean"
    except Truncated:
        return "truncated"
