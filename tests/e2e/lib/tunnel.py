"""The programs under test and the two ways to a server: directly, and through the tunnel."""

import http.client
import itertools
import os
import signal
from dataclasses import dataclass, field

from .procs import Process, run, wait_until

_serial = itertools.count(1)


@dataclass
class Endpoint:
    """Where a client goes: `via` is direct or tunnel, headers are what it sends besides its own."""

    url: str
    via: str
    headers: dict = field(default_factory=dict)
    ca: object = None

    def pairs(self):
        return list(self.headers.items())


class Programs:
    """The built programs; missing ones are named."""

    def __init__(self, build):
        self.build = build

    def path(self, name):
        program = self.build / {"mcp-tunnel-relay": "relay", "mcp-tunnel-gateway": "gateway"}[name] / name
        assert os.access(program, os.X_OK), f"{program} is not there: build first (ninja -C {self.build})"
        return program

    @property
    def relay(self):
        return self.path("mcp-tunnel-relay")

    @property
    def gateway(self):
        return self.path("mcp-tunnel-gateway")


class Relay:
    def __init__(self, programs, directory, cert, key, *options):
        self.programs, self.state = programs, directory / f"relay-{next(_serial)}"
        self.cert, self.key, self.options = cert, key, options
        self.state.mkdir(parents=True, mode=0o700)
        self.process, self.port = None, 0

    def _command(self, *args):
        status, out, err = run([self.programs.relay, *args, "--state-dir", self.state])
        assert status == 0, f"mcp-tunnel-relay {' '.join(args)}: status {status}\n{out}{err}"
        return out.split()[-1]

    def add_tunnel(self, name):
        return self._command("tunnel", "add", name)

    def add_agent(self, name, tunnel):
        return self._command("agent", "add", name, "--tunnel", tunnel)

    def start(self):
        self.process = Process(
            "relay",
            [
                self.programs.relay,
                "--listen",
                f"https://127.0.0.1:{self.port}",
                "--tls-cert",
                self.cert,
                "--tls-key",
                self.key,
                "--state-dir",
                self.state,
                *self.options,
            ],
        )
        match = self.process.wait_line(r"listening on https://127\.0\.0\.1:(\d+)")
        self.port = int(match.group(1))
        return self

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def url(self, tunnel):
        return f"https://localhost:{self.port}/t/{tunnel}/mcp"

    @property
    def control_plane(self):
        return f"wss://localhost:{self.port}/v1/tunnel"

    def stop(self):
        status = self.process.stop(40)
        self.process.assert_no_sanitizer_report()
        assert status == 0, f"relay: exit status {status} after SIGTERM\n{self.process.tail()}"


class Gateway:
    def __init__(self, programs, directory, token, upstream, control_plane, ca, *options):
        self.dir = directory / f"gateway-{next(_serial)}"
        self.dir.mkdir(parents=True)
        self.token_file, self.audit = self.dir / "token", self.dir / "audit.log"
        self.set_token(token)
        self.argv = [
            programs.gateway,
            "--token-file",
            self.token_file,
            "--mcp-server-url",
            upstream,
            "--region",
            "test",
            "--control-plane",
            control_plane,
            "--ca-file",
            ca,
            "--health-listen",
            "127.0.0.1:0",
            "--audit",
            f"file:{self.audit}",
            *options,
        ]
        self.process, self.health_port = None, 0

    def set_token(self, token):
        fresh = self.token_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(token + "\n")
        fresh.replace(self.token_file)

    def start(self, wait_ready=True):
        self.process = Process("gateway", self.argv)
        self.health_port = int(self.process.wait_line(r"health on http://127\.0\.0\.1:(\d+)").group(1))
        if wait_ready:
            self.wait_ready()
        return self

    def health(self, path="/readyz"):
        """(status, body)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def wait_ready(self, timeout=15, status=200):
        def now():
            assert self.process.running(), f"gateway ended\n{self.process.tail()}"
            return self.health()[0] == status

        wait_until(now, timeout, lambda: f"/readyz {status}; is {self.health()}\n{self.process.tail()}")

    def stop(self):
        status = self.process.stop(40)
        self.process.assert_no_sanitizer_report()
        assert status == 0, f"gateway: exit status {status} after SIGTERM\n{self.process.tail()}"
