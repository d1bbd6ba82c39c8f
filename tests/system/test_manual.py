"""The EXAMPLES of the manual pages, executed as they stand in a system that has a relay, a gateway and an MCP server."""

import os
import re

import pytest

from conftest import ROOT
from lib import scene

PROGRAM = re.compile(r"^(mcp-tunnel-(?:relay|gateway) --(?:[^\n]|\\\n)*[^\\\n])$", re.M)


def unescaped(text):
    text = re.sub(r"^\\&", "", text, flags=re.M)
    return text.replace("\\-", "-").replace("\\e", "\\").replace("\\(aq", "'").replace("\\(dq", '"')


def examples(page):
    """The blocks between .EX and .EE of the section EXAMPLES."""
    with open(os.path.join(ROOT, "man", page), encoding="utf-8") as f:
        section = f.read().split(".SH EXAMPLES\n")[1].split("\n.SH ")[0]
    return [unescaped(block) for block in re.findall(r"^\.EX\n(.*?)^\.EE$", section, re.M | re.S)]


@pytest.fixture(name="system", scope="module")
def _system(make_system, build, debs, certificate):
    s = make_system("manual")
    s.write("/etc/hosts", "127.0.0.1 localhost relay.example.com\n")
    s.copy(certificate[0], "/root/fullchain.pem", 0o644)
    s.copy(certificate[1], "/root/privkey.pem", 0o600)
    s.copy(certificate[0], "/usr/local/share/ca-certificates/relay.crt", 0o644)
    s.run("update-ca-certificates 2>&1")
    s.copy(os.path.join(build, "contrib/quickstart/sample-mcp-server"), "/usr/local/bin/sample-mcp-server")
    s.install(debs["mcp-tunnel-relay"], debs["mcp-tunnel-gateway"])
    s.boot()
    s.run("systemd-run --quiet /usr/local/bin/sample-mcp-server")
    return s


def execute(system, block):
    """Daemons in the foreground go on in the background; the others get a moment to see them."""
    script = PROGRAM.sub(r"{ \1 & } >>/root/daemons 2>&1; sleep 1", block)
    return system.run(["bash", "-eo", "pipefail", "-c", "cd /root\n" + script], timeout=60)


def end_daemons(system):
    system.run("pkill -x mcp-tunnel-rela; pkill -x mcp-tunnel-gate; while pgrep -x 'mcp-tunnel-(rela|gate)'; do sleep 0.1; done",
               check=False)


def test_every_page_has_examples():
    for page in sorted(os.listdir(os.path.join(ROOT, "man"))):
        assert not re.search(r"\.\d$", page) or examples(page), page


def test_by_hand(system):
    execute(system, examples("mcp-tunnel-relay.8")[0])
    said = execute(system, examples("mcp-tunnel-gateway.8")[0]).stdout
    assert '"ready":true' in said.replace(" ", ""), said + system.read("/root/daemons")
    end_daemons(system)


def test_as_a_service(system):
    s = system
    execute(s, examples("mcp-tunnel-relay.8")[1])
    assert s.show("mcp-tunnel-relay.service", "ActiveState", "UnitFileState") == {
        "ActiveState": "active", "UnitFileState": "enabled"}
    s.write("/etc/mcp-tunnel/gateway.conf", examples("mcp-tunnel-gateway.conf.5")[0])
    said = execute(s, examples("mcp-tunnel-gateway.8")[1]).stdout
    assert "Active: active" in said
    scene.wait_ready(s)
    token = s.read("/root/lab.token")
    assert token.startswith("mtt_lab_")
    block = examples("mcp-tunnel-gateway.8")[2]
    execute(s, block.replace("\ncurl", "\nsleep 1; curl"))
    scene.wait_ready(s, 9465)
    assert s.show("mcp-tunnel-gateway@lab.service", "ActiveState")["ActiveState"] == "active"


def test_new_token(system):
    said = execute(system, examples("mcp-tunnel-relay.8")[2])
    assert re.search(r"^TUNNEL .*^prod +2 ", said.stdout, re.M | re.S), said.stdout
    scene.wait_ready(system)
    # The relay learns of the old one's end by itself.
    system.wait("mcp-tunnel-relay status | grep -E '^prod +1 .* newest '", 15)


