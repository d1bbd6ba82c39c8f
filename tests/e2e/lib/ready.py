"""A tunnel whose every part can be put out of order, and a look at whether what the gateway says of itself is true."""

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time

from .procs import wait_until
from .rawhttp import JSON_HEADERS, Connection, rpc
from .tunnel import Gateway, Relay

NAME = "relay.example"  # of the relay's certificate, besides localhost: no loopback host, so that proxies are used
CALL = rpc("tools/list")
HOLD = 1  # seconds that a call waits for a gateway


class Listener:
    """A server on a port that stays the same while it is closed and opened; each connection has a thread."""

    def __init__(self):
        self.sock, self.open, self.lock = None, [], threading.Lock()
        self.port = 0
        self.start()

    def start(self):
        self.sock = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.sock,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                self.open.append(sock)
            threading.Thread(target=self._guarded, args=(sock,), daemon=True).start()

    def _guarded(self, sock):
        try:
            self.serve(sock)
        except OSError:
            pass
        finally:
            sock.close()

    def cut(self):
        """Resets what is open."""
        with self.lock:
            for sock in self.open:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    sock.shutdown(socket.SHUT_RD)
                except OSError:
                    pass
                sock.close()
            self.open.clear()

    def stop(self):
        """Nobody listens: connections are refused."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()
        self.cut()


class Server(Listener):
    """An MCP server. mode: answer, silent, garbage, close, wait (calls are answered when `go` is set, others at once)."""

    def __init__(self):
        self.mode, self.go, self.waiting = "answer", threading.Event(), 0
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}/mcp"

    def stop(self):
        self.go.set()
        super().stop()

    def serve(self, sock):
        with sock.makefile("rb") as stream:
            while line := stream.readline():
                length = 0
                while (field := stream.readline()) not in (b"\r\n", b""):
                    if field.lower().startswith(b"content-length:"):
                        length = int(field.split(b":")[1])
                stream.read(length)
                if self.mode == "close":
                    return
                if self.mode == "garbage":
                    sock.sendall(b"\x16\x03\x01 what is this?\r\n\r\n")
                    return
                if self.mode == "silent":
                    stream.read(1)
                    return
                if self.mode == "wait" and line.startswith(b"POST"):
                    self.waiting += 1
                    self.go.wait(60)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


class Wire(Listener):
    """Between the gateway and the relay. Silent: takes connections, and says and passes on nothing."""

    def __init__(self, target):
        self.target, self.passes = target, threading.Event()
        self.passes.set()
        super().__init__()

    def serve(self, sock):
        self.passes.wait(60)
        with socket.create_connection(("127.0.0.1", self.target()), 10) as far:
            far.settimeout(None)
            with self.lock:
                self.open.append(far)
            threading.Thread(target=self._pump, args=(far, sock), daemon=True).start()
            self._pump(sock, far)

    def _pump(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Proxy(Wire):
    """answer: what CONNECT gets; 200 leads to the target."""

    answer = b"200 OK"

    def serve(self, sock):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        sock.sendall(b"HTTP/1.1 %s\r\n\r\n" % self.answer)
        if self.answer.startswith(b"200"):
            super().serve(sock)


class Systemd:
    """The last STATUS that was told."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.status = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                text = self.sock.recv(65536).decode()
            except OSError:
                return
            if match := re.search(r"^STATUS=(.*)$", text, re.M):
                self.status = match.group(1)


