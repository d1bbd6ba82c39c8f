"""The .deb on a system: installed without a configuration, over a running one, upgraded, removed, purged."""

import os
import re
import time

from lib import scene, shell
from lib.scene import UNIT


def another_version(package, version, directory):
    """The same files as another version."""
    tree = os.path.join(directory, "tree")
    shell.run(["dpkg-deb", "-R", package, tree])
    control = os.path.join(tree, "DEBIAN/control")
    with open(control, encoding="utf-8") as f:
        text = f.read()
    with open(control, "w", encoding="utf-8") as f:
        f.write(re.sub(r"^Version: .*$", "Version: " + version, text, flags=re.M))
    path = os.path.join(directory, "mcp-tunnel-gateway_%s.deb" % version)
    shell.run(["dpkg-deb", "-b", "--root-owner-group", tree, path])
    return path


def files(system):
    """Everything that is neither the system's own bookkeeping nor volatile."""
    out = system.run("find / -xdev ! -path '/proc*' ! -path '/sys*' ! -path '/run*' ! -path '/dev*' ! -path '/tmp*' "
                     "! -path '/var/log/journal*' ! -path '/var/lib/dpkg*' ! -path '/root*' ! -path '/var/tmp*'").stdout
    return set(out.splitlines())


def test_without_configuration(make_system, debs):
    """Nothing runs, nothing is tried again and again, and each attempt says what to do next."""
    s = make_system("bare").boot()
    said = s.install(debs["mcp-tunnel-gateway"]).stdout
    assert "put the tunnel's token into /etc/mcp-tunnel/gateway-token" in said and "/etc/mcp-tunnel/gateway.conf" in said
    assert "ailed" not in said and "rror" not in said
    assert s.show(UNIT, "ActiveState", "UnitFileState") == {"ActiveState": "inactive", "UnitFileState": "enabled"}
    assert s.run("systemctl start mcp-tunnel-gateway", check=False).returncode != 0
    assert "AssertPathExists=/etc/mcp-tunnel/gateway-token was not met" in s.run(
        "systemctl status mcp-tunnel-gateway", check=False).stdout
    s.off()
    s.boot()
    assert s.run("systemctl is-system-running").stdout == "running\n"

    scene.give_token(s, "mtt_prod_" + 43 * "A")
    assert s.run("systemctl start mcp-tunnel-gateway", check=False).returncode != 0
    said = s.run("journalctl --sync; systemctl status mcp-tunnel-gateway", check=False).stdout
    assert re.search(r"--control-plane URL is missing; .* in /etc/mcp-tunnel/gateway\.conf", said)
    time.sleep(6)  # more than RestartSec
    assert s.show(UNIT, "ActiveState", "NRestarts") == {"ActiveState": "failed", "NRestarts": "0"}

    s.write("/etc/mcp-tunnel/gateway.conf", scene.GATEWAY_CONF.replace("ca-file", "#"))
    s.run("systemctl start mcp-tunnel-gateway")
    assert s.show(UNIT, "ActiveState")["ActiveState"] == "active"
    s.off()


def test_installation_with_a_token_starts_it(make_system, relay, build, debs, tunnel):
    s = make_system("preset")
    scene.know_relay(s, relay, build)
    s.boot()
    s.write("/etc/mcp-tunnel/gateway.conf", scene.GATEWAY_CONF)
    scene.give_token(s, tunnel[0])
    s.copy(debs["mcp-tunnel-gateway"], "/root/gateway.deb")
    s.run("dpkg --force-confold -i /root/gateway.deb")
    scene.wait_ready(s)
    s.off()


