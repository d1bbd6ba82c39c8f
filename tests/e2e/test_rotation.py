"""Tokens, keys and certificates are replaced and revoked while the programs run; who may go on does, calls and all."""

import json
import re
import resource
import shutil
import threading

import pytest

from lib.calls import CALL, Running
from lib.procs import SCALE, wait_until
from lib.rawhttp import JSON_HEADERS, Connection, Truncated
from lib.records import connect, exchange
from lib.tunnel import Endpoint, Gateway, Relay


def post(endpoint):
    return exchange(endpoint, "POST", JSON_HEADERS, CALL)


def records(file, event):
    lines = file.read_text().splitlines() if file.exists() else []
    return [r for r in map(json.loads, lines) if r["mcp_event"] == event]


@pytest.fixture
def audited_pair(relay_pair, tmp_path):
    """relay, gateway, endpoint, and the relay's audit file."""

    def start(*options, **changes):
        file = tmp_path / "relay.jsonl"
        return *relay_pair("--audit", f"file:{file}", *options, **changes), file

    return start


def rotate(relay, *options):
    out = relay.command("tunnel", "rotate", "own", *options)
    return out.split()[-1] if out else None


def reason(answer):
    return answer.json()["error"]["data"]["reason"]


# ---- tokens ----


def test_revoked_while_there_are_no_descriptors(relay_pair):
    """A tunnel is removed while the relay can open no file: it is told, and applied as soon as it can be."""
    relay, gateway, endpoint = relay_pair()
    assert post(endpoint).status == 200
    limits = resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    relay.command("tunnel", "remove", "own")
    relay.process.wait_line("tunnels and agents stay as they were: .*Too many open files", 10)
    resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE, limits)
    relay.process.wait_line(r"session .* is over: its token is no longer valid", 30)
    gateway.wait_ready(status=503)


def test_a_new_token_without_losing_a_call(audited_pair, raw_control, fresh_key):
    """The whole way: rotate, put the token into the file, end the old one. Nobody restarts or reloads anything."""
    relay, gateway, endpoint, file = audited_pair()
    call = Running(endpoint, fresh_key(), raw_control)
    new = rotate(relay)
    relay.process.wait_line("tunnels or agents have changed: tunnels and agents read again", 10)
    start = relay.process.mark()
    gateway.set_token(new)
    gateway.process.wait_line(r"the relay took the new token", 10)
    gateway.process.wait_line(r"connected to .* again after .*: session resumed, 1 calls had waited", 10)
    relay.process.wait_line(r"session .* resumed", 10, start)
    assert rotate(relay, "--end-old") is None
    relay.process.wait_line("tunnels and agents read again", 10, start)
    assert call.finish().status == 200
    assert post(endpoint).status == 200
    assert not records(file, "session.close")
    assert len(records(file, "session.resume")) == 1
    opened, resumed = records(file, "session.open")[0], records(file, "session.resume")[0]
    assert opened["mcp_tunnel_session"] == resumed["mcp_tunnel_session"]


def test_arguments_have_one_hash_at_both_ends_after_a_new_token(audited_pair):
    relay, gateway, endpoint, file = audited_pair()
    assert post(endpoint).status == 200
    new = rotate(relay)
    relay.reload_and_wait()
    gateway.set_token(new)
    gateway.process.wait_line(r"session resumed", 10)
    assert post(endpoint).status == 200
    wait_until(lambda: len(records(file, "call.response")) == 2, 10, "two calls")
    here, there = (
        [r["mcp_args_hash"] for r in records(log, "call.request")] for log in (file, gateway.audit)
    )
    assert here == there and here[0] != here[1]


