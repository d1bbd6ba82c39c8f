"""Networks whose only way out is an HTTP proxy: tinyproxy in the middle, and no route around it."""

import os

import pytest

from lib import netns
from lib.lab import NAMES, Lab, until
from lib.procs import Process

PROXY = "10.77.1.1:3128"


class ProxiedNetwork(netns.Network):
    """The middle forwards nothing of the tunnel; a proxy there may."""

    def _make(self):
        super()._make()
        rules = "table ip noway {\nchain c {\ntype filter hook forward priority 0; policy accept;\n"
        self.middle.run("nft", "-f", "-", stdin=rules + f"tcp dport {self.port} reject with tcp reset\n}}\n}}\n")


@pytest.fixture(scope="module")
def certificate(certs):
    netns.require()
    return certs.ca.issue("proxied", san=NAMES)


@pytest.fixture
def lab(programs, work, certs, certificate):
    made = []

    def make(*gateway):
        made.append(Lab(programs, work, certificate, certs.ca.cert, gateway=gateway, network=ProxiedNetwork))
        return made[-1]

    yield make
    for it in made:
        it.close()


def start_proxy(lab, *lines, port=8443):
    config = lab.dir / f"tinyproxy-{os.getpid()}.conf"
    config.write_text("\n".join(["Port 3128", "Listen 10.77.1.1", "Timeout 600", f"ConnectPort {port}", "MaxClients 20",
                                 'LogLevel Info', *lines, ""]))
    proxy = Process("tinyproxy", [*lab.net.middle.prefix(), "tinyproxy", "-d", "-c", str(config)])
    proxy.wait_line("Accepting connections|listening on|Initializing filter|Setting the various signals")
    lab.helpers.append(proxy)
    return proxy


def secret_file(lab, name, text):
    path = lab.dir / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_calls_pass_through_a_proxy(lab):
    """Also after the proxy has cut the connection: each dial goes through it again."""
    it = lab("--proxy", f"http://{PROXY}")

    async def scenario(it):
        await it.call("json", size=300000)
        call = it.agent("sse", steps=20, seconds=2)
        async with call as agent:
            await until(lambda: it.server.of(agent.key), 10, "the call to begin")
            it.net.middle.run("ss", "-K", "sport", "=", ":3128")
            await agent.finish()
        it.outcomes["sse"] += 1
        it.verify(2)

    scenario.before = start_proxy
    it.run(scenario)
    assert it.gateway.process.count("session resumed") == 1


def test_credentials_from_a_file(lab):
    it = lab()
    it.gateway_options = ("--proxy", f"http://{PROXY}", "--proxy-auth-file", str(secret_file(it, "proxy-auth", "ann:s3cret\n")))

    async def scenario(it):
        await it.call("json", size=100)

    scenario.before = lambda it: start_proxy(it, "BasicAuth ann s3cret")
    it.run(scenario)
    assert "s3cret" not in it.gateway.process.text()


def test_from_the_environment(lab, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://ann:s3cret@{PROXY}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    it = lab()

    async def scenario(it):
        await it.call("json", size=100)

    scenario.before = lambda it: start_proxy(it, "BasicAuth ann s3cret")
    it.run(scenario)
    assert "s3cret" not in it.gateway.process.text()


@pytest.mark.parametrize(
    "lines, options, said",
    [
        (["BasicAuth ann other"], (), r"it wants a user and password \(407\): put them into a file for --proxy-auth-file \(proxy-refused\)"),
        (["BasicAuth ann other"], ("auth",), r"it does not accept the user and password \(407|it refuses a connection to \S+:8443: 401"),
        ([], (), r"proxy 10\.77\.1\.1:3128: it refuses a connection to \S+:8443: 403"),
        (None, (), r"proxy 10\.77\.1\.1:3128: cannot connect to 10\.77\.1\.1:3128: Connection refused \(connect-failed\)"),
    ],
    ids=["no-credentials", "wrong-credentials", "forbidden", "no-proxy-there"],
)
def test_refusals_are_told(lab, lines, options, said):
    it = lab()
    it.gateway_options = ("--proxy", f"http://{PROXY}")
    if options:
        it.gateway_options += ("--proxy-auth-file", str(secret_file(it, "proxy-auth-wrong", "ann:wrong\n")))
    if lines is not None:
        start_proxy(it, *lines, port=8443 if lines else 443)
    it.relay.start()
    it.add_gateway(wait_ready=False)
    it.gateway.process.wait_line(said)


def test_the_password_changes_while_it_runs(lab):
    """The file is read for each dial: the proxy's new password is used at the next one."""
    it = lab()
    auth = secret_file(it, "proxy-auth", "ann:s3cret\n")
    it.gateway_options = ("--proxy", f"http://{PROXY}", "--proxy-auth-file", str(auth))

    async def scenario(it):
        await it.call("json", size=100)
        await it.aside(it.proxy.stop)
        mark = it.gateway.process.mark()
        it.proxy = await it.aside(start_proxy, it, "BasicAuth ann changed")
        await it.aside(it.gateway.process.wait_line, r"\(proxy-refused\)|\(connection-lost\)", 15, mark)
        secret_file(it, "proxy-auth", "ann:changed\n")
        await it.aside(it.gateway.process.wait_line, "connected to .* again", 40, mark)
        await it.call("json", size=100)

    def before(it):
        it.proxy = start_proxy(it, "BasicAuth ann s3cret")

    scenario.before = before
    it.run(scenario)
    said = it.gateway.process.text()
    assert "s3cret" not in said and "changed" not in said.replace("has changed", "")


@pytest.mark.parametrize(
    "no_proxy, through",
    [("10.77.2.0/24", False), ("*", False), ("10.77.2.2:8443", False), ("10.77.2.2:443,example.com", True)],
)
def test_no_proxy(lab, monkeypatch, no_proxy, through):
    """What is to be reached straight is: there is no such way in this network, and the proxy is not asked."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://{PROXY}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    it = lab()
    start_proxy(it)
    it.relay.start()
    it.add_gateway(wait_ready=False)
    line = it.gateway.process.wait_line("(not )?connected to .*")
    assert bool(line.group(1)) != through, line.group(0)
