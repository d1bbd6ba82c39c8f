"""The gateway as a service, with a relay in another system: calls, records, reload, restart, failures, instances."""

import re
import time

from lib import scene
from lib.scene import UNIT


def status(system, pid):
    return dict(line.split(":", 1) for line in system.run("cat /proc/%d/status" % pid).stdout.splitlines() if ":" in line)


def test_starts_at_boot_once_there_is_a_token(gateway):
    found = gateway.show(UNIT, "ActiveState", "UnitFileState", "NRestarts", "StatusText")
    assert (found["ActiveState"], found["UnitFileState"], found["NRestarts"]) == ("active", "enabled", "0")
    assert found["StatusText"]
    assert gateway.show(UNIT, "WatchdogUSec", "Type", "Restart") == {
        "WatchdogUSec": "30s", "Type": "notify", "Restart": "on-failure"}


def test_call_and_its_records(gateway, relay, tunnel):
    relay.call("prod", tunnel[1])
    records = gateway.journal("MCP_EVENT=call.request", "MCP_EVENT=call.response", unit=UNIT)
    request, response = records[-2:]
    assert [r["MCP_EVENT"] for r in (request, response)] == ["call.request", "call.response"]
    assert request["MCP_CALL_ID"] == response["MCP_CALL_ID"]
    assert request["MCP_TOOL"] == "echo" and request["MCP_AGENT_ID"] == "alice"
    for r in (request, response):
        assert r["_SYSTEMD_UNIT"] == UNIT and r["SYSLOG_IDENTIFIER"] == "mcp-tunnel-gateway"
        assert r["_UID"] == gateway.run("id -u mcp-tunnel").stdout.strip()


def test_process_has_no_rights(gateway):
    pid = gateway.pid(UNIT)
    s = status(gateway, pid)
    assert set(s["Uid"].split()) == {gateway.run("id -u mcp-tunnel").stdout.strip()}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(s[name], 16) == 0, name
    assert s["NoNewPrivs"].strip() == "1" and s["Seccomp"].strip() == "2"
    assert int(s["VmLck"].split()[0]) > 0
    limits = gateway.run("cat /proc/%d/limits" % pid).stdout
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]
    assert gateway.run("cat /proc/%d/task/%d/children" % (pid, pid)).stdout == ""


def test_token_is_on_no_command_line_and_in_no_log(gateway, tunnel):
    secret = tunnel[0].rsplit("_", 1)[1]
    assert secret not in gateway.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '", check=False).stdout
    assert secret not in gateway.run("journalctl -a -o json --no-pager").stdout


