"""Audit logs made by hand: the chain, written anew from its description, for tests of mcp-tunnel-audit.

A log is a list of records; a record is a dict of journal fields in the order in which they are written. Chain makes whole
ones; tests then do to the list what somebody would do who wants to hide something.
"""

import datetime
import hashlib
import json
import random
import struct
import uuid

ZEROS = "0" * 64
MESSAGE_IDS = {
    "gateway.start": "ed2ace8591ec4094af2e0b47d22092cd",
    "gateway.stop": "3703804856074a25b701b602aa4dbd13",
    "call.request": "b841c1811f564dbba297bc18d8dee8aa",
    "call.response": "ba9050821cf242d4a0d3709bbfbe2dbc",
    "call.denied": "af8637b252624887ae3c855d6fa56728",
    "audit.gap": "fd51e8e536664291b0b99ef985095b0a",
    "audit.checkpoint": "ad576026d5844264a281413b1d655da9",
}
COVERED = ("MESSAGE", "MESSAGE_ID", "PRIORITY")
START = datetime.datetime(2026, 11, 20, 12, 0, 0, tzinfo=datetime.timezone.utc)


def chain_hash(record):
    """SHA-256 over NAME=LENGTH:VALUE lines, sorted by name; MESSAGE without its last word."""
    digest = hashlib.sha256()
    for name in sorted(record):
        value = record[name]
        if name == "MCP_CHAIN" or not (name.startswith("MCP_") or name in COVERED):
            continue
        data = value if isinstance(value, bytes) else value.encode()
        if name == "MESSAGE":
            data = data.rsplit(b" chain=", 1)[0]
        digest.update(name.encode() + b"=" + str(len(data)).encode() + b":" + data + b"\n")
    return digest.hexdigest()


def seal(record):
    """The record's hash, computed anew, where it belongs."""
    record["MCP_CHAIN"] = chain_hash(record)
    message = record["MESSAGE"].rsplit(" chain=", 1)[0]
    record["MESSAGE"] = f"{message} chain={record['MCP_CHAIN']}"
    return record


def state_file(head, time_us=0):
    """The file "audit" of a state directory with this head (Chain.head), as daemon/audit_state.c lays it out."""

    def fnv(data):
        value = 0xCBF29CE484222325
        for byte in data:
            value = (value ^ byte) * 0x100000001B3 % 2**64
        return value | 1

    capacity = 4096
    start = struct.pack("=8sIIQ", b"MCPAUDST", 1, 48, (2**32 - 1 - capacity) << 32 | capacity)
    slot = struct.pack("=QQQQ32s64s", 1, head["seq"], time_us, 0, head["chain"].encode(), head["hash"].encode())
    slot += struct.pack("=Q", fnv(slot))
    return (start.ljust(512, b"\0") + slot).ljust(4096 + 48 * capacity, b"\0")


