"""Connections that break: nothing is lost, nothing is executed twice, no event is missing, doubled or out of order.

lib/scenes.py says how the scenarios are run. MCP_TUNNEL_SOAK=1 makes them longer.
"""

import asyncio
import functools
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import time
from datetime import datetime

import pytest

from lib import netns
from lib.drivers import Driver
from lib.lab import AGENT_PORT, TUNNEL, Ended, until
from lib.longpath import Wire
from lib.procs import SANITIZER, SCALE, Process
from lib.scenes import QUICK, scenario
from lib.soak import soak
from lib.tunnel import Endpoint, Programs

SOAK = os.environ.get("MCP_TUNNEL_SOAK") == "1"
# A build without sanitizers, where there is one besides: for many processes at once.
PLAIN = os.environ.get("E2E_PLAIN")
PATIENT = {"relay": (*QUICK, "--hold", "60s"), "gateway": QUICK}
SERVERS = pathlib.Path(__file__).parent / "servers"
LONG = {"delay": "40ms", "rate": "100M", "queue": "600k"}
ALONE, TOGETHER = {}, {}


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.timeout((3600 if SOAK else 300) * SCALE)
def test_fault(running, name):
    running[name].result()


# After those that run side by side have ended.
@pytest.mark.parametrize("name", ALONE)
def test_alone(play, name):
    play(ALONE[name])


async def cut(lab, side=None):
    """Kills the connection and waits until the session has gone on; how many were killed."""
    before = lab.resumed()
    killed = await lab.aside(lab.net.kill, side or random.choice(["relay", "gateway"]))
    if killed:
        await until(lambda: lab.resumed() > before, 20, lambda: f"the session to go on\n{lab.tails()}")
    return killed


REPLAYED = r"\d+ frames \(\d+ bytes\) sent again"


async def assert_one_blip(lab, marks, relay=(2,), gateway=(2,)):
    """One line when it starts and one when it is over, at each end; how many calls waited, as each line has it."""

    def of_the_tunnel():
        # The MCP server is a part of this process, and may be slow to answer the gateway's own questions.
        return {end: [s for s in lines if "MCP server" not in s] for end, lines in lab.lines_since(marks).items()}

    def told():
        said = of_the_tunnel()
        return len(said["relay"]) in relay and len(said["gateway"]) in gateway

    # The calls may be over before the line that says why they could go on has been read.
    await until(told, 5, lambda: f"lines for one blip: {of_the_tunnel()}")
    said = of_the_tunnel()
    # A loss that was not noticed is told together with its end.
    when = "before its loss was noticed" if len(said["relay"]) == 1 else r"after [\d.]+ s"
    expected = {
        "relay": (
            r"session \w+ lost its connection \(.*\); (\d+) calls wait up to \d+ s",
            rf"session \w+ resumed {when} from [\d.]+:\d+: (\d+) calls and \d+ new ones had waited, {REPLAYED}",
        ),
        "gateway": (
            r"not connected to \S+: .*; (\d+) calls wait up to \d+ s; trying again until it works",
            rf"connected to \S+ again after [\d.]+ s: session resumed, (\d+) calls had waited, {REPLAYED}",
        ),
    }
    waited = []
    for end, lines in said.items():
        matches = [re.search(p, line) for p, line in zip(expected[end][-len(lines) :], lines, strict=False)]
        assert all(matches), f"{matches}: {lines}"
        waited += [int(m.group(1)) for m in matches]
    return waited


scenario(TOGETHER, seconds=90, **PATIENT)(soak)

# ---- latency ----


async def cancelled_within(lab, agent, seconds):
    """The agent goes away; how long until the server knows."""
    execution = await until(lambda: lab.server.of(agent.key), 10, "the call to begin")
    began = time.monotonic()
    lab.ours.add(agent.key)
    agent.close()
    await until(lambda: execution[0].cancelled, seconds, lambda: f"the cancel to arrive\n{lab.tails()}")
    return execution[0].cancelled - began


