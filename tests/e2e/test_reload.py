"""A new configuration is applied by SIGHUP, whole or not at all, and no call notices."""

import concurrent.futures
import itertools
import signal
import threading

import pytest

from lib.calls import CALL, Running
from lib.configured import configured, named_servers, reason, tool  # noqa: F401 (fixtures)
from lib.procs import run, wait_until
from lib.rawhttp import JSON_HEADERS, Truncated
from lib.records import connect, exchange


def last_reload(conf, n):
    """The record of the n-th reload."""
    wait_until(lambda: len(conf.records("config.reload")) == n, 10, f"{n} records of reloads")
    return conf.records("config.reload")[-1]


@pytest.fixture
def one(configured, named_servers):  # noqa: F811
    """A gateway with one server, and sections(key=value, ...) for its file."""
    (server,) = named_servers("one")

    def sections(**keys):
        return {"": {"mcp-server-url": server.url, **{name.replace("_", "-"): value for name, value in keys.items()}}}

    conf = configured(sections())
    conf.sections, conf.server = sections, server
    return conf


# ---- what is applied ----

PASSES, DENIED, REFUSED, TOO_LARGE = (200, None), (403, "policy"), (400, "bad-request"), (413, "too-large")
LIVE = {
    "deny-tool": ({"deny_tool": "x"}, DENIED, {"body": tool("x")}),
    "allow-tool": ({"allow_tool": "y"}, DENIED, {"body": tool("x")}),
    "deny-prompt": ({"deny_prompt": "x"}, PASSES, {"body": tool("x")}),
    "deny-method": ({"deny_method": "tools/*"}, DENIED, {"body": tool("x")}),
    "max-request-bytes": ({"max_request_bytes": "1k"}, TOO_LARGE, {"body": CALL + b" " * 2000}),
    "max-response-bytes": ({"max_response_bytes": "1k"}, (502, "upstream-too-large"), {"headers": [("X-Long", "x" * 2000)]}),
}


def test_applied_and_taken_back(one):
    def ask(body=CALL, headers=()):
        try:
            answer = one.post(body, *headers)
        except Truncated:
            # The head has gone out before.
            return (502, "upstream-too-large")
        return (answer.status, None if answer.status == 200 else reason(answer))

    for n, (name, (keys, expected, how)) in enumerate(LIVE.items()):
        assert ask(**how) == PASSES, name
        said = one.reload(one.sections(**keys))
        assert f"notice: configuration read again: changed: {name}\n" in said and "restart" not in said
        assert ask(**how) == expected, name
        record = last_reload(one, 2 * n + 1)
        assert (record["priority"], record["mcp_detail"]) == ("5", f"configuration read again: changed: {name}")
        one.reload(one.sections())
        assert ask(**how) == PASSES, name


def test_query_log_level_and_dry_run(one):
    assert one.post(CALL, target="/t/own/mcp?a=1").status == 400
    said = one.reload(one.sections(allow_query="yes", log_level="debug", policy_dry_run="yes", deny_tool="x"))
    assert "changed: allow-query, deny-tool, policy-dry-run, log-level" in said
    assert "calls that they deny pass (--policy-dry-run)" in said
    start = one.process.mark()
    assert one.post(CALL, target="/t/own/mcp?a=1").json()["target"] == "/mcp?a=1"
    one.process.wait_line("debug: call .* ended: complete", 10, start)
    assert one.records("call.request")[-1]["mcp_rule"] == 'would deny: --deny-tool "x"'
    one.write(one.sections(log_level="warning"))
    one.process.send_signal(signal.SIGHUP)
    one.process.wait_line("changed: allow-query, deny-tool, policy-dry-run, log-level", 10, start)
    last_reload(one, 2)
    start = one.process.mark()
    assert one.post(CALL).status == 200 and "mcp_rule" not in one.records("call.request")[-1]
    one.process.send_signal(signal.SIGHUP)
    last_reload(one, 3)
    assert one.process.lines[start:] == []


