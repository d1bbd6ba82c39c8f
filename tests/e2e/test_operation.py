"""What those see who run the programs: systemd, logs, health, metrics, the commands for tunnels and agents."""

import json
import os
import re
import signal
import socket
import stat
import threading
import time

import pytest
from prometheus_client.openmetrics import parser

from conftest import free_port
from lib.calls import CALL, Running
from lib.procs import SCALE, run, wait_until
from lib.rawhttp import JSON_HEADERS, Connection
from lib.records import connect, exchange
from lib.tunnel import Endpoint


def post(endpoint):
    return exchange(endpoint, "POST", JSON_HEADERS, CALL)


# ---- systemd ----


class Notify:
    """The socket of NOTIFY_SOCKET; messages as they came, each a dict."""

    def __init__(self, path):
        self.path, self.messages = path, []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while data := self.sock.recv(4096):
            pairs = [line.split("=", 1) for line in data.decode().splitlines()]
            self.messages.append((time.monotonic(), dict(pairs)))

    def env(self, **more):
        return {"NOTIFY_SOCKET": str(self.path), **more}

    def times(self, name, value):
        return [at for at, message in self.messages if message.get(name) == value]

    def statuses(self):
        return [message["STATUS"] for _, message in self.messages if "STATUS" in message]

    def wait(self, name, pattern, timeout=10):
        def look():
            return [m for _, m in self.messages if re.search(pattern, m.get(name, ""))]

        return wait_until(look, timeout, lambda: f"{name}={pattern}; there is {self.messages}")

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def notify(gates):
    made = {name: Notify(gates / f"{name}.notify") for name in ("gateway", "relay")}
    yield made
    for it in made.values():
        it.close()


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_ready_status_and_stopping(relay_pair, notify, raw_control, fresh_key, who):
    """READY=1 once, a STATUS that follows, STOPPING=1 at once on SIGTERM although a call is open."""
    relay, gateway, endpoint = relay_pair(env=lambda name: notify[name].env())
    mine = notify[who]
    assert len(mine.wait("READY", "^1$")) == 1
    mine.wait("STATUS", {"gateway": r"^Ready: attached", "relay": r"^1 gateway attached"}[who])
    call = Running(endpoint, fresh_key(), raw_control)
    assert not mine.times("STOPPING", "1")
    process = {"gateway": gateway, "relay": relay}[who].process
    process.send_signal(signal.SIGTERM)
    mine.wait("STOPPING", "^1$", 5)
    assert process.running()
    if who == "gateway":
        mine.wait("STATUS", r"^Stopping: 1 call")
    assert call.finish().status == 200
    assert process.wait(10) == 0
    assert len(mine.times("READY", "1")) == len(mine.times("STOPPING", "1")) == 1


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_reload_is_told(relay_pair, notify, who):
    """SIGHUP: RELOADING=1 with the time of it, then READY=1, and the STATUS stays."""
    relay, gateway, _ = relay_pair(env=lambda name: notify[name].env())
    mine = notify[who]
    mine.wait("STATUS", {"gateway": r"^Ready: attached", "relay": r"^1 gateway attached"}[who])
    before = time.monotonic()
    {"gateway": gateway, "relay": relay}[who].process.send_signal(signal.SIGHUP)
    told = mine.wait("RELOADING", "^1$", 5)
    assert before * 1e6 <= int(told[0]["MONOTONIC_USEC"]) <= time.monotonic() * 1e6
    wait_until(lambda: len(mine.times("READY", "1")) == 2, 5, "READY=1")
    assert mine.times("READY", "1")[1] >= mine.times("RELOADING", "1")[0]
    assert "STATUS" not in told[0] and [m for _, m in mine.messages if m.get("READY")][1] == {"READY": "1"}


