"""Agents do not see what they may not call: lists in answers hold what the rules allow, and the rest is as it was."""

import fnmatch
import json
import re
from urllib.parse import quote

import pytest

from lib.configured import configured  # noqa: F401 (a fixture)
from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS, Events, Truncated, rpc
from lib.records import connect, exchange
from lib.tunnel import Endpoint

RULES = ("--allow-tool", "echo*", "--allow-tool", "c*", "--allow-tool", "a*", "--deny-tool", "check_secret")
EVENTS = "text/event-stream"
A, B = '{"name":"a","inputSchema":{"type":"object","x":[{"name":"no"}]}}', '{"title":"B","name":"b"}'
NO = '{"name":"no","description":"SECRET"}'


def tool_passes(name):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ("echo*", "c*", "a*"))


def allowed(lists):
    """What is left of them under the rules of test_sdk_clients()."""
    return {
        "tools": [tool for tool in lists["tools"] if tool_passes(tool["name"])],
        "prompts": [prompt for prompt in lists["prompts"] if not prompt["name"].startswith("a")],
        "resources": [entry for entry in lists["resources"] if not entry["uri"].startswith("stock:")],
        "resourceTemplates": lists["resourceTemplates"],
    }


def answered(entries):
    return f'{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{entries}],"nextCursor":"c","_meta":{{"tools":[{NO}]}}}}}}'


def metric(gateway, name):
    samples = (line.rsplit(" ", 1) for line in gateway.health("/metrics")[1].splitlines() if line[0] != "#")
    return sum(float(value) for key, value in samples if key == f"mcp_tunnel_gateway_{name}")


@pytest.fixture
def filtering(relay_pair, fresh_key):
    """filtering(*options): (gateway, ask); ask(body, type, ...) has the server say that, and gives the answer."""

    def start(*options):
        _, gateway, endpoint = relay_pair(gateway_options=options)

        def ask(body, kind="application/json", method="POST", head="", status="", headers=()):
            pairs = JSON_HEADERS if method == "POST" else [("Accept", EVENTS)]
            said = [("X-Case", "say"), ("X-Type", kind), ("X-Say", quote(body))]
            said += [("X-Head", quote(head)), ("X-Status", status)]
            request = rpc("tools/list", {}, 1) if method == "POST" else None
            with connect(endpoint) as connection:
                connection.request(method, endpoint.pairs() + pairs + said + list(headers), request)
                answer = connection.head()
                try:
                    answer.clean = False
                    answer.body = b""
                    for piece in connection.pieces(answer):
                        answer.body += piece
                    answer.clean = True
                except Truncated:
                    pass
                return answer

        ask.endpoint = endpoint
        return gateway, ask

    return start


@pytest.mark.parametrize("server", ["everything", "stock", "stock-json"])
def test_sdk_clients(relay_pair, servers, drivers, server):
    """A list is the same as without the tunnel but for what is denied; what is not seen cannot be called either."""
    scheme = ("--allow-resource-scheme", "demo") if server == "everything" else ("--deny-resource-scheme", "stock")
    rules = (*RULES, "--deny-prompt", "a*", *scheme)
    _, gateway, endpoint = relay_pair(gateway_options=rules, upstream=servers.url(server))
    removed = 0
    for client in ("ts1", "py2") if server == "everything" else ("ts1", "ts2", "py1", "py2"):
        direct = drivers[client].run(Endpoint(servers.url(server), "direct"), "lists", era="legacy")
        seen = drivers[client].run(endpoint, "lists", era="legacy")
        expected = allowed(direct)
        assert seen == expected, client
        assert 0 < len(seen["tools"]) < len(direct["tools"])
        removed += sum(len(direct[key]) - len(seen[key]) for key in direct)
        # Version 1 of the Python SDK takes a 403 for the end of its session.
        if client == "py1":
            continue
        hidden = next(tool["name"] for tool in direct["tools"] if not tool_passes(tool["name"]))
        result = drivers[client].run(endpoint, "call", calls=[[hidden, {}]], era="legacy")
        assert "denied by --allow-tool: no pattern matches" in re.sub(r"\\+", "", str(result))
    assert metric(gateway, "filtered_entries_total") >= removed