def test_limits_are_for_calls_that_begin_later(one):
    """What is open keeps those that it began with."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(one.post, CALL, ("X-Wait", "yes"), ("X-Pad", "x" * 2000))
        wait_until(lambda: one.server.seen, 15, "the call to reach the server")
        one.reload(one.sections(call_timeout="100ms", max_response_bytes="1k", max_request_bytes="1k"))
        answer = one.post(CALL, ("X-Wait", "yes"))
        assert (answer.status, reason(answer)) == (504, "deadline")
        one.server.gate.set()
        answer = call.result(60)
    assert answer.status == 200 and len(answer.body) > 2000


def test_another_server(one, named_servers):  # noqa: F811
    """New calls go to it; readiness speaks of it."""
    (two,) = named_servers("two")
    assert one.post(CALL).json()["server"] == "one"
    assert "changed: mcp-server-url" in one.reload({"": {"mcp-server-url": two.url}})
    assert one.post(CALL).json()["server"] == "two"
    assert [r["mcp_upstream"] for r in one.records("call.request")] == [one.server.url, two.url]
    one.gateway.wait_ready()
    two.stop()
    assert reason(one.post(CALL)) == "upstream-unreachable"
    assert one.gateway.health()[0] == 503
    one.reload(one.sections())
    one.gateway.wait_ready()


def test_routes_come_and_go(one, named_servers):  # noqa: F811
    docs, wiki = named_servers("docs", "wiki")
    with_docs = {**one.sections(), "docs": {"mcp-server-url": docs.url}}
    assert reason(one.post(CALL, route="docs")) == "no-route"
    assert "changed: [route docs]" in one.reload(with_docs)
    assert one.post(CALL, route="docs").json()["server"] == "docs"
    said = one.reload({**one.sections(), "docs": {"mcp-server-url": wiki.url, "deny-tool": "rm"}})
    assert "changed: [route docs] mcp-server-url, [route docs] deny-tool" in said
    assert one.post(CALL, route="docs").json()["server"] == "wiki"
    assert reason(one.post(tool("rm"), route="docs")) == "policy"
    one.reload(one.sections())
    assert reason(one.post(CALL, route="docs")) == "no-route"
    one.gateway.wait_ready()
    assert not [name for name in one.gateway.ask("/readyz").json()["checks"] if name.startswith("upstream:")]


# ---- what is not ----


def test_options_that_need_a_restart(one):
    """Each is named, at each reload until they are as before; what can be applied is, beside them."""
    start = one.sections(keepalive="25s", max_streams="7", deny_tool="x", client_cert="/x", client_key="/y")
    for n in (1, 2):
        said = one.reload(start)
        assert "warning: these options have changed and need a restart: client-cert, client-key, keepalive, max-streams\n" in said
        assert f"configuration read again: {'changed: deny-tool' if n == 1 else 'nothing to apply'}\n" in said
        assert last_reload(one, n)["mcp_detail"].endswith("; needs a restart: client-cert, client-key, keepalive, max-streams")
        assert reason(one.post(tool("x"))) == "policy"
    assert "restart" not in one.reload(one.sections())


BAD = {
    "value": ({"keepalive": "5"}, r'gateway.conf:3: keepalive: "5" is not allowed; give a time .* from 1s to 10m'),
    "key": ({"nonsense": "5"}, "gateway.conf:3: nonsense: unknown key"),
    "url": ({"upstream-allow": "10.0.0.0/8"}, "mcp-server-url: .* is not an address that the MCP server may have"),
    "rule": ({"deny-resource-scheme": "a b"}, 'gateway.conf:3: deny-resource-scheme: "a b"'),
    "header-file": ({"upstream-header-file": "X=/nowhere"}, "header file /nowhere: cannot open it"),
    "route": ({"route": "docs=nonsense"}, 'gateway.conf:3: route: "docs=nonsense"'),
    "route-ca": ({"route": "docs=https://127.0.0.1:1/x", "upstream-ca-file": "/nowhere"}, "route docs.*/nowhere"),
}


def test_a_bad_configuration_changes_nothing(one):
    """Neither its bad part nor its good one; told in one line, and in a record of priority 3."""
    for n, (name, (keys, line)) in enumerate(BAD.items(), 1):
        start = one.process.mark()
        said = one.reload({"": {**one.sections()[""], **keys, "deny-tool": "x"}})
        match = one.process.wait_line(f"error: configuration stays as it was: (.*{line}.*)", 5, start)
        assert said.count("error:") == 1, name
        record = last_reload(one, n)
        assert record["priority"] == "3" and record["mcp_detail"].startswith("configuration stays as it was: ")
        assert f"configuration stays as it was: {match.group(1)}".startswith(record["mcp_detail"].removesuffix("..."))
        assert one.post(tool("x")).status == 200 and one.gateway.health()[0] == 200
        # The same says --check-config of it.
        status, _, err = run([*one.gateway.argv, "--check-config"])
        assert status != 0 and err.strip().endswith(match.group(1)), err
    one.write(one.sections(deny_tool="x"))
    assert run([*one.gateway.argv, "--check-config"])[:2] == (0, "configuration is good\n")
    one.reload()
    assert reason(one.post(tool("x"))) == "policy"


def test_a_file_that_is_gone(one):
    one.file.rename(one.file.with_name("elsewhere"))
    assert "configuration stays as it was: --config: " in one.reload()
    assert one.post(CALL).status == 200


# ---- calls ----


def test_open_calls_go_on(one, servers, raw_control, fresh_key):
    """A call and a GET stream that are open keep their server, and what they began with, through two reloads."""
    raw = {"": {"mcp-server-url": servers.url("raw"), "log-level": "debug"}}
    one.reload(raw)
    call, key = Running(one.endpoint, fresh_key(), raw_control), fresh_key()
    with connect(one.endpoint) as stream:
        case = [("Accept", "text/event-stream"), ("X-Case", "steps"), ("X-Steps", "2"), ("X-Key", key)]
        stream.request("GET", one.endpoint.pairs() + case)
        head = stream.head()
        assert head.status == 200
        one.reload(one.sections(deny_tool="*", max_response_bytes="1k"))
        assert reason(one.post(CALL)) == "policy"
        one.reload(one.sections())
        assert one.post(CALL).json()["server"] == "one"
        raw_control("release", f"{key}-1")
        stream.read(head)
        assert head.body.count(b"data:") == 2
    assert call.finish().status == 200
    # Then the server of before is let go, and its connections are.
    wait_until(lambda: "upstream_connections 0\n" in one.gateway.health("/metrics")[1], 10, "no connection is kept")


def test_while_stopping(one):
    """A reload neither ends what is draining nor holds it up."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(one.post, CALL, ("X-Wait", "yes"))
        wait_until(lambda: one.server.seen, 15, "the call to reach the server")
        one.process.send_signal(signal.SIGTERM)
        one.process.wait_line("stopping: 1 calls open")
        assert "changed: drain-timeout, deny-tool" in one.reload(one.sections(drain_timeout="0", deny_tool="*"))
        one.server.gate.set()
        assert call.result(60).status == 200
    assert one.process.wait(20) == 0


