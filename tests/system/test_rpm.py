"""The .rpm, by `rpm --root` into a Debian root: its scriptlets, its unit, what it says of itself, how it goes."""

import os
import re
import shutil

import pytest

from lib import scene, shell
from lib.scene import UNIT


@pytest.fixture(name="system", scope="module")
def _system(make_system, rpms):
    if not shutil.which("rpm"):
        pytest.skip("rpm is missing: install it")
    return make_system("rpm")


def rpm(system, *words, check=True):
    """Scriptlets run in the root; where the system is booted, in the system."""
    return shell.run(["rpm", "--root", system.root] + list(words), check)


def complaints(said):
    """Without what Debian's rpm says each time, and the names of new accounts."""
    return [line for line in said.stderr.splitlines() if not re.match(r"rpm: |Creating (user|group) ", line)]


def test_life_of_the_package(system, rpms, relay, build):
    s = system
    scene.know_relay(s, relay, build)
    said = rpm(s, "-i", "--nodeps", rpms["mcp-tunnel-gateway"])
    assert "put the tunnel's token into /etc/mcp-tunnel/gateway-token" in said.stdout
    assert not complaints(said)
    assert s.run("id -un mcp-tunnel").stdout == "mcp-tunnel\n"
    assert rpm(s, "-V", "--nodeps", "mcp-tunnel-gateway").stdout == ""

    token, key = relay.add("rpm")
    s.write("/etc/mcp-tunnel/gateway.conf", scene.GATEWAY_CONF)
    scene.give_token(s, token)
    s.boot()
    assert s.show(UNIT, "ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    scene.wait_ready(s)
    relay.call("rpm", key)
    changed = rpm(s, "-V", "--nodeps", "mcp-tunnel-gateway", check=False).stdout
    assert [line.split()[1:] for line in changed.splitlines()] == [["c", "/etc/mcp-tunnel/gateway.conf"]]

    s.off()
    assert complaints(rpm(s, "-e", "mcp-tunnel-gateway")) == [
        "warning: /etc/mcp-tunnel/gateway.conf saved as /etc/mcp-tunnel/gateway.conf.rpmsave"]
    assert not os.path.exists(s.path("/usr/bin/mcp-tunnel-gateway"))
    assert not os.path.lexists(s.path("/etc/systemd/system/multi-user.target.wants/mcp-tunnel-gateway.service"))
    assert os.path.exists(s.path("/etc/mcp-tunnel/gateway.conf.rpmsave"))


def test_relay(system, rpms):
    rpm(system, "-i", "--nodeps", rpms["mcp-tunnel-relay"])
    assert rpm(system, "-V", "--nodeps", "mcp-tunnel-relay").stdout == ""
    system.boot()
    assert system.run("stat -c %U:%a /var/lib/mcp-tunnel-relay").stdout == "mcp-tunnel-relay:700\n"
    assert not os.path.lexists(system.path("/etc/systemd/system/multi-user.target.wants/mcp-tunnel-relay.service"))
    system.off()
    rpm(system, "-e", "mcp-tunnel-relay")
    assert not os.path.exists(system.path("/usr/bin/mcp-tunnel-relay"))
