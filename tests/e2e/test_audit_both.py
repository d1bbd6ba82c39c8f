"""Both ends of the tunnel write the same calls down, each in a chain of its own; the relay has the gateway's heads as well."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
from urllib.parse import quote

import pytest

from lib.journald import Journald
from lib.procs import run, wait_until
from lib.rawhttp import JSON_HEADERS, Connection, rpc
from lib.records import connect, exchange
from lib.tunnel import Endpoint, Gateway, Relay
from test_audit import every

TOOL = rpc("tools/call", {"name": "check_stock", "arguments": {"sku": "A-1", "n": 1.0}}, 7)
OK = {"jsonrpc": "2.0", "id": 7, "result": {"content": []}}


class Both:
    def __init__(self, relay, gateway, endpoint, file):
        self.relay, self.gateway, self.endpoint, self.file = relay, gateway, endpoint, file

    def relay_log(self):
        return every(self.file) if self.file.exists() else []

    def gateway_log(self):
        return every(self.gateway.audit)

    def calls(self, log):
        return [r for r in log() if r["mcp_event"].startswith("call.")]

    def events(self, log, name):
        return [r for r in log() if r["mcp_event"] == name]

    def wait(self, log, n, name="call.response"):
        wait_until(lambda: len(self.events(log, name)) >= n, 10, lambda: f"{n} of {name} in {log()}")
        return self.events(log, name)

    def post(self, *headers, body=TOOL):
        return exchange(self.endpoint, "POST", JSON_HEADERS + list(headers), body)

    def say(self, value, kind="application/json", body=TOOL):
        """A call that the server answers with that."""
        text = value if isinstance(value, str) else json.dumps(value)
        return self.post(("X-Case", "say"), ("X-Type", kind), ("X-Say", quote(text)), body=body)


@pytest.fixture
def both(relay_pair, tmp_path):
    def start(*relay_options, audit=None, **changes):
        file = tmp_path / "relay.jsonl"
        relay, gateway, endpoint = relay_pair("--audit", audit or f"file:{file}", *relay_options, **changes)
        return Both(relay, gateway, endpoint, file)

    return start


SAME = """mcp_call_id mcp_kind mcp_method mcp_tool mcp_jsonrpc_id mcp_args_hash mcp_session_hash mcp_agent_id mcp_agent_auth
mcp_agent_claimed mcp_trace_id mcp_req_bytes mcp_tunnel_id mcp_tunnel_session mcp_decision""".split()


def test_the_same_call_in_both_logs(both):
    pair = both()
    trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert pair.post(("X-Case", "say"), ("X-Type", "application/json"), ("X-Say", quote(json.dumps(OK))), trace,
                     ("Mcp-Session-Id", "secret-session")).status == 200
    answers = [pair.wait(log, 1)[0] for log in (pair.relay_log, pair.gateway_log)]
    requests = [pair.events(log, "call.request")[0] for log in (pair.relay_log, pair.gateway_log)]
    assert [{n: r.get(n) for n in SAME} for r in requests[:1]] == [{n: r.get(n) for n in SAME} for r in requests[1:]]
    assert [r["mcp_side"] for r in requests] == ["relay", "gateway"]
    assert requests[0]["mcp_args_hash"].startswith("hmac-sha256-jcs:")
    assert requests[0]["mcp_session_hash"].startswith("hmac-sha256:") and "secret-session" not in str(requests)
    for answer in answers:
        assert 0 < int(answer["mcp_ttfb_us"]) <= int(answer["mcp_duration_us"]), answer
    for name in ("mcp_status", "mcp_reason", "mcp_http_status", "mcp_resp_bytes"):
        assert answers[0][name] == answers[1][name], name
    for log in (pair.relay_log, pair.gateway_log):
        assert [int(r["mcp_seq"]) for r in log()] == list(range(len(log())))
        assert [r["mcp_chain_prev"] for r in log()[1:]] == [r["mcp_chain"] for r in log()[:-1]]


def test_relay_has_the_heads_of_the_gateway(both):
    """Each response carries the newest one; each checkpoint, too, here the one after a thousand records."""
    pair = both()
    with connect(pair.endpoint) as connection:
        for _ in range(505):
            assert connection.call("POST", pair.endpoint.pairs() + JSON_HEADERS, TOOL).status == 200
    notes = [r for r in pair.wait(pair.relay_log, 1, "audit.checkpoint") if "mcp_peer_chain" in r] or pair.wait(
        pair.relay_log, 2, "audit.checkpoint"
    )
    gateway = {(r["mcp_chain_id"], r["mcp_seq"]): r for r in pair.gateway_log()}
    answers = pair.wait(pair.relay_log, 505)
    for record in [r for r in notes if "mcp_peer_chain" in r] + answers:
        told = gateway[record["mcp_peer_chain_id"], record["mcp_peer_seq"]]
        assert told["mcp_chain"] == record["mcp_peer_chain"]
    assert any("mcp_peer_chain" in r for r in notes), notes
    # The head of a response is not older than the request record of its call.
    requests = {r["mcp_call_id"]: int(r["mcp_seq"]) for r in pair.events(pair.gateway_log, "call.request")}
    assert all(int(r["mcp_peer_seq"]) >= requests[r["mcp_call_id"]] for r in answers)


def test_relay_writes_before_the_server_is_asked(both):
    pair = both()
    assert pair.post(("X-Case", "audited"), ("X-File", str(pair.file))).json() == ["call.request"]
    chunked = JSON_HEADERS + [("X-Case", "audited"), ("X-File", str(pair.file))]
    with connect(pair.endpoint) as connection:
        answer = connection.call("POST", pair.endpoint.pairs() + chunked, chunks=[TOOL[:10], TOOL[10:]])
        assert answer.json() == ["call.request"]


OUTCOMES = {
    "ok": (OK, "application/json", TOOL, [{"mcp_status": "ok"}]),
    "tool": ({"id": 7, "result": {"isError": True}}, "application/json", TOOL, [{"mcp_status": "tool_error", "mcp_is_error": "true"}]),
    "rpc": (
        {"id": 7, "error": {"code": -32601, "message": "x"}},
        "application/json; charset=utf-8",
        TOOL,
        [{"mcp_status": "rpc_error", "mcp_rpc_error_code": "-32601"}],
    ),
    "events": (
        'data: {"method":"notifications/progress","params":{}}\n\ndata: {"id":7,"result":{"isError":true}}\n\n',
        "text/event-stream",
        TOOL,
        [{"mcp_status": "tool_error", "mcp_resp_events": "2"}],
    ),
    "batch": (
        [{"id": "b", "error": {"code": 3}}, {"id": 7, "result": {}}],
        "application/json",
        b"[%b,%b]" % (TOOL, rpc("tools/call", {"name": "y"}, "b")),
        [{"mcp_status": "ok", "mcp_tool": "check_stock"}, {"mcp_status": "rpc_error", "mcp_tool": "y"}],
    ),
    "other": ({"id": 7, "result": {"isError": True}}, "text/plain", TOOL, [{"mcp_status": "ok"}]),
}


@pytest.mark.parametrize("which", OUTCOMES)
def test_what_came_of_it(both, which):
    """What the body of the answer says is in the record, at both ends."""
    value, kind, body, wanted = OUTCOMES[which]
    pair = both()
    assert pair.say(value, kind, body).status == 200
    for log in (pair.relay_log, pair.gateway_log):
        answers = pair.wait(log, len(wanted))
        assert [{n: r.get(n) for n in w} for r, w in zip(answers, wanted)] == wanted, answers


def test_no_record_at_the_relay_no_call(both, raw_control, fresh_key):
    """A full disk at the relay: 503, not executed, and the gateway never saw the whole request."""
    pair = both(audit="file:/dev/full")
    key = fresh_key()
    headers = JSON_HEADERS + [("X-Case", "wait-then-echo"), ("X-Key", key)]
    for options in ({"body": TOOL}, {"chunks": [TOOL[:5], TOOL[5:]]}, {"body": b""}):
        with connect(pair.endpoint) as connection:
            answer = connection.call("POST", pair.endpoint.pairs() + headers, **options)
        error = answer.json()["error"]
        assert (answer.status, error["data"]["reason"], error["data"]["executed"]) == (503, "audit-unavailable", "no")
        assert "see the relay's log" in error["message"]
    assert raw_control("seen", key) == []
    assert pair.calls(pair.gateway_log) == []
    assert exchange(pair.endpoint, "GET").status == 200


def test_relay_told_to_go_on(both):
    pair = both("--audit-on-failure", "continue", audit="file:/dev/full")
    assert pair.post().status == 200


def test_relay_says_what_is_the_matter(both):
    pair = both("--audit-on-failure", "deny", "--admin-listen", "127.0.0.1:0", audit="file:/dev/full")
    port = pair.relay.process.wait_line(r"health on http://127\.0\.0\.1:(\d+)").group(1)

    def ask(path):
        with Connection(f"http://127.0.0.1:{port}{path}") as connection:
            return connection.call("GET")

    assert pair.post().status == 503
    ready = ask("/readyz")
    check = ready.json()["checks"]["audit"]
    assert (ready.status, check["ok"], check["reason"]) == (503, False, "audit-unavailable")
    assert check["detail"].startswith("sink-full: ")
    metrics = ask("/metrics").body.decode()
    assert "mcp_tunnel_relay_audit_failing 1\n" in metrics
    assert "mcp_tunnel_relay_audit_refused_total 1\n" in metrics
    assert "mcp_tunnel_gateway_audit_failing 0\n" in pair.gateway.health("/metrics")[1]


def test_calls_that_reach_no_gateway(both):
    """Detached, too large: call.denied at the relay, with the agent."""
    pair = both("--hold", "0", "--max-request-bytes", "1k")
    assert pair.post(body=rpc("tools/call", {"name": "x" * 2000})).status == 413
    with connect(pair.endpoint) as connection:
        chunks = [b"[" + b" " * 700, b" " * 700]
        assert connection.call("POST", pair.endpoint.pairs() + JSON_HEADERS, chunks=chunks).status == 413
    pair.gateway.stop()
    assert pair.post().status == 503
    denied = pair.wait(pair.relay_log, 3, "call.denied")
    assert [r["mcp_reason"] for r in denied] == ["too-large", "too-large", "not-attached"]
    assert {(r["mcp_agent_id"], r["mcp_tunnel_id"], r["mcp_side"]) for r in denied} == {("own-agent", "own", "relay")}
    # What is no call has no record.
    assert exchange(pair.endpoint, "GET").status == 503
    assert len(pair.events(pair.relay_log, "call.denied")) == 3
    pair.gateway.start()


def test_gateway_limits_are_denials(both):
    pair = both(gateway_options=("--max-request-bytes", "1k"))
    assert pair.post(body=rpc("tools/call", {"name": "x" * 2000})).status == 413
    assert [r["mcp_reason"] for r in pair.wait(pair.gateway_log, 1, "call.denied")] == ["too-large"]


def test_who_was_not_let_in(both):
    pair = both()
    wrong = Endpoint(pair.endpoint.url, "tunnel", {"Authorization": "Bearer mtk_" + "A" * 43}, pair.endpoint.ca)
    for endpoint in (wrong, Endpoint(pair.endpoint.url, "tunnel", {}, pair.endpoint.ca)):
        assert exchange(endpoint, "POST", JSON_HEADERS, TOOL).status == 401
    # One that does not exist costs the same work; its record names no tunnel.
    nowhere = Endpoint(pair.relay.url("nobody"), "tunnel", dict(wrong.headers), pair.endpoint.ca)
    assert exchange(nowhere, "POST", JSON_HEADERS, TOOL).status == 401
    failures = pair.wait(pair.relay_log, 3, "auth.failure")
    assert [r.get("mcp_tunnel_id") for r in failures] == ["own", "own", None]
    assert all(r["mcp_peer"].startswith("127.0.0.1:") for r in failures)
    assert "A" * 43 not in pair.file.read_text()


def test_wrong_token_at_both_ends(both):
    pair = both()
    good = pair.gateway.token
    pair.gateway.stop()
    pair.gateway.set_token(good[:-9] + ("A" if good[-9] != "A" else "B") + good[-8:])
    pair.gateway.start(wait_ready=False)
    there = pair.wait(pair.relay_log, 1, "auth.failure")[0]
    here = pair.wait(pair.gateway_log, 1, "auth.failure")[0]
    assert (there["mcp_tunnel_id"], here["mcp_reason"]) == ("own", "token-refused")
    pair.gateway.set_token(good)
    pair.gateway.wait_ready()


def test_life(both):
    """Start, session, reload, stop, in this order, at both ends; calls in between."""
    pair = both()
    assert pair.post().status == 200
    pair.relay.reload_and_wait()
    (pair.relay.state / "agents").rename(pair.relay.state / "agents.old")
    (pair.relay.state / "agents").write_text("damaged\n")
    (pair.relay.state / "agents").chmod(0o600)
    start = pair.relay.process.mark()
    pair.relay.reload()
    pair.relay.process.wait_line("stay as they were", 10, start)
    (pair.relay.state / "agents.old").rename(pair.relay.state / "agents")
    pair.relay.reload_and_wait()
    pair.gateway.process.send_signal(1)
    pair.wait(pair.gateway_log, 1, "config.reload")
    pair.gateway.stop()
    pair.wait(pair.relay_log, 1, "session.close")
    pair.gateway.start()
    pair.relay.stop()
    pair.relay.start()
    pair.gateway.stop()
    pair.gateway.start()
    def life(log):
        return [r["mcp_event"] for r in log() if r["mcp_event"].split(".")[0] in ("gateway", "session", "config")]

    assert life(pair.gateway_log)[:6] == [
        "gateway.start", "session.open", "config.reload", "session.close", "gateway.stop", "gateway.start"
    ]
    assert life(pair.relay_log)[:6] == ["gateway.start", "session.open", *["config.reload"] * 3, "session.close"]
    assert [r["priority"] for r in pair.events(pair.relay_log, "config.reload")] == ["5", "3", "5"]
    closes = pair.events(pair.relay_log, "session.close")
    assert (closes[0]["mcp_reason"], closes[0]["priority"]) == ("gateway-stopped", "6")
    opened = [pair.events(log, "session.open")[0]["mcp_tunnel_session"] for log in (pair.relay_log, pair.gateway_log)]
    assert opened[0] == opened[1]


def test_new_token_new_key_at_both_ends(both):
    pair = both()
    assert pair.post().status == 200
    pair.gateway.set_token(pair.relay.command("tunnel", "rotate", "own").split()[-1])
    pair.relay.stop()
    pair.relay.start()
    pair.gateway.wait_ready()
    wait_until(lambda: pair.post().status == 200, 15, "a call on the new session")
    hashes = [[r["mcp_args_hash"] for r in pair.events(log, "call.request")] for log in (pair.relay_log, pair.gateway_log)]
    assert hashes[0][0] == hashes[1][0] and hashes[0][-1] == hashes[1][-1]
    assert hashes[0][0] != hashes[0][-1]


class Wire:
    """Between gateway and relay; can be cut."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port, self.target, self.open = self.server.getsockname()[1], None, []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near = self.server.accept()[0]
            except OSError:
                return
            wait_until(lambda: self.target, 15, "the relay's port")
            far = socket.create_connection(("127.0.0.1", self.target))
            self.open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for sock in (one, other):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for sock in self.open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.open.clear()