class World:
    """Everything is made at first use, and stopped in the end."""

    def __init__(self, programs, work, certs, certificate):
        self.programs, self.certs, self.certificate = programs, certs, certificate
        self.dir = work / f"ready-{threading.get_ident()}-{time.monotonic_ns()}"
        self.dir.mkdir()
        self.made, self.gateways, self.mounts = [], [], []
        self.server = self.keep(Server())
        self.relay = self.wire = self.token = self.key = None

    def keep(self, it):
        self.made.append(it)
        return it

    def start_relay(self, *options, hold=HOLD):
        options = ("--hold", f"{hold}s", "--audit", "none", *options)
        self.relay = Relay(self.programs, self.dir, *self.certificate, *options)
        self.token = self.relay.add_tunnel("own")
        self.key = self.relay.add_agent("agent", "own")
        self.relay.start()
        self.wire = self.keep(Wire(lambda: self.relay.port))
        return self

    def start_gateway(self, *options, audit=None, prefix=(), **changes):
        changes.setdefault("control_plane", f"wss://localhost:{self.wire.port}/v1/tunnel")
        changes.setdefault("upstream", self.server.url)
        changes.setdefault("ca", self.certs.ca.cert)
        changes.setdefault("token", self.token)
        named = {name: changes.pop(name) for name in ("token", "upstream", "control_plane", "ca")}
        if audit:
            changes["audit"] = audit
        gateway = Gateway(self.programs, self.dir, *named.values(), *options, prefix=prefix, **changes)
        gateway.systemd = Systemd(gateway.dir)
        gateway.env = {"NOTIFY_SOCKET": gateway.systemd.path}
        self.gateways.append(gateway)
        return gateway.start(wait_ready=False)

    @property
    def gateway(self):
        return self.gateways[-1]

    def small_disk(self):
        directory = self.dir / "disk"
        directory.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], check=True)
        self.mounts.append(directory)
        return directory

    def call(self):
        """None: it got through; else how it did not."""
        headers = [*JSON_HEADERS, ("Authorization", f"Bearer {self.key}")]
        try:
            with Connection(self.relay.url("own"), self.certs.ca.cert) as connection:
                answer = connection.call("POST", headers, CALL)
        except OSError as error:
            return repr(error)
        except Exception as error:  # cut in the middle
            return repr(error)
        return None if answer.status == 200 else f"{answer.status} {answer.body.decode()}"

    @contextlib.contextmanager
    def calls_under_way(self, n=1):
        """So many calls that the server does not answer meanwhile; afterwards each gets its answer. Yields their threads."""
        ended = []
        threads = [threading.Thread(target=lambda: ended.append(self.call())) for _ in range(n)]
        self.server.mode = "wait"
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: self.server.waiting == n, 10, f"{n} calls under way")
            yield threads
        finally:
            self.server.mode = "answer"
            self.server.go.set()
            for thread in threads:
                thread.join()
        assert ended == [None] * n, ended

    def expect(self, check=None, reason=None, timeout=15):
        """Waits until the gateway says so (check None: ready), and finds it true by a call. Gives the check."""
        gateway, said = self.gateway, {}

        def says():
            status, body = gateway.health()
            said.update(json.loads(body))
            bad = [name for name, it in said["checks"].items() if not it["ok"]]
            assert (status == 200) == said["ready"] == (not bad), body
            if check is None:
                return status == 200
            return status == 503 and check in bad and re.fullmatch(reason, said["checks"][check]["reason"])

        wait_until(says, timeout, lambda: f"wanted {check or 'ready'} {reason or ''}, is {json.dumps(said)}\n{gateway.process.tail()}")
        failed = self.call()
        assert (failed is None) == said["ready"], f"said {json.dumps(said)}, and the call: {failed}\n{gateway.process.tail()}"
        for name, it in said["checks"].items():
            assert set(it) == {"ok", "reason", "detail", "age_s"} and it["age_s"] >= 0 and it["reason"], (name, it)
            assert it["ok"] or it["detail"] or name == "running", (name, it)
        self.expect_words(said)
        return said["checks"][check] if check else said

    def expect_words(self, said):
        """systemd and Prometheus are told the same."""
        begins = "Ready" if said["ready"] else "(Not ready|Stopping)"
        status = self.gateway.systemd
        wait_until(lambda: re.match(begins, status.status), 5, lambda: f"STATUS={status.status}, and {said}")
        metrics = self.gateway.ask("/metrics").body.decode()
        assert f"\nmcp_tunnel_gateway_ready {int(said['ready'])}\n" in metrics, said

    def close(self):
        failures = []
        for it in [*reversed(self.gateways), *reversed(self.made), self.relay]:
            try:
                if it:
                    it.stop()
            except AssertionError as error:
                failures.append(str(error))
        for gateway in self.gateways:
            gateway.systemd.sock.close()
        for directory in self.mounts:
            subprocess.run(["umount", "-l", directory], check=False)
        assert not failures, "\n".join(failures)


def fill(directory):
    """Leaves no room; gives the file that takes it."""
    filler = directory / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
        for size in (4096, 1):
            try:
                while True:
                    os.write(file.fileno(), bytes(size))
            except OSError:
                pass
    return filler