def test_status_says_what_is_wrong(relay_pair, notify):
    """A boot without the relay is no failed start: READY, and the reason in STATUS."""
    port = free_port()
    relay_pair(
        wait_ready=False, control_plane=f"wss://localhost:{port}/v1/tunnel", env=lambda name: notify[name].env()
    )
    notify["gateway"].wait("READY", "^1$")
    notify["gateway"].wait("STATUS", rf"^Not ready: connect-failed: .*{port}")


@pytest.mark.parametrize("who", ["gateway", "relay"])
def test_watchdog_is_fed(relay_pair, notify, who):
    """At least twice in each period, and not when the loop stands still."""
    period = 0.4 * SCALE
    relay, gateway, _ = relay_pair(env=lambda name: notify[name].env(WATCHDOG_USEC=str(int(period * 1e6))))
    mine = notify[who]
    wait_until(lambda: len(mine.times("WATCHDOG", "1")) >= 5, 10, "five signs of life")
    times = mine.times("WATCHDOG", "1")
    assert max(b - a for a, b in zip(times, times[1:])) < period
    process = {"gateway": gateway, "relay": relay}[who].process
    process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(period / 4)
        before = len(mine.times("WATCHDOG", "1"))
        time.sleep(2 * period)
        assert len(mine.times("WATCHDOG", "1")) == before
    finally:
        process.send_signal(signal.SIGCONT)


def test_no_watchdog_unless_asked(relay_pair, notify):
    relay_pair(env=lambda name: notify[name].env())
    time.sleep(1)
    assert not any(it.times("WATCHDOG", "1") for it in notify.values())


# ---- logs ----

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (error|warning|notice|info|debug): "
    r'(?P<text>.*?)(?P<fields>( MCP_[A-Z_]+=("([^"\\]|\\.)*"|\S+))*)'
)


def log_lines(process):
    """[(level, text, fields)]; every line of stderr must be one."""
    lines = []
    for line in process.lines:
        match = LINE.fullmatch(line)
        assert match, f"not a log line: {line!r}"
        fields = dict(re.findall(r' (MCP_[A-Z_]+)=("(?:[^"\\]|\\.)*"|\S+)', match["fields"]))
        lines.append((match[1], match["text"], {n: v.strip('"') for n, v in fields.items()}))
    return lines


def test_fields_of_log_lines(relay_pair):
    """Time, level, text and fields; both ends name the same session."""
    relay, gateway, endpoint = relay_pair()
    assert post(endpoint).status == 200
    here = [f for _, text, f in log_lines(gateway.process) if text.startswith("connected to")]
    there = [f for _, text, f in log_lines(relay.process) if "attached from" in text]
    assert len(here) == len(there) == 1
    assert re.fullmatch(r"[0-9a-f]{32}", here[0]["MCP_TUNNEL_SESSION"])
    assert there[0] == {"MCP_TUNNEL_ID": "own", "MCP_TUNNEL_SESSION": here[0]["MCP_TUNNEL_SESSION"]}
    start = gateway.process.mark()
    relay.stop()
    gateway.process.wait_line("MCP_REASON=", 10, start)
    _, _, fields = next(line for line in log_lines(gateway.process) if "MCP_REASON" in line[2])
    assert fields["MCP_REASON"] in ("relay-stopped", "connection-lost", "connect-failed")
    assert fields["MCP_PEER"] == f"localhost:{relay.port}"
    relay.start()


def test_what_others_say_stays_on_its_line(relay_pair, relay, certs):
    """A tunnel's name in a request, a region: nothing of it makes a line of its own."""
    own, gateway, endpoint = relay_pair(region="eu-1")
    with connect(endpoint) as connection:
        connection.request("GET", [("Authorization", "Bearer x\x1b[31m")], target="/t/x%0aerror:%20fake/mcp")
        assert connection.head().status in (400, 401, 404)
    assert any("region eu-1" in text for _, text, _ in log_lines(own.process))
    log_lines(gateway.process)


