"""A mistake on the command line: one line that names the option, the value and what is allowed; exit status 2."""

import os
import re
import shutil
import stat
import tempfile

import pytest

from lib.procs import run

TOKEN = "mtt_" + "test_" + "A" * 43


@pytest.fixture(scope="module")
def place():
    """A directory, and copies of the programs, that other users can reach."""
    with tempfile.TemporaryDirectory(prefix="mcp-e2e-bad-") as directory:
        os.chmod(directory, 0o755)
        yield directory


@pytest.fixture(scope="module")
def installed(place, programs):
    paths = {}
    for name in ("mcp-tunnel-gateway", "mcp-tunnel-relay"):
        paths[name] = os.path.join(place, name)
        shutil.copy(programs.path(name), paths[name])
        os.chmod(paths[name], 0o755)
    return paths


@pytest.fixture
def token_file(place):
    def make(content=TOKEN + "\n", mode=0o600):
        path = tempfile.mkstemp(dir=place, prefix="token-")[1]
        with open(path, "w", encoding="utf-8") as out:
            out.write(content)
        os.chmod(path, mode)
        return path

    return make


@pytest.fixture
def gateway(installed, token_file, certs):
    """Runs the gateway with good options, some of them replaced: (status, lines of stderr)."""

    def start(*more, as_user=None, **changes):
        options = {
            "token-file": changes.pop("token_file", None) or token_file(),
            "mcp-server-url": "http://127.0.0.1:9/mcp",
            "region": "test",
            "control-plane": "wss://localhost:1/v1/tunnel",
            "health-listen": "127.0.0.1:0",
            "audit": "none",
            "ca-file": certs.ca.cert,
        }
        options.update({n.replace("_", "-"): v for n, v in changes.items()})
        argv = [installed["mcp-tunnel-gateway"]] + [a for n, v in options.items() for a in (f"--{n}", v)] + list(more)
        who = {"user": as_user, "group": as_user, "extra_groups": []} if as_user else {}
        status, _, err = run(argv, 10, **who)
        return status, [line for line in err.splitlines() if line.strip()]

    return start


def check(result, *patterns):
    status, lines = result
    assert status == 2, (status, lines)
    assert len(lines) == 1, lines
    for pattern in patterns:
        assert re.search(pattern, lines[0]), f"{pattern!r} is not in {lines[0]!r}"


def test_unknown_option(gateway):
    check(gateway("--no-such-option", "1"), "--no-such-option", "unknown", "--help")


def test_unknown_option_of_the_relay(installed):
    status, _, err = run([installed["mcp-tunnel-relay"], "--lissten", "https://127.0.0.1:0"])
    check((status, err.splitlines()), "--lissten", "unknown", "--help")


def test_missing_required_option(installed):
    status, _, err = run([installed["mcp-tunnel-gateway"], "--region", "test"])
    check((status, err.splitlines()), "--(token-file|control-plane|mcp-server-url)", "missing")


def test_missing_token_file(gateway, place):
    check(gateway(token_file=f"{place}/not-there"), "token-file", f"{place}/not-there", "No such file")


def test_unreadable_token_file(gateway, token_file):
    if os.geteuid() == 0:
        path = token_file()
        result = gateway(token_file=path, as_user=65534, ca_file="/dev/null")
    else:
        path = token_file(mode=0)
        result = gateway(token_file=path)
    check(result, "token-file", re.escape(path), "[Pp]ermission denied|owned by|cannot read")


def test_empty_token_file(gateway, token_file):
    for content in ("", "\n"):
        path = token_file(content)
        check(gateway(token_file=path), "token-file", re.escape(path), "empty")


def test_token_file_that_holds_no_token(gateway, token_file):
    path = token_file("hello\n")
    result = gateway(token_file=path)
    check(result, "token-file", re.escape(path), "mtt_")
    assert "hello" not in result[1][0], "what the file holds may be a secret"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660], ids=oct)
def test_token_file_that_others_can_use(gateway, token_file, mode):
    path = token_file(mode=mode)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode
    check(gateway(token_file=path), "token-file", re.escape(path), f"{mode:04o}", "chmod 600")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:9000/mcp",
        "http://",
        "http://host:99999/mcp",
        "ftp://127.0.0.1/mcp",
        "http://a b/mcp",
        "http://user:pw@127.0.0.1/mcp",
        "http://127.0.0.1:x/mcp",
    ],
)
def test_malformed_mcp_server_url(gateway, url):
    check(
        gateway(mcp_server_url=url),
        "--mcp-server-url",
        re.escape(url.replace("user:pw@", "")) if "@" not in url else "URL",
        "http://",
    )


