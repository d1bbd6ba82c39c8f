"""Names that change, resolvers that are dead, addresses that lead nowhere: in a network namespace with a DNS server of its own."""

import socket
import time

import pytest

from lib import netns
from lib.calls import CALL
from lib.dns import Dns
from lib.procs import SCALE, wait_until
from lib.rawhttp import JSON_HEADERS
from lib.recorder import Recorder
from lib.records import exchange
from lib.tunnel import Endpoint, Gateway, Relay

FIRST, SECOND, SIXTH = "10.9.0.1", "10.9.0.2", "fd09::1"
NOWHERE, NOWHERE_SIXTH = "10.66.0.1", "fd66::1"
NAME, PORT = "relay.test", 8443


class Network:
    def __init__(self, programs, directory, certificate, ca):
        netns.require()
        self.programs, self.dir, self.certificate, self.ca = programs, directory, certificate, ca
        self.space = netns.Namespace("names")
        for address in (FIRST, SECOND, NOWHERE):
            self.space.run("ip", "addr", "add", f"{address}/32", "dev", "lo")
        for address in (SIXTH, NOWHERE_SIXTH):
            self.space.run("ip", "-6", "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        # Packets for these are taken, and nobody answers.
        rules = f"ip daddr {NOWHERE} drop\nip6 daddr {NOWHERE_SIXTH} drop\n"
        table = "table inet nowhere {\nchain c {\ntype filter hook input priority 0; policy accept;\n" + rules + "}\n}\n"
        self.space.run("nft", "-f", "-", stdin=table)
        self.names = {NAME: [FIRST]}
        self.dns = Dns(self.space, directory, self.names)
        self.made = []

    def relay(self, address, like=None):
        host = f"[{address}]" if ":" in address else address
        listen = ("--listen", f"https://{host}:{PORT}", "--keepalive", "1s", "--audit", "none", "--hold", "1s")
        relay = Relay(self.programs, self.dir, *self.certificate, *listen, prefix=self.space.prefix())
        if like:
            (relay.state / "tunnels").touch(mode=0o600)
            (relay.state / "tunnels").write_bytes((like.state / "tunnels").read_bytes())
        else:
            relay.token = relay.add_tunnel("own")
            relay.agent_key = relay.add_agent("agent", "own")
        self.made.append(relay)
        return relay.start()

    def gateway(self, token, upstream="http://127.0.0.1:9/mcp"):
        control = f"wss://{NAME}:{PORT}/v1/tunnel"
        gateway = Gateway(self.programs, self.dir, token, upstream, control, self.ca, "--keepalive", "1s", prefix=self.dns.prefix,
                          health_listen=f"unix:{self.dir}/health.sock")
        self.made.insert(0, gateway)
        return gateway.start(wait_ready=False)

    def close(self):
        try:
            for it in self.made:
                it.stop()
        finally:
            self.dns.stop()
            self.space.remove()


@pytest.fixture(scope="module")
def certificate(certs):
    return certs.ca.issue("names", san=f"DNS:{NAME},DNS:localhost,IP:127.0.0.1")


@pytest.fixture
def network(programs, tmp_path, certs, certificate):
    it = Network(programs, tmp_path, certificate, certs.ca.cert)
    yield it
    it.close()


def attached(relay, count=1, timeout=15):
    wait_until(lambda: relay.process.count("attached from") >= count, timeout, relay.process.tail)


def test_the_next_dial_follows_the_name(network):
    one = network.relay(FIRST)
    network.gateway(one.token)
    attached(one)
    two = network.relay(SECOND, like=one)
    network.names[NAME] = [SECOND]
    one.stop()
    attached(two)


def answers(gateway):
    began = time.monotonic()
    assert gateway.health("/healthz")[0] == 200
    assert time.monotonic() - began < 2 * SCALE, "the loop stood still"


def test_a_dead_resolver_stops_nothing_else(network):
    """The session's keepalive and health go on while the MCP server's name is asked for in vain; then the relay's own."""
    one = network.relay(FIRST)
    gateway = network.gateway(one.token, "http://server.test:9/mcp")
    attached(one)
    network.dns.silent = True
    asked = network.dns.asked
    wait_until(lambda: network.dns.asked > asked, 15, "somebody to ask")
    for _ in range(30):
        answers(gateway)
        time.sleep(0.1)
    assert not one.process.find("lost its connection"), one.process.tail()
    one.stop()
    asked = network.dns.asked
    wait_until(lambda: network.dns.asked > asked, 15, "the gateway to dial")
    for _ in range(10):
        answers(gateway)
        time.sleep(0.1)
    one.start()
    network.dns.silent = False
    attached(one, timeout=40)


@pytest.mark.parametrize(
    "address, addresses",
    [(FIRST, [NOWHERE_SIXTH, FIRST]), (SIXTH, [NOWHERE, SIXTH]), (FIRST, [NOWHERE, FIRST]), (FIRST, [NOWHERE_SIXTH, NOWHERE, FIRST])],
    ids=["sixth-leads-nowhere", "fourth-leads-nowhere", "one-of-two-leads-nowhere", "two-of-three-lead-nowhere"],
)
def test_an_address_that_leads_nowhere_is_passed_over(network, address, addresses):
    """RFC 8305: the next one is tried beside it. Waiting for the first to fail would take 15 s."""
    one = network.relay(address)
    network.names[NAME] = addresses
    gateway = network.gateway(one.token)
    line = gateway.process.wait_line("connected to|not connected to", 14)
    assert line.group(0) == "connected to", gateway.process.tail()


# ---- the MCP server's own name ----


@pytest.mark.parametrize("address", ["169.254.169.254", "198.51.100.7"], ids=["metadata", "public"])
def test_a_name_cannot_be_moved_to_where_the_server_may_not_be(network, address):
    """DNS rebinding: the address is judged for each connection, not at the start alone, and each that the name has."""
    network.space.run("ip", "addr", "add", f"{address}/32", "dev", "lo")
    with network.space.entered():
        server = Recorder()
        port = int(server.authority.split(b":")[1])
        trap = socket.create_server((address, port))
    trap.setblocking(False)
    server.authority = f"server.test:{port}".encode()
    network.names["server.test"] = ["127.0.0.1"]
    relay = network.relay(FIRST)
    gateway = network.gateway(relay.token, f"http://server.test:{port}/mcp")
    attached(relay)
    endpoint = Endpoint(relay.url("own"), "tunnel", {"Authorization": f"Bearer {relay.agent_key}"}, network.ca)

    def call():
        with network.space.entered():
            return exchange(endpoint, "POST", JSON_HEADERS, CALL)

    def no_connection():
        return "mcp_tunnel_gateway_upstream_connections 0\n" in gateway.health("/metrics")[1]

    assert call().status == 200
    network.names["server.test"] = [address]
    wait_until(no_connection, 20, "the kept connection to end")
    answer = call()
    assert (answer.status, answer.json()["error"]["data"]["reason"]) == (502, "upstream-unreachable")
    gateway.process.wait_line("no address of server.test is allowed")
    # The log says where; the far side does not hear of names and addresses inside.
    assert b"server.test" not in answer.body and address.encode() not in answer.body
    network.names["server.test"] = [address, "127.0.0.1"]
    assert call().status == 200
    with pytest.raises(BlockingIOError):
        trap.accept()
    server.check()
    server.stop()
    trap.close()
