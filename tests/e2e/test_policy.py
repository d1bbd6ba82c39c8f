"""What the operator allows and denies holds at the gateway, whatever way a call is written down in."""

import json
import re

import pytest

from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS, rpc
from lib.records import exchange


def records(gateway):
    lines = [json.loads(line) for line in gateway.audit.read_text().splitlines()]
    return [record for record in lines if record["mcp_event"].startswith("call.")]


@pytest.fixture
def guarded(relay_pair, raw_control, fresh_key):
    """guarded(*options): (gateway, post); post(body, *headers) gives the answer, and what reached the server."""

    def start(*options):
        _, gateway, endpoint = relay_pair(gateway_options=options)

        def post(body, *headers):
            key = fresh_key()
            raw_control("release", key)
            pairs = JSON_HEADERS + [("X-Case", "wait-then-echo"), ("X-Key", key), *headers]
            answer = exchange(endpoint, "POST", pairs, body)
            return answer, raw_control("seen", key)

        return gateway, post

    return start


def tool(name, ident="id-7"):
    return rpc("tools/call", {"name": name, "arguments": {"a": 1}}, ident)


def check_denied(post, gateway, body, rule, *headers):
    """403 with the request's id and the rule, nothing at the server, one record that says the same."""
    before = len(records(gateway))
    answer, seen = post(body, *headers)
    error = answer.json()["error"]
    assert (answer.status, error["code"], seen) == (403, -32002, []), answer.body
    assert (error["data"]["reason"], error["data"]["executed"]) == ("policy", "no")
    assert f"denied by {rule};" in error["message"]
    made = records(gateway)[before:]
    assert [(r["mcp_event"], r["mcp_decision"], r["mcp_reason"]) for r in made] == [("call.denied", "deny", "policy")]
    assert made[0]["mcp_rule"] == rule
    return answer.json(), made[0]


def check_passes(post, body):
    answer, seen = post(body)
    assert answer.status == 200 and seen, (answer.status, answer.body)


def test_denied_tool(guarded):
    gateway, post = guarded("--deny-tool", "rm*", "--deny-tool", "x")
    answer, record = check_denied(post, gateway, tool("rmdir"), '--deny-tool "rm*"')
    assert answer["id"] == "id-7"
    assert (record["mcp_method"], record["mcp_tool"], record["mcp_jsonrpc_id"]) == ("tools/call", "rmdir", '"id-7"')
    assert record["mcp_agent_id"] == "own-agent" and record["mcp_args_hash"]
    assert check_denied(post, gateway, tool("rm", 42), '--deny-tool "rm*"')[0]["id"] == 42
    check_passes(post, tool("ls"))
    assert [r["mcp_event"] for r in records(gateway)][2] == "call.request"
    assert "mcp_rule" not in records(gateway)[2]