def test_a_cut_is_in_both_logs(both):
    """session.resume with the same session, and the new key where the token is a new one by then."""
    wire = Wire()
    pair = both(control_plane=f"wss://localhost:{wire.port}/v1/tunnel", wait_ready=False)
    wire.target = pair.relay.port
    pair.gateway.wait_ready()
    assert pair.post().status == 200
    pair.gateway.set_token(pair.relay.command("tunnel", "rotate", "own").split()[-1])
    pair.relay.reload_and_wait()
    wire.cut()
    resumed = [pair.wait(log, 1, "session.resume")[0] for log in (pair.relay_log, pair.gateway_log)]
    opened = pair.events(pair.relay_log, "session.open")[0]
    assert {r["mcp_tunnel_session"] for r in resumed} == {opened["mcp_tunnel_session"]}
    assert pair.events(pair.gateway_log, "session.close") == pair.events(pair.relay_log, "session.close") == []
    assert pair.post().status == 200
    hashes = [[r["mcp_args_hash"] for r in pair.events(log, "call.request")] for log in (pair.relay_log, pair.gateway_log)]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 2
    wire.server.close()


@pytest.mark.parametrize("choice", ["hmac-sha256-jcs", "sha256-jcs"])
def test_key_file_and_no_key(both, tmp_path, choice):
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("a key of our own, of 32 bytes and more\n")
    options = ("--audit-hash-key-file", str(key), "--audit-hash", choice)
    pair = both(*options, gateway_options=options)
    assert pair.post().status == 200
    hashes = {r["mcp_args_hash"] for log in (pair.relay_log, pair.gateway_log) for r in pair.events(log, "call.request")}
    plain = "sha256-jcs:" + hashlib.sha256(b'{"n":1,"sku":"A-1"}').hexdigest()
    assert len(hashes) == 1
    assert hashes == {plain} if choice == "sha256-jcs" else all(h.startswith(choice + ":") for h in hashes)


