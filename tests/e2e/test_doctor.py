"""--doctor of both programs, in every situation that it is for: what it says, and that it does no harm."""

import base64
import contextlib
import email.utils
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time

import pytest

from lib.calls import CALL
from lib.handmade import Door
from lib.journald import Journald
from lib.patients import Http, Mcp, Proxy, Server, Silent
from lib.procs import Process, run, wait_until
from lib.rawhttp import JSON_HEADERS
from lib.records import exchange
from lib.tunnel import Gateway, Relay

NAME = "relay.example"
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
NO_NETWORK = ["unshare", *(["-r"] if os.geteuid() else []), "-n", "--"]
OPEN = 0o755
SECRET = re.compile(r"mt[tk]_[a-z0-9-]*_?[A-Za-z0-9_-]{43}|s3cret")


class Findings:
    """What a run said: found[check] is (status, detail, remedy); text and JSON are compared."""

    def __init__(self, argv, env=None, prefix=()):
        argv = [*prefix, *argv, "--doctor"]
        full = {**os.environ, **(env or {})}
        self.status, out, self.err = run([*argv, "--json"], 90, env=full)
        assert not SECRET.search(out + self.err), out
        self.all = json.loads(out)
        self.found = {c["name"]: (c["status"], c["detail"], c["remedy"]) for c in self.all["checks"]}
        assert all(bool(c["remedy"]) == (c["status"] in ("warning", "failed")) for c in self.all["checks"]), out
        assert self.status == {"ok": 0, "warning": 1, "failed": 2}[self.all["status"]], out
        assert self.err == "", self.err

    def bad(self):
        return {name: found[:2] for name, found in self.found.items() if found[0] in ("warning", "failed")}

    def only(self, name, status, detail, remedy=""):
        """This check says so, and no other finds anything."""
        assert list(self.bad()) == [name], self.bad()
        self.says(name, status, detail, remedy)
        assert self.status == {"warning": 1, "failed": 2}[status]

    def says(self, name, status, detail, remedy=""):
        found = self.found[name]
        assert found[0] == status and re.search(detail, found[1]) and re.search(remedy, found[2]), found

    def well(self):
        assert self.status == 0 and not self.bad(), self.bad()


@pytest.fixture(scope="module")
def site(programs, work, certs):
    """A relay with a tunnel, and an MCP server."""

    class Site:
        certificate = certs.ca.issue("doctor", san=f"DNS:localhost,IP:127.0.0.1,DNS:{NAME}")
        relay = Relay(programs, work, *certificate, "--audit", "none", "--listen", f"http+unix:{work}/doctor.sock")
        token, revoked = relay.add_tunnel("site"), relay.add_tunnel("gone")
        agent = relay.add_agent("ann", "site")
        server = Server(Mcp)

    Site.relay.command("tunnel", "remove", "gone")
    Site.relay.start()
    yield Site
    Site.relay.stop()
    Site.server.__exit__()


@pytest.fixture
def gateway(programs, tmp_path, certs, site):
    """gateway(...): a gateway that is not started; options as lib.tunnel.Gateway has them."""

    def make(*options, token=site.token, upstream=None, relay=None, ca=certs.ca.cert, **changes):
        changes = {"health_listen": "none", **changes}
        upstream = upstream or f"http://127.0.0.1:{site.server.port}/mcp"
        return Gateway(programs, tmp_path, token, upstream, relay or site.relay.control_plane, ca, *options, **changes)

    return make


@pytest.fixture
def doctor(gateway):
    """doctor(...): what it finds out about such a gateway."""

    def ask(*options, env=None, prefix=(), **changes):
        return Findings(gateway(*options, **changes).argv, env, prefix)

    return ask


def at(port, host="localhost"):
    return f"wss://{host}:{port}/v1/tunnel"


# ---- the gateway: all well ----