@pytest.mark.parametrize("how", ["end-old", "expiry", "second", "removed"])
def test_an_ended_token_ends_its_session(audited_pair, raw_control, fresh_key, how):
    """Named at both ends, in the answer, the logs and the records; the gateway cannot come back with it."""
    relay, gateway, endpoint, file = audited_pair()
    call = Running(endpoint, fresh_key(), raw_control)
    new = rotate(relay, *(("--old-for", f"{int(3 * SCALE)}s") if how == "expiry" else ()))
    relay.reload_and_wait()
    assert post(endpoint).status == 200
    start = gateway.process.mark()
    if how == "end-old":
        rotate(relay, "--end-old")
    elif how == "second":
        new = rotate(relay)
    elif how == "removed":
        relay.command("tunnel", "remove", "own")
    if how != "expiry":
        relay.reload()
    answer = call.finish(release=False)
    assert (answer.status, reason(answer)) == (502, "token-revoked")
    assert answer.json()["error"]["data"]["executed"] == "maybe"
    relay.process.wait_line(r"session .* is over: its token is no longer valid; 1 calls end", 10)
    gateway.process.wait_line(r"token-revoked", 10, start)
    gateway.wait_ready(status=503)
    for log in (file, gateway.audit):
        wait_until(lambda: records(log, "session.close"), 10, f"session.close in {log}")
        closed = records(log, "session.close")[-1]
        assert (closed["mcp_reason"], closed["priority"]) == ("token-revoked", "4")
        wait_until(lambda: records(log, "auth.failure"), 10, f"auth.failure in {log}")
        wait_until(lambda: len(records(log, "call.response")) == 2, 10, f"call.response in {log}")
        assert records(log, "call.response")[-1]["mcp_reason"] == "token-revoked"
    if how == "removed":
        return
    gateway.set_token(new)
    gateway.wait_ready()
    assert post(endpoint).status == 200


def test_a_gateway_that_has_the_new_token_is_back_at_once(audited_pair):
    """The file is new, and the old token ends before anybody looked at the file."""
    relay, gateway, endpoint, _ = audited_pair()
    new = rotate(relay, "--old-for", "0")
    gateway.set_token(new)
    relay.reload()
    gateway.process.wait_line(r"connected to .* again", 10)
    assert post(endpoint).status == 200


def test_a_bad_new_token_leaves_the_session_where_it_is(audited_pair, raw_control, fresh_key):
    relay, gateway, endpoint, _ = audited_pair()
    other = relay.add_tunnel("other")
    call = Running(endpoint, fresh_key(), raw_control)
    for token, said in (
        ("nonsense", "token"),
        (other, "it is of the tunnel other, and this gateway serves own"),
        ("mtt_own_" + "A" * 43, "refused the token|401"),
    ):
        start = gateway.process.mark()
        gateway.set_token(token)
        gateway.process.send_signal(1)
        line = gateway.process.wait_line(r"warning: the token file has changed, and the new token cannot be used: (.*)", 10, start)
        assert re.search(said, line.group(1)), line.group(0)
        assert "A" * 43 not in line.group(0)
        assert gateway.health()[0] == 200
        assert post(endpoint).status == 200
    assert call.finish().status == 200
    start = gateway.process.mark()
    gateway.set_token(rotate(relay))
    relay.reload_and_wait()
    gateway.process.send_signal(1)
    gateway.process.wait_line("the relay took the new token", 10, start)


def test_a_token_that_the_relay_learns_of_later(relay_pair, raw_control, fresh_key):
    """The gateway has it first: refused, and tried again by itself."""
    relay, gateway, endpoint = relay_pair()
    call = Running(endpoint, fresh_key(), raw_control)
    new = rotate(relay)
    tunnels = relay.state / "tunnels"
    later = tunnels.read_bytes()
    # As before; the newer of two lines comes back when the token has been refused.
    name, created, newest, old = later.decode().splitlines()[1].split()
    tunnels.write_text(f"{later.decode().splitlines()[0]}\n{name} {created} {old}\n")
    relay.reload_and_wait()
    gateway.set_token(new)
    gateway.process.wait_line("the new token cannot be used: .*401.*trying again in 5 s", 10)
    tunnels.write_bytes(later)
    gateway.process.wait_line("the relay took the new token", 15)
    gateway.process.wait_line("session resumed, 1 calls had waited", 10)
    assert call.finish().status == 200


