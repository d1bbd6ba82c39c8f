"""The ways to the sample server that are compared. Each starts its programs on loopback and ends them by pid."""
import contextlib
import http.client
import json
import os
import pathlib
import pwd
import re
import shutil
import socket
import subprocess
import time
import urllib.parse

READY_WITHIN_S = 15


class Failed(Exception):
    """Something did not start or did not answer; the text is for people."""


class Program:
    """A child process that writes to a log file."""

    def __init__(self, name, argv, log, stdin=subprocess.DEVNULL):
        self.name = name
        self.log = pathlib.Path(log)
        with open(self.log, "wb") as out:
            self.proc = subprocess.Popen([str(a) for a in argv], stdin=stdin, stdout=out, stderr=out)
        self.pid = self.proc.pid

    def wait_for(self, pattern):
        """The first match of pattern in the log."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            found = re.search(pattern, self.log.read_text(errors="replace"))
            if found:
                return found
            if self.proc.poll() is not None:
                break
            time.sleep(0.001)
        raise Failed(f"{self.name} did not get ready; its last words:\n{self.last_words()}")

    def last_words(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def stop(self):
        if self.proc.stdin:
            self.proc.stdin.close()
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()
        self.proc.wait()


def run(*argv):
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{argv[0]} failed:\n{done.stderr.strip()}")
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def descendants(pid, name):
    """Those below a process that run the program `name`."""
    below = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, tail = stat.read_text().rpartition(")")
            below.setdefault(int(tail.split()[1]), []).append((int(stat.parent.name), head.partition("(")[2]))
    found, todo = [], [pid]
    while todo:
        kids = [kid for kid, comm in below.get(todo.pop(), []) if comm == name]
        found += kids
        todo += kids
    return found


def small_call(url, key):
    """One echo call, checked."""
    parts = urllib.parse.urlsplit(url)
    params = {"name": "echo", "arguments": {"text": "q"}}
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    conn = http.client.HTTPConnection(parts.hostname, parts.port, timeout=READY_WITHIN_S)
    conn.request("POST", parts.path, json.dumps(message), headers)
    answer = conn.getresponse()
    body = answer.read()
    conn.close()
    if answer.status != 200 or json.loads(body)["result"]["content"][0]["text"] != "q":
        raise Failed(f"POST {url}: {answer.status} {body[:200]!r}")


class Way:
    """Common part: `url` and `key` for the caller, `pids` of what it costs, start() and stop()."""

    key = ""

    def __init__(self, directory, upstream):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(exist_ok=True)
        self.upstream = upstream
        self.programs = []
        self.start_ms = None

    def program(self, name, *argv, stdin=subprocess.DEVNULL):
        p = Program(name, argv, self.dir / f"{name}.log", stdin)
        self.programs.append(p)
        return p

    def pids(self):
        return [p.pid for p in self.programs]

    def between_runs(self):
        pass

    gateway_pid = None

    def stop(self):
        for p in reversed(self.programs):
            p.stop()
        self.programs = []


class Direct(Way):
    name = "direct"

    def start(self):
        self.url = self.upstream

    def sizes(self):
        return {}


class Ssh(Way):
    """ssh -R: the client is beside the server, as the gateway is; sshd listens for the callers, as the relay does.

    A remote command (cat, which waits) instead of -N, in favour of OpenSSH: it sets TCP_NODELAY only for a connection
    that has a session, and without one the 40 ms of delayed acknowledgements are in its latency.
    """

    name = "ssh"
    cipher = None
    session = True

    def _keys(self):
        for key in ("host_key", "user_key"):
            if not (self.dir / key).exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.dir / key)
        shutil.copy(self.dir / "user_key.pub", self.dir / "authorized_keys")

    def _sshd(self, port):
        config = self.dir / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.dir}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.dir}/authorized_keys\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nAllowTcpForwarding yes\nLogLevel INFO\n")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        path = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        sshd = self.program("sshd", path, "-D", "-e", "-f", config)
        sshd.wait_for(r"Server listening")
        host_key = (self.dir / "host_key.pub").read_text()
        (self.dir / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        return sshd

    def _ssh(self, port):
        up = urllib.parse.urlsplit(self.upstream)
        options = ["ExitOnForwardFailure=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={self.dir}/known_hosts",
                   "StrictHostKeyChecking=yes", "BatchMode=yes", "ServerAliveInterval=20"]
        if self.cipher:
            options.append(f"Ciphers={self.cipher}")
        began = time.monotonic()
        what = ["cat"] if self.session else []
        ssh = self.program("ssh", "ssh", "-F", "none", "-T" if what else "-N", "-p", port, "-i", self.dir / "user_key",
                           *[f"-o{o}" for o in options], "-R", f"127.0.0.1:0:{up.hostname}:{up.port}",
                           f"{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1", *what, stdin=subprocess.PIPE)
        found = ssh.wait_for(r"Allocated port (\d+) for remote forward")
        self.start_ms = (time.monotonic() - began) * 1000
        return int(found.group(1)), up.path

    def start(self):
        self._keys()
        port = free_port()
        self.sshd = self._sshd(port)
        listening, path = self._ssh(port)
        self.url = f"http://127.0.0.1:{listening}{path}"

    def pids(self):
        # The listening sshd only forks; what serves this connection are its children.
        return [p.pid for p in self.programs if p is not self.sshd] + descendants(self.sshd.pid, "sshd")

    def sizes(self):
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        return {n: os.path.getsize(os.path.realpath(shutil.which(n, path=path))) for n in ("ssh", "sshd")}


class Tunnel(Way):
    """The relay with a plain listener for the callers (as behind a load balancer) and a TLS one for the gateway."""

    name = "tunnel"
    build = None
    audit = relay_audit = "none"
    prefix = ()  # before the programs
    gateway_options = ()

    def _binary(self, folder, name):
        return pathlib.Path(self.build) / folder / name

    def _prepare(self):
        self.gateway_bin = self._binary("gateway", "mcp-tunnel-gateway")
        self.relay_bin = self._binary("relay", "mcp-tunnel-relay")
        self.state = self.dir / "state"
        self.cert, self.cert_key = self.dir / "cert.pem", self.dir / "key.pem"
        if self.state.exists():
            return
        self.state.mkdir(mode=0o700)
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", self.cert_key, "-out", self.cert)
        self._tunnel("bench", self.dir / "token", self.dir / "agent-key")

    def _tunnel(self, name, token_file, key_file):
        token = run(self.relay_bin, "tunnel", "add", name, "--state-dir", self.state).split()[-1]
        key = run(self.relay_bin, "agent", "add", f"{name}-agent", "--tunnel", name, "--state-dir", self.state)
        for path, secret in ((token_file, token), (key_file, key.split()[-1])):
            with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
                f.write(secret + "\n")

    def _sink(self, side, audit):
        return f"file:{self.dir}/{side}-audit.jsonl" if audit == "file" else audit

    def _relay(self):
        relay = self.program("relay", *self.prefix, self.relay_bin, "--listen", "http://127.0.0.1:0", "--listen",
                             "https://127.0.0.1:0", "--tls-cert", self.cert, "--tls-key", self.cert_key,
                             "--state-dir", self.state, "--audit", self._sink("relay", self.relay_audit))
        plain = relay.wait_for(r"listening on http://127\.0\.0\.1:(\d+)").group(1)
        tls = relay.wait_for(r"listening on https://127\.0\.0\.1:(\d+)").group(1)
        return plain, tls

    def _gateway(self, tls, name="gateway", token="token", audit=None, prefix=None):
        """Its process, the port where it tells its health, and how long it took."""
        began = time.monotonic()
        gateway = self.program(name, *(self.prefix if prefix is None else prefix), self.gateway_bin, "--token-file",
                               self.dir / token, "--mcp-server-url", self.upstream, "--control-plane",
                               f"wss://localhost:{tls}/v1/tunnel", "--ca-file", self.cert, "--health-listen",
                               "127.0.0.1:0", "--audit", self._sink(name, audit or self.audit), *self.gateway_options)
        health = int(gateway.wait_for(r"health on http://127\.0\.0\.1:(\d+)").group(1))
        while not self._is_ready(health):
            if time.monotonic() - began > READY_WITHIN_S or gateway.proc.poll() is not None:
                raise Failed(f"the gateway did not get ready; its last words:\n{gateway.last_words()}")
            time.sleep(0.001)
        return gateway, health, (time.monotonic() - began) * 1000

    @staticmethod
    def _is_ready(port):
        conn = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            conn.request("GET", "/readyz")
            return conn.getresponse().status == 200
        except OSError:
            return False
        finally:
            conn.close()

    def start(self):
        self._prepare()
        self.key = (self.dir / "agent-key").read_text().strip()
        plain, tls = self._relay()
        gateway, self.health, self.start_ms = self._gateway(tls)
        self.gateway_pid = gateway.pid
        self.url = f"http://127.0.0.1:{plain}/t/bench/mcp"

    def between_runs(self):
        for file in self.dir.glob("*-audit.jsonl"):
            os.truncate(file, 0)

    def sizes(self):
        found = {}
        for binary in (self.gateway_bin, self.relay_bin):
            stripped = self.dir / f"{binary.name}.stripped"
            run("strip", "-o", stripped, binary)
            found[binary.name.removeprefix("mcp-tunnel-")] = stripped.stat().st_size
        return found


class Audited(Tunnel):
    """The same with what ssh does not do: two audit records for each call."""

    name = "audited"
    audit = "file"