def test_all_is_well(doctor, site):
    done = doctor()
    done.well()
    done.says("configuration", "ok", "command line")
    done.says("token file", "ok", r"/token, tunnel site; owner \w+, mode 0600")
    done.says("name", "ok", r"localhost: .*127\.0\.0\.1")
    done.says("proxy", "ok", "HTTPS_PROXY is not set")
    done.says("tcp", "ok", r"^127\.0\.0\.1:\d+ in \d+ ms$")
    done.says("tls", "ok", r"TLSv1\.3, the certificate is trusted and for localhost; (19|20) days left")
    done.says("token", "ok", "takes it for tunnel site")
    done.says("address", "ok", r"127\.0\.0\.1, allowed")
    done.says("mcp", "ok", "HTTP 200, patient 1.2, MCP 2025-11-25")
    done.says("clock", "ok", r"^\d s off")
    done.says("running", "skipped", "no health listener")
    assert [c["name"] for c in done.all["checks"]] == [
        "configuration", "token file", "state dir", "tls files", "name", "proxy", "tcp", "tls", "upgrade", "token",
        "address", "server", "mcp", "audit", "clock", "running",
    ]


def test_the_session_with_the_server_is_ended(doctor, site):
    site.server.seen.clear()
    doctor().well()
    assert [seen[0] for seen in site.server.seen] == ["POST", "DELETE"]
    assert site.server.seen[1][1]["Mcp-Session-Id"] == "s-1"
    assert json.loads(site.server.seen[0][2])["method"] == "initialize"


@pytest.mark.parametrize(
    "server, said",
    [
        ("stock", r"HTTP 200, stock \S+, MCP 2025-11-25"),
        ("stateless", r"HTTP 200, stateless 1\.0\.0, MCP 2026-07-28"),
        ("everything", r"HTTP 200, \S*everything \S+, MCP 2025-11-25"),
    ],
)
def test_real_servers(doctor, servers, server, said):
    doctor(upstream=servers.url(server)).says("mcp", "ok", said)


def test_text(gateway):
    it = gateway()
    status, out, err = run([*it.argv, "--doctor"])
    lines = out.splitlines()
    assert (status, err) == (0, "") and all(len(line) <= 100 or " " not in line[25:] for line in lines)
    assert lines[0] == "ok       configuration   the command line; there is no configuration file"
    assert re.fullmatch(r"0 failed, 0 warnings, \d+ ok, \d+ skipped", lines[-1])
    it.token_file.unlink()
    status, out, err = run([*it.argv, "--doctor"])
    assert status == 2 and "failed   token file " in out and "\n                         -> put the tunnel's token" in out


# ---- the gateway: what is wrong ----


def test_configuration(doctor, tmp_path):
    done = doctor(keepalive="5ms")
    done.only("configuration", "failed", r'--keepalive: "5ms" is not allowed; give a time .* from 1s to 10m')
    assert {found[0] for name, found in done.found.items() if name != "configuration"} == {"skipped"}
    config = tmp_path / "gateway.conf"
    config.write_text("[gateway]\nkeepalive = 20s\nkeep-alive = 1\n")
    doctor(config=config).only("configuration", "failed", rf"{config}:3: keep-alive: unknown key")
    config.write_text("[gateway]\nkeepalive = 20s\n")
    doctor(config=config).says("configuration", "ok", f"^{config}$")


def test_json_alone_is_an_error(gateway):
    status, _, err = run([*gateway().argv, "--json"])
    assert status == 2 and "--json: it goes with --doctor only" in err


def test_token_file(gateway):
    it = gateway()

    def check(detail, remedy):
        done = Findings(it.argv)
        done.only("token file", "failed", detail, remedy)
        assert done.found["tls"][0] == "ok" and done.found["token"][0] == "skipped"

    it.token_file.chmod(0o644)
    check(r"everybody can use it \(mode 0644\); run: chmod 600", "make a new one")
    it.token_file.chmod(0o600)
    it.set_token("hello")
    check("not a token|form|mtt_", "put the tunnel's token")
    it.token_file.unlink()
    check("No such file", "mcp-tunnel-relay tunnel add")


def test_token_that_ended(doctor, site):
    done = doctor(token=site.revoked)
    done.only("token", "failed", r"refused the token \(HTTP 401\)", "tunnel rotate gone")
    assert done.found["clock"][0] == "ok"


def test_name(doctor):
    done = doctor(relay="wss://nowhere.invalid/v1/tunnel", prefix=NO_NETWORK)
    done.says("name", "failed", r"cannot resolve nowhere\.invalid", "DNS")
    assert done.found["tcp"][:2] == ("skipped", "its name is not known")