def test_what_did_not_change_keeps_its_connections(one, servers):
    """The server is the same before and after: it is known to be reachable, and connections to it are used again."""

    def reused():
        metrics = one.gateway.health("/metrics")[1]
        return int(metrics.split("\nmcp_tunnel_gateway_upstream_reused_total ")[1].split("\n")[0])

    raw = {"": {"mcp-server-url": servers.url("raw")}}
    one.reload(raw)
    echo = [*JSON_HEADERS, ("X-Case", "echo")]
    assert exchange(one.endpoint, "POST", echo, CALL).status == 200
    before = reused()
    for n in range(5):
        one.reload({"": {**raw[""], "deny-tool": f"t{n}"}})
        assert one.gateway.health()[0] == 200
        assert exchange(one.endpoint, "POST", echo, CALL).status == 200
    # All five, were it not for a machine so slow that connections grow old meanwhile.
    assert reused() > before


def test_no_call_fails_under_load(one, servers):
    """Callers on two routes while the servers, the rules, the limits and the routes around them change all the time; connections to
    one of the two servers are kept."""
    done, wrong, answered = threading.Event(), [], {"one": [], "raw": []}
    urls = (one.server.url, servers.url("raw"))

    def sections(n):
        """Nothing in it denies what is called."""
        return {
            "": {"mcp-server-url": urls[n % 2], "deny-tool": f"t{n}", "max-request-bytes": f"{100 + n}k", "call-timeout": "5m"},
            "docs": {"mcp-server-url": urls[(n // 2) % 2], "allow-tool": ["x", f"y{n}"]},
            f"r{n % 3}": {"mcp-server-url": urls[n % 2]},
        }

    def call(route):
        where = one.to(route)
        with connect(where) as connection:
            while not done.is_set():
                answer = connection.call("POST", where.pairs() + JSON_HEADERS + [("X-Case", "echo")], tool("x"))
                if answer.status != 200:
                    wrong.append((route, answer.status, answer.body))
                    return
                answered[answer.json().get("server", "raw")].append(route)

    one.reload(sections(0))
    callers = [threading.Thread(target=call, args=(route,), daemon=True) for route in ("", "docs") * 3]
    for caller in callers:
        caller.start()
    reloads = 0
    for n in itertools.count(1):
        assert "configuration read again: changed: " in one.reload(sections(n))
        reloads = n
        if wrong or (n >= 40 and min(map(len, answered.values())) >= 40):
            break
    done.set()
    for caller in callers:
        caller.join(30)
    assert not wrong and not any(caller.is_alive() for caller in callers)
    assert len(one.records("config.reload")) == reloads + 1
    wait_until(lambda: len(one.records("call.response")) == sum(map(len, answered.values())), 10, "a record of each call")
    assert {r["mcp_reason"] for r in one.records("call.response") if "mcp_reason" in r} <= {"none"}
