"""The programs under test and the two ways to a server: directly, and through the tunnel."""

import itertools
import os
import signal
import socket
from dataclasses import dataclass, field

from .procs import Process, run, wait_until
from .rawhttp import Connection

_serial = itertools.count(1)


@dataclass
class Endpoint:
    """Where a client goes: `via` is direct or tunnel, headers are what it sends besides its own, unix is a socket."""

    url: str
    via: str
    headers: dict = field(default_factory=dict)
    ca: object = None
    unix: object = None

    def pairs(self):
        return list(self.headers.items())


class Programs:
    """The built programs; missing ones are named."""

    def __init__(self, build):
        self.build = build

    def path(self, name):
        folders = {"mcp-tunnel-relay": "relay", "mcp-tunnel-gateway": "gateway", "mcp-tunnel-audit": "gateway/audit"}
        program = self.build / folders[name] / name
        assert os.access(program, os.X_OK), f"{program} is not there: build first (ninja -C {self.build})"
        return program

    @property
    def relay(self):
        return self.path("mcp-tunnel-relay")

    @property
    def gateway(self):
        return self.path("mcp-tunnel-gateway")

    @property
    def audit(self):
        return self.path("mcp-tunnel-audit")


class Relay:
    def __init__(self, programs, directory, cert, key, *options, env=None, prefix=()):
        self.programs, self.state = programs, directory / f"relay-{next(_serial)}"
        self.cert, self.key, self.options, self.env, self.prefix = cert, key, options, env, prefix
        self.state.mkdir(parents=True, mode=0o700)
        self.process, self.port = None, 0

    def command(self, *args):
        """What mcp-tunnel-relay tunnel ... or agent ... prints."""
        status, out, err = run([self.programs.relay, *args, "--state-dir", self.state])
        assert status == 0, f"mcp-tunnel-relay {' '.join(args)}: status {status}\n{out}{err}"
        return out

    def add_tunnel(self, name):
        return self.command("tunnel", "add", name).split()[-1]

    def add_agent(self, name, tunnel):
        return self.command("agent", "add", name, "--tunnel", tunnel).split()[-1]

    def start(self):
        self.process = Process(
            "relay",
            [
                *self.prefix,
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
            env=self.env,
        )
        match = self.process.wait_line(r"listening on https://127\.0\.0\.1:(\d+)")
        self.port = int(match.group(1))
        return self

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def reload_and_wait(self):
        start = self.process.mark()
        self.reload()
        self.process.wait_line("SIGHUP: tunnels and agents", 10, start)

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
    """Options in changes replace those of every test; None leaves one out. prefix: what runs the program."""

    def __init__(
        self, programs, directory, token, upstream, control_plane, ca, *options, env=None, prefix=(), **changes
    ):
        self.dir = directory / f"gateway-{next(_serial)}"
        self.dir.mkdir(parents=True)
        self.token_file, self.audit = self.dir / "token", self.dir / "audit.log"
        self.set_token(token)
        named = {
            "token-file": self.token_file,
            "mcp-server-url": upstream,
            "region": "test",
            "control-plane": control_plane,
            "ca-file": ca,
            "health-listen": "127.0.0.1:0",
            "audit": f"file:{self.audit}",
        }
        named.update({name.replace("_", "-"): value for name, value in changes.items()})
        pairs = [(f"--{name}", value) for name, value in named.items() if value is not None]
        self.argv = [*prefix, programs.gateway, *itertools.chain.from_iterable(pairs), *options]
        self.health_socket = str(named["health-listen"]).removeprefix("unix:")
        self.process, self.health_port, self.env = None, 0, env

    def set_token(self, token):
        fresh = self.token_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(token + "\n")
        fresh.replace(self.token_file)

    def start(self, wait_ready=True):
        self.process = Process("gateway", self.argv, env=self.env)
        if self.health_socket.startswith("/"):
            wait_until(self._health_listens, 15, self.process.tail)
        else:
            self.health_port = int(self.process.wait_line(r"health on http://127\.0\.0\.1:(\d+)").group(1))
        if wait_ready:
            self.wait_ready()
        return self

    def _health_listens(self):
        """The file alone is there a moment before."""
        assert self.process.running(), f"gateway ended\n{self.process.tail()}"
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.health_socket) == 0

    def ask(self, path):
        """The answer of /healthz, /readyz or /metrics."""
        unix = self.health_socket if self.health_socket.startswith("/") else None
        with Connection(f"http://127.0.0.1:{self.health_port}{path}", None, 10, unix) as connection:
            return connection.call("GET")

    def health(self, path="/readyz"):
        """(status, body)"""
        answer = self.ask(path)
        return answer.status, answer.body.decode()

    def wait_ready(self, timeout=15, status=200):
        def now():
            assert self.process.running(), f"gateway ended\n{self.process.tail()}"
            return self.health()[0] == status

        wait_until(now, timeout, lambda: f"/readyz {status}; is {self.health()}\n{self.process.tail()}")

    def stop(self):
        status = self.process.stop(40)
        self.process.assert_no_sanitizer_report()
        assert status == 0, f"gateway: exit status {status} after SIGTERM\n{self.process.tail()}"
