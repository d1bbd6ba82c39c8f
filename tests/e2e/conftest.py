"""Fixtures: certificates, servers, the tunnel, the clients. Everything started here is stopped here, by pid."""

import concurrent.futures
import itertools
import os
import pathlib
import re
import resource
import socket
import tempfile

import pytest

from lib import netns, scenes
from lib.certs import Certificates
from lib.drivers import Driver
from lib.lab import NAMES
from lib.procs import Process
from lib.rawhttp import Connection
from lib.tunnel import Endpoint, Gateway, Programs, Relay

HERE = pathlib.Path(__file__).parent
BIG = ("--max-request-bytes", "128M")


def pytest_addoption(parser):
    parser.addoption(
        "--direct-only", action="store_true", help="leave the tunnel out: for work on the tests themselves"
    )


def pytest_configure(config):
    for name in ("E2E_BUILD", "E2E_CACHE"):
        if name not in os.environ:
            pytest.exit(f"{name} is not set: start the tests with sh tests/e2e/run.sh BUILD_DIR JUNIT_XML", 4)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def cache():
    return pathlib.Path(os.environ["E2E_CACHE"])


@pytest.fixture(scope="session")
def programs():
    return Programs(pathlib.Path(os.environ["E2E_BUILD"]))


@pytest.fixture(scope="session")
def work():
    with tempfile.TemporaryDirectory(prefix="mcp-e2e-") as directory:
        yield pathlib.Path(directory)


@pytest.fixture(scope="session")
def certs(work):
    return Certificates(work / "certs")


@pytest.fixture
def gates(work):
    """A fresh directory that server, client and test share for barriers."""
    return pathlib.Path(tempfile.mkdtemp(dir=work))


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Servers:
    """The MCP servers, each started at its first use."""

    def __init__(self, cache):
        self.cache, self.running = cache, {}

    def _start(self, name):
        env = {"E2E_JS_ROOT": str(self.cache / "js")}
        if name == "everything":
            port = free_port()
            script = self.cache / "js/node_modules/@modelcontextprotocol/server-everything/dist/index.js"
            process = Process(name, [self.cache / "bin/node", script, "streamableHttp"], env={**env, "PORT": str(port)})
            process.wait_line(r"listening on port", 30)
            return process, port
        if name == "stock-json":
            env["STOCK_JSON"] = "1"
        argv = {
            "stock": [self.cache / "venv-sdk1/bin/python", "-u", HERE / "servers/stock_server.py"],
            "stateless": [self.cache / "bin/node", HERE / "servers/stateless.mjs"],
            "raw": [self.cache / "venv/bin/python", HERE / "servers/raw.py"],
        }[name.removesuffix("-json")]
        process = Process(name, argv, env=env)
        return process, int(process.wait_line(r" on http://127\.0\.0\.1:(\d+)", 30).group(1))

    def url(self, name):
        if name not in self.running:
            self.running[name] = self._start(name)
        process, port = self.running[name]
        assert process.running(), f"server {name} ended\n{process.tail()}"
        return f"http://127.0.0.1:{port}/mcp"

    def stop(self):
        for process, _ in self.running.values():
            process.kill()


@pytest.fixture(scope="session")
def servers(cache):
    servers = Servers(cache)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def relay(programs, work, certs):
    relay = Relay(programs, work, *certs.server, *BIG, "--hold", "1s").start()
    yield relay
    relay.stop()


class Tunnels:
    """One tunnel, gateway and agent for each server, made at first use."""

    def __init__(self, relay, programs, work, certs, servers):
        self.relay, self.programs, self.work, self.certs, self.servers = relay, programs, work, certs, servers
        self.made = {}

    def get(self, server):
        if server not in self.made:
            token = self.relay.add_tunnel(server)
            key = self.relay.add_agent(f"agent-{server}", server)
            self.relay.reload()
            gateway = Gateway(
                self.programs,
                self.work,
                token,
                self.servers.url(server),
                self.relay.control_plane,
                self.certs.ca.cert,
                *BIG,
            )
            self.made[server] = gateway.start(), key
        return self.made[server]

    def stop(self):
        failures = []
        for gateway, _ in self.made.values():
            try:
                gateway.stop()
            except AssertionError as error:
                failures.append(str(error))
        assert not failures, "\n".join(failures)


