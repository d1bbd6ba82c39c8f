"""MCP by hand against the real servers: what SDK clients hide, the same directly and through the tunnel."""

import asyncio
import base64
import json
import ssl
from urllib.parse import urlsplit

import pytest

from lib.procs import SCALE, wait_until
from lib.rawhttp import JSON_HEADERS, Events, rpc
from lib.records import connect, exchange, response_record

MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "by-hand", "version": "1"},
}


def post(endpoint, message, headers=()):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return exchange(endpoint, "POST", JSON_HEADERS + list(headers), body)


def answer_of(response):
    """The JSON-RPC message of an answer, be it JSON or one event."""
    if "event-stream" in (response.get("content-type") or ""):
        return json.loads([line for line in response.body.decode().splitlines() if line.startswith("data: {")][-1][6:])
    return response.json()


def open_session(endpoint):
    hello = post(
        endpoint,
        {
            "jsonrpc": "2.0",
            "id": "init",
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "by-hand", "version": "1"},
            },
        },
    )
    assert hello.status == 200, hello.body
    session = [("Mcp-Session-Id", hello.get("mcp-session-id")), ("MCP-Protocol-Version", "2025-11-25")]
    ready = post(endpoint, {"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
    return session, hello, ready


def without_session(record):
    return {**record, "headers": [(n, "*" if n == "mcp-session-id" else v) for n, v in record["headers"]]}


@pytest.mark.parametrize("server", ["stock", "everything"])
def test_life_of_a_session(both, server):
    """initialize, 202 without a body, ping, DELETE, and the server's own refusal afterwards."""

    def scenario(endpoint):
        session, hello, ready = open_session(endpoint)
        ping = post(endpoint, {"jsonrpc": "2.0", "id": 2, "method": "ping"}, session)
        ended = exchange(endpoint, "DELETE", session)
        late = post(endpoint, {"jsonrpc": "2.0", "id": 3, "method": "ping"}, session)
        return [
            without_session(response_record(r)) | {"answer": a}
            for r, a in ((hello, answer_of(hello)), (ready, None), (ended, None), (late, late.status))
        ] + [answer_of(ping)]

    record = both(server, _without_event_ids(scenario))
    assert record[1]["status"] == 202 and record[1]["length"] == 0
    assert record[2]["status"] == 200 and record[3]["status"] in (400, 404)


def _without_event_ids(scenario):
    """Bodies with an event id differ from run to run; their messages are compared."""

    def wrapped(endpoint):
        record = scenario(endpoint)
        for part in record:
            for name in ("sha256", "length"):
                if part.get("status") == 200:
                    part.pop(name, None)
        return record

    return wrapped


def test_last_event_id_replays_what_was_missed(both, gates):
    """The agent reads one event and goes away; the rest is made meanwhile and replayed to its GET."""

    def scenario(endpoint):
        gate = gates / endpoint.via
        gate.mkdir()
        session, _, _ = open_session(endpoint)
        call = {
            "jsonrpc": "2.0",
            "id": 7,
            "method": "tools/call",
            "params": {
                "name": "gated_progress",
                "arguments": {"gate": str(gate), "steps": 4},
                "_meta": {"progressToken": "t"},
            },
        }
        with connect(endpoint) as connection:
            connection.request("POST", endpoint.pairs() + JSON_HEADERS + session, json.dumps(call).encode())
            for ident, message in Events(connection, connection.head()).messages():
                assert message["params"]["progress"] == 1
                break
        for step in range(1, 4):
            (gate / str(step)).touch()
        wait_until((gate / "stored").exists, 15, "the result to be stored")
        seen = []
        with connect(endpoint) as connection:
            connection.request(
                "GET", endpoint.pairs() + session + [("Accept", "text/event-stream"), ("Last-Event-ID", ident)]
            )
            response = connection.head()
            for _, message in Events(connection, response).messages():
                seen.append(message.get("params", {}).get("progress") or message["result"]["content"][0]["text"])
                if "result" in message:
                    break
        exchange(endpoint, "DELETE", session)
        return response.status, seen

    assert both("stock", scenario) == (200, [2, 3, 4, "all steps done"])


def test_log_notification_arrives_on_the_get_stream(both, gates):
    def scenario(endpoint):
        gate = gates / endpoint.via
        session, _, _ = open_session(endpoint)
        with connect(endpoint) as stream, connect(endpoint) as caller:
            stream.request("GET", endpoint.pairs() + session + [("Accept", "text/event-stream")])
            head = stream.head()
            call = rpc("tools/call", {"name": "log_until", "arguments": {"gate": str(gate), "text": "héllo\r\n"}}, 5)
            caller.request("POST", endpoint.pairs() + JSON_HEADERS + session, call)
            _, message = next(Events(stream, head).messages())
            gate.touch()
            result = answer_of(caller.read(caller.head()))
        exchange(endpoint, "DELETE", session)
        return head.status, message, result

    assert both("stock", scenario)[1]["params"]["data"] == "héllo\r\n"


def modern(method, params, ident=1, **changes):
    """(headers, body) of a 2026-07-28 request; changes replace headers, None leaves one out."""
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    if "name" in params:
        name = params["name"]
        headers["Mcp-Name"] = name if name.isascii() else f"=?base64?{base64.b64encode(name.encode()).decode()}?="
    headers.update({n.replace("_", "-"): v for n, v in changes.items()})
    return [(n, v) for n, v in headers.items() if v is not None], rpc(method, {**params, "_meta": META}, ident)


ECHO = {"name": "echo", "arguments": {"text": "tschüß"}}


@pytest.mark.parametrize("params", [ECHO, {"name": "räume_prüfen", "arguments": {}}], ids=["plain", "base64"])
def test_mirrored_headers_that_match(both, params):
    def scenario(endpoint):
        headers, body = modern("tools/call", params)
        return response_record(post(endpoint, body, headers))

    assert both("stateless", scenario)["status"] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"Mcp_Method": "tools/list"},
        {"Mcp_Name": "add"},
        {"Mcp_Name": "=?base64?YWRk?="},
        {"Mcp_Method": "TOOLS/CALL"},
        {"Mcp_Name": "Echo"},
        {"Mcp_Method": None},
        {"Mcp_Name": None},
    ],
    ids=["method", "name", "name-base64", "method-case", "name-case", "no-method", "no-name"],
)
def test_mirrored_headers_that_do_not_match(both, changes):
    """400 with JSON-RPC error -32020, whoever of tunnel and server finds it."""

    def scenario(endpoint):
        headers, body = modern("tools/call", ECHO, "id-é", **changes)
        response = post(endpoint, body, headers)
        answer = response.json()
        return response.status, response.get("content-type"), answer["error"]["code"], answer["id"], answer["jsonrpc"]

    assert both("stateless", scenario) == (400, "application/json", -32020, "id-é", "2.0")


