"""Several control planes: what one of them answers holds nobody back from the next; fail-over, and back."""

import time

import pytest
from lib.handmade import Door
from lib.rawhttp import JSON_HEADERS, Connection, rpc
from lib.tunnel import Gateway, Relay

TOKEN = "mtt_v0_" + "A" * 43
# Below the shortest wait after a refused token, and far above what the next control plane waits for.
SOON = 20


@pytest.fixture
def gateway_of(programs, work, certs, servers):
    made = []

    def start(urls, token=TOKEN):
        others = [word for url in urls[1:] for word in ("--control-plane", url)]
        made.append(Gateway(programs, work, token, servers.url("raw"), urls[0], certs.ca.cert, *others))
        return made[-1].start(wait_ready=False)

    yield start
    for gateway in made:
        gateway.stop()


@pytest.fixture
def doors(certs):
    made = [Door(certs.server) for _ in range(2)]
    yield made
    for door in made:
        door.close()


REFUSALS = {
    "token-refused": {"status": "401 Unauthorized"},
    "forbidden": {"status": "403 Forbidden"},
    "busy-for-ten-minutes": {"status": "503 Service Unavailable", "Retry_After": "600"},
    "too-many-for-ten-minutes": {"status": "429 Too Many Requests", "Retry_After": "600"},
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_of_one_control_plane(gateway_of, doors, answer):
    first, second = doors
    gateway = gateway_of([door.url for door in doors])
    with first.accept() as relay:
        relay.upgrade(**answer)
    began = time.monotonic()
    with second.accept() as relay:
        assert time.monotonic() - began < SOON
        relay.attach()
        gateway.wait_ready()
    # The second one is lost: the first has not allowed it yet, so it is the second again.
    with second.accept() as relay:
        relay.attach()
        gateway.wait_ready()


def test_all_refuse_the_token(gateway_of, doors):
    """Each is asked once, then there is silence until the token file changes; then all are asked again."""
    gateway = gateway_of([door.url for door in doors])
    for door in doors:
        with door.accept() as relay:
            relay.upgrade(status="401 Unauthorized")
    for door in doors:
        door.listener.settimeout(1.5)
        with pytest.raises(TimeoutError):
            door.accept()
    assert gateway.process.count("token-refused") == 2, gateway.process.tail()
    assert "token-refused" in gateway.health()[1]
    gateway.set_token("mtt_v0_" + "E" * 43)
    doors[0].listener.settimeout(SOON)
    doors[1].listener.settimeout(SOON)
    with doors[0].accept() as relay:
        relay.upgrade(status="401 Unauthorized")
    with doors[1].accept() as relay:
        relay.attach()
        gateway.wait_ready()


def test_fail_over_and_back(programs, work, certs, gateway_of):
    """Two relays, one of which is down at a time: calls get through by the other."""
    relays = [Relay(programs, work, *certs.server) for _ in range(2)]
    token = relays[0].add_tunnel("own")
    (relays[1].state / "tunnels").touch(mode=0o600)
    (relays[1].state / "tunnels").write_bytes((relays[0].state / "tunnels").read_bytes())
    keys = [relay.add_agent("own-agent", "own") for relay in relays]
    for relay in relays:
        relay.start()
    relays[1].stop()
    gateway = gateway_of([relay.control_plane for relay in relays], token)
    gateway.wait_ready()
    for up, down in ((1, 0), (0, 1)):
        call(relays[down], keys[down], certs)
        start = gateway.process.mark()
        relays[down].stop()
        relays[up].start()
        gateway.process.wait_line(rf"connected to localhost:{relays[up].port}\b", 20, start)
        gateway.wait_ready()
        call(relays[up], keys[up], certs)
    relays[0].stop()


def call(relay, key, certs):
    with Connection(relay.url("own"), certs.ca.cert) as connection:
        headers = [*JSON_HEADERS, ("Authorization", f"Bearer {key}")]
        answer = connection.call("POST", headers, rpc("tools/list"))
        assert answer.status == 200, (answer.status, answer.body)