@pytest.mark.parametrize("level", ["error", "warning"])
def test_quiet_levels(relay_pair, gates, level):
    """A good day leaves nothing in the log."""
    _, gateway, endpoint = relay_pair(
        gateway_options=("--log-level", level), health_listen=f"unix:{gates}/health.sock"
    )
    assert post(endpoint).status == 200
    gateway.process.stop()
    assert gateway.process.lines == []


def test_debug_follows_a_call_through_both_ends(relay_pair):
    relay, gateway, endpoint = relay_pair("--log-level", "debug", gateway_options=("--log-level", "debug"))
    call_id = {n.lower(): v for n, v in post(endpoint).json()["headers"]}["mcp-tunnel-call"]
    for it in (relay, gateway):
        it.process.wait_line(f"debug: call {call_id} ended: complete", 5)
    log_lines(gateway.process)
    log_lines(relay.process)


def test_info_does_not_tell_each_call(relay_pair):
    relay, gateway, endpoint = relay_pair()
    before = relay.process.mark(), gateway.process.mark()
    for _ in range(20):
        assert post(endpoint).status == 200
    assert (relay.process.mark(), gateway.process.mark()) == before


# ---- health ----


def test_health_on_a_unix_socket(relay_pair, gates):
    path = gates / "health.sock"
    _, gateway, endpoint = relay_pair(health_listen=f"unix:{path}")
    assert stat.S_ISSOCK(path.stat().st_mode) and stat.S_IMODE(path.stat().st_mode) == 0o660
    assert gateway.health("/healthz")[0] == 200 and gateway.health("/readyz")[0] == 200
    assert gateway.health("/metrics")[1].endswith("# EOF\n")
    gateway.process.stop()
    assert not path.exists()


def test_health_socket_that_was_left_behind(relay_pair, gates):
    path = gates / "health.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    _, gateway, _ = relay_pair(wait_ready=False, health_listen=f"unix:{path}")
    wait_until(lambda: gateway.process.find("health on unix:"), 10, gateway.process.tail)
    gateway.wait_ready()


def test_no_health(relay_pair):
    """--health-listen none: nothing listens in the gateway's process at all."""
    relay, gateway, endpoint = relay_pair()
    gateway.process.stop()
    gateway.argv[gateway.argv.index("--health-listen") + 1] = "none"
    start = relay.process.mark()
    gateway.process = type(gateway.process)("gateway", gateway.argv)
    relay.process.wait_line("attached from", 10, start)
    assert post(endpoint).status == 200
    with open(f"/proc/{gateway.process.pid}/net/tcp", encoding="ascii") as table:
        listening = {line.split()[9] for line in list(table)[1:] if line.split()[3] == "0A"}
    sockets = set()
    for number in range(64):
        try:
            link = os.readlink(f"/proc/{gateway.process.pid}/fd/{number}")
        except OSError:
            continue
        sockets.update(re.findall(r"socket:\[(\d+)\]", link))
    assert not listening & sockets


def admin(relay, path):
    port = relay.process.wait_line(r"health on http://127\.0\.0\.1:(\d+)").group(1)
    with Connection(f"http://127.0.0.1:{port}{path}") as connection:
        return connection.call("GET")


def test_admin_listener_of_the_relay(relay_pair, raw_control, fresh_key):
    """Apart from the public port, and only where it was asked for."""
    relay, gateway, endpoint = relay_pair("--admin-listen", "127.0.0.1:0")
    assert admin(relay, "/healthz").status == 200
    ready = admin(relay, "/readyz")
    assert (ready.status, ready.json()["ready"], ready.json()["gateways_attached"]) == (200, True, 1)
    assert admin(relay, "/t/own/mcp").status == 404
    for path in ("/healthz", "/readyz", "/metrics"):
        with connect(endpoint) as connection:
            assert connection.call("GET", endpoint.pairs(), target=path).status == 404
    call = Running(endpoint, fresh_key(), raw_control)
    relay.process.send_signal(signal.SIGTERM)
    wait_until(lambda: admin(relay, "/readyz").status == 503, 5, "not ready while it stops")
    assert call.finish().status == 200


