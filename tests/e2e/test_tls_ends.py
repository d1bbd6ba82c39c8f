"""TLS at both ends of the gateway, with HAProxy as the one that asks for certificates: in front of the relay, and in front of
the MCP server. And where the MCP server may be.
"""

import base64
import hashlib
import pathlib
import re
import subprocess
from urllib.parse import urlsplit

import pytest

from conftest import free_port
from lib.calls import CALL
from lib.procs import Process, run, wait_until
from lib.rawhttp import JSON_HEADERS
from lib.records import exchange

CONFIG = """
global
    maxconn 200
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend f
    bind 127.0.0.1:{port} ssl crt {pem} {verify} {options}
    {host}
    default_backend b
backend b
    server s {target}
"""


@pytest.fixture
def haproxy(work):
    made = []

    def start(target, certificate, client_ca=None, options="", host=True):
        port = free_port()
        base = work / f"haproxy-{port}"
        pem = base.with_suffix(".pem")
        pem.write_bytes(certificate[0].read_bytes() + certificate[1].read_bytes())
        verify = f"ca-file {client_ca} verify required" if client_ca else ""
        config = base.with_suffix(".cfg")
        config.write_text(CONFIG.format(port=port, pem=pem, verify=verify, target=target, options=options,
                                        host=f"http-request set-header Host {target}" if host else ""))
        made.append(Process("haproxy", ["haproxy", "-db", "-f", str(config)]))
        wait_until(lambda: run(["ss", "-Hltn", f"sport = :{port}"])[1].strip(), 15, made[-1].tail)
        return port

    yield start
    for process in made:
        process.kill()


@pytest.fixture(scope="module")
def client(certs):
    cert, key = certs.ca.issue("client", san="DNS:client.example")
    key.chmod(0o600)
    return str(cert), str(key)


def pin_of(cert):
    pem = subprocess.run(["openssl", "x509", "-in", cert, "-noout", "-pubkey"], check=True, capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "der"], input=pem, check=True, capture_output=True)
    return base64.b64encode(hashlib.sha256(der.stdout).digest()).decode()


def post(endpoint):
    return exchange(endpoint, "POST", JSON_HEADERS, CALL)


def target_of(url):
    return urlsplit(url).netloc


# ---- in front of the relay ----


def test_relay_that_asks_for_a_client_certificate(relay_pair, haproxy, certs, client):
    relay, gateway, endpoint = relay_pair(control_plane="wss://localhost:1/v1/tunnel", wait_ready=False)
    port = haproxy(target_of(relay.control_plane) + f" ssl verify required ca-file {certs.ca.cert} sni str(localhost) "
                   "verifyhost localhost", certs.server, certs.ca.cert, host=False)
    gateway.stop()
    at = gateway.argv.index("wss://localhost:1/v1/tunnel")
    gateway.argv[at] = f"wss://localhost:{port}/v1/tunnel"
    plain = list(gateway.argv)
    gateway.argv += ["--client-cert", client[0], "--client-key", client[1]]
    gateway.start()
    assert post(endpoint).status == 200
    gateway.stop()
    gateway.argv = plain
    gateway.start(wait_ready=False)
    gateway.process.wait_line(r"the peer refused: it asks for a certificate \(tls-failed\)")


def test_pins(relay_pair, certs):
    other = pin_of(certs.untrusted[0])
    for pins in ([pin_of(certs.server[0])], [other, pin_of(certs.server[0])], [pin_of(certs.ca.cert)]):
        _, gateway, endpoint = relay_pair(gateway_options=[word for pin in pins for word in ("--pin-sha256", pin)])
        assert post(endpoint).status == 200
    _, gateway, _ = relay_pair(gateway_options=["--pin-sha256", other], wait_ready=False)
    gateway.process.wait_line(r"no key in the certificate chain is one of those pinned \(tls-failed\)")