@pytest.mark.parametrize("client", ["ts2", "py2"])
def test_sdk_clients_of_2026(relay_pair, servers, drivers, client):
    """server/discover names no tool; the lists of that revision are like those before."""
    rules = ("--allow-tool", "*r*", "--deny-tool", "räume_*", "--allow-method", "*", "--deny-method", "resources/read")
    _, _, endpoint = relay_pair(gateway_options=rules, upstream=servers.url("stateless"))
    direct = drivers[client].run(Endpoint(servers.url("stateless"), "direct"), "lists", era="modern")
    seen = drivers[client].run(endpoint, "lists", era="modern")
    expected = [tool for tool in direct["tools"] if "r" in tool["name"] and not tool["name"].startswith("räume_")]
    assert seen["tools"] == expected and 0 < len(expected) < len(direct["tools"])
    assert direct["resources"] and seen["resources"] == []


def test_bytes(filtering):
    """An entry goes with its comma; every other byte stays, in JSON texts, batches and events, on POST and GET."""
    gateway, ask = filtering("--deny-tool", "no", "--deny-prompt", "no")
    rows = [
        (answered(f"\n  {A},\n  {NO},\n  {B}\n"), answered(f"\n  {A},\n  {B}\n")),
        (answered(f"{NO}, {A}"), answered(A)),
        (answered(NO), answered("")),
        (answered(f"{A},{B}"), answered(f"{A},{B}")),
        (f" [{answered(NO)},\n{answered(A)}]", f" [{answered('')},\n{answered(A)}]"),
        (
            '{"result":{"prompts":[{"name":"n\\u006f"}],"resources":[1]},"id":1}',
            '{"result":{"prompts":[],"resources":[1]},"id":1}',
        ),
        ('{"id":1,"result":{"content":[{"text":"tools"}]}}', '{"id":1,"result":{"content":[{"text":"tools"}]}}'),
    ]
    for body, expected in rows:
        answer = ask(body)
        assert (answer.status, answer.body.decode(), answer.clean) == (200, expected, True)
        for method in ("POST", "GET"):
            for end in ("\n", "\r\n", "\r"):
                lines = ": c", "id: 1", "data: @", "", "event: message", "data:@", "retry: 5", "", "data: ping", "", ""
                one_line = body.replace("\n", " "), expected.replace("\n", " ")
                sent, wanted = (end.join(lines).replace("@", text) for text in one_line)
                answer = ask(sent, EVENTS, method)
                assert (answer.status, answer.body.decode(), answer.clean) == (200, wanted, True)
    assert metric(gateway, "filtered_entries_total") == 5 + 5 * 12


HOSTILE = {
    "cut-short": '{"result":{"tools":[' + NO,
    "no-json": "{'result':{'tools':[{'name':'no','x':'SECRET'}]}}",
    "more-behind-it": answered(A) + answered(NO),
    "result-twice": '{"result":{},"result":{"tools":[%s]}}' % NO,
    "tools-twice": '{"result":{"tools":[],"tools":[%s]}}' % NO,
    "name-twice": answered('{"name":"no","name":"a","x":"SECRET"}'),
    "name-twice-2": answered('{"name":"a","name":"SECRET"}'),
    "escaped-tools": '{"result":{"t\\u006fols":[%s]}}' % NO,
    "escaped-name": answered('{"n\\u0061me":"no","x":"SECRET"}'),
    "other-case-result": '{"Result":{"tools":[%s]}}' % NO,
    "other-case-tools": '{"result":{"TOOLS":[%s]}}' % NO,
    "other-case-name": answered('{"name":"a","Name":"SECRET"}'),
    "no-name": answered('{"title":"SECRET"}'),
    "name-no-string": answered('{"name":["SECRET"]}'),
    "no-object": answered('"SECRET"'),
    "nul": answered('{"name":"a\\u0000SECRET"}'),
    "deep": answered('{"name":"a","x":' + "[" * 70 + "]" * 70 + ',"y":"SECRET"}'),
    "not-utf-8": answered('{"name":"no\udcff","x":"SECRET"}'),
    "utf-16": answered(NO).encode("utf-16-le").decode(),
}


@pytest.mark.parametrize("form", ["json", "wrong-type", "event", "get"])
def test_what_cannot_be_filtered_does_not_pass(filtering, form):
    """Where clients could read something else in it than the gateway does, the call ends, with a reason."""
    gateway, ask = filtering("--deny-tool", "no")
    names = [name for name in HOSTILE if form in ("json", "wrong-type") or name not in ("utf-16", "cut-short")]
    for name in names:
        body = HOSTILE[name].encode(errors="surrogateescape")
        if form in ("json", "wrong-type"):
            answer = ask(body, "application/json" if form == "json" else "text/plain")
        else:
            answer = ask(b"data: " + body + b"\n\n", EVENTS, "GET" if form == "get" else "POST")
        assert (answer.status == 502 or not answer.clean) and b"SECRET" not in answer.body, (name, answer.body)
    assert metric(gateway, 'calls_ended_total{reason="upstream-unfiltered"}') == len(names)
    assert gateway.process.count("cannot be filtered, so it does not pass: ") > 0
    if form == "get":
        return

    def reasons():
        records = [json.loads(line) for line in gateway.audit.read_text().splitlines()]
        return [record["mcp_reason"] for record in records if record["mcp_event"] == "call.response"]

    wait_until(lambda: reasons() == ["upstream-unfiltered"] * len(names), 10, "the records")