def test_old_tokens_are_shown(relay_pair):
    relay, _, _ = relay_pair()
    assert "old-until" not in relay.command("tunnel", "list")
    rotate(relay)
    assert relay.command("tunnel", "list").endswith("\ttokens=2\tagents=1\told-until=next-rotation\n")
    rotate(relay, "--old-for", "24h")
    assert re.search(r"\told-until=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n$", relay.command("tunnel", "list"))


# ---- keys ----


def test_a_removed_agent_is_cut_off(audited_pair, raw_control, fresh_key):
    """Its call and its GET stream end; others' go on. The next one with that name and another key is another agent."""
    relay, gateway, endpoint, file = audited_pair()
    key = relay.add_agent("other-agent", "own")
    relay.reload_and_wait()
    other = Endpoint(endpoint.url, "tunnel", {"Authorization": f"Bearer {key}"}, endpoint.ca)
    mine, theirs = Running(endpoint, fresh_key(), raw_control), Running(other, fresh_key(), raw_control)
    stream_key = fresh_key()
    with connect(other) as stream:
        stream.request("GET", other.pairs() + [("Accept", "text/event-stream"), ("X-Case", "idle"), ("X-Key", stream_key)])
        assert stream.head().status == 200
        relay.command("agent", "remove", "other-agent", "--tunnel", "own")
        relay.command("agent", "add", "other-agent", "--tunnel", "own")
        relay.reload()
        with pytest.raises(Truncated):
            stream.until(b"nothing that comes")
    wait_until(lambda: "gone" in raw_control("seen", stream_key), 10, "the server to see the stream's end")
    answer = theirs.finish(release=False)
    assert (answer.status, reason(answer)) == (401, "key-revoked")
    assert answer.json()["error"]["data"]["executed"] == "maybe"
    assert post(other).status == 401
    assert mine.finish().status == 200
    for log in (file, gateway.audit):
        wait_until(lambda: len(records(log, "call.response")) == 2, 10, f"call.response in {log}")
        endings = {r["mcp_reason"]: r["mcp_status"] for r in records(log, "call.response")}
        assert endings["key-revoked"] == "cancelled"
    assert "the key of an agent with an open call" in records(file, "auth.failure")[0]["message"]


def test_a_removed_agent_that_waits_for_a_gateway(relay_pair):
    relay, gateway, endpoint = relay_pair("--hold", "60s")
    gateway.process.stop()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(post(endpoint)))
    thread.start()
    wait_until(lambda: "calls_waiting\":1" in relay.command("status", "--json"), 10, "the call to wait")
    relay.command("agent", "remove", "own-agent", "--tunnel", "own")
    thread.join(10)
    assert [a.status for a in answers] == [401]


# ---- certificates ----


def certificate_of(port, ca):
    with Connection(f"https://localhost:{port}/", ca) as connection:
        return connection.sock.getpeercert(binary_form=True)


def swap(source, target):
    """Both files, one after the other, each at once."""
    for a, b in zip(source, target):
        fresh = b.with_name(b.name + ".new")
        shutil.copyfile(a, fresh)
        fresh.chmod(0o600)
        fresh.replace(b)


@pytest.fixture
def own_certificate(work, certs, tmp_path):
    """Copies that can be replaced: (certificate, key)."""
    pair = tmp_path / "server.pem", tmp_path / "server.key"
    swap(certs.server, pair)
    return pair


@pytest.fixture
def pair_of_own(programs, work, certs, servers, own_certificate, tmp_path):
    made = []

    def start(**changes):
        relay = Relay(programs, work, *own_certificate, "--audit", f"file:{tmp_path}/relay.jsonl")
        token, key = relay.add_tunnel("own"), relay.add_agent("own-agent", "own")
        made.append(relay.start())
        gateway = Gateway(programs, work, token, changes.pop("upstream", servers.url("raw")), relay.control_plane,
                          changes.pop("ca", certs.ca.cert), **changes)
        made.insert(0, gateway)
        gateway.start()
        return relay, gateway, Endpoint(relay.url("own"), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert)

    yield start
    for it in made:
        it.stop()