def test_upgrade_and_reinstall_under_load(make_system, relay, build, debs, tunnel, tmp_path):
    """Configuration, token and state stay, and no call fails; an instance is restarted, too."""
    old = another_version(debs["mcp-tunnel-gateway"], "0.0.9", str(tmp_path))
    s = make_system("upgrade")
    scene.make_gateway(s, relay, build, old, tunnel[0])
    token, _ = relay.add("second")
    s.write("/etc/mcp-tunnel/gateway-b.conf", scene.GATEWAY_CONF + "health-listen = none\n")
    scene.give_token(s, token, "gateway-b-token")
    s.run("systemctl start mcp-tunnel-gateway@b")
    s.run("su -s /bin/sh -c 'echo kept >/var/lib/mcp-tunnel-gateway/mark' mcp-tunnel")
    kept = "md5sum /etc/mcp-tunnel/* /var/lib/mcp-tunnel-gateway/mark; stat -c '%n %a %U' /etc/mcp-tunnel/*"
    before, pids = s.run(kept).stdout, (s.pid(UNIT), s.pid("mcp-tunnel-gateway@b"))
    for version in ("an upgrade", "a reinstallation"):
        calls = relay.start_calls("prod", tunnel[1], seconds=5, threads=8, delay_ms=200)
        time.sleep(1)
        s.install(debs["mcp-tunnel-gateway"])
        assert scene.finish_calls(calls)["good"] > 50, version
        scene.wait_ready(s)
        now = (s.pid(UNIT), s.pid("mcp-tunnel-gateway@b"))
        assert all(now) and now[0] != pids[0] and now[1] != pids[1], version
        pids = now
        assert s.run(kept).stdout == before
    s.run("systemctl stop mcp-tunnel-gateway")
    s.install(debs["mcp-tunnel-gateway"])
    assert s.show(UNIT, "ActiveState")["ActiveState"] == "inactive"  # what was stopped stays so
    s.off()


def test_removal_and_purge(make_system, relay, build, debs, tunnel):
    s = make_system("purge")
    scene.know_relay(s, relay, build)
    s.boot()
    before = files(s)
    s.install(debs["mcp-tunnel-gateway"])
    s.write("/etc/mcp-tunnel/gateway.conf", scene.GATEWAY_CONF)
    scene.give_token(s, tunnel[0])
    s.run("systemctl start mcp-tunnel-gateway")
    scene.wait_ready(s)
    s.write("/etc/mcp-tunnel/gateway-b.conf", scene.GATEWAY_CONF + "health-listen = none\n")
    scene.give_token(s, tunnel[0], "gateway-b-token")
    s.run("systemctl enable mcp-tunnel-gateway@b; systemctl start mcp-tunnel-gateway@b")

    s.run("dpkg -r mcp-tunnel-gateway")
    assert s.run("pgrep mcp-tunnel", check=False).stdout == ""
    assert not s.run("ls /etc/mcp-tunnel/gateway.conf /etc/mcp-tunnel/gateway-token; ls -d /var/lib/mcp-tunnel-gateway",
                     check=False).stderr
    assert not any("/bin/mcp-tunnel" in name or "/system/mcp-tunnel" in name for name in files(s) - before)
    s.install(debs["mcp-tunnel-gateway"])
    s.run("systemctl start mcp-tunnel-gateway")
    scene.wait_ready(s)

    s.run("dpkg -P mcp-tunnel-gateway")
    assert s.run("pgrep mcp-tunnel", check=False).stdout == ""
    left = {name for name in files(s) - before if not re.match(r"/etc/\.pwd\.lock$|/etc/(g?shadow|passwd|group)-$", name)}
    assert left == set(), sorted(left)
    assert s.run("id -un mcp-tunnel").stdout == "mcp-tunnel\n"  # the account stays, so that its number is not given away
    assert s.run("systemctl is-system-running").stdout == "running\n"
    s.off()


def test_relay_purge(make_system, debs):
    s = make_system("relay2").boot()
    before = files(s)
    s.install(debs["mcp-tunnel-relay"])
    assert s.show("mcp-tunnel-relay.service", "UnitFileState", "ActiveState") == {
        "UnitFileState": "disabled", "ActiveState": "inactive"}
    s.run("umask 077; mcp-tunnel-relay tunnel add x --state-dir /var/lib/mcp-tunnel-relay")
    assert s.run("stat -c %U /var/lib/mcp-tunnel-relay/*").stdout.split() == 2 * ["mcp-tunnel-relay"]
    assert s.run("systemctl start mcp-tunnel-relay", check=False).returncode != 0
    assert "--listen" in s.messages("mcp-tunnel-relay")
    s.run("dpkg -P mcp-tunnel-relay")
    left = {name for name in files(s) - before if not re.match(r"/etc/\.pwd\.lock$|/etc/(g?shadow|passwd|group)-$", name)}
    assert left == set(), sorted(left)
    s.off()
