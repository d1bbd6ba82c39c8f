"""Several MCP servers behind one gateway, each with rules, certificates and headers of its own."""

import json
import secrets
import ssl

import pytest

from lib.audited import hits
from lib.configured import Configured, configured, named_servers, reason, secret_file, tool  # noqa: F401 (fixtures)
from lib.procs import run, wait_until


@pytest.fixture
def three(configured, named_servers):  # noqa: F811
    """three(main={...}, docs={...}, wiki={...}): the default route and two more, with these keys besides their URLs."""
    servers = named_servers("main", "docs", "wiki")

    def start(main=None, docs=None, wiki=None):
        keys = {"": main, "docs": docs, "wiki": wiki}
        sections = {
            name: {"mcp-server-url": server.url, **(keys[name] or {})} for name, server in zip(keys, servers, strict=True)
        }
        made = configured(sections)
        made.sections, made.servers = sections, servers
        return made

    return start


def posts(server):
    """Calls that it got; besides, the gateway may ask it for an answer of any kind."""
    return len([1 for method, *_ in server.seen if method == "POST"])


def test_each_route_leads_to_its_server(three):
    """The server's own Host and path; records name route and server; a route that there is none of leads nowhere."""
    conf = three()
    for route, server in zip(("", "docs", "wiki"), conf.servers, strict=True):
        answer = conf.post(tool("x"), route=route).json()
        assert (answer["server"], answer["target"]) == (route or "main", "/mcp")
        assert answer["headers"]["host"] == server.url.split("/")[2]
        assert posts(server) == 1
    answer = conf.post(tool("x"), route="none")
    assert (answer.status, reason(answer), answer.json()["error"]["data"]["executed"]) == (404, "no-route", "no")
    assert [posts(server) for server in conf.servers] == [1, 1, 1]
    wait_until(lambda: len(conf.records("call.response")) == 3, 10, "three calls")
    told = [(r.get("mcp_route", ""), r.get("mcp_upstream")) for r in conf.records("call.request")]
    assert told == list(zip(("", "docs", "wiki"), (s.url for s in conf.servers), strict=True))
    denied = conf.records("call.denied")
    assert [(r["mcp_route"], r["mcp_reason"], r.get("mcp_upstream")) for r in denied] == [("none", "no-route", None)]


def test_routes_by_options(relay_pair, named_servers, tmp_path):  # noqa: F811
    """--route alone: the default route leads nowhere then. On the command line it wins over the file."""
    docs, wiki = named_servers("docs", "wiki")
    conf = Configured(
        relay_pair,
        tmp_path,
        {"docs": {"mcp-server-url": "http://127.0.0.1:1/mcp", "deny-tool": "rm"}},
        *("--route", f"docs={docs.url}", f"--route=wiki={wiki.url}"),
    )
    assert conf.post(tool("x"), route="docs").json()["server"] == "docs"
    assert conf.post(tool("x"), route="wiki").json()["server"] == "wiki"
    assert reason(conf.post(tool("rm"), route="docs")) == "policy"
    assert reason(conf.post(tool("x"))) == "no-route"
    assert "upstream" not in conf.gateway.ask("/readyz").json()["checks"]


def test_rules_of_a_route(three):
    """Its denials come on top, what it allows of a kind is instead."""
    conf = three(
        main={"allow-tool": ["get-*", "put-*"], "deny-tool": "*-secret", "deny-prompt": "p"},
        docs={"allow-tool": "doc-*", "deny-tool": "doc-x"},
    )
    allowed = {"": {"get-1", "put-1"}, "docs": {"doc-1"}, "wiki": {"get-1", "put-1"}}
    for route, names in allowed.items():
        for name in ("get-1", "put-1", "doc-1", "doc-x", "get-secret", "doc-secret"):
            answer = conf.post(tool(name), route=route)
            assert (answer.status == 200) == (name in names), (route, name, answer.body)
            assert answer.status == 200 or reason(answer) == "policy"
    rules = {(r.get("mcp_route", ""), r["mcp_tool"]): r["mcp_rule"] for r in conf.records("call.denied")}
    assert rules["docs", "doc-secret"] == rules["", "get-secret"] == '--deny-tool "*-secret"'
    assert rules["docs", "doc-x"] == '--deny-tool "doc-x"'
    assert rules["docs", "get-1"] == "--allow-tool: no pattern matches"