def test_nothing_listens(doctor):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        done = doctor(relay=at(port, "127.0.0.1"))
    done.only("tcp", "failed", rf"127\.0\.0\.1:{port}: Connection refused", "is the relay running")
    assert done.found["token"][0] == "skipped"


def proxied(doctor, proxy, *options, env=None):
    return doctor("--proxy", f"http://127.0.0.1:{proxy.port}", *options, relay=at(443, NAME), env=env)


def test_proxy(doctor, site, tmp_path):
    password = tmp_path / "proxy-auth"
    password.touch(0o600)
    password.write_text("ann:s3cret\n")
    encoded = base64.b64encode(b"ann:s3cret").decode()
    with Server(Proxy, target=site.relay.port, auth=encoded) as proxy:
        done = proxied(doctor, proxy, "--proxy-auth-file", password)
        done.well()
        done.says("proxy", "ok", rf"127\.0\.0\.1:{proxy.port}, by --proxy: it connects to the relay with the credentials")
        assert done.found["name"][:2] == ("skipped", "the proxy resolves it")
        assert proxy.seen[-1].startswith(f"CONNECT {NAME}:443 ")
        env = {"HTTPS_PROXY": f"http://ann:s3cret@127.0.0.1:{proxy.port}"}
        done = doctor(relay=at(443, NAME), env=env)
        done.says("proxy", "ok", "by HTTPS_PROXY of this environment")
        proxied(doctor, proxy).only("proxy", "failed", r"it wants a user and password \(407\)", "--proxy-auth-file")
        password.write_text("ann:wrong\n")
        proxied(doctor, proxy, "--proxy-auth-file", password).only("proxy", "failed", r"does not accept the user and password \(407\)")
        done = doctor(env={**env, "NO_PROXY": "localhost"})
        done.says("proxy", "ok", "loopback hosts are reached straight")
    proxied(doctor, proxy).only("proxy", "failed", "Connection refused", "check host and port of the proxy")
    with Server(Proxy, answer="403 Forbidden") as proxy:
        proxied(doctor, proxy).only("proxy", "failed", rf"it refuses a connection to {NAME}:443: 403 Forbidden", "let this machine CONNECT")
    done = doctor(relay=at(443, NAME), env={**env, "NO_PROXY": "example"}, prefix=NO_NETWORK)
    done.says("name", "failed", f"cannot resolve {NAME}")


def pin_of(certificate):
    _, public, _ = run(["openssl", "x509", "-in", certificate, "-pubkey", "-noout"])
    der = base64.b64decode("".join(public.splitlines()[1:-1]))
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def test_certificate_not_trusted(doctor, certs):
    doctor(ca=certs.other_ca.cert).only("tls", "failed", "certificate not trusted", "--ca-file")


def test_pins(doctor, site):
    doctor("--pin-sha256", "A" * 43 + "=").only("tls", "failed", "one of those pinned", "--pin-sha256")
    done = doctor("--pin-sha256", "A" * 43 + "=", "--pin-sha256", pin_of(site.certificate[0]))
    done.says("tls", "ok", "one of 2 pins fits")


@pytest.mark.parametrize(
    "which, said, remedy",
    [
        ("expired", "certificate has expired", "renew the relay's certificate"),
        ("wrong_name", "certificate is not valid for the name localhost", "as its certificate does"),
    ],
)
def test_certificate_is_bad(doctor, certs, which, said, remedy):
    with Server(Http, getattr(certs, which)) as front:
        doctor(relay=at(front.port)).only("tls", "failed", said, remedy)


def test_certificate_ends_soon(doctor, certs):
    with Server(Http, certs.ca.issue("soon", days=5), status=404) as front:
        done = doctor(relay=at(front.port))
        done.says("tls", "warning", r"it ends soon: [45] days left \(until 20", "renew it")
        done.says("upgrade", "failed", "HTTP 404 instead of upgrading", "/v1/tunnel")