@pytest.mark.parametrize("how", ["by-itself", "sighup"])
def test_relay_certificate(pair_of_own, own_certificate, certs, raw_control, fresh_key, tmp_path, how):
    """New connections get the new one; sessions and calls go on. Names that only the old one had are gone."""
    relay, gateway, endpoint = pair_of_own()
    before = certificate_of(relay.port, certs.ca.cert)
    call = Running(endpoint, fresh_key(), raw_control)
    swap(certs.ca.issue(f"renewed-{how}", san="DNS:localhost,DNS:renewed.example,IP:127.0.0.1"), own_certificate)
    if how == "sighup":
        relay.reload()
    relay.process.wait_line("new connections get the certificate that is valid until 20", 10)
    after = certificate_of(relay.port, certs.ca.cert)
    assert after != before
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL, host="renewed.example").status == 200
    assert call.finish().status == 200
    assert gateway.process.count("not connected") == 0
    assert "certificate" in records(tmp_path / "relay.jsonl", "config.reload")[0]["message"]
    swap(certs.server, own_certificate)
    start = relay.process.mark()
    relay.process.wait_line("new connections get the certificate", 10, start)
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL, host="renewed.example").status == 421


def test_bad_relay_certificates_are_not_taken(pair_of_own, own_certificate, certs, tmp_path):
    relay, gateway, endpoint = pair_of_own()
    before = certificate_of(relay.port, certs.ca.cert)
    cert, key = own_certificate

    def other_key():
        swap((certs.untrusted[1],), (key,))

    def expired():
        swap(certs.expired, own_certificate)

    def cut():
        cert.write_bytes(cert.read_bytes()[:200])

    for change, said in ((other_key, "server.key"), (expired, "has expired"), (cut, "server.pem"), (cert.unlink, "No such file")):
        start = relay.process.mark()
        change()
        relay.process.wait_line(f"error: .*the certificate stays as it was: .*{said}", 10, start)
        assert certificate_of(relay.port, certs.ca.cert) == before
        assert post(endpoint).status == 200
    bad = [r for r in records(tmp_path / "relay.jsonl", "config.reload") if r["priority"] == "3"]
    assert len(bad) == 4, bad
    swap(certs.server, own_certificate)
    relay.process.wait_line("new connections get the certificate", 10, start)


def test_gateway_follows_its_ca_file(pair_of_own, own_certificate, certs, raw_control, fresh_key, tmp_path):
    """The relay moves to another authority: first the gateway's CA file, then the relay's certificate. Nothing is restarted."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certs.ca.cert.read_bytes())
    relay, gateway, endpoint = pair_of_own(ca=ca)
    call = Running(endpoint, fresh_key(), raw_control)
    start = gateway.process.mark()
    ca.write_text("no certificate\n")
    gateway.process.wait_line("error: TLS to the relay: certificates stay as they were: .*ca.pem", 10, start)
    assert gateway.health()[0] == 200
    bad = [r for r in records(gateway.audit, "config.reload") if r["priority"] == "3"]
    assert len(bad) == 1 and "certificates stay as they were" in json.dumps(bad)
    start = gateway.process.mark()
    ca.write_bytes(certs.ca.cert.read_bytes() + certs.other_ca.cert.read_bytes())
    gateway.process.wait_line("TLS to the relay: certificates read again", 10, start)
    swap(certs.untrusted, own_certificate)
    relay.process.wait_line("new connections get the certificate", 10)
    assert call.finish().status == 200
    # A new connection, to give the new token, sees the new certificate.
    new = rotate(relay)
    relay.reload_and_wait()
    start = gateway.process.mark()
    gateway.set_token(new)
    gateway.process.wait_line(r"connected to .* again", 15, start)
    there = Endpoint(endpoint.url, "tunnel", endpoint.headers, certs.other_ca.cert)
    assert post(there).status == 200
