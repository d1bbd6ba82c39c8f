"""A minute (with MCP_TUNNEL_SOAK=1: ten) of calls of all kinds, cuts and cancels: nothing lost, nothing left behind."""

import asyncio
import os
import random
import time

from .lab import until
from .longpath import descriptors, private_dirty_kb
from .procs import SCALE

SOAK = os.environ.get("MCP_TUNNEL_SOAK") == "1"
SECONDS, PHASE = (600, 20) if SOAK else (60, 10)
PHASE_CUTS = PHASE // 5  # at least, however slow the machine is
PHASES, WORKERS = SECONDS // PHASE, 32
# The allocator keeps up to 8 MB at the end of the heap, as it happens: what counts is the lowest of three phases, of the first
# minute and of the last one. The short one has no full minutes, and so a little room.
COMPARED, GROWTH, GROWTH_KB = 3, 1.05, 0 if SOAK else 300
EXCHANGES_OPEN, CALLS_OPEN = "mcp_tunnel_gateway_exchanges_open", "mcp_tunnel_relay_calls_open"


def processes(lab):
    return {"relay": lab.relay.process, "gateway": lab.gateway.process}


async def small_calls(lab, count):
    await asyncio.gather(*(lab.call("json", size=1000) for _ in range(count)))


async def worst_moment(lab):
    """More at once than later, and a cut in the middle: what is kept from first use on, the heap too, is there afterwards."""
    for _ in range(3):
        calls = [asyncio.create_task(lab.call("json", size=1 << 20, seconds=1)) for _ in range(WORKERS)]
        await asyncio.sleep(0.5)
        await lab.aside(lab.net.kill)
        await asyncio.gather(*calls)
    await small_calls(lab, 2 * WORKERS)


async def one_phase(lab, seconds):
    """Calls, some given up, while the connection is cut about once a second."""
    cuts, end = 0, time.monotonic() + seconds
    late = end + 30 * SCALE
    async with lab.load(WORKERS, longest=3):
        while time.monotonic() < (end if cuts >= PHASE_CUTS else late) and not lab.lost:
            before = lab.resumed()
            if await lab.aside(lab.net.kill, random.choice(["relay", "gateway"])):
                await until(lambda: lab.resumed() > before, 20, lambda: f"the session to go on\n{lab.tails()}")
                cuts += 1
            await asyncio.sleep(random.uniform(0.2, 1))
    return cuts


async def at_rest(lab):
    """No call is open at either end; then private dirty memory in kB."""

    async def what_is_left():
        """Calls, and frames that the gateway has not acknowledged yet, beyond those that it need not."""
        relay, gateway = await lab.metrics(), await lab.metrics("gateway")
        kept = relay["mcp_tunnel_relay_kept_bytes"]
        return {"calls": relay[CALLS_OPEN] + gateway[EXCHANGES_OPEN], "kept": kept if kept >= 128 << 10 else 0}

    deadline = time.monotonic() + 10 * SCALE
    while any((left := await what_is_left()).values()):
        assert time.monotonic() < deadline, f"still left: {left}\n{lab.tails()}"
        await asyncio.sleep(0.05)
    return {name: private_dirty_kb(process.pid) for name, process in processes(lab).items()}


def report(lab, cuts, memory):
    twice = len(lab.server.executions) - len({e.key for e in lab.server.executions})
    print(f"soak: {SECONDS} s, {cuts} cuts, {dict(lab.outcomes)} answered, {len(lab.ours)} cancelled by the agent")
    print(f"soak: {len(lab.lost)} lost, {twice} executed twice, {len(lab.server.executions)} executed")
    for name in processes(lab):
        print(f"soak: private dirty kB of the {name} after each phase: {[m[name] for m in memory]}")


async def soak(lab):
    await worst_moment(lab)
    await at_rest(lab)
    idle = {name: descriptors(process.pid) for name, process in processes(lab).items()}
    memory, cuts = [], 0
    for _ in range(PHASES):
        cuts += await one_phase(lab, PHASE)
        memory.append(await at_rest(lab))
        report(lab, cuts, memory)
    assert cuts >= PHASES * PHASE_CUTS, f"only {cuts} cuts"
    assert sum(lab.outcomes.values()) > SECONDS, lab.outcomes
    await small_calls(lab, 2 * WORKERS)
    for name, process in processes(lab).items():
        first, last = (min(m[name] for m in part) for part in (memory[:COMPARED], memory[-COMPARED:]))
        # A sanitizer keeps what was freed.
        assert SCALE > 1 or last <= first * GROWTH + GROWTH_KB, f"{name}: private dirty kB after each phase: {memory}"
        await until(
            lambda: descriptors(process.pid) <= idle[name],
            30,
            lambda: f"{name} to have no more than {idle[name]} descriptors, as before; has {descriptors(process.pid)}",
        )