def test_compressed_and_partial(filtering):
    """No coding is asked for; what has one all the same, or is a part, is an error that says so."""
    _, ask = filtering("--deny-tool", "no")
    headers = [("Accept-Encoding", "gzip, br"), ("Range", "bytes=9-"), ("Accept-Language", "de")]
    answer = exchange(ask.endpoint, "POST", JSON_HEADERS + headers, rpc("tools/list", {}, 1))
    sent = {name.lower() for name, _ in headers}
    seen = sorted((name.lower(), value) for name, value in answer.json()["headers"] if name.lower() in sent)
    assert seen == [("accept-encoding", "identity"), ("accept-language", "de")]
    for method, head, status in (
        ("POST", "Content-Encoding: gzip", ""),
        ("GET", "Content-Encoding: identity\nContent-Encoding: br", ""),
        ("POST", "Content-Range: bytes 9-10/20", "206 Partial Content"),
    ):
        answer = ask(answered(NO), method=method, head=head, status=status)
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["data"]["reason"]) == (502, -32013, "upstream-unfiltered")
        assert error["data"]["executed"] == "maybe" and b"SECRET" not in answer.body
        assert ("Content-Encoding" if "Encoding" in head else "206") in error["message"]
    assert ask(answered(NO), head="Content-Encoding: identity").body.decode() == answered("")


FIELDS = 'ETag: "1"\nContent-MD5: x\nDigest: x\nContent-Digest: x\nRepr-Digest: x\nX-Kept: 1\nCache-Control: no-store'


def test_fields(filtering):
    """Lengths and digests of other bytes go; other fields stay, and those of an answer without a body."""
    _, ask = filtering("--deny-tool", "no")
    answer = ask(answered(NO), head=FIELDS)
    names = {name.lower() for name, _ in answer.headers}
    assert not names & {"content-length", "etag", "content-md5", "digest", "content-digest", "repr-digest"}
    assert (answer.get("x-kept"), answer.get("cache-control")) == ("1", "no-store")
    assert answer.get("content-type") == "application/json"
    answer = ask("", head=FIELDS, status="202 Accepted")
    assert (answer.status, answer.body, answer.clean, answer.get("etag")) == (202, b"", True, '"1"')


@pytest.mark.parametrize("options", [(), ("--policy-dry-run", "--deny-tool", "no"), ("--deny-method", "completion/*")])
def test_untouched_without_rules_for_lists(filtering, options):
    gateway, ask = filtering(*options)
    for body in (answered(NO), HOSTILE["tools-twice"], HOSTILE["cut-short"]):
        answer = ask(body, head="Content-Encoding: x\n" + FIELDS, headers=[("Accept-Encoding", "gzip")])
        assert (answer.status, answer.body.decode(), answer.clean) == (200, body, True)
        assert (answer.get("content-length"), answer.get("etag")) == (str(len(body)), '"1"')
    seen = exchange(ask.endpoint, "POST", JSON_HEADERS + [("Accept-Encoding", "gzip")], rpc("tools/list", {}, 1)).json()
    assert ["Accept-Encoding", "gzip"] in seen["headers"]
    assert metric(gateway, "filtered_entries_total") == 0