@scenario(ALONE, relay=QUICK, gateway=QUICK)
async def cancel_reaches_the_server_at_once(lab):
    """Also while others are busy, and when the connection has just been resumed."""
    floods = []
    for _ in range(2):
        flood = await lab.agent("flood", answer=1 << 40).__aenter__()
        floods.append(asyncio.create_task(read_for_ever(flood)))
        lab.ours.add(flood.key)
    times = []
    for number in range(20):
        async with lab.agent("hang", size=1000) as agent:
            await until(lambda: lab.server.of(agent.key), 10, "the call to begin")
            if number % 2:
                await cut(lab)
            times.append(await cancelled_within(lab, agent, 2))
    for flood in floods:
        flood.cancel()
    assert statistics.median(times) < 0.05 * SCALE, times
    await until(lambda: all(e.cancelled for e in lab.server.executions), 10, "the downloads to end")
    lab.verify(0)


async def read_for_ever(agent):
    try:
        await agent.head()
        while await agent.reader.read(1 << 20):
            pass
    finally:
        agent.close()


@scenario(ALONE, network=functools.partial(Wire, **LONG))
async def cancel_takes_less_than_a_round_trip(lab):
    """Of 80 ms, while large answers and large requests fill the path both ways."""
    floods, stop = [], asyncio.Event()

    async def upload():
        while not stop.is_set():
            await lab.call("json", size=2 << 20, answer=10)

    for _ in range(2):
        flood = await lab.agent("flood", answer=1 << 40).__aenter__()
        floods += [asyncio.create_task(read_for_ever(flood)), asyncio.create_task(upload())]
        lab.ours.add(flood.key)
    await asyncio.sleep(3)
    times = []
    for _ in range(20):
        async with lab.agent("hang", size=1000) as agent:
            times.append(await cancelled_within(lab, agent, 2))
    stop.set()
    for flood in floods[::2]:
        flood.cancel()
    await asyncio.gather(*floods[1::2])
    assert statistics.median(times) < 0.08 * SCALE and max(times) < 0.2 * SCALE, sorted(times)
    lab.verify(0)


@scenario(ALONE, relay=QUICK, gateway=QUICK)
async def slow_agent_slows_only_its_own_call(lab):
    async with lab.agent("flood", answer=128 << 20) as slow:
        await slow.head()
        began, times = time.monotonic(), []
        while time.monotonic() - began < 3:
            await slow.reader.readexactly(10000)
            one = time.monotonic()
            await lab.call("json", size=1000)
            times.append(time.monotonic() - one)
            await asyncio.sleep(0.02)
        sent = lab.server.of(slow.key)[0].sent
        # 8 MiB of credit, and the buffers of three sockets.
        assert sent < 32 << 20, f"the server could send {sent} bytes to an agent that reads 500 kB/s"
        assert statistics.median(times) < 0.1 * SCALE, times
        one = time.monotonic()
        await lab.call("json", size=4 << 20)
        assert time.monotonic() - one < 3 * SCALE
        lab.ours.add(slow.key)
    await until(lambda: lab.server.of(slow.key)[0].cancelled, 5, "the download to end")
    lab.verify()


# ---- cuts ----


def memory_kb(process):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{process.pid}/status").read_text()).group(1))


