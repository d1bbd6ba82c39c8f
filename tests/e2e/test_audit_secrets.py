"""What is never recorded: canaries in every place that carries secrets or content, and no trace of them afterwards."""

import base64
import json
import os
import secrets
import subprocess

import pytest

from lib.audited import Audited, forms, hits, http
from lib.calls import CALL
from lib.procs import run, wait_until
from lib.rawhttp import JSON_HEADERS, rpc
from lib.records import connect, exchange
from lib.tunnel import Endpoint, Gateway

EVENTS = {
    "b841c1811f564dbba297bc18d8dee8aa": "call.request",
    "ba9050821cf242d4a0d3709bbfbe2dbc": "call.response",
    "af8637b252624887ae3c855d6fa56728": "call.denied",
}


class Canaries(dict):
    """canaries("name"): a text of its own for each place."""

    def __call__(self, name):
        return self.setdefault(name, f"cnry{secrets.token_hex(12)}")


def answer_with(canary):
    """An MCP server whose every answer holds secrets; the tool says which answer."""

    def answer(method, target, headers, body):
        set_all = [
            f"Mcp-Session-Id: {canary('session id of the server')}",
            f"Set-Cookie: sid={canary('cookie of the server')}; HttpOnly",
            f"X-Answer: {canary('header of the server')}",
        ]
        text = canary("result")
        problem = {"code": -32007, "message": canary("error message"), "data": {"why": canary("error data")}}
        tool_error = {"isError": True, "content": [{"type": "text", "text": canary("tool error")}]}
        tool = headers.get("x-answer")
        if tool == "rpc-error":
            return http(json.dumps({"jsonrpc": "2.0", "id": 1, "error": problem}).encode(), "200 OK", *set_all)
        if tool == "tool-error":
            return http(json.dumps({"jsonrpc": "2.0", "id": 1, "result": tool_error}).encode(), "200 OK", *set_all)
        if tool == "events":
            data = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": canary("event")}})
            return http(
                f"event: message\nid: {canary('event id')}\ndata: {data}\n\n".encode(), kind="text/event-stream"
            )
        if tool == "http-error":
            challenge = f'WWW-Authenticate: Bearer error="{canary("challenge")}"'
            return http(
                canary("http error text").encode(), "500 " + canary("status text"), challenge, kind="text/plain"
            )
        if tool == "not-http":
            return f"HTTP/1.1 {canary('broken status line')}\r\nX: y\r\n\r\n".encode()
        if tool == "bad-header":
            return f"HTTP/1.1 200 OK\r\nBad {canary('broken header')}: 1\r\nContent-Length: 0\r\n\r\n".encode()
        if tool == "cut":
            return http(canary("half an answer").encode() + b"x" * 1000)[:-900]
        if tool == "not-json":
            return http(b'{"jsonrpc":"2.0",' + canary("broken answer").encode())
        return http(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": text}}).encode(), "200 OK", *set_all)

    return answer


ANSWERS = ("good", "rpc-error", "tool-error", "events", "http-error", "not-http", "bad-header", "cut", "not-json")


def carrying(canary):
    """Headers of a request, every one of them with a secret."""
    return [
        ("Cookie", f"session={canary('cookie')}"),
        ("Mcp-Session-Id", canary("session id")),
        ("X-Api-Key", canary("header")),
        ("Proxy-Authorization", f"Basic {canary('proxy credentials')}"),
        ("Last-Event-ID", canary("last event id")),
        ("User-Agent", canary("user agent")),
        ("Referer", f"https://u:{canary('password in a URL')}@example.com/?q={canary('query of a URL')}"),
        ("tracestate", f"vendor={canary('tracestate')}"),
        ("baggage", f"user={canary('baggage')}"),
        ("Mcp-Param-Token", canary("parameter header")),
    ]


def bodies(canary):
    """name: body; calls that pass and bodies that are refused."""
    call = {
        "name": "check_stock",
        "arguments": {"password": canary("argument"), canary("argument name"): [1, {"deep": canary("deep argument")}]},
        "_meta": {"progressToken": canary("progress token"), "x/y": canary("meta")},
    }
    duplicate = '{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"%s"}' % canary("second method")
    return {
        "call": rpc("tools/call", call),
        "prompt": rpc("prompts/get", {"name": "review", "arguments": {"code": canary("prompt argument")}}),
        "resource": rpc(
            "resources/read", {"uri": f"file:///home/{canary('resource path')}?k={canary('resource query')}"}
        ),
        "initialize": rpc(
            "initialize",
            {
                "protocolVersion": "2025-06-18",
                "capabilities": {"x": canary("capability")},
                "clientInfo": {"name": "agent"},
            },
        ),
        "notification": rpc("notifications/message", {"data": canary("notification")}, None),
        "answer": json.dumps({"jsonrpc": "2.0", "id": 9, "result": {"text": canary("answer of the client")}}).encode(),
        "batch": json.dumps(
            [{"jsonrpc": "2.0", "id": n, "method": "x", "params": {"a": canary(f"batch {n}")}} for n in range(3)]
        ).encode(),
        "large": rpc("tools/call", {"name": "x", "arguments": {"text": canary("large argument") * 5000}}),
        "cut": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":"' + canary("cut body").encode(),
        "no json": canary("no json").encode(),
        "duplicate key": duplicate.encode(),
        "not rpc": json.dumps({"hello": canary("no rpc")}).encode(),
        "not utf-8": b'{"jsonrpc":"2.0","id":1,"method":"x","params":"\xff' + canary("no utf-8").encode() + b'"}',
        "deep": b'{"jsonrpc":"2.0","id":1,"method":"x","params":'
        + b"[" * 70
        + canary("deep body").encode()
        + b"]" * 70
        + b"}",
    }


def refused_at_the_front(audited, canary):
    """What the relay or the gateway refuse: wrong keys and tokens, queries, mismatches, unreadable heads."""
    statuses = [
        Endpoint(
            audited.endpoint.url, "tunnel", {"Authorization": f"Bearer {canary('wrong key')}"}, audited.endpoint.ca
        ),
        Endpoint(audited.endpoint.url, "tunnel", {"Authorization": f"Basic {canary('basic')}"}, audited.endpoint.ca),
        Endpoint(
            audited.endpoint.url, "tunnel", {"Mcp-Tunnel-Authorization": canary("own header")}, audited.endpoint.ca
        ),
    ]
    assert [exchange(e, "POST", JSON_HEADERS, CALL).status for e in statuses] == [401, 401, 401]
    assert audited.post(CALL, ("Mcp-Name", canary("name header"))).status == 400
    assert audited.post(CALL, ("Mcp-Method", canary("method header"))).status == 400
    for method in ("GET", "DELETE"):
        assert exchange(audited.endpoint, method, carrying(canary)).status == 200
    for target in (f"/t/own/mcp?token={canary('query')}", f"/t/{canary('no such tunnel')}/mcp"):
        with connect(audited.endpoint) as connection:
            connection.request("POST", audited.endpoint.pairs() + JSON_HEADERS, CALL, target=target)
            assert connection.head().status >= 400
    with connect(audited.endpoint) as connection:
        connection.send(f"POST /t/own/mcp HTTP/1.1\r\nHost: x\r\nBad {canary('unreadable head')}\r\n\r\n".encode())
        assert connection.head().status == 400


def wrong_gateway(audited, programs, certs, canary):
    """A gateway whose token is refused."""
    secret = (canary("wrong token") + "A" * 43)[:43]
    canary["wrong token"] = secret
    gateway = Gateway(
        programs,
        audited.directory,
        f"mtt_own_{secret}",
        audited.upstream.url,
        audited.relay.control_plane,
        certs.ca.cert,
        "--log-level",
        "debug",
        prefix=audited.journald.prefix,
        audit="journald",
    ).start(wait_ready=False)
    gateway.process.wait_line("token-refused", 15)
    gateway.stop()
    return gateway


@pytest.fixture(params=["journald", "file"])
def audited(request, programs, work, certs):
    canary = Canaries()
    directory = work / f"secrets-{request.param}"
    audit = "journald" if request.param == "journald" else f"file:{directory}/audit.jsonl"
    debug = ("--log-level", "debug")
    made = Audited(programs, directory, certs, answer_with(canary), audit, debug, debug)
    made.canary, made.file = canary, directory / "audit.jsonl"
    yield made
    made.stop()


def written(audited):
    if audited.file.exists():
        return [json.loads(line) for line in audited.file.read_text().splitlines()]
    return [{n.lower(): v for n, v in record.items()} for record in audited.records()]


def test_no_canary_anywhere(audited, programs, certs):
    """Zero hits in the journal's export, both logs at level debug, audit files, state and metrics."""
    canary = audited.canary
    for which in ANSWERS:
        audited.post(bodies(canary)["call"], ("X-Answer", which), *carrying(canary))
    for body in bodies(canary).values():
        audited.post(body, *carrying(canary))
    refused_at_the_front(audited, canary)
    stranger = wrong_gateway(audited, programs, certs, canary)
    # mtk_SECRET and mtt_TUNNEL_SECRET: a secret may have underscores of its own.
    canary["agent's key"] = audited.key.split("_", 1)[-1]
    canary["token"] = audited.gateway.token.split("_", 2)[-1]

    # The server did get them: they went through, and what is looked for is what was sent.
    received = b"".join(json.dumps(s[2]).encode() + s[3] for s in audited.upstream.seen)
    for name in ("argument", "cookie", "session id", "header", "prompt argument", "resource path"):
        assert canary[name].encode() in received, name

    answered = len(ANSWERS) + 6 + 3  # bodies that pass, and a batch of three
    wait_until(
        lambda: len([r for r in written(audited) if r["mcp_event"] == "call.response"]) >= answered, 20, "records"
    )
    metrics = audited.gateway.ask("/metrics").body + audited.gateway.ask("/readyz").body
    audited.stop_programs()
    found = {**audited.left_behind(), "metrics": metrics, "the other gateway's log": stranger.process.text().encode()}
    if audited.file.exists():
        found["audit file"] = audited.file.read_bytes()
    assert hits(canary, found) == []

    # The search is no formality: names that are recorded are found in the same places.
    assert hits({"tool": "check_stock"}, found), sorted(found)
    events = [r["mcp_event"] for r in written(audited)]
    assert (
        events.count("call.denied") == 9 and events.count("call.request") == events.count("call.response") == answered
    )


def test_every_encoding_of_a_canary_is_looked_for():
    """Base64 at any offset, hex, percent: the search of these tests finds them."""
    for text in (f"x{'y' * n}cnry0123456789abcdefzz" for n in range(6)):
        for data in (text.encode(), base64.b64encode(text.encode()), text.encode().hex().encode()):
            assert any(form in data for form in forms("cnry0123456789abcdef")), data


@pytest.mark.parametrize(
    "url",
    [
        "http://user:{}@127.0.0.1:9/mcp",
        "http://127.0.0.1:9/mcp?key={}",
        "http://user:a?{}@127.0.0.1:9/mcp",
        "http://127.0.0.1:9/mcp?a@{}",
        "unix:/run/mcp.sock:/mcp?key={}",
    ],
)
def test_refused_url_is_not_repeated(programs, work, certs, url):
    """A password or a query in --mcp-server-url: the gateway does not start, and does not print it."""
    secret = f"cnry{secrets.token_hex(8)}"
    token = work / "token-of-refused-url"
    token.touch(mode=0o600)
    token.write_text("mtt_own_" + "A" * 43 + "\n")
    status, out, err = run(
        [
            programs.gateway,
            "--token-file",
            token,
            "--mcp-server-url",
            url.format(secret),
            "--control-plane",
            "wss://x/y",
        ]
    )
    assert status != 0
    assert not hits({"url": secret}, {"output": (out + err).encode()}), err


def limits(pid):
    with open(f"/proc/{pid}/limits", encoding="ascii") as text:
        return next(line.split()[4:6] for line in text if line.startswith("Max core file size"))


def test_no_core_dumps(relay_pair):
    """RLIMIT_CORE is 0, hard limit too, in both programs: a crash leaves no memory image with calls in it."""
    relay, gateway, _ = relay_pair()
    for process in (relay.process, gateway.process):
        assert limits(process.pid) == ["0", "0"]


def test_memory_is_not_for_others(programs, work, certs):
    """PR_SET_DUMPABLE is 0: /proc/PID of a daemon that does not run as root belongs to root, so that no process of the
    same user can read its memory. A program that does not set it is the control."""
    if os.geteuid() != 0:
        pytest.skip("runs a program as another user: needs root")
    state = work / "relay-as-nobody"
    state.mkdir(mode=0o700)
    other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    able = ["--inh-caps", "+dac_override,+dac_read_search", "--ambient-caps", "+dac_override,+dac_read_search"]
    cert, key = certs.server
    relay = [
        programs.relay,
        "--listen",
        "https://127.0.0.1:0",
        "--tls-cert",
        cert,
        "--tls-key",
        key,
        "--state-dir",
        state,
    ]
    os.chown(state, 65534, 65534)
    owners = []
    for argv, ready in ((["sleep", "60"], None), (relay, b"listening")):
        child = subprocess.Popen(
            [str(a) for a in [*other, *able, *argv]], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            if ready:
                while ready not in (line := child.stderr.readline()):
                    assert line, "the program ended"
            else:
                wait_until(lambda pid=child.pid: "sleep" in open(f"/proc/{pid}/comm").read(), 5, "sleep")
            owners.append(os.stat(f"/proc/{child.pid}/mem").st_uid)
        finally:
            child.kill()
            child.wait(10)
    assert owners == [65534, 0]