def test_client_certificate(doctor, certs, tmp_path):
    cert, key = certs.ca.issue("client-soon", days=5)
    done = doctor("--client-cert", cert, "--client-key", key)
    done.only("tls files", "warning", "client certificate: [45] days left", "renew --client-cert")
    done = doctor("--client-cert", cert, "--client-key", certs.server[1])
    done.only("tls files", "failed", "cannot use the private key", "--client-key")
    assert done.found["tcp"][0] == "ok" and done.found["tls"][0] == "skipped"


def test_no_relay_answers(doctor, site, certs):
    with Server(Http) as plain:
        doctor(relay=at(plain.port)).only("tls", "failed", "does not speak TLS", "is not HTTPS")
        done = doctor(relay=f"ws://127.0.0.1:{plain.port}/v1/tunnel")
        done.only("upgrade", "failed", "answered HTTP 200 instead of upgrading to WebSocket", "--control-plane")
        assert done.found["tls"][0] == "skipped" and done.found["token"][0] == "skipped"
    with Server(Http, certs.server, status=503, headers=[("Retry-After", "9")]) as busy:
        doctor(relay=at(busy.port)).only("upgrade", "failed", r"asks to try later \(HTTP 503\)", "overloaded")


@pytest.mark.parametrize(
    "off, status, said",
    [
        (3600, "failed", r"this machine's clock is (3599|36\d\d) s behind the relay's"),
        (-3600, "failed", r"this machine's clock is 36\d\d s ahead of the relay's"),
        (100, "warning", r"clock is \d+ s behind"),
        (None, "skipped", "has no Date"),
    ],
)
def test_clock(doctor, certs, off, status, said):
    door = Door(certs.server)

    def serve():
        for _ in range(2):
            with contextlib.suppress(OSError):
                with door.accept() as relay:
                    date = off is not None and email.utils.formatdate(time.time() + off, usegmt=True)
                    relay.upgrade(more=f"Date: {date}\r\n" if date else "")
                    relay.connection._fill()

    # The first connection is only tried (tcp) and ends without TLS.
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    done = doctor(relay=door.url)
    done.says("clock", status, said)
    done.says("token", "ok", "takes it")
    thread.join(15)
    door.close()


def test_several_relays(doctor, site):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        done = doctor("--control-plane", at(port, "127.0.0.1"))
    checks = {(c["name"], c["subject"]): c["status"] for c in done.all["checks"]}
    assert checks["token", f"localhost:{site.relay.port}"] == "ok"
    assert checks["tcp", f"127.0.0.1:{port}"] == "failed" and done.status == 2


# ---- the gateway: the MCP server ----


def test_server_is_down(doctor, tmp_path):
    with Server(Mcp) as server:
        url = f"http://127.0.0.1:{server.port}/mcp"
    doctor(upstream=url).only("server", "failed", "Connection refused", "start the MCP server")
    done = doctor(upstream=f"unix:{tmp_path}/none.sock:/mcp")
    done.only("address", "failed", r"none\.sock: No such file", "start the MCP server")


def test_server_is_not_allowed(doctor, site):
    url = f"http://localhost:{site.server.port}/mcp"
    done = doctor("--upstream-allow", "192.0.2.0/24", upstream=url)
    done.only("address", "failed", r"127\.0\.0\.1 \(not allowed\)", "--upstream-allow ADDRESS")
    assert done.found["server"][0] == "skipped"


def test_server_with_tls(doctor, certs):
    with Server(Mcp, certs.server) as server:
        url = f"https://localhost:{server.port}/mcp"
        doctor(upstream=url, upstream_ca_file=certs.ca.cert).says("server", "ok", "TLSv1.3, the certificate is trusted and for localhost")
        done = doctor(upstream=url, upstream_ca_file=certs.other_ca.cert)
        done.only("server", "failed", "certificate not trusted", "--upstream-ca-file")
    with Server(Mcp, certs.ca.issue("server-soon", days=5)) as server:
        done = doctor(upstream=f"https://localhost:{server.port}/mcp", upstream_ca_file=certs.ca.cert)
        done.only("server", "warning", "ends soon: [45] days left")


