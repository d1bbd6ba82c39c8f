"""A relay in one system; a gateway and an MCP server in another; an agent that calls."""

import json
import os
import subprocess
import sys

from . import shell

HERE = os.path.dirname(os.path.abspath(__file__))
NAME = "relay.example.com"
UNIT = "mcp-tunnel-gateway.service"
RELAY_CONF = """[relay]
listen = https://0.0.0.0:443
tls-cert = /etc/mcp-tunnel/relay-cert.pem
tls-key = /etc/mcp-tunnel/relay-key.pem
public-url = https://relay.example.com
"""
GATEWAY_CONF = """[gateway]
control-plane = wss://relay.example.com/v1/tunnel
ca-file = /etc/mcp-tunnel/relay-ca.pem
mcp-server-url = http://127.0.0.1:9000/mcp
"""


def make_certificate(directory):
    """(certificate, key) of the relay, signed by itself."""
    cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    shell.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
               "-keyout", key, "-out", cert, "-subj", "/CN=" + NAME,
               "-addext", "subjectAltName=DNS:" + NAME])
    return cert, key


class Relay:
    def __init__(self, system, package, certificate):
        self.system, self.cert = system, certificate[0]
        system.install(package)
        system.copy(certificate[0], "/etc/mcp-tunnel/relay-cert.pem", 0o644)
        system.copy(certificate[1], "/etc/mcp-tunnel/relay-key.pem", 0o640)
        system.run("chgrp mcp-tunnel-relay /etc/mcp-tunnel/relay-key.pem")
        system.write("/etc/mcp-tunnel/relay.conf", RELAY_CONF)
        system.boot()
        system.run("systemctl start mcp-tunnel-relay")

    def command(self, words):
        said = self.system.run("umask 077; mcp-tunnel-relay %s --state-dir /var/lib/mcp-tunnel-relay" % words).stdout.strip()
        self.system.run("systemctl reload mcp-tunnel-relay")
        return said

    def add(self, tunnel):
        """(token, agent's key)"""
        token = self.command("tunnel add " + tunnel)
        return token, self.command("agent add alice --tunnel " + tunnel)

    def agent(self, tunnel, key, **more):
        words = [sys.executable, os.path.join(HERE, "agent.py"), "--url", "https://%s/t/%s/mcp" % (NAME, tunnel),
                 "--key", key, "--ca", self.cert, "--resolve", self.system.address]
        for option, value in more.items():
            words += ["--" + option.replace("_", "-"), str(value)]
        return self.system.outside(words)

    def call(self, tunnel, key, **more):
        """Calls that all have to succeed; how many, and how long the slowest took."""
        result = json.loads(shell.run(self.agent(tunnel, key, **more), timeout=120).stdout)
        assert not result["bad"], result["bad"][:5]
        return result

    def start_calls(self, tunnel, key, **more):
        return subprocess.Popen(self.agent(tunnel, key, **more), stdout=subprocess.PIPE, text=True)


def finish_calls(process):
    """What call() gives, of start_calls()."""
    result = json.loads(process.communicate(timeout=120)[0])
    assert not result["bad"], (len(result["bad"]), result["good"], result["bad"][:5])
    return result


def know_relay(system, relay, build):
    """Name and certificate of the relay, and an MCP server on port 9000 that starts with the system."""
    system.write("/etc/hosts", "127.0.0.1 localhost\n%s %s\n" % (relay.system.address, NAME))
    system.copy(relay.cert, "/etc/mcp-tunnel/relay-ca.pem", 0o644)
    system.copy(os.path.join(build, "contrib/quickstart/sample-mcp-server"), "/usr/local/bin/sample-mcp-server")
    system.write("/etc/systemd/system/mcp-server.service",
                 "[Service]\nExecStart=/usr/local/bin/sample-mcp-server\nDynamicUser=yes\nStandardOutput=null\n"
                 "[Install]\nWantedBy=multi-user.target\n")
    system.run("systemctl enable mcp-server 2>&1")


def give_token(system, token, name="gateway-token"):
    system.write("/etc/mcp-tunnel/" + name, token + "\n", 0o600)


def wait_ready(system, port=9464, seconds=30):
    system.wait("curl -sf http://127.0.0.1:%d/readyz" % port, seconds)


def make_gateway(system, relay, build, package, token):
    """Installed and configured, booted and ready."""
    know_relay(system, relay, build)
    system.install(package)
    system.write("/etc/mcp-tunnel/gateway.conf", GATEWAY_CONF)
    give_token(system, token)
    system.boot()
    wait_ready(system)
    return system