@scenario(TOGETHER, seconds=130)
async def killed_100_times_under_64_calls(lab):
    cuts, memory = 1000 if SOAK else 100, {"relay": [], "gateway": []}
    async with lab.load(64):
        killed = 0
        while killed < cuts and not lab.lost:
            killed += await cut(lab)
            await asyncio.sleep(random.uniform(0, 0.3))
            for end, values in memory.items():
                values.append(memory_kb(getattr(lab, end).process))
    assert sum(lab.outcomes.values()) > cuts
    for end, values in memory.items():
        middle, last = (statistics.median(values[cuts * n // 8 :][: cuts // 4]) for n in (3, 6))
        # A sanitizer keeps what was freed.
        assert SCALE > 1 or last < 1.05 * middle, f"memory of the {end} grew from {middle} to {last} kB: {values}"


def down(seconds, relay, gateway):
    """The link is down for so long; who notices says so once."""

    @scenario(TOGETHER, name=f"link_down_{seconds}_s", seconds=seconds + 5, **PATIENT)
    async def link_down(lab):
        async with lab.load(16, longest=5):
            await asyncio.sleep(1)
            marks = lab.marks()
            await lab.aside(lab.net.link, False)
            await asyncio.sleep(seconds)
            await lab.aside(lab.net.link, True)
        await assert_one_blip(lab, marks, relay, gateway)

    return link_down


down(1, (0,), (0,))
down(5, (0, 2), (0, 2))
down(60 if SOAK else 20, (2,), (2,)).options = {"relay": (*PATIENT["relay"], "--resume-grace", "80s"), "gateway": QUICK}


@scenario(TOGETHER, seconds=30, **PATIENT)
async def packets_vanish_for_25_s(lab):
    """Noticed within two keepalive times at both ends."""
    async with lab.load(16, longest=5):
        await asyncio.sleep(1)
        marks, began = lab.marks(), time.monotonic()
        await lab.aside(lab.net.drop)
        for end, line in (("relay", "lost its connection"), ("gateway", "not connected")):
            await lab.aside(getattr(lab, end).process.wait_line, line, 12, marks[end])
        noticed = time.monotonic() - began
        await asyncio.sleep(25 - noticed)
        await lab.aside(lab.net.heal)
    assert noticed < 11 * SCALE, f"noticed after {noticed:.1f} s"
    await assert_one_blip(lab, marks)


@scenario(TOGETHER, **PATIENT)
async def reset_from_the_middle(lab):
    async with lab.load(16, longest=5):
        await asyncio.sleep(1)
        marks = lab.marks()
        await lab.aside(lab.net.reset)
        await asyncio.sleep(2)
        await lab.aside(lab.net.heal)
    # An end that had nothing to say meanwhile was not reset.
    await assert_one_blip(lab, marks, relay=(1, 2))


@scenario(TOGETHER, host="relay.test", **PATIENT)
async def address_of_the_relay_changes(lab):
    async with lab.load(16, longest=5):
        await asyncio.sleep(1)
        marks = lab.marks()
        lab.hosts.write_text(f"{netns.OTHER_RELAY_ADDR} {lab.host}\n")
        relay = lab.net.relay.run
        await lab.aside(lambda: relay("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/promote_secondaries"))
        await lab.aside(lambda: relay("ip", "addr", "del", f"{netns.RELAY_ADDR}/24", "dev", "uplink"))
        await lab.aside(lab.gateway.process.wait_line, "again after", 30, marks["gateway"])
    # The old connection may still have looked alive to the relay when the new one took over.
    await assert_one_blip(lab, marks, relay=(1, 2))


@scenario(TOGETHER, seconds=70, relay=("--hold", "60s"), network=functools.partial(Wire, **LONG, loss=10, seed=3))
async def a_minute_of_loss(lab):
    """One packet in ten is lost, and the round trip is 80 ms."""
    async with lab.load(12, longest=4):
        await asyncio.sleep(60)
    lost = lab.net.wire.stats()
    assert min(side["lost"] for side in lost.values()) > 100, f"the wire lost too little: {lost}"
    assert lab.outcomes["json"] > 10 and lab.outcomes["sse"] > 10, lab.outcomes


@scenario(TOGETHER)
async def each_blip_is_told_once(lab):
    """By an end that noticed in two lines; in one by a relay that found the gateway back before it missed it."""
    agents = [await lab.agent("hang", size=1000).__aenter__() for _ in range(8)]
    await until(lambda: len(lab.server.executions) == 8, 10, "the calls to begin")
    for number in range(12):
        # What the last one left to say is said.
        await asyncio.sleep(0.3)
        marks, unnoticed = lab.marks(), number % 3 == 2
        if unnoticed:
            await lab.aside(lab.net.drop)
            await lab.aside(lab.net.kill, "gateway")
            await lab.aside(lab.gateway.process.wait_line, "not connected", 5, marks["gateway"])
            await lab.aside(lab.net.heal)
        else:
            await lab.aside(lab.net.kill, ["gateway", "relay"][number % 3])
        for end in marks:
            await lab.aside(getattr(lab, end).process.wait_line, "resumed", 10, marks[end])
        waited = await assert_one_blip(lab, marks, relay=(1,) if unnoticed else (2,))
        assert set(waited) == {8}, waited
    for agent in agents:
        await cancelled_within(lab, agent, 2)


@scenario(TOGETHER)
async def cancel_while_cut_off(lab):
    """The server learns of the cancel when the session goes on, of this one alone, and never takes the cut for one."""
    async with lab.load(8, longest=4):
        agents = [await lab.agent("hang", size=1000).__aenter__() for _ in range(4)]
        for agent in agents:
            await until(lambda a=agent: lab.server.of(a.key), 10, "the calls to begin")
        await lab.aside(lab.net.drop)
        killed = await lab.aside(lab.net.kill, "gateway")
        assert killed
        await asyncio.sleep(0.5)
        executions = [lab.server.of(agent.key)[0] for agent in agents]
        lab.ours.add(agents[0].key)
        agents[0].close()
        await asyncio.sleep(1)
        assert not any(e.cancelled for e in executions), "the server was told while nothing could get through"
        await lab.aside(lab.net.heal)
        await until(lambda: executions[0].cancelled, 10, "the cancel to arrive")
        await asyncio.sleep(0.5)
        assert not any(e.cancelled for e in executions[1:]), "a cut looked like a cancel"
        for agent in agents[1:]:
            await cancelled_within(lab, agent, 2)


@scenario(TOGETHER)
async def thousand_idle_streams_across_ten_cuts(lab):
    agents, gate = [], asyncio.Semaphore(50)

    async def begin():
        async with gate:
            agent = await lab.agent("stream", method="GET").__aenter__()
            agents.append(agent)
            await agent.head()

    await asyncio.gather(*(begin() for _ in range(1000)))
    for _ in range(10):
        await cut(lab)
    executions = {e.key: e for e in lab.server.executions}
    assert len(executions) == len(lab.server.executions) == 1000
    for last in (False, True):
        for agent in agents:
            executions[agent.key].more.put_nowait(last)
        for agent in agents:
            assert await asyncio.wait_for(agent.next_event(), 20 * SCALE) == int(last)
    for agent in agents:
        assert await agent.next_event() is None
        agent.close()
    lab.verify(0)


# ---- programs that stop, and programs that die ----


@scenario(TOGETHER)
async def gateway_is_restarted_under_load(lab):
    """Open calls finish at the old process; new ones wait, and the next process answers them."""
    for number in range(4):
        running = [asyncio.create_task(lab.call("sse", steps=20, seconds=random.uniform(1, 3))) for _ in range(32)]
        began = len(lab.server.executions)
        await until(lambda: len(lab.server.executions) >= began, 10, "the calls to begin")
        async with rush(lab, 16):
            await asyncio.sleep(0.5)
            old = lab.gateway.process
            old.send_signal(signal.SIGTERM)
            assert await lab.aside(old.wait, 20) == 0, old.tail()
            assert old.find("stopping: [1-9]"), old.tail()
            await lab.aside(lab.add_gateway)
            await asyncio.sleep(0.3)
        await asyncio.gather(*running)
    lab.verify(4 * 32)


class rush:
    """That many workers make small calls without a pause."""

    def __init__(self, lab, workers):
        self.lab, self.workers, self.stop = lab, workers, False

    async def work(self):
        while not self.stop:
            try:
                await self.lab.call("json", size=100)
            except Ended as ended:
                self.lab.lost.append(str(ended))

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self.work()) for _ in range(self.workers)]

    async def __aexit__(self, *_):
        self.stop = True
        await asyncio.gather(*self.tasks)


@scenario(TOGETHER)
async def gateway_is_stopped_while_cut_off(lab):
    """Answers that are complete but not delivered are delivered before the process ends."""
    running = [asyncio.create_task(lab.call("sse", steps=10, seconds=1)) for _ in range(8)]
    running += [asyncio.create_task(lab.call("json", size=200000, seconds=1)) for _ in range(8)]
    await until(lambda: len(lab.server.executions) == 16, 10, "the calls to begin")
    await lab.aside(lab.net.drop)
    await lab.aside(lab.net.kill, "gateway")
    old = lab.gateway.process
    old.send_signal(signal.SIGTERM)
    await until(lambda: all(e.end for e in lab.server.executions), 10, "the server to answer")
    await asyncio.sleep(1)
    await lab.aside(lab.net.heal)
    await asyncio.gather(*running)
    assert await lab.aside(old.wait, 20) == 0, old.tail()
    lab.verify(16)


async def ending(call):
    try:
        await call
    except Ended as ended:
        return ended
    return None


async def begin_calls(lab, whole, streams):
    """Calls that last: the server has all of them, `whole` without an answer, and of the others each agent has events."""
    before = len(lab.server.executions)
    calls = [asyncio.create_task(ending(lab.call("json", gated=True))) for _ in range(whole)]
    agents = [lab.agent("sse", steps=600, seconds=60) for _ in range(streams)]
    calls += [asyncio.create_task(ending(whole_answer(agent))) for agent in agents]
    await until(lambda: len(lab.server.executions) == before + whole + streams, 10, "the calls to begin")
    await until(lambda: all(agent.events for agent in agents), 10, "the answers to begin")
    return calls


async def whole_answer(agent):
    async with agent:
        await agent.finish()


def assert_maybe_executed(ends, whole):
    """The first `whole` answers had not begun at their agents; the others had, and are cut."""
    assert all(ends), "a call of a gateway that was killed got an answer"
    assert {(e.status, e.executed) for e in ends[:whole]} == {(502, "maybe")}, ends[:whole]
    assert {e.status for e in ends[whole:]} == {0}, f"an answer that was cut did not look so: {ends[whole:]}"


# --hold: to start a program may take long, above all under valgrind.
@scenario(TOGETHER, relay=("--keepalive", "3s", "--resume-grace", "6s", "--hold", "60s"), gateway=("--keepalive", "3s"))
async def gateway_is_killed(lab):
    """Its calls end as `may have been executed` within two keepalive times; the next process gets new ones at once."""
    calls = await begin_calls(lab, 8, 8)
    began = time.monotonic()
    lab.gateway.process.kill()
    waiting = [asyncio.create_task(lab.call("json", size=10)) for _ in range(8)]
    await asyncio.sleep(0.5)
    await lab.aside(lab.add_gateway)
    attached = time.monotonic()
    await asyncio.gather(*waiting)
    await lab.call("json", size=10)
    assert time.monotonic() - attached < 1 * SCALE
    ends = await asyncio.gather(*calls)
    assert time.monotonic() - began < 7 * SCALE
    assert_maybe_executed(ends, 8)
    await until(lambda: all(e.end or e.cancelled for e in lab.server.executions), 5, "the server to know")
    assert len(lab.server.executions) == 16 + 9


async def killed_under_32_calls(lab, state, silently):
    """Whether the relay hears of the death or not, the next process on that state directory ends the calls."""
    mark = lab.relay.process.mark()
    calls = await begin_calls(lab, 24, 8)
    if silently:
        await lab.aside(lab.net.drop, netns.GATEWAY_ADDR)
        via = ("default", "via", "10.77.1.1", "src", netns.OTHER_GATEWAY_ADDR)
        await lab.aside(lambda: lab.net.gateway.run("ip", "route", "replace", *via))
    began = time.monotonic()
    lab.gateway.process.kill()
    held = []
    if not silently:
        await lab.aside(lab.relay.process.wait_line, "lost its connection", 5, mark)
        held = [asyncio.create_task(lab.call("json", size=10)) for _ in range(8)]
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in calls + held)
    await lab.aside(lambda: lab.add_gateway(state_dir=state))
    assert_maybe_executed(await asyncio.gather(*calls), 24)
    took = time.monotonic() - began
    # Two keepalive times are allowed; it is as soon as the next process is attached.
    assert took < 3 * SCALE, f"the calls ended after {took:.1f} s"
    await asyncio.gather(*held, lab.call("json", size=10))
    said = lab.relay.process.find(r"session \w+ is over: its gateway ended without a word.*; (\d+) calls", mark)
    assert said and said.group(1) == "32", lab.tails()