def test_cancel_while_the_record_waits(programs, work, certs, servers, raw_control, fresh_key):
    """journald stands still, so the request record waits; the agent goes away. Nothing reaches the server, and no record is left of a
    call that was not made, or both are."""
    with Journald(work / "cancel-log") as journald:
        relay = Relay(programs, work, *certs.server, "--audit", "none")
        token, key = relay.add_tunnel("own"), relay.add_agent("own-agent", "own")
        gateway = Gateway(programs, work, token, servers.url("raw"), relay.start().control_plane, certs.ca.cert,
                          "--audit-read-back", "off", prefix=journald.prefix, audit="journald")
        endpoint = Endpoint(relay.url("own"), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert)
        try:
            gateway.start()
            with connect(endpoint) as connection:
                assert connection.call("POST", endpoint.pairs() + JSON_HEADERS, TOOL).status == 200
                wait_until(lambda: responses(journald), 10, "the response record")
                journald.daemon.send_signal(signal.SIGSTOP)
                stand_still(journald.socket_path)
                mark = fresh_key()
                connection.request("POST", endpoint.pairs() + JSON_HEADERS + [("X-Case", "silent"), ("X-Key", mark)], TOOL)
                wait_until(lambda: "audit_queued 1\n" in gateway.health("/metrics")[1], 10, "the record to wait")
            # Still in its second: the connection is closed now.
            wait_until(lambda: "exchanges_open 0\n" in gateway.health("/metrics")[1], 10, "the cancel")
            assert "audit_queued 0\n" in gateway.health("/metrics")[1]
            journald.daemon.send_signal(signal.SIGCONT)
            assert exchange(endpoint, "POST", JSON_HEADERS, TOOL).status == 200
            assert raw_control("seen", mark) == []
        finally:
            journald.daemon.send_signal(signal.SIGCONT)
            gateway.stop()
            relay.stop()
        calls = [r["MCP_EVENT"] for r in journald.records("SYSLOG_IDENTIFIER=mcp-tunnel-gateway") if "call." in r.get("MCP_EVENT", "")]
        assert calls == ["call.request", "call.response"] * 2


