"""What monitoring gets: both programs' metrics under load, as promtool judges them; the alerts and the dashboard of contrib."""

import json
import pathlib
import re
import subprocess
import threading

import pytest
from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser

from lib import promtool
from lib.calls import CALL, Running
from lib.procs import wait_until
from lib.rawhttp import JSON_HEADERS, Connection
from lib.records import exchange

CONTRIB = pathlib.Path(__file__).resolve().parents[2] / "contrib"
RULES = CONTRIB / "prometheus/mcp-tunnel.rules.yml"
DASHBOARD = CONTRIB / "grafana/mcp-tunnel.json"
NAME = re.compile(r"\bmcp_tunnel_(?:gateway|relay)_\w+")


@pytest.fixture(scope="module")
def tool(cache):
    program = promtool.find(cache)
    if not program:
        pytest.skip("no promtool here")
    return program


def check(tool, *args, stdin=None, cwd=None):
    done = subprocess.run([tool, *args], input=stdin, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Scrape:
    """Both programs' metrics, as a scraper asks for them."""

    def __init__(self, relay, gateway):
        port = relay.process.wait_line(r"health on http://127\.0\.0\.1:(\d+)").group(1)
        self.ports = {"gateway": gateway.health_port, "relay": port}

    def get(self, name, accept):
        with Connection(f"http://127.0.0.1:{self.ports[name]}/metrics") as connection:
            answer = connection.call("GET", [("Accept", accept)])
        assert answer.status == 200
        return answer.get("content-type"), answer.body.decode()

    def text(self, name):
        kind, text = self.get(name, "text/plain")
        assert kind.startswith("text/plain; version=0.0.4") and "# EOF" not in text
        return text

    def samples(self, name):
        """{(sample name, labels): value}"""
        kind, text = self.get(name, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        return samples(parser.text_string_to_metric_families(text))

    def all(self):
        return {**self.samples("gateway"), **self.samples("relay")}


def samples(families):
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.fixture
def pair(relay_pair):
    relay, gateway, endpoint = relay_pair("--admin-listen", "127.0.0.1:0")
    return Scrape(relay, gateway), endpoint


def odd_call(n):
    """A caller chooses all of it."""
    tool_name = f'odd-{n}"}} evil_metric{{x="'
    body = {"jsonrpc": "2.0", "id": f"odd-{n}", "method": "tools/call", "params": {"name": tool_name, "arguments": {}}}
    return json.dumps(body).encode()


def load(endpoint, calls=40, threads=4):
    """Calls that succeed and calls that fail, side by side."""

    def some(first):
        for n in range(first, calls, threads):
            case = [("X-Case", "close-early")] if n % 5 == 4 else []
            exchange(endpoint, "POST", JSON_HEADERS + case, CALL if n % 3 else odd_call(n))

    running = [threading.Thread(target=some, args=(first,)) for first in range(threads)]
    for thread in running:
        thread.start()
    return running


def test_promtool_finds_nothing_under_load(pair, tool, raw_control, fresh_key):
    scrape, endpoint = pair
    stays_open = Running(endpoint, fresh_key(), raw_control)
    running = load(endpoint)
    for _ in range(3):
        for name in ("gateway", "relay"):
            assert check(tool, "check", "metrics", stdin=scrape.text(name)) == ""
    for thread in running:
        thread.join(60)
    assert stays_open.finish().status == 200
    wait_until(lambda: scrape.all()["mcp_tunnel_relay_calls_open", ()] == 0, 10, "the calls to be over")
    now = scrape.all()
    assert now["mcp_tunnel_gateway_added_seconds_count", ()] == 41
    assert now["mcp_tunnel_gateway_calls_outcome_total", (("outcome", "maybe-executed"),)] == 8


def test_promtool_judges(tool):
    """It is no judge that lets everything pass."""
    with pytest.raises(AssertionError, match="counter metrics should have"):
        check(tool, "check", "metrics", stdin="# HELP calls Calls.\n# TYPE calls counter\ncalls 1\n")


def test_both_formats_say_the_same(pair):
    """The older one has what OpenMetrics has, but for what moves by itself."""
    scrape, _ = pair
    for name in ("gateway", "relay"):
        new, old = scrape.samples(name), samples(text_parser.text_string_to_metric_families(scrape.text(name)))
        assert new.keys() == old.keys()
        assert [k for k in new if new[k] != old[k] and not re.search("memory|rtt|loop_turn", k[0])] == []


def test_callers_make_no_series(pair):
    """The series are the same before the first call and after calls with names of the callers' choice."""
    scrape, endpoint = pair
    before = scrape.all().keys()
    for thread in load(endpoint):
        thread.join(60)
    now = scrape.all()
    assert now.keys() == before
    labels = {label for _, pairs in now for label, _ in pairs}
    assert labels == {"le", "outcome", "reason", "status", "version"}
    assert len(now) < 600


def test_sessions_are_counted_by_reason(relay_pair):
    relay, gateway, _ = relay_pair("--admin-listen", "127.0.0.1:0")

    def ended(name, metric, reason):
        return Scrape(relay, gateway).samples(name)[f"mcp_tunnel_{name}_{metric}_total", (("reason", reason),)]

    assert ended("relay", "sessions_ended", "gateway-stopped") == 0
    gateway.process.stop()
    port = relay.process.wait_line(r"health on http://127\.0\.0\.1:(\d+)").group(1)
    wait_until(lambda: 'sessions_ended_total{reason="gateway-stopped"} 1' in metrics_at(port), 10, "the session's end")
    gateway.start()
    now = Scrape(relay, gateway).all()
    assert now["mcp_tunnel_gateway_session_attached_times_total", ()] == 1
    assert now["mcp_tunnel_relay_sessions_attached_total", ()] == 2
    relay.stop()
    port = gateway.health_port
    wait_until(lambda: 'session_lost_total{reason="relay-stopped"} 1' in metrics_at(port), 10, "the session's loss")
    failed = re.compile(r'session_attempts_failed_total\{reason="connect-failed"\} [1-9]')
    wait_until(lambda: failed.search(metrics_at(port)), 10, "an attempt that fails")


def metrics_at(port):
    with Connection(f"http://127.0.0.1:{port}/metrics") as connection:
        return connection.call("GET").body.decode()


def test_alerts(tool):
    """Each alert has a case in which it fires, and promtool finds that it does."""
    assert "SUCCESS" in check(tool, "check", "rules", RULES.name, cwd=RULES.parent)
    assert "SUCCESS" in check(tool, "test", "rules", "mcp-tunnel.test.yml", cwd=RULES.parent)
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    cases = (RULES.parent / "mcp-tunnel.test.yml").read_text()
    fires = re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", cases)
    assert alerts and alerts == set(fires)


def test_dashboard_is_one():
    board = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) and len(panels) > 20
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in panels:
        assert panel["targets"] and all(target["expr"] for target in panel["targets"]), panel["title"]
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_queries_of_the_dashboard_can_be_read(tool, tmp_path):
    """As the expression of an alert; promtool reads PromQL."""
    board = json.loads(DASHBOARD.read_text())
    exprs = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"q:{n}", "expr": expr.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for n, expr in enumerate(exprs)
    ]
    # JSON is YAML.
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(exprs)} rules found" in check(tool, "check", "rules", "queries.yml", cwd=tmp_path)


@pytest.mark.parametrize("path", [RULES, DASHBOARD, RULES.parent / "mcp-tunnel.test.yml"], ids=lambda path: path.name)
def test_every_metric_that_is_named_exists(pair, path):
    scrape, _ = pair
    named, there = set(NAME.findall(path.read_text())), {name for name, _ in scrape.all()}
    assert named and named <= there, named - there


def test_readme_lists_every_metric(pair):
    scrape, _ = pair
    there = {re.sub(r"(?<=_seconds)_(bucket|sum|count)$", "", name) for name, _ in scrape.all()}
    listed = {
        f"mcp_tunnel_{who}_{name}"
        for names, whose in re.findall(r"^\| (`.*`) \| (gateway, relay|gateway|relay) \|", readme(), re.M)
        for name in re.findall(r"`(\w+)", names)
        for who in whose.split(", ")
    }
    assert listed == there, listed ^ there


def readme():
    return (CONTRIB / "prometheus/README.md").read_text()