@scenario(TOGETHER, relay=(*QUICK, "--resume-grace", "30s"), gateway=QUICK)
async def killed_gateway_has_a_successor(lab):
    state = lab.dir / f"state-{lab.relay.state.name}"
    await lab.aside(lab.gateway.process.stop)
    await lab.aside(lambda: lab.add_gateway(state_dir=state))
    await killed_under_32_calls(lab, state, False)
    await killed_under_32_calls(lab, state, True)
    keys = [e.key for e in lab.server.executions]
    assert len(keys) == len(set(keys)) == 2 * 32 + 10, "executed twice"
    assert (state / "session").exists()
    assert await lab.aside(lab.gateway.process.stop) == 0
    assert not (state / "session").exists(), "a clean stop leaves nothing to replace"


@scenario(TOGETHER)
async def relay_is_killed(lab):
    """Open calls end; the gateway comes back on its own, and the server is not left with work that nobody waits for."""
    calls = [asyncio.create_task(ending(lab.call("sse", steps=600, seconds=60))) for _ in range(8)]
    await until(lambda: len(lab.server.executions) == 8, 10, "the calls to begin")
    mark = lab.gateway.process.mark()
    lab.relay.process.kill()
    assert {e.status for e in await asyncio.gather(*calls)} == {0}
    await asyncio.sleep(1)
    assert not any(e.cancelled for e in lab.server.executions), "a cut looked like a cancel"
    await lab.aside(lab.relay.start)
    await asyncio.gather(*(lab.call("json", size=10) for _ in range(8)))
    await until(lambda: all(e.end or e.cancelled for e in lab.server.executions), 5, "the server to know")
    assert len(lab.server.executions) == 16
    said = lab.lines_since({"gateway": mark})["gateway"]
    assert len(said) == 2 and "session new" in said[1], said


