"""What the tests of hostile ends share: breaches that both ends can commit, rows that run side by side, memory.

A row says what a hostile peer does, in which state, and what must come of it: `Session` (the session is over, for that
reason), `Lost` (only this connection), `Reset` (the stream is), `Harmless`, or another class of the test's own.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import queue
import re
import struct
import time
from dataclasses import dataclass
from typing import Callable

from .handmade import ACK, CREDIT, DATA, END, GOAWAY, HEAD, OPEN, PING, PONG, RESET, Closed, frame, websocket
from .procs import SCALE
from .rawhttp import Truncated

SLOTS = 8


@dataclass(frozen=True)
class Session:
    said: str


@dataclass(frozen=True)
class Lost:
    said: str


@dataclass(frozen=True)
class Reset:
    reason: int
    said: str


@dataclass(frozen=True)
class Harmless:
    pass


@dataclass(frozen=True)
class Row:
    name: str
    state: str
    act: Callable
    comes: object
    seconds: float = 0.1
    agent_reads: bool = True  # False: not before it has come


@contextlib.contextmanager
def side_by_side(request, play):
    """{name: future} of the rows of this module that were asked for; play(row, slot) plays one, the longest begin first."""
    items = [i for i in request.session.items if i.module is request.module and hasattr(i, "callspec")]
    rows = sorted((i.callspec.params["row"] for i in items if "row" in i.callspec.params), key=lambda row: -row.seconds)
    slots = queue.SimpleQueue()
    for slot in range(SLOTS):
        slots.put(slot)

    def one(row):
        slot = slots.get()
        try:
            play(row, slot)
        finally:
            slots.put(slot)

    pool = concurrent.futures.ThreadPoolExecutor(SLOTS)
    yield {row.name: pool.submit(one, row) for row in rows}
    pool.shutdown(cancel_futures=True)


def said_in_security(pattern):
    """The number that SECURITY.md gives."""
    text = (pathlib.Path(__file__).parents[3] / "SECURITY.md").read_text(encoding="utf-8")
    return int(re.search(pattern, text).group(1))


WAYS = r"breaks the tunnel protocol, in more than (\d+) ways"


def params(rows):
    """For pytest.mark.parametrize."""
    names = [row.name for row in rows]
    assert len(set(names)) == len(names), "two rows of one name"
    return {"argvalues": rows, "ids": names}


def closing(peer):
    """The text of the close frame with which the other end answers; a connection that just ends has none."""
    end = time.monotonic() + 15 * SCALE
    try:
        while time.monotonic() < end:
            peer.read_any()
        return "still open"
    except Closed as closed:
        return str(closed)
    except Truncated as error:
        return f"no close frame: {error}"


def small_quarantine():
    """Environment in which the memory of a sanitized program is its own, not that of what it has freed."""
    return {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "detect_leaks=1") + ":quarantine_size_mb=1"}


def peak_mib(process):
    """The most memory that it has had."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) / 1024


# ---- what both ends can do wrong ----


def sends(kind, payload=b"", ident=0, flags=0, times=1):
    return lambda peer, _: peer.connection.send(websocket(frame(kind, payload, ident, flags), peer.masks) * times)


def raw_frame(data, first=0x82):
    return lambda peer, _: peer.connection.send(websocket(data, peer.masks, first))


def raw_bytes(masked, bare=None):
    """Bytes of a WebSocket that depend on who masks."""
    return lambda peer, _: peer.connection.send(masked if peer.masks or bare is None else bare)


def u32(*numbers):
    return struct.pack(f"!{len(numbers)}I", *numbers)


def u64(*numbers):
    return struct.pack(f"!{len(numbers)}Q", *numbers)


def pieces(count, size):
    """A message in fragments without an end."""

    def act(peer, _):
        part = websocket(bytes(size), peer.masks, 0x00)
        peer.connection.send(websocket(bytes(size), peer.masks, 0x02) + part * count)

    return act


def counts(kind, more):
    """A count that is `more` above what was received."""

    def act(peer, _):
        count = u64(peer.received + more)
        peer.send(kind, count if kind == ACK else bytes(8) + count)

    return act


def counts_back(kind):
    def act(peer, _):
        assert peer.received > 0
        for number in (peer.received, peer.received - 1):
            peer.send(kind, u64(number) if kind == ACK else bytes(8) + u64(number))

    return act


PROTOCOL = "protocol: "
TOO_LONG, TOO_SHORT = PROTOCOL + "frame payload too long", PROTOCOL + "frame payload too short"
UNKNOWN_TYPE, NO_FLAG = PROTOCOL + "unknown frame type", PROTOCOL + "flag not allowed on this frame"
NOT_ACKED = PROTOCOL + "acknowledgement of frames that were not sent"
NO_STREAM_ID = PROTOCOL + "stream frame without a valid stream id"
NOT_MINIMAL, BIG_MESSAGE = PROTOCOL + "length is not minimal", PROTOCOL + "message is too large"