def test_not_ready_while_stopping(relay_pair, raw_control, fresh_key):
    _, gateway, endpoint = relay_pair()
    call = Running(endpoint, fresh_key(), raw_control)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_ready(5, 503)
    checks = json.loads(gateway.health()[1])["checks"]
    assert (checks["running"]["ok"], checks["running"]["reason"]) == (False, "stopping")
    assert gateway.health("/healthz")[0] == 200
    assert call.finish().status == 200


# ---- metrics ----


def read_metrics(answer):
    """{sample with labels: value}, read by a strict reader that is not ours."""
    assert answer.status == 200
    assert answer.get("content-type").startswith("application/openmetrics-text; version=1.0.0")
    text = answer.body.decode()
    assert text.endswith("\n# EOF\n")
    samples = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{n}={v}" for n, v in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def test_metrics_of_both_programs(relay_pair, raw_control, fresh_key):
    relay, gateway, endpoint = relay_pair("--admin-listen", "127.0.0.1:0")

    def both():
        return read_metrics(gateway.ask("/metrics")), read_metrics(admin(relay, "/metrics"))

    here, there = both()
    assert (here["mcp_tunnel_gateway_ready"], here["mcp_tunnel_gateway_session_attached"]) == (1, 1)
    assert (there["mcp_tunnel_relay_gateways_attached"], there["mcp_tunnel_relay_calls_open"]) == (1, 0)
    assert here["mcp_tunnel_gateway_calls_ended_total{reason=none}"] == 0
    call = Running(endpoint, fresh_key(), raw_control)
    here, there = both()
    assert (here["mcp_tunnel_gateway_exchanges_open"], there["mcp_tunnel_relay_calls_open"]) == (1, 1)
    length = len(call.finish().body)
    assert exchange(endpoint, "POST", JSON_HEADERS + [("X-Case", "close-early")], CALL).status == 502
    assert exchange(Endpoint(endpoint.url, "tunnel", {}, endpoint.ca)).status == 401
    wait_until(lambda: both()[1]["mcp_tunnel_relay_calls_open"] == 0, 5, "the calls to be over")
    here, there = both()
    assert here["mcp_tunnel_gateway_exchanges_started_total"] == 2
    assert there["mcp_tunnel_relay_calls_started_total"] == 2
    for samples, name in ((here, "gateway"), (there, "relay")):
        assert samples[f"mcp_tunnel_{name}_calls_ended_total{{reason=none}}"] == 1
        assert samples[f"mcp_tunnel_{name}_calls_ended_total{{reason=upstream-closed}}"] == 1
        assert any(key.startswith(f"mcp_tunnel_{name}_build_info{{") for key in samples)
    assert here["mcp_tunnel_gateway_request_bytes_total"] == 2 * len(CALL)
    assert here["mcp_tunnel_gateway_response_bytes_total"] == length
    for name in ("added", "upstream_first_byte", "upstream_duration"):
        counted = here[f"mcp_tunnel_gateway_{name}_seconds_count"]
        assert counted == here[f"mcp_tunnel_gateway_{name}_seconds_bucket{{le=+Inf}}"] == {"added": 2}.get(name, 1), name
    assert 0 < here["mcp_tunnel_gateway_added_seconds_sum"] < 5
    assert there["mcp_tunnel_relay_call_first_byte_seconds_count"] == there["mcp_tunnel_relay_call_duration_seconds_count"] == 1
    assert here["mcp_tunnel_gateway_upstream_answers_total{status=2xx}"] == 1
    assert here["mcp_tunnel_gateway_upstream_dials_total"] + here["mcp_tunnel_gateway_upstream_reused_total"] >= 2
    assert there["mcp_tunnel_relay_request_bytes_total"] == 2 * len(CALL)
    assert there["mcp_tunnel_relay_response_bytes_total"] == length
    assert there["mcp_tunnel_relay_certificate_expiry_timestamp_seconds"] > time.time()
    for samples, name in ((here, "gateway"), (there, "relay")):
        assert samples[f"mcp_tunnel_{name}_calls_outcome_total{{outcome=complete}}"] == 1
        assert samples[f"mcp_tunnel_{name}_calls_outcome_total{{outcome=maybe-executed}}"] == 1
        assert samples[f"mcp_tunnel_{name}_resident_memory_bytes"] > 1e6
    assert there["mcp_tunnel_relay_refused_total{reason=upstream-closed}"] == 1
    assert there["mcp_tunnel_relay_refused_total{reason=bad-request}"] == 1


