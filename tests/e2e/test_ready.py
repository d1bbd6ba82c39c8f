"""`/readyz` against the truth: in each situation a real call is tried at the same moment, and gets through where it says 200 and
nowhere else; systemd's STATUS and the metric say the same. Side by side: each situation has a tunnel of its own.
"""

import concurrent.futures
import signal
import ssl
import threading

import pytest

from lib import netns
from lib.handmade import Door
from lib.journald import Journald
from lib.procs import wait_until
from lib.ready import NAME, Proxy, World, fill

SIDE_BY_SIDE = 10
TABLE = {}


def situation(function):
    TABLE[function.__name__] = function
    return function


# ---- the session ----


@situation
def all_is_well(it):
    it.start_relay().start_gateway()
    said = it.expect()
    assert set(said["checks"]) == {"session", "upstream", "audit", "room", "running"}


@situation
def not_attached_yet(it):
    it.start_relay().wire.passes.clear()
    it.start_gateway()
    it.expect("session", "dialling|upgrading|waiting|connect-failed|tls-failed")
    it.wire.passes.set()
    it.expect(timeout=30)


@situation
def control_plane_refuses_connections(it):
    it.start_relay().wire.stop()
    it.start_gateway()
    it.expect("session", "connect-failed")
    it.wire.start()
    it.expect(timeout=30)


@situation
def relay_is_killed(it):
    it.start_relay().start_gateway()
    it.expect()
    it.relay.process.kill()
    it.wire.stop()
    it.expect("session", "connection-lost|connect-failed")
    it.relay.start()
    it.wire.start()
    it.expect(timeout=30)


@situation
def relay_is_restarted(it):
    it.start_relay().start_gateway()
    it.expect()
    it.relay.stop()
    it.wire.stop()
    it.expect("session", "relay-stopped|connect-failed")
    it.relay.start()
    it.wire.start()
    it.expect(timeout=30)


@situation
def relay_drains(it):
    it.start_relay().start_gateway()
    it.expect()
    with it.calls_under_way():
        it.relay.process.send_signal(signal.SIGTERM)
        it.expect("session", "relay-going-away")


@situation
def link_is_lost_for_a_moment(it):
    """Within the resume's grace a call waits, and gets through."""
    it.start_relay(hold=20).start_gateway()
    it.expect()
    it.wire.passes.clear()
    it.wire.cut()
    ended = []
    wait_until(lambda: '"resuming"' in it.gateway.health()[1], 10, "a resume")
    call = threading.Thread(target=lambda: ended.append(it.call()))
    call.start()
    status, body = it.gateway.health()
    assert status == 200 and '"resuming"' in body, body
    wait_until(lambda: it.gateway.systemd.status.startswith("Ready: resuming"), 5, it.gateway.systemd.status)
    assert "\nmcp_tunnel_gateway_session_attached 0\n" in it.gateway.ask("/metrics").body.decode()
    it.wire.passes.set()
    call.join()
    assert ended == [None], ended
    it.expect()


@situation
def grace_is_over(it):
    it.start_relay("--resume-grace", "1s").start_gateway()
    it.expect()
    it.wire.passes.clear()
    it.wire.cut()
    it.expect("session", "connection-lost|connect-failed|tls-failed|not-a-control-plane")
    it.wire.passes.set()
    it.expect(timeout=30)


@situation
def token_is_refused(it):
    it.start_relay().start_gateway(token="mtt_own_" + "A" * 43)
    it.expect("session", "token-refused")
    it.gateway.set_token(it.token)
    it.expect()


@situation
def token_is_of_no_tunnel_here(it):
    it.start_relay().start_gateway(token="mtt_other_" + "A" * 43)
    it.expect("session", "token-refused")


@situation
def token_is_revoked(it):
    it.start_relay().start_gateway()
    it.expect()
    it.relay.command("tunnel", "remove", "own")
    it.relay.reload()
    it.expect("session", "token-revoked|token-refused")


@situation
def token_file_is_changed_for_a_bad_one(it):
    """The session goes on with the one that it has."""
    it.start_relay().start_gateway()
    it.expect()
    it.gateway.set_token("mtt_own_" + "A" * 43)
    it.gateway.process.wait_line("the new token cannot be used")
    it.expect()