def test_call_with_what_the_examples_made(system):
    """The agent's key of the relay's page, through the services."""
    body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}'
    said = system.run(["sh", "-c", "curl -s https://relay.example.com/t/prod/mcp -H 'Content-Type: application/json' "
                       "-H 'Accept: application/json, text/event-stream' -H \"Authorization: Bearer $(cat /root/alice.key)\" "
                       "-d '%s'" % body]).stdout
    assert "hello" in said


def test_check_beside_running_services(system):
    for name, more in (("gateway", "--token-file /etc/mcp-tunnel/gateway-token"),
                       ("relay", "--state-dir /var/lib/mcp-tunnel-relay")):
        assert system.show("mcp-tunnel-%s.service" % name, "ActiveState")["ActiveState"] == "active"
        assert system.run("mcp-tunnel-%s --check-config %s" % (name, more)).stdout == "configuration is good\n"


def test_doctor_beside_running_services(system):
    for page in ("mcp-tunnel-relay.8", "mcp-tunnel-gateway.8"):
        before = system.run("find /var/lib/mcp-tunnel* ! -name '*.sock' -printf '%p %u %m\\n' | sort").stdout
        done = system.run(["bash", "-ec", next(b for b in examples(page) if "--doctor" in b)], check=False)
        # The certificate of the tests has a day, and nobody calls the tunnel lab.
        warned = set(re.findall(r"^warning  (\w+ ?\w+) ", done.stdout, re.M))
        assert done.returncode == 1 and warned <= {"tls files", "tls", "tunnels"}, done.stdout + done.stderr
        assert "ok       running         ready" in done.stdout and re.search(r"^0 failed, ", done.stdout, re.M), done.stdout
        assert system.run("find /var/lib/mcp-tunnel* ! -name '*.sock' -printf '%p %u %m\\n' | sort").stdout == before


def test_configuration_files(system):
    system.run("umask 077; echo 'Bearer abc' >/etc/mcp-tunnel/docs-authorization")
    for i, text in enumerate(examples("mcp-tunnel-gateway.conf.5")):
        system.write("/root/example-%d.conf" % i, text)
        said = system.run("mcp-tunnel-gateway --config /root/example-%d.conf --token-file /etc/mcp-tunnel/gateway-token "
                          "--check-config" % i).stdout
        assert said == "configuration is good\n"


def test_protocol(system):
    assert execute(system, examples("mcp-tunnel-protocol.7")[0]).stdout == "401\n"


def test_audit_of_the_journal(system):
    """What the services have written is whole."""
    if not any("MCP_CHAIN" in e for e in system.journal("MCP_EVENT=call.request")):
        pytest.skip("the gateway's records have no chain")
    said = execute(system, examples("mcp-tunnel-audit.1")[0])
    assert "whole" in said.stdout, said.stdout


@pytest.mark.parametrize("shell_name", ["bash"])
def test_completion(system, shell_name):
    def complete(*words):
        line = "COMP_WORDS=(%s); COMP_CWORD=%d; _%s; echo ${COMPREPLY[@]}" % (
            " ".join("'%s'" % w for w in words), len(words) - 1, words[0].replace("-", "_"))
        return system.run([shell_name, "-c", ". /usr/share/bash-completion/completions/%s; %s" % (words[0], line)]).stdout.split()

    assert complete("mcp-tunnel-gateway", "--token") == ["--token-file"]
    assert complete("mcp-tunnel-gateway", "--log-level", "de") == ["debug"]
    assert complete("mcp-tunnel-gateway", "--config", "/etc/mcp-tunnel/gateway.c") == ["/etc/mcp-tunnel/gateway.conf"]
    assert complete("mcp-tunnel-relay", "tunnel", "ro") == ["rotate"]
    offered = set(complete("mcp-tunnel-gateway", "--"))
    told = set(re.findall(r"^  (--[a-z0-9-]+)", system.run("mcp-tunnel-gateway --help").stdout, re.M))
    assert offered == told
