"""A FastMCP server as people write them: check_stock(sku) over SQLite, and tools that the tests steer through files."""

import asyncio
import logging
import os
import pathlib
import sqlite3

import mcp.types as types
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.streamable_http import EventMessage, EventStore
from pydantic import AnyUrl


class Events(EventStore):
    """Keeps every event, so that Last-Event-ID can be answered."""

    def __init__(self):
        self.events, self.gate = [], None

    async def store_event(self, stream_id, message):
        self.events.append((stream_id, message))
        if self.gate and hasattr(message and message.root, "result"):
            pathlib.Path(self.gate, "stored").touch()
            self.gate = None
        return str(len(self.events))

    async def replay_events_after(self, last_event_id, send_callback):
        index = int(last_event_id)
        if not 1 <= index <= len(self.events):
            return None
        stream = self.events[index - 1][0]
        for number, (owner, message) in enumerate(self.events[index:], index + 1):
            if owner == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def database():
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.execute("CREATE TABLE stock (sku TEXT PRIMARY KEY, name TEXT, quantity INTEGER)")
    db.executemany(
        "INSERT INTO stock VALUES (?, ?, ?)",
        [("A-1", "Schraube M4 × 20", 1200), ("B-2", "Dübel", 0), ("C-3", "螺丝刀", 7)],
    )
    return db


DB = database()
EVENTS = Events()
app = FastMCP("stock", host="127.0.0.1", port=0, event_store=EVENTS, log_level="INFO", json_response="STOCK_JSON" in os.environ)


@app.tool()
def check_stock(sku: str) -> dict:
    """How many of an article are in stock."""
    row = DB.execute("SELECT name, quantity FROM stock WHERE sku = ?", (sku,)).fetchone()
    if row is None:
        raise ValueError(f"no article {sku!r}")
    return {"sku": sku, "name": row[0], "quantity": row[1]}


@app.tool()
def echo(text: str) -> str:
    return text


@app.tool()
async def echo_after(text: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return text


@app.tool()
def blob(size: int) -> str:
    return ("0123456789abcdef" * (size // 16 + 1))[:size]


async def exists(path):
    while not pathlib.Path(path).exists():
        await asyncio.sleep(0.01)


@app.tool()
async def gated_progress(gate: str, steps: int, ctx: Context) -> str:
    """Step n + 1 begins when the file GATE/n is there; GATE/stored says that the result can be replayed."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        if step < steps:
            await exists(f"{gate}/{step}")
    EVENTS.gate = gate
    return "all steps done"


@app.tool()
async def log_until(gate: str, text: str, ctx: Context) -> str:
    """Logs on the GET stream until the file is there."""
    while not pathlib.Path(gate).exists():
        await ctx.session.send_log_message("warning", text, logger="stock")
        await asyncio.sleep(0.05)
    return "logged"


@app.tool()
async def touch_until(gate: str, uri: str, ctx: Context) -> str:
    while not pathlib.Path(gate).exists():
        await ctx.session.send_resource_updated(AnyUrl(uri))
        await asyncio.sleep(0.05)
    return "touched"


@app.tool()
async def ask_model(prompt: str, ctx: Context) -> str:
    answer = await ctx.session.create_message(
        [types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))],
        max_tokens=50,
        system_prompt="Répondez.",
        related_request_id=ctx.request_id,
    )
    return f"{answer.model} said: {answer.content.text}"


def note(journal, what):
    with open(journal, "a", encoding="utf-8") as out:
        out.write(what + "\n")


@app.tool()
async def hang(journal: str) -> str:
    note(journal, "started")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note(journal, "cancelled")
        raise
    return "never"


@app.resource("stock://levels")
def levels() -> str:
    return "\n".join(
        f"{sku} {quantity}" for sku, quantity in DB.execute("SELECT sku, quantity FROM stock ORDER BY sku")
    )


SUBSCRIBED = set()


@app._mcp_server.subscribe_resource()
async def subscribe(uri: AnyUrl) -> None:
    SUBSCRIBED.add(str(uri))


logging.getLogger("sse_starlette").setLevel(logging.WARNING)
app.run("streamable-http")