def test_dry_run_goes_by_the_rules_of_the_route(three):
    conf = three(main={"policy-dry-run": "yes", "deny-tool": "a"}, docs={"deny-tool": "b"})
    for route in ("", "docs"):
        for name in ("a", "b"):
            assert conf.post(tool(name), route=route).status == 200
    rules = [(r.get("mcp_route", ""), r["mcp_tool"], r.get("mcp_rule")) for r in conf.records("call.request")]
    assert rules == [
        ("", "a", 'would deny: --deny-tool "a"'),
        ("", "b", None),
        ("docs", "a", 'would deny: --deny-tool "a"'),
        ("docs", "b", 'would deny: --deny-tool "b"'),
    ]


def test_ready_means_every_server(three):
    """A check of its own for each, the metric by route, one line in the log; the others are served all the same."""
    conf = three()
    checks = conf.gateway.ask("/readyz").json()["checks"]
    assert [name for name in checks if name.startswith("upstream")] == ["upstream", "upstream:docs", "upstream:wiki"]
    assert all(check["ok"] for check in checks.values())
    start = conf.process.mark()
    conf.servers[1].stop()
    assert reason(conf.post(tool("x"), route="docs")) == "upstream-unreachable"
    conf.process.wait_line("MCP server of route docs: upstream-unreachable: ", 10, start)
    status, body = conf.gateway.health()
    checks = json.loads(body)["checks"]
    assert status == 503 and checks["upstream:docs"]["reason"] == "upstream-unreachable"
    assert checks["upstream:docs"]["detail"] and checks["upstream:docs"]["age_s"] >= 0
    assert checks["upstream"]["ok"] and checks["upstream:wiki"]["ok"]
    metrics = conf.gateway.health("/metrics")[1]
    for row in ("upstream_reachable 1", 'upstream_reachable{route="docs"} 0', 'upstream_reachable{route="wiki"} 1', "ready 0"):
        assert f"\nmcp_tunnel_gateway_{row}\n" in metrics
    assert conf.post(tool("x")).status == conf.post(tool("x"), route="wiki").status == 200


def test_certificates_of_a_route(configured, named_servers, certs):  # noqa: F811
    """Two https servers, one with an authority of its own for its route; a stranger's certificate is refused on the other."""
    docs, wiki = named_servers("docs", "wiki")
    for server in (docs, wiki):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certs.server)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    urls = [server.url.replace("http://127.0.0.1", "https://localhost") for server in (docs, wiki)]
    conf = configured(
        {
            "docs": {"mcp-server-url": urls[0], "upstream-ca-file": certs.ca.cert},
            "wiki": {"mcp-server-url": urls[1]},
        },
        wait_ready=False,
    )
    conf.process.wait_line("MCP server of route wiki: upstream-unreachable", 15)
    wait_until(lambda: conf.gateway.ask("/readyz").json()["checks"]["session"]["ok"], 15, "the session")
    assert conf.post(tool("x"), route="docs").json()["server"] == "docs"
    assert reason(conf.post(tool("x"), route="wiki")) == "upstream-unreachable"


PRINTED = """[gateway]
token-file = /t
control-plane = wss://x/y
route = more=http://127.0.0.1:9/mcp
[route docs]
mcp-server-url = http://127.0.0.1:8/mcp
deny-tool = a
deny-tool = b
"""


def test_printed_configuration_can_be_read(programs, tmp_path):
    """--print-config has a section for each route, with where each value comes from, and is a configuration itself."""

    def printed(file):
        status, out, err = run([programs.gateway, "--config", file, "--print-config"])
        assert status == 0, err
        return out

    first, again = tmp_path / "first.conf", tmp_path / "again.conf"
    first.write_text(PRINTED)
    out = printed(first)
    assert f"\n[route docs]\nmcp-server-url = http://127.0.0.1:8/mcp ; {first}:6\ndeny-tool = a ; {first}:7\n" in out
    assert "\nroute = more=http://127.0.0.1:9/mcp ; " in out and out.endswith("\n[route more]\n")
    again.write_text(out)
    assert [line.split(" ; ")[0] for line in printed(again).splitlines()] == [line.split(" ; ")[0] for line in out.splitlines()]


# ---- headers ----