def refused(programs, work, *options):
    """What the program says, which must not start."""
    token = work / "refused-token"
    token.touch(mode=0o600)
    token.write_text("mtt_refused_" + "A" * 43 + "\n")
    status, out, err = run([programs.gateway, "--token-file", token, "--control-plane", "wss://localhost:1/v1/tunnel",
                            "--health-listen", "none", "--audit", "none", *options])
    assert status == 2 and not out and err.count("\n") == 1, (status, out, err)
    return err


def test_key_file_that_others_can_read(programs, client, work):
    key = work / "open.key"
    key.write_bytes(pathlib.Path(client[1]).read_bytes())
    key.chmod(0o644)
    said = refused(programs, work, "--mcp-server-url", "http://localhost:1/mcp", "--client-cert", client[0], "--client-key", key)
    assert re.search(r"TLS to the relay: private key \S+: everybody can use it.*chmod 600", said), said


@pytest.mark.parametrize("have, lack", [("client-cert", "client-key"), ("client-key", "client-cert"),
                                        ("upstream-client-cert", "upstream-client-key")])
def test_a_certificate_and_its_key_go_together(programs, work, client, have, lack):
    said = refused(programs, work, "--mcp-server-url", "http://localhost:1/mcp", f"--{have}", client[0])
    assert re.search(rf"--{lack}: it is missing", said), said


# ---- in front of the MCP server ----


def test_https_server(relay_pair, haproxy, servers, certs):
    port = haproxy(target_of(servers.url("raw")), certs.server)
    _, _, endpoint = relay_pair(upstream=f"https://localhost:{port}/mcp", gateway_options=["--upstream-ca-file", str(certs.ca.cert)])
    for _ in range(3):
        assert post(endpoint).status == 200


def test_https_server_of_tls_1_2(relay_pair, haproxy, servers, certs):
    port = haproxy(target_of(servers.url("raw")), certs.server, options="ssl-max-ver TLSv1.2")
    _, _, endpoint = relay_pair(upstream=f"https://localhost:{port}/mcp", gateway_options=["--upstream-ca-file", str(certs.ca.cert)])
    assert post(endpoint).status == 200


def test_https_server_that_asks_for_a_certificate(relay_pair, haproxy, servers, certs, client):
    port = haproxy(target_of(servers.url("raw")), certs.server, certs.ca.cert)
    options = ["--upstream-ca-file", str(certs.ca.cert), "--upstream-client-cert", client[0], "--upstream-client-key", client[1]]
    _, _, endpoint = relay_pair(upstream=f"https://localhost:{port}/mcp", gateway_options=options)
    assert post(endpoint).status == 200


@pytest.mark.parametrize(
    "which, said",
    [
        ("expired", "certificate has expired"),
        ("wrong_name", "certificate is not valid for the name localhost"),
        ("untrusted", "certificate not trusted"),
    ],
)
def test_https_server_with_a_bad_certificate(relay_pair, haproxy, servers, certs, which, said):
    """Not ready, nothing sent, and the agent learns that its call was not executed."""
    port = haproxy(target_of(servers.url("raw")), getattr(certs, which))
    _, gateway, endpoint = relay_pair(upstream=f"https://localhost:{port}/mcp", wait_ready=False,
                                      gateway_options=["--upstream-ca-file", str(certs.ca.cert)])
    gateway.process.wait_line(rf"MCP server: upstream-unreachable: {said}")
    gateway.wait_ready(status=503)
    gateway.process.wait_line("connected to ")
    answer = post(endpoint)
    assert answer.status == 502 and b'"executed":"no"' in answer.body.replace(b" ", b"") or b"not executed" in answer.body, answer.body


# ---- where the MCP server may be ----


def test_address_outside_the_private_networks_is_refused_at_start(programs, work):
    said = refused(programs, work, "--mcp-server-url", "http://198.51.100.7:9000/mcp")
    assert re.search(r"--mcp-server-url: .*198\.51\.100\.7.* is not an address that the MCP server may have", said), said


