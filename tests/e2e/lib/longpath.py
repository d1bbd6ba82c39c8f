"""The whole product over a wire: relay and agents in namespace a, gateway and MCP server in namespace b."""

import contextlib
import json
import os
import pathlib
import re
import time

from . import netem, netns
from .certs import Authority
from .procs import Process, run, wait_until
from .rawhttp import JSON_HEADERS, Connection, rpc

TUNNEL = "path"


class Path:
    """A context manager. build is the build directory, directory a scratch one, options those of netem.Netem."""

    def __init__(self, build, directory, relay_options=(), gateway_options=(), **options):
        self.build, self.dir = pathlib.Path(build), pathlib.Path(directory)
        self.relay_options, self.gateway_options = relay_options, gateway_options
        self.options, self.stack = options, contextlib.ExitStack()
        self.relay = self.gateway = self.server = None

    def __enter__(self):
        try:
            self.net = self.stack.enter_context(netem.wire(self.build, **self.options))
            self._start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _program(self, namespace, name, folder, *argv, env=None):
        program = Process(name, namespace.argv([self.build / folder / name, *argv]), env=env)
        self.stack.callback(program.kill)
        return program

    def _start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        self.state = self.dir / "state"
        self.state.mkdir(mode=0o700)
        ca = Authority(self.dir, "ca")
        cert, key = ca.issue("server", san=f"DNS:localhost,IP:{self.net.a_addr}")
        self.token = self._relay_command("tunnel", "add", TUNNEL)
        self.key = self._relay_command("agent", "add", "agent", "--tunnel", TUNNEL)
        listen = ["--listen", "http://127.0.0.1:0", "--listen", f"https://{self.net.a_addr}:0"]
        listen += ["--admin-listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key]
        self.relay = self._program(
            self.net.a, "mcp-tunnel-relay", "relay", *listen, "--state-dir", self.state, *self.relay_options
        )
        self.agent_port = self._port(self.relay, r"listening on http://127\.0\.0\.1:(\d+)")
        self.tunnel_port = self._port(self.relay, rf"listening on https://{re.escape(self.net.a_addr)}:(\d+)")
        self.admin_port = self._port(self.relay, r"(?:health|admin|metrics) on http://127\.0\.0\.1:(\d+)")
        self.server = self._program(
            self.net.b, "sample-mcp-server", "contrib/quickstart", "--listen", "127.0.0.1:0"
        )
        self.upstream = self.server.wait_line(r"listening on (http://\S+)").group(1)
        self.ca = ca.cert
        self.start_gateway()

    @staticmethod
    def _port(process, pattern):
        return int(process.wait_line(pattern).group(1))

    def start_gateway(self):
        token = self.dir / "token"
        token.touch(mode=0o600)
        token.write_text(self.token + "\n")
        argv = ["--token-file", token, "--mcp-server-url", self.upstream, "--region", "test", "--ca-file", self.ca]
        argv += ["--control-plane", f"wss://{self.net.a_addr}:{self.tunnel_port}/v1/tunnel"]
        argv += ["--health-listen", "127.0.0.1:0", "--audit", "none", *self.gateway_options]
        self.gateway = self._program(self.net.b, "mcp-tunnel-gateway", "gateway", *argv)
        self.health_port = self._port(self.gateway, r"health on http://127\.0\.0\.1:(\d+)")
        wait_until(lambda: self.get(self.net.b, self.health_port, "/readyz")[0] == 200, 30, self.gateway.tail)

    def _relay_command(self, *args):
        status, out, err = run([self.build / "relay/mcp-tunnel-relay", *args, "--state-dir", self.state])
        assert status == 0, f"mcp-tunnel-relay {' '.join(args)}: status {status}\n{out}{err}"
        return out.split()[-1]

    @staticmethod
    def get(namespace, port, path):
        """(status, body) of a local page in that namespace."""
        with namespace.call(Connection, f"http://127.0.0.1:{port}{path}", None, 10) as connection:
            response = connection.call("GET")
            return response.status, response.body.decode()

    def metrics(self, who):
        """Name and value of every sample without labels; those with labels by their whole name. who: relay, gateway."""
        at = (self.net.a, self.admin_port) if who == "relay" else (self.net.b, self.health_port)
        lines = [line.rsplit(" ", 1) for line in self.get(*at, "/metrics")[1].splitlines() if line[:1] != "#"]
        return {name: float(value) for name, value in (line for line in lines if len(line) == 2)}

    def agent(self, timeout=60):
        """A connection of an agent to the relay."""
        return self.net.a.call(Connection, f"http://127.0.0.1:{self.agent_port}/t/{TUNNEL}/mcp", None, timeout)

    def headers(self):
        return [("Authorization", f"Bearer {self.key}"), *JSON_HEADERS]

    def request(self, connection, tool, ident=1, **arguments):
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": f"p{ident}"}}
        connection.request("POST", self.headers(), rpc("tools/call", params, ident))

    def echo(self, connection, text, ident=1):
        """One small call; gives how long it took."""
        start = time.monotonic()
        self.request(connection, "echo", ident, text=text)
        response = connection.read(connection.head())
        assert response.status == 200, f"{response.status} {response.body[:300]!r}"
        assert json.loads(response.body)["result"]["content"][0]["text"] == text
        return time.monotonic() - start


class Wire(netns.Network):
    """The network of a lab (lab.py): a wire instead of cables, gateway and relay alone."""

    def __init__(self, **options):
        self.build, self.options, self.wire = os.environ["E2E_BUILD"], options, None
        super().__init__()

    def _make(self):
        for role in ("gateway", "relay"):
            self.parts.append(netns.Namespace(role))
        self.gateway, self.relay = self.parts
        # The relay's address is the one that its certificate names.
        net, host = netns.RELAY_ADDR.rsplit(".", 1)
        assert host == "2"
        self.wire = netem.Netem(self.build, self.gateway, self.relay, net, **self.options).__enter__()

    def remove(self):
        if self.wire:
            self.wire.__exit__()
            self.wire = None
        super().remove()


def private_dirty_kb(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Private_Dirty:\s+(\d+)", text, re.M).group(1))


def descriptors(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