@pytest.mark.parametrize(
    "facts, status, said",
    [
        ({"status": 404}, "failed", "HTTP 404 to initialize"),
        ({"status": 500}, "failed", "HTTP 500 to initialize"),
        ({}, "failed", r"HTTP 200, but no answer of MCP \(text/html\)"),
        ({"body": b'{"jsonrpc":"2.0","id":1,"result":{}}', "headers": [("Content-Type", "application/json")]}, "failed", "no answer of MCP"),
        ({"status": 401, "headers": [("WWW-Authenticate", "Bearer")]}, "ok", "HTTP 401: it asks for an authorization of its own"),
        ({"status": 403}, "failed", "HTTP 403"),
    ],
)
def test_server_answers_otherwise(doctor, facts, status, said):
    with Server(Http, **facts) as server:
        done = doctor(upstream=f"http://127.0.0.1:{server.port}/mcp")
    done.says("mcp", status, said)
    assert set(done.bad()) <= {"mcp"}


def test_every_route(doctor, site, certs, tmp_path):
    """Each with its own address, certificates and headers."""
    secret, config = tmp_path / "header", tmp_path / "gateway.conf"
    secret.touch(0o600)
    secret.write_text("Bearer mtt_x_s3cret\n")
    with Server(Mcp, certs.server) as tls, Server(Http, status=404) as none:
        config.write_text(
            f"[route safe]\nmcp-server-url = https://localhost:{tls.port}/mcp\nupstream-ca-file = {certs.ca.cert}\n"
            f"upstream-header-file = Authorization={secret}\n"
            f"[route far]\nmcp-server-url = http://localhost:{none.port}/mcp\nupstream-allow = 192.0.2.0/24\n"
        )
        done = doctor("--route", f"none=http://127.0.0.1:{none.port}/mcp", config=config)
        assert {head["Authorization"] for _, head, _ in tls.seen} == {"Bearer mtt_x_s3cret"}
        assert [seen[0] for seen in tls.seen] == ["POST", "DELETE"]
        secret.chmod(0o644)
        broken = doctor(config=config)
    checks = {(c["subject"], c["name"]): (c["status"], c["detail"]) for c in done.all["checks"]}
    assert checks["default route", "mcp"] == checks["route safe", "mcp"] == ("ok", "HTTP 200, patient 1.2, MCP 2025-11-25")
    assert checks["route safe", "server"][0] == "ok" and "TLSv1.3" in checks["route safe", "server"][1]
    assert checks["route none", "mcp"] == ("failed", "HTTP 404 to initialize")
    assert checks["route far", "address"][0] == "failed" and "not allowed" in checks["route far", "address"][1]
    assert checks["route far", "mcp"][0] == "skipped" and done.status == 2
    checks = {(c["subject"], c["name"]): (c["status"], c["detail"]) for c in broken.all["checks"]}
    assert checks["route safe", "server"][0] == "failed" and "--upstream-header-file" in checks["route safe", "server"][1]
    assert checks["default route", "mcp"][0] == "ok"


# ---- audit ----


def test_audit_file(doctor, tmp_path):
    doctor(audit=f"file:{tmp_path}/none/audit").only("audit", "failed", r"cannot write \S+/none/audit: No such file", "--audit")
    doctor(audit=f"file:{tmp_path}").only("audit", "failed", f"cannot write {tmp_path}: Is a directory")
    done = doctor(audit=f"file:{tmp_path}/audit")
    done.says("audit", "ok", "can be written")
    assert not (tmp_path / "audit").exists()
    doctor(audit="none").says("audit", "ok", "as --audit says")


def test_audit_journald(doctor, tmp_path):
    with Journald(tmp_path / "log") as journald:
        done = doctor(audit="journald", prefix=journald.prefix)
        done.says("audit", "ok", "it is in the journal on disk")
        assert len(journald.records("SYSLOG_IDENTIFIER=mcp-tunnel-doctor")) == 1
        journald.restart(Storage="volatile")
        done = doctor(audit="journald", prefix=journald.prefix)
        done.only("audit", "failed", "in memory only, and --audit-read-back is disk", "Storage=persistent")
        doctor("--audit-read-back", "any", audit="journald", prefix=journald.prefix).says("audit", "ok", "in the journal$")
        journald.kill()
        journald.remove_socket()
        done = doctor(audit="journald", prefix=journald.prefix)
        done.only("audit", "failed", "journald does not take records", "start journald")
        doctor(audit=None, prefix=journald.prefix).only("audit", "warning", "calls are not written down")


