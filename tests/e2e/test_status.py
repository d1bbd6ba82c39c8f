"""`mcp-tunnel-relay status`: what the relay is doing, for people and for programs."""

import json
import re
import stat

from conftest import free_port
from lib.calls import CALL, Running
from lib.handmade import HandGateway
from lib.procs import run, wait_until
from lib.rawhttp import JSON_HEADERS, Connection
from lib.records import exchange
from lib.tunnel import Relay


def status(relay):
    return json.loads(relay.command("status", "--json"))


def tunnel(relay, name="own"):
    return next(t for t in status(relay)["tunnels"] if t["name"] == name)


def test_json(relay_pair, raw_control, fresh_key):
    relay, gateway, endpoint = relay_pair(region="north")
    relay.add_tunnel("idle")
    relay.reload_and_wait()
    call = Running(endpoint, fresh_key(), raw_control)
    now = status(relay)
    assert (now["pid"], now["state"], now["gateways_attached"], now["calls_open"], now["calls_waiting"]) == (
        relay.process.pid, "running", 1, 1, 0)
    assert 0 < now["uptime_s"] < 300
    assert 15 <= now["certificate"]["days_left"] <= 20
    assert [t["name"] for t in now["tunnels"]] == ["idle", "own"]
    assert now["tunnels"][0]["sessions"] == [] and now["tunnels"][0]["agents"] == 0
    (session,) = now["tunnels"][1]["sessions"]
    assert (session["state"], session["region"], session["token"], session["calls_open"], session["resumed"]) == (
        "attached", "north", "newest", 1, 0)
    assert re.fullmatch(r"mcp-tunnel-gateway/\d.*", session["version"])
    assert re.fullmatch(r"127\.0\.0\.1:\d+", session["peer"])
    assert 0 <= session["state_s"] <= session["age_s"] < 300
    assert gateway.process.find(rf"session {session['id']}")
    assert call.finish().status == 200
    relay.command("tunnel", "rotate", "own", "--old-for", "2h")
    wait_until(lambda: tunnel(relay)["tokens"] == 2, 10, "two tokens")
    mine = tunnel(relay)
    assert mine["sessions"][0]["token"] == "old"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", mine["old_token_until"])


def test_lost_and_back(relay_pair):
    relay, gateway, endpoint = relay_pair()
    gateway.process.kill()
    wait_until(lambda: tunnel(relay)["sessions"][0]["state"] == "lost", 10, "the loss")
    lost = tunnel(relay)["sessions"][0]
    assert lost["peer"].startswith("127.0.0.1:") and status(relay)["gateways_attached"] == 0
    gateway.start()
    wait_until(lambda: tunnel(relay)["sessions"][-1]["state"] == "attached", 10, "the next one")


def test_table(relay_pair):
    relay, gateway, _ = relay_pair()
    relay.add_tunnel("a-tunnel-with-a-long-name")
    relay.command("tunnel", "rotate", "own")
    relay.reload_and_wait()
    text = relay.command("status")
    lines = text.splitlines()
    assert re.fullmatch(r"mcp-tunnel-relay \S+, up for [0-9.dhms ]+, pid \d+", lines[0])
    assert re.fullmatch(r"Certificate valid until 20\d\d-\S+Z, \d+ days", lines[1])
    assert lines[2] == "2 tunnels, 1 gateway attached, 0 calls open, 0 waiting for a gateway"
    assert lines[3] == "The old token of own is valid until the next rotation."
    head = next(line for line in lines if line.startswith("TUNNEL"))
    row = next(line for line in lines if line.startswith("own "))
    for column, value in (("SESSION", r"[0-9a-f]{8}"), ("STATE", "attached"), ("CALLS", " *0"), ("TOKEN", "old "), ("GATEWAY", "mcp-tunnel-gateway/"),
                          ("FROM", r"127\.0\.0\.1:")):
        assert re.match(value, row[head.index(column + " " if column != "FROM" else column) :]), (column, text)
    assert "no gateway" in next(line for line in lines if line.startswith("a-tunnel"))


