"""No call without its record: what the audit file holds, when, and what happens when it takes nothing."""

import json
import re

import pytest

from lib.calls import CALL, Running
from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS, rpc
from lib.records import connect, exchange

TOOL = rpc("tools/call", {"name": "check_stock", "arguments": {"sku": "A-1"}}, "id-7")


def post(endpoint, *headers, body=TOOL):
    return exchange(endpoint, "POST", JSON_HEADERS + list(headers), body)


def every(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def records(gateway):
    """Those of calls."""
    return [record for record in every(gateway.audit) if record["mcp_event"].startswith("call.")]


def events(gateway):
    return [record["mcp_event"] for record in records(gateway)]


def test_request_record_is_there_before_the_request(relay_pair):
    """The server, asked, looks into the file before it answers."""
    _, gateway, endpoint = relay_pair()
    for _ in range(3):
        assert post(endpoint, ("X-Case", "audited"), ("X-File", str(gateway.audit))).json() == ["call.request"]


def test_two_records_of_a_call(relay_pair, raw_control, fresh_key):
    """One before, one after; they belong together and say who, what and how it ended. Arguments only as a hash."""
    _, gateway, endpoint = relay_pair()
    call = Running(endpoint, fresh_key(), raw_control)
    assert events(gateway) == ["call.request"]
    call.finish()
    wait_until(lambda: len(records(gateway)) == 2, 5, "the response record")
    answer = post(endpoint, ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    wait_until(lambda: len(records(gateway)) == 4, 5, "the second response record")
    assert events(gateway) == ["call.request", "call.response"] * 2
    request, response = records(gateway)[2:]
    seen = dict((n.lower(), v) for n, v in answer.json()["headers"])
    assert request["mcp_call_id"] == response["mcp_call_id"] == seen["mcp-tunnel-call"]
    wanted = {
        "mcp_agent_id": "own-agent",
        "mcp_agent_auth": "bearer",
        "mcp_method": "tools/call",
        "mcp_tool": "check_stock",
        "mcp_decision": "allow",
        "mcp_trace_id": "0af7651916cd43dd8448eb211c80319c",
        "mcp_req_bytes": str(len(TOOL)),
        "mcp_tunnel_id": "own",
    }
    assert {name: request.get(name) for name in wanted} == wanted
    assert (response["mcp_status"], response["mcp_http_status"]) == ("ok", "200")
    assert response["mcp_resp_bytes"] == str(len(answer.body))
    assert "A-1" not in gateway.audit.read_text()
    assert [int(r["mcp_seq"]) for r in every(gateway.audit)] == list(range(len(every(gateway.audit))))
    assert gateway.audit.stat().st_mode & 0o077 == 0


def test_hash_of_arguments_tells_calls_apart(relay_pair):
    _, gateway, endpoint = relay_pair()
    for arguments in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3}, None):
        params = {"name": "x"} if arguments is None else {"name": "x", "arguments": arguments}
        assert post(endpoint, body=rpc("tools/call", params)).status == 200
    hashes = [r["mcp_args_hash"] for r in records(gateway) if r["mcp_event"] == "call.request"]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3, hashes


def test_every_ending_has_its_record(relay_pair, raw_control, fresh_key):
    """Cancelled, broken off, complete: one response record each, with the reason."""
    _, gateway, endpoint = relay_pair()
    key = fresh_key()
    connection = connect(endpoint)
    connection.request("POST", endpoint.pairs() + JSON_HEADERS + [("X-Case", "silent"), ("X-Key", key)], TOOL)
    wait_until(lambda: raw_control("seen", key), 10, "the call to reach the server")
    connection.close()
    wait_until(lambda: len(records(gateway)) == 2, 10, "the record of the cancelled call")
    assert post(endpoint, ("X-Case", "close-early")).status == 502
    wait_until(lambda: len(records(gateway)) == 4, 10, "the record of the failed call")
    assert post(endpoint, ("X-Case", "status"), ("X-Status", "500 Oops")).status == 500
    wait_until(lambda: len(records(gateway)) == 6, 10, "the record of the call that was answered with an error")
    ends = [(r["mcp_status"], r["mcp_reason"]) for r in records(gateway) if r["mcp_event"] == "call.response"]
    assert ends[0] == ("cancelled", "cancelled") and ends[1][1] == "upstream-closed"
    assert ends[2] == ("http_error", "none")


def test_get_and_delete_are_no_calls(relay_pair):
    _, gateway, endpoint = relay_pair()
    for method in ("GET", "DELETE"):
        assert exchange(endpoint, method).status == 200
    assert post(endpoint).status == 200
    wait_until(lambda: len(records(gateway)) == 2, 5, "two records")
    assert {r["mcp_method"] for r in records(gateway)} == {"tools/call"}