@pytest.mark.parametrize(
    "url", ["relay.example/v1/tunnel", "https://relay.example/v1/tunnel", "wss://", "wss://:443/v1"]
)
def test_malformed_control_plane(gateway, url):
    check(gateway(control_plane=url), "--control-plane", re.escape(url), "wss://")


@pytest.mark.parametrize("host", ["relay.example", "192.0.2.1", "localhost.example", "[2001:db8::1]"])
def test_plain_ws_to_a_host_that_is_not_loopback(gateway, host):
    check(
        gateway(control_plane=f"ws://{host}/v1/tunnel"),
        "--control-plane",
        re.escape(f"ws://{host}/v1/tunnel"),
        "wss://",
        "loopback",
    )


@pytest.mark.parametrize("value", ["20x", "20", "s", "-1s", "1.5s", "20s "])
def test_unknown_unit_in_a_duration(gateway, value):
    check(gateway(keepalive=value), "--keepalive", re.escape(value), r"\bms\b.*\bs\b.*\bm\b.*\bh\b")


@pytest.mark.parametrize("value", ["16Q", "16MB", "x", "-1"])
def test_unknown_unit_in_a_size(gateway, value):
    check(gateway(max_request_bytes=value), "--max-request-bytes", re.escape(value), r"\bk\b.*\bM\b.*\bG\b")


@pytest.mark.parametrize(
    "option, value, allowed",
    [
        ("keepalive", "1ms", "1s"),
        ("max-streams", "0", "1"),
        ("log-level", "loud", "debug"),
        ("max-streams", "99999999999999999999", "65535"),
    ],
)
def test_value_out_of_range(gateway, option, value, allowed):
    check(gateway(**{option: value}), f"--{option}", value, allowed)


@pytest.mark.parametrize(
    "option, value, allowed",
    [
        ("agent-rate", "100001", "0 (none) or a number from 1 to 100000"),
        ("max-connections-per-address", "-1", "0 (none) or a number from 1 to 1000000"),
        ("max-streams-per-agent", "65536", "65535"),
        ("head-timeout", "99ms", "100ms to 5m"),
        ("send-timeout", "0", "1s to 24h"),
        ("cors-origin", "https://app.example/path", "https://HOST"),
        ("cors-origin", "*", "https://HOST"),
    ],
)
def test_value_out_of_range_at_the_relay(installed, place, option, value, allowed):
    argv = [installed["mcp-tunnel-relay"], "--listen", "http://127.0.0.1:0", "--state-dir", f"{place}/state"]
    status, _, err = run([*argv, f"--{option}={value}"])
    check((status, err.splitlines()), f"--{option}", re.escape(value), re.escape(allowed))


def test_relay_refuses_plain_http_off_loopback(installed, place):
    status, _, err = run(
        [installed["mcp-tunnel-relay"], "--listen", "http://192.0.2.1:0", "--state-dir", f"{place}/state"]
    )
    check((status, err.splitlines()), "--listen", re.escape("http://192.0.2.1:0"), "--behind-proxy")


def test_relay_refuses_no_authentication_off_loopback(installed, place, certs):
    status, _, err = run(
        [
            installed["mcp-tunnel-relay"],
            "--listen",
            "https://192.0.2.1:0",
            "--tls-cert",
            certs.server[0],
            "--tls-key",
            certs.server[1],
            "--state-dir",
            f"{place}/state",
            "--agent-auth",
            "none",
        ]
    )
    check((status, err.splitlines()), "--agent-auth", "none", "loopback")


def test_relay_needs_its_certificate(installed, place, certs):
    status, _, err = run(
        [
            installed["mcp-tunnel-relay"],
            "--listen",
            "https://127.0.0.1:0",
            "--tls-cert",
            f"{place}/none.pem",
            "--tls-key",
            certs.server[1],
            "--state-dir",
            f"{place}/state",
        ]
    )
    check((status, err.splitlines()), "--tls-cert", re.escape(f"{place}/none.pem"), "No such file")


@pytest.mark.parametrize("name", ["mcp-tunnel-gateway", "mcp-tunnel-relay"])
def test_version_and_help(installed, name):
    status, out, err = run([installed[name], "--version"])
    assert status == 0 and re.fullmatch(rf"{name} \d+\.\d+\S*\n", out) and not err
    status, out, err = run([installed[name], "--help"])
    assert status == 0 and "--log-level" in out and not err


@pytest.mark.parametrize(
    "option, value",
    [("deny-tool", ""), ("allow-tool", "x" * 129), ("deny-method", "a\nb"), ("deny-resource-scheme", "File://")],
)
def test_pattern_that_is_none(gateway, token_file, option, value):
    check(gateway(f"--{option}", value, token_file=token_file()), f"--{option}", "not a pattern|empty|is not")