def test_protocol_version_header_that_does_not_match(both):
    def scenario(endpoint):
        headers, body = modern("tools/call", ECHO, 8, MCP_Protocol_Version="2025-11-25")
        response = post(endpoint, body, headers)
        return response.status, response.json()["error"]["code"], response.json()["id"]

    assert both("stateless", scenario) == (400, -32020, 8)


def test_subscriptions_listen_by_hand(both, gates):
    """The stream acknowledges first, then carries what a call on another connection causes; closing it ends it."""

    def scenario(endpoint):
        gate = gates / endpoint.via
        headers, body = modern(
            "subscriptions/listen",
            {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["note://one"]}},
            "sub-1",
        )
        with connect(endpoint) as stream, connect(endpoint) as caller:
            stream.request("POST", endpoint.pairs() + JSON_HEADERS + headers, body)
            head = stream.head()
            messages = (message for _, message in Events(stream, head).messages())
            acknowledged = next(messages)
            headers, body = modern(
                "tools/call", {"name": "touch_until", "arguments": {"gate": str(gate), "uri": "note://one"}}, 2
            )
            caller.request("POST", endpoint.pairs() + JSON_HEADERS + headers, body)
            news = [next(messages), next(messages)]
            gate.touch()
            return head.status, acknowledged, sorted(news, key=lambda m: m["method"]), caller.read(caller.head()).status

    record = both("stateless", scenario)
    assert [m["method"] for m in record[2]] == ["notifications/resources/updated", "notifications/tools/list_changed"]


class IdleStreams:
    """Many GET streams of one process."""

    def __init__(self, endpoint, key, count):
        self.endpoint, self.key, self.count = endpoint, key, count
        self.parts = urlsplit(endpoint.url)
        self.tls = ssl.create_default_context(cafile=str(endpoint.ca)) if self.parts.scheme == "https" else None
        self.streams, self.gate = [], asyncio.Semaphore(50)
        headers = endpoint.pairs() + [("X-Case", "idle"), ("X-Key", key), ("Accept", "text/event-stream")]
        self.head = (
            f"GET {self.parts.path} HTTP/1.1\r\nHost: {self.parts.netloc}\r\n"
            + "".join(f"{n}: {v}\r\n" for n, v in headers)
            + "\r\n"
        ).encode()

    async def open_one(self):
        async with self.gate:
            reader, writer = await asyncio.open_connection(self.parts.hostname, self.parts.port, ssl=self.tls)
            writer.write(self.head)
            self.streams.append((reader, writer))
            status = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
            assert status == b"200", status

    async def open_all(self):
        await asyncio.wait_for(asyncio.gather(*(self.open_one() for _ in range(self.count))), 60 * SCALE)

    async def finish_all(self):
        async def rest(reader):
            return await reader.readuntil(b"\r\n0\r\n\r\n")

        bodies = await asyncio.wait_for(asyncio.gather(*(rest(r) for r, _ in self.streams)), 60 * SCALE)
        for _, writer in self.streams:
            writer.transport.abort()
        return sum(b"released" in body for body in bodies)


def test_1000_idle_get_streams_beside_working_calls(both, raw_control, fresh_key):
    def scenario(endpoint):
        async def play():
            idle = IdleStreams(endpoint, fresh_key(), 1000)
            await idle.open_all()
            started = len(raw_control("seen", idle.key))
            calls = [
                (await asyncio.to_thread(post, endpoint, rpc("tools/call", {"name": "x"}, n))).status
                for n in range(100)
            ]
            raw_control("release", idle.key)
            return started, calls.count(200), await idle.finish_all()

        return asyncio.run(play())

    assert both("raw", scenario) == (1000, 100, 1000)
