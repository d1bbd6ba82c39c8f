"""A minute (with MCP_TUNNEL_SOAK=1: ten) of calls of all kinds, cuts and cancels: nothing lost, nothing left behind."""

import asyncio
import os
import random
import time

import pytest

from lib import netns
from lib.lab import NAMES, Lab, until
from lib.longpath import descriptors, private_dirty_kb
from lib.procs import SCALE

SECONDS = 600 if os.environ.get("MCP_TUNNEL_SOAK") == "1" else 60
WORKERS, PHASES = 32, 3
GROWTH, GROWTH_KB = 1.05, 300
EXCHANGES_OPEN, CALLS_OPEN = "mcp_tunnel_gateway_exchanges_open", "mcp_tunnel_relay_calls_open"


def processes(lab):
    return {"relay": lab.relay.process, "gateway": lab.gateway.process}


async def small_calls(lab, count):
    """What is cached at first use is there afterwards."""
    await asyncio.gather(*(lab.call("json", size=1000) for _ in range(count)))


async def one_phase(lab, seconds):
    """Calls, some given up, while the connection is cut about once a second."""
    end, cuts = time.monotonic() + seconds, 0
    async with lab.load(WORKERS, longest=3):
        while time.monotonic() < end and not lab.lost:
            before = lab.resumed()
            if await lab.aside(lab.net.kill, random.choice(["relay", "gateway"])):
                await until(lambda: lab.resumed() > before, 20, lambda: f"the session to go on\n{lab.tails()}")
                cuts += 1
            await asyncio.sleep(random.uniform(0.2, 1))
    return cuts


async def at_rest(lab):
    """No call is open at either end; then private dirty memory in kB."""

    async def open_calls():
        relay = (await lab.metrics())[CALLS_OPEN]
        status, body = await lab.aside(health, lab, "/metrics")
        assert status == 200, body
        gateway = next(line for line in body.splitlines() if line.startswith(EXCHANGES_OPEN + " "))
        return relay + float(gateway.split(" ")[1])

    deadline = time.monotonic() + 10 * SCALE
    while await open_calls():
        assert time.monotonic() < deadline, f"calls are still open\n{lab.tails()}"
        await asyncio.sleep(0.05)
    return {name: private_dirty_kb(process.pid) for name, process in processes(lab).items()}


def health(lab, path):
    with lab.net.gateway.entered():
        return lab.gateway.health(path)


async def soak(lab):
    await small_calls(lab, 2 * WORKERS)
    await at_rest(lab)
    idle = {name: descriptors(process.pid) for name, process in processes(lab).items()}
    memory, cuts = [], 0
    for _ in range(PHASES):
        cuts += await one_phase(lab, SECONDS / PHASES)
        memory.append(await at_rest(lab))
    assert cuts > SECONDS / 10, f"only {cuts} cuts"
    assert sum(lab.outcomes.values()) > SECONDS, lab.outcomes
    await small_calls(lab, 2 * WORKERS)
    for name, process in processes(lab).items():
        first, last = memory[0][name], memory[-1][name]
        # A sanitizer keeps what was freed.
        assert SCALE > 1 or last <= first * GROWTH + GROWTH_KB, f"{name}: private dirty kB after each phase: {memory}"
        await until(
            lambda: descriptors(process.pid) <= idle[name],
            30,
            lambda: f"{name} to have no more than {idle[name]} descriptors, as before; has {descriptors(process.pid)}",
        )


@pytest.mark.timeout((SECONDS + 200) * SCALE)
def test_soak(programs, work, certs):
    netns.require()
    certificate = certs.ca.issue("soak", san=NAMES)
    quick = ("--keepalive", "5s")
    lab = Lab(programs, work, certificate, certs.ca.cert, relay=(*quick, "--hold", "60s"), gateway=quick)
    try:
        lab.run(soak)
    finally:
        lab.close()
