"""Audit records without a gateway: auditgen.py SOCKET CALLS CHAINID sends a whole chain to journald.

The chain is computed here from its description alone, and checked by verify().
"""

import hashlib
import re
import socket
import struct
import sys
import time

IDS = {
    "gateway.start": ("ed2ace8591ec4094af2e0b47d22092cd", 5),
    "gateway.stop": ("3703804856074a25b701b602aa4dbd13", 5),
    "session.open": ("8d1190d8970e4fa788c01af984571d6d", 6),
    "call.request": ("b841c1811f564dbba297bc18d8dee8aa", 6),
    "call.response": ("ba9050821cf242d4a0d3709bbfbe2dbc", 6),
    "call.denied": ("af8637b252624887ae3c855d6fa56728", 4),
    "audit.gap": ("fd51e8e536664291b0b99ef985095b0a", 2),
    "audit.checkpoint": ("ad576026d5844264a281413b1d655da9", 6),
}
CHAIN_WORD = re.compile(rb" chain=[0-9a-f]{64}$")


def counts(name):
    return (name.startswith("MCP_") and name != "MCP_CHAIN") or name in ("MESSAGE", "MESSAGE_ID", "PRIORITY")


def chain(fields):
    """SHA-256 over the fields that count, sorted by name; MESSAGE without its last word chain=."""
    digest = hashlib.sha256()
    for name in sorted(filter(counts, fields)):
        value = fields[name] if isinstance(fields[name], bytes) else str(fields[name]).encode()
        if name == "MESSAGE":
            value = CHAIN_WORD.sub(b"", value)
        digest.update(b"%s=%d:%s\n" % (name.encode(), len(value), value))
    return digest.hexdigest()


class Chain:
    def __init__(self, ident="0123456789abcdef" * 2, side="gateway"):
        self.ident, self.side, self.seq, self.head = ident, side, 0, "0" * 64

    def record(self, event, line="", **fields):
        """The fields of the next record."""
        message_id, priority = IDS[event]
        now = time.time_ns() // 1000
        made = {
            "MESSAGE": f"MCPAUDIT v=1 ev={event} seq={self.seq}{line}",
            "MESSAGE_ID": message_id,
            "PRIORITY": str(fields.pop("PRIORITY", priority)),
            "SYSLOG_IDENTIFIER": f"mcp-tunnel-{self.side}",
            "MCP_SCHEMA": "1",
            "MCP_EVENT": event,
            "MCP_TIME": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1000000)) + f".{now % 1000000:06d}Z",
            "MCP_GATEWAY_VERSION": "0.1.0",
            "MCP_SIDE": self.side,
            "MCP_SEQ": str(self.seq),
            "MCP_CHAIN_ID": self.ident,
            "MCP_CHAIN_PREV": self.head,
            **{name: str(value) for name, value in fields.items()},
        }
        self.head = made["MCP_CHAIN"] = chain(made)
        made["MESSAGE"] += f" chain={self.head}"
        self.seq += 1
        return made


def records(calls, made=None):
    """A chain from start to stop: calls, some denied, some that went wrong, checkpoints."""
    made = made or Chain()
    tunnel = {"MCP_TUNNEL_ID": "prod", "MCP_TUNNEL_SESSION": "ab" * 16, "MCP_PEER": "relay.example.com:443"}
    start = made.record("gateway.start")
    yield start
    # Nothing is known of a process before.
    gap = {"MCP_GAP_FROM": start["MCP_TIME"], "MCP_GAP_TO": start["MCP_TIME"], "MCP_GAP_COUNT": 0}
    yield made.record("audit.gap", " cause=state-missing", MCP_GAP_CAUSE="state-missing", **gap)
    yield made.record("session.open", **tunnel)
    for number in range(calls):
        ident = f"01890000-0000-7000-8000-{number:012x}"
        agent, tool = f"agent-{number % 7}", ("read_file", "caf\u00e9 \u4e2d", 'say "hi" \\ a=b', "x" * 200)[number % 4]
        quoted = tool.replace("\\", "\\\\").replace('"', '\\"')[:90]
        line = f' call={ident} agent="{agent}" method=tools/call tool="{quoted}"'
        call = {
            **tunnel,
            "MCP_CALL_ID": ident,
            "MCP_KIND": "request",
            "MCP_METHOD": "tools/call",
            "MCP_TOOL": tool,
            "MCP_AGENT_ID": agent,
            "MCP_AGENT_AUTH": "bearer",
        }
        asked = {
            **call,
            "MCP_JSONRPC_ID": number,
            "MCP_ARGS_HASH": f"hmac-sha256-jcs:0011223344556677:{ident[-12:] * 5}0000",
        }
        if number % 100 == 99:
            denied = {**asked, "MCP_DECISION": "deny", "MCP_REASON": "header-mismatch", "MCP_RULE": "Mcp-Name differs"}
            yield made.record("call.denied", line + " decision=deny reason=header-mismatch", **denied)
            continue
        yield made.record("call.request", line + " decision=allow", MCP_DECISION="allow", MCP_REQ_BYTES=512, **asked)
        status, reason, priority = ("ok", "none", 6) if number % 50 else ("timeout", "upstream-timeout", 4)
        ended = {"MCP_STATUS": status, "MCP_REASON": reason, "MCP_DURATION_US": number, "MCP_RESP_BYTES": 2048}
        yield made.record(
            "call.response", f"{line} status={status} reason={reason}", PRIORITY=priority, **call, **ended
        )
        if number % 500 == 499:
            yield made.record("audit.checkpoint", f" records={made.seq}", MCP_RECORDS=made.seq, **tunnel)
    yield made.record("gateway.stop", MCP_REASON="gateway-stopped")


def verify(found):
    """None, or what is wrong with these records, which are dicts in the order of the chain."""
    head = None
    for number, record in enumerate(found):
        if int(record["MCP_SEQ"]) != number:
            return f"record {number} has number {record['MCP_SEQ']}"
        if head is not None and record["MCP_CHAIN_PREV"] != head:
            return f"record {number} does not follow the one before"
        head = chain(record)
        if record["MCP_CHAIN"] != head:
            return f"record {number} was changed"
    return None


def encode(fields):
    """One datagram of journald's native protocol: each value with its length."""
    parts = []
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else value.encode()
        parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
    return b"".join(parts)


def main():
    path, calls, ident = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect(path)
    count = 0
    for fields in records(calls, Chain(ident)):
        sock.send(encode(fields))
        count += 1
    print(count)


if __name__ == "__main__":
    main()