def test_header_from_a_file(three, tmp_path):
    """Instead of whatever the agent sent under that name; for its own route alone; new requests have a new value."""
    file = secret_file(tmp_path / "key", "Bearer of-docs")
    conf = three(docs={"upstream-header-file": [f"Authorization={file}", f"X-Api_Key={file}"]})
    mine = [("Mcp-Tunnel-Authorization", conf.endpoint.headers["Authorization"])]
    conf.endpoint.headers = {}
    sent = [*mine, ("Authorization", "Bearer agents-own"), ("x-api-key", "a"), ("X-Other", "b")]
    got = conf.post(tool("x"), *sent, route="docs").json()["headers"]
    assert (got["authorization"], got["x-api_key"], got["x-other"]) == ("Bearer of-docs", "Bearer of-docs", "b")
    assert "x-api-key" not in got
    for route in ("", "wiki"):
        got = conf.post(tool("x"), *sent, route=route).json()["headers"]
        assert (got["authorization"], got["x-api-key"]) == ("Bearer agents-own", "a")

    start = conf.process.mark()
    secret_file(file, "Bearer second")
    conf.process.wait_line("headers for the MCP server of route docs read again, as they have changed", 10, start)
    assert conf.post(tool("x"), *mine, route="docs").json()["headers"]["authorization"] == "Bearer second"

    # One that cannot be used is told, and the value before stays; at SIGHUP, too.
    secret_file(file, "Bearer third", mode=0o644)
    line = conf.process.wait_line("warning: headers for the MCP server of route docs stay as they were: (.*)", 10, start)
    assert "chmod 600" in line.group(1)
    assert "stay as they were" in conf.reload()
    assert conf.post(tool("x"), *mine, route="docs").json()["headers"]["authorization"] == "Bearer second"
    secret_file(file, "Bearer fourth")
    conf.reload()
    assert conf.post(tool("x"), *mine, route="docs").json()["headers"]["authorization"] == "Bearer fourth"
    priorities = [r["priority"] for r in conf.records("config.reload")]
    assert priorities.count("3") == 2 and priorities[0] == priorities[-1] == "5"


def test_value_of_a_header_is_nowhere(three, tmp_path):
    """In no log at level debug, record, metric, answer of the tunnel or printed configuration, whatever happens to the file."""
    canary = {name: f"cnry{secrets.token_hex(12)}" for name in ("first", "broken", "second", "open")}
    file = secret_file(tmp_path / "key", canary["first"])
    header = {"upstream-header-file": f"X-Secret={file}"}
    conf = three(main={"log-level": "debug", **header}, docs=header)
    answers = []

    def ask():
        for route in ("", "docs"):
            assert conf.post(tool("x"), route=route).json()["headers"]["x-secret"] in canary.values()
        # What the tunnel itself answers.
        answers.append(conf.post(b"no json").body)
        answers.append(conf.post(tool("x"), ("Mcp-Name", "other")).body)
        answers.append(conf.post(tool("x"), route="none").body)

    ask()
    for name, mode in (("broken", 0o600), ("second", 0o600), ("open", 0o644)):
        secret_file(file, canary[name] + ("\nsecond line" if name == "broken" else ""), mode)
        conf.reload()
        ask()
    conf.servers[0].stop()
    answers.append(conf.post(tool("x")).body)
    metrics = conf.gateway.ask("/metrics").body + conf.gateway.ask("/readyz").body
    printed = run([*conf.gateway.argv, "--print-config"])
    assert f"upstream-header-file = X-Secret={file}" in printed[1]
    # Refused at the start, with the same file: it says which file, and no more.
    refused = run([*conf.gateway.argv, "--check-config"])
    assert refused[0] == 2 and str(file) in refused[2]
    received = [headers["x-secret"] for method, _, headers, _ in conf.servers[1].seen if method == "POST"]
    assert set(received) == {canary["first"], canary["second"]}
    found = {
        "log": conf.process.text().encode(),
        "relay": conf.relay.process.text().encode(),
        "records": conf.gateway.audit.read_bytes(),
        "metrics": metrics,
        "answers": b"".join(answers),
        "printed": (printed[1] + printed[2] + refused[1] + refused[2]).encode(),
    }
    assert hits(canary, found) == []
    assert hits({"route": "no-route"}, found)


@pytest.mark.parametrize("mode, text", [(0o644, "x"), (0o620, "x"), (0o600, "two\nlines"), (0o600, ""), (0o600, " x")])
def test_header_file_that_cannot_be_used(programs, tmp_path, mode, text):
    """The gateway does not start: status 2 and one line that names the file."""
    token = secret_file(tmp_path / "token", "mtt_own_" + "A" * 43)
    file = secret_file(tmp_path / "key", text, mode)
    argv = [programs.gateway, "--token-file", token, "--mcp-server-url", "http://127.0.0.1:9/mcp", "--control-plane", "wss://x/y"]
    status, _, err = run([*argv, "--upstream-header-file", f"X={file}", "--health-listen", "none", "--audit", "none"])
    assert status == 2 and err.count("\n") == 1 and str(file) in err, err
