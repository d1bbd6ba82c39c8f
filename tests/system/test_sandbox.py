"""The units' sandboxes hold: a probe takes the place of the program and tries what should not be possible."""

import os

import pytest

from lib import scene

KILLED = "killed by SIGSYS"
WANTED = {
    "write_outside": "EROFS", "write_state": "done", "read_tmp": "ENOENT", "read_home": "EACCES",
    "read_proc_of_others": "ENOENT", "read_proc_sys": "ENOENT", "open_device": "ENOENT",
    "socket_inet": "done", "socket_unix": "done",
    "socket_packet": "EAFNOSUPPORT", "socket_vsock": "EAFNOSUPPORT", "socket_alg": "EAFNOSUPPORT",
    "map_write_execute": "EPERM", "new_namespace": "EPERM", "set_suid": "EPERM", "change_personality": "EPERM",
    "run_program": "EACCES", "run_own_file": "EACCES",
    "call_mount": KILLED, "call_reboot": KILLED, "call_setuid": KILLED, "call_ptrace": KILLED, "call_keyctl": KILLED,
    "call_sethostname": KILLED, "call_realtime": KILLED, "call_bpf": KILLED,
}


@pytest.fixture(name="system", scope="module")
def _system(make_system, build, debs):
    s = make_system("sandbox")
    s.install(debs["mcp-tunnel-gateway"], debs["mcp-tunnel-relay"])
    s.copy(os.path.join(build, "tests/probe"), "/usr/local/bin/probe")
    s.run("mkdir -m 777 /srv/open; mkdir /home/someone; echo x >/home/someone/file; chmod -R a+rX /home")
    s.boot()
    s.run("echo x >/tmp/of-others; chmod 644 /tmp/of-others")
    return s


def outcome(system, unit):
    lines = [e["MESSAGE"] for e in system.journal(unit=unit) if ": " in e["MESSAGE"]]
    return dict(line.split(": ", 1) for line in lines if line.split(":")[0] in WANTED)


def test_without_a_sandbox(system):
    """The attempts themselves work: else the other tests would prove nothing."""
    system.run(["systemd-run", "--wait", "--quiet", "--unit=free", "--property=StateDirectory=free", "/usr/local/bin/probe"])
    found = outcome(system, "free.service")
    for name in ("write_outside", "write_state", "read_tmp", "read_home", "read_proc_of_others", "read_proc_sys",
                 "socket_packet", "map_write_execute", "set_suid", "change_personality", "run_program", "run_own_file",
                 "call_mount", "call_setuid", "call_ptrace", "call_sethostname"):
        assert found[name] == "done", (name, found[name])
    assert KILLED not in found.values() and set(found) == set(WANTED)
    system.run("hostname sandbox; umount /tmp; rm /srv/open/file", check=False)


@pytest.mark.parametrize("unit, program, wanted", [
    ("mcp-tunnel-gateway.service", "mcp-tunnel-gateway", WANTED),
    ("mcp-tunnel-gateway@x.service", "mcp-tunnel-gateway", WANTED),
    ("mcp-tunnel-relay.service", "mcp-tunnel-relay", WANTED),
])
def test_sandbox(system, unit, program, wanted):
    scene.give_token(system, "mtt_x_" + 43 * "A")
    scene.give_token(system, "mtt_x_" + 43 * "A", "gateway-x-token")
    system.run("cp /usr/local/bin/probe /usr/bin/%s" % program)
    system.run("systemctl start %s" % unit, check=False)
    system.run("systemctl stop %s" % unit)
    assert outcome(system, unit) == wanted
