"""The official SDKs against servers made with them: every record is the same directly and through the tunnel."""

import json
import re

import pytest

LEGACY = ["ts1", "ts2", "py1", "py2"]
MODERN = ["ts2", "py2"]
UNICODE = 'Grüße, 世界 𝄞\r\n\ttab "quoted" \\ \u2028 \u0000\u001f end\r\n'
# (client, server, era)
LEGACY_STOCK = [pytest.param(c, "stock", "legacy", id=f"{c}-stock") for c in LEGACY]
EVERYTHING = [pytest.param(c, "everything", "legacy", id=f"{c}-everything") for c in LEGACY]
STATELESS = [pytest.param(c, "stateless", "modern", id=f"{c}-stateless") for c in MODERN]
ALL = LEGACY_STOCK + EVERYTHING + STATELESS
pair = pytest.mark.parametrize


@pytest.fixture
def scenario(both, drivers):
    """scenario(client, server, name, make_args): runs it both ways; make_args() gives fresh arguments for each."""

    def run(client, server, name, make_args=dict, **fixed):
        def once(endpoint):
            record = drivers[client].run(endpoint, name, **fixed, **make_args())
            return json.loads(re.sub(r"created at [0-9:]+ [AP]M", "created at *", json.dumps(record)))

        return both(server, once)

    return run


@pytest.fixture
def fresh_gate(gates):
    numbers = iter(range(1000))
    return lambda: str(gates / f"gate-{next(numbers)}")


@pair("client, server, era", ALL)
def test_initialize_and_list(scenario, client, server, era):
    record = scenario(client, server, "initialize", era=era)
    names = str(record["tools"])
    assert "echo" in names
    protocol = record.get("protocol") or record["initialize"]["protocolVersion"]
    assert protocol == ("2026-07-28" if era == "modern" else "2025-11-25")


@pair("client, server, era", ALL)
def test_call_with_unicode_and_crlf(scenario, client, server, era):
    calls = {
        "stock": [
            ["check_stock", {"sku": "A-1"}],
            ["check_stock", {"sku": "C-3"}],
            ["check_stock", {"sku": "Ü\r\n"}],
            ["echo", {"text": UNICODE}],
            ["no_such_tool", {}],
        ],
        "everything": [["echo", {"message": UNICODE}], ["get-sum", {"a": 2, "b": 40}], ["get-tiny-image", {}]],
        "stateless": [
            ["echo", {"text": UNICODE}],
            ["add", {"a": 2, "b": 40}],
            ["räume_prüfen", {}],
            ["echo", {"text": 7}],
        ],
    }[server]
    record = scenario(client, server, "call", calls=calls, era=era)
    texts = [c["text"] for r in record for c in r.get("result", {}).get("content", []) if c["type"] == "text"]
    assert any(text.endswith(UNICODE) for text in texts), texts
    if server == "stock":
        assert '"quantity": 1200' in texts[0] and "Schraube M4 × 20" in texts[0]


@pair("client, server, era", LEGACY_STOCK + STATELESS)
def test_progress_as_it_happens(scenario, fresh_gate, client, server, era):
    """The server makes event n + 1 only after the client has acknowledged event n through a file."""
    record = scenario(client, server, "progress", lambda: {"gate": fresh_gate()}, steps=4, era=era)
    assert len(record["seen"]) == 4
    assert record["result"]["content"][0]["text"] == "all steps done"


@pair("client, server, era", LEGACY_STOCK)
def test_log_notifications_on_get_stream(scenario, fresh_gate, client, server, era):
    record = scenario(client, server, "logs", lambda: {"gate": fresh_gate()}, text=UNICODE, era=era)
    assert record["seen"]["data"] == UNICODE and record["different"] == 1


@pair("client, server, era", LEGACY_STOCK)
def test_resource_subscription(scenario, fresh_gate, client, server, era):
    record = scenario(
        client, server, "subscribe", lambda: {"gate": fresh_gate()}, uri="stock://levels", tool="touch_until", era=era
    )
    assert record["seen"] == ["stock://levels"]


def test_resource_subscription_of_everything(scenario, fresh_gate):
    uri = "demo://resource/dynamic/text/1"
    record = scenario(
        "ts1", "everything", "subscribe", lambda: {"gate": fresh_gate()}, uri=uri, tool="toggle-subscriber-updates"
    )
    assert record["seen"] == [uri]


@pair("client, server, era", LEGACY_STOCK + EVERYTHING + STATELESS)
def test_server_asks_for_sampling(scenario, client, server, era):
    """A request of the server on the POST stream, answered by another POST (2026-07-28: by a second round)."""
    tool = "trigger-sampling-request" if server == "everything" else "ask_model"
    record = scenario(client, server, "sampling", tool=tool, prompt="Combien?\r\n…", era=era)
    assert "quarante-deux" in record["result"]["content"][0]["text"]
    assert len(record["asked"]) == 1 and "Combien?" in str(record["asked"])


@pair("client, server, era", LEGACY_STOCK + STATELESS)
def test_cancellation_reaches_the_server(scenario, fresh_gate, client, server, era):
    record = scenario(client, server, "cancel", lambda: {"journal": fresh_gate()}, era=era)
    assert record["journal"] == ["started", "cancelled"]
    assert record["after"]["result"]["content"][0]["text"] == "still here"


@pair("server", ["stock", "everything"])
def test_delete_ends_the_session(scenario, server):
    record = scenario("ts1", server, "terminate")
    assert record["cleared"] and record["late"] in (400, 404)


def test_resume_with_last_event_id(scenario, gates):
    numbers = iter(range(10))

    def gate():
        path = gates / f"resume-{next(numbers)}"
        path.mkdir()
        return {"gate": str(path)}

    record = scenario("ts1", "stock", "resume", gate, steps=4)
    assert record["result"]["content"][0]["text"] == "all steps done"


@pair("client, server, era", LEGACY_STOCK + STATELESS)
def test_64_parallel_calls_do_not_mix(scenario, client, server, era):
    record = scenario(client, server, "parallel", count=64, tool="echo_after", era=era)
    assert len(record) == 64
    assert all(call["asked"] == call["got"] for call in record)


@pair("client, server, era", ALL)
def test_3_megabytes_both_ways(scenario, client, server, era):
    argument = "message" if server == "everything" else "text"
    record = scenario(client, server, "big", size=3000000, tool="echo", argument=argument, era=era)
    assert record["same"] and record["bytes"] >= 3000000


@pair("client, server, era", STATELESS)
def test_subscriptions_listen(scenario, fresh_gate, client, server, era):
    record = scenario(client, server, "listen", lambda: {"gate": fresh_gate()}, uri="note://one", era=era)
    assert len(record["seen"]) == 2