def test_relay_runs_as_its_own_user(relay):
    s = status(relay.system, relay.system.pid("mcp-tunnel-relay.service"))
    assert set(s["Uid"].split()) == {relay.system.run("id -u mcp-tunnel-relay").stdout.strip()}
    assert int(s["CapBnd"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
    assert relay.system.show("mcp-tunnel-relay.service", "ActiveState")["ActiveState"] == "active"


def test_reload_keeps_the_process(gateway, relay, tunnel):
    before = gateway.pid(UNIT)
    calls = relay.start_calls("prod", tunnel[1], seconds=2, threads=4)
    time.sleep(0.5)
    gateway.run("systemctl reload mcp-tunnel-gateway")
    assert scene.finish_calls(calls)["good"] > 10
    assert gateway.pid(UNIT) == before
    assert gateway.show(UNIT, "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    assert re.search("Reloading.*Reloaded", gateway.messages(UNIT), re.S)


def test_reload_applies_the_configuration(gateway, relay, tunnel):
    """What is wrong in the file is told and changes nothing, and the service stays active."""
    before, file = gateway.pid(UNIT), "/etc/mcp-tunnel/gateway.conf"
    gateway.run("cp -p %s /root/gateway.conf" % file)
    try:
        gateway.run("printf 'keepalive = 5\n' >>%s; systemctl reload mcp-tunnel-gateway" % file)
        gateway.wait("journalctl -u mcp-tunnel-gateway", 10, "configuration stays as it was: %s:" % file)
        relay.call("prod", tunnel[1])
        gateway.run("sed -i 's/^keepalive = 5$/deny-method = nothing/' %s; systemctl reload mcp-tunnel-gateway" % file)
        gateway.wait("journalctl -u mcp-tunnel-gateway", 10, "configuration read again: changed: deny-method")
        relay.call("prod", tunnel[1])
    finally:
        gateway.run("cp -p /root/gateway.conf %s; systemctl reload mcp-tunnel-gateway" % file)
    assert gateway.pid(UNIT) == before
    assert gateway.show(UNIT, "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def test_restart_under_load_fails_no_call(gateway, relay, tunnel):
    before = gateway.pid(UNIT)
    calls = relay.start_calls("prod", tunnel[1], seconds=4, threads=8, delay_ms=200)
    time.sleep(1)
    gateway.run("systemctl restart mcp-tunnel-gateway")
    result = scene.finish_calls(calls)
    assert result["good"] > 50 and result["slowest"] < 10
    assert gateway.pid(UNIT) != before
    assert gateway.show(UNIT, "NRestarts")["NRestarts"] == "0"


def test_watchdog_ends_a_process_that_stands_still(gateway, relay, tunnel):
    gateway.write("/etc/systemd/system/mcp-tunnel-gateway.service.d/quick.conf",
                  "[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    gateway.run("systemctl daemon-reload; systemctl restart mcp-tunnel-gateway")
    scene.wait_ready(gateway)
    before = gateway.pid(UNIT)
    time.sleep(3)
    assert gateway.pid(UNIT) == before  # a healthy one lives on
    gateway.run("kill -STOP %d" % before)
    gateway.wait("systemctl show -p NRestarts %s" % UNIT, 15, "NRestarts=1")
    scene.wait_ready(gateway)
    assert "Watchdog timeout" in gateway.messages(UNIT)
    relay.call("prod", tunnel[1])
    assert not gateway.run("find / -xdev -name 'core*' -newer /etc/mcp-tunnel/gateway-token -user mcp-tunnel").stdout


def test_killed_process_is_started_again(gateway, relay, tunnel):
    before = gateway.pid(UNIT)
    gateway.run("kill -KILL %d" % before)
    gateway.wait("systemctl is-active %s" % UNIT, 10)
    scene.wait_ready(gateway)
    assert gateway.pid(UNIT) not in (0, before)
    relay.call("prod", tunnel[1])


def test_it_never_gives_up(gateway):
    """More failures in a row than systemd's own limit of five; then the cause goes away."""
    gateway.write("/etc/systemd/system/mcp-tunnel-gateway.service.d/quick.conf",
                  "[Service]\nRestartSec=100ms\n")
    gateway.run("systemctl daemon-reload; systemctl stop mcp-tunnel-gateway")
    squatter = gateway.start(["systemd-socket-activate", "-l", "127.0.0.1:9464", "/bin/true"])
    try:
        gateway.wait("ss -tln", 5, ":9464")
        gateway.run("systemctl start mcp-tunnel-gateway", check=False)
        deadline = time.monotonic() + 15
        while int(gateway.show(UNIT, "NRestarts")["NRestarts"]) < 8 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert int(gateway.show(UNIT, "NRestarts")["NRestarts"]) >= 8
    finally:
        gateway.run("pkill -x systemd-socket-", check=False)
        squatter.wait(10)
    scene.wait_ready(gateway)
    gateway.run("rm -r /etc/systemd/system/mcp-tunnel-gateway.service.d; systemctl daemon-reload")


def test_instance(gateway, relay):
    token, key = relay.add("lab")
    gateway.write("/etc/mcp-tunnel/gateway-lab.conf", scene.GATEWAY_CONF + "health-listen = 127.0.0.1:9465\n")
    scene.give_token(gateway, token, "gateway-lab-token")
    gateway.run("systemctl start mcp-tunnel-gateway@lab")
    scene.wait_ready(gateway, 9465)
    relay.call("lab", key)
    unit = "mcp-tunnel-gateway@lab.service"
    assert gateway.journal("MCP_EVENT=call.response", unit=unit)[-1]["MCP_TUNNEL_ID"] == "lab"
    assert gateway.run("stat -c %U:%a /var/lib/mcp-tunnel-gateway-lab").stdout == "mcp-tunnel:700\n"
    gateway.run("systemctl stop mcp-tunnel-gateway@lab")
    assert gateway.show(UNIT, "ActiveState")["ActiveState"] == "active"
    assert "Assertion failed" in gateway.run("systemctl start mcp-tunnel-gateway@other", check=False).stderr


def test_new_token(gateway, relay, tunnel):
    """Rotation: the old one holds until the next rotation, so that no call fails in between."""
    calls = relay.start_calls("prod", tunnel[1], seconds=4, threads=4, delay_ms=100)
    token = relay.command("tunnel rotate prod")
    assert token != tunnel[0]
    scene.give_token(gateway, token)
    gateway.run("systemctl restart mcp-tunnel-gateway")
    scene.finish_calls(calls)
    last = relay.command("tunnel rotate prod")
    last = relay.command("tunnel rotate prod")
    gateway.run("systemctl restart mcp-tunnel-gateway")
    gateway.wait("systemctl show -p StatusText %s" % UNIT, 15, "token")
    scene.give_token(gateway, last)
    gateway.run("systemctl restart mcp-tunnel-gateway")
    scene.wait_ready(gateway)
    relay.call("prod", tunnel[1])


def test_reboot(gateway, relay, tunnel):
    """In order, then by a power failure."""
    gateway.shut_down()
    gateway.boot()
    scene.wait_ready(gateway)
    gateway.off()
    gateway.boot()
    scene.wait_ready(gateway)
    relay.call("prod", tunnel[1])


def test_late_network(make_system, relay, build, debs):
    """Boots without a network: the unit is up, says that it is not ready, and is ready soon after the network came."""
    token, key = relay.add("late")
    s = make_system("late", up=False)
    scene.know_relay(s, relay, build)
    s.install(debs["mcp-tunnel-gateway"])
    s.write("/etc/mcp-tunnel/gateway.conf", scene.GATEWAY_CONF)
    scene.give_token(s, token)
    s.boot()
    assert s.show(UNIT, "ActiveState")["ActiveState"] == "active"
    time.sleep(3)
    assert s.run("curl -sf http://127.0.0.1:9464/readyz", check=False).returncode == 22
    s.network.up(s.namespace, s.address)
    scene.wait_ready(s)
    relay.call("late", key)
    assert s.show(UNIT, "NRestarts")["NRestarts"] == "0"
    s.off()


def test_unit_of_the_guide(make_system, relay, build, debs):
    """As published: three options, a user of one's own, the token's file read by the program itself."""
    token, key = relay.add("guide")
    s = make_system("guide")
    scene.know_relay(s, relay, build)
    s.install(debs["mcp-tunnel-gateway"])
    s.write("/etc/mcp-tunnel/gateway.conf", "control-plane = wss://relay.example.com/v1/tunnel\n"
                                            "ca-file = /etc/mcp-tunnel/relay-ca.pem\n")
    s.write("/etc/mcp-tunnel/gateway-token", token + "\n", 0o400)
    s.run("chown mcp-tunnel /etc/mcp-tunnel/gateway-token; ln -s /usr/bin/mcp-tunnel-gateway /usr/local/bin/")
    s.write("/etc/systemd/system/mcp-tunnel-gateway.service", """[Unit]
After=network-online.target
Wants=network-online.target

[Service]
Type=simple
User=mcp-tunnel
ExecStart=/usr/local/bin/mcp-tunnel-gateway \\
  --token-file /etc/mcp-tunnel/gateway-token \\
  --mcp-server-url http://localhost:9000/mcp \\
  --region us-east-1
Restart=on-failure
RestartSec=5
StandardOutput=journal
StandardError=journal

[Install]
WantedBy=multi-user.target
""")
    s.boot()
    scene.wait_ready(s)
    relay.call("guide", key)
    assert s.journal("MCP_EVENT=call.response", unit=UNIT)
    s.off()