@scenario(TOGETHER)
async def relay_is_restarted(lab):
    """Open calls finish first; the gateway comes back on its own."""
    calls = [asyncio.create_task(lab.call("sse", steps=20, seconds=2)) for _ in range(16)]
    await until(lambda: len(lab.server.executions) == 16, 10, "the calls to begin")
    old = lab.relay.process
    old.send_signal(signal.SIGTERM)
    await asyncio.gather(*calls)
    assert await lab.aside(old.wait, 20) == 0, old.tail()
    await lab.aside(lab.relay.start)
    await asyncio.gather(*(lab.call("json", size=10) for _ in range(8)))
    lab.verify(24)


@scenario(TOGETHER, relay=("--keepalive", "60s"), gateway=("--keepalive", "60s"))
async def half_open_session_blocks_nobody(lab):
    """The gateway's network is gone, and nobody has noticed; another process attaches from another address."""
    running = [asyncio.create_task(lab.call("sse", steps=20, seconds=2)) for _ in range(8)]
    await until(lambda: len(lab.server.executions) == 8, 10, "the calls to begin")
    await lab.aside(lab.net.drop, netns.GATEWAY_ADDR)
    via = ("default", "via", "10.77.1.1", "src", netns.OTHER_GATEWAY_ADDR)
    await lab.aside(lambda: lab.net.gateway.run("ip", "route", "replace", *via))
    await lab.aside(lab.add_gateway)
    # The relay has to know it, too.
    await asyncio.sleep(0.3 * SCALE)
    began = time.monotonic()
    await asyncio.gather(*(lab.call("json", size=1000) for _ in range(16)))
    assert time.monotonic() - began < 1 * SCALE, lab.tails()
    assert not any(task.done() for task in running)
    await lab.aside(lab.net.heal)
    await asyncio.gather(*running)
    lab.verify(24)