@pytest.mark.parametrize("form", ["json", "text"])
def test_given_up(gateway, form):
    """The signal that comes after a minute: what was found until then is told, and where the run was."""
    with Server(Silent) as server:
        argv = gateway(upstream=f"http://127.0.0.1:{server.port}/mcp").argv
        process = Process("doctor", [*argv, "--doctor", *(["--json"] if form == "json" else [])])
        wait_until(lambda: server.seen, 10, "the doctor's question to the MCP server")
        process.send_signal(signal.SIGALRM)
        assert process.wait() == 2 and not process.lines, process.tail()
    if form == "json":
        told = json.loads("\n".join(process.out))
        assert told["status"] == "failed" and 0 < told["checks"][-1]["duration_ms"] <= 60000
        found = [(c["name"], c["status"]) for c in told["checks"]]
        assert "given up after a minute" in told["checks"][-1]["detail"] and told["checks"][-1]["remedy"]
    else:
        found = [tuple(line.split()[1::-1]) for line in process.out if re.match(r"\w+ +\w+ ", line)]
        assert process.find("given up after a minute") and process.out[-1].startswith("1 failed, 0 warnings, ")
    assert found[-2:] == [("server", "ok"), ("mcp", "failed")] and len(found) == 13, found


# ---- beside a gateway that runs ----


def test_a_running_gateway_is_not_disturbed(programs, relay_pair, certs, site, tmp_path, servers):
    state, log = tmp_path / "state", tmp_path / "relay.jsonl"
    relay, gateway, endpoint = relay_pair(
        "--audit", f"file:{log}", gateway_options=("--state-dir", state), health_listen=f"unix:{tmp_path}/health"
    )
    argv = [a if a != servers.url("raw") else f"http://127.0.0.1:{site.server.port}/mcp" for a in gateway.argv]
    ended, answers = threading.Event(), []

    def call():
        while not ended.is_set():
            answers.append(exchange(endpoint, "POST", JSON_HEADERS, CALL).status)

    callers = [threading.Thread(target=call, daemon=True) for _ in range(2)]
    for caller in callers:
        caller.start()
    for _ in range(5):
        done = Findings(argv)
        done.well()
        done.says("state dir", "ok", rf"in use by a gateway that runs \(process {gateway.process.pid}\)")
        done.says("audit", "ok", "the running program wrote a record, and it is in")
        done.says("running", "ok", "ready, says /readyz of unix:")
    ended.set()
    for caller in callers:
        caller.join(30)
    assert len(answers) > 10 and set(answers) == {200}, answers
    assert gateway.process.count("connected to") == 1 and gateway.process.count("not connected|again") == 0
    assert relay.process.count("attached from") == 1 and relay.process.count("lost|is over|warning") == 0
    assert relay.process.count("info: tunnel own: a connection ended before its session began") == 5
    for it in list(relay_pair.made):
        it.stop()
    relay_pair.made.clear()
    status, out, _ = run([programs.audit, "verify", gateway.audit, "--relay", log])
    records = [json.loads(line) for line in gateway.audit.read_text().splitlines()]
    assert status == 0 and all("mcp_chain" in r for r in records), out
    assert sum("mcp_nonce" in r for r in records) == 5


def test_what_the_running_gateway_says(relay_pair, site, tmp_path, servers):
    relay, gateway, _ = relay_pair(health_listen=f"unix:{tmp_path}/health")
    argv = [a if a != servers.url("raw") else f"http://127.0.0.1:{site.server.port}/mcp" for a in gateway.argv]
    other = [f"file:{tmp_path}/elsewhere" if str(a).startswith("file:") else a for a in argv]
    (tmp_path / "elsewhere").touch()
    Findings(other).only("audit", "failed", "took a record, but it is not in .*/elsewhere", "compare --audit")
    relay.command("tunnel", "remove", "own")
    relay.reload_and_wait()
    gateway.wait_ready(status=503)
    done = Findings(argv)
    done.says("running", "failed", "not ready, says /readyz of .*: session: token-")
    done.says("token", "failed", "refused the token")
    gateway.stop()
    done = Findings(argv)
    done.says("running", "warning", "no mcp-tunnel-gateway runs here", "systemctl start mcp-tunnel-gateway")
    gateway.start(wait_ready=False)