@pytest.fixture(scope="session")
def tunnels(relay, programs, work, certs, servers):
    tunnels = Tunnels(relay, programs, work, certs, servers)
    yield tunnels
    tunnels.stop()


@pytest.fixture
def endpoint(request, servers):
    """endpoint(server, via): where a client finds that server."""

    def get(server, via):
        if via == "direct":
            return Endpoint(servers.url(server), "direct")
        tunnels = request.getfixturevalue("tunnels")
        gateway, key = tunnels.get(server)
        assert gateway.process.running(), f"the gateway ended\n{gateway.process.tail()}"
        assert tunnels.relay.process.running(), f"the relay ended\n{tunnels.relay.process.tail()}"
        return Endpoint(tunnels.relay.url(server), "tunnel", {"Authorization": f"Bearer {key}"}, tunnels.certs.ca.cert)

    return get


@pytest.fixture
def both(request, endpoint):
    """both(server, scenario): runs scenario(endpoint) directly and through the tunnel; the records must be equal."""

    def compare(server, scenario):
        direct = scenario(endpoint(server, "direct"))
        if not request.config.getoption("--direct-only"):
            tunnelled = scenario(endpoint(server, "tunnel"))
            assert tunnelled == direct, "what is seen through the tunnel differs from what is seen directly"
        return direct

    return compare


@pytest.fixture(scope="session")
def drivers(cache, certs):
    made = {name: Driver(name, cache, certs.ca.cert) for name in ("ts1", "ts2", "py1", "py2")}
    yield made
    for driver in made.values():
        driver.stop()


@pytest.fixture
def raw_control(servers):
    """raw_control(verb, key): the side channel to the raw server; gives what was recorded under the key."""

    def call(verb, key):
        base = servers.url("raw").removesuffix("/mcp")
        with Connection(f"{base}/ctl/{verb}/{key}") as connection:
            return connection.call("GET").json()

    return call


_keys = itertools.count(1)


@pytest.fixture
def fresh_key(request):
    """A key for the raw server that nothing else uses."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())
    return lambda: f"{name}-{next(_keys)}"


@pytest.fixture
def relay_pair(programs, work, certs, servers):
    """A relay, a gateway and an endpoint of their own, so that they can be stopped."""
    made = []

    def start(*relay_options, gateway_options=(), upstream=None, wait_ready=True, env=None, **changes):
        relay = Relay(programs, work, *certs.server, *relay_options, env=env and env("relay"))
        token, key = relay.add_tunnel("own"), relay.add_agent("own-agent", "own")
        made.append(relay.start())
        gateway = Gateway(
            programs,
            work,
            token,
            upstream or servers.url("raw"),
            changes.pop("control_plane", None) or relay.control_plane,
            certs.ca.cert,
            *gateway_options,
            env=env and env("gateway"),
            **changes,
        )
        made.insert(0, gateway)
        gateway.start(wait_ready)
        gateway.token = token
        return relay, gateway, Endpoint(relay.url("own"), "tunnel", {"Authorization": f"Bearer {key}"}, certs.ca.cert)

    start.made = made
    yield start
    for it in made:
        it.stop()


@pytest.fixture(scope="session")
def play(programs, work, certs):
    """play(scenario): runs it to its end on a new network."""
    netns.require()
    certificate = certs.ca.issue("lab", san=NAMES)
    return lambda scene: scenes.play(scene, programs, work, certificate, certs.ca.cert)


@pytest.fixture(scope="session")
def running(request, play):
    """{name: future} of the scenarios that were asked for, under way side by side; the longest begin first."""
    items = [i for i in request.session.items if "running" in i.fixturenames]
    wanted = [(i.callspec.params["name"], i.module.TOGETHER[i.callspec.params["name"]]) for i in items]
    wanted.sort(key=lambda pair: -pair[1].seconds)
    pool = concurrent.futures.ThreadPoolExecutor(scenes.SIDE_BY_SIDE)
    yield {name: pool.submit(play, scene) for name, scene in wanted}
    pool.shutdown(cancel_futures=True)