def test_no_secrets(relay_pair):
    relay, gateway, endpoint = relay_pair()
    text = relay.command("status", "--json") + relay.command("status")
    assert "mtt_" not in text and "mtk_" not in text
    assert gateway.token.removeprefix("mtt_own_") not in text and endpoint.headers["Authorization"].split()[-1] not in text
    for line in (relay.state / "tunnels").read_text().splitlines()[1:]:
        assert line.split()[2] not in text
    assert not re.search(r"[0-9a-f]{16}", text)


def test_the_socket_is_private_and_goes_away(relay_pair):
    relay, _, _ = relay_pair()
    socket = relay.state / "status.sock"
    assert stat.S_ISSOCK(socket.stat().st_mode) and stat.S_IMODE(relay.state.stat().st_mode) == 0o700
    relay.process.stop()
    assert not socket.exists()


def test_admin_listener(programs, relay_pair):
    port = free_port()
    relay, _, _ = relay_pair("--admin-listen", f"127.0.0.1:{port}")
    code, out, err = run([programs.relay, "status", "--admin", f"127.0.0.1:{port}", "--json"])
    assert (code, err) == (0, "") and json.loads(out)["gateways_attached"] == 1
    for headers in ([("Origin", "http://evil.example")], []):
        with Connection(f"http://127.0.0.1:{port}/status") as connection:
            answer = connection.call("GET", headers, host="evil.example" if not headers else None)
        assert answer.status == 403 and b"tunnels" not in answer.body


def test_words_of_a_hostile_gateway(relay_pair, certs):
    """Version and region are the gateway's: they can neither break the JSON nor write to the terminal."""
    relay, _, _ = relay_pair()
    token = relay.add_tunnel("other")
    relay.reload_and_wait()
    software, region = '\x1b[2J"},{"name":"x', "a b%s\xe2\x80\xae" + "x" * 200
    with HandGateway(relay, certs.ca.cert, token, "other") as gateway:
        assert gateway.upgrade() == 101
        gateway.greet(software=software, region=region)
        wait_until(lambda: tunnel(relay, "other")["sessions"][0]["state"] == "attached", 10, "the session")
        (session,) = tunnel(relay, "other")["sessions"]
        assert session["version"] == software and session["region"].startswith("a b%s")
        text = relay.command("status")
    assert all(0x20 <= ord(c) < 0x7F or c == "\n" for c in text)
    assert "?[2J" in text and len(text.splitlines()) == 7


def test_when_it_cannot_be_asked(programs, relay_pair, tmp_path):
    relay, _, _ = relay_pair()
    relay.process.stop()
    for args, code, said in (
        (("--state-dir", relay.state), 1, "no relay is running"),
        (("--state-dir", tmp_path / "none"), 1, "no relay is running"),
        (("--admin", f"127.0.0.1:{free_port()}"), 1, "no relay is running"),
        (("--admin", "nowhere"), 2, '--admin "nowhere"'),
        (("--table",), 2, '"--table"'),
        (("own",), 2, '"own"'),
        (("--admin", "127.0.0.1:1", "--state-dir", "/"), 2, "without --state-dir"),
    ):
        got, out, err = run([programs.relay, "status", *args])
        assert (got, out) == (code, "") and said in err and len(err.splitlines()) == 1, (args, got, out, err)
    code, out, _ = run([programs.relay, "status", "--help"])
    assert code == 0 and "--state-dir" in out


def test_two_relays_on_one_directory(programs, relay_pair, certs, work):
    """The socket stays with the first."""
    relay, _, endpoint = relay_pair("--audit", "none")
    second = Relay(programs, work, *certs.server, "--audit", "none")
    second.state.rmdir()
    second.state = relay.state
    second.start()
    try:
        second.process.wait_line("no socket for mcp-tunnel-relay status", 10)
        assert status(relay)["pid"] == relay.process.pid
    finally:
        second.stop()
    assert status(relay)["pid"] == relay.process.pid
    assert exchange(endpoint, "POST", JSON_HEADERS, CALL).status == 200