def listing(directory):
    """Everything below it: name, owner, size, time of change."""
    return {
        str(p): (s.st_uid, s.st_mode, s.st_size if p.is_file() else 0, s.st_mtime_ns)
        for p in sorted(pathlib.Path(directory).rglob("*"))
        for s in [p.lstat()]
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="files of two owners need root")
def test_root_leaves_nothing_behind(doctor, tmp_path):
    place = tmp_path / "place"
    for name in ("state", "log"):
        (place / name).mkdir(parents=True)
        os.chown(place / name, 65534, 65534)
    before = listing(place)
    options = ("--state-dir", place / "state")
    doctor(*options, audit=f"file:{place}/log/audit").well()
    doctor("--state-dir", place / "state/more", audit=f"file:{place}/log/audit").says("state dir", "ok", "will be made")
    assert listing(place) == before
    for name in ("state/audit", "log/audit"):
        (place / name).touch(0o600)
    done = doctor(*options, audit=f"file:{place}/log/audit")
    done.says("state dir", "warning", "state/audit does not belong to", "chown -R")
    done.says("audit", "warning", r"log/audit belongs to root, its directory to", "chown")


@pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody else needs root")
def test_as_a_user_who_may_not(doctor, gateway, tmp_path):
    for parent in tmp_path.parents[:2]:
        parent.chmod(OPEN)
    tmp_path.chmod(OPEN)
    (tmp_path / "state").mkdir(mode=0o700)
    it = gateway("--state-dir", tmp_path / "state", audit=f"file:{tmp_path}/audit")
    it.dir.chmod(OPEN)
    done = Findings(it.argv, prefix=NOBODY)
    done.says("token file", "failed", "Permission denied")
    done.says("state dir", "failed", "Permission denied", "gateway's user")
    done.says("audit", "failed", "Permission denied")


# ---- the relay ----


@pytest.fixture
def own(programs, tmp_path, site):
    """own(...): a relay that is not started, and what --doctor finds out about it."""

    class Own:
        relay = Relay(programs, tmp_path, *site.certificate)

        def argv(self, *options, listen=None, cert=site.certificate[0], key=site.certificate[1], state=None):
            if not listen:
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", 0))
                    listen = f"https://127.0.0.1:{sock.getsockname()[1]}"
            files = ["--tls-cert", cert, "--tls-key", key, "--state-dir", state or self.relay.state]
            return [programs.relay, "--listen", listen, *files, "--audit", "none", *options]

        def ask(self, *options, prefix=(), **changes):
            return Findings(self.argv(*options, **changes), prefix=prefix)

    it = Own()
    it.relay.add_tunnel("one")
    it.relay.add_agent("ann", "one")
    return it


def test_relay_that_runs(programs, site, own):
    it = site.relay
    argv = [str(a).replace(":0", f":{it.port}") if str(a).startswith("https://") else a for a in it.process.argv]
    start = it.process.mark()
    done = Findings(argv)
    done.well()
    done.says("tunnels", "ok", "1 with 1 agent")
    done.says("tls files", "ok", r"1 certificate, the key fits; (19|20) days left")
    listeners = [(c["status"], c["detail"]) for c in done.all["checks"] if c["name"] == "listener"]
    assert [status for status, _ in listeners] == ["ok", "ok"]
    assert listeners[0][1].endswith("held by a relay that runs and answers with this certificate")
    assert listeners[1][1].endswith("/doctor.sock, held by a relay that runs and answers")
    done.says("running", "ok", "ready, says /readyz of unix:")
    assert not it.process.find("error|warning", start)
    done = own.ask(listen=f"https://127.0.0.1:{it.port}", cert=own.relay.cert, key=own.relay.key)
    done.says("listener", "ok", "held by a relay")


def test_relay_alone(own):
    before = listing(own.relay.state)
    done = own.ask("--public-url", f"https://{NAME}")
    assert listing(own.relay.state) == before
    done.only("running", "warning", "no mcp-tunnel-relay runs here", "systemctl start mcp-tunnel-relay")
    done.says("listener", "ok", "is free")
    done.says("tls files", "ok", f"good for {NAME}")


