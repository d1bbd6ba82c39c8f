"""What a scanner that we did not write says of the relay's port: TLS 1.3 alone by default, and nothing below an A."""

import re
import shutil

import pytest

from lib.procs import run
from lib.tunnel import Relay

SUITES_13 = {"TLS_AKE_WITH_AES_128_GCM_SHA256", "TLS_AKE_WITH_AES_256_GCM_SHA384"}
SUITES_13 |= {"TLS_AKE_WITH_CHACHA20_POLY1305_SHA256"}


@pytest.fixture
def relay(programs, work, certs):
    made = []

    def start(*options):
        made.append(Relay(programs, work, *certs.server, *options).start())
        return made[-1]

    yield start
    for it in made:
        it.stop()


def scan(port):
    """{version: [(suite, grade)]} and the least grade, by nmap."""
    nmap = shutil.which("nmap")
    if not nmap:
        pytest.skip("nmap is not installed")
    argv = [nmap, "-n", "-Pn", "-sT", "-p", str(port), "--script", "ssl-enum-ciphers", "127.0.0.1"]
    status, out, err = run(argv, 60)
    assert status == 0, err
    found, version = {}, None
    for line in out.splitlines():
        if match := re.match(r"\|\s+(TLSv1\.\d|SSLv\d):", line):
            version = found.setdefault(match.group(1), [])
        elif match := re.match(r"\|\s+(TLS_\w+).* - (\w)$", line):
            version.append(match.groups())
    return found, (re.search(r"least strength: (\w)", out) or [None, None])[1], out


def test_by_default(relay):
    found, least, out = scan(relay().port)
    assert set(found) == {"TLSv1.3"}, out
    assert {suite for suite, _ in found["TLSv1.3"]} <= SUITES_13 and least == "A", out


def test_with_tls_1_2_asked_for(relay):
    found, least, out = scan(relay("--tls-min", "1.2").port)
    assert set(found) == {"TLSv1.2", "TLSv1.3"} and least == "A", out
    assert all("_ECDHE_" in suite and re.search("GCM|POLY1305", suite) for suite, _ in found["TLSv1.2"]), out


@pytest.mark.parametrize("version", ["tls1", "tls1_1", "tls1_2"])
def test_older_versions_are_refused(relay, version):
    """The same by a client that can do nothing newer, as far as this one still can."""
    own = relay()
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{own.port}", f"-{version}"]
    status, out, err = run([*command, "-cipher", "ALL@SECLEVEL=0"], 20)
    assert status != 0 and "alert" in (out + err).lower(), out + err