@scenario(TOGETHER)
async def many_gateways_come_back_to_a_restarted_relay(lab):
    """Not all at once, and all of them."""
    count = 200 if SCALE == 1 or PLAIN else 40
    tokens = [lab.token]
    for number in range(count - 1):
        tokens.append(await lab.aside(lab.relay.add_tunnel, f"many-{number}"))
    lab.relay.reload()
    children = [await lab.aside(start_bare_gateway, lab, number, token) for number, token in enumerate(tokens[1:])]
    try:
        await until(lambda: lab.relay.process.count("attached from") == count, 30, lab.relay.process.tail)
        lab.relay.process.kill()
        await asyncio.sleep(3)
        await lab.aside(lab.relay.start)
        started = lab.relay.process.wait_line(r"^(\S+) .* ready$").group(1)
        await until(lambda: lab.relay.process.count("attached from") == count, 30, lab.relay.process.tail)
        await lab.call("json", size=10)
        lines = lab.lines_since({"relay": 0})["relay"]
        times = [seconds_between(started, line.split(" ")[0]) for line in lines if "attached from" in line]
        crowd = max(sum(1 for t in times if at <= t < at + 0.1) for at in times)
        assert max(times) < 10 * SCALE, f"the last one came after {max(times):.1f} s"
        assert crowd <= count * 0.3, f"{crowd} of {count} came within 0.1 s"
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait(10)
    assert not any(SANITIZER.search((lab.dir / f"many-{n}.log").read_text()) for n in range(count - 1))