def common_rows():
    """(name, act, the session's end); all in the attached state."""
    rows = [
        ("message-without-a-frame", raw_frame(b""), PROTOCOL + "frame shorter than its header"),
        ("frame-of-seven-bytes", raw_frame(bytes([PING]) + bytes(6)), PROTOCOL + "frame shorter than its header"),
        ("frame-type-0", sends(0), UNKNOWN_TYPE),
        ("frame-type-8", sends(8), UNKNOWN_TYPE),
        ("frame-type-between", sends(0x0F), UNKNOWN_TYPE),
        ("frame-type-above", sends(0x15, ident=1), UNKNOWN_TYPE),
        ("frame-type-255", sends(0xFF, ident=1), UNKNOWN_TYPE),
        ("flag-2-on-data", sends(DATA, b"x", 1, 2), NO_FLAG),
        ("end-on-credit", sends(CREDIT, u32(1), 1, END), NO_FLAG),
        ("end-on-ping", sends(PING, bytes(16), 0, END), NO_FLAG),
        (
            "reserved-bytes",
            raw_frame(frame(DATA, b"x", 1, END, reserved=1)),
            PROTOCOL + "reserved bytes of a frame are not zero",
        ),
        ("session-frame-on-a-stream", sends(ACK, bytes(8), 1), PROTOCOL + "session frame with a stream id"),
        ("stream-frame-on-stream-0", sends(DATA, b"x", 0, END), NO_STREAM_ID),
        ("stream-id-above-the-highest", sends(DATA, b"x", 0x80000001, END), NO_STREAM_ID),
        ("ping-too-short", sends(PING, bytes(15)), TOO_SHORT),
        ("ping-too-long", sends(PING, bytes(17)), TOO_LONG),
        ("ack-too-short", sends(ACK, bytes(7)), TOO_SHORT),
        ("credit-too-long", sends(CREDIT, bytes(5), 1), TOO_LONG),
        ("reset-without-a-reason", sends(RESET, b"", 1), TOO_SHORT),
        ("reset-with-a-long-detail", sends(RESET, u32(1) + b"x" * 513, 1), TOO_LONG),
        ("goaway-with-a-long-detail", sends(GOAWAY, u32(0, 0) + b"x" * 513), TOO_LONG),
        ("data-above-the-agreed-size", sends(DATA, bytes(16385), 1), TOO_LONG),
        (
            "data-for-a-stream-never-opened",
            sends(DATA, b"x", 0x7FFFFFFF, END),
            PROTOCOL + "frame for a stream that was never opened",
        ),
        (
            "reset-of-a-stream-never-opened",
            sends(RESET, u32(1), 1000),
            PROTOCOL + "frame for a stream that was never opened",
        ),
        ("goaway-twice", sends(GOAWAY, u32(0, 0), times=2), PROTOCOL + "GOAWAY twice"),
        ("ack-of-what-was-not-sent", counts(ACK, 1), NOT_ACKED),
        ("ack-of-everything-ever", sends(ACK, u64(2**64 - 1)), NOT_ACKED),
        ("ping-counts-what-was-not-sent", counts(PING, 1), NOT_ACKED),
        ("pong-counts-what-was-not-sent", counts(PONG, 1000), NOT_ACKED),
        # Floods.
        ("ping-flood", sends(PING, bytes(16), times=120), "abuse: too many PING frames"),
        (
            "websocket-ping-flood",
            lambda p, _: p.connection.send(websocket(b"", p.masks, 0x89) * 120),
            "abuse: too many WebSocket pings",
        ),
        ("fragments-without-an-end", pieces(60, 1000), BIG_MESSAGE),
        # WebSocket.
        ("text-message", raw_frame(b"{}", 0x81), PROTOCOL + "text message"),
        ("reserved-bit-1", raw_frame(b"", 0xC2), PROTOCOL + "reserved bit set"),
        ("reserved-bit-3", raw_frame(b"", 0x92), PROTOCOL + "reserved bit set"),
        ("opcode-3", raw_frame(b"", 0x83), PROTOCOL + "unknown opcode"),
        ("opcode-11", raw_frame(b"", 0x8B), PROTOCOL + "unknown opcode"),
        ("fragmented-ping", raw_frame(b"", 0x09), PROTOCOL + "fragmented control frame"),
        ("fragmented-close", raw_frame(b"", 0x08), PROTOCOL + "fragmented control frame"),
        ("long-ping", raw_frame(bytes(126), 0x89), PROTOCOL + "control frame of more than 125 bytes"),
        ("continuation-of-nothing", raw_frame(b"x", 0x80), PROTOCOL + "continuation without a message"),
        (
            "message-inside-a-message",
            lambda p, _: p.connection.send(websocket(b"\x05", p.masks, 0x02) + websocket(b"x", p.masks)),
            PROTOCOL + "new message inside a fragmented one",
        ),
        (
            "length-in-16-bits-too-many",
            raw_bytes(b"\x82\xfe\0\x01" + bytes(5), b"\x82\x7e\0\x01" + bytes(1)),
            NOT_MINIMAL,
        ),
        (
            "length-in-64-bits-too-many",
            raw_bytes(b"\x82\xff" + u64(200) + bytes(4), b"\x82\x7f" + u64(200)),
            NOT_MINIMAL,
        ),
        (
            "length-with-its-highest-bit",
            raw_bytes(b"\x82\xff" + u64(2**63) + bytes(4), b"\x82\x7f" + u64(2**63)),
            PROTOCOL + "length has its highest bit set",
        ),
        (
            "message-of-a-gibibyte",
            raw_bytes(b"\x82\xff" + u64(2**30) + bytes(4), b"\x82\x7f" + u64(2**30)),
            BIG_MESSAGE,
        ),
        ("close-of-one-byte", raw_frame(b"\x03", 0x88), PROTOCOL + "close frame of one byte"),
        ("close-with-a-forbidden-code", raw_frame(b"\x03\xed", 0x88), PROTOCOL + "close code that must not be sent"),
        ("close-that-is-no-utf-8", raw_frame(b"\x03\xea\xff\xfe", 0x88), PROTOCOL + "close reason is not UTF-8"),
    ]
    return [Row(name, "attached", act, Session(said)) for name, act, said in rows]