def test_denied_method_empties_its_list(filtering):
    _, ask = filtering("--deny-method", "tools/call")
    assert ask(answered(f"{A},{NO}")).body.decode() == answered("")
    other = '{"id":1,"result":{"prompts":[{"name":"no"}],"resources":[{"uri":"x:y"}]}}'
    assert ask(other).body.decode() == other


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_events_pass_at_once(filtering, raw_control, fresh_key, method):
    """The server goes on only after the agent has had what came before; half an event is had, too."""
    _, ask = filtering("--deny-tool", "no")
    key = fresh_key()
    parts = [
        'data: {"method":"notifications/progress","params":{}}\n\n',
        'data: {"method":"x","params":{"tools":[{"na',
        'me":"no"}]}}\n\n',
        'data: {"result":{"tools":[{"name":"a",',
        '"inputSchema":{}},{"description":"SECRET","name":',
        '"no"},{"name":"b"}]}}\n\n',
        ": the end\n\n",
    ]
    expected = [*parts[:4], '"inputSchema":{}}', ',{"name":"b"}]}}\n\n', parts[6]]
    headers = [("X-Case", "parts"), ("X-Key", key), ("X-Type", EVENTS), ("X-Parts", ",".join(map(quote, parts)))]
    headers += [("Accept", f"application/json, {EVENTS}"), ("Content-Type", "application/json")]
    with connect(ask.endpoint) as connection:
        body = rpc("tools/list", {}, 1) if method == "POST" else None
        connection.request(method, ask.endpoint.pairs() + headers, body)
        pieces, had = connection.pieces(connection.head()), ""
        for index in range(len(parts)):
            while had != "".join(expected[: index + 1]):
                had += next(pieces).decode()
                assert "".join(expected).startswith(had)
            raw_control("release", f"{key}-{index + 1}")
        assert next(pieces, None) is None


def test_rules_of_a_route_and_new_ones(configured, servers):  # noqa: F811
    """Lists are filtered by the rules of their route, and by new rules once they are there."""
    url = servers.url("raw")
    sections = {"": {"mcp-server-url": url, "deny-tool": "no"}, "docs": {"mcp-server-url": url, "allow-tool": "b"}}
    conf = configured(sections)

    def seen(route=""):
        headers = [("X-Case", "say"), ("X-Type", "application/json"), ("X-Say", quote(answered(f"{A},{NO},{B}")))]
        tools = conf.post(rpc("tools/list", {}, 1), *headers, route=route).json()["result"]["tools"]
        return [tool["name"] for tool in tools]

    assert (seen(), seen("docs")) == (["a", "b"], ["b"])
    del sections[""]["deny-tool"]
    sections["docs"]["allow-tool"] = "*"
    sections["docs"]["deny-tool"] = "a"
    conf.reload(sections)
    assert (seen(), seen("docs")) == (["a", "no", "b"], ["no", "b"])


def test_replayed_answer(relay_pair, servers):
    """An answer that comes again on a GET stream, after Last-Event-ID, is filtered, too."""
    _, _, endpoint = relay_pair(gateway_options=RULES, upstream=servers.url("stock"))
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    session = exchange(endpoint, "POST", JSON_HEADERS, rpc("initialize", hello, 1)).get("mcp-session-id")
    own = [("Mcp-Session-Id", session), ("MCP-Protocol-Version", "2025-11-25")]
    exchange(endpoint, "POST", JSON_HEADERS + own, b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    with connect(endpoint) as connection:
        connection.request("POST", endpoint.pairs() + JSON_HEADERS + own, rpc("tools/list", {}, 2))
        events = list(Events(connection, connection.head()))
    listed = [tool["name"] for tool in json.loads(events[-1]["data"])["result"]["tools"]]
    assert listed and all(map(tool_passes, listed))
    with connect(endpoint) as connection:
        again = [("Accept", EVENTS), ("Last-Event-ID", events[0]["id"])]
        connection.request("GET", endpoint.pairs() + own + again)
        message = next(event for event in Events(connection, connection.head()) if event.get("data"))
    assert [tool["name"] for tool in json.loads(message["data"])["result"]["tools"]] == listed


def test_late_names(filtering):
    """Much comes before each name, more than goes out at once; more than the bound is refused."""
    gateway, ask = filtering("--deny-tool", "tool-2")
    count, size = 12, 900_000

    def late(size):
        connection = connect(ask.endpoint)
        headers = [("X-Case", "late-names"), ("X-Bytes", str(size)), ("X-Count", str(count))]
        connection.request("POST", ask.endpoint.pairs() + JSON_HEADERS + headers, rpc("tools/list", {}, 1))
        return connection, connection.head()

    connection, answer = late(size)
    with connection:
        tools = json.loads(connection.read(answer).body)["result"]["tools"]
    assert [(tool["name"], len(tool["description"])) for tool in tools] == [
        (f"tool-{i}", size) for i in range(count) if i != 2
    ]
    connection, answer = late(1_100_000)
    with connection, pytest.raises(Truncated):
        connection.read(answer)
    ended = 'calls_ended_total{reason="upstream-unfiltered"}'
    wait_until(lambda: metric(gateway, ended) == 1, 10, "the ending")
