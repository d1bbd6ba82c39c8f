"""mcp-tunnel-audit: the other commands, the examples of its manual page, and hostile logs."""

import hashlib
import hmac
import http.server
import os
import pathlib
import re
import socketserver
import subprocess
import threading

import pytest

from lib.audit_log import Chain, Clock, both, file_lines, journal_lines, whole
from lib.procs import SCALE
from lib.rawhttp import JSON_HEADERS, rpc
from lib.records import exchange

ROOT = pathlib.Path(__file__).parents[2]
KEY = b"0123456789abcdef0123456789abcdef"
TOKEN = "mtt_own_" + "A" * 43
NONCE = "00112233445566778899aabbccddeeff"


@pytest.fixture
def run(programs, tmp_path):
    def run(*args, stdin=""):
        done = subprocess.run(
            [programs.audit, *map(str, args)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60 * SCALE,
            cwd=tmp_path,
        )
        assert "Sanitizer" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def private(path, data):
    path.write_bytes(data)
    path.chmod(0o600)
    return path


# ---- hash ----


def token_key(token):
    prk = hmac.new(bytes(32), token.encode(), hashlib.sha256).digest()
    return hmac.new(prk, b"mcp-tunnel audit arguments hash v1\x01", hashlib.sha256).digest()


def keyed(key, form, text):
    return f"hmac-sha256-{form}:{hashlib.sha256(key).hexdigest()[:8]}:{hmac.new(key, text, hashlib.sha256).hexdigest()}\n"


def test_hash(run, tmp_path):
    key = private(tmp_path / "key", KEY + b"\n")
    token = private(tmp_path / "token", TOKEN.encode() + b"\n")
    arguments = tmp_path / "arguments"
    arguments.write_text('\n { "b" : [1.0, "\\u00e9"], "a": 1e2 }\r\n')
    canonical = '{"a":100,"b":[1,"é"]}'.encode()
    assert run("hash", "--key-file", key, arguments) == (0, keyed(KEY, "jcs", canonical), "")
    assert run("hash", "--token-file", token, arguments) == (0, keyed(token_key(TOKEN), "jcs", canonical), "")
    plain = f"sha256-jcs:{hashlib.sha256(canonical).hexdigest()}\n"
    assert run("hash", "--sha256", arguments) == (0, plain, "")
    assert run("hash", "--sha256", "-", stdin=arguments.read_text()) == (0, plain, "")
    assert run("hash", "--sha256", stdin=arguments.read_text()) == (0, plain, "")
    assert run("hash", "--sha256", stdin=" \n")[:2] == (0, "none\n")
    twice = '{"a":1,"a":2}'
    status, out, err = run("hash", "--key-file", key, stdin=twice + "\n")
    assert (status, out) == (0, keyed(KEY, "raw", twice.encode())) and "RFC 8785" in err


def test_hash_is_the_gateways(run, relay_pair):
    """The very hash that the gateway's record has, from the token."""
    _, gateway, endpoint = relay_pair()
    arguments = '{"sku": "A-1", "n": 1.50}'
    body = rpc("tools/call", {"name": "x", "arguments": {"sku": "A-1", "n": 1.5}})
    assert exchange(endpoint, "POST", JSON_HEADERS, body).status == 200
    recorded = re.findall(r'"mcp_args_hash":"([^"]+)"', gateway.audit.read_text())
    assert recorded and recorded[0] == run("hash", "--token-file", gateway.token_file, stdin=arguments)[1].strip()


# ---- canary ----


class Answering(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked.append((self.path, self.headers.get("Mcp-Tunnel-Nonce"), self.headers.get("Origin")))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture(params=["tcp", "unix"])
def health(request, tmp_path):
    if request.param == "tcp":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        address = "127.0.0.1:%d" % server.server_address[1]
    else:
        server = UnixServer(str(tmp_path / "sock"), Answering)
        address = "unix:" + str(tmp_path / "sock")
    server.asked, server.answer = [], (200, b"{}\n")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, address
    server.shutdown()
    server.server_close()


def test_canary(run, health, tmp_path):
    server, address = health
    status, out, err = run("canary", "--gateway", address)
    nonce = out.splitlines()[0]
    assert (status, err) == (0, "") and re.fullmatch("[0-9a-f]{32}", nonce)
    assert server.asked == [("/audit/canary", nonce, None)]
    for siem in ("journal ", "file ", "Splunk ", "Elastic KQL ", "Sentinel KQL ", "Loki LogQL "):
        assert any(line.startswith(siem) and nonce in line for line in out.splitlines()), out
    assert run("canary", "--gateway", address)[1].splitlines()[0] != nonce


@pytest.mark.parametrize("answer", [(503, b'{"error":"full\x1b[31m"}\n'), (404, b"x"), (500, b"x" * 100_000)])
def test_canary_refused(run, health, answer):
    server, address = health
    server.answer = answer
    status, out, err = run("canary", "--gateway", address)
    assert (status, out, err.count("\n")) == (2, "", 1) and "\x1b" not in err, err


def test_canary_nobody_there(run, tmp_path):
    for address in ("127.0.0.1:1", f"unix:{tmp_path}/none"):
        status, out, err = run("canary", "--gateway", address)
        assert (status, out) == (2, "") and "cannot reach the gateway" in err


def test_canary_check(run, tmp_path):
    export = tmp_path / "export.csv"
    export.write_text("a,b\n" * 100_000 + f'x,"... nonce={NONCE} ..."\n' + "a,b\n")
    assert run("canary", "--check", NONCE, export) == (0, f"{export}:100001: it has arrived\n", "")
    assert run("canary", "--check", NONCE, "-", stdin=export.read_text())[0] == 0
    assert run("canary", "--check", NONCE[::-1], export)[0] == 1
    assert run("canary", "--check", NONCE, tmp_path / "none")[0] == 2
    assert run("canary", "--check", NONCE, tmp_path / "none", export)[0] == 0
    # At every place around the end of what is read at once.
    for n in range(256 * 1024 - 40, 256 * 1024 + 5):
        assert run("canary", "--check", NONCE, "-", stdin="x" * n + NONCE)[0] == 0, n


# ---- The manual page ----


def examples():
    page = (ROOT / "man/mcp-tunnel-audit.1").read_text()
    text = page.split(".SH EXAMPLES")[1].split(".SH ")[0]
    for block in re.findall(r"^\.EX\n(.*?)^\.EE", text, re.S | re.M):
        yield block.replace(r"\(aq", "'").replace(r"\-", "-").replace("\\e\n", "\\\n")


def test_examples_of_the_manual_page(programs, tmp_path):
    """Each is run as it stands, in a directory with the files that it names."""
    log, clock = [], Clock()
    chain = Chain(log, clock)
    chain.calls(3)
    key = private(tmp_path / "audit.key", KEY)
    digest = hmac.new(KEY, b'{"sku":"A-1"}', hashlib.sha256).hexdigest()
    call = chain.request()
    log[-1]["MCP_ARGS_HASH"] = f"hmac-sha256-jcs:{hashlib.sha256(KEY).hexdigest()[:8]}:{digest}"
    gateway, relay, _, _ = both()
    (tmp_path / "relay.jsonl").write_text(file_lines(relay))
    (tmp_path / "audit.jsonl").write_text(file_lines(gateway[12:]))
    (tmp_path / "audit.jsonl.1").write_text(file_lines(gateway[:12]))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "mcp-tunnel-audit").symlink_to(programs.audit)
    (tools / "journalctl").write_text(f"#!/bin/sh\n[ \"$*\" = '-a -o json -u mcp-tunnel-gateway' ] && cat {tmp_path}/journal\n")
    (tools / "journalctl").chmod(0o755)
    (tmp_path / "journal").write_text(journal_lines(whole()))
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "CALL": call, "KEY": str(key)}

    def sh(text):
        done = subprocess.run(["sh", "-euc", text], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60 * SCALE)
        return done.returncode, done.stdout, done.stderr

    blocks = list(examples())
    assert len(blocks) == 5
    status, out, err = sh(blocks[0])
    assert (status, out.splitlines()[-1], err) == (0, "whole", "")
    status, out, err = sh(blocks[1])
    assert (status, out.splitlines()[-1], err) == (0, "whole", "") and "both: 10 calls the same" in out
    gateway[15]["MCP_TOOL"] = "changed"
    (tmp_path / "audit.jsonl").write_text(file_lines(gateway))
    status, out, err = sh(blocks[2])
    assert (status, out.count("\n"), err) == (0, 1, "") and '"finding":"edited"' in out
    (tmp_path / "audit.jsonl").write_text(file_lines(log))
    status, out, err = sh(blocks[3])
    assert (status, out.count(call), err) == (0, 1, "")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.asked, server.answer = [], (200, b"{}\n")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = blocks[4].replace("canary |", f"canary --gateway 127.0.0.1:{server.server_address[1]} |")
    script = script.replace("mcp-tunnel-audit canary --check", "cp canary.txt audit.jsonl\nmcp-tunnel-audit canary --check")
    status, out, err = sh(script)
    server.shutdown()
    server.server_close()
    assert (status, err) == (0, "") and "it has arrived" in out


def test_manual_page_has_every_option(programs):
    page = (ROOT / "man/mcp-tunnel-audit.1").read_text().replace("\\-", "-")
    for command in ([], ["verify"], ["hash"], ["canary"]):
        usage = subprocess.run([programs.audit, *command, "--help"], capture_output=True, text=True).stdout
        for option in set(re.findall(r"--[a-z0-9-]+", usage)):
            assert option in page, option