@situation
def relay_is_busy(it):
    door = Door(it.certificate)
    it.start_relay().start_gateway(control_plane=door.url)
    with door.accept() as relay:
        relay.upgrade(status="503 Service Unavailable", Retry_After="60")
    it.expect("session", "relay-busy")
    door.close()


@situation
def another_gateway_took_over(it):
    it.start_relay().start_gateway()
    it.expect()
    it.start_gateway()
    it.expect()
    it.gateways.reverse()
    it.expect()


# ---- TLS and the way out ----


def tls(name, reason="tls-failed", **options):
    def function(it):
        certificate, ca = options.get("certificate"), options.get("ca")
        door = Door(getattr(it.certs, certificate) if certificate else it.certificate)
        if options.get("asks"):
            door.context.verify_mode = ssl.CERT_REQUIRED
            door.context.load_verify_locations(it.certs.ca.cert)

        def serve():
            try:
                with door.accept() as relay:
                    relay.connection.until(b"\r\n\r\n")
            except Exception:
                pass

        threading.Thread(target=serve, daemon=True).start()
        changes = {"ca": it.certs.other_ca.cert} if ca else {}
        it.start_relay().start_gateway(*options.get("more", ()), control_plane=door.url, **changes)
        it.expect("session", reason)
        door.close()

    TABLE[name] = function


tls("ca_is_another", ca="other")
tls("certificate_is_of_another_name", certificate="wrong_name")
tls("certificate_is_expired", certificate="expired")
tls("certificate_is_not_pinned", more=("--pin-sha256", "A" * 43 + "="))
tls("client_certificate_is_missing", asks=True)


def proxied(name, reason, answer=b"200 OK", down=False):
    def function(it):
        it.start_relay()
        proxy = it.keep(Proxy(lambda: it.relay.port))
        proxy.answer = answer
        if down:
            proxy.stop()
        it.start_gateway("--proxy", f"http://127.0.0.1:{proxy.port}", control_plane=f"wss://{NAME}:443/v1/tunnel")
        if reason:
            it.expect("session", reason)
            proxy.answer = b"200 OK"
            if down:
                proxy.start()
        it.expect(timeout=30)

    TABLE[name] = function


proxied("through_a_proxy", None)
proxied("proxy_is_down", "connect-failed", down=True)
proxied("proxy_refuses", "proxy-refused", b"403 Forbidden")
proxied("proxy_wants_a_password", "proxy-refused", b"407 Proxy Authentication Required")


@situation
def name_is_not_resolved(it):
    it.start_relay().start_gateway(control_plane="wss://no-such-name.invalid/v1/tunnel")
    it.expect("session", "name-not-resolved|connect-failed", timeout=30)


# ---- the MCP server ----


@situation
def server_is_down_and_comes_back(it):
    it.server.stop()
    it.start_relay().start_gateway()
    it.expect("upstream", "upstream-unreachable")
    it.server.start()
    it.expect()


@situation
def server_goes_down_later(it):
    it.start_relay().start_gateway()
    it.expect()
    it.server.stop()
    it.expect("upstream", "upstream-unreachable")
    it.server.start()
    it.expect()


@situation
def server_is_where_none_may_be(it):
    url = it.server.url.replace("127.0.0.1", "localhost")
    it.start_relay().start_gateway("--upstream-allow", "10.0.0.0/8", upstream=url)
    it.expect("upstream", "upstream-unreachable")


@situation
def server_has_another_ca(it):
    door = Door(it.certs.untrusted)
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            try:
                door.accept()
            except Exception:
                pass

    door.listener.settimeout(1)
    threading.Thread(target=serve, daemon=True).start()
    it.start_relay().start_gateway(upstream=door.url.replace("wss://", "https://").replace("/v1/tunnel", "/mcp"))
    it.expect("upstream", "upstream-unreachable")
    stop.set()
    door.close()


def broken_server(name, mode, reason):
    def at_start(it):
        it.server.mode = mode
        it.start_relay().start_gateway("--call-timeout", "2s")
        it.expect("upstream", reason)
        it.server.mode = "answer"
        it.server.cut()
        it.expect()

    def later(it):
        it.start_relay().start_gateway("--call-timeout", "2s")
        it.expect()
        it.server.cut()
        it.server.mode = mode
        assert it.call()
        it.expect("upstream", reason)
        it.server.mode = "answer"
        it.server.cut()
        it.expect()

    TABLE[name] = at_start
    TABLE[f"{name}_later"] = later