def test_relay_certificate(own, certs):
    own.ask(key=certs.server[1]).says("tls files", "failed", "cannot use the private key", "belong together")
    own.ask("--public-url", "https://other.example").says("tls files", "failed", "is not valid for other.example, the host of --public-url")
    own.ask(cert=certs.expired[0], key=certs.expired[1]).says("tls files", "failed", "ended on 2020-02-01", "renew")
    cert, key = certs.ca.issue("relay-soon", days=5)
    own.ask(cert=cert, key=key).says("tls files", "warning", "[45] days left", "renew")
    both = own.relay.state.parent / "both.pem"
    both.write_text(cert.read_text() + certs.other_ca.cert.read_text())
    own.ask(cert=both, key=key).says("tls files", "failed", "do not issue one another", "own certificate first")
    both.write_text(cert.read_text() + certs.ca.cert.read_text())
    own.ask(cert=both, key=key).says("tls files", "warning", "days left")


@pytest.mark.skipif(os.geteuid() != 0, reason="files of two owners need root")
def test_relay_key_that_only_root_can_read(own, tmp_path):
    key = tmp_path / "root.key"
    key.touch(0o600)
    key.write_bytes(own.relay.key.read_bytes())
    for path in (own.relay.state, *own.relay.state.iterdir()):
        os.chown(path, 65534, 65534)
    own.relay.cert.chmod(0o644)
    own.ask(key=key).says("tls files", "failed", "root.key can be read by root, but not by the relay's user", "chmod 640")
    os.chown(key, 0, 65534)
    key.chmod(0o640)
    own.ask(key=key).says("tls files", "ok", "the key fits")


def test_relay_tunnels(own, tmp_path):
    own.relay.add_tunnel("lonely")
    own.ask().says("tunnels", "warning", "2 with 1 agent; lonely has no agent", "agent add")
    own.relay.command("tunnel", "remove", "lonely")
    own.relay.command("tunnel", "rotate", "one", "--old-for", "1s")
    wait_until(lambda: own.ask().found["tunnels"][0] == "warning", 10, "the old token to end")
    own.ask().says("tunnels", "warning", "one has an old token that has ended", "--end-old")
    tunnels = own.relay.state / "tunnels"
    tunnels.write_text(tunnels.read_text() + "rubbish\n")
    own.ask().says("tunnels", "failed", "tunnels:3: ")


def test_relay_state_dir(own, tmp_path):
    own.relay.state.chmod(OPEN)
    own.ask().says("state dir", "failed", r"others can use \S+ \(mode 0755\)", "chmod 700")
    done = own.ask(state=tmp_path / "none")
    done.says("state dir", "failed", "there are no tunnels", "tunnel add")
    assert not (tmp_path / "none").exists()
    if os.geteuid() == 0:
        own.relay.state.chmod(0o700)
        for parent in (*tmp_path.parents[:2], tmp_path):
            parent.chmod(OPEN)
        own.ask(prefix=NOBODY).says("state dir", "failed", "Permission denied", "root")


def test_relay_port(own, certs):
    with Server(Http) as plain:
        own.ask(listen=f"https://127.0.0.1:{plain.port}").says("listener", "failed", "taken by something that is no relay", "ss -ltnp")
    with Server(Http, own.relay.cert and (own.relay.cert, own.relay.key)) as other:
        own.ask(listen=f"https://127.0.0.1:{other.port}").says("listener", "failed", "no relay: it answers HTTP 200")
    with Server(Http, certs.server) as other:
        own.ask(listen=f"https://127.0.0.1:{other.port}").says("listener", "warning", "shows another certificate", "reload")
    own.ask(listen="http+unix:/nowhere/x.sock").says("listener", "failed", "cannot listen on .*: No such file")
    own.ask(listen="https://192.0.2.1:8443").says("listener", "failed", "Cannot assign requested address")


def test_relay_configuration(own):
    done = own.ask("--hold", "1y")
    done.only("configuration", "failed", '--hold: "1y" is not allowed')
