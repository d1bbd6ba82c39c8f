"""Web pages that call: --cors-origin, judged by what browsers do (lib/fetch.py)."""

import pytest

from lib import fetch
from lib.calls import CALL
from lib.rawhttp import JSON_HEADERS
from lib.records import connect, exchange, response_record
from lib.tunnel import Endpoint
from test_limits import Answering, Stage

APP, LOCAL, PLAIN, FOREIGN = "https://app.example", "http://localhost:3000", "https://plain.example", "https://evil.example"
OPTIONS = ("--cors-origin", APP, "--cors-origin", LOCAL, "--allowed-origin", PLAIN)
# What MCP clients in a browser send.
MCP_HEADERS = JSON_HEADERS + [
    ("Authorization", "Bearer x"),
    ("Mcp-Tunnel-Authorization", "Bearer x"),
    ("MCP-Protocol-Version", "2025-06-18"),
    ("Mcp-Session-Id", "s"),
    ("Mcp-Method", "tools/call"),
    ("Mcp-Name", "x"),
    ("Last-Event-ID", "1"),
]
OWN = [("Access-Control-Allow-Origin", "*"), ("access-control-expose-headers", "X-Own"), ("Vary", "Accept"), ("Mcp-Session-Id", "s")]


class Own(Answering):
    """Of an MCP server that has rules of its own."""

    def answer(self, ident, *pairs, **more):
        super().answer(ident, *pairs, *OWN, **more)


@pytest.fixture(scope="module")
def stage(programs, work, certs):
    stage = Stage(programs, work, certs, *OPTIONS)
    gateway = Own(stage.relay, stage.ca, stage.tokens["one"], "one")
    stage.gateways.append(gateway.start())
    yield stage
    stage.stop()


def asked(endpoint, origin, method="POST", headers=MCP_HEADERS):
    with connect(endpoint) as connection:
        return fetch.preflight(connection, origin, method, headers)


def post(endpoint, origin=None, *more, body=CALL):
    headers = JSON_HEADERS + ([("Origin", origin)] if origin else []) + list(more)
    return exchange(endpoint, "POST", headers, body)


def at(endpoint, tunnel):
    return Endpoint(endpoint.url.replace("/t/one/", f"/t/{tunnel}/"), "tunnel", {}, endpoint.ca)


def access_control(response):
    return [n.lower() for n, _ in response.headers if n.lower().startswith("access-control-")]


# ---- preflights ----


@pytest.mark.parametrize("origin", [APP, LOCAL])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_preflight(stage, origin, method):
    """Without a key, and once for a while."""
    before = stage.metric("preflights_total")
    answer = asked(at(stage.a, "one"), origin, method)
    assert (answer.status, answer.body) == (204, b"")
    assert fetch.preflight_allows(answer, origin, method, MCP_HEADERS)
    assert not fetch.preflight_allows(answer, FOREIGN, method, MCP_HEADERS)
    assert not fetch.preflight_allows(answer, origin, "PUT", [])
    assert int(answer.get("access-control-max-age")) >= 600
    assert "origin" in fetch.names(answer, "vary")
    assert answer.get("access-control-allow-credentials") is None
    assert stage.metric("preflights_total") == before + 1


def test_fields_of_the_page_itself(stage):
    """Whatever the relay would carry; not what it would not."""
    own = [("X-Api-Key", "1"), ("Mcp-Param-City", "1"), ("traceparent", "1")]
    assert fetch.preflight_allows(asked(stage.a, APP, "POST", MCP_HEADERS + own), APP, "POST", MCP_HEADERS + own)
    forged = [("Mcp-Tunnel-Agent", "root")]
    assert not fetch.preflight_allows(asked(stage.a, APP, "POST", own + forged), APP, "POST", own + forged)


def test_preflight_tells_nothing_about_tunnels(stage):
    """The same for a tunnel that is attached, one that is not, and one that does not exist; no gateway hears of it."""
    calls = stage.metric("calls_started_total")
    answers = [response_record(asked(at(stage.a, name), APP)) for name in ("one", "two", "no-such-tunnel")]
    assert answers[0] == answers[1] == answers[2]
    assert stage.metric("calls_started_total") == calls


@pytest.mark.parametrize("origin, status", [(PLAIN, 405), (FOREIGN, 403), ("null", 403), (None, 405)])
def test_preflight_of_others(stage, origin, status):
    headers = [("Access-Control-Request-Method", "POST")] + ([("Origin", origin)] if origin else [])
    answer = exchange(at(stage.a, "one"), "OPTIONS", headers)
    assert answer.status == status and not access_control(answer)


def test_options_that_is_no_preflight(stage):
    answer = exchange(stage.a, "OPTIONS", [("Origin", APP)])
    assert (answer.status, answer.get("allow")) == (405, "POST, GET, DELETE")


def test_connection_goes_on_behind_a_preflight(stage):
    with connect(stage.a) as connection:
        for _ in range(3):
            assert fetch.preflight(connection, APP, "POST", MCP_HEADERS).status == 204
            answer = connection.call("POST", stage.a.pairs() + JSON_HEADERS + [("Origin", APP)], CALL)
            assert (answer.status, answer.body) == (200, b"{}")


# ---- answers ----


@pytest.mark.parametrize("origin", [APP, LOCAL])
def test_page_reads_the_answer(stage, origin):
    """And what the MCP server says about that is replaced."""
    answer = post(stage.a, origin)
    assert answer.status == 200 and fetch.cors_check(answer, origin)
    assert fetch.readable(answer, "Mcp-Session-Id") and not fetch.readable(answer, "X-Own")
    assert sorted(access_control(answer)) == ["access-control-allow-origin", "access-control-expose-headers"]
    assert fetch.names(answer, "vary") == {"accept", "origin"}


@pytest.mark.parametrize(
    "change, status, field",
    [
        (lambda e: at(e, "one"), 401, "WWW-Authenticate"),
        (lambda e: at(e, "no-such-tunnel"), 401, "WWW-Authenticate"),
        (lambda e: Endpoint(e.url + "x", "tunnel", {}, e.ca), 404, None),
    ],
    ids=["no-key", "no-tunnel", "no-path"],
)
def test_page_reads_errors_of_the_relay(stage, change, status, field):
    answer = post(change(stage.a), APP)
    assert answer.status == status and fetch.cors_check(answer, APP)
    assert field is None or fetch.readable(answer, field)


def test_page_reads_that_nobody_is_there(stage):
    answer = post(stage.c, APP)
    assert answer.status == 503 and fetch.cors_check(answer, APP) and fetch.readable(answer, "Retry-After")


@pytest.mark.parametrize("origin", [PLAIN, None])
def test_others_get_what_the_server_says(stage, origin):
    answer = post(stage.a, origin)
    assert answer.status == 200
    assert answer.all("access-control-allow-origin") == ["*"] and fetch.readable(answer, "X-Own")
    assert fetch.names(answer, "vary") == {"accept", "origin"}


def test_foreign_page_is_refused(stage):
    answer = post(stage.a, FOREIGN)
    assert answer.status == 403 and not access_control(answer)


def test_without_the_option_nothing_changes(programs, work, certs):
    stage = Stage(programs, work, certs, "--allowed-origin", APP)
    try:
        stage.gateways.append(Own(stage.relay, stage.ca, stage.tokens["one"], "one").start())
        answer = post(stage.a, APP)
        assert [(n, v) for n, v in answer.headers if n.lower() in ("vary", *access_control(answer))] == OWN[:3]
        assert asked(stage.a, APP).status == 405
        assert not access_control(post(at(stage.a, "one"), APP))
    finally:
        stage.stop()