def raw_fields(*triples):
    """Fields as bytes, whatever they are: (name, value)."""
    return b"".join(struct.pack("!HH", len(n), len(v)) + n + v for n, v in triples)


# Field blocks that are none, for a frame that has fields.
BAD_FIELDS = [
    ("cut-in-its-lengths", b"\0\x01\0", "field cut short"),
    ("longer-than-the-frame", b"\0\x05\0\0a", "field cut short"),
    ("value-longer-than-the-frame", b"\0\x01\xff\xffa", "field cut short"),
    ("without-a-name", b"\0\0\0\x01a", "field without a name"),
    ("name-with-a-space", raw_fields((b"a b", b"")), "field name that is not a token"),
    ("name-with-a-colon", raw_fields((b"a:b", b"")), "field name that is not a token"),
    ("name-with-a-line-break", raw_fields((b"a\r\nb", b"")), "field name that is not a token"),
    ("name-with-a-nul", raw_fields((b"a\0", b"")), "field name that is not a token"),
    ("value-with-a-line-break", raw_fields((b"a", b"x\r\nb: c")), "field value with CR, LF or NUL"),
    ("value-with-a-nul", raw_fields((b"a", b"x\0")), "field value with CR, LF or NUL"),
    ("name-of-257-bytes", raw_fields((b"a" * 257, b"")), "field name too long"),
    ("193-of-them", raw_fields((b"a", b"")) * 193, "too many fields"),
    ("pseudo-field-twice", raw_fields((b":x", b"1"), (b":x", b"2")), "pseudo-field twice"),
    ("pseudo-field-after-another", raw_fields((b"a", b"1"), (b":x", b"2")), "pseudo-field after an ordinary one"),
]


def field_rows(kind, state, ident):
    """The same with each of BAD_FIELDS in a frame of that kind."""
    return [
        Row(f"fields-{name}", state, sends(kind, block, ident), Session(PROTOCOL + said))
        for name, block, said in BAD_FIELDS
    ] + [Row("fields-above-32768-bytes", state, sends(kind, bytes(32769), ident), Session(BIG_MESSAGE))]


def before_greeting_rows():
    """Each frame before the greeting."""
    sizes = {PING: 16, PONG: 16, ACK: 8, GOAWAY: 8, OPEN: 0, HEAD: 0, DATA: 1, CREDIT: 4, RESET: 4}
    names = dict(
        zip(
            (PING, PONG, ACK, GOAWAY, OPEN, HEAD, DATA, CREDIT, RESET),
            "ping pong ack goaway open head data credit reset".split(),
        )
    )
    return [
        Row(
            f"{name}-before-the-greeting",
            "greeting",
            sends(kind, bytes(sizes[kind]), int(kind >= OPEN)),
            Session(PROTOCOL + "frame before the greeting"),
        )
        for kind, name in names.items()
    ]