class Clock:
    """Shared by the chains of a test; each look at it is a second later."""

    def __init__(self, step=1.0):
        self.now, self.step = START, datetime.timedelta(seconds=step)

    def tick(self):
        self.now += self.step
        return self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Chain:
    """The records of one process, appended to `log` as they are made."""

    def __init__(self, log, clock, side="gateway", prev=ZEROS, tunnel="own", seed=None):
        self.log, self.clock, self.side, self.tunnel = log, clock, side, tunnel
        self.random = random.Random(seed)
        self.id = uuid.UUID(int=self.random.getrandbits(128), version=4).hex
        self.seq, self.prev = 0, prev
        self.put("gateway.start", "5")
        if prev == ZEROS:
            self.gap("state-missing", 0)

    @property
    def head(self):
        return {"chain": self.id, "seq": self.seq - 1, "hash": self.prev}

    def put(self, event, priority="6", **fields):
        record = {
            "MESSAGE": f"MCPAUDIT v=1 ev={event} seq={self.seq}",
            "MESSAGE_ID": MESSAGE_IDS[event],
            "PRIORITY": priority,
            "SYSLOG_IDENTIFIER": f"mcp-tunnel-{self.side}",
            "MCP_SCHEMA": "1",
            "MCP_EVENT": event,
            "MCP_TIME": self.clock.tick(),
            "MCP_GATEWAY_VERSION": "0.1.0",
            "MCP_SIDE": self.side,
            "MCP_SEQ": str(self.seq),
            "MCP_CHAIN_ID": self.id,
            "MCP_CHAIN_PREV": self.prev,
            "MCP_TUNNEL_ID": self.tunnel,
            **{"MCP_" + name.upper(): str(value) for name, value in fields.items()},
        }
        seal(record)
        self.seq += 1
        self.prev = record["MCP_CHAIN"]
        self.log.append(record)
        return record

    def gap(self, cause, count, **fields):
        at = self.clock.tick()
        return self.put("audit.gap", "2", gap_from=at, gap_to=at, gap_count=count, gap_cause=cause, **fields)

    def call_id(self):
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def request(self, call=None, arguments="{}", tool="check_stock"):
        call = call or self.call_id()
        digest = hashlib.sha256(arguments.encode()).hexdigest()
        self.put(
            "call.request",
            call_id=call,
            kind="request",
            method="tools/call",
            tool=tool,
            agent_id="agent",
            agent_auth="bearer",
            args_hash=f"hmac-sha256-jcs:00112233:{digest}",
            decision="allow",
        )
        return call

    def response(self, call, peer=None, reason="none", status="ok"):
        extra = {}
        if peer:
            extra = {"peer_chain_id": peer["chain"], "peer_seq": peer["seq"], "peer_chain": peer["hash"]}
        return self.put("call.response", call_id=call, status=status, reason=reason, http_status="200", **extra)

    def denied(self, call=None):
        return self.put("call.denied", "4", call_id=call or self.call_id(), reason="policy", decision="deny")

    def stop(self):
        return self.put("gateway.stop", "5")

    def calls(self, count):
        for n in range(count):
            self.response(self.request(arguments=json.dumps({"n": n})))


def whole(calls=10, stop=True, clock=None, **options):
    """A log of one process."""
    log = []
    chain = Chain(log, clock or Clock(), **options)
    chain.calls(calls)
    if stop:
        chain.stop()
    return log


def both(calls=10, clock=None, stop=True):
    """(gateway's log, relay's log, gateway's chain, relay's chain) of the same calls."""
    clock = clock or Clock()
    gateway_log, relay_log = [], []
    gateway, relay = Chain(gateway_log, clock, seed=1), Chain(relay_log, clock, side="relay", seed=2)
    for n in range(calls):
        arguments = json.dumps({"n": n})
        call = relay.request(arguments=arguments)
        gateway.request(call, arguments)
        head = gateway.head
        gateway.response(call)
        relay.response(call, peer=head)
    if stop:
        gateway.stop()
        relay.stop()
    return gateway_log, relay_log, gateway, relay


def file_lines(log):
    """As the file sink writes it."""
    return "".join(
        json.dumps({n.lower(): v for n, v in r.items()}, ensure_ascii=False, separators=(",", ":")) + "\n" for r in log
    )


def journal_lines(log, as_bytes=()):
    """As journalctl -a -o json prints it; the fields of as_bytes as arrays of numbers."""
    lines = []
    for n, record in enumerate(log):
        out = {
            "__CURSOR": f"s=0123;i={n:x}",
            "__REALTIME_TIMESTAMP": str(1795176000000000 + n),
            "_TRANSPORT": "journal",
            "_SYSTEMD_UNIT": "mcp-tunnel-gateway.service",
            "_CAP_EFFECTIVE": "0",
            "SYSLOG_IDENTIFIER": ["mcp-tunnel-gateway", "twice"],
        }
        for name, value in record.items():
            if name == "SYSLOG_IDENTIFIER":
                continue
            out[name] = list(value.encode() if isinstance(value, str) else value) if name in as_bytes else value
        lines.append(json.dumps(out) + "\n")
    return "".join(lines)