def start_bare_gateway(lab, number, token):
    """Without threads that read its log."""
    file = lab.dir / f"many-{number}.token"
    file.touch(mode=0o600)
    file.write_text(token + "\n")
    control = f"wss://{lab.host}:{lab.net.port}/v1/tunnel"
    program = Programs(pathlib.Path(PLAIN)).gateway if PLAIN else lab.programs.gateway
    argv = [*lab.net.gateway.prefix(), program, "--token-file", file, "--control-plane", control]
    argv += ["--mcp-server-url", f"http://127.0.0.1:{lab.server_port}/mcp", "--ca-file", lab.ca]
    argv += ["--health-listen", "none", "--audit", "none"]
    with open(lab.dir / f"many-{number}.log", "w") as log:
        return subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def seconds_between(first, second):
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


# ---- the SDKs ----


class LabDriver(Driver):
    def __init__(self, lab, name, cache):
        super().__init__(name, cache, lab.ca)
        self.lab = lab

    def _argv(self):
        return [*self.lab.net.relay.prefix(), *super()._argv()]


def start_sdk_server(lab, cache, name):
    argv = {
        "stock": [cache / "venv-sdk1/bin/python", "-u", SERVERS / "stock_server.py"],
        "stateless": [cache / "bin/node", SERVERS / "stateless.mjs"],
    }[name]
    env = {"E2E_JS_ROOT": str(cache / "js")}
    process = Process(name, [*lab.net.gateway.prefix(), *argv], env=env)
    lab.helpers.append(process)
    lab.server_port = int(process.wait_line(r" on http://127\.0\.0\.1:(\d+)", 30).group(1))


def sdk(client, server, era):
    """Every step of the tool waits until the client has seen the one before; the connection is cut all the while."""

    @scenario(TOGETHER, name=f"sdk_{client}_{server}", seconds=20)
    async def sdk_scenario(lab):
        cache = pathlib.Path(os.environ["E2E_CACHE"])
        driver = LabDriver(lab, client, cache)
        endpoint = Endpoint(
            f"http://127.0.0.1:{AGENT_PORT}/t/{TUNNEL}/mcp", "tunnel", {"Authorization": f"Bearer {lab.key}"}, lab.ca
        )
        try:
            steps, cuts = 300, 0
            gate = lab.dir / f"gate-{client}-{server}"
            job = asyncio.create_task(
                lab.aside(lambda: driver.run(endpoint, "progress", 90, gate=str(gate), steps=steps, era=era))
            )
            await until(lambda: (gate / "1").exists() or job.done(), 30, "the first step")
            while not job.done():
                cuts += await cut(lab)
                await asyncio.sleep(0.3)
            record = await job
            numbers = [s["progress"] if isinstance(s, dict) else s[0] for s in record["seen"]]
            assert numbers == list(range(1, steps + 1)), numbers
            assert record["result"]["content"][0]["text"] == "all steps done"
            assert cuts >= 3
            job = asyncio.create_task(
                lab.aside(lambda: driver.run(endpoint, "parallel", 90, count=64, tool="echo_after", era=era))
            )
            while not job.done():
                await cut(lab)
            assert all(call["asked"] == call["got"] for call in await job)
        finally:
            await lab.aside(driver.stop)

    sdk_scenario.before = lambda lab: start_sdk_server(lab, pathlib.Path(os.environ["E2E_CACHE"]), server)


sdk("ts2", "stateless", "modern")
sdk("py2", "stock", "legacy")
