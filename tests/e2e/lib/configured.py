"""A gateway that has its options in a file, which tests write anew; MCP servers in this process that say who they are."""

import dataclasses
import json
import signal
import threading

import pytest

from .audited import Upstream, http
from .rawhttp import JSON_HEADERS, rpc
from .records import exchange


def secret_file(path, text, mode=0o600):
    """Written beside and moved into place, as an operator should."""
    fresh = path.with_name(path.name + ".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text + "\n")
    fresh.chmod(mode)
    fresh.replace(path)
    return path


def server(name):
    """It answers with its name, and what it got; with X-Wait, not before its gate is open."""
    gate = threading.Event()

    def answer(method, target, headers, body):
        if "x-wait" in headers:
            gate.wait(60)
        return http(json.dumps({"server": name, "target": target, "headers": headers}).encode())

    made = Upstream(answer)
    made.gate = gate
    return made


def tool(name, ident=1):
    return rpc("tools/call", {"name": name, "arguments": {}}, ident)


class Configured:
    """gateway, relay, endpoint; sections are {"": {key: value or list}, "NAME": {...}}, where "" is [gateway]."""

    def __init__(self, relay_pair, directory, sections, *options, **changes):
        self.file = directory / "gateway.conf"
        self.write(sections)
        self.relay, self.gateway, self.endpoint = relay_pair(
            gateway_options=("--config", self.file, *options), mcp_server_url=None, **changes
        )
        self.process = self.gateway.process

    def write(self, sections):
        lines = []
        for name, keys in sections.items():
            lines.append(f"[route {name}]" if name else "[gateway]")
            for key, values in keys.items():
                lines += [f"{key} = {value}" for value in (values if isinstance(values, list) else [values])]
        self.file.write_text("\n".join([*lines, ""]))

    def reload(self, sections=None):
        """The lines that it logged meanwhile."""
        if sections is not None:
            self.write(sections)
        start = self.process.mark()
        self.process.send_signal(signal.SIGHUP)
        self.process.wait_line("SIGHUP: ", 10, start)
        return "\n".join(self.process.lines[start:])

    def to(self, route):
        url = self.endpoint.url.replace("/mcp", f"/{route}/mcp" if route else "/mcp")
        return dataclasses.replace(self.endpoint, url=url)

    def post(self, body, *headers, route="", **options):
        return exchange(self.to(route), "POST", JSON_HEADERS + list(headers), body, **options)

    def records(self, event):
        """Those that are whole: the last one may be on its way."""
        text = self.gateway.audit.read_text() if self.gateway.audit.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [r for r in map(json.loads, lines) if r["mcp_event"].startswith(event)]


def reason(answer):
    return answer.json()["error"]["data"]["reason"]


@pytest.fixture
def named_servers():
    """named_servers(name, ...): running ones, which end with the test."""
    made = []

    def start(*names):
        fresh = [server(name) for name in names]
        made.extend(fresh)
        return fresh

    yield start
    for one in made:
        one.stop()


@pytest.fixture
def configured(relay_pair, tmp_path):
    """configured(sections, *options): a Configured that is ready."""
    return lambda sections, *options, **changes: Configured(relay_pair, tmp_path, sections, *options, **changes)