def test_name_that_leads_outside_is_refused(relay_pair, servers):
    """Loopback is allowed by default, and not any more once the list names something else."""
    port = urlsplit(servers.url("raw")).port
    _, gateway, endpoint = relay_pair(upstream=f"http://localhost:{port}/mcp", gateway_options=["--upstream-allow", "10.0.0.0/8"],
                                      wait_ready=False)
    gateway.process.wait_line(r"MCP server: upstream-unreachable: no address of localhost is allowed")
    gateway.process.wait_line("connected to ")
    assert post(endpoint).status == 502


# ---- certificates that are replaced while the gateway runs ----


def replace(path, *sources):
    """At once, as the tools that renew certificates do."""
    fresh = path.with_name(path.name + ".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(b"".join(pathlib.Path(source).read_bytes() for source in sources))
    fresh.replace(path)


def read_again(gateway, whose, change):
    start = gateway.process.mark()
    change()
    gateway.process.wait_line(rf"TLS to the {whose}: certificates read again", 10, start)


def test_new_ca_file_for_the_server(relay_pair, haproxy, servers, certs, tmp_path):
    """Kept connections of the old trust are not used any more; the session stays."""
    trusted = haproxy(target_of(servers.url("raw")), certs.server)
    ca = tmp_path / "ca.pem"
    replace(ca, certs.ca.cert)
    _, gateway, endpoint = relay_pair(upstream=f"https://localhost:{trusted}/mcp", gateway_options=["--upstream-ca-file", str(ca)])
    assert post(endpoint).status == 200
    read_again(gateway, "MCP server", lambda: replace(ca, certs.other_ca.cert))
    answer = post(endpoint)
    assert (answer.status, answer.json()["error"]["data"]["reason"]) == (502, "upstream-unreachable")
    read_again(gateway, "MCP server", lambda: replace(ca, certs.other_ca.cert, certs.ca.cert))
    assert post(endpoint).status == 200
    assert gateway.process.count("connected to ") == 1


def test_new_client_certificate_for_the_server(relay_pair, haproxy, servers, certs, client, tmp_path):
    """One of another authority is refused by the server; the right one is taken without a restart."""
    port = haproxy(target_of(servers.url("raw")), certs.server, certs.ca.cert)
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    stranger = certs.other_ca.issue("stranger", san="DNS:client.example")
    replace(cert, stranger[0])
    replace(key, stranger[1])
    _, gateway, endpoint = relay_pair(
        upstream=f"https://localhost:{port}/mcp",
        gateway_options=["--upstream-ca-file", str(certs.ca.cert), "--upstream-client-cert", str(cert), "--upstream-client-key", str(key)],
        wait_ready=False,
    )
    gateway.process.wait_line("connected to ")
    assert post(endpoint).status == 502
    read_again(gateway, "MCP server", lambda: (replace(cert, client[0]), replace(key, client[1])))
    assert post(endpoint).status == 200
    start = gateway.process.mark()
    replace(key, stranger[1])
    gateway.process.wait_line("TLS to the MCP server: certificates stay as they were: .*client.key", 10, start)
    assert post(endpoint).status == 200


def test_new_client_certificate_for_the_relay(relay_pair, haproxy, certs, client, tmp_path):
    """Refused at first, and in when its file has been replaced: nobody restarts anything."""
    relay, gateway, endpoint = relay_pair(control_plane="wss://localhost:1/v1/tunnel", wait_ready=False)
    port = haproxy(target_of(relay.control_plane) + f" ssl verify required ca-file {certs.ca.cert} sni str(localhost) "
                   "verifyhost localhost", certs.server, certs.ca.cert, host=False)
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    stranger = certs.other_ca.issue("stranger-relay", san="DNS:client.example")
    replace(cert, stranger[0])
    replace(key, stranger[1])
    gateway.stop()
    gateway.argv[gateway.argv.index("wss://localhost:1/v1/tunnel")] = f"wss://localhost:{port}/v1/tunnel"
    gateway.argv += ["--client-cert", str(cert), "--client-key", str(key)]
    gateway.start(wait_ready=False)
    gateway.process.wait_line(r"tls-failed")
    read_again(gateway, "relay", lambda: (replace(cert, client[0]), replace(key, client[1])))
    gateway.wait_ready(timeout=40)
    assert post(endpoint).status == 200