# ---- tunnels and agents ----


def test_tunnel_list(relay_pair):
    relay, _, _ = relay_pair()
    relay.add_tunnel("another")
    rows = [line.split("\t") for line in relay.command("tunnel", "list").splitlines()]
    assert [(r[0], r[2], r[3]) for r in rows] == [("another", "tokens=1", "agents=0"), ("own", "tokens=1", "agents=1")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", r[1]) for r in rows)
    assert relay.command("agent", "list", "--tunnel", "own").split("\t")[0] == "own-agent"


def restart(gateway, token):
    gateway.process.stop()
    gateway.set_token(token)
    gateway.start(wait_ready=False)


def test_tunnel_rotate(relay_pair):
    """The token before stays good for one rotation, and not for a second one."""
    relay, gateway, endpoint = relay_pair()
    new = relay.command("tunnel", "rotate", "own").split()[-1]
    assert new != gateway.token and new.startswith("mtt_own_")
    relay.reload_and_wait()
    for token in (new, gateway.token, new):
        restart(gateway, token)
        gateway.wait_ready()
        assert post(endpoint).status == 200
    relay.command("tunnel", "rotate", "own")
    relay.reload_and_wait()
    restart(gateway, new)
    gateway.wait_ready()
    restart(gateway, gateway.token)
    gateway.process.wait_line("token-refused", 10)
    gateway.set_token(new)
    gateway.wait_ready()
    assert "tokens=2" in relay.command("tunnel", "list")


def test_tunnel_remove(relay_pair):
    """After SIGHUP nobody gets through: no agent, and no gateway with its token."""
    relay, gateway, endpoint = relay_pair()
    assert post(endpoint).status == 200
    relay.command("tunnel", "remove", "own")
    relay.reload_and_wait()
    assert post(endpoint).status == 401
    restart(gateway, gateway.token)
    gateway.process.wait_line("token-refused", 10)
    assert relay.command("tunnel", "list") == ""


def test_commands_that_cannot_be_done(relay_pair, programs):
    relay, _, endpoint = relay_pair()
    for args, said in (
        (("tunnel", "add", "own"), "exists already"),
        (("tunnel", "add", "Own"), "not a tunnel id"),
        (("tunnel", "rotate", "nobody"), "does not exist"),
        (("tunnel", "remove", "nobody"), "does not exist"),
        (("agent", "add", "own-agent", "--tunnel", "own"), "exists already"),
        (("agent", "remove", "nobody", "--tunnel", "own"), "does not exist"),
    ):
        status, out, err = run([programs.relay, *args, "--state-dir", relay.state])
        assert (status, out) == (1, "") and said in err and len(err.splitlines()) == 1, (args, status, out, err)
    assert post(endpoint).status == 200


def test_damaged_state_is_not_taken(relay_pair):
    """SIGHUP with a broken file: everybody stays who they were, and the log says which line is wrong."""
    relay, _, endpoint = relay_pair()
    path = relay.state / "agents"
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    start = relay.process.mark()
    relay.reload()
    relay.process.wait_line(r"error: SIGHUP: .*agents:2", 10, start)
    assert post(endpoint).status == 200
    path.write_bytes(good)
    relay.reload_and_wait()
    assert post(endpoint).status == 200