def responses(journald):
    return journald.records("MCP_EVENT=call.response")


def stand_still(path):
    """Fills the queue of a socket that nobody reads."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect(path)
        while True:
            sock.send(b"MESSAGE=filler\n")
    except BlockingIOError:
        pass
    finally:
        sock.close()


def test_both_logs_are_whole(both, programs):
    """mcp-tunnel-audit says so of each, over two runs of both programs, and of the gateway's together with the heads at the relay."""
    pair = both()
    for _ in range(2):
        assert pair.post().status == 200
        assert pair.post(("X-Case", "status"), ("X-Status", "500 Oops")).status == 500
        assert pair.post(body=b"no JSON").status == 400
        pair.gateway.stop()
        pair.relay.stop()
        pair.relay.start()
        pair.gateway.start()
    pair.gateway.stop()
    pair.relay.stop()
    for arguments in ([pair.file], [pair.gateway.audit], ["--relay", pair.file, pair.gateway.audit]):
        status, out, err = run([programs.audit, "verify", *arguments])
        assert status == 0, f"{arguments}: {out}{err}"
    pair.relay.start()
    pair.gateway.start()


def test_canary(both):
    """mcp-tunnel-audit canary asks either end for a checkpoint with a nonce."""
    pair = both("--admin-listen", "127.0.0.1:0")
    port = pair.relay.process.wait_line(r"health on http://127\.0\.0\.1:(\d+)").group(1)
    for port, log in ((port, pair.relay_log), (pair.gateway.health_port, pair.gateway_log)):
        with Connection(f"http://127.0.0.1:{port}/audit/canary") as connection:
            answer = connection.call("POST", [("Mcp-Tunnel-Nonce", "0123456789abcdef")], b"")
        assert answer.status == 200, answer.body
        assert "0123456789abcdef" in str(pair.wait(log, 1, "audit.checkpoint"))