DENIED = {
    "mirror": (TOOL, [("Mcp-Method", "tools/list")], "header-mismatch", "Mcp-Method"),
    "name": (TOOL, [("Mcp-Name", "other")], "header-mismatch", "Mcp-Name"),
    "json": (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"', [], "bad-request", "not a JSON-RPC message"),
    "twice": (b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}', [], "bad-request", "duplicate key"),
    "twice-escaped": (
        b'{"jsonrpc":"2.0","id":1,"method":"ping","m\\u0065thod":"tools/call"}',
        [],
        "bad-request",
        "duplicate key",
    ),
    "other": (b'{"hello":"world"}', [], "bad-request", "not a JSON-RPC 2.0 message"),
    "batch": (
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"hello":"world"}]',
        [],
        "bad-request",
        "not a JSON-RPC 2.0 message",
    ),
    "batch-mirror": (
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call"}]',
        [("Mcp-Method", "ping")],
        "header-mismatch",
        "Mcp-Method",
    ),
    "empty": (b"", [], "bad-request", "not a JSON-RPC message"),
}


@pytest.mark.parametrize("which", DENIED)
def test_denied_call(relay_pair, raw_control, fresh_key, which):
    """400, nothing at the server, and one record that says why."""
    body, headers, reason, why = DENIED[which]
    _, gateway, endpoint = relay_pair()
    key = fresh_key()
    answer = post(endpoint, ("X-Case", "wait-then-echo"), ("X-Key", key), *headers, body=body)
    assert (answer.status, answer.json()["error"]["data"]["reason"]) == (400, reason)
    assert answer.json()["error"]["data"]["executed"] == "no"
    assert raw_control("seen", key) == []
    assert [(r["mcp_event"], r["mcp_decision"], r["mcp_reason"]) for r in records(gateway)] == [
        ("call.denied", "deny", reason)
    ]
    assert re.search(why, records(gateway)[0]["mcp_rule"])


def test_escaped_method_is_the_method(relay_pair):
    """What a policy or a record sees is what the server will see."""
    _, gateway, endpoint = relay_pair()
    body = rb'{"jsonrpc":"2.0","id":1,"m\u0065thod":"tools\/c\u0061ll","params":{"n\u0061me":"dele\u0074e"}}'
    assert post(endpoint, body=body).status == 200
    assert (records(gateway)[0]["mcp_method"], records(gateway)[0]["mcp_tool"]) == ("tools/call", "delete")


def test_every_call_of_a_batch_has_its_records(relay_pair):
    _, gateway, endpoint = relay_pair()
    batch = [{"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": f"t{n}"}} for n in range(3)]
    assert post(endpoint, body=json.dumps(batch).encode()).status == 200
    wait_until(lambda: len(records(gateway)) == 6, 5, "six records")
    for event in ("call.request", "call.response"):
        assert [r["mcp_tool"] for r in records(gateway) if r["mcp_event"] == event] == ["t0", "t1", "t2"]


def test_calls_are_refused_while_no_record_is_taken(relay_pair, raw_control, fresh_key):
    """A full disk: 503, not executed, nothing at the server, not ready; one log line for all of it."""
    _, gateway, endpoint = relay_pair(audit="file:/dev/full", wait_ready=False)
    wait_until(lambda: json.loads(gateway.health()[1])["checks"]["session"]["ok"], 15, "the session")
    key = fresh_key()
    for _ in range(3):
        answer = post(endpoint, ("X-Case", "wait-then-echo"), ("X-Key", key))
        error = answer.json()["error"]
        assert (answer.status, error["code"], error["data"]["executed"]) == (503, -32003, "no")
    assert raw_control("seen", key) == []
    status, body = gateway.health()
    check = json.loads(body)["checks"]["audit"]
    assert (status, check["ok"], check["reason"]) == (503, False, "audit-unavailable")
    assert check["detail"].startswith("sink-full: ") and "No space left" in check["detail"]
    assert gateway.process.count("audit:") == 1, gateway.process.tail()
    # What is no call needs no record.
    assert exchange(endpoint, "GET").status == 200


def test_sighup_opens_the_file_anew(relay_pair):
    """Rotation: the file is moved away, SIGHUP, and new records are in a new file."""
    _, gateway, endpoint = relay_pair()
    assert post(endpoint).status == 200
    wait_until(lambda: len(records(gateway)) == 2, 5, "two records")
    old = gateway.audit.rename(gateway.dir / "audit.log.1")
    start = gateway.process.mark()
    gateway.process.send_signal(1)
    gateway.process.wait_line("SIGHUP", 5, start)
    assert post(endpoint, body=CALL).status == 200
    wait_until(lambda: len(records(gateway)) == 2, 5, "two records in the new file")
    assert [int(r["mcp_seq"]) for r in every(old) + every(gateway.audit)] == list(range(len(every(old) + every(gateway.audit))))