def test_closed_once_a_tool_is_allowed(guarded):
    gateway, post = guarded("--allow-tool", "get-*", "--allow-tool", "rm", "--deny-tool", "get-secret")
    check_passes(post, tool("get-sum"))
    check_passes(post, tool("rm"))
    check_denied(post, gateway, tool("echo"), "--allow-tool: no pattern matches")
    check_denied(post, gateway, tool("get-secret"), '--deny-tool "get-secret"')
    # What a session needs, and what is of another kind, is none of their business.
    for method in ("initialize", "ping", "tools/list", "logging/setLevel", "server/discover"):
        check_passes(post, rpc(method, {}, 1))
    check_passes(post, b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    check_passes(post, rpc("prompts/get", {"name": "rm-rf"}, 1))


WAYS = {
    "escaped-method": rb'{"jsonrpc":"2.0","id":"id-7","m\u0065thod":"tools\/c\u0061ll","params":{"name":"rm"}}',
    "escaped-name": rb'{"jsonrpc":"2.0","id":"id-7","method":"tools/call","params":{"n\u0061me":"r\u006d"}}',
    "escaped-params": rb'{"jsonrpc":"2.0","id":"id-7","method":"tools/call","p\u0061rams":{"name":"rm"}}',
    "params-first": b'{"params":{"name":"rm"},"method":"tools/call","id":"id-7","jsonrpc":"2.0"}',
    "white-space": b' \r\n{ "jsonrpc" : "2.0", "id":"id-7", "method"\t:"tools/call","params":{ "name" :\n"rm" } } ',
    "arguments-that-look-like-it": b'{"jsonrpc":"2.0","id":"id-7","method":"tools/call","params":'
    b'{"arguments":{"name":"ls"},"name":"rm","_meta":{"name":"ls"}},"name":"ls"}',
}


@pytest.mark.parametrize("way", WAYS)
def test_however_it_is_written(guarded, way):
    gateway, post = guarded("--deny-tool", "rm")
    answer, _ = check_denied(post, gateway, WAYS[way], '--deny-tool "rm"')
    assert answer["id"] == "id-7"


def test_no_header_decides(guarded):
    """A header that says otherwise does not get a call through, nor does one that says the same."""
    gateway, post = guarded("--deny-tool", "rm")
    check_denied(post, gateway, tool("rm"), '--deny-tool "rm"', ("Mcp-Name", "rm"), ("Mcp-Method", "tools/call"))
    answer, seen = post(tool("rm"), ("Mcp-Name", "ls"))
    assert (answer.status, answer.json()["error"]["code"], seen) == (400, -32020, [])


@pytest.mark.parametrize("params", ['{"name":7}', '{"name":["ls"]}', "{}", '["ls"]', '{"Name":"ls"}'])
def test_name_that_cannot_be_told(guarded, params):
    gateway, post = guarded("--deny-tool", "rm")
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params.encode()
    check_denied(post, gateway, body, "--deny-tool: the message does not say which")


@pytest.mark.parametrize("params", ['{"name":"ls","Name":"rm"}', '{"NAME":"rm","name":"ls"}'])
def test_name_that_is_there_twice_but_for_case(guarded, params):
    """A server that takes keys in any case would go by the other one."""
    gateway, post = guarded("--deny-tool", "rm")
    answer, seen = post(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params.encode())
    assert (answer.status, answer.json()["error"]["data"]["reason"], seen) == (400, "bad-request", [])
    assert records(gateway)[0]["mcp_rule"].endswith("duplicate key but for case")


UTF7 = tool("+AHIAbQ-")
READ_OTHERWISE = [
    ("Content-Type", "application/json; charset=utf-7"),
    ("Content-Type", "application/json; charset=utf-8; charset=utf-7"),
    ("Content_Type", "application/json; Charset=UTF-7"),
    ("Content-Encoding", "br"),
]


@pytest.mark.parametrize("header", READ_OTHERWISE, ids=lambda pair: " ".join(pair).replace(" ", "-"))
def test_body_that_a_header_makes_another(guarded, header):
    """Express reads UTF-7 where it is told so: what passes as a tool of an odd name would be rm there."""
    gateway, post = guarded("--deny-tool", "rm")
    answer, seen = post(UTF7, header)
    assert (answer.status, answer.json()["error"]["data"]["reason"], seen) == (400, "bad-request", [])
    assert [(r["mcp_event"], r["mcp_reason"]) for r in records(gateway)] == [("call.denied", "bad-request")]
    assert header[0] in records(gateway)[0]["mcp_rule"]


def test_method_in_another_case(guarded):
    """To a server that takes keys in any case, what looks like an answer is a call."""
    gateway, post = guarded("--deny-tool", "rm")
    for key in ("Method", "METHOD"):
        answer, seen = post(b'{"jsonrpc":"2.0","id":1,"%b":"tools/call","params":{"name":"rm"},"result":{}}' % key.encode())
        assert (answer.status, answer.json()["error"]["data"]["reason"], seen) == (400, "bad-request", [])
    assert [r["mcp_event"] for r in records(gateway)] == 2 * ["call.denied"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_call_in_the_body_of_another_method(relay_pair, raw_control, fresh_key, method):
    """Nobody judges it and no record tells of it, so it must not pass: a server may read it all the same."""
    _, _, endpoint = relay_pair(gateway_options=("--deny-tool", "rm"))
    key = fresh_key()
    headers = JSON_HEADERS + [("X-Case", "echo"), ("X-Key", key), ("X-HTTP-Method-Override", "POST")]
    answer = exchange(endpoint, method, headers, tool("rm"))
    assert (answer.status, answer.json()["error"]["data"]["reason"]) == (400, "bad-request")
    assert raw_control("seen", key) == []
    assert exchange(endpoint, method, headers, chunks=[]).status == 200


def test_batch_with_one_denied_message(guarded):
    """The batch is refused whole; the record tells which message it was."""
    gateway, post = guarded("--deny-tool", "rm")
    both = b"[" + tool("ls", 1) + b"," + tool("rm", 2) + b"]"
    _, record = check_denied(post, gateway, both, '--deny-tool "rm"')
    assert (record["mcp_tool"], record["mcp_jsonrpc_id"]) == ("rm", "2")
    check_passes(post, b"[" + tool("ls", 1) + b"," + tool("cat", 2) + b"]")


def test_prompts_resources_and_methods(guarded):
    gateway, post = guarded(
        "--deny-prompt", "p?", "--allow-resource-scheme", "docs", "--deny-method", "completion/*", "--deny-method", "x"
    )
    check_denied(post, gateway, rpc("prompts/get", {"name": "p1"}, 1), '--deny-prompt "p?"')
    check_passes(post, rpc("prompts/get", {"name": "p12"}, 1))
    read = "--allow-resource-scheme: no pattern matches"
    check_denied(post, gateway, rpc("resources/read", {"uri": "file:///etc/passwd"}, 1), read)
    check_denied(post, gateway, rpc("resources/subscribe", {"uri": "FILE:///x"}, 1), read)
    unsaid = "--allow-resource-scheme: the message does not say which"
    check_denied(post, gateway, rpc("resources/read", {"uri": " docs://x"}, 1), unsaid)
    check_passes(post, rpc("resources/read", {"uri": "Docs://x"}, 1))
    check_passes(post, rpc("resources/list", {}, 1))
    check_denied(post, gateway, rpc("completion/complete", {}, 1), '--deny-method "completion/*"')
    check_passes(post, tool("rm"))


def test_completion_and_subscriptions(guarded):
    """Neither tells of what may not be had."""
    gateway, post = guarded("--deny-prompt", "p?", "--allow-resource-scheme", "docs")
    for ref, rule in (
        ({"type": "ref/prompt", "name": "p1"}, '--deny-prompt "p?"'),
        ({"type": "ref/prompt"}, "--deny-prompt: the message does not say which"),
        ({"type": "ref/resource", "uri": "file:///{path}"}, "--allow-resource-scheme: no pattern matches"),
    ):
        check_denied(post, gateway, rpc("completion/complete", {"ref": ref, "argument": {"name": "a", "value": ""}}, 1), rule)
    check_passes(post, rpc("completion/complete", {"ref": {"type": "ref/prompt", "name": "p12"}}, 1))
    check_passes(post, rpc("completion/complete", {"ref": {"type": "ref/resource", "uri": "docs://{x}"}}, 1))
    for uris, rule in (
        (["docs://a", "file:///a"], "--allow-resource-scheme: no pattern matches"),
        (["docs://a", 7], "--allow-resource-scheme: the message does not say which"),
    ):
        check_denied(post, gateway, rpc("subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}}, 1), rule)
    check_passes(post, rpc("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["docs://a", "docs://b"]}}, 1))
    check_passes(post, rpc("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, 1))


def test_closed_once_a_method_is_allowed(guarded):
    gateway, post = guarded("--allow-method", "tools/*")
    check_passes(post, tool("rm"))
    check_denied(post, gateway, rpc("initialize", {}, 1), "--allow-method: no pattern matches")
    notification = b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'
    check_denied(post, gateway, notification, "--allow-method: no pattern matches")


@pytest.mark.parametrize("client", ["ts1", "ts2", "py2"])
def test_sdk_client(relay_pair, servers, drivers, client):
    """A client made with an official SDK hears why, and its session goes on."""
    _, gateway, endpoint = relay_pair(
        gateway_options=("--allow-tool", "check_*", "--allow-tool", "echo", "--deny-tool", "check_secret"),
        upstream=servers.url("stock"),
    )
    calls = [["check_stock", {"sku": "A-1"}], ["blob", {"size": 10}], ["check_secret", {}], ["echo", {"text": "on"}]]
    results = drivers[client].run(endpoint, "call", calls=calls, era="legacy")
    assert "1200" in str(results[0]["result"]) and "on" in str(results[3]["result"])
    assert "denied by --allow-tool: no pattern matches" in re.sub(r"\\+", "", results[1]["error"]["message"])
    assert 'denied by --deny-tool "check_secret"' in re.sub(r"\\+", "", results[2]["error"]["message"])
    wait_until(lambda: len([r for r in records(gateway) if r.get("mcp_tool")]) == 6, 5, "the records of four calls")
    denied = [r["mcp_tool"] for r in records(gateway) if r["mcp_event"] == "call.denied"]
    assert denied == ["blob", "check_secret"]


@pytest.mark.parametrize("client", ["ts2", "py2"])
def test_sdk_client_of_2026(relay_pair, servers, drivers, client):
    """Without a session, and with headers that repeat what the message says."""
    _, gateway, endpoint = relay_pair(gateway_options=("--deny-tool", "sec*"), upstream=servers.url("stateless"))
    calls = [["secret", {}], ["echo", {"text": "still on"}]]
    results = drivers[client].run(endpoint, "call", calls=calls, era="modern")
    assert 'denied by --deny-tool "sec*"' in re.sub(r"\\+", "", results[0]["error"]["message"])
    assert "still on" in str(results[1]["result"])
    assert [r["mcp_tool"] for r in records(gateway) if r["mcp_event"] == "call.denied"] == ["secret"]


def test_dry_run(guarded):
    """What the rules deny passes, and its record says so; what they allow has no such note."""
    gateway, post = guarded("--policy-dry-run", "--deny-tool", "rm*", "--deny-method", "x")
    check_passes(post, tool("rmdir"))
    check_passes(post, tool("ls"))
    check_passes(post, b"[" + tool("ls", 1) + b"," + tool("rm", 2) + b"]")
    found = [
        (r["mcp_event"], r["mcp_tool"], r["mcp_decision"], r.get("mcp_rule"))
        for r in records(gateway)
        if r["mcp_event"] != "call.response"
    ]
    assert found == [
        ("call.request", "rmdir", "allow", 'would deny: --deny-tool "rm*"'),
        ("call.request", "ls", "allow", None),
        ("call.request", "ls", "allow", None),
        ("call.request", "rm", "allow", 'would deny: --deny-tool "rm*"'),
    ]
    assert gateway.process.count("--policy-dry-run") == 1, gateway.process.tail()
    # Nothing else is let go.
    assert post(tool("rm"), ("Mcp-Name", "ls"))[0].status == 400