def threads(pid):
    """CPU ticks of the loop's thread, and of all the others together."""
    ticks = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii") as file:
            ticks[int(thread)] = sum(int(n) for n in file.read().rsplit(")", 1)[1].split()[11:13])
    main = ticks.pop(pid)
    return main, sum(ticks.values())


def test_large_arguments_hold_nothing_up(both):
    """16 MiB of arguments are hashed on threads, at both ends; small calls go on beside them."""
    large = rpc("tools/call", {"name": "x", "arguments": {f"k{n * 7919 % 1000003}": n + 0.5 for n in range(800000)}}, 1)
    assert 14e6 < len(large) < 16 * 2**20
    pair = both()
    pair.post()
    took, answers, done = [], [], threading.Event()

    def small():
        with connect(pair.endpoint) as connection:
            while not done.is_set():
                start = time.monotonic()
                assert connection.call("POST", pair.endpoint.pairs() + JSON_HEADERS, TOOL).status == 200
                took.append(time.monotonic() - start)

    def one():
        answers.append(pair.post(body=large).status)

    pids = [pair.relay.process.pid, pair.gateway.process.pid]
    before = [threads(pid) for pid in pids]
    beside = threading.Thread(target=small, daemon=True)
    beside.start()
    for _ in range(4):
        one()
    done.set()
    beside.join(30)
    assert answers == [200] * 4
    loops, others = zip(*[(a[0] - b[0], a[1] - b[1]) for a, b in zip(map(threads, pids), before)])
    took.sort()
    turn = re.search(r"loop_turn_seconds_max ([0-9.e-]+)", pair.gateway.health("/metrics")[1]).group(1)
    print(
        f"{len(took)} calls beside: p50 {took[len(took) // 2] * 1000:.1f} ms, p99 {took[len(took) * 99 // 100] * 1000:.1f} ms, "
        f"longest {took[-1] * 1000:.1f} ms; CPU ticks of loops {loops}, of threads {others}; longest turn of the gateway {turn} s"
    )
    # The work is there, and not on the loop.
    assert all(n >= 20 for n in others), (loops, others)
    hashes = [{r["mcp_args_hash"] for r in pair.events(log, "call.request")} for log in (pair.relay_log, pair.gateway_log)]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 2