broken_server("server_never_answers", "silent", "upstream-timeout|not-tried-yet")
broken_server("server_answers_garbage", "garbage", "upstream-protocol")
broken_server("server_closes_before_the_answer", "close", "upstream-closed")


@situation
def server_is_no_socket_file(it):
    it.start_relay().start_gateway(upstream=f"unix:{it.dir}/none.sock:/mcp")
    it.expect("upstream", "upstream-unreachable")


@situation
def server_is_slow_and_well(it):
    """A call that takes long is no reason: others are answered."""
    it.start_relay().start_gateway()
    it.expect()
    with it.calls_under_way() as (call,):
        it.server.mode = "answer"
        call.join(6)
        it.expect()


# ---- the audit log ----


@situation
def audit_disk_is_full(it):
    disk = it.small_disk()
    it.start_relay().start_gateway(audit=f"file:{disk}/audit.log")
    it.expect()
    filler = fill(disk)
    wait_until(it.call, 10, "a record that has no room")
    it.expect("audit", "audit-unavailable")
    filler.unlink()
    it.expect()


@situation
def audit_disk_is_full_and_may_be(it):
    disk = it.small_disk()
    it.start_relay().start_gateway("--audit-on-failure", "continue", audit=f"file:{disk}/audit.log")
    it.expect()
    fill(disk)
    wait_until(lambda: it.call() or "audit-unavailable" in it.gateway.health()[1], 10, "a record that has no room")
    said = it.expect()
    assert said["checks"]["audit"]["reason"] == "audit-unavailable", said


@situation
def audit_file_is_moved_away(it):
    """What is open goes on, as with logrotate."""
    it.start_relay().start_gateway()
    it.expect()
    it.gateway.audit.rename(it.gateway.dir / "moved.log")
    it.expect()


def journal(name, *options, bad):
    def function(it):
        with Journald(it.dir / "journald") as journald:
            it.start_relay().start_gateway(*options, audit="journald", prefix=journald.prefix)
            it.expect()
            journald.kill()
            journald.remove_socket()
            wait_until(lambda: it.call() or "audit-unavailable" in it.gateway.health()[1], 10, "a record that is not taken")
            it.expect(*(["audit", "audit-unavailable"] if bad else []))
            journald.start()
            it.expect()
            it.gateway.stop()

    TABLE[name] = function


journal("journald_is_stopped", bad=True)
journal("journald_is_stopped_and_may_be", "--audit-on-failure", "continue", bad=False)


# ---- the gateway itself ----


@situation
def gateway_drains(it):
    it.start_relay().start_gateway()
    it.expect()
    with it.calls_under_way():
        it.gateway.process.send_signal(signal.SIGTERM)
        it.expect("running", "stopping")


@situation
def all_streams_are_open(it):
    it.start_relay().start_gateway("--max-streams", "2")
    it.expect()
    with it.calls_under_way(2):
        it.expect("room", "max-streams")
    it.expect()


@situation
def files_are_read_again(it):
    it.start_relay().start_gateway()
    it.expect()
    mark = it.gateway.process.mark()
    it.gateway.process.send_signal(signal.SIGHUP)
    it.gateway.process.wait_line("SIGHUP", 10, mark)
    it.expect()


@situation
def policy_denies_every_tool(it):
    """That is the operator's will: the tunnel works."""
    it.start_relay().start_gateway("--deny-tool", "*")
    it.expect()


@pytest.fixture(scope="module")
def under_way(request, programs, work, certs):
    netns.require()
    certificate = certs.ca.issue("ready", san=f"DNS:localhost,IP:127.0.0.1,DNS:{NAME}")

    def play(function):
        it = World(programs, work, certs, certificate)
        try:
            function(it)
        finally:
            it.close()

    names = [i.callspec.params["name"] for i in request.session.items if i.module is request.module and hasattr(i, "callspec")]
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {name: pool.submit(play, TABLE[name]) for name in names}


@pytest.mark.parametrize("name", TABLE)
def test_ready_is_true(under_way, name):
    under_way[name].result()
